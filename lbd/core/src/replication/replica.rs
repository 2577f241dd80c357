//! The replica: what it knows, what the shell tells it, and what it asks of the shell.

use std::collections::VecDeque;

use common::time::{Duration, Instant, Now};

use super::action::{Action, Put};
use super::dirty::{Dirty, Expiry, Item};
use super::entry::{Entry, Fingerprint, Key, Live, Removal, Table};
use super::error::SessionError;
use super::frame::{Batches, FRAME_SIZE_MAX, is_one_without_entries};
use super::hello::Hello;
use super::ledger::{GENERATION_MAX, Ledger, Owner, Record, Version};
use super::names::{Forgotten, Name, NameError, NameId, Names};
use super::notes::Noted;
use super::rings::Rings;
use super::session::{Session, Stage};
use super::settings::Settings;
use super::stats::{Counters, State, Stats};
use super::tombstones::{PURGE_INTERVAL, Tombstones};
use super::values::PeerValues;
use crate::chance::Word;

/// One node's end of replication. See the [module](super) for how a shell drives it.
#[derive(Debug)]
pub struct Replica {
    pub(super) settings: Settings,
    pub(super) names: Names,
    /// Why one got no number, the last time since some were forgotten.
    name_refused: Option<NameError>,
    pub(super) ledgers: [Ledger; Table::COUNT],
    pub(super) dirty: Dirty,
    /// Since when changes wait that are not in the dirty set: there was no session to send them in, or they were dropped for a new
    /// snapshot. Until the peer has a whole one.
    pub(super) untold: Option<Instant>,
    pub(super) tombstones: Tombstones,
    pub(super) peer_values: PeerValues,
    pub(super) rings: Rings,
    pub(super) noted: Noted,
    /// The largest generation given or seen.
    pub(super) generation: u64,
    /// What the wall clock said last, in microseconds since 1970, and when.
    clock: (u64, Instant),
    /// Who the peer is, or was last.
    pub(super) peer: Option<Hello>,
    /// Whose tables had room for another number of entries than ours when the last session began.
    pub(super) sizes_differ: [bool; Table::COUNT],
    /// What this node says of its proxied connections.
    pub(super) word: Word,
    /// What the peer says of its own; only while there is a session.
    pub(super) peer_word: Option<Word>,
    /// Whether this node's change wins when both have the same generation.
    pub(super) we_win: bool,
    pub(super) session: Option<Session>,
    pub(super) writing: Option<Writing>,
    pub(super) batches: Batches,
    pub(super) counters: Counters,
    /// Entries that had found no room when tables grew last.
    unmet: u64,
    was_synced: bool,
    state: State,
    since: Instant,
    disconnects: VecDeque<SessionError>,
    /// The last identifier given to a session, a scan or an apply.
    id: u64,
}

/// The one [`Apply`] there may be.
#[derive(Debug)]
pub(super) struct Writing {
    pub(super) id: u64,
    /// Whether the shell has it.
    pub(super) handed: bool,
    /// The session whose frame it comes from; none for a sweep.
    pub(super) session: Option<u64>,
    pub(super) puts: Vec<(Fingerprint, u64, Put)>,
    pub(super) deletes: Vec<(Fingerprint, Key)>,
    /// The puts that the shell has.
    pub(super) handed_puts: Vec<Fingerprint>,
    /// The deletions that the shell has.
    pub(super) handed_deletes: Vec<Fingerprint>,
}

impl Writing {
    /// Whether a value for the entry is on its way into the live table.
    fn puts(&self, fingerprint: Fingerprint) -> bool {
        self.handed_puts.contains(&fingerprint) || self.puts.iter().any(|put| put.0 == fingerprint)
    }

    /// Whether the entry is on its way out of the live table.
    pub(super) fn deletes(&self, fingerprint: Fingerprint) -> bool {
        self.handed_deletes.contains(&fingerprint)
            || self.deletes.iter().any(|delete| delete.0 == fingerprint)
    }
}

/// Entries that are looked up together.
pub(super) const TOGETHER: usize = 16;

/// Reasons for disconnecting that the shell has not taken yet.
const DISCONNECTS_MAX: usize = 4;

