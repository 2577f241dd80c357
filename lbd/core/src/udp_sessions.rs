//! The UDP sessions of one listening socket: which datagram belongs to which, which is to move to another target, and
//! which has ended.
//!
//! UDP has no connections, so a session is what makes the datagrams of one client stay with one target: it begins with the
//! first datagram of a 5-tuple and ends when none has passed either way for the service's idle time. It moves to
//! another target with the next datagram once its target is gone: a client that keeps sending from one port must
//! not go on speaking to a dead target for as long as it keeps sending.
//!
//! The table takes what is known of the targets and the time, and says what to do; it holds for each session whatever the
//! caller needs to carry it out.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};

#[cfg(test)]
mod tests;

/// Into how many slices a sweep over the whole table is cut.
pub const SLICES: usize = 10;

/// What tells one session from another on a listening socket, whose protocol and port are the rest of the 5-tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Where the client sends from.
    pub client: SocketAddr,
    /// The address of ours that it sends to; a socket may listen on all.
    pub local: IpAddr,
}

/// A session's place in the table. Never that of another session later on, so an old one finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    index: u32,
    generation: u32,
}

impl SessionId {
    /// As a number that the kernel can keep beside a socket.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }

    /// From that number.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "each half is taken apart as it was put in")]
    pub const fn from_bits(bits: u64) -> Self {
        Self { index: bits as u32, generation: (bits >> 32) as u32 }
    }
}

/// How the target of a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It serves the sessions it has, whether or not it takes new ones.
    Serves,
    /// It serves them until this time, in milliseconds.
    Until(u64),
    /// It is not to get anything any more.
    Gone,
}

/// What is to be done with a datagram from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Send it to the session's target.
    Forward(SessionId),
    /// Find the session another target first, then send it there.
    Move(SessionId),
    /// There is no session yet.
    New,
}

common::named! {
    /// Why a session ended.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum SessionEnd {
        /// No datagram passed for the idle time.
        Idle => "idle",
        /// Its target was draining, or its virtual IP has left, and its time has passed.
        Drained => "drained",
        /// It had to move, and there was no target to move to.
        NoTarget => "no_target",
        /// The address is no longer listened on, or belongs to another service.
        Unlistened => "unlistened",
        /// The daemon stopped.
        Stopped => "stopped",
    }
}

common::named! {
    /// Why a datagram was not passed on.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum DatagramDrop {
        /// It would have begun a session that is not admitted: a limit, a rate, the access list, or no target.
        Refused => "refused",
        /// It did not fit the buffer; a part of it is of no use to anybody.
        Truncated => "truncated",
        /// It is larger than the next hop's protocol can carry.
        TooBig => "too_big",
        /// The socket's queue was full before we got to it.
        QueueFull => "queue_full",
        /// It could not be sent to the target.
        ToTarget => "to_target",
        /// It could not be sent to the client.
        ToClient => "to_client",
        /// It would have begun a session while the socket is about to close.
        Closing => "closing",
    }
}

/// The sessions, each with a `T` of the caller's.
///
/// Its size is bounded by what the caller admits: a new session is only ever made by [`Sessions::insert`].
#[derive(Debug)]
pub struct Sessions<T, H> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    by_key: HashMap<Key, u32, H>,
    next_swept: usize,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    session: Option<Session<T>>,
}

/// A session.
#[derive(Debug)]
pub struct Session<T> {
    /// Whose it is.
    pub key: Key,
    /// What the caller keeps with it.
    pub value: T,
    active_ms: u64,
    leaving: bool,
}

impl<T> Session<T> {
    /// Whether it is to leave its target.
    #[must_use]
    pub const fn is_leaving(&self) -> bool {
        self.leaving
    }
}

