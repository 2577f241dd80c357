//! What the nodes know of each other's configuration, release, and room.

use super::*;

#[test]
fn another_configuration_is_told_at_once() {
    let (mut one, mut other) = pair();
    assert!(!other.stats(at(1)).config_differs);
    one.reconfigured(77);
    settle(&mut one, &mut other, at(2));
    assert!(other.stats(at(2)).config_differs);
    assert_eq!(other.stats(at(2)).peer.map(|peer| peer.config_hash), Some(77));
    other.reconfigured(77);
    settle(&mut one, &mut other, at(3));
    assert!(!one.stats(at(3)).config_differs && !other.stats(at(3)).config_differs);
}

fn of_release(node: &str, boot: u64, release: &str) -> Settings {
    let mut settings = Settings::new(node, boot, 7, HashKey::new([1; 16]), 100);
    settings.release = Arc::from(release);
    settings
}

#[test]
fn each_knows_the_other_one_s_release() {
    let made = |settings| Replica::new(settings, at(0));
    let (mut one, mut other) = (made(of_release("a", 1, "1.2.0")), made(of_release("b", 2, "1.3.0-rc.1")));
    one.connected(at(0));
    other.connected(at(0));
    settle(&mut one, &mut other, at(0));
    assert_eq!([one.state(), other.state()], [State::Synced; 2]);
    let known = |replica: &Replica| replica.stats(at(200)).peer.and_then(|peer| peer.release);
    assert_eq!([known(&one).as_deref(), known(&other).as_deref()], [Some("1.3.0-rc.1"), Some("1.2.0")]);
    // It is known of the last one while there is no session, as the rest of what it said.
    one.disconnected(at(300));
    assert_eq!(known(&one).as_deref(), Some("1.3.0-rc.1"));
}

#[test]
fn the_version_before_says_none_and_is_told_none() {
    let mut before = of_release("b", 2, "1.0.0");
    before.minor = hello::MINOR_OF_RELEASES - 1;
    let said = hello::opening(&before, 100);
    // What that version sends ends with the number of the process.
    assert_eq!(said.body.last(), Some(&2));
    let (mut one, mut other) =
        (Replica::new(of_release("a", 1, "1.2.0"), at(0)), Replica::new(before.clone(), at(0)));
    one.connected(at(0));
    other.connected(at(0));
    settle(&mut one, &mut other, at(0));
    assert_eq!([one.state(), other.state()], [State::Synced; 2]);
    let peer = one.stats(at(200)).peer.unwrap();
    assert_eq!((peer.release, peer.minor, peer.minor_max), (None, before.minor, before.minor));
    assert_eq!(other.stats(at(200)).peer.unwrap().minor, before.minor);
}

/// Worked out by hand: what every version has said, the process, and behind it the release.
#[test]
fn golden_hello() {
    let mut settings = of_release("a", 1, "0.1.0");
    settings.tables = [1, 2, 3, 4, 5, 6, 7];
    let opening = hello::opening(&settings, 100);
    let tables: [u8; 15] = [7, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7];
    assert_eq!(opening.body, [&[1, b'a', 1, 7, 100][..], &tables, &[1, 5], b"0.1.0"].concat());
    let hello = hello::accept(&opening, &of_release("b", 2, "")).unwrap();
    assert_eq!((hello.release.as_deref(), hello.process, hello.generation), (Some("0.1.0"), 1, 100));
}

#[test]
fn a_release_that_is_none_is_refused() {
    let own = of_release("b", 2, "1");
    let told = |release: &str| hello::accept(&hello::opening(&of_release("a", 1, release), 0), &own);
    assert_eq!(told("").map(|hello| hello.release), Ok(None));
    assert!(told(&"9".repeat(RELEASE_LENGTH_MAX)).is_ok());
    for release in ["9".repeat(RELEASE_LENGTH_MAX + 1), "1.0\u{1b}[2J".to_owned(), "1 0".to_owned()] {
        assert!(matches!(told(&release), Err(SessionError::Unexpected(_))), "{release:?}");
    }
    let mut cut = hello::opening(&of_release("a", 1, "1.2.3"), 0);
    cut.body.pop();
    assert!(matches!(hello::accept(&cut, &own), Err(SessionError::Malformed(_))));
}

#[test]
fn a_node_knows_that_the_other_one_has_less_room_and_what_found_none() {
    let sized = |node, boot, flows| {
        let mut settings = of_release(node, boot, "");
        settings.tables[Table::Flows.index()] = flows;
        Replica::new(settings, at(0))
    };
    let (mut one, mut other) = (sized("a", 1, 3), sized("b", 2, 2));
    let connect = |one: &mut Replica, other: &mut Replica, time| {
        one.connected(at(time));
        other.connected(at(time));
        settle(one, other, at(time));
    };
    connect(&mut one, &mut other, 0);
    let mut differs = [false; Table::COUNT];
    differs[Table::Flows.index()] = true;
    assert_eq!([&one, &other].map(|replica| replica.stats(at(200)).sizes_differ), [differs; 2]);
    let flows = [1, 2, 3].map(|number| flow(&mut one, number));
    one.changed_all(at(200), &flows);
    settle(&mut one, &mut other, at(200));
    assert_eq!([&one, &other].map(|replica| replica.stats(at(400)).peer_refused), [1, 0]);
    // Of a session that is over nothing is refused any more.
    let mut tables = other.settings.tables;
    tables[Table::Flows.index()] = 3;
    assert!(other.resize(tables, 100), "one had no room");
    connect(&mut one, &mut other, 400);
    let stats = one.stats(at(600));
    assert_eq!((stats.peer_refused, stats.sizes_differ), (0, [false; Table::COUNT]));
    // A table that the other one does not know has no size.
    let mut before = of_release("b", 3, "");
    before.tables[Table::Members.index()] = 0;
    connect(&mut one, &mut Replica::new(before, at(700)), 700);
    assert!(!one.stats(at(900)).sizes_differ[Table::Members.index()]);
}

#[test]
fn what_was_changed_meanwhile_is_not_refused_for_want_of_a_place() {
    let (mut one, mut other) = pair();
    let (theirs, ours) = (flow(&mut one, 1), flow(&mut other, 1));
    for (time, is_kept, refused) in [(200, true, 0), (600, false, 1)] {
        one.changed(at(time), &theirs);
        transmit(&mut one, &mut other, at(time + 6));
        let Some(Action::Apply(apply)) = other.poll() else { panic!("it is to be written") };
        if is_kept {
            other.changed(at(time + 7), &ours);
        }
        other.applied(at(time + 7), apply.id, &[ours.entry.key()]);
        settle(&mut one, &mut other, at(time + 8));
        assert_eq!(one.stats(at(time + 300)).peer_refused, refused);
    }
    assert_eq!(other.stats(at(1000)).counters.skipped.refused, 2);
}
