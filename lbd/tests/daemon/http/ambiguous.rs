//! The table of malformed and ambiguous requests, sent through the daemon to a target that remembers what it gets.

#[path = "../../../core/tests/http_framing/table.rs"]
pub(super) mod table;

use super::config;
use super::peers::{Client, Target};
use crate::support::{Lbd, eventually, metric, own_ip};
use table::{CASES, Verdict};

#[test]
fn every_case_is_refused_or_passed_on_in_one_form() {
    let ip = own_ip();
    let target = Target::named(ip, "ok");
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let mut passed: usize = 0;
    for (name, bytes, verdict) in CASES {
        let (before, broken) = (target.seen().len(), target.broken());
        let mut client = Client::new(lbd.address);
        client.send(bytes);
        match verdict {
            Verdict::Refused(status) => {
                assert_eq!(client.answer().status(), *status, "{name}");
                assert!(client.is_at_its_end(), "{name}");
                let seen = target.seen();
                assert_eq!(seen.len(), before, "{name}: {:?}", &seen[before..]);
            }
            Verdict::Passed(count, line, body) => {
                for _ in 0..*count {
                    assert_eq!(client.answer().status(), 200, "{name}");
                }
                let seen = target.seen();
                assert_eq!(seen.len(), before + count, "{name}: {:?}", &seen[before..]);
                let first = &seen[before];
                assert_eq!((first.line(), first.body.as_slice()), (*line, body.as_bytes()), "{name}");
                assert_eq!(first.all("host").len(), 1, "{name}: {}", first.head);
                let framing = first.all("content-length").len() + first.all("transfer-encoding").len();
                assert!(framing <= 1, "{name}: {}", first.head);
                passed += *count;
                // No answer more than there were requests.
                client.stream().shutdown(std::net::Shutdown::Write).ok();
                assert!(client.is_at_its_end(), "{name}");
            }
            Verdict::Cut => {
                client.finish();
                assert!(client.is_at_its_end(), "{name}");
                // A target may have got the begin of it, and knows that it was no more.
                assert_eq!(target.seen().len(), before, "{name}");
                assert!(target.broken() <= broken + 1, "{name}");
            }
        }
    }
    // Whoever counts comes to the same: those who asked, the daemon, and the target, which has got nothing late.
    let answered =
        || metric(&lbd, "tandem_lbd_service_http_requests_total")["{service=\"web\",class=\"2xx\"}"];
    eventually("all are counted", || answered() == passed as u64);
    assert_eq!(target.seen().len(), passed);
    assert!(lbd.status()["services"][0]["requests"]["malformed"].as_u64() > Some(100));
}

/// However a request is cut on its way, byte by byte at the worst, it is read the same.
#[test]
fn cuts_on_the_way_change_nothing() {
    let ip = own_ip();
    let target = Target::named(ip, "ok");
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let wanted = ["chunk with an extension", "two requests", "length for a trailer", "one empty line before"];
    for (name, bytes, verdict) in CASES.iter().filter(|(name, ..)| wanted.contains(name)) {
        let Verdict::Passed(count, line, body) = verdict else { panic!("{name} is passed on") };
        let before = target.seen().len();
        let mut client = Client::new(lbd.address);
        client.stream().set_nodelay(true).unwrap();
        for byte in bytes.as_bytes() {
            client.send([*byte]);
            std::thread::yield_now();
        }
        for _ in 0..*count {
            assert_eq!(client.answer().status(), 200, "{name}");
        }
        let seen = target.seen();
        assert_eq!(seen.len(), before + count, "{name}");
        assert_eq!((seen[before].line(), seen[before].body.as_slice()), (*line, body.as_bytes()), "{name}");
    }
}

#[test]
fn heads_are_bounded() {
    let ip = own_ip();
    let target = Target::named(ip, "ok");
    let mut config = config(ip, &[target.address]);
    config.service = "limits = { max_header_bytes = \"4KiB\" }".to_owned();
    let lbd = Lbd::start(&config);
    let status = |request: String| Client::new(lbd.address).send(request).answer().status();
    let long = |count: usize| "a".repeat(count);
    assert_eq!(status(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", long(3000))), 200);
    assert_eq!(status(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", long(5000))), 414);
    assert_eq!(status(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", long(5000))), 431);
    assert_eq!(status(format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: a\r\n".repeat(200))), 431);
    // What never ends is not waited for either.
    assert_eq!(status(format!("GET /{}", long(5000))), 414);
    assert_eq!(target.seen().len(), 1);
}
