//! A node's `lbd` as far as replication goes: the core, a shell around it, and live tables. Flows are the kernel's and outlive the process; all
//! else is in its memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use common::hash::HashKey;
use common::rng::Rng;
use common::time::{Duration, Instant, Now};
use lbd_core::replication::{
    Action, Apply, Cursor, Entry, Flow, Key, Live, Member, Membership, Name, NameId, Put, Removal, Replica,
    Scan, Settings, State, Table,
};

use super::super::clock::Moment;
use super::super::variant::NAMES;
use super::rings::OwnRing;

/// An entry's name that both nodes understand.
pub(super) type Label = (Table, u16);

/// Lifetime of entries that stay.
pub(super) const LONG: Duration = Duration::from_secs(3600);

/// Entries asked for with a scan.
pub(super) const SCAN: usize = 16;

/// Deletions remembered, as a rule; there are fewer entries that can be deleted.
pub(super) const TOMBSTONES_MAX: usize = 128;

/// What is wrong with a shell: what proves that the checkers can object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing.
    #[default]
    None,
    /// `vrrpd` is told that nothing is lacking, whatever is.
    SaysSynced,
    /// The same, while nothing comes in by the node's port on the LAN.
    SaysSyncedWhenBlocked,
    /// The same, while the node is active.
    SaysSyncedWhenActive,
    /// The core is answered before anything is written.
    AnswersEarly,
    /// Some entries are not written.
    LosesPuts,
    /// No deletion is carried out.
    KeepsDeleted,
    /// Another ring is chosen from without waiting for the other node.
    SwitchesAtOnce,
    /// While the other node is not heard `vrrpd` is told that `lbd` is gone.
    TakesSilenceForDeath,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) value: u16,
    pub(super) expires: Option<Instant>,
}

/// How a node's `lbd` is made, in each of its lives.
#[derive(Clone, Debug)]
pub(super) struct Make {
    pub(super) minor: u16,
    /// Entries that a table may have.
    pub(super) table_max: u32,
    pub(super) dirty_max: usize,
    /// Deletions remembered.
    pub(super) tombstones_max: usize,
    pub(super) window: usize,
    /// How long writing takes at most.
    pub(super) write_delay: Duration,
}

/// One node's.
#[derive(Debug)]
pub(super) struct Lbd {
    pub(super) make: Make,
    name: &'static str,
    /// While the process runs.
    pub(super) replica: Option<Box<Replica>>,
    pub(super) store: BTreeMap<Label, Stored>,
    /// What is being written, when that is done, and whether it has been answered already.
    writing: VecDeque<(Moment, Apply, bool)>,
    scans: VecDeque<(Moment, Scan)>,
    /// Changed here while something is being written.
    touched: BTreeSet<Label>,
    /// Whose deletions found no tombstone, in whichever life.
    pub(super) forgotten: BTreeSet<Label>,
    /// What was last said to `vrrpd`.
    pub(super) said_behind: Option<bool>,
    /// What it chooses flows' targets from.
    pub(super) ring: OwnRing,
    /// The number of its process, while it runs.
    pub(super) life: Option<u64>,
    /// The host has lost everything, and no process has begun to learn it since.
    pub(super) blank: bool,
    pub(super) flaw: Flaw,
    puts: u64,
    /// Nothing runs out before.
    expires_at: Instant,
    /// Counts what may have taken entries out of the tables.
    pub(super) removals: u64,
}

impl Lbd {
    pub(super) fn new(host: usize, make: Make, flaw: Flaw) -> Self {
        Self {
            make,
            name: NAMES[host],
            replica: None,
            store: BTreeMap::new(),
            writing: VecDeque::new(),
            scans: VecDeque::new(),
            touched: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            said_behind: None,
            ring: OwnRing::default(),
            life: None,
            blank: true,
            flaw,
            puts: 0,
            expires_at: Instant::from_nanos(u64::MAX),
            removals: 0,
        }
    }

