//! The planned switchover on the side that gives the role.

use common::ipc::Role;
use common::time::Duration;
use vrrpd_core::event::{Event, HandoverFailure, Reason};
use vrrpd_core::handover::{OFFER_BOUND, OFFER_INTERVAL, resign_bound};
use vrrpd_core::node::{Action, CATCH_UP_MAX, Input, SwitchoverError};
use vrrpd_core::peer::Body;
use vrrpd_core::track::LbdState;

use crate::harness::*;

/// An active router, whose peer is a healthy backup.
pub(crate) fn active() -> (Lab, Peer) {
    let mut lab = Lab::active(linked(settings()));
    let mut peer = Peer::new();
    peer.beat(&mut lab);
    (lab, peer)
}

pub(crate) fn offered_id(peer: &mut Peer, actions: &[Action]) -> u64 {
    match peer.hear_words(actions)[..] {
        [Body::Offer { id, .. }] => id,
        ref other => panic!("one offer, not {other:?}"),
    }
}

fn ask(lab: &mut Lab) -> Vec<Action> {
    lab.input(Input::Switchover { instance: INSTANCE, token: 77 })
}

fn result(actions: &[Action]) -> Option<Result<Duration, SwitchoverError>> {
    let done = |action: &Action| match action {
        Action::SwitchoverDone { token: 77, result } => Some(result.clone()),
        _ => None,
    };
    actions.iter().find_map(done)
}

#[test]
fn the_addresses_stay_until_the_peer_has_them() {
    let (mut lab, mut peer) = active();
    let id = offered_id(&mut peer, &ask(&mut lab));
    assert!(lab.holds_addresses());
    lab.sleep(ms(3));
    let actions = peer.say(&mut lab, Body::Taken { router: peer.router(), id });
    assert_eq!(lab.role(), Role::Backup);
    assert_eq!(result(&actions), Some(Ok(ms(3))));
    assert!(priorities(&actions).is_empty(), "nobody is told of an end that was not one");
}

#[test]
fn it_advertises_while_it_offers() {
    let (mut lab, mut peer) = active();
    ask(&mut lab);
    let actions = lab.run_for(ms(250));
    assert_eq!(adverts(&actions).len(), 2);
    let offers = peer.hear_words(&untimed(actions)).len();
    assert_eq!(offers as u128, ms(250).as_millis() / OFFER_INTERVAL.as_millis());
}

#[test]
fn an_answer_to_another_offer_is_none() {
    let (mut lab, mut peer) = active();
    let id = offered_id(&mut peer, &ask(&mut lab));
    peer.say(&mut lab, Body::Taken { router: peer.router(), id: id + 1 });
    peer.say(&mut lab, Body::Refused { router: peer.router(), id: id + 1 });
    assert_eq!(lab.role(), Role::Active);
    assert!(result(&untimed(lab.run_for(ms(50)))).is_none());
}

#[test]
fn the_successors_advertisement_is_an_answer() {
    let (mut lab, _) = active();
    ask(&mut lab);
    let actions = lab.hear(100);
    assert_eq!(lab.role(), Role::Backup);
    assert!(matches!(result(&actions), Some(Ok(_))));
}

#[test]
fn after_a_request_it_stays_away_until_the_peer_fails() {
    let (mut lab, mut peer) = active();
    let id = offered_id(&mut peer, &ask(&mut lab));
    peer.say(&mut lab, Body::Taken { router: peer.router(), id });
    lab.hear_for(100, Duration::from_secs(30));
    assert_eq!(lab.role(), Role::Backup);
    // It does not hold on to that when the peer is gone, nor beyond it.
    lab.run_until_role(Role::Active);
    lab.hear(100);
    assert_eq!(lab.role(), Role::Active);
}

#[test]
fn a_refused_request_changes_nothing() {
    let (mut lab, mut peer) = active();
    let id = offered_id(&mut peer, &ask(&mut lab));
    let actions = peer.say(&mut lab, Body::Refused { router: peer.router(), id });
    assert_eq!(lab.role(), Role::Active);
    assert!(priorities(&actions).is_empty());
    assert_eq!(result(&actions), Some(Err(SwitchoverError::Failed(HandoverFailure::Refused))));
    let failed = |event: &Event| matches!(event, Event::HandoverFailed { .. });
    assert!(events(&actions).iter().any(failed));
}

