//! Clients that come back to their target.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::clients::{beside, fetch_from};
use crate::server::Server;
use crate::support::{Config, Lbd, own_ip};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

#[test]
fn clients_keep_their_target() {
    let ip = own_ip();
    let mut servers: Vec<Server> = NAMES.map(|name| Server::named((ip, 0).into(), name)).into();
    let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    let mut config = Config::new(ip, &addresses);
    config.group = "sticky = { by = \"source_ip\", max_entries = 100 }".to_owned();
    let lbd = Lbd::start(&config);
    let clients: Vec<_> = (0..8).map(|number| beside(ip, number)).collect();
    let fetch = |client| fetch_from(client, lbd.address).unwrap();
    let homes: Vec<String> = clients.iter().map(|&client| fetch(client)).collect();
    assert!(homes.iter().collect::<BTreeSet<_>>().len() > 1, "new clients are spread: {homes:?}");
    let all_at_home = || clients.iter().zip(&homes).all(|(&client, home)| fetch(client) == *home);
    for _ in 0..10 {
        assert!(all_at_home());
    }
    assert!((lbd.metric("tandem_lbd_group_sticky_entries") - 8.0).abs() < 0.1);
    let shown: serde_json::Value =
        serde_json::from_str(&lbd.ask("GET", "/v1/sticky?group=pool&max=7").1).unwrap();
    let listed = shown[0]["clients"].as_array().unwrap();
    assert_eq!((shown[0]["entries"].as_u64(), listed.len()), (Some(8), 7));
    for entry in listed {
        let number = clients.iter().position(|client| entry["source"] == client.to_string()).unwrap();
        let target = NAMES.iter().position(|name| *name == homes[number]).unwrap();
        assert_eq!(entry["target"], format!("t{target}"));
        assert!((1..=3_600_000).contains(&entry["remaining_ms"].as_u64().unwrap()));
    }
    // Targets are known by name: another order, and others beside them, change nothing.
    config.targets.reverse();
    config.targets.push(("new".to_owned(), addresses[0], 0));
    config.targets.last_mut().unwrap().1.set_port(1);
    assert_eq!(lbd.reload(&config).0, 200);
    assert!(all_at_home());
    // The clients of a target that is gone get new ones, and stay there.
    let gone = NAMES.iter().position(|name| *name == homes[0]).unwrap();
    config.targets.retain(|target| target.0 != format!("t{gone}"));
    assert_eq!(lbd.reload(&config).0, 200);
    let rehomed: Vec<String> = clients.iter().map(|&client| fetch(client)).collect();
    for (before, after) in homes.iter().zip(&rehomed) {
        assert_eq!(before == after, *before != homes[0], "{before} {after}");
    }
    for _ in 0..10 {
        assert!(clients.iter().zip(&rehomed).all(|(&client, home)| fetch(client) == *home));
    }
    // One that only refuses connections, too.
    let down = NAMES.iter().position(|name| *name == rehomed[0]).unwrap();
    drop(std::mem::replace(&mut servers[down], Server::named((ip, 0).into(), "unused")));
    let moved = fetch(clients[0]);
    assert_ne!(moved, rehomed[0]);
    let retries = lbd.service("connect_retries");
    assert_eq!(fetch(clients[0]), moved);
    assert_eq!(lbd.service("connect_retries"), retries, "it does not try the dead one again");
}

#[test]
fn entries_end_and_make_room() {
    let ip = own_ip();
    let servers = NAMES.map(|name| Server::named((ip, 0).into(), name));
    let mut config = Config::new(ip, &servers.each_ref().map(|server| server.address));
    config.group = "sticky = { by = \"source_ip\", ttl = \"1s\", max_entries = 2 }".to_owned();
    let lbd = Lbd::start(&config);
    let client = beside(ip, 0);
    let fetch = |client| fetch_from(client, lbd.address).unwrap();
    let begin = Instant::now();
    let home = fetch(client);
    // Coming back makes it last, past its first end.
    while begin.elapsed() < Duration::from_millis(1500) {
        assert_eq!(fetch(client), home);
        std::thread::sleep(Duration::from_millis(100));
    }
    // Of two workers each has its own turn: after an end it is another target in most cases, so in one of several.
    let moves = |_: u8| {
        std::thread::sleep(Duration::from_millis(1100));
        fetch(client) != home
    };
    assert!((0..6).any(moves), "the entry never ended");
    for number in 1..=5 {
        fetch(beside(ip, number));
    }
    assert!(lbd.metric("tandem_lbd_group_sticky_forgotten_total") >= 3.0);
    assert!(lbd.metric("tandem_lbd_group_sticky_entries") <= 2.0);
}
