//! What is remembered of a connection until its end: for the histograms, and for the access log of a service that has one.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::time::UnixTime;
use lbd_core::access_log::{Phases, Record};

use super::admission::Seat;
use super::choose::{Ends, Occupied, Pool};
use super::connect::Way;
use super::refusal::Refusal;
use crate::clock::unix_now;
use crate::counters::ServiceCounters;
use crate::snapshot::Target;
use crate::worker::{Route, Worker};

/// A connection's story so far.
#[derive(Debug)]
pub(super) struct Journal {
    begin: Instant,
    connected: Option<Instant>,
    /// Only where there is an access log: rare and large, so not a part of every connection's task.
    details: Option<Box<Details>>,
}

#[derive(Debug)]
struct Details {
    at: UnixTime,
    ends: Ends,
    proxy: Option<SocketAddr>,
    server_name: Option<String>,
    group: String,
    target: Option<Arc<Target>>,
    tries: u32,
    phases: Phases,
}

/// What a relayed connection came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Relayed {
    /// When the target sent its first byte, if it sent any.
    pub(super) answered: Option<Instant>,
    /// Bytes from the client to the target.
    pub(super) to_target: u64,
    /// Bytes from the target to the client.
    pub(super) to_client: u64,
}

impl Journal {
    /// Begins with a connection just accepted.
    pub(super) fn begin(route: &Route, peer: SocketAddr, listen: SocketAddr) -> Self {
        let details = || {
            Box::new(Details {
                at: unix_now(),
                ends: Ends { client: peer, local: listen, protocol: super::tcp::PROTOCOL },
                proxy: None,
                server_name: None,
                group: route.service.group.config.name.clone(),
                target: None,
                tries: 0,
                phases: Phases::default(),
            })
        };
        let details = route.service.access_log.is_some().then(details);
        Self { begin: Instant::now(), connected: None, details }
    }

    /// What had to be read first has been read, or will not be.
    pub(super) fn heard(&mut self, ends: &Ends) {
        let Some(details) = &mut self.details else { return };
        if ends.client != details.ends.client {
            details.proxy = Some(details.ends.client);
        }
        details.ends = *ends;
        details.phases.header = Some(self.begin.elapsed());
    }

    /// It is known which group is to serve it.
    pub(super) fn prepared(&mut self, ends: &Ends, server_name: Option<String>, pool: &Rc<Pool>) {
        let Some(details) = &mut self.details else { return };
        details.ends = *ends;
        details.server_name = server_name;
        details.group.clone_from(&pool.group.config.name);
    }

    /// A target has been connected, or none could be.
    pub(super) fn tried(&mut self, way: &Way, reached: Option<&Occupied>) {
        let now = Instant::now();
        self.connected = reached.map(|_| now);
        let Some(details) = &mut self.details else { return };
        details.tries = way.tries;
        details.phases.queue = way.queued;
        let before = details.phases.header.unwrap_or_default() + way.queued.unwrap_or_default();
        details.phases.connect = (way.tries > 0).then(|| (now - self.begin).saturating_sub(before));
        details.target = reached.map(|occupied| &occupied.target).or(way.failed.as_ref()).map(Arc::clone);
    }

    /// Another target goes on with it: when the first one was found says nothing of how soon that answers.
    pub(super) fn moved(&mut self, target: &Arc<Target>) {
        self.connected = None;
        if let Some(details) = &mut self.details {
            details.target = Some(Arc::clone(target));
        }
    }

    /// The connection was refused: no target has taken it.
    pub(super) fn refused(self, route: &Route, worker: &Worker, refusal: Refusal) {
        if self.details.is_some() {
            let total = self.begin.elapsed();
            let counters = route.service.shared.counters.of(worker.index);
            self.record(route, counters, refusal.name(), total, Relayed::default());
        }
    }

    /// The connection has ended.
    pub(super) fn ended(self, seat: &Seat, target: &Target, end: &str, relayed: Relayed) {
        let total = self.begin.elapsed();
        seat.counters().durations.record(total);
        if let Some((answered, connected)) = relayed.answered.zip(self.connected) {
            let counters = target.counters.of(seat.worker.index);
            counters.first_byte_times.record(answered.saturating_duration_since(connected));
        }
        self.record(&seat.route, seat.counters(), end, total, relayed);
    }

    fn record(self, route: &Route, counters: &ServiceCounters, end: &str, total: Duration, relayed: Relayed) {
        let (Some(details), Some(sink)) = (self.details, &route.service.access_log) else { return };
        let first_byte = relayed.answered.zip(self.connected);
        let since = |(answered, connected): (Instant, Instant)| answered.saturating_duration_since(connected);
        let record = Record {
            at: details.at,
            service: &route.service.config.name,
            client: details.ends.client,
            proxy: details.proxy,
            listen: details.ends.local,
            tag: route.service.guard.tag(None, details.ends.client.ip()),
            sni: details.server_name.as_deref(),
            group: &details.group,
            target: details.target.as_ref().map(|target| target.key.id.as_str()),
            target_address: details.target.as_ref().map(|target| target.key.address),
            tries: details.tries,
            phases: Phases { first_byte: first_byte.map(since), total, ..details.phases },
            bytes_to_target: relayed.to_target,
            bytes_to_client: relayed.to_client,
            end,
            request: None,
        };
        sink.record(&record, &counters.log_left_out);
    }
}
