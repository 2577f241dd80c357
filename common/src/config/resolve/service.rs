//! Where services listen, and what they forward to.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::unique_names;
use crate::config::diag::{Problems, Span, quoted};
use crate::config::problem::Problem;
use crate::config::raw::{At, ListenOn, RawFile, RawListen, RawService};
use crate::config::types::{Api, Listen, Mode, Service};

/// The addresses of each service that could be told.
pub(super) fn check(raw: &RawFile, api: &Api, out: &mut Problems) -> Vec<Vec<Listen>> {
    unique_names("service.name", raw.services.iter().filter_map(|service| service.name.as_ref()), out);
    check_references(raw, out);
    // By address and whether it is for datagrams; the daemons' own listeners count.
    let mut used: BTreeMap<(SocketAddr, bool), Option<Span>> = BTreeMap::new();
    used.insert((api.vrrpd, false), raw.api.vrrpd.as_ref().map(At::span));
    used.insert((api.lbd, false), raw.api.lbd.as_ref().map(At::span));
    raw.services.iter().map(|service| check_service(service, raw, &mut used, out)).collect()
}

fn check_references(raw: &RawFile, out: &mut Problems) {
    let names =
        || raw.groups.iter().filter_map(|group| group.name.as_ref()).map(|name| name.get_ref().as_str());
    // A group whose name could not be read may be the one that is meant.
    if names().count() < raw.groups.len() {
        return;
    }
    for (key, group) in raw.services.iter().flat_map(|service| &service.references) {
        if !names().any(|name| name == group.get_ref()) {
            let problem = Problem::UnknownGroup { key: key.clone(), name: quoted(group.get_ref()) };
            out.add(group.span(), problem).guess(group.get_ref(), names());
        }
    }
}

fn check_service(
    service: &RawService,
    raw: &RawFile,
    used: &mut BTreeMap<(SocketAddr, bool), Option<Span>>,
    out: &mut Problems,
) -> Vec<Listen> {
    let mode = service.mode.as_ref().map(|mode| *mode.get_ref());
    let mut all = Vec::new();
    for listen in &service.listen {
        if let Some(mode @ ("tcp" | "http")) = mode
            && listen.get_ref().udp
        {
            let value = quoted(&listen.get_ref().text);
            out.add(listen.span(), Problem::UdpListen { value, mode: mode.to_owned() });
        }
        let datagrams = listen.get_ref().udp || mode == Some("udp");
        for address in addresses(listen, raw, out) {
            let first = used.get(&(address.address, datagrams)).cloned();
            match first {
                None => {
                    used.insert((address.address, datagrams), Some(listen.span()));
                }
                Some(first) => note_duplicate(listen, address.address, first, out),
            }
            all.push(address);
        }
    }
    all
}

fn note_duplicate(listen: &At<RawListen>, address: SocketAddr, first: Option<Span>, out: &mut Problems) {
    let problem = Problem::DuplicateListen { key: "service.listen".to_owned(), address: address.to_string() };
    match first {
        Some(first) => out.add(listen.span(), problem).related(first, "first used here"),
        None => out.add(listen.span(), problem),
    };
}

/// The addresses one `listen` entry stands for.
fn addresses(listen: &At<RawListen>, raw: &RawFile, out: &mut Problems) -> Vec<Listen> {
    let names = || raw.vrrp.iter().filter_map(|vrrp| vrrp.name.as_ref()).map(|name| name.get_ref().as_str());
    match &listen.get_ref().on {
        ListenOn::Address(address) => {
            let holder =
                raw.vrrp.iter().find(|vrrp| vrrp.vips.iter().any(|vip| vip.get_ref().addr() == address.ip()));
            let all_known = raw.vrrp.iter().all(|vrrp| vrrp.vips_complete);
            if holder.is_none() && !raw.vrrp.is_empty() && all_known {
                let vips = raw.vrrp.iter().flat_map(|vrrp| &vrrp.vips);
                let vips: Vec<String> = vips.map(|vip| vip.get_ref().addr().to_string()).collect();
                out.add(listen.span(), Problem::ListenNoVip { address: address.ip().to_string() })
                    .guess(&address.ip().to_string(), vips.iter().map(String::as_str));
            }
            let instance = holder.and_then(|vrrp| vrrp.name.as_ref()).map(|name| name.get_ref().clone());
            vec![Listen { address: *address, instance }]
        }
        ListenOn::Instance(name, port) => {
            let named = |wanted: &str| {
                raw.vrrp.iter().find(|vrrp| vrrp.name.as_ref().is_some_and(|name| name.get_ref() == wanted))
            };
            let Some(vrrp) = named(name) else {
                // An instance whose name could not be read may be the one that is meant.
                if names().count() == raw.vrrp.len() {
                    let key = "service.listen".to_owned();
                    out.add(listen.span(), Problem::UnknownInstance { key, name: quoted(name) })
                        .guess(name, names());
                }
                return Vec::new();
            };
            let listening = vrrp.vips.iter().map(|vip| vip.get_ref().addr()).filter(can_listen);
            let all: Vec<Listen> = listening
                .map(|vip| Listen { address: SocketAddr::new(vip, *port), instance: Some(name.clone()) })
                .collect();
            if all.is_empty() && vrrp.vips_complete {
                out.add(listen.span(), Problem::InstanceNoVip { name: quoted(name) });
            }
            all
        }
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
