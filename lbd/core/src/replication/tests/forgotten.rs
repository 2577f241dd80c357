//! When names are forgotten.

use super::*;

#[test]
fn forgotten_names_give_their_numbers_back() {
    let (mut one, mut other) = pair();
    let live = flow(&mut one, 1);
    one.changed(at(1000), &live);
    assert_eq!(one.forget_names(|_, _| false).names, 0, "they wait to be sent");
    settle(&mut one, &mut other, at(1000));
    assert_eq!(one.forget_names(|_, _| false), Forgotten { names: 2, held: 0 });
    let next = service(&mut one, "next");
    let target = live.entry.names()[1];
    assert!(next == live.entry.names()[0] || next == target);
    one.changed(
        at(2000),
        &Live { entry: Entry::Rate { service: next, source: [1; 16], total: 1 }, remaining: None },
    );
    settle(&mut one, &mut other, at(2000));
    let known = service(&mut other, "next");
    assert_eq!(other.peer_rate(known, [1; 16]), 1, "the number was announced again");
}

/// Both nodes tell of the health of each target, so the name of one that is gone from both is nobody's but the session's.
#[test]
fn names_that_the_peer_has_announced_are_held_until_the_session_ends() {
    let (mut one, mut other) = pair();
    let name = Name::Target { group: Arc::from("shop"), id: Arc::from("s1") };
    let targets = [&mut one, &mut other].map(|replica| {
        let target = replica.name(name.clone()).unwrap();
        replica.changed(at(200), &Live { entry: Entry::Health { target, state: 1 }, remaining: None });
        target
    });
    settle(&mut one, &mut other, at(200));
    for (replica, target) in [&mut one, &mut other].into_iter().zip(targets) {
        replica.deleted(at(400), &Key::Health(target), Removal::Ended);
    }
    settle(&mut one, &mut other, at(400));
    for replica in [&mut one, &mut other] {
        assert_eq!(replica.forget_names(|_, _| true), Forgotten { names: 0, held: 0 }, "it is wanted");
        assert_eq!(replica.forget_names(|_, _| false), Forgotten { names: 0, held: 1 });
        replica.disconnected(at(600));
        assert_eq!((replica.names(), replica.forget_names(|_, _| false).names, replica.names()), (1, 1, 0));
    }
    // The next one knows of nothing that has been.
    one.connected(at(700));
    other.connected(at(700));
    settle(&mut one, &mut other, at(700));
    assert_eq!([one.names(), other.names()], [0; 2]);
    let live = flow(&mut one, 1);
    one.changed(at(900), &live);
    settle(&mut one, &mut other, at(900));
    assert_eq!(other.names(), 2);
}
