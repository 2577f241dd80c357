//! What the plan is made from: the groups' targets, the ways to them, and the interfaces that all of it takes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Instant;

use common::config::{Config, Dsr, Service, Via};
use lbd_core::forward::plan::{Hop, Known, TargetInput};

use super::super::KernelError;
use super::super::attach::Wanted;
use super::super::view::TroubleView;
use super::super::ways::{NoWay, Ways};
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

/// The targets of the groups that the kernel forwards to, those removed whose flows still go on included.
pub(super) fn groups(shared: &Shared, snapshot: &Snapshot) -> BTreeMap<String, Vec<TargetInput>> {
    let names: BTreeSet<&str> = services(&snapshot.config).map(|service| service.forward.as_str()).collect();
    let now_ms = shared.clock.now_ms();
    let mut groups = BTreeMap::new();
    for group in snapshot.groups.iter().filter(|group| names.contains(group.config.name.as_str())) {
        let targets: Vec<TargetInput> =
            group.targets.iter().filter_map(|target| input(target, false, now_ms)).collect();
        groups.insert(group.config.name.clone(), targets);
    }
    for target in shared.removed().iter() {
        if let (Some(input), Some(targets)) = (input(target, true, now_ms), groups.get_mut(&target.key.group))
            && targets.iter().all(|it: &TargetInput| it.id != target.key.id)
        {
            targets.push(input);
        }
    }
    groups
}

fn input(target: &Target, removed: bool, now_ms: u64) -> Option<TargetInput> {
    let close_at_ms = Some(target.close_at_ms()).filter(|at| *at != u64::MAX);
    let known = Known { share: target.share(), failed: target.failed(), close_at_ms, removed };
    let used = known.used(now_ms)?;
    Some(TargetInput { id: target.key.id.clone(), address: target.key.address, used })
}

/// The ways to all targets; what has none is a trouble.
pub(super) fn hops(
    ways: &mut Ways,
    config: &Config,
    groups: &BTreeMap<String, Vec<TargetInput>>,
    troubles: &mut Vec<TroubleView>,
) -> Result<BTreeMap<IpAddr, Hop>, KernelError> {
    let (asked, now) = (ways.begin(), Instant::now());
    let mut hops = BTreeMap::new();
    let mut failed: HashMap<IpAddr, String> = HashMap::new();
    for (group, targets) in groups {
        for target in targets {
            let ip = target.address.ip();
            if !hops.contains_key(&ip) && !failed.contains_key(&ip) {
                match ways.way(ip, &asked, now)? {
                    Ok(way) => {
                        hops.insert(
                            ip,
                            Hop {
                                ifindex: way.index,
                                source_mac: way.source_mac,
                                destination_mac: way.destination_mac,
                                mtu: way.mtu,
                                source: way.source,
                                direct: way.gateway.is_none(),
                            },
                        );
                    }
                    // Not known yet is no trouble.
                    Err(NoWay::NoNeighbour { patient: true, .. }) => {}
                    Err(why) => {
                        failed.insert(ip, why.to_string());
                    }
                }
            }
            let what = || format!("target {group}/{} ({ip})", target.id);
            if let Some(why) = failed.get(&ip) {
                troubles.push(TroubleView { what: what(), why: why.clone() });
            } else if hops.get(&ip).is_some_and(|hop| !hop.direct) && wants_link(config, group) {
                let why = "`dsr = \"l2\"` takes targets on the same network, and this one is behind a router; use a tunnel";
                troubles.push(TroubleView { what: what(), why: why.to_owned() });
            }
        }
    }
    Ok(hops)
}

/// Whether a service of a group reaches its targets by their MAC addresses alone.
fn wants_link(config: &Config, group: &str) -> bool {
    services(config).any(|service| service.forward == group && service.dsr() == Some(Dsr::L2))
}

/// The interfaces that the program is to be on, and whether virtual routers' MAC addresses count there.
pub(super) fn interfaces(
    ways: &Ways,
    config: &Config,
    node: &str,
    hops: &BTreeMap<IpAddr, Hop>,
    troubles: &mut Vec<TroubleView>,
) -> BTreeMap<u32, (Wanted, bool)> {
    let way = config.kernel.attach;
    let mut wanted: BTreeMap<u32, (Wanted, bool)> = BTreeMap::new();
    let mut want = |index: u32, purpose: String, virtual_mac: bool| {
        let Some(link) = ways.link_at(index) else { return };
        let fresh = || (Wanted { name: link.name.clone(), way, purpose: String::new() }, false);
        let (interface, virtual_too) = wanted.entry(index).or_insert_with(fresh);
        if !interface.purpose.split(", ").any(|known| known == purpose) {
            let comma = if interface.purpose.is_empty() { "" } else { ", " };
            interface.purpose = format!("{}{comma}{purpose}", interface.purpose);
        }
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
    wanted
}

/// Whether some group's targets are checked through a virtual IP.
pub(super) fn checks_through_vips(config: &Config) -> bool {
    config.target_groups.iter().any(|group| group.health.as_ref().is_some_and(|it| it.via == Via::Vip))
}

/// The virtual IPs that targets are checked through and that are not on this host now.
pub(super) fn absent(ways: &mut Ways, config: &Config) -> Result<BTreeSet<IpAddr>, KernelError> {
    let mut absent = BTreeSet::new();
    if checks_through_vips(config) {
        for ip in services(config).flat_map(|service| &service.listen).map(|listen| listen.address.ip()) {
            if !ways.is_local(ip)? {
                absent.insert(ip);
            }
        }
    }
    Ok(absent)
}

/// Which half of the ports is this node's.
pub(super) fn node_number(config: &Config, node: &str) -> u8 {
    let place = config.nodes.iter().position(|it| it.name == node).unwrap_or(0);
    u8::try_from(place).unwrap_or(0)
}
