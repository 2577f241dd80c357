//! Stops, drains and reloads while streams are open.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use nix::sys::signal::Signal;

use super::config;
use super::frames::{ACK, DATA, END_STREAM, GOAWAY, HEADERS, Outcome, PING, Wire, frame, head};
use crate::http::{Target, answer};
use crate::support::{Config, Lbd, eventually, metric, own_ip};

/// A target that answers `/wait` only once it is told to.
pub(super) fn waiting(ip: Ipv4Addr) -> (Target, Sender<()>) {
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let target = Target::with(ip, move |request, stream| {
        if request.line().contains("/wait") {
            wait.lock().unwrap().recv().ok();
        }
        answer(stream, "served")
    });
    (target, go)
}

pub(super) fn served() -> Outcome {
    Outcome::Answer(200, b"served".to_vec())
}

/// Follows a graceful end (RFC 9113, section 6.8): the first GOAWAY names no stream, a ping says that the client has it, the second names
/// the last one that is served.
pub(super) fn told_to_leave<S: Read + Write>(wire: &mut Wire<S>, late: impl FnOnce(&mut Wire<S>)) -> u32 {
    let first = wire.next(GOAWAY);
    assert_eq!((first.number(0), first.number(4)), (0x7fff_ffff, 0));
    let ping = wire.next(PING);
    late(wire);
    wire.send(&frame(PING, ACK, 0, &ping.payload));
    let second = wire.next(GOAWAY);
    assert_eq!(second.number(4), 0);
    second.number(0)
}

#[test]
fn who_is_let_in_no_more_is_told_so_and_to_leave() {
    let ip = own_ip();
    let target = Target::named(ip, "served");
    let mut config = config(ip, &[target.address]);
    let lbd = Lbd::start(&config);
    let mut wire = Wire::open(lbd.address);
    assert_eq!(wire.ask(1, &head("GET", "/", &[]), true).outcome(1), served());
    config.service += "access = { deny = [\"127.0.0.0/8\"] }\n";
    assert_eq!(lbd.reload(&config).0, 200);
    wire.ask(3, &head("GET", "/", &[]), true);
    let last = told_to_leave(&mut wire, |wire| {
        assert!(matches!(wire.outcome(3), Outcome::Answer(403, _)));
    });
    assert_eq!((last, target.seen().len()), (3, 1));
}

#[test]
fn a_stop_lets_streams_go_on_and_takes_those_that_are_on_their_way() {
    let ip = own_ip();
    let (target, go) = waiting(ip);
    let mut lbd = Lbd::start(&config(ip, &[target.address]));
    let mut idle = Wire::open(lbd.address);
    assert_eq!(idle.ask(1, &head("GET", "/", &[]), true).outcome(1), served());
    let mut busy = Wire::open(lbd.address);
    busy.ask(1, &head("GET", "/wait", &[]), true);
    eventually("the request is at the target", || target.seen().len() == 2);
    lbd.signal(Signal::SIGTERM);
    assert_eq!(told_to_leave(&mut idle, |_| {}), 1);
    assert!(matches!(idle.end(), None | Some(0)));
    // What was sent before the client knew is served, too.
    let last = told_to_leave(&mut busy, |busy| {
        busy.ask(3, &head("GET", "/late", &[]), true);
        assert_eq!(busy.next(HEADERS).stream, 3);
        assert_eq!(busy.next(DATA).payload, b"served");
    });
    assert_eq!(last, 3);
    go.send(()).unwrap();
    assert_eq!(busy.outcome(1), served());
    assert!(matches!(busy.end(), None | Some(0)));
    assert!(lbd.wait().success());
}

#[test]
fn a_client_that_does_not_leave_is_left() {
    let ip = own_ip();
    let (target, _go) = waiting(ip);
    let mut lbd = Lbd::start(&config(ip, &[target.address]));
    // Neither the ping is answered nor the connection closed.
    let mut wire = Wire::open(lbd.address);
    assert_eq!(wire.ask(1, &head("GET", "/", &[]), true).outcome(1), served());
    lbd.signal(Signal::SIGTERM);
    assert_eq!(wire.next(GOAWAY).number(0), 0x7fff_ffff);
    assert!(lbd.wait().success());
    wire.end();
}

