//! What the plan is made from: the groups' targets, the ways to them, and the interfaces that all of it takes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use common::config::{Attach, Config, Dsr, Service, Via};
use lbd_core::forward::plan::{self, Former, Hop, Hops, Known, Origin, TargetInput, Use};
use lbd_core::target::TargetKey;

use super::super::attach::Wanted;
use super::super::view::TroubleView;
use super::super::ways::{NoWay, Way, Ways};
use crate::shared::Shared;
use crate::snapshot::{Snapshot, Target};

/// The services that the kernel forwards.
pub(in super::super) fn services(config: &Config) -> impl Iterator<Item = &Service> + Clone {
    config.services.iter().filter(|service| service.mode.in_kernel())
}

/// Whether answers of targets are translated for clients of a family.
pub(in super::super) fn translates(config: &Config, ipv6: bool) -> bool {
    use common::config::Method;
    let nat = |service: &&Service| {
        service.forwarding.is_some_and(|forwarding| matches!(forwarding.method, Method::Nat { .. }))
    };
    services(config)
        .filter(nat)
        .any(|service| service.listen.iter().any(|listen| listen.address.is_ipv6() == ipv6))
}

/// Whether answers of targets are sent on to clients by the driver's program, which knows no neighbours but those in the kernel's table.
pub(super) fn answers_from_driver(config: &Config) -> bool {
    config.kernel.attach == Attach::Xdp && [false, true].into_iter().any(|ipv6| translates(config, ipv6))
}

/// The targets of the groups that the kernel forwards to, or has forwarded to, those removed whose flows still go on included, behind those
/// that have their ids now.
pub(super) fn groups(
    shared: &Shared,
    snapshot: &Snapshot,
    removed: &[Arc<Target>],
    former: &Former,
) -> BTreeMap<String, Vec<TargetInput>> {
    let serving: BTreeSet<&str> = services(&snapshot.config).map(|service| former.serving(service)).collect();
    let current = services(&snapshot.config).map(|service| service.forward.as_str());
    let names: BTreeSet<&str> =
        former.all().into_iter().chain(serving.iter().copied()).chain(current).collect();
    let now_ms = shared.clock.now_ms();
    let mut groups: BTreeMap<String, Vec<TargetInput>> =
        names.iter().map(|name| ((*name).to_owned(), Vec::new())).collect();
    for group in &snapshot.groups {
        if let Some(targets) = groups.get_mut(&group.config.name) {
            targets.extend(group.targets.iter().filter_map(|target| input(target, false, now_ms)));
        }
    }
    // An id that has stood for several addresses since is the last one's.
    let last: HashMap<(&str, &str), SocketAddr> =
        removed.iter().map(|target| (name(target), target.key.address)).collect();
    let is_last = |target: &&Arc<Target>| last.get(&name(target)) == Some(&target.key.address);
    let (had_it_last, had_it_before): (Vec<_>, Vec<_>) = removed.iter().partition(is_last);
    for target in had_it_last.into_iter().chain(had_it_before) {
        let TargetKey { group, id, address } = &target.key;
        let Some(targets) = groups.get_mut(group) else { continue };
        if targets.iter().any(|it| it.id == *id && it.address == *address) {
            continue;
        }
        let has_successor = targets.iter().any(|it| it.id == *id);
        // A group that serves until another can be reached may be gone from the file, and its targets with it; those of before are not back.
        let is_gone = snapshot.config.target_group(group).is_none();
        let is_back = serving.contains(group.as_str()) && is_gone && target.left_with_group();
        targets.extend(input(target, has_successor || !is_back, now_ms));
    }
    groups
}

/// When the next of the removed targets is to end its flows, in the clock's milliseconds.
pub(super) fn retiring(removed: &[Arc<Target>], now_ms: u64) -> Option<u64> {
    removed
        .iter()
        .filter(|target| target.in_kernel())
        .map(|it| it.close_at_ms())
        .filter(|at_ms| *at_ms > now_ms)
        .min()
}

/// Group and id.
fn name(target: &Target) -> (&str, &str) {
    (&target.key.group, &target.key.id)
}

/// Has services turn to their groups of which a target of each family can be reached; those that they have turned away from get no new flows.
pub(super) fn settle(
    former: &mut Former,
    config: &Config,
    groups: &mut BTreeMap<String, Vec<TargetInput>>,
    hops: &Hops,
    now: common::time::Instant,
) {
    let reached: BTreeSet<IpAddr> = hops.keys().map(|(target, _)| *target).collect();
    // Of each family, for a service may listen on both.
    former.settle(now, |group| {
        let targets = groups.get(group).map_or(&[][..], Vec::as_slice);
        let serving = || {
            targets
                .iter()
                .filter(|target| matches!(target.used, Use::Up(_)))
                .map(|target| target.address.ip())
        };
        let all = |ipv4: bool| {
            let mut of_family = serving().filter(|ip| ip.is_ipv4() == ipv4).peekable();
            of_family.peek().is_none() || of_family.any(|ip| reached.contains(&ip))
        };
        serving().next().is_some() && all(true) && all(false)
    });
    let serving: BTreeSet<&str> = services(config).map(|service| former.serving(service)).collect();
    for (_, targets) in groups.iter_mut().filter(|(name, _)| !serving.contains(name.as_str())) {
        targets.iter_mut().for_each(|target| target.used = keeping(target.used));
    }
}

