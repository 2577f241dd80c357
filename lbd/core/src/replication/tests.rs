//! The replica as its shell sees it, and its bytes.

mod clock;
mod counted;
mod deletions;
mod differs;
mod fields;
mod forgotten;
mod lag;
mod notes;
mod rings;

use std::sync::Arc;

use common::hash::HashKey;
use common::rng::Rng;
use common::time::{Duration, Instant};
use common::wire::WireError;
use proptest::prelude::*;

use super::frame::{Ack, Announcement, Batch, Data, Frame, Opening, RingFrame, WireName};
use super::*;
use crate::chance::{INSTANCES_MAX, Standing, Word};

fn at(millis: u64) -> Instant {
    Instant::from_nanos(millis * 1_000_000)
}

fn replica(node: &str, boot: u64) -> Replica {
    Replica::new(Settings::new(node, boot, 7, HashKey::new([1; 16]), 100), at(0))
}

fn service(replica: &mut Replica, name: &str) -> NameId {
    replica.name(Name::Service(Arc::from(name))).unwrap()
}

fn flow(replica: &mut Replica, number: u8) -> Live {
    let service = service(replica, "shop");
    let target = replica.name(Name::Target { group: Arc::from("shop"), id: Arc::from("s1") }).unwrap();
    let entry = Entry::Flow(Flow { tuple: [number; 40], service, target, port: 2000, state: 1 });
    Live { entry, remaining: Some(Duration::from_secs(350)) }
}

fn transmit(from: &mut Replica, to: &mut Replica, now: Instant) {
    let mut bytes = Vec::new();
    while from.poll_transmit(now, &mut bytes) {}
    to.received(now, &bytes);
}

/// Answers what is asked, with empty live tables, until nothing is left to say; what was to be written.
fn settle(one: &mut Replica, other: &mut Replica, now: Instant) -> [Vec<Apply>; 2] {
    settle_with([one, other], [&[], &[]], now)
}

/// The same with these flows in the nodes' live tables.
fn settle_with(replicas: [&mut Replica; 2], flows: [&[Live]; 2], mut now: Instant) -> [Vec<Apply>; 2] {
    let ([one, other], mut applied) = (replicas, [Vec::new(), Vec::new()]);
    for _ in 0..20 {
        now = now + Duration::from_millis(6);
        transmit(one, other, now);
        transmit(other, one, now);
        for (place, replica) in [&mut *one, &mut *other].into_iter().enumerate() {
            while let Some(action) = replica.poll() {
                match action {
                    Action::Apply(apply) => {
                        replica.applied(now, apply.id, &[]);
                        applied[place].push(apply);
                    }
                    Action::Scan(scan) => {
                        let found = if scan.table == Table::Flows { flows[place] } else { &[] };
                        replica.scanned(now, scan.id, found, None);
                    }
                    Action::SwitchRing { .. } | Action::PeerRing(_) | Action::Note(_) => {}
                    Action::Disconnect(_) => return applied,
                }
            }
        }
    }
    applied
}

fn pair() -> (Replica, Replica) {
    let (mut one, mut other) = (replica("a", 1), replica("b", 2));
    one.connected(at(0));
    other.connected(at(0));
    settle(&mut one, &mut other, at(0));
    assert_eq!([one.state(), other.state()], [State::Synced; 2]);
    (one, other)
}

