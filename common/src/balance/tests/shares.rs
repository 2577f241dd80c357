//! Shares follow the weights, within the bound that each test states.

use proptest::prelude::*;

use super::*;
use crate::rng::Rng;

const PICKS: u32 = 5000;

/// Picks for new clients of targets that stay idle, or where everything stays open.
fn counts(algorithm: Algorithm, weights: &[u16], seed: u64, held: bool) -> Vec<u32> {
    let mut balancer = plan(algorithm, weights).balancer(seed);
    let mut candidates = idle(weights);
    let mut rng = Rng::new(seed ^ 0xabcd);
    let mut counts = vec![0; weights.len()];
    for _ in 0..PICKS {
        let index = balancer.pick(&fresh(&mut rng), &candidates).expect("there is a target");
        counts[index] += 1;
        candidates[index].load += u32::from(held);
    }
    counts
}

fn expected(weights: &[u16], index: usize) -> f64 {
    let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
    f64::from(PICKS) * f64::from(weights[index]) / total
}

/// Six standard deviations of what chance gives: two in a thousand million of such counts are outside.
fn by_chance(expected: f64) -> f64 {
    6.0 * (expected * (1.0 - expected / f64::from(PICKS))).sqrt() + 3.0
}

fn some_weights() -> impl Strategy<Value = Vec<u16>> {
    proptest::collection::vec(prop_oneof![0_u16..=256, 1_u16..=4], 1..12)
        .prop_filter("a target has a weight", |weights| weights.iter().any(|&weight| weight > 0))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Idle targets take turns: none is ever further from its share than there are targets.
    #[test]
    fn turns_follow_weights_within_the_number_of_targets(weights in some_weights(), seed in any::<u64>()) {
        for algorithm in [Algorithm::RoundRobin, Algorithm::LeastConnections, Algorithm::LeastOutstandingRequests] {
            for (index, &count) in counts(algorithm, &weights, seed, false).iter().enumerate() {
                let off = (f64::from(count) - expected(&weights, index)).abs();
                // What the worker's start is advanced by is not counted here: at most as many turns again.
                prop_assert!(off <= 2.0 * weights.len() as f64, "{algorithm:?} {index}: {count}");
            }
        }
    }

    /// Loads that stay: none has more than its share by more than one connection.
    #[test]
    fn least_loaded_is_within_one_of_its_share(weights in some_weights(), seed in any::<u64>()) {
        for algorithm in [Algorithm::LeastConnections, Algorithm::LeastOutstandingRequests] {
            let counts = counts(algorithm, &weights, seed, true);
            for (index, &count) in counts.iter().enumerate() {
                let share = expected(&weights, index);
                prop_assert!(f64::from(count) <= share + 1.0, "{algorithm:?} {index}: {count} of {share}");
                prop_assert!(f64::from(count) >= share - weights.len() as f64);
            }
        }
    }

    /// Chance and hashes: within six standard deviations.
    #[test]
    fn chance_follows_weights(weights in some_weights(), seed in any::<u64>()) {
        for algorithm in [
            Algorithm::Random, Algorithm::PowerOfTwoChoices, Algorithm::SourceIpHash, Algorithm::ConsistentHash,
            Algorithm::FlowHash,
        ] {
            for (index, &count) in counts(algorithm, &weights, seed, false).iter().enumerate() {
                let share = expected(&weights, index);
                prop_assert!((f64::from(count) - share).abs() <= by_chance(share), "{algorithm:?} {index}: {count} of {share}");
            }
        }
    }

    /// Two choices under load: a twentieth of the share and 10 connections at most, which chance alone does not keep.
    #[test]
    fn two_choices_even_out(weights in some_weights(), seed in any::<u64>()) {
        for (index, &count) in counts(Algorithm::PowerOfTwoChoices, &weights, seed, true).iter().enumerate() {
            let share = expected(&weights, index);
            prop_assert!((f64::from(count) - share).abs() <= share / 20.0 + 10.0, "{index}: {count} of {share}");
        }
    }

    /// Whatever is in and out of service: what has no share is never picked, and something is as long as one has any.
    #[test]
    fn picks_are_among_those_in_service(
        targets in proptest::collection::vec((0_u16..=256, 0_u32..=256, 0_u32..5, any::<bool>()), 0..10),
        seeds in proptest::collection::vec(any::<u64>(), 1..20),
    ) {
        let weights: Vec<u16> = targets.iter().map(|target| target.0).collect();
        let candidates: Vec<Candidate> = targets
            .iter()
            .map(|&(weight, part, load, up)| Candidate { share: if up { share(weight, part) } else { 0 }, load })
            .collect();
        let any_up = candidates.iter().any(|candidate| candidate.share > 0);
        for algorithm in Algorithm::ALL {
            let mut balancer = plan(algorithm, &weights).balancer(seeds[0]);
            for &seed in &seeds {
                let picked = balancer.pick(&keyed(seed), &candidates);
                prop_assert_eq!(picked.is_some(), any_up, "{:?}", algorithm);
                prop_assert!(picked.is_none_or(|index| candidates[index].share > 0), "{:?}", algorithm);
            }
        }
    }

    /// Retries: each try is another target, until all have been tried.
    #[test]
    fn retries_go_elsewhere(count in 1_usize..8, seed in any::<u64>()) {
        for algorithm in Algorithm::ALL {
            let mut balancer = plan(algorithm, &vec![1; count]).balancer(seed);
            let candidates = idle(&vec![1; count]);
            let mut tried = Vec::new();
            while let Some(index) = balancer.pick(&keyed(seed), &Without { all: &candidates, tried: &tried }) {
                prop_assert!(!tried.contains(&index));
                tried.push(index);
            }
            prop_assert_eq!(tried.len(), count, "{:?}", algorithm);
        }
    }

    /// Whatever came and went before, among a steady set the turns come back to the shares.
    #[test]
    fn turns_recover_after_changes(
        weights in proptest::collection::vec(1_u16..=16, 2..6),
        masks in proptest::collection::vec((any::<u8>(), 1_u32..=256), 0..60),
        last in any::<u8>(),
    ) {
        let mut rotation = Rotation::new(0);
        let count = weights.len();
        for (mask, part) in masks {
            let picked = rotation.pick(count, |index| if mask >> index & 1 == 1 { share(weights[index], part) } else { 0 });
            prop_assert!(picked.is_none_or(|index| mask >> index & 1 == 1));
        }
        let now = |index: usize| if last >> index & 1 == 1 { u32::from(weights[index]) } else { 0 };
        let total: u32 = (0..count).map(now).sum();
        prop_assume!(total > 0);
        let mut counts = vec![0_u32; count];
        for _ in 0..total * 100 {
            counts[rotation.pick(count, |index| now(index) * SHARE_PER_WEIGHT).unwrap()] += 1;
        }
        for (index, &count) in counts.iter().enumerate() {
            // What was owed from before is at most a few rounds' worth.
            prop_assert!(count.abs_diff(now(index) * 100) <= 60, "{} {}", count, now(index) * 100);
        }
    }
}

