//! `health` of a target group as written.

use std::path::PathBuf;

use super::reader::{At, Cursor, Table};
use super::text;
use super::value::{is_host, is_host_name, is_path, is_text, joined, parse_payload, parse_statuses, shown};
use crate::config::diag::{Problems, quoted};
use crate::config::problem::Problem;
use crate::config::types::{Health, HealthCheck, Via};
use crate::time::Duration;

/// The keys that say what is tried.
const CHECKS: [&str; 6] = ["http", "https", "tcp", "tls", "grpc", "udp"];

/// The keys that say more about it, each with the checks it has a meaning for.
const DETAILS: [(&str, &[&str]); 4] = [
    ("host", &["http", "https", "tls", "grpc"]),
    ("expect", &["http", "https", "udp"]),
    ("body", &["http", "https"]),
    ("ca_file", &["https", "tls"]),
];

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// The check, and `via` where it is written: what it is by default depends on the services.
pub(super) fn read(cursor: &Cursor<'_>, out: &mut Problems) -> (Option<Health>, Option<At<Via>>) {
    let Some(mut table) = cursor.table(out) else { return (None, None) };
    let vias = Via::ALL.map(|via| (via.name(), via));
    let via = table.get("via").and_then(|c| c.word(&vias, out));
    (health(cursor, table, out), via)
}

fn health(cursor: &Cursor<'_>, mut table: Table<'_>, out: &mut Problems) -> Option<Health> {
    let check = check(cursor, &mut table, out);
    let written = table.get("interval");
    let interval = written.as_ref().and_then(|c| c.duration(10 * MS, HOUR, out)).map(At::into_inner);
    // A wrong interval has been noted already and says nothing about what is compared with it.
    let interval_known = interval.is_some() || written.is_none();
    let interval = interval.unwrap_or(5 * SECOND);
    let timeout = table.get("timeout").and_then(|c| c.duration(MS, HOUR, out));
    if let Some(timeout) = &timeout
        && interval_known
        && *timeout.get_ref() >= interval
    {
        let problem =
            Problem::HealthTimeout { timeout: shown(*timeout.get_ref()), interval: shown(interval) };
        out.add(timeout.span(), problem);
    }
    let default_timeout = if interval > 2 * SECOND { 2 * SECOND } else { interval / 2 };
    let slowest = if interval_known { interval } else { HOUR };
    let unhealthy_interval = table.get("unhealthy_interval").and_then(|c| c.duration(10 * MS, slowest, out));
    let threshold = |c: Cursor<'_>, out: &mut Problems| c.integer(1_u32, 100, out);
    let healthy_threshold = table.get("healthy_threshold").and_then(|c| threshold(c, out)).unwrap_or(3);
    let unhealthy_threshold = table.get("unhealthy_threshold").and_then(|c| threshold(c, out)).unwrap_or(2);
    let port = table.get("port").and_then(|c| c.integer(1_u16, u16::MAX, out));
    table.finish(out);
    Some(Health {
        check: check?,
        interval,
        unhealthy_interval: unhealthy_interval.map_or(interval, At::into_inner),
        timeout: timeout.map_or(default_timeout, At::into_inner),
        healthy_threshold,
        unhealthy_threshold,
        port,
        via: Via::default(),
    })
}

