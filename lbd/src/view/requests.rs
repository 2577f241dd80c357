//! What the API shows of the requests of `http` services: by rule, group and target.

use std::collections::BTreeMap;
use std::sync::Arc;

use lbd_core::http::auth::Denied;
use lbd_core::http::conduct::Offence;
use lbd_core::http::framing::Fault;
use serde::{Deserialize, Serialize};

use super::DurationsView;
use super::sizes::{BodySizesView, body_sizes};
use crate::counters::{Again, Counter, Effort, HttpCounters, RuleCounters, Sharded, TargetCounters};
use crate::l7::{Cut, Rejected};
use crate::metrics::http::rule_name;
use crate::snapshot::{Group, Service, Target};

/// What an `http` service has beside its connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RequestsView {
    /// Answered since the start, by the first digit of the status: `2xx` to `5xx`.
    pub(crate) answered: BTreeMap<String, u64>,
    /// Of these, answers that no target gave.
    pub(crate) own_answers: u64,
    /// Refused for what they are like.
    pub(crate) malformed: u64,
    /// The same by reason.
    #[serde(default)]
    pub(crate) malformed_by_reason: BTreeMap<String, u64>,
    /// Whose answer did not come to its end.
    pub(crate) cut: u64,
    /// The same by reason.
    #[serde(default)]
    pub(crate) cut_by_reason: BTreeMap<String, u64>,
    /// Not let in by `auth` or `access`, by reason.
    #[serde(default)]
    pub(crate) denied: BTreeMap<String, u64>,
    /// Over the rate.
    pub(crate) over_rate: u64,
    /// Sent to a target again.
    pub(crate) resent: u64,
    /// Not sent again because too many had been.
    #[serde(default)]
    pub(crate) resends_refused: u64,
    /// Cookies of Tandem's own that did not count, by reason.
    #[serde(default)]
    pub(crate) sticky_cookies_rejected: BTreeMap<String, u64>,
    /// Sent on a kept connection.
    pub(crate) reused_connections: u64,
    /// Connections that became tunnels.
    pub(crate) tunnels: u64,
    /// Whose answers were compressed.
    #[serde(default)]
    pub(crate) compressed: u64,
    /// Whose answers were not because too many were.
    #[serde(default)]
    pub(crate) compressions_refused: u64,
    /// Bytes of those that were, before.
    #[serde(default)]
    pub(crate) compressed_bytes_before: u64,
    /// The same bytes afterwards.
    #[serde(default)]
    pub(crate) compressed_bytes_after: u64,
    /// Clients' connections of HTTP/2.
    #[serde(default)]
    pub(crate) http2_connections: u64,
    /// Those of them that were closed for what their clients did, by reason.
    #[serde(default)]
    pub(crate) http2_connections_expelled: BTreeMap<String, u64>,
    /// From a request's head to its answer's end.
    pub(crate) duration: DurationsView,
    /// What those had in them that a target has answered.
    #[serde(default)]
    pub(crate) body_sizes: BodySizesView,
    /// The same of the requests that meet no rule, and of those of each rule in the file's order.
    #[serde(default)]
    pub(crate) rules: Vec<RuleView>,
}

/// The requests that meet a rule of an `http` service, or none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RuleView {
    /// The rule's place in the file, from 1 on, or `none`.
    pub(crate) rule: String,
    /// Answered since the start, by the first digit of the status.
    pub(crate) answered: BTreeMap<String, u64>,
    /// What they have moved and how often they were tried again.
    #[serde(flatten)]
    pub(crate) effort: EffortView,
    /// Sent on a connection that had served others.
    #[serde(default)]
    pub(crate) reused_connections: u64,
    /// From a request's head to its answer's end.
    pub(crate) duration: DurationsView,
    /// What those had in them that a target has answered.
    #[serde(default)]
    pub(crate) body_sizes: BodySizesView,
}

/// What requests have moved, and how often they were tried again. A daemon of a former version says nothing of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct EffortView {
    /// Bytes to targets, since the start.
    pub(crate) bytes_to_target: u64,
    /// Bytes to clients.
    pub(crate) bytes_to_client: u64,
    /// Further tries, by why they were made.
    pub(crate) retries: BTreeMap<String, u64>,
}

