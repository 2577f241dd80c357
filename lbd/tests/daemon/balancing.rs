//! Which target gets a connection.

use std::collections::HashMap;

use crate::server::{Hanging, Server};
use crate::support::{Config, Lbd, eventually, free, own_ip};

fn answers(lbd: &Lbd, count: usize) -> HashMap<String, usize> {
    let mut seen = HashMap::new();
    for _ in 0..count {
        *seen.entry(lbd.fetch().unwrap()).or_default() += 1;
    }
    seen
}

#[test]
fn shares_follow_weights() {
    let ip = own_ip();
    let servers = ["a", "b", "c"].map(|name| Server::named((ip, 0).into(), name));
    let mut config = Config::new(ip, &servers.each_ref().map(|server| server.address));
    for (target, weight) in config.targets.iter_mut().zip([3, 2, 1]) {
        target.2 = weight;
    }
    let lbd = Lbd::start(&config);
    let seen = answers(&lbd, 120);
    // Each of the two workers keeps the shares by itself; only an unfinished round of each may differ.
    for (name, expected) in [("a", 60_usize), ("b", 40), ("c", 20)] {
        assert!(seen[name].abs_diff(expected) <= 6, "{seen:?}");
    }
}

/// A list of targets that is discovered anew all the time, say.
#[test]
fn changes_of_one_group_do_not_begin_the_turns_of_another_anew() {
    let ip = own_ip();
    let servers = ["a", "b", "c", "d"].map(|name| Server::named((ip, 0).into(), name));
    let mut config = Config::new(ip, &servers.each_ref().map(|server| server.address));
    config.group =
        format!("[[target_group]]\nname = \"other\"\ntargets = [{{ address = \"{}\" }}]\n", free(ip));
    let lbd = Lbd::start(&config);
    let id = lbd.status()["target_groups"][1]["targets"][0]["id"].as_str().unwrap().to_owned();
    let other = format!("/v1/target-groups/other/targets/{id}");
    let mut seen = HashMap::new();
    for weight in 1..=24 {
        *seen.entry(lbd.fetch().unwrap()).or_insert(0_usize) += 1;
        let (code, answer) = lbd.send("PATCH", &other, &serde_json::json!({ "weight": weight }));
        assert_eq!(code, 200, "{answer}");
    }
    // Of each of the two workers only an unfinished round may differ.
    assert!(["a", "b", "c", "d"].iter().all(|name| seen[*name].abs_diff(6) <= 2), "{seen:?}");
}

#[test]
fn a_weight_of_zero_gets_nothing() {
    let ip = own_ip();
    let servers = ["a", "b"].map(|name| Server::named((ip, 0).into(), name));
    let mut config = Config::new(ip, &servers.each_ref().map(|server| server.address));
    config.targets[0].2 = 0;
    let lbd = Lbd::start(&config);
    assert_eq!(answers(&lbd, 20), HashMap::from([("b".to_owned(), 20)]));
}

#[test]
fn a_refused_connect_is_tried_elsewhere() {
    let ip = own_ip();
    let server = Server::named((ip, 0).into(), "a");
    let lbd = Lbd::start(&Config::new(ip, &[free(ip), server.address]));
    assert_eq!(answers(&lbd, 30)["a"], 30);
    let retries = lbd.service("connect_retries");
    assert!((13..=17).contains(&retries), "half of the connections meet the dead target first: {retries}");
    let targets = &lbd.status()["target_groups"][0]["targets"];
    let told = [0, 1].map(|target| targets[target]["connect_retries"].as_u64());
    assert_eq!(told, [Some(retries), Some(0)], "it is the dead one that they are told of");
}

#[test]
fn a_connect_that_hangs_is_tried_elsewhere_in_time() {
    let ip = own_ip();
    let server = Server::named((ip, 0).into(), "a");
    let hanging = Hanging::new(ip);
    let mut config = Config::new(ip, &[hanging.address, server.address]);
    config.service = "timeout = { connect = \"100ms\" }".to_owned();
    let lbd = Lbd::start(&config);
    assert_eq!(answers(&lbd, 6)["a"], 6);
    assert!(lbd.service("connect_retries") >= 2);
    let (_, metrics) = lbd.ask("GET", "/metrics");
    let timeouts = metrics.lines().find(|line| {
        line.starts_with("tandem_lbd_target_connect_failures_total") && line.contains("reason=\"timeout\"")
    });
    assert!(timeouts.is_some_and(|line| !line.ends_with(" 0")), "{timeouts:?}");
}

#[test]
fn without_any_target_the_client_is_reset() {
    let ip = own_ip();
    let lbd = Lbd::start(&Config::new(ip, &[free(ip)]));
    let error = lbd.fetch().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    eventually("it is counted", || lbd.refused("connect_failed") == 1);
    eventually("the connection to be closed", || lbd.service("connections_open") == 0);
}

#[test]
fn both_families_are_served_on_addresses_that_other_hosts_have() {
    let ip = own_ip();
    let server = Server::named((ip, 0).into(), "a");
    let mut config = Config::new(ip, &[server.address]);
    let six = std::net::TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap();
    // Documentation addresses: this host has them as little as a backup node has the VIP.
    let elsewhere = ["192.0.2.1:8080", "[2001:db8::1]:8080"].map(|address| address.parse().unwrap());
    config.listen.extend([six, elsewhere[0], elsewhere[1]]);
    let lbd = Lbd::start(&config);
    assert_eq!(lbd.fetch().unwrap(), "a");
    assert_eq!(crate::support::fetch(six).unwrap(), "a");
}
