//! Applying a new configuration to the running daemon: all of it, or nothing.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::config::{self, Config, ConfigError, Mode};
use common::key::PairKey;
use lbd_core::reload::{Difference, Remembered, Removed};
use lbd_core::target::TargetKey;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::access_log::{AccessLogError, AccessLogs};
use crate::api::{ApiError, ApiServer};
use crate::change::{Asked, Reply};
use crate::discover::{Discoverer, Ticket};
use crate::l4::kernel::{KernelError, Prepared};
use crate::l4::{BindError, bind_all, udp};
use crate::load::{self, Loaded};
use crate::otlp::Exporters;
use crate::prober::{self, Prober, UnusableCheck};
use crate::replication::Heed;
use crate::shared::Shared;
use crate::snapshot::{Carry, Snapshot, Target, hash_key};
use crate::tls::TlsSet;
use crate::worker::{Command, Workers};
use crate::{stop, summary};

/// Why a configuration was not applied. The old one stays in use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReloadError {
    /// The file has errors, or cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Reading it did not end.
    #[error("reading the configuration file was cancelled")]
    Cancelled,
    /// Not for this node.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Targets cannot be checked as it says.
    #[error(transparent)]
    Check(#[from] UnusableCheck),
    /// A new access log cannot be written.
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    /// A new address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The kernel cannot forward.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The API's new address or token cannot be used.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// The configuration is not for this node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    /// It is a pair's, and this is neither of them.
    #[error(
        "the configuration has no [[node]] named {node:?}, only {known}; give this node's name with --node"
    )]
    Unknown { node: String, known: String },
}

/// What a reload changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ReloadReport {
    /// The hash of the file now in use.
    pub(crate) config_hash: String,
    /// Addresses now listened on.
    pub(crate) listeners_added: Vec<SocketAddr>,
    /// Addresses no longer listened on.
    pub(crate) listeners_removed: Vec<SocketAddr>,
    /// Targets that are new.
    pub(crate) targets_added: Vec<TargetKey>,
    /// Targets that get no new connections any more.
    pub(crate) targets_removed: Vec<TargetKey>,
}

/// Checks that `config` is for this node. One that has a single node is for whichever host it is on.
pub(crate) fn check_node(config: &Config, node: &str) -> Result<(), NodeError> {
    if config.nodes.len() < 2 || config.node(node).is_some() {
        return Ok(());
    }
    let known: Vec<String> = config.nodes.iter().map(|node| format!("{:?}", node.name)).collect();
    Err(NodeError::Unknown { node: node.to_owned(), known: known.join(" and ") })
}

/// The configuration's hash as shown to people and compared between the nodes.
pub(crate) fn hash_text(hash: u64) -> String {
    format!("{hash:016x}")
}

/// What a reload works on.
pub(crate) struct Parts {
    /// The daemon's state.
    pub(crate) shared: Arc<Shared>,
    /// The worker threads.
    pub(crate) workers: Workers,
    /// The health checks.
    pub(crate) prober: Prober,
    /// The API.
    pub(crate) api: ApiServer,
    /// The search for targets.
    pub(crate) discoverer: Discoverer,
    /// Where changes are asked for.
    pub(crate) requests: mpsc::Sender<Request>,
}

impl Parts {
    /// Reads the configuration file and applies it.
    pub(crate) async fn reload(&mut self) -> Result<ReloadReport, ReloadError> {
        let result = self.try_reload().await;
        // Whoever rotates logs asks in this way for new files, and is right to whatever the configuration is like.
        self.shared.snapshot.load().access_logs.reopen();
        match &result {
            Ok(report) => {
                self.shared.control.reloads_applied.add(1);
                tracing::info!(
                    config = report.config_hash,
                    listeners_added = report.listeners_added.len(),
                    listeners_removed = report.listeners_removed.len(),
                    targets_added = report.targets_added.len(),
                    targets_removed = report.targets_removed.len(),
                    "configuration reloaded"
                );
            }
            Err(error) => {
                self.shared.control.reloads_refused.add(1);
                // Lists of targets are files of their own, and may well be right.
                self.discoverer.refresh_all();
                tracing::error!("the configuration was not reloaded, the old one stays in use:\n{error}");
            }
        }
        result
    }

