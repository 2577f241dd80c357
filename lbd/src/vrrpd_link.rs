//! The link to `vrrpd`: tells it how well this `lbd` serves, and hears this node's roles.
//!
//! It runs on the control runtime on purpose: if that hangs, `vrrpd` hears nothing more and counts `lbd` as dead.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::ipc::{HEALTH_INTERVAL, SOCKET_NAME, ToLbd, ToVrrpd};
use common::wire::{FrameReader, WireError, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, MissedTickBehavior};

use crate::shared::{Shared, VrrpdView};

/// How long to wait before the next try to connect.
const RECONNECT: Duration = Duration::from_millis(100);

/// A link shorter than this was no link: `vrrpd` refuses us, or is not understood. The next pause is then twice as long,
/// up to the maximum, so that neither log fills up.
const SHORT_LINK: Duration = Duration::from_secs(1);
const RECONNECT_MAX: Duration = Duration::from_secs(5);

/// `vrrpd` reads at once; if it has not for so long, the connection is given up.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("vrrpd closed the connection")]
    Closed,
    #[error("cannot send to vrrpd: {0}")]
    Send(io::Error),
    #[error("cannot read from vrrpd: {0}")]
    Read(io::Error),
    #[error("vrrpd does not read what it is sent")]
    Stuck,
    #[error("not understood: {0}")]
    Wire(#[from] WireError),
}

/// A connection to `vrrpd`.
struct Link {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    frames: FrameReader,
}

/// Keeps the link for as long as the daemon runs.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut pause = RECONNECT;
    loop {
        // Without vrrpd, lbd runs all the same, so that nothing is said about a socket that is not there.
        if let Ok(stream) = UnixStream::connect(socket(&shared)).await {
            tracing::info!("connected to vrrpd");
            shared.vrrpd.send_modify(|view| view.connected = true);
            let begin = Instant::now();
            let ended = talk(&shared, Link::new(stream)).await;
            shared.vrrpd.send_replace(VrrpdView::default());
            if let Err(error) = ended {
                tracing::warn!(%error, "the link to vrrpd ended");
            }
            pause = if begin.elapsed() < SHORT_LINK { (pause * 2).min(RECONNECT_MAX) } else { RECONNECT };
        }
        tokio::time::sleep(pause).await;
    }
}

fn socket(shared: &Shared) -> PathBuf {
    shared.run_dir.join(SOCKET_NAME)
}

/// Reports until the link has ended.
///
/// With another configuration a second connection is made, because only the first message of one can tell about it.
/// `vrrpd` lets it take the first one's place, and says so by naming the roles; until then the first one is kept, so that
/// `vrrpd` is never without.
async fn talk(shared: &Shared, mut link: Link) -> Result<(), LinkError> {
    let mut config_hash = shared.config_hash.subscribe();
    link.greet(shared).await?;
    let mut next: Option<Link> = None;
    let mut health = shared.health.subscribe();
    let mut beat = tokio::time::interval(HEALTH_INTERVAL);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = health.changed() => {
                // Its sender lives in `shared`.
                debug_assert!(changed.is_ok());
                beat.reset();
            }
            _ = beat.tick() => {}
            changed = config_hash.changed() => {
                debug_assert!(changed.is_ok());
                next = successor(shared).await;
                continue;
            }
            heard = link.hear(shared) => {
                match (heard, next.take()) {
                    // The successor has just taken its place.
                    (Err(LinkError::Closed), Some(successor)) => link = successor,
                    (heard, kept) => {
                        heard?;
                        next = kept;
                    }
                }
                continue;
            }
            heard = hear_from(&mut next, shared) => {
                match (heard, next.take()) {
                    (Ok(()), Some(successor)) => link = successor,
                    (Err(error), _) => tracing::warn!(%error, "vrrpd was not told about the new configuration"),
                    (Ok(()), None) => {}
                }
                continue;
            }
        }
        let now = health.borrow_and_update().clone();
        link.send(&ToVrrpd::Health(now)).await?;
    }
}

/// A second connection, greeted; none if that fails, and then the first one goes on.
async fn successor(shared: &Shared) -> Option<Link> {
    let connect = async {
        let stream = UnixStream::connect(socket(shared)).await.map_err(LinkError::Send)?;
        let mut link = Link::new(stream);
        link.greet(shared).await?;
        Ok::<_, LinkError>(link)
    };
    match connect.await {
        Ok(link) => Some(link),
        Err(error) => {
            tracing::warn!(%error, "vrrpd was not told about the new configuration");
            None
        }
    }
}

/// Hears from a link if there is one, and else waits forever.
async fn hear_from(link: &mut Option<Link>, shared: &Shared) -> Result<(), LinkError> {
    match link {
        Some(link) => link.hear(shared).await,
        None => std::future::pending().await,
    }
}

impl Link {
    fn new(stream: UnixStream) -> Self {
        let (read, write) = stream.into_split();
        Self { read, write, frames: FrameReader::default() }
    }

    /// Says who we are and how we are.
    async fn greet(&mut self, shared: &Shared) -> Result<(), LinkError> {
        shared.control.vrrpd_connects.add(1);
        let hello = ToVrrpd::Hello {
            node: shared.life.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config_hash: *shared.config_hash.borrow(),
        };
        self.send(&hello).await?;
        let health = shared.health.borrow().clone();
        self.send(&ToVrrpd::Health(health)).await
    }

    async fn send(&mut self, message: &ToVrrpd) -> Result<(), LinkError> {
        let bytes = frame(message)?;
        let sent = tokio::time::timeout(SEND_TIMEOUT, self.write.write_all(&bytes)).await;
        sent.map_err(|_| LinkError::Stuck)?.map_err(LinkError::Send)
    }

    /// Waits for something to hear, and heeds it. May be cancelled.
    async fn hear(&mut self, shared: &Shared) -> Result<(), LinkError> {
        let mut bytes = [0; 4096];
        let count = self.read.read(&mut bytes).await.map_err(LinkError::Read)?;
        if count == 0 {
            return Err(LinkError::Closed);
        }
        self.frames.push(&bytes[..count]);
        while let Some(ToLbd::Roles(roles)) = self.frames.next_message()? {
            let roles = roles.into_iter().map(|entry| (entry.instance, entry.role)).collect();
            shared.vrrpd.send_if_modified(|view| {
                if view.roles == roles {
                    return false;
                }
                tracing::info!(?roles, "roles changed");
                view.roles = roles;
                true
            });
        }
        Ok(())
    }
}
