//! Letting a client in: the lists, limits and rate of its service.

use std::net::IpAddr;
use std::rc::Rc;

use common::config::Mode;
use lbd_core::sources::network_of;

use super::refusal::Refusal;
use crate::counters::ServiceCounters;
use crate::worker::{Route, Worker};

/// A client's place among the connections (or sessions) of its service, given back when dropped, also by a panic.
pub(crate) struct Seat {
    /// The worker that serves it.
    pub(crate) worker: Rc<Worker>,
    /// Its service.
    pub(crate) route: Rc<Route>,
    /// What it is counted for, if clients are: its client's address, or network of IPv6.
    source: Option<IpAddr>,
}

impl Seat {
    /// Lets `client` in, or says (and counts) why not.
    pub(crate) fn take(worker: &Rc<Worker>, route: &Rc<Route>, client: IpAddr) -> Result<Self, Refusal> {
        // Who may not connect at all takes nobody's place.
        if !route.service.guard.lets_connect(client) {
            return Err(route.refuse(worker, Refusal::Access));
        }
        let mut seat = Self::enter(worker, route)?;
        seat.limit(client)?;
        Ok(seat)
    }

    /// Lets in a connection whose client is not yet known: it takes a place among all, and has yet to
    /// [identify](Self::identify) itself.
    pub(crate) fn enter(worker: &Rc<Worker>, route: &Rc<Route>) -> Result<Self, Refusal> {
        let service = &route.service;
        if !service.shared.open.admit(service.config.limits.max_connections) {
            return Err(route.refuse(worker, Refusal::MaxConnections));
        }
        worker.shared().counters.open.add(1);
        Ok(Self { worker: Rc::clone(worker), route: Rc::clone(route), source: None })
    }

    /// Says who the client is.
    pub(crate) fn identify(&mut self, client: IpAddr) -> Result<(), Refusal> {
        if !self.route.service.guard.lets_connect(client) {
            return Err(self.route.refuse(&self.worker, Refusal::Access));
        }
        self.limit(client)
    }

    fn limit(&mut self, client: IpAddr) -> Result<(), Refusal> {
        let service = &self.route.service;
        let source = network_of(client);
        if let Some(max) = service.config.limits.max_connections_per_source {
            if !service.shared.sources.admit(source, max) {
                return Err(self.route.refuse(&self.worker, Refusal::MaxConnectionsPerSource));
            }
            self.source = Some(source);
        }
        // Of `http` requests are counted, not connections.
        let counted = service.guard.has_rate() && service.config.mode != Mode::Http;
        if counted && !service.guard.within_rate(source, self.worker.clock().at()) {
            return Err(self.route.refuse(&self.worker, Refusal::Rate));
        }
        self.counters().admitted.add(1);
        Ok(())
    }

    /// What its worker counts for its service.
    pub(crate) fn counters(&self) -> &ServiceCounters {
        self.route.service.shared.counters.of(self.worker.index)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let shared = &self.route.service.shared;
        shared.open.release();
        if let Some(source) = self.source {
            shared.sources.release(source);
        }
        self.worker.shared().counters.open.subtract_one();
    }
}

impl Route {
    /// Counts a refusal, and hands it back.
    pub(crate) fn refuse(&self, worker: &Worker, refusal: Refusal) -> Refusal {
        self.service.shared.counters.of(worker.index).refusals[refusal.index()].add(1);
        refusal
    }
}