    async fn try_reload(&mut self) -> Result<ReloadReport, ReloadError> {
        let file = self.shared.config_file.clone();
        let secret = self.shared.life.ticket_secret.clone();
        let tls_before = Arc::clone(&self.shared.snapshot.load().tls);
        let load = move || load::load(&file, &secret, &tls_before);
        let Loaded { config, tls, files } =
            tokio::task::spawn_blocking(load).await.map_err(|_| ReloadError::Cancelled)??;
        check_node(&config, &self.shared.life.node)?;
        prober::check_config(&config)?;
        let before = self.shared.snapshot.load_full();
        let key = hash_key(&config, Some(before.hash_key));
        let logs = AccessLogs::of(&config, &before.access_logs)?;
        let carry =
            Carry::from(self.shared.life.clone(), key, &before, &self.shared.removed()).logging_to(logs);
        let exporters = Exporters::of(&config, &before.exporters);
        let carry = carry.encrypting_by(tls).reading(files).telling(exporters);
        let config = Arc::new(config);
        let next = Arc::new(Snapshot::build(Arc::clone(&config), &carry));
        let changed = |mode| Difference::between(before.addresses(mode), next.addresses(mode));
        let held = |mode| before.addresses(mode).collect::<Vec<_>>();
        let (streams, datagrams) = (changed(Mode::Tcp), changed(Mode::Udp));
        // What can fail comes first; from here on to the marked line nothing in use has changed.
        let workers = self.workers.count();
        let added = bind_all(&streams.added, &held(Mode::Tcp), workers)?;
        let added_udp = udp::bind_all(&datagrams.added, &held(Mode::Udp), workers)?;
        let kernel = self.prepare_kernel(config).await?;
        let api_change = self.api.prepare(&next.config.api).await?;
        // ---- nothing below fails ----
        next.exporters.start();
        let targets = self.put_in_force(&before, &next);
        for listeners in added {
            for (index, socket) in listeners.sockets.into_iter().enumerate() {
                self.workers.send(index, Command::Listen(listeners.address, socket)).await;
            }
        }
        self.listen_udp(added_udp).await;
        self.apply_kernel(kernel).await;
        self.apply_chance().await;
        self.apply_peer().await;
        self.shared.acme.apply(&self.shared);
        let sockets = (next.addresses(Mode::Tcp).count() + next.addresses(Mode::Udp).count()) * workers;
        let leaving = (streams.removed.len() + datagrams.removed.len()) * workers;
        // All are open before the first is closed: as many that come as go would not show in the number.
        self.until_listening(sockets + leaving).await;
        for &address in &streams.removed {
            self.workers.send_all(|| Command::Unlisten(address)).await;
        }
        for &address in &datagrams.removed {
            self.workers.send_all(|| Command::UnlistenUdp(address)).await;
        }
        // So that whoever asked, or the next reload, finds the removed addresses free.
        self.until_listening(sockets).await;
        self.api.apply(api_change);
        self.update_discovery();
        self.shared.groups_changed();
        summary::update(&self.shared);
        let hash = next.config.hash;
        self.shared.config_hash.send_if_modified(|known| std::mem::replace(known, hash) != hash);
        Ok(ReloadReport {
            config_hash: hash_text(next.config.hash),
            listeners_added: [streams.added, datagrams.added].concat(),
            listeners_removed: [streams.removed, datagrams.removed].concat(),
            targets_added: targets.added,
            targets_removed: targets.removed,
        })
    }

