//! One request: a place at a target, a connection to it, and the way there and back.

use std::future::poll_fn;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use common::config::Retry;
use lbd_core::http::fields::authenticates_connection;
use lbd_core::http::framing::{
    BodyReader, Fault, RequestBody, ResponseBody, Scanner, Version, parse_response,
};
use lbd_core::http::pass_on::{self, Afterwards, Ending};

use super::Cut;
use super::client::{Connection, Next};
use super::flow::{Broken, Encoding, Flow};
use super::journal::Journal;
use super::kept::Upstream;
use super::plan::{Plan, has_body};
use super::site::response_changes;
use super::stream::Stream;
use super::upstream::introduce;
use super::watch::Why;
use crate::executor::Ready;
use crate::l4::{Occupied, Pool, Refusal, place};
use crate::snapshot::{FailureKind, Target};
use crate::worker::Route;

/// The longest head of an answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024 - 1;

/// More interim answers than this no request gets: a target that sends nothing else would be listened to for ever.
const INTERIM_MAX: u32 = 64;

/// An answer whose head is there.
struct Answered {
    status: u16,
    /// The head for the client.
    head: Vec<u8>,
    body: ResponseBody,
    ending: Ending,
    afterwards: Afterwards,
    /// Whether the target would use the connection again.
    keep_alive: bool,
}

/// What a target has sent.
enum Sent {
    /// An answer that another one follows.
    Interim(Vec<u8>),
    /// The answer.
    Answer(Answered),
}

/// Why a request was not answered by a target.
enum Failed {
    /// The body cannot be understood, and nothing of the request was passed on.
    Fault(Fault),
    /// The exchange was cut.
    Cut {
        cut: Cut,
        /// Nothing of an answer was passed on.
        unanswered: bool,
        /// Nothing of an answer has come either.
        silent: bool,
        /// And the request can be sent once more as it was.
        whole: bool,
    },
}

/// An exchange that came to its end.
struct Done {
    status: u16,
    next: Next,
}

/// A request on its way.
struct Trip<'t> {
    route: &'t Rc<Route>,
    plan: &'t Plan,
    head: &'t [u8],
}

impl Connection {
    /// Has a target of the group answer, or says why none does.
    pub(super) async fn forward(
        &mut self,
        route: &Rc<Route>,
        plan: Plan,
        pool: Rc<Pool>,
        head: Vec<u8>,
        mut journal: Journal,
    ) -> Next {
        let trip = Trip { route, plan: &plan, head: &head };
        let mut pool = pool;
        // Allocates only once a target has failed.
        let mut tried: Vec<Arc<Target>> = Vec::new();
        let mut fresh = false;
        // Why there is no target if no further one may be tried.
        let mut last = Refusal::NoTarget;
        loop {
            let occupied = match self.occupied(&pool, &tried, last, &mut journal).await {
                Ok(occupied) => occupied,
                Err(refusal) => return self.unserved(route, journal, refusal).await,
            };
            let retry = pool.group.config.retry;
            let tries = journal.way().tries;
            let upstream = self.upstream(&occupied, fresh).await;
            if upstream.is_err() {
                journal.way().failed = Some(Arc::clone(&occupied.target));
            }
            let upstream = match upstream {
                Ok(upstream) => upstream,
                Err(refusal) if tries >= retry.tries() => {
                    let refusal = self.seat.refuse(refusal);
                    return self.unserved(route, journal, refusal).await;
                }
                Err(refusal) => {
                    self.seat.counters().retries.add(1);
                    last = refusal;
                    tried.push(Arc::clone(&occupied.target));
                    // That took a while: the targets may be others by now.
                    pool = self.seat.current(&pool);
                    continue;
                }
            };
            let (target, reused) = (Arc::clone(&occupied.target), upstream.reused);
            self.watch.set_target(Some(Arc::clone(&target)));
            journal.connected(&pool.group.config.name, &target, reused);
            let failed = match self.exchange(&trip, upstream, occupied, &mut journal).await {
                Ok(done) => {
                    let worker = (self.seat.worker.index, self.seat.counters());
                    journal.ended(route, worker, &self.ends, Some(&target), done.status, "done");
                    return done.next;
                }
                Err(failed) => failed,
            };
            if !self.may_resend(route, &failed, &target, (reused, tries), retry) {
                return self.failed(route, journal, &target, failed).await;
            }
            if reused {
                // It has closed what it kept open, and is there all the same as far as anybody knows.
                self.seat.worker.kept.forget(&target);
                fresh = true;
            } else {
                tried.push(target);
            }
            pool = self.seat.current(&pool);
        }
    }

