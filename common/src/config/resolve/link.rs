//! Checks between instances, and between their VIPs and every other address of the file.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::instance::{families, interface_of};
use super::nodes::{Family, Nodes};
use super::{first_use, unique_names};
use crate::config::diag::{Problems, Span, quoted};
use crate::config::problem::Problem;
use crate::config::raw::RawFile;

/// Each instance has its timers, sockets and addresses on the one advertisement thread.
const INSTANCES_MAX: usize = 32;

pub(super) fn check(raw: &RawFile, nodes: &Nodes<'_>, out: &mut Problems) {
    unique_names("vrrp.name", raw.vrrp.iter().filter_map(|vrrp| vrrp.name.as_ref()), out);
    if let Some(first_over) = raw.vrrp.get(INSTANCES_MAX) {
        let (count, max) = (raw.vrrp.len().to_string(), INSTANCES_MAX.to_string());
        out.add(first_over.span.clone(), Problem::TooManyInstances { count, max });
    }
    check_vrids(raw, nodes, out);
    check_shared_vips(raw, out);
    check_taken_vips(raw, out);
}

/// One virtual router is a VRID in a family on a link; a second one with the same would take its messages.
fn check_vrids(raw: &RawFile, nodes: &Nodes<'_>, out: &mut Problems) {
    let mut routers = BTreeMap::new();
    for vrrp in &raw.vrrp {
        let Some(vrid) = &vrrp.vrid else { continue };
        let number = vrid.get_ref().get();
        let mut families = families(vrrp);
        if families.is_empty() && vrrp.vips_complete {
            // Without VIPs an instance speaks IPv4.
            families.insert(Family::V4);
        }
        let links = nodes.iter().filter_map(|(node, _)| Some((node, interface_of(vrrp, node)?)));
        let all = links.flat_map(|link| families.iter().map(move |family| (link, *family)));
        let mut noted = false;
        for ((node, interface), family) in all {
            let first = first_use(&mut routers, (node, interface, family, number), vrid.span());
            // Once is enough: the other node and family say the same. Two nodes of one name are noted elsewhere.
            if let Some(first) = first.filter(|first| !noted && *first != vrid.span()) {
                noted = true;
                let problem = Problem::DuplicateVrid {
                    vrid: number.to_string(),
                    interface: quoted(interface),
                    node: quoted(node),
                    family: family.name(),
                };
                out.add(vrid.span(), problem).related(first, "first used here");
            }
        }
    }
}

fn check_shared_vips(raw: &RawFile, out: &mut Problems) {
    let mut owners: BTreeMap<IpAddr, (usize, Span)> = BTreeMap::new();
    for (index, vrrp) in raw.vrrp.iter().enumerate() {
        for vip in &vrrp.vips {
            let address = vip.get_ref().addr();
            match owners.get(&address) {
                Some((owner, first)) if *owner != index => {
                    let instance = raw.vrrp[*owner].name.as_ref().map_or("", |name| name.get_ref());
                    let problem =
                        Problem::SharedVip { address: address.to_string(), instance: quoted(instance) };
                    out.add(vip.span(), problem).related(first.clone(), "first listed here");
                }
                Some(_) => {}
                None => {
                    owners.insert(address, (index, vip.span()));
                }
            }
        }
    }
}

/// A VIP that is somebody's own address would be answered for by two hosts.
fn check_taken_vips(raw: &RawFile, out: &mut Problems) {
    let mut taken: BTreeMap<IpAddr, (String, Span)> = BTreeMap::new();
    let mut take = |address: IpAddr, what: String, span: Span| {
        taken.entry(address).or_insert((what, span));
    };
    for node in &raw.nodes {
        if let Some(address) = &node.peer_address {
            let name = node.name.as_ref().map_or("", |name| name.get_ref());
            take(*address.get_ref(), format!("the peer_address of node {}", quoted(name)), address.span());
        }
    }
    for vrrp in &raw.vrrp {
        for (node, addresses) in vrrp.address.iter().flat_map(|table| &table.entries) {
            for address in addresses.iter().flat_map(|list| list.get_ref()) {
                let what = format!("an address of node {}", quoted(node.get_ref()));
                take(*address.get_ref(), what, address.span());
            }
        }
        if let Some(gateway) = &vrrp.track.gateway {
            take(*gateway.get_ref(), "the tracked gateway".to_owned(), gateway.span());
        }
    }
    for address in raw.groups.iter().flat_map(|group| &group.targets).filter_map(|t| t.address.as_ref()) {
        take(address.get_ref().ip(), "a target's address".to_owned(), address.span());
    }
    for vip in raw.vrrp.iter().flat_map(|vrrp| &vrrp.vips) {
        let address = vip.get_ref().addr();
        if let Some((what, span)) = taken.get(&address) {
            let problem = Problem::VipTaken { address: address.to_string(), what: what.clone() };
            out.add(vip.span(), problem).related(span.clone(), "given here");
        }
    }
}
