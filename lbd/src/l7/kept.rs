//! Connections to targets that wait for the next request.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::stream::Stream;
use crate::snapshot::Target;
use crate::tls::Origin;
use crate::worker::Worker;

/// How often the kept connections are looked at.
const LOOK_MS: u64 = 1000;

/// A connection to a target.
pub(super) struct Upstream {
    /// The connection.
    pub(super) stream: Stream,
    /// Where it leads to, where it counts as open.
    pub(super) open: Open,
    /// How it is encrypted, if it is.
    pub(super) origin: Option<Arc<Origin>>,
    /// Whether it has served requests before.
    pub(super) reused: bool,
}

/// A connection's place among those open at a target, given back when dropped.
pub(super) struct Open {
    /// The target.
    pub(super) target: Arc<Target>,
    worker: usize,
    /// Whether it counts as one that waits for its next request.
    kept: Cell<bool>,
}

impl Upstream {
    /// A connection just made.
    pub(super) fn new(
        worker: &Worker,
        stream: Stream,
        target: &Arc<Target>,
        origin: Option<Arc<Origin>>,
    ) -> Self {
        Self { stream, open: Open::new(worker, target), origin, reused: false }
    }

    /// Whether it is encrypted as `origin` says.
    fn is_for(&self, origin: Option<&Arc<Origin>>) -> bool {
        is_same(self.origin.as_ref(), origin)
    }
}

/// Whether two connections are encrypted the same way: a reload may have changed that.
pub(super) fn is_same(one: Option<&Arc<Origin>>, other: Option<&Arc<Origin>>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        _ => false,
    }
}

impl Open {
    /// Of a connection just made.
    pub(super) fn new(worker: &Worker, target: &Arc<Target>) -> Self {
        let counters = target.counters.of(worker.index);
        counters.connected.add(1);
        counters.open.add(1);
        Self { target: Arc::clone(target), worker: worker.index, kept: Cell::new(false) }
    }

    /// It waits for its next request, or has one.
    pub(super) fn set_kept(&self, kept: bool) {
        if self.kept.replace(kept) == kept {
            return;
        }
        let counter = &self.target.counters.of(self.worker).kept;
        if kept { counter.add(1) } else { counter.subtract_one() }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.set_kept(false);
        self.target.counters.of(self.worker).open.subtract_one();
    }
}

/// The kept connections of a worker, the last used one of each target last. Each has had nothing but whole answers to whole requests, so that
/// those that are kept no longer end at once: see [`super::transport::Transport::end_at_once`].
#[derive(Default)]
pub(crate) struct Kept {
    /// By the target's place in memory, which is its own as long as a connection holds it.
    by_target: RefCell<BTreeMap<*const Target, Vec<Idle>>>,
    now_ms: Cell<u64>,
    looked_ms: Cell<u64>,
}

struct Idle {
    upstream: Upstream,
    /// Since when it waits.
    since_ms: u64,
    /// How often the kernel had told all events by then.
    round: u64,
}

impl Kept {
    /// A connection to `target` that is still there, and on which nothing has come that would be taken for the next answer. The kernel is
    /// asked where it has told nothing since the connection came here, and for a request that is `once` only: it could not be sent
    /// on another connection if the target closes this one just now. For others it has told enough in the last `round` of events, so those
    /// that came here before that round come first: where many requests are answered and begin in one round that is a call less for nearly
    /// each. One that waits for longer than its group wants by now is none.
    pub(super) fn take(
        &self,
        target: &Arc<Target>,
        origin: Option<&Arc<Origin>>,
        (round, once): (u64, bool),
    ) -> Option<Upstream> {
        let mut by_target = self.by_target.borrow_mut();
        let kept = by_target.get_mut(&Arc::as_ptr(target))?;
        let now_ms = self.now_ms.get();
        // Those that the target has closed, or sent something to nobody on, are closed here, too.
        while let Some(place) = next(kept.iter().map(|idle| idle.round), round) {
            // Those that change places have come in the same round, or this is the last one.
            let idle = kept.swap_remove(place);
            let ask = once || idle.round == round;
            let fits = idle.upstream.is_for(origin) && idle.may_wait(now_ms);
            if fits && idle.upstream.stream.transport.is_quiet(ask) {
                idle.upstream.open.set_kept(false);
                return Some(Upstream { reused: true, ..idle.upstream });
            }
            idle.upstream.stream.transport.end_at_once();
        }
        None
    }

