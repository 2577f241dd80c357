//! The events, and what they may cost.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Something that happens to the active node of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The active role is handed over by command, adverts every second.
    Switchover,
    /// The active role is handed over by command, adverts every 10 ms.
    #[serde(rename = "switchover-10ms")]
    Switchover10Ms,
    /// The VRRP daemon is stopped (SIGTERM), adverts every second.
    SigtermVrrpd,
    /// The VRRP daemon is stopped (SIGTERM), adverts every 10 ms.
    #[serde(rename = "sigterm-vrrpd-10ms")]
    SigtermVrrpd10Ms,
    /// The VRRP daemon is killed, adverts every 100 ms.
    #[serde(rename = "sigkill-vrrpd-100ms")]
    SigkillVrrpd100Ms,
    /// The VRRP daemon is killed, adverts every second.
    #[serde(rename = "sigkill-vrrpd-1s")]
    SigkillVrrpd1S,
    /// The balancer is killed.
    SigkillLbd,
    /// The VRRP daemon is stopped by SIGSTOP and goes on after the other node has taken over.
    SigstopVrrpd,
    /// The cable of the LAN port is pulled; the peer link lives.
    LinkDown,
    /// The LAN port drops everything silently.
    PortBlocked,
    /// A node that had lost power boots and takes over again.
    NodeReturns,
}

/// What an event may cost at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The longest gap, of the median run.
    pub gap: Option<Duration>,
    /// Failed connections, of the median run.
    pub failed: Option<usize>,
    /// Whether the longest gap must also not be above the rival's in the same run of the benchmark.
    pub no_worse_than_rival: bool,
    /// Whether the former active node must have let go of the VIP, in every run.
    pub released: bool,
    /// How long two nodes may answer for the VIP, in every run.
    pub overlap: Duration,
}

impl Event {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 11] = [
        Self::Switchover,
        Self::Switchover10Ms,
        Self::SigtermVrrpd,
        Self::SigtermVrrpd10Ms,
        Self::SigkillVrrpd100Ms,
        Self::SigkillVrrpd1S,
        Self::SigkillLbd,
        Self::SigstopVrrpd,
        Self::LinkDown,
        Self::PortBlocked,
        Self::NodeReturns,
    ];

    /// Its name for the command line and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Switchover => "switchover",
            Self::Switchover10Ms => "switchover-10ms",
            Self::SigtermVrrpd => "sigterm-vrrpd",
            Self::SigtermVrrpd10Ms => "sigterm-vrrpd-10ms",
            Self::SigkillVrrpd100Ms => "sigkill-vrrpd-100ms",
            Self::SigkillVrrpd1S => "sigkill-vrrpd-1s",
            Self::SigkillLbd => "sigkill-lbd",
            Self::SigstopVrrpd => "sigstop-vrrpd",
            Self::LinkDown => "link-down",
            Self::PortBlocked => "port-blocked",
            Self::NodeReturns => "node-returns",
        }
    }

    /// The event of a name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.name() == name)
    }

    /// The advert interval it is measured at.
    #[must_use]
    pub const fn advert_interval(self) -> Duration {
        match self {
            Self::Switchover | Self::SigtermVrrpd | Self::SigkillVrrpd1S | Self::SigkillLbd => {
                Duration::from_secs(1)
            }
            Self::SigkillVrrpd100Ms | Self::SigstopVrrpd | Self::LinkDown | Self::NodeReturns => {
                Duration::from_millis(100)
            }
            Self::Switchover10Ms | Self::SigtermVrrpd10Ms | Self::PortBlocked => Duration::from_millis(10),
        }
    }

    /// What is done to our pair, and to the other one.
    #[must_use]
    pub const fn description(self) -> (&'static str, &'static str) {
        match self {
            Self::Switchover | Self::Switchover10Ms => (
                "POST /v1/switchover on the active node, as `vrrpd switchover web` does",
                "keepalived has no such command; its priority is lowered by a tracked file",
            ),
            Self::SigtermVrrpd | Self::SigtermVrrpd10Ms => {
                ("SIGTERM to vrrpd", "SIGTERM to keepalived's parent process")
            }
            Self::SigkillVrrpd100Ms | Self::SigkillVrrpd1S => (
                "SIGKILL to vrrpd (its warden is another process and lives on)",
                "SIGKILL to both of keepalived's processes: killing the parent alone stops it cleanly",
            ),
            Self::SigkillLbd => {
                ("SIGKILL to lbd", "SIGKILL to haproxy; keepalived checks its port every second")
            }
            Self::SigstopVrrpd => (
                "SIGSTOP to vrrpd, SIGCONT when the other node serves; no preemption",
                "SIGSTOP to both of keepalived's processes, SIGCONT likewise; nopreempt",
            ),
            Self::LinkDown => {
                ("carrier lost on the LAN port, peer link alive", "carrier lost on the LAN port")
            }
            Self::PortBlocked => {
                ("the switch drops all frames of the LAN port, both ways; peer link alive", "the same")
            }
            Self::NodeReturns => (
                "a booted machine starts vrrpd and lbd at the same time, and preempts",
                "a booted machine starts HAProxy and, when that listens, keepalived, and preempts",
            ),
        }
    }

    /// What it may cost.
    #[must_use]
    pub const fn target(self) -> Target {
        let gap_ms = match self {
            Self::Switchover
            | Self::Switchover10Ms
            | Self::SigtermVrrpd
            | Self::SigtermVrrpd10Ms
            | Self::NodeReturns => None,
            Self::SigkillVrrpd100Ms | Self::SigkillVrrpd1S | Self::SigkillLbd => Some(20),
            Self::SigstopVrrpd => Some(400),
            Self::LinkDown => Some(50),
            Self::PortBlocked => Some(40),
        };
        let gap = match gap_ms {
            Some(limit) => Some(Duration::from_millis(limit)),
            None => None,
        };
        Target {
            gap,
            failed: if gap.is_none() { Some(0) } else { None },
            no_worse_than_rival: matches!(self, Self::PortBlocked),
            // Behind a blocked port nobody sees what a node holds.
            released: !matches!(self, Self::PortBlocked),
            overlap: self.advert_interval(),
        }
    }

    /// Whether the node that held the VIP goes on without being able to serve or to speak: then the rival, whose
    /// addresses nobody removes, keeps the VIP on it.
    #[must_use]
    pub const fn kills_vrrp(self) -> bool {
        matches!(self, Self::SigkillVrrpd100Ms | Self::SigkillVrrpd1S | Self::SigstopVrrpd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found_again() {
        for event in Event::ALL {
            assert_eq!(Event::of_name(event.name()), Some(event));
            let written = serde_json::to_value(event).expect("a name");
            assert_eq!(written.as_str(), Some(event.name()), "records use the same names");
        }
        assert_eq!(Event::of_name("sigkill"), None);
    }

    #[test]
    fn every_event_has_a_target_for_gap_or_failures() {
        for event in Event::ALL {
            let target = event.target();
            assert_ne!(target.gap.is_some(), target.failed.is_some(), "{event:?}");
            assert_eq!(target.overlap, event.advert_interval());
        }
    }
}
