//! The table against a plain model, and its rules one by one.

use std::collections::BTreeMap;
use std::hash::{BuildHasherDefault, DefaultHasher};

use proptest::prelude::*;

use super::*;

type Table<T> = Sessions<T, BuildHasherDefault<DefaultHasher>>;

const IDLE_MS: u64 = 100;

fn table<T>() -> Table<T> {
    Sessions::new(BuildHasherDefault::default())
}

fn key(client: u8, local: u8) -> Key {
    Key { client: ([10, 0, 0, client], 4000).into(), local: [127, 0, 0, local].into() }
}

fn sweep_all<T: Copy>(
    table: &mut Table<T>,
    now_ms: u64,
    standing: impl Fn(&T) -> Standing,
) -> Vec<(T, SessionEnd)> {
    let (mut ended, mut lived) = (Vec::new(), 0);
    for _ in 0..SLICES {
        let lives = |_: &T, active_ms| {
            assert!(active_ms + IDLE_MS > now_ms);
            lived += 1;
        };
        table.sweep(now_ms, |_| IDLE_MS, &standing, lives, |value, end| ended.push((value, end)));
    }
    assert!(lived >= table.len());
    ended
}

#[test]
fn one_session_for_each_client_and_address() {
    let mut table = table();
    assert_eq!(table.receive(&key(1, 1), 0, |_| Standing::Serves), Decision::New);
    let (first, none) = table.insert(key(1, 1), 'a', 0);
    assert_eq!(none, None);
    assert_eq!(table.receive(&key(1, 1), 1, |_| Standing::Serves), Decision::Forward(first));
    assert_eq!(table.receive(&key(1, 2), 1, |_| Standing::Serves), Decision::New, "another address of ours");
    assert_eq!(table.receive(&key(2, 1), 1, |_| Standing::Serves), Decision::New, "another client");
    assert_eq!(SessionId::from_bits(first.to_bits()), first);
    let (second, replaced) = table.insert(key(1, 1), 'b', 2);
    assert_eq!(replaced, Some('a'));
    assert!(table.get(first).is_none() && table.get(second).is_some_and(|session| session.value == 'b'));
    assert_eq!(table.len(), 1);
}

#[test]
fn a_session_moves_once_its_target_is_gone_or_its_time_has_passed() {
    let mut table = table();
    let (id, _) = table.insert(key(1, 1), 'a', 0);
    assert_eq!(table.receive(&key(1, 1), 10, |_| Standing::Until(11)), Decision::Forward(id));
    assert_eq!(table.receive(&key(1, 1), 11, |_| Standing::Until(11)), Decision::Move(id));
    assert_eq!(table.receive(&key(1, 1), 11, |_| Standing::Gone), Decision::Move(id));
    table.settle(id, |at| *at = 'b');
    assert_eq!(
        table.receive(&key(1, 1), 12, |&at| if at == 'a' { Standing::Gone } else { Standing::Serves }),
        Decision::Forward(id)
    );
    table.leave(id);
    assert_eq!(
        table.receive(&key(1, 1), 13, |_| Standing::Serves),
        Decision::Move(id),
        "its target failed it"
    );
    table.settle(id, |_| ());
    assert_eq!(table.receive(&key(1, 1), 14, |_| Standing::Serves), Decision::Forward(id));
    table.leave_where(|&at| at == 'x');
    assert_eq!(table.receive(&key(1, 1), 15, |_| Standing::Serves), Decision::Forward(id));
    table.leave_where(|&at| at == 'b');
    assert_eq!(table.receive(&key(1, 1), 15, |_| Standing::Serves), Decision::Move(id));
}

#[test]
fn both_directions_keep_a_session_alive() {
    let mut table = table();
    let (id, _) = table.insert(key(1, 1), 'a', 0);
    table.touch(id, 60);
    assert_eq!(sweep_all(&mut table, 159, |_| Standing::Serves), []);
    assert_eq!(table.receive(&key(1, 1), 159, |_| Standing::Serves), Decision::Forward(id));
    assert_eq!(sweep_all(&mut table, 258, |_| Standing::Until(259)), []);
    assert_eq!(sweep_all(&mut table, 259, |_| Standing::Serves), [('a', SessionEnd::Idle)]);
    assert!(table.is_empty() && table.get(id).is_none());
}

