//! A target as the workers see it: what they read and count with each connection is atomic, and of one writer or seldom
//! written.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::config::KeepAlive;
use common::time::UnixTime;
use lbd_core::admission::ConnectionCount;
use lbd_core::check::Reason;
use lbd_core::health::HealthState;
use lbd_core::target::TargetKey;
use tokio::sync::Notify;

use crate::counters::{Counter, Sharded, TargetCounters};

/// A target, which lives on over reloads as long as group, id and address stay.
#[derive(Debug)]
pub(crate) struct Target {
    /// What names it.
    pub(crate) key: TargetKey,
    /// What the workers count.
    pub(crate) counters: Sharded<TargetCounters>,
    /// Written by the control runtime.
    pub(crate) checks: Checks,
    /// Connections open over all workers: the load that algorithms compare, and what `max_connections` limits. On lines
    /// of its own, because every worker writes it.
    pub(crate) open_now: Open,
    /// Written by the control runtime, read with each connection.
    decided: Decided,
    failures: Failures,
    last_check: Mutex<Option<LastCheck>>,
    tls_failure: Mutex<Option<String>>,
}

/// What came of its checks.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// Those that succeeded.
    pub(crate) succeeded: Counter,
    /// Those that failed, by [`Reason`].
    pub(crate) failures: [Counter; Reason::COUNT],
}

impl Checks {
    /// Those that failed by what the target did: what this host could not check says nothing of it.
    pub(crate) fn failed(&self) -> u64 {
        let of_the_target = Reason::ALL.into_iter().filter(|reason| *reason != Reason::Local);
        of_the_target.map(|reason| self.failures[reason.index()].get()).sum()
    }
}

/// The connections open now.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Open(ConnectionCount);

impl std::ops::Deref for Open {
    type Target = ConnectionCount;

    fn deref(&self) -> &ConnectionCount {
        &self.0
    }
}

/// What the control runtime has decided.
#[derive(Debug)]
struct Decided {
    share: AtomicU32,
    max_connections: AtomicU32,
    /// On the process's clock: when its connections are closed; `u64::MAX` for never.
    close_at_ms: AtomicU64,
    /// It was removed together with its group.
    with_group: AtomicBool,
    /// A service of the kernel's forwards to its group, or did.
    in_kernel: AtomicBool,
    health: AtomicU8,
    failed: AtomicBool,
    /// Its place in its group's list.
    index: AtomicU32,
    /// How long a connection to it may wait for the next request.
    keep_idle_ms: AtomicU64,
    /// How many of them may wait on each worker.
    keep_max: AtomicU32,
}

/// Failures in a row, for passive ejection.
#[derive(Debug)]
struct Failures {
    count: AtomicU32,
    /// So many eject; 0 for never.
    threshold: AtomicU32,
    /// The threshold was reached; taken by the control runtime.
    reached: AtomicBool,
    last: AtomicU8,
    alarm: Arc<Alarm>,
}

/// What wakes the control runtime when a target's failures have reached their threshold.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    raised: AtomicBool,
    /// Also notified when a deadline of a group has changed.
    pub(crate) notify: Notify,
}

impl Alarm {
    /// Says that a target is to be looked at.
    fn raise(&self) {
        self.raised.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    /// Whether a target is to be looked at; that is then done.
    pub(crate) fn take(&self) -> bool {
        self.raised.load(Ordering::Relaxed) && self.raised.swap(false, Ordering::AcqRel)
    }
}

common::named! {
    /// How a connection to a target failed.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum FailureKind {
        /// It was refused, or could not be made.
        Connect => "connect",
        /// Connecting took too long, or it vanished before it had answered.
        Timeout => "timeout",
        /// It was reset before the target had answered.
        Reset => "reset",
        /// ICMP said that nobody is there.
        Unreachable => "unreachable",
        /// It answered with 5xx, or with what is no answer.
        Status => "status",
        /// There was no TLS handshake.
        Tls => "tls",
    }
}

/// How the last check of a target went.
#[derive(Clone, Debug)]
pub(crate) struct LastCheck {
    /// The failure, none for a success.
    pub(crate) failure: Option<String>,
    /// The virtual IP that was asked; none for the target's own address.
    pub(crate) through: Option<SocketAddr>,
    /// How long it took.
    pub(crate) latency: Duration,
    /// When it ended.
    pub(crate) at: UnixTime,
}

