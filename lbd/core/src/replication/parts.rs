//! A hash table of millions that grows a part at a time: a whole one that doubles its size is at a standstill for tens of milliseconds,
//! and what has changed meanwhile is told that much later.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};

use super::entry::Fingerprint;

/// So many parts. The last one has twice as many entries as the first, and those between them numbers between: so each doubles its size
/// at another number of all entries, and they do so one after the other. Of parts with as many entries each, all would within a few
/// hundredths of that number.
const PARTS: usize = 64;

/// The first part has as many of these as there are parts, and each of the others has one more than that before it.
const SHARES: usize = PARTS * PARTS + PARTS * (PARTS - 1) / 2;

/// The part that has a share.
static PART_OF: [u8; SHARES] = {
    let (mut parts, mut part, mut at) = ([0; SHARES], 0_u8, 0);
    while at < SHARES {
        let mut shares = 0;
        while shares < PARTS + part as usize {
            parts[at] = part;
            at += 1;
            shares += 1;
        }
        part += 1;
    }
    parts
};

/// The bits of a fingerprint that choose the share, 16 from this one on: neither the lowest, which the part chooses a place by, nor the
/// highest, by which it tells entries apart.
const PART_SHIFT: u32 = 40;
const PART_BITS: u32 = 16;

type Part<V> = HashMap<Fingerprint, V, BuildHasherDefault<AsItIs>>;

/// The table.
#[derive(Debug)]
pub(super) struct Parts<V> {
    parts: Box<[Part<V>]>,
    len: usize,
}

impl<V> Default for Parts<V> {
    fn default() -> Self {
        Self { parts: (0..PARTS).map(|_| Part::default()).collect(), len: 0 }
    }
}

impl<V> Parts<V> {
    fn index(fingerprint: Fingerprint) -> usize {
        let bits = (fingerprint.0 >> PART_SHIFT) as usize % (1 << PART_BITS);
        usize::from(PART_OF[(bits * SHARES) >> PART_BITS])
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn get(&self, fingerprint: Fingerprint) -> Option<&V> {
        self.parts[Self::index(fingerprint)].get(&fingerprint)
    }

    pub(super) fn get_mut(&mut self, fingerprint: Fingerprint) -> Option<&mut V> {
        self.parts[Self::index(fingerprint)].get_mut(&fingerprint)
    }

    pub(super) fn contains(&self, fingerprint: Fingerprint) -> bool {
        self.get(fingerprint).is_some()
    }

    pub(super) fn insert(&mut self, fingerprint: Fingerprint, value: V) {
        let replaced = self.parts[Self::index(fingerprint)].insert(fingerprint, value);
        self.len += usize::from(replaced.is_none());
    }

    /// Changes what is there, or puts what `make` makes there, with one look-up.
    pub(super) fn change_or_insert<R>(
        &mut self,
        fingerprint: Fingerprint,
        change: impl FnOnce(&mut V) -> R,
        make: impl FnOnce() -> (V, R),
    ) -> R {
        match self.parts[Self::index(fingerprint)].entry(fingerprint) {
            Entry::Occupied(mut known) => change(known.get_mut()),
            Entry::Vacant(place) => {
                let (value, answer) = make();
                place.insert(value);
                self.len += 1;
                answer
            }
        }
    }

    pub(super) fn remove(&mut self, fingerprint: Fingerprint) -> Option<V> {
        let removed = self.parts[Self::index(fingerprint)].remove(&fingerprint);
        self.len -= usize::from(removed.is_some());
        removed
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Fingerprint, &V)> {
        self.parts.iter().flatten().map(|(&fingerprint, value)| (fingerprint, value))
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.parts.iter_mut().flat_map(HashMap::values_mut)
    }

    /// Forgets all that `keep` says no to; answers how many.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&V) -> bool) -> usize {
        let before = self.len;
        for part in &mut self.parts {
            part.retain(|_, value| keep(value));
        }
        self.len = self.parts.iter().map(HashMap::len).sum();
        before - self.len
    }
}

/// The hash of what is a keyed hash already.
#[derive(Debug, Default)]
pub(super) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use common::rng::Rng;

    use super::*;

    #[test]
    fn parts_are_filled_by_their_shares_and_counted() {
        let mut rng = Rng::new(7);
        let mut parts = Parts::default();
        let keys: Vec<_> = (0..64_000).map(|_| Fingerprint(rng.next_u64())).collect();
        for &key in &keys {
            parts.insert(key, key.0);
            parts.insert(key, key.0 + 1);
        }
        assert_eq!(parts.len(), keys.len());
        for (number, part) in parts.parts.iter().enumerate() {
            let share = keys.len() * (PARTS + number) / SHARES;
            assert!(part.len().abs_diff(share) < share / 5, "{} of {share} in part {number}", part.len());
        }
        assert!(keys.iter().all(|&key| parts.get(key) == Some(&(key.0 + 1))));
        let odd = keys.iter().filter(|key| key.0 % 2 == 0).count();
        assert_eq!(parts.retain(|value| value % 2 == 0), odd);
        assert_eq!(parts.len(), keys.len() - odd);
        assert_eq!(parts.iter().count(), parts.len());
        for &key in &keys {
            assert_eq!(parts.remove(key).is_some(), key.0 % 2 == 1);
        }
        assert!(parts.is_empty() && !parts.contains(keys[0]));
    }

    /// At no time has all that comes to wait for many of them.
    #[test]
    fn parts_grow_one_after_the_other() {
        let mut rng = Rng::new(3);
        let mut parts = Parts::default();
        let mut grown = Vec::new();
        for count in 0..250_000 {
            let key = Fingerprint(rng.next_u64());
            let index = Parts::<u64>::index(key);
            let before = parts.parts[index].capacity();
            parts.insert(key, count);
            if parts.parts[index].capacity() != before && count > 100_000 {
                grown.push(count);
            }
        }
        assert!(grown.len() >= PARTS, "each has, at least once: {}", grown.len());
        // Of as many entries each, a quarter of all would.
        let dense = grown.windows(11).find(|some| some[10] - some[0] < 2000);
        assert_eq!(dense, None, "eleven of them within two thousand entries");
    }
}
