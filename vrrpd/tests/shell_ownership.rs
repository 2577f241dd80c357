//! The map of what a node owns, as a real BPF map (needs root).

mod bpf_map;

use std::fs::File;

use bpf_map::{MAPPABLE, array, instances, set, word};
use common::ipc::InstanceNumber;
use common::time::Instant;
use vrrpd::ownership::{Ownership, OwnershipError};

fn named(numbers: &[(&str, u32)]) -> Vec<InstanceNumber> {
    let number = |&(name, number): &(&str, u32)| InstanceNumber { instance: name.to_owned(), number };
    numbers.iter().map(number).collect()
}

const fn at(nanos: u64) -> Instant {
    Instant::from_nanos(nanos)
}

#[test]
fn what_is_stored_is_what_the_kernel_reads() {
    let map = instances();
    let ownership = Ownership::map(&map, &named(&[("web", 1), ("dns", 63)])).unwrap();
    ownership.own("web", at(u64::MAX / 3));
    ownership.own("dns", at(5));
    ownership.own("other", at(9));
    let words: Vec<u64> = (0..64).map(|number| word(&map, number)).collect();
    let mut expected = vec![0; 64];
    (expected[1], expected[63]) = (u64::MAX / 3, 5);
    assert_eq!(words, expected);
}

#[test]
fn giving_up_ends_what_is_left_and_prolongs_nothing() {
    let map = instances();
    // As a former life left it.
    set(&map, 1, 100);
    set(&map, 2, 40);
    let ownership = Ownership::map(&map, &named(&[("web", 1), ("dns", 2), ("never", 3)])).unwrap();
    for instance in ["web", "dns", "never", "other"] {
        ownership.give_up(instance, at(50));
    }
    assert_eq!([1, 2, 3].map(|number| word(&map, number)), [50, 40, 0]);
}

#[test]
fn it_outlives_the_descriptor_and_a_second_one_is_the_same_map() {
    let map = instances();
    let descriptor = map.try_clone().unwrap();
    let first = Ownership::map(&descriptor, &named(&[("web", 1)])).unwrap();
    drop(descriptor);
    first.own("web", at(1));
    assert_eq!(word(&map, 1), 1);
    let second = Ownership::map(&map, &named(&[("web", 2)])).unwrap();
    drop(first);
    second.own("web", at(2));
    assert_eq!([1, 2].map(|number| word(&map, number)), [1, 2]);
}

#[test]
fn other_maps_and_other_things_are_refused() {
    let numbers = named(&[("web", 1)]);
    for (map, name) in [
        (array(8, 64, 0), "map_flags"),
        (array(16, 64, MAPPABLE), "value_size"),
        (array(4, 64, MAPPABLE), "value_size"),
        (array(8, 63, MAPPABLE), "max_entries"),
        (array(8, 65_536, MAPPABLE), "max_entries"),
    ] {
        match Ownership::map(&map, &numbers) {
            Err(OwnershipError::Shape { name: found, .. }) => assert_eq!(found, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    let file = File::open("/proc/self/status").unwrap();
    assert!(matches!(Ownership::map(&file, &numbers), Err(OwnershipError::Shape { name: "map_type", .. })));
    for number in [0, 64, u32::MAX] {
        let refused = Ownership::map(instances(), &named(&[("web", number)]));
        assert!(matches!(refused, Err(OwnershipError::Number { .. })), "{number}");
    }
}
