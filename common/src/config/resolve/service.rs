//! Where services listen, and what they forward to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::unique_names;
use crate::config::diag::{Problems, Span, quoted};
use crate::config::problem::Problem;
use crate::config::raw::{At, ListenOn, RawFile, RawListen};
use crate::config::types::{Api, Listen, Mode, Service};

/// Each is a socket per worker.
const LISTENERS_MAX: usize = 4096;

/// Where services can listen, by name and by address, and where something listens already.
struct Places<'r> {
    raw: &'r RawFile,
    /// The instance of each VIP, by its position.
    vips: BTreeMap<IpAddr, usize>,
    instances: BTreeMap<&'r str, usize>,
    /// By address and whether it is for datagrams; without a place when nothing is written there.
    used: BTreeMap<(SocketAddr, bool), Option<Span>>,
}

/// The addresses of each service that could be told.
pub(super) fn check(raw: &RawFile, api: &Api, out: &mut Problems) -> Vec<Vec<Listen>> {
    unique_names("service.name", raw.services.iter().filter_map(|service| service.name.as_ref()), out);
    check_references(raw, out);
    let mut places = Places::new(raw, api);
    let mut all = Vec::new();
    let mut left = LISTENERS_MAX;
    for service in &raw.services {
        let mode = service.mode.as_ref().map(|mode| *mode.get_ref());
        let mut own = Vec::new();
        for listen in &service.listen {
            let expanded = check_listen(listen, mode, &mut places, out);
            let Some(rest) = left.checked_sub(expanded.len()) else {
                out.add(listen.span(), Problem::TooManyListeners { max: LISTENERS_MAX.to_string() });
                return all;
            };
            left = rest;
            own.extend(expanded);
        }
        all.push(own);
    }
    all
}

fn check_references(raw: &RawFile, out: &mut Problems) {
    let names: BTreeSet<&str> = raw
        .groups
        .iter()
        .filter_map(|group| group.name.as_ref())
        .map(|name| name.get_ref().as_str())
        .collect();
    // A group whose name could not be read may be the one that is meant.
    if raw.groups.iter().any(|group| group.name.is_none()) {
        return;
    }
    for (key, group) in raw.services.iter().flat_map(|service| &service.references) {
        if !names.contains(group.get_ref().as_str()) {
            let problem = Problem::UnknownGroup { key: key.clone(), name: quoted(group.get_ref()) };
            out.add(group.span(), problem).guess(group.get_ref(), names.iter().copied());
        }
    }
}

/// The addresses one `listen` entry stands for.
fn check_listen(
    listen: &At<RawListen>,
    mode: Option<&str>,
    places: &mut Places<'_>,
    out: &mut Problems,
) -> Vec<Listen> {
    if let Some(mode @ ("tcp" | "http")) = mode
        && listen.get_ref().udp
    {
        let value = quoted(&listen.get_ref().text);
        out.add(listen.span(), Problem::UdpListen { value, mode: mode.to_owned() });
    }
    let datagrams = listen.get_ref().udp || mode == Some("udp");
    let addresses = match &listen.get_ref().on {
        ListenOn::Address(address) => vec![places.single(*address, listen.span(), out)],
        ListenOn::Instance(name, port) => places.every(name, *port, listen.span(), out),
    };
    let mut noted = false;
    for address in &addresses {
        let key = (address.address, datagrams);
        match places.used.get(&key).cloned() {
            None => {
                places.used.insert(key, Some(listen.span()));
            }
            // The other addresses of the instance say the same.
            Some(_) if noted => {}
            Some(first) => {
                noted = true;
                let problem = Problem::DuplicateListen { address: address.address.to_string() };
                match first {
                    Some(first) => out.add(listen.span(), problem).related(first, "first used here"),
                    None => out.add(listen.span(), problem),
                };
            }
        }
    }
    addresses
}

impl<'r> Places<'r> {
    fn new(raw: &'r RawFile, api: &Api) -> Self {
        let (mut vips, mut instances, mut used) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (index, vrrp) in raw.vrrp.iter().enumerate() {
            if let Some(name) = &vrrp.name {
                instances.entry(name.get_ref().as_str()).or_insert(index);
            }
            for vip in &vrrp.vips {
                vips.entry(vip.get_ref().addr()).or_insert(index);
            }
        }
        used.insert((api.vrrpd, false), raw.api.vrrpd.as_ref().map(At::span));
        used.insert((api.lbd, false), raw.api.lbd.as_ref().map(At::span));
        Self { raw, vips, instances, used }
    }

    /// One address; it must be a VIP if there are any.
    fn single(&self, address: SocketAddr, span: Span, out: &mut Problems) -> Listen {
        let holder = self.vips.get(&address.ip());
        // A VIP that could not be read may be the one that is meant.
        let all_known = self.raw.vrrp.iter().all(|vrrp| vrrp.vips_complete);
        if holder.is_none() && !self.raw.vrrp.is_empty() && all_known {
            out.add(span, Problem::ListenNoVip { address: address.ip().to_string() });
        } else if !can_listen(&address.ip()) {
            let value = address.ip().to_string();
            out.add(span, Problem::ListenLinkLocal { address: value });
        }
        let name = holder.and_then(|index| self.raw.vrrp.get(*index)?.name.as_ref());
        Listen { address, instance: name.map(|name| name.get_ref().clone()) }
    }

    /// Every VIP of an instance.
    fn every(&self, name: &str, port: u16, span: Span, out: &mut Problems) -> Vec<Listen> {
        let Some(vrrp) = self.instances.get(name).and_then(|index| self.raw.vrrp.get(*index)) else {
            // An instance whose name could not be read may be the one that is meant.
            if self.raw.vrrp.iter().all(|vrrp| vrrp.name.is_some()) {
                out.add(span, Problem::UnknownInstance { name: quoted(name) })
                    .guess(name, self.instances.keys().copied());
            }
            return Vec::new();
        };
        let vips = vrrp.vips.iter().map(|vip| vip.get_ref().addr()).filter(can_listen);
        let all: Vec<Listen> = vips
            .take(LISTENERS_MAX + 1)
            .map(|vip| Listen { address: SocketAddr::new(vip, port), instance: Some(name.to_owned()) })
            .collect();
        if all.is_empty() && vrrp.vips_complete {
            out.add(span, Problem::InstanceNoVip { name: quoted(name) });
        }
        all
    }
}

/// A link-local VIP is there for the virtual router itself (it is the source of its messages and the next hop of its
/// hosts); listening on it would take an interface, which differs between the nodes.
fn can_listen(vip: &IpAddr) -> bool {
    !matches!(vip, IpAddr::V6(vip) if vip.is_unicast_link_local())
}

pub(super) fn build(raw: &RawFile, listen: Vec<Vec<Listen>>) -> Option<Vec<Service>> {
    let services = raw.services.iter().zip(listen).map(|(service, listen)| {
        Some(Service {
            name: service.name.as_ref()?.get_ref().clone(),
            mode: Mode::Tcp,
            listen,
            forward: service.forward.as_ref()?.get_ref().clone(),
            timeout: service.timeout,
            limits: service.limits,
        })
    });
    services.collect()
}
