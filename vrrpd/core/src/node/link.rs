//! The peer link: heartbeats out and in, and what follows from what the peer says.

use std::collections::BTreeMap;

use common::ipc::Role;
use common::key::KeyUse;
use common::time::{Duration, Instant};

use super::{Node, Slot};
use crate::auth::Verifier;
use crate::event::{Event, Reason};
use crate::peer::{Body, Heartbeat, Opener, RouterKey, RouterReport, Sealer, silence_limit};
use crate::router::PRIORITY_PROVISIONAL;
use crate::settings::{ROUTERS_MAX, Settings};
use crate::track::is_cut_off;

/// Advertisements that were sent and not heard, after which the LAN between the nodes counts as broken: as many as RFC 9568
/// waits for (three intervals), but counted, so that a late one is not taken for a lost one.
pub(super) const MISSED_MAX: u32 = 3;

/// Intervals without an advertisement before that: of three missed ones the first and the last are two apart.
const SILENT_INTERVALS_MIN: u32 = 2;

/// Heartbeats without its word that it is behind after which the peer is not: the word comes after the heartbeat, and one may be lost.
const BEATS_MAX: u32 = 3;

/// The most and the least time between heartbeats.
const HEARTBEAT_MAX: Duration = Duration::from_millis(100);
const HEARTBEAT_MIN: Duration = Duration::from_millis(10);

/// What the peer last said of one virtual router.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerView {
    pub(super) at: Instant,
    pub(super) role: Role,
    pub(super) severity: u8,
    /// The priority that it advertises, or would.
    priority: u8,
    adverts_sent: u64,
}

/// The link to the peer.
#[derive(Debug)]
pub(super) struct Link {
    sealer: Sealer,
    opener: Opener,
    next_heartbeat: Instant,
    pub(super) heard: Option<Heard>,
    /// Heartbeats since the peer last said that it is behind.
    beats_since_behind: u32,
    pub(super) alive: bool,
    /// Since when it is alive, in its present life.
    alive_since: Instant,
    pub(super) drops: BTreeMap<&'static str, u64>,
}

/// The last heartbeat.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) at: Instant,
    interval: Duration,
    pub(super) config_hash: u64,
    pub(super) version: String,
}

impl Link {
    pub(super) fn new(settings: &Settings, boot: u64, at: Instant) -> Option<Self> {
        settings.peer_link?;
        let key = settings.key.as_ref()?.derive(KeyUse::PeerLink);
        Some(Self {
            sealer: Sealer::new(key, &settings.node, boot),
            opener: Opener::new(key, &settings.peer, boot),
            next_heartbeat: at,
            heard: None,
            beats_since_behind: BEATS_MAX,
            alive: false,
            alive_since: at,
            drops: BTreeMap::new(),
        })
    }

    pub(super) fn deadline(&self) -> Instant {
        self.silent_at().filter(|_| self.alive).map_or(self.next_heartbeat, |at| at.min(self.next_heartbeat))
    }

    pub(super) const fn peer_boot(&self) -> u64 {
        self.opener.peer_boot()
    }

    fn silent_at(&self) -> Option<Instant> {
        self.heard.as_ref().map(|heard| heard.at + silence_limit(heard.interval))
    }
}

