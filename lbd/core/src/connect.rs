//! Which target one client connection is tried on, and when to give up.

use crate::round_robin::RoundRobin;

/// What is tried again, from `retry` of the target group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Whether a failed connect is tried on another target.
    pub connect: bool,
    /// Tries in all, the first included; at least 1.
    pub attempts: u32,
}

/// The largest number of tries that is ever made.
pub const ATTEMPTS_MAX: usize = 10;

/// The tries of one client connection. Never the same target twice.
///
/// A target that is not healthy is tried only when the group has no healthy one at all: then each is, because a wrong
/// health check must not take down what would still answer.
#[derive(Clone, Debug)]
pub struct ConnectPlan {
    tried: [usize; ATTEMPTS_MAX],
    tried_count: usize,
    attempts: usize,
}

/// A target to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its index in the group.
    pub target: usize,
    /// No target of the group is healthy; this one is tried all the same.
    pub unhealthy: bool,
}

impl ConnectPlan {
    /// The plan for a new client connection.
    #[must_use]
    pub fn new(policy: RetryPolicy) -> Self {
        let attempts =
            if policy.connect { usize::try_from(policy.attempts).unwrap_or(ATTEMPTS_MAX) } else { 1 };
        Self { tried: [0; ATTEMPTS_MAX], tried_count: 0, attempts: attempts.clamp(1, ATTEMPTS_MAX) }
    }

    /// The target to try next; `None` when the tries are used up or no further target may be tried.
    pub fn next(&mut self, rotation: &mut RoundRobin, healthy: impl Fn(usize) -> bool) -> Option<Choice> {
        if self.tried_count == self.attempts {
            return None;
        }
        let tried = &self.tried[..self.tried_count];
        let mut choice = rotation
            .pick(|index| healthy(index) && !tried.contains(&index))
            .map(|target| Choice { target, unhealthy: false });
        let any_healthy = || (0..rotation.len()).any(|index| rotation.weight(index) > 0 && healthy(index));
        if choice.is_none() && !any_healthy() {
            choice = rotation
                .pick(|index| !tried.contains(&index))
                .map(|target| Choice { target, unhealthy: true });
        }
        let choice = choice?;
        self.tried[self.tried_count] = choice.target;
        self.tried_count += 1;
        Some(choice)
    }

    /// How many targets have been tried.
    #[must_use]
    pub const fn tried(&self) -> usize {
        self.tried_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TWICE: RetryPolicy = RetryPolicy { connect: true, attempts: 2 };

    #[test]
    fn the_second_try_goes_elsewhere() {
        let mut rotation = RoundRobin::new(vec![256, 1], 0);
        let mut plan = ConnectPlan::new(TWICE);
        assert_eq!(plan.next(&mut rotation, |_| true), Some(Choice { target: 0, unhealthy: false }));
        assert_eq!(plan.next(&mut rotation, |_| true), Some(Choice { target: 1, unhealthy: false }));
        assert_eq!(plan.next(&mut rotation, |_| true), None);
    }

    #[test]
    fn no_second_try_when_retry_is_off() {
        let mut rotation = RoundRobin::new(vec![1, 1], 0);
        let mut plan = ConnectPlan::new(RetryPolicy { connect: false, attempts: 5 });
        assert!(plan.next(&mut rotation, |_| true).is_some());
        assert_eq!(plan.next(&mut rotation, |_| true), None);
    }

    #[test]
    fn unhealthy_targets_are_a_last_resort() {
        let mut rotation = RoundRobin::new(vec![1, 1, 0], 0);
        let mut plan = ConnectPlan::new(TWICE);
        assert_eq!(plan.next(&mut rotation, |_| false), Some(Choice { target: 0, unhealthy: true }));
        assert_eq!(plan.next(&mut rotation, |_| false), Some(Choice { target: 1, unhealthy: true }));
        let mut plan = ConnectPlan::new(TWICE);
        assert_eq!(plan.next(&mut rotation, |i| i == 1), Some(Choice { target: 1, unhealthy: false }));
        assert_eq!(plan.next(&mut rotation, |i| i == 1), None, "the only healthy one has been tried");
        // A healthy target of weight 0 serves nobody and so does not stand in the way of the last resort.
        let mut plan = ConnectPlan::new(TWICE);
        assert!(plan.next(&mut rotation, |i| i == 2).is_some_and(|choice| choice.unhealthy));
    }

    proptest! {
        #[test]
        fn choices_keep_the_rules(
            weights in proptest::collection::vec(0_u16..4, 1..8), healthy in any::<u8>(),
            attempts in 1_u32..=12, connect in any::<bool>(), offset in 0_usize..8,
        ) {
            let is_healthy = |i: usize| healthy >> i & 1 == 1;
            let usable = (0..weights.len()).any(|i| weights[i] > 0 && is_healthy(i));
            let mut rotation = RoundRobin::new(weights.clone(), offset);
            let mut plan = ConnectPlan::new(RetryPolicy { connect, attempts });
            let mut seen = Vec::new();
            while let Some(choice) = plan.next(&mut rotation, is_healthy) {
                prop_assert!(weights[choice.target] > 0);
                prop_assert!(!seen.contains(&choice.target));
                prop_assert_eq!(choice.unhealthy, !usable);
                prop_assert!(is_healthy(choice.target) || !usable);
                seen.push(choice.target);
            }
            let open = (0..weights.len()).filter(|&i| weights[i] > 0 && (is_healthy(i) || !usable)).count();
            let allowed = if connect { attempts as usize } else { 1 };
            prop_assert_eq!(seen.len(), open.min(allowed).min(ATTEMPTS_MAX));
        }
    }
}
