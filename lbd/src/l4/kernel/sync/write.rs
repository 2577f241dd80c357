//! Writing the difference between what the maps hold and what they are to hold, in the order of a [`Transition`]: every packet finds either the
//! old or the new, also where something cannot be written.

use std::collections::BTreeMap;
use std::sync::Arc;

use lbd_core::forward::abi::{
    Abi, CONFIG_HAS_CHECKS, CONFIG_PORTS_MISSING, Config, Service, Target, Vip, VipAddress,
};
use lbd_core::forward::plan::{Change, Contents, Indexes, Transition};

use super::super::KernelError;
use super::super::maps::Maps;

/// What is in the maps, as far as this process knows.
#[derive(Debug, Default)]
pub(super) struct Written {
    contents: Contents,
    /// It is not all of a plan: something could not be written.
    is_partial: bool,
}

/// What of a plan is not in the maps.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    /// What could not be written, for people, and why not.
    pub(super) failures: Vec<(String, KernelError)>,
    /// How many changes wait for that.
    pub(super) held: usize,
}

impl Unwritten {
    /// Whether all of the plan is in the maps.
    pub(super) const fn is_nothing(&self) -> bool {
        self.failures.is_empty() && self.held == 0
    }
}

impl Written {
    /// What a former life has left, whose numbers those are.
    pub(super) fn read(maps: &Maps, indexes: &Indexes) -> Result<Self, KernelError> {
        // What is in the rings is not read: those wanted are written anew, because nobody wants an empty one.
        let unknown: Arc<[u16]> = Arc::default();
        let ring = |index| (index, Arc::clone(&unknown));
        let [own, others] = maps.rings(indexes)?;
        let contents = Contents {
            config: maps.config.get(&0)?.unwrap_or_default(),
            services: used(maps.services.all()?),
            targets: used(maps.targets.all()?),
            endpoints: maps.endpoints.all()?,
            vips: maps.vips.all()?,
            vip_addresses: used(maps.vip_addresses.all()?),
            listeners: maps.listeners.all()?,
            acl: maps.acl.all()?,
            rings: own.into_iter().map(ring).collect(),
            other_rings: others.into_iter().map(ring).collect(),
            slots: maps.slots(indexes)?.into_iter().collect(),
            service_ports: maps.service_ports()?,
            ..Contents::default()
        };
        Ok(Self { contents, is_partial: false })
    }

    /// Whether something of the last plan could not be written. What is in the maps instead may lead to what that plan does without.
    pub(super) const fn is_partial(&self) -> bool {
        self.is_partial
    }

    /// Whether a former life has left services.
    pub(super) fn serves(&self) -> bool {
        !self.contents.services.is_empty()
    }

    /// Whether the program was told that flows may lack their ports.
    pub(super) const fn lacks_ports(&self) -> bool {
        self.contents.config.flags & CONFIG_PORTS_MISSING != 0
    }

    /// Tells the program that no flow lacks its port, if it was told otherwise.
    pub(super) fn write_ports_are_there(&mut self, maps: &Maps) -> Result<(), KernelError> {
        if self.lacks_ports() {
            let flags = self.contents.config.flags & !CONFIG_PORTS_MISSING;
            let config = Config { flags, ..self.contents.config };
            maps.config.put(&0, &config)?;
            self.contents.config = config;
        }
        Ok(())
    }

    /// Writes the configuration once more where the map has another one than was written: `lbd doctor --trace` puts one back that it has read, and in
    /// between another may have been written. Answers whether that was so.
    pub(super) fn keep_config(&self, maps: &Maps) -> Result<bool, KernelError> {
        let found = maps.config.get(&0)?.unwrap_or_default();
        let Some(wanted) = self.contents.config.instead_of(&found) else { return Ok(false) };
        maps.config.put(&0, &wanted)?;
        Ok(true)
    }

    /// The targets by their numbers.
    pub(super) fn targets(&self) -> impl Iterator<Item = (u32, &Target)> {
        self.contents.targets.iter().map(|(number, target)| (*number, target))
    }

    /// Whether there is a ring of this number, whatever is in it.
    pub(super) fn has_ring(&self, index: u32) -> bool {
        self.contents.rings.contains_key(&index)
    }

