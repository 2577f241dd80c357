//! What services that the kernel forwards can have, what their target groups can have, and building both.

mod group;
mod twins;

use std::collections::BTreeMap;

use super::first_use;
use super::group::InKernel;
use super::listen::is_in_kernel;
use super::nodes::Nodes;
use crate::config::diag::{Problems, Span, quoted};
use crate::config::problem::Problem;
use crate::config::raw::{At, RawFile, RawInterfaces, RawKernel, RawService, shown};
use crate::config::types::{
    ACCESS_ENTRIES_IN_KERNEL_MAX, FlowTimeouts, Forwarding, Kernel, Listen, Method, Mode, PerNode, RateKey,
    access_entries,
};
use crate::time::Duration;

/// The longest time a flow can be remembered.
const IDLE_MAX: Duration = Duration::from_secs(86_400);

/// The step in which the kernel's program counts time.
const TICK: Duration = Duration::from_micros(62_500);

/// A key that cannot be used, and why.
type Refused = (String, Span, &'static str);

pub(super) fn check(raw: &RawFile, nodes: &Nodes<'_>, listen: &[Vec<Listen>], out: &mut Problems) {
    for service in &raw.services {
        match mode_of(service) {
            Some(mode) if is_in_kernel(mode.get_ref()) => check_service(service, mode, out),
            Some(_) => check_proxy(service, out),
            None => {}
        }
    }
    let users = Users::of(raw);
    let mut candidates = group::Candidates::default();
    let mut twins = twins::Twins::default();
    for group in &raw.groups {
        let Some(name) = &group.name else { continue };
        let in_kernel = users.in_kernel.get(name.get_ref().as_str()).map_or(&[][..], Vec::as_slice);
        let proxy = users.proxies.get(name.get_ref().as_str()).copied();
        group::check_ports(group, in_kernel.is_empty(), proxy, out);
        group::check_via(group, in_kernel.iter().any(|(_, service)| is_dsr(service)), out);
        if let Some((_, service)) = in_kernel.first() {
            group::check_group(group, service, proxy.is_some(), out);
        }
        let listen = |index: usize| listen.get(index).map(|listen| (&raw.services[index], listen));
        let with: Vec<_> = in_kernel.iter().filter_map(|(index, _)| listen(*index)).collect();
        // Addresses that could not be told may be those that are missed.
        if with.len() == in_kernel.len() {
            group::check_families(group, &with, proxy.is_some(), out);
            group::check_dsr_ports(group, &with, out);
            candidates.add(group, &with, out);
            twins.add(group, &with);
        }
    }
    twins.check(out);
    check_access(raw, listen, out);
    check_interfaces(&raw.kernel, nodes, out);
}

/// The groups that a service of the kernel forwards to.
pub(super) fn groups(raw: &RawFile) -> InKernel<'_> {
    let users = Users::of(raw);
    let only_dsr = users.in_kernel.iter().filter(|(name, services)| {
        !users.proxies.contains_key(*name) && services.iter().all(|(_, service)| is_dsr(service))
    });
    InKernel {
        only_dsr: only_dsr.map(|(name, _)| *name).collect(),
        all: users.in_kernel.into_keys().collect(),
    }
}

fn is_dsr(service: &RawService) -> bool {
    mode_of(service).is_some_and(|mode| *mode.get_ref() == "dsr")
}

fn mode_of(service: &RawService) -> Option<&At<&'static str>> {
    service.mode.as_ref()
}

/// Who forwards to each group.
#[derive(Default)]
struct Users<'r> {
    /// Services of the kernel with their positions.
    in_kernel: BTreeMap<&'r str, Vec<(usize, &'r RawService)>>,
    /// One of the others.
    proxies: BTreeMap<&'r str, &'r RawService>,
}

impl<'r> Users<'r> {
    fn of(raw: &'r RawFile) -> Self {
        let mut users = Self::default();
        for (index, service) in raw.services.iter().enumerate() {
            let Some(mode) = mode_of(service) else { continue };
            let groups = service.references.iter().map(|(_, group)| group.get_ref().as_str());
            if is_in_kernel(mode.get_ref()) {
                if let Some(group) = &service.forward {
                    users.in_kernel.entry(group.get_ref()).or_default().push((index, service));
                }
            } else {
                groups.for_each(|group| {
                    users.proxies.entry(group).or_insert(service);
                });
            }
        }
        users
    }
}

