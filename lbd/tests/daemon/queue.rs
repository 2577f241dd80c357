//! Targets with a limit, and the queue before them.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::clients::{handed_over, next};
use crate::server::Server;
use crate::support::{Config, Lbd, eventually, free, own_ip, ping, reset};

fn limited(ip: std::net::Ipv4Addr, server: &Server, max: u32, queue: &str) -> Config {
    let mut config = Config::new(ip, &[server.address]);
    config.target_keys = vec![format!("max_connections = {max}")];
    config.group = queue.to_owned();
    config
}

/// Waits for a byte of the target.
fn served(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.read_exact(&mut [0])
}

#[test]
fn who_waits_is_served_in_turn() {
    let ip = own_ip();
    let (server, connections) = handed_over(ip);
    let lbd = Lbd::start(&limited(ip, &server, 2, "queue = { max = 8, timeout = \"60s\" }"));
    let _held = [lbd.connect(), lbd.connect()];
    let mut targets = vec![next(&connections), next(&connections)];
    let mut waiting = Vec::new();
    for number in 0..8_u64 {
        let mut stream = lbd.connect();
        // Each says who it is, to be told apart behind lbd.
        write!(stream, "{number}").unwrap();
        waiting.push(stream);
        eventually("it waits", || lbd.waiting() == number + 1);
    }
    assert_eq!(lbd.fetch().unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!((lbd.refused("queue_full"), lbd.waiting(), server.accepted()), (1, 8, 2));
    // One leaves the queue; nobody else loses a turn.
    reset(waiting.remove(3));
    eventually("it is gone", || lbd.waiting() == 7);
    assert_eq!(lbd.refused("client_gone"), 1);
    for number in [0_u8, 1, 2, 4, 5, 6, 7] {
        reset(targets.remove(0));
        let mut target = next(&connections);
        let mut name = [0];
        target.read_exact(&mut name).unwrap();
        assert_eq!(name[0], b'0' + number);
        target.write_all(b".").unwrap();
        served(&mut waiting.remove(0)).unwrap();
        targets.push(target);
    }
    assert_eq!((lbd.waiting(), lbd.status()["services"][0]["queued_total"].as_u64()), (0, Some(8)));
}

#[test]
fn waiting_has_an_end() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let lbd = Lbd::start(&limited(ip, &server, 1, "queue = { timeout = \"300ms\" }"));
    let mut held = lbd.connect();
    assert_eq!(ping(&mut held, "x").unwrap(), "x");
    let begin = Instant::now();
    assert_eq!(lbd.fetch().unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(begin.elapsed() >= Duration::from_millis(290), "{:?}", begin.elapsed());
    assert_eq!(lbd.refused("queue_timeout"), 1);
    assert_eq!(ping(&mut held, "y").unwrap(), "y");
}

#[test]
fn who_has_tried_the_only_free_target_holds_up_nobody() {
    let ip = own_ip();
    let full = Server::echo((ip, 0).into());
    let mut config = limited(ip, &full, 1, "queue = { timeout = \"60s\" }\nretry = { attempts = 3 }");
    let away = free(ip);
    config.targets.push(("t1".to_owned(), away, 1));
    let lbd = Lbd::start(&config);
    let mut held = lbd.connect();
    assert_eq!(ping(&mut held, "x").unwrap(), "x");
    let mut stuck = lbd.connect();
    eventually("it has found nobody at t1, and waits for t0", || lbd.waiting() == 1);
    let back = Server::named(away, "b");
    assert_eq!(lbd.fetch().unwrap(), "b", "who comes later has not tried t1");
    assert_eq!((lbd.waiting(), back.accepted()), (1, 1));
    drop(held);
    assert_eq!(ping(&mut stuck, "y").unwrap(), "y");
}

#[test]
fn without_a_queue_a_full_group_refuses() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let other = Server::echo((ip, 0).into());
    let mut config = limited(ip, &server, 1, "");
    config.targets.push(("t1".to_owned(), other.address, 1));
    config.target_keys.push("max_connections = 2".to_owned());
    let lbd = Lbd::start(&config);
    let mut held: Vec<TcpStream> = (0..3).map(|_| lbd.connect()).collect();
    for stream in &mut held {
        assert_eq!(ping(stream, "x").unwrap(), "x");
    }
    assert_eq!((server.accepted(), other.accepted()), (1, 2));
    assert!(lbd.fetch().is_err());
    eventually("it is counted", || lbd.refused("targets_full") == 1);
    drop(held.pop());
    eventually("there is room", || lbd.service("connections_open") == 2);
    assert_eq!(ping(&mut lbd.connect(), "x").unwrap(), "x");
}

/// Many clients on both workers over few places: everybody is served, and the limit holds throughout.
#[test]
fn a_crowd_passes_through() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let lbd = Lbd::start(&limited(ip, &server, 3, "queue = { timeout = \"60s\" }"));
    let peak = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..30 {
            scope.spawn(|| {
                for _ in 0..10 {
                    assert_eq!(ping(&mut lbd.connect(), "x").unwrap(), "x");
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..50 {
                let open =
                    lbd.status()["target_groups"][0]["targets"][0]["connections_open"].as_u64().unwrap();
                peak.fetch_max(open, std::sync::atomic::Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
    });
    assert!(peak.into_inner() <= 3);
    assert_eq!((server.accepted(), lbd.service("refused_no_target"), lbd.waiting()), (300, 0, 0));
    eventually("all have ended", || lbd.service("connections_open") == 0);
}

/// A target that has room again for another reason than an ending connection: its limit was raised.
#[test]
fn a_raised_limit_lets_the_queue_go_on() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let mut config = limited(ip, &server, 1, "queue = { timeout = \"60s\" }");
    let lbd = Lbd::start(&config);
    let mut held = lbd.connect();
    assert_eq!(ping(&mut held, "x").unwrap(), "x");
    let mut waiting = lbd.connect();
    eventually("it waits", || lbd.waiting() == 1);
    config.target_keys = vec!["max_connections = 2".to_owned()];
    assert_eq!(lbd.reload(&config).0, 200);
    assert_eq!(ping(&mut waiting, "y").unwrap(), "y");
}