/// Answers like [`settle`], with the one word that each node's live table has.
fn settle_words(replicas: [&mut Replica; 2], words: &mut [Live; 2], mut now: Instant) {
    let [one, other] = replicas;
    for _ in 0..20 {
        now = now + Duration::from_millis(6);
        transmit(one, other, now);
        transmit(other, one, now);
        for (place, replica) in [&mut *one, &mut *other].into_iter().enumerate() {
            while let Some(action) = replica.poll() {
                match action {
                    Action::Apply(apply) => {
                        if let [Put { live: Live { entry: Entry::Target { state, weight, .. }, .. }, .. }] =
                            apply.puts[..]
                            && let Entry::Target { target, .. } = words[place].entry
                        {
                            words[place].entry = Entry::Target { target, state, weight };
                        }
                        replica.applied(now, apply.id, &[]);
                    }
                    Action::Scan(scan) if scan.table == Table::Targets => {
                        replica.scanned(now, scan.id, &words[place..=place], None);
                    }
                    Action::Scan(scan) => replica.scanned(now, scan.id, &[], None),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

#[test]
fn of_words_said_apart_the_later_one_stays_however_many_there_were_before() {
    for (later, expected) in [(0, 1), (1, 2)] {
        let mut replicas = [replica("a", 1), replica("b", 2)];
        let target = Name::Target { group: Arc::from("shop"), id: Arc::from("s1") };
        let mut words = [1, 2].map(|state| {
            let target = replicas[state - 1].name(target.clone()).unwrap();
            let state = u8::try_from(state).unwrap();
            Live { entry: Entry::Target { target, state, weight: None }, remaining: None }
        });
        // The one says it again and again, the other one once, and then.
        for _ in 0..1000 {
            replicas[1 - later].changed(at(100), &words[1 - later]);
        }
        replicas[later].changed(at(102), &words[later]);
        let [one, other] = &mut replicas;
        one.connected(at(200));
        other.connected(at(200));
        settle_words([one, other], &mut words, at(200));
        let states = words.map(|word| match word.entry {
            Entry::Target { state, .. } => state,
            _ => 0,
        });
        assert_eq!(states, [expected; 2]);
    }
}

#[test]
fn a_word_that_a_replica_before_this_one_knew_keeps_its_place_in_time() {
    let target = Name::Target { group: Arc::from("shop"), id: Arc::from("s1") };
    let word = |replica: &mut Replica, state| {
        let target = replica.name(target.clone()).unwrap();
        Live { entry: Entry::Target { target, state, weight: None }, remaining: None }
    };
    for (ours, theirs, expected) in [(300, 200, 1), (200, 300, 2), (0, 200, 2)] {
        let mut replicas = [replica("a", 1), replica("b", 2)];
        let mut words = [1, 2].map(|state: u8| word(&mut replicas[usize::from(state) - 1], state));
        let [one, other] = &mut replicas;
        // Each has said something, and was replaced since.
        for (replica, word, said) in [(&mut *one, words[0], ours), (&mut *other, words[1], theirs)] {
            if said > 0 {
                replica.known(&word, said);
                assert_eq!(replica.generation_of(&word.entry.key()), Some(said));
            }
        }
        one.connected(at(200));
        other.connected(at(200));
        settle_words([one, other], &mut words, at(200));
        let states = words.map(|word| match word.entry {
            Entry::Target { state, .. } => state,
            _ => 0,
        });
        assert_eq!(states, [expected; 2], "{ours} {theirs}");
    }
}

#[test]
fn tables_that_grow_have_room_for_what_had_none() {
    let (mut one, mut other) = (replica("a", 1), replica("b", 2));
    let tables = |size| [size; Table::COUNT];
    assert!(!one.resize(tables(1), 7) && !other.resize(tables(2), 7), "they shrink");
    let flows = [1, 2, 3].map(|number| flow(&mut one, number));
    one.changed_all(at(100), &flows);
    assert_eq!((one.stats(at(100)).ledger[0], one.stats(at(100)).counters.local_full), (1, 2));
    assert!(one.resize(tables(3), 21), "two had no room");
    assert!(!one.resize(tables(4), 28), "nothing is missing");
    one.connected(at(200));
    other.connected(at(200));
    let mut now = at(200);
    // As `settle`, with the three flows in the live table of one.
    let mut exchange = |one: &mut Replica, other: &mut Replica| {
        for _ in 0..20 {
            now = now + Duration::from_millis(6);
            transmit(one, other, now);
            transmit(other, one, now);
            for (replica, found) in [(&mut *one, &flows[..]), (&mut *other, &[][..])] {
                while let Some(action) = replica.poll() {
                    match action {
                        Action::Apply(apply) => replica.applied(now, apply.id, &[]),
                        Action::Scan(scan) if scan.table == Table::Flows => {
                            replica.scanned(now, scan.id, found, None);
                        }
                        Action::Scan(scan) => replica.scanned(now, scan.id, &[], None),
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
    };
    exchange(&mut one, &mut other);
    let stats = other.stats(at(400));
    assert_eq!((stats.ledger[0], stats.counters.skipped.table_full), (2, 1));
    assert!(other.resize(tables(3), 21), "one of the other node's had no room");
    one.disconnected(at(330));
    other.disconnected(at(330));
    one.connected(at(330));
    other.connected(at(330));
    exchange(&mut one, &mut other);
    assert_eq!(other.stats(at(600)).ledger[0], 3);
}

/// The number of its target, then: it was deleted; it is at this address and port, of weight 300, no backup, in the zone of this
/// number, of any number of connections, and in nobody's place.
#[test]
fn golden_member() {
    let mut replica = replica("a", 1);
    let target = replica.name(Name::Target { group: Arc::from("g"), id: Arc::from("t") }).unwrap();
    let zone = replica.name(Name::Zone(Arc::from("z"))).unwrap();
    let head = frame::Head { generation: 0, remaining_ms: frame::to_millis(None) };
    let bytes = |said| {
        let mut bytes = Vec::new();
        codec::encode_entry(&Entry::Member { target, said }, head, MINOR, &mut bytes).unwrap();
        bytes
    };
    let head = [0, 0xfc, 0xff, 0xff, 0xff, 0xff, 0];
    assert_eq!(bytes(Membership::Deleted), [&head[..], &[1]].concat());
    let member = Member {
        address: [7; 16],
        port: 80,
        weight: 300,
        backup: false,
        zone: Some(zone),
        max_connections: None,
        instead: false,
    };
    let expected = [&head[..], &[2], &[7; 16], &[80, 0xfb, 0x2c, 1, 0, 1, 1, 0, 0]].concat();
    assert_eq!(bytes(Membership::Added(member)), expected);
    let frame = Announcement { number: 1, name: WireName::of(&Name::Zone(Arc::from("z"))) };
    let data = Data { sequence: 2, base: 0, names: vec![frame], batches: Vec::new() };
    let mut bytes = Vec::new();
    Frame::Data(data).append(&mut bytes).unwrap();
    assert_eq!(bytes, [10, 0, 0, 0, 1, 3, 2, 0, 1, 1, 3, 1, b'z', 0]);
}

/// A new process finds what was there before it when it is asked for it, and hears before that what was deleted meanwhile.
#[test]
fn a_deletion_reaches_a_process_that_did_not_know_yet_what_it_has() {
    let (mut one, mut other) = pair();
    let live = flow(&mut one, 1);
    one.changed(at(1000), &live);
    settle(&mut one, &mut other, at(1000));
    one.disconnected(at(2000));
    one.deleted(at(2000), &live.entry.key(), Removal::Ended);
    let mut reborn = replica("b", 9);
    let mut found = vec![flow(&mut reborn, 1)];
    one.connected(at(3000));
    reborn.connected(at(3000));
    let mut now = at(3000);
    for _ in 0..20 {
        now = now + Duration::from_millis(6);
        transmit(&mut one, &mut reborn, now);
        transmit(&mut reborn, &mut one, now);
        while let Some(action) = one.poll() {
            match action {
                Action::Apply(apply) => panic!("it is back: {apply:?}"),
                Action::Scan(scan) => one.scanned(now, scan.id, &[], None),
                other => panic!("{other:?}"),
            }
        }
        while let Some(action) = reborn.poll() {
            match action {
                Action::Apply(apply) => {
                    found.retain(|live| !apply.deletes.contains(&live.entry.key()));
                    reborn.applied(now, apply.id, &[]);
                }
                Action::Scan(scan) => {
                    let here = if scan.table == Table::Flows { &found[..] } else { &[] };
                    reborn.scanned(now, scan.id, here, None);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(found, []);
    assert_eq!([one.stats(now).tombstones, one.stats(now).ledger[0], reborn.stats(now).ledger[0]], [0; 3]);
}

/// Worked out by hand from the description of the format: bincode's variable-length integers, little endian.
#[test]
fn golden_frames() {
    let bytes = |frame: Frame| {
        let mut bytes = Vec::new();
        frame.append(&mut bytes).unwrap();
        assert_eq!(Frame::decode(&bytes[4..]), Ok(frame));
        bytes
    };
    assert_eq!(bytes(Frame::Alive { config_hash: 9 }), [3, 0, 0, 0, 1, 1, 9]);
    let ack = Ack { sequence: 300, refused: 2 };
    assert_eq!(bytes(Frame::Ack(ack)), [6, 0, 0, 0, 1, 2, 0xfb, 0x2c, 1, 2]);
    let opening = Opening { major: 1, minor: 1, body: vec![9, 8] };
    assert_eq!(bytes(Frame::Opening(opening)), [7, 0, 0, 0, 1, 0, 1, 1, 2, 9, 8]);
    assert_eq!(bytes(Frame::SnapshotEnd { sequence: 5 }), [3, 0, 0, 0, 1, 5, 5]);
    assert_eq!(bytes(Frame::Word(Word::default())), [3, 0, 0, 0, 1, 8, 0], "6 and 7 stand for nothing");
    let ring = RingFrame { sequence: 4, ring: 6, hash: 300, used: true, members: vec![(7, 256), (8, 1)] };
    assert_eq!(bytes(Frame::Ring(ring)), [15, 0, 0, 0, 1, 9, 4, 6, 0xfb, 0x2c, 1, 1, 2, 7, 0xfb, 0, 1, 8, 1]);
    let name = WireName::Target("g".to_owned(), "t".to_owned());
    let names = vec![Announcement { number: 3, name }];
    let batches = vec![Batch { table: 1, deletes: false, count: 1, bytes: vec![7] }];
    let data = Data { sequence: 2, base: 250, names, batches };
    assert_eq!(
        bytes(Frame::Data(data)),
        [17, 0, 0, 0, 1, 3, 2, 250, 1, 3, 2, 1, b'g', 1, b't', 1, 1, 0, 1, 1, 7]
    );
}

/// A flow: the difference of generations (zigzag), 350000 ms, the tuple as it is, names' numbers, port and state.
#[test]
fn golden_flow() {
    let mut replica = replica("a", 1);
    let live = flow(&mut replica, 0x55);
    let head = frame::Head { generation: -1, remaining_ms: frame::to_millis(live.remaining) };
    let mut bytes = Vec::new();
    codec::encode_entry(&live.entry, head, MINOR, &mut bytes).unwrap();
    let mut expected = vec![1, 0xfc, 0x30, 0x57, 0x05, 0];
    expected.extend_from_slice(&[0x55; 40]);
    expected.extend_from_slice(&[0, 1, 0xfb, 0xd0, 0x07, 1]);
    assert_eq!(bytes, expected);
}

/// A session: as a flow, but for names' numbers at the end, and since version 3 whether it is in a socket.
#[test]
fn golden_session() {
    let mut replica = replica("a", 1);
    let service = replica.name(Name::Service(Arc::from("dns"))).unwrap();
    let target = replica.name(Name::Target { group: Arc::from("g"), id: Arc::from("t") }).unwrap();
    let entry = Entry::UdpSession { tuple: [0x55; 40], service, target, here: true };
    for (minor, end) in [(2, &[0, 1][..]), (3, &[0, 1, 1])] {
        let head = frame::Head { generation: -1, remaining_ms: 60_000 };
        let mut bytes = Vec::new();
        codec::encode_entry(&entry, head, minor, &mut bytes).unwrap();
        assert_eq!(bytes, [&[1, 0xfb, 0x60, 0xea][..], &[0x55; 40], end].concat(), "{minor}");
    }
}

#[test]
fn an_earlier_version_knows_nothing_of_sockets() {
    let here = |minor| {
        let mut settings = Settings::new("b", 2, 8, HashKey::new([2; 16]), 100);
        settings.minor = minor;
        let (mut one, mut other) = (replica("a", 1), Replica::new(settings, at(0)));
        one.connected(at(0));
        other.connected(at(0));
        settle(&mut one, &mut other, at(0));
        let service = one.name(Name::Service(Arc::from("dns"))).unwrap();
        let target = one.name(Name::Target { group: Arc::from("g"), id: Arc::from("t") }).unwrap();
        let entry = Entry::UdpSession { tuple: [0x55; 40], service, target, here: true };
        one.changed(at(300), &Live { entry, remaining: Some(Duration::from_secs(60)) });
        let applied = settle(&mut one, &mut other, at(300));
        match applied[1][0].puts[..] {
            [Put { live: Live { entry: Entry::UdpSession { here, tuple, .. }, .. }, .. }] => {
                (here, tuple == [0x55; 40])
            }
            ref other => panic!("{other:?}"),
        }
    };
    assert_eq!([here(2), here(3)], [(false, true), (true, true)]);
}

#[test]
fn a_change_gets_across_and_its_copy_does_not_delete_the_original() {
    let (mut one, mut other) = pair();
    let live = flow(&mut one, 1);
    one.changed(at(1000), &live);
    let [_, applied] = settle(&mut one, &mut other, at(1000));
    assert_eq!(applied.len(), 1);
    let Put { live: copy, over_own, is_new } = applied[0].puts[0];
    assert_eq!([over_own, is_new], [false, true]);
    assert_eq!(other.name_of(copy.entry.names()[0]), Some(&Name::Service(Arc::from("shop"))));
    assert!(copy.remaining.unwrap() <= Duration::from_secs(350));
    // The backup's copy runs out; then the active node's flow does.
    other.deleted(at(2000), &copy.entry.key(), Removal::Expired);
    let [back, _] = settle(&mut one, &mut other, at(2000));
    assert!(back.is_empty());
    one.changed(at(3000), &live);
    assert_eq!(settle(&mut one, &mut other, at(3000))[1][0].puts.len(), 1);
    one.deleted(at(4000), &live.entry.key(), Removal::Expired);
    assert_eq!(settle(&mut one, &mut other, at(4000))[1][0].deletes, [copy.entry.key()]);
    assert_eq!([one.stats(at(4200)).tombstones, other.stats(at(4200)).ledger[0]], [0, 0]);
}

#[test]
fn what_takes_the_place_of_an_own_entry_says_so() {
    let (mut one, mut other) = pair();
    for (time, own, is_new) in [(1000, false, true), (2000, true, false), (3000, false, false)] {
        let (theirs, ours) = (flow(&mut one, 1), flow(&mut other, 1));
        if own {
            let mut was_theirs = Vec::new();
            other.changed_since(at(time), at(time), &[ours, ours], |live| was_theirs.push(*live));
            assert_eq!(was_theirs, [ours], "the first one");
            settle(&mut one, &mut other, at(time));
        }
        one.changed(at(time + 500), &theirs);
        let [_, applied] = settle(&mut one, &mut other, at(time + 500));
        let [Put { over_own, is_new: new, .. }] = applied[0].puts[..] else { panic!("{applied:?}") };
        assert_eq!([over_own, new], [own, is_new], "{time}");
    }
}

#[test]
fn changes_that_have_waited_with_the_shell_wait_no_longer() {
    let (mut one, _) = pair();
    let live = flow(&mut one, 1);
    let ready = |one: &mut Replica, time| one.poll_transmit(at(time), &mut Vec::new());
    while ready(&mut one, 1000) {}
    one.changed(at(1000), &live);
    assert_eq!([ready(&mut one, 1004), ready(&mut one, 1005)], [false, true]);
    one.changed_since(at(1010), at(1005), &[live], |_| {});
    assert_eq!(one.stats(at(1010)).lag, Duration::from_millis(5));
    assert!(ready(&mut one, 1010));
    // They live from now on all the same.
    one.changed_since(at(1020), at(1000), &[live], |_| {});
    let dirty::Item::Put(_, expiry) = one.dirty.first().unwrap().item else { panic!("it was changed") };
    assert_eq!(expiry.remaining(at(1020)), live.remaining);
}

#[test]
fn what_is_applied_is_acknowledged_together_or_when_it_is_much() {
    let (mut one, mut other) = pair();
    let acks = |other: &mut Replica, time| {
        let mut bytes = Vec::new();
        while other.poll_transmit(at(time), &mut bytes) {}
        bytes
    };
    let tell = |one: &mut Replica, other: &mut Replica, time, flows: u32| {
        for number in 0..flows {
            let mut live = flow(one, 0);
            if let Entry::Flow(flow) = &mut live.entry {
                flow.tuple[..4].copy_from_slice(&number.to_le_bytes());
            }
            one.changed(at(time - 5), &live);
        }
        let mut bytes = Vec::new();
        while one.poll_transmit(at(time), &mut bytes) {}
        assert!(other.may_write(&bytes));
        other.received(at(time), &bytes);
        while let Some(Action::Apply(apply)) = other.poll() {
            other.applied(at(time), apply.id, &[]);
        }
    };
    drop(acks(&mut other, 890));
    for time in [900, 905, 910, 915] {
        tell(&mut one, &mut other, time, 1);
        assert!(acks(&mut other, time).is_empty());
    }
    assert_eq!(other.deadline(), Some(at(950)));
    let bytes = acks(&mut other, 950);
    assert_eq!(bytes.len(), 4 + 4, "one of them");
    assert!(one.stats(at(950)).unacknowledged > 0 && !one.may_write(&bytes));
    one.received(at(950), &bytes);
    assert_eq!(one.stats(at(950)).unacknowledged, 0);
    // An eighth of the window.
    tell(&mut one, &mut other, 960, 3000);
    assert!(!acks(&mut other, 960).is_empty());
}

#[test]
fn what_the_peer_does_not_understand_is_refused_clearly() {
    let refusal = |mut one: Replica, mut other: Replica| {
        one.connected(at(0));
        other.connected(at(0));
        let mut bytes = Vec::new();
        other.poll_transmit(at(1), &mut bytes);
        one.received(at(1), &bytes);
        match one.poll() {
            Some(Action::Disconnect(reason)) => (reason, one.stats(at(1))),
            other => panic!("{other:?}"),
        }
    };
    let (reason, stats) = refusal(replica("a", 1), replica("a", 2));
    assert_eq!(
        (reason.kind(), stats.counters.ended[SessionEnd::SameName.index()]),
        (SessionEnd::SameName, 1)
    );
    let (reason, stats) = refusal(replica("a", 1), replica("a", 1));
    assert_eq!((reason, stats.state), (SessionError::Itself("a".to_owned()), State::Cold));

    let mut one = replica("a", 1);
    one.connected(at(0));
    let mut bytes = Vec::new();
    // Whatever the body is in another major version.
    Frame::Opening(Opening { major: 2, minor: 3, body: vec![255; 9] }).append(&mut bytes).unwrap();
    one.received(at(1), &bytes);
    let Some(Action::Disconnect(reason)) = one.poll() else { panic!("it was not refused") };
    assert!(reason.kind().is_refusal());
    assert!(reason.to_string().contains("it speaks protocol version 2.3, this node 1.5"), "{reason}");
}

#[test]
fn the_previous_minor_version_and_a_later_one_are_spoken_with() {
    let mut settings = Settings::new("b", 2, 8, HashKey::new([2; 16]), 100);
    settings.minor = 0;
    let (mut one, mut other) = (replica("a", 1), Replica::new(settings, at(0)));
    one.connected(at(0));
    other.connected(at(0));
    settle(&mut one, &mut other, at(0));
    let stats = one.stats(at(200));
    assert_eq!((stats.state, stats.config_differs, stats.peer.unwrap().minor), (State::Synced, true, 0));
    let target = one.name(Name::Target { group: Arc::from("g"), id: Arc::from("t") }).unwrap();
    one.changed(at(300), &Live { entry: Entry::Health { target, state: 1 }, remaining: None });
    one.changed(at(300), &Live { entry: Entry::Target { target, state: 1, weight: None }, remaining: None });
    let applied = settle(&mut one, &mut other, at(300));
    assert_eq!(applied[1][0].puts.len(), 1, "health states came with minor version 1");

    let mut later = hello::opening(&Settings::new("c", 3, 7, HashKey::new([2; 16]), 0), 9);
    later.minor = 9;
    later.body.extend_from_slice(b"what version 9 has added");
    let hello = hello::accept(&later, &one.settings).unwrap();
    assert_eq!((hello.minor, hello.minor_max, hello.generation), (MINOR, 9, 9));
}

#[test]
fn the_last_word_is_known_while_there_is_a_session() {
    let word = |draining| {
        let standing = Standing {
            instance: "web".to_owned(),
            mac: Some([2; 6]),
            may_have: true,
            draining,
            addresses: Vec::new(),
        };
        Word { instances: vec![standing] }
    };
    let (mut one, mut other) = (replica("a", 1), replica("b", 2));
    one.say(word(1));
    one.connected(at(0));
    other.connected(at(0));
    settle(&mut one, &mut other, at(0));
    assert_eq!((other.peer_word(), one.peer_word()), (Some(&word(1)), Some(&Word::default())));
    one.say(word(2));
    one.say(word(3));
    settle(&mut one, &mut other, at(300));
    assert_eq!(other.peer_word(), Some(&word(3)));
    other.disconnected(at(400));
    assert_eq!(other.peer_word(), None);
    one.connected(at(500));
    other.connected(at(500));
    settle(&mut one, &mut other, at(500));
    assert_eq!(other.peer_word(), Some(&word(3)), "it is said to each new session");

    let mut settings = Settings::new("c", 3, 7, HashKey::new([2; 16]), 100);
    settings.minor = 1;
    let mut before = Replica::new(settings, at(0));
    one.connected(at(600));
    before.connected(at(600));
    settle(&mut one, &mut before, at(600));
    assert_eq!(
        (before.stats(at(800)).state, before.peer_word()),
        (State::Synced, None),
        "it would not understand"
    );

    let beyond = Word { instances: vec![Standing::default(); INSTANCES_MAX + 1] };
    other.connected(at(900));
    one.connected(at(900));
    settle(&mut one, &mut other, at(900));
    let mut bytes = Vec::new();
    Frame::Word(beyond).append(&mut bytes).unwrap();
    other.received(at(1300), &bytes);
    assert!(matches!(other.poll(), Some(Action::Disconnect(SessionError::Unexpected(_)))));
}

#[test]
fn unknown_tables_and_names_are_skipped_and_counted() {
    let (_, mut other) = pair();
    let sequence = other.session.as_ref().unwrap().incoming.sequence + 1;
    let unknown = Batch { table: 77, deletes: false, count: 5, bytes: vec![1, 2, 3] };
    // Generation, lifetime, an unannounced target, a state.
    let unannounced = Batch { table: 6, deletes: false, count: 1, bytes: vec![0, 0, 200, 1] };
    let data = Data { sequence, base: 5, names: Vec::new(), batches: vec![unknown, unannounced] };
    let mut bytes = Vec::new();
    Frame::Data(data).append(&mut bytes).unwrap();
    other.received(at(500), &bytes);
    let stats = other.stats(at(500));
    assert_eq!(
        (stats.state, stats.counters.skipped.unknown_table, stats.counters.skipped.unknown_name),
        (State::Synced, 5, 1)
    );
    assert_eq!(other.poll(), None);
}

#[test]
fn broken_streams_end_and_are_counted_by_kind() {
    let ended = |bytes: &[u8]| {
        let (_, mut other) = pair();
        other.received(at(500), bytes);
        match other.poll() {
            Some(Action::Disconnect(reason)) => {
                assert_eq!(other.stats(at(500)).counters.ended[reason.kind().index()], 1);
                assert_eq!(other.state(), State::Stale);
                reason
            }
            other => panic!("{other:?}"),
        }
    };
    let size = usize::try_from(u32::MAX).unwrap();
    assert_eq!(ended(&[255; 4]), SessionError::Malformed(WireError::Size { size, limit: FRAME_SIZE_MAX }));
    assert_eq!(ended(&[2, 0, 0, 0, 9, 9]), SessionError::Malformed(WireError::Version(9)));
    assert_eq!(ended(&[3, 0, 0, 0, 1, 5, 200]).kind(), SessionEnd::OutOfOrder);
    // An acknowledgement of what was never sent.
    assert_eq!(ended(&[4, 0, 0, 0, 1, 2, 250, 0]).kind(), SessionEnd::OutOfOrder);
}

#[test]
fn silence_is_noticed_and_never_means_synced() {
    let (mut one, _) = pair();
    let deadline = one.deadline().unwrap();
    assert!(deadline <= at(2000), "{deadline:?}");
    one.timeout(at(4000));
    assert_eq!(one.state(), State::Synced);
    one.timeout(at(6000));
    assert_eq!((one.state(), one.poll()), (State::Stale, Some(Action::Disconnect(SessionError::Idle))));
    let mut cold = replica("c", 3);
    cold.connected(at(0));
    cold.timeout(at(5000));
    assert_eq!((cold.state(), cold.poll()), (State::Cold, Some(Action::Disconnect(SessionError::Silent))));
}

#[test]
fn rates_of_both_nodes_stand_beside_each_other() {
    let (mut one, mut other) = pair();
    let rate =
        |service, total| Live { entry: Entry::Rate { service, source: [0; 16], total }, remaining: None };
    let (here, there) = (service(&mut one, "shop"), service(&mut other, "shop"));
    one.changed(at(1000), &rate(here, 30));
    other.changed(at(1000), &rate(there, 12));
    settle(&mut one, &mut other, at(1000));
    assert_eq!((one.peer_rate(here, [0; 16]), other.peer_rate(there, [0; 16])), (12, 30));
    // Another life of the peer's counts from zero.
    let mut reborn = replica("b", 9);
    one.disconnected(at(2000));
    one.connected(at(2000));
    reborn.connected(at(2000));
    settle(&mut one, &mut reborn, at(2000));
    assert_eq!(one.peer_rate(here, [0; 16]), 0);
}

/// A peer that does not read: changes wait, one for each entry, and nothing else grows.
#[test]
fn a_slow_reader_makes_changes_wait() {
    let (mut one, _) = pair();
    let mut sent = Vec::new();
    for number in 0..200_000_u32 {
        let mut live = flow(&mut one, 0);
        if let Entry::Flow(flow) = &mut live.entry {
            flow.tuple[..4].copy_from_slice(&(number % 50_000).to_le_bytes());
        }
        one.changed(at(1000), &live);
        if number % 5000 == 0 {
            while one.poll_transmit(at(1010), &mut sent) {}
        }
    }
    let stats = one.stats(at(1100));
    assert!(sent.len() <= (1 << 20) + FRAME_SIZE_MAX + 100, "{}", sent.len());
    assert!(
        stats.dirty <= 50_000 && stats.lag == Duration::from_millis(100),
        "{} {:?}",
        stats.dirty,
        stats.lag
    );
}

proptest! {
    /// Valid traffic, damaged: nothing panics, and a new connection works.
    #[test]
    fn damaged_streams_do_no_harm(seed: u64) {
        let mut rng = Rng::new(seed);
        let (mut one, mut other) = pair();
        for number in 0..20 {
            let live = flow(&mut one, number);
            one.changed(at(1000), &live);
        }
        one.deleted(at(1000), &Key::Flow([3; 40]), Removal::Ended);
        let mut bytes = Vec::new();
        while one.poll_transmit(at(1010), &mut bytes) {}
        for _ in 0..1 + rng.below(6) {
            let place = usize::try_from(rng.below(bytes.len() as u64)).unwrap();
            bytes[place] = rng.next_u64().to_le_bytes()[0];
        }
        bytes.truncate(usize::try_from(rng.below(bytes.len() as u64 + 1)).unwrap());
        other.received(at(1010), &bytes);
        let mut rest = 0;
        while let Some(action) = other.poll() {
            if let Action::Apply(apply) = action {
                other.applied(at(1010), apply.id, &[]);
            }
            rest += 1;
            prop_assert!(rest < 100);
        }
        one.disconnected(at(2000));
        other.disconnected(at(2000));
        other.poll();
        one.connected(at(2000));
        other.connected(at(2000));
        settle(&mut one, &mut other, at(2000));
        prop_assert_eq!([one.state(), other.state()], [State::Synced; 2]);
    }

    #[test]
    fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        Frame::decode(&bytes).ok();
        let mut one = replica("a", 1);
        one.connected(at(0));
        prop_assert!(one.may_write(&bytes) || bytes.len() > 5);
        one.received(at(0), &bytes);
    }

    /// Of what is whole and writes nothing, nothing else is said; half a frame may be of anything.
    #[test]
    fn what_may_write_is_known_beforehand(kind in 0_u8..10, cut in 0_usize..8) {
        let sequence = 1;
        let frame = match kind {
            0 => Frame::Opening(Opening { major: 1, minor: 1, body: Vec::new() }),
            1 => Frame::Alive { config_hash: 1 },
            2 => Frame::Ack(Ack { sequence, refused: 0 }),
            3 => Frame::Data(Data { sequence, base: 0, names: Vec::new(), batches: Vec::new() }),
            4 => Frame::SnapshotBegin { sequence },
            5 => Frame::SnapshotEnd { sequence },
            6 => Frame::Unused6,
            7 => Frame::Unused7,
            8 => Frame::Ring(RingFrame { sequence, ring: 1, hash: 2, used: true, members: Vec::new() }),
            _ => Frame::Word(Word::default()),
        };
        let mut bytes = Vec::new();
        frame.append(&mut bytes).unwrap();
        let (mut one, _) = pair();
        let quiet = matches!(frame, Frame::Alive { .. } | Frame::Ack(_) | Frame::Word(_));
        prop_assert_eq!(one.may_write(&bytes), !quiet);
        prop_assert!(one.may_write(&[&bytes[..], &[0]].concat()));
        let part = &bytes[..cut.min(bytes.len() - 1)];
        prop_assert!(one.may_write(part));
        if !part.is_empty() {
            one.received(at(500), part);
            prop_assert!(one.may_write(&bytes));
        }
    }
}
