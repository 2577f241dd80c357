//! The targets of a ring, and where their answers are recognised.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::config::{Dsr, Listen, Protocol};

use super::build::{Builder, Users};
use super::indexes::Kind;
use super::keys::{Family, RingKey, Way};
use super::ring::{other_ring, ring};
use super::{Make, TargetInput, Use};
use crate::forward::abi::{
    Address, Be16, CANDIDATES_MAX, Candidate, ENDPOINTS_MAX, EndpointKey, TARGET_ABSENT, TARGET_DRAINING,
    TARGET_UNHEALTHY, TARGET_UP, Target,
};
use crate::forward::path_mtu;

/// The MTU of a way that is not known.
const MTU: u32 = 1500;

/// What a target is numbered by.
pub(super) fn name(key: &RingKey, target: &TargetInput) -> String {
    let (group, id, address) = (&key.group, &target.id, target.address);
    format!("{group}/{id} {address} {} {}", key.way.name(), key.protocol.name())
}

/// What a target is called whose id is another one's by now. No id has a space, so that neither people nor the other node take one for the other:
/// that keeps flows of it with it, as long as it is kept there too, and refuses them where it is not. (While only one of the nodes has another
/// address for an id, the id alone means one target here and another one there.)
fn former_id(target: &TargetInput) -> String {
    format!("{} {}", target.id, target.address)
}

fn endpoint_key(key: &RingKey, target: &TargetInput) -> EndpointKey {
    let (address, port) = (target.address.ip().into(), Be16(target.address.port()));
    EndpointKey { address, port, protocol: key.protocol.number(), spare: 0 }
}

const FULL: &str = "the kernel's tables have no room for more targets";
const TWIN: &str = "it has no port, and its address is also a target with one of the ports that it is asked for: connections could have the \
    same addresses and ports there; give it its port, too";

