//! What may happen to a link.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::rng::Rng;

use super::super::session::End;
use super::super::{Link, Stats};
use super::proxy::{PROXY_PORT, Proxy};
use super::support::{Node, PATIENCE, nowhere, pair, receive, run, send, sessions, soon, until};

#[test]
fn a_remainder_of_a_host_that_lost_its_power_is_replaced() {
    for a_stays in [true, false] {
        // Whoever restarts makes the new connection, because the other end knows nothing of it.
        let (mut a, mut b) = pair();
        let (stays, restarts) = if a_stays { (&mut a, &mut b) } else { (&mut b, &mut a) };
        restarts.peer_address.set_port(PROXY_PORT);
        nowhere(stays);
        let proxy = Proxy::start(restarts.peer_address, restarts.own_address.ip(), stays.own_address);
        let (stays, first) = (Node::start(stays), Node::start(restarts));
        run(async {
            let (old, there) = sessions(&stays, &first).await;
            until("one is left", || stays.open() == 1).await;
            proxy.mute();
            drop(there);
            drop(first.stop());
            assert_eq!(old.end(), None, "nothing has told it");
            let second = Node::start(restarts);
            let (here, there) = sessions(&stays, &second).await;
            assert_eq!(old.end(), Some(End::Replaced));
            send(&there, vec![5]).await;
            assert_eq!(receive(&here).await, [5]);
            until("one is left", || stays.open() == 1).await;
        });
    }
}

#[test]
fn a_link_that_breaks_at_any_byte_never_brings_a_wrong_message() {
    let (mut a, mut b) = pair();
    nowhere(&mut b);
    a.peer_address.set_port(PROXY_PORT);
    let proxy = Proxy::start(a.peer_address, a.own_address.ip(), b.own_address);
    let mut rng = Rng::new(4);
    // Within the handshake, or within the first records of messages.
    let mut cut = || {
        let most = *rng.pick(&[3000, 60_000]);
        1 + rng.below(most)
    };
    proxy.cut_after.store(cut(), Ordering::SeqCst);
    let (a, b) = (Node::start(&a), Node::start(&b));
    run(async {
        let (mut received, mut sessions_seen) = (0_u64, 0_u64);
        while proxy.connections.load(Ordering::SeqCst) < 60 {
            proxy.cut_after.store(cut(), Ordering::SeqCst);
            let both = async { (a.session().await, b.session().await) };
            let Ok((at_a, at_b)) = tokio::time::timeout(PATIENCE / 100, both).await else { continue };
            sessions_seen += 1;
            // Each session counts from its begin, in messages that can be told from any others.
            let message =
                |number: u64| vec![number.to_le_bytes()[0]; usize::try_from(number % 300 + 1).unwrap()];
            let feed = async {
                for number in 0.. {
                    if at_a.send(message(number)).is_err() {
                        at_a.room().await;
                    }
                    if at_a.end().is_some() {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
            };
            let check = async {
                let mut expected = 0;
                while let Some(got) = at_b.receive().await {
                    assert!(got == message(expected), "message {expected} of a session is another one");
                    expected += 1;
                }
                expected
            };
            received += soon("the end", async { tokio::join!(feed, check) }).await.1;
        }
        assert!(sessions_seen > 3 && received > 10, "{sessions_seen} sessions, {received} messages");
        proxy.cut_after.store(0, Ordering::SeqCst);
        let (at_a, at_b) = sessions(&a, &b).await;
        send(&at_a, vec![1]).await;
        assert_eq!(receive(&at_b).await, [1]);
        assert!(
            a.ended(End::Cut) + a.ended(End::Truncated) + b.ended(End::Cut) + b.ended(End::Truncated) > 0
        );
    });
}

#[test]
fn a_link_whose_driver_fails_is_over_and_shows_no_session() {
    let (a, b) = pair();
    let (b, stats) = (Node::start(&b), Arc::<Stats>::default());
    let link = Link::start(a, Arc::clone(&stats), |port| async move {
        let session = port.session().await;
        assert!(session.is_none(), "the failure of this test");
    });
    let link = link.unwrap();
    run(async {
        until("the end", || link.is_over()).await;
        assert!(stats.sessions.get() == 1 && stats.state().session.is_none() && !stats.is_listening());
        // What it had is free for another one.
        let again = Node::start(link.settings());
        sessions(&again, &b).await;
    });
}
