//! The target's side of a request: a connection of HTTP/1 that is this request's for now, or a stream of HTTP/2.

use std::borrow::Cow;
use std::cell::Cell;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use common::config::{HeaderChanges, TargetGroup};
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream};
use http::Response;
use lbd_core::http::compress::{Coding, DIGESTS, compressed, revalidates_compressed, weak_tag};
use lbd_core::http::fields::authenticates_connection;
use lbd_core::http::framing::{
    Fault, RequestBody, ResponseBody, ResponseHead, Scanner, Version, http2_response, parse_response,
};
use lbd_core::http::pass_on::{self, Afterwards, Ending};

use super::Cut;
use super::exchange::Trip;
use super::flow::{Encoding, Sink, Source};
use super::http2::{self, Incoming, Map, TargetStream, fields};
use super::kept::Upstream;
use super::plan::{ForClient, ForTarget, response};
use super::press::Press;
use super::session::Session;
use super::stream::{Inbound, Stream};
use super::transport::Transport;
use super::upstream::{connected, introduce};
use crate::l4::{Ends, Occupied, Refusal};
use crate::worker::Worker;

/// The longest head of an answer, in bytes.
pub(super) const ANSWER_BYTES_MAX: usize = 64 * 1024 - 1;

/// A target that a request can be sent to.
pub(super) enum Reached {
    /// Over HTTP/1.
    Http1(Upstream),
    /// Over HTTP/2.
    Http2(Box<TargetStream>),
}

/// What there is to know of a request on the way to its target.
pub(super) struct Need<'r> {
    /// How it begins there.
    pub(super) head: &'r ForTarget,
    /// It shares its connection with no other one: see [`super::plan::Plan::alone`].
    pub(super) alone: bool,
    /// It could not be sent on another connection if a kept one turned out to be closed. Only over HTTP/1 is that asked.
    pub(super) once: bool,
    /// Of connections that many requests share, one made later than this is wanted; of those that are one request's, a new one.
    pub(super) newer_than: Option<u64>,
}

/// An answer whose head is there.
pub(super) struct Answered {
    /// Its status.
    pub(super) status: u16,
    /// The head for the client.
    pub(super) head: ForClient,
    /// What follows.
    pub(super) body: ResponseBody,
    /// How the client gets that.
    pub(super) encoding: Encoding,
    /// What compresses it, if something does.
    pub(super) press: Option<Box<Press>>,
    /// The fields that the client does not get behind it.
    pub(super) withheld: Option<Rc<HeaderChanges>>,
    /// What becomes of the client's connection.
    pub(super) afterwards: Afterwards,
    /// Whether the target would use the connection again.
    pub(super) keep_alive: bool,
}

/// What a target has sent.
pub(super) enum Sent {
    /// An answer that another one follows.
    Interim(ForClient),
    /// The answer.
    Answer(Answered),
}

/// A head that has come, not read yet.
pub(super) enum Found {
    /// Where it is among the bytes that were read.
    Http1(Range<usize>),
    /// One that another one follows.
    Http2Interim(Response<()>),
    /// The last one.
    Http2(Response<RecvStream>),
}

/// Why none has come.
pub(super) struct NoHead {
    /// What was cut.
    pub(super) cut: Cut,
    /// The target has said that it did nothing with the request.
    pub(super) refused: bool,
}

impl NoHead {
    /// Without a word of the target's.
    pub(super) const fn cut(cut: Cut) -> Self {
        Self { cut, refused: false }
    }

    /// What an error of a stream to a target means. RFC 9113, section 8.7: "Requests that have not been processed have not failed;
    /// clients MAY automatically retry them, even those with non-idempotent methods." A GOAWAY ends those streams that are behind the last
    /// one processed, and no others.
    fn of_stream(error: &h2::Error) -> Self {
        let refused = error.is_remote()
            && (error.is_go_away() || (error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM)));
        // What the decoder refuses of the target's is no answer.
        let bad = error.is_library() && error.reason() == Some(Reason::PROTOCOL_ERROR);
        Self { cut: if bad { Cut::BadAnswer } else { Cut::Target }, refused }
    }
}

/// Where an answer's heads come from.
pub(super) enum Heads<'r> {
    /// A connection of HTTP/1.
    Http1 {
        /// What was read of it.
        inbound: &'r mut Inbound,
        /// The connection.
        transport: &'r Transport,
    },
    /// A stream of HTTP/2.
    Http2(&'r mut ResponseFuture),
    /// A stream on which nothing was asked.
    Nobody,
}

