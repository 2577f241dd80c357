//! Which flows in use are told to the other node anew, so that its copies live as long: nobody tells it of packets.
//!
//! A walk through all flows comes every few seconds ([`WALK`]), sooner where a time-out is short, and later with a large table, which takes
//! longer than that. Each flow has its turn in one of several walks, by its key, so that a million of them are not told at once; in how many,
//! its time-out says and how long walks take.

use common::time::Duration;

use super::abi::{
    Flow, FlowKey, STATE_CLIENT_FIN, STATE_ESTABLISHED, STATE_RESET, STATE_TARGET_FIN, Service, Ticks,
    duration_of,
};
use super::expiry;

/// A walk begins so long after the one before it, if no time-out asks for more of them.
pub const WALK: Duration = Duration::from_secs(5);

const WALK_TICKS: u32 = 5 * Ticks::PER_SECOND;

/// However short a time-out is.
const WALK_TICKS_MIN: u32 = Ticks::PER_SECOND;

/// Walks from one turn of a flow to the next. Each number divides those before it, so that none is left out when walks become longer or
/// shorter: whoever has a turn in every sixth one has it in a walk in which those of every second have theirs.
const TURNS: [u32; 4] = [TURN_MAX, 6, 2, 1];
const TURN_MAX: u32 = 30;

/// The most walks of which a turn may be long after another. Those of more are for short walks.
const TURN_OF_LONG_WALKS: u32 = 6;

/// So long after the last turn, in ticks, the next one comes there at the latest.
const TURN_TICKS_MAX: u32 = 40 * Ticks::PER_SECOND;

/// A flow is told so many times within its time-out, as far as walks can be so fast: a copy is given up early by no more than this part of it.
const TOLD_TIMES: u32 = 4;

/// The walks so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walks {
    number: u32,
    /// Whether this walk has a number of its own. A nearly full table is walked through more often, which is nobody's turn.
    counts: bool,
    /// When the last ones began, the latest first.
    begun: [u32; TURN_MAX as usize + 1],
    /// From one to the next, in ticks, as it was expected of each of them.
    lengths: [u32; TURN_MAX as usize + 1],
    /// The least of these.
    least: u32,
    /// The shortest time-out of a flow in use in the walk before, in ticks.
    shortest: Option<u32>,
    /// In this one so far.
    met: Option<u32>,
}

impl Walks {
    /// A walk begins at the tick `now`.
    pub fn begin(&mut self, now: u32) {
        self.shortest = self.met.take();
        let interval = self.within().min(WALK_TICKS);
        let since = |later: u32, earlier: u32| Ticks(later).since(Ticks(earlier));
        self.counts = self.number == 0 || since(now, self.begun[0]) >= interval / 4 * 3;
        if !self.counts {
            return;
        }
        if self.number == 0 {
            self.begun.fill(now);
            self.lengths.fill(interval);
        }
        self.number = self.number.wrapping_add(1).max(1);
        self.begun.rotate_right(1);
        self.begun[0] = now;
        // The next one is taken to come after as long a time.
        let [latest, before, earlier, ..] = self.begun;
        self.lengths.rotate_right(1);
        self.lengths[0] = since(latest, before).max(since(before, earlier)).max(interval);
        self.least = self.lengths.into_iter().min().unwrap_or(interval);
    }

    /// How long after a walk's beginning the next one is to begin.
    #[must_use]
    pub fn interval(&self) -> Duration {
        WALK.min(self.longest())
    }

    /// How long a walk is to take at most, so that the flows of the shortest time-out are told as often as they have to be.
    #[must_use]
    pub fn longest(&self) -> Duration {
        duration_of(self.within())
    }

    fn within(&self) -> u32 {
        self.shortest.map_or(u32::MAX, |shortest| (shortest / TOLD_TIMES).max(WALK_TICKS_MIN))
    }

    /// Whether a flow is to be told in this walk: one of this node's that was used since its last turn. Notes its time-out, by which
    /// the next walks are as fast as they have to be.
    pub fn is_told(&mut self, key: &FlowKey, flow: &Flow, service: &Service) -> bool {
        // What has become of a copy, the other node tells; what ends has been told when it did. Of `dsr` only the client's end is seen,
        // and a client that has said all may still be told much.
        let ends = STATE_CLIENT_FIN | STATE_TARGET_FIN;
        let lives = flow.state & (STATE_ESTABLISHED | STATE_RESET) == STATE_ESTABLISHED;
        if flow.copied != 0 || !lives || flow.state & ends == ends {
            return false;
        }
        let most = expiry::silent_most(flow, service);
        if flow.state & (STATE_CLIENT_FIN | STATE_TARGET_FIN) == 0 {
            self.met = Some(self.met.map_or(most, |met| met.min(most)));
        }
        let every = turn(most, self.lengths[0]);
        if !self.counts || u32::from(key.source_port.0).wrapping_add(self.number) % every != 0 {
            return false;
        }
        // Its last turn may be from a time when walks were shorter.
        let ago = turn(most, self.least).max(every);
        let [now, ..] = self.begun;
        let before = self.begun.get(ago as usize).copied().unwrap_or(now);
        // `seen` may be older than the last packet.
        expiry::silence(flow, now) <= Ticks(now).since(Ticks(before)) + expiry::refresh(most)
    }
}

