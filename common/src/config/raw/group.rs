//! `[[target_group]]` as written.

use super::discover;
use super::health;
use super::http::is_token;
use super::name;
use super::reader::{At, Cursor, Table, at};
use super::target::{RawTarget, targets};
use super::tls::{self, RawTargetTls};
use super::value::is_name;
use crate::config::diag::{Problems, Span};
use crate::config::problem::Problem;
use crate::config::types::{
    Algorithm, Discover, Eject, HashBy, Health, KeepAlive, ProxyVersion, Queue, Retry, SameSite, Sticky,
    StickyBy, StickyCookie, Via,
};
use crate::time::Duration;

/// `[[target_group]]`. Paths are as written: relative ones are not yet in the file's folder.
pub(crate) struct RawGroup {
    pub(crate) name: Option<At<String>>,
    pub(crate) algorithm: Option<At<Algorithm>>,
    /// With the place of what the hash goes by.
    pub(crate) hash_by: Option<At<HashBy>>,
    pub(crate) targets: Vec<RawTarget>,
    /// Whether every target written could be read.
    pub(crate) targets_complete: bool,
    /// Where the targets are written, or the whole group.
    pub(crate) targets_span: Span,
    pub(crate) discover: Option<Discover>,
    /// Whether the key is there, readable or not.
    pub(crate) has_discover: bool,
    pub(crate) health: Option<Health>,
    /// `health.via`, where it is written.
    pub(crate) via: Option<At<Via>>,
    pub(crate) eject: Option<Eject>,
    pub(crate) panic_percent: u8,
    /// With the place of what clients are known by.
    pub(crate) sticky: Option<At<Sticky>>,
    pub(crate) slow_start: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) retry: Retry,
    pub(crate) queue: Option<At<Queue>>,
    pub(crate) keep_alive: Option<At<KeepAlive>>,
    pub(crate) send_proxy: Option<At<ProxyVersion>>,
    pub(crate) cross_zone: Option<At<bool>>,
    pub(crate) tls: Option<RawTargetTls>,
    /// `protocol`: whether it is HTTP/2.
    pub(crate) http2: Option<At<bool>>,
    /// The keys of [`PROXY_KEYS`] that are there.
    pub(crate) proxy_keys: Vec<(String, Span)>,
}

/// Keys that only have a meaning for connections which `lbd` makes itself.
const PROXY_KEYS: [&str; 4] = ["eject", "retry", "queue", "send_proxy"];

/// Reasons to try again.
#[derive(Clone, Copy)]
enum Reason {
    Connect,
    StaleConnection,
    NoAnswer,
}

const RETRY_REASONS: &[(&str, Reason)] = &[
    ("connect", Reason::Connect),
    ("stale_connection", Reason::StaleConnection),
    ("no_answer", Reason::NoAnswer),
];
const STICKY_WAYS: &[(&str, &str)] =
    &[("cookie", "cookie"), ("app_cookie", "app_cookie"), ("source_ip", "source_ip")];
const HASH_WAYS: &[(&str, &str)] =
    &[("source_ip", "source_ip"), ("header", "header"), ("cookie", "cookie"), ("path", "path")];
const PROTOCOLS: &[(&str, bool)] = &[("http1", false), ("http2", true)];
const SAME_SITES: &[(&str, SameSite)] =
    &[("strict", SameSite::Strict), ("lax", SameSite::Lax), ("none", SameSite::None)];