    /// A new process. It finds the kernel's flows, and nothing else.
    pub(super) fn start(&mut self, boot: u64, now: Now) {
        let generation = now.unix.as_nanos() / 1000;
        let mut settings = Settings::new(self.name, boot, 1, HashKey::new([7; 16]), generation);
        settings.minor = self.make.minor;
        settings.tables = [self.make.table_max; Table::COUNT];
        settings.dirty_max = self.make.dirty_max;
        settings.tombstones_max = self.make.tombstones_max;
        settings.window = self.make.window;
        settings.scan_limit = SCAN;
        // Shorter than a node's, so that a run is.
        (settings.keepalive, settings.idle_timeout) =
            (Duration::from_millis(300), Duration::from_millis(1500));
        (self.life, self.blank) = (Some(boot), false);
        self.replica = Some(Box::new(Replica::new(settings, now.at)));
    }

    /// The process is gone, with what was in its memory.
    pub(super) fn kill(&mut self) {
        self.replica = None;
        self.writing.clear();
        self.scans.clear();
        self.touched.clear();
        self.said_behind = None;
        (self.ring, self.life) = (OwnRing::default(), None);
        self.store.retain(|(table, _), _| *table == Table::Flows);
        self.removals += 1;
    }

    /// The host has lost its power.
    pub(super) fn lose_all(&mut self) {
        self.kill();
        self.store.clear();
        self.blank = true;
    }

    /// Whether it lacks what the other node has, as far as it knows.
    pub(super) fn is_behind(&self) -> Option<bool> {
        self.replica.as_ref().map(|replica| replica.state() != State::Synced)
    }

    /// What it says of that.
    pub(super) fn says_behind(&self) -> Option<bool> {
        self.is_behind().map(|behind| behind && self.flaw != Flaw::SaysSynced)
    }

    /// An entry is new or changed, by what this node does. Without a process it is the kernel that remembers a flow.
    pub(super) fn change(
        &mut self,
        label: Label,
        value: u16,
        lifetime: Option<Duration>,
        local: Instant,
    ) -> bool {
        let known = self.store.contains_key(&label);
        let alone = self.replica.is_none();
        if (!known && self.store.len() >= self.make.table_max as usize)
            || (alone && (known || label.0 != Table::Flows))
        {
            return false;
        }
        let expires = lifetime.map(|span| local + span);
        self.expires_at = self.expires_at.min(expires.unwrap_or(self.expires_at));
        self.store.insert(label, Stored { value, expires });
        let Some(mut replica) = self.replica.take() else { return true };
        self.touched.insert(label);
        let entry = entry(&mut replica, label, value);
        replica.changed(local, &Live { entry, remaining: lifetime });
        self.replica = Some(replica);
        true
    }

    /// An entry is over, or has run out.
    pub(super) fn delete(&mut self, label: Label, removal: Removal, local: Instant) {
        let Some(mut replica) = self.replica.take() else { return };
        if self.store.remove(&label).is_some() {
            self.removals += 1;
            // What ran out while a new value is being written gets it all the same.
            if removal == Removal::Ended {
                self.touched.insert(label);
            }
            let key = entry(&mut replica, label, 0).key();
            let full = |replica: &Replica| replica.stats(local).counters.tombstones_full;
            let before = full(&replica);
            replica.deleted(local, &key, removal);
            if full(&replica) > before {
                self.forgotten.insert(label);
            }
        }
        self.replica = Some(replica);
    }

    pub(super) fn expire(&mut self, local: Instant) {
        if local < self.expires_at {
            return;
        }
        let over = |stored: &Stored| stored.expires.is_some_and(|expires| expires <= local);
        let labels: Vec<Label> =
            self.store.iter().filter(|(_, stored)| over(stored)).map(|(&label, _)| label).collect();
        for label in labels {
            self.delete(label, Removal::Expired, local);
        }
        let next = self.store.values().filter_map(|stored| stored.expires).min();
        self.expires_at = next.unwrap_or(Instant::from_nanos(u64::MAX));
    }

