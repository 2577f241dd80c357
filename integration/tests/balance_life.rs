//! The life of targets under load: what is changed on purpose loses nothing, and what breaks loses no more than it held.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use integration::lab::clock::{now, wait_until};
use integration::lab::config::PairConfig;
use integration::lab::probe::{Attempt, ConnectProbe, ConnectSettings};
use integration::lab::{Lab, Node, Result, Target};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// How long what must happen may take.
const LIMIT: Duration = Duration::from_secs(20);

const PORT: u16 = 8000;

/// The address that node `a`'s `lbd` listens on.
fn service(lab: &Lab) -> SocketAddr {
    SocketAddr::from((lab.a().v4(), PORT))
}

/// `lbd` alone on node `a`, with a group of these targets and further keys of the group.
fn configure(lab: &Lab, targets: &[&Target], group: &str) -> Result<PathBuf> {
    let target = |it: &&Target| format!("{{ id = \"{}\", address = \"{}\" }}", it.name(), it.http_address());
    let targets: Vec<String> = targets.iter().map(target).collect();
    lab.write_config_text(&format!(
        "[[service]]\nname = \"web\"\nmode = \"tcp\"\nlisten = [\"{}\"]\nforward = \"web\"\n\
         [[target_group]]\nname = \"web\"\ntargets = [{}]\n{group}\n",
        service(lab),
        targets.join(", "),
    ))
}

fn lab(label: &str, group: &str) -> Result<Lab> {
    let lab = Lab::builder(label).targets(3).build()?;
    let all: Vec<&Target> = lab.targets().iter().collect();
    configure(&lab, &all[..2], group)?;
    lab.a().start_lbd()?;
    for target in &all[..2] {
        wait_until("the first checks", LIMIT, || field(lab.a(), target.name(), "share") == 256)?;
    }
    Ok(lab)
}

/// A target of the status.
fn target(node: &Node, id: &str) -> Value {
    let groups = node.get("lbd", "/v1/target-groups").ok().and_then(|answer| answer.json().ok());
    let groups = groups.unwrap_or_default();
    let targets = groups[0]["targets"].as_array().cloned().unwrap_or_default();
    targets.into_iter().find(|target| target["id"] == id).unwrap_or_default()
}

fn field(node: &Node, id: &str, key: &str) -> Value {
    target(node, id)[key].clone()
}

/// Makes a change, which must be accepted.
fn change(node: &Node, method: &str, path: &str, body: &Value) -> Result<()> {
    let answer = node.send("lbd", method, &format!("/v1/target-groups/web/{path}"), &body.to_string())?;
    assert!(answer.status < 300, "{method} {path} {body}: {} {}", answer.status, answer.body);
    Ok(())
}

/// `wrk` on the client; killed when dropped.
struct Wrk(Child);

impl Wrk {
    /// For so many seconds, with a connection for each request or with kept ones.
    fn start(lab: &Lab, seconds: u32, keep: bool) -> Self {
        let mut command = lab.client().command("wrk");
        command.args(["-t1", "-c20", &format!("-d{seconds}s"), "--timeout", "10s"]);
        if !keep {
            command.args(["-H", "Connection: close"]);
        }
        command.arg(format!("http://{}/", service(lab)));
        Self(command.stdout(Stdio::piped()).spawn().expect("wrk can be run"))
    }

    /// Waits for its end, and fails if it lost anything.
    fn finish(self) -> u64 {
        let (requests, text) = self.finish_with_losses();
        assert!(!text.contains("Socket errors"), "{text}");
        requests
    }

    /// Waits for its end; answers how many requests were answered, and what it says.
    fn finish_with_losses(mut self) -> (u64, String) {
        let output = self.0.stdout.take().map(std::io::read_to_string);
        let text = output.and_then(std::result::Result::ok).expect("it can be read");
        self.0.wait().expect("it ends");
        assert!(!text.contains("Non-2xx"), "{text}");
        let requests = text.lines().find_map(|line| line.trim().split_once(" requests in "));
        (requests.and_then(|(count, _)| count.parse().ok()).expect("wrk counts requests"), text)
    }
}

/// What wrk says of connections that failed: those that could not be made, those that broke, and those that were not answered.
fn socket_errors(text: &str) -> [u64; 3] {
    let Some((_, errors)) = text.split_once("Socket errors: ") else { return [0; 3] };
    let line = errors.lines().next().unwrap_or_default();
    let count = |name: &str| -> u64 {
        let found = line.split(", ").find_map(|part| part.strip_prefix(name)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("wrk says {line:?}"))
    };
    [count("connect"), count("read") + count("write"), count("timeout")]
}

