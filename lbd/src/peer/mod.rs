//! The link between the two nodes' `lbd`s: an authenticated stream of whole messages, one session at a time.
//!
//! What is replicated, and when, is decided elsewhere; this carries it. Who the ends are is in [`identity`], which connection is the session in
//! [`hub`], who may knock in [`listen`], when to knock in [`dial`], what a session is to its driver in [`session`].
//!
//! The link has a thread of its own, `lbd-peer`, with its own runtime, so that a snapshot on its way delays neither a worker nor health
//! checks. A driver gets a [`Port`], and from it one [`Session`] after the other: whole messages up and down, queues bounded in bytes, and an
//! end with a reason. A session's messages never mix with another's, because each is an object of its own. The driver is a future on the
//! link's own thread, where it needs no lock that is ever waited for; it may as well hand its port to another thread.
//!
//! The link decides nothing about roles or traffic: without it, both go on as they are.
//!
//! Bounds: two queues of a mebibyte and buffers of some 400 KiB for a session, 8 handshakes at once of 3 s each, 50 in a second. Messages have
//! 98,308 bytes at most. A peer whose host is silent for 5 s is given up, and so is one that has had no room for anything for so long
//! ([`End::Silent`]: it is the kernel that gives up, for either); one that takes so little that nothing can be written for 10 s, too
//! ([`End::Stalled`]). Each is counted in [`Stats`].

mod backoff;
mod dial;
mod error;
mod frame;
mod hub;
mod identity;
mod listen;
mod port;
mod queue;
mod running;
mod session;
mod socket;
mod stats;
#[cfg(test)]
mod tests;
mod view;

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use common::key::PairKey;
use tokio::sync::watch;
use tokio::task::{JoinError, LocalSet, spawn_local};

use error::LinkError;
pub(crate) use port::Port;
pub(crate) use running::PeerLink;
pub(crate) use session::{SendError, Session};
pub(crate) use view::ReplicationView;

use hub::Hub;
use identity::Identity;
use port::Slot;
use stats::Stats;

/// What makes a link. Another one needs a new link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// This node's name.
    pub(crate) node: String,
    /// The other node's name.
    pub(crate) peer: String,
    /// Where this node listens, and from where it connects.
    pub(crate) own_address: SocketAddr,
    /// Where the other node does.
    pub(crate) peer_address: SocketAddr,
    /// The pair's secret.
    pub(crate) key: PairKey,
    /// How long things take.
    pub(crate) timing: Timing,
}

/// How long things take; other than the default for tests only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Timing {
    /// The longest for connecting, for TLS, and for agreeing on the session, each.
    pub(crate) handshake: Duration,
    /// The shortest pause between attempts.
    pub(crate) pause_min: Duration,
    /// The longest.
    pub(crate) pause_max: Duration,
    /// A session that lasted so long was one: the next attempt is made at once.
    pub(crate) lasted: Duration,
    /// The start that the node which numbers sessions leaves the other one.
    pub(crate) settle: Duration,
    /// A peer that leaves no room for another byte for so long is given up.
    pub(crate) stall: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(3),
            pause_min: Duration::from_millis(100),
            pause_max: Duration::from_secs(5),
            lasted: Duration::from_secs(1),
            settle: Duration::from_secs(1),
            stall: Duration::from_secs(10),
        }
    }
}

/// A running link. Dropping it ends the session and waits for the thread, for about 100 ms at most.
#[derive(Debug)]
pub(crate) struct Link {
    settings: Settings,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    /// Starts a link, which counts in `stats`; no other one may do so at the same time. `drive` is called on the link's thread; when
    /// the future that it answers ends, so does the link.
    pub(crate) fn start<D, F>(settings: Settings, stats: Arc<Stats>, drive: D) -> Result<Self, LinkError>
    where
        D: FnOnce(Port) -> F + Send + 'static,
        F: Future<Output = ()> + 'static,
    {
        let identity =
            Identity::new(&settings.key, &settings.node, &settings.peer).map_err(LinkError::Identity)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(LinkError::Start)?;
        let (stop, mut stopped) = watch::channel(false);
        let copy = settings.clone();
        let thread = std::thread::Builder::new().name("lbd-peer".to_owned()).spawn(move || {
            let slot = Arc::new(Slot::default());
            let port = Port(Arc::clone(&slot));
            let _ending = Ending { slot: Arc::clone(&slot), stats: Arc::clone(&stats) };
            let tasks = LocalSet::new();
            tasks.block_on(&runtime, async {
                let hub = Hub::new(copy, identity, stats, Arc::clone(&slot));
                let listening = spawn_local(listen::run(Rc::clone(&hub)));
                let dialling = spawn_local(dial::run(Rc::clone(&hub)));
                let mut drive = pin!(drive(port));
                tokio::select! {
                    () = &mut drive => {}
                    // A link that no longer does one of them is none.
                    Err(failed) = listening => fail(failed),
                    Err(failed) = dialling => fail(failed),
                    // Fails when the handle is gone, which is the same.
                    _ = stopped.wait_for(|stop| *stop) => {}
                }
                // The driver's session is ended before the driver is, so that it counts as what it is.
                hub.stop().await;
            });
        });
        Ok(Self { settings, stop, thread: Some(thread.map_err(LinkError::Start)?) })
    }

    /// What it was started with.
    pub(crate) const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether it has ended by itself: its thread has failed, or its driver has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

/// However the thread ends, there are no more sessions, and nothing shows one.
struct Ending {
    slot: Arc<Slot>,
    stats: Arc<Stats>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.slot.close();
        self.stats.stopped();
    }
}

/// A part of the link has failed, and so has its thread.
fn fail(part: JoinError) {
    if let Ok(panic) = part.try_into_panic() {
        std::panic::resume_unwind(panic);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the link to the other node had failed; please report it");
        }
    }
}
