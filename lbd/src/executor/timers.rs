//! When tasks are to be woken for no other reason than the time.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::Executor;

/// What is waited for, the next first. A task waits for a few times at most.
#[derive(Debug, Default)]
pub(super) struct Timers {
    waiting: BTreeMap<Key, Waker>,
    /// Tells those of the same time apart.
    number: u64,
}

type Key = (Instant, u64);

impl Timers {
    /// The earliest time.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|(&(at, _), _)| at)
    }

    /// Takes one whose time has come.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Waker> {
        let first = self.waiting.first_entry().filter(|first| first.key().0 <= now)?;
        Some(first.remove())
    }

    fn enter(&mut self, at: Instant, waker: &Waker) -> Key {
        let key = (at, self.number);
        self.number += 1;
        self.waiting.insert(key, waker.clone());
        key
    }
}

/// Done when its time has come.
pub(crate) struct Sleep {
    executor: Rc<Executor>,
    at: Instant,
    /// Its place among the timers, once it has been waited for.
    key: Option<Key>,
}

impl Sleep {
    pub(super) const fn new(executor: Rc<Executor>, at: Instant) -> Self {
        Self { executor, at, key: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut timers = this.executor.timers.borrow_mut();
        let Some(key) = this.key else {
            // Often what is waited for beside it comes first: then it has cost no look at the clock.
            if this.at <= Instant::now() {
                return Poll::Ready(());
            }
            this.key = Some(timers.enter(this.at, context.waker()));
            return Poll::Pending;
        };
        // It has been taken out when its time had come.
        let Some(waker) = timers.waiting.get_mut(&key) else { return Poll::Ready(()) };
        waker.clone_from(context.waker());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            self.executor.timers.borrow_mut().waiting.remove(key);
        }
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("at", &self.at).finish_non_exhaustive()
    }
}
