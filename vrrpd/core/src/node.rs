//! One node: all its virtual routers, its health, and the link to its peer.
//!
//! The shell calls [`Node::handle`] with each input as it comes, received packets before the timeout that may be due as
//! well, then takes [actions](Action) out until there are none and carries them out in that order, then sleeps until
//! [`Node::next_deadline`]. What a failed action means is told back as an input.

mod health;
mod input;
mod lan;
mod link;
mod reload;
mod report;
mod switchover;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use common::ipc::Role;
use common::time::{Duration, Instant, Now};
use ipnet::IpNet;

use crate::auth::{self, Signer, Verifier};
use crate::event::{Event, HandoverFailure};
use crate::neighbor;
use crate::packet::{Advert, Family};
use crate::peer::Body;
use crate::router::{Output, Router};
use crate::settings::{Destination, ROUTERS_MAX, RouterSettings, Settings};
use crate::track::LbdState;

pub use input::{Input, InterfaceState, SwitchoverError};
pub use switchover::CATCH_UP_MAX;

use health::InstanceHealth;
use link::Link;
use switchover::Switchovers;

/// Names a virtual router of this node: 0 to 63, kept as long as the virtual router exists.
pub type Slot = u8;

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The set of virtual routers or their settings changed: bring sockets and local routes in line with [`Node::slots`].
    /// Actions before it mean the former routers, those after it the present ones.
    Routers,
    /// Send an advertisement.
    SendAdvert {
        /// For which virtual router.
        slot: Slot,
        /// From this address of the interface.
        source: IpAddr,
        /// To this one, with TTL 255.
        destination: IpAddr,
        /// The VRRP message, trailer included.
        bytes: Vec<u8>,
    },
    /// Send a datagram to the peer.
    SendPeer(Vec<u8>),
    /// Send Ethernet frames on an interface.
    SendFrames {
        /// The interface.
        interface: String,
        /// The frames, in order.
        frames: Vec<Vec<u8>>,
    },
    /// Put addresses on the interface.
    AddAddresses {
        /// For which virtual router.
        slot: Slot,
        /// Which.
        addresses: Vec<IpNet>,
    },
    /// Take addresses off the interface; they may be gone already.
    RemoveAddresses {
        /// For which virtual router.
        slot: Slot,
        /// Which.
        addresses: Vec<IpNet>,
    },
    /// The router is about to get its addresses (`true`: the warden is to watch it) or has none any more (`false`).
    Guard {
        /// Which virtual router.
        slot: Slot,
        /// Whether it is to be watched.
        active: bool,
    },
    /// Enter this into the event log.
    Event(Event),
    /// A requested switchover ended: how long it took, or why it did not happen.
    SwitchoverDone {
        /// The request's.
        token: u64,
        /// The outcome.
        result: Result<Duration, SwitchoverError>,
    },
    /// Shutdown is complete.
    Finished,
}

/// One virtual router with what surrounds its state machine.
#[derive(Debug)]
struct Entry {
    router: Router,
    verifier: Option<Verifier>,
    drops: BTreeMap<&'static str, u64>,
    /// Others' ARP or neighbour claims of our addresses while active; part of the router's conflicts.
    claims: u64,
    since: Now,
    /// The peer's view of the same router.
    peer: Option<link::PeerView>,
    /// Advertisements the peer says it sent and that did not arrive, since one last arrived.
    missed: u32,
    heard_since_heartbeat: bool,
    /// After a failed handover for health, none before this.
    health_retry_at: Instant,
    /// Until when this node keeps the role although the peer is healthier, because that still learns of connections from it.
    teach_until: Option<Instant>,
    /// After the addresses could not be added, no new attempt before this.
    fault_until: Option<Instant>,
    /// Addresses that somebody removed are put back at this time.
    restore_at: Option<Instant>,
    last_restore: Instant,
}

