//! A connection that has become something else than HTTP: WebSocket mostly.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::Connection;
use super::journal::Story;
use super::kept::{Open, Upstream};
use super::passage::Passage;
use super::stream::{Inbound, Stream};
use super::transport::Transport;
use super::watch::{Watch, Why};
use crate::counters::{Again, RuleCounters, Sharded};
use crate::l4::{End, Entry, Occupied, Relay, Seat, Socket};

/// The target's side of a tunnel, and what is counted there beside the service and the target.
pub(super) struct Far {
    /// The connection.
    pub(super) upstream: Upstream,
    /// Its place at the target.
    pub(super) occupied: Occupied,
    /// What is counted of the rule that the request met.
    pub(super) by_rule: Option<Arc<Sharded<RuleCounters>>>,
    /// What is told at the end, if somebody is told.
    pub(super) story: Option<Box<Story>>,
}

/// Has bytes passed on, both ways, until both ends have finished. What either has sent by now behind its last head goes first. The client's
/// connection was accepted when it `began`.
///
/// There are many tunnels, and they last. So each is a task of its own, that holds what a tunnel needs and nothing of what its connection took
/// while it had requests: neither the rest of that connection's task nor its watch, whose sweep would wake it when it was due.
pub(super) fn begin(connection: Connection, far: Far, began: Instant) {
    let Connection { session, stream: client, watch, .. } = connection;
    let Far { upstream: Upstream { stream: target, open, .. }, occupied, by_rule, story } = far;
    let leave = session.leave_with(&occupied.pool.group);
    let seat = session.seat;
    let Some(http) = &seat.route.service.config.http else { return };
    let idle_ms = u64::try_from(http.tunnel_timeout.as_millis()).unwrap_or(u64::MAX);
    let worker = Rc::clone(&seat.worker);
    let entry = worker.connections.enter(Arc::clone(&occupied.target), leave, idle_ms);
    seat.counters().http.tunnels.add(1);
    let places = Places { began, seat, occupied, by_rule, story: Cell::new(story), _open: open, entry };
    match (client.transport, target.transport) {
        (Transport::Clear(from), Transport::Clear(to)) => {
            let ahead = Ahead::of(client.inbound, target.inbound, watch);
            worker.executor.spawn(async move {
                // All of them: a block takes no more of a value than is named in it.
                let places = &places;
                let timeouts = &places.seat.route.service.config.timeout;
                let sent = match ahead {
                    None => Ok([0; 2]),
                    // Rare, so not a part of every tunnel's task.
                    Some(ahead) => Box::pin(ahead.send(&from, &to, timeouts.idle)).await,
                };
                match sent {
                    Ok(ahead) => {
                        let mut relay = pin!(places.relay(from, to, ahead));
                        let end = relay.as_mut().await;
                        places.ended(end, relay.moved());
                    }
                    Err(end) => places.ended(end, [0; 2]),
                }
            });
        }
        (from, to) => {
            let client = Stream { transport: from, inbound: client.inbound };
            let target = Stream { transport: to, inbound: target.inbound };
            worker.executor.spawn(async move {
                let places = &places;
                let mut passage = places.passage(client, target);
                let end = poll_fn(|context| passage.poll(context)).await;
                places.ended(end, passage.moved());
            });
        }
    }
}

/// Where a tunnel has a place, and is counted, for as long as it lasts.
struct Places {
    /// When the connection was accepted.
    began: Instant,
    /// Among the connections of its service.
    seat: Seat,
    /// At its target.
    occupied: Occupied,
    /// Among the requests of its rule.
    by_rule: Option<Arc<Sharded<RuleCounters>>>,
    /// In the access log, and among the spans.
    story: Cell<Option<Box<Story>>>,
    /// Among the connections that are open there.
    _open: Open,
    /// Among those that the worker's sweep looks at.
    entry: Entry,
}

impl Places {
    /// What moves the bytes between two sockets, behind those that went to the target, and to the client, `ahead`.
    fn relay(&self, client: Socket, target: Socket, ahead: [u64; 2]) -> Relay<'_> {
        let worker = &self.seat.worker;
        let at_target = self.occupied.target.counters.of(worker.index);
        let timeouts = &self.seat.route.service.config.timeout;
        let (counters, control) = (self.seat.counters(), &self.entry.control);
        let mut relay = Relay::new(client, target, worker, timeouts, counters, at_target, control);
        relay.count_earlier(ahead);
        relay
    }

    /// The same where an end is encrypted.
    fn passage(&self, client: Stream, target: Stream) -> Passage<'_> {
        let worker = &self.seat.worker;
        let at_target = self.occupied.target.counters.of(worker.index);
        let timeouts = &self.seat.route.service.config.timeout;
        Passage::new(client, target, worker, timeouts, self.seat.counters(), at_target, &self.entry.control)
    }

    /// Tells of it, and counts how it has ended, how long the connection has lasted, and what it has `moved` to the target and to the client for
    /// group and rule: for service and target that was counted as it moved.
    fn ended(&self, end: End, moved: [u64; 2]) {
        self.seat.counters().durations.record(self.began.elapsed());
        self.seat.counters().ends[end.index()].add(1);
        let worker = self.seat.worker.index;
        self.occupied.pool.group.shared.counters.of(worker).effort.add(moved, [0; Again::COUNT]);
        if let Some(by_rule) = &self.by_rule {
            by_rule.of(worker).effort.add(moved, [0; Again::COUNT]);
        }
        if let Some(story) = self.story.take() {
            story.end(self.seat.counters(), end.name(), moved);
        }
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

    /// Sends it on, and lets its buffers go: they may be large, and the tunnel last. Answers how many bytes went to the target, and to the client.
    ///
    /// # Errors
    /// How the tunnel has ended before that.
    async fn send(
        self: Box<Self>,
        client: &Socket,
        target: &Socket,
        idle: Duration,
    ) -> Result<[u64; 2], End> {
        let (asked, answered) = (self.client.bytes(), self.target.bytes());
        self.watch.limit(idle);
        let sent = self.watch.wait(async {
            client.write_all(answered).await?;
            target.write_all(asked).await
        });
        match sent.await {
            Ok(Ok(())) => Ok([asked.len() as u64, answered.len() as u64]),
            Ok(Err(_)) => Err(End::ClientReset),
            Err(Why::Due) => Err(End::Idle),
            Err(Why::Drained) => Err(End::Drained),
            Err(Why::Stopped) => Err(End::Stopped),
        }
    }
}
