//! What the API shows and `lbd status` prints. Fields are only ever added.

mod durations;
mod requests;
mod sizes;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::config::{Listen, Mode, Protocol, Via};
use common::ipc::Role;
use lbd_core::check::Reason;
use lbd_core::group::{Admin, Origin, Standing, View};
use lbd_core::health::HealthState;
use lbd_core::udp_sessions::{DatagramDrop, SessionEnd};
use serde::{Deserialize, Serialize};

use crate::access_log::Sink;
use crate::clock::unix_now;
use crate::counters::{Counter, ServiceCounters, Sharded, UdpCounters};
use crate::discover::DiscoveryView;
use crate::l4::kernel::{ChanceView, KernelView, Sum, Totals};
use crate::l4::{End, Refusal};
use crate::metrics::tls::{KINDS, VERSIONS};
use crate::peer::ReplicationView;
use crate::process::release;
use crate::reload::hash_text;
use crate::shared::Shared;
use crate::snapshot::{Group, Service, Target};
use crate::summary;
use crate::tls::{EXPIRES_SOON_SECONDS, Failure, Termination};
use durations::DurationsView;
use requests::{GroupRequestsView, RequestsView, TargetRequestsView};

/// `GET /v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    /// This node's name.
    pub(crate) node: String,
    /// The daemon's version.
    pub(crate) version: String,
    /// `running` or `stopping`.
    pub(crate) state: String,
    /// Whether new connections are served as they should be.
    pub(crate) ready: bool,
    /// Why not, if not.
    pub(crate) reason: Option<String>,
    /// Seconds since the daemon started.
    pub(crate) uptime_seconds: u64,
    /// The configuration file.
    pub(crate) config_file: String,
    /// The first 8 bytes of its SHA-256, in hexadecimal; equal on both nodes if they run the same file.
    pub(crate) config_hash: String,
    /// Configurations applied since the start, the first one included.
    pub(crate) config_generation: u64,
    /// Worker threads that run, and that there should be.
    pub(crate) workers_alive: u32,
    /// Worker threads there should be.
    pub(crate) workers_expected: u32,
    /// Client connections open now.
    pub(crate) connections_open: u64,
    /// Whether `vrrpd` is connected.
    pub(crate) vrrpd_connected: bool,
    /// This node's role for each instance, as `vrrpd` says.
    pub(crate) roles: BTreeMap<String, Role>,
    /// Forwarding in the kernel; null where no service is forwarded by it.
    #[serde(default)]
    pub(crate) kernel: Option<KernelView>,
    /// As `GET /v1/second-chance`.
    #[serde(default)]
    pub(crate) second_chance: Option<ChanceView>,
    /// As `GET /v1/replication`.
    #[serde(default)]
    pub(crate) replication: ReplicationView,
    /// As `GET /v1/services`.
    pub(crate) services: Vec<ServiceView>,
    /// As `GET /v1/target-groups`.
    pub(crate) target_groups: Vec<GroupView>,
}

