//! The tables other than the kernel's flows, as the core knows them.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use common::time::{Duration, Instant};
use lbd_core::group::Said;
use lbd_core::health::HealthState;
use lbd_core::replication::{
    Cursor, Entry, Key, Live, Membership, Name, NameId, Removal, Replica, Scan, Stats, Table,
};
use tokio::sync::{mpsc, oneshot};

use super::flows::{ANEW_PAUSE, Flows};
use super::ids::Ids;
use super::said::{live_member, live_word, member_of, page, read_pair};
use super::strangers::{Misfit, Stranger, knows};
use super::words::{Memory, Word};
use super::{Outlets, clients, counts};
use crate::l4::kernel::KernelError;
use crate::reload::Request;
use crate::shared::Shared;
use crate::snapshot::Snapshot;

/// Places that entries of the other node's do not have here, at most: they are looked for after each change of the configuration. Beyond it
/// any change has everything told once more.
const STRANGERS_MAX: usize = 1024;

/// How often what has run out is taken out: so long it is counted at most although it is over.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);

/// What the other node's health checks say, by group and target.
pub(crate) type PeerHealth = HashMap<String, HashMap<String, HealthState>>;

/// A word on a target, on its way into the control loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heed {
    /// The target's group.
    pub(crate) group: String,
    /// Its id.
    pub(crate) target: String,
    /// Its generation between the nodes, which is no earlier than when it was said, in microseconds since 1970.
    pub(crate) generation: u64,
    /// What is wanted of it.
    pub(crate) wanted: Wanted,
}

/// What is wanted of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// State and weight.
    Word(Word),
    /// There is no word on these any more.
    NoWord,
    /// Its place in its group.
    Member(Said),
}

impl Heed {
    fn adds(&self) -> bool {
        matches!(self.wanted, Wanted::Member(Said::Added { .. }))
    }
}

/// A word with the entry that it comes from.
pub(super) type Told = (Key, Heed);

/// What was asked of the control loop.
pub(super) struct Heeding {
    /// Of the [`lbd_core::replication::Apply`] that waits for it.
    id: u64,
    words: Vec<Told>,
    refused: Vec<Key>,
    answer: Pin<Box<dyn Future<Output = Vec<bool>>>>,
}

/// What became of the other node's entries, beside what the core counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Refused {
    /// This node does not know what they name.
    pub(super) unknown: u64,
    /// They say what cannot be.
    pub(super) invalid: u64,
    /// Both, by [`Table::index`].
    pub(super) by_table: [u64; Table::COUNT],
}

/// The live tables.
pub(super) struct Tables {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    memory: Arc<Memory>,
    snapshot: Arc<Snapshot>,
    ids: Ids,
    /// What was told of the health checks, and in which walk it was met last.
    health: HashMap<NameId, (u8, u64)>,
    walks: u64,
    strangers: HashSet<Stranger>,
    /// There were more of them.
    more_strangers: bool,
    /// Some of the strangers are known by now.
    acquainted: bool,
    /// Not before that is it to tell everything once more.
    anew_at: Instant,
    shown_health: Arc<ArcSwap<PeerHealth>>,
    /// News that were lost for want of room.
    lost: u64,
    /// Some of them have not been made good for yet.
    owes: bool,
    /// Not before that are they.
    owes_at: Instant,
    /// When what has run out is taken out.
    expire_at: Instant,
    /// What the shown health depends on, as it was when it was shown.
    health_of: Option<[u64; 4]>,
    /// What was told of certificates last.
    notes_told: Option<u64>,
    pub(super) refused: Refused,
}

impl Tables {
    pub(super) fn new(shared: &Arc<Shared>, outlets: &Outlets) -> Self {
        shared.life.bell.listen(true);
        shared.peer.groups_changed.store(true, Ordering::Release);
        Self {
            snapshot: shared.snapshot.load_full(),
            requests: outlets.requests.clone(),
            memory: Arc::clone(&outlets.memory),
            ids: Ids::default(),
            health: HashMap::new(),
            walks: 0,
            strangers: HashSet::new(),
            more_strangers: false,
            acquainted: false,
            anew_at: Instant::ZERO,
            shown_health: Arc::clone(&outlets.health),
            lost: 0,
            owes: false,
            owes_at: Instant::ZERO,
            expire_at: Instant::ZERO,
            health_of: None,
            notes_told: None,
            refused: outlets.memory.lock().past.refused,
            shared: Arc::clone(shared),
        }
    }

