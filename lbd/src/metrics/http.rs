//! The metrics that only `http` services have, with their rules, and what their groups and targets have answered.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use common::config::Mode;
use lbd_core::histogram::SizeCounts;
use lbd_core::http::auth::Denied;
use lbd_core::http::conduct::Offence;
use lbd_core::http::framing::Fault;

use super::{Labelled, Labels, Out};
use crate::counters::{Again, BodySizes, Counter, Effort, ServiceCounters, Sharded, TargetCounters};
use crate::l7::{Cut, Rejected};
use crate::snapshot::{Group, Service};

/// Which way bytes go.
const DIRECTIONS: [&str; 2] = ["to_target", "to_client"];

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
            let count = |it: Rejected| counters.sum(|shard| &shard.http.cookies[it.index()]);
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
        "service_http_compressions",
        "Answers compressed, or not because too many were",
        each().flat_map(|(name, counters)| {
            let labels = |result| vec![("service", name), ("result", result)];
            [
                (labels("compressed"), counters.sum(|shard| &shard.http.compressed)),
                (labels("refused"), counters.sum(|shard| &shard.http.compressions_refused)),
            ]
        }),
    )?;
    out.counters(
        "service_http_compressed_bytes",
        "Bytes of answers before and after they were compressed",
        each().flat_map(|(name, counters)| {
            let bytes = |index: usize| counters.sum(|shard| &shard.http.compressed_bytes[index]);
            let labels = |when| vec![("service", name), ("when", when)];
            [(labels("before"), bytes(0)), (labels("after"), bytes(1))]
        }),
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
    )?;
    out.sizes(
        "service_http_body_bytes",
        "Bodies of requests and of targets' answers",
        each().flat_map(|(name, counters)| {
            bodies(vec![("service", name)], counters, |shard| &shard.http.bodies)
        }),
    )?;
    encode_rules(out, &services)
}

/// What the requests of each rule have come to.
fn encode_rules(out: &mut Out<'_>, services: &[&Arc<Service>]) -> fmt::Result {
    let most = services.iter().map(|service| service.by_rule.len()).max().unwrap_or_default();
    let places: Vec<String> = (0..most).map(rule_name).collect();
    let each = || {
        services.iter().flat_map(|service| {
            let name = service.config.name.as_str();
            let places = places.iter().zip(&service.by_rule);
            places.map(move |(place, counters)| (vec![("service", name), ("rule", place.as_str())], counters))
        })
    };
    out.counters(
        "service_http_rule_requests",
        "Requests answered, by the rule that they met",
        each().flat_map(|(labels, counters)| {
            std::array::from_fn::<_, 4, _>(|class| {
                let labels = [&labels[..], &[("class", CLASSES[class])]].concat();
                (labels, counters.sum(|shard| &shard.answers[class]))
            })
        }),
    )?;
    out.histograms(
        "service_http_rule_request_duration_seconds",
        "From a request's head to its answer's end, by the rule that it met",
        each().map(|(labels, counters)| (labels, counters.counts(|shard| &shard.durations))),
    )?;
    out.sizes(
        "service_http_rule_body_bytes",
        "Bodies of requests and of targets' answers, by the rule that was met",
        each().flat_map(|(labels, counters)| bodies(labels, counters, |shard| &shard.bodies)),
    )?;
    out.counters(
        "service_http_rule_bytes",
        "Bytes of requests and answers, by the rule that was met",
        each().flat_map(|(labels, counters)| bytes(labels, counters, |shard| &shard.effort)),
    )?;
    out.counters(
        "service_http_rule_retries",
        "Further tries of requests, by the rule that was met",
        each().flat_map(|(labels, counters)| retries(labels, counters, |shard| &shard.effort)),
    )?;
    out.counters(
        "service_http_rule_reused_connections",
        "Requests sent on a kept connection, by the rule that was met",
        each().map(|(labels, counters)| (labels, counters.sum(|shard| &shard.reused))),
    )
}

