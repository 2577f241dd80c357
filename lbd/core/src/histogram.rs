//! How durations and sizes are distributed: counts in fixed buckets, cheap enough for every connection and request.

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

/// The upper ends of the buckets of sizes in bytes: nothing at all, and then from 256 bytes to 4 GiB each four times the one before. What is
/// larger is in one more.
pub const BOUNDS_BYTES: [u64; 14] = [
    0,
    256,
    1 << 10,
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
    4 << 20,
    16 << 20,
    64 << 20,
    256 << 20,
    1 << 30,
    4 << 30,
];

/// Counts of values by the bucket that they are in. Written by one thread, read by any.
#[derive(Debug)]
pub struct Histogram<const BUCKETS: usize> {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

/// A histogram by [`BOUNDS_US`].
pub type Durations = Histogram<{ BOUNDS_US.len() + 1 }>;

/// A histogram by [`BOUNDS_BYTES`].
pub type Sizes = Histogram<{ BOUNDS_BYTES.len() + 1 }>;

/// What a histogram held at one time, or several together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts<const BUCKETS: usize> {
    /// Values in each bucket alone, the last one beyond all bounds.
    pub buckets: [u64; BUCKETS],
    /// Their sum, in microseconds or bytes.
    pub sum: u64,
}

/// What [`Durations`] held.
pub type DurationCounts = Counts<{ BOUNDS_US.len() + 1 }>;

/// What [`Sizes`] held.
pub type SizeCounts = Counts<{ BOUNDS_BYTES.len() + 1 }>;

/// A value with its bucket, which is looked for once however many histograms it is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample<const BUCKETS: usize> {
    value: u64,
    bucket: usize,
}

/// A duration as [`Durations`] count it.
pub type DurationSample = Sample<{ BOUNDS_US.len() + 1 }>;

/// A size as [`Sizes`] count it.
pub type SizeSample = Sample<{ BOUNDS_BYTES.len() + 1 }>;

impl From<Duration> for DurationSample {
    fn from(span: Duration) -> Self {
        // As `as_micros`, but for the 128 bits that no duration here needs.
        let micros = span.as_secs().saturating_mul(1_000_000).saturating_add(span.subsec_micros().into());
        Self { value: micros, bucket: bucket(&BOUNDS_US, micros) }
    }
}

impl From<u64> for SizeSample {
    fn from(bytes: u64) -> Self {
        Self { value: bytes, bucket: bucket(&BOUNDS_BYTES, bytes) }
    }
}

/// The place of the first of the bounds that is no smaller, or of the bucket beyond all of them.
fn bucket(bounds: &[u64], value: u64) -> usize {
    bounds.partition_point(|&bound| bound < value)
}

impl<const BUCKETS: usize> Default for Histogram<BUCKETS> {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU64::new(0)), sum: AtomicU64::new(0) }
    }
}

impl<const BUCKETS: usize> Histogram<BUCKETS> {
    /// Counts a value: a duration, or a size in bytes.
    pub fn record(&self, value: impl Into<Sample<BUCKETS>>) {
        let Sample { value, bucket } = value.into();
        // Its only writer: no other addition can get lost between the two.
        let add = |to: &AtomicU64, value: u64| {
            to.store(to.load(Ordering::Relaxed).wrapping_add(value), Ordering::Relaxed);
        };
        add(&self.buckets[bucket], 1);
        add(&self.sum, value);
    }

    /// What it holds.
    #[must_use]
    pub fn counts(&self) -> Counts<BUCKETS> {
        let mut counts = Counts { sum: self.sum.load(Ordering::Relaxed), ..Counts::default() };
        for (count, bucket) in counts.buckets.iter_mut().zip(&self.buckets) {
            *count = bucket.load(Ordering::Relaxed);
        }
        counts
    }
}

impl<const BUCKETS: usize> Default for Counts<BUCKETS> {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], sum: 0 }
    }
}

impl<const BUCKETS: usize> Counts<BUCKETS> {
    /// Both together.
    #[must_use]
    pub fn with(mut self, other: &Self) -> Self {
        for (count, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *count = count.wrapping_add(*more);
        }
        self.sum = self.sum.wrapping_add(other.sum);
        self
    }

    /// How many values.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// How many were no larger than each of the bounds, and last of all how many there are.
    #[must_use]
    pub fn cumulative(&self) -> [u64; BUCKETS] {
        let mut sum = 0_u64;
        self.buckets.map(|count| {
            sum = sum.wrapping_add(count);
            sum
        })
    }

    /// An upper bound of the fraction `part` of `of` of all values: the end of the bucket it falls in; none without values or beyond all
    /// `bounds`.
    fn quantile(&self, bounds: &[u64], part: u64, of: u64) -> Option<u64> {
        let rank = (self.total() * part).div_ceil(of).max(1);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        bounds.get(bucket).copied()
    }
}

impl DurationCounts {
    /// An upper bound in microseconds of the fraction `part` of `of` of all durations (`99, 100` for the 99th percentile):
    /// the end of the bucket it falls in; none without durations or beyond all bounds.
    #[must_use]
    pub fn quantile_us(&self, part: u64, of: u64) -> Option<u64> {
        self.quantile(&BOUNDS_US, part, of)
    }
}

impl SizeCounts {
    /// The same of sizes, in bytes.
    #[must_use]
    pub fn quantile_bytes(&self, part: u64, of: u64) -> Option<u64> {
        self.quantile(&BOUNDS_BYTES, part, of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_duration_is_in_the_bucket_that_holds_it(all in proptest::collection::vec(0_u64..2_000_000_000, 0..50)) {
            let histogram = Durations::default();
            for &micros in &all {
                histogram.record(Duration::from_micros(micros));
            }
            let counts = histogram.counts();
            prop_assert_eq!(counts.total(), all.len() as u64);
            prop_assert_eq!(counts.sum, all.iter().sum::<u64>());
            for (index, &bound) in BOUNDS_US.iter().enumerate() {
                let within = all.iter().filter(|&&micros| micros <= bound).count() as u64;
                prop_assert_eq!(counts.cumulative()[index], within);
            }
            prop_assert_eq!(counts.cumulative()[BOUNDS_US.len()], counts.total());
            prop_assert_eq!(counts.with(&counts).total(), 2 * all.len() as u64);
        }

        #[test]
        fn a_quantile_is_an_upper_bound(mut all in proptest::collection::vec(1_u64..400_000_000, 1..50), part in 1_u64..=100) {
            let histogram = Durations::default();
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
        assert_eq!(Durations::default().counts().quantile_us(1, 2), None);
        assert_eq!(Sizes::default().counts().quantile_bytes(1, 2), None);
    }

    #[test]
    fn a_size_is_in_the_bucket_that_holds_it_and_nothing_in_one_of_its_own() {
        let histogram = Sizes::default();
        for bytes in [0_u64, 0, 1, 256, 257, 4 << 30, (4 << 30) + 1] {
            histogram.record(bytes);
        }
        let counts = histogram.counts();
        assert_eq!((counts.total(), counts.sum), (7, 514 + (8 << 30) + 1));
        assert_eq!(counts.cumulative()[..3], [2, 4, 5]);
        assert_eq!(counts.cumulative()[BOUNDS_BYTES.len() - 1..], [6, 7]);
        assert_eq!(
            [(1, 7), (4, 7), (6, 7), (1, 1)].map(|(part, of)| counts.quantile_bytes(part, of)),
            [Some(0), Some(256), Some(4 << 30), None]
        );
    }
}
