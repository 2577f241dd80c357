//! Where the daemons listen: services on virtual IPs or the host's own addresses, and the two APIs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::in_folder;
use crate::config::diag::{Problems, Span, quoted};
use crate::config::problem::Problem;
use crate::config::raw::{At, ListenOn, RawApi, RawFile, RawListen, RawPorts};
use crate::config::types::{Api, Listen, Protocol};

/// Each is a socket per worker, or an entry of the kernel's tables.
const LISTENERS_MAX: usize = 4096;

/// Port ranges of an address, which the kernel goes through one by one.
const RANGES_MAX: usize = 16;

/// Half of what the kernel's tables hold, so that there is room for new ones beside those whose flows still go on.
const ADDRESSES_IN_KERNEL_MAX: usize = 512;
const SERVICES_IN_KERNEL_MAX: usize = 512;

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

/// What is listened on.
#[derive(Default)]
struct Used {
    /// By protocol, port and address.
    single: BTreeMap<(Protocol, u16, IpAddr), User>,
    /// What has several ports, by protocol and address; the kernel's only.
    ranges: BTreeMap<(Protocol, IpAddr), Vec<User>>,
    /// The addresses of which the kernel forwards packets.
    in_kernel: BTreeSet<IpAddr>,
    /// The entries that services take in the kernel's table.
    services_in_kernel: usize,
}

/// Who listens on an address.
#[derive(Clone)]
struct User {
    /// Address and ports as they were given.
    listen: Listen,
    /// Whether it is the kernel that takes the packets.
    in_kernel: bool,
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
        if let Some(last) = service.listen.last().filter(|_| mode.is_some_and(is_in_kernel))
            && let Some((what, max)) = places.used.count_in_kernel(&own)
        {
            let problem = Problem::TooManyInKernel { what: what.to_owned(), max: max.to_string() };
            out.add(last.span(), problem);
            return all;
        }
        all.push(own);
    }
    all
}

/// Whether this is the word of a mode whose packets the kernel forwards.
pub(super) fn is_in_kernel(mode: &str) -> bool {
    matches!(mode, "nat" | "dsr")
}

/// The addresses one `listen` entry stands for.
fn check_listen(
    listen: &At<RawListen>,
    mode: Option<&str>,
    places: &mut Places<'_>,
    out: &mut Problems,
) -> Vec<Listen> {
    let before = out.count();
    check_form(listen, mode, out);
    let raw = listen.get_ref();
    let protocol = if raw.udp || mode == Some("udp") { Protocol::Udp } else { Protocol::Tcp };
    let addresses = match &raw.on {
        ListenOn::Address(address) => vec![places.single(*address, raw.ports, protocol, listen.span(), out)],
        ListenOn::Instance(name) => places.every(name, raw.ports, protocol, listen.span(), out),
    };
    if out.count() > before {
        // What cannot be listened on takes nothing from others.
        return addresses;
    }
    let in_kernel = mode.is_some_and(is_in_kernel);
    let mut noted = false;
    for address in &addresses {
        let user = User { listen: address.clone(), in_kernel, span: Some(listen.span()), api: None };
        let Some(other) = places.used.conflict(&user).cloned() else {
            let full = places.used.add(user);
            if full && !noted {
                noted = true;
                let (address, max) = (address.address.ip().to_string(), RANGES_MAX.to_string());
                out.add(listen.span(), Problem::TooManyRanges { address, max });
            }
            continue;
        };
        // The other addresses of the instance say the same.
        if !std::mem::replace(&mut noted, true) {
            note_conflict(&user, other, out);
        }
    }
    addresses
}

