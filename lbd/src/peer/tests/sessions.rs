//! Two ends that find each other.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use common::rng::Rng;

use super::super::frame::MESSAGE_BYTES_MAX;
use super::super::session::{End, QUEUE_BYTES_MAX, SendError, Session};
use super::support::{Node, nowhere, pair, receive, run, runtime, send, sessions, soon, until};

/// Messages of any length, the same for the same seed.
struct Messages(Rng);

impl Messages {
    fn next(&mut self) -> Vec<u8> {
        let longest = *self.0.pick(&[10, 1000, 10_000, MESSAGE_BYTES_MAX as u64]);
        let length = usize::try_from(self.0.range(1..longest + 1)).unwrap();
        let mut message = vec![0; length];
        for part in message.chunks_mut(8) {
            part.copy_from_slice(&self.0.next_u64().to_le_bytes()[..part.len()]);
        }
        message
    }
}

async fn exchange(at_a: &Session, at_b: &Session, count: usize) {
    let send_all = async |session: &Session, seed| {
        let mut messages = Messages(Rng::new(seed));
        for _ in 0..count {
            send(session, messages.next()).await;
        }
    };
    let receive_all = async |session: &Session, seed| {
        let mut messages = Messages(Rng::new(seed));
        for index in 0..count {
            assert!(receive(session).await == messages.next(), "message {index} is another one");
        }
    };
    tokio::join!(send_all(at_a, 1), send_all(at_b, 2), receive_all(at_b, 1), receive_all(at_a, 2));
}

#[test]
fn both_ends_get_every_message_whole_and_in_order() {
    let (a, mut b) = pair();
    // So that there is one connection only, and every message of it is counted.
    nowhere(&mut b);
    let (a, b) = (Node::start(&a), Node::start(&b));
    run(async {
        let (at_a, at_b) = (a.session().await, b.session().await);
        exchange(&at_a, &at_b, 1500).await;
        assert_eq!((at_a.end(), at_b.end()), (None, None));
        let out = |node: &Node| (node.stats.messages_out.get(), node.stats.bytes_out.get());
        let into = |node: &Node| (node.stats.messages_in.get(), node.stats.bytes_in.get());
        until("all is counted", || out(&a) == into(&b) && out(&b) == into(&a)).await;
        assert_eq!((out(&a).0, out(&b).0), (1500, 1500));
    });
}

#[test]
fn what_is_no_message_is_not_taken() {
    let (a, b) = pair();
    let (a, b) = (Node::start(&a), Node::start(&b));
    run(async {
        let (at_a, at_b) = sessions(&a, &b).await;
        assert_eq!(at_a.send(Vec::new()), Err(SendError::Length(0)));
        let long = MESSAGE_BYTES_MAX + 1;
        assert_eq!(at_a.send(vec![0; long]), Err(SendError::Length(long)));
        drop(at_b);
        until("the end is known", || at_a.end() == Some(End::Closed)).await;
        assert_eq!(at_a.send(vec![1]), Err(SendError::Ended));
        assert_eq!(soon("the end", at_a.receive()).await, None);
        until("it is counted", || b.ended(End::Dropped) >= 1 && a.ended(End::Closed) >= 1).await;
        let (at_a, at_b) = sessions(&a, &b).await;
        exchange(&at_a, &at_b, 10).await;
    });
}

#[test]
fn both_may_begin_at_once_and_one_session_is_left() {
    for _ in 0..25 {
        let (a, b) = pair();
        let (a, b) = (Node::start(&a), Node::start(&b));
        run(async {
            let (at_a, at_b) = sessions(&a, &b).await;
            until("one is left", || a.open() == 1 && b.open() == 1).await;
            exchange(&at_a, &at_b, 3).await;
            assert_eq!((at_a.end(), at_b.end()), (None, None));
        });
    }
}

#[test]
fn one_direction_is_enough() {
    for only_a in [true, false] {
        let (mut a, mut b) = pair();
        nowhere(if only_a { &mut b } else { &mut a });
        let (a, b) = (Node::start(&a), Node::start(&b));
        run(async {
            let (at_a, at_b) = sessions(&a, &b).await;
            exchange(&at_a, &at_b, 3).await;
            let (dials, listens) = if only_a { (&a, &b) } else { (&b, &a) };
            assert!(dials.stats.state().session.is_some_and(|session| session.dialled));
            assert!(listens.stats.state().session.is_some_and(|session| !session.dialled));
        });
    }
}

