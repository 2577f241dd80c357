//! The metrics that only `http` services have, and what their targets have answered.

use std::fmt;
use std::sync::Arc;

use common::config::Mode;
use lbd_core::http::auth::Denied;
use lbd_core::http::conduct::Offence;
use lbd_core::http::framing::Fault;

use super::{Labelled, Out};
use crate::counters::{Counter, ServiceCounters};
use crate::l7::{Cut, Rejected};
use crate::snapshot::Service;

/// By the first digit of a status, from 2 on.
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

pub(super) fn encode(out: &mut Out<'_>, services: &[Arc<Service>]) -> fmt::Result {
    let services: Vec<_> = services.iter().filter(|service| service.config.mode == Mode::Http).collect();
    let each = || services.iter().map(|service| (service.config.name.as_str(), &service.shared.counters));
    out.counters(
        "service_http_requests",
        "Requests answered",
        each().flat_map(|(name, counters)| {
            let count = |class: usize| counters.sum(|shard| &shard.http.answers[class]);
            std::array::from_fn::<_, 4, _>(|class| {
                (vec![("service", name), ("class", CLASSES[class])], count(class))
            })
        }),
    )?;
    out.counters(
        "service_http_requests_malformed",
        "Requests refused for what they are like",
        each().flat_map(|(name, counters)| {
            let count = |it: Fault| counters.sum(|shard| &shard.http.faults[it.index()]);
            Fault::ALL.map(|it| (vec![("service", name), ("reason", it.name())], count(it)))
        }),
    )?;
    out.counters(
        "service_http_requests_cut",
        "Requests whose answer did not come to its end",
        each().flat_map(|(name, counters)| {
            let count = |it: Cut| counters.sum(|shard| &shard.http.cuts[it.index()]);
            Cut::ALL.map(|it| (vec![("service", name), ("reason", it.name())], count(it)))
        }),
    )?;
    out.counters(
        "service_http_sticky_cookies_rejected",
        "Cookies of Tandem's own that did not count",
        each().flat_map(|(name, counters)| {
            let count = |it: Rejected| counters.sum(|shard| &shard.http.cookies[it as usize]);
            Rejected::ALL.map(|it| (vec![("service", name), ("reason", it.name())], count(it)))
        }),
    )?;
    out.counters(
        "service_http_requests_denied",
        "Requests that were not let in",
        each().flat_map(|(name, counters)| {
            let count = |it: Denied| counters.sum(|shard| &shard.http.denied[it.index()]);
            Denied::ALL.map(|it| (vec![("service", name), ("reason", it.name())], count(it)))
        }),
    )?;
    out.counters(
        "service_http_requests_resent",
        "Requests sent to a target again, or not because too many had been",
        each().flat_map(|(name, counters)| {
            let labels = |result| vec![("service", name), ("result", result)];
            [
                (labels("sent"), counters.sum(|shard| &shard.http.resent)),
                (labels("refused"), counters.sum(|shard| &shard.http.resends_refused)),
            ]
        }),
    )?;
    let plain = |count: fn(&ServiceCounters) -> &Counter| {
        each().map(move |(name, counters)| (vec![("service", name)], counters.sum(count)))
    };
    out.counters(
        "service_http_own_answers",
        "Answers that no target gave",
        plain(|shard| &shard.http.own_answers),
    )?;
    out.counters("service_http_over_rate", "Requests over the rate", plain(|shard| &shard.http.over_rate))?;
    out.counters(
        "service_http_reused_connections",
        "Requests sent on a kept connection",
        plain(|shard| &shard.http.reused),
    )?;
    out.counters(
        "service_http_tunnels",
        "Connections that became tunnels",
        plain(|shard| &shard.http.tunnels),
    )?;
    out.counters(
        "service_http2_connections",
        "Clients' connections of HTTP/2",
        plain(|shard| &shard.http.http2_connections),
    )?;
    out.counters(
        "service_http2_connections_expelled",
        "Clients' connections of HTTP/2 closed for floods of frames",
        each().flat_map(|(name, counters)| {
            let count = |it: Offence| counters.sum(|shard| &shard.http.http2_offences[it.index()]);
            Offence::ALL.map(|it| (vec![("service", name), ("reason", it.name())], count(it)))
        }),
    )?;
    let durations = each()
        .map(|(name, counters)| (vec![("service", name)], counters.counts(|shard| &shard.http.durations)));
    out.histograms(
        "service_http_request_duration_seconds",
        "From a request's head to its answer's end",
        durations,
    )
}

pub(super) fn encode_targets(out: &mut Out<'_>, targets: &[Labelled<'_>]) -> fmt::Result {
    out.counters(
        "target_http_answers",
        "Answers to HTTP requests",
        targets.iter().flat_map(|it| {
            let count = |class: usize| it.target.counters.sum(|shard| &shard.answers[class]);
            std::array::from_fn::<_, 4, _>(|class| (it.labels_and("class", CLASSES[class]), count(class)))
        }),
    )
}
