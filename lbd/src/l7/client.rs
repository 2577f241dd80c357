//! One client's connection, from its acceptance to its end: request after request.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::config::Mode;
use common::rng::Rng;
use lbd_core::http::answer::Answer;
use lbd_core::http::framing::{Fault, Scanner};
use lbd_core::http::pass_on::Afterwards;
use socket2::SockRef;

use super::handshake::{self, Encrypted};
use super::journal::Journal;
use super::kept::Upstream;
use super::plan::{Circumstances, Plan, Step};
use super::site::response_changes;
use super::stream::Stream;
use super::transport::Transport;
use super::tunnel;
use super::watch::{Watch, Why};
use crate::clock::unix_now;
use crate::executor::yield_now;
use crate::l4::{
    BUFFER_BYTES, Departure, Ends, Leave, Occupied, Seat, Socket, TCP, read_preamble, reset_on_close,
};
use crate::random;
use crate::tls::Protocol;
use crate::worker::Route;

/// How long, and how much, is still read of a client that was answered before it had said all: closed at once, the connection would
/// be reset by what comes, and the answer be lost on its way.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 1 << 20;

/// After so many requests the worker's other connections get their turn: a client that sends the next one before it has read an answer
/// need not be waited for at any point.
const REQUESTS_PER_TURN: u32 = 16;

thread_local! {
    /// For numbers that requests are known by; they are no secrets.
    static REQUEST_IDS: RefCell<Rng> = RefCell::new(Rng::new(random::number()));
}

/// A client's connection.
pub(super) struct Connection {
    /// Its place among those of its service.
    pub(super) seat: Seat,
    /// The client.
    pub(super) stream: Stream,
    /// Both ends, as they are told to targets.
    pub(super) ends: Ends,
    /// What ends its waits.
    pub(super) watch: Watch,
    /// What there is to know of its encryption, if it is encrypted.
    encrypted: Option<Box<Encrypted>>,
    /// Who is at the other end: the client, or a proxy in front of it.
    peer: IpAddr,
    /// The listener's address.
    listen: SocketAddr,
    departure: Option<Rc<Departure>>,
    /// The service as it was when it was last there.
    known: Rc<Route>,
    /// Whether a request was served on it.
    served: bool,
}

/// What follows a request.
pub(super) enum Next {
    /// The next one.
    Request,
    /// The end, once the client has taken what was sent.
    Finish,
    /// The end, in a way that the client cannot take for a proper one.
    Abort,
    /// No requests any more.
    Tunnel(Box<(Upstream, Occupied)>),
}

/// Why there is no head.
enum NoHead {
    /// The client has closed the connection, or sends nothing more.
    Over,
    /// What came is none.
    Fault(Fault),
    /// It took too long.
    Late,
}

/// Serves the requests of a connection until it has ended.
pub(crate) async fn serve(mut seat: Seat, client: Socket, peer: SocketAddr, listen: SocketAddr) {
    let began = Instant::now();
    // A listener on all addresses does not say which one the client came to.
    let local = if listen.ip().is_unspecified() { client.local_addr().unwrap_or(listen) } else { listen };
    let mut ends = Ends { client: peer, local, protocol: TCP };
    let mut ahead = Vec::new();
    if seat.route.service.guard.trusts(peer.ip()) {
        // Rare and large, so not a part of every connection's task.
        match Box::pin(read_preamble(&mut seat, &client, &mut ends, true)).await {
            Ok(preamble) => ahead = preamble.bytes,
            Err(_) => return reset_on_close(SockRef::from(&client)),
        }
    }
    let worker = Rc::clone(&seat.worker);
    let departure = worker.departure(local.ip());
    let leave = departure.as_ref().map(|departure| leave(&seat, departure));
    let known = Rc::clone(&seat.route);
    let watch = worker.watches.enter(leave);
    let (transport, ahead, encrypted) = match known.service.tls.as_deref() {
        // A configuration is only used with all its certificates. If not, this is no place to speak in clear text.
        None if known.service.config.http.as_ref().is_some_and(|http| http.tls.is_some()) => {
            return reset_on_close(SockRef::from(&client));
        }
        None => (Transport::Clear(client), ahead, None),
        // Large, so not a part of every connection's task.
        Some(tls) => match Box::pin(handshake::accept(&seat, client, ahead, &ends, &watch, tls)).await {
            Some((transport, encrypted)) => (transport, Vec::new(), Some(Box::new(encrypted))),
            None => return,
        },
    };
    let protocol = encrypted.as_ref().map_or(Protocol::Http1, |encrypted| encrypted.protocol);
    let mut connection = Connection {
        stream: Stream::new(transport, ahead, &worker.buffers),
        watch,
        encrypted,
        seat,
        ends,
        peer: peer.ip(),
        listen,
        departure,
        known,
        served: false,
    };
    // What was agreed on decides here, and nowhere else, what is spoken.
    let end = match protocol {
        Protocol::Http1 => connection.serve().await,
        // Nobody is offered it.
        Protocol::Http2 => Next::Abort,
    };
    connection.seat.counters().durations.record(began.elapsed());
    match end {
        Next::Request => {}
        Next::Finish => connection.finish().await,
        Next::Abort => reset_on_close(SockRef::from(connection.stream.transport.socket())),
        Next::Tunnel(tunnel) => Box::pin(connection.tunnel(*tunnel)).await,
    }
}

