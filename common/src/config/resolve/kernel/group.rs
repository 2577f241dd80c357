//! What the target groups of services that the kernel forwards can have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::super::group::all_known;
use super::super::nodes::Family;
use super::{Refused, is_dsr, mode_of};
use crate::config::diag::{Problems, quoted};
use crate::config::problem::Problem;
use crate::config::raw::{At, RawGroup, RawService};
use crate::config::types::{Algorithm, Listen, Protocol, Via};

/// Addresses and ports of services that a target's answer may belong to when it does not say which: the kernel tries
/// them one after the other.
const CANDIDATES_MAX: usize = 4;

/// A service with the addresses whose packets it forwards.
pub(super) type User<'r> = (&'r RawService, &'r Vec<Listen>);

/// Notes keys of a group that have no meaning for the packets that `service` forwards to it.
pub(super) fn check_group(group: &RawGroup, service: &RawService, proxied: bool, out: &mut Problems) {
    let Some(mode) = mode_of(service) else { return };
    let mut refused: Vec<Refused> = Vec::new();
    let hashes = [Algorithm::FlowHash, Algorithm::ConsistentHash];
    if let Some(algorithm) = group.algorithm.as_ref().filter(|it| !hashes.contains(it.get_ref())) {
        let why = "each packet has to find its target by itself, which takes flow_hash (the default) or \
            consistent_hash (by client address)";
        refused.push(("target_group.algorithm".to_owned(), algorithm.span(), why));
    }
    for (key, span) in &group.proxy_keys {
        let why = match key.rsplit('.').next() {
            Some("send_proxy") => "packets are forwarded unopened, so no header can be put before them",
            Some("queue") => "packets cannot wait",
            // They may be meant for the proxied services that share the group.
            Some("retry" | "eject") if proxied => continue,
            Some("retry") => "connections are not made here, so they cannot be made again elsewhere",
            _ => "connections are not made here, so nobody sees them fail; health checks take targets out",
        };
        refused.push((key.clone(), span.clone(), why));
    }
    for target in &group.targets {
        if let Some(span) = &target.max_connections_span {
            let why = "connections are not counted at the target";
            refused.push(("target_group.targets.max_connections".to_owned(), span.clone(), why));
        }
    }
    for (key, span, why) in refused {
        let problem = Problem::NotInKernel { key, mode: (*mode.get_ref()).to_owned(), why: why.to_owned() };
        let place = service.forward.as_ref().map_or_else(|| mode.span(), At::span);
        out.add(span, problem).related(place, "forwards here");
    }
}

/// Notes targets without a port where one is needed.
pub(super) fn check_ports(
    group: &RawGroup,
    only_proxied: bool,
    proxy: Option<&RawService>,
    out: &mut Problems,
) {
    let checked = group.health.as_ref().is_some_and(|health| health.port.is_none());
    let who = match (proxy.and_then(mode_of), checked) {
        (Some(mode), _) => format!("a service of mode \"{}\"", mode.get_ref()),
        (None, true) => "a health check without a port of its own".to_owned(),
        // Nobody forwards there yet.
        (None, false) if only_proxied => "anything but a service of mode \"nat\" or \"dsr\"".to_owned(),
        (None, false) => return,
    };
    for address in group.targets.iter().filter_map(|target| target.address.as_ref()) {
        if address.get_ref().port() == 0 {
            let address_text = address.get_ref().ip().to_string();
            out.add(address.span(), Problem::TargetWithoutPort { address: address_text, who: who.clone() });
        }
    }
}

/// Notes checks through a virtual IP that nothing is forwarded from unchanged.
pub(super) fn check_via(group: &RawGroup, dsr: bool, out: &mut Problems) {
    if let Some(via) = group.via.as_ref().filter(|via| *via.get_ref() == Via::Vip && !dsr) {
        let key = "target_group.health.via = \"vip\"".to_owned();
        let needs = "a service of mode \"dsr\" that forwards to the group".to_owned();
        out.add(via.span(), Problem::KeyWithout { key, needs });
    }
}

