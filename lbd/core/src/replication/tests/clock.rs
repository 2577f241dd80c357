//! Words on targets that were said while the nodes did not hear each other: the later one stays.

use common::time::{Now, UnixTime};

use super::*;

/// The year 2027, in microseconds.
const TODAY: u64 = 1_800_000_000_000_000;

/// What the clocks say so long after the beginning.
fn clocks(millis: u64) -> Now {
    Now { at: at(millis), unix: UnixTime::from_nanos((TODAY + millis * 1000) * 1000) }
}

/// Nodes of which the first one takes it for 1970.
fn nodes() -> [Replica; 2] {
    let right = Settings::new("b", 2, 7, HashKey::new([1; 16]), TODAY);
    [replica("a", 1), Replica::new(right, at(0))]
}

/// That the target is in this state.
fn word(replica: &mut Replica, state: u8) -> Live {
    let target = Name::Target { group: Arc::from("shop"), id: Arc::from("s1") };
    let target = replica.name(target).unwrap();
    Live { entry: Entry::Target { target, state, weight: None }, remaining: None }
}

#[test]
fn a_clock_that_was_wrong_at_first_is_right_from_when_it_was_set_on() {
    for (ours, theirs, expected) in [(102, 101, 1), (101, 102, 2)] {
        let [mut one, mut other] = nodes();
        let mut words = [word(&mut one, 1), word(&mut other, 2)];
        one.set_clock(clocks(50));
        one.changed(at(ours), &words[0]);
        other.changed(at(theirs), &words[1]);
        one.connected(at(200));
        other.connected(at(200));
        settle_words([&mut one, &mut other], &mut words, at(200));
        let states = words.map(|word| match word.entry {
            Entry::Target { state, .. } => state,
            _ => 0,
        });
        assert_eq!(states, [expected; 2], "{ours} {theirs}");
    }
}

#[test]
fn a_clock_that_is_set_back_makes_no_word_earlier_than_those_before_it() {
    let [_, mut other] = nodes();
    let (first, second) = (word(&mut other, 1), word(&mut other, 2));
    let key = first.entry.key();
    other.changed(at(100), &first);
    let said = other.generation_of(&key);
    assert_eq!(said, Some(TODAY + 100_000));
    other.set_clock(Now { at: at(150), unix: UnixTime::from_nanos(7) });
    other.changed(at(200), &second);
    assert_eq!(other.generation_of(&key), said.map(|said| said + 1));
}
