//! Each way to forward, with each kind of packet, in both families.

use std::net::SocketAddr;

use integration::verdict::compare::{self, Pair};
use integration::verdict::harness::{Program, Verdict, program};
use integration::verdict::oracle::reason::Reason;
use integration::verdict::oracle::{Expected, Outcome, Tuple};
use integration::verdict::packet::{ACK, FIN, PSH, Packet, Piece, RST, SYN, TCP, Transport};
use integration::verdict::sample::{answer, nats, paths};

use crate::each;

fn mss(value: u16) -> Vec<u8> {
    let [high, low] = value.to_be_bytes();
    // No-operation, window scale, timestamps' length of 2, MSS, end.
    vec![1, 3, 3, 7, 4, 2, 2, 4, high, low, 0, 0]
}

#[test]
fn a_connection_from_syn_to_fin() {
    each(paths(), |path, pair| {
        let tuple = Tuple { protocol: TCP, client: path.client(40_000), service: path.web() };
        let sent = pair.sends(&path.tcp(40_000, SYN).frame());
        assert_eq!(pair.harness.flow(&tuple), None, "half-open flows are apart");
        if path.nat {
            pair.sends(&answer(&sent, SYN | ACK).frame());
        }
        pair.sends(&path.tcp(40_000, ACK).frame());
        let stored = pair.harness.flow(&tuple).expect("the client's answer makes it a flow");
        let expected = pair.oracle.flows[&tuple];
        assert_eq!((stored.target, stored.service, stored.port), (expected.target, 1, expected.port));
        assert_eq!(stored.state, 1);
        for length in [1, 2, 3, 64, 1000] {
            pair.sends(&path.tcp(40_000, ACK | PSH).carrying(length).frame());
            if path.nat {
                pair.sends(&answer(&sent, ACK | PSH).carrying(length).frame());
            }
        }
        pair.sends(&path.tcp(40_000, FIN | ACK).frame());
        assert_eq!(pair.harness.flow(&tuple).unwrap().state, 1 | 2);
        if path.nat {
            pair.sends(&answer(&sent, FIN | ACK).frame());
            assert_eq!(pair.harness.flow(&tuple).unwrap().state, 1 | 2 | 4);
        }
        pair.sends(&path.tcp(40_000, ACK).frame());
        pair.sends(&path.tcp(40_000, RST).frame());
        assert_eq!(pair.harness.flow(&tuple).unwrap().state & 8, 8);
    });
}

#[test]
fn many_connections_each_to_its_own_target() {
    each(paths(), |path, pair| {
        for port in (1024..65_000).step_by(1013) {
            pair.sends(&path.tcp(port, SYN).frame());
            pair.sends(&path.tcp(port, ACK).carrying(7).frame());
            pair.sends(&path.udp(port).frame());
        }
    });
}

#[test]
fn a_segment_of_an_unknown_connection_goes_where_the_hash_says() {
    each(paths(), |path, pair| {
        for (port, flags) in (2000..).zip([ACK, ACK | PSH, FIN | ACK, SYN | ACK, RST, RST | ACK]) {
            pair.sends(&path.tcp(port, flags).carrying(10).frame());
        }
    });
}

#[test]
fn datagrams_with_and_without_a_checksum() {
    each(paths(), |path, pair| {
        let mut sent = Vec::new();
        for (port, length) in (3000..).zip([0, 1, 2, 7, 512, 1200]) {
            sent = pair.sends(&path.udp(port).carrying(length).frame());
            pair.sends(&path.udp(port).carrying(length).frame());
            // IPv6 forbids it, RFC 6935 allows it; it is not ours to judge.
            let bare = Packet { transport: Transport::Udp { checksum: false }, ..path.udp(port) };
            pair.sends(&bare.carrying(length).frame());
        }
        if path.nat {
            pair.sends(&answer(&sent, 0).frame());
            let bare = Packet { transport: Transport::Udp { checksum: false }, ..answer(&sent, 0) };
            pair.sends(&bare.frame());
        }
    });
}

