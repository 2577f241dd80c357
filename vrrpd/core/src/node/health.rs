//! Tracking: what is wrong with this node, the priority that follows, and stepping aside for a healthier peer.

use std::net::IpAddr;

use common::ipc::Role;
use common::time::{Duration, Instant};

use super::link::PeerView;
use super::switchover::CATCH_UP_MAX;
use super::{Action, Node, Slot, source_of};
use crate::event::{Event, Reason};
use crate::handover::Purpose;
use crate::neighbor;
use crate::packet::Family;
use crate::settings::InstanceSettings;
use crate::track::{Ailments, LbdState, effective_priority, is_cut_off};

/// Time between two attempts to hand over for health.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Time between two questions to the gateway.
const GATEWAY_INTERVAL: Duration = Duration::from_millis(250);

/// Unanswered questions after which the gateway counts as unreachable.
const GATEWAY_MISSES_MAX: u32 = 3;

/// One instance's health.
#[derive(Debug)]
pub(super) struct InstanceHealth {
    pub(super) name: String,
    interface: String,
    gateway: Option<Gateway>,
    pub(super) ailments: Ailments,
}

/// The gateway as ARP or neighbour discovery sees it.
#[derive(Debug)]
struct Gateway {
    address: IpAddr,
    next_question: Instant,
    unanswered: u32,
    reachable: bool,
}

impl InstanceHealth {
    pub(super) fn new(settings: &InstanceSettings, at: Instant) -> Self {
        Self {
            name: settings.name.clone(),
            interface: settings.interface.clone(),
            gateway: settings.track.gateway.map(|address| Gateway {
                address,
                next_question: at,
                unanswered: 0,
                reachable: true,
            }),
            ailments: Ailments::default(),
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.gateway.as_ref().map(|gateway| gateway.next_question)
    }

    /// A sign of life of `ip` on `interface`.
    pub(super) fn seen(&mut self, interface: &str, ip: IpAddr) {
        if let Some(gateway) = &mut self.gateway
            && gateway.address == ip
            && self.interface == interface
        {
            gateway.unanswered = 0;
        }
    }

    /// Keeps what is known of the gateway across a reload that leaves it alone.
    pub(super) fn inherit(&mut self, old: Self) {
        let same_interface = self.interface == old.interface;
        if let (Some(new), Some(old)) = (&mut self.gateway, old.gateway)
            && new.address == old.address
            && same_interface
        {
            *new = old;
        }
        self.ailments = old.ailments;
    }
}

impl Node {
    pub(super) fn set_lbd(&mut self, state: LbdState) {
        let label = |state: &LbdState| match state {
            state if state.down() => "down",
            state if state.degraded() || !state.services_without_targets().is_empty() => "degraded",
            _ => "healthy",
        };
        let (before, after) = (label(&self.lbd), label(&state));
        if matches!(state, LbdState::Alive(_)) && !self.behind_is_told {
            // It would have said it first: it replicates nothing.
            self.told_behind(false);
        }
        self.lbd = state;
        if before != after {
            self.event(Event::Lbd { health: after });
        }
    }

    /// `lbd` says whether it lacks connections.
    pub(super) fn told_behind(&mut self, behind: bool) {
        self.behind_is_told = true;
        self.set_behind(behind);
    }

    pub(super) fn set_behind(&mut self, behind: bool) {
        if behind && !self.behind {
            self.heartbeat_soon();
        }
        self.behind = behind;
        self.entries.values_mut().for_each(|entry| entry.router.set_behind(behind));
    }

    pub(super) fn set_maintenance(&mut self, on: bool) {
        if self.maintenance != on {
            self.maintenance = on;
            self.event(Event::Maintenance { on });
        }
    }

    pub(super) fn severity_of(&self, instance: &str) -> u8 {
        let found = self.health.iter().find(|health| health.name == instance);
        found.map_or(0, |health| health.ailments.severity())
    }

    /// Asks gateways whose turn it is, and counts those that did not answer.
    pub(super) fn health_timeout(&mut self) {
        let at = self.now.at;
        for index in 0..self.health.len() {
            let health = &mut self.health[index];
            let (instance, interface) = (health.name.clone(), health.interface.clone());
            let Some(gateway) = health.gateway.as_mut().filter(|gateway| gateway.next_question <= at) else {
                continue;
            };
            gateway.next_question = at + GATEWAY_INTERVAL;
            let reachable = gateway.unanswered < GATEWAY_MISSES_MAX;
            let changed = reachable != gateway.reachable;
            gateway.reachable = reachable;
            let address = gateway.address;
            let state = self.interfaces.get(&interface);
            let source = source_of(state, Family::of(address));
            let frame = match (source, address, state) {
                (Some(IpAddr::V4(own)), IpAddr::V4(target), Some(state)) => {
                    Some(neighbor::arp_request(state.mac, own, target))
                }
                (Some(IpAddr::V6(own)), IpAddr::V6(target), Some(state)) => {
                    Some(neighbor::neighbor_solicitation(state.mac, own, target))
                }
                _ => None,
            };
            if let Some(frame) = frame {
                // What cannot be asked (the interface is down) says nothing about the gateway.
                gateway.unanswered = gateway.unanswered.saturating_add(1);
                self.actions.push_back(Action::SendFrames { interface, frames: vec![frame] });
            }
            if changed {
                if reachable {
                    self.announce_anew(&instance);
                }
                self.event(Event::Gateway { instance, reachable });
            }
        }
    }

