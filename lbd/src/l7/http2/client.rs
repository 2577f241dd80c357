//! A client's connection of HTTP/2: streams begin, and some day it ends.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::config::Http;
use h2::Reason;
use h2::server::{self, Builder};
use lbd_core::http::conduct::Offence;

use super::request;
use super::wire::{Eye, Wire};
use super::{CONNECTION_WINDOW_BYTES, SEND_BUFFER_BYTES, STREAM_WINDOW_BYTES};
use crate::l7::Cut;
use crate::l7::client::{Connection, LINGER, LINGER_MS};
use crate::l7::session::Session;
use crate::l7::watch::{Watch, Why};

/// So many streams that their client has reset may wait to be looked at (RFC 9113 does not count them as open).
const RESET_STREAMS_MAX: usize = 50;

/// Serves the requests of a connection until it has ended.
pub(in crate::l7) async fn serve(connection: Connection, began: Instant) {
    let Connection { session, stream, .. } = connection;
    let session = Rc::new(session);
    let watch = session.seat.worker.watches.enter(session.leave_last());
    let known = session.known();
    let Some(http) = &known.service.config.http else { return };
    session.seat.counters().http.http2_connections.add(1);
    let eye = Eye::new(&session.seat.worker);
    let handshake = builder(http).handshake::<_, Bytes>(Wire::of_client(stream, &eye));
    watch.limit(known.service.config.timeout.header);
    if let Ok(Ok(connection)) = watch.wait(handshake).await {
        let mut host = Host {
            connection,
            watch: &watch,
            eye: &eye,
            session: &session,
            open: Rc::default(),
            stage: Stage::Serving,
            refuses_from_ms: u64::MAX,
            ends_at_ms: u64::MAX,
            free: None,
            served: false,
        };
        watch.tell_leaving();
        poll_fn(|context| host.poll(context)).await;
    }
    session.seat.counters().durations.record(began.elapsed());
}

fn builder(http: &Http) -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(http.streams_max)
        .max_header_list_size(u32::try_from(http.header_bytes_max).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .enable_connect_protocol();
    builder
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Streams begin.
    Serving,
    /// The client was told to begin no more (RFC 9113, section 6.8); those that are there go on.
    Leaving,
    /// Only what was sent has to arrive.
    Ending,
}

/// The streams that are open, and who wants to know when there is none any more.
#[derive(Debug, Default)]
struct Open {
    count: Cell<usize>,
    waker: RefCell<Option<Waker>>,
}

/// One of them.
pub(super) struct Guest(Rc<Open>);

impl Guest {
    fn enter(open: &Rc<Open>) -> Self {
        open.count.set(open.count.get() + 1);
        Self(Rc::clone(open))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let left = self.0.count.get() - 1;
        self.0.count.set(left);
        if left == 0
            && let Some(waker) = &*self.0.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }
}

/// What the decoder has ended a connection for, if it was that which did.
fn offence(error: &h2::Error) -> Option<Offence> {
    match error.reason().filter(|_| error.is_library() && error.is_go_away())? {
        Reason::NO_ERROR => None,
        Reason::ENHANCE_YOUR_CALM => Some(Offence::Decoder),
        _ => Some(Offence::Protocol),
    }
}

struct Host<'h> {
    connection: server::Connection<Wire, Bytes>,
    watch: &'h Watch,
    eye: &'h Eye,
    session: &'h Rc<Session>,
    open: Rc<Open>,
    stage: Stage,
    /// When a client that was told to begin no more streams, and has not said that it knows, has had long enough for that.
    refuses_from_ms: u64,
    /// When all ends of a connection whose time is over.
    ends_at_ms: u64,
    /// Whether no stream is open, as it was looked at last.
    free: Option<bool>,
    /// One was.
    served: bool,
}