/// An entry of `GET /v1/services`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ServiceView {
    /// Its name.
    pub(crate) name: String,
    /// Its mode.
    pub(crate) mode: String,
    /// Where it listens, as the configuration writes it: `ADDRESS:PORT`; in the kernel's modes also `ADDRESS:FIRST-LAST` and
    /// `ADDRESS:*` for any port, and `/udp` after those for datagrams.
    pub(crate) listen: Vec<String>,
    /// The target group that serves it.
    pub(crate) target_group: String,
    /// Targets that take new connections.
    pub(crate) targets_serving: usize,
    /// All targets of the group.
    pub(crate) targets: usize,
    /// Connections open now.
    pub(crate) connections_open: u32,
    /// The most that may be open.
    pub(crate) connections_max: u32,
    /// Connections admitted since the start.
    pub(crate) connections_total: u64,
    /// Connections closed at once because too many were open.
    pub(crate) refused_over_limit: u64,
    /// Connections reset because no target could be reached.
    pub(crate) refused_no_target: u64,
    /// Connections reset before they had a target, by reason; the two above included.
    #[serde(default)]
    pub(crate) refused: BTreeMap<String, u64>,
    /// Connections that had a target, by how they ended; without sessions of datagrams.
    #[serde(default)]
    pub(crate) ended: BTreeMap<String, u64>,
    /// Connections that had to wait for a target with room.
    #[serde(default)]
    pub(crate) queued_total: u64,
    /// Connects tried again on another target.
    pub(crate) connect_retries: u64,
    /// Connects that failed because this host had no file, port or memory for them: no target's fault.
    #[serde(default)]
    pub(crate) connect_local_errors: u64,
    /// Connects while the group was in panic.
    #[serde(default)]
    pub(crate) unhealthy_tries: u64,
    /// Sources whose rate was forgotten because too many were known.
    #[serde(default)]
    pub(crate) rate_sources_forgotten: u64,
    /// Bytes from clients to targets.
    pub(crate) bytes_to_target: u64,
    /// Bytes from targets to clients.
    pub(crate) bytes_to_client: u64,
    /// Of both, bytes that stayed in the kernel.
    #[serde(default)]
    pub(crate) bytes_spliced: u64,
    /// Certificates and handshakes; null without TLS.
    #[serde(default)]
    pub(crate) tls: Option<TlsView>,
    /// Datagrams and sessions; null but for a `udp` service, whose sessions are the connections above.
    #[serde(default)]
    pub(crate) datagrams: Option<DatagramsView>,
    /// Requests; null but for an `http` service.
    #[serde(default)]
    pub(crate) requests: Option<RequestsView>,
    /// What the kernel has counted; null but for a service that it forwards.
    #[serde(default)]
    pub(crate) kernel: Option<Sum>,
    /// How long connections lasted that had a target.
    pub(crate) duration: DurationsView,
    /// Records that the file it logs to has lost; null without `access_log`.
    pub(crate) access_log_lost: Option<u64>,
    /// Records that were not written because they are not in the sample; null without `access_log`.
    #[serde(default)]
    pub(crate) access_log_left_out: Option<u64>,
}

/// What a service with TLS has beside that.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TlsView {
    /// Its certificates, in the file's order.
    pub(crate) certificates: Vec<CertificateView>,
    /// Handshakes since the start, by version and kind: `1.3 full`, `1.3 resumed`, and so on.
    pub(crate) handshakes: BTreeMap<String, u64>,
    /// Handshakes that came to nothing, by reason.
    pub(crate) handshakes_failed: BTreeMap<String, u64>,
    /// How far the certificate is that is ordered; null where none is, or nobody has looked yet.
    #[serde(default)]
    pub(crate) ordered: Option<OrderedView>,
}

/// A certificate that is ordered (ACME).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OrderedView {
    /// What it is for.
    pub(crate) names: Vec<String>,
    /// `missing`, `under_way` (the first time or again) or `here`.
    pub(crate) state: String,
    /// Whether this node orders it, or the other one.
    pub(crate) ordered_here: bool,
    /// Orders that failed since one succeeded.
    pub(crate) failures: u32,
    /// Why the last of them did; null after a success.
    pub(crate) last_failure: Option<String>,
    /// Its kind: `directory`, `account`, `rate_limited`, `refused`, `challenge`, `timeout`, `certificate` or `local`.
    pub(crate) last_failure_kind: Option<String>,
    /// When that was, in milliseconds since the Unix epoch.
    pub(crate) last_failure_unix_ms: Option<u64>,
    /// When it is ordered next; null if this node does not order it, or does so in this moment.
    pub(crate) next_order_unix_ms: Option<u64>,
}

/// A certificate that clients get.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CertificateView {
    /// The file that it is from.
    pub(crate) file: String,
    /// Whose it is.
    pub(crate) subject: String,
    /// The names and addresses that it is for.
    pub(crate) names: Vec<String>,
    /// What its key signs with: `ecdsa`, `ed25519` or `rsa`.
    pub(crate) key: String,
    /// SHA-256 of it, in hexadecimal.
    pub(crate) sha256: String,
    /// From when it is valid, in milliseconds since the Unix epoch.
    pub(crate) not_before_unix_ms: u64,
    /// Until when.
    pub(crate) not_after_unix_ms: u64,
    /// Whether that is in less than 30 days, or over.
    pub(crate) expires_soon: bool,
    /// Until when the OCSP response beside it is shown; null without one, or if it has no end.
    pub(crate) ocsp_until_unix_ms: Option<u64>,
}

