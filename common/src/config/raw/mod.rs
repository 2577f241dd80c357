//! The file as written: every value read and checked by itself, with its place; nothing compared with anything else.
//!
//! A value that is wrong has been noted and is left out here; the checks of `resolve` then stay quiet about it.

mod access;
mod acme;
mod auth;
mod compress;
mod discover;
mod group;
mod health;
mod http;
mod kernel;
mod otlp;
mod pages;
mod reader;
mod rule;
mod service;
mod target;
mod tls;
mod value;
mod vrrp;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use toml::de::DeTable;

pub(crate) use access::RawAccess;
pub(crate) use acme::RawAcme;
pub(crate) use auth::RawAuth;
pub(crate) use group::RawGroup;
pub(crate) use http::{RawChanges, RawHttpRule};
pub(crate) use kernel::{RawInterfaces, RawKernel};
pub(crate) use reader::At;
use rule::References;
pub(crate) use service::{RawService, RawTimeouts};
pub(crate) use target::{RawTarget, read_targets};
pub(crate) use tls::{RawTargetTls, RawTls};
pub(crate) use value::{ListenOn, RawListen, RawPorts, is_name, is_target_id, shown};
pub(crate) use vrrp::{RawInterface, RawPerNode, RawTrack, RawVrrp};

use self::reader::{Cursor, Table};
use super::diag::{Problems, Span};
use super::problem::Problem;

/// The whole file.
pub(crate) struct RawFile {
    pub(crate) pair: RawPair,
    pub(crate) nodes: Vec<RawNode>,
    pub(crate) vrrp: Vec<RawVrrp>,
    pub(crate) services: Vec<RawService>,
    pub(crate) groups: Vec<RawGroup>,
    pub(crate) kernel: RawKernel,
    pub(crate) acme: Option<RawAcme>,
    /// Whether the table is there, readable or not.
    pub(crate) has_acme: bool,
    pub(crate) api: RawApi,
}

/// `[pair]`.
#[derive(Default)]
pub(crate) struct RawPair {
    pub(crate) name: Option<At<String>>,
    pub(crate) key_file: Option<At<String>>,
    /// Whether the key is there, readable or not.
    pub(crate) has_key_file: bool,
}

/// `[[node]]`.
pub(crate) struct RawNode {
    pub(crate) span: Span,
    pub(crate) name: Option<At<String>>,
    pub(crate) peer_address: Option<At<IpAddr>>,
    /// Whether the key is there, readable or not.
    pub(crate) has_peer_address: bool,
    pub(crate) zone: Option<At<String>>,
    /// Whether the key is there, readable or not.
    pub(crate) has_zone: bool,
}

/// `[api]`.
#[derive(Default)]
pub(crate) struct RawApi {
    pub(crate) vrrpd: Option<At<SocketAddr>>,
    pub(crate) lbd: Option<At<SocketAddr>>,
    pub(crate) token_file: Option<At<String>>,
}

/// Reads the file; none when its TOML is broken, which has then been noted.
pub(crate) fn read(text: &str, out: &mut Problems) -> Option<RawFile> {
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        note_syntax(text, &errors, out);
        return None;
    }
    let mut root = Table::root(&root);
    let file = RawFile {
        pair: root.get("pair").and_then(|pair| read_pair(&pair, out)).unwrap_or_default(),
        nodes: each(root.get("node"), "node", out, read_node),
        vrrp: each(root.get("vrrp"), "vrrp", out, vrrp::read),
        services: each(root.get("service"), "service", out, service::read),
        groups: each(root.get("target_group"), "target_group", out, group::read),
        kernel: root.get("kernel").and_then(|kernel| kernel::read(&kernel, out)).unwrap_or_default(),
        acme: root.get("acme").and_then(|acme| acme::read(&acme, out)),
        has_acme: root.has("acme"),
        api: root.get("api").and_then(|api| read_api(&api, out)).unwrap_or_default(),
    };
    root.finish(out);
    Some(file)
}

/// Notes the first error of each line: those after it are mostly its consequences.
fn note_syntax(text: &str, errors: &[toml::de::Error], out: &mut Problems) {
    let mut seen = BTreeSet::new();
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let start = text.floor_char_boundary(span.start);
        let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        if seen.insert(line_end) {
            out.add(span, Problem::Syntax { message: error.message().to_owned() });
        }
    }
}

/// Reads the tables of `[[name]]`.
fn each<T>(
    cursor: Option<Cursor<'_>>,
    name: &str,
    out: &mut Problems,
    read: impl Fn(Table<'_>, &mut Problems) -> T,
) -> Vec<T> {
    let entries = cursor.and_then(|cursor| cursor.list(&format!("tables written as [[{name}]]"), out));
    let tables = entries.unwrap_or_default();
    tables.iter().filter_map(|entry| entry.table(out).map(|table| read(table, out))).collect()
}

fn read_pair(cursor: &Cursor<'_>, out: &mut Problems) -> Option<RawPair> {
    let mut table = cursor.table(out)?;
    let pair = RawPair {
        name: table.get("name").and_then(|name| text(&name, out)),
        key_file: table.get("key_file").and_then(|path| text(&path, out)),
        has_key_file: table.has("key_file"),
    };
    table.finish(out);
    Some(pair)
}

fn read_node(mut table: Table<'_>, out: &mut Problems) -> RawNode {
    let node = RawNode {
        span: table.span().clone(),
        name: table.required("name", out).and_then(|name_| name(&name_, out)),
        peer_address: table.get("peer_address").and_then(|address| {
            let ip = address.ip(out)?;
            value::usable_host(ip, false, address.key(), out)
        }),
        has_peer_address: table.has("peer_address"),
        zone: table.get("zone").and_then(|zone| name(&zone, out)),
        has_zone: table.has("zone"),
    };
    table.finish(out);
    node
}

fn read_api(cursor: &Cursor<'_>, out: &mut Problems) -> Option<RawApi> {
    let mut table = cursor.table(out)?;
    let api = RawApi {
        vrrpd: table.get("vrrpd").and_then(|address| address.socket_address(out)),
        lbd: table.get("lbd").and_then(|address| address.socket_address(out)),
        token_file: table.get("token_file").and_then(|path| text(&path, out)),
    };
    table.finish(out);
    Some(api)
}

/// A node's, instance's, service's or group's name.
fn name(cursor: &Cursor<'_>, out: &mut Problems) -> Option<At<String>> {
    cursor.string_that(is_name, |key, value| Problem::BadName { key, value }, out)
}

/// Any text that can be shown: a path, a title, a program's argument.
fn text(cursor: &Cursor<'_>, out: &mut Problems) -> Option<At<String>> {
    cursor.string_that(value::is_text, |key, value| Problem::BadText { key, value }, out)
}
