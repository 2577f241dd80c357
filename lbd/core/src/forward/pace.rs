//! How fast the flows are walked through to find those that are over: with pauses that leave the processor to others. A table that is nearly full
//! has shorter ones, and none only while walks make room in it.

use common::time::Duration;

use super::refresh::WALK;

/// A pause is so many times as long as the batch before it took, up to the maximum.
const PAUSE_FACTOR: u32 = 19;
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// It is so many times as long at least.
const PAUSE_FACTOR_MIN: u32 = 1;

/// With so many tenths of its room in use a table is nearly full.
const FULL_TENTHS: u64 = 9;

/// A walk makes room if one flow in so many was over. Where fewer were, half the pace leaves no more than twice as many in the table.
const ROOM_PART: u64 = 64;

/// Brisk walks begin so long after one another at least: a small table is walked through in next to no time.
const BRISK_WALK: Duration = Duration::from_secs(1);

/// The pace of walks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// A twentieth of a processor, or as much more as the time for a walk needs, up to half of one.
    #[default]
    Steady,
    /// Half of a processor: the table is nearly full, of flows that go on.
    Brisk,
    /// A whole one: the table is nearly full, and walks make room.
    Hurried,
}

impl Pace {
    /// That of the walk after one that deleted some flows and left others in a table which has room for `max`.
    #[must_use]
    pub const fn after(deleted: u64, left: u64, max: u64) -> Self {
        if left.saturating_mul(10) <= max.saturating_mul(FULL_TENTHS) {
            Self::Steady
        } else if deleted.saturating_mul(ROOM_PART) < left.saturating_add(deleted) {
            Self::Brisk
        } else {
            Self::Hurried
        }
    }

    /// The pause after a batch that took so long; of a steady walk, if that and the pause together are to be no longer than `share`.
    #[must_use]
    pub fn pause(self, took: Duration, share: Option<Duration>) -> Duration {
        let times = |factor: u32| took.saturating_mul(factor).min(PAUSE_MAX);
        let (most, least) = (times(PAUSE_FACTOR), times(PAUSE_FACTOR_MIN));
        match self {
            Self::Steady => share.map_or(most, |share| most.min(share.saturating_sub(took)).max(least)),
            Self::Brisk => least,
            Self::Hurried => Duration::ZERO,
        }
    }

    /// From a walk's beginning to that of the next one, of which `told` says what replication needs.
    #[must_use]
    pub fn interval(self, told: Option<Duration>) -> Duration {
        let steady = told.unwrap_or(WALK);
        match self {
            Self::Steady => steady,
            Self::Brisk => BRISK_WALK.min(steady),
            Self::Hurried => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_pause_leaves_the_walk_its_time_and_others_the_processor() {
        let pause = |took, share| Pace::Steady.pause(took, share);
        assert_eq!(pause(ms(2), None), ms(38));
        assert_eq!(pause(ms(9), None), PAUSE_MAX);
        assert_eq!(pause(ms(2), Some(ms(60))), ms(38));
        assert_eq!(pause(ms(2), Some(ms(30))), ms(28));
        assert_eq!(pause(ms(2), Some(ms(3))), ms(2), "half of a processor and no more");
        assert_eq!(pause(ms(500), Some(ms(3))), PAUSE_MAX);
    }

    #[test]
    fn only_a_nearly_full_table_in_which_walks_make_room_has_a_whole_processor() {
        let after = |deleted, left| Pace::after(deleted, left, 1_000_000);
        assert_eq!([after(0, 900_000), after(900_000, 0)], [Pace::Steady; 2]);
        assert_eq!([after(0, 1_000_000), after(15_000, 960_000)], [Pace::Brisk; 2]);
        assert_eq!(after(16_000, 960_000), Pace::Hurried);
        for share in [None, Some(ms(3)), Some(ms(60))] {
            let pauses = [Pace::Brisk, Pace::Hurried].map(|pace| pace.pause(ms(2), share));
            assert_eq!(pauses, [ms(2), ms(0)]);
        }
    }

    #[test]
    fn a_table_full_of_flows_that_go_on_is_not_walked_through_all_the_time() {
        let intervals = |told| [Pace::Steady, Pace::Brisk, Pace::Hurried].map(|pace| pace.interval(told));
        assert_eq!(intervals(None), [WALK, BRISK_WALK, ms(0)]);
        assert_eq!(intervals(Some(ms(2500))), [ms(2500), BRISK_WALK, ms(0)]);
        assert_eq!(intervals(Some(ms(500))), [ms(500), ms(500), ms(0)]);
    }
}
