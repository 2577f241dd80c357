//! §6.4.3: Active.

use common::ipc::Role;
use common::time::Duration;
use vrrpd_core::node::{Action, Input};
use vrrpd_core::packet::{Advert, Family};
use vrrpd_core::settings::Settings;

use crate::entry::Level::{Must, MustNot, Step};
use crate::entry::{Entry, Place, case};
use crate::harness::*;

const SYSCTL: &str = "vrrpd/tests/shell_sysctl.rs";

pub(crate) const ENTRIES: &[Entry] = &[
    Entry {
        rfc: 9568,
        section: "6.4.3",
        nth: 1,
        level: Must,
        text: "It MUST respond to ARP requests for the IPv4 address(es) associated with the Virtual Router.",
        place: Place::Elsewhere { tests: &[(SYSCTL, "only_who_has_the_address_on_the_interface_answers")] },
    },
    Entry {
        rfc: 9568,
        section: "6.4.3",
        nth: 2,
        level: Must,
        text: "It MUST be a member of the Solicited-Node multicast address for the IPv6 address(es) associated with the Virtual Router.",
        place: Place::Core {
            positive: case!(the_addresses_are_on_the_interface),
            negative: case!(an_address_that_goes_is_put_back),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.3",
        nth: 3,
        level: Must,
        text: "It MUST respond to ND Neighbor Solicitation messages (with the Router Flag (R) set) for the IPv6 address(es) associated with the Virtual Router.",
        place: Place::NotApplicable {
            why: "the kernel answers for addresses on the interface, with the router flag where the host forwards; Tandem makes no host a router",
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.3",
        nth: 4,
        level: Must,
        text: "It MUST send ND Router Advertisements for the Virtual Router.",
        place: Place::NotApplicable {
            why: "a load balancer's addresses are destinations, not anybody's default route",
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.3",
        nth: 5,
        level: Must,
        text: "It MUST forward packets with a destination link-layer MAC address equal to the Virtual Router MAC address.",
        place: Place::NotApplicable {
            why: "Tandem routes nothing: what comes to the virtual addresses ends there or is balanced",
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.3",
        nth: 6,
        level: Must,
        text: "It MUST accept packets addressed to the IPvX address(es) associated with the Virtual Router if it is the IPvX address owner or if Accept_Mode is True.",
        place: Place::Core {
            positive: case!(the_addresses_are_on_the_interface),
            negative: case!(a_router_without_its_addresses_resigns),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.3",
        nth: 7,
        level: MustNot,
        text: "Otherwise, it MUST NOT accept these packets.",
        place: Place::NotApplicable {
            why: "Accept_Mode is always true: serving the addresses is what a load balancer is for",
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.3",
        nth: 8,
        level: Step,
        text: "If a Shutdown event is received, then: Cancel the Adver_Timer; Send an ADVERTISEMENT with Priority = 0",
        place: Place::Core {
            positive: case!(shutdown_sends_priority_0),
            negative: case!(nothing_follows_priority_0),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.3",
        nth: 9,
        level: Step,
        text: "Transition to the {Initialize} state",
        place: Place::Deviates {
            why: "at once when told so; else only when the successor is heard, or after a bounded wait, so that no packet finds the address with nobody. \
                  A successor that took over on the peer link makes priority 0 needless",
            shown: case!(the_addresses_stay_until_a_successor_is_heard),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.3",
        nth: 10,
        level: Step,
        text: "If the Adver_Timer fires, then: Send an ADVERTISEMENT; Reset the Adver_Timer to Advertisement_Interval",
        place: Place::Core {
            positive: case!(it_advertises_each_interval),
            negative: case!(lateness_does_not_add_up),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.3",
        nth: 11,
        level: Step,
        text: "If the Priority in the ADVERTISEMENT is 0, then: Send an ADVERTISEMENT; Reset the Adver_Timer to Advertisement_Interval",
        place: Place::Core {
            positive: case!(priority_0_is_answered_and_the_timer_reset),
            negative: case!(priority_0_does_not_end_the_role),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.3",
        nth: 12,
        level: Step,
        text: "If the Priority in the ADVERTISEMENT is greater than the local Priority […] Transition to the {Backup} state",
        place: Place::Core {
            positive: case!(a_higher_priority_ends_the_role),
            negative: case!(a_lower_priority_does_not),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.3",
        nth: 13,
        level: Step,
        text: "or the Priority in the ADVERTISEMENT is equal to the local Priority and the primary IPvX address of the sender is greater than the local primary IPvX address (based on an unsigned integer comparison of the IPvX addresses in network byte order)",
        place: Place::Core {
            positive: case!(of_equal_priorities_the_greater_address_wins),
            negative: case!(of_equal_priorities_the_lesser_address_loses),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.3",
        nth: 14,
        level: Step,
        text: "Set the Active_Adver_Interval to the Max Advertise Interval contained in the ADVERTISEMENT; Recompute the Skew_Time; Recompute the Active_Down_Interval; Set the Active_Down_Timer to Active_Down_Interval",
        place: Place::Core {
            positive: case!(the_winners_interval_is_learned),
            negative: case!(the_adver_timer_is_cancelled),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.3",
        nth: 15,
        level: Step,
        text: "else // new Active Router logic: Discard the ADVERTISEMENT; Send an ADVERTISEMENT immediately to assert the {Active} state to the sending VRRP Router and to update any learning bridges with the correct Active VRRP Router path.",
        place: Place::Core {
            positive: case!(a_lower_priority_is_answered_at_once),
            negative: case!(a_flood_of_lower_priorities_is_not_answered_in_kind),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.4.3",
        nth: 16,
        level: Step,
        text: "in the {Active} state, the Preempt_Mode Flag is not considered",
        place: Place::Core {
            positive: case!(it_yields_whatever_preempt_mode_is),
            negative: case!(a_lower_priority_does_not),
        },
    },
];

#[test]
fn the_addresses_are_on_the_interface() {
    for family in [Family::V4, Family::V6] {
        let mut lab = Lab::backup(settings_of(vec![router(family)]));
        let actions = untimed(lab.run_for(ms(400)));
        let addresses = lab.first().addresses;
        assert!(actions.contains(&Action::AddAddresses { slot: SLOT, addresses }));
    }
}

#[test]
fn an_address_that_goes_is_put_back() {
    let mut lab = Lab::active(settings_of(vec![router(Family::V6)]));
    let actions = lab.input(Input::AddressRemoved { interface: INTERFACE, ip: ip(VIP_V6) });
    assert!(actions.iter().any(|action| matches!(action, Action::AddAddresses { .. })));
}

#[test]
fn a_router_without_its_addresses_resigns() {
    let mut lab = Lab::active(settings());
    let actions = lab.input(Input::AcquireFailed { slot: SLOT, what: "no".to_owned() });
    assert_eq!((lab.role(), priorities(&actions)), (Role::Fault, vec![0]));
}

#[test]
fn shutdown_sends_priority_0() {
    for now in [Input::Shutdown, Input::ShutdownNow] {
        let mut lab = Lab::active(settings());
        assert_eq!(priorities(&lab.input(now)), [0]);
    }
}

#[test]
fn nothing_follows_priority_0() {
    let mut lab = Lab::active(settings());
    lab.input(Input::Shutdown);
    assert!(adverts(&lab.run_for(Duration::from_secs(10))).is_empty());
    assert_eq!(lab.role(), Role::Init);
}

#[test]
fn the_addresses_stay_until_a_successor_is_heard() {
    let mut lab = Lab::active(settings());
    lab.input(Input::Shutdown);
    assert_eq!((lab.role(), lab.holds_addresses()), (Role::Active, true));
    lab.hear(100);
    assert_eq!((lab.role(), lab.holds_addresses()), (Role::Init, false));
}

#[test]
fn it_advertises_each_interval() {
    for interval in [ms(10), ms(100), ms(1_000)] {
        let mut lab = Lab::active(settings_with(|router| router.interval = interval));
        let start = lab.at();
        let sent = adverts(&lab.run_for(interval * 20));
        let wanted: Vec<_> = (1..=20).map(|n| (start + interval * n, 200)).collect();
        assert_eq!(sent, wanted);
    }
}

#[test]
fn lateness_does_not_add_up() {
    let mut lab = Lab::active(settings());
    let start = lab.at();
    let mut sent = 0;
    for _ in 0..20 {
        lab.sleep(ms(103));
        sent += priorities(&lab.input(Input::Timeout)).len();
    }
    assert_eq!(sent, 20);
    let next = adverts(&lab.run_for(ms(100)))[0].0;
    assert_eq!(next - start, INTERVAL * 21, "on the beat of the first");
}

#[test]
fn priority_0_is_answered_and_the_timer_reset() {
    let mut lab = Lab::active(settings());
    lab.run_for(ms(150));
    assert_eq!(priorities(&lab.hear(0)), [200]);
    let start = lab.at();
    assert_eq!(adverts(&lab.run_for(ms(120))), [(start + INTERVAL, 200)]);
}

#[test]
fn priority_0_does_not_end_the_role() {
    let mut lab = Lab::active(settings());
    lab.hear_for(0, Duration::from_secs(2));
    assert_eq!(lab.role(), Role::Active);
}

#[test]
fn a_higher_priority_ends_the_role() {
    let mut lab = Lab::active(settings());
    lab.hear(201);
    assert_eq!(lab.role(), Role::Backup);
}

#[test]
fn a_lower_priority_does_not() {
    let mut lab = Lab::active(settings());
    lab.hear_for(199, Duration::from_secs(2));
    assert_eq!(lab.role(), Role::Active);
}

fn hear_equal(settings: Settings, source: &str) -> Role {
    let mut lab = Lab::active(settings);
    let (router, meta) = (lab.first(), meta_from(source));
    let bytes = advert_of(&router, 200).emit(meta.source, meta.destination, router.checksum);
    lab.hear_bytes(&bytes, meta);
    lab.role()
}

#[test]
fn of_equal_priorities_the_greater_address_wins() {
    // 200.0.0.0 is less than 192.0.2.1 as a signed number, and in host byte order so is 193.0.0.1.
    for source in ["192.0.2.2", "192.0.3.0", "193.0.0.1", "200.0.0.0"] {
        assert_eq!(hear_equal(settings(), source), Role::Backup, "{source}");
    }
    assert_eq!(hear_equal(settings_of(vec![router(Family::V6)]), "fe80::2"), Role::Backup);
    assert_eq!(hear_equal(settings_of(vec![router(Family::V6)]), "fe80::1:0:0:0"), Role::Backup);
}

#[test]
fn of_equal_priorities_the_lesser_address_loses() {
    for source in ["192.0.2.0", "192.0.1.255", "127.255.255.255", "10.0.2.255"] {
        assert_eq!(hear_equal(settings(), source), Role::Active, "{source}");
    }
    assert_eq!(hear_equal(settings_of(vec![router(Family::V6)]), "fe80::"), Role::Active);
}

#[test]
fn the_winners_interval_is_learned() {
    let mut lab = Lab::active(settings());
    lab.hear_advert(&Advert { interval: ms(1_000), ..advert_of(&lab.first(), 255) });
    assert_eq!(lab.run_until_role(Role::Active), ms(3_000) + ms(1_000) * 56 / 256);
}

#[test]
fn the_adver_timer_is_cancelled() {
    let mut lab = Lab::active(settings());
    lab.hear(255);
    assert!(adverts(&lab.run_for(ms(300))).is_empty());
}

#[test]
fn a_lower_priority_is_answered_at_once() {
    let mut lab = Lab::active(settings());
    lab.run_for(ms(150));
    let start = lab.at();
    assert_eq!(priorities(&lab.hear(199)), [200]);
    // The timer goes on as it was.
    assert_eq!(adverts(&lab.run_for(ms(100))), [(start + ms(50), 200)]);
}

#[test]
fn a_flood_of_lower_priorities_is_not_answered_in_kind() {
    let mut lab = Lab::active(settings());
    let answers: usize = (0..1_000).map(|_| priorities(&lab.hear(1)).len()).sum();
    assert_eq!(answers, 8, "until the next one that is due anyway");
}

#[test]
fn it_yields_whatever_preempt_mode_is() {
    let mut lab = Lab::active(settings_with(|router| router.preempt = false));
    lab.hear(201);
    assert_eq!(lab.role(), Role::Backup);
}
