//! A UDP service on the pair's VIPs: clients are answered by whichever node is active.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::pair_support::{LIMIT, config, every, settled, start_all, vips, vrrpd};
use integration::lab::addresses::vip4;
use integration::lab::clock::{now, wait_until};
use integration::lab::netns::Worker;
use integration::lab::probe::talker;
use integration::lab::{Lab, Node, Result, Target};
use nix::sys::signal::Signal;
use serde_json::Value;

/// The port of the service, and of the targets' echo server.
const PORT: u16 = 7;

/// How long a client waits for an answer before it takes the question for lost.
const PATIENCE: Duration = Duration::from_secs(1);

/// A pair that serves a UDP echo beside its usual TCP service.
fn serving(label: &str, instance: &str) -> Result<Lab> {
    let lab = Lab::builder(label).targets(2).build()?;
    let targets: Vec<SocketAddr> = lab.targets().iter().map(Target::echo_address).collect();
    let config = config(&lab, every(instance))
        .service("echo", "udp", "@web:7", "echo", "timeout = { idle = \"5s\" }")
        .target_group("echo", &targets, "");
    lab.write_config(&config)?;
    start_all(&lab)?;
    for vip in vips() {
        wait_until(&format!("an answer from {vip}"), LIMIT, || answered(&lab, vip))?;
    }
    Ok(lab)
}

/// Asks once, from a port of its own.
fn ask(server: SocketAddr, patience: Duration) -> std::io::Result<()> {
    let socket = talker(server, patience)?;
    socket.send(b"hello")?;
    let mut answer = [0; 16];
    let length = socket.recv(&mut answer)?;
    assert_eq!(&answer[..length], b"hello");
    Ok(())
}

fn answered(lab: &Lab, vip: IpAddr) -> bool {
    let asked = lab.client().namespace().inside(|| ask((vip, PORT).into(), Duration::from_millis(200)));
    asked.is_ok_and(|answer| answer.is_ok())
}

/// What a client that asks again and again has seen.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    answered: u32,
    lost: u32,
    /// The longest time from one answer to the next.
    gap: Duration,
}

/// Asks the VIP again and again, each time in a session of its own.
fn keep_asking(lab: &Lab, vip: IpAddr) -> Result<Worker<Asked>> {
    lab.client().namespace().worker("asking", move |stop: &AtomicBool| {
        let mut asked = Asked::default();
        let mut last = now();
        while !stop.load(Ordering::Acquire) {
            // A killed daemon's port is refused, a dead host's question is lost.
            if ask((vip, PORT).into(), PATIENCE).is_ok() {
                asked.answered += 1;
                asked.gap = asked.gap.max(now() - last);
                last = now();
            } else {
                asked.lost += 1;
            }
            std::thread::sleep(Duration::from_millis(3));
        }
        asked
    })
}

/// The sessions that a node's `lbd` has begun.
fn sessions(node: &Node) -> u64 {
    let services: Value =
        node.get("lbd", "/v1/services").ok().and_then(|answer| answer.json().ok()).unwrap_or_default();
    let services =
        services.as_array().cloned().or_else(|| services["services"].as_array().cloned()).unwrap_or_default();
    let echo = services.iter().find(|service| service["name"] == "echo").cloned().unwrap_or_default();
    echo["connections_total"].as_u64().unwrap_or(0)
}

/// Waits until a node has begun this many sessions more.
fn wait_sessions(node: &Node, more: u64) -> Result<()> {
    let before = sessions(node);
    wait_until(&format!("new sessions on {}", node.name()), LIMIT, || sessions(node) >= before + more)
}

#[test]
fn a_planned_switchover_loses_no_question() -> Result<()> {
    let lab = serving("udp-switchover", "100ms")?;
    let clients = vips().map(|vip| keep_asking(&lab, vip));
    let clients = clients.into_iter().collect::<Result<Vec<_>>>()?;
    for (from, to) in [(lab.a(), lab.b()), (lab.b(), lab.a())] {
        wait_sessions(from, 50)?;
        let (good, _, complaint) = vrrpd(from, &["switchover", "web"]);
        assert!(good, "{complaint}");
        settled(&lab, to)?;
        wait_sessions(to, 50)?;
    }
    for client in clients {
        let asked = client.stop()?;
        assert!(asked.lost == 0 && asked.answered > 50, "{asked:?}");
    }
    lab.finish()
}

#[test]
fn a_dead_node_is_replaced() -> Result<()> {
    let lab = serving("udp-failover", "100ms")?;
    let client = keep_asking(&lab, vip4(0).into())?;
    wait_sessions(lab.a(), 50)?;
    for daemon in ["lbd", "vrrpd"] {
        lab.a().signal(daemon, Signal::SIGKILL)?;
    }
    settled_on_b(&lab)?;
    wait_sessions(lab.b(), 50)?;
    let asked = client.stop()?;
    assert!(asked.gap < Duration::from_secs(5), "{asked:?}");
    assert!(asked.answered > 50, "{asked:?}");
    lab.finish()
}

#[test]
fn a_stopped_daemon_hands_over_first() -> Result<()> {
    let lab = serving("udp-stop", "100ms")?;
    let client = keep_asking(&lab, vip4(0).into())?;
    wait_sessions(lab.a(), 50)?;
    lab.a().stop("lbd")?;
    settled_on_b(&lab)?;
    wait_sessions(lab.b(), 50)?;
    let asked = client.stop()?;
    assert!(asked.lost == 0 && asked.answered > 50, "{asked:?}");
    lab.finish()
}

/// Waits until `b` serves, whatever `a` says.
fn settled_on_b(lab: &Lab) -> Result<()> {
    lab.b().wait_role("web", "active", LIMIT)?;
    wait_until("an answer by b", LIMIT, || answered(lab, vip4(0).into()))
}

#[test]
fn sessions_leave_a_target_whose_host_is_gone() -> Result<()> {
    let lab = serving("udp-host", "100ms")?;
    let server = SocketAddr::new(vip4(0).into(), PORT);
    let socket = || talker(server, Duration::from_millis(100));
    let clients =
        lab.client().namespace().inside(|| (0..8).map(|_| socket()).collect::<std::io::Result<Vec<_>>>())?;
    let clients = clients.expect("the client opens sockets");
    let asks = |client: &UdpSocket| {
        let mut answer = [0; 16];
        client.send(b"hello").is_ok() && client.recv(&mut answer).is_ok()
    };
    for client in &clients {
        wait_until("an answer", LIMIT, || asks(client))?;
    }
    // No checks and nobody there to send an ICMP message: the kernel finds out, once it asks who has the address.
    lab.targets()[0].ip("link set eth0 down")?;
    lab.a().ip("neigh flush dev eth0")?;
    for client in &clients {
        wait_until("an answer of the other target", LIMIT, || asks(client))?;
    }
    let services: Value = lab.a().get("lbd", "/v1/services")?.json()?;
    let echo = services.as_array().into_iter().flatten().find(|service| service["name"] == "echo");
    let moved = echo.and_then(|service| service["datagrams"]["sessions_moved"].as_u64());
    assert!(moved.is_some_and(|moved| moved >= 1), "{services}");
    lab.finish()
}
