//! Sessions: how many, for how long, from whom.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;

use super::{Answering, ask, client, config, dropped, insist, metric};
use crate::support::{Lbd, eventually, own_ip};

fn sibling(ip: Ipv4Addr, last: u8) -> Ipv4Addr {
    let [first, second, third, _] = ip.octets();
    Ipv4Addr::new(first, second, third, last)
}

#[test]
fn at_the_bound_new_sessions_are_dropped_and_the_others_go_on() {
    let ip = own_ip();
    let server = Answering::echo(ip);
    let mut config = config(ip, &[&server]);
    config.service = "limits = { max_connections = 2 }\ntimeout = { idle = \"1s\" }".to_owned();
    let lbd = Lbd::start(&config);
    let clients = [client(ip, lbd.address), client(ip, lbd.address)];
    for client in &clients {
        assert_eq!(ask(client, b"hello").unwrap(), b"hello");
    }
    let third = client(ip, lbd.address);
    third.send(b"too many").unwrap();
    eventually("it is counted", || lbd.service("refused_over_limit") == 1 && dropped(&lbd, "refused") == 1);
    for client in &clients {
        assert_eq!(ask(client, b"again").unwrap(), b"again");
    }
    assert_eq!(server.seen(), 4);
    eventually("the silent ones end", || lbd.service("connections_open") == 0);
    assert_eq!(insist(&third, b"now"), b"now");
}

#[test]
fn one_source_has_its_own_bound() {
    let ip = own_ip();
    let server = Answering::echo(ip);
    let mut config = config(ip, &[&server]);
    config.service = "limits = { max_connections_per_source = 1 }".to_owned();
    let lbd = Lbd::start(&config);
    let (greedy, other) = (sibling(ip, 211), sibling(ip, 212));
    let first = client(greedy, lbd.address);
    assert_eq!(ask(&first, b"one").unwrap(), b"one");
    client(greedy, lbd.address).send(b"two").unwrap();
    eventually("it is counted", || dropped(&lbd, "refused") == 1);
    assert_eq!(ask(&client(other, lbd.address), b"other").unwrap(), b"other");
    assert_eq!(ask(&first, b"one").unwrap(), b"one");
    assert_eq!(server.sessions(), 2);
}

#[test]
fn the_access_list_and_the_rate_count_for_sessions() {
    let ip = own_ip();
    let server = Answering::echo(ip);
    let mut config = config(ip, &[&server]);
    let (denied, allowed) = (sibling(ip, 221), sibling(ip, 222));
    config.service = format!(
        "access = {{ deny = [\"{denied}\"] }}\nrate = {{ key = \"source_ip\", requests = 2, per = \"1h\" }}"
    );
    let lbd = Lbd::start(&config);
    client(denied, lbd.address).send(b"no").unwrap();
    eventually("it is counted", || dropped(&lbd, "refused") == 1);
    let sessions = [client(allowed, lbd.address), client(allowed, lbd.address)];
    for session in &sessions {
        assert_eq!(ask(session, b"yes").unwrap(), b"yes");
    }
    client(allowed, lbd.address).send(b"too often").unwrap();
    eventually("it is counted", || dropped(&lbd, "refused") == 2);
    for session in &sessions {
        assert_eq!(ask(session, b"still").unwrap(), b"still", "the rate is one of sessions");
    }
    assert_eq!(server.sessions(), 2);
}

#[test]
fn only_silent_sessions_end() {
    let ip = own_ip();
    let server = Answering::echo(ip);
    let mut config = config(ip, &[&server]);
    config.service = "timeout = { idle = \"1s\" }".to_owned();
    let lbd = Lbd::start(&config);
    let (silent, busy) = (client(ip, lbd.address), client(ip, lbd.address));
    assert_eq!(ask(&silent, b"x").unwrap(), b"x");
    let begin = Instant::now();
    eventually("the silent one has ended", || {
        assert_eq!(ask(&busy, b"y").unwrap(), b"y");
        metric(&lbd, "service_sessions_ended_total", "end=\"idle\"") == 1
    });
    assert!(begin.elapsed() >= Duration::from_millis(900), "{:?}", begin.elapsed());
    assert_eq!(lbd.service("connections_open"), 1);
    assert_eq!(ask(&busy, b"z").unwrap(), b"z");
    assert_eq!(server.sessions(), 2);
    assert_eq!(ask(&silent, b"back").unwrap(), b"back");
    assert_eq!(server.sessions(), 3, "it came back with another session");
}

#[test]
fn a_session_takes_little_memory() {
    const COUNT: usize = 3000;
    /// What README says, and half as much for tables that have just become twice as large; the kernel's part of a socket is its own.
    const BYTES_EACH_MAX: u64 = 1500;
    // Each client is a socket of the test's.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let ip = own_ip();
    let server = Answering::echo(ip);
    let lbd = Lbd::start(&config(ip, &[&server]));
    let open = |count: usize| -> Vec<_> {
        let open = |_| {
            let client = client(ip, lbd.address);
            assert_eq!(ask(&client, b"hello").unwrap(), b"hello");
            client
        };
        (0..count).map(open).collect()
    };
    // What the first ones cost, of each worker, is not theirs.
    let first = open(64);
    let before = lbd.resident_kib();
    let _more = open(COUNT);
    assert_eq!(lbd.service("connections_open"), (first.len() + COUNT) as u64);
    let each = lbd.resident_kib().saturating_sub(before) * 1024 / COUNT as u64;
    assert!(each <= BYTES_EACH_MAX, "{each} bytes for each session");
}

