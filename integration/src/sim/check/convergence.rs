//! After the last fault has healed the pair finds itself: within a bound one node is active and never none again, within
//! a second bound nothing changes any more, and at the end exactly one node is active for each virtual router, the
//! right one, and the last announcement on the wire is its own.

use common::ipc::Role;
use common::time::Duration;
use vrrpd_core::event::Reason;

use super::{Checker, name};
use crate::sim::clock::Moment;
use crate::sim::view::{Bounds, Seen, Side, View};

pub(super) struct Convergence {
    healed: Option<(Moment, Bounds)>,
    /// How each host last left the active role of each virtual router.
    leaving: Vec<[Leaving; 2]>,
}

/// How a host left the active role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    /// Not yet, since it took it.
    Active,
    /// It gave way, and could say so.
    GaveWay,
    /// It died, its warden had to speak for it, or it ended and nobody had taken over.
    Fell,
    /// It had not run for a while, and says nothing then.
    Stalled,
}

impl Convergence {
    pub(super) fn new(routers: usize) -> Self {
        Self { healed: None, leaving: vec![[Leaving::Fell; 2]; routers] }
    }

    /// Whether the winner could hear, and then correct, that the loser had announced: the LAN worked when the loser gave way, or
    /// for an interval before it fell. Otherwise only the slow refresh, which is off in most of these runs, puts the
    /// neighbours right.
    fn could_know(view: &View, loser: &Side, leaving: Leaving) -> bool {
        let needed = match leaving {
            Leaving::GaveWay => Duration::ZERO,
            Leaving::Active | Leaving::Fell => view.limits.interval + view.limits.delivery,
            Leaving::Stalled => return false,
        };
        view.lan_works_since.is_some_and(|works| works + needed <= loser.served_until)
    }

    fn ends(&self, view: &View, expected: &[Option<usize>]) -> Result<(), String> {
        for ((router, expected), leaving) in view.routers.iter().zip(expected).zip(&self.leaving) {
            let actives = router.actives();
            let [active] = actives[..] else {
                let names: Vec<&str> = actives.iter().map(|&host| name(host)).collect();
                return Err(format!(
                    "after a long quiet time the active nodes of {} are [{}] instead of exactly one",
                    router.name,
                    names.join(", ")
                ));
            };
            if let Some(expected) = *expected
                && expected != active
            {
                return Err(format!(
                    "after a long quiet time node {} is active for {}, but node {} is the one that should be",
                    name(active),
                    router.name,
                    name(expected)
                ));
            }
            if router.announced_by != Some(active)
                && Self::could_know(view, &router.sides[1 - active], leaving[1 - active])
            {
                return Err(format!(
                    "node {} is active for {}, but the last announcement on the wire came from {}",
                    name(active),
                    router.name,
                    router.announced_by.map_or("nobody", name)
                ));
            }
        }
        Ok(())
    }
}

impl Checker for Convergence {
    fn name(&self) -> &'static str {
        "convergence"
    }

    fn seen(&mut self, view: &View, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Healed(bounds) => self.healed = Some((view.now, bounds)),
            Seen::Fault(_) => self.healed = None,
            Seen::Gone(host) => {
                for leaving in &mut self.leaving {
                    if leaving[host] == Leaving::Active {
                        leaving[host] = Leaving::Fell;
                    }
                }
            }
            Seen::Role { host, router, from, to, reason } => {
                self.leaving[router][host] = match (from, to, reason) {
                    (_, Role::Active, _) => Leaving::Active,
                    (Role::Active, _, Reason::Stalled) => Leaving::Stalled,
                    // A node that ends has said so when it began to, and never again.
                    (Role::Active, _, Reason::Warden | Reason::Interface | Reason::Shutdown) => Leaving::Fell,
                    (Role::Active, _, _) => Leaving::GaveWay,
                    _ => self.leaving[router][host],
                };
                if let Some((healed, bounds)) = self.healed
                    && view.now - healed > bounds.settled
                {
                    return Err(format!(
                        "node {} went from {} to {} for {} ({reason:?}) {:?} after everything was healed",
                        name(host),
                        from.name(),
                        to.name(),
                        view.routers[router].name,
                        view.now - healed
                    ));
                }
            }
            Seen::QuietEnds(expected) => return self.ends(view, expected),
            _ => {}
        }
        Ok(())
    }

    fn tick(&mut self, view: &View) -> Result<(), String> {
        let Some((healed, bounds)) = self.healed else { return Ok(()) };
        if view.now - healed <= bounds.one_active {
            return Ok(());
        }
        for router in &view.routers {
            if router.none_since.is_some() {
                return Err(format!(
                    "nobody answers for {} {:?} after everything was healed; allowed are {:?}",
                    router.name,
                    view.now - healed,
                    bounds.one_active
                ));
            }
        }
        Ok(())
    }
}
