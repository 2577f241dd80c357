use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const V3: VrrpVersion = VrrpVersion::V3;
const V2: VrrpVersion = VrrpVersion::V2;

fn meta_v4() -> Meta {
    Meta { source: "192.0.2.1".parse().unwrap(), destination: IpAddr::V4(MULTICAST_V4), hop_limit: TTL }
}

fn meta_v6() -> Meta {
    Meta { source: "fe80::1".parse().unwrap(), destination: IpAddr::V6(MULTICAST_V6), hop_limit: TTL }
}

fn advert(version: VrrpVersion, address: &str) -> Advert {
    let addresses = vec![address.parse().unwrap()];
    Advert { version, vrid: 7, priority: 100, interval: Duration::from_secs(1), addresses }
}

fn emit(advert: &Advert, meta: &Meta, reading: ChecksumReading) -> Vec<u8> {
    advert.emit(meta.source, meta.destination, reading)
}

/// Makes the checksum of a version 2 or version 3 IPv4 message right again, word by word as RFC 1071 §1 describes it.
fn reseal(message: &mut [u8]) {
    message[6..8].fill(0);
    let mut sum = 0_u64;
    for pair in message.chunks(2) {
        sum += u64::from(pair[0]) * 256 + u64::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = sum % 0x10000 + sum / 0x10000;
    }
    message[6..8].copy_from_slice(&(0xffff - u16::try_from(sum).unwrap()).to_be_bytes());
}

// The checksums of the golden vectors were added up by hand from the words in the comments.

#[test]
fn golden_v3_ipv4() {
    let advert = advert(V3, "192.0.2.10");
    // 3107 + 6401 + 0064 + c000 + 020a = 15776, folded 5777, inverted a888.
    let bytes = [0x31, 7, 100, 1, 0, 100, 0xa8, 0x88, 192, 0, 2, 10];
    assert_eq!(emit(&advert, &meta_v4(), ChecksumReading::Message), bytes);
    // And c000 + 0201 + e000 + 0012 + 0070 + 000c = 1a28f; 2fa05 in all, folded fa07, inverted 05f8.
    let with_pseudo = [0x31, 7, 100, 1, 0, 100, 0x05, 0xf8, 192, 0, 2, 10];
    assert_eq!(emit(&advert, &meta_v4(), ChecksumReading::PseudoHeader), with_pseudo);
}

#[test]
fn golden_v3_ipv6() {
    // 3107 + 6401 + 0064 + fe80 + 000a, and fe80 + 0001 + ff02 + 0012 + 0070 + 0018: 39213, folded 9216, inverted 6de9.
    let mut bytes = vec![0x31, 7, 100, 1, 0, 100, 0x6d, 0xe9, 0xfe, 0x80];
    bytes.extend([0; 13]);
    bytes.push(10);
    for reading in [ChecksumReading::Message, ChecksumReading::PseudoHeader] {
        assert_eq!(emit(&advert(V3, "fe80::a"), &meta_v6(), reading), bytes);
    }
}

#[test]
fn golden_v2() {
    // 2107 + 6401 + 0001 + c000 + 020a = 14713, folded 4714, inverted b8eb.
    let mut bytes = vec![0x21, 7, 100, 1, 0, 1, 0xb8, 0xeb, 192, 0, 2, 10];
    bytes.extend([0; 8]);
    for reading in [ChecksumReading::Message, ChecksumReading::PseudoHeader] {
        assert_eq!(emit(&advert(V2, "192.0.2.10"), &meta_v4(), reading), bytes);
    }
}

#[test]
fn both_checksum_readings_are_accepted_and_told_apart() {
    for reading in [ChecksumReading::Message, ChecksumReading::PseudoHeader] {
        let bytes = emit(&advert(V3, "192.0.2.10"), &meta_v4(), reading);
        let parsed = Advert::parse(&bytes, &meta_v4(), V3).unwrap();
        assert_eq!(parsed.checksum_reading, Some(reading));
    }
}

#[test]
fn the_pseudo_header_binds_the_addresses() {
    let elsewhere = Meta { source: "fe80::2".parse().unwrap(), ..meta_v6() };
    let bytes = emit(&advert(V3, "fe80::a"), &meta_v6(), ChecksumReading::Message);
    assert_eq!(Advert::parse(&bytes, &elsewhere, V3).unwrap_err(), PacketError::Checksum);
}

