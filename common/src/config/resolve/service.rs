//! What services forward to, what their modes allow, and building them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ipnet::IpNet;

use super::{cookies, first_use, http, in_folder, kernel, unique_names};
use crate::config::diag::{Problems, Span, quoted};
use crate::config::problem::Problem;
use crate::config::raw::{At, RawAccess, RawFile, RawGroup, RawService, RawTimeouts};
use crate::config::types::{
    Access, AccessEntry, AccessLog, Listen, Mode, ProxyVersion, Rate, RateKey, Rates, Service, SniRule,
    Timeouts,
};
use crate::time::Duration;

pub(super) fn check(raw: &RawFile, out: &mut Problems) {
    unique_names("service.name", raw.services.iter().filter_map(|service| service.name.as_ref()), out);
    check_references(raw, out);
    for service in &raw.services {
        check_names_asked_for(service, out);
        check_networks(service, out);
        check_datagrams(service, out);
        http::check(service, out);
    }
    check_proxy_headers(raw, out);
    check_protocols(raw, out);
    cookies::check(raw, out);
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

/// The first rule that matches decides, so the same name in a later one is never found.
fn check_names_asked_for(service: &RawService, out: &mut Problems) {
    let mut seen = BTreeMap::new();
    for name in service.rules.sni.iter().flat_map(|rule| &rule.sni) {
        if let Some(first) = first_use(&mut seen, name.get_ref(), name.span()) {
            let (key, value) = ("service.rule.when.sni".to_owned(), quoted(name.get_ref()));
            out.add(name.span(), Problem::DuplicateEntry { key, value }).related(first, "first listed here");
        }
    }
}

fn check_networks(service: &RawService, out: &mut Problems) {
    let mut check = |seen: &mut BTreeMap<IpNet, Span>, key: &str, network: IpNet, span: Span| {
        if let Some(first) = first_use(seen, network, span.clone()) {
            let problem = Problem::DuplicateEntry { key: key.to_owned(), value: network.to_string() };
            out.add(span, problem).related(first, "first listed here");
        }
    };
    let mut proxies = BTreeMap::new();
    for network in service.accept_proxy.iter().flat_map(|list| list.get_ref()) {
        check(&mut proxies, "service.accept_proxy", *network.get_ref(), network.span());
    }
    let of_service = ("service.access", &service.access);
    let of_rules = service.rules.http.iter().map(|rule| ("service.rule.access", &rule.access));
    for (key, access) in std::iter::once(of_service).chain(of_rules) {
        // One map for both: a network in both lists would be let in and kept out.
        let mut clients = BTreeMap::new();
        for (list, entries) in [("allow", &access.allow), ("deny", &access.deny)] {
            for entry in entries {
                check(&mut clients, &format!("{key}.{list}"), entry.get_ref().network, entry.span());
            }
        }
    }
}

/// Notes what only connections have.
fn check_datagrams(service: &RawService, out: &mut Problems) {
    let Some(mode) = service.mode.as_ref().filter(|mode| *mode.get_ref() == "udp") else { return };
    let timeout = &service.timeout;
    let timeouts = [
        ("service.timeout.connect", &timeout.connect),
        ("service.timeout.header", &timeout.header),
        ("service.timeout.keepalive", &timeout.keepalive),
        ("service.timeout.user", &timeout.user),
    ];
    let timeouts = timeouts.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?.span())));
    let rules = service.rules.sni.first().map(|rule| ("service.rule", rule.span.clone()));
    let proxies = service.accept_proxy.as_ref().map(|list| ("service.accept_proxy", list.span()));
    for (key, span) in timeouts.chain(rules).chain(proxies) {
        let problem = Problem::KeyWithout { key: key.to_owned(), needs: "mode = \"tcp\"".to_owned() };
        out.add(span, problem).related(mode.span(), "the mode");
    }
}

/// Notes groups whose PROXY protocol header a datagram service would have to send.
fn check_proxy_headers(raw: &RawFile, out: &mut Problems) {
    let mut of_datagrams = BTreeMap::new();
    for service in raw.services.iter().filter(|s| s.mode.as_ref().is_some_and(|m| *m.get_ref() == "udp")) {
        for (_, group) in &service.references {
            of_datagrams.entry(group.get_ref().as_str()).or_insert_with(|| group.span());
        }
    }
    for RawGroup { name, send_proxy, .. } in &raw.groups {
        let (Some(name), Some(version)) = (name, send_proxy) else { continue };
        let Some(first) = of_datagrams.get(name.get_ref().as_str()) else { continue };
        let problem = match version.get_ref() {
            ProxyVersion::V1 => Problem::ProxyV1Datagrams {},
            ProxyVersion::V2 => Problem::NotAvailable {
                key: "target_group.send_proxy for a service of mode \"udp\"".to_owned(),
            },
        };
        out.add(version.span(), problem).related(first.clone(), "a service of mode \"udp\" forwards here");
    }
}

