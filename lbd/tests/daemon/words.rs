//! What people say of targets, and who belongs to a group, on either node of a pair.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::clients::{beside, fetch_from};
use crate::replication::{Pair, becomes, counts, set, state, sticky};
use crate::server::Server;
use crate::support::{Lbd, eventually, own_ip, ping};

const TARGETS: &str = "/v1/target-groups/pool/targets";

fn servers(count: usize) -> (Vec<Server>, Vec<SocketAddr>) {
    let ip = own_ip();
    let servers: Vec<Server> = (0..count).map(|_| Server::echo((ip, 0).into())).collect();
    let addresses = servers.iter().map(|server| server.address).collect();
    (servers, addresses)
}

fn add(lbd: &Lbd, body: &Value) {
    let (code, answer) = lbd.send("POST", TARGETS, body);
    assert_eq!(code, 201, "{answer}");
}

fn delete(lbd: &Lbd, target: &str) {
    let (code, answer) = lbd.ask("DELETE", &format!("{TARGETS}/{target}"));
    assert_eq!(code, 200, "{answer}");
}

/// The targets of its group by their ids: address, from where each is, and how it is to be used.
fn members(lbd: &Lbd) -> BTreeMap<String, String> {
    let targets = lbd.status()["target_groups"][0]["targets"].clone();
    let text = |target: &Value| {
        let parts = ["address", "source", "weight", "backup", "zone", "connections_max"];
        parts.map(|part| target[part].to_string().replace('"', "")).join(" ")
    };
    let there = targets.as_array().unwrap().iter().filter(|target| target["reason"] != "removed");
    there.map(|target| (target["id"].as_str().unwrap().to_owned(), text(target))).collect()
}

fn have(nodes: &[Lbd; 2], expected: &[(&str, String)]) {
    let expected: BTreeMap<String, String> =
        expected.iter().map(|(id, text)| ((*id).to_owned(), text.clone())).collect();
    for lbd in nodes {
        eventually(&format!("the targets are {expected:?}"), || members(lbd) == expected);
    }
}

fn plain(address: SocketAddr, source: &str) -> String {
    format!("{address} {source} 1 false null null")
}

#[test]
fn targets_that_are_added_and_deleted_are_so_on_both_nodes() {
    let (servers, addresses) = servers(5);
    let mut pair = Pair::start(&addresses[..2], |_| ());
    let file = |index: usize| plain(addresses[index], "file");
    let [a, b] = &pair.nodes;
    let keys = json!({ "id": "x", "address": addresses[2], "weight": 3, "backup": true, "zone": "west", "max_connections": 9 });
    add(a, &keys);
    let x = format!("{} added 3 true west 9", addresses[2]);
    have(&pair.nodes, &[("t0", file(0)), ("t1", file(1)), ("x", x.clone())]);
    // What is said of it, too, whoever was told first.
    set(b, "x", &json!({ "state": "drain" }));
    becomes(a, &["ready 1", "ready 1", "drain 3"]);
    set(a, "x", &json!({ "state": "ready", "weight": 5 }));
    delete(b, "t0");
    let x = x.replace(" 3 ", " 5 ");
    have(&pair.nodes, &[("t1", file(1)), ("x", x.clone())]);
    // The file's target is another one now, and one more comes.
    add(b, &json!({ "id": "t0", "address": addresses[3] }));
    add(a, &json!({ "id": "y", "address": addresses[4] }));
    let all = [
        ("t0", plain(addresses[3], "added")),
        ("t1", file(1)),
        ("x", x.clone()),
        ("y", plain(addresses[4], "added")),
    ];
    have(&pair.nodes, &all);
    for lbd in [a, b] {
        counts(lbd, "members", 3);
        for _ in 0..12 {
            assert_eq!(ping(&mut lbd.connect(), "x").unwrap(), "x");
        }
    }
    assert_eq!(servers[0].accepted(), 0, "it was deleted before anybody came");
    assert!(
        servers[3].accepted() > 0 && servers[4].accepted() > 0,
        "those that were added are in use on both"
    );
    // A node that begins with nothing gets it all from the other one.
    for node in [0, 1] {
        pair.restart(node);
        have(&pair.nodes, &all);
    }
    let [a, b] = &pair.nodes;
    delete(a, "x");
    delete(b, "t0");
    add(b, &json!({ "id": "t0", "address": addresses[0] }));
    delete(b, "y");
    have(&pair.nodes, &[("t0", file(0)), ("t1", file(1))]);
    for node in [1, 0] {
        pair.restart(node);
        have(&pair.nodes, &[("t0", file(0)), ("t1", file(1))]);
    }
}

#[test]
fn a_target_that_the_file_takes_over_is_there_all_the_time_and_the_word_on_it_is_forgotten() {
    let (_servers, addresses) = servers(3);
    let mut pair = Pair::start(&addresses[..2], |_| ());
    add(&pair.nodes[0], &json!({ "id": "t2", "address": addresses[2] }));
    let with = |source: &str| {
        [
            ("t0", plain(addresses[0], "file")),
            ("t1", plain(addresses[1], "file")),
            ("t2", plain(addresses[2], source)),
        ]
    };
    have(&pair.nodes, &with("added"));
    for node in [0, 1] {
        pair.configs[node].targets.push(("t2".to_owned(), addresses[2], 1));
        assert_eq!(pair.nodes[node].reload(&pair.configs[node]).0, 200);
        for lbd in &pair.nodes {
            assert!(members(lbd).contains_key("t2"));
            counts(lbd, "members", 0);
            assert!(members(lbd).contains_key("t2"));
        }
    }
    have(&pair.nodes, &with("file"));
    // Nobody brings it back once the file does without.
    for node in [0, 1] {
        pair.configs[node].targets.pop();
        assert_eq!(pair.nodes[node].reload(&pair.configs[node]).0, 200);
    }
    pair.restart(0);
    have(&pair.nodes, &with("file")[..2]);
}

