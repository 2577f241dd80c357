//! §7.1: receiving.

use common::ipc::Role;
use common::time::Duration;
use vrrpd_core::node::Input;
use vrrpd_core::packet::{Advert, Family};

use crate::entry::Level::{Must, Should};
use crate::entry::{Entry, Place, case};
use crate::harness::*;
use crate::wire::{accepted, active_v4, active_v6, changed, discarded};

pub(crate) const ENTRIES: &[Entry] = &[
    Entry {
        rfc: 9568,
        section: "7.1",
        nth: 1,
        level: Must,
        text: "It MUST verify that the VRRP version is 3.",
        place: Place::Core {
            positive: case!(version_3_is_heard),
            negative: case!(every_other_version_is_discarded),
        },
    },
    Entry {
        rfc: 9568,
        section: "7.1",
        nth: 2,
        level: Must,
        text: "It MUST verify that the VRRP packet type is 1 (ADVERTISEMENT).",
        place: Place::Core {
            positive: case!(version_3_is_heard),
            negative: case!(another_type_is_discarded),
        },
    },
    Entry {
        rfc: 9568,
        section: "7.1",
        nth: 3,
        level: Must,
        text: "It MUST verify that the received packet contains the complete VRRP packet (including fixed fields and the IPvX address).",
        place: Place::Core {
            positive: case!(a_complete_packet_is_heard),
            negative: case!(every_shorter_one_is_discarded),
        },
    },
    Entry {
        rfc: 9568,
        section: "7.1",
        nth: 4,
        level: Must,
        text: "It MUST verify the VRRP checksum.",
        place: Place::Core {
            positive: case!(a_complete_packet_is_heard),
            negative: case!(a_bit_that_fell_over_is_noticed),
        },
    },
    Entry {
        rfc: 9568,
        section: "7.1",
        nth: 5,
        level: Must,
        text: "It MUST verify that the VRID is configured on the receiving interface.",
        place: Place::Core {
            positive: case!(a_complete_packet_is_heard),
            negative: case!(another_vrid_or_interface_is_discarded),
        },
    },
    Entry {
        rfc: 9568,
        section: "7.1",
        nth: 6,
        level: Should,
        text: "It SHOULD verify that the local router is not the IPvX address owner (Priority = 255 (decimal)) and log the event (erratum 8298)",
        place: Place::Core {
            positive: case!(what_an_owner_hears_is_counted),
            negative: case!(two_owners_do_not_ignore_each_other),
        },
    },
    Entry {
        rfc: 9568,
        section: "7.1",
        nth: 7,
        level: Must,
        text: "It MUST verify that IPvX Addr Count is non zero (erratum 8299).",
        place: Place::Core {
            positive: case!(a_complete_packet_is_heard),
            negative: case!(a_packet_without_address_is_discarded),
        },
    },
    Entry {
        rfc: 9568,
        section: "7.1",
        nth: 8,
        level: Must,
        text: "It MUST verify that the first address in the IPvX Address(es) field is an IPv6 link-local address (erratum 8300).",
        place: Place::Deviates {
            why: "FRR lists just the addresses it is configured with; not to hear it would make two active routers. It is counted instead",
            shown: case!(another_first_ipv6_address_is_counted),
        },
    },
    Entry {
        rfc: 9568,
        section: "7.1",
        nth: 9,
        level: Must,
        text: "It MUST verify that the Max Advertise Interval is non zero (erratum 8301).",
        place: Place::Core {
            positive: case!(the_shortest_interval_is_heard),
            negative: case!(an_interval_of_0_is_discarded),
        },
    },
    Entry {
        rfc: 9568,
        section: "7.1",
        nth: 10,
        level: Must,
        text: "If any one of the above checks fails, the receiver MUST discard the packet",
        place: Place::Core {
            positive: case!(a_complete_packet_is_heard),
            negative: case!(a_discarded_packet_does_not_reset_the_timer),
        },
    },
    Entry {
        rfc: 9568,
        section: "7.1",
        nth: 11,
        level: Should,
        text: "SHOULD log the event (subject to rate-limiting)",
        place: Place::Core {
            positive: case!(what_is_discarded_is_counted_by_reason),
            negative: case!(a_flood_of_it_leaves_no_events),
        },
    },
    Entry {
        rfc: 9568,
        section: "7.1",
        nth: 12,
        level: Should,
        text: "A receiver SHOULD also verify that the Max Advertise Interval in the received VRRP packet matches the Advertisement_Interval configured for the VRID.",
        place: Place::Core {
            positive: case!(another_interval_is_counted_and_heard),
            negative: case!(the_configured_interval_is_not_remarkable),
        },
    },
    Entry {
        rfc: 9568,
        section: "7.1",
        nth: 13,
        level: Should,
        text: "A receiver MAY also verify that \"IPvX Addr Count\" and the list of IPvX address(es) match […] If this check fails, the receiver SHOULD log",
        place: Place::Core {
            positive: case!(another_address_list_is_counted_and_heard),
            negative: case!(the_configured_address_list_is_not_remarkable),
        },
    },
];

