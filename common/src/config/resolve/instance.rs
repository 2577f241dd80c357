//! Checks within one `[[vrrp]]`, and building it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::first_use;
use super::nodes::{Family, Nodes, value_of};
use crate::config::diag::{Problems, quoted};
use crate::config::problem::Problem;
use crate::config::raw::{At, RawFile, RawInterface, RawTrack, RawVrrp, shown};
use crate::config::types::{Auth, ChecksumReading, PerNode, Priority, Track, Transport, Vrrp, VrrpVersion};
use crate::time::Duration;

/// An advertisement with more addresses of a family would come near the smallest packets every link carries.
const VIPS_MAX: usize = 64;

pub(super) fn check_each(raw: &RawFile, nodes: &Nodes<'_>, out: &mut Problems) {
    for vrrp in &raw.vrrp {
        if let Some(RawInterface::PerNode(table)) = &vrrp.interface {
            nodes.check_table(table, true, out);
        }
        check_priorities(vrrp, nodes, out);
        check_room_below(vrrp, raw, nodes, out);
        check_vips(vrrp, out);
        check_addresses(vrrp, nodes, out);
        check_auth(vrrp, raw, out);
        check_version(vrrp, raw, out);
        check_track(vrrp, out);
    }
}

/// The families of the instance's VIPs, in order.
pub(super) fn families(vrrp: &RawVrrp) -> BTreeSet<Family> {
    vrrp.vips.iter().map(|vip| Family::of(vip.get_ref().addr())).collect()
}

fn check_priorities(vrrp: &RawVrrp, nodes: &Nodes<'_>, out: &mut Problems) {
    let Some(table) = &vrrp.priority else { return };
    nodes.check_table(table, true, out);
    let given: Vec<&At<Priority>> = nodes.iter().filter_map(|(node, _)| value_of(table, node)).collect();
    let owner = given.iter().any(|priority| *priority.get_ref() == Priority::OWNER);
    if let Some(preempt) = &vrrp.preempt
        && owner
        && !preempt.get_ref()
    {
        out.add(preempt.span(), Problem::OwnerNoPreempt {});
    }
    if let [first, second] = given[..]
        && first.get_ref() == second.get_ref()
        && first.span() != second.span()
    {
        let problem = if owner {
            Problem::TwoOwners {}
        } else {
            Problem::EqualPriorities { priority: first.get_ref().get().to_string() }
        };
        out.add(second.span(), problem).related(first.span(), "the other node's");
    }
}

/// A node in bad health ranks below both configured priorities; below 1 there is nothing.
fn check_room_below(vrrp: &RawVrrp, raw: &RawFile, nodes: &Nodes<'_>, out: &mut Problems) {
    let track = &vrrp.track;
    let tracks = tracks_lbd(track, raw) || !track.interfaces.is_empty() || track.gateway.is_some();
    let Some(table) = vrrp.priority.as_ref().filter(|_| tracks) else { return };
    let given = nodes.iter().filter_map(|(node, _)| value_of(table, node));
    for priority in given.filter(|priority| priority.get_ref().get() == 1) {
        out.add(priority.span(), Problem::NoRoomBelow {});
    }
}

/// Whether `lbd`'s health counts, written or not.
fn tracks_lbd(track: &RawTrack, raw: &RawFile) -> bool {
    track.lbd.unwrap_or(!raw.services.is_empty())
}

fn check_vips(vrrp: &RawVrrp, out: &mut Problems) {
    let hooks = &vrrp.hooks;
    let hooked = !(hooks.on_active.is_empty() && hooks.on_backup.is_empty() && hooks.on_fault.is_empty());
    if vrrp.vips.is_empty() && vrrp.vips_complete && !hooked && vrrp.hooks_complete {
        out.add(vrrp.vips_span.clone(), Problem::NoVips {});
    }
    let mut seen = BTreeMap::new();
    for vip in &vrrp.vips {
        let address = vip.get_ref().addr();
        if let Some(first) = first_use(&mut seen, address, vip.span()) {
            let problem = Problem::DuplicateVip { address: address.to_string() };
            out.add(vip.span(), problem).related(first, "first listed here");
        }
    }
    for family in [Family::V4, Family::V6] {
        let mut of_family = vrrp.vips.iter().filter(|vip| Family::of(vip.get_ref().addr()) == family);
        let count = of_family.clone().count();
        if let Some(first_over) = of_family.nth(VIPS_MAX) {
            let (count, max) = (count.to_string(), VIPS_MAX.to_string());
            out.add(first_over.span(), Problem::TooManyVips { count, family: family.name(), max });
        }
    }
}

