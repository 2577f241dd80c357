//! The configuration as the workers use it: one immutable snapshot, and the parts that live on from one to the next.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::config::{self, Config};
use common::time::UnixTime;
use lbd_core::admission::ConnectionCount;
use lbd_core::connect::RetryPolicy;
use lbd_core::health::{HealthState, HealthTracker, Thresholds};
use lbd_core::target::TargetKey;

use crate::counters::{Counter, ServiceCounters, Sharded, TargetCounters};

/// One configuration, ready for use. Never changed, only replaced as a whole.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Counts up with each reload.
    pub(crate) generation: u64,
    /// What it was made from.
    pub(crate) config: Arc<Config>,
    /// In the file's order.
    pub(crate) services: Vec<Arc<Service>>,
    /// In the file's order.
    pub(crate) groups: Vec<Arc<Group>>,
    /// The service that listens on an address.
    pub(crate) by_address: HashMap<SocketAddr, Arc<Service>>,
}

/// A service, and its group.
#[derive(Debug)]
pub(crate) struct Service {
    /// What the file says.
    pub(crate) config: config::Service,
    /// What serves it.
    pub(crate) group: Arc<Group>,
    /// What lives on over reloads, as long as the name stays.
    pub(crate) shared: Arc<ServiceShared>,
}

/// The part of a service that reloads keep.
#[derive(Debug)]
pub(crate) struct ServiceShared {
    /// Connections open now.
    pub(crate) open: ConnectionCount,
    /// What the workers count.
    pub(crate) counters: Sharded<ServiceCounters>,
}

/// A target group.
#[derive(Debug)]
pub(crate) struct Group {
    /// What the file says.
    pub(crate) config: config::TargetGroup,
    /// How connects are tried again.
    pub(crate) retry: RetryPolicy,
    /// In the order of `config.targets`.
    pub(crate) targets: Vec<Arc<Target>>,
}

impl Group {
    /// The targets' weights and states, for the core.
    pub(crate) fn states(&self) -> impl Iterator<Item = (u16, HealthState)> + '_ {
        self.config
            .targets
            .iter()
            .zip(&self.targets)
            .map(|(config, target)| (config.weight, target.record().state()))
    }
}

/// A target, which lives on over reloads as long as group, id and address stay.
#[derive(Debug)]
pub(crate) struct Target {
    /// What names it.
    pub(crate) key: TargetKey,
    /// What the workers count.
    pub(crate) counters: Sharded<TargetCounters>,
    /// Checks that succeeded and failed; written by the control runtime.
    pub(crate) checks: [Counter; 2],
    serving: AtomicBool,
    /// On the process's clock: when its connections are closed, because it was removed; `u64::MAX` for a live one.
    close_at_ms: AtomicU64,
    record: Mutex<TargetRecord>,
}

/// What the control runtime knows of a target's health.
#[derive(Debug)]
pub(crate) struct TargetRecord {
    tracker: HealthTracker,
    /// When the state changed last.
    pub(crate) since: UnixTime,
    /// The last check.
    pub(crate) last: Option<LastCheck>,
}

impl TargetRecord {
    /// The state now.
    pub(crate) fn state(&self) -> HealthState {
        self.tracker.state()
    }
}

/// How the last check of a target went.
#[derive(Clone, Debug)]
pub(crate) struct LastCheck {
    /// The failure, none for a success.
    pub(crate) failure: Option<String>,
    /// How long it took.
    pub(crate) latency: Duration,
    /// When it ended.
    pub(crate) at: UnixTime,
}

impl Target {
    fn new(key: TargetKey, thresholds: Option<Thresholds>, workers: usize, now: UnixTime) -> Self {
        let tracker = HealthTracker::new(thresholds);
        Self {
            key,
            counters: Sharded::new(workers),
            checks: [Counter::default(), Counter::default()],
            serving: AtomicBool::new(tracker.state().serves()),
            close_at_ms: AtomicU64::new(u64::MAX),
            record: Mutex::new(TargetRecord { tracker, since: now, last: None }),
        }
    }

    /// Whether new connections may go there; what the workers read.
    pub(crate) fn serving(&self) -> bool {
        self.serving.load(Ordering::Relaxed)
    }

    /// The health record. Only the control runtime locks it.
    pub(crate) fn record(&self) -> MutexGuard<'_, TargetRecord> {
        // Nothing panics half way through a change of the record, so a poisoned one is whole.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a check's result. Answers the new state if it changed.
    pub(crate) fn record_check(&self, check: LastCheck) -> Option<HealthState> {
        let mut record = self.record();
        let success = check.failure.is_none();
        self.checks[usize::from(!success)].add(1);
        let changed = record.tracker.record(success);
        if let Some(state) = changed {
            record.since = check.at;
            self.serving.store(state.serves(), Ordering::Relaxed);
        }
        record.last = Some(check);
        changed
    }

