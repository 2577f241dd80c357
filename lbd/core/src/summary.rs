//! What `lbd` tells `vrrpd` about itself.

use common::ipc::{ENTRIES_MAX, LbdHealth};

use crate::health::HealthState;

/// What decides whether a service can be served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetsSeen {
    /// A target that may be used and serves.
    pub serving: bool,
    /// A target that may be used and whose first check has not ended.
    pub undecided: bool,
}

impl TargetsSeen {
    /// Looks at targets: whether each may be used (weight, administrator, ejection), and what its checks say.
    #[must_use]
    pub fn of(targets: impl IntoIterator<Item = (bool, HealthState)>) -> Self {
        let mut seen = Self::default();
        for (usable, state) in targets {
            if usable {
                seen.serving |= state.serves();
                seen.undecided |= state == HealthState::Undecided;
            }
        }
        seen
    }

    /// What a service looks like that needs several groups: like the one that looks worst.
    #[must_use]
    pub fn worst(groups: impl IntoIterator<Item = Self>) -> Self {
        let rank = |seen: &Self| (!seen.lacks_targets(), seen.serving);
        groups.into_iter().min_by_key(rank).unwrap_or_default()
    }

    /// Whether it is certain that no target serves. A target whose first check is under way is not counted against the
    /// service: a reload that adds one must not move a VIP for the time of one check.
    #[must_use]
    pub const fn lacks_targets(self) -> bool {
        !self.serving && !self.undecided
    }
}

/// The health to report: `services` are the names of all services and what their targets look like.
#[must_use]
pub fn summarise<'a>(
    workers_alive: u32,
    workers_expected: u32,
    services: impl IntoIterator<Item = (&'a str, TargetsSeen)>,
) -> LbdHealth {
    let services_without_targets = services
        .into_iter()
        .filter(|(_, seen)| seen.lacks_targets())
        .map(|(name, _)| name.to_owned())
        .take(ENTRIES_MAX)
        .collect();
    LbdHealth { workers_alive, workers_expected, services_without_targets }
}

/// Whether this health is good enough to be sent traffic.
#[must_use]
pub fn is_ready(health: &LbdHealth) -> bool {
    health.workers_alive > 0 && health.services_without_targets.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_lacks_targets_only_when_that_is_certain() {
        use HealthState::{Healthy, Unchecked, Undecided, Unhealthy};
        let lacks =
            |targets: &[(bool, HealthState)]| TargetsSeen::of(targets.iter().copied()).lacks_targets();
        assert!(lacks(&[(true, Unhealthy), (true, Unhealthy)]));
        assert!(lacks(&[(false, Healthy), (true, Unhealthy)]), "one in maintenance takes no new connection");
        assert!(lacks(&[]));
        assert!(!lacks(&[(true, Unhealthy), (true, Undecided)]));
        assert!(!lacks(&[(true, Unhealthy), (true, Healthy)]));
        assert!(!lacks(&[(true, Unchecked)]));
    }

    #[test]
    fn a_service_is_as_good_as_its_worst_group() {
        let (good, bad) = (TargetsSeen { serving: true, undecided: false }, TargetsSeen::default());
        let new = TargetsSeen { serving: false, undecided: true };
        assert_eq!(TargetsSeen::worst([good, new]), new);
        assert_eq!(TargetsSeen::worst([new, bad, good]), bad);
        assert_eq!(TargetsSeen::worst([good, good]), good);
        assert_eq!(TargetsSeen::worst([]), bad);
    }

    #[test]
    fn ready_needs_a_worker_and_targets() {
        let good = TargetsSeen { serving: true, undecided: false };
        assert!(is_ready(&summarise(1, 2, [("web", good)])));
        assert!(!is_ready(&summarise(0, 2, [("web", good)])));
        let health = summarise(2, 2, [("web", good), ("mail", TargetsSeen::default())]);
        assert_eq!(health.services_without_targets, ["mail"]);
        assert!(!is_ready(&health));
    }

    #[test]
    fn the_list_is_bounded() {
        let names: Vec<String> = (0..400).map(|i| format!("s{i}")).collect();
        let health = summarise(1, 1, names.iter().map(|name| (name.as_str(), TargetsSeen::default())));
        assert_eq!(health.services_without_targets.len(), ENTRIES_MAX);
    }
}
