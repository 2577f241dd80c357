//! The second heartbeat: who is alive, who runs what, and a LAN that lost its way.

use common::ipc::Role;
use common::time::Duration;
use vrrpd_core::event::{Event, Reason};
use vrrpd_core::node::{Action, Input};
use vrrpd_core::peer::{Body, silence_limit};

use crate::handover::{backup, peer_drops};
use crate::harness::*;

/// The peer says that it sends advertisements, and none arrives; how long until the role changes, if it does.
fn lose_the_lan(lab: &mut Lab, peer: &mut Peer, rounds: u64) -> Vec<Action> {
    let mut all = Vec::new();
    for _ in 0..rounds {
        all.extend(untimed(lab.run_for(ms(100))));
        peer.report.adverts_sent += 1;
        all.extend(peer.beat(lab));
    }
    all
}

#[test]
fn the_link_comes_up_and_goes_down() {
    let mut lab = Lab::backup(linked(settings()));
    let mut peer = Peer::new();
    assert!(!lab.node.status().peer_link.alive);
    assert_eq!(lab.node.peer_boot(), 0);
    let actions = peer.beat(&mut lab);
    assert_eq!(events(&actions), [Event::PeerLink { alive: true }]);
    assert_eq!(lab.node.peer_boot(), 2);
    assert!(peer.beat(&mut lab).iter().all(|action| !matches!(action, Action::Event(_))));
    let limit = silence_limit(ms(100));
    let before = events(&untimed(lab.run_for(limit - ms(1))));
    assert!(!before.contains(&Event::PeerLink { alive: false }));
    let after = events(&untimed(lab.run_for(ms(1))));
    assert!(after.contains(&Event::PeerLink { alive: false }));
    assert!(!lab.node.status().peer_link.alive);
}

#[test]
fn heartbeats_go_out_as_often_as_advertisements_but_at_most_every_10_ms() {
    for (interval, expected) in [(ms(10), 100), (ms(50), 20), (ms(100), 10), (Duration::from_secs(5), 10)] {
        let mut lab = Lab::backup(linked(settings_with(|router| router.interval = interval)));
        let mut peer = Peer::new();
        lab.run_for(ms(1));
        lab.hear(255);
        let beats = peer.hear(&untimed(lab.hear_for(255, Duration::from_secs(1))));
        let beats = beats.iter().filter(|body| matches!(body, Body::Heartbeat(_))).count();
        assert!((expected..=expected + 1).contains(&beats), "{beats} at {interval:?}");
    }
}

#[test]
fn a_role_change_is_told_at_once() {
    let (mut lab, mut peer) = backup();
    peer.say(&mut lab, Body::Release { routers: vec![peer.router()] });
    let told = peer.hear(&lab.input(Input::Timeout));
    let Some(Body::Heartbeat(beat)) = told.first() else { panic!("{told:?}") };
    assert_eq!(beat.routers[0].role, Role::Active);
}

#[test]
fn another_configuration_is_reported_once() {
    let mut lab = Lab::backup(linked(settings()));
    let mut peer = Peer::new();
    peer.config_hash = 0xbeef;
    let differs = |actions: &[Action]| {
        events(actions).iter().filter(|event| matches!(event, Event::PeerDiffers { .. })).count()
    };
    assert_eq!(differs(&peer.beat(&mut lab)), 1);
    assert_eq!(differs(&peer.beat(&mut lab)), 0);
    let status = lab.node.status().peer_link;
    assert_eq!((status.same_config, status.config_hash.as_deref()), (Some(false), Some("000000000000beef")));
    peer.config_hash = 0xc0ffee;
    assert_eq!(differs(&peer.beat(&mut lab)), 0);
    let same =
        |lab: &Lab| (lab.node.status().peer_link.same_config, lab.node.status().peer_link.same_version);
    assert_eq!(same(&lab), (Some(true), Some(true)));
    peer.version = "2";
    assert_eq!(differs(&peer.beat(&mut lab)), 1);
    assert_eq!(same(&lab), (Some(true), Some(false)));
}

