//! How many connections or sessions may begin in a time: a token bucket for each source, or one for the service.
//!
//! A bucket holds as many tokens as the limit says and is full at first; what is taken comes back evenly. It is kept as a
//! single time, the one at which it will be full again (the "generic cell rate algorithm" of ATM), so that it needs no
//! timer and is right however seldom it is looked at.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use common::time::{Duration, Instant};

use crate::recent::Recent;
use crate::sharded::Parts;

/// Sources remembered for one limit; about 100 bytes each once there are so many. In a full table the bucket that nobody
/// took from for the longest is forgotten (and is full when its source comes back), which is counted.
pub const SOURCES_MAX: usize = 131_072;

/// A limit: `requests` per `per`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// In nanoseconds: the time after which one token comes back.
    token: u64,
    /// In nanoseconds: the time after which an empty bucket is full.
    bucket: u64,
}

impl RateLimit {
    /// `requests` (at least 1) in each `per`, and as many at once.
    #[must_use]
    pub fn new(requests: u32, per: Duration) -> Self {
        let requests = u64::from(requests.max(1));
        let per = u64::try_from(per.as_nanos()).unwrap_or(u64::MAX);
        // Rounded up, so that the limit is never exceeded.
        let token = per.div_ceil(requests).max(1);
        Self { token, bucket: token.saturating_mul(requests) }
    }

    /// Takes a token from the bucket that is full at `full_at`; answers when it is then full, `None` if it was empty.
    fn take(self, full_at: u64, now: u64) -> Option<u64> {
        let after = full_at.max(now).checked_add(self.token)?;
        (after - now <= self.bucket).then_some(after)
    }
}

/// One bucket that all workers share.
#[derive(Debug)]
pub struct Bucket {
    limit: RateLimit,
    full_at: AtomicU64,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub const fn new(limit: RateLimit) -> Self {
        Self { limit, full_at: AtomicU64::new(0) }
    }

    /// Takes a token if there is one.
    pub fn admit(&self, now: Instant) -> bool {
        let take = |full_at| self.limit.take(full_at, now.as_nanos());
        self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

/// A bucket for each source.
#[derive(Debug)]
pub struct SourceBuckets {
    limit: RateLimit,
    parts: Parts<Recent<IpAddr, u64>>,
    forgotten: AtomicU64,
}

impl SourceBuckets {
    /// For at most `sources_max` sources, all with full buckets.
    #[must_use]
    pub fn new(limit: RateLimit, sources_max: usize) -> Self {
        Self { limit, parts: Parts::new(sources_max, Recent::new), forgotten: AtomicU64::new(0) }
    }

    /// Takes a token of `source` if there is one.
    pub fn admit(&self, source: IpAddr, now: Instant) -> bool {
        let now = now.as_nanos();
        let mut part = self.parts.of(&source);
        if let Some(full_at) = part.use_value(&source) {
            let taken = self.limit.take(*full_at, now);
            *full_at = taken.unwrap_or(*full_at);
            return taken.is_some();
        }
        // Full buckets say nothing: they make room first, and no one will miss them.
        while part.oldest().is_some_and(|(_, &full_at)| full_at <= now) {
            part.remove_oldest();
        }
        let Some(full_at) = self.limit.take(0, now) else { return false };
        if part.insert(source, full_at).is_some() {
            self.forgotten.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    /// Buckets that were not full when the table had no more room for them.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// Sources remembered now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// Whether no source is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn at_ms(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn a_bucket_empties_and_comes_back_evenly() {
        let bucket = Bucket::new(RateLimit::new(3, Duration::from_secs(1)));
        let taken = |ms| bucket.admit(at_ms(ms));
        assert_eq!([taken(5000), taken(5000), taken(5000), taken(5000)], [true, true, true, false]);
        assert_eq!([taken(5333), taken(5334), taken(5335)], [false, true, false]);
        assert_eq!([taken(9000), taken(9000), taken(9000), taken(9000)], [true, true, true, false]);
    }

    #[test]
    fn sources_have_buckets_of_their_own() {
        let buckets = SourceBuckets::new(RateLimit::new(1, Duration::from_secs(10)), 100);
        assert!(buckets.admit(A, at_ms(1)) && buckets.admit(B, at_ms(1)));
        assert!(!buckets.admit(A, at_ms(2)) && !buckets.admit(B, at_ms(2)));
        assert!(buckets.admit(A, at_ms(10_001)));
        assert_eq!((buckets.len(), buckets.is_empty(), buckets.forgotten()), (2, false, 0));
    }

    #[test]
    fn a_full_table_forgets_full_buckets_first_and_counts_others() {
        let buckets = SourceBuckets::new(RateLimit::new(2, Duration::from_secs(2)), 10);
        let source = |number: u8| IpAddr::from([10, 0, 0, number]);
        for number in 0..10 {
            assert!(buckets.admit(source(number), at_ms(1)));
        }
        assert!(buckets.admit(source(10), at_ms(1002)), "all buckets are full again by now");
        assert_eq!((buckets.len(), buckets.forgotten()), (1, 0));
        for number in 0..20 {
            assert!(buckets.admit(source(number), at_ms(1003)));
        }
        assert_eq!(buckets.len(), 10);
        assert!(buckets.forgotten() >= 9, "{}", buckets.forgotten());
    }

    #[test]
    fn extremes_do_not_overflow() {
        let never = Bucket::new(RateLimit::new(1, Duration::MAX));
        assert!(never.admit(Instant::from_nanos(0)) && !never.admit(Instant::from_nanos(u64::MAX / 2)));
        let always = Bucket::new(RateLimit::new(u32::MAX, Duration::from_nanos(1)));
        assert!((0..1000).all(|_| always.admit(Instant::from_nanos(7))));
        assert!(!Bucket::new(RateLimit::new(1, Duration::from_secs(1))).admit(Instant::from_nanos(u64::MAX)));
    }

    proptest! {
        /// In no span of time more than a bucket and what came back meanwhile; and whoever keeps to the rate gets all.
        #[test]
        fn never_above_the_limit(
            requests in 1_u32..50, per_ms in 1_u64..5000, gaps in proptest::collection::vec(0_u64..400, 1..200),
        ) {
            let limit = RateLimit::new(requests, Duration::from_millis(per_ms));
            let buckets = SourceBuckets::new(limit, 10);
            let mut now = 1_000_000;
            let mut admitted = Vec::new();
            for gap in gaps {
                now += gap * 1_000_000;
                if buckets.admit(A, Instant::from_nanos(now)) {
                    admitted.push(now);
                }
            }
            for (index, &from) in admitted.iter().enumerate() {
                for (count, &to) in (1_u128..).zip(&admitted[index..]) {
                    let came_back = u128::from(to - from) * u128::from(requests) / (u128::from(per_ms) * 1_000_000);
                    prop_assert!(count <= u128::from(requests) + came_back + 1);
                }
            }
            let steady = SourceBuckets::new(limit, 10);
            for step in 0..200 {
                prop_assert!(steady.admit(B, Instant::from_nanos(1 + step * limit.token)));
            }
        }
    }
}
