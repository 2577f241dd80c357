//! Clocks: the true time, which no node sees, and what each node's own clocks make of it.

use common::time::{Duration, Instant, Now, UnixTime};

/// True time since the simulation's start.
pub type Moment = Instant;

/// Parts of a rate: 1,000,000 is a clock that runs true.
const RATE_ONE: u64 = 1_000_000;

/// The wall clock at the start: 2026-01-01.
const UNIX_START: u64 = 1_767_225_600_000_000_000;

/// A node's two clocks.
#[derive(Clone, Debug)]
pub struct Clock {
    start: u64,
    rate: u64,
    /// What people and NTP did to the wall clock, in nanoseconds.
    wall_offset: i64,
}

impl Clock {
    /// A clock that showed `start` at the simulation's start and runs `rate` parts in a million as fast as true time.
    #[must_use]
    pub fn new(start: Duration, rate: u64) -> Self {
        Self { start: nanos(start), rate, wall_offset: 0 }
    }

    /// Both clocks at a moment.
    #[must_use]
    pub fn now(&self, moment: Moment) -> Now {
        let elapsed = scale(moment.as_nanos(), self.rate, RATE_ONE, false);
        let unix = (UNIX_START + elapsed).saturating_add_signed(self.wall_offset);
        Now { at: Instant::from_nanos(self.start + elapsed), unix: UnixTime::from_nanos(unix) }
    }

    /// The first moment at which the monotonic clock shows `at` or later.
    #[must_use]
    pub fn moment_of(&self, at: Instant) -> Moment {
        let elapsed = at.as_nanos().saturating_sub(self.start);
        Moment::from_nanos(scale(elapsed, RATE_ONE, self.rate, true))
    }

    /// Sets the wall clock forward or back.
    pub fn step_wall(&mut self, by_nanos: i64) {
        self.wall_offset = self.wall_offset.saturating_add(by_nanos);
    }
}

/// `value · numerator / denominator`, rounded down or up.
fn scale(value: u64, numerator: u64, denominator: u64, up: bool) -> u64 {
    let product = u128::from(value) * u128::from(numerator);
    let round = if up { u128::from(denominator - 1) } else { 0 };
    u64::try_from((product + round) / u128::from(denominator)).unwrap_or(u64::MAX)
}

/// The nanoseconds of `span`, capped at what a `u64` holds.
pub(super) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_reached_at_its_moment_and_not_before() {
        for rate in [990_000, 1_000_000, 1_010_000] {
            let clock = Clock::new(Duration::from_secs(5), rate);
            for at in [5_000_000_001, 5_123_456_789, 77_000_000_003] {
                let moment = clock.moment_of(Instant::from_nanos(at));
                assert!(clock.now(moment).at.as_nanos() >= at);
                let before = Moment::from_nanos(moment.as_nanos() - 1);
                assert!(clock.now(before).at.as_nanos() < at);
            }
        }
    }

    #[test]
    fn only_the_wall_clock_steps() {
        let mut clock = Clock::new(Duration::ZERO, 1_000_000);
        let before = clock.now(Moment::from_nanos(10));
        clock.step_wall(-5);
        let after = clock.now(Moment::from_nanos(10));
        assert_eq!(before.at, after.at);
        assert_eq!(before.unix.as_nanos() - 5, after.unix.as_nanos());
    }
}
