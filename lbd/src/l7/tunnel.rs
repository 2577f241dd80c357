//! A connection that has become something else than HTTP: WebSocket mostly.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::client::Connection;
use super::kept::{Open, Upstream};
use super::passage::Passage;
use super::stream::{Inbound, Stream};
use super::transport::Transport;
use super::watch::{Watch, Why};
use crate::l4::{End, Entry, Occupied, Relay, Seat, Socket};

/// Has bytes passed on, both ways, until both ends have finished. What either has sent by now behind its last head goes first.
///
/// There are many tunnels, and they last. So each is a task of its own, that holds what a tunnel needs and nothing of what its connection took
/// while it had requests: neither the rest of that connection's task nor its watch, whose sweep would wake it when it was due.
pub(super) fn begin(connection: Connection, far: (Upstream, Occupied)) {
    let Connection { session, stream: client, watch, .. } = connection;
    let (Upstream { stream: target, open, .. }, occupied) = far;
    let leave = session.leave();
    let seat = session.seat;
    let Some(http) = &seat.route.service.config.http else { return };
    let idle_ms = u64::try_from(http.tunnel_timeout.as_millis()).unwrap_or(u64::MAX);
    let worker = Rc::clone(&seat.worker);
    let entry = worker.connections.enter(Arc::clone(&occupied.target), leave, idle_ms);
    seat.counters().http.tunnels.add(1);
    let places = Places { seat, occupied, _open: open, entry };
    match (client.transport, target.transport) {
        (Transport::Clear(from), Transport::Clear(to)) => {
            let ahead = Ahead::of(client.inbound, target.inbound, watch);
            worker.executor.spawn(async move {
                // All of them: a block takes no more of a value than is named in it.
                let places = &places;
                let timeouts = &places.seat.route.service.config.timeout;
                let failed = match ahead {
                    None => None,
                    // Rare, so not a part of every tunnel's task.
                    Some(ahead) => Box::pin(ahead.send(&from, &to, timeouts.idle)).await,
                };
                let end = match failed {
                    Some(end) => end,
                    None => places.relay(from, to).await,
                };
                places.ended(end);
            });
        }
        (from, to) => {
            let client = Stream { transport: from, inbound: client.inbound };
            let target = Stream { transport: to, inbound: target.inbound };
            worker.executor.spawn(async move {
                let places = &places;
                let end = {
                    let mut passage = places.passage(client, target);
                    poll_fn(|context| passage.poll(context)).await
                };
                places.ended(end);
            });
        }
    }
}

/// Where a tunnel has a place for as long as it lasts.
struct Places {
    /// Among the connections of its service.
    seat: Seat,
    /// At its target.
    occupied: Occupied,
    /// Among the connections that are open there.
    _open: Open,
    /// Among those that the worker's sweep looks at.
    entry: Entry,
}

impl Places {
    /// What moves the bytes between two sockets.
    fn relay(&self, client: Socket, target: Socket) -> Relay<'_> {
        let worker = &self.seat.worker;
        let at_target = self.occupied.target.counters.of(worker.index);
        let timeouts = &self.seat.route.service.config.timeout;
        Relay::new(client, target, worker, timeouts, self.seat.counters(), at_target, &self.entry.control)
    }

    /// The same where an end is encrypted.
    fn passage(&self, client: Stream, target: Stream) -> Passage<'_> {
        let worker = &self.seat.worker;
        let at_target = self.occupied.target.counters.of(worker.index);
        let timeouts = &self.seat.route.service.config.timeout;
        Passage::new(client, target, worker, timeouts, self.seat.counters(), at_target, &self.entry.control)
    }

    fn ended(&self, end: End) {
        self.seat.counters().ends[end.index()].add(1);
    }
}

/// What the ends have sent before there was a tunnel, and what ends the wait until it has been taken.
struct Ahead {
    client: Inbound,
    target: Inbound,
    watch: Watch,
}

impl Ahead {
    /// Nothing if they have sent nothing.
    fn of(client: Inbound, target: Inbound, watch: Watch) -> Option<Box<Self>> {
        let is_empty = client.is_empty() && target.is_empty();
        (!is_empty).then(|| Box::new(Self { client, target, watch }))
    }

    /// Sends it on. Answers how the tunnel has ended if it has before that.
    async fn send(self: Box<Self>, client: &Socket, target: &Socket, idle: Duration) -> Option<End> {
        self.watch.limit(idle);
        let sent = self.watch.wait(async {
            client.write_all(self.target.bytes()).await?;
            target.write_all(self.client.bytes()).await
        });
        match sent.await {
            Ok(Ok(())) => None,
            Ok(Err(_)) => Some(End::ClientReset),
            Err(Why::Due) => Some(End::Idle),
            Err(Why::Drained) => Some(End::Drained),
            Err(Why::Stopped) => Some(End::Stopped),
        }
    }
}