/// Notes addresses and targets that have nobody of their family on the other side.
pub(super) fn check_families(group: &RawGroup, users: &[User<'_>], proxied: bool, out: &mut Problems) {
    let is_nat = |service: &RawService| mode_of(service).is_some_and(|mode| *mode.get_ref() == "nat");
    let of_targets: BTreeSet<Family> =
        addresses(group).map(|address| Family::of(address.get_ref().ip())).collect();
    let name = group.name.as_ref().map_or("", |name| name.get_ref());
    for (service, listen) in users.iter().filter(|(service, _)| is_nat(service) && all_known(group)) {
        let missing = listen.iter().find(|it| {
            let ip = it.address.ip();
            !ip.is_unspecified() && !of_targets.contains(&Family::of(ip))
        });
        // A target whose address could not be read may be the one that is missed.
        let all_read = group.targets.iter().all(|target| target.address.is_some());
        if let (Some(missing), Some(forward), true) = (missing, &service.forward, all_read) {
            let family = Family::of(missing.address.ip()).name();
            let address = missing.address.ip().to_string();
            out.add(forward.span(), Problem::NoTargetOfFamily { address, family, group: quoted(name) });
        }
    }
    if proxied || users.is_empty() || !users.iter().all(|(service, _)| is_nat(service)) {
        return;
    }
    let listened: BTreeSet<Family> =
        users.iter().flat_map(|(_, listen)| listen.iter()).map(|it| Family::of(it.address.ip())).collect();
    for address in addresses(group) {
        let family = Family::of(address.get_ref().ip());
        if !listened.is_empty() && !listened.contains(&family) {
            let address_text = address.get_ref().to_string();
            let problem = Problem::NoListenOfFamily { address: address_text, family: family.name() };
            out.add(address.span(), problem);
        }
    }
}

/// Notes targets of `dsr` whose port is not the one that packets come with.
pub(super) fn check_dsr_ports(group: &RawGroup, users: &[User<'_>], out: &mut Problems) {
    let listen: Vec<&Listen> =
        users.iter().filter(|(service, _)| is_dsr(service)).flat_map(|(_, listen)| listen.iter()).collect();
    for address in addresses(group).filter(|address| address.get_ref().port() != 0) {
        let port = address.get_ref().port();
        let other = listen.iter().find(|it| !(it.is_single() && it.address.port() == port));
        if let Some(other) = other {
            let (address_text, listen) = (address.get_ref().to_string(), other.to_string());
            out.add(address.span(), Problem::DsrPort { address: address_text, listen });
        }
    }
}

/// Behind which addresses each target stands with its clients' own addresses, by the target's address, port and protocol.
/// A port of 0 stands for the one that the client asked for.
#[derive(Default)]
pub(super) struct Candidates(BTreeMap<(SocketAddr, Protocol), BTreeSet<(IpAddr, u16)>>);

impl Candidates {
    /// Adds what forwards to a group, and notes what answers could not be told apart by.
    pub(super) fn add(&mut self, group: &RawGroup, users: &[User<'_>], out: &mut Problems) {
        for (service, listen) in users {
            let Some(preserve) = service.preserve_client_ip.as_ref().filter(|preserve| *preserve.get_ref())
            else {
                continue;
            };
            let with_port = addresses(group).any(|address| address.get_ref().port() != 0);
            if let Some(several) = listen.iter().find(|it| !it.is_single() && with_port) {
                let listen = several.to_string();
                out.add(preserve.span(), Problem::PreserveRange { listen });
                continue;
            }
            let over = addresses(group).find(|address| self.add_target(*address.get_ref(), listen));
            if let Some(over) = over {
                let (address, max) = (over.get_ref().to_string(), CANDIDATES_MAX.to_string());
                out.add(preserve.span(), Problem::PreserveTooMany { address, max })
                    .related(over.span(), "the target");
            }
        }
    }

    /// Answers whether the target then has too many.
    fn add_target(&mut self, target: SocketAddr, listen: &[Listen]) -> bool {
        let of_family = listen.iter().filter(|it| it.address.is_ipv4() == target.is_ipv4());
        let mut over = false;
        for it in of_family {
            let known = self.0.entry((target, it.protocol)).or_default();
            let port = if target.port() == 0 { 0 } else { it.address.port() };
            known.insert((it.address.ip(), port));
            over |= known.len() > CANDIDATES_MAX;
        }
        over
    }
}

pub(super) fn addresses(group: &RawGroup) -> impl Iterator<Item = &At<SocketAddr>> {
    group.targets.iter().filter_map(|target| target.address.as_ref())
}