impl Builder<'_> {
    /// A ring and its targets. Notes which targets have a place in it, and why others have none.
    pub(super) fn add_ring(
        &mut self,
        key: &RingKey,
        users: &Users,
        fitting: &mut BTreeSet<String>,
        unfit: &mut BTreeMap<String, &'static str>,
    ) {
        let input = self.input;
        let targets = input.groups.get(&key.group).map_or(&[][..], Vec::as_slice);
        let mut used = Vec::new();
        let mut smallest = None;
        let mut ids: BTreeSet<&str> = BTreeSet::new();
        for target in targets {
            let has_id = ids.insert(&target.id);
            let id = if has_id { target.id.clone() } else { former_id(target) };
            let what = format!("{}/{id}", key.group);
            match self.add_target(key, users, target) {
                Ok((number, mtu, use_now)) => {
                    fitting.insert(what);
                    if let Some(ring) = self.indexes.number(Kind::Ring, &key.name()) {
                        self.out.ring_targets.entry(ring).or_default().insert(id.clone(), number);
                    }
                    for service in &users.former {
                        let of_service = self.out.former_targets.entry(*service).or_default();
                        of_service.insert((key.group.clone(), id.clone()), number);
                    }
                    self.out.target_names.insert(number, (key.group.clone(), id));
                    if let Use::Up(share) = use_now
                        && has_id
                    {
                        used.push((target, number, share));
                        smallest = Some(smallest.map_or(mtu, |smallest: u32| smallest.min(mtu)));
                    }
                }
                Err(why) => {
                    unfit.insert(what, why);
                }
            }
        }
        // Packets for a target whose way is not known would be lost, so it gets none while another's is.
        let is_known = |target: &TargetInput| input.hops.contains_key(&(target.address.ip(), users.source));
        let any_known = used.iter().any(|(target, _, _)| is_known(target));
        let members: Vec<(&str, u16, u32)> = used
            .iter()
            .filter(|(target, _, _)| !any_known || is_known(target))
            .map(|(target, number, share)| (target.id.as_str(), *number, *share))
            .collect();
        if let Some(number) = self.indexes.number(Kind::Ring, &key.name()) {
            let (ring, make) = ring(self.indexes, &key.name(), &members, &input.key);
            self.add_other_ring(number, &make, users);
            self.out.rings.insert(u32::from(number), ring);
            self.out.ring_makes.insert(u32::from(number), make);
        }
        // With nat both ends' first packets pass here, and each hears what fits on this way. With `dsr` only the client's do, and what it
        // offers is for what the target sends, which goes another way.
        if let Some(mtu) = smallest.filter(|_| key.way == Way::Nat && key.protocol == Protocol::Tcp) {
            for (service, family) in &users.services {
                let Some(service) = self.out.services.get_mut(service) else { continue };
                service.mss_max = u16::try_from(mtu.saturating_sub(family.headers())).unwrap_or(u16::MAX);
            }
        }
    }

    /// What the other node chooses from, for flows of its that are not known here: where it differs from this node's ring, and while there may
    /// be such flows. Its next ring has a say where a target of the one in use takes no flows: then the flow may have been placed by that.
    fn add_other_ring(&mut self, number: u16, own: &Make, users: &Users) {
        let asked = |service: &u32| self.out.services.get(service).is_some_and(|it| it.other_until != 0);
        if users.services.iter().any(|(service, _)| asked(service))
            && let Some(ring) = self.other_ring(number, own)
        {
            self.out.other_rings.insert(u32::from(number), ring);
            return;
        }
        for (service, _) in &users.services {
            if let Some(service) = self.out.services.get_mut(service) {
                service.other_until = 0;
            }
        }
    }

    fn other_ring(&mut self, number: u16, own: &Make) -> Option<Arc<[u16]>> {
        let known = self.input.other_rings.get(&own.name)?;
        let numbers = self.out.ring_targets.get(&number)?;
        let key = &self.input.key;
        let [in_use, coming] = &mut self.indexes.other_rings;
        let chosen = |make: &&Arc<Make>| !make.members.is_empty();
        let next = known.next.as_ref().filter(chosen);
        let used = known.used.as_ref().filter(chosen);
        if used.or(next)?.hash == own.hash {
            return None;
        }
        let next = next.and_then(|make| other_ring(coming, make, numbers, key));
        let used = used.and_then(|make| other_ring(in_use, make, numbers, key));
        let (used, next) = match (used, next) {
            (Some(used), Some(next)) => (used, next),
            (used, next) => return used.or(next),
        };
        let takes = |number: &u16| {
            let target = self.out.targets.get(&u32::from(*number));
            target.is_some_and(|target| matches!(target.state, TARGET_UP | TARGET_DRAINING))
        };
        let mut last = (0, false);
        let slot = |(used, next): (&u16, &u16)| {
            // Mostly the same few.
            if last.0 != *used {
                last = (*used, takes(used));
            }
            if last.1 { *used } else { *next }
        };
        Some(used.iter().zip(next.iter()).map(slot).collect())
    }

    /// A target of a ring: its number, the largest packet that reaches it, and what it is used for.
    fn add_target(
        &mut self,
        key: &RingKey,
        users: &Users,
        target: &TargetInput,
    ) -> Result<(u16, u32, Use), &'static str> {
        let ip = target.address.ip();
        if key.family.is_some_and(|family| family != Family::of(ip)) {
            return Err("no address that is forwarded to it is of its family");
        }
        let port = target.address.port();
        let other = |listen: &Listen| !(listen.is_single() && listen.address.port() == port);
        if key.way != Way::Nat && port != 0 && users.listen.iter().any(other) {
            return Err("dsr leaves ports as they are, and it has another one than its service");
        }
        let mut use_now = target.used;
        if port == 0 && key.way == Way::Nat && matches!(use_now, Use::Up(_)) && self.twins.has(ip, key, users)
        {
            // It may have a place in another ring, and is to be heard of all the same.
            self.leave_out(format!("{}/{}", key.group, target.id), TWIN);
            if !self.indexes.is_known(Kind::Target, &name(key, target)) {
                return Err(TWIN);
            }
            // It was here before the other one, and goes on with the flows that it has.
            use_now = Use::Draining;
        }
        // First of all its number: an endpoint without a target would be one more than there is room for.
        let number = self.indexes.get(Kind::Target, &name(key, target)).ok_or(FULL)?;
        let endpoint = if key.way == Way::Nat { self.add_endpoint(key, users, target)? } else { 0 };
        if key.way == Way::Nat {
            self.add_answering(endpoint_key(key, target), number);
        }
        let hop = self.input.hops.get(&(ip, users.source));
        // With nat what a router says reaches the client, translated. What it says of a tunnel's packet ends at this node.
        let overhead = key.way.overhead(ip);
        let carries_ipv6 = users.services.iter().any(|(_, family)| *family == Family::V6);
        let least = path_mtu::least(ip, overhead, carries_ipv6);
        let path = self.input.paths.get(&ip).filter(|_| key.way.is_tunnel()).map(|path| (*path).max(least));
        let mtu = hop.map_or(MTU, |hop| hop.mtu).min(path.unwrap_or(u32::MAX));
        let mtu = mtu.saturating_sub(overhead);
        let mut made = Target {
            state: match use_now {
                Use::Up(_) => TARGET_UP,
                Use::Draining => TARGET_DRAINING,
                Use::Unhealthy => TARGET_UNHEALTHY,
                Use::Gone => TARGET_ABSENT,
            },
            way: key.way.number(),
            port: if key.way == Way::Nat { Be16(port) } else { Be16(0) },
            endpoint,
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
            address: ip.into(),
            ..Target::default()
        };
        if let Some(hop) = hop {
            made.ifindex = hop.ifindex;
            (made.source_mac, made.destination_mac) = (hop.source_mac, hop.destination_mac);
        }
        if key.way.is_tunnel() {
            self.out.least_paths.insert(u32::from(number), least);
            let source = hop.and_then(|hop| hop.source).filter(|source| source.is_ipv4() == ip.is_ipv4());
            made.source = source.map(Address::from).unwrap_or_default();
            if source.is_none() {
                // Without a near end no packet could be sent.
                made.ifindex = 0;
            }
            if key.way == Way::Dsr(Dsr::Gue) {
                made.gue_port = Be16(self.input.file.kernel.gue_port);
            }
        }
        self.out.targets.insert(u32::from(number), made);
        Ok((number, mtu, use_now))
    }

    /// Notes that a target answers from an endpoint, as those of other groups may.
    fn add_answering(&mut self, key: EndpointKey, number: u16) {
        let one = self.answering.entry(key).or_insert(Some(number));
        *one = one.filter(|one| *one == number);
        let target = one.unwrap_or(0);
        if let Some(endpoint) = self.out.endpoints.get_mut(&key) {
            endpoint.target = target;
        }
    }

    /// Where a target's answers are recognised: the number of its slots, or 0.
    fn add_endpoint(
        &mut self,
        key: &RingKey,
        users: &Users,
        target: &TargetInput,
    ) -> Result<u16, &'static str> {
        let (ip, port) = (target.address.ip(), target.address.port());
        let name = endpoint_key(key, target);
        let mut endpoint = self.out.endpoints.get(&name).copied().unwrap_or_default();
        for (listen, service) in &users.preserved {
            let asked = if port == 0 { 0 } else { listen.address.port() };
            if port != 0 && !listen.is_single() {
                return Err("it has a port, and its service preserves client addresses for a range of ports");
            }
            let candidate =
                Candidate { vip: listen.address.ip().into(), port: Be16(asked), service: *service };
            let known = usize::from(endpoint.candidates_count);
            let mut others = endpoint.candidates[..known].iter();
            if others.any(|it| it.vip == candidate.vip && it.port == candidate.port) {
                continue;
            }
            let Some(place) = endpoint.candidates.get_mut(known).filter(|_| known < CANDIDATES_MAX) else {
                return Err(
                    "it is reached with its clients' addresses through more than 4 addresses and ports",
                );
            };
            *place = candidate;
            endpoint.candidates_count += 1;
        }
        // Flows that go on have what is left.
        for (listen, service) in &users.formerly_preserved {
            let asked = if port == 0 { 0 } else { listen.address.port() };
            let candidate =
                Candidate { vip: listen.address.ip().into(), port: Be16(asked), service: *service };
            let known = usize::from(endpoint.candidates_count);
            let is_new = !endpoint.candidates[..known]
                .iter()
                .any(|it| it.vip == candidate.vip && it.port == candidate.port);
            if let Some(place) =
                endpoint.candidates.get_mut(known).filter(|_| is_new && known < CANDIDATES_MAX)
            {
                *place = candidate;
                endpoint.candidates_count += 1;
            }
        }
        let ports = !users.translated.is_empty() || users.formerly_translated;
        if ports && endpoint.index == 0 {
            let text = format!("{} {}", target.address, key.protocol.name());
            endpoint.index = self.indexes.get(Kind::Endpoint, &text).ok_or(FULL)?;
            let index = u32::from(endpoint.index);
            self.out.slots.insert(index);
            if ip.is_ipv6() {
                self.out.slots.insert(ENDPOINTS_MAX + index);
            }
        }
        self.out.endpoints.insert(name, endpoint);
        Ok(if ports { endpoint.index } else { 0 })
    }
}