    /// The LAN was cut and is whole again: what was announced meanwhile was heard by nobody.
    fn announce_anew(&mut self, instance: &str) {
        let at = self.now.at;
        for entry in self.entries.values_mut().filter(|entry| entry.router.settings.instance == instance) {
            entry.router.announce_soon(at);
        }
    }

    /// After every input: health into priorities, and the roles that health says are wrong.
    pub(super) fn settle(&mut self) {
        for slot in self.slot_list() {
            self.refresh_priority(slot);
            self.yield_to_healthier(slot);
            self.note_rival(slot);
        }
        self.finish_if_stopped();
    }

    pub(super) fn refresh_priority(&mut self, slot: Slot) {
        let Some(entry) = self.entries.get(&slot) else { return };
        let name = entry.router.settings.instance.clone();
        let Some(ailments) = self.ailments_of(&name) else { return };
        let severity = ailments.severity();
        if let Some(health) = self.health.iter_mut().find(|health| health.name == name)
            && health.ailments != ailments
        {
            health.ailments = ailments;
            self.heartbeat_soon();
        }
        let at = self.now.at;
        let Some(entry) = self.entries.get_mut(&slot) else { return };
        let settings = &entry.router.settings;
        let effective = effective_priority(settings.priority, settings.lowest_priority, severity);
        if effective != entry.router.effective() {
            let event = Event::Priority {
                instance: name,
                family: settings.family,
                effective_priority: effective,
                severity,
            };
            entry.router.set_effective(at, effective);
            self.event(event);
        }
    }

    fn ailments_of(&self, name: &str) -> Option<Ailments> {
        let settings = self.settings.instances.iter().find(|instance| instance.name == name)?;
        let health = self.health.iter().find(|health| health.name == name)?;
        let track = &settings.track;
        let down = |interface: &&String| !self.interfaces.get(*interface).is_some_and(|state| state.up);
        Some(Ailments {
            maintenance: self.maintenance,
            lbd_down: track.lbd && self.lbd.down(),
            gateway: health.gateway.as_ref().is_some_and(|gateway| !gateway.reachable),
            interfaces: track.interfaces.iter().filter(down).cloned().collect(),
            lbd_degraded: track.lbd && self.lbd.degraded(),
            targets: track.lbd && track.targets && !self.lbd.services_without_targets().is_empty(),
        })
    }

    /// Hands over to a backup that is healthier, and steps down beside an active that is.
    fn yield_to_healthier(&mut self, slot: Slot) {
        let at = self.now.at;
        let waits = self.teaches(slot);
        let Some(entry) = self.entries.get(&slot) else { return };
        let own = self.severity_of(&entry.router.settings.instance);
        let Some(peer) = entry.peer.filter(|peer| peer.severity < own) else { return };
        let free = entry.router.role() == Role::Active && !entry.router.in_transition() && !self.stopping;
        if !free || !self.peer_alive() {
            return;
        }
        let (since, retry_at) = (entry.since.at, entry.health_retry_at);
        // One that has its role only until it hears this node does not know whose port is dead: if it is its own, nobody would serve. It
        // says so when it has learned everything.
        let stays = self.can_teach(own) && self.peer_is_provisional(slot);
        match peer.role {
            Role::Backup if retry_at <= at && !waits => {
                let id = self.new_handover_id();
                self.drive(slot, |router, at, out| router.hand_over(at, id, Purpose::Health, true, out));
            }
            // Said after we became active, so it is not what we took over from.
            Role::Active if peer.at > since && !stays => {
                self.drive(slot, |router, at, out| router.step_down(at, Reason::PeerHealthier, out));
            }
            _ => {}
        }
    }

    /// Whether this node keeps a role that a healthier backup is to have, for that to learn first of the connections that it lacks: they would
    /// break, and this one serves meanwhile. What it serves worse (a service without a target) is so for a few seconds more.
    ///
    /// Not without this node's `lbd`, of which the peer would learn, and not where this one is cut off, so that all that would be kept stands
    /// still anyway. That no worker of a live `lbd` runs is what one says that stops, and serves until the role has left.
    fn teaches(&mut self, slot: Slot) -> bool {
        let Some(entry) = self.entries.get(&slot) else { return false };
        let own = self.severity_of(&entry.router.settings.instance);
        let is_active = entry.router.role() == Role::Active;
        let successor = |peer: PeerView| peer.role == Role::Backup && peer.severity < own;
        let is_due = is_active && entry.peer.is_some_and(successor);
        let helps = self.can_teach(own) && self.peer_may_be_behind();
        let at = self.now.at;
        let Some(entry) = self.entries.get_mut(&slot) else { return false };
        if !is_due {
            entry.teach_until = None;
        }
        is_due && helps && at < *entry.teach_until.get_or_insert(at + CATCH_UP_MAX)
    }

    /// Whether a node of this severity serves, if not well, and has an `lbd` of which the peer learns.
    fn can_teach(&self, own: u8) -> bool {
        self.lbd != LbdState::Absent && !is_cut_off(own)
    }
}
