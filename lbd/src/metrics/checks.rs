//! What came of health checks.

use std::fmt;
use std::sync::Arc;

use lbd_core::check::Reason;

use super::{Labelled, Out};
use crate::counters::Counter;
use crate::prober::CheckCounters;
use crate::snapshot::Group;

/// Of all checks.
pub(super) fn encode(out: &mut Out<'_>, counters: &CheckCounters) -> fmt::Result {
    out.counter("checks_delayed", "Health checks that had to wait", counters.delayed.get())?;
    let failures = by_reason(&counters.failures).map(|(reason, count)| (vec![("reason", reason)], count));
    out.counters("check_failures", "Health checks that failed", failures)
}

/// Of those of each group.
pub(super) fn encode_groups(out: &mut Out<'_>, groups: &[Arc<Group>]) -> fmt::Result {
    let failures = groups.iter().flat_map(|group| {
        let labels = move |reason| vec![("group", group.config.name.as_str()), ("reason", reason)];
        by_reason(&group.shared.check_failures).map(move |(reason, count)| (labels(reason), count))
    });
    out.counters("group_check_failures", "Health checks of its targets that failed", failures)
}

/// Of those of each target.
pub(super) fn encode_targets(out: &mut Out<'_>, targets: &[Labelled<'_>]) -> fmt::Result {
    out.counters(
        "target_checks",
        "Health checks",
        targets.iter().flat_map(|it| {
            let checks = &it.target.checks;
            [
                (it.labels_and("result", "success"), checks.succeeded.get()),
                (it.labels_and("result", "failure"), checks.failed()),
            ]
        }),
    )?;
    let failures = targets.iter().flat_map(|it| {
        by_reason(&it.target.checks.failures)
            .map(move |(reason, count)| (it.labels_and("reason", reason), count))
    });
    out.counters("target_check_failures", "Health checks that failed", failures)?;
    let duration = |it: &Labelled<'_>| it.target.last_check().map(|last| last.latency.as_secs_f64());
    out.gauges(
        "target_check_duration_seconds",
        "How long the last check took",
        targets.iter().filter_map(|it| Some((it.labels(), duration(it)?))),
    )
}

/// Failures of each reason.
fn by_reason(failures: &[Counter; Reason::COUNT]) -> impl Iterator<Item = (&'static str, u64)> {
    Reason::ALL.into_iter().map(|reason| (reason.name(), failures[reason.index()].get()))
}
