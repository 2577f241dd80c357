//! Numbers for names: the same as long as the name lives, and for a while after that, because flows refer to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::hash::HashKey;
use common::time::{Duration, Instant};

use super::super::abi::{
    Affinity, AffinityKey, ENDPOINTS_MAX, Flow, INSTANCES_MAX, RINGS_MAX, SERVICES_MAX, SourceKey,
    TARGETS_MAX, VIPS_MAX,
};
use super::ring::Make;

/// A number that is no longer used is not looked for in flows before this time has passed: longer than half-open flows, which
/// nobody can delete, may last (with what is added to time-outs), and the grace that flows have.
pub const LINGER: Duration = Duration::from_secs(625);

common::named! {
    /// What is numbered.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub(super) enum Kind {
        Service => "service",
        Target => "target",
        Ring => "ring",
        Endpoint => "endpoint",
        Vip => "vip",
        Instance => "instance",
    }
}

impl Kind {
    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Numbers are 1 to this, without it.
    const fn end(self) -> u32 {
        match self {
            Self::Service => SERVICES_MAX,
            Self::Target => TARGETS_MAX,
            Self::Ring => RINGS_MAX,
            Self::Endpoint => ENDPOINTS_MAX,
            Self::Vip => VIPS_MAX,
            Self::Instance => INSTANCES_MAX,
        }
    }
}

/// What is kept from one plan to the next, and over restarts: the numbers, by name. Over restarts of the host there is nothing to
/// keep, the maps are gone then too.
#[derive(Clone, Debug, Default)]
pub struct Indexes {
    by_name: BTreeMap<Kind, BTreeMap<String, Entry>>,
    taken: BTreeMap<Kind, BTreeSet<u16>>,
    /// The ring of a name, with what it was made from: making one takes a millisecond. Not kept over restarts.
    pub(super) rings: BTreeMap<String, KeptRing>,
    /// The same of the other node's, those in use and the next ones.
    pub(super) other_rings: [BTreeMap<String, KeptRing>; 2],
}

/// A ring.
#[derive(Clone, Debug)]
pub(super) struct KeptRing {
    pub(super) key: HashKey,
    /// Name, number and weight of each target.
    pub(super) members: Vec<(String, u16, u16)>,
    pub(super) ring: Arc<[u16]>,
    pub(super) make: Arc<Make>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    index: u16,
    used: bool,
    /// Since when it is known not to be used.
    gone_since: Option<Instant>,
}

/// Numbers of which every trace is to be removed before they can be given to other names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gone {
    entries: BTreeSet<(Kind, u16)>,
}

impl Gone {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The numbers of services.
    pub fn services(&self) -> impl Iterator<Item = u32> {
        self.numbers(Kind::Service)
    }

    /// The numbers of targets.
    pub fn targets(&self) -> impl Iterator<Item = u32> {
        self.numbers(Kind::Target)
    }

    fn numbers(&self, kind: Kind) -> impl Iterator<Item = u32> {
        self.entries.iter().filter(move |(its, _)| *its == kind).map(|(_, index)| u32::from(*index))
    }

    /// Whether a flow has to be deleted.
    #[must_use]
    pub fn is_in(&self, flow: &Flow) -> bool {
        self.has(Kind::Service, flow.service) || self.has(Kind::Target, flow.target)
    }

    /// Whether a client's remembered target has to be deleted.
    #[must_use]
    pub fn is_in_affinity(&self, key: &AffinityKey, value: &Affinity) -> bool {
        self.has(Kind::Ring, key.ring) || self.has(Kind::Target, value.target)
    }

    /// Whether what a client has begun has to be forgotten.
    #[must_use]
    pub fn is_in_sources(&self, key: &SourceKey) -> bool {
        self.has(Kind::Service, key.service)
    }

    fn has(&self, kind: Kind, index: u16) -> bool {
        !self.entries.is_empty() && self.entries.contains(&(kind, index))
    }
}

impl Indexes {
    /// The numbers that [`Self::to_bytes`] has written; what cannot be read is left out.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut indexes = Self::default();
        for line in String::from_utf8_lossy(bytes).lines() {
            let mut words = line.splitn(3, ' ');
            let (Some(kind), Some(index), Some(name)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let (Some(kind), Ok(index)) = (Kind::of(kind), index.parse::<u16>()) else { continue };
            let names = indexes.by_name.entry(kind).or_default();
            let fits = index > 0 && u32::from(index) < kind.end() && !names.contains_key(name);
            if fits && indexes.taken.entry(kind).or_default().insert(index) {
                names.insert(name.to_owned(), Entry { index, used: false, gone_since: None });
            }
        }
        indexes
    }

