//! What is heard on the LAN: advertisements, and claims of addresses.

use std::net::IpAddr;

use common::config::{Auth, VrrpVersion};
use common::ipc::Role;

use super::{Entry, Node};
use crate::event::Event;
use crate::neighbor::{self, SightingKind};
use crate::packet::{Advert, Family, Meta};
use crate::router::Heard;

/// Where the VRID stands in a message, in both versions.
const VRID_AT: usize = 1;

impl Node {
    /// RFC 9568 §7.1: what "MUST verify" fails is dropped and counted under its reason.
    pub(super) fn advert(&mut self, interface: &str, meta: &Meta, bytes: &[u8]) {
        let family = Family::of(meta.source);
        let Some(&vrid) = bytes.get(VRID_AT) else { return self.drop_unmatched("truncated") };
        let matching = self.entries.iter_mut().find(|(_, entry)| {
            let settings = &entry.router.settings;
            settings.interface == interface && settings.family == family && settings.vrid == vrid
        });
        let Some((&slot, entry)) = matching else { return self.drop_unmatched("unknown_vrid") };
        if entry.router.source() == Some(meta.source) {
            return entry.drop_advert("own");
        }
        // Even if it is dropped: the port of whoever sent it passes what it sends.
        entry.router.heard_peer();
        let settings = &entry.router.settings;
        let parsed = match Advert::parse(bytes, meta, settings.version) {
            Ok(parsed) => parsed,
            Err(error) => return entry.drop_advert(error.name()),
        };
        let signed = !parsed.trailer.is_empty();
        let verify = settings.auth == Auth::Hmac || (settings.auth == Auth::Permissive && signed);
        if verify {
            // `check` refuses signing without a key; should it happen all the same, nothing is taken on trust.
            let Some(verifier) = &mut entry.verifier else { return entry.drop_advert("auth_no_key") };
            if let Err(error) = verifier.verify(&parsed, family, meta, self.now.unix) {
                return entry.drop_advert(error.name());
            }
        }
        let advert = &parsed.advert;
        // RFC 3768 §7.1: "MUST verify that the Adver Interval in the packet is the same as the locally configured".
        // RFC 9568 §7.1: "A receiver SHOULD also verify that the Max Advertise Interval in the received VRRP packet matches the
        // Advertisement_Interval configured for the VRID"; it is learned all the same.
        if advert.interval != settings.interval {
            match settings.version {
                VrrpVersion::V2 => return entry.drop_advert("interval_mismatch"),
                VrrpVersion::V3 => entry.drop_advert("interval_mismatch_accepted"),
            }
        }
        // RFC 9568 §7.1, erratum 8298: "It SHOULD verify that the local router is not the IPvX address owner (Priority = 255
        // (decimal)) and log the event". To drop it, as first published, would leave two owners deaf to each other.
        if entry.router.settings.is_owner() {
            entry.drop_advert("heard_as_owner_accepted");
        }
        let settings = &entry.router.settings;
        // RFC 9568 §7.1: "A receiver MAY also verify that "IPvX Addr Count" and the list of IPvX address(es) match the IPvX
        // address(es) configured for the VRID"; a mismatch is only counted.
        if !settings.addresses.is_empty() && advert.addresses != settings.advertised() {
            entry.drop_advert("address_list_mismatch_accepted");
        }
        // RFC 9568 §5.2.9 wants it of the sender; FRR lists what it is configured with, and is to be understood.
        if parsed.check_first_address().is_err() {
            entry.drop_advert("first_address_not_link_local_accepted");
        }
        entry.missed = 0;
        entry.heard_since_heartbeat = true;
        let provisional = self.peer_is_provisional(slot);
        let heard = Heard {
            at: self.now.at,
            priority: advert.priority,
            interval: advert.interval,
            source: meta.source,
            provisional,
        };
        if heard.priority == 0 {
            self.peer_gave_up(slot);
            self.note_rival(slot);
        }
        let learns = self.learns_from_peer(slot);
        self.drive(slot, |router, _, out| router.advert(heard, learns, out));
    }

    /// Someone else's claim of an address we hold, or the gateway's sign of life.
    pub(super) fn frame(&mut self, interface: &str, bytes: &[u8]) {
        let Some(sighting) = neighbor::parse_frame(bytes) else { return };
        for health in &mut self.health {
            health.seen(interface, sighting.ip);
        }
        if self.is_own_mac(interface, sighting.mac) {
            return;
        }
        self.note_speaker(interface, sighting.ip);
        if sighting.kind == SightingKind::Request {
            return;
        }
        for slot in self.slot_list() {
            let Some(entry) = self.entries.get_mut(&slot) else { continue };
            let settings = &entry.router.settings;
            let ours = settings.interface == interface
                && settings.addresses.iter().any(|net| net.addr() == sighting.ip);
            // During a handover the peer announces what is still ours: that is the plan.
            if !ours || entry.router.role() != Role::Active || entry.router.in_transition() {
                continue;
            }
            let (instance, family) = (settings.instance.clone(), settings.family);
            entry.router.stats.conflicts += 1;
            entry.claims += 1;
            let reported = entry.claims.is_power_of_two();
            // A router that is to give way does not contend for the addresses, either.
            if !entry.router.is_provisional() {
                entry.router.announce_soon(self.now.at);
            }
            // A station that keeps claiming would fill the log: report ever more rarely, the counter has them all.
            if reported {
                let mac = sighting.mac.map(|byte| format!("{byte:02x}")).join(":");
                self.event(Event::Conflict { instance, family, address: sighting.ip, mac });
            }
        }
    }

    /// Tells the routers on the interface whether it was the peer that was heard there, with an address that only it may have beside this node or that
    /// its advertisements came from, or somebody else. As long as none has come, a speaker may be either, and nothing follows. Not those of the other family: a switch may
    /// pass broadcasts to this port, and not know yet that it listens to a group.
    fn note_speaker(&mut self, interface: &str, ip: IpAddr) {
        let (at, family) = (self.now.at, Family::of(ip));
        let hears = |entry: &Entry| {
            let settings = &entry.router.settings;
            settings.interface == interface && settings.family == family
        };
        let has = |entry: &Entry| entry.router.settings.addresses.iter().any(|net| net.addr() == ip);
        let is_virtual = self.entries.values().any(|entry| hears(entry) && has(entry));
        for entry in self.entries.values_mut().filter(|entry| hears(entry)) {
            let router = &mut entry.router;
            let last = router.last_heard();
            if is_virtual || last.is_some_and(|heard| heard.source == ip) {
                router.heard_peer();
            } else if last.is_some() {
                router.heard_others(at);
            }
        }
    }

    fn is_own_mac(&self, interface: &str, mac: [u8; 6]) -> bool {
        let own = self.interfaces.get(interface).is_some_and(|state| state.mac == mac);
        let virtual_one = self.entries.values().any(|entry| {
            let settings = &entry.router.settings;
            settings.virtual_mac
                && settings.interface == interface
                && neighbor::virtual_mac(settings.family, settings.vrid) == mac
        });
        own || virtual_one
    }

    fn drop_unmatched(&mut self, reason: &'static str) {
        *self.unmatched_drops.entry(reason).or_default() += 1;
    }
}