/// The requests of a group, those that targets have answered which have left it included.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct GroupRequestsView {
    /// Answered by its targets since the start, by the first digit of the status.
    pub(crate) answered: BTreeMap<String, u64>,
    /// For which it had no target, or none with room.
    pub(crate) unserved: u64,
    /// What they have moved and how often they were tried again.
    #[serde(flatten)]
    pub(crate) effort: EffortView,
    /// Sent on a connection that had served others.
    #[serde(default)]
    pub(crate) reused_connections: u64,
    /// Connections to its targets that wait for the next request.
    #[serde(default)]
    pub(crate) connections_kept: u64,
    /// From a request's head to its answer's end, of those answered.
    pub(crate) duration: DurationsView,
    /// What those had in them.
    #[serde(default)]
    pub(crate) body_sizes: BodySizesView,
}

/// What a target has to do with requests of `http` services.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct TargetRequestsView {
    /// Answered since the start, by the first digit of the status.
    pub(crate) answered: BTreeMap<String, u64>,
    /// Sent again because it ended the connection before an answer came.
    pub(crate) resent: u64,
    /// Sent on a connection that had served others.
    pub(crate) reused_connections: u64,
    /// Connections that wait for the next request.
    pub(crate) connections_kept: u64,
    /// From a request's connection to its answer's end.
    pub(crate) duration: DurationsView,
    /// What those had in them that it has answered.
    #[serde(default)]
    pub(crate) body_sizes: BodySizesView,
}

/// The requests of a service.
pub(super) fn of_service(service: &Service) -> RequestsView {
    let counters = &service.shared.counters;
    let sum = |pick: fn(&HttpCounters) -> &Counter| counters.sum(|shard| pick(&shard.http));
    let fault = |it: Fault| counters.sum(|shard| &shard.http.faults[it.index()]);
    let cut = |it: Cut| counters.sum(|shard| &shard.http.cuts[it.index()]);
    let denied = |it: Denied| counters.sum(|shard| &shard.http.denied[it.index()]);
    let rejected = |it: Rejected| counters.sum(|shard| &shard.http.cookies[it.index()]);
    let expelled = |it: Offence| counters.sum(|shard| &shard.http.http2_offences[it.index()]);
    RequestsView {
        answered: by_class(counters, |shard| &shard.http.answers),
        own_answers: sum(|http| &http.own_answers),
        malformed: Fault::ALL.into_iter().map(fault).sum(),
        malformed_by_reason: Fault::ALL.map(|it| (it.name().to_owned(), fault(it))).into(),
        cut: Cut::ALL.into_iter().map(cut).sum(),
        cut_by_reason: Cut::ALL.map(|it| (it.name().to_owned(), cut(it))).into(),
        denied: Denied::ALL.map(|it| (it.name().to_owned(), denied(it))).into(),
        over_rate: sum(|http| &http.over_rate),
        resent: sum(|http| &http.resent),
        resends_refused: sum(|http| &http.resends_refused),
        sticky_cookies_rejected: Rejected::ALL.map(|it| (it.name().to_owned(), rejected(it))).into(),
        reused_connections: sum(|http| &http.reused),
        tunnels: sum(|http| &http.tunnels),
        compressed: sum(|http| &http.compressed),
        compressions_refused: sum(|http| &http.compressions_refused),
        compressed_bytes_before: sum(|http| &http.compressed_bytes[0]),
        compressed_bytes_after: sum(|http| &http.compressed_bytes[1]),
        http2_connections: sum(|http| &http.http2_connections),
        http2_connections_expelled: Offence::ALL.map(|it| (it.name().to_owned(), expelled(it))).into(),
        duration: counters.counts(|shard| &shard.http.durations).into(),
        body_sizes: body_sizes(counters, |shard| &shard.http.bodies),
        rules: rules(service),
    }
}

/// The requests of a service by its rules.
fn rules(service: &Service) -> Vec<RuleView> {
    let view = |(place, counters): (usize, &Arc<Sharded<RuleCounters>>)| RuleView {
        rule: rule_name(place),
        answered: by_class(counters, |shard| &shard.answers),
        effort: effort(counters, |shard| &shard.effort),
        reused_connections: counters.sum(|shard| &shard.reused),
        duration: counters.counts(|shard| &shard.durations).into(),
        body_sizes: body_sizes(counters, |shard| &shard.bodies),
    };
    service.by_rule.iter().enumerate().map(view).collect()
}

/// Whether one of the services forwards requests to the group.
pub(super) fn serves(services: &[Arc<Service>], group: &Group) -> bool {
    let mut groups = services.iter().flat_map(|service| &service.http_groups);
    groups.any(|its| its.config.name == group.config.name)
}

