//! The graceful stop: hand the VIPs over, accept what is queued, let connections end, then close what is left.

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::ipc::{CATCH_UP_MAX, Role};
use tokio::time::{Instant, sleep, timeout};

use crate::shared::Shared;
use crate::summary;
use crate::worker::{Command, Workers};

/// How long `vrrpd` gets to move the VIPs to the other node before this one stops accepting. Where that may lack connections, `vrrpd` first
/// waits for it.
const HANDOVER_MAX: Duration = Duration::from_secs(2);

/// How long open connections may go on, if their addresses are still here: there is no other node, or it did not take over. Those whose
/// virtual IPs moved have their group's `drain_timeout`.
const GRACE: Duration = Duration::from_secs(30);

/// How long the workers get to accept what is queued and to close their sockets.
const UNLISTEN_MAX: Duration = Duration::from_secs(1);

/// How long closing everything may take.
const CLOSE_MAX: Duration = Duration::from_millis(500);

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Stops; dropping the future stops at once. Answers how many connections had to be closed.
pub(crate) async fn gracefully(shared: &Shared, workers: &Workers) -> u64 {
    shared.stopping.store(true, Ordering::Relaxed);
    summary::update(shared);
    hand_over(shared).await;
    workers.send_all(|| Command::UnlistenAll).await;
    until(UNLISTEN_MAX, || shared.listening() == 0).await;
    let (open, grace) = (shared.open_connections(), grace(shared));
    if open > 0 {
        tracing::info!(open, ?grace, "waiting for open connections to end");
    }
    until(grace, || shared.open_connections() == 0).await;
    let left = shared.open_connections();
    if left > 0 {
        tracing::warn!(connections = left, "closing the connections that have not ended");
        close(shared, workers).await;
    }
    left
}

/// Closes all connections, so that the access log has each of them.
pub(crate) async fn close(shared: &Shared, workers: &Workers) {
    workers.send_all(|| Command::CloseAll).await;
    until(CLOSE_MAX, || shared.open_connections() == 0).await;
}

/// Waits until this node is active for no instance. `vrrpd` has just been told that no worker is left here.
async fn hand_over(shared: &Shared) {
    let mut vrrpd = shared.vrrpd.subscribe();
    // Whether it does lack any is for the other node to say.
    let limit = if shared.peer.replicates() { CATCH_UP_MAX + HANDOVER_MAX } else { HANDOVER_MAX };
    let gone = vrrpd.wait_for(|view| !view.roles.values().any(|&role| role == Role::Active));
    if timeout(limit, gone).await.is_err() {
        tracing::warn!("the other node did not take over in time; stopping all the same");
    }
}

/// How long open connections may go on.
fn grace(shared: &Shared) -> Duration {
    /// Until all have been looked at, and closed.
    const SWEPT: Duration = Duration::from_secs(2);
    let roles = &shared.vrrpd.borrow().roles;
    let config = &shared.snapshot.load().config;
    let moved = !roles.is_empty() && !roles.values().any(|&role| role == Role::Active);
    let timeouts = config.target_groups.iter().map(|group| group.drain_timeout);
    // Without the other node sending on what is for them, they are dead already.
    let longest = timeouts.max().filter(|_| moved && shared.chance.knows_the_other_node());
    longest.map_or(GRACE, |longest| longest + SWEPT)
}

/// Waits until `reached` says yes, or the time is over.
pub(crate) async fn until(limit: Duration, reached: impl Fn() -> bool) {
    let end = Instant::now() + limit;
    while !reached() && Instant::now() < end {
        sleep(LOOK).await;
    }
}