impl Node {
    pub(super) fn peer_alive(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.alive)
    }

    /// Whether the peer is alive and said that it stands by for the router: otherwise an offer would only cost time.
    pub(super) fn peer_can_take_over(&self, slot: Slot) -> bool {
        let view = self.entries.get(&slot).and_then(|entry| entry.peer);
        self.peer_alive() && view.is_some_and(|peer| matches!(peer.role, Role::Backup | Role::Active))
    }

    /// Whether the peer is alive and lacks connections that this node knows of. It says so with each heartbeat.
    pub(super) fn peer_is_behind(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.alive && link.beats_since_behind < BEATS_MAX)
    }

    /// The same, or the peer has been heard for so short a time that it may not have come to say it: it does so with other datagrams than
    /// those that say that it is there, and these count only once it has heard of this node.
    pub(super) fn peer_may_be_behind(&self) -> bool {
        let Some(link) = self.link.as_ref().filter(|link| link.alive) else { return false };
        let known_for = self.now.at.since(link.alive_since);
        let is_new = link.heard.as_ref().is_some_and(|heard| known_for < silence_limit(heard.interval));
        is_new || self.peer_is_behind()
    }

    /// Whether the peer has its role only until it hears this node: it lacks connections, and cannot tell whose port on the LAN is dead.
    pub(super) fn peer_is_provisional(&self, slot: Slot) -> bool {
        let peer = self.entries.get(&slot).and_then(|entry| entry.peer);
        let says_so = |peer: PeerView| peer.role == Role::Active && peer.priority == PRIORITY_PROVISIONAL;
        self.peer_may_be_behind() && peer.is_some_and(says_so)
    }

    /// Whether its last heartbeats have come: a peer that is dead must not be waited for longer than its advertisements.
    fn peer_beats(&self) -> bool {
        let heard = self.link.as_ref().and_then(|link| link.heard.as_ref());
        self.peer_alive() && heard.is_some_and(|heard| self.now.at.since(heard.at) <= heard.interval * 5 / 2)
    }

    /// Whether this node lacks connections that the peer knows of, which has the role, serves, and tells of them. Whether its `lbd` is there
    /// to tell is not known here; if it is not, the peer hands the role over at once, unless it does not hear this node, or a handover has just failed.
    pub(super) fn learns_from_peer(&self, slot: Slot) -> bool {
        let Some(entry) = self.entries.get(&slot) else { return false };
        let serves = |peer: PeerView| peer.role == Role::Active && !is_cut_off(peer.severity);
        // Silence that is put up with already has its own bound, and late heartbeats do not show that the peer is dead.
        let is_there = if entry.router.has_borne_silence() { self.peer_alive() } else { self.peer_beats() };
        self.behind && is_there && entry.peer.is_some_and(serves)
    }

    /// Tells the router whether the peer is alive, says that it is active, and serves: no worse than this node, or not well, but not cut off either.
    pub(super) fn note_rival(&mut self, slot: Slot) {
        let Some(entry) = self.entries.get(&slot) else { return };
        let own = self.severity_of(&entry.router.settings.instance);
        let is_rival = |peer: PeerView| {
            peer.role == Role::Active && (peer.severity <= own || !is_cut_off(peer.severity))
        };
        let rival = self.peer_alive() && entry.peer.is_some_and(is_rival);
        let has_left = entry.peer.is_some_and(|peer| peer.role != Role::Active);
        let at = self.now.at;
        if let Some(entry) = self.entries.get_mut(&slot) {
            entry.router.set_rival(at, rival);
            if has_left {
                entry.router.keep_role(at);
            }
        }
    }

    /// Whether the peer is alive and less healthy than this node.
    pub(super) fn peer_is_less_healthy(&self, slot: Slot) -> bool {
        let Some(entry) = self.entries.get(&slot) else { return false };
        let own = self.severity_of(&entry.router.settings.instance);
        self.peer_alive() && entry.peer.is_some_and(|peer| peer.severity > own)
    }

    /// The stamp of the last datagram sent to the peer; the warden's go above it.
    #[must_use]
    pub fn peer_stamp(&self) -> u64 {
        self.link.as_ref().map_or(0, |link| link.sealer.stamp())
    }

    pub(super) fn heartbeat_soon(&mut self) {
        if let Some(link) = &mut self.link {
            link.next_heartbeat = self.now.at;
        }
    }

    pub(super) fn send_peer(&mut self, body: Body) {
        let Some(link) = &mut self.link else { return };
        let echo = link.opener.peer_boot();
        match link.sealer.seal(echo, self.now.unix, body) {
            Ok(bytes) => self.actions.push_back(super::Action::SendPeer(bytes)),
            Err(_) => *link.drops.entry("unsendable").or_default() += 1,
        }
    }

    pub(super) fn heartbeat_interval(&self) -> Duration {
        let shortest = self.settings.routers().map(|router| router.interval).min().unwrap_or(HEARTBEAT_MAX);
        shortest.clamp(HEARTBEAT_MIN, HEARTBEAT_MAX)
    }

    pub(super) fn link_timeout(&mut self) {
        let at = self.now.at;
        let interval = self.heartbeat_interval();
        let Some(link) = &mut self.link else { return };
        if link.alive && link.silent_at().is_some_and(|silent| silent <= at) {
            link.alive = false;
            self.event(Event::PeerLink { alive: false });
        }
        let Some(link) = &mut self.link else { return };
        if link.next_heartbeat <= at {
            link.next_heartbeat = at + interval;
            self.send_heartbeat(interval);
        }
    }

    fn send_heartbeat(&mut self, interval: Duration) {
        let routers = self
            .entries
            .values()
            .map(|entry| RouterReport {
                router: entry.router.settings.key(),
                role: entry.router.role(),
                effective_priority: entry.router.advertised(),
                severity: self.severity_of(&entry.router.settings.instance),
                adverts_sent: entry.router.stats.adverts_sent,
            })
            .take(ROUTERS_MAX)
            .collect();
        self.send_peer(Body::Heartbeat(Heartbeat {
            version: self.settings.version.clone(),
            config_hash: self.settings.config_hash,
            interval_ms: u32::try_from(interval.as_millis()).unwrap_or(u32::MAX),
            routers,
        }));
        if self.behind {
            self.send_peer(Body::Behind);
        }
    }

    pub(super) fn peer_datagram(&mut self, bytes: &[u8]) {
        let Some(link) = &mut self.link else { return };
        let life = link.opener.peer_boot();
        let opened = link.opener.open(bytes);
        if opened.is_ok() && life != 0 && life != link.opener.peer_boot() {
            self.peer_restarted();
        }
        let Some(link) = &mut self.link else { return };
        match opened {
            Ok(Body::Heartbeat(heartbeat)) => self.heartbeat(heartbeat),
            Ok(Body::Behind) => link.beats_since_behind = 0,
            // What waited while we did not run may be long past. An offer that still stands is repeated, and a release that
            // was meant leaves silence behind.
            Ok(Body::Offer { .. } | Body::Release { .. }) if self.late => {}
            Ok(Body::Offer { router, id }) => self.offered(router, id),
            Ok(Body::Taken { router, id }) => {
                self.for_router(router, |node, slot| {
                    node.drive(slot, |router, at, out| router.taken(at, id, out));
                });
            }
            Ok(Body::Refused { router, id }) => {
                self.for_router(router, |node, slot| {
                    node.drive(slot, |router, at, out| router.refused(at, id, out));
                });
            }
            Ok(Body::Release { routers }) => {
                for router in routers.into_iter().take(ROUTERS_MAX) {
                    self.for_router(router, |node, slot| {
                        node.peer_gave_up(slot);
                        node.drive(slot, |router, at, out| router.take_over(at, Reason::Released, true, out));
                    });
                }
            }
            Err(error) => *link.drops.entry(error.name()).or_default() += 1,
        }
    }

    /// The peer's new life signs by the wall clock alone. If that was set back meanwhile, all it says on the LAN would count as
    /// replayed, and both nodes would be active until the clock has caught up.
    fn peer_restarted(&mut self) {
        let at = self.now.at;
        for entry in self.entries.values_mut() {
            entry.verifier = self.settings.key.as_ref().map(Verifier::new);
            // It begins to learn.
            entry.teach_until = None;
            // Whatever role it has now, it took after this node took its own.
            entry.router.keep_role(at);
        }
        if let Some(link) = &mut self.link {
            (link.alive_since, link.beats_since_behind) = (at, BEATS_MAX);
        }
    }

    fn for_router(&mut self, key: RouterKey, act: impl FnOnce(&mut Self, Slot)) {
        let found =
            self.entries.iter().find(|(_, entry)| entry.router.settings.key() == key).map(|(&slot, _)| slot);
        match (found, &mut self.link) {
            (Some(slot), _) => act(self, slot),
            (None, Some(link)) => *link.drops.entry("unknown_router").or_default() += 1,
            (None, None) => {}
        }
    }

    fn offered(&mut self, router: RouterKey, id: u64) {
        let mut accepted = false;
        if !self.stopping {
            self.for_router(router, |node, slot| {
                let took =
                    node.drive(slot, |router, at, out| router.take_over(at, Reason::Handover, true, out));
                accepted = took.unwrap_or(false);
            });
        }
        self.send_peer(if accepted { Body::Taken { router, id } } else { Body::Refused { router, id } });
    }

    fn heartbeat(&mut self, heartbeat: Heartbeat) {
        let at = self.now.at;
        let Some(link) = &mut self.link else { return };
        let first = !link.alive;
        if first {
            link.alive_since = at;
        }
        let same = link.heard.as_ref().is_some_and(|last| {
            last.config_hash == heartbeat.config_hash && last.version == heartbeat.version
        });
        link.alive = true;
        link.beats_since_behind = link.beats_since_behind.saturating_add(1);
        link.heard = Some(Heard {
            at,
            interval: Duration::from_millis(heartbeat.interval_ms.clamp(1, 60_000).into()),
            config_hash: heartbeat.config_hash,
            version: heartbeat.version.chars().take(32).collect(),
        });
        if first {
            self.event(Event::PeerLink { alive: true });
            self.heartbeat_soon();
        }
        let differs =
            heartbeat.config_hash != self.settings.config_hash || heartbeat.version != self.settings.version;
        if !same && differs {
            let config_hash = format!("{:016x}", heartbeat.config_hash);
            self.event(Event::PeerDiffers { config_hash, version: heartbeat.version });
        }
        for report in heartbeat.routers.into_iter().take(ROUTERS_MAX) {
            self.for_router(report.router, |node, slot| node.peer_report(slot, &report));
        }
    }

    /// What the peer says of one virtual router.
    fn peer_report(&mut self, slot: Slot, report: &RouterReport) {
        let at = self.now.at;
        let Some(entry) = self.entries.get_mut(&slot) else { return };
        let sent = entry.peer.map_or(0, |last| report.adverts_sent.saturating_sub(last.adverts_sent));
        if std::mem::take(&mut entry.heard_since_heartbeat) || self.late {
            entry.missed = 0;
        } else {
            entry.missed = entry.missed.saturating_add(u32::try_from(sent).unwrap_or(u32::MAX));
        }
        if report.role != Role::Active
            && entry.peer.is_some_and(|last| last.role == Role::Active)
            && entry.router.role() == Role::Active
        {
            // Both were active, and it may have announced later than we did.
            entry.router.announce_soon(at);
        }
        entry.peer = Some(PeerView {
            at,
            role: report.role,
            severity: report.severity,
            priority: report.effective_priority,
            adverts_sent: report.adverts_sent,
        });
        if report.role != Role::Active {
            entry.missed = 0;
            entry.router.end_deference(at);
        }
        self.note_rival(slot);
        self.take_over_from_lost_lan(slot);
    }

    /// The peer is alive and advertises, but nothing of it arrives: one of the two LAN ports is dead. RFC 9568 would wait for
    /// Active_Down_Timer; the peer link says earlier, and says more: who is the healthier side, and who still learns from the other one.
    fn take_over_from_lost_lan(&mut self, slot: Slot) {
        let Some(entry) = self.entries.get(&slot) else { return };
        // Heartbeats that were held up come in a bunch, and what the later ones report was heard before the first of them.
        let heard_at = entry.router.last_heard().map_or(entry.since.at, |heard| heard.at.max(entry.since.at));
        let silent = self.now.at.since(heard_at) >= entry.router.active_interval() * SILENT_INTERVALS_MIN;
        let lost = silent && entry.missed >= MISSED_MAX && entry.router.role() == Role::Backup;
        if !lost || self.stands_by(slot) || self.stopping {
            return;
        }
        let (learns, at) = (self.learns_from_peer(slot), self.now.at);
        let Some(entry) = self.entries.get_mut(&slot) else { return };
        if learns && entry.router.bears_silence(at) {
            return;
        }
        let settings = &entry.router.settings;
        let (instance, family) = (settings.instance.clone(), settings.family);
        self.event(Event::LanFault { instance, family });
        self.drive(slot, |router, at, out| router.take_over(at, Reason::LanFault, false, out));
    }

    /// The peer said that it is not active any more; its next heartbeat will say what it is.
    pub(super) fn peer_gave_up(&mut self, slot: Slot) {
        if let Some(peer) = self.entries.get_mut(&slot).and_then(|entry| entry.peer.as_mut()) {
            peer.role = Role::Init;
        }
    }

    /// Whether a backup leaves the role to a peer that serves and is healthier, even when its advertisements do not arrive. Only
    /// as long as its heartbeats do.
    pub(super) fn stands_by(&self, slot: Slot) -> bool {
        let Some(entry) = self.entries.get(&slot) else { return false };
        let own = self.severity_of(&entry.router.settings.instance);
        self.peer_beats() && entry.peer.is_some_and(|peer| peer.role == Role::Active && peer.severity < own)
    }
}
