//! The shell around a core, as the daemon has it: received packets before the timeout, actions one after the other in
//! their order, each taking a moment.

use std::net::IpAddr;

use common::ipc::Role;
use common::rng::Rng;
use common::time::{Duration, Instant};
use vrrpd_core::node::{Action, Input, Node, Slot};
use vrrpd_core::settings::Settings;
use vrrpd_core::track::LbdState;

use super::clock::Moment;
use super::host::{Host, Notice, Process};
use super::network::Packet;
use super::sabotage::Sabotage;
use super::variant::NAMES;
use super::view::Seen;
use super::world::{Coming, World};

/// What a shell gives its core.
enum Fed {
    Packet(Packet),
    Notice(Notice),
    WardenFired(Slot),
    Timeout,
}

impl World {
    /// Starts `vrrpd` in a new life.
    pub(super) fn start_process(&mut self, host: usize) {
        if self.hosts[host].process != Process::Gone {
            return;
        }
        self.boots += 1;
        let boot = self.boots;
        let settings: Settings = self.hosts[host].variant.settings(host);
        let now = self.hosts[host].clock.now(self.now);
        let this = &mut self.hosts[host];
        this.process = Process::Running;
        this.life += 1;
        // What a former life left behind is removed first.
        this.held.clear();
        this.guarded.clear();
        this.maintenance = false;
        this.node = Some(Node::new(settings, boot, now));
        this.first_notices();
        self.trace.note(self.now, || format!("{}: vrrpd starts (life {boot})", NAMES[host]));
        self.checks.seen(&self.view, Seen::Started(host));
        self.refresh();
        self.kick(host);
    }

    /// Lets a shell go on if it can.
    pub(super) fn kick(&mut self, host: usize) {
        let mut rounds = 0;
        while self.hosts[host].runs() && !self.hosts[host].acting {
            if self.next_action(host) {
                return;
            }
            let fed = match self.next_input(host) {
                Some(fed) => fed,
                None if self.timeout_due(host) || (self.sabotage == Sabotage::Hasty && rounds < 50) => {
                    Fed::Timeout
                }
                None => return self.sleep(host),
            };
            rounds += 1;
            self.feed(host, fed);
        }
    }

    fn timeout_due(&self, host: usize) -> bool {
        let now = self.hosts[host].clock.now(self.now).at;
        let node = self.hosts[host].node.as_ref();
        node.and_then(Node::next_deadline).is_some_and(|deadline| deadline <= now)
    }

    fn sleep(&mut self, host: usize) {
        self.check_rest(host);
        self.beat(host);
        let idle =
            self.hosts[host].guarded.values().map(|guarded| guarded.last_beat + guarded.limit / 2).min();
        let deadline = self.hosts[host].node.as_ref().and_then(Node::next_deadline);
        let Some(deadline) = deadline.into_iter().chain(idle).min() else { return };
        let late = if self.rng.chance(10) { Duration::from_micros(500) } else { Duration::from_micros(20) };
        let at =
            self.hosts[host].clock.moment_of(deadline).max(self.now) + self.rng.span(Duration::ZERO, late);
        self.hosts[host].wake += 1;
        let (life, wake) = (self.hosts[host].life, self.hosts[host].wake);
        self.push(at, Coming::Wake { host, life, wake });
    }

    /// What the shell reads next: the warden's word first, then sockets in no particular order.
    fn next_input(&mut self, host: usize) -> Option<Fed> {
        let this = &mut self.hosts[host];
        if let Some(slot) = this.fired.pop_first() {
            return Some(Fed::WardenFired(slot));
        }
        if let Some(notice) = this.notices.pop_front() {
            return Some(Fed::Notice(notice));
        }
        let first = usize::try_from(self.rng.below(3)).unwrap_or_default();
        let packet = (0..3).find_map(|offset| this.sockets[(first + offset) % 3].pop_front())?;
        Some(Fed::Packet(packet))
    }

