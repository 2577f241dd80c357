//! One client's connection, from its acceptance: what is spoken on it, and with HTTP/1 request after request until its end.

use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::task::Context;
use std::time::{Duration, Instant};

use common::config::Http;
use lbd_core::http::conduct::PREFACE;
use lbd_core::http::framing::{Fault, Scanner, parse_request};
use socket2::SockRef;

use super::exchange::{Client, Exchange};
use super::flow::Sink;
use super::handshake;
use super::http2;
use super::journal::Journal;
use super::session::Session;
use super::stream::Stream;
use super::transport::Transport;
use super::tunnel::{self, Far};
use super::watch::{Watch, Why};
use crate::executor::yield_now;
use crate::l4::{BUFFER_BYTES, Ends, Seat, Socket, TCP, read_proxy_header, reset_on_close};
use crate::tls::Protocol;
use crate::worker::Route;

/// How long, and how much, is still read of a client that was answered before it had said all: closed at once, the connection would
/// be reset by what comes, and the answer be lost on its way.
pub(super) const LINGER_MS: u64 = 2000;
pub(super) const LINGER: Duration = Duration::from_millis(LINGER_MS);
pub(super) const LINGER_BYTES_MAX: usize = 1 << 20;

/// After so many requests the worker's other connections get their turn: a client that sends the next one before it has read an answer
/// need not be waited for at any point.
const REQUESTS_PER_TURN: u32 = 16;

/// A client's connection.
pub(super) struct Connection {
    /// What its requests have in common.
    pub(super) session: Session,
    /// The client.
    pub(super) stream: Stream,
    /// What ends its waits.
    pub(super) watch: Watch,
    /// Whether a request was served on it.
    served: bool,
}

/// What follows a request.
pub(super) enum Next {
    /// The next one.
    Request,
    /// The end, once the client has taken what was sent.
    Finish,
    /// The same, and the client has said that it sends nothing more.
    Close,
    /// The end, in a way that the client cannot take for a proper one.
    Abort,
    /// No requests any more.
    Tunnel(Box<Far>),
    /// The client speaks HTTP/2.
    Http2,
}

/// Why there is no head.
enum NoHead {
    /// The client has closed the connection, or sends nothing more.
    Over,
    /// What came is none.
    Fault(Fault),
    /// It took too long.
    Late,
    /// What came begins a connection of HTTP/2.
    Http2,
}

/// How far what a client has sent first is the preface of HTTP/2.
fn preface(bytes: &[u8]) -> Preface {
    match bytes.get(..PREFACE.len()) {
        Some(begin) if begin == PREFACE => Preface::Whole,
        None if PREFACE.starts_with(bytes) => Preface::Begun,
        _ => Preface::None,
    }
}

