//! Nodes that choose targets from different rings: what one of them has begun in its last moment goes on at the other one, and none of them
//! chooses from another ring before the other one is ready for it, if that is there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, UdpSocket};

use crate::kernel_pair_support::*;
use crate::pair_support::{LIMIT, every, vips};
use integration::lab::clock::{now, wait_until};
use integration::lab::probe::{ConnectProbe, ConnectSettings, EchoProbe, EchoSettings};
use integration::lab::{Lab, Node, Result};
use lbd_core::replication::RING_WAIT;
use serde_json::Value;

/// Text for nft: nothing passes between the `lbd`s, and neither hears of that.
const CUT: &str = "table inet cut {\nchain in {\ntype filter hook input priority 0\ntcp dport 7112 drop\ntcp sport 7112 drop\n}\nchain out {\ntype filter hook output priority 0\ntcp dport 7112 drop\ntcp sport 7112 drop\n}\n}\n";

/// A number in what a node's `/v1/replication` says of its state.
fn replication(node: &Node, what: &str) -> u64 {
    let answer = node.get("lbd", "/v1/replication").ok().and_then(|answer| answer.json().ok());
    let whole: Value = answer.unwrap_or_default();
    whole["state"][what].as_u64().unwrap_or_default()
}

/// Connections to each service that are begun before a dies: few, so that it gives each the first port that it may have.
const YOUNG: usize = 12;

/// The services of long-lived connections, and where they are.
fn services() -> impl Iterator<Item = (String, SocketAddr)> {
    let of = |vip| {
        [("dsr-echo", DSR_ECHO), ("nat-echo", NAT_ECHO)]
            .map(|(what, port)| (service(what, vip, 0), SocketAddr::new(vip, port)))
    };
    vips().into_iter().flat_map(of)
}

/// Gives a target of a group another weight, as one node is told; the other one hears of it.
fn weigh_one(node: &Node, group: &str, target: &str, weight: u64) -> Result<()> {
    let path = format!("/v1/target-groups/{group}/targets/{target}");
    let body = format!("{{\"weight\":{weight}}}");
    assert_eq!(node.send("lbd", "PATCH", &path, &body)?.status, 200);
    Ok(())
}

/// The same in the groups of all services of long-lived connections.
fn weigh(node: &Node, target: &str, weight: u64) -> Result<()> {
    services().try_for_each(|(service, _)| weigh_one(node, &service, target, weight))
}

/// How often a node has come to choose from another ring, how often of these the other one did not say in time that it is ready, and
/// how often there was nobody to say it.
fn counts(node: &Node) -> (u64, u64, u64) {
    let count = |what| replication(node, what);
    (count("ring_changes"), count("ring_changes_unacknowledged"), count("ring_changes_alone"))
}

/// How often the other node has said that it is ready.
fn acknowledged(node: &Node) -> u64 {
    let (all, late, alone) = counts(node);
    all.saturating_sub(late + alone)
}

/// b chooses the second target of each group alone, a both: b is a reload ahead. Of those for datagrams it does so nearly always: a target that took
/// no new flows would be sent none of the other node's datagrams.
fn apart(lab: &Lab) -> Result<()> {
    let [_, b] = lab.nodes();
    let before = replication(b, "ring_changes");
    let whole = std::fs::read_to_string(lab.dir().join("pair.toml")).expect("the configuration");
    let (rest, groups) = whole.split_once("[[target_group]]").expect("there are groups");
    let ahead = |group: &str| {
        let datagrams = group.contains("-datagrams");
        let (id, weight) = if datagrams { ("id = \"t2\", ", 99) } else { ("id = \"t1\", ", 0) };
        let ahead = group.replace(id, &format!("{id}weight = {weight}, "));
        assert_ne!(ahead, group);
        ahead
    };
    let groups: Vec<String> = groups.split("[[target_group]]").map(ahead).collect();
    let groups = groups.join("[[target_group]]");
    lab.write_config_text(&format!("{rest}[[target_group]]{groups}"))?;
    assert_eq!(b.send("lbd", "POST", "/v1/reload", "")?.status, 200);
    ready(b)?;
    synced(b)?;
    wait_until("b to choose from other rings", LIMIT, || replication(b, "ring_changes") >= before + RINGS)
}

