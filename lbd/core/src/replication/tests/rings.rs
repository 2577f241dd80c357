//! Rings are changed when the peer is ready for them.

use super::super::hello::MINOR_OF_RINGS;
use super::*;

const WAIT: Duration = RING_WAIT;

fn ring(replica: &mut Replica) -> NameId {
    replica.name(Name::Ring(Arc::from("shop nat tcp ipv4"))).unwrap()
}

fn make(replica: &mut Replica, weights: &[u16]) -> RingMake {
    let target = |(number, &weight): (usize, &u16)| {
        let id = Arc::from(format!("t{number}"));
        (replica.name(Name::Target { group: Arc::from("shop"), id }).unwrap(), weight)
    };
    let members = weights.iter().enumerate().map(target).collect();
    RingMake { hash: weights.iter().fold(7, |hash, weight| hash * 257 + u64::from(*weight)), members }
}

/// Says what is asked, in the order in which it is.
fn asked(replica: &mut Replica) -> Vec<Action> {
    std::iter::from_fn(|| replica.poll()).collect()
}

fn outcome(replica: &mut Replica) -> Option<RingOutcome> {
    asked(replica).into_iter().find_map(|action| match action {
        Action::SwitchRing { outcome, .. } => Some(outcome),
        _ => None,
    })
}

/// Ids and weights.
fn shown(replica: &Replica, make: Option<&RingMake>) -> Vec<(String, u16)> {
    let member = |&(target, weight): &(NameId, u16)| match replica.name_of(target) {
        Some(Name::Target { id, .. }) => (id.to_string(), weight),
        other => panic!("{other:?} is no target"),
    };
    make.into_iter().flat_map(|make| make.members.iter().map(member)).collect()
}

#[test]
fn a_ring_waits_for_the_peer_and_for_all_that_was_changed_before() {
    let (mut one, mut other) = pair();
    let ring = ring(&mut one);
    let (old, new) = (make(&mut one, &[1, 1]), make(&mut one, &[1, 0, 3]));
    one.ring_used(ring, old);
    settle(&mut one, &mut other, at(200));
    let place = |replica: &Replica| replica.peer_ring(ring_of(replica)).cloned().unwrap();
    assert_eq!(shown(&other, place(&other).used.as_ref()), [("t0".to_owned(), 1), ("t1".to_owned(), 1)]);

    let flow = flow(&mut one, 9);
    one.changed(at(500), &flow);
    one.announce_ring(at(500), ring, new.clone(), WAIT);
    assert_eq!(asked(&mut one), []);
    // At once, although changes wait for others otherwise.
    transmit(&mut one, &mut other, at(500));
    let apply = asked(&mut other).into_iter().find_map(|action| match action {
        Action::Apply(apply) => Some(apply),
        _ => None,
    });
    let apply = apply.expect("the flow comes first");
    transmit(&mut other, &mut one, at(540));
    assert_eq!(outcome(&mut one), None, "the flow has not been written");
    assert_eq!(place(&other).next, None);
    other.applied(at(550), apply.id, &[]);
    transmit(&mut other, &mut one, at(550));
    assert_eq!(outcome(&mut one), Some(RingOutcome::Acknowledged));
    assert_eq!(outcome(&mut one), None, "it is said once");
    let known = place(&other);
    assert_eq!(shown(&other, known.next.as_ref()).len(), 3);
    assert_eq!(shown(&other, known.used.as_ref()).len(), 2, "as long as the peer chooses from it");

    // And the change itself is told behind the flows of the old ring.
    let late = super::flow(&mut one, 10);
    one.changed(at(551), &late);
    one.ring_used(ring, new);
    transmit(&mut one, &mut other, at(551));
    assert_eq!(shown(&other, place(&other).used.as_ref()).len(), 2, "the flow has not been written");
    settle(&mut one, &mut other, at(552));
    let known = place(&other);
    assert_eq!((shown(&other, known.used.as_ref()).len(), known.next), (3, None));
    let counters = one.stats(at(600)).counters;
    assert_eq!([counters.rings_acknowledged, counters.rings_timed_out, counters.rings_alone], [1, 0, 0]);
    assert_eq!(other.stats(at(600)).peer_rings, 1);
}