/// See [`preface`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Preface {
    None,
    Begun,
    Whole,
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
        let Some(behind) = Box::pin(read_proxy_header(&mut seat, &client, &mut ends)).await else { return };
        ahead = behind;
    }
    let worker = Rc::clone(&seat.worker);
    let mut session = Session::new(seat, ends, peer, local.ip(), listen);
    let watch = worker.watches.enter(session.leave());
    let known = session.known();
    let (transport, ahead) = match known.service.tls.as_deref() {
        // A configuration is only used with all its certificates. If not, this is no place to speak in clear text.
        None if known.service.config.http.as_ref().is_some_and(|http| http.tls.is_some()) => {
            return reset_on_close(SockRef::from(&client));
        }
        None => (Transport::Clear(client), ahead),
        // Large, so not a part of every connection's task.
        Some(tls) => {
            let made = handshake::accept(&session.seat, client, ahead, &session.ends, &watch, tls);
            let Some((transport, encrypted)) = Box::pin(made).await else { return };
            session.encrypted = Some(Box::new(encrypted));
            (transport, Vec::new())
        }
    };
    drop(known);
    let protocol = session.encrypted.as_ref().map_or(Protocol::Http1, |encrypted| encrypted.protocol);
    let stream = Stream::new(transport, ahead, &worker.buffers);
    let mut connection = Connection { stream, watch, session, served: false };
    // What was agreed on decides here, and nowhere else, what is spoken; in clear text the first bytes do.
    let end = match protocol {
        // What it takes to answer a request is given back before a tunnel begins, which may last.
        Protocol::Http1 => Box::pin(connection.serve()).await,
        Protocol::Http2 => Next::Http2,
    };
    // That of the others is not over.
    if !matches!(end, Next::Http2 | Next::Tunnel(_)) {
        connection.session.seat.counters().durations.record(began.elapsed());
    }
    match end {
        Next::Request => {}
        Next::Http2 => Box::pin(http2::serve(connection, began)).await,
        // RFC 9112, section 9.6: "A client that sends a "close" connection option MUST NOT send further requests on that connection". What
        // has come all the same would have the kernel reset it; and with TLS the end has to be said.
        Next::Close if connection.stream.is_quiet_in_clear() => {}
        Next::Finish | Next::Close => connection.finish().await,
        Next::Abort => reset_on_close(SockRef::from(connection.stream.transport.socket())),
        Next::Tunnel(tunnel) => tunnel::begin(connection, *tunnel, began),
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
        let route = self.session.known();
        let (head, begin, read) = match self.read_head(&route).await {
            Ok(found) => found,
            Err(NoHead::Over) => return Next::Finish,
            Err(NoHead::Http2) => return Next::Http2,
            Err(NoHead::Late) => return self.refusal().late(&route).await,
            Err(NoHead::Fault(fault)) => return self.refusal().refuse(&route, Instant::now(), fault).await,
        };
        self.watch.set_busy();
        // Whoever waited may find another configuration.
        let route = self.session.refreshed();
        let mut journal = Journal::begin(&route, begin, read);
        let Stream { transport, inbound } = &self.stream;
        let (parsed, mut client) = (parse_request(&inbound.bytes()[head.clone()]), Sink::Http1(transport));
        let gone = |context: &mut Context<'_>| client.poll_gone(context);
        let made = self.session.plan(&route, parsed, read, &self.watch, gone).await;
        match made {
            Ok(mut plan) => {
                self.stream.inbound.consume(head.end);
                self.exchange().perform(&route, &mut plan, &mut journal).await
            }
            Err(fault) => self.refusal().refuse(&route, begin, fault).await,
        }
    }

    const fn exchange(&mut self) -> Exchange<'_> {
        let client = Client::Http1(&mut self.stream);
        Exchange { session: &self.session, watch: &self.watch, client, filled: None, to_head: false }
    }

    /// The same for a request that was not understood, and is still what the bytes that were read begin with.
    fn refusal(&mut self) -> Exchange<'_> {
        let bytes = self.stream.inbound.bytes();
        // An empty line may stand before it.
        let to_head = bytes.strip_prefix(b"\r\n").unwrap_or(bytes).starts_with(b"HEAD ");
        Exchange { to_head, ..self.exchange() }
    }

    /// Waits for a head. Answers where in what was read it is, and when its first byte and all of it came.
    async fn read_head(&mut self, route: &Route) -> Result<(Range<usize>, Instant, Instant), NoHead> {
        let timeouts = &route.service.config.timeout;
        let http = route.service.config.http.as_ref();
        // A head that filled the buffer would leave no room to find out that it is too long.
        const { assert!(BUFFER_BYTES > Http::HEADER_BYTES_MOST) };
        let max = http.map_or(0, |http| http.header_bytes_max);
        // RFC 9113, section 3.2: with TLS it is agreed on in the handshake, or not spoken.
        let first = !self.served && self.session.encrypted.is_none();
        let http2 = first && http.is_some_and(|http| http.http2);
        let mut scanner = Scanner::default();
        let mut begin = None;
        self.watch.set_free();
        // Whoever connects has something to say; whoever was answered may take its time.
        self.watch.limit(if self.served { timeouts.idle } else { timeouts.header });
        loop {
            let bytes = self.stream.inbound.bytes();
            let found = match preface(bytes) {
                Preface::Whole if http2 => return Err(NoHead::Http2),
                Preface::Begun if http2 => None,
                _ => scanner.scan(bytes, max).map_err(NoHead::Fault)?,
            };
            let has_begun = begin.is_some();
            if !scanner.is_new() && !has_begun {
                begin = Some(Instant::now());
                self.watch.limit(timeouts.header);
            }
            if let Some(head) = found {
                // Most come as a whole.
                let read = begin.filter(|_| !has_begun).unwrap_or_else(Instant::now);
                return Ok((head, begin.unwrap_or(read), read));
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

    /// Closes the connection so that what was sent last arrives, whatever the client still sends.
    async fn finish(&mut self) {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preface_is_told_from_requests() {
        for end in 0..PREFACE.len() {
            assert_eq!(preface(&PREFACE[..end]), Preface::Begun);
        }
        assert_eq!(preface(PREFACE), Preface::Whole);
        assert_eq!(preface(&[&PREFACE[..], b"\0\0"].concat()), Preface::Whole);
        for other in ["GET / HTTP/1.1\r\n", "P", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r ", "PRI * HTTP/1.1", "\r\n"]
        {
            let expected = if other == "P" { Preface::Begun } else { Preface::None };
            assert_eq!(preface(other.as_bytes()), expected, "{other}");
        }
    }
}
