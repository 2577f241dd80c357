//! What ends a wait of a client's connection besides what it waits for: time, a drain, the daemon's stop.
//!
//! A sweep instead of a timer for each wait, as in [`crate::l4::Connections`]: a request sets a few times when something is
//! due, and hardly ever is it. Twice a second each connection is looked at, so waits are exact to half a second.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::l4::{Closing, Leave, Pool};

/// Into how many slices a sweep is cut; there is one with each tick of 20 ms.
const SLICES: usize = 25;

/// How long a connection without a request goes on while the daemon stops: a request that is on its way is still served.
const STOPPING_MS: u64 = 1000;

/// Not due.
const NEVER: u64 = u64::MAX;

/// The connections of one worker. Bounded by the services' `max_connections`.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    slots: RefCell<Slots>,
    now_ms: Cell<u64>,
}

#[derive(Debug, Default)]
struct Slots {
    entries: Vec<Option<Rc<State>>>,
    free: Vec<usize>,
    next: usize,
}

/// Why a wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The time that was set has come.
    Due,
    /// The target or the virtual IP left, and `drain_timeout` has passed.
    Drained,
    /// The daemon stops.
    Stopped,
}

#[derive(Debug)]
struct State {
    due_ms: Cell<u64>,
    /// Since when there is no request; [`NEVER`] while there is one.
    free_since_ms: Cell<u64>,
    leave: Option<Leave>,
    /// Whether to wake the task when it is time to begin nothing new.
    early: Cell<bool>,
    /// The target that serves a request, and since when.
    target: RefCell<Option<(Place, u64)>>,
    end: Cell<Option<Why>>,
    waker: RefCell<Option<Waker>>,
}

/// A target, by its group and its place there: what counts its own holders is all workers', and so dear.
type Place = (Rc<Pool>, usize);

/// A connection's place in the table; dropping it frees the place.
#[derive(Debug)]
pub(super) struct Watch {
    table: Rc<Watches>,
    index: usize,
    state: Rc<State>,
}

impl Watches {
    /// Enters a connection.
    pub(super) fn enter(self: &Rc<Self>, leave: Option<Leave>) -> Watch {
        let state = Rc::new(State {
            due_ms: Cell::new(NEVER),
            free_since_ms: Cell::new(NEVER),
            leave,
            early: Cell::new(false),
            target: RefCell::new(None),
            end: Cell::new(None),
            waker: RefCell::new(None),
        });
        let mut slots = self.slots.borrow_mut();
        let index = slots.free.pop().unwrap_or_else(|| {
            slots.entries.push(None);
            slots.entries.len() - 1
        });
        slots.entries[index] = Some(Rc::clone(&state));
        Watch { table: Rc::clone(self), index, state }
    }

    /// Takes the time and looks at the next slice of the table.
    pub(crate) fn tick(&self, now_ms: u64, stopping: bool) {
        self.now_ms.set(now_ms);
        let mut slots = self.slots.borrow_mut();
        let count = slots.entries.len();
        for _ in 0..count.div_ceil(SLICES) {
            if slots.next >= count {
                slots.next = 0;
            }
            if let Some(state) = &slots.entries[slots.next] {
                state.sweep(now_ms, stopping);
            }
            slots.next += 1;
        }
    }

    /// Has waits of connections end.
    pub(crate) fn close(&self, closing: Closing) {
        let slots = self.slots.borrow();
        let closed = slots.entries.iter().flatten().filter(|it| closing.is_for(it.leave.as_ref()));
        closed.for_each(|state| state.end(Why::Stopped));
    }
}

impl State {
    fn sweep(&self, now_ms: u64, stopping: bool) {
        let away = self.leave.as_ref().is_some_and(Leave::is_away);
        if (stopping || away) && self.early.replace(false) {
            self.wake();
        }
        if (away && self.is_past(now_ms)) || self.has_target_left(now_ms) {
            self.end(Why::Drained);
        } else if stopping && self.free_since_ms.get().saturating_add(STOPPING_MS) <= now_ms {
            self.end(Why::Stopped);
        } else if self.due_ms.get() <= now_ms {
            self.wake();
        }
    }

    /// Whether its virtual IP has left for so long that it ends. A request goes on as long as the group says that serves it, also one that
    /// began only after that.
    fn is_past(&self, now_ms: u64) -> bool {
        self.leave.as_ref().is_some_and(|leave| match &*self.target.borrow() {
            None => leave.is_due(now_ms),
            Some(((pool, _), since_ms)) => {
                leave.is_due_for(now_ms, *since_ms, pool.group.config.drain_timeout)
            }
        })
    }

    fn has_target_left(&self, now_ms: u64) -> bool {
        let closes = |((pool, index), _): &(Place, u64)| pool.group.targets[*index].close_at_ms() <= now_ms;
        self.target.borrow().as_ref().is_some_and(closes)
    }