fn ring_of(replica: &Replica) -> NameId {
    let named = |number: u32| {
        let mut names = replica.rings.names();
        names.find(|id| id.number() == number && matches!(replica.name_of(*id), Some(Name::Ring(_))))
    };
    (0..100).find_map(named).expect("a ring is known")
}

#[test]
fn nobody_waits_for_long_nor_for_a_peer_that_is_not_in_step() {
    let (mut one, mut other) = pair();
    let ring = ring(&mut one);
    for weight in 1..4 {
        let make = make(&mut one, &[weight]);
        one.ring_used(ring, make);
    }
    // They say nothing to each other.
    let next = make(&mut one, &[9]);
    one.announce_ring(at(300), ring, next.clone(), WAIT);
    assert_eq!(one.deadline().map(|at| at <= Instant::from_nanos(400_000_000)), Some(true));
    one.timeout(at(399));
    assert_eq!(outcome(&mut one), None);
    one.timeout(at(400));
    assert_eq!(outcome(&mut one), Some(RingOutcome::TimedOut));
    one.ring_used(ring, next);
    // Nor does a shell have to wait for the outcome.
    let next = make(&mut one, &[10]);
    one.announce_ring(at(500), ring, next.clone(), WAIT);
    one.ring_used(ring, next);
    let counters = one.stats(at(500)).counters;
    assert_eq!([counters.rings_acknowledged, counters.rings_timed_out, counters.rings_alone], [0, 4, 0]);
    // Whoever waits when the session ends waits no longer.
    let next = make(&mut one, &[11]);
    one.announce_ring(at(600), ring, next.clone(), WAIT);
    one.disconnected(at(601));
    assert_eq!(outcome(&mut one), Some(RingOutcome::Alone));
    one.ring_used(ring, next);
    other.disconnected(at(601));
    // The next session begins with what is in use.
    one.connected(at(700));
    other.connected(at(700));
    settle(&mut one, &mut other, at(700));
    let known = other.peer_ring(ring_of(&other)).expect("it was told");
    assert_eq!(shown(&other, known.used.as_ref()), [("t0".to_owned(), 11)]);
}

#[test]
fn a_change_that_comes_to_nothing_is_taken_back() {
    let (mut one, mut other) = pair();
    let ring = ring(&mut one);
    let (old, new) = (make(&mut one, &[1]), make(&mut one, &[2]));
    one.ring_used(ring, old.clone());
    one.announce_ring(at(200), ring, new, WAIT);
    settle(&mut one, &mut other, at(200));
    let place = ring_of(&other);
    assert!(other.peer_ring(place).is_some_and(|known| known.next.is_some()));
    one.ring_used(ring, old);
    settle(&mut one, &mut other, at(400));
    assert!(other.peer_ring(place).is_some_and(|known| known.next.is_none() && known.used.is_some()));
    // And one that is gone is forgotten.
    one.ring_used(ring, RingMake::default());
    settle(&mut one, &mut other, at(600));
    assert_eq!(other.peer_ring(place), None);
    assert_eq!(other.stats(at(700)).peer_rings, 0);
}

