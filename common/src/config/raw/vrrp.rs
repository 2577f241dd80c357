//! `[[vrrp]]` as written.

use std::net::IpAddr;

use ipnet::IpNet;

use super::reader::{At, Cursor, Table, at};
use super::value::{is_interface, usable_host, vip};
use super::{name, text};
use crate::config::diag::{Problems, Span};
use crate::config::problem::Problem;
use crate::config::types::{Announce, Auth, ChecksumReading, Hooks, Priority, Transport, Vrid, VrrpVersion};
use crate::time::Duration;

/// `[[vrrp]]`.
pub(crate) struct RawVrrp {
    pub(crate) span: Span,
    pub(crate) name: Option<At<String>>,
    pub(crate) interface: Option<RawInterface>,
    pub(crate) vrid: Option<At<Vrid>>,
    pub(crate) priority: Option<RawPerNode<Priority>>,
    pub(crate) vips: Vec<At<IpNet>>,
    /// Whether every VIP written could be read.
    pub(crate) vips_complete: bool,
    /// Where the VIPs are written, or the whole instance.
    pub(crate) vips_span: Span,
    pub(crate) address: Option<RawPerNode<Vec<At<IpAddr>>>>,
    /// Whether the key `address` is there, readable or not.
    pub(crate) has_address: bool,
    pub(crate) advert_interval: Option<At<Duration>>,
    pub(crate) preempt: Option<At<bool>>,
    pub(crate) preempt_delay: Duration,
    pub(crate) transport: Option<At<Transport>>,
    pub(crate) auth: Option<At<Auth>>,
    pub(crate) version: Option<At<VrrpVersion>>,
    pub(crate) checksum: Option<At<ChecksumReading>>,
    pub(crate) virtual_mac: bool,
    pub(crate) track: RawTrack,
    pub(crate) announce: Announce,
    pub(crate) hooks: Hooks,
    /// Whether every hook written could be read.
    pub(crate) hooks_complete: bool,
}

/// `interface`: one name for both nodes, or one each.
pub(crate) enum RawInterface {
    Same(At<String>),
    PerNode(RawPerNode<String>),
}

/// A table by node name.
pub(crate) struct RawPerNode<T> {
    pub(crate) key: String,
    pub(crate) span: Span,
    /// In the file's order; a value that could not be read is none.
    pub(crate) entries: Vec<(At<String>, Option<At<T>>)>,
}

/// `track`.
#[derive(Default)]
pub(crate) struct RawTrack {
    pub(crate) lbd: Option<bool>,
    pub(crate) targets: Option<bool>,
    pub(crate) interfaces: Vec<At<String>>,
    pub(crate) gateway: Option<At<IpAddr>>,
}

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

