//! `lbd run`: start, serve, stop.

use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use common::config::Mode;
use common::ipc::LbdHealth;
use lbd_core::bell::Bell;
use lbd_core::health::HealthState;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::access_log::AccessLogs;
use crate::acme::{self, Acme};
use crate::api::ApiServer;
use crate::cli::Options;
use crate::clock::{Clock, unix_now};
use crate::discover::Discoverer;
use crate::l4::kernel::{Chance, Kernel, Prepared};
use crate::l4::{Departures, Listeners, bind_all, udp};
use crate::load::Loaded;
use crate::otlp::Exporters;
use crate::peer::PeerLink;
use crate::prober::Prober;
use crate::reload::{Parts, Request, load_for_node};
use crate::shared::{ControlCounters, Shared, VrrpdView, WorkerShared};
use crate::snapshot::{Carry, Life, Snapshot, hash_key};
use crate::worker::{Command, Workers};
use crate::{groups, logging, process, random, stop, summary, vrrpd_link};

/// Reloads and changes that may wait for the one under way.
const REQUESTS_MAX: usize = 64;

/// How long the link to `vrrpd` waits for the first check of every target, so that it does not begin with a guess.
const FIRST_CHECKS_MAX: Duration = Duration::from_secs(1);

/// What the other node is told last is sent within this.
const LAST_WORD: Duration = Duration::from_millis(50);

