//! A new configuration: the difference is applied, roles stay.

use ipnet::IpNet;

use super::health::InstanceHealth;
use super::link::Link;
use super::{Action, Node, Slot};
use crate::auth::{Signer, Verifier};
use crate::event::{Event, Reason};
use crate::router::Router;
use crate::settings::{RouterSettings, Settings};
use common::ipc::Role;

impl Node {
    pub(super) fn reconfigure(&mut self, settings: Settings) {
        if self.stopping {
            return;
        }
        let old = std::mem::replace(&mut self.settings, settings);
        let new_key = old.key != self.settings.key;
        if new_key {
            self.signer = self.settings.key.as_ref().map(Signer::new);
        }
        // The ends' addresses are the shell's matter. A link replaced for them would forget which datagrams it has seen.
        if new_key
            || old.peer_link.is_some() != self.settings.peer_link.is_some()
            || old.peer != self.settings.peer
            || old.node != self.settings.node
        {
            self.link = Link::new(&self.settings, self.boot, self.now.at);
        }
        self.replace_health();
        if !self.behind_is_told {
            self.set_behind(self.settings.replicates);
        }
        let wanted: Vec<RouterSettings> = self.settings.routers().cloned().collect();
        self.remove_routers_not_in(&wanted);
        // Between what is about the former routers and what is about the present ones: the shell takes these from here on.
        self.actions.push_back(Action::Routers);
        let mut started = Vec::new();
        for settings in wanted {
            match self.slot_of(&settings) {
                Some(slot) => self.update_router(slot, settings, new_key),
                None => started.extend(self.add_router(settings)),
            }
        }
        for slot in started {
            let interface = self.entries.get(&slot).map(|entry| entry.router.settings.interface.clone());
            self.apply_interface(slot, &interface.unwrap_or_default());
        }
        self.event(Event::Reloaded { config_hash: format!("{:016x}", self.settings.config_hash) });
        self.heartbeat_soon();
    }

    fn replace_health(&mut self) {
        let at = self.now.at;
        let mut old = std::mem::take(&mut self.health);
        self.health = self
            .settings
            .instances
            .iter()
            .map(|instance| {
                let mut health = InstanceHealth::new(instance, at);
                if let Some(index) = old.iter().position(|health| health.name == instance.name) {
                    health.inherit(old.swap_remove(index));
                }
                health
            })
            .collect();
    }

    fn slot_of(&self, settings: &RouterSettings) -> Option<Slot> {
        let same = |entry: &super::Entry| entry.router.settings.same_router(settings);
        self.entries.iter().find(|(_, entry)| same(entry)).map(|(&slot, _)| slot)
    }

    fn remove_routers_not_in(&mut self, wanted: &[RouterSettings]) {
        for slot in self.slot_list() {
            let Some(entry) = self.entries.get(&slot) else { continue };
            if !wanted.iter().any(|settings| entry.router.settings.same_router(settings)) {
                self.drive(slot, |router, _, out| router.stop(Reason::Removed, out));
                self.entries.remove(&slot);
            }
        }
    }

    /// Applies new settings in place; an active router's addresses change at once.
    fn update_router(&mut self, slot: Slot, settings: RouterSettings, new_key: bool) {
        let at = self.now.at;
        let Some(entry) = self.entries.get_mut(&slot) else { return };
        if new_key {
            entry.verifier = self.settings.key.as_ref().map(Verifier::new);
        }
        let before = entry.router.settings.addresses.clone();
        let after = settings.addresses.clone();
        Router::reconfigure(&mut entry.router, settings, at);
        if entry.router.role() != Role::Active {
            return;
        }
        let only_in = |these: &[IpNet], others: &[IpNet]| -> Vec<IpNet> {
            these.iter().filter(|net| !others.contains(net)).copied().collect()
        };
        let (removed, added) = (only_in(&before, &after), only_in(&after, &before));
        if !removed.is_empty() {
            self.actions.push_back(Action::RemoveAddresses { slot, addresses: removed });
        }
        if !added.is_empty() {
            self.actions.push_back(Action::AddAddresses { slot, addresses: added });
            self.drive(slot, |router, at, out| router.announce_now(at, out));
        }
        // The warden is to know the new addresses and interval.
        self.actions.push_back(Action::Guard { slot, active: true });
    }
}
