//! What happens to the bytes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use crate::server::Server;
use crate::support::{Config, Lbd, end_of, eventually, finish, own_ip, patient, ping, reset};

/// Bytes without a pattern that a mixed-up buffer could keep.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.copy_from_slice(&self.0.to_le_bytes()[..chunk.len()]);
        }
    }
}

pub(crate) const CHUNK: usize = 64 * 1024;
pub(crate) const CHUNKS: usize = 1024;

/// Sends 64 MiB of noise, counting what it got rid of.
pub(crate) fn send_noise(stream: &mut TcpStream, seed: u64, sent: &AtomicUsize) {
    let mut noise = Noise(seed);
    let mut bytes = vec![0; CHUNK];
    for _ in 0..CHUNKS {
        noise.fill(&mut bytes);
        stream.write_all(&bytes).unwrap();
        sent.fetch_add(CHUNK, Ordering::SeqCst);
    }
}

/// Reads 64 MiB, and compares them with the noise.
pub(crate) fn expect_noise(stream: &mut TcpStream, seed: u64) {
    let mut noise = Noise(seed);
    let (mut expected, mut bytes) = (vec![0; CHUNK], vec![0; CHUNK]);
    for chunk in 0..CHUNKS {
        noise.fill(&mut expected);
        stream.read_exact(&mut bytes).unwrap();
        assert!(expected == bytes, "chunk {chunk} differs");
    }
}

/// Hands each accepted connection to the test.
pub(crate) fn handed_over(address: std::net::SocketAddr) -> (Server, mpsc::Receiver<TcpStream>) {
    let (sender, receiver) = mpsc::channel();
    let sender = Mutex::new(sender);
    let server = Server::start(address, move |stream| {
        patient(&stream);
        sender.lock().unwrap().send(stream).unwrap();
    });
    (server, receiver)
}

#[test]
fn a_slow_reader_slows_the_sender_and_nothing_is_lost() {
    let ip = own_ip();
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let server = Server::start((ip, 0).into(), move |mut stream| send_noise(&mut stream, 42, &counter));
    let lbd = Lbd::start(&Config::new(ip, &[server.address]));
    let before = lbd.resident_kib();
    let mut client = lbd.connect();
    let mut last = 0;
    eventually("the sender is held up", || {
        std::thread::sleep(Duration::from_millis(200));
        let now = sent.load(Ordering::SeqCst);
        std::mem::replace(&mut last, now) == now && now > 0
    });
    assert!(last < CHUNK * CHUNKS, "64 MiB do not fit into the sockets on the way");
    let grown = lbd.resident_kib().saturating_sub(before);
    assert!(grown < 4096, "lbd holds a buffer, not the backlog: {grown} KiB");
    expect_noise(&mut client, 42);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn both_directions_at_once_stay_apart() {
    let ip = own_ip();
    let (server, connections) = handed_over((ip, 0).into());
    let lbd = Lbd::start(&Config::new(ip, &[server.address]));
    let client = lbd.connect();
    let target = connections.recv_timeout(crate::support::PATIENCE).unwrap();
    let unused = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for (stream, out, back) in [(&client, 1, 2), (&target, 2, 1)] {
            let (mut write, mut read) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
            let unused = &unused;
            scope.spawn(move || {
                send_noise(&mut write, out, unused);
                finish(&write);
            });
            scope.spawn(move || {
                expect_noise(&mut read, back);
                assert_eq!(read.read(&mut [0]).unwrap(), 0);
            });
        }
    });
    eventually("the connection has ended", || lbd.service("connections_open") == 0);
    assert_eq!(lbd.service("bytes_to_target"), (CHUNK * CHUNKS) as u64);
    assert_eq!(lbd.service("bytes_to_client"), (CHUNK * CHUNKS) as u64);
}

#[test]
fn a_client_that_has_finished_sending_still_gets_the_answer() {
    let ip = own_ip();
    let (server, connections) = handed_over((ip, 0).into());
    let lbd = Lbd::start(&Config::new(ip, &[server.address]));
    let mut client = lbd.connect();
    client.write_all(b"question").unwrap();
    finish(&client);
    let mut target = connections.recv_timeout(crate::support::PATIENCE).unwrap();
    let mut question = String::new();
    target.read_to_string(&mut question).unwrap();
    assert_eq!(question, "question");
    for part in ["an ", "answer ", "in parts"] {
        target.write_all(part.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(30));
    }
    drop(target);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "an answer in parts");
}

