//! Hooks waiting for their turn.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::ipc::Role;
use serde::Serialize;

/// Hooks waiting at most, or one for each instance if there are more instances. At the bound a change of role is
/// dropped if a later one of the same instance waits behind it.
pub const QUEUE_MAX: usize = 64;

/// One hook to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) program: Vec<String>,
    pub(super) timeout: Duration,
    pub(super) instance: String,
    pub(super) role: Role,
    pub(super) previous: Role,
    pub(super) node: String,
    pub(super) fence: u64,
    pub(super) vips: String,
}

/// What happened to the hooks since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HookCounts {
    /// Ended with status 0.
    pub succeeded: u64,
    /// Could not be started, or ended with another status.
    pub failed: u64,
    /// Were killed because they took too long.
    pub timed_out: u64,
    /// Were never started because a later change of the same instance made them moot.
    pub superseded: u64,
}

/// How a hook ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Succeeded,
    Failed,
    TimedOut,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Job>,
    running: bool,
    closed: bool,
    kill: bool,
    counts: HookCounts,
}

/// The queue between the event thread and the thread that runs hooks.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

impl Queue {
    /// Queues a job. A job without a program only matters for what the next one is told as the previous role.
    pub(super) fn push(&self, job: Job) {
        let mut state = self.state();
        if state.closed || job.program.is_empty() {
            return;
        }
        state.waiting.push_back(job);
        if state.waiting.len() > QUEUE_MAX {
            drop_superseded(&mut state);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The next job, as soon as there is one; `None` once the queue is closed and empty.
    pub(super) fn next(&self) -> Option<Job> {
        let mut state = self.state();
        loop {
            if let Some(job) = state.waiting.pop_front() {
                state.running = true;
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Notes how the running job ended.
    pub(super) fn done(&self, outcome: Outcome) {
        let mut state = self.state();
        state.running = false;
        match outcome {
            Outcome::Succeeded => state.counts.succeeded += 1,
            Outcome::Failed => state.counts.failed += 1,
            Outcome::TimedOut => state.counts.timed_out += 1,
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Whether the running job shall be killed now.
    pub(super) fn must_kill(&self) -> bool {
        self.state().kill
    }

    pub(super) fn counts(&self) -> HookCounts {
        self.state().counts
    }

    /// Takes no more jobs; those that wait are still run.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// Closes, and waits until `deadline` for everything to have run. Then kills; `false` if that was needed.
    pub(super) fn finish(&self, deadline: Instant) -> bool {
        self.close();
        let mut state = self.state();
        while state.running || !state.waiting.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.kill = true;
                state.waiting.clear();
                // The runner looks every few milliseconds; it must have reaped the hook before the daemon ends.
                let grace = Duration::from_secs(1);
                let while_running = |state: &mut State| state.running;
                drop(self.changed.wait_timeout_while(state, grace, while_running));
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Consistent after every statement that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops the oldest job that has a later one of its instance behind it; that one is then told the older previous role.
fn drop_superseded(state: &mut State) {
    let later = |index: usize, job: &Job| {
        state.waiting.iter().skip(index + 1).position(|other| other.instance == job.instance)
    };
    let found = state
        .waiting
        .iter()
        .enumerate()
        .find_map(|(index, job)| later(index, job).map(|offset| (index, offset)));
    let Some((index, offset)) = found else { return };
    if let Some(dropped) = state.waiting.remove(index) {
        // `offset` counts from the element after the dropped one, which is at `index` now.
        state.waiting[index + offset].previous = dropped.previous;
        state.counts.superseded += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(instance: usize, previous: Role, role: Role) -> Job {
        Job {
            program: vec!["true".to_owned()],
            timeout: Duration::from_secs(1),
            instance: instance.to_string(),
            role,
            previous,
            node: "a".to_owned(),
            fence: 1,
            vips: String::new(),
        }
    }

    #[test]
    fn the_newest_change_of_each_instance_survives_the_bound() {
        let queue = Queue::default();
        queue.push(job(1, Role::Init, Role::Backup));
        for _ in 0..QUEUE_MAX {
            queue.push(job(0, Role::Backup, Role::Active));
        }
        queue.push(job(0, Role::Active, Role::Fault));
        assert_eq!(queue.counts().superseded, 2);
        assert_eq!(queue.next().unwrap().instance, "1");
        let rest: Vec<_> = (1..QUEUE_MAX).map(|_| queue.next().unwrap()).collect();
        assert_eq!(rest.last().unwrap().role, Role::Fault);
        assert_eq!(rest[0].previous, Role::Backup);
    }

    #[test]
    fn more_instances_than_the_bound_all_get_their_turn() {
        let queue = Queue::default();
        for instance in 0..QUEUE_MAX * 2 {
            queue.push(job(instance, Role::Backup, Role::Active));
        }
        queue.push(job(0, Role::Active, Role::Backup));
        assert_eq!(queue.counts().superseded, 1);
        queue.close();
        let seen: Vec<_> = std::iter::from_fn(|| queue.next()).collect();
        assert_eq!(seen.len(), QUEUE_MAX * 2);
        assert_eq!(seen.last().unwrap().previous, Role::Backup);
    }
}
