//! Which of a worker's sockets are ready.
//!
//! The runtime's own sockets can be used from any thread, which costs: two more system calls and a lock for each, a third of a
//! kilobyte, and they do not tell that the other end has finished before it is read. A worker's sockets stay on its
//! thread, so they are in an epoll instance of its own, which the runtime waits for as for any file.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Events taken from the kernel at once, before tasks get their turn.
const EVENTS: usize = 256;

/// What is known of a socket's state, of several things at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ready(u8);

impl Ready {
    /// There may be something to read.
    pub(super) const READABLE: Self = Self(1);
    /// There may be room to write.
    pub(super) const WRITABLE: Self = Self(2);
    /// The other end has finished sending: what can be read now is the last.
    pub(super) const ENDED: Self = Self(4);
    /// There is an error, which the next read tells.
    pub(super) const FAILED: Self = Self(8);
    /// There is urgent data, at which a read stops although more has come.
    pub(super) const URGENT: Self = Self(16);

    /// Both.
    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether anything of `other` is known.
    pub(super) const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    fn of(flags: epoll::EventFlags) -> Self {
        use epoll::EventFlags as Flags;
        let broken = Flags::ERR | Flags::HUP;
        let meanings = [
            (Flags::IN | Flags::RDHUP | broken, Self::READABLE),
            (Flags::OUT | broken, Self::WRITABLE),
            (Flags::RDHUP | Flags::HUP, Self::ENDED),
            (Flags::ERR, Self::FAILED),
            (Flags::PRI, Self::URGENT),
        ];
        let known = meanings.into_iter().filter(|(any, _)| flags.intersects(*any));
        known.fold(Self::default(), |all, (_, ready)| all.and(ready))
    }
}

/// The sockets of one worker. There are as many as the connections have, which `max_connections` bounds.
#[derive(Debug)]
pub(crate) struct Reactor {
    epoll: OwnedFd,
    slots: RefCell<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    entries: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct Slot {
    /// Counts up with each socket, so that an event of the one before is not taken for this one's.
    generation: u32,
    state: Option<Rc<State>>,
}

/// What is known of a socket, and whom to tell.
#[derive(Debug, Default)]
struct State {
    ready: Cell<Ready>,
    waker: RefCell<Option<Waker>>,
}

impl Reactor {
    /// Without sockets yet.
    ///
    /// # Errors
    /// When the kernel has no epoll instance to give.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, slots: RefCell::default() })
    }

    /// Wakes the tasks whose sockets have become ready, for as long as the worker runs.
    ///
    /// # Errors
    /// When the kernel cannot tell.
    pub(crate) async fn run(self: Rc<Self>) -> io::Result<()> {
        let epoll = self.epoll.try_clone()?;
        // SAFETY: an `OwnedFd` is one open descriptor until it is dropped, which `AsyncFd` does with itself.
        let runtime = unsafe { AsyncFd::register_with_interest(epoll, Interest::READABLE)? };
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let mut guard = runtime.readable().await?;
            if self.wake(&mut events)? < EVENTS {
                guard.clear_ready();
            } else {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Takes what the kernel has to tell now; answers how much that was.
    fn wake(&self, events: &mut Vec<epoll::Event>) -> io::Result<usize> {
        events.clear();
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        epoll::wait(&self.epoll, spare_capacity(events), Some(&at_once))?;
        let slots = self.slots.borrow();
        for event in &*events {
            // Copied, because the kernel's form is not aligned.
            let (data, flags) = (event.data, event.flags);
            let (index, generation) = unpack(data.u64());
            let slot = slots.entries.get(index as usize).filter(|slot| slot.generation == generation);
            let Some(state) = slot.and_then(|slot| slot.state.as_ref()) else { continue };
            state.ready.set(state.ready.get().and(Ready::of(flags)));
            if let Some(waker) = &*state.waker.borrow() {
                waker.wake_by_ref();
            }
        }
        Ok(events.len())
    }

    /// Has the kernel tell of a socket.
    pub(super) fn enter(self: &Rc<Self>, socket: BorrowedFd<'_>) -> io::Result<Registration> {
        let mut slots = self.slots.borrow_mut();
        let slots = &mut *slots;
        let index = match slots.free.pop() {
            Some(index) => index,
            None => {
                slots.entries.push(Slot::default());
                u32::try_from(slots.entries.len() - 1).map_err(io::Error::other)?
            }
        };
        let slot = &mut slots.entries[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        use epoll::EventFlags as Flags;
        let flags = Flags::IN | Flags::OUT | Flags::RDHUP | Flags::PRI | Flags::ET;
        let data = epoll::EventData::new_u64(pack(index, slot.generation));
        if let Err(error) = epoll::add(&self.epoll, socket, data, flags) {
            slots.free.push(index);
            return Err(error.into());
        }
        let state = Rc::new(State::default());
        slot.state = Some(Rc::clone(&state));
        Ok(Registration { state, index, reactor: Rc::clone(self) })
    }
}

const fn pack(index: u32, generation: u32) -> u64 {
    (generation as u64) << 32 | index as u64
}

#[expect(clippy::cast_possible_truncation, reason = "each half is what was packed")]
const fn unpack(data: u64) -> (u32, u32) {
    (data as u32, (data >> 32) as u32)
}

/// A socket's place in the reactor, given back when it is dropped. The kernel forgets a socket by itself when it is closed.
#[derive(Debug)]
pub(super) struct Registration {
    state: Rc<State>,
    index: u32,
    reactor: Rc<Reactor>,
}

impl Registration {
    /// What is known.
    pub(super) fn ready(&self) -> Ready {
        self.state.ready.get()
    }

    /// Forgets something until the kernel tells it again.
    pub(super) fn forget(&self, what: Ready) {
        self.state.ready.set(self.ready().without(what));
    }

    /// Waits until anything of `what` is known. One task waits at a time.
    pub(super) fn poll(&self, context: &Context<'_>, what: Ready) -> Poll<()> {
        if self.ready().has(what) {
            return Poll::Ready(());
        }
        self.watch(context);
        Poll::Pending
    }

    /// Has the task woken by whatever becomes known next.
    pub(super) fn watch(&self, context: &Context<'_>) {
        let mut waker = self.state.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|old| old.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut slots = self.reactor.slots.borrow_mut();
        slots.entries[self.index as usize].state = None;
        slots.free.push(self.index);
    }
}
