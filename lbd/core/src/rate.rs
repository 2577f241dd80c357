//! How many connections or sessions may begin in a time: a token bucket for each source, or one for the service.
//!
//! A bucket holds as many tokens as the limit says and is full at first; what is taken comes back evenly. It is kept as a
//! single time, the one at which it will be full again (the "generic cell rate algorithm" of ATM), so that it needs no
//! timer and is right however seldom it is looked at.
//!
//! Of a pair's nodes each counts what it has admitted, in a total that only grows, and takes what the other one's total has grown by from its
//! own bucket: so both together admit no more than the limit, but for what is on its way between them.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use common::time::{Duration, Instant};

use crate::bell::Bell;
use crate::sharded::Parts;
use crate::watched::{self, Place, Watched};

/// Sources remembered for one limit; about 130 bytes each once there are so many. In a full table the bucket that nobody
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

impl RateLimit {
    /// When a bucket that is full at `full_at` is full after the other node has admitted so many more; it is never emptier than empty.
    const fn take_others(self, full_at: u64, now: u64, admitted: u64) -> u64 {
        let from = if full_at > now { full_at } else { now };
        let after = from.saturating_add(admitted.saturating_mul(self.token));
        let empty = now.saturating_add(self.bucket);
        if after < empty { after } else { empty }
    }

    /// The same if it is not known how many, but only when the other node's bucket is full. That counts most of this node's own, too.
    fn take_rest(self, full_at: u64, now: u64, remaining: Duration) -> u64 {
        let remaining = u64::try_from(remaining.as_nanos()).unwrap_or(u64::MAX).min(self.bucket);
        full_at.max(now.saturating_add(remaining))
    }

    /// The same of whichever is known.
    fn take_told(self, full_at: u64, now: u64, before: Option<u64>, told: Told) -> u64 {
        match before.and_then(|before| told.total.checked_sub(before)) {
            // Its bucket may be another one than before, of the same source and with a total that is no smaller: then that is too few.
            Some(admitted) => {
                self.take_others(full_at, now, admitted).max(self.take_rest(full_at, now, told.remaining))
            }
            // Another bucket than the one that was told of before.
            None => self.take_rest(full_at, now, told.remaining),
        }
    }
}

/// What a node tells of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// How many it has admitted since it made the bucket.
    pub total: u64,
    /// How long until the bucket is full.
    pub remaining: Duration,
}

/// One bucket that all workers share.
#[derive(Debug)]
pub struct Bucket {
    limit: RateLimit,
    full_at: AtomicU64,
    admitted: AtomicU64,
    bell: Arc<Bell>,
    others: Mutex<Others>,
}

/// What only whoever speaks with the other node looks at.
#[derive(Clone, Copy, Debug, Default)]
struct Others {
    /// The other node's total.
    total: Option<u64>,
    /// This node's total as it was told.
    told: u64,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub fn new(limit: RateLimit) -> Self {
        Self::watched(limit, &Arc::default())
    }

    /// A full one, which rings `bell` with each token taken.
    #[must_use]
    pub fn watched(limit: RateLimit, bell: &Arc<Bell>) -> Self {
        Self {
            limit,
            full_at: AtomicU64::new(0),
            admitted: AtomicU64::new(0),
            bell: Arc::clone(bell),
            others: Mutex::default(),
        }
    }

    /// Takes a token if there is one.
    pub fn admit(&self, now: Instant) -> bool {
        let take = |full_at| self.limit.take(full_at, now.as_nanos());
        let taken = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        if taken && self.bell.is_listened_to() {
            self.admitted.fetch_add(1, Ordering::Relaxed);
            self.bell.ring();
        }
        taken
    }

    /// Whether there is a token, which then stays.
    pub fn has_token(&self, now: Instant) -> bool {
        self.limit.take(self.full_at.load(Ordering::Relaxed), now.as_nanos()).is_some()
    }

    /// What is to be told of it, if it has admitted anything since that was asked last.
    pub fn take_news(&self, now: Instant) -> Option<Told> {
        let told = self.told(now);
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::replace(&mut others.told, told.total) != told.total).then_some(told)
    }

    /// What there is to be told of it.
    pub fn told(&self, now: Instant) -> Told {
        let total = self.admitted.load(Ordering::Relaxed);
        let full_at = self.full_at.load(Ordering::Relaxed);
        Told { total, remaining: Duration::from_nanos(full_at.saturating_sub(now.as_nanos())) }
    }

    /// Takes what the other node has admitted.
    pub fn put(&self, told: Told, now: Instant) {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let before = others.total.replace(told.total);
        let take = |full_at| Some(self.limit.take_told(full_at, now.as_nanos(), before, told));
        let taken = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        debug_assert!(taken.is_ok(), "there is always a time at which it is full");
    }

    /// The other node counts anew.
    pub fn other_began_anew(&self) {
        self.others.lock().unwrap_or_else(PoisonError::into_inner).total = None;
    }
}

