//! Questions for MAC addresses: ARP requests and neighbour solicitations, made by hand and read with pnet's views.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pnet_packet::arp::{ArpHardwareTypes, ArpOperations, ArpPacket};
use pnet_packet::ethernet::{EtherTypes, EthernetPacket};
use pnet_packet::icmpv6::Icmpv6Types;
use pnet_packet::icmpv6::ndp::NeighborSolicitPacket;
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv6::Ipv6Packet;

use super::packet::ethernet;
use super::parse::u16_at;

/// The address that a frame asks for; none if it is no question.
#[must_use]
pub fn asked(frame: &[u8]) -> Option<IpAddr> {
    let mut kind = EthernetPacket::new(frame)?.get_ethertype();
    let mut at = 14;
    for _ in 0..2 {
        if kind == EtherTypes::Vlan || kind == EtherTypes::PBridge {
            kind = pnet_packet::ethernet::EtherType::new(u16_at(frame, at + 2)?);
            at += 4;
        }
    }
    let rest = frame.get(at..)?;
    if kind == EtherTypes::Arp {
        let arp = ArpPacket::new(rest)?;
        let plain = arp.get_hardware_type() == ArpHardwareTypes::Ethernet
            && arp.get_protocol_type() == EtherTypes::Ipv4
            && (arp.get_hw_addr_len(), arp.get_proto_addr_len()) == (6, 4);
        let asks = plain && arp.get_operation() == ArpOperations::Request;
        // One that announces its own is no question.
        let (sender, target) = (arp.get_sender_proto_addr(), arp.get_target_proto_addr());
        return (asks && sender != target).then_some(target.into());
    }
    if kind != EtherTypes::Ipv6 || Ipv6Packet::new(rest)?.get_next_header() != IpNextHeaderProtocols::Icmpv6 {
        return None;
    }
    let solicitation = NeighborSolicitPacket::new(rest.get(40..)?)?;
    let target = solicitation.get_target_addr();
    let asks = solicitation.get_icmpv6_type() == Icmpv6Types::NeighborSolicit;
    (asks && target.to_ipv4_mapped().is_none()).then_some(target.into())
}

/// An ARP request in a frame with these MAC addresses (destination, source) and VLAN tags.
#[must_use]
pub fn arp(macs: ([u8; 6], [u8; 6]), vlans: &[(u16, u16)], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 1];
    let body = [&head[..], &macs.1, &sender.octets(), &[0; 6], &target.octets()].concat();
    ethernet(macs, vlans, 0x0806, &body)
}

/// A neighbour solicitation, likewise. Its checksum is nobody's business here.
#[must_use]
pub fn solicit(
    macs: ([u8; 6], [u8; 6]),
    vlans: &[(u16, u16)],
    sender: Ipv6Addr,
    target: Ipv6Addr,
) -> Vec<u8> {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let head = [0x60, 0, 0, 0, 0, 32, 58, 255];
    let option = [&[1, 1][..], &macs.1].concat();
    let body = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), &option].concat();
    ethernet(macs, vlans, 0x86dd, &[&head[..], &sender.octets(), &group.octets(), &body].concat())
}
