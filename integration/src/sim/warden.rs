//! The warden: the small process beside `vrrpd` that releases the addresses when `vrrpd` dies or hangs.

use common::config::Auth;
use common::key::{KeyUse, PairKey};
use common::time::{Duration, UnixTime};
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
    /// `vrrpd` tells the warden what to do for a virtual router that is about to get its addresses.
    pub(super) fn guard(&mut self, host: usize, slot: Slot) {
        let last_beat = self.local(host);
        let Some(node) = &self.hosts[host].node else { return };
        let Some(limit) = node.stall_limit(slot) else { return };
        let (peer_boot, peer_stamp) = (node.peer_boot(), node.peer_stamp());
        self.looks += 1;
        let look = self.looks;
        self.hosts[host].guarded.insert(slot, Guarded { last_beat, limit, look, peer_boot, peer_stamp });
        self.look_later(host, slot);
    }

    /// The end of a pass: the daemon is well.
    pub(super) fn beat(&mut self, host: usize) {
        let last_beat = self.local(host);
        let this = &mut self.hosts[host];
        let Some(node) = &this.node else { return };
        for guarded in this.guarded.values_mut() {
            guarded.last_beat = last_beat;
            (guarded.peer_boot, guarded.peer_stamp) = (node.peer_boot(), node.peer_stamp());
        }
    }

    fn look_later(&mut self, host: usize, slot: Slot) {
        let Some(guarded) = self.hosts[host].guarded.get(&slot) else { return };
        let (look, due) = (guarded.look, guarded.last_beat + guarded.limit);
        let late = self.rng.span(Duration::from_micros(10), Duration::from_millis(1));
        let at = self.moment(host, due).max(self.now) + late;
        self.push(at, Coming::Warden { host, slot, look });
    }

    /// Looks whether the beat of a virtual router is overdue.
    pub(super) fn warden_looks(&mut self, host: usize, slot: Slot, look: u64) {
        if self.hosts[host].machine != Machine::On || self.sabotage == Sabotage::NoWarden {
            return;
        }
        let now = self.local(host);
        let Some(guarded) = self.hosts[host].guarded.get(&slot).filter(|guarded| guarded.look == look) else {
            return;
        };
        if guarded.last_beat + guarded.limit > now {
            return self.look_later(host, slot);
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

    /// The word to the peer, priority 0, the addresses away, and the word again.
    fn resign(&mut self, host: usize, parting: &Parting) {
        let unix = self.hosts[host].clock.now(self.now).unix;
        let key = self.hosts[host].variant.pair_key();
        let link = self.hosts[host].variant.peer_link;
        let mut words = Vec::new();
        if let Some((key, (boot, guarded))) = key.clone().zip(parting.peer.clone()).filter(|_| link) {
            let mut sealer = Sealer::new(key.derive(KeyUse::PeerLink), NAMES[host], boot);
            sealer.raise_stamp(guarded.peer_stamp);
            for _ in 0..2 {
                let body = Body::Release { routers: vec![parting.settings.key()] };
                words.extend(sealer.seal(guarded.peer_boot, unix, body).ok());
            }
        }
        let mut words = words.into_iter();
        if let Some(word) = words.next() {
            self.peer_send(host, word);
        }
        if let Some(meta) = parting.meta {
            let bytes = farewell(&parting.settings, meta, key.as_ref(), unix);
            self.lan_send(host, Packet::Advert { meta, bytes });
        }
        self.remove_addresses(host, &parting.settings.advertised());
        for word in words {
            self.peer_send(host, word);
        }
    }
}

/// "I stop being active": the advertisement of priority 0.
fn farewell(settings: &RouterSettings, meta: Meta, key: Option<&PairKey>, unix: UnixTime) -> Vec<u8> {
    let advert = Advert {
        version: settings.version,
        vrid: settings.vrid,
        priority: 0,
        interval: settings.interval,
        addresses: settings.advertised(),
    };
    match key {
        Some(key) if settings.auth != Auth::None => {
            let mut signer = Signer::new(key);
            auth::emit_signed(&advert, meta.source, meta.destination, settings.checksum, &mut signer, unix)
        }
        _ => advert.emit(meta.source, meta.destination, settings.checksum),
    }
}
