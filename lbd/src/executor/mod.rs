//! What a worker's tasks run on: one thread, one epoll instance, and nothing shared on the way of a request.
//!
//! Rounds: every task that has something to do gets one turn, in the order in which they were woken. When none has any
//! more, or after [`LOOK_AFTER`], the kernel is asked what else has become ready, without waiting if a task wants another
//! turn, else until the next timer. So a wake-up costs one system call however many sockets it is about, and neither a busy
//! task nor a flood of events keeps the others from their turns.
//!
//! A general runtime lets any thread use its sockets, timers and tasks. That costs locks, a second epoll instance for
//! sockets that only the worker uses, and so a second system call with each wake-up. Tokio's channels, `Notify` and
//! `select!` ask nothing of the runtime, and are used here as everywhere.

mod reactor;
mod tasks;
mod timers;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_task::Task;
use pin_project_lite::pin_project;
use slab::Slab;

pub(crate) use reactor::{Interest, Reactor, Ready, Registration};
use tasks::Inbox;
pub(crate) use timers::Sleep;
use timers::Timers;

/// For so long tasks that want one turn after the other have them before the sockets and timers are looked at again. Such
/// tasks move bulk, and more of it comes in meanwhile, to be moved at once; a request that comes in meanwhile waits.
const LOOK_AFTER: Duration = Duration::from_micros(500);

/// From this size on a future has a place of its own in memory. [`async_task`] would give it one, too, but later.
const LARGE_BYTES: usize = 2048;

/// The executor of one worker.
#[derive(Debug)]
pub(crate) struct Executor {
    reactor: Rc<Reactor>,
    timers: RefCell<Timers>,
    inbox: Arc<Inbox>,
    /// The unfinished tasks. As many as there are connections, listeners and sessions, which are bounded each.
    tasks: RefCell<Slab<Task<()>>>,
    /// The tasks are being dropped, and no more begin.
    closing: Cell<bool>,
}

impl Executor {
    /// Without tasks yet.
    ///
    /// # Errors
    /// When the kernel has no epoll instance or event counter to give.
    pub(crate) fn new() -> io::Result<Self> {
        let reactor = Rc::new(Reactor::new()?);
        let inbox = Arc::new(Inbox::new()?);
        reactor.watch_bell(inbox.bell())?;
        Ok(Self {
            reactor,
            timers: RefCell::default(),
            inbox,
            tasks: RefCell::default(),
            closing: Cell::new(false),
        })
    }

    /// Its sockets.
    pub(crate) const fn reactor(&self) -> &Rc<Reactor> {
        &self.reactor
    }

    /// Runs `main` and all tasks until `main` has ended; the tasks that are left are then dropped.
    ///
    /// # Errors
    /// When the kernel does not tell which sockets are ready.
    pub(crate) fn run(self: &Rc<Self>, main: impl Future<Output = ()> + 'static) -> io::Result<()> {
        let _here = tasks::Here::enter(&self.inbox);
        // Behind `_here`, so that it is dropped first, while what it wakes still finds its queue.
        let _cancel = CancelAll(self);
        let ended = Rc::new(Cell::new(false));
        let end = SetOnDrop(Rc::clone(&ended));
        self.spawn(async move {
            // Also if it panics.
            let _end = end;
            main.await;
        });
        let mut looked = Instant::now();
        loop {
            let again = loop {
                let again = tasks::run_round();
                if !again || ended.get() || looked.elapsed() >= LOOK_AFTER {
                    break again;
                }
            };
            if ended.get() {
                return Ok(());
            }
            let wait = if again { Some(Duration::ZERO) } else { self.until_next_timer() };
            if self.reactor.wait(wait)? {
                self.inbox.take();
            }
            looked = Instant::now();
            self.fire_timers(looked);
        }
    }

    /// Starts a task; it gets its first turn in the next round.
    pub(crate) fn spawn<F: Future<Output = ()> + 'static>(self: &Rc<Self>, future: F) {
        if self.closing.get() {
            return;
        }
        // Moving a future copies all of it, however little it holds yet, and below it is moved several times.
        if size_of::<F>() < LARGE_BYTES {
            self.start(future);
        } else {
            self.start(Box::pin(future));
        }
    }

    fn start(self: &Rc<Self>, future: impl Future<Output = ()> + 'static) {
        let mut tasks = self.tasks.borrow_mut();
        let place = tasks.vacant_entry();
        let ended = Ended { executor: Rc::clone(self), key: place.key() };
        let inbox = Arc::clone(&self.inbox);
        let (runnable, task) =
            async_task::spawn_local(Spawned { future, ended }, move |runnable| inbox.schedule(runnable));
        place.insert(task);
        drop(tasks);
        runnable.schedule();
    }

    /// Waits for so long, to the millisecond; never shorter.
    pub(crate) fn sleep(self: &Rc<Self>, time: Duration) -> Sleep {
        Sleep::new(Rc::clone(self), Instant::now() + time)
    }

    /// What `future` says, or `None` if it takes longer than `limit`.
    pub(crate) async fn timeout<T>(
        self: &Rc<Self>,
        limit: Duration,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        let mut future = pin!(future);
        let mut sleep = self.sleep(limit);
        poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => Pin::new(&mut sleep).poll(context).map(|()| None),
        })
        .await
    }

    fn until_next_timer(&self) -> Option<Duration> {
        self.timers.borrow().next().map(|at| at.saturating_duration_since(Instant::now()))
    }

    fn fire_timers(&self, now: Instant) {
        loop {
            let due = self.timers.borrow_mut().take_due(now);
            match due {
                Some(waker) => waker.wake(),
                None => return,
            }
        }
    }
}

/// Lets the tasks that have something to do have their turn first, and the sockets be looked at.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

pin_project! {
    /// A task's future. An async block around it would take its size twice: once to hold it, once to wait for it.
    struct Spawned<F> {
        #[pin]
        future: F,
        // Behind the future, so that it is dropped last.
        ended: Ended,
    }
}

impl<F: Future<Output = ()>> Future for Spawned<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.project().future.poll(context)
    }
}

/// Takes a task out of the table when its future is dropped, finished or not.
struct Ended {
    executor: Rc<Executor>,
    key: usize,
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(task) = self.executor.tasks.borrow_mut().try_remove(self.key) {
            task.detach();
        }
    }
}

struct SetOnDrop(Rc<Cell<bool>>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

/// Drops all tasks when it is dropped.
struct CancelAll<'a>(&'a Executor);

impl Drop for CancelAll<'_> {
    fn drop(&mut self) {
        self.0.closing.set(true);
        let tasks = std::mem::take(&mut *self.0.tasks.borrow_mut());
        // Dropping its handle cancels a task and schedules it, for its future to be dropped.
        drop(tasks);
        self.0.inbox.take();
        tasks::drop_all();
    }
}

#[cfg(test)]
mod tests;
