//! Which target a client was sent to, so that it is sent there again.
//!
//! Targets are named by their id, never by their place in a list: a reload, or the other node of a pair, may have them in
//! another order.

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::time::{Duration, Instant};

use crate::bell::Bell;
use crate::sharded::Parts;
use crate::watched::{self, Place, Watched};

/// The clients of a target group, or the sessions of a service, by `K`. All workers share it.
///
/// An entry lasts for `ttl` after its last use. In a full table the one unused for the longest makes room, which is counted;
/// its client gets a target like a new one when it comes back. About 130 bytes for each entry, and its key once more while it waits
/// to be told.
///
/// What is new is told to whoever listens to the table's [`Bell`]: entries that came or went, other targets, and that an entry lasts longer
/// than was told, once that is an eighth of `ttl` or more.
#[derive(Debug)]
pub struct StickyTable<K = IpAddr> {
    ttl: AtomicU64,
    parts: Parts<Watched<K, Entry>>,
    forgotten: AtomicU64,
    bell: Arc<Bell>,
}

#[derive(Clone, Debug)]
struct Entry {
    target: Arc<str>,
    expires: Instant,
    /// When it expires as far as whoever listens knows.
    told: Instant,
}

/// By how much of its lifetime an entry lasts longer than was told before that is told: a client that comes all the time costs
/// eight words in a lifetime.
const TOLD_PARTS: u64 = 8;

/// An entry, as shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StickyView {
    /// The client.
    pub source: IpAddr,
    /// The target's id.
    pub target: Arc<str>,
    /// How long the entry lasts if it is not used again.
    pub remaining: Duration,
}

impl<K: Hash + Eq + Clone> StickyTable<K> {
    /// An empty table of at most `entries_max` entries, which rings `bell` when it has news.
    #[must_use]
    pub fn new(entries_max: usize, ttl: Duration, bell: &Arc<Bell>) -> Self {
        Self {
            ttl: AtomicU64::new(nanos(ttl)),
            parts: Parts::new(entries_max, |max| Watched::new(max, Arc::clone(bell))),
            forgotten: AtomicU64::new(0),
            bell: Arc::clone(bell),
        }
    }

    /// Whether somebody listens to its news.
    #[must_use]
    pub fn is_listened_to(&self) -> bool {
        self.bell.is_listened_to()
    }

    /// Applies changed settings. Entries keep the lifetime they had, or go if there is no more room for them.
    pub fn reconfigure(&self, entries_max: usize, ttl: Duration) {
        self.ttl.store(nanos(ttl), Ordering::Relaxed);
        let each = self.parts.entries_each(entries_max);
        for mut part in self.parts.iter() {
            let gone = part.set_max(each) as u64;
            self.forgotten.fetch_add(gone, Ordering::Relaxed);
        }
    }

    /// The id of the target that `source` was sent to; its entry lasts longer for it.
    pub fn find(&self, source: &K, now: Instant) -> Option<Arc<str>> {
        let mut part = self.parts.of(source);
        let entry = part.use_value(source).filter(|entry| entry.expires > now)?;
        entry.expires = self.expiry(now);
        let (target, overdue) = (Arc::clone(&entry.target), self.is_overdue(entry));
        if overdue {
            part.note(source);
        }
        Some(target)
    }

    /// Says that `source` is sent to `target`. If another connection of the same source has been sent elsewhere meanwhile,
    /// that target counts and is answered, unless it is `except`, the one that turned out to be of no use.
    pub fn enter(&self, source: &K, target: &Arc<str>, except: Option<&str>, now: Instant) -> Arc<str> {
        let expires = self.expiry(now);
        let mut part = self.parts.of(source);
        if let Some(entry) = part.use_value(source) {
            let replaced = entry.expires <= now || Some(&*entry.target) == except;
            if replaced {
                entry.target = Arc::clone(target);
            }
            entry.expires = expires;
            let (decided, overdue) = (Arc::clone(&entry.target), self.is_overdue(entry));
            if replaced || overdue {
                part.note(source);
            }
            return decided;
        }
        self.insert(
            &mut part,
            source,
            Entry { target: Arc::clone(target), expires, told: Instant::ZERO },
            now,
        );
        part.note(source);
        Arc::clone(target)
    }

    /// The entry of `source` is over.
    pub fn leave(&self, source: &K) {
        self.parts.of(source).remove(source);
    }

    /// Takes over the other node's entry, for what is left of its lifetime, but no longer than a new one of this table has. It makes room
    /// for itself as any other does, and is no news.
    pub fn put(&self, source: &K, target: &Arc<str>, remaining: Duration, now: Instant) {
        let expires = (now + remaining).min(self.expiry(now));
        let mut part = self.parts.of(source);
        let new = Entry { target: Arc::clone(target), expires, told: expires };
        match part.use_value(source) {
            Some(entry) => *entry = new,
            None => self.insert(&mut part, source, new, now),
        }
    }

