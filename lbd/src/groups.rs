//! Drives the target groups' state machines on the control runtime: their deadlines (ends of ejections and drains, steps of
//! slow starts), and the alarm of targets whose connections fail.

use std::sync::Arc;
use std::time::Duration;

use common::time::Instant;
use tokio::time::{sleep, sleep_until};

use crate::shared::Shared;

/// The alarm is looked at again only after this time: targets that fail with every connection must not keep the control
/// runtime busy.
const PACE: Duration = Duration::from_millis(5);

/// Runs for as long as the daemon does.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        match next_deadline(&shared) {
            None => shared.life.alarm.notify.notified().await,
            Some(left) => tokio::select! {
                () = shared.life.alarm.notify.notified() => {}
                () = sleep_until(tokio::time::Instant::now() + left) => {}
            },
        }
        step(&shared);
        sleep(PACE).await;
    }
}

/// The time until something is due.
fn next_deadline(shared: &Shared) -> Option<Duration> {
    let snapshot = shared.snapshot.load();
    let deadline: Option<Instant> = snapshot.groups.iter().filter_map(|group| group.deadline()).min();
    Some(deadline?.since(shared.clock.now().at))
}

/// Does what is due.
fn step(shared: &Shared) {
    let alarmed = shared.life.alarm.take();
    let now = shared.clock.now().at;
    let snapshot = shared.snapshot.load_full();
    let mut changed = false;
    for group in &snapshot.groups {
        changed |= alarmed && group.eject_failing(now);
        if group.deadline().is_some_and(|deadline| deadline <= now) {
            group.tick(now);
            changed = true;
        }
    }
    if changed {
        shared.health_changed.notify_one();
        shared.kernel.wake();
    }
}
