//! From one plan to the next where a change may fail: what depends on it waits, and nothing else does.
//!
//! In the order of [`changes`] everything comes after what it refers to. A change that fails (the kernel has no memory for a ring, or for the
//! ports towards a target) leaves a gap in that order. From then on each change is looked at: it waits if something is missing in the maps that
//! comes before it in the order and that it depends on. That is always a difference between the maps and the plan, so that nothing waits for
//! ever once nothing fails.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use common::config::Protocol;

use super::super::abi::{
    Address, Candidate, ENDPOINTS_MAX, Endpoint, EndpointKey, Listener, MODE_NAT, Range, SERVICE_ACL,
    SERVICE_PRESERVE_CLIENT, Service, TARGET_DRAINING, TARGET_UP, Target, Vip,
};
use super::changes::{candidates, has_candidate};
use super::{Change, Contents, changes};

/// What has waited is looked at again when something else was done, so many times at most. What waits then does so until the next transition.
const ROUNDS_MAX: u8 = 8;

/// The way from what the maps hold to a plan.
#[derive(Debug)]
pub struct Transition<'p> {
    wanted: &'p Contents,
    left: std::vec::IntoIter<Change>,
    rounds: u8,
    /// Changes are looked at: one has failed, now or in a transition before.
    is_careful: bool,
    /// Something was handed out in this round.
    has_moved: bool,
    failed: Vec<Change>,
    held: usize,
    /// Services of which a change of the access list has failed, or waits.
    lists: BTreeSet<u16>,
    members: Members,
}

impl<'p> Transition<'p> {
    /// From what the maps hold now, which is an earlier plan or, with `is_partial`, as much of it as could be done.
    #[must_use]
    pub fn new(now: &Contents, wanted: &'p Contents, is_partial: bool) -> Self {
        Self {
            wanted,
            left: changes(now, wanted).into_iter(),
            rounds: 1,
            is_careful: is_partial,
            has_moved: false,
            failed: Vec::new(),
            held: 0,
            lists: BTreeSet::new(),
            members: Members::default(),
        }
    }

    /// The next change, by what the maps hold now: with all that was handed out before, but for what has failed.
    pub fn step(&mut self, now: &Contents) -> Option<Change> {
        loop {
            let Some(change) = self.left.next() else {
                if self.held == 0 || !self.has_moved || self.rounds == ROUNDS_MAX {
                    return None;
                }
                self.begin_again(now);
                continue;
            };
            if self.failed.contains(&change) {
                self.note_list(&change);
                continue;
            }
            let possible = if self.is_careful && self.must_wait(now, &change) {
                self.held += 1;
                self.note_list(&change);
                self.part(now, &change)
            } else {
                Some(change)
            };
            if possible.is_some() {
                self.has_moved = true;
                return possible;
            }
        }
    }

    /// The change handed out last has failed. It is not handed out again.
    pub fn failed(&mut self, change: Change) {
        self.is_careful = true;
        self.note_list(&change);
        self.failed.push(change);
    }

    /// How many changes wait for those that have failed.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.held
    }

    /// Whether nothing has failed and nothing waits.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.failed.is_empty() && self.held == 0
    }

    fn begin_again(&mut self, now: &Contents) {
        self.left = changes(now, self.wanted).into_iter();
        self.rounds += 1;
        self.has_moved = false;
        self.held = 0;
        self.lists.clear();
    }

    /// Of an access list all waits that comes after what is missing.
    fn note_list(&mut self, change: &Change) {
        if let Change::Acl(key, _) | Change::NoAcl(key) = change {
            self.lists.insert(key.service.0);
        }
    }

    /// What can be done of a change that waits: the way to a target, and whether it is well, wait for nothing.
    fn part(&self, now: &Contents, change: &Change) -> Option<Change> {
        let parts: Vec<Change> = match change {
            Change::Target(index, it) => {
                let before = now.targets.get(index).filter(|before| is_same(before, it))?;
                let with_ports = Target { endpoint: before.endpoint, ..*it };
                let in_its_state = Target { state: before.state, ..with_ports };
                let parts = [with_ports, in_its_state].into_iter().filter(|part| part != before);
                parts.map(|part| Change::Target(*index, part)).collect()
            }
            Change::Endpoint(key, it) => {
                let before = now.endpoints.get(key);
                let part = Endpoint { index: before.map_or(0, |before| before.index), ..*it };
                if before == Some(&part) { Vec::new() } else { vec![Change::Endpoint(*key, part)] }
            }
            _ => Vec::new(),
        };
        let look = Look { now, wanted: self.wanted, members: &self.members };
        parts.into_iter().find(|part| !look.must_wait(part) && !self.failed.contains(part))
    }

    fn must_wait(&mut self, now: &Contents, change: &Change) -> bool {
        self.members.follow(now);
        let waits_for_list = match change {
            Change::Acl(key, _) | Change::NoAcl(key) => self.lists.contains(&key.service.0),
            Change::Service(index, it) => {
                let had_one = now.services.get(index).is_some_and(has_list);
                has_list(it) && !had_one && u16::try_from(*index).is_ok_and(|it| self.lists.contains(&it))
            }
            // What is there no longer is there for all that is left; and it harms nobody.
            Change::Config(it) => now.config.flags & !it.flags != 0 && !self.is_whole(),
            Change::ServicePorts(it) => now.service_ports.and(it) != *it && !self.is_whole(),
            _ => false,
        };
        waits_for_list || Look { now, wanted: self.wanted, members: &self.members }.must_wait(change)
    }
}

