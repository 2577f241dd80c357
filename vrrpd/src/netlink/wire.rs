//! Netlink messages: requests as the kernel reads them, and answers reduced to what is used here. [`common::netlink`] frames them.
//!
//! Answers are read attribute by attribute, taking just those that are known and needed: a kernel newer than this code adds
//! attributes, and an interface with many of them costs little.

use std::net::IpAddr;

use common::netlink::{attributes, ip, number, text};
use ipnet::IpNet;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeader, AddressMessage, AddressScope, CacheInfo,
};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoMacVlan, LinkAttribute, LinkFlags,
    LinkHeader, LinkInfo, LinkMessage, MacVlanMode,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::{Address, Link, ORIGIN};

/// The table of the host's own addresses.
pub(super) const TABLE_LOCAL: u8 = libc::RT_TABLE_LOCAL;
/// The ordinary table.
pub(super) const TABLE_MAIN: u8 = libc::RT_TABLE_MAIN;

/// A route, as far as ours are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) destination: IpNet,
    pub(super) index: u32,
    pub(super) table: u8,
    pub(super) proto: u8,
}

/// One message of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Link(Link),
    LinkGone(Link),
    Address(Address),
    AddressGone(Address),
    Route(Route),
}

impl Answer {
    pub(super) fn link(self) -> Option<Link> {
        if let Self::Link(link) = self { Some(link) } else { None }
    }

    pub(super) fn address(self) -> Option<Address> {
        if let Self::Address(address) = self { Some(address) } else { None }
    }

    pub(super) fn route(self) -> Option<Route> {
        if let Self::Route(route) = self { Some(route) } else { None }
    }

    /// The message with this type and payload; none for what is of no interest or does not decode.
    pub(super) fn parse(message_type: u16, payload: &[u8]) -> Option<Self> {
        match message_type {
            libc::RTM_NEWLINK => parse_link(payload).map(Self::Link),
            libc::RTM_DELLINK => parse_link(payload).map(Self::LinkGone),
            libc::RTM_NEWADDR => parse_address(payload).map(Self::Address),
            libc::RTM_DELADDR => parse_address(payload).map(Self::AddressGone),
            libc::RTM_NEWROUTE => parse_route(payload).map(Self::Route),
            _ => None,
        }
    }
}

fn parse_link(payload: &[u8]) -> Option<Link> {
    let header = LinkHeader::parse(payload).ok()?;
    if header.interface_family != AddressFamily::Unspec {
        // A bridge speaks of its ports in the same messages: its "port deleted" does not mean that the interface is gone.
        return None;
    }
    let operational = LinkFlags::Running | LinkFlags::LowerUp;
    let mut link = Link {
        index: header.index,
        name: String::new(),
        mac: [0; 6],
        up: header.flags.contains(LinkFlags::Up),
        running: header.flags.contains(operational),
    };
    for (kind, value) in attributes(payload.get(16..)) {
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_ADDRESS => link.mac = value.try_into().unwrap_or_default(),
            _ => {}
        }
    }
    Some(link)
}

fn parse_address(payload: &[u8]) -> Option<Address> {
    let header = AddressHeader::parse(payload).ok()?;
    let mut flags = AddressFlags::from_bits_retain(u32::from(header.flags.bits()));
    let (mut local, mut address, mut proto) = (None, None, None);
    for (kind, value) in attributes(payload.get(8..)) {
        match kind {
            libc::IFA_LOCAL => local = ip(value),
            libc::IFA_ADDRESS => address = ip(value),
            libc::IFA_FLAGS => flags = AddressFlags::from_bits_retain(number(value)?),
            IFA_PROTO => proto = value.first().copied().filter(|proto| *proto != 0),
            _ => {}
        }
    }
    Some(Address {
        index: header.index,
        // On a point-to-point interface `IFA_ADDRESS` is the other end's.
        ip: local.or(address)?,
        prefix: header.prefix_len,
        secondary: header.family == AddressFamily::Inet && flags.contains(AddressFlags::Secondary),
        tentative: flags.contains(AddressFlags::Tentative),
        duplicate: flags.contains(AddressFlags::Dadfailed),
        deprecated: flags.contains(AddressFlags::Deprecated),
        proto,
        scope: header.scope.into(),
    })
}

/// `libc` does not have it.
const IFA_PROTO: u16 = 11;

