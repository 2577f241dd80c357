//! The group against its rules.

use std::net::{Ipv4Addr, SocketAddr};

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const CHECKED: Option<Thresholds> = Some(Thresholds { healthy: 1, unhealthy: 1 });
const EJECT: EjectSettings =
    EjectSettings { base: Duration::from_secs(10), max: Duration::from_secs(30), max_percent: 50 };

fn at(ms: u64) -> Now {
    let at = Instant::ZERO + Duration::from_millis(1_000_000 + ms);
    Now { at, unix: UnixTime::from_nanos(at.as_nanos()) }
}

fn settings() -> Settings {
    Settings {
        thresholds: None,
        eject: None,
        panic_percent: 0,
        slow_start: Duration::ZERO,
        drain_timeout: 5 * SECOND,
        zone: None,
    }
}

fn spec(index: u8) -> Spec {
    Spec {
        id: format!("t{index}"),
        address: SocketAddr::from((Ipv4Addr::new(192, 0, 2, index), 80)),
        weight: 1,
        backup: false,
        zone: None,
    }
}

fn specs(count: u8) -> Vec<Spec> {
    (0..count).map(spec).collect()
}

fn shares(group: &Group) -> Vec<u32> {
    (0..group.len()).map(|target| group.share(target)).collect()
}

fn standing(group: &Group, target: usize) -> Standing {
    group.view(at(0).at, target).unwrap().standing
}

#[test]
fn without_checks_all_are_used_by_weight() {
    let mut targets = specs(3);
    (targets[1].weight, targets[2].weight) = (256, 0);
    let group = Group::new(at(0), settings(), targets);
    assert_eq!(shares(&group), [256, 65_536, 0]);
    assert_eq!((group.mode(), group.deadline()), (Mode::Normal, None));
    assert_eq!(standing(&group, 2), Standing::WeightZero);
}

#[test]
fn a_start_is_told_apart_from_a_panic() {
    let mut group = Group::new(at(0), Settings { thresholds: CHECKED, ..settings() }, specs(2));
    assert_eq!((group.mode(), shares(&group)), (Mode::Starting, vec![256, 256]));
    group.record_check(at(1), 0, true);
    assert_eq!((group.mode(), shares(&group)), (Mode::Normal, vec![256, 0]));
    group.record_check(at(2), 1, false);
    group.record_check(at(3), 0, false);
    assert_eq!((group.mode(), shares(&group)), (Mode::Panic, vec![256, 256]));
    assert_eq!(standing(&group, 0), Standing::Panic);
    let modes: Vec<Event> =
        group.take_events().into_iter().filter(|event| matches!(event, Event::Mode { .. })).collect();
    let change = |from, to| Event::Mode { from, to };
    assert_eq!(modes, [change(Mode::Starting, Mode::Normal), change(Mode::Normal, Mode::Panic)]);
}

#[test]
fn an_ejected_target_is_out_for_longer_each_time() {
    let mut group = Group::new(at(0), Settings { eject: Some(EJECT), ..settings() }, specs(2));
    let mut now = at(0);
    for seconds in [10, 20, 30, 30] {
        assert!(group.eject(now.at, 0));
        assert_eq!(shares(&group), [0, 256]);
        assert_eq!(group.view(now.at, 0).unwrap().ejected_for, Some(SECOND * seconds));
        assert!(!group.eject(now.at, 0), "it is out already");
        let end = group.deadline().unwrap();
        assert_eq!(end, now.at + SECOND * seconds);
        now.at = end;
        group.tick(now.at);
        assert_eq!(shares(&group), [256, 256]);
    }
    now.at = now.at + 30 * SECOND;
    assert!(group.eject(now.at, 0));
    assert_eq!(group.view(now.at, 0).unwrap().ejected_for, Some(10 * SECOND), "it has done well for long");
}

#[test]
fn no_more_are_ejected_than_may_be() {
    let mut group = Group::new(at(0), Settings { eject: Some(EJECT), ..settings() }, specs(5));
    let ejected: Vec<bool> = (0..5).map(|target| group.eject(at(0).at, target)).collect();
    assert_eq!(ejected, [true, true, false, false, false]);
    assert_eq!(group.view(at(0).at, 2).unwrap().ejections_refused, 1);
    // With two of the others gone, two of three would be out.
    group.set_admin(at(1).at, 3, Admin::Drain);
    group.set_admin(at(1).at, 4, Admin::Maint);
    assert_eq!(shares(&group), [256, 0, 256, 0, 0]);
    group.configure(at(2), settings(), specs(5));
    assert_eq!(shares(&group), [256, 256, 256, 0, 0], "without `eject` none is out");
}

