//! ARP and IPv6 neighbour discovery frames: what announces a VIP, what asks for a gateway, and what is heard of both.
//!
//! Whole Ethernet frames, for packet sockets. Frames with a VLAN tag are not read; Linux takes the tag off before a packet
//! socket sees the frame.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pnet_packet::Packet;
use pnet_packet::arp::{Arp, ArpHardwareTypes, ArpOperations, ArpPacket, MutableArpPacket};
use pnet_packet::ethernet::{EtherType, EtherTypes, Ethernet, EthernetPacket, MutableEthernetPacket};
use pnet_packet::icmpv6::ndp::{
    Icmpv6Codes, MutableNeighborAdvertPacket, MutableNeighborSolicitPacket, NdpOption, NdpOptionType,
    NdpOptionTypes, NeighborAdvert, NeighborAdvertFlags, NeighborAdvertPacket, NeighborSolicit,
};
use pnet_packet::icmpv6::{self, Icmpv6Packet, Icmpv6Types, MutableIcmpv6Packet};
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv6::{Ipv6, Ipv6Packet, MutableIpv6Packet};

use crate::packet::Family;

const ETHERNET_LEN: usize = 14;
const ARP_LEN: usize = 28;
const IPV6_LEN: usize = 40;
/// A neighbour solicitation or advertisement without options.
const NEIGHBOR_LEN: usize = 24;
/// The option that carries an Ethernet address.
const LINK_LAYER_OPTION_LEN: usize = 8;
const BROADCAST: [u8; 6] = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// RFC 4861 §7.1: a frame with another hop limit may have come from beyond the link.
const HOP_LIMIT: u8 = 255;

/// What a received frame says about who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The address.
    pub ip: IpAddr,
    /// The Ethernet address that its sender gives for it.
    pub mac: [u8; 6],
    /// On what occasion.
    pub kind: SightingKind,
}

/// The occasion of a [`Sighting`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SightingKind {
    /// Told to everyone unasked: gratuitous ARP, unsolicited neighbour advertisement.
    Announcement,
    /// An answer to someone's question: ARP reply, solicited neighbour advertisement.
    Reply,
    /// Someone asked for another address and gave this one as its own: ARP request.
    Request,
}

/// The virtual router's Ethernet address, 00:00:5e:00:01:VRID or 00:00:5e:00:02:VRID (RFC 9568 §7.3).
#[must_use]
pub const fn virtual_mac(family: Family, vrid: u8) -> [u8; 6] {
    let block = match family {
        Family::V4 => 1,
        Family::V6 => 2,
    };
    [0, 0, 0x5e, 0, block, vrid]
}

/// The link-local address that follows from the virtual router's IPv6 Ethernet address (RFC 4291 appendix A).
#[must_use]
pub const fn virtual_link_local(vrid: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0x0200, 0x5eff, 0xfe00, 0x0200 | vrid as u16)
}

/// A broadcast ARP request that tells everyone that `vip` is at `source_mac`.
///
/// RFC 9568 §6.4.2 and §6.4.3 ask for it on becoming active. Sender and target are both the VIP; the target's Ethernet
/// address, which no receiver looks at, is the broadcast address, as keepalived and FRR send it.
#[must_use]
pub fn gratuitous_arp(source_mac: [u8; 6], vip: Ipv4Addr) -> Vec<u8> {
    arp(source_mac, vip, BROADCAST, vip)
}

/// A broadcast ARP request for `target` by the owner of `sender`.
#[must_use]
pub fn arp_request(source_mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    arp(source_mac, sender, [0; 6], target)
}

/// A neighbour advertisement that tells everyone that `vip` is at `source_mac`.
///
/// RFC 9568 §6.4.2 and §6.4.3: "send an unsolicited ND Neighbor Advertisement with the Router Flag (R) set, the Solicited
/// Flag (S) clear, the Override flag (O) set". The router flag is `router`, because hosts forget their default route via a
/// neighbour that stops being a router, and take one that is none for one if it says so: it is for nodes that forward.
#[must_use]
pub fn unsolicited_na(source_mac: [u8; 6], vip: Ipv6Addr, router: bool) -> Vec<u8> {
    let router_flag = if router { NeighborAdvertFlags::Router } else { 0 };
    ndp_frame(source_mac, vip, ALL_NODES, |buffer| {
        let Some(mut packet) = MutableNeighborAdvertPacket::new(buffer) else { return };
        packet.populate(&NeighborAdvert {
            icmpv6_type: Icmpv6Types::NeighborAdvert,
            icmpv6_code: Icmpv6Codes::NoCode,
            checksum: 0,
            flags: router_flag | NeighborAdvertFlags::Override,
            reserved: 0,
            target_addr: vip,
            options: vec![link_layer_option(NdpOptionTypes::TargetLLAddr, source_mac)],
            payload: Vec::new(),
        });
    })
}

