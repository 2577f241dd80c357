//! `targets` as written, in a target group or in a file of their own.

use std::net::SocketAddr;

use toml::de::DeTable;

use super::reader::{At, Cursor, Table, at};
use super::value::{is_target_id, unusable_host};
use super::{name, note_syntax};
use crate::config::diag::{Problems, Span};
use crate::config::problem::Problem;

/// One of `targets`.
pub(crate) struct RawTarget {
    pub(crate) id: Option<At<String>>,
    /// Whether the key is there, readable or not.
    pub(crate) has_id: bool,
    /// Without a port, its port is 0.
    pub(crate) address: Option<At<SocketAddr>>,
    pub(crate) weight: u16,
    pub(crate) backup: bool,
    pub(crate) zone: Option<At<String>>,
    /// Whether the key is there, readable or not.
    pub(crate) has_zone: bool,
    pub(crate) max_connections: Option<u32>,
    /// Where the key is, readable or not.
    pub(crate) max_connections_span: Option<Span>,
}

impl RawTarget {
    /// The id as it will be known, with where it is written.
    pub(crate) fn known_id(&self) -> Option<At<String>> {
        if self.has_id {
            return self.id.clone();
        }
        let shown = |address: SocketAddr| match address.port() {
            0 => address.ip().to_string(),
            _ => address.to_string(),
        };
        self.address.as_ref().map(|address| at(&address.span(), shown(*address.get_ref())))
    }
}

/// Reads a file that has nothing but `targets`; none when its TOML is broken or they are missing, which has then been
/// noted.
pub(crate) fn read_targets(text: &str, out: &mut Problems) -> Option<Vec<RawTarget>> {
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        note_syntax(text, &errors, out);
        return None;
    }
    let mut root = Table::root(&root);
    let read = root.required("targets", out).and_then(|cursor| {
        refuse_headers(text, &cursor, out);
        targets(&cursor, false, out)
    });
    root.finish(out);
    read.map(|(targets, _)| targets)
}

/// A list in brackets that lacks its end is an error of its syntax. Of tables under `[[targets]]` nobody could tell that the
/// last ones are missing, because the file was cut off or is still being written.
fn refuse_headers(text: &str, cursor: &Cursor<'_>, out: &mut Problems) {
    let entries = cursor.list("", &mut Problems::default()).unwrap_or_default();
    let with_header = |entry: &&Cursor<'_>| {
        entry.is_table() && text.get(entry.span()).is_some_and(|written| written.starts_with('['))
    };
    if let Some(entry) = entries.iter().find(with_header) {
        let expected =
            "one list, targets = [{ address = \"192.0.2.1:80\" }, ...], of which the end can be seen";
        entry.mismatch::<()>(expected, out);
    }
}

/// The targets that could be read, and whether that is all of them. In a group they may do without a port, which its
/// services decide about.
pub(super) fn targets(
    cursor: &Cursor<'_>,
    in_group: bool,
    out: &mut Problems,
) -> Option<(Vec<RawTarget>, bool)> {
    let entries = cursor.list("a list of targets", out)?;
    let targets: Vec<RawTarget> = entries.iter().filter_map(|entry| target(entry, in_group, out)).collect();
    let complete = targets.len() == entries.len();
    Some((targets, complete))
}

fn target(cursor: &Cursor<'_>, in_group: bool, out: &mut Problems) -> Option<RawTarget> {
    if !cursor.is_table() {
        return cursor.mismatch("a table such as { address = \"192.0.2.1:80\" }", out);
    }
    let mut table = cursor.table(out)?;
    let id = table
        .get("id")
        .and_then(|c| c.string_that(is_target_id, |key, value| Problem::BadTargetId { key, value }, out));
    let address = table.required("address", out).and_then(|c| {
        let address = if in_group { c.address_with_or_without_port(out) } else { c.socket_address(out) }?;
        let Some(why) = unusable_host(address.get_ref().ip(), false) else { return Some(address) };
        let value = address.get_ref().ip().to_string();
        out.add(c.span(), Problem::UnusableAddress { key: c.key(), value, why: why.to_owned() });
        None
    });
    let target = RawTarget {
        id,
        has_id: table.has("id"),
        address,
        weight: table.get("weight").and_then(|c| c.integer(0_u16, 256, out)).unwrap_or(1),
        backup: table.get("backup").and_then(|c| c.boolean(out)).unwrap_or(false),
        zone: table.get("zone").and_then(|zone| name(&zone, out)),
        has_zone: table.has("zone"),
        max_connections: table.get("max_connections").and_then(|c| c.integer(1_u32, 10_000_000, out)),
        max_connections_span: table.place("max_connections").map(|(_, span)| span),
    };
    table.finish(out);
    Some(target)
}
