//! A connection that has become something else than HTTP: WebSocket mostly.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use common::config::Timeouts;

use super::client::Connection;
use super::kept::Upstream;
use super::passage::Passage;
use super::stream::Stream;
use super::transport::Transport;
use super::watch::Why;
use crate::counters::{Again, RuleCounters, Sharded};
use crate::l4::{End, Occupied, Relay};
use crate::snapshot::Target;

/// The target's side of a tunnel, and what is counted there beside the service and the target.
pub(super) struct Far {
    /// The connection.
    pub(super) upstream: Upstream,
    /// Its place at the target.
    pub(super) occupied: Occupied,
    /// What is counted of the rule that the request met.
    pub(super) by_rule: Option<Arc<Sharded<RuleCounters>>>,
}

/// Passes bytes on, both ways, until both ends have finished. What either has sent by now behind its last head goes first.
///
/// What it is given is used where it is: there are many of them, they last, and what an async function takes apart it has room for twice.
pub(super) async fn run(client: Connection, far: Far) {
    let (seat, watch) = (&client.session.seat, &client.watch);
    let service = &seat.route.service.config;
    let Some(http) = &service.http else { return };
    let target: &Arc<Target> = &far.occupied.target;
    let idle_ms = u64::try_from(http.tunnel_timeout.as_millis()).unwrap_or(u64::MAX);
    let worker = Rc::clone(&seat.worker);
    let entry = worker.connections.enter(Arc::clone(target), client.session.leave(), idle_ms);
    let timeouts = Timeouts { idle: http.tunnel_timeout, ..service.timeout };
    let at_target = target.counters.of(worker.index);
    seat.counters().http.tunnels.add(1);
    let (end, moved) = match (client.stream.transport, far.upstream.stream.transport) {
        (Transport::Clear(from), Transport::Clear(to)) => {
            let (asked, answered) = (client.stream.inbound.bytes(), far.upstream.stream.inbound.bytes());
            let ahead = async {
                from.write_all(answered).await?;
                to.write_all(asked).await
            };
            watch.limit(service.timeout.idle);
            let sent: Result<std::io::Result<()>, Why> = watch.wait(ahead).await;
            let ahead = [asked.len() as u64, answered.len() as u64];
            match sent {
                Ok(Ok(())) => {
                    // It may be large, and the tunnel last.
                    drop(client.stream.inbound);
                    drop(far.upstream.stream.inbound);
                    let (counters, control) = (seat.counters(), &entry.control);
                    counters.bytes_to_target.add(ahead[0]);
                    counters.bytes_to_client.add(ahead[1]);
                    at_target.bytes_to_target.add(ahead[0]);
                    at_target.bytes_to_client.add(ahead[1]);
                    let mut relay =
                        pin!(Relay::new(from, to, &worker, &timeouts, counters, at_target, control));
                    let end = relay.as_mut().await;
                    let [to_target, to_client] = relay.moved();
                    (end, [ahead[0] + to_target, ahead[1] + to_client])
                }
                Ok(Err(_)) => (End::ClientReset, [0; 2]),
                Err(Why::Due) => (End::Idle, [0; 2]),
                Err(Why::Drained) => (End::Drained, [0; 2]),
                Err(Why::Stopped) => (End::Stopped, [0; 2]),
            }
        }
        (from, to) => {
            let client = Stream { transport: from, inbound: client.stream.inbound };
            let target = Stream { transport: to, inbound: far.upstream.stream.inbound };
            let control = &entry.control;
            let mut passage =
                Passage::new(client, target, &worker, &timeouts, seat.counters(), at_target, control);
            let end = poll_fn(|context| passage.poll(context)).await;
            (end, passage.moved())
        }
    };
    seat.counters().ends[end.index()].add(1);
    // Of service and target they have been counted as they moved.
    far.occupied.pool.group.shared.counters.of(worker.index).effort.add(moved, [0; Again::COUNT]);
    if let Some(by_rule) = &far.by_rule {
        by_rule.of(worker.index).effort.add(moved, [0; Again::COUNT]);
    }
}
