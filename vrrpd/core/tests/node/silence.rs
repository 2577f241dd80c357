//! Silence on the LAN while the peer says over the peer link that it is active, and this node lacks connections of it.

use common::ipc::Role;
use common::key::PairKey;
use common::time::{Duration, Instant};
use vrrpd_core::neighbor;
use vrrpd_core::node::{Action, CATCH_UP_MAX, Input};
use vrrpd_core::settings::Settings;
use vrrpd_core::track::LbdState;

use crate::harness::*;
use crate::health::serving;

/// What the silence takes to be noticed in the node under test, and a heartbeat more.
const NOTICED: Duration = Duration::from_millis(450);

/// A station that is neither of the nodes.
const STRANGER: [u8; 4] = [192, 0, 2, 9];

/// A healthy backup of the higher priority that lacks connections of the peer, which it has not heard yet.
fn behind_with(settings: Settings) -> (Lab, Peer) {
    let mut lab = Lab::backup(linked(settings));
    lab.input(Input::Behind(true));
    (lab, Peer::new())
}

fn behind() -> (Lab, Peer) {
    behind_with(settings())
}

/// The peer says each interval for `span` that it is active and advertises, of which nothing arrives.
fn say_for(lab: &mut Lab, peer: &mut Peer, span: Duration) -> Vec<(Instant, Action)> {
    let (end, mut all) = (lab.at() + span, Vec::new());
    while lab.at() < end {
        let at = lab.at();
        peer.report.role = Role::Active;
        peer.report.adverts_sent += 1;
        all.extend(peer.beat(lab).into_iter().map(|action| (at, action)));
        all.extend(lab.run_for(INTERVAL));
    }
    all
}

/// How long the node leaves the role to the peer in the silence; `meanwhile` is done each interval.
fn waits(lab: &mut Lab, peer: &mut Peer, mut meanwhile: impl FnMut(&mut Lab)) -> Duration {
    let begin = lab.at();
    while lab.role() == Role::Backup {
        assert!(lab.at().since(begin) < Duration::from_secs(60), "it waits for ever");
        meanwhile(lab);
        say_for(lab, peer, INTERVAL);
    }
    lab.at().since(begin)
}

fn is_provisional(lab: &Lab) -> bool {
    lab.node.status().instances[0].routers[0].provisional
}

/// It advertises this priority, while the peer goes on saying that it is active.
fn assert_advertises(lab: &mut Lab, peer: &mut Peer, priority: u8) {
    let sent = adverts(&say_for(lab, peer, ms(500)));
    assert!(!sent.is_empty() && sent.iter().all(|&(_, said)| said == priority), "{sent:?}");
}

/// Somebody asks for another address, and so says that this is its own.
fn speak(lab: &mut Lab, sender: [u8; 4]) -> Vec<Action> {
    let frame = neighbor::arp_request(OTHER_MAC, sender.into(), [192, 0, 2, 1].into());
    lab.input(Input::Frame { interface: INTERFACE, bytes: &frame })
}

/// A node that has taken over in the silence, and announced itself as often as it does.
fn provisional() -> (Lab, Peer) {
    let (mut lab, mut peer) = behind();
    waits(&mut lab, &mut peer, |_| ());
    say_for(&mut lab, &mut peer, Duration::from_secs(6));
    assert_eq!((lab.role(), is_provisional(&lab)), (Role::Active, true));
    (lab, peer)
}

#[test]
fn a_node_that_is_behind_puts_up_with_silence_for_a_while() {
    let (mut lab, mut peer) = behind();
    let waited = waits(&mut lab, &mut peer, |_| ());
    assert!((CATCH_UP_MAX..CATCH_UP_MAX + NOTICED).contains(&waited), "{waited:?}");
    let (mut lab, mut peer) = behind();
    lab.input(Input::Behind(false));
    let waited = waits(&mut lab, &mut peer, |_| ());
    assert!(waited < NOTICED, "one that lacks nothing breaks nothing: {waited:?}");
    assert!(!is_provisional(&lab));
    assert_advertises(&mut lab, &mut peer, 200);
}

#[test]
fn it_does_not_put_up_with_a_peer_that_is_cut_off() {
    for severity in [4, 8] {
        let (mut lab, mut peer) = behind();
        peer.report.severity = severity;
        let waited = waits(&mut lab, &mut peer, |_| ());
        assert!(waited < NOTICED, "{severity}: {waited:?}");
        assert!(!is_provisional(&lab), "the peer is worse off, and to leave");
    }
}

