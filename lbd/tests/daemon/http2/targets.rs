//! Targets that speak HTTP/2.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::config;
use super::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, Outcome, PING, RST_STREAM, Wire, block,
    frame, head, status,
};
use super::life::waiting;
use crate::http::{Client, ask, get, leave_no_port_behind};
use crate::server::Server;
use crate::support::{Config, Lbd, eventually, metric, own_ip, patient};

/// A target that does with the head of each stream what `each` does, which gets the connection's number, too; whoever comes only to see
/// whether somebody listens is let go.
fn target(ip: Ipv4Addr, each: impl Fn(usize, &Frame, &mut Wire) + Send + Sync + 'static) -> Server {
    let connections = AtomicUsize::new(0);
    Server::start((ip, 0).into(), move |stream| {
        let number = connections.fetch_add(1, Ordering::SeqCst);
        patient(&stream);
        // Each frame goes out at once.
        stream.set_nodelay(true).unwrap();
        let mut wire = Wire::accepted(stream);
        while let Some(got) = wire.read() {
            if got.kind == HEADERS {
                each(number, &got, &mut wire);
            }
        }
    })
}

fn http2(ip: Ipv4Addr, target: SocketAddr, more: &str) -> Config {
    let mut config = config(ip, &[target]);
    config.group = format!("protocol = \"http2\"\n{more}");
    config
}

/// `:status: 200` is the eighth field of RFC 7541's table.
fn answer(wire: &mut Wire, stream: u32, text: &str) {
    wire.send(&frame(HEADERS, END_HEADERS, stream, &[0x88]));
    wire.send(&frame(DATA, END_STREAM, stream, text.as_bytes()));
}

#[test]
fn requests_share_a_connection_whatever_the_client_speaks() {
    let ip = own_ip();
    let target = target(ip, |_, got, wire| answer(wire, got.stream, "served"));
    let lbd = Lbd::start(&http2(ip, target.address, ""));
    let mut old = Client::new(lbd.address);
    let mut new = Wire::open(lbd.address);
    for index in 0..20 {
        let got = old.send(get("/")).answer();
        assert_eq!((got.text(), got.field("transfer-encoding")), ("served", Some("chunked")));
        let stream = 1 + 2 * index;
        let got = new.ask(stream, &head("GET", "/", &[]), true).outcome(stream);
        assert_eq!(got, Outcome::Answer(200, b"served".to_vec()));
    }
    // One for each worker.
    assert!(target.accepted() <= 2, "{} connections", target.accepted());
    assert!(metric(&lbd, "tandem_lbd_service_http_reused_connections_total")["{service=\"web\"}"] >= 38);
}

#[test]
fn a_connection_waits_for_requests_as_long_as_its_group_wants() {
    let ip = own_ip();
    let target = target(ip, |_, got, wire| answer(wire, got.stream, "served"));
    let open = |lbd: &Lbd| lbd.metric("tandem_lbd_target_connections_open");
    for keep_alive in ["idle = \"1s\"", "max = 0"] {
        let lbd = Lbd::start(&http2(ip, target.address, &format!("keep_alive = {{ {keep_alive} }}")));
        let mut client = Client::new(lbd.address);
        let before = target.accepted();
        assert_eq!(client.send(get("/")).answer().text(), "served");
        eventually("it has waited for long enough", || open(&lbd) == 0.0);
        assert_eq!(client.send(get("/")).answer().text(), "served");
        assert_eq!(target.accepted(), before + 2, "{keep_alive}");
    }
}

