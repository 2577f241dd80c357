//! Ring changes: a node that forwards chooses from another ring only when the peer knows what that is made of, and has every flow that the
//! old one has placed.
//!
//! A ring is told twice. *Next* is what this node is about to choose from: it goes out behind everything that was changed before, and its
//! acknowledgement therefore says that the peer has all of that in its live tables. *Used* is what it chooses from: it goes out behind everything
//! that was changed before it began to, so that the peer, which repeats this node's choice for flows that it was not told of, goes on with
//! the old ring for as long as one of those may have been placed by it. A snapshot that begins anew takes over what waits to be sent, so while one
//! is on its way, that is behind its end.
//!
//! Only what is current is kept: for each ring of each node the one in use and the next one. Each session begins with those in use.

use std::collections::{BTreeMap, BTreeSet};

use common::time::{Duration, Instant};

use super::action::Action;
use super::error::SessionError;
use super::frame::{Frame, RingFrame};
use super::hello::MINOR_OF_RINGS;
use super::names::NameId;
use super::replica::Replica;
use super::session::Stage;

/// Rings of a node.
pub const RINGS_MAX: usize = 1024;

/// Targets of a ring.
pub const RING_MEMBERS_MAX: usize = 4096;

/// Targets of all rings of the peer's together, those in use and the next ones: a node has no more than 4096 in use.
const MEMBERS_MAX: usize = 4 * RING_MEMBERS_MAX;

/// So long a node waits with another ring for the peer. An unhealthy target is not kept for longer.
pub const RING_WAIT: Duration = Duration::from_millis(100);

/// What a ring is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RingMake {
    /// Stands for the targets and weights, and for the key by which places are given.
    pub hash: u64,
    /// The targets, with their weights; none where nothing is chosen.
    pub members: Vec<(NameId, u16)>,
}

/// What is known of a ring of the peer's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerRing {
    /// What the peer chooses from.
    pub used: Option<RingMake>,
    /// What it is about to choose from.
    pub next: Option<RingMake>,
    /// The session in which it was told last.
    session: u64,
}

impl PeerRing {
    fn members(&self) -> usize {
        self.used.iter().chain(&self.next).map(|make| make.members.len()).sum()
    }
}

/// Whether the peer is ready for a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RingOutcome {
    /// It has the ring, and all that was changed before.
    Acknowledged,
    /// It has not said so in time.
    TimedOut,
    /// There is no session with a peer that has what this node has.
    Alone,
}

/// The rings of both nodes.
#[derive(Debug, Default)]
pub(super) struct Rings {
    own: BTreeMap<NameId, OwnRing>,
    peers: BTreeMap<NameId, PeerRing>,
    /// Of the peer's, those that the shell has not heard of yet.
    news: BTreeSet<NameId>,
}

#[derive(Debug, Default)]
struct OwnRing {
    used: Option<RingMake>,
    /// The peer has not been told of it since it connected, and is to be, behind this.
    tell_used: Option<Behind>,
    next: Option<Next>,
}

/// What is sent before the peer is told of a ring in use.
#[derive(Clone, Copy, Debug)]
enum Behind {
    /// Nothing: the session has just begun. Which ring has placed what it lacks nobody knows any more, and most are of this one.
    Nothing,
    /// All that became dirty before this place, and what a snapshot has of it.
    Changes(u64),
}

#[derive(Debug)]
struct Next {
    make: RingMake,
    /// It is told behind all that became dirty before this place.
    place: u64,
    deadline: Instant,
    /// The number of its frame.
    sent: Option<u64>,
    decided: Option<RingOutcome>,
    /// The shell has heard of that.
    told: bool,
}

impl Next {
    fn decide(&mut self, outcome: RingOutcome) {
        self.decided.get_or_insert(outcome);
    }
}

