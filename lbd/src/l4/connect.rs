//! From a client that was let in to a connection to a target: waiting for a place, connecting, trying elsewhere.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Type};

use super::admission::Seat;
use super::choose::{Choice, Ends, Occupied, Pool, occupy};
use super::refusal::Refusal;
use super::socket::Socket;
use super::tune;
use crate::snapshot::{FailureKind, Target};

/// The first in a queue looks at the targets this often even if no place was given back: one may have recovered.
const LOOK: Duration = Duration::from_millis(50);

/// A connection to a target.
pub(super) struct Reached {
    /// The place there.
    pub(super) occupied: Occupied,
    /// The connection.
    pub(super) stream: Socket,
}

/// How the way there went.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Way {
    /// Targets tried.
    pub(super) tries: u32,
    /// The time spent waiting for a place, if one had to be waited for.
    pub(super) queued: Option<Duration>,
}

/// Tries targets until one is connected, no further may be tried, or the tries are used up.
pub(super) async fn reach(
    seat: &Seat,
    pool: &Rc<Pool>,
    ends: &Ends,
    client: &Socket,
    way: &mut Way,
) -> Result<Reached, Refusal> {
    let tries_max = pool.group.config.retry.tries();
    // Allocates only once a target has failed.
    let mut tried: Vec<Arc<Target>> = Vec::new();
    loop {
        let occupied = match choose(seat, pool, ends, &tried) {
            Choice::Occupied(occupied) => occupied,
            // Rare and large, so not a part of every connection's task.
            Choice::Full => Box::pin(wait(seat, pool, ends, client, &tried, way)).await?,
            Choice::Nobody => return Err(seat.refuse(Refusal::NoTarget)),
        };
        way.tries += 1;
        if way.tries > 1 {
            seat.counters().retries.add(1);
        }
        if occupied.pool.group.panics() {
            seat.counters().unhealthy_tries.add(1);
        }
        match connect(seat, &occupied.target, ends).await {
            Some(stream) => return Ok(Reached { occupied, stream }),
            None if way.tries >= tries_max => return Err(seat.refuse(Refusal::NoTarget)),
            None => tried.push(Arc::clone(&occupied.target)),
        }
    }
}

impl Seat {
    fn refuse(&self, refusal: Refusal) -> Refusal {
        self.route.refuse(&self.worker, refusal)
    }
}

/// A place, unless others have waited for one before.
fn choose(seat: &Seat, pool: &Rc<Pool>, ends: &Ends, tried: &[Arc<Target>]) -> Choice {
    let group = &pool.group;
    if group.config.queue.is_some() && group.shared.queue.waiting() > 0 {
        return Choice::Full;
    }
    try_now(seat, pool, ends, tried)
}

fn try_now(seat: &Seat, pool: &Rc<Pool>, ends: &Ends, tried: &[Arc<Target>]) -> Choice {
    let place = |target: &Arc<Target>| pool.group.targets.iter().position(|it| Arc::ptr_eq(it, target));
    let tried: Vec<usize> = tried.iter().filter_map(place).collect();
    occupy(&seat.worker, pool, ends, &tried)
}

/// Waits in the group's queue for a place at a target.
async fn wait(
    seat: &Seat,
    pool: &Rc<Pool>,
    ends: &Ends,
    client: &Socket,
    tried: &[Arc<Target>],
    way: &mut Way,
) -> Result<Occupied, Refusal> {
    let Some(settings) = pool.group.config.queue else { return Err(seat.refuse(Refusal::TargetsFull)) };
    let joined = pool.group.shared.queue.join(settings.max as usize);
    let Some(place) = joined else { return Err(seat.refuse(Refusal::QueueFull)) };
    seat.counters().queued.add(1);
    let begin = Instant::now();
    let timeout = tokio::time::sleep(settings.timeout);
    tokio::pin!(timeout);
    loop {
        let looks = place.may_look();
        if looks {
            // The targets may be others by now.
            let current = seat.worker.pool(&pool.group.config.name);
            let current = current.as_ref().unwrap_or(pool);
            if let Choice::Occupied(occupied) = try_now(seat, current, ends, tried) {
                way.queued = Some(way.queued.unwrap_or_default() + begin.elapsed());
                return Ok(occupied);
            }
            // The only free places may be at targets that it has tried: not so for the others.
            if !tried.is_empty() {
                place.pass();
            }
        }
        tokio::select! {
            () = place.woken() => {}
            () = &mut timeout => return Err(seat.refuse(Refusal::QueueTimeout)),
            // A client that has only finished sending still waits for its answer; one that is gone does not.
            () = client.broken() => return Err(seat.refuse(Refusal::ClientGone)),
            () = tokio::time::sleep(LOOK), if looks => {}
        }
    }
}

