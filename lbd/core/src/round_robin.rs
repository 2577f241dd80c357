//! Weighted round robin over a list of weights, by [`common::balance::Rotation`].

use common::balance::Rotation;

/// The rotation over one target group. Each worker has its own.
#[derive(Clone, Debug)]
pub struct RoundRobin {
    weights: Vec<u16>,
    rotation: Rotation,
}

impl RoundRobin {
    /// A rotation over targets of these weights (0 to 256; 0 is never picked), advanced by `offset` picks so that several
    /// workers with a few connections each don't all begin with the first target.
    #[must_use]
    pub fn new(weights: Vec<u16>, offset: usize) -> Self {
        Self { weights, rotation: Rotation::new(u64::try_from(offset).unwrap_or_default()) }
    }

    /// The next target among those for which `candidate` says yes; `None` if there is none of a weight above 0.
    pub fn pick(&mut self, candidate: impl Fn(usize) -> bool) -> Option<usize> {
        let Self { weights, rotation } = self;
        rotation.pick(weights.len(), |index| if candidate(index) { u32::from(weights[index]) } else { 0 })
    }

    /// The number of targets, those of weight 0 included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.weights.len()
    }

    /// Whether there is no target at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }

    /// The weight of a target.
    #[must_use]
    pub fn weight(&self, index: usize) -> u16 {
        self.weights[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn picks(weights: &[u16], count: usize) -> Vec<usize> {
        let mut rotation = RoundRobin::new(weights.to_vec(), 0);
        (0..count).map(|_| rotation.pick(|_| true).unwrap()).collect()
    }

    #[test]
    fn heavy_targets_are_spread_out() {
        assert_eq!(picks(&[5, 1, 1], 7), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(picks(&[1, 1, 1], 6), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn nothing_to_pick() {
        assert_eq!(RoundRobin::new(vec![], 3).pick(|_| true), None);
        assert_eq!(RoundRobin::new(vec![0, 0], 1).pick(|_| true), None);
        assert_eq!(RoundRobin::new(vec![1, 2], 0).pick(|_| false), None);
    }

    #[test]
    fn workers_begin_at_different_targets() {
        let first = |offset| RoundRobin::new(vec![1; 3], offset).pick(|_| true).unwrap();
        assert_eq!([first(0), first(1), first(2), first(3)], [0, 1, 2, 0]);
    }

    proptest! {
        #[test]
        fn shares_follow_weights_exactly(weights in proptest::collection::vec(0_u16..=256, 1..12), rounds in 1_usize..4) {
            let total: usize = weights.iter().map(|&w| usize::from(w)).sum();
            prop_assume!(total > 0);
            let mut counts = vec![0; weights.len()];
            for target in picks(&weights, total * rounds) {
                counts[target] += 1;
            }
            let expected: Vec<usize> = weights.iter().map(|&w| usize::from(w) * rounds).collect();
            prop_assert_eq!(counts, expected);
        }

        /// At no time is a target further from its share than there are targets.
        #[test]
        fn no_target_runs_ahead(weights in proptest::collection::vec(1_u16..=256, 1..8), count in 1_usize..500) {
            let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
            let mut counts = vec![0_u32; weights.len()];
            for (done, target) in picks(&weights, count).into_iter().enumerate() {
                counts[target] += 1;
                for (index, &weight) in weights.iter().enumerate() {
                    let share = (done as f64 + 1.0) * f64::from(weight) / total;
                    prop_assert!((f64::from(counts[index]) - share).abs() <= weights.len() as f64);
                }
            }
        }

        /// Whatever came and went before, among a steady set of candidates the shares come back to the weights.
        #[test]
        fn shares_recover_after_changes(
            weights in proptest::collection::vec(1_u16..=16, 2..6),
            masks in proptest::collection::vec(any::<u8>(), 0..60),
            last in any::<u8>(),
        ) {
            let mut rotation = RoundRobin::new(weights.clone(), 0);
            for mask in masks {
                if let Some(target) = rotation.pick(|i| mask >> i & 1 == 1) {
                    prop_assert!(mask >> target & 1 == 1);
                }
            }
            let candidate = |i: usize| last >> i & 1 == 1;
            let total: u32 = (0..weights.len()).filter(|&i| candidate(i)).map(|i| u32::from(weights[i])).sum();
            prop_assume!(total > 0);
            let mut counts = vec![0_u32; weights.len()];
            for _ in 0..total * 100 {
                counts[rotation.pick(candidate).unwrap()] += 1;
            }
            for (index, &weight) in weights.iter().enumerate() {
                let expected = if candidate(index) { u32::from(weight) * 100 } else { 0 };
                // What was owed from before is at most a few rounds' worth.
                prop_assert!(counts[index].abs_diff(expected) <= 60, "{} {}", counts[index], expected);
            }
        }
    }
}
