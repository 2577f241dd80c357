//! §6.1: the parameters of a virtual router.

use common::ipc::Role;
use common::time::Duration;
use vrrpd_core::packet::Advert;

use crate::entry::Level::Step;
use crate::entry::{Entry, Place, case};
use crate::harness::*;

pub(crate) const ENTRIES: &[Entry] = &[
    Entry {
        rfc: 9568,
        section: "6.1",
        nth: 1,
        level: Step,
        text: "Advertisement_Interval: Time interval between VRRP Advertisements (centiseconds). Erratum 8301: 1 to 4095.",
        place: Place::Elsewhere {
            tests: &[
                ("common/tests/config_accepted.rs", "the_bounds_of_instances"),
                ("common/tests/config_errors.rs", "every_case_is_shown_as_expected"),
            ],
        },
    },
    Entry {
        rfc: 9568,
        section: "6.1",
        nth: 2,
        level: Step,
        text: "Skew_Time: (((256 - Priority) * Active_Adver_Interval) / 256)",
        place: Place::Core {
            positive: case!(a_lower_priority_waits_longer),
            negative: case!(the_skew_of_a_short_interval_is_not_rounded_to_nothing),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.1",
        nth: 3,
        level: Step,
        text: "Active_Down_Interval: (3 * Active_Adver_Interval) + Skew_Time",
        place: Place::Core {
            positive: case!(silence_is_noticed_after_the_active_down_interval),
            negative: case!(a_nanosecond_earlier_it_is_not),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.1",
        nth: 4,
        level: Step,
        text: "Preempt_Mode: Controls whether a (starting or restarting) higher-priority Backup Router preempts a lower-priority Active Router.",
        place: Place::Core {
            positive: case!(a_higher_priority_preempts),
            negative: case!(without_preempt_mode_it_does_not),
        },
    },
    Entry {
        rfc: 9568,
        section: "6.1",
        nth: 5,
        level: Step,
        text: "the router that owns the IPvX address associated with the Virtual Router always preempts, independent of the setting of this flag",
        place: Place::Core {
            positive: case!(the_owner_preempts_without_preempt_mode),
            negative: case!(without_preempt_mode_it_does_not),
        },
    },
];

fn down_interval(interval: Duration, priority: u32) -> Duration {
    interval * 3 + interval * (256 - priority) / 256
}

fn silence(interval: Duration, priority: u8) -> Duration {
    let settings = settings_with(|router| {
        router.interval = interval;
        router.priority = priority;
    });
    let mut lab = Lab::backup(settings);
    lab.run_until_role(Role::Active)
}

#[test]
fn a_lower_priority_waits_longer() {
    let waits: Vec<Duration> =
        [254, 200, 100, 1].map(|priority| silence(Duration::from_secs(1), priority)).to_vec();
    assert!(waits.is_sorted_by(|one, two| one < two), "{waits:?}");
}

#[test]
fn the_skew_of_a_short_interval_is_not_rounded_to_nothing() {
    // In centiseconds it would be 0 for every priority.
    assert_eq!(silence(ms(10), 254) - ms(30), Duration::from_nanos(10_000_000 * 2 / 256));
    assert_eq!(silence(ms(10), 1) - ms(30), Duration::from_nanos(10_000_000 * 255 / 256));
}

#[test]
fn silence_is_noticed_after_the_active_down_interval() {
    for interval in [ms(10), ms(100), ms(1_000), ms(40_000)] {
        for priority in [1, 100, 254] {
            assert_eq!(silence(interval, priority), down_interval(interval, priority.into()));
        }
    }
}

#[test]
fn a_nanosecond_earlier_it_is_not() {
    let mut lab = Lab::backup(settings());
    lab.run_for(down_interval(INTERVAL, 200) - Duration::from_nanos(1));
    assert_eq!(lab.role(), Role::Backup);
    lab.run_for(Duration::from_nanos(1));
    assert_eq!(lab.role(), Role::Active);
}

#[test]
fn a_higher_priority_preempts() {
    let mut lab = Lab::backup(settings());
    lab.hear_for(199, Duration::from_secs(1));
    assert_eq!(lab.role(), Role::Active);
}

#[test]
fn without_preempt_mode_it_does_not() {
    let mut lab = Lab::backup(settings_with(|router| router.preempt = false));
    lab.hear_for(199, Duration::from_secs(10));
    assert_eq!(lab.role(), Role::Backup);
}

#[test]
fn the_owner_preempts_without_preempt_mode() {
    let mut settings = settings_with(|router| {
        router.priority = 255;
        router.preempt = false;
    });
    settings.instances[0].priority = 255;
    let mut lab = Lab::new(settings);
    lab.interface(Some(interface_up()));
    // It is backup for once, because another owner has the higher address.
    let other = Advert { priority: 255, ..advert_of(&lab.first(), 255) };
    lab.hear_advert(&other);
    assert_eq!(lab.role(), Role::Backup);
    lab.hear_for(254, Duration::from_secs(1));
    assert_eq!(lab.role(), Role::Active);
}