#[test]
fn a_reload_changes_how_long_a_connection_waits_also_for_those_that_wait() {
    let ip = own_ip();
    let target = target(ip, |_, got, wire| answer(wire, got.stream, "served"));
    for fewer in ["max = 0", "idle = \"1s\""] {
        let mut config = http2(ip, target.address, "keep_alive = { idle = \"1h\" }");
        let lbd = Lbd::start(&config);
        let open = || lbd.metric("tandem_lbd_target_connections_open");
        assert_eq!(Client::new(lbd.address).send(get("/")).answer().text(), "served");
        let kept = || lbd.status()["target_groups"][0]["targets"][0]["requests"]["connections_kept"].clone();
        eventually("it waits", || kept() == 1);
        config.group = format!("protocol = \"http2\"\nkeep_alive = {{ {fewer} }}");
        assert_eq!(lbd.reload(&config).0, 200);
        eventually("it is closed", || kept() == 0 && open() == 0.0);
    }
}

#[test]
fn a_request_that_may_authenticate_its_connection_shares_none() {
    let ip = own_ip();
    let target = target(ip, |_, got, wire| answer(wire, got.stream, "served"));
    let lbd = Lbd::start(&http2(ip, target.address, ""));
    // All of one client, so that one worker has them.
    let mut client = Client::new(lbd.address);
    assert_eq!(client.send(get("/")).answer().text(), "served");
    let before = target.accepted();
    for count in 1..4 {
        let negotiating = "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Negotiate YII=\r\n\r\n";
        assert_eq!(client.send(negotiating).answer().text(), "served");
        assert_eq!(client.send(get("/")).answer().text(), "served");
        assert_eq!(target.accepted(), before + count, "the others go on with theirs");
    }
}

