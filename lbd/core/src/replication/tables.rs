//! What the shell reads from the live tables and writes into them.

use common::time::Instant;

use super::action::{Apply, Put, Scan};
use super::dirty::Expiry;
use super::entry::{Cursor, Fingerprint, Key, Live};
use super::ledger::{Owner, Version};
use super::replica::{Replica, TOGETHER, Writing};
use super::session::{PageEntry, Stage, Walk};
use super::stats::State;

impl Replica {
    /// What is to be written next, if the shell is not writing. What has changed here since it was received is left out.
    pub(super) fn next_apply(&mut self) -> Option<Apply> {
        if self.writing.is_none() {
            self.collect_swept();
        }
        let Self { writing, ledgers, .. } = self;
        let writing = writing.as_mut().filter(|writing| !writing.handed)?;
        writing.handed = true;
        let puts = std::mem::take(&mut writing.puts).into_iter();
        let puts = puts.filter_map(|(fingerprint, generation, put)| {
            let table = put.live.entry.key().table();
            let record = ledgers[table.index()].get(fingerprint);
            let is_current = record.is_some_and(|record| record.version().generation == generation);
            (table.is_per_node() || is_current).then_some((fingerprint, put))
        });
        let puts = puts.map(|(fingerprint, put)| {
            writing.handed_puts.push(fingerprint);
            put
        });
        let puts: Vec<Put> = puts.collect();
        let deletes = std::mem::take(&mut writing.deletes).into_iter();
        let deletes = deletes.filter(|(fingerprint, key)| {
            let reborn = ledgers[key.table().index()].get(*fingerprint).is_some();
            !reborn
        });
        let deletes = deletes.map(|(fingerprint, key)| {
            writing.handed_deletes.push(fingerprint);
            key
        });
        let deletes = deletes.collect();
        Some(Apply { id: writing.id, puts, deletes })
    }

    /// The shell has written what an [`super::Action::Apply`] asked for, except for these entries: there was no room, or it does not
    /// know their service or target. They are counted, and the peer hears how many of its they are.
    pub fn applied(&mut self, now: Instant, id: u64, refused: &[Key]) {
        let Some(writing) = self.writing.take_if(|writing| writing.id == id && writing.handed) else {
            return;
        };
        let mut without_place = 0;
        for key in refused {
            let fingerprint = key.fingerprint(&self.settings.hash);
            let table = key.table();
            let is_peers =
                self.record(table, fingerprint).is_some_and(|record| record.version().owner == Owner::Peer);
            if is_peers {
                self.ledgers[table.index()].remove(fingerprint);
            }
            // Any other was changed here meanwhile: that stands in its place, and the peer hears of it.
            without_place += u64::from(is_peers || table.is_per_node());
            self.counters.skipped.refused += 1;
        }
        let session = self.session.as_mut().map(|session| {
            session.incoming.last_heard = now;
            session.number
        });
        match writing.session {
            Some(number) if Some(number) == session => {
                self.count_refused(without_place);
                self.frame_applied(now + self.settings.acknowledge_after);
            }
            Some(_) => {}
            None => self.go_on_sweeping(now),
        }
        self.read_frames(now);
    }

    /// The next scan: one for the snapshot and one for the sweep at a time. None while the shell is writing, so that what it writes
    /// is not missed.
    pub(super) fn next_scan(&mut self) -> Option<Scan> {
        if self.writing.is_some() {
            return None;
        }
        let id = self.next_id();
        let session = self.session.as_mut()?;
        let limit = self.settings.scan_limit;
        let minor = session.minor?;
        let snapshot = &mut session.outgoing.snapshot;
        if snapshot.stage == Stage::Tables && snapshot.page.is_empty() {
            // What the peer has no table for is not sent.
            while snapshot.walk.table().is_some_and(|table| table.since_minor() > minor) {
                snapshot.walk.go_on(None);
            }
            if let Some(scan) = snapshot.walk.next_scan(id, limit) {
                return Some(scan);
            }
        }
        let sweep =
            session.incoming.sweep.as_mut().filter(|sweep| sweep.found.is_empty() && !sweep.exhausted)?;
        sweep.walk.next_scan(id, limit)
    }