impl Target {
    pub(super) fn new(key: TargetKey, alarm: Arc<Alarm>, workers: usize) -> Self {
        Self {
            key,
            counters: Sharded::new(workers),
            checks: Checks::default(),
            open_now: Open::default(),
            decided: Decided {
                share: AtomicU32::new(0),
                max_connections: AtomicU32::new(u32::MAX),
                close_at_ms: AtomicU64::new(u64::MAX),
                with_group: AtomicBool::new(false),
                in_kernel: AtomicBool::new(false),
                health: AtomicU8::new(1),
                failed: AtomicBool::new(false),
                index: AtomicU32::new(0),
                keep_idle_ms: AtomicU64::new(0),
                keep_max: AtomicU32::new(0),
            },
            failures: Failures {
                count: AtomicU32::new(0),
                threshold: AtomicU32::new(0),
                reached: AtomicBool::new(false),
                last: AtomicU8::new(0),
                alarm,
            },
            last_check: Mutex::new(None),
            tls_failure: Mutex::new(None),
        }
    }

    /// What it is to get of the new connections, as `lbd_core::group` says; 0 is nothing.
    pub(crate) fn share(&self) -> u32 {
        self.decided.share.load(Ordering::Relaxed)
    }

    /// Whether new connections may go there.
    pub(crate) fn serving(&self) -> bool {
        self.share() > 0
    }

    /// The most connections that may be open; `u32::MAX` for any number.
    pub(crate) fn max_connections(&self) -> u32 {
        self.decided.max_connections.load(Ordering::Relaxed)
    }

    /// Whether as many connections are open as may be.
    pub(crate) fn is_full(&self) -> bool {
        let max = self.max_connections();
        max != u32::MAX && self.open_now.open() >= max
    }

    /// What its checks say.
    pub(crate) fn health(&self) -> HealthState {
        let index = usize::from(self.decided.health.load(Ordering::Relaxed));
        HealthState::ALL.get(index).copied().unwrap_or(HealthState::Undecided)
    }

    /// Whether it gets nothing because it is not well: sessions that can leave it do.
    pub(crate) fn failed(&self) -> bool {
        self.decided.failed.load(Ordering::Relaxed)
    }

    /// When its connections are closed; `u64::MAX` for never.
    pub(crate) fn close_at_ms(&self) -> u64 {
        self.decided.close_at_ms.load(Ordering::Relaxed)
    }

    /// Has its connections closed at this time of the process's clock, or never with `u64::MAX`.
    pub(crate) fn set_close_at_ms(&self, at_ms: u64) {
        if self.close_at_ms() != at_ms {
            self.decided.close_at_ms.store(at_ms, Ordering::Relaxed);
        }
    }

    /// Whether it was removed together with its group, and not by itself.
    pub(crate) fn left_with_group(&self) -> bool {
        self.decided.with_group.load(Ordering::Relaxed)
    }

    /// It is removed: with its group, or by itself.
    pub(crate) fn set_left_with_group(&self, with_group: bool) {
        self.decided.with_group.store(with_group, Ordering::Relaxed);
    }

    /// Whether it may have flows through the kernel, which this process does not count with its connections.
    pub(crate) fn in_kernel(&self) -> bool {
        self.decided.in_kernel.load(Ordering::Relaxed)
    }

    /// A service of the kernel's forwards to its group: it may have flows from then on.
    pub(crate) fn set_in_kernel(&self) {
        if !self.in_kernel() {
            self.decided.in_kernel.store(true, Ordering::Relaxed);
        }
    }

    /// How long a connection to it may wait for the next request, in milliseconds. Like [`Self::keep_max`] of the configuration in force, also
    /// for those that wait already.
    pub(crate) fn keep_idle_ms(&self) -> u64 {
        self.decided.keep_idle_ms.load(Ordering::Relaxed)
    }

    /// How many connections to it may wait for the next request on each worker.
    pub(crate) fn keep_max(&self) -> usize {
        self.decided.keep_max.load(Ordering::Relaxed) as usize
    }

    /// A connection failed. Ejection is asked for each time another `consecutive_failures` in a row have come together, so
    /// that one that had to be refused is asked for again.
    pub(crate) fn report_failure(&self, kind: FailureKind) {
        let threshold = self.failures.threshold.load(Ordering::Relaxed);
        if threshold == 0 {
            return;
        }
        let count = self.failures.count.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        if count.is_multiple_of(threshold) {
            self.failures.last.store(kind as u8, Ordering::Relaxed);
            self.failures.reached.store(true, Ordering::Release);
            self.failures.alarm.raise();
        }
    }

