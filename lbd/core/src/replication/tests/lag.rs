//! How long what has changed has been waiting.

use super::*;

fn lag(replica: &Replica, millis: u64) -> Duration {
    replica.stats(at(millis)).lag
}

#[test]
fn without_a_session_changes_wait_until_the_next_one_has_told_everything() {
    let (mut one, mut other) = pair();
    for replica in [&mut one, &mut other] {
        replica.disconnected(at(300));
        assert_eq!(lag(replica, 1300), Duration::ZERO, "nothing has changed that the peer has not been sent");
    }
    for (number, time) in [(1, 2000), (2, 2500)] {
        let live = flow(&mut one, number);
        one.changed(at(time), &live);
    }
    assert_eq!([lag(&one, 5000), lag(&other, 5000)], [Duration::from_secs(3), Duration::ZERO]);
    one.connected(at(6000));
    other.connected(at(6000));
    assert_eq!(lag(&one, 6000), Duration::from_secs(4), "nothing is told yet");
    settle(&mut one, &mut other, at(6000));
    assert!(one.peer_is_synced());
    assert_eq!(lag(&one, 6500), Duration::ZERO);
}

#[test]
fn what_waited_when_the_session_ended_goes_on_waiting() {
    let (mut one, mut other) = pair();
    let live = flow(&mut one, 1);
    one.changed(at(200), &live);
    assert_eq!(lag(&one, 203), Duration::from_millis(3));
    one.disconnected(at(204));
    assert_eq!(lag(&one, 1200), Duration::from_secs(1));
    // One that the peer knows, and is not told of the end of.
    other.disconnected(at(204));
    one.connected(at(2000));
    other.connected(at(2000));
    settle(&mut one, &mut other, at(2000));
    let live = flow(&mut one, 2);
    one.changed(at(2200), &live);
    settle(&mut one, &mut other, at(2200));
    assert_eq!(lag(&one, 2400), Duration::ZERO);
    one.disconnected(at(2500));
    one.deleted(at(3000), &live.entry.key(), Removal::Ended);
    assert_eq!(lag(&one, 4000), Duration::from_secs(1));
}

#[test]
fn what_is_left_to_a_new_snapshot_waits_for_its_end() {
    let mut settings = Settings::new("a", 1, 7, HashKey::new([1; 16]), 100);
    settings.dirty_max = 2;
    let (mut one, mut other) = (Replica::new(settings, at(0)), replica("b", 2));
    one.connected(at(0));
    other.connected(at(0));
    settle(&mut one, &mut other, at(0));
    for (number, time) in [(1, 200), (2, 300), (3, 400)] {
        let live = flow(&mut one, number);
        one.changed(at(time), &live);
    }
    let stats = one.stats(at(1200));
    assert_eq!((stats.counters.resyncs, stats.dirty, stats.lag), (1, 0, Duration::from_secs(1)));
    settle(&mut one, &mut other, at(1200));
    assert_eq!(lag(&one, 1500), Duration::ZERO);
    // What the shell lost has been waiting since then.
    one.resync(at(2000));
    assert_eq!(lag(&one, 2010), Duration::from_millis(10));
    settle(&mut one, &mut other, at(2010));
    assert_eq!(lag(&one, 2500), Duration::ZERO);
}

#[test]
fn without_room_nobody_waits_for_the_time_to_send_something() {
    let (mut one, _) = pair();
    let live = flow(&mut one, 1);
    one.changed(at(200), &live);
    assert!(one.deadline().is_some_and(|due| due <= at(205)));
    // What is left is that the peer is silent.
    let silence = one.deadline_without_room().unwrap();
    assert!((at(5000)..=at(5200)).contains(&silence), "{silence:?}");
    one.timeout(silence);
    assert_eq!((one.state(), one.deadline(), one.deadline_without_room()), (State::Stale, None, None));
}