#[test]
fn drain_and_maintenance_take_nothing_new_and_close() {
    let mut group = Group::new(at(0), settings(), specs(3));
    group.set_admin(at(0).at, 0, Admin::Drain);
    group.set_admin(at(0).at, 1, Admin::Maint);
    assert_eq!(shares(&group), [0, 0, 256]);
    let closes: Vec<Option<Instant>> = (0..3).map(|target| group.close_at(target)).collect();
    assert_eq!(closes, [Some(at(5000).at), Some(at(0).at), None]);
    assert_eq!(group.deadline(), Some(at(5000).at));
    group.set_admin(at(3000).at, 0, Admin::Drain);
    assert_eq!(group.close_at(0), Some(at(5000).at), "said again, it is still the first drain");
    group.take_events();
    group.tick(at(5000).at);
    assert_eq!(group.take_events(), [Event::Drained { target: 0 }]);
    assert_eq!(group.deadline(), None);
    group.set_admin(at(6000).at, 2, Admin::Drain);
    assert_eq!((group.mode(), shares(&group)), (Mode::None, vec![0, 0, 0]), "that is no panic");
    group.set_admin(at(7000).at, 0, Admin::Ready);
    assert_eq!((group.share(0), group.close_at(0)), (256, None));
}

#[test]
fn the_administrators_word_outlives_a_reload_but_not_the_target() {
    let mut group = Group::new(at(0), Settings { thresholds: CHECKED, ..settings() }, specs(3));
    for target in 0..3 {
        group.record_check(at(0), target, true);
    }
    group.set_admin(at(0).at, 0, Admin::Drain);
    group.set_weight(at(0).at, 1, Some(7));
    let mut moved = specs(3);
    moved.reverse();
    moved[1].weight = 3;
    moved[2].address.set_port(81);
    group.configure(at(1), Settings { thresholds: CHECKED, ..settings() }, moved);
    assert_eq!(shares(&group), [256, 7 * 256, 0]);
    assert_eq!(standing(&group, 2), Standing::Drain, "also at another address");
    assert_eq!(group.view(at(1).at, 2).unwrap().health, HealthState::Undecided, "which has not been checked");
    group.set_weight(at(1).at, 1, None);
    assert_eq!(group.share(1), 3 * 256);
    group.configure(at(2), settings(), vec![spec(2)]);
    group.configure(at(3), settings(), specs(3));
    assert_eq!(shares(&group), [256, 256, 256]);
}

#[test]
fn a_slow_start_follows_a_recovery_and_never_the_first_start() {
    let slow = Settings { thresholds: CHECKED, slow_start: 64 * SECOND, ..settings() };
    let mut group = Group::new(at(0), slow.clone(), specs(2));
    for target in 0..2 {
        group.record_check(at(0), target, true);
    }
    assert_eq!((shares(&group), group.deadline()), (vec![256, 256], None));
    group.record_check(at(1), 0, false);
    group.record_check(at(1000), 0, true);
    assert_eq!(group.share(0), 8);
    let mut last = 0;
    let mut steps = 0;
    while let Some(deadline) = group.deadline() {
        group.tick(deadline);
        assert!(group.share(0) >= last && group.share(1) == 256);
        (last, steps) = (group.share(0), steps + 1);
        assert!(deadline <= at(65_000).at);
    }
    assert_eq!((last, steps), (256, 64));
    group.configure(at(70_000), slow, specs(3));
    group.record_check(at(70_000), 2, true);
    assert_eq!(group.share(2), 8, "one that is added while the others run starts slowly");
}

#[test]
fn what_is_discovered_right_after_the_start_was_there_from_the_beginning() {
    let slow = Settings { thresholds: CHECKED, slow_start: 64 * SECOND, ..settings() };
    let mut group = Group::new(at(0), slow.clone(), specs(1));
    group.record_check(at(5), 0, true);
    group.configure(at(900), slow, specs(3));
    group.record_check(at(910), 1, true);
    group.record_check(at(5000), 2, true);
    assert_eq!(shares(&group), [256, 256, 256]);
}

