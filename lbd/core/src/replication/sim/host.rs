//! A node: its replica, a shell and live tables, as simple as they can be.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use common::hash::HashKey;
use common::time::{Duration, Instant};

use super::super::{
    Action, Apply, Cursor, Entry, Flow, Key, Live, Member, Membership, Name, NameId, Put, Removal, Replica,
    Scan, Settings, Table,
};
use super::Sabotage;
use super::rings::OwnRing;

/// An entry's name that both nodes understand.
pub(super) type Label = (Table, u8);

/// Lifetime of entries that stay.
pub(super) const LONG: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) value: u16,
    pub(super) expires: Option<Instant>,
}

/// How a node is made, in each of its lives.
#[derive(Clone, Debug)]
pub(super) struct Make {
    pub(super) name: &'static str,
    /// Thousandths of true time.
    pub(super) rate: u64,
    pub(super) offset: u64,
    pub(super) minor: u16,
    /// Entries that a table may have.
    pub(super) table_max: u32,
    /// Entries that the live table has room for.
    pub(super) store_max: usize,
    pub(super) dirty_max: usize,
    /// Deletions that are remembered.
    pub(super) tombstones_max: usize,
    pub(super) window: usize,
    /// Wrong by that much.
    pub(super) generation_skew: u64,
    /// True time it takes to write, at most.
    pub(super) write_delay: u64,
}

#[derive(Debug)]
pub(super) struct Host {
    pub(super) make: Make,
    pub(super) replica: Replica,
    pub(super) store: BTreeMap<Label, Stored>,
    /// Being written, when that is done in true time, and whether it has been answered. One, but for a broken shell.
    pub(super) writing: VecDeque<(u64, Apply, bool)>,
    /// Being read.
    pub(super) scans: VecDeque<(u64, Scan)>,
    /// Changed here while something is being written.
    touched: BTreeSet<Label>,
    /// Changed here last, as far as this process has told.
    own: BTreeSet<Label>,
    /// Whose deletions found no tombstone, in whichever life.
    pub(super) forgotten: BTreeSet<Label>,
    /// What it chooses flows' targets from.
    pub(super) ring: OwnRing,
    pub(super) sabotage: Sabotage,
    puts: u64,
}

impl Make {
    pub(super) fn local(&self, now: u64) -> Instant {
        Instant::from_nanos(self.offset + now / 1000 * self.rate)
    }

    /// The true time at which the node's clock shows this, or a little later.
    pub(super) fn true_time(&self, local: Instant) -> u64 {
        local.as_nanos().saturating_sub(self.offset) / self.rate * 1000 + 2000
    }

    fn settings(&self, boot: u64, now: u64) -> Settings {
        let generation = (now / 1000 + 1_000_000).saturating_sub(self.generation_skew);
        let mut settings = Settings::new(self.name, boot, boot, HashKey::new([7; 16]), generation);
        settings.minor = self.minor;
        settings.tables = [self.table_max; Table::COUNT];
        settings.dirty_max = self.dirty_max;
        settings.tombstones_max = self.tombstones_max;
        settings.window = self.window;
        settings.scan_limit = 5;
        settings
    }
}

impl Host {
    pub(super) fn new(make: Make, boot: u64, now: u64, sabotage: Sabotage) -> Self {
        let replica = Replica::new(make.settings(boot, now), make.local(now));
        Self {
            make,
            replica,
            store: BTreeMap::new(),
            writing: VecDeque::new(),
            scans: VecDeque::new(),
            touched: BTreeSet::new(),
            own: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            ring: OwnRing::default(),
            sabotage,
            puts: 0,
        }
    }

    /// Another process; the tables stay if they are the kernel's.
    pub(super) fn restart(&mut self, boot: u64, now: u64, warm: bool) {
        let store = if warm { std::mem::take(&mut self.store) } else { BTreeMap::new() };
        let forgotten = std::mem::take(&mut self.forgotten);
        *self = Self { store, forgotten, ..Self::new(self.make.clone(), boot, now, self.sabotage) };
    }

    pub(super) fn change(&mut self, label: Label, value: u16, lifetime: Duration, now: u64) -> bool {
        let local = self.make.local(now);
        if !self.store.contains_key(&label) && self.store.len() >= self.store_max() {
            return false;
        }
        let remaining = (!label.0.has_words()).then_some(lifetime);
        self.store.insert(label, Stored { value, expires: remaining.map(|span| local + span) });
        self.touched.insert(label);
        self.own.insert(label);
        let entry = self.entry(label, value);
        self.replica.changed_all(local, &[Live { entry, remaining }]);
        true
    }