#[test]
fn of_two_targets_at_one_address_the_other_node_s_waits() {
    let (_servers, addresses) = servers(3);
    let mut pair = Pair::start(&addresses[..2], |_| ());
    pair.configs[1].targets.push(("mine".to_owned(), addresses[2], 1));
    let [a, b] = &pair.nodes;
    assert_eq!(b.reload(&pair.configs[1]).0, 200);
    add(a, &json!({ "id": "yours", "address": addresses[2] }));
    b.says("another one has its address here");
    assert!(members(b).contains_key("mine") && !members(b).contains_key("yours"));
    // All else goes on.
    set(a, "t0", &json!({ "state": "drain" }));
    becomes(b, &["drain 1", "ready 1", "ready 1"]);
    pair.configs[1].targets.pop();
    assert_eq!(b.reload(&pair.configs[1]).0, 200);
    let file = |index: usize| plain(addresses[index], "file");
    let yours = plain(addresses[2], "added");
    have(&pair.nodes, &[("t0", file(0)), ("t1", file(1)), ("yours", yours)]);
}

#[test]
fn targets_that_change_places_while_the_link_is_down_have_done_so_on_both_nodes() {
    let (_servers, addresses) = servers(4);
    let pair = Pair::start(&addresses[..1], |_| ());
    let [a, b] = &pair.nodes;
    for (id, index) in [("x", 1), ("y", 2), ("old", 3)] {
        add(a, &json!({ "id": id, "address": addresses[index] }));
    }
    let added = |index: usize| plain(addresses[index], "added");
    let first = plain(addresses[0], "file");
    have(&pair.nodes, &[("t0", first.clone()), ("x", added(1)), ("y", added(2)), ("old", added(3))]);
    let mut cut = pair.configs[1].clone();
    cut.head = cut.head.replace("key_file = \"pair.key\"", "");
    assert_eq!(b.reload(&cut).0, 200);
    eventually("the link is cut", || a.status()["replication"]["link"]["state"] != "connected");
    for id in ["x", "y", "old"] {
        delete(a, id);
    }
    for (id, index) in [("x", 2), ("y", 1), ("new", 3)] {
        add(a, &json!({ "id": id, "address": addresses[index] }));
    }
    assert_eq!(b.reload(&pair.configs[1]).0, 200);
    pair.in_sync();
    have(&pair.nodes, &[("t0", first), ("x", added(2)), ("y", added(1)), ("new", added(3))]);
    assert_eq!(state(b)["skipped"]["invalid"], 0);
}

#[test]
fn a_word_that_was_said_without_the_link_is_later_than_one_of_before_whatever_is_begun_anew() {
    let (_servers, addresses) = servers(2);
    let pair = Pair::start(&addresses, |_| ());
    let [a, b] = &pair.nodes;
    set(a, "t1", &json!({ "state": "drain" }));
    add(a, &json!({ "id": "x", "address": "127.0.0.1:9" }));
    becomes(b, &["ready 1", "drain 1", "ready 1"]);
    let cut = |node: usize| {
        let mut cut = pair.configs[node].clone();
        cut.head = cut.head.replace("key_file = \"pair.key\"", "");
        assert_eq!(pair.nodes[node].reload(&cut).0, 200);
    };
    cut(1);
    eventually("the link is cut", || a.status()["replication"]["link"]["state"] != "connected");
    set(a, "t1", &json!({ "state": "maint" }));
    delete(a, "x");
    set(a, "t0", &json!({ "weight": 9 }));
    // Replication has taken notice; then it ends here, too, and both begin anew.
    counts(a, "targets", 2);
    cut(0);
    for (lbd, config) in pair.nodes.iter().zip(&pair.configs) {
        assert_eq!(lbd.reload(config).0, 200);
    }
    pair.in_sync();
    becomes(a, &["ready 9*", "maint 1"]);
    becomes(b, &["ready 9*", "maint 1"]);
}

#[test]
fn clients_that_are_not_remembered_here_yet_are_asked_for_once_they_are() {
    let ip = own_ip();
    let servers = ["w", "x", "y"].map(|name| Server::named((ip, 0).into(), name));
    let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
    let sticky_group = "algorithm = \"random\"\nsticky = { by = \"source_ip\" }".to_owned();
    let mut pair = Pair::start(&addresses, |config| config.group = "algorithm = \"random\"".to_owned());
    pair.configs[0].group.clone_from(&sticky_group);
    let [a, b] = &pair.nodes;
    assert_eq!(a.reload(&pair.configs[0]).0, 200);
    for number in 0..20 {
        fetch_from(beside(ip, number), a.address).unwrap();
    }
    eventually("b has no place for them", || state(b)["refused"]["sticky"] == 20);
    pair.configs[1].group = sticky_group;
    assert_eq!(b.reload(&pair.configs[1]).0, 200);
    eventually("b knows them", || sticky(b).len() == 20);
    assert_eq!(sticky(b), sticky(a));
}