const PROXY_VERSIONS: &[(&str, ProxyVersion)] = &[("v1", ProxyVersion::V1), ("v2", ProxyVersion::V2)];

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn read(mut table: Table<'_>, out: &mut Problems) -> RawGroup {
    let span = table.span().clone();
    let name = table.required("name", out).and_then(|cursor| name(&cursor, out));
    let algorithms = Algorithm::ALL.map(|algorithm| (algorithm.name(), algorithm));
    let written = table.get("algorithm");
    let algorithm = written.as_ref().and_then(|c| c.word(&algorithms, out));
    // An algorithm that cannot be read may well be that one.
    let may_be_consistent = match &algorithm {
        Some(algorithm) => *algorithm.get_ref() == Algorithm::ConsistentHash,
        None => written.is_some(),
    };
    let hash_by = table.get("hash").and_then(|c| hash(&c, may_be_consistent, out));
    let written = table.get("targets");
    let entries = written.as_ref().and_then(|cursor| targets(cursor, true, out));
    let none_written = written.is_none() || entries.as_ref().is_some_and(|(entries, _)| entries.is_empty());
    let targets_span = written.as_ref().map_or(span, Cursor::span);
    let has_discover = table.has("discover");
    let (targets, targets_complete) = entries.unwrap_or((Vec::new(), written.is_none()));
    if none_written && targets_complete && !has_discover {
        out.add(targets_span.clone(), Problem::NoTargets {});
    }
    let (health, via) = table.get("health").map_or((None, None), |c| health::read(&c, out));
    let sticky = table.get("sticky").and_then(|c| sticky(&c, name.as_ref(), out));
    let raw = RawGroup {
        name,
        algorithm,
        hash_by,
        targets,
        targets_complete,
        targets_span,
        discover: table.get("discover").and_then(|c| discover::read(&c, out)),
        has_discover,
        health,
        via,
        eject: table.get("eject").and_then(|c| eject(&c, out)),
        panic_percent: table.get("panic_percent").and_then(|c| c.integer(0_u8, 100, out)).unwrap_or(0),
        sticky,
        slow_start: table
            .get("slow_start")
            .and_then(|c| c.duration(Duration::ZERO, HOUR, out))
            .map_or(Duration::ZERO, At::into_inner),
        drain_timeout: table
            .get("drain_timeout")
            .and_then(|c| c.duration(SECOND, HOUR, out))
            .map_or(300 * SECOND, At::into_inner),
        retry: retry(table.get("retry").as_ref(), out),
        queue: table.get("queue").and_then(|c| queue(&c, out)),
        keep_alive: table.get("keep_alive").and_then(|c| keep_alive(&c, out)),
        send_proxy: table.get("send_proxy").and_then(|c| c.word(PROXY_VERSIONS, out)),
        cross_zone: table.get("cross_zone").and_then(|c| c.boolean(out).map(|value| at(&c.span(), value))),
        tls: table.get("tls").and_then(|c| tls::targets(&c, out)),
        http2: table.get("protocol").and_then(|c| c.word(PROTOCOLS, out)),
        proxy_keys: PROXY_KEYS.into_iter().filter_map(|key| table.place(key)).collect(),
    };
    table.finish(out);
    raw
}

fn hash(cursor: &Cursor<'_>, may_be_consistent: bool, out: &mut Problems) -> Option<At<HashBy>> {
    let mut table = cursor.table(out)?;
    let way = table.required("by", out);
    let word = way.as_ref().and_then(|c| c.word(HASH_WAYS, out)).map(At::into_inner);
    let has_name = matches!(word, Some("header" | "cookie"));
    let name = if has_name { table.required("name", out) } else { table.get("name") };
    table.finish(out);
    if !may_be_consistent {
        let needs = "algorithm = \"consistent_hash\"".to_owned();
        out.add(cursor.span(), Problem::KeyWithout { key: cursor.key(), needs });
    }
    if let Some(name) = name.as_ref().filter(|_| word.is_some() && !has_name) {
        let needs = "by = \"header\" or \"cookie\"".to_owned();
        out.add(name.span(), Problem::KeyWithout { key: name.key(), needs });
    }
    // Names of cookies are tokens, too (RFC 6265, section 4.1.1).
    let problem = |key, value| Problem::BadFieldName { key, value };
    let name = name.and_then(|c| c.string_that(is_token, problem, out)).map(At::into_inner);
    let by = match word? {
        "header" => HashBy::Header(name?.to_ascii_lowercase()),
        "cookie" => HashBy::Cookie(name?),
        "path" => HashBy::Path,
        _ => HashBy::SourceIp,
    };
    Some(at(&way.as_ref().map_or_else(|| cursor.span(), Cursor::span), by))
}

