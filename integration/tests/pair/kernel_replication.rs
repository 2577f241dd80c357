//! What the nodes know of each other's flows when something is wrong with the link, with a table, or with the other node: no role moves
//! because of it, nothing breaks, and in the end each knows what the other one does.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::kernel_pair_support::*;
use crate::pair_support::{
    LBD_GROWTH_MAX_KIB, LIMIT, agreed, every, memory_kib, owned_by, transitions, vips,
};
use integration::lab::clock::{now, wait_until};
use integration::lab::fault::Fault;
use integration::lab::probe::{EchoProbe, EchoSettings};
use integration::lab::{Lab, Node, Result, http};
use nix::sys::signal::Signal;
use serde_json::Value;

/// What a node's `/v1/replication` says of its state.
fn replication(node: &Node) -> Value {
    let answer = node.get("lbd", "/v1/replication").ok().and_then(|answer| answer.json().ok());
    answer.map(|whole: Value| whole["state"].clone()).unwrap_or_default()
}

/// Kills a node's daemons.
fn dies(node: &Node) -> Result<()> {
    for daemon in ["vrrpd", "lbd"] {
        node.signal(daemon, Signal::SIGKILL)?;
    }
    ["vrrpd", "lbd"].into_iter().try_for_each(|daemon| node.wait_end(daemon, LIMIT).map(drop))
}

/// Starts long-lived connections through both modes.
fn connections(lab: &Lab, count: usize) -> Result<Vec<EchoProbe>> {
    let servers =
        vips().into_iter().flat_map(|vip| [DSR_ECHO, NAT_ECHO].map(|port| SocketAddr::new(vip, port)));
    let probes = servers.map(|server| EchoProbe::start(lab.client(), EchoSettings::new(server, count)));
    let probes: Vec<_> = probes.collect::<Result<_>>()?;
    probes.iter().try_for_each(|probe| probe.wait_exchanges(3, LIMIT))?;
    Ok(probes)
}

/// Waits until all go on, ends them, and fails if one broke, or stood still for longer than the loss of a node takes.
fn all_survived(probes: Vec<EchoProbe>) -> Result<()> {
    for probe in &probes {
        probe.wait_exchanges(5, LIMIT)?;
    }
    for probe in probes {
        let report = probe.stop()?;
        let is_well = report.broken() == 0 && report.worst_stall() < STALL_OF_A_LOSS + report.pause;
        assert!(is_well, "{}", report.summary());
    }
    Ok(())
}

/// Clients that keep sending datagrams, through both modes and in both families: of each service, its sockets and its flows.
struct Datagrams(Vec<(String, Vec<UdpSocket>, Places)>);

impl Datagrams {
    /// Begins them, waits until both nodes know them, and has both take nothing new to a target that some of them have: whoever has to
    /// choose anew chooses another one.
    fn begin(lab: &Lab) -> Result<Self> {
        let [a, b] = lab.nodes();
        let mut clients = Vec::new();
        for (what, port) in [("nat-datagrams", NAT_ECHO), ("dsr-datagrams", DSR_ECHO)] {
            for vip in vips() {
                let service = service(what, vip, 0);
                let sockets = talkers(lab, (vip, port).into(), 32)?;
                // A flow has proved itself with the second packet that the same processor sees of it.
                wait_until("b to know them", LIMIT, || {
                    let known = flows(b, &service);
                    exchange(&sockets).is_ok() && known.len() == sockets.len() && known == flows(a, &service)
                })?;
                let before = flows(a, &service);
                let left = before.values().filter(|(target, _)| *target == format!("{service}/t1")).count();
                assert!(0 < left && left < sockets.len(), "{left} of {service}");
                let path = format!("/v1/target-groups/{service}/targets/t1");
                for node in lab.nodes() {
                    assert_eq!(node.send("lbd", "PATCH", &path, "{\"state\":\"drain\"}")?.status, 200);
                }
                clients.push((service, sockets, before));
            }
        }
        Ok(Self(clients))
    }

    /// Waits until each is answered again by way of this node, and fails if one has left its target or its port.
    fn go_on(&self, node: &Node) -> Result<()> {
        for (service, sockets, before) in &self.0 {
            let labels = format!("service=\"{service}\"");
            let passed = || counted(node, "tandem_lbd_kernel_service_packets_total", &labels);
            let first = passed();
            // For a moment the client may send where it has sent before.
            wait_until(&format!("{service} by way of {}", node.name()), LIMIT, || {
                exchange(sockets).is_ok() && passed() >= first + sockets.len() as u64
            })?;
            assert_eq!(flows(node, service), *before, "{service}");
        }
        Ok(())
    }
}

