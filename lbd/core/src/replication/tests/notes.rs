//! What a node has the other one know as a whole.

use super::super::hello::MINOR_OF_NOTES;
use super::*;

fn notes(of: &[(&str, usize)]) -> Notes {
    of.iter().map(|&(name, size)| (Arc::from(name), Arc::from(vec![7; size]))).collect()
}

/// Has both say what they have to say; the names and sizes of the notes that `other` hears.
fn heard(one: &mut Replica, other: &mut Replica, from: u64) -> Vec<(String, usize)> {
    let mut heard = Vec::new();
    for step in 1..20 {
        let now = at(from + step * 6);
        // Frame by frame, as a link takes them.
        let mut bytes = Vec::new();
        while one.poll_transmit(now, &mut bytes) {
            other.received(now, &bytes);
            bytes.clear();
            while let Some(action) = other.poll() {
                match action {
                    Action::Note(note) => heard.push((note.name, note.bytes.len())),
                    Action::Scan(scan) => other.scanned(now, scan.id, &[], None),
                    action => panic!("{action:?}"),
                }
            }
        }
        transmit(other, one, now);
        while let Some(action) = one.poll() {
            if let Action::Scan(scan) = action {
                one.scanned(now, scan.id, &[], None);
            }
        }
    }
    heard
}

fn said(of: &[(&str, usize)]) -> Vec<(String, usize)> {
    of.iter().map(|&(name, size)| (name.to_owned(), size)).collect()
}

#[test]
fn each_session_is_told_all_notes_and_then_what_is_new() {
    let (mut one, mut other) = (replica("a", 1), replica("b", 2));
    one.note(&notes(&[("a", 5), ("large", NOTE_SIZE_MAX), ("too large", NOTE_SIZE_MAX + 1)]));
    one.connected(at(0));
    other.connected(at(0));
    assert_eq!(heard(&mut one, &mut other, 0), said(&[("a", 5), ("large", NOTE_SIZE_MAX)]));
    assert_eq!([one.state(), other.state()], [State::Synced; 2]);
    one.note(&notes(&[("a", 5), ("large", 1)]));
    one.note(&notes(&[("a", 5), ("large", 2)]));
    assert_eq!(heard(&mut one, &mut other, 300), said(&[("large", 2)]), "the latest of a name");
    one.note(&notes(&[("large", 2)]));
    assert_eq!(heard(&mut one, &mut other, 500), said(&[]));
    for replica in [&mut one, &mut other] {
        replica.disconnected(at(700));
        replica.connected(at(700));
    }
    assert_eq!(heard(&mut one, &mut other, 700), said(&[("large", 2)]));
}

#[test]
fn a_peer_of_the_version_before_hears_of_no_notes() {
    let mut settings = Settings::new("b", 2, 7, HashKey::new([1; 16]), 100);
    settings.minor = MINOR_OF_NOTES - 1;
    let (mut one, mut other) = (replica("a", 1), Replica::new(settings, at(0)));
    one.note(&notes(&[("a", 5)]));
    one.connected(at(0));
    other.connected(at(0));
    assert_eq!(heard(&mut one, &mut other, 0), said(&[]));
    assert_eq!([one.state(), other.state()], [State::Synced; 2]);
}

#[test]
fn notes_are_bounded_at_either_end() {
    let (mut one, mut other) = pair();
    let names: Vec<String> = (0..=NOTES_MAX).map(|number| format!("{number:04}")).collect();
    let many: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    one.note(&notes(&many));
    assert_eq!(heard(&mut one, &mut other, 200).len(), NOTES_MAX);
    let mut bytes = Vec::new();
    let note = Note { name: "x".repeat(NOTE_NAME_MAX + 1), bytes: Vec::new() };
    assert_eq!(format!("{note:?}").matches("bytes: 0").count(), 1, "what it says may be secret");
    Frame::Note(note).append(&mut bytes).unwrap();
    other.received(at(900), &bytes);
    assert!(matches!(other.poll(), Some(Action::Disconnect(SessionError::Unexpected(_)))));
}

#[test]
fn golden_note() {
    let mut bytes = Vec::new();
    Frame::Note(Note { name: "ab".to_owned(), bytes: vec![9, 8, 7] }).append(&mut bytes).unwrap();
    // The length, the version, the tenth kind after the first, and both with their lengths.
    assert_eq!(bytes, [9, 0, 0, 0, 1, 10, 2, b'a', b'b', 3, 9, 8, 7]);
}