    fn feed(&mut self, host: usize, fed: Fed) {
        let timeout = matches!(fed, Fed::Timeout);
        let this = &mut self.hosts[host];
        this.actions = 0;
        this.rest_checked = false;
        this.note_roles();
        self.give(host, fed);
        let due_again = self.timeout_due(host);
        self.checks.seen(&self.view, Seen::Handled { host, timeout, due_again });
    }

    fn give(&mut self, host: usize, fed: Fed) {
        let this = &mut self.hosts[host];
        let now = this.clock.now(self.now);
        let state = this.interface_state();
        let mut lbd = this.lbd_state();
        if self.sabotage == Sabotage::HidesHealth {
            lbd = LbdState::Alive(common::ipc::LbdHealth {
                workers_alive: 2,
                workers_expected: 2,
                ..Default::default()
            });
        }
        let Some(node) = &mut this.node else { return };
        let was_behind = node.is_behind();
        let interface = Host::interface();
        let trace = &mut self.trace;
        let mut note =
            |text: &dyn Fn() -> String| trace.note(self.now, || format!("{}: {}", NAMES[host], text()));
        match fed {
            Fed::Timeout => node.handle(now, Input::Timeout),
            Fed::WardenFired(slot) => {
                note(&|| format!("learns that the warden fired for {slot}"));
                node.handle(now, Input::WardenFired { slot });
            }
            Fed::Packet(Packet::Advert { .. }) if self.sabotage == Sabotage::Deaf => {}
            Fed::Packet(Packet::Advert { meta, bytes }) => {
                note(&|| format!("reads an advertisement, priority {:?}", bytes.get(2)));
                node.handle(now, Input::Advert { interface, meta, bytes: &bytes });
            }
            Fed::Packet(Packet::Frame(bytes)) => node.handle(now, Input::Frame { interface, bytes: &bytes }),
            Fed::Packet(Packet::Peer(bytes)) => node.handle(now, Input::Peer(&bytes)),
            Fed::Notice(notice) => {
                note(&|| format!("is told {notice:?}"));
                match notice {
                    Notice::Interface => {
                        node.handle(now, Input::Interface { name: interface, state: Some(state) });
                    }
                    Notice::Lbd => node.handle(now, Input::Lbd(lbd)),
                    Notice::Behind(behind) => node.handle(now, Input::Behind(behind)),
                    Notice::Added(ip) => {
                        node.handle(now, Input::AddressAdded { interface, ip, ours: true });
                    }
                    Notice::Removed(ip) => node.handle(now, Input::AddressRemoved { interface, ip }),
                    Notice::Switchover(name) => {
                        node.handle(now, Input::Switchover { instance: &name, token: 1 });
                    }
                    Notice::Maintenance(on) => node.handle(now, Input::Maintenance(on)),
                    Notice::Reload(variant) => {
                        node.handle(now, Input::Reconfigure(Box::new(variant.settings(host))));
                    }
                    Notice::Shutdown => node.handle(now, Input::Shutdown),
                }
            }
        }
        if was_behind || node.is_behind() {
            this.behind_at = Some(self.now);
        }
    }

    fn judge_advert(&mut self, host: usize, slot: Slot, bytes: &[u8]) {
        let Some(router) = self.router_of_slot(host, slot) else { return };
        let Some((&priority, node)) = bytes.get(2).zip(self.hosts[host].node.as_ref()) else { return };
        let settings = node.slots().find(|(found, _)| *found == slot).map(|(_, settings)| settings);
        let configured = settings.map_or(0, |settings| settings.priority);
        let before = self.hosts[host].roles_before.get(&slot).copied().unwrap_or_default();
        let roles = (before, node.role(slot).unwrap_or_default());
        self.checks.seen(&self.view, Seen::AdvertDecided { host, router, priority, configured, roles });
    }

