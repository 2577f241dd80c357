//! Connections of HTTP/2 to targets, each for many requests at the same time.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::{self, Builder, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, SendStream};
use http::{Method, Request};
use tokio::sync::Notify;

use super::wire::Wire;
use super::{Incoming, SEND_BUFFER_BYTES, STREAM_WINDOW_BYTES, size};
use crate::l4::{Ends, Occupied, Refusal};
use crate::l7::flow::{Flow, Sink, Source};
use crate::l7::kept::{Open, is_same};
use crate::l7::session::Session;
use crate::l7::stream::Stream;
use crate::l7::target::{ANSWER_BYTES_MAX, Heads};
use crate::l7::upstream::{connected, introduce};
use crate::snapshot::Target;
use crate::tls::Origin;
use crate::worker::Worker;

/// More requests at the same time than this go on another connection, also where the target would take more on one.
const STREAMS_MAX: u32 = 100;

/// How much of all answers on a connection may have come that nobody has taken, in bytes: as much as of each together. They are of many clients, and
/// those who take nothing of theirs leave the others room.
const CONNECTION_WINDOW_BYTES: u32 = STREAMS_MAX * STREAM_WINDOW_BYTES;

/// More connections to a target than this a worker does not have; requests beyond that are refused.
const PER_TARGET_MAX: usize = 64;

/// How often it is looked which of them are of no use any more.
const LOOK_MS: u64 = 1000;

/// The connections of a worker.
#[derive(Default)]
pub(crate) struct Multiplexed {
    /// By the target's place in memory, which is its own as long as an entry holds it.
    by_target: RefCell<BTreeMap<*const Target, Lines>>,
    now_ms: Cell<u64>,
    looked_ms: Cell<u64>,
    /// How many have been made.
    made: Cell<u64>,
}

/// Those to one target.
struct Lines {
    /// Also what keeps its place in memory.
    target: Arc<Target>,
    open: Vec<Rc<Line>>,
    /// One that is being made, for all that want one meanwhile.
    dial: Option<Rc<Dial>>,
}

/// A connection.
struct Line {
    sender: SendRequest<Bytes>,
    /// Which one it is: later ones have higher numbers.
    number: u64,
    /// Requests under way.
    streams: Cell<usize>,
    /// How many it has had.
    requests: Rc<Cell<u64>>,
    /// How it is encrypted, if it is.
    origin: Option<Arc<Origin>>,
    /// Since when there is none.
    free_since_ms: Cell<u64>,
    /// It has ended, or gets no more requests.
    gone: Rc<Cell<bool>>,
    /// It was one request's, which has been answered, and leaves no port waiting for a minute as it ends. Those that many share end seldom, and
    /// may have requests on them that were given up: they are closed properly.
    ends_at_once: Rc<Cell<bool>>,
    /// Its place at the target, as long as it has not ended.
    open: Weak<Open>,
}

impl Line {
    /// Whether it takes a request.
    fn has_room(&self) -> bool {
        self.streams.get() < (STREAMS_MAX as usize).min(self.sender.current_max_send_streams())
    }

    /// Whether it takes no more requests at all: it has ended, or the target has said that it is going to, or has let one wait in vain.
    fn is_over(&self) -> bool {
        let mut sender = self.sender.clone();
        let ready = sender.poll_ready(&mut Context::from_waker(Waker::noop()));
        self.gone.get() || matches!(ready, Poll::Ready(Err(_)))
    }

    /// Whether it may be let go of. One that is over counts for as long as it has requests, or there would be any number of them.
    fn is_done(&self) -> bool {
        self.streams.get() == 0 && self.is_over()
    }

    /// It waits for its next request, or has one.
    fn set_kept(&self, kept: bool) {
        if let Some(open) = self.open.upgrade() {
            open.set_kept(kept);
        }
    }
}

/// A connection that is being made.
#[derive(Default)]
struct Dial {
    done: Notify,
    end: Cell<Option<Result<(), Refusal>>>,
}

/// Tells those that wait for a connection what came of it, also if nobody has waited for that.
struct Dialler<'d> {
    table: &'d Multiplexed,
    target: &'d Arc<Target>,
    dial: Rc<Dial>,
    end: Result<(), Refusal>,
}