#[test]
fn zones_and_backups() {
    let mut targets = specs(4);
    (targets[0].zone, targets[1].zone) = (Some("here".to_owned()), Some("there".to_owned()));
    targets[3].backup = true;
    let zoned = Settings { zone: Some("here".to_owned()), thresholds: CHECKED, ..settings() };
    let mut group = Group::new(at(0), zoned, targets);
    for target in 0..4 {
        group.record_check(at(0), target, true);
    }
    assert_eq!(shares(&group), [256, 0, 256, 0], "one without a zone is everywhere");
    assert_eq!([1, 3].map(|target| standing(&group, target)), [Standing::OtherZone, Standing::StandsBy]);
    group.record_check(at(1), 0, false);
    group.record_check(at(1), 2, false);
    assert_eq!((group.mode(), shares(&group)), (Mode::Normal, vec![0, 256, 0, 0]));
    group.record_check(at(2), 1, false);
    assert_eq!((group.mode(), shares(&group)), (Mode::Backup, vec![0, 0, 0, 256]));
    group.record_check(at(3), 3, false);
    assert_eq!((group.mode(), shares(&group)), (Mode::Panic, vec![256; 4]));
}

/// Something that happens to a group.
#[derive(Clone, Debug)]
enum Step {
    Check(usize, bool),
    Eject(usize),
    Admin(usize, Admin),
    Weight(usize, Option<u16>),
    Wait(u64),
    /// To the next deadline.
    Jump,
    /// Keeps the targets whose bit is set.
    Reload(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let target = 0_usize..6;
    let admin = prop_oneof![3 => Just(Admin::Ready), 1 => Just(Admin::Drain), 1 => Just(Admin::Maint)];
    prop_oneof![
        8 => (target.clone(), any::<bool>()).prop_map(|(target, good)| Step::Check(target, good)),
        6 => target.clone().prop_map(Step::Eject),
        3 => (target.clone(), admin).prop_map(|(target, admin)| Step::Admin(target, admin)),
        2 => (target, proptest::option::of(0_u16..=256)).prop_map(|(target, weight)| Step::Weight(target, weight)),
        4 => (0_u64..20_000).prop_map(Step::Wait),
        4 => Just(Step::Jump),
        1 => any::<u8>().prop_map(Step::Reload),
    ]
}

prop_compose! {
    fn any_settings()(
        checked in any::<bool>(), eject in proptest::option::of(0_u8..=100), panic_percent in 0_u8..=100,
        slow_s in 0_u32..30, zoned in any::<bool>(),
    ) -> Settings {
        Settings {
            thresholds: checked.then_some(Thresholds { healthy: 2, unhealthy: 1 }),
            eject: eject.map(|max_percent| EjectSettings { max_percent, ..EJECT }),
            panic_percent,
            slow_start: SECOND * slow_s,
            drain_timeout: 5 * SECOND,
            zone: zoned.then(|| "here".to_owned()),
        }
    }
}

fn mixed(keep: u8) -> Vec<Spec> {
    let zones = [Some("here"), Some("there"), None];
    let mut targets = specs(6);
    for (index, target) in targets.iter_mut().enumerate() {
        target.backup = index >= 4;
        target.zone = zones[index % 3].map(str::to_owned);
    }
    targets.into_iter().enumerate().filter(|(index, _)| keep >> index & 1 == 1).map(|(_, it)| it).collect()
}

fn check_rules(group: &Group, now: Instant) -> Result<(), TestCaseError> {
    let views: Vec<View> = (0..group.len()).map(|target| group.view(now, target).unwrap()).collect();
    let eligible = |view: &View| view.admin == Admin::Ready && view.weight > 0;
    let ready = views.iter().filter(|view| eligible(view)).count();
    let out = views.iter().filter(|view| eligible(view) && view.ejected_for.is_some()).count();
    let percent = group.settings.eject.map_or(0, |settings| usize::from(settings.max_percent));
    prop_assert!(out * 100 <= percent * ready, "{} of {} are out", out, ready);
    for view in &views {
        let usable = eligible(view) && view.health.serves() && view.ejected_for.is_none();
        prop_assert_eq!(view.usable, usable);
        prop_assert!(view.share <= u32::from(view.weight) * SHARE_OF_WEIGHT_ONE);
        prop_assert!(view.share == 0 || eligible(view));
        let used = matches!(view.standing, Standing::InUse | Standing::Panic | Standing::Starting);
        prop_assert_eq!(view.share > 0, used);
        prop_assert!(usable || view.slow_start_percent.is_none());
        if view.slow_start_percent.is_none() && used {
            prop_assert_eq!(view.share, u32::from(view.weight) * SHARE_OF_WEIGHT_ONE);
        }
        prop_assert!(view.ejected_for.is_none_or(|left| left > Duration::ZERO && left <= EJECT.max));
    }
    prop_assert_eq!(group.mode() == Mode::None, ready == 0);
    prop_assert_eq!(views.iter().any(|view| view.share > 0), ready > 0);
    if group.mode() == Mode::Panic && group.settings.panic_percent == 0 {
        prop_assert!(views.iter().all(|view| !view.usable && (view.share > 0) == eligible(view)));
    }
    Ok(())
}

proptest! {
    #[test]
    fn the_rules_hold_whatever_happens(
        settings in any_settings(), other in any_settings(), steps in proptest::collection::vec(step(), 0..80),
    ) {
        let mut now = at(0);
        let mut group = Group::new(now, settings, mixed(0x3f));
        for step in steps {
            match step {
                Step::Check(target, good) => drop(group.record_check(now, target, good)),
                Step::Eject(target) => drop(group.eject(now.at, target)),
                Step::Admin(target, admin) => group.set_admin(now.at, target, admin),
                Step::Weight(target, weight) => group.set_weight(now.at, target, weight),
                Step::Wait(ms) => {
                    now.at = now.at + Duration::from_millis(ms);
                    group.tick(now.at);
                }
                Step::Jump => {
                    now.at = group.deadline().unwrap_or(now.at).max(now.at);
                    group.tick(now.at);
                }
                Step::Reload(keep) => group.configure(now, other.clone(), mixed(keep)),
            }
            check_rules(&group, now.at)?;
            prop_assert!(group.deadline().is_none_or(|deadline| deadline > now.at), "what was due is done");
            group.take_events();
            let before = shares(&group);
            group.tick(now.at);
            prop_assert_eq!(shares(&group), before);
            prop_assert_eq!(group.take_events(), vec![]);
        }
        // Left alone, it comes to rest.
        for _ in 0..6 * (SLOW_START_STEPS + 8) {
            let Some(deadline) = group.deadline() else { break };
            group.tick(deadline);
        }
        prop_assert_eq!(group.deadline(), None);
    }

    /// While nothing else happens the share of a recovering target only rises, and reaches its full size at the window's
    /// end.
    #[test]
    fn a_slow_start_rises_steadily(
        window_ms in 1_u64..100_000, weight in 1_u16..=256, waits in proptest::collection::vec(0_u64..5000, 0..40),
    ) {
        let slow_start = Duration::from_millis(window_ms);
        let mut targets = specs(2);
        targets[0].weight = weight;
        let mut group = Group::new(at(0), Settings { thresholds: CHECKED, slow_start, ..settings() }, targets);
        for (target, good) in [(0, true), (1, true), (0, false), (0, true)] {
            group.record_check(at(0), target, good);
        }
        let full = u32::from(weight) * SHARE_OF_WEIGHT_ONE;
        let (mut now, mut last) = (at(0).at, group.share(0));
        prop_assert!(last > 0 && last <= full / 32);
        for wait in waits {
            now = now + Duration::from_millis(wait);
            group.tick(now);
            prop_assert!(group.share(0) >= last);
            last = group.share(0);
            prop_assert_eq!(last == full, now.since(at(0).at) >= slow_start || group.view(now, 0).unwrap().slow_start_percent.is_none());
        }
        group.tick(at(window_ms).at);
        prop_assert_eq!(group.share(0), full);
    }
}

mod roster {
    use common::config::Target;