#[test]
fn an_unanswered_request_falls_back_to_priority_0() {
    let (mut lab, mut peer) = active();
    ask(&mut lab);
    let start = lab.at();
    let mut actions = lab.run_for(ms(150));
    peer.beat(&mut lab);
    actions.extend(lab.run_for(ms(170)));
    let resigned = adverts(&actions).into_iter().find(|&(_, priority)| priority == 0).unwrap().0;
    assert!(resigned - start >= OFFER_BOUND && resigned - start < OFFER_BOUND + OFFER_INTERVAL);
    assert!(lab.holds_addresses(), "until a successor is heard");
    let actions = lab.hear(100);
    assert_eq!(lab.role(), Role::Backup);
    assert!(matches!(result(&actions), Some(Ok(_))));
    lab.hear_for(100, Duration::from_secs(2));
    assert_eq!(lab.role(), Role::Backup, "it was asked to go");
}

#[test]
fn a_resigned_router_without_successor_goes_on() {
    let mut lab = Lab::active(settings());
    let actions = ask(&mut lab);
    assert_eq!(priorities(&actions), [0]);
    let start = lab.at();
    let actions = lab.run_for(resign_bound(INTERVAL) + ms(1));
    assert_eq!(lab.role(), Role::Active);
    let back = adverts(&actions)[0];
    assert_eq!((back.0 - start, back.1), (resign_bound(INTERVAL), 200));
    let failure = SwitchoverError::Failed(HandoverFailure::NoPeer);
    assert_eq!(result(&untimed(actions)), Some(Err(failure)));
    assert_eq!(adverts(&lab.run_for(ms(1_000))).len(), 10);
}

#[test]
fn what_cannot_be_handed_over_is_said() {
    let (mut lab, _) = active();
    let ask_for =
        |lab: &mut Lab, instance: &str| result(&lab.input(Input::Switchover { instance, token: 77 }));
    assert_eq!(ask_for(&mut lab, "nothing"), Some(Err(SwitchoverError::UnknownInstance)));
    assert_eq!(ask_for(&mut lab, INSTANCE), None);
    assert_eq!(ask_for(&mut lab, INSTANCE), Some(Err(SwitchoverError::Busy)));
    lab.hear(100);
    assert_eq!(ask_for(&mut lab, INSTANCE), Some(Err(SwitchoverError::NotActive(Role::Backup))));
}

#[test]
fn a_stopping_node_hands_nothing_over_on_request() {
    let (mut lab, _) = active();
    lab.input(Input::Shutdown);
    assert_eq!(result(&ask(&mut lab)), Some(Err(SwitchoverError::Stopping)));
}

#[test]
fn requests_have_a_bound() {
    let mut settings = settings();
    for n in 0..17 {
        let mut more = settings.instances[0].clone();
        more.name = format!("i{n}");
        more.routers[0].instance.clone_from(&more.name);
        more.routers[0].vrid = 100 + n;
        settings.instances.push(more);
    }
    let mut lab = Lab::active(linked(settings));
    lab.run_for(ms(10));
    Peer::new().beat(&mut lab);
    let answer = |lab: &mut Lab, n: u64| {
        result(&lab.input(Input::Switchover { instance: &format!("i{n}"), token: 77 }))
    };
    for n in 0..16 {
        assert_eq!(answer(&mut lab, n), None, "{n}");
    }
    assert_eq!(answer(&mut lab, 16), Some(Err(SwitchoverError::Busy)));
}

#[test]
fn both_families_are_one_request() {
    let mut both = settings();
    both.instances[0].routers.push(router(vrrpd_core::packet::Family::V6));
    let mut lab = Lab::active(linked(both));
    lab.run_for(ms(10));
    let mut peer = Peer::new();
    peer.beat(&mut lab);
    let actions = ask(&mut lab);
    let offers = peer.hear_words(&actions);
    let [Body::Offer { router: first, id: one }, Body::Offer { router: second, id: two }] = offers[..] else {
        panic!("two offers, not {offers:?}")
    };
    assert!(result(&peer.say(&mut lab, Body::Taken { router: first, id: one })).is_none());
    assert_eq!(lab.node.instance_role(INSTANCE), Some(Role::Backup), "neither here nor there");
    let refused = peer.say(&mut lab, Body::Refused { router: second, id: two });
    assert_eq!(result(&refused), Some(Err(SwitchoverError::Failed(HandoverFailure::Refused))));
}

