//! Which target a client was sent to, so that it is sent there again.
//!
//! Targets are named by their id, never by their place in a list: a reload, or the other node of a pair, may have them in
//! another order.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::time::{Duration, Instant};

use crate::recent::Recent;
use crate::sharded::Parts;

/// The clients of a target group. All workers share it.
///
/// An entry lasts for `ttl` after its last use. In a full table the one unused for the longest makes room, which is counted;
/// its client gets a target like a new one when it comes back. About 120 bytes for each entry.
#[derive(Debug)]
pub struct StickyTable {
    ttl: AtomicU64,
    parts: Parts<Recent<IpAddr, Entry>>,
    forgotten: AtomicU64,
}

#[derive(Clone, Debug)]
struct Entry {
    target: Arc<str>,
    expires: Instant,
}

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

impl StickyTable {
    /// An empty table of at most `entries_max` entries.
    #[must_use]
    pub fn new(entries_max: usize, ttl: Duration) -> Self {
        Self {
            ttl: AtomicU64::new(nanos(ttl)),
            parts: Parts::new(entries_max, Recent::new),
            forgotten: AtomicU64::new(0),
        }
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
    pub fn find(&self, source: IpAddr, now: Instant) -> Option<Arc<str>> {
        let mut part = self.parts.of(&source);
        let entry = part.use_value(&source).filter(|entry| entry.expires > now)?;
        entry.expires = self.expiry(now);
        Some(Arc::clone(&entry.target))
    }

    /// Says that `source` is sent to `target`. If another connection of the same source has been sent elsewhere meanwhile,
    /// that target counts and is answered, unless it is `except`, the one that turned out to be of no use.
    pub fn enter(&self, source: IpAddr, target: &Arc<str>, except: Option<&str>, now: Instant) -> Arc<str> {
        let expires = self.expiry(now);
        let mut part = self.parts.of(&source);
        if let Some(entry) = part.use_value(&source) {
            if entry.expires <= now || Some(&*entry.target) == except {
                entry.target = Arc::clone(target);
            }
            entry.expires = expires;
            return Arc::clone(&entry.target);
        }
        // What has expired makes room first: the order of use is the order of expiry, as long as `ttl` stays the same.
        while part.oldest().is_some_and(|(_, entry)| entry.expires <= now) {
            part.remove_oldest();
        }
        if part.insert(source, Entry { target: Arc::clone(target), expires }).is_some() {
            self.forgotten.fetch_add(1, Ordering::Relaxed);
        }
        Arc::clone(target)
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

    fn expiry(&self, now: Instant) -> Instant {
        now + Duration::from_nanos(self.ttl.load(Ordering::Relaxed))
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
        let table = StickyTable::new(100, TTL);
        assert_eq!(table.find(source(1), at(0)), None);
        assert_eq!(table.enter(source(1), &id("a"), None, at(0)), id("a"));
        assert_eq!(table.find(source(1), at(9)), Some(id("a")));
        assert_eq!(table.find(source(1), at(18)), Some(id("a")));
        assert_eq!(table.find(source(1), at(28)), None);
        assert_eq!(
            table.enter(source(1), &id("b"), None, at(28)),
            id("b"),
            "an expired entry does not count"
        );
    }

    #[test]
    fn connections_that_come_at_the_same_time_end_up_together() {
        let table = StickyTable::new(100, TTL);
        assert_eq!(table.enter(source(1), &id("a"), None, at(0)), id("a"));
        assert_eq!(table.enter(source(1), &id("b"), None, at(0)), id("a"));
        assert_eq!(table.enter(source(1), &id("c"), Some("a"), at(0)), id("c"), "its target failed");
        assert_eq!(
            table.enter(source(1), &id("d"), Some("a"), at(0)),
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
        let table = StickyTable::new(3, TTL);
        for number in 0..3 {
            table.enter(source(number), &id("a"), None, at(u64::from(number)));
        }
        assert_eq!(table.find(source(0), at(3)), Some(id("a")));
        table.enter(source(9), &id("b"), None, at(3));
        assert_eq!((table.len(), table.forgotten()), (3, 1));
        assert_eq!(table.find(source(1), at(3)), None, "the one unused for the longest");
        assert_eq!(table.find(source(0), at(3)), Some(id("a")));
        // Expired ones go without being counted.
        table.enter(source(10), &id("b"), None, at(100));
        assert_eq!((table.len(), table.forgotten(), table.is_empty()), (1, 1, false));
        table.reconfigure(1, Duration::from_secs(1));
        table.enter(source(11), &id("b"), None, at(100));
        assert_eq!((table.len(), table.forgotten()), (1, 2));
        assert_eq!(table.find(source(11), at(101)), None, "the new lifetime");
        assert!(table.entries(10, at(101)).is_empty());
    }

    proptest! {
        /// As long as there is room, the same as a plain map with times.
        #[test]
        fn as_a_map(steps in proptest::collection::vec((any::<bool>(), 0_u8..6, 0_u64..6), 0..200)) {
            let table = StickyTable::new(100, TTL);
            let mut map: HashMap<u8, (Arc<str>, u64)> = HashMap::new();
            let mut now = 0;
            for (enters, number, wait) in steps {
                now += wait;
                let known = map.get(&number).filter(|(_, expires)| *expires > now).map(|(target, _)| Arc::clone(target));
                let answer = if enters {
                    let chosen = id(&now.to_string());
                    let answer = table.enter(source(number), &chosen, None, at(now));
                    prop_assert_eq!(&answer, known.as_ref().unwrap_or(&chosen));
                    Some(answer)
                } else {
                    let answer = table.find(source(number), at(now));
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
