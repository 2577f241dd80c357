//! RFC 3768: what is different with `version = 2`.

use common::config::{ChecksumReading, VrrpVersion};
use common::ipc::Role;
use common::time::Duration;
use vrrpd_core::packet::{Advert, AuthV2, Family, Meta};
use vrrpd_core::settings::{RouterSettings, Settings};

use crate::entry::Level::{Must, Should, Step};
use crate::entry::{Entry, Place, case};
use crate::harness::*;
use crate::wire::{accepted, changed, discarded, sent};

pub(crate) const ENTRIES: &[Entry] = &[
    Entry {
        rfc: 3768,
        section: "5.3.6",
        nth: 1,
        level: Must,
        text: "A packet with unknown authentication type or that does not match the locally configured authentication method MUST be discarded.",
        place: Place::Core {
            positive: case!(no_authentication_is_heard),
            negative: case!(an_unknown_authentication_is_discarded),
        },
    },
    Entry {
        rfc: 3768,
        section: "5.3.6",
        nth: 2,
        level: Must,
        text: "The same, of the simple password of RFC 2338.",
        place: Place::Deviates {
            why: "routers that still send a password in clear text are heard; it is not looked at, as it keeps out nothing but mistakes",
            shown: case!(a_simple_password_is_not_looked_at),
        },
    },
    Entry {
        rfc: 3768,
        section: "5.3.7",
        nth: 1,
        level: Step,
        text: "The Advertisement interval indicates the time interval (in seconds) between ADVERTISEMENTS.",
        place: Place::Core {
            positive: case!(the_interval_is_sent_in_seconds),
            negative: case!(the_interval_is_not_sent_in_centiseconds),
        },
    },
    Entry {
        rfc: 3768,
        section: "5.3.8",
        nth: 1,
        level: Step,
        text: "The checksum is the 16-bit one's complement of the one's complement sum of the entire VRRP message starting with the version field.",
        place: Place::Core {
            positive: case!(no_authentication_is_heard),
            negative: case!(a_pseudo_header_is_never_in_it),
        },
    },
    Entry {
        rfc: 3768,
        section: "5.3.10",
        nth: 1,
        level: Should,
        text: "It SHOULD be set to zero on transmission and ignored on reception.",
        place: Place::Core {
            positive: case!(the_authentication_data_is_zeros),
            negative: case!(authentication_data_is_ignored),
        },
    },
    Entry {
        rfc: 3768,
        section: "6.1",
        nth: 1,
        level: Step,
        text: "Skew_Time: Calculated as: ( (256 - Priority) / 256 )  (in seconds)",
        place: Place::Core {
            positive: case!(the_skew_is_in_seconds),
            negative: case!(the_skew_is_not_a_part_of_the_interval),
        },
    },
    Entry {
        rfc: 3768,
        section: "6.4.2",
        nth: 1,
        level: Step,
        text: "If the Priority in the ADVERTISEMENT is Zero, then: Set the Master_Down_Timer to Skew_Time",
        place: Place::Core {
            positive: case!(priority_0_leaves_the_skew_in_seconds),
            negative: case!(the_skew_is_not_a_part_of_the_interval),
        },
    },
    Entry {
        rfc: 3768,
        section: "6.4.3",
        nth: 1,
        level: Step,
        text: "else: Discard ADVERTISEMENT (of lower priority, in the Master state)",
        place: Place::Deviates {
            why: "it is answered at once, as RFC 9568 has it, so that two active routers find out of each other sooner; version 2 does not mind",
            shown: case!(a_lower_priority_is_answered),
        },
    },
    Entry {
        rfc: 3768,
        section: "7.1",
        nth: 1,
        level: Must,
        text: "MUST verify the VRRP version is 2.",
        place: Place::Core {
            positive: case!(no_authentication_is_heard),
            negative: case!(version_3_is_discarded),
        },
    },
    Entry {
        rfc: 3768,
        section: "7.1",
        nth: 2,
        level: Must,
        text: "MUST verify that the received packet contains the complete VRRP packet (including fixed fields, IP Address(es), and Authentication Data).",
        place: Place::Core {
            positive: case!(no_authentication_is_heard),
            negative: case!(every_shorter_packet_is_discarded),
        },
    },
    Entry {
        rfc: 3768,
        section: "7.1",
        nth: 3,
        level: Must,
        text: "MUST verify the VRRP checksum.",
        place: Place::Core {
            positive: case!(no_authentication_is_heard),
            negative: case!(a_wrong_checksum_is_discarded),
        },
    },
    Entry {
        rfc: 3768,
        section: "7.1",
        nth: 4,
        level: Must,
        text: "MUST verify that the VRID is configured on the receiving interface and the local router is not the IP Address owner (Priority equals 255 (decimal)).",
        place: Place::Deviates {
            why: "an owner hears others and counts them, as RFC 9568 does by erratum 8298: two owners would ignore each other for ever",
            shown: case!(an_owner_hears_another),
        },
    },
    Entry {
        rfc: 3768,
        section: "7.1",
        nth: 5,
        level: Must,
        text: "MUST verify that the Adver Interval in the packet is the same as the locally configured for this virtual router",
        place: Place::Core {
            positive: case!(no_authentication_is_heard),
            negative: case!(another_interval_is_discarded_and_not_learned),
        },
    },
    Entry {
        rfc: 3768,
        section: "7.1",
        nth: 6,
        level: Must,
        text: "MAY verify that \"Count IP Addrs\" and the list of IP Address matches […] If the packet was not generated by the address owner […], the receiver MUST drop the packet",
        place: Place::Deviates {
            why: "the check is optional, and to drop would make two active routers of a pair whose configurations differ for a moment; it is counted",
            shown: case!(another_address_list_is_counted_and_heard),
        },
    },
    Entry {
        rfc: 3768,
        section: "9.2",
        nth: 1,
        level: Must,
        text: "The functional address mode of operation MUST be implemented by routers supporting VRRP on token ring.",
        place: Place::NotApplicable { why: "Tandem runs on Ethernet only" },
    },
];

