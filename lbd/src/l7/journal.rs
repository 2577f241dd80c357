//! What is remembered of a request until the end of its answer: for the histograms, and for the access log of a service that has one. That,
//! and whoever is told of traces, waits for the end of a tunnel that the answer opens.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::time::UnixTime;
use lbd_core::access_log::{Phases, Record, Request, Stage, Termination, Times, TraceId};
use lbd_core::histogram::{DurationSample, SizeSample};
use lbd_core::http::framing::{RequestHead, Version};
use lbd_core::http::trace::Trace;
use lbd_core::otlp::{Span, shortened};

use super::plan::Plan;
use super::session::Session;
use crate::clock::unix_now;
use crate::counters::{Again, BodySizes, Counter, ServiceCounters};
use crate::l4::{Ends, Pool, Way};
use crate::snapshot::Target;
use crate::worker::Route;

/// The status of an answer that opens a tunnel, as HTTP/1 has it.
const SWITCHING: u16 = 101;

/// What was asked for.
pub(super) struct Asking {
    method: String,
    host: String,
    path: String,
    query: Option<String>,
    scheme: &'static str,
    version: Version,
    server_name: Option<String>,
}

impl Asking {
    /// Of a request's head, how it came, and the name that TLS was asked for.
    pub(super) fn of(head: &RequestHead<'_>, scheme: &'static str, server_name: Option<&str>) -> Self {
        Self {
            method: head.method.to_owned(),
            host: head.authority.as_str().to_owned(),
            path: head.path.clone(),
            query: head.query.clone(),
            scheme,
            version: head.version,
            server_name: server_name.map(str::to_owned),
        }
    }
}

/// A request's story so far.
pub(super) struct Journal {
    at: Option<UnixTime>,
    /// Whom it is from, once its head has come; until then it is whoever has connected.
    client: Option<SocketAddr>,
    /// When its first byte was there.
    begin: Instant,
    /// When its head was.
    read: Instant,
    /// When a target was connected, or a kept connection taken.
    connected: Option<Instant>,
    /// When the answer's head was there.
    answered: Option<Instant>,
    /// Whether that opens a tunnel.
    tunnel: bool,
    way: Way,
    target: Option<Arc<Target>>,
    /// The group that is to serve it.
    pool: Option<Rc<Pool>>,
    reused: bool,
    /// Tries on connections that had served others.
    reuses: u64,
    /// Further tries, by [`Again`].
    again: [u64; Again::COUNT],
    /// The rule that it met.
    rule: Option<usize>,
    /// When it was known what becomes of it, once its head has come and says what is asked for. A password may have been compared before.
    decided: Option<Instant>,
    /// It is not let in, or comes over the rate.
    denied: bool,
    asking: Option<Box<Asking>>,
    /// The trace that it belongs to, if somebody is told of traces.
    trace: Option<Box<Trace>>,
    /// Bytes to the target and to the client.
    bytes: [u64; 2],
    /// How long the bodies of the request and of the answer were.
    bodies: [u64; 2],
}

impl Journal {
    /// A head has been `read`, whose first byte came at `begin`.
    pub(super) fn begin(route: &Route, begin: Instant, read: Instant) -> Self {
        Self {
            at: route.service.access_log.is_some().then(unix_now),
            client: None,
            begin,
            read,
            connected: None,
            answered: None,
            tunnel: false,
            way: Way::default(),
            target: None,
            pool: None,
            reused: false,
            reuses: 0,
            again: [0; Again::COUNT],
            rule: None,
            decided: None,
            denied: false,
            asking: None,
            trace: None,
            bytes: [0; 2],
            bodies: [0; 2],
        }
    }

    /// It is known what becomes of it: once its head was there, which takes no further look at the clock, or a password had been compared.
    pub(super) fn decided(&mut self, plan: &mut Plan) {
        self.decided = Some(plan.compared.unwrap_or(self.read));
        self.client = Some(plan.client);
        self.denied = plan.denied.is_some() || plan.over_rate;
        self.rule = plan.rule;
        self.asking = plan.asking.take();
        self.trace = plan.trace.take();
    }

