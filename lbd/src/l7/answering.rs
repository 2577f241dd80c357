//! What moves while a request is answered: its rest to the target, interim answers and the answer to the client, both bodies at the same
//! time.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use lbd_core::http::framing::{Scanner, Version};

use super::Cut;
use super::exchange::{Client, Exchange, Failed, Trip};
use super::flow::{Broken, Flow};
use super::journal::Journal;
use super::plan::{ForClient, has_body};
use super::target::{Answered, Found, NoHead, Reached, Sent};
use super::watch::Why;
use crate::snapshot::{FailureKind, Target};

/// More interim answers than this no request gets: a target that sends nothing else would be listened to for ever.
const INTERIM_MAX: u32 = 64;

impl Exchange<'_> {
    /// Sends the request until the answer's head is there, and passes on what comes before that.
    pub(super) async fn answer(
        &mut self,
        trip: &Trip<'_>,
        up: &mut Flow<'_>,
        reached: &mut Reached,
        target: &Target,
        journal: &mut Journal,
    ) -> Result<Answered, Failed> {
        // Without one nothing has come of an answer.
        let mut interim = 0_u32;
        let limit = trip.patience.borrow_mut().limit(Some(up), None, trip.clock);
        self.watch.limit(if up.is_done() { response_timeout(trip) } else { limit });
        loop {
            let found = self.answer_head(trip, up, reached, target).await;
            let found = found.map_err(|NoHead { cut, refused }| {
                match cut {
                    Cut::NoAnswer => reached.retire(),
                    // While a client's body is waited for it is another cut.
                    Cut::Idle => blame_silence(target, reached),
                    _ => {}
                }
                let nothing = interim == 0 && reached.is_silent();
                let again = refused || up.moved() == 0 || trip.plan.idempotent;
                let whole = nothing && again && cut == Cut::Target && !has_body(trip.plan.body);
                Failed::Cut { cut, unanswered: true, silent: nothing, whole, refused }
            })?;
            let closing = self.session.closing();
            match reached.read(found, trip, up.is_done(), closing).map_err(Failed::unanswered)? {
                Sent::Answer(answered) => return Ok(answered),
                Sent::Interim(_) if interim == INTERIM_MAX => return Err(Failed::unanswered(Cut::BadAnswer)),
                Sent::Interim(head) => {
                    interim += 1;
                    let moved = self.send_interim(trip, head).await.map_err(Failed::unanswered)?;
                    journal.moved(0, moved as u64);
                }
            }
        }
    }

    /// Sends what precedes the answer proper. Answers how many bytes that were.
    async fn send_interim(&mut self, trip: &Trip<'_>, head: ForClient) -> Result<usize, Cut> {
        match (head, &mut self.client) {
            // RFC 9110, section 15.2: "A server MUST NOT send a 1xx response to an HTTP/1.0 client."
            _ if trip.plan.version == Version::Http10 => Ok(0),
            (ForClient::Http1(bytes), Client::Http1(stream)) => {
                let passed = self.watch.wait(stream.transport.write_all(&bytes)).await;
                passed.map_err(|why| cut_of(why, trip))?.map_err(|_| Cut::Client)?;
                Ok(bytes.len())
            }
            (ForClient::Http2(head), Client::Http2(asker)) => asker.interim(*head).map_err(|_| Cut::Client),
            // It was written for this client.
            _ => Ok(0),
        }
    }

    /// Sends of the request what can be sent, until a head is there.
    async fn answer_head(
        &mut self,
        trip: &Trip<'_>,
        up: &mut Flow<'_>,
        reached: &mut Reached,
        target: &Target,
    ) -> Result<Found, NoHead> {
        let (mut from_client, mut to_client) = self.client.halves();
        let (mut heads, mut to_target) = reached.heads();
        let watch = self.watch;
        let response = response_timeout(trip);
        let seat = &self.session.seat;
        let counters =
            [&seat.counters().bytes_to_target, &target.counters.of(seat.worker.index).bytes_to_target];
        let mut scanner = Scanner::default();
        let mut sending = !up.is_done();
        poll_fn(|context: &mut Context<'_>| {
            let before = up.moved();
            let flushed_before = to_target.flushed();
            if sending {
                match up.poll(context, &mut from_client, &mut to_target) {
                    Poll::Ready(Err(Broken::From)) => return Poll::Ready(Err(NoHead::cut(Cut::Client))),
                    Poll::Ready(Err(Broken::Fault(fault))) => {
                        return Poll::Ready(Err(NoHead::cut(Cut::of_body(fault))));
                    }
                    // It takes no more, but may have said why.
                    Poll::Ready(Err(Broken::To)) => sending = false,
                    Poll::Ready(Ok(())) => {
                        sending = false;
                        watch.limit(response);
                    }
                    Poll::Pending => {}
                }
            }
            let moved = up.moved() - before;
            if moved > 0 {
                counters.iter().for_each(|counter| counter.add(moved));
            }
            if sending && (moved > 0 || to_target.flushed() != flushed_before) {
                watch.limit(trip.patience.borrow_mut().limit(Some(up), None, trip.clock));
            }
            if let Poll::Ready(found) = heads.poll(context, &mut scanner) {
                return Poll::Ready(found);
            }
            if to_client.poll_gone(context).is_ready() {
                return Poll::Ready(Err(NoHead::cut(Cut::Client)));
            }
            let cut = |why| match why {
                Why::Due if !sending => Cut::NoAnswer,
                Why::Due if !up.is_writing() && trip.patience.borrow().cut() == Cut::Idle => Cut::NoBody,
                why => cut_of(why, trip),
            };
            watch.poll(context).map(|why| Err(NoHead::cut(cut(why))))
        })
        .await
    }

    /// Passes the answer on, and what is left of the request; or what goes through a `tunnel`.
    pub(super) async fn relay(
        &mut self,
        trip: &Trip<'_>,
        up: &mut Flow<'_>,
        down: &mut Flow<'_>,
        reached: &mut Reached,
        target: &Target,
        tunnel: bool,
    ) -> Result<(), Cut> {
        let (mut from_client, mut to_client) = self.client.halves();
        let (mut from_target, mut to_target) = reached.halves();
        let (watch, service) = (self.watch, &trip.route.service.config);
        let silence = service.http.as_ref().filter(|_| tunnel).map(|http| http.tunnel_timeout);
        let seat = &self.session.seat;
        let (service, at_target) = (seat.counters(), target.counters.of(seat.worker.index));
        let mut sending = !up.is_done();
        // The end of a tunnel has to be said.
        let mut ending = false;
        let limit = |up: Option<&Flow<'_>>, down: &Flow<'_>| {
            let patience = || trip.patience.borrow_mut().limit(up, Some(down), trip.clock);
            watch.limit(silence.unwrap_or_else(patience));
        };
        limit(sending.then_some(&*up), down);
        poll_fn(|context: &mut Context<'_>| {
            let before = [up.moved(), down.moved()];
            let flushed_before = to_client.flushed() + to_target.flushed();
            if sending {
                match up.poll(context, &mut from_client, &mut to_target) {
                    Poll::Ready(Err(Broken::From)) => return Poll::Ready(Err(Cut::Client)),
                    Poll::Ready(Err(Broken::Fault(fault))) => return Poll::Ready(Err(Cut::of_body(fault))),
                    Poll::Ready(_) => {
                        sending = false;
                        ending = tunnel;
                    }
                    Poll::Pending => {}
                }
            }
            // Of a connection that is broken that is known.
            ending = ending && to_target.poll_finish(context).is_pending();
            let polled = down.poll(context, &mut from_target, &mut to_client);
            let [moved_up, moved_down] = [up.moved() - before[0], down.moved() - before[1]];
            let moved = moved_up + moved_down > 0;
            if moved {
                service.bytes_to_target.add(moved_up);
                service.bytes_to_client.add(moved_down);
                at_target.bytes_to_target.add(moved_up);
                at_target.bytes_to_client.add(moved_down);
            }
            if moved || to_client.flushed() + to_target.flushed() != flushed_before {
                limit(sending.then_some(&*up), down);
            }
            match polled {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(Broken::From)) => return Poll::Ready(Err(Cut::Target)),
                Poll::Ready(Err(Broken::To)) => return Poll::Ready(Err(Cut::Client)),
                Poll::Ready(Err(Broken::Fault(_))) => return Poll::Ready(Err(Cut::BadAnswer)),
                Poll::Pending => {}
            }
            if to_client.poll_gone(context).is_ready() {
                return Poll::Ready(Err(Cut::Client));
            }
            watch.poll(context).map(|why| Err(cut_of(why, trip)))
        })
        .await
    }
}

