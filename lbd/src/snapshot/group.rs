//! A target group: what the workers choose from, and the part of it that decides about health, which reloads keep.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::balance::{Candidates, Member, Plan};
use common::config::{self, Config};
use common::time::{Duration, Instant, Now};
use lbd_core::check::Reason;
use lbd_core::group::{self, EjectSettings, Event, Mode, Roster, Settings, Spec};
use lbd_core::health::{HealthState, Thresholds};

use super::{Carry, LastCheck, Stickiness, Target};
use crate::clock::ms_of;
use crate::counters::{Counter, GroupCounters, Sharded};
use crate::l4::Queue;
use crate::tls::Origin;

/// How long connections go on that no group serves, once their virtual IP has left.
const NOBODY_DRAIN_TIMEOUT: Duration = Duration::from_secs(300);

/// A target group.
#[derive(Debug)]
pub(crate) struct Group {
    /// What the file says, with all targets: the file's, the discovered and the added ones, of the weights in force.
    pub(crate) config: config::TargetGroup,
    /// In the order of `config.targets`.
    pub(crate) targets: Vec<Arc<Target>>,
    /// How one of them is chosen.
    pub(crate) plan: Arc<Plan>,
    /// How clients come back to their target.
    pub(crate) sticky: Option<Stickiness>,
    /// How connections to targets are encrypted, if they are.
    pub(crate) tls: Option<Arc<Origin>>,
    /// What lives on over reloads, as long as the name stays.
    pub(crate) shared: Arc<GroupShared>,
    settings: Settings,
    specs: Vec<Spec>,
    /// What the API and the discovery have said, without what this configuration has made pointless.
    roster: Roster,
}

/// The part of a group that reloads keep.
#[derive(Debug)]
pub(crate) struct GroupShared {
    /// Which targets get what; none before the first configuration is in force. Only the control runtime and the link's thread lock it.
    state: Mutex<Option<group::Group>>,
    roster: Mutex<Roster>,
    panics: AtomicBool,
    /// Connections that wait for a target with room.
    pub(crate) queue: Arc<Queue>,
    /// What the workers count.
    pub(crate) counters: Sharded<GroupCounters>,
    /// Checks of its targets that failed, also of those that have left it, by [`Reason`]. Written by the control runtime.
    pub(crate) check_failures: [Counter; Reason::COUNT],
}

