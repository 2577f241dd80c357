//! What comes in, and where it goes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::ipc::Role;
use common::time::{Duration, Now};

use super::{Action, Node, Slot, source_of};
use crate::event::{Event, HandoverFailure, Reason};
use crate::packet::{Family, Meta};
use crate::settings::Settings;
use crate::track::LbdState;

/// How long after the addresses could not be added the next attempt is made.
const FAULT_RETRY: Duration = Duration::from_secs(5);

/// Addresses that someone keeps removing are put back at most this often.
const RESTORE_INTERVAL: Duration = Duration::from_millis(100);

/// Something that happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// The state of an interface, at the start and whenever it changes; `None` when there is no such interface.
    Interface {
        /// Its name.
        name: &'a str,
        /// Its state.
        state: Option<InterfaceState>,
    },
    /// A received packet of protocol 112.
    Advert {
        /// The interface it came in on.
        interface: &'a str,
        /// Its addresses and hop limit.
        meta: Meta,
        /// Its payload.
        bytes: &'a [u8],
    },
    /// A received ARP or neighbour discovery frame.
    Frame {
        /// The interface it came in on.
        interface: &'a str,
        /// The whole frame.
        bytes: &'a [u8],
    },
    /// A datagram from the peer link.
    Peer(&'a [u8]),
    /// [`Node::next_deadline`] has passed. To be given after everything that was received before.
    Timeout,
    /// `lbd`'s health changed.
    Lbd(LbdState),
    /// Whether `lbd` lacks connections and sessions that the other node's has: then this node preempts no healthy one. To be given before
    /// [`Input::Lbd`] says that it is alive, if it says this at all; until then it is so where `lbd` is to say it ([`Settings::replicates`]).
    Behind(bool),
    /// An address appeared on an interface.
    AddressAdded {
        /// The interface.
        interface: &'a str,
        /// The address.
        ip: IpAddr,
        /// Whether it carries our mark.
        ours: bool,
    },
    /// An address is gone from an interface.
    AddressRemoved {
        /// The interface.
        interface: &'a str,
        /// The address.
        ip: IpAddr,
    },
    /// The addresses could not be added. To be given at once, before the next action is taken out.
    AcquireFailed {
        /// For which virtual router.
        slot: Slot,
        /// Why.
        what: String,
    },
    /// Something else failed; nothing follows but an event.
    Failed {
        /// For which virtual router.
        slot: Slot,
        /// What, and why.
        what: String,
    },
    /// The warden released the addresses.
    WardenFired {
        /// Of which virtual router.
        slot: Slot,
    },
    /// Someone asked to hand an instance over to the peer; answered with [`Action::SwitchoverDone`].
    Switchover {
        /// The instance's name.
        instance: &'a str,
        /// Comes back with the answer.
        token: u64,
    },
    /// Someone switched maintenance.
    Maintenance(bool),
    /// New settings for this node.
    Reconfigure(Box<Settings>),
    /// Hand over what is active, then finish.
    Shutdown,
    /// Resign at once and finish.
    ShutdownNow,
}

/// What is known of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceState {
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Whether it is up and has a carrier.
    pub up: bool,
    /// Its primary IPv4 address, VIPs aside.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 link-local address, VIPs aside.
    pub link_local: Option<Ipv6Addr>,
    /// Whether the host forwards IPv6 (the R flag of neighbour advertisements).
    pub forwarding: bool,
}

/// Why a switchover did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SwitchoverError {
    /// No such instance.
    #[error("there is no instance of that name")]
    UnknownInstance,
    /// The role is not here to be given.
    #[error("this node is {}, not active, for the instance; ask the node that is", .0.name())]
    NotActive(Role),
    /// Nobody took it.
    #[error("the peer did not take over: {}", failure_text(*.0))]
    Failed(HandoverFailure),
    /// Too many at once.
    #[error("too many switchovers are under way")]
    Busy,
    /// The node is going down anyway.
    #[error("this node is stopping")]
    Stopping,
}

