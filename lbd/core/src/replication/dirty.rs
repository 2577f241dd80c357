//! Changes that the peer has not been sent yet: one for each entry, the latest, in the order in which entries became dirty.
//!
//! Never a log: an entry that changes again keeps its place and gets a new value. About 150 bytes for each entry while it is in here;
//! what was once needed is kept for the next time.

use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::hash::BuildHasherDefault;

use common::time::{Duration, Instant};

use super::entry::{Entry, Fingerprint, Key};
use super::parts::AsItIs;

/// Where no slot is.
const NONE: u32 = u32::MAX;

/// What is to be sent of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// Its value, and when it ends.
    Put(Entry, Expiry),
    /// That it is gone.
    Delete(Key),
}

/// When an entry ends by itself, on this node's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expiry(pub(super) Option<Instant>);

impl Expiry {
    pub(super) fn of(remaining: Option<Duration>, now: Instant) -> Self {
        Self(remaining.map(|remaining| now + remaining))
    }

    pub(super) fn remaining(self, now: Instant) -> Option<Duration> {
        self.0.map(|at| at - now)
    }
}

/// An entry's latest change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) fingerprint: Fingerprint,
    pub(super) item: Item,
    pub(super) generation: u64,
    /// When the entry became dirty.
    pub(super) since: Instant,
    /// Counts the entries that became dirty, over the whole life of the set.
    pub(super) place: u64,
    /// The peer has never heard of the entry: if it is deleted before this is sent, there is nothing to be said of it.
    pub(super) is_new: bool,
}

#[derive(Debug)]
struct Slot {
    change: Change,
    earlier: u32,
    later: u32,
}

/// The set.
#[derive(Debug)]
pub(super) struct Dirty {
    slots: Vec<Slot>,
    index: HashMap<Fingerprint, u32, BuildHasherDefault<AsItIs>>,
    free: Vec<u32>,
    first: u32,
    last: u32,
    max: usize,
    place: u64,
}

impl Dirty {
    /// For `max` entries.
    pub(super) fn new(max: usize) -> Self {
        Self {
            slots: Vec::new(),
            index: HashMap::default(),
            free: Vec::new(),
            first: NONE,
            last: NONE,
            max: max.clamp(1, NONE as usize),
            place: 0,
        }
    }