/// Runs the daemon until it is told to stop.
pub(crate) fn run(options: &Options, workers: Option<NonZeroUsize>) -> anyhow::Result<()> {
    let _flush = logging::start().context("cannot start the thread that writes the log")?;
    let ticket_secret = random::secret().context("cannot make a secret for the tickets of TLS sessions")?;
    let loaded = load_for_node(&options.config, &ticket_secret, |config| options.node_name(config))?;
    let Loaded { config, tls, files } = loaded;
    let node = options.node_name(&config);
    let run_dir = process::RunDir::take(&options.run_dir)?;
    let open_files = process::raise_open_files().context("cannot raise the limit of open files")?;
    process::make_room_for_open_files(open_files).context("cannot make room for open files")?;
    let workers = workers.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    let now = unix_now();
    let clock = Clock::new();
    let news = Arc::new(Notify::new());
    let ring = Arc::clone(&news);
    let bell = Arc::new(Bell::new(move || ring.notify_one()));
    let life = Life {
        node,
        process: random::number(),
        workers,
        alarm: Arc::default(),
        bell,
        sessions: Arc::default(),
        ticket_secret,
    };
    let kernel = Kernel::default();
    let prepared = kernel.prepare(&config, &options.run_dir)?;
    // The flows of a former life go on to the same targets.
    let key = hash_key(&config, prepared.as_ref().and_then(Prepared::hash_key));
    let config_hash = config.hash;
    let logs = AccessLogs::of(&config, &AccessLogs::default())?;
    let exporters = Exporters::of(&config, &Exporters::default());
    let carry = Carry::nothing(life.clone(), key).logging_to(logs).telling(exporters);
    let carry = carry.encrypting_by(tls).reading(files);
    let snapshot = Arc::new(Snapshot::build(Arc::new(config), &carry));
    snapshot.adopt(clock.now());
    let addresses = |mode| snapshot.addresses(mode).collect::<Vec<_>>();
    let listeners = bind_all(&addresses(Mode::Tcp), &[], workers)?;
    let datagrams = udp::bind_all(&addresses(Mode::Udp), &[], workers)?;
    tracing::info!(
        node = life.node,
        version = process::release(),
        workers,
        open_files,
        listeners = listeners.len() + datagrams.len(),
        "starting"
    );
    let shared = Arc::new(Shared {
        clock,
        life,
        config_file: options.config.clone(),
        run_dir: options.run_dir.clone(),
        started: now,
        snapshot: Arc::new(ArcSwap::new(snapshot)),
        removed: Mutex::default(),
        workers: (0..workers).map(|_| WorkerShared::default()).collect(),
        health: watch::Sender::new(LbdHealth::default()),
        health_changed: Notify::new(),
        config_hash: watch::Sender::new(config_hash),
        vrrpd: watch::Sender::new(VrrpdView::default()),
        stopping: AtomicBool::new(false),
        control: ControlCounters::default(),
        discovery: Arc::default(),
        kernel,
        peer: PeerLink::new(news),
        chance: Chance::default(),
        acme: Acme::default(),
        departures: Departures::default(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control runtime")?;
    runtime.block_on(control(shared, listeners, datagrams, prepared))?;
    // Removed by the process that made it, before another one can take the run directory.
    drop(std::fs::remove_file(process::socket_path(&options.run_dir)));
    drop(run_dir);
    Ok(())
}

/// The control loop.
async fn control(
    shared: Arc<Shared>,
    listeners: Vec<Listeners>,
    datagrams: Vec<udp::Sockets>,
    prepared: Option<Prepared>,
) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for signals")?;
    let (requests, mut received) = mpsc::channel(REQUESTS_MAX);
    let discoverer = Discoverer::new(Arc::clone(&shared.discovery), requests.clone());
    let api = ApiServer::start(&shared, requests.clone()).await?;
    shared.snapshot.load().exporters.start();
    let workers = Workers::start(&shared).context("cannot start the worker threads")?;
    let mut parts =
        Parts { shared: Arc::clone(&shared), workers, prober: Prober::default(), api, discoverer, requests };
    parts.prober.update(&shared, &shared.snapshot.load(), true);
    parts.update_discovery();
    first_targets(&mut parts, &mut received).await;
    parts.apply_kernel(prepared).await;
    for listeners in listeners {
        for (index, socket) in listeners.sockets.into_iter().enumerate() {
            parts.workers.send(index, Command::Listen(listeners.address, socket)).await;
        }
    }
    parts.listen_udp(datagrams).await;
    parts.apply_chance().await;
    parts.apply_peer().await;
    shared.acme.apply(&shared);
    summary::update(&shared);
    tokio::spawn(summary::run(Arc::clone(&shared)));
    tokio::spawn(acme::watch(Arc::clone(&shared)));
    tokio::spawn(groups::run(Arc::clone(&shared)));
    let link = Arc::clone(&shared);
    tokio::spawn(async move {
        first_checks(&link).await;
        vrrpd_link::run(link).await;
    });
    process::notify(&[NotifyState::Ready]);
    tracing::info!("ready");
    loop {
        tokio::select! {
            _ = hangup.recv() => reload(&mut parts).await,
            Some(request) = received.recv() => perform(&mut parts, request).await,
            () = signals.stop() => break,
        }
    }
    drop(received);
    process::notify(&[NotifyState::Stopping]);
    tracing::info!("stopping; a second signal stops at once");
    tokio::select! {
        left = stop::gracefully(&shared, &parts.workers) => tracing::info!(connections_closed = left, "stopped"),
        () = signals.stop() => {
            tracing::warn!(open = shared.open_connections(), "stopping at once");
            stop::close(&shared, &parts.workers).await;
        }
    }
    parts.workers.exit().await;
    shared.acme.stop();
    let link = Arc::clone(&shared);
    // They wait for their threads' ends, which are near.
    let end = move || {
        link.chance.stop(&link.run_dir);
        // Its last word, that nothing is left here, is on its way to the other node.
        std::thread::sleep(LAST_WORD);
        link.peer.stop();
    };
    drop(tokio::task::spawn_blocking(end).await);
    let last = shared.snapshot.load_full();
    last.exporters.finish().await;
    last.access_logs.finish();
    Ok(())
}

/// Waits for the first targets that are discovered, but not for long; the listeners are open, clients wait in their queues.
async fn first_targets(parts: &mut Parts, received: &mut mpsc::Receiver<Request>) {
    let directory = Arc::clone(&parts.shared.discovery);
    let mut answered = std::pin::pin!(directory.first_answers());
    loop {
        tokio::select! {
            Some(request) = received.recv() => perform(parts, request).await,
            () = &mut answered => return,
        }
    }
}

/// Does what the API or the discovery asks for. Whoever asked may have left.
async fn perform(parts: &mut Parts, request: Request) {
    match request {
        Request::Reload(reply) => drop(reply.send(parts.reload().await)),
        Request::Change(asked, at, reply) => drop(reply.send(parts.change(asked, at))),
        Request::Heed(heeds, reply) => drop(reply.send(parts.heed(&heeds))),
        Request::Discovered { group, targets, ticket } => {
            if ticket.is_wanted() {
                parts.discovered(&group, targets.clone());
                ticket.used(targets);
            }
            ticket.done();
        }
    }
}

/// A reload on SIGHUP, which systemd may be waiting for.
async fn reload(parts: &mut Parts) {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        process::notify(&[NotifyState::Reloading, now]);
    }
    // The result is in the log.
    drop(parts.reload().await);
    process::notify(&[NotifyState::Ready]);
}

/// The signals that stop the daemon.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for a signal to stop.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Waits until every target has been checked once.
async fn first_checks(shared: &Shared) {
    let end = Instant::now() + FIRST_CHECKS_MAX;
    let undecided = || {
        let snapshot = shared.snapshot.load();
        let undecided = |(_, state): &(bool, HealthState)| *state == HealthState::Undecided;
        snapshot.groups.iter().any(|group| group.states().iter().any(undecided))
    };
    while undecided() && Instant::now() < end {
        sleep(Duration::from_millis(2)).await;
    }
}