/// Notes keys that only services of the kernel have.
fn check_proxy(service: &RawService, out: &mut Problems) {
    let either = "mode = \"nat\" or \"dsr\"";
    let keys = [
        ("service.dsr", service.dsr.as_ref().map(At::span), "mode = \"dsr\""),
        ("service.preserve_client_ip", service.preserve_client_ip.as_ref().map(At::span), "mode = \"nat\""),
        ("service.on_unhealthy", service.on_unhealthy.as_ref().map(At::span), either),
        ("service.timeout.half_open", service.timeout.half_open.as_ref().map(At::span), either),
        ("service.timeout.closing", service.timeout.closing.as_ref().map(At::span), either),
    ];
    note_meaningless(service, &keys, out);
}

fn note_meaningless(
    service: &RawService,
    keys: &[(&'static str, Option<Span>, &'static str)],
    out: &mut Problems,
) {
    for (key, span, needs) in keys {
        let Some(span) = span else { continue };
        let problem = Problem::KeyWithout { key: (*key).to_owned(), needs: (*needs).to_owned() };
        let noted = out.add(span.clone(), problem);
        if let Some(mode) = mode_of(service) {
            noted.related(mode.span(), "the mode");
        }
    }
}

/// Notes keys of a service of the kernel that it cannot have.
fn check_service(service: &RawService, mode: &At<&'static str>, out: &mut Problems) {
    let other = if *mode.get_ref() == "nat" {
        ("service.dsr", service.dsr.as_ref().map(At::span), "mode = \"dsr\"")
    } else {
        ("service.preserve_client_ip", service.preserve_client_ip.as_ref().map(At::span), "mode = \"nat\"")
    };
    note_meaningless(service, &[other], out);
    let mut refused: Vec<Refused> = service
        .proxy_keys
        .iter()
        .map(|(key, span)| (key.clone(), span.clone(), why_not(key, mode.get_ref())))
        .collect();
    if let Some(rule) = service.rules.sni.first() {
        let why = "packets are forwarded unopened, so no server name is seen";
        refused.push(("service.rule".to_owned(), rule.span.clone(), why));
    }
    let timeout = &service.timeout;
    let connections = "connections do not end here, only the time-outs idle, half_open and closing apply";
    let timeouts = [
        ("connect", &timeout.connect),
        ("header", &timeout.header),
        ("keepalive", &timeout.keepalive),
        ("user", &timeout.user),
    ];
    let timeouts = timeouts.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?.span())));
    refused.extend(timeouts.map(|(key, span)| (format!("service.timeout.{key}"), span, connections)));
    for written in &service.rates {
        let (rate, span) = (written.get_ref(), written.span());
        if rate.key == RateKey::Service {
            let why = "new flows are counted for each client address only, key = \"source_ip\"";
            refused.push(("service.rate.key".to_owned(), span.clone(), why));
        }
        if rate.per < TICK {
            let why = "it counts time in steps of 62.5ms, write a longer one";
            refused.push(("service.rate.per".to_owned(), span.clone(), why));
        }
    }
    for (key, span, why) in refused {
        let problem = Problem::NotInKernel { key, mode: (*mode.get_ref()).to_owned(), why: why.to_owned() };
        out.add(span, problem).related(mode.span(), "the mode");
    }
    if let Some(idle) = timeout.idle.as_ref().filter(|idle| *idle.get_ref() > IDLE_MAX) {
        let (key, value) = ("service.timeout.idle".to_owned(), shown(*idle.get_ref()));
        out.add(idle.span(), Problem::OutOfRange { key, value, range: "1s to 1day".to_owned() })
            .related(mode.span(), "the mode");
    }
}

