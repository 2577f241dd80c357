//! Flows as one node tells the other of them, and what the other makes of that.
//!
//! Numbers of services, targets and endpoints are each node's own, so none is told: a flow's service follows from where it goes to,
//! and its target is named by its id. Clocks are each node's own too, so it is told how long a flow lasts, and not since when.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::sync::Arc;

use super::abi::{
    Address, Affinity, AffinityKey, Be16, Flow, FlowKey, Listener, Listening, MODE_NAT, NAT_PORT_FIRST,
    SERVICE_AFFINITY, SERVICE_PRESERVE_CLIENT, STATE_CLIENT_FIN, STATE_ESTABLISHED, STATE_RESET,
    STATE_TARGET_FIN, STATE_UDP, Service, Slot, SlotControl, Target, Vip,
};
use super::plan::Contents;
use super::{counts, expiry};
use common::hash::PlainMap;

/// All bits of a flow's state.
const STATES: u8 = STATE_ESTABLISHED | STATE_CLIENT_FIN | STATE_TARGET_FIN | STATE_RESET | STATE_UDP;

/// A client's tuple: the bytes of a [`FlowKey`], which are the same on every machine.
pub type Tuple = [u8; 40];

/// What is told of a flow beside its tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told<'a> {
    /// The target's group.
    pub group: &'a str,
    /// The target's id.
    pub target: &'a str,
    /// The source port towards the target, if that is not the client's; else 0.
    pub port: u16,
    /// `STATE_*` bits.
    pub state: u8,
    /// How long it lasts from now on if no packet comes, in ticks.
    pub remaining: u32,
}

/// Why a flow that was told has no place here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// No service of this node listens where it goes to.
    #[error("no service of the kernel listens there on this node")]
    NoService,
    /// The service's group has no such target.
    #[error("the service has no such target on this node")]
    NoTarget,
    /// It has a port where the service uses none, or the other way round, or a state that there is not.
    #[error("the service forwards in another way on this node")]
    OtherWay,
}

/// A flow as it is to be in this node's maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// For `flows`.
    pub flow: Flow,
    /// For the slots of an endpoint, by its number and the port's place. They come first: a flow in the table has its port.
    pub slot: Option<(u32, u32, Slot)>,
    /// For `affinity`, if the service's clients come back to their target: where this one is to come back to. That is not told by itself, for it
    /// is what the last flow says that the client has begun.
    pub client: Option<(AffinityKey, Affinity)>,
}

/// Whose targets are in a ring, and their numbers by id.
type Members = (Arc<str>, PlainMap<Arc<str>, u16>);

/// What numbers and addresses stand for on this node. Neither whether a target is well nor the way to it is in this: that changes all the
/// time, and no flow's place with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    listeners: PlainMap<Listener, Listening>,
    vips: PlainMap<Address, Vip>,
    services: PlainMap<u16, (Arc<str>, Service)>,
    /// The endpoint of each target.
    targets: PlainMap<u16, u16>,
    /// Group and id.
    names: PlainMap<u16, (Arc<str>, Arc<str>)>,
    rings: PlainMap<u16, Members>,
    /// The targets of groups that a service has turned away from, by its number.
    former: PlainMap<u16, Vec<Members>>,
    /// Whether there is a service whose rate is the pair's.
    has_pair_rates: bool,
}

impl Places {
    /// Those of a plan.
    #[must_use]
    pub fn of(contents: &Contents) -> Self {
        let shared = |text: &str| -> Arc<str> { Arc::from(text) };
        let names = contents.target_names.iter();
        let names: PlainMap<u16, (Arc<str>, Arc<str>)> =
            names.map(|(number, (group, id))| (*number, (shared(group), shared(id)))).collect();
        let ring = |(ring, targets): (&u16, &BTreeMap<String, u16>)| {
            let group = Arc::clone(&names.get(targets.values().next()?)?.0);
            let numbers = targets.values().filter_map(|it| Some((Arc::clone(&names.get(it)?.1), *it)));
            Some((*ring, (group, numbers.collect())))
        };
        let former = |(service, targets): (&u16, &BTreeMap<(String, String), u16>)| {
            let mut groups: Vec<Members> = Vec::new();
            for number in targets.values() {
                let Some((group, id)) = names.get(number) else { continue };
                if groups.last().is_none_or(|(last, _)| last != group) {
                    groups.push((Arc::clone(group), PlainMap::default()));
                }
                if let Some((_, numbers)) = groups.last_mut() {
                    numbers.insert(Arc::clone(id), *number);
                }
            }
            (*service, groups)
        };
        let small = |index: &u32| u16::try_from(*index).ok();
        let service = |(index, service): (&u32, &Service)| {
            let number = small(index)?;
            // Of the way to targets, and of the time, too.
            let service = Service { mss_max: 0, other_until: 0, ..*service };
            Some((number, (shared(contents.service_names.get(&number)?), service)))
        };
        let target = |(index, target): (&u32, &Target)| Some((small(index)?, target.endpoint));
        Self {
            listeners: contents.listeners.iter().map(|(key, value)| (*key, *value)).collect(),
            vips: contents.vips.iter().map(|(key, value)| (*key, *value)).collect(),
            services: contents.services.iter().filter_map(service).collect(),
            targets: contents.targets.iter().filter_map(target).collect(),
            rings: contents.ring_targets.iter().filter_map(ring).collect(),
            former: contents.former_targets.iter().map(former).collect(),
            has_pair_rates: contents.services.values().any(counts::is_pairs),
            names,
        }
    }

