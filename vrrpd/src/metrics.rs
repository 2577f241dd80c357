//! `GET /metrics`: the daemon's state in the text format of Prometheus (OpenMetrics).
//!
//! Made anew from the published status for each request, so that an instance that is gone leaves nothing behind.
//!
//! | name | labels | meaning |
//! |---|---|---|
//! | `tandem_vrrp_build_info` | `version` | always 1 |
//! | `tandem_vrrp_start_time_seconds` | | Unix time of the daemon's start |
//! | `tandem_vrrp_status_age_seconds` | | time since the real-time loop last published its state |
//! | `tandem_vrrp_role` | `instance`, `family`, `role` | 1 for the role it has, 0 for the others |
//! | `tandem_vrrp_priority` | `instance` | configured priority |
//! | `tandem_vrrp_effective_priority` | `instance` | priority in force |
//! | `tandem_vrrp_transitions_total` | `instance`, `family` | role changes |
//! | `tandem_vrrp_adverts_sent_total` | `instance`, `family` | advertisements sent |
//! | `tandem_vrrp_adverts_late_total` | `instance`, `family` | of these, sent more than a tenth of their interval late |
//! | `tandem_vrrp_adverts_received_total` | `instance`, `family` | advertisements accepted |
//! | `tandem_vrrp_adverts_dropped_total` | `instance`, `family`, `reason` | advertisements dropped |
//! | `tandem_vrrp_adverts_unmatched_total` | `reason` | advertisements dropped that match no instance |
//! | `tandem_vrrp_announcements_total` | `instance`, `family` | rounds of gratuitous ARP or neighbour advertisements |
//! | `tandem_vrrp_conflicts_total` | `instance`, `family` | claims of our addresses by others while active |
//! | `tandem_vrrp_lateness_seconds` | `instance`, `family` | how late the last advertisement timer was served |
//! | `tandem_vrrp_lateness_max_seconds` | `instance`, `family` | the worst since the start |
//! | `tandem_vrrp_maintenance` | | 1 while maintenance is on |
//! | `tandem_vrrp_peer_link_alive` | | 1 while the other node is heard on the peer link |
//! | `tandem_vrrp_peer_last_heard_seconds` | | time since it was heard; absent if never |
//! | `tandem_vrrp_peer_same_config` | | 1 if it runs the same configuration; absent if unknown |
//! | `tandem_vrrp_peer_same_version` | | 1 if it runs the same release; absent if unknown |
//! | `tandem_vrrp_peer_datagrams_dropped_total` | `reason` | datagrams of the peer link dropped |
//! | `tandem_vrrp_lbd_connected` | | 1 while `lbd` is connected |
//! | `tandem_vrrp_lbd_connections_total` | `result` | `accepted`, `refused`, `malformed`, `silent` |
//! | `tandem_vrrp_lbd_maps_refused_total` | | maps for the kernel's forwarding that `lbd` handed over and that were none; an error in the log says why |
//! | `tandem_vrrp_hooks_total` | `result` | `succeeded`, `failed`, `timed_out`, `superseded` |
//! | `tandem_vrrp_events_total` | | events, the dropped ones included |
//! | `tandem_vrrp_events_dropped_total` | | events that did not fit the queue from the loop |
//! | `tandem_vrrp_event_followers` | | followers of the event stream |
//! | `tandem_vrrp_event_followers_dropped_total` | | followers disconnected for not reading |
//! | `tandem_vrrp_api_connections_refused_total` | `listener` | connections over the limit, `tcp` or `unix` |
//! | `tandem_vrrp_warden_restarts_total` | | times the warden was started again |
//! | `tandem_vrrp_system_errors_total` | | system calls of the loop that failed |
//! | `tandem_vrrp_log_lines_dropped_total` | | log lines dropped because standard error was not read |

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use common::ipc::Role;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use vrrpd_core::status::{InstanceStatus, NodeStatus, RouterStatus};

