//! Connections to the peer.
//!
//! Made only while there is no session: at once when the link starts, after a session that lasted, and with growing pauses while they fail
//! or what they bring does not last. The node that numbers sessions leaves the other one a moment after a session's end, so that both
//! do not connect at once as a rule.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::{TlsConnector, TlsStream};

use super::backoff::Backoff;
use super::error::LinkError;
use super::hub::{Hub, Origin, superseded};
use super::socket;
use crate::random;

/// Connects for as long as the thread runs.
pub(super) async fn run(hub: Rc<Hub>) {
    let timing = hub.timing();
    let mut backoff =
        Backoff::new(timing.pause_min, timing.pause_max, common::rng::Rng::new(random::number()));
    let mut pause = Duration::ZERO;
    loop {
        if timeout(pause, hub.connected()).await.is_ok() {
            let lasted = hub.disconnected().await;
            if lasted >= timing.lasted {
                backoff.reset();
                pause = Duration::ZERO;
            } else {
                pause = backoff.pause();
            }
            if hub.numbers() {
                pause += timing.settle;
            }
            continue;
        }
        hub.stats.attempts.add(1);
        pause = Duration::ZERO;
        if let Err(error) = attempt(&hub).await {
            hub.refused(&error, true);
            pause = backoff.pause();
        }
    }
}

async fn attempt(hub: &Rc<Hub>) -> Result<(), LinkError> {
    let origin = Origin { dialled: true, began: Instant::now() };
    let stream = tokio::select! {
        stream = connect(hub) => stream?,
        () = hub.connected() => return Err(superseded(hub.settings.peer_address)),
    };
    // Not to be cancelled: once this node has said that it is ready, the peer may count on this connection.
    hub.settle(stream, hub.settings.peer_address, origin).await
}

async fn connect(hub: &Hub) -> Result<TlsStream<TcpStream>, LinkError> {
    let (from, to, limit) = (hub.settings.own_address, hub.settings.peer_address, hub.timing().handshake);
    let unreachable = |source| LinkError::Connect { address: to, source };
    let connected = timeout(limit, socket::connect(from, to)).await;
    let stream = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(unreachable)?;
    socket::prepare(&stream).map_err(unreachable)?;
    // A name is asked for and not used: only the key counts.
    let name = ServerName::from(to.ip());
    let connected =
        timeout(limit, TlsConnector::from(Arc::clone(&hub.identity.client)).connect(name, stream)).await;
    let stream = connected.map_err(|_| LinkError::Timeout { with: to })?;
    stream.map(TlsStream::Client).map_err(|error| LinkError::handshake(to, &error))
}