    /// What a scan found, up to its limit, and where to go on; `None` if that was all. Everything that was told by
    /// [`Self::changed`], [`Self::deleted`] and [`Self::applied`] before has to show in it. A table that changes meanwhile may show an entry twice,
    /// but none that was there all the time may be left out.
    pub fn scanned(&mut self, now: Instant, id: u64, found: &[Live], next: Option<Cursor>) {
        let Some(session) = &mut self.session else { return };
        if session.outgoing.snapshot.walk.scan == Some(id) {
            session.outgoing.snapshot.walk.go_on(next);
            let mut page = Vec::with_capacity(found.len());
            for part in found.chunks(TOGETHER).rev() {
                let fingerprints = self.look_up(part.iter());
                let part = part.iter().zip(fingerprints).rev();
                page.extend(part.filter_map(|(live, fingerprint)| self.page_entry(live, fingerprint, now)));
            }
            if let Some(session) = &mut self.session {
                session.outgoing.snapshot.page = page;
            }
        } else if let Some(sweep) = &mut session.incoming.sweep
            && sweep.walk.scan == Some(id)
        {
            sweep.go_on(next);
            for live in found {
                let key = live.entry.key();
                let fingerprint = key.fingerprint(&self.settings.hash);
                let ledger = &self.ledgers[key.table().index()];
                if ledger.get(fingerprint).is_some_and(|record| ledger.is_missed(record, Owner::Peer)) {
                    sweep.found.push((fingerprint, key));
                }
            }
            self.go_on_sweeping(now);
        }
    }

    /// An entry that was scanned for the snapshot, if it is ours to send. One that nobody has told of was there before this process:
    /// it is ours, and older than whatever the peer may know of it.
    fn page_entry(&mut self, live: &Live, fingerprint: Fingerprint, now: Instant) -> Option<PageEntry> {
        let key = live.entry.key();
        let ledger = &mut self.ledgers[key.table().index()];
        let generation = match ledger.get(fingerprint).map(super::ledger::Record::version) {
            Some(Version { owner: Owner::Peer, .. }) => return None,
            Some(Version { generation, owner: Owner::Us }) => {
                ledger.meet(fingerprint, Owner::Us);
                generation
            }
            None if self.tombstones.get(fingerprint).is_some() => return None,
            None if self.writing.as_ref().is_some_and(|writing| writing.deletes(fingerprint)) => return None,
            None if ledger.put(fingerprint, Version { generation: 0, owner: Owner::Us }, true) => 0,
            None => {
                self.counters.local_full += 1;
                return None;
            }
        };
        let expiry = Expiry::of(live.remaining, now);
        Some(PageEntry { fingerprint, generation, entry: live.entry, expiry })
    }

    /// Passes over tables in which nothing was missed; at the end this node has what the peer has.
    pub(super) fn go_on_sweeping(&mut self, now: Instant) {
        let Some(session) = &mut self.session else { return };
        let Some(sweep) = &mut session.incoming.sweep else { return };
        while let Some(table) = sweep.walk.table() {
            if sweep.walk.scan.is_some() || !sweep.found.is_empty() {
                return;
            }
            let ledger = &mut self.ledgers[table.index()];
            let is_needed = *sweep.is_needed.get_or_insert_with(|| ledger.misses_any(Owner::Peer));
            if is_needed && !sweep.exhausted {
                return;
            }
            // Those that no scan has found are not in the live table either.
            ledger.forget_missed(Owner::Peer);
            sweep.next_table();
        }
        session.incoming.sweep = None;
        self.counters.snapshots_received += 1;
        self.set_state(State::Synced, now);
    }

    /// Makes an [`Apply`] of what the sweep has found.
    fn collect_swept(&mut self) {
        let id = self.next_id();
        let Some(sweep) = self.session.as_mut().and_then(|session| session.incoming.sweep.as_mut()) else {
            return;
        };
        let found = std::mem::take(&mut sweep.found);
        if found.is_empty() {
            return;
        }
        let mut deletes = Vec::with_capacity(found.len());
        for (fingerprint, key) in found {
            let ledger = &mut self.ledgers[key.table().index()];
            // Unless it has come after all.
            if ledger.get(fingerprint).is_some_and(|record| ledger.is_missed(record, Owner::Peer)) {
                ledger.remove(fingerprint);
                deletes.push((fingerprint, key));
            }
        }
        self.counters.swept += deletes.len() as u64;
        self.writing = Some(Writing {
            id,
            handed: false,
            session: None,
            puts: Vec::new(),
            deletes,
            handed_puts: Vec::new(),
            handed_deletes: Vec::new(),
        });
    }
}

impl Walk {
    fn next_scan(&mut self, id: u64, limit: usize) -> Option<Scan> {
        let table = self.table()?;
        if self.scan.is_some() {
            return None;
        }
        self.scan = Some(id);
        Some(Scan { id, table, cursor: self.cursor.clone(), limit })
    }
}
