//! Directions that carry bulk, whose bytes stay in the kernel.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::relay::{CHUNK, CHUNKS, expect_noise, handed_over, send_noise};
use crate::support::{Config, Lbd, PATIENCE, eventually, finish, own_ip, patient, reset};

/// A daemon, a client's connection, and the target's end of it.
fn connected(service: &str) -> (Lbd, crate::server::Server, TcpStream, TcpStream) {
    let ip = own_ip();
    let (server, connections) = handed_over(SocketAddr::from((ip, 0)));
    let mut config = Config::new(ip, &[server.address]);
    service.clone_into(&mut config.service);
    let lbd = Lbd::start(&config);
    let client = lbd.connect();
    let target = connections.recv_timeout(PATIENCE).unwrap();
    (lbd, server, client, target)
}

fn spliced(lbd: &Lbd) -> u64 {
    let (_, metrics) = lbd.ask("GET", "/metrics");
    let line = metrics.lines().find(|line| line.starts_with("tandem_lbd_service_spliced_bytes_total{"));
    line.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn bulk_is_spliced_and_arrives_whole_and_small_messages_follow_it() {
    let (lbd, _server, mut client, mut target) = connected("");
    let sent = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| send_noise(&mut target, 3, &sent));
        expect_noise(&mut client, 3);
    });
    assert!(spliced(&lbd) > (CHUNK * CHUNKS / 2) as u64, "only {} bytes", spliced(&lbd));
    // The same connection goes on with small messages both ways, more of them than prove a direction quiet.
    for round in 0..50 {
        let text = format!("message {round}");
        client.write_all(text.as_bytes()).unwrap();
        let mut got = vec![0; text.len()];
        target.read_exact(&mut got).unwrap();
        assert_eq!(got, text.as_bytes());
        target.write_all(&got).unwrap();
        client.read_exact(&mut got).unwrap();
        assert_eq!(got, text.as_bytes());
    }
    let before = spliced(&lbd);
    let text = b"no longer bulk";
    target.write_all(text).unwrap();
    client.read_exact(&mut [0; 14]).unwrap();
    assert_eq!(spliced(&lbd), before);
    finish(&target);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop(client);
    eventually("the connection has ended", || lbd.service("connections_open") == 0);
    let small: usize = (0..50).map(|round| format!("message {round}").len()).sum();
    assert_eq!(lbd.service("bytes_to_client"), (CHUNK * CHUNKS + small + text.len()) as u64);
    assert_eq!(lbd.service("bytes_to_target"), small as u64);
}

#[test]
fn a_client_may_finish_in_the_middle_of_bulk() {
    let (lbd, _server, mut client, mut target) = connected("");
    let sent = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let mut write = target.try_clone().unwrap();
        let sent = &sent;
        scope.spawn(move || {
            send_noise(&mut write, 5, sent);
            finish(&write);
        });
        eventually("bulk is under way", || spliced(&lbd) > 0);
        client.write_all(b"that is all").unwrap();
        finish(&client);
        // The target sees the end long before it has sent everything.
        let mut text = String::new();
        target.read_to_string(&mut text).unwrap();
        assert_eq!(text, "that is all");
        assert!(sent.load(Ordering::SeqCst) < CHUNK * CHUNKS);
        expect_noise(&mut client, 5);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    });
    eventually("the connection has ended", || lbd.service("connections_open") == 0);
    assert_eq!(lbd.service("bytes_to_client"), (CHUNK * CHUNKS) as u64);
}

/// Has bulk under way from the target to the client, more than the client takes.
fn keep_busy(lbd: &Lbd, client: &mut TcpStream, target: &mut TcpStream) {
    let before = spliced(lbd);
    let mut bytes = vec![b'!'; CHUNK];
    target.set_nonblocking(true).unwrap();
    eventually("bulk is under way", || {
        for _ in 0..8 {
            while target.write(&bytes).is_ok() {}
            client.read_exact(&mut bytes).unwrap();
        }
        while target.write(&bytes).is_ok() {}
        spliced(lbd) > before
    });
}

/// Reads until the end, which has to be a reset.
fn expect_reset(stream: &mut TcpStream) {
    stream.set_nonblocking(false).unwrap();
    let mut bytes = vec![0; CHUNK];
    let end = loop {
        match stream.read(&mut bytes) {
            Ok(0) => break None,
            Err(error) if error.kind() != ErrorKind::Interrupted => break Some(error.kind()),
            Ok(_) | Err(_) => {}
        }
    };
    assert_eq!(end, Some(ErrorKind::ConnectionReset));
}

#[test]
fn resets_in_the_middle_of_bulk_are_passed_on_and_leave_nothing_behind() {
    let ip = own_ip();
    let (server, connections) = handed_over((ip, 0).into());
    let lbd = Lbd::start(&Config::new(ip, &[server.address]));
    for of_client in [true, false].repeat(4) {
        let (mut client, mut target) = (lbd.connect(), connections.recv_timeout(PATIENCE).unwrap());
        keep_busy(&lbd, &mut client, &mut target);
        if of_client {
            reset(client);
            expect_reset(&mut target);
        } else {
            reset(target);
            expect_reset(&mut client);
        }
    }
    eventually("all have ended", || lbd.service("connections_open") == 0);
    // What was left in their pipes is in nobody else's.
    let (mut client, mut target) = (lbd.connect(), connections.recv_timeout(PATIENCE).unwrap());
    let sent = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            send_noise(&mut target, 9, &sent);
            finish(&target);
        });
        expect_noise(&mut client, 9);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    });
}