#[test]
fn datagrams_stay_with_their_target_when_a_node_dies() -> Result<()> {
    let lab = forwarding("replication datagrams", every("100ms"))?;
    let [a, b] = lab.nodes();
    let datagrams = Datagrams::begin(&lab)?;
    all_killed(&lab, a)?;
    b.wait_role("web", "active", LIMIT)?;
    datagrams.go_on(b)?;
    for daemon in ["lbd", "vrrpd"] {
        a.start_daemon(daemon)?;
    }
    settled(&lab, a)?;
    datagrams.go_on(a)?;
    lab.finish()
}

#[test]
fn datagrams_stay_with_their_target_when_a_cable_or_power_is_lost_and_comes_back() -> Result<()> {
    let lab = forwarding("replication datagrams power", every("100ms"))?;
    let [a, b] = lab.nodes();
    let datagrams = Datagrams::begin(&lab)?;
    for fault in [Fault::link_down("a"), Fault::power_loss("a")] {
        lab.inject(&fault)?;
        b.wait_role("web", "active", LIMIT)?;
        datagrams.go_on(b)?;
        lab.heal(&fault)?;
        if matches!(fault, Fault::PowerLoss(_)) {
            // A fresh machine: all that its kernel will know of them it is told.
            for daemon in ["lbd", "vrrpd"] {
                a.start_daemon(daemon)?;
            }
        }
        settled(&lab, a)?;
        datagrams.go_on(a)?;
    }
    lab.finish()
}

#[test]
fn a_client_comes_back_to_its_target_on_the_other_node() -> Result<()> {
    let lab = forwarding("replication clients", every("100ms"))?;
    let [a, b] = lab.nodes();
    // Without remembering its client, each connection goes where its port says.
    let whole = std::fs::read_to_string(lab.dir().join("pair.toml")).expect("the configuration");
    let sticky = whole.replace("[[target_group]]\n", "[[target_group]]\nsticky = { by = \"source_ip\" }\n");
    assert_ne!(sticky, whole);
    lab.write_config_text(&sticky)?;
    for node in [a, b] {
        assert_eq!(node.send("lbd", "POST", "/v1/reload", "")?.status, 200);
        ready(node)?;
        synced(node)?;
    }
    let begin = |server: SocketAddr, count: usize| -> Result<()> {
        let ask = || {
            for _ in 0..count {
                let page = http::tcp(server, "GET", "/", "", PATIENCE);
                assert!(page.is_ok_and(|page| page.status == 200), "{server}");
            }
        };
        lab.client().namespace().inside(ask)
    };
    let servers: Vec<(&str, IpAddr, u16)> = vips()
        .into_iter()
        .flat_map(|vip| [("dsr-http", vip, DSR_HTTP), ("nat-http", vip, NAT_HTTP)])
        .collect();
    // Connections of before that wait for their last packets have not chosen by their client.
    let known = |(what, vip, _): &(&str, IpAddr, u16)| {
        let service = service(what, *vip, 0);
        let clients: BTreeSet<String> =
            [a, b].iter().flat_map(|node| flows(node, &service).into_keys()).collect();
        (service, clients)
    };
    let before: BTreeMap<String, BTreeSet<String>> = servers.iter().map(known).collect();
    for (_, vip, port) in &servers {
        begin(SocketAddr::new(*vip, *port), 3)?;
    }
    let homes = servers.iter().map(|(what, vip, _)| -> Result<(BTreeSet<String>, String)> {
        let service = service(what, *vip, 0);
        let before = &before[&service];
        let new = || -> Vec<String> {
            let new = flows(b, &service).into_iter().filter(|(client, _)| !before.contains(client));
            new.map(|(_, (target, _))| target).collect()
        };
        wait_until("b to know the flows", LIMIT, || new().len() == 3)?;
        let home = new().remove(0);
        assert_eq!(new(), [home.as_str(); 3], "{service}");
        Ok((before.clone(), home))
    });
    let homes = homes.collect::<Result<Vec<_>>>()?;
    dies(a)?;
    b.wait_role("web", "active", LIMIT)?;
    owned_by(&lab, b)?;
    for ((what, vip, port), (before, home)) in servers.iter().zip(&homes) {
        begin(SocketAddr::new(*vip, *port), 20)?;
        let of = service(what, *vip, 0);
        let new = || -> Vec<(String, (String, Option<u64>))> {
            flows(b, &of).into_iter().filter(|(client, _)| !before.contains(client)).collect()
        };
        wait_until("the flows to be there", LIMIT, || new().len() >= 20)?;
        let elsewhere = new().into_iter().filter(|(_, (target, _))| target != home).count();
        assert_eq!(elsewhere, 0, "{of} left {home}: {:?}", new());
    }
    lab.finish()
}