#[test]
fn what_a_target_has_not_begun_is_sent_again() {
    let ip = own_ip();
    // Of each connection's streams the first is refused.
    let refusing = target(ip, |_, got, wire| match got.stream {
        1 => {
            wire.send(&frame(RST_STREAM, 0, 1, &[0, 0, 0, 7]));
        }
        stream => answer(wire, stream, "served"),
    });
    let lbd = Lbd::start(&http2(ip, refusing.address, ""));
    // The first request on a connection has no other target; those behind it have the same connection anew.
    eventually("it is served", || ask(lbd.address, &get("/")).status() == 200);
    // Also one with a method that may not be repeated.
    let ip = own_ip();
    let leaving = target(ip, |_, got, wire| match got.stream {
        1 => answer(wire, 1, "first"),
        // No stream behind the first one was looked at.
        _ => {
            wire.send(&frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]));
        }
    });
    let lbd = Lbd::start(&http2(ip, leaving.address, ""));
    for _ in 0..10 {
        let got = ask(lbd.address, "DELETE /x HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((got.status(), got.text()), (200, "first"));
        let got = ask(lbd.address, "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        assert_eq!((got.status(), got.text()), (200, "first"));
    }
    assert!(
        metric(&lbd, "tandem_lbd_service_http_requests_resent_total")["{service=\"web\",result=\"sent\"}"]
            > 5
    );
}

/// What becomes of all these streams: each is answered.
fn answers(wire: &mut Wire, mut left: BTreeSet<u32>) -> BTreeMap<u32, u16> {
    let mut answers = BTreeMap::new();
    while !left.is_empty() {
        let got = wire.read().expect("the connection goes on");
        if got.kind == HEADERS {
            answers.insert(got.stream, status(&got.payload));
        }
        assert!(got.kind != RST_STREAM, "{got:?}");
        if got.ends_stream() {
            left.remove(&got.stream);
        }
    }
    answers
}

/// Who ends a connection may do so for one of the requests on it, whichever that is.
#[test]
fn a_connection_that_ends_takes_no_request_with_it_that_may_be_repeated() {
    // The last one may be one that the target has begun, or not.
    for (last, post) in [(5, 502), (3, 200)] {
        let ip = own_ip();
        let (seen, ended) = (Arc::new(AtomicUsize::new(0)), AtomicBool::new(false));
        let count = Arc::clone(&seen);
        let target = target(ip, move |_, got, wire| {
            if ended.load(Ordering::SeqCst) {
                return answer(wire, got.stream, "served");
            }
            if count.fetch_add(1, Ordering::SeqCst) == 2 {
                ended.store(true, Ordering::SeqCst);
                wire.send(&frame(GOAWAY, 0, 0, &[0, 0, 0, last, 0, 0, 0, 1]));
                wire.stream.shutdown(Shutdown::Both).unwrap();
            }
        });
        let lbd = Lbd::start(&http2(ip, target.address, ""));
        let mut wire = Wire::open(lbd.address);
        for (stream, waiting) in [(1, 1), (3, 2)] {
            wire.ask(stream, &head("GET", "/", &[]), true);
            eventually("it is at the target", || seen.load(Ordering::SeqCst) == waiting);
        }
        wire.ask(5, &head("POST", "/", &[]), true);
        let expected = BTreeMap::from([(1, 200), (3, 200), (5, post)]);
        assert_eq!(answers(&mut wire, BTreeSet::from([1, 3, 5])), expected, "the last one is {last}");
        let resent = metric(&lbd, "tandem_lbd_service_http_requests_resent_total");
        let sent = resent["{service=\"web\",result=\"sent\"}"];
        assert_eq!(sent, 2 + u64::from(post == 200), "{resent:?}");
    }
}

/// A process that hangs holds its connections, and its listener may lead to another one that does not.
#[test]
fn a_connection_on_which_a_request_waited_in_vain_gets_no_more_and_those_under_way_go_on() {
    let ip = own_ip();
    let come = AtomicBool::new(false);
    let target = Server::start((ip, 0).into(), move |stream| {
        patient(&stream);
        stream.set_nodelay(true).unwrap();
        let mut wire = Wire::accepted(stream);
        let hangs = !come.swap(true, Ordering::SeqCst);
        while let Some(got) = wire.read() {
            match got.kind {
                HEADERS if !hangs => answer(&mut wire, got.stream, "served"),
                HEADERS if got.stream == 1 => {
                    wire.send(&frame(HEADERS, END_HEADERS, 1, &[0x88]));
                    wire.send(&frame(DATA, 0, 1, b"begun"));
                }
                // Nobody waits for the other one any more.
                RST_STREAM => {
                    wire.send(&frame(DATA, END_STREAM, 1, b"ended"));
                }
                _ => {}
            }
        }
    });
    let mut config = http2(ip, target.address, "");
    config.service += "timeout = { response = \"500ms\" }\n";
    let lbd = Lbd::start(&config);
    // All of one client, so that one worker has them.
    let mut wire = Wire::open(lbd.address);
    assert_eq!(wire.ask(1, &head("GET", "/", &[]), true).next(DATA).payload, b"begun");
    wire.ask(3, &head("GET", "/", &[]), true);
    assert_eq!(answers(&mut wire, BTreeSet::from([1, 3])), BTreeMap::from([(3, 504)]));
    let got = wire.ask(5, &head("GET", "/", &[]), true).outcome(5);
    assert_eq!(got, Outcome::Answer(200, b"served".to_vec()));
}

/// Any of the requests on a connection may be what it was ended for, but a target that answers none of them has failed.
#[test]
fn a_target_that_ends_each_connection_unanswered_is_to_be_ejected_however_many_wait_on_it() {
    let ip = own_ip();
    // Once two do.
    let target = target(ip, |_, got, wire| {
        if got.stream > 1 {
            wire.stream.shutdown(Shutdown::Both).unwrap();
        }
    });
    let more = "retry = { on = [\"connect\"], attempts = 1 }\n\
        eject = { consecutive_failures = 1, base = \"1h\", max = \"1h\" }\n";
    let lbd = Lbd::start(&http2(ip, target.address, more));
    let mut wire = Wire::open(lbd.address);
    for stream in [1, 3] {
        wire.ask(stream, &head("GET", "/", &[]), true);
    }
    // Each is told that it was in vain.
    let mut waiting = BTreeSet::from([1, 3]);
    while !waiting.is_empty() {
        let got = wire.read().expect("an answer to each");
        if got.ends_stream() {
            waiting.remove(&got.stream);
        }
    }
    // It is the only target, so `max_percent` keeps it.
    eventually("it was to be ejected", || {
        metric(&lbd, "tandem_lbd_target_ejections_total").values().sum::<u64>() > 0
    });
}

/// nginx ends a connection of HTTP/2 at the trailers of a request.
#[test]
fn a_request_with_trailers_shares_no_connection() {
    let ip = own_ip();
    // The connection's number, and whether trailers came.
    let seen: Arc<Mutex<Vec<(usize, bool)>>> = Arc::default();
    let (noted, connections) = (Arc::clone(&seen), AtomicUsize::new(0));
    let target = Server::start((ip, 0).into(), move |stream| {
        let number = connections.fetch_add(1, Ordering::SeqCst);
        patient(&stream);
        stream.set_nodelay(true).unwrap();
        let (mut wire, mut begun) = (Wire::accepted(stream), BTreeSet::new());
        while let Some(got) = wire.read() {
            let trails = got.kind == HEADERS && !begun.insert(got.stream);
            if got.ends_stream() {
                noted.lock().unwrap().push((number, trails));
                answer(&mut wire, got.stream, "served");
            }
        }
    });
    let lbd = Lbd::start(&http2(ip, target.address, ""));
    // All of one client, so that one worker has them.
    let mut client = Client::new(lbd.address);
    let post = |more: &str| {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{more}Transfer-Encoding: chunked\r\n\r\n");
        format!("{head}2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n")
    };
    for request in [get("/"), post("Trailer: X-Sum\r\n"), post(""), get("/")] {
        assert_eq!(client.send(request).answer().text(), "served");
    }
    let seen = seen.lock().unwrap();
    let [first, announced, unsaid, last] = seen[..] else { panic!("{seen:?}") };
    assert_eq!((unsaid, last), (first, first), "what nobody has spoken of does not come: {seen:?}");
    assert!(announced.1 && announced.0 != first.0 && !first.1, "{seen:?}");
}

#[test]
fn no_trailer_of_a_target_s_says_what_its_head_may_not() {
    let ip = own_ip();
    let target = target(ip, |_, got, wire| {
        wire.send(&frame(HEADERS, END_HEADERS, got.stream, &[0x88]));
        wire.send(&frame(DATA, 0, got.stream, b"ok"));
        let passing =
            [("x-sum", "1"), ("x-debug", "1"), ("set-cookie", "a=b"), ("host", "b"), ("content-length", "3")];
        // The second one is no trailer section at all (RFC 9113, section 8.2.2).
        let broken = [("x-sum", "1"), ("transfer-encoding", "chunked")];
        let trailers = if got.stream == 1 { block(&passing) } else { block(&broken) };
        wire.send(&frame(HEADERS, END_HEADERS | END_STREAM, got.stream, &trailers));
    });
    let mut config = http2(ip, target.address, "");
    config.service += "response_headers = { remove = [\"X-Debug\"] }\n";
    let lbd = Lbd::start(&config);
    // All of one client, so that one worker has them.
    let mut client = Client::new(lbd.address);
    let got = client.send(get("/")).answer();
    assert_eq!((got.text(), got.trailers.as_str()), ("ok", "x-sum: 1"));
    client.send(get("/"));
    assert!(!client.try_answer(false).is_ok_and(|answer| answer.is_some()), "it comes to no end");
}

#[test]
fn what_a_target_breaks_off_is_a_bad_gateway() {
    let ip = own_ip();
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let target = target(ip, move |_, got, wire| {
        match count.fetch_add(1, Ordering::SeqCst) {
            0 => {
                wire.send(&frame(RST_STREAM, 0, got.stream, &[0, 0, 0, 2]));
            }
            1 => {
                // No such field may be there.
                let block = [&[0x88][..], &super::frames::field("connection", "close")].concat();
                wire.send(&frame(HEADERS, END_HEADERS | END_STREAM, got.stream, &block));
            }
            2 => {
                wire.send(&frame(HEADERS, END_HEADERS, got.stream, &[0x88]));
                wire.send(&frame(DATA, 0, got.stream, b"part"));
                wire.send(&frame(RST_STREAM, 0, got.stream, &[0, 0, 0, 2]));
            }
            _ => answer(wire, got.stream, "served"),
        }
    });
    let lbd = Lbd::start(&http2(ip, target.address, "retry = { on = [\"connect\"], attempts = 1 }\n"));
    let outcome = || Wire::open(lbd.address).ask(1, &head("GET", "/", &[]), true).outcome(1);
    assert_eq!(outcome(), Outcome::Answer(502, b"502 Bad Gateway\n".to_vec()));
    assert!(matches!(outcome(), Outcome::Answer(502, _)));
    assert_eq!(outcome(), Outcome::Reset(2));
    assert_eq!(outcome(), Outcome::Answer(200, b"served".to_vec()));
}

/// A target that has these settings, answers 200, and sends back what comes behind a head.
fn echo(ip: Ipv4Addr, settings: &'static [(u16, u32)]) -> Server {
    Server::start((ip, 0).into(), move |stream| {
        patient(&stream);
        stream.set_nodelay(true).unwrap();
        let mut wire = Wire::accepted_with(stream, settings);
        while let Some(got) = wire.read() {
            let answer = match got.kind {
                PING if got.flags & ACK == 0 => frame(PING, ACK, 0, &got.payload),
                HEADERS if got.ends_stream() => frame(HEADERS, END_HEADERS | END_STREAM, got.stream, &[0x88]),
                HEADERS => frame(HEADERS, END_HEADERS, got.stream, &[0x88]),
                DATA => frame(DATA, got.flags & END_STREAM, got.stream, &got.payload),
                _ => continue,
            };
            wire.send(&answer);
        }
    })
}

#[test]
fn websocket_passes_to_a_target_that_takes_it() {
    const KEY: &str = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let upgrade =
        format!("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{KEY}\r\n");
    let more = [(":protocol", "websocket"), ("sec-websocket-version", "13")];
    let ip = own_ip();
    // RFC 8441, section 3: SETTINGS_ENABLE_CONNECT_PROTOCOL.
    let target = echo(ip, &[(8, 1)]);
    let mut config = http2(ip, target.address, "");
    config.service += "limits = { max_body_bytes = \"4B\" }\n";
    let lbd = Lbd::start(&config);
    let mut old = Client::new(lbd.address);
    let answer = old.send(&upgrade).answer();
    assert_eq!((answer.status(), answer.field("connection")), (101, Some("upgrade")));
    // The example of RFC 6455, section 1.3.
    let accept = answer.field("sec-websocket-accept");
    assert_eq!((answer.field("upgrade"), accept), (Some("websocket"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
    // A length of nothing is not that of the tunnel.
    let with_length = upgrade.replace(KEY, &format!("{KEY}Content-Length: 0\r\n"));
    let mut other = Client::new(lbd.address);
    assert_eq!(other.send(&with_length).answer().status(), 101);
    assert_eq!(other.send("four").read(4), b"four");
    drop(other);
    let mut new = Wire::open(lbd.address);
    new.ask(1, &head("CONNECT", "/ws", &more), false);
    let answer = new.next(HEADERS);
    assert!(answer.payload.contains(&0x88) && !answer.ends_stream(), "200: {answer:?}");
    for piece in ["one", "two", "three"] {
        assert_eq!(old.send(piece).read(piece.len()), piece.as_bytes());
        new.send(&frame(DATA, 0, 1, piece.as_bytes()));
        assert_eq!(new.next(DATA).payload, piece.as_bytes());
    }
    // Others go on beside it, and each end is passed on.
    assert_eq!(new.ask(3, &head("GET", "/", &[]), true).outcome(3), Outcome::Answer(200, vec![]));
    new.send(&frame(DATA, END_STREAM, 1, b""));
    let end = new.next(DATA);
    assert!(end.ends_stream() && end.stream == 1, "{end:?}");
    old.finish();
    assert!(old.is_at_its_end());
    assert_eq!(metric(&lbd, "tandem_lbd_service_http_tunnels_total")["{service=\"web\"}"], 3);
    // Who has not said so is asked for none.
    let ip = own_ip();
    let target = echo(ip, &[]);
    let lbd = Lbd::start(&http2(ip, target.address, ""));
    assert_eq!(ask(lbd.address, &upgrade).status(), 501);
    let mut new = Wire::open(lbd.address);
    new.ask(1, &head("CONNECT", "/ws", &more), false);
    assert!(matches!(new.outcome(1), Outcome::Answer(501, _)));
    assert_eq!(new.ask(3, &head("GET", "/", &[]), true).outcome(3), Outcome::Answer(200, vec![]));
}

#[test]
fn who_does_not_speak_http2_is_a_bad_gateway() {
    let ip = own_ip();
    let target = crate::http::Target::named(ip, "old");
    let lbd = Lbd::start(&http2(ip, target.address, ""));
    assert_eq!(ask(lbd.address, &get("/")).status(), 502);
}

/// Its head is written before it waits.
#[test]
fn who_waits_while_a_reload_changes_the_protocol_is_served_by_a_target_that_understands_it() {
    let ip = own_ip();
    let (old, go) = waiting(ip);
    let new = target(ip, |_, got, wire| answer(wire, got.stream, "new"));
    let queued = |target: SocketAddr| {
        let mut config = config(ip, &[target]);
        config.target_keys = vec!["max_connections = 1".to_owned()];
        config.group = "queue = { max = 2, timeout = \"20s\" }\n".to_owned();
        config
    };
    let first = queued(old.address);
    let lbd = Lbd::start(&first);
    let mut held = Client::new(lbd.address);
    held.send(get("/wait"));
    eventually("it is at the target", || old.seen().len() == 1);
    let mut waits = Client::new(lbd.address);
    waits.send(get("/"));
    eventually("the other one waits", || lbd.waiting() == 1);
    let mut second = Config { listen: first.listen, ..queued(new.address) };
    second.group += "protocol = \"http2\"\n";
    assert_eq!(lbd.reload(&second).0, 200);
    assert_eq!(ask(lbd.address, &get("/")).text(), "new", "who comes later need not wait for the old one");
    go.send(()).unwrap();
    for client in [&mut held, &mut waits] {
        assert_eq!(client.answer().text(), "served");
    }
}

#[test]
fn a_proxy_header_names_one_client_and_so_takes_a_connection_of_its_own() {
    let ip = own_ip();
    let headers = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&headers);
    let target = Server::start((ip, 0).into(), move |mut stream| {
        use std::io::Read;
        let mut line = Vec::new();
        let mut byte = [0];
        while !line.ends_with(b"\r\n") {
            stream.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        assert!(line.starts_with(b"PROXY TCP4 "), "{line:?}");
        count.fetch_add(1, Ordering::SeqCst);
        let mut wire = Wire::accepted(stream);
        while let Some(got) = wire.read() {
            if got.kind == HEADERS {
                answer(&mut wire, got.stream, "served");
            }
        }
    });
    let lbd = Lbd::start(&http2(ip, target.address, "send_proxy = \"v1\"\n"));
    let mut wire = Wire::open(lbd.address);
    for index in 0..5 {
        let stream = 1 + 2 * index;
        let got = wire.ask(stream, &head("GET", "/", &[]), true).outcome(stream);
        assert_eq!(got, Outcome::Answer(200, b"served".to_vec()));
    }
    assert_eq!(headers.load(Ordering::SeqCst), 5);
    leave_no_port_behind(target.address);
}