/// A datagram whose checksum comes out as zero has to be sent with ones (RFC 768): some payload of two bytes makes it so.
#[test]
fn no_datagram_gets_a_checksum_of_zero_by_translation() {
    each(nats(), |path, pair| {
        pair.sends(&path.udp(3100).frame());
        let mut ones = 0;
        for word in 0..=u16::MAX {
            let packet = Packet { payload: word.to_be_bytes().to_vec(), ..path.udp(3100) };
            let sent_would_be = pair.oracle.clone().step(&packet.frame());
            let Outcome::Forward(frames) = sent_would_be.outcome else { panic!("{sent_would_be:?}") };
            let at = if path.vip.is_ipv4() { 14 + 20 + 6 } else { 14 + 40 + 6 };
            if frames[0][at..at + 2] == [0xff, 0xff] {
                ones += 1;
                pair.sends(&packet.frame());
            }
        }
        assert!(ones > 0, "one word of all has to do it");
    });
}

/// What a tag says is of a VLAN is its device's business, whatever is in it and behind it.
#[test]
fn frames_of_a_vlan_are_left_alone() {
    each(paths(), |path, pair| {
        let sent = pair.sends(&path.tcp(4000, SYN).frame());
        pair.sends(&path.tcp(4000, ACK).frame());
        for vlans in [
            vec![(0x8100, 5)],
            vec![(0x88a8, 0x2007)],
            vec![(0x8100, 0xffff)],
            vec![(0x88a8, 7), (0x8100, 0xe009)],
            vec![(0x8100, 0x2000), (0x8100, 5)],
            vec![(0x88a8, 5), (0x8100, 0)],
            vec![(0x88a8, 0), (0x8100, 0)],
            vec![(0x88a8, 1), (0x8100, 2), (0x8100, 3)],
        ] {
            for flags in [SYN, ACK] {
                let frame = Packet { vlans: vlans.clone(), ..path.tcp(4000, flags) }.frame();
                pair.does(&frame, &Expected::pass());
            }
            pair.does(&Packet { vlans: vlans.clone(), ..path.udp(4000) }.frame(), &Expected::pass());
            if path.nat {
                let frame = Packet { vlans, ..answer(&sent, SYN | ACK) }.frame();
                pair.does(&frame, &Expected::pass());
            }
        }
    });
}

/// Which network a frame is of whose tag is in another one (802.1ad) is for the stack to say, in the driver as at TC: not a byte of it changes,
/// whatever the tags say, and nothing is counted.
#[test]
fn one_tag_in_another_is_left_to_the_stack_by_both_programs() {
    const KINDS: [u16; 2] = [0x8100, 0x88a8];
    each(paths(), |path, pair| {
        let sent = pair.sends(&path.tcp(4005, SYN).frame());
        pair.sends(&path.tcp(4005, ACK).frame());
        let flows = pair.harness.flows();
        let kinds = KINDS.into_iter().flat_map(|outer| KINDS.map(|inner| (outer, inner)));
        for ((outer, inner), ids) in
            kinds.flat_map(|kinds| [(0, 0), (0xe000, 0x6000), (0, 5), (5, 0), (5, 6)].map(|ids| (kinds, ids)))
        {
            let mut packets = vec![path.tcp(4006, SYN), path.tcp(4005, ACK), path.udp(4005)];
            if path.nat {
                packets.push(answer(&sent, SYN | ACK));
            }
            for packet in packets {
                let vlans = vec![(outer, ids.0), (inner, ids.1)];
                let frame = Packet { vlans, ..packet }.frame();
                let done = pair.harness.run(pair.program, &frame);
                assert!(done.verdict == Verdict::Pass && done.frame == frame, "{outer:x} {inner:x} {ids:?}");
                assert!(done.counted(None), "{:?}", done.drops);
            }
        }
        assert_eq!(pair.harness.flows(), flows);
    });
}

