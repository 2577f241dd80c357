//! `[[service]]` as written.

use super::reader::{At, Cursor, Table};
use super::value::{RawListen, is_path, listen, parse_size};
use super::{name, text, unavailable};
use crate::config::diag::{Problems, quoted};
use crate::config::problem::Problem;
use crate::config::types::{Limits, Timeouts};
use crate::time::Duration;

/// `[[service]]`.
pub(crate) struct RawService {
    pub(crate) name: Option<At<String>>,
    /// The mode's word; modes that do not exist yet have been noted.
    pub(crate) mode: Option<At<&'static str>>,
    pub(crate) listen: Vec<At<RawListen>>,
    pub(crate) forward: Option<At<String>>,
    /// Every target group that is named anywhere in the service, with the key that names it.
    pub(crate) references: Vec<(String, At<String>)>,
    pub(crate) timeout: Timeouts,
    pub(crate) limits: Limits,
}

const MODES: &[(&str, &str)] =
    &[("nat", "nat"), ("dsr", "dsr"), ("tcp", "tcp"), ("udp", "udp"), ("http", "http")];
const DSR_WAYS: &[(&str, ())] = &[("l2", ()), ("ipip", ()), ("gre", ()), ("gue", ())];
const TLS_VERSIONS: &[(&str, ())] = &[("1.2", ()), ("1.3", ())];
const RATE_KEYS: &[(&str, ())] = &[("source_ip", ())];
const RATE_SCOPES: &[(&str, ())] = &[("node", ()), ("pair", ())];

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn read(mut table: Table<'_>, out: &mut Problems) -> RawService {
    let mut references = Vec::new();
    let raw = RawService {
        name: table.required("name", out).and_then(|cursor| name(&cursor, out)),
        mode: table.required("mode", out).and_then(|cursor| {
            let mode = cursor.word(MODES, out)?;
            if *mode.get_ref() != "tcp" {
                cursor.not_available(Some(mode.get_ref()), out);
            }
            Some(mode)
        }),
        listen: table.required("listen", out).map(|cursor| listeners(&cursor, out)).unwrap_or_default(),
        forward: forward(&mut table, &mut references, out),
        timeout: timeouts(table.get("timeout").as_ref(), out),
        limits: limits(table.get("limits").as_ref(), out),
        references: Vec::new(),
    };
    unavailable(table.get("dsr"), out, |c, out| c.word(DSR_WAYS, out));
    unavailable(table.get("preserve_client_ip"), out, |c, out| c.boolean(out));
    unavailable(table.get("tls"), out, tls_form);
    unavailable(table.get("rate"), out, rate_form);
    unavailable(table.get("rule"), out, |c, out| rules_form(c, &mut references, out));
    table.finish(out);
    RawService { references, ..raw }
}

fn listeners(cursor: &Cursor<'_>, out: &mut Problems) -> Vec<At<RawListen>> {
    let Some(entries) = cursor.list("a list of addresses such as [\"@web:80\"]", out) else {
        return Vec::new();
    };
    if entries.is_empty() {
        out.add(cursor.span(), Problem::Empty { key: cursor.key() });
    }
    entries.iter().filter_map(|entry| listen(entry, out)).collect()
}

/// The group that `forward` names, if it names one. A service with rules may do without.
fn forward(
    table: &mut Table<'_>,
    references: &mut Vec<(String, At<String>)>,
    out: &mut Problems,
) -> Option<At<String>> {
    let cursor = if table.has("rule") { table.get("forward") } else { table.required("forward", out) }?;
    forward_form(&cursor, references, out)
}

fn forward_form(
    cursor: &Cursor<'_>,
    references: &mut Vec<(String, At<String>)>,
    out: &mut Problems,
) -> Option<At<String>> {
    if !cursor.is_array() {
        if !cursor.is_string() {
            return cursor.mismatch("the name of a target group", out);
        }
        let group = name(cursor, out)?;
        references.push((cursor.key(), group.clone()));
        return Some(group);
    }
    let before = out.count();
    let mut weights = Vec::new();
    for entry in cursor.list("a list", out)? {
        let Some(mut share) = entry.table(out) else { continue };
        if let Some(cursor) = share.required("group", out)
            && let Some(group) = name(&cursor, out)
        {
            references.push((cursor.key(), group));
        }
        weights.push(share.required("weight", out).and_then(|c| c.integer(0_u16, 256, out)));
        share.finish(out);
    }
    if weights.is_empty() {
        out.add(cursor.span(), Problem::Empty { key: cursor.key() });
    } else if weights.iter().all(|weight| *weight == Some(0)) {
        out.add(cursor.span(), Problem::NoWeight { key: cursor.key() });
    }
    if out.count() == before {
        let key = format!("{} with weights", cursor.key());
        out.add(cursor.span(), Problem::NotAvailable { key });
    }
    None
}

