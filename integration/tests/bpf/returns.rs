//! Answers of targets, ICMP errors on their way to whom they concern, and fragments.

use std::net::{IpAddr, SocketAddr};

use integration::bench_l4::machine::Taken;
use integration::bench_l4::measure::{self, Meter, Packets};
use integration::bench_l4::network::with_clients;
use integration::bench_l4::object::{Kind, XDP_REDIRECT};
use integration::bench_l4::world::{Mode, Way, World};
use integration::bench_l4::{self, Case, Subject};
use pnet_packet::Packet;
use pnet_packet::icmp::{self, IcmpPacket};
use pnet_packet::icmpv6::{self, Icmpv6Packet};
use pnet_packet::ipv4::{self, Ipv4Packet, MutableIpv4Packet};
use pnet_packet::ipv6::{Ipv6Packet, MutableIpv6Packet};

use crate::support::{ACK, MAC_OF_CLIENT, SCENES, SYN, Scene, answer_of_icmp, ends, frame, scene, world};

const fn out_elsewhere(kind: Kind) -> u32 {
    match kind {
        Kind::Tc => kind.sent(),
        Kind::Xdp => XDP_REDIRECT,
    }
}

fn open(world: &World, kind: Kind, scene: &Scene, protocol: u8) -> SocketAddr {
    let outcome = kind.run(&world.object, &frame(scene.client, scene.vip, protocol, SYN)).unwrap();
    assert_eq!(outcome.verdict, kind.sent());
    ends(&outcome.packet).0
}

#[test]
fn answers_come_from_the_vip() {
    with_clients(|| {
        for (texts, protocol) in SCENES.into_iter().flat_map(|texts| [(texts, 6), (texts, 17)]) {
            for kind in Kind::ALL {
                let scene = scene(texts);
                let world = world(&scene, Mode::Nat, protocol, Way::Plain, kind);
                let towards = open(&world, kind, &scene, protocol);
                let outcome =
                    kind.run(&world.object, &frame(scene.target, towards, protocol, SYN | ACK)).unwrap();
                assert_eq!(outcome.verdict, out_elsewhere(kind), "{kind:?} {protocol} {texts:?}");
                assert_eq!(ends(&outcome.packet), (scene.vip, scene.client));
                assert_eq!(outcome.packet[..6], MAC_OF_CLIENT);
                // A port that nobody has is nobody's.
                let other = SocketAddr::new(towards.ip(), towards.port() ^ 1);
                let sent = frame(scene.target, other, protocol, SYN | ACK);
                let outcome = kind.run(&world.object, &sent).unwrap();
                assert_eq!((outcome.verdict, outcome.packet), (kind.passed(), sent));
            }
        }
    })
    .unwrap();
}

/// What the benchmark takes for answers are some: each is sent on to the client, whose way is known or asked for.
#[test]
fn the_benchmark_measures_answers() {
    with_clients(|| {
        let (world, mut meter) = (bench_l4::scene(Subject::Nat).unwrap(), Meter::new(2).unwrap());
        let packets = |flags| Packets { first: 0, end: 2, flags, repeat: 4 };
        for flags in [measure::SYN, measure::ACK] {
            meter.forwarding(&world, packets(flags)).unwrap();
        }
        assert_eq!(world.flows().unwrap(), 2);
        meter.answers(&world, 2).unwrap();
        meter.forwarding(&world, packets(measure::ACK)).unwrap();
        assert!(world.all_drops().unwrap().is_empty());
    })
    .unwrap();
}

/// Most of what a packet costs are the calls. One of a known flow makes one, for which its flow is found, and so does its answer.
#[test]
fn an_answer_makes_no_more_calls_than_a_request() {
    for subject in Subject::ALL {
        for (case, Taken { calls, functions, .. }) in bench_l4::taken(subject).unwrap() {
            let expected = match case {
                Case::First | Case::Second => continue,
                // The way is asked for, and it is by another interface.
                Case::AnswerMillion => (3, 1),
                // What is put into a tunnel has to be made longer.
                _ if subject == Subject::Ipip => (2, 1),
                _ => (1, 0),
            };
            assert_eq!((calls, functions), expected, "{subject:?} {case:?}");
        }
    }
}

