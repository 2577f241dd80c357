//! Nobody whose `lbd` lacks connections takes the role from a node that serves and is healthy, however much higher its priority is. Nor from
//! one that is not well, for as long as it waits with handing over, if its `lbd` is there to tell of them.
//!
//! Where the LAN works, both daemons run and the other one has been active for long enough, hearing nothing is no reason either. Nor is it where the
//! host's own port on the LAN does not work, the other one's does, and they hear each other on the peer link, for as long as a node waits that cannot
//! tell which port it is; whoever takes the role after that intrudes, and the other one does not give way to it while they hear each other on the peer
//! link, whatever that did before. What the active node gives away by itself while it is well is its own business: it asks, resigns or releases.

use common::ipc::{CATCH_UP_MAX, Role};
use common::time::Duration;
use vrrpd_core::event::Reason;

use super::{Checker, name};
use crate::sim::clock::Moment;
use crate::sim::fault::Fault;
use crate::sim::view::{Seen, View};

/// So long a silence is put up with at least, whatever the clocks say: [`CATCH_UP_MAX`] and what it takes to notice it.
const SILENCE_MIN: Duration = Duration::from_millis(3600);

pub(super) struct Preemption {
    routers: Vec<[Side; 2]>,
    hosts: [Host; 2],
    /// When the LAN last had worked for long enough for an active node to be heard.
    heard: Moment,
}

/// What a host has said of a virtual router.
#[derive(Clone, Copy, Default)]
struct Side {
    /// The priority that it advertised last, and the configured one.
    advertised: (u8, u8),
    /// Since when it has been active and advertised that it is not well.
    unwell_since: Option<Moment>,
    /// When it last became a backup.
    backup_since: Moment,
    /// It has become active because its port does not work, beside the other one, which was heard on the peer link, and is and has been well since.
    intrudes: bool,
}

#[derive(Clone, Copy, Default)]
struct Host {
    /// When its `vrrpd` was started.
    started: Moment,
    /// Whether that was told to stop since.
    stops: bool,
}

impl Preemption {
    pub(super) fn new(routers: usize) -> Self {
        Self {
            routers: vec![[Side::default(); 2]; routers],
            hosts: [Host::default(); 2],
            heard: Moment::ZERO,
        }
    }

    /// The lower one of the configured priorities that are known: an unhealthy node advertises less.
    fn lowest(&self, router: usize) -> u8 {
        let configured = self.routers[router].iter().map(|side| side.advertised.1);
        configured.filter(|&configured| configured != 0).min().unwrap_or(0)
    }

    fn advert(&mut self, view: &View, (host, router): (usize, usize), priority: u8, configured: u8) {
        self.routers[router][host].advertised = (priority, configured);
        if priority == 0 {
            // It says that it leaves, not how it is.
            return;
        }
        let unwell = priority < self.lowest(router);
        let side = &mut self.routers[router][host];
        side.unwell_since = unwell.then(|| side.unwell_since.unwrap_or(view.now));
    }

    fn judge(&mut self, view: &View, host: usize, router: usize, reason: Reason) -> Result<(), String> {
        let other = 1 - host;
        let long_ago = |since| is_long_ago(view, since);
        let Some(behind_since) = view.hosts[host].behind_since.filter(|&since| long_ago(since)) else {
            return Ok(());
        };
        let side = &view.routers[router].sides[other];
        let serves = side.role == Role::Active && side.serves && long_ago(side.role_since);
        if !serves || !view.hosts[other].running_since.is_some_and(long_ago) {
            return Ok(());
        }
        let by_itself = matches!(reason, Reason::ActiveDown | Reason::LanFault | Reason::Owner);
        let healthy = self.routers[router][other].advertised.0 >= self.lowest(router);
        if view.lan_works_since.is_some_and(long_ago) {
            let runs = view.hosts[host].running_since.is_some_and(long_ago);
            let waits = self.should_wait(view, host, router) && (by_itself || reason == Reason::Handover);
            if !runs || (!waits && (!healthy || !by_itself)) {
                return Ok(());
            }
        } else {
            // However short it runs: it has heard on the peer link who is active before it can miss that one on the LAN.
            if !is_own_port(view, host) || !healthy || !by_itself {
                return Ok(());
            }
            self.routers[router][host].intrudes = true;
            let begun = self.hosts[host].started.max(self.routers[router][host].backup_since);
            if view.now - self.heard.max(begun) >= SILENCE_MIN {
                return Ok(());
            }
        }
        Err(format!(
            "node {} has lacked connections for {:?} and took {} from node {}, which serves and {} ({reason:?})",
            name(host),
            view.now - behind_since,
            view.routers[router].name,
            name(other),
            if healthy { "is healthy" } else { "could have told of them" },
        ))
    }