fn timeouts(cursor: Option<&Cursor<'_>>, out: &mut Problems) -> Timeouts {
    let mut timeouts = Timeouts { connect: 5 * SECOND, idle: 350 * SECOND };
    let Some(mut table) = cursor.and_then(|cursor| cursor.table(out)) else { return timeouts };
    if let Some(connect) = table.get("connect").and_then(|c| c.duration(MS, 75 * SECOND, out)) {
        timeouts.connect = connect.into_inner();
    }
    if let Some(idle) = table.get("idle").and_then(|c| c.duration(SECOND, 7 * DAY, out)) {
        timeouts.idle = idle.into_inner();
    }
    unavailable(table.get("header"), out, |c, out| c.duration(MS, DAY, out));
    unavailable(table.get("response"), out, |c, out| c.duration(MS, DAY, out));
    unavailable(table.get("tunnel"), out, |c, out| c.duration(SECOND, 7 * DAY, out));
    table.finish(out);
    timeouts
}

fn limits(cursor: Option<&Cursor<'_>>, out: &mut Problems) -> Limits {
    let mut limits = Limits { max_connections: 100_000 };
    let Some(mut table) = cursor.and_then(|cursor| cursor.table(out)) else { return limits };
    if let Some(max) = table.get("max_connections").and_then(|c| c.integer(1_u32, 10_000_000, out)) {
        limits.max_connections = max;
    }
    unavailable(table.get("max_header_bytes"), out, |c, out| size_form(c, 1 << 10, 1 << 20, out));
    table.finish(out);
    limits
}

fn size_form(cursor: &Cursor<'_>, min: u64, max: u64, out: &mut Problems) {
    let Some(text) = cursor.string(out) else { return };
    let key = cursor.key();
    let value = quoted(text.get_ref());
    match parse_size(text.get_ref()) {
        None => out.add(cursor.span(), Problem::BadSize { key, value }),
        Some(size) if size < min || size > max => {
            let range = format!("{} to {} KiB", min >> 10, max >> 10);
            out.add(cursor.span(), Problem::OutOfRange { key, value, range })
        }
        Some(_) => return,
    };
}

fn tls_form(cursor: &Cursor<'_>, out: &mut Problems) {
    let Some(mut table) = cursor.table(out) else { return };
    if let Some(cursor) = table.required("certificates", out) {
        texts_form(&cursor, out);
    }
    table.get("min_version").and_then(|c| c.word(TLS_VERSIONS, out));
    table.finish(out);
}

/// A list with at least one text.
fn texts_form(cursor: &Cursor<'_>, out: &mut Problems) {
    let Some(entries) = cursor.list("a list of strings", out) else { return };
    if entries.is_empty() {
        out.add(cursor.span(), Problem::Empty { key: cursor.key() });
    }
    for entry in entries {
        text(&entry, out);
    }
}

fn rate_form(cursor: &Cursor<'_>, out: &mut Problems) {
    let Some(mut table) = cursor.table(out) else { return };
    table.required("key", out).and_then(|c| c.word(RATE_KEYS, out));
    table.required("requests", out).and_then(|c| c.integer(1_u32, 1_000_000_000, out));
    table.required("per", out).and_then(|c| c.duration(MS, DAY, out));
    table.get("scope").and_then(|c| c.word(RATE_SCOPES, out));
    table.finish(out);
}

fn rules_form(cursor: &Cursor<'_>, references: &mut Vec<(String, At<String>)>, out: &mut Problems) {
    for rule in cursor.list("tables written as [[service.rule]]", out).unwrap_or_default() {
        let Some(mut table) = rule.table(out) else { continue };
        if let Some(when) = table.required("when", out) {
            when_form(&when, out);
        }
        let (forward, redirect) = (table.get("forward"), table.get("redirect"));
        if forward.is_some() == redirect.is_some() {
            let found = if forward.is_some() { "both" } else { "none" };
            let choices = "forward and redirect".to_owned();
            out.add(rule.span(), Problem::OneOf { key: rule.key(), choices, found: found.to_owned() });
        }
        if let Some(forward) = forward {
            forward_form(&forward, references, out);
        }
        if let Some(redirect) = redirect {
            redirect_form(&redirect, out);
        }
        table.finish(out);
    }
}

fn when_form(cursor: &Cursor<'_>, out: &mut Problems) {
    let Some(mut table) = cursor.table(out) else { return };
    if let Some(hosts) = table.get("host") {
        texts_form(&hosts, out);
    }
    if let Some(prefix) = table.get("path_prefix") {
        prefix.string_that(is_path, |key, value| Problem::BadPath { key, value }, out);
    }
    if let Some(headers) = table.get("header").and_then(|header| header.table(out)) {
        for (_, pattern) in headers.entries() {
            text(&pattern, out);
        }
    }
    table.finish(out);
}

fn redirect_form(cursor: &Cursor<'_>, out: &mut Problems) {
    let Some(mut table) = cursor.table(out) else { return };
    table.required("to", out).and_then(|c| text(&c, out));
    if let Some(cursor) = table.get("status")
        && let Some(status) = cursor.integer(301_u16, 308, out)
        && !matches!(status, 301..=303 | 307 | 308)
    {
        let range = "301, 302, 303, 307 or 308".to_owned();
        out.add(cursor.span(), Problem::OutOfRange { key: cursor.key(), value: status.to_string(), range });
    }
    table.finish(out);
}
