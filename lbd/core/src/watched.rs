//! A table in the order of last use of which somebody is told what has changed: which keys, not how. What there is of a key is looked
//! up when it is told, so that nothing has to be remembered but the keys.

use std::collections::VecDeque;
use std::hash::Hash;
use std::sync::Arc;

use crate::bell::Bell;
use crate::recent::Recent;
use crate::sharded::Parts;

/// A place in a table in parts, from which a scan goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The part.
    pub part: u32,
    /// The slot in it.
    pub slot: u64,
}

/// Keys told with one look at a part, so that it is not locked for long.
const TOGETHER: usize = 256;

/// A [`Recent`] whose changes are told.
///
/// At most twice as many keys wait as there may be entries: more can only come together when entries go and come faster than they are told. What
/// is changed beyond that is not told, which is counted, for whoever listens to look at everything.
#[derive(Debug)]
pub(crate) struct Watched<K, V> {
    table: Recent<K, Noted<V>>,
    news: VecDeque<K>,
    lost: u64,
    bell: Arc<Bell>,
}

#[derive(Clone, Debug)]
struct Noted<V> {
    value: V,
    /// The key is among the news.
    waits: bool,
}

impl<K: Hash + Eq + Clone, V> Watched<K, V> {
    pub(crate) fn new(max: usize, bell: Arc<Bell>) -> Self {
        Self { table: Recent::new(max), news: VecDeque::new(), lost: 0, bell }
    }

    /// The memory it takes for its entries and its news, in bytes.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.table.bytes() + self.news.capacity() * size_of::<K>()
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// The value of `key`, which is now the one used last.
    pub(crate) fn use_value(&mut self, key: &K) -> Option<&mut V> {
        self.table.use_value(key).map(|noted| &mut noted.value)
    }

    /// Enters a key that is not in the table. In a full one the entry unused for the longest makes room and is answered.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<(K, V)> {
        let evicted = self.table.insert(key, Noted { value, waits: false });
        evicted.map(|evicted| self.gone(evicted))
    }

    pub(crate) fn oldest(&self) -> Option<(&K, &V)> {
        self.table.oldest().map(|(key, noted)| (key, &noted.value))
    }

    pub(crate) fn remove_oldest(&mut self) -> Option<(K, V)> {
        let removed = self.table.remove_oldest()?;
        Some(self.gone(removed))
    }

    /// Takes out an entry, which is told.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let removed = self.table.remove(key)?;
        Some(self.gone(removed).1)
    }

    /// Takes out an entry, which is not told.
    pub(crate) fn remove_silently(&mut self, key: &K) -> Option<V> {
        self.table.remove(key).map(|(_, noted)| noted.value)
    }

    /// The value of `key`, which is not used by this.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.table.get_mut(key).map(|noted| &mut noted.value)
    }

    /// Whether no more than half of the table is taken.
    pub(crate) fn has_room(&self) -> bool {
        self.table.len() < self.table.max().div_ceil(2)
    }

    /// Changes the bound; hands out the entries that had to go.
    pub(crate) fn set_max(&mut self, max: usize, mut gone: impl FnMut(K, V)) {
        while self.table.len() > max.max(1) {
            let Some((key, value)) = self.remove_oldest() else { break };
            gone(key, value);
        }
        self.table.set_max(max);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.table.iter().map(|(key, noted)| (key, &noted.value))
    }

    /// The entry of `key` has changed.
    pub(crate) fn note(&mut self, key: &K) {
        if !self.bell.is_listened_to() {
            return;
        }
        let full = self.is_full();
        let Some(noted) = self.table.get_mut(key).filter(|noted| !noted.waits) else { return };
        noted.waits = !full;
        self.tell(key.clone(), full);
    }

    /// Tells of keys that have changed and what there is of each, up to a bound; whether there are more.
    pub(crate) fn take_news(&mut self, mut tell: impl FnMut(&K, Option<&mut V>)) -> bool {
        for _ in 0..TOGETHER {
            let Some(key) = self.news.pop_front() else { return false };
            let noted = self.table.get_mut(&key);
            tell(
                &key,
                noted.map(|noted| {
                    noted.waits = false;
                    &mut noted.value
                }),
            );
        }
        !self.news.is_empty()
    }

    /// Changes that were not told for want of room.
    pub(crate) const fn lost(&self) -> u64 {
        self.lost
    }

    pub(crate) fn scan(&self, slot: usize, max: usize, mut visit: impl FnMut(&K, &V)) -> Option<usize> {
        self.table.scan(slot, max, |key, noted| visit(key, &noted.value))
    }

    /// An entry has left the table; if its key does not wait to be told, it does now.
    fn gone(&mut self, (key, noted): (K, Noted<V>)) -> (K, V) {
        if !noted.waits && self.bell.is_listened_to() {
            let full = self.is_full();
            self.tell(key.clone(), full);
        }
        (key, noted.value)
    }

    fn is_full(&self) -> bool {
        self.news.len() >= self.table.max().saturating_mul(2)
    }

    fn tell(&mut self, key: K, full: bool) {
        if full {
            self.lost += 1;
        } else {
            self.news.push_back(key);
        }
        self.bell.ring();
    }
}