#[test]
fn noise_and_replays_are_counted() {
    let (mut lab, mut peer) = backup();
    lab.input(Input::Peer(b"noise"));
    lab.input(Input::Peer(&[0; 64]));
    let offer = peer.datagram(&lab, Body::Release { routers: vec![] });
    lab.input(Input::Peer(&offer));
    lab.input(Input::Peer(&offer));
    assert_eq!(peer_drops(&lab, "truncated"), 1);
    assert_eq!(peer_drops(&lab, "tag"), 1);
    assert_eq!(peer_drops(&lab, "replayed"), 1);
}

#[test]
fn without_a_peer_link_datagrams_mean_nothing() {
    let mut lab = Lab::backup(settings());
    assert!(lab.input(Input::Peer(b"noise")).is_empty());
    assert!(!lab.node.status().peer_link.configured);
    assert_eq!(lab.node.peer_stamp(), 0);
}

#[test]
fn three_advertisements_sent_and_not_heard_are_a_lan_fault() {
    let (mut lab, mut peer) = backup();
    peer.beat(&mut lab);
    let actions = lose_the_lan(&mut lab, &mut peer, 2);
    assert!(events(&actions).is_empty());
    let actions = peer_says_one_more(&mut lab, &mut peer);
    let events = events(&actions);
    assert!(events.iter().any(|event| matches!(event, Event::LanFault { .. })), "{events:?}");
    assert!(events.iter().any(|event| matches!(event, Event::Role { reason: Reason::LanFault, .. })));
    assert_eq!(lab.role(), Role::Active);
}

/// The third is told before Active_Down_Timer would fire.
fn peer_says_one_more(lab: &mut Lab, peer: &mut Peer) -> Vec<Action> {
    peer.report.adverts_sent += 1;
    peer.beat(lab)
}

#[test]
fn advertisements_that_arrive_are_not_missed() {
    let (mut lab, mut peer) = backup();
    for _ in 0..50 {
        lab.hear_for(200, ms(100));
        peer.report.adverts_sent += 1;
        peer.beat(&mut lab);
    }
    assert_eq!(lab.role(), Role::Backup);
}

#[test]
fn heartbeats_in_a_bunch_are_no_lan_fault() {
    let (mut lab, mut peer) = backup();
    peer.beat(&mut lab);
    // The peer link holds its heartbeats back, the LAN works; then all of them come at once.
    lab.hear_for(255, Duration::from_secs(1));
    for _ in 0..5 {
        peer.report.adverts_sent += 2;
        let events = events(&peer.beat(&mut lab));
        assert!(!events.iter().any(|event| matches!(event, Event::LanFault { .. })), "{events:?}");
    }
    assert_eq!(lab.role(), Role::Backup);
}

#[test]
fn a_restarted_peer_has_sent_nothing_yet() {
    let (mut lab, mut peer) = backup();
    peer.report.adverts_sent = 1_000_000;
    peer.beat(&mut lab);
    lab.hear(200);
    peer.beat(&mut lab);
    peer.report.adverts_sent = 0;
    peer.beat(&mut lab);
    assert_eq!(lab.role(), Role::Backup);
}

#[test]
fn a_healthier_active_peer_keeps_the_role_without_the_lan() {
    let mut settings = linked(settings_with(|router| router.priority = 100));
    settings.instances[0].track.interfaces = vec!["eth1".to_owned()];
    let mut lab = Lab::backup(settings);
    let mut peer = Peer::new();
    peer.beat_as(&mut lab, Role::Active, 0);
    let actions = lose_the_lan(&mut lab, &mut peer, 50);
    assert_eq!(lab.role(), Role::Backup);
    assert!(!events(&actions).iter().any(|event| matches!(event, Event::LanFault { .. })));
    // When the peer link falls silent as well, it is alone.
    lab.run_until_role(Role::Active);
}

#[test]
fn of_two_active_routers_the_unhealthier_steps_down() {
    let mut settings = linked(settings());
    settings.instances[0].track.interfaces = vec!["eth1".to_owned()];
    let mut lab = Lab::active(settings);
    let mut peer = Peer::new();
    peer.beat_as(&mut lab, Role::Active, 8);
    assert_eq!(lab.role(), Role::Active, "the peer is worse off");
    lab.run_for(ms(50));
    let actions = peer.beat_as(&mut lab, Role::Active, 0);
    assert_eq!(lab.role(), Role::Backup);
    let healthier = |event: &Event| matches!(event, Event::Role { reason: Reason::PeerHealthier, .. });
    assert!(events(&actions).iter().any(healthier));
}