impl OwnRing {
    /// The place before which everything is to be sent before the peer is told of this ring; none if there is nothing to be told, or if that
    /// waits for the end of a snapshot that is on its way.
    fn place(&self, in_snapshot: bool) -> Option<u64> {
        match self.tell_used {
            Some(Behind::Nothing) => Some(0),
            Some(Behind::Changes(_)) if in_snapshot => None,
            Some(Behind::Changes(place)) => Some(place),
            None => self.next.as_ref().filter(|next| next.sent.is_none()).map(|next| next.place),
        }
    }
}

impl Replica {
    /// Whether there is a peer to wait for before another ring is used: it has what this node has, and speaks of rings.
    #[must_use]
    pub fn peer_takes_rings(&self) -> bool {
        let takes = |session: &super::session::Session| {
            session.minor >= Some(MINOR_OF_RINGS) && session.outgoing.snapshot.stage == Stage::Acknowledged
        };
        self.session.as_ref().is_some_and(takes)
    }

    /// This node is about to choose from another ring. [`Action::SwitchRing`] says when it may: as soon as the peer knows the ring and has
    /// everything that was changed up to now, and in any case after `wait`. Another one of the same name takes the place of one that still
    /// waits.
    pub fn announce_ring(&mut self, now: Instant, ring: NameId, make: RingMake, wait: Duration) {
        let alone = !self.peer_takes_rings();
        let place = self.dirty.next_place();
        let own = self.rings.own.entry(ring).or_default();
        if own.next.as_ref().is_some_and(|next| next.make == make) {
            return;
        }
        let decided = alone.then_some(RingOutcome::Alone);
        own.next = Some(Next { make, place, deadline: now + wait, sent: None, decided, told: false });
    }

    /// This node chooses from a ring now, whether it has waited for that or not; without targets it is gone.
    pub fn ring_used(&mut self, ring: NameId, make: RingMake) {
        let place = self.dirty.next_place();
        // One that came too late to be asked about.
        let unasked = if self.peer_takes_rings() { RingOutcome::TimedOut } else { RingOutcome::Alone };
        match self.rings.used(ring, make, place, unasked) {
            Some(RingOutcome::Acknowledged) => self.counters.rings_acknowledged += 1,
            Some(RingOutcome::TimedOut) => self.counters.rings_timed_out += 1,
            Some(RingOutcome::Alone) => self.counters.rings_alone += 1,
            None => {}
        }
    }

    /// What is known of a ring of the peer's: as it was told last, in whichever session.
    #[must_use]
    pub fn peer_ring(&self, ring: NameId) -> Option<&PeerRing> {
        self.rings.peers.get(&ring)
    }

    pub(super) fn next_ring_action(&mut self) -> Option<Action> {
        if let Some(ring) = self.rings.news.pop_first() {
            return Some(Action::PeerRing(ring));
        }
        self.rings.own.iter_mut().find_map(|(&ring, own)| {
            let next = own.next.as_mut().filter(|next| !next.told)?;
            let outcome = next.decided?;
            next.told = true;
            Some(Action::SwitchRing { ring, hash: next.make.hash, outcome })
        })
    }

    /// The next ring to be told of, or names that it needs first.
    pub(super) fn next_ring_frame(&mut self) -> Option<Frame> {
        let session = self.session.as_ref()?;
        if session.minor < Some(MINOR_OF_RINGS) || session.outgoing.unacknowledged >= self.settings.window {
            return None;
        }
        let in_snapshot = session.outgoing.snapshot.is_on_its_way();
        let (ring, members) = self.rings.due(self.dirty.done_before(), in_snapshot)?;
        let mut frame = self.begin_data()?;
        for id in std::iter::once(ring).chain(members) {
            if !self.announce_name(&mut frame, id) {
                break;
            }
        }
        if let Some(frame) = self.end_data(frame) {
            return Some(frame);
        }
        let sequence = self.session.as_mut()?.outgoing.next_sequence();
        self.rings.tell(ring, sequence).map(Frame::Ring)
    }

