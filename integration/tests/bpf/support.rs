//! Packets to and from one service.

use std::net::{IpAddr, SocketAddr};

use integration::bench_l4::object::{Kind, load};
use integration::bench_l4::world::{MAC, Mode, Service, Target, Way, World};
use pnet_packet::Packet;
use pnet_packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};
use pnet_packet::icmp::{self, IcmpPacket};
use pnet_packet::icmpv6::{self, Icmpv6Packet};
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv4::{self, Ipv4Packet, MutableIpv4Packet};
use pnet_packet::ipv6::{Ipv6Packet, MutableIpv6Packet};
use pnet_packet::tcp::{self, MutableTcpPacket, TcpPacket};
use pnet_packet::udp::{self, MutableUdpPacket, UdpPacket};

pub(crate) const MAC_OF_SENDER: [u8; 6] = [2, 0, 0, 0, 9, 9];
pub(crate) const MAC_OF_CLIENT: [u8; 6] = [2, 0, 0, 0, 5, 7];
pub(crate) const TARGET_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub(crate) const SYN: u8 = 2;
pub(crate) const ACK: u8 = 16;

pub(crate) fn frame(source: SocketAddr, destination: SocketAddr, protocol: u8, flags: u8) -> Vec<u8> {
    let transport = match protocol {
        6 => {
            let mut bytes = vec![0; 24];
            let mut packet = MutableTcpPacket::new(&mut bytes).unwrap();
            packet.set_source(source.port());
            packet.set_destination(destination.port());
            packet.set_data_offset(5);
            packet.set_flags(flags);
            packet.set_payload(b"ping");
            let packet = packet.to_immutable();
            let sum = match (source.ip(), destination.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => tcp::ipv4_checksum(&packet, &from, &to),
                (IpAddr::V6(from), IpAddr::V6(to)) => tcp::ipv6_checksum(&packet, &from, &to),
                _ => unreachable!(),
            };
            MutableTcpPacket::new(&mut bytes).unwrap().set_checksum(sum);
            bytes
        }
        _ => {
            let mut bytes = vec![0; 12];
            let mut packet = MutableUdpPacket::new(&mut bytes).unwrap();
            packet.set_source(source.port());
            packet.set_destination(destination.port());
            packet.set_length(12);
            packet.set_payload(b"ping");
            let packet = packet.to_immutable();
            let sum = match (source.ip(), destination.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => udp::ipv4_checksum(&packet, &from, &to),
                (IpAddr::V6(from), IpAddr::V6(to)) => udp::ipv6_checksum(&packet, &from, &to),
                _ => unreachable!(),
            };
            MutableUdpPacket::new(&mut bytes).unwrap().set_checksum(sum);
            bytes
        }
    };
    let header = if source.is_ipv4() { 20 } else { 40 };
    let mut bytes = vec![0; 14 + header + transport.len()];
    let mut ethernet = MutableEthernetPacket::new(&mut bytes).unwrap();
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            ethernet.set_ethertype(EtherTypes::Ipv4);
            let mut ip = MutableIpv4Packet::new(&mut bytes[14..]).unwrap();
            ip.set_version(4);
            ip.set_header_length(5);
            ip.set_total_length(u16::try_from(20 + transport.len()).unwrap());
            ip.set_ttl(64);
            ip.set_next_level_protocol(pnet_packet::ip::IpNextHeaderProtocol(protocol));
            ip.set_source(from);
            ip.set_destination(to);
            ip.set_payload(&transport);
            let sum = ipv4::checksum(&ip.to_immutable());
            ip.set_checksum(sum);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            ethernet.set_ethertype(EtherTypes::Ipv6);
            let mut ip = MutableIpv6Packet::new(&mut bytes[14..]).unwrap();
            ip.set_version(6);
            ip.set_payload_length(u16::try_from(transport.len()).unwrap());
            ip.set_hop_limit(64);
            ip.set_next_header(pnet_packet::ip::IpNextHeaderProtocol(protocol));
            ip.set_source(from);
            ip.set_destination(to);
            ip.set_payload(&transport);
        }
        _ => unreachable!(),
    }
    bytes[..6].copy_from_slice(&MAC);
    bytes[6..12].copy_from_slice(&MAC_OF_SENDER);
    bytes
}

