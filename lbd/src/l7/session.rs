//! A client's connection, whatever is spoken on it: who is there, what service it came to, and whether it is to go elsewhere.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::{Context, Poll};

use common::config::Mode;
use common::rng::Rng;
use common::time::Instant;
use lbd_core::http::bounds;
use lbd_core::http::framing::{Fault, Field, RequestHead};
use lbd_core::http::origin::Origin;
use lbd_core::sources::network_of;

use super::handshake::Encrypted;
use super::passwords::{Compared, compare};
use super::plan::{Circumstances, Plan, Step};
use super::tie;
use super::watch::Watch;
use crate::l4::{Departure, Ends, Leave, Refusal, Seat};
use crate::random;
use crate::snapshot::Group;
use crate::worker::Route;

thread_local! {
    /// For numbers that requests are known by; they are no secrets.
    static REQUEST_IDS: RefCell<Rng> = RefCell::new(Rng::new(random::number()));
}

/// What the requests of a connection have in common.
pub(super) struct Session {
    /// Its place among those of its service.
    pub(super) seat: Seat,
    /// Both ends, as they are told to targets.
    pub(super) ends: Ends,
    /// What there is to know of its encryption, if it is encrypted.
    pub(super) encrypted: Option<Box<Encrypted>>,
    /// Who is at the other end: the client, or a proxy in front of it.
    pub(super) peer: SocketAddr,
    /// The listener's address.
    listen: SocketAddr,
    departure: Option<Rc<Departure>>,
    /// The service as it was when it was last there.
    known: RefCell<Rc<Route>>,
    /// The service that the address is of, in this generation of the configuration.
    latest: RefCell<Option<(u64, Rc<Route>)>>,
}

impl Session {
    /// Of a connection from `peer` to `local`, which was accepted at `listen`, in clear text so far. A PROXY header may have named other `ends`.
    pub(super) fn new(seat: Seat, ends: Ends, peer: SocketAddr, local: IpAddr, listen: SocketAddr) -> Self {
        // What may leave is the virtual IP that it came to itself, not the address that a proxy's client came to.
        let departure = seat.worker.departure(local);
        let known = RefCell::new(Rc::clone(&seat.route));
        Self { seat, ends, encrypted: None, peer, listen, departure, known, latest: RefCell::default() }
    }

    /// What ends it for its virtual IP, if it came to one, while no group serves it: then the first one of its service says how long it goes on.
    pub(super) fn leave(&self) -> Option<Leave> {
        self.leave_with(&self.seat.route.service.group)
    }

    /// The same for a connection that several groups may serve at the same time: the one that goes on for longest says how long.
    pub(super) fn leave_last(&self) -> Option<Leave> {
        self.leave_with(self.seat.route.service.last_to_drain())
    }

    /// The same for what is under way on it from now on, which this group serves.
    pub(super) fn leave_with(&self, group: &Group) -> Option<Leave> {
        let departure = Rc::clone(self.departure.as_ref()?);
        Some(Leave::new(departure, self.seat.worker.connections.now_ms(), group.config.drain_timeout))
    }

    /// The service as it was when it was last there.
    pub(super) fn known(&self) -> Rc<Route> {
        Rc::clone(&self.known.borrow())
    }

    /// The same, after a look whether it is another one by now.
    pub(super) fn refreshed(&self) -> Rc<Route> {
        if let Some(current) = self.current() {
            *self.known.borrow_mut() = current;
        }
        self.known()
    }

    /// The service as it is now, if the address is still its.
    fn current(&self) -> Option<Rc<Route>> {
        let generation = self.seat.worker.generation();
        if let Some((at, route)) = &*self.latest.borrow()
            && *at == generation
        {
            return Some(Rc::clone(route));
        }
        let known = self.known.borrow();
        let same = |route: &Rc<Route>| {
            route.http.is_some() && route.service.config.name == known.service.config.name
        };
        let current = self.seat.worker.route(Mode::Tcp, self.listen).filter(same);
        *self.latest.borrow_mut() = current.clone().map(|route| (generation, route));
        current
    }

    /// Whether the client is to go elsewhere with its next request: the daemon stops, the virtual IP has left, or the service is gone or lets
    /// it in no more.
    pub(super) fn closing(&self) -> bool {
        self.seat.worker.is_stopping()
            || self.departure.as_ref().is_some_and(|departure| departure.is_away())
            || self.current().is_none_or(|route| !self.may_stay(&route))
    }

    /// Whether the service lets the connection in: its lists, and what it wants of TLS, may be others by now than when it came.
    fn may_stay(&self, route: &Rc<Route>) -> bool {
        Rc::ptr_eq(route, &self.seat.route)
            || (self.is_encrypted_for(route) && route.service.guard.lets_connect(self.ends.client.ip()))
    }

    /// Whether it is encrypted if the service wants that, and its client has shown what the service wants to see.
    fn is_encrypted_for(&self, route: &Route) -> bool {
        match (self.encrypted.as_deref(), route.service.tls.as_deref()) {
            (Some(encrypted), Some(termination)) => encrypted.may_stay(termination),
            (encrypted, termination) => encrypted.is_none() && termination.is_none(),
        }
    }

