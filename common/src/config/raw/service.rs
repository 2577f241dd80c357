//! `[[service]]` as written.

use std::path::PathBuf;

use super::access::{self, RawAccess, network};
use super::auth::{self, RawAuth};
use super::compress;
use super::http::{RawChanges, header_changes, is_token};
use super::otlp::{self, RawOtlp};
use super::pages;
use super::reader::{At, Cursor, Table, at};
use super::rule::{self, RawRules, References, forward_form, only_http};
use super::tls::{self, RawTls};
use super::value::{RawListen, listen, parse_size};
use super::{name, text};
use crate::config::diag::{Problems, Span, quoted};
use crate::config::problem::Problem;
use crate::config::types::{
    AccessLog, AccessLogFormat, Compress, Dsr, Forwarded, Http, Limits, OnUnhealthy, Rate, RateKey,
    RateScope, SampleShare, Split,
};
use crate::time::Duration;

/// `[[service]]`.
pub(crate) struct RawService {
    pub(crate) name: Option<At<String>>,
    /// The mode's word.
    pub(crate) mode: Option<At<&'static str>>,
    pub(crate) listen: Vec<At<RawListen>>,
    pub(crate) forward: Option<At<String>>,
    pub(crate) rules: RawRules,
    pub(crate) http: RawHttp,
    /// Every target group that is named anywhere in the service, with the key that names it.
    pub(crate) references: References,
    pub(crate) timeout: RawTimeouts,
    pub(crate) limits: Limits,
    pub(crate) rates: Vec<At<Rate>>,
    pub(crate) accept_proxy: Option<At<Vec<At<ipnet::IpNet>>>>,
    pub(crate) transparent: bool,
    pub(crate) access: RawAccess,
    pub(crate) access_log: Option<AccessLog>,
    pub(crate) dsr: Option<At<Dsr>>,
    pub(crate) preserve_client_ip: Option<At<bool>>,
    pub(crate) on_unhealthy: Option<At<OnUnhealthy>>,
    /// The keys that are there and only have a meaning where connections end here.
    pub(crate) proxy_keys: Vec<(String, Span)>,
}

/// What only `mode = "http"` has beside its rules.
#[derive(Default)]
pub(crate) struct RawHttp {
    pub(crate) tls: Option<RawTls>,
    pub(crate) forward: Option<At<Split>>,
    pub(crate) request_headers: RawChanges,
    pub(crate) response_headers: RawChanges,
    pub(crate) trust_forwarded: Vec<At<ipnet::IpNet>>,
    pub(crate) forwarded: Forwarded,
    pub(crate) header_bytes_max: Option<usize>,
    pub(crate) http2: Option<bool>,
    pub(crate) streams_max: Option<u32>,
    pub(crate) uri_bytes_max: Option<usize>,
    pub(crate) body_bytes_max: Option<u64>,
    pub(crate) body_bytes_per_second_min: Option<u32>,
    pub(crate) rate_header: Option<String>,
    pub(crate) auth: Option<RawAuth>,
    pub(crate) error_pages: Vec<(u16, At<String>)>,
    pub(crate) otlp: Option<RawOtlp>,
    pub(crate) compress: Option<Compress>,
}

/// `timeout`.
#[derive(Default)]
pub(crate) struct RawTimeouts {
    pub(crate) connect: Option<At<Duration>>,
    pub(crate) idle: Option<At<Duration>>,
    pub(crate) header: Option<At<Duration>>,
    pub(crate) keepalive: Option<At<Duration>>,
    pub(crate) user: Option<At<Duration>>,
    pub(crate) half_open: Option<At<Duration>>,
    pub(crate) closing: Option<At<Duration>>,
    pub(crate) response: Option<At<Duration>>,
    pub(crate) tunnel: Option<At<Duration>>,
}

const MODES: &[(&str, &str)] =
    &[("nat", "nat"), ("dsr", "dsr"), ("tcp", "tcp"), ("udp", "udp"), ("http", "http")];
/// What only services of `mode = "http"` have.
const HTTP_KEYS: [&str; 10] = [
    "request_headers",
    "response_headers",
    "trust_forwarded",
    "forwarded",
    "tls",
    "http2",
    "auth",
    "error_pages",
    "otlp",
    "compress",
];
const ON_UNHEALTHY: &[(&str, OnUnhealthy)] = &[("reset", OnUnhealthy::Reset), ("move", OnUnhealthy::Move)];
const RATE_KEYS: &[(&str, RateKey)] =
    &[("source_ip", RateKey::SourceIp), ("header", RateKey::Header), ("service", RateKey::Service)];