impl Heads<'_> {
    /// Waits for a head.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        scanner: &mut Scanner,
    ) -> Poll<Result<Found, NoHead>> {
        match self {
            Self::Http1 { inbound, transport } => loop {
                match scanner.scan(inbound.bytes(), ANSWER_BYTES_MAX) {
                    Ok(Some(range)) => return Poll::Ready(Ok(Found::Http1(range))),
                    Ok(None) => {}
                    Err(_) => return Poll::Ready(Err(NoHead::cut(Cut::BadAnswer))),
                }
                match inbound.poll_fill(context, transport) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(_) => return Poll::Ready(Err(NoHead::cut(Cut::Target))),
                    Poll::Pending => return Poll::Pending,
                }
            },
            Self::Nobody => Poll::Ready(Err(NoHead::cut(Cut::Target))),
            Self::Http2(future) => {
                match future.poll_informational(context) {
                    Poll::Ready(Some(Ok(interim))) => return Poll::Ready(Ok(Found::Http2Interim(interim))),
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(NoHead::of_stream(&error))),
                    Poll::Ready(None) | Poll::Pending => {}
                }
                let head = Pin::new(&mut **future).poll(context);
                head.map(|head| head.map(Found::Http2).map_err(|error| NoHead::of_stream(&error)))
            }
        }
    }
}

impl Reached {
    /// A way to the target: one that is there already, or a new one, on which it may be told of `ends`. What may be sent once only gets one
    /// that the kernel says is still there.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn get(
        session: &Session,
        ends: &Ends,
        occupied: &Occupied,
        need: Need<'_>,
    ) -> Result<Self, Refusal> {
        let Need { head, alone, once, newer_than } = need;
        let worker = &session.seat.worker;
        let group = &occupied.pool.group;
        // A PROXY header names one client, so such a connection is no other one's.
        let shared = group.config.send_proxy.is_none();
        if matches!(head, ForTarget::Http2(_)) {
            let lease = if shared && !alone && !head.opens_tunnel() {
                http2::lease(session, occupied, newer_than).await?
            } else {
                // As below.
                Box::pin(http2::exclusive(session, ends, occupied, head.opens_tunnel())).await?
            };
            return Ok(Self::Http2(Box::new(TargetStream::new(lease))));
        }
        let origin = group.tls.as_ref();
        // A kept one would do for what has its connection for itself, but end with it, which others could go on with; and most of such requests
        // could not be sent again if the target closed it just now.
        if shared
            && !alone
            && newer_than.is_none()
            && let Some(kept) = worker.kept.take(&occupied.target, origin, (worker.round(), once))
        {
            session.seat.counters().http.reused.add(1);
            occupied.target.counters.of(worker.index).reused.add(1);
            return Ok(Self::Http1(kept));
        }
        // Rare and large, so not a part of every request's task.
        let transport = Box::pin(connected(session, ends, occupied)).await?;
        let stream = Stream::new(transport, Vec::new(), &worker.buffers);
        Ok(Self::Http1(Upstream::new(worker, stream, &occupied.target, origin.map(Arc::clone))))
    }

    /// Whether it has served requests before.
    pub(super) fn is_reused(&self) -> bool {
        match self {
            Self::Http1(upstream) => upstream.reused,
            Self::Http2(stream) => stream.is_reused(),
        }
    }

    /// Whether it was there, without a wait.
    pub(super) const fn was_there(&self) -> bool {
        match self {
            Self::Http1(upstream) => upstream.reused,
            // Others may be making it.
            Self::Http2(_) => false,
        }
    }

    /// How many requests the connection has had, now and later on, if it is one for many at the same time.
    pub(super) fn requests(&self) -> Option<Rc<Cell<u64>>> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(stream) => Some(stream.requests()),
        }
    }

    /// When it was made, as far as that matters: see [`Need::newer_than`].
    pub(super) fn age(&self) -> u64 {
        match self {
            Self::Http1(_) => 0,
            Self::Http2(stream) => stream.age(),
        }
    }

    /// Where an answer's heads come from, and where the request goes.
    pub(super) fn heads(&mut self) -> (Heads<'_>, Sink<'_>) {
        match self {
            Self::Http1(upstream) => {
                let Stream { transport, inbound } = &mut upstream.stream;
                (Heads::Http1 { inbound, transport }, Sink::Http1(transport))
            }
            Self::Http2(stream) => stream.heads(),
        }
    }

    /// Where an answer's body comes from, and where the request goes.
    pub(super) fn halves(&mut self) -> (Source<'_>, Sink<'_>) {
        match self {
            Self::Http1(upstream) => {
                let Stream { transport, inbound } = &mut upstream.stream;
                (Source::Http1 { inbound, transport }, Sink::Http1(transport))
            }
            Self::Http2(stream) => stream.halves(),
        }
    }

    /// Where an answer's body comes from.
    pub(super) fn source(&mut self) -> Source<'_> {
        self.halves().0
    }

    /// Whether nothing has come that was not looked at.
    pub(super) fn is_silent(&self) -> bool {
        match self {
            Self::Http1(upstream) => upstream.stream.inbound.is_empty(),
            Self::Http2(_) => true,
        }
    }

    /// Keeps a connection on which nothing is under way for the next request.
    pub(super) fn keep(self, worker: &Worker) {
        if let Self::Http1(upstream) = self {
            worker.kept.put(upstream, worker.round());
        }
    }

    /// Has a connection for many requests get no more of them: the target has let one wait in vain.
    pub(super) fn retire(&self) {
        if let Self::Http2(stream) = self {
            stream.retire();
        }
    }

    /// Ends a connection on which nothing is under way any more, and which is not to be kept. One of HTTP/2 has always something that the target
    /// has not acknowledged yet, so that nobody could tell whether that is of a `body`.
    pub(super) fn end_at_once(&self, body: RequestBody) {
        match self {
            Self::Http1(upstream) => upstream.stream.transport.end_at_once(),
            Self::Http2(stream) if body == RequestBody::None => stream.end_at_once(),
            Self::Http2(_) => {}
        }
    }

    /// Ends a connection that is nobody's any more.
    pub(super) fn say_goodbye(&self) {
        if let Self::Http1(upstream) = self {
            upstream.stream.transport.say_goodbye();
        }
    }

    /// Reads a head that is there, and writes it for the client.
    ///
    /// # Errors
    /// That it is none.
    pub(super) fn read(
        &mut self,
        found: Found,
        trip: &Trip<'_>,
        request_done: bool,
        closing: bool,
    ) -> Result<Sent, Cut> {
        let to_head = trip.plan.to_head;
        match (found, self) {
            (Found::Http1(range), Self::Http1(upstream)) => {
                let inbound = &mut upstream.stream.inbound;
                // An empty line before it is only for requests.
                let sent =
                    sent(parse_response(&inbound.bytes()[..range.end], to_head), trip, request_done, closing);
                inbound.consume(range.end);
                sent
            }
            (Found::Http2Interim(response), Self::Http2(_)) => {
                let status = response.status().as_u16();
                let head = http2_response(status, fields(response.headers()), false, to_head);
                sent(head, trip, request_done, closing)
            }
            (Found::Http2(response), Self::Http2(stream)) => {
                let (parts, body) = response.into_parts();
                let (status, ended) = (parts.status.as_u16(), body.is_end_stream());
                let head = http2_response(status, fields(&parts.headers), ended, to_head);
                if trip.opens_tunnel() && parts.status.is_success() {
                    stream.set_body(Incoming::new(body, None));
                    return tunnel(&head.map_err(|_| Cut::BadAnswer)?, trip);
                }
                let length = match &head {
                    Ok(ResponseHead { body: ResponseBody::Length(length), .. }) => Some(*length),
                    _ => None,
                };
                stream.set_body(Incoming::new(body, length));
                sent(head, trip, request_done, closing)
            }
            _ => Err(Cut::BadAnswer),
        }
    }
}

