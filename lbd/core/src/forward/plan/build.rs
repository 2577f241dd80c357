//! Building a plan.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use common::config::{self, Forwarding, Listen, Method, OnUnhealthy, Protocol, RateKey, RateScope};
use common::time::Duration;
use ipnet::IpNet;

use super::indexes::Kind;
use super::keys::{Family, RingKey};
use super::twins::Twins;
use super::{Contents, Indexes, Input, LeftOut, origin};
use crate::forward::abi::{
    Acl, AclKey, Address, Be16, CONFIG_HAS_ACL, CONFIG_HAS_ANY_PORT, CONFIG_HAS_NAT, CONFIG_REPLICATED,
    EndpointKey, Listener, Listening, MODE_DSR, MODE_NAT, RANGES_MAX, Range, SERVICE_ACL, SERVICE_AFFINITY,
    SERVICE_HASH_SOURCE, SERVICE_PRESERVE_CLIENT, SERVICE_RESET_UNHEALTHY, SERVICE_SOURCE_RATE,
    SERVICE_SOURCE_RATE_PAIR, Service, Ticks, VipAddress, ticks_multiplier, ticks_of,
};

/// How long a flow that was reset is remembered.
const RESET: Duration = Duration::from_secs(10);

/// Bits of an access list's key in front of the network's.
const ACL_SERVICE_BITS: u32 = 16;

/// What to write into the maps. Names get numbers from `indexes`, and those that are not asked for lose them in time.
pub fn contents(input: &Input<'_>, indexes: &mut Indexes) -> Contents {
    indexes.begin();
    let mut builder = Builder::new(input, indexes);
    for service in input.file.services.iter().filter(|service| service.mode.in_kernel()) {
        builder.add_service(service);
    }
    builder.finish()
}

/// Who uses a ring.
#[derive(Clone, Debug, Default)]
pub(super) struct Users {
    /// Where packets arrive whose flows get ports of the VIP.
    pub(super) translated: Vec<Listen>,
    /// Where packets arrive whose source stays, with the service's number.
    pub(super) preserved: Vec<(Listen, u16)>,
    /// Where packets arrive.
    pub(super) listen: Vec<Listen>,
    /// The services, to be told the largest segment.
    pub(super) services: Vec<(u32, Family)>,
    /// Services of which no new flow comes.
    pub(super) former: Vec<u16>,
    /// Whether some of these have flows with ports of the VIP.
    pub(super) formerly_translated: bool,
    /// Where packets of their flows arrive whose source stays.
    pub(super) formerly_preserved: Vec<(Listen, u16)>,
    /// The source that the ways to the targets are looked up for.
    pub(super) source: Option<IpAddr>,
}

pub(super) struct Builder<'a> {
    pub(super) input: &'a Input<'a>,
    pub(super) indexes: &'a mut Indexes,
    pub(super) out: Contents,
    rings: BTreeMap<RingKey, Users>,
    ranges: BTreeMap<Address, Vec<Range>>,
    left_out: BTreeSet<LeftOut>,
    pub(super) twins: Twins,
    /// The target that answers from an endpoint; none if there are several.
    pub(super) answering: BTreeMap<EndpointKey, Option<u16>>,
}

impl<'a> Builder<'a> {
    fn new(input: &'a Input<'a>, indexes: &'a mut Indexes) -> Self {
        let mut out = Contents::default();
        out.config.set_hash_key(&input.key);
        out.config.ticks_multiplier = ticks_multiplier(input.clock.hz());
        (out.config.jiffy_ns, out.config.boot_offset_ns) = (input.clock.jiffy_ns, input.clock.boot_offset_ns);
        out.config.node = input.node;
        if input.file.is_replicated() {
            out.config.flags |= CONFIG_REPLICATED;
        }
        let kernel = &input.file.kernel;
        out.config.new_flows_per_tick = (kernel.new_flows_per_second / Ticks::PER_SECOND).max(1);
        out.config.trace_every = kernel.trace_every;
        out.config.drain_ns = u64::try_from(kernel.drain_timeout.as_nanos()).unwrap_or(u64::MAX / 4);
        for vrrp in &input.file.vrrp {
            if let Some(index) = indexes.get(Kind::Instance, &vrrp.name) {
                out.instances.insert(vrrp.name.clone(), u32::from(index));
            }
        }
        let (rings, ranges, left_out) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let (twins, answering) = (Twins::default(), BTreeMap::new());
        Self { input, indexes, out, rings, ranges, left_out, twins, answering }
    }

    pub(super) fn leave_out(&mut self, what: impl Into<String>, why: &'static str) {
        self.left_out.insert(LeftOut { what: what.into(), why });
    }