/// The kernel splices no further than an urgent byte, and takes it for the end if the end has come as well.
#[test]
fn what_follows_urgent_data_in_bulk_is_not_lost() {
    for finishes in [true, false] {
        let (lbd, _server, client, mut target) = connected("");
        let sent = AtomicUsize::new(0);
        let rest = vec![7; 4 * CHUNK];
        std::thread::scope(|scope| {
            let (mut write, sent, rest) = (client.try_clone().unwrap(), &sent, &rest);
            scope.spawn(move || {
                send_noise(&mut write, 11, sent);
                socket2::SockRef::from(&write).send_out_of_band(b"!").unwrap();
                write.write_all(rest).unwrap();
                if finishes {
                    finish(&write);
                }
            });
            expect_noise(&mut target, 11);
            let mut bytes = vec![0; rest.len()];
            target.read_exact(&mut bytes).unwrap();
            assert!(bytes == *rest);
        });
        assert!(spliced(&lbd) > 0);
        drop(client);
        assert_eq!(target.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn a_bulk_connection_that_stalls_is_idle() {
    let (lbd, _server, mut client, mut target) = connected("timeout = { idle = \"1s\" }");
    keep_busy(&lbd, &mut client, &mut target);
    // From now on nobody reads: the sender is held up, what is under way stays where it is, and after a second all is closed.
    eventually("the connection has ended", || lbd.service("connections_open") == 0);
    let (_, metrics) = lbd.ask("GET", "/metrics");
    assert!(metrics.contains("ended_total{service=\"web\",end=\"idle\"} 1"), "{metrics}");
    expect_reset(&mut client);
    expect_reset(&mut target);
}

/// The most that the kernel lets a buffer of this kind grow to, in bytes.
fn buffer_max(kind: &str) -> usize {
    let sizes = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{kind}")).unwrap();
    sizes.split_whitespace().nth(2).unwrap().parse().unwrap()
}

/// What a pipe holds is no part of the daemon's own memory: here it is counted from outside, as what the sender has got rid of and the reader
/// does not take. That is what the sockets hold, and one pipe or buffer between them.
#[test]
fn a_reader_that_stops_bounds_what_the_sender_gets_rid_of() {
    /// Asked for at both ends, so that these buffers do not grow.
    const FIXED: usize = 128 * 1024;
    let ip = own_ip();
    let (server, connections) = handed_over(SocketAddr::from((ip, 0)));
    let config = Config::new(ip, &[server.address]);
    for (has_pipes, held) in [(true, 2 << 20), (false, 64 << 10)] {
        let lbd = Lbd::start(&config);
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(FIXED).unwrap();
        socket.connect(&lbd.address.into()).unwrap();
        let mut client = TcpStream::from(socket);
        patient(&client);
        let target = connections.recv_timeout(PATIENCE).unwrap();
        let (sending, receiving) = (socket2::SockRef::from(&target), socket2::SockRef::from(&client));
        sending.set_send_buffer_size(FIXED).unwrap();
        let ends = sending.send_buffer_size().unwrap() + receiving.recv_buffer_size().unwrap();
        // The kernel looks at a bound before it takes a packet, not after.
        let slack = 4 * CHUNK;
        let bound = ends + buffer_max("tcp_rmem") + buffer_max("tcp_wmem") + held + slack;
        if !has_pipes {
            // Nothing can be opened, as where all pipes of the worker are taken.
            lbd.limit_files(3);
        }
        target.set_nonblocking(true).unwrap();
        let (bytes, mut got) = (vec![b'!'; CHUNK], vec![0; CHUNK]);
        let mut under_way = 0;
        let push = |under_way: &mut usize| {
            while let Ok(count) = (&target).write(&bytes) {
                *under_way += count;
            }
        };
        let mut rounds = 0;
        eventually("bulk is under way", || {
            for _ in 0..64 {
                push(&mut under_way);
                client.read_exact(&mut got).unwrap();
                under_way -= got.len();
            }
            rounds += 1;
            // Without files there is nobody to be asked.
            if has_pipes { spliced(&lbd) > 0 } else { rounds == 4 }
        });
        let before = lbd.resident_kib();
        eventually("the sender is held up", || {
            std::thread::sleep(Duration::from_millis(200));
            let last = under_way;
            push(&mut under_way);
            assert!(under_way <= bound, "{under_way} of {bound} bytes");
            under_way == last
        });
        let grown = lbd.resident_kib().saturating_sub(before);
        assert!(grown < 1024, "{grown} KiB");
        lbd.limit_files(4096);
        assert_eq!(spliced(&lbd) > 0, has_pipes);
        // All of it is still there.
        while under_way > 0 {
            let count = client.read(&mut got).unwrap();
            assert!(count > 0 && got[..count].iter().all(|byte| *byte == b'!'));
            under_way -= count;
        }
    }
}

#[test]
fn bulk_that_no_pipe_is_left_for_is_copied_until_there_is_one() {
    let (lbd, _server, mut client, mut target) = connected("");
    let sent = AtomicUsize::new(0);
    let mut transfer = |seed| {
        std::thread::scope(|scope| {
            scope.spawn(|| send_noise(&mut target, seed, &sent));
            expect_noise(&mut client, seed);
        });
    };
    // Nothing can be opened, as where all pipes of the worker are taken.
    lbd.limit_files(3);
    transfer(13);
    lbd.limit_files(4096);
    assert_eq!(spliced(&lbd), 0);
    transfer(17);
    assert!(spliced(&lbd) > 0);
    eventually("all is counted", || lbd.service("bytes_to_client") == (2 * CHUNK * CHUNKS) as u64);
}