impl Drop for Wrk {
    fn drop(&mut self) {
        // Both fail after it has ended.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// nginx's processes on a target.
fn nginx(target: &Target) -> Result<Vec<Pid>> {
    let is_nginx = |pid: &i32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "nginx")
    };
    Ok(target.namespace().pids()?.into_iter().filter(is_nginx).map(Pid::from_raw).collect())
}

fn signal_nginx(target: &Target, signal: Signal) -> Result<()> {
    for pid in nginx(target)? {
        // The workers may follow their master by themselves.
        kill(pid, signal).ok();
    }
    Ok(())
}

#[test]
fn changes_on_purpose_lose_nothing() -> Result<()> {
    let group = "health = { http = \"/health\", interval = \"200ms\", timeout = \"150ms\" }\n\
                 drain_timeout = \"120s\"\nslow_start = \"500ms\"";
    let lab = lab("life-changes", group)?;
    let (node, [t1, t2, t3]) = (lab.a(), [0, 1, 2].map(|index| &lab.targets()[index]));
    let loads = [Wrk::start(&lab, 8, true), Wrk::start(&lab, 8, false)];
    let connections = |id: &str| field(node, id, "connections_total").as_u64().unwrap_or(0);
    let gets_more = |id: &str| {
        let before = connections(id);
        wait_until(&format!("{id} to get connections"), LIMIT, || connections(id) > before + 20)
    };
    for weight in 1..4 {
        change(node, "PATCH", "targets/t1", &json!({ "state": "drain" }))?;
        gets_more("t2")?;
        change(node, "PATCH", "targets/t2", &json!({ "weight": weight }))?;
        change(node, "POST", "targets", &json!({ "id": "t3", "address": t3.http_address().to_string() }))?;
        gets_more("t3")?;
        change(node, "PATCH", "targets/t1", &json!({ "state": "ready" }))?;
        gets_more("t1")?;
        configure(&lab, &[t2, t1], &format!("{group}\nalgorithm = \"random\""))?;
        assert_eq!(node.send("lbd", "POST", "/v1/reload", "")?.status, 200);
        gets_more("t3")?;
        change(node, "DELETE", "targets/t3", &json!({}))?;
        gets_more("t1")?;
        configure(&lab, &[t1, t2], group)?;
        assert_eq!(node.send("lbd", "POST", "/v1/reload", "")?.status, 200);
    }
    for load in loads {
        assert!(load.finish() > 100);
    }
    lab.finish()
}

#[test]
fn a_killed_target_loses_only_what_it_held() -> Result<()> {
    let group = "health = { http = \"/health\", interval = \"200ms\", timeout = \"150ms\" }\n\
                 eject = { consecutive_failures = 3, base = \"1s\" }\nretry = { attempts = 2 }";
    let lab = lab("life-kill", group)?;
    let (node, t1) = (lab.a(), &lab.targets()[0]);
    let mut settings = ConnectSettings::http(service(&lab));
    settings.interval = Duration::from_millis(2);
    settings.deadline = Duration::from_millis(950);
    let probe = ConnectProbe::start(lab.client(), settings)?;
    probe.wait_steady(100, LIMIT)?;
    // Two that keep 20 connections busy all the time.
    let loads = [Wrk::start(&lab, 4, true), Wrk::start(&lab, 4, false)];
    let held = || field(node, "t1", "connections_open").as_u64().unwrap_or(0);
    wait_until("both to be under way", LIMIT, || held() >= 10)?;
    let before = now();
    signal_nginx(t1, Signal::SIGKILL)?;
    wait_until("nginx to be gone", LIMIT, || nginx(t1).is_ok_and(|left| left.is_empty()))?;
    let gone = now();
    wait_until("t1 to be out", LIMIT, || field(node, "t1", "share") == 0)?;
    probe.wait_steady(200, LIMIT)?;
    let report = probe.stop()?;
    let lost = |from, to| {
        let within = |start| from <= start && start < to;
        report.attempts.iter().filter(|it| it.failure.is_some() && within(it.start)).count()
    };
    assert_eq!(lost(gone, now()), 0, "no new connection fails: {}", report.summary());
    let began = |attempt: &&Attempt| attempt.end < before;
    assert!(report.attempts.iter().filter(began).all(|it| it.failure.is_none()), "{}", report.summary());
    assert!(report.succeeded() > 200, "{}", report.summary());
    for load in loads {
        let (requests, text) = load.finish_with_losses();
        let [connect, broken, timeout] = socket_errors(&text);
        assert!(requests > 100 && connect == 0 && timeout == 0, "{text}");
        // No more than it had at once, were they all at the one that was killed.
        assert!(broken <= 20, "{text}");
    }
    // It is back as soon as it serves again.
    t1.start_http()?;
    wait_until("t1 to be back", LIMIT, || field(node, "t1", "share") == 256)?;
    lab.finish()
}