#[test]
fn only_those_that_are_wanted_are_taken_out() {
    let mut table = table();
    let ids = [(1, 'a'), (2, 'b'), (3, 'a')].map(|(client, value)| table.insert(key(client, 1), value, 0).0);
    assert_eq!(table.take_where(|value| *value == 'a'), ['a', 'a']);
    assert_eq!(ids.map(|id| table.get(id).map(|session| session.value)), [None, Some('b'), None]);
    assert_eq!(table.receive(&key(1, 1), 1, |_| Standing::Serves), Decision::New);
    // Their places are used again, under other names.
    let (again, replaced) = table.insert(key(1, 1), 'c', 1);
    assert!(replaced.is_none() && !ids.contains(&again));
    assert_eq!((table.len(), table.take_where(|_| false).len()), (2, 0));
}

#[test]
fn a_drained_target_ends_its_sessions_even_if_nobody_sends() {
    let mut table = table();
    table.insert(key(1, 1), 'a', 0);
    assert_eq!(sweep_all(&mut table, 50, |_| Standing::Gone), [], "it moves with its next datagram instead");
    assert_eq!(sweep_all(&mut table, 50, |_| Standing::Until(50)), [('a', SessionEnd::Drained)]);
}

#[derive(Clone, Debug)]
enum Step {
    Receive(u8, u8),
    Answer(u8),
    Fail(u8),
    TargetGone(u8),
    TargetDrains(u8, u64),
    TargetBack(u8),
    Sweep,
    Remove(u8),
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0_u8..6, 0_u8..2).prop_map(|(client, local)| Step::Receive(client, local)),
        3 => any::<u8>().prop_map(Step::Answer),
        1 => any::<u8>().prop_map(Step::Fail),
        1 => (0_u8..3).prop_map(Step::TargetGone),
        1 => (0_u8..3, 0_u64..150).prop_map(|(target, after)| Step::TargetDrains(target, after)),
        2 => (0_u8..3).prop_map(Step::TargetBack),
        3 => Just(Step::Sweep),
        1 => any::<u8>().prop_map(Step::Remove),
        1 => Just(Step::Clear),
    ]
}

/// What the model knows of a session.
#[derive(Clone, Debug)]
struct Known {
    id: SessionId,
    target: u8,
    active_ms: u64,
    leaving: bool,
}

/// The model: no slots, no generations, no slices.
#[derive(Default)]
struct Model {
    sessions: BTreeMap<Key, Known>,
    standing: [Option<Standing>; 3],
    ended: Vec<SessionId>,
}

impl Model {
    fn standing(&self, target: u8) -> Standing {
        self.standing[usize::from(target)].unwrap_or(Standing::Serves)
    }

    /// A session, chosen by any number.
    fn pick(&self, number: u8) -> Option<Key> {
        let count = self.sessions.len().max(1);
        self.sessions.keys().nth(usize::from(number) % count).copied()
    }

    fn end(&mut self, key: &Key) {
        if let Some(known) = self.sessions.remove(key) {
            self.ended.push(known.id);
        }
    }
}