use crate::api::{Api, follow};
use crate::logging;

/// The content type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Counters = Family<Labels, Counter>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;

/// All metrics as text.
///
/// # Errors
///
/// Never in practice: the text is written into memory.
pub fn render(api: &Api) -> Result<String, fmt::Error> {
    let latest = api.status.latest();
    let mut page = Page { registry: Registry::with_prefix("tandem_vrrp") };
    let version = env!("CARGO_PKG_VERSION").to_owned();
    page.gauges("build_info", "Always 1", [(vec![("version", version)], 1.0)]);
    let (started, _) = api.started;
    page.gauge("start_time_seconds", "Unix time of the start", milliseconds(started.as_millis()));
    page.gauge("status_age_seconds", "Time since the loop published", latest.at.elapsed().as_secs_f64());
    page.instances(&latest.status);
    page.node(&latest.status);
    page.surroundings(api);
    let mut text = String::new();
    encode(&mut text, &page.registry)?;
    Ok(text)
}

struct Page {
    registry: Registry,
}

impl Page {
    fn instances(&mut self, status: &NodeStatus) {
        let by_instance = |value: fn(&InstanceStatus) -> u8| {
            let instances = status.instances.iter();
            instances.map(move |i| (vec![("instance", i.name.clone())], f64::from(value(i))))
        };
        self.gauges("priority", "Configured priority", by_instance(|i| i.priority));
        self.gauges("effective_priority", "Priority in force", by_instance(|i| i.effective_priority));
        let roles = routers(status).flat_map(|(labels, router)| {
            [Role::Init, Role::Backup, Role::Active, Role::Fault].map(|role| {
                let labels = [labels.clone(), vec![("role", role.name().to_owned())]].concat();
                (labels, flag(router.role == role))
            })
        });
        self.gauges("role", "1 for the role it has", roles);
        let counted = |value: fn(&RouterStatus) -> u64| routers(status).map(move |(l, r)| (l, value(r)));
        self.counters("transitions", "Role changes", counted(|r| r.transitions));
        self.counters("adverts_sent", "Advertisements sent", counted(|r| r.adverts_sent));
        let late = "Advertisements sent more than a tenth of their interval late";
        self.counters("adverts_late", late, counted(|r| r.adverts_late));
        self.counters("adverts_received", "Advertisements accepted", counted(|r| r.adverts_received));
        self.counters("announcements", "Rounds of announcements sent", counted(|r| r.announcements));
        self.counters("conflicts", "Claims of our addresses by others", counted(|r| r.conflicts));
        let drops = routers(status).flat_map(|(labels, router)| {
            let with = move |reason: &str| [labels.clone(), vec![("reason", reason.to_owned())]].concat();
            router.drops.iter().map(move |drop| (with(drop.reason), drop.count))
        });
        self.counters("adverts_dropped", "Advertisements dropped", drops);
        let late =
            |value: fn(&RouterStatus) -> u64| routers(status).map(move |(l, r)| (l, microseconds(value(r))));
        self.gauges("lateness_seconds", "Lateness of the last timer", late(|r| r.lateness_us));
        self.gauges("lateness_max_seconds", "Greatest lateness of a timer", late(|r| r.lateness_max_us));
    }

    fn node(&mut self, status: &NodeStatus) {
        self.gauge("maintenance", "Whether maintenance is on", flag(status.maintenance));
        let peer = &status.peer_link;
        self.gauge("peer_link_alive", "Whether the other node is heard", flag(peer.alive));
        if let Some(ago) = peer.last_heard_ms_ago {
            self.gauge("peer_last_heard_seconds", "Time since the other node was heard", milliseconds(ago));
        }
        if let Some(same) = peer.same_config {
            self.gauge("peer_same_config", "Whether the other node runs the same configuration", flag(same));
        }
        if let Some(same) = peer.same_version {
            self.gauge("peer_same_version", "Whether the other node runs the same release", flag(same));
        }
        let reasons = |counts: &[vrrpd_core::status::Count]| -> Vec<_> {
            counts.iter().map(|drop| (vec![("reason", drop.reason.to_owned())], drop.count)).collect()
        };
        let unmatched = reasons(&status.unmatched_drops);
        self.counters("adverts_unmatched", "Advertisements that match no instance", unmatched);
        self.counters("peer_datagrams_dropped", "Peer datagrams dropped", reasons(&status.peer_drops));
    }