impl Drop for Dialler<'_> {
    fn drop(&mut self) {
        self.dial.end.set(Some(self.end));
        if let Some(lines) = self.table.by_target.borrow_mut().get_mut(&Arc::as_ptr(self.target)) {
            lines.dial = None;
        }
        self.dial.done.notify_waiters();
    }
}

/// A request's place on a connection.
pub(in crate::l7) struct Lease {
    line: Rc<Line>,
    worker: Rc<Worker>,
    reused: bool,
    /// The connection is this request's alone.
    exclusive: bool,
}

impl Lease {
    fn new(line: &Rc<Line>, worker: &Rc<Worker>) -> Self {
        line.streams.set(line.streams.get() + 1);
        line.set_kept(false);
        let before = line.requests.get();
        line.requests.set(before + 1);
        Self { line: Rc::clone(line), worker: Rc::clone(worker), reused: before > 0, exclusive: false }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let left = self.line.streams.get() - 1;
        self.line.streams.set(left);
        self.line.free_since_ms.set(self.worker.multiplexed.now_ms.get());
        self.line.set_kept(left == 0);
    }
}

/// What there is for a request.
enum Place {
    Taken(Lease),
    Wait(Rc<Dial>),
    Dial(Rc<Dial>),
    Full,
}

/// A place on a connection to the target, on one made later than `newer_than` if that is given.
///
/// # Errors
/// Why there is none.
pub(in crate::l7) async fn lease(
    session: &Session,
    occupied: &Occupied,
    newer_than: Option<u64>,
) -> Result<Lease, Refusal> {
    let worker = &session.seat.worker;
    let table = &worker.multiplexed;
    let target = &occupied.target;
    loop {
        match table.place(worker, occupied, newer_than) {
            Place::Taken(lease) => {
                if lease.reused {
                    session.seat.counters().http.reused.add(1);
                    target.counters.of(worker.index).reused.add(1);
                }
                return Ok(lease);
            }
            Place::Full => return Err(Refusal::TargetsFull),
            Place::Wait(dial) => {
                dial.done.notified().await;
                // Whoever has waited for the same connection fails with it: each would only find out the same.
                if let Some(Err(refusal)) = dial.end.get() {
                    return Err(refusal);
                }
            }
            Place::Dial(dial) => {
                let mut dialler = Dialler { table, target, dial, end: Err(Refusal::ConnectFailed) };
                // Rare and large, so not a part of every request's task.
                match Box::pin(dial_up(session, &session.ends, occupied, false)).await {
                    Ok((line, _)) => {
                        dialler.end = Ok(());
                        // Before the others, who might leave no room on it.
                        let lease = Lease::new(&line, worker);
                        table.add(target, line);
                        return Ok(lease);
                    }
                    Err(refusal) => {
                        dialler.end = Err(refusal);
                        return Err(refusal);
                    }
                }
            }
        }
    }
}

/// A connection for one request: one that begins with the header that names its client, that this request may authenticate, or that is to be a
/// tunnel, which lasts and would leave others less room.
///
/// # Errors
/// Why there is none.
pub(in crate::l7) async fn exclusive(
    session: &Session,
    ends: &Ends,
    occupied: &Occupied,
    opens_tunnel: bool,
) -> Result<Lease, Refusal> {
    let worker = &session.seat.worker;
    let (line, pings) = dial_up(session, ends, occupied, opens_tunnel).await?;
    if let Some(mut pings) = pings {
        // What a target takes it says first of all (RFC 9113, section 3.4), so that is known once it has answered anything.
        let timeout = session.seat.route.service.config.timeout.connect;
        match worker.executor.timeout(timeout, pings.ping(Ping::opaque())).await {
            Some(Ok(_)) => {}
            Some(Err(_)) => return Err(Refusal::ConnectFailed),
            None => return Err(Refusal::ConnectTimeout),
        }
    }
    let mut lease = Lease::new(&line, worker);
    lease.exclusive = true;
    Ok(lease)
}