    /// Whether flows may have a place here that had none, or another one, in `before`. What is only gone gives none to any.
    #[must_use]
    pub fn has_more_than(&self, before: &Self) -> bool {
        let members = |(ring, (group, numbers)): (&u16, &Members)| {
            let before = before.rings.get(ring).filter(|(before, _)| before == group);
            before.is_none_or(|(_, before)| has_more(numbers, before))
        };
        has_more(&self.listeners, &before.listeners)
            || has_more(&self.vips, &before.vips)
            || has_more(&self.services, &before.services)
            || has_more(&self.targets, &before.targets)
            || self.rings.iter().any(members)
            || has_more(&self.former, &before.former)
    }

    /// Whether a flow that is here already is to stay as it is, although the other node told of `place` for it: this node's own that was used
    /// later. A restarted `lbd` has such, and one whose program has just noted what is not told yet.
    #[must_use]
    pub const fn keeps(present: &Flow, place: &Place, now: u32) -> bool {
        // On the way a tick may be lost.
        present.copied == 0 && expiry::silence(present, now) + 1 < expiry::silence(&place.flow, now)
    }

    /// Whether nothing is forwarded, or nobody has made a plan yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Whether nobody listens where a flow goes to: its address, or its port, has been taken from the service. Without a plan that is not known.
    #[must_use]
    pub fn is_unheard(&self, key: &FlowKey) -> bool {
        !self.is_empty() && self.service_of(key).is_none()
    }

    /// The name of a service's number.
    #[must_use]
    pub fn service(&self, number: u16) -> Option<&Arc<str>> {
        self.services.get(&number).map(|(name, _)| name)
    }

    /// Whether there is a service whose rate is the pair's.
    #[must_use]
    pub const fn has_pair_rates(&self) -> bool {
        self.has_pair_rates
    }

    /// A service whose rate is the pair's, by the number that its sources are counted by.
    #[must_use]
    pub fn pair_rate(&self, number: u16) -> Option<&Service> {
        let (_, service) = self.services.get(&number)?;
        (counts::is_pairs(service) && service.counts_as == number).then_some(service)
    }

    /// The same by its name. Any of its numbers says what its sources are counted by.
    #[must_use]
    pub fn pair_rate_of(&self, name: &str) -> Option<&Service> {
        let (_, service) = self.services.values().find(|(known, _)| **known == *name)?;
        counts::is_pairs(service).then_some(service)
    }

    /// Whether there is a service of this name or, with a group, such a target.
    #[must_use]
    pub fn knows(&self, (group, name): (Option<&str>, &str)) -> bool {
        match group {
            None => self.services.values().any(|(service, _)| **service == *name),
            Some(group) => self.names.values().any(|(known, id)| **known == *group && **id == *name),
        }
    }

    /// Group and id of a target's number.
    #[must_use]
    pub fn target(&self, number: u16) -> Option<&(Arc<str>, Arc<str>)> {
        self.names.get(&number)
    }

    /// How long a flow lasts from the tick `now` on if no packet comes, in ticks; 0 if its service is gone.
    #[must_use]
    pub fn remaining(&self, flow: &Flow, now: u32) -> u32 {
        self.services.get(&flow.service).map_or(0, |(_, service)| expiry::remaining(flow, service, now))
    }