/// What a `udp` service has beside what connections and sessions have in common.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DatagramsView {
    /// Passed on from clients to targets.
    pub(crate) to_target: u64,
    /// Passed on from targets to clients.
    pub(crate) to_client: u64,
    /// Not passed on, by reason.
    pub(crate) dropped: BTreeMap<String, u64>,
    /// Sessions that were given another target.
    pub(crate) sessions_moved: u64,
    /// Sessions by how they ended.
    pub(crate) sessions_ended: BTreeMap<String, u64>,
    /// Sockets for sessions that could not be opened.
    pub(crate) socket_errors: u64,
}

/// An entry of `GET /v1/target-groups`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct GroupView {
    /// Its name.
    pub(crate) name: String,
    /// How a target is chosen.
    pub(crate) algorithm: String,
    /// From where the targets of new connections are taken: `normal` (usable primary targets), `starting` (unchecked ones,
    /// because no check has ended), `backup` (no primary target is usable), `panic` (too few are usable, all are used) or
    /// `none` (none may be used).
    pub(crate) mode: String,
    /// Where further targets are found; null without `discover`.
    pub(crate) discovery: Option<DiscoveryView>,
    /// Connections that wait for a target with room.
    #[serde(default)]
    pub(crate) queue_waiting: usize,
    /// How long those that had to wait did so, whatever came of it; null without a queue.
    #[serde(default)]
    pub(crate) queue_time: Option<DurationsView>,
    /// Clients whose target is remembered; null without `sticky`.
    #[serde(default)]
    pub(crate) sticky: Option<StickyTableView>,
    /// Checks of its targets that failed, by reason, those of targets that have left it included.
    #[serde(default)]
    pub(crate) check_failures: BTreeMap<String, u64>,
    /// Requests; null but for a group of an `http` service.
    #[serde(default)]
    pub(crate) requests: Option<GroupRequestsView>,
    /// Its targets.
    pub(crate) targets: Vec<TargetView>,
}

/// The table of a group's clients.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StickyTableView {
    /// Clients whose target is remembered.
    pub(crate) entries: usize,
    /// Those that were forgotten before their time because too many were known.
    pub(crate) forgotten: u64,
    /// Cookies of applications that were not remembered because their client has its share of the table.
    pub(crate) withheld: u64,
}