/// One node.
#[derive(Debug)]
pub struct Node {
    settings: Settings,
    now: Now,
    entries: BTreeMap<Slot, Entry>,
    health: Vec<InstanceHealth>,
    interfaces: BTreeMap<String, InterfaceState>,
    lbd: LbdState,
    /// See [`Input::Behind`].
    behind: bool,
    /// Whether `lbd` has said that, or is known to have nothing to say of it.
    behind_is_told: bool,
    maintenance: bool,
    link: Option<Link>,
    signer: Option<Signer>,
    boot: u64,
    switchovers: Switchovers,
    next_handover_id: u64,
    /// The node was not run for a while, and what it reads now may be old; until the next timeout.
    late: bool,
    stopping: bool,
    /// While stopping: until when a peer that is behind is waited for.
    leave_by: Instant,
    finished: bool,
    unmatched_drops: BTreeMap<&'static str, u64>,
    actions: VecDeque<Action>,
}

impl Node {
    /// A node in the life named `boot` (any number that no earlier life of it had, not 0). Virtual routers start when
    /// their interfaces are reported.
    #[must_use]
    pub fn new(settings: Settings, boot: u64, now: Now) -> Self {
        let mut node = Self {
            now,
            entries: BTreeMap::new(),
            health: Vec::new(),
            interfaces: BTreeMap::new(),
            lbd: LbdState::Absent,
            // A node that has just booted lacks everything, and its stack would reset what it takes over before its `lbd` is there.
            behind: settings.replicates,
            behind_is_told: false,
            maintenance: false,
            link: Link::new(&settings, boot, now.at),
            signer: settings.key.as_ref().map(Signer::new),
            boot,
            switchovers: Switchovers::default(),
            next_handover_id: 1,
            late: false,
            stopping: false,
            leave_by: now.at,
            finished: false,
            unmatched_drops: BTreeMap::new(),
            actions: VecDeque::new(),
            settings,
        };
        node.health =
            node.settings.instances.iter().map(|instance| InstanceHealth::new(instance, now.at)).collect();
        let routers: Vec<RouterSettings> = node.settings.routers().cloned().collect();
        for settings in routers {
            node.add_router(settings);
        }
        node.actions.push_back(Action::Routers);
        node
    }

