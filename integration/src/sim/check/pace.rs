//! The loop neither spins nor dozes: a bounded number of timeouts per second, each of which makes progress, a bounded number
//! of actions per input, and an active node that speaks at least once per interval.

use common::ipc::Role;
use common::time::Duration;

use super::{Checker, name};
use crate::sim::clock::Moment;
use crate::sim::view::{Seen, View};

/// Timeouts in a row after which the next one may still be due at once, in any case and per virtual router: each role change
/// is told to the peer at once, which is a timeout of its own.
const DUE_AGAIN_MAX: usize = 3;
const DUE_AGAIN_PER_ROUTER: usize = 2;

/// Actions that one input may cause, per virtual router and in any case.
const ACTIONS_PER_ROUTER: usize = 16;
const ACTIONS_MAX: usize = 16;

pub(super) struct Pace {
    hosts: [Host; 2],
    /// When each host last advertised each virtual router, as long as it is active without a pause.
    spoke: Vec<[Option<Moment>; 2]>,
}

#[derive(Clone, Copy, Default)]
struct Host {
    due_again: usize,
    second: u64,
    timeouts: u64,
}

impl Pace {
    pub(super) fn new(routers: usize) -> Self {
        Self { hosts: [Host::default(); 2], spoke: vec![[None; 2]; routers] }
    }

    /// Advertisements, heartbeats, announcements (one in 10 ms, but only shortly), offers, the gateway, all twice over.
    fn timeouts_max(view: &View) -> u64 {
        let nanos = u64::try_from(view.limits.interval.as_nanos()).unwrap_or(u64::MAX).max(1);
        let routers = u64::try_from(view.routers.len()).unwrap_or(u64::MAX);
        // A reload can have made the interval longer; the shortest one there is is 10 ms.
        let adverts = (1_000_000_000 / nanos).max(100);
        2 * (routers * (adverts + 200) + 200)
    }

    fn handled(&mut self, view: &View, host: usize, timeout: bool, due_again: bool) -> Result<(), String> {
        if !timeout {
            return Ok(());
        }
        let this = &mut self.hosts[host];
        this.due_again = if due_again { this.due_again + 1 } else { 0 };
        if this.due_again > DUE_AGAIN_MAX + DUE_AGAIN_PER_ROUTER * view.routers.len() {
            return Err(format!(
                "node {} is asked for a timeout again and again without progress",
                name(host)
            ));
        }
        let second = view.now.as_nanos() / 1_000_000_000;
        if second != this.second {
            (this.second, this.timeouts) = (second, 0);
        }
        this.timeouts += 1;
        let bound = Self::timeouts_max(view);
        if this.timeouts > bound {
            return Err(format!("node {} had more than {bound} timeouts in one second", name(host)));
        }
        Ok(())
    }
}

impl Checker for Pace {
    fn name(&self) -> &'static str {
        "pace"
    }

    fn seen(&mut self, view: &View, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Handled { host, timeout, due_again } => {
                return self.handled(view, host, timeout, due_again);
            }
            Seen::Acts { host, actions } => {
                let bound = ACTIONS_MAX + ACTIONS_PER_ROUTER * view.routers.len();
                if actions > bound {
                    return Err(format!("one input on node {} caused more than {bound} actions", name(host)));
                }
            }
            Seen::AdvertSent { host, router, priority } => {
                // After priority 0 an active node is silent on purpose.
                self.spoke[router][host] = (priority != 0).then_some(view.now);
            }
            Seen::Role { host, router, .. } => self.spoke[router][host] = None,
            Seen::Gone(host) => {
                for spoke in &mut self.spoke {
                    spoke[host] = None;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn tick(&mut self, view: &View) -> Result<(), String> {
        let bound = view.limits.interval + Duration::from_millis(3);
        for (router, spoke) in view.routers.iter().zip(&mut self.spoke) {
            for (host, spoke) in spoke.iter_mut().enumerate() {
                if view.hosts[host].running_since.is_none() {
                    *spoke = None;
                }
                let Some(silence) = spoke.map(|spoke| view.now - spoke) else { continue };
                if router.sides[host].role == Role::Active && silence > bound {
                    return Err(format!(
                        "node {} is active for {} and has not advertised for {silence:?}; allowed are {bound:?}",
                        name(host),
                        router.name
                    ));
                }
            }
        }
        Ok(())
    }
}
