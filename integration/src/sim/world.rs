//! The simulated world: what happens when, and to whom.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;

use common::ipc::Role;
use common::rng::Rng;
use common::time::Duration;
use vrrpd_core::event::Event;
use vrrpd_core::neighbor::{self, SightingKind};
use vrrpd_core::node::Slot;
use vrrpd_core::packet::Family;
use vrrpd_core::settings::RouterSettings;

use super::check::{Checks, Violation};
use super::clock::{Clock, Moment};
use super::fault::{Fault, Lbd};
use super::host::{Host, Machine};
use super::network::{Network, Packet};
use super::sabotage::Sabotage;
use super::trace::Trace;
use super::variant::{GATEWAY, NAMES, Variant};
use super::view::{HostView, Limits, RouterView, Seen, Side, View};

/// Latencies of a shell that add to every delivery: reading, address changes before the reply, timer slack.
const SHELL_SLACK: Duration = Duration::from_millis(2);

/// Something that will happen.
#[derive(Debug)]
pub(super) enum Coming {
    /// A packet reaches a host's port.
    Arrival { host: usize, packet: Packet },
    /// A shell finishes an action.
    Acted { host: usize, life: u64 },
    /// A shell's timer fires.
    Wake { host: usize, life: u64, wake: u64 },
    /// A shell hears of an address that came or went.
    Netlink { host: usize, life: u64, ip: IpAddr },
    /// The warden looks whether the beat is overdue.
    Warden { host: usize, slot: Slot, look: u64 },
    /// The warden acts after its pipe closed.
    Orphaned { host: usize, slots: Vec<(Slot, super::warden::Parting)> },
    /// A fault strikes or ends.
    Fault(Fault),
    /// Only the time passes.
    Tick,
}

struct Scheduled {
    at: Moment,
    order: u64,
    what: Coming,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Two hosts, two networks, and everybody who watches.
pub struct World {
    pub(super) now: Moment,
    coming: BinaryHeap<Reverse<Scheduled>>,
    order: u64,
    pub(super) rng: Rng,
    pub(super) hosts: [Host; 2],
    pub(super) lan: Network,
    pub(super) peer: Network,
    pub(super) variant: Variant,
    /// The virtual routers by instance and family.
    pub(super) routers: Vec<(String, Family)>,
    pub(super) view: View,
    pub(super) checks: Checks,
    pub(super) trace: Trace,
    pub(super) sabotage: Sabotage,
    pub(super) boots: u64,
    /// Looks of wardens, which are named by number.
    pub(super) looks: u64,
    /// Answers to switchovers asked for, for scenario tests.
    pub(super) switchovers: Vec<bool>,
}

impl World {
    /// A pair of hosts that are switched off.
    #[must_use]
    pub fn new(seed: u64, variant: &Variant, sabotage: Sabotage, trace: Trace) -> Self {
        let mut rng = Rng::new(seed);
        let tenth = variant.interval / 10;
        let delay = rng.span(Duration::from_micros(30), Duration::from_millis(1).min(tenth));
        let lan = Network::new(delay, delay / 2);
        let delay = rng.span(Duration::from_micros(30), Duration::from_millis(1));
        let peer = Network::new(delay, delay / 2);
        let mut host = |index: usize| {
            let rate = *rng.pick(&[990_000, 995_000, 1_000_000, 1_000_000, 1_005_000, 1_010_000]);
            let clock = Clock::new(rng.span(Duration::from_secs(1), Duration::from_secs(1000)), rate);
            Host::new(index, clock, variant.clone())
        };
        let hosts = [host(0), host(1)];
        let routers = variant.routers();
        let delivery = lan.delay.max(peer.delay) * 3 + SHELL_SLACK;
        let view = View {
            now: Moment::ZERO,
            limits: limits(variant, delivery),
            hosts: [HostView::default(); 2],
            routers: routers.iter().map(|(instance, family)| router_view(instance, *family)).collect(),
            lan_works_since: Some(Moment::ZERO),
            peer_works_since: variant.peer_link.then_some(Moment::ZERO),
        };
        let mut world = Self {
            now: Moment::ZERO,
            coming: BinaryHeap::new(),
            order: 0,
            rng,
            hosts,
            lan,
            peer,
            checks: Checks::new(&view),
            view,
            variant: variant.clone(),
            routers,
            trace,
            sabotage,
            boots: 0,
            looks: 0,
            switchovers: Vec::new(),
        };
        world.trace.note(world.now, || format!("configuration:\n{}", variant.text()));
        world
    }

