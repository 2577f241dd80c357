//! When checks are made: every `interval`, moved by up to a tenth either way, and every `unhealthy_interval` while the target
//! is not known to be healthy.

use std::time::Duration;

use common::rng::Rng;

use crate::health::HealthState;

/// First checks of targets that are new together follow each other at this distance, as far as [`FIRST_MAX`] allows.
const FIRST_STEP: Duration = Duration::from_millis(1);

/// The first checks of all targets have begun after so long, or after one interval if that is shorter.
const FIRST_MAX: Duration = Duration::from_millis(250);

/// One target's rhythm.
#[derive(Clone, Debug)]
pub struct Schedule {
    interval: Duration,
    unhealthy_interval: Duration,
    random: Rng,
}

impl Schedule {
    /// The rhythm of a target; `seed` should differ from one target to the next, so that their checks don't fall together.
    #[must_use]
    pub const fn new(interval: Duration, unhealthy_interval: Duration, seed: u64) -> Self {
        Self { interval, unhealthy_interval, random: Rng::new(seed) }
    }

    /// How long the target at `position` of `of` new ones waits for its first check. A single one does not wait.
    #[must_use]
    pub fn first(&self, position: usize, of: usize) -> Duration {
        let steps = u32::try_from(of).unwrap_or(u32::MAX).max(1);
        let span = FIRST_STEP.saturating_mul(steps).min(FIRST_MAX).min(self.interval);
        span.mul_f64(position as f64 / f64::from(steps)).min(span)
    }

    /// The time from the beginning of a check to that of the next, given the state after it.
    pub fn pause(&mut self, state: HealthState) -> Duration {
        let interval = if state.serves() { self.interval } else { self.unhealthy_interval };
        let fifth = u64::try_from(interval.as_nanos() / 5).unwrap_or(u64::MAX);
        interval - interval / 10 + Duration::from_nanos(self.random.below(fifth.saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn faster_while_not_known_to_be_healthy() {
        let mut schedule = Schedule::new(10 * SECOND, SECOND, 1);
        for state in [HealthState::Undecided, HealthState::Unhealthy] {
            assert!(schedule.pause(state) <= SECOND * 11 / 10, "{state:?}");
        }
        assert!(schedule.pause(HealthState::Healthy) >= 9 * SECOND);
    }

    #[test]
    fn first_checks_are_spread_and_soon() {
        let schedule = Schedule::new(10 * SECOND, SECOND, 1);
        assert_eq!(schedule.first(0, 1), Duration::ZERO);
        let hundred: Vec<Duration> = (0..100).map(|position| schedule.first(position, 100)).collect();
        assert_eq!(hundred[0], Duration::ZERO);
        assert!(hundred.windows(2).all(|pair| pair[1] - pair[0] >= FIRST_STEP * 9 / 10), "{hundred:?}");
        assert!(schedule.first(9_999, 10_000) <= FIRST_MAX);
        let quick = Schedule::new(Duration::from_millis(10), Duration::from_millis(10), 1);
        assert!(quick.first(99, 100) <= Duration::from_millis(10));
    }

    #[test]
    fn targets_drift_apart() {
        let mut rhythms: Vec<Schedule> = (0..100).map(|seed| Schedule::new(SECOND, SECOND, seed)).collect();
        let mut at = vec![Duration::ZERO; 100];
        for _ in 0..20 {
            for (at, schedule) in at.iter_mut().zip(&mut rhythms) {
                *at += schedule.pause(HealthState::Healthy);
            }
        }
        at.sort();
        assert!(at[99] - at[0] > SECOND / 2, "after 20 rounds they spread over much of a second: {at:?}");
        let mean = at.iter().sum::<Duration>() / 100;
        assert!(mean.abs_diff(20 * SECOND) < SECOND / 5, "and keep the interval on average: {mean:?}");
    }

    proptest! {
        #[test]
        fn within_a_tenth(interval_ms in 10_u64..3_600_000, seed in any::<u64>()) {
            let interval = Duration::from_millis(interval_ms);
            let mut schedule = Schedule::new(interval, interval, seed);
            for _ in 0..20 {
                let pause = schedule.pause(HealthState::Healthy);
                prop_assert!(pause >= interval * 9 / 10 && pause <= interval * 11 / 10 + Duration::from_nanos(1), "{:?}", pause);
            }
        }
    }
}