const SECOND: Duration = Duration::from_secs(1);

fn settings_v2(interval: Duration) -> Settings {
    settings_with(|router: &mut RouterSettings| {
        router.version = VrrpVersion::V2;
        router.interval = interval;
    })
}

/// An active router, and a packet that would end that.
fn active() -> (Lab, Vec<u8>, Meta) {
    let lab = Lab::active(settings_v2(SECOND));
    let meta = meta_from(PEER);
    let bytes = advert_of(&lab.first(), 255).emit(meta.source, meta.destination, ChecksumReading::Message);
    (lab, bytes, meta)
}

#[test]
fn no_authentication_is_heard() {
    let (lab, bytes, meta) = active();
    assert_eq!((bytes[0], bytes[4]), (0x21, 0));
    accepted(lab, &bytes, meta);
}

#[test]
fn an_unknown_authentication_is_discarded() {
    for kind in [2, 3, 255] {
        let (lab, bytes, meta) = active();
        discarded(lab, &changed(bytes, 4, kind), meta, "auth_type_v2");
    }
}

#[test]
fn a_simple_password_is_not_looked_at() {
    let (lab, mut bytes, meta) = active();
    bytes[12..].copy_from_slice(b"s3cret\0\0");
    let bytes = changed(bytes, 4, 1);
    let parsed = Advert::parse(&bytes, &meta, VrrpVersion::V2).unwrap();
    assert_eq!(parsed.auth_v2, Some(AuthV2::Password(*b"s3cret\0\0")));
    accepted(lab, &bytes, meta);
}

#[test]
fn the_interval_is_sent_in_seconds() {
    for seconds in [1, 2, 255] {
        let mut lab = Lab::active(settings_v2(SECOND * u32::from(seconds)));
        assert_eq!(sent(&mut lab).0[5], seconds);
    }
}