/// A target.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TargetView {
    /// Its name.
    pub(crate) id: String,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// `file`, `discovered` or `added` (by the API).
    pub(crate) source: String,
    /// What the administrator wants: `ready`, `drain` or `maint`.
    pub(crate) state: String,
    /// The weight in force, 0 to 256.
    pub(crate) weight: u16,
    /// Whether that is not the configured one, but was set over the API.
    pub(crate) weight_overridden: bool,
    /// What it is to get of the new connections, in relation to the others: weight × 256, less during a slow start, 0 for
    /// nothing.
    pub(crate) share: u32,
    /// Why: `in_use`, `panic` or `starting` (in use although not known to be healthy), `drain`, `maint`, `weight_zero`,
    /// `undecided`, `unhealthy`, `ejected`, `stands_by` (a backup that is not needed), `other_zone`, or `removed`.
    pub(crate) reason: String,
    /// Whether new connections may go there: its share is more than nothing.
    #[serde(default)]
    pub(crate) serving: bool,
    /// Whether it is ready, of a weight above 0, healthy and not ejected.
    #[serde(default)]
    pub(crate) usable: bool,
    /// How far its slow start has come, 0 to 99; null outside of one.
    pub(crate) slow_start_percent: Option<u8>,
    /// Used only when no other target is usable.
    pub(crate) backup: bool,
    /// Its zone.
    pub(crate) zone: Option<String>,
    /// `healthy`, `unhealthy`, `undecided` (first check under way), `unchecked` (no check: counts as healthy) or `removed`.
    pub(crate) health: String,
    /// When that changed last, in milliseconds since the Unix epoch.
    pub(crate) since_unix_ms: u64,
    /// What the other node's checks say, for comparison: each node goes by its own. Null without a session with the other node, or if
    /// it has no such target.
    #[serde(default)]
    pub(crate) peer_health: Option<String>,
    /// The last check.
    pub(crate) last_check: Option<CheckView>,
    /// Milliseconds until its ejection ends; null for one that is not ejected.
    pub(crate) ejected_for_ms: Option<u64>,
    /// When it ends, in milliseconds since the Unix epoch; null likewise.
    #[serde(default)]
    pub(crate) ejected_until_unix_ms: Option<u64>,
    /// Ejections in a row, the one under way included, each longer than the one before; one fewer with each
    /// `eject.base` without another.
    #[serde(default)]
    pub(crate) ejections_in_a_row: u32,
    /// How often its connections' failures had it ejected.
    pub(crate) ejections: u64,
    /// How often that was refused because as many targets were ejected as may be.
    pub(crate) ejections_refused: u64,
    /// Milliseconds until its connections are closed; null for never.
    pub(crate) closes_in_ms: Option<u64>,
    /// The most connections that may be open; null for any number.
    pub(crate) connections_max: Option<u32>,
    /// Connections open now.
    pub(crate) connections_open: u64,
    /// Connections made since the start.
    pub(crate) connections_total: u64,
    /// Connects that failed or timed out, or had no TLS handshake.
    pub(crate) connect_failures: u64,
    /// Why there was no TLS handshake the last time; null if there was one.
    #[serde(default)]
    pub(crate) last_tls_failure: Option<String>,
    /// Of the failures, those that timed out.
    #[serde(default)]
    pub(crate) connect_timeouts: u64,
    /// Of the failures, those without a TLS handshake.
    #[serde(default)]
    pub(crate) tls_failures: u64,
    /// Of the failures, those after which another target was tried.
    #[serde(default)]
    pub(crate) connect_retries: u64,
    /// Checks since the start.
    #[serde(default)]
    pub(crate) checks_total: u64,
    /// Of these, those that failed.
    #[serde(default)]
    pub(crate) checks_failed: u64,
    /// Checks that failed, by reason. `local`: this host could not make them, so that they are in neither of the two above.
    #[serde(default)]
    pub(crate) check_failures: BTreeMap<String, u64>,
    /// Connections that it reset.
    #[serde(default)]
    pub(crate) resets: u64,
    /// Connections on which it was not heard of any more.
    #[serde(default)]
    pub(crate) vanished: u64,
    /// Bytes from clients.
    #[serde(default)]
    pub(crate) bytes_to_target: u64,
    /// Bytes for clients.
    #[serde(default)]
    pub(crate) bytes_to_client: u64,
    /// From the start of each connect until the connection was made.
    pub(crate) connect_time: DurationsView,
    /// From then until the target's first byte.
    pub(crate) first_byte_time: DurationsView,
    /// Requests; null but for a target of a group of an `http` service.
    #[serde(default)]
    pub(crate) requests: Option<TargetRequestsView>,
    /// What the kernel has counted; null but for a target of a service that it forwards.
    #[serde(default)]
    pub(crate) kernel: Option<Sum>,
}

/// How a check went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CheckView {
    /// `ok`, or what went wrong.
    pub(crate) result: String,
    /// How long it took, in microseconds.
    pub(crate) latency_us: u64,
    /// When it ended, in milliseconds since the Unix epoch.
    pub(crate) at_unix_ms: u64,
    /// `vip` if the target was asked as a client of a virtual IP would, `target` if at its own address.
    #[serde(default)]
    pub(crate) via: String,
    /// The virtual IP and port; null for its own address.
    #[serde(default)]
    pub(crate) vip: Option<SocketAddr>,
}

/// The whole status.
pub(crate) fn status(shared: &Shared) -> Status {
    let snapshot = shared.snapshot.load_full();
    let health = shared.health.borrow().clone();
    let vrrpd = shared.vrrpd.borrow().clone();
    let ready = summary::ready(shared);
    let totals = totals(shared);
    Status {
        node: shared.life.node.clone(),
        version: release().to_owned(),
        state: if shared.is_stopping() { "stopping" } else { "running" }.to_owned(),
        ready: ready.is_ok(),
        reason: ready.err(),
        uptime_seconds: unix_now().distance(shared.started).as_secs(),
        config_file: shared.config_file.display().to_string(),
        config_hash: hash_text(snapshot.config.hash),
        config_generation: snapshot.generation,
        workers_alive: health.workers_alive,
        workers_expected: health.workers_expected,
        connections_open: shared.open_connections(),
        vrrpd_connected: vrrpd.connected,
        roles: vrrpd.roles,
        kernel: shared.kernel.show(),
        second_chance: shared.chance.show(),
        replication: shared.peer.view(),
        services: services_with(shared, &totals),
        target_groups: groups_with(shared, &totals),
    }
}

