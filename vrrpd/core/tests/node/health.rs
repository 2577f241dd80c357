//! Tracking, and what follows from it.

use common::ipc::{LbdHealth, Role};
use common::time::Duration;
use vrrpd_core::event::{Event, HandoverFailure, Reason};
use vrrpd_core::neighbor;
use vrrpd_core::node::{Action, CATCH_UP_MAX, Input, InterfaceState};
use vrrpd_core::peer::Body;
use vrrpd_core::settings::Settings;
use vrrpd_core::track::LbdState;

use crate::harness::*;
use crate::switchover::{active, offered_id};

const GATEWAY: &str = "192.0.2.254";

pub(crate) fn serving() -> LbdState {
    LbdState::Alive(LbdHealth { workers_alive: 2, workers_expected: 2, services_without_targets: vec![] })
}

fn with_lbd() -> Settings {
    let mut settings = settings();
    settings.instances[0].track.lbd = true;
    settings.instances[0].track.targets = true;
    settings
}

fn with_gateway() -> Settings {
    let mut settings = settings();
    settings.instances[0].track.gateway = Some(ip(GATEWAY));
    settings
}

fn effective(lab: &Lab) -> u8 {
    lab.node.status().instances[0].effective_priority
}

fn reasons(lab: &Lab) -> Vec<String> {
    lab.node.status().instances[0].reasons.clone()
}

fn gateway_answers(lab: &mut Lab) -> Vec<Action> {
    let frame = neighbor::arp_request(OTHER_MAC, [192, 0, 2, 254].into(), [192, 0, 2, 1].into());
    lab.input(Input::Frame { interface: INTERFACE, bytes: &frame })
}

#[test]
fn what_ails_lbd_lowers_the_priority_below_both_configured_ones() {
    let mut lab = Lab::active(with_lbd());
    assert_eq!((effective(&lab), reasons(&lab)), (99 - 15, vec!["lbd_down".to_owned()]));
    lab.input(Input::Lbd(serving()));
    assert_eq!((effective(&lab), reasons(&lab)), (200, vec![]));
    let cases = [
        (LbdHealth { workers_alive: 1, workers_expected: 2, services_without_targets: vec![] }, 98),
        (
            LbdHealth {
                workers_alive: 2,
                workers_expected: 2,
                services_without_targets: vec!["shop".to_owned()],
            },
            99,
        ),
        (LbdHealth { workers_alive: 0, workers_expected: 2, services_without_targets: vec![] }, 82),
    ];
    for (health, expected) in cases {
        let actions = lab.input(Input::Lbd(LbdState::Alive(health)));
        assert_eq!(effective(&lab), expected);
        let changed = |event: &Event| matches!(event, Event::Priority { effective_priority, .. } if *effective_priority == expected);
        assert!(events(&actions).iter().any(changed));
        assert_eq!(adverts(&lab.run_for(INTERVAL))[0].1, expected, "the next advertisement says it");
    }
    assert_eq!(lab.node.status().lbd, "down");
}

#[test]
fn lbd_that_is_not_tracked_does_not_matter() {
    let mut lab = Lab::active(settings());
    lab.input(Input::Lbd(LbdState::Absent));
    assert_eq!((effective(&lab), lab.node.status().lbd), (200, "untracked"));
}

#[test]
fn tracked_interfaces_must_be_up() {
    let mut settings = settings();
    settings.instances[0].track.interfaces = vec!["eth1".to_owned()];
    let mut lab = Lab::active(settings);
    assert_eq!(reasons(&lab), ["interface:eth1"]);
    let up = |up| Some(InterfaceState { up, ipv4: None, ..interface_up() });
    lab.input(Input::Interface { name: "eth1", state: up(true) });
    assert_eq!(effective(&lab), 200);
    lab.input(Input::Interface { name: "eth1", state: up(false) });
    assert_eq!(effective(&lab), 96);
    assert_eq!(lab.role(), Role::Active);
}

