//! `GET /metrics`, in the OpenMetrics text format. Counters are zero at the daemon's start and survive reloads.
//!
//! | name | type | labels | what |
//! |---|---|---|---|
//! | `tandem_lbd_info` | gauge | `node`, `version`, `config_hash` | always 1 |
//! | `tandem_lbd_start_time_seconds` | gauge | | when the daemon started, Unix time |
//! | `tandem_lbd_ready` | gauge | | 1 if a worker runs and every service has a serving target |
//! | `tandem_lbd_workers_alive` | gauge | | worker threads that run |
//! | `tandem_lbd_workers_expected` | gauge | | worker threads there should be |
//! | `tandem_lbd_accept_errors_total` | counter | `worker` | failed accepts, such as too many open files |
//! | `tandem_lbd_reloads_total` | counter | `result` (`applied`, `refused`) | reloads |
//! | `tandem_lbd_api_connections_refused_total` | counter | | API connections closed because too many were open |
//! | `tandem_lbd_vrrpd_connected` | gauge | | 1 while `vrrpd` is connected |
//! | `tandem_lbd_vrrpd_connects_total` | counter | | connections to `vrrpd` made |
//! | `tandem_lbd_role` | gauge | `instance`, `role` | 1 for the role this node has, as `vrrpd` says |
//! | `tandem_lbd_service_connections_open` | gauge | `service` | client connections open now |
//! | `tandem_lbd_service_connections_max` | gauge | `service` | the most that may be open |
//! | `tandem_lbd_service_connections_total` | counter | `service` | client connections admitted |
//! | `tandem_lbd_service_connections_refused_total` | counter | `service`, `reason` (`max_connections`, `no_target`) | client connections reset |
//! | `tandem_lbd_service_connections_ended_total` | counter | `service`, `end` (`done`, `client_reset`, `target_reset`, `idle`, `drained`, `stopped`) | relayed connections by how they ended |
//! | `tandem_lbd_service_connect_retries_total` | counter | `service` | connects tried again on another target |
//! | `tandem_lbd_service_unhealthy_tries_total` | counter | `service` | connects to an unhealthy target because none was healthy |
//! | `tandem_lbd_service_bytes_total` | counter | `service`, `direction` (`to_target`, `to_client`) | bytes relayed |
//! | `tandem_lbd_target_serving` | gauge | `group`, `target`, `address` | 1 if new connections may go there |
//! | `tandem_lbd_target_weight` | gauge | the same | its share |
//! | `tandem_lbd_target_connections_open` | gauge | the same | connections open now |
//! | `tandem_lbd_target_connections_total` | counter | the same | connections made |
//! | `tandem_lbd_target_connect_failures_total` | counter | the same and `reason` (`error`, `timeout`) | connects that failed |
//! | `tandem_lbd_target_checks_total` | counter | the same and `result` (`success`, `failure`) | health checks |
//! | `tandem_lbd_target_check_duration_seconds` | gauge | the same | how long the last check took |

use std::fmt;
use std::sync::Arc;

use common::ipc::Role;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::l4::End;
use crate::reload::hash_text;
use crate::shared::Shared;
use crate::snapshot::{Group, Service, Target};
use crate::summary;

/// The format's content type.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics as they are now.
pub(crate) fn encode(shared: &Arc<Shared>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("tandem_lbd");
    registry.register_collector(Box::new(Now(Arc::clone(shared))));
    let mut text = String::with_capacity(8192);
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Now(Arc<Shared>);

impl Collector for Now {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut out = Out(encoder);
        let shared = &*self.0;
        let snapshot = shared.snapshot.load_full();
        encode_daemon(&mut out, shared, snapshot.config.hash)?;
        encode_services(&mut out, &snapshot.services)?;
        encode_targets(&mut out, &snapshot.groups)
    }
}

/// A label set.
type Labels<'a> = Vec<(&'static str, &'a str)>;

struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn counters<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            ConstCounter::new(value).encode(metric.encode_family(&labels.as_slice())?)?;
        }
        Ok(())
    }

    fn gauges<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'l>, f64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(value).encode(metric.encode_family(&labels.as_slice())?)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        ConstCounter::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }
}

fn flag(set: bool) -> f64 {
    if set { 1.0 } else { 0.0 }
}

fn encode_daemon(out: &mut Out<'_>, shared: &Shared, hash: u64) -> fmt::Result {
    let hash = hash_text(hash);
    let info = vec![
        ("node", shared.node.as_str()),
        ("version", env!("CARGO_PKG_VERSION")),
        ("config_hash", hash.as_str()),
    ];
    out.gauges("info", "Always 1", [(info, 1.0)])?;
    let started = shared.started.as_millis() as f64 / 1000.0;
    out.gauge("start_time_seconds", "When the daemon started, Unix time", started)?;
    out.gauge("ready", "Whether every service is served", flag(summary::ready(shared).is_ok()))?;
    let health = shared.health.borrow().clone();
    out.gauge("workers_alive", "Worker threads that run", f64::from(health.workers_alive))?;
    out.gauge("workers_expected", "Worker threads there should be", f64::from(health.workers_expected))?;
    let names: Vec<String> = (0..shared.workers.len()).map(|index| index.to_string()).collect();
    let errors = names.iter().zip(&shared.workers);
    let errors =
        errors.map(|(name, worker)| (vec![("worker", name.as_str())], worker.counters.accept_errors.get()));
    out.counters("accept_errors", "Failed accepts", errors)?;
    let control = &shared.control;
    let reloads = [("applied", &control.reloads_applied), ("refused", &control.reloads_refused)];
    let reloads = reloads.map(|(result, count)| (vec![("result", result)], count.get()));
    out.counters("reloads", "Reloads", reloads)?;
    out.counter("api_connections_refused", "API connections refused", control.api_refused.get())?;
    let vrrpd = shared.vrrpd.borrow().clone();
    out.gauge("vrrpd_connected", "Whether vrrpd is connected", flag(vrrpd.connected))?;
    out.counter("vrrpd_connects", "Connections to vrrpd made", control.vrrpd_connects.get())?;
    let all = [Role::Init, Role::Backup, Role::Active, Role::Fault];
    let roles = vrrpd.roles.iter().flat_map(|(instance, &now)| {
        let labels = move |role: Role| vec![("instance", instance.as_str()), ("role", role.name())];
        all.map(move |role| (labels(role), flag(role == now)))
    });
    out.gauges("role", "The role of this node", roles)
}

fn encode_services(out: &mut Out<'_>, services: &[Arc<Service>]) -> fmt::Result {
    let name = |service: &'_ Arc<Service>| service.config.name.clone();
    let names: Vec<String> = services.iter().map(name).collect();
    let each = || names.iter().map(String::as_str).zip(services);
    let labels = |service| vec![("service", service)];
    out.gauges(
        "service_connections_open",
        "Client connections open now",
        each().map(|(name, service)| (labels(name), f64::from(service.shared.open.open()))),
    )?;
    out.gauges(
        "service_connections_max",
        "Client connections that may be open",
        each().map(|(name, service)| (labels(name), f64::from(service.config.limits.max_connections))),
    )?;
    out.counters(
        "service_connections",
        "Client connections admitted",
        each().map(|(name, service)| (labels(name), service.shared.counters.sum(|shard| &shard.admitted))),
    )?;
    out.counters(
        "service_connections_refused",
        "Client connections reset",
        each().flat_map(|(name, service)| {
            let counters = &service.shared.counters;
            [
                (
                    vec![("service", name), ("reason", "max_connections")],
                    counters.sum(|shard| &shard.over_limit),
                ),
                (vec![("service", name), ("reason", "no_target")], counters.sum(|shard| &shard.no_target)),
            ]
        }),
    )?;
    out.counters(
        "service_connections_ended",
        "Relayed connections by how they ended",
        each().flat_map(|(name, service)| {
            let count = |end: End| service.shared.counters.sum(|shard| &shard.ends[end.index()]);
            End::ALL.map(|end| (vec![("service", name), ("end", end.name())], count(end)))
        }),
    )?;
    encode_service_work(out, &names, services)
}