/// What the kernel has counted; nothing while it forwards nothing.
fn totals(shared: &Shared) -> Totals {
    shared.kernel.reader().map(|reader| reader.totals()).unwrap_or_default()
}

/// All services.
pub(crate) fn services(shared: &Shared) -> Vec<ServiceView> {
    services_with(shared, &totals(shared))
}

fn services_with(shared: &Shared, totals: &Totals) -> Vec<ServiceView> {
    let counted = |service: &Service| totals.services.get(&service.config.name).copied();
    let view = |service: &Arc<Service>| ServiceView {
        kernel: counted(service).filter(|_| service.config.mode.in_kernel()),
        ..service_view(service)
    };
    shared.snapshot.load().services.iter().map(view).collect()
}

/// All target groups.
pub(crate) fn groups(shared: &Shared) -> Vec<GroupView> {
    groups_with(shared, &totals(shared))
}

fn groups_with(shared: &Shared, totals: &Totals) -> Vec<GroupView> {
    shared.snapshot.load().groups.iter().map(|group| group_view(shared, group, totals)).collect()
}

/// Where a service listens, for people.
fn shown(service: &Service, listen: &Listen) -> String {
    match listen.protocol {
        Protocol::Udp if service.config.mode.in_kernel() => format!("{listen}/udp"),
        _ => listen.to_string(),
    }
}

fn datagrams_view(counters: &Sharded<ServiceCounters>) -> DatagramsView {
    let sum = |pick: fn(&UdpCounters) -> &Counter| counters.sum(|shard| pick(&shard.udp));
    let dropped = |it: DatagramDrop| counters.sum(|shard| &shard.udp.drops[it.index()]);
    let ended = |it: SessionEnd| counters.sum(|shard| &shard.udp.ends[it.index()]);
    DatagramsView {
        to_target: sum(|udp| &udp.datagrams_to_target),
        to_client: sum(|udp| &udp.datagrams_to_client),
        dropped: DatagramDrop::ALL.map(|it| (it.name().to_owned(), dropped(it))).into(),
        sessions_moved: sum(|udp| &udp.moved),
        sessions_ended: SessionEnd::ALL.map(|it| (it.name().to_owned(), ended(it))).into(),
        socket_errors: sum(|udp| &udp.socket_errors),
    }
}

fn tls_view(tls: &Termination, counters: &Sharded<ServiceCounters>) -> TlsView {
    let count = |version: usize, kind: usize| {
        let count = counters.sum(|shard| &shard.http.tls.handshakes[version][kind]);
        (format!("{} {}", VERSIONS[version], KINDS[kind]), count)
    };
    let failed = |it: Failure| counters.sum(|shard| &shard.http.tls.failures[it.index()]);
    let ms = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
    let sites = tls.shown();
    let certificates = sites.iter().map(|site| CertificateView {
        file: site.file.display().to_string(),
        subject: site.facts.subject.clone(),
        names: site
            .facts
            .names
            .iter()
            .cloned()
            .chain(site.facts.addresses.iter().map(ToString::to_string))
            .collect(),
        key: site.key_name().to_owned(),
        sha256: site.sha256(),
        not_before_unix_ms: ms(site.facts.not_before),
        not_after_unix_ms: ms(site.facts.not_after),
        expires_soon: site.expires_within(EXPIRES_SOON_SECONDS).is_some(),
        ocsp_until_unix_ms: site.stapled.as_ref().and_then(|(response, _)| response.next_update).map(ms),
    });
    TlsView {
        certificates: certificates.collect(),
        handshakes: [count(0, 0), count(0, 1), count(1, 0), count(1, 1)].into(),
        handshakes_failed: Failure::ALL.map(|it| (it.name().to_owned(), failed(it))).into(),
        ordered: tls.ordered().and_then(|slot| slot.shown()).map(|view| OrderedView::clone(&view)),
    }
}

