//! What no target may see.

use super::config;
use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, Outcome, Wire, block, frame, head,
};
use crate::http::{Target, answer};
use crate::support::{Lbd, metric, own_ip};

/// A target that answers everything, and what has come to it.
fn serving() -> (Lbd, Target) {
    let ip = own_ip();
    let target = Target::with(ip, |_, stream| answer(stream, "served"));
    let lbd = Lbd::start(&config(ip, &[target.address]));
    (lbd, target)
}

const SERVED: &[u8] = b"served";

/// Whether a client was told that its request is none.
fn is_refused(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Answer(400..=599, _) | Outcome::Reset(1) | Outcome::GoAway(_))
}

#[test]
fn what_http1_would_read_differently_is_refused() {
    let (lbd, target) = serving();
    let long = "x".repeat(40_000);
    let get = |more: &[(&'static str, &'static str)]| head("GET", "/", more);
    let without =
        |name: &str| -> Vec<(&str, &str)> { get(&[]).into_iter().filter(|(its, _)| *its != name).collect() };
    let mut cases: Vec<Vec<(&str, &str)>> = vec![
        get(&[("Accept", "*/*")]),
        get(&[("a b", "1")]),
        get(&[("a\r\nb", "1")]),
        get(&[("", "1")]),
        get(&[("a:b", "1")]),
        get(&[("a", "1\r\nHost: evil")]),
        get(&[("a", "1\nb: 2")]),
        get(&[("a", "1\rb")]),
        get(&[("a", "1\0")]),
        get(&[("a", " 1")]),
        get(&[("a", "1 ")]),
        get(&[("a", "\t")]),
        get(&[("connection", "close")]),
        get(&[("keep-alive", "timeout=5")]),
        get(&[("proxy-connection", "keep-alive")]),
        get(&[("transfer-encoding", "chunked")]),
        get(&[("upgrade", "websocket")]),
        get(&[("te", "gzip")]),
        get(&[("te", "trailers, deflate")]),
        get(&[("host", "evil.example")]),
        get(&[("host", "shop.example"), ("host", "shop.example")]),
        get(&[("content-length", "5")]),
        get(&[("content_length", "5")]),
        get(&[("transfer_encoding", "chunked")]),
        get(&[(":path", "/other")]),
        get(&[("a", "1"), (":authority", "other.example")]),
        get(&[(":unknown", "1")]),
        get(&[(":status", "200")]),
        get(&[(":protocol", "websocket")]),
        head("CONNECT", "/", &[(":protocol", "other")]),
        without(":method"),
        without(":scheme"),
        without(":path"),
        without(":authority"),
        head("GET", "", &[]),
        head("GET", "/a b", &[]),
        head("GET", "/a HTTP/1.1\r\nEvil: 1\r\n\r\n", &[]),
        head("GET", "/a?b c", &[]),
        head("GET", "/\0", &[]),
        head("GET", "http://evil.example/", &[]),
        head("GET", "*", &[]),
        head("GET", "/../x", &[]),
        head("GE T", "/", &[]),
        head("GET / HTTP/1.1\r\nEvil:", "/", &[]),
        head("CONNECT", "/", &[]),
        vec![(":method", "CONNECT"), (":authority", "shop.example:443")],
        vec![(":method", "GET"), (":scheme", "http"), (":authority", "u@shop.example"), (":path", "/")],
        vec![(":method", "GET"), (":scheme", "http"), (":authority", "a b"), (":path", "/")],
        vec![("a", "1"), (":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")],
    ];
    cases.push(get(&[]).into_iter().chain([("a", long.as_str())]).collect());
    for fields in &cases {
        let mut wire = Wire::open(lbd.address);
        let outcome = wire.ask(1, fields, true).outcome(1);
        assert!(is_refused(&outcome), "{fields:?}: {outcome:?}");
    }
    assert_eq!(target.seen(), [], "nothing of it has reached the target");
    // The same connection is still good for others, unless the error was its own.
    let mut wire = Wire::open(lbd.address);
    assert!(is_refused(&wire.ask(1, &get(&[("connection", "close")]), true).outcome(1)));
    assert!(is_refused(&wire.ask(3, &get(&[("host", "evil.example")]), true).outcome(3)));
    assert_eq!(
        wire.ask(5, &get(&[("te", "trailers")]), true).outcome(5),
        Outcome::Answer(200, SERVED.to_vec())
    );
    assert_eq!(target.last().field("te"), Some("trailers"));
    let faults = metric(&lbd, "tandem_lbd_service_http_requests_malformed_total");
    assert!(faults["{service=\"web\",reason=\"host\"}"] >= 3, "{faults:?}");
}