/// What was moved, each way.
fn bytes<'l, T: Default>(
    labels: Labels<'l>,
    counters: &Sharded<T>,
    effort: fn(&T) -> &Effort,
) -> [(Labels<'l>, u64); 2] {
    std::array::from_fn(|index| {
        let labels = [&labels[..], &[("direction", DIRECTIONS[index])]].concat();
        (labels, counters.sum(|shard| &effort(shard).bytes[index]))
    })
}

/// How long bodies were, each way.
fn bodies<'l, T: Default>(
    labels: Labels<'l>,
    counters: &Sharded<T>,
    bodies: fn(&T) -> &BodySizes,
) -> [(Labels<'l>, SizeCounts); 2] {
    std::array::from_fn(|index| {
        let labels = [&labels[..], &[("direction", DIRECTIONS[index])]].concat();
        (labels, counters.counts(|shard| &bodies(shard).0[index]))
    })
}

/// What was tried again, for each reason.
fn retries<'l, T: Default>(
    labels: Labels<'l>,
    counters: &Sharded<T>,
    effort: fn(&T) -> &Effort,
) -> [(Labels<'l>, u64); Again::COUNT] {
    Again::ALL.map(|why| {
        let labels = [&labels[..], &[("reason", why.name())]].concat();
        (labels, counters.sum(|shard| &effort(shard).again[why.index()]))
    })
}

/// What the place of a service's counters for a rule is called: `none` for requests that meet no rule, else the rule's place in the file.
pub(crate) fn rule_name(place: usize) -> String {
    if place == 0 { "none".to_owned() } else { place.to_string() }
}

/// What the requests of each group have come to that an `http` service forwards to.
pub(super) fn encode_groups(out: &mut Out<'_>, services: &[Arc<Service>]) -> fmt::Result {
    // One that several services forward to is there once.
    let groups: BTreeMap<&str, &Arc<Group>> = services
        .iter()
        .flat_map(|service| &service.http_groups)
        .map(|group| (group.config.name.as_str(), group))
        .collect();
    let each = || groups.iter().map(|(name, group)| (*name, &group.shared.counters));
    out.counters(
        "group_http_requests",
        "Requests answered by targets of a group",
        each().flat_map(|(name, counters)| {
            let count = |class: usize| counters.sum(|shard| &shard.answers[class]);
            std::array::from_fn::<_, 4, _>(|class| {
                (vec![("group", name), ("class", CLASSES[class])], count(class))
            })
        }),
    )?;
    out.counters(
        "group_http_requests_unserved",
        "Requests for which a group had no target",
        each().map(|(name, counters)| (vec![("group", name)], counters.sum(|shard| &shard.unserved))),
    )?;
    out.histograms(
        "group_http_request_duration_seconds",
        "From a request's head to its answer's end, of those that a target of the group has answered",
        each().map(|(name, counters)| (vec![("group", name)], counters.counts(|shard| &shard.durations))),
    )?;
    out.sizes(
        "group_http_body_bytes",
        "Bodies of requests that a target of the group has answered, and of the answers",
        each().flat_map(|(name, counters)| bodies(vec![("group", name)], counters, |shard| &shard.bodies)),
    )?;
    out.counters(
        "group_http_bytes",
        "Bytes of requests for a group and of their answers",
        each().flat_map(|(name, counters)| bytes(vec![("group", name)], counters, |shard| &shard.effort)),
    )?;
    out.counters(
        "group_http_retries",
        "Further tries of requests for a group",
        each().flat_map(|(name, counters)| retries(vec![("group", name)], counters, |shard| &shard.effort)),
    )?;
    out.counters(
        "group_http_reused_connections",
        "Requests sent on a kept connection",
        each().map(|(name, counters)| (vec![("group", name)], counters.sum(|shard| &shard.reused))),
    )?;
    out.gauges(
        "group_http_connections_kept",
        "Connections to the group's targets that wait for the next request",
        groups.iter().map(|(name, group)| (vec![("group", *name)], group.kept() as f64)),
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
    )?;
    let plain = |count: fn(&TargetCounters) -> &Counter| {
        targets.iter().map(move |it| (it.labels(), it.target.counters.sum(count)))
    };
    out.counters(
        "target_http_reused_connections",
        "Requests sent on a kept connection",
        plain(|shard| &shard.reused),
    )?;
    out.counters(
        "target_http_requests_resent",
        "Requests sent again because the target ended the connection before an answer came",
        plain(|shard| &shard.resent),
    )?;
    out.gauges(
        "target_http_connections_kept",
        "Connections that wait for the next request",
        plain(|shard| &shard.kept).map(|(labels, kept)| (labels, kept as f64)),
    )?;
    out.histograms(
        "target_http_request_duration_seconds",
        "From a request's connection to its answer's end",
        targets.iter().map(|it| (it.labels(), it.target.counters.counts(|shard| &shard.request_times))),
    )?;
    out.sizes(
        "target_http_body_bytes",
        "Bodies of requests that a target has answered, and of the answers",
        targets.iter().flat_map(|it| bodies(it.labels(), &it.target.counters, |shard| &shard.bodies)),
    )
}