    /// A target of this group is to answer it.
    pub(super) fn bound_for(&mut self, pool: &Rc<Pool>) {
        self.pool = Some(Rc::clone(pool));
    }

    /// It goes to a target; with each try anew. That is as soon as it is known what becomes of it if a connection `was_there`, and neither
    /// a place nor another target was waited for.
    pub(super) fn connected(&mut self, target: &Arc<Target>, reused: bool, was_there: bool) {
        let at_once = was_there && self.way.tries == 1 && self.way.queued.is_none();
        self.connected = Some(self.decided.filter(|_| at_once).unwrap_or_else(Instant::now));
        self.reused = reused;
        self.reuses += u64::from(reused);
        if self.asking.is_some() {
            self.target = Some(Arc::clone(target));
        }
    }

    /// It is tried once more.
    pub(super) const fn again(&mut self, why: Again) {
        self.again[why.index()] += 1;
    }

    /// No target of the group was to be had.
    pub(super) fn unserved(&self, worker: usize) {
        if let Some(pool) = &self.pool {
            pool.group.shared.counters.of(worker).unserved.add(1);
        }
    }

    /// How it got there.
    pub(super) const fn way(&mut self) -> &mut Way {
        &mut self.way
    }

    /// The answer's head is there, and says this.
    pub(super) fn answered(&mut self, status: u16) {
        self.answered = Some(Instant::now());
        self.tunnel = status == SWITCHING;
    }

    /// What is told as the status of an answer that was begun and did not come to its end: none but a tunnel's, whose end is no part of it.
    pub(super) const fn status_if_cut(&self) -> u16 {
        if self.tunnel { SWITCHING } else { 0 }
    }

    /// So many bytes have gone to the target and to the client.
    pub(super) const fn moved(&mut self, to_target: u64, to_client: u64) {
        self.bytes[0] += to_target;
        self.bytes[1] += to_client;
    }

    /// So long were the bodies of the request and of its answer.
    pub(super) const fn carried(&mut self, to_target: u64, to_client: u64) {
        self.bodies = [to_target, to_client];
    }

    /// The answer, of this status if one was begun, has ended like this. `by` is the target that has given it, if one has.
    pub(super) fn ended(
        &self,
        route: &Route,
        (worker, counters): (usize, &ServiceCounters),
        session: &Session,
        by: Option<&Target>,
        status: u16,
        end: &str,
    ) {
        let now = Instant::now();
        self.count(route, (worker, counters), by, now, status);
        self.tell_all(route, counters, (session.peer, &session.ends), now, status, end);
    }

    /// The answer of target `by` has made a tunnel of the client's connection. Answers what there is to tell at the end of that, if somebody is
    /// told.
    pub(super) fn hand_on(
        &mut self,
        route: &Rc<Route>,
        (worker, counters): (usize, &ServiceCounters),
        session: &Session,
        by: &Target,
    ) -> Option<Box<Story>> {
        self.count(route, (worker, counters), Some(by), Instant::now(), SWITCHING);
        self.asking.as_ref()?;
        let rest = Self::begin(route, self.begin, self.read);
        let journal = std::mem::replace(self, rest);
        Some(Box::new(Story { journal, route: Rc::clone(route), peer: session.peer, ends: session.ends }))
    }

