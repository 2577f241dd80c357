//! What a target is used for, from what its group says of it.

use super::Use;

/// What is known of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its share of new flows, as the group says; 0 for none.
    pub share: u32,
    /// Whether it is not well: its checks fail, or it is ejected.
    pub failed: bool,
    /// When its flows have to be over, in milliseconds of the process's clock; none for never.
    pub close_at_ms: Option<u64>,
    /// Whether it is no longer in its group.
    pub removed: bool,
}

impl Known {
    /// What it is used for at this time; none if nothing is to be known of it any more.
    #[must_use]
    pub fn used(&self, now_ms: u64) -> Option<Use> {
        let is_closed = self.close_at_ms.is_some_and(|at| at <= now_ms);
        if self.removed {
            // Without a time for its flows to end they are not waited for.
            return (self.close_at_ms.is_some() && !is_closed).then_some(Use::Draining);
        }
        Some(if is_closed {
            Use::Gone
        } else if self.share > 0 {
            Use::Up(self.share)
        } else if self.failed {
            Use::Unhealthy
        } else {
            Use::Draining
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Known = Known { share: 512, failed: false, close_at_ms: None, removed: false };

    fn used(known: Known) -> Option<Use> {
        known.used(1000)
    }

    #[test]
    fn a_target_with_a_share_gets_new_flows() {
        assert_eq!(used(WELL), Some(Use::Up(512)));
        // In panic all are used, whatever their checks say.
        assert_eq!(used(Known { failed: true, ..WELL }), Some(Use::Up(512)));
        assert_eq!(used(Known { close_at_ms: Some(1001), ..WELL }), Some(Use::Up(512)));
    }

    #[test]
    fn one_without_keeps_its_flows_while_it_is_well() {
        let idle = Known { share: 0, ..WELL };
        assert_eq!(used(idle), Some(Use::Draining));
        assert_eq!(used(Known { close_at_ms: Some(1001), ..idle }), Some(Use::Draining));
        assert_eq!(used(Known { failed: true, ..idle }), Some(Use::Unhealthy));
        assert_eq!(used(Known { failed: true, close_at_ms: Some(1001), ..idle }), Some(Use::Unhealthy));
    }

    #[test]
    fn nobody_keeps_a_flow_beyond_its_time() {
        for failed in [false, true] {
            for share in [0, 512] {
                let over = Known { share, failed, close_at_ms: Some(1000), removed: false };
                assert_eq!(used(over), Some(Use::Gone));
                assert_eq!(used(Known { removed: true, ..over }), None);
            }
        }
    }

    #[test]
    fn a_removed_one_keeps_its_flows_for_its_time() {
        let removed = Known { removed: true, ..WELL };
        assert_eq!(used(Known { close_at_ms: Some(1001), ..removed }), Some(Use::Draining));
        // Neither is it given new ones, nor moved away from by a check that is no longer made.
        assert_eq!(used(Known { close_at_ms: Some(1001), failed: true, ..removed }), Some(Use::Draining));
        assert_eq!(used(removed), None);
    }
}
