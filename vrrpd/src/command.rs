//! The boundary between the real-time loop and everything else in the daemon.
//!
//! ```text
//!   control threads                                   the loop's thread
//!   ───────────────                                   ─────────────────
//!   CommandSender ── bounded queue (64) + eventfd ──► CommandReceiver
//!   event thread  ◄── bounded queue (1,024) ───────── EventSender
//!   StatusCell    ◄── the latest NodeStatus ───────── StatusCell::publish
//! ```
//!
//! Nothing here ever makes the loop wait: it only tries to receive, tries to send, and swaps a pointer. At a bound the
//! other side pays: a command that does not fit is answered with [`CommandError::Busy`], an event that does not fit is
//! dropped and counted.

mod error;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvError, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use common::config::Config;
use common::key::PairKey;
use common::time::UnixTime;
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::oneshot;
use vrrpd_core::event::Event;
use vrrpd_core::status::NodeStatus;

use crate::ownership::Ownership;

pub use error::CommandError;
pub(crate) use error::handover;
pub use vrrpd_core::track::LbdState;

/// Commands waiting for the loop at most.
pub const COMMANDS_MAX: usize = 64;

/// Former states kept until no reader holds them any more; more are freed by whoever lets go of them last.
const RETIRED_MAX: usize = 32;

/// Events waiting for the event thread at most.
pub const EVENTS_MAX: usize = 1024;

/// What the loop is asked to do.
#[derive(Debug)]
pub enum Command {
    /// Hand the instance over to the other node; answered when that is done or has failed.
    Switchover {
        /// The `[[vrrp]]` name.
        instance: String,
        /// The answer.
        reply: Reply<SwitchoverOutcome>,
    },
    /// Switch maintenance on or off; answered at once.
    Maintenance {
        /// Whether it shall be on.
        on: bool,
        /// The answer.
        reply: Reply<MaintenanceOutcome>,
    },
    /// Run with another configuration; roles do not change by it.
    Reload {
        /// The configuration, valid and with this node in it.
        config: Box<Config>,
        /// The key that the configuration names.
        key: Option<PairKey>,
        /// The answer, once it is in force.
        reply: Reply<ReloadOutcome>,
    },
    /// `lbd`'s health changed, or it came or went.
    Lbd(LbdState),
    /// Whether this node's `lbd` lacks connections and sessions that the other node's has.
    Behind(bool),
    /// Where to say what this node owns, in place of the former map; or that there is none any more.
    Ownership(Option<Ownership>),
    /// Hand everything over, then end.
    Shutdown,
    /// End without a handover: resign with priority 0 and release the addresses.
    ShutdownNow,
}

/// Where the answer to a command goes. Dropping it is an answer too: the asker sees [`CommandError::Stopping`].
pub type Reply<T> = oneshot::Sender<Result<T, CommandError>>;

/// A switchover that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchoverOutcome {
    /// The node that is active now.
    pub active: String,
    /// How long it took.
    pub took: Duration,
}

/// Maintenance, switched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaintenanceOutcome {
    /// Whether it is on now.
    pub on: bool,
}

/// A configuration, in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReloadOutcome {
    /// Its hash.
    pub config_hash: u64,
}

/// Puts commands into the loop's queue.
#[derive(Clone, Debug)]
pub struct CommandSender {
    queue: SyncSender<Command>,
    wake: Arc<EventFd>,
}

/// The loop's end of the queue.
#[derive(Debug)]
pub struct CommandReceiver {
    queue: Receiver<Command>,
    wake: Arc<EventFd>,
}

/// Makes the queue of commands.
///
/// # Errors
///
/// When the kernel has no eventfd for us.
pub fn commands() -> std::io::Result<(CommandSender, CommandReceiver)> {
    let (sender, receiver) = sync_channel(COMMANDS_MAX);
    let wake = Arc::new(new_eventfd()?);
    Ok((CommandSender { queue: sender, wake: Arc::clone(&wake) }, CommandReceiver { queue: receiver, wake }))
}

