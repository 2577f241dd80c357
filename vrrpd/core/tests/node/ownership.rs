//! The lease that each advertisement renews: until when the node owns its addresses if it does not run again.

use common::config::VrrpVersion;
use common::ipc::Role;
use common::time::{Duration, Instant};
use vrrpd_core::event::Reason;
use vrrpd_core::handover::{OFFER_BOUND, resign_bound};
use vrrpd_core::node::{Action, Input};
use vrrpd_core::packet::Family;
use vrrpd_core::peer::Body;

use crate::harness::*;
use crate::switchover::active;

fn lease(lab: &Lab) -> Option<Duration> {
    lab.node.owned_until(SLOT).map(|until| until.since(lab.at()))
}

/// A backup with this interval and version, and when it takes over after the last advertisement that it heard.
fn takes_over_after(interval: Duration, version: VrrpVersion, priority: u8) -> Duration {
    let settings = settings_with(|router| {
        (router.interval, router.version, router.priority) = (interval, version, priority);
    });
    let mut lab = Lab::backup(settings.clone());
    let mut advert = advert_of(&settings.instances[0].routers[0], 250);
    advert.priority = 250;
    lab.hear_advert(&advert);
    lab.run_until_role(Role::Active)
}

#[test]
fn there_is_none_before_the_role() {
    let mut lab = Lab::backup(settings());
    assert_eq!(lease(&lab), None);
    lab.run_until_role(Role::Active);
    assert!(lease(&lab).is_some());
    let fault = lab.interface(None);
    assert!(fault.iter().any(|action| matches!(action, Action::RemoveAddresses { .. })));
    assert_eq!(lease(&lab), None);
}

#[test]
fn it_is_there_before_the_addresses_are() {
    let mut lab = Lab::backup(linked(settings()));
    let mut peer = Peer::new();
    peer.beat_as(&mut lab, Role::Active, 0);
    let actions = peer.say(&mut lab, Body::Offer { router: peer.router(), id: 9 });
    // The shell reads it when it is told to guard, before the next action.
    assert!(matches!(actions[0], Action::Guard { active: true, .. }), "{:?}", actions[0]);
    assert_eq!(lease(&lab), Some(INTERVAL * 5 / 2));
}

#[test]
fn each_advertisement_renews_it() {
    let mut lab = Lab::active(settings());
    for _ in 0..20 {
        assert_eq!(lease(&lab), Some(INTERVAL * 5 / 2));
        lab.run_for(INTERVAL - ms(1));
        assert_eq!(lease(&lab), Some(INTERVAL * 5 / 2 - (INTERVAL - ms(1))), "nothing else does");
        lab.run_for(ms(1));
    }
}

#[test]
fn a_late_advertisement_is_no_end_and_a_stall_is() {
    let mut lab = Lab::active(settings());
    lab.sleep(INTERVAL * 5 / 2);
    assert_eq!(lease(&lab), Some(Duration::ZERO));
    lab.input(Input::Timeout);
    assert_eq!((lab.role(), lease(&lab)), (Role::Active, Some(INTERVAL * 5 / 2)), "just in time");
    lab.sleep(INTERVAL * 5 / 2 + Duration::from_nanos(1));
    assert!(lab.node.owned_until(SLOT).unwrap() < lab.at(), "it is over before the node knows");
    lab.input(Input::Timeout);
    assert_eq!((lab.role(), lease(&lab)), (Role::Backup, None));
}

#[test]
fn it_ends_before_the_other_node_takes_over() {
    for version in [VrrpVersion::V3, VrrpVersion::V2] {
        for interval in [ms(10), ms(100), ms(1_000), ms(40_000)] {
            if version == VrrpVersion::V2 && interval < ms(1_000) {
                continue;
            }
            let lab = Lab::active(settings_with(|router| {
                (router.interval, router.version) = (interval, version);
            }));
            for priority in [1, 100, 249] {
                let taken = takes_over_after(interval, version, priority);
                let owned = lease(&lab).unwrap();
                assert!(
                    owned + interval / 2 <= taken,
                    "{version:?} {interval:?} {priority}: {owned:?}, {taken:?}"
                );
                assert!(owned > interval * 2, "it bears an advertisement that comes late");
            }
        }
    }
}

#[test]
fn who_has_resigned_keeps_it_for_the_successor() {
    for interval in [ms(10), ms(100), ms(1_000)] {
        let mut lab = Lab::active(linked(settings_with(|router| router.interval = interval)));
        let mut peer = Peer::new();
        peer.beat(&mut lab);
        lab.input(Input::Switchover { instance: INSTANCE, token: 77 });
        let resigned = lab
            .run_for(OFFER_BOUND)
            .iter()
            .find_map(|(at, action)| Some((*at, advert_sent(action)?)).filter(|(_, it)| it.priority == 0));
        let (at, _) = resigned.unwrap_or_else(|| panic!("{interval:?}: it never resigned"));
        let until = lab.node.owned_until(SLOT).unwrap();
        assert!(until >= at + resign_bound(interval), "{interval:?}");
        assert!(until <= at + resign_bound(interval).max(interval * 5 / 2), "{interval:?}");
        lab.run_for(resign_bound(interval) - ms(1));
        assert_eq!(lab.node.owned_until(SLOT), Some(until), "nothing renews it");
    }
}

#[test]
fn who_has_handed_over_has_none() {
    let (mut lab, mut peer) = active();
    let offer = lab.input(Input::Switchover { instance: INSTANCE, token: 77 });
    let id = crate::switchover::offered_id(&mut peer, &offer);
    assert!(lease(&lab).is_some());
    let actions = peer.say(&mut lab, Body::Taken { router: peer.router(), id });
    let place = |wanted: fn(&Action) -> bool| actions.iter().position(wanted).unwrap();
    let removed = place(|action| matches!(action, Action::RemoveAddresses { .. }));
    assert!(removed < place(|action| matches!(action, Action::Guard { active: false, .. })));
    assert_eq!(lease(&lab), None);
    assert!(
        events(&actions).iter().any(|event| {
            matches!(event, vrrpd_core::event::Event::Role { reason: Reason::HandedOver, .. })
        })
    );
}

#[test]
fn a_longer_interval_counts_from_the_advertisement_that_tells_it() {
    let mut lab = Lab::active(settings());
    lab.run_for(ms(40));
    let until = lab.node.owned_until(SLOT);
    lab.input(Input::Reconfigure(Box::new(settings_with(|router| router.interval = ms(10_000)))));
    assert_eq!(lab.node.owned_until(SLOT), until, "the peer waits no longer than it was told");
    lab.run_for(ms(60));
    assert_eq!(lease(&lab), Some(ms(25_000)));
}

#[test]
fn both_families_have_their_own() {
    let mut lab = Lab::active(settings_of(vec![router(Family::V4), router(Family::V6)]));
    let both: Vec<Option<Instant>> = [0, 1].map(|slot| lab.node.owned_until(slot)).into();
    assert!(both.iter().all(Option::is_some), "{both:?}");
    assert_eq!(lab.node.owned_until(2), None);
    lab.input(Input::WardenFired { slot: 0 });
    assert_eq!((lab.node.owned_until(0), lab.node.owned_until(1)), (None, both[1]));
}