    pub(super) fn delete(&mut self, label: Label, removal: Removal, now: u64) {
        if self.store.remove(&label).is_some() {
            self.own.remove(&label);
            // What ran out while a new value is being written gets it all the same.
            if removal == Removal::Ended {
                self.touched.insert(label);
            }
            let key = self.entry(label, 0).key();
            let before = self.replica.counters.tombstones_full;
            self.replica.deleted(self.make.local(now), &key, removal);
            if self.replica.counters.tombstones_full > before {
                self.forgotten.insert(label);
            }
        }
    }

    pub(super) fn expire(&mut self, now: u64) {
        let local = self.make.local(now);
        let over = |stored: &Stored| stored.expires.is_some_and(|expires| expires <= local);
        let labels: Vec<Label> =
            self.store.iter().filter(|(_, stored)| over(stored)).map(|(&label, _)| label).collect();
        for label in labels {
            self.delete(label, Removal::Expired, now);
        }
    }

    /// Takes what the replica wants done. True if it wants the connection closed.
    pub(super) fn take_actions(&mut self, now: u64, delay: u64) -> bool {
        let mut closes = false;
        while let Some(action) = self.replica.poll() {
            match action {
                Action::Apply(apply) => {
                    self.touched.clear();
                    let early = self.sabotage == Sabotage::AnswersEarly;
                    let id = apply.id;
                    self.writing.push_back((now + delay, apply, early));
                    if early {
                        self.replica.applied(self.make.local(now), id, &[]);
                    }
                }
                Action::Scan(scan) => self.scans.push_back((now + delay / 4, scan)),
                Action::SwitchRing { hash, outcome, .. } => self.switch_ring(hash, Some(outcome), now),
                Action::PeerRing(_) | Action::Note(_) => {}
                Action::Disconnect(_) => closes = true,
            }
        }
        closes
    }

    /// Finishes what is being written and read.
    pub(super) fn finish(&mut self, now: u64) {
        while self.writing.front().is_some_and(|(due, ..)| *due <= now) {
            let Some((_, apply, answered)) = self.writing.pop_front() else { return };
            let refused = self.write(&apply, now);
            if answered {
                continue;
            }
            self.replica.applied(self.make.local(now), apply.id, &refused);
        }
        while let Some((_, scan)) = self.scans.front().filter(|(due, _)| *due <= now).cloned() {
            self.scans.pop_front();
            let (found, next) = self.read(&scan, now);
            self.replica.scanned(self.make.local(now), scan.id, &found, next);
        }
    }

    pub(super) fn next_finish(&self) -> Option<u64> {
        let scan = self.scans.front().map(|(due, _)| *due);
        let writing = self.writing.front().map(|(due, ..)| *due);
        [scan, writing].into_iter().flatten().min()
    }

    fn write(&mut self, apply: &Apply, now: u64) -> Vec<Key> {
        let local = self.make.local(now);
        let mut refused = Vec::new();
        for Put { live, over_own, is_new } in &apply.puts {
            if live.entry.key().table().is_per_node() {
                continue;
            }
            self.puts += 1;
            let (label, value) = self.label(&live.entry);
            let lost = self.sabotage == Sabotage::LosesPuts && self.puts.is_multiple_of(64);
            // What was changed here meanwhile is later than what was handed over before.
            if lost || self.touched.contains(&label) {
                continue;
            }
            if !self.store.contains_key(&label) && self.store.len() >= self.store_max() {
                refused.push(live.entry.key());
                continue;
            }
            // A shell looks only there for something that is to stay.
            let full = self.replica.counters.local_full > 0;
            let own = self.own.remove(&label) && self.sabotage == Sabotage::None && !full;
            assert!(!own || *over_own, "{label:?} was written over an own one unsaid");
            assert!(!own || !is_new, "{label:?} was written over an own one as if it were new");
            let expires = live.remaining.map(|remaining| local + remaining);
            self.store.insert(label, Stored { value, expires });
        }
        for key in &apply.deletes {
            let label = self.label_of_key(key);
            if self.sabotage != Sabotage::KeepsDeleted && !self.touched.contains(&label) {
                self.store.remove(&label);
                self.own.remove(&label);
            }
        }
        refused
    }