/// Every error has one change to a good packet that brings it about.
#[test]
fn each_error_has_its_cause() {
    let good = emit(&advert(V3, "192.0.2.10"), &meta_v4(), ChecksumReading::Message);
    let good_v2 = emit(&advert(V2, "192.0.2.10"), &meta_v4(), ChecksumReading::Message);
    let v3 = |change: fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        Advert::parse(&bytes, &meta_v4(), V3).map(|parsed| parsed.advert)
    };
    let v2 = |change: fn(&mut Vec<u8>)| {
        let mut bytes = good_v2.clone();
        change(&mut bytes);
        Advert::parse(&bytes, &meta_v4(), V2).map(|parsed| parsed.advert)
    };
    assert_eq!(v3(|_| {}), Ok(advert(V3, "192.0.2.10")));
    assert_eq!(v2(|_| {}), Ok(advert(V2, "192.0.2.10")));

    assert_eq!(v3(Vec::clear), Err(PacketError::Truncated));
    assert_eq!(v3(|bytes| bytes.truncate(7)), Err(PacketError::Truncated));
    assert_eq!(v3(|bytes| bytes.truncate(11)), Err(PacketError::Truncated));
    assert_eq!(v3(|bytes| bytes[3] = 2), Err(PacketError::Truncated));
    assert_eq!(v2(|bytes| bytes.truncate(19)), Err(PacketError::Truncated));
    assert_eq!(v3(|bytes| bytes[0] = 0x41), Err(PacketError::Version(4)));
    assert_eq!(v3(|bytes| bytes[0] = 0x21), Err(PacketError::Version(2)));
    assert_eq!(v2(|bytes| bytes[0] = 0x31), Err(PacketError::Version(3)));
    assert_eq!(v3(|bytes| bytes[0] = 0x32), Err(PacketError::Type(2)));
    for position in 1..good.len() {
        let mut bytes = good.clone();
        bytes[position] ^= 0x10;
        let error = Advert::parse(&bytes, &meta_v4(), V3).unwrap_err();
        let expected = if position == 3 { PacketError::Truncated } else { PacketError::Checksum };
        assert_eq!(error, expected, "byte {position}");
    }
    let vrid_zero = |bytes: &mut Vec<u8>| {
        bytes[1] = 0;
        reseal(bytes);
    };
    assert_eq!(v3(vrid_zero), Err(PacketError::VridZero));
    assert_eq!(v2(vrid_zero), Err(PacketError::VridZero));
    let no_address = |bytes: &mut Vec<u8>| {
        bytes[3] = 0;
        bytes.drain(8..12);
        reseal(bytes);
    };
    assert_eq!(v3(no_address), Err(PacketError::AddressCountZero));
    assert_eq!(v2(no_address), Err(PacketError::AddressCountZero));
    let no_interval = |bytes: &mut Vec<u8>| {
        bytes[5] = 0;
        reseal(bytes);
    };
    assert_eq!(v3(no_interval), Err(PacketError::IntervalZero));
    assert_eq!(v2(no_interval), Err(PacketError::IntervalZero));
    let ipsec_auth = |bytes: &mut Vec<u8>| {
        bytes[4] = 2;
        reseal(bytes);
    };
    assert_eq!(v2(ipsec_auth), Err(PacketError::AuthTypeV2(2)));
}

#[test]
fn a_packet_that_was_forwarded_is_refused() {
    for (meta, address) in [(meta_v4(), "192.0.2.10"), (meta_v6(), "fe80::a")] {
        let bytes = emit(&advert(V3, address), &meta, ChecksumReading::Message);
        for hop_limit in [0, 1, 64, 254] {
            let error = Advert::parse(&bytes, &Meta { hop_limit, ..meta }, V3).unwrap_err();
            assert_eq!(error, PacketError::HopLimit(hop_limit));
        }
    }
}

#[test]
fn version_2_does_not_exist_over_ipv6() {
    let bytes = emit(&advert(V2, "fe80::a"), &meta_v6(), ChecksumReading::Message);
    assert_eq!(Advert::parse(&bytes, &meta_v6(), V2).unwrap_err(), PacketError::Version(2));
}

#[test]
fn reserved_bits_are_ignored() {
    let mut bytes = emit(&advert(V3, "192.0.2.10"), &meta_v4(), ChecksumReading::Message);
    bytes[4] |= 0xf0;
    reseal(&mut bytes);
    assert_eq!(Advert::parse(&bytes, &meta_v4(), V3).unwrap().advert, advert(V3, "192.0.2.10"));
}

