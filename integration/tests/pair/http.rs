//! HTTP through the virtual IPs of a pair: what is moved and changed on purpose costs no client a request, nor does a target that dies.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::Ordering;

use crate::pair_support::{LIMIT, agreed, caught_up, every, owned_by, start_all, vips, vrrpd};
use integration::lab::clock::wait_until;
use integration::lab::config::{Instance, PairConfig};
use integration::lab::netns::Worker;
use integration::lab::{Lab, Node, Result, Target, certificate, load};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Planned moves under load, there and back, and as many reloads.
const MOVES: usize = 20;

/// Stops of `lbd` under load, on either node in turn.
const STOPS: usize = 4;

/// A rule that most requests of the load meet, in one of two configurations that take turns.
const RULE: &str = "[[service.rule]]\nwhen = { path = \"/health\" }\nforward = \"beside\"\nrequest_headers = { set = { X-Beside = \"yes\" } }";

/// A pair that serves HTTP, with TLS and without, with the targets' nginx and further keys of the group: `a` is active, `b` sends on what it does
/// not know, and whoever comes back waits for its turn.
fn serving(label: &str, group: &str) -> Result<Lab> {
    let lab = Lab::builder(label).targets(2).build()?;
    let tls = format!("tls = {{ certificates = [{:?}] }}", certificate::create(lab.dir())?);
    let instance = Instance { preempt: false, ..every("100ms") };
    let config = PairConfig::new(vec![instance])
        .service("web", "http", "@web:443", "web", &tls)
        .service("clear", "http", "@web:80", "web", "");
    begin(&lab, config, group)?;
    Ok(lab)
}

/// Starts a pair with the targets' nginx as the group `web`: `a` is active, and `b` sends on what it does not know.
pub(crate) fn begin(lab: &Lab, config: PairConfig, group: &str) -> Result<()> {
    let targets: Vec<SocketAddr> = lab.targets().iter().map(Target::http_address).collect();
    begin_with(lab, &config.target_group("web", &targets, group))
}

/// The same with groups of the configuration's own.
fn begin_with(lab: &Lab, config: &PairConfig) -> Result<()> {
    lab.write_config(config)?;
    start_all(lab)?;
    sends(lab, lab.b())
}

/// Two configurations, for HTTP with TLS and without, between which everything changes that belongs to requests: the targets of a group, a
/// group and the rule that leads to it, fields, and the certificate.
fn turns(lab: &Lab) -> Result<[PairConfig; 2]> {
    let group = |name: &str, members: [usize; 2]| {
        let member = |member: usize| {
            let target = &lab.targets()[member];
            format!("{{ id = \"{}\", address = \"{}\" }}", target.name(), target.http_address())
        };
        let list = members.map(member).join(", ");
        format!("\n[[target_group]]\nname = {name:?}\ntargets = [{list}]\n")
    };
    let turn = |number: usize, rule: &str, groups: &str| -> Result<PairConfig> {
        let folder = lab.dir().join(format!("turn{number}"));
        std::fs::create_dir_all(&folder).expect("the lab's directory can be written to");
        let tls = format!("tls = {{ certificates = [{:?}] }}", certificate::create(&folder)?);
        let rest = format!("response_headers = {{ set = {{ X-Turn = \"{number}\" }} }}\n{rule}");
        Ok(PairConfig::new(vec![every("100ms")])
            .service("web", "http", "@web:443", "web", &format!("{tls}\n{rest}"))
            .service("clear", "http", "@web:80", "web", &rest)
            .raw(groups))
    };
    let first = turn(0, "", &group("web", [0, 1]))?;
    let second = turn(1, RULE, &[group("web", [1, 2]), group("beside", [0, 2])].concat())?;
    Ok([first, second])
}

/// A pair that serves the first of two configurations, which are to take turns.
fn taking_turns(label: &str) -> Result<(Lab, [PairConfig; 2])> {
    let lab = Lab::builder(label).targets(3).build()?;
    let turns = turns(&lab)?;
    begin_with(&lab, &turns[0])?;
    Ok((lab, turns))
}

