//! How much, how fast and how often a client may ask.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use super::config;
use super::peers::{Client, Target, ask, get, write};
use super::real::curl;
use crate::clients::{beside, connect_from};
use crate::replication::{Pair, state};
use crate::support::{Lbd, eventually, free, metric, own_ip};

fn cut(lbd: &Lbd, reason: &str) -> u64 {
    let all = metric(lbd, "tandem_lbd_service_http_requests_cut_total");
    all.iter().find(|(labels, _)| labels.contains(&format!("\"{reason}\""))).map_or(0, |(_, count)| *count)
}

fn with_key(key: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\nx-api-key: {key}\r\n\r\n")
}

#[test]
fn a_body_that_is_too_large_is_refused() {
    let ip = own_ip();
    let target = Target::named(ip, "taken");
    let mut config = config(ip, &[target.address]);
    config.service = "limits = { max_body_bytes = \"10B\" }".to_owned();
    let lbd = Lbd::start(&config);
    let url = format!("http://{}/", lbd.address);
    let status = |body: &str, more: &[&str]| {
        let arguments = ["-o", "/dev/null", "-w", "%{http_code}", "--data-binary", body, &url];
        curl(&[&arguments[..], more].concat())
    };
    let chunked = ["-H", "Transfer-Encoding: chunked"];
    let waits = ["-H", "Expect: 100-continue"];
    assert_eq!(["0123456789", "0123456789a"].map(|body| status(body, &[])), ["200", "413"]);
    assert_eq!(["0123456789", "0123456789a"].map(|body| status(body, &chunked)), ["200", "413"]);
    assert_eq!(status("0123456789a", &waits), "413");
    assert_eq!(target.seen().len(), 2, "none of the others has come there");
    // Of one whose length is not said so much is passed on as fits.
    let at_target = || metric(&lbd, "tandem_lbd_target_bytes_total");
    let before = (at_target(), cut(&lbd, "body_too_long"));
    let mut client = Client::new(lbd.address);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n01234567\r\n");
    eventually("a part has gone", || at_target() != before.0);
    client.send("3\r\n890\r\n");
    assert_eq!(client.answer().status(), 413);
    assert!(client.is_at_its_end());
    eventually("the target never had it all", || target.broken() >= 1);
    assert_eq!((target.seen().len(), cut(&lbd, "body_too_long")), (2, before.1 + 1));
}

#[test]
fn a_path_that_is_too_long_is_refused() {
    let ip = own_ip();
    let target = Target::named(ip, "x");
    let mut config = config(ip, &[target.address]);
    config.service = "limits = { max_uri_bytes = \"128B\" }".to_owned();
    let lbd = Lbd::start(&config);
    let of_length =
        |length: usize| ask(lbd.address, &get(&format!("/{}?q", "a".repeat(length - 3)))).status();
    assert_eq!([128, 129, 20_000].map(of_length), [200, 414, 414]);
    assert_eq!(target.seen().len(), 1);
}

