//! What was deleted here and may still be alive at the peer.
//!
//! A tombstone keeps a change that the peer sent before it heard of the deletion from bringing the entry back. The stream is in
//! order both ways, so with the acknowledgement of a deletion all such changes have come in, and its tombstone can go. One
//! that is not acknowledged, because there is no peer, goes after [`LIFETIME`]. About 100 bytes each.

use std::collections::VecDeque;

use common::time::{Duration, Instant};

use super::entry::{Fingerprint, Key};
use super::ledger::Version;
use super::parts::Parts;

/// How long the deletion of an entry is remembered without a peer that acknowledges it. If the peer changed the same entry and comes
/// back later than this, the entry lives on, on both nodes, for as long as its lifetime says.
pub const LIFETIME: Duration = Duration::from_secs(300);

/// How often expired ones are looked for.
pub(super) const PURGE_INTERVAL: Duration = Duration::from_secs(10);

/// A deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tombstone {
    pub(super) key: Key,
    /// What the peer may still have up to this version is gone.
    pub(super) version: Version,
    made: Instant,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Tombstones {
    map: Parts<Tombstone>,
    /// Those sent in the present session, with the frame's sequence number; no more than its window holds.
    sent: VecDeque<(u64, Fingerprint, Version)>,
    max: usize,
    purged: Instant,
}

impl Tombstones {
    pub(super) fn new(max: usize) -> Self {
        Self { map: Parts::default(), sent: VecDeque::new(), max, purged: Instant::ZERO }
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    pub(super) fn get(&self, fingerprint: Fingerprint) -> Option<&Tombstone> {
        self.map.get(fingerprint)
    }

    /// False if there is no room. Then a change that crosses the deletion on its way brings the entry back here, while the peer deletes it; and a
    /// snapshot that begins anew before the deletion was sent leaves it with the peer, if the peer was the last to change it. So one of the
    /// nodes has it, until it is used or runs out, or until the next session: then both have it, or neither has. What was deleted without a
    /// session comes back, on both, where the peer was the last to change it.
    pub(super) fn insert(
        &mut self,
        fingerprint: Fingerprint,
        key: Key,
        version: Version,
        now: Instant,
    ) -> bool {
        let room = self.map.len() < self.max || self.map.contains(fingerprint);
        if room {
            self.map.insert(fingerprint, Tombstone { key, version, made: now });
        }
        room
    }

    pub(super) fn remove(&mut self, fingerprint: Fingerprint) -> Option<Tombstone> {
        if self.map.is_empty() {
            return None;
        }
        self.map.remove(fingerprint)
    }

    /// In no particular order, which the receiver does not notice: each is about another key.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Fingerprint, &Tombstone)> {
        self.map.iter()
    }

    /// The deletion goes out with this frame.
    pub(super) fn sent(&mut self, sequence: u64, fingerprint: Fingerprint, version: Version) {
        self.sent.push_back((sequence, fingerprint, version));
    }

    /// The peer has applied all frames up to this one.
    pub(super) fn acknowledged(&mut self, sequence: u64) {
        while let Some(&(_, fingerprint, version)) = self.sent.front().filter(|sent| sent.0 <= sequence) {
            self.sent.pop_front();
            if self.map.get(fingerprint).is_some_and(|tombstone| tombstone.version == version) {
                self.map.remove(fingerprint);
            }
        }
    }

    /// The session is over: what it did not acknowledge is sent again in the next one.
    pub(super) fn unsend(&mut self) {
        self.sent.clear();
    }

    /// When those that are too old were looked for.
    pub(super) const fn purged(&self) -> Instant {
        self.purged
    }

    /// Forgets those that are too old; answers how many.
    pub(super) fn purge(&mut self, now: Instant) -> usize {
        if self.map.is_empty() || now < self.purged + PURGE_INTERVAL {
            return 0;
        }
        self.purged = now;
        self.map.retain(|tombstone| now - tombstone.made < LIFETIME)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Owner;
    use super::*;

    #[test]
    fn a_tombstone_goes_when_its_deletion_is_acknowledged_or_old() {
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        let version = |generation| Version { generation, owner: Owner::Us };
        let (key, fingerprint) = (Key::Flow([1; 40]), Fingerprint(1));
        let mut tombstones = Tombstones::new(1);
        assert!(tombstones.insert(fingerprint, key, version(5), at(100)));
        assert!(!tombstones.insert(Fingerprint(2), key, version(5), at(100)), "full");
        tombstones.sent(7, fingerprint, version(5));
        assert!(tombstones.insert(fingerprint, key, version(6), at(100)));
        tombstones.acknowledged(7);
        assert_eq!(tombstones.len(), 1, "it was deleted once more");
        tombstones.sent(8, fingerprint, version(6));
        tombstones.acknowledged(7);
        assert_eq!(tombstones.len(), 1);
        tombstones.acknowledged(8);
        assert_eq!(tombstones.len(), 0);
        tombstones.insert(fingerprint, key, version(9), at(200));
        assert_eq!(
            (tombstones.purge(at(300)), tombstones.purge(at(305)), tombstones.purge(at(500))),
            (0, 0, 1)
        );
    }
}
