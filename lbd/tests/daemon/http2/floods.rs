//! Clients that have the proxy work for nothing: each loses its connection, and nobody else notices.

use std::fs;
use std::net::SocketAddr;

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
    config.service += more;
    (Lbd::start(&config), target)
}

fn expelled(lbd: &Lbd, reason: &str) -> u64 {
    let label = format!("{{service=\"web\",reason=\"{reason}\"}}");
    let count = || metric(lbd, "tandem_lbd_service_http2_connections_expelled_total")[&label];
    // The client hears of it first.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(2);
    while count() == 0 && std::time::Instant::now() < end {
        std::thread::sleep(std::time::Duration::from_millis(5));
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

/// What all floods of a test together may cost the daemon at most.
const PROCESSOR_MS_MAX: u64 = 5000;

/// Sends what `each` gives for one number after the other until the connection ends; answers its code, and after how many.
fn flood(address: SocketAddr, first: &[u8], mut each: impl FnMut(u32) -> Vec<u8>) -> (Option<u32>, u32) {
    let mut wire = Wire::open(address);
    wire.send(first);
    let mut reader = Wire { stream: wire.stream.try_clone().unwrap() };
    let reader = std::thread::spawn(move || reader.end());
    let mut sent = 0;
    while !reader.is_finished() {
        // As many as fit into one segment or so.
        let bytes: Vec<u8> = (0..16).flat_map(|index| each(sent + index)).collect();
        wire.send(&bytes);
        sent += 16;
        assert!(sent < 2_000_000, "it is borne for ever");
    }
    (reader.join().unwrap(), sent)
}

const CALM: Option<u32> = Some(11);

#[test]
fn floods_of_frames_end_the_connection() {
    let (lbd, target) = serving("");
    let ask_block = block(&head("GET", "/", &[]));
    let open = frame(HEADERS, END_HEADERS, 1, &block(&head("POST", "/", &[])));
    let open_then = |more: &[u8]| [&open[..], more].concat();
    let (before, processor) = (memory(&lbd), processor_ms(&lbd));
    // Those that the decoder itself ends have its code.
    let (code, _) = flood(lbd.address, &[], |_| frame(PING, 0, 0, &[0; 8]));
    assert_eq!((code, expelled(&lbd, "ping")), (CALM, 1));
    let (code, _) = flood(lbd.address, &[], |_| frame(SETTINGS, 0, 0, &[]));
    assert_eq!((code, expelled(&lbd, "settings")), (CALM, 1));
    let (code, _) = flood(lbd.address, &open_then(&[]), |_| frame(DATA, 0, 1, &[]));
    assert_eq!((code, expelled(&lbd, "empty_data") + expelled(&lbd, "decoder")), (CALM, 1));
    let (code, _) = flood(lbd.address, &[], |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]));
    assert_eq!((code, expelled(&lbd, "window_update")), (CALM, 1));
    let (code, _) = flood(lbd.address, &[], |index| frame(PRIORITY, 0, 1 + 2 * index, &[0, 0, 0, 0, 1]));
    assert_eq!((code, expelled(&lbd, "other")), (CALM, 1));
    let (code, sent) = flood(lbd.address, &frame(HEADERS, END_STREAM, 1, &ask_block), |_| {
        frame(CONTINUATION, 0, 1, &field("a", "b"))
    });
    assert!(code.is_none_or(|code| code != 0) && sent < 100_000, "{code:?} after {sent}");
    eventually("each is counted", || {
        metric(&lbd, "tandem_lbd_service_http2_connections_expelled_total").values().sum::<u64>() == 6
    });
    // Answered pings keep nobody from being served, and neither do those that are gone.
    assert_eq!(ask(lbd.address, &get("/")).text(), "served");
    let grown = memory(&lbd).saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB");
    let took = processor_ms(&lbd) - processor;
    assert!(took < PROCESSOR_MS_MAX, "{took} ms");
    assert!(target.seen().len() < 10);
}