    /// Counts a request that has ended, or become a tunnel.
    fn count(
        &self,
        route: &Route,
        (worker, counters): (usize, &ServiceCounters),
        by: Option<&Target>,
        now: Instant,
        status: u16,
    ) {
        // How long a tunnel lasts is for its ends to choose, and says nothing of how long it took to answer.
        let now = self.answered.filter(|_| self.tunnel).unwrap_or(now);
        let (http, took) = (&counters.http, DurationSample::from(now - self.read));
        let class = class(status);
        let answered = |answers: &[Counter; 4]| {
            if let Some(class) = class {
                answers[class].add(1);
            }
        };
        // A tunnel's status is no answer's, and one that did not come to its end has none.
        let bodies = by.and(class).map(|_| self.bodies.map(SizeSample::from));
        let carried = |sizes: &BodySizes| {
            if let Some(bodies) = bodies {
                sizes.record(bodies);
            }
        };
        http.durations.record(took);
        answered(&http.answers);
        carried(&http.bodies);
        // The rules are those of the configuration that it was planned with.
        if let Some(rule) = route.service.counters_of(self.rule) {
            let rule = rule.of(worker);
            rule.durations.record(took);
            rule.effort.add(self.bytes, self.again);
            rule.reused.add(self.reuses);
            answered(&rule.answers);
            carried(&rule.bodies);
        }
        if let Some(pool) = &self.pool {
            let group = pool.group.shared.counters.of(worker);
            group.effort.add(self.bytes, self.again);
            group.reused.add(self.reuses);
        }
        match by {
            None => http.own_answers.add(u64::from(status != 0)),
            Some(target) => {
                if let Some(pool) = &self.pool {
                    let group = pool.group.shared.counters.of(worker);
                    group.durations.record(took);
                    answered(&group.answers);
                    carried(&group.bodies);
                }
                let counters = target.counters.of(worker);
                answered(&counters.answers);
                carried(&counters.bodies);
                if let Some(connected) = self.connected {
                    counters.request_times.record(now - connected);
                    if let Some(answered) = self.answered {
                        counters.first_byte_times.record(answered - connected);
                    }
                }
            }
        }
    }

    /// Tells all who are to be told. The connection came from `peer`, and has these `ends`.
    fn tell_all(
        &self,
        route: &Route,
        counters: &ServiceCounters,
        (peer, ends): (SocketAddr, &Ends),
        now: Instant,
        status: u16,
        end: &str,
    ) {
        let client = self.client.unwrap_or(ends.client);
        self.tell(route, client, now, status, end);
        self.record(route, counters, (peer, ends.local, client), now, status, end);
    }

    /// Tells of the request, if it is to be told of.
    fn tell(&self, route: &Route, client: SocketAddr, now: Instant, status: u16, end: &str) {
        let (Some(tracer), Some(trace)) = (&route.service.tracer, &self.trace) else { return };
        let Some(asking) = self.asking.as_deref().filter(|_| trace.sampled) else { return };
        let now_unix = unix_now();
        let took = u64::try_from((now - self.begin).as_nanos()).unwrap_or(u64::MAX);
        let target = |target: &Arc<Target>| (target.key.id.clone(), target.key.address);
        tracer.tell(Box::new(Span {
            service_name: Arc::clone(&tracer.service_name),
            trace_id: trace.id,
            span_id: trace.span,
            parent: trace.parent,
            state: trace.state.clone(),
            begin: UnixTime::from_nanos(now_unix.as_nanos().saturating_sub(took)),
            end: now_unix,
            method: shortened(&asking.method),
            scheme: asking.scheme,
            version: match asking.version {
                Version::Http10 => "1.0",
                Version::Http11 => "1.1",
                Version::Http2 => "2",
            },
            host: shortened(&asking.host),
            path: shortened(&asking.path),
            client,
            status,
            ended: end.to_owned(),
            service: route.service.config.name.clone(),
            rule: self.rule.map(|index| index + 1),
            group: self.pool.as_ref().map(|pool| pool.group.config.name.clone()),
            target: self.target.as_ref().or(self.way.failed.as_ref()).map(target),
            tries: self.way.tries,
        }));
    }

    /// How far it has come.
    const fn stage(&self) -> Stage {
        if self.answered.is_some() {
            Stage::Data
        } else if self.connected.is_some() {
            Stage::Headers
        } else if self.way.queued.is_some() {
            Stage::Queue
        } else if self.decided.is_some() {
            Stage::Connection
        } else {
            Stage::Request
        }
    }

