//! One UDP session: its place among the service's, and its socket to the target.

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use lbd_core::forward::abi::{Abi, FlowKey};
use lbd_core::holder::Holder;
use lbd_core::replication::Tuple;
use lbd_core::sticky::StickyTable;
use lbd_core::udp_sessions::{SessionEnd, Standing};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::counters::TargetCounters;
use crate::l4::admission::Seat;
use crate::l4::choose::{Choice, Ends, Occupied, Pool, Tie, occupy};
use crate::l4::connect::Way;
use crate::l4::departures::Leave;
use crate::l4::journal::{Journal, Relayed};
use crate::l4::refusal::Refusal;
use crate::snapshot::{FailureKind, Target};
use crate::worker::{Route, Worker};

/// A session that is open. Dropping it gives back its places and closes its socket.
pub(super) struct Session {
    /// Its place among the service's sessions.
    pub(super) seat: Seat,
    /// Its target, and the socket connected to it.
    pub(super) upstream: Upstream,
    journal: Journal,
    relayed: Cell<Relayed>,
    tuple: Tuple,
    /// The last datagram of which it was told that the session goes on.
    told_ms: Cell<u64>,
    /// The client has said something since.
    asked: Cell<bool>,
    /// The virtual IP that its datagrams come to.
    leave: Option<Leave>,
    /// The other node has been told to go on with its target.
    handed_over: Cell<bool>,
}

/// What the other node has sent on before it hears that a session is over comes within this.
const HANDOVER_MS: u64 = 1000;

/// So many times in its idle time it is told that a session goes on.
const TOLD_PARTS: u64 = 8;

/// How many datagrams a socket's queue had no room for, as last told.
#[derive(Debug, Default)]
pub(super) struct QueueDrops(Cell<u32>);

impl QueueDrops {
    /// How many are new, now that so many have been told in all.
    pub(super) fn new_ones(&self, told: Option<u32>) -> u64 {
        told.map_or(0, |told| u64::from(told.wrapping_sub(self.0.replace(told))))
    }
}

impl Session {
    /// Begins a session of a client that is let in and gets a target; else it is counted and logged why not.
    pub(super) fn begin(worker: &Rc<Worker>, route: &Rc<Route>, ends: &Ends) -> Result<Self, Refusal> {
        let mut journal = Journal::begin(route, ends.client, ends.local);
        let mut way = Way::default();
        let tuple = tuple(ends);
        // Where the other node had it, if it had.
        let sessions = &route.service.shared.sessions;
        let listened_to = sessions.is_listened_to();
        let now = worker.clock().at();
        let home = if listened_to { sessions.find(&tuple, now) } else { None };
        let begun = Seat::take(worker, route, ends.client.ip()).and_then(|seat| {
            let reached = reach(&seat, &route.default, ends, (None, home.as_deref()), &mut way);
            let upstream = reached.map_err(|refusal| route.refuse(worker, refusal))?;
            Ok((seat, upstream))
        });
        journal.tried(&way, begun.as_ref().ok().map(|(_, upstream)| &upstream.occupied));
        match begun {
            Ok((seat, upstream)) => {
                let since_ms = worker.connections.now_ms();
                let drain = upstream.occupied.pool.group.config.drain_timeout;
                let departure = worker.departure(ends.local.ip());
                let leave = departure.map(|departure| Leave::new(departure, since_ms, drain));
                let relayed = Cell::default();
                let (told_ms, asked) = (Cell::new(since_ms), Cell::new(false));
                let handed_over = Cell::new(false);
                let session =
                    Self { seat, upstream, journal, relayed, tuple, told_ms, asked, leave, handed_over };
                session.tell(now);
                Ok(session)
            }
            Err(refusal) => {
                journal.refused(route, worker, refusal);
                Err(refusal)
            }
        }
    }

    /// Goes on with another target.
    pub(super) fn move_to(&mut self, upstream: Upstream, now: common::time::Instant) {
        self.journal.moved(upstream.target());
        self.upstream = upstream;
        self.tell(now);
    }

    /// Bytes have gone to the target.
    pub(super) fn passed_on(&self, bytes: u64) {
        let relayed = self.relayed.get();
        self.relayed.set(Relayed { to_target: relayed.to_target + bytes, ..relayed });
        self.asked.set(true);
        self.at_target().bytes_to_target.add(bytes);
    }

    /// Bytes have come from the target.
    pub(super) fn answered(&self, bytes: u64) {
        let relayed = self.relayed.get();
        let answered = relayed.answered.or_else(|| Some(Instant::now()));
        self.relayed.set(Relayed { answered, to_client: relayed.to_client + bytes, ..relayed });
        self.at_target().bytes_to_client.add(bytes);
    }

    fn at_target(&self) -> &TargetCounters {
        self.upstream.target().counters.of(self.seat.worker.index)
    }

    /// Tells of its target, and that it is here.
    pub(super) fn tell(&self, now: common::time::Instant) {
        let sessions = self.sessions();
        if sessions.is_listened_to() {
            let id = Arc::from(self.upstream.target().key.id.as_str());
            sessions.hold(&self.tuple, &id, now);
        }
    }

