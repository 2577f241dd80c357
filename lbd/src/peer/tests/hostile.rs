//! A peer that has the key and does not keep to the protocol.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use common::rng::Rng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use super::super::error::Refusal;
use super::super::frame::MESSAGE_BYTES_MAX;
use super::super::identity::Identity;
use super::super::session::{End, QUEUE_BYTES_MAX};
use super::proxy::connect_from;
use super::support::{Node, key, nowhere, pair, receive, run, soon, until};

/// Plays `a` to a `b` that waits for it.
struct Evil {
    b: Node,
    from: IpAddr,
    to: SocketAddr,
}

impl Evil {
    fn new() -> Self {
        let (a, mut b) = pair();
        nowhere(&mut b);
        let node = Node::start(&b);
        run(until("it listens", || node.stats.is_listening()));
        Self { b: node, from: a.own_address.ip(), to: b.own_address }
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        let stream = connect_from(self.from, self.to).unwrap();
        stream.set_nonblocking(true).unwrap();
        let identity = Identity::new(&key(), "a", "b").unwrap();
        let stream = TcpStream::from_std(stream).unwrap();
        TlsConnector::from(Arc::clone(&identity.client)).connect(self.to.ip().into(), stream).await.unwrap()
    }

    /// A session; answers its number too.
    async fn session(&self) -> (TlsStream<TcpStream>, u64) {
        let mut stream = self.connect().await;
        stream.write_all(b"r").await.unwrap();
        let mut go = [0; 17];
        soon("the second word", stream.read_exact(&mut go)).await.unwrap();
        assert_eq!(go[0], b'g');
        (stream, u64::from_le_bytes(*go.last_chunk().unwrap()))
    }

    /// How `b`'s session ends when it is told `bytes`, and then nothing more.
    async fn end_after(&self, bytes: &[u8]) -> End {
        let (mut stream, _) = self.session().await;
        let session = self.b.session().await;
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
        stream.shutdown().await.ok();
        while soon("the end", session.receive()).await.is_some() {}
        session.end().unwrap()
    }
}

#[test]
fn bad_frames_end_the_session_and_are_counted() {
    let evil = Evil::new();
    let over = u32::try_from(MESSAGE_BYTES_MAX + 1).unwrap().to_le_bytes();
    let cases: [(&[u8], End); 7] = [
        (&[0xff, 0xff, 0xff, 0xff], End::Oversized),
        (&over, End::Oversized),
        (&[0, 0, 0, 0], End::Empty),
        (&[1, 0, 0, 0, 9, 0, 0, 0, 0], End::Empty),
        (&[5, 0], End::Truncated),
        (&[5, 0, 0, 0, 1, 2], End::Truncated),
        (&[1, 0, 0, 0, 1], End::Closed),
    ];
    run(async {
        for (bytes, expected) in cases {
            let before = evil.b.ended(expected);
            assert_eq!(evil.end_after(bytes).await, expected, "{bytes:?}");
            until("it is counted", || evil.b.ended(expected) == before + 1).await;
        }
        for seed in 0..20 {
            let mut rng = Rng::new(seed);
            let noise: Vec<u8> = (0..5000).map(|_| rng.next_u64().to_le_bytes()[0]).collect();
            let end = evil.end_after(&noise).await;
            assert!(matches!(end, End::Oversized | End::Truncated), "{end:?}");
        }
        assert!(evil.b.last_end().contains("same Tandem release"), "{}", evil.b.last_end());
        // And a good one is as welcome as before.
        let (mut stream, _) = evil.session().await;
        stream.write_all(&[2, 0, 0, 0, 7, 8]).await.unwrap();
        assert_eq!(receive(&evil.b.session().await).await, [7, 8]);
    });
}

#[test]
fn a_wrong_first_word_is_refused() {
    let evil = Evil::new();
    run(async {
        let mut stream = evil.connect().await;
        stream.write_all(b"hello").await.unwrap();
        assert!(!matches!(soon("the end", stream.read(&mut [0])).await, Ok(1)));
        until("it is counted", || evil.b.refused(Refusal::Protocol) == 1).await;
        assert_eq!(evil.b.stats.sessions.get(), 0);
    });
}

