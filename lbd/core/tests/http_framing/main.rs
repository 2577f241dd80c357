//! The table of malformed and ambiguous requests, read by the core alone; `lbd`'s own tests send it through the daemon.

mod table;

use common::config::{Forwarded, HeaderChanges};
use common::rng::Rng;
use lbd_core::http::framing::{BodyReader, Fault, RequestHead, Scanner, parse_request};
use lbd_core::http::pass_on::{self, Passing};
use lbd_core::http::route::Arrival;
use table::{CASES, Verdict};

/// A request's first line and its body.
type Request = (String, Vec<u8>);

/// What is made of a connection's bytes: the requests, and how it ended.
fn read(bytes: &[u8]) -> (Vec<Request>, Result<(), Fault>) {
    let mut requests = Vec::new();
    let mut rest = bytes.to_vec();
    while !rest.is_empty() {
        let head = match Scanner::default().scan(&rest, 32 * 1024) {
            Ok(Some(head)) => head,
            Ok(None) => return (requests, Err(Fault::Truncated)),
            Err(fault) => return (requests, Err(fault)),
        };
        let line = match parse_request(&rest[head.clone()]) {
            Ok(request) => (first_line(&request), request.body),
            Err(fault) => return (requests, Err(fault)),
        };
        let mut behind = rest.split_off(head.end);
        let mut reader = BodyReader::of_request(line.1);
        let decoded = match reader.read(&mut behind) {
            Ok(decoded) => decoded,
            Err(fault) => return (requests, Err(fault)),
        };
        let ended = decoded.ended;
        if ended && let Err(fault) = reader.trailers() {
            return (requests, Err(fault));
        }
        if !ended {
            return (requests, reader.end_of_input());
        }
        requests.push((line.0, behind[decoded.data].to_vec()));
        rest = behind.split_off(decoded.consumed);
    }
    (requests, Ok(()))
}

fn first_line(request: &RequestHead<'_>) -> String {
    let query = request.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{} {}{query} HTTP/1.1", request.method, request.path)
}

#[test]
fn every_case_is_refused_or_read_in_one_way() {
    assert!(CASES.len() >= 120, "{}", CASES.len());
    for (name, bytes, verdict) in CASES {
        let (requests, end) = read(bytes.as_bytes());
        match verdict {
            Verdict::Refused(status) => {
                assert_eq!(end.map_err(Fault::status), Err(*status), "{name}");
                assert!(requests.is_empty(), "{name}: {requests:?}");
            }
            Verdict::Passed(count, line, body) => {
                assert_eq!((end, requests.len()), (Ok(()), *count), "{name}: {requests:?}");
                assert_eq!(
                    (requests[0].0.as_str(), requests[0].1.as_slice()),
                    (*line, body.as_bytes()),
                    "{name}"
                );
            }
            Verdict::Cut => assert_eq!((end, requests.len()), (Err(Fault::Truncated), 0), "{name}"),
        }
    }
}

#[test]
fn names_of_cases_are_their_own() {
    let names: std::collections::BTreeSet<&str> = CASES.iter().map(|(name, ..)| *name).collect();
    assert_eq!(names.len(), CASES.len());
}

/// Bytes that parsers are known to disagree on, and some that they are not.
const PIECES: [&[u8]; 24] = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b"\0",
    b"\x0b",
    b":",
    b",",
    b";",
    b"/",
    b"%",
    b"..",
    b"?",
    b"#",
    b"_",
    b"\xff",
    b"Content-Length: 5",
    b"Transfer-Encoding: chunked",
    b"Host: b",
    b"Connection: Host",
    b"HTTP/1.0",
    b"http://b",
];

/// Changes some bytes, puts some in, takes some out, or repeats some.
fn mangle(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let place = |rng: &mut Rng, length: usize| usize::try_from(rng.below(length as u64 + 1)).unwrap();
    for _ in 0..rng.range(1..4) {
        let at = place(rng, bytes.len());
        let end = (at + place(rng, 12)).min(bytes.len());
        let piece = match rng.below(4) {
            0 => Vec::new(),
            1 => vec![rng.next_u64().to_le_bytes()[0]; end - at],
            2 => bytes[at..end].repeat(2),
            _ => [*rng.pick(&PIECES), &bytes[at..end]].concat(),
        };
        drop(bytes.splice(at..end, piece));
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Whatever comes in, a head that goes out has one reading, and it is the one that it was let in for. `TANDEM_FUZZ_ROUNDS` sets the number
/// of inputs, `TANDEM_FUZZ_SEED` what they are.
#[test]
fn what_goes_out_is_read_as_what_came_in() {
    let changes = HeaderChanges::default();
    let mut rng = Rng::new(number("TANDEM_FUZZ_SEED", 20_260));
    let good: Vec<&[u8]> = CASES
        .iter()
        .filter(|(.., verdict)| matches!(verdict, Verdict::Passed(..)))
        .map(|(_, bytes, _)| bytes.as_bytes())
        .collect();
    let hidden = ["a".to_owned()];
    let (mut passed, rounds) = (0, number("TANDEM_FUZZ_ROUNDS", 60_000));
    for _ in 0..rounds {
        let mut bytes = rng.pick(&good).to_vec();
        mangle(&mut rng, &mut bytes);
        let Ok(Some(range)) = Scanner::default().scan(&bytes, 32 * 1024) else { continue };
        let Ok(head) = parse_request(&bytes[range]) else { continue };
        let passing = Passing {
            path: &head.path,
            client: "198.51.100.7".parse().unwrap(),
            trusted: false,
            forwarded: Forwarded::Both,
            arrival: Arrival { scheme: "http", local: "192.0.2.10:80".parse().unwrap() },
            pseudonym: "tandem-1",
            request_id: 1,
            certificate: pass_on::Shown::NotAsked,
            changes: [&changes, &changes],
            hidden_cookies: &hidden,
            told: &[],
            told_in: &changes,
            weakens_tags: false,
            trace: None,
        };
        let mut out = Vec::new();
        pass_on::request(&head, &passing, false, &mut out).unwrap();
        let shown = String::from_utf8_lossy(&out).into_owned();
        let ends = out.windows(2).filter(|pair| pair == b"\r\n").count();
        let breaks = out.iter().filter(|byte| matches!(byte, b'\r' | b'\n' | b'\0')).count();
        assert!(breaks == 2 * ends && out.ends_with(b"\r\n\r\n"), "{shown}");
        assert_eq!(Scanner::default().scan(&out, 64 * 1024), Ok(Some(0..out.len())), "{shown}");
        let again = parse_request(&out).unwrap_or_else(|fault| panic!("{fault}: {shown}"));
        assert_eq!(
            (again.method, &again.path, &again.query),
            (head.method, &head.path, &head.query),
            "{shown}"
        );
        assert_eq!((again.body, again.upgrade), (head.body, head.upgrade), "{shown}");
        assert_eq!(again.values("host").count(), 1, "{shown}");
        let framing = again.values("content-length").count() + again.values("transfer-encoding").count();
        assert!(framing <= 1, "{shown}");
        passed += 1;
    }
    assert!(passed > rounds / 12, "only {passed} were let in");
}
