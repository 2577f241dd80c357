//! Clients that have the proxy work for nothing: each loses its connection, and nobody else notices.

use std::fs;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::config;
use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, Outcome, PING, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, Wire, block, field, frame, head,
};
use crate::http::{Target, answer, ask, get};
use crate::support::{Lbd, eventually, metric, own_ip};

fn serving(more: &str) -> (Lbd, Target) {
    let ip = own_ip();
    let target = Target::with(ip, |_, stream| answer(stream, "served"));
    let mut config = config(ip, &[target.address]);
    // On a slow machine a flood takes longer than a connection may be without a request.
    config.service += "timeout = { header = \"1m\" }\n";
    config.service += more;
    (Lbd::start(&config), target)
}

fn expelled(lbd: &Lbd, reason: &str) -> u64 {
    let label = format!("{{service=\"web\",reason=\"{reason}\"}}");
    let count = || metric(lbd, "tandem_lbd_service_http2_connections_expelled_total")[&label];
    // The client hears of it first.
    let end = Instant::now() + Duration::from_secs(2);
    while count() == 0 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    count()
}

/// The daemon's memory in use, in KiB.
fn memory(lbd: &Lbd) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", lbd.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse().unwrap()
}

/// The daemon's processor time so far, in milliseconds.
fn processor_ms(lbd: &Lbd) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", lbd.pid())).unwrap();
    // Behind the name, which may have anything in it: the fields 14 and 15 of proc(5), in ticks of 10 ms.
    let (_, behind) = stat.rsplit_once(") ").unwrap();
    behind.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum()
}

/// What all floods of a test together may cost the daemon at most, with its start and what it does for others meanwhile.
const PROCESSOR_MS_MAX: u64 = 2000;

/// The fields of a request that are accepted by default, in KiB.
const FIELDS_KIB_MAX: u64 = 32;

/// What a connection may hold, in KiB: what has come of bodies and nobody has taken, a buffer of 64 KiB for either direction, and the fields of a
/// request as they came and as they were understood.
const CONNECTION_KIB_MAX: u64 = 1024 + 2 * 64 + 2 * FIELDS_KIB_MAX;

/// What the allocator may keep of what it was given back, and the program's own pages that were not needed before, in KiB.
const KEPT_KIB_MAX: u64 = 12 * 1024;

/// So much is sent before it is looked whether it was read, which takes longer the more sockets other tests have.
const BATCH: u32 = 64;

/// What came of a flood.
#[derive(Debug)]
struct Flood {
    /// The code of GOAWAY, if one came before the end.
    code: Option<u32>,
    /// How many times something was sent.
    sent: u32,
    /// How long that took, in seconds that have begun.
    seconds: u32,
}

impl Flood {
    /// How many times it may have been sent if so many are borne at once, and a tenth of that in each second: what was sent and not read when it
    /// ended comes on top.
    const fn most(&self, at_once: u32) -> u32 {
        at_once + at_once / 10 * self.seconds + 2 * BATCH
    }

    /// Looks whether it ended in time, with one of these codes.
    fn ended(&self, codes: &[u32], at_once: u32) {
        assert!(self.code.is_some_and(|code| codes.contains(&code)), "{codes:?} expected: {self:?}");
        assert!(self.sent <= self.most(at_once), "{at_once} at once: {self:?}");
    }
}

/// Sends what `each` gives for one number after the other until the connection ends, no faster than it is read.
fn flood(address: SocketAddr, first: &[u8], mut each: impl FnMut(u32) -> Vec<u8>) -> Flood {
    let began = Instant::now();
    let mut wire = Wire::open(address);
    let own_port = wire.stream.local_addr().unwrap().port();
    wire.send(first);
    let mut reader = Wire { stream: wire.stream.try_clone().unwrap() };
    // It does not wait for ever, either.
    let reader = std::thread::spawn(move || reader.end());
    let mut sent = 0;
    while !reader.is_finished() {
        let bytes: Vec<u8> = (0..BATCH).flat_map(|index| each(sent + index)).collect();
        wire.send(&bytes);
        sent += BATCH;
        assert!(sent < 100_000, "it is borne for ever");
        while !reader.is_finished() && is_unread(address, own_port) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let seconds = u32::try_from(began.elapsed().as_secs()).unwrap() + 1;
    Flood { code: reader.join().unwrap(), sent, seconds }
}

/// Whether something lies in the kernel that the daemon has not read of an open connection (`ESTABLISHED`, include/net/tcp_states.h).
fn is_unread(daemon: SocketAddr, client_port: u16) -> bool {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let (local, remote) = (format!(":{:04X}", daemon.port()), format!(":{client_port:04X}"));
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().take(5).collect();
        matches!(fields[..], [_, from, to, "01", queues]
            if from.ends_with(&local) && to.ends_with(&remote) && !queues.ends_with(":00000000"))
    })
}