fn connections(lab: &Lab, count: usize) -> Result<Vec<EchoProbe>> {
    let probes =
        services().map(|(_, server)| EchoProbe::start(lab.client(), EchoSettings::new(server, count)));
    let probes: Vec<_> = probes.collect::<Result<_>>()?;
    probes.iter().try_for_each(|probe| probe.wait_exchanges(3, LIMIT))?;
    Ok(probes)
}

/// Datagrams of so many clients for each service, of which `a` knows by then where they go.
fn datagrams(lab: &Lab, count: usize) -> Result<Vec<(String, Vec<UdpSocket>)>> {
    let of = |vip| {
        [("dsr-datagrams", DSR_ECHO), ("nat-datagrams", NAT_ECHO)]
            .map(|(what, port)| (service(what, vip, 0), SocketAddr::new(vip, port)))
    };
    let begin = |(service, server): (String, SocketAddr)| -> Result<(String, Vec<UdpSocket>)> {
        let sockets = talkers(lab, server, count)?;
        wait_until(&format!("a to know all of {service}"), LIMIT, || {
            exchange(&sockets).is_ok() && targets(lab.a(), &service).len() == count
        })?;
        Ok((service, sockets))
    };
    vips().into_iter().flat_map(of).map(begin).collect()
}

/// The targets that `a` has given to all of a service, by client, of which `b` knows nothing.
fn untold(lab: &Lab, service: &str, count: usize) -> BTreeMap<String, String> {
    let given = targets(lab.a(), service);
    let all: BTreeSet<&String> = given.values().collect();
    assert_eq!((given.len(), all.len()), (count, 2), "{service}: a has given them all to {all:?}");
    assert!(targets(lab.b(), service).is_empty(), "b was told of {service}");
    given
}

#[test]
fn what_nobody_told_of_goes_on_with_its_target() -> Result<()> {
    let lab = forwarding("rings young", every("100ms"))?;
    let [a, b] = lab.nodes();
    apart(&lab)?;
    wait_until("b to know a's rings", LIMIT, || replication(b, "peer_rings") == RINGS)?;
    // What a begins from now on it cannot tell of any more.
    a.namespace().run_with("nft", &["-f", "-"], CUT)?;
    let probes = connections(&lab, YOUNG)?;
    let datagrams = datagrams(&lab, 2 * YOUNG)?;
    let all = services().map(|(service, _)| (service, YOUNG));
    let all = all.chain(datagrams.iter().map(|(service, sockets)| (service.clone(), sockets.len())));
    let given: Vec<_> = all.map(|(service, count)| (untold(&lab, &service, count), service)).collect();
    all_killed(&lab, a)?;
    b.wait_role("web", "active", LIMIT)?;
    for (given, service) in &given {
        let sockets = datagrams.iter().find(|(name, _)| name == service).map(|(_, sockets)| sockets);
        // For a moment the client may send where it has sent before.
        wait_until(&format!("all of {service} by way of b"), LIMIT, || {
            sockets.is_none_or(|sockets| exchange(sockets).is_ok())
                && targets(b, service).len() == given.len()
        })?;
        assert_eq!(targets(b, service), *given, "{service}");
    }
    for probe in &probes {
        probe.wait_exchanges(5, LIMIT)?;
    }
    for ((service, _), probe) in services().zip(probes) {
        let report = probe.stop()?;
        assert!(report.broken() == 0, "{service}: {}", report.summary());
    }
    // And those that begin now are b's, which has them all at its only target.
    let more = connections(&lab, 30)?;
    for (service, _) in services() {
        let of = |target: &str| {
            let target = format!("{service}/{target}");
            targets(b, &service).into_values().filter(|it| *it == target).count()
        };
        wait_until(&format!("the new flows of {service}"), LIMIT, || of("t2") >= 30)?;
        assert!(of("t1") <= YOUNG, "{} of {service}", of("t1"));
    }
    for probe in more {
        let report = probe.stop()?;
        assert!(report.broken() == 0, "{}", report.summary());
    }
    lab.finish()
}