    /// The next action to carry out.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Input::Timeout`] is due; never after [`Action::Finished`].
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.finished {
            return None;
        }
        if self.late {
            // As soon as what waited is read.
            return Some(self.now.at);
        }
        let routers = self.entries.values().flat_map(Entry::deadlines);
        let health = self.health.iter().filter_map(InstanceHealth::deadline);
        let link = self.link.iter().map(Link::deadline);
        let leave = (self.stopping && self.leave_by > self.now.at).then_some(self.leave_by);
        let teach = self.entries.values().filter_map(|entry| entry.teach_until);
        let teach = teach.filter(|&until| until > self.now.at);
        routers.chain(health).chain(link).chain(leave).chain(teach).min()
    }

    /// The virtual routers with their slots.
    pub fn slots(&self) -> impl Iterator<Item = (Slot, &RouterSettings)> {
        self.entries.iter().map(|(&slot, entry)| (slot, &entry.router.settings))
    }

    /// The settings in force.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A virtual router's role.
    #[must_use]
    pub fn role(&self, slot: Slot) -> Option<Role> {
        self.entries.get(&slot).map(|entry| entry.router.role())
    }

    /// A virtual router's own address on its interface.
    #[must_use]
    pub fn source(&self, slot: Slot) -> Option<IpAddr> {
        self.entries.get(&slot).and_then(|entry| entry.router.source())
    }

    /// The silence after which a virtual router's advertisements count as overdue.
    #[must_use]
    pub fn stall_limit(&self, slot: Slot) -> Option<Duration> {
        self.entries.get(&slot).map(|entry| entry.router.stall_limit())
    }

    /// Until when a virtual router owns its addresses if this node does not run again: its lease, which each advertisement renews.
    /// `None` unless it is active.
    #[must_use]
    pub fn owned_until(&self, slot: Slot) -> Option<Instant> {
        self.entries.get(&slot).and_then(|entry| entry.router.owned_until())
    }

    /// Where a virtual router's advertisements go.
    #[must_use]
    pub fn destination(&self, slot: Slot) -> Option<IpAddr> {
        self.entries.get(&slot).map(|entry| destination(&entry.router.settings))
    }

    /// Whether this node lacks connections of the other one's, or may: see [`Input::Behind`].
    #[must_use]
    pub const fn is_behind(&self) -> bool {
        self.behind
    }

    /// This node's life, as told to the peer.
    #[must_use]
    pub const fn boot(&self) -> u64 {
        self.boot
    }

    /// The peer's life as last heard, 0 if never.
    #[must_use]
    pub fn peer_boot(&self) -> u64 {
        self.link.as_ref().map_or(0, Link::peer_boot)
    }

    fn add_router(&mut self, settings: RouterSettings) -> Option<Slot> {
        // ROUTERS_MAX is 64, so the slot always fits; `check` bounds the number of instances.
        let slot = (0..ROUTERS_MAX)
            .filter_map(|slot| Slot::try_from(slot).ok())
            .find(|slot| !self.entries.contains_key(slot))?;
        let entry = Entry {
            verifier: self.settings.key.as_ref().map(Verifier::new),
            router: Router::new(settings),
            drops: BTreeMap::new(),
            claims: 0,
            since: self.now,
            peer: None,
            missed: 0,
            heard_since_heartbeat: false,
            health_retry_at: Instant::ZERO,
            teach_until: None,
            fault_until: None,
            restore_at: None,
            last_restore: Instant::ZERO,
        };
        self.entries.insert(slot, entry);
        self.set_behind(self.behind);
        Some(slot)
    }

    /// Runs `step` on a virtual router and turns what it puts out into actions.
    fn drive<R>(
        &mut self,
        slot: Slot,
        step: impl FnOnce(&mut Router, Instant, &mut Vec<Output>) -> R,
    ) -> Option<R> {
        let at = self.now.at;
        let entry = self.entries.get_mut(&slot)?;
        let mut outputs = Vec::new();
        let result = step(&mut entry.router, at, &mut outputs);
        for output in outputs {
            self.carry_out(slot, output);
        }
        Some(result)
    }

    fn carry_out(&mut self, slot: Slot, output: Output) {
        let Some(entry) = self.entries.get_mut(&slot) else { return };
        let settings = &entry.router.settings;
        let (instance, family) = (settings.instance.clone(), settings.family);
        match output {
            Output::Advertise(priority) => {
                self.send_advert(slot, priority);
                // Right behind it, so that the peer knows at once when it should have heard one.
                self.heartbeat_soon();
            }
            Output::Acquire => {
                let addresses = settings.addresses.clone();
                entry.restore_at = None;
                self.actions.push_back(Action::Guard { slot, active: true });
                self.actions.push_back(Action::AddAddresses { slot, addresses });
            }
            Output::Relinquish => {
                let addresses = settings.addresses.clone();
                entry.restore_at = None;
                self.actions.push_back(Action::RemoveAddresses { slot, addresses });
                self.actions.push_back(Action::Guard { slot, active: false });
            }
            Output::Announce => self.actions.extend(self.announcement(slot)),
            Output::Offer(id) => {
                let router = settings.key();
                self.send_peer(Body::Offer { router, id });
            }
            Output::Release => {
                let routers = vec![settings.key()];
                self.send_peer(Body::Release { routers: routers.clone() });
                // Once more: a lost one would cost the Active_Down time.
                self.send_peer(Body::Release { routers });
            }
            Output::Role { from, to, reason } => {
                entry.since = self.now;
                entry.missed = 0;
                self.event(Event::Role { instance, family, from, to, reason });
                self.heartbeat_soon();
            }
            Output::Stalled { silence } => {
                let silence_ms = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
                self.event(Event::Stalled { instance, family, silence_ms });
            }
            Output::HandoverEnded { id, result, .. } => self.handover_ended(slot, id, result),
        }
    }

    fn send_advert(&mut self, slot: Slot, priority: u8) {
        let Some(entry) = self.entries.get(&slot) else { return };
        let settings = &entry.router.settings;
        let Some(source) = entry.router.source() else { return };
        let destination = destination(settings);
        let mut addresses = settings.advertised();
        if addresses.is_empty() {
            // A router without virtual addresses (its hook moves something else) has to list one: "The minimum value is 1"
            // (RFC 9568 §5.2.5). Its own is the one that means nothing.
            addresses.push(source);
        }
        let advert = Advert {
            version: settings.version,
            vrid: settings.vrid,
            priority,
            interval: settings.interval,
            addresses,
        };
        let bytes = match (settings.auth, self.signer.as_mut()) {
            (common::config::Auth::None, _) | (_, None) => {
                advert.emit(source, destination, settings.checksum)
            }
            (_, Some(signer)) => {
                auth::emit_signed(&advert, source, destination, settings.checksum, signer, self.now.unix)
            }
        };
        self.actions.push_back(Action::SendAdvert { slot, source, destination, bytes });
    }

    /// RFC 9568 §6.4.2, on becoming active: "For each IPv4 address associated with the Virtual Router, broadcast a gratuitous ARP
    /// message", "For each IPv6 address associated with the Virtual Router, send an unsolicited ND Neighbor Advertisement".
    fn announcement(&self, slot: Slot) -> Option<Action> {
        let entry = self.entries.get(&slot)?;
        let settings = &entry.router.settings;
        let interface = self.interfaces.get(&settings.interface)?;
        let mac = if settings.virtual_mac {
            neighbor::virtual_mac(settings.family, settings.vrid)
        } else {
            interface.mac
        };
        let frames: Vec<Vec<u8>> = settings
            .addresses
            .iter()
            .map(|net| match net.addr() {
                IpAddr::V4(ip) => neighbor::gratuitous_arp(mac, ip),
                IpAddr::V6(ip) => neighbor::unsolicited_na(mac, ip, interface.forwarding),
            })
            .collect();
        (!frames.is_empty()).then(|| Action::SendFrames { interface: settings.interface.clone(), frames })
    }

    fn event(&mut self, event: Event) {
        self.actions.push_back(Action::Event(event));
    }

    fn handover_ended(&mut self, slot: Slot, id: u64, result: Result<(), HandoverFailure>) {
        if let Err(reason) = result
            && let Some(entry) = self.entries.get_mut(&slot)
        {
            entry.health_retry_at = self.now.at + health::RETRY_INTERVAL;
            let settings = &entry.router.settings;
            let (instance, family) = (settings.instance.clone(), settings.family);
            self.event(Event::HandoverFailed { instance, family, reason });
        }
        if let Some((token, result)) = self.switchovers.ended(id, result, self.now.at) {
            self.actions.push_back(Action::SwitchoverDone { token, result });
        }
    }

    fn slot_list(&self) -> Vec<Slot> {
        self.entries.keys().copied().collect()
    }
}

impl Entry {
    fn deadlines(&self) -> impl Iterator<Item = Instant> {
        [self.router.deadline(), self.fault_until, self.restore_at].into_iter().flatten()
    }

    fn drop_advert(&mut self, reason: &'static str) {
        *self.drops.entry(reason).or_default() += 1;
    }
}

fn destination(settings: &RouterSettings) -> IpAddr {
    match settings.destination {
        Destination::Multicast => settings.family.multicast(),
        Destination::Unicast(address) => address,
    }
}

/// The address of `family` that an interface speaks from.
fn source_of(state: Option<&InterfaceState>, family: Family) -> Option<IpAddr> {
    let state = state.filter(|state| state.up)?;
    match family {
        Family::V4 => state.ipv4.map(IpAddr::V4),
        Family::V6 => state.link_local.map(IpAddr::V6),
    }
}
