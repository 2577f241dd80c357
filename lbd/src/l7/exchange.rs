//! One request: a place at a target, a connection to it, and the way there and back, whatever either side speaks.

use std::borrow::Cow;
use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use common::config::{HeaderChanges, Retry};
use lbd_core::http::answer::Answer;
use lbd_core::http::bounds::Quota;
use lbd_core::http::framing::{BodyReader, Fault, RequestBody, Version};
use lbd_core::http::pass_on::Afterwards;

use super::Cut;
use super::answering::blame_pause;
use super::client::Next;
use super::flow::{Encoding, Flow, Sink, Source};
use super::http2::Asker;
use super::journal::Journal;
use super::patience::Patience;
use super::plan::{ForClient, ForTarget, Own, Plan, Step, has_body};
use super::session::Session;
use super::site::{Site, response_changes, with_page};
use super::stream::Stream;
use super::target::{Answered, Need, Reached};
use super::tie::Bond;
use super::tunnel::Far;
use super::watch::Watch;
use crate::clock::Clock;
use crate::counters::Again;
use crate::l4::{Occupied, Pool, Refusal, Seat, place};
use crate::snapshot::{FailureKind, Target};
use crate::worker::Route;

/// So often more than others a request is sent that the target has said to have done nothing with.
const UNTOUCHED_MORE: u32 = 4;

/// Why a request was not answered by a target.
pub(super) enum Failed {
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
        /// The target has said that it did nothing with it.
        refused: bool,
    },
}

impl Failed {
    /// Cut while the client can still be answered.
    pub(super) const fn unanswered(cut: Cut) -> Self {
        Self::Cut { cut, unanswered: true, silent: false, whole: false, refused: false }
    }
}

/// An exchange that came to its end.
struct Done {
    status: u16,
    next: Next,
}

/// A request on its way.
pub(super) struct Trip<'t> {
    pub(super) route: &'t Rc<Route>,
    pub(super) plan: &'t Plan,
    head: &'t ForTarget,
    /// What the client is told about its target, once there is one.
    pub(super) bond: Option<Bond>,
    /// Who asks.
    pub(super) client: IpAddr,
    /// The place of the client's connection.
    pub(super) seat: &'t Seat,
    /// The worker's.
    pub(super) clock: Clock,
    /// How long is waited while its bodies move.
    pub(super) patience: RefCell<Patience>,
}

impl Trip<'_> {
    /// Whether the target is asked for a tunnel through a stream.
    pub(super) fn opens_tunnel(&self) -> bool {
        self.head.opens_tunnel()
    }

    /// Whether it most likely could be sent once more after so many tries, should a kept connection turn out to be closed.
    fn could_resend(&self, retry: Retry, tries: u32) -> bool {
        self.plan.idempotent
            && !has_body(self.plan.body)
            && retry.stale_connection
            && tries < retry.attempts
            && self.route.http.as_ref().is_some_and(Site::could_resend)
    }
}

/// Who has asked.
pub(super) enum Client<'e> {
    /// A connection of HTTP/1, whose turn this request is.
    Http1(&'e mut Stream),
    /// A stream of HTTP/2.
    Http2(&'e mut Asker),
}

impl Client<'_> {
    /// The two directions.
    pub(super) fn halves(&mut self) -> (Source<'_>, Sink<'_>) {
        match self {
            Self::Http1(stream) => {
                let Stream { transport, inbound } = &mut **stream;
                (Source::Http1 { inbound, transport }, Sink::Http1(transport))
            }
            Self::Http2(asker) => asker.halves(),
        }
    }

    /// Whether he has given up.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.halves().1.poll_gone(context)
    }

    const fn version(&self) -> Version {
        match self {
            Self::Http1(_) => Version::Http11,
            Self::Http2(_) => Version::Http2,
        }
    }
}

/// A request that is being answered.
pub(super) struct Exchange<'e> {
    /// The connection that it came on.
    pub(super) session: &'e Session,
    /// What ends its waits.
    pub(super) watch: &'e Watch,
    /// Who is answered.
    pub(super) client: Client<'e>,
    /// What is changed in answers, where that depends on the request and it was understood.
    pub(super) filled: Option<Rc<[HeaderChanges; 2]>>,
    /// Whether its method is `HEAD`, as far as that is known before it was understood: then no answer has content.
    pub(super) to_head: bool,
}