    fn add_service(&mut self, service: &config::Service) {
        let Some(forwarding) = service.forwarding else { return };
        let mut parts: BTreeMap<(Protocol, Family, Option<&String>), Vec<&Listen>> = BTreeMap::new();
        for listen in &service.listen {
            let family = Family::of(listen.address.ip());
            parts.entry((listen.protocol, family, listen.instance.as_ref())).or_default().push(listen);
        }
        // A client has one rate, whichever address of the service it asks.
        let mut counts_as = None;
        for ((protocol, family, instance), listen) in parts {
            let place = instance.map_or("", String::as_str);
            // With other addresses at the targets it is another one: flows of before would hang, since nobody takes their answers for theirs.
            let source = if forwarding.method == (Method::Nat { preserve_client_ip: true }) {
                " preserved"
            } else {
                ""
            };
            let name = format!("{} {} {} {place}{source}", service.name, protocol.name(), family.name());
            let other_until = self.input.other_until.get(place).map_or(0, |until| until.of(protocol));
            let instance = match instance.map(|name| self.out.instances.get(name)) {
                None => Some(0),
                Some(index) => index.and_then(|index| u8::try_from(*index).ok()),
            };
            // It is the same for all of them.
            let Some(ring) = listen.first().map(|listen| {
                RingKey::of(service, forwarding.method, listen).to(self.input.former.serving(service))
            }) else {
                continue;
            };
            let number = self.indexes.get(Kind::Service, name.trim_end());
            let ring_number = self.indexes.get(Kind::Ring, &ring.name());
            let (Some(instance), Some(number), Some(ring_number)) = (instance, number, ring_number) else {
                self.leave_out(service.name.clone(), "the kernel's tables have no room for more services");
                continue;
            };
            let mut made = self.service(service, &forwarding, instance, ring_number);
            made.other_until = other_until;
            made.counts_as = *counts_as.get_or_insert(number);
            if !(service.access.allow.is_empty() && service.access.deny.is_empty()) {
                made.flags |= SERVICE_ACL;
                self.add_access(&service.access, number, family);
            }
            self.out.services.insert(u32::from(number), made);
            self.out.service_names.insert(number, service.name.clone());
            for group in self.input.former.others(service) {
                let users = self.rings.entry(ring.to(group)).or_default();
                users.former.push(number);
                match forwarding.method {
                    Method::Nat { preserve_client_ip: true } => {
                        users.formerly_preserved.extend(listen.iter().map(|it| ((*it).clone(), number)));
                    }
                    Method::Nat { .. } => users.formerly_translated = true,
                    Method::Dsr(_) => {}
                }
            }
            self.use_ring(ring, &forwarding, (number, family), &listen);
            for listen in listen {
                self.add_listen(listen, number, instance);
            }
        }
    }

    /// A service without what depends on its targets.
    fn service(
        &self,
        service: &config::Service,
        forwarding: &Forwarding,
        instance: u8,
        ring: u16,
    ) -> Service {
        let timeout = &forwarding.timeout;
        let mut made = Service {
            mode: if matches!(forwarding.method, Method::Nat { .. }) { MODE_NAT } else { MODE_DSR },
            instance,
            ring,
            established_ticks: ticks_of(timeout.established),
            udp_ticks: ticks_of(timeout.datagrams),
            half_open_ticks: ticks_of(timeout.half_open),
            closing_ticks: ticks_of(timeout.closing),
            reset_ticks: ticks_of(RESET),
            ..Service::default()
        };
        if (forwarding.method == Method::Nat { preserve_client_ip: true }) {
            made.flags |= SERVICE_PRESERVE_CLIENT;
        }
        if forwarding.on_unhealthy == OnUnhealthy::Reset {
            made.flags |= SERVICE_RESET_UNHEALTHY;
        }
        if let Some(rate) = service.rates.of_each.filter(|rate| rate.key == RateKey::SourceIp) {
            made.flags |= SERVICE_SOURCE_RATE;
            (made.source_rate, made.source_rate_ticks) = (rate.requests, ticks_of(rate.per).max(1));
            if rate.scope == RateScope::Pair {
                made.flags |= SERVICE_SOURCE_RATE_PAIR;
            }
        }
        let choice = self.input.former.choice(self.input.file, service);
        if choice.by_source {
            made.flags |= SERVICE_HASH_SOURCE;
        }
        if let Some(ttl) = choice.sticky {
            made.flags |= SERVICE_AFFINITY;
            made.affinity_ticks = ticks_of(ttl);
        }
        made
    }

