//! Links for tests, and how to wait for them.

use std::future::pending;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::key::PairKey;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::super::error::Refusal;
use super::super::session::{End, SendError, Session};
use super::super::{Link, Port, Settings, Stats, Timing};

/// How long a condition may take to come true before the test fails.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// The port that links of tests listen on.
pub(super) const PORT: u16 = 7112;

/// A loopback address that no other test uses.
pub(super) fn own_ip() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 1 + high % 250, low, NEXT.fetch_add(1, Ordering::SeqCst)).into()
}

/// The pair's key in most tests.
pub(super) fn key() -> PairKey {
    PairKey::new([7; 32])
}

/// Quick ones, with time for a slow machine where that costs a good run nothing.
pub(super) fn timing() -> Timing {
    let ms = Duration::from_millis;
    Timing {
        handshake: PATIENCE,
        pause_min: ms(5),
        pause_max: ms(50),
        lasted: ms(200),
        settle: ms(30),
        stall: PATIENCE,
    }
}

/// The settings of nodes `a` and `b`.
pub(super) fn pair() -> (Settings, Settings) {
    let (a, b) = (SocketAddr::new(own_ip(), PORT), SocketAddr::new(own_ip(), PORT));
    let of = |node: &str, peer: &str, own_address, peer_address| Settings {
        node: node.to_owned(),
        peer: peer.to_owned(),
        own_address,
        peer_address,
        key: key(),
        timing: timing(),
    };
    (of("a", "b", a, b), of("b", "a", b, a))
}

/// A port of the peer on which nothing listens.
pub(super) fn nowhere(settings: &mut Settings) {
    settings.peer_address.set_port(7119);
}

/// A running link, driven by the test.
pub(super) struct Node {
    pub(super) stats: Arc<Stats>,
    pub(super) port: Port,
    link: Link,
}

impl Node {
    pub(super) fn start(settings: &Settings) -> Self {
        let (sender, receiver) = mpsc::channel();
        let stats = Arc::<Stats>::default();
        let link = Link::start(settings.clone(), Arc::clone(&stats), move |port| async move {
            sender.send(port).unwrap();
            pending::<()>().await;
        });
        let link = link.unwrap();
        Self { stats, port: receiver.recv_timeout(PATIENCE).unwrap(), link }
    }

    /// Ends it; answers its port and what it has counted.
    pub(super) fn stop(self) -> (Port, Arc<Stats>) {
        drop(self.link);
        (self.port, self.stats)
    }

    /// The next session.
    pub(super) async fn session(&self) -> Session {
        soon("a session", self.port.session()).await.expect("the link runs")
    }

    pub(super) fn refused(&self, why: Refusal) -> u64 {
        self.stats.refused.of(why).get()
    }

    pub(super) fn failed(&self, why: Refusal) -> u64 {
        self.stats.failed.of(why).get()
    }

    pub(super) fn ended(&self, end: End) -> u64 {
        self.stats.ended.of(end).get()
    }

    /// Sessions that are not over.
    pub(super) fn open(&self) -> u64 {
        let ended: u64 = self.stats.ended.each().map(|(_, count)| count).sum();
        self.stats.sessions.get() - ended
    }

    /// Why its last connection to the peer did not become a session.
    pub(super) fn failure(&self) -> String {
        self.stats.state().last_failure.map(|event| event.what).unwrap_or_default()
    }

    /// The same for the last connection to it.
    pub(super) fn refusal(&self) -> String {
        self.stats.state().last_refusal.map(|event| event.what).unwrap_or_default()
    }

    /// How its last session ended.
    pub(super) fn last_end(&self) -> String {
        self.stats.state().last_end.map(|event| event.what).unwrap_or_default()
    }

    /// Why it does not listen.
    pub(super) fn listen_error(&self) -> String {
        self.stats.state().listen_error.unwrap_or_default()
    }
}

/// Runs a test's own side.
pub(super) fn run<T>(test: impl Future<Output = T>) -> T {
    runtime().block_on(test)
}

pub(super) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// What must happen before long.
pub(super) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// Waits until `reached` says yes.
pub(super) async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Sends a message, once there is room for it.
pub(super) async fn send(session: &Session, message: Vec<u8>) {
    let mut message = message;
    loop {
        match session.send(message) {
            Ok(()) => return,
            Err(SendError::Full(back)) => message = back,
            Err(other) => panic!("{other:?}"),
        }
        soon("room", session.room()).await;
    }
}

/// The next message.
pub(super) async fn receive(session: &Session) -> Vec<u8> {
    soon("a message", session.receive()).await.unwrap_or_else(|| panic!("ended: {:?}", session.end()))
}

/// Both ends' sessions, once they are each other's: a message of one reaches the other and back.
pub(super) async fn sessions(a: &Node, b: &Node) -> (Session, Session) {
    let take = async {
        let (mut at_a, mut at_b) = (a.session().await, b.session().await);
        // If both connected at once, the first may be replaced; then another number is sent, and waited for.
        for number in 0_u32.. {
            at_a.send(number.to_le_bytes().to_vec()).ok();
            loop {
                tokio::select! {
                    newer = a.session() => { at_a = newer; break }
                    newer = b.session() => { at_b = newer; break }
                    Some(message) = at_b.receive() => {
                        if message == number.to_le_bytes() {
                            return (at_a, at_b);
                        }
                    }
                }
            }
        }
        unreachable!("the loop has no end")
    };
    soon("sessions of each other", take).await
}