    /// The other node says that the entry of `source` is over, which is no news.
    pub fn withdraw(&self, source: &K) {
        self.parts.of(source).drop_silently(source);
    }

    /// Takes out entries that have expired, which is told; those that lie behind one that has not stay for now.
    pub fn expire(&self, now: Instant) {
        for mut part in self.parts.iter() {
            remove_expired(&mut part, now);
        }
    }

    /// Tells of what has changed: the target of a key and how long that lasts, or that there is none any more. Whether there is more.
    pub fn take_news(&self, now: Instant, mut tell: impl FnMut(&K, Option<(&Arc<str>, Duration)>)) -> bool {
        watched::take_news(&self.parts, |key, entry| {
            let entry = entry.filter(|entry| entry.expires > now);
            tell(
                key,
                entry.map(|entry| {
                    entry.told = entry.expires;
                    (&entry.target, entry.expires - now)
                }),
            );
        })
    }

    /// News that were not told for want of room: whoever listens is to look at everything.
    #[must_use]
    pub fn news_lost(&self) -> u64 {
        watched::lost(&self.parts)
    }

    /// Visits about `max` live entries from `place` on; answers where to go on, `None` at the end. None that is there all the time is left
    /// out.
    pub fn scan(
        &self,
        place: Place,
        max: usize,
        now: Instant,
        mut visit: impl FnMut(&K, &Arc<str>, Duration),
    ) -> Option<Place> {
        watched::scan(&self.parts, place, max, |key, entry| {
            if entry.expires > now {
                visit(key, &entry.target, entry.expires - now);
            }
        })
    }