/// In how many walks of so many ticks a flow has one turn, if it may be silent for `most` ticks.
fn turn(most: u32, length: u32) -> u32 {
    let fits = |&turn: &u32| {
        let all = turn.saturating_mul(length);
        all <= most / TOLD_TIMES && (turn <= TURN_OF_LONG_WALKS || all <= TURN_TICKS_MAX)
    };
    TURNS.into_iter().find(fits).unwrap_or(1)
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
        let mut told = |silent: u32| {
            (0..6).filter(|port| walks.is_told(&key(*port), &flow(now - silent), &service(5600))).count()
        };
        // Six walks, and what the program does not note at once.
        assert_eq!([told(0), told(480 + 256), told(480 + 257)], [1, 1, 0]);
        let mut at = |flow: Flow| (0..6).any(|port| walks.is_told(&key(port), &flow, &service(5600)));
        assert!(at(flow(now)));
        assert!(!at(Flow { copied: 1, ..flow(now) }), "the other node's");
        assert!(!at(Flow { state: 0, ..flow(now) }), "nobody knows whether it is one");
        let closing = Flow { state: STATE_ESTABLISHED | STATE_CLIENT_FIN, ..flow(now) };
        assert!(at(closing), "the target has more to say");
        assert!(!at(Flow { state: closing.state | STATE_TARGET_FIN, ..closing }), "its end was told");
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
        let mut told = |seen| (0..6).any(|port| walks.is_told(&key(port), &flow(seen), &service(5600)));
        assert!(told(100_000));
        assert!(!told(99_000));
    }

    #[test]
    fn walks_are_as_fast_as_the_shortest_time_out_in_use_needs() {
        let mut walks = Walks::default();
        let mut after = |flows: &[(u32, Flow)]| {
            for (most, flow) in flows {
                walks.is_told(&key(0), flow, &service(*most));
            }
            walks.begin(0);
            [walks.interval(), walks.longest()].map(|it| it.as_millis())
        };
        let lives = flow(0);
        assert_eq!(after(&[(5600, lives), (480, lives)]), [5000, 7500]);
        assert_eq!(after(&[(64, lives), (480, lives)]), [1000, 1000]);
        assert_eq!(after(&[(16, lives)]), [1000, 1000], "no shorter");
        // Those of the other node, half-open ones and those that end are not told.
        let others = [
            Flow { copied: 1, ..lives },
            Flow { state: 0, ..lives },
            Flow { state: lives.state | STATE_CLIENT_FIN | STATE_TARGET_FIN, ..lives },
        ];
        assert_eq!(after(&others.map(|other| (64, other)))[0], 5000);
    }

    #[test]
    fn short_walks_have_more_of_them_from_turn_to_turn() {
        let quick = [(16, 5600), (80, 5600), (112, 5600), (400, 5600), (80, 640), (80, 480)];
        assert_eq!(quick.map(|(length, most)| turn(most, length)), [30, 6, 6, 2, 2, 1]);
        assert!(TURNS.windows(2).all(|two| two[0] % two[1] == 0));
    }

    /// When a use at the tick `seen` of a flow that may be silent for `most` ticks is told, if walks begin then.
    fn told(begins: impl IntoIterator<Item = u32>, port: u16, most: u32, seen: u32) -> Option<u32> {
        let mut walks = Walks::default();
        let is_told = |at: &u32| {
            walks.begin(*at);
            // Another one has walks be short.
            walks.is_told(&key(port), &flow(*at), &service(64));
            // Before that it is some other use.
            let flow = flow(seen.min(*at));
            walks.is_told(&key(port), &flow, &service(most)) && *at >= seen
        };
        begins.into_iter().find(is_told)
    }

    proptest! {
        /// Whenever a flow is used, it is told before a quarter of its time-out or, if that is longer, a walk has passed.
        #[test]
        fn no_use_is_kept_back_for_long(port: u16, most in 16..20_000_u32, step in WALK_TICKS..800, seen in 1..20_000_u32) {
            let told = told((0..500).map(|walk| walk * step), port, most, seen);
            let late = (most / TOLD_TIMES).max(step);
            prop_assert!(told.is_some_and(|at| at - seen <= late), "{seen} at {told:?}, not within {late}");
        }

        /// Nor when walks become longer or shorter, but for the walks in which that is found out.
        #[test]
        fn no_use_is_lost_when_walks_change(
            port: u16, most in 16..20_000_u32, steps in prop::collection::vec((16..800_u32, 1..40_usize), 1..6),
            seen in 1..20_000_u32,
        ) {
            let longest = steps.iter().map(|(step, _)| *step).max().unwrap();
            let all = steps.into_iter().flat_map(|(step, count)| std::iter::repeat_n(step, count));
            let all = all.chain(std::iter::repeat_n(longest, 2000));
            // The first one begins at 0: what was used before is told when a session begins.
            let begins = all.scan(0, |next, step| Some(std::mem::replace(next, *next + step)));
            let told = told(begins, port, most, seen);
            let late = (most / TOLD_TIMES).max(longest) + longest;
            prop_assert!(told.is_some_and(|at| at - seen <= late), "{seen} at {told:?}, not within {late}");
        }
    }
}
