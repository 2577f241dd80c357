//! Which flows in use are told to the other node anew, so that its copies live as long: nobody tells it of packets.
//!
//! A walk through all flows comes every few seconds ([`WALK`]) or, with a large table, less often. Each flow has its turn in one of
//! several walks, by its key, so that a million of them are not told at once; those whose time-out is short have it more often.

use common::time::Duration;

use super::abi::{Flow, FlowKey, STATE_ESTABLISHED, STATE_RESET, Service, Ticks};
use super::expiry;

/// A walk begins so long after the one before it.
pub const WALK: Duration = Duration::from_secs(5);

const WALK_TICKS: u32 = 5 * Ticks::PER_SECOND;

/// Walks from one turn of a flow to the next, at most.
const TURN_MAX: u32 = 6;

/// A flow is told so many times within its time-out, at least: a copy is given up early by no more than this part of it.
const TOLD_TIMES: u32 = 4;

/// The walks so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walks {
    number: u32,
    /// Whether this walk has a number of its own. A nearly full table is walked through more often, which is nobody's turn.
    counts: bool,
    /// When the last ones began, the latest first.
    begun: [u32; TURN_MAX as usize + 1],
}

impl Walks {
    /// A walk begins at the tick `now`.
    pub fn begin(&mut self, now: u32) {
        self.counts =
            self.number == 0 || Ticks(now).since(Ticks(self.begun[0])) >= WALK_TICKS - Ticks::PER_SECOND;
        if !self.counts {
            return;
        }
        if self.number == 0 {
            self.begun.fill(now);
        }
        self.number = self.number.wrapping_add(1).max(1);
        self.begun.rotate_right(1);
        self.begun[0] = now;
    }

    /// Whether a flow is to be told in this walk: one of this node's that was used since its last turn.
    #[must_use]
    pub fn is_told(&self, key: &FlowKey, flow: &Flow, service: &Service) -> bool {
        // What has become of a copy, the other node tells; what ends has been told when it did.
        let lives = flow.state & (STATE_ESTABLISHED | STATE_RESET) == STATE_ESTABLISHED;
        if !self.counts || flow.copied != 0 || !lives {
            return false;
        }
        let most = expiry::silent_most(flow, service);
        let every = (most / TOLD_TIMES / WALK_TICKS).clamp(1, TURN_MAX);
        if u32::from(key.source_port.0).wrapping_add(self.number) % every != 0 {
            return false;
        }
        let [now, ..] = self.begun;
        let before = self.begun.get(every as usize).copied().unwrap_or(now);
        // `seen` may be older than the last packet.
        expiry::silence(flow, now) <= Ticks(now).since(Ticks(before)) + expiry::refresh(most)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::forward::abi::{Be16, MODE_NAT};

    fn service(established_ticks: u32) -> Service {
        Service { mode: MODE_NAT, established_ticks, ..Service::default() }
    }

    fn key(port: u16) -> FlowKey {
        FlowKey { source_port: Be16(port), ..FlowKey::default() }
    }

    fn flow(seen: u32) -> Flow {
        Flow { seen, state: STATE_ESTABLISHED, ..Flow::default() }
    }

    #[test]
    fn each_flow_in_use_has_its_turn_in_one_of_six_walks() {
        let mut walks = Walks::default();
        let mut turns = [0; 60];
        for walk in 0..12 {
            let now = 1000 + walk * WALK_TICKS;
            walks.begin(now);
            for (turn, port) in turns.iter_mut().zip(0..) {
                *turn += u32::from(walks.is_told(&key(port), &flow(now), &service(5600)));
            }
        }
        assert_eq!(turns, [2; 60]);
    }

    #[test]
    fn what_was_not_used_since_its_turn_is_not_told() {
        let mut walks = Walks::default();
        (0..20).for_each(|walk| walks.begin(walk * WALK_TICKS));
        let now = 19 * WALK_TICKS;
        let told = |silent: u32| {
            (0..6).filter(|port| walks.is_told(&key(*port), &flow(now - silent), &service(5600))).count()
        };
        // Six walks, and what the program does not note at once.
        assert_eq!([told(0), told(480 + 256), told(480 + 257)], [1, 1, 0]);
        let at = |flow: Flow| (0..6).any(|port| walks.is_told(&key(port), &flow, &service(5600)));
        assert!(at(flow(now)));
        assert!(!at(Flow { copied: 1, ..flow(now) }), "the other node's");
        assert!(!at(Flow { state: 0, ..flow(now) }), "nobody knows whether it is one");
    }

    #[test]
    fn walks_that_follow_at_once_are_nobodys_turn() {
        let mut walks = Walks::default();
        let mut told = 0;
        for now in 1000..1000 + 12 * WALK_TICKS {
            walks.begin(now);
            told += u32::from(walks.is_told(&key(0), &flow(now), &service(5600)));
        }
        assert!((1..=3).contains(&told), "{told} in a minute");
    }

    #[test]
    fn the_first_walks_tell_what_was_used_since_the_start() {
        let mut walks = Walks::default();
        walks.begin(100_000);
        let told = |seen| (0..6).any(|port| walks.is_told(&key(port), &flow(seen), &service(5600)));
        assert!(told(100_000));
        assert!(!told(99_000));
    }

    proptest! {
        /// Whenever a flow is used, it is told before a quarter of its time-out and the time that walks take have passed.
        #[test]
        fn no_use_is_kept_back_for_long(port: u16, most in 160..20_000_u32, slow in 1..4_u32, used in 0..10_u32) {
            let mut walks = Walks::default();
            let step = WALK_TICKS * slow;
            let seen = used * step + 1;
            let mut told = None;
            for walk in 0..30 {
                walks.begin(walk * step);
                if walk > used && told.is_none() && walks.is_told(&key(port), &flow(seen), &service(most)) {
                    told = Some(walk * step - seen);
                }
            }
            let late = (most / TOLD_TIMES / WALK_TICKS).clamp(1, TURN_MAX) * step;
            prop_assert!(told.is_some_and(|told| told <= late), "{told:?} of {late}");
        }
    }
}
