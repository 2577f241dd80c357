//! What has become of the spans for each collector.

use std::fmt;

use super::Out;
use crate::otlp::Exporters;

pub(super) fn encode(out: &mut Out<'_>, exporters: &Exporters) -> fmt::Result {
    let collectors = exporters.counts();
    if collectors.is_empty() {
        return Ok(());
    }
    out.counters(
        "otlp_spans",
        "What has become of spans of requests",
        collectors.iter().flat_map(|(endpoint, counts)| {
            counts.map(|(result, count)| (vec![("endpoint", endpoint.as_str()), ("result", result)], count))
        }),
    )
}
