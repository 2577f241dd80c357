//! Sessions of datagrams: what a target sees of a client is one address and port, wherever the virtual IP is.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use integration::lab::clock::wait_until;
use integration::lab::config::{KEY, PairConfig};
use integration::lab::fault::Fault;
use integration::lab::{Lab, Node, Result};
use nix::sys::signal::Signal;

use super::talk::{Clients, PORT, Targets};
use super::{chance, drains, is_linked, packets, segments, switch};
use crate::kernel_pair_support::synced;
use crate::pair_support::{LIMIT, every, owned_by, start_all, vips};

/// Clients of each family.
const CLIENTS: u32 = 30;

/// The time between two datagrams of each.
const INTERVAL: Duration = Duration::from_millis(50);

/// A pair that proxies datagrams: `a` is active, and `b` knows what it has.
fn proxying(label: &str, service: &str, group: &str) -> Result<(Lab, Targets)> {
    let lab = Lab::builder(label).targets(2).build()?;
    let targets = lab.targets().iter().map(|target| SocketAddr::from((target.v4(), PORT)));
    let targets: Vec<SocketAddr> = targets.collect();
    let config = PairConfig::new(vec![every("100ms")])
        .service("talk", "udp", &format!("@web:{PORT}"), "talk", service)
        .target_group("talk", &targets, &format!("algorithm = \"random\"\n{group}"))
        // For what the lab asks for.
        .service("web", "tcp", "@web:80", "web", "")
        .target_group("web", &lab.targets().iter().map(|it| it.http_address()).collect::<Vec<_>>(), "");
    lab.write_config(&config)?;
    start_all(&lab)?;
    sends(lab.b(), true)?;
    let servers = Targets::start(&lab)?;
    Ok((lab, servers))
}

/// Waits until a node would send on datagrams of the other one's sessions, or would not.
fn sends(node: &Node, whether: bool) -> Result<()> {
    wait_until(&format!("{} to send on datagrams: {whether}", node.name()), LIMIT, || {
        chance(node)["instances"]["web"]["sends_datagrams"] == whether
    })
}

/// Waits until a node knows of so many sessions, whosever they are.
fn knows(node: &Node, count: u32) -> Result<()> {
    wait_until(&format!("{} to know {count} sessions", node.name()), LIMIT, || {
        let view = node.get("lbd", "/v1/replication").ok().and_then(|answer| answer.json().ok());
        view.is_some_and(|view| view["state"]["entries"]["udp_sessions"] == count)
    })
}

/// Clients of which each has a session, known to both nodes.
fn clients(lab: &Lab, first: u32, interval: Duration) -> Result<Clients> {
    let clients = Clients::start(lab, first, CLIENTS, interval, 0)?;
    clients.steady()?;
    lab.nodes().into_iter().try_for_each(|node| knows(node, first + 2 * CLIENTS))?;
    Ok(clients)
}

/// Has a node's `lbd` end the link in order, by a reload with another key, and begin it again with another one while these talk on.
fn reload_without_link(lab: &Lab, node: &Node, talking: &Clients) -> Result<()> {
    let whole = std::fs::read_to_string(lab.dir().join("pair.toml")).expect("the configuration");
    let other = lab.dir().join("other.key");
    std::fs::write(&other, KEY.replace("74", "75")).expect("the folder takes files");
    std::fs::set_permissions(&other, Permissions::from_mode(0o600)).expect("it is ours");
    for (text, linked) in [(whole.replace("\"pair.key\"", "\"other.key\""), false), (whole, true)] {
        lab.write_config_text(&text)?;
        let answer = node.send("lbd", "POST", "/v1/reload", "")?;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let what = format!("the link to be there: {linked}");
        wait_until(&what, LIMIT, || lab.nodes().iter().all(|node| is_linked(node) == linked))?;
        talking.steady()?;
    }
    let closed = lab.peer_of(node).counted("tandem_lbd_peer_sessions_ended_total", "end=\"closed\"")?;
    assert_eq!(closed, 1, "{}", lab.peer_of(node).get("lbd", "/v1/replication")?.body);
    lab.nodes().into_iter().try_for_each(synced)
}