#[test]
fn a_stall_ends_a_handover() {
    let (mut lab, _) = active();
    ask(&mut lab);
    lab.sleep(ms(251));
    let actions = lab.input(Input::Timeout);
    assert_eq!(lab.role(), Role::Backup);
    assert!(matches!(result(&actions), Some(Err(SwitchoverError::Failed(_)))));
    let stalled = |event: &Event| matches!(event, Event::Role { reason: Reason::Stalled, .. });
    assert!(events(&actions).iter().any(stalled));
}

#[test]
fn a_less_healthy_peer_is_not_asked() {
    let (mut lab, mut peer) = (Lab::active(linked(settings())), Peer::new());
    peer.beat_as(&mut lab, Role::Backup, 1);
    let actions = lab.input(Input::Switchover { instance: INSTANCE, token: 3 });
    assert!(peer.hear_words(&actions).is_empty());
    let refused = Err(SwitchoverError::Failed(HandoverFailure::Refused));
    assert!(actions.contains(&Action::SwitchoverDone { token: 3, result: refused }));
    assert_eq!(lab.role(), Role::Active);
}

#[test]
fn nothing_is_announced_while_the_role_is_on_offer() {
    let quick = Duration::from_millis(100);
    let mut alone = Lab::active(linked(settings()));
    assert!(
        !frames(&untimed(alone.run_for(quick))).is_empty(),
        "the second announcement follows the first at once"
    );
    let (mut lab, mut peer) = (Lab::active(linked(settings())), Peer::new());
    peer.beat_as(&mut lab, Role::Backup, 0);
    lab.input(Input::Switchover { instance: INSTANCE, token: 3 });
    assert!(frames(&untimed(lab.run_for(quick))).is_empty());
}

#[test]
fn a_request_waits_for_a_peer_that_is_behind() {
    let (mut lab, mut peer) = active();
    lab.input(Input::Lbd(crate::health::serving()));
    peer.beat_behind(&mut lab);
    assert!(lab.node.status().peer_link.behind);
    let actions = ask(&mut lab);
    assert_eq!(result(&actions), Some(Err(SwitchoverError::Failed(HandoverFailure::Behind))));
    assert_eq!(peer.hear_words(&actions), []);
    // It has caught up: it beats, and does not say that any more.
    for _ in 0..3 {
        peer.hear(&untimed(lab.run_for(ms(100))));
        peer.beat(&mut lab);
    }
    assert!(!lab.node.status().peer_link.behind);
    offered_id(&mut peer, &ask(&mut lab));
}

#[test]
fn a_request_does_not_wait_for_a_peer_that_nobody_teaches() {
    let (mut lab, mut peer) = active();
    lab.input(Input::Lbd(LbdState::Absent));
    peer.beat_behind(&mut lab);
    offered_id(&mut peer, &ask(&mut lab));
}

#[test]
fn an_unhealthy_node_that_teaches_nobody_leaves_at_once_to_one_that_is_behind() {
    let (mut lab, mut peer) = active();
    peer.beat_behind(&mut lab);
    offered_id(&mut peer, &lab.input(Input::Maintenance(true)));
}

/// An active node in maintenance, whose `lbd` has much to tell to the peer.
fn unwell() -> (Lab, Peer) {
    let (mut lab, mut peer) = active();
    lab.input(Input::Lbd(crate::health::serving()));
    peer.beat_behind(&mut lab);
    assert_eq!(peer.hear_words(&lab.input(Input::Maintenance(true))), []);
    (lab, peer)
}

/// Serves timers, and has the peer do `beat` every 50 ms, until the role is on offer: how long that takes.
fn until_offered(lab: &mut Lab, peer: &mut Peer, beat: fn(&mut Peer, &mut Lab) -> Vec<Action>) -> Duration {
    let begin = lab.at();
    loop {
        let run = lab.run_for(ms(50));
        let offered =
            run.iter().find(|(_, action)| !peer.hear_words(std::slice::from_ref(action)).is_empty());
        if let Some((at, _)) = offered {
            return at.since(begin);
        }
        assert!(lab.at().since(begin) < Duration::from_secs(60), "it keeps the role for ever");
        let actions = beat(peer, lab);
        if !peer.hear_words(&actions).is_empty() {
            return lab.at().since(begin);
        }
    }
}

