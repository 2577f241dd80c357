//! Splitting a table that all workers share, so that they seldom wait for each other.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most parts.
const PARTS_MAX: usize = 64;

/// Entries below which a part is not worth it: a small table stays whole, so that its bound is exact.
const ENTRIES_PER_PART: usize = 1024;

/// The parts of a table, each behind a lock that is held for the time of a look-up.
#[derive(Debug)]
pub(crate) struct Parts<T> {
    /// Keyed, so that nobody can have all keys in one part.
    hasher: RandomState,
    parts: Box<[Mutex<T>]>,
}

impl<T> Parts<T> {
    /// The parts of a table of at most `entries` entries, each made by `part` for its share of them.
    pub(crate) fn new(entries: usize, part: impl Fn(usize) -> T) -> Self {
        let count = count(entries);
        let parts = (0..count).map(|_| Mutex::new(part(entries.div_ceil(count)))).collect();
        Self { hasher: RandomState::new(), parts }
    }

    /// The part that `key` belongs to.
    pub(crate) fn of<K: Hash>(&self, key: &K) -> MutexGuard<'_, T> {
        let hash = self.hasher.hash_one(key);
        // `count` is far below 2^32, and the remainder below it.
        let index = usize::try_from(hash % self.parts.len() as u64).unwrap_or_default();
        lock(&self.parts[index])
    }

    /// All parts, one after the other.
    pub(crate) fn iter(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.parts.iter().map(lock)
    }

    /// The part of this number, if there is one.
    pub(crate) fn at(&self, index: usize) -> Option<MutexGuard<'_, T>> {
        self.parts.get(index).map(lock)
    }

    /// The same if nobody has locked it.
    #[cfg(test)]
    pub(crate) fn try_at(&self, index: usize) -> Option<MutexGuard<'_, T>> {
        self.parts.get(index)?.try_lock().ok()
    }

    /// How many entries each part may have when all may have `entries`.
    pub(crate) fn entries_each(&self, entries: usize) -> usize {
        entries.div_ceil(self.parts.len())
    }
}

fn count(entries: usize) -> usize {
    (entries / ENTRIES_PER_PART).clamp(1, PARTS_MAX)
}

fn lock<T>(part: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics half way through a change of a part, so a poisoned one is whole.
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_tables_stay_whole_and_large_ones_are_spread() {
        assert_eq!([count(1), count(2047), count(2048), count(1 << 20)], [1, 1, 2, PARTS_MAX]);
        let parts = Parts::new(1 << 20, |entries| vec![entries; 0]);
        for key in 0..64_000_u32 {
            parts.of(&key).push(key as usize);
        }
        assert!(parts.iter().all(|part| (500..2000).contains(&part.len())));
        assert_eq!(parts.entries_each(6400), 100);
    }
}
