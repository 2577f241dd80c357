//! How long connections may stand still when the role moves, and new ones take.

use std::time::Duration;

use super::Strike;
use super::trial::{ADVERT_INTERVAL, Outcome};

/// What a planned move may hold connections up.
pub(super) const SWITCHOVER_STALL_MAX: Duration = Duration::from_millis(50);
/// What a new connection may take meanwhile: TCP repeats a SYN that was lost after 1 s.
pub(super) const SWITCHOVER_NEW_MAX: Duration = Duration::from_millis(950);
/// TCP's first retransmission on a LAN: the least time-out of Linux (`TCP_RTO_MIN`) and a little for the path.
const RETRANSMISSION: Duration = Duration::from_millis(210);
/// After so many intervals between advertisements the other node has noticed at the latest that a node is gone.
const DETECTION_INTERVALS_MAX: u32 = 4;

impl Outcome {
    /// The longest that a connection may have waited for an answer: after a planned move hardly at all, after another one for what TCP was
    /// waiting for when the other node took over. None if that did not. What the machine itself paused comes on top.
    #[must_use]
    pub fn stall_max(&self) -> Option<Duration> {
        let bound = match self.case.strike {
            Strike::Switchover => SWITCHOVER_STALL_MAX,
            Strike::Sigkill | Strike::PowerLoss => with_retransmission(self.detection?),
        };
        Some(bound + self.allowance())
    }

    /// The longest that the other node may have taken to take over by itself.
    pub(super) fn detection_max(&self) -> Option<Duration> {
        match self.case.strike {
            Strike::Switchover => None,
            Strike::Sigkill | Strike::PowerLoss => {
                Some(ADVERT_INTERVAL * DETECTION_INTERVALS_MAX + self.allowance())
            }
        }
    }

    /// What load and machine contribute, as it was seen before anything was done, and as the probe itself was late afterwards.
    fn allowance(&self) -> Duration {
        self.noise.max(self.pause)
    }
}

/// When a sender hears of a new way that it has been without for so long: TCP repeats itself after 200 ms, and each time waits twice as
/// long. What was sent first of all waits longest.
fn with_retransmission(outage: Duration) -> Duration {
    let (mut wait, mut at) = (RETRANSMISSION, RETRANSMISSION);
    while at < outage {
        wait *= 2;
        at += wait;
    }
    outage + wait
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A SYN's fellow sent right after the outage began is repeated after 210, 630 and 1470 ms.
    #[test]
    fn one_retransmission_is_the_one_under_way_when_the_outage_ends() {
        let ms = Duration::from_millis;
        assert_eq!(with_retransmission(ms(100)), ms(310));
        assert_eq!(with_retransmission(ms(360)), ms(780));
        assert_eq!(with_retransmission(ms(700)), ms(1540));
    }
}