/// Makes a connection, and takes what it can be asked with whether it is there, if that `asks`.
async fn dial_up(
    session: &Session,
    ends: &Ends,
    occupied: &Occupied,
    asks: bool,
) -> Result<(Rc<Line>, Option<PingPong>), Refusal> {
    let worker = &session.seat.worker;
    let group = &occupied.pool.group;
    let transport = connected(session, ends, occupied).await?;
    let open = Rc::new(Open::new(worker, &occupied.target));
    let mut header = Vec::new();
    // On an encrypted connection it has gone before the handshake.
    if let Some(version) = group.config.send_proxy.filter(|_| group.tls.is_none()) {
        introduce(version, ends, &mut header);
    }
    let ends_at_once = Rc::<Cell<bool>>::default();
    let handshake = async {
        transport.write_all(&header).await.map_err(|_| ())?;
        let wire = Wire::to_target(Stream::new(transport, Vec::new(), &worker.buffers), &ends_at_once);
        builder().handshake::<_, Bytes>(wire).await.map_err(|_| ())
    };
    let timeout = session.seat.route.service.config.timeout.connect;
    let made = worker.executor.timeout(timeout, handshake).await;
    let Some(Ok((sender, mut connection))) = made else { return Err(Refusal::ConnectFailed) };
    let pings = if asks { connection.ping_pong() } else { None };
    let gone = Rc::new(Cell::new(false));
    let place = Rc::downgrade(&open);
    worker.executor.spawn(drive(connection, Rc::clone(&gone), open));
    let number = worker.multiplexed.made.get() + 1;
    worker.multiplexed.made.set(number);
    let line = Line {
        sender,
        number,
        streams: Cell::new(0),
        requests: Rc::default(),
        origin: group.tls.clone(),
        free_since_ms: Cell::new(worker.multiplexed.now_ms.get()),
        gone,
        ends_at_once,
        open: place,
    };
    Ok((Rc::new(line), pings))
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .initial_max_send_streams(STREAMS_MAX as usize)
        .max_header_list_size(u32::try_from(ANSWER_BYTES_MAX).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER_BYTES);
    builder
}

/// Moves what a connection has to move until it has ended: once nobody holds its line any more and its requests are done, or when the
/// target ends it.
async fn drive(connection: client::Connection<Wire, Bytes>, gone: Rc<Cell<bool>>, _open: Rc<Open>) {
    // Each request hears of it for itself.
    drop(connection.await);
    gone.set(true);
}

impl Multiplexed {
    fn place(&self, worker: &Rc<Worker>, occupied: &Occupied, newer_than: Option<u64>) -> Place {
        let (target, origin) = (&occupied.target, occupied.pool.group.tls.as_ref());
        let mut by_target = self.by_target.borrow_mut();
        let lines = by_target.entry(Arc::as_ptr(target)).or_insert_with(|| Lines {
            target: Arc::clone(target),
            open: Vec::new(),
            dial: None,
        });
        // The first ones that have room, so that those behind them become free.
        let number = newer_than.unwrap_or_default();
        let mut index = 0;
        while let Some(line) = lines.open.get(index) {
            if line.number <= number || !line.has_room() {
                index += 1;
            } else if !line.is_over() && is_same(line.origin.as_ref(), origin) {
                return Place::Taken(Lease::new(line, worker));
            } else if line.streams.get() == 0 {
                lines.open.remove(index);
            } else {
                index += 1;
            }
        }
        if let Some(dial) = &lines.dial {
            return Place::Wait(Rc::clone(dial));
        }
        if lines.open.len() >= PER_TARGET_MAX {
            lines.open.retain(|line| !line.is_done());
            if lines.open.len() >= PER_TARGET_MAX {
                return Place::Full;
            }
        }
        let dial = Rc::<Dial>::default();
        lines.dial = Some(Rc::clone(&dial));
        Place::Dial(dial)
    }

    fn add(&self, target: &Arc<Target>, line: Rc<Line>) {
        if let Some(lines) = self.by_target.borrow_mut().get_mut(&Arc::as_ptr(target)) {
            lines.open.push(line);
        }
    }

    /// Takes the time, and now and then lets go of what has been unused for long, is over or leads to a target that gets nothing more.
    pub(crate) fn tick(&self, now_ms: u64) {
        self.now_ms.set(now_ms);
        if now_ms < self.looked_ms.get() + LOOK_MS {
            return;
        }
        self.looked_ms.set(now_ms);
        self.by_target.borrow_mut().retain(|_, lines| {
            let (gets_more, mut free) = (lines.target.share() > 0, 0);
            // Of the configuration in force, also for those that wait already.
            let (idle_ms, max) = (lines.target.keep_idle_ms(), lines.target.keep_max());
            lines.open.retain(|line| {
                let is_free = line.streams.get() == 0;
                let waited_ms = now_ms.saturating_sub(line.free_since_ms.get());
                let waits = gets_more && waited_ms < idle_ms && free < max;
                let stays = !is_free || waits && !line.is_over();
                free += usize::from(stays && is_free);
                stays
            });
            !lines.open.is_empty() || lines.dial.is_some()
        });
    }