/// An ICMP error from `router` to whom a packet came from, quoting it.
fn error(router: IpAddr, quoted: &[u8]) -> Vec<u8> {
    let quoted = &quoted[14..];
    match router {
        IpAddr::V4(router) => {
            let to = Ipv4Packet::new(quoted).unwrap().get_source();
            let mut bytes = frame(SocketAddr::new(router.into(), 1), SocketAddr::new(to.into(), 2), 17, 0);
            bytes.truncate(34);
            bytes.extend_from_slice(&[3, 1, 0, 0, 0, 0, 0, 0]);
            bytes.extend_from_slice(quoted);
            let sum = icmp::checksum(&IcmpPacket::new(&bytes[34..]).unwrap());
            bytes[36..38].copy_from_slice(&sum.to_be_bytes());
            let length = u16::try_from(bytes.len() - 14).unwrap();
            let mut ip = MutableIpv4Packet::new(&mut bytes[14..]).unwrap();
            ip.set_total_length(length);
            ip.set_next_level_protocol(pnet_packet::ip::IpNextHeaderProtocols::Icmp);
            let sum = ipv4::checksum(&ip.to_immutable());
            ip.set_checksum(sum);
            bytes
        }
        IpAddr::V6(router) => {
            let to = Ipv6Packet::new(quoted).unwrap().get_source();
            let mut bytes = frame(SocketAddr::new(router.into(), 1), SocketAddr::new(to.into(), 2), 17, 0);
            bytes.truncate(54);
            bytes.extend_from_slice(&[1, 1, 0, 0, 0, 0, 0, 0]);
            bytes.extend_from_slice(quoted);
            let sum = icmpv6::checksum(&Icmpv6Packet::new(&bytes[54..]).unwrap(), &router, &to);
            bytes[56..58].copy_from_slice(&sum.to_be_bytes());
            let length = u16::try_from(bytes.len() - 54).unwrap();
            let mut ip = MutableIpv6Packet::new(&mut bytes[14..]).unwrap();
            ip.set_payload_length(length);
            ip.set_next_header(pnet_packet::ip::IpNextHeaderProtocols::Icmpv6);
            bytes
        }
    }
}

/// Ends of an error, and the packet that it quotes as a frame.
fn open_error(bytes: &[u8]) -> (IpAddr, IpAddr, Vec<u8>) {
    let (from, to, icmp) = answer_of_icmp(bytes);
    let mut quoted = bytes[..14].to_vec();
    quoted.extend_from_slice(&icmp[8..]);
    (from, to, quoted)
}

#[test]
fn errors_find_whom_they_concern() {
    with_clients(|| {
        for (texts, protocol) in SCENES.into_iter().flat_map(|texts| [(texts, 6), (texts, 17)]) {
            for kind in Kind::ALL {
                let scene = scene(texts);
                let world = world(&scene, Mode::Nat, protocol, Way::Plain, kind);
                let router: IpAddr =
                    if scene.vip.is_ipv4() { "203.0.113.9" } else { "2001:db8:77::9" }.parse().unwrap();
                let towards = open(&world, kind, &scene, protocol);

                // About a packet to the client: for the target, as if that had been its own.
                let sent = error(router, &lived(frame(scene.vip, scene.client, protocol, ACK)));
                let outcome = kind.run(&world.object, &sent).unwrap();
                assert_eq!(outcome.verdict, kind.sent(), "{kind:?} {protocol} {texts:?}");
                let (from, to, quoted) = open_error(&outcome.packet);
                assert_eq!((from, to), (scene.vip.ip(), scene.target.ip()));
                assert_eq!(ends(&quoted), (scene.target, towards));

                // About a packet to the target: for the client.
                let sent = error(router, &lived(frame(towards, scene.target, protocol, ACK)));
                let outcome = kind.run(&world.object, &sent).unwrap();
                assert_eq!(outcome.verdict, out_elsewhere(kind), "{kind:?} {protocol} {texts:?}");
                let (from, to, quoted) = open_error(&outcome.packet);
                assert_eq!((from, to), (scene.vip.ip(), scene.client.ip()));
                assert_eq!(ends(&quoted), (scene.client, scene.vip));
            }
        }
    })
    .unwrap();
}

/// A packet one hop later.
fn lived(mut frame: Vec<u8>) -> Vec<u8> {
    if frame[12] == 8 {
        let mut ip = MutableIpv4Packet::new(&mut frame[14..]).unwrap();
        ip.set_ttl(63);
        let sum = ipv4::checksum(&ip.to_immutable());
        ip.set_checksum(sum);
    } else {
        MutableIpv6Packet::new(&mut frame[14..]).unwrap().set_hop_limit(63);
    }
    frame
}

#[test]
fn later_fragments_go_where_the_first_went() {
    for kind in Kind::ALL {
        let scene = scene(SCENES[0]);
        let world = world(&scene, Mode::Nat, 17, Way::Plain, kind);
        let fragment = |flags_offset: [u8; 2]| {
            let mut bytes = frame(scene.client, scene.vip, 17, 0);
            bytes[18..22].copy_from_slice(&[0x12, 0x34, flags_offset[0], flags_offset[1]]);
            let mut ip = MutableIpv4Packet::new(&mut bytes[14..]).unwrap();
            let sum = ipv4::checksum(&ip.to_immutable());
            ip.set_checksum(sum);
            bytes
        };
        let (first, later) = (fragment([0x20, 0]), fragment([0, 2]));
        assert_eq!(kind.run(&world.object, &later).unwrap().packet, later, "nobody's yet");
        assert_eq!(world.drops(9).unwrap(), 1);
        assert_eq!(kind.run(&world.object, &first).unwrap().verdict, kind.sent());
        let outcome = kind.run(&world.object, &later).unwrap();
        assert_eq!(outcome.verdict, kind.sent());
        let ip = Ipv4Packet::new(&outcome.packet[14..]).unwrap();
        assert_eq!(ip.get_checksum(), ipv4::checksum(&ip));
        assert_eq!(IpAddr::V4(ip.get_destination()), scene.target.ip());
        assert_eq!(ip.payload(), &later[34..], "there are no ports in it");
    }
}