fn leave(seat: &Seat, departure: &Rc<Departure>) -> Leave {
    let drain = seat.route.service.group.config.drain_timeout;
    Leave {
        departure: Rc::clone(departure),
        since_ms: seat.worker.connections.now_ms(),
        drain_ms: u64::try_from(drain.as_millis()).unwrap_or(u64::MAX),
    }
}

impl Connection {
    /// Serves request after request of HTTP/1, and says what follows the last one.
    async fn serve(&mut self) -> Next {
        let mut requests = 0_u32;
        loop {
            match self.request().await {
                Next::Request => self.served = true,
                end => return end,
            }
            requests = requests.wrapping_add(1);
            if requests.is_multiple_of(REQUESTS_PER_TURN) {
                yield_now().await;
            }
        }
    }

    /// Reads a request and has it answered.
    async fn request(&mut self) -> Next {
        self.watch.set_target(None);
        let route = Rc::clone(&self.known);
        let (head, begin) = match self.read_head(&route).await {
            Ok(found) => found,
            Err(NoHead::Over) => return Next::Finish,
            Err(NoHead::Late) => return self.answer_late(&route).await,
            Err(NoHead::Fault(fault)) => return self.refuse(&route, Instant::now(), fault).await,
        };
        self.watch.set_busy();
        // Whoever waited may find another configuration.
        if let Some(current) = self.current() {
            self.known = current;
        }
        let route = Rc::clone(&self.known);
        let mut journal = Journal::begin(&route, begin);
        if let Some(site) = &route.http {
            site.earn();
        }
        let guard = &route.service.guard;
        let over_rate =
            guard.has_rate() && !guard.within_rate(self.ends.client.ip(), self.seat.worker.clock().at());
        let around = Circumstances {
            route: &route,
            ends: &self.ends,
            peer: self.peer,
            request_id: REQUEST_IDS
                .with_borrow_mut(|ids| u128::from(ids.next_u64()) << 64 | u128::from(ids.next_u64())),
            over_rate,
            encrypted: self.encrypted.as_deref(),
            closing: self.closing(),
        };
        let made = Plan::make(&self.stream.inbound.bytes()[head.clone()], &around);
        let mut plan = match made {
            Ok(plan) => plan,
            Err(fault) => return self.refuse(&route, begin, fault).await,
        };
        self.stream.inbound.consume(head.end);
        if over_rate {
            self.seat.counters().http.over_rate.add(1);
        }
        journal.understood(plan.asking.take());
        match std::mem::replace(&mut plan.step, Step::Answer(Vec::new(), 0)) {
            Step::Forward(pool, head) => self.forward(&route, plan, pool, head, journal).await,
            Step::Answer(bytes, status) => {
                let kept = plan.afterwards() != Afterwards::Closed;
                self.own_answer(&route, journal, &bytes, status, "answered", kept).await
            }
        }
    }

