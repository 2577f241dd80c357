//! What the doctor says of targets: how they are reached from here, and what has to be done on them, where nobody can look.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Instant;

use common::config::{Config, Dsr, Method, Protocol, Service};
use lbd_core::forward::plan::{self, Former};
use nix::poll::{PollFd, PollFlags, poll};

use super::{Level, Report};
use crate::l4::kernel::sync::gather;
use crate::l4::kernel::ways::{NoWay, Way, Ways};

/// While neighbours are looked for, what came of it is looked at as often as this, in milliseconds.
const LOOK_MS: u16 = 50;

/// A packet as large as this is what Ethernet takes without further ado.
const COMMON_MTU: u32 = 1500;

/// A target's address, and the one that packets come from where it counts.
type Direction = (IpAddr, Option<IpAddr>);

type Found = BTreeMap<Direction, Result<Way, NoWay>>;

/// The ways to the configured targets, and the interfaces that they take.
pub(super) fn ways_of(ways: &mut Ways, config: &Config, report: &mut Report) -> BTreeSet<String> {
    let mut directions: BTreeSet<Direction> = BTreeSet::new();
    for origin in plan::origins(config, &Former::default()) {
        let targets = config.target_group(&origin.group).map_or(&[][..], |group| &group.targets);
        let of_origin = targets.iter().map(|it| it.address.ip()).filter(|ip| origin.is_for(*ip));
        directions.extend(of_origin.map(|ip| (ip, origin.source())));
    }
    let found = find(ways, &directions);
    let mut names = BTreeSet::new();
    for service in gather::services(config) {
        let Some(group) = config.target_group(&service.forward) else { continue };
        for target in &group.targets {
            let ip = target.address.ip();
            let topic = format!("target {}/{}", group.name, target.id);
            match found.get(&(ip, plan::source_of(config, service, ip))) {
                Some(Ok(way)) => {
                    let interface = ways.link_at(way.index).map(|link| link.name.clone()).unwrap_or_default();
                    one(service, ip, way, &interface, &topic, report);
                    names.insert(interface);
                }
                Some(Err(why)) => report.add(Level::Bad, &topic, why),
                None => {}
            }
        }
    }
    names
}

/// All of them at once. A neighbour that the host has had nothing to do with yet is asked for, and waited for as long as the kernel takes.
fn find(ways: &mut Ways, directions: &BTreeSet<Direction>) -> Found {
    loop {
        let (before, now) = (ways.begin(), Instant::now());
        let mut found = Found::new();
        for (target, source) in directions {
            found.insert((*target, *source), ways.way(*target, *source, &before, now));
        }
        if !found.values().any(|way| matches!(way, Err(NoWay::NoNeighbour { patient: true, .. }))) {
            return found;
        }
        // An interrupted wait ends early, which does no harm.
        poll(&mut [PollFd::new(ways.as_fd(), PollFlags::POLLIN)], LOOK_MS).ok();
        ways.follow(Instant::now());
    }
}

/// A way to a target of a service.
fn one(service: &Service, target: IpAddr, way: &Way, interface: &str, topic: &str, report: &mut Report) {
    let dsr = service.dsr();
    let overhead = dsr.map_or(0, |dsr| overhead(dsr, target.is_ipv4()));
    let inner = way.mtu.saturating_sub(overhead);
    let mac = way.destination_mac.map(|byte| format!("{byte:02x}")).join(":");
    let hop = way.gateway.map_or_else(|| mac.clone(), |gateway| format!("{gateway} ({mac})"));
    let tunnel = match dsr.filter(|_| overhead > 0) {
        Some(dsr) => format!(" ({} less {overhead} of {})", way.mtu, dsr.name()),
        None => String::new(),
    };
    let finding = format!("through {interface} by {hop}, packets of up to {inner} bytes{tunnel}");
    report.add(Level::Good, topic, finding);
    if dsr == Some(Dsr::L2) && way.gateway.is_some() {
        let finding =
            "`dsr = \"l2\"` takes targets on the same network, and this one is behind a router; use a tunnel";
        report.add(Level::Bad, topic, finding);
    }
    if overhead == 0 {
        return;
    }
    if way.source.is_none_or(|source| source.is_ipv4() != target.is_ipv4()) {
        let finding = format!("{interface} has no address that the tunnel could come from; give it one");
        report.add(Level::Bad, topic, finding);
    }
    if inner < COMMON_MTU {
        let finding = format!(
            "the tunnel leaves {inner} bytes: what is larger is answered with ICMP. With an MTU of {} on the way there nothing \
             is, and `scripts/dsr-target` has the target ask TCP for segments that fit (nft)",
            COMMON_MTU + overhead
        );
        report.add(Level::Note, topic, finding);
    }
}

/// What a tunnel's headers take, in bytes.
const fn overhead(dsr: Dsr, ipv4: bool) -> u32 {
    let outer = if ipv4 { 20 } else { 40 };
    match dsr {
        Dsr::L2 => 0,
        Dsr::Ipip => outer,
        Dsr::Gre => outer + 4,
        Dsr::Gue => outer + 8,
    }
}

/// What the targets of a service need.
pub(super) fn needs(service: &Service, gue_port: u16, report: &mut Report) {
    let Some(forwarding) = service.forwarding else { return };
    let topic = format!("targets of {}", service.name);
    let vips: BTreeSet<String> =
        service.listen.iter().map(|listen| listen.address.ip().to_string()).collect();
    let vips = vips.into_iter().collect::<Vec<_>>().join(" ");
    let protocols: BTreeSet<&str> =
        service.listen.iter().map(|listen| Protocol::name(listen.protocol)).collect();
    let protocols = protocols.into_iter().collect::<Vec<_>>().join(", ");
    let finding = match forwarding.method {
        Method::Nat { preserve_client_ip: false } => {
            "need nothing; they see the VIP as the client".to_owned()
        }
        Method::Nat { preserve_client_ip: true } => {
            "their route to the clients must lead through the pair (a VIP on their network as the gateway)"
                .to_owned()
        }
        Method::Dsr(dsr) => {
            let port = if dsr == Dsr::Gue { format!("GUE_PORT={gue_port} ") } else { String::new() };
            let tunnel = match dsr {
                Dsr::L2 => String::new(),
                other => format!(", takes packets out of {} with rp_filter=0", other.name()),
            };
            format!(
                "each holds {vips} on lo, with arp_ignore=1 and arp_announce=2, listens there ({protocols}){tunnel}. \
                 This does all but the listening, on each of them: {port}scripts/dsr-target up {} {vips}",
                dsr.name()
            )
        }
    };
    report.add(Level::Note, &topic, finding);
}
