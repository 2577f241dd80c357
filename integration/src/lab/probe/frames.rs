//! What the [`super::Watcher`] reads out of frames. On purpose not the daemons' own reading of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pnet_packet::Packet;
use pnet_packet::arp::{ArpOperations, ArpPacket};
use pnet_packet::ethernet::{EtherTypes, EthernetPacket};
use pnet_packet::icmpv6::Icmpv6Types;
use pnet_packet::icmpv6::ndp::{NdpOptionTypes, NeighborAdvertFlags, NeighborAdvertPacket};
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv6::Ipv6Packet;

use super::sightings::SightingKind;
use crate::lab::addresses::Mac;

/// What one frame says about who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) address: IpAddr,
    pub(super) mac: Mac,
    pub(super) kind: SightingKind,
    /// Whom it was told, if not everyone.
    pub(super) told: Option<IpAddr>,
}

/// Reads a frame.
pub(super) fn parse(frame: &[u8]) -> Option<Claim> {
    let ethernet = EthernetPacket::new(frame)?;
    match ethernet.get_ethertype() {
        EtherTypes::Arp => parse_arp(ethernet.payload()),
        EtherTypes::Ipv6 => parse_advertisement(ethernet.payload(), ethernet.get_source().octets()),
        _ => None,
    }
}

fn parse_arp(payload: &[u8]) -> Option<Claim> {
    let arp = ArpPacket::new(payload)?;
    let (sender, target) = (arp.get_sender_proto_addr(), arp.get_target_proto_addr());
    if sender == Ipv4Addr::UNSPECIFIED {
        return None;
    }
    // Announcements come as requests and as replies; in both the sender names itself twice.
    let (kind, told) = match arp.get_operation() {
        _ if sender == target => (SightingKind::Announcement, None),
        ArpOperations::Reply => (SightingKind::Answer, Some(IpAddr::V4(target))),
        ArpOperations::Request => (SightingKind::Question, None),
        _ => return None,
    };
    Some(Claim { address: IpAddr::V4(sender), mac: arp.get_sender_hw_addr().octets(), kind, told })
}

fn parse_advertisement(payload: &[u8], source: Mac) -> Option<Claim> {
    let ip = Ipv6Packet::new(payload)?;
    if ip.get_next_header() != IpNextHeaderProtocols::Icmpv6 {
        return None;
    }
    let advert = NeighborAdvertPacket::new(ip.payload())?;
    if advert.get_icmpv6_type() != Icmpv6Types::NeighborAdvert {
        return None;
    }
    let solicited = advert.get_flags() & NeighborAdvertFlags::Solicited != 0;
    let (kind, told) = if solicited {
        (SightingKind::Answer, Some(IpAddr::V6(ip.get_destination())))
    } else {
        (SightingKind::Announcement, None)
    };
    let options = advert.get_options();
    let option = options.iter().find(|option| option.option_type == NdpOptionTypes::TargetLLAddr);
    // Without the option the address is the frame's.
    let mac = option.and_then(|option| Mac::try_from(option.data.as_slice()).ok()).unwrap_or(source);
    let address: Ipv6Addr = advert.get_target_addr();
    Some(Claim { address: IpAddr::V6(address), mac, kind, told })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::addresses::{mac, v4, v6, vip4, vip6};

    #[test]
    fn announcements_and_questions_are_told_apart() {
        let frame = vrrpd_core::neighbor::gratuitous_arp(mac(1), vip4(0));
        let announcement = SightingKind::Announcement;
        let claim = Claim { address: vip4(0).into(), mac: mac(1), kind: announcement, told: None };
        assert_eq!(parse(&frame), Some(claim));
        let frame = vrrpd_core::neighbor::unsolicited_na(mac(2), vip6(0), false);
        assert_eq!(
            parse(&frame),
            Some(Claim { address: vip6(0).into(), mac: mac(2), kind: announcement, told: None })
        );
        let frame = vrrpd_core::neighbor::arp_request(mac(3), v4(3), vip4(0));
        let question = SightingKind::Question;
        assert_eq!(
            parse(&frame),
            Some(Claim { address: v4(3).into(), mac: mac(3), kind: question, told: None })
        );
        assert_eq!(parse(&vrrpd_core::neighbor::neighbor_solicitation(mac(3), v6(3), vip6(0))), None);
        assert_eq!(parse(&frame[..20]), None);
    }
}
