//! Netlink messages: requests as the kernel reads them, and answers reduced to what is used here. [`common::netlink`] frames them.
//!
//! Answers are read attribute by attribute, taking just those that are known and needed: a kernel newer than this code adds
//! attributes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::netlink::{attributes, ip, number, text};
use ipnet::IpNet;
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

use super::{Link, Neighbour, Route, Step};

/// The metric that is an MTU, among those of a route.
const METRIC_MTU: u16 = 2;

/// The length of `struct rtnexthop`.
const WAY_HEADER: usize = 8;

/// The kind, in what a link says about its device.
const INFO_KIND: u16 = 1;

/// The queueing discipline of an interface that sends at once.
const NO_QUEUE: &str = "noqueue";

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
        is_open: false,
    };
    // Of a link to another network namespace the kernel says the number of that one.
    let (mut leads_away, mut has_queue) = (false, true);
    for (kind, value) in attributes(payload.get(16..)) {
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_ADDRESS if header.link_layer_type == LinkLayerType::Ether => {
                link.mac = value.try_into().ok();
            }
            libc::IFLA_MTU => link.mtu = number(value)?,
            libc::IFLA_LINK => link.below = number(value),
            libc::IFLA_LINK_NETNSID => leads_away = true,
            libc::IFLA_QDISC => has_queue = text(value) != NO_QUEUE,
            libc::IFLA_LINKINFO => {
                let kind = attributes(Some(value)).find(|(kind, _)| *kind == INFO_KIND);
                link.kind = kind.map(|(_, name)| text(name)).unwrap_or_default();
            }
            _ => {}
        }
    }
    link.is_open = link.kind == "veth" && leads_away && !has_queue;
    Some(link)
}