/// Who is in the rings that the maps hold.
#[derive(Debug, Default)]
struct Members {
    own: BTreeMap<u32, Ring>,
    others: BTreeMap<u32, Ring>,
}

#[derive(Debug)]
struct Ring {
    ring: Arc<[u16]>,
    targets: BTreeSet<u16>,
}

impl Ring {
    /// What a former life has left is not known: it may be anything.
    fn may_have(&self, target: u16) -> bool {
        self.ring.is_empty() || self.targets.contains(&target)
    }
}

impl Members {
    fn follow(&mut self, now: &Contents) {
        follow(&mut self.own, &now.rings);
        follow(&mut self.others, &now.other_rings);
    }

    /// Whether new flows may go to a target.
    fn may_choose(&self, target: u16) -> bool {
        self.own.values().any(|ring| ring.may_have(target))
    }

    /// Whether any flows may go to it by a ring.
    fn may_name(&self, target: u16) -> bool {
        self.may_choose(target) || self.others.values().any(|ring| ring.may_have(target))
    }
}

fn follow(known: &mut BTreeMap<u32, Ring>, rings: &BTreeMap<u32, Arc<[u16]>>) {
    known.retain(|index, it| rings.get(index).is_some_and(|ring| Arc::ptr_eq(ring, &it.ring)));
    for (index, ring) in rings {
        let fresh = || Ring { ring: Arc::clone(ring), targets: members(ring) };
        known.entry(*index).or_insert_with(fresh);
    }
}

/// The targets of a ring.
fn members(ring: &[u16]) -> BTreeSet<u16> {
    let (mut found, mut last) = (BTreeSet::new(), 0);
    // Often the same one after the other.
    for &target in ring {
        if target != last {
            last = target;
            found.insert(target);
        }
    }
    found.remove(&0);
    found
}

/// A look at what a change depends on.
#[derive(Clone, Copy, Debug)]
struct Look<'l> {
    now: &'l Contents,
    wanted: &'l Contents,
    members: &'l Members,
}