/// What the table says is tried; none when it says nothing that can be tried.
fn check(cursor: &Cursor<'_>, table: &mut Table<'_>, out: &mut Problems) -> Option<HealthCheck> {
    let [http, https, tcp, tls, grpc, udp] = CHECKS.map(|key| table.get(key));
    let given: Vec<&str> = CHECKS.into_iter().filter(|key| table.has(key)).collect();
    // The one pair that goes together: `tls` is then not what is tried, but how.
    let grpc_over_tls = given == ["tls", "grpc"];
    let is_one = given.len() == 1 || grpc_over_tls;
    if !is_one {
        let choices = CHECKS.join(", ");
        let found = if given.is_empty() { "none".to_owned() } else { given.join(" and ") };
        out.add(cursor.span(), Problem::OneOf { key: cursor.key(), choices, found });
    }
    let [host, expect, body, ca_file] = DETAILS.map(|(key, checks)| {
        let detail = table.get(key)?;
        // With none of them there is nothing to be without.
        if given.is_empty() || checks.iter().any(|check| given.contains(check)) {
            return Some(detail);
        }
        out.add(detail.span(), Problem::KeyWithout { key: detail.key(), needs: joined(checks) });
        None
    });
    let mut checks = Vec::new();
    if let Some(tcp) = tcp {
        only_true(&tcp, out);
        checks.push(HealthCheck::Tcp);
    }
    if let Some(tls) = tls {
        only_true(&tls, out);
        if !grpc_over_tls {
            let host = host.as_ref().and_then(|c| server_name(c, out));
            let ca_file = ca_file.as_ref().and_then(|c| path_of_file(c, out));
            checks.push(HealthCheck::Tls { host, ca_file });
        }
    }
    if let Some(grpc) = grpc {
        let service = grpc_service(&grpc, out);
        let host = host.as_ref().and_then(|c| host_header(c, out));
        let ca_file = ca_file.as_ref().filter(|_| grpc_over_tls).and_then(|c| path_of_file(c, out));
        let tls = grpc_over_tls;
        checks.extend(service.map(|service| HealthCheck::Grpc { tls, service, host, ca_file }));
    }
    if let Some(udp) = udp {
        let sent = payload(&udp, out);
        let expect = expect.as_ref().filter(|_| http.is_none() && https.is_none());
        let expect = expect.and_then(|c| payload(c, out));
        checks.extend(sent.map(|payload| HealthCheck::Udp { payload, expect }));
    }
    for (path, tls) in [(http, false), (https, true)] {
        let Some(path) = path else { continue };
        let path = path.string_that(is_path, |key, value| Problem::BadPath { key, value }, out);
        let host = host.as_ref().and_then(|c| host_header(c, out));
        let expect = expect.as_ref().and_then(|c| statuses(c, out)).unwrap_or_else(|| vec![(200, 299)]);
        let body = body.as_ref().and_then(|c| text(c, out)).map(At::into_inner);
        let ca_file = ca_file.as_ref().filter(|_| tls).and_then(|c| path_of_file(c, out));
        let http = |path: At<String>| HealthCheck::Http {
            tls,
            path: path.into_inner(),
            host,
            expect,
            body,
            ca_file,
        };
        checks.extend(path.map(http));
    }
    checks.pop().filter(|_| is_one)
}

fn only_true(cursor: &Cursor<'_>, out: &mut Problems) {
    if cursor.boolean(out) == Some(false) {
        out.add(cursor.span(), Problem::OnlyTrue { key: cursor.key() });
    }
}

fn host_header(cursor: &Cursor<'_>, out: &mut Problems) -> Option<String> {
    cursor.string_that(is_host, |key, value| Problem::BadHost { key, value }, out).map(At::into_inner)
}

/// A name that TLS can ask for, or an address.
pub(super) fn server_name(cursor: &Cursor<'_>, out: &mut Problems) -> Option<String> {
    let fits = |text: &str| is_host_name(text) || text.parse::<std::net::IpAddr>().is_ok();
    cursor.string_that(fits, |key, value| Problem::BadHostName { key, value }, out).map(At::into_inner)
}

fn path_of_file(cursor: &Cursor<'_>, out: &mut Problems) -> Option<PathBuf> {
    text(cursor, out).map(|path| PathBuf::from(path.into_inner()))
}

/// A service's name; the empty one is the server as a whole.
fn grpc_service(cursor: &Cursor<'_>, out: &mut Problems) -> Option<String> {
    let service = cursor.string(out)?.into_inner();
    if !is_text(&service) {
        out.add(cursor.span(), Problem::BadText { key: cursor.key(), value: quoted(&service) });
        return None;
    }
    Some(service)
}

fn payload(cursor: &Cursor<'_>, out: &mut Problems) -> Option<Vec<u8>> {
    let fits = |text: &str| parse_payload(text).is_some();
    let text = cursor.string_that(fits, |key, value| Problem::BadPayload { key, value }, out)?;
    parse_payload(text.get_ref())
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