    use super::super::{ADDED_MAX, Origin, Roster, RosterError, Said};
    use super::*;

    fn target(index: u8) -> Target {
        config_target(&format!("t{index}"), spec(index).address)
    }

    fn ids(targets: &[Target]) -> Vec<&str> {
        targets.iter().map(|target| target.id.as_str()).collect()
    }

    #[test]
    fn added_and_deleted_targets_outlive_reloads() {
        let mut roster = Roster::default();
        let file = [target(0), target(1)];
        roster.add(&file, target(2)).unwrap();
        roster.delete(&file, "t0").unwrap();
        assert_eq!(ids(&roster.merge(&file)), ["t1", "t2"]);
        roster.settle(&file, None);
        assert_eq!(ids(&roster.merge(&file)), ["t1", "t2"]);
        // The file takes an added one over, and a deletion ends with the target.
        let file = [target(1), target(2)];
        roster.settle(&file, None);
        assert_eq!(roster.origins(&file)["t2"], Origin::File);
        let file = [target(0), target(1)];
        roster.settle(&file, None);
        assert_eq!(ids(&roster.merge(&file)), ["t0", "t1"]);
    }

    #[test]
    fn a_deleted_target_can_come_back_also_elsewhere() {
        let mut roster = Roster::default();
        let file = [target(0)];
        assert_eq!(roster.add(&file, target(0)), Err(RosterError::IdTaken { id: "t0".to_owned() }));
        roster.delete(&file, "t0").unwrap();
        assert_eq!(roster.delete(&file, "t0"), Err(RosterError::Unknown { id: "t0".to_owned() }));
        let mut moved = target(0);
        moved.address.set_port(81);
        roster.add(&file, moved.clone()).unwrap();
        roster.settle(&file, None);
        assert_eq!(roster.merge(&file), [moved]);
        roster.delete(&file, "t0").unwrap();
        roster.add(&file, target(0)).unwrap();
        assert_eq!((roster.merge(&file), roster.origins(&file)["t0"]), (vec![target(0)], Origin::File));
        let other = Target { id: "other".to_owned(), ..target(0) };
        assert!(matches!(roster.add(&file, other), Err(RosterError::AddressTaken { .. })));
    }