const RATE_SCOPES: &[(&str, RateScope)] = &[("node", RateScope::Node), ("pair", RateScope::Pair)];
const LOG_FORMATS: &[(&str, AccessLogFormat)] =
    &[("json", AccessLogFormat::Json), ("line", AccessLogFormat::Line)];

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

const HEADER_BYTES: [u64; 2] = [1 << 10, Http::HEADER_BYTES_MOST as u64];
const URI_BYTES: [u64; 2] = [128, 1 << 16];
const BODY_BYTES: [u64; 2] = [0, 1 << 40];

/// Of a connection of HTTP/2: each may hold a buffer in either direction.
const STREAMS_MAX: u32 = 1000;

/// Of a service, or of one client address.
const CONNECTIONS_MAX: u32 = 10_000_000;
const CONNECTIONS_DEFAULT: u32 = 100_000;
/// Each session takes one of the host's ports, of which the kernel gives out 28,232 unless told otherwise: some have to be
/// left for everything else.
const SESSIONS_DEFAULT: u32 = 20_000;

pub(super) fn read(mut table: Table<'_>, out: &mut Problems) -> RawService {
    let mut references = Vec::new();
    let name = table.required("name", out).and_then(|cursor| name(&cursor, out));
    let mode = table.required("mode", out).and_then(|cursor| cursor.word(MODES, out));
    let word = mode.as_ref().map(|mode| *mode.get_ref());
    let dsr = if word == Some("dsr") { table.required("dsr", out) } else { table.get("dsr") };
    let ways = Dsr::ALL.map(|way| (way.name(), way));
    let proxy_keys = ["accept_proxy", "transparent", "access_log"];
    let mut proxy_keys: Vec<_> = proxy_keys.into_iter().filter_map(|key| table.place(key)).collect();
    let mut http = RawHttp::default();
    let raw = RawService {
        name,
        listen: table.required("listen", out).map(|cursor| listeners(&cursor, out)).unwrap_or_default(),
        forward: forward(&mut table, word, &mut http, &mut references, out),
        rules: table.get("rule").map(|c| rule::read(&c, word, &mut references, out)).unwrap_or_default(),
        mode,
        timeout: table.get("timeout").and_then(|c| timeouts(&c, word, out)).unwrap_or_default(),
        limits: limits(table.get("limits").as_ref(), word, &mut http, &mut proxy_keys, out),
        rates: table.get("rate").map(|c| rates(&c, word, &mut http, out)).unwrap_or_default(),
        accept_proxy: table.get("accept_proxy").and_then(|c| networks(&c, out)),
        transparent: table.get("transparent").and_then(|c| c.boolean(out)).unwrap_or(false),
        access: table.get("access").and_then(|c| access::read(&c, out)).unwrap_or_default(),
        access_log: table.get("access_log").and_then(|c| access_log(&c, out)),
        dsr: dsr.and_then(|c| c.word(&ways, out)),
        preserve_client_ip: table
            .get("preserve_client_ip")
            .and_then(|c| c.boolean(out).map(|value| at(&c.span(), value))),
        on_unhealthy: table.get("on_unhealthy").and_then(|c| c.word(ON_UNHEALTHY, out)),
        proxy_keys,
        references: Vec::new(),
        http: RawHttp::default(),
    };
    read_http(&mut table, word, &mut http, out);
    table.finish(out);
    RawService { references, http, ..raw }
}

