//! One client connection of a `tcp` service, from its acceptance to its end.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use common::config::ProxyVersion;
use lbd_core::proxy_protocol::{self, Version};
use socket2::SockRef;

use super::admission::Seat;
use super::choose::{Ends, Occupied};
use super::connect::{Reached, Way, reach};
use super::departures::Leave;
use super::journal::{Journal, Relayed};
use super::loss::Loss;
use super::refusal::Refusal;
use super::relay::Relay;
use super::socket::Socket;
use super::{End, preamble, reset_on_close};
use crate::counters::Counter;
use crate::executor::Ready;
use crate::snapshot::{FailureKind, Target};
use crate::worker::Worker;

/// IP's number of TCP.
pub(crate) const PROTOCOL: u8 = 6;

/// What the target gets before anything that the relay reads: at most the header and what was read ahead.
#[derive(Debug, Default)]
struct Ahead {
    bytes: Vec<u8>,
    /// How many of them are the client's.
    read: usize,
}

/// Finds out where a connection goes, connects, and relays until it has ended.
pub(crate) async fn serve(mut seat: Seat, client: Socket, peer: SocketAddr, listen: SocketAddr) {
    let mut journal = Journal::begin(&seat.route, peer, listen);
    // A listener on all addresses does not say which one the client came to.
    let local = if listen.ip().is_unspecified() { client.local_addr().unwrap_or(listen) } else { listen };
    let (reached, ahead) = match prepare(&mut seat, &client, peer, local, &mut journal).await {
        Ok(prepared) => prepared,
        Err(refusal) => {
            reset_on_close(SockRef::from(&client));
            return journal.refused(&seat.route, &seat.worker, refusal);
        }
    };
    let worker = &*seat.worker;
    let occupied = &reached.occupied;
    let connected = Connected::new(worker, &occupied.target);
    let at_target = occupied.target.counters.of(worker.index);
    let read_ahead = ahead.read as u64;
    let more = client.is(Ready::ENDED);
    if !ahead.bytes.is_empty()
        && let Err(error) = send_ahead(&seat, &reached, ahead, more).await
    {
        let end = Loss::from_error(&error).of_target();
        judge(&occupied.target, end, false);
        at_target.resets.add(u64::from(end == End::TargetReset));
        at_target.vanished.add(u64::from(end == End::TargetVanished));
        seat.counters().ends[end.index()].add(1);
        reset_on_close(SockRef::from(&client));
        return journal.ended(&seat, &occupied.target, end.name(), Relayed::default());
    }
    let timeouts = &seat.route.service.config.timeout;
    let idle_ms = u64::try_from(timeouts.idle.as_millis()).unwrap_or(u64::MAX);
    let (since_ms, drain) = (worker.connections.now_ms(), occupied.pool.group.config.drain_timeout);
    let leave = worker.departure(local.ip()).map(|departure| Leave::new(departure, since_ms, drain));
    let entry = worker.connections.enter(Arc::clone(&occupied.target), leave, idle_ms);
    let control = &entry.control;
    let mut relay =
        pin!(Relay::new(client, reached.stream, worker, timeouts, seat.counters(), at_target, control));
    let end = relay.as_mut().await;
    seat.counters().ends[end.index()].add(1);
    at_target.resets.add(u64::from(end == End::TargetReset));
    at_target.vanished.add(u64::from(end == End::TargetVanished));
    let answered = entry.control.answered();
    judge(&occupied.target, end, answered.is_some());
    drop(connected);
    let [to_target, to_client] = relay.moved();
    let relayed = Relayed { answered, to_target: to_target + read_ahead, to_client };
    journal.ended(&seat, &occupied.target, end.name(), relayed);
}

/// All that comes before bytes are relayed.
async fn prepare(
    seat: &mut Seat,
    client: &Socket,
    peer: SocketAddr,
    local: SocketAddr,
    journal: &mut Journal,
) -> Result<(Reached, Ahead), Refusal> {
    let mut ends = Ends { client: peer, local, protocol: PROTOCOL };
    let guard = &seat.route.service.guard;
    let proxied = guard.trusts(peer.ip());
    let reads = proxied || !guard.sni.is_empty();
    let (pool, server_name, mut read) = if reads {
        // Rare and large, so not a part of every connection's task.
        let preamble = Box::pin(preamble::read(seat, client, &mut ends, proxied)).await;
        // Whoever is refused has a name by then, or not.
        journal.heard(&ends);
        let preamble = preamble?;
        (preamble.pool, preamble.server_name, preamble.bytes)
    } else {
        (Rc::clone(&seat.route.default), None, Vec::new())
    };
    journal.prepared(&ends, server_name, &pool);
    let mut way = Way::default();
    let reached = reach(seat, &pool, &ends, client, &mut read, &mut way).await;
    journal.tried(&way, reached.as_ref().ok().map(|reached| &reached.occupied));
    let reached = reached?;
    let ahead = Ahead::new(&reached.occupied, &ends, read);
    Ok((reached, ahead))
}

impl Ahead {
    /// A PROXY header if the target wants one, and what has been read of the client, so that both go out in one packet.
    fn new(occupied: &Occupied, ends: &Ends, read: Vec<u8>) -> Self {
        let Some(version) = occupied.pool.group.config.send_proxy else {
            return Self { read: read.len(), bytes: read };
        };
        let version = match version {
            ProxyVersion::V1 => Version::V1,
            ProxyVersion::V2 => Version::V2,
        };
        let mut bytes = Vec::new();
        proxy_protocol::emit(version, ends.client, ends.local, &mut bytes);
        bytes.extend_from_slice(&read);
        Self { bytes, read: read.len() }
    }
}

/// Sends it; as long as connecting may take, because a target that takes nothing at all is not there. `more` says that the
/// client's end is known to follow.
async fn send_ahead(seat: &Seat, reached: &Reached, ahead: Ahead, more: bool) -> io::Result<()> {
    // A new connection has room for it, as good as always.
    let sent = match reached.stream.try_write(&ahead.bytes, more) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        sent => sent?,
    };
    if sent < ahead.bytes.len() {
        let limit = seat.route.service.config.timeout.connect;
        let rest = reached.stream.write_all(&ahead.bytes[sent..]);
        // Rare and large, so not a part of every connection's task.
        let sent = Box::pin(seat.worker.executor.timeout(limit, rest)).await;
        sent.ok_or(io::ErrorKind::TimedOut)??;
    }
    seat.counters().bytes_to_target.add(ahead.read as u64);
    let at_target = reached.occupied.target.counters.of(seat.worker.index);
    at_target.bytes_to_target.add(ahead.read as u64);
    Ok(())
}

/// What a connection's end says about its target: one that resets or vanishes before it has said a word has failed.
fn judge(target: &Target, end: End, answered: bool) {
    match end {
        End::TargetReset if !answered => target.report_failure(FailureKind::Reset),
        End::TargetVanished if !answered => target.report_failure(FailureKind::Timeout),
        End::Done if !answered => target.report_success(),
        _ => {}
    }
}

/// Counts a connection to a target as open until dropped.
struct Connected<'a>(&'a Counter);

impl<'a> Connected<'a> {
    fn new(worker: &Worker, target: &'a Target) -> Self {
        let counters = target.counters.of(worker.index);
        counters.connected.add(1);
        counters.open.add(1);
        Self(&counters.open)
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.subtract_one();
    }
}
