//! `access` of a service as written, and networks.

use std::net::IpAddr;

use ipnet::IpNet;

use super::name;
use super::reader::{At, Cursor, at};
use crate::config::diag::{Problems, quoted};
use crate::config::problem::Problem;
use crate::config::types::AccessEntry;

/// `access`.
#[derive(Default)]
pub(crate) struct RawAccess {
    pub(crate) allow: Vec<At<AccessEntry>>,
    pub(crate) deny: Vec<At<AccessEntry>>,
}

pub(super) fn read(cursor: &Cursor<'_>, out: &mut Problems) -> Option<RawAccess> {
    let mut table = cursor.table(out)?;
    let mut list =
        |key, out: &mut Problems| table.get(key).and_then(|c| entries(&c, out)).unwrap_or_default();
    let access = RawAccess { allow: list("allow", out), deny: list("deny", out) };
    table.finish(out);
    Some(access)
}

fn entries(cursor: &Cursor<'_>, out: &mut Problems) -> Option<Vec<At<AccessEntry>>> {
    let entries = cursor.list("a list of networks such as [\"10.0.0.0/8\"]", out)?;
    if entries.is_empty() {
        // It could be meant as "nobody" and as "no rule".
        out.add(cursor.span(), Problem::Empty { key: cursor.key() });
    }
    Some(entries.iter().filter_map(|entry| self::entry(entry, out)).collect())
}

fn entry(cursor: &Cursor<'_>, out: &mut Problems) -> Option<At<AccessEntry>> {
    if cursor.is_string() {
        let network = network(cursor, out)?;
        return Some(at(&network.span(), AccessEntry { network: *network.get_ref(), tag: None }));
    }
    if !cursor.is_table() {
        let expected = "a network, or a table such as { network = \"10.0.0.0/8\", tag = \"office\" }";
        return cursor.mismatch(expected, out);
    }
    let mut table = cursor.table(out)?;
    let network = table.required("network", out).and_then(|c| network(&c, out));
    let tag = table.get("tag").and_then(|c| name(&c, out)).map(At::into_inner);
    table.finish(out);
    let network = network?;
    Some(at(&network.span(), AccessEntry { network: *network.get_ref(), tag }))
}

/// A network without host bits, or an address, which is a network of one.
pub(super) fn network(cursor: &Cursor<'_>, out: &mut Problems) -> Option<At<IpNet>> {
    let text = cursor.string(out)?.into_inner();
    let parsed = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    let key = cursor.key();
    let mapped = |net: IpNet| match net.addr() {
        IpAddr::V6(address) => address.to_ipv4_mapped().is_some(),
        IpAddr::V4(_) => false,
    };
    let problem = match parsed {
        None => Problem::BadNetwork { key, value: quoted(&text) },
        Some(net) if mapped(net) => {
            let why = "it is an IPv4 address written as IPv6".to_owned();
            Problem::UnusableAddress { key, value: quoted(&text), why }
        }
        Some(net) if net != net.trunc() => {
            Problem::NetworkHostBits { key, value: quoted(&text), network: net.trunc().to_string() }
        }
        Some(net) => return Some(at(&cursor.span(), net)),
    };
    out.add(cursor.span(), problem);
    None
}