/// Writes a head for the client, if it is one.
fn sent(
    head: Result<ResponseHead<'_>, Fault>,
    trip: &Trip<'_>,
    request_done: bool,
    closing: bool,
) -> Result<Sent, Cut> {
    let plan = trip.plan;
    let answer = head.map_err(|_| Cut::BadAnswer)?;
    let http2 = plan.version == Version::Http2;
    if answer.is_interim() {
        return Ok(Sent::Interim(if http2 {
            let mut map = Map::default();
            pass_on::interim_fields(&answer, &mut map);
            ForClient::Http2(Box::new(response(answer.status, map)))
        } else {
            let mut out = Vec::new();
            pass_on::interim(&answer, &mut out);
            ForClient::Http1(out)
        }));
    }
    if answer.status == 101 && !plan.upgrade {
        return Err(Cut::BadAnswer);
    }
    if answer.status == 101 && http2 {
        return tunnel(&answer, trip);
    }
    let Some(http) = &trip.route.service.config.http else { return Err(Cut::BadAnswer) };
    let changes = plan.response_changes(http);
    let (coding, press) = coding(&answer, trip);
    let more = coding.fields(&answer, changes);
    let added = added(&answer, trip);
    let added = if more.is_empty() { Cow::Borrowed(added) } else { Cow::Owned([added, &more[..]].concat()) };
    let body = answer.body;
    let is_of_compressed = press.is_some() || revalidates_compressed(&answer, &plan.if_none_match);
    let tag = if is_of_compressed { weak_tag(&answer) } else { Vec::new() };
    let answer = if is_of_compressed { compressed(&answer, &tag) } else { answer };
    // Where one that is compressed ends is not known before it does.
    let ends = if press.is_some() { ResponseBody::UntilClose } else { body };
    let ending = Ending::of(ends, plan.version);
    let afterwards = if ending == Ending::Close || closing {
        Afterwards::Closed
    } else {
        // What is still to be written to the target may never be.
        plan.afterwards_if(request_done)
    };
    let (head, encoding) = if http2 {
        let mut map = Map::default();
        pass_on::http2_response(&answer, ending, changes, &added, &mut map);
        (ForClient::Http2(Box::new(response(answer.status, map))), Encoding::Frames)
    } else {
        let mut out = Vec::new();
        pass_on::response(&answer, ending, afterwards, changes, &added, &mut out);
        let chunked = ending == Ending::Chunked;
        (ForClient::Http1(out), if chunked { Encoding::Chunked } else { Encoding::Plain })
    };
    Ok(Sent::Answer(Answered {
        status: answer.status,
        head,
        body,
        encoding,
        withheld: withheld(&answer, trip, press.is_some()),
        press,
        afterwards,
        keep_alive: answer.keep_alive && !authenticates_connection(&answer.fields),
    }))
}

