//! Writing the difference between what the maps hold and what they are to hold, in the order of
//! [`changes`](lbd_core::forward::plan::changes): every packet finds either the old or the new.

use std::collections::BTreeMap;
use std::sync::Arc;

use lbd_core::forward::abi::{
    Abi, CONFIG_HAS_CHECKS, CONFIG_PORTS_MISSING, Config, Service, Target, Vip, VipAddress,
};
use lbd_core::forward::plan::{Change, Contents, Indexes, changes};

use super::super::KernelError;
use super::super::maps::Maps;

/// What is in the maps, as far as this process knows.
#[derive(Debug, Default)]
pub(super) struct Written(Contents);

impl Written {
    /// What a former life has left, whose numbers those are.
    pub(super) fn read(maps: &Maps, indexes: &Indexes) -> Result<Self, KernelError> {
        // What is in the rings is not read: those wanted are written anew, because nobody wants an empty one.
        let unknown: Arc<[u16]> = Arc::default();
        let ring = |index| (index, Arc::clone(&unknown));
        let [own, others] = maps.rings(indexes)?;
        Ok(Self(Contents {
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
        }))
    }

    /// Whether a former life has left services.
    pub(super) fn serves(&self) -> bool {
        !self.0.services.is_empty()
    }

    /// Whether the program was told that flows may lack their ports.
    pub(super) const fn lacks_ports(&self) -> bool {
        self.0.config.flags & CONFIG_PORTS_MISSING != 0
    }

    /// Tells the program that no flow lacks its port, if it was told otherwise.
    pub(super) fn write_ports_are_there(&mut self, maps: &Maps) -> Result<(), KernelError> {
        if self.lacks_ports() {
            let flags = self.0.config.flags & !CONFIG_PORTS_MISSING;
            let config = Config { flags, ..self.0.config };
            maps.config.put(&0, &config)?;
            self.0.config = config;
        }
        Ok(())
    }

    /// The targets by their numbers.
    pub(super) fn targets(&self) -> impl Iterator<Item = (u32, &Target)> {
        self.0.targets.iter().map(|(number, target)| (*number, target))
    }

    /// Whether there is a ring of this number, whatever is in it.
    pub(super) fn has_ring(&self, index: u32) -> bool {
        self.0.rings.contains_key(&index)
    }

    /// Makes the maps hold `wanted`. After a failure the next call goes on where this one ended.
    pub(super) fn write(&mut self, maps: &Maps, wanted: &Contents) -> Result<(), KernelError> {
        for change in changes(&self.0, wanted) {
            write(maps, &change)?;
            self.0.apply(change);
        }
        Ok(())
    }

    /// Adds what health checks need, and leaves to which targets packets of clients go.
    pub(super) fn write_for_checks(&mut self, maps: &Maps, wanted: &Contents) -> Result<(), KernelError> {
        let mut next = self.0.clone();
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
        self.write(maps, &next)
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