#[test]
fn a_full_target_gets_no_further_sessions() {
    let ip = own_ip();
    let servers = [Answering::named(ip, "small"), Answering::named(ip, "large")];
    let mut config = config(ip, &servers.each_ref());
    config.target_keys = vec!["max_connections = 1".to_owned()];
    let lbd = Lbd::start(&config);
    let clients: Vec<_> = (0..8).map(|_| client(ip, lbd.address)).collect();
    for client in &clients {
        ask(client, b"?").unwrap();
    }
    assert_eq!((servers[0].sessions(), servers[1].sessions()), (1, 7));
}

#[test]
fn sessions_are_logged_when_they_end_and_when_they_are_refused() {
    let ip = own_ip();
    let server = Answering::echo(ip);
    let mut config = config(ip, &[&server]);
    config.service = "timeout = { idle = \"1s\" }\nlimits = { max_connections = 1 }\n\
                      access_log = { format = \"json\", file = \"access.log\" }"
        .to_owned();
    let lbd = Lbd::start(&config);
    let (served, refused) = (client(ip, lbd.address), client(ip, lbd.address));
    assert_eq!(ask(&served, b"hello").unwrap(), b"hello");
    refused.send(b"too many").unwrap();
    let records = || -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(lbd.folder.path().join("access.log")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    eventually("both are logged", || records().len() == 2);
    let records = records();
    let of = |socket: &std::net::UdpSocket| {
        let client = socket.local_addr().unwrap().to_string();
        records.iter().find(|record| record["client"] == client).unwrap()
    };
    let (served, refused) = (of(&served), of(&refused));
    assert_eq!((&served["end"], &refused["end"]), (&"idle".into(), &"max_connections".into()));
    assert_eq!((&served["target"], &refused["target"]), (&"t0".into(), &serde_json::Value::Null));
    assert_eq!((&served["bytes_to_target"], &served["bytes_to_client"]), (&5.into(), &5.into()));
    assert_eq!(served["listen"], lbd.address.to_string());
}

#[test]
fn what_the_queue_has_no_room_for_is_counted() {
    let ip = own_ip();
    let server = Answering::start((ip, 0).into(), |_| None);
    let lbd = Lbd::start(&config(ip, &[&server]));
    let client = client(ip, lbd.address);
    lbd.signal(Signal::SIGSTOP);
    let mut sent = 40_000;
    for _ in 0..sent {
        client.send(&[0; 64]).unwrap();
    }
    lbd.signal(Signal::SIGCONT);
    // The kernel tells of drops with what comes after them.
    let counted = || {
        let passed = metric(&lbd, "service_datagrams_total", "direction=\"to_target\"");
        (passed, dropped(&lbd, "queue_full"), passed + dropped(&lbd, "queue_full"))
    };
    eventually("every datagram is accounted for", || {
        client.send(&[0; 64]).unwrap();
        sent += 1;
        let begin = Instant::now();
        while counted().2 < sent && begin.elapsed() < Duration::from_millis(100) {}
        counted().2 == sent
    });
    let (passed, lost, _) = counted();
    assert!(passed > 1000 && lost > 1000, "{passed} passed, {lost} lost");
}

#[test]
fn without_free_files_new_sessions_are_dropped_and_the_others_go_on() {
    let ip = own_ip();
    let server = Answering::echo(ip);
    let lbd = Lbd::start(&config(ip, &[&server]));
    let first = client(ip, lbd.address);
    assert_eq!(ask(&first, b"hello").unwrap(), b"hello");
    // The API needs files too, so nothing is asked meanwhile.
    lbd.limit_files(3);
    let second = client(ip, lbd.address);
    second.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(ask(&second, b"no").is_err());
    assert_eq!(ask(&first, b"again").unwrap(), b"again");
    lbd.limit_files(4096);
    assert!(metric(&lbd, "service_session_socket_errors_total", "") >= 1);
    assert!(lbd.refused("local") >= 1 && lbd.refused("no_target") == 0, "it is not the targets' fault");
    assert_eq!(insist(&second, b"now"), b"now");
}

#[test]
fn answers_that_come_too_fast_are_counted() {
    let ip = own_ip();
    let socket = std::net::UdpSocket::bind((ip, 0)).unwrap();
    let mut config = crate::support::Config::new(ip, &[socket.local_addr().unwrap()]);
    config.mode = "udp".to_owned();
    let lbd = Lbd::start(&config);
    let client = client(ip, lbd.address);
    client.send(b"all of it, please").unwrap();
    let (_, session) = socket.recv_from(&mut [0; 100]).unwrap();
    lbd.signal(Signal::SIGSTOP);
    let mut sent = 10_000;
    for _ in 0..sent {
        socket.send_to(&[0; 64], session).unwrap();
    }
    lbd.signal(Signal::SIGCONT);
    let counted = || {
        let passed = metric(&lbd, "service_datagrams_total", "direction=\"to_client\"");
        (passed, dropped(&lbd, "queue_full"), passed + dropped(&lbd, "queue_full"))
    };
    eventually("every answer is accounted for", || {
        socket.send_to(&[0; 64], session).unwrap();
        sent += 1;
        let begin = Instant::now();
        while counted().2 < sent && begin.elapsed() < Duration::from_millis(100) {}
        counted().2 == sent
    });
    let (passed, lost, _) = counted();
    assert!(passed > 10 && lost > 1000, "{passed} passed, {lost} lost");
    lbd.says("datagrams are dropped");
}