    /// Keeps a connection on which nothing is under way, in this `round` of events, as long as its group wants.
    pub(super) fn put(&self, upstream: Upstream, round: u64) {
        // A target that gets nothing more needs none.
        let stream = &upstream.stream;
        if upstream.open.target.share() == 0 || !stream.inbound.is_empty() || !stream.transport.is_idle() {
            stream.transport.end_at_once();
            return;
        }
        let mut by_target = self.by_target.borrow_mut();
        let kept = by_target.entry(Arc::as_ptr(&upstream.open.target)).or_default();
        if kept.len() >= upstream.open.target.keep_max() {
            stream.transport.end_at_once();
            return;
        }
        upstream.open.set_kept(true);
        kept.push(Idle { upstream, since_ms: self.now_ms.get(), round });
    }

    /// Closes all to a target: one was found dead, and the others were made when it was.
    pub(super) fn forget(&self, target: &Arc<Target>) {
        let forgotten = self.by_target.borrow_mut().remove(&Arc::as_ptr(target));
        for idle in forgotten.into_iter().flatten() {
            idle.upstream.stream.transport.end_at_once();
        }
    }

    /// Takes the time, and now and then closes what has been unused for long, was closed by its target or is more than its group wants by now.
    pub(crate) fn tick(&self, now_ms: u64) {
        self.now_ms.set(now_ms);
        if now_ms < self.looked_ms.get() + LOOK_MS {
            return;
        }
        self.looked_ms.set(now_ms);
        self.by_target.borrow_mut().retain(|_, kept| {
            let max = kept.first().map_or(0, |idle| idle.upstream.open.target.keep_max());
            // Those that were used last stay.
            let mut surplus = kept.len().saturating_sub(max);
            kept.retain(|idle| {
                let upstream = &idle.upstream;
                let kept = surplus == 0
                    && idle.may_wait(now_ms)
                    && upstream.open.target.share() > 0
                    && upstream.stream.transport.is_quiet(false);
                if !kept {
                    upstream.stream.transport.end_at_once();
                }
                surplus = surplus.saturating_sub(1);
                kept
            });
            !kept.is_empty()
        });
    }

    /// Closes all.
    pub(crate) fn close_all(&self) {
        self.by_target.borrow_mut().clear();
    }
}

/// Which of those that came here in these rounds, one behind the other, is used next: the last one of an earlier round than this one, or else the
/// last one.
fn next(mut rounds: impl ExactSizeIterator<Item = u64> + DoubleEndedIterator, round: u64) -> Option<usize> {
    let last = rounds.len().checked_sub(1)?;
    Some(rounds.rposition(|its| its < round).unwrap_or(last))
}

impl Idle {
    /// Whether its group still wants it at this time, as the configuration in force says: a reload may have changed that while it waited.
    fn may_wait(&self, now_ms: u64) -> bool {
        let target = &self.upstream.open.target;
        target.keep_max() > 0 && now_ms.saturating_sub(self.since_ms) < target.keep_idle_ms()
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("targets", &self.by_target.borrow().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::next;

    #[test]
    fn the_last_used_one_that_was_looked_at_since_is_next() {
        let mut rounds = vec![1, 1, 2, 3, 3];
        let mut taken = Vec::new();
        while let Some(place) = next(rounds.iter().copied(), 3) {
            taken.push(rounds.swap_remove(place));
            assert!(rounds.is_sorted(), "what is left is in its order: {rounds:?}");
        }
        assert_eq!(taken, [2, 1, 1, 3, 3]);
        assert_eq!(next([1, 2].into_iter(), 4), Some(1));
    }
}
