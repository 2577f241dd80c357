//! Keeps the health that is reported to `vrrpd` and asked for by the API up to date.

use std::sync::Arc;
use std::time::Duration;

use common::ipc::LbdHealth;
use lbd_core::summary::{TargetsSeen, summarise};
use tokio::time::{Instant, MissedTickBehavior};

use crate::shared::Shared;
use crate::snapshot::{Service, Snapshot};

/// How often the workers are looked at. Changes of targets count at once. Whoever shares a processor with a worker keeps it waiting each
/// time.
const PERIOD: Duration = Duration::from_millis(200);

/// A worker that has not run for so long hangs.
const BEAT_MS_MAX: u64 = 500;

/// Updates `shared.health` for as long as the daemon runs, and beats systemd's watchdog.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut period = tokio::time::interval(PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watchdog = sd_notify::watchdog_enabled().map(|limit| limit / 3);
    let mut watchdog_at = Instant::now();
    let mut last_look = Instant::now();
    loop {
        tokio::select! {
            _ = period.tick() => {}
            () = shared.health_changed.notified() => {}
        }
        let now = Instant::now();
        // If this thread did not run for a while (a stopped process, a starved host), neither did the others, and their
        // beats say nothing before they had a chance.
        let late = now - last_look > 2 * PERIOD;
        last_look = now;
        if !late {
            update(&shared);
        }
        if let Some(every) = watchdog
            && now >= watchdog_at
        {
            crate::process::notify(&[sd_notify::NotifyState::Watchdog]);
            watchdog_at = now + every;
        }
    }
}

/// Computes the health now.
pub(crate) fn update(shared: &Shared) {
    let health = health(shared, &shared.snapshot.load());
    shared.health.send_if_modified(|current| {
        let changed = *current != health;
        if changed {
            tracing::info!(
                workers = health.workers_alive,
                of = health.workers_expected,
                services_without_targets = ?health.services_without_targets,
                "health changed"
            );
            *current = health;
        }
        changed
    });
}

fn health(shared: &Shared, snapshot: &Snapshot) -> LbdHealth {
    let now_ms = shared.clock.now_ms();
    // One that stops wants the VIPs to go elsewhere: it counts itself out.
    let runs = |beat_ms: u64| beat_ms != 0 && now_ms.saturating_sub(beat_ms) < BEAT_MS_MAX;
    let alive = if shared.is_stopping() {
        0
    } else {
        shared.workers.iter().filter(|worker| runs(worker.last_beat_ms())).count()
    };
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let services = snapshot.services.iter().map(|service| (service.config.name.as_str(), seen(service)));
    summarise(count(alive), count(shared.workers.len()), services)
}

/// What a service's targets look like.
pub(crate) fn seen(service: &Service) -> TargetsSeen {
    if service.groups().next().is_none() {
        // It answers by itself.
        return TargetsSeen { serving: true, undecided: false };
    }
    TargetsSeen::worst(service.groups().map(|group| TargetsSeen::of(group.states())))
}

/// Whether new connections are served as they should be: a worker runs and every service has a target that serves.
pub(crate) fn ready(shared: &Shared) -> Result<(), String> {
    if shared.is_stopping() {
        return Err("lbd is stopping".to_owned());
    }
    if shared.health.borrow().workers_alive == 0 {
        return Err("no worker thread runs".to_owned());
    }
    let snapshot = shared.snapshot.load();
    let lacking: Vec<&str> = snapshot
        .services
        .iter()
        .filter(|service| !seen(service).serving)
        .map(|service| service.config.name.as_str())
        .collect();
    if lacking.is_empty() {
        return Ok(());
    }
    Err(format!("no healthy target for {}", lacking.join(", ")))
}