/// Visits up to about `max` entries of a table in parts from `place` on; answers where to go on, `None` at the end. They are visited as they
/// were a moment ago: a part is locked for no longer than copying some of them takes, because workers wait for it.
pub(crate) fn scan<K: Hash + Eq + Clone, V: Clone>(
    parts: &Parts<Watched<K, V>>,
    place: Place,
    max: usize,
    mut visit: impl FnMut(&K, &V),
) -> Option<Place> {
    let (mut part, mut slot) = (place.part, usize::try_from(place.slot).unwrap_or(usize::MAX));
    let mut left = max.max(1);
    let mut copies = Vec::new();
    while left > 0 {
        let slots = left.min(TOGETHER);
        let next = parts.at(part as usize)?.scan(slot, slots, |key, value| {
            copies.push((key.clone(), value.clone()));
        });
        // An empty slot takes its time, too.
        left = left.saturating_sub(if next.is_some() { slots } else { copies.len().max(1) });
        copies.drain(..).for_each(|(key, value)| visit(&key, &value));
        (part, slot) = match next {
            Some(next) => (part, next),
            None => (part.checked_add(1)?, 0),
        };
    }
    parts.at(part as usize).map(|_| Place { part, slot: slot as u64 })
}

/// Tells of what has changed in each part, up to a bound for each; whether there is more.
pub(crate) fn take_news<K: Hash + Eq + Clone, V>(
    parts: &Parts<Watched<K, V>>,
    mut tell: impl FnMut(&K, Option<&mut V>),
) -> bool {
    let mut more = false;
    for mut part in parts.iter() {
        more |= part.take_news(&mut tell);
    }
    more
}

/// Changes of all parts that were not told for want of room.
pub(crate) fn lost<K: Hash + Eq + Clone, V>(parts: &Parts<Watched<K, V>>) -> u64 {
    parts.iter().map(|part| part.lost()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn heard() -> Arc<Bell> {
        let bell = Bell::default();
        bell.listen(true);
        Arc::new(bell)
    }

    proptest! {
        /// Whoever applies what is told has the same as the table, unless something is counted as lost.
        #[test]
        fn who_listens_has_the_same(
            max in 1_usize..6, steps in proptest::collection::vec((0_u8..6, 0_u8..12), 0..200),
        ) {
            let mut table = Watched::new(max, heard());
            let mut copy = HashMap::new();
            for (number, (kind, key)) in steps.into_iter().enumerate() {
                match kind {
                    0..3 => {
                        match table.use_value(&key) {
                            Some(value) => *value = number,
                            None => drop(table.insert(key, number)),
                        }
                        table.note(&key);
                    }
                    3 => drop(table.remove_oldest()),
                    4 => drop(table.remove(&key)),
                    _ => while table.take_news(|&key, value| match value {
                        Some(value) => drop(copy.insert(key, *value)),
                        None => drop(copy.remove(&key)),
                    }) {},
                }
                prop_assert!(table.news.len() <= 2 * max);
            }
            while table.take_news(|&key, value| match value {
                Some(value) => drop(copy.insert(key, *value)),
                None => drop(copy.remove(&key)),
            }) {}
            if table.lost() == 0 {
                let mut expected: Vec<_> = table.iter().map(|(&key, &value)| (key, value)).collect();
                let mut found: Vec<_> = copy.into_iter().collect();
                expected.sort_unstable();
                found.sort_unstable();
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn without_a_listener_nothing_is_remembered() {
        let mut table = Watched::new(4, Arc::default());
        table.insert(1, 1);
        table.note(&1);
        table.remove(&1);
        assert_eq!((table.news.len(), table.lost()), (0, 0));
    }

    #[test]
    fn what_comes_and_goes_too_fast_is_counted() {
        let mut table = Watched::new(2, heard());
        for key in 0..10 {
            table.insert(key, key);
            table.note(&key);
        }
        assert_eq!((table.news.len(), table.lost()), (4, 10));
        let mut told = Vec::new();
        while table.take_news(|&key, value| told.push((key, value.is_some()))) {}
        assert_eq!(told, [(0, false), (1, false), (2, false), (3, false)]);
        table.note(&9);
        assert_eq!((table.news.len(), table.lost()), (1, 10), "it goes on");
    }

    #[test]
    fn a_scan_in_parts_finds_all() {
        let bell = heard();
        let parts = Parts::new(8192, |max| Watched::new(max, Arc::clone(&bell)));
        for key in 0..3000_u32 {
            parts.of(&key).insert(key, ());
        }
        for max in [1, 100, 5000] {
            let (mut found, mut place) = (Vec::new(), Some(Place::default()));
            while let Some(at) = place {
                let before = found.len();
                place = scan(&parts, at, max, |&key, ()| found.push(key));
                assert!(found.len() - before <= max);
            }
            found.sort_unstable();
            assert!(found.iter().copied().eq(0..3000), "{max}");
        }
    }

    #[test]
    fn who_visits_entries_keeps_nobody_waiting() {
        let bell = heard();
        let parts = Parts::new(1, |_| Watched::new(10_000, Arc::clone(&bell)));
        for key in 0..1000_u32 {
            parts.of(&key).insert(key, ());
        }
        let mut found = Vec::new();
        let next = scan(&parts, Place::default(), 2000, |&key, ()| {
            assert!(parts.try_at(0).is_some(), "a worker that looks up a client waits for {key}");
            found.push(key);
        });
        assert_eq!((next, found.len()), (None, 1000));
    }
}