    /// Whether it lets a request of this origin in.
    fn is_let_in(&self, route: &Rc<Route>, origin: &Origin<'_>) -> bool {
        if origin.trusted {
            self.is_encrypted_for(route) && route.service.guard.allows(origin.client.ip())
        } else {
            self.may_stay(route)
        }
    }

    /// Whom a request with these fields is from. A proxy that only says by the PROXY protocol whose connection it passes on has not written the
    /// request, so its own address says nothing of that.
    fn origin<'f>(&self, route: &Route, fields: &[Field<'f>]) -> Origin<'f> {
        let forwarded = route.service.config.http.as_ref().map(|http| http.forwarded).unwrap_or_default();
        let trusts = |address| route.service.guard.trusts_word(address);
        Origin::of(self.ends.client, fields, forwarded, trusts)
    }

    /// Decides what becomes of a request whose head was there at `read`, which may have to wait for a password to be compared, unless its
    /// client is `gone` before. One that cannot be understood counts, too.
    ///
    /// # Errors
    /// Why it is refused.
    pub(super) async fn plan(
        &self,
        route: &Rc<Route>,
        head: Result<RequestHead<'_>, Fault>,
        read: std::time::Instant,
        watch: &Watch,
        mut gone: impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Result<Box<Plan>, Fault> {
        if let Some(site) = &route.http {
            site.earn();
        }
        let now = self.seat.worker.clock().of(read);
        let fields: &[Field<'_>] = match &head {
            Ok(head) => &head.fields,
            Err(_) => &[],
        };
        let origin = self.origin(route, fields);
        let client = origin.client;
        // Once, also if a password has to be compared.
        let over_rate = self.is_over_rate(route, head.as_ref().ok(), client.ip(), now);
        let head = head?;
        let over_rate = over_rate?;
        let challenge = self.seat.worker.challenge(head.method, head.authority.host(), &head.path);
        let mut around = Circumstances {
            challenge: challenge.as_deref(),
            route,
            ends: &self.ends,
            origin: &origin,
            request_id: REQUEST_IDS
                .with_borrow_mut(|ids| u128::from(ids.next_u64()) << 64 | u128::from(ids.next_u64())),
            span_id: REQUEST_IDS.with_borrow_mut(Rng::next_u64),
            compared: None,
            now,
            over_rate,
            let_in: self.is_let_in(route, &origin),
            encrypted: self.encrypted.as_deref(),
            closing: self.closing(),
        };
        let mut plan = Plan::make(&head, &around)?;
        if let Some(comparison) = plan.take_comparison() {
            watch.limit(route.service.config.timeout.idle);
            // Rare and large, so not a part of every connection's task.
            let mut comparing = Box::pin(compare(comparison, client.ip(), now));
            let compared = poll_fn(|context| match comparing.as_mut().poll(context) {
                Poll::Ready(compared) => Poll::Ready(Some(compared)),
                Poll::Pending => gone(context).map(|()| None),
            });
            match watch.wait(compared).await.unwrap_or(Some(Compared::Busy)) {
                None => plan.step = Step::Gone(self.seat.refuse(Refusal::ClientGone)),
                compared => {
                    around.compared = compared;
                    plan = Plan::make(&head, &around)?;
                }
            }
            plan.compared = Some(std::time::Instant::now());
        }
        if plan.over_rate {
            self.seat.counters().http.over_rate.add(1);
        }
        if let Some(denied) = plan.denied {
            self.seat.counters().http.denied[denied.index()].add(1);
        }
        plan.tied.count(&self.seat.counters().http);
        Ok(plan)
    }

    /// Whether more came than `rate` allows. One that cannot be understood, or does not say what the rate counts by, counts for the client's
    /// address, or its network of IPv6.
    ///
    /// # Errors
    /// That it says more than once what it is counted by.
    fn is_over_rate(
        &self,
        route: &Route,
        head: Option<&RequestHead<'_>>,
        client: IpAddr,
        now: Instant,
    ) -> Result<bool, Fault> {
        let guard = &route.service.guard;
        if !guard.has_rate() {
            return Ok(false);
        }
        let by = route.service.config.http.as_ref().and_then(|http| http.rate_header.as_deref());
        let value = match (by, head, &route.http) {
            (Some(name), Some(head), Some(site)) => bounds::counted_by(&head.fields, name)
                .map(|value| value.map(|value| tie::key_of(site.hash_key, name, value))),
            _ => Ok(None),
        };
        let source = value.ok().flatten().unwrap_or_else(|| network_of(client));
        let over = !guard.within_rate(source, now);
        value.map(|_| over)
    }

    /// Counts a request that is refused, and says so in the log unless that was done just now.
    pub(super) fn complain(&self, route: &Route, fault: Fault) {
        self.seat.counters().http.faults[fault.index()].add(1);
        if let Some(unsaid) = route.complaints.due(self.seat.worker.clock().now_ms()) {
            let (service, client) = (&route.service.config.name, self.ends.client);
            tracing::debug!(service, %client, unsaid, "request refused: {fault}");
        }
    }
}