impl GroupShared {
    fn new(workers: usize) -> Self {
        Self {
            state: Mutex::new(None),
            roster: Mutex::default(),
            panics: AtomicBool::new(false),
            queue: Arc::default(),
            counters: Sharded::new(workers),
            check_failures: Default::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<group::Group>> {
        // The core's inputs end or have no effect; a poisoned state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the API and the discovery have said about who belongs to the group.
    pub(crate) fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Candidates for Group {
    fn len(&self) -> usize {
        self.targets.len()
    }

    fn share(&self, index: usize) -> u32 {
        let target = &self.targets[index];
        if target.is_full() { 0 } else { target.share() }
    }

    fn load(&self, index: usize) -> u32 {
        self.targets[index].open_now.open()
    }
}

impl Group {
    /// Connections to its targets that wait for the next request.
    pub(crate) fn kept(&self) -> u64 {
        self.targets.iter().map(|target| target.counters.sum(|shard| &shard.kept)).sum()
    }

    /// Builds the group of a configuration. Nothing that is in use changes before [`Self::adopt`].
    ///
    /// One that is as before is the one of before: connections hold on to the group they began with, which is large.
    pub(super) fn build(file: &config::TargetGroup, config: &Config, carry: &Carry) -> Arc<Self> {
        let before = carry.groups.get(&file.name);
        let fresh = || Arc::new(GroupShared::new(carry.life.workers));
        let shared = before.map_or_else(fresh, |it| Arc::clone(&it.shared));
        let mut roster = shared.roster().clone();
        // A group that no longer asks for them has no use for what was found.
        roster.settle(&file.targets, file.discover.is_none().then(Vec::new));
        let merged = roster.merge(&file.targets);
        let specs: Vec<Spec> = merged.iter().map(spec).collect();
        let mut group = file.clone();
        group.targets = merged;
        if let Some(state) = &*shared.lock() {
            let overrides = state.weight_overrides();
            for target in &mut group.targets {
                target.weight = overrides.get(target.id.as_str()).copied().unwrap_or(target.weight);
            }
        }
        let targets = group.targets.iter().map(|target| carry.target(&group.name, target)).collect();
        let plan = plan(&group, before.map(|it| &**it), carry);
        let sticky = group.sticky.clone().map(|settings| {
            let before = before.and_then(|it| it.sticky.as_ref());
            let keyed = (group.name.as_str(), &carry.hash_key);
            Stickiness::new(settings, keyed, &group.targets, before, &carry.life.bell)
        });
        let built = Self {
            settings: settings(&group, zone_of(config, &carry.life.node)),
            config: group,
            targets,
            plan,
            sticky,
            tls: carry.tls.group(&file.name),
            shared,
            specs,
            roster,
        };
        match before {
            Some(before) if before.is_as(&built) && carry.hash_key_before == Some(carry.hash_key) => {
                Arc::clone(before)
            }
            _ => Arc::new(built),
        }
    }

    /// Whether nothing differs that a connection, the checks or the API could see.
    fn is_as(&self, other: &Self) -> bool {
        let pairs = || self.targets.iter().zip(&other.targets);
        self.config == other.config
            && self.settings == other.settings
            && self.specs == other.specs
            && self.roster == other.roster
            && Arc::ptr_eq(&self.plan, &other.plan)
            && self.tls.as_ref().map(Arc::as_ptr) == other.tls.as_ref().map(Arc::as_ptr)
            && self.targets.len() == other.targets.len()
            && pairs().all(|(one, other)| Arc::ptr_eq(one, other))
    }

    /// A group without targets, for a service that forwards to none.
    pub(super) fn nobody(config: &Config, carry: &Carry) -> Arc<Self> {
        let file = config::TargetGroup {
            name: String::new(),
            algorithm: config::Algorithm::default(),
            hash_by: config::HashBy::default(),
            targets: Vec::new(),
            discover: None,
            health: None,
            eject: None,
            panic_percent: 0,
            sticky: None,
            slow_start: Duration::ZERO,
            drain_timeout: NOBODY_DRAIN_TIMEOUT,
            retry: config::Retry::NEVER,
            queue: None,
            keep_alive: config::KeepAlive::default(),
            send_proxy: None,
            cross_zone: true,
            tls: None,
            http2: false,
        };
        Self::build(&file, config, carry)
    }

    /// Puts the group in force: its targets get the shares that it gives them.
    pub(super) fn adopt(&self, now: Now) {
        *self.shared.roster() = self.roster.clone();
        let threshold = self.config.eject.map_or(0, |eject| eject.consecutive_failures);
        for (index, (target, config)) in self.targets.iter().zip(&self.config.targets).enumerate() {
            target.set_index(index);
            target.set_limits(config.max_connections.unwrap_or(u32::MAX), threshold);
            target.set_keep_alive(self.config.keep_alive);
            if self.config.health.is_none() {
                target.set_last_check(None);
            }
        }
        if let Some(sticky) = &self.sticky {
            sticky.adopt();
        }
        let mut state = self.shared.lock();
        match &mut *state {
            Some(state) => state.configure(now, self.settings.clone(), self.specs.clone()),
            none => *none = Some(group::Group::new(now, self.settings.clone(), self.specs.clone())),
        }
        self.publish(&mut state);
    }

    /// Whether too few targets are usable, so that all are used.
    pub(crate) fn panics(&self) -> bool {
        self.shared.panics.load(Ordering::Relaxed)
    }

    /// From where its targets are taken now.
    pub(crate) fn mode(&self) -> Mode {
        self.shared.lock().as_ref().map_or(Mode::None, group::Group::mode)
    }

    /// Whether each target may be used as far as it is not a matter of its checks, and what those say; for the core.
    pub(crate) fn states(&self) -> Vec<(bool, HealthState)> {
        self.shared.lock().as_ref().map(|state| state.seen().collect()).unwrap_or_default()
    }

    /// What the API shows of each target.
    pub(crate) fn views(&self, now: Instant) -> Vec<Option<group::View>> {
        let state = self.shared.lock();
        let view = |index| state.as_ref().and_then(|state| state.view(now, index));
        (0..self.targets.len()).map(view).collect()
    }

    /// The same of one target.
    pub(crate) fn view(&self, now: Instant, index: usize) -> Option<group::View> {
        self.shared.lock().as_ref().and_then(|state| state.view(now, index))
    }

    /// When something is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.shared.lock().as_ref().and_then(group::Group::deadline)
    }

    /// Takes a check's result of one of its targets. Answers whether anything has changed by it.
    pub(crate) fn record_check(&self, now: Now, target: &Target, check: LastCheck) -> bool {
        let Some(index) = self.index_of(target) else { return false };
        let success = check.failure.is_none();
        target.set_last_check(Some(check));
        let mut state = self.shared.lock();
        let changed = state.as_mut().and_then(|state| state.record_check(now, index, success)).is_some();
        // Nearly all checks change nothing, and there are many: none of them is to go through all targets.
        if changed {
            self.publish(&mut state);
        }
        changed
    }

    /// Takes what an administrator wants of a target.
    pub(crate) fn set(
        &self,
        now: Instant,
        index: usize,
        admin: Option<group::Admin>,
        weight: Option<Option<u16>>,
    ) {
        self.with(|state| {
            if let Some(admin) = admin {
                state.set_admin(now, index, admin);
            }
            if let Some(weight) = weight {
                state.set_weight(now, index, weight);
            }
        });
    }

    /// Shows what administrators want of each target, and the weight that they gave it.
    pub(crate) fn each_said(&self, mut visit: impl FnMut(&str, group::Admin, Option<u16>)) {
        if let Some(state) = &*self.shared.lock() {
            state.said().for_each(|(id, admin, weight)| visit(id, admin, weight));
        }
    }

    /// Ejects the targets whose connections have failed too often.
    pub(crate) fn eject_failing(&self, now: Instant) -> bool {
        let mut changed = false;
        for (index, target) in self.targets.iter().enumerate() {
            if target.take_reached() {
                changed |= self.with(|state| state.eject(now, index)).unwrap_or(false);
            }
        }
        changed
    }

    /// Does what is due.
    pub(crate) fn tick(&self, now: Instant) {
        self.with(|state| state.tick(now));
    }

    fn index_of(&self, target: &Target) -> Option<usize> {
        let index = target.index();
        let same = self.targets.get(index).is_some_and(|known| known.key == target.key);
        if same { Some(index) } else { self.targets.iter().position(|known| known.key == target.key) }
    }

    /// Hands the state something in, and publishes what comes of it.
    fn with<T>(&self, input: impl FnOnce(&mut group::Group) -> T) -> Option<T> {
        let mut state = self.shared.lock();
        let answer = state.as_mut().map(input);
        self.publish(&mut state);
        answer
    }

    /// Makes the shares known to the workers, and what has happened to people.
    fn publish(&self, state: &mut Option<group::Group>) {
        let Some(state) = state else { return };
        for (index, target) in self.targets.iter().enumerate() {
            target.set_share(state.share(index));
            target.set_failed(state.failed(index));
            target.set_close_at_ms(state.close_at(index).map_or(u64::MAX, ms_of));
            if let Some(health) = state.health(index) {
                target.set_health(health);
            }
        }
        self.shared.panics.store(state.mode() == Mode::Panic, Ordering::Relaxed);
        // Who waits for a place may find one where there was none to be had.
        self.shared.queue.place_free();
        for event in state.take_events() {
            self.tell(&event);
        }
    }

    fn tell(&self, event: &Event) {
        let name = |index: &usize| self.targets.get(*index);
        match event {
            Event::Mode { from, to: to_mode } => {
                let (group, from, to) = (&self.config.name, from.name(), to_mode.name());
                if *to_mode == Mode::Panic {
                    let what = "panic: too few targets are usable, all are used whatever their checks say";
                    tracing::warn!(group, from, "{what}");
                } else {
                    tracing::info!(group, from, to, "the group's mode has changed");
                }
            }
            Event::Health { target, state } => {
                let Some(target) = name(target) else { return };
                match target.last_check().and_then(|check| check.failure) {
                    None => tracing::info!(target = %target.key, "target is {}", state.name()),
                    Some(failure) => {
                        tracing::warn!(target = %target.key, failure, "target is {}", state.name());
                    }
                }
            }
            Event::Ejected { target, time, in_a_row } => {
                let Some(target) = name(target) else { return };
                target.forget_failures();
                let failure = target.last_failure().name();
                tracing::warn!(target = %target.key, failure, ?time, in_a_row, "target is ejected");
            }
            Event::Returned { target } => {
                let Some(target) = name(target) else { return };
                target.forget_failures();
                tracing::info!(target = %target.key, "target is back after its ejection");
            }
            Event::Drained { target } => {
                let Some(target) = name(target) else { return };
                let open = target.open_now.open();
                tracing::info!(target = %target.key, open, "drain_timeout has passed, connections are closed");
            }
        }
    }
}

/// The plan of a group; that of the group before if nothing has changed that it depends on.
fn plan(group: &config::TargetGroup, before: Option<&Group>, carry: &Carry) -> Arc<Plan> {
    let same = |before: &&Group| {
        let (old, new) = (&before.config.targets, &group.targets);
        let pairs = || old.iter().zip(new);
        before.config.algorithm == group.algorithm
            && carry.hash_key_before == Some(carry.hash_key)
            && old.len() == new.len()
            && pairs().all(|(old, new)| old.id == new.id && old.weight == new.weight)
    };
    before.filter(same).map_or_else(
        || {
            let members: Vec<Member<'_>> =
                group.targets.iter().map(|target| Member { id: &target.id, weight: target.weight }).collect();
            Arc::new(Plan::new(group.algorithm, &members, &carry.hash_key))
        },
        |before| Arc::clone(&before.plan),
    )
}

fn spec(target: &config::Target) -> Spec {
    Spec {
        id: target.id.clone(),
        address: target.address,
        weight: target.weight,
        backup: target.backup,
        zone: target.zone.clone(),
    }
}

/// The zone that this node is in, if it says so.
fn zone_of(config: &Config, node: &str) -> Option<String> {
    config.lone_node().or_else(|| config.node(node))?.zone.clone()
}

fn settings(group: &config::TargetGroup, zone: Option<String>) -> Settings {
    Settings {
        thresholds: group.health.as_ref().map(|health| Thresholds {
            healthy: health.healthy_threshold,
            unhealthy: health.unhealthy_threshold,
        }),
        eject: group.eject.map(|eject| EjectSettings {
            base: eject.base,
            max: eject.max,
            max_percent: eject.max_percent,
        }),
        panic_percent: group.panic_percent,
        slow_start: group.slow_start,
        drain_timeout: group.drain_timeout,
        zone: if group.cross_zone { None } else { zone },
    }
}