    #[test]
    fn discovered_targets_come_and_go_and_the_file_goes_first() {
        let mut roster = Roster::default();
        let file = [target(0)];
        let mut same = target(0);
        same.weight = 9;
        roster.settle(&file, Some(vec![same, target(1), target(2)]));
        assert_eq!(ids(&roster.merge(&file)), ["t0", "t1", "t2"]);
        assert_eq!(roster.merge(&file)[0].weight, 1);
        let origins = roster.origins(&file);
        assert_eq!((origins["t0"], origins["t1"]), (Origin::File, Origin::Discovered));
        roster.delete(&file, "t1").unwrap();
        roster.settle(&file, Some(vec![target(1)]));
        assert_eq!(ids(&roster.merge(&file)), ["t0"]);
        roster.settle(&file, Some(vec![]));
        roster.settle(&file, Some(vec![target(1)]));
        assert_eq!(ids(&roster.merge(&file)), ["t0", "t1"], "it had gone in between");
    }

    #[test]
    fn what_was_said_to_the_other_node_holds_here_too() {
        let file = [target(0), target(1)];
        let (mut here, mut there) = (Roster::default(), Roster::default());
        let tell = |from: &Roster, to: &mut Roster, id: &str| {
            let said = from.said(id);
            to.heed(&file, id, &said).map(|()| said)
        };
        here.add(&file, target(2)).unwrap();
        here.delete(&file, "t0").unwrap();
        let mut moved = target(1);
        moved.address.set_port(81);
        here.delete(&file, "t1").unwrap();
        here.add(&file, moved.clone()).unwrap();
        assert_eq!(tell(&here, &mut there, "t0"), Ok(Said::Deleted));
        assert_eq!(tell(&here, &mut there, "t1"), Ok(Said::Added { target: moved.clone(), instead: true }));
        assert_eq!(tell(&here, &mut there, "t2"), Ok(Said::Added { target: target(2), instead: false }));
        assert_eq!(there.merge(&file), [moved, target(2)]);
        assert_eq!(there, here);
        // Undone on the other one.
        there.delete(&file, "t2").unwrap();
        there.delete(&file, "t1").unwrap();
        there.add(&file, target(1)).unwrap();
        there.add(&file, target(0)).unwrap();
        for id in ["t0", "t1", "t2"] {
            assert_eq!(tell(&there, &mut here, id), Ok(Said::Given));
        }
        assert_eq!(here.merge(&file), file);
        // Where the file has it by now there is nothing to be added.
        let known = Said::Added { target: target(1), instead: false };
        assert_eq!(here.heed(&file, "t1", &known), Ok(()));
        assert_eq!((here.said("t1"), here.merge(&file).len()), (Said::Given, 2));
    }

