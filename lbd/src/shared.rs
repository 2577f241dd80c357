//! What the parts of the daemon share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use common::ipc::{LbdHealth, Role};
use common::time::UnixTime;
use tokio::sync::{Notify, watch};

use crate::clock::Clock;
use crate::counters::{Counter, WorkerCounters};
use crate::snapshot::{Snapshot, Target};

/// The daemon's state as seen from everywhere.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The process's clock.
    pub(crate) clock: Clock,
    /// This node's name; empty without nodes and host name.
    pub(crate) node: String,
    /// The configuration file.
    pub(crate) config_file: PathBuf,
    /// Where the Unix sockets are.
    pub(crate) run_dir: PathBuf,
    /// When the daemon started.
    pub(crate) started: UnixTime,
    /// The configuration in use.
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    /// Removed targets whose connections may still go on. At most as many as reloads removed within the longest
    /// `drain_timeout`; forgotten once that has passed.
    pub(crate) removed: Mutex<Vec<Arc<Target>>>,
    /// One for each worker.
    pub(crate) workers: Box<[WorkerShared]>,
    /// The health as reported to `vrrpd`.
    pub(crate) health: watch::Sender<LbdHealth>,
    /// A target's health changed.
    pub(crate) health_changed: Notify,
    /// What `vrrpd` says.
    pub(crate) vrrpd: watch::Sender<VrrpdView>,
    /// The daemon is on its way out.
    pub(crate) stopping: AtomicBool,
    /// What the control runtime counts.
    pub(crate) control: ControlCounters,
}

/// What is known of `vrrpd`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VrrpdView {
    /// Whether it is connected.
    pub(crate) connected: bool,
    /// This node's role for each instance, as last heard.
    pub(crate) roles: BTreeMap<String, Role>,
}

/// What the control runtime counts.
#[derive(Debug, Default)]
pub(crate) struct ControlCounters {
    /// Reloads applied.
    pub(crate) reloads_applied: Counter,
    /// Reloads refused.
    pub(crate) reloads_refused: Counter,
    /// API connections closed because too many were open.
    pub(crate) api_refused: Counter,
    /// Connections to `vrrpd` made.
    pub(crate) vrrpd_connects: Counter,
}

/// What a worker shows of itself.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct WorkerShared {
    /// On the process's clock: when its runtime last ran its timer; 0 when it has ended.
    beat_ms: AtomicU64,
    /// What it counts.
    pub(crate) counters: WorkerCounters,
}

impl WorkerShared {
    /// Says that the worker runs.
    pub(crate) fn beat(&self, now_ms: u64) {
        self.beat_ms.store(now_ms, Ordering::Relaxed);
    }

    /// When the worker last ran.
    pub(crate) fn last_beat_ms(&self) -> u64 {
        self.beat_ms.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// Whether the daemon is on its way out.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// The removed targets.
    pub(crate) fn removed(&self) -> MutexGuard<'_, Vec<Arc<Target>>> {
        // The list is only pushed to and filtered; neither leaves it half done.
        self.removed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections of clients that are open now, over all workers.
    pub(crate) fn open_connections(&self) -> u64 {
        self.workers.iter().map(|worker| worker.counters.open.get()).sum()
    }
}
