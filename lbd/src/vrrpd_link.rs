//! The link to `vrrpd`: tells it how well this `lbd` serves, and hears this node's roles.
//!
//! It runs on the control runtime on purpose: if that hangs, `vrrpd` hears nothing more and counts `lbd` as dead.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use common::ipc::{HEALTH_INTERVAL, SOCKET_NAME, ToLbd, ToVrrpd};
use common::wire::{FrameReader, WireError, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
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

/// Keeps the link for as long as the daemon runs.
pub(crate) async fn run(shared: Arc<Shared>) {
    let path = shared.run_dir.join(SOCKET_NAME);
    let mut pause = RECONNECT;
    loop {
        // Without vrrpd, lbd runs all the same, so that nothing is said about a socket that is not there.
        if let Ok(stream) = UnixStream::connect(&path).await {
            tracing::info!("connected to vrrpd");
            shared.control.vrrpd_connects.add(1);
            shared.vrrpd.send_modify(|view| view.connected = true);
            let begin = Instant::now();
            let ended = talk(&shared, stream).await;
            shared.vrrpd.send_replace(VrrpdView::default());
            if let Err(error) = ended {
                tracing::warn!(%error, "the link to vrrpd ended");
            }
            pause = if begin.elapsed() < SHORT_LINK { (pause * 2).min(RECONNECT_MAX) } else { RECONNECT };
        }
        tokio::time::sleep(pause).await;
    }
}

async fn talk(shared: &Shared, stream: UnixStream) -> Result<(), LinkError> {
    let (mut read, mut write) = stream.into_split();
    let hello = ToVrrpd::Hello {
        node: shared.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        config_hash: shared.snapshot.load().config.hash,
    };
    send(&mut write, &hello).await?;
    let mut health = shared.health.subscribe();
    let mut beat = tokio::time::interval(HEALTH_INTERVAL);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut frames = FrameReader::default();
    let mut bytes = [0; 4096];
    loop {
        tokio::select! {
            changed = health.changed() => {
                // Its sender lives in `shared`.
                debug_assert!(changed.is_ok());
                beat.reset();
            }
            _ = beat.tick() => {}
            count = read.read(&mut bytes) => {
                match count.map_err(LinkError::Read)? {
                    0 => return Err(LinkError::Closed),
                    count => hear(shared, &mut frames, &bytes[..count])?,
                }
                continue;
            }
        }
        let now = health.borrow_and_update().clone();
        send(&mut write, &ToVrrpd::Health(now)).await?;
    }
}

async fn send(write: &mut OwnedWriteHalf, message: &ToVrrpd) -> Result<(), LinkError> {
    let bytes = frame(message)?;
    let sent = tokio::time::timeout(SEND_TIMEOUT, write.write_all(&bytes)).await;
    sent.map_err(|_| LinkError::Stuck)?.map_err(LinkError::Send)
}

fn hear(shared: &Shared, frames: &mut FrameReader, bytes: &[u8]) -> Result<(), LinkError> {
    frames.push(bytes);
    while let Some(ToLbd::Roles(roles)) = frames.next_message()? {
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
