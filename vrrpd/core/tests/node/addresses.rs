//! Addresses, interfaces, and what befalls them: faults, removals, stalls, the warden.

use common::ipc::Role;
use common::time::Duration;
use vrrpd_core::event::{Event, Reason};
use vrrpd_core::neighbor;
use vrrpd_core::node::{Action, Input, InterfaceState};
use vrrpd_core::peer::Body;

use crate::harness::*;
use crate::switchover::active;

fn added(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::AddAddresses { .. })).count()
}

fn removed_vip(lab: &mut Lab) -> Vec<Action> {
    lab.input(Input::AddressRemoved { interface: INTERFACE, ip: ip(VIP) })
}

fn reasons(actions: &[Action]) -> Vec<Reason> {
    let reason = |event: Event| match event {
        Event::Role { reason, .. } => Some(reason),
        _ => None,
    };
    events(actions).into_iter().filter_map(reason).collect()
}

#[test]
fn nothing_starts_before_the_interface_is_known() {
    let mut lab = Lab::new(settings());
    lab.run_for(Duration::from_secs(5));
    assert_eq!(lab.role(), Role::Init);
    assert_eq!(reasons(&lab.interface(Some(interface_up()))), [Reason::Startup]);
    assert_eq!(lab.role(), Role::Backup);
}

#[test]
fn an_interface_that_cannot_be_used_is_a_fault() {
    let unusable: [Option<InterfaceState>; 3] = [
        None,
        Some(InterfaceState { up: false, ..interface_up() }),
        Some(InterfaceState { ipv4: None, ..interface_up() }),
    ];
    for state in unusable {
        let mut lab = Lab::new(settings());
        assert_eq!(reasons(&lab.interface(state.clone())), [Reason::Interface], "{state:?}");
        assert_eq!(lab.role(), Role::Fault);
        let actions = lab.interface(Some(interface_up()));
        assert_eq!((reasons(&actions), lab.role()), (vec![Reason::InterfaceUp], Role::Backup));
    }
}

#[test]
fn an_ipv6_router_needs_a_link_local_address() {
    let mut lab = Lab::new(settings_of(vec![router(vrrpd_core::packet::Family::V6)]));
    lab.interface(Some(InterfaceState { link_local: None, ..interface_up() }));
    assert_eq!(lab.role(), Role::Fault);
    lab.interface(Some(InterfaceState { ipv4: None, ..interface_up() }));
    assert_eq!(lab.role(), Role::Backup);
}

#[test]
fn a_link_that_goes_down_is_released_over_the_peer_link() {
    let (mut lab, mut peer) = active();
    let actions = lab.interface(Some(InterfaceState { up: false, ..interface_up() }));
    assert_eq!(lab.role(), Role::Fault);
    assert!(priorities(&actions).is_empty(), "nothing can be sent");
    let release = Body::Release { routers: vec![peer.router()] };
    assert_eq!(peer.hear_words(&actions), [release.clone(), release], "twice, in case one is lost");
}

#[test]
fn a_backups_fault_releases_nothing() {
    let mut lab = Lab::backup(linked(settings()));
    let mut peer = Peer::new();
    peer.beat(&mut lab);
    assert!(peer.hear_words(&lab.interface(None)).is_empty());
}

#[test]
fn a_new_address_of_the_interface_is_spoken_from() {
    let mut lab = Lab::active(settings());
    lab.interface(Some(InterfaceState { ipv4: Some([192, 0, 2, 7].into()), ..interface_up() }));
    assert_eq!(lab.role(), Role::Active);
    let actions = lab.run_for(INTERVAL);
    let from =
        |action: &Action| matches!(action, Action::SendAdvert { source, .. } if *source == ip("192.0.2.7"));
    assert!(untimed(actions).iter().any(from));
}