/// What the ring before has placed waits in no dirty set then, whichever of both comes first.
#[test]
fn a_ring_is_told_behind_a_snapshot_that_has_what_the_one_before_has_placed() {
    for snapshot_first in [false, true] {
        let (mut one, mut other) = pair();
        let ring = ring(&mut one);
        let (old, new) = (make(&mut one, &[1, 1]), make(&mut one, &[1, 0, 3]));
        one.ring_used(ring, old);
        settle(&mut one, &mut other, at(200));
        let placed = flow(&mut one, 9);
        let flows = [placed];
        one.changed(at(500), &placed);
        if snapshot_first {
            one.resync(at(500));
            one.ring_used(ring, new);
        } else {
            one.ring_used(ring, new);
            one.resync(at(500));
        }
        let (mut now, mut has_flow) = (at(500), false);
        let is_told = |other: &Replica| {
            let known = other.peer_ring(ring_of(other)).expect("a ring was told of before");
            shown(other, known.used.as_ref()).len() == 3
        };
        for _ in 0..20 {
            now = now + Duration::from_millis(6);
            transmit(&mut one, &mut other, now);
            transmit(&mut other, &mut one, now);
            assert!(has_flow || !is_told(&other), "snapshot first: {snapshot_first}");
            while let Some(action) = one.poll() {
                if let Action::Scan(scan) = action {
                    let found = if scan.table == Table::Flows { &flows[..] } else { &[] };
                    one.scanned(now, scan.id, found, None);
                }
            }
            while let Some(action) = other.poll() {
                match action {
                    Action::Apply(apply) => {
                        has_flow |= apply.puts.iter().any(|put| put.live.entry.key() == placed.entry.key());
                        other.applied(now, apply.id, &[]);
                    }
                    Action::Scan(scan) => other.scanned(now, scan.id, &[], None),
                    _ => {}
                }
            }
        }
        assert!(has_flow && is_told(&other), "snapshot first: {snapshot_first}");
    }
}

#[test]
fn a_peer_of_the_version_before_is_told_nothing_of_rings() {
    let mut settings = Settings::new("b", 2, 7, HashKey::new([1; 16]), 100);
    settings.minor = MINOR_OF_RINGS - 1;
    let (mut one, mut other) = (replica("a", 1), Replica::new(settings, at(0)));
    let ring = ring(&mut one);
    let (old, new) = (make(&mut one, &[1]), make(&mut one, &[2]));
    one.ring_used(ring, old);
    one.connected(at(0));
    other.connected(at(0));
    settle(&mut one, &mut other, at(0));
    assert!(one.peer_is_synced() && !one.peer_takes_rings());
    one.announce_ring(at(200), ring, new, WAIT);
    assert_eq!(outcome(&mut one), Some(RingOutcome::Alone));
    settle(&mut one, &mut other, at(200));
    assert_eq!(one.state(), State::Synced);
    assert_eq!(other.stats(at(300)).peer_rings, 0);
}

#[test]
fn rings_without_bounds_are_refused() {
    let (mut one, mut other) = pair();
    // As many targets as all of a node's rings may have, in twice as many rings as there may be.
    let target = one.name(Name::Target { group: Arc::from("shop"), id: Arc::from("t") }).unwrap();
    for number in 0..=RINGS_MAX {
        let ring = one.name(Name::Ring(Arc::from(format!("ring {number}")))).unwrap();
        one.ring_used(ring, RingMake { hash: 1, members: vec![(target, 1)] });
    }
    for round in 1..100 {
        settle(&mut one, &mut other, at(200 * round));
    }
    let stats = other.stats(at(30_000));
    assert_eq!((stats.peer_rings, stats.counters.rings_refused), (RINGS_MAX, 1));
    let members = vec![(0, 1); RING_MEMBERS_MAX + 1];
    let sequence = one.session.as_ref().unwrap().outgoing.sequence + 1;
    let mut bytes = Vec::new();
    Frame::Ring(RingFrame { sequence, ring: 0, hash: 1, used: true, members }).append(&mut bytes).unwrap();
    other.received(at(30_000), &bytes);
    let ended = asked(&mut other).into_iter().find(|action| matches!(action, Action::Disconnect(_)));
    assert!(matches!(ended, Some(Action::Disconnect(SessionError::Unexpected(_)))), "{ended:?}");
}
