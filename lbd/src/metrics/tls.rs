//! The metrics that only services with TLS have.

use std::fmt;
use std::sync::Arc;

use super::Out;
use crate::snapshot::Service;
use crate::tls::Failure;

/// The versions and kinds of handshakes, in the order of their counters.
pub(crate) const VERSIONS: [&str; 2] = ["1.2", "1.3"];
pub(crate) const KINDS: [&str; 2] = ["full", "resumed"];

pub(super) fn encode(out: &mut Out<'_>, services: &[Arc<Service>]) -> fmt::Result {
    let services: Vec<_> = services.iter().filter_map(|it| Some((it, it.tls.as_ref()?))).collect();
    let each =
        || services.iter().map(|(service, _)| (service.config.name.as_str(), &service.shared.counters));
    out.counters(
        "service_tls_handshakes",
        "TLS handshakes with clients",
        each().flat_map(|(name, counters)| {
            let count = |version: usize, kind: usize| {
                let labels = vec![("service", name), ("version", VERSIONS[version]), ("kind", KINDS[kind])];
                (labels, counters.sum(|shard| &shard.http.tls.handshakes[version][kind]))
            };
            [count(0, 0), count(0, 1), count(1, 0), count(1, 1)]
        }),
    )?;
    out.counters(
        "service_tls_handshakes_failed",
        "TLS handshakes with clients that came to nothing",
        each().flat_map(|(name, counters)| {
            let count = |it: Failure| counters.sum(|shard| &shard.http.tls.failures[it.index()]);
            Failure::ALL.map(|it| (vec![("service", name), ("reason", it.name())], count(it)))
        }),
    )?;
    let certificates: Vec<_> = services
        .iter()
        .flat_map(|(service, tls)| tls.shown().into_iter().map(|site| (service.config.name.as_str(), site)))
        .map(|(service, site)| (service, site.file.display().to_string(), site))
        .collect();
    out.gauges(
        "service_tls_certificate_expiry_time_seconds",
        "When a certificate expires, Unix time",
        certificates.iter().map(|(service, file, site)| {
            let name = site.facts.names.first().map_or("", String::as_str);
            let labels = vec![("service", *service), ("file", file.as_str()), ("name", name)];
            (labels, site.facts.not_after as f64)
        }),
    )
}