fn service_view(service: &Service) -> ServiceView {
    let counters = &service.shared.counters;
    let refused = |refusal: Refusal| counters.sum(|shard| &shard.refusals[refusal.index()]);
    let by_reason = |refusal: Refusal| (refusal.name().to_owned(), refused(refusal));
    let ended = |end: End| counters.sum(|shard| &shard.ends[end.index()]);
    let usable = |(ready, state): &(bool, HealthState)| *ready && state.serves();
    let serving = service.group.states().iter().filter(|state| usable(state)).count();
    ServiceView {
        name: service.config.name.clone(),
        mode: service.config.mode.name().to_owned(),
        listen: service.config.listen.iter().map(|listen| shown(service, listen)).collect(),
        target_group: service.group.config.name.clone(),
        targets_serving: serving,
        targets: service.group.targets.len(),
        connections_open: service.shared.open.open(),
        connections_max: service.config.limits.max_connections,
        connections_total: counters.sum(|shard| &shard.admitted),
        refused_over_limit: refused(Refusal::MaxConnections),
        refused_no_target: refused(Refusal::NoTarget),
        refused: Refusal::ALL.map(by_reason).into(),
        ended: End::ALL.map(|end| (end.name().to_owned(), ended(end))).into(),
        queued_total: counters.sum(|shard| &shard.queued),
        connect_retries: counters.sum(|shard| &shard.retries),
        connect_local_errors: counters.sum(|shard| &shard.local_errors),
        unhealthy_tries: counters.sum(|shard| &shard.unhealthy_tries),
        rate_sources_forgotten: service.guard.rate_sources_forgotten(),
        bytes_to_target: counters.sum(|shard| &shard.bytes_to_target),
        bytes_to_client: counters.sum(|shard| &shard.bytes_to_client),
        bytes_spliced: counters.sum(|shard| &shard.bytes_spliced),
        datagrams: (service.config.mode == Mode::Udp).then(|| datagrams_view(counters)),
        requests: (service.config.mode == Mode::Http).then(|| requests::of_service(service)),
        tls: service.tls.as_ref().map(|tls| tls_view(tls, counters)),
        kernel: None,
        duration: counters.counts(|shard| &shard.durations).into(),
        access_log_lost: service.access_log.as_ref().map(Sink::dropped),
        access_log_left_out: service.access_log.as_ref().map(|_| counters.sum(|shard| &shard.log_left_out)),
    }
}

/// One target of a group.
pub(crate) fn target(shared: &Shared, group: &str, id: &str) -> Option<TargetView> {
    let snapshot = shared.snapshot.load();
    let view = group_view(shared, snapshot.group(group)?, &totals(shared));
    view.targets.into_iter().find(|target| target.id == id && target.reason != REMOVED)
}

/// Checks that failed, by reason.
fn by_reason(failures: &[Counter; Reason::COUNT]) -> BTreeMap<String, u64> {
    Reason::ALL.map(|reason| (reason.name().to_owned(), failures[reason.index()].get())).into()
}

/// What is said of a target that is no longer there.
const REMOVED: &str = "removed";

fn group_view(shared: &Shared, group: &Group, totals: &Totals) -> GroupView {
    let now = shared.clock.now().at;
    let file = shared.snapshot.load();
    let file =
        file.config.target_group(&group.config.name).map(|it| it.targets.as_slice()).unwrap_or_default();
    let roster = group.shared.roster().clone();
    let origins = roster.origins(file);
    let live = group.config.targets.iter().zip(&group.targets).zip(group.views(now));
    let of_http = requests::serves(&shared.snapshot.load().services, group);
    let counted =
        |target: &Target| totals.targets.get(&(target.key.group.clone(), target.key.id.clone())).copied();
    let target_view = |target: &Target, view| TargetView {
        requests: of_http.then(|| requests::of_target(target)),
        kernel: counted(target),
        ..target_view(shared, target, view)
    };
    let mut targets: Vec<TargetView> = live
        .map(|((config, target), view)| {
            let mut shown = target_view(target, view);
            let origin = origins.get(config.id.as_str()).copied().unwrap_or(Origin::File);
            shown.source = origin.name().to_owned();
            (shown.backup, shown.zone) = (config.backup, config.zone.clone());
            shown
        })
        .collect();
    // Removed ones are shown as long as connections to them go on.
    let removed = shared.removed();
    let removed = removed
        .iter()
        .filter(|target| target.key.group == group.config.name && target.close_at_ms() != u64::MAX);
    targets.extend(removed.map(|target| target_view(target, None)).filter(|view| view.connections_open > 0));
    GroupView {
        name: group.config.name.clone(),
        algorithm: group.config.algorithm.name().to_owned(),
        mode: group.mode().name().to_owned(),
        discovery: shared.discovery.view(&group.config.name, file),
        queue_waiting: group.shared.queue.waiting(),
        queue_time: group
            .config
            .queue
            .map(|_| group.shared.counters.counts(|shard| &shard.queue_times).into()),
        sticky: group.sticky.as_ref().map(|sticky| StickyTableView {
            entries: sticky.table.len(),
            forgotten: sticky.table.forgotten(),
            withheld: sticky.table.withheld(),
        }),
        check_failures: by_reason(&group.shared.check_failures),
        requests: of_http.then(|| requests::of_group(group)),
        targets,
    }
}