#[test]
fn a_version_2_password_is_reported_and_not_judged() {
    let mut bytes = emit(&advert(V2, "192.0.2.10"), &meta_v4(), ChecksumReading::Message);
    assert_eq!(Advert::parse(&bytes, &meta_v4(), V2).unwrap().auth_v2, Some(AuthV2::None));
    bytes[4] = 1;
    bytes[12..].copy_from_slice(b"open\0\0\0\0");
    reseal(&mut bytes);
    let parsed = Advert::parse(&bytes, &meta_v4(), V2).unwrap();
    assert_eq!(parsed.auth_v2, Some(AuthV2::Password(*b"open\0\0\0\0")));
}

#[test]
fn what_follows_the_message_is_handed_on() {
    let mut bytes = emit(&advert(V3, "192.0.2.10"), &meta_v4(), ChecksumReading::PseudoHeader);
    let message = bytes.clone();
    bytes.extend([1, 2, 3]);
    let parsed = Advert::parse(&bytes, &meta_v4(), V3).unwrap();
    assert_eq!((parsed.message, parsed.trailer), (&message[..], &[1, 2, 3][..]));
}

#[test]
fn only_ipv6_wants_a_link_local_address_first() {
    let check = |advert: &Advert, meta: &Meta| {
        let bytes = emit(advert, meta, ChecksumReading::Message);
        Advert::parse(&bytes, meta, V3).unwrap().check_first_address()
    };
    assert_eq!(check(&advert(V3, "192.0.2.10"), &meta_v4()), Ok(()));
    assert_eq!(check(&advert(V3, "fe80::a"), &meta_v6()), Ok(()));
    assert_eq!(check(&advert(V3, "fd77::a"), &meta_v6()), Err(PacketError::FirstAddressNotLinkLocal));
}

#[test]
fn emit_keeps_to_what_fits() {
    let interval = |version, interval| {
        let bytes =
            emit(&Advert { interval, ..advert(version, "192.0.2.10") }, &meta_v4(), ChecksumReading::Message);
        Advert::parse(&bytes, &meta_v4(), version).unwrap().advert.interval
    };
    assert_eq!(interval(V3, Duration::ZERO), Duration::from_millis(10));
    assert_eq!(interval(V3, Duration::from_millis(129)), Duration::from_millis(120));
    assert_eq!(interval(V3, Duration::MAX), INTERVAL_MAX_V3);
    assert_eq!(interval(V2, Duration::from_millis(100)), Duration::from_secs(1));
    assert_eq!(interval(V2, Duration::MAX), INTERVAL_MAX_V2);

    let mixed = Advert {
        addresses: vec!["fe80::a".parse().unwrap(), "192.0.2.10".parse().unwrap()],
        ..advert(V3, "192.0.2.10")
    };
    let bytes = emit(&mixed, &meta_v4(), ChecksumReading::Message);
    assert_eq!(Advert::parse(&bytes, &meta_v4(), V3).unwrap().advert.addresses, mixed.addresses[1..]);

    let many = Advert { addresses: mixed.addresses[1..].repeat(300), ..mixed };
    let bytes = emit(&many, &meta_v4(), ChecksumReading::Message);
    assert_eq!(Advert::parse(&bytes, &meta_v4(), V3).unwrap().advert.addresses.len(), ADDRESSES_MAX);
}

#[test]
fn an_ipv4_packet_is_split_by_its_own_lengths() {
    let mut packet =
        vec![0x45, 0xc0, 0, 23, 0, 0, 0, 0, 255, PROTOCOL, 0, 0, 192, 0, 2, 1, 224, 0, 0, 18, 7, 8, 9];
    packet.extend([0; 5]);
    assert_eq!(split_ipv4(&packet), Ok((meta_v4(), &[7, 8, 9][..])));
    packet[0] = 0x46;
    packet[3] = 27;
    assert_eq!(split_ipv4(&packet), Ok((meta_v4(), &[0, 0, 0][..])));
    for (position, value) in [(0, 0x65), (0, 0x44), (0, 0x4f), (3, 19), (3, 29)] {
        let mut wrong = packet.clone();
        wrong[position] = value;
        assert_eq!(split_ipv4(&wrong), Err(PacketError::Truncated), "byte {position} = {value}");
    }
    assert_eq!(split_ipv4(&packet[..19]), Err(PacketError::Truncated));
}