    /// Tells now and then that it goes on, as its last datagram shows; or, once it has gone on for long enough without its virtual IP, that
    /// the other node is to.
    pub(super) fn go_on(&self, now_ms: u64, active_ms: u64, idle_ms: u64, now: common::time::Instant) {
        if self.is_due(now_ms) {
            if !self.handed_over.replace(true) {
                self.sessions().release(&self.tuple);
            }
            return;
        }
        self.handed_over.set(false);
        if active_ms.saturating_sub(self.told_ms.get()) < idle_ms / TOLD_PARTS {
            return;
        }
        self.told_ms.set(active_ms);
        let asked = self.asked.replace(false);
        match self.sessions().go_on(&self.tuple, now) {
            Some(Holder::Us) => {}
            // The other node has begun one for the client. What only the target of this one says is no reason to take that one's place, nor
            // is what the client has said before the virtual IP left.
            Some(Holder::Other) if !asked || self.is_away() => {}
            Some(_) | None => self.tell(now),
        }
    }

    /// Whether its virtual IP is elsewhere now.
    pub(super) fn is_away(&self) -> bool {
        self.leave.as_ref().is_some_and(Leave::is_away)
    }

    /// Whether it has gone on for long enough after its virtual IP had left, and the other node has heard of it.
    pub(super) fn is_drained(&self, now_ms: u64) -> bool {
        self.handed_over.get() && self.is_due(now_ms.saturating_sub(HANDOVER_MS))
    }

    fn is_due(&self, now_ms: u64) -> bool {
        self.leave.as_ref().is_some_and(|leave| leave.is_due(now_ms))
    }

    fn sessions(&self) -> &StickyTable<Tuple> {
        &self.seat.route.service.shared.sessions
    }

    /// Counts and logs how it ended. If its entry `stays`, another one with the same target may follow, on either node.
    pub(super) fn end(self, end: SessionEnd, stays: bool) {
        if stays {
            self.sessions().release(&self.tuple);
        } else {
            self.sessions().leave(&self.tuple);
        }
        self.seat.counters().udp.ends[end.index()].add(1);
        self.journal.ended(&self.seat, self.upstream.target(), end.name(), self.relayed.get());
    }
}

/// A socket connected to a target.
///
/// Being connected it gets datagrams from nobody else, and the kernel tells it when ICMP says that nobody is there.
pub(super) struct Upstream {
    socket: UdpSocket,
    /// Answers that the client did not get because they came faster than they could be read.
    pub(super) queue_drops: QueueDrops,
    occupied: Occupied,
    worker: Rc<Worker>,
}

impl Upstream {
    fn new(worker: &Rc<Worker>, occupied: Occupied, socket: UdpSocket) -> Self {
        let counters = occupied.target.counters.of(worker.index);
        counters.connected.add(1);
        counters.open.add(1);
        Self { socket, queue_drops: QueueDrops::default(), occupied, worker: Rc::clone(worker) }
    }

    /// Where it is connected to.
    pub(super) const fn target(&self) -> &Arc<Target> {
        &self.occupied.target
    }

    /// How its target stands.
    pub(super) fn standing(&self) -> Standing {
        standing(&self.occupied.target)
    }

    /// The target could not be reached; it is counted.
    pub(super) fn failed(&self, error: &io::Error) {
        report(&self.worker, self.target(), error);
    }
}

impl AsFd for Upstream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.occupied.target.counters.of(self.worker.index).open.subtract_one();
    }
}

/// Opens a socket to a target that takes a new session, but not to `except`, and to the one of the id `home` if that serves the sessions
/// it has. There is nothing to wait for: whether anybody is there shows only with the first datagram.
pub(super) fn reach(
    seat: &Seat,
    pool: &Rc<Pool>,
    ends: &Ends,
    (except, home): (Option<&Arc<Target>>, Option<&str>),
    way: &mut Way,
) -> Result<Upstream, Refusal> {
    let place = |target: &Arc<Target>| pool.group.targets.iter().position(|it| Arc::ptr_eq(it, target));
    let mut tried: Vec<usize> = except.and_then(place).into_iter().collect();
    let source = seat.route.service.config.transparent.then_some(ends.client);
    let mut failed: Option<Arc<Target>> = None;
    for attempt in 0..pool.group.config.retry.tries() {
        if let Some(failed) = &failed {
            seat.retried(failed);
        }
        let at_home = home.filter(|_| attempt == 0).and_then(|home| occupy_home(&seat.worker, pool, home));
        let choice = at_home
            .map_or_else(|| occupy(&seat.worker, pool, ends, &Tie::default(), &tried), Choice::Occupied);
        let occupied = match choice {
            Choice::Occupied(occupied) => occupied,
            // A datagram does not wait in a queue: by the time there is room its sender has sent it again.
            Choice::Full => return Err(Refusal::TargetsFull),
            Choice::Nobody => return Err(Refusal::NoTarget),
        };
        way.tries += 1;
        if pool.group.panics() {
            seat.counters().unhealthy_tries.add(1);
        }
        match connect(occupied.target.key.address, source) {
            Ok(socket) => return Ok(Upstream::new(&seat.worker, occupied, socket)),
            Err(error) if is_unreachable(&error) => {
                report(&seat.worker, &occupied.target, &error);
                tried.push(occupied.index);
                failed = Some(Arc::clone(&occupied.target));
            }
            // The client cannot speak to it in its own name: one of its own family has to serve it.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                say(seat, &occupied.target, &error);
                tried.push(occupied.index);
                failed = Some(Arc::clone(&occupied.target));
            }
            Err(error) => {
                // Nothing that a target could be blamed for, and nothing that another one would change.
                seat.counters().udp.socket_errors.add(1);
                say(seat, &occupied.target, &error);
                return Err(Refusal::Local);
            }
        }
    }
    Err(Refusal::NoTarget)
}

