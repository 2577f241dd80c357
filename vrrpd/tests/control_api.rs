//! The API's contract, and what it does with clients that do not keep to theirs.

mod control_support;

use std::io::{BufRead, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use common::ipc::Role;
use control_support::served::Served;
use control_support::{Folder, request, status, wait_for};
use proptest::prelude::*;
use serde_json::json;
use vrrpd::api::server::{CONNECTIONS_MAX, listen_unix};
use vrrpd::api::{BODY_MAX, Settings, follow};

/// Lines until one that starts with `prefix`, that one included.
fn read_until(lines: &mut impl BufRead, prefix: &str) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let mut line = String::new();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the stream ended after {seen:?}");
        seen.push(line.trim_end().to_owned());
        if line.starts_with(prefix) {
            return seen;
        }
    }
}

#[test]
fn roles_and_status() {
    let served = Served::new(None);
    assert_eq!(served.get("/v1/role").json(), json!({ "web": "active", "dns": "backup" }));
    assert_eq!(served.get("/v1/role/web").json(), json!({ "role": "active" }));
    let unknown = served.get("/v1/role/shop");
    assert_eq!(
        (unknown.status, unknown.error()),
        (404, "there is no instance shop; this node has web, dns".to_owned())
    );
    let status = served.get("/v1/status").json();
    assert_eq!(status["node"], "a");
    assert_eq!(status["started_unix_ms"], 5000);
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["instances"][0]["routers"][0]["drops"][0], json!({ "reason": "checksum", "count": 7 }));
    for key in ["uptime_s", "status_age_ms", "config_hash", "peer_link", "maintenance", "lbd"] {
        assert!(!status[key].is_null(), "{key} is missing in {status}");
    }
}

