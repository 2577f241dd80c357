//! Which of a worker's sockets are ready.
//!
//! Each is told to the kernel once, for all that it may ever be asked, and the kernel tells changes (edges). What is known of
//! a socket stays known until a call says that it is so no more.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

/// Events taken from the kernel at once, before tasks get their turn.
const EVENTS: usize = 256;

/// What stands for the bell where else a socket's place is: no place has this number.
const BELL: u64 = u64::MAX;

/// What is known of a socket's state, of several things at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ready(u8);

impl Ready {
    /// There may be something to read.
    pub(crate) const READABLE: Self = Self(1);
    /// There may be room to write.
    pub(crate) const WRITABLE: Self = Self(2);
    /// The other end has finished sending: what can be read now is the last.
    pub(crate) const ENDED: Self = Self(4);
    /// There is an error, which the next read tells.
    pub(crate) const FAILED: Self = Self(8);
    /// There is urgent data, at which a read stops although more has come.
    pub(crate) const URGENT: Self = Self(16);

    /// Both.
    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether anything of `other` is known.
    pub(crate) const fn has(self, other: Self) -> bool {
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

/// What the kernel is to tell of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    /// All there is to know of a connection.
    Connection,
    /// Whether there is something to read.
    Reading,
}

impl Interest {
    fn flags(self) -> epoll::EventFlags {
        use epoll::EventFlags as Flags;
        match self {
            Self::Connection => Flags::IN | Flags::OUT | Flags::RDHUP | Flags::PRI | Flags::ET,
            Self::Reading => Flags::IN | Flags::ET,
        }
    }
}

/// The sockets of one worker. There are as many as the connections have, which `max_connections` bounds.
pub(crate) struct Reactor {
    epoll: OwnedFd,
    slots: RefCell<Slots>,
    events: RefCell<Vec<epoll::Event>>,
    rounds: Cell<u64>,
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
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self {
            epoll,
            slots: RefCell::default(),
            events: RefCell::new(Vec::with_capacity(EVENTS)),
            rounds: Cell::new(0),
        })
    }

    /// Has [`Self::wait`] tell when there is a call from another thread: when `bell` becomes readable, however often.
    ///
    /// # Errors
    /// When the kernel cannot watch it.
    pub(super) fn watch_bell(&self, bell: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, bell, epoll::EventData::new_u64(BELL), Interest::Reading.flags())?)
    }

    /// Waits for events, at most so long, and wakes the tasks whose sockets they are about. Answers whether the bell rang.
    ///
    /// # Errors
    /// When the kernel cannot tell.
    pub(super) fn wait(&self, time_max: Option<Duration>) -> io::Result<bool> {
        let mut events = self.events.borrow_mut();
        events.clear();
        // Longer than the kernel can say is as good as for ever.
        let time_max = time_max.and_then(|time| Timespec::try_from(time).ok());
        let waited = epoll::wait(&self.epoll, spare_capacity(&mut events), time_max.as_ref());
        match waited {
            // What has found no room is told with the next call.
            Ok(_) if events.len() < EVENTS => self.rounds.set(self.rounds.get() + 1),
            // As when the process was stopped and goes on.
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let slots = self.slots.borrow();
        let mut bell = false;
        for event in &*events {
            // Copied, because the kernel's form is not aligned.
            let (data, flags) = (event.data.u64(), event.flags);
            if data == BELL {
                bell = true;
                continue;
            }
            let (index, generation) = unpack(data);
            let slot = slots.entries.get(index as usize).filter(|slot| slot.generation == generation);
            let Some(state) = slot.and_then(|slot| slot.state.as_ref()) else { continue };
            state.ready.set(state.ready.get().and(Ready::of(flags)));
            if let Some(waker) = &*state.waker.borrow() {
                waker.wake_by_ref();
            }
        }
        Ok(bell)
    }

    /// How often the kernel has told of all sockets of which there was something to tell.
    pub(crate) fn rounds(&self) -> u64 {
        self.rounds.get()
    }

    /// Has the kernel tell of a socket.
    ///
    /// # Errors
    /// When the kernel cannot watch it.
    pub(crate) fn enter(
        self: &Rc<Self>,
        socket: BorrowedFd<'_>,
        interest: Interest,
    ) -> io::Result<Registration> {
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
        let data = epoll::EventData::new_u64(pack(index, slot.generation));
        if let Err(error) = epoll::add(&self.epoll, socket, data, interest.flags()) {
            slots.free.push(index);
            return Err(error.into());
        }
        let state = Rc::new(State::default());
        slot.state = Some(Rc::clone(&state));
        Ok(Registration { state, index, reactor: Rc::clone(self) })
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor").field("epoll", &self.epoll).finish_non_exhaustive()
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
pub(crate) struct Registration {
    state: Rc<State>,
    index: u32,
    reactor: Rc<Reactor>,
}

impl Registration {
    /// What is known.
    pub(crate) fn ready(&self) -> Ready {
        self.state.ready.get()
    }

    /// Forgets something until the kernel tells it again.
    pub(crate) fn forget(&self, what: Ready) {
        self.state.ready.set(self.ready().without(what));
    }

    /// Waits until anything of `what` is known. One task waits at a time.
    pub(crate) fn poll(&self, context: &Context<'_>, what: Ready) -> Poll<()> {
        if self.ready().has(what) {
            return Poll::Ready(());
        }
        self.watch(context);
        Poll::Pending
    }

    /// Has the task woken by whatever becomes known next.
    pub(crate) fn watch(&self, context: &Context<'_>) {
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
