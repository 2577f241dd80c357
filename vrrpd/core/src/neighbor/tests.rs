use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OTHER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

fn v6() -> Ipv6Addr {
    "2001:db8::12:3456".parse().unwrap()
}

fn sighting(ip: impl Into<IpAddr>, kind: SightingKind) -> Option<Sighting> {
    Some(Sighting { ip: ip.into(), mac: MAC, kind })
}

/// An answer to a neighbour solicitation from fe80::1, with `options` and any of its bytes then set to another value, and its
/// checksum right unless that was among them.
fn solicited_na(options: &[u8], changes: &[(usize, u8)]) -> Vec<u8> {
    let mut frame = unsolicited_na(MAC, v6(), true);
    frame.truncate(ETHERNET_LEN + IPV6_LEN + NEIGHBOR_LEN);
    frame.extend(options);
    frame[19] = u8::try_from(NEIGHBOR_LEN + options.len()).unwrap();
    let destination: Ipv6Addr = "fe80::1".parse().unwrap();
    frame[38..54].copy_from_slice(&destination.octets());
    frame[58] = 0x60;
    for (position, value) in changes {
        frame[*position] = *value;
    }
    let (ip, message) = frame[ETHERNET_LEN..].split_at_mut(IPV6_LEN);
    let destination = Ipv6Packet::new(ip).unwrap().get_destination();
    let mut packet = MutableIcmpv6Packet::new(message).unwrap();
    let checksum = icmpv6::checksum(&packet.to_immutable(), &v6(), &destination);
    packet.set_checksum(checksum);
    frame
}

const OPTION: [u8; 8] = [2, 1, 2, 0, 0, 0, 0, 9];

#[test]
fn virtual_addresses() {
    assert_eq!(virtual_mac(Family::V4, 51), [0, 0, 0x5e, 0, 1, 51]);
    assert_eq!(virtual_mac(Family::V6, 255), [0, 0, 0x5e, 0, 2, 255]);
    assert_eq!(virtual_link_local(0x33).to_string(), "fe80::200:5eff:fe00:233");
}

#[test]
fn golden_arp_request() {
    let mut bytes = vec![0xff; 6];
    bytes.extend([2, 0, 0, 0, 0, 9, 8, 6]);
    bytes.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    bytes.extend([2, 0, 0, 0, 0, 9, 192, 0, 2, 1]);
    bytes.extend([0, 0, 0, 0, 0, 0, 192, 0, 2, 2]);
    assert_eq!(arp_request(MAC, V4, OTHER_V4), bytes);
}

#[test]
fn golden_neighbor_solicitation() {
    let source: Ipv6Addr = "fe80::1".parse().unwrap();
    let mut bytes = vec![0x33, 0x33, 0xff, 0x12, 0x34, 0x56, 2, 0, 0, 0, 0, 9, 0x86, 0xdd];
    bytes.extend([0x60, 0, 0, 0, 0, 32, 58, 255]);
    bytes.extend(source.octets());
    bytes.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0x12, 0x34, 0x56]);
    // 8700 + 2001 + 0db8 + 0012 + 3456 + 0101 + 0200 + 0009 and fe80 + 0001 + ff02 + 0001 + ff12 + 3456 + 0020 + 003a:
    // 41d71, folded 1d75, inverted e28a.
    bytes.extend([135, 0, 0xe2, 0x8a, 0, 0, 0, 0]);
    bytes.extend(v6().octets());
    bytes.extend([1, 1, 2, 0, 0, 0, 0, 9]);
    assert_eq!(neighbor_solicitation(MAC, source, v6()), bytes);
}

#[test]
fn the_router_flag_is_the_callers() {
    assert_eq!(unsolicited_na(MAC, v6(), true)[58], 0xa0);
    assert_eq!(unsolicited_na(MAC, v6(), false)[58], 0x20);
}

#[test]
fn announcements_requests_and_replies_are_told_apart() {
    assert_eq!(parse_frame(&gratuitous_arp(MAC, V4)), sighting(V4, SightingKind::Announcement));
    assert_eq!(parse_frame(&arp_request(MAC, V4, OTHER_V4)), sighting(V4, SightingKind::Request));
    let mut reply = arp_request(MAC, V4, OTHER_V4);
    reply[21] = 2;
    assert_eq!(parse_frame(&reply), sighting(V4, SightingKind::Reply));
    let mut gratuitous_reply = gratuitous_arp(MAC, V4);
    gratuitous_reply[21] = 2;
    assert_eq!(parse_frame(&gratuitous_reply), sighting(V4, SightingKind::Announcement));
    assert_eq!(parse_frame(&unsolicited_na(MAC, v6(), false)), sighting(v6(), SightingKind::Announcement));
    assert_eq!(parse_frame(&solicited_na(&OPTION, &[])), sighting(v6(), SightingKind::Reply));
}

