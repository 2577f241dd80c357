//! §5.2: the fields of an advertisement.

use common::config::{ChecksumReading, Priority, VrrpVersion};
use common::ipc::Role;
use common::time::Duration;
use vrrpd_core::packet::{Advert, Family};
use vrrpd_core::settings::Settings;
use vrrpd_core::track::{SEVERITY_MAX, effective_priority};

use crate::entry::Level::{Must, Step};
use crate::entry::{Entry, Place, case};
use crate::harness::*;
use crate::wire::{accepted, active_v4, active_v6, changed, discarded, sent, sent_advert};

pub(crate) const ENTRIES: &[Entry] = &[
    Entry {
        rfc: 9568,
        section: "5.2.2",
        nth: 1,
        level: Must,
        text: "A packet with unknown type MUST be discarded.",
        place: Place::Core {
            positive: case!(type_1_is_heard),
            negative: case!(every_other_type_is_discarded),
        },
    },
    Entry {
        rfc: 9568,
        section: "5.2.4",
        nth: 1,
        level: Must,
        text: "The priority value for the VRRP Router that owns the IPvX address associated with the Virtual Router MUST be 255 (decimal).",
        place: Place::Core {
            positive: case!(the_owner_advertises_255),
            negative: case!(nobody_else_advertises_255),
        },
    },
    Entry {
        rfc: 9568,
        section: "5.2.4",
        nth: 2,
        level: Must,
        text: "The same, of an owner that is not fit to serve.",
        place: Place::Deviates {
            why: "an owner whose tracking fails advertises less, so that a healthy backup serves; it is no longer meant to own anything",
            shown: case!(an_unhealthy_owner_advertises_less),
        },
    },
    Entry {
        rfc: 9568,
        section: "5.2.4",
        nth: 3,
        level: Must,
        text: "VRRP Routers backing up a Virtual Router MUST use priority values between 1-254 (decimal).",
        place: Place::Core {
            positive: case!(health_stays_between_1_and_254),
            negative: case!(priority_0_cannot_be_configured),
        },
    },
    Entry {
        rfc: 9568,
        section: "5.2.5",
        nth: 1,
        level: Must,
        text: "If the received count is 0, the VRRP advertisement MUST be ignored.",
        place: Place::Core {
            positive: case!(a_count_of_1_is_heard),
            negative: case!(a_count_of_0_is_ignored),
        },
    },
    Entry {
        rfc: 9568,
        section: "5.2.6",
        nth: 1,
        level: Must,
        text: "The Reserve field MUST be set to zero on transmission and ignored on reception.",
        place: Place::Core {
            positive: case!(reserved_bits_are_sent_as_zero),
            negative: case!(reserved_bits_change_nothing_on_reception),
        },
    },
    Entry {
        rfc: 9568,
        section: "5.2.7",
        nth: 1,
        level: Step,
        text: "The Max Advertise Interval is a 12-bit field that indicates the time interval (in centiseconds) between advertisements.",
        place: Place::Core {
            positive: case!(the_interval_is_in_centiseconds),
            negative: case!(no_interval_leaves_the_12_bits),
        },
    },
    Entry {
        rfc: 9568,
        section: "5.2.8",
        nth: 1,
        level: Step,
        text: "For IPv4 the checksum covers the VRRP message only, starting with the Version field and ending after the last IPv4 address.",
        place: Place::Core {
            positive: case!(the_ipv4_checksum_is_of_the_message),
            negative: case!(the_ipv4_checksum_with_a_pseudo_header_is_sent_on_request_only),
        },
    },
    Entry {
        rfc: 9568,
        section: "5.2.8",
        nth: 2,
        level: Step,
        text: "For IPv6 the checksum also covers a prepended pseudo-header with Next Header 112.",
        place: Place::Core {
            positive: case!(the_ipv6_checksum_is_with_the_pseudo_header),
            negative: case!(an_ipv6_checksum_for_other_addresses_is_wrong),
        },
    },
    Entry {
        rfc: 9568,
        section: "5.2.9",
        nth: 1,
        level: Must,
        text: "For IPv6, the first address MUST be the IPv6 link-local address associated with the Virtual Router.",
        place: Place::Core {
            positive: case!(the_first_ipv6_address_is_link_local),
            negative: case!(a_configuration_without_link_local_address_gets_one),
        },
    },
    Entry {
        rfc: 9568,
        section: "5.2.9",
        nth: 2,
        level: Must,
        text: "The address family of the addresses, IPv4 or IPv6 but not both, MUST be the same as the VRRP packet's IPvX header address family.",
        place: Place::Core {
            positive: case!(each_family_has_its_own_advertisement),
            negative: case!(addresses_of_the_other_family_are_not_sent),
        },
    },
];

