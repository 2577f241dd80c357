//! What an all-knowing observer sees of the pair: what the checkers judge by.

use common::ipc::Role;
use common::time::Duration;
use vrrpd_core::event::Reason;

use super::clock::Moment;
use super::fault::Fault;

/// The state of the pair at a moment.
#[derive(Clone, Debug)]
pub struct View {
    /// The moment.
    pub now: Moment,
    /// What the timers of the run allow.
    pub limits: Limits,
    /// Both hosts.
    pub hosts: [HostView; 2],
    /// The virtual routers.
    pub routers: Vec<RouterView>,
    /// Since when the LAN carries everything both ways, if it does.
    pub lan_works_since: Option<Moment>,
    /// The same of the peer link; `None` also where there is none.
    pub peer_works_since: Option<Moment>,
}

/// The longest times in this run, over all configurations that were in force so far.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The advertisement interval.
    pub interval: Duration,
    /// Active_Down_Interval: three intervals and a skew of at most one (one second with version 2), on the slower clock.
    pub active_down: Duration,
    /// From a node's decision until the other has read what it sent: actions before it, the way, the wake-up.
    pub delivery: Duration,
    /// After an advertisement the warden waits so long, and takes so long to act.
    pub warden: Duration,
}

/// One host.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostView {
    /// Since when `vrrpd` runs without a pause, if it does.
    pub running_since: Option<Moment>,
    /// Since when it does not, or, if it does, when it last began not to.
    pub halted_since: Moment,
    /// Whether the host answers on the LAN for what it holds: it is on, not paused, and its interface has a carrier.
    pub answers: bool,
    /// Since when its port on the LAN carries everything both ways, if it does.
    pub port_works_since: Option<Moment>,
    /// Since when its `lbd` lacks what the other one has, if it does.
    pub behind_since: Option<Moment>,
    /// Since when `lbd` runs, if it does.
    pub lbd_since: Option<Moment>,
}

/// One virtual router.
#[derive(Clone, Debug)]
pub struct RouterView {
    /// For people.
    pub name: String,
    /// On each host.
    pub sides: [Side; 2],
    /// Since when both hosts answer for one of its addresses.
    pub both_since: Option<Moment>,
    /// Since when no host answers for all of them.
    pub none_since: Option<Moment>,
    /// Who announced it last on the wire.
    pub announced_by: Option<usize>,
}

/// One virtual router on one host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Side {
    /// Its role; Init while `vrrpd` is not there.
    pub role: Role,
    /// Since when.
    pub role_since: Moment,
    /// When the host last stopped to answer for all of its addresses.
    pub served_until: Moment,
    /// Whether the host answers for all of its addresses.
    pub serves: bool,
    /// When the host last announced it on the wire.
    pub announced_at: Option<Moment>,
    /// Until when the host owns it if `vrrpd` does not run again: where the kernel forwards, it then falls silent.
    pub owned_until: Moment,
}

impl RouterView {
    /// The hosts that are active and answer for all the addresses.
    #[must_use]
    pub fn actives(&self) -> Vec<usize> {
        (0..2).filter(|&host| self.sides[host].role == Role::Active && self.sides[host].serves).collect()
    }
}

/// Something that happened, besides the time.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// A core took an input.
    Handled {
        /// On which host.
        host: usize,
        /// Whether it was a timeout.
        timeout: bool,
        /// Whether its next deadline is due already.
        due_again: bool,
    },
    /// A shell begins an action.
    Acts {
        /// On which host.
        host: usize,
        /// The how manieth since the last input.
        actions: usize,
    },
    /// A core reported a role change.
    Role {
        /// On which host.
        host: usize,
        /// Of which virtual router.
        router: usize,
        /// What it was.
        from: Role,
        /// What it is.
        to: Role,
        /// Why.
        reason: Reason,
    },
    /// A core wants an advertisement sent.
    AdvertDecided {
        /// On which host.
        host: usize,
        /// Of which virtual router.
        router: usize,
        /// Its priority.
        priority: u8,
        /// The configured priority.
        configured: u8,
        /// The roles before and after the input that led to it.
        roles: (Role, Role),
    },
    /// An advertisement was sent.
    AdvertSent {
        /// By which host.
        host: usize,
        /// Of which virtual router.
        router: usize,
        /// Its priority.
        priority: u8,
    },
    /// ARP or neighbour advertisements came on the wire.
    Announced {
        /// By which host.
        host: usize,
        /// Of which virtual router.
        router: usize,
    },
    /// A core has carried out everything, and this is what its host holds of a virtual router.
    AtRest {
        /// Which host.
        host: usize,
        /// Which virtual router.
        router: usize,
        /// Addresses it holds but should not, or should but does not; empty when all is right.
        wrong: &'a str,
    },
    /// `vrrpd` started.
    Started(usize),
    /// `vrrpd` is gone.
    Gone(usize),
    /// A fault struck or ended.
    Fault(&'a Fault),
    /// A planned handover was asked of a host in a pair that is well.
    Planned(usize),
    /// Everything is healed.
    Healed(Bounds),
    /// From now on nothing happens that may change a role (`true`), or it may again.
    Benign(bool),
    /// The quiet phase ends. The host that must be active for each virtual router, where that is known.
    QuietEnds(&'a [Option<usize>]),
}

/// How long after everything is healed.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Until one node is active and never none again.
    pub one_active: Duration,
    /// Until no role changes any more.
    pub settled: Duration,
}