/// A target; without a view one that is no longer there.
fn target_view(shared: &Shared, target: &Target, view: Option<View>) -> TargetView {
    let check = target.last_check().map(|last| CheckView {
        result: last.failure.unwrap_or_else(|| "ok".to_owned()),
        latency_us: u64::try_from(last.latency.as_micros()).unwrap_or(u64::MAX),
        at_unix_ms: last.at.as_millis(),
        via: if last.through.is_some() { Via::Vip } else { Via::Target }.name().to_owned(),
        vip: last.through,
    });
    let counters = &target.counters;
    let sum = |pick: fn(&crate::counters::TargetCounters) -> &Counter| counters.sum(pick);
    let close_at_ms = Some(target.close_at_ms()).filter(|at_ms| *at_ms != u64::MAX);
    let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let name = |name: &str| if view.is_some() { name } else { REMOVED }.to_owned();
    TargetView {
        id: target.key.id.clone(),
        address: target.key.address,
        source: REMOVED.to_owned(),
        state: name(view.map_or(Admin::Ready, |view| view.admin).name()),
        weight: view.map_or(0, |view| view.weight),
        weight_overridden: view.is_some_and(|view| view.weight_overridden),
        share: view.map_or(0, |view| view.share),
        reason: name(view.map_or(Standing::InUse, |view| view.standing).name()),
        serving: view.is_some() && target.serving(),
        usable: view.is_some_and(|view| view.usable),
        slow_start_percent: view.and_then(|view| view.slow_start_percent),
        backup: false,
        zone: None,
        health: name(view.map_or(HealthState::Undecided, |view| view.health).name()),
        since_unix_ms: view.map_or(0, |view| view.since.as_millis()),
        peer_health: view
            .and_then(|_| shared.peer.health(&target.key.group, &target.key.id))
            .map(|state| state.name().to_owned()),
        last_check: check,
        ejected_for_ms: view.and_then(|view| view.ejected_for).map(ms),
        ejected_until_unix_ms: view
            .and_then(|view| view.ejected_for)
            .map(|rest| unix_now().as_millis().saturating_add(ms(rest))),
        ejections_in_a_row: view.map_or(0, |view| view.ejections_in_a_row),
        ejections: view.map_or(0, |view| view.ejections),
        ejections_refused: view.map_or(0, |view| view.ejections_refused),
        closes_in_ms: close_at_ms.map(|at_ms| at_ms.saturating_sub(shared.clock.now_ms())),
        connections_max: Some(target.max_connections()).filter(|max| *max != u32::MAX),
        connections_open: sum(|shard| &shard.open),
        connections_total: sum(|shard| &shard.connected),
        connect_failures: sum(|shard| &shard.connect_errors)
            .wrapping_add(sum(|shard| &shard.connect_timeouts))
            .wrapping_add(sum(|shard| &shard.tls_errors)),
        last_tls_failure: target.tls_failure(),
        connect_timeouts: sum(|shard| &shard.connect_timeouts),
        tls_failures: sum(|shard| &shard.tls_errors),
        connect_retries: sum(|shard| &shard.retried),
        checks_total: target.checks.succeeded.get().wrapping_add(target.checks.failed()),
        checks_failed: target.checks.failed(),
        check_failures: by_reason(&target.checks.failures),
        resets: sum(|shard| &shard.resets),
        vanished: sum(|shard| &shard.vanished),
        bytes_to_target: sum(|shard| &shard.bytes_to_target),
        bytes_to_client: sum(|shard| &shard.bytes_to_client),
        connect_time: counters.counts(|shard| &shard.connect_times).into(),
        first_byte_time: counters.counts(|shard| &shard.first_byte_times).into(),
        requests: None,
        kernel: None,
    }
}
