//! The graceful stop: hand the VIPs over, let handshakes come to their end, accept what is queued, let connections end, then close what is left,
//! and let the kernel deliver it.

use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::config::{Mode, Vrrp};
use common::ipc::{CATCH_UP_MAX, Role};
use lbd_core::chance::{LINGER, plan};
use lbd_core::stop::{self, DELIVERY, GRACE, Standing};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use crate::l4::Closing;
use crate::l4::kernel::{States, connections_at};
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

/// How long neighbours may take to note that a virtual IP is elsewhere, of which they are told by gratuitous ARP as it moves.
const NOTED: Duration = Duration::from_millis(200);

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// The pause between times that the kernel is asked for connections, for which it looks at all that it has.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// Stops; dropping the future stops at once. Answers how many connections had to be closed.
pub(crate) async fn gracefully(shared: &Shared, workers: &Workers) -> u64 {
    let owned = owned(shared);
    shared.stopping.store(true, Ordering::Relaxed);
    summary::update(shared);
    hand_over(shared).await;
    finish_handshakes(shared, workers, departed(shared, &owned)).await;
    workers.send_all(|| Command::UnlistenAllBut(Arc::default())).await;
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
    // The other node sends on what is for them for as long as this one says that it has any.
    until_none(DELIVERY, departed(shared, &owned), States::ENDING, "what the kernel has yet to deliver")
        .await;
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

/// The instances that this node is active for.
fn owned(shared: &Shared) -> BTreeSet<String> {
    let roles = &shared.vrrpd.borrow().roles;
    let active = roles.iter().filter(|(_, role)| **role == Role::Active);
    active.map(|(name, _)| name.clone()).collect()
}

/// Where connections are accepted at virtual IPs that have left, those of the instances `owned` before included, if the other node sends on
/// what comes there for this one.
fn departed(shared: &Shared, owned: &BTreeSet<String>) -> BTreeSet<SocketAddr> {
    if !shared.chance.knows_the_other_node() {
        return BTreeSet::new();
    }
    let roles = &shared.vrrpd.borrow().roles;
    let is_elsewhere = |name: &str| {
        // What was here a moment ago is written down by another thread, which may not have come to it yet.
        let left = owned.contains(name) || shared.departures.of(name).is_away();
        Standing { role: roles.get(name).copied(), left }.is_elsewhere()
    };
    let places = plan::places(&shared.snapshot.load().config, &shared.life.node);
    let elsewhere = places.into_iter().filter(|(name, _)| is_elsewhere(name));
    elsewhere.flat_map(|(_, place)| place.addresses).collect()
}

/// Closes all listeners but those of virtual IPs that have left, until no handshake is under way there. What ends one comes by the other node now,
/// and without a listener it would be answered with a reset.
async fn finish_handshakes(shared: &Shared, workers: &Workers, departed: BTreeSet<SocketAddr>) {
    let listeners: HashSet<SocketAddr> = {
        let snapshot = shared.snapshot.load();
        snapshot.addresses(Mode::Tcp).filter(|at| stop::listens_at(*at, &departed)).collect()
    };
    if listeners.is_empty() {
        return;
    }
    let listeners = Arc::new(listeners);
    workers.send_all(|| Command::UnlistenAllBut(Arc::clone(&listeners))).await;
    // What neighbours send before they have taken note of the move is still this node's to accept.
    sleep(NOTED).await;
    until_none(LINGER, departed, States::BEGINNING, "handshakes that are under way").await;
}

/// Waits until the kernel has no connections in these states at these addresses, or the time is over.
async fn until_none(limit: Duration, addresses: BTreeSet<SocketAddr>, states: States, what: &str) {
    if addresses.is_empty() {
        return;
    }
    let (addresses, end) = (Arc::new(addresses), Instant::now() + limit);
    let mut said = false;
    while Instant::now() < end {
        let asked = Arc::clone(&addresses);
        match spawn_blocking(move || connections_at(&asked, states)).await {
            Ok(Ok(0)) => return,
            Ok(Ok(connections)) if !said => {
                tracing::info!(connections, at_most = ?limit, "waiting for {what} at virtual IPs that have left");
            }
            Ok(Err(error)) if !said => {
                tracing::warn!(%error, at_most = ?limit, "waiting for {what}, without knowing how many there are");
            }
            Ok(_) => {}
            // It has failed; nothing is known, and nothing will be.
            Err(_) => return,
        }
        said = true;
        sleep(ASK_EVERY).await;
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