    fn reconfigure(&self, thresholds: Option<Thresholds>, now: UnixTime) {
        let mut record = self.record();
        if let Some(state) = record.tracker.reconfigure(thresholds) {
            record.since = now;
            self.serving.store(state.serves(), Ordering::Relaxed);
        }
        if thresholds.is_none() {
            record.last = None;
        }
    }

    /// When its connections are closed; `u64::MAX` for a target of the configuration.
    pub(crate) fn close_at_ms(&self) -> u64 {
        self.close_at_ms.load(Ordering::Relaxed)
    }

    /// Has its connections closed at this time of the process's clock, or never with `u64::MAX`.
    pub(crate) fn set_close_at_ms(&self, at_ms: u64) {
        self.close_at_ms.store(at_ms, Ordering::Relaxed);
    }
}

/// What a new snapshot takes over from the time before it.
#[derive(Default)]
pub(crate) struct Carry {
    /// Services by name.
    pub(crate) services: HashMap<String, Arc<ServiceShared>>,
    /// Targets of the snapshot and removed ones whose connections still go on.
    pub(crate) targets: HashMap<TargetKey, Arc<Target>>,
    /// The generation of the snapshot before.
    pub(crate) generation: u64,
}

impl Carry {
    /// What `snapshot` and the removed targets hand on.
    pub(crate) fn from(snapshot: &Snapshot, removed: &[Arc<Target>]) -> Self {
        let shared = |service: &Arc<Service>| (service.config.name.clone(), Arc::clone(&service.shared));
        let live = snapshot.groups.iter().flat_map(|group| &group.targets);
        Self {
            services: snapshot.services.iter().map(shared).collect(),
            targets: removed
                .iter()
                .chain(live)
                .map(|target| (target.key.clone(), Arc::clone(target)))
                .collect(),
            generation: snapshot.generation,
        }
    }
}

impl Snapshot {
    /// Builds the snapshot of `config`. Nothing that is in use changes before [`Snapshot::adopt`].
    pub(crate) fn build(config: Arc<Config>, carry: &Carry, workers: usize, now: UnixTime) -> Self {
        let groups: Vec<Arc<Group>> = config
            .target_groups
            .iter()
            .map(|group| Arc::new(build_group(group, carry, workers, now)))
            .collect();
        let by_name: HashMap<&str, &Arc<Group>> =
            groups.iter().map(|group| (group.config.name.as_str(), group)).collect();
        let mut services = Vec::with_capacity(config.services.len());
        let mut by_address = HashMap::new();
        for service in &config.services {
            // A valid configuration forwards to its own groups only.
            let Some(&group) = by_name.get(service.forward.as_str()) else { continue };
            let shared = carry.services.get(&service.name).map_or_else(
                || {
                    Arc::new(ServiceShared {
                        open: ConnectionCount::default(),
                        counters: Sharded::new(workers),
                    })
                },
                Arc::clone,
            );
            let built = Arc::new(Service { config: service.clone(), group: Arc::clone(group), shared });
            by_address.extend(service.listen.iter().map(|listen| (listen.address, Arc::clone(&built))));
            services.push(built);
        }
        drop(by_name);
        Self { generation: carry.generation + 1, config, services, groups, by_address }
    }

    /// Applies to the targets what the new configuration says about their checks, and takes those back that a former
    /// reload had removed.
    pub(crate) fn adopt(&self, now: UnixTime) {
        for group in &self.groups {
            for target in &group.targets {
                target.reconfigure(thresholds(&group.config), now);
                target.set_close_at_ms(u64::MAX);
            }
        }
    }

    /// Every address listened on.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.by_address.keys().copied()
    }
}

fn build_group(group: &config::TargetGroup, carry: &Carry, workers: usize, now: UnixTime) -> Group {
    let target = |target: &config::Target| {
        let key = TargetKey { group: group.name.clone(), id: target.id.clone(), address: target.address };
        carry
            .targets
            .get(&key)
            .map_or_else(|| Arc::new(Target::new(key.clone(), thresholds(group), workers, now)), Arc::clone)
    };
    Group {
        config: group.clone(),
        retry: RetryPolicy { connect: group.retry.connect, attempts: group.retry.attempts },
        targets: group.targets.iter().map(target).collect(),
    }
}

fn thresholds(group: &config::TargetGroup) -> Option<Thresholds> {
    let health = group.health.as_ref()?;
    Some(Thresholds { healthy: health.healthy_threshold, unhealthy: health.unhealthy_threshold })
}
