//! `[[target_group]]` as written.

use std::net::SocketAddr;

use super::reader::{At, Cursor, Table, at};
use super::value::{
    is_host, is_host_and_port, is_name, is_path, is_target_id, parse_statuses, shown, unusable_host,
};
use super::{name, text, unavailable};
use crate::config::diag::{Problems, quoted};
use crate::config::problem::Problem;
use crate::config::types::{Health, HealthCheck, Retry};
use crate::time::Duration;

/// `[[target_group]]`.
pub(crate) struct RawGroup {
    pub(crate) name: Option<At<String>>,
    pub(crate) targets: Vec<RawTarget>,
    pub(crate) health: Option<Health>,
    pub(crate) retry: Retry,
    pub(crate) drain_timeout: Duration,
}

/// One of `targets`.
pub(crate) struct RawTarget {
    pub(crate) id: Option<At<String>>,
    /// Whether the key is there, readable or not.
    pub(crate) has_id: bool,
    pub(crate) address: Option<At<SocketAddr>>,
    pub(crate) weight: u16,
}

const ALGORITHMS: &[(&str, &str)] = &[
    ("round_robin", "round_robin"),
    ("least_connections", "least_connections"),
    ("least_outstanding_requests", "least_outstanding_requests"),
    ("random", "random"),
    ("power_of_two_choices", "power_of_two_choices"),
    ("source_ip_hash", "source_ip_hash"),
    ("consistent_hash", "consistent_hash"),
    ("flow_hash", "flow_hash"),
];
const RETRY_REASONS: &[(&str, &str)] = &[("connect", "connect"), ("stale_connection", "stale_connection")];
const STICKY_WAYS: &[(&str, &str)] =
    &[("cookie", "cookie"), ("app_cookie", "app_cookie"), ("source_ip", "source_ip")];
const PROXY_VERSIONS: &[(&str, ())] = &[("v1", ()), ("v2", ())];
const HEALTH_CHECKS: [&str; 5] = ["http", "tcp", "tls", "grpc", "udp"];

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

pub(super) fn read(mut table: Table<'_>, out: &mut Problems) -> RawGroup {
    let span = table.span().clone();
    let name = table.required("name", out).and_then(|cursor| name(&cursor, out));
    if let Some(cursor) = table.get("algorithm")
        && let Some(algorithm) = cursor.word(ALGORITHMS, out)
        && *algorithm.get_ref() != "round_robin"
    {
        cursor.not_available(Some(algorithm.get_ref()), out);
    }
    let targets = table.get("targets");
    let entries = targets.as_ref().and_then(|cursor| cursor.list("a list of targets", out));
    let none_written = targets.is_none() || entries.as_ref().is_some_and(Vec::is_empty);
    if none_written && !table.has("discover") {
        let place = targets.as_ref().map_or(span, Cursor::span);
        out.add(place, Problem::NoTargets {});
    }
    let targets = entries.unwrap_or_default().iter().filter_map(|entry| target(entry, out)).collect();
    unavailable(table.get("discover"), out, discover_form);
    let health = table.get("health").and_then(|cursor| health(&cursor, out));
    unavailable(table.get("eject"), out, eject_form);
    unavailable(table.get("sticky"), out, sticky_form);
    unavailable(table.get("slow_start"), out, |c, out| c.duration(Duration::ZERO, HOUR, out));
    unavailable(table.get("send_proxy"), out, |c, out| c.word(PROXY_VERSIONS, out));
    let retry = retry(table.get("retry").as_ref(), out);
    let drain_timeout = table.get("drain_timeout").and_then(|c| c.duration(SECOND, HOUR, out));
    table.finish(out);
    let drain_timeout = drain_timeout.map_or(300 * SECOND, At::into_inner);
    RawGroup { name, targets, health, retry, drain_timeout }
}

