//! Which connection is the session.
//!
//! Either node may connect to the other, so that a firewall that lets only one direction through does not matter, and so that the end
//! that has just started need not wait for the other's back-off. That there is one session all the same, and the same one at both ends,
//! one of them decides: the node whose name sorts last. On each connection, once TLS has shown both who the other is:
//!
//! 1. the node whose name sorts first says that it is ready, which it does on a connection that it made only while it has no session;
//! 2. the other one numbers the connection and says so; for it, this connection is the session now;
//! 3. the first one takes it as its session if its number is higher than that of the one it has.
//!
//! A node connects only while it has no session. So a newer connection means that the older one, if this end still knows it, is no more
//! than a remainder (a host that lost its power closes nothing), and it is replaced. If both connect in the same moment, the one that is
//! ready first is numbered, and the other, being older than that session, is closed. Should both be numbered all the same, the higher
//! number wins at both ends, in whatever order they arrive. Numbers belong to one life of
//! the node that gives them. As a session begins only with both ends' words read, it also means that each has accepted the other's key:
//! in TLS 1.3 alone, the end that connects is ready before it knows that.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsStream;

use super::error::{LinkError, Refusal};
use super::identity::{Identity, PROTOCOL};
use super::port::Slot;
use super::session::{self, End, Pipes, Session};
use super::stats::Stats;
use super::{Settings, Timing};
use crate::random;

/// "I am ready."
const READY: u8 = b'r';

/// "This is the session"; the life of who says it and the number follow, of 8 bytes each, little endian.
const GO: u8 = b'g';

/// Of refusals of the same kind, one in this time is logged, and the first after a session's begin.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// The same for this node's own attempts, which go on for as long as the peer is off.
const LOG_ATTEMPTS_EVERY: Duration = Duration::from_secs(600);

/// What the parts of the thread share.
#[derive(Debug)]
pub(super) struct Hub {
    pub(super) settings: Settings,
    pub(super) identity: Identity,
    pub(super) stats: Arc<Stats>,
    slot: Arc<Slot>,
    life: u64,
    /// The last number given.
    given: Cell<u64>,
    current: RefCell<Option<Current>>,
    /// Whether there is a session.
    connected: watch::Sender<bool>,
    /// How long the last session lasted.
    lasted: Cell<Duration>,
    /// No session begins any more.
    stopping: Cell<bool>,
    logged: RefCell<[Option<Instant>; 2 * Refusal::COUNT]>,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    /// Whether this node made it.
    pub(super) dialled: bool,
    /// When it was begun or accepted.
    pub(super) began: Instant,
}

/// The session now.
#[derive(Debug)]
struct Current {
    number: Number,
    pipes: Arc<Pipes>,
    since: Instant,
}

/// The order of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Number {
    life: u64,
    number: u64,
}

impl Number {
    /// Whether a connection of this number is to replace one of `other`. Of another life, the one that comes later is newer.
    const fn replaces(self, other: Self) -> bool {
        self.life != other.life || self.number > other.number
    }
}

impl Hub {
    pub(super) fn new(
        settings: Settings,
        identity: Identity,
        stats: Arc<Stats>,
        slot: Arc<Slot>,
    ) -> Rc<Self> {
        Rc::new(Self {
            settings,
            identity,
            stats,
            slot,
            // Not secret: it is told within TLS, to whom it concerns.
            life: random::number(),
            given: Cell::new(0),
            current: RefCell::new(None),
            connected: watch::Sender::new(false),
            lasted: Cell::new(Duration::ZERO),
            stopping: Cell::new(false),
            logged: RefCell::new([None; 2 * Refusal::COUNT]),
        })
    }

    pub(super) const fn timing(&self) -> &Timing {
        &self.settings.timing
    }

    /// Whether this node is the one that numbers sessions.
    pub(super) fn numbers(&self) -> bool {
        self.settings.node > self.settings.peer
    }

    /// Waits until there is a session.
    pub(super) async fn connected(&self) {
        // It fails only without a sender, which is here.
        self.connected.subscribe().wait_for(|connected| *connected).await.ok();
    }

    /// Waits until there is none; answers how long the last one lasted.
    pub(super) async fn disconnected(&self) -> Duration {
        self.connected.subscribe().wait_for(|connected| !*connected).await.ok();
        self.lasted.get()
    }

    /// Agrees with the peer on this connection, and makes it the session.
    pub(super) async fn settle(
        self: &Rc<Self>,
        mut stream: TlsStream<TcpStream>,
        with: SocketAddr,
        origin: Origin,
    ) -> Result<(), LinkError> {
        if stream.get_ref().1.alpn_protocol() != Some(PROTOCOL) {
            let detail = "it does not name this version of the replication protocol";
            return Err(LinkError::refused(with, Refusal::Protocol, detail));
        }
        if origin.dialled && *self.connected.borrow() {
            return Err(superseded(with));
        }
        let agreed = timeout(self.timing().handshake, self.agree(&mut stream, with, origin.began));
        let number = agreed.await.map_err(|_| LinkError::Timeout { with })??;
        let newer = self.current.borrow().as_ref().is_none_or(|current| number.replaces(current.number));
        if !newer || self.stopping.get() {
            return Err(superseded(with));
        }
        self.install(stream, number, origin.dialled);
        Ok(())
    }

