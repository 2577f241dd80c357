//! The other end of the peer link, as a script.

use common::ipc::Role;
use common::key::KeyUse;
use vrrpd_core::node::{Action, Input};
use vrrpd_core::packet::Family;
use vrrpd_core::peer::{Body, Heartbeat, Opener, RouterKey, RouterReport, Sealer};

use super::{BOOT, INSTANCE, Lab, key};

/// The peer's life.
const PEER_BOOT: u64 = 2;

/// Node `b`.
pub(crate) struct Peer {
    sealer: Sealer,
    opener: Opener,
    /// Told in the next heartbeat.
    pub(crate) report: RouterReport,
    pub(crate) config_hash: u64,
    pub(crate) version: &'static str,
}

impl Peer {
    /// A healthy backup of the IPv4 router.
    pub(crate) fn new() -> Self {
        Self::in_life(PEER_BOOT)
    }

    /// The same, started anew.
    pub(crate) fn restarted() -> Self {
        Self::in_life(PEER_BOOT + 1)
    }

    fn in_life(boot: u64) -> Self {
        let secret = key().derive(KeyUse::PeerLink);
        Self {
            sealer: Sealer::new(secret, "b", boot),
            opener: Opener::new(secret, "a", boot),
            report: RouterReport {
                router: RouterKey::new(INSTANCE, Family::V4),
                role: Role::Backup,
                effective_priority: 100,
                severity: 0,
                adverts_sent: 0,
            },
            config_hash: 0xc0ffee,
            version: "1",
        }
    }

    /// The router both speak of.
    pub(crate) const fn router(&self) -> RouterKey {
        self.report.router
    }

    pub(crate) fn datagram(&mut self, lab: &Lab, body: Body) -> Vec<u8> {
        self.sealer.seal(BOOT, lab.unix(), body).unwrap()
    }

    pub(crate) fn say(&mut self, lab: &mut Lab, body: Body) -> Vec<Action> {
        let bytes = self.datagram(lab, body);
        lab.input(Input::Peer(&bytes))
    }

    pub(crate) fn beat(&mut self, lab: &mut Lab) -> Vec<Action> {
        let heartbeat = Heartbeat {
            version: self.version.to_owned(),
            config_hash: self.config_hash,
            interval_ms: 100,
            routers: vec![self.report.clone()],
        };
        self.say(lab, Body::Heartbeat(heartbeat))
    }

    /// A heartbeat of a node that is behind.
    pub(crate) fn beat_behind(&mut self, lab: &mut Lab) -> Vec<Action> {
        let mut actions = self.beat(lab);
        actions.extend(self.say(lab, Body::Behind));
        actions
    }

    /// A heartbeat that says this role and severity.
    pub(crate) fn beat_as(&mut self, lab: &mut Lab, role: Role, severity: u8) -> Vec<Action> {
        self.report.role = role;
        self.report.severity = severity;
        self.beat(lab)
    }

    /// What among `actions` reaches the peer; each datagram once.
    pub(crate) fn hear(&mut self, actions: &[Action]) -> Vec<Body> {
        let datagram = |action: &Action| match action {
            Action::SendPeer(bytes) => Some(bytes.clone()),
            _ => None,
        };
        actions.iter().filter_map(datagram).map(|bytes| self.opener.open(&bytes).unwrap()).collect()
    }

    /// The same without heartbeats.
    pub(crate) fn hear_words(&mut self, actions: &[Action]) -> Vec<Body> {
        let mut bodies = self.hear(actions);
        bodies.retain(|body| !matches!(body, Body::Heartbeat(_)));
        bodies
    }
}