fn parse_route(payload: &[u8]) -> Option<Route> {
    let header = RouteHeader::parse(payload).ok()?;
    let mut route = Route {
        index: 0,
        gateway: router(payload.get(12..)),
        source: None,
        mtu: None,
        unicast: header.kind == RouteType::Unicast,
        local: header.kind == RouteType::Local,
    };
    for (kind, value) in attributes(payload.get(12..)) {
        match kind {
            libc::RTA_OIF => route.index = number(value)?,
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

/// The router that a route, or one of its ways, leads to.
fn router(bytes: Option<&[u8]>) -> Option<IpAddr> {
    attributes(bytes).find_map(|(kind, value)| match kind {
        libc::RTA_GATEWAY => ip(value),
        // An IPv4 route by way of an IPv6 router: the family, then the address.
        libc::RTA_VIA => ip(value.get(2..)?),
        _ => None,
    })
}

/// Where a route leads: nowhere, if it leads to this host itself or says that there is no way. None for what is no route.
pub(super) fn parse_steps(message_type: u16, payload: &[u8]) -> Option<Vec<Step>> {
    if message_type != libc::RTM_NEWROUTE {
        return None;
    }
    let header = RouteHeader::parse(payload).ok()?;
    let own = payload.get(12..);
    let find = |wanted: u16| attributes(own).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let all = match header.address_family {
        AddressFamily::Inet => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        _ => return Some(Vec::new()),
    };
    let network = IpNet::new(find(libc::RTA_DST).map_or(Some(all), ip)?, header.destination_prefix_length);
    let (RouteType::Unicast, Ok(network)) = (header.kind, network) else { return Some(Vec::new()) };
    let step = |(index, router): (u32, Option<IpAddr>)| match router {
        Some(router) => Step::Router(index, router),
        None => Step::Network(index, network),
    };
    let only = find(libc::RTA_OIF).and_then(number).map(|index| (index, router(own)));
    Some(only.into_iter().chain(ways(find(libc::RTA_MULTIPATH))).map(step).collect())
}

/// The ways of a route that has several, each `struct rtnexthop` with attributes of its own: the interface, and the router.
fn ways(bytes: Option<&[u8]>) -> impl Iterator<Item = (u32, Option<IpAddr>)> {
    let mut rest = bytes.unwrap_or_default();
    std::iter::from_fn(move || {
        let header = rest.first_chunk::<WAY_HEADER>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let own = rest.get(WAY_HEADER..length)?;
        let index = number(&header[4..])?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((index, router(Some(own))))
    })
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

/// All routes of a family, of all tables.
pub(super) fn get_routes(ipv6: bool) -> Message {
    let mut message = RouteMessage::default();
    message.header.address_family = if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    Message::GetRoute(message)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of a message, each filled up to four bytes: with an attribute's header, if a kind is given.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// `struct rtmsg` of this family, prefix and type.
    fn header(family: u8, prefix: u8, kind: u8) -> Vec<u8> {
        vec![family, prefix, 0, 0, 254, 2, 0, kind, 0, 0, 0, 0]
    }

    fn way(index: u32, attributes: &[u8]) -> Vec<u8> {
        let length = u16::try_from(8 + attributes.len()).unwrap();
        [&length.to_ne_bytes()[..], &[0, 0], &index.to_ne_bytes(), attributes].concat()
    }

    fn steps(parts: &[&[u8]]) -> Option<Vec<Step>> {
        parse_steps(libc::RTM_NEWROUTE, &parts.concat())
    }

    const UNICAST: u8 = 1;
    const BLACKHOLE: u8 = 6;

    #[test]
    fn a_route_leads_to_routers_or_to_neighbours() {
        let index = attribute(libc::RTA_OIF, &7_u32.to_ne_bytes());
        let router = attribute(libc::RTA_GATEWAY, &[192, 0, 2, 1]);
        let to = attribute(libc::RTA_DST, &[10, 77, 0, 0]);
        let network: IpNet = "10.77.0.0/24".parse().unwrap();
        assert_eq!(steps(&[&header(2, 24, UNICAST), &to, &index]), Some(vec![Step::Network(7, network)]));
        let by_router = Some(vec![Step::Router(7, [192, 0, 2, 1].into())]);
        assert_eq!(steps(&[&header(2, 24, UNICAST), &to, &router, &index]), by_router);
        assert_eq!(steps(&[&header(2, 0, UNICAST), &router, &index]), by_router);
        let all: IpNet = "::/0".parse().unwrap();
        assert_eq!(steps(&[&header(10, 0, UNICAST), &index]), Some(vec![Step::Network(7, all)]));
        // By a router of the other family: that, then its address.
        let via = attribute(libc::RTA_VIA, &[&10_u16.to_ne_bytes()[..], &[0xfe; 16]].concat());
        let by_other = Some(vec![Step::Router(7, [0xfe; 16].into())]);
        assert_eq!(steps(&[&header(2, 0, UNICAST), &via, &index]), by_other);
        assert_eq!(steps(&[&header(2, 24, BLACKHOLE), &to]), Some(Vec::new()));
        assert_eq!(parse_steps(libc::RTM_NEWADDR, &header(2, 24, UNICAST)), None);
    }

    #[test]
    fn a_route_of_several_ways_leads_to_each() {
        let router = |last: u8| attribute(libc::RTA_GATEWAY, &[192, 0, 2, last]);
        let ways = [way(7, &router(1)), way(8, &router(2)), way(9, &[])].concat();
        let several = attribute(libc::RTA_MULTIPATH, &ways);
        let all: IpNet = "0.0.0.0/0".parse().unwrap();
        let expected = [
            Step::Router(7, [192, 0, 2, 1].into()),
            Step::Router(8, [192, 0, 2, 2].into()),
            Step::Network(9, all),
        ];
        assert_eq!(steps(&[&header(2, 0, UNICAST), &several]).unwrap(), expected);
        // Whatever is cut, nothing is read beyond it, and nothing goes round for ever.
        for length in 0..ways.len() {
            let found = steps(&[&header(2, 0, UNICAST), &attribute(libc::RTA_MULTIPATH, &ways[..length])]);
            assert!(expected.starts_with(&found.unwrap()), "{length}");
        }
        for length in 0..8_u16 {
            let mut short = ways.clone();
            short[..2].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(
                steps(&[&header(2, 0, UNICAST), &attribute(libc::RTA_MULTIPATH, &short)]),
                Some(vec![])
            );
        }
    }
}
