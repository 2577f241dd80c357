//! What a target group does when targets fail and come back: backups, zones, panic, slow start.

use std::collections::HashMap;

use crate::clients::{beside, fetch_from};
use crate::server::Server;
use crate::support::{Config, Lbd, eventually, own_ip};

const FAST: &str = "health = { tcp = true, interval = \"50ms\", timeout = \"40ms\", healthy_threshold = 1, unhealthy_threshold = 1 }";

fn mode(lbd: &Lbd) -> String {
    lbd.status()["target_groups"][0]["mode"].as_str().unwrap().to_owned()
}

fn answers(lbd: &Lbd, count: usize) -> HashMap<String, usize> {
    let mut seen = HashMap::new();
    for _ in 0..count {
        *seen.entry(lbd.fetch().unwrap()).or_default() += 1;
    }
    seen
}

fn target(lbd: &Lbd, index: usize) -> serde_json::Value {
    lbd.status()["target_groups"][0]["targets"][index].clone()
}

#[test]
fn backups_serve_while_no_other_target_does_and_panic_comes_after_them() {
    let ip = own_ip();
    let main = Server::named((ip, 0).into(), "main");
    let spare = Server::named((ip, 0).into(), "spare");
    let (main_address, spare_address) = (main.address, spare.address);
    let mut config = Config::new(ip, &[main_address, spare_address]);
    config.group = FAST.to_owned();
    config.target_keys = vec![String::new(), "backup = true".to_owned()];
    let lbd = Lbd::start(&config);
    eventually("both are healthy", || lbd.health(0) == "healthy" && lbd.health(1) == "healthy");
    assert_eq!((mode(&lbd).as_str(), target(&lbd, 1)["reason"].as_str()), ("normal", Some("stands_by")));
    assert_eq!(answers(&lbd, 10), HashMap::from([("main".to_owned(), 10)]));
    drop(main);
    eventually("the backup is used", || mode(&lbd) == "backup");
    assert_eq!(answers(&lbd, 10), HashMap::from([("spare".to_owned(), 10)]));
    let metrics = lbd.ask("GET", "/metrics").1;
    assert!(metrics.contains("tandem_lbd_group_mode{group=\"pool\",mode=\"backup\"} 1"), "{metrics}");
    assert_eq!(lbd.ask("GET", "/health/ready").0, 200, "a backup serves");
    drop(spare);
    eventually("none is left", || mode(&lbd) == "panic");
    assert_eq!(lbd.ask("GET", "/health/ready").0, 503);
    lbd.says("panic: too few targets are usable");
    let table = String::from_utf8(lbd.command(&["status"]).stdout).unwrap();
    assert!(table.contains("the target group pool is in the mode panic"), "{table}");
    // A check that is wrong must not take down what answers.
    let _back = Server::named(main_address, "main");
    eventually("it is back", || mode(&lbd) == "normal");
    assert_eq!(answers(&lbd, 10), HashMap::from([("main".to_owned(), 10)]));
}

#[test]
fn below_the_panic_share_all_are_used() {
    let ip = own_ip();
    let good = Server::named((ip, 0).into(), "good");
    let others = [Server::named((ip, 0).into(), "other"), Server::named((ip, 0).into(), "other")];
    let mut config = Config::new(ip, &[good.address, others[0].address, others[1].address]);
    config.group = format!("{FAST}\npanic_percent = 50\nretry = {{ attempts = 3 }}");
    let lbd = Lbd::start(&config);
    eventually("all are healthy", || (0..3).all(|index| lbd.health(index) == "healthy"));
    let addresses = others.each_ref().map(|server| server.address);
    drop(others);
    eventually("one of three is below a half", || mode(&lbd) == "panic");
    assert!((1..3).all(|index| target(&lbd, index)["share"] == 256));
    // Retries find the one that answers.
    assert_eq!(answers(&lbd, 10), HashMap::from([("good".to_owned(), 10)]));
    assert_eq!(lbd.ask("GET", "/health/ready").0, 200, "there is a healthy one");
    let _back = Server::named(addresses[0], "other");
    eventually("two of three are enough", || mode(&lbd) == "normal");
    assert_eq!(target(&lbd, 2)["reason"], "unhealthy");
}

