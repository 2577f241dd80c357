//! A bounded fuzz run of what a request says of where it goes and whom it is from: paths, the fields that proxies add, and heads of HTTP/2
//! on their way to HTTP/1. They are built of pieces that servers are known to read differently, in seeded ways.
//!
//! Whatever is let in has one reading, here and behind. `TANDEM_FUZZ_ROUNDS` sets the number of inputs, `TANDEM_FUZZ_SEED` where they start;
//! a failure names the input's seed.

use std::net::{IpAddr, SocketAddr};

use common::config::{Forwarded, HeaderChanges};
use common::rng::Rng;
use lbd_core::http::framing::{Fault, Field, Pseudo, RequestHead, Scanner, http2_request, parse_request};
use lbd_core::http::origin::{self, Origin};
use lbd_core::http::pass_on::{self, Passing, Shown};
use lbd_core::http::path::{is_normal, lenient_readings, normalise};
use lbd_core::http::route::Arrival;

const ROUNDS_DEFAULT: u64 = 100_000;

/// Of what paths are made.
#[rustfmt::skip]
const PIECES: &[&str] = &[
    "/", "/", "/", "/", "//", ".", "..", "/.", "/..", "/./", "/../", "%2e", "%2E", "%2e%2E", ".%2e",
    "%2f", "%2F", "%5c", "%5C", "\\", ";", ";x=1", ";/", "%3b", "%00", "%", "%4", "%zz", "%25", "%252e",
    "%c0%ae", "%e0%80%af", "a", "b", "admin", "%61", "%7E", "~", "+", "%20", " ", "#", "?", "\u{e9}",
    "\"", "\t", "\0", "[",
];

/// Fields that say of a client who it is or through whom it came, as they are and as servers may read them, and some others.
const NAMES: &[&str] = &[
    "X-Forwarded-For",
    "x-forwarded-for",
    "X-FORWARDED-FOR",
    "X_Forwarded_For",
    "X.Forwarded.For",
    "X-Forwarded_For",
    "X-Forwarded-For ",
    "Forwarded",
    "forwarded",
    "X-Forwarded-Proto",
    "x-forwarded-proto",
    "X_Forwarded_Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Whatever",
    "X-Real-IP",
    "x-real-ip",
    "X_Real_IP",
    "X-Request-ID",
    "Client-Cert",
    "Client-Cert-Chain",
    "X-Client-Cert-Verify",
    "X-Client-Cert-Subject",
    "x-client-cert-sha256",
    "Proxy",
    "Via",
    "Connection",
    "TE",
    "X-Other",
];

const VALUES: &[&str] = &[
    "198.51.100.9",
    "203.0.113.5, 10.0.0.1",
    "203.0.113.5,10.0.0.1,",
    "",
    "unknown",
    "\"[2001:db8::1]:80\"",
    "for=1.2.3.4;proto=https;by=_x",
    "for=\"1.2.3.4, 5.6.7.8\"",
    "https",
    "http",
    "evil.example",
    ",",
    " ,\t, ",
    "  1.2.3.4\t",
    "close",
    "close, X-Forwarded-For",
    "X-Other",
    "1.1 tandem-1",
    "trailers",
    "\u{ff}",
];

const CLIENT: &str = "198.51.100.7";
const REQUEST_ID: &str = "00000000000000000000000000000001";

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Whether a few inputs are only tried again, among which need not be some of each kind.
fn is_replay() -> bool {
    number("TANDEM_FUZZ_ROUNDS", ROUNDS_DEFAULT) < 10_000
}

/// Runs `round` with the seeds of this run.
fn rounds(mut round: impl FnMut(u64, &mut Rng)) {
    let start = number("TANDEM_FUZZ_SEED", 1);
    for seed in start..start + number("TANDEM_FUZZ_ROUNDS", ROUNDS_DEFAULT) {
        round(seed, &mut Rng::new(seed));
    }
}

/// A path of pieces, mostly behind a slash; now and then with a byte that is none of theirs.
fn some_path(rng: &mut Rng) -> Vec<u8> {
    let mut path = if rng.chance(950) { b"/".to_vec() } else { Vec::new() };
    for _ in 0..rng.below(12) {
        path.extend_from_slice(rng.pick(PIECES).as_bytes());
    }
    if rng.chance(100) {
        path.push(rng.next_u64().to_le_bytes()[0]);
    }
    path
}