fn check_addresses(vrrp: &RawVrrp, nodes: &Nodes<'_>, out: &mut Problems) {
    let mut seen = BTreeMap::new();
    if let Some(table) = &vrrp.address {
        nodes.check_table(table, false, out);
        for (node, addresses) in &table.entries {
            let mut families = BTreeMap::new();
            for address in addresses.iter().flat_map(|list| list.get_ref()) {
                let (ip, family) = (*address.get_ref(), Family::of(*address.get_ref()));
                if let Some(first) = first_use(&mut families, family, address.span()) {
                    let problem =
                        Problem::AddressFamilyTwice { node: node.get_ref().clone(), family: family.name() };
                    out.add(address.span(), problem).related(first, "the first one");
                } else if let Some(first) = first_use(&mut seen, ip, address.span()) {
                    let problem = Problem::AddressEqual { address: ip.to_string() };
                    out.add(address.span(), problem).related(first, "the other node's");
                }
            }
        }
    }
    let Some(transport) = vrrp.transport.as_ref().filter(|t| *t.get_ref() == Transport::Unicast) else {
        return;
    };
    for (node, raw) in nodes.iter() {
        let entry = vrrp.address.as_ref().map(|table| (value_of(table, node), table));
        // What could not be read might have been the address.
        let unreadable = raw.has_peer_address && raw.peer_address.is_none()
            || entry.is_some_and(|(value, table)| {
                value.is_none() && table.entries.iter().any(|(name, _)| name.get_ref() == node)
            })
            || vrrp.address.is_none() && vrrp.has_address;
        let peer = raw.peer_address.as_ref().map(|address| *address.get_ref());
        let own = entry.and_then(|(value, _)| value).into_iter().flat_map(|list| list.get_ref());
        let given: Vec<IpAddr> = own.map(|address| *address.get_ref()).chain(peer).collect();
        for family in families(vrrp) {
            if !unreadable && !given.iter().any(|address| Family::of(*address) == family) {
                let problem = Problem::UnicastAddress { node: quoted(node), family: family.name() };
                out.add(transport.span(), problem);
            }
        }
    }
}

const fn auth_word(auth: Auth) -> &'static str {
    match auth {
        Auth::None => "none",
        Auth::Permissive => "permissive",
        Auth::Hmac => "hmac",
    }
}

/// Plain version 3 is for pairs with other software, of which keepalived takes no other reading than with the pseudo-header.
fn default_checksum(auth: Auth, version: VrrpVersion) -> ChecksumReading {
    match (auth, version) {
        (Auth::None, VrrpVersion::V3) => ChecksumReading::PseudoHeader,
        _ => ChecksumReading::Message,
    }
}

/// What `auth` is, written or not.
fn auth_of(vrrp: &RawVrrp, raw: &RawFile) -> Auth {
    let default = if raw.pair.has_key_file { Auth::Hmac } else { Auth::None };
    vrrp.auth.as_ref().map_or(default, |auth| *auth.get_ref())
}

fn check_auth(vrrp: &RawVrrp, raw: &RawFile, out: &mut Problems) {
    if let Some(auth) = &vrrp.auth
        && *auth.get_ref() != Auth::None
        && !raw.pair.has_key_file
    {
        out.add(auth.span(), Problem::AuthWithoutKey { auth: auth_word(*auth.get_ref()).to_owned() });
    }
}

