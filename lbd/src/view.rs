//! What the API shows and `lbd status` prints. Fields are only ever added.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use common::ipc::Role;
use lbd_core::summary::TargetsSeen;
use serde::{Deserialize, Serialize};

use crate::clock::unix_now;
use crate::counters::Counter;
use crate::reload::hash_text;
use crate::shared::Shared;
use crate::snapshot::{Group, Service, Target};
use crate::summary;

/// `GET /v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    /// This node's name.
    pub(crate) node: String,
    /// The daemon's version.
    pub(crate) version: String,
    /// `running` or `stopping`.
    pub(crate) state: String,
    /// Whether new connections are served as they should be.
    pub(crate) ready: bool,
    /// Why not, if not.
    pub(crate) reason: Option<String>,
    /// Seconds since the daemon started.
    pub(crate) uptime_seconds: u64,
    /// The configuration file.
    pub(crate) config_file: String,
    /// The first 8 bytes of its SHA-256, in hexadecimal; equal on both nodes if they run the same file.
    pub(crate) config_hash: String,
    /// Configurations applied since the start, the first one included.
    pub(crate) config_generation: u64,
    /// Worker threads that run, and that there should be.
    pub(crate) workers_alive: u32,
    /// Worker threads there should be.
    pub(crate) workers_expected: u32,
    /// Client connections open now.
    pub(crate) connections_open: u64,
    /// Whether `vrrpd` is connected.
    pub(crate) vrrpd_connected: bool,
    /// This node's role for each instance, as `vrrpd` says.
    pub(crate) roles: BTreeMap<String, Role>,
    /// As `GET /v1/services`.
    pub(crate) services: Vec<ServiceView>,
    /// As `GET /v1/target-groups`.
    pub(crate) target_groups: Vec<GroupView>,
}

/// An entry of `GET /v1/services`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ServiceView {
    /// Its name.
    pub(crate) name: String,
    /// Its mode.
    pub(crate) mode: String,
    /// Where it listens.
    pub(crate) listen: Vec<SocketAddr>,
    /// The target group that serves it.
    pub(crate) target_group: String,
    /// Targets that take new connections.
    pub(crate) targets_serving: usize,
    /// All targets of the group.
    pub(crate) targets: usize,
    /// Connections open now.
    pub(crate) connections_open: u32,
    /// The most that may be open.
    pub(crate) connections_max: u32,
    /// Connections admitted since the start.
    pub(crate) connections_total: u64,
    /// Connections closed at once because too many were open.
    pub(crate) refused_over_limit: u64,
    /// Connections reset because no target could be reached.
    pub(crate) refused_no_target: u64,
    /// Connects tried again on another target.
    pub(crate) connect_retries: u64,
    /// Bytes from clients to targets.
    pub(crate) bytes_to_target: u64,
    /// Bytes from targets to clients.
    pub(crate) bytes_to_client: u64,
}

/// An entry of `GET /v1/target-groups`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct GroupView {
    /// Its name.
    pub(crate) name: String,
    /// How a target is chosen.
    pub(crate) algorithm: String,
    /// Its targets.
    pub(crate) targets: Vec<TargetView>,
}

/// A target.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TargetView {
    /// Its name.
    pub(crate) id: String,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Its share, 0 to 256.
    pub(crate) weight: u16,
    /// `healthy`, `unhealthy`, `undecided` (first check under way), `unchecked` (no check: counts as healthy) or `removed`.
    pub(crate) health: String,
    /// When that changed last, in milliseconds since the Unix epoch.
    pub(crate) since_unix_ms: u64,
    /// The last check.
    pub(crate) last_check: Option<CheckView>,
    /// Connections open now.
    pub(crate) connections_open: u64,
    /// Connections made since the start.
    pub(crate) connections_total: u64,
    /// Connects that failed or timed out.
    pub(crate) connect_failures: u64,
}

/// How a check went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CheckView {
    /// `ok`, or what went wrong.
    pub(crate) result: String,
    /// How long it took, in microseconds.
    pub(crate) latency_us: u64,
    /// When it ended, in milliseconds since the Unix epoch.
    pub(crate) at_unix_ms: u64,
}