#[test]
fn a_peer_that_is_gone_or_leaves_is_not_waited_for() {
    let waiting = || {
        let (mut lab, mut peer) = behind();
        say_for(&mut lab, &mut peer, Duration::from_secs(2));
        assert_eq!(lab.role(), Role::Backup);
        (lab, peer)
    };
    let (mut lab, _) = waiting();
    let waited = lab.run_until_role(Role::Active);
    assert!(waited <= ms(350), "it is silent on the peer link as well: {waited:?}");
    let (mut lab, mut peer) = waiting();
    peer.beat_as(&mut lab, Role::Backup, 0);
    let waited = lab.run_until_role(Role::Active);
    assert!(waited <= INTERVAL, "it has not got the role: {waited:?}");
    assert!(!is_provisional(&lab));
    let (mut lab, _) = waiting();
    lab.hear(0);
    let waited = lab.run_until_role(Role::Active);
    assert!(waited < INTERVAL, "it says that it leaves: {waited:?}");
}

#[test]
fn an_advertisement_begins_the_wait_anew() {
    let (mut lab, mut peer) = behind();
    for _ in 0..3 {
        say_for(&mut lab, &mut peer, Duration::from_secs(3));
        lab.hear(100);
    }
    let waited = waits(&mut lab, &mut peer, |_| ());
    assert!((CATCH_UP_MAX..CATCH_UP_MAX + NOTICED).contains(&waited), "{waited:?}");
}

#[test]
fn the_wait_begins_when_the_node_would_take_over() {
    let mut settings = settings();
    settings.instances[0].track.interfaces = vec!["eth1".to_owned()];
    let (mut lab, mut peer) = behind_with(settings);
    let down = Duration::from_secs(10);
    let begin = lab.at();
    let waited = waits(&mut lab, &mut peer, |lab| {
        let up = lab.at().since(begin) >= down;
        lab.input(Input::Interface { name: "eth1", state: up.then(interface_up) });
    });
    let bounds = down + CATCH_UP_MAX..down + CATCH_UP_MAX + NOTICED;
    assert!(bounds.contains(&waited), "{waited:?}");
}

#[test]
fn it_gives_way_as_soon_as_it_hears_the_peer() {
    let (mut lab, mut peer) = behind();
    waits(&mut lab, &mut peer, |_| ());
    assert_advertises(&mut lab, &mut peer, 1);
    assert_eq!(priorities(&lab.hear(100)), [0]);
    assert_eq!((lab.role(), is_provisional(&lab)), (Role::Backup, false));
    let mut both = |behind: bool| {
        lab.input(Input::Behind(behind));
        for _ in 0..100 {
            say_for(&mut lab, &mut peer, INTERVAL);
            lab.hear(100);
        }
        (lab.role(), is_provisional(&lab))
    };
    assert_eq!(both(true), (Role::Backup, false), "it learns, as long as that takes");
    assert_eq!(both(false), (Role::Active, false));
    assert_advertises(&mut lab, &mut peer, 200);
}

#[test]
fn what_it_advertises_first_gives_way_already() {
    let (mut lab, mut peer) = behind();
    let first = loop {
        let sent = adverts(&say_for(&mut lab, &mut peer, INTERVAL));
        if let Some((_, priority)) = sent.first() {
            break *priority;
        }
    };
    assert_eq!(first, 1);
}

#[test]
fn a_role_stays_with_the_node_that_has_learned_everything() {
    let (mut lab, mut peer) = provisional();
    lab.input(Input::Behind(false));
    assert_advertises(&mut lab, &mut peer, 200);
    assert_eq!(priorities(&lab.hear(100)), [200]);
    assert_eq!((lab.role(), is_provisional(&lab)), (Role::Active, false));
    // What it comes to lack later would break all the same.
    lab.input(Input::Behind(true));
    assert_advertises(&mut lab, &mut peer, 1);
}

#[test]
fn a_role_that_nobody_else_has_is_its_own_and_announced() {
    let (mut lab, mut peer) = provisional();
    assert!(frames(&untimed(lab.run_for(ms(99)))).is_empty());
    peer.beat_as(&mut lab, Role::Backup, 0);
    let actions = lab.run_for(ms(150));
    assert!(adverts(&actions).iter().all(|&(_, priority)| priority == 200));
    assert!(!frames(&untimed(actions)).is_empty(), "the peer may have announced itself last");
    // Nor if nothing at all is heard of the peer any more.
    let (mut lab, _) = provisional();
    let actions = lab.run_for(ms(500));
    assert_eq!(adverts(&actions).last().map(|&(_, priority)| priority), Some(200));
    assert!(!frames(&untimed(actions)).is_empty());
    assert_eq!((lab.role(), is_provisional(&lab)), (Role::Active, false));
    // Nor if it says on the LAN that it leaves.
    let (mut lab, _) = provisional();
    assert_eq!(priorities(&lab.hear(0)), [200]);
}

