use proptest::prelude::*;

use super::*;

const DAY: i64 = 86_400;

/// 2024-01-01, in seconds since 1970.
const BEGIN: i64 = 1_704_067_200;

fn at(seconds: u64) -> Now {
    let unix = u64::try_from(BEGIN).unwrap() + seconds;
    Now { at: Instant::from_nanos(seconds * 1_000_000_000), unix: UnixTime::from_nanos(unix * 1_000_000_000) }
}

fn names(of: &str) -> Names {
    Names::new("https://ca.example/dir", [of.to_owned()]).unwrap()
}

/// An agenda that wants these, and orders all of them.
fn agenda(of: &[&str]) -> Agenda {
    let mut agenda = Agenda::new(7);
    let wanted: BTreeSet<Names> = of.iter().map(|name| names(name)).collect();
    agenda.configure(at(0), None, &wanted);
    for names in &wanted {
        agenda.may_order(names, true);
    }
    agenda
}

fn days(from: i64, count: i64) -> Validity {
    Validity { not_before: BEGIN + from * DAY, not_after: BEGIN + (from + count) * DAY }
}

fn day(number: u64) -> Now {
    at(number * 86_400)
}

#[test]
fn a_certificate_is_renewed_when_a_third_of_its_life_is_left_or_as_it_is_said() {
    let at_day = |validity: Validity, before| (validity.renew_at(before) - BEGIN) / DAY;
    let of = |count: u64| Some(Duration::from_secs(count * 86_400));
    assert_eq!(at_day(days(0, 90), None), 60);
    assert_eq!(at_day(days(0, 90), of(10)), 80);
    assert_eq!(at_day(days(0, 90), of(30)), 60);
    assert_eq!(at_day(days(0, 6), of(30)), 3, "not before half of it");
    assert_eq!(at_day(days(0, 0), of(30)), 0);
    let backwards = Validity { not_before: BEGIN + DAY, not_after: BEGIN };
    assert_eq!(backwards.renew_at(None), BEGIN);
    assert_eq!(Validity { not_before: i64::MIN, not_after: 0 }.renew_at(None), -(i64::MAX / 3));
}

#[test]
fn one_is_ordered_at_a_time_and_renewed_in_time() {
    let mut agenda = agenda(&["a", "b"]);
    assert_eq!(agenda.deadline(at(0)), Some(Instant::ZERO));
    let first = agenda.next(at(0)).unwrap();
    assert_eq!((agenda.next(at(0)), agenda.deadline(at(0))), (None, None));
    assert_eq!(agenda.view(at(0), &first).unwrap().progress, Progress::UnderWay);
    agenda.placing(at(0));
    agenda.succeeded(days(0, 90));
    let second = agenda.next(at(1)).unwrap();
    assert_ne!(first, second);
    agenda.placing(at(1));
    agenda.succeeded(days(0, 60));
    assert_eq!(agenda.next(day(39)), None);
    assert_eq!(agenda.deadline(day(39)), Some(day(40).at));
    assert_eq!(agenda.next(day(40)), Some(second));
    agenda.succeeded(days(40, 60));
    assert_eq!(agenda.next(day(59)), None);
    assert_eq!(agenda.next(day(60)), Some(first.clone()));
    agenda.succeeded(days(60, 90));
    assert_eq!(
        agenda.view(day(60), &first).unwrap().next,
        Some(Duration::from_secs(20 * 86_400 + 40 * 86_400))
    );
}

#[test]
fn who_may_not_order_waits_for_what_the_other_one_has() {
    let mut agenda = agenda(&["a"]);
    let a = names("a");
    agenda.may_order(&a, false);
    assert_eq!((agenda.next(at(0)), agenda.deadline(at(0))), (None, None));
    assert!(agenda.is_better(&a, days(0, 90)));
    agenda.has(&a, days(0, 90));
    assert!(!agenda.is_better(&a, days(0, 90)) && agenda.is_better(&a, days(0, 91)));
    // It takes over: there is nothing to be done before it is time.
    agenda.may_order(&a, true);
    assert_eq!(agenda.next(day(1)), None);
    assert_eq!(agenda.next(day(60)), Some(a));
}