/// Has a's rings changed until each node has said of four of the other one's that it is ready for them. A busy machine may take longer than is
/// waited for.
fn acknowledge(lab: &Lab) -> Result<()> {
    let before = lab.nodes().map(|node| (acknowledged(node), counts(node).2));
    let nodes = || lab.nodes().into_iter().zip(before);
    for weight in 3..=30 {
        let known = lab.nodes().map(|node| counts(node).0);
        weigh(lab.a(), "t2", weight)?;
        for (node, known) in lab.nodes().into_iter().zip(known) {
            let what = format!("rings of {} to have been changed", node.name());
            wait_until(&what, LIMIT, || counts(node).0 >= known + 4)?;
        }
        if nodes().all(|(node, (before, _))| acknowledged(node) >= before + 4) {
            break;
        }
    }
    for (node, (before, alone)) in nodes() {
        let (name, counts) = (node.name(), counts(node));
        assert!(acknowledged(node) >= before + 4, "{name}: {counts:?}: nobody has acknowledged any");
        assert_eq!(counts.2, alone, "{name}: there was somebody to wait for");
    }
    Ok(())
}

/// Has a change a ring while nobody can answer: it chooses from the old one for as long as it waits, and from the new one after that.
fn nobody_answers(lab: &Lab) -> Result<()> {
    let (a, vip) = (lab.a(), vips()[0]);
    let server = SocketAddr::new(vip, NAT_HTTP);
    let probe = ConnectProbe::start(lab.client(), ConnectSettings::http(server))?;
    probe.wait_steady(50, LIMIT)?;
    let (before, known) = (counts(a), acknowledged(a));
    let begun = now();
    weigh_one(a, &service("nat-http", vip, 0), "t2", 0)?;
    wait_until("a to go on without an answer", LIMIT, || counts(a).1 > before.1)?;
    let switched = now();
    probe.wait_successes(50, LIMIT)?;
    assert_eq!(acknowledged(a), known, "nobody could have said so");
    let report = probe.stop()?;
    assert_eq!(report.failed(), 0, "{}", report.summary());
    let removed = lab.targets()[DIRECT_TARGETS + 1].name();
    let place = report.targets.iter().position(|name| name == removed);
    let last = report.attempts.iter().rfind(|it| it.target.map(usize::from) == place);
    let last = last.expect("it was chosen before").start;
    assert!(last < switched, "it was chosen {:?} after the ring without it was in use", last - switched);
    // Every other one would have been its, so that nearly all of the wait is to be seen.
    let unseen = report.longest_pause() + RING_WAIT / 4;
    assert!(last + unseen >= begun + RING_WAIT, "it was chosen for {:?} only", last - begun);
    Ok(())
}

#[test]
fn another_ring_waits_for_the_other_node_and_not_for_long() -> Result<()> {
    let lab = forwarding("rings waiting", every("100ms"))?;
    let a = lab.a();
    lab.nodes().into_iter().try_for_each(synced)?;
    wait_until("each to know the other's rings", LIMIT, || {
        lab.nodes().iter().all(|node| replication(node, "peer_rings") == RINGS)
    })?;
    let probes = connections(&lab, 10)?;
    acknowledge(&lab)?;
    // Nobody answers, and nobody knows that yet.
    a.namespace().run_with("nft", &["-f", "-"], CUT)?;
    nobody_answers(&lab)?;
    // Once that is known, nobody waits.
    wait_until("the session to end", LIMIT, || {
        let answer = a.get("lbd", "/v1/replication").ok().and_then(|answer| answer.json().ok());
        let whole: Value = answer.unwrap_or_default();
        whole["state"]["state"] == "stale"
    })?;
    let before = counts(a);
    weigh(a, "t2", 2)?;
    wait_until("a to go on alone", LIMIT, || counts(a).2 >= before.2 + 4)?;
    assert_eq!(counts(a).1, before.1);
    for probe in probes {
        let report = probe.stop()?;
        assert!(report.broken() == 0, "{}", report.summary());
    }
    lab.finish()
}
