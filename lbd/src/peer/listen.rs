//! Connections that come in: who may shake hands, and how many at once.
//!
//! Only the peer's address may; all others are closed before a byte of theirs is read. Of those that may, few are in their handshake at
//! once, each for a bounded time. When there are too many, the oldest gives way, because the peer's own handshake takes milliseconds, and
//! what stays longer is not it. Handshakes cost computing, so that their rate is bounded too. If someone who has the peer's address
//! (another user on its host) goes that far, the connection this node makes to the peer is not concerned by any of it.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use lbd_core::rate::{Bucket, RateLimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::backoff::Backoff;
use super::error::LinkError;
use super::hub::{Hub, Origin};
use super::socket;
use crate::clock::Clock;
use crate::random;

/// Connections in their handshake at once.
const HANDSHAKES_MAX: usize = 8;

/// Handshakes begun in a second, and at once; one costs less than a millisecond of computing.
const HANDSHAKES_PER_SECOND: u32 = 50;

/// The pause after a failed accept: files or memory are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens for as long as the thread runs; while the address cannot be listened on, it is tried again and again.
pub(super) async fn run(hub: Rc<Hub>) {
    let address = hub.settings.own_address;
    let timing = hub.timing();
    let mut backoff =
        Backoff::new(timing.pause_min, timing.pause_max, common::rng::Rng::new(random::number()));
    let mut told = false;
    loop {
        match socket::listen(address) {
            Ok(listener) => {
                tracing::info!(%address, "listening for the other node");
                hub.stats.listens();
                return Entrance::new(hub).serve(&listener).await;
            }
            Err(source) => {
                let error = LinkError::Bind { address, source };
                hub.stats.cannot_listen(&error);
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!("{error}");
                }
            }
        }
        sleep(backoff.pause()).await;
    }
}

struct Entrance {
    hub: Rc<Hub>,
    clock: Clock,
    rate: Bucket,
    handshakes: JoinSet<()>,
    /// The same, the oldest first, and some that are over.
    order: VecDeque<AbortHandle>,
}

impl Entrance {
    fn new(hub: Rc<Hub>) -> Self {
        Self {
            hub,
            clock: Clock::new(),
            rate: Bucket::new(RateLimit::new(HANDSHAKES_PER_SECOND, Duration::from_secs(1))),
            handshakes: JoinSet::new(),
            order: VecDeque::new(),
        }
    }

    async fn serve(mut self, listener: &TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    if let Err(error) = self.admit(stream, from) {
                        self.hub.refused(&error, false);
                    }
                }
                Err(source) => {
                    // The one that failed was reset while it waited, or the host is short of something.
                    let address = self.hub.settings.own_address;
                    self.hub.refused(&LinkError::Accept { address, source }, false);
                    sleep(ACCEPT_PAUSE).await;
                }
            }
            while self.handshakes.try_join_next().is_some() {}
            // However many come, the session goes on.
            tokio::task::yield_now().await;
        }
    }

    fn admit(&mut self, stream: TcpStream, from: std::net::SocketAddr) -> Result<(), LinkError> {
        let (source, expected) = (from.ip(), self.hub.settings.peer_address.ip());
        if source != expected {
            return Err(LinkError::Stranger { from: source, expected });
        }
        if !self.rate.admit(self.clock.at()) {
            return Err(LinkError::TooMany { from: source });
        }
        self.order.retain(|handle| !handle.is_finished());
        if self.order.len() >= HANDSHAKES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            oldest.abort();
            self.hub.refused(&LinkError::TooMany { from: source }, false);
        }
        let hub = Rc::clone(&self.hub);
        self.order.push_back(self.handshakes.spawn_local(async move {
            if let Err(error) = shake(&hub, stream, from).await {
                hub.refused(&error, false);
            }
        }));
        Ok(())
    }
}

async fn shake(hub: &Rc<Hub>, stream: TcpStream, from: std::net::SocketAddr) -> Result<(), LinkError> {
    let failed = |error: std::io::Error| LinkError::handshake(from, &error);
    let origin = Origin { dialled: false, began: Instant::now() };
    socket::prepare(&stream).map_err(failed)?;
    let accepted = TlsAcceptor::from(std::sync::Arc::clone(&hub.identity.server)).accept(stream);
    let accepted = timeout(hub.timing().handshake, accepted).await;
    let stream = accepted.map_err(|_| LinkError::Timeout { with: from })?.map_err(failed)?;
    hub.settle(TlsStream::Server(stream), from, origin).await
}