impl Look<'_> {
    /// Whether something is missing that a change depends on.
    fn must_wait(&self, change: &Change) -> bool {
        match change {
            Change::Target(index, it) => self.target_waits(*index, it),
            Change::Endpoint(key, it) => self.endpoint_waits(key, it),
            Change::Ring(index, ring) => self.ring_waits(*index, ring),
            Change::OtherRing(_, ring) => members(ring).into_iter().any(|target| !self.is_known(target)),
            Change::Service(index, it) => self.service_waits(*index, it),
            Change::Listener(key, it) => {
                self.is_missing(it.service, key.address, it.vip)
                    || !self.now.service_ports.contains(key.port.0)
            }
            Change::Vip(address, it) => self.vip_waits(*address, it),
            Change::NoListener(key) => {
                // Its port may be one of a range now.
                let wanted = self.wanted.vips.get(&key.address);
                wanted.is_some_and(|it| covers(it, key) && self.now.vips.get(&key.address) != Some(it))
            }
            Change::VipAddress(index, it) => {
                let before = self.now.vip_addresses.get(index);
                before.is_some_and(|before| before.address != it.address) && self.is_named(*index)
            }
            Change::NoVipAddress(index) => self.is_named(*index),
            Change::NoService(index) => self.reached().contains(index),
            Change::NoAcl(key) => {
                let index = u32::from(key.service.0);
                self.now.services.get(&index).is_some_and(has_list)
                    && !self.wanted.services.get(&index).is_some_and(has_list)
            }
            Change::NoOtherRing(index) => {
                let asks = |it: &Service| u32::from(it.ring) == *index && it.other_until != 0;
                self.now.services.values().any(asks)
            }
            Change::NoRing(index) => self.now.services.values().any(|it| u32::from(it.ring) == *index),
            Change::NoEndpoint(key) => self.answers_somebody(key),
            Change::NoTarget(index) => small(*index).is_some_and(|target| {
                self.members.may_name(target) || self.now.endpoints.values().any(|it| it.target == target)
            }),
            Change::NoSlots(index) => {
                let is_its = |endpoint: u16| u32::from(endpoint) == index % ENDPOINTS_MAX;
                self.now.targets.values().any(|it| is_its(it.endpoint))
                    || self.now.endpoints.values().any(|it| is_its(it.index))
            }
            Change::Slots(_)
            | Change::Acl(..)
            | Change::Config(_)
            | Change::ServicePorts(_)
            | Change::NoVip(_) => false,
        }
    }

    fn target_waits(&self, index: u32, it: &Target) -> bool {
        let Some(number) = small(index) else { return false };
        if !self.has_slots(it.endpoint, it.address) {
            return true;
        }
        let Some(before) = self.now.targets.get(&index) else {
            return it.state == TARGET_DRAINING && self.members.may_choose(number);
        };
        // A number has come to stand for another one, and a ring that could not be written means the one before.
        if !is_same(before, it) && self.members.may_name(number) {
            return true;
        }
        let loses_ports = before.endpoint != 0 && it.endpoint == 0;
        (it.state == TARGET_DRAINING && self.members.may_choose(number))
            || (loses_ports && self.gives_ports(number))
    }

    /// Whether new flows get ports towards a target.
    fn gives_ports(&self, target: u16) -> bool {
        let gives = |index: &u32| {
            let service = self.now.services.get(index).filter(|it| has_ports(it));
            let ring = service.and_then(|it| self.members.own.get(&u32::from(it.ring)));
            ring.is_some_and(|ring| ring.may_have(target))
        };
        self.reached().iter().any(gives)
    }

    fn endpoint_waits(&self, key: &EndpointKey, it: &Endpoint) -> bool {
        if !self.has_slots(it.index, key.address) || (it.target != 0 && !self.is_there(it.target)) {
            return true;
        }
        let Some(before) = self.now.endpoints.get(key) else { return false };
        let is_used = || self.now.targets.values().any(|target| target.endpoint == before.index);
        if before.index != 0 && it.index != before.index && is_used() {
            return true;
        }
        // Of a service that is to go, but is asked still.
        let reached = self.reached();
        let is_asked = |candidate: &Candidate| {
            let service = u32::from(candidate.service);
            reached.contains(&service) && !self.wanted.services.contains_key(&service)
        };
        candidates(before).iter().any(|candidate| !has_candidate(it, candidate) && is_asked(candidate))
    }

    fn ring_waits(&self, index: u32, ring: &[u16]) -> bool {
        let other = self.wanted.other_rings.get(&index);
        if !self.has_flags() || other.is_some_and(|it| self.now.other_rings.get(&index) != Some(it)) {
            return true;
        }
        let is_to_ask = |(number, it): (&u32, &Service)| {
            let now = self.now.services.get(number).filter(|now| now.ring == it.ring);
            u32::from(it.ring) == index
                && it.other_until != 0
                && now.is_some_and(|now| now.other_until != it.other_until)
        };
        if self.wanted.services.iter().any(is_to_ask) {
            return true;
        }
        let mut users = self.wanted.services.values().chain(self.now.services.values());
        let translates = users.any(|it| u32::from(it.ring) == index && it.mode == MODE_NAT);
        let must_wait = |target: u16| !self.takes_new(target) || (translates && !self.answers(target));
        members(ring).into_iter().any(must_wait)
    }

    fn service_waits(&self, index: u32, it: &Service) -> bool {
        let ring = u32::from(it.ring);
        if !self.has_flags()
            || !self.now.rings.contains_key(&ring)
            || (it.other_until != 0 && !self.now.other_rings.contains_key(&ring))
        {
            return true;
        }
        let before = self.now.services.get(&index);
        if before.is_some_and(|before| (before.ring, before.mode) == (it.ring, it.mode)) {
            return false;
        }
        self.now.rings.get(&ring) != self.wanted.rings.get(&ring) || self.is_unanswered(it)
    }

    fn vip_waits(&self, address: Address, it: &Vip) -> bool {
        let lacks_ports =
            |range: &Range| (range.first..=range.last).any(|port| !self.now.service_ports.contains(port));
        let is_missing =
            |range: &Range| self.is_missing(range.service, address, it.index) || lacks_ports(range);
        if ranges(it).iter().any(is_missing) {
            return true;
        }
        if self.now.vip_addresses.get(&u32::from(it.index)).is_none_or(|back| back.address != address) {
            return true;
        }
        // A port of one of its ranges may be somebody's own now.
        let Some(before) = self.now.vips.get(&address) else { return false };
        let mut listeners = self.wanted.listeners.iter().filter(|(key, _)| key.address == address);
        listeners.any(|(key, it)| covers(before, key) && self.now.listeners.get(key) != Some(it))
    }

    /// Whether a service cannot be reached at an address yet.
    fn is_missing(&self, service: u16, address: Address, vip: u16) -> bool {
        let index = u32::from(service);
        let Some(now) = self.now.services.get(&index) else { return true };
        let back = self.now.vip_addresses.get(&u32::from(vip));
        let lacks_list = self.wanted.services.get(&index).is_some_and(has_list) && !has_list(now);
        !self.has_flags()
            || back.is_none_or(|back| back.address != address)
            || lacks_list
            || self.is_unanswered(now)
    }

    /// Whether answers of a target of a service would be nobody's.
    fn is_unanswered(&self, service: &Service) -> bool {
        let ring = self.members.own.get(&u32::from(service.ring));
        service.mode == MODE_NAT
            && ring.is_some_and(|ring| ring.targets.iter().any(|target| !self.answers(*target)))
    }

    /// Whether it is known whose a target's answers are, as far as it is still wanted.
    fn answers(&self, target: u16) -> bool {
        let Some(wanted) = self.wanted.targets.get(&u32::from(target)) else { return true };
        let now = self.now.targets.get(&u32::from(target));
        if wanted.endpoint != 0 && now.is_none_or(|now| now.endpoint != wanted.endpoint) {
            return false;
        }
        let keys = [Protocol::Tcp, Protocol::Udp].map(|protocol| {
            let (address, port) = (wanted.address, wanted.port);
            EndpointKey { address, port, protocol: protocol.number(), spare: 0 }
        });
        let is_ready = |key: &EndpointKey| {
            // Of the two protocols that with its ports is its own.
            let is_its = |it: &&Endpoint| wanted.endpoint == 0 || it.index == wanted.endpoint;
            let Some(endpoint) = self.wanted.endpoints.get(key).filter(is_its) else { return true };
            self.now.endpoints.get(key).is_some_and(|now| {
                (wanted.endpoint == 0 || now.index == endpoint.index) && has_candidates(now, endpoint)
            })
        };
        keys.iter().any(|key| self.now.endpoints.contains_key(key)) && keys.iter().all(is_ready)
    }

    /// Whether a number stands for the target that it is to stand for.
    fn is_known(&self, target: u16) -> bool {
        let index = u32::from(target);
        let now = self.now.targets.get(&index);
        now.is_some_and(|now| self.wanted.targets.get(&index).is_some_and(|wanted| is_same(now, wanted)))
    }

    /// Whether a target can be in a ring.
    fn takes_new(&self, target: u16) -> bool {
        let now = self.now.targets.get(&u32::from(target));
        self.is_known(target) && now.is_some_and(|now| now.state == TARGET_UP)
    }

    /// Whether new flows go to a target that answers from here, by a ring that is to be without it.
    fn answers_somebody(&self, key: &EndpointKey) -> bool {
        let is_left = |ring: &u32| self.now.rings.get(ring) != self.wanted.rings.get(ring);
        let mut answering =
            self.now.targets.iter().filter(|(_, it)| (it.address, it.port) == (key.address, key.port));
        answering.any(|(index, _)| {
            let Some(target) = small(*index) else { return false };
            self.members.own.iter().any(|(ring, it)| it.may_have(target) && is_left(ring))
        })
    }

    fn is_there(&self, target: u16) -> bool {
        self.now.targets.contains_key(&u32::from(target))
    }

    /// Whether a VIP's number is in use.
    fn is_named(&self, vip: u32) -> bool {
        self.now.listeners.values().any(|it| u32::from(it.vip) == vip)
            || self.now.vips.values().any(|it| u32::from(it.index) == vip)
    }

    /// Whether an endpoint's arrays are there, if it has a number.
    fn has_slots(&self, endpoint: u16, address: Address) -> bool {
        let (index, slots) = (u32::from(endpoint), &self.now.slots);
        endpoint == 0
            || (slots.contains(&index) && (address.is_ipv4() || slots.contains(&(ENDPOINTS_MAX + index))))
    }

    /// Whether the program has been told to look for all that is wanted.
    fn has_flags(&self) -> bool {
        self.wanted.config.flags & !self.now.config.flags == 0
    }

    /// The services that a packet can be for.
    fn reached(&self) -> BTreeSet<u32> {
        let exact = self.now.listeners.values().map(|it| it.service);
        let in_ranges = self.now.vips.values().flat_map(ranges).map(|range| range.service);
        exact.chain(in_ranges).map(u32::from).collect()
    }
}

