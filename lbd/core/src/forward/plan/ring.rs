//! Rings: Maglev tables of the targets in use, by the same rules as those of the proxies.

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

/// The ring of these targets: names, numbers and shares. The same one as before if they are the same.
pub(super) fn ring(
    indexes: &mut Indexes,
    name: &str,
    members: &[(&str, u16, u32)],
    key: &HashKey,
) -> Arc<[u16]> {
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
        return Arc::clone(&before.ring);
    }
    let of_table: Vec<Member<'_>> =
        members.iter().map(|(id, _, weight)| Member { id, weight: *weight }).collect();
    let table = Table::new(&of_table, key);
    let number = |at: usize| members.get(at).map_or(0, |(_, number, _)| *number);
    let mut slots: Vec<u16> = table.slots().map(number).collect();
    slots.resize(RING_SLOTS + SPARE, 0);
    let ring: Arc<[u16]> = slots.into();
    let kept = KeptRing { key: *key, members, ring: Arc::clone(&ring) };
    indexes.rings.insert(name.to_owned(), kept);
    ring
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