impl CommandSender {
    /// Queues a command and wakes the loop.
    ///
    /// # Errors
    ///
    /// [`CommandError::Busy`] when the queue is full, [`CommandError::Stopping`] when the loop has ended.
    pub fn send(&self, command: Command) -> Result<(), CommandError> {
        self.try_send(command).map_err(|(error, _)| error)
    }

    /// The same; the command comes back if it could not be queued.
    pub(crate) fn try_send(&self, command: Command) -> Result<(), (CommandError, Command)> {
        self.queue.try_send(command).map_err(|error| match error {
            TrySendError::Full(command) => (CommandError::Busy, command),
            TrySendError::Disconnected(command) => (CommandError::Stopping, command),
        })?;
        wake(&self.wake);
        Ok(())
    }
}

impl CommandReceiver {
    /// The next command, if there is one.
    #[must_use]
    pub fn try_recv(&self) -> Option<Command> {
        self.queue.try_recv().ok()
    }

    /// Makes the descriptor unreadable until the next command; call it before draining the queue.
    pub fn clear(&self) {
        clear(&self.wake);
    }
}

/// Readable when a command waits.
impl AsFd for CommandReceiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// An event and when it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamped {
    /// When.
    pub at: UnixTime,
    /// What.
    pub event: Event,
}

/// Hands events out of the loop.
#[derive(Clone, Debug)]
pub struct EventSender {
    queue: SyncSender<Stamped>,
    dropped: Arc<AtomicU64>,
}

/// Where the events come out.
#[derive(Debug)]
pub struct EventReceiver {
    queue: Receiver<Stamped>,
    dropped: Arc<AtomicU64>,
}

/// Makes the queue of events.
#[must_use]
pub fn events() -> (EventSender, EventReceiver) {
    let (sender, receiver) = sync_channel(EVENTS_MAX);
    let dropped = Arc::new(AtomicU64::new(0));
    (EventSender { queue: sender, dropped: Arc::clone(&dropped) }, EventReceiver { queue: receiver, dropped })
}