#[test]
fn frames_may_be_padded() {
    let mut frame = arp_request(MAC, V4, OTHER_V4);
    frame.resize(60, 0);
    assert_eq!(parse_frame(&frame), sighting(V4, SightingKind::Request));
    let mut frame = solicited_na(&OPTION, &[]);
    frame.extend([0; 4]);
    assert_eq!(parse_frame(&frame), sighting(v6(), SightingKind::Reply));
}

#[test]
fn arp_that_claims_nothing_is_passed_over() {
    let probe = arp_request(MAC, Ipv4Addr::UNSPECIFIED, V4);
    assert_eq!(parse_frame(&probe), None);
    let good = arp_request(MAC, V4, OTHER_V4);
    // Hardware type, protocol type, both lengths, operations 0 and 3, a multicast sender and a multicast address.
    for (position, value) in [(15, 2), (16, 7), (18, 7), (19, 6), (21, 0), (21, 3), (22, 3), (28, 224)] {
        let mut frame = good.clone();
        frame[position] = value;
        assert_eq!(parse_frame(&frame), None, "byte {position} = {value}");
    }
    let mut nobody = good;
    nobody[22..28].fill(0);
    assert_eq!(parse_frame(&nobody), None);
}

#[test]
fn a_neighbor_advertisement_must_keep_the_rules() {
    let refused = |position: usize, value: u8| {
        assert_eq!(
            parse_frame(&solicited_na(&OPTION, &[(position, value)])),
            None,
            "byte {position} = {value}"
        );
    };
    refused(14, 0x40); // IP version
    refused(18, 1); // a payload longer than the frame
    refused(20, 59); // next header
    refused(21, 254); // hop limit
    refused(38, 0xff); // solicited, and yet to a group
    refused(54, 135); // a solicitation
    refused(55, 1); // code
    refused(62, 0xff); // a group as target
    refused(79, 0); // an option of length 0
    refused(79, 2); // an option longer than the message
    refused(80, 3); // a group as Ethernet address
    for position in 54..86 {
        let mut frame = solicited_na(&OPTION, &[]);
        frame[position] ^= 4;
        assert_eq!(parse_frame(&frame), None, "checksum with byte {position} changed");
    }
    let mut short = solicited_na(&OPTION, &[]);
    short[19] = 23;
    assert_eq!(parse_frame(&short), None);
}

#[test]
fn options_are_walked() {
    let unknown_first = [&[200, 2][..], &[0; 14], &OPTION].concat();
    assert_eq!(parse_frame(&solicited_na(&unknown_first, &[])), sighting(v6(), SightingKind::Reply));
    // Without the option the frame's own source counts.
    assert_eq!(parse_frame(&solicited_na(&[], &[])), sighting(v6(), SightingKind::Reply));
    assert_eq!(parse_frame(&solicited_na(&[2], &[])), None);
    assert_eq!(parse_frame(&solicited_na(&[OPTION.as_slice(), &[200, 0]].concat(), &[])), None);
}

proptest! {
    #[test]
    fn what_is_announced_is_read_back(ip: u128, router: bool) {
        let ip = Ipv6Addr::from_bits(ip & !(0xff << 120) | 0x20 << 120);
        prop_assert_eq!(
            parse_frame(&unsolicited_na(MAC, ip, router)),
            sighting(ip, SightingKind::Announcement)
        );
    }

    #[test]
    fn noise_does_not_panic(mut bytes in vec(any::<u8>(), 0..200), kind in 0..3) {
        if bytes.len() > 14 && kind > 0 {
            bytes[12..14].copy_from_slice(if kind == 1 { &[8, 6] } else { &[0x86, 0xdd] });
        }
        let _sighting = parse_frame(&bytes);
    }

    #[test]
    fn options_do_not_panic(options in vec(any::<u8>(), 0..100), units in 0_u8..4) {
        let mut options = options;
        if let Some(length) = options.get_mut(1) {
            *length = units;
        }
        if let Some(sighting) = parse_frame(&solicited_na(&options, &[])) {
            prop_assert_eq!(sighting.kind, SightingKind::Reply);
            prop_assert_eq!(options.len() % 8, 0);
        }
    }

    #[test]
    fn cut_frames_say_nothing(cut in 0_usize..86) {
        let na = solicited_na(&OPTION, &[]);
        prop_assert_eq!(parse_frame(&na[..cut]), None);
        let arp = gratuitous_arp(MAC, V4);
        prop_assert_eq!(parse_frame(&arp[..cut.min(41)]), None);
    }
}