#[test]
fn a_body_is_as_long_as_was_said() {
    let (lbd, target) = serving();
    let post = |length: &'static str| head("POST", "/", &[("content-length", length)]);
    for (length, pieces) in [
        ("5", &["hello, world"][..]),
        ("5", &["hel"]),
        ("5", &["hello", "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n"]),
        ("0", &["x"]),
    ] {
        let mut wire = Wire::open(lbd.address);
        wire.ask(1, &post(length), false);
        for (index, piece) in pieces.iter().enumerate() {
            let end = if index + 1 == pieces.len() { END_STREAM } else { 0 };
            wire.send(&frame(DATA, end, 1, piece.as_bytes()));
        }
        let outcome = wire.outcome(1);
        // Where nothing is to follow the request is one without a body, and whole.
        let fine = length == "0" && matches!(outcome, Outcome::Answer(200, _));
        assert!(is_refused(&outcome) || fine, "{length} {pieces:?}: {outcome:?}");
    }
    for seen in target.seen() {
        // What was said to be all of it may have gone on before there was too much.
        let whole =
            seen.body.is_empty() || (seen.field("content-length"), seen.text()) == (Some("5"), "hello");
        assert!(seen.line() == "POST / HTTP/1.1" && whole, "{seen:?}");
    }
    // Of those one may still be on its way.
    let (lbd, target) = serving();
    let mut wire = Wire::open(lbd.address);
    wire.ask(1, &post("5"), false).send(&frame(DATA, 0, 1, b"he")).send(&frame(DATA, END_STREAM, 1, b"llo"));
    assert_eq!(wire.outcome(1), Outcome::Answer(200, SERVED.to_vec()));
    assert_eq!((target.last().field("content-length"), target.last().text()), (Some("5"), "hello"));
    wire.ask(3, &head("POST", "/", &[]), false).send(&frame(DATA, END_STREAM, 3, b"without"));
    assert_eq!(wire.outcome(3), Outcome::Answer(200, SERVED.to_vec()));
    assert_eq!(
        (target.last().field("transfer-encoding"), target.last().text()),
        (Some("chunked"), "without")
    );
    wire.ask(5, &head("POST", "/", &[]), true);
    assert_eq!(wire.outcome(5), Outcome::Answer(200, SERVED.to_vec()));
    assert_eq!((target.last().field("content-length"), target.last().text()), (Some("0"), ""));
}

#[test]
fn a_request_is_written_anew_for_http1() {
    let (lbd, target) = serving();
    let more = [
        ("cookie", "a=1"),
        ("x-a", "1"),
        ("cookie", "b=2"),
        ("x-a", "2"),
        ("proxy", "evil"),
        ("x-forwarded-for", "1.2.3.4"),
    ];
    let mut wire = Wire::open(lbd.address);
    wire.ask(1, &head("GET", "/a/%2e%2e/b?c", &more), true);
    assert_eq!(wire.outcome(1), Outcome::Answer(200, SERVED.to_vec()));
    let seen = target.last();
    assert_eq!(seen.line(), "GET /b?c HTTP/1.1");
    assert_eq!(seen.field("host"), Some("shop.example"));
    assert_eq!(seen.field("cookie"), Some("a=1; b=2"));
    assert_eq!(seen.all("x-a"), ["1", "2"]);
    assert_eq!(seen.all("proxy"), [""; 0]);
    assert!(!seen.head.contains("1.2.3.4"), "{}", seen.head);
    assert!(seen.field("via").unwrap().starts_with("2.0 tandem-"), "{}", seen.head);
    assert_eq!(seen.field("x-forwarded-proto"), Some("http"));
}

#[test]
fn a_block_may_come_in_pieces() {
    let (lbd, _target) = serving();
    let bytes = block(&head("GET", "/", &[("a", "1")]));
    let mut wire = Wire::open(lbd.address);
    wire.send(&frame(HEADERS, END_STREAM, 1, &bytes[..7]));
    wire.send(&frame(CONTINUATION, 0, 1, &bytes[7..20]));
    wire.send(&frame(CONTINUATION, END_HEADERS, 1, &bytes[20..]));
    assert_eq!(wire.outcome(1), Outcome::Answer(200, SERVED.to_vec()));
    // Nothing else may come between.
    let mut wire = Wire::open(lbd.address);
    wire.send(&frame(HEADERS, END_STREAM, 1, &bytes[..7])).send(&frame(DATA, 0, 1, b""));
    assert_eq!(wire.outcome(1), Outcome::GoAway(1));
}

#[test]
fn http1_goes_on_on_the_same_port_and_the_preface_is_nothing_without_the_key() {
    let (lbd, target) = serving();
    assert_eq!(crate::http::ask(lbd.address, &crate::http::get("/")).text(), "served");
    assert_eq!(target.seen().len(), 1);
    let ip = own_ip();
    let mut without = config(ip, &[target.address]);
    without.service = String::new();
    let lbd = Lbd::start(&without);
    let got = crate::http::ask(lbd.address, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_eq!(got.status(), 505);
}