    async fn agree(
        &self,
        stream: &mut TlsStream<TcpStream>,
        with: SocketAddr,
        began: Instant,
    ) -> Result<Number, LinkError> {
        let failed = |error: std::io::Error| LinkError::handshake(with, &error);
        let wrong = || LinkError::refused(with, Refusal::Protocol, "its first word is not understood");
        if self.numbers() {
            if stream.read_u8().await.map_err(failed)? != READY {
                return Err(wrong());
            }
            // When it was begun, neither end had the session of now: both connected at once, and one is enough.
            if self.current.borrow().as_ref().is_some_and(|current| current.since > began) {
                return Err(superseded(with));
            }
            self.given.set(self.given.get() + 1);
            let number = Number { life: self.life, number: self.given.get() };
            let mut go = vec![GO];
            go.extend_from_slice(&number.life.to_le_bytes());
            go.extend_from_slice(&number.number.to_le_bytes());
            stream.write_all(&go).await.map_err(failed)?;
            stream.flush().await.map_err(failed)?;
            return Ok(number);
        }
        stream.write_all(&[READY]).await.map_err(failed)?;
        stream.flush().await.map_err(failed)?;
        if stream.read_u8().await.map_err(failed)? != GO {
            return Err(wrong());
        }
        let life = stream.read_u64_le().await.map_err(failed)?;
        let number = stream.read_u64_le().await.map_err(failed)?;
        Ok(Number { life, number })
    }

    fn install(self: &Rc<Self>, stream: TlsStream<TcpStream>, number: Number, dialled: bool) {
        let pipes = Arc::new(Pipes::new());
        let current = Current { number, pipes: Arc::clone(&pipes), since: Instant::now() };
        if let Some(old) = self.current.replace(Some(current)) {
            old.pipes.close(End::Replaced);
        }
        self.stats.session_began(dialled, &pipes);
        tracing::info!(
            peer = self.settings.peer,
            address = %self.settings.peer_address,
            made_by = if dialled { "this node" } else { "the peer" },
            "connected to the other node"
        );
        self.logged.replace([None; 2 * Refusal::COUNT]);
        self.connected.send_replace(true);
        self.slot.offer(Session::new(Arc::clone(&pipes)));
        let hub = Rc::clone(self);
        spawn_local(async move {
            let end = session::serve(stream, &pipes, &hub.stats, hub.timing().stall).await;
            hub.ended(&pipes, end);
        });
    }

    fn ended(&self, pipes: &Arc<Pipes>, end: End) {
        self.stats.session_ended(end, pipes);
        if end.is_trouble() {
            tracing::warn!(
                peer = self.settings.peer,
                "the session with the other node ended: {}",
                end.describe()
            );
        } else {
            tracing::info!(
                peer = self.settings.peer,
                "the session with the other node ended: {}",
                end.describe()
            );
        }
        let mut current = self.current.borrow_mut();
        if let Some(over) = current.take_if(|current| Arc::ptr_eq(&current.pipes, pipes)) {
            self.lasted.set(over.since.elapsed());
            self.connected.send_replace(false);
        }
    }

    /// Counts and tells that a connection did not become a session.
    pub(super) fn refused(&self, error: &LinkError, dialled: bool) {
        let why = error.refusal();
        // Nothing is wrong with a connection that another one was quicker than; and where the peer's own was not needed any more, it
        // has closed it.
        let quiet = why == Refusal::Superseded || (why == Refusal::Closed && *self.connected.borrow());
        self.stats.refused(error, dialled, quiet);
        if quiet {
            return;
        }
        let last = &mut self.logged.borrow_mut()[why as usize + usize::from(dialled) * Refusal::COUNT];
        let every = if dialled { LOG_ATTEMPTS_EVERY } else { LOG_EVERY };
        if last.is_none_or(|last| last.elapsed() >= every) {
            *last = Some(Instant::now());
            tracing::warn!(reason = why.name(), "{error}");
        }
    }

    /// Ends the session, and waits for that.
    pub(super) async fn stop(&self) {
        self.stopping.set(true);
        if let Some(current) = &*self.current.borrow() {
            current.pipes.close(End::Stopped);
        }
        self.disconnected().await;
        self.stats.stopped();
    }
}

/// A newer connection is there.
pub(super) fn superseded(with: SocketAddr) -> LinkError {
    LinkError::refused(with, Refusal::Superseded, "a newer connection is in use")
}
