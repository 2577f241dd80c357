//! Clients that are never idle and never done: a head or a body that trickles, and a window that is opened a byte at a time.

use std::time::{Duration, Instant};

use super::config;
use super::frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, Outcome, RST_STREAM, WINDOW_UPDATE, Wire, block, frame, head,
};
use crate::http::{Target, answer, ask, get};
use crate::support::{Lbd, PATIENCE, eventually, metric, own_ip};

/// How long a client waits before its next byte.
const DRIP: Duration = Duration::from_millis(50);

#[test]
fn a_head_that_trickles_is_not_waited_for() {
    let ip = own_ip();
    let target = Target::named(ip, "served");
    let mut config = config(ip, &[target.address]);
    config.service += "timeout = { header = \"1s\", idle = \"60s\" }\n";
    let lbd = Lbd::start(&config);
    let long = "x".repeat(8000);
    let whole = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&head("GET", "/", &[("a", &long)])));
    let mut wire = Wire::open(lbd.address);
    let mut reader = Wire { stream: wire.stream.try_clone().unwrap() };
    let reader = std::thread::spawn(move || reader.end());
    let (mut left, began) = (whole.iter(), Instant::now());
    while !reader.is_finished() {
        assert!(began.elapsed() < PATIENCE, "it is waited for without end");
        wire.send(&[*left.next().unwrap()]);
        std::thread::sleep(DRIP);
    }
    assert_eq!(reader.join().unwrap(), Some(0));
    assert_eq!(target.seen(), []);
    assert_eq!(ask(lbd.address, &get("/")).text(), "served");
}

#[test]
fn bodies_that_trickle_are_cut_off() {
    const LENGTH: usize = 1 << 20;
    let ip = own_ip();
    let target = Target::with(ip, |_, stream| answer(stream, &"x".repeat(LENGTH)));
    let mut config = config(ip, &[target.address]);
    config.service += "limits = { min_body_bytes_per_second = 100000 }\ntimeout = { idle = \"60s\" }\n";
    let lbd = Lbd::start(&config);
    let mut sends = Wire::open(lbd.address);
    sends.ask(1, &head("POST", "/", &[("content-length", "1000000")]), false);
    // SETTINGS_INITIAL_WINDOW_SIZE: nothing may come that is not asked for.
    let mut takes = Wire::open_with(lbd.address, &[(4, 0)]);
    takes.ask(1, &head("GET", "/", &[]), true);
    let cuts =
        || metric(&lbd, "tandem_lbd_service_http_requests_cut_total")["{service=\"web\",reason=\"slow\"}"];
    eventually("both are cut off", || {
        sends.send(&frame(DATA, 0, 1, b"x"));
        takes.send(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]));
        std::thread::sleep(DRIP);
        cuts() == 2
    });
    assert!(matches!(sends.outcome(1), Outcome::Answer(408, _)));
    assert_eq!(takes.next(RST_STREAM).stream, 1);
    eventually("the target is rid of both", || target.ended() == 2);
    // Who is quick has all of it.
    assert_eq!(ask(lbd.address, &get("/")).body.len(), LENGTH);
}