fn encode_service_work(out: &mut Out<'_>, names: &[String], services: &[Arc<Service>]) -> fmt::Result {
    let each = || names.iter().map(String::as_str).zip(services);
    let labels = |service| vec![("service", service)];
    out.counters(
        "service_connect_retries",
        "Connects tried again on another target",
        each().map(|(name, service)| (labels(name), service.shared.counters.sum(|shard| &shard.retries))),
    )?;
    out.counters(
        "service_unhealthy_tries",
        "Connects to an unhealthy target because none was healthy",
        each().map(|(name, service)| {
            (labels(name), service.shared.counters.sum(|shard| &shard.unhealthy_tries))
        }),
    )?;
    out.counters(
        "service_bytes",
        "Bytes relayed",
        each().flat_map(|(name, service)| {
            let counters = &service.shared.counters;
            [
                (
                    vec![("service", name), ("direction", "to_target")],
                    counters.sum(|shard| &shard.bytes_to_target),
                ),
                (
                    vec![("service", name), ("direction", "to_client")],
                    counters.sum(|shard| &shard.bytes_to_client),
                ),
            ]
        }),
    )
}

/// A target of the configuration, with what its labels borrow from.
struct Labelled<'a> {
    target: &'a Target,
    address: String,
    weight: u16,
}

impl Labelled<'_> {
    fn labels(&self) -> Labels<'_> {
        vec![("group", &self.target.key.group), ("target", &self.target.key.id), ("address", &self.address)]
    }

    fn labels_and(&self, name: &'static str, value: &'static str) -> Labels<'_> {
        let mut labels = self.labels();
        labels.push((name, value));
        labels
    }
}

fn encode_targets(out: &mut Out<'_>, groups: &[Arc<Group>]) -> fmt::Result {
    let all = groups.iter().flat_map(|group| group.config.targets.iter().zip(&group.targets));
    let targets: Vec<Labelled<'_>> = all
        .map(|(config, target)| Labelled {
            target,
            address: target.key.address.to_string(),
            weight: config.weight,
        })
        .collect();
    let gauges =
        |value: fn(&Labelled<'_>) -> f64| targets.iter().map(move |target| (target.labels(), value(target)));
    out.gauges(
        "target_serving",
        "Whether new connections may go there",
        gauges(|it| flag(it.target.serving())),
    )?;
    out.gauges("target_weight", "Its share", gauges(|it| f64::from(it.weight)))?;
    let open = gauges(|it| it.target.counters.sum(|shard| &shard.open) as f64);
    out.gauges("target_connections_open", "Connections open now", open)?;
    let connected = |it: &Labelled<'_>| it.target.counters.sum(|shard| &shard.connected);
    out.counters(
        "target_connections",
        "Connections made",
        targets.iter().map(|target| (target.labels(), connected(target))),
    )?;
    out.counters(
        "target_connect_failures",
        "Connects that failed",
        targets.iter().flat_map(|it| {
            let counters = &it.target.counters;
            [
                (it.labels_and("reason", "error"), counters.sum(|shard| &shard.connect_errors)),
                (it.labels_and("reason", "timeout"), counters.sum(|shard| &shard.connect_timeouts)),
            ]
        }),
    )?;
    out.counters(
        "target_checks",
        "Health checks",
        targets.iter().flat_map(|it| {
            let [success, failure] = &it.target.checks;
            [
                (it.labels_and("result", "success"), success.get()),
                (it.labels_and("result", "failure"), failure.get()),
            ]
        }),
    )?;
    let duration =
        |it: &Labelled<'_>| it.target.record().last.as_ref().map(|last| last.latency.as_secs_f64());
    out.gauges(
        "target_check_duration_seconds",
        "How long the last check took",
        targets.iter().filter_map(|it| Some((it.labels(), duration(it)?))),
    )
}
