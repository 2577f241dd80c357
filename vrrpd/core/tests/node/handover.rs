//! The planned switchover between two nodes, on the side that takes the role.

use common::ipc::Role;
use common::time::{Duration, UnixTime};
use vrrpd_core::event::{Event, Reason};
use vrrpd_core::handover::OFFER_BOUND;
use vrrpd_core::node::{Action, Input};
use vrrpd_core::packet::Family;
use vrrpd_core::peer::{Body, RouterKey};

use crate::harness::*;

/// A backup of the lower priority, which hears the peer on both links.
pub(crate) fn backup() -> (Lab, Peer) {
    let mut lab = Lab::backup(linked(settings_with(|router| router.priority = 100)));
    let mut peer = Peer::new();
    peer.beat_as(&mut lab, Role::Active, 0);
    lab.hear(200);
    (lab, peer)
}

fn offer(peer: &Peer, id: u64) -> Body {
    Body::Offer { router: peer.router(), id }
}

#[test]
fn an_offer_is_taken_before_it_is_answered() {
    let (mut lab, mut peer) = backup();
    let actions = peer.say(&mut lab, offer(&peer, 9));
    assert_eq!(lab.role(), Role::Active);
    let place = |wanted: fn(&Action) -> bool| actions.iter().position(wanted).unwrap();
    let added = place(|action| matches!(action, Action::AddAddresses { .. }));
    let advertised = place(|action| matches!(action, Action::SendAdvert { .. }));
    let announced = place(|action| matches!(action, Action::SendFrames { .. }));
    let answered = place(|action| matches!(action, Action::SendPeer(_)));
    assert!(added < advertised && advertised < announced && announced < answered);
    assert_eq!(peer.hear_words(&actions), [Body::Taken { router: peer.router(), id: 9 }]);
    assert!(matches!(events(&actions)[..], [Event::Role { reason: Reason::Handover, .. }]));
}

#[test]
fn lbd_is_told_of_an_instance_that_is_active_in_one_family() {
    let mut settings = settings_of(vec![router(Family::V4), router(Family::V6)]);
    for router in &mut settings.instances[0].routers {
        router.priority = 100;
    }
    let mut lab = Lab::backup(linked(settings));
    let mut peer = Peer::new();
    peer.beat_as(&mut lab, Role::Active, 0);
    peer.say(&mut lab, offer(&peer, 9));
    let status = &lab.node.status().instances[0];
    let roles: Vec<Role> = status.routers.iter().map(|router| router.role).collect();
    assert_eq!(roles, [Role::Active, Role::Backup]);
    assert_eq!((status.role, status.forwarding_role()), (Role::Backup, Role::Active));
}

#[test]
fn lbd_is_told_whether_the_one_before_was_still_heard() {
    let from_silence = |lab: &Lab| {
        assert_eq!(lab.role(), Role::Active);
        lab.node.status().instances[0].is_from_silence()
    };
    let (mut asked, mut peer) = backup();
    peer.say(&mut asked, offer(&peer, 9));
    assert!(!from_silence(&asked));
    let heard = || {
        let mut lab = Lab::backup(settings_with(|router| router.priority = 100));
        lab.hear_for(200, ms(300));
        lab
    };
    let mut left_alone = heard();
    assert!(!left_alone.node.status().instances[0].is_from_silence(), "it is no active one");
    left_alone.run_until_role(Role::Active);
    assert!(from_silence(&left_alone));
    let mut resigned = heard();
    resigned.hear(0);
    resigned.run_until_role(Role::Active);
    assert!(!from_silence(&resigned));
    let mut preempting = Lab::backup(settings_with(|router| router.preempt = true));
    preempting.hear_for(50, Duration::from_secs(5));
    assert!(!from_silence(&preempting), "it has heard the other one all the time");
}

#[test]
fn a_repeated_offer_gets_the_same_answer_again() {
    let (mut lab, mut peer) = backup();
    peer.say(&mut lab, offer(&peer, 9));
    let actions = peer.say(&mut lab, offer(&peer, 9));
    assert!(priorities(&actions).is_empty());
    assert_eq!(peer.hear_words(&actions), [Body::Taken { router: peer.router(), id: 9 }]);
}

#[test]
fn a_router_in_fault_refuses() {
    let (mut lab, mut peer) = backup();
    lab.interface(None);
    let actions = peer.say(&mut lab, offer(&peer, 9));
    assert_eq!(peer.hear_words(&actions), [Body::Refused { router: peer.router(), id: 9 }]);
    assert_eq!(lab.role(), Role::Fault);
}

