//! Faults striking, and ending.

use std::net::IpAddr;

use common::ipc::Role;
use common::time::Duration;
use vrrpd_core::node::Node;

use super::clock::Moment;
use super::fault::Fault;
use super::host::{Host, Machine, Notice, Process};
use super::sabotage::Sabotage;
use super::variant::NAMES;
use super::view::Seen;
use super::world::{Coming, World};

impl World {
    /// `lbd` tells `vrrpd` whether it lacks what the other node has.
    pub(super) fn tell_behind(&mut self, host: usize, behind: bool) {
        self.hosts[host].behind = Some(behind);
        self.notify(host, Notice::Behind(behind));
    }

    /// Whether a node's `lbd` does lack something, whatever it says.
    pub(super) fn lacks(&mut self, host: usize, behind: bool) {
        let view = &mut self.view.hosts[host];
        view.behind_since = behind.then(|| view.behind_since.unwrap_or(self.now));
    }

    pub(super) fn strike(&mut self, fault: Fault) {
        self.trace.note(self.now, || format!("-- {fault:?}"));
        self.checks.seen(&self.view, Seen::Fault(&fault));
        match fault {
            Fault::Lan(quality) => self.lan.quality = quality,
            Fault::Peer(quality) => self.peer.quality = quality,
            Fault::LanOut(host, open) => self.lan.out_open[host] = open,
            Fault::LanIn(host, open) => self.lan.in_open[host] = open,
            Fault::PeerOut(host, open) => self.peer.out_open[host] = open,
            Fault::Carrier(host, up) => {
                self.hosts[host].carrier = up;
                self.notify(host, Notice::Interface);
            }
            Fault::Gateway(host, up) => self.hosts[host].gateway = up,
            Fault::WallClock(host, millis) => {
                self.hosts[host].clock.step_wall(millis.saturating_mul(1_000_000));
            }
            Fault::AcquireFails(host, fails) => self.hosts[host].acquire_fails = fails,
            Fault::Lbd(host, lbd) => {
                self.hosts[host].lbd = lbd;
                self.notify(host, Notice::Lbd);
            }
            Fault::RemoveAddresses(host) => self.remove_all(host),
            Fault::Switchover(host) => self.switchover(host),
            Fault::Maintenance(host, on) => {
                if self.hosts[host].process != Process::Gone {
                    self.hosts[host].maintenance = on;
                    self.notify(host, Notice::Maintenance(on));
                }
            }
            Fault::Reload(host, variant) => {
                self.widen_limits(&variant);
                self.hosts[host].variant = (*variant).clone();
                self.notify(host, Notice::Reload(variant));
            }
            process_fault => self.strike_process(process_fault),
        }
        self.refresh();
    }

    fn strike_process(&mut self, fault: Fault) {
        match fault {
            Fault::PowerOff(host) => {
                self.hosts[host].machine = Machine::Off;
                self.lose_process(host);
                self.hosts[host].held.clear();
                self.hosts[host].guarded.clear();
            }
            Fault::PowerOn(host) => {
                self.hosts[host].machine = Machine::On;
                self.refresh();
                self.start_process(host);
            }
            Fault::Kill(host) => self.kill(host),
            Fault::Terminate(host) if self.hosts[host].process != Process::Gone => {
                self.announce_plan(host);
                self.drop_early(host);
                self.hosts[host].ending = true;
                self.notify(host, Notice::Shutdown);
            }
            Fault::Start(host) if self.hosts[host].ending => self.hosts[host].start_again = true,
            Fault::Start(host) if self.hosts[host].machine == Machine::On => self.start_process(host),
            Fault::Stop(host) if self.hosts[host].process == Process::Running => {
                self.hosts[host].process = Process::Stopped;
            }
            Fault::Continue(host) if self.hosts[host].process == Process::Stopped => {
                self.hosts[host].process = Process::Running;
                self.refresh();
                self.kick(host);
            }
            Fault::Pause(host) if self.hosts[host].machine == Machine::On => {
                self.hosts[host].machine = Machine::Paused;
            }
            Fault::Resume(host) => self.resume(host),
            _ => {}
        }
    }