fn small(index: u32) -> Option<u16> {
    u16::try_from(index).ok()
}

const fn has_list(service: &Service) -> bool {
    service.flags & SERVICE_ACL != 0
}

/// Whether connections get ports towards targets.
const fn has_ports(service: &Service) -> bool {
    service.mode == MODE_NAT && service.flags & SERVICE_PRESERVE_CLIENT == 0
}

/// Whether both are the same target.
fn is_same(one: &Target, other: &Target) -> bool {
    (one.address, one.port, one.way) == (other.address, other.port, other.way)
}

/// Whether an endpoint stands behind all that another one does.
fn has_candidates(now: &Endpoint, wanted: &Endpoint) -> bool {
    candidates(wanted).iter().all(|candidate| has_candidate(now, candidate))
}

/// What counts of a VIP's ranges.
fn ranges(vip: &Vip) -> &[Range] {
    vip.ranges.get(..usize::from(vip.ranges_count)).unwrap_or(&vip.ranges)
}

/// Whether a listener's port is in a range of its VIP.
fn covers(vip: &Vip, key: &Listener) -> bool {
    let has =
        |range: &Range| range.protocol == key.protocol && (range.first..=range.last).contains(&key.port.0);
    ranges(vip).iter().any(has)
}

impl Contents {
    /// What of this plan is in `now`, which is what the maps hold, and who listens there: only what is there can have flows.
    #[must_use]
    pub fn as_far_as(&self, now: &Self) -> Self {
        let mut there = self.clone();
        there.listeners.clone_from(&now.listeners);
        there.vips.clone_from(&now.vips);
        there.services.retain(|index, it| {
            now.services.get(index).is_some_and(|now| (now.mode, now.ring) == (it.mode, it.ring))
        });
        there.targets.retain(|index, it| {
            now.targets.get(index).is_some_and(|now| is_same(now, it) && now.endpoint == it.endpoint)
        });
        there
    }

