//! The warden: the small process beside `vrrpd` that releases the addresses when `vrrpd` dies or hangs.

use common::key::KeyUse;
use common::time::Duration;
use vrrpd_core::auth::{self, Signer};
use vrrpd_core::node::{Node, Slot};
use vrrpd_core::packet::{Advert, Meta};
use vrrpd_core::peer::{Body, Sealer};
use vrrpd_core::settings::RouterSettings;

use super::host::{Guarded, Machine};
use super::network::Packet;
use super::sabotage::Sabotage;
use super::variant::NAMES;
use super::world::{Coming, World};

/// What the warden knows of a virtual router: enough to resign for it without `vrrpd`.
#[derive(Clone, Debug)]
pub(super) struct Parting {
    settings: RouterSettings,
    meta: Option<Meta>,
    peer: Option<(u64, Guarded)>,
}

impl World {
    /// `vrrpd` tells the warden that it is alive, and what has to be known to act in its place.
    pub(super) fn beat(&mut self, host: usize, slot: Slot) {
        let last_beat = self.local(host);
        let Some(node) = &self.hosts[host].node else { return };
        let Some(limit) = node.stall_limit(slot) else { return };
        let (peer_boot, peer_stamp) = (node.peer_boot(), node.peer_stamp());
        self.hosts[host].guarded.insert(slot, Guarded { last_beat, limit, peer_boot, peer_stamp });
        let at = self.moment(host, last_beat + limit);
        let late = self.rng.span(Duration::from_micros(10), Duration::from_millis(1));
        let life = self.hosts[host].life;
        self.push(at + late, Coming::Warden { host, life, slot });
    }

    /// Looks whether the beat of a virtual router is overdue.
    pub(super) fn warden_looks(&mut self, host: usize, slot: Slot) {
        if self.hosts[host].machine != Machine::On || self.sabotage == Sabotage::NoWarden {
            return;
        }
        let now = self.local(host);
        let overdue = self.hosts[host]
            .guarded
            .get(&slot)
            .is_some_and(|guarded| guarded.last_beat + guarded.limit <= now);
        if !overdue {
            return;
        }
        let Some(parting) = self.parting(host, slot) else { return };
        self.trace.note(self.now, || format!("{}: the warden fires for {slot}", NAMES[host]));
        self.hosts[host].guarded.remove(&slot);
        self.hosts[host].fired.insert(slot);
        self.resign(host, &parting);
        self.kick(host);
    }

    /// What the warden would do for a virtual router.
    fn parting(&self, host: usize, slot: Slot) -> Option<Parting> {
        let this = &self.hosts[host];
        let node: &Node = this.node.as_ref()?;
        let settings = node.slots().find(|(found, _)| *found == slot)?.1.clone();
        let meta = node.source(slot).zip(node.destination(slot)).map(|(source, destination)| Meta {
            source,
            destination,
            hop_limit: 255,
        });
        let peer = this.guarded.get(&slot).map(|guarded| (node.boot(), guarded.clone()));
        Some(Parting { settings, meta, peer })
    }

    /// What the warden will do for everything it guards once its pipe closes.
    pub(super) fn partings(&self, host: usize) -> Vec<(Slot, Parting)> {
        let slots = self.hosts[host].guarded.keys();
        slots.filter_map(|&slot| self.parting(host, slot).map(|parting| (slot, parting))).collect()
    }

    /// `vrrpd` died: the warden acts for all it guards.
    pub(super) fn warden_inherits(&mut self, host: usize, slots: Vec<(Slot, Parting)>) {
        match self.hosts[host].machine {
            Machine::On if self.sabotage != Sabotage::NoWarden => {}
            // It acts as soon as the machine goes on.
            Machine::Paused => {
                return self.push_in(Duration::from_millis(1), Coming::Orphaned { host, slots });
            }
            _ => return,
        }
        for (slot, parting) in slots {
            self.trace.note(self.now, || format!("{}: the warden releases {slot}", NAMES[host]));
            self.resign(host, &parting);
        }
    }

    /// Addresses away first, so that the successor never shares them; then priority 0, then the word to the peer.
    fn resign(&mut self, host: usize, parting: &Parting) {
        let Parting { settings, meta, peer } = parting;
        self.remove_addresses(host, &settings.advertised());
        let unix = self.hosts[host].clock.now(self.now).unix;
        let key = self.hosts[host].variant.pair_key();
        if let Some(meta) = *meta {
            let advert = Advert {
                version: settings.version,
                vrid: settings.vrid,
                priority: 0,
                interval: settings.interval,
                addresses: settings.advertised(),
            };
            let (from, to) = (meta.source, meta.destination);
            let bytes = match &key {
                Some(key) if settings.auth != common::config::Auth::None => {
                    auth::emit_signed(&advert, from, to, settings.checksum, &mut Signer::new(key), unix)
                }
                _ => advert.emit(from, to, settings.checksum),
            };
            self.lan_send(host, Packet::Advert { meta, bytes });
        }
        let Some((key, (boot, guarded))) = key.zip(peer.clone()) else { return };
        if !self.hosts[host].variant.peer_link {
            return;
        }
        let mut sealer = Sealer::new(key.derive(KeyUse::PeerLink), NAMES[host], boot);
        sealer.raise_stamp(guarded.peer_stamp);
        for _ in 0..2 {
            let body = Body::Release { routers: vec![settings.key()] };
            if let Ok(bytes) = sealer.seal(guarded.peer_boot, unix, body) {
                self.peer_send(host, bytes);
            }
        }
    }
}
