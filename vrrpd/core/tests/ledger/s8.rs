//! §2.5 and §8: operation.

use common::ipc::Role;
use common::time::Duration;
use vrrpd_core::event::Event;
use vrrpd_core::neighbor::virtual_mac;
use vrrpd_core::node::{Action, Input};
use vrrpd_core::packet::Family;

use crate::entry::Level::{Must, MustNot, Should, ShouldNot};
use crate::entry::{Entry, Place, case};
use crate::harness::*;

const SYSCTL: &str = "vrrpd/tests/shell_sysctl.rs";
const CONFIG: &[(&str, &str)] = &[("common/tests/config_errors.rs", "every_case_is_shown_as_expected")];

pub(crate) const ENTRIES: &[Entry] = &[
    Entry {
        rfc: 9568,
        section: "2.5",
        nth: 1,
        level: Should,
        text: "If the Active Router observes that this is occurring, it SHOULD log the problem (subject to rate-limiting).",
        place: Place::Core {
            positive: case!(a_router_that_was_held_up_says_so),
            negative: case!(one_that_was_not_says_nothing),
        },
    },
    Entry {
        rfc: 9568,
        section: "8.1.2",
        nth: 1,
        level: MustNot,
        text: "The Active Router MUST NOT respond with its physical MAC address in the ARP response.",
        place: Place::Elsewhere {
            tests: &[(SYSCTL, "with_a_macvlan_only_the_virtual_ethernet_address_answers")],
        },
    },
    Entry {
        rfc: 9568,
        section: "8.1.2",
        nth: 2,
        level: Must,
        text: "At system boot, when initializing interfaces for VRRP operation, gratuitous ARP messages MUST be delayed until both the IPv4 address and the Virtual Router MAC address are configured.",
        place: Place::Core {
            positive: case!(an_address_is_announced_after_it_is_added),
            negative: case!(addresses_that_cannot_be_added_are_not_announced_again),
        },
    },
    Entry {
        rfc: 9568,
        section: "8.1.2",
        nth: 3,
        level: ShouldNot,
        text: "When a VRRP Router restarts or boots, it SHOULD NOT send any ARP messages using its physical MAC address for an IPv4 address for which it is the IPv4 address owner",
        place: Place::Core {
            positive: case!(with_a_virtual_mac_that_one_is_announced),
            negative: case!(with_a_virtual_mac_the_own_one_is_not),
        },
    },
    Entry {
        rfc: 9568,
        section: "8.1.2",
        nth: 4,
        level: Should,
        text: "When configuring an interface, Active Routers SHOULD broadcast a gratuitous ARP message containing the Virtual Router MAC address for each IPv4 address on that interface.",
        place: Place::Core {
            positive: case!(new_addresses_are_announced),
            negative: case!(a_backup_does_not_announce_new_addresses),
        },
    },
    Entry {
        rfc: 9568,
        section: "8.2.2",
        nth: 1,
        level: MustNot,
        text: "The Active Router MUST NOT respond with its physical MAC address. (to ND Neighbor Solicitation)",
        place: Place::Elsewhere {
            tests: &[(SYSCTL, "with_a_macvlan_only_the_virtual_ethernet_address_answers")],
        },
    },
    Entry {
        rfc: 9568,
        section: "8.2.2",
        nth: 2,
        level: Must,
        text: "When an Active Router sends an ND Neighbor Solicitation message for a host's IPv6 address, the Active Router MUST include the Virtual Router MAC address for the Virtual Router if it sends a source link-layer address option",
        place: Place::Deviates {
            why: "the only one sent asks the tracked gateway, from the node's own link-local address, whose MAC address is the node's own",
            shown: case!(the_gateway_is_asked_from_the_own_address),
        },
    },
    Entry {
        rfc: 9568,
        section: "8.2.2",
        nth: 3,
        level: Must,
        text: "all ND Router Advertisements, ND Neighbor Advertisements, and ND Neighbor Solicitation messages MUST be delayed until both the IPv6 address and the Virtual Router MAC address are configured.",
        place: Place::Core {
            positive: case!(an_address_is_announced_after_it_is_added),
            negative: case!(addresses_that_cannot_be_added_are_not_announced_again),
        },
    },
    Entry {
        rfc: 9568,
        section: "8.2.2",
        nth: 4,
        level: ShouldNot,
        text: "When a VRRP Router restarts or boots, it SHOULD NOT send any ND messages with its physical MAC address for the IPv6 address it owns",
        place: Place::Core {
            positive: case!(with_a_virtual_mac_that_one_is_announced),
            negative: case!(with_a_virtual_mac_the_own_one_is_not),
        },
    },
    Entry {
        rfc: 9568,
        section: "8.2.2",
        nth: 5,
        level: Should,
        text: "When configuring an interface, Active Routers SHOULD send an unsolicited ND Neighbor Advertisement message containing the Virtual Router MAC address for the IPv6 address on that interface.",
        place: Place::Core {
            positive: case!(new_addresses_are_announced),
            negative: case!(a_backup_does_not_announce_new_addresses),
        },
    },
    Entry {
        rfc: 9568,
        section: "8.3.1",
        nth: 1,
        level: ShouldNot,
        text: "If it is not the address owner, a VRRP Router SHOULD NOT forward packets addressed to the IPvX address for which it becomes the Active Router.",
        place: Place::Elsewhere {
            tests: &[(
                "vrrpd/tests/shell_netlink.rs",
                "local_routes_outlive_the_address_and_connections_go_on",
            )],
        },
    },
    Entry {
        rfc: 9568,
        section: "8.3.2",
        nth: 1,
        level: Should,
        text: "For a VRID, only a single VRRP Router on the link SHOULD be configured with priority 255.",
        place: Place::Elsewhere { tests: CONFIG },
    },
    Entry {
        rfc: 9568,
        section: "8.3.2",
        nth: 2,
        level: Should,
        text: "If multiple VRRP Routers advertising priority 255 are detected, the condition SHOULD be logged (subject to rate-limiting).",
        place: Place::Core {
            positive: case!(another_owner_is_counted),
            negative: case!(a_priority_of_255_is_nothing_to_remark_for_others),
        },
    },
    Entry {
        rfc: 9568,
        section: "8.3.2",
        nth: 3,
        level: Should,
        text: "all Virtual Routers SHOULD be configured with different priorities",
        place: Place::Elsewhere { tests: CONFIG },
    },
];

