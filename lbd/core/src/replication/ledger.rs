//! Who changed an entry last, and when in the pair's order of changes.
//!
//! 17 bytes for each entry in a hash table that is between 7/16 and 7/8 full: 20 to 39 bytes, 39 MB for a million entries at
//! the most; while a table grows a part of it exists twice for a moment.

use super::entry::Fingerprint;
use super::parts::Parts;

/// Which node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Us,
    Peer,
}

/// The largest generation. Counted from microseconds since 1970 and by one with each change, the year 2500 has not reached it.
pub(super) const GENERATION_MAX: u64 = (1 << GENERATION_BITS) - 1;

const GENERATION_BITS: u32 = 54;

/// A place in the order of all changes of an entry.
///
/// Generations are a Lamport clock of the pair: each change gets a larger one than its node has ever given or seen. Two nodes
/// that change an entry without having heard of each other may choose the same; then the node whose name is greater wins, on both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) generation: u64,
    pub(super) owner: Owner,
}

impl Version {
    /// A number that is greater the later the version is; `we_win` says whose changes win a tie.
    pub(super) const fn order(self, we_win: bool) -> u64 {
        let wins = matches!(self.owner, Owner::Us) == we_win;
        self.generation << 1 | wins as u64
    }
}

/// An entry before this node changed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Before {
    /// The peer may have known it.
    pub(super) shared: bool,
    /// The peer had changed it last.
    pub(super) peers: bool,
}

/// generation 54 bits | the peer may know it 1 | owned by the peer 1 | mark 8.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Record(u64);

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} mark {} shared {}", self.version(), self.mark(), self.is_shared())
    }
}

const SHARED: u64 = 1 << 9;
const PEERS: u64 = 1 << 8;
const MARK: u64 = 0xff;

impl Record {
    /// `shared`: the peer may know the entry.
    pub(super) fn new(version: Version, shared: bool, mark: u8) -> Self {
        let peers = if version.owner == Owner::Peer { PEERS } else { 0 };
        let shared = if shared { SHARED } else { 0 };
        Self(version.generation.min(GENERATION_MAX) << 10 | shared | peers | u64::from(mark))
    }

    pub(super) const fn version(self) -> Version {
        let owner = if self.0 & PEERS == 0 { Owner::Us } else { Owner::Peer };
        Version { generation: self.0 >> 10, owner }
    }

    pub(super) const fn is_shared(self) -> bool {
        self.0 & SHARED != 0
    }

    pub(super) const fn share(&mut self) {
        self.0 |= SHARED;
    }

    /// Another version; what it was before.
    fn change(&mut self, version: Version, connected: bool, mark: u8) -> Before {
        let before = Before { shared: self.is_shared(), peers: self.0 & PEERS != 0 };
        *self = Self::new(version, before.shared || connected, mark);
        before
    }

    pub(super) const fn mark(self) -> u8 {
        (self.0 & MARK) as u8
    }

    pub(super) fn set_mark(&mut self, mark: u8) {
        self.0 = self.0 & !MARK | u64::from(mark);
    }
}

/// The records of a table.
#[derive(Debug)]
pub(super) struct Ledger {
    records: Parts<Record>,
    max: usize,
    /// Marks of this node's entries: those that its own current snapshot has met, or that were changed since it began.
    own_mark: Mark,
    /// Marks of the peer's entries: those it has sent since its current snapshot began.
    peer_mark: Mark,
}

impl Ledger {
    /// For `max` entries.
    pub(super) fn new(max: usize) -> Self {
        Self { records: Parts::default(), max, own_mark: Mark::default(), peer_mark: Mark::default() }
    }

