//! What the two daemons of a pair know of each other's tables.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use crate::peer;
use crate::server::Server;
use crate::support::{Config, Lbd, eventually, metric, own_ip, ping};

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

fn servers(count: usize) -> Vec<Server> {
    let ip = own_ip();
    (0..count).map(|_| Server::echo((ip, 0).into())).collect()
}

fn addresses(servers: &[Server]) -> Vec<SocketAddr> {
    servers.iter().map(|server| server.address).collect()
}

fn set(lbd: &Lbd, target: &str, body: &Value) {
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

fn becomes(lbd: &Lbd, expected: &[&str]) {
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
    assert_eq!(state(a)["entries"]["targets"], 2);
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
    // The same with the link cut: whichever was said last, by whatever many words.
    let mut cut = pair.configs[1].clone();
    cut.head = cut.head.replace("key_file = \"pair.key\"", "");
    assert_eq!(b.reload(&cut).0, 200);
    eventually("the link is cut", || a.status()["replication"]["link"]["state"] != "connected");
    set(b, "t1", &json!({ "state": "maint" }));
    for weight in 0..10 {
        set(b, "t0", &json!({ "weight": weight + 100 }));
    }
    set(a, "t0", &json!({ "state": "drain", "weight": 3 }));
    assert_eq!(b.reload(&pair.configs[1]).0, 200);
    becomes(a, &["drain 3*", "maint 1"]);
    becomes(b, &["drain 3*", "maint 1"]);
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
    assert_eq!(state(b)["skipped"]["no_service_or_target"], 1);
    assert_eq!(metric(b, "tandem_lbd_replication_refused_total")["{table=\"targets\"}"], 1);
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
    addresses[1] = crate::support::free(pair.ips[1]);
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