/// From which targets is chosen says nothing of the connections that are known.
#[test]
fn connections_keep_their_target_whatever_the_other_node_would_choose_from() -> Result<()> {
    let lab = forwarding("replication rings", every("100ms"))?;
    let [a, b] = lab.nodes();
    // b would choose none of those that a has chosen: it is a reload ahead.
    let whole = std::fs::read_to_string(lab.dir().join("pair.toml")).expect("the configuration");
    let ahead = whole.replace("id = \"t1\", ", "id = \"t1\", weight = 0, ");
    assert_ne!(ahead, whole);
    lab.write_config_text(&ahead)?;
    assert_eq!(b.send("lbd", "POST", "/v1/reload", "")?.status, 200);
    ready(b)?;
    synced(b)?;
    let mut probes = connections(&lab, 50)?;
    for vip in vips() {
        for what in ["dsr-echo", "nat-echo"] {
            let service = service(what, vip, 0);
            let of_first = format!("{service}/t1");
            let known = || flows(b, &service).into_values().filter(|(target, _)| *target == of_first).count();
            wait_until(&format!("b to know those of {of_first}"), LIMIT, || known() > 0)?;
        }
    }
    // And a chooses from another ring again and again while connections begin, the last time in its last moment.
    for weight in [9, 1, 7, 2, 0] {
        probes.extend(connections(&lab, 10)?);
        for vip in vips() {
            for what in ["dsr-echo", "nat-echo"] {
                let path = format!("/v1/target-groups/{}/targets/t2", service(what, vip, 0));
                let body = format!("{{\"weight\":{weight}}}");
                assert_eq!(a.send("lbd", "PATCH", &path, &body)?.status, 200);
            }
        }
    }
    dies(a)?;
    b.wait_role("web", "active", LIMIT)?;
    owned_by(&lab, b)?;
    all_survived(probes)?;
    lab.finish()
}

/// Flows of a group that the other node's service has turned away from already are known there as well, and go on.
#[test]
fn connections_of_a_former_group_go_on_at_the_other_node() -> Result<()> {
    let lab = forwarding("replication former", every("100ms"))?;
    let [a, b] = lab.nodes();
    let (direct, translated) = lab.targets().split_at(DIRECT_TARGETS);
    let mut text = std::fs::read_to_string(lab.dir().join("pair.toml")).expect("the configuration");
    let mut services = Vec::new();
    for vip in vips() {
        for (what, targets) in [("dsr-echo", direct), ("nat-echo", translated)] {
            let service = service(what, vip, 0);
            let forward = format!("forward = \"{service}\"");
            assert!(text.contains(&forward), "{text}");
            text = text.replace(&forward, &format!("forward = \"next-{service}\""));
            let target = &targets[1];
            let ip: IpAddr = if vip.is_ipv4() { target.v4().into() } else { target.v6().into() };
            text += &format!(
                "\n[[target_group]]\nname = \"next-{service}\"\ntargets = [{{ id = \"next\", address = \"{}\" }}]\n",
                SocketAddr::new(ip, 7)
            );
            services.push(service);
        }
    }
    lab.write_config_text(&text)?;
    let reload = |node: &Node| -> Result<()> {
        assert_eq!(node.send("lbd", "POST", "/v1/reload", "")?.status, 200);
        ready(node)?;
        lab.nodes().into_iter().try_for_each(synced)
    };
    reload(b)?;
    let mut probes = connections(&lab, 20)?;
    let all_known = |count: usize, groups: &[&str]| {
        services.iter().try_for_each(|service| {
            wait_until(&format!("b to know the flows of {service}"), LIMIT, || {
                let known = targets(b, service);
                let is_of = |group: &&str| {
                    known.values().any(|target| target.starts_with(&format!("{group}{service}/")))
                };
                known.len() == count && known == targets(a, service) && groups.iter().all(is_of)
            })
        })
    };
    all_known(20, &[""])?;
    reload(a)?;
    let mut count = 20;
    wait_until("a to turn to the other groups", LIMIT, || {
        let Ok(more) = connections(&lab, 5) else { return false };
        probes.extend(more);
        count += 5;
        services.iter().all(|service| targets(a, service).values().any(|target| target.starts_with("next-")))
    })?;
    all_known(count, &["", "next-"])?;
    dies(a)?;
    b.wait_role("web", "active", LIMIT)?;
    owned_by(&lab, b)?;
    all_survived(probes)?;
    lab.finish()
}

