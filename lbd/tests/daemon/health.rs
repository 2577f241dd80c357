//! Health checks.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::server::Server;
use crate::support::{Config, Lbd, eventually, own_ip};

const FAST: &str = "interval = \"50ms\", timeout = \"40ms\", healthy_threshold = 2, unhealthy_threshold = 2";

/// An HTTP server whose status can be set.
fn http(address: std::net::SocketAddr, status: &Arc<AtomicU16>) -> Server {
    let status = Arc::clone(status);
    Server::start(address, move |mut stream| {
        let mut request = [0; 1024];
        if matches!(stream.read(&mut request), Ok(1..)) {
            let status = status.load(Ordering::SeqCst);
            // A check that has seen the head closes.
            drop(write!(stream, "HTTP/1.1 {status} x\r\nContent-Length: 2\r\n\r\nok"));
        }
    })
}

#[test]
fn a_dead_target_is_left_out_until_it_is_back() {
    let ip = own_ip();
    let stays = Server::named((ip, 0).into(), "stays");
    let goes = Server::named((ip, 0).into(), "goes");
    let address = goes.address;
    let mut config = Config::new(ip, &[stays.address, address]);
    config.group = format!("health = {{ tcp = true, {FAST} }}");
    let lbd = Lbd::start(&config);
    eventually("both are healthy", || lbd.health(0) == "healthy" && lbd.health(1) == "healthy");
    drop(goes);
    eventually("the dead one is unhealthy", || lbd.health(1) == "unhealthy");
    let (_, metrics) = lbd.ask("GET", "/metrics");
    for (target, state, value) in [("t0", "healthy", 1), ("t1", "healthy", 0), ("t1", "unhealthy", 1)] {
        let line = |line: &str| {
            line.starts_with(&format!("tandem_lbd_target_health{{group=\"pool\",target=\"{target}\","))
                && line.ends_with(&format!("state=\"{state}\"}} {value}.0"))
        };
        assert!(metrics.lines().any(line), "{target} {state} {value}: {metrics}");
    }
    let retries = lbd.service("connect_retries");
    for _ in 0..20 {
        assert_eq!(lbd.fetch().unwrap(), "stays");
    }
    assert_eq!(lbd.service("connect_retries"), retries, "it is not even tried");
    let _back = Server::named(address, "back");
    eventually("it is healthy again", || lbd.health(1) == "healthy");
    eventually("it is used again", || lbd.fetch().unwrap() == "back");
}

#[test]
fn http_checks_look_at_the_status() {
    let ip = own_ip();
    let statuses = [200, 404].map(|status| Arc::new(AtomicU16::new(status)));
    let servers = statuses.each_ref().map(|status| http((ip, 0).into(), status));
    let mut config = Config::new(ip, &servers.each_ref().map(|server| server.address));
    config.group = format!("health = {{ http = \"/health\", expect = \"200-299\", {FAST} }}");
    let lbd = Lbd::start(&config);
    eventually("the first checks have decided", || {
        lbd.health(0) == "healthy" && lbd.health(1) == "unhealthy"
    });
    let check = lbd.status()["target_groups"][0]["targets"][1]["last_check"].clone();
    assert_eq!(check["result"], "answered 404");
    statuses[1].store(204, Ordering::SeqCst);
    eventually("the second one recovers", || lbd.health(1) == "healthy");
}

#[test]
fn with_no_healthy_target_all_are_tried_and_readiness_says_so() {
    let ip = own_ip();
    let status = Arc::new(AtomicU16::new(503));
    let server = http((ip, 0).into(), &status);
    let mut config = Config::new(ip, &[server.address]);
    config.group = format!("health = {{ http = \"/\", {FAST} }}");
    let lbd = Lbd::start(&config);
    eventually("it is unhealthy", || lbd.health(0) == "unhealthy");
    let (code, body) = lbd.ask("GET", "/health/ready");
    assert_eq!((code, body.contains("no healthy target for web")), (503, true), "{body}");
    assert_eq!(lbd.ask("GET", "/health/live").0, 200);
    let answer = crate::support::exchange(lbd.connect(), "GET", "/", "").unwrap();
    assert_eq!(answer, (503, "ok".to_owned()), "the target itself answers");
    status.store(200, Ordering::SeqCst);
    eventually("ready", || lbd.ask("GET", "/health").0 == 200);
}