pub(super) fn read(mut table: Table<'_>, out: &mut Problems) -> RawVrrp {
    let span = table.span().clone();
    let name = table.required("name", out).and_then(|cursor| name(&cursor, out));
    let interface = table.required("interface", out).and_then(|cursor| interface(&cursor, out));
    let vrid = table.required("vrid", out).and_then(|cursor| {
        let number = cursor.integer(1_u8, 255, out)?;
        Some(at(&cursor.span(), Vrid::new(number)?))
    });
    let priority = table.required("priority", out).and_then(|cursor| priority(&cursor, out));
    let vips = table.get("vips");
    let vips_span = vips.as_ref().map_or_else(|| span.clone(), Cursor::span);
    let (vips, vips_complete) = read_vips(vips.as_ref(), out);
    let before = out.count();
    let hooks = hooks(table.get("hooks").as_ref(), out);
    let hooks_complete = out.count() == before;
    let raw = RawVrrp {
        span,
        name,
        interface,
        vrid,
        priority,
        vips,
        vips_complete,
        vips_span,
        address: table.get("address").and_then(|cursor| addresses(&cursor, out)),
        has_address: table.has("address"),
        advert_interval: table.get("advert_interval").and_then(|c| c.duration(10 * MS, 40 * SECOND, out)),
        preempt: table.get("preempt").and_then(|c| c.boolean(out).map(|value| at(&c.span(), value))),
        preempt_delay: table
            .get("preempt_delay")
            .and_then(|c| c.duration(Duration::ZERO, HOUR, out))
            .map_or(Duration::ZERO, At::into_inner),
        transport: table.get("transport").and_then(|c| c.word(TRANSPORTS, out)),
        auth: table.get("auth").and_then(|c| c.word(AUTHS, out)),
        version: table.get("version").and_then(|c| {
            let version = if c.integer(2_u8, 3, out)? == 2 { VrrpVersion::V2 } else { VrrpVersion::V3 };
            Some(at(&c.span(), version))
        }),
        checksum: table.get("checksum").and_then(|c| c.word(CHECKSUMS, out)),
        virtual_mac: table.get("virtual_mac").and_then(|c| c.boolean(out)).unwrap_or(false),
        track: table.get("track").and_then(|c| track(&c, out)).unwrap_or_default(),
        announce: announce(table.get("announce").as_ref(), out),
        hooks,
        hooks_complete,
    };
    table.finish(out);
    raw
}

const TRANSPORTS: &[(&str, Transport)] =
    &[("multicast", Transport::Multicast), ("unicast", Transport::Unicast)];
const AUTHS: &[(&str, Auth)] =
    &[("none", Auth::None), ("permissive", Auth::Permissive), ("hmac", Auth::Hmac)];
const CHECKSUMS: &[(&str, ChecksumReading)] =
    &[("message", ChecksumReading::Message), ("pseudo_header", ChecksumReading::PseudoHeader)];

pub(super) fn per_node<T>(
    cursor: &Cursor<'_>,
    expected: &str,
    out: &mut Problems,
    read: impl Fn(&Cursor<'_>, &mut Problems) -> Option<T>,
) -> Option<RawPerNode<T>> {
    if !cursor.is_table() {
        return cursor.mismatch(expected, out);
    }
    let table = cursor.table(out)?;
    let entries = table.entries().into_iter().map(|(node, value)| {
        let read = read(&value, out);
        (node, read.map(|read| at(&value.span(), read)))
    });
    Some(RawPerNode { key: cursor.key(), span: cursor.span(), entries: entries.collect() })
}

fn interface(cursor: &Cursor<'_>, out: &mut Problems) -> Option<RawInterface> {
    if cursor.is_string() {
        return interface_name(cursor, out).map(RawInterface::Same);
    }
    let expected = "a name, or a table with one per node, such as { a = \"eth0\", b = \"ens3\" }";
    per_node(cursor, expected, out, |c, out| interface_name(c, out).map(At::into_inner))
        .map(RawInterface::PerNode)
}

pub(super) fn interface_name(cursor: &Cursor<'_>, out: &mut Problems) -> Option<At<String>> {
    cursor.string_that(is_interface, |key, value| Problem::BadInterface { key, value }, out)
}

fn priority(cursor: &Cursor<'_>, out: &mut Problems) -> Option<RawPerNode<Priority>> {
    let expected = "a table with a number per node, such as { a = 200, b = 100 }";
    per_node(cursor, expected, out, |c, out| Priority::new(c.integer(1_u8, 255, out)?))
}

fn addresses(cursor: &Cursor<'_>, out: &mut Problems) -> Option<RawPerNode<Vec<At<IpAddr>>>> {
    let expected = "a table per node, such as { a = \"192.0.2.1\", b = [\"192.0.2.2\", \"2001:db8::2\"] }";
    per_node(cursor, expected, out, |c, out| {
        if !c.is_string() && !c.is_array() {
            return c.mismatch("an address or a list of addresses", out);
        }
        let entries = if c.is_string() { None } else { c.list("a list of addresses", out) };
        let one = |c: &Cursor<'_>, out: &mut Problems| {
            let ip = c.ip(out)?;
            usable_host(ip, true, c.key(), out)
        };
        match entries {
            None => one(c, out).map(|address| vec![address]),
            Some(entries) => {
                let read: Vec<_> = entries.iter().map(|entry| one(entry, out)).collect();
                read.into_iter().collect()
            }
        }
    })
}