#[test]
fn a_tag_with_a_priority_only_makes_no_difference() {
    each(paths(), |path, pair| {
        for (port, tag) in (4010..).zip([(0x8100, 0), (0x8100, 0xe000), (0x88a8, 0x6000)]) {
            let tagged = |packet: Packet| Packet { vlans: vec![tag], ..packet }.frame();
            let sent = pair.sends(&tagged(path.tcp(port, SYN)));
            assert_eq!(sent, pair.sends(&path.tcp(port, SYN).frame()));
            pair.sends(&tagged(path.tcp(port, ACK)));
            pair.sends(&tagged(path.udp(port).carrying(600)));
            if path.nat {
                let returned = pair.sends(&tagged(answer(&sent, SYN | ACK)));
                assert_eq!(returned, pair.sends(&answer(&sent, SYN | ACK).frame()));
            }
            // What is answered goes back without it, and what is nobody's here is the stack's.
            pair.tell(|world| world.targets.iter_mut().for_each(|target| target.mtu = 1300));
            let (expected, _) = pair.step(&tagged(path.tcp(port, ACK).carrying(1400)));
            assert_eq!(expected.outcome, Outcome::TooBig(1300));
            pair.tell(|world| world.targets.iter_mut().for_each(|target| target.mtu = 1500));
            let other = SocketAddr::new(path.vip, 81);
            let packet = Packet { destination: other, ..path.tcp(port, SYN) };
            pair.does(&tagged(packet), &Expected::pass());
        }
    });
}

#[test]
fn options_of_ipv4_are_left_to_the_stack() {
    each(paths(), |path, pair| {
        if path.vip.is_ipv4() {
            let frame = Packet { options: vec![1, 1, 1, 0], ..path.tcp(4200, SYN) }.frame();
            pair.does(&frame, &Expected::pass());
        }
    });
}

#[test]
fn extension_headers_of_ipv6() {
    let options = |kind: u8, words: u8| {
        let mut header = vec![0, words, 1, 0];
        header.resize(8 + usize::from(words) * 8, 0);
        // A PadN option that fills the rest.
        header[3] = u8::try_from(header.len() - 4).unwrap();
        (kind, header)
    };
    each(paths(), |path, pair| {
        if path.vip.is_ipv4() {
            return;
        }
        let chains = [
            vec![options(60, 0)],
            vec![options(60, 3)],
            vec![options(0, 0), options(60, 1)],
            vec![options(0, 0), options(60, 1), options(60, 0)],
            vec![options(0, 0), options(60, 1), options(60, 0), options(60, 2)],
        ];
        for (port, extensions) in (4300..).zip(chains) {
            let sent = pair.sends(&Packet { extensions: extensions.clone(), ..path.tcp(port, SYN) }.frame());
            pair.sends(&Packet { extensions: extensions.clone(), ..path.udp(port) }.frame());
            if path.nat {
                pair.sends(&Packet { extensions, ..answer(&sent, SYN | ACK) }.frame());
            }
        }
        let five = vec![options(0, 0), options(60, 0), options(60, 0), options(60, 0), options(60, 0)];
        let frame = Packet { extensions: five, ..path.tcp(4400, SYN) }.frame();
        pair.does(&frame, &Expected::pass());
    });
}

#[test]
fn pieces_of_datagrams_follow_the_first() {
    each(paths(), |path, pair| {
        let piece = |identification, offset, more| Some(Piece { identification, offset, more });
        let first = Packet { piece: piece(77, 0, true), ..path.udp(4500).carrying(1000) };
        let second = Packet { piece: piece(77, 1008, true), ..path.udp(4500).carrying(800) };
        let third = Packet { piece: piece(77, 1808, false), ..path.udp(4500).carrying(33) };
        // An orphan is counted and dropped: its datagram cannot be put together.
        pair.step(&second.frame());
        let sent = pair.sends(&first.frame());
        pair.sends(&third.frame());
        pair.sends(&second.frame());
        let other = Packet { piece: piece(78, 1008, false), ..path.udp(4500).carrying(8) };
        pair.step(&other.frame());
        if !path.vip.is_ipv4() {
            // Those that follow say of themselves that they are options: all of the datagram is the stack's.
            let with = |place: [u8; 2]| {
                let pieces = (44, [&[0, 0][..], &place, &[0, 0, 0, 79]].concat());
                let extensions = vec![pieces, (60, vec![0, 0, 1, 4, 0, 0, 0, 0])];
                Packet { extensions, ..path.udp(4500).carrying(1000) }.frame()
            };
            pair.does(&with([0, 1]), &Expected::pass());
            pair.does(&with([4, 0]), &Expected::pass());
            // One that says so of a datagram that is whole.
            pair.sends(&with([0, 0]));
        }
        if path.nat {
            let back = |packet: Packet| Packet { macs: answer(&sent, 0).macs, ..packet };
            let first = Packet { piece: piece(9, 0, true), ..answer(&sent, 0).carrying(600) };
            let second = Packet { piece: piece(9, 608, false), ..first.clone().carrying(100) };
            pair.sends(&back(first).frame());
            pair.sends(&back(second).frame());
        }
    });
}

