//! From one plan to the next, so that no packet in between finds a reference to what is not there.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::abi::{
    Acl, AclKey, Address, Candidate, Config, Endpoint, EndpointKey, Listener, Listening, SERVICE_ACL,
    Service, ServicePorts, TARGET_DRAINING, TARGET_UP, Target, Vip, VipAddress,
};
use super::Contents;

/// One element of a map, written or removed. Elements of arrays are removed by writing zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Makes one of an endpoint's arrays in `slots`.
    Slots(u32),
    /// Writes `targets`.
    Target(u32, Target),
    /// Swaps a ring.
    Ring(u32, Arc<[u16]>),
    /// Swaps one of the other node's rings.
    OtherRing(u32, Arc<[u16]>),
    /// Writes `acl`.
    Acl(AclKey, Acl),
    /// Writes `config`.
    Config(Config),
    /// Writes `services`.
    Service(u32, Service),
    /// Writes `endpoints`.
    Endpoint(EndpointKey, Endpoint),
    /// Writes `vip_addresses`.
    VipAddress(u32, VipAddress),
    /// Writes `service_ports`.
    ServicePorts(ServicePorts),
    /// Writes `listeners`.
    Listener(Listener, Listening),
    /// Writes `vips`.
    Vip(Address, Vip),
    /// Removes from `vips`.
    NoVip(Address),
    /// Removes from `listeners`.
    NoListener(Listener),
    /// Removes from `vip_addresses`.
    NoVipAddress(u32),
    /// Removes from `endpoints`.
    NoEndpoint(EndpointKey),
    /// Removes from `services`.
    NoService(u32),
    /// Removes from `acl`.
    NoAcl(AclKey),
    /// Removes one of the other node's rings.
    NoOtherRing(u32),
    /// Removes a ring.
    NoRing(u32),
    /// Removes from `targets`.
    NoTarget(u32),
    /// Removes one of an endpoint's arrays in `slots`.
    NoSlots(u32),
}

impl Contents {
    /// Does one change. Answers whether anything is different now.
    pub fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::Slots(index) => self.slots.insert(index),
            Change::Target(index, it) => put(&mut self.targets, index, it),
            Change::Ring(index, it) => put(&mut self.rings, index, it),
            Change::OtherRing(index, it) => put(&mut self.other_rings, index, it),
            Change::Acl(key, it) => put(&mut self.acl, key, it),
            Change::Config(it) => std::mem::replace(&mut self.config, it) != it,
            Change::Service(index, it) => put(&mut self.services, index, it),
            Change::Endpoint(key, it) => put(&mut self.endpoints, key, it),
            Change::VipAddress(index, it) => put(&mut self.vip_addresses, index, it),
            Change::ServicePorts(it) => std::mem::replace(&mut self.service_ports, it) != self.service_ports,
            Change::Listener(key, it) => put(&mut self.listeners, key, it),
            Change::Vip(address, it) => put(&mut self.vips, address, it),
            Change::NoVip(address) => self.vips.remove(&address).is_some(),
            Change::NoListener(key) => self.listeners.remove(&key).is_some(),
            Change::NoVipAddress(index) => self.vip_addresses.remove(&index).is_some(),
            Change::NoEndpoint(key) => self.endpoints.remove(&key).is_some(),
            Change::NoService(index) => self.services.remove(&index).is_some(),
            Change::NoAcl(key) => self.acl.remove(&key).is_some(),
            Change::NoOtherRing(index) => self.other_rings.remove(&index).is_some(),
            Change::NoRing(index) => self.rings.remove(&index).is_some(),
            Change::NoTarget(index) => self.targets.remove(&index).is_some(),
            Change::NoSlots(index) => self.slots.remove(&index),
        }
    }
}

fn put<K: Ord, V: PartialEq + Clone>(map: &mut BTreeMap<K, V>, key: K, value: V) -> bool {
    map.insert(key, value.clone()).is_none_or(|before| before != value)
}