#[test]
fn type_1_is_heard() {
    let (lab, bytes, meta) = active_v4();
    assert_eq!(bytes[0], 0x31);
    accepted(lab, &bytes, meta);
}

#[test]
fn every_other_type_is_discarded() {
    for kind in (0..=15).filter(|&kind| kind != 1) {
        let (lab, bytes, meta) = active_v4();
        discarded(lab, &changed(bytes, 0, 0x30 | kind), meta, "type");
    }
}

fn owner() -> Settings {
    let mut settings = settings_with(|router| router.priority = 255);
    settings.instances[0].priority = 255;
    settings
}

#[test]
fn the_owner_advertises_255() {
    let mut lab = Lab::new(owner());
    let actions = lab.interface(Some(interface_up()));
    assert_eq!(priorities(&actions), [255]);
}

#[test]
fn nobody_else_advertises_255() {
    for priority in [1, 100, 254] {
        let mut lab = Lab::active(settings_with(|router| router.priority = priority));
        assert_eq!(sent_advert(&mut lab).priority, priority);
    }
}

#[test]
fn an_unhealthy_owner_advertises_less() {
    let mut settings = owner();
    settings.instances[0].track.lbd = true;
    let mut lab = Lab::backup(settings);
    lab.run_until_role(Role::Active);
    assert!(sent_advert(&mut lab).priority < 100, "100 is the other node's");
}

#[test]
fn health_stays_between_1_and_254() {
    for lowest in 1..=254 {
        for severity in 1..=SEVERITY_MAX {
            assert!((1..=254).contains(&effective_priority(255, lowest, severity)));
        }
    }
}

#[test]
fn priority_0_cannot_be_configured() {
    assert_eq!(Priority::new(0), None);
    assert!(Priority::new(1).is_some());
}

#[test]
fn a_count_of_1_is_heard() {
    let (lab, bytes, meta) = active_v4();
    assert_eq!(bytes[3], 1);
    accepted(lab, &bytes, meta);
}

#[test]
fn a_count_of_0_is_ignored() {
    let (lab, mut bytes, meta) = active_v4();
    bytes.truncate(8);
    discarded(lab, &changed(bytes, 3, 0), meta, "address_count_zero");
}

#[test]
fn reserved_bits_are_sent_as_zero() {
    for interval in [ms(10), Duration::from_secs(1), Duration::from_millis(40_950)] {
        let mut lab = Lab::active(settings_with(|router| router.interval = interval));
        assert_eq!(sent(&mut lab).0[4] & 0xf0, 0, "{interval:?}");
    }
}

#[test]
fn reserved_bits_change_nothing_on_reception() {
    let (mut lab, bytes, meta) = active_v4();
    let bytes = changed(bytes, 4, 0xf0);
    lab.hear_bytes(&bytes, meta);
    assert_eq!(lab.role(), Role::Backup);
    assert_eq!(lab.node.status().instances[0].routers[0].active_interval_ms, 100);
}

#[test]
fn the_interval_is_in_centiseconds() {
    for (interval, field) in [(ms(10), 1), (ms(100), 10), (ms(1_000), 100), (ms(40_950), 4_095)] {
        let mut lab = Lab::active(settings_with(|router| router.interval = interval));
        let (bytes, meta) = sent(&mut lab);
        assert_eq!(u16::from_be_bytes([bytes[4], bytes[5]]), field);
        assert_eq!(Advert::parse(&bytes, &meta, VrrpVersion::V3).unwrap().advert.interval, interval);
    }
}

#[test]
fn no_interval_leaves_the_12_bits() {
    for (interval, field) in [(Duration::ZERO, 1), (Duration::from_secs(3_600), 4_095)] {
        let advert = Advert { interval, ..advert_of(&router(Family::V4), 1) };
        let bytes = advert.emit(ip(OWN), Family::V4.multicast(), ChecksumReading::Message);
        assert_eq!(u16::from_be_bytes([bytes[4], bytes[5]]), field);
    }
}