#[test]
fn heavy_targets_are_spread_out() {
    let picks = |weights: &[u16], count: usize| -> Vec<usize> {
        let mut balancer = plan(Algorithm::RoundRobin, weights).balancer(0);
        (0..count).filter_map(|_| balancer.pick(&Request::default(), &idle(weights))).collect()
    };
    // The sequence that nginx's documentation of the method gives for 5, 1, 1.
    assert_eq!(picks(&[5, 1, 1], 7), [0, 0, 1, 0, 2, 0, 0]);
    assert_eq!(picks(&[1, 1, 1], 6), [0, 1, 2, 0, 1, 2]);
}

#[test]
fn workers_begin_at_different_targets() {
    for algorithm in [Algorithm::RoundRobin, Algorithm::LeastConnections, Algorithm::LeastOutstandingRequests]
    {
        let plan = plan(algorithm, &[1, 1, 1]);
        let first = |worker| plan.balancer(worker).pick(&Request::default(), &idle(&[1, 1, 1]));
        assert_eq!([first(0), first(1), first(2), first(3)], [Some(0), Some(1), Some(2), Some(0)]);
    }
}

#[test]
fn the_least_loaded_for_its_weight_is_taken() {
    let candidates = [
        Candidate { load: 5, ..Candidate::of_weight(3) },
        Candidate { load: 2, ..Candidate::of_weight(1) },
        Candidate { load: 9, ..Candidate::of_weight(5) },
    ];
    // 5/3 < 9/5 < 2/1.
    for algorithm in [Algorithm::LeastConnections, Algorithm::LeastOutstandingRequests] {
        let mut balancer = plan(algorithm, &[3, 1, 5]).balancer(0);
        assert_eq!(balancer.pick(&Request::default(), &candidates), Some(0));
        let others = Without { all: &candidates, tried: &[0] };
        assert_eq!(balancer.pick(&Request::default(), &others), Some(2));
    }
    // Of two targets both are drawn: power of two choices is least connections then.
    let mut balancer = plan(Algorithm::PowerOfTwoChoices, &[3, 1, 5]).balancer(0);
    for _ in 0..50 {
        let picked = balancer.pick(&Request::default(), &Without { all: &candidates, tried: &[1] });
        assert_eq!(picked, Some(0));
    }
}

#[test]
fn the_largest_loads_and_shares_are_compared_exactly() {
    let full = Candidate { share: SHARE_MAX, load: u32::MAX };
    let one_less = Candidate { share: SHARE_MAX, load: u32::MAX - 1 };
    let mut balancer = plan(Algorithm::LeastConnections, &[256, 256]).balancer(0);
    for _ in 0..4 {
        assert_eq!(balancer.pick(&Request::default(), &[full, one_less]), Some(1));
    }
}

#[test]
fn shares_of_weights() {
    assert_eq!((share(1, 256), share(256, 256), share(0, 256)), (256, SHARE_MAX, 0));
    assert_eq!((share(4, 128), share(1, 0), share(2, 1)), (512, 1, 2));
    assert_eq!(share(300, 300), SHARE_MAX, "what is out of range is cut off");
}