#[test]
fn a_newer_connection_replaces_an_older_one_and_has_a_higher_number() {
    let evil = Evil::new();
    run(async {
        let (_first_stream, first_number) = evil.session().await;
        let first = evil.b.session().await;
        let (mut stream, number) = evil.session().await;
        assert!(number > first_number);
        let second = evil.b.session().await;
        assert_eq!(first.end(), Some(End::Replaced));
        stream.write_all(&[1, 0, 0, 0, 3]).await.unwrap();
        assert_eq!(receive(&second).await, [3]);
        until("it is counted", || evil.b.ended(End::Replaced) == 1).await;
    });
}

#[test]
fn many_small_messages_that_nobody_takes_are_bounded_too() {
    let evil = Evil::new();
    run(async {
        let (mut stream, _) = evil.session().await;
        let session = evil.b.session().await;
        let small = [1, 0, 0, 0, 9].repeat(10_000);
        let flood = async {
            loop {
                if stream.write_all(&small).await.is_err() {
                    return;
                }
            }
        };
        let watch = async {
            let mut before = 0;
            loop {
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                let taken = evil.b.stats.messages_in.get();
                if taken > 0 && taken == before {
                    return taken;
                }
                before = taken;
            }
        };
        let taken = tokio::select! {
            () = flood => panic!("the session has ended: {:?}", session.end()),
            taken = soon("it is full", watch) => taken,
        };
        // One byte counts 65.
        assert!(taken <= (QUEUE_BYTES_MAX / 65 + 1) as u64, "{taken} messages");
    });
}

#[test]
fn of_two_connections_the_higher_number_wins_in_whatever_order_they_come() {
    // The test plays `b`, which numbers sessions.
    let (a, b) = pair();
    let listener = std::net::TcpListener::bind(b.own_address).unwrap();
    let node = Node::start(&a);
    let identity = Identity::new(&key(), "b", "a").unwrap();
    run(async {
        let accepted = listener.accept().unwrap().0;
        accepted.set_nonblocking(true).unwrap();
        let accepted = TcpStream::from_std(accepted).unwrap();
        let accepted = TlsAcceptor::from(Arc::clone(&identity.server)).accept(accepted);
        let mut dialled = soon("a handshake", accepted).await.unwrap();
        let go = |life: u64, number: u64| [&b"g"[..], &life.to_le_bytes(), &number.to_le_bytes()].concat();
        assert_eq!(soon("the first word", dialled.read_u8()).await.unwrap(), b'r');
        dialled.write_all(&go(1, 5)).await.unwrap();
        let mut current = node.session().await;
        let mut kept = Vec::new();
        for (life, number, wins) in [(1, 4, false), (1, 5, false), (1, 6, true), (2, 1, true), (2, 1, false)]
        {
            let stream = connect_from(b.own_address.ip(), a.own_address).unwrap();
            stream.set_nonblocking(true).unwrap();
            let stream = TcpStream::from_std(stream).unwrap();
            let connector = TlsConnector::from(Arc::clone(&identity.client));
            let mut stream = connector.connect(a.own_address.ip().into(), stream).await.unwrap();
            assert_eq!(soon("the first word", stream.read_u8()).await.unwrap(), b'r');
            let before = node.refused(Refusal::Superseded);
            stream.write_all(&go(life, number)).await.unwrap();
            if wins {
                let newer = node.session().await;
                assert_eq!(current.end(), Some(End::Replaced));
                current = newer;
            } else {
                until("it is refused", || node.refused(Refusal::Superseded) == before + 1).await;
                assert_eq!(current.end(), None);
            }
            kept.push(stream);
        }
        assert_eq!((node.stats.sessions.get(), node.stats.attempts.get()), (3, 1));
    });
}