#[test]
fn ipv6_is_as_good() {
    let (mut a, mut b) = pair();
    // The host has one such address only, so that the ports differ.
    let free = || Some(TcpListener::bind("[::1]:0").ok()?.local_addr().unwrap());
    let (Some(at_a), Some(at_b)) = (free(), free()) else { return };
    (a.own_address, a.peer_address) = (at_a, at_b);
    (b.own_address, b.peer_address) = (at_b, at_a);
    let (a, b) = (Node::start(&a), Node::start(&b));
    run(async {
        let (at_a, at_b) = sessions(&a, &b).await;
        exchange(&at_a, &at_b, 3).await;
    });
}

#[test]
fn a_slow_reader_bounds_what_is_queued_and_loses_nothing() {
    let (a, b) = pair();
    let (a, b) = (Node::start(&a), Node::start(&b));
    run(async {
        let (at_a, at_b) = sessions(&a, &b).await;
        let mut taken = Messages(Rng::new(3));
        let (mut count, mut bytes, mut full_for) = (0, 0, 0);
        let mut message = taken.next();
        // Until it has been full for a while, so that all that has room on the way is full too.
        while full_for < 100 {
            let length = message.len();
            match at_a.send(message) {
                Ok(()) => {
                    (count, bytes, full_for) = (count + 1, bytes + length, 0);
                    message = taken.next();
                }
                Err(SendError::Full(back)) => {
                    message = back;
                    full_for += 1;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Err(other) => panic!("{other:?}"),
            }
            assert!(bytes < 64 << 20, "there is no end to it");
        }
        for node in [&a, &b] {
            let session = node.stats.state().session.unwrap();
            assert!(session.pipes.waiting().bytes <= QUEUE_BYTES_MAX);
        }
        let mut expected = Messages(Rng::new(3));
        for _ in 0..count {
            assert!(receive(&at_b).await == expected.next());
        }
        soon("room", at_a.room()).await;
        assert_eq!(at_a.end(), None);
    });
}

#[test]
fn a_peer_that_takes_nothing_is_given_up() {
    let (mut a, b) = pair();
    a.timing.stall = Duration::from_millis(200);
    let (a, b) = (Node::start(&a), Node::start(&b));
    run(async {
        let (at_a, at_b) = sessions(&a, &b).await;
        while !matches!(at_a.send(vec![0; 50_000]), Err(SendError::Ended)) {
            tokio::task::yield_now().await;
        }
        assert_eq!(at_a.end(), Some(End::Stalled));
        until("it is counted", || a.ended(End::Stalled) == 1).await;
        assert!(a.last_end().contains("takes nothing"), "{}", a.last_end());
        drop(at_b);
        drop(sessions(&a, &b).await);
    });
}

#[test]
fn a_peer_that_restarts_again_and_again_always_gets_a_session() {
    let (a, b) = pair();
    for stays in [true, false] {
        let (stays, restarts) = if stays { (&a, &b) } else { (&b, &a) };
        let node = Node::start(stays);
        for round in 1..=20 {
            let other = Node::start(restarts);
            run(async {
                let (here, there) = sessions(&node, &other).await;
                exchange(&here, &there, 2).await;
                drop(there);
                drop(here);
            });
            drop(other);
            assert!(node.stats.sessions.get() >= round);
        }
    }
}

#[test]
fn what_holds_the_address_is_waited_for_and_named() {
    let (a, b) = pair();
    let holder = TcpListener::bind(a.own_address).unwrap();
    let node = Node::start(&a);
    run(async {
        until("it says so", || node.listen_error().contains("ss -ltnp")).await;
        assert!(!node.stats.is_listening());
        drop(holder);
        until("it listens", || node.stats.is_listening()).await;
        let other = Node::start(&b);
        drop(sessions(&node, &other).await);
    });
}

#[test]
fn an_address_that_is_not_there_is_waited_for_and_named() {
    let (mut a, _) = pair();
    // For documentation (RFC 5737).
    a.own_address.set_ip([192, 0, 2, 1].into());
    let node = Node::start(&a);
    run(async {
        until("it says so", || node.listen_error().contains("until the interface of")).await;
        until("it says so", || node.failure().contains("no interface of this host")).await;
        assert!(!node.stats.is_listening());
    });
}

#[test]
fn stopping_is_prompt_and_told() {
    let (a, b) = pair();
    let (a, b) = (Node::start(&a), Node::start(&b));
    runtime().block_on(async {
        let (at_a, at_b) = sessions(&a, &b).await;
        let begin = Instant::now();
        let (port, stats) = a.stop();
        // A tenth of this is allowed for; the rest is for a slow machine.
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        assert_eq!(at_a.end(), Some(End::Stopped));
        assert_eq!(soon("no more", port.session()).await.map(drop), None);
        assert!(stats.state().session.is_none() && !stats.is_listening());
        assert_eq!(soon("the end", at_b.receive()).await, None);
        assert_eq!(at_b.end(), Some(End::Closed));
    });
}
