//! A bounded fuzz run of what is read at the beginning of a client's connection: PROXY headers and TLS hellos, mangled in
//! seeded ways.
//!
//! Nothing may panic; every input comes to an end; and it is the same one however the bytes are cut, because an answer that
//! depended on the packets would be one that two readers of the same connection disagree about.
//! `TANDEM_FUZZ_ROUNDS` sets the number of inputs, `TANDEM_FUZZ_SEED` where they start; a failure names the input's seed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::rng::Rng;
use lbd_core::client_hello::{HELLO_BYTES_MAX, HelloReader};
use lbd_core::proxy_protocol::{self, Parsed, V2_BYTES_MAX, Version};
use lbd_core::tls::prefers_chacha20;

const ROUNDS_DEFAULT: u64 = 400_000;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn below(rng: &mut Rng, bound: usize) -> usize {
    usize::try_from(rng.below(bound as u64)).unwrap_or_default()
}

/// Well-formed beginnings of connections.
fn corpus() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (from, to) in [("192.0.2.1:1", "203.0.113.1:65535"), ("[2001:db8::1]:80", "[::1]:443")] {
        for version in [Version::V1, Version::V2] {
            let mut header = Vec::new();
            proxy_protocol::emit(version, from.parse().unwrap(), to.parse().unwrap(), &mut header);
            all.push([header, b"GET /".to_vec()].concat());
        }
    }
    // With extensions, a checksum of HAProxy's kind among them.
    let mut header =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x20\xc0\x00\x02\x01\xcb\x00\x71\x0a\xc8\x22\x01\xbb".to_vec();
    header.extend_from_slice(b"\x01\x00\x02h2\x04\x00\x05\0\0\0\0\0\x03\x00\x04\xdb\x94\xb9\x63");
    all.push(header);
    all.push(b"PROXY UNKNOWN ff:: ff:: 1 2\r\n".to_vec());
    for payload in [1, 7, 300] {
        all.push(hello(payload));
    }
    all
}

/// A hello with a server name and protocols, in records of at most `payload` bytes.
fn hello(payload: usize) -> Vec<u8> {
    let vector = |content: &[u8]| [&u16::try_from(content.len()).unwrap().to_be_bytes(), content].concat();
    let name = vector(&[&[0][..], &vector(b"www.example.org")].concat());
    let protocols = vector(b"\x02h2\x08http/1.1");
    let extensions = [&[0, 0][..], &vector(&name), &[0, 16], &vector(&protocols), &[0, 23, 0, 0]].concat();
    let fixed = [&[3, 3][..], &[7; 32], &[0, 0, 4, 0x13, 1, 0xc0, 0x2f, 1, 0]].concat();
    let body = [fixed, vector(&extensions)].concat();
    let message = [&[1, 0][..], &vector(&body)].concat();
    message.chunks(payload).flat_map(|part| [&[22, 3, 1][..], &vector(part)].concat()).collect()
}

fn mangle(bytes: &mut Vec<u8>, rng: &mut Rng) {
    for _ in 0..=below(rng, 4) {
        let at = below(rng, bytes.len() + 1);
        match rng.below(7) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.next_u64().to_le_bytes()[0]),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            4 if at < bytes.len() => bytes[at] = *rng.pick(&[0, 1, 0x7f, 0x80, 0xff, b' ', b'\n']),
            5 => {
                let end = (at + below(rng, 40)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            _ => bytes.extend((0..below(rng, 60)).map(|_| rng.next_u64().to_le_bytes()[0])),
        }
    }
}

/// Reads a header and a hello, whole and in pieces.
fn read(bytes: &[u8], rng: &mut Rng) {
    let mut padded = bytes.to_vec();
    padded.resize(padded.len().max(HELLO_BYTES_MAX), 0);
    let whole = proxy_protocol::parse(&padded[..padded.len().min(V2_BYTES_MAX)]);
    assert_ne!(whole, Ok(Parsed::Incomplete));
    let told = HelloReader::default().read(&padded);
    assert_ne!(told, Ok(None));
    let favourite = prefers_chacha20(&padded);
    assert_ne!(favourite, None);
    let (mut header, mut hello, mut reader) = (None, None, HelloReader::default());
    let mut end = 0;
    while end < padded.len() && (header.is_none() || hello.is_none()) {
        end = (end + 1 + below(rng, 30)).min(padded.len());
        if header.is_none() {
            header = Some(proxy_protocol::parse(&padded[..end])).filter(|it| *it != Ok(Parsed::Incomplete));
        }
        let so_far = prefers_chacha20(&padded[..end]);
        assert!(so_far.is_none() || so_far == favourite, "{so_far:?} and then {favourite:?}");
        if hello.is_none() {
            hello = Some(reader.read(&padded[..end])).filter(|it| *it != Ok(None));
        }
    }
    assert_eq!(header, Some(whole));
    assert_eq!(hello, Some(told));
}

#[test]
fn whatever_a_client_begins_with() {
    let corpus = corpus();
    let first = number("TANDEM_FUZZ_SEED", 0);
    for seed in first..first + number("TANDEM_FUZZ_ROUNDS", ROUNDS_DEFAULT) {
        let mut rng = Rng::new(seed);
        let mut bytes = rng.pick(&corpus).clone();
        // Some stay as they are: they are read whatever the cuts.
        if seed % 50 > 0 {
            mangle(&mut bytes, &mut rng);
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| read(&bytes, &mut rng)));
        assert!(outcome.is_ok(), "input of seed {seed}: {bytes:02x?}");
    }
}

#[test]
fn the_inputs_are_understood_before_they_are_mangled() {
    let headers = corpus().iter().filter(|bytes| proxy_protocol::parse(bytes).is_ok()).count();
    let hellos = corpus()
        .iter()
        .filter(|bytes| HelloReader::default().read(bytes).is_ok_and(|it| it.is_some()))
        .count();
    assert_eq!((headers, hellos), (6, 3));
}
