//! Shutdown, with and without a peer that takes over.

use common::ipc::Role;
use vrrpd_core::event::{Event, Reason};
use vrrpd_core::handover::resign_bound;
use vrrpd_core::node::{Action, CATCH_UP_MAX, Input};
use vrrpd_core::peer::Body;

use crate::harness::*;
use crate::health::serving;
use crate::switchover::{active, offered_id};

fn finished(actions: &[Action]) -> bool {
    actions.last() == Some(&Action::Finished)
}

#[test]
fn the_role_is_given_away_first() {
    let (mut lab, mut peer) = active();
    let id = offered_id(&mut peer, &lab.input(Input::Shutdown));
    assert!(lab.holds_addresses());
    let actions = peer.say(&mut lab, Body::Taken { router: peer.router(), id });
    assert!(finished(&actions) && priorities(&actions).is_empty());
    assert_eq!(lab.role(), Role::Init);
    assert_eq!(lab.node.next_deadline(), None);
}

#[test]
fn the_peer_learns_of_the_end_at_once() {
    let (mut lab, mut peer) = active();
    let id = offered_id(&mut peer, &lab.input(Input::Shutdown));
    let actions = peer.say(&mut lab, Body::Taken { router: peer.router(), id });
    let last = peer.hear(&actions).pop();
    let Some(Body::Heartbeat(last)) = last else { panic!("a heartbeat, not {last:?}") };
    assert_eq!(last.routers[0].role, Role::Init);
}

#[test]
fn a_refusal_does_not_hold_it_up() {
    let (mut lab, mut peer) = active();
    let id = offered_id(&mut peer, &lab.input(Input::Shutdown));
    let actions = peer.say(&mut lab, Body::Refused { router: peer.router(), id });
    assert_eq!(priorities(&actions), [0]);
    assert!(lab.holds_addresses());
    assert!(finished(&lab.hear(100)));
}

#[test]
fn without_a_peer_it_resigns_and_waits_for_a_successor() {
    let mut lab = Lab::active(settings());
    let actions = lab.input(Input::Shutdown);
    assert_eq!(priorities(&actions), [0]);
    assert!(!finished(&actions) && lab.holds_addresses());
    assert!(finished(&lab.hear(100)));
}

#[test]
fn without_a_successor_it_stops_in_bounded_time() {
    let mut lab = Lab::active(settings());
    lab.input(Input::Shutdown);
    assert!(!finished(&untimed(lab.run_for(resign_bound(INTERVAL) - ms(1)))));
    assert!(finished(&untimed(lab.run_for(ms(1)))));
}

#[test]
fn a_backup_just_stops() {
    let mut lab = Lab::backup(settings());
    let actions = lab.input(Input::Shutdown);
    assert!(finished(&actions) && priorities(&actions).is_empty());
}

#[test]
fn now_means_now() {
    let (mut lab, _) = active();
    let actions = lab.input(Input::ShutdownNow);
    assert!(finished(&actions));
    assert_eq!(priorities(&actions), [0]);
}

#[test]
fn now_cuts_a_handover_short() {
    let (mut lab, _) = active();
    lab.input(Input::Shutdown);
    let actions = lab.input(Input::ShutdownNow);
    assert!(finished(&actions));
    assert_eq!(priorities(&actions), [0]);
}

#[test]
fn a_second_request_changes_nothing() {
    let (mut lab, mut peer) = active();
    let id = offered_id(&mut peer, &lab.input(Input::Shutdown));
    assert!(peer.hear_words(&lab.input(Input::Shutdown)).is_empty());
    assert!(finished(&peer.say(&mut lab, Body::Taken { router: peer.router(), id })));
}

#[test]
fn a_requested_switchover_makes_way() {
    let (mut lab, mut peer) = active();
    let first = offered_id(&mut peer, &lab.input(Input::Switchover { instance: INSTANCE, token: 1 }));
    let actions = lab.input(Input::Shutdown);
    let second = offered_id(&mut peer, &actions);
    assert_ne!(first, second);
    assert!(actions.iter().any(|action| matches!(action, Action::SwitchoverDone { result: Err(_), .. })));
    assert!(finished(&peer.say(&mut lab, Body::Taken { router: peer.router(), id: second })));
}

