//! The connections of a worker, and the sweep that closes those whose time has come.
//!
//! A sweep instead of a timer for each connection: moving a byte then costs no timer, and an idle connection no wake-up.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::End;
use super::departures::{Closing, Leave};
use crate::snapshot::Target;

/// Into how many slices a sweep over the whole table is cut. With a slice for each tick of 20 ms every connection is
/// looked at twice a second.
const SLICES: usize = 25;

/// A connection without a byte for so long is silent: what only long ones need is then set up.
const SILENT_MS: u64 = 500;

/// Whether a connection has ever been silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    /// Not yet.
    Unseen,
    /// It is now, and its task does not know yet.
    Seen,
    /// Its task knows.
    Told,
}

/// The open connections of one worker. Bounded by the services' `max_connections`.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    slots: RefCell<Slots>,
    now_ms: Cell<u64>,
}

#[derive(Debug, Default)]
struct Slots {
    entries: Vec<Option<Rc<Control>>>,
    free: Vec<usize>,
    next: usize,
}

/// What the sweep and a connection's task tell each other.
#[derive(Debug)]
pub(crate) struct Control {
    target: Arc<Target>,
    leave: Option<Leave>,
    idle_ms: u64,
    active_ms: Cell<u64>,
    verdict: Cell<Option<End>>,
    silence: Cell<Silence>,
    answered: Cell<Option<Instant>>,
    waker: RefCell<Option<Waker>>,
}

impl Control {
    /// A byte has moved.
    pub(crate) fn touch(&self, now_ms: u64) {
        self.active_ms.set(now_ms);
    }

    /// Why the connection is to be closed, if it is.
    pub(crate) fn verdict(&self) -> Option<End> {
        self.verdict.get()
    }

    /// The target has sent something: it is alive, whatever its earlier connections were like.
    pub(crate) fn set_answered(&self) {
        if self.answered.get().is_none() {
            self.answered.set(Some(Instant::now()));
            self.target.report_success();
        }
    }

    /// When the target sent something for the first time.
    pub(crate) fn answered(&self) -> Option<Instant> {
        self.answered.get()
    }

    /// Whether the connection has just been found silent for the first time.
    pub(crate) fn take_silence(&self) -> bool {
        let seen = self.silence.get() == Silence::Seen;
        if seen {
            self.silence.set(Silence::Told);
        }
        seen
    }

    /// Has the sweep wake this task.
    pub(crate) fn register(&self, waker: &Waker) {
        let mut registered = self.waker.borrow_mut();
        if !registered.as_ref().is_some_and(|old| old.will_wake(waker)) {
            *registered = Some(waker.clone());
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    fn close(&self, end: End) {
        self.verdict.set(Some(end));
        self.wake();
    }

    fn sweep(&self, now_ms: u64) {
        let silent_ms = now_ms.saturating_sub(self.active_ms.get());
        let left = self.leave.as_ref().is_some_and(|leave| leave.is_due(now_ms));
        if left || self.target.close_at_ms() <= now_ms {
            self.close(End::Drained);
        } else if silent_ms >= self.idle_ms {
            self.close(End::Idle);
        } else if silent_ms >= SILENT_MS && self.silence.get() == Silence::Unseen {
            self.silence.set(Silence::Seen);
            self.wake();
        }
    }
}

/// A connection's place in the table; dropping it frees the place.
#[derive(Debug)]
pub(crate) struct Entry {
    table: Rc<Connections>,
    index: usize,
    /// The connection's end of the table.
    pub(crate) control: Rc<Control>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut slots = self.table.slots.borrow_mut();
        slots.entries[self.index] = None;
        slots.free.push(self.index);
    }
}

impl Connections {
    /// The time of the last tick, which is exact enough for `timeout.idle`.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    /// Enters a connection to `target` that may be silent for `idle_ms`.
    pub(crate) fn enter(self: &Rc<Self>, target: Arc<Target>, leave: Option<Leave>, idle_ms: u64) -> Entry {
        let control = Rc::new(Control {
            target,
            leave,
            idle_ms,
            active_ms: Cell::new(self.now_ms()),
            verdict: Cell::new(None),
            silence: Cell::new(Silence::Unseen),
            answered: Cell::new(None),
            waker: RefCell::new(None),
        });
        let mut slots = self.slots.borrow_mut();
        let index = slots.free.pop().unwrap_or_else(|| {
            slots.entries.push(None);
            slots.entries.len() - 1
        });
        slots.entries[index] = Some(Rc::clone(&control));
        Entry { table: Rc::clone(self), index, control }
    }

    /// Takes the time and looks at the next slice of the table.
    pub(crate) fn tick(&self, now_ms: u64) {
        self.now_ms.set(now_ms);
        let mut slots = self.slots.borrow_mut();
        let count = slots.entries.len();
        for _ in 0..count.div_ceil(SLICES) {
            if slots.next >= count {
                slots.next = 0;
            }
            if let Some(control) = &slots.entries[slots.next] {
                control.sweep(now_ms);
            }
            slots.next += 1;
        }
    }

    /// Has connections closed.
    pub(crate) fn close(&self, closing: Closing, end: End) {
        let slots = self.slots.borrow();
        let closed = slots.entries.iter().flatten().filter(|it| closing.is_for(it.leave.as_ref()));
        closed.for_each(|control| control.close(end));
    }
}