impl Replica {
    /// A replica that knows nothing.
    #[must_use]
    pub fn new(settings: Settings, now: Instant) -> Self {
        Self {
            names: Names::default(),
            name_refused: None,
            ledgers: settings.tables.map(|size| Ledger::new(size as usize)),
            dirty: Dirty::new(settings.dirty_max),
            untold: None,
            // All of them have to find room in the dirty set at once.
            tombstones: Tombstones::new(settings.tombstones_max.min(settings.dirty_max)),
            peer_values: PeerValues::new(settings.tables),
            rings: Rings::default(),
            noted: Noted::default(),
            generation: settings.generation.min(GENERATION_MAX / 2),
            clock: (settings.generation, now),
            peer: None,
            sizes_differ: [false; Table::COUNT],
            word: Word::default(),
            peer_word: None,
            we_win: false,
            session: None,
            writing: None,
            batches: Batches::default(),
            counters: Counters::default(),
            unmet: 0,
            was_synced: false,
            state: State::Cold,
            since: now,
            disconnects: VecDeque::new(),
            id: 0,
            settings,
        }
    }

    /// The number of a name, for entries to refer to it. The same name has the same number until it is forgotten.
    ///
    /// # Errors
    ///
    /// The name is too long, or there are too many: entries that refer to it cannot be replicated, which is counted.
    pub fn name(&mut self, name: Name) -> Result<NameId, NameError> {
        let id = self.names.enter(name);
        if let Err(error) = id {
            self.counters.names_refused += 1;
            self.name_refused = Some(error);
        }
        id
    }

    /// The name of a number; `None` once it has been forgotten.
    #[must_use]
    pub fn name_of(&self, id: NameId) -> Option<&Name> {
        self.names.name(id)
    }

    /// Names that have a number.
    #[must_use]
    pub fn names(&self) -> usize {
        self.names.len()
    }

    /// Forgets the names that `keep` does not want, those of targets that are gone from the configuration for instance. What waits to be sent
    /// and what the peer has announced since it connected are kept in any case: of targets that is what both tell of, so they are held for as long as
    /// the session lasts. Looks at every name and everything that waits: not for each connection.
    pub fn forget_names(&mut self, keep: impl Fn(NameId, &Name) -> bool) -> Forgotten {
        let mut used = vec![false; self.names.numbers()];
        let mut mark = |id: NameId| used[id.index()] = true;
        for change in self.dirty.changes() {
            match &change.item {
                Item::Put(entry, _) => entry.names().into_iter().for_each(&mut mark),
                Item::Delete(key) => key.name().into_iter().for_each(&mut mark),
            }
        }
        self.tombstones.iter().filter_map(|(_, tombstone)| tombstone.key.name()).for_each(&mut mark);
        self.peer_values.names().for_each(&mut mark);
        self.rings.names().for_each(&mut mark);
        for (_, _, put) in self.writing.iter().flat_map(|writing| &writing.puts) {
            put.live.entry.names().into_iter().for_each(&mut mark);
        }
        let mut announced = vec![false; self.names.numbers()];
        if let Some(session) = &self.session {
            let page = &session.outgoing.snapshot.page;
            page.iter().flat_map(|entry| entry.entry.names()).for_each(&mut mark);
            session.incoming.names.locals().for_each(|id| announced[id.index()] = true);
        }
        let (mut gone, mut held) = (Vec::new(), 0);
        let keep = |id: NameId, name: &Name| {
            if used[id.index()] || keep(id, name) {
                return true;
            }
            held += usize::from(announced[id.index()]);
            announced[id.index()]
        };
        let names = self.names.forget(keep, &mut gone);
        if names > 0 {
            self.name_refused = None;
        }
        if let Some(session) = &mut self.session {
            gone.into_iter().for_each(|id| session.outgoing.announced.remove(id));
        }
        Forgotten { names, held }
    }

    /// An entry of a live table is new or has changed, by this node's own doing. Once for each change, in their order; what an
    /// [`Action::Apply`] wrote is none.
    pub fn changed(&mut self, now: Instant, live: &Live) {
        self.change([now; 2], live, live.entry.key().fingerprint(&self.settings.hash));
    }