/// The same of one that gets no new flows. Whether it is well is not for checks to say, which may be others by now: nobody forwards to its group any
/// more.
const fn keeping(used: Use) -> Use {
    match used {
        Use::Up(_) | Use::Draining | Use::Unhealthy => Use::Draining,
        Use::Gone => Use::Gone,
    }
}

fn input(target: &Target, removed: bool, now_ms: u64) -> Option<TargetInput> {
    let close_at_ms = Some(target.close_at_ms()).filter(|at| *at != u64::MAX);
    let known = Known { share: target.share(), failed: target.failed(), close_at_ms, removed };
    let used = known.used(now_ms)?;
    Some(TargetInput { id: target.key.id.clone(), address: target.key.address, used })
}

/// The ways to all targets; what has none is a trouble, and so is one that the kernel does not tell: it keeps the way that it had.
pub(super) fn hops(
    ways: &mut Ways,
    config: &Config,
    former: &Former,
    groups: &BTreeMap<String, Vec<TargetInput>>,
    troubles: &mut Vec<TroubleView>,
) -> Hops {
    let (before, now) = (ways.begin(), Instant::now());
    let mut hops = Hops::new();
    let mut found: HashMap<(IpAddr, Option<IpAddr>), Option<String>> = HashMap::new();
    let mut said: BTreeSet<(String, String)> = BTreeSet::new();
    for origin in plan::origins(config, former) {
        let targets = groups.get(&origin.group).map_or(&[][..], Vec::as_slice);
        for target in targets.iter().filter(|target| origin.is_for(target.address.ip())) {
            let ip = target.address.ip();
            let what = || format!("target {}/{} ({ip})", origin.group, target.id);
            let direction = (ip, origin.source());
            let trouble = found.entry(direction).or_insert_with(|| {
                let (hop, trouble) = match ways.way(ip, origin.source(), &before, now) {
                    Ok(way) if config.kernel.attach == Attach::Xdp && is_vlan(ways, way.index) => {
                        (None, Some(XDP_TO_VLAN.to_owned()))
                    }
                    way => hop(way),
                };
                hops.extend(hop.map(|hop| (direction, hop)));
                trouble
            });
            if let Some(why) = trouble {
                said.insert((what(), why.clone()));
            } else if hops.get(&direction).is_some_and(|hop| !hop.direct) && wants_link(config, &origin.group)
            {
                let why = "`dsr = \"l2\"` takes targets on the same network, and this one is behind a router; use a tunnel";
                said.insert((what(), why.to_owned()));
            }
            let known = hops.get(&direction).cloned();
            for source in origin.sources.iter().skip(1) {
                let other = ways.way(ip, Some(*source), &before, now).ok();
                if let (Some(known), Some(other)) = (&known, other)
                    && (known.ifindex, known.destination_mac) != (other.index, other.destination_mac)
                {
                    said.insert((what(), apart(&origin, *source)));
                }
            }
        }
    }
    troubles.extend(said.into_iter().map(|(what, why)| TroubleView { what, why }));
    // Of what is in use the routers on the ways to clients are the rest.
    if answers_from_driver(config)
        && let Err(why) = ways.use_routers(&before, now)
    {
        troubles.push(TroubleView { what: "routers".to_owned(), why });
    }
    hops
}

/// What is made of a way, and what is wrong with it.
fn hop(way: Result<Way, NoWay>) -> (Option<Hop>, Option<String>) {
    let hop = |way: Way| Hop {
        ifindex: way.index,
        source_mac: way.source_mac,
        destination_mac: way.destination_mac,
        mtu: way.mtu,
        source: way.source,
        direct: way.gateway.is_none(),
    };
    match way {
        Ok(way) => (Some(hop(way)), None),
        // Not known yet is no trouble.
        Err(NoWay::NoNeighbour { patient: true, .. }) => (None, None),
        Err(why) => {
            let text = why.to_string();
            let NoWay::Unknown { last: Some(last), .. } = why else { return (None, Some(text)) };
            (Some(hop(*last)), Some(text))
        }
    }
}

/// Why one way for all is not what the host's rules want.
fn apart(origin: &Origin, other: IpAddr) -> String {
    let first = origin.source().map(|it| it.to_string()).unwrap_or_default();
    format!(
        "by this host's rules what comes from {other} takes another way to it than what comes from {first}, which all of it takes; \
         give the services of {other} a target group of their own"
    )
}

/// Why a driver's program has no way by a VLAN's device.
const XDP_TO_VLAN: &str = "it is reached by a VLAN's interface, by which the driver's program cannot send; \
     use `attach = \"auto\"` under [kernel]";