/// Has a router tell each virtual IP that datagrams were too large: one of a session of the node that has the virtual IPs, and one of a session of
/// the other one, which alone is told on.
fn tell_of_large_ones(lab: &Lab, node: &Node, own: &Clients, others: &Clients) -> Result<()> {
    let before = packets(node, "sent_error");
    let clients = own.one_of_each().into_iter().zip(others.one_of_each());
    for (vip, (own, other)) in vips().into_iter().zip(clients) {
        let told =
            |client: SocketAddr| segments::too_big_datagram(client.ip(), client, SocketAddr::new(vip, PORT));
        let all = [told(own), told(other)];
        lab.client().namespace().inside(move || segments::send(vip, &all))?.expect("they are sent");
    }
    let both = before + vips().len() as u64;
    let what = format!("{} to tell the other node of its sessions", node.name());
    wait_until(&what, LIMIT, || packets(node, "sent_error") >= both)?;
    // All of them have been there before what these say next.
    own.steady()?;
    assert_eq!(packets(node, "sent_error"), both, "{}", chance(node));
    Ok(())
}

/// Fails if any datagram was lost.
fn end(clients: Clients) -> Result<()> {
    let (lost, gap) = clients.end()?;
    assert_eq!(lost, 0, "the longest wait for an answer was {gap:?}");
    Ok(())
}

#[test]
fn sessions_go_on_where_they_live_there_and_back() -> Result<()> {
    let (lab, targets) = proxying("chance-udp-moves", "timeout = { idle = \"6s\" }", "")?;
    let [a, b] = lab.nodes();
    let old = clients(&lab, 0, INTERVAL)?;
    switch(&lab, a)?;
    old.steady()?;
    assert!(packets(b, "sent") > 0 && packets(a, "received") > 0, "{} {}", chance(a), chance(b));
    // A reload of a's ends the link, and another one begins it again: a's process and its sessions are there all the time.
    reload_without_link(&lab, a, &old)?;
    // What begins now is b's.
    let new = clients(&lab, 2 * CLIENTS, INTERVAL)?;
    drains(&lab, a, 2 * CLIENTS as usize)?;
    assert_eq!(chance(a)["instances"]["web"]["draining_sessions"], 2 * CLIENTS);
    let text = a.get("lbd", "/metrics")?.body;
    let shown = format!("tandem_lbd_second_chance_draining_sessions{{instance=\"web\"}} {}", 2 * CLIENTS);
    assert!(text.lines().any(|line| line.starts_with(&shown)), "{text}");
    tell_of_large_ones(&lab, b, &new, &old)?;
    // Back to where the first ones live, and there again.
    switch(&lab, b)?;
    old.steady()?;
    new.steady()?;
    drains(&lab, b, 2 * CLIENTS as usize)?;
    switch(&lab, a)?;
    old.steady()?;
    new.steady()?;
    targets.heard_once(&old, a.v4().into());
    targets.heard_once(&new, b.v4().into());
    end(old)?;
    // What fell silent is drained by nobody, and forgotten by both.
    drains(&lab, a, 0)?;
    lab.nodes().into_iter().try_for_each(|node| knows(node, 2 * CLIENTS))?;
    end(new)?;
    lab.finish()
}

#[test]
fn datagrams_in_fragments_go_the_same_way() -> Result<()> {
    let (lab, targets) = proxying("chance-udp-fragments", "", "")?;
    let [a, b] = lab.nodes();
    // Four fragments each, and not so many at once that a socket would have no room for them.
    let large = Clients::start(&lab, 0, 4, Duration::from_millis(100), 5000)?;
    large.steady()?;
    knows(b, 2 * 4)?;
    switch(&lab, a)?;
    large.steady()?;
    switch(&lab, b)?;
    large.steady()?;
    targets.heard_once(&large, a.v4().into());
    end(large)?;
    lab.finish()
}

