//! What goes to the peer, made at the moment in which the stream has room for it: nothing is ever queued.

use common::time::Instant;

use super::codec::{encode_entry, encode_key};
use super::dirty::{Expiry, Item};
use super::entry::{Entry, Fingerprint, Key};
use super::frame::{
    Ack, Announcement, Data, ENTRIES_OF_FULL_FRAME, Frame, Head, NAMES_PER_FRAME, WireName, to_millis,
};
use super::hello::{MINOR_OF_NOTES, MINOR_OF_WORDS, opening};
use super::ledger::{Owner, Version};
use super::names::{Name, NameId};
use super::replica::Replica;
use super::session::{PageEntry, Session, Stage};

impl Replica {
    /// Adds the next frame for the peer to `out`, which is to be empty, or nearly; false if there is none now. To be asked
    /// when what was sent before is in the socket, so that a peer that does not read makes changes wait where the latest replaces the
    /// one before.
    ///
    /// In this order: who we are, acknowledgements, our word, rings, notes, then changes and snapshot by turns as far as the window goes.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        let Some(frame) = self.next_frame(now) else { return false };
        let start = out.len();
        if let Err(error) = frame.append(out) {
            // It would have to be larger than what limits it, which does not happen.
            debug_assert!(false, "a frame that cannot be sent: {error}");
            return false;
        }
        let bytes = out.len() - start;
        self.counters.sent.frames += 1;
        self.counters.sent.bytes += bytes as u64;
        if let Some(session) = &mut self.session {
            session.outgoing.last_sent = now;
            if frame.is_numbered() {
                session.outgoing.sent(bytes);
            }
        }
        true
    }

    fn next_frame(&mut self, now: Instant) -> Option<Frame> {
        let session = self.session.as_mut()?;
        if !session.greeted {
            session.greeted = true;
            session.told_hash = self.settings.config_hash;
            return Some(Frame::Opening(opening(&self.settings, self.generation)));
        }
        if let Some(minor) = session.minor {
            if let Some(ack) = session.take_ack(now, self.settings.window / 8) {
                return Some(Frame::Ack(ack));
            }
            let config_hash = self.settings.config_hash;
            if session.told_hash != config_hash {
                session.told_hash = config_hash;
                return Some(Frame::Alive { config_hash });
            }
            if !session.told_word && minor >= MINOR_OF_WORDS {
                session.told_word = true;
                return Some(Frame::Word(self.word.clone()));
            }
            if let Some(frame) = self.next_ring_frame() {
                return Some(frame);
            }
            if minor >= MINOR_OF_NOTES
                && let Some(note) = self.noted.next_frame()
            {
                return Some(Frame::Note(note));
            }
            if let Some(frame) = self.next_data(now) {
                return Some(frame);
            }
        }
        let quiet = now - self.session.as_ref()?.outgoing.last_sent;
        let config_hash = self.settings.config_hash;
        (quiet >= self.settings.keepalive).then_some(Frame::Alive { config_hash })
    }

    /// Changes and snapshot by turns, so that neither waits for the other. The snapshot leaves half of the window to changes.
    fn next_data(&mut self, now: Instant) -> Option<Frame> {
        let outgoing = &self.session.as_ref()?.outgoing;
        let window = self.settings.window;
        if outgoing.unacknowledged >= window {
            return None;
        }
        let changes_due = self.changes_are_due(now);
        let snapshot_has_room = outgoing.unacknowledged < window / 2;
        let snapshot_first = snapshot_has_room && (!changes_due || outgoing.sent_changes);
        if snapshot_first && let Some(frame) = self.next_of_snapshot(now) {
            self.session.as_mut()?.outgoing.sent_changes = false;
            return Some(frame);
        }
        let frame = changes_due.then(|| self.next_changes(now)).flatten();
        self.session.as_mut()?.outgoing.sent_changes = frame.is_some();
        frame
    }

    /// Enough for a full frame, or what has waited long enough.
    fn changes_are_due(&self, now: Instant) -> bool {
        let full = self.dirty.len() >= ENTRIES_OF_FULL_FRAME || self.ring_waits_for_changes();
        full || self.dirty.oldest().is_some_and(|oldest| now - oldest >= self.settings.flush_after)
    }

    fn next_changes(&mut self, now: Instant) -> Option<Frame> {
        let mut frame = self.begin_data()?;
        while let Some(change) = self.dirty.first().copied() {
            frame.base.get_or_insert(change.generation);
            let taken = match change.item {
                Item::Put(entry, expiry) => self.add_put(&mut frame, &entry, expiry, change.generation, now),
                Item::Delete(key) => self.add_delete(&mut frame, &key, change.fingerprint, change.generation),
            };
            if !taken {
                break;
            }
            self.dirty.take_first();
            if self.batches.is_full() {
                break;
            }
        }
        self.end_data(frame)
    }

    fn next_of_snapshot(&mut self, now: Instant) -> Option<Frame> {
        let outgoing = &mut self.session.as_mut()?.outgoing;
        match outgoing.snapshot.stage {
            Stage::Begin => {
                outgoing.snapshot.stage = Stage::Tables;
                Some(Frame::SnapshotBegin { sequence: outgoing.next_sequence() })
            }
            Stage::Tables if !outgoing.snapshot.page.is_empty() => self.next_page(now),
            Stage::Tables if outgoing.snapshot.walk.table().is_none() => {
                // Entries that were passed over because they are dirty belong to the snapshot: a receiver that had an older value of
                // one would sweep it.
                let end = *outgoing.snapshot.end.get_or_insert(self.dirty.next_place());
                if self.dirty.done_before() < end {
                    return None;
                }
                let sequence = outgoing.next_sequence();
                outgoing.snapshot.stage = Stage::Ended(sequence);
                let vanished: usize =
                    self.ledgers.iter_mut().map(|ledger| ledger.forget_missed(Owner::Us)).sum();
                self.counters.vanished += vanished as u64;
                Some(Frame::SnapshotEnd { sequence })
            }
            Stage::Tables | Stage::Ended(_) | Stage::Acknowledged => None,
        }
    }

    /// What is left of the scanned entries. One that has changed since is among the changes, or was; one that is gone, too.
    fn next_page(&mut self, now: Instant) -> Option<Frame> {
        let mut frame = self.begin_data()?;
        while let Some(&PageEntry { fingerprint, generation, entry, expiry }) = self.page()?.last() {
            let table = entry.key().table();
            let as_scanned = Version { generation, owner: Owner::Us };
            let record = self.record(table, fingerprint);
            let is_current = record.is_some_and(|record| record.version() == as_scanned);
            if is_current && !self.dirty.contains(fingerprint) {
                frame.base.get_or_insert(generation);
                if !self.add_put(&mut frame, &entry, expiry, generation, now) {
                    break;
                }
                self.ledgers[table.index()].share(fingerprint);
            }
            self.page()?.pop();
            if self.batches.is_full() {
                break;
            }
        }
        self.end_data(frame)
    }

    fn page(&mut self) -> Option<&mut Vec<PageEntry>> {
        Some(&mut self.session.as_mut()?.outgoing.snapshot.page)
    }

    pub(super) fn begin_data(&self) -> Option<DataFrame> {
        let session = self.session.as_ref()?;
        Some(DataFrame {
            sequence: session.outgoing.sequence + 1,
            minor: session.minor?,
            base: None,
            names: Vec::new(),
        })
    }

    pub(super) fn end_data(&mut self, frame: DataFrame) -> Option<Frame> {
        if self.batches.is_empty() && frame.names.is_empty() {
            return None;
        }
        let sequence = self.session.as_mut()?.outgoing.next_sequence();
        let (base, names) = (frame.base.unwrap_or_default(), frame.names);
        Some(Frame::Data(Data { sequence, base, names, batches: self.batches.take() }))
    }

    /// False if the frame has no room for its names. One that the peer's version has no table for is passed over.
    fn add_put(
        &mut self,
        frame: &mut DataFrame,
        entry: &Entry,
        expiry: Expiry,
        generation: u64,
        now: Instant,
    ) -> bool {
        let table = entry.key().table();
        if table.since_minor() > frame.minor {
            return true;
        }
        for id in entry.names() {
            match self.announce(frame, id) {
                Announce::Done => {}
                Announce::NoRoom => return false,
                Announce::Forgotten => {
                    self.counters.forgotten_name += 1;
                    return true;
                }
            }
        }
        let difference = frame.difference(generation);
        let head = Head { generation: difference, remaining_ms: to_millis(expiry.remaining(now)) };
        let minor = frame.minor;
        let encode = |out: &mut Vec<u8>| encode_entry(entry, head, minor, out);
        // Into memory, which is all that could be missing.
        self.batches.write(table, false, encode).unwrap_or_default();
        self.counters.sent.entries[table.index()] += 1;
        true
    }

    fn add_delete(
        &mut self,
        frame: &mut DataFrame,
        key: &Key,
        fingerprint: Fingerprint,
        generation: u64,
    ) -> bool {
        let table = key.table();
        if table.since_minor() > frame.minor {
            return true;
        }
        match key.name().map(|id| self.announce(frame, id)) {
            None | Some(Announce::Done) => {}
            Some(Announce::NoRoom) => return false,
            Some(Announce::Forgotten) => {
                self.counters.forgotten_name += 1;
                return true;
            }
        }
        let difference = frame.difference(generation);
        self.batches.write(table, true, |out| encode_key(key, difference, out)).unwrap_or_default();
        self.counters.sent.deletions[table.index()] += 1;
        self.tombstones.sent(frame.sequence, fingerprint, Version { generation, owner: Owner::Us });
        true
    }

    /// Adds a name, if the peer does not know it; false if there is no room for it in this frame.
    pub(super) fn announce_name(&mut self, frame: &mut DataFrame, id: NameId) -> bool {
        !matches!(self.announce(frame, id), Announce::NoRoom)
    }

    fn announce(&mut self, frame: &mut DataFrame, id: NameId) -> Announce {
        let Some(session) = &mut self.session else { return Announce::NoRoom };
        if session.outgoing.announced.contains(id) {
            return Announce::Done;
        }
        let Some(name) = self.names.name(id) else { return Announce::Forgotten };
        if frame.names.len() >= NAMES_PER_FRAME {
            return Announce::NoRoom;
        }
        frame.names.push(Announcement { number: id.number(), name: WireName::of(name) });
        session.outgoing.announced.insert(id);
        Announce::Done
    }
}

