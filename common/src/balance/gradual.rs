//! Letting the clients of a hash come back to a target gradually, and each only once.

use super::{Candidates, Member, SHARE_PER_WEIGHT, share};
use crate::hash::{HashKey, mix};

/// Which keys a target in slow start already accepts.
///
/// Every key has a threshold of its own at each target, from a second hash. It sees the target as absent until the
/// target's share, as a part of the full one, has passed the threshold, and as present from then on. So a client that was
/// moved away when the target failed stays where it is until it is its turn, and then moves back for good.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    targets: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The hash of the target's id.
    seed: u64,
    weight: u32,
}

impl Admission {
    /// For these targets.
    pub(super) fn new(members: &[Member<'_>], key: &HashKey) -> Self {
        let entry = |member: &Member<'_>| Entry {
            seed: key.bytes(member.id.as_bytes()),
            weight: share(member.weight, SHARE_PER_WEIGHT) / SHARE_PER_WEIGHT,
        };
        Self { targets: members.iter().map(entry).collect() }
    }

    /// Whether a target that is not masked accepts a key now.
    pub(super) fn accepts(&self, key: u64, index: usize, candidates: &dyn Candidates) -> bool {
        let share = candidates.share(index);
        if share == 0 {
            return false;
        }
        let Some(entry) = self.targets.get(index) else { return true };
        let full = entry.weight * SHARE_PER_WEIGHT;
        if share >= full {
            return true;
        }
        // The upper half of the product of a 64-bit number and `full` is below `full`.
        let threshold = (u128::from(mix(key ^ entry.seed)) * u128::from(full)) >> 64;
        threshold < u128::from(share)
    }

    /// The weight of a target that accepts the key, else 0.
    pub(super) fn weight(&self, key: u64, index: usize, candidates: &dyn Candidates) -> u32 {
        let weight = self.targets.get(index).map_or(0, |entry| entry.weight);
        if weight > 0 && self.accepts(key, index, candidates) { weight } else { 0 }
    }

    /// The target whose draw for this key is best, among all that have a share: weighted rendezvous hashing, where a
    /// target's leaving moves its own keys only. The last resort, when no target that accepts the key was found.
    pub(super) fn rendezvous(&self, key: u64, candidates: &dyn Candidates) -> Option<usize> {
        let mut best: Option<(usize, f64)> = None;
        for index in 0..candidates.len() {
            let share = candidates.share(index);
            if share == 0 {
                continue;
            }
            let seed = self.targets.get(index).map_or(0, |entry| entry.seed);
            // 53 bits, which a `f64` holds exactly, and never 0.
            let uniform = ((mix(key.rotate_left(32) ^ seed) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
            // Of exponentially distributed times with these rates, each is the first in proportion to its rate.
            let time = -uniform.ln() / f64::from(share);
            if best.is_none_or(|(_, least)| time < least) {
                best = Some((index, time));
            }
        }
        best.map(|(index, _)| index)
    }
}