#[test]
fn addresses_that_cannot_be_added_are_a_fault_for_a_while() {
    let (mut lab, mut peer) = active();
    let failed = Input::AcquireFailed { slot: SLOT, what: "permission denied".to_owned() };
    let actions = lab.input(failed);
    assert_eq!(lab.role(), Role::Fault);
    assert_eq!(priorities(&actions), [0], "others are to take over");
    assert_eq!(peer.hear_words(&actions).len(), 2);
    let told = |event: &Event| matches!(event, Event::Failure { what, .. } if what == "permission denied");
    assert!(events(&actions).iter().any(told));
    lab.interface(Some(interface_up()));
    lab.run_for(ms(4_990));
    assert_eq!(lab.role(), Role::Fault, "the interface being there is no reason to try again");
    lab.run_for(ms(20));
    assert_eq!(lab.role(), Role::Backup);
    lab.run_until_role(Role::Active);
}

#[test]
fn a_late_failure_is_only_reported() {
    let mut lab = Lab::active(settings());
    lab.hear(255);
    assert_eq!(lab.role(), Role::Backup);
    let actions = lab.input(Input::AcquireFailed { slot: SLOT, what: "no".to_owned() });
    assert_eq!(lab.role(), Role::Backup);
    assert!(priorities(&actions).is_empty(), "priority 0 is for active routers");
    assert!(matches!(events(&actions)[..], [Event::Failure { .. }]));
}

#[test]
fn another_failure_is_only_reported() {
    let mut lab = Lab::active(settings());
    let actions = lab.input(Input::Failed { slot: SLOT, what: "no buffer".to_owned() });
    assert_eq!(lab.role(), Role::Active);
    assert!(matches!(events(&actions)[..], [Event::Failure { .. }]));
}

#[test]
fn a_removed_address_is_put_back_and_announced() {
    let mut lab = Lab::active(settings());
    let actions = removed_vip(&mut lab);
    assert_eq!((added(&actions), frames(&actions).len()), (1, 1));
    assert!(matches!(events(&actions)[..], [Event::AddressRestored { .. }]));
}

#[test]
fn who_keeps_removing_is_answered_ten_times_a_second() {
    let mut lab = Lab::active(settings());
    let mut restored = 0;
    for _ in 0..100 {
        restored += added(&removed_vip(&mut lab));
        restored += added(&untimed(lab.run_for(ms(10))));
    }
    assert!((9..=11).contains(&restored), "{restored}");
    // The last removal is not forgotten.
    removed_vip(&mut lab);
    assert_eq!(added(&untimed(lab.run_for(ms(100)))), 1);
}

#[test]
fn a_backup_misses_no_address() {
    let mut lab = Lab::backup(settings());
    assert!(removed_vip(&mut lab).is_empty());
    let mut lab = Lab::active(settings());
    assert!(lab.input(Input::AddressRemoved { interface: "eth9", ip: ip(VIP) }).is_empty());
    assert!(lab.input(Input::AddressRemoved { interface: INTERFACE, ip: ip(OWN) }).is_empty());
}

#[test]
fn an_address_to_be_put_back_is_not_after_the_role_is_gone() {
    let mut lab = Lab::active(settings());
    removed_vip(&mut lab);
    removed_vip(&mut lab);
    lab.hear(255);
    assert_eq!(added(&untimed(lab.hear_for(255, ms(500)))), 0);
}

#[test]
fn an_address_on_the_wrong_node_is_reported_and_removed_if_it_is_ours() {
    let mut lab = Lab::backup(settings());
    for (ours, removals) in [(false, 0), (true, 1)] {
        let actions = lab.input(Input::AddressAdded { interface: INTERFACE, ip: ip(VIP), ours });
        assert!(matches!(events(&actions)[..], [Event::AddressUnexpected { .. }]));
        let removed = |action: &&Action| matches!(action, Action::RemoveAddresses { .. });
        assert_eq!(actions.iter().filter(removed).count(), removals);
    }
    assert!(lab.input(Input::AddressAdded { interface: INTERFACE, ip: ip(OWN), ours: false }).is_empty());
}

#[test]
fn the_own_address_is_expected_while_active() {
    let mut lab = Lab::active(settings());
    assert!(lab.input(Input::AddressAdded { interface: INTERFACE, ip: ip(VIP), ours: true }).is_empty());
}

