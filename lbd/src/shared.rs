//! What the parts of the daemon share.

#[cfg(test)]
pub(crate) mod testing;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use common::ipc::{LbdHealth, Role};
use common::time::UnixTime;
use lbd_core::check::Reason;
use tokio::sync::{Notify, watch};

use crate::acme::Acme;
use crate::clock::Clock;
use crate::counters::{Counter, WorkerCounters};
use crate::discover::Directory;
use crate::l4::Departures;
use crate::l4::kernel::{Chance, Kernel};
use crate::peer::PeerLink;
use crate::prober::CheckCounters;
use crate::snapshot::{LastCheck, Life, Snapshot, Target};

/// The daemon's state as seen from everywhere.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The process's clock.
    pub(crate) clock: Clock,
    /// What stays as it is.
    pub(crate) life: Life,
    /// The configuration file.
    pub(crate) config_file: PathBuf,
    /// Where the Unix sockets are.
    pub(crate) run_dir: PathBuf,
    /// When the daemon started.
    pub(crate) started: UnixTime,
    /// The configuration in use.
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    /// Removed targets whose connections may still go on, forgotten once `drain_timeout` has passed; and a bounded number
    /// of others.
    pub(crate) removed: Mutex<Vec<Arc<Target>>>,
    /// One for each worker.
    pub(crate) workers: Box<[WorkerShared]>,
    /// The health as reported to `vrrpd`.
    pub(crate) health: watch::Sender<LbdHealth>,
    /// What the reported health depends on has changed.
    pub(crate) health_changed: Notify,
    /// The hash of the configuration in use, as `vrrpd` is told.
    pub(crate) config_hash: watch::Sender<u64>,
    /// What `vrrpd` says.
    pub(crate) vrrpd: watch::Sender<VrrpdView>,
    /// The daemon is on its way out.
    pub(crate) stopping: AtomicBool,
    /// What the control runtime counts.
    pub(crate) control: ControlCounters,
    /// Targets that are found instead of written down.
    pub(crate) discovery: Arc<Directory>,
    /// Forwarding in the kernel.
    pub(crate) kernel: Kernel,
    /// The link to the other node's `lbd`.
    pub(crate) peer: PeerLink,
    /// What becomes of proxied connections when their virtual IPs move.
    pub(crate) chance: Chance,
    /// Certificates that are ordered.
    pub(crate) acme: Acme,
    /// When virtual IPs left.
    pub(crate) departures: Departures,
}

/// What is known of `vrrpd`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VrrpdView {
    /// Whether it is connected.
    pub(crate) connected: bool,
    /// This node's role for each instance, as last heard.
    pub(crate) roles: BTreeMap<String, Role>,
    /// Instances that this node is active for because nothing was heard of the other one.
    pub(crate) from_silence: BTreeSet<String>,
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
    /// Health checks.
    pub(crate) checks: CheckCounters,
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

    /// Counts a check for the daemon, its target and the target's group; `failure` is why it failed, if it did.
    pub(crate) fn count_check(&self, target: &Target, failure: Option<Reason>) {
        let Some(reason) = failure else {
            target.checks.succeeded.add(1);
            return;
        };
        let index = reason.index();
        self.control.checks.failures[index].add(1);
        target.checks.failures[index].add(1);
        if let Some(group) = self.snapshot.load().group(&target.key.group) {
            group.shared.check_failures[index].add(1);
        }
    }

    /// Takes the result of a target's check.
    pub(crate) fn record_check(&self, target: &Target, check: LastCheck) {
        let snapshot = self.snapshot.load();
        // One that has been removed meanwhile is no longer of interest.
        let Some(group) = snapshot.group(&target.key.group) else { return };
        if group.record_check(self.clock.now(), target, check) {
            self.groups_changed();
        }
    }

    /// Says that a group's state has changed: what is reported, and when something is due next.
    pub(crate) fn groups_changed(&self) {
        self.health_changed.notify_one();
        self.life.alarm.notify.notify_one();
        self.kernel.wake();
        self.peer.groups_changed.store(true, Ordering::Release);
        self.life.bell.ring();
    }

    /// The removed targets.
    pub(crate) fn removed(&self) -> MutexGuard<'_, Vec<Arc<Target>>> {
        // The list is only pushed to and filtered; neither leaves it half done.
        self.removed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sockets that the workers listen on now.
    pub(crate) fn listening(&self) -> u64 {
        self.workers.iter().map(|worker| worker.counters.listening.get()).sum()
    }

    /// Connections of clients that are open now, over all workers.
    pub(crate) fn open_connections(&self) -> u64 {
        self.workers.iter().map(|worker| worker.counters.open.get()).sum()
    }
}
