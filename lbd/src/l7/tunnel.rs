//! A connection that has become something else than HTTP: WebSocket mostly.

use std::rc::Rc;
use std::sync::Arc;

use common::config::Timeouts;

use super::kept::Upstream;
use super::stream::Stream;
use super::watch::{Watch, Why};
use crate::l4::{Leave, Occupied, Relay, Seat};
use crate::snapshot::Target;

/// Passes bytes on, both ways, until both ends have finished. What either has sent by now behind its last head goes first.
pub(super) async fn run(
    seat: &Seat,
    client: Stream,
    upstream: Upstream,
    occupied: &Occupied,
    watch: &Watch,
    leave: Option<Leave>,
) {
    let service = &seat.route.service.config;
    let Some(http) = &service.http else { return };
    watch.limit(service.timeout.idle);
    let ahead = async {
        client.socket.write_all(upstream.stream.inbound.bytes()).await?;
        upstream.stream.socket.write_all(client.inbound.bytes()).await
    };
    let sent: Result<std::io::Result<()>, Why> = watch.wait(ahead).await;
    if !matches!(sent, Ok(Ok(()))) {
        return;
    }
    let target: &Arc<Target> = &occupied.target;
    let idle_ms = u64::try_from(http.tunnel_timeout.as_millis()).unwrap_or(u64::MAX);
    let worker = Rc::clone(&seat.worker);
    let entry = worker.connections.enter(Arc::clone(target), leave, idle_ms);
    let timeouts = Timeouts { idle: http.tunnel_timeout, ..service.timeout };
    let at_target = target.counters.of(worker.index);
    seat.counters().http.tunnels.add(1);
    let Upstream { stream, open: _open, .. } = upstream;
    let relay = Relay::new(
        client.socket,
        stream.socket,
        &worker,
        &timeouts,
        seat.counters(),
        at_target,
        &entry.control,
    );
    let end = relay.await;
    seat.counters().ends[end.index()].add(1);
}
