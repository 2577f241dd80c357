//! What the API shows of how long something took.

use lbd_core::histogram::{BOUNDS_US, DurationCounts};
use serde::{Deserialize, Serialize};

/// How long something took since the start: the histogram of `GET /metrics`, and upper bounds of quantiles, which are null without any
/// value, or beyond the last bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DurationsView {
    /// Half took no longer, in microseconds.
    pub(crate) p50_us: Option<u64>,
    /// 99 of 100 took no longer, in microseconds.
    pub(crate) p99_us: Option<u64>,
    /// How many there were.
    #[serde(default)]
    pub(crate) count: u64,
    /// All of them together, in microseconds.
    #[serde(default)]
    pub(crate) sum_us: u64,
    /// By rising bounds, always the same ones; the last one has none.
    #[serde(default)]
    pub(crate) buckets: Vec<BucketView>,
}

/// How many took no longer than a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BucketView {
    /// The bound in microseconds; null for none.
    pub(crate) up_to_us: Option<u64>,
    /// How many took no longer, those of the smaller bounds included.
    pub(crate) count: u64,
}

impl From<DurationCounts> for DurationsView {
    fn from(counts: DurationCounts) -> Self {
        let bounds = BOUNDS_US.into_iter().map(Some).chain([None]);
        let buckets = bounds.zip(counts.cumulative());
        Self {
            p50_us: counts.quantile_us(50, 100),
            p99_us: counts.quantile_us(99, 100),
            count: counts.total(),
            sum_us: counts.sum,
            buckets: buckets.map(|(up_to_us, count)| BucketView { up_to_us, count }).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lbd_core::histogram::Durations;

    use super::*;

    #[test]
    fn counts_add_up_from_bound_to_bound() {
        let histogram = Durations::default();
        for micros in [100, 101, 400, 600_000_000] {
            histogram.record(Duration::from_micros(micros));
        }
        let view = DurationsView::from(histogram.counts());
        assert_eq!((view.count, view.sum_us), (4, 600_000_601));
        assert_eq!((view.p50_us, view.p99_us), (Some(250), None));
        let bucket = |index: usize| (view.buckets[index].up_to_us, view.buckets[index].count);
        assert_eq!([0, 1, 2].map(bucket), [(Some(100), 1), (Some(250), 2), (Some(500), 3)]);
        assert_eq!(bucket(20), (Some(500_000_000), 3));
        assert_eq!((bucket(21), view.buckets.len()), ((None, 4), 22));
    }
}