#[test]
fn a_stalled_target_is_out_within_its_thresholds() -> Result<()> {
    let group =
        "health = { http = \"/health\", interval = \"200ms\", timeout = \"150ms\", unhealthy_threshold = 2 }";
    let lab = lab("life-stall", group)?;
    let (node, t1) = (lab.a(), &lab.targets()[0]);
    let mut settings = ConnectSettings::http(service(&lab));
    settings.interval = Duration::from_millis(5);
    settings.deadline = Duration::from_millis(950);
    let probe = ConnectProbe::start(lab.client(), settings)?;
    probe.wait_steady(100, LIMIT)?;
    let loads = [Wrk::start(&lab, 6, true), Wrk::start(&lab, 6, false)];
    let held = || field(node, "t1", "connections_open").as_u64().unwrap_or(0);
    wait_until("both to be under way", LIMIT, || held() >= 10)?;
    let stopped = now();
    signal_nginx(t1, Signal::SIGSTOP)?;
    wait_until("t1 to be out", LIMIT, || field(node, "t1", "reason") == "unhealthy")?;
    let out = now();
    probe.wait_steady(100, LIMIT)?;
    signal_nginx(t1, Signal::SIGCONT)?;
    wait_until("t1 to be back", LIMIT, || field(node, "t1", "share") == 256)?;
    probe.wait_steady(100, LIMIT)?;
    let report = probe.stop()?;
    // Two checks with their time-outs, begun up to an interval and its jitter after the stop.
    let limit =
        Duration::from_millis(220 + 150 + 220 + 150) + report.longest_pause() + Duration::from_millis(250);
    assert!(out - stopped < limit, "it was out after {:?}, not within {limit:?}", out - stopped);
    let failed = report.attempts.iter().filter(|it| it.failure.is_some());
    let (during, after): (Vec<&Attempt>, Vec<&Attempt>) = failed.partition(|it| it.start <= out);
    assert!(after.is_empty(), "a target that is out takes nothing: {}", report.summary());
    assert!(during.iter().all(|it| it.end >= stopped), "{}", report.summary());
    // Who was there already has waited, and lost nothing.
    for load in loads {
        assert!(load.finish() > 100);
    }
    lab.finish()
}

#[test]
fn vrrpd_is_told_of_another_configuration_and_never_without_lbd() -> Result<()> {
    let lab = Lab::builder("life-link").targets(1).build()?;
    let (node, addresses) = (lab.a(), [lab.targets()[0].http_address()]);
    let config = |extra: &str| {
        PairConfig::default()
            .service("web", "tcp", "@web:80", "web", "")
            .target_group("web", &addresses, extra)
    };
    lab.write_config(&config(""))?;
    node.start_vrrpd()?;
    node.start_lbd()?;
    node.wait_role("web", "active", LIMIT)?;
    let hash = || -> Option<String> {
        let status = node.get("lbd", "/v1/status").ok()?.json().ok()?;
        Some(status["config_hash"].as_str()?.to_owned())
    };
    let told = |hash: &str| node.log("vrrpd").contains(&format!("it runs configuration {hash}"));
    for slow_start in 1..4 {
        lab.write_config(&config(&format!("slow_start = \"{slow_start}s\"")))?;
        let before = hash();
        assert_eq!(node.send("lbd", "POST", "/v1/reload", "")?.status, 200);
        assert_ne!(hash(), before);
        wait_until("vrrpd to know", LIMIT, || hash().is_some_and(|hash| told(&hash)))?;
    }
    assert!(!node.log("vrrpd").contains("lbd is gone"), "{}", node.log("vrrpd"));
    assert_eq!(node.role("web").as_deref(), Some("active"));
    lab.finish()
}