#[test]
fn changes_need_the_unix_socket_or_the_token() {
    let served = Served::new(Some("secret"));
    let change = r#"{"on":true}"#;
    for headers in
        ["", "authorization: Bearer wrong\r\n", "authorization: secret\r\n", "authorization: Bearer \r\n"]
    {
        for path in ["/v1/maintenance", "/v1/switchover", "/v1/reload"] {
            let answer = served.tcp("POST", path, headers, change);
            assert_eq!(answer.status, 403, "{path} with {headers:?}");
            assert!(answer.error().contains("Unix socket"));
        }
    }
    assert!(!served.api.status.latest().status.maintenance);
    let answer = served.tcp("POST", "/v1/maintenance", "authorization: Bearer secret\r\n", change);
    assert_eq!((answer.status, answer.json()), (200, json!({ "on": true })));
    assert_eq!(served.unix("POST", "/v1/maintenance", r#"{"on":false}"#).json(), json!({ "on": false }));
}

#[test]
fn without_a_token_no_token_is_right() {
    let served = Served::new(None);
    for headers in ["authorization: Bearer \r\n", "authorization: Bearer x\r\n"] {
        assert_eq!(served.tcp("POST", "/v1/maintenance", headers, r#"{"on":true}"#).status, 403);
    }
}

#[test]
fn switchover_tells_what_came_of_it() {
    let served = Served::new(None);
    let ask =
        |instance: &str| served.unix("POST", "/v1/switchover", &json!({ "instance": instance }).to_string());
    assert_eq!(ask("web").json(), json!({ "instance": "web", "active": "b", "took_ms": 3 }));
    let other = ask("dns");
    assert_eq!(other.status, 409);
    assert!(other.error().contains("this node is backup for instance dns"), "{other:?}");
    assert!(other.error().contains("ask node b"), "{other:?}");
    assert_eq!(ask("stuck").status, 409);
    assert_eq!(ask("shop").status, 404);
}

#[test]
fn reload_tells_what_came_of_it() {
    let served = Served::new(None);
    assert_eq!(served.unix("POST", "/v1/reload", "").json(), json!({ "config_hash": "00000000000000ab" }));
    let failed = served.unix("POST", "/v1/reload", "");
    assert_eq!((failed.status, failed.error().contains("2 errors")), (409, true));
}

#[test]
fn bad_requests_get_a_sentence() {
    let served = Served::new(None);
    for body in ["", "{", "[]", r#"{"instance":5}"#, r#"{"instance":"web","more":1}"#, "\u{0}"] {
        let answer = served.unix("POST", "/v1/switchover", body);
        assert_eq!(answer.status, 400, "{body:?}");
        assert!(answer.error().contains(r#"{"instance":"NAME"}"#), "{answer:?}");
    }
    assert_eq!(served.get("/nowhere").status, 404);
    assert_eq!(served.tcp("DELETE", "/v1/status", "", "").status, 405);
    assert!(served.tcp("DELETE", "/v1/status", "", "").error().contains("method"));
    assert_eq!(served.get("/v1/events?after=minus").status, 400);
    assert_eq!(served.get("/v1/role/%ff").status, 400);
    let large = served.unix("POST", "/v1/switchover", &" ".repeat(BODY_MAX + 1));
    assert_eq!((large.status, large.error().contains("larger than")), (413, true));
}

#[test]
fn health_follows_the_instances() {
    let served = Served::new(None);
    for path in ["/health", "/health/live", "/health/ready", "/health/details"] {
        assert_eq!(served.get(path).status, 200, "{path}");
    }
    served.api.status.publish(status(&[("web", Role::Active), ("dns", Role::Fault)]));
    assert_eq!(served.get("/health/live").status, 200);
    assert_eq!(served.get("/health/ready").status, 503);
    let details = served.get("/health/details").json();
    assert_eq!(details["instances"][1], json!({ "name": "dns", "role": "fault", "ready": false }));
}

#[test]
fn a_silent_loop_is_not_alive() {
    let served = Served::new(None);
    let settings = Settings { token: None, silence_max: Duration::ZERO };
    served.api.settings.store(Arc::new(settings));
    assert_eq!(served.get("/health/live").status, 503);
    assert_eq!(served.get("/health").status, 503);
}

#[test]
fn metrics_are_named_as_documented() {
    let served = Served::new(None);
    let answer = served.get("/metrics");
    assert!(answer.head.contains("content-type: application/openmetrics-text"), "{}", answer.head);
    let source = include_str!("../src/metrics.rs");
    let documented: Vec<_> =
        source.lines().filter_map(|line| line.strip_prefix("//! | `")?.split('`').next()).collect();
    assert!(documented.len() > 25);
    let absent_when_unknown = [
        "tandem_vrrp_peer_last_heard_seconds",
        "tandem_vrrp_peer_same_config",
        "tandem_vrrp_peer_same_version",
    ];
    // Has labels for a reason each, and the fake peer has dropped nothing.
    let empty = "tandem_vrrp_peer_datagrams_dropped_total";
    for name in documented {
        if name != empty && !absent_when_unknown.contains(&name) {
            assert!(answer.body.contains(&format!("\n{name}")), "{name} is missing");
        }
    }
    for line in [
        r#"tandem_vrrp_role{instance="web",family="ipv4",role="active"} 1.0"#,
        r#"tandem_vrrp_role{instance="web",family="ipv4",role="backup"} 0.0"#,
        r#"tandem_vrrp_adverts_dropped_total{instance="dns",family="ipv4",reason="checksum"} 7"#,
        r#"tandem_vrrp_lateness_max_seconds{instance="web",family="ipv4"} 0.0015"#,
        r#"tandem_vrrp_adverts_unmatched_total{reason="vrid"} 4"#,
    ] {
        assert!(answer.body.contains(line), "{line} is missing in {}", answer.body);
    }
    assert!(answer.body.ends_with("# EOF\n"));
}

#[test]
fn events_come_in_pages() {
    let served = Served::new(None);
    served.happen(true);
    served.happen(false);
    let page = served.get("/v1/events").json();
    assert_eq!((&page["next"], &page["dropped"]), (&json!(2), &json!(0)));
    assert_eq!(page["events"][1]["on"], false);
    assert_eq!(served.get("/v1/events?after=1").json()["events"][0]["id"], 2);
    assert_eq!(served.get("/v1/events?after=2").json(), json!({ "events": [], "next": 2, "dropped": 0 }));
}

#[test]
fn events_are_streamed_and_resumed() {
    let served = Served::new(None);
    served.happen(true);
    let mut stream = served.follow("/v1/events?after=0", "");
    let lines = read_until(&mut stream, "data:");
    assert!(lines.contains(&"content-type: text/event-stream".to_owned()), "{lines:?}");
    assert!(
        lines.contains(&"id: 1".to_owned()) && lines.contains(&"event: maintenance".to_owned()),
        "{lines:?}"
    );
    served.happen(false);
    assert!(read_until(&mut stream, "data:").contains(&"id: 2".to_owned()));
    // The header of a reconnecting browser goes before its first address.
    let mut resumed = served.follow("/v1/events?after=0", "last-event-id: 1\r\n");
    let lines = read_until(&mut resumed, "data:");
    assert!(lines.contains(&"id: 2".to_owned()) && !lines.contains(&"id: 1".to_owned()), "{lines:?}");
}

#[test]
fn followers_are_limited_and_their_places_come_free() {
    let served = Served::new(None);
    let mut streams: Vec<_> = (0..follow::FOLLOWERS_MAX).map(|_| served.follow("/v1/events", "")).collect();
    for stream in &mut streams {
        assert!(read_until(stream, "HTTP/1.1")[0].contains("200"));
    }
    let mut refused = served.follow("/v1/events", "");
    assert!(read_until(&mut refused, "HTTP/1.1")[0].contains("503"));
    streams.pop();
    wait_for("a free place", || {
        let mut stream = served.follow("/v1/events", "");
        read_until(&mut stream, "HTTP/1.1")[0].contains("200").then_some(())
    });
}

#[test]
fn too_many_connections_are_closed_and_counted() {
    let served = Served::new(None);
    let held: Vec<_> = (0..CONNECTIONS_MAX).map(|_| TcpStream::connect(served.tcp).unwrap()).collect();
    let refused = wait_for("a refusal", || {
        let mut stream = TcpStream::connect(served.tcp).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)).then_some(stream)
    });
    let counter = &served.api.counters.refused_tcp;
    wait_for("the count", || (counter.load(std::sync::atomic::Ordering::Relaxed) > 0).then_some(()));
    // The other socket has places of its own.
    assert_eq!(served.unix("GET", "/v1/role", "").status, 200);
    drop((held, refused));
    wait_for("a free place", || {
        let stream = TcpStream::connect(served.tcp).unwrap();
        (request(stream, "GET", "/v1/role", "", "").status == 200).then_some(())
    });
}

#[test]
fn a_client_that_sends_no_request_is_disconnected() {
    let served = Served::new(None);
    let mut stream = TcpStream::connect(served.tcp).unwrap();
    stream.write_all(b"GET /v1/role HTTP/1.1\r\nhost: x\r\n").unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut rest = Vec::new();
    // The end of the stream, not our own time-out.
    stream.read_to_end(&mut rest).unwrap();
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
}

#[test]
fn the_socket_is_private_and_its_path_is_guarded() {
    use std::os::unix::fs::PermissionsExt;
    let served = Served::new(None);
    assert_eq!(std::fs::metadata(&served.socket).unwrap().permissions().mode() & 0o777, 0o600);
    let running = listen_unix(&served.socket).unwrap_err().to_string();
    assert!(running.contains("another vrrpd is running with this run directory"), "{running}");
    let folder = Folder::new();
    // A socket that a crash left behind.
    drop(std::os::unix::net::UnixListener::bind(folder.join("stale.sock")).unwrap());
    let (_listener, guard) = listen_unix(&folder.join("stale.sock")).unwrap();
    drop(guard);
    assert!(!folder.join("stale.sock").exists());
    let file = folder.write("file", "");
    assert!(listen_unix(&file).unwrap_err().to_string().contains("no socket"));
    assert!(file.exists());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn noise_does_not_stop_the_api(noise in proptest::collection::vec(any::<u8>(), 0..400)) {
        thread_local!(static SERVED: Served = Served::new(None));
        SERVED.with(|served| {
            let mut stream = UnixStream::connect(&served.socket).unwrap();
            stream.write_all(&noise).ok();
            stream.shutdown(std::net::Shutdown::Write).ok();
            stream.read_to_end(&mut Vec::new()).ok();
            assert_eq!(served.unix("GET", "/v1/role/web", "").status, 200);
        });
    }
}