impl Host<'_> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut waker = self.open.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|old| old.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        drop(waker);
        loop {
            if self.stage != Stage::Ending
                && let Some(offence) = self.eye.offence()
            {
                self.expel(offence);
            }
            if self.stage == Stage::Serving && self.session.closing() {
                self.tell_to_leave();
            }
            match self.connection.poll_accept(context) {
                Poll::Ready(Some(Ok((_, mut respond)))) if self.refuses() => {
                    // RFC 9113, section 8.7: that was "closed prior to any processing having occurred", so that it may be asked elsewhere.
                    respond.send_reset(Reason::REFUSED_STREAM);
                    self.session.seat.counters().http.cuts[Cut::Drained.index()].add(1);
                }
                Poll::Ready(Some(Ok((request, respond)))) => {
                    let guest = Guest::enter(&self.open);
                    self.served = true;
                    let task = request::serve(guest, Rc::clone(self.session), request, respond);
                    self.session.seat.worker.executor.spawn(task);
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Ready(Some(Err(error))) => {
                    if self.stage != Stage::Ending
                        && let Some(offence) = offence(&error)
                    {
                        self.take_down(offence);
                    }
                    return Poll::Ready(());
                }
                Poll::Pending if self.stage != Stage::Ending && self.eye.offence().is_some() => {}
                Poll::Pending => {
                    self.look_at_the_time(context);
                    if self.stage != Stage::Ending {
                        return Poll::Pending;
                    }
                    // What is to be said last is sent at once; then there is only the time to wait for.
                    return match self.connection.poll_accept(context) {
                        Poll::Ready(None | Some(Err(_))) => Poll::Ready(()),
                        Poll::Ready(Some(Ok(_))) => {
                            context.waker().wake_by_ref();
                            Poll::Pending
                        }
                        Poll::Pending => self.watch.poll(context).map(|_| ()),
                    };
                }
            }
        }
    }

    /// A connection without streams may only last so long, one with streams is a matter of these.
    fn look_at_the_time(&mut self, context: &Context<'_>) {
        if self.stage == Stage::Ending {
            return;
        }
        let free = self.open.count.get() == 0;
        if self.free != Some(free) {
            self.free = Some(free);
            if free {
                self.watch.set_free();
                let timeout = self.session.known().service.config.timeout;
                // Whoever connects has something to say; whoever was answered may take its time.
                self.watch.limit(if self.served { timeout.idle } else { timeout.header });
            } else {
                self.watch.set_busy();
                self.watch.limit(Duration::MAX);
            }
        }
        match self.watch.poll(context) {
            Poll::Pending => {}
            // Every request's wait is over for the same reason, and each is answered for itself.
            Poll::Ready(Why::Drained | Why::Stopped) if !free => {
                if self.stage == Stage::Serving {
                    self.tell_to_leave();
                    context.waker().wake_by_ref();
                } else {
                    self.end_in_time();
                }
            }
            Poll::Ready(_) => self.end(Reason::NO_ERROR),
        }
    }

    /// Has the client begin no more streams. It knows which is the last one that is served once it has answered a ping; who does not answer that
    /// may go on for as long as who does, and not for ever: as long as any group of the service would serve a stream of before.
    fn tell_to_leave(&mut self) {
        let drain = self.session.known().service.last_to_drain().config.drain_timeout;
        let drain_ms = u64::try_from(drain.as_millis()).unwrap_or(u64::MAX);
        self.refuses_from_ms = self.now_ms().saturating_add(drain_ms);
        self.stage = Stage::Leaving;
        self.connection.graceful_shutdown();
    }

    /// Whether streams that begin are refused.
    fn refuses(&self) -> bool {
        self.stage == Stage::Leaving && self.refuses_from_ms <= self.now_ms()
    }

    /// Ends a connection whose time is over as soon as its streams, whose time is over, too, have been told so. Those that are there then have
    /// begun later, which only who heeds nothing does.
    fn end_in_time(&mut self) {
        let now_ms = self.now_ms();
        if self.ends_at_ms == u64::MAX {
            self.refuses_from_ms = now_ms;
            self.ends_at_ms = now_ms.saturating_add(LINGER_MS);
            self.watch.limit(LINGER);
        } else if self.ends_at_ms <= now_ms {
            self.end(Reason::NO_ERROR);
        }
    }

    fn now_ms(&self) -> u64 {
        self.session.seat.worker.connections.now_ms()
    }

    fn expel(&mut self, offence: Offence) {
        self.take_down(offence);
        self.end(Reason::ENHANCE_YOUR_CALM);
    }

    fn take_down(&self, offence: Offence) {
        self.session.seat.counters().http.http2_offences[offence.index()].add(1);
        let known = self.session.known();
        if let Some(unsaid) = known.complaints.due(self.session.seat.worker.clock().now_ms()) {
            let (service, client) = (&known.service.config.name, self.session.ends.client);
            tracing::debug!(service, %client, unsaid, reason = offence.name(), "HTTP/2 connection closed");
        }
    }

    fn end(&mut self, reason: Reason) {
        self.stage = Stage::Ending;
        self.connection.abrupt_shutdown(reason);
        self.watch.limit(LINGER);
    }
}
