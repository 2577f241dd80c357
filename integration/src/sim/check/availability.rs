//! Somebody serves.
//!
//! While a backup runs without a pause, nobody answering for a virtual router lasts at most Active_Down_Interval (three
//! intervals and the skew: RFC 9568 waits for no longer), plus the 100 ms within which addresses that somebody removed
//! are put back, plus the way. A backup that behind a broken LAN leaves the role to a healthier peer, or to one that it learns from, first has to find
//! that this one is gone as well: for it, another Active_Down_Interval and the silence that ends the peer link's life. So it is where the LAN works again only since then.

use common::ipc::Role;
use common::time::Duration;

use super::{Checker, name};
use crate::sim::view::View;

/// After this, addresses that somebody removed are back.
const RESTORED: Duration = Duration::from_millis(110);

/// After three heartbeats, or this, the peer counts as gone.
const PEER_SILENCE: Duration = Duration::from_millis(320);

pub(super) struct Availability;

impl Checker for Availability {
    fn name(&self) -> &'static str {
        "availability"
    }

    fn tick(&mut self, view: &View) -> Result<(), String> {
        let limits = view.limits;
        let mut bound = limits.active_down + RESTORED + limits.delivery;
        if view.lan_works_since.is_none_or(|since| view.now - since < limits.active_down + PEER_SILENCE) {
            bound += limits.active_down + PEER_SILENCE;
        }
        for router in &view.routers {
            let Some(none_since) = router.none_since else { continue };
            for (host, side) in router.sides.iter().enumerate() {
                let Some(running_since) = view.hosts[host].running_since else { continue };
                if side.role != Role::Backup {
                    continue;
                }
                let since = none_since.max(running_since).max(side.role_since);
                let lasted = view.now - since;
                if lasted > bound {
                    return Err(format!(
                        "nobody has answered for {} for {lasted:?} although node {} stands by; allowed are {bound:?}",
                        router.name,
                        name(host)
                    ));
                }
            }
        }
        Ok(())
    }
}