/// However it trickles: as one value without an end, or as one field after the other.
#[test]
fn a_head_that_trickles_is_not_waited_for() {
    const MANY: usize = 300;
    let ip = own_ip();
    let target = Target::named(ip, "served");
    let mut config = config(ip, &[target.address]);
    config.service = "timeout = { header = \"2s\", idle = \"60s\" }".to_owned();
    let lbd = Lbd::start(&config);
    for piece in ["x", "\r\nX: y"] {
        let mut slow = Client::new(lbd.address);
        slow.send("GET / HTTP/1.1\r\nHost: a\r\nX: ");
        let mut dripping = slow.stream().try_clone().unwrap();
        let drip = std::thread::spawn(move || {
            while dripping.write_all(piece.as_bytes()).is_ok() {
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        assert_eq!(slow.answer().status(), 408, "{piece:?}");
        drop(slow);
        drip.join().unwrap();
    }
    // Many of them cost no more than their buffers, and nobody else has to wait.
    let before = lbd.resident_kib();
    let mut many: Vec<Client> = (0..MANY).map(|_| Client::new(lbd.address)).collect();
    for slow in &mut many {
        slow.send("GET / HTTP/1.1\r\nHost: a\r\nX: y");
    }
    assert_eq!(ask(lbd.address, &get("/")).text(), "served");
    let grown = lbd.resident_kib().saturating_sub(before);
    assert!(grown < 70 * MANY as u64, "{grown} KiB");
    assert!(many.iter_mut().all(|slow| slow.answer().status() == 408));
    eventually("they are gone", || lbd.service("connections_open") == 0);
    assert_eq!(target.seen().len(), 1);
}

#[test]
fn a_body_that_comes_too_slowly_is_not_waited_for() {
    let ip = own_ip();
    let target = Target::named(ip, "taken");
    let mut config = config(ip, &[target.address]);
    config.service = "limits = { min_body_bytes_per_second = 1000 }\ntimeout = { idle = \"60s\" }".to_owned();
    let lbd = Lbd::start(&config);
    let mut slow = Client::new(lbd.address);
    slow.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
    let mut dripping = slow.stream().try_clone().unwrap();
    let drip = std::thread::spawn(move || {
        // Never idle.
        while dripping.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    assert_eq!(slow.answer().status(), 408);
    drop(slow);
    drip.join().unwrap();
    assert_eq!(cut(&lbd, "slow"), 1);
    let body = "x".repeat(100_000);
    let whole = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert_eq!(ask(lbd.address, &whole).status(), 200);
}

#[test]
fn an_answer_that_is_taken_too_slowly_is_cut_off() {
    let ip = own_ip();
    let large = Target::with(ip, |_, stream| {
        write(stream, "HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")?;
        let part = "x".repeat(100_000);
        (0..1000).try_for_each(|_| write(stream, &part).map(drop))?;
        Ok(true)
    });
    let mut config = config(ip, &[large.address]);
    config.service =
        "limits = { min_body_bytes_per_second = 1000000 }\ntimeout = { idle = \"60s\" }".to_owned();
    let lbd = Lbd::start(&config);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    // What the kernel has taken counts as taken.
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&lbd.address.into()).unwrap();
    let mut slow = Client::of(TcpStream::from(socket));
    slow.send(get("/"));
    let mut dripping = slow.stream().try_clone().unwrap();
    let mut buffer = [0; 512];
    eventually("it is cut off", || {
        let count = dripping.read(&mut buffer).unwrap_or(0);
        count <= buffer.len() && cut(&lbd, "slow") == 1
    });
    // Who is quick has it all, and a target may take its time.
    assert_eq!(ask(lbd.address, &get("/")).body.len(), 100_000_000);
}

#[test]
fn requests_are_counted_by_a_header() {
    let ip = own_ip();
    let target = Target::named(ip, "x");
    let mut config = config(ip, &[target.address]);
    config.service =
        "rate = { key = \"header\", name = \"X-Api-Key\", requests = 3, per = \"60s\" }".to_owned();
    let lbd = Lbd::start(&config);
    let of = |key: &str| ask(lbd.address, &with_key(key)).status();
    let without = || ask(lbd.address, &get("/")).status();
    assert_eq!([of("a"), of("a"), of("a"), of("a"), of("b")], [200, 200, 200, 429, 200]);
    assert_eq!([without(), without(), without(), without(), of("b")], [200, 200, 200, 429, 200]);
    // Without it they are counted by their address.
    let elsewhere = connect_from(beside(ip, 1), lbd.address).unwrap();
    assert_eq!(Client::of(elsewhere).send(get("/")).answer().status(), 200);
    assert_eq!(ask(lbd.address, &with_key("a")).field("retry-after"), Some("20"));
    // Nor does it help to say it in another way, or twice.
    let saying =
        |fields: &str| ask(lbd.address, &format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).status();
    assert_eq!(saying("X_Api.Key: a\r\n"), 429);
    assert_eq!(saying("X-Api-Key: new\r\nX-Api-Key: a\r\n"), 400);
    assert_eq!(saying("X-Api-Key: new\r\nX_Api_Key: a\r\n"), 400);
    assert_eq!(target.seen().len(), 9);
    eventually("it is counted", || {
        metric(&lbd, "tandem_lbd_service_http_over_rate_total").values().sum::<u64>() == 4
    });
}

#[test]
fn a_value_over_its_own_rate_takes_nothing_of_what_all_share() {
    let ip = own_ip();
    let target = Target::named(ip, "x");
    let mut config = config(ip, &[target.address]);
    config.service = "rate = [{ key = \"service\", requests = 12, per = \"1h\" }, { key = \"header\", name = \"X-Api-Key\", requests = 5, per = \"1h\" }]".to_owned();
    let lbd = Lbd::start(&config);
    let served = |key: &str| (0..20).filter(|_| ask(lbd.address, &with_key(key)).status() == 200).count();
    assert_eq!(["a", "b", "c", "d"].map(served), [5, 5, 2, 0]);
    assert_eq!(target.seen().len(), 12);
    eventually("it is counted", || {
        metric(&lbd, "tandem_lbd_service_http_over_rate_total").values().sum::<u64>() == 68
    });
}

#[test]
fn both_nodes_together_keep_to_a_rate_by_a_header() {
    let ip = own_ip();
    let target = Target::named(ip, "x");
    let pair = Pair::start(&[target.address], |config| {
        config.mode = "http".to_owned();
        config.service =
            "rate = { key = \"header\", name = \"X-Api-Key\", requests = 3, per = \"1h\", scope = \"pair\" }"
                .to_owned();
    });
    let mut statuses = Vec::new();
    for turn in 0..5 {
        statuses.push(ask(pair.nodes[turn % 2].address, &with_key("a")).status());
        eventually("the other node has heard of it", || {
            let settled = |lbd| state(lbd)["dirty"] == 0 && state(lbd)["unacknowledged_bytes"] == 0;
            let heard = |node: usize, turns: usize| {
                state(&pair.nodes[node])["received"]["rates"].as_u64() >= Some(turns as u64)
            };
            let (of_a, of_b) = ((turn / 2 + 1).min(2), turn.div_ceil(2).min(1));
            pair.nodes.iter().all(settled) && heard(1, of_a) && heard(0, of_b)
        });
    }
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    assert_eq!(ask(pair.nodes[0].address, &with_key("b")).status(), 200);
}

#[test]
fn who_finds_nobody_is_told_when_to_come_again() {
    let ip = own_ip();
    let lbd = Lbd::start(&config(ip, &[free(ip)]));
    let answer = ask(lbd.address, &get("/"));
    assert_eq!((answer.status(), answer.field("retry-after")), (503, Some("1")));
}
