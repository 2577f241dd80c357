//! §6.4.1: Initialize.

use common::ipc::Role;
use vrrpd_core::neighbor;
use vrrpd_core::node::Action;
use vrrpd_core::packet::Family;
use vrrpd_core::settings::{RouterSettings, Settings};

use crate::entry::Level::Step;
use crate::entry::{Entry, Place, case};
use crate::harness::*;

pub(crate) const ENTRIES: &[Entry] = &[
    Entry {
        rfc: 9568,
        section: "6.4.1",
        nth: 1,
        level: Step,
        text: "If the Priority = 255, i.e., the router owns the IPvX address associated with the Virtual Router, then: Send an ADVERTISEMENT",
        place: Place::Core {
            positive: case!(the_owner_advertises_at_once),
            negative: case!(others_say_nothing_at_start),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.1",
        nth: 2,
        level: Step,
        text: "For each IPv4 address associated with the Virtual Router, broadcast a gratuitous ARP message containing the Virtual Router IPv4 address (erratum 7947)",
        place: Place::Core {
            positive: case!(the_owner_announces_each_ipv4_address),
            negative: case!(others_announce_nothing_at_start),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.1",
        nth: 3,
        level: Step,
        text: "For each IPv6 address associated with the Virtual Router, send an unsolicited ND Neighbor Advertisement with the Router Flag (R) set, the Solicited Flag (S) clear, the Override flag (O) set",
        place: Place::Core {
            positive: case!(the_owner_announces_each_ipv6_address),
            negative: case!(the_router_flag_is_for_hosts_that_forward),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.1",
        nth: 4,
        level: Step,
        text: "Set the Adver_Timer to Advertisement_Interval; Transition to the {Active} state",
        place: Place::Core {
            positive: case!(the_owner_is_active_and_goes_on),
            negative: case!(others_start_as_backup),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.1",
        nth: 5,
        level: Step,
        text: "else: Set Active_Adver_Interval to Advertisement_Interval; Set the Active_Down_Timer to Active_Down_Interval; Transition to the {Backup} state",
        place: Place::Core {
            positive: case!(others_wait_by_their_own_interval),
            negative: case!(the_owner_waits_for_nobody),
        },
    },
];

fn owner_of(mut router: RouterSettings) -> Settings {
    router.priority = 255;
    settings_of(vec![router])
}

fn start(settings: Settings) -> (Lab, Vec<Action>) {
    let mut lab = Lab::new(settings);
    let actions = lab.interface(Some(interface_up()));
    (lab, actions)
}

#[test]
fn the_owner_advertises_at_once() {
    let (_, actions) = start(owner_of(router(Family::V4)));
    assert_eq!(priorities(&actions), [255]);
}

#[test]
fn others_say_nothing_at_start() {
    let (_, actions) = start(settings_with(|router| router.priority = 254));
    assert!(priorities(&actions).is_empty());
}

#[test]
fn the_owner_announces_each_ipv4_address() {
    let mut two = router(Family::V4);
    two.addresses.push("192.0.2.101/24".parse().unwrap());
    let (_, actions) = start(owner_of(two));
    let wanted = [100, 101].map(|last| neighbor::gratuitous_arp(MAC, [192, 0, 2, last].into()));
    assert_eq!(frames(&actions), wanted);
}

#[test]
fn others_announce_nothing_at_start() {
    assert!(frames(&start(settings()).1).is_empty());
}

/// The flags' byte of a neighbour advertisement: after Ethernet, IPv6, and type, code and checksum.
const FLAGS_AT: usize = 14 + 40 + 4;

#[test]
fn the_owner_announces_each_ipv6_address() {
    let mut lab = Lab::new(owner_of(router(Family::V6)));
    let mut state = interface_up();
    state.forwarding = true;
    let sent = frames(&lab.interface(Some(state)));
    assert_eq!(sent.len(), 2);
    for (frame, address) in sent.iter().zip([VIP_LINK_LOCAL, VIP_V6]) {
        let sighting = neighbor::parse_frame(frame).unwrap();
        assert_eq!((sighting.ip, sighting.mac), (ip(address), MAC));
        assert_eq!(frame[FLAGS_AT], 0b1010_0000, "R and O set, S clear");
    }
}

#[test]
fn the_router_flag_is_for_hosts_that_forward() {
    // A host that is told of a router where there is none may choose it as one.
    let (_, actions) = start(owner_of(router(Family::V6)));
    assert!(frames(&actions).iter().all(|frame| frame[FLAGS_AT] == 0b0010_0000));
}

#[test]
fn the_owner_is_active_and_goes_on() {
    let (mut lab, _) = start(owner_of(router(Family::V4)));
    assert_eq!(lab.role(), Role::Active);
    let start = lab.at();
    assert_eq!(adverts(&lab.run_for(INTERVAL)), [(start + INTERVAL, 255)]);
}

#[test]
fn others_start_as_backup() {
    let (mut lab, _) = start(settings());
    assert_eq!(lab.role(), Role::Backup);
    assert!(adverts(&lab.run_for(INTERVAL * 3)).is_empty());
}

#[test]
fn others_wait_by_their_own_interval() {
    let (mut lab, _) = start(settings());
    assert_eq!(lab.run_until_role(Role::Active), INTERVAL * 3 + INTERVAL * 56 / 256);
}

#[test]
fn the_owner_waits_for_nobody() {
    let (lab, actions) = start(owner_of(router(Family::V4)));
    assert_eq!(lab.role(), Role::Active);
    assert!(lab.holds_addresses());
    assert_eq!(events(&actions).len(), 1, "straight from Initialize");
}