    /// As [`Self::changed`] for each of them, and cheaper: of tables with a million entries it is the memory that takes the time, and
    /// looking up several at once has it fetched for all of them together.
    pub fn changed_all(&mut self, now: Instant, changes: &[Live]) {
        self.changed_since(now, now, changes, |_| {});
    }

    /// As [`Self::changed_all`], of changes that have waited with the shell since some moment at most, and are then sent as soon as if they
    /// had waited here. `taken` hears of those whose entries the peer had changed last, as far as is known here: what it said may have
    /// been written after the change that is told now, and over it.
    pub fn changed_since(
        &mut self,
        now: Instant,
        since: Instant,
        changes: &[Live],
        mut taken: impl FnMut(&Live),
    ) {
        for part in changes.chunks(TOGETHER) {
            let fingerprints = self.look_up(part.iter());
            for (live, fingerprint) in part.iter().zip(fingerprints) {
                if self.change([now, since], live, fingerprint) {
                    taken(live);
                }
            }
        }
    }

    /// What both clocks say: words of people count as said by the wall clock, which may be set at any time. To be called before what they have said is
    /// told.
    pub const fn set_clock(&mut self, now: Now) {
        self.clock = (now.unix.as_micros(), now.at);
    }

    /// An entry that this node knows from before this replica was made, of the generation that [`Self::generation_of`] had answered for it
    /// then: it stands against the peer's as what it is. Before there is a session.
    pub fn known(&mut self, live: &Live, generation: u64) {
        let key = live.entry.key();
        let generation = generation.min(GENERATION_MAX);
        self.generation = self.generation.max(generation);
        let fingerprint = key.fingerprint(&self.settings.hash);
        // The peer may have it from the replica before.
        let version = Version { generation, owner: Owner::Us };
        if !self.ledgers[key.table().index()].put(fingerprint, version, true) {
            self.counters.local_full += 1;
        }
    }

    /// The generation of an entry's last change, on whichever node; `None` if there is no such entry.
    #[must_use]
    pub fn generation_of(&self, key: &Key) -> Option<u64> {
        let record = self.record(key.table(), key.fingerprint(&self.settings.hash))?;
        Some(record.version().generation)
    }