    /// Waits for a head. Answers where in what was read it is, and when its first byte came.
    async fn read_head(&mut self, route: &Route) -> Result<(Range<usize>, Instant), NoHead> {
        let timeouts = &route.service.config.timeout;
        // A head that fills the buffer leaves no room to find out that it is too long.
        let max = route.service.config.http.as_ref().map_or(0, |http| http.header_bytes_max);
        let max = max.min(BUFFER_BYTES - 1);
        let mut scanner = Scanner::default();
        let mut begin = None;
        self.watch.set_free();
        // Whoever connects has something to say; whoever was answered may take its time.
        self.watch.limit(if self.served { timeouts.idle } else { timeouts.header });
        loop {
            let found = scanner.scan(self.stream.inbound.bytes(), max).map_err(NoHead::Fault)?;
            if !scanner.is_new() && begin.is_none() {
                begin = Some(Instant::now());
                self.watch.limit(timeouts.header);
            }
            if let Some(head) = found {
                return Ok((head, begin.unwrap_or_else(Instant::now)));
            }
            self.stream.inbound.settle();
            match self.watch.wait(self.stream.fill()).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0) | Err(_)) => return Err(NoHead::Over),
                // Only who has begun a request is told why it is over.
                Err(Why::Due) if begin.is_some() => return Err(NoHead::Late),
                Err(_) => return Err(NoHead::Over),
            }
        }
    }

    /// The service as it is now, if the address is still its.
    fn current(&self) -> Option<Rc<Route>> {
        let same = |route: &Rc<Route>| {
            route.http.is_some() && route.service.config.name == self.known.service.config.name
        };
        self.seat.worker.route(Mode::Tcp, self.listen).filter(same)
    }

    /// Whether the client is to go elsewhere with its next request: the daemon stops, the virtual IP has left, or the service is gone.
    pub(super) fn closing(&self) -> bool {
        self.seat.worker.is_stopping()
            || self.departure.as_ref().is_some_and(|departure| departure.is_away())
            || self.current().is_none()
    }

    /// Answers a request that is refused, and has nothing more read.
    async fn refuse(&mut self, route: &Rc<Route>, begin: Instant, fault: Fault) -> Next {
        self.seat.counters().http.faults[fault.index()].add(1);
        if let Some(unsaid) = route.complaints.due(self.seat.worker.clock().now_ms()) {
            let (service, client) = (&route.service.config.name, self.ends.client);
            tracing::debug!(service, %client, unsaid, "request refused: {fault}");
        }
        let journal = Journal::begin(route, begin);
        self.plain(route, journal, fault.status(), fault.name()).await
    }

    /// A client that began a request has not ended its head in time.
    async fn answer_late(&mut self, route: &Rc<Route>) -> Next {
        let journal = Journal::begin(route, Instant::now());
        self.plain(route, journal, 408, "header_timeout").await
    }

    /// Answers with a status and no more, and closes.
    pub(super) async fn plain(
        &mut self,
        route: &Rc<Route>,
        journal: Journal,
        status: u16,
        end: &str,
    ) -> Next {
        let mut bytes = Vec::new();
        if let Some(http) = &route.service.config.http {
            let changes = response_changes(http, None);
            Answer::plain(status).write(false, Afterwards::Closed, changes, unix_now(), &mut bytes);
        }
        self.own_answer(route, journal, &bytes, status, end, false).await
    }

    /// Sends an answer that no target has given.
    pub(super) async fn own_answer(
        &mut self,
        route: &Rc<Route>,
        mut journal: Journal,
        bytes: &[u8],
        status: u16,
        end: &str,
        kept: bool,
    ) -> Next {
        self.watch.limit(route.service.config.timeout.idle);
        let sent = self.watch.wait(self.stream.transport.write_all(bytes)).await;
        let sent = matches!(sent, Ok(Ok(())));
        if sent {
            journal.moved(0, bytes.len() as u64);
            self.seat.counters().bytes_to_client.add(bytes.len() as u64);
        }
        let worker = (self.seat.worker.index, self.seat.counters());
        journal.ended(route, worker, &self.ends, None, status, end);
        match (sent, kept) {
            (true, true) => Next::Request,
            (true, false) => Next::Finish,
            (false, _) => Next::Abort,
        }
    }

    /// Closes the connection so that what was sent last arrives, whatever the client still sends.
    async fn finish(mut self) {
        self.watch.limit(LINGER);
        // Also where the client has finished: what it has sent and nobody has read would have the kernel reset the connection.
        if !matches!(self.watch.wait(self.stream.transport.finish()).await, Ok(Ok(()))) {
            return;
        }
        self.watch.limit(LINGER);
        let mut left = LINGER_BYTES_MAX;
        loop {
            let held = self.stream.inbound.bytes().len();
            self.stream.inbound.consume(held);
            match self.watch.wait(self.stream.fill()).await {
                Ok(Ok(count @ 1..)) if count < left => left -= count,
                _ => return,
            }
        }
    }

    async fn tunnel(self, (upstream, occupied): (Upstream, Occupied)) {
        let leave = self.departure.as_ref().map(|departure| leave(&self.seat, departure));
        tunnel::run(&self.seat, self.stream, upstream, &occupied, &self.watch, leave).await;
    }

    /// Sends what precedes the answer proper.
    pub(super) async fn send(&self, bytes: &[u8]) -> Result<io::Result<()>, Why> {
        self.watch.wait(self.stream.transport.write_all(bytes)).await
    }
}