    fn read(&mut self, scan: &Scan, now: u64) -> (Vec<Live>, Option<Cursor>) {
        let local = self.make.local(now);
        let after = scan.cursor.0.first().copied();
        let labels: Vec<(Label, Stored)> = self
            .store
            .range((scan.table, 0)..=(scan.table, u8::MAX))
            .map(|(&label, &stored)| (label, stored))
            .filter(|((_, number), _)| after.is_none_or(|after| *number > after))
            .take(scan.limit)
            .collect();
        let last = labels.last().map(|((_, number), _)| *number);
        let next = last.filter(|_| labels.len() == scan.limit).map(|number| Cursor(vec![number]));
        let skipped = usize::from(self.sabotage == Sabotage::ScansBadly && labels.len() == scan.limit);
        let live = |((table, number), stored): (Label, Stored)| Live {
            entry: self.entry((table, number), stored.value),
            remaining: stored.expires.map(|expires| expires - local),
        };
        (labels.into_iter().skip(skipped).map(live).collect(), next)
    }

    fn store_max(&self) -> usize {
        self.make.store_max
    }

    fn name(&mut self, name: Name) -> NameId {
        self.replica.name(name).unwrap()
    }

    pub(super) fn service(&mut self) -> NameId {
        self.name(Name::Service(Arc::from("shop")))
    }

    fn target(&mut self, number: u16) -> NameId {
        self.name(Name::Target { group: Arc::from("shop"), id: Arc::from(number.to_string().as_str()) })
    }

    pub(super) fn entry(&mut self, (table, number): Label, value: u16) -> Entry {
        let (mut tuple, mut source) = ([0; 40], [0; 16]);
        (tuple[3], source[2]) = (number, number);
        match table {
            Table::Flows => {
                let (service, target) = (self.service(), self.target(value % 50));
                Entry::Flow(Flow { tuple, service, target, port: value, state: 1 })
            }
            Table::Sticky => {
                let group = self.name(Name::Group(Arc::from("shop")));
                Entry::Sticky { group, source, target: self.target(value) }
            }
            Table::UdpSessions => {
                let (service, target) = (self.service(), self.target(value));
                Entry::UdpSession { tuple, service, target, here: value % 2 == 1 }
            }
            Table::Rates => Entry::Rate { service: self.service(), source, total: u64::from(value) },
            Table::Targets => {
                let target = self.target(u16::from(number));
                Entry::Target { target, state: 2, weight: Some(value) }
            }
            Table::Health => {
                Entry::Health { target: self.target(u16::from(number)), state: value.to_le_bytes()[0] }
            }
            Table::Members => {
                let member = Member {
                    address: [0; 16],
                    port: value,
                    weight: 1,
                    backup: false,
                    zone: value.is_multiple_of(2).then(|| self.name(Name::Zone(Arc::from("west")))),
                    max_connections: None,
                    instead: false,
                };
                let target = self.target(u16::from(number));
                Entry::Member { target, said: Membership::Added(member) }
            }
        }
    }

    fn label(&self, entry: &Entry) -> (Label, u16) {
        let label = self.label_of_key(&entry.key());
        let value = match *entry {
            Entry::Flow(flow) => flow.port,
            Entry::Sticky { target, .. } | Entry::UdpSession { target, .. } => self.number_of(target),
            Entry::Rate { total, .. } => u16::try_from(total).unwrap(),
            Entry::Target { weight, .. } => weight.unwrap(),
            Entry::Health { state, .. } => u16::from(state),
            Entry::Member { said: Membership::Added(member), .. } => member.port,
            Entry::Member { said, .. } => panic!("nobody said {said:?}"),
        };
        (label, value)
    }

    fn label_of_key(&self, key: &Key) -> Label {
        let number = match *key {
            Key::Flow(tuple) | Key::UdpSession(tuple) => tuple[3],
            Key::Sticky { source, .. } | Key::Rate { source, .. } => source[2],
            Key::Target(target) | Key::Health(target) | Key::Member(target) => {
                u8::try_from(self.number_of(target)).unwrap()
            }
        };
        (key.table(), number)
    }

    fn number_of(&self, target: NameId) -> u16 {
        match self.replica.name_of(target) {
            Some(Name::Target { id, .. }) => id.parse().unwrap(),
            other => panic!("{other:?} is no target"),
        }
    }
}