    /// A place at a target that was not tried before.
    async fn occupied(
        &self,
        pool: &Rc<Pool>,
        tried: &[Arc<Target>],
        last: Refusal,
        journal: &mut Journal,
    ) -> Result<Occupied, Refusal> {
        let placed =
            place(&self.seat, pool, &self.ends, self.stream.transport.socket(), tried, journal.way()).await?;
        let occupied = placed.ok_or_else(|| self.seat.refuse(last))?;
        journal.way().tries += 1;
        if pool.group.panics() {
            self.seat.counters().unhealthy_tries.add(1);
        }
        Ok(occupied)
    }

    /// Whether a request that failed is sent once more: it has to be one that can be, the group has to want it, and the service's
    /// budget to have room for it. Takes down what the failure says about the target.
    fn may_resend(
        &self,
        route: &Rc<Route>,
        failed: &Failed,
        target: &Target,
        (reused, tries): (bool, u32),
        retry: Retry,
    ) -> bool {
        let Failed::Cut { cut, silent, whole, .. } = failed else { return false };
        blame(target, *cut, reused && *silent);
        let wanted = retry.no_answer || (reused && retry.stale_connection);
        if !whole || !wanted || tries >= retry.attempts {
            return false;
        }
        let http = &self.seat.counters().http;
        let now = self.seat.worker.clock().at();
        let may = route.http.as_ref().is_some_and(|site| site.may_resend(now));
        let counter = if may { &http.resent } else { &http.resends_refused };
        counter.add(1);
        may
    }

    /// Answers a request that failed for good.
    async fn failed(&mut self, route: &Rc<Route>, journal: Journal, target: &Target, failed: Failed) -> Next {
        match failed {
            Failed::Fault(fault) => {
                self.seat.counters().http.faults[fault.index()].add(1);
                self.plain(route, journal, fault.status(), fault.name()).await
            }
            Failed::Cut { cut, unanswered, .. } => self.cut(route, journal, target, cut, unanswered).await,
        }
    }

    /// Answers a request that was cut, if nothing of another answer is under way.
    async fn cut(
        &mut self,
        route: &Rc<Route>,
        journal: Journal,
        target: &Target,
        cut: Cut,
        unanswered: bool,
    ) -> Next {
        self.seat.counters().http.cuts[cut.index()].add(1);
        self.watch.set_target(None);
        if let Some(status) = cut.status().filter(|_| unanswered) {
            return self.plain(route, journal, status, cut.name()).await;
        }
        let worker = (self.seat.worker.index, self.seat.counters());
        journal.ended(route, worker, &self.ends, Some(target), 0, cut.name());
        Next::Abort
    }

    /// Answers a request for which there was no target.
    async fn unserved(&mut self, route: &Rc<Route>, journal: Journal, refusal: Refusal) -> Next {
        if refusal == Refusal::ClientGone {
            let worker = (self.seat.worker.index, self.seat.counters());
            journal.ended(route, worker, &self.ends, None, 0, refusal.name());
            return Next::Abort;
        }
        self.plain(route, journal, 503, refusal.name()).await
    }

    /// Sends the request and passes the answer on.
    async fn exchange(
        &mut self,
        trip: &Trip<'_>,
        mut upstream: Upstream,
        occupied: Occupied,
        journal: &mut Journal,
    ) -> Result<Done, Failed> {
        let plan = trip.plan;
        let proxied = occupied.pool.group.config.send_proxy;
        let mut head = Vec::with_capacity(trip.head.len() + 64);
        // On an encrypted connection it has gone before the handshake.
        if let Some(version) = proxied.filter(|_| upstream.origin.is_none()) {
            introduce(version, &self.ends, &mut head);
        }
        head.extend_from_slice(trip.head);
        let encoding = if plan.body == RequestBody::Chunked { Encoding::Chunked } else { Encoding::Plain };
        let reader = BodyReader::of_request(plan.body);
        let mut up = Flow::begin(head, reader, encoding, &mut self.stream.inbound).map_err(Failed::Fault)?;
        let answered = self.answer(trip, &mut up, &mut upstream, journal).await;
        let answered = match answered {
            Ok(answered) => answered,
            Err(failed) => {
                journal.moved(up.moved(), 0);
                return Err(failed);
            }
        };
        journal.answered();
        let Answered { status, head, body, ending, afterwards, keep_alive } = answered;
        let encoding = if ending == Ending::Chunked { Encoding::Chunked } else { Encoding::Plain };
        let reader = if status == 101 { BodyReader::Ended } else { BodyReader::of_response(body) };
        let unanswered = Failed::Cut { cut: Cut::BadAnswer, unanswered: true, silent: false, whole: false };
        let mut down =
            Flow::begin(head, reader, encoding, &mut upstream.stream.inbound).map_err(|_| unanswered)?;
        // A target that has answered before it had all of the request may read the rest as the next one.
        let taken = up.is_done();
        let relayed = self.relay(trip, &mut up, &mut down, &mut upstream).await;
        journal.moved(up.moved(), down.moved());
        relayed.map_err(|cut| Failed::Cut {
            cut,
            unanswered: down.moved() == 0,
            silent: false,
            whole: false,
        })?;
        judge(&occupied.target, status);
        if status == 101 {
            return Ok(Done { status, next: Next::Tunnel(Box::new((upstream, occupied))) });
        }
        if keep_alive && taken && !plan.alone && proxied.is_none() {
            self.seat.worker.kept.put(upstream);
        } else {
            upstream.stream.transport.say_goodbye();
        }
        let kept = afterwards != Afterwards::Closed && up.is_done();
        Ok(Done { status, next: if kept { Next::Request } else { Next::Finish } })
    }

