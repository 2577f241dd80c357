//! Netlink messages: requests as the kernel reads them, and answers reduced to what is used here. [`common::netlink`] frames them.
//!
//! Answers are read attribute by attribute, taking just those that are known and needed: a kernel newer than this code adds
//! attributes.

use std::net::IpAddr;

use common::netlink::{attributes, ip, number, text};
use netlink_packet_route::address::{AddressHeader, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkHeader, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourHeader, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::tc::{TcHandle, TcMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::{Link, Neighbour, Route};

/// The metric that is an MTU, among those of a route.
const METRIC_MTU: u16 = 2;

/// The kind, in what a link says about its device.
const INFO_KIND: u16 = 1;

/// The length of `struct tcmsg`.
const FILTER_HEADER: usize = 20;

/// The number of a program, in what a filter says of itself (`TCA_BPF_ID`).
const BPF_ID: u16 = 11;

/// One message of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Link(Link),
    Route(Route),
    Address(IpAddr, u32),
    Neighbour(Neighbour),
    NeighbourGone(Neighbour),
    /// A filter, with the number of its program; 0 if it has none.
    Filter(u32),
}

impl Answer {
    pub(super) fn link(self) -> Option<Link> {
        if let Self::Link(link) = self { Some(link) } else { None }
    }

    pub(super) fn route(self) -> Option<Route> {
        if let Self::Route(route) = self { Some(route) } else { None }
    }

    pub(super) fn address(self) -> Option<(IpAddr, u32)> {
        if let Self::Address(address, index) = self { Some((address, index)) } else { None }
    }

    pub(super) fn neighbour(self) -> Option<Neighbour> {
        if let Self::Neighbour(neighbour) = self { Some(neighbour) } else { None }
    }

    pub(super) fn filter(self) -> Option<u32> {
        if let Self::Filter(program) = self { Some(program) } else { None }
    }

    /// The message with this type and payload; none for what is of no interest or does not decode.
    pub(super) fn parse(message_type: u16, payload: &[u8]) -> Option<Self> {
        match message_type {
            libc::RTM_NEWLINK => parse_link(payload).map(Self::Link),
            libc::RTM_NEWROUTE => parse_route(payload).map(Self::Route),
            libc::RTM_NEWADDR => parse_address(payload),
            libc::RTM_NEWNEIGH => parse_neighbour(payload).map(Self::Neighbour),
            libc::RTM_DELNEIGH => parse_neighbour(payload).map(Self::NeighbourGone),
            libc::RTM_NEWTFILTER => Some(Self::Filter(parse_filter(payload))),
            _ => None,
        }
    }
}

fn parse_link(payload: &[u8]) -> Option<Link> {
    let header = LinkHeader::parse(payload).ok()?;
    if header.interface_family != AddressFamily::Unspec {
        // A bridge speaks of its ports in the same messages.
        return None;
    }
    let mut link = Link {
        index: header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: header.flags.contains(LinkFlags::Up),
        below: None,
        kind: String::new(),
    };
    for (kind, value) in attributes(payload.get(16..)) {
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_ADDRESS if header.link_layer_type == LinkLayerType::Ether => {
                link.mac = value.try_into().ok();
            }
            libc::IFLA_MTU => link.mtu = number(value)?,
            libc::IFLA_LINK => link.below = number(value),
            libc::IFLA_LINKINFO => {
                let kind = attributes(Some(value)).find(|(kind, _)| *kind == INFO_KIND);
                link.kind = kind.map(|(_, name)| text(name)).unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(link)
}

fn parse_route(payload: &[u8]) -> Option<Route> {
    let header = RouteHeader::parse(payload).ok()?;
    let mut route = Route {
        index: 0,
        gateway: None,
        source: None,
        mtu: None,
        unicast: header.kind == RouteType::Unicast,
        local: header.kind == RouteType::Local,
    };
    for (kind, value) in attributes(payload.get(12..)) {
        match kind {
            libc::RTA_OIF => route.index = number(value)?,
            libc::RTA_GATEWAY => route.gateway = ip(value),
            // An IPv4 route by way of an IPv6 router: the family, then the address.
            libc::RTA_VIA => route.gateway = ip(value.get(2..)?),
            libc::RTA_PREFSRC => route.source = ip(value),
            libc::RTA_METRICS => {
                let mtu = attributes(Some(value)).find(|(metric, _)| *metric == METRIC_MTU);
                route.mtu = mtu.and_then(|(_, value)| number(value)).filter(|mtu| *mtu > 0);
            }
            _ => {}
        }
    }
    Some(route)
}

fn parse_address(payload: &[u8]) -> Option<Answer> {
    let header = AddressHeader::parse(payload).ok()?;
    let (mut local, mut address) = (None, None);
    for (kind, value) in attributes(payload.get(8..)) {
        match kind {
            libc::IFA_LOCAL => local = ip(value),
            libc::IFA_ADDRESS => address = ip(value),
            _ => {}
        }
    }
    // On a point-to-point interface `IFA_ADDRESS` is the other end's.
    Some(Answer::Address(local.or(address)?, header.index))
}

fn parse_neighbour(payload: &[u8]) -> Option<Neighbour> {
    let header = NeighbourHeader::parse(payload).ok()?;
    if !matches!(header.family, AddressFamily::Inet | AddressFamily::Inet6) {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for (kind, value) in attributes(payload.get(12..)) {
        match kind {
            libc::NDA_DST => address = ip(value),
            libc::NDA_LLADDR => mac = value.try_into().ok(),
            _ => {}
        }
    }
    Some(Neighbour { index: header.ifindex, ip: address?, mac, state: header.state.into() })
}

fn parse_filter(payload: &[u8]) -> u32 {
    let options = attributes(payload.get(FILTER_HEADER..)).find(|(kind, _)| *kind == libc::TCA_OPTIONS);
    let program = attributes(options.map(|(_, options)| options)).find(|(kind, _)| *kind == BPF_ID);
    program.and_then(|(_, id)| number(id)).unwrap_or_default()
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

pub(super) fn get_links() -> Message {
    Message::GetLink(LinkMessage::default())
}

/// Makes a VXLAN device whose tunnels end where each packet says; it is down.
pub(super) fn make_vxlan(name: &str, port: u16) -> Message {
    let data = vec![InfoVxlan::CollectMetadata(true), InfoVxlan::Learning(false), InfoVxlan::Port(port)];
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(data))]),
    ];
    Message::NewLink(message)
}

/// Sets an interface up or down.
pub(super) fn set_up(index: u32, up: bool) -> Message {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    message.header.change_mask = LinkFlags::Up;
    Message::SetLink(message)
}

pub(super) fn delete_link(index: u32) -> Message {
    let mut message = LinkMessage::default();
    message.header.index = index;
    Message::DelLink(message)
}

pub(super) fn get_addresses() -> Message {
    Message::GetAddress(AddressMessage::default())
}

pub(super) fn get_neighbours() -> Message {
    Message::GetNeighbour(NeighbourMessage::default())
}

/// With a source, rules that look at it count.
pub(super) fn get_route(destination: IpAddr, source: Option<IpAddr>) -> Message {
    let bits = |ip: IpAddr| if ip.is_ipv6() { 128 } else { 32 };
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination);
    message.header.destination_prefix_length = bits(destination);
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(destination)));
    if let Some(source) = source {
        message.header.source_prefix_length = bits(source);
        message.attributes.push(RouteAttribute::Source(RouteAddress::from(source)));
    }
    Message::GetRoute(message)
}

