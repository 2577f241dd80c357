//! A bounded table in the order of last use: what a full table forgets for a new entry is what nobody has asked for the
//! longest.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// Where no entry is.
const NONE: u32 = u32::MAX;

/// Keys with their values. The keys are hashed with std's keyed SipHash, because clients choose them.
///
/// Takes memory for what it holds, not for what it may hold; it keeps what it once needed.
#[derive(Clone, Debug)]
pub struct Recent<K, V> {
    places: HashMap<K, u32>,
    slots: Vec<Slot<K, V>>,
    free: Vec<u32>,
    newest: u32,
    oldest: u32,
    max: usize,
}

#[derive(Clone, Debug)]
struct Slot<K, V> {
    entry: Option<(K, V)>,
    newer: u32,
    older: u32,
}

impl<K: Hash + Eq + Clone, V> Recent<K, V> {
    /// A table of at most `max` entries; at least 1, and at most 4 billion.
    #[must_use]
    pub fn new(max: usize) -> Self {
        let max = max.clamp(1, NONE as usize);
        Self { places: HashMap::new(), slots: Vec::new(), free: Vec::new(), newest: NONE, oldest: NONE, max }
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The value of `key`, which is now the one used last.
    pub fn use_value<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let &place = self.places.get(key)?;
        self.unlink(place);
        self.link_newest(place);
        self.slots[place as usize].entry.as_mut().map(|(_, value)| value)
    }

    /// Enters a key that is not in the table. In a full one the entry unused for the longest makes room and is answered.
    pub fn insert(&mut self, key: K, value: V) -> Option<(K, V)> {
        debug_assert!(!self.places.contains_key(&key), "it is in the table already");
        let evicted = if self.places.len() >= self.max { self.remove_oldest() } else { None };
        let slot = Slot { entry: Some((key.clone(), value)), newer: NONE, older: NONE };
        let place = match self.free.pop() {
            Some(place) => {
                self.slots[place as usize] = slot;
                place
            }
            None => {
                self.slots.push(slot);
                // `max` keeps it below `NONE`.
                u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
            }
        };
        self.places.insert(key, place);
        self.link_newest(place);
        evicted
    }

    /// The entry unused for the longest.
    #[must_use]
    pub fn oldest(&self) -> Option<(&K, &V)> {
        let slot = self.slots.get(self.oldest as usize)?;
        slot.entry.as_ref().map(|(key, value)| (key, value))
    }

    /// Takes out the entry unused for the longest.
    pub fn remove_oldest(&mut self) -> Option<(K, V)> {
        let place = self.oldest;
        let (key, value) = self.slots.get_mut(place as usize)?.entry.take()?;
        self.unlink(place);
        self.places.remove(&key);
        self.free.push(place);
        Some((key, value))
    }