/// Waits until a node would send on to the other one what it does not know.
fn sends(lab: &Lab, node: &Node) -> Result<()> {
    let chance = || -> Value {
        node.get("lbd", "/v1/second-chance").ok().and_then(|answer| answer.json().ok()).unwrap_or_default()
    };
    wait_until(&format!("{} to send on what is {}'s", node.name(), lab.peer_of(node).name()), LIMIT, || {
        chance()["instances"]["web"]["sends"] == true
    })
}

/// Moves the virtual IPs by a command.
pub(crate) fn switch(lab: &Lab, from: &Node) -> Result<()> {
    let (good, _, complaint) = vrrpd(from, &["switchover", "web"]);
    assert!(good, "{complaint}");
    let to = lab.peer_of(from);
    agreed(lab, to)?;
    owned_by(lab, to)
}

/// Kept connections to a virtual IP, each with request after request, until it is stopped.
struct Load(Child);

impl Load {
    fn start(lab: &Lab, vip: IpAddr) -> Self {
        Self::of(lab, &format!("http://{}/health", SocketAddr::new(vip, 80)))
    }

    /// The same with TLS. When it is told to make another connection, it goes on with its session.
    fn start_tls(lab: &Lab, vip: IpAddr) -> Self {
        Self::of(lab, &format!("https://{}/health", SocketAddr::new(vip, 443)))
    }

    fn of(lab: &Lab, url: &str) -> Self {
        let mut command = lab.client().command("wrk");
        command.args(["-t1", "-c16", "-d300s", "--timeout", "10s", url]).stdout(Stdio::piped());
        Self(command.spawn().expect("wrk can be run"))
    }

    /// Ends it; fails if a request did.
    fn stop(mut self) -> u64 {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).expect("a process's number"));
        // It then says what it has done so far.
        kill(pid, Signal::SIGINT).expect("it is there");
        let text = self.0.stdout.take().map(std::io::read_to_string);
        let text = text.and_then(std::result::Result::ok).expect("it can be read");
        self.0.wait().expect("it ends");
        load::wrk(&text).unwrap_or_else(|| panic!("{text}")).requests
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Both fail after it has ended.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A program on the client that is run again and again, and fails if one of its requests does.
struct Rounds(Worker<u64>);

impl Rounds {
    /// Each round says how many requests it made.
    fn start(lab: &Lab, name: &str, mut round: impl FnMut() -> u64 + Send + 'static) -> Result<Self> {
        let worker = lab.client().namespace().worker(name, move |stop| {
            let mut requests = 0;
            while !stop.load(Ordering::Acquire) {
                requests += round();
            }
            requests
        });
        Ok(Self(worker?))
    }

    /// curl: a connection of HTTP/2 in each round, and many requests on it, one after the other. When a server wants no more on it, it makes
    /// another one. With TLS: with prior knowledge Debian 12's curl gives up on the second request of a connection, at any server.
    fn curl(lab: &Lab, vip: IpAddr) -> Result<Self> {
        // Brackets in addresses are no ranges: those have a `-` in them.
        let url = format!("https://{}/health?[1-300]", SocketAddr::new(vip, 443));
        Self::start(lab, "curl", move || {
            let words = ["-sS", "--fail", "-k", "-m", "60", "--http2", "-o", "/dev/null", &url];
            let output = output(Command::new("curl").args(words));
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            300
        })
    }

    /// h2load: a connection of HTTP/2 in each round, and twenty requests at a time. When a server wants no more on it, the round ends early.
    fn h2load(lab: &Lab, vip: IpAddr) -> Result<Self> {
        let url = format!("https://{}/health", SocketAddr::new(vip, 443));
        let file = if vip.is_ipv4() { "h2load4.log" } else { "h2load6.log" };
        let log: PathBuf = lab.dir().join(file);
        Self::start(lab, "h2load", move || {
            let mut command = Command::new("h2load");
            command.args(["-n", "3000", "-c", "1", "-m", "20"]).arg("--log-file").arg(&log);
            command.arg("-H").arg(format!(":authority: {}", certificate::NAME)).arg(&url);
            let output = output(&mut command);
            let said = String::from_utf8_lossy(&output.stdout);
            load::h2load_sent(&said, &taken(&log)).unwrap_or_else(|lost| panic!("{lost}"))
        })
    }

