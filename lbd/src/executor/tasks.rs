//! Which tasks have something to do: a queue of the thread, and an inbox for what other threads wake.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_task::Runnable;
use rustix::event::{EventfdFlags, eventfd};

thread_local! {
    /// The queue of the executor that runs on this thread. Each task is in it at most once.
    static READY: ReadyQueue = const { ReadyQueue { owner: Cell::new(ptr::null()), tasks: RefCell::new(VecDeque::new()) } };
}

struct ReadyQueue {
    /// The inbox of the executor, to know its tasks by.
    owner: Cell<*const Inbox>,
    tasks: RefCell<VecDeque<Runnable>>,
}

/// The tasks of one executor that other threads have woken. Each task is in it at most once.
#[derive(Debug)]
pub(super) struct Inbox {
    tasks: Mutex<Vec<Runnable>>,
    /// Written to when something comes into the empty inbox.
    bell: OwnedFd,
}

impl Inbox {
    pub(super) fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { tasks: Mutex::default(), bell })
    }

    /// What becomes readable each time the inbox is to be taken. Nobody has to read it: edges are told.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Has a task get its turn, from whichever thread.
    pub(super) fn schedule(self: &Arc<Self>, runnable: Runnable) {
        let mut runnable = Some(runnable);
        // It fails only while the thread ends, which is then not the executor's any more.
        READY
            .try_with(|ready| {
                if ready.owner.get() == Arc::as_ptr(self) {
                    ready.tasks.borrow_mut().extend(runnable.take());
                }
            })
            .ok();
        if let Some(runnable) = runnable {
            self.send(runnable);
        }
    }

    fn send(&self, runnable: Runnable) {
        let mut tasks = self.tasks();
        tasks.push(runnable);
        if tasks.len() == 1 {
            // The counter would be full after 2^64 times.
            rustix::io::write(&self.bell, &1_u64.to_ne_bytes()).ok();
        }
    }

    /// Moves what other threads have woken to the queue of this thread, which is the executor's.
    pub(super) fn take(&self) {
        let tasks = std::mem::take(&mut *self.tasks());
        READY.with(|ready| ready.tasks.borrow_mut().extend(tasks));
    }

    fn tasks(&self) -> MutexGuard<'_, Vec<Runnable>> {
        // Each change is one push or the taking of all.
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the thread's queue an executor's until dropped.
pub(super) struct Here(*const Inbox);

impl Here {
    pub(super) fn enter(inbox: &Arc<Inbox>) -> Self {
        Self(READY.with(|ready| ready.owner.replace(Arc::as_ptr(inbox))))
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        READY.with(|ready| ready.owner.set(self.0));
    }
}

/// Gives each task in the queue a turn. Answers whether there are tasks in it again.
pub(super) fn run_round() -> bool {
    let mut round = READY.with(|ready| ready.tasks.take());
    for runnable in round.drain(..) {
        // A task that panics ends, and the others go on; the panic is in the log.
        catch_unwind(AssertUnwindSafe(|| runnable.run())).ok();
    }
    READY.with(|ready| {
        let mut tasks = ready.tasks.borrow_mut();
        if tasks.is_empty() {
            // The room is used again.
            *tasks = round;
            return false;
        }
        true
    })
}

/// Drops the tasks in the queue, which cancels them, and those that are woken by that.
pub(super) fn drop_all() {
    loop {
        let tasks = READY.with(|ready| ready.tasks.take());
        if tasks.is_empty() {
            return;
        }
    }
}