    /// There is another replica, which knows nothing: it hears at once of the words there are, for they keep the generations that they had.
    pub(super) fn begin_anew(&mut self, replica: &mut Replica) {
        self.notes_told = None;
        self.forget_names();
        let memory = Arc::clone(&self.memory);
        let memory = memory.lock();
        for (group, id, word, generation) in memory.words.iter().filter(|it| it.3 > 0) {
            if let Some(live) = live_word(replica, &mut self.ids, group, id, *word) {
                replica.known(&live, generation);
            }
        }
        for (group, id, said, generation) in memory.members.iter().filter(|it| it.3 > 0) {
            if let Some(live) = live_member(replica, &mut self.ids, group, id, said) {
                replica.known(&live, generation);
            }
        }
    }

    /// Names have been forgotten, and may get other numbers.
    pub(super) fn forget_names(&mut self) {
        self.ids.clear();
        self.health.clear();
        self.shared.peer.groups_changed.store(true, Ordering::Release);
    }

    /// Tells the core what has changed here; whether there is more.
    pub(super) fn take_news(&mut self, replica: &mut Replica, now: Instant) -> bool {
        self.shared.life.bell.take();
        self.look_at_snapshot();
        if self.shared.peer.groups_changed.swap(false, Ordering::AcqRel) {
            self.take_members(replica, now);
            self.take_words(replica, now);
            self.take_health(replica, now);
        }
        if self.notes_told != Some(self.shared.acme.changes()) {
            let (changes, notes) = self.shared.acme.outbox();
            self.notes_told = Some(changes);
            replica.note(&notes);
        }
        let more = clients::take_news(&self.snapshot, &mut self.ids, replica, now);
        let lost = clients::lost(&self.snapshot);
        self.owes |= lost > self.lost;
        self.lost = lost;
        more
    }

    /// Has everything told once more if news were lost. Where they always are, a pause between leaves the processor and the link to others.
    pub(super) fn make_good(&mut self, replica: &mut Replica, now: Instant) {
        if self.owed_at(replica).is_some_and(|at| at <= now) {
            self.owes = false;
            self.owes_at = now + ANEW_PAUSE;
            replica.resync(now);
        }
    }

    /// When that is to be done, if it is. A snapshot that began anew with each loss would never come to its end.
    pub(super) fn owed_at(&self, replica: &Replica) -> Option<Instant> {
        (self.owes && replica.peer_is_synced()).then_some(self.owes_at)
    }

    /// Takes note if the other node's process is another one. Before anything is written that that one says.
    pub(super) fn look_at_other(&mut self, replica: &Replica) {
        let Some(process) = replica.peer_process() else { return };
        let before = self.memory.lock().peer_process.replace(process);
        if before != Some(process) {
            clients::other_began_anew(&self.snapshot);
        }
    }