fn target(cursor: &Cursor<'_>, out: &mut Problems) -> Option<RawTarget> {
    if !cursor.is_table() {
        return cursor.mismatch("a table such as { address = \"192.0.2.1:80\" }", out);
    }
    let mut table = cursor.table(out)?;
    let id = table
        .get("id")
        .and_then(|c| c.string_that(is_target_id, |key, value| Problem::BadTargetId { key, value }, out));
    let address = table.required("address", out).and_then(|c| {
        let address = c.socket_address(out)?;
        let Some(why) = unusable_host(address.get_ref().ip(), false) else { return Some(address) };
        let value = address.get_ref().ip().to_string();
        out.add(c.span(), Problem::UnusableAddress { key: c.key(), value, why: why.to_owned() });
        None
    });
    let weight = table.get("weight").and_then(|c| c.integer(0_u16, 256, out)).unwrap_or(1);
    let has_id = table.has("id");
    table.finish(out);
    Some(RawTarget { id, has_id, address, weight })
}

fn retry(cursor: Option<&Cursor<'_>>, out: &mut Problems) -> Retry {
    let mut retry = Retry { connect: true, attempts: 2 };
    let Some(mut table) = cursor.and_then(|cursor| cursor.table(out)) else { return retry };
    let reasons = table.get("on").and_then(|c| c.list("a list such as [\"connect\"]", out));
    if let Some(reasons) = reasons {
        retry.connect = false;
        for cursor in reasons {
            match cursor.word(RETRY_REASONS, out).map(At::into_inner) {
                Some("connect") => retry.connect = true,
                Some(reason) => cursor.not_available(Some(reason), out),
                None => {}
            }
        }
    }
    if let Some(attempts) = table.get("attempts").and_then(|c| c.integer(1_u32, 10, out)) {
        retry.attempts = attempts;
    }
    table.finish(out);
    retry
}

fn health(cursor: &Cursor<'_>, out: &mut Problems) -> Option<Health> {
    let mut table = cursor.table(out)?;
    let check = check(cursor, &mut table, out);
    let interval = table.get("interval");
    let interval_given = interval.is_some();
    let interval = interval.and_then(|c| c.duration(10 * MS, HOUR, out)).map(At::into_inner);
    let timeout = table.get("timeout").and_then(|c| c.duration(MS, HOUR, out));
    let known_interval = interval.unwrap_or(5 * SECOND);
    // A wrong interval has been noted already and says nothing about the time-out.
    if let Some(timeout) = &timeout
        && (interval.is_some() || !interval_given)
        && *timeout.get_ref() >= known_interval
    {
        let problem =
            Problem::HealthTimeout { timeout: shown(*timeout.get_ref()), interval: shown(known_interval) };
        out.add(timeout.span(), problem);
    }
    let default_timeout = if known_interval > 2 * SECOND { 2 * SECOND } else { known_interval / 2 };
    let threshold = |c: Cursor<'_>, out: &mut Problems| c.integer(1_u32, 100, out);
    let healthy_threshold = table.get("healthy_threshold").and_then(|c| threshold(c, out)).unwrap_or(3);
    let unhealthy_threshold = table.get("unhealthy_threshold").and_then(|c| threshold(c, out)).unwrap_or(2);
    table.finish(out);
    Some(Health {
        check: check?,
        interval: known_interval,
        timeout: timeout.map_or(default_timeout, At::into_inner),
        healthy_threshold,
        unhealthy_threshold,
    })
}