    pub(super) const fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.records.len() >= self.max
    }

    pub(super) fn get(&self, fingerprint: Fingerprint) -> Option<Record> {
        self.records.get(fingerprint).copied()
    }

    /// Whether there is a record.
    pub(super) fn contains(&self, fingerprint: Fingerprint) -> bool {
        self.records.contains(fingerprint)
    }

    /// From now on the peer may know the entry.
    pub(super) fn share(&mut self, fingerprint: Fingerprint) {
        if let Some(record) = self.records.get_mut(fingerprint) {
            record.share();
        }
    }

    /// Notes the version of an entry, which is known to be met in its owner's current snapshot. False if there is no room.
    pub(super) fn put(&mut self, fingerprint: Fingerprint, version: Version, shared: bool) -> bool {
        let mark = self.mark_of(version.owner);
        if let Some(record) = self.records.get_mut(fingerprint) {
            *record = Record::new(version, shared, mark);
            return true;
        }
        if self.is_full() {
            return false;
        }
        self.records.insert(fingerprint, Record::new(version, shared, mark));
        true
    }

    /// Notes a change of this node's own. What the entry was before; `None` if there is no room. From now on the peer may know it
    /// if `connected`. `buried` if it may because the entry's deletion has not been acknowledged.
    pub(super) fn change(
        &mut self,
        fingerprint: Fingerprint,
        generation: u64,
        buried: bool,
        connected: bool,
    ) -> Option<Before> {
        let (version, mark) = (Version { generation, owner: Owner::Us }, self.own_mark.0);
        // Looked up once: with a million entries that is what a change costs.
        if !self.is_full() {
            return Some(self.records.change_or_insert(
                fingerprint,
                |record| record.change(version, connected, mark),
                || (Record::new(version, buried || connected, mark), Before { shared: buried, peers: false }),
            ));
        }
        self.records.get_mut(fingerprint).map(|record| record.change(version, connected, mark))
    }

    /// Notes that an entry was met in the current snapshot of `owner`; that of one which the other node owns says nothing.
    pub(super) fn meet(&mut self, fingerprint: Fingerprint, owner: Owner) {
        let mark = self.mark_of(owner);
        if let Some(record) = self.records.get_mut(fingerprint)
            && record.version().owner == owner
        {
            record.set_mark(mark);
        }
    }

    pub(super) fn remove(&mut self, fingerprint: Fingerprint) -> Option<Record> {
        self.records.remove(fingerprint)
    }

    /// A snapshot of `owner`'s entries begins: none is met yet.
    pub(super) fn begin(&mut self, owner: Owner) {
        let mark = match owner {
            Owner::Us => &mut self.own_mark,
            Owner::Peer => &mut self.peer_mark,
        };
        if mark.next() {
            // Once in 255 snapshots, so that a mark of long ago is not taken for one of now.
            for record in self.records.values_mut().filter(|record| record.version().owner == owner) {
                record.set_mark(0);
            }
        }
    }

    /// Whether an entry of `owner`'s has not been met in the current snapshot.
    pub(super) fn is_missed(&self, record: Record, owner: Owner) -> bool {
        record.version().owner == owner && record.mark() != self.mark_of(owner)
    }

    /// Whether there is such an entry.
    pub(super) fn misses_any(&self, owner: Owner) -> bool {
        self.records.iter().any(|(_, &record)| self.is_missed(record, owner))
    }

    /// Forgets them; answers how many.
    pub(super) fn forget_missed(&mut self, owner: Owner) -> usize {
        let mark = self.mark_of(owner);
        self.records.retain(|record| record.version().owner != owner || record.mark() == mark)
    }

    /// All entries of the peer's are now this node's; answers how many.
    pub(super) fn adopt(&mut self) -> usize {
        let mark = self.mark_of(Owner::Us);
        let mut adopted = 0;
        for record in self.records.values_mut() {
            let version = record.version();
            if version.owner == Owner::Peer {
                *record = Record::new(Version { owner: Owner::Us, ..version }, true, mark);
                adopted += 1;
            }
        }
        adopted
    }

    const fn mark_of(&self, owner: Owner) -> u8 {
        match owner {
            Owner::Us => self.own_mark.0,
            Owner::Peer => self.peer_mark.0,
        }
    }
}

/// The mark of a snapshot: 1 to 255, over and over. 0 is that of no snapshot.
#[derive(Debug)]
struct Mark(u8);

impl Default for Mark {
    fn default() -> Self {
        Self(1)
    }
}

impl Mark {
    /// True if it began again.
    const fn next(&mut self) -> bool {
        let wraps = self.0 == u8::MAX;
        self.0 = if wraps { 1 } else { self.0 + 1 };
        wraps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(generation: u64, owner: Owner) -> Version {
        Version { generation, owner }
    }

    #[test]
    fn versions_are_ordered_the_same_on_both_nodes() {
        let (ours, theirs) = (version(7, Owner::Us), version(7, Owner::Peer));
        assert!(ours.order(true) > theirs.order(true));
        assert!(ours.order(false) < theirs.order(false));
        assert!(version(8, Owner::Us).order(false) > theirs.order(false));
        assert_eq!(size_of::<(Fingerprint, Record)>(), 16);
    }

    #[test]
    fn records_keep_their_parts_apart() {
        let mut record = Record::new(version(GENERATION_MAX, Owner::Peer), false, 255);
        assert_eq!(
            (record.version(), record.is_shared(), record.mark()),
            (version(GENERATION_MAX, Owner::Peer), false, 255)
        );
        record.set_mark(1);
        record.share();
        assert_eq!(
            (record.version(), record.is_shared(), record.mark()),
            (version(GENERATION_MAX, Owner::Peer), true, 1)
        );
        let capped = Record::new(version(u64::MAX, Owner::Us), true, 0);
        assert_eq!(capped.version(), version(GENERATION_MAX, Owner::Us));
    }

    #[test]
    fn what_a_snapshot_does_not_meet_is_missed() {
        let mut ledger = Ledger::new(3);
        for (number, owner) in [(1, Owner::Peer), (2, Owner::Peer), (3, Owner::Us)] {
            assert!(ledger.put(Fingerprint(number), version(number, owner), true));
        }
        assert!(!ledger.put(Fingerprint(4), version(4, Owner::Us), true), "full");
        // However often the link was cut before a snapshot ended.
        for _ in 0..600 {
            ledger.begin(Owner::Peer);
            assert!(ledger.misses_any(Owner::Peer));
        }
        ledger.meet(Fingerprint(2), Owner::Peer);
        assert_eq!(ledger.forget_missed(Owner::Peer), 1);
        assert!(ledger.get(Fingerprint(1)).is_none() && ledger.len() == 2 && !ledger.misses_any(Owner::Peer));
        assert_eq!(ledger.adopt(), 1);
        ledger.begin(Owner::Us);
        assert_eq!(ledger.forget_missed(Owner::Us), 2);
    }
}