fn parse_route(payload: &[u8]) -> Option<Route> {
    let header = RouteHeader::parse(payload).ok()?;
    let (mut destination, mut index) = (None, 0);
    for (kind, value) in attributes(payload.get(12..)) {
        match kind {
            libc::RTA_DST => destination = ip(value),
            libc::RTA_OIF => index = number(value)?,
            _ => {}
        }
    }
    let destination = IpNet::new(destination?, header.destination_prefix_length).ok()?;
    Some(Route { destination, index, table: header.table, proto: header.protocol.into() })
}

fn family(ipv6: bool) -> AddressFamily {
    if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

pub(super) fn get_links() -> Message {
    Message::GetLink(LinkMessage::default())
}

pub(super) fn get_link_by_name(name: &str) -> Message {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    Message::GetLink(message)
}

pub(super) fn get_link_at(index: u32) -> Message {
    let mut message = LinkMessage::default();
    message.header.index = index;
    Message::GetLink(message)
}

/// Index 0 is every interface.
pub(super) fn get_addresses(index: u32, ipv6: bool) -> Message {
    let mut message = AddressMessage::default();
    message.header.family = family(ipv6);
    message.header.index = index;
    Message::GetAddress(message)
}

pub(super) fn get_routes(table: u8, ipv6: bool) -> Message {
    let mut message = RouteMessage::default();
    message.header.address_family = family(ipv6);
    message.header.table = table;
    message.header.protocol = RouteProtocol::from(ORIGIN);
    Message::GetRoute(message)
}

pub(super) fn add_address(index: u32, ip: IpAddr) -> Message {
    let mut message = address(index, IpNet::from(ip));
    message.attributes.push(AddressAttribute::Protocol(ORIGIN.into()));
    if ip.is_ipv6() {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute));
        let mut lifetimes = CacheInfo::default();
        lifetimes.ifa_preferred = 0;
        lifetimes.ifa_valid = u32::MAX;
        message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
    }
    Message::NewAddress(message)
}

pub(super) fn remove_address(index: u32, net: IpNet) -> Message {
    Message::DelAddress(address(index, net))
}

fn address(index: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(net.addr().is_ipv6());
    message.header.prefix_len = net.prefix_len();
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    message.attributes.push(AddressAttribute::Local(net.addr()));
    message.attributes.push(AddressAttribute::Address(net.addr()));
    message
}

pub(super) fn local_route(ip: IpAddr, loopback: u32) -> RouteMessage {
    let scope = if ip.is_ipv6() { RouteScope::Universe } else { RouteScope::Host };
    route(IpNet::from(ip), loopback, TABLE_LOCAL, RouteType::Local, scope)
}

pub(super) fn subnet_route(index: u32, subnet: IpNet, metric: u32) -> RouteMessage {
    let scope = if subnet.addr().is_ipv6() { RouteScope::Universe } else { RouteScope::Link };
    let mut message = route(subnet, index, TABLE_MAIN, RouteType::Unicast, scope);
    message.attributes.push(RouteAttribute::Priority(metric));
    message
}

fn route(destination: IpNet, index: u32, table: u8, kind: RouteType, scope: RouteScope) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination.addr().is_ipv6());
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.table = table;
    message.header.protocol = RouteProtocol::from(ORIGIN);
    message.header.scope = scope;
    message.header.kind = kind;
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(destination.addr())));
    message.attributes.push(RouteAttribute::Oif(index));
    message
}

pub(super) fn add_macvlan(parent: u32, name: &str, mac: [u8; 6]) -> Message {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Link(parent),
        LinkAttribute::Address(mac.to_vec()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::MacVlan),
            LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Bridge)])),
        ]),
    ];
    Message::NewLink(message)
}

/// Keeps the kernel from giving the interface an IPv6 address of its own. It does not take this when it makes one.
pub(super) fn no_own_ipv6_address(index: u32) -> Message {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]));
    Message::NewLink(message)
}

pub(super) fn set_up(index: u32, up: bool) -> Message {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    message.header.change_mask = LinkFlags::Up;
    Message::NewLink(message)
}

pub(super) fn remove_link(index: u32) -> Message {
    let mut message = LinkMessage::default();
    message.header.index = index;
    Message::DelLink(message)
}

#[cfg(test)]
mod tests;