    /// The pair as the checkers see it.
    #[must_use]
    pub const fn view(&self) -> &View {
        &self.view
    }

    /// True time.
    #[must_use]
    pub const fn now(&self) -> Moment {
        self.now
    }

    /// How each switchover that was asked for ended.
    #[must_use]
    pub fn switchovers(&self) -> &[bool] {
        &self.switchovers
    }

    /// What was written down.
    pub fn into_trace(self) -> Trace {
        self.trace
    }

    /// A fault at a moment to come.
    pub fn schedule(&mut self, at: Moment, fault: Fault) {
        self.push(at, Coming::Fault(fault));
    }

    pub(super) fn push(&mut self, at: Moment, what: Coming) {
        self.order += 1;
        self.coming.push(Reverse(Scheduled { at, order: self.order, what }));
    }

    pub(super) fn push_in(&mut self, span: Duration, what: Coming) {
        self.push(self.now + span, what);
    }

    /// Lets everything happen up to `end`.
    ///
    /// # Errors
    ///
    /// The first thing a checker objects to.
    pub fn run_until(&mut self, end: Moment) -> Result<(), Violation> {
        self.push(end, Coming::Tick);
        while let Some(Reverse(next)) = self.coming.pop() {
            self.now = self.now.max(next.at);
            self.view.now = self.now;
            let last = matches!(next.what, Coming::Tick) && self.now >= end;
            self.happen(next.what);
            self.checks.tick(&self.view);
            self.checks.verdict()?;
            if last {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Lets the pair live for `span` more.
    ///
    /// # Errors
    ///
    /// As [`World::run_until`].
    pub fn run_for(&mut self, span: Duration) -> Result<(), Violation> {
        self.run_until(self.now + span)
    }

    /// Lets the pair live until `done`, for `bound` at most; the time it took, or `None`.
    ///
    /// # Errors
    ///
    /// As [`World::run_until`].
    pub fn run_while(
        &mut self,
        bound: Duration,
        mut goes_on: impl FnMut(&View) -> bool,
    ) -> Result<Option<Duration>, Violation> {
        let (start, end) = (self.now, self.now + bound);
        while goes_on(&self.view) {
            if self.now >= end {
                return Ok(None);
            }
            let step = (self.now + Duration::from_micros(50)).min(end);
            self.run_until(step)?;
        }
        Ok(Some(self.now - start))
    }

    /// Tells the checkers of a phase.
    pub fn tell(&mut self, seen: Seen<'_>) {
        self.checks.seen(&self.view, seen);
    }

    fn happen(&mut self, what: Coming) {
        match what {
            Coming::Arrival { host, packet } => self.arrive(host, packet),
            Coming::Acted { host, life } if self.hosts[host].life == life => self.acted(host),
            Coming::Wake { host, life, wake }
                if (self.hosts[host].life, self.hosts[host].wake) == (life, wake) =>
            {
                self.kick(host);
            }
            Coming::Netlink { host, life, ip } if self.hosts[host].life == life => self.netlink(host, ip),
            Coming::Warden { host, slot, look } => self.warden_looks(host, slot, look),

            Coming::Orphaned { host, slots } => self.warden_inherits(host, slots),
            Coming::Fault(fault) => self.strike(fault),
            Coming::Acted { .. } | Coming::Wake { .. } | Coming::Netlink { .. } | Coming::Tick => {}
        }
    }

    /// Sends a LAN packet from a host's port.
    pub(super) fn lan_send(&mut self, from: usize, packet: Packet) {
        if !self.hosts[from].answers() {
            return;
        }
        if self.lan.out_open[from]
            && let Packet::Frame(frame) = &packet
        {
            self.wire_sees(from, &frame.clone());
        }
        for (at, packet) in self.lan.carry(from, self.now, packet, &mut self.rng) {
            self.push(at, Coming::Arrival { host: 1 - from, packet });
        }
    }

    /// Sends a datagram to the peer.
    pub(super) fn peer_send(&mut self, from: usize, bytes: Vec<u8>) {
        for (at, packet) in self.peer.carry(from, self.now, Packet::Peer(bytes), &mut self.rng) {
            self.push(at, Coming::Arrival { host: 1 - from, packet });
        }
    }

    fn arrive(&mut self, host: usize, packet: Packet) {
        let lan = !matches!(packet, Packet::Peer(_));
        let open =
            if lan { self.lan.in_open[host] && self.hosts[host].carrier } else { self.peer.in_open[host] };
        if !open || self.hosts[host].machine == Machine::Off || self.hosts[host].node.is_none() {
            return;
        }
        if !self.hosts[host].enqueue(packet) {
            self.trace.note(self.now, || format!("{}: a socket is full", NAMES[host]));
        }
        self.kick(host);
    }

    /// Everybody else on the LAN: the gateway answers, and the observer notes who announced what.
    fn wire_sees(&mut self, from: usize, frame: &[u8]) {
        if self.asks_for_gateway(frame) && self.hosts[from].gateway {
            let mac = [2, 0, 0, 0, 0, 1];
            let IpAddr::V4(ip) = GATEWAY else { return };
            let at = self.now + self.lan.delay * 2;
            let packet = Packet::Frame(neighbor::gratuitous_arp(mac, ip));
            self.push(at, Coming::Arrival { host: from, packet });
            return;
        }
        let Some(sighting) = neighbor::parse_frame(frame) else { return };
        if sighting.kind != SightingKind::Announcement {
            return;
        }
        let Some(router) = self.router_of_address(sighting.ip) else { return };
        let view = &mut self.view.routers[router];
        view.announced_by = Some(from);
        view.sides[from].announced_at = Some(self.now);
        self.trace.note(self.now, || format!("{}: announces {}", NAMES[from], sighting.ip));
        self.checks.seen(&self.view, Seen::Announced { host: from, router });
    }

    /// An ARP request whose target is the gateway.
    fn asks_for_gateway(&self, frame: &[u8]) -> bool {
        let IpAddr::V4(gateway) = GATEWAY else { return false };
        frame.len() >= 42 && frame[12..14] == [8, 6] && frame[38..42] == gateway.octets()
    }

    pub(super) fn router_of_address(&self, ip: IpAddr) -> Option<usize> {
        let has = |host: &Host, (instance, family): &(String, Family)| {
            host.addresses(instance, *family).contains(&ip)
        };
        self.routers.iter().position(|router| self.hosts.iter().any(|host| has(host, router)))
    }

    pub(super) fn router_of_slot(&self, host: usize, slot: Slot) -> Option<usize> {
        let node = self.hosts[host].node.as_ref()?;
        let (_, settings) = node.slots().find(|(found, _)| *found == slot)?;
        self.routers
            .iter()
            .position(|(instance, family)| *instance == settings.instance && *family == settings.family)
    }

    /// Brings the view in line with the hosts after something about one of them changed.
    pub(super) fn refresh(&mut self) {
        let now = self.now;
        for (index, (view, host)) in self.view.hosts.iter_mut().zip(&self.hosts).enumerate() {
            let port = host.carrier && self.lan.out_open[index] && self.lan.in_open[index];
            view.port_works_since = port.then(|| view.port_works_since.unwrap_or(now));
            if view.running_since.is_some() && !host.runs() {
                view.halted_since = now;
            }
            view.running_since = host.runs().then(|| view.running_since.unwrap_or(now));
            view.answers = host.answers();
            let lbd_runs = host.lbd != Lbd::Absent;
            view.lbd_since = lbd_runs.then(|| view.lbd_since.unwrap_or(now));
        }
        for (view, (instance, family)) in self.view.routers.iter_mut().zip(&self.routers) {
            for (side, host) in view.sides.iter_mut().zip(&self.hosts) {
                let addresses = host.addresses(instance, *family);
                let served = std::mem::replace(
                    &mut side.serves,
                    host.answers()
                        && !addresses.is_empty()
                        && addresses.iter().all(|ip| host.held.contains(ip)),
                );
                if served && !side.serves {
                    side.served_until = now;
                }
                // What is written stays when `vrrpd` is gone.
                if let Some(node) = &host.node {
                    let of_router = |(_, settings): &(Slot, &RouterSettings)| {
                        settings.instance == *instance && settings.family == *family
                    };
                    let slot = node.slots().find(of_router).map(|(slot, _)| slot);
                    let until = slot.and_then(|slot| node.owned_until(slot));
                    let longer = match self.sabotage {
                        Sabotage::LeasesTooLong => self.view.limits.interval * 2,
                        _ => Duration::ZERO,
                    };
                    side.owned_until =
                        until.map_or(Moment::ZERO, |until| host.clock.moment_of(until) + longer);
                }
            }
            let [a, b] = &self.hosts;
            let of_router = |ip: &IpAddr| {
                a.addresses(instance, *family).contains(ip) || b.addresses(instance, *family).contains(ip)
            };
            let both = a.answers() && b.answers() && a.held.intersection(&b.held).any(of_router);
            view.both_since = both.then(|| view.both_since.unwrap_or(now));
            let none = !view.sides.iter().any(|side| side.serves);
            view.none_since = none.then(|| view.none_since.unwrap_or(now));
        }
        let lan = self.lan.works() && self.hosts.iter().all(|host| host.carrier);
        self.view.lan_works_since = lan.then(|| self.view.lan_works_since.unwrap_or(now));
        let peer = self.variant.peer_link && self.peer.works();
        self.view.peer_works_since = peer.then(|| self.view.peer_works_since.unwrap_or(now));
    }

    /// Takes note of a role that a core reported.
    pub(super) fn role_reported(&mut self, host: usize, event: &Event) {
        let Event::Role { instance, family, from, to, reason } = event else { return };
        let of_router = |known: &(String, Family)| known.0 == *instance && known.1 == *family;
        let Some(router) = self.routers.iter().position(of_router) else { return };
        let from = if self.sabotage == Sabotage::MixesUpEvents { to } else { from };
        let side = &mut self.view.routers[router].sides[host];
        side.role = *to;
        side.role_since = self.now;
        let seen = Seen::Role { host, router, from: *from, to: *to, reason: *reason };
        self.checks.seen(&self.view, seen);
    }

    /// The roles of a host whose `vrrpd` is gone.
    pub(super) fn roles_gone(&mut self, host: usize) {
        for router in &mut self.view.routers {
            router.sides[host].role = Role::Init;
            router.sides[host].role_since = self.now;
        }
    }

    /// Widens the limits by a configuration that is now in force on some node.
    pub(super) fn widen_limits(&mut self, variant: &Variant) {
        let new = limits(variant, self.view.limits.delivery);
        let old = &mut self.view.limits;
        old.interval = old.interval.max(new.interval);
        old.active_down = old.active_down.max(new.active_down);
        old.warden = old.warden.max(new.warden);
    }
}

fn router_view(instance: &str, family: Family) -> RouterView {
    RouterView {
        name: format!("{instance}/{}", family.name()),
        sides: [Side::default(); 2],
        both_since: None,
        none_since: Some(Moment::ZERO),
        announced_by: None,
    }
}

/// The longest that a node's clock makes of a span: it is at most 1 % slow.
fn slowest(span: Duration) -> Duration {
    span + span / 98
}

fn limits(variant: &Variant, delivery: Duration) -> Limits {
    let skew = if variant.version == 2 { Duration::from_secs(1) } else { variant.interval };
    Limits {
        interval: slowest(variant.interval),
        active_down: slowest(variant.interval * 3 + skew),
        delivery,
        warden: slowest(variant.interval * 5 / 2) + SHELL_SLACK,
    }
}