#[test]
fn more_bytes_than_an_ip_packet_holds_are_refused_or_read_without_a_fuss() {
    let (mut v4, mut v6) = (advert(V3, "192.0.2.10"), advert(V3, "fe80::a"));
    (v4.priority, v6.priority) = (0, 0);
    for length in [65_535, 65_536, 131_074, 300_001] {
        let mut bytes = emit(&v6, &meta_v6(), ChecksumReading::Message);
        bytes.resize(length, 0xff);
        assert_eq!(Advert::parse(&bytes, &meta_v6(), V3).unwrap_err(), PacketError::Checksum);
        let mut bytes = emit(&v4, &meta_v4(), ChecksumReading::Message);
        bytes.resize(length, 0xff);
        assert_eq!(Advert::parse(&bytes, &meta_v4(), V3).unwrap().advert, v4);
    }
}

#[test]
fn metric_labels_differ() {
    let names = std::collections::BTreeSet::from(PacketError::NAMES);
    assert_eq!(names.len(), PacketError::NAMES.len());
    assert_eq!(PacketError::AuthTypeV2(2).name(), "auth_type_v2");
    assert_eq!(PacketError::HopLimit(1).name(), "hop_limit");
}

prop_compose! {
    fn any_advert()(
        version in prop_oneof![Just(V2), Just(V3)],
        vrid in 1_u8..,
        priority: u8,
        units in 1_u64..=4095,
        v6: bool,
        octets in vec(any::<u128>(), 1..=ADDRESSES_MAX),
    ) -> Advert {
        let v6 = v6 && version == V3;
        let address = |bits: &u128| if v6 {
            IpAddr::V6(Ipv6Addr::from_bits(*bits))
        } else {
            IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(bits >> 96).unwrap()))
        };
        let interval = match version {
            V2 => Duration::from_secs(units % 255 + 1),
            V3 => Duration::from_millis(units * 10),
        };
        Advert { version, vrid, priority, interval, addresses: octets.iter().map(address).collect() }
    }
}

fn meta_of(advert: &Advert) -> Meta {
    match Family::of(advert.addresses[0]) {
        Family::V4 => meta_v4(),
        Family::V6 => meta_v6(),
    }
}

proptest! {
    #[test]
    fn what_is_emitted_is_read_back(advert in any_advert(), pseudo: bool) {
        let reading = if pseudo { ChecksumReading::PseudoHeader } else { ChecksumReading::Message };
        let meta = meta_of(&advert);
        let bytes = emit(&advert, &meta, reading);
        let parsed = Advert::parse(&bytes, &meta, advert.version).unwrap();
        prop_assert_eq!(parsed.message, &bytes[..]);
        prop_assert_eq!(parsed.advert, advert);
    }

    #[test]
    fn cut_packets_are_truncated(advert in any_advert(), cut: prop::sample::Index) {
        let meta = meta_of(&advert);
        let bytes = emit(&advert, &meta, ChecksumReading::Message);
        let error = Advert::parse(&bytes[..cut.index(bytes.len())], &meta, advert.version).unwrap_err();
        prop_assert_eq!(error, PacketError::Truncated);
    }

    #[test]
    fn changed_packets_do_not_panic(advert in any_advert(), changes in vec(any::<(prop::sample::Index, u8)>(), 1..8)) {
        let meta = meta_of(&advert);
        let mut bytes = emit(&advert, &meta, ChecksumReading::Message);
        for (position, value) in changes {
            let position = position.index(bytes.len());
            bytes[position] = value;
        }
        if let Ok(parsed) = Advert::parse(&bytes, &meta, advert.version) {
            prop_assert_eq!(parsed.advert.addresses.len(), usize::from(bytes[3]));
        }
    }

    #[test]
    fn noise_does_not_panic(mut bytes in vec(any::<u8>(), 0..1100), v2: bool, v6: bool) {
        let (version, meta) = (if v2 { V2 } else { V3 }, if v6 { meta_v6() } else { meta_v4() });
        assert!(Advert::parse(&bytes, &meta, version).is_err() || bytes.len() >= 12);
        let _split = split_ipv4(&bytes);
        // As likely as not noise fails at the first byte or the checksum; make it get further.
        if bytes.len() >= 8 {
            bytes[0] = u8::from(version) << 4 | 1;
            let auth_len = if v2 { 8 } else { 0 };
            let message_len = 8 + usize::from(bytes[3]) * 4 + auth_len;
            if let Some(message) = bytes.get_mut(..message_len) {
                reseal(message);
            }
            if let Ok(parsed) = Advert::parse(&bytes, &meta, version) {
                prop_assert_eq!(parsed.message.len() + parsed.trailer.len(), bytes.len());
                prop_assert!(parsed.advert.vrid > 0 && !parsed.advert.interval.is_zero());
            }
        }
    }
}