#[test]
fn an_offer_of_an_unknown_router_is_refused_and_counted() {
    let (mut lab, mut peer) = backup();
    let router = RouterKey::new("other", Family::V4);
    let actions = peer.say(&mut lab, Body::Offer { router, id: 1 });
    assert_eq!(peer.hear_words(&actions), [Body::Refused { router, id: 1 }]);
    assert_eq!(peer_drops(&lab, "unknown_router"), 1);
    assert_eq!(lab.role(), Role::Backup);
}

#[test]
fn a_node_that_stops_refuses() {
    let mut settings = settings_with(|router| router.priority = 100);
    let mut second = settings.instances[0].clone();
    second.name = "second".to_owned();
    for router in &mut second.routers {
        router.instance = "second".to_owned();
        router.vrid = 52;
    }
    settings.instances.push(second);
    let (mut lab, mut peer) = (Lab::active(linked(settings)), Peer::new());
    peer.beat_as(&mut lab, Role::Backup, 0);
    // Both routers are offered, so the node is still there to be asked.
    lab.input(Input::Shutdown);
    let actions = peer.say(&mut lab, offer(&peer, 5));
    assert_eq!(peer.hear_words(&actions).last(), Some(&Body::Refused { router: peer.router(), id: 5 }));
}

#[test]
fn the_predecessors_last_words_are_ignored_while_it_may_still_offer() {
    let (mut lab, mut peer) = backup();
    peer.say(&mut lab, offer(&peer, 9));
    lab.hear_for(200, OFFER_BOUND);
    assert_eq!(lab.role(), Role::Active);
    lab.run_for(ms(900));
    lab.hear(200);
    assert_eq!(lab.role(), Role::Backup);
}

#[test]
fn a_predecessor_that_stepped_down_is_heard_again() {
    let (mut lab, mut peer) = backup();
    peer.say(&mut lab, offer(&peer, 9));
    peer.beat_as(&mut lab, Role::Backup, 0);
    lab.hear(200);
    assert_eq!(lab.role(), Role::Active, "it was sent before, and came by another way");
    lab.run_for(ms(100));
    lab.hear(200);
    assert_eq!(lab.role(), Role::Backup);
}

#[test]
fn deference_is_to_the_predecessor_only() {
    let (mut lab, mut peer) = backup();
    peer.say(&mut lab, offer(&peer, 9));
    let router = lab.first();
    let meta = meta_from("192.0.2.9");
    let bytes = advert_of(&router, 200).emit(meta.source, meta.destination, router.checksum);
    lab.hear_bytes(&bytes, meta);
    assert_eq!(lab.role(), Role::Backup);
}

#[test]
fn a_release_is_taken_over_at_once() {
    let (mut lab, mut peer) = backup();
    let routers = vec![peer.router(), RouterKey::new("other", Family::V6)];
    let actions = peer.say(&mut lab, Body::Release { routers });
    assert_eq!(lab.role(), Role::Active);
    assert!(matches!(events(&actions)[..], [Event::Role { reason: Reason::Released, .. }]));
    assert_eq!(peer_drops(&lab, "unknown_router"), 1);
}

#[test]
fn a_release_in_fault_changes_nothing() {
    let (mut lab, mut peer) = backup();
    lab.interface(None);
    peer.say(&mut lab, Body::Release { routers: vec![peer.router()] });
    assert_eq!(lab.role(), Role::Fault);
}

#[test]
fn replayed_offers_have_no_effect() {
    let (mut lab, mut peer) = backup();
    let offer = peer.datagram(&lab, offer(&peer, 9));
    lab.input(Input::Peer(&offer));
    lab.interface(None);
    lab.interface(Some(interface_up()));
    assert_eq!(lab.role(), Role::Backup);
    let actions = lab.input(Input::Peer(&offer));
    assert_eq!(lab.role(), Role::Backup);
    assert!(peer.hear_words(&actions).is_empty());
    assert_eq!(peer_drops(&lab, "replayed"), 1);
}

#[test]
fn a_wall_clock_set_back_does_not_silence_the_node() {
    let (mut lab, mut peer) = backup();
    peer.hear(&untimed(lab.hear_for(200, ms(200))));
    lab.set_unix(UnixTime::from_nanos(5));
    // The peer's opener refuses what is not newer, and the harness what is refused.
    let heard = peer.hear(&untimed(lab.hear_for(200, ms(500))));
    assert!(heard.len() >= 4, "{}", heard.len());
}

pub(crate) fn peer_drops(lab: &Lab, reason: &str) -> u64 {
    let drops = lab.node.status().peer_drops;
    drops.iter().find(|count| count.reason == reason).map_or(0, |count| count.count)
}
