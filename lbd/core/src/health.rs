//! When a target counts as healthy: a state machine over check results.
//!
//! A checked target starts undecided, which serves nothing. Its first result decides at once, so that a start takes one
//! check and not `healthy_threshold` of them. From then on only so many equal results in a row change the state.

use serde::Serialize;

common::named! {
    /// What is known about a target. The place of each stays what it is: it is the state's number between the nodes of a pair.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
    #[serde(rename_all = "snake_case")]
    pub enum HealthState {
        /// Its group has no health check: it counts as healthy.
        Unchecked => "unchecked",
        /// The first check has not ended yet: it counts as unhealthy.
        Undecided => "undecided",
        /// Takes new connections.
        Healthy => "healthy",
        /// Takes none while another target of its group is healthy.
        Unhealthy => "unhealthy",
    }
}

impl HealthState {
    /// Whether new connections may go there.
    #[must_use]
    pub const fn serves(self) -> bool {
        matches!(self, Self::Unchecked | Self::Healthy)
    }
}

/// How many equal results in a row change the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Successes that make an unhealthy target healthy, at least 1.
    pub healthy: u32,
    /// Failures that make a healthy target unhealthy, at least 1.
    pub unhealthy: u32,
}

/// One target's health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthTracker {
    state: HealthState,
    /// `None`: no check.
    thresholds: Option<Thresholds>,
    /// Results in a row that speak against `state`.
    against: u32,
}

impl HealthTracker {
    /// A new target; `None` when its group has no health check.
    #[must_use]
    pub const fn new(thresholds: Option<Thresholds>) -> Self {
        let state = if thresholds.is_some() { HealthState::Undecided } else { HealthState::Unchecked };
        Self { state, thresholds, against: 0 }
    }

    /// The state now.
    #[must_use]
    pub const fn state(&self) -> HealthState {
        self.state
    }

    /// Results in a row that speak against the state.
    #[must_use]
    pub const fn against(&self) -> u32 {
        self.against
    }

    /// Takes the result of a check. Answers the new state if it changed.
    pub fn record(&mut self, success: bool) -> Option<HealthState> {
        let thresholds = self.thresholds?;
        let (agrees, threshold, other) = match self.state {
            HealthState::Unchecked => return None,
            HealthState::Undecided => {
                self.state = if success { HealthState::Healthy } else { HealthState::Unhealthy };
                return Some(self.state);
            }
            HealthState::Healthy => (success, thresholds.unhealthy, HealthState::Unhealthy),
            HealthState::Unhealthy => (!success, thresholds.healthy, HealthState::Healthy),
        };
        if agrees {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        if self.against < threshold {
            return None;
        }
        self.against = 0;
        self.state = other;
        Some(other)
    }

    /// Takes the thresholds of a new configuration; what is known stays known.
    ///
    /// A target whose check was removed counts as healthy at once; one that gained a check was serving until now and goes
    /// on until the check says otherwise. Answers the new state if it changed.
    pub fn reconfigure(&mut self, thresholds: Option<Thresholds>) -> Option<HealthState> {
        let before = self.state;
        match (self.thresholds, thresholds) {
            (_, None) => self.state = HealthState::Unchecked,
            (None, Some(_)) => self.state = HealthState::Healthy,
            (Some(_), Some(_)) => {}
        }
        if self.thresholds != thresholds {
            self.against = 0;
        }
        self.thresholds = thresholds;
        (self.state != before).then_some(self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tracker(healthy: u32, unhealthy: u32) -> HealthTracker {
        HealthTracker::new(Some(Thresholds { healthy, unhealthy }))
    }

    #[test]
    fn the_first_result_decides() {
        let mut target = tracker(3, 3);
        assert!(!target.state().serves());
        assert_eq!(target.record(true), Some(HealthState::Healthy));
        let mut target = tracker(3, 3);
        assert_eq!(target.record(false), Some(HealthState::Unhealthy));
    }

    #[test]
    fn thresholds_count_results_in_a_row() {
        let mut target = tracker(3, 2);
        target.record(true);
        assert_eq!(target.record(false), None);
        assert_eq!(target.record(true), None);
        assert_eq!(target.record(false), None);
        assert_eq!(target.record(false), Some(HealthState::Unhealthy));
        assert_eq!(target.record(true), None);
        assert_eq!(target.record(true), None);
        assert_eq!(target.record(true), Some(HealthState::Healthy));
    }

    #[test]
    fn a_target_without_a_check_always_serves() {
        let mut target = HealthTracker::new(None);
        assert!(target.state().serves());
        assert_eq!(target.record(false), None);
        assert!(target.state().serves());
    }

    #[test]
    fn a_new_configuration_keeps_what_is_known() {
        let mut target = tracker(1, 1);
        target.record(false);
        assert_eq!(target.reconfigure(Some(Thresholds { healthy: 2, unhealthy: 2 })), None);
        assert_eq!(target.state(), HealthState::Unhealthy);
        assert_eq!(target.reconfigure(None), Some(HealthState::Unchecked));
        assert_eq!(
            target.reconfigure(Some(Thresholds { healthy: 2, unhealthy: 2 })),
            Some(HealthState::Healthy)
        );
    }

    proptest! {
        /// Against a plain re-reading of the rule: the state flips exactly when the last `threshold` results all
        /// contradict it and came after the last flip.
        #[test]
        fn follows_the_rule(
            healthy in 1_u32..6, unhealthy in 1_u32..6, results in proptest::collection::vec(any::<bool>(), 1..80)
        ) {
            let mut target = tracker(healthy, unhealthy);
            let mut serves = results[0];
            let mut since_flip = 0_usize;
            prop_assert!(target.record(results[0]).is_some());
            for (index, &result) in results.iter().enumerate().skip(1) {
                since_flip += 1;
                let need = if serves { unhealthy } else { healthy } as usize;
                let flips = since_flip >= need && results[index + 1 - need..=index].iter().all(|&r| r != serves);
                prop_assert_eq!(target.record(result).is_some(), flips);
                if flips {
                    serves = !serves;
                    since_flip = 0;
                }
                prop_assert_eq!(target.state().serves(), serves);
            }
        }
    }
}
