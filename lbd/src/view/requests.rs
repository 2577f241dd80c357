//! What the API shows of the requests of `http` services: by rule, group and target.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::DurationsView;
use crate::counters::{Again, Counter, Effort, RuleCounters, Sharded, TargetCounters};
use crate::metrics::http::rule_name;
use crate::snapshot::{Group, Service, Target};

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
    /// From a request's head to its answer's end.
    pub(crate) duration: DurationsView,
}

/// What requests have moved, and how often they were tried again.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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
    pub(crate) reused_connections: u64,
    /// From a request's head to its answer's end, of those answered.
    pub(crate) duration: DurationsView,
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
}

/// The requests of a service by its rules.
pub(super) fn rules(service: &Service) -> Vec<RuleView> {
    let view = |(place, counters): (usize, &Arc<Sharded<RuleCounters>>)| RuleView {
        rule: rule_name(place),
        answered: by_class(counters, |shard| &shard.answers),
        effort: effort(counters, |shard| &shard.effort),
        duration: counters.counts(|shard| &shard.durations).into(),
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
        duration: counters.counts(|shard| &shard.durations).into(),
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