/// Does something while somebody else asks again and again, who is served each time.
fn beside_others(address: SocketAddr, attack: impl FnOnce()) {
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                assert_eq!(ask(address, &get("/beside")).text(), "served");
                served.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        // Also if it fails the other one has to stop, or this would never end.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            attack();
            eventually("others are served", || served.load(Ordering::SeqCst) > 0);
        }));
        stop.store(true, Ordering::SeqCst);
        outcome.unwrap();
    });
}

/// Requests that have reached the target and are not those of others.
fn reached(target: &Target) -> usize {
    target.seen().iter().filter(|request| !request.line().contains("/beside")).count()
}

/// ENHANCE_YOUR_CALM.
const CALM: u32 = 11;
/// PROTOCOL_ERROR.
const PROTOCOL: u32 = 1;

#[test]
fn floods_of_frames_end_the_connection() {
    let (lbd, target) = serving("");
    let ask_block = block(&head("GET", "/", &[]));
    let open = frame(HEADERS, END_HEADERS, 1, &block(&head("POST", "/", &[])));
    assert_eq!(ask(lbd.address, &get("/beside")).text(), "served");
    let (before, processor) = (memory(&lbd), processor_ms(&lbd));
    beside_others(lbd.address, || {
        flood(lbd.address, &[], |_| frame(PING, 0, 0, &[0; 8])).ended(&[CALM], 400);
        assert_eq!(expelled(&lbd, "ping"), 1);
        flood(lbd.address, &[], |_| frame(SETTINGS, 0, 0, &[])).ended(&[CALM], 100);
        assert_eq!(expelled(&lbd, "settings"), 1);
        // The decoder itself has enough of these at some time, too.
        flood(lbd.address, &open, |_| frame(DATA, 0, 1, &[])).ended(&[CALM], 200);
        eventually("it is counted", || {
            let counts = metric(&lbd, "tandem_lbd_service_http2_connections_expelled_total");
            let count = |reason: &str| counts[&format!("{{service=\"web\",reason=\"{reason}\"}}")];
            count("empty_data") + count("decoder") == 1
        });
        flood(lbd.address, &[], |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])).ended(&[CALM], 2000);
        assert_eq!(expelled(&lbd, "window_update"), 1);
        let priority = |index: u32| frame(PRIORITY, 0, 1 + 2 * index, &[0, 0, 0, 0, 1]);
        flood(lbd.address, &[], priority).ended(&[CALM], 1000);
        assert_eq!(expelled(&lbd, "other"), 1);
        // A block of fields may come in few pieces: those that as many bytes as it may have take, and some more.
        let begin = frame(HEADERS, END_STREAM, 1, &ask_block);
        flood(lbd.address, &begin, |_| frame(CONTINUATION, 0, 1, &field("a", "b"))).ended(&[CALM], 10);
    });
    eventually("each is counted", || {
        metric(&lbd, "tandem_lbd_service_http2_connections_expelled_total").values().sum::<u64>() == 6
    });
    let grown = memory(&lbd).saturating_sub(before);
    assert!(grown < 6 * CONNECTION_KIB_MAX + KEPT_KIB_MAX, "{grown} KiB");
    let took = processor_ms(&lbd) - processor;
    assert!(took < PROCESSOR_MS_MAX, "{took} ms");
    assert_eq!(reached(&target), 0, "no request of theirs was whole");
}