    /// What is told of a flow of this node at the tick `now`; none if its target is no longer there.
    #[must_use]
    pub fn tell(&self, flow: &Flow, now: u32) -> Option<Told<'_>> {
        let (group, target) = self.target(flow.target)?;
        let (port, state) = (flow.port.0, flow.state);
        Some(Told { group, target, port, state, remaining: self.remaining(flow, now) })
    }

    /// Where a flow that was told belongs here at the tick `now`.
    ///
    /// # Errors
    /// If it has no place: the nodes have different configurations, or one is a reload ahead.
    pub fn place(&self, key: &FlowKey, told: &Told<'_>, now: u32) -> Result<Place, Misfit> {
        let (service_number, _) = self.service_of(key).ok_or(Misfit::NoService)?;
        let (_, service) = self.services.get(&service_number).ok_or(Misfit::NoService)?;
        let of_group = |members: &&Members| *members.0 == *told.group;
        let ring = self.rings.get(&service.ring).filter(of_group);
        let former = || self.former.get(&service_number)?.iter().find(of_group);
        let number = ring.or_else(former).and_then(|(_, numbers)| numbers.get(told.target));
        let (number, endpoint) =
            number.and_then(|number| Some((*number, *self.targets.get(number)?))).ok_or(Misfit::NoTarget)?;
        let has_slots = has_slots(service);
        let wants_port = told.port >= NAT_PORT_FIRST && endpoint != 0;
        if has_slots != wants_port || (!has_slots && told.port != 0) || told.state & !STATES != 0 {
            return Err(Misfit::OtherWay);
        }
        let fresh = Flow {
            seen: now,
            target: number,
            service: service_number,
            port: Be16(told.port),
            state: told.state,
            copied: 1,
            generation: 0,
        };
        let silent = expiry::time_out(&fresh, service).saturating_sub(told.remaining);
        let flow = Flow { seen: now.wrapping_sub(silent), ..fresh };
        let slot = self.slot(key, &flow);
        // To a target of another group nobody comes back.
        let client = (service.flags & SERVICE_AFFINITY != 0 && ring.is_some()).then(|| {
            let expires = now.wrapping_add(service.affinity_ticks);
            let client = AffinityKey { address: key.source, ring: service.ring, spare: 0 };
            (client, Affinity { expires, target: number, spare: 0 })
        });
        Ok(Place { flow, slot, client })
    }

    /// The port of a flow of this node's table, for the slots of an endpoint: by its number and the port's place. None if it has none, or its service
    /// or target is gone.
    #[must_use]
    pub fn slot(&self, key: &FlowKey, flow: &Flow) -> Option<(u32, u32, Slot)> {
        let (_, service) = self.services.get(&flow.service)?;
        let endpoint = *self.targets.get(&flow.target)?;
        let (_, vip) = self.service_of(key)?;
        if !has_slots(service) || endpoint == 0 || flow.port.0 < NAT_PORT_FIRST {
            return None;
        }
        let control = SlotControl { seen: flow.seen, service: flow.service, vip, state: flow.state, lock: 0 };
        let [.., a, b, c, d] = key.source.0;
        let slot = Slot {
            control: control.word(),
            client: [a, b, c, d],
            client_port: key.source_port,
            vip_port: key.destination_port,
        };
        Some((u32::from(endpoint), u32::from(flow.port.0 - NAT_PORT_FIRST), slot))
    }

    /// The service that listens where a flow goes to, and the VIP's number; as the program finds them.
    fn service_of(&self, key: &FlowKey) -> Option<(u16, u16)> {
        let (address, port, protocol) = (key.destination, key.destination_port, key.protocol);
        if let Some(exact) = self.listeners.get(&Listener { address, port, protocol, spare: 0 }) {
            return Some((exact.service, exact.vip));
        }
        let vip = self.vips.get(&address)?;
        let ranges = vip.ranges.iter().take(usize::from(vip.ranges_count));
        let fits = |range: &&super::abi::Range| {
            range.protocol == protocol && (range.first..=range.last).contains(&port.0)
        };
        Some((ranges.into_iter().find(fits)?.service, vip.index))
    }
}

/// Whether flows of a service have ports of their own towards targets.
const fn has_slots(service: &Service) -> bool {
    service.mode == MODE_NAT && service.flags & SERVICE_PRESERVE_CLIENT == 0
}

/// Whether something is in `now` that is not in `before`, or is another there.
fn has_more<K: Eq + Hash, V: PartialEq>(now: &PlainMap<K, V>, before: &PlainMap<K, V>) -> bool {
    now.iter().any(|(key, value)| before.get(key) != Some(value))
}