fn response_timeout(trip: &Trip<'_>) -> Duration {
    let service = &trip.route.service.config;
    service.http.as_ref().map_or(service.timeout.idle, |http| http.response_timeout)
}

/// A wait for the target alone was in vain. That speaks against it if this request has had the connection for itself: where many share one, what
/// was not taken of others leaves less room for this one's.
fn blame_silence(target: &Target, reached: &Reached) {
    if reached.requests().is_none_or(|requests| requests.get() == 1) {
        target.report_failure(FailureKind::Timeout);
    }
    reached.retire();
}

/// The same once there is an answer, if `cut` is the end of such a wait. A target that has not said how much more comes may have nothing to say for
/// as long as it likes: events come when they happen.
pub(super) fn blame_pause(target: &Target, reached: &Reached, cut: Cut, up: &Flow<'_>, down: &Flow<'_>) {
    let is_waited_for = up.is_writing() || (up.is_done() && down.is_owed());
    if cut == Cut::Idle && is_waited_for && !down.is_writing() {
        blame_silence(target, reached);
    }
}

/// What the end of a wait is for a request.
pub(super) fn cut_of(why: Why, trip: &Trip<'_>) -> Cut {
    match why {
        Why::Due => trip.patience.borrow().cut(),
        Why::Drained => Cut::Drained,
        Why::Stopped => Cut::Stopped,
    }
}