    /// The networks of the family, and what becomes of all others.
    fn add_access(&mut self, access: &config::Access, service: u16, family: Family) {
        self.out.config.flags |= CONFIG_HAS_ACL;
        let mut add = |network: Option<IpNet>, allowed: bool| {
            let (bits, address) = match network {
                None => (0, Address::default()),
                Some(IpNet::V4(net)) => (96 + u32::from(net.prefix_len()), IpAddr::V4(net.network()).into()),
                Some(IpNet::V6(net)) => (u32::from(net.prefix_len()), IpAddr::V6(net.network()).into()),
            };
            let key = AclKey {
                prefix_length: ACL_SERVICE_BITS + bits,
                service: Be16(service),
                address,
                ..AclKey::default()
            };
            self.out.acl.insert(key, Acl { allowed: u32::from(allowed) });
        };
        add(None, access.allow.is_empty());
        for (list, allowed) in [(&access.allow, true), (&access.deny, false)] {
            let of_family = list.iter().filter(|entry| Family::of(entry.network.addr()) == family);
            of_family.for_each(|entry| add(Some(entry.network), allowed));
        }
    }

    fn use_ring(
        &mut self,
        key: RingKey,
        forwarding: &Forwarding,
        (service, family): (u16, Family),
        listen: &[&Listen],
    ) {
        let users = self.rings.entry(key).or_default();
        users.services.push((u32::from(service), family));
        users.listen.extend(listen.iter().map(|listen| (*listen).clone()));
        match forwarding.method {
            Method::Nat { preserve_client_ip: true } => {
                users.preserved.extend(listen.iter().map(|listen| ((*listen).clone(), service)));
            }
            Method::Nat { .. } => users.translated.extend(listen.iter().map(|listen| (*listen).clone())),
            Method::Dsr(_) => {}
        }
    }

    fn add_listen(&mut self, listen: &Listen, service: u16, instance: u8) {
        let ip = listen.address.ip();
        let address = Address::from(ip);
        let Some(index) = self.indexes.get(Kind::Vip, &ip.to_string()) else {
            self.leave_out(ip.to_string(), "the kernel's tables have no room for more addresses");
            return;
        };
        let vip = self.out.vips.entry(address).or_default();
        (vip.index, vip.instance) = (index, instance);
        let other = listen.instance.as_ref().and_then(|name| self.input.others.get(name));
        let mut back = VipAddress { address, instance, ..VipAddress::default() };
        if let Some(other) = other {
            (back.other_ifindex, back.other_mac, back.own_mac) = (other.ifindex, other.mac, other.own_mac);
        }
        // What nobody owns both nodes serve all the time, and then the one that is asked is as good as the other.
        let until = listen.instance.as_ref().and_then(|name| self.input.other_until.get(name));
        back.other_until = until.map_or(0, |until| until.connections);
        self.out.vip_addresses.insert(u32::from(index), back);
        for port in listen.ports() {
            self.out.service_ports.set(port);
        }
        let (first, protocol) = (listen.address.port(), listen.protocol.number());
        if listen.is_single() {
            let key = Listener { address, port: Be16(first), protocol, spare: 0 };
            self.out.listeners.insert(key, Listening { service, vip: index });
        } else {
            let range = Range { first, last: listen.last_port, service, protocol, spare: 0 };
            self.ranges.entry(address).or_default().push(range);
        }
    }

    fn finish(mut self) -> Contents {
        for (address, mut ranges) in std::mem::take(&mut self.ranges) {
            // The first that fits decides: of ranges within each other the narrower one.
            ranges.sort_by_key(|range| (range.last - range.first, range.first, range.protocol));
            if ranges.len() > RANGES_MAX {
                self.leave_out(address.ip().to_string(), "the kernel looks through 16 port ranges at most");
            }
            let Some(vip) = self.out.vips.get_mut(&address) else { continue };
            for (place, range) in vip.ranges.iter_mut().zip(ranges) {
                *place = range;
                vip.ranges_count += 1;
            }
        }
        let mut fitting = BTreeSet::new();
        let mut unfit: BTreeMap<String, &'static str> = BTreeMap::new();
        let mut rings = std::mem::take(&mut self.rings);
        self.twins = Twins::of(&rings, self.input.groups);
        for (key, origin) in origin::by_ring(self.input.file, self.input.former) {
            if let Some(users) = rings.get_mut(&key) {
                users.source = origin.source();
            }
        }
        for (key, users) in rings {
            self.add_ring(&key, &users, &mut fitting, &mut unfit);
        }
        for (what, why) in unfit.into_iter().filter(|(what, _)| !fitting.contains(what)) {
            self.leave_out(what, why);
        }
        self.add_checks();
        if !self.out.endpoints.is_empty() {
            self.out.config.flags |= CONFIG_HAS_NAT;
        }
        if self.out.endpoints.keys().any(|key| key.port.0 == 0) {
            self.out.config.flags |= CONFIG_HAS_ANY_PORT;
        }
        self.indexes.forget_rings();
        self.out.left_out = self.left_out.into_iter().collect();
        self.out
    }
}