/// A neighbour solicitation for `target` by the owner of `source`, which must not be `::`.
#[must_use]
pub fn neighbor_solicitation(source_mac: [u8; 6], source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    // The solicited-node multicast address of RFC 4291 §2.7.1: the last 24 bits of the target after a fixed prefix.
    let [.., high, low] = target.segments();
    let destination = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | high & 0x00ff, low);
    ndp_frame(source_mac, source, destination, |buffer| {
        let Some(mut packet) = MutableNeighborSolicitPacket::new(buffer) else { return };
        packet.populate(&NeighborSolicit {
            icmpv6_type: Icmpv6Types::NeighborSolicit,
            icmpv6_code: Icmpv6Codes::NoCode,
            checksum: 0,
            reserved: 0,
            target_addr: target,
            options: vec![link_layer_option(NdpOptionTypes::SourceLLAddr, source_mac)],
            payload: Vec::new(),
        });
    })
}

/// What an Ethernet frame says about who has an address; `None` for every frame that says nothing of the kind, says it wrongly
/// (lengths, hop limit, checksum), or gives an address that no single host can have.
///
/// An ARP probe (sender 0.0.0.0) claims nothing yet, nor does a neighbour solicitation.
#[must_use]
pub fn parse_frame(frame: &[u8]) -> Option<Sighting> {
    let ethernet = EthernetPacket::new(frame)?;
    match ethernet.get_ethertype() {
        EtherTypes::Arp => parse_arp(ethernet.payload()),
        EtherTypes::Ipv6 => parse_na(ethernet.payload(), ethernet.get_source().octets()),
        _ => None,
    }
}

/// Reads an ARP request or reply.
fn parse_arp(bytes: &[u8]) -> Option<Sighting> {
    let arp = ArpPacket::new(bytes)?;
    let ethernet_and_ipv4 = arp.get_hardware_type() == ArpHardwareTypes::Ethernet
        && arp.get_protocol_type() == EtherTypes::Ipv4
        && arp.get_hw_addr_len() == 6
        && arp.get_proto_addr_len() == 4;
    let (ip, mac) = (arp.get_sender_proto_addr(), arp.get_sender_hw_addr().octets());
    if !ethernet_and_ipv4
        || !is_host_mac(mac)
        || ip.is_unspecified()
        || ip.is_multicast()
        || ip.is_broadcast()
    {
        return None;
    }
    let kind = match arp.get_operation() {
        ArpOperations::Request | ArpOperations::Reply if arp.get_target_proto_addr() == ip => {
            SightingKind::Announcement
        }
        ArpOperations::Request => SightingKind::Request,
        ArpOperations::Reply => SightingKind::Reply,
        _ => return None,
    };
    Some(Sighting { ip: IpAddr::V4(ip), mac, kind })
}

/// Reads an IPv6 packet that is a neighbour advertisement, by the rules of RFC 4861 §7.1.2. One without the link-layer option,
/// which an answer may lack, is taken to speak for the frame's sender.
fn parse_na(bytes: &[u8], frame_source: [u8; 6]) -> Option<Sighting> {
    let ipv6 = Ipv6Packet::new(bytes)?;
    let payload = bytes.get(IPV6_LEN..IPV6_LEN + usize::from(ipv6.get_payload_length()))?;
    let is_icmpv6 = ipv6.get_version() == 6
        && ipv6.get_next_header() == IpNextHeaderProtocols::Icmpv6
        && ipv6.get_hop_limit() == HOP_LIMIT;
    if !is_icmpv6 || payload.len() < NEIGHBOR_LEN {
        return None;
    }
    let advert = NeighborAdvertPacket::new(payload)?;
    let checksum =
        icmpv6::checksum(&Icmpv6Packet::new(payload)?, &ipv6.get_source(), &ipv6.get_destination());
    let target = advert.get_target_addr();
    let solicited = advert.get_flags() & NeighborAdvertFlags::Solicited != 0;
    if advert.get_icmpv6_type() != Icmpv6Types::NeighborAdvert
        || advert.get_icmpv6_code() != Icmpv6Codes::NoCode
        || advert.get_checksum() != checksum
        || target.is_multicast()
        || target.is_unspecified()
        || (solicited && ipv6.get_destination().is_multicast())
    {
        return None;
    }
    let mac = target_link_layer(&payload[NEIGHBOR_LEN..])?.unwrap_or(frame_source);
    let kind = if solicited { SightingKind::Reply } else { SightingKind::Announcement };
    is_host_mac(mac).then_some(Sighting { ip: IpAddr::V6(target), mac, kind })
}

