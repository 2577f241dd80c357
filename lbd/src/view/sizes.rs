//! What the API shows of how long bodies were.

use lbd_core::histogram::{BOUNDS_BYTES, SizeCounts};
use serde::{Deserialize, Serialize};

use crate::counters::{BodySizes, Sharded};

/// How long the bodies of requests and of their answers were since the start. A daemon of a former version says nothing of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct BodySizesView {
    /// Of requests.
    pub(crate) to_target: SizesView,
    /// Of answers.
    pub(crate) to_client: SizesView,
}

/// The histogram of `GET /metrics`, and upper bounds of quantiles, which are null without any value, or beyond the last bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SizesView {
    /// Half were no longer, in bytes.
    pub(crate) p50_bytes: Option<u64>,
    /// 99 of 100 were no longer, in bytes.
    pub(crate) p99_bytes: Option<u64>,
    /// How many there were, those of no byte included.
    pub(crate) count: u64,
    /// All of them together, in bytes.
    pub(crate) sum_bytes: u64,
    /// By rising bounds, always the same ones; the last one has none.
    pub(crate) buckets: Vec<SizeBucketView>,
}

/// How many were no longer than a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SizeBucketView {
    /// The bound in bytes; null for none.
    pub(crate) up_to_bytes: Option<u64>,
    /// How many were no longer, those of the smaller bounds included.
    pub(crate) count: u64,
}

impl From<SizeCounts> for SizesView {
    fn from(counts: SizeCounts) -> Self {
        let bounds = BOUNDS_BYTES.into_iter().map(Some).chain([None]);
        let buckets = bounds.zip(counts.cumulative());
        Self {
            p50_bytes: counts.quantile_bytes(50, 100),
            p99_bytes: counts.quantile_bytes(99, 100),
            count: counts.total(),
            sum_bytes: counts.sum,
            buckets: buckets.map(|(up_to_bytes, count)| SizeBucketView { up_to_bytes, count }).collect(),
        }
    }
}

/// What all workers have counted of them.
pub(super) fn body_sizes<T: Default>(counters: &Sharded<T>, pick: fn(&T) -> &BodySizes) -> BodySizesView {
    let of = |way: usize| SizesView::from(counters.counts(|shard| &pick(shard).0[way]));
    BodySizesView { to_target: of(0), to_client: of(1) }
}

#[cfg(test)]
mod tests {
    use lbd_core::histogram::Sizes;

    use super::*;

    #[test]
    fn counts_add_up_from_bound_to_bound() {
        let histogram = Sizes::default();
        for bytes in [0_u64, 0, 300, 5 << 30] {
            histogram.record(bytes);
        }
        let view = SizesView::from(histogram.counts());
        assert_eq!((view.count, view.sum_bytes), (4, 300 + (5 << 30)));
        assert_eq!((view.p50_bytes, view.p99_bytes), (Some(0), None));
        let bucket = |index: usize| (view.buckets[index].up_to_bytes, view.buckets[index].count);
        assert_eq!([0, 1, 2].map(bucket), [(Some(0), 2), (Some(256), 2), (Some(1024), 3)]);
        assert_eq!((bucket(14), view.buckets.len()), ((None, 4), 15));
    }
}