/// What becomes of an answer's content, and what compresses it if that is to be. Where too many are compressed already, this one is not.
fn coding(answer: &ResponseHead<'_>, trip: &Trip<'_>) -> (Coding, Option<Box<Press>>) {
    let (plan, http) = (trip.plan, trip.route.service.config.http.as_ref());
    let Some((http, kinds)) = http.and_then(|http| Some((http, http.compress_of(plan.rule)?))) else {
        return (Coding::AsSent, None);
    };
    let coding = Coding::of(answer, kinds, plan.response_changes(http), plan.takes_gzip);
    if coding != Coding::Gzip {
        return (coding, None);
    }
    let press = trip.seat.worker.presses.take(trip.client);
    let counters = &trip.seat.counters().http;
    let counter = if press.is_some() { &counters.compressed } else { &counters.compressions_refused };
    counter.add(1);
    (if press.is_some() { Coding::Gzip } else { Coding::Varying }, press)
}

/// What does not go on behind an answer: what is changed in its head, what is for this hop only, and what would be wrong of an answer that is
/// compressed.
fn withheld(answer: &ResponseHead<'_>, trip: &Trip<'_>, is_pressed: bool) -> Option<Rc<HeaderChanges>> {
    let mut more = pass_on::trailers_for_one_hop(&answer.for_one_hop);
    if is_pressed {
        // A strong tag is for content that is the same byte by byte, as with that in the head.
        more.extend(DIGESTS.into_iter().chain(["etag"]).map(str::to_owned));
    }
    trip.route.http.as_ref()?.withheld_from_clients(trip.plan.rule, more)
}

/// What the client is told about its target beside the answer, from which is learned what there is to learn.
fn added<'t>(answer: &ResponseHead<'_>, trip: &'t Trip<'_>) -> &'t [(&'static str, String)] {
    let Some(bond) = &trip.bond else { return &[] };
    let set_cookies = answer.fields.iter().filter(|field| field.is("set-cookie"));
    bond.learn(set_cookies.map(|field| field.value), trip.clock.at());
    bond.added()
}

/// Writes the head of an answer after which a stream, on either side, is a tunnel.
fn tunnel(answer: &ResponseHead<'_>, trip: &Trip<'_>) -> Result<Sent, Cut> {
    let Some(http) = &trip.route.service.config.http else { return Err(Cut::BadAnswer) };
    let (changes, added) = (trip.plan.response_changes(http), added(answer, trip));
    let (head, encoding) = if trip.plan.version == Version::Http2 {
        let mut map = Map::default();
        pass_on::http2_tunnel(answer, changes, added, &mut map);
        (ForClient::Http2(Box::new(response(200, map))), Encoding::Frames)
    } else {
        let accept = trip.plan.accept.as_deref().ok_or(Cut::BadAnswer)?;
        let mut out = Vec::new();
        pass_on::websocket(answer, accept, changes, added, &mut out);
        (ForClient::Http1(out), Encoding::Plain)
    };
    Ok(Sent::Answer(Answered {
        status: 101,
        head,
        body: ResponseBody::UntilClose,
        encoding,
        press: None,
        withheld: None,
        afterwards: Afterwards::Closed,
        keep_alive: false,
    }))
}

impl Upstream {
    /// What a request begins with on this connection: its head, in clear text behind the PROXY protocol's if the group wants one.
    pub(super) fn opening<'h>(&self, group: &TargetGroup, ends: &Ends, head: &'h [u8]) -> Cow<'h, [u8]> {
        // On an encrypted connection it has gone before the handshake.
        let Some(version) = group.send_proxy.filter(|_| self.origin.is_none()) else {
            return Cow::Borrowed(head);
        };
        let mut out = Vec::with_capacity(head.len() + 64);
        introduce(version, ends, &mut out);
        out.extend_from_slice(head);
        Cow::Owned(out)
    }
}