    /// A host that served and was well has stepped down because of what the other one advertises.
    fn gave_way(&self, view: &View, host: usize, router: usize) -> Result<(), String> {
        let other = 1 - host;
        let heard = view.peer_works_since.is_some_and(|since| is_long_ago(view, since));
        if !self.routers[router][other].intrudes || !heard {
            return Ok(());
        }
        Err(format!(
            "node {}, which served {} and is healthy, gave way to node {}, which lacks connections and had not heard it",
            name(host),
            view.routers[router].name,
            name(other),
        ))
    }

    /// Whether all that made a host an intruder goes on. Whoever steps down has said so and has no addresses any more before its role
    /// changes.
    fn still_intrudes(&self, view: &View, host: usize, router: usize) -> bool {
        let other = 1 - host;
        let [own, others] = [host, other].map(|host| &view.hosts[host]);
        self.routers[router][host].intrudes
            && self.routers[router][other].unwell_since.is_none()
            && view.routers[router].sides[other].role == Role::Active
            && own.behind_since.is_some()
            && own.running_since.is_some()
            && others.running_since.is_some()
    }

    /// Whether the other host, active and not well, has had the host for a successor for less than the time that it is to wait.
    fn should_wait(&self, view: &View, host: usize, router: usize) -> bool {
        let (limits, other) = (view.limits, 1 - host);
        let Some(unwell_since) = self.routers[router][other].unwell_since else { return false };
        let since = unwell_since.max(self.routers[router][host].backup_since).max(self.hosts[host].started);
        let long_ago = |since| view.now - since > limits.active_down + limits.delivery;
        let tells = view.hosts[other].lbd_since.is_some_and(long_ago)
            && view.peer_works_since.is_some_and(long_ago)
            && !self.hosts[other].stops;
        // Else it may have been well in between, and not have been heard to be.
        let heard = view.lan_works_since.is_some_and(|works| works + limits.active_down < since);
        // It waits from when it is not well, not from when it says so, and by its own clock.
        let waited = view.now - since + limits.interval + CATCH_UP_MAX / 20;
        tells && heard && waited < CATCH_UP_MAX
    }
}

/// So long ago that it is known everywhere.
fn is_long_ago(view: &View, since: Moment) -> bool {
    view.now - since > view.limits.active_down + view.limits.delivery
}

/// Whether it is the host's own port that does not work, while it hears the other one on the peer link.
fn is_own_port(view: &View, host: usize) -> bool {
    let [own, others] = [host, 1 - host].map(|host| view.hosts[host].port_works_since);
    own.is_none()
        && [others, view.peer_works_since]
            .iter()
            .all(|works| works.is_some_and(|since| is_long_ago(view, since)))
}

impl Checker for Preemption {
    fn name(&self) -> &'static str {
        "preemption"
    }

    fn seen(&mut self, view: &View, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::AdvertDecided { host, router, priority, configured, .. } => {
                self.advert(view, (host, router), priority, configured);
            }
            Seen::Started(host) => self.hosts[host] = Host { started: view.now, stops: false },
            Seen::Fault(&Fault::Terminate(host)) => self.hosts[host].stops = true,
            Seen::Gone(host) => {
                for router in &mut self.routers {
                    router[host].unwell_since = None;
                    router[host].intrudes = false;
                }
            }
            Seen::Role { host, router, to: Role::Active, reason, .. } => {
                return self.judge(view, host, router, reason);
            }
            Seen::Role { host, router, to, reason, .. } => {
                let side = &mut self.routers[router][host];
                side.unwell_since = None;
                side.intrudes = false;
                if to == Role::Backup {
                    side.backup_since = view.now;
                }
                if reason == Reason::HigherPriority {
                    return self.gave_way(view, host, router);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn tick(&mut self, view: &View) -> Result<(), String> {
        let needed = view.limits.interval + view.limits.delivery;
        if view.lan_works_since.is_some_and(|since| view.now - since > needed) {
            self.heard = view.now;
        }
        for router in 0..self.routers.len() {
            for host in 0..2 {
                self.routers[router][host].intrudes = self.still_intrudes(view, host, router);
            }
        }
        Ok(())
    }
}