    /// Ends it; fails if a request did.
    fn stop(self) -> Result<u64> {
        self.0.stop()
    }
}

fn output(command: &mut Command) -> Output {
    command.output().expect("scripts/setup has installed it")
}

/// What is in a file, which is removed: h2load appends to what is there.
fn taken(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    // There is none if nothing was asked.
    std::fs::remove_file(file).ok();
    text
}

/// A node's services.
fn services(node: &Node) -> Vec<Value> {
    let services: Value =
        node.get("lbd", "/v1/services").ok().and_then(|it| it.json().ok()).unwrap_or_default();
    services.as_array().cloned().unwrap_or_default()
}

/// Requests that a node's `lbd` has answered.
fn answered(node: &Node) -> u64 {
    services(node).iter().filter_map(|service| service["requests"]["answered"]["2xx"].as_u64()).sum()
}

/// Waits until a node has answered some more.
fn busy(node: &Node) -> Result<()> {
    let before = answered(node);
    wait_until(&format!("{} to answer requests", node.name()), LIMIT, || answered(node) > before + 50)
}

/// Has both nodes read the configuration whose turn it is, the active one first, and looks whether it is in force.
fn reload(lab: &Lab, active: &Node, turns: &[PairConfig; 2], turn: usize) -> Result<()> {
    lab.write_config(&turns[turn])?;
    for node in [active, lab.peer_of(active)] {
        let answer = node.send("lbd", "POST", "/v1/reload", "")?;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let shown =
            services(node)[0]["tls"]["certificates"][0]["file"].as_str().unwrap_or_default().to_owned();
        assert!(shown.contains(&format!("/turn{turn}/")), "{} shows {shown}", node.name());
    }
    let field = format!("x-turn: {turn}\r\n");
    for vip in vips() {
        let url = format!("https://{}/health", SocketAddr::new(vip, 443));
        wait_until(&format!("clients to be answered as in turn {turn}"), LIMIT, || {
            let words = ["-sS", "--fail", "-k", "-m", "10", "-o", "/dev/null", "-D", "-", &url];
            let head = lab.client().run("curl", &words).expect("it is answered");
            head.to_ascii_lowercase().contains(&field)
        })?;
    }
    Ok(())
}

/// Moves the virtual IPs there and back under load, and has the nodes read another configuration each time.
fn move_and_reload(lab: &Lab, turns: &[PairConfig; 2]) -> Result<()> {
    let mut active = lab.a();
    busy(active)?;
    for number in 1..=MOVES {
        caught_up(lab)?;
        switch(lab, active)?;
        active = lab.peer_of(active);
        busy(active)?;
        let turn = number % 2;
        reload(lab, active, turns, turn)?;
        busy(active)?;
        let by_rule = active.counted("tandem_lbd_target_http_answers_total", "group=\"beside\"")?;
        assert!(turn == 0 || by_rule > 0, "no request went by the rule");
    }
    Ok(())
}

#[test]
fn planned_moves_and_reloads_lose_no_request() -> Result<()> {
    let (lab, turns) = taking_turns("http moves")?;
    let loads: Vec<Load> = vips().into_iter().map(|vip| Load::start(&lab, vip)).collect();
    move_and_reload(&lab, &turns)?;
    for load in loads {
        assert!(load.stop() > 500);
    }
    lab.finish()
}

#[test]
fn planned_moves_and_reloads_lose_no_request_over_tls() -> Result<()> {
    let (lab, turns) = taking_turns("https moves")?;
    let loads: Vec<Load> = vips().into_iter().map(|vip| Load::start_tls(&lab, vip)).collect();
    move_and_reload(&lab, &turns)?;
    for load in loads {
        assert!(load.stop() > 500);
    }
    lab.finish()
}

