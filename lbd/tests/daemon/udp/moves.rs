//! Sessions whose target is gone.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::{Answering, ask, client, config, insist, metric};
use crate::server::Server;
use crate::support::{Folder, Lbd, eventually, own_ip};

fn index_of(name: &[u8]) -> usize {
    usize::from(name != b"a")
}

#[test]
fn sessions_of_a_removed_target_move_at_once() {
    let ip = own_ip();
    let servers = [Answering::named(ip, "a"), Answering::named(ip, "b")];
    let mut config = config(ip, &servers.each_ref());
    let folder = Folder::new();
    let log = folder.path().join("access.log");
    config.service = format!(
        "access_log = {{ format = \"json\", file = \"{}\" }}\ntimeout = {{ idle = \"1s\" }}",
        log.display()
    );
    let lbd = Lbd::start_in(folder, &config);
    let client = client(ip, lbd.address);
    let first = ask(&client, b"?").unwrap();
    config.targets.remove(index_of(&first));
    assert_eq!(lbd.reload(&config).0, 200);
    let second = ask(&client, b"?").unwrap();
    assert_ne!(first, second, "the very next datagram goes elsewhere");
    assert_eq!(lbd.service("connections_total"), 1, "it is the same session");
    assert_eq!(metric(&lbd, "service_sessions_moved_total", ""), 1);
    // In the end it was the other target's: when the first one was found says nothing of how soon this one answers.
    let line = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually("it has ended", || line().ends_with('\n'));
    let logged: serde_json::Value = serde_json::from_str(&line()).unwrap();
    assert_eq!(logged["target"], format!("t{}", 1 - index_of(&first)), "{logged}");
    assert_eq!(metric(&lbd, "target_first_byte_seconds_count", ""), 0);
    assert_eq!(metric(&lbd, "target_connect_seconds_count", ""), 0, "nothing is connected for a session");
}

#[test]
fn sessions_of_an_unhealthy_target_move_at_once() {
    let ip = own_ip();
    let servers = [Answering::named(ip, "a"), Answering::named(ip, "b")];
    // The checks are TCP connections to the same ports.
    let mut checked = servers.each_ref().map(|server| Some(Server::echo(server.address)));
    let mut config = config(ip, &servers.each_ref());
    config.group =
        "health = { tcp = true, interval = \"20ms\", timeout = \"10ms\", unhealthy_threshold = 1, \
                    healthy_threshold = 1 }"
            .to_owned();
    let lbd = Lbd::start(&config);
    eventually("both are healthy", || [0, 1].iter().all(|&target| lbd.health(target) == "healthy"));
    let client = client(ip, lbd.address);
    let first = ask(&client, b"?").unwrap();
    assert_eq!(ask(&client, b"?").unwrap(), first);
    checked[index_of(&first)] = None;
    eventually("it is noticed", || lbd.health(index_of(&first)) == "unhealthy");
    let second = ask(&client, b"?").unwrap();
    assert_ne!(first, second);
    checked[index_of(&first)] = Some(Server::echo(servers[index_of(&first)].address));
    eventually("it is back", || lbd.health(index_of(&first)) == "healthy");
    assert_eq!(ask(&client, b"?").unwrap(), second, "it does not go back");
}

#[test]
fn an_unreachable_port_moves_the_session_and_counts_as_a_failure() {
    let ip = own_ip();
    let mut servers = [Some(Answering::named(ip, "a")), Some(Answering::named(ip, "b"))];
    let mut config = config(ip, &[servers[0].as_ref().unwrap(), servers[1].as_ref().unwrap()]);
    config.group = "eject = { consecutive_failures = 3, base = \"1h\", max = \"2h\" }".to_owned();
    let lbd = Lbd::start(&config);
    let clients: Vec<UdpSocket> = (0..8).map(|_| client(ip, lbd.address)).collect();
    let before: Vec<_> = clients.iter().map(|client| ask(client, b"?").unwrap()).collect();
    assert!(before.contains(&b"a".to_vec()) && before.contains(&b"b".to_vec()));
    servers[0] = None;
    let gone = before.iter().filter(|name| *name == b"a").count();
    for (client, before) in clients.iter().zip(&before) {
        client.send(b"lost, perhaps").unwrap();
        if before == b"b" {
            assert_eq!(super::hear(client).unwrap(), b"b");
        }
    }
    // Three of the failures in a row eject the target; the sessions of the others then move without one of their own.
    let failed = || metric(&lbd, "target_connect_failures_total", "target=\"t0\"");
    eventually("the kernel has told", || failed() >= 3_u64.min(gone as u64));
    for (client, before) in clients.iter().zip(&before).filter(|(_, before)| *before == b"a") {
        assert_eq!(insist(client, b"?"), b"b", "{before:?}");
    }
    eventually("it is ejected", || lbd.ask("GET", "/v1/target-groups").1.contains("ejected"));
    for _ in 0..6 {
        assert_eq!(ask(&client(ip, lbd.address), b"?").unwrap(), b"b", "new sessions don't even try it");
    }
}

