//! Deletions that nobody remembers.

use super::*;

/// A flow that one node has ended, without a tombstone, and the other one used in the same moment, a little earlier by generation; and one that
/// goes on.
fn crossing() -> (Replica, Replica, [Live; 2]) {
    let mut settings = Settings::new("a", 1, 7, HashKey::new([1; 16]), 100);
    settings.tombstones_max = 0;
    let (mut one, mut other) = (Replica::new(settings, at(0)), replica("b", 2));
    one.connected(at(0));
    other.connected(at(0));
    settle(&mut one, &mut other, at(0));
    let ended = flow(&mut one, 1);
    one.changed(at(200), &ended);
    settle(&mut one, &mut other, at(200));
    let (used, going_on) = (flow(&mut other, 1), flow(&mut one, 2));
    other.changed(at(400), &used);
    one.changed(at(400), &going_on);
    one.deleted(at(400), &ended.entry.key(), Removal::Ended);
    assert_eq!(one.stats(at(400)).counters.tombstones_full, 1);
    (one, other, [ended, going_on])
}

fn puts(applied: &[Apply], live: &Live) -> bool {
    let is_it = |put: &Put| put.live.entry.key() == live.entry.key();
    applied.iter().any(|apply| apply.puts.iter().any(is_it))
}

fn deletes(applied: &[Apply], live: &Live) -> bool {
    applied.iter().any(|apply| apply.deletes.contains(&live.entry.key()))
}

fn known(replica: &Replica) -> usize {
    replica.stats(at(600)).ledger[Table::Flows.index()]
}

#[test]
fn one_without_a_tombstone_stands_until_it_is_sent() {
    let (mut one, mut other, [ended, _]) = crossing();
    transmit(&mut other, &mut one, at(406));
    assert_eq!(one.stats(at(406)).counters.skipped.older, 1);
    let [here, there] = settle(&mut one, &mut other, at(406));
    assert!(!puts(&here, &ended) && deletes(&there, &ended));
    assert_eq!([known(&one), known(&other)], [1, 1]);
}

#[test]
fn one_without_a_tombstone_may_be_undone_on_one_node_until_the_next_session() {
    let (mut one, mut other, [ended, going_on]) = crossing();
    let (mut there, mut back) = (Vec::new(), Vec::new());
    while one.poll_transmit(at(406), &mut there) {}
    while other.poll_transmit(at(406), &mut back) {}
    one.received(at(406), &back);
    other.received(at(406), &there);
    let [here, there] = settle(&mut one, &mut other, at(406));
    assert!(puts(&here, &ended) && deletes(&there, &ended));
    assert_eq!([known(&one), known(&other)], [2, 1]);
    for replica in [&mut one, &mut other] {
        replica.disconnected(at(600));
        replica.connected(at(600));
    }
    let (of_one, of_other) = ([ended, going_on], [going_on]);
    let applied = settle_with([&mut one, &mut other], [&of_one, &of_other], at(600));
    let deleted = applied.map(|all| all.into_iter().flat_map(|apply| apply.deletes).collect::<Vec<_>>());
    assert_eq!(deleted, [vec![ended.entry.key()], Vec::new()]);
    assert_eq!([known(&one), known(&other)], [1, 1]);
}