    /// Takes out what has run out, now and then.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.expire_at <= now {
            self.expire_at = now + EXPIRE_EVERY;
            clients::expire(&self.snapshot, now);
        }
    }

    /// What administrators have said since.
    fn take_words(&mut self, replica: &mut Replica, now: Instant) {
        let Self { memory, snapshot, ids, .. } = self;
        memory.lock().compare(snapshot, |group, id, word| {
            let live = live_word(replica, ids, group, id, word)?;
            replica.changed(now, &live);
            replica.generation_of(&live.entry.key())
        });
    }

    /// Which targets administrators have added and deleted since, and of which of these that no longer means anything.
    fn take_members(&mut self, replica: &mut Replica, now: Instant) {
        let Self { memory, snapshot, ids, .. } = self;
        let mut over = Vec::new();
        let new = |group: &str, id: &str, said: &Said| {
            let live = live_member(replica, ids, group, id, said)?;
            replica.changed(now, &live);
            replica.generation_of(&live.entry.key())
        };
        memory
            .lock()
            .compare_members(snapshot, new, |group, id| over.push((group.to_owned(), id.to_owned())));
        for (group, id) in over {
            if let Some(target) = self.ids.target(replica, &group, &id) {
                replica.deleted(now, &Key::Member(target), Removal::Ended);
            }
        }
    }

    /// What the health checks say by now.
    fn take_health(&mut self, replica: &mut Replica, now: Instant) {
        self.walks += 1;
        for group in &self.snapshot.groups {
            for target in &group.targets {
                let Some(name) = self.ids.target(replica, &group.config.name, &target.key.id) else {
                    continue;
                };
                let state = health_number(target.health());
                let known = self.health.insert(name, (state, self.walks));
                if known.is_none_or(|(known, _)| known != state) {
                    let entry = Entry::Health { target: name, state };
                    replica.changed(now, &Live { entry, remaining: None });
                }
            }
        }
        let walks = self.walks;
        self.health.retain(|&name, &mut (_, met)| {
            if met != walks {
                replica.deleted(now, &Key::Health(name), Removal::Ended);
            }
            met == walks
        });
    }

    /// Answers a scan, unless the kernel does not tell what it has counted.
    pub(super) fn scan(
        &mut self,
        replica: &mut Replica,
        now: Instant,
        scan: &Scan,
        flows: Option<&mut Flows>,
    ) -> Result<(), KernelError> {
        let mut found = Vec::new();
        let next = match scan.table {
            Table::Targets | Table::Members => self.scan_words(replica, scan, &mut found),
            Table::Health => {
                let states = self.health.iter().map(|(&target, &(state, _))| Entry::Health { target, state });
                found.extend(states.map(|entry| Live { entry, remaining: None }));
                None
            }
            Table::Sticky => {
                clients::scan_sticky(&self.snapshot, &mut self.ids, replica, now, scan, &mut found)
            }
            Table::UdpSessions => {
                clients::scan_sessions(&self.snapshot, &mut self.ids, replica, now, scan, &mut found)
            }
            Table::Rates => self.scan_rates(replica, now, scan, flows, &mut found)?,
            // It is the kernel's.
            Table::Flows => None,
        };
        replica.scanned(now, scan.id, &found, next);
        Ok(())
    }

    /// First what the proxies have admitted, then what the kernel has counted.
    fn scan_rates(
        &mut self,
        replica: &mut Replica,
        now: Instant,
        scan: &Scan,
        flows: Option<&mut Flows>,
        found: &mut Vec<Live>,
    ) -> Result<Option<Cursor>, KernelError> {
        if counts::position(&scan.cursor).is_none() {
            let next = clients::scan_rates(&self.snapshot, &mut self.ids, replica, now, scan, found);
            if next.is_some() {
                return Ok(next);
            }
        }
        flows.map_or(Ok(None), |flows| flows.scan_counts(replica, scan, found))
    }

    fn scan_words(&mut self, replica: &mut Replica, scan: &Scan, found: &mut Vec<Live>) -> Option<Cursor> {
        let Self { memory, ids, .. } = self;
        let memory = memory.lock();
        let after = read_pair(&scan.cursor.0);
        if scan.table == Table::Members {
            let members = memory.members.after(after, scan.limit);
            return page(members, scan.limit, |group, id, said| {
                found.extend(live_member(replica, ids, group, id, said));
            });
        }
        page(memory.words.after(after, scan.limit), scan.limit, |group, id, word| {
            found.extend(live_word(replica, ids, group, id, *word));
        })
    }

    /// Whether an entry of the rates is about what the kernel counts, and is written where that looks.
    pub(super) fn counts_in_kernel(&self, replica: &Replica, service: NameId, source: [u8; 16]) -> bool {
        let in_kernel = |name| clients::counts_in_kernel(&self.snapshot, name);
        !clients::is_of_all(source) && replica.name_of(service).is_some_and(in_kernel)
    }

    /// Writes an entry of the other node's; those of targets are to be [heeded](Self::heed). Puts it into `refused` if it has no place.
    pub(super) fn put(
        &mut self,
        replica: &Replica,
        live: &Live,
        now: Instant,
        heeds: &mut Vec<Told>,
        refused: &mut Vec<Key>,
    ) {
        let fits = match live.entry {
            Entry::Target { target, state, weight } => {
                self.target_of(replica, target, heeds).and_then(|(group, target)| {
                    let word = Word::of(state, weight).ok_or(Misfit::Invalid)?;
                    heeds.push(told(replica, live, group, target, Wanted::Word(word)));
                    Ok(())
                })
            }
            Entry::Member { target, said } => {
                member_of(replica, target, said).and_then(|(group, target, said)| {
                    if self.snapshot.group(&group).is_none() {
                        return Err(Misfit::Unknown);
                    }
                    heeds.push(told(replica, live, group, target, Wanted::Member(said)));
                    Ok(())
                })
            }
            Entry::Health { state, .. } => {
                let is_state = usize::from(state) < HealthState::ALL.len();
                if is_state { Ok(()) } else { Err(Misfit::Invalid) }
            }
            Entry::Sticky { group, source, target } => {
                let names = (replica.name_of(group), source, replica.name_of(target));
                clients::put_sticky(&self.snapshot, names, live.remaining, now)
            }
            Entry::UdpSession { tuple, service, target, here: there } => {
                let names = (&tuple, replica.name_of(service), replica.name_of(target));
                clients::put_session(&self.snapshot, names, there, live.remaining, now)
            }
            Entry::Rate { service, source, total } => {
                let names = (replica.name_of(service), source);
                clients::put_rate(&self.snapshot, names, total, live.remaining, now)
            }
            // It is the kernel's.
            Entry::Flow(_) => Err(Misfit::Unknown),
        };
        if let Err(misfit) = fits {
            self.refuse(replica, live.entry, misfit);
            refused.push(live.entry.key());
        }
    }

    /// Deletes an entry that the other node says is over.
    pub(super) fn delete(&mut self, replica: &Replica, key: &Key, heeds: &mut Vec<Told>) {
        match *key {
            Key::Target(target) => {
                if let Ok((group, target)) = self.target_of(replica, target, heeds) {
                    heeds.push((*key, Heed { group, target, generation: 0, wanted: Wanted::NoWord }));
                }
            }
            // That nobody has to remember it any longer changes nothing here.
            Key::Member(target) => {
                if let Some(Name::Target { group, id }) = replica.name_of(target) {
                    self.memory.lock().members.remove(group, id);
                }
            }
            Key::Sticky { group, source } => {
                clients::delete_sticky(&self.snapshot, replica.name_of(group), source);
            }
            Key::UdpSession(tuple) => clients::delete_session(&self.snapshot, &tuple),
            // Of these each node has its own, and the first is the kernel's.
            Key::Flow(_) | Key::Rate { .. } | Key::Health(_) => {}
        }
    }

    /// Has the control loop heed what the other node says of targets.
    pub(super) fn heed(&self, id: u64, words: Vec<Told>, refused: Vec<Key>) -> Heeding {
        let (reply, answer) = oneshot::channel();
        let heeds = words.iter().map(|(_, heed)| heed.clone()).collect();
        let requests = self.requests.clone();
        let answer = async move {
            // It fails when the daemon stops; then there is no answer either.
            drop(requests.send(Request::Heed(heeds, reply)).await);
            answer.await.unwrap_or_default()
        };
        Heeding { id, words, refused, answer: Box::pin(answer) }
    }

    /// The control loop has heeded them, as far as the targets are `known`. Answers which entries are refused of which
    /// [`lbd_core::replication::Apply`].
    pub(super) fn heeded(&mut self, replica: &Replica, heeding: Heeding, known: &[bool]) -> (u64, Vec<Key>) {
        // What follows may be about a target that is there by now.
        self.look_at_snapshot();
        let Heeding { id, words, mut refused, .. } = heeding;
        for (index, (key, heed)) in words.iter().enumerate() {
            if known.get(index) == Some(&true) || heed.wanted == Wanted::NoWord {
                continue;
            }
            match *key {
                Key::Target(target) => {
                    let entry = Entry::Target { target, state: 0, weight: None };
                    self.refuse(replica, entry, Misfit::Unknown);
                }
                Key::Member(target) => {
                    let is_known = self.snapshot.group(&heed.group).is_some();
                    let misfit = if is_known { Misfit::Invalid } else { Misfit::Unknown };
                    self.refuse(replica, Entry::Member { target, said: Membership::Given }, misfit);
                }
                _ => {}
            }
            refused.push(*key);
        }
        (id, refused)
    }

    /// Whether something of the other node's that was not known here is known by now: it is to tell everything once more.
    pub(super) fn may_fit_now(&mut self, now: Instant) -> bool {
        let may = self.acquainted && self.anew_at <= now;
        if may {
            self.acquainted = false;
            self.anew_at = now + ANEW_PAUSE;
        }
        may
    }

    /// When that is to be asked, if it is.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.acquainted.then_some(self.anew_at)
    }

    /// Whether a name is one of this node's, or there are words on it.
    pub(super) fn knows(&self, name: &Name) -> bool {
        let is_meant =
            || matches!(name, Name::Target { group, id } if self.memory.lock().is_about(group, id));
        knows(&self.snapshot, name) || is_meant()
    }

    /// Words that found no room.
    pub(super) fn words_lost(&self) -> u64 {
        self.memory.lock().lost()
    }

    /// Shows what the other node's health checks say, if there is something new.
    pub(super) fn show_health(&mut self, replica: &Replica, stats: &Stats, connected: bool) {
        let (index, counters) = (Table::Health.index(), &stats.counters);
        let of = connected.then(|| {
            let (came, went) = (counters.received.entries[index], counters.received.deletions[index]);
            [came, went, counters.snapshots_received, counters.sessions]
        });
        if self.health_of == of {
            return;
        }
        self.health_of = of;
        let mut health = PeerHealth::new();
        if of.is_some() {
            for (name, state) in replica.peer_health() {
                let (Some(Name::Target { group, id }), Some(state)) =
                    (replica.name_of(name), HealthState::ALL.get(usize::from(state)))
                else {
                    continue;
                };
                health.entry(group.to_string()).or_default().insert(id.to_string(), *state);
            }
        }
        self.shown_health.store(Arc::new(health));
    }

    /// Group and id of a target that this node has, or has once what is `coming` has been heeded.
    fn target_of(
        &self,
        replica: &Replica,
        target: NameId,
        coming: &[Told],
    ) -> Result<(String, String), Misfit> {
        match replica.name_of(target) {
            Some(name @ Name::Target { group, id }) => {
                let comes = |(_, heed): &Told| *heed.group == **group && *heed.target == **id && heed.adds();
                let known = knows(&self.snapshot, name) || coming.iter().any(comes);
                if known { Ok((group.to_string(), id.to_string())) } else { Err(Misfit::Unknown) }
            }
            Some(Name::Service(_) | Name::Group(_) | Name::Zone(_) | Name::Ring(_)) | None => {
                Err(Misfit::Invalid)
            }
        }
    }

    fn refuse(&mut self, replica: &Replica, entry: Entry, misfit: Misfit) {
        self.refused.by_table[entry.key().table().index()] += 1;
        match misfit {
            Misfit::Invalid => self.refused.invalid += 1,
            Misfit::Unknown => {
                self.refused.unknown += 1;
                let Some(stranger) = Stranger::of(replica, &entry) else { return };
                if self.strangers.len() < STRANGERS_MAX {
                    self.strangers.insert(stranger);
                } else {
                    self.more_strangers |= !self.strangers.contains(&stranger);
                }
            }
        }
    }

    /// Takes over another configuration.
    fn look_at_snapshot(&mut self) {
        let snapshot = self.shared.snapshot.load();
        if snapshot.generation == self.snapshot.generation {
            return;
        }
        self.snapshot = Arc::clone(&snapshot);
        self.shared.peer.groups_changed.store(true, Ordering::Release);
        if self.more_strangers || self.strangers.iter().any(|stranger| stranger.has_place(&self.snapshot)) {
            self.strangers.clear();
            self.more_strangers = false;
            self.acquainted = true;
        }
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        self.shared.life.bell.listen(false);
        self.shown_health.store(Arc::default());
    }
}

impl Heeding {
    /// Waits for the control loop; to be called until it has answered. May be cancelled, and given up.
    pub(super) async fn answered(&mut self) -> Vec<bool> {
        self.answer.as_mut().await
    }

    /// Nobody waits for it any more. Answers which entries nobody knows the fate of, of which [`lbd_core::replication::Apply`].
    pub(super) fn given_up(self) -> (u64, Vec<Key>) {
        let Self { id, words, mut refused, .. } = self;
        refused.extend(words.into_iter().map(|(key, _)| key));
        (id, refused)
    }
}

fn told(replica: &Replica, live: &Live, group: String, target: String, wanted: Wanted) -> Told {
    let key = live.entry.key();
    let generation = replica.generation_of(&key).unwrap_or_default();
    (key, Heed { group, target, generation, wanted })
}

fn health_number(state: HealthState) -> u8 {
    u8::try_from(state.index()).unwrap_or_default()
}
