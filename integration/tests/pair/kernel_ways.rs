//! Connections go on over moves of the role in the ways to forward that the other tests of a pair have no services of: with the client's address
//! kept, through a tunnel, in the driver (XDP), and to the virtual router's MAC address.

use std::net::SocketAddr;
use std::time::Duration;

use crate::chance::{packets, sends};
use crate::kernel_pair_support::*;
use crate::pair_support::{LIMIT, agreed, caught_up, every, owned_by, vips, vrrpd};
use integration::lab::addresses::client_addresses;
use integration::lab::clock::wait_until;
use integration::lab::config::Instance;
use integration::lab::probe::{EchoProbe, EchoSettings};
use integration::lab::tunnel::{Tunnel, TunnelEnd};
use integration::lab::{Lab, Node, Result};

/// Two planned moves, there and back; then the active node's daemons are killed, and come back. A new connection may take so long, and one that
/// lasts may stand still for as long over a planned move.
fn moves(lab: &Lab, patience: Duration) -> Result<()> {
    let load = Load::begin(lab, patience)?;
    for (from, to) in [(lab.a(), lab.b()), (lab.b(), lab.a())] {
        switch(from)?;
        settled(lab, to)?;
        takes_new_ones(to)?;
        load.steady_after(patience)?;
    }
    load.end()?;
    let load = Load::begin(lab, WITH_ONE_LOST)?;
    let death = killed(lab.a())?;
    lab.b().wait_role("web", "active", LIMIT)?;
    owned_by(lab, lab.b())?;
    takes_new_ones(lab.b())?;
    load.steady_after(STALL_OF_A_LOSS)?;
    for daemon in ["lbd", "vrrpd"] {
        lab.a().start_daemon(daemon)?;
    }
    settled(lab, lab.a())?;
    takes_new_ones(lab.a())?;
    load.steady_after(patience)?;
    load.end_after_deaths(&[death])
}

fn switch(from: &Node) -> Result<()> {
    let (good, _, complaint) = vrrpd(from, &["switchover", "web"]);
    assert!(good, "{complaint}");
    Ok(())
}

/// The way of targets to clients is the node that has the VIPs, which no packet of theirs says.
fn by_the_vips(lab: &Lab) -> Result<()> {
    for target in &lab.targets()[DIRECT_TARGETS..] {
        // Whatever a node's stack had to do with a packet: it goes to that node.
        target.namespace().without_redirects()?;
        for vip in vips() {
            let (family, length) = if vip.is_ipv4() { ("-4", 32) } else { ("-6", 128) };
            for client in client_addresses(vip) {
                target.ip(&format!("{family} route add {client}/{length} via {vip} dev eth0"))?;
            }
        }
    }
    Ok(())
}

/// The answer to what a node has begun comes to whichever has the VIPs: were it to leave there as it is, its client would reset it, and come to
/// another connection when it asks for the second time.
#[test]
fn with_clients_addresses_kept() -> Result<()> {
    let keys = Keys { translated: "preserve_client_ip = true", ..Keys::default() };
    let lab = started_with("kernel pair kept", vec![every("100ms")], keys, by_the_vips)?;
    settled(&lab, lab.a())?;
    moves(&lab, WITHOUT_LOSS)?;
    lab.finish()
}

/// A program of the lab's takes them off, which may lose what comes too fast.
#[test]
fn through_ip_in_ip() -> Result<()> {
    let keys = Keys { direct: "dsr = \"ipip\"", ..Keys::default() };
    let mut ends = Vec::new();
    let lab = started_with("kernel pair ipip", vec![every("100ms")], keys, |lab| {
        for target in &lab.targets()[..DIRECT_TARGETS] {
            ends.push(TunnelEnd::start(target, Tunnel::Ipip)?);
        }
        Ok(())
    })?;
    settled(&lab, lab.a())?;
    moves(&lab, WITH_ONE_LOST)?;
    for end in ends {
        let unwrapped = end.stop()?;
        assert!(unwrapped.packets > 0 && unwrapped.malformed == 0, "{unwrapped:?}");
    }
    lab.finish()
}