/// Connects to one target; what goes wrong is counted.
async fn connect(seat: &Seat, target: &Target, ends: &Ends) -> Option<Socket> {
    let service = &seat.route.service.config;
    let counters = target.counters.of(seat.worker.index);
    let address = target.key.address;
    let source = service.transparent.then_some(ends.client);
    let socket = match open(address, source, &service.timeout) {
        Ok(socket) => socket,
        Err(error) => {
            // Nothing that the target could be blamed for.
            counters.connect_errors.add(1);
            if let Some(unsaid) = seat.route.troubles.due(seat.worker.clock().now_ms()) {
                tracing::warn!(target = %target.key, %error, unsaid, "cannot make a socket for a connection");
            }
            return None;
        }
    };
    match tokio::time::timeout(
        service.timeout.connect,
        Socket::connect(&seat.worker.reactor, socket, address),
    )
    .await
    {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            counters.connect_errors.add(1);
            if let Some(kind) = failure(&error) {
                target.report_failure(kind);
            }
            tracing::debug!(target = %target.key, %error, "connect failed");
            None
        }
        Err(_) => {
            counters.connect_timeouts.add(1);
            target.report_failure(FailureKind::Timeout);
            tracing::debug!(target = %target.key, "connect timed out");
            None
        }
    }
}

/// What a failed connect says about the target; nothing if this host is out of ports or memory.
fn failure(error: &io::Error) -> Option<FailureKind> {
    match error.raw_os_error() {
        Some(libc::EADDRNOTAVAIL | libc::EADDRINUSE | libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => None,
        Some(libc::EHOSTUNREACH | libc::ENETUNREACH) => Some(FailureKind::Unreachable),
        Some(libc::ETIMEDOUT) => Some(FailureKind::Timeout),
        _ => Some(FailureKind::Connect),
    }
}

fn open(
    address: SocketAddr,
    source: Option<SocketAddr>,
    timeouts: &common::config::Timeouts,
) -> io::Result<socket2::Socket> {
    let kind = Type::STREAM.nonblocking();
    let socket = socket2::Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    tune(&SockRef::from(&socket), timeouts)?;
    if let Some(source) = source {
        speak_as(&socket, source, address)?;
    }
    Ok(socket)
}

/// Has the connection come from the client's address. The port is one of this host's: the client's own might be in use
/// for an earlier connection of it to the same target.
fn speak_as(socket: &socket2::Socket, client: SocketAddr, target: SocketAddr) -> io::Result<()> {
    let ip = client.ip().to_canonical();
    if ip.is_ipv4() != target.is_ipv4() {
        let what = format!("`transparent` cannot have {ip} speak to a target of the other address family");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let options = SockRef::from(socket);
    let allowed =
        if ip.is_ipv4() { options.set_ip_transparent_v4(true) } else { options.set_ip_transparent_v6(true) };
    allowed.map_err(|error| {
        let what = format!("`transparent` takes root or the capability CAP_NET_ADMIN: {error}");
        io::Error::new(error.kind(), what)
    })?;
    // The port is chosen when connecting, so that each target has all of them.
    setsockopt(&socket.as_fd(), sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::new(ip, 0).into())
}
