//! A node that stands still owns nothing any more when the other one takes over because it heard nothing.
//!
//! Where the LAN had carried everything for long enough before the stop: else the other one may have waited for an advertisement
//! that was lost, and does not know how long the lease is that this one renewed. And where the other one does not preempt, which
//! it does without waiting for anybody's silence.

use common::ipc::Role;
use vrrpd_core::event::Reason;

use super::{Checker, name};
use crate::sim::view::{Seen, View};

pub(super) struct Lease {
    /// The priority that each host advertised last, for each virtual router.
    advertised: Vec<[u8; 2]>,
}

impl Lease {
    pub(super) fn new(routers: usize) -> Self {
        Self { advertised: vec![[0; 2]; routers] }
    }
}

impl Checker for Lease {
    fn name(&self) -> &'static str {
        "lease"
    }

    fn seen(&mut self, view: &View, seen: Seen<'_>) -> Result<(), String> {
        if let Seen::AdvertDecided { host, router, priority, .. } = seen {
            self.advertised[router][host] = priority;
        }
        let Seen::Role { host, router, to: Role::Active, reason: Reason::ActiveDown, .. } = seen else {
            return Ok(());
        };
        let other = 1 - host;
        // Its own first advertisement was decided before its role is told.
        let preempts = self.advertised[router][host] > self.advertised[router][other];
        let router = &view.routers[router];
        let halted = &view.hosts[other];
        let heard = |since| since + view.limits.active_down <= halted.halted_since;
        let until = router.sides[other].owned_until;
        let stands_still = !preempts && halted.running_since.is_none();
        if stands_still && view.lan_works_since.is_some_and(heard) && until > view.now {
            return Err(format!(
                "node {} took {} over, and node {}, which stands still, owns it for another {:?}",
                name(host),
                router.name,
                name(other),
                until - view.now
            ));
        }
        Ok(())
    }
}