/// What to do, in this order, to get from `old` to `new`: what is referred to comes before what refers to it, and goes after it.
#[must_use]
pub fn changes(old: &Contents, new: &Contents) -> Vec<Change> {
    let mut list: Vec<Change> = new.slots.difference(&old.slots).map(|&index| Change::Slots(index)).collect();
    // Who gets a packet has to be known when it answers, so that a target's endpoint is there before any ring has the target.
    let targets: BTreeMap<u32, Target> =
        new.targets.iter().map(|(&index, it)| (index, yet(old, index, it))).collect();
    let endpoints: BTreeMap<EndpointKey, Endpoint> =
        new.endpoints.iter().map(|(&key, it)| (key, answering_yet(old, key, it))).collect();
    list.extend(changed(&old.targets, &targets).map(|(&index, &it)| Change::Target(index, it)));
    list.extend(changed(&old.endpoints, &endpoints).map(|(&key, &it)| Change::Endpoint(key, it)));
    // What one of both has is looked for until the other is in place.
    let config = Config { flags: old.config.flags | new.config.flags, ..new.config };
    if old.config != config {
        list.push(Change::Config(config));
    }
    // A ring takes the kernel some ten milliseconds. Before this node chooses from another one it has to know where flows of the other node are:
    // the role may come in between.
    let others = changed(&old.other_rings, &new.other_rings);
    list.extend(others.map(|(&index, it)| Change::OtherRing(index, Arc::clone(it))));
    let asks = |(&index, service): (&u32, &Service)| {
        let old = old.services.get(&index).filter(|old| old.ring == service.ring)?;
        let more = service.other_until != 0 && service.other_until != old.other_until;
        more.then_some((index, Service { other_until: service.other_until, ..*old }))
    };
    let asking: BTreeMap<u32, Service> = changed(&old.services, &new.services).filter_map(asks).collect();
    list.extend(asking.iter().map(|(&index, &it)| Change::Service(index, it)));
    list.extend(changed(&old.rings, &new.rings).map(|(&index, it)| Change::Ring(index, Arc::clone(it))));
    // Of networks within each other the smallest decides. With the small ones written before those around them, and removed after
    // them, every address is treated at any moment as the old list has it or as the new one has it, in one step.
    list.extend(changed(&old.acl, &new.acl).rev().map(|(&key, &it)| Change::Acl(key, it)));
    let is_looked_at = |key: &AclKey| {
        let service = new.services.get(&u32::from(key.service.0));
        service.is_some_and(|service| service.flags & SERVICE_ACL != 0)
    };
    let (looked_at, others): (Vec<AclKey>, Vec<AclKey>) =
        missing(&old.acl, &new.acl).copied().partition(is_looked_at);
    list.extend(looked_at.into_iter().map(Change::NoAcl));
    let left = changed(&old.services, &new.services).filter(|(index, it)| asking.get(index) != Some(*it));
    list.extend(left.map(|(&index, &it)| Change::Service(index, it)));
    let addresses = changed(&old.vip_addresses, &new.vip_addresses);
    list.extend(addresses.map(|(&index, &it)| Change::VipAddress(index, it)));
    // A port more is no harm, one less hides a service: ports go when the listeners have gone.
    let both = old.service_ports.and(&new.service_ports);
    if old.service_ports != both {
        list.push(Change::ServicePorts(both.clone()));
    }
    list.extend(changed(&old.listeners, &new.listeners).map(|(&key, &it)| Change::Listener(key, it)));
    list.extend(changed(&old.vips, &new.vips).map(|(&key, &it)| Change::Vip(key, it)));

    list.extend(missing(&old.vips, &new.vips).map(|&key| Change::NoVip(key)));
    list.extend(missing(&old.listeners, &new.listeners).map(|&key| Change::NoListener(key)));
    // A service that is to give its connections other addresses at the targets is another one, and gets packets with its listeners: until now
    // the one before has needed what it needs.
    list.extend(changed(&targets, &new.targets).map(|(&index, &it)| Change::Target(index, it)));
    list.extend(changed(&endpoints, &new.endpoints).map(|(&key, &it)| Change::Endpoint(key, it)));
    if new.service_ports != both {
        list.push(Change::ServicePorts(new.service_ports.clone()));
    }
    list.extend(missing(&old.vip_addresses, &new.vip_addresses).map(|&index| Change::NoVipAddress(index)));
    list.extend(missing(&old.services, &new.services).map(|&index| Change::NoService(index)));
    list.extend(others.into_iter().map(Change::NoAcl));
    list.extend(missing(&old.other_rings, &new.other_rings).map(|&index| Change::NoOtherRing(index)));
    list.extend(missing(&old.rings, &new.rings).map(|&index| Change::NoRing(index)));
    list.extend(missing(&old.endpoints, &new.endpoints).map(|&key| Change::NoEndpoint(key)));
    list.extend(missing(&old.targets, &new.targets).map(|&index| Change::NoTarget(index)));
    list.extend(old.slots.difference(&new.slots).map(|&index| Change::NoSlots(index)));
    if new.config != config {
        list.push(Change::Config(new.config));
    }
    list
}

