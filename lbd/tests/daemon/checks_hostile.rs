//! Health checks of servers that do what no server should: each check ends by its time-out or by a bound, says why, and takes
//! no memory with it.

use std::io::{Read as _, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::checks::{checking, expect, result};
use crate::server::{Server, bind};
use crate::support::{Config, Lbd, PATIENCE, eventually, own_ip, reset};

/// A server that first sends `start` and then `then`, over and over, whatever it is asked; it counts what it could send.
fn endless(start: &'static [u8], then: &'static [u8]) -> (Server, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let server = Server::start((own_ip(), 0).into(), move |mut stream| {
        let block = then.repeat(16_384 / then.len());
        let mut result = stream.write_all(start);
        while result.is_ok() {
            result = stream.write_all(&block);
            count.fetch_add(block.len(), Ordering::SeqCst);
        }
    });
    (server, sent)
}

/// A server that does something else.
fn serving(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> Server {
    Server::start((own_ip(), 0).into(), handle)
}

/// Waits for the other end to go.
fn wait_for_end(mut stream: &TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    while matches!(stream.read(&mut [0; 4096]), Ok(1..)) {}
}

fn silent() -> Server {
    serving(|stream| wait_for_end(&stream))
}

/// A byte every 20 ms, forever.
fn dribbling(bytes: &'static [u8]) -> Server {
    serving(move |mut stream| {
        for byte in bytes.iter().chain(std::iter::repeat(&b'x')) {
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    })
}

/// The checks that failed for a reason, as the metrics say.
fn failures(lbd: &Lbd, reason: &str) -> u64 {
    metric(lbd, &format!("tandem_lbd_check_failures_total{{reason=\"{reason}\"}}"))
}

fn metric(lbd: &Lbd, name: &str) -> u64 {
    let (code, text) = lbd.ask("GET", "/metrics");
    assert_eq!(code, 200);
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn addresses(servers: &[&Server]) -> Vec<SocketAddr> {
    servers.iter().map(|server| server.address).collect()
}

#[test]
fn http_checks_end() {
    let (garbage, garbage_sent) = endless(b"", b"garbage\r\n");
    let (head, head_sent) = endless(b"HTTP/1.1 200 OK\r\n", b"X-Header: and so on\r\n");
    let (interim, _) = endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n");
    let (body, body_sent) = endless(b"HTTP/1.1 200 OK\r\n\r\n", b"and so on ");
    let (chunks, _) = endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n");
    let (padded, padded_sent) =
        endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1;xxxxxxxxxxxxxxxxxxxx\r\nx\r\n");
    let quiet = silent();
    let (slow_head, slow_body) =
        (dribbling(b"HTTP/1.1 200 OK\r\nX: "), dribbling(b"HTTP/1.1 200 OK\r\n\r\n"));
    let closing = serving(|mut stream| drop(stream.read(&mut [0; 4096])));
    let resetting = serving(reset);
    let partial = serving(|mut stream| {
        drop(stream.read(&mut [0; 4096]));
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nrea"));
    });
    let servers = [
        &garbage, &head, &interim, &body, &chunks, &padded, &quiet, &slow_head, &slow_body, &closing,
        &resetting, &partial,
    ];
    let (lbd, _) = checking("http = \"/\", body = \"ready\"", &addresses(&servers));
    let (large, no) = ("answer's head larger than 16384 bytes", "no \"ready\" in the body");
    let slow = "no complete answer within 500ms";
    expect(
        &lbd,
        &[
            "the answer is not HTTP/1",
            large,
            large,
            no,
            no,
            "answer larger than 524288 bytes",
            "no answer within 500ms",
            slow,
            slow,
            "connection closed without an answer",
            "connection reset",
            "connection closed within the answer",
        ],
    );
    for reason in ["timeout", "closed", "answer", "malformed", "too_large"] {
        assert!(failures(&lbd, reason) > 0, "{reason}");
    }
    assert_eq!(failures(&lbd, "local"), 0);
    for reason in ["the answer is not HTTP/1", large, "answer larger than 524288 bytes"] {
        lbd.says(&format!("failure=\"{reason}\""));
    }
    each_is_counted_for_its_target(&lbd);
    bounded(&lbd, &garbage, &[&garbage_sent, &head_sent, &body_sent, &padded_sent]);
}

/// Looks at what is counted for each of the targets above and for the group.
fn each_is_counted_for_its_target(lbd: &Lbd) {
    let group = lbd.status()["target_groups"][0].clone();
    for (target, reason) in
        [(0_usize, "malformed"), (1, "too_large"), (3, "answer"), (6, "timeout"), (9, "closed")]
    {
        let shown = &group["targets"][target];
        let by_reason = shown["check_failures"].as_object().unwrap();
        let all: u64 = by_reason.values().map(|count| count.as_u64().unwrap()).sum();
        assert_eq!((by_reason.len(), shown["checks_failed"].as_u64()), (8, Some(all)), "{shown}");
        let count = by_reason[reason].as_u64().unwrap();
        assert!(count > 0, "{target} {reason}: {shown}");
        assert!(group["check_failures"][reason].as_u64() >= Some(count), "{target} {reason}: {group}");
        // These go on.
        let (id, address) = (&shown["id"], &shown["address"]);
        let labels = format!("group=\"pool\",target={id},address={address},reason=\"{reason}\"");
        let of_target = metric(lbd, &format!("tandem_lbd_target_check_failures_total{{{labels}}}"));
        let labels = format!("group=\"pool\",reason=\"{reason}\"");
        let of_group = metric(lbd, &format!("tandem_lbd_group_check_failures_total{{{labels}}}"));
        assert!(of_target >= count && of_group >= of_target, "{target} {reason}: {of_target}, {of_group}");
    }
    let others = ["connect", "closed", "answer", "malformed", "too_large", "tls"];
    let of_quiet = others.map(|reason| group["targets"][6]["check_failures"][reason].as_u64());
    assert_eq!(of_quiet, [Some(0); 6], "{group}");
}

/// Waits for many more checks, and looks at the daemon's memory before and after.
fn bounded(lbd: &Lbd, server: &Server, sent: &[&AtomicUsize]) {
    let rounds = |more: usize| {
        let accepted = server.accepted();
        eventually("more checks", || server.accepted() >= accepted + more);
    };
    rounds(10);
    let before = lbd.resident_kib();
    rounds(50);
    let after = lbd.resident_kib();
    assert!(after < before + 8 * 1024, "grew from {before} to {after} KiB");
    for sent in sent {
        // The kernels' buffers take something too, on both sides.
        let each = sent.load(Ordering::SeqCst) / server.accepted();
        assert!(each < 16 * 1024 * 1024, "{each} bytes for each check");
    }
}

#[test]
fn tls_checks_end() {
    let (garbage, sent) = endless(b"", b"garbage\r\n");
    // A handshake record that announces a message of 16 MiB.
    let (huge, _) = endless(b"\x16\x03\x03\x40\x00\x02\xff\xff\xff", b"\0");
    let (warnings, _) = endless(b"", b"\x15\x03\x03\x00\x02\x01\x5a");
    let (quiet, slow) = (silent(), dribbling(b"\x16\x03\x03\x40\x00\x02"));
    let (closing, resetting) = (serving(|mut stream| drop(stream.read(&mut [0; 4096]))), serving(reset));
    let servers = [&garbage, &huge, &quiet, &slow, &closing, &resetting, &warnings];
    let (lbd, _) = checking("tls = true", &addresses(&servers));
    let timeout = "no TLS handshake within 500ms";
    eventually("endless warnings end too", || result(&lbd, 6).starts_with("TLS: "));
    let warned = result(&lbd, 6);
    expect(
        &lbd,
        &[
            "TLS: the answer is not TLS",
            "TLS: the answer is not TLS",
            timeout,
            timeout,
            "connection closed within the TLS handshake",
            "connection reset",
            &warned,
        ],
    );
    assert!(failures(&lbd, "tls") > 0);
    bounded(&lbd, &garbage, &[&sent]);
}

#[test]
fn grpc_checks_end() {
    let (garbage, sent) = endless(b"", b"garbage\r\n");
    // Empty SETTINGS, then PING without end.
    let (pings, _) =
        endless(b"\0\0\0\x04\0\0\0\0\0", b"\0\0\x08\x06\0\0\0\0\0\x01\x02\x03\x04\x05\x06\x07\x08");
    // Header blocks without end: HEADERS without END_HEADERS, then CONTINUATION.
    let (headers, _) = endless(
        b"\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\0\0\0\0\x01\x88",
        b"\0\0\x0c\x09\0\0\0\0\x01\x40\x04\x61\x62\x63\x64\x05\x31\x32\x33\x34\x35",
    );
    // SETTINGS and two PINGs: more than arrives within the time-out.
    const SLOW: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x06\0\0\0\0\0abcdefgh\0\0\x08\x06\0\0\0\0\0abcdefgh";
    let (quiet, slow) = (silent(), dribbling(SLOW));
    let (closing, resetting) = (serving(|mut stream| drop(stream.read(&mut [0; 4096]))), serving(reset));
    let servers = [&garbage, &quiet, &slow, &closing, &resetting, &pings, &headers];
    let (lbd, _) = checking("grpc = \"\"", &addresses(&servers));
    let decided = |target| lbd.health(target) == "unhealthy" && result(&lbd, target) != "none yet";
    eventually("floods end too", || decided(5) && decided(6));
    let floods = [5, 6].map(|target| result(&lbd, target));
    for flood in &floods {
        let known = [
            "answer larger than 524288 bytes",
            "HTTP/2: ",
            "the answer is not HTTP/2",
            "no answer within 500ms",
        ];
        assert!(known.iter().any(|start| flood.starts_with(start)), "{flood}");
    }
    let timeout = "no answer within 500ms";
    let first = ["the answer is not HTTP/2", timeout, timeout];
    for (target, expected) in first.iter().enumerate() {
        eventually(expected, || result(&lbd, target) == *expected);
    }
    // Which of the two it is depends on what of the call arrives before the end.
    let ended =
        ["connection closed without an answer", "connection reset", "cannot connect: connection reset"];
    for target in [3, 4] {
        eventually("ended", || ended.contains(&result(&lbd, target).as_str()));
    }
    bounded(&lbd, &garbage, &[&sent]);
}

/// A server that answers each question with many large datagrams, none of them the one that is waited for.
#[test]
fn udp_checks_end() {
    let socket = UdpSocket::bind((own_ip(), 0)).unwrap();
    let address = socket.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        while let Ok((_, from)) = socket.recv_from(&mut [0; 64]) {
            count.fetch_add(1, Ordering::SeqCst);
            for _ in 0..200 {
                // Who asked has gone after the first one.
                drop(socket.send_to(&[b'x'; 9000], from));
            }
        }
    });
    let (lbd, _) = checking("udp = \"ping\", expect = \"pong\"", &[address]);
    let other = "answered something else than expected";
    expect(&lbd, &[other]);
    lbd.says(&format!("failure=\"{other}\""));
    let rounds = |more: usize| {
        let before = asked.load(Ordering::SeqCst);
        eventually("more checks", || asked.load(Ordering::SeqCst) >= before + more);
    };
    rounds(10);
    let before = lbd.resident_kib();
    rounds(50);
    let after = lbd.resident_kib();
    assert!(after < before + 8 * 1024, "grew from {before} to {after} KiB");
    assert!(failures(&lbd, "answer") >= 30);
}

#[test]
fn so_many_checks_are_under_way_and_the_others_wait() {
    let ip = own_ip();
    // Connections are made but never accepted: every check takes its whole time-out.
    let silent = bind((Ipv4Addr::UNSPECIFIED, 0).into());
    let port = silent.local_addr().unwrap().port();
    let good = Server::named((ip, 0).into(), "good");
    let address = |index: u16| {
        (Ipv4Addr::from((u32::from(ip) & 0xff00_0000) | (253 << 16) | u32::from(index)), port).into()
    };
    let mut targets: Vec<SocketAddr> = (1..=600).map(address).collect();
    targets.push(good.address);
    let mut config = Config::new(ip, &targets);
    config.group = "health = { tls = true, interval = \"1s\", timeout = \"900ms\" }".to_owned();
    let begin = Instant::now();
    let lbd = Lbd::start(&config);
    eventually("the last one is checked too", || result(&lbd, 600) == "TLS: the answer is not TLS");
    assert!(begin.elapsed() >= Duration::from_millis(1800), "600 checks are three rounds of 256 at the most");
    eventually("some had to wait", || metric(&lbd, "tandem_lbd_checks_delayed_total") >= 600 - 256);
    // Waiting does not count as time of the check.
    eventually("all are checked", || {
        (0..600).step_by(100).all(|target| result(&lbd, target).ends_with(" within 900ms"))
    });
}
