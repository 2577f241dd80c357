//! What comes from the peer.

use common::time::Instant;

use super::action::Put;
use super::codec::{decode_entry, decode_key};
use super::dirty::Item;
use super::entry::{Fingerprint, Key, Live, Table};
use super::error::SessionError;
use super::frame::{Batch, Data, Frame, Opening};
use super::hello;
use super::ledger::{GENERATION_MAX, Owner, Record, Version};
use super::replica::{Replica, TOGETHER, Writing};
use super::session::{Snapshot, Sweep};
use super::stats::State;

impl Replica {
    /// Takes in frames until one waits for the shell to write it into the live tables.
    pub(super) fn read_frames(&mut self, now: Instant) {
        while self.writing.is_none() {
            let Some(session) = &mut self.session else { return };
            let incoming = &mut session.incoming;
            let frame = match incoming.frames.next_bytes() {
                Ok(None) => return,
                Ok(Some(bytes)) => {
                    incoming.unacknowledged += bytes.len();
                    Frame::decode(bytes)
                }
                Err(error) => Err(error),
            };
            let done = frame.map_err(SessionError::from).and_then(|frame| self.take_frame(frame, now));
            match done {
                Ok(()) => self.counters.received.frames += 1,
                Err(reason) => return self.fail_session(reason, now),
            }
        }
    }