/// Text for nft: nothing passes between the `lbd`s.
const CUT: &str = "table inet cut {\nchain in {\ntype filter hook input priority 0\ntcp dport 7112 drop\ntcp sport 7112 drop\n}\n}\n";

/// So often an `lbd` is killed in a row, as soon as it has a session: while it is being told everything.
const KILLED_IN_A_ROW: u64 = 5;

/// How often the cable between the nodes is pulled, and how long it is out, and in again.
const PULLS: usize = 10;
const PULL: Duration = Duration::from_millis(100);

/// Sessions with the other node that a node has had, and those of them that have ended.
fn sessions(node: &Node) -> [u64; 2] {
    ["tandem_lbd_peer_sessions_total", "tandem_lbd_peer_sessions_ended_total"]
        .map(|metric| counted(node, metric, ""))
}

/// Lets some time pass in which something is broken.
fn pass(time: Duration) -> Result<()> {
    let begun = now();
    wait_until("some time to pass", LIMIT, || now() - begun > time)
}

/// What is between the nodes breaks, for longer than a session lasts without a word, for less, and again and again.
fn flap(lab: &Lab) -> Result<()> {
    let a = lab.a();
    for too_long in [true, false, false, false] {
        a.namespace().run_with("nft", &["-f", "-"], CUT)?;
        if too_long {
            wait_until("a to give the session up", LIMIT, || replication(a)["state"] == "stale")?;
        } else {
            pass(2 * PULL)?;
        }
        a.namespace().run_with("nft", &["-f", "-"], "delete table inet cut")?;
        lab.nodes().into_iter().try_for_each(synced)?;
    }
    for _ in 0..PULLS {
        lab.inject(&Fault::PeerDown)?;
        pass(PULL)?;
        lab.heal(&Fault::PeerDown)?;
        pass(PULL)?;
    }
    lab.nodes().into_iter().try_for_each(synced)
}

/// The other node's `lbd` dies and comes back, with what begins meanwhile, and then again and again. Answers with the connections that have begun.
fn restart(lab: &Lab) -> Result<Vec<EchoProbe>> {
    let [a, b] = lab.nodes();
    let kill = || -> Result<()> {
        b.signal("lbd", Signal::SIGKILL)?;
        b.wait_end("lbd", LIMIT).map(drop)
    };
    // Connections that a begins while b is not there, it learns of when it is back.
    let mut more = Vec::new();
    for _ in 0..3 {
        kill()?;
        more.extend(connections(lab, 10)?);
        b.start_lbd()?;
        ready(b)?;
        synced(b)?;
    }
    for _ in 0..KILLED_IN_A_ROW {
        kill()?;
        let [before, _] = sessions(a);
        b.start_lbd()?;
        wait_until("a session with the next one", LIMIT, || sessions(a)[0] > before)?;
    }
    ready(b)?;
    lab.nodes().into_iter().try_for_each(synced)?;
    Ok(more)
}

#[test]
fn a_link_that_flaps_and_a_peer_that_restarts_move_no_role() -> Result<()> {
    let lab = forwarding("replication flaps", every("100ms"))?;
    let [a, b] = lab.nodes();
    let probes = connections(&lab, 20)?;
    let load = Load::begin(&lab, WITHOUT_LOSS)?;
    let (roles, memory) = (lab.nodes().map(transitions), memory_kib(a, "lbd", "VmHWM"));
    let before = sessions(a);
    flap(&lab)?;
    load.steady()?;
    let more = restart(&lab)?;
    load.steady()?;
    // Nobody has noticed, and all of it is counted: at the least what was too long, and each of the restarts.
    load.end()?;
    let [begun, ended] = sessions(a);
    let least = 1 + 3 + KILLED_IN_A_ROW;
    assert!(begun >= before[0] + least && ended >= before[1] + least, "{before:?}, {begun} and {ended}");
    assert!(replication(a)["snapshots_sent"].as_u64() > Some(4), "{}", replication(a));
    let most = memory_kib(a, "lbd", "VmHWM");
    assert!(most <= memory + LBD_GROWTH_MAX_KIB, "a's lbd grew from {memory} to {most} KiB");
    // b's own lbd was gone, which its vrrpd says; a stayed what it was.
    assert_eq!(lab.nodes().map(transitions), roles);
    assert_eq!((not_active(a), forwarded(b)), (0, 0), "the role has not moved");
    agreed(&lab, a)?;
    dies(a)?;
    b.wait_role("web", "active", LIMIT)?;
    owned_by(&lab, b)?;
    all_survived(probes.into_iter().chain(more).collect())?;
    lab.finish()
}

