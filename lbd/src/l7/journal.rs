//! What is remembered of a request until the end of its answer: for the histograms, and for the access log of a service that has one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use common::time::UnixTime;
use lbd_core::access_log::{Phases, Record, Request};
use lbd_core::http::framing::RequestHead;

use crate::clock::unix_now;
use crate::counters::ServiceCounters;
use crate::l4::{Ends, Way};
use crate::snapshot::Target;
use crate::worker::Route;

/// What was asked for.
pub(super) struct Asking {
    method: String,
    host: String,
    path: String,
    query: Option<String>,
    rule: Option<usize>,
    server_name: Option<String>,
}

impl Asking {
    /// Of a request's head, and the name that TLS was asked for.
    pub(super) fn of(head: &RequestHead<'_>, rule: Option<usize>, server_name: Option<&str>) -> Self {
        Self {
            method: head.method.to_owned(),
            host: head.authority.as_str().to_owned(),
            path: head.path.clone(),
            query: head.query.clone(),
            rule,
            server_name: server_name.map(str::to_owned),
        }
    }
}

/// A request's story so far.
pub(super) struct Journal {
    at: Option<UnixTime>,
    /// When its first byte was there.
    begin: Instant,
    /// When its head was.
    read: Instant,
    /// When a target was connected, or a kept connection taken.
    connected: Option<Instant>,
    /// When the answer's head was there.
    answered: Option<Instant>,
    way: Way,
    target: Option<Arc<Target>>,
    group: Option<String>,
    reused: bool,
    asking: Option<Box<Asking>>,
    /// Bytes to the target and to the client.
    bytes: [u64; 2],
}

impl Journal {
    /// A head has been read, whose first byte came at `begin`.
    pub(super) fn begin(route: &Route, begin: Instant) -> Self {
        Self {
            at: route.service.access_log.is_some().then(unix_now),
            begin,
            read: Instant::now(),
            connected: None,
            answered: None,
            way: Way::default(),
            target: None,
            group: None,
            reused: false,
            asking: None,
            bytes: [0; 2],
        }
    }

    /// It has been understood.
    pub(super) fn understood(&mut self, asking: Option<Box<Asking>>) {
        self.asking = asking;
    }

    /// It goes to a target; with each try anew.
    pub(super) fn connected(&mut self, group: &str, target: &Arc<Target>, reused: bool) {
        self.connected = Some(Instant::now());
        self.reused = reused;
        if self.asking.is_some() {
            self.target = Some(Arc::clone(target));
            self.group = Some(group.to_owned());
        }
    }

    /// How it got there.
    pub(super) const fn way(&mut self) -> &mut Way {
        &mut self.way
    }

    /// The answer's head is there.
    pub(super) fn answered(&mut self) {
        self.answered = Some(Instant::now());
    }

    /// So many bytes have gone to the target and to the client.
    pub(super) const fn moved(&mut self, to_target: u64, to_client: u64) {
        self.bytes[0] += to_target;
        self.bytes[1] += to_client;
    }

    /// The answer, of this status if one was begun, has ended like this. `by` is the target that has given it, if one has.
    pub(super) fn ended(
        self,
        route: &Route,
        (worker, counters): (usize, &ServiceCounters),
        ends: &Ends,
        by: Option<&Target>,
        status: u16,
        end: &str,
    ) {
        let now = Instant::now();
        let http = &counters.http;
        http.durations.record(now - self.read);
        if let Some(class) = class(status) {
            http.answers[class].add(1);
        }
        match by {
            None => http.own_answers.add(u64::from(status != 0)),
            Some(target) => {
                let counters = target.counters.of(worker);
                if let Some(class) = class(status) {
                    counters.answers[class].add(1);
                }
                if let Some(connected) = self.connected {
                    counters.connect_times.record(connected - self.read);
                    if let Some(answered) = self.answered {
                        counters.first_byte_times.record(answered - connected);
                    }
                }
            }
        }
        self.record(route, ends, now, status, end);
    }

    fn record(self, route: &Route, ends: &Ends, now: Instant, status: u16, end: &str) {
        let (Some(at), Some(sink)) = (self.at, &route.service.access_log) else { return };
        let target = self.target.as_ref().or(self.way.failed.as_ref());
        let queued = self.way.queued.unwrap_or_default();
        let rule = self.asking.as_ref().and_then(|asking| asking.rule);
        let request = self.asking.as_ref().map(|asking| Request {
            method: &asking.method,
            host: &asking.host,
            path: &asking.path,
            query: asking.query.as_deref(),
            rule: asking.rule.map(|index| index + 1),
            status,
            reused: self.reused,
        });
        // Of one that was not understood there is only what it was answered.
        let unknown =
            Request { method: "-", host: "-", path: "-", query: None, rule: None, status, reused: false };
        sink.record(&Record {
            at,
            service: &route.service.config.name,
            client: ends.client,
            proxy: None::<SocketAddr>,
            listen: ends.local,
            tag: route.service.guard.tag(rule, ends.client.ip()),
            sni: self.asking.as_ref().and_then(|asking| asking.server_name.as_deref()),
            group: self.group.as_deref().or(target.map(|it| it.key.group.as_str())).unwrap_or("-"),
            target: target.map(|target| target.key.id.as_str()),
            target_address: target.map(|target| target.key.address),
            tries: self.way.tries,
            phases: Phases {
                header: Some(self.read - self.begin),
                queue: self.way.queued,
                connect: self.connected.map(|at| (at - self.read).saturating_sub(queued)),
                first_byte: self
                    .answered
                    .zip(self.connected)
                    .map(|(answered, connected)| answered - connected),
                total: now - self.begin,
            },
            bytes_to_target: self.bytes[0],
            bytes_to_client: self.bytes[1],
            end,
            request: Some(request.unwrap_or(unknown)),
        });
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