#[test]
fn the_gateway_is_asked_four_times_a_second() {
    let mut lab = Lab::backup(with_gateway());
    let mut asked = 0;
    for _ in 0..20 {
        lab.hear(255);
        asked += frames(&untimed(lab.run_for(ms(50)))).len();
        gateway_answers(&mut lab);
    }
    assert_eq!(asked, 5, "at once, and each 250 ms");
    assert_eq!(effective(&lab), 200);
}

#[test]
fn three_unanswered_questions_make_it_unreachable_and_one_answer_reachable() {
    let mut lab = Lab::backup(with_gateway());
    lab.hear(255);
    let asked = frames(&lab.input(Input::Timeout));
    assert_eq!(asked, [neighbor::arp_request(MAC, [192, 0, 2, 1].into(), [192, 0, 2, 254].into())]);
    let silent = lab.hear_for(255, ms(749));
    assert!(!events(&untimed(silent)).iter().any(|event| matches!(event, Event::Gateway { .. })));
    let lost = events(&untimed(lab.hear_for(255, ms(2))));
    assert!(lost.contains(&Event::Gateway { instance: INSTANCE.to_owned(), reachable: false }));
    assert_eq!((effective(&lab), reasons(&lab)), (92, vec!["gateway".to_owned()]));
    gateway_answers(&mut lab);
    let back = events(&untimed(lab.hear_for(255, ms(250))));
    assert!(back.contains(&Event::Gateway { instance: INSTANCE.to_owned(), reachable: true }));
    assert_eq!(effective(&lab), 200);
}

#[test]
fn the_gateways_word_counts_only_on_its_interface() {
    let mut lab = Lab::backup(with_gateway());
    let frame = neighbor::arp_request(OTHER_MAC, [192, 0, 2, 254].into(), [192, 0, 2, 1].into());
    for _ in 0..20 {
        lab.hear(255);
        lab.run_for(ms(100));
        lab.input(Input::Frame { interface: "eth9", bytes: &frame });
    }
    assert_eq!(reasons(&lab), ["gateway"]);
}

#[test]
fn a_gateway_that_cannot_be_asked_is_not_blamed() {
    let mut lab = Lab::new(with_gateway());
    lab.interface(Some(InterfaceState { up: false, ..interface_up() }));
    let actions = lab.run_for(Duration::from_secs(10));
    assert!(frames(&untimed(actions)).is_empty());
    assert!(reasons(&lab).is_empty());
}

#[test]
fn an_ipv6_gateway_is_solicited() {
    let mut settings = settings_of(vec![router(vrrpd_core::packet::Family::V6)]);
    settings.instances[0].track.gateway = Some(ip("fe80::ff"));
    let mut lab = Lab::backup(settings);
    let asked = frames(&lab.input(Input::Timeout));
    let wanted =
        neighbor::neighbor_solicitation(MAC, "fe80::1".parse().unwrap(), "fe80::ff".parse().unwrap());
    assert_eq!(asked, [wanted]);
}

#[test]
fn maintenance_hands_over_and_lets_the_role_come_back() {
    let (mut lab, mut peer) = active();
    let actions = lab.input(Input::Maintenance(true));
    assert!(events(&actions).contains(&Event::Maintenance { on: true }));
    let id = offered_id(&mut peer, &actions);
    let actions = peer.say(&mut lab, Body::Taken { router: peer.router(), id });
    assert_eq!(lab.role(), Role::Backup);
    assert!(matches!(events(&actions)[..], [Event::Role { reason: Reason::HandedOver, .. }]));
    lab.hear_for(100, Duration::from_secs(5));
    assert_eq!(lab.role(), Role::Backup);
    assert!(events(&lab.input(Input::Maintenance(true))).is_empty());
    lab.input(Input::Maintenance(false));
    lab.hear_for(100, Duration::from_secs(1));
    assert_eq!(lab.role(), Role::Active);
}

