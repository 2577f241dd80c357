//! What the program answers itself: resets, and what is too big.

use integration::bench_l4::object::Kind;
use integration::bench_l4::world::{Mode, Way};
use pnet_packet::Packet;
use pnet_packet::ipv4::{self, Ipv4Packet};
use pnet_packet::ipv6::Ipv6Packet;
use pnet_packet::tcp::{self, TcpFlags, TcpPacket};

use crate::support::{ACK, MAC_OF_SENDER, SCENES, SYN, answer_of_icmp, frame, scene, target, world};

#[test]
fn flows_of_an_unhealthy_target_are_reset() {
    for texts in SCENES {
        for kind in Kind::ALL {
            let scene = scene(texts);
            let mut world = world(&scene, Mode::Dsr, 6, Way::Plain, kind);
            world.service_flags(1, 32).unwrap();
            for flags in [SYN, ACK, ACK] {
                let sent = frame(scene.client, scene.vip, 6, flags);
                assert_eq!(kind.run(&world.object, &sent).unwrap().verdict, kind.sent());
            }
            let mut unhealthy = target(&scene, Way::Plain);
            unhealthy.state = 3;
            world.target(1, &unhealthy).unwrap();
            let sent = frame(scene.client, scene.vip, 6, ACK);
            let outcome = kind.run(&world.object, &sent).unwrap();
            assert_eq!(outcome.verdict, kind.sent());
            assert_eq!(outcome.packet[..6], MAC_OF_SENDER);
            assert_eq!(world.drops(11).unwrap(), 1);
            let bytes = &outcome.packet[14..];
            let (tcp_bytes, right) = if scene.vip.is_ipv4() {
                let ip = Ipv4Packet::new(bytes).unwrap();
                assert_eq!(ip.get_checksum(), ipv4::checksum(&ip));
                let payload = ip.payload().to_vec();
                let right = tcp::ipv4_checksum(
                    &TcpPacket::new(&payload).unwrap(),
                    &ip.get_source(),
                    &ip.get_destination(),
                );
                (payload, right)
            } else {
                let ip = Ipv6Packet::new(bytes).unwrap();
                let payload = ip.payload().to_vec();
                let right = tcp::ipv6_checksum(
                    &TcpPacket::new(&payload).unwrap(),
                    &ip.get_source(),
                    &ip.get_destination(),
                );
                (payload, right)
            };
            let tcp = TcpPacket::new(&tcp_bytes).unwrap();
            assert_eq!(tcp_bytes.len(), 20);
            assert_eq!((tcp.get_checksum(), tcp.get_flags()), (right, TcpFlags::RST));
            assert_eq!((tcp.get_source(), tcp.get_destination()), (scene.vip.port(), scene.client.port()));
            let asked = if scene.vip.is_ipv4() { 34 } else { 54 };
            assert_eq!(tcp_bytes[4..8], sent[asked + 8..asked + 12], "what the client expects next");
        }
    }
}

#[test]
fn what_is_too_big_is_told_to_the_client() {
    for (texts, protocol) in SCENES.into_iter().flat_map(|texts| [(texts, 6), (texts, 17)]) {
        for kind in Kind::ALL {
            let scene = scene(texts);
            let mut world = world(&scene, Mode::Nat, protocol, Way::Plain, kind);
            let mut narrow = target(&scene, Way::Plain);
            narrow.mtu = 31;
            world.target(1, &narrow).unwrap();
            let sent = frame(scene.client, scene.vip, protocol, ACK);
            let outcome = kind.run(&world.object, &sent).unwrap();
            assert_eq!(outcome.verdict, kind.sent(), "{kind:?} {protocol} {texts:?}");
            assert_eq!(outcome.packet[..6], MAC_OF_SENDER);
            let (from, to, icmp) = answer_of_icmp(&outcome.packet);
            assert_eq!((from, to), (scene.vip.ip(), scene.client.ip()));
            let (kind_and_code, header) = if scene.vip.is_ipv4() { ([3, 4], 20) } else { ([2, 0], 40) };
            assert_eq!((&icmp[..2], &icmp[4..8]), (&kind_and_code[..], &[0, 0, 0, 31][..]));
            assert_eq!(icmp[8..], sent[14..14 + header + 8]);
        }
    }
}