#[test]
fn planned_moves_and_reloads_lose_no_request_of_http2() -> Result<()> {
    let (lab, turns) = taking_turns("http2 moves")?;
    let mut loads = Vec::new();
    for vip in vips() {
        loads.extend([Rounds::curl(&lab, vip)?, Rounds::h2load(&lab, vip)?]);
    }
    move_and_reload(&lab, &turns)?;
    for load in loads {
        assert!(load.stop()? > 500);
    }
    lab.finish()
}

/// Requests of each kind to each virtual IP: in clear text, with TLS, and of HTTP/2.
struct Loads(Vec<Load>, Vec<Rounds>);

impl Loads {
    fn start(lab: &Lab) -> Result<Self> {
        let (mut kept, mut rounds) = (Vec::new(), Vec::new());
        for vip in vips() {
            kept.extend([Load::start(lab, vip), Load::start_tls(lab, vip)]);
            rounds.push(Rounds::h2load(lab, vip)?);
        }
        Ok(Self(kept, rounds))
    }

    /// Ends them; fails if a request did, or some have asked for little.
    fn stop(self) -> Result<()> {
        let Self(kept, rounds) = self;
        let kept: Vec<u64> = kept.into_iter().map(Load::stop).collect();
        let rounds: Vec<u64> = rounds.into_iter().map(Rounds::stop).collect::<Result<_>>()?;
        assert!(kept.iter().chain(&rounds).all(|requests| *requests > 500), "{kept:?} {rounds:?}");
        Ok(())
    }
}

/// As for another release: `lbd` is stopped where the clients are, who go to the other node, ends once they have gone, and is started again.
#[test]
fn stops_of_lbd_lose_no_request() -> Result<()> {
    let lab = serving("http stops", "")?;
    let loads = Loads::start(&lab)?;
    let mut active = lab.a();
    busy(active)?;
    for _ in 0..STOPS {
        let next = lab.peer_of(active);
        active.signal("lbd", Signal::SIGTERM)?;
        agreed(&lab, next)?;
        owned_by(&lab, next)?;
        busy(next)?;
        let ended = active.wait_end("lbd", LIMIT)?;
        assert!(ended.success(), "{ended}");
        active.start_lbd()?;
        caught_up(&lab)?;
        sends(&lab, active)?;
        sends(&lab, next)?;
        active = next;
    }
    loads.stop()?;
    lab.finish()
}

/// Requests that a target has answered.
fn answered_by(node: &Node, target: &str) -> u64 {
    node.counted("tandem_lbd_target_http_answers_total", &format!("target=\"{target}\"")).unwrap_or(0)
}

#[test]
fn a_killed_target_loses_no_request_that_may_be_asked_again() -> Result<()> {
    // Nothing but the requests themselves finds out about it.
    let retry = "retry = { on = [\"connect\", \"stale_connection\", \"no_answer\"], attempts = 3 }";
    let lab = serving("http kill", retry)?;
    let node = lab.a();
    let serves = |target: &Target| {
        let before = answered_by(node, target.name());
        wait_until(&format!("{} to answer requests", target.name()), LIMIT, || {
            answered_by(node, target.name()) > before + 500
        })
    };
    let loads = Loads::start(&lab)?;
    for target in lab.targets() {
        lab.targets().iter().try_for_each(serves)?;
        // The master first, which would have another worker take the place of one that died.
        for pid in target.namespace().pids()? {
            // The worker may follow its master by itself.
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
        wait_until("nginx to be gone", LIMIT, || {
            target.namespace().pids().is_ok_and(|left| left.is_empty())
        })?;
        let other = lab.targets().iter().find(|other| other.name() != target.name()).expect("there are two");
        serves(other)?;
        target.start_http()?;
    }
    lab.targets().iter().try_for_each(serves)?;
    loads.stop()?;
    assert!(
        node.counted("tandem_lbd_target_connect_retries_total", "")? > 0,
        "it was tried while it was gone"
    );
    lab.finish()
}