#[test]
fn streams_that_are_only_reset_end_the_connection() {
    let (lbd, target) = serving("");
    let ask_block = block(&head("GET", "/", &[]));
    let begun = |index: u32| frame(HEADERS, END_STREAM | END_HEADERS, 1 + 2 * index, &ask_block);
    let open = |index: u32| frame(HEADERS, END_HEADERS, 1 + 2 * index, &ask_block);
    beside_others(lbd.address, || {
        // CVE-2023-44487.
        let reset = |index: u32| frame(RST_STREAM, 0, 1 + 2 * index, &[0, 0, 0, 8]);
        let rapid = flood(lbd.address, &[], |index| [begun(index), reset(index)].concat());
        rapid.ended(&[CALM], 100);
        let reached = reached(&target);
        assert!(reached as u64 <= u64::from(rapid.most(100)), "{reached} have reached the target: {rapid:?}");
        assert_eq!(expelled(&lbd, "reset") + expelled(&lbd, "decoder"), 1);
        // CVE-2025-8671: errors that have the server reset each. This one is the connection's at once,
        let zero = |index: u32| frame(WINDOW_UPDATE, 0, 1 + 2 * index, &[0; 4]);
        flood(lbd.address, &[], |index| [open(index), zero(index)].concat()).ended(&[PROTOCOL], 1);
        // this one unless the stream is forgotten,
        let data = |index: u32| frame(DATA, 0, 1 + 2 * index, b"behind the end");
        flood(lbd.address, &[], |index| [begun(index), data(index)].concat()).ended(&[PROTOCOL, CALM], 100);
        // and this one never.
        let over = |index: u32| frame(WINDOW_UPDATE, 0, 1 + 2 * index, &[0x7f, 0xff, 0xff, 0xff]);
        flood(lbd.address, &[], |index| [open(index), over(index)].concat()).ended(&[CALM], 100);
        // More than it may have open, which are a hundred.
        flood(lbd.address, &[], open).ended(&[CALM], 100 + 800);
    });
    let took = processor_ms(&lbd);
    assert!(took < PROCESSOR_MS_MAX, "{took} ms");
}

#[test]
fn frames_that_nobody_knows_or_that_are_wrong_end_the_connection() {
    let (lbd, target) = serving("");
    let open = |index: u32| frame(HEADERS, END_HEADERS, 1 + 2 * index, &block(&head("POST", "/", &[])));
    beside_others(lbd.address, || {
        flood(lbd.address, &[], |_| frame(0x42, 0, 0, b"what")).ended(&[CALM], 1000);
        assert_eq!(expelled(&lbd, "other"), 1);
        // Of a stream that never was.
        let idle = |index: u32| frame(RST_STREAM, 0, 1 + 2 * index, &[0, 0, 0, 8]);
        flood(lbd.address, &[], idle).ended(&[PROTOCOL], 1);
        // RFC 9113, section 5.3.1 has it from RFC 7540: a stream cannot depend on itself, and a priority has five bytes.
        let own = |index: u32| {
            frame(PRIORITY, 0, 1 + 2 * index, &[&(1 + 2 * index).to_be_bytes()[..], &[1]].concat())
        };
        flood(lbd.address, &[], |index| [open(index), own(index)].concat()).ended(&[CALM], 100);
        let short = |index: u32| [open(index), frame(PRIORITY, 0, 1 + 2 * index, &[0; 4])].concat();
        flood(lbd.address, &[], short).ended(&[PROTOCOL], 1);
        flood(lbd.address, &[], |_| frame(PING, 0, 0, &[0; 7])).ended(&[PROTOCOL], 1);
    });
    assert!(target.seen().iter().all(|request| request.line() == "GET /beside HTTP/1.1"));
    let took = processor_ms(&lbd);
    assert!(took < PROCESSOR_MS_MAX, "{took} ms");
}