    /// The fingerprints of up to [`TOGETHER`] entries, whose records are then in the processor's cache.
    pub(super) fn look_up<'a>(&self, part: impl Iterator<Item = &'a Live>) -> [Fingerprint; TOGETHER] {
        let mut fingerprints = [Fingerprint(0); TOGETHER];
        let mut table = Table::Flows;
        for (fingerprint, live) in fingerprints.iter_mut().zip(part) {
            let key = live.entry.key();
            (*fingerprint, table) = (key.fingerprint(&self.settings.hash), key.table());
        }
        let ledger = &self.ledgers[table.index()];
        let known = fingerprints.iter().filter(|&&fingerprint| ledger.contains(fingerprint)).count();
        // Not the number matters, but that it was found.
        std::hint::black_box(known);
        fingerprints
    }

    /// A change that was told `now` and made at some time `since`; whether the entry was the peer's until then.
    fn change(&mut self, [now, since]: [Instant; 2], live: &Live, fingerprint: Fingerprint) -> bool {
        let key = live.entry.key();
        let generation = self.next_generation(key.table(), now);
        let connected = self.is_established();
        // Deleted and here again: the peer may know it still.
        let buried = self.tombstones.remove(fingerprint).is_some();
        let ledger = &mut self.ledgers[key.table().index()];
        let Some(before) = ledger.change(fingerprint, generation, buried, connected) else {
            self.counters.local_full += 1;
            return false;
        };
        if connected {
            let item = Item::Put(live.entry, Expiry::of(live.remaining, now));
            self.mark_dirty(fingerprint, item, generation, !before.shared, [now, since]);
        } else {
            self.untold.get_or_insert(since);
        }
        before.peers
    }

    /// An entry is gone from a live table, by this node's own doing. What an [`Action::Apply`] deleted is not told.
    pub fn deleted(&mut self, now: Instant, key: &Key, removal: Removal) {
        let fingerprint = key.fingerprint(&self.settings.hash);
        let Some(record) = self.record(key.table(), fingerprint) else { return };
        let version = record.version();
        if (removal, version.owner) == (Removal::Expired, Owner::Peer)
            && self.writing.as_ref().is_some_and(|writing| writing.puts(fingerprint))
        {
            // What ran out is the value before the one that is being written.
            return;
        }
        self.ledgers[key.table().index()].remove(fingerprint);
        let generation = match (removal, version.owner) {
            // Only this node's copy.
            (Removal::Expired, Owner::Peer) => return,
            // Everything up to its last change, but nothing that the peer did since.
            (Removal::Expired, Owner::Us) => version.generation,
            (Removal::Ended, _) => self.next_generation(key.table(), now),
        };
        if !record.is_shared() || self.dirty.is_new(fingerprint) {
            self.dirty.remove(fingerprint);
            return;
        }
        let version = Version { generation, owner: Owner::Us };
        // What each node keeps of its own the other one forgets with the next snapshot, if it has not heard of the end.
        if !key.table().is_per_node() && !self.tombstones.insert(fingerprint, *key, version, now) {
            self.counters.tombstones_full += 1;
        }
        if self.is_established() {
            self.mark_dirty(fingerprint, Item::Delete(*key), generation, false, [now; 2]);
        } else {
            self.untold.get_or_insert(now);
        }
    }

    /// Changes were lost before they could be told: the snapshot begins anew, and finds them.
    pub fn resync(&mut self, now: Instant) {
        if self.is_established() {
            self.counters.resyncs += 1;
            self.begin_snapshot(now);
        }
        self.untold.get_or_insert(now);
    }

    /// Whether the peer has acknowledged a complete snapshot in the present session.
    #[must_use]
    pub fn peer_is_synced(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.outgoing.snapshot.stage == Stage::Acknowledged)
    }

    /// Which process of the peer's it is, or was last; none before it was heard.
    #[must_use]
    pub fn peer_process(&self) -> Option<u64> {
        self.peer.as_ref().map(|peer| peer.process)
    }

    /// What the peer has admitted of a rate limit: to be added to what this node has.
    #[must_use]
    pub fn peer_rate(&self, service: NameId, source: super::Address) -> u64 {
        let fingerprint = Key::Rate { service, source }.fingerprint(&self.settings.hash);
        match self.peer_values.get(Table::Rates, fingerprint) {
            Some(Entry::Rate { total, .. }) => *total,
            _ => 0,
        }
    }

    /// What the peer's health checks say of each target, in no particular order.
    pub fn peer_health(&self) -> impl Iterator<Item = (NameId, u8)> {
        self.peer_values.iter(Table::Health).filter_map(|entry| match *entry {
            Entry::Health { target, state } => Some((target, state)),
            _ => None,
        })
    }

    /// This node has another configuration now; the peer is told at once.
    pub fn reconfigured(&mut self, config_hash: u64) {
        self.settings.config_hash = config_hash;
    }

    /// How many entries each table may have from now on. One that has more keeps them and gets no new ones; the peer hears of it with the next
    /// session. Whether something found no room before that may find some now: both nodes are then to tell everything once more.
    pub fn resize(&mut self, tables: [u32; Table::COUNT], dirty_max: usize) -> bool {
        let grown = tables.iter().zip(&self.settings.tables).any(|(new, old)| new > old);
        (self.settings.tables, self.settings.dirty_max) = (tables, dirty_max);
        for (ledger, size) in self.ledgers.iter_mut().zip(tables) {
            ledger.set_max(size as usize);
        }
        self.dirty.set_max(dirty_max);
        self.peer_values.set_max(tables);
        let unmet = self.counters.unmet();
        grown && std::mem::replace(&mut self.unmet, unmet) != unmet
    }

    /// What this node says of its proxied connections; the peer is told at once, and after each new connection. The last word
    /// counts: if the stream takes nothing, those before it are never sent.
    pub fn say(&mut self, word: Word) {
        if self.word != word {
            self.word = word;
            if let Some(session) = &mut self.session {
                session.told_word = false;
            }
        }
    }

    /// What the peer said last of its proxied connections; nothing without a connection to it.
    #[must_use]
    pub const fn peer_word(&self) -> Option<&Word> {
        self.peer_word.as_ref()
    }

    /// There is a connection to the peer, whichever side made it. One that there was before is over.
    pub fn connected(&mut self, now: Instant) {
        if self.session.is_some() {
            self.end_session(&SessionError::Disconnected, now);
        }
        self.id += 1;
        self.session = Some(Session::new(self.id, now));
    }

    /// The connection is gone.
    pub fn disconnected(&mut self, now: Instant) {
        if self.session.is_some() {
            self.end_session(&SessionError::Disconnected, now);
        }
    }

    /// Whether bytes that came from the peer are wanted now. If not, they are to stay in the socket: that is what slows a
    /// peer down that sends faster than the live tables take it.
    #[must_use]
    pub fn wants_bytes(&self) -> bool {
        let room = |session: &Session| session.incoming.frames.pending() <= FRAME_SIZE_MAX;
        self.writing.is_none() && self.session.as_ref().is_some_and(room)
    }

    /// Whether bytes that came from the peer may have something written over what is here. Those that are nothing but an acknowledgement,
    /// a word or a sign of life have not, and need nothing done before they are [`Self::received`].
    #[must_use]
    pub fn may_write(&self, bytes: &[u8]) -> bool {
        let is_whole = self.session.as_ref().is_some_and(|session| session.incoming.frames.pending() == 0);
        !(is_whole && self.writing.is_none() && is_one_without_entries(bytes))
    }

    /// Bytes that came from the peer, 64 KiB at most, cut anywhere.
    pub fn received(&mut self, now: Instant, bytes: &[u8]) {
        let Some(session) = &mut self.session else { return };
        session.incoming.last_heard = now;
        session.incoming.frames.push(bytes);
        self.counters.received.bytes += bytes.len() as u64;
        self.read_frames(now);
    }

    /// The next thing for the shell to do, until there is none; to be asked after everything it tells.
    pub fn poll(&mut self) -> Option<Action> {
        if let Some(reason) = self.disconnects.pop_front() {
            return Some(Action::Disconnect(reason));
        }
        let ring = self.next_ring_action();
        let note = || self.noted.next_heard().map(Action::Note);
        let first = ring.or_else(note);
        first.or_else(|| self.next_apply().map(Action::Apply)).or_else(|| self.next_scan().map(Action::Scan))
    }

    /// When [`Self::poll_transmit`] and [`Self::timeout`] have to be called if nothing else happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let send = self.session.as_ref().map(|session| {
            let outgoing = &session.outgoing;
            let word = outgoing.last_sent + self.settings.keepalive;
            let ack = session.incoming.ack_at;
            let open = outgoing.unacknowledged < self.settings.window;
            let flush = self.dirty.oldest().filter(|_| open).map(|oldest| oldest + self.settings.flush_after);
            [flush, ack].into_iter().flatten().fold(word, Instant::min)
        });
        send.into_iter().chain(self.deadline_without_room()).min()
    }

    /// The same while the stream has no room, so that [`Self::poll_transmit`] is not to be asked: what is due to be sent waits for the room, not for
    /// a time, which may be over already.
    #[must_use]
    pub fn deadline_without_room(&self) -> Option<Instant> {
        let purge = (self.tombstones.len() > 0).then(|| self.tombstones.purged() + PURGE_INTERVAL);
        let session = self.session.as_ref().and_then(|session| {
            let incoming = &session.incoming;
            let heard = if session.minor.is_some() { incoming.last_heard } else { session.began };
            // What the shell does not read because it is writing is no silence.
            let silence = self.writing.is_none().then(|| heard + self.settings.idle_timeout);
            [silence, self.rings.deadline()].into_iter().flatten().min()
        });
        [purge, session].into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn timeout(&mut self, now: Instant) {
        self.counters.tombstones_expired += self.tombstones.purge(now) as u64;
        self.rings.timeout(now);
        let Some(session) = &self.session else { return };
        let limit = self.settings.idle_timeout;
        let reason = match session.minor {
            None if now - session.began >= limit => SessionError::Silent,
            Some(_) if self.writing.is_none() && now - session.incoming.last_heard >= limit => {
                SessionError::Idle
            }
            _ => return,
        };
        self.fail_session(reason, now);
    }

    /// Counts on from what replicas before this one have counted. Before it has counted anything.
    pub fn count_from(&mut self, counters: Counters) {
        self.counters = counters;
        // What found no room in their tables is not looked for in these.
        self.unmet = self.counters.unmet();
    }

    /// What was counted.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How far this node is with what the peer has.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Everything there is to see.
    #[must_use]
    pub fn stats(&self, now: Instant) -> Stats {
        let outgoing = self.session.as_ref().map(|session| &session.outgoing);
        let peer = self.peer.as_ref();
        Stats {
            state: self.state,
            since: self.since,
            peer_synced: outgoing.is_some_and(|outgoing| outgoing.snapshot.stage == Stage::Acknowledged),
            peer: self.peer.clone(),
            config_differs: peer.is_some_and(|peer| peer.config_hash != self.settings.config_hash),
            sizes_differ: self.sizes_differ,
            lag: self.oldest_untold().map_or(Duration::ZERO, |oldest| now - oldest),
            dirty: self.dirty.len(),
            unacknowledged: outgoing.map_or(0, |outgoing| outgoing.unacknowledged),
            tombstones: self.tombstones.len(),
            names: self.names.len(),
            name_refused: self.name_refused,
            ledger: std::array::from_fn(|index| self.ledgers[index].len()),
            peer_values: Table::ALL.map(|table| self.peer_values.len(table)),
            peer_rings: self.rings.peers(),
            peer_refused: outgoing.map_or(0, |outgoing| outgoing.peer_refused),
            counters: self.counters.clone(),
        }
    }

    /// Since when the oldest change has been waiting that the peer has not been sent.
    pub(super) fn oldest_untold(&self) -> Option<Instant> {
        self.untold.into_iter().chain(self.dirty.oldest()).min()
    }

    /// Both sides' hellos are there.
    pub(super) fn is_established(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.minor.is_some())
    }

    pub(super) fn set_state(&mut self, state: State, now: Instant) {
        if self.state != state {
            (self.state, self.since) = (state, now);
        }
        self.was_synced |= state == State::Synced;
    }

    pub(super) const fn next_id(&mut self) -> u64 {
        self.id += 1;
        self.id
    }

    pub(super) fn record(&self, table: Table, fingerprint: Fingerprint) -> Option<Record> {
        self.ledgers[table.index()].get(fingerprint)
    }

    /// Larger than all that were ever given or seen.
    fn next_generation(&mut self, table: Table, now: Instant) -> u64 {
        let mut next = self.generation + 1;
        if table.has_words() {
            let (clock, at) = self.clock;
            let passed = u64::try_from((now - at).as_nanos() / 1000).unwrap_or(u64::MAX);
            next = next.max(clock.min(GENERATION_MAX / 2).saturating_add(passed));
        }
        self.generation = next.min(GENERATION_MAX);
        self.generation
    }

    pub(super) fn mark_dirty(
        &mut self,
        fingerprint: Fingerprint,
        item: Item,
        generation: u64,
        is_new: bool,
        [now, since]: [Instant; 2],
    ) {
        if !self.dirty.put(fingerprint, item, generation, is_new, since) {
            // Cheaper than what waits to be sent, and bounded.
            self.counters.resyncs += 1;
            self.begin_snapshot(now);
        }
    }

    /// The session ends by this node's decision.
    pub(super) fn fail_session(&mut self, reason: SessionError, now: Instant) {
        self.end_session(&reason, now);
        if self.disconnects.len() < DISCONNECTS_MAX {
            self.disconnects.push_back(reason);
        }
    }

    fn end_session(&mut self, reason: &SessionError, now: Instant) {
        self.session = None;
        self.peer_word = None;
        self.counters.ended[reason.kind().index()] += 1;
        self.untold = self.oldest_untold();
        self.dirty.clear();
        self.tombstones.unsend();
        self.rings.session_ended();
        self.set_state(if self.was_synced { State::Stale } else { State::Cold }, now);
    }
}