/// What the table says is tried; none when it says nothing that can be tried.
fn check(cursor: &Cursor<'_>, table: &mut Table<'_>, out: &mut Problems) -> Option<HealthCheck> {
    let [http, tcp, tls, grpc, udp] = HEALTH_CHECKS.map(|key| table.get(key));
    let given: Vec<&str> = HEALTH_CHECKS.into_iter().filter(|key| table.has(key)).collect();
    if given.len() != 1 {
        let choices = HEALTH_CHECKS.join(", ");
        let found = if given.is_empty() { "none".to_owned() } else { given.join(" and ") };
        out.add(cursor.span(), Problem::OneOf { key: cursor.key(), choices, found });
    }
    let (expect, host) = (table.get("expect"), table.get("host"));
    if let (Some(host), None) = (&host, &http) {
        let needs = "http".to_owned();
        out.add(host.span(), Problem::KeyWithout { key: host.key(), needs });
    }
    if let (Some(expect), None, None) = (&expect, &http, &udp) {
        let needs = "http or udp".to_owned();
        out.add(expect.span(), Problem::KeyWithout { key: expect.key(), needs });
    }
    unavailable(tls, out, only_true);
    unavailable(grpc, out, |c, out| c.string(out));
    unavailable(udp, out, |c, out| {
        c.string(out);
        expect.as_ref().filter(|_| http.is_none()).and_then(|expect| expect.string(out));
    });
    if let Some(tcp) = tcp {
        only_true(&tcp, out);
        return (given.len() == 1).then_some(HealthCheck::Tcp);
    }
    let path = http?.string_that(is_path, |key, value| Problem::BadPath { key, value }, out);
    let host = host.and_then(|c| c.string_that(is_host, |key, value| Problem::BadHost { key, value }, out));
    let expect = expect.and_then(|c| statuses(&c, out)).unwrap_or_else(|| vec![(200, 299)]);
    Some(HealthCheck::Http { path: path?.into_inner(), host: host.map(At::into_inner), expect })
}

fn only_true(cursor: &Cursor<'_>, out: &mut Problems) {
    if cursor.boolean(out) == Some(false) {
        out.add(cursor.span(), Problem::OnlyTrue { key: cursor.key() });
    }
}

fn statuses(cursor: &Cursor<'_>, out: &mut Problems) -> Option<Vec<(u16, u16)>> {
    let text = cursor.string(out)?;
    let parsed = parse_statuses(text.get_ref());
    if parsed.is_none() {
        let value = quoted(text.get_ref());
        out.add(cursor.span(), Problem::BadStatuses { key: cursor.key(), value });
    }
    parsed
}

fn discover_form(cursor: &Cursor<'_>, out: &mut Problems) {
    let Some(mut table) = cursor.table(out) else { return };
    let (dns, file) = (table.get("dns"), table.get("file"));
    if dns.is_some() == file.is_some() {
        let found = if dns.is_some() { "both" } else { "none" }.to_owned();
        let choices = "dns and file".to_owned();
        out.add(cursor.span(), Problem::OneOf { key: cursor.key(), choices, found });
    }
    if let Some(dns) = dns {
        dns.string_that(is_host_and_port, |key, value| Problem::BadDnsName { key, value }, out);
    }
    file.and_then(|file| text(&file, out));
    table.get("refresh").and_then(|c| c.duration(SECOND, HOUR, out));
    table.finish(out);
}

fn eject_form(cursor: &Cursor<'_>, out: &mut Problems) {
    let Some(mut table) = cursor.table(out) else { return };
    table.get("consecutive_failures").and_then(|c| c.integer(1_u32, 1000, out));
    table.get("base").and_then(|c| c.duration(SECOND, HOUR, out));
    table.get("max_percent").and_then(|c| c.integer(0_u8, 100, out));
    table.finish(out);
}

fn sticky_form(cursor: &Cursor<'_>, out: &mut Problems) {
    let Some(mut table) = cursor.table(out) else { return };
    let by = table.required("by", out).and_then(|c| c.word(STICKY_WAYS, out)).map(At::into_inner);
    let cookie = match by {
        Some("app_cookie") => table.required("name", out),
        _ => table.get("name"),
    };
    if let Some(cookie) = cookie {
        cookie.string_that(is_name, |key, value| Problem::BadName { key, value }, out);
        if by == Some("source_ip") {
            let needs = "by = \"cookie\" or \"app_cookie\"".to_owned();
            out.add(cookie.span(), Problem::KeyWithout { key: cookie.key(), needs });
        }
    }
    table.get("ttl").and_then(|c| c.duration(SECOND, 24 * 30 * HOUR, out));
    table.finish(out);
}

impl RawTarget {
    /// The id as it will be known, with where it is written.
    pub(crate) fn known_id(&self) -> Option<At<String>> {
        if self.has_id {
            return self.id.clone();
        }
        self.address.as_ref().map(|address| at(&address.span(), address.get_ref().to_string()))
    }
}