impl Exchange<'_> {
    /// Does what was decided.
    pub(super) async fn perform(mut self, route: &Rc<Route>, plan: &mut Plan, journal: &mut Journal) -> Next {
        journal.decided(plan);
        self.filled.clone_from(&plan.filled);
        self.to_head = plan.to_head;
        match std::mem::replace(&mut plan.step, Step::nothing()) {
            Step::Forward(pool, head) => self.forward(route, plan, pool, head, journal).await,
            // Nothing is left to be compared.
            Step::Compare(_) => self.plain(route, journal, 503, "busy").await,
            Step::Gone(refusal) => self.unserved(route, journal, refusal).await,
            Step::Answer(own) => {
                let kept = plan.afterwards() != Afterwards::Closed;
                self.own_answer(route, journal, own, "answered", kept).await
            }
        }
    }

    /// Answers a request that is refused, and has nothing more read.
    pub(super) async fn refuse(mut self, route: &Rc<Route>, begin: Instant, fault: Fault) -> Next {
        self.session.complain(route, fault);
        let mut journal = Journal::begin(route, begin, Instant::now());
        self.plain(route, &mut journal, fault.status(), fault.name()).await
    }

    /// A client that began a request has not ended its head in time.
    pub(super) async fn late(mut self, route: &Rc<Route>) -> Next {
        let now = Instant::now();
        let mut journal = Journal::begin(route, now, now);
        self.plain(route, &mut journal, 408, "header_timeout").await
    }

    /// Answers with a status and no more, and closes.
    async fn plain(&mut self, route: &Rc<Route>, journal: &mut Journal, status: u16, end: &str) -> Next {
        let Some(http) = &route.service.config.http else { return Next::Abort };
        // There may be room, or a target, in a moment.
        let soon = [("Retry-After", "1".to_owned())];
        let fields = if status == 503 { &soon[..] } else { &[] };
        let [of_service, of_rule] = response_changes(http);
        // Which rule it met makes no difference to what becomes of a request that failed.
        let changes = [self.filled.as_ref().map_or(of_service, |filled| &filled[0]), of_rule];
        let answer = with_page(&route.service, &Answer { fields, ..Answer::plain(status) });
        let own = Own::write(&answer, self.client.version(), self.to_head, Afterwards::Closed, changes);
        // Rare, so not a part of every request's task.
        Box::pin(self.own_answer(route, journal, own, end, false)).await
    }

    /// Sends an answer that no target has given.
    async fn own_answer(
        &mut self,
        route: &Rc<Route>,
        journal: &mut Journal,
        own: Own,
        end: &str,
        kept: bool,
    ) -> Next {
        self.watch.limit(route.service.config.timeout.idle);
        let status = own.status;
        let sent = match (own.head, &mut self.client) {
            (ForClient::Http1(bytes), Client::Http1(stream)) => {
                let sent = self.watch.wait(stream.transport.write_all(&bytes)).await;
                matches!(sent, Ok(Ok(()))).then_some(bytes.len())
            }
            (ForClient::Http2(head), Client::Http2(asker)) => {
                let sent = self.watch.wait(asker.answer_whole(*head, own.body)).await;
                sent.ok().flatten()
            }
            // It was written for this client.
            _ => None,
        };
        if let Some(bytes) = sent {
            journal.moved(0, bytes as u64);
            self.session.seat.counters().bytes_to_client.add(bytes as u64);
        }
        self.note(route, journal, None, status, end);
        match (sent, kept) {
            (Some(_), true) => Next::Request,
            (Some(_), false) => Next::Finish,
            (None, _) => Next::Abort,
        }
    }

    fn note(&self, route: &Rc<Route>, journal: &Journal, by: Option<&Target>, status: u16, end: &str) {
        let seat = &self.session.seat;
        let worker = (seat.worker.index, seat.counters());
        journal.ended(route, worker, self.session, by, status, end);
    }

    /// Has a target of the group answer, or says why none does.
    async fn forward(
        &mut self,
        route: &Rc<Route>,
        plan: &Plan,
        pool: Rc<Pool>,
        head: ForTarget,
        journal: &mut Journal,
    ) -> Next {
        let seat = &self.session.seat;
        let trip = Trip {
            route,
            plan,
            head: &head,
            bond: None,
            client: plan.client.ip(),
            seat,
            clock: seat.worker.clock(),
            patience: RefCell::new(Patience::new(&route.service.config)),
        };
        journal.bound_for(&pool);
        let mut pool = pool;
        // Allocates only once a target has failed.
        let mut tried: Vec<Arc<Target>> = Vec::new();
        let mut newer_than = None;
        // Why and after whom it is tried again, if there is another try.
        let mut again: Option<(Again, Arc<Target>)> = None;
        // Why there is no target if no further one may be tried.
        let mut last = Refusal::NoTarget;
        loop {
            let occupied = match self.occupied(&pool, plan, &tried, last, journal).await {
                Ok(occupied) => occupied,
                Err(refusal) => return self.unserved(route, journal, refusal).await,
            };
            if let Some((why, failed)) = again.take() {
                self.tried_again(journal, why, &failed);
            }
            let retry = pool.group.config.retry;
            let tries = journal.way().tries;
            let need = Need {
                head: trip.head,
                alone: plan.alone,
                once: matches!(trip.head, ForTarget::Http1(_)) && !trip.could_resend(retry, tries),
                newer_than,
            };
            let reached = Reached::get(self.session, &plan.ends(self.session), &occupied, need).await;
            if reached.is_err() {
                journal.way().failed = Some(Arc::clone(&occupied.target));
            }
            let reached = match reached {
                Ok(reached) => reached,
                Err(refusal) if tries >= retry.tries() => {
                    let refusal = seat.refuse(refusal);
                    return self.unserved(route, journal, refusal).await;
                }
                Err(refusal) => {
                    again = Some((Again::Connect, Arc::clone(&occupied.target)));
                    last = refusal;
                    tried.push(Arc::clone(&occupied.target));
                    // That took a while: the targets may be others by now.
                    pool = current(self.session, &pool);
                    continue;
                }
            };
            // By its place: what counts its holders is all workers', and so dear.
            let (there, reused) = ((Rc::clone(&occupied.pool), occupied.index), reached.is_reused());
            let target = &there.0.group.targets[there.1];
            let (age, requests) = (reached.age(), reached.requests());
            self.watch.set_target(Some(there.clone()));
            journal.connected(target, reused, reached.was_there());
            let failed = match self.exchange(&trip, reached, occupied, journal).await {
                Ok(Done { mut next, status }) => {
                    if let Next::Tunnel(far) = &mut next {
                        let worker = (seat.worker.index, seat.counters());
                        far.story = journal.hand_on(route, worker, self.session, target);
                    } else {
                        self.note(route, journal, Some(target), status, "done");
                    }
                    return next;
                }
                Err(failed) => failed,
            };
            // What ends a connection may be another one's request, also if that has come later.
            let stale = reused || requests.is_some_and(|requests| requests.get() > 1);
            if !self.may_resend(route, &failed, target, (reused, stale, tries), retry) {
                return self.failed(route, journal, target, failed).await;
            }
            again = Some((Again::Resent, Arc::clone(target)));
            if stale || matches!(failed, Failed::Cut { refused: true, .. }) {
                // It has closed what it kept open, or takes no more on it, and is there all the same as far as anybody knows.
                seat.worker.kept.forget(target);
                newer_than = Some(age);
            } else {
                tried.push(Arc::clone(target));
            }
            pool = current(self.session, &pool);
        }
    }

    /// Counts that it is tried again after a target has failed: once there is one for that, which there need not be.
    fn tried_again(&self, journal: &mut Journal, why: Again, failed: &Target) {
        let seat = &self.session.seat;
        journal.again(why);
        match why {
            Again::Connect => seat.retried(failed),
            Again::Resent => {
                seat.counters().http.resent.add(1);
                failed.counters.of(seat.worker.index).resent.add(1);
            }
        }
    }

    /// A place at a target that was not tried before.
    async fn occupied(
        &mut self,
        pool: &Rc<Pool>,
        plan: &Plan,
        tried: &[Arc<Target>],
        last: Refusal,
        journal: &mut Journal,
    ) -> Result<Occupied, Refusal> {
        let seat = &self.session.seat;
        let ends = plan.ends(self.session);
        let client = &mut self.client;
        let mut gone = |context: &mut Context<'_>| client.poll_gone(context);
        let placed = place(seat, pool, (&ends, &plan.tied.tie), &mut gone, tried, journal.way()).await?;
        let occupied = placed.ok_or_else(|| seat.refuse(last))?;
        journal.way().tries += 1;
        if pool.group.panics() {
            seat.counters().unhealthy_tries.add(1);
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
        (reused, stale, tries): (bool, bool, u32),
        retry: Retry,
    ) -> bool {
        let Failed::Cut { cut, silent, whole, refused, .. } = failed else { return false };
        // The first request on a connection speaks against the target also if others have come behind it: else nobody would.
        blame(target, *cut, *refused || (reused && *silent));
        let wanted = retry.no_answer || ((stale || *refused) && retry.stale_connection);
        // It costs a target nothing to refuse, and with many requests on a connection that ends all of them are refused at once.
        let attempts = if *refused { retry.attempts.saturating_add(UNTOUCHED_MORE) } else { retry.attempts };
        if !whole || !wanted || tries >= attempts {
            return false;
        }
        let http = &self.session.seat.counters().http;
        let now = self.session.seat.worker.clock().at();
        let may = *refused || route.http.as_ref().is_some_and(|site| site.may_resend(now));
        http.resends_refused.add(u64::from(!may));
        may
    }

    /// Answers a request that failed for good.
    async fn failed(
        &mut self,
        route: &Rc<Route>,
        journal: &mut Journal,
        target: &Target,
        failed: Failed,
    ) -> Next {
        match failed {
            Failed::Fault(fault) => {
                self.session.seat.counters().http.faults[fault.index()].add(1);
                self.plain(route, journal, fault.status(), fault.name()).await
            }
            Failed::Cut { cut, unanswered, .. } => self.cut(route, journal, target, cut, unanswered).await,
        }
    }

    /// Answers a request that was cut, if nothing of another answer is under way.
    async fn cut(
        &mut self,
        route: &Rc<Route>,
        journal: &mut Journal,
        target: &Target,
        cut: Cut,
        unanswered: bool,
    ) -> Next {
        self.session.seat.counters().http.cuts[cut.index()].add(1);
        self.watch.set_target(None);
        if let Some(status) = cut.status().filter(|_| unanswered) {
            return self.plain(route, journal, status, cut.name()).await;
        }
        let status = if unanswered { 0 } else { journal.status_if_cut() };
        self.note(route, journal, Some(target), status, cut.name());
        Next::Abort
    }

    /// Answers a request for which there was no target.
    async fn unserved(&mut self, route: &Rc<Route>, journal: &mut Journal, refusal: Refusal) -> Next {
        if refusal == Refusal::ClientGone {
            self.note(route, journal, None, 0, refusal.name());
            return Next::Abort;
        }
        journal.unserved(self.session.seat.worker.index);
        self.plain(route, journal, 503, refusal.name()).await
    }

    /// Sends the request and passes the answer on.
    async fn exchange(
        &mut self,
        trip: &Trip<'_>,
        mut reached: Reached,
        occupied: Occupied,
        journal: &mut Journal,
    ) -> Result<Done, Failed> {
        let plan = trip.plan;
        let bond = Bond::new(&occupied, &plan.tied, journal.way().tries);
        let patience = RefCell::new(Patience::new(&trip.route.service.config));
        let trip = &Trip { bond, patience, ..*trip };
        let mut up = self.begin(trip, &mut reached, &occupied)?;
        let seat = &self.session.seat;
        let at_target = occupied.target.counters.of(seat.worker.index);
        // A head that went to a stream is there already.
        seat.counters().bytes_to_target.add(up.moved());
        at_target.bytes_to_target.add(up.moved());
        let answered = self.answer(trip, &mut up, &mut reached, &occupied.target, journal).await;
        let answered = match answered {
            Ok(answered) => answered,
            Err(failed) => {
                journal.moved(up.moved(), 0);
                return Err(failed);
            }
        };
        let Answered { status, head, body, encoding, press, withheld, afterwards, keep_alive } = answered;
        journal.answered(status);
        // Where both speak HTTP/1 it is the connections that become a tunnel, not the answer.
        let tunnel = status == 101;
        let connection = tunnel && matches!((&self.client, &reached), (Client::Http1(_), Reached::Http1(_)));
        let reader = if connection { BodyReader::Ended } else { BodyReader::of_response(body) };
        let head = match head {
            ForClient::Http1(text) => (text, None),
            ForClient::Http2(head) => (Vec::new(), Some(head)),
        };
        // The request has gone there, whatever comes of its answer.
        let mut in_vain = |cut: Cut| {
            journal.moved(up.moved(), 0);
            Failed::unanswered(cut)
        };
        let text = Cow::Owned(head.0);
        let mut down = Flow::pressed(text, reader, encoding, (withheld, press), &mut reached.source())
            .map_err(|_| in_vain(Cut::BadAnswer))?;
        if let (Some(head), Client::Http2(asker)) = (head.1, &mut self.client) {
            asker.answer(*head, &mut down).map_err(|_| in_vain(Cut::Client))?;
            seat.counters().bytes_to_client.add(down.moved());
            at_target.bytes_to_client.add(down.moved());
        }
        // A target that has answered before it had all of the request may read the rest as the next one.
        let taken = up.is_done();
        if tunnel && !connection {
            seat.counters().http.tunnels.add(1);
            up.go_on(BodyReader::UntilClose);
        }
        let relayed = self.relay(trip, &mut up, &mut down, &mut reached, &occupied.target, tunnel).await;
        journal.moved(up.moved(), down.moved());
        journal.carried(up.content(), down.content());
        for (counter, bytes) in
            seat.counters().http.compressed_bytes.iter().zip(down.compressed().into_iter().flatten())
        {
            counter.add(bytes);
        }
        let unanswered = down.moved() == 0;
        relayed.map_err(|cut| {
            blame_pause(&occupied.target, &reached, cut, &up, &down);
            Failed::Cut { cut, unanswered, silent: false, whole: false, refused: false }
        })?;
        judge(&occupied.target, status);
        if connection && let Reached::Http1(upstream) = reached {
            let by_rule = trip.route.service.counters_of(plan.rule).map(Arc::clone);
            let far = Far { upstream, occupied, by_rule, story: None };
            return Ok(Done { status, next: Next::Tunnel(Box::new(far)) });
        }
        let kept = keep_alive && !plan.alone && occupied.pool.group.config.send_proxy.is_none();
        match (taken && !tunnel, kept) {
            (true, true) => reached.keep(&self.session.seat.worker),
            (true, false) => reached.end_at_once(plan.body),
            // Something may be on its way to the target still.
            (false, _) => reached.say_goodbye(),
        }
        let kept = afterwards != Afterwards::Closed && up.is_done();
        let next = match (kept, plan.is_last && up.is_done()) {
            (true, _) => Next::Request,
            (false, true) => Next::Close,
            (false, false) => Next::Finish,
        };
        Ok(Done { status, next })
    }

    /// Begins with what goes to the target.
    fn begin<'h>(
        &mut self,
        trip: &Trip<'h>,
        reached: &mut Reached,
        occupied: &Occupied,
    ) -> Result<Flow<'h>, Failed> {
        let (plan, ends) = (trip.plan, trip.plan.ends(self.session));
        let mut reader = BodyReader::of_request(plan.body);
        if plan.drops_trailers {
            reader = reader.without_trailers();
            if let Client::Http2(asker) = &mut self.client {
                asker.drop_trailers();
            }
        }
        let http = trip.route.service.config.http.as_ref();
        let quota = Quota::new(http.and_then(|http| http.body_bytes_max));
        let withheld = plan.withheld.clone();
        let (mut source, _) = self.client.halves();
        let begin = |head, encoding| {
            let up = Flow::begin(head, reader, encoding, withheld, &mut source);
            up.and_then(|up| up.bounded(quota)).map_err(Failed::Fault)
        };
        match (trip.head, reached) {
            (ForTarget::Http1(head), Reached::Http1(upstream)) => {
                let head = upstream.opening(&occupied.pool.group.config, &ends, head);
                let chunked = plan.body == RequestBody::Chunked;
                let encoding = if chunked { Encoding::Chunked } else { Encoding::Plain };
                begin(head, encoding)
            }
            // Which targets take tunnels is known only once they are connected.
            (ForTarget::Http2(_), Reached::Http2(stream))
                if trip.opens_tunnel() && !stream.takes_tunnels() =>
            {
                Err(Failed::Fault(Fault::Connect))
            }
            (ForTarget::Http2(head), Reached::Http2(stream)) => {
                let mut up = begin(Cow::Borrowed(&[]), Encoding::Frames)?;
                // That it could not be sent is no more than a connection which has gone since the last look.
                stream.ask(head, &mut up).map_err(|_| Failed::Cut {
                    cut: Cut::Target,
                    unanswered: true,
                    silent: true,
                    whole: !has_body(plan.body),
                    refused: true,
                })?;
                Ok(up)
            }
            // A connection was made for this head.
            _ => Err(Failed::unanswered(Cut::Target)),
        }
    }
}

/// The group as it is now, if its targets still speak what the request was written for.
fn current(session: &Session, pool: &Rc<Pool>) -> Rc<Pool> {
    let now = session.seat.current(pool);
    if now.group.config.http2 == pool.group.config.http2 { now } else { Rc::clone(pool) }
}

/// What a status says about the target. 501 and 505 say that it does not know a method or a version, which is for the client to choose:
/// by asking for such a thing nobody is to take targets out.
fn judge(target: &Target, status: u16) {
    let failed = status >= 500 && !matches!(status, 501 | 505);
    if failed { target.report_failure(FailureKind::Status) } else { target.report_success() }
}

/// What a cut says about the target; nothing if it has only closed a kept connection, or wants nothing more on it.
fn blame(target: &Target, cut: Cut, stale: bool) {
    match cut {
        Cut::Target if !stale => target.report_failure(FailureKind::Reset),
        Cut::BadAnswer => target.report_failure(FailureKind::Status),
        Cut::NoAnswer => target.report_failure(FailureKind::Timeout),
        _ => {}
    }
}
