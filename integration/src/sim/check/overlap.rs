//! Two nodes never answer for the same address for longer than one advertisement interval.
//!
//! Counted from when the LAN between them carries everything both ways and both daemons run: over a LAN that is cut, two
//! halves each have an active node, as they must. To the interval comes the time for the advertisement that ends it to
//! arrive. A daemon that is stopped cannot hear it: then the warden's limit holds, counted from the last beat, which was
//! no later than the start of the overlap or of the stop.

use super::Checker;
use crate::sim::view::View;

pub(super) struct Overlap;

impl Checker for Overlap {
    fn name(&self) -> &'static str {
        "overlap"
    }

    fn tick(&mut self, view: &View) -> Result<(), String> {
        let Some(lan_works_since) = view.lan_works_since else { return Ok(()) };
        let limits = view.limits;
        for router in &view.routers {
            let Some(both_since) = router.both_since else { continue };
            let mut since = both_since.max(lan_works_since);
            let mut bound = limits.interval + limits.delivery;
            for host in &view.hosts {
                match host.running_since {
                    Some(running_since) => since = since.max(running_since),
                    None => bound = limits.warden + limits.delivery,
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