#[test]
fn a_peer_that_does_not_take_over_for_health_is_asked_again_later() {
    let (mut lab, mut peer) = active();
    let id = offered_id(&mut peer, &lab.input(Input::Maintenance(true)));
    let actions = peer.say(&mut lab, Body::Refused { router: peer.router(), id });
    let refused =
        |event: &Event| matches!(event, Event::HandoverFailed { reason: HandoverFailure::Refused, .. });
    assert!(events(&actions).iter().any(refused));
    assert_eq!((lab.role(), priorities(&actions)), (Role::Active, vec![]));
    let mut offers = 0;
    for round in 0..60 {
        let actions = untimed(lab.run_for(ms(100)));
        offers += peer.hear_words(&actions).len();
        let actions = peer.beat(&mut lab);
        offers += peer.hear_words(&actions).len();
        assert!(offers == 0 || round >= 48, "round {round}");
    }
    assert!(offers > 0);
}

#[test]
fn an_unanswered_offer_for_health_ends_without_priority_0() {
    let (mut lab, _) = active();
    lab.input(Input::Maintenance(true));
    let sent = adverts(&lab.run_for(ms(1_000)));
    assert!(sent.iter().all(|&(_, priority)| priority > 0), "{sent:?}");
    assert_eq!(lab.role(), Role::Active);
}

#[test]
fn both_unhealthy_the_less_unhealthy_serves() {
    // Maintenance here (32) and a lost target there (1): the peer is offered the role.
    let (mut lab, mut peer) = active();
    peer.beat_as(&mut lab, Role::Backup, 1);
    offered_id(&mut peer, &lab.input(Input::Maintenance(true)));
    // The other way round it keeps it, and a backup of lesser priority is not let in.
    let mut settings = linked(settings());
    settings.instances[0].track.interfaces = vec!["eth1".to_owned()];
    let mut lab = Lab::active(settings);
    let mut peer = Peer::new();
    let actions = peer.beat_as(&mut lab, Role::Backup, 32);
    assert!(peer.hear_words(&actions).is_empty());
    assert_eq!(effective(&lab), 96);
    lab.hear(68);
    assert_eq!(lab.role(), Role::Active);
}

#[test]
fn an_equally_ill_peer_is_no_better() {
    let (mut lab, mut peer) = active();
    peer.beat_as(&mut lab, Role::Backup, 32);
    assert!(peer.hear_words(&lab.input(Input::Maintenance(true))).is_empty());
    assert_eq!(lab.role(), Role::Active);
}

#[test]
fn an_unhealthy_active_router_is_preempted_without_preemption() {
    let no_preempt = |delay| {
        settings_with(|router| {
            router.preempt = false;
            router.preempt_delay = delay;
        })
    };
    for delay in [Duration::ZERO, Duration::from_secs(100)] {
        let mut lab = Lab::backup(no_preempt(delay));
        lab.hear_for(100, Duration::from_secs(2));
        assert_eq!(lab.role(), Role::Backup, "100 is a healthy priority");
        lab.hear_for(99, Duration::from_secs(2));
        assert_eq!(lab.role(), Role::Active, "99 is not");
    }
}

#[test]
fn a_recovered_node_waits_before_it_preempts() {
    let mut settings = with_lbd();
    settings.instances[0].routers[0].preempt_delay = Duration::from_secs(3);
    let mut lab = Lab::backup(settings);
    lab.hear_for(100, Duration::from_secs(10));
    assert_eq!(lab.role(), Role::Backup);
    lab.input(Input::Lbd(serving()));
    lab.hear_for(100, ms(2_900));
    assert_eq!(lab.role(), Role::Backup);
    lab.hear_for(100, ms(600));
    assert_eq!(lab.role(), Role::Active);
}

