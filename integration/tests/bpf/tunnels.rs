//! Tunnels to targets.

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