impl EventSender {
    /// Hands an event out without waiting; when the queue is full it is dropped and counted.
    pub fn send(&self, at: UnixTime, event: Event) {
        if self.queue.try_send(Stamped { at, event }).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl EventReceiver {
    /// The next event; `Ok(None)` when none came within `wait`.
    ///
    /// # Errors
    ///
    /// When every sender is gone, so that none can come any more.
    pub fn recv(&self, wait: Duration) -> Result<Option<Stamped>, RecvError> {
        match self.queue.recv_timeout(wait) {
            Ok(event) => Ok(Some(event)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(RecvError),
        }
    }

    /// The counter of events that did not fit.
    #[must_use]
    pub fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }
}

/// The node's state as the loop last published it.
#[derive(Clone, Debug)]
pub struct Published {
    /// The state.
    pub status: NodeStatus,
    /// When it was published.
    pub at: Instant,
    /// Counts the publications; 0 before the first.
    pub number: u64,
}

/// Counters of the loop's shell that are not the core's.
#[derive(Debug, Default)]
pub struct ShellCounters {
    /// Times the warden had to be started again.
    pub warden_restarts: AtomicU64,
    /// System calls of the loop that failed and were reported.
    pub system_errors: AtomicU64,
}

/// The one value that the loop shares with readers. The loop publishes at most every 20 ms, and at once on a role change.
#[derive(Debug)]
pub struct StatusCell {
    latest: ArcSwap<Published>,
    /// Former states that a reader may still hold. The loop frees them itself: a reader of normal priority that freed
    /// them could be preempted while it holds the lock of the loop's part of the heap.
    retired: Mutex<Vec<Arc<Published>>>,
    roles_changed: EventFd,
    /// Counters that are bumped where things happen.
    pub counters: ShellCounters,
}

impl StatusCell {
    /// An empty state, published now.
    ///
    /// # Errors
    ///
    /// When the kernel has no eventfd for us.
    pub fn new() -> std::io::Result<Self> {
        let first = Published { status: NodeStatus::default(), at: Instant::now(), number: 0 };
        Ok(Self {
            latest: ArcSwap::from_pointee(first),
            retired: Mutex::new(Vec::with_capacity(RETIRED_MAX)),
            roles_changed: new_eventfd()?,
            counters: ShellCounters::default(),
        })
    }

    /// Makes `status` the latest. For the loop only; never waits.
    pub fn publish(&self, status: NodeStatus) {
        let former = self.latest.load();
        let changed = !same_roles(&former.status, &status);
        let number = former.number + 1;
        drop(former);
        let former = self.latest.swap(Arc::new(Published { status, at: Instant::now(), number }));
        // Only the loop publishes, so nobody else ever holds this lock.
        if let Ok(mut retired) = self.retired.try_lock() {
            retired.retain(|state| Arc::strong_count(state) > 1);
            if retired.len() < RETIRED_MAX {
                retired.push(former);
            }
        }
        if changed {
            wake(&self.roles_changed);
        }
    }

    /// The latest state.
    #[must_use]
    pub fn latest(&self) -> Arc<Published> {
        self.latest.load_full()
    }

    /// Readable after a role has changed or instances came or went. There is one reader: the link to `lbd`.
    pub fn roles_fd(&self) -> BorrowedFd<'_> {
        self.roles_changed.as_fd()
    }

    /// Makes [`Self::roles_fd`] unreadable until the next change.
    pub fn clear_roles(&self) {
        clear(&self.roles_changed);
    }
}

fn same_roles(a: &NodeStatus, b: &NodeStatus) -> bool {
    a.instances.len() == b.instances.len()
        && a.instances.iter().zip(&b.instances).all(|(a, b)| {
            a.role == b.role
                && a.forwarding_role() == b.forwarding_role()
                && a.is_from_silence() == b.is_from_silence()
                && a.name == b.name
        })
}

/// What the loop is started with.
#[derive(Debug)]
pub struct Setup {
    /// The configuration; it has at least one instance and this node in it.
    pub config: Config,
    /// This node's name.
    pub node: String,
    /// The pair's key, if the configuration names one.
    pub key: Option<PairKey>,
    /// The run directory, which exists.
    pub run_dir: PathBuf,
    /// What the loop is asked to do.
    pub commands: CommandReceiver,
    /// Where its events go.
    pub events: EventSender,
    /// Where its state goes.
    pub status: Arc<StatusCell>,
}

/// An error of the loop: a sentence for the operator.
pub type LoopError = Box<dyn std::error::Error + Send + Sync>;

/// The running loop.
#[derive(Debug)]
pub struct LoopHandle {
    thread: JoinHandle<()>,
    result: oneshot::Receiver<Result<(), LoopError>>,
}

impl LoopHandle {
    /// Runs `body` on a thread of its own.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started.
    pub fn spawn<E: Into<LoopError>>(
        body: impl FnOnce() -> Result<(), E> + Send + 'static,
    ) -> std::io::Result<Self> {
        let (sender, result) = oneshot::channel();
        let thread = std::thread::Builder::new().name("vrrp-loop".to_owned()).spawn(move || {
            // Nobody listens once the control side has given up on the loop.
            drop(sender.send(body().map_err(Into::into)));
        })?;
        Ok(Self { thread, result })
    }

    /// Waits for the loop's end.
    ///
    /// # Errors
    ///
    /// What ended it, other than a command; also when it panicked.
    pub async fn finished(&mut self) -> Result<(), LoopError> {
        match (&mut self.result).await {
            Ok(result) => result,
            Err(_) => Err("the real-time loop panicked".into()),
        }
    }

    /// Whether its thread has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

pub(crate) fn new_eventfd() -> std::io::Result<EventFd> {
    Ok(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?)
}

pub(crate) fn wake(fd: &EventFd) {
    // Fails only when the counter is at its maximum, and then the descriptor is readable anyway.
    fd.write(1).ok();
}

fn clear(fd: &EventFd) {
    // Fails only when there is nothing to clear.
    fd.read().ok();
}

#[cfg(test)]
mod tests;
