//! Where the daemons listen: services on virtual IPs or the host's own addresses, and the two APIs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::in_folder;
use crate::config::diag::{Problems, Span, quoted};
use crate::config::problem::Problem;
use crate::config::raw::{At, ListenOn, RawApi, RawFile, RawListen};
use crate::config::types::{Api, Listen};

/// Each is a socket per worker.
const LISTENERS_MAX: usize = 4096;

const ALL_V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ALL_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// Where services can listen, by name and by address, and where something listens already.
struct Places<'r> {
    raw: &'r RawFile,
    /// The instance of each VIP, by its position.
    vips: BTreeMap<IpAddr, usize>,
    instances: BTreeMap<&'r str, usize>,
    used: Used,
}

/// What is listened on, by whether it is for datagrams, port and address.
#[derive(Default)]
struct Used(BTreeMap<(bool, u16, IpAddr), User>);

/// Who listens on an address.
#[derive(Clone)]
struct User {
    /// The address as it was given.
    address: SocketAddr,
    /// Where it is written; nowhere if it is a default.
    span: Option<Span>,
    /// Whose it is, if no service's.
    api: Option<&'static str>,
}

/// `[api]`, and whether its addresses can be listened on together.
pub(super) fn api(raw: &RawApi, folder: &Path, out: &mut Problems) -> Api {
    let vrrpd = raw.vrrpd.as_ref().map_or(Api::VRRPD, |address| *address.get_ref());
    let lbd = raw.lbd.as_ref().map_or(Api::LBD, |address| *address.get_ref());
    let mut used = Used::default();
    used.add_api(vrrpd, None, "vrrpd");
    if used.user_for_api(lbd).is_some() {
        // The defaults differ, so at least one of them is written.
        let spans = [&raw.lbd, &raw.vrrpd].map(|address| address.as_ref().map(At::span));
        let problem = if vrrpd == lbd {
            Problem::ApiSameAddress { address: lbd.to_string() }
        } else {
            Problem::ApiOverlap { address: lbd.to_string(), other: vrrpd.to_string() }
        };
        match spans {
            [Some(lbd), Some(vrrpd)] => {
                out.add(lbd, problem).related(vrrpd, "vrrpd's address");
            }
            [Some(place), None] | [None, Some(place)] => {
                out.add(place, problem);
            }
            [None, None] => {}
        }
    }
    Api { vrrpd, lbd, token_file: raw.token_file.as_ref().map(|path| in_folder(folder, path.get_ref())) }
}

/// The addresses of each service that could be told.
pub(super) fn check(raw: &RawFile, api: &Api, out: &mut Problems) -> Vec<Vec<Listen>> {
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
    let before = out.count();
    let addresses = match &listen.get_ref().on {
        ListenOn::Address(address) => vec![places.single(*address, listen.span(), out)],
        ListenOn::Instance(name, port) => places.every(name, *port, listen.span(), out),
    };
    if out.count() > before {
        // What cannot be listened on takes nothing from others.
        return addresses;
    }
    let mut noted = false;
    for address in &addresses {
        let Some(user) = places.used.user(address.address, datagrams).cloned() else {
            places.used.add(address.address, datagrams, listen.span());
            continue;
        };
        if noted {
            // The other addresses of the instance say the same.
            continue;
        }
        noted = true;
        let place = address.address.to_string();
        let problem = match (user.address == address.address, user.api) {
            (true, None) => Problem::DuplicateListen { address: place },
            (true, Some(daemon)) => Problem::ListenOnApi { address: place, daemon: daemon.to_owned() },
            (false, None) => Problem::ListenOverlap { address: place, other: user.address.to_string() },
            (false, Some(daemon)) => {
                let (other, daemon) = (user.address.to_string(), daemon.to_owned());
                Problem::ListenOverlapsApi { address: place, other, daemon }
            }
        };
        match user.span {
            Some(first) => out.add(listen.span(), problem).related(first, "first used here"),
            None => out.add(listen.span(), problem),
        };
    }
    addresses
}

impl Used {
    /// Notes a service's listener.
    fn add(&mut self, address: SocketAddr, datagrams: bool, span: Span) {
        let user = User { address, span: Some(span), api: None };
        self.0.insert((datagrams, address.port(), address.ip()), user);
    }

    /// Notes an API's listener. Unlike those of services, one on `[::]` takes IPv4 connections too.
    fn add_api(&mut self, address: SocketAddr, span: Option<Span>, daemon: &'static str) {
        let user = User { address, span, api: Some(daemon) };
        let both = (address.ip() == ALL_V6).then_some(ALL_V4);
        for ip in both.into_iter().chain([address.ip()]) {
            self.0.insert((false, address.port(), ip), user.clone());
        }
    }

    /// Who listens on the address already: on the same, or one of them is the unspecified address of the family.
    fn user(&self, address: SocketAddr, datagrams: bool) -> Option<&User> {
        let key = |ip: IpAddr| (datagrams, address.port(), ip);
        let (all, last) = match address.ip() {
            IpAddr::V4(_) => (ALL_V4, IpAddr::V4(Ipv4Addr::BROADCAST)),
            IpAddr::V6(_) => (ALL_V6, IpAddr::V6(Ipv6Addr::from_bits(u128::MAX))),
        };
        let same = || self.0.get(&key(address.ip()));
        let within = || self.0.range(key(all)..=key(last)).next().map(|(_, user)| user);
        let around = || self.0.get(&key(all));
        if address.ip() == all { same().or_else(within) } else { same().or_else(around) }
    }

    fn user_for_api(&self, address: SocketAddr) -> Option<&User> {
        let both = (address.ip() == ALL_V6).then(|| SocketAddr::new(ALL_V4, address.port()));
        self.user(address, false).or_else(|| self.user(both?, false))
    }
}

impl<'r> Places<'r> {
    fn new(raw: &'r RawFile, api: &Api) -> Self {
        let (mut vips, mut instances, mut used) = (BTreeMap::new(), BTreeMap::new(), Used::default());
        for (index, vrrp) in raw.vrrp.iter().enumerate() {
            if let Some(name) = &vrrp.name {
                instances.entry(name.get_ref().as_str()).or_insert(index);
            }
            for vip in &vrrp.vips {
                vips.entry(vip.get_ref().addr()).or_insert(index);
            }
        }
        used.add_api(api.vrrpd, raw.api.vrrpd.as_ref().map(At::span), "vrrpd");
        used.add_api(api.lbd, raw.api.lbd.as_ref().map(At::span), "lbd");
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