fn check_version(vrrp: &RawVrrp, raw: &RawFile, out: &mut Problems) {
    let interval = vrrp.advert_interval.as_ref();
    let Some(version) = vrrp.version.as_ref().filter(|version| *version.get_ref() == VrrpVersion::V2) else {
        if let Some(interval) = interval.filter(|interval| interval.get_ref().as_nanos() % 10_000_000 != 0) {
            out.add(interval.span(), Problem::IntervalStep { value: shown(*interval.get_ref()) });
        }
        return;
    };
    let because = "version 2 is asked for here";
    for vip in vrrp.vips.iter().filter(|vip| vip.get_ref().addr().is_ipv6()) {
        let address = vip.get_ref().addr().to_string();
        out.add(vip.span(), Problem::Version2Ipv6 { address }).related(version.span(), because);
    }
    let auth = auth_of(vrrp, raw);
    if auth != Auth::None {
        let problem = Problem::Version2Auth { auth: auth_word(auth).to_owned() };
        match &vrrp.auth {
            Some(written) => out.add(written.span(), problem).related(version.span(), because),
            None => out.add(version.span(), problem),
        };
    }
    if let Some(checksum) =
        vrrp.checksum.as_ref().filter(|reading| *reading.get_ref() == ChecksumReading::PseudoHeader)
    {
        out.add(checksum.span(), Problem::Version2Checksum {}).related(version.span(), because);
    }
    if let Some(interval) = interval
        && (interval.get_ref().subsec_nanos() != 0 || interval.get_ref().as_secs() == 0)
    {
        let problem = Problem::Version2Interval { value: shown(*interval.get_ref()) };
        out.add(interval.span(), problem).related(version.span(), because);
    }
}

fn check_track(vrrp: &RawVrrp, out: &mut Problems) {
    let mut seen = BTreeMap::new();
    for interface in &vrrp.track.interfaces {
        if let Some(first) = first_use(&mut seen, interface.get_ref(), interface.span()) {
            let (key, value) = ("vrrp.track.interfaces".to_owned(), format!("\"{}\"", interface.get_ref()));
            out.add(interface.span(), Problem::DuplicateEntry { key, value })
                .related(first, "first listed here");
        }
    }
    let Some(gateway) = &vrrp.track.gateway else { return };
    let family = Family::of(*gateway.get_ref());
    if vrrp.vips_complete && !vrrp.vips.is_empty() && !families(vrrp).contains(&family) {
        let problem =
            Problem::GatewayFamily { address: gateway.get_ref().to_string(), family: family.name() };
        out.add(gateway.span(), problem);
    }
}

/// The interface of a node.
pub(super) fn interface_of<'r>(vrrp: &'r RawVrrp, node: &str) -> Option<&'r str> {
    match vrrp.interface.as_ref()? {
        RawInterface::Same(name) => Some(name.get_ref()),
        RawInterface::PerNode(table) => value_of(table, node).map(|name| name.get_ref().as_str()),
    }
}

pub(super) fn build(vrrp: &RawVrrp, raw: &RawFile, nodes: &Nodes<'_>) -> Option<Vrrp> {
    let (mut interface, mut priority, mut addresses) = (PerNode::new(), PerNode::new(), PerNode::new());
    for (node, _) in nodes.iter() {
        interface.insert(node.to_owned(), interface_of(vrrp, node)?.to_owned());
        priority.insert(node.to_owned(), *value_of(vrrp.priority.as_ref()?, node)?.get_ref());
        if let Some(list) = vrrp.address.as_ref().and_then(|table| value_of(table, node)) {
            addresses
                .insert(node.to_owned(), list.get_ref().iter().map(|address| *address.get_ref()).collect());
        }
    }
    let track = &vrrp.track;
    let auth = auth_of(vrrp, raw);
    let version = copied(vrrp.version.as_ref()).unwrap_or_default();
    Some(Vrrp {
        name: vrrp.name.as_ref()?.get_ref().clone(),
        interface,
        vrid: *vrrp.vrid.as_ref()?.get_ref(),
        priority,
        vips: vrrp.vips.iter().map(|vip| *vip.get_ref()).collect(),
        addresses,
        advert_interval: copied(vrrp.advert_interval.as_ref()).unwrap_or(Duration::from_secs(1)),
        preempt: copied(vrrp.preempt.as_ref()).unwrap_or(true),
        preempt_delay: vrrp.preempt_delay,
        transport: copied(vrrp.transport.as_ref()).unwrap_or_default(),
        auth,
        version,
        checksum: copied(vrrp.checksum.as_ref()).unwrap_or_else(|| default_checksum(auth, version)),
        virtual_mac: vrrp.virtual_mac,
        track: Track {
            lbd: tracks_lbd(track, raw),
            targets: track.targets.unwrap_or(true),
            interfaces: track.interfaces.iter().map(|name| name.get_ref().clone()).collect(),
            gateway: copied(track.gateway.as_ref()),
        },
        announce: vrrp.announce,
        hooks: vrrp.hooks.clone(),
    })
}

fn copied<T: Copy>(value: Option<&At<T>>) -> Option<T> {
    value.map(|value| *value.get_ref())
}
