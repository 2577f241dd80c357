//! How durations are distributed: counts in fixed buckets, cheap enough for every connection.

use std::sync::atomic::{AtomicU64, Ordering};

use common::time::Duration;

/// The upper ends of the buckets in microseconds: 1, 2.5 and 5 of each decade from 100 µs to 500 s. What takes longer is
/// in one more.
pub const BOUNDS_US: [u64; 21] = [
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
];

/// Counts of durations. Written by one thread, read by any.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// What a histogram held at one time, or several together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Durations in each bucket alone, the last one beyond all bounds.
    pub buckets: [u64; BOUNDS_US.len() + 1],
    /// Their sum in microseconds.
    pub sum_us: u64,
}

/// A duration as it is counted: found out once for several histograms.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    micros: u64,
    bucket: usize,
}

impl From<Duration> for Sample {
    fn from(span: Duration) -> Self {
        // As `as_micros`, but for the 128 bits that no duration here needs.
        let micros = span.as_secs().saturating_mul(1_000_000).saturating_add(span.subsec_micros().into());
        Self { micros, bucket: BOUNDS_US.partition_point(|&bound| bound < micros) }
    }
}

impl Histogram {
    /// Counts a duration.
    pub fn record(&self, span: impl Into<Sample>) {
        let Sample { micros, bucket } = span.into();
        // Its only writer: no other addition can get lost between the two.
        let add = |to: &AtomicU64, value| {
            to.store(to.load(Ordering::Relaxed).wrapping_add(value), Ordering::Relaxed);
        };
        add(&self.buckets[bucket], 1);
        add(&self.sum_us, micros);
    }

    /// What it holds.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts { sum_us: self.sum_us.load(Ordering::Relaxed), ..Counts::default() };
        for (count, bucket) in counts.buckets.iter_mut().zip(&self.buckets) {
            *count = bucket.load(Ordering::Relaxed);
        }
        counts
    }
}

impl Counts {
    /// Both together.
    #[must_use]
    pub fn with(mut self, other: &Self) -> Self {
        for (count, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *count = count.wrapping_add(*more);
        }
        self.sum_us = self.sum_us.wrapping_add(other.sum_us);
        self
    }

    /// How many durations.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// How many took no longer than each of [`BOUNDS_US`], and last of all how many there are.
    #[must_use]
    pub fn cumulative(&self) -> [u64; BOUNDS_US.len() + 1] {
        let mut sum = 0_u64;
        self.buckets.map(|count| {
            sum = sum.wrapping_add(count);
            sum
        })
    }

    /// An upper bound in microseconds of the fraction `part` of `of` of all durations (`99, 100` for the 99th percentile):
    /// the end of the bucket it falls in; none without durations or beyond all bounds.
    #[must_use]
    pub fn quantile_us(&self, part: u64, of: u64) -> Option<u64> {
        let rank = (self.total() * part).div_ceil(of).max(1);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        BOUNDS_US.get(bucket).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_duration_is_in_the_bucket_that_holds_it(all in proptest::collection::vec(0_u64..2_000_000_000, 0..50)) {
            let histogram = Histogram::default();
            for &micros in &all {
                histogram.record(Duration::from_micros(micros));
            }
            let counts = histogram.counts();
            prop_assert_eq!(counts.total(), all.len() as u64);
            prop_assert_eq!(counts.sum_us, all.iter().sum::<u64>());
            for (index, &bound) in BOUNDS_US.iter().enumerate() {
                let within = all.iter().filter(|&&micros| micros <= bound).count() as u64;
                prop_assert_eq!(counts.cumulative()[index], within);
            }
            prop_assert_eq!(counts.cumulative()[BOUNDS_US.len()], counts.total());
            prop_assert_eq!(counts.with(&counts).total(), 2 * all.len() as u64);
        }

        #[test]
        fn a_quantile_is_an_upper_bound(mut all in proptest::collection::vec(1_u64..400_000_000, 1..50), part in 1_u64..=100) {
            let histogram = Histogram::default();
            for &micros in &all {
                histogram.record(Duration::from_micros(micros));
            }
            all.sort_unstable();
            let rank = (all.len() as u64 * part).div_ceil(100).max(1);
            let exact = all[usize::try_from(rank).unwrap() - 1];
            let bound = histogram.counts().quantile_us(part, 100).expect("within the bounds");
            prop_assert!(exact <= bound);
            prop_assert!(BOUNDS_US.iter().filter(|&&end| end < bound).all(|&end| end < exact));
        }
    }

    #[test]
    fn nothing_has_no_quantile() {
        assert_eq!(Histogram::default().counts().quantile_us(1, 2), None);
    }
}