#[test]
fn version_3_is_heard() {
    let (lab, bytes, meta) = active_v4();
    assert_eq!(bytes[0] >> 4, 3);
    accepted(lab, &bytes, meta);
}

#[test]
fn every_other_version_is_discarded() {
    for version in (0..=15).filter(|&version| version != 3) {
        let (lab, bytes, meta) = active_v4();
        discarded(lab, &changed(bytes, 0, version << 4 | 1), meta, "version");
    }
}

#[test]
fn another_type_is_discarded() {
    let (lab, bytes, meta) = active_v4();
    discarded(lab, &changed(bytes, 0, 0x30), meta, "type");
}

#[test]
fn a_complete_packet_is_heard() {
    let (lab, bytes, meta) = active_v4();
    accepted(lab, &bytes, meta);
    let (lab, bytes, meta) = active_v6();
    accepted(lab, &bytes, meta);
}

#[test]
fn every_shorter_one_is_discarded() {
    for len in 2..12 {
        let (lab, bytes, meta) = active_v4();
        assert_eq!(bytes.len(), 12);
        discarded(lab, &bytes[..len], meta, "truncated");
    }
    for len in 2..40 {
        let (lab, bytes, meta) = active_v6();
        assert_eq!(bytes.len(), 40);
        discarded(lab, &bytes[..len], meta, "truncated");
    }
    // Too short to name a router.
    let (mut lab, bytes, meta) = active_v4();
    lab.hear_bytes(&bytes[..1], meta);
    assert_eq!((lab.role(), lab.unmatched("truncated")), (Role::Active, 1));
}

#[test]
fn a_bit_that_fell_over_is_noticed() {
    // Priority, interval, the checksum itself and the address; what decides who looks at it comes first.
    for at in [2, 4, 5, 6, 7, 8, 11] {
        let (lab, mut bytes, meta) = active_v4();
        bytes[at] ^= 0x10;
        discarded(lab, &bytes, meta, "checksum");
    }
    let (lab, mut bytes, meta) = active_v6();
    bytes[39] ^= 1;
    discarded(lab, &bytes, meta, "checksum");
}

#[test]
fn another_vrid_or_interface_is_discarded() {
    for vrid in [0, 50, 52, 255] {
        let (mut lab, bytes, meta) = active_v4();
        assert!(lab.hear_bytes(&changed(bytes, 1, vrid), meta).is_empty());
        assert_eq!((lab.role(), lab.unmatched("unknown_vrid")), (Role::Active, 1));
    }
    let (mut lab, bytes, meta) = active_v4();
    lab.input(Input::Advert { interface: "eth1", meta, bytes: &bytes });
    assert_eq!((lab.role(), lab.unmatched("unknown_vrid")), (Role::Active, 1));
}

fn owner() -> Lab {
    let mut lab = Lab::new(settings_with(|router| router.priority = 255));
    lab.interface(Some(interface_up()));
    lab
}

#[test]
fn what_an_owner_hears_is_counted() {
    let mut lab = owner();
    lab.hear(100);
    assert_eq!((lab.role(), lab.dropped("heard_as_owner_accepted")), (Role::Active, 1));
    let mut lab = Lab::active(settings());
    lab.hear(100);
    assert_eq!(lab.dropped("heard_as_owner_accepted"), 0);
}