/// The program in the driver; and beside its services one of a proxy, which the stack gets.
const IN_THE_DRIVER: &str = r#"
[kernel]
attach = "xdp"
[[service]]
name = "proxied"
mode = "tcp"
listen = ["@web:7070"]
forward = "proxied"
[[target_group]]
name = "proxied"
targets = [{ address = "10.77.0.13:7" }, { address = "10.77.0.14:7" }]
"#;
const PROXIED: u16 = 7070;

/// What is proxied at the same virtual IPs lasts in the sockets of the node where it began, which the other one sends its packets to.
#[test]
fn in_the_driver() -> Result<()> {
    let keys = Keys { tables: IN_THE_DRIVER, ..Keys::default() };
    let lab = started_with("kernel pair xdp", vec![every("100ms")], keys, |lab| {
        lab.prepare_for_xdp()?;
        lab.introduce_client()
    })?;
    settled(&lab, lab.a())?;
    for node in lab.nodes() {
        assert_eq!(kernel(node)["interfaces"][0]["attached"], "xdp", "{}", node.name());
    }
    sends(lab.b())?;
    // Before the driver's program a veth has little room.
    let load = Load::begin_at(&lab, &vips()[..1], WITH_ONE_LOST)?;
    let proxied = |vip| {
        let settings = EchoSettings::new(SocketAddr::new(vip, PROXIED), 8);
        EchoProbe::start(lab.client(), EchoSettings { interval: Duration::from_millis(50), ..settings })
    };
    let proxied = vips().into_iter().map(proxied).collect::<Result<Vec<_>>>()?;
    for (from, to) in [(lab.a(), lab.b()), (lab.b(), lab.a())] {
        switch(from)?;
        settled(&lab, to)?;
        load.steady_after(WITH_ONE_LOST)?;
        proxied.iter().try_for_each(|probe| probe.wait_exchanges(5, LIMIT))?;
    }
    assert!(packets(lab.b(), "sent") > 0 && packets(lab.a(), "received") > 0);
    for probe in proxied {
        let report = probe.stop()?;
        assert_eq!(report.broken(), 0, "{}", report.summary());
    }
    let death = killed(lab.a())?;
    lab.b().wait_role("web", "active", LIMIT)?;
    owned_by(&lab, lab.b())?;
    load.steady_after(STALL_OF_A_LOSS)?;
    for daemon in ["lbd", "vrrpd"] {
        lab.a().start_daemon(daemon)?;
    }
    settled(&lab, lab.a())?;
    load.steady_after(WITH_ONE_LOST)?;
    load.end_after_deaths(&[death])?;
    lab.finish()
}

/// Waits until this node forwards what comes to the virtual router's MAC address, whose device has the VIPs.
fn forwards(lab: &Lab, node: &Node) -> Result<()> {
    agreed(lab, node)?;
    for vip in vips() {
        let holds = |node: &Node| {
            let shown = node.run("ip", &["-oneline", "address", "show", "to", &vip.to_string()]);
            shown.unwrap_or_default().contains(": tandem")
        };
        wait_until(&format!("{} alone to hold {vip}", node.name()), LIMIT, || {
            holds(node) && !holds(lab.peer_of(node))
        })?;
    }
    for node in lab.nodes() {
        ready(node)?;
        synced(node)?;
    }
    caught_up(lab)?;
    served(lab, &vips())
}

/// Which way it leads is for the switch to learn anew with each move, so that a packet may be lost.
#[test]
fn to_the_virtual_routers_mac_address() -> Result<()> {
    let instance = Instance { extra: "virtual_mac = true".to_owned(), ..every("100ms") };
    let lab = started("kernel pair vmac", vec![instance])?;
    forwards(&lab, lab.a())?;
    let load = Load::begin(&lab, WITH_ONE_LOST)?;
    switch(lab.a())?;
    forwards(&lab, lab.b())?;
    takes_new_ones(lab.b())?;
    load.steady_after(WITH_ONE_LOST)?;
    let death = killed(lab.b())?;
    lab.a().wait_role("web", "active", LIMIT)?;
    takes_new_ones(lab.a())?;
    load.steady_after(STALL_OF_A_LOSS)?;
    for daemon in ["lbd", "vrrpd"] {
        lab.b().start_daemon(daemon)?;
    }
    forwards(&lab, lab.a())?;
    load.steady_after(STALL_OF_A_MOVE)?;
    load.end_after_deaths(&[death])?;
    lab.finish()
}