#[test]
fn pauses_grow_and_end_with_a_success() {
    let mut agenda = agenda(&["a"]);
    let a = names("a");
    let mut now = 0;
    for round in 0..12 {
        assert_eq!(agenda.next(at(now)), Some(a.clone()), "{round}");
        agenda.failed(at(now), FailureKind::Directory, "connection refused", false);
        let view = agenda.view(at(now), &a).unwrap();
        assert_eq!((view.failures, view.progress), (round + 1, Progress::Missing));
        assert_eq!(view.last_failure.unwrap().message, "connection refused");
        let least = Duration::from_secs((2_u64 << round).min(900));
        let next = view.next.unwrap();
        assert!(next >= least && next <= least + least / 4, "{round}: {next:?}");
        assert_eq!(agenda.next(at(now + next.as_secs() - 1)), None);
        now += next.as_secs() + 1;
    }
    assert_eq!(agenda.next(at(now)), Some(a.clone()));
    agenda.placing(at(now));
    agenda.succeeded(days(0, 90));
    let view = agenda.view(at(now), &a).unwrap();
    assert_eq!((view.failures, view.last_failure, view.progress), (0, None, Progress::Here));
}

#[test]
fn one_that_fails_keeps_no_other_waiting() {
    let mut agenda = agenda(&["a", "b"]);
    assert_eq!(agenda.next(at(0)), Some(names("a")));
    agenda.placing(at(0));
    agenda.failed(at(0), FailureKind::Challenge, "not found", true);
    assert_eq!(agenda.next(at(0)), Some(names("b")));
    agenda.placing(at(0));
    agenda.succeeded(days(0, 90));
    assert_eq!(agenda.next(at(59)), None);
    assert_eq!(agenda.next(at(76)), Some(names("a")));
}

#[test]
fn a_reload_orders_nothing_sooner() {
    let mut agenda = agenda(&["a"]);
    let (a, b) = (names("a"), names("b"));
    for _ in 0..ORDERS_OF_ONE_MAX {
        agenda.items.get_mut(&a).unwrap().not_before = Instant::ZERO;
        assert_eq!(agenda.next(at(10)), Some(a.clone()));
        agenda.placing(at(10));
        agenda.failed(at(10), FailureKind::Challenge, "not found", true);
    }
    let only_b = BTreeSet::from([b.clone()]);
    agenda.configure(at(20), None, &only_b);
    assert!(!agenda.wants(&a) && agenda.wants(&b));
    assert_eq!(agenda.wanted().collect::<Vec<_>>(), [&b]);
    agenda.configure(at(30), None, &BTreeSet::from([a.clone()]));
    agenda.may_order(&a, true);
    agenda.items.get_mut(&a).unwrap().not_before = Instant::ZERO;
    assert_eq!(agenda.next(at(3000)), None, "its orders are remembered");
    assert_eq!(agenda.deadline(at(3000)), Some(at(3610).at));
    assert_eq!(agenda.next(at(3610)), Some(a.clone()));
    agenda.failed(at(3610), FailureKind::Local, "", false);
    // Nothing is left of what has not been wanted for long.
    agenda.configure(at(9000), None, &only_b);
    assert_eq!(agenda.items.len(), 1);
}

#[test]
fn each_kind_of_failure_has_its_place_and_its_name() {
    for (index, kind) in FailureKind::ALL.into_iter().enumerate() {
        assert_eq!(kind.index(), index);
        assert_eq!(FailureKind::ALL.iter().filter(|other| other.name() == kind.name()).count(), 1);
    }
    let mut agenda = agenda(&["a"]);
    agenda.next(at(0)).unwrap();
    agenda.failed(at(0), FailureKind::RateLimited, &"x".repeat(5000), true);
    let view = agenda.view(at(0), &names("a")).unwrap();
    assert!(view.next.unwrap() >= Duration::from_secs(3600));
    assert_eq!(view.last_failure.unwrap().message.len(), MESSAGE_CHARS_MAX);
}

#[test]
fn what_an_authority_writes_cannot_steer_a_terminal() {
    let mut agenda = agenda(&["a"]);
    agenda.next(at(0)).unwrap();
    agenda.failed(at(0), FailureKind::Refused, "no\u{1b}[2J\r\nyes\u{9b}1m é\t\0\u{7f}", true);
    let message = agenda.view(at(0), &names("a")).unwrap().last_failure.unwrap().message;
    assert_eq!(message.replace(char::REPLACEMENT_CHARACTER, "?"), "no?[2J??yes?1m é???");
}

