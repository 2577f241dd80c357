//! From a client that was let in to a connection to a target: waiting for a place, connecting, trying elsewhere.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Type};

use super::admission::Seat;
use super::choose::{Choice, Ends, Occupied, Pool, Tie, occupy};
use super::queue::Place;
use super::refusal::Refusal;
use super::socket::Socket;
use super::tune;
use crate::executor::Ready;
use crate::process::is_local;
use crate::snapshot::{FailureKind, Target};

/// The first in a queue looks at the targets this often even if no place was given back: one may have recovered.
const LOOK: Duration = Duration::from_millis(50);

/// Of all that wait together not more than one looks within this time.
const LOOK_EACH: Duration = Duration::from_micros(500);

/// The most that is read of a client before its target is connected, in bytes.
const AHEAD_BYTES_MAX: usize = 16 * 1024;

/// A connection to a target.
pub(super) struct Reached {
    /// The place there.
    pub(super) occupied: Occupied,
    /// The connection.
    pub(super) stream: Socket,
}

/// How the way there went.
#[derive(Clone, Debug, Default)]
pub(crate) struct Way {
    /// Targets tried.
    pub(crate) tries: u32,
    /// The time spent waiting for a place, if one had to be waited for.
    pub(crate) queued: Option<Duration>,
    /// The last target that could not be connected.
    pub(crate) failed: Option<Arc<Target>>,
    /// When the time to wait for a place is over, once there was a wait.
    queue_end: Option<Instant>,
}

/// Tries targets until one is connected, no further may be tried, or the tries are used up.
pub(super) async fn reach(
    seat: &Seat,
    pool: &Rc<Pool>,
    ends: &Ends,
    client: &Socket,
    ahead: &mut Vec<u8>,
    way: &mut Way,
) -> Result<Reached, Refusal> {
    let mut pool = Rc::clone(pool);
    // Allocates only once a target has failed.
    let mut tried: Vec<Arc<Target>> = Vec::new();
    // Why there is no connection if no further target may be tried.
    let mut refusal = Refusal::NoTarget;
    loop {
        let occupied = match choose(seat, &pool, (ends, &Tie::default()), &tried) {
            Choice::Occupied(occupied) => occupied,
            // Rare and large, so not a part of every connection's task.
            Choice::Full => {
                let mut gone = |context: &mut Context<'_>| client.poll(context, Ready::FAILED);
                Box::pin(wait(seat, &pool, (ends, &Tie::default()), &mut gone, &tried, way)).await?
            }
            Choice::Nobody => return Err(seat.refuse(refusal)),
        };
        way.tries += 1;
        if let Some(failed) = &way.failed {
            seat.retried(failed);
        }
        if occupied.pool.group.panics() {
            seat.counters().unhealthy_tries.add(1);
        }
        read_ahead(seat, client, ahead)?;
        let speaks = !ahead.is_empty() || occupied.pool.group.config.send_proxy.is_some();
        refusal = match connect(seat, &occupied.target, ends, speaks).await {
            Ok(stream) => return Ok(Reached { occupied, stream }),
            Err(refusal) => refusal,
        };
        way.failed = Some(Arc::clone(&occupied.target));
        // That took a while: the targets may be others by now.
        pool = seat.current(&pool);
        if way.tries >= pool.group.config.retry.tries() {
            return Err(seat.refuse(refusal));
        }
        tried.push(Arc::clone(&occupied.target));
    }
}

impl Seat {
    /// The group as it is now; as it was if it is there no more.
    pub(crate) fn current(&self, pool: &Rc<Pool>) -> Rc<Pool> {
        self.worker.pool(&pool.group.config.name).unwrap_or_else(|| Rc::clone(pool))
    }

    /// Counts that another target is tried after this one has failed.
    pub(crate) fn retried(&self, failed: &Target) {
        self.counters().retries.add(1);
        failed.counters.of(self.worker.index).retried.add(1);
    }

    pub(crate) fn refuse(&self, refusal: Refusal) -> Refusal {
        self.route.refuse(&self.worker, refusal)
    }
}

