//! Ring changes: a node that forwards chooses from a new ring only when the peer has it, too, and knows every flow that the old
//! one has placed.
//!
//! Only what is current is kept, for each service or group one ring of each node; a new session announces all again.

use std::collections::BTreeMap;

use common::time::{Duration, Instant};

use super::action::Action;
use super::dirty::Dirty;
use super::frame::{Frame, WireName};
use super::names::{NameId, Names};
use super::replica::Replica;
use super::session::{Outgoing, Session, Stage};
use super::stats::Counters;

/// Whether the peer is ready for a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RingOutcome {
    /// It has the ring, and all that was changed before.
    Acknowledged,
    /// It has not said so in time.
    TimedOut,
    /// There is no session with a peer.
    Alone,
}

/// The rings of both nodes.
#[derive(Debug, Default)]
pub(super) struct Rings {
    own: BTreeMap<NameId, OwnRing>,
    peers: BTreeMap<NameId, PeerRing>,
    /// There may be something to announce or to answer.
    to_send: bool,
    /// There may be something to tell the shell that does not depend on the time.
    to_tell: bool,
    /// Own rings that wait for the peer.
    waiting: usize,
}

#[derive(Debug)]
struct OwnRing {
    generation: u64,
    announced: bool,
    peer_has: Option<u64>,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// For the ring, and for all that became dirty before the place.
    Waiting {
        deadline: Instant,
        place: u64,
    },
    Decided(RingOutcome),
    Told,
}

#[derive(Debug)]
struct PeerRing {
    generation: u64,
    told: bool,
    ready: bool,
    answered: bool,
}

impl Replica {
    /// This node has made a new ring for a service or target group and wants to choose from it. [`Action::SwitchRing`] says when: as
    /// soon as the peer has the ring and everything that was changed up to now, and in any case after `time_out`. A later ring of the same name
    /// replaces one that still waits.
    pub fn announce_ring(&mut self, now: Instant, name: NameId, generation: u64, time_out: Duration) {
        let step = if self.is_established() {
            Step::Waiting { deadline: now + time_out, place: self.dirty.next_place() }
        } else {
            Step::Decided(RingOutcome::Alone)
        };
        let rings = &mut self.rings;
        rings.own.insert(name, OwnRing { generation, announced: false, peer_has: None, step });
        (rings.to_send, rings.to_tell) = (true, true);
        rings.count_waiting();
    }

    /// This node has the peer's ring that [`Action::PrepareRing`] told of.
    pub fn ring_ready(&mut self, name: NameId, generation: u64) {
        if let Some(ring) = self.rings.peers.get_mut(&name).filter(|ring| ring.generation == generation) {
            ring.ready = true;
            self.rings.to_send = true;
        }
    }

    pub(super) fn next_ring(&mut self, now: Instant) -> Option<Action> {
        if self.rings.waiting > 0 {
            self.rings.decide(now, self.session.as_ref(), &self.dirty);
        }
        if !self.rings.to_tell {
            return None;
        }
        let action = self.rings.tell(&mut self.counters);
        self.rings.to_tell = action.is_some();
        action
    }
}

impl Rings {
    pub(super) fn names(&self) -> impl Iterator<Item = NameId> {
        self.own.keys().chain(self.peers.keys()).copied()
    }

    /// Forgets own rings of names that are not kept.
    pub(super) fn retain(&mut self, keep: impl Fn(NameId) -> bool) {
        self.own.retain(|&name, _| keep(name));
        self.count_waiting();
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.waiting == 0 {
            return None;
        }
        let deadline = |ring: &OwnRing| match ring.step {
            Step::Waiting { deadline, .. } => Some(deadline),
            Step::Decided(_) | Step::Told => None,
        };
        self.own.values().filter_map(deadline).min()
    }