    /// Whether a ring waits for changes that have not been sent: these are not to wait for others.
    pub(super) fn ring_waits_for_changes(&self) -> bool {
        let Some(session) = &self.session else { return false };
        let (done, in_snapshot) = (self.dirty.done_before(), session.outgoing.snapshot.is_on_its_way());
        self.rings.own.values().filter_map(|own| own.place(in_snapshot)).any(|place| place > done)
    }

    /// The peer tells of a ring. Everything that it has told before is in the live tables.
    pub(super) fn take_ring(&mut self, told: RingFrame) -> Result<(), SessionError> {
        let Some(session) = &self.session else { return Ok(()) };
        if session.minor < Some(MINOR_OF_RINGS) || told.members.len() > RING_MEMBERS_MAX {
            return Err(SessionError::Unexpected("a ring beyond what was agreed on"));
        }
        let names = &session.incoming.names;
        let Some(ring) = names.local(told.ring) else {
            self.counters.skipped.unknown_name += 1;
            return Ok(());
        };
        let member = |&(target, weight): &(u32, u16)| names.local(target).map(|target| (target, weight));
        let members: Option<Vec<(NameId, u16)>> = told.members.iter().map(member).collect();
        let number = session.number;
        let make = members.map(|members| RingMake { hash: told.hash, members });
        if !self.rings.told(ring, make, told.used, number) {
            self.counters.rings_refused += 1;
        }
        Ok(())
    }
}

impl Rings {
    /// Everything that rings of either node refer to.
    pub(super) fn names(&self) -> impl Iterator<Item = NameId> {
        let own = self.own.iter().flat_map(|(&ring, own)| {
            let next = own.next.as_ref().map(|next| &next.make);
            std::iter::once(ring).chain(own.used.iter().chain(next).flat_map(members_of))
        });
        let peers = self.peers.iter().flat_map(|(&ring, peer)| {
            std::iter::once(ring).chain(peer.used.iter().chain(&peer.next).flat_map(members_of))
        });
        own.chain(peers).chain(self.news.iter().copied())
    }

    /// Rings of the peer's that are known.
    pub(super) fn peers(&self) -> usize {
        self.peers.len()
    }