/// The target link-layer address among the options of a neighbour advertisement, if there is one; `None` if the options are
/// malformed. Walks the bytes itself: pnet's iterator does not stop at an option of length 0.
#[expect(clippy::option_option, reason = "malformed options and a missing option are answered differently")]
fn target_link_layer(mut options: &[u8]) -> Option<Option<[u8; 6]>> {
    let mut found = None;
    while let [option_type, units, ..] = *options {
        // RFC 4861 §4.6: "The value 0 is invalid. Nodes MUST silently discard an ND packet that contains an option with
        // length zero."
        let (option, rest) = options.split_at_checked(usize::from(units) * 8)?;
        options = rest;
        match *option {
            [] => return None,
            [_, _, a, b, c, d, e, f] if option_type == NdpOptionTypes::TargetLLAddr.0 => {
                found = found.or(Some([a, b, c, d, e, f]));
            }
            _ => {}
        }
    }
    options.is_empty().then_some(found)
}

/// Whether one host can have this Ethernet address.
fn is_host_mac(mac: [u8; 6]) -> bool {
    mac != [0; 6] && mac[0] & 1 == 0
}

/// A broadcast ARP request.
fn arp(source_mac: [u8; 6], sender: Ipv4Addr, target_mac: [u8; 6], target: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, source_mac, EtherTypes::Arp, ARP_LEN);
    if let Some(mut packet) = MutableArpPacket::new(&mut frame[ETHERNET_LEN..]) {
        packet.populate(&Arp {
            hardware_type: ArpHardwareTypes::Ethernet,
            protocol_type: EtherTypes::Ipv4,
            hw_addr_len: 6,
            proto_addr_len: 4,
            operation: ArpOperations::Request,
            sender_hw_addr: source_mac.into(),
            sender_proto_addr: sender,
            target_hw_addr: target_mac.into(),
            target_proto_addr: target,
            payload: Vec::new(),
        });
    }
    frame
}

/// A multicast frame with a neighbour discovery message of one link-layer option, which `write` puts into its place.
fn ndp_frame(
    source_mac: [u8; 6],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    write: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    const MESSAGE_LEN: usize = NEIGHBOR_LEN + LINK_LAYER_OPTION_LEN;
    // RFC 2464 §7: the last 32 bits of the group after 33:33.
    let [.., a, b, c, d] = destination.octets();
    let group = [0x33, 0x33, a, b, c, d];
    let mut frame = ethernet(group, source_mac, EtherTypes::Ipv6, IPV6_LEN + MESSAGE_LEN);
    if let Some(mut packet) = MutableIpv6Packet::new(&mut frame[ETHERNET_LEN..]) {
        packet.populate(&Ipv6 {
            version: 6,
            traffic_class: 0,
            flow_label: 0,
            payload_length: 32,
            next_header: IpNextHeaderProtocols::Icmpv6,
            hop_limit: HOP_LIMIT,
            source,
            destination,
            payload: Vec::new(),
        });
    }
    let message = &mut frame[ETHERNET_LEN + IPV6_LEN..];
    write(message);
    if let Some(mut packet) = MutableIcmpv6Packet::new(message) {
        let checksum = icmpv6::checksum(&packet.to_immutable(), &source, &destination);
        packet.set_checksum(checksum);
    }
    frame
}

/// An Ethernet frame with `payload_len` zero bytes after its header.
fn ethernet(destination: [u8; 6], source: [u8; 6], ethertype: EtherType, payload_len: usize) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET_LEN + payload_len];
    if let Some(mut packet) = MutableEthernetPacket::new(&mut frame) {
        packet.populate(&Ethernet {
            destination: destination.into(),
            source: source.into(),
            ethertype,
            payload: Vec::new(),
        });
    }
    frame
}

/// The option that gives an Ethernet address.
fn link_layer_option(option_type: NdpOptionType, mac: [u8; 6]) -> NdpOption {
    NdpOption { option_type, length: 1, data: mac.to_vec() }
}

#[cfg(test)]
mod tests;