/// The whole status.
pub(crate) fn status(shared: &Shared) -> Status {
    let snapshot = shared.snapshot.load_full();
    let health = shared.health.borrow().clone();
    let vrrpd = shared.vrrpd.borrow().clone();
    let ready = summary::ready(shared);
    Status {
        node: shared.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state: if shared.is_stopping() { "stopping" } else { "running" }.to_owned(),
        ready: ready.is_ok(),
        reason: ready.err(),
        uptime_seconds: unix_now().distance(shared.started).as_secs(),
        config_file: shared.config_file.display().to_string(),
        config_hash: hash_text(snapshot.config.hash),
        config_generation: snapshot.generation,
        workers_alive: health.workers_alive,
        workers_expected: health.workers_expected,
        connections_open: shared.open_connections(),
        vrrpd_connected: vrrpd.connected,
        roles: vrrpd.roles,
        services: services(shared),
        target_groups: groups(shared),
    }
}

/// All services.
pub(crate) fn services(shared: &Shared) -> Vec<ServiceView> {
    shared.snapshot.load().services.iter().map(|service| service_view(service)).collect()
}

/// All target groups.
pub(crate) fn groups(shared: &Shared) -> Vec<GroupView> {
    shared.snapshot.load().groups.iter().map(|group| group_view(shared, group)).collect()
}

fn service_view(service: &Service) -> ServiceView {
    let counters = &service.shared.counters;
    let serving = service.group.states().filter(|&state| TargetsSeen::of([state]).serving).count();
    ServiceView {
        name: service.config.name.clone(),
        mode: service.config.mode.name().to_owned(),
        listen: service.config.listen.iter().map(|listen| listen.address).collect(),
        target_group: service.group.config.name.clone(),
        targets_serving: serving,
        targets: service.group.targets.len(),
        connections_open: service.shared.open.open(),
        connections_max: service.config.limits.max_connections,
        connections_total: counters.sum(|shard| &shard.admitted),
        refused_over_limit: counters.sum(|shard| &shard.over_limit),
        refused_no_target: counters.sum(|shard| &shard.no_target),
        connect_retries: counters.sum(|shard| &shard.retries),
        bytes_to_target: counters.sum(|shard| &shard.bytes_to_target),
        bytes_to_client: counters.sum(|shard| &shard.bytes_to_client),
    }
}

fn group_view(shared: &Shared, group: &Group) -> GroupView {
    let live = group.config.targets.iter().zip(&group.targets);
    let mut targets: Vec<TargetView> =
        live.map(|(config, target)| target_view(target, config.weight, false)).collect();
    // Removed ones are shown as long as connections to them go on.
    let removed = shared.removed();
    let removed = removed
        .iter()
        .filter(|target| target.key.group == group.config.name && target.close_at_ms() != u64::MAX);
    targets
        .extend(removed.map(|target| target_view(target, 0, true)).filter(|view| view.connections_open > 0));
    GroupView {
        name: group.config.name.clone(),
        algorithm: group.config.algorithm.name().to_owned(),
        targets,
    }
}

fn target_view(target: &Target, weight: u16, removed: bool) -> TargetView {
    let record = target.record();
    let check = record.last.as_ref().map(|last| CheckView {
        result: last.failure.clone().unwrap_or_else(|| "ok".to_owned()),
        latency_us: u64::try_from(last.latency.as_micros()).unwrap_or(u64::MAX),
        at_unix_ms: last.at.as_millis(),
    });
    let counters = &target.counters;
    let sum = |pick: fn(&crate::counters::TargetCounters) -> &Counter| counters.sum(pick);
    TargetView {
        id: target.key.id.clone(),
        address: target.key.address,
        weight,
        health: if removed { "removed" } else { record.state().name() }.to_owned(),
        since_unix_ms: record.since.as_millis(),
        last_check: check,
        connections_open: sum(|shard| &shard.open),
        connections_total: sum(|shard| &shard.connected),
        connect_failures: sum(|shard| &shard.connect_errors)
            .wrapping_add(sum(|shard| &shard.connect_timeouts)),
    }
}