    /// Sends the request until the answer's head is there, and passes on what comes before that.
    async fn answer(
        &mut self,
        trip: &Trip<'_>,
        up: &mut Flow,
        upstream: &mut Upstream,
        journal: &mut Journal,
    ) -> Result<Answered, Failed> {
        // Without one nothing has come of an answer.
        let mut interim = 0_u32;
        self.watch.limit(trip.route.service.config.timeout.idle);
        loop {
            let range = self.answer_head(trip, up, upstream).await.map_err(|cut| {
                let nothing = interim == 0 && upstream.stream.inbound.is_empty();
                let again = up.moved() == 0 || trip.plan.idempotent;
                let whole = nothing && again && cut == Cut::Target && !has_body(trip.plan.body);
                Failed::Cut { cut, unanswered: true, silent: nothing, whole }
            })?;
            let sent = self.read_answer(trip, up, upstream, range.clone());
            upstream.stream.inbound.consume(range.end);
            let cut = |cut| Failed::Cut { cut, unanswered: true, silent: false, whole: false };
            match sent.map_err(cut)? {
                Sent::Answer(answered) => return Ok(answered),
                Sent::Interim(_) if interim == INTERIM_MAX => return Err(cut(Cut::BadAnswer)),
                Sent::Interim(bytes) => {
                    interim += 1;
                    // RFC 9110, section 15.2: "A server MUST NOT send a 1xx response to an HTTP/1.0 client."
                    if trip.plan.version == Version::Http11 {
                        let passed = self.send(&bytes).await;
                        passed.map_err(|why| cut(cut_of(why)))?.map_err(|_| cut(Cut::Client))?;
                        journal.moved(0, bytes.len() as u64);
                    }
                }
            }
        }
    }

