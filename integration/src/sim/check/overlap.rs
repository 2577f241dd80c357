//! Two nodes never answer for the same address for longer than one advertisement interval.
//!
//! Counted from when the LAN between them carries everything both ways and both daemons run: over a LAN that is cut, two
//! halves each have an active node, as they must. To the interval comes the time for the advertisement that ends it to
//! arrive. A daemon that is stopped cannot hear it: then the warden's limit holds, counted from the stop, before which it
//! beat last. Where each of two halves had resigned towards a successor that it could not hear, both are silent until the
//! bound of that wait.

use common::time::Duration;
use vrrpd_core::handover::resign_bound;

use super::Checker;
use crate::sim::clock::Moment;
use crate::sim::view::{Seen, View};

pub(super) struct Overlap {
    /// Whether each host resigned from each virtual router and is silent since.
    resigned: Vec<[bool; 2]>,
    /// When both last were, for each virtual router.
    both_resigned: Vec<Moment>,
}

impl Overlap {
    pub(super) fn new(routers: usize) -> Self {
        Self { resigned: vec![[false; 2]; routers], both_resigned: vec![Moment::ZERO; routers] }
    }

    fn note(&mut self, view: &View, router: usize, host: usize, resigned: bool) {
        if self.resigned[router] == [true; 2] {
            self.both_resigned[router] = view.now;
        }
        self.resigned[router][host] = resigned;
    }
}

impl Checker for Overlap {
    fn name(&self) -> &'static str {
        "overlap"
    }

    fn seen(&mut self, view: &View, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::AdvertSent { host, router, priority } => self.note(view, router, host, priority == 0),
            Seen::Role { host, router, .. } => self.note(view, router, host, false),
            _ => {}
        }
        Ok(())
    }

    fn tick(&mut self, view: &View) -> Result<(), String> {
        let Some(lan_works_since) = view.lan_works_since else { return Ok(()) };
        let limits = view.limits;
        for (index, router) in view.routers.iter().enumerate() {
            let Some(both_since) = router.both_since else { continue };
            let resigned = self.resigned[index] == [true; 2];
            let mut since = both_since.max(lan_works_since).max(self.both_resigned[index]);
            let wait = if resigned { resign_bound(limits.interval) } else { Duration::ZERO };
            let mut bound = limits.interval + limits.delivery + wait;
            for host in &view.hosts {
                match host.running_since {
                    Some(running_since) => since = since.max(running_since),
                    None => {
                        since = since.max(host.halted_since);
                        bound = limits.warden + limits.delivery;
                    }
                }
            }
            let lasted = view.now - since;
            if lasted > bound {
                return Err(format!(
                    "both nodes have answered for {} for {lasted:?} on a LAN that works; allowed are {bound:?}",
                    router.name
                ));
            }
        }
        Ok(())
    }
}