    /// Lets go of all; requests under way go on.
    pub(crate) fn close_all(&self) {
        self.by_target.borrow_mut().values_mut().for_each(|lines| lines.open.clear());
    }
}

impl std::fmt::Debug for Multiplexed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let targets = self.by_target.borrow().len();
        f.debug_struct("Multiplexed").field("targets", &targets).finish_non_exhaustive()
    }
}

/// A request on its stream to a target.
pub(in crate::l7) struct TargetStream {
    lease: Lease,
    state: State,
}

enum State {
    /// Nothing was sent.
    New,
    /// Something of the request was.
    Asked(SendStream<Bytes>, ResponseFuture),
    /// The answer's head has come; what is left of the request may still go.
    Answered(SendStream<Bytes>, Incoming),
}

impl TargetStream {
    /// One that is to begin on this connection.
    pub(in crate::l7) const fn new(lease: Lease) -> Self {
        Self { lease, state: State::New }
    }

    /// Whether the connection has had requests before.
    pub(in crate::l7) const fn is_reused(&self) -> bool {
        self.lease.reused
    }

    /// How many requests the connection has had, now and later on.
    pub(in crate::l7) fn requests(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.lease.line.requests)
    }

    /// The connection's number.
    pub(in crate::l7) fn age(&self) -> u64 {
        self.lease.line.number
    }

    /// Has the connection get no more requests; those that are under way on it go on. Whoever hangs holds all of its connections and makes no
    /// others, so the next one leads to whoever there is by now.
    pub(in crate::l7) fn retire(&self) {
        self.lease.line.gone.set(true);
    }

    /// The request has gone whole, and so has its answer come: has the connection end at once if it is nobody else's.
    pub(in crate::l7) fn end_at_once(&self) {
        if self.lease.exclusive {
            self.lease.line.ends_at_once.set(true);
        }
    }

    /// Whether the target has said that a stream may become a tunnel (RFC 8441, section 3).
    pub(in crate::l7) fn takes_tunnels(&self) -> bool {
        self.lease.line.sender.is_extended_connect_protocol_enabled()
    }

    /// Sends the head; `up` brings what follows, if anything does.
    ///
    /// # Errors
    /// The connection takes no more requests.
    pub(in crate::l7) fn ask(&mut self, head: &Request<()>, up: &mut Flow<'_>) -> Result<(), h2::Error> {
        // Kept for another try.
        let head = head.clone();
        let bytes = size(head.headers()) + head.uri().path().len();
        // What goes through a tunnel comes once there is one.
        let ends = up.is_empty() && head.method() != Method::CONNECT;
        let (response, stream) = self.lease.line.sender.clone().send_request(head, ends)?;
        self.state = State::Asked(stream, response);
        up.head_sent(bytes);
        Ok(())
    }

    /// The answer's head has come, and this is what follows.
    pub(in crate::l7) fn set_body(&mut self, body: Incoming) {
        if let State::Asked(stream, _) | State::Answered(stream, _) =
            std::mem::replace(&mut self.state, State::New)
        {
            self.state = State::Answered(stream, body);
        }
    }

    /// Where the answer's heads come from, and where the request goes.
    pub(in crate::l7) const fn heads(&mut self) -> (Heads<'_>, Sink<'_>) {
        match &mut self.state {
            State::Asked(stream, response) => (Heads::Http2(response), Sink::Http2(stream)),
            State::New | State::Answered(..) => (Heads::Nobody, Sink::Nobody),
        }
    }

    /// Where the answer's body comes from, and where the request goes.
    pub(in crate::l7) const fn halves(&mut self) -> (Source<'_>, Sink<'_>) {
        match &mut self.state {
            State::Answered(stream, body) => (Source::Http2(body), Sink::Http2(stream)),
            State::New | State::Asked(..) => (Source::Nobody, Sink::Nobody),
        }
    }
}