    /// Everything as lines of text, to be kept where the maps are.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let lines = self.by_name.iter().flat_map(|(kind, names)| {
            names.iter().map(|(name, entry)| format!("{} {} {name}\n", kind.name(), entry.index))
        });
        lines.collect::<String>().into_bytes()
    }

    /// The numbers of rings, also of those that are no longer used: the kernel has no others.
    pub fn ring_numbers(&self) -> impl Iterator<Item = u32> {
        self.numbers(Kind::Ring)
    }

    /// The same of the slots of endpoints, and of those of its clients' addresses, which those of IPv6 have too.
    pub fn slots_numbers(&self) -> impl Iterator<Item = u32> {
        self.numbers(Kind::Endpoint).flat_map(|index| [index, ENDPOINTS_MAX + index])
    }

    fn numbers(&self, kind: Kind) -> impl Iterator<Item = u32> {
        self.by_name.get(&kind).into_iter().flat_map(BTreeMap::values).map(|entry| u32::from(entry.index))
    }

    /// Numbers that have not been used for [`LINGER`]. Whoever has then been through all flows and remembered clients, and
    /// has deleted those that are [in it](Gone::is_in), calls [`Self::release`]. What is used again meanwhile has its number as before, so
    /// that from then on only what is [still gone](Self::still_gone) may be deleted.
    pub fn gone(&mut self, now: Instant) -> Gone {
        let mut gone = Gone::default();
        for (&kind, names) in &mut self.by_name {
            for entry in names.values_mut().filter(|entry| !entry.used) {
                if now.since(*entry.gone_since.get_or_insert(now)) >= LINGER {
                    gone.entries.insert((kind, entry.index));
                }
            }
        }
        gone
    }

    /// Those of `gone` that are not used again: of the others nothing may be removed any more.
    #[must_use]
    pub fn still_gone(&self, gone: &Gone) -> Gone {
        let mut left = gone.clone();
        for (&kind, names) in &self.by_name {
            for entry in names.values().filter(|entry| entry.used) {
                left.entries.remove(&(kind, entry.index));
            }
        }
        left
    }

    /// Makes numbers free for other names, but those that have come to be used again.
    pub fn release(&mut self, gone: &Gone) {
        for (&kind, names) in &mut self.by_name {
            names.retain(|_, entry| entry.used || !gone.has(kind, entry.index));
            let taken = names.values().map(|entry| entry.index).collect();
            self.taken.insert(kind, taken);
        }
    }

    /// Nothing is used until it is asked for.
    pub(super) fn begin(&mut self) {
        self.by_name.values_mut().flat_map(BTreeMap::values_mut).for_each(|entry| entry.used = false);
    }

    /// Forgets the rings that are no longer used.
    pub(super) fn forget_rings(&mut self) {
        let mut rings = std::mem::take(&mut self.rings);
        rings.retain(|name, _| self.number(Kind::Ring, name).is_some());
        self.rings = rings;
        let mut others = std::mem::take(&mut self.other_rings);
        for rings in &mut others {
            rings.retain(|name, _| self.number(Kind::Ring, name).is_some());
        }
        self.other_rings = others;
    }

    /// The number of a name that has been asked for; none for others.
    pub(super) fn number(&self, kind: Kind, name: &str) -> Option<u16> {
        let entry = self.by_name.get(&kind)?.get(name)?;
        entry.used.then_some(entry.index)
    }

    /// Whether a name has a number from before.
    pub(super) fn is_known(&self, kind: Kind, name: &str) -> bool {
        self.by_name.get(&kind).is_some_and(|names| names.contains_key(name))
    }

    /// The number of a name; none if there are none left.
    pub(super) fn get(&mut self, kind: Kind, name: &str) -> Option<u16> {
        let names = self.by_name.entry(kind).or_default();
        if let Some(entry) = names.get_mut(name) {
            (entry.used, entry.gone_since) = (true, None);
            return Some(entry.index);
        }
        let taken = self.taken.entry(kind).or_default();
        let end = u16::try_from(kind.end()).unwrap_or(u16::MAX);
        let index = (1..end).find(|index| !taken.contains(index))?;
        taken.insert(index);
        names.insert(name.to_owned(), Entry { index, used: true, gone_since: None });
        Some(index)
    }
}