    /// Whether a ring is in the maps as a plan has it.
    pub(super) fn has_ring_of(&self, index: u32, wanted: &Contents) -> bool {
        self.contents.rings.get(&index) == wanted.rings.get(&index)
    }

    /// As much of a plan as is in the maps.
    pub(super) fn part_of(&self, wanted: &Contents) -> Contents {
        wanted.as_far_as(&self.contents)
    }

    /// Makes the maps hold `wanted`, but for what fails and what depends on that: the next call does that again.
    pub(super) fn write(&mut self, maps: &Maps, wanted: &Contents) -> Unwritten {
        let unwritten = self.go_to(maps, wanted, wanted);
        self.is_partial = !unwritten.is_nothing();
        unwritten
    }

    fn go_to(&mut self, maps: &Maps, wanted: &Contents, names: &Contents) -> Unwritten {
        let mut way = Transition::new(&self.contents, wanted, self.is_partial);
        let mut failures = Vec::new();
        while let Some(change) = way.step(&self.contents) {
            match write(maps, &change) {
                Ok(()) => {
                    self.contents.apply(change);
                }
                Err(error) => {
                    failures.push((names.subject(&change), error));
                    way.failed(change);
                }
            }
        }
        Unwritten { failures, held: way.held() }
    }

    /// Adds what health checks need, and leaves to which targets packets of clients go.
    pub(super) fn write_for_checks(&mut self, maps: &Maps, wanted: &Contents) -> Unwritten {
        let mut next = self.contents.clone();
        next.config.flags |= wanted.config.flags & CONFIG_HAS_CHECKS;
        for (index, target) in &wanted.targets {
            let known = next.targets.entry(*index).or_insert(*target);
            if target.ifindex != 0 {
                *known = Target { state: known.state, ..*target };
            }
        }
        for (address, vip) in &wanted.vips {
            let nobody = Vip { ranges_count: 0, ..*vip };
            next.vips.entry(*address).or_insert(nobody);
        }
        // What is missing of a plan since before is not made up for.
        let unwritten = self.go_to(maps, &next, wanted);
        self.is_partial |= !unwritten.is_nothing();
        unwritten
    }
}

fn write(maps: &Maps, change: &Change) -> Result<(), KernelError> {
    match change {
        Change::Slots(index) => maps.ensure_slots(*index),
        Change::Target(index, target) => maps.targets.put(index, target),
        Change::Ring(index, ring) => maps.put_ring(*index, &bytes_of(ring)),
        Change::OtherRing(index, ring) => maps.put_other_ring(*index, &bytes_of(ring)),
        Change::Acl(key, value) => maps.acl.put(key, value),
        Change::Config(config) => maps.config.put(&0, config),
        Change::Service(index, service) => maps.services.put(index, service),
        Change::Endpoint(key, endpoint) => maps.endpoints.put(key, endpoint),
        Change::VipAddress(index, address) => maps.vip_addresses.put(index, address),
        Change::ServicePorts(ports) => maps.put_service_ports(&ports.to_bytes()),
        Change::Listener(key, listening) => maps.listeners.put(key, listening),
        Change::Vip(address, vip) => maps.vips.put(address, vip),
        Change::NoVip(address) => maps.vips.delete(address),
        Change::NoListener(key) => maps.listeners.delete(key),
        Change::NoVipAddress(index) => maps.vip_addresses.put(index, &VipAddress::default()),
        Change::NoEndpoint(key) => maps.endpoints.delete(key),
        Change::NoService(index) => maps.services.put(index, &Service::default()),
        Change::NoAcl(key) => maps.acl.delete(key),
        Change::NoOtherRing(index) => maps.remove_other_ring(*index),
        Change::NoRing(index) => maps.remove_ring(*index),
        Change::NoTarget(index) => maps.targets.put(index, &Target::default()),
        Change::NoSlots(index) => maps.remove_slots(*index),
    }
}

fn bytes_of(ring: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ring.len() * 2);
    ring.iter().for_each(|target| target.put(&mut bytes));
    bytes
}

/// The elements of an array that are not empty.
fn used<V: Default + PartialEq>(all: BTreeMap<u32, V>) -> BTreeMap<u32, V> {
    all.into_iter().filter(|(_, value)| *value != V::default()).collect()
}