/// A target as it is to be until rings and services are new. One that keeps its flows and gets no more takes new ones until the rings do without it:
/// whoever finds one in a ring that takes none looks only so far for another, and finds none where most places are its own. And where connections
/// get ports of its endpoint, they do until their service says otherwise.
///
/// One that is not well, or whose flows are to end, says so before the rings are without it: its flows move or are reset at once. A new connection
/// that finds it in a ring meanwhile goes to the target of the next place, and is never reset, since it begins with a SYN. If all the places that
/// are looked at are of such targets, it is dropped, and its SYN comes again after a second, when the ring is new: a target that is down would not
/// have answered it either.
fn yet(old: &Contents, index: u32, new: &Target) -> Target {
    let Some(old) = old.targets.get(&index) else { return *new };
    let is_chosen = old.state == TARGET_UP && new.state == TARGET_DRAINING;
    let state = if is_chosen { TARGET_UP } else { new.state };
    Target { state, endpoint: if new.endpoint == 0 { old.endpoint } else { new.endpoint }, ..*new }
}

/// The same of an endpoint, whose answers are for those ports, or for clients of the addresses that it has stood behind.
fn answering_yet(old: &Contents, key: EndpointKey, new: &Endpoint) -> Endpoint {
    let Some(old) = old.endpoints.get(&key) else { return *new };
    let mut made = Endpoint { index: if new.index == 0 { old.index } else { new.index }, ..*new };
    for candidate in candidates(old) {
        let is_known = has_candidate(&made, candidate);
        let place = made.candidates.get_mut(usize::from(made.candidates_count));
        if let Some(place) = place.filter(|_| !is_known) {
            *place = *candidate;
            made.candidates_count += 1;
        }
    }
    made
}

/// What counts of an endpoint's candidates.
pub(super) fn candidates(endpoint: &Endpoint) -> &[Candidate] {
    endpoint.candidates.get(..usize::from(endpoint.candidates_count)).unwrap_or(&endpoint.candidates)
}

/// Whether an endpoint stands behind a candidate's address and port.
pub(super) fn has_candidate(endpoint: &Endpoint, candidate: &Candidate) -> bool {
    candidates(endpoint).iter().any(|it| (it.vip, it.port) == (candidate.vip, candidate.port))
}

/// What is new or different.
fn changed<'m, K: Ord, V: PartialEq>(
    old: &'m BTreeMap<K, V>,
    new: &'m BTreeMap<K, V>,
) -> impl DoubleEndedIterator<Item = (&'m K, &'m V)> {
    new.iter().filter(|(key, value)| old.get(key) != Some(value))
}

/// What is no longer there.
fn missing<'m, K: Ord, V>(old: &'m BTreeMap<K, V>, new: &'m BTreeMap<K, V>) -> impl Iterator<Item = &'m K> {
    old.keys().filter(|key| !new.contains_key(key))
}