fn read_vips(cursor: Option<&Cursor<'_>>, out: &mut Problems) -> (Vec<At<IpNet>>, bool) {
    let Some(cursor) = cursor else { return (Vec::new(), true) };
    let Some(entries) = cursor.list("a list of addresses with prefix lengths", out) else {
        return (Vec::new(), false);
    };
    let vips: Vec<_> = entries.iter().filter_map(|entry| vip(entry, out)).collect();
    let complete = vips.len() == entries.len();
    (vips, complete)
}

fn track(cursor: &Cursor<'_>, out: &mut Problems) -> Option<RawTrack> {
    let mut table = cursor.table(out)?;
    let interfaces = table.get("interfaces").and_then(|c| c.list("a list of interface names", out));
    let track = RawTrack {
        lbd: table.get("lbd").and_then(|c| c.boolean(out)),
        targets: table.get("targets").and_then(|c| c.boolean(out)),
        interfaces: interfaces
            .unwrap_or_default()
            .iter()
            .filter_map(|entry| interface_name(entry, out))
            .collect(),
        gateway: table.get("gateway").and_then(|c| {
            let ip = c.ip(out)?;
            usable_host(ip, true, c.key(), out)
        }),
    };
    table.finish(out);
    Some(track)
}

fn announce(cursor: Option<&Cursor<'_>>, out: &mut Problems) -> Announce {
    let mut announce = Announce { repeat: 5, interval: SECOND, refresh: 60 * SECOND };
    let Some(mut table) = cursor.and_then(|cursor| cursor.table(out)) else { return announce };
    if let Some(repeat) = table.get("repeat").and_then(|c| c.integer(1_u32, 30, out)) {
        announce.repeat = repeat;
    }
    if let Some(interval) = table.get("interval").and_then(|c| c.duration(MS, 10 * SECOND, out)) {
        announce.interval = interval.into_inner();
    }
    if let Some(cursor) = table.get("refresh")
        && let Some(refresh) = cursor.duration(Duration::ZERO, HOUR, out)
    {
        announce.refresh = refresh.into_inner();
        if !announce.refresh.is_zero() && announce.refresh < SECOND {
            let range = "0s (off) or 1s to 1h".to_owned();
            let value = super::shown(announce.refresh);
            out.add(cursor.span(), Problem::OutOfRange { key: cursor.key(), value, range });
        }
    }
    table.finish(out);
    announce
}

fn hooks(cursor: Option<&Cursor<'_>>, out: &mut Problems) -> Hooks {
    let mut hooks = Hooks { timeout: 10 * SECOND, ..Hooks::default() };
    let Some(mut table) = cursor.and_then(|cursor| cursor.table(out)) else { return hooks };
    let mut command = |key: &'static str, out: &mut Problems| -> Vec<String> {
        let Some(cursor) = table.get(key) else { return Vec::new() };
        let expected =
            "a list of the program and its arguments, such as [\"/usr/local/bin/notify\", \"web\"]";
        let words = cursor.list(expected, out).unwrap_or_default();
        words.iter().filter_map(|word| text(word, out)).map(At::into_inner).collect()
    };
    hooks.on_active = command("on_active", out);
    hooks.on_backup = command("on_backup", out);
    hooks.on_fault = command("on_fault", out);
    if let Some(timeout) = table.get("timeout").and_then(|c| c.duration(100 * MS, HOUR / 6, out)) {
        hooks.timeout = timeout.into_inner();
    }
    table.finish(out);
    hooks
}