#[test]
fn padding_behind_the_packet_counts_for_nothing() {
    each(paths(), |path, pair| {
        for length in [0, 1, 2, 5] {
            let mut frame = path.tcp(4600, ACK).carrying(length).frame();
            frame.extend_from_slice(&[0xee; 7]);
            pair.sends(&frame);
            let mut frame = path.udp(4600).carrying(length).frame();
            frame.extend_from_slice(&[0xdd; 18]);
            pair.sends(&frame);
        }
    });
}

#[test]
fn only_frames_for_this_node() {
    each(paths(), |path, pair| {
        let to = |mac| path.tcp(4700, SYN).to_mac(mac).frame();
        let pass = Expected::pass();
        for mac in [
            [2, 0, 0, 0, 0, 9],
            [0xff; 6],
            [1, 0, 0x5e, 0, 0, 18],
            [0, 0, 0x5e, 0, 3, 7],
            [0, 0, 0x5f, 0, 1, 7],
        ] {
            pair.does(&to(mac), &pass);
        }
        pair.sends(&to([0, 0, 0x5e, 0, 1, 51]));
        pair.sends(&to([0, 0, 0x5e, 0, 2, 51]));
    });
}

#[test]
fn the_last_hop_is_not_forwarded() {
    each(paths(), |path, pair| {
        let over = Expected::counted(Outcome::Drop, Reason::Ttl);
        for ttl in [0, 1] {
            pair.does(&Packet { ttl, ..path.tcp(4800, SYN) }.frame(), &over);
            pair.does(&Packet { ttl, ..path.udp(4800) }.frame(), &over);
        }
        let sent = pair.sends(&Packet { ttl: 2, ..path.tcp(4801, SYN) }.frame());
        pair.sends(&Packet { ttl: 255, ..path.udp(4801) }.frame());
        if path.nat {
            pair.does(&Packet { ttl: 1, ..answer(&sent, SYN | ACK) }.frame(), &over);
            pair.sends(&Packet { ttl: 2, ..answer(&sent, SYN | ACK) }.frame());
        }
    });
}

#[test]
fn an_mss_is_brought_down_and_never_up() {
    each(paths(), |path, pair| {
        for (port, options) in (4900..).zip([mss(1460), mss(1401), mss(1400), mss(536), vec![2, 4, 5, 0xb4]])
        {
            let transport = |flags| Transport::Tcp { flags, options: options.clone() };
            let sent = pair.sends(&Packet { transport: transport(SYN), ..path.tcp(port, SYN) }.frame());
            if path.nat {
                // What the target takes is the client's measure.
                let transport = transport(SYN | ACK);
                pair.sends(&Packet { transport, ..answer(&sent, SYN | ACK) }.frame());
            }
            // Only in a SYN is it one.
            let transport = Transport::Tcp { flags: ACK, options };
            pair.sends(&Packet { transport, ..path.tcp(port, ACK) }.frame());
        }
        // Options that end early, or have a length that leads nowhere.
        let odd =
            [vec![0, 2, 4, 9], vec![1, 1, 1, 2], vec![3, 0, 2, 4], vec![3, 255, 2, 4], vec![2, 3, 9, 9]];
        for (port, options) in (4950..).zip(odd) {
            let transport = Transport::Tcp { flags: SYN, options };
            pair.sends(&Packet { transport, ..path.tcp(port, SYN) }.frame());
        }
    });
}

/// Answers are translated on the way to clients, which takes packets of 1,500 bytes.
#[test]
fn an_mss_fits_the_way_to_the_client_too() {
    each(nats(), |path, pair| {
        pair.tell(|world| world.services[0].mss_max = 8960);
        let fits = if path.vip.is_ipv4() { 1460 } else { 1440 };
        for (port, offered) in (4980..).zip([8960, fits + 1, fits, 536]) {
            let transport = |flags| Transport::Tcp { flags, options: mss(offered) };
            let sent = pair.sends(&Packet { transport: transport(SYN), ..path.tcp(port, SYN) }.frame());
            let transport = transport(SYN | ACK);
            let back = pair.sends(&Packet { transport, ..answer(&sent, SYN | ACK) }.frame());
            let at = back.len() - 4;
            assert_eq!(back[at..at + 2], offered.min(fits).to_be_bytes(), "{offered}");
        }
    });
}