    /// The warden wakes up too, sooner or later than `vrrpd`.
    fn resume(&mut self, host: usize) {
        if self.hosts[host].machine != Machine::Paused {
            return;
        }
        self.hosts[host].machine = Machine::On;
        self.refresh();
        let guarded: Vec<_> =
            self.hosts[host].guarded.iter().map(|(&slot, guarded)| (slot, guarded.look)).collect();
        for (slot, look) in guarded {
            let late = self.rng.span(Duration::ZERO, Duration::from_millis(1));
            self.push_in(late, Coming::Warden { host, slot, look });
        }
        let life = self.hosts[host].life;
        self.hosts[host].wake += 1;
        let wake = self.hosts[host].wake;
        let late = self.rng.span(Duration::ZERO, Duration::from_millis(1));
        self.push_in(late, Coming::Wake { host, life, wake });
    }

    fn kill(&mut self, host: usize) {
        if self.hosts[host].process == Process::Gone {
            return;
        }
        let slots = self.partings(host);
        self.lose_process(host);
        self.hosts[host].guarded.clear();
        let late = self.rng.span(Duration::from_micros(50), Duration::from_millis(1));
        self.push_in(late, Coming::Orphaned { host, slots });
    }

    fn lose_process(&mut self, host: usize) {
        self.hosts[host].forget_process();
        self.roles_gone(host);
        self.checks.seen(&self.view, Seen::Gone(host));
    }

    fn notify(&mut self, host: usize, notice: Notice) {
        if self.hosts[host].process != Process::Gone {
            self.hosts[host].notices.push_back(notice);
            self.kick(host);
        }
    }

    fn remove_all(&mut self, host: usize) {
        let held: Vec<IpAddr> = self.hosts[host].held.iter().copied().collect();
        self.remove_addresses(host, &held);
    }

    fn drop_early(&mut self, host: usize) {
        if self.sabotage == Sabotage::DropsEarly {
            self.remove_all(host);
        }
    }

    fn switchover(&mut self, host: usize) {
        if self.hosts[host].process == Process::Gone {
            return;
        }
        // A less healthy peer would give the role back at once, so it is not asked; and what a node knows of its gateway is a
        // little old.
        let equal = self.hosts[1 - host].severity() <= self.hosts[host].severity();
        if equal && !self.variant.track_gateway {
            self.announce_plan(host);
        }
        self.drop_early(host);
        for instance in 0..self.variant.instances {
            let active = |router: &super::view::RouterView| router.sides[host].role == Role::Active;
            let name = format!("i{instance}");
            let there = self.routers.iter().zip(&self.view.routers);
            if there.into_iter().any(|((of, _), router)| *of == name && active(router)) {
                self.notify(host, Notice::Switchover(name));
            }
        }
    }

    /// Tells the checkers that a handover is planned, if everything it needs is well.
    fn announce_plan(&mut self, host: usize) {
        let since = self.view.limits.active_down + Duration::from_millis(500);
        let long_ago = |moment: Option<Moment>| moment.is_some_and(|moment| self.now - moment > since);
        // Nobody is asked who lacks connections, as far as is known, and what is known is a little old.
        let lately_behind = |host: &Host| {
            let is_behind = host.node.as_ref().is_some_and(Node::is_behind);
            is_behind || (host.behind_at.is_some() && !long_ago(host.behind_at))
        };
        let well = long_ago(self.view.lan_works_since)
            && long_ago(self.view.peer_works_since)
            && self.view.hosts.iter().all(|host| host.answers && long_ago(host.running_since))
            && !self.hosts.iter().any(lately_behind)
            && !self.hosts.iter().any(|host| host.acquire_fails)
            && self.view.routers.iter().all(|router| {
                let [one, other] = router.sides;
                matches!((one.role, other.role), (Role::Active, Role::Backup) | (Role::Backup, Role::Active))
                    && router.sides.iter().all(|side| long_ago(Some(side.role_since)))
            });
        if well {
            self.trace.note(self.now, || format!("{}: the handover is planned", NAMES[host]));
            self.checks.seen(&self.view, Seen::Planned(host));
        }
    }
}