/// Notes groups with a protocol that some service which forwards there does not speak, and those with what is about requests where none come.
fn check_protocols(raw: &RawFile, out: &mut Problems) {
    let (mut others, mut of_http) = (BTreeMap::new(), BTreeSet::new());
    for service in &raw.services {
        // A mode that could not be read may be any.
        let other = service.mode.as_ref().is_some_and(|mode| *mode.get_ref() != "http");
        for (_, group) in &service.references {
            if other {
                others.entry(group.get_ref().as_str()).or_insert_with(|| group.span());
            } else {
                of_http.insert(group.get_ref().as_str());
            }
        }
    }
    for RawGroup { name, http2, keep_alive, .. } in &raw.groups {
        let Some(name) = name.as_ref().map(|name| name.get_ref().as_str()) else { continue };
        let Some(first) = others.get(name) else { continue };
        // The other one is what is spoken anyway, and nothing to most modes.
        let protocol = http2.as_ref().filter(|http2| *http2.get_ref()).map(At::span);
        let kept = keep_alive.as_ref().filter(|_| !of_http.contains(name));
        let keys = [("protocol = \"http2\"", protocol), ("keep_alive", kept.map(At::span))];
        for (key, span) in keys {
            let Some(span) = span else { continue };
            let (key, needs) = (format!("target_group.{key}"), "mode = \"http\"".to_owned());
            out.add(span, Problem::KeyWithout { key, needs })
                .related(first.clone(), "a service of another mode forwards here");
        }
    }
}

pub(super) fn build(raw: &RawFile, listen: Vec<Vec<Listen>>, folder: &Path) -> Option<Vec<Service>> {
    raw.services.iter().zip(listen).map(|(service, listen)| build_one(service, listen, folder)).collect()
}

fn build_one(raw: &RawService, listen: Vec<Listen>, folder: &Path) -> Option<Service> {
    let mode = match *raw.mode.as_ref()?.get_ref() {
        "udp" => Mode::Udp,
        "nat" => Mode::Nat,
        "dsr" => Mode::Dsr,
        "http" => Mode::Http,
        _ => Mode::Tcp,
    };
    let http = if mode == Mode::Http { Some(http::build(raw, folder)?) } else { None };
    let forward = match &http {
        Some(http) => http.groups().next().unwrap_or_default().to_owned(),
        None => raw.forward.as_ref()?.get_ref().clone(),
    };
    let rules = raw.rules.sni.iter().map(|rule| {
        Some(SniRule {
            sni: rule.sni.iter().map(|name| name.get_ref().clone()).collect(),
            forward: rule.forward.as_ref()?.get_ref().clone(),
        })
    });
    let networks = raw.accept_proxy.iter().flat_map(|list| list.get_ref());
    Some(Service {
        name: raw.name.as_ref()?.get_ref().clone(),
        mode,
        forwarding: kernel::forwarding(raw, mode),
        listen,
        http,
        forward,
        rules: rules.collect::<Option<_>>()?,
        timeout: timeouts(&raw.timeout, mode),
        limits: raw.limits,
        rates: rates(&raw.rates),
        accept_proxy: networks.map(|network| *network.get_ref()).collect(),
        transparent: raw.transparent,
        access: access(&raw.access),
        access_log: raw.access_log.as_ref().map(|log| AccessLog {
            format: log.format,
            file: log.file.as_ref().map(|path| in_folder(folder, path)),
            sample: log.sample,
        }),
    })
}

fn rates(raw: &[At<Rate>]) -> Rates {
    let find =
        |of_all| raw.iter().map(At::get_ref).copied().find(|it| (it.key == RateKey::Service) == of_all);
    Rates { of_all: find(true), of_each: find(false) }
}

pub(super) fn access(raw: &RawAccess) -> Access {
    let entries = |list: &[At<AccessEntry>]| list.iter().map(|entry| entry.get_ref().clone()).collect();
    Access { allow: entries(&raw.allow), deny: entries(&raw.deny) }
}

fn timeouts(raw: &RawTimeouts, mode: Mode) -> Timeouts {
    let seconds = |value: &Option<At<Duration>>, default: u64| {
        value.as_ref().map_or(Duration::from_secs(default), |value| *value.get_ref())
    };
    Timeouts {
        connect: seconds(&raw.connect, 5),
        idle: seconds(&raw.idle, if matches!(mode, Mode::Udp | Mode::Http) { 60 } else { 350 }),
        header: seconds(&raw.header, 5),
        keepalive: seconds(&raw.keepalive, 60),
        user: raw.user.as_ref().map(|user| *user.get_ref()),
    }
}