    /// Begins the next action; false if there is none.
    fn next_action(&mut self, host: usize) -> bool {
        loop {
            let this = &mut self.hosts[host];
            let Some(node) = &mut this.node else { return true };
            let Some(action) = this.todo.take().or_else(|| node.poll_action()) else {
                this.roles_before.clear();
                return false;
            };
            this.actions += 1;
            let (actions, took) = (this.actions, latency(&action, &mut self.rng));
            self.checks.seen(&self.view, Seen::Acts { host, actions });
            if let Some(took) = took {
                self.hosts[host].todo = Some(action);
                self.hosts[host].acting = true;
                let life = self.hosts[host].life;
                self.push_in(took, Coming::Acted { host, life });
                return true;
            }
            // Nothing outside the process sees these: they take no time.
            self.act(host, action);
        }
    }

    /// An action took its time: now it has its effect, unless the process was stopped meanwhile.
    pub(super) fn acted(&mut self, host: usize) {
        self.hosts[host].acting = false;
        if !self.hosts[host].runs() {
            return;
        }
        if let Some(action) = self.hosts[host].todo.take() {
            self.act(host, action);
        }
        self.kick(host);
    }

    fn act(&mut self, host: usize, action: Action) {
        match action {
            Action::SendAdvert { slot, source, destination, bytes } => {
                self.send_advert(host, slot, (source, destination), bytes);
            }
            Action::SendPeer(bytes) => self.peer_send(host, bytes),
            Action::SendFrames { frames, .. } => {
                for frame in frames {
                    if self.sabotage != Sabotage::NeverAnnounces {
                        self.lan_send(host, Packet::Frame(frame));
                    }
                }
            }
            Action::AddAddresses { slot, addresses } => {
                let addresses: Vec<IpAddr> = addresses.iter().map(ipnet::IpNet::addr).collect();
                self.add_addresses(host, slot, &addresses);
            }
            Action::RemoveAddresses { addresses, .. } => {
                let addresses: Vec<IpAddr> = addresses.iter().map(ipnet::IpNet::addr).collect();
                if self.sabotage != Sabotage::KeepsAddresses {
                    self.remove_addresses(host, &addresses);
                }
            }
            Action::Guard { slot, active } => {
                if active {
                    self.guard(host, slot);
                } else {
                    self.hosts[host].guarded.remove(&slot);
                }
            }
            Action::SwitchoverDone { result, .. } => {
                self.trace.note(self.now, || format!("{}: switchover ends: {result:?}", NAMES[host]));
                self.switchovers.push(result.is_ok());
            }
            Action::Event(event) => {
                self.trace.note(self.now, || format!("{}: event {event:?}", NAMES[host]));
                self.role_reported(host, &event);
            }
            Action::Routers => {}
            Action::Finished => self.process_ends(host),
        }
    }

    fn send_advert(&mut self, host: usize, slot: Slot, path: (IpAddr, IpAddr), bytes: Vec<u8>) {
        let (source, destination) = path;
        let priority = bytes.get(2).copied().unwrap_or_default();
        self.judge_advert(host, slot, &bytes);
        if self.sabotage == Sabotage::SkipsAdverts && self.rng.chance(500) {
            return;
        }
        let meta = vrrpd_core::packet::Meta { source, destination, hop_limit: 255 };
        self.trace
            .note(self.now, || format!("{}: advertises priority {priority} (slot {slot})", NAMES[host]));
        if let Some(router) = self.router_of_slot(host, slot) {
            self.checks.seen(&self.view, Seen::AdvertSent { host, router, priority });
        }
        self.lan_send(host, Packet::Advert { meta, bytes });
    }