/// The keys that only a service of `mode = "http"` has.
fn read_http(table: &mut Table<'_>, mode: Option<&str>, http: &mut RawHttp, out: &mut Problems) {
    if mode.is_some_and(|mode| mode != "http") {
        only_http(table, &HTTP_KEYS, out);
        return;
    }
    http.tls = table.get("tls").and_then(|cursor| tls::service(&cursor, out));
    [http.request_headers, http.response_headers] = header_changes(table, out);
    if let Some(trusted) = table.get("trust_forwarded").and_then(|cursor| networks(&cursor, out)) {
        http.trust_forwarded = trusted.into_inner();
    }
    let ways = Forwarded::ALL.map(|way| (way.name(), way));
    let forwarded = table.get("forwarded").and_then(|cursor| cursor.word(&ways, out));
    http.forwarded = forwarded.map(At::into_inner).unwrap_or_default();
    http.http2 = table.get("http2").and_then(|cursor| cursor.boolean(out));
    http.auth = table.get("auth").and_then(|cursor| auth::read(&cursor, false, out));
    http.error_pages = table.get("error_pages").map(|cursor| pages::read(&cursor, out)).unwrap_or_default();
    http.otlp = table.get("otlp").and_then(|cursor| otlp::read(&cursor, out));
    http.compress = table.get("compress").and_then(|cursor| compress::read(&cursor, false, out));
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

/// The group that `forward` names, if it names one. With mode `http` a service with rules may do without.
fn forward(
    table: &mut Table<'_>,
    mode: Option<&str>,
    http: &mut RawHttp,
    references: &mut References,
    out: &mut Problems,
) -> Option<At<String>> {
    let of_http = mode.is_none_or(|mode| mode == "http");
    let optional = of_http && table.has("rule");
    let cursor = if optional { table.get("forward") } else { table.required("forward", out) }?;
    if !of_http {
        return forward_form(&cursor, references, out);
    }
    http.forward = super::http::split(&cursor, references, out);
    None
}

fn timeouts(cursor: &Cursor<'_>, mode: Option<&str>, out: &mut Problems) -> Option<RawTimeouts> {
    let mut table = cursor.table(out)?;
    let mut duration = |key, min, max, out: &mut Problems| table.get(key)?.duration(min, max, out);
    let timeouts = RawTimeouts {
        connect: duration("connect", MS, 75 * SECOND, out),
        idle: duration("idle", SECOND, 7 * DAY, out),
        header: duration("header", MS, DAY, out),
        keepalive: duration("keepalive", SECOND, 2 * HOUR, out),
        user: duration("user", SECOND, HOUR, out),
        half_open: duration("half_open", SECOND, HOUR / 6, out),
        closing: duration("closing", SECOND, HOUR, out),
        response: duration("response", MS, DAY, out),
        tunnel: duration("tunnel", SECOND, 7 * DAY, out),
    };
    if mode.is_some_and(|mode| mode != "http") {
        only_http(&mut table, &["response", "tunnel"], out);
    }
    table.finish(out);
    Some(timeouts)
}

fn limits(
    cursor: Option<&Cursor<'_>>,
    mode: Option<&str>,
    http: &mut RawHttp,
    written: &mut Vec<(String, Span)>,
    out: &mut Problems,
) -> Limits {
    let max_connections = if mode == Some("udp") { SESSIONS_DEFAULT } else { CONNECTIONS_DEFAULT };
    let mut limits = Limits { max_connections, max_connections_per_source: None };
    let Some(mut table) = cursor.and_then(|cursor| cursor.table(out)) else { return limits };
    let keys = ["max_connections", "max_connections_per_source"];
    written.extend(keys.into_iter().filter_map(|key| table.place(key)));
    let mut number = |key, out: &mut Problems| table.get(key)?.integer(1, CONNECTIONS_MAX, out);
    if let Some(max) = number("max_connections", out) {
        limits.max_connections = max;
    }
    limits.max_connections_per_source = number("max_connections_per_source", out);
    if mode.is_none_or(|mode| mode == "http") {
        http.streams_max = table.get("max_streams").and_then(|c| c.integer(1, STREAMS_MAX, out));
        let mut size = |key, bounds, range, out: &mut Problems| size(&table.get(key)?, bounds, range, out);
        let header = size("max_header_bytes", HEADER_BYTES, "1 to 64 KiB", out);
        let uri = size("max_uri_bytes", URI_BYTES, "128 B to 64 KiB", out);
        http.header_bytes_max = header.and_then(|size| usize::try_from(size).ok());
        http.uri_bytes_max = uri.and_then(|size| usize::try_from(size).ok());
        http.body_bytes_max = size("max_body_bytes", BODY_BYTES, "0 B to 1024 GiB", out);
        http.body_bytes_per_second_min =
            table.get("min_body_bytes_per_second").and_then(|c| c.integer(1_u32, 1_000_000, out));
    } else {
        let keys = [
            "max_header_bytes",
            "max_uri_bytes",
            "max_body_bytes",
            "min_body_bytes_per_second",
            "max_streams",
        ];
        only_http(&mut table, &keys, out);
    }
    table.finish(out);
    limits
}

/// A size between two bounds, which messages call `range`.
pub(super) fn size(
    cursor: &Cursor<'_>,
    [min, max]: [u64; 2],
    range: &str,
    out: &mut Problems,
) -> Option<u64> {
    let text = cursor.string(out)?;
    let key = cursor.key();
    let value = quoted(text.get_ref());
    let Some(size) = parse_size(text.get_ref()) else {
        out.add(cursor.span(), Problem::BadSize { key, value });
        return None;
    };
    if !(min..=max).contains(&size) {
        out.add(cursor.span(), Problem::OutOfRange { key, value, range: range.to_owned() });
        return None;
    }
    Some(size)
}

/// One rate, or a list with one for all clients and one for each.
fn rates(cursor: &Cursor<'_>, mode: Option<&str>, http: &mut RawHttp, out: &mut Problems) -> Vec<At<Rate>> {
    if !cursor.is_array() {
        return rate(cursor, mode, http, out).into_iter().collect();
    }
    let entries = cursor.list("a table or a list of tables", out).unwrap_or_default();
    let mut rates: Vec<At<Rate>> = Vec::new();
    for entry in entries {
        let Some(read) = rate(&entry, mode, http, out) else { continue };
        let of_all = |rate: &At<Rate>| rate.get_ref().key == RateKey::Service;
        match rates.iter().find(|other| of_all(other) == of_all(&read)) {
            Some(other) => {
                out.add(read.span(), Problem::RateTwice {}).related(other.span(), "the other one");
            }
            None => rates.push(read),
        }
    }
    rates
}

fn rate(cursor: &Cursor<'_>, mode: Option<&str>, http: &mut RawHttp, out: &mut Problems) -> Option<At<Rate>> {
    let mut table = cursor.table(out)?;
    let written = table.required("key", out);
    let key = written.as_ref().and_then(|c| c.word(RATE_KEYS, out)).map(At::into_inner);
    let by_header = key == Some(RateKey::Header);
    let name = if by_header { table.required("name", out) } else { table.get("name") };
    let requests = table.required("requests", out).and_then(|c| c.integer(1_u32, 1_000_000_000, out));
    let per = table.required("per", out).and_then(|c| c.duration(MS, DAY, out));
    let scope = table.get("scope").and_then(|c| c.word(RATE_SCOPES, out));
    table.finish(out);
    if let (Some(name), Some(RateKey::SourceIp | RateKey::Service)) = (&name, key) {
        let needs = "key = \"header\"".to_owned();
        out.add(name.span(), Problem::KeyWithout { key: name.key(), needs });
    }
    if let Some(written) = written.filter(|_| by_header && mode.is_some_and(|mode| mode != "http")) {
        let (key, needs) = (format!("{} = \"header\"", written.key()), "mode = \"http\"".to_owned());
        out.add(written.span(), Problem::KeyWithout { key, needs });
    }
    let problem = |key, value| Problem::BadFieldName { key, value };
    let name = name.and_then(|c| c.string_that(is_token, problem, out));
    if let Some(name) = name.filter(|_| by_header) {
        http.rate_header = Some(name.get_ref().to_ascii_lowercase());
    }
    let scope = scope.map(At::into_inner).unwrap_or_default();
    Some(at(&cursor.span(), Rate { key: key?, requests: requests?, per: per?.into_inner(), scope }))
}

fn networks(cursor: &Cursor<'_>, out: &mut Problems) -> Option<At<Vec<At<ipnet::IpNet>>>> {
    let entries = cursor.list("a list of networks such as [\"10.0.0.0/8\"]", out)?;
    let networks = entries.iter().filter_map(|entry| network(entry, out)).collect();
    Some(at(&cursor.span(), networks))
}

fn access_log(cursor: &Cursor<'_>, out: &mut Problems) -> Option<AccessLog> {
    let mut table = cursor.table(out)?;
    let format = table.get("format").and_then(|c| c.word(LOG_FORMATS, out));
    let file = table.get("file").and_then(|c| text(&c, out));
    let sample = table.get("sample").and_then(|c| c.share(out));
    table.finish(out);
    Some(AccessLog {
        format: format.map(At::into_inner).unwrap_or_default(),
        file: file.map(|file| PathBuf::from(file.into_inner())),
        sample: sample.unwrap_or(SampleShare::ALL),
    })
}