/// A bucket for each source.
#[derive(Debug)]
pub struct SourceBuckets {
    limit: RateLimit,
    parts: Parts<Watched<IpAddr, SourceBucket>>,
    forgotten: AtomicU64,
    /// Counts the other node's lives.
    others_life: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct SourceBucket {
    full_at: u64,
    /// What this node has admitted.
    total: u64,
    /// The other node's total, and in which of its lives.
    others: Option<(u64, u64)>,
}

impl SourceBuckets {
    /// For at most `sources_max` sources, all with full buckets.
    #[must_use]
    pub fn new(limit: RateLimit, sources_max: usize) -> Self {
        Self::watched(limit, sources_max, &Arc::default())
    }

    /// The same, which tell with `bell` of each token taken.
    #[must_use]
    pub fn watched(limit: RateLimit, sources_max: usize, bell: &Arc<Bell>) -> Self {
        Self {
            limit,
            parts: Parts::new(sources_max, |max| Watched::new(max, Arc::clone(bell))),
            forgotten: AtomicU64::new(0),
            others_life: AtomicU64::new(0),
        }
    }

    /// Takes a token of `source` if there is one.
    pub fn admit(&self, source: IpAddr, now: Instant) -> bool {
        let now = now.as_nanos();
        let mut part = self.parts.of(&source);
        if let Some(bucket) = part.use_value(&source) {
            let Some(full_at) = self.limit.take(bucket.full_at, now) else { return false };
            (bucket.full_at, bucket.total) = (full_at, bucket.total + 1);
            part.note(&source);
            return true;
        }
        let Some(full_at) = self.limit.take(0, now) else { return false };
        self.insert(&mut part, source, SourceBucket { full_at, total: 1, others: None }, now);
        part.note(&source);
        true
    }