    /// Until when the first of those that wait does.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let waits = |next: &&Next| next.decided.is_none();
        self.own.values().filter_map(|own| own.next.as_ref()).filter(waits).map(|next| next.deadline).min()
    }

    pub(super) fn timeout(&mut self, now: Instant) {
        let late = self.waiting().filter(|next| next.deadline <= now);
        late.for_each(|next| next.decide(RingOutcome::TimedOut));
    }

    /// The peer has taken in everything up to this frame.
    pub(super) fn acknowledged(&mut self, sequence: u64) {
        let known = self.waiting().filter(|next| next.sent.is_some_and(|sent| sent <= sequence));
        known.for_each(|next| next.decide(RingOutcome::Acknowledged));
    }

    /// The peer does not have what this node has, or nobody knows: nothing waits for it.
    pub(super) fn alone(&mut self) {
        self.waiting().for_each(|next| next.decide(RingOutcome::Alone));
    }

    /// A session begins. The peer is told all of it, or speaks of no rings: then nothing is known of its.
    pub(super) fn session_begins(&mut self, minor: u16) {
        self.own.values_mut().for_each(|own| own.tell_used = own.used.as_ref().map(|_| Behind::Nothing));
        if minor < MINOR_OF_RINGS {
            self.news.extend(std::mem::take(&mut self.peers).into_keys());
        }
    }

    pub(super) fn session_ended(&mut self) {
        self.alone();
        for own in self.own.values_mut() {
            own.tell_used = None;
        }
        // Without targets it need not be told again: whoever repeats choices of a ring that is gone finds no service that uses it.
        self.own.retain(|_, own| {
            own.next.is_some() || own.used.as_ref().is_some_and(|make| !make.members.is_empty())
        });
    }

    fn waiting(&mut self) -> impl Iterator<Item = &mut Next> {
        self.own.values_mut().filter_map(|own| own.next.as_mut()).filter(|next| next.decided.is_none())
    }

    /// A ring is in use; how that was waited for, if it is another one than before: like `unasked` if it was not.
    fn used(
        &mut self,
        ring: NameId,
        make: RingMake,
        place: u64,
        unasked: RingOutcome,
    ) -> Option<RingOutcome> {
        let own = self.own.entry(ring).or_default();
        let before = own.used.as_ref();
        let (is_first, is_same) = (before.is_none(), before == Some(&make));
        let next = own.next.take();
        let waited = next.as_ref().filter(|next| next.make == make);
        let outcome = match waited {
            // Who did not wait for the outcome has waited for long enough.
            Some(next) => Some(next.decided.unwrap_or(RingOutcome::TimedOut)),
            None => (!is_first && !is_same).then_some(unasked),
        };
        // Of the next one that comes to nothing the peer has heard.
        if !is_same || next.is_some_and(|next| next.sent.is_some()) {
            own.used = Some(make);
            own.tell_used = Some(Behind::Changes(place));
        }
        outcome
    }

    /// A ring that can be told of where everything before this place has been sent, but for a snapshot that may be on its way, and its
    /// targets.
    fn due(&self, done_before: u64, in_snapshot: bool) -> Option<(NameId, Vec<NameId>)> {
        let due = |own: &OwnRing| own.place(in_snapshot).is_some_and(|place| place <= done_before);
        let (&ring, own) = self.own.iter().find(|(_, own)| due(own))?;
        let make = if own.tell_used.is_some() {
            own.used.as_ref()
        } else {
            own.next.as_ref().map(|next| &next.make)
        };
        Some((ring, make.into_iter().flat_map(members_of).collect()))
    }

    /// Tells of it with the frame of this number.
    fn tell(&mut self, ring: NameId, sequence: u64) -> Option<RingFrame> {
        let own = self.own.get_mut(&ring)?;
        let used = own.tell_used.take().is_some();
        let make = match (&own.used, &mut own.next) {
            (Some(make), _) if used => make,
            (_, Some(next)) => {
                next.sent = Some(sequence);
                &next.make
            }
            _ => return None,
        };
        let members = make.members.iter().map(|(target, weight)| (target.number(), *weight)).collect();
        let frame = RingFrame { sequence, ring: ring.number(), hash: make.hash, used, members };
        if used && frame.members.is_empty() && own.next.is_none() {
            self.own.remove(&ring);
        }
        Some(frame)
    }

    /// What the peer says; none of what has names without room here. False if there is no room for it.
    fn told(&mut self, ring: NameId, make: Option<RingMake>, used: bool, session: u64) -> bool {
        self.news.insert(ring);
        let mut known = self.peers.remove(&ring).unwrap_or_default();
        known.session = session;
        let Some(make) = make else { return false };
        let is_gone = used && make.members.is_empty();
        if used {
            (known.used, known.next) = (Some(make), None);
        } else {
            known.next = Some(make);
        }
        if is_gone {
            return true;
        }
        let members: usize = self.peers.values().map(PeerRing::members).sum();
        if members + known.members() > MEMBERS_MAX || self.peers.len() >= RINGS_MAX {
            // Those of former sessions that this one has not told of may be gone.
            let news = &mut self.news;
            self.peers.retain(|&other, peer| {
                let stays = peer.session == session;
                if !stays {
                    news.insert(other);
                }
                stays
            });
        }
        let members: usize = self.peers.values().map(PeerRing::members).sum();
        let fits = members + known.members() <= MEMBERS_MAX && self.peers.len() < RINGS_MAX;
        if fits {
            self.peers.insert(ring, known);
        }
        fits
    }
}

fn members_of(make: &RingMake) -> impl Iterator<Item = NameId> {
    make.members.iter().map(|(target, _)| *target)
}