    /// Takes what the core wants done. True if it wants the connection closed.
    pub(super) fn take_actions(&mut self, now: Moment, local: Instant, rng: &mut Rng) -> bool {
        let Some(mut replica) = self.replica.take() else { return false };
        let mut closes = false;
        while let Some(action) = replica.poll() {
            let delay = rng.span(Duration::from_nanos(1), self.make.write_delay);
            match action {
                Action::Apply(apply) => {
                    self.touched.clear();
                    let early = self.flaw == Flaw::AnswersEarly;
                    if early {
                        replica.applied(local, apply.id, &[]);
                    }
                    self.writing.push_back((now + delay, apply, early));
                }
                Action::Scan(scan) => self.scans.push_back((now + delay / 4, scan)),
                Action::SwitchRing { hash, outcome, .. } => {
                    self.ring.switch(&mut replica, hash, Some(outcome), local);
                }
                Action::PeerRing(ring) => self.ring.hear(&replica, ring),
                // Nobody tells any here.
                Action::Note(_) => {}
                Action::Disconnect(_) => closes = true,
            }
        }
        self.replica = Some(replica);
        closes
    }

    /// Finishes what is being written and read.
    pub(super) fn finish(&mut self, now: Moment, local: Instant) {
        let Some(mut replica) = self.replica.take() else { return };
        while self.writing.front().is_some_and(|(due, ..)| *due <= now) {
            let Some((_, apply, answered)) = self.writing.pop_front() else { break };
            let refused = self.write(&replica, &apply, local);
            if !answered {
                replica.applied(local, apply.id, &refused);
            }
            self.removals += u64::from(!apply.deletes.is_empty());
        }
        while self.scans.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, scan)) = self.scans.pop_front() else { break };
            let (found, next) = self.read(&mut replica, &scan, local);
            replica.scanned(local, scan.id, &found, next);
        }
        self.replica = Some(replica);
    }

    pub(super) fn next_finish(&self) -> Option<Moment> {
        let scan = self.scans.front().map(|(due, _)| *due);
        let writing = self.writing.front().map(|(due, ..)| *due);
        [scan, writing].into_iter().flatten().min()
    }

    fn write(&mut self, replica: &Replica, apply: &Apply, local: Instant) -> Vec<Key> {
        let mut refused = Vec::new();
        for Put { live, .. } in &apply.puts {
            let key = live.entry.key();
            let Some((label, value)) = label_of(replica, &live.entry) else {
                refused.push(key);
                continue;
            };
            self.puts += 1;
            let lost = self.flaw == Flaw::LosesPuts && self.puts.is_multiple_of(32);
            // What was changed here meanwhile is later than what was handed over before.
            if label.0.is_per_node() || lost || self.touched.contains(&label) {
                continue;
            }
            if !self.store.contains_key(&label) && self.store.len() >= self.make.table_max as usize {
                refused.push(key);
                continue;
            }
            let expires = live.remaining.map(|remaining| local + remaining);
            self.expires_at = self.expires_at.min(expires.unwrap_or(self.expires_at));
            self.store.insert(label, Stored { value, expires });
        }
        for key in &apply.deletes {
            let label = label_of_key(replica, key);
            let kept = self.flaw == Flaw::KeepsDeleted;
            if let Some(label) = label.filter(|label| !kept && !self.touched.contains(label)) {
                self.store.remove(&label);
            }
        }
        refused
    }

    fn read(&self, replica: &mut Replica, scan: &Scan, local: Instant) -> (Vec<Live>, Option<Cursor>) {
        let after = scan.cursor.0.first_chunk().map(|bytes| u16::from_le_bytes(*bytes));
        let range = (scan.table, 0)..=(scan.table, u16::MAX);
        let found: Vec<(Label, Stored)> = self
            .store
            .range(range)
            .map(|(&label, &stored)| (label, stored))
            .filter(|((_, number), _)| after.is_none_or(|after| *number > after))
            .take(scan.limit)
            .collect();
        let last = found.last().map(|((_, number), _)| *number);
        let next = last.filter(|_| found.len() == scan.limit);
        let live = |(label, stored): (Label, Stored)| Live {
            entry: entry(replica, label, stored.value),
            remaining: stored.expires.map(|expires| expires - local),
        };
        (found.into_iter().map(live).collect(), next.map(|number| Cursor(number.to_le_bytes().to_vec())))
    }
}