const fn failure_text(failure: HandoverFailure) -> &'static str {
    match failure {
        HandoverFailure::NoPeer => {
            "nothing is heard from it on the peer link, and nobody took over on the LAN"
        }
        HandoverFailure::TimedOut => "it did not answer in time",
        HandoverFailure::Refused => "it is not able to (see its status)",
        HandoverFailure::Behind => "it lacks connections that this node knows of (see its lbd's status)",
    }
}

impl Node {
    /// Takes an input at the time `now`. Then [`Node::poll_action`] has what follows from it.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        self.now = now;
        if self.finished {
            return;
        }
        let overdue = self.next_deadline().map_or(Duration::ZERO, |deadline| now.at.since(deadline));
        self.late |= overdue > self.heartbeat_interval();
        // A router that slept must not speak, whatever it is that woke it.
        for slot in self.slot_list() {
            self.drive(slot, |router, at, out| router.step_down_if_stalled(at, out));
        }
        self.dispatch(input);
        self.settle();
    }

    fn dispatch(&mut self, input: Input<'_>) {
        match input {
            Input::Interface { name, state } => self.interface(name, state),
            Input::Advert { interface, meta, bytes } => self.advert(interface, &meta, bytes),
            Input::Frame { interface, bytes } => self.frame(interface, bytes),
            Input::Peer(bytes) => self.peer_datagram(bytes),
            Input::Timeout => self.timeout(),
            Input::Lbd(state) => self.set_lbd(state),
            Input::Behind(behind) => self.told_behind(behind),
            Input::AddressAdded { interface, ip, ours } => self.address_added(interface, ip, ours),
            Input::AddressRemoved { interface, ip } => self.address_removed(interface, ip),
            Input::AcquireFailed { slot, what } => self.acquire_failed(slot, what),
            Input::Failed { slot, what } => self.failure(slot, what),
            Input::WardenFired { slot } => {
                self.drive(slot, |router, at, out| router.step_down(at, Reason::Warden, out));
            }
            Input::Switchover { instance, token } => self.switchover(instance, token),
            Input::Maintenance(on) => self.set_maintenance(on),
            Input::Reconfigure(settings) => self.reconfigure(*settings),
            Input::Shutdown => self.shutdown(),
            Input::ShutdownNow => self.shutdown_now(),
        }
    }

    fn interface(&mut self, name: &str, state: Option<InterfaceState>) {
        let mac = state.as_ref().map(|state| state.mac);
        let before = match state {
            Some(state) => self.interfaces.insert(name.to_owned(), state),
            None => self.interfaces.remove(name),
        };
        // A bond that changed to another member's address: the network has to learn it.
        let mac_changed = before.is_some_and(|before| mac.is_some_and(|mac| mac != before.mac));
        for slot in self.slot_list() {
            self.apply_interface(slot, name);
            if mac_changed
                && self.entries.get(&slot).is_some_and(|entry| entry.router.settings.interface == name)
            {
                self.drive(slot, |router, at, out| router.announce_again(at, out));
            }
        }
    }

    /// Starts, stops or updates a virtual router on `interface` by what is known of that.
    pub(super) fn apply_interface(&mut self, slot: Slot, interface: &str) {
        let Some(entry) = self.entries.get(&slot) else { return };
        let settings = &entry.router.settings;
        if settings.interface != interface || entry.fault_until.is_some() || self.stopping {
            return;
        }
        let source = source_of(self.interfaces.get(interface), settings.family);
        if entry.router.role() == Role::Init {
            // Its health decides how it starts.
            self.refresh_priority(slot);
            self.drive(slot, |router, at, out| router.start(at, source, out));
        } else {
            self.drive(slot, |router, at, out| router.set_source(at, source, out));
        }
    }

    fn timeout(&mut self) {
        let at = self.now.at;
        let late = std::mem::take(&mut self.late);
        self.health_timeout();
        for slot in self.slot_list() {
            let (standby, learns) = (self.stands_by(slot), self.learns_from_peer(slot));
            self.drive(slot, |router, at, out| router.timeout(at, standby, learns, late, out));
            let Some(entry) = self.entries.get_mut(&slot) else { continue };
            if entry.restore_at.is_some_and(|due| due <= at) {
                entry.restore_at = None;
                self.restore(slot);
            }
            let Some(entry) = self.entries.get_mut(&slot) else { continue };
            if entry.fault_until.is_some_and(|until| until <= at) {
                entry.fault_until = None;
                let interface = entry.router.settings.interface.clone();
                self.apply_interface(slot, &interface);
            }
        }
        // After the advertisements, which it counts.
        self.link_timeout();
    }

    /// Slots of virtual routers on `interface` that have `ip`.
    fn holders(&self, interface: &str, ip: IpAddr) -> Vec<Slot> {
        let has = |entry: &super::Entry| {
            entry.router.settings.interface == interface
                && entry.router.settings.addresses.iter().any(|net| net.addr() == ip)
        };
        self.entries.iter().filter(|(_, entry)| has(entry)).map(|(&slot, _)| slot).collect()
    }

    fn address_added(&mut self, interface: &str, ip: IpAddr, ours: bool) {
        for slot in self.holders(interface, ip) {
            let Some(entry) = self.entries.get(&slot) else { continue };
            if entry.router.role() == Role::Active {
                continue;
            }
            let settings = &entry.router.settings;
            let (instance, family) = (settings.instance.clone(), settings.family);
            let addresses: Vec<_> =
                settings.addresses.iter().filter(|net| net.addr() == ip).copied().collect();
            self.event(Event::AddressUnexpected { instance, family, address: ip });
            if ours {
                self.actions.push_back(Action::RemoveAddresses { slot, addresses });
            }
        }
    }

    fn address_removed(&mut self, interface: &str, ip: IpAddr) {
        let at = self.now.at;
        for slot in self.holders(interface, ip) {
            let Some(entry) = self.entries.get_mut(&slot) else { continue };
            if entry.router.role() != Role::Active {
                continue;
            }
            let settings = &entry.router.settings;
            let event = Event::AddressRestored {
                instance: settings.instance.clone(),
                family: settings.family,
                address: ip,
            };
            let earliest = entry.last_restore + RESTORE_INTERVAL;
            if earliest > at && entry.last_restore > common::time::Instant::ZERO {
                entry.restore_at = Some(earliest);
                continue;
            }
            self.event(event);
            self.restore(slot);
        }
    }

    /// Puts the addresses back and tells the network.
    fn restore(&mut self, slot: Slot) {
        let Some(entry) = self.entries.get_mut(&slot) else { return };
        if entry.router.role() != Role::Active {
            return;
        }
        entry.last_restore = self.now.at;
        let addresses = entry.router.settings.addresses.clone();
        self.actions.push_back(Action::AddAddresses { slot, addresses });
        self.drive(slot, |router, at, out| router.announce_now(at, out));
    }

    /// A router without its addresses serves nobody: let the peer have it. One that gave the role up meanwhile has nothing
    /// to resign from, and its priority 0 would speak for a router that is not active.
    fn acquire_failed(&mut self, slot: Slot, what: String) {
        self.failure(slot, what);
        if let Some(entry) = self.entries.get_mut(&slot).filter(|entry| entry.router.role() == Role::Active) {
            entry.fault_until = Some(self.now.at + FAULT_RETRY);
            self.take_back(slot);
            self.send_advert(slot, 0);
            self.drive(slot, |router, at, out| router.set_source(at, None, out));
        }
    }

    /// What was to follow the addresses must not: nobody may hear that they are here, least of all a peer that would drop them
    /// for it. Datagrams do not tell what they say any more, so all that wait are dropped; the others are repeated.
    fn take_back(&mut self, slot: Slot) {
        let announcement = self.announcement(slot);
        self.actions.retain(|action| match action {
            Action::SendAdvert { slot: of, .. } => *of != slot,
            Action::SendPeer(_) => false,
            action => announcement.as_ref() != Some(action),
        });
    }

    fn failure(&mut self, slot: Slot, what: String) {
        if let Some(entry) = self.entries.get(&slot) {
            let settings = &entry.router.settings;
            let (instance, family): (String, Family) = (settings.instance.clone(), settings.family);
            self.event(Event::Failure { instance, family, what });
        }
    }
}
