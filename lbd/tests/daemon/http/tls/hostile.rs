//! Clients that speak no TLS, half of it, or wrong.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::super::peers::{Target, get};
use super::peers::{Client, LAST, s_client};
use super::{config, failed, shop};
use crate::support::{Lbd, connect, end_of, eventually, own_ip};

/// The begin of a client's hello, which says that 512 bytes follow.
const HALF_HELLO: &[u8] = &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3, 7, 7, 7];

fn start(more: &str) -> (Lbd, Target, crate::real::Authority) {
    let ip = own_ip();
    let (authority, target) = (shop(), Target::named(ip, "hello"));
    let mut config = config(ip, &[target.address], &[&authority.bundle("shop")]);
    config.service.push_str(more);
    (Lbd::start(&config), target, authority)
}

#[test]
fn http_without_tls_is_told_so() {
    let (lbd, target, _authority) = start("");
    let mut stream = connect(lbd.address);
    stream.write_all(get("/").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 400 ") && text.contains("https://"), "{text}");
    assert!(text.contains("Connection: close\r\n"), "{text}");
    assert_eq!(failed(&lbd, "plain_http"), 1);
    assert!(target.seen().is_empty());
}

#[test]
fn what_is_no_tls_is_closed_and_counted() {
    let (lbd, target, authority) = start("");
    let mut rng: u64 = 7;
    let mut noise = |length: usize| -> Vec<u8> {
        let mut next = || {
            rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            rng.to_be_bytes()[0]
        };
        (0..length).map(|_| next()).collect()
    };
    let samples = [
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00".to_vec(),
        b"\x16\x03\x01\xff\xff".to_vec(),
        b"\x80\x2e\x01\x03\x01".to_vec(),
        b"\x15\x03\x03\x00\x02\x02\x28".to_vec(),
        b"\x17\x03\x03\x00\x05hello".to_vec(),
        b"\x14\x03\x03\x00\x01\x01".repeat(1000),
        b"\x00\x00\x00\x00".to_vec(),
        b"\nGET / HTTP/1.1\r\n\r\n".to_vec(),
        noise(100),
        noise(100_000),
    ];
    for sample in &samples {
        let mut stream = connect(lbd.address);
        // It may be closed before it has taken all of it.
        stream.write_all(sample).ok();
        stream.shutdown(std::net::Shutdown::Write).ok();
        while matches!(stream.read(&mut [0; 256]), Ok(1..)) {}
    }
    eventually("all are counted", || {
        let reasons =
            ["not_tls", "misbehaved", "refused", "closed", "too_long", "nothing_in_common", "version"];
        reasons.iter().map(|reason| failed(&lbd, reason)).sum::<u64>() == samples.len() as u64
    });
    assert!(failed(&lbd, "not_tls") >= 3 && failed(&lbd, "refused") == 1);
    assert!(target.seen().is_empty());
    let mut client = Client::new(&authority, lbd.address, "shop.example");
    assert_eq!(client.send(get("/")).answer().status(), 200);
    eventually("no other is left", || lbd.service("connections_open") == 1);
}

#[test]
fn a_handshake_that_does_not_come_to_its_end_is_closed_in_time() {
    let (lbd, _target, authority) = start("\ntimeout = { header = \"700ms\" }");
    let began = Instant::now();
    let silent = connect(lbd.address);
    let mut half = connect(lbd.address);
    half.write_all(HALF_HELLO).unwrap();
    // A byte now and then does not help.
    let mut slow = connect(lbd.address);
    for byte in HALF_HELLO.iter().cycle() {
        if slow.write_all(&[*byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
        assert!(began.elapsed() < crate::support::PATIENCE);
    }
    for mut stream in [silent, half, slow] {
        assert!(!matches!(end_of(&mut stream), Ok(1)));
    }
    assert!(began.elapsed() >= Duration::from_millis(600));
    // The slow one may have said something else than half a hello by then.
    eventually("they are counted", || {
        failed(&lbd, "timeout") + failed(&lbd, "not_tls") + failed(&lbd, "misbehaved") == 3
    });
    assert!(failed(&lbd, "timeout") >= 2);
    assert_eq!(Client::new(&authority, lbd.address, "shop.example").send(get("/")).answer().status(), 200);
}

/// Whoever says as much as may be said without anything coming of it costs that, and no more.
#[test]
fn thousands_of_stalled_handshakes_cost_little_and_end() {
    const STALLED: usize = 2000;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let (lbd, _target, authority) = start("\ntimeout = { header = \"15s\" }");
    let served = |name| {
        let mut client = Client::new(&authority, lbd.address, name);
        assert_eq!(client.send(get("/")).answer().status(), 200);
    };
    served("shop.example");
    let before = lbd.resident_kib();
    let half: Vec<TcpStream> = (0..STALLED)
        .map(|_| {
            let mut stream = connect(lbd.address);
            stream.write_all(HALF_HELLO).unwrap();
            stream
        })
        .collect();
    eventually("they are there", || lbd.service("connections_open") >= STALLED as u64);
    served("a.shop.example");
    let each = lbd.resident_kib().saturating_sub(before) as f64 / STALLED as f64;
    assert!(each < 12.0, "{each} KiB for each");
    drop(half);
    eventually("they are gone", || failed(&lbd, "closed") >= STALLED as u64);
    // A message that goes on and on.
    let mut endless = connect(lbd.address);
    let mut record = vec![22, 3, 1, 64, 0, 1, 255, 255, 255];
    record.resize(5 + 16_384, 0);
    let mut more = vec![22, 3, 1, 64, 0];
    more.resize(5 + 16_384, 0);
    endless.write_all(&record).ok();
    endless.write_all(&more).ok();
    endless.write_all(&more).ok();
    assert!(!matches!(end_of(&mut endless), Ok(1)));
    eventually("it is counted", || {
        failed(&lbd, "too_long") + failed(&lbd, "not_tls") + failed(&lbd, "misbehaved") == 1
    });
    served("shop.example");
}

/// A client that refuses the certificate says so.
#[test]
fn a_client_that_refuses_is_counted() {
    let (lbd, target, _authority) = start("");
    let text = s_client(lbd.address, "-servername shop.example -verify_return_error -verify 1", LAST);
    assert!(text.contains("verify error"), "{text}");
    eventually("it is counted", || failed(&lbd, "refused") + failed(&lbd, "closed") == 1);
    assert!(target.seen().is_empty());
}

/// What is said behind the handshake in the wrong way ends the connection, and nothing of it is taken for a request.
#[test]
fn a_damaged_record_ends_the_connection() {
    let (lbd, target, authority) = start("");
    let mut client = Client::new(&authority, lbd.address, "shop.example");
    assert_eq!(client.send(get("/")).answer().status(), 200);
    client
        .raw()
        .write_all(
            b"\x17\x03\x03\x00\x40GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n0123456789012345678901234567",
        )
        .unwrap();
    assert!(client.rest().is_err());
    assert_eq!(target.seen().len(), 1);
}
