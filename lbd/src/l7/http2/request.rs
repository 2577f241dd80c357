//! A client's request on a stream, from its head to the end of its answer.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response};
use lbd_core::http::framing::{Pseudo, RequestBody, http2_request};

use super::client::Guest;
use super::{Incoming, fields, size};
use crate::l7::client::{LINGER, LINGER_BYTES_MAX, Next};
use crate::l7::exchange::{Client, Exchange};
use crate::l7::flow::{Flow, Sink, Source};
use crate::l7::journal::Journal;
use crate::l7::session::Session;
use crate::l7::watch::Watch;

/// The client's end of a stream.
pub(in crate::l7) struct Asker {
    body: Incoming,
    respond: SendResponse<Bytes>,
    /// What is left of the answer, once it was begun.
    answer: Option<SendStream<Bytes>>,
}

/// Has a request answered. The guest leaves when that is done.
pub(super) async fn serve(
    _guest: Guest,
    session: Rc<Session>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let watch = session.seat.worker.watches.enter(session.leave());
    let begin = Instant::now();
    let route = session.refreshed();
    let mut journal = Journal::begin(&route, begin, begin);
    let (parts, body) = request.into_parts();
    let made = {
        let uri = &parts.uri;
        let pseudo = Pseudo {
            method: parts.method.as_str(),
            authority: uri.authority().map(http::uri::Authority::as_str),
            // Without one it is empty here, and "/" there.
            path: if uri.path().is_empty() {
                ""
            } else {
                uri.path_and_query().map_or("", |path| path.as_str())
            },
            protocol: parts.extensions.get::<Protocol>().map(Protocol::as_str),
            ended: body.is_end_stream(),
        };
        let mut cookie = Vec::new();
        let head = http2_request(&pseudo, fields(&parts.headers), &mut cookie);
        let gone = |context: &mut Context<'_>| respond.poll_reset(context).map(|_| ());
        session.plan(&route, head, begin, &watch, gone).await
    };
    let to_head = parts.method == Method::HEAD;
    drop(parts);
    let length = match &made {
        Ok(plan) => match plan.body {
            RequestBody::Length(length) => Some(length),
            RequestBody::None | RequestBody::Chunked => None,
        },
        Err(_) => None,
    };
    let mut asker = Asker { body: Incoming::new(body, length), respond, answer: None };
    let client = Client::Http2(&mut asker);
    let exchange = Exchange { session: &session, watch: &watch, client, filled: None, to_head };
    let next = match made {
        Ok(mut plan) => exchange.perform(&route, &mut plan, &mut journal).await,
        Err(fault) => exchange.refuse(&route, begin, fault).await,
    };
    match next {
        Next::Abort => asker.abort(),
        _ => asker.linger(&watch).await,
    }
}

impl Asker {
    /// The two directions.
    pub(in crate::l7) const fn halves(&mut self) -> (Source<'_>, Sink<'_>) {
        let sink = match &mut self.answer {
            Some(answer) => Sink::Http2(answer),
            None => Sink::Unanswered(&mut self.respond),
        };
        (Source::Http2(&mut self.body), sink)
    }

    /// Sends a head that another one follows. Answers about how many bytes that were.
    ///
    /// # Errors
    /// The stream is gone.
    pub(in crate::l7) fn interim(&mut self, head: Response<()>) -> Result<usize, h2::Error> {
        let bytes = size(head.headers());
        self.respond.send_informational(head)?;
        Ok(bytes)
    }

    /// Sends the head of an answer; `down` brings what follows, if anything does.
    ///
    /// # Errors
    /// The stream is gone.
    pub(in crate::l7) fn answer(&mut self, head: Response<()>, down: &mut Flow<'_>) -> Result<(), h2::Error> {
        let bytes = size(head.headers());
        self.answer = Some(self.respond.send_response(head, down.is_empty())?);
        down.head_sent(bytes);
        Ok(())
    }

    /// Sends an answer that is here as a whole, and waits until the client has room for all of it. Answers about how many bytes
    /// that were; nothing if the stream is gone.
    pub(in crate::l7) async fn answer_whole(&mut self, head: Response<()>, mut body: Bytes) -> Option<usize> {
        let bytes = size(head.headers()) + body.len();
        let mut answer = self.respond.send_response(head, body.is_empty()).ok()?;
        while !body.is_empty() {
            answer.reserve_capacity(body.len());
            if answer.capacity() == 0 {
                poll_fn(|context| answer.poll_capacity(context)).await?.ok()?;
                continue;
            }
            let piece = body.split_to(answer.capacity().min(body.len()));
            answer.send_data(piece, body.is_empty()).ok()?;
        }
        Some(bytes)
    }

    /// Has what comes behind the body stay here.
    pub(in crate::l7) const fn drop_trailers(&mut self) {
        self.body.drop_trailers();
    }

    /// Takes for a while what a client that has its whole answer still sends: some give up on a stream that is reset while they send, and tell
    /// of that instead of the answer. Then it is reset (RFC 9113, section 8.1: "with an error code of NO_ERROR after sending a complete
    /// response"), which is the crate's to do once nobody holds the stream any more.
    async fn linger(&mut self, watch: &Watch) {
        watch.limit(LINGER);
        let mut left = LINGER_BYTES_MAX;
        let drained = poll_fn(|context| {
            while !self.body.is_ended() {
                match ready!(self.body.poll_fill(context)) {
                    Ok(()) if self.body.bytes().len() <= left => {}
                    Ok(()) | Err(_) => break,
                }
                let count = self.body.bytes().len();
                left -= count;
                self.body.consume(count);
            }
            Poll::Ready(())
        });
        // Whatever the end of the wait is: nothing is waited for any more.
        watch.wait(drained).await.ok();
    }

    /// Ends the stream in a way that the client cannot take for the answer's end.
    fn abort(&mut self) {
        self.respond.send_reset(Reason::INTERNAL_ERROR);
    }
}