#[test]
fn a_session_without_another_target_stays() {
    let ip = own_ip();
    let mut server = Some(Answering::named(ip, "only"));
    let address = server.as_ref().unwrap().address;
    let lbd = Lbd::start(&config(ip, &[server.as_ref().unwrap()]));
    let client = client(ip, lbd.address);
    assert_eq!(ask(&client, b"?").unwrap(), b"only");
    server = None;
    for _ in 0..3 {
        client.send(b"lost").unwrap();
    }
    eventually("the kernel has told", || metric(&lbd, "target_connect_failures_total", "") >= 1);
    assert!(server.is_none());
    let _back = Answering::start(address, |_| Some(b"back".to_vec()));
    assert_eq!(insist(&client, b"?"), b"back");
    assert_eq!(lbd.service("connections_total"), 1);
}

#[test]
fn a_draining_target_keeps_its_sessions_for_its_time() {
    let ip = own_ip();
    let servers = [Answering::named(ip, "a"), Answering::named(ip, "b")];
    let mut config = config(ip, &servers.each_ref());
    config.group = "drain_timeout = \"2s\"".to_owned();
    let lbd = Lbd::start(&config);
    let session = client(ip, lbd.address);
    let first = ask(&session, b"?").unwrap();
    let target = format!("pool/t{}", index_of(&first));
    let begin = Instant::now();
    assert!(lbd.command(&["set", &target, "--state", "drain"]).status.success());
    for _ in 0..4 {
        assert_ne!(ask(&client(ip, lbd.address), b"?").unwrap(), first, "new sessions go elsewhere");
    }
    let mut last_kept = begin;
    eventually("it moves in the end", || {
        let asked = Instant::now();
        let stays = ask(&session, b"?").unwrap() == first;
        if stays {
            last_kept = asked;
        }
        std::thread::sleep(Duration::from_millis(20));
        !stays
    });
    let kept = last_kept - begin;
    assert!(kept > Duration::from_millis(1500) && kept < Duration::from_secs(10), "{kept:?}");
}

#[test]
fn maintenance_moves_sessions_without_waiting_for_the_drain_time() {
    let ip = own_ip();
    let servers = [Answering::named(ip, "a"), Answering::named(ip, "b")];
    let mut config = config(ip, &servers.each_ref());
    config.group = "drain_timeout = \"1h\"".to_owned();
    let lbd = Lbd::start(&config);
    let session = client(ip, lbd.address);
    let first = ask(&session, b"?").unwrap();
    let target = format!("pool/t{}", index_of(&first));
    assert!(lbd.command(&["set", &target, "--state", "maint"]).status.success());
    eventually("it moves", || ask(&session, b"?").unwrap() != first);
    assert_eq!((lbd.service("connections_total"), metric(&lbd, "service_sessions_moved_total", "")), (1, 1));
}

#[test]
fn weights_and_stickiness_choose_for_sessions() {
    let ip = own_ip();
    let servers = [Answering::named(ip, "a"), Answering::named(ip, "b")];
    let mut config = config(ip, &servers.each_ref());
    config.targets[0].2 = 3;
    let lbd = Lbd::start(&config);
    let clients: Vec<_> = (0..40).map(|_| client(ip, lbd.address)).collect();
    for client in &clients {
        ask(client, b"?").unwrap();
    }
    // Each of the two workers keeps the shares by itself.
    assert!(servers[0].sessions().abs_diff(30) <= 4, "{}", servers[0].sessions());
    for key in [
        "algorithm = \"consistent_hash\"",
        "algorithm = \"source_ip_hash\"",
        "sticky = { by = \"source_ip\" }",
    ] {
        config.group = key.to_owned();
        assert_eq!(lbd.reload(&config).0, 200);
        let answers: std::collections::HashSet<_> =
            (0..8).map(|_| ask(&client(ip, lbd.address), b"?").unwrap()).collect();
        assert_eq!(answers.len(), 1, "one client address, one target: {key}");
    }
}