/// Takes what the client has sent by now, if nothing has been read of it before.
fn read_ahead(seat: &Seat, client: &Socket, bytes: &mut Vec<u8>) -> Result<(), Refusal> {
    // A reset is the relay's to tell, as at any other time.
    if !bytes.is_empty() || !client.is(Ready::READABLE) || client.is(Ready::FAILED) {
        return Ok(());
    }
    let mut buffer = seat.worker.buffers.take();
    match client.try_read(&mut buffer.bytes_mut()[..AHEAD_BYTES_MAX]) {
        Ok(count) => bytes.extend_from_slice(&buffer.bytes()[..count]),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(_) => return Err(seat.refuse(Refusal::ClientGone)),
    }
    Ok(())
}

/// A place at a target, waited for if need be, but not when the client is `gone`.
pub(crate) async fn place(
    seat: &Seat,
    pool: &Rc<Pool>,
    who: (&Ends, &Tie),
    gone: &mut dyn FnMut(&mut Context<'_>) -> Poll<()>,
    tried: &[Arc<Target>],
    way: &mut Way,
) -> Result<Option<Occupied>, Refusal> {
    match choose(seat, pool, who, tried) {
        Choice::Occupied(occupied) => Ok(Some(occupied)),
        Choice::Full => Box::pin(wait(seat, pool, who, gone, tried, way)).await.map(Some),
        Choice::Nobody => Ok(None),
    }
}

/// A place, unless others have waited for one before.
fn choose(seat: &Seat, pool: &Rc<Pool>, who: (&Ends, &Tie), tried: &[Arc<Target>]) -> Choice {
    let group = &pool.group;
    if group.config.queue.is_some() && group.shared.queue.waiting() > 0 {
        return Choice::Full;
    }
    try_now(seat, pool, who, tried)
}

fn try_now(seat: &Seat, pool: &Rc<Pool>, (ends, tie): (&Ends, &Tie), tried: &[Arc<Target>]) -> Choice {
    let place = |target: &Arc<Target>| pool.group.targets.iter().position(|it| Arc::ptr_eq(it, target));
    let tried: Vec<usize> = tried.iter().filter_map(place).collect();
    occupy(&seat.worker, pool, ends, tie, &tried)
}

/// Waits in the group's queue for a place at a target.
async fn wait(
    seat: &Seat,
    pool: &Rc<Pool>,
    who: (&Ends, &Tie),
    gone: &mut dyn FnMut(&mut Context<'_>) -> Poll<()>,
    tried: &[Arc<Target>],
    way: &mut Way,
) -> Result<Occupied, Refusal> {
    let Some(settings) = pool.group.config.queue else { return Err(seat.refuse(Refusal::TargetsFull)) };
    let joined = pool.group.shared.queue.join(settings.max as usize);
    let Some(place) = joined else { return Err(seat.refuse(Refusal::QueueFull)) };
    let begin = Instant::now();
    // One that comes again, because the target that it got did not answer, has no more time than others.
    let end = *way.queue_end.get_or_insert_with(|| {
        seat.counters().queued.add(1);
        begin + settings.timeout
    });
    let left = end.saturating_duration_since(begin);
    let occupied = wait_in(&place, left, seat, pool, who, gone, tried).await;
    let waited = begin.elapsed();
    pool.group.shared.counters.of(seat.worker.index).queue_times.record(waited);
    way.queued = Some(way.queued.unwrap_or_default() + waited);
    occupied
}

/// The same, with a place in the queue, for so long.
async fn wait_in(
    place: &Place,
    left: Duration,
    seat: &Seat,
    pool: &Rc<Pool>,
    who: (&Ends, &Tie),
    gone: &mut dyn FnMut(&mut Context<'_>) -> Poll<()>,
    tried: &[Arc<Target>],
) -> Result<Occupied, Refusal> {
    let mut timeout = seat.worker.executor.sleep(left);
    loop {
        let looks = place.may_look();
        if looks {
            // The targets may be others by now, and the protocol that they speak another one than what a request's head is written in: such a
            // request is for those of before.
            let now = seat.current(pool);
            let fits = who.1.http2.is_none_or(|http2| http2 == now.group.config.http2);
            if let Choice::Occupied(occupied) = try_now(seat, if fits { &now } else { pool }, who, tried) {
                return Ok(occupied);
            }
            // The only free places may be at targets that it has tried, or that are not for it: not so for the others.
            if !tried.is_empty() || !fits {
                place.pass();
            }
        }
        tokio::select! {
            () = place.woken() => {}
            () = &mut timeout => return Err(seat.refuse(Refusal::QueueTimeout)),
            // A client that has only finished sending still waits for its answer; one that is gone does not.
            () = poll_fn(&mut *gone) => return Err(seat.refuse(Refusal::ClientGone)),
            () = seat.worker.executor.sleep(pace(pool.group.shared.queue.waiting())), if looks => {}
        }
    }
}

/// How long until one that may look does so by itself. All that wait may, if all have tried targets that others have not: then
/// they take turns.
fn pace(waiting: usize) -> Duration {
    LOOK.max(LOOK_EACH.saturating_mul(u32::try_from(waiting).unwrap_or(u32::MAX)))
}

/// Connects to one target; what goes wrong is counted, for the target unless this host lacks something. Answers what a client
/// is refused for that gets no other one. `speaks` says that something is to be sent to the target at once.
pub(crate) async fn connect(
    seat: &Seat,
    target: &Target,
    ends: &Ends,
    speaks: bool,
) -> Result<Socket, Refusal> {
    let service = &seat.route.service.config;
    let counters = target.counters.of(seat.worker.index);
    let address = target.key.address;
    let begin = Instant::now();
    let source = service.transparent.then_some(ends.client);
    let opened = open(address, source, &service.timeout).and_then(|socket| {
        if speaks {
            // The handshake's last acknowledgement then travels with the first bytes: a packet less.
            socket.set_tcp_quickack(false)?;
        }
        Ok(socket)
    });
    let socket = match opened {
        Ok(socket) => socket,
        Err(error) => return Err(lack(seat, target, &error)),
    };
    let executor = &seat.worker.executor;
    let connecting = Socket::connect(executor.reactor(), socket, address);
    match executor.timeout(service.timeout.connect, connecting).await {
        Some(Ok(stream)) => {
            counters.connect_times.record(begin.elapsed());
            Ok(stream)
        }
        Some(Err(error)) => {
            let Some(kind) = failure(&error) else { return Err(lack(seat, target, &error)) };
            counters.connect_errors.add(1);
            target.report_failure(kind);
            tracing::debug!(target = %target.key, %error, "connect failed");
            Err(Refusal::ConnectFailed)
        }
        None => {
            counters.connect_timeouts.add(1);
            target.report_failure(FailureKind::Timeout);
            tracing::debug!(target = %target.key, "connect timed out");
            Err(Refusal::ConnectTimeout)
        }
    }
}

/// Counts that this host lacks what a connection takes, for the service, and says so in the log unless it was said just now. That
/// a client cannot be spoken for to this target is no lack: another target has to serve it.
fn lack(seat: &Seat, target: &Target, error: &io::Error) -> Refusal {
    let unsuitable = error.kind() == io::ErrorKind::InvalidInput;
    if !unsuitable {
        seat.counters().local_errors.add(1);
    }
    if let Some(unsaid) = seat.route.troubles.due(seat.worker.clock().now_ms()) {
        let service = &seat.route.service.config.name;
        tracing::warn!(service, target = %target.key, %error, unsaid, "this host cannot make a connection");
    }
    if unsuitable { Refusal::NoTarget } else { Refusal::Local }
}

/// What a failed connect says about the target; nothing if this host is out of files, ports or memory.
fn failure(error: &io::Error) -> Option<FailureKind> {
    match error.raw_os_error() {
        _ if is_local(error) => None,
        // The kernel's other words for no free port.
        Some(libc::EADDRINUSE | libc::EAGAIN) => None,
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