/// Ends of a frame, when all its checksums are right.
pub(crate) fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let ethernet = EthernetPacket::new(frame).unwrap();
    let payload = ethernet.payload();
    let (from, to, transport, next): (IpAddr, IpAddr, Vec<u8>, _) =
        if ethernet.get_ethertype() == EtherTypes::Ipv4 {
            let ip = Ipv4Packet::new(payload).unwrap();
            assert_eq!(ip.get_checksum(), ipv4::checksum(&ip), "the header's checksum");
            assert_eq!(ip.get_ttl(), 63);
            (
                ip.get_source().into(),
                ip.get_destination().into(),
                ip.payload().into(),
                ip.get_next_level_protocol(),
            )
        } else {
            let ip = Ipv6Packet::new(payload).unwrap();
            assert_eq!(ip.get_hop_limit(), 63);
            (ip.get_source().into(), ip.get_destination().into(), ip.payload().into(), ip.get_next_header())
        };
    let (ports, sum, right) = if next == IpNextHeaderProtocols::Tcp {
        let packet = TcpPacket::new(&transport).unwrap();
        let right = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => tcp::ipv4_checksum(&packet, &from, &to),
            (IpAddr::V6(from), IpAddr::V6(to)) => tcp::ipv6_checksum(&packet, &from, &to),
            _ => unreachable!(),
        };
        ((packet.get_source(), packet.get_destination()), packet.get_checksum(), right)
    } else {
        let packet = UdpPacket::new(&transport).unwrap();
        let right = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => udp::ipv4_checksum(&packet, &from, &to),
            (IpAddr::V6(from), IpAddr::V6(to)) => udp::ipv6_checksum(&packet, &from, &to),
            _ => unreachable!(),
        };
        ((packet.get_source(), packet.get_destination()), packet.get_checksum(), right)
    };
    assert_eq!(sum, right, "the checksum of layer 4");
    (SocketAddr::new(from, ports.0), SocketAddr::new(to, ports.1))
}

pub(crate) struct Scene {
    pub(crate) vip: SocketAddr,
    pub(crate) client: SocketAddr,
    pub(crate) target: SocketAddr,
}

pub(crate) const SCENES: [(&str, &str, &str); 2] = [
    ("192.0.2.10:80", "198.51.100.7:40000", "10.0.0.9:8080"),
    ("[2001:db8::10]:80", "[2001:db8:5::7]:40000", "[2001:db8:1::9]:8080"),
];

pub(crate) fn scene(texts: (&str, &str, &str)) -> Scene {
    let [vip, client, target] = [texts.0, texts.1, texts.2].map(|text| text.parse().unwrap());
    Scene { vip, client, target }
}

pub(crate) fn world(scene: &Scene, mode: Mode, protocol: u8, way: Way, kind: Kind) -> World {
    let mut world = World::new(load(1024, &[kind]).unwrap(), 1_000_000).unwrap();
    world.vip(1, scene.vip.ip()).unwrap();
    world.service(1, Service { mode, flags: 0, ring: 1, mss_max: 0 }).unwrap();
    world.listener((1, scene.vip.ip()), scene.vip.port(), protocol, 1).unwrap();
    world.ring(1, &[1]).unwrap();
    world.target(1, &target(scene, way)).unwrap();
    world.endpoint(1, scene.target.ip(), scene.target.port(), protocol).unwrap();
    world
}

/// The one target, healthy.
pub(crate) fn target(scene: &Scene, way: Way) -> Target {
    Target {
        state: 1,
        way,
        port: scene.target.port(),
        endpoint: 1,
        mtu: 1500,
        mac: TARGET_MAC,
        address: scene.target.ip(),
        source: scene.vip.ip(),
    }
}

/// Ends of an ICMP packet and what is in it, when all checksums are right.
pub(crate) fn answer_of_icmp(bytes: &[u8]) -> (IpAddr, IpAddr, Vec<u8>) {
    if bytes[12] == 8 {
        let ip = Ipv4Packet::new(&bytes[14..]).unwrap();
        assert_eq!(ip.get_checksum(), ipv4::checksum(&ip), "the header's checksum");
        assert_eq!(usize::from(ip.get_total_length()), bytes.len() - 14);
        let packet = IcmpPacket::new(ip.payload()).unwrap();
        assert_eq!(packet.get_checksum(), icmp::checksum(&packet), "the checksum of ICMP");
        (ip.get_source().into(), ip.get_destination().into(), ip.payload().to_vec())
    } else {
        let ip = Ipv6Packet::new(&bytes[14..]).unwrap();
        assert_eq!(usize::from(ip.get_payload_length()), bytes.len() - 54);
        let packet = Icmpv6Packet::new(ip.payload()).unwrap();
        let right = icmpv6::checksum(&packet, &ip.get_source(), &ip.get_destination());
        assert_eq!(packet.get_checksum(), right, "the checksum of ICMPv6");
        (ip.get_source().into(), ip.get_destination().into(), ip.payload().to_vec())
    }
}