#[test]
fn too_big_is_answered() {
    each(paths(), |path, pair| {
        pair.tell(|world| world.targets.iter_mut().for_each(|target| target.mtu = 1300));
        for dont_fragment in [true, false] {
            let headers = if path.vip.is_ipv4() { 40 } else { 60 };
            let port = 5000 + u16::from(dont_fragment);
            pair.sends(&path.tcp(port, SYN).frame());
            let data = Packet { dont_fragment, ..path.tcp(port, ACK) };
            pair.sends(&data.clone().carrying(1300 - headers).frame());
            let (expected, _) = pair.step(&data.clone().carrying(1301 - headers).frame());
            let reason = if path.vip.is_ipv4() && !dont_fragment { Reason::NotCut } else { Reason::TooBig };
            assert_eq!(expected, Expected::counted(Outcome::TooBig(1300), reason));
            pair.step(&data.carrying(1460).frame());
            pair.step(&Packet { dont_fragment, ..path.udp(port) }.carrying(1400).frame());
        }
    });
}

/// Nothing is cut, and so no piece either; its first one tells the sender.
#[test]
fn pieces_that_are_too_big_are_not_cut_once_more() {
    each(paths(), |path, pair| {
        let piece = |offset, more| Some(Piece { identification: 79, offset, more });
        let first = Packet { piece: piece(0, true), ..path.udp(5050).carrying(1400) };
        let second = Packet { piece: piece(1408, false), ..path.udp(5050).carrying(1400) };
        pair.sends(&first.frame());
        pair.tell(|world| world.targets.iter_mut().for_each(|target| target.mtu = 1300));
        let (told, _) = pair.step(&first.frame());
        let (dropped, _) = pair.step(&second.frame());
        let reason = if path.vip.is_ipv4() { Reason::NotCut } else { Reason::TooBig };
        assert_eq!((told.reason, dropped.reason), (Some(reason), Some(reason)));
        assert_eq!((told.outcome, dropped.outcome), (Outcome::TooBig(1300), Outcome::Drop));
        if !path.vip.is_ipv4() {
            // Its ports are behind a header that is not quoted.
            let extensions = vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0])];
            let dropped = Expected::counted(Outcome::Drop, reason);
            pair.does(&Packet { extensions: extensions.clone(), ..first }.frame(), &dropped);
            pair.does(&Packet { extensions, piece: None, ..second }.frame(), &dropped);
        }
    });
}

#[test]
fn traffic_class_is_kept_and_copied_out() {
    each(paths(), |path, pair| {
        for (port, tos) in (5100..).zip([0, 0x28, 0xb8, 0xfc, 0xb9]) {
            pair.sends(&Packet { tos, ..path.tcp(port, SYN) }.frame());
        }
    });
}

#[test]
fn a_packet_to_be_cut_later_may_be_larger() {
    let mut harness = program();
    // Tunnels are for the lab: what BPF_PROG_RUN makes has a size to be cut to but no kind, and the kernel gives only TCP's more room
    // (`bpf_skb_net_grow` in its `net/core/filter.c`).
    for path in paths().into_iter().filter(|path| !path.tunnel) {
        let mut pair = Pair::new(&mut harness, Program::Tc, path.world.clone());
        pair.sends(&path.tcp(5200, SYN).frame());
        let frame = path.tcp(5200, ACK).carrying(3000).frame();
        let done = pair.harness.run_gso(Program::Tc, &frame, 1400);
        pair.tell(|world| world.targets.iter_mut().for_each(|target| target.mtu = 9000));
        let expected = pair.oracle.step(&frame);
        compare::agree(&expected, &done, &frame).expect(&path.name);
        // Segments that are too big for the way.
        pair.tell(|world| world.targets.iter_mut().for_each(|target| target.mtu = 1400));
        let expected = pair.oracle.step(&frame);
        let done = pair.harness.run_gso(Program::Tc, &frame, 1400);
        compare::agree(&expected, &done, &frame).expect(&path.name);
    }
}