#[test]
fn drained_sessions_begin_anew_at_the_same_target() -> Result<()> {
    let (lab, targets) = proxying("chance-udp-drain", "", "drain_timeout = \"3s\"")?;
    let [a, b] = lab.nodes();
    let talking = clients(&lab, 0, INTERVAL)?;
    switch(&lab, a)?;
    talking.steady()?;
    targets.heard_once(&talking, a.v4().into());
    let ended = || a.counted("tandem_lbd_service_sessions_ended_total", "service=\"talk\",end=\"drained\"");
    wait_until("a's sessions to end", LIMIT, || ended().is_ok_and(|ended| ended == u64::from(2 * CLIENTS)))?;
    talking.steady()?;
    for sources in targets.heard(&talking) {
        let nodes: Vec<_> = sources.iter().map(|(source, _)| source.ip()).collect();
        assert_eq!(nodes, [a.v4(), b.v4()], "one session on each node");
        assert!(
            sources.iter().all(|(_, target)| sources.first().is_some_and(|it| it.1 == *target)),
            "{sources:?}"
        );
    }
    drains(&lab, a, 0)?;
    end(talking)?;
    lab.finish()
}

#[test]
fn a_stopped_lbd_serves_its_sessions_until_they_are_idle() -> Result<()> {
    let (lab, targets) = proxying("chance-udp-stop", "timeout = { idle = \"6s\" }", "")?;
    let [a, b] = lab.nodes();
    // Silent for longer than answers that are on their way would take.
    let talking = clients(&lab, 0, Duration::from_millis(2500))?;
    a.signal("lbd", Signal::SIGTERM)?;
    b.wait_role("web", "active", LIMIT)?;
    owned_by(&lab, b)?;
    drains(&lab, a, 2 * CLIENTS as usize)?;
    talking.steady()?;
    assert!(a.running("lbd"));
    targets.heard_once(&talking, a.v4().into());
    end(talking)?;
    assert!(a.wait_end("lbd", LIMIT)?.success());
    lab.finish()
}

#[test]
fn sessions_of_a_dead_node_begin_anew_at_once() -> Result<()> {
    for (number, fault) in [Fault::power_loss("a"), Fault::Killed("a".to_owned())].iter().enumerate() {
        let (lab, targets) = proxying(&format!("chance-udp-death-{number}"), "", "")?;
        let [a, b] = lab.nodes();
        let talking = clients(&lab, 0, INTERVAL)?;
        lab.inject(fault)?;
        b.wait_role("web", "active", LIMIT)?;
        talking.steady()?;
        for sources in targets.heard(&talking) {
            assert_eq!(sources.iter().map(|(source, _)| source.ip()).collect::<Vec<_>>(), [a.v4(), b.v4()]);
            assert!(sources.iter().all(|(_, target)| sources.first().is_some_and(|it| it.1 == *target)));
        }
        let (_, gap) = talking.end()?;
        // Long before the link has noticed.
        assert!(gap < Duration::from_secs(4), "{gap:?}");
        lab.finish()?;
    }
    Ok(())
}

#[test]
fn who_falls_silent_takes_nothing_from_the_other_node() -> Result<()> {
    let (lab, targets) = proxying("chance-udp-silent", "timeout = { idle = \"3s\" }", "")?;
    let [a, b] = lab.nodes();
    let talking = clients(&lab, 0, INTERVAL)?;
    // a lives on, and so do its sessions, of which nobody hears anything any more.
    lab.inject(&Fault::blocked("a"))?;
    b.wait_role("web", "active", LIMIT)?;
    talking.steady()?;
    let ended = || a.counted("tandem_lbd_service_sessions_ended_total", "service=\"talk\",end=\"idle\"");
    wait_until("a's sessions to end", LIMIT, || ended().is_ok_and(|ended| ended == u64::from(2 * CLIENTS)))?;
    talking.steady()?;
    lab.nodes().into_iter().try_for_each(|node| knows(node, 2 * CLIENTS))?;
    for sources in targets.heard(&talking) {
        assert_eq!(sources.iter().map(|(source, _)| source.ip()).collect::<Vec<_>>(), [a.v4(), b.v4()]);
    }
    talking.end()?;
    lab.finish()
}