/// Only whoever answers the ping is told which of its streams is the last.
#[test]
fn a_client_that_does_not_heed_that_it_is_to_leave_begins_nothing_more_some_day() {
    let ip = own_ip();
    let (target, go) = waiting(ip);
    let mut config = config(ip, &[target.address]);
    config.group = "drain_timeout = \"1s\"".to_owned();
    let lbd = Lbd::start(&config);
    // SETTINGS_HEADER_TABLE_SIZE: each block says its status itself.
    let mut wire = Wire::open_with(lbd.address, &[(1, 0)]);
    // So that a stream is always open.
    wire.ask(1, &head("GET", "/wait", &[]), true);
    eventually("the request is at the target", || target.seen().len() == 1);
    config.service += "access = { deny = [\"127.0.0.0/8\"] }\n";
    assert_eq!(lbd.reload(&config).0, 200);
    let mut stream = 1;
    eventually("what it still begins is refused", || {
        stream += 2;
        match wire.ask(stream, &head("GET", "/", &[]), true).outcome(stream) {
            Outcome::Answer(403, _) => false,
            // REFUSED_STREAM.
            Outcome::Reset(7) => true,
            other => panic!("{other:?}"),
        }
    });
    assert!(stream > 3, "it had its time");
    let cuts = metric(&lbd, "tandem_lbd_service_http_requests_cut_total");
    assert_eq!(cuts["{service=\"web\",reason=\"drained\"}"], 1);
    // What it had begun before goes on.
    go.send(()).unwrap();
    assert_eq!(wire.outcome(1), served());
}

#[test]
fn a_reload_changes_rules_under_connections_and_a_service_that_is_gone_sends_its_clients_away() {
    let ip = own_ip();
    let (one, two) = (Target::named(ip, "one"), Target::named(ip, "two"));
    let first = config(ip, &[one.address]);
    let listen = first.listen.clone();
    let lbd = Lbd::start(&first);
    let mut wire = Wire::open(lbd.address);
    let mut stream = 1;
    let mut text = |wire: &mut Wire| {
        let outcome = wire.ask(stream, &head("GET", "/", &[]), true).outcome(stream);
        stream += 2;
        match outcome {
            Outcome::Answer(200, body) => String::from_utf8(body).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(text(&mut wire), "one");
    let second = Config { listen: listen.clone(), ..config(ip, &[two.address]) };
    assert_eq!(lbd.reload(&second).0, 200);
    eventually("the connection's requests go to the new target", || text(&mut wire) == "two");
    // Another mode keeps the address listened on.
    let third = Config { mode: "tcp".to_owned(), service: String::new(), ..second };
    assert_eq!(lbd.reload(&third).0, 200);
    wire.ask(1001, &head("GET", "/", &[]), true);
    let (mut goodbye, mut served) = (false, false);
    while !(goodbye && served) {
        let got = wire.read().unwrap();
        goodbye |= got.kind == GOAWAY;
        served |= got.stream == 1001 && got.kind == DATA && got.flags & END_STREAM != 0;
    }
}

#[test]
fn a_connection_without_requests_is_ended_in_time() {
    let ip = own_ip();
    let (target, _go) = waiting(ip);
    let mut config = config(ip, &[target.address]);
    config.service += "timeout = { idle = \"1s\", header = \"1s\" }\n";
    let lbd = Lbd::start(&config);
    let mut wire = Wire::open(lbd.address);
    assert_eq!(wire.end(), Some(0));
    let mut wire = Wire::open(lbd.address);
    assert_eq!(wire.ask(1, &head("GET", "/", &[]), true).outcome(1), served());
    assert_eq!(wire.end(), Some(0));
    // Who only begins a preface, or sends no settings behind it, does not get that far.
    for begin in [&b"PRI * HTTP/2.0\r\n"[..], super::frames::PREFACE] {
        let mut wire = Wire { stream: crate::support::connect(lbd.address) };
        wire.send(begin);
        wire.end();
    }
}