    /// Sends of the request what can be sent, until a head is there.
    async fn answer_head(
        &mut self,
        trip: &Trip<'_>,
        up: &mut Flow,
        upstream: &mut Upstream,
    ) -> Result<Range<usize>, Cut> {
        let Stream { transport: client, inbound: from_client } = &mut self.stream;
        let Stream { transport: target, inbound: from_target } = &mut upstream.stream;
        let (watch, service) = (&self.watch, &trip.route.service.config);
        let response = service.http.as_ref().map_or(service.timeout.idle, |http| http.response_timeout);
        let counters = [
            &self.seat.counters().bytes_to_target,
            &upstream.open.target.counters.of(self.seat.worker.index).bytes_to_target,
        ];
        let mut scanner = Scanner::default();
        let mut sending = !up.is_done();
        poll_fn(|context| {
            let before = up.moved();
            let flushed_before = target.flushed();
            if sending {
                match up.poll(context, from_client, client, target) {
                    Poll::Ready(Err(Broken::From)) => return Poll::Ready(Err(Cut::Client)),
                    Poll::Ready(Err(Broken::Fault(_))) => return Poll::Ready(Err(Cut::BadBody)),
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
            if sending && (moved > 0 || target.flushed() != flushed_before) {
                watch.limit(service.timeout.idle);
            }
            loop {
                match scanner.scan(from_target.bytes(), ANSWER_BYTES_MAX) {
                    Ok(Some(range)) => return Poll::Ready(Ok(range)),
                    Ok(None) => {}
                    Err(_) => return Poll::Ready(Err(Cut::BadAnswer)),
                }
                match from_target.poll_fill(context, target) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(_) => return Poll::Ready(Err(Cut::Target)),
                    Poll::Pending => break,
                }
            }
            if client.socket().is(Ready::FAILED) {
                return Poll::Ready(Err(Cut::Client));
            }
            client.socket().watch(context);
            let cut = |why| match why {
                Why::Due if !sending => Cut::NoAnswer,
                Why::Due if !up.is_writing() => Cut::NoBody,
                why => cut_of(why),
            };
            watch.poll(context).map(|why| Err(cut(why)))
        })
        .await
    }

    /// Reads a head that is there, and writes it for the client.
    fn read_answer(
        &self,
        trip: &Trip<'_>,
        up: &Flow,
        upstream: &Upstream,
        range: Range<usize>,
    ) -> Result<Sent, Cut> {
        let plan = trip.plan;
        // An empty line before it is only for requests.
        let bytes = &upstream.stream.inbound.bytes()[..range.end];
        let answer = parse_response(bytes, plan.to_head).map_err(|_| Cut::BadAnswer)?;
        let mut out = Vec::new();
        if answer.is_interim() {
            pass_on::interim(&answer, &mut out);
            return Ok(Sent::Interim(out));
        }
        if answer.status == 101 && !plan.upgrade {
            return Err(Cut::BadAnswer);
        }
        let ending = Ending::of(answer.body, plan.version);
        let afterwards = if ending == Ending::Close || self.closing() {
            Afterwards::Closed
        } else {
            // What is still to be written to the target may never be.
            plan.afterwards_if(up.is_done())
        };
        if let Some(http) = &trip.route.service.config.http {
            let changes = response_changes(http, plan.rule);
            pass_on::response(&answer, ending, afterwards, changes, &mut out);
        }
        Ok(Sent::Answer(Answered {
            status: answer.status,
            head: out,
            body: answer.body,
            ending,
            afterwards,
            keep_alive: answer.keep_alive && !authenticates_connection(&answer.fields),
        }))
    }

    /// Passes the answer on, and what is left of the request.
    async fn relay(
        &mut self,
        trip: &Trip<'_>,
        up: &mut Flow,
        down: &mut Flow,
        upstream: &mut Upstream,
    ) -> Result<(), Cut> {
        let Stream { transport: client, inbound: from_client } = &mut self.stream;
        let at_target = upstream.open.target.counters.of(self.seat.worker.index);
        let Stream { transport: target, inbound: from_target } = &mut upstream.stream;
        let (watch, idle) = (&self.watch, trip.route.service.config.timeout.idle);
        let service = self.seat.counters();
        let mut sending = !up.is_done();
        watch.limit(idle);
        poll_fn(|context| {
            let before = [up.moved(), down.moved()];
            let flushed_before = client.flushed() + target.flushed();
            if sending {
                match up.poll(context, from_client, client, target) {
                    Poll::Ready(Err(Broken::From)) => return Poll::Ready(Err(Cut::Client)),
                    Poll::Ready(Err(Broken::Fault(_))) => return Poll::Ready(Err(Cut::BadBody)),
                    Poll::Ready(_) => sending = false,
                    Poll::Pending => {}
                }
            }
            let polled = down.poll(context, from_target, target, client);
            let [to_target, to_client] = [up.moved() - before[0], down.moved() - before[1]];
            if to_target + to_client > 0 {
                service.bytes_to_target.add(to_target);
                service.bytes_to_client.add(to_client);
                at_target.bytes_to_target.add(to_target);
                at_target.bytes_to_client.add(to_client);
                watch.limit(idle);
            } else if client.flushed() + target.flushed() != flushed_before {
                watch.limit(idle);
            }
            match polled {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(Broken::From)) => return Poll::Ready(Err(Cut::Target)),
                Poll::Ready(Err(Broken::To)) => return Poll::Ready(Err(Cut::Client)),
                Poll::Ready(Err(Broken::Fault(_))) => return Poll::Ready(Err(Cut::BadAnswer)),
                Poll::Pending => {}
            }
            if client.socket().is(Ready::FAILED) {
                return Poll::Ready(Err(Cut::Client));
            }
            client.socket().watch(context);
            watch.poll(context).map(|why| Err(cut_of(why)))
        })
        .await
    }
}

fn cut_of(why: Why) -> Cut {
    match why {
        Why::Due => Cut::Idle,
        Why::Drained => Cut::Drained,
        Why::Stopped => Cut::Stopped,
    }
}

/// What a status says about the target. 501 and 505 say that it does not know a method or a version, which is for the client to choose:
/// by asking for such a thing nobody is to take targets out.
fn judge(target: &Target, status: u16) {
    let failed = status >= 500 && !matches!(status, 501 | 505);
    if failed { target.report_failure(FailureKind::Status) } else { target.report_success() }
}

/// What a cut says about the target; nothing if it has only closed a kept connection.
fn blame(target: &Target, cut: Cut, stale: bool) {
    match cut {
        Cut::Target if !stale => target.report_failure(FailureKind::Reset),
        Cut::BadAnswer => target.report_failure(FailureKind::Status),
        Cut::NoAnswer => target.report_failure(FailureKind::Timeout),
        _ => {}
    }
}
