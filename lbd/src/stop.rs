//! The graceful stop: hand the VIPs over, accept what is queued, let connections end, then close what is left.

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::config::Vrrp;
use common::ipc::{CATCH_UP_MAX, Role};
use lbd_core::stop::{self, GRACE, Standing};
use tokio::time::{Instant, sleep, timeout};

use crate::l4::Closing;
use crate::shared::Shared;
use crate::summary;
use crate::worker::{Command, Workers};

/// How long `vrrpd` gets to move the VIPs to the other node before this one stops accepting. Where that may lack connections, `vrrpd` first
/// waits for it.
const HANDOVER_MAX: Duration = Duration::from_secs(2);

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
    let (open, begin) = (shared.open_connections(), Instant::now());
    if open > 0 {
        let at_most = elsewhere(shared).map_or(GRACE, |longest| longest.max(GRACE));
        tracing::info!(open, ?at_most, "waiting for open connections to end");
    }
    until(GRACE, || shared.open_connections() == 0).await;
    let open = shared.open_connections();
    if open > 0
        && let Some(longest) = elsewhere(shared)
    {
        tracing::info!(
            open,
            "closing the connections whose addresses are here; those of virtual IPs that have left go on"
        );
        workers.send_all(|| Command::Close(Closing::Here)).await;
        until(longest.saturating_sub(begin.elapsed()), || shared.open_connections() == 0).await;
    }
    let left = shared.open_connections();
    if left > 0 {
        tracing::warn!(connections = left, "closing the connections that have not ended");
        close(shared, workers).await;
    }
    left
}

/// Closes all connections, so that the access log has each of them.
pub(crate) async fn close(shared: &Shared, workers: &Workers) {
    workers.send_all(|| Command::Close(Closing::All)).await;
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

/// How long open connections of virtual IPs that have left may go on, if there are any.
fn elsewhere(shared: &Shared) -> Option<Duration> {
    let roles = &shared.vrrpd.borrow().roles;
    let config = &shared.snapshot.load().config;
    let standing = |vrrp: &Vrrp| Standing {
        role: roles.get(&vrrp.name).copied(),
        left: shared.departures.of(&vrrp.name).is_away(),
    };
    let timeouts = config.target_groups.iter().map(|group| group.drain_timeout);
    stop::elsewhere(config.vrrp.iter().map(standing), shared.chance.knows_the_other_node(), timeouts)
}

/// Waits until `reached` says yes, or the time is over.
pub(crate) async fn until(limit: Duration, reached: impl Fn() -> bool) {
    let end = Instant::now() + limit;
    while !reached() && Instant::now() < end {
        sleep(LOOK).await;
    }
}