/// Why a service of the kernel cannot have a key.
fn why_not(key: &str, mode: &str) -> &'static str {
    match key.rsplit('.').next() {
        Some("accept_proxy") => "packets are forwarded unopened, so no PROXY protocol header is read",
        Some("transparent") if mode == "nat" => "write preserve_client_ip = true instead",
        Some("transparent") => "targets see the client's address anyway",
        Some("access_log") => "connections do not end here; their flows are in the API and in `lbd status`",
        _ => "connections do not end here; flows are limited by kernel.max_flows, and new ones by rate",
    }
}

/// Notes access lists for which the kernel's table has no room.
fn check_access(raw: &RawFile, listen: &[Vec<Listen>], out: &mut Problems) {
    let mut entries = 0;
    for (service, listen) in raw.services.iter().zip(listen) {
        if !mode_of(service).is_some_and(|mode| is_in_kernel(mode.get_ref())) {
            continue;
        }
        let networks = service.access.allow.iter().chain(&service.access.deny);
        let Some(first) = networks.clone().next() else { continue };
        entries += access_entries(listen, networks.map(|entry| &entry.get_ref().network));
        if entries > ACCESS_ENTRIES_IN_KERNEL_MAX {
            let (count, max) = (entries.to_string(), ACCESS_ENTRIES_IN_KERNEL_MAX.to_string());
            out.add(first.span(), Problem::TooManyNetworks { count, max });
            return;
        }
    }
}

fn check_interfaces(raw: &RawKernel, nodes: &Nodes<'_>, out: &mut Problems) {
    let lists: Vec<&[At<String>]> = match &raw.interfaces {
        None => return,
        Some(RawInterfaces::Same(names)) => vec![names],
        Some(RawInterfaces::PerNode(table)) => {
            nodes.check_table(table, false, out);
            let values = table.entries.iter().filter_map(|(_, names)| names.as_ref());
            values.map(|names| names.get_ref().as_slice()).collect()
        }
    };
    for names in lists {
        let mut seen = BTreeMap::new();
        for name in names {
            if let Some(first) = first_use(&mut seen, name.get_ref(), name.span()) {
                let (key, value) = ("kernel.interfaces".to_owned(), quoted(name.get_ref()));
                let problem = Problem::DuplicateEntry { key, value };
                out.add(name.span(), problem).related(first, "first listed here");
            }
        }
    }
}

/// How the kernel forwards a service; none if it does not.
pub(super) fn forwarding(raw: &RawService, mode: Mode) -> Option<Forwarding> {
    let method = match mode {
        Mode::Tcp | Mode::Udp | Mode::Http => return None,
        Mode::Nat => Method::Nat {
            preserve_client_ip: raw.preserve_client_ip.as_ref().is_some_and(|value| *value.get_ref()),
        },
        Mode::Dsr => Method::Dsr(*raw.dsr.as_ref()?.get_ref()),
    };
    let written = &raw.timeout;
    let default = FlowTimeouts::default();
    let or = |value: &Option<At<Duration>>, default| value.as_ref().map_or(default, |value| *value.get_ref());
    Some(Forwarding {
        method,
        on_unhealthy: raw.on_unhealthy.as_ref().map(|value| *value.get_ref()).unwrap_or_default(),
        timeout: FlowTimeouts {
            established: or(&written.idle, default.established),
            datagrams: or(&written.idle, default.datagrams),
            half_open: or(&written.half_open, default.half_open),
            closing: or(&written.closing, default.closing),
        },
    })
}

pub(super) fn build(raw: &RawKernel) -> Kernel {
    let plain = |names: &[At<String>]| names.iter().map(|name| name.get_ref().clone()).collect();
    let (interfaces, node_interfaces) = match &raw.interfaces {
        None => (Vec::new(), PerNode::new()),
        Some(RawInterfaces::Same(names)) => (plain(names), PerNode::new()),
        Some(RawInterfaces::PerNode(table)) => {
            let read = table.entries.iter().filter_map(|(node, names)| Some((node, names.as_ref()?)));
            let named = read.map(|(node, names)| (node.get_ref().clone(), plain(names.get_ref())));
            (Vec::new(), named.collect())
        }
    };
    Kernel { interfaces, node_interfaces, ..raw.kernel.clone() }
}