    /// The value of `key`, without using it.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let &place = self.places.get(key)?;
        self.slots[place as usize].entry.as_ref().map(|(_, value)| value)
    }

    /// The same to be changed.
    pub fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let &place = self.places.get(key)?;
        self.slots[place as usize].entry.as_mut().map(|(_, value)| value)
    }

    /// Takes out an entry.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<(K, V)>
    where
        K: Borrow<Q>,
    {
        let place = self.places.remove(key)?;
        self.unlink(place);
        self.free.push(place);
        self.slots[place as usize].entry.take()
    }

    /// Visits the entries of up to `max` slots from `slot` on; answers where to go on, `None` at the end. An entry stays in its slot, so
    /// none that is there all the time is left out.
    pub fn scan(&self, slot: usize, max: usize, mut visit: impl FnMut(&K, &V)) -> Option<usize> {
        let end = slot.saturating_add(max).min(self.slots.len());
        let slots = self.slots.get(slot..end).unwrap_or_default();
        slots.iter().filter_map(|slot| slot.entry.as_ref()).for_each(|(key, value)| visit(key, value));
        (end < self.slots.len()).then_some(end)
    }

    /// How many entries there may be.
    #[must_use]
    pub const fn max(&self) -> usize {
        self.max
    }

    /// The memory it takes, in bytes, without what keys and values refer to. A `HashMap` has a byte of its own beside each place for an
    /// entry, and fills seven of eight.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        let places = self.places.capacity().div_ceil(7) * 8 * (size_of::<(K, u32)>() + 1);
        places + self.slots.capacity() * size_of::<Slot<K, V>>() + self.free.capacity() * size_of::<u32>()
    }

    /// Changes the bound; answers how many entries had to go.
    pub fn set_max(&mut self, max: usize) -> usize {
        self.max = max.clamp(1, NONE as usize);
        let mut gone = 0;
        while self.places.len() > self.max && self.remove_oldest().is_some() {
            gone += 1;
        }
        gone
    }

    /// All entries, the one used last first.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let mut place = self.newest;
        std::iter::from_fn(move || {
            let slot = self.slots.get(place as usize)?;
            place = slot.older;
            slot.entry.as_ref().map(|(key, value)| (key, value))
        })
    }

    fn unlink(&mut self, place: u32) {
        let (newer, older) = (self.slots[place as usize].newer, self.slots[place as usize].older);
        match self.slots.get_mut(newer as usize) {
            Some(slot) => slot.older = older,
            None => self.newest = older,
        }
        match self.slots.get_mut(older as usize) {
            Some(slot) => slot.newer = newer,
            None => self.oldest = newer,
        }
    }

    fn link_newest(&mut self, place: u32) {
        let before = std::mem::replace(&mut self.newest, place);
        let slot = &mut self.slots[place as usize];
        (slot.newer, slot.older) = (NONE, before);
        match self.slots.get_mut(before as usize) {
            Some(slot) => slot.newer = place,
            None => self.oldest = place,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The same as a plain list, the one used last first.
        #[test]
        fn as_a_list(
            max in 1_usize..8, steps in proptest::collection::vec((0_u8..5, 0_u8..12), 0..300),
        ) {
            let mut table = Recent::new(max);
            let mut list: Vec<(u8, usize)> = Vec::new();
            for (number, (kind, key)) in steps.into_iter().enumerate() {
                let at = list.iter().position(|entry| entry.0 == key);
                match kind {
                    0 | 1 => {
                        let found = table.use_value(&key).map(|value| std::mem::replace(value, number));
                        prop_assert_eq!(found, at.map(|at| list[at].1));
                        match at {
                            Some(at) => {
                                list.remove(at);
                            }
                            None => {
                                let evicted = if list.len() == max { list.pop() } else { None };
                                prop_assert_eq!(table.insert(key, number), evicted);
                            }
                        }
                        list.insert(0, (key, number));
                    }
                    2 => {
                        let found = table.use_value(&key).map(|value| *value);
                        prop_assert_eq!(found, at.map(|at| list[at].1));
                        if let Some(at) = at {
                            let entry = list.remove(at);
                            list.insert(0, entry);
                        }
                    }
                    3 => prop_assert_eq!(table.remove(&key), at.map(|at| list.remove(at))),
                    _ => prop_assert_eq!(table.remove_oldest(), list.pop()),
                }
                prop_assert_eq!(table.get(&key).copied(), list.iter().find(|entry| entry.0 == key).map(|entry| entry.1));
                let (mut found, mut slot) = (Vec::new(), Some(0));
                while let Some(at) = slot {
                    slot = table.scan(at, 3, |&key, &value| found.push((key, value)));
                }
                found.sort_unstable();
                let mut sorted = list.clone();
                sorted.sort_unstable();
                prop_assert_eq!(found, sorted);
                prop_assert_eq!(table.iter().map(|(&key, &value)| (key, value)).collect::<Vec<_>>(), &list[..]);
                prop_assert_eq!(table.oldest().map(|(&key, &value)| (key, value)), list.last().copied());
                prop_assert!(table.len() == list.len() && table.is_empty() == list.is_empty());
                prop_assert!(table.slots.len() <= max);
            }
        }
    }

    #[test]
    fn a_lower_bound_forgets_the_oldest() {
        let mut table = Recent::new(10);
        for key in 0..10 {
            table.insert(key, ());
        }
        assert_eq!(table.set_max(3), 7);
        assert_eq!(table.iter().map(|(&key, ())| key).collect::<Vec<_>>(), [9, 8, 7]);
        assert_eq!(table.insert(10, ()), Some((7, ())));
        table.set_max(4);
        assert_eq!(table.insert(11, ()), None);
    }
}