/// A segment without its escapes, all of which are whole.
fn decoded(segment: &[u8]) -> Vec<u8> {
    let text =
        |bytes: &[u8]| std::str::from_utf8(bytes).ok().and_then(|text| u8::from_str_radix(text, 16).ok());
    let (mut bytes, mut at) = (Vec::new(), 0);
    while let Some(&byte) = segment.get(at) {
        match segment.get(at + 1..at + 3).filter(|_| byte == b'%').and_then(text) {
            Some(escaped) => {
                bytes.push(escaped);
                at += 3;
            }
            None => {
                bytes.push(byte);
                at += 1;
            }
        }
    }
    bytes
}

/// RFC 3986, section 5.2.4, done with segments whose escapes are resolved before; nothing if it leads above the root.
fn resolved(path: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut kept = Vec::new();
    let mut segments = path.strip_prefix(b"/")?.split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let segment = decoded(segment);
        let is_last = segments.peek().is_none();
        match segment.as_slice() {
            b"." => {}
            b".." => drop(kept.pop()?),
            _ => {
                kept.push(segment);
                continue;
            }
        }
        if is_last {
            kept.push(Vec::new());
        }
    }
    Some(kept)
}

#[test]
fn a_path_has_one_form_that_means_the_same() {
    let (mut read, mut refused) = (0, 0);
    rounds(|seed, rng| {
        let path = some_path(rng);
        let mut normal = String::new();
        if normalise(&path, &mut normal).is_err() {
            refused += 1;
            return;
        }
        read += 1;
        let what = format!("seed {seed}: {} became {normal}", path.escape_ascii());
        // What was meant, by another way to it.
        let plain: Vec<Vec<u8>> = normal.as_bytes()[1..].split(|byte| *byte == b'/').map(decoded).collect();
        assert_eq!(resolved(&path), Some(plain), "{what}");
        assert!(is_normal(&normal) && normal.starts_with('/'), "{what}");
        assert!(
            normal.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\' && byte != b'#'),
            "{what}"
        );
        for escape in normal.split('%').skip(1) {
            let value = u8::from_str_radix(&escape[..2], 16).expect(&what);
            assert!(!value.is_ascii_alphanumeric() && value != 0 && !b"-._~".contains(&value), "{what}");
            assert_eq!(&escape[..2], escape[..2].to_uppercase(), "{what}");
        }
        // However lenient a server is, it comes to no other path by dots.
        for reading in std::iter::once(normal.clone()).chain(lenient_readings(&normal).into_iter().flatten())
        {
            assert!(reading.split('/').all(|segment| segment != "." && segment != ".."), "{what}: {reading}");
        }
    });
    assert!(is_replay() || (read > 0 && refused > 0), "{read} {refused}");
}

/// What is known of a request that comes to us over TLS.
fn passing<'p>(
    path: &'p str,
    trusted: bool,
    certificate: Shown<'p>,
    unchanged: &'p HeaderChanges,
) -> Passing<'p> {
    Passing {
        path,
        client: CLIENT.parse().unwrap(),
        trusted,
        forwarded: Forwarded::XForwarded,
        arrival: Arrival { scheme: "https", local: "192.0.2.10:443".parse().unwrap() },
        pseudonym: "tandem-1",
        request_id: 1,
        certificate,
        changes: [unchanged, unchanged],
        hidden_cookies: &[],
        told: &[],
        told_in: unchanged,
        weakens_tags: false,
        trace: None,
    }
}

/// The values of a field.
fn values(head: &RequestHead<'_>, name: &str) -> Vec<String> {
    head.values(name).map(|value| String::from_utf8_lossy(value).into_owned()).collect()
}