    fn add_addresses(&mut self, host: usize, slot: Slot, addresses: &[IpAddr]) {
        if self.hosts[host].acquire_fails {
            self.trace.note(self.now, || format!("{}: cannot add addresses", NAMES[host]));
            // The core is told at once, before the rest of what it decided is carried out.
            let now = self.hosts[host].clock.now(self.now);
            self.hosts[host].note_roles();
            if let Some(node) = &mut self.hosts[host].node {
                node.handle(now, Input::AcquireFailed { slot, what: "no".to_owned() });
            }
            return;
        }
        let active = self
            .router_of_slot(host, slot)
            .is_some_and(|router| self.view.routers[router].sides[host].role == Role::Active);
        if active && self.sabotage == Sabotage::IgnoresReload {
            return;
        }
        self.trace.note(self.now, || format!("{}: adds {addresses:?}", NAMES[host]));
        for &ip in addresses {
            if self.hosts[host].held.insert(ip) {
                self.netlink_later(host, ip);
            }
        }
        self.refresh();
    }

    /// Takes addresses off a host's interface, whoever does it.
    pub(super) fn remove_addresses(&mut self, host: usize, addresses: &[IpAddr]) {
        self.trace.note(self.now, || format!("{}: loses {addresses:?}", NAMES[host]));
        for &ip in addresses {
            if self.hosts[host].held.remove(&ip) {
                self.netlink_later(host, ip);
            }
        }
        self.refresh();
    }

    fn netlink_later(&mut self, host: usize, ip: IpAddr) {
        let span = self.rng.span(Duration::from_micros(10), Duration::from_micros(300));
        let life = self.hosts[host].life;
        self.push_in(span, Coming::Netlink { host, life, ip });
    }

    /// The shell looks what is so by now: what a change said may be over.
    pub(super) fn netlink(&mut self, host: usize, ip: IpAddr) {
        let added = self.hosts[host].held.contains(&ip);
        let notice = if added { Notice::Added(ip) } else { Notice::Removed(ip) };
        self.hosts[host].notices.push_back(notice);
        self.kick(host);
    }

    /// `vrrpd` ended in good order.
    fn process_ends(&mut self, host: usize) {
        self.trace.note(self.now, || format!("{}: vrrpd has finished", NAMES[host]));
        self.check_rest(host);
        self.hosts[host].guarded.clear();
        let start_again = self.hosts[host].start_again;
        self.hosts[host].forget_process();
        self.roles_gone(host);
        self.checks.seen(&self.view, Seen::Gone(host));
        self.refresh();
        if start_again {
            self.start_process(host);
        }
    }

    /// When a core has nothing left to do, its host holds exactly what its roles say.
    fn check_rest(&mut self, host: usize) {
        if std::mem::replace(&mut self.hosts[host].rest_checked, true) {
            return;
        }
        for router in 0..self.routers.len() {
            let (instance, family) = &self.routers[router];
            let this = &self.hosts[host];
            let addresses = this.addresses(instance, *family);
            let active = self.view.routers[router].sides[host].role == Role::Active;
            let odd: Vec<IpAddr> =
                addresses.iter().filter(|ip| this.held.contains(ip) != active).copied().collect();
            let wrong = if odd.is_empty() { String::new() } else { format!("{odd:?}") };
            self.checks.seen(&self.view, Seen::AtRest { host, router, wrong: &wrong });
        }
    }

    /// The local clock of a host, for the warden.
    pub(super) fn local(&self, host: usize) -> Instant {
        self.hosts[host].clock.now(self.now).at
    }

    /// The moment at which a host's clock shows `at`.
    pub(super) fn moment(&self, host: usize, at: Instant) -> Moment {
        self.hosts[host].clock.moment_of(at)
    }
}

/// How long an action takes; `None` if nobody outside the process sees it.
fn latency(action: &Action, rng: &mut Rng) -> Option<Duration> {
    let micros = |rng: &mut Rng, low, high| Some(Duration::from_micros(rng.range(low..high)));
    match action {
        Action::AddAddresses { .. } | Action::RemoveAddresses { .. } => micros(rng, 20, 150),
        Action::SendAdvert { .. } | Action::SendPeer(_) | Action::SendFrames { .. } => micros(rng, 2, 20),
        Action::Guard { .. } | Action::Finished => micros(rng, 1, 5),
        Action::Event(_) | Action::Routers | Action::SwitchoverDone { .. } => None,
    }
}