#[test]
fn the_interval_is_not_sent_in_centiseconds() {
    let mut lab = Lab::active(settings_v2(SECOND));
    let (bytes, _) = sent(&mut lab);
    assert_eq!(bytes[4..6], [0, 1], "authentication type 0, one second");
}

#[test]
fn a_pseudo_header_is_never_in_it() {
    let advert = advert_of(&settings_v2(SECOND).instances[0].routers[0], 1);
    let emit = |reading| advert.emit(ip(OWN), Family::V4.multicast(), reading);
    assert_eq!(emit(ChecksumReading::PseudoHeader), emit(ChecksumReading::Message));
    let mut resealed = emit(ChecksumReading::Message);
    reseal(&mut resealed);
    assert_eq!(resealed, emit(ChecksumReading::Message));
}

#[test]
fn the_authentication_data_is_zeros() {
    let (mut lab, _, _) = active();
    let (bytes, _) = sent(&mut lab);
    assert_eq!((bytes.len(), &bytes[12..]), (20, &[0; 8][..]));
}

#[test]
fn authentication_data_is_ignored() {
    let (lab, mut bytes, meta) = active();
    bytes[12..].fill(0xaa);
    accepted(lab, &changed(bytes, 4, 0), meta);
}

#[test]
fn the_skew_is_in_seconds() {
    let mut lab = Lab::backup(settings_v2(SECOND * 5));
    assert_eq!(lab.run_until_role(Role::Active), SECOND * 15 + SECOND * 56 / 256);
}

#[test]
fn the_skew_is_not_a_part_of_the_interval() {
    let mut lab = Lab::backup(settings_v2(SECOND * 100));
    assert!(lab.run_until_role(Role::Active) < SECOND * 301);
}

#[test]
fn priority_0_leaves_the_skew_in_seconds() {
    let mut lab = Lab::backup(settings_v2(SECOND * 5));
    lab.hear(0);
    assert_eq!(lab.run_until_role(Role::Active), SECOND * 56 / 256);
}

#[test]
fn a_lower_priority_is_answered() {
    let (mut lab, _, _) = active();
    assert_eq!(priorities(&lab.hear(199)), [200]);
    assert_eq!(lab.role(), Role::Active);
}

#[test]
fn version_3_is_discarded() {
    let (lab, bytes, meta) = active();
    discarded(lab, &changed(bytes, 0, 0x31), meta, "version");
}

#[test]
fn every_shorter_packet_is_discarded() {
    for len in 2..20 {
        let (lab, bytes, meta) = active();
        discarded(lab, &bytes[..len], meta, "truncated");
    }
}

#[test]
fn a_wrong_checksum_is_discarded() {
    let (lab, mut bytes, meta) = active();
    bytes[19] ^= 1;
    discarded(lab, &bytes, meta, "checksum");
}

#[test]
fn an_owner_hears_another() {
    let mut settings = settings_v2(SECOND);
    settings.instances[0].routers[0].priority = 255;
    let mut lab = Lab::new(settings);
    lab.interface(Some(interface_up()));
    lab.hear(255);
    assert_eq!((lab.role(), lab.dropped("heard_as_owner_accepted")), (Role::Backup, 1));
}

#[test]
fn another_interval_is_discarded_and_not_learned() {
    let (lab, bytes, meta) = active();
    discarded(lab, &changed(bytes, 5, 2), meta, "interval_mismatch");
    let mut lab = Lab::backup(settings_v2(SECOND));
    lab.hear_advert(&Advert { interval: SECOND * 9, ..advert_of(&lab.first(), 255) });
    assert_eq!(lab.run_until_role(Role::Active), SECOND * 3 + SECOND * 56 / 256);
}

#[test]
fn another_address_list_is_counted_and_heard() {
    let (mut lab, _, _) = active();
    let mut advert = advert_of(&lab.first(), 254);
    advert.addresses.push(ip("192.0.2.200"));
    lab.hear_advert(&advert);
    assert_eq!((lab.role(), lab.dropped("address_list_mismatch_accepted")), (Role::Backup, 1));
}