enum Announce {
    Done,
    NoRoom,
    Forgotten,
}

/// A frame of data while it is put together.
pub(super) struct DataFrame {
    sequence: u64,
    minor: u16,
    base: Option<u64>,
    names: Vec<Announcement>,
}

impl DataFrame {
    /// Both are below 2⁵⁴, so the difference always fits.
    fn difference(&self, generation: u64) -> i64 {
        generation.wrapping_sub(self.base.unwrap_or(generation)).cast_signed()
    }
}

impl WireName {
    pub(super) fn of(name: &Name) -> Self {
        match name {
            Name::Service(name) => Self::Service(name.to_string()),
            Name::Group(name) => Self::Group(name.to_string()),
            Name::Target { group, id } => Self::Target(group.to_string(), id.to_string()),
            Name::Zone(name) => Self::Zone(name.to_string()),
            Name::Ring(name) => Self::Ring(name.to_string()),
        }
    }

    pub(super) fn into_name(self) -> Name {
        match self {
            Self::Service(name) => Name::Service(name.into()),
            Self::Group(name) => Name::Group(name.into()),
            Self::Target(group, id) => Name::Target { group: group.into(), id: id.into() },
            Self::Zone(name) => Name::Zone(name.into()),
            Self::Ring(name) => Name::Ring(name.into()),
        }
    }
}

impl Session {
    /// What the peer is to be told of what is applied, if it is time, or of so many bytes.
    fn take_ack(&mut self, now: Instant, enough: usize) -> Option<Ack> {
        let incoming = &mut self.incoming;
        let due = incoming.ack_at?;
        if due > now && incoming.unacknowledged < enough {
            return None;
        }
        (incoming.ack_at, incoming.unacknowledged) = (None, 0);
        Some(Ack { sequence: incoming.applied, refused: incoming.refused })
    }
}