/// There are few names, and they are short.
pub(super) fn named(replica: &mut Replica, name: Name) -> NameId {
    replica.name(name).expect("few names, all of them short")
}

fn target(replica: &mut Replica, number: u16) -> NameId {
    named(replica, Name::Target { group: Arc::from("pool"), id: Arc::from(number.to_string()) })
}

/// What stands for an entry between the nodes.
pub(super) fn entry(replica: &mut Replica, (table, number): Label, value: u16) -> Entry {
    let (mut tuple, mut source) = ([0; 40], [0; 16]);
    let bytes = number.to_be_bytes();
    tuple[2..4].copy_from_slice(&bytes);
    source[2..4].copy_from_slice(&bytes);
    match table {
        Table::Flows => {
            let service = named(replica, Name::Service(Arc::from("shop")));
            let target = target(replica, value % 50);
            Entry::Flow(Flow { tuple, service, target, port: value, state: 1 })
        }
        Table::Sticky => {
            let group = named(replica, Name::Group(Arc::from("pool")));
            Entry::Sticky { group, source, target: target(replica, value) }
        }
        Table::UdpSessions => {
            let service = named(replica, Name::Service(Arc::from("dns")));
            Entry::UdpSession { tuple, service, target: target(replica, value), here: false }
        }
        Table::Rates => {
            let service = named(replica, Name::Service(Arc::from("shop")));
            Entry::Rate { service, source, total: u64::from(value) }
        }
        Table::Health => Entry::Health { target: target(replica, number), state: value.to_le_bytes()[0] },
        Table::Targets => Entry::Target { target: target(replica, number), state: 2, weight: Some(value) },
        Table::Members => {
            let member = Member {
                address: source,
                port: value,
                weight: 1,
                backup: false,
                zone: None,
                max_connections: None,
                instead: false,
            };
            Entry::Member { target: target(replica, number), said: Membership::Added(member) }
        }
    }
}

fn label_of(replica: &Replica, entry: &Entry) -> Option<(Label, u16)> {
    let value = match *entry {
        Entry::Flow(flow) => flow.port,
        Entry::Sticky { target, .. } | Entry::UdpSession { target, .. } => number_of(replica, target)?,
        Entry::Rate { total, .. } => u16::try_from(total).ok()?,
        Entry::Target { weight, .. } => weight?,
        Entry::Health { state, .. } => u16::from(state),
        Entry::Member { said: Membership::Added(member), .. } => member.port,
        Entry::Member { .. } => return None,
    };
    Some((label_of_key(replica, &entry.key())?, value))
}

fn label_of_key(replica: &Replica, key: &Key) -> Option<Label> {
    let number = match *key {
        Key::Flow(tuple) | Key::UdpSession(tuple) => u16::from_be_bytes([tuple[2], tuple[3]]),
        Key::Sticky { source, .. } | Key::Rate { source, .. } => u16::from_be_bytes([source[2], source[3]]),
        Key::Target(target) | Key::Health(target) | Key::Member(target) => number_of(replica, target)?,
    };
    Some((key.table(), number))
}

fn number_of(replica: &Replica, target: NameId) -> Option<u16> {
    match replica.name_of(target)? {
        Name::Target { id, .. } => id.parse().ok(),
        Name::Service(_) | Name::Group(_) | Name::Zone(_) | Name::Ring(_) => None,
    }
}