#[test]
fn a_node_that_is_behind_preempts_only_an_unhealthy_one() {
    let mut lab = Lab::backup(settings());
    lab.input(Input::Behind(true));
    lab.hear_for(100, Duration::from_secs(100));
    assert_eq!((lab.role(), lab.node.status().behind), (Role::Backup, true));
    lab.input(Input::Behind(false));
    lab.hear_for(100, Duration::from_secs(1));
    assert_eq!((lab.role(), lab.node.status().behind), (Role::Active, false));
    let mut lab = Lab::backup(settings());
    lab.input(Input::Behind(true));
    lab.hear_for(99, Duration::from_secs(2));
    assert_eq!(lab.role(), Role::Active, "the other one is not well, and nothing can be learned from it");
    let mut lab = Lab::backup(settings());
    lab.input(Input::Behind(true));
    lab.run_until_role(Role::Active);
}

/// A backup that is behind and hears the peer on both links: how long until it takes the role from that, which is not well.
fn learns_for(severity: u8, mut meanwhile: impl FnMut(&mut Lab, Duration)) -> Duration {
    let (mut lab, mut peer) = (Lab::backup(linked(settings())), Peer::new());
    lab.input(Input::Behind(true));
    let begin = lab.at();
    while lab.role() == Role::Backup {
        let waited = lab.at().since(begin);
        assert!(waited < Duration::from_secs(60), "it waits for ever");
        meanwhile(&mut lab, waited);
        peer.beat_as(&mut lab, Role::Active, severity);
        lab.hear_for(99, ms(50));
    }
    lab.at().since(begin)
}

#[test]
fn a_node_that_still_learns_preempts_an_unhealthy_one_only_after_a_while() {
    const DOWN: Duration = Duration::from_millis(400);
    for severity in [1, 2, 16, 32] {
        let waited = learns_for(severity, |_, _| ());
        assert!((CATCH_UP_MAX..CATCH_UP_MAX + DOWN).contains(&waited), "{severity}: {waited:?}");
    }
    // Once it has learned everything it need not wait.
    let waited = learns_for(32, |lab, waited| {
        lab.input(Input::Behind(waited < Duration::from_secs(1)));
    });
    assert!((ms(1_000)..ms(1_000) + DOWN).contains(&waited), "{waited:?}");
    // Nor from one that is cut off, by its gateway or an interface.
    for severity in [4, 8, 8 + 32] {
        let waited = learns_for(severity, |_, _| ());
        assert!(waited < DOWN, "{severity}: {waited:?}");
    }
    // Nor if it is not better itself; then its time begins when it is.
    let waited = learns_for(1, |lab, waited| {
        lab.input(Input::Maintenance(waited < Duration::from_secs(10)));
    });
    let least = Duration::from_secs(10) + CATCH_UP_MAX;
    assert!((least..least + DOWN).contains(&waited), "{waited:?}");
}

#[test]
fn a_node_learns_only_from_one_that_it_hears_on_the_peer_link() {
    let (mut lab, mut peer) = (Lab::backup(linked(settings())), Peer::new());
    lab.input(Input::Behind(true));
    for _ in 0..10 {
        peer.beat_as(&mut lab, Role::Active, 32);
        lab.hear_for(99, ms(100));
    }
    assert_eq!(lab.role(), Role::Backup);
    lab.hear_for(99, ms(700));
    assert_eq!(lab.role(), Role::Active);
}

#[test]
fn an_unhealthy_owner_starts_as_backup() {
    let mut settings = with_lbd();
    settings.instances[0].priority = 255;
    settings.instances[0].routers[0].priority = 255;
    let mut lab = Lab::backup(settings);
    lab.input(Input::Lbd(serving()));
    assert_eq!(effective(&lab), 255);
    lab.hear_for(100, Duration::from_secs(1));
    assert_eq!(lab.role(), Role::Active);
}

#[test]
fn a_backup_waits_as_long_as_its_present_priority_says() {
    let waited = |changes: &[bool]| {
        let mut lab = Lab::backup(settings());
        for &on in changes {
            lab.input(Input::Maintenance(on));
        }
        lab.run_until_role(Role::Active)
    };
    assert_eq!(waited(&[true, false]), waited(&[]));
    assert!(waited(&[true]) > waited(&[]), "the unhealthier of two that wait is the later one");
}
