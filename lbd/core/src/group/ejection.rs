//! Passive ejection: how long a target that failed real connections stays out.

use common::time::{Duration, Instant};

/// `eject` of a target group, without the number of failures that the shell counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EjectSettings {
    /// The first ejection's time, above 0.
    pub base: Duration,
    /// The longest ejection; at least `base`.
    pub max: Duration,
    /// The largest share of a group's targets that may be out at the same time, 0 to 100.
    pub max_percent: u8,
}

/// One target's ejections.
///
/// The n-th in a row lasts n times `base`, at most `max`. Each `base` in use without another takes one off n, so that a
/// target must have done well for as long as it was out before it is treated as a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ejection {
    /// Ejections in a row, as of `returned` (or of the ejection under way).
    count: u32,
    until: Option<Instant>,
    returned: Instant,
    /// Ejections since the target is known.
    pub(super) total: u64,
    /// Ejections that `max_percent` did not allow.
    pub(super) refused: u64,
}

impl Ejection {
    /// When the ejection under way ends.
    pub(super) const fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Ejections in a row, as they count now.
    pub(super) fn count(&self, now: Instant, base: Duration) -> u32 {
        if self.until.is_some() || base.is_zero() {
            return self.count;
        }
        let good = now.since(self.returned).as_nanos() / base.as_nanos();
        self.count.saturating_sub(u32::try_from(good).unwrap_or(u32::MAX))
    }

    /// Ejects the target; answers for how long.
    pub(super) fn begin(&mut self, now: Instant, settings: EjectSettings) -> Duration {
        let steps = settings.max.as_nanos().div_ceil(settings.base.as_nanos().max(1));
        // More than it takes to reach `max` would only take longer to forget.
        let count_max = u32::try_from(steps).unwrap_or(u32::MAX);
        self.count = self.count(now, settings.base).saturating_add(1).min(count_max.max(1));
        self.total = self.total.saturating_add(1);
        let time = settings.base.saturating_mul(self.count).min(settings.max);
        self.until = Some(now + time);
        time
    }

    /// Ends the ejection under way.
    pub(super) fn end(&mut self, now: Instant) {
        if self.until.take().is_some() {
            self.returned = now;
        }
    }
}

/// How many of `targets` may be out at the same time.
pub(super) fn allowed(targets: usize, max_percent: u8) -> usize {
    targets.saturating_mul(usize::from(max_percent.min(100))) / 100
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const SETTINGS: EjectSettings =
        EjectSettings { base: SECOND, max: Duration::from_secs(4), max_percent: 50 };

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + SECOND * u32::try_from(seconds).unwrap()
    }

    #[test]
    fn each_in_a_row_is_longer_up_to_the_maximum() {
        let mut ejection = Ejection::default();
        let mut now = at(100);
        for expected in [1, 2, 3, 4, 4, 4] {
            let time = ejection.begin(now, SETTINGS);
            assert_eq!(time, SECOND * expected);
            now = now + time;
            ejection.end(now);
        }
        assert_eq!(ejection.total, 6);
    }

    #[test]
    fn good_times_are_counted_against_the_bad_ones() {
        let mut ejection = Ejection::default();
        for start in [100, 101] {
            ejection.begin(at(start), SETTINGS);
            ejection.end(at(start + 1));
        }
        assert_eq!(ejection.count(at(102), SECOND), 2);
        assert_eq!(ejection.count(at(103), SECOND), 1);
        assert_eq!(ejection.count(at(104), SECOND), 0);
        assert_eq!(ejection.begin(at(104), SETTINGS), SECOND);
        // The time spent ejected is not a good time.
        assert_eq!(ejection.count(at(200), SECOND), 1);
    }

    #[test]
    fn the_allowed_share_is_rounded_down() {
        assert_eq!(
            [(1, 50), (2, 50), (3, 50), (10, 10), (9, 10), (5, 100), (5, 0)].map(|(n, p)| allowed(n, p)),
            [0, 1, 1, 1, 0, 5, 0]
        );
    }

    proptest! {
        #[test]
        fn the_time_is_a_multiple_of_base_or_the_maximum(
            base_ms in 1_u64..5000, factor in 1_u32..20, gaps in proptest::collection::vec(0_u64..20_000, 1..40),
        ) {
            let base = Duration::from_millis(base_ms);
            let settings = EjectSettings { base, max: base * factor, max_percent: 50 };
            let (mut ejection, mut now, mut last) = (Ejection::default(), at(1), 0);
            for gap_ms in gaps {
                let good = u32::try_from(Duration::from_millis(gap_ms).as_nanos() / base.as_nanos()).unwrap();
                let expected = last.min(factor).saturating_sub(good) + 1;
                let time = ejection.begin(now + Duration::from_millis(gap_ms), settings);
                prop_assert_eq!(time, (base * expected).min(settings.max));
                now = now + Duration::from_millis(gap_ms) + time;
                ejection.end(now);
                last = expected.min(factor);
            }
        }
    }
}
