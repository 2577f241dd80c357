//! Tunnels to targets.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use integration::bench_l4::object::Kind;
use integration::bench_l4::world::{Mode, Way};
use pnet_packet::Packet;
use pnet_packet::ethernet::{EtherTypes, EthernetPacket};
use pnet_packet::ipv4::{self, Ipv4Packet};
use pnet_packet::ipv6::Ipv6Packet;

use crate::support::{SCENES, SYN, Scene, TARGET_MAC, ends, frame, scene, world};

/// The protocol behind the outer header, and what follows it.
fn outer(bytes: &[u8], v4: bool) -> (u8, Vec<u8>) {
    let ethernet = EthernetPacket::new(bytes).unwrap();
    if v4 {
        assert_eq!(ethernet.get_ethertype(), EtherTypes::Ipv4);
        let ip = Ipv4Packet::new(ethernet.payload()).unwrap();
        assert_eq!(ip.get_checksum(), ipv4::checksum(&ip));
        assert_eq!((ip.get_ttl(), ip.get_identification(), ip.get_flags()), (64, 0, 2));
        assert_eq!(usize::from(ip.get_total_length()), bytes.len() - 14);
        (ip.get_next_level_protocol().0, ip.payload().to_vec())
    } else {
        assert_eq!(ethernet.get_ethertype(), EtherTypes::Ipv6);
        let ip = Ipv6Packet::new(ethernet.payload()).unwrap();
        assert_eq!(ip.get_hop_limit(), 64);
        assert_eq!(usize::from(ip.get_payload_length()), bytes.len() - 54);
        (ip.get_next_header().0, ip.payload().to_vec())
    }
}

#[test]
fn tunnels_carry_what_the_client_sent() {
    for (inner, other) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        for (kind, way) in
            Kind::ALL.into_iter().flat_map(|kind| [Way::Ipip, Way::Gre, Way::Gue].map(|way| (kind, way)))
        {
            let (client, place) = (scene(SCENES[inner]), scene(SCENES[other]));
            let mixed = Scene { vip: client.vip, client: client.client, target: place.target };
            let mut world = world(&mixed, Mode::Dsr, 6, way, kind);
            world.source_of_tunnel(1, place.vip.ip()).unwrap();
            let sent = frame(client.client, client.vip, 6, SYN);
            let outcome = kind.run(&world.object, &sent).unwrap();
            assert_eq!(outcome.verdict, kind.sent(), "{kind:?} {way:?} {inner} in {other}");
            assert_eq!(outcome.packet[..6], TARGET_MAC);
            let (protocol, payload) = outer(&outcome.packet, other == 0);
            let inner_type = [[8, 0], [0x86, 0xdd]][inner];
            let carried = match way {
                Way::Ipip => {
                    assert_eq!(protocol, [4, 41][inner]);
                    &payload[..]
                }
                Way::Gre => {
                    assert_eq!((protocol, &payload[..4]), (47, &[0, 0, inner_type[0], inner_type[1]][..]));
                    &payload[4..]
                }
                _ => {
                    assert_eq!((protocol, &payload[2..4]), (17, &6080_u16.to_be_bytes()[..]));
                    assert!(payload[0] >= 0xc0);
                    assert_eq!(usize::from(u16::from_be_bytes([payload[4], payload[5]])), payload.len());
                    &payload[8..]
                }
            };
            let mut unpacked = sent[..14].to_vec();
            unpacked.extend_from_slice(carried);
            assert_eq!(ends(&unpacked), (client.client, client.vip));
        }
    }
}

/// Routers and network cards choose by the ports: clients that differ in one place only must not all go one way.
#[test]
fn flows_of_gue_are_told_apart_by_its_source_port() {
    for name in SCENES {
        let scene = scene(name);
        for kind in Kind::ALL {
            let mut world = world(&scene, Mode::Dsr, 6, Way::Gue, kind);
            world.source_of_tunnel(1, scene.vip.ip()).unwrap();
            let source_of = |client: SocketAddr| {
                let outcome = kind.run(&world.object, &frame(client, scene.vip, 6, SYN)).unwrap();
                assert_eq!(outcome.verdict, kind.sent(), "{kind:?} {client}");
                let (_, payload) = outer(&outcome.packet, scene.target.is_ipv4());
                u16::from_be_bytes([payload[0], payload[1]])
            };
            let by_address: HashSet<_> = (0..64_u8)
                .map(|last| {
                    let address = match scene.client.ip() {
                        IpAddr::V4(ip) => {
                            IpAddr::from([ip.octets()[0], ip.octets()[1], ip.octets()[2], last + 1])
                        }
                        IpAddr::V6(ip) => {
                            IpAddr::from((ip.to_bits() & !0xff | u128::from(last + 1)).to_be_bytes())
                        }
                    };
                    source_of(SocketAddr::new(address, scene.client.port()))
                })
                .collect();
            let by_port: HashSet<_> =
                (0..64).map(|port| source_of(SocketAddr::new(scene.client.ip(), 2000 + port))).collect();
            assert!(by_address.len() > 48, "{kind:?} {name:?}: {} ports for 64 addresses", by_address.len());
            assert!(by_port.len() > 48, "{kind:?} {name:?}: {} ports for 64 ports", by_port.len());
        }
    }
}
