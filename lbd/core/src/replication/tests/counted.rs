//! What is counted since the process began, whatever becomes of its replicas.

use super::*;

#[test]
fn a_replica_counts_on_and_looks_for_nothing_that_had_no_room_before_it() {
    let tables = |size| [size; Table::COUNT];
    let mut before = replica("a", 1);
    assert!(!before.resize(tables(1), 7), "it shrinks");
    let flows = [1, 2].map(|number| flow(&mut before, number));
    before.changed_all(at(100), &flows);
    assert_eq!(before.counters().local_full, 1);
    let mut next = replica("a", 2);
    next.count_from(before.counters().clone());
    assert_eq!(next.stats(at(200)).counters, *before.counters());
    assert!(!next.resize(tables(1), 7) && !next.resize(tables(3), 21), "nothing is missing in this one");
    assert!(before.resize(tables(3), 21), "as something is in that one");
}