#[test]
fn who_hears_all_others_waits_no_longer_and_gives_way_all_the_same() {
    let (mut lab, mut peer) = behind();
    lab.hear(100);
    let waited = waits(&mut lab, &mut peer, |lab| drop(speak(lab, STRANGER)));
    assert!((ms(1_000)..ms(1_000) + NOTICED).contains(&waited), "{waited:?}");
    // Two switches may have lost each other.
    for _ in 0..20 {
        speak(&mut lab, STRANGER);
        say_for(&mut lab, &mut peer, INTERVAL);
        assert!(is_provisional(&lab));
    }
    assert_advertises(&mut lab, &mut peer, 1);
    assert_eq!(priorities(&lab.hear(100)), [0]);
    assert_eq!(lab.role(), Role::Backup);
}

#[test]
fn what_the_peer_sends_or_little_of_others_says_nothing_of_its_port() {
    let waits_for = |first_heard: bool, sender: [u8; 4], every: u32| {
        let (mut lab, mut peer) = behind();
        if first_heard {
            lab.hear(100);
        }
        let mut round = 0_u32;
        waits(&mut lab, &mut peer, |lab| {
            if round.is_multiple_of(every) {
                speak(lab, sender);
            }
            round += 1;
        })
    };
    let bounds = CATCH_UP_MAX..CATCH_UP_MAX + NOTICED;
    for waited in [
        // The virtual address, and the one that the peer's advertisements came from.
        waits_for(false, [192, 0, 2, 100], 1),
        waits_for(true, [192, 0, 2, 2], 1),
        // As long as no advertisement has come, whoever speaks may be the peer.
        waits_for(false, [192, 0, 2, 2], 1),
        waits_for(false, STRANGER, 1),
        // Once each 1.5 s, its own port may have passed nothing in between.
        waits_for(true, STRANGER, 15),
    ] {
        assert!(bounds.contains(&waited), "{waited:?}");
    }
}

#[test]
fn an_advertisement_that_is_dropped_has_come_through_the_peers_port() {
    let (mut lab, mut peer) = behind();
    lab.hear(100);
    let (router, mut meta) = (lab.first(), meta_from(PEER));
    let bytes = advert_of(&router, 100).emit(meta.source, meta.destination, router.checksum);
    meta.hop_limit = 64;
    let waited = waits(&mut lab, &mut peer, |lab| {
        speak(lab, STRANGER);
        lab.hear_bytes(&bytes, meta);
    });
    assert!((CATCH_UP_MAX..CATCH_UP_MAX + NOTICED).contains(&waited), "{waited:?}");
    assert!(lab.dropped("hop_limit") > 0);
}

#[test]
fn late_heartbeats_do_not_end_the_wait() {
    for pause in [ms(260), ms(280), ms(295)] {
        let (mut lab, mut peer) = behind();
        let begin = lab.at();
        say_for(&mut lab, &mut peer, ms(500));
        while lab.role() == Role::Backup {
            assert!(lab.at().since(begin) < Duration::from_secs(60), "it waits for ever");
            lab.run_for(pause - INTERVAL);
            // It lasts an interval.
            say_for(&mut lab, &mut peer, INTERVAL);
        }
        let waited = lab.at().since(begin);
        assert!((CATCH_UP_MAX..CATCH_UP_MAX + NOTICED + pause).contains(&waited), "{pause:?}: {waited:?}");
    }
}

#[test]
fn a_gap_on_the_peer_link_does_not_have_it_forget_how_it_came_by_the_role() {
    let gives_way = |lab: &mut Lab, peer: &mut Peer| {
        assert!(!is_provisional(lab), "nobody else is known to have the role");
        assert_advertises(lab, peer, 1);
        assert_eq!(priorities(&lab.hear(100)), [0]);
        assert_eq!(lab.role(), Role::Backup);
    };
    let (mut lab, mut peer) = provisional();
    let actions = lab.run_for(ms(400));
    assert_eq!(adverts(&actions).last().map(|&(_, priority)| priority), Some(200));
    gives_way(&mut lab, &mut peer);
    // A new key, and the former one again, each with a link that has not heard of the peer yet.
    let (mut lab, mut peer) = provisional();
    for pair_key in [PairKey::new([8; 32]), key()] {
        let mut settings = linked(settings());
        settings.key = Some(pair_key);
        lab.input(Input::Reconfigure(Box::new(settings)));
    }
    gives_way(&mut lab, &mut peer);
}

#[test]
fn a_peer_that_had_left_the_role_is_not_given_it_back() {
    let (mut lab, mut peer) = provisional();
    peer.beat_as(&mut lab, Role::Backup, 0);
    assert_advertises(&mut lab, &mut peer, 200);
    let (mut lab, _) = provisional();
    assert_advertises(&mut lab, &mut Peer::restarted(), 200);
}

