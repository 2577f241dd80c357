//! The peer's own values in tables where each node has its own: its latest word, beside ours and never instead of it.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::entry::{Entry, Fingerprint, Table};
use super::names::NameId;
use super::parts::AsItIs;

/// About 90 bytes for each, bounded by the table's size.
#[derive(Debug)]
pub(super) struct PeerValues {
    tables: [HashMap<Fingerprint, (Entry, u64), BuildHasherDefault<AsItIs>>; Table::COUNT],
    max: [u32; Table::COUNT],
    /// The peer's snapshot in which a value was met last.
    snapshot: u64,
}

impl PeerValues {
    pub(super) fn new(max: [u32; Table::COUNT]) -> Self {
        Self { tables: std::array::from_fn(|_| HashMap::default()), max, snapshot: 0 }
    }

    pub(super) const fn set_max(&mut self, max: [u32; Table::COUNT]) {
        self.max = max;
    }

    /// False if there is no room.
    pub(super) fn put(&mut self, fingerprint: Fingerprint, entry: Entry) -> bool {
        let index = entry.key().table().index();
        let table = &mut self.tables[index];
        let room = table.len() < self.max[index] as usize || table.contains_key(&fingerprint);
        if room {
            table.insert(fingerprint, (entry, self.snapshot));
        }
        room
    }

    pub(super) fn get(&self, table: Table, fingerprint: Fingerprint) -> Option<&Entry> {
        self.tables[table.index()].get(&fingerprint).map(|(entry, _)| entry)
    }

    pub(super) fn remove(&mut self, table: Table, fingerprint: Fingerprint) {
        self.tables[table.index()].remove(&fingerprint);
    }

    pub(super) fn iter(&self, table: Table) -> impl Iterator<Item = &Entry> {
        self.tables[table.index()].values().map(|(entry, _)| entry)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = NameId> {
        self.tables.iter().flat_map(HashMap::values).flat_map(|(entry, _)| entry.names())
    }

    pub(super) fn len(&self, table: Table) -> usize {
        self.tables[table.index()].len()
    }

    pub(super) const fn begin(&mut self) {
        self.snapshot += 1;
    }

    /// The peer's snapshot is complete: what it did not have is gone.
    pub(super) fn sweep(&mut self) {
        for table in &mut self.tables {
            table.retain(|_, (_, snapshot)| *snapshot == self.snapshot);
        }
    }

    /// The peer's process is another one: it counts anew.
    pub(super) fn clear(&mut self) {
        self.tables.iter_mut().for_each(HashMap::clear);
    }
}