#[test]
fn streams_that_are_only_reset_end_the_connection() {
    let (lbd, target) = serving("");
    let ask_block = block(&head("GET", "/", &[]));
    let begun = |index: u32| frame(HEADERS, END_STREAM | END_HEADERS, 1 + 2 * index, &ask_block);
    let open = |index: u32| frame(HEADERS, END_HEADERS, 1 + 2 * index, &ask_block);
    // CVE-2023-44487.
    let reset = |index: u32| frame(RST_STREAM, 0, 1 + 2 * index, &[0, 0, 0, 8]);
    let (code, sent) = flood(lbd.address, &[], |index| [begun(index), reset(index)].concat());
    assert!(code == CALM && sent < 100_000, "{code:?} after {sent}");
    let reached = target.seen().len();
    assert!(reached <= 500, "{reached} requests have reached the target");
    // CVE-2025-8671: errors that have the server reset each.
    let zero = |index: u32| frame(WINDOW_UPDATE, 0, 1 + 2 * index, &[0; 4]);
    let (code, sent) = flood(lbd.address, &[], |index| [open(index), zero(index)].concat());
    assert!(code.is_some_and(|code| code != 0) && sent < 100_000, "{code:?} after {sent}");
    let data = |index: u32| frame(DATA, 0, 1 + 2 * index, b"behind the end");
    let (code, sent) = flood(lbd.address, &[], |index| [begun(index), data(index)].concat());
    assert!(code.is_some_and(|code| code != 0) && sent < 100_000, "{code:?} after {sent}");
    let over = |index: u32| frame(WINDOW_UPDATE, 0, 1 + 2 * index, &[0x7f, 0xff, 0xff, 0xff]);
    let (code, sent) = flood(lbd.address, &[], |index| [open(index), over(index)].concat());
    assert!(code.is_some_and(|code| code != 0) && sent < 100_000, "{code:?} after {sent}");
    // More than it may have open.
    let (code, sent) = flood(lbd.address, &[], open);
    assert!(code.is_some_and(|code| code != 0) && sent < 100_000, "{code:?} after {sent}");
    assert_eq!(ask(lbd.address, &get("/")).text(), "served");
    let took = processor_ms(&lbd);
    assert!(took < PROCESSOR_MS_MAX, "{took} ms");
}

#[test]
fn frames_that_nobody_knows_or_that_are_wrong_end_the_connection() {
    let (lbd, target) = serving("");
    let (code, sent) = flood(lbd.address, &[], |_| frame(0x42, 0, 0, b"what"));
    assert!(sent < 100_000, "{sent}");
    assert_eq!((code, expelled(&lbd, "other")), (CALM, 1));
    let open = |index: u32| frame(HEADERS, END_HEADERS, 1 + 2 * index, &block(&head("POST", "/", &[])));
    let ended = |what: &str, each: &dyn Fn(u32) -> Vec<u8>| {
        let (code, sent) = flood(lbd.address, &[], each);
        assert!(code.is_some_and(|code| code != 0) && sent < 100_000, "{what}: {code:?} after {sent}");
    };
    ended("a stream that never was", &|index| frame(RST_STREAM, 0, 1 + 2 * index, &[0, 0, 0, 8]));
    // RFC 9113, section 5.3.1 has it from RFC 7540: a stream cannot depend on itself, and a priority has five bytes.
    let own =
        |index: u32| frame(PRIORITY, 0, 1 + 2 * index, &[&(1 + 2 * index).to_be_bytes()[..], &[1]].concat());
    ended("a stream that depends on itself", &|index| [open(index), own(index)].concat());
    ended("a priority that is too short", &|index| {
        [open(index), frame(PRIORITY, 0, 1 + 2 * index, &[0; 4])].concat()
    });
    ended("a ping that is too short", &|_| frame(PING, 0, 0, &[0; 7]));
    assert_eq!(ask(lbd.address, &get("/")).text(), "served");
    assert_eq!(target.seen().iter().filter(|request| request.line().starts_with("GET ")).count(), 1);
    let took = processor_ms(&lbd);
    assert!(took < PROCESSOR_MS_MAX, "{took} ms");
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
        let outcome = wire.outcome(1);
        assert!(!matches!(outcome, Outcome::Answer(200, _)), "{outcome:?}");
    }
    let grown = memory(&lbd).saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB");
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
        let outcome = wire.outcome(1);
        assert!(!matches!(outcome, Outcome::Answer(200, _)), "{outcome:?}");
    }
    // Crumbs of cookies are fields, too, before they are joined.
    let mut crumbs = block(&head("GET", "/", &[]));
    crumbs.push(0x40);
    crumbs.extend_from_slice(&field("cookie", "a=1")[1..]);
    crumbs.resize(16_000, 0x80 | 62);
    let mut wire = Wire::open(lbd.address);
    wire.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &crumbs));
    let outcome = wire.outcome(1);
    assert!(!matches!(outcome, Outcome::Answer(200, _)), "{outcome:?}");
    let grown = memory(&lbd).saturating_sub(before);
    assert!(grown < 32 * 1024, "{grown} KiB");
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
    assert!(!matches!(outcome, Outcome::Answer(200, _)), "{outcome:?}");
    let mut wire = Wire::open(lbd.address);
    for index in 0..20 {
        wire.ask(1 + 2 * index, &head("POST", "/", &[]), false);
    }
    assert_eq!(wire.next(RST_STREAM).number(0), 7, "REFUSED_STREAM");
}