    /// What a change is about, by the names of this plan; for people.
    #[must_use]
    pub fn subject(&self, change: &Change) -> String {
        let target = |index: &u32| {
            let (group, id) = self.target_names.get(&small(*index)?)?;
            Some(format!("target {group}/{id}"))
        };
        let ring = |index: &u32| Some(format!("targets of {}", self.ring_makes.get(index)?.name));
        let service = |index: u16| Some(format!("service {}", self.service_names.get(&index)?));
        let slots = |index: &u32| {
            let mut endpoints = self.endpoints.iter();
            let (key, _) = endpoints.find(|(_, it)| u32::from(it.index) == index % ENDPOINTS_MAX)?;
            Some(format!("ports towards {}", SocketAddr::new(key.address.ip(), key.port.0)))
        };
        let subject = match change {
            Change::Slots(index) | Change::NoSlots(index) => slots(index),
            Change::Target(index, _) | Change::NoTarget(index) => target(index),
            Change::Ring(index, _) | Change::OtherRing(index, _) => ring(index),
            Change::Service(index, _) => small(*index).and_then(service),
            Change::Acl(key, _) | Change::NoAcl(key) => service(key.service.0),
            Change::Listener(key, _) | Change::NoListener(key) => {
                Some(SocketAddr::new(key.address.ip(), key.port.0).to_string())
            }
            Change::Endpoint(key, _) | Change::NoEndpoint(key) => {
                Some(format!("answers of {}", SocketAddr::new(key.address.ip(), key.port.0)))
            }
            Change::Vip(address, _) | Change::NoVip(address) => Some(address.ip().to_string()),
            _ => None,
        };
        subject.unwrap_or_else(|| "kernel forwarding".to_owned())
    }
}