/// Notes what the mode has no use for.
fn check_form(listen: &At<RawListen>, mode: Option<&str>, out: &mut Problems) {
    let raw = listen.get_ref();
    let value = || quoted(&raw.text);
    if let Some(mode @ ("tcp" | "http")) = mode
        && raw.udp
    {
        out.add(listen.span(), Problem::UdpListen { value: value(), mode: mode.to_owned() });
    }
    let Some(mode) = mode else { return };
    if !is_in_kernel(mode) {
        if !raw.ports.is_single() {
            out.add(listen.span(), Problem::PortRange { value: value(), mode: mode.to_owned() });
        }
        return;
    }
    let ListenOn::Address(address) = &raw.on else { return };
    let why = if address.ip().is_unspecified() {
        "write the addresses that clients use, one by one"
    } else if address.ip().is_loopback() {
        "packets for it never come from a network"
    } else {
        return;
    };
    out.add(listen.span(), Problem::KernelListen { value: value(), why: why.to_owned() });
}

fn note_conflict(user: &User, other: User, out: &mut Problems) {
    let address = user.listen.to_string();
    let same = user.listen.address == other.listen.address && user.listen.last_port == other.listen.last_port;
    let problem = match (same, other.api) {
        (true, None) => Problem::DuplicateListen { address },
        (true, Some(daemon)) => Problem::ListenOnApi { address, daemon: daemon.to_owned() },
        (false, None) => Problem::ListenOverlap { address, other: other.listen.to_string() },
        (false, Some(daemon)) => {
            let (other, daemon) = (other.listen.to_string(), daemon.to_owned());
            Problem::ListenOverlapsApi { address, other, daemon }
        }
    };
    let place = user.span.clone().unwrap_or(0..0);
    match other.span {
        Some(first) => out.add(place, problem).related(first, "first used here"),
        None => out.add(place, problem),
    };
}

impl Used {
    /// Notes a service's listener. Answers whether its address then has too many ranges.
    fn add(&mut self, user: User) -> bool {
        let (ip, port, protocol) =
            (user.listen.address.ip(), user.listen.address.port(), user.listen.protocol);
        if user.in_kernel {
            self.in_kernel.insert(ip);
        }
        if user.listen.is_single() {
            self.single.insert((protocol, port, ip), user);
            return false;
        }
        self.ranges.entry((protocol, ip)).or_default().push(user);
        let of = |protocol| self.ranges.get(&(protocol, ip)).map_or(0, Vec::len);
        of(Protocol::Tcp) + of(Protocol::Udp) > RANGES_MAX
    }

    /// Notes the entries of a service in the kernel's tables. Answers what there are too many of.
    fn count_in_kernel(&mut self, listen: &[Listen]) -> Option<(&'static str, usize)> {
        let of = |listen: &Listen| (listen.protocol, listen.address.is_ipv4(), listen.instance.clone());
        self.services_in_kernel += listen.iter().map(of).collect::<BTreeSet<_>>().len();
        if self.in_kernel.len() > ADDRESSES_IN_KERNEL_MAX {
            return Some(("addresses", ADDRESSES_IN_KERNEL_MAX));
        }
        let what = "entries in its table, which each has for each protocol, address family and instance";
        (self.services_in_kernel > SERVICES_IN_KERNEL_MAX).then_some((what, SERVICES_IN_KERNEL_MAX))
    }

    /// Notes an API's listener. Unlike those of services, one on `[::]` takes IPv4 connections too.
    fn add_api(&mut self, address: SocketAddr, span: Option<Span>, daemon: &'static str) {
        let user = User { listen: on(address), in_kernel: false, span, api: Some(daemon) };
        let both = (address.ip() == ALL_V6).then_some(ALL_V4);
        for ip in both.into_iter().chain([address.ip()]) {
            self.single.insert((Protocol::Tcp, address.port(), ip), user.clone());
        }
    }

    /// Who takes what the listener is to take already.
    fn conflict(&self, user: &User) -> Option<&User> {
        let (listen, in_kernel) = (&user.listen, user.in_kernel);
        match (listen.is_single(), in_kernel) {
            // The kernel looks at single ports before ranges.
            (true, true) => self.user(listen.address, listen.protocol),
            (true, false) => {
                let single = self.user(listen.address, listen.protocol);
                single.or_else(|| self.range_around(listen))
            }
            (false, _) => self.range_like(listen).or_else(|| self.proxied_within(listen)),
        }
    }

