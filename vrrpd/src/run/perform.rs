//! Carrying out what the node decides.

use std::net::IpAddr;

use common::config::Auth;
use ipnet::IpNet;
use vrrpd_core::event::{Event, Reason};
use vrrpd_core::neighbor;
use vrrpd_core::node::{Action, Input, Slot};
use vrrpd_core::settings::RouterSettings;

use super::{Loop, RunError};
use crate::clock;
use crate::ownership::Ownership;
use crate::socket::advert_frame;
use crate::warden::{Plan, PlanPeer};

impl Loop {
    pub(super) fn perform(&mut self, action: Action) {
        match action {
            Action::Routers => {
                if let Err(error) = self.sync_and_refresh() {
                    self.system_error("applying the configuration", &error);
                }
            }
            Action::SendAdvert { slot, source, destination, bytes } => {
                self.send_advert(slot, source, destination, &bytes);
                self.own(slot);
            }
            Action::SendPeer(bytes) => {
                if let Some(Err(error)) = self.peer.as_ref().map(|socket| socket.send(&bytes)) {
                    self.system_error("sending to the peer", &error);
                }
            }
            Action::SendFrames { interface, frames } => self.send_frames(&interface, &frames),
            Action::AddAddresses { slot, addresses } => self.add_addresses(slot, &addresses),
            Action::RemoveAddresses { slot, addresses } => self.remove_addresses(slot, &addresses),
            Action::Guard { slot, active: true } => {
                self.guarded.insert(slot);
                // The kernel is to forward before the addresses draw packets here.
                self.own(slot);
                self.guard(slot);
            }
            Action::Guard { slot, active: false } => {
                self.guarded.remove(&slot);
                self.own(slot);
                self.warden.disarm(slot);
            }
            Action::Event(event) => {
                if let Event::Role { reason: Reason::HandedOver, .. } = event {
                    self.handed_over = true;
                }
                self.event(clock::now().unix, event);
            }
            Action::SwitchoverDone { token, result } => self.switchover_done(token, result),
            Action::Finished => self.finished = true,
        }
    }

    fn router(&self, slot: Slot) -> Option<RouterSettings> {
        self.routers.get(&slot).cloned()
    }

    /// Ports, routes and kernel settings for the settings in force.
    pub(super) fn sync_ports(&mut self) -> Result<(), RunError> {
        self.routers = self.node.slots().map(|(slot, router)| (slot, router.clone())).collect();
        Ok(self.ports.sync(self.node.settings(), self.node.slots())?)
    }

    fn sync_and_refresh(&mut self) -> Result<(), RunError> {
        self.sync_ports()?;
        for name in self.ports.names() {
            self.refresh(&name);
        }
        Ok(())
    }

    fn send_advert(&mut self, slot: Slot, source: IpAddr, destination: IpAddr, bytes: &[u8]) {
        let Some(router) = self.router(slot) else { return };
        let Some(port) = self.ports.get(&router.interface) else { return };
        let result = if router.virtual_mac {
            let mac = neighbor::virtual_mac(router.family, router.vrid);
            match (advert_frame(mac, source, destination, bytes), port.frame_socket()) {
                (Some(frame), Some(socket)) => socket.send(&frame),
                // A unicast frame needs the neighbour's Ethernet address, which the kernel knows.
                _ => port
                    .advert_socket(router.family)
                    .map_or(Ok(()), |socket| socket.send(source, destination, bytes)),
            }
        } else {
            port.advert_socket(router.family).map_or(Ok(()), |socket| socket.send(source, destination, bytes))
        };
        match result {
            Ok(()) => {
                self.send_failed.remove(&slot);
            }
            Err(error) => {
                self.system_error("sending an advertisement", &error);
                if self.send_failed.insert(slot) {
                    let what = format!("sending an advertisement on {} failed: {error}", router.interface);
                    self.feed(clock::now(), Input::Failed { slot, what });
                }
            }
        }
    }

    fn send_frames(&mut self, interface: &str, frames: &[Vec<u8>]) {
        let Some(socket) = self.ports.get(interface).and_then(|port| port.frame_socket()) else { return };
        for frame in frames {
            if let Err(error) = socket.send(frame) {
                return self.system_error("sending ARP or neighbour discovery frames", &error);
            }
        }
    }

    fn add_addresses(&mut self, slot: Slot, addresses: &[IpNet]) {
        let Some(router) = self.router(slot) else { return };
        if let Err(error) = self.ports.acquire(slot, &router, addresses) {
            self.feed(clock::now(), Input::AcquireFailed { slot, what: error.to_string() });
        }
    }

    fn remove_addresses(&mut self, slot: Slot, addresses: &[IpNet]) {
        let Some(router) = self.router(slot) else { return };
        if let Err(error) = self.ports.relinquish(slot, &router, addresses) {
            self.feed(clock::now(), Input::Failed { slot, what: error.to_string() });
        }
    }

    /// Tells the kernel until when this node owns a virtual router's instance: as long as one of its virtual routers does, and, between
    /// the decision to leave and the removal of the last address, as was said before.
    pub(super) fn own(&self, slot: Slot) {
        let (Some(ownership), Some(router)) = (&self.ownership, self.routers.get(&slot)) else { return };
        self.own_instance(ownership, &router.instance);
    }

    /// The same for all instances of the map, whoever wrote it before.
    pub(super) fn own_all(&self) {
        let Some(ownership) = &self.ownership else { return };
        ownership.instances().for_each(|instance| self.own_instance(ownership, instance));
    }

    fn own_instance(&self, ownership: &Ownership, instance: &str) {
        let of_it = |slot: &&Slot| self.routers.get(slot).is_some_and(|router| router.instance == instance);
        let mut holding = self.guarded.iter().filter(of_it).peekable();
        if holding.peek().is_none() {
            ownership.give_up(instance, clock::now().at);
        } else if let Some(until) = holding.filter_map(|&slot| self.node.owned_until(slot)).max() {
            ownership.own(instance, until);
        }
    }

    /// Tells the warden what to do for an active slot if we die.
    pub(super) fn guard(&mut self, slot: Slot) {
        let Some(router) = self.router(slot) else { return };
        let (Some(source), Some(destination), Some(timeout)) =
            (self.node.source(slot), self.node.destination(slot), self.node.stall_limit(slot))
        else {
            return;
        };
        // Without an interface there is nothing to add addresses to either: that attempt will say so.
        let (Some(interface), Ok(index)) =
            (self.ports.index(&router.interface), self.ports.address_index(slot, &router))
        else {
            return;
        };
        let settings = self.node.settings();
        let peer = settings.peer_link.zip(self.key.as_ref()).map(|(link, key)| PlanPeer {
            local: link.local,
            remote: link.remote,
            key: key.derive(common::key::KeyUse::PeerLink),
            node: settings.node.clone(),
            boot: self.node.boot(),
            echo: self.node.peer_boot(),
        });
        let plan = Plan {
            slot,
            interface,
            address_index: index,
            addresses: router.addresses.clone(),
            timeout,
            version: router.version,
            vrid: router.vrid,
            interval: router.interval,
            checksum: router.checksum,
            source,
            destination,
            signing_key: self.key.clone().filter(|_| router.auth != Auth::None),
            virtual_mac: router.virtual_mac,
            router: router.key(),
            peer,
        };
        self.warden.arm(&plan);
        self.warden.beat(slot, self.node.peer_stamp().max(clock::now().unix.as_nanos()));
    }
}