impl<T, H: BuildHasher> Sessions<T, H> {
    /// An empty table. Clients choose the keys, so `hasher` must be one that they cannot make collide.
    pub fn new(hasher: H) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), by_key: HashMap::with_hasher(hasher), next_swept: 0 }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// A datagram has come from a client. `standing` tells how the session's target stands.
    pub fn receive(&mut self, key: &Key, now_ms: u64, standing: impl FnOnce(&T) -> Standing) -> Decision {
        let Some(&index) = self.by_key.get(key) else { return Decision::New };
        let slot = &mut self.slots[index as usize];
        let id = SessionId { index, generation: slot.generation };
        // A key in the map has its session in the slot: both come and go together.
        let Some(session) = &mut slot.session else { return Decision::New };
        session.active_ms = now_ms;
        let leaves = session.leaving
            || match standing(&session.value) {
                Standing::Serves => false,
                Standing::Until(end_ms) => end_ms <= now_ms,
                Standing::Gone => true,
            };
        if leaves { Decision::Move(id) } else { Decision::Forward(id) }
    }

    /// Enters a new session. One with the same key is replaced, and answered with its value.
    pub fn insert(&mut self, key: Key, value: T, now_ms: u64) -> (SessionId, Option<T>) {
        let replaced = self.by_key.get(&key).copied().and_then(|index| self.take(index));
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, session: None });
            // As many sockets as that cannot be open.
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let slot = &mut self.slots[index as usize];
        slot.session = Some(Session { key, value, active_ms: now_ms, leaving: false });
        self.by_key.insert(key, index);
        (SessionId { index, generation: slot.generation }, replaced.map(|session| session.value))
    }

    /// The session, if it still is there.
    #[must_use]
    pub fn get(&self, id: SessionId) -> Option<&Session<T>> {
        let slot = self.slots.get(id.index as usize).filter(|slot| slot.generation == id.generation)?;
        slot.session.as_ref()
    }

    /// A datagram has passed from the target.
    pub fn touch(&mut self, id: SessionId, now_ms: u64) {
        if let Some(session) = self.get_mut(id) {
            session.active_ms = now_ms;
        }
    }

    /// Has the session move with its next datagram, because its target did not take one.
    pub fn leave(&mut self, id: SessionId) {
        if let Some(session) = self.get_mut(id) {
            session.leaving = true;
        }
    }

    /// Has those sessions move with their next datagram that `leaves` says.
    pub fn leave_where(&mut self, leaves: impl Fn(&T) -> bool) {
        for session in self.slots.iter_mut().filter_map(|slot| slot.session.as_mut()) {
            session.leaving |= leaves(&session.value);
        }
    }

    /// The session has been given another target by `change`, or stays with its old one for want of another.
    pub fn settle(&mut self, id: SessionId, change: impl FnOnce(&mut T)) {
        if let Some(session) = self.get_mut(id) {
            session.leaving = false;
            change(&mut session.value);
        }
    }

    /// Takes a session out.
    pub fn remove(&mut self, id: SessionId) -> Option<T> {
        self.get(id)?;
        self.take(id.index).map(|session| session.value)
    }

    /// Looks at the next slice of the table, and takes out the sessions that have ended; shows those that go on to `lives`, with the time
    /// of their last datagram. `idle_ms` says how long each may be silent. [`SLICES`] calls look at every session once.
    pub fn sweep(
        &mut self,
        now_ms: u64,
        idle_ms: impl Fn(&T) -> u64,
        standing: impl Fn(&T) -> Standing,
        mut lives: impl FnMut(&T, u64),
        mut ended: impl FnMut(T, SessionEnd),
    ) {
        let count = self.slots.len();
        for _ in 0..count.div_ceil(SLICES) {
            if self.next_swept >= count {
                self.next_swept = 0;
            }
            let index = self.next_swept;
            self.next_swept += 1;
            let Some(session) = &self.slots[index].session else { continue };
            let end = if now_ms.saturating_sub(session.active_ms) >= idle_ms(&session.value) {
                SessionEnd::Idle
            } else if matches!(standing(&session.value), Standing::Until(end_ms) if end_ms <= now_ms) {
                SessionEnd::Drained
            } else {
                lives(&session.value, session.active_ms);
                continue;
            };
            // The index comes from a table whose size fits.
            if let Some(session) = self.take(u32::try_from(index).unwrap_or(u32::MAX)) {
                ended(session.value, end);
            }
        }
    }

    /// Takes those sessions out that are `wanted`.
    pub fn take_where(&mut self, wanted: impl Fn(&T) -> bool) -> Vec<T> {
        let is_wanted = |slot: &Slot<T>| slot.session.as_ref().is_some_and(|it| wanted(&it.value));
        // The table's size fits an index.
        let indexes: Vec<u32> =
            (0_u32..).zip(&self.slots).filter(|(_, slot)| is_wanted(slot)).map(|(index, _)| index).collect();
        indexes.into_iter().filter_map(|index| self.take(index)).map(|session| session.value).collect()
    }

    /// Takes all sessions out.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        self.by_key.clear();
        self.free.clear();
        self.next_swept = 0;
        // The generations go with the slots: an id of before would fit a new session. So the slots stay.
        let mut values = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if let Some(session) = slot.session.take() {
                slot.generation = slot.generation.wrapping_add(1);
                values.push(session.value);
            }
            self.free.push(u32::try_from(index).unwrap_or(u32::MAX));
        }
        values.into_iter()
    }

    fn get_mut(&mut self, id: SessionId) -> Option<&mut Session<T>> {
        let slot = self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation)?;
        slot.session.as_mut()
    }

    fn take(&mut self, index: u32) -> Option<Session<T>> {
        let slot = self.slots.get_mut(index as usize)?;
        let session = slot.session.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.by_key.remove(&session.key);
        self.free.push(index);
        Some(session)
    }
}
