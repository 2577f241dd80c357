//! §7.2 and §7.3: sending.

use common::config::VrrpVersion;
use vrrpd_core::neighbor::virtual_mac;
use vrrpd_core::packet::{Advert, Family};
use vrrpd_core::settings::Destination;

use crate::entry::Level::{Must, Step};
use crate::entry::{Entry, Place, case};
use crate::harness::*;
use crate::wire::{active_v4, active_v6, sent, sent_advert};

const SOCKET: &str = "vrrpd/tests/shell_socket.rs";

pub(crate) const ENTRIES: &[Entry] = &[
    Entry {
        rfc: 9568,
        section: "7.2",
        nth: 1,
        level: Must,
        text: "Fill in the VRRP packet fields with the appropriate Virtual Router configuration state; Compute the VRRP checksum",
        place: Place::Core {
            positive: case!(the_fields_are_those_of_the_configuration),
            negative: case!(nothing_of_another_router_is_in_it),
        },
    },
    Entry {
        rfc: 9568,
        section: "7.2",
        nth: 2,
        level: Must,
        text: "Set the source MAC address to the Virtual Router MAC address",
        place: Place::Elsewhere {
            tests: &[(SOCKET, "an_advertisement_from_the_virtual_address_is_an_advertisement")],
        },
    },
    Entry {
        rfc: 9568,
        section: "7.2",
        nth: 3,
        level: Must,
        text: "The same, where no virtual MAC address is used.",
        place: Place::Deviates {
            why: "by default each node speaks and announces with its own MAC address, as keepalived does: clouds and bridges often refuse \
                  others, and announcements move the addresses; `virtual_mac = true` follows the RFC",
            shown: case!(without_a_virtual_mac_the_own_one_is_announced),
        },
    },
    Entry {
        rfc: 9568,
        section: "7.2",
        nth: 4,
        level: Must,
        text: "Set the source IPv4 address to the interface's primary IPv4 address; else // IPv6: Set the source IPv6 address to the interface's link-local IPv6 address",
        place: Place::Core {
            positive: case!(the_source_is_the_interfaces_own),
            negative: case!(without_such_an_address_nothing_is_sent),
        },
    },
    Entry {
        rfc: 9568,
        section: "7.2",
        nth: 5,
        level: Must,
        text: "Set the IPvX protocol to VRRP",
        place: Place::Elsewhere {
            tests: &[
                (SOCKET, "an_advertisement_arrives_with_what_its_header_said"),
                (SOCKET, "only_the_own_interface_and_family_are_heard"),
            ],
        },
    },
    Entry {
        rfc: 9568,
        section: "7.2",
        nth: 6,
        level: Must,
        text: "Send the VRRP packet to the VRRP IPvX multicast group",
        place: Place::Core {
            positive: case!(it_goes_to_the_familys_group),
            negative: case!(only_unicast_transport_sends_it_elsewhere),
        },
    },
    Entry {
        rfc: 9568,
        section: "7.3",
        nth: 1,
        level: Step,
        text: "IPv4 case: 00-00-5E-00-01-{VRID}; IPv6 case: 00-00-5E-00-02-{VRID}",
        place: Place::Core {
            positive: case!(the_virtual_mac_has_the_vrid_in_it),
            negative: case!(the_families_do_not_share_one),
        },
    },
];

#[test]
fn the_fields_are_those_of_the_configuration() {
    for family in [Family::V4, Family::V6] {
        let settings = router(family);
        let mut lab = Lab::active(settings_of(vec![settings.clone()]));
        let wanted = Advert {
            version: VrrpVersion::V3,
            vrid: 51,
            priority: 200,
            interval: INTERVAL,
            addresses: settings.advertised(),
        };
        assert_eq!(sent_advert(&mut lab), wanted);
    }
}

#[test]
fn nothing_of_another_router_is_in_it() {
    let (mut lab, bytes, meta) = active_v4();
    lab.hear_bytes(&bytes, meta);
    lab.run_until_role(common::ipc::Role::Active);
    let advert = sent_advert(&mut lab);
    assert_eq!((advert.priority, advert.interval), (200, INTERVAL));
}

#[test]
fn without_a_virtual_mac_the_own_one_is_announced() {
    let mut lab = Lab::backup(settings());
    let sent = frames(&untimed(lab.run_for(ms(400))));
    assert!(!sent.is_empty() && sent.iter().all(|frame| frame[6..12] == MAC));
}

#[test]
fn the_source_is_the_interfaces_own() {
    let (mut lab, _, _) = active_v4();
    assert_eq!(sent(&mut lab).1.source, ip(OWN));
    let (mut lab, _, _) = active_v6();
    assert_eq!(sent(&mut lab).1.source, ip(OWN_V6));
}

#[test]
fn without_such_an_address_nothing_is_sent() {
    for family in [Family::V4, Family::V6] {
        let mut lab = Lab::new(settings_of(vec![router(family)]));
        let mut state = interface_up();
        match family {
            Family::V4 => state.ipv4 = None,
            Family::V6 => state.link_local = None,
        }
        lab.interface(Some(state));
        assert!(adverts(&lab.run_for(ms(10_000))).is_empty());
    }
}

#[test]
fn it_goes_to_the_familys_group() {
    let (mut lab, _, _) = active_v4();
    assert_eq!(sent(&mut lab).1.destination, ip("224.0.0.18"));
    let (mut lab, _, _) = active_v6();
    assert_eq!(sent(&mut lab).1.destination, ip("ff02::12"));
}

#[test]
fn only_unicast_transport_sends_it_elsewhere() {
    let unicast = settings_with(|router| router.destination = Destination::Unicast(ip(PEER)));
    let mut lab = Lab::active(unicast);
    let (bytes, meta) = sent(&mut lab);
    assert_eq!(meta.destination, ip(PEER));
    Advert::parse(&bytes, &meta, VrrpVersion::V3).unwrap();
}

#[test]
fn the_virtual_mac_has_the_vrid_in_it() {
    assert_eq!(virtual_mac(Family::V4, 1), [0, 0, 0x5e, 0, 1, 1]);
    assert_eq!(virtual_mac(Family::V6, 255), [0, 0, 0x5e, 0, 2, 255]);
}

#[test]
fn the_families_do_not_share_one() {
    assert!((1..=255).all(|vrid| virtual_mac(Family::V4, vrid) != virtual_mac(Family::V6, vrid)));
}