#[test]
fn two_owners_do_not_ignore_each_other() {
    let mut lab = owner();
    lab.hear(255);
    assert_eq!(lab.role(), Role::Backup, "the other's address is greater");
}

#[test]
fn a_packet_without_address_is_discarded() {
    let (lab, mut bytes, meta) = active_v4();
    bytes.truncate(8);
    discarded(lab, &changed(bytes, 3, 0), meta, "address_count_zero");
}

#[test]
fn another_first_ipv6_address_is_counted() {
    let (mut lab, _, _) = active_v6();
    let mut advert = advert_of(&lab.first(), 255);
    advert.addresses.remove(0);
    lab.hear_advert(&advert);
    assert_eq!((lab.role(), lab.dropped("first_address_not_link_local_accepted")), (Role::Backup, 1));
}

#[test]
fn the_shortest_interval_is_heard() {
    let (lab, bytes, meta) = active_v4();
    accepted(lab, &changed(bytes, 5, 1), meta);
}

#[test]
fn an_interval_of_0_is_discarded() {
    let (lab, bytes, meta) = active_v4();
    discarded(lab, &changed(bytes, 5, 0), meta, "interval_zero");
}

#[test]
fn a_discarded_packet_does_not_reset_the_timer() {
    let mut lab = Lab::backup(settings());
    lab.run_for(ms(300));
    let (router, mut meta) = (lab.first(), meta_from(PEER));
    let bytes = advert_of(&router, 255).emit(meta.source, meta.destination, router.checksum);
    meta.hop_limit = 1;
    lab.hear_bytes(&bytes, meta);
    assert_eq!(lab.run_until_role(Role::Active), INTERVAL * 56 / 256);
}

#[test]
fn what_is_discarded_is_counted_by_reason() {
    let (mut lab, bytes, mut meta) = active_v4();
    lab.hear_bytes(&changed(bytes.clone(), 0, 0x21), meta);
    lab.hear_bytes(&bytes[..9], meta);
    meta.hop_limit = 1;
    lab.hear_bytes(&bytes, meta);
    lab.hear_bytes(&bytes, meta);
    assert_eq!(["version", "truncated", "hop_limit"].map(|reason| lab.dropped(reason)), [1, 1, 2]);
}

#[test]
fn a_flood_of_it_leaves_no_events() {
    let (mut lab, bytes, mut meta) = active_v4();
    meta.hop_limit = 1;
    assert!((0..10_000).all(|_| lab.hear_bytes(&bytes, meta).is_empty()));
    assert_eq!(lab.dropped("hop_limit"), 10_000);
}

#[test]
fn another_interval_is_counted_and_heard() {
    let (mut lab, _, _) = active_v4();
    lab.hear_advert(&Advert { interval: Duration::from_secs(1), ..advert_of(&lab.first(), 255) });
    assert_eq!((lab.role(), lab.dropped("interval_mismatch_accepted")), (Role::Backup, 1));
}

#[test]
fn the_configured_interval_is_not_remarkable() {
    let (mut lab, bytes, meta) = active_v4();
    lab.hear_bytes(&bytes, meta);
    assert_eq!(lab.dropped("interval_mismatch_accepted"), 0);
}

#[test]
fn another_address_list_is_counted_and_heard() {
    for family in [Family::V4, Family::V6] {
        let mut lab = Lab::active(settings_of(vec![router(family)]));
        let mut advert = advert_of(&lab.first(), 255);
        let another = if family == Family::V4 { "192.0.2.200" } else { "2001:db8::200" };
        advert.addresses.push(ip(another));
        lab.hear_advert(&advert);
        assert_eq!((lab.role(), lab.dropped("address_list_mismatch_accepted")), (Role::Backup, 1));
    }
}

#[test]
fn the_configured_address_list_is_not_remarkable() {
    let (mut lab, bytes, meta) = active_v6();
    lab.hear_bytes(&bytes, meta);
    assert_eq!(lab.dropped("address_list_mismatch_accepted"), 0);
    assert_eq!(lab.dropped("first_address_not_link_local_accepted"), 0);
}