    /// Loads the forwarding program, if the configuration is the first that wants it. Takes a moment, and other threads than
    /// this one.
    async fn prepare_kernel(&self, config: Arc<Config>) -> Result<Option<Prepared>, ReloadError> {
        let shared = Arc::clone(&self.shared);
        let prepare = move || shared.kernel.prepare(&config, &shared.run_dir);
        Ok(tokio::task::spawn_blocking(prepare).await.map_err(|_| ReloadError::Cancelled)??)
    }

    /// Has the kernel forward what the configuration in force wants, or nothing any more.
    pub(crate) async fn apply_kernel(&self, prepared: Option<Prepared>) {
        let shared = Arc::clone(&self.shared);
        let applied = tokio::task::spawn_blocking(move || shared.kernel.apply(&shared, prepared)).await;
        if let Err(error) = applied {
            tracing::error!(%error, "kernel forwarding was not started");
        }
    }

    /// Has the second chance of proxied connections as the configuration in force says.
    pub(crate) async fn apply_chance(&self) {
        let shared = Arc::clone(&self.shared);
        let apply = move || shared.chance.apply(&shared);
        if let Err(error) = tokio::task::spawn_blocking(apply).await {
            tracing::error!(%error, "the second chance was not started");
        }
    }

    /// Has the link to the other node as the configuration in force says. A link that stays the same goes on.
    pub(crate) async fn apply_peer(&self) {
        let shared = Arc::clone(&self.shared);
        let requests = self.requests.clone();
        let apply = move || shared.peer.apply(&shared, &requests);
        if let Err(error) = tokio::task::spawn_blocking(apply).await {
            tracing::error!(%error, "the link to the other node was not started");
        }
    }

    /// Waits until the workers listen on so many sockets.
    async fn until_listening(&self, sockets: usize) {
        stop::until(LISTEN_MAX, || self.shared.listening() == sockets as u64).await;
    }

    /// Has the workers take datagrams from these sockets.
    pub(crate) async fn listen_udp(&self, sockets: Vec<udp::Sockets>) {
        for sockets in sockets {
            for (index, socket) in sockets.sockets.into_iter().enumerate() {
                self.workers.send(index, Command::ListenUdp(sockets.address, socket)).await;
            }
        }
    }

    /// Has the workers and the checks use another snapshot. Answers which targets have come and gone.
    pub(crate) fn put_in_force(&mut self, before: &Snapshot, next: &Arc<Snapshot>) -> Difference<TargetKey> {
        next.adopt(self.shared.clock.now());
        let targets = Difference::between(keys(before), keys(next));
        {
            // Whoever has both at once finds each target in one of them: else its flows would be without a target for a moment.
            let mut removed = self.shared.removed();
            self.shared.snapshot.store(Arc::clone(next));
            self.retire(&mut removed, before, next, &targets.removed);
        }
        // Targets that come and go are no reason to read files.
        let reloaded = !Arc::ptr_eq(&before.config, &next.config);
        self.prober.update(&self.shared, next, reloaded);
        targets
    }

    /// Gives the connections of removed targets their `drain_timeout`, and forgets those removed long ago.
    fn retire(&self, removed: &mut Vec<Arc<Target>>, before: &Snapshot, next: &Snapshot, keys: &[TargetKey]) {
        let keys: HashSet<&TargetKey> = keys.iter().collect();
        let live = next.groups.iter().flat_map(|group| &group.targets);
        let live: HashSet<&TargetKey> = live.map(|target| &target.key).collect();
        let now_ms = self.shared.clock.now_ms();
        // Those taken back are the snapshot's now.
        removed.retain(|target| !live.contains(&target.key) && !long_gone(target, now_ms));
        // Where the group is back, those that left with it are not.
        for target in removed.iter().filter(|target| next.config.target_group(&target.key.group).is_some()) {
            target.set_left_with_group(false);
        }
        let kernel = before.config.services.iter().filter(|service| service.mode.in_kernel());
        let kernel: HashSet<&str> = kernel.map(|service| service.forward.as_str()).collect();
        for group in &before.groups {
            // Also those that stay: a service that turns to another group leaves flows behind.
            if kernel.contains(group.config.name.as_str()) {
                group.targets.iter().for_each(|target| target.set_in_kernel());
            }
            let drain_ms = u64::try_from(group.config.drain_timeout.as_millis()).unwrap_or(u64::MAX);
            let with_group = next.config.target_group(&group.config.name).is_none();
            for target in group.targets.iter().filter(|target| keys.contains(&target.key)) {
                // One that was being drained does not get more time by being removed.
                let close_at_ms = now_ms.saturating_add(drain_ms).min(u64::MAX - 1);
                target.set_close_at_ms(close_at_ms.min(target.close_at_ms()));
                target.set_left_with_group(with_group);
                removed.push(Arc::clone(target));
            }
        }
        forget_too_many(removed);
    }
}

