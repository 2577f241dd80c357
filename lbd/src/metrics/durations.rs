//! How long connections took, as histograms, and how these are written.

use std::fmt;
use std::sync::Arc;

use lbd_core::histogram::{BOUNDS_BYTES, BOUNDS_US, Counts, DurationCounts, Durations, SizeCounts};
use prometheus_client::encoding::NoLabelSet;
use prometheus_client::metrics::MetricType;

use super::{Labelled, Labels, Out};
use crate::counters::TargetCounters;
use crate::snapshot::Service;

impl Out<'_> {
    pub(super) fn histograms<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'l>, DurationCounts)>,
    ) -> fmt::Result {
        self.distributions(name, help, (&BOUNDS_US, 1e6), values)
    }

    /// The same of sizes.
    pub(super) fn sizes<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'l>, SizeCounts)>,
    ) -> fmt::Result {
        self.distributions(name, help, (&BOUNDS_BYTES, 1.0), values)
    }

    /// Histograms by these bounds, of which so many are one unit.
    fn distributions<'l, const BUCKETS: usize>(
        &mut self,
        name: &str,
        help: &str,
        (bounds, unit): (&[u64], f64),
        values: impl IntoIterator<Item = (Labels<'l>, Counts<BUCKETS>)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, counts) in values {
            let bounds = bounds.iter().map(|&bound| bound as f64 / unit).chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(counts.buckets).collect();
            let sum = counts.sum as f64 / unit;
            metric.encode_family(&labels.as_slice())?.encode_histogram::<NoLabelSet>(
                sum,
                counts.total(),
                &buckets,
                None,
            )?;
        }
        Ok(())
    }
}

pub(super) fn encode_services(out: &mut Out<'_>, services: &[Arc<Service>]) -> fmt::Result {
    let durations = services.iter().map(|service| {
        let labels = vec![("service", service.config.name.as_str())];
        (labels, service.shared.counters.counts(|shard| &shard.durations))
    });
    out.histograms("service_connection_duration_seconds", "From acceptance to the end", durations)?;
    let logged = || {
        services.iter().filter_map(|service| {
            Some((vec![("service", service.config.name.as_str())], service, service.access_log.as_ref()?))
        })
    };
    out.counters(
        "service_access_log_lost",
        "Records lost by the file the service logs to",
        logged().map(|(labels, _, sink)| (labels, sink.dropped())),
    )?;
    let left_out = |service: &Service| service.shared.counters.sum(|shard| &shard.log_left_out);
    out.counters(
        "service_access_log_left_out",
        "Records that were not in the sample",
        logged().map(|(labels, service, _)| (labels, left_out(service))),
    )
}

pub(super) fn encode_targets(out: &mut Out<'_>, targets: &[Labelled<'_>]) -> fmt::Result {
    let each = |pick: fn(&TargetCounters) -> &Durations| {
        targets.iter().map(move |it| (it.labels(), it.target.counters.counts(pick)))
    };
    out.histograms(
        "target_connect_seconds",
        "From the start of a connect until the connection was made",
        each(|shard| &shard.connect_times),
    )?;
    out.histograms(
        "target_first_byte_seconds",
        "From connected to the target's first byte",
        each(|shard| &shard.first_byte_times),
    )
}
