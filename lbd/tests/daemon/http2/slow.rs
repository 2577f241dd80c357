//! Clients that are never idle and never done: a head or a body that trickles, and a window that is opened a byte at a time, or not at all.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ::http::Response;
use bytes::Bytes;
use h2::server::SendResponse;

use super::config;
use super::frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, Outcome, RST_STREAM, WINDOW_UPDATE, Wire, block, frame, head,
};
use crate::http::{Target, answer, ask, get};
use crate::support::{Lbd, PATIENCE, eventually, metric, own_ip};

/// How long a client waits before its next byte.
const DRIP: Duration = Duration::from_millis(50);

#[test]
fn a_head_that_trickles_is_not_waited_for() {
    let ip = own_ip();
    let target = Target::named(ip, "served");
    let mut config = config(ip, &[target.address]);
    config.service += "timeout = { header = \"1s\", idle = \"60s\" }\n";
    let lbd = Lbd::start(&config);
    let long = "x".repeat(8000);
    let whole = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&head("GET", "/", &[("a", &long)])));
    let mut wire = Wire::open(lbd.address);
    let mut reader = Wire { stream: wire.stream.try_clone().unwrap() };
    let reader = std::thread::spawn(move || reader.end());
    let (mut left, began) = (whole.iter(), Instant::now());
    while !reader.is_finished() {
        assert!(began.elapsed() < PATIENCE, "it is waited for without end");
        wire.send(&[*left.next().unwrap()]);
        std::thread::sleep(DRIP);
    }
    assert_eq!(reader.join().unwrap(), Some(0));
    assert_eq!(target.seen(), []);
    assert_eq!(ask(lbd.address, &get("/")).text(), "served");
}

#[test]
fn bodies_that_trickle_are_cut_off() {
    const LENGTH: usize = 1 << 20;
    let ip = own_ip();
    let target = Target::with(ip, |_, stream| answer(stream, &"x".repeat(LENGTH)));
    let mut config = config(ip, &[target.address]);
    config.service += "limits = { min_body_bytes_per_second = 100000 }\ntimeout = { idle = \"60s\" }\n";
    let lbd = Lbd::start(&config);
    let mut sends = Wire::open(lbd.address);
    sends.ask(1, &head("POST", "/", &[("content-length", "1000000")]), false);
    // SETTINGS_INITIAL_WINDOW_SIZE: nothing may come that is not asked for.
    let mut takes = Wire::open_with(lbd.address, &[(4, 0)]);
    takes.ask(1, &head("GET", "/", &[]), true);
    let cuts =
        || metric(&lbd, "tandem_lbd_service_http_requests_cut_total")["{service=\"web\",reason=\"slow\"}"];
    eventually("both are cut off", || {
        sends.send(&frame(DATA, 0, 1, b"x"));
        takes.send(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]));
        std::thread::sleep(DRIP);
        cuts() == 2
    });
    assert!(matches!(sends.outcome(1), Outcome::Answer(408, _)));
    assert_eq!(takes.next(RST_STREAM).stream, 1);
    eventually("the target is rid of both", || target.ended() == 2);
    // Who is quick has all of it.
    assert_eq!(ask(lbd.address, &get("/")).body.len(), LENGTH);
}

/// What a target of HTTP/2 answers, in bytes: more than a stream has room for.
const MUCH: usize = 256 * 1024;

/// What it has seen.
#[derive(Default)]
struct Noted {
    /// The number of the connection on which it was asked for each path last.
    asked: Mutex<BTreeMap<String, usize>>,
    /// Bytes that it has sent behind `/slow`.
    slow: AtomicUsize,
}

/// A target of HTTP/2 that sends as much as it may.
fn much(ip: Ipv4Addr, noted: Arc<Noted>) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let serving = async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let mut connections = 0;
        while let Ok((stream, _)) = listener.accept().await {
            connections += 1;
            let (number, noted) = (connections, Arc::clone(&noted));
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    let path = request.uri().path().to_owned();
                    noted.asked.lock().unwrap().insert(path.clone(), number);
                    tokio::spawn(send_much(path, respond, Arc::clone(&noted)));
                }
            });
        }
    };
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(serving);
    });
    address
}

async fn send_much(path: String, mut respond: SendResponse<Bytes>, noted: Arc<Noted>) {
    let Ok(mut stream) = respond.send_response(Response::new(()), false) else { return };
    let mut left = MUCH;
    while left > 0 {
        stream.reserve_capacity(left);
        let room = stream.capacity().min(left);
        if room == 0 {
            let Some(Ok(_)) = poll_fn(|context| stream.poll_capacity(context)).await else { return };
            continue;
        }
        left -= room;
        if path == "/slow" {
            noted.slow.fetch_add(room, Ordering::SeqCst);
        }
        if stream.send_data(Bytes::from(vec![0; room]), left == 0).is_err() {
            return;
        }
    }
}

#[test]
fn clients_that_take_nothing_leave_others_room_on_the_connection_to_their_target() {
    const SLOW: u32 = 24;
    /// What each of them has room for.
    const WINDOW: usize = 64 * 1024;
    let (ip, noted) = (own_ip(), Arc::<Noted>::default());
    let target = much(ip, Arc::clone(&noted));
    let mut config = config(ip, &[target]);
    config.group = "protocol = \"http2\"\n".to_owned();
    let lbd = Lbd::start(&config);
    // SETTINGS_INITIAL_WINDOW_SIZE, and no word more.
    let mut slow = Wire::open_with(lbd.address, &[(4, 0)]);
    for index in 0..SLOW {
        slow.ask(1 + 2 * index, &head("GET", "/slow", &[]), true);
    }
    let sent = || noted.slow.load(Ordering::SeqCst);
    eventually("16 of them, or as much of all, wait to be taken", || sent() >= 16 * WINDOW);
    // Which worker a client gets is the kernel's to say, and each has a connection of its own.
    eventually("others have shared theirs", || {
        assert_eq!(ask(lbd.address, &get("/quick")).body.len(), MUCH);
        let asked = noted.asked.lock().unwrap();
        asked["/quick"] == asked["/slow"]
    });
    let all = SLOW as usize * WINDOW;
    eventually("each of them has what is its own", || sent() == all);
}
