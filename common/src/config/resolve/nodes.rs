//! The two nodes, and the tables that have a value for each of them.

use std::net::IpAddr;

use super::unique_names;
use crate::config::diag::{Problems, quoted};
use crate::config::problem::Problem;
use crate::config::raw::{At, RawNode, RawPerNode, RawVrrp};
use crate::config::types::Node;

/// An address family, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    pub(super) fn name(self) -> String {
        match self {
            Self::V4 => "IPv4".to_owned(),
            Self::V6 => "IPv6".to_owned(),
        }
    }
}

/// With more nodes than two, which has been noted, references to a few of them are still looked up.
const KNOWN_MAX: usize = 8;

/// The nodes whose names could be read.
pub(super) struct Nodes<'r> {
    nodes: Vec<(&'r str, &'r RawNode)>,
    /// Whether these are the pair: then a table by node must have both.
    complete: bool,
}

impl<'r> Nodes<'r> {
    pub(super) fn check(raw: &'r [RawNode], vrrp: &[RawVrrp], out: &mut Problems) -> Self {
        let count = raw.len();
        let first_vrrp = vrrp.first().map_or(0..0, |vrrp| vrrp.span.clone());
        let place = raw.last().map_or(first_vrrp, |node| node.span.clone());
        if !vrrp.is_empty() && count != 2 {
            out.add(place, Problem::NodesForVrrp { count: count.to_string() });
        } else if count > 2 {
            out.add(place, Problem::NodeCount { count: count.to_string() });
        }
        unique_names("node.name", raw.iter().filter_map(|node| node.name.as_ref()), out);
        let known = raw.iter().take(KNOWN_MAX);
        let nodes: Vec<_> =
            known.filter_map(|node| Some((node.name.as_ref()?.get_ref().as_str(), node))).collect();
        let complete = matches!(nodes[..], [(a, _), (b, _)] if a != b) && count == 2;
        match raw {
            [a, b] => check_peer_addresses(a, b, out),
            [alone] if vrrp.is_empty() => check_alone(alone, out),
            _ => {}
        }
        Self { nodes, complete }
    }

    /// Names and tables of the nodes, in the file's order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'r str, &'r RawNode)> + '_ {
        self.nodes.iter().copied()
    }

    /// Notes names in a per-node table that are no nodes', and nodes that it leaves out.
    pub(super) fn check_table<T>(&self, table: &RawPerNode<T>, all_needed: bool, out: &mut Problems) {
        for (name, _) in &table.entries {
            // Without any node that has been noted, and every name would be unknown.
            if !self.nodes.is_empty() && !self.nodes.iter().any(|(node, _)| node == name.get_ref()) {
                let problem = Problem::UnknownNode { key: table.key.clone(), name: quoted(name.get_ref()) };
                out.add(name.span(), problem).guess(name.get_ref(), self.nodes.iter().map(|(node, _)| *node));
            }
        }
        if !self.complete || !all_needed {
            return;
        }
        for (node, _) in &self.nodes {
            if !table.entries.iter().any(|(name, _)| name.get_ref() == node) {
                let problem = Problem::NodeLeftOut { key: table.key.clone(), node: quoted(node) };
                out.add(table.span.clone(), problem);
            }
        }
    }

    pub(super) fn build(&self) -> Vec<Node> {
        let build = |(name, raw): (&str, &RawNode)| Node {
            name: name.to_owned(),
            peer_address: raw.peer_address.as_ref().map(|address| *address.get_ref()),
            zone: raw.zone.as_ref().map(|zone| zone.get_ref().clone()),
        };
        self.iter().map(build).collect()
    }
}

/// The value of a node in a per-node table.
pub(super) fn value_of<'t, T>(table: &'t RawPerNode<T>, node: &str) -> Option<&'t At<T>> {
    table.entries.iter().find(|(name, _)| name.get_ref() == node).and_then(|(_, value)| value.as_ref())
}

fn check_alone(node: &RawNode, out: &mut Problems) {
    if let Some(address) = &node.peer_address {
        let (key, needs) = ("node.peer_address".to_owned(), "a second [[node]]".to_owned());
        out.add(address.span(), Problem::KeyWithout { key, needs });
    }
}

fn check_peer_addresses(a: &RawNode, b: &RawNode, out: &mut Problems) {
    for (without, with) in [(a, b), (b, a)] {
        if with.has_peer_address && !without.has_peer_address {
            out.add(without.span.clone(), Problem::PeerAddressMissing {});
        }
    }
    let (Some(first), Some(second)) = (&a.peer_address, &b.peer_address) else { return };
    let address = second.get_ref().to_string();
    let problem = if first.get_ref() == second.get_ref() {
        Problem::PeerAddressEqual { address }
    } else if Family::of(*first.get_ref()) != Family::of(*second.get_ref()) {
        Problem::PeerAddressFamily { address }
    } else {
        return;
    };
    out.add(second.span(), problem).related(first.span(), "the other node's");
}