    fn insert(
        &self,
        part: &mut Watched<IpAddr, SourceBucket>,
        source: IpAddr,
        bucket: SourceBucket,
        now: u64,
    ) {
        // Full buckets say nothing: they make room first, and no one will miss them.
        remove_full(part, now);
        if part.insert(source, bucket).is_some() {
            self.forgotten.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes what the other node has admitted of `source`.
    pub fn put(&self, source: IpAddr, told: Told, now: Instant) {
        let now = now.as_nanos();
        let life = self.others_life.load(Ordering::Relaxed);
        let others = Some((told.total, life));
        let mut part = self.parts.of(&source);
        if let Some(bucket) = part.use_value(&source) {
            let before = bucket.others.filter(|before| before.1 == life).map(|before| before.0);
            bucket.full_at = self.limit.take_told(bucket.full_at, now, before, told);
            bucket.others = others;
            return;
        }
        // A full one would only take another one's place.
        if told.remaining == Duration::ZERO {
            return;
        }
        let full_at = self.limit.take_rest(0, now, told.remaining);
        self.insert(&mut part, source, SourceBucket { full_at, total: 0, others }, now);
    }

    /// The other node counts anew.
    pub fn other_began_anew(&self) {
        self.others_life.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes out full buckets, which is told; those that lie behind one that is not full stay for now.
    pub fn expire(&self, now: Instant) {
        for mut part in self.parts.iter() {
            remove_full(&mut part, now.as_nanos());
        }
    }

    /// Tells of sources that have changed, or whose bucket has gone. Whether there is more.
    pub fn take_news(&self, now: Instant, mut tell: impl FnMut(IpAddr, Option<Told>)) -> bool {
        watched::take_news(&self.parts, |&source, bucket| tell(source, bucket.map(|bucket| bucket.told(now))))
    }

    /// News that were not told for want of room: whoever listens is to look at everything.
    #[must_use]
    pub fn news_lost(&self) -> u64 {
        watched::lost(&self.parts)
    }

    /// Visits about `max` sources from `place` on whose bucket is not full, or of which this node has admitted something; answers where to go
    /// on, `None` at the end. A node that begins anew is to know what is left of a bucket from which only it had taken.
    pub fn scan(
        &self,
        place: Place,
        max: usize,
        now: Instant,
        mut visit: impl FnMut(IpAddr, Told),
    ) -> Option<Place> {
        watched::scan(&self.parts, place, max, |&source, bucket| {
            let told = bucket.told(now);
            if told.total > 0 || !told.remaining.is_zero() {
                visit(source, told);
            }
        })
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

impl SourceBucket {
    fn told(&self, now: Instant) -> Told {
        Told {
            total: self.total,
            remaining: Duration::from_nanos(self.full_at.saturating_sub(now.as_nanos())),
        }
    }
}

fn remove_full(part: &mut Watched<IpAddr, SourceBucket>, now: u64) {
    while part.oldest().is_some_and(|(_, bucket)| bucket.full_at <= now) {
        part.remove_oldest();
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

    /// As the README says of it, too.
    #[test]
    fn a_source_takes_130_bytes() {
        let buckets = SourceBuckets::new(RateLimit::new(2, Duration::from_secs(3600)), SOURCES_MAX);
        // More than there is room for, so that each part is full.
        for number in 0..u32::try_from(2 * SOURCES_MAX).unwrap() {
            assert!(buckets.admit(IpAddr::from(number.to_be_bytes()), at_ms(1)));
        }
        assert_eq!(buckets.len(), SOURCES_MAX);
        let each = buckets.parts.iter().map(|part| part.bytes()).sum::<usize>() / buckets.len();
        assert!((125..=135).contains(&each), "{each}");
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

    fn heard() -> Arc<Bell> {
        let bell = Bell::default();
        bell.listen(true);
        Arc::new(bell)
    }

    /// Tells one node's news to the other.
    fn tell(from: &SourceBuckets, to: &SourceBuckets, now: Instant) {
        while from.take_news(now, |source, told| {
            if let Some(told) = told {
                to.put(source, told, now);
            }
        }) {}
    }

    #[test]
    fn two_nodes_together_admit_no_more_than_one() {
        let limit = RateLimit::new(10, Duration::from_secs(10));
        let nodes = [heard(), heard()].map(|bell| SourceBuckets::watched(limit, 100, &bell));
        let mut admitted = 0;
        for step in 0..60 {
            let (now, node) = (at_ms(1000 + step * 500), (step % 2) as usize);
            admitted += u32::from(nodes[node].admit(A, now));
            tell(&nodes[node], &nodes[1 - node], now);
        }
        assert_eq!(admitted, 10 + 29, "a bucket, and what came back in half a minute");
        // What is left of a bucket from which only the other node has taken is known, too.
        let only = SourceBuckets::watched(limit, 100, &heard());
        only.put(B, Told { total: 8, remaining: Duration::from_secs(8) }, at_ms(1000));
        let mut found = Vec::new();
        only.scan(Place::default(), 100, at_ms(3000), |source, told| found.push((source, told)));
        assert_eq!(found, [(B, Told { total: 0, remaining: Duration::from_secs(6) })]);
        // A node that begins anew knows what the other one has admitted, and does not count it twice.
        let fresh = SourceBuckets::watched(limit, 100, &heard());
        let now = at_ms(30_500);
        assert!(fresh.admit(B, now));
        nodes[0].scan(Place::default(), 100, now, |source, told| fresh.put(source, told, now));
        assert!(!fresh.admit(A, now) && fresh.admit(A, at_ms(31_000)));
        nodes[0].other_began_anew();
        tell(&fresh, &nodes[0], at_ms(31_000));
        assert!(!nodes[0].admit(A, at_ms(31_000)) && nodes[0].admit(A, at_ms(32_000)));
    }

    #[test]
    fn a_shared_bucket_is_shared_by_two_nodes_too() {
        let limit = RateLimit::new(4, Duration::from_secs(4));
        let nodes = [heard(), heard()].map(|bell| Bucket::watched(limit, &bell));
        let now = at_ms(1000);
        assert!((0..4).all(|_| nodes[0].admit(now)));
        nodes[1].put(nodes[0].take_news(now).unwrap(), now);
        assert_eq!((nodes[0].take_news(now), nodes[1].admit(now)), (None, false));
        assert!(nodes[1].admit(at_ms(2000)) && !nodes[1].admit(at_ms(2000)));
        nodes[0].put(nodes[1].take_news(at_ms(2000)).unwrap(), at_ms(2000));
        assert!(!nodes[0].admit(at_ms(2000)));
        // Nonsense empties the bucket at most.
        nodes[0].put(Told { total: u64::MAX, remaining: Duration::MAX }, at_ms(2000));
        assert!(!nodes[0].admit(at_ms(2900)) && nodes[0].admit(at_ms(3000)));
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