/// The one's complement sum of all 16-bit words, which is all ones where the checksum is right.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

#[test]
fn the_ipv4_checksum_is_of_the_message() {
    let (mut lab, _, _) = active_v4();
    assert_eq!(sum(&sent(&mut lab).0), 0xffff);
}

#[test]
fn the_ipv4_checksum_with_a_pseudo_header_is_sent_on_request_only() {
    let mut lab = Lab::active(settings_with(|router| router.checksum = ChecksumReading::PseudoHeader));
    let (bytes, meta) = sent(&mut lab);
    assert_ne!(sum(&bytes), 0xffff);
    // Heard it is either way: others read RFC 5798 so.
    let parsed = Advert::parse(&bytes, &meta, VrrpVersion::V3).unwrap();
    assert_eq!(parsed.checksum_reading, Some(ChecksumReading::PseudoHeader));
}

#[test]
fn the_ipv6_checksum_is_with_the_pseudo_header() {
    let (mut lab, _, _) = active_v6();
    let (bytes, meta) = sent(&mut lab);
    let mut all = Vec::new();
    for address in [meta.source, meta.destination] {
        let std::net::IpAddr::V6(address) = address else { panic!("{address}") };
        all.extend(address.octets());
    }
    all.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
    all.extend([0, 0, 0, 112]);
    all.extend(&bytes);
    assert_eq!(sum(&all), 0xffff);
}

#[test]
fn an_ipv6_checksum_for_other_addresses_is_wrong() {
    let (lab, bytes, mut meta) = active_v6();
    meta.source = ip("fe80::3");
    discarded(lab, &bytes, meta, "checksum");
}

#[test]
fn the_first_ipv6_address_is_link_local() {
    let (mut lab, _, _) = active_v6();
    assert_eq!(sent_advert(&mut lab).addresses, [ip(VIP_LINK_LOCAL), ip(VIP_V6)]);
}

fn configured(vips: &str) -> Vec<std::net::IpAddr> {
    let text = format!(
        "[[node]]\nname = \"a\"\n[[node]]\nname = \"b\"\n[[vrrp]]\nname = \"web\"\ninterface = \"eth0\"\n\
         vrid = 51\npriority = {{ a = 200, b = 100 }}\nvips = [{vips}]\n"
    );
    let config = common::config::parse(&text, std::path::Path::new("pair.toml"));
    let config = config.unwrap_or_else(|errors| panic!("{errors}"));
    let settings = Settings::new(&config, "a", None, "1").unwrap();
    settings.instances[0].routers[0].advertised()
}

#[test]
fn a_configuration_without_link_local_address_gets_one() {
    let derived = ip("fe80::200:5eff:fe00:233");
    assert_eq!(configured("\"2001:db8::1/64\""), [derived, ip("2001:db8::1")]);
    let moved = configured("\"2001:db8::1/64\", \"2001:db8::2/64\", \"fe80::7/64\"");
    assert_eq!(moved, [ip("fe80::7"), ip("2001:db8::1"), ip("2001:db8::2")]);
}

#[test]
fn each_family_has_its_own_advertisement() {
    let mut lab = Lab::active(settings_of(vec![router(Family::V4), router(Family::V6)]));
    let sent: Vec<Advert> = untimed(lab.run_for(INTERVAL * 2)).iter().filter_map(advert_sent).collect();
    for family in [Family::V4, Family::V6] {
        let own = |advert: &&Advert| advert.addresses.iter().all(|&ip| Family::of(ip) == family);
        assert!(sent.iter().filter(own).count() >= 1, "{family:?}");
    }
    assert!(sent.iter().all(|advert| advert.vrid == 51));
}

#[test]
fn addresses_of_the_other_family_are_not_sent() {
    let mut advert = advert_of(&router(Family::V4), 1);
    advert.addresses.push(ip(VIP_V6));
    let bytes = advert.emit(ip(OWN), Family::V4.multicast(), ChecksumReading::Message);
    assert_eq!((bytes[3], bytes.len()), (1, 12));
}
