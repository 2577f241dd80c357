//! A node's state for the status.

use std::collections::BTreeMap;

use common::ipc::Role;
use common::time::Duration;

use super::{Entry, Node};
use crate::settings::InstanceSettings;
use crate::status::{Count, InstanceStatus, NodeStatus, PeerLinkStatus, RouterStatus};
use crate::track::effective_priority;

impl Node {
    /// The state as of the last input.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        let tracked = self.settings.instances.iter().any(|instance| instance.track.lbd);
        let lbd = match &self.lbd {
            _ if !tracked => "untracked",
            state if state.down() => "down",
            state if state.degraded() || !state.services_without_targets().is_empty() => "degraded",
            _ => "healthy",
        };
        NodeStatus {
            node: self.settings.node.clone(),
            peer: self.settings.peer.clone(),
            config_hash: format!("{:016x}", self.settings.config_hash),
            peer_link: self.peer_link_status(),
            maintenance: self.maintenance,
            lbd,
            behind: self.behind,
            instances: self
                .settings
                .instances
                .iter()
                .map(|instance| self.instance_status(instance))
                .collect(),
            unmatched_drops: counts(&self.unmatched_drops),
            peer_drops: self.link.as_ref().map(|link| counts(&link.drops)).unwrap_or_default(),
        }
    }

    /// The role of an instance: that of its virtual routers if they agree; else `fault` if one is, else `backup`.
    #[must_use]
    pub fn instance_role(&self, instance: &str) -> Option<Role> {
        let mut roles = self.entries_of(instance).map(|entry| entry.router.role());
        let first = roles.next()?;
        Some(roles.fold(first, |all, role| match (all, role) {
            (all, role) if all == role => all,
            (Role::Fault, _) | (_, Role::Fault) => Role::Fault,
            _ => Role::Backup,
        }))
    }

    fn entries_of<'a>(&'a self, instance: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.entries.values().filter(move |entry| entry.router.settings.instance == instance)
    }

    fn peer_link_status(&self) -> PeerLinkStatus {
        let Some(link) = &self.link else { return PeerLinkStatus::default() };
        let heard = link.heard.as_ref();
        PeerLinkStatus {
            configured: true,
            alive: link.alive,
            behind: self.peer_is_behind(),
            last_heard_ms_ago: heard.map(|heard| millis(self.now.at.since(heard.at))),
            config_hash: heard.map(|heard| format!("{:016x}", heard.config_hash)),
            same_config: heard.map(|heard| heard.config_hash == self.settings.config_hash),
            version: heard.map(|heard| heard.version.clone()),
            same_version: heard.map(|heard| heard.version == self.settings.version),
        }
    }

    fn instance_status(&self, settings: &InstanceSettings) -> InstanceStatus {
        let ailments =
            self.health.iter().find(|health| health.name == settings.name).map(|health| &health.ailments);
        let severity = ailments.map_or(0, crate::track::Ailments::severity);
        let first = settings.routers.first();
        let since = self.entries_of(&settings.name).map(|entry| entry.since.unix).max().unwrap_or_default();
        InstanceStatus {
            name: settings.name.clone(),
            role: self.instance_role(&settings.name).unwrap_or_default(),
            since_unix_ms: since.as_millis(),
            interface: settings.interface.clone(),
            vrid: first.map_or(0, |router| router.vrid),
            priority: settings.priority,
            effective_priority: first.map_or(settings.priority, |router| {
                effective_priority(settings.priority, router.lowest_priority, severity)
            }),
            reasons: ailments.map(crate::track::Ailments::reasons).unwrap_or_default(),
            vips: settings.vips.iter().map(ToString::to_string).collect(),
            routers: self.entries_of(&settings.name).map(|entry| self.router_status(entry)).collect(),
        }
    }

    fn router_status(&self, entry: &Entry) -> RouterStatus {
        let router = &entry.router;
        let heard = router.last_heard();
        RouterStatus {
            family: router.settings.family,
            role: router.role(),
            from_silence: router.is_from_silence(),
            provisional: router.is_provisional(),
            source: router.source(),
            advert_interval_ms: millis(router.settings.interval),
            active_interval_ms: millis(router.active_interval()),
            last_advert_from: heard.map(|heard| heard.source),
            last_advert_priority: heard.map(|heard| heard.priority),
            last_advert_ms_ago: heard.map(|heard| millis(self.now.at.since(heard.at))),
            peer_role: entry.peer.filter(|_| self.peer_alive()).map(|peer| peer.role),
            transitions: router.stats.transitions,
            adverts_sent: router.stats.adverts_sent,
            adverts_received: router.stats.adverts_received,
            announcements: router.stats.announcements,
            conflicts: router.stats.conflicts,
            drops: counts(&entry.drops),
            adverts_late: router.stats.adverts_late,
            lateness_us: micros(router.stats.lateness),
            lateness_max_us: micros(router.stats.lateness_max),
        }
    }
}

fn counts(map: &BTreeMap<&'static str, u64>) -> Vec<Count> {
    map.iter().map(|(&reason, &count)| Count { reason, count }).collect()
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
