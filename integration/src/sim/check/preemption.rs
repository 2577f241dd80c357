//! Nobody whose `lbd` lacks connections takes the role from a node that serves and is healthy, however much higher its priority is.
//!
//! Where the LAN works, both daemons run and the other one has been active for long enough, hearing nothing is no reason either. What the active
//! node gives away by itself is its own business: it asks, resigns or releases.

use common::ipc::Role;
use vrrpd_core::event::Reason;

use super::{Checker, name};
use crate::sim::view::{Seen, View};

pub(super) struct Preemption {
    /// The priority that each host advertised last, and the configured one, for each virtual router.
    advertised: Vec<[(u8, u8); 2]>,
}

impl Preemption {
    pub(super) fn new(routers: usize) -> Self {
        Self { advertised: vec![[(0, 0); 2]; routers] }
    }
}

impl Checker for Preemption {
    fn name(&self) -> &'static str {
        "preemption"
    }

    fn seen(&mut self, view: &View, seen: Seen<'_>) -> Result<(), String> {
        if let Seen::AdvertDecided { host, router, priority, configured, .. } = seen {
            self.advertised[router][host] = (priority, configured);
        }
        let Seen::Role { host, router, to: Role::Active, reason, .. } = seen else { return Ok(()) };
        if !matches!(reason, Reason::ActiveDown | Reason::LanFault | Reason::Owner) {
            return Ok(());
        }
        let other = 1 - host;
        let long_ago = |since| view.now - since > view.limits.active_down + view.limits.delivery;
        let Some(behind_since) = view.hosts[host].behind_since.filter(|&since| long_ago(since)) else {
            return Ok(());
        };
        let side = &view.routers[router].sides[other];
        let serves = side.role == Role::Active && side.serves && long_ago(side.role_since);
        let runs = view.hosts.iter().all(|host| host.running_since.is_some_and(long_ago));
        // An unhealthy one advertises less than anybody's configured priority.
        let (priority, configured) = self.advertised[router][other];
        let lowest = match self.advertised[router][host].1 {
            0 => configured,
            own => own.min(configured),
        };
        if serves && runs && view.lan_works_since.is_some_and(long_ago) && priority >= lowest {
            return Err(format!(
                "node {} has lacked connections for {:?} and took {} from node {}, which serves and is healthy ({reason:?})",
                name(host),
                view.now - behind_since,
                view.routers[router].name,
                name(other)
            ));
        }
        Ok(())
    }
}