/// Takes a place at the target of this id if it serves the sessions that it has: it may be on its way out.
fn occupy_home(worker: &Worker, pool: &Rc<Pool>, home: &str) -> Option<Occupied> {
    let index = pool.group.targets.iter().position(|target| target.key.id == home)?;
    match standing(&pool.group.targets[index]) {
        Standing::Serves => {}
        Standing::Until(end_ms) if end_ms > worker.connections.now_ms() => {}
        Standing::Until(_) | Standing::Gone => return None,
    }
    pool.take(index)
}

/// How a target stands to the sessions that it has.
fn standing(target: &Target) -> Standing {
    if target.failed() {
        return Standing::Gone;
    }
    match target.close_at_ms() {
        u64::MAX => Standing::Serves,
        end_ms => Standing::Until(end_ms),
    }
}

/// What names a session on both nodes.
fn tuple(ends: &Ends) -> Tuple {
    let key = FlowKey::new(ends.protocol, ends.client, ends.local);
    // As many bytes as it has.
    key.to_bytes().try_into().unwrap_or([0; 40])
}

/// Says that there is no socket for a session to this target, unless that was said just now.
fn say(seat: &Seat, target: &Target, error: &io::Error) {
    if let Some(unsaid) = seat.route.troubles.due(seat.worker.clock().now_ms()) {
        let service = &seat.route.service.config.name;
        tracing::warn!(service, target = %target.key, %error, unsaid, "this host cannot open a socket for a session");
    }
}

fn report(worker: &Worker, target: &Target, error: &io::Error) {
    tracing::debug!(target = %target.key, %error, "a target cannot be reached");
    target.counters.of(worker.index).connect_errors.add(1);
    target.report_failure(FailureKind::Unreachable);
}

fn connect(target: SocketAddr, source: Option<SocketAddr>) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(target), Type::DGRAM, Some(Protocol::UDP))?;
    setsockopt(&socket, sockopt::RxqOvfl, &1)?;
    // Without this the kernel tells a socket only of an unreachable port, not of an unreachable host.
    if target.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
    }
    if let Some(client) = source {
        speak_as(&socket, client, target)?;
    }
    socket.connect(&target.into())?;
    Ok(socket.into())
}

/// Has datagrams come from the client's address. The port is one of this host's: the client's own might be that of another
/// session, through another address of ours.
fn speak_as(socket: &Socket, client: SocketAddr, target: SocketAddr) -> io::Result<()> {
    let ip = client.ip();
    if ip.is_ipv4() != target.is_ipv4() {
        let what = format!("`transparent` cannot have {ip} speak to a target of the other address family");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let allowed =
        if ip.is_ipv4() { socket.set_ip_transparent_v4(true) } else { socket.set_ip_transparent_v6(true) };
    allowed.map_err(|error| {
        let what = format!("`transparent` takes root or the capability CAP_NET_ADMIN: {error}");
        io::Error::new(error.kind(), what)
    })?;
    socket.bind(&SocketAddr::new(ip, 0).into())
}

/// Whether an error of a session's socket says that its target cannot be reached, which is the target's failure.
pub(super) fn is_unreachable(error: &io::Error) -> bool {
    let Some(code) = error.raw_os_error() else { return false };
    let known = [
        libc::ECONNREFUSED,
        libc::EHOSTUNREACH,
        libc::ENETUNREACH,
        libc::EHOSTDOWN,
        libc::ENONET,
        libc::EACCES,
        libc::EPROTO,
        libc::ENOPROTOOPT,
        libc::EOPNOTSUPP,
    ];
    known.contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_words_for_nobody_there() {
        let error = io::Error::from_raw_os_error;
        assert!(is_unreachable(&error(libc::ECONNREFUSED)) && is_unreachable(&error(libc::EHOSTUNREACH)));
        assert!(!is_unreachable(&error(libc::EMFILE)) && !is_unreachable(&error(libc::EAGAIN)));
        assert!(!is_unreachable(&error(libc::EMSGSIZE)), "that is the datagram's fault");
    }
}