/// Something that happens.
#[derive(Clone, Debug)]
enum Event {
    /// Time passes.
    Wait(u64),
    /// Until the next is due.
    Skip,
    /// The order under way ends.
    Fail(usize, bool),
    Succeed(i64),
    Reload(Vec<bool>),
    Orders(usize, bool),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => (0_u64..5000).prop_map(Event::Wait),
        6 => Just(Event::Skip),
        4 => (0..FailureKind::COUNT, any::<bool>()).prop_map(|(kind, placed)| Event::Fail(kind, placed)),
        3 => (0_i64..100).prop_map(Event::Succeed),
        1 => proptest::collection::vec(any::<bool>(), 5).prop_map(Event::Reload),
        1 => (0..5_usize, any::<bool>()).prop_map(|(place, orders)| Event::Orders(place, orders)),
    ]
}

proptest! {
    /// Whatever happens: one order at a time, never more in an hour than there may be, none before half of a certificate's life is over, and
    /// what is due is not forgotten.
    #[test]
    fn authorities_are_asked_no_more_than_is_right(
        seed in any::<u64>(), events in proptest::collection::vec(event(), 1..300), short in any::<bool>(),
    ) {
        let all = ["a", "b", "c", "d", "e"];
        let mut agenda = agenda(&all);
        agenda.jitter = common::rng::Rng::new(seed);
        let mut time = 0;
        let mut under_way: Option<Names> = None;
        let mut placed: Vec<(u64, Names)> = Vec::new();
        let mut valid: BTreeMap<Names, Validity> = BTreeMap::new();
        for event in events {
            match event {
                Event::Wait(seconds) => time += seconds,
                Event::Skip => {
                    if let Some(deadline) = agenda.deadline(at(time)) {
                        time = time.max(deadline.as_nanos().div_ceil(1_000_000_000));
                    }
                }
                Event::Fail(kind, was_placed) => {
                    if let Some(names) = under_way.take() {
                        if was_placed {
                            agenda.placing(at(time));
                            placed.push((time, names));
                        }
                        agenda.failed(at(time), FailureKind::ALL[kind], "", was_placed);
                    }
                }
                Event::Succeed(life) => {
                    if let Some(names) = under_way.take() {
                        agenda.placing(at(time));
                        placed.push((time, names.clone()));
                        let life = if short { life } else { life * 3600 };
                        let not_before = BEGIN + i64::try_from(time).unwrap();
                        let validity = Validity { not_before, not_after: not_before + life };
                        valid.insert(names, validity);
                        agenda.succeeded(validity);
                    }
                }
                Event::Reload(wanted) => {
                    let wanted = all.iter().zip(wanted).filter(|(_, wanted)| *wanted);
                    let wanted: BTreeSet<Names> = wanted.map(|(name, _)| names(name)).collect();
                    agenda.configure(at(time), None, &wanted);
                    for names in &wanted {
                        agenda.may_order(names, true);
                    }
                    // What is no longer wanted may have been forgotten.
                    valid.retain(|names, _| wanted.contains(names));
                }
                Event::Orders(place, orders) => agenda.may_order(&names(all[place]), orders),
            }
            let due = agenda.deadline(at(time)).is_some_and(|deadline| deadline <= at(time).at);
            let next = agenda.next(at(time));
            prop_assert_eq!(next.is_some(), due);
            if let Some(names) = next {
                prop_assert!(under_way.is_none() && agenda.wants(&names));
                if let Some(known) = valid.get(&names) {
                    let half = known.not_before + (known.not_after - known.not_before) / 2;
                    prop_assert!(BEGIN + i64::try_from(time).unwrap() >= half);
                }
                under_way = Some(names);
            }
            prop_assert!(agenda.items.len() <= all.len());
        }
        let hour = ORDERS_WITHIN.as_secs();
        for (index, (time, names)) in placed.iter().enumerate() {
            let before = placed[..=index].iter().filter(|(at, _)| at + hour > *time);
            prop_assert!(before.clone().count() <= ORDERS_MAX);
            prop_assert!(before.filter(|(_, other)| other == names).count() <= ORDERS_OF_ONE_MAX);
        }
    }
}
