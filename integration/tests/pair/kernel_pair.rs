//! Kernel forwarding in a pair: only the owner of the VIPs forwards, whoever takes over goes on with all connections, and no `lbd` is needed for any of it.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};

use crate::kernel_pair_support::*;
use crate::pair_support::{LIMIT, agreed, every, owned_by, status, vips, vrrpd};
use integration::lab::addresses::mac_text;
use integration::lab::clock::wait_until;
use integration::lab::config::Instance;
use integration::lab::fault::Fault;
use integration::lab::{Node, Result};
use nix::sys::signal::Signal;

#[test]
fn only_the_owner_forwards() -> Result<()> {
    let lab = forwarding("kernel pair owner", every("100ms"))?;
    let [a, b] = lab.nodes();
    assert_eq!(forwarded(b), 0, "the client's packets went to the owner");
    let watch = lab.watch();
    for vip in vips() {
        for (node, serves) in [(a, true), (b, false)] {
            // This host takes the node for the owner, whatever it hears.
            let mac = mac_text(node.mac());
            watch.ip(&format!("neigh replace {vip} lladdr {mac} dev eth0 nud permanent"))?;
            for port in [DSR_HTTP, NAT_HTTP, DSR_ECHO, NAT_ECHO] {
                let server = SocketAddr::new(vip, port);
                let before = not_active(node);
                let connect = || TcpStream::connect_timeout(&server, PATIENCE).map_err(|error| error.kind());
                let outcome = || watch.namespace().inside(connect);
                if serves {
                    wait_until(&format!("{server} through a"), LIMIT, || {
                        outcome().is_ok_and(|it| it.is_ok())
                    })?;
                } else {
                    // Dropped: not refused, so that a client whose neighbour entry is late tries again and is served.
                    assert_eq!(outcome()?.err(), Some(ErrorKind::TimedOut), "{server}");
                    assert!(not_active(node) > before, "{server}: nothing was counted");
                }
            }
            let server = SocketAddr::new(vip, NAT_ECHO);
            let before = not_active(node);
            let outcome = watch.namespace().inside(|| echo(server).map_err(|error| error.kind()))?;
            if serves {
                assert_eq!(outcome, Ok(()), "{server} through a");
            } else {
                assert_eq!(outcome, Err(ErrorKind::WouldBlock), "{server}: refused, or answered");
                assert!(not_active(node) > before, "{server}: nothing was counted");
            }
        }
    }
    assert_eq!((forwarded(b), not_active(a)), (0, 0));
    // What lost its vrrpd, and its addresses with it, begins nothing new.
    a.signal("vrrpd", Signal::SIGKILL)?;
    owned_by(&lab, b)?;
    for vip in vips() {
        watch.ip(&format!("neigh replace {vip} lladdr {} dev eth0 nud permanent", mac_text(a.mac())))?;
        let server = SocketAddr::new(vip, DSR_HTTP);
        let connect = || TcpStream::connect_timeout(&server, PATIENCE).map_err(|error| error.kind());
        wait_until("a to forward nothing new", LIMIT, || {
            watch.namespace().inside(connect).is_ok_and(|it| it.err() == Some(ErrorKind::TimedOut))
        })?;
    }
    served(&lab, &vips())?;
    lab.finish()
}

#[test]
fn a_planned_switchover_and_the_return_break_no_connection() -> Result<()> {
    let lab = forwarding("kernel pair switchover", every("100ms"))?;
    let load = Load::begin(&lab, WITHOUT_LOSS)?;
    for (from, to) in [(lab.a(), lab.b()), (lab.b(), lab.a())] {
        let (good, _, complaint) = vrrpd(from, &["switchover", "web"]);
        assert!(good, "{complaint}");
        settled(&lab, to)?;
        takes_new_ones(to)?;
        load.steady_after(STALL_OF_A_MOVE)?;
        drained(from, to)?;
    }
    load.end()?;
    lab.finish()
}

#[test]
fn the_death_of_a_node_and_its_return_break_no_connection() -> Result<()> {
    let lab = forwarding("kernel pair death", every("100ms"))?;
    let load = Load::begin(&lab, WITH_ONE_LOST)?;
    // Nobody is left who would take the VIPs off it, or say that it gives them up.
    let death = all_killed(&lab, lab.a())?;
    lab.b().wait_role("web", "active", LIMIT)?;
    takes_new_ones(lab.b())?;
    load.steady_after(STALL_OF_A_LOSS)?;
    assert!(
        vips().into_iter().all(|vip| lab.a().holds(vip).unwrap_or(false)),
        "something has cleaned up on a"
    );
    for daemon in ["lbd", "vrrpd"] {
        lab.a().start_daemon(daemon)?;
    }
    settled(&lab, lab.a())?;
    takes_new_ones(lab.a())?;
    load.steady_after(STALL_OF_A_MOVE)?;
    load.end_after_deaths(&[death])?;
    lab.finish()
}