fn retry(cursor: Option<&Cursor<'_>>, out: &mut Problems) -> Retry {
    let mut retry = Retry { connect: true, stale_connection: true, ..Retry::NEVER };
    let Some(mut table) = cursor.and_then(|cursor| cursor.table(out)) else { return retry };
    let reasons = table.get("on").and_then(|c| c.list("a list such as [\"connect\"]", out));
    if let Some(reasons) = reasons {
        retry = Retry::NEVER;
        for cursor in reasons {
            match cursor.word(RETRY_REASONS, out).map(At::into_inner) {
                Some(Reason::Connect) => retry.connect = true,
                Some(Reason::StaleConnection) => retry.stale_connection = true,
                Some(Reason::NoAnswer) => retry.no_answer = true,
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

fn eject(cursor: &Cursor<'_>, out: &mut Problems) -> Option<Eject> {
    let mut table = cursor.table(out)?;
    let failures = table.get("consecutive_failures").and_then(|c| c.integer(1_u32, 1000, out));
    let written = table.get("base");
    let base = written.as_ref().and_then(|c| c.duration(100 * MS, HOUR, out));
    // A wrong base has been noted already and says nothing about what is most.
    let min = if written.is_some() && base.is_none() { 100 * MS } else { base_or_default(base.as_ref()) };
    let max = table.get("max").and_then(|c| c.duration(min, DAY, out)).map(At::into_inner);
    let max_percent = table.get("max_percent").and_then(|c| c.integer(0_u8, 100, out));
    table.finish(out);
    let base = base_or_default(base.as_ref());
    Some(Eject {
        consecutive_failures: failures.unwrap_or(5),
        base,
        max: max.unwrap_or((300 * SECOND).max(base)),
        max_percent: max_percent.unwrap_or(50),
    })
}

fn base_or_default(base: Option<&At<Duration>>) -> Duration {
    base.map_or(30 * SECOND, |base| *base.get_ref())
}

fn sticky(cursor: &Cursor<'_>, group: Option<&At<String>>, out: &mut Problems) -> Option<At<Sticky>> {
    let mut table = cursor.table(out)?;
    let way = table.required("by", out);
    let word = way.as_ref().and_then(|c| c.word(STICKY_WAYS, out)).map(At::into_inner);
    let name = if word == Some("app_cookie") { table.required("name", out) } else { table.get("name") };
    let cookie = name.as_ref().and_then(|c| {
        c.string_that(is_name, |key, value| Problem::BadName { key, value }, out).map(At::into_inner)
    });
    let written = table.get("same_site");
    let same_site = written.as_ref().and_then(|c| c.word(SAME_SITES, out)).map(At::into_inner);
    let ttl = table.get("ttl").and_then(|c| c.duration(SECOND, 30 * DAY, out));
    let entries = table.get("max_entries");
    let max_entries = entries.as_ref().and_then(|c| c.integer(1_u32, 10_000_000, out));
    let mut needs = |cursor: Option<Cursor<'_>>, ways: &[&str], needs: &str| {
        if let (Some(cursor), Some(word)) = (cursor, word)
            && !ways.contains(&word)
        {
            out.add(cursor.span(), Problem::KeyWithout { key: cursor.key(), needs: needs.to_owned() });
        }
    };
    needs(name, &["cookie", "app_cookie"], "by = \"cookie\" or \"app_cookie\"");
    needs(written, &["cookie"], "by = \"cookie\"");
    needs(entries, &["source_ip", "app_cookie"], "by = \"source_ip\" or \"app_cookie\"");
    table.finish(out);
    let by = match word {
        Some("cookie") => {
            let of_group = || format!("tandem-{}", group.map_or("group", |name| name.get_ref()));
            let name = cookie.unwrap_or_else(of_group);
            StickyBy::Cookie(StickyCookie { name, same_site: same_site.unwrap_or_default() })
        }
        Some("app_cookie") => StickyBy::AppCookie(cookie?),
        _ => StickyBy::SourceIp,
    };
    let max_entries = match by {
        StickyBy::Cookie(_) => 1,
        StickyBy::SourceIp | StickyBy::AppCookie(_) => max_entries.unwrap_or(100_000),
    };
    let sticky = Sticky { by, ttl: ttl.map_or(HOUR, At::into_inner), max_entries };
    Some(at(&way.as_ref().map_or_else(|| cursor.span(), Cursor::span), sticky))
}

fn keep_alive(cursor: &Cursor<'_>, out: &mut Problems) -> Option<At<KeepAlive>> {
    let mut table = cursor.table(out)?;
    let usual = KeepAlive::default();
    let idle = table.get("idle").and_then(|c| c.duration(SECOND, HOUR, out));
    let max = table.get("max").and_then(|c| c.integer(0_u32, 10_000, out)).unwrap_or(usual.max);
    table.finish(out);
    Some(at(&cursor.span(), KeepAlive { idle: idle.map_or(usual.idle, At::into_inner), max }))
}

fn queue(cursor: &Cursor<'_>, out: &mut Problems) -> Option<At<Queue>> {
    let mut table = cursor.table(out)?;
    let max = table.get("max").and_then(|c| c.integer(1_u32, 100_000, out)).unwrap_or(1000);
    let timeout = table.get("timeout").and_then(|c| c.duration(MS, 300 * SECOND, out));
    table.finish(out);
    Some(at(&cursor.span(), Queue { max, timeout: timeout.map_or(5 * SECOND, At::into_inner) }))
}
