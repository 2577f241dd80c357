//! The table of malformed and ambiguous requests, read by the core alone; `lbd`'s own tests send it through the daemon.

mod table;

use lbd_core::http::framing::{BodyReader, Fault, RequestHead, Scanner, parse_request};
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
        if ended && let Err(fault) = reader.write_last_chunk(&mut Vec::new()) {
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
