//! The table is the paper's.

use proptest::prelude::*;

use super::super::maglev::{Preference, SIZE, Table};
use super::*;

fn preferring(offset: u32, skip: u32) -> Preference {
    Preference { offset, skip }
}

/// Table 1 of the paper: seven slots, three targets with (offset, skip) of (3, 4), (0, 2) and (3, 1), and the same without
/// the second.
#[test]
fn equals_the_paper_s_example() {
    let (b0, b1, b2) = (preferring(3, 4), preferring(0, 2), preferring(3, 1));
    let table = Table::build(7, &[(b0, 1), (b1, 1), (b2, 1)]);
    assert_eq!(table.slots().collect::<Vec<_>>(), [1, 0, 1, 0, 2, 2, 0]);
    let table = Table::build(7, &[(b0, 1), (b2, 1)]);
    assert_eq!(table.slots().collect::<Vec<_>>(), [0, 0, 0, 0, 1, 1, 1]);
}

/// The paper's pseudo-code as it stands, permutations written out; in round r a target takes a turn when its weight, as a
/// part of the largest, has added up to another whole.
fn naive(members: &[Member<'_>], key: &HashKey) -> Vec<usize> {
    let size = SIZE as u64;
    let mut sorted: Vec<usize> = (0..members.len()).collect();
    sorted.sort_by(|&one, &other| members[one].id.cmp(members[other].id));
    let heaviest = u64::from(members.iter().map(|member| member.weight).max().unwrap());
    let permutation: Vec<Vec<u64>> = members
        .iter()
        .map(|member| {
            let hash = key.bytes(member.id.as_bytes());
            let (offset, skip) = ((hash >> 32) % size, (hash & 0xffff_ffff) % (size - 1) + 1);
            (0..size).map(|step| (offset + step * skip) % size).collect()
        })
        .collect();
    let mut next = vec![0_usize; members.len()];
    let mut entry = vec![-1_i64; SIZE];
    let mut filled = 0;
    for round in 1.. {
        for &target in &sorted {
            let weight = u64::from(members[target].weight);
            if round * weight / heaviest == (round - 1) * weight / heaviest {
                continue;
            }
            let mut slot = permutation[target][next[target]];
            while entry[usize::try_from(slot).unwrap()] >= 0 {
                next[target] += 1;
                slot = permutation[target][next[target]];
            }
            entry[usize::try_from(slot).unwrap()] = i64::try_from(target).unwrap();
            next[target] += 1;
            filled += 1;
            if filled == SIZE {
                return entry.into_iter().map(|target| usize::try_from(target).unwrap()).collect();
            }
        }
    }
    unreachable!("rounds do not end")
}

fn named(weights: &[u16], names: &[String]) -> Vec<(String, u16)> {
    names.iter().cloned().zip(weights.iter().copied()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn equals_an_independent_implementation(
        weights in proptest::collection::vec(0_u16..=256, 1..9), bytes in any::<[u8; 16]>(),
    ) {
        prop_assume!(weights.iter().any(|&weight| weight > 0));
        let (ids, key) = (ids(weights.len()), HashKey::new(bytes));
        let members: Vec<Member<'_>> = ids.iter().zip(&weights).map(|(id, &weight)| Member { id, weight }).collect();
        prop_assert_eq!(Table::new(&members, &key).slots().collect::<Vec<_>>(), naive(&members, &key));
    }

    /// Slots follow the weights: one turn more or less, and what the last round leaves out, which is no more than the
    /// target's part of a turn for each.
    #[test]
    fn slots_follow_weights(weights in proptest::collection::vec(0_u16..=256, 1..40)) {
        let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
        prop_assume!(total > 0.0);
        let ids = ids(weights.len());
        let members: Vec<Member<'_>> = ids.iter().zip(&weights).map(|(id, &weight)| Member { id, weight }).collect();
        let table = Table::new(&members, &key());
        let mut counts = vec![0_u32; weights.len()];
        for target in table.slots() {
            counts[target] += 1;
        }
        prop_assert_eq!(table.slots().len(), SIZE);
        for (index, &weight) in weights.iter().enumerate() {
            let part = f64::from(weight) / total;
            let off = (f64::from(counts[index]) - SIZE as f64 * part).abs();
            prop_assert!(off <= 1.0 + weights.len() as f64 * part, "{index}: {} of {}", counts[index], SIZE as f64 * part);
        }
    }

    /// The nodes of a pair may learn of the targets in different orders.
    #[test]
    fn the_order_of_the_list_does_not_matter(
        mut listed in Just(named(&[1, 2, 3, 1, 5, 0], &ids(6))).prop_shuffle()
    ) {
        let table_of = |listed: &[(String, u16)]| -> Vec<String> {
            let members: Vec<Member<'_>> = listed.iter().map(|(id, weight)| Member { id, weight: *weight }).collect();
            Table::new(&members, &key()).slots().map(|target| listed[target].0.clone()).collect()
        };
        let shuffled = table_of(&listed);
        listed.sort();
        prop_assert_eq!(shuffled, table_of(&listed));
    }
}

#[test]
fn a_table_without_targets_answers_nothing() {
    assert_eq!(Table::new(&[], &key()).get(7), None);
    assert_eq!(Table::new(&[Member { id: "a", weight: 0 }], &key()).get(7), None);
    let alone = Table::new(&[Member { id: "a", weight: 9 }], &key());
    assert!([0, 65_536, u64::MAX].iter().all(|&hash| alone.get(hash) == Some(0)));
}

#[test]
fn thousands_of_targets_each_get_slots() {
    let ids = ids(4096);
    let members: Vec<Member<'_>> = ids.iter().map(|id| Member { id, weight: 1 }).collect();
    let mut counts = vec![0; members.len()];
    for target in Table::new(&members, &key()).slots() {
        counts[target] += 1;
    }
    assert!(counts.iter().all(|count| (16..=17).contains(count)));
}
