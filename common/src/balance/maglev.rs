//! Maglev's table (Eisenbud and others, "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, §3.4).
//!
//! Each target has an order of its own in which it would like to have the slots. They take turns, each taking the free
//! slot it likes best, until none is left; a heavy target takes more turns. When a target leaves the list and the table is
//! made again, few slots of the others change hands.

use super::{Member, SHARE_MAX, SHARE_PER_WEIGHT};
use crate::hash::HashKey;

/// Slots of a table: a prime, so that every order visits each slot once, and more than a hundred for each of 600 targets.
pub const SIZE: usize = 65_537;

/// The most targets a table can name; later ones of the list get no slot.
pub const MEMBERS_MAX: usize = u16::MAX as usize;

const FREE: u16 = u16::MAX;

/// Which slots a target likes: `offset`, `offset + skip`, `offset + 2 × skip` … modulo the number of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Preference {
    /// The best slot, below the table's size.
    pub(super) offset: u32,
    /// The distance to the next best, 1 to size − 1.
    pub(super) skip: u32,
}

impl Preference {
    /// That of a target in a table of [`SIZE`], from the keyed hash of its id: offset from the upper half, skip from the
    /// lower half.
    pub(super) fn of(id: &str, key: &HashKey) -> Self {
        let hash = key.bytes(id.as_bytes());
        // Remainders of division by 65537 and 65536.
        let below = |value: u64, bound: u64| u32::try_from(value % bound).unwrap_or_default();
        Self { offset: below(hash >> 32, 65_537), skip: below(hash & 0xffff_ffff, 65_536) + 1 }
    }
}

/// A table from hashes to targets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The target of each slot, by index in the list; empty if there is no target of a weight above 0.
    slots: Vec<u16>,
}

impl Table {
    /// The table of [`SIZE`] for these targets. It is the same, but for the indices, in whatever order they are listed.
    #[must_use]
    pub fn new(members: &[Member<'_>], key: &HashKey) -> Self {
        let members = &members[..members.len().min(MEMBERS_MAX)];
        let mut order: Vec<usize> = (0..members.len()).collect();
        order.sort_by_key(|&index| members[index].id);
        let turns: Vec<(Preference, u16)> =
            order.iter().map(|&at| (Preference::of(members[at].id, key), members[at].weight)).collect();
        let mut table = Self::build(SIZE, &turns);
        for slot in &mut table.slots {
            // An index into a list of at most `MEMBERS_MAX`.
            *slot = u16::try_from(order[usize::from(*slot)]).unwrap_or(FREE);
        }
        table
    }

    /// The table of `size` slots (a prime) for targets that take turns in this order, as often as their weights say.
    ///
    /// The heaviest takes one turn in each round; a target of half its weight one in every second round, and so on.
    pub(super) fn build(size: usize, targets: &[(Preference, u16)]) -> Self {
        let heaviest = targets.iter().map(|&(_, weight)| u32::from(weight)).max().unwrap_or_default();
        debug_assert!(heaviest <= SHARE_MAX / SHARE_PER_WEIGHT, "weights are at most 256");
        if heaviest == 0 || size == 0 {
            return Self::default();
        }
        let mut slots = vec![FREE; size];
        let mut taken = 0;
        let mut turns: Vec<Turn> =
            (0_u16..).zip(targets).map(|(index, target)| Turn::new(index, target)).collect();
        loop {
            for turn in &mut turns {
                turn.credit += turn.weight;
                if turn.credit < heaviest {
                    continue;
                }
                turn.credit -= heaviest;
                turn.take(&mut slots);
                taken += 1;
                if taken == size {
                    return Self { slots };
                }
            }
        }
    }

    /// The target of a hash's slot; `None` if the table has no targets.
    #[must_use]
    pub fn get(&self, hash: u64) -> Option<usize> {
        let size = u64::try_from(self.slots.len()).ok().filter(|&size| size > 0)?;
        // A remainder of the length fits whatever the length fits.
        self.slots.get(usize::try_from(hash % size).ok()?).map(|&target| usize::from(target))
    }

    /// The targets of all slots.
    pub fn slots(&self) -> impl ExactSizeIterator<Item = usize> {
        self.slots.iter().map(|&target| usize::from(target))
    }
}

/// A target while the table is filled.
struct Turn {
    target: u16,
    weight: u32,
    credit: u32,
    /// The slot it likes best among those it has not asked for.
    next: usize,
    skip: usize,
}

impl Turn {
    fn new(target: u16, &(preference, weight): &(Preference, u16)) -> Self {
        let usize_of = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
        Self {
            target,
            weight: u32::from(weight),
            credit: 0,
            next: usize_of(preference.offset),
            skip: usize_of(preference.skip),
        }
    }

    /// Takes the free slot it likes best; there is one.
    fn take(&mut self, slots: &mut [u16]) {
        loop {
            let slot = self.next;
            // Not a remainder: a division for each step would be most of the work.
            self.next += self.skip;
            if self.next >= slots.len() {
                self.next -= slots.len();
            }
            if slots[slot] == FREE {
                slots[slot] = self.target;
                return;
            }
        }
    }
}