    /// How long a target was looked for and connected: only once it was known that one is wanted.
    fn sought(&self) -> Option<Duration> {
        self.connected.zip(self.decided).map(|(connected, decided)| connected - decided)
    }

    /// How long it took to come there.
    fn phases(&self, now: Instant) -> Phases {
        let queued = self.way.queued.unwrap_or_default();
        Phases {
            header: self.decided.map(|_| self.read - self.begin),
            queue: self.way.queued,
            connect: self.sought().map(|sought| sought.saturating_sub(queued)),
            first_byte: self.answered.zip(self.connected).map(|(answered, connected)| answered - connected),
            total: now - self.begin,
        }
    }

    fn record(
        &self,
        route: &Route,
        counters: &ServiceCounters,
        (peer, local, client): (SocketAddr, SocketAddr, SocketAddr),
        now: Instant,
        status: u16,
        end: &str,
    ) {
        let (Some(at), Some(sink)) = (self.at, &route.service.access_log) else { return };
        let target = self.target.as_ref().or(self.way.failed.as_ref());
        let phases = self.phases(now);
        // Of one that was not understood there is only what it was answered.
        let unknown = Request {
            method: "-",
            host: "-",
            path: "-",
            query: None,
            rule: None,
            status,
            reused: self.reused,
            trace: self.trace.as_ref().map(|trace| TraceId(trace.id)),
            times: Times::of(&phases),
            termination: Termination::of(end, self.stage(), self.denied),
        };
        let request = self.asking.as_ref().map_or(unknown, |asking| Request {
            method: &asking.method,
            host: &asking.host,
            path: &asking.path,
            query: asking.query.as_deref(),
            rule: self.rule.map(|index| index + 1),
            ..unknown
        });
        let record = Record {
            at,
            service: &route.service.config.name,
            client,
            proxy: (peer != client).then_some(peer),
            listen: local,
            tag: route.service.guard.tag(self.rule, client.ip()),
            sni: self.asking.as_ref().and_then(|asking| asking.server_name.as_deref()),
            group: self.pool.as_ref().map_or("-", |pool| pool.group.config.name.as_str()),
            target: target.map(|target| target.key.id.as_str()),
            target_address: target.map(|target| target.key.address),
            tries: self.way.tries,
            phases,
            bytes_to_target: self.bytes[0],
            bytes_to_client: self.bytes[1],
            end,
            request: Some(request),
        };
        sink.record(&record, &counters.log_left_out);
    }
}

/// What is told of a request when the tunnel has ended that it has opened. There are many tunnels, and they last: where nobody is told, none
/// of this stays.
pub(super) struct Story {
    journal: Journal,
    /// The service as it was when it was asked.
    route: Rc<Route>,
    /// Who has connected.
    peer: SocketAddr,
    ends: Ends,
}

impl Story {
    /// The tunnel has ended like this, after it has `moved` so many bytes to the target and to the client.
    pub(super) fn end(mut self, counters: &ServiceCounters, end: &str, [to_target, to_client]: [u64; 2]) {
        self.journal.moved(to_target, to_client);
        let parties = (self.peer, &self.ends);
        self.journal.tell_all(&self.route, counters, parties, Instant::now(), SWITCHING, end);
    }
}

/// The place of a status among counters by its first digit; none of one that is no final answer's. RFC 9110, section 15: one beyond 599 is
/// to be processed "as if the response had a 5xx (Server Error) status code".
fn class(status: u16) -> Option<usize> {
    usize::from(status / 100).checked_sub(2).map(|class| class.min(3))
}

#[cfg(test)]
mod tests {
    use super::class;

    #[test]
    fn each_final_status_has_its_class() {
        assert_eq!(
            [0, 101, 200, 308, 404, 503, 799].map(class),
            [None, None, Some(0), Some(1), Some(2), Some(3), Some(3)]
        );
    }
}
