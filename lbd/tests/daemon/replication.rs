//! What the two daemons of a pair know of each other's tables.

use std::collections::{BTreeMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::clients::{beside, fetch_from};
use crate::peer;
use crate::server::Server;
use crate::support::{Config, Lbd, eventually, free, metric, own_ip, ping};
use crate::udp::{self, Answering};

/// Two nodes with the same targets, each on an address of its own.
pub(crate) struct Pair {
    ips: [Ipv4Addr; 2],
    pub(crate) configs: [Config; 2],
    pub(crate) nodes: [Lbd; 2],
}

impl Pair {
    /// Nodes with these targets, whose configurations `change` makes what they are to be.
    pub(crate) fn start(targets: &[SocketAddr], change: impl Fn(&mut Config)) -> Self {
        let ips = [own_ip(), own_ip()];
        let configs = [0, 1].map(|node| {
            let mut config = Config::new(ips[node], targets);
            config.head = peer::head(ips);
            config.node = Some(["a", "b"][node].to_owned());
            change(&mut config);
            config
        });
        let nodes = configs.each_ref().map(|config| peer::start(config, '7'));
        let pair = Self { ips, configs, nodes };
        pair.in_sync();
        pair
    }

    /// Waits until each has everything of the other.
    pub(crate) fn in_sync(&self) {
        for lbd in &self.nodes {
            eventually("both nodes have everything", || {
                let state = state(lbd);
                state["state"] == "synced" && state["peer_synced"] == true
            });
        }
    }

    /// Kills a node, and starts it again, with nothing in its memory.
    pub(crate) fn restart(&mut self, node: usize) {
        self.nodes[node].kill();
        self.nodes[node] = peer::start(&self.configs[node], '7');
        self.in_sync();
    }
}

/// What a node says of its replication.
pub(crate) fn state(lbd: &Lbd) -> Value {
    let (code, body) = lbd.ask("GET", "/v1/replication");
    assert_eq!(code, 200, "{body}");
    serde_json::from_str::<Value>(&body).unwrap()["state"].clone()
}

/// Waits until a node knows so many entries of a table.
pub(crate) fn counts(lbd: &Lbd, table: &str, count: usize) {
    eventually(&format!("there are {count} {table}"), || state(lbd)["entries"][table] == count);
}

fn servers(count: usize) -> Vec<Server> {
    let ip = own_ip();
    (0..count).map(|_| Server::echo((ip, 0).into())).collect()
}

fn addresses(servers: &[Server]) -> Vec<SocketAddr> {
    servers.iter().map(|server| server.address).collect()
}

pub(crate) fn set(lbd: &Lbd, target: &str, body: &Value) {
    let (code, answer) = lbd.send("PATCH", &format!("/v1/target-groups/pool/targets/{target}"), body);
    assert_eq!(code, 200, "{answer}");
}

/// State and weight of each target, with an asterisk where the weight is an administrator's.
fn said(lbd: &Lbd) -> Vec<String> {
    let targets = lbd.status()["target_groups"][0]["targets"].clone();
    let text = |target: &Value| {
        let mark = if target["weight_overridden"] == true { "*" } else { "" };
        format!("{} {}{mark}", target["state"].as_str().unwrap(), target["weight"])
    };
    targets.as_array().unwrap().iter().map(text).collect()
}

pub(crate) fn becomes(lbd: &Lbd, expected: &[&str]) {
    eventually(&format!("the targets are {expected:?}"), || said(lbd) == expected);
}

#[test]
fn what_is_said_of_a_target_holds_on_both_nodes() {
    let servers = servers(3);
    let mut pair = Pair::start(&addresses(&servers), |_| ());
    let [a, b] = &pair.nodes;
    set(a, "t0", &json!({ "state": "drain" }));
    set(a, "t1", &json!({ "weight": 7 }));
    becomes(b, &["drain 1", "ready 7*", "ready 1"]);
    let output = b.command(&["set", "pool/t1", "--state", "maint", "--weight", "configured"]);
    assert!(output.status.success());
    becomes(a, &["drain 1", "maint 1", "ready 1"]);
    // The weights are in use: the other node's clients go by them.
    set(a, "t1", &json!({ "state": "ready", "weight": 0 }));
    becomes(b, &["drain 1", "ready 0*", "ready 1"]);
    for _ in 0..10 {
        assert_eq!(ping(&mut b.connect(), "x").unwrap(), "x");
    }
    assert_eq!(servers.iter().map(Server::accepted).collect::<Vec<_>>()[..2], [0, 0]);
    // That it is ready again is a word, too.
    set(b, "t0", &json!({ "state": "ready" }));
    becomes(a, &["ready 1", "ready 0*", "ready 1"]);
    counts(a, "targets", 2);
    // A node that begins with nothing gets it all from the other one.
    set(a, "t2", &json!({ "state": "maint", "weight": 256 }));
    let all = ["ready 1", "ready 0*", "maint 256*"];
    becomes(b, &all);
    for node in [0, 1] {
        pair.restart(node);
        becomes(&pair.nodes[node], &all);
        becomes(&pair.nodes[1 - node], &all);
    }
}

#[test]
fn of_words_that_crossed_each_other_the_later_one_stays_on_both_nodes() {
    let servers = servers(2);
    let pair = Pair::start(&addresses(&servers), |_| ());
    let [a, b] = &pair.nodes;
    for round in 0..20_u16 {
        let say = |lbd: &Lbd, weight: u16| set(lbd, "t0", &json!({ "weight": weight }));
        std::thread::scope(|scope| {
            scope.spawn(|| say(a, round * 2));
            scope.spawn(|| say(b, round * 2 + 1));
        });
        let words = [format!("ready {}*", round * 2), format!("ready {}*", round * 2 + 1)];
        eventually("both say the same", || {
            let [one, other] = [a, b].map(|lbd| said(lbd)[0].clone());
            words.contains(&one) && one == other
        });
    }
    // What is said while a node has no link is told when it has one.
    set(a, "t1", &json!({ "state": "drain" }));
    eventually("b has heard it", || said(b)[1] == "drain 1");
    let received = || state(b)["received"]["targets"].as_u64();
    let (before, mut cut) = (received(), pair.configs[1].clone());
    cut.head = cut.head.replace("key_file = \"pair.key\"", "");
    assert_eq!(b.reload(&cut).0, 200);
    eventually("the link is cut", || a.status()["replication"]["link"]["state"] != "connected");
    set(b, "t1", &json!({ "state": "maint" }));
    set(a, "t0", &json!({ "state": "drain", "weight": 3 }));
    assert_eq!(b.reload(&pair.configs[1]).0, 200);
    becomes(a, &["drain 3*", "maint 1"]);
    becomes(b, &["drain 3*", "maint 1"]);
    // What was counted before is counted on.
    eventually("b counts on", || received() > before);
}

#[test]
fn words_on_targets_that_only_one_node_has_are_refused_and_come_with_the_target() {
    let servers = servers(3);
    let addresses = addresses(&servers);
    let mut pair = Pair::start(&addresses[..2], |_| ());
    pair.configs[0].targets.push(("t2".to_owned(), addresses[2], 1));
    let [a, b] = &pair.nodes;
    assert_eq!(a.reload(&pair.configs[0]).0, 200);
    set(a, "t2", &json!({ "state": "drain" }));
    set(a, "t0", &json!({ "state": "drain" }));
    becomes(b, &["drain 1", "ready 1"]);
    eventually("it is counted", || state(b)["refused"]["targets"] == 1);
    let table = String::from_utf8(b.command(&["status"]).stdout).unwrap();
    assert!(table.contains("1 entries of the other node's had no place here"), "{table}");
    assert_eq!(state(b)["skipped"]["no_service_or_target"], 1);
    assert_eq!(metric(b, "tandem_lbd_replication_refused_total")["{table=\"targets\"}"], 1);
    // So does the node that has told it.
    eventually("it hears of it", || state(a)["peer_refused"] == 1);
    let table = String::from_utf8(a.command(&["status"]).stdout).unwrap();
    assert!(table.contains("1 entries of this node's had no place on the other one: compare"), "{table}");
    assert_eq!(state(a)["sizes_differ"], json!([]));
    pair.configs[1].targets.push(("t2".to_owned(), addresses[2], 1));
    assert_eq!(b.reload(&pair.configs[1]).0, 200);
    becomes(b, &["drain 1", "ready 1", "drain 1"]);
    // A target that was away is a new one, on whichever node.
    let mut without = pair.configs[1].clone();
    without.targets.remove(0);
    assert_eq!(b.reload(&without).0, 200);
    assert_eq!(said(a)[0], "drain 1");
    assert_eq!(b.reload(&pair.configs[1]).0, 200);
    becomes(b, &["ready 1", "ready 1", "drain 1"]);
    becomes(a, &["ready 1", "ready 1", "drain 1"]);
}

#[test]
fn each_node_shows_what_the_other_one_s_checks_say_and_goes_by_its_own() {
    let servers = servers(2);
    let mut addresses = addresses(&servers);
    let checked = |config: &mut Config| {
        config.group = "health = { tcp = true, interval = \"50ms\", timeout = \"40ms\" }".to_owned();
    };
    let mut pair = Pair::start(&addresses, checked);
    let seen = |lbd: &Lbd| {
        let targets = lbd.status()["target_groups"][0]["targets"].clone();
        let text =
            |target: &Value| format!("{} {}", target["health"], target["peer_health"]).replace('"', "");
        targets.as_array().unwrap().iter().map(text).collect::<Vec<_>>()
    };
    for lbd in &pair.nodes {
        eventually("both say the same", || seen(lbd) == ["healthy healthy"; 2]);
        assert!(!String::from_utf8(lbd.command(&["status"]).stdout).unwrap().contains("other node:"));
    }
    // For one of the nodes a target is where nobody answers.
    addresses[1] = free(pair.ips[1]);
    pair.configs[1].targets[1].1 = addresses[1];
    assert_eq!(pair.nodes[1].reload(&pair.configs[1]).0, 200);
    let [a, b] = &pair.nodes;
    eventually("the difference shows", || seen(a) == ["healthy healthy", "healthy unhealthy"]);
    eventually("on both", || seen(b) == ["healthy healthy", "unhealthy healthy"]);
    let table = String::from_utf8(a.command(&["status"]).stdout).unwrap();
    assert!(table.contains("healthy (other node: unhealthy)"), "{table}");
    let (_, metrics) = a.ask("GET", "/metrics");
    let differs = metrics.lines().filter(|line| line.starts_with("tandem_lbd_target_health_differs{"));
    let values: Vec<_> = differs.filter_map(|line| line.rsplit(' ').next()).collect();
    assert_eq!(values, ["0.0", "1.0"]);
    // What the other node said last is nothing to compare with.
    pair.nodes[1].kill();
    eventually("it is forgotten", || seen(&pair.nodes[0]) == ["healthy null"; 2]);
}

#[test]
fn changes_that_wait_for_the_other_node_show_for_how_long() {
    let servers = servers(2);
    let mut pair = Pair::start(&addresses(&servers), |_| ());
    let lag = |lbd: &Lbd| {
        let (_, metrics) = lbd.ask("GET", "/metrics");
        let value = metrics.lines().find_map(|line| line.strip_prefix("tandem_lbd_replication_lag_seconds "));
        value.and_then(|value| value.parse::<f64>().ok()).unwrap()
    };
    let none_waits =
        |lbd: &Lbd| eventually("nothing waits", || state(lbd)["lag_ms"] == 0 && lag(lbd) < 0.001);
    none_waits(&pair.nodes[0]);
    pair.nodes[1].kill();
    let a = &pair.nodes[0];
    eventually("it is seen", || a.status()["replication"]["link"]["state"] != "connected");
    set(a, "t0", &json!({ "state": "drain" }));
    // It grows, although nothing else happens.
    eventually("it has been waiting", || lag(a) > 2.5);
    assert!(state(a)["lag_ms"].as_u64() > Some(2500), "{}", state(a));
    let table = String::from_utf8(a.command(&["status"]).stdout).unwrap();
    assert!(table.contains("the other node has not been told of changes for "), "{table}");
    pair.nodes[1] = peer::start(&pair.configs[1], '7');
    pair.in_sync();
    none_waits(&pair.nodes[0]);
}

const NAMES: [&str; 4] = ["w", "x", "y", "z"];

fn named(ip: Ipv4Addr) -> [Server; 4] {
    NAMES.map(|name| Server::named((ip, 0).into(), name))
}

/// The sticky clients that a node knows, with the ids of their targets.
pub(crate) fn sticky(lbd: &Lbd) -> BTreeMap<String, String> {
    clients(lbd).into_iter().map(|(source, (target, _))| (source, target)).collect()
}

/// The same with the rest of their time, in milliseconds.
fn clients(lbd: &Lbd) -> BTreeMap<String, (String, u64)> {
    let shown: Value = serde_json::from_str(&lbd.ask("GET", "/v1/sticky").1).unwrap();
    let client = |client: &Value| {
        let text = |key: &str| client[key].as_str().unwrap().to_owned();
        (text("source"), (text("target"), client["remaining_ms"].as_u64().unwrap()))
    };
    shown[0]["clients"].as_array().unwrap().iter().map(client).collect()
}

#[test]
fn clients_keep_their_target_on_the_other_node() {
    let ip = own_ip();
    let servers = named(ip);
    let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
    let mut pair = Pair::start(&addresses, |config| {
        config.group = "algorithm = \"random\"\nsticky = { by = \"source_ip\" }".to_owned();
    });
    let sources: Vec<_> = (0..40).map(|number| beside(ip, number)).collect();
    let homes = |lbd: &Lbd, sources: &[Ipv4Addr]| -> Vec<String> {
        sources.iter().map(|&source| fetch_from(source, lbd.address).unwrap()).collect()
    };
    let first = homes(&pair.nodes[0], &sources[..30]);
    eventually("the other node knows them", || sticky(&pair.nodes[1]).len() == 30);
    assert_eq!(homes(&pair.nodes[1], &sources[..30]), first);
    // Ten more begin at the other node.
    let more = homes(&pair.nodes[1], &sources[30..]);
    let all = [first, more].concat();
    eventually("the first one knows those, too", || sticky(&pair.nodes[0]).len() == 40);
    counts(&pair.nodes[0], "sticky", 40);
    let table = String::from_utf8(pair.nodes[0].command(&["status"]).stdout).unwrap();
    assert!(table.contains("0 flows, 40 sticky clients of both, "), "{table}");
    assert_eq!(homes(&pair.nodes[0], &sources), all);
    // Whoever of them dies, and comes back with nothing.
    for node in [0, 1] {
        pair.restart(node);
        assert_eq!(homes(&pair.nodes[node], &sources), all);
        let [one, other] = &pair.nodes;
        eventually("both know the same", || sticky(one) == sticky(other));
    }
    // One that only a target's failure moves is told, too.
    let [a, b] = &pair.nodes;
    let down = format!("t{}", NAMES.iter().position(|name| *name == all[0]).unwrap());
    set(a, &down, &json!({ "state": "maint" }));
    let moved = homes(a, &sources);
    assert!(!moved.contains(&all[0]));
    eventually("both know the new ones", || sticky(a) == sticky(b));
    set(a, &down, &json!({ "state": "ready" }));
    becomes(b, &["ready 1"; 4]);
    assert_eq!(homes(b, &sources), moved);
}

#[test]
fn what_is_left_of_a_client_s_time_is_told_and_both_tables_keep_their_bound() {
    let ip = own_ip();
    let servers = named(ip);
    let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
    let mut pair = Pair::start(&addresses, |config| {
        config.group = "sticky = { by = \"source_ip\", ttl = \"20s\", max_entries = 10 }".to_owned();
    });
    let fetch = |lbd: &Lbd, number| fetch_from(beside(ip, number), lbd.address).unwrap();
    let begin = Instant::now();
    fetch(&pair.nodes[0], 0);
    eventually("the other node knows it", || sticky(&pair.nodes[1]).len() == 1);
    eventually("a second has passed", || begin.elapsed() > Duration::from_secs(1));
    pair.restart(1);
    let left = || clients(&pair.nodes[1]).values().map(|client| client.1).collect::<Vec<_>>();
    let passed = u64::try_from(begin.elapsed().as_millis()).unwrap();
    let left = left();
    // A node that counted anew would say 20 s.
    assert!(left.len() == 1 && left[0] <= 19_000 && left[0] + passed + 2000 >= 20_000, "{left:?} {passed}");
    // Coming back makes it last longer on both.
    fetch(&pair.nodes[1], 0);
    eventually("it lasts longer", || clients(&pair.nodes[0]).values().all(|client| client.1 > 19_000));
    for number in 0..30 {
        fetch(&pair.nodes[usize::from(number % 2)], number);
        assert!(pair.nodes.iter().all(|lbd| sticky(lbd).len() <= 10));
    }
    let [a, b] = &pair.nodes;
    let last = beside(ip, 29).to_string();
    eventually("both have the last one", || [a, b].iter().all(|lbd| sticky(lbd).contains_key(&last)));
    assert!(metric(a, "tandem_lbd_group_sticky_forgotten_total").values().sum::<u64>() > 0);
    // What made room on one node is known there no longer, and what both know they know alike.
    for lbd in [a, b] {
        eventually("no more is known than there is", || state(lbd)["entries"]["sticky"] == sticky(lbd).len());
    }
    let (one, other) = (sticky(a), sticky(b));
    // How many that are depends on what was told in time.
    assert!(one.len() >= 2 && other.len() >= 2, "{one:?} {other:?}");
    assert!(one.iter().all(|(source, home)| other.get(source).is_none_or(|known| known == home)));
}

#[test]
fn what_changes_faster_than_it_can_be_told_is_found_by_a_new_snapshot() {
    let ip = own_ip();
    let servers = named(ip);
    let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
    let pair = Pair::start(&addresses, |config| {
        config.group = "sticky = { by = \"source_ip\", max_entries = 1 }".to_owned();
    });
    let [a, b] = &pair.nodes;
    let flood = |first: u8| {
        for number in 0..60 {
            fetch_from(beside(ip, first + number), a.address).unwrap();
        }
    };
    eventually("the snapshot has begun anew", || {
        std::thread::scope(|scope| {
            for first in [0, 60, 120, 180] {
                scope.spawn(move || flood(first));
            }
        });
        state(a)["resyncs"].as_u64() > Some(0)
    });
    eventually("both have the same", || sticky(a).len() == 1 && sticky(a) == sticky(b));
    pair.in_sync();
}

#[test]
fn sessions_of_udp_go_on_with_their_target_on_the_other_node() {
    let targets_at = own_ip();
    let targets = NAMES.map(|name| Answering::named(targets_at, name));
    let addresses: Vec<SocketAddr> = targets.iter().map(|target| target.address).collect();
    let mut pair = Pair::start(&addresses, |config| {
        config.mode = "udp".to_owned();
        config.service = "timeout = { idle = \"30s\" }".to_owned();
        config.group = "algorithm = \"random\"".to_owned();
    });
    let taken_over = pair.configs[0].listen.clone();
    let clients: Vec<_> = (0..40).map(|_| udp::client(targets_at, pair.nodes[0].address)).collect();
    let home = |client: &std::net::UdpSocket| String::from_utf8(udp::insist(client, b"?")).unwrap();
    let homes: Vec<String> = clients.iter().map(home).collect();
    assert!(homes.iter().collect::<HashSet<_>>().len() > 1);
    counts(&pair.nodes[1], "udp_sessions", 40);
    // The targets drain meanwhile: sessions there are may go on, on whichever node.
    set(&pair.nodes[0], "t3", &json!({ "state": "drain" }));
    becomes(&pair.nodes[1], &["ready 1", "ready 1", "ready 1", "drain 1"]);
    pair.nodes[0].kill();
    pair.configs[1].listen.extend(&taken_over);
    assert_eq!(pair.nodes[1].reload(&pair.configs[1]).0, 200);
    assert_eq!(clients.iter().map(home).collect::<Vec<_>>(), homes);
    // And back: the first node begins with nothing.
    pair.configs[0].listen = vec![free(pair.ips[0])];
    pair.restart(0);
    counts(&pair.nodes[0], "udp_sessions", 40);
    pair.nodes[1].kill();
    pair.configs[0].listen.extend(&taken_over);
    assert_eq!(pair.nodes[0].reload(&pair.configs[0]).0, 200);
    assert_eq!(clients.iter().map(home).collect::<Vec<_>>(), homes);
}

#[test]
fn a_udp_session_that_ends_is_forgotten_by_both_and_one_that_goes_on_is_not() {
    let ip = own_ip();
    let target = Answering::echo(ip);
    let pair = Pair::start(&[target.address], |config| {
        config.mode = "udp".to_owned();
        config.service = "timeout = { idle = \"1s\" }".to_owned();
    });
    let [a, b] = &pair.nodes;
    let (lively, silent) = (udp::client(ip, a.address), udp::client(ip, a.address));
    for client in [&lively, &silent] {
        udp::insist(client, b"?");
    }
    counts(b, "udp_sessions", 2);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(3) {
        udp::insist(&lively, b"?");
        assert!(state(b)["entries"]["udp_sessions"].as_u64() >= Some(1));
        std::thread::sleep(Duration::from_millis(50));
    }
    counts(b, "udp_sessions", 1);
    for lbd in [a, b] {
        counts(lbd, "udp_sessions", 0);
    }
}

#[test]
fn both_nodes_together_keep_to_a_rate_of_the_pair() {
    for (key, scope, admitted) in
        [("source_ip", "pair", 10), ("service", "pair", 10), ("source_ip", "node", 20)]
    {
        let ip = own_ip();
        let server = Server::named((ip, 0).into(), "in");
        let mut pair = Pair::start(&[server.address], |config| {
            config.service =
                format!("rate = {{ key = \"{key}\", requests = 10, per = \"1h\", scope = \"{scope}\" }}");
        });
        let client = beside(ip, 1);
        let mut count = 0;
        for turn in 0..30 {
            let lbd = &pair.nodes[turn % 2];
            if fetch_from(client, lbd.address).is_ok_and(|text| text == "in") {
                count += 1;
                let told = |lbd: &Lbd| state(lbd)["dirty"] == 0 && state(lbd)["unacknowledged_bytes"] == 0;
                let peer = &pair.nodes[1 - turn % 2];
                let turns = u64::try_from(turn / 2 + 1).unwrap();
                eventually("the other node has heard of it", || {
                    scope == "node" || told(lbd) && state(peer)["received"]["rates"].as_u64() >= Some(turns)
                });
            }
        }
        assert_eq!(count, admitted, "{key} {scope}");
        // A node that begins with nothing knows that nothing is left, also of what the one before it took that began so.
        for node in [1, 0, 1] {
            pair.restart(node);
            let refused = fetch_from(client, pair.nodes[node].address).is_err();
            assert_eq!(refused, scope == "pair", "{key} {scope}");
        }
    }
}