#[test]
fn a_router_that_had_resigned_is_heard_while_it_offers_again() {
    let (mut lab, mut peer) = active();
    let id = offered_id(&mut peer, &lab.input(Input::Switchover { instance: INSTANCE, token: 1 }));
    // The peer is silent from here on; the offer ends, the router resigns.
    assert!(adverts(&lab.run_for(ms(310))).last().is_some_and(|advert| advert.1 == 0));
    peer.beat(&mut lab);
    lab.run_for(ms(150));
    let actions = lab.input(Input::Shutdown);
    assert_ne!(offered_id(&mut peer, &actions), id);
    let actions = lab.run_for(ms(250));
    assert_eq!(lab.role(), Role::Active);
    assert_eq!(adverts(&actions).iter().map(|advert| advert.1).collect::<Vec<_>>(), [200, 200]);
}

#[test]
fn a_router_that_loses_its_role_while_stopping_stops() {
    let cut: [fn(&mut Lab) -> Vec<Action>; 3] = [
        |lab| lab.input(Input::WardenFired { slot: SLOT }),
        |lab| lab.input(Input::AcquireFailed { slot: SLOT, what: "no".to_owned() }),
        |lab| {
            lab.sleep(ms(251));
            lab.input(Input::Timeout)
        },
    ];
    for cut in cut {
        let (mut lab, _) = active();
        lab.input(Input::Shutdown);
        assert!(finished(&cut(&mut lab)));
        assert_eq!(lab.role(), Role::Init);
    }
}

#[test]
fn a_fault_does_not_keep_it() {
    let mut lab = Lab::backup(settings());
    lab.interface(None);
    let actions = lab.input(Input::Shutdown);
    assert!(finished(&actions));
    assert!(matches!(events(&actions)[..], [Event::Role { reason: Reason::Shutdown, .. }]));
}

#[test]
fn an_interface_that_goes_while_stopping_does_not_keep_it() {
    let (mut lab, _) = active();
    lab.input(Input::Shutdown);
    lab.interface(None);
    assert!(finished(&untimed(lab.run_for(ms(600)))));
}

#[test]
fn nothing_is_done_after_the_end() {
    let mut lab = Lab::backup(settings());
    lab.input(Input::Shutdown);
    assert!(lab.hear(0).is_empty());
    assert!(lab.interface(None).is_empty());
    assert!(lab.input(Input::Timeout).is_empty());
}

#[test]
fn stopping_at_once_frees_the_addresses_on_both_links() {
    let (mut lab, mut peer) = (Lab::active(linked(settings())), Peer::new());
    peer.beat_as(&mut lab, Role::Backup, 0);
    let actions = lab.input(Input::ShutdownNow);
    assert_eq!(priorities(&actions), [0]);
    let release = Body::Release { routers: vec![peer.router()] };
    assert!(peer.hear_words(&actions).contains(&release));
}

/// An active router with a live `lbd`, whose peer is behind.
fn ahead() -> (Lab, Peer) {
    let (mut lab, mut peer) = active();
    lab.input(Input::Lbd(serving()));
    peer.beat_behind(&mut lab);
    (lab, peer)
}

#[test]
fn a_peer_that_is_behind_is_given_time_to_catch_up() {
    let (mut lab, mut peer) = ahead();
    assert_eq!(peer.hear_words(&lab.input(Input::Shutdown)), []);
    for _ in 0..10 {
        let actions = lab.run_for(ms(100));
        assert!(!adverts(&actions).is_empty(), "it serves meanwhile");
        let actions = untimed(actions);
        assert_eq!(peer.hear_words(&actions), []);
        peer.beat_behind(&mut lab);
    }
    let mut words = Vec::new();
    for _ in 0..3 {
        words.extend(peer.hear_words(&untimed(lab.run_for(ms(100)))));
        let actions = peer.beat(&mut lab);
        words.extend(peer.hear_words(&actions));
    }
    assert!(matches!(words[..], [Body::Offer { .. }, ..]), "{words:?}");
}

#[test]
fn a_peer_that_stays_behind_is_not_waited_for_longer() {
    let (mut lab, mut peer) = ahead();
    let begin = lab.at();
    lab.input(Input::Shutdown);
    let offered = loop {
        peer.beat_behind(&mut lab);
        let actions = untimed(lab.run_for(ms(50)));
        if !peer.hear_words(&actions).is_empty() {
            break lab.at();
        }
    };
    assert!((CATCH_UP_MAX..=CATCH_UP_MAX + ms(50)).contains(&offered.since(begin)), "{offered:?}");
}

#[test]
fn without_its_lbd_nobody_catches_up_and_nobody_waits() {
    let (mut lab, mut peer) = active();
    peer.beat_behind(&mut lab);
    offered_id(&mut peer, &lab.input(Input::Shutdown));
}