fn receive(table: &mut Table<u8>, model: &mut Model, key: Key, now_ms: u64) -> Result<(), TestCaseError> {
    let decision = table.receive(&key, now_ms, |&target| model.standing(target));
    let serving = (0..3).find(|&target| model.standing(target) == Standing::Serves);
    let Some(known) = model.sessions.get(&key) else {
        prop_assert_eq!(decision, Decision::New);
        if let Some(target) = serving {
            let (id, replaced) = table.insert(key, target, now_ms);
            prop_assert_eq!(replaced, None);
            model.sessions.insert(key, Known { id, target, active_ms: now_ms, leaving: false });
        }
        return Ok(());
    };
    let gone = match model.standing(known.target) {
        Standing::Serves => false,
        Standing::Until(end_ms) => end_ms <= now_ms,
        Standing::Gone => true,
    };
    let mut known = Known { active_ms: now_ms, ..known.clone() };
    if !gone && !known.leaving {
        prop_assert_eq!(decision, Decision::Forward(known.id));
        model.sessions.insert(key, known);
        return Ok(());
    }
    prop_assert_eq!(decision, Decision::Move(known.id));
    match serving {
        Some(target) => {
            table.settle(known.id, |at| *at = target);
            known.target = target;
            known.leaving = false;
            model.sessions.insert(key, known);
        }
        None => {
            prop_assert_eq!(table.remove(known.id), Some(known.target));
            model.end(&key);
        }
    }
    Ok(())
}

fn sweep(table: &mut Table<u8>, model: &mut Model, now_ms: u64) -> Result<(), TestCaseError> {
    let mut expected = Vec::new();
    for (key, known) in &model.sessions {
        let drained = matches!(model.standing(known.target), Standing::Until(end_ms) if end_ms <= now_ms);
        if now_ms - known.active_ms >= IDLE_MS {
            expected.push((*key, known.target, SessionEnd::Idle));
        } else if drained {
            expected.push((*key, known.target, SessionEnd::Drained));
        }
    }
    let mut ended = sweep_all(table, now_ms, |&target| model.standing(target));
    let mut values: Vec<_> = expected.iter().map(|&(_, target, end)| (target, end)).collect();
    ended.sort_by_key(|&(target, end)| (target, end.index()));
    values.sort_by_key(|&(target, end)| (target, end.index()));
    prop_assert_eq!(ended, values);
    for (key, ..) in expected {
        model.end(&key);
    }
    Ok(())
}

proptest! {
    #[test]
    fn the_table_does_as_the_model(steps in proptest::collection::vec((step(), 0_u64..40), 0..300)) {
        let mut table = table();
        let mut model = Model::default();
        let mut now_ms = 0;
        for (step, later) in steps {
            now_ms += later;
            match step {
                Step::Receive(client, local) => receive(&mut table, &mut model, key(client, local), now_ms)?,
                Step::Answer(number) => if let Some(known) = model.pick(number).and_then(|key| model.sessions.get_mut(&key)) {
                    table.touch(known.id, now_ms);
                    known.active_ms = now_ms;
                },
                Step::Fail(number) => if let Some(known) = model.pick(number).and_then(|key| model.sessions.get_mut(&key)) {
                    table.leave(known.id);
                    known.leaving = true;
                },
                Step::TargetGone(target) => model.standing[usize::from(target)] = Some(Standing::Gone),
                Step::TargetDrains(target, after) => {
                    model.standing[usize::from(target)] = Some(Standing::Until(now_ms + after));
                }
                Step::TargetBack(target) => model.standing[usize::from(target)] = None,
                Step::Sweep => sweep(&mut table, &mut model, now_ms)?,
                Step::Remove(number) => if let Some(key) = model.pick(number) {
                    let known = model.sessions[&key].clone();
                    prop_assert_eq!(table.remove(known.id), Some(known.target));
                    model.end(&key);
                },
                Step::Clear => {
                    prop_assert_eq!(table.drain().count(), model.sessions.len());
                    for key in model.sessions.keys().copied().collect::<Vec<_>>() {
                        model.end(&key);
                    }
                }
            }
            prop_assert_eq!(table.len(), model.sessions.len());
            for (key, known) in &model.sessions {
                let session = table.get(known.id);
                prop_assert!(session.is_some_and(|it| it.key == *key && it.value == known.target && it.is_leaving() == known.leaving));
            }
            // An id of a session that has ended never finds another one.
            for &id in &model.ended {
                prop_assert!(table.get(id).is_none());
            }
        }
    }
}