    /// Who listens on the address already: on the same, or one of them is the unspecified address of the family.
    fn user(&self, address: SocketAddr, protocol: Protocol) -> Option<&User> {
        let key = |ip: IpAddr| (protocol, address.port(), ip);
        let [all, last] = family(address.ip());
        let same = || self.single.get(&key(address.ip()));
        let within = || self.single.range(key(all)..=key(last)).next().map(|(_, user)| user);
        let around = || self.single.get(&key(all));
        if address.ip() == all { same().or_else(within) } else { same().or_else(around) }
    }

    fn user_for_api(&self, address: SocketAddr) -> Option<&User> {
        let both = (address.ip() == ALL_V6).then(|| SocketAddr::new(ALL_V4, address.port()));
        self.user(address, Protocol::Tcp).or_else(|| self.user(both?, Protocol::Tcp))
    }

    /// The range that a port is in, whose packets the kernel would take.
    fn range_around(&self, listen: &Listen) -> Option<&User> {
        let ip = listen.address.ip();
        let [all, last] = family(ip);
        let [first, last] = if ip == all { [all, last] } else { [ip, ip] };
        let ranges = self.ranges.range((listen.protocol, first)..=(listen.protocol, last));
        ranges.flat_map(|(_, users)| users).find(|user| user.listen.ports().contains(&listen.address.port()))
    }

    /// A range of the address that has ports in common without one being within the other.
    fn range_like(&self, listen: &Listen) -> Option<&User> {
        let (first, last) = (listen.address.port(), listen.last_port);
        let clashes = |other: &&User| {
            let (its_first, its_last) = (other.listen.address.port(), other.listen.last_port);
            let apart = last < its_first || its_last < first;
            let within = first >= its_first && last <= its_last;
            let around = first <= its_first && last >= its_last;
            !apart && within == around
        };
        self.ranges.get(&(listen.protocol, listen.address.ip()))?.iter().find(clashes)
    }

    /// A listener on one of the ports that gets its packets from the host.
    fn proxied_within(&self, listen: &Listen) -> Option<&User> {
        let ip = listen.address.ip();
        let [all, _] = family(ip);
        let lowest = (listen.protocol, listen.address.port(), ALL_V4);
        let highest = (listen.protocol, listen.last_port, IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)));
        let mut users = self.single.range(lowest..=highest);
        users.find(|((_, _, its), user)| !user.in_kernel && (*its == ip || *its == all)).map(|(_, user)| user)
    }
}

/// The first and the last address of the family; the first is the unspecified one.
const fn family(ip: IpAddr) -> [IpAddr; 2] {
    match ip {
        IpAddr::V4(_) => [ALL_V4, IpAddr::V4(Ipv4Addr::BROADCAST)],
        IpAddr::V6(_) => [ALL_V6, IpAddr::V6(Ipv6Addr::from_bits(u128::MAX))],
    }
}

/// An API's listener.
const fn on(address: SocketAddr) -> Listen {
    Listen { address, last_port: address.port(), protocol: Protocol::Tcp, instance: None }
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
    fn single(
        &self,
        address: SocketAddr,
        ports: RawPorts,
        protocol: Protocol,
        span: Span,
        out: &mut Problems,
    ) -> Listen {
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
        let mut address = address;
        address.set_port(ports.first);
        let instance = name.map(|name| name.get_ref().clone());
        Listen { address, last_port: ports.last, protocol, instance }
    }

    /// Every VIP of an instance.
    fn every(
        &self,
        name: &str,
        ports: RawPorts,
        protocol: Protocol,
        span: Span,
        out: &mut Problems,
    ) -> Vec<Listen> {
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
            .map(|vip| Listen {
                address: SocketAddr::new(vip, ports.first),
                last_port: ports.last,
                protocol,
                instance: Some(name.to_owned()),
            })
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
