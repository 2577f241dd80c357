//! The link to `vrrpd`: tells it how well this `lbd` serves, gives it the kernel's map of what this node owns, and hears its roles.
//!
//! It runs on the control runtime on purpose: if that hangs, `vrrpd` hears nothing more and counts `lbd` as dead.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::ipc::{HEALTH_INTERVAL, InstanceNumber, LbdHealth, SOCKET_NAME, ToLbd, ToVrrpd};
use common::wire::{FrameReader, WireError, frame};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::l4::kernel::Offer;
use crate::shared::{Shared, VrrpdView};

/// How long to wait before the next try to connect.
const RECONNECT: Duration = Duration::from_millis(100);

/// The same where the configuration has nothing for `vrrpd` to do, so that most likely it never comes: each try takes some of the
/// processor that forwards.
const RECONNECT_ALONE: Duration = Duration::from_secs(1);

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
            shared.chance.wake();
            if let Err(error) = ended {
                tracing::warn!(%error, "the link to vrrpd ended");
            }
            pause = if begin.elapsed() < SHORT_LINK { (pause * 2).min(RECONNECT_MAX) } else { RECONNECT };
        }
        let alone = shared.snapshot.load().config.vrrp.is_empty();
        tokio::time::sleep(if alone { pause.max(RECONNECT_ALONE) } else { pause }).await;
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
    let mut offers = shared.kernel.offers();
    link.greet(shared).await?;
    offers.mark_changed();
    let mut offered = false;
    let mut next: Option<Link> = None;
    let mut health = shared.health.subscribe();
    let mut behind = shared.peer.behind();
    behind.mark_changed();
    let mut beat = tokio::time::interval(HEALTH_INTERVAL);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut replaced = false;
        let outcome = tokio::select! {
            changed = health.changed() => {
                // Its sender lives in `shared`.
                debug_assert!(changed.is_ok());
                beat.reset();
                link.report(&mut health).await
            }
            _ = beat.tick() => link.report(&mut health).await,
            changed = config_hash.changed() => {
                debug_assert!(changed.is_ok());
                next = successor(shared).await;
                Ok(())
            }
            changed = behind.changed() => {
                debug_assert!(changed.is_ok());
                let behind = *behind.borrow_and_update();
                link.send(&ToVrrpd::Replication { behind }).await
            }
            changed = offers.changed() => {
                debug_assert!(changed.is_ok());
                let offer = offers.borrow_and_update().clone();
                // Nothing is said of a map that there never was: `lbd` may be about to find the one of its former life.
                if offer.is_some() || offered {
                    offered = true;
                    link.offer(offer.as_ref()).await
                } else {
                    Ok(())
                }
            }
            heard = link.hear(shared) => heard,
            heard = hear_from(&mut next, shared) => {
                replaced = heard.is_ok();
                if let Err(error) = heard {
                    next = None;
                    tracing::warn!(%error, "vrrpd was not told about the new configuration");
                }
                Ok(())
            }
        };
        if outcome.is_ok() && !replaced {
            continue;
        }
        // The first one ends as soon as the second one has its place, which may be found out by whatever is said or heard next.
        let Some(successor) = next.take() else { return outcome };
        link = successor;
        offers.mark_changed();
        behind.mark_changed();
        health.mark_changed();
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
            version: crate::process::release().to_owned(),
            config_hash: *shared.config_hash.borrow(),
        };
        self.send(&hello).await?;
        // Before it hears that this node is well.
        let behind = *shared.peer.behind().borrow();
        self.send(&ToVrrpd::Replication { behind }).await?;
        let health = shared.health.borrow().clone();
        self.send(&ToVrrpd::Health(health)).await
    }

    /// Says how this node is now.
    async fn report(&mut self, health: &mut watch::Receiver<LbdHealth>) -> Result<(), LinkError> {
        let now = health.borrow_and_update().clone();
        self.send(&ToVrrpd::Health(now)).await
    }

    async fn send(&mut self, message: &ToVrrpd) -> Result<(), LinkError> {
        self.write_all(&frame(message)?).await
    }

    async fn write_all(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        let sent = tokio::time::timeout(SEND_TIMEOUT, self.write.write_all(bytes)).await;
        sent.map_err(|_| LinkError::Stuck)?.map_err(LinkError::Send)
    }

    /// Hands over the kernel's map, or says that there is none any more.
    async fn offer(&mut self, offer: Option<&Offer>) -> Result<(), LinkError> {
        let Some(offer) = offer.filter(|offer| !offer.numbers.is_empty()) else {
            return self.send(&ToVrrpd::Instances(Vec::new())).await;
        };
        let numbers = offer.numbers.iter();
        let numbers = numbers.map(|(name, &number)| InstanceNumber { instance: name.clone(), number });
        let bytes = frame(&ToVrrpd::Instances(numbers.collect()))?;
        let descriptors = [offer.as_fd().as_raw_fd()];
        let socket = self.write.as_ref();
        let give = || -> io::Result<usize> {
            let rights = [ControlMessage::ScmRights(&descriptors)];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            Ok(sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&bytes)], &rights, flags, None)?)
        };
        let given = tokio::time::timeout(SEND_TIMEOUT, socket.async_io(Interest::WRITABLE, give)).await;
        let count = given.map_err(|_| LinkError::Stuck)?.map_err(LinkError::Send)?;
        self.write_all(&bytes[count..]).await
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
            let silent = roles.iter().filter(|entry| entry.from_silence);
            let from_silence: BTreeSet<_> = silent.map(|entry| entry.instance.clone()).collect();
            let roles: BTreeMap<_, _> = roles.into_iter().map(|entry| (entry.instance, entry.role)).collect();
            let changed = shared.vrrpd.send_if_modified(|view| {
                let changed = view.roles != roles || view.from_silence != from_silence;
                if changed {
                    view.roles.clone_from(&roles);
                    view.from_silence.clone_from(&from_silence);
                }
                changed
            });
            if changed {
                tracing::info!(?roles, "roles changed");
                shared.chance.wake();
                shared.kernel.wake();
            }
        }
        Ok(())
    }
}
