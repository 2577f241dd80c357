//! The cookies, and what else groups look for in requests, which only services of `mode = "http"` have.

use std::collections::BTreeMap;

use super::first_use;
use crate::config::diag::{Problems, Span, quoted};
use crate::config::problem::Problem;
use crate::config::raw::{RawFile, RawGroup, RawService};
use crate::config::types::{HashBy, StickyBy};

pub(super) fn check(raw: &RawFile, out: &mut Problems) {
    for service in &raw.services {
        if is_http(service) == Some(true) {
            check_names(service, &raw.groups, out);
        }
    }
    for group in &raw.groups {
        check_modes(group, raw, out);
    }
}

/// Nothing if its mode could not be read.
fn is_http(service: &RawService) -> Option<bool> {
    service.mode.as_ref().map(|mode| *mode.get_ref() == "http")
}

/// The key and value that make a group look for a cookie.
fn way(by: &StickyBy) -> Option<&'static str> {
    match by {
        StickyBy::SourceIp => None,
        StickyBy::Cookie(_) => Some("target_group.sticky.by = \"cookie\""),
        StickyBy::AppCookie(_) => Some("target_group.sticky.by = \"app_cookie\""),
    }
}

/// The same of a hash.
fn hash_way(by: &HashBy) -> Option<&'static str> {
    match by {
        HashBy::SourceIp => None,
        HashBy::Header(_) => Some("target_group.hash.by = \"header\""),
        HashBy::Cookie(_) => Some("target_group.hash.by = \"cookie\""),
        HashBy::Path => Some("target_group.hash.by = \"path\""),
    }
}

/// Notes a group that looks for something that one of its services does not have.
fn check_modes(group: &RawGroup, raw: &RawFile, out: &mut Problems) {
    let sticky = group.sticky.as_ref().and_then(|it| Some((way(&it.get_ref().by)?, it.span())));
    let hash = group.hash_by.as_ref().and_then(|it| Some((hash_way(it.get_ref())?, it.span())));
    for (way, span) in sticky.into_iter().chain(hash) {
        check_mode(group, way, span, raw, out);
    }
}

/// Notes that something written here looks for what one of the group's services does not have.
fn check_mode(group: &RawGroup, way: &str, span: Span, raw: &RawFile, out: &mut Problems) {
    let Some(name) = &group.name else { return };
    let others = raw.services.iter().filter(|service| is_http(service) == Some(false));
    let mut references = others.flat_map(|service| &service.references);
    if let Some((_, reference)) = references.find(|(_, group)| group.get_ref() == name.get_ref()) {
        let needs = "mode = \"http\" of every service that forwards here".to_owned();
        let problem = Problem::KeyWithout { key: way.to_owned(), needs };
        out.add(span, problem).related(reference.span(), "a service of another mode forwards here");
    }
}

/// Notes cookies of Tandem's own that have the name of another group's of the same service: each would replace what the other one has said.
fn check_names(service: &RawService, groups: &[RawGroup], out: &mut Problems) {
    let named =
        |name: &str| groups.iter().find(|it| it.name.as_ref().is_some_and(|its| its.get_ref() == name));
    let mut its: Vec<&RawGroup> = Vec::new();
    for group in service.references.iter().filter_map(|(_, group)| named(group.get_ref())) {
        if !its.iter().any(|known| std::ptr::eq(*known, group)) {
            its.push(group);
        }
    }
    let sticky = || its.iter().filter_map(|group| group.sticky.as_ref());
    let mut note = |name: &str, span: Span, first: Span| {
        out.add(span, Problem::SharedCookie { name: quoted(name) }).related(first, "the other group's");
    };
    let mut seen: BTreeMap<&str, Span> = BTreeMap::new();
    for sticky in sticky() {
        if let StickyBy::Cookie(cookie) = &sticky.get_ref().by
            && let Some(first) = first_use(&mut seen, cookie.name.as_str(), sticky.span())
        {
            note(&cookie.name, sticky.span(), first);
        }
    }
    for sticky in sticky() {
        if let StickyBy::AppCookie(name) = &sticky.get_ref().by
            && let Some(first) = seen.get(name.as_str())
        {
            note(name, sticky.span(), first.clone());
        }
    }
}