/// Whoever does no more of it than is borne is served.
#[test]
fn what_is_borne_ends_no_connection() {
    let (lbd, _target) = serving("");
    // Nine tenths of what is: a client's own settings count, too.
    for (count, each) in [
        (360, frame(PING, 0, 0, &[0; 8])),
        (90, frame(SETTINGS, 0, 0, &[])),
        (1800, frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        (900, frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        (900, frame(0x42, 0, 0, b"what")),
    ] {
        let mut wire = Wire::open(lbd.address);
        wire.send(&each.repeat(count));
        wire.ask(1, &head("GET", "/", &[]), true);
        assert_eq!(wire.outcome(1), Outcome::Answer(200, b"served".to_vec()), "{count} of {each:?}");
    }
    let expelled = metric(&lbd, "tandem_lbd_service_http2_connections_expelled_total");
    assert_eq!(expelled.values().sum::<u64>(), 0, "{expelled:?}");
}

/// A list of fields that is far too long is not kept until it has all come, or read to its end.
#[test]
fn a_block_in_many_large_pieces_is_refused() {
    const PIECES: u32 = 70;
    let (lbd, target) = serving("");
    let (before, piece) = (memory(&lbd), field("a", &"x".repeat(16_000)));
    for _ in 0..10 {
        let mut wire = Wire::open(lbd.address);
        wire.send(&frame(HEADERS, END_STREAM, 1, &block(&head("GET", "/", &[]))));
        for index in 1..=PIECES {
            let flags = if index == PIECES { END_HEADERS } else { 0 };
            wire.send(&frame(CONTINUATION, flags, 1, &piece));
        }
        // It has sent more than is listened to after that, so that its connection may be reset before it knows.
        let outcome = wire.outcome(1);
        assert!(matches!(outcome, Outcome::GoAway(CALM) | Outcome::Closed), "{outcome:?}");
    }
    let grown = memory(&lbd).saturating_sub(before);
    assert!(grown < 10 * 2 * FIELDS_KIB_MAX + KEPT_KIB_MAX, "{grown} KiB");
    assert_eq!(target.seen(), []);
    assert_eq!(ask(lbd.address, &get("/")).text(), "served");
}

#[test]
fn a_block_that_grows_when_it_is_decoded_is_refused() {
    let (lbd, target) = serving("");
    let before = memory(&lbd);
    let mut bytes = block(&head("GET", "/", &[]));
    // A field of 4,000 bytes that the table remembers, and then one byte each for as many more as a frame holds.
    bytes.push(0x40);
    bytes.extend_from_slice(&field("bomb", &"x".repeat(3900))[1..]);
    bytes.resize(16_000, 0x80 | 62);
    for _ in 0..20 {
        let mut wire = Wire::open(lbd.address);
        wire.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &bytes));
        assert_eq!(wire.outcome(1), Outcome::GoAway(CALM));
    }
    // Crumbs of cookies are fields, too, before they are joined.
    let mut crumbs = block(&head("GET", "/", &[]));
    crumbs.push(0x40);
    crumbs.extend_from_slice(&field("cookie", "a=1")[1..]);
    crumbs.resize(16_000, 0x80 | 62);
    let mut wire = Wire::open(lbd.address);
    wire.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &crumbs));
    assert_eq!(wire.outcome(1), Outcome::GoAway(CALM));
    // Each would have been 60 MiB; the decoder goes on to four times of what is accepted, and then no more.
    let grown = memory(&lbd).saturating_sub(before);
    assert!(grown < 21 * 4 * FIELDS_KIB_MAX + KEPT_KIB_MAX, "{grown} KiB");
    assert_eq!(target.seen(), []);
}

#[test]
fn windows_that_stay_shut_cost_little_and_not_for_long() {
    const LENGTH: usize = 4 << 20;
    let ip = own_ip();
    let target = Target::with(ip, |_, stream| answer(stream, &"x".repeat(LENGTH)));
    let mut config = config(ip, &[target.address]);
    config.service += "timeout = { idle = \"1s\" }\n";
    let lbd = Lbd::start(&config);
    let before = memory(&lbd);
    // No window for streams, and none that is ever enlarged.
    let mut wires: Vec<Wire> = (0..4).map(|_| Wire::open_with(lbd.address, &[(4, 0)])).collect();
    for wire in &mut wires {
        for index in 0..50 {
            wire.ask(1 + 2 * index, &head("GET", "/", &[]), true);
        }
    }
    eventually("all are at the target", || target.seen().len() >= 200);
    // 200 answers of 4 MiB are at the target; of each a buffer is here.
    let grown = memory(&lbd).saturating_sub(before);
    assert!(grown < 200 * 128, "{grown} KiB");
    for wire in &mut wires {
        assert_eq!(wire.next(RST_STREAM).number(0), 2);
    }
    let cuts =
        || metric(&lbd, "tandem_lbd_service_http_requests_cut_total")["{service=\"web\",reason=\"idle\"}"];
    eventually("all are cut", || cuts() == 200);
    eventually("the target is rid of them", || target.ended() >= 200);
}

#[test]
fn limits_are_told() {
    let (lbd, _target) = serving("limits = { max_streams = 7, max_header_bytes = \"2KiB\" }\n");
    let mut wire = Wire::open(lbd.address);
    let settings = wire.next(SETTINGS);
    let values: Vec<(u16, u32)> = settings
        .payload
        .chunks(6)
        .map(|pair| {
            (u16::from_be_bytes([pair[0], pair[1]]), u32::from_be_bytes([pair[2], pair[3], pair[4], pair[5]]))
        })
        .collect();
    assert!(values.contains(&(3, 7)) && values.contains(&(6, 2048)), "{values:?}");
    let long = "x".repeat(3000);
    let outcome = wire.ask(1, &head("GET", "/", &[("a", &long)]), true).outcome(1);
    assert!(matches!(outcome, Outcome::Answer(431, _)), "{outcome:?}");
    let mut wire = Wire::open(lbd.address);
    for index in 0..20 {
        wire.ask(1 + 2 * index, &head("POST", "/", &[]), false);
    }
    assert_eq!(wire.next(RST_STREAM).number(0), 7, "REFUSED_STREAM");
}