#[test]
fn a_peer_that_is_not_well_but_serves_is_given_its_role_back() {
    for severity in [1, 2, 32] {
        let (mut lab, mut peer) = behind();
        peer.report.severity = severity;
        let waited = waits(&mut lab, &mut peer, |_| ());
        assert!((CATCH_UP_MAX..CATCH_UP_MAX + NOTICED).contains(&waited), "{severity}: {waited:?}");
        assert_advertises(&mut lab, &mut peer, 1);
        assert_eq!(priorities(&lab.hear(60)), [0]);
        assert_eq!(lab.role(), Role::Backup);
    }
}

/// An active node in maintenance, beside a healthy one that says for a second that it has the role, too, but provisionally.
fn beside_a_provisional_one(settings: Settings, lbd: LbdState) -> (Lab, Peer) {
    let mut lab = Lab::active(linked(settings));
    let mut peer = Peer::new();
    lab.input(Input::Lbd(lbd));
    lab.input(Input::Maintenance(true));
    (peer.report.role, peer.report.effective_priority) = (Role::Active, 1);
    for _ in 0..10 {
        peer.beat_behind(&mut lab);
        lab.run_for(INTERVAL);
    }
    (lab, peer)
}

#[test]
fn who_serves_does_not_step_down_for_one_that_does_not_know_whose_port_is_dead() {
    let (mut lab, mut peer) = beside_a_provisional_one(settings(), serving());
    assert_eq!(lab.role(), Role::Active);
    // It has learned everything.
    peer.report.effective_priority = 100;
    peer.beat(&mut lab);
    assert_eq!(lab.role(), Role::Backup);
    let (lab, _) = beside_a_provisional_one(settings(), LbdState::Absent);
    assert_eq!(lab.role(), Role::Backup, "without its lbd it hardly serves");
    let mut settings = settings();
    settings.instances[0].track.interfaces = vec!["eth1".to_owned()];
    let (lab, _) = beside_a_provisional_one(settings, serving());
    assert_eq!(lab.role(), Role::Backup, "it is cut off");
}

#[test]
fn of_two_that_advertise_priority_1_the_provisional_one_gives_way() {
    // Of the lesser address the other one would be the one to give way.
    let (mut lab, _) = provisional();
    let (router, meta) = (lab.first(), meta_from("192.0.1.9"));
    let bytes = advert_of(&router, 1).emit(meta.source, meta.destination, router.checksum);
    assert_eq!(priorities(&lab.hear_bytes(&bytes, meta)), [0]);
    assert_eq!(lab.role(), Role::Backup);
    // And of the greater address this one.
    let hears_one = |peer_is_behind: bool, behind: bool| {
        let mut lab = Lab::active(linked(settings_with(|router| {
            (router.priority, router.lowest_priority) = (1, 1);
        })));
        let mut peer = Peer::new();
        lab.input(Input::Behind(behind));
        (peer.report.role, peer.report.effective_priority) = (Role::Active, 1);
        for _ in 0..10 {
            if peer_is_behind {
                peer.beat_behind(&mut lab);
            } else {
                peer.beat(&mut lab);
            }
            lab.run_for(INTERVAL);
        }
        (priorities(&lab.hear(1)), lab.role())
    };
    assert_eq!(hears_one(true, false), (vec![1], Role::Active));
    assert_eq!(hears_one(false, false), (vec![0], Role::Backup), "it is 1 by configuration");
    assert_eq!(hears_one(true, true), (vec![0], Role::Backup), "both may be the one that is to give way");
}

#[test]
fn who_is_to_give_way_does_not_contend_for_the_addresses() {
    let claim = |lab: &mut Lab| {
        let frame = neighbor::gratuitous_arp(OTHER_MAC, [192, 0, 2, 100].into());
        lab.input(Input::Frame { interface: INTERFACE, bytes: &frame });
        frames(&untimed(lab.run_for(ms(60)))).len()
    };
    let (mut lab, mut peer) = provisional();
    assert_eq!(claim(&mut lab), 0);
    assert_eq!(lab.node.status().instances[0].routers[0].conflicts, 1);
    lab.input(Input::Behind(false));
    say_for(&mut lab, &mut peer, INTERVAL);
    assert_eq!(claim(&mut lab), 1);
}

#[test]
fn who_was_active_before_does_not_give_way_to_who_came_later() {
    let mut lab = Lab::active(linked(settings_with(|router| router.priority = 100)));
    let mut peer = Peer::new();
    // With no connection between the two `lbd`s both nodes lack something.
    lab.input(Input::Behind(true));
    peer.beat_behind(&mut lab);
    for _ in 0..20 {
        peer.report.role = Role::Active;
        peer.beat_behind(&mut lab);
        lab.run_for(ms(50));
        assert_eq!(priorities(&lab.hear(1)), [100]);
        lab.run_for(ms(50));
    }
    assert_eq!((lab.role(), is_provisional(&lab)), (Role::Active, false));
}
