//! Rings: Maglev tables of the targets in use, by the same rules as those of the proxies.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::balance::Member;
use common::balance::maglev::Table;
use common::hash::HashKey;

use super::super::abi::RING_SLOTS;
use super::Indexes;
use super::indexes::KeptRing;

/// The heaviest weight of a table.
const WEIGHT_MAX: u64 = 256;

/// Zeros at a ring's end.
const SPARE: usize = 3;

/// What a ring is made of, as it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Make {
    /// The ring's name, on either node.
    pub name: String,
    /// Stands for all of it, and for the key by which targets get their places.
    pub hash: u64,
    /// Id and weight of each target.
    pub members: Vec<(String, u16)>,
}

impl Make {
    /// With the hash that it has by this key.
    #[must_use]
    pub fn new(name: &str, members: Vec<(String, u16)>, key: &HashKey) -> Self {
        let mut bytes = name.as_bytes().to_vec();
        for (id, weight) in &members {
            // No id has it.
            bytes.push(0);
            bytes.extend_from_slice(id.as_bytes());
            bytes.push(0);
            bytes.extend_from_slice(&weight.to_le_bytes());
        }
        Self { name: name.to_owned(), hash: key.bytes(&bytes), members }
    }

    /// Whether its targets get their places by this key.
    #[must_use]
    pub fn is_of(&self, key: &HashKey) -> bool {
        Self::new(&self.name, self.members.clone(), key).hash == self.hash
    }
}

/// The ring of these targets: names, numbers and shares; and what it is made of. The same one as before if they are the same.
pub(super) fn ring(
    indexes: &mut Indexes,
    name: &str,
    members: &[(&str, u16, u32)],
    key: &HashKey,
) -> (Arc<[u16]>, Arc<Make>) {
    let shares: Vec<u32> = members.iter().map(|(_, _, share)| *share).collect();
    let members: Vec<(String, u16, u16)> = members
        .iter()
        .zip(weights(&shares))
        .filter(|(_, weight)| *weight > 0)
        .map(|(&(id, number, _), weight)| (id.to_owned(), number, weight))
        .collect();
    if let Some(before) = indexes.rings.get(name)
        && before.members == members
        && before.key == *key
    {
        return (Arc::clone(&before.ring), Arc::clone(&before.make));
    }
    let told = members.iter().map(|(id, _, weight)| (id.clone(), *weight)).collect();
    let make = Arc::new(Make::new(name, told, key));
    let ring = slots(&members, key);
    let kept = KeptRing { key: *key, members, ring: Arc::clone(&ring), make: Arc::clone(&make) };
    indexes.rings.insert(name.to_owned(), kept);
    (ring, make)
}

/// The other node's ring with this node's numbers, 0 for targets that have none here; none if its targets get their places by another key.
pub(super) fn other_ring(
    kept: &mut BTreeMap<String, KeptRing>,
    make: &Arc<Make>,
    numbers: &BTreeMap<String, u16>,
    key: &HashKey,
) -> Option<Arc<[u16]>> {
    let number = |id: &str| numbers.get(id).copied().unwrap_or_default();
    if let Some(before) = kept.get(&make.name)
        && before.key == *key
        && (Arc::ptr_eq(&before.make, make) || before.make == *make)
        && before.members.iter().all(|(id, known, _)| number(id) == *known)
    {
        return Some(Arc::clone(&before.ring));
    }
    if !make.is_of(key) {
        return None;
    }
    // No more than the heaviest that a table takes.
    let weight = |weight: u16| u64::from(weight).min(WEIGHT_MAX);
    let member = |(id, told): &(String, u16)| {
        (id.clone(), number(id), u16::try_from(weight(*told)).unwrap_or_default())
    };
    let members: Vec<(String, u16, u16)> = make.members.iter().map(member).collect();
    let ring = slots(&members, key);
    let fresh = KeptRing { key: *key, members, ring: Arc::clone(&ring), make: Arc::clone(make) };
    kept.insert(make.name.clone(), fresh);
    Some(ring)
}

/// The table of these targets, by their numbers.
fn slots(members: &[(String, u16, u16)], key: &HashKey) -> Arc<[u16]> {
    let of_table: Vec<Member<'_>> =
        members.iter().map(|(id, _, weight)| Member { id, weight: *weight }).collect();
    let table = Table::new(&of_table, key);
    let number = |at: usize| members.get(at).map_or(0, |(_, number, _)| *number);
    let mut slots: Vec<u16> = table.slots().map(number).collect();
    slots.resize(RING_SLOTS + SPARE, 0);
    slots.into()
}

/// Weights of at most 256 in the proportion of the shares: exactly where that can be, else to one part in 256 of the largest.
/// None is 0 whose share is not.
pub(super) fn weights(shares: &[u32]) -> Vec<u16> {
    let common = shares.iter().fold(0, |common, share| divisor(common, *share)).max(1);
    let largest = u64::from(shares.iter().copied().max().unwrap_or_default() / common);
    let weight = |share: &u32| {
        let part = u64::from(share / common);
        let scaled = if largest <= WEIGHT_MAX { part } else { (part * WEIGHT_MAX + largest / 2) / largest };
        // Not above `WEIGHT_MAX`.
        u16::try_from(scaled).unwrap_or(u16::MAX).max(u16::from(*share > 0))
    };
    shares.iter().map(weight).collect()
}

/// The greatest common divisor.
const fn divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