fn is_vlan(ways: &Ways, index: u32) -> bool {
    ways.link_at(index).is_some_and(|link| link.kind == "vlan")
}

/// Whether a service of a group reaches its targets by their MAC addresses alone.
fn wants_link(config: &Config, group: &str) -> bool {
    services(config).any(|service| service.forward == group && service.dsr() == Some(Dsr::L2))
}

/// Adds what an interface is wanted for, once.
fn add_purpose(purposes: &mut String, purpose: &str) {
    if !purposes.split(", ").any(|known| known == purpose) {
        if !purposes.is_empty() {
            purposes.push_str(", ");
        }
        purposes.push_str(purpose);
    }
}

/// The interfaces that the program is to be on, and whether virtual routers' MAC addresses count there.
pub(super) fn interfaces(
    ways: &Ways,
    config: &Config,
    node: &str,
    hops: &Hops,
    troubles: &mut Vec<TroubleView>,
) -> BTreeMap<u32, (Wanted, bool)> {
    let way = config.kernel.attach;
    let mut wanted: BTreeMap<u32, (Wanted, bool)> = BTreeMap::new();
    let mut no_ethernet: BTreeMap<&str, String> = BTreeMap::new();
    let mut want = |index: u32, purpose: String, virtual_mac: bool| {
        let Some(link) = ways.link_at(index) else { return };
        // The program would take for Ethernet's what is none.
        if !link.is_ethernet() {
            add_purpose(no_ethernet.entry(&link.name).or_default(), &purpose);
            return;
        }
        let fresh = || (Wanted { name: link.name.clone(), way, purpose: String::new() }, false);
        let (interface, virtual_too) = wanted.entry(index).or_insert_with(fresh);
        add_purpose(&mut interface.purpose, &purpose);
        *virtual_too |= virtual_mac;
    };
    let mut trouble = |what: String, why: String| troubles.push(TroubleView { what, why });
    let missing = |name: &str, purpose: &str| {
        (format!("interface {name}"), format!("there is no such interface, for {purpose}"))
    };
    let listens = services(config).flat_map(|service| &service.listen);
    let instances: BTreeSet<&str> = listens.clone().filter_map(|listen| listen.instance.as_deref()).collect();
    for vrrp in config.vrrp.iter().filter(|vrrp| instances.contains(vrrp.name.as_str())) {
        let Some(name) = vrrp.interface.get(node) else { continue };
        let purpose = format!("the virtual IPs of {}", vrrp.name);
        match ways.link(name) {
            Some(link) => want(link.index, purpose, vrrp.virtual_mac),
            None => {
                let (what, why) = missing(name, &purpose);
                trouble(what, why);
            }
        }
    }
    for listen in listens.filter(|listen| listen.instance.is_none()) {
        match ways.holder(listen.address.ip()) {
            Some(index) => want(index, listen.address.ip().to_string(), false),
            None => trouble(listen.to_string(), "no interface has this address".to_owned()),
        }
    }
    for name in config.kernel.interfaces_of(node) {
        match ways.link(name) {
            Some(link) => want(link.index, "the configuration".to_owned(), false),
            None => {
                let (what, why) = missing(name, "[kernel] interfaces");
                trouble(what, why);
            }
        }
    }
    for hop in hops.values() {
        want(hop.ifindex, "targets".to_owned(), false);
    }
    for (name, purpose) in no_ethernet {
        let why = format!(
            "it is no Ethernet interface, and kernel forwarding takes no other, for {purpose}; use another interface, or mode tcp or udp there"
        );
        trouble(format!("interface {name}"), why);
    }
    wanted
}

/// Whether packets go to targets in tunnels.
pub(super) fn has_tunnels(config: &Config) -> bool {
    services(config).any(|service| service.dsr().is_some_and(|dsr| dsr != Dsr::L2))
}

/// Whether some group's targets are checked through a virtual IP.
pub(super) fn checks_through_vips(config: &Config) -> bool {
    config.target_groups.iter().any(|group| group.health.as_ref().is_some_and(|it| it.via == Via::Vip))
}

/// The virtual IPs that targets are checked through and that are not on this host now; those of which the kernel does not say are
/// taken to be.
pub(super) fn absent(ways: &mut Ways, config: &Config, troubles: &mut Vec<TroubleView>) -> BTreeSet<IpAddr> {
    let mut absent = BTreeSet::new();
    if checks_through_vips(config) {
        for ip in services(config).flat_map(|service| &service.listen).map(|listen| listen.address.ip()) {
            match ways.is_local(ip) {
                Ok(true) => {}
                Ok(false) => {
                    absent.insert(ip);
                }
                Err(why) => troubles.push(TroubleView { what: format!("virtual IP {ip}"), why }),
            }
        }
    }
    absent
}

/// Which half of the ports is this node's.
pub(in super::super) fn node_number(config: &Config, node: &str) -> u8 {
    let place = config.nodes.iter().position(|it| it.name == node).unwrap_or(0);
    u8::try_from(place).unwrap_or(0)
}