#[test]
fn an_unhealthy_node_has_one_that_is_behind_learn_first() {
    let (mut lab, mut peer) = unwell();
    for _ in 0..10 {
        let actions = lab.run_for(ms(100));
        assert!(!adverts(&actions).is_empty(), "it serves meanwhile");
        assert_eq!(peer.hear_words(&untimed(actions)), []);
        let actions = peer.beat_behind(&mut lab);
        assert_eq!(peer.hear_words(&actions), []);
    }
    // It has caught up: it beats, and does not say that any more.
    let waited = until_offered(&mut lab, &mut peer, Peer::beat);
    assert!(waited <= ms(300), "{waited:?}");
}

#[test]
fn an_unhealthy_node_does_not_wait_for_ever_for_one_that_is_behind() {
    let (mut lab, mut peer) = unwell();
    assert_eq!(until_offered(&mut lab, &mut peer, Peer::beat_behind), CATCH_UP_MAX);
    // The peer does not take it, and is asked again after 5 s as ever: it had its time.
    for _ in 0..10 {
        lab.run_for(ms(100));
        peer.beat_behind(&mut lab);
    }
    let again = until_offered(&mut lab, &mut peer, Peer::beat_behind);
    assert!((ms(4_000)..=ms(4_500)).contains(&again), "{again:?}");
}

#[test]
fn a_node_that_was_well_meanwhile_waits_anew() {
    let (mut lab, mut peer) = unwell();
    for _ in 0..30 {
        lab.run_for(ms(100));
        peer.beat_behind(&mut lab);
    }
    lab.input(Input::Maintenance(false));
    assert_eq!(peer.hear_words(&lab.input(Input::Maintenance(true))), []);
    assert_eq!(until_offered(&mut lab, &mut peer, Peer::beat_behind), CATCH_UP_MAX);
}

#[test]
fn a_node_that_is_cut_off_leaves_at_once_to_one_that_is_behind() {
    let mut settings = linked(settings());
    settings.instances[0].track.interfaces = vec!["eth1".to_owned()];
    let (mut lab, mut peer) = (Lab::active(settings), Peer::new());
    lab.input(Input::Lbd(crate::health::serving()));
    let actions = peer.beat_behind(&mut lab);
    offered_id(&mut peer, &actions);
}

#[test]
fn whether_a_peer_is_behind_is_known_only_after_some_of_its_heartbeats() {
    let known_from_the_first = |beat: fn(&mut Peer, &mut Lab) -> Vec<Action>| {
        let (mut lab, mut peer) = (Lab::active(linked(settings())), Peer::new());
        lab.input(Input::Lbd(crate::health::serving()));
        lab.input(Input::Maintenance(true));
        let actions = peer.beat(&mut lab);
        assert_eq!(peer.hear_words(&actions), []);
        until_offered(&mut lab, &mut peer, beat)
    };
    let knows_all = known_from_the_first(Peer::beat);
    assert!((ms(300)..=ms(350)).contains(&knows_all), "{knows_all:?}");
    assert_eq!(known_from_the_first(Peer::beat_behind), CATCH_UP_MAX);
}

#[test]
fn a_node_that_is_behind_says_so_with_each_heartbeat() {
    let (mut lab, mut peer) = active();
    let behind = |bodies: &[Body]| bodies.iter().filter(|body| **body == Body::Behind).count();
    assert_eq!(behind(&peer.hear(&untimed(lab.run_for(ms(300))))), 0);
    lab.input(Input::Behind(true));
    assert_eq!(behind(&peer.hear(&untimed(lab.run_for(ms(1))))), 1, "at once");
    assert_eq!(behind(&peer.hear(&untimed(lab.run_for(ms(300))))), 3);
    lab.input(Input::Behind(false));
    assert_eq!(behind(&peer.hear(&untimed(lab.run_for(ms(300))))), 0);
}
