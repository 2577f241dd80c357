//! A connection that has become something else than HTTP: WebSocket mostly.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use common::config::Timeouts;

use super::client::Connection;
use super::kept::Upstream;
use super::passage::Passage;
use super::stream::Stream;
use super::transport::Transport;
use super::watch::Why;
use crate::l4::{End, Occupied, Relay};
use crate::snapshot::Target;

/// Passes bytes on, both ways, until both ends have finished. What either has sent by now behind its last head goes first.
///
/// What it is given is used where it is: there are many of them, they last, and what an async function takes apart it has room for twice.
pub(super) async fn run(client: Connection, far: (Upstream, Occupied)) {
    let (seat, watch) = (&client.session.seat, &client.watch);
    let service = &seat.route.service.config;
    let Some(http) = &service.http else { return };
    let target: &Arc<Target> = &far.1.target;
    let idle_ms = u64::try_from(http.tunnel_timeout.as_millis()).unwrap_or(u64::MAX);
    let worker = Rc::clone(&seat.worker);
    let entry = worker.connections.enter(Arc::clone(target), client.session.leave(), idle_ms);
    let timeouts = Timeouts { idle: http.tunnel_timeout, ..service.timeout };
    let at_target = target.counters.of(worker.index);
    seat.counters().http.tunnels.add(1);
    let end = match (client.stream.transport, far.0.stream.transport) {
        (Transport::Clear(from), Transport::Clear(to)) => {
            let ahead = async {
                from.write_all(far.0.stream.inbound.bytes()).await?;
                to.write_all(client.stream.inbound.bytes()).await
            };
            watch.limit(service.timeout.idle);
            let sent: Result<std::io::Result<()>, Why> = watch.wait(ahead).await;
            match sent {
                Ok(Ok(())) => {
                    Relay::new(from, to, &worker, &timeouts, seat.counters(), at_target, &entry.control).await
                }
                Ok(Err(_)) => End::ClientReset,
                Err(Why::Due) => End::Idle,
                Err(Why::Drained) => End::Drained,
                Err(Why::Stopped) => End::Stopped,
            }
        }
        (from, to) => {
            let client = Stream { transport: from, inbound: client.stream.inbound };
            let target = Stream { transport: to, inbound: far.0.stream.inbound };
            let control = &entry.control;
            let mut passage =
                Passage::new(client, target, &worker, &timeouts, seat.counters(), at_target, control);
            poll_fn(|context| passage.poll(context)).await
        }
    };
    seat.counters().ends[end.index()].add(1);
}