/// What a target hears of a client is what is known here, and of a proxy that is trusted what it says, with ours behind.
#[test]
fn nobody_says_of_itself_what_proxies_say() {
    let unchanged = HeaderChanges::default();
    let (mut passed, mut refused, mut looped) = (0, 0, 0);
    rounds(|seed, rng| {
        let mut text = b"GET /x HTTP/1.1\r\nHost: shop.example\r\n".to_vec();
        for _ in 0..rng.below(7) {
            let (name, value) = (rng.pick(NAMES), rng.pick::<&str>(VALUES));
            text.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        text.extend_from_slice(b"\r\n");
        let Ok(head) = parse_request(&text) else {
            refused += 1;
            return;
        };
        let trusted = rng.chance(500);
        let shown = Shown::Certificate { subject: "CN=ada", sha256: "ab" };
        let certificate = *rng.pick(&[Shown::NotAsked, Shown::Nothing, shown]);
        let mut out = Vec::new();
        if pass_on::request(
            &head,
            &passing(&head.path, trusted, certificate, &unchanged),
            rng.chance(500),
            &mut out,
        )
        .is_err()
        {
            looped += 1;
            assert!(values(&head, "via").iter().any(|via| via.contains("tandem-1")), "seed {seed}");
            return;
        }
        passed += 1;
        let what =
            format!("seed {seed}, trusted: {trusted}: {} became {}", text.escape_ascii(), out.escape_ascii());
        let again = parse_request(&out).unwrap_or_else(|fault| panic!("{fault}: {what}"));
        let told = |name: &str| values(&again, name);
        if trusted {
            trusted_word_is_added_to(&head, &again, &what);
        } else {
            only_our_word_counts(&again, certificate == Shown::NotAsked, &what);
        }
        let ours: &[&str] = match certificate {
            Shown::NotAsked => &[],
            Shown::Nothing => &["NONE"],
            Shown::Certificate { .. } => &["SUCCESS"],
        };
        if certificate != Shown::NotAsked {
            assert_eq!(told("x-client-cert-verify"), ours, "{what}");
            assert_eq!(told("x-client-cert-sha256").len(), usize::from(certificate == shown), "{what}");
            assert!(told("client-cert").is_empty() && told("client-cert-chain").is_empty(), "{what}");
        }
        assert_eq!(told("host"), ["shop.example"], "{what}");
        assert!(told("proxy").is_empty(), "{what}");
        assert_eq!(told("via").last().map(String::as_str), Some("1.1 tandem-1"), "{what}");
        // It would be known if it came round.
        let round = passing(&again.path, trusted, certificate, &unchanged);
        assert_eq!(pass_on::request(&again, &round, false, &mut Vec::new()), Err(Fault::Loop), "{what}");
    });
    assert!(is_replay() || (passed > 0 && refused > 0 && looped > 0), "{passed} {refused} {looped}");
}

/// Nothing of what such a client says is left, under no name that programs take for the same.
fn only_our_word_counts(again: &RequestHead<'_>, nobody_asked: bool, what: &str) {
    let known = [
        ("x-forwarded-for", CLIENT),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example"),
        ("x-request-id", REQUEST_ID),
    ];
    for (name, ours) in known {
        assert_eq!(values(again, name), [ours], "{what}");
    }
    for field in &again.fields {
        let plain = |byte: &u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' };
        let name = String::from_utf8(field.name.iter().map(plain).collect()).unwrap();
        let is_ours = known.iter().any(|(ours, _)| *ours == name);
        assert!(is_ours || !name.starts_with("x-forwarded-"), "{name} in {what}");
        assert!(name != "forwarded" && name != "x-real-ip", "{name} in {what}");
        let of_certificates = name.starts_with("client-cert") || name.starts_with("x-client-cert-");
        assert!(!(nobody_asked && of_certificates), "{name} in {what}");
    }
}

/// All that such a proxy says itself is left as it is, and ours stands behind it.
fn trusted_word_is_added_to(head: &RequestHead<'_>, again: &RequestHead<'_>, what: &str) {
    let mut all = values(head, "x-forwarded-for");
    all.retain(|earlier| !earlier.is_empty());
    all.push(CLIENT.to_owned());
    assert_eq!(values(again, "x-forwarded-for"), [all.join(", ")], "{what}");
    for (name, ours) in
        [("x-forwarded-proto", "https"), ("x-forwarded-host", "shop.example"), ("x-request-id", REQUEST_ID)]
    {
        let mut said = values(head, name);
        // An empty one is none.
        said.retain(|value| name != "x-request-id" || !value.is_empty());
        let expected = if said.is_empty() { vec![ours.to_owned()] } else { said };
        assert_eq!(values(again, name), expected, "{what}");
    }
    let mut forwarded = values(head, "forwarded");
    if head.values("x-forwarded-for").next().is_some() {
        // It says whom the request is from, and this may be anybody's.
        forwarded.clear();
    } else if !forwarded.is_empty() {
        forwarded.push(format!("for={CLIENT};host=shop.example;proto=https;by=192.0.2.10"));
    }
    assert_eq!(values(again, "forwarded"), forwarded, "{what}");
}

/// Whoever is asked by somebody, and is a trusted proxy, has said whom: nothing that stands before it is taken for that, however it is
/// written, nor does anything of it bring the reader out of step.
#[test]
fn the_client_is_whom_a_trusted_proxy_names() {
    const PROXY: &str = "10.0.9.1";
    let trusts = |address: IpAddr| address.to_string() == PROXY;
    let proxy = SocketAddr::new(PROXY.parse().unwrap(), 40000);
    let stranger: SocketAddr = "192.0.2.9:1".parse().unwrap();
    rounds(|seed, rng| {
        let mut made_up = String::new();
        for _ in 0..rng.below(5) {
            made_up.push_str(rng.pick::<&str>(VALUES));
            made_up.push_str(rng.pick::<&str>(&["", ", ", ",", ";", "\"", "\\", "for=", PROXY, " "]));
        }
        let client: SocketAddr = format!("203.0.113.{}:0", rng.below(256)).parse().unwrap();
        let by = *rng.pick(&Forwarded::ALL);
        let (name, other) = match by {
            Forwarded::Rfc7239 => ("Forwarded", "X-Forwarded-For"),
            Forwarded::XForwarded | Forwarded::Both => ("X-Forwarded-For", "Forwarded"),
        };
        let own = match by {
            Forwarded::Rfc7239 => origin::element(client.ip(), rng.pick::<&str>(VALUES), "http", proxy.ip()),
            Forwarded::XForwarded | Forwarded::Both => client.ip().to_string(),
        };
        let lists = match seed % 3 {
            0 => vec![own],
            1 => vec![format!("{made_up}, {own}")],
            _ => vec![made_up, own],
        };
        let mut all: Vec<(&str, String)> = lists.into_iter().map(|list| (name, list)).collect();
        all.insert(index(rng, all.len()), (other, "for=192.0.2.1".to_owned()));
        let fields: Vec<Field<'_>> = all
            .iter()
            .map(|(name, value)| Field { name: name.as_bytes(), value: value.as_bytes() })
            .collect();
        let of = |connected, by| Origin::of(connected, &fields, by, trusts);
        assert_eq!(of(proxy, by).client, client, "seed {seed}: {by:?} {all:?}");
        assert_eq!(of(stranger, by).client, stranger, "seed {seed}");
        assert!(!of(proxy, by).is_proxy && !of(stranger, by).trusted, "seed {seed}");
        // Whatever it says, and whatever it is read as.
        let by_tls = of(proxy, Forwarded::Rfc7239).says_https(&fields, Forwarded::Rfc7239);
        assert!(!by_tls || all.iter().any(|(_, value)| value.contains("https")), "seed {seed}: {all:?}");
        for element in origin::elements_of_list(&fields) {
            assert!(element.bytes().all(|byte| byte.is_ascii_graphic()), "seed {seed}: {element}");
        }
    });
}

const METHODS: &[&str] =
    &["GET", "POST", "HEAD", "OPTIONS", "PUT", "CONNECT", "get", "", "G ET", "GET / HTTP/1.1\r\nX:"];
const AUTHORITIES: &[Option<&str>] = &[
    Some("shop.example"),
    Some("shop.example"),
    Some("shop.example:443"),
    Some("SHOP.example."),
    Some("shop.example:"),
    Some("[::1]:80"),
    Some("eve@shop.example"),
    Some("shop.example\r\nX: y"),
    Some("shop.example/x"),
    Some(""),
    None,
];
const TARGETS: &[&str] = &["*", "", "http://shop.example/", "/a HTTP/1.1\r\nX: y", "a", "/?a#b"];
const PROTOCOLS: &[Option<&str>] = &[Some("websocket"), Some("connect-udp"), Some("")];
const HTTP2_NAMES: &[&str] = &[
    "content-length",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "upgrade",
    "host",
    "te",
    "expect",
    "cookie",
    "cookie",
    "trailer",
    "x-a",
    "X-A",
    "x_a",
    "content_length",
    "x-a ",
    "x:a",
    "x-forwarded-for",
    "sec-websocket-key",
    "",
];
const HTTP2_VALUES: &[&str] = &[
    "5",
    "0",
    "+5",
    "05",
    "5, 5",
    "chunked",
    "trailers",
    "close",
    "shop.example",
    "SHOP.example",
    "evil.example",
    "100-continue",
    "a=b",
    "a=b; c=d",
    "a\r\nTransfer-Encoding: chunked",
    "a\0b",
    " a",
    "a ",
    "",
    "websocket",
];

/// What a server of HTTP/1 reads is what the client of HTTP/2 has asked for, and where it ends is said once.
#[test]
fn what_comes_by_http2_goes_down_as_one_request() {
    let unchanged = HeaderChanges::default();
    let (mut passed, mut refused) = (0, 0);
    rounds(|seed, rng| {
        let path = String::from_utf8_lossy(&some_path(rng)).into_owned();
        let target = if rng.chance(900) { path.as_str() } else { TARGETS[index(rng, TARGETS.len())] };
        let protocol = if rng.chance(850) { None } else { PROTOCOLS[index(rng, PROTOCOLS.len())] };
        let pseudo = Pseudo {
            method: METHODS[index(rng, METHODS.len())],
            authority: AUTHORITIES[index(rng, AUTHORITIES.len())],
            path: target,
            protocol,
            ended: rng.chance(500),
        };
        let mut field = || Field {
            name: HTTP2_NAMES[index(rng, HTTP2_NAMES.len())].as_bytes(),
            value: HTTP2_VALUES[index(rng, HTTP2_VALUES.len())].as_bytes(),
        };
        let fields: Vec<Field<'_>> = match seed % 4 {
            0 => Vec::new(),
            count => (0..count).map(|_| field()).collect(),
        };
        let mut cookie = Vec::new();
        let Ok(head) = http2_request(&pseudo, fields.iter().copied(), &mut cookie) else {
            refused += 1;
            return;
        };
        passed += 1;
        let mut out = Vec::new();
        pass_on::request(&head, &passing(&head.path, false, Shown::NotAsked, &unchanged), false, &mut out)
            .unwrap();
        let what = format!("seed {seed}: {pseudo:?} {fields:?} became {}", out.escape_ascii());
        let ends = out.windows(2).filter(|pair| pair == b"\r\n").count();
        let breaks = out.iter().filter(|byte| matches!(byte, b'\r' | b'\n' | b'\0')).count();
        assert!(breaks == 2 * ends && out.ends_with(b"\r\n\r\n"), "{what}");
        assert_eq!(Scanner::default().scan(&out, 64 * 1024), Ok(Some(0..out.len())), "{what}");
        let again = parse_request(&out).unwrap_or_else(|fault| panic!("{fault}: {what}"));
        assert_eq!(
            (again.method, &again.path, &again.query),
            (head.method, &head.path, &head.query),
            "{what}"
        );
        assert_eq!((again.body, again.upgrade), (head.body, head.upgrade), "{what}");
        assert_eq!(again.expects_continue, head.expects_continue, "{what}");
        assert_eq!((&again.authority, values(&again, "host").len()), (&head.authority, 1), "{what}");
        let framing = again.values("content-length").count() + again.values("transfer-encoding").count();
        assert!(framing <= 1 && again.values("cookie").count() <= 1, "{what}");
        assert_eq!(values(&again, "x-forwarded-for"), [CLIENT], "{what}");
    });
    assert!(is_replay() || (passed > 0 && refused > 0), "{passed} {refused}");
}

/// A place in a list of this length.
fn index(rng: &mut Rng, length: usize) -> usize {
    usize::try_from(rng.below(length as u64)).unwrap_or_default()
}