    pub(super) fn set_max(&mut self, max: usize) {
        self.max = max.clamp(1, NONE as usize);
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn contains(&self, fingerprint: Fingerprint) -> bool {
        self.index.contains_key(&fingerprint)
    }

    /// Whether the entry is in the set and the peer has never heard of it.
    pub(super) fn is_new(&self, fingerprint: Fingerprint) -> bool {
        self.index.get(&fingerprint).is_some_and(|&at| self.slots[at as usize].change.is_new)
    }

    /// The generation of an entry's deletion, if that is what is to be sent of it.
    pub(super) fn deletion(&self, fingerprint: Fingerprint) -> Option<u64> {
        let change = &self.slots[*self.index.get(&fingerprint)? as usize].change;
        matches!(change.item, Item::Delete(_)).then_some(change.generation)
    }

    /// The latest change of an entry, which `is_new` if the peer cannot know it. False if the set is full.
    pub(super) fn put(
        &mut self,
        fingerprint: Fingerprint,
        item: Item,
        generation: u64,
        is_new: bool,
        now: Instant,
    ) -> bool {
        let full = self.index.len() >= self.max;
        let place = match self.index.entry(fingerprint) {
            Occupied(known) => {
                let change = &mut self.slots[*known.get() as usize].change;
                (change.item, change.generation) = (item, generation);
                return true;
            }
            Vacant(_) if full => return false,
            Vacant(place) => place,
        };
        let change = Change { fingerprint, item, generation, since: now, place: self.place, is_new };
        self.place += 1;
        let slot = Slot { change, earlier: self.last, later: NONE };
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = slot;
                at
            }
            None => {
                self.slots.push(slot);
                // `max` keeps it below `NONE`.
                u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
            }
        };
        match self.slots.get_mut(self.last as usize) {
            Some(last) => last.later = at,
            None => self.first = at,
        }
        self.last = at;
        place.insert(at);
        true
    }

    /// The peer turns out to know the entry.
    pub(super) fn share(&mut self, fingerprint: Fingerprint) {
        if let Some(&at) = self.index.get(&fingerprint) {
            self.slots[at as usize].change.is_new = false;
        }
    }

    /// Takes an entry out: there is nothing to be sent of it any more.
    pub(super) fn remove(&mut self, fingerprint: Fingerprint) -> Option<Change> {
        // Nothing to be fetched from memory to find that out.
        if self.index.is_empty() {
            return None;
        }
        let at = self.index.remove(&fingerprint)?;
        let Slot { change, earlier, later } = self.slots[at as usize];
        match self.slots.get_mut(earlier as usize) {
            Some(slot) => slot.later = later,
            None => self.first = later,
        }
        match self.slots.get_mut(later as usize) {
            Some(slot) => slot.earlier = earlier,
            None => self.last = earlier,
        }
        self.free.push(at);
        Some(change)
    }

    /// What has been dirty for the longest.
    pub(super) fn first(&self) -> Option<&Change> {
        self.slots.get(self.first as usize).map(|slot| &slot.change)
    }

    /// Takes it out.
    pub(super) fn take_first(&mut self) -> Option<Change> {
        let fingerprint = self.first()?.fingerprint;
        self.remove(fingerprint)
    }

    /// Since when the oldest change has been waiting.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.first().map(|change| change.since)
    }

    /// Every entry that became dirty before this place is no longer in the set.
    pub(super) fn done_before(&self) -> u64 {
        self.first().map_or(self.place, |change| change.place)
    }

    /// The place that the next entry will have.
    pub(super) const fn next_place(&self) -> u64 {
        self.place
    }

    pub(super) fn changes(&self) -> impl Iterator<Item = &Change> {
        self.index.values().map(|&at| &self.slots[at as usize].change)
    }

    /// Empties the set, and gives its memory back.
    pub(super) fn clear(&mut self) {
        *self = Self { place: self.place, ..Self::new(self.max) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn item(key: u8, value: u8) -> Item {
        let id =
            super::super::names::Names::default().enter(super::super::Name::Service("x".into())).unwrap();
        let entry = Entry::Rate { service: id, source: [key; 16], total: u64::from(value) };
        Item::Put(entry, Expiry(None))
    }

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn a_change_is_not_much_larger_than_its_entry() {
        assert_eq!(size_of::<Entry>(), 56);
        assert!(size_of::<Slot>() <= 120, "{}", size_of::<Slot>());
    }

    #[test]
    fn lifetimes_go_on_while_they_wait() {
        let expiry = Expiry::of(Some(Duration::from_nanos(10)), at(5));
        assert_eq!(expiry.remaining(at(9)), Some(Duration::from_nanos(6)));
        assert_eq!(expiry.remaining(at(99)), Some(Duration::ZERO));
        assert_eq!(Expiry::of(None, at(5)).remaining(at(9)), None);
    }

    proptest! {
        /// The same as a plain list of pairs.
        #[test]
        fn as_a_list(max in 1_usize..8, steps in proptest::collection::vec((0_u8..6, 0_u8..12), 0..300)) {
            let mut dirty = Dirty::new(max);
            let mut list: Vec<(u8, u64)> = Vec::new();
            for (number, (kind, key)) in (0..).zip(steps) {
                let fingerprint = Fingerprint(u64::from(key));
                let known = list.iter().position(|&(entry, _)| entry == key);
                match kind {
                    0..3 => {
                        let taken = dirty.put(fingerprint, item(key, 0), number, true, at(number));
                        prop_assert_eq!(taken, known.is_some() || list.len() < max);
                        match known {
                            Some(place) => list[place].1 = number,
                            None if taken => list.push((key, number)),
                            None => {}
                        }
                    }
                    3 => {
                        let removed = dirty.remove(fingerprint).map(|change| change.generation);
                        prop_assert_eq!(removed, known.map(|place| list.remove(place).1));
                    }
                    4 => {
                        let first = (!list.is_empty()).then(|| list.remove(0));
                        let taken = dirty.take_first();
                        prop_assert_eq!(taken.map(|change| change.fingerprint.0), first.map(|(key, _)| u64::from(key)));
                    }
                    _ if key == 0 => {
                        dirty.clear();
                        list.clear();
                    }
                    _ => prop_assert_eq!(dirty.contains(fingerprint), known.is_some()),
                }
                prop_assert_eq!(dirty.len(), list.len());
                prop_assert_eq!(dirty.first().map(|change| change.generation), list.first().map(|&(_, number)| number));
                prop_assert!(dirty.slots.len() <= max && dirty.done_before() <= dirty.next_place());
                prop_assert!(!list.is_empty() || dirty.done_before() == dirty.next_place());
            }
        }
    }
}