#[test]
fn a_router_that_was_held_up_says_so() {
    let mut lab = Lab::active(settings_with(|router| router.interval = ms(10)));
    lab.sleep(ms(26));
    let events = events(&lab.input(Input::Timeout));
    assert!(matches!(events[..], [Event::Stalled { silence_ms: 26, .. }, Event::Role { .. }]), "{events:?}");
}

#[test]
fn one_that_was_not_says_nothing() {
    let mut lab = Lab::active(settings_with(|router| router.interval = ms(10)));
    assert!(events(&untimed(lab.run_for(Duration::from_secs(1)))).is_empty());
}

/// What a router does as it becomes active.
fn takeover(family: Family, virtual_mac: bool) -> Vec<Action> {
    let mut router = router(family);
    router.virtual_mac = virtual_mac;
    let mut lab = Lab::backup(settings_of(vec![router]));
    let actions = untimed(lab.run_for(ms(330)));
    assert_eq!(lab.role(), Role::Active);
    actions
}

#[test]
fn an_address_is_announced_after_it_is_added() {
    for family in [Family::V4, Family::V6] {
        let actions = takeover(family, false);
        let place = |wanted: fn(&Action) -> bool| actions.iter().position(wanted).unwrap();
        let added = place(|action| matches!(action, Action::AddAddresses { .. }));
        assert!(added < place(|action| matches!(action, Action::SendFrames { .. })));
    }
}

#[test]
fn addresses_that_cannot_be_added_are_not_announced_again() {
    let mut lab = Lab::active(settings());
    lab.input(Input::AcquireFailed { slot: SLOT, what: "no".to_owned() });
    assert!(frames(&untimed(lab.run_for(ms(4_000)))).is_empty());
}

fn ethernet_sources(family: Family, virtual_mac: bool) -> Vec<[u8; 6]> {
    frames(&takeover(family, virtual_mac)).iter().map(|frame| frame[6..12].try_into().unwrap()).collect()
}

#[test]
fn with_a_virtual_mac_that_one_is_announced() {
    assert_eq!(ethernet_sources(Family::V4, true), [virtual_mac(Family::V4, 51)]);
    assert_eq!(ethernet_sources(Family::V6, true), [virtual_mac(Family::V6, 51); 2]);
}

#[test]
fn with_a_virtual_mac_the_own_one_is_not() {
    for family in [Family::V4, Family::V6] {
        let frames = frames(&takeover(family, true));
        assert!(frames.iter().all(|frame| !frame.windows(6).any(|bytes| bytes == MAC)));
    }
}

fn more_addresses(family: Family) -> Input<'static> {
    let mut router = router(family);
    let more = if family == Family::V4 { "192.0.2.150/24" } else { "2001:db8::150/64" };
    router.addresses.push(more.parse().unwrap());
    Input::Reconfigure(Box::new(settings_of(vec![router])))
}

#[test]
fn new_addresses_are_announced() {
    for (family, count) in [(Family::V4, 2), (Family::V6, 3)] {
        let mut lab = Lab::active(settings_of(vec![router(family)]));
        assert_eq!(frames(&lab.input(more_addresses(family))).len(), count);
    }
}

#[test]
fn a_backup_does_not_announce_new_addresses() {
    for family in [Family::V4, Family::V6] {
        let mut lab = Lab::backup(settings_of(vec![router(family)]));
        assert!(frames(&lab.input(more_addresses(family))).is_empty());
    }
}

#[test]
fn the_gateway_is_asked_from_the_own_address() {
    let mut router = router(Family::V6);
    router.virtual_mac = true;
    let mut settings = settings_of(vec![router]);
    settings.instances[0].track.gateway = Some(ip("fe80::ff"));
    let mut lab = Lab::backup(settings);
    let asked = frames(&lab.input(Input::Timeout));
    let std::net::IpAddr::V6(own) = ip(OWN_V6) else { panic!("{OWN_V6}") };
    assert_eq!(asked[0][14 + 8..14 + 24], own.octets());
    assert_eq!(asked[0][asked[0].len() - 6..], MAC);
}

fn owner() -> Lab {
    let mut lab = Lab::new(settings_with(|router| router.priority = 255));
    lab.interface(Some(interface_up()));
    lab
}

#[test]
fn another_owner_is_counted() {
    let mut lab = owner();
    lab.hear(255);
    assert_eq!(lab.dropped("heard_as_owner_accepted"), 1);
}

#[test]
fn a_priority_of_255_is_nothing_to_remark_for_others() {
    let mut lab = Lab::backup(settings());
    lab.hear(255);
    assert!(lab.node.status().instances[0].routers[0].drops.is_empty());
}
