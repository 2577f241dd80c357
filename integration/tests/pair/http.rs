//! HTTP through the virtual IPs of a pair: what is moved and changed on purpose costs no client a request.

use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::pair_support::{LIMIT, agreed, every, owned_by, start_all, vips, vrrpd};
use integration::lab::clock::wait_until;
use integration::lab::config::PairConfig;
use integration::lab::{Lab, Node, Result, Target};
use serde_json::Value;

/// Planned moves under load, there and back.
const MOVES: usize = 4;

/// A pair that serves HTTP: `a` is active, and `b` sends on what it does not know.
fn serving(label: &str, keys: impl FnOnce(&Lab) -> String) -> Result<Lab> {
    let lab = Lab::builder(label).targets(2).build()?;
    let keys = keys(&lab);
    let targets: Vec<SocketAddr> = lab.targets().iter().map(Target::http_address).collect();
    let config = PairConfig::new(vec![every("100ms")]);
    let config = if keys.is_empty() {
        config.service("web", "http", "@web:80", "web", "")
    } else {
        // By the other one it is seen that clients are served at all.
        let config = config.service("web", "http", "@web:443", "web", &keys);
        config.service("clear", "http", "@web:80", "web", "")
    };
    let config = config.target_group("web", &targets, "");
    lab.write_config(&config)?;
    start_all(&lab)?;
    sends(&lab, lab.b())?;
    Ok(lab)
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
fn switch(lab: &Lab, from: &Node) -> Result<()> {
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
        let url = format!("http://{}/health", SocketAddr::new(vip, 80));
        let mut command = lab.client().command("wrk");
        command.args(["-t1", "-c16", "-d300s", "--timeout", "10s", &url]).stdout(Stdio::piped());
        Self(command.spawn().expect("wrk can be run"))
    }

    /// Ends it; fails if a request did.
    fn stop(mut self) -> u64 {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).expect("a process's number"));
        // It then says what it has done so far.
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it is there");
        let text = self.0.stdout.take().map(std::io::read_to_string);
        let text = text.and_then(std::result::Result::ok).expect("it can be read");
        self.0.wait().expect("it ends");
        assert!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "{text}");
        let requests = text.lines().find_map(|line| line.trim().split_once(" requests in "));
        requests.and_then(|(count, _)| count.parse().ok()).expect("wrk counts requests")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Both fail after it has ended.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Connections of HTTP/2, one after the other, each with many requests, until they are stopped. With TLS: with prior knowledge Debian 12's curl
/// gives up on the second request of a connection, at any server.
struct Http2Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Http2Load {
    fn start(lab: &Lab, vip: IpAddr) -> Self {
        let url = format!("https://{}/health?[1-300]", SocketAddr::new(vip, 443));
        let commands = std::iter::repeat_with(|| {
            let mut command = lab.client().command("curl");
            // Brackets in addresses are no ranges: those have a `-` in them.
            command.args(["-sS", "--fail", "-k", "-m", "60", "--http2", "-o", "/dev/null", &url]);
            command
        });
        let mut commands: Vec<_> = commands.take(2000).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut rounds = 0;
            while let Some(mut command) = commands.pop().filter(|_| !stopped.load(Ordering::SeqCst)) {
                let output = command.output().expect("curl is there");
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                rounds += 1;
            }
            rounds
        });
        Self { stop, thread }
    }

    /// Ends it; fails if a request did.
    fn stop(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("no request failed")
    }
}

/// Requests that a node's `lbd` has answered.
fn answered(node: &Node) -> u64 {
    let services: Value =
        node.get("lbd", "/v1/services").ok().and_then(|it| it.json().ok()).unwrap_or_default();
    services[0]["requests"]["answered"]["2xx"].as_u64().unwrap_or(0)
}

/// Waits until a node has answered some more.
fn busy(node: &Node) -> Result<()> {
    let before = answered(node);
    wait_until(&format!("{} to answer requests", node.name()), LIMIT, || answered(node) > before + 50)
}

/// Moves the virtual IPs there and back under load, and has each node that gets them read its configuration again.
fn move_and_reload(lab: &Lab) -> Result<()> {
    let mut active = lab.a();
    busy(active)?;
    for _ in 0..MOVES {
        switch(lab, active)?;
        active = lab.peer_of(active);
        busy(active)?;
        let answer = active.send("lbd", "POST", "/v1/reload", "")?;
        assert_eq!(answer.status, 200, "{}", answer.body);
        busy(active)?;
    }
    Ok(())
}

#[test]
fn planned_moves_and_reloads_lose_no_request() -> Result<()> {
    let lab = serving("http moves", |_| String::new())?;
    let loads: Vec<Load> = vips().into_iter().map(|vip| Load::start(&lab, vip)).collect();
    move_and_reload(&lab)?;
    for load in loads {
        assert!(load.stop() > 500);
    }
    lab.finish()
}

#[test]
fn planned_moves_and_reloads_lose_no_request_of_http2() -> Result<()> {
    let lab = serving("http2 moves", |lab| {
        format!("tls = {{ certificates = [{:?}] }}", crate::tls::certificate(lab.dir()))
    })?;
    let loads: Vec<Http2Load> = vips().into_iter().map(|vip| Http2Load::start(&lab, vip)).collect();
    move_and_reload(&lab)?;
    for load in loads {
        assert!(load.stop() > 1);
    }
    lab.finish()
}

#[test]
fn a_download_goes_on_where_it_began() -> Result<()> {
    let lab = serving("http download", |_| String::new())?;
    let [a, b] = lab.nodes();
    let download = |vip| {
        let url = format!("http://{}/large", SocketAddr::new(vip, 80));
        let mut command = lab.client().command("curl");
        command.args([
            "-sS",
            "-m",
            "60",
            "--limit-rate",
            "150k",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{size_download}",
            &url,
        ]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("curl is there")
    };
    let downloads: Vec<Child> = vips().into_iter().map(download).collect();
    let open = |node: &Node| {
        let status: Option<Value> = node.get("lbd", "/v1/status").ok().and_then(|answer| answer.json().ok());
        status.and_then(|status| status["connections_open"].as_u64())
    };
    wait_until("both downloads", LIMIT, || open(a) == Some(2))?;
    switch(&lab, a)?;
    assert_eq!(open(a), Some(2), "they are still a's");
    for download in downloads {
        let output = download.wait_with_output().expect("it can be waited for");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(said, format!("200 {}", 1 << 20), "{}", String::from_utf8_lossy(&output.stderr));
    }
    wait_until("a to have none any more", LIMIT, || open(a) == Some(0))?;
    assert_eq!(open(b), Some(0));
    lab.finish()
}
