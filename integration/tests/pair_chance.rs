//! The second chance: proxied connections live in a node's sockets, and go on there when their virtual IPs move to the other node.

mod pair_support;

use std::net::SocketAddr;
use std::process::Stdio;

use integration::lab::clock::wait_until;
use integration::lab::config::{Instance, PairConfig};
use integration::lab::probe::{EchoProbe, EchoReport, EchoSettings};
use integration::lab::{Lab, Node, Result, Target};
use pair_support::{LIMIT, agreed, every, owned_by, start_all, status, vips, vrrpd};
use serde_json::Value;

/// The echo server through `tcp`.
const ECHO: u16 = 7;

/// Long-lived connections of each family.
const CONNECTIONS: usize = 250;

/// A download is so often the target's large page, through one connection.
const PAGES: usize = 12;

/// HTTP and the echo server, both proxied.
fn config(lab: &Lab, instance: Instance) -> PairConfig {
    let addresses =
        |address: fn(&Target) -> SocketAddr| lab.targets().iter().map(address).collect::<Vec<_>>();
    PairConfig::new(vec![instance])
        .service("web", "tcp", "@web:80", "web", "")
        .target_group("web", &addresses(Target::http_address), "")
        .service("echo", "tcp", &format!("@web:{ECHO}"), "echo", "")
        .target_group("echo", &addresses(Target::echo_address), "")
}

/// A pair that proxies: `a` is active, and `b` knows what it has.
fn proxying(label: &str, instance: Instance) -> Result<Lab> {
    let lab = Lab::builder(label).targets(2).build()?;
    lab.write_config(&config(&lab, instance))?;
    start_all(&lab)?;
    sends(lab.b())?;
    Ok(lab)
}

/// What a node's `lbd` says of the second chance.
fn chance(node: &Node) -> Value {
    node.get("lbd", "/v1/second-chance").ok().and_then(|answer| answer.json().ok()).unwrap_or_default()
}

/// Waits until a node would send on to the other one what it does not know.
fn sends(node: &Node) -> Result<()> {
    wait_until(&format!("{} to send on what it does not know", node.name()), LIMIT, || {
        let chance = chance(node);
        let none = chance["troubles"].as_array().is_some_and(Vec::is_empty);
        none && chance["instances"]["web"]["sends"] == true
    })
}

fn packets(node: &Node, what: &str) -> u64 {
    chance(node)["packets"][what].as_u64().unwrap_or(0)
}

/// Long-lived connections, and a download of each family.
struct Load {
    echoes: Vec<EchoProbe>,
    downloads: Vec<std::process::Child>,
}

impl Load {
    fn begin(lab: &Lab) -> Result<Self> {
        let echo =
            |vip| EchoProbe::start(lab.client(), EchoSettings::new(SocketAddr::new(vip, ECHO), CONNECTIONS));
        let download = |vip| {
            let url = format!("http://{}/large", SocketAddr::new(vip, 80));
            let mut command = lab.client().command("sh");
            // The number of connections goes to another place than what is summed up.
            let script =
                "curl -sS -m 60 --limit-rate 1500k -w '%{stderr}%{num_connects}\\n' \"$@\" | sha256sum";
            command.args(["-c", script, "download"]).args(std::iter::repeat_n(url, PAGES));
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("sh is there")
        };
        let load = Self {
            echoes: vips().into_iter().map(echo).collect::<Result<_>>()?,
            downloads: vips().into_iter().map(download).collect(),
        };
        load.steady()?;
        Ok(load)
    }

    /// Waits until each connection has been answered some more.
    fn steady(&self) -> Result<()> {
        self.echoes.iter().try_for_each(|probe| probe.wait_exchanges(20, LIMIT))
    }

    /// Ends, and fails if a connection broke or a download is not what it should be. Answers what became of the connections.
    fn end(self, lab: &Lab) -> Result<Vec<EchoReport>> {
        let reports = self.echoes.into_iter().map(EchoProbe::stop).collect::<Result<Vec<_>>>()?;
        for report in &reports {
            println!("{}", report.summary());
            assert_eq!(report.broken(), 0, "{}", report.summary());
        }
        let direct = format!("http://{}/large", lab.targets()[0].http_address());
        let page = format!("for i in $(seq {PAGES}); do curl -sS {direct}; done | sha256sum");
        let expected = lab.client().run("sh", &["-c", &page])?;
        for download in self.downloads {
            let output = download.wait_with_output().expect("it can be waited for");
            let connects = String::from_utf8_lossy(&output.stderr).into_owned();
            let sum = connects.lines().map(|line| line.parse::<usize>().unwrap_or(99)).sum::<usize>();
            assert_eq!(
                (String::from_utf8_lossy(&output.stdout).into_owned(), sum),
                (expected.clone(), 1),
                "{connects}"
            );
        }
        Ok(reports)
    }
}

/// Moves the virtual IPs by a command.
fn switch(lab: &Lab, from: &Node) -> Result<()> {
    let (good, _, complaint) = vrrpd(from, &["switchover", "web"]);
    assert!(good, "{complaint}");
    let to = lab.peer_of(from);
    agreed(lab, to)?;
    owned_by(lab, to)
}

#[test]
fn connections_survive_switchovers_there_and_back() -> Result<()> {
    let lab = proxying("chance switchover", every("100ms"))?;
    let [a, b] = lab.nodes();
    let load = Load::begin(&lab)?;
    switch(&lab, a)?;
    load.steady()?;
    assert!(packets(b, "sent") > 0 && packets(a, "received") > 0, "{} {}", chance(a), chance(b));
    assert_eq!(packets(a, "sent"), 0, "what b sent on goes to a's stack, whatever it is");
    let all = u64::try_from(2 * CONNECTIONS).unwrap_or_default();
    wait_until("both to say how many connections a still serves", LIMIT, || {
        let (a, b) = (chance(a), chance(b));
        let [a, b] = [&a["instances"]["web"]["draining"], &b["instances"]["web"]["draining_by_peer"]];
        a.as_u64() >= Some(all) && a == b
    })?;
    // Back to where they live, and there again.
    switch(&lab, b)?;
    load.steady()?;
    switch(&lab, a)?;
    load.steady()?;
    load.end(&lab)?;
    assert!(status(b).is_some());
    // What has ended is drained by nobody.
    wait_until("a to serve no connection of b's any more", LIMIT, || {
        let (a, b) = (chance(a), chance(b));
        a["instances"]["web"]["draining"] == 0 && b["instances"]["web"]["draining_by_peer"] == 0
    })?;
    wait_until("b to send nothing more to a", LIMIT, || chance(b)["instances"]["web"]["sends"] == false)?;
    lab.finish()
}