    /// A connection was answered: the failures before it are no longer in a row.
    pub(crate) fn report_success(&self) {
        if self.failures.count.load(Ordering::Relaxed) != 0 {
            self.failures.count.store(0, Ordering::Relaxed);
        }
    }

    /// The last check.
    pub(crate) fn last_check(&self) -> Option<LastCheck> {
        self.locked_check().clone()
    }

    /// Why there was no TLS handshake the last time; none if there was one.
    pub(crate) fn tls_failure(&self) -> Option<String> {
        self.tls_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// There was none, or there was one.
    pub(crate) fn set_tls_failure(&self, why: Option<String>) {
        *self.tls_failure.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Its place in the list of its group's targets.
    pub(super) fn index(&self) -> usize {
        self.decided.index.load(Ordering::Relaxed) as usize
    }

    pub(super) fn set_index(&self, index: usize) {
        self.decided.index.store(u32::try_from(index).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// Writes only what is new, so that the workers' copies of the line stay good.
    pub(super) fn set_share(&self, share: u32) {
        if self.share() != share {
            self.decided.share.store(share, Ordering::Relaxed);
        }
    }

    pub(super) fn set_failed(&self, failed: bool) {
        self.decided.failed.store(failed, Ordering::Relaxed);
    }

    pub(super) fn set_health(&self, state: HealthState) {
        if self.health() == state {
            return;
        }
        self.decided.health.store(u8::try_from(state.index()).unwrap_or_default(), Ordering::Relaxed);
    }

    /// Takes the limits of a configuration; a threshold of 0 is none.
    pub(super) fn set_limits(&self, max_connections: u32, threshold: u32) {
        self.decided.max_connections.store(max_connections, Ordering::Relaxed);
        self.failures.threshold.store(threshold, Ordering::Relaxed);
    }

    /// Takes how connections to it are kept.
    pub(super) fn set_keep_alive(&self, keep_alive: KeepAlive) {
        let idle_ms = u64::try_from(keep_alive.idle.as_millis()).unwrap_or(u64::MAX);
        self.decided.keep_idle_ms.store(idle_ms, Ordering::Relaxed);
        self.decided.keep_max.store(keep_alive.max, Ordering::Relaxed);
    }

    pub(super) fn set_last_check(&self, check: Option<LastCheck>) {
        *self.locked_check() = check;
    }

    /// Whether its failures have reached the threshold; that is then dealt with.
    pub(super) fn take_reached(&self) -> bool {
        self.failures.reached.swap(false, Ordering::AcqRel)
    }

    /// The failure that reached the threshold last.
    pub(super) fn last_failure(&self) -> FailureKind {
        let last = usize::from(self.failures.last.load(Ordering::Relaxed));
        FailureKind::ALL.get(last).copied().unwrap_or(FailureKind::Connect)
    }

    /// Begins to count anew.
    pub(super) fn forget_failures(&self) {
        self.failures.count.store(0, Ordering::Relaxed);
        self.failures.reached.store(false, Ordering::Relaxed);
    }

    fn locked_check(&self) -> MutexGuard<'_, Option<LastCheck>> {
        // It is only ever replaced as a whole.
        self.last_check.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;

    #[test]
    fn only_failures_in_a_row_raise_the_alarm() {
        let alarm = Arc::new(Alarm::default());
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
        let key = TargetKey { group: "g".to_owned(), id: "t".to_owned(), address };
        let target = Target::new(key, Arc::clone(&alarm), 1);
        target.report_failure(FailureKind::Connect);
        target.set_limits(u32::MAX, 3);
        for _ in 0..2 {
            target.report_failure(FailureKind::Connect);
        }
        target.report_success();
        for _ in 0..2 {
            target.report_failure(FailureKind::Reset);
        }
        assert!(!alarm.take() && !target.take_reached());
        target.report_failure(FailureKind::Timeout);
        assert!(alarm.take() && !alarm.take());
        assert_eq!((target.take_reached(), target.last_failure()), (true, FailureKind::Timeout));
        assert!(!target.take_reached());
        for _ in 0..3 {
            target.report_failure(FailureKind::Unreachable);
        }
        assert!(target.take_reached(), "asked for again");
        assert_eq!(target.last_failure(), FailureKind::Unreachable);
    }
}