/// The filter of clsact with a number and a priority, for packets of all protocols.
pub(super) fn get_filter(index: u32, egress: bool, priority: u16, handle: u32) -> Message {
    const ALL: u16 = 0x0003;
    let mut message = TcMessage::with_index(i32::try_from(index).unwrap_or_default());
    message.header.handle = handle.into();
    let minor = if egress { TcHandle::MIN_EGRESS } else { TcHandle::MIN_INGRESS };
    message.header.parent = TcHandle { minor, ..TcHandle::CLSACT };
    message.header.info = u32::from(priority) << 16 | u32::from(ALL.to_be());
    Message::GetTrafficFilter(message)
}

/// Says that the neighbour is in use: the kernel looks for one that it does not know, and after one that is stale.
pub(super) fn use_neighbour(index: u32, ip: IpAddr) -> Message {
    let mut message = neighbour(index, ip);
    message.header.flags = NeighbourFlags::Use;
    Message::NewNeighbour(message)
}

/// Has the kernel ask a neighbour that it knows whether it is there, whenever it was last heard.
pub(super) fn ask_neighbour(index: u32, ip: IpAddr) -> Message {
    let mut message = neighbour(index, ip);
    message.header.state = NeighbourState::Probe;
    Message::NewNeighbour(message)
}

fn neighbour(index: u32, ip: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(ip);
    message.header.ifindex = index;
    let address = match ip {
        IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
    };
    message.attributes.push(NeighbourAttribute::Destination(address));
    message
}
