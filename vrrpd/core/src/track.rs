//! Health: how unhealthy a node is, and which priority follows from it.
//!
//! Severity is a number from 0 (healthy) to 63, the sum of the [weights](Ailments) of what is wrong. A healthy node
//! advertises its configured priority; an unhealthy one a priority below both nodes' configured ones, the lower the
//! more severe. So a healthy node always beats an unhealthy one, and of two unhealthy ones the less unhealthy serves: there
//! is never a state in which both have stood down for health.
//!
//! Being a sum of powers of two, a severity also says what is wrong: [`is_cut_off`].

use common::ipc::LbdHealth;

/// The greatest severity.
pub const SEVERITY_MAX: u8 = 63;

/// Weights of what keeps a node from its clients or its targets.
const GATEWAY: u8 = 8;
const INTERFACES: u8 = 4;

/// What is known of `lbd`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LbdState {
    /// Not connected: not running, died, or silent for too long.
    #[default]
    Absent,
    /// Connected, and this is what it said last.
    Alive(LbdHealth),
}

impl LbdState {
    /// Whether some workers are missing.
    #[must_use]
    pub fn degraded(&self) -> bool {
        matches!(self, Self::Alive(health) if health.workers_alive < health.workers_expected)
    }

    /// Whether it does not serve at all.
    #[must_use]
    pub fn down(&self) -> bool {
        match self {
            Self::Absent => true,
            Self::Alive(health) => health.workers_alive == 0,
        }
    }

    /// Services without a healthy target.
    #[must_use]
    pub fn services_without_targets(&self) -> &[String] {
        match self {
            Self::Absent => &[],
            Self::Alive(health) => &health.services_without_targets,
        }
    }
}

/// Everything that can be wrong with a node for one instance. The weights are powers of two, worst first, so that one
/// worse ailment outweighs all lesser ones together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ailments {
    /// Maintenance is on: weight 32.
    pub maintenance: bool,
    /// `lbd` is not there, hangs, or has no worker: weight 16.
    pub lbd_down: bool,
    /// The gateway does not answer: weight 8.
    pub gateway: bool,
    /// Tracked interfaces that are down: weight 4, however many.
    pub interfaces: Vec<String>,
    /// Some of `lbd`'s workers are missing: weight 2.
    pub lbd_degraded: bool,
    /// A service has no healthy target: weight 1.
    pub targets: bool,
}

impl Ailments {
    /// The sum of the weights, 0 to [`SEVERITY_MAX`].
    #[must_use]
    pub fn severity(&self) -> u8 {
        u8::from(self.maintenance) * 32
            + u8::from(self.lbd_down) * 16
            + u8::from(self.gateway) * GATEWAY
            + u8::from(!self.interfaces.is_empty()) * INTERFACES
            + u8::from(self.lbd_degraded) * 2
            + u8::from(self.targets)
    }

    /// The names of what is wrong, worst first, as the status shows them.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        let mut add = |present: bool, name: &str| {
            if present {
                reasons.push(name.to_owned());
            }
        };
        add(self.maintenance, "maintenance");
        add(self.lbd_down, "lbd_down");
        add(self.gateway, "gateway");
        for interface in &self.interfaces {
            add(true, &format!("interface:{interface}"));
        }
        add(self.lbd_degraded, "lbd_degraded");
        add(self.targets, "targets");
        reasons
    }
}

/// Whether a node of this severity is cut off from its clients or its targets, so that it hardly serves anybody, however well its `lbd` is.
#[must_use]
pub const fn is_cut_off(severity: u8) -> bool {
    severity & (GATEWAY | INTERFACES) != 0
}

/// The priority in force, from the configured one of this node, the lower of both nodes' configured ones, and the
/// severity.
///
/// 1 is the floor: where the lower configured priority leaves fewer than 63 steps, severities share a step (and the
/// heartbeat over the peer link, which carries the severity itself, still tells them apart).
#[must_use]
pub fn effective_priority(configured: u8, lowest: u8, severity: u8) -> u8 {
    if severity == 0 {
        return configured;
    }
    let room = lowest.saturating_sub(1).max(1);
    if room >= SEVERITY_MAX {
        return room - (severity - 1).min(room - 1);
    }
    let step = u16::from(severity) * u16::from(room) / u16::from(SEVERITY_MAX + 1);
    room.saturating_sub(u8::try_from(step).unwrap_or(u8::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_worse_ailment_outweighs_all_lesser_ones() {
        let lesser = Ailments {
            gateway: true,
            interfaces: vec!["eth1".to_owned(), "eth2".to_owned()],
            lbd_degraded: true,
            targets: true,
            ..Ailments::default()
        };
        let worse = Ailments { lbd_down: true, ..Ailments::default() };
        assert!(worse.severity() > lesser.severity());
        assert_eq!(
            lesser.reasons(),
            ["gateway", "interface:eth1", "interface:eth2", "lbd_degraded", "targets"]
        );
        let everything = Ailments { maintenance: true, lbd_down: true, ..lesser };
        assert_eq!(everything.severity(), SEVERITY_MAX);
    }

    #[test]
    fn an_lbd_without_workers_is_down() {
        let health = LbdHealth { workers_alive: 0, workers_expected: 2, services_without_targets: vec![] };
        assert!(LbdState::Alive(health.clone()).down());
        let some = LbdState::Alive(LbdHealth { workers_alive: 1, ..health });
        assert!(!some.down() && some.degraded());
        assert!(LbdState::Absent.down());
    }

    #[test]
    fn a_severity_says_whether_the_node_is_cut_off() {
        let serves = Ailments {
            maintenance: true,
            lbd_down: true,
            lbd_degraded: true,
            targets: true,
            ..Ailments::default()
        };
        assert!(!is_cut_off(0) && !is_cut_off(serves.severity()));
        let gateway = Ailments { gateway: true, ..Ailments::default() };
        let interface = Ailments { interfaces: vec!["eth1".to_owned()], ..serves.clone() };
        assert!(is_cut_off(gateway.severity()) && is_cut_off(interface.severity()));
    }

    proptest! {
        #[test]
        fn unhealthy_is_below_every_healthy_priority(a in 2_u8..=255, b in 2_u8..=255, severity in 1_u8..=SEVERITY_MAX) {
            let lowest = a.min(b);
            prop_assert!(effective_priority(a, lowest, severity) < lowest);
            prop_assert!(effective_priority(a, lowest, severity) >= 1);
            prop_assert_eq!(effective_priority(a, lowest, 0), a);
        }

        #[test]
        fn more_severe_never_ranks_higher(lowest in 1_u8..=254, severity in 1_u8..SEVERITY_MAX) {
            let milder = effective_priority(255, lowest, severity);
            let worse = effective_priority(255, lowest, severity + 1);
            prop_assert!(worse <= milder);
            if lowest > SEVERITY_MAX + 1 {
                prop_assert!(worse < milder);
            }
        }
    }
}