    #[test]
    fn what_was_said_may_be_told_in_any_order() {
        let file = [target(0)];
        let at = |id: &str, index: u8| Target { id: id.to_owned(), ..target(index) };
        let mut here = Roster::default();
        for (id, index) in [("a", 1), ("b", 2), ("old", 3)] {
            here.add(&file, at(id, index)).unwrap();
        }
        let before = here.clone();
        for id in ["a", "b", "old", "t0"] {
            here.delete(&file, id).unwrap();
        }
        // Two have each other's addresses now, one has another name, and one is in the place of the file's.
        for (id, index) in [("a", 2), ("b", 1), ("new", 3), ("mine", 0)] {
            here.add(&file, at(id, index)).unwrap();
        }
        let names = ["a", "b", "old", "new", "mine", "t0"];
        for first in 0..names.len() {
            for step in [1, 5] {
                let mut there = before.clone();
                for number in 0..names.len() {
                    let id = names[(first + number * step) % names.len()];
                    there.heed(&file, id, &here.said(id)).unwrap();
                    let mut addresses: Vec<_> =
                        there.merge(&file).into_iter().map(|target| target.address).collect();
                    let count = addresses.len();
                    addresses.sort_unstable();
                    addresses.dedup();
                    assert_eq!(addresses.len(), count, "no two have the same address");
                }
                assert_eq!(there, here, "{first} {step}");
            }
        }
    }

    #[test]
    fn a_target_that_was_told_waits_for_its_address() {
        let file = [target(0)];
        let mut roster = Roster::default();
        let other = Target { id: "other".to_owned(), ..target(0) };
        let said = Said::Added { target: other.clone(), instead: false };
        roster.heed(&file, "other", &said).unwrap();
        assert_eq!((ids(&roster.merge(&file)), roster.said("other")), (vec!["t0"], said));
        assert_eq!(
            roster.add(&file, Target { id: "other".to_owned(), ..target(7) }),
            Err(RosterError::IdTaken { id: "other".to_owned() })
        );
        assert_eq!(roster.merge(&[]), [other]);
        roster.delete(&file, "other").unwrap();
        assert_eq!(roster, Roster::default());
    }

    #[test]
    fn a_deletion_that_was_told_waits_for_what_is_discovered_later() {
        let mut roster = Roster::default();
        roster.heed(&[], "t1", &Said::Deleted).unwrap();
        roster.settle(&[], None);
        roster.settle(&[], Some(vec![target(0), target(1)]));
        assert_eq!(ids(&roster.merge(&[])), ["t0"]);
        roster.settle(&[], Some(vec![target(0)]));
        assert_eq!(roster.said("t1"), Said::Given, "it was met, and is gone");
        for index in 0..ADDED_MAX {
            roster.heed(&[], &index.to_string(), &Said::Deleted).unwrap();
        }
        assert_eq!(roster.heed(&[], "more", &Said::Deleted), Err(RosterError::Full));
        assert_eq!(roster.heed(&[], "7", &Said::Deleted), Ok(()));
    }

    #[test]
    fn additions_are_bounded() {
        let mut roster = Roster::default();
        let numbered = |index: usize| {
            let port = u16::try_from(index + 1).unwrap();
            config_target(&format!("n{index}"), SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        };
        for index in 0..ADDED_MAX {
            roster.add(&[], numbered(index)).unwrap();
        }
        assert_eq!(roster.add(&[], numbered(ADDED_MAX)), Err(RosterError::Full));
    }
}

fn config_target(id: &str, address: SocketAddr) -> common::config::Target {
    common::config::Target {
        id: id.to_owned(),
        address,
        weight: 1,
        backup: false,
        zone: None,
        max_connections: None,
    }
}