#[test]
fn targets_of_the_nodes_own_zone_go_first() {
    let ip = own_ip();
    let here = Server::named((ip, 0).into(), "here");
    let there = Server::named((ip, 0).into(), "there");
    let mut config = Config::new(ip, &[here.address, there.address]);
    config.group = format!("{FAST}\ncross_zone = false");
    config.target_keys = vec!["zone = \"z1\"".to_owned(), "zone = \"z2\"".to_owned()];
    config.head = "[[node]]\nname = \"a\"\nzone = \"z1\"\n[[node]]\nname = \"b\"\nzone = \"z2\"\n".to_owned();
    config.node = Some("a".to_owned());
    let lbd = Lbd::start(&config);
    eventually("both are healthy", || lbd.health(0) == "healthy" && lbd.health(1) == "healthy");
    assert_eq!(target(&lbd, 1)["reason"], "other_zone");
    assert_eq!(answers(&lbd, 10), HashMap::from([("here".to_owned(), 10)]));
    drop(here);
    eventually("the other zone takes over", || target(&lbd, 1)["reason"] == "in_use");
    assert_eq!(
        (mode(&lbd).as_str(), answers(&lbd, 10)),
        ("normal", HashMap::from([("there".to_owned(), 10)]))
    );
    config.group = FAST.to_owned();
    assert_eq!(lbd.reload(&config).0, 200);
    assert_eq!(target(&lbd, 1)["share"], 256);
}

/// Without a pair there is one node, whatever the host is called.
#[test]
fn an_lbd_alone_may_have_a_zone() {
    let ip = own_ip();
    let servers = ["east", "west"].map(|name| Server::named((ip, 0).into(), name));
    let mut config = Config::new(ip, &servers.each_ref().map(|server| server.address));
    config.group = "cross_zone = false".to_owned();
    config.target_keys = vec!["zone = \"east\"".to_owned(), "zone = \"west\"".to_owned()];
    let lone = |zone: &str| format!("[[node]]\nname = \"edge\"\nzone = \"{zone}\"\n");
    config.head = lone("east");
    let lbd = Lbd::start(&config);
    assert_eq!((&lbd.status()["node"], &target(&lbd, 1)["reason"]), (&"edge".into(), &"other_zone".into()));
    assert_eq!(answers(&lbd, 10), HashMap::from([("east".to_owned(), 10)]));
    config.head = lone("west");
    assert_eq!(lbd.reload(&config).0, 200);
    assert_eq!(answers(&lbd, 10), HashMap::from([("west".to_owned(), 10)]));
}

#[test]
fn a_recovered_target_gets_its_share_slowly() {
    let ip = own_ip();
    let stays = Server::named((ip, 0).into(), "stays");
    let goes = Server::named((ip, 0).into(), "goes");
    let address = goes.address;
    let mut config = Config::new(ip, &[stays.address, address]);
    config.group = format!("{FAST}\nslow_start = \"2s\"");
    let lbd = Lbd::start(&config);
    eventually("both are healthy", || lbd.health(0) == "healthy" && lbd.health(1) == "healthy");
    assert_eq!(target(&lbd, 1)["share"], 256, "the start is no recovery");
    drop(goes);
    eventually("it is out", || lbd.health(1) == "unhealthy");
    let _back = Server::named(address, "back");
    eventually("it starts slowly", || target(&lbd, 1)["slow_start_percent"].is_u64());
    let mut seen = Vec::new();
    eventually("its share is whole", || {
        let target = target(&lbd, 1);
        seen.push(target["share"].as_u64().unwrap());
        target["slow_start_percent"].is_null() && target["share"] == 256
    });
    assert!(seen.is_sorted() && seen[0] < 256, "{seen:?}");
    seen.dedup();
    assert!(seen.len() > 5, "it rises in steps: {seen:?}");
}

#[test]
fn the_clients_of_a_recovered_target_come_back_one_by_one() {
    let ip = own_ip();
    let names = ["a", "b", "goes"];
    let mut servers = names.map(|name| Some(Server::named((ip, 0).into(), name)));
    let addresses = servers.each_ref().map(|server| server.as_ref().unwrap().address);
    let mut config = Config::new(ip, &addresses);
    config.group = format!("{FAST}\nalgorithm = \"consistent_hash\"\nslow_start = \"3s\"");
    let lbd = Lbd::start(&config);
    eventually("all are healthy", || (0..3).all(|index| lbd.health(index) == "healthy"));
    let home = |client: u8| fetch_from(beside(ip, client), lbd.address).unwrap();
    let clients: Vec<u8> = (1..=60).filter(|&client| home(client) == "goes").collect();
    assert!(clients.len() > 5, "{clients:?}");
    servers[2] = None;
    eventually("it is out", || target(&lbd, 2)["share"] == 0);
    assert!(clients.iter().all(|&client| home(client) != "goes"));
    let _back = Server::named(addresses[2], "goes");
    eventually("it starts slowly", || target(&lbd, 2)["slow_start_percent"].is_u64());
    let mut seen = vec![0];
    let mut back = vec![false; clients.len()];
    eventually("all are back", || {
        for (client, back) in clients.iter().zip(&mut back) {
            let now = home(*client) == "goes";
            assert!(now || !*back, "client {client} has left again");
            *back = now;
        }
        seen.push(back.iter().filter(|back| **back).count());
        back.iter().all(|back| *back)
    });
    seen.dedup();
    assert!(seen.len() > 3, "they did not come one by one: {seen:?}");
}