    fn surroundings(&mut self, api: &Api) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let lbd = &api.lbd;
        self.gauge("lbd_connected", "Whether lbd is connected", flag(lbd.connected.load(Ordering::Relaxed)));
        let by = |label: &'static str, counts: &[(&str, u64)]| -> Vec<_> {
            counts.iter().map(|(value, count)| (vec![(label, (*value).to_owned())], *count)).collect()
        };
        let connections = [
            ("accepted", read(&lbd.accepted)),
            ("refused", read(&lbd.refused)),
            ("malformed", read(&lbd.malformed)),
            ("silent", read(&lbd.silent)),
        ];
        self.counters("lbd_connections", "Connections of lbd", by("result", &connections));
        let refused = read(&lbd.maps_refused);
        self.counter("lbd_maps_refused", "Maps for the kernel's forwarding that were none", refused);
        let counts = api.hooks.counts();
        let hooks = [
            ("succeeded", counts.succeeded),
            ("failed", counts.failed),
            ("timed_out", counts.timed_out),
            ("superseded", counts.superseded),
        ];
        self.counters("hooks", "Hooks", by("result", &hooks));
        self.counter("events", "Events", api.log.newest());
        self.counter("events_dropped", "Events that did not fit the queue", api.log.lost());
        let followers = follow::FOLLOWERS_MAX - api.followers.available_permits().min(follow::FOLLOWERS_MAX);
        self.gauge("event_followers", "Followers of the events", milliseconds(followers as u64 * 1000));
        let dropped = read(&api.counters.followers_dropped);
        self.counter("event_followers_dropped", "Followers disconnected for not reading", dropped);
        let refused = [("tcp", read(&api.counters.refused_tcp)), ("unix", read(&api.counters.refused_unix))];
        self.counters("api_connections_refused", "Connections over the limit", by("listener", &refused));
        let shell = &api.status.counters;
        self.counter("warden_restarts", "Times the warden was started again", read(&shell.warden_restarts));
        self.counter("system_errors", "System calls of the loop that failed", read(&shell.system_errors));
        self.counter("log_lines_dropped", "Log lines that nobody read", logging::dropped());
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.gauges(name, help, [(vec![], value)]);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.counters(name, help, [(vec![], value)]);
    }

    fn gauges(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, f64)>) {
        let family = Gauges::default();
        for (labels, value) in values {
            family.get_or_create(&labels).set(value);
        }
        self.registry.register(name, help, family);
    }

    /// The text gets `_total` after the name.
    fn counters(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Counters::default();
        for (labels, value) in values {
            family.get_or_create(&labels).inc_by(value);
        }
        self.registry.register(name, help, family);
    }
}

fn routers(status: &NodeStatus) -> impl Iterator<Item = (Labels, &RouterStatus)> {
    status.instances.iter().flat_map(|instance| {
        instance.routers.iter().map(|router| {
            let family = router.family.name().to_owned();
            (vec![("instance", instance.name.clone()), ("family", family)], router)
        })
    })
}

fn flag(on: bool) -> f64 {
    if on { 1.0 } else { 0.0 }
}

fn milliseconds(ms: u64) -> f64 {
    std::time::Duration::from_millis(ms).as_secs_f64()
}

fn microseconds(us: u64) -> f64 {
    std::time::Duration::from_micros(us).as_secs_f64()
}