/// How long a reload waits for the workers to open and close their sockets. A worker that hangs is not waited for.
const LISTEN_MAX: Duration = Duration::from_millis(500);

/// A discovery may replace its targets every second. Those without connections are kept for their counters, in case that they come back, and
/// for flows through the kernel.
fn forget_too_many(removed: &mut Vec<Arc<Target>>) {
    if removed.len() <= REMOVED_MAX {
        return;
    }
    let known = |target: &Arc<Target>| Removed {
        is_open: target.open_now.open() > 0,
        is_in_kernel: target.in_kernel(),
        close_at_ms: target.close_at_ms(),
    };
    let known: Vec<Removed> = removed.iter().map(known).collect();
    let Remembered { kept, ended } = Remembered::of(&known, REMOVED_MAX);
    let mut kept = kept.into_iter();
    removed.retain(|_| kept.next().unwrap_or(true));
    if ended > 0 {
        tracing::warn!(
            targets = ended,
            "more than {REMOVED_MAX} targets were removed whose flows may go on in the kernel; those of the ones whose `drain_timeout` would be over first \
             end now: a shorter `drain_timeout` keeps them fewer"
        );
    }
}

/// The most removed targets that are remembered although they have no connections.
const REMOVED_MAX: usize = 4096;

/// Whether the target's connections have been closed for sure.
fn long_gone(target: &Target, now_ms: u64) -> bool {
    const SWEPT_MS: u64 = 10_000;
    target.close_at_ms().saturating_add(SWEPT_MS) < now_ms
}

fn keys(snapshot: &Snapshot) -> Vec<TargetKey> {
    snapshot.groups.iter().flat_map(|group| &group.targets).map(|target| target.key.clone()).collect()
}

/// A request to the control loop.
pub(crate) enum Request {
    /// Reload, and answer how it went.
    Reload(oneshot::Sender<Result<ReloadReport, ReloadError>>),
    /// Make a change that was asked for at this time, in microseconds since 1970, and answer how it went.
    Change(Asked, u64, Reply),
    /// Make what the other node's administrators want of targets this node's, and answer for each whether there is such a target.
    Heed(Vec<Heed>, oneshot::Sender<Vec<bool>>),
    /// Use these discovered targets.
    Discovered {
        /// The target group.
        group: String,
        /// All of them; those of before are no longer there.
        targets: Vec<config::Target>,
        /// Whether they are still wanted, and where to say that they are in use.
        ticket: Ticket,
    },
}

/// Reads the configuration for the start of the daemon. `secret` is what tickets are made with where there is no pair's key.
pub(crate) fn load_for_node(
    file: &Path,
    secret: &PairKey,
    node: impl FnOnce(&Config) -> String,
) -> Result<Loaded, ReloadError> {
    let loaded = load::load(file, secret, &TlsSet::default())?;
    check_node(&loaded.config, &node(&loaded.config))?;
    prober::check_config(&loaded.config)?;
    Ok(loaded)
}