    /// Entries that had not expired when the table had no more room for them.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// Entries in the table, expired ones that nobody has asked for since included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// Whether it has no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn insert(&self, part: &mut Watched<K, Entry>, source: &K, entry: Entry, now: Instant) {
        // What has expired makes room first: the order of use is the order of expiry, as long as `ttl` stays the same.
        remove_expired(part, now);
        if part.insert(source.clone(), entry).is_some() {
            self.forgotten.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn expiry(&self, now: Instant) -> Instant {
        now + Duration::from_nanos(self.ttl.load(Ordering::Relaxed))
    }

    /// Whether an entry lasts so much longer than was told that it is to be told.
    fn is_overdue(&self, entry: &Entry) -> bool {
        let least = Duration::from_nanos(self.ttl.load(Ordering::Relaxed) / TOLD_PARTS);
        entry.expires.since(entry.told) >= least
    }
}

impl StickyTable {
    /// Up to `max` live entries, for people to look at.
    #[must_use]
    pub fn entries(&self, max: usize, now: Instant) -> Vec<StickyView> {
        let mut entries = Vec::new();
        for part in self.parts.iter() {
            let live = part.iter().filter(|(_, entry)| entry.expires > now);
            let view = |(&source, entry): (&IpAddr, &Entry)| StickyView {
                source,
                target: Arc::clone(&entry.target),
                remaining: entry.expires - now,
            };
            entries.extend(live.map(view).take(max - entries.len()));
        }
        entries
    }
}

fn remove_expired<K: Hash + Eq + Clone>(part: &mut Watched<K, Entry>, now: Instant) {
    while part.oldest().is_some_and(|(_, entry)| entry.expires <= now) {
        part.remove_oldest();
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    fn source(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    fn id(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    const TTL: Duration = Duration::from_secs(10);

    #[test]
    fn a_client_stays_as_long_as_it_comes_back_in_time() {
        let table = StickyTable::new(100, TTL, &Arc::default());
        assert_eq!(table.find(&source(1), at(0)), None);
        assert_eq!(table.enter(&source(1), &id("a"), None, at(0)), id("a"));
        assert_eq!(table.find(&source(1), at(9)), Some(id("a")));
        assert_eq!(table.find(&source(1), at(18)), Some(id("a")));
        assert_eq!(table.find(&source(1), at(28)), None);
        assert_eq!(
            table.enter(&source(1), &id("b"), None, at(28)),
            id("b"),
            "an expired entry does not count"
        );
    }

    #[test]
    fn connections_that_come_at_the_same_time_end_up_together() {
        let table = StickyTable::new(100, TTL, &Arc::default());
        assert_eq!(table.enter(&source(1), &id("a"), None, at(0)), id("a"));
        assert_eq!(table.enter(&source(1), &id("b"), None, at(0)), id("a"));
        assert_eq!(table.enter(&source(1), &id("c"), Some("a"), at(0)), id("c"), "its target failed");
        assert_eq!(
            table.enter(&source(1), &id("d"), Some("a"), at(0)),
            id("c"),
            "and another one found the new one"
        );
        let shown = table.entries(10, at(4));
        assert_eq!(
            shown,
            [StickyView { source: source(1), target: id("c"), remaining: Duration::from_secs(6) }]
        );
    }

    #[test]
    fn the_table_is_bounded() {
        let table = StickyTable::new(3, TTL, &Arc::default());
        for number in 0..3 {
            table.enter(&source(number), &id("a"), None, at(u64::from(number)));
        }
        assert_eq!(table.find(&source(0), at(3)), Some(id("a")));
        table.enter(&source(9), &id("b"), None, at(3));
        assert_eq!((table.len(), table.forgotten()), (3, 1));
        assert_eq!(table.find(&source(1), at(3)), None, "the one unused for the longest");
        assert_eq!(table.find(&source(0), at(3)), Some(id("a")));
        // Expired ones go without being counted.
        table.enter(&source(10), &id("b"), None, at(100));
        assert_eq!((table.len(), table.forgotten(), table.is_empty()), (1, 1, false));
        table.reconfigure(1, Duration::from_secs(1));
        table.enter(&source(11), &id("b"), None, at(100));
        assert_eq!((table.len(), table.forgotten()), (1, 2));
        assert_eq!(table.find(&source(11), at(101)), None, "the new lifetime");
        assert!(table.entries(10, at(101)).is_empty());
    }

    /// A table of somebody who listens.
    fn told() -> StickyTable {
        let bell = Bell::default();
        bell.listen(true);
        StickyTable::new(100, TTL, &Arc::new(bell))
    }

    /// A client, with its target and how long that lasts, in seconds.
    type Told = (IpAddr, Option<(Arc<str>, u64)>);

    fn news(table: &StickyTable, seconds: u64) -> Vec<Told> {
        let mut news = Vec::new();
        while table.take_news(at(seconds), |key, entry| {
            news.push((*key, entry.map(|(target, left)| (Arc::clone(target), left.as_secs()))));
        }) {}
        news
    }

    #[test]
    fn what_is_new_is_told_and_what_lasts_longer_only_now_and_then() {
        let table = told();
        table.enter(&source(1), &id("a"), None, at(0));
        table.enter(&source(1), &id("b"), Some("a"), at(0));
        assert_eq!(news(&table, 0), [(source(1), Some((id("b"), 10)))]);
        for millis in (0..1250).step_by(50) {
            table.find(&source(1), Instant::from_nanos(millis * 1_000_000));
        }
        assert_eq!(news(&table, 1), []);
        table.find(&source(1), Instant::from_nanos(1_250_000_000));
        assert_eq!(news(&table, 2), [(source(1), Some((id("b"), 9)))]);
        table.leave(&source(1));
        assert_eq!(news(&table, 2), [(source(1), None)]);
        table.enter(&source(2), &id("a"), None, at(2));
        assert_eq!(news(&table, 12), [(source(2), None)], "it expired before anybody asked");
        table.expire(at(12));
        assert_eq!((news(&table, 12), table.len()), (vec![(source(2), None)], 0));
    }

    #[test]
    fn what_the_other_node_tells_is_no_news_until_it_is_used() {
        let table = told();
        table.put(&source(1), &id("a"), Duration::from_secs(3), at(0));
        table.put(&source(2), &id("a"), Duration::from_secs(99), at(0));
        let mut found = Vec::new();
        let next = table.scan(Place::default(), 10, at(1), |key, target, left| {
            found.push((*key, Arc::clone(target), left.as_secs()));
        });
        assert_eq!((next, &found[..]), (None, &[(source(1), id("a"), 2), (source(2), id("a"), 9)][..]));
        assert_eq!(news(&table, 0), []);
        assert_eq!(table.find(&source(1), at(2)), Some(id("a")));
        assert_eq!(news(&table, 2), [(source(1), Some((id("a"), 10)))]);
        table.withdraw(&source(1));
        assert_eq!((news(&table, 2), table.find(&source(1), at(2))), (vec![], None));
        let full = StickyTable::new(1, TTL, &Arc::default());
        full.enter(&source(1), &id("a"), None, at(0));
        full.put(&source(2), &id("b"), TTL, at(0));
        assert_eq!((full.len(), full.forgotten(), full.find(&source(2), at(1))), (1, 1, Some(id("b"))));
    }

    proptest! {
        /// As long as there is room, the same as a plain map with times.
        #[test]
        fn as_a_map(steps in proptest::collection::vec((any::<bool>(), 0_u8..6, 0_u64..6), 0..200)) {
            let table = StickyTable::new(100, TTL, &Arc::default());
            let mut map: HashMap<u8, (Arc<str>, u64)> = HashMap::new();
            let mut now = 0;
            for (enters, number, wait) in steps {
                now += wait;
                let known = map.get(&number).filter(|(_, expires)| *expires > now).map(|(target, _)| Arc::clone(target));
                let answer = if enters {
                    let chosen = id(&now.to_string());
                    let answer = table.enter(&source(number), &chosen, None, at(now));
                    prop_assert_eq!(&answer, known.as_ref().unwrap_or(&chosen));
                    Some(answer)
                } else {
                    let answer = table.find(&source(number), at(now));
                    prop_assert_eq!(&answer, &known);
                    answer
                };
                if let Some(target) = answer {
                    map.insert(number, (target, now + 10));
                }
            }
        }
    }
}
