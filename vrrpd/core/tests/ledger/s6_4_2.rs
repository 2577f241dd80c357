//! §6.4.2: Backup.

use common::ipc::Role;
use common::time::Duration;
use vrrpd_core::neighbor;
use vrrpd_core::node::{Action, Input};
use vrrpd_core::packet::{Advert, Family};

use crate::entry::Level::{Must, MustNot, Step};
use crate::entry::{Entry, Place, case};
use crate::harness::*;

const SYSCTL: &str = "vrrpd/tests/shell_sysctl.rs";

pub(crate) const ENTRIES: &[Entry] = &[
    Entry {
        rfc: 9568,
        section: "6.4.2",
        nth: 1,
        level: MustNot,
        text: "It MUST NOT respond to ARP requests for the IPv4 address(es) associated with the Virtual Router.",
        place: Place::Elsewhere { tests: &[(SYSCTL, "only_who_has_the_address_on_the_interface_answers")] },
    },
    Entry {
        rfc: 9568,
        section: "6.4.2",
        nth: 2,
        level: MustNot,
        text: "It MUST NOT respond to ND Neighbor Solicitation messages for the IPv6 address(es) associated with the Virtual Router.",
        place: Place::Core {
            positive: case!(a_backup_takes_its_addresses_off_the_interface),
            negative: case!(an_address_that_appears_on_a_backup_is_removed),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.2",
        nth: 3,
        level: Must,
        text: "It MUST discard packets with a destination link-layer MAC address equal to the Virtual Router MAC address.",
        place: Place::Elsewhere {
            tests: &[
                (SYSCTL, "with_a_macvlan_only_the_virtual_ethernet_address_answers"),
                ("vrrpd/tests/shell_netlink.rs", "a_macvlan_starts_down_and_without_an_address"),
            ],
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.2",
        nth: 4,
        level: MustNot,
        text: "It MUST NOT accept packets addressed to the IPvX address(es) associated with the Virtual Router.",
        place: Place::Deviates {
            why: "a backup answers for no address, but keeps each as a local route, so that connections it still serves survive a switchover",
            shown: case!(a_backup_takes_its_addresses_off_the_interface),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.2",
        nth: 5,
        level: Step,
        text: "If a Shutdown event is received, then: Cancel the Active_Down_Timer; Transition to the {Initialize} state",
        place: Place::Core {
            positive: case!(shutdown_ends_a_backup),
            negative: case!(a_backup_that_was_shut_down_never_takes_over),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.2",
        nth: 6,
        level: Step,
        text: "If the Active_Down_Timer fires, then: Send an ADVERTISEMENT",
        place: Place::Core {
            positive: case!(a_backup_that_takes_over_advertises),
            negative: case!(a_backup_that_hears_the_active_router_does_not),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.2",
        nth: 7,
        level: Step,
        text: "For each IPv4 address associated with the Virtual Router, broadcast a gratuitous ARP message containing the Virtual Router IPv4 address (erratum 7949)",
        place: Place::Core {
            positive: case!(taking_over_is_announced_by_arp),
            negative: case!(nothing_is_announced_before),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.2",
        nth: 8,
        level: Step,
        text: "and with the target link-layer address set to the Virtual Router MAC address (erratum 7949)",
        place: Place::Deviates {
            why: "the target's Ethernet address of a request is looked at by nobody; it is the broadcast address, as others send it",
            shown: case!(the_target_of_gratuitous_arp_is_the_broadcast_address),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.2",
        nth: 9,
        level: Step,
        text: "For each IPv6 address associated with the Virtual Router, send an unsolicited ND Neighbor Advertisement",
        place: Place::Core {
            positive: case!(taking_over_is_announced_by_neighbour_advertisements),
            negative: case!(nothing_is_announced_before),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.2",
        nth: 10,
        level: Step,
        text: "Set the Adver_Timer to Advertisement_Interval; Transition to the {Active} state",
        place: Place::Core {
            positive: case!(it_goes_on_advertising),
            negative: case!(a_learned_interval_is_not_its_own),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.2",
        nth: 11,
        level: Step,
        text: "If the Priority in the ADVERTISEMENT is 0, then: Set the Active_Down_Timer to Skew_Time",
        place: Place::Core {
            positive: case!(priority_0_leaves_the_skew_time),
            negative: case!(one_that_still_advertises_after_it_is_not_succeeded),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.2",
        nth: 12,
        level: Step,
        text: "If Preempt_Mode is False, or if the Priority in the ADVERTISEMENT is greater than or equal to the local Priority, then: Set the Active_Down_Timer to Active_Down_Interval",
        place: Place::Core {
            positive: case!(an_equal_or_higher_priority_is_waited_for),
            negative: case!(equal_priority_is_no_matter_of_addresses),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.2",
        nth: 13,
        level: Step,
        text: "Set the Active_Adver_Interval to the Max Advertise Interval contained in the ADVERTISEMENT; Recompute the Skew_Time; Recompute the Active_Down_Interval",
        place: Place::Core {
            positive: case!(the_interval_is_learned),
            negative: case!(a_discarded_advertisement_teaches_nothing),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.2",
        nth: 14,
        level: Step,
        text: "else // preempt was true and priority was less than the local priority: Discard the ADVERTISEMENT",
        place: Place::Core {
            positive: case!(a_lower_priority_does_not_put_the_timer_off),
            negative: case!(without_preempt_mode_it_does),
        },
    },
];

#[test]
fn a_backup_takes_its_addresses_off_the_interface() {
    for family in [Family::V4, Family::V6] {
        let mut lab = Lab::active(settings_of(vec![router(family)]));
        assert!(lab.holds_addresses());
        let actions = lab.hear(255);
        let addresses = lab.first().addresses;
        assert!(actions.contains(&Action::RemoveAddresses { slot: SLOT, addresses }));
        assert!(!lab.holds_addresses());
    }
}

#[test]
fn an_address_that_appears_on_a_backup_is_removed() {
    let mut lab = Lab::backup(settings_of(vec![router(Family::V6)]));
    let actions = lab.input(Input::AddressAdded { interface: INTERFACE, ip: ip(VIP_V6), ours: true });
    assert!(actions.iter().any(|action| matches!(action, Action::RemoveAddresses { .. })));
}

#[test]
fn shutdown_ends_a_backup() {
    let mut lab = Lab::backup(settings());
    let actions = lab.input(Input::Shutdown);
    assert_eq!((lab.role(), priorities(&actions)), (Role::Init, vec![]));
}

#[test]
fn a_backup_that_was_shut_down_never_takes_over() {
    let mut lab = Lab::backup(settings());
    lab.input(Input::Shutdown);
    assert!(lab.run_for(Duration::from_secs(10)).is_empty());
    lab.sleep(Duration::from_secs(10));
    assert!(lab.input(Input::Timeout).is_empty());
}

/// What a backup of this family does at the moment it takes over.
fn takeover(family: Family) -> (Lab, Vec<Action>) {
    let mut lab = Lab::backup(settings_of(vec![router(family)]));
    let wait = INTERVAL * 3 + INTERVAL * 56 / 256;
    assert!(untimed(lab.run_for(wait - Duration::from_nanos(1))).is_empty());
    let actions = untimed(lab.run_for(Duration::from_nanos(1)));
    assert_eq!(lab.role(), Role::Active);
    (lab, actions)
}

#[test]
fn a_backup_that_takes_over_advertises() {
    assert_eq!(priorities(&takeover(Family::V4).1), [200]);
}

#[test]
fn a_backup_that_hears_the_active_router_does_not() {
    let mut lab = Lab::backup(settings());
    assert!(adverts(&lab.hear_for(255, Duration::from_secs(10))).is_empty());
}

#[test]
fn taking_over_is_announced_by_arp() {
    let frames = frames(&takeover(Family::V4).1);
    assert_eq!(frames, [neighbor::gratuitous_arp(MAC, [192, 0, 2, 100].into())]);
}

#[test]
fn the_target_of_gratuitous_arp_is_the_broadcast_address() {
    let frames = frames(&takeover(Family::V4).1);
    // After Ethernet, ARP's header, and the sender's two addresses.
    assert_eq!(frames[0][14 + 18..14 + 24], [0xff; 6]);
}

#[test]
fn nothing_is_announced_before() {
    for family in [Family::V4, Family::V6] {
        let mut lab = Lab::backup(settings_of(vec![router(family)]));
        assert!(frames(&untimed(lab.hear_for(255, Duration::from_secs(10)))).is_empty());
    }
}

#[test]
fn taking_over_is_announced_by_neighbour_advertisements() {
    let frames = frames(&takeover(Family::V6).1);
    let wanted =
        [VIP_LINK_LOCAL, VIP_V6].map(|vip| neighbor::unsolicited_na(MAC, vip.parse().unwrap(), false));
    assert_eq!(frames, wanted);
}

#[test]
fn it_goes_on_advertising() {
    let (mut lab, _) = takeover(Family::V4);
    let start = lab.at();
    let sent: Vec<Duration> = adverts(&lab.run_for(ms(350))).iter().map(|(at, _)| *at - start).collect();
    assert_eq!(sent, [INTERVAL, INTERVAL * 2, INTERVAL * 3]);
}

#[test]
fn a_learned_interval_is_not_its_own() {
    let mut lab = Lab::backup(settings());
    lab.hear_advert(&Advert { interval: ms(1_000), ..advert_of(&lab.first(), 255) });
    lab.run_until_role(Role::Active);
    assert_eq!(adverts(&lab.run_for(ms(1_000))).len(), 10);
}

#[test]
fn priority_0_leaves_the_skew_time() {
    let mut lab = Lab::backup(settings());
    lab.hear(255);
    lab.run_for(ms(20));
    lab.hear(0);
    assert_eq!(lab.run_until_role(Role::Active), INTERVAL * 56 / 256);
}

#[test]
fn one_that_still_advertises_after_it_is_not_succeeded() {
    let mut lab = Lab::backup(settings());
    lab.hear(0);
    lab.run_for(ms(10));
    lab.hear_for(255, Duration::from_secs(1));
    assert_eq!(lab.role(), Role::Backup);
}

#[test]
fn an_equal_or_higher_priority_is_waited_for() {
    for priority in [200, 201, 255] {
        let mut lab = Lab::backup(settings());
        lab.hear_for(priority, Duration::from_secs(5));
        assert_eq!(lab.role(), Role::Backup, "{priority}");
    }
}

#[test]
fn equal_priority_is_no_matter_of_addresses() {
    // 192.0.2.0 is less than this router's 192.0.2.1, which would decide between two active ones.
    let mut lab = Lab::backup(settings());
    let (router, meta) = (lab.first(), meta_from("192.0.2.0"));
    let bytes = advert_of(&router, 200).emit(meta.source, meta.destination, router.checksum);
    for _ in 0..50 {
        lab.hear_bytes(&bytes, meta);
        lab.run_for(INTERVAL);
    }
    assert_eq!(lab.role(), Role::Backup);
}

#[test]
fn the_interval_is_learned() {
    for interval in [ms(10), ms(1_000), ms(40_950)] {
        let mut lab = Lab::backup(settings());
        lab.hear_advert(&Advert { interval, ..advert_of(&lab.first(), 255) });
        assert_eq!(lab.run_until_role(Role::Active), interval * 3 + interval * 56 / 256);
    }
}

#[test]
fn a_discarded_advertisement_teaches_nothing() {
    let mut lab = Lab::backup(settings());
    lab.hear_advert(&Advert { interval: ms(40_950), ..advert_of(&lab.first(), 199) });
    assert_eq!(lab.run_until_role(Role::Active), INTERVAL * 3 + INTERVAL * 56 / 256);
}

#[test]
fn a_lower_priority_does_not_put_the_timer_off() {
    let mut lab = Lab::backup(settings());
    lab.run_for(ms(300));
    lab.hear(199);
    assert_eq!(lab.run_until_role(Role::Active), INTERVAL * 56 / 256);
}

#[test]
fn without_preempt_mode_it_does() {
    let mut lab = Lab::backup(settings_with(|router| router.preempt = false));
    lab.run_for(ms(300));
    lab.hear(199);
    assert_eq!(lab.run_until_role(Role::Active), INTERVAL * 3 + INTERVAL * 56 / 256);
}