#[test]
fn a_node_that_slept_steps_down_before_it_speaks() {
    let mut lab = Lab::active(settings());
    lab.run_for(INTERVAL);
    let limit = lab.node.stall_limit(SLOT).unwrap();
    assert_eq!(limit, ms(250));
    let since = lab.run_for(INTERVAL);
    assert_eq!(adverts(&since).len(), 1);
    lab.sleep(limit + Duration::from_nanos(1) - (lab.at() - adverts(&since)[0].0));
    let actions = lab.input(Input::Timeout);
    assert_eq!((lab.role(), priorities(&actions)), (Role::Backup, vec![]));
    assert_eq!(reasons(&actions), [Reason::Stalled]);
    assert!(matches!(events(&actions)[0], Event::Stalled { silence_ms: 250, .. }));
    // Nobody else serves, so it comes back, after it has listened.
    let listened = lab.run_until_role(Role::Active);
    assert!(listened > INTERVAL * 3, "{listened:?}");
}

#[test]
fn whatever_wakes_a_sleeper_it_steps_down_first() {
    let mut lab = Lab::active(settings());
    lab.sleep(ms(400));
    let actions = lab.hear(1);
    assert_eq!((lab.role(), priorities(&actions)), (Role::Backup, vec![]));
}

#[test]
fn some_lateness_is_no_stall() {
    let mut lab = Lab::active(settings());
    lab.run_for(INTERVAL * 3);
    lab.sleep(ms(240));
    let actions = lab.input(Input::Timeout);
    assert_eq!((lab.role(), priorities(&actions)), (Role::Active, vec![200]));
    let status = lab.node.status();
    let router = &status.instances[0].routers[0];
    assert!(router.lateness_us > 100_000 && router.lateness_max_us >= router.lateness_us);
}

#[test]
fn what_the_warden_released_is_given_up() {
    let mut lab = Lab::active(settings());
    let actions = lab.input(Input::WardenFired { slot: SLOT });
    assert_eq!((lab.role(), reasons(&actions)), (Role::Backup, vec![Reason::Warden]));
    assert!(priorities(&actions).is_empty(), "the warden said it already");
    assert!(lab.input(Input::WardenFired { slot: SLOT }).is_empty());
}

#[test]
fn unknown_slots_are_ignored() {
    let mut lab = Lab::active(settings());
    assert!(lab.input(Input::WardenFired { slot: 63 }).is_empty());
    assert!(lab.input(Input::AcquireFailed { slot: 63, what: String::new() }).is_empty());
    assert!(lab.input(Input::Failed { slot: 63, what: String::new() }).is_empty());
}

#[test]
fn becoming_active_is_announced_five_times_and_refreshed() {
    let mut lab = Lab::backup(settings());
    let start = lab.at();
    let actions = lab.run_for(Duration::from_secs(125));
    let announced: Vec<u64> = actions
        .iter()
        .filter(|(_, action)| matches!(action, Action::SendFrames { .. }))
        .map(|(at, _)| u64::try_from((*at - start).as_millis()).unwrap())
        .collect();
    let first = announced[0];
    let after: Vec<u64> = announced.iter().map(|at| at - first).collect();
    assert_eq!(after, [0, 50, 1_050, 2_050, 3_050, 63_050, 123_050]);
}

#[test]
fn a_refresh_of_zero_is_none() {
    let mut lab = Lab::active(settings_with(|router| router.announce.refresh = Duration::ZERO));
    lab.run_for(Duration::from_secs(4));
    assert!(frames(&untimed(lab.run_for(Duration::from_secs(600)))).is_empty());
}

#[test]
fn a_new_ethernet_address_is_announced() {
    let mut lab = Lab::active(settings());
    lab.run_for(INTERVAL);
    let actions = lab.interface(Some(InterfaceState { mac: OTHER_MAC, ..interface_up() }));
    assert_eq!(frames(&actions), [neighbor::gratuitous_arp(OTHER_MAC, "192.0.2.100".parse().unwrap())]);
    assert!(frames(&lab.interface(Some(InterfaceState { mac: OTHER_MAC, ..interface_up() }))).is_empty());
}