    fn end(&self, why: Why) {
        self.end.set(Some(why));
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

impl Watch {
    /// Waits may take so long from now on.
    pub(super) fn limit(&self, time: Duration) {
        // As `as_millis`, but for the 128 bits that no time here needs; for ever stays that.
        let ms = time.as_secs().saturating_mul(1000).saturating_add(time.subsec_millis().into());
        self.state.due_ms.set(self.table.now_ms.get().saturating_add(ms));
    }

    /// Has the task woken once, too, when the daemon begins to stop or the virtual IP has left.
    pub(super) fn tell_leaving(&self) {
        self.state.early.set(true);
    }

    /// There is no request.
    pub(super) fn set_free(&self) {
        self.state.free_since_ms.set(self.table.now_ms.get());
    }

    /// There is a request.
    pub(super) fn set_busy(&self) {
        self.state.free_since_ms.set(NEVER);
    }

    /// The request's target, for as long as it serves it.
    pub(super) fn set_target(&self, target: Option<Place>) {
        let now_ms = self.table.now_ms.get();
        *self.state.target.borrow_mut() = target.map(|place| (place, now_ms));
    }

    /// Why the wait is over, if it is; else the task is woken when it is.
    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<Why> {
        if let Some(why) = self.state.end.get() {
            return Poll::Ready(why);
        }
        if self.state.due_ms.get() <= self.table.now_ms.get() {
            return Poll::Ready(Why::Due);
        }
        let mut waker = self.state.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|old| old.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// Waits for `future`, but not longer than may be.
    ///
    /// # Errors
    /// Why not.
    pub(super) async fn wait<T>(&self, future: impl Future<Output = T>) -> Result<T, Why> {
        let mut future = pin!(future);
        poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.poll(context).map(Err),
        })
        .await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut slots = self.table.slots.borrow_mut();
        slots.entries[self.index] = None;
        slots.free.push(self.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l4::Departures;

    fn sweep(watches: &Watches, now_ms: u64, stopping: bool) {
        // Each slice once.
        for _ in 0..SLICES {
            watches.tick(now_ms, stopping);
        }
    }

    fn state(watch: &Watch) -> Poll<Why> {
        watch.poll(&Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_wait_is_over_when_it_is_due() {
        let watches: Rc<Watches> = Rc::default();
        sweep(&watches, 1000, false);
        let watch = watches.enter(None);
        assert_eq!(state(&watch), Poll::Pending);
        watch.limit(Duration::from_millis(500));
        sweep(&watches, 1499, false);
        assert_eq!(state(&watch), Poll::Pending);
        sweep(&watches, 1500, false);
        assert_eq!(state(&watch), Poll::Ready(Why::Due));
        watch.limit(Duration::MAX);
        assert_eq!(state(&watch), Poll::Pending, "it begins anew");
    }

    #[test]
    fn a_stop_ends_those_without_a_request_first() {
        let watches: Rc<Watches> = Rc::default();
        let (free, busy) = (watches.enter(None), watches.enter(None));
        sweep(&watches, 1000, false);
        free.set_free();
        busy.set_free();
        busy.set_busy();
        sweep(&watches, 1000 + STOPPING_MS, false);
        assert_eq!([state(&free), state(&busy)], [Poll::Pending; 2]);
        sweep(&watches, 1000 + STOPPING_MS, true);
        assert_eq!([state(&free), state(&busy)], [Poll::Ready(Why::Stopped), Poll::Pending]);
        watches.close(Closing::All);
        assert_eq!(state(&busy), Poll::Ready(Why::Stopped));
    }

    #[test]
    fn a_stop_ends_those_last_whose_virtual_ip_has_left() {
        let (watches, departures) = (Rc::<Watches>::default(), Departures::default());
        let enter = |name| {
            let departure = Rc::new(departures.of(name));
            watches.enter(Some(Leave::new(departure, 0, Duration::from_secs(10))))
        };
        let (east, west, own) = (enter("east"), enter("west"), watches.enter(None));
        departures.of("east").set(Some(1000));
        watches.close(Closing::Here);
        let stopped = Poll::Ready(Why::Stopped);
        assert_eq!([&east, &west, &own].map(state), [Poll::Pending, stopped, stopped]);
        watches.close(Closing::All);
        assert_eq!(state(&east), stopped);
    }

    #[test]
    fn a_place_is_used_again() {
        let watches: Rc<Watches> = Rc::default();
        let first = watches.enter(None);
        watches.close(Closing::All);
        drop(first);
        let second = watches.enter(None);
        assert_eq!((second.index, state(&second)), (0, Poll::Pending));
    }
}