#[test]
fn a_target_that_has_finished_sending_still_gets_the_rest() {
    let ip = own_ip();
    let (server, connections) = handed_over((ip, 0).into());
    let lbd = Lbd::start(&Config::new(ip, &[server.address]));
    let mut client = lbd.connect();
    let mut target = connections.recv_timeout(crate::support::PATIENCE).unwrap();
    target.write_all(b"bye").unwrap();
    finish(&target);
    let mut farewell = String::new();
    client.read_to_string(&mut farewell).unwrap();
    assert_eq!(farewell, "bye");
    client.write_all(b"the rest").unwrap();
    drop(client);
    let mut rest = String::new();
    target.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "the rest");
}

#[test]
fn resets_are_passed_on_both_ways() {
    let ip = own_ip();
    let (server, connections) = handed_over((ip, 0).into());
    let lbd = Lbd::start(&Config::new(ip, &[server.address]));
    let open = || {
        let mut client = lbd.connect();
        client.write_all(b"x").unwrap();
        let mut target = connections.recv_timeout(crate::support::PATIENCE).unwrap();
        target.read_exact(&mut [0]).unwrap();
        (client, target)
    };
    let (client, mut target) = open();
    reset(client);
    assert_eq!(end_of(&mut target).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let (mut client, target) = open();
    reset(target);
    assert_eq!(end_of(&mut client).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    // A client that had finished sending is not being read any more when it resets.
    let (client, target) = open();
    finish(&client);
    assert_eq!((&target).read(&mut [0]).unwrap(), 0);
    reset(client);
    eventually("the target is reset", || target.take_error().unwrap().is_some());
    eventually("all have ended", || lbd.service("connections_open") == 0);
    let (_, metrics) = lbd.ask("GET", "/metrics");
    assert!(metrics.contains("ended_total{service=\"web\",end=\"client_reset\"} 2"), "{metrics}");
    assert_eq!(lbd.status()["services"][0]["ended"]["client_reset"], 2);
    assert!(metrics.contains("ended_total{service=\"web\",end=\"target_reset\"} 1"), "{metrics}");
}

/// What is read of a client before its target is connected, and what is not read yet by then, comes once and in order.
#[test]
fn what_came_before_a_target_was_connected_reaches_the_one_that_answers() {
    let ip = own_ip();
    let (server, connections) = handed_over((ip, 0).into());
    let lbd = Lbd::start(&Config::new(ip, &[crate::support::free(ip), server.address]));
    let mut bytes = vec![0; 100_000];
    Noise(7).fill(&mut bytes);
    for _ in 0..4 {
        let mut client = lbd.connect();
        client.write_all(&bytes).unwrap();
        finish(&client);
        let mut target = connections.recv_timeout(crate::support::PATIENCE).unwrap();
        let mut got = Vec::new();
        target.read_to_end(&mut got).unwrap();
        assert!(got == bytes, "{} bytes", got.len());
    }
    let (_, metrics) = lbd.ask("GET", "/metrics");
    let counted = metrics
        .lines()
        .find(|line| line.starts_with("tandem_lbd_service_bytes_total{") && line.contains("to_target"));
    assert!(counted.is_some_and(|line| line.ends_with(" 400000")), "{counted:?} of {metrics}");
}

/// A client whose bytes and end are all there before a target is connected is never waited for again.
#[test]
fn a_reset_after_an_early_end_is_passed_on() {
    let ip = own_ip();
    let (server, connections) = handed_over((ip, 0).into());
    // A listener whose queue is full: connecting takes a while.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&std::net::SocketAddr::from((ip, 0)).into()).unwrap();
    full.listen(0).unwrap();
    let hanging = full.local_addr().unwrap().as_socket().unwrap();
    let _queued = TcpStream::connect(hanging).unwrap();
    let mut config = Config::new(ip, &[hanging, server.address]);
    config.service = "timeout = { connect = \"100ms\" }".to_owned();
    let lbd = Lbd::start(&config);
    for _ in 0..4 {
        let mut client = lbd.connect();
        client.write_all(b"all there is").unwrap();
        finish(&client);
        let mut target = connections.recv_timeout(crate::support::PATIENCE).unwrap();
        let mut text = String::new();
        target.read_to_string(&mut text).unwrap();
        assert_eq!(text, "all there is");
        // By now the daemon has nothing to do for it, and has seen that it is silent.
        std::thread::sleep(Duration::from_millis(1200));
        reset(client);
        eventually("the target is reset", || target.take_error().unwrap().is_some());
    }
}

#[test]
fn bytes_that_wait_at_the_accept_are_not_lost() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let lbd = Lbd::start(&Config::new(ip, &[server.address]));
    for round in 0..50 {
        let text = format!("round {round}");
        assert_eq!(ping(&mut lbd.connect(), &text).unwrap(), text);
    }
}