#[test]
fn a_kernel_part_that_starts_later_is_told_everything() -> Result<()> {
    let lab = forwarding("replication later", every("100ms"))?;
    let [a, b] = lab.nodes();
    let probes = connections(&lab, 50)?;
    // b forwards nothing for a while, and knows of no flow.
    let whole = std::fs::read_to_string(lab.dir().join("pair.toml")).expect("the configuration");
    let (without, _) = whole.split_once("[[service]]").expect("there are services");
    lab.write_config_text(without)?;
    assert_eq!(b.send("lbd", "POST", "/v1/reload", "")?.status, 200);
    wait_until("b to forward nothing", LIMIT, || {
        kernel(b)["interfaces"].as_array().is_none_or(Vec::is_empty)
    })?;
    let more = connections(&lab, 50)?;
    wait_until("both to say that their configurations differ", LIMIT, || {
        lab.nodes().iter().all(|node| replication(node)["config_differs"] == true)
    })?;
    lab.write_config_text(&whole)?;
    assert_eq!(b.send("lbd", "POST", "/v1/reload", "")?.status, 200);
    ready(b)?;
    synced(b)?;
    wait_until("both to say that their configurations are the same", LIMIT, || {
        lab.nodes().iter().all(|node| replication(node)["config_differs"] == false)
    })?;
    for vip in vips() {
        for what in ["dsr-echo", "nat-echo"] {
            let service = service(what, vip, 0);
            wait_until(&format!("b to know the flows of {service}"), LIMIT, || {
                let known = flows(b, &service);
                known.len() == 100 && known == flows(a, &service)
            })?;
        }
    }
    dies(a)?;
    b.wait_role("web", "active", LIMIT)?;
    owned_by(&lab, b)?;
    all_survived(probes.into_iter().chain(more).collect())?;
    lab.finish()
}

#[test]
fn a_table_that_is_full_on_one_side_is_counted_and_harms_nobody() -> Result<()> {
    // The smallest there is, on b alone.
    const FEW: u64 = 1000;
    let lab = forwarding("replication full", every("100ms"))?;
    let [a, b] = lab.nodes();
    let whole = std::fs::read_to_string(lab.dir().join("pair.toml")).expect("the configuration");
    lab.write_config_text(&format!("{whole}\n[kernel]\nmax_flows = {FEW}\n"))?;
    b.stop("lbd")?;
    b.start_lbd()?;
    ready(b)?;
    synced(b)?;
    let roles = [transitions(a), transitions(b)];
    let probes = connections(&lab, 500)?;
    // Of 2,000 connections.
    let refused = || {
        let skipped = &replication(b)["skipped"];
        ["flows_full", "table_full"].iter().filter_map(|reason| skipped[reason].as_u64()).sum::<u64>()
    };
    wait_until("b to have counted what has no room", LIMIT, || refused() > 500)?;
    wait_until("b's table to be full", LIMIT, || {
        replication(b)["entries"]["flows"].as_u64().is_some_and(|count| count > FEW / 2)
    })?;
    let entries = replication(b)["entries"]["flows"].as_u64();
    assert!(entries <= Some(FEW), "{entries:?}");
    wait_until("a to hear of that", LIMIT, || replication(a)["peer_refused"].as_u64() > Some(500))?;
    assert_eq!(replication(a)["sizes_differ"], serde_json::json!(["flows"]));
    for node in lab.nodes() {
        assert!(node.running("lbd") && node.running("vrrpd"));
    }
    assert_eq!([transitions(a), transitions(b)], roles);
    all_survived(probes)?;
    // And a new one is served, by a.
    for vip in vips() {
        let server = SocketAddr::new(vip, NAT_ECHO);
        lab.client().namespace().inside(|| echo(server))?.map_err(|error| error.kind()).unwrap_or_else(
            |kind| {
                assert_ne!(kind, ErrorKind::ConnectionRefused, "{server}");
                panic!("{server}: {kind}");
            },
        );
    }
    lab.finish()
}