    /// The next announcement or answer.
    pub(super) fn next_frame(&mut self, names: &Names, outgoing: &mut Outgoing) -> Option<Frame> {
        if !self.to_send {
            return None;
        }
        for (id, ring) in self.own.iter_mut().filter(|(_, ring)| !ring.announced) {
            ring.announced = true;
            if let Some(name) = names.name(*id) {
                let (name, generation) = (WireName::of(name), ring.generation);
                return Some(Frame::Ring { sequence: outgoing.next_sequence(), name, generation });
            }
        }
        for (id, ring) in self.peers.iter_mut().filter(|(_, ring)| ring.ready && !ring.answered) {
            ring.answered = true;
            if let Some(name) = names.name(*id) {
                let (name, generation) = (WireName::of(name), ring.generation);
                return Some(Frame::RingReady { sequence: outgoing.next_sequence(), name, generation });
            }
        }
        self.to_send = false;
        None
    }

    pub(super) fn announced_by_peer(&mut self, name: NameId, generation: u64) {
        let known = self.peers.get(&name).is_some_and(|ring| ring.generation == generation);
        if !known {
            let ring = PeerRing { generation, told: false, ready: false, answered: false };
            self.peers.insert(name, ring);
            self.to_tell = true;
        }
    }

    pub(super) fn peer_is_ready(&mut self, name: NameId, generation: u64) {
        if let Some(ring) = self.own.get_mut(&name) {
            ring.peer_has = Some(generation);
        }
    }

    /// Everything is announced and answered again in the next session; what waits goes on waiting for it.
    pub(super) fn session_ended(&mut self) {
        self.peers.clear();
        for ring in self.own.values_mut() {
            (ring.announced, ring.peer_has) = (false, None);
            if let Step::Waiting { place, .. } = &mut ring.step {
                // The next session's snapshot has all of it.
                *place = 0;
            }
        }
        self.to_send = true;
    }

    fn decide(&mut self, now: Instant, session: Option<&Session>, dirty: &Dirty) {
        let acknowledged = session.and_then(|session| session.outgoing.acknowledged_before(dirty));
        for ring in self.own.values_mut() {
            let Step::Waiting { deadline, place } = ring.step else { continue };
            if ring.peer_has == Some(ring.generation) && acknowledged.is_some_and(|before| before >= place) {
                ring.step = Step::Decided(RingOutcome::Acknowledged);
            } else if now >= deadline {
                ring.step = Step::Decided(RingOutcome::TimedOut);
            } else {
                continue;
            }
            self.to_tell = true;
        }
        self.count_waiting();
    }

    fn tell(&mut self, counters: &mut Counters) -> Option<Action> {
        if let Some((&name, ring)) = self.peers.iter_mut().find(|(_, ring)| !ring.told) {
            ring.told = true;
            return Some(Action::PrepareRing { name, generation: ring.generation });
        }
        let decided = |ring: &OwnRing| match ring.step {
            Step::Decided(outcome) => Some(outcome),
            Step::Waiting { .. } | Step::Told => None,
        };
        let (name, ring, outcome) = self
            .own
            .iter_mut()
            .find_map(|(&name, ring)| decided(ring).map(|outcome| (name, ring, outcome)))?;
        ring.step = Step::Told;
        match outcome {
            RingOutcome::Acknowledged => counters.rings_acknowledged += 1,
            RingOutcome::TimedOut => counters.rings_timed_out += 1,
            RingOutcome::Alone => counters.rings_alone += 1,
        }
        Some(Action::SwitchRing { name, generation: ring.generation, outcome })
    }

    fn count_waiting(&mut self) {
        let waits = |ring: &&OwnRing| matches!(ring.step, Step::Waiting { .. });
        self.waiting = self.own.values().filter(waits).count();
    }
}

impl Outgoing {
    /// The peer has everything that became dirty before this place; `None` while it does not have the snapshot.
    fn acknowledged_before(&self, dirty: &Dirty) -> Option<u64> {
        if self.snapshot.stage != Stage::Acknowledged {
            return None;
        }
        // With nothing on its way, also what never had to be sent.
        Some(if self.acknowledged == self.sequence { dirty.done_before() } else { self.done_before })
    }
}