    fn take_frame(&mut self, frame: Frame, now: Instant) -> Result<(), SessionError> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let frame = match frame {
            Frame::Opening(opening) if session.minor.is_none() => return self.establish(&opening, now),
            Frame::Opening(_) => return Err(SessionError::Unexpected("a second hello")),
            _ if session.minor.is_none() => return Err(SessionError::Unexpected("a frame before its hello")),
            frame => frame,
        };
        let incoming = &mut session.incoming;
        match frame {
            Frame::Opening(_) => return Ok(()),
            Frame::Alive { config_hash } => {
                if let Some(peer) = &mut self.peer {
                    peer.config_hash = config_hash;
                }
                return Ok(());
            }
            Frame::Ack(ack) => {
                if session.outgoing.acknowledge(ack)? {
                    self.counters.snapshots_sent += 1;
                    self.untold = None;
                }
                self.tombstones.acknowledged(ack.sequence);
                self.rings.acknowledged(ack.sequence);
                return Ok(());
            }
            Frame::Word(word) => {
                if !word.is_within_bounds() {
                    return Err(SessionError::Unexpected("a word beyond its limits"));
                }
                self.peer_word = Some(word);
                return Ok(());
            }
            Frame::Note(note) => return self.noted.take(note),
            Frame::Data(data) => {
                incoming.take_sequence(data.sequence)?;
                return self.take_data(data, now);
            }
            Frame::SnapshotBegin { sequence } => {
                incoming.take_sequence(sequence)?;
                incoming.in_snapshot = true;
                incoming.sweep = None;
                self.ledgers.iter_mut().for_each(|ledger| ledger.begin(Owner::Peer));
                self.peer_values.begin();
                self.set_state(State::Syncing, now);
            }
            Frame::SnapshotEnd { sequence } => {
                incoming.take_sequence(sequence)?;
                if !incoming.in_snapshot {
                    return Err(SessionError::Unexpected("the end of a snapshot that had not begun"));
                }
                incoming.in_snapshot = false;
                incoming.sweep = Some(Sweep::default());
                self.peer_values.sweep();
                self.go_on_sweeping(now);
            }
            Frame::Ring(ring) => {
                incoming.take_sequence(ring.sequence)?;
                self.take_ring(ring)?;
            }
            Frame::Unused6 | Frame::Unused7 => {
                return Err(SessionError::Unexpected("a frame of a kind that no release has"));
            }
        }
        // The peer waits for it.
        self.frame_applied(now);
        Ok(())
    }

    /// The last frame needs no writing, or has been written. Acknowledged by then.
    pub(super) fn frame_applied(&mut self, by: Instant) {
        if let Some(session) = &mut self.session {
            let incoming = &mut session.incoming;
            incoming.applied = incoming.sequence;
            incoming.ack_at = Some(incoming.ack_at.map_or(by, |at| at.min(by)));
        }
    }

    fn establish(&mut self, opening: &Opening, now: Instant) -> Result<(), SessionError> {
        let hello = hello::accept(opening, &self.settings)?;
        let is_another = |peer: &hello::Hello| (&peer.node, peer.boot) != (&hello.node, hello.boot);
        if self.peer.as_ref().is_some_and(is_another) {
            // Nobody else has these entries any more, or can say whether they are still true: they are ours.
            let adopted: usize = self.ledgers.iter_mut().map(super::ledger::Ledger::adopt).sum();
            self.counters.adopted += adopted as u64;
            self.peer_values.clear();
        }
        self.generation = self.generation.max(hello.generation);
        self.we_win = self.settings.node > hello.node;
        self.counters.sessions += 1;
        if let Some(session) = &mut self.session {
            session.minor = Some(hello.minor);
        }
        // A table that it does not know has no size. What a reload changes later is said with the next session.
        let differs = |index: usize| ![0, self.settings.tables[index]].contains(&hello.tables[index]);
        self.sizes_differ = std::array::from_fn(differs);
        self.rings.session_begins(hello.minor);
        self.noted.session_begins();
        self.peer = Some(hello);
        self.set_state(State::Syncing, now);
        self.begin_snapshot(now);
        Ok(())
    }

    /// This node's snapshot begins, or begins anew. What is dirty is in it; deletions are not, and are sent again.
    pub(super) fn begin_snapshot(&mut self, now: Instant) {
        let Some(session) = &mut self.session else { return };
        session.outgoing.snapshot = Snapshot::default();
        self.rings.alone();
        self.untold = self.oldest_untold();
        self.dirty.clear();
        self.tombstones.unsend();
        for ledger in &mut self.ledgers {
            ledger.begin(Owner::Us);
        }
        for (fingerprint, tombstone) in self.tombstones.iter() {
            let item = Item::Delete(tombstone.key);
            // There is room for all tombstones.
            self.dirty.put(fingerprint, item, tombstone.version.generation, false, now);
        }
    }

    fn take_data(&mut self, data: Data, now: Instant) -> Result<(), SessionError> {
        for announcement in data.names {
            let id = self.name(announcement.name.into_name()).ok();
            let Some(session) = &mut self.session else { return Ok(()) };
            let learned = session.incoming.names.learn(announcement.number, id);
            learned.map_err(|error| SessionError::NameNumber(error.0))?;
        }
        let Some(session) = &self.session else { return Ok(()) };
        let number = session.number;
        let mut writing = Writing {
            id: self.next_id(),
            handed: false,
            session: Some(number),
            puts: Vec::new(),
            deletes: Vec::new(),
            handed_puts: Vec::new(),
            handed_deletes: Vec::new(),
        };
        let taken =
            data.batches.iter().try_for_each(|batch| self.take_batch(batch, data.base, &mut writing, now));
        if writing.puts.is_empty() && writing.deletes.is_empty() {
            // One with garbage in it does not get that far.
            if taken.is_ok() {
                self.frame_applied(now + self.settings.acknowledge_after);
            }
        } else {
            // What came before garbage is in the ledger, so it has to get into the live tables, too.
            self.writing = Some(writing);
        }
        taken
    }

    fn take_batch(
        &mut self,
        batch: &Batch,
        base: u64,
        writing: &mut Writing,
        now: Instant,
    ) -> Result<(), SessionError> {
        let minor = self.session.as_ref().and_then(|session| session.minor).unwrap_or_default();
        let known = Table::of_number(batch.table).filter(|table| table.since_minor() <= minor);
        let Some(table) = known else {
            self.counters.skipped.unknown_table += u64::from(batch.count);
            return Ok(());
        };
        let mut bytes = &batch.bytes[..];
        let mut part: Vec<(u64, Live)> = Vec::with_capacity(TOGETHER);
        for _ in 0..batch.count {
            let Some(session) = &self.session else { return Ok(()) };
            let names = &session.incoming.names;
            if batch.deletes {
                let (difference, key) = decode_key(table, &mut bytes, names)?;
                self.counters.received.deletions[table.index()] += 1;
                self.take_delete(base.wrapping_add_signed(difference), key, writing);
            } else {
                let (difference, live) = decode_entry(table, &mut bytes, names, minor)?;
                self.counters.received.entries[table.index()] += 1;
                match live {
                    Some(live) => part.push((base.wrapping_add_signed(difference), live)),
                    None => self.counters.skipped.unknown_name += 1,
                }
                if part.len() == TOGETHER {
                    self.take_puts(&mut part, writing, now);
                }
            }
        }
        self.take_puts(&mut part, writing, now);
        if bytes.is_empty() {
            return Ok(());
        }
        Err(SessionError::Malformed(common::wire::WireError::Trailing(bytes.len())))
    }

    fn take_puts(&mut self, part: &mut Vec<(u64, Live)>, writing: &mut Writing, now: Instant) {
        let fingerprints = self.look_up(part.iter().map(|(_, live)| live));
        for ((generation, live), fingerprint) in part.drain(..).zip(fingerprints) {
            self.take_put(generation, live, fingerprint, writing, now);
        }
    }

    fn take_put(
        &mut self,
        generation: u64,
        live: Live,
        fingerprint: Fingerprint,
        writing: &mut Writing,
        now: Instant,
    ) {
        if !self.see_generation(generation) {
            return;
        }
        let key = live.entry.key();
        let (mut over_own, mut is_new) = (false, false);
        let admitted = if key.table().is_per_node() {
            self.peer_values.put(fingerprint, live.entry)
        } else {
            let version = Version { generation, owner: Owner::Peer };
            let before = self.record(key.table(), fingerprint);
            over_own = before.is_some_and(|record| record.version().owner == Owner::Us);
            is_new = before.is_none();
            if !self.is_newer(before, fingerprint, version) {
                self.counters.skipped.older += 1;
                let ledger = &mut self.ledgers[key.table().index()];
                ledger.meet(fingerprint, Owner::Peer);
                // It has a value of its own, so it has to hear of ours, and of its deletion, even if it never heard of it before.
                ledger.share(fingerprint);
                self.dirty.share(fingerprint);
                // A new process hears of a deletion before it has found the entry in its live table, and takes it for nothing.
                if let Some(buried) = self.tombstones.get(fingerprint).copied() {
                    let generation = buried.version.generation;
                    self.mark_dirty(fingerprint, Item::Delete(buried.key), generation, false, [now; 2]);
                }
                return;
            }
            self.tombstones.remove(fingerprint);
            self.dirty.remove(fingerprint);
            self.ledgers[key.table().index()].put(fingerprint, version, true)
        };
        if admitted {
            writing.puts.push((fingerprint, generation, Put { live, over_own, is_new }));
        } else {
            self.counters.skipped.table_full += 1;
            self.count_refused(1);
        }
    }

    /// Whether what the peer says is later than what this node knows of the entry, its deletion included.
    fn is_newer(&self, known: Option<Record>, fingerprint: Fingerprint, version: Version) -> bool {
        let order = version.order(self.we_win);
        match known {
            Some(record) => order > record.version().order(self.we_win),
            None => {
                let tombstone = self.tombstones.get(fingerprint).map(|tombstone| tombstone.version);
                // One that found no tombstone stands all the same until it is sent: nothing that is heard now comes after it.
                let unsent = self.dirty.deletion(fingerprint);
                let unsent = unsent.map(|generation| Version { generation, owner: Owner::Us });
                tombstone.or(unsent).is_none_or(|deleted| order > deleted.order(self.we_win))
            }
        }
    }

    fn take_delete(&mut self, generation: u64, key: Option<Key>, writing: &mut Writing) {
        let Some(key) = key else {
            self.counters.skipped.unknown_name += 1;
            return;
        };
        if !self.see_generation(generation) {
            return;
        }
        let (table, fingerprint) = (key.table(), key.fingerprint(&self.settings.hash));
        if table.is_per_node() {
            self.peer_values.remove(table, fingerprint);
            return;
        }
        let Some(record) = self.record(table, fingerprint) else { return };
        let order = Version { generation, owner: Owner::Peer }.order(self.we_win);
        // A deletion is later than the change that it is of.
        if order < record.version().order(self.we_win) {
            self.counters.skipped.older += 1;
            return;
        }
        self.ledgers[table.index()].remove(fingerprint);
        self.dirty.remove(fingerprint);
        writing.deletes.push((fingerprint, key));
    }

    fn see_generation(&mut self, generation: u64) -> bool {
        let valid = generation <= GENERATION_MAX;
        if valid {
            self.generation = self.generation.max(generation);
        } else {
            self.counters.skipped.generation += 1;
        }
        valid
    }

    pub(super) fn count_refused(&mut self, entries: u64) {
        if let Some(session) = &mut self.session {
            session.incoming.refused += entries;
        }
    }
}