/// The requests of a group.
pub(super) fn of_group(group: &Group) -> GroupRequestsView {
    let counters = &group.shared.counters;
    GroupRequestsView {
        answered: by_class(counters, |shard| &shard.answers),
        unserved: counters.sum(|shard| &shard.unserved),
        effort: effort(counters, |shard| &shard.effort),
        reused_connections: counters.sum(|shard| &shard.reused),
        connections_kept: group.kept(),
        duration: counters.counts(|shard| &shard.durations).into(),
        body_sizes: body_sizes(counters, |shard| &shard.bodies),
    }
}

/// The requests of a target.
pub(super) fn of_target(target: &Target) -> TargetRequestsView {
    let counters = &target.counters;
    let sum = |pick: fn(&TargetCounters) -> &Counter| counters.sum(pick);
    TargetRequestsView {
        answered: by_class(counters, |shard| &shard.answers),
        resent: sum(|shard| &shard.resent),
        reused_connections: sum(|shard| &shard.reused),
        connections_kept: sum(|shard| &shard.kept),
        duration: counters.counts(|shard| &shard.request_times).into(),
        body_sizes: body_sizes(counters, |shard| &shard.bodies),
    }
}

/// What requests have moved.
fn effort<T: Default>(counters: &Sharded<T>, pick: fn(&T) -> &Effort) -> EffortView {
    let again = |why: Again| counters.sum(|shard| &pick(shard).again[why.index()]);
    let [bytes_to_target, bytes_to_client] =
        [0, 1].map(|way: usize| counters.sum(|shard| &pick(shard).bytes[way]));
    let retries = Again::ALL.into_iter().map(|why| (why.name().to_owned(), again(why))).collect();
    EffortView { bytes_to_target, bytes_to_client, retries }
}

/// Answers by the first digit of their status: `2xx` to `5xx`.
pub(super) fn by_class<T: Default>(
    counters: &Sharded<T>,
    pick: fn(&T) -> &[Counter; 4],
) -> BTreeMap<String, u64> {
    let count = |index: usize| counters.sum(|shard| &pick(shard)[index]);
    (0..4).map(|index| (format!("{}xx", index + 2), count(index))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `lbd status` asks the daemon that runs, which may be of a former version.
    #[test]
    fn what_a_former_version_does_not_say_is_nothing() {
        let duration = r#"{"count":7,"sum_us":900,"p50_us":250,"p99_us":250,"buckets":[]}"#;
        let of_rule = format!(r#"{{"rule":"1","answered":{{"2xx":7}},"duration":{duration}}}"#);
        let rule: RuleView = serde_json::from_str(&of_rule).unwrap();
        assert_eq!((rule.answered["2xx"], rule.duration.count), (7, 7));
        assert_eq!((rule.effort.bytes_to_target, rule.effort.bytes_to_client), (0, 0));
        assert!(rule.effort.retries.is_empty() && rule.reused_connections == 0);
        assert_eq!((rule.body_sizes.to_client.count, rule.body_sizes.to_client.buckets.len()), (0, 0));
        let of_group = format!(r#"{{"answered":{{"2xx":7}},"unserved":3,"duration":{duration}}}"#);
        let group: GroupRequestsView = serde_json::from_str(&of_group).unwrap();
        assert_eq!((group.answered["2xx"], group.unserved, group.duration.count), (7, 3, 7));
        assert_eq!((group.reused_connections, group.connections_kept), (0, 0));
        assert_eq!((group.effort.bytes_to_target, group.effort.bytes_to_client), (0, 0));
        assert!(group.effort.retries.is_empty());
    }

    #[test]
    fn what_this_version_says_is_read_again() {
        let of_group = r#"{"answered":{},"unserved":0,"bytes_to_target":1,"bytes_to_client":2,"retries":{"connect":3},
            "reused_connections":4,"connections_kept":5,
            "duration":{"count":0,"sum_us":0,"p50_us":null,"p99_us":null,"buckets":[]}}"#;
        let group: GroupRequestsView = serde_json::from_str(of_group).unwrap();
        assert_eq!((group.effort.bytes_to_target, group.effort.bytes_to_client), (1, 2));
        assert_eq!((group.effort.retries["connect"], group.reused_connections), (3, 4));
        assert_eq!(group.connections_kept, 5);
    }
}