#[test]
fn the_loss_of_a_cable_and_of_power_and_the_return_from_each_break_no_connection() -> Result<()> {
    let lab = forwarding("kernel pair power", every("100ms"))?;
    let [a, b] = lab.nodes();
    let load = Load::begin(&lab, WITH_ONE_LOST)?;
    let mut deaths = Vec::new();
    for fault in [Fault::link_down("a"), Fault::power_loss("a")] {
        deaths.push(lab.inject(&fault)?);
        b.wait_role("web", "active", LIMIT)?;
        takes_new_ones(b)?;
        load.steady_after(STALL_OF_A_LOSS)?;
        lab.heal(&fault)?;
        if matches!(fault, Fault::PowerLoss(_)) {
            // A fresh machine: nothing of what it had forwarded is in its kernel.
            for daemon in ["lbd", "vrrpd"] {
                a.start_daemon(daemon)?;
            }
        }
        settled(&lab, a)?;
        takes_new_ones(a)?;
        load.steady_after(STALL_OF_A_MOVE)?;
    }
    load.end_after_deaths(&deaths)?;
    lab.finish()
}

#[test]
fn nobody_notices_that_the_nodes_do_not_hear_each_other_by_the_link_between_them() -> Result<()> {
    let lab = forwarding("kernel pair alone", every("100ms"))?;
    let [a, b] = lab.nodes();
    let load = Load::begin(&lab, WITHOUT_LOSS)?;
    let state = |node: &Node| {
        let answer = node.get("lbd", "/v1/replication").ok().and_then(|answer| answer.json().ok());
        let whole: serde_json::Value = answer.unwrap_or_default();
        whole["state"]["state"].as_str().unwrap_or_default().to_owned()
    };
    let is_in_step = || lab.nodes().iter().all(|node| state(node) == "synced");
    for fault in [Some(Fault::PeerBlocked), Some(Fault::PeerDown), None] {
        match &fault {
            Some(fault) => lab.inject(fault)?,
            // One that is there and reads nothing.
            None => b.signal("lbd", Signal::SIGSTOP)?,
        };
        wait_until("a to have noticed", LIMIT, || state(a) == "stale")?;
        load.steady_after(STALL_OF_A_MOVE)?;
        match &fault {
            Some(fault) => lab.heal(fault)?,
            None => b.signal("lbd", Signal::SIGCONT)?,
        };
        wait_until("the nodes to be in step", LIMIT, is_in_step)?;
        load.steady_after(STALL_OF_A_MOVE)?;
    }
    assert_eq!((not_active(a), forwarded(b)), (0, 0), "the role has not moved");
    load.end()?;
    lab.finish()
}

#[test]
fn a_node_that_returns_preempts_when_it_knows_the_connections() -> Result<()> {
    let lab = forwarding("kernel pair behind", every("100ms"))?;
    let [a, b] = lab.nodes();
    let load = Load::begin(&lab, WITH_ONE_LOST)?;
    let death = killed(a)?;
    // The nodes hear each other, but no connection of their `lbd`s comes about.
    let cut = "table inet cut {\nchain in {\ntype filter hook input priority 0\ntcp dport 7112 drop\ntcp sport 7112 drop\n}\n}\n";
    a.namespace().run_with("nft", &["-f", "-"], cut)?;
    b.wait_role("web", "active", LIMIT)?;
    owned_by(&lab, b)?;
    for daemon in ["lbd", "vrrpd"] {
        a.start_daemon(daemon)?;
    }
    // It is well, and hears a node of lower priority for much longer than it would wait otherwise.
    let heard = || {
        let status = status(a).unwrap_or_default();
        let web = &status["instances"][0];
        let well = web["role"] == "backup" && web["effective_priority"] == 200 && status["behind"] == true;
        web["routers"][0]["adverts_received"].as_u64().filter(|_| well)
    };
    wait_until("a to be well", LIMIT, || heard().is_some())?;
    let before = heard();
    wait_until("many advertisements", LIMIT, || heard() > before.map(|count| count + 30))?;
    load.steady_after(STALL_OF_A_LOSS)?;
    a.namespace().run_with("nft", &["-f", "-"], "delete table inet cut")?;
    settled(&lab, a)?;
    takes_new_ones(a)?;
    load.steady_after(STALL_OF_A_MOVE)?;
    load.end_after_deaths(&[death])?;
    lab.finish()
}

#[test]
fn a_killed_lbd_on_the_active_node_loses_nothing() -> Result<()> {
    // Else the VIPs would move to the node that has an lbd.
    let extra = "track = { lbd = false, targets = false }".to_owned();
    let lab = forwarding("kernel pair lbd", Instance { extra, ..every("100ms") })?;
    let load = Load::begin(&lab, WITHOUT_LOSS)?;
    for _ in 0..2 {
        lab.a().signal("lbd", Signal::SIGKILL)?;
        lab.a().wait_end("lbd", LIMIT)?;
        load.steady_after(STALL_OF_A_MOVE)?;
        lab.a().start_lbd()?;
        ready(lab.a())?;
        takes_new_ones(lab.a())?;
        load.steady_after(STALL_OF_A_MOVE)?;
    }
    assert_eq!(not_active(lab.a()), 0);
    agreed(&lab, lab.a())?;
    load.end()?;
    lab.finish()
}
