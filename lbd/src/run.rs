//! `lbd run`: start, serve, stop.

use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use common::ipc::LbdHealth;
use lbd_core::health::HealthState;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::api::ApiServer;
use crate::cli::Options;
use crate::clock::{Clock, unix_now};
use crate::l4::{Listeners, bind_all};
use crate::prober::Prober;
use crate::reload::{Parts, Request, load_for_node};
use crate::shared::{ControlCounters, Shared, VrrpdView, WorkerShared};
use crate::snapshot::{Carry, Snapshot};
use crate::worker::{Command, Workers};
use crate::{logging, process, stop, summary, vrrpd_link};

/// Reloads that may wait for the one under way.
const REQUESTS_MAX: usize = 8;

/// How long the link to `vrrpd` waits for the first check of every target, so that it does not begin with a guess.
const FIRST_CHECKS_MAX: Duration = Duration::from_secs(1);

/// Runs the daemon until it is told to stop.
pub(crate) fn run(options: &Options, workers: Option<NonZeroUsize>) -> anyhow::Result<()> {
    logging::start();
    let node = options.node_name();
    let config = load_for_node(&options.config, &node)?;
    let run_dir = process::RunDir::take(&options.run_dir)?;
    let open_files = process::raise_open_files().context("cannot raise the limit of open files")?;
    process::make_room_for_open_files(open_files).context("cannot make room for open files")?;
    let workers = workers.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    let now = unix_now();
    let snapshot = Arc::new(Snapshot::build(Arc::new(config), &Carry::default(), workers, now));
    let addresses: Vec<_> = snapshot.addresses().collect();
    let listeners = bind_all(&addresses, &[], workers)?;
    tracing::info!(
        node,
        version = env!("CARGO_PKG_VERSION"),
        workers,
        open_files,
        listeners = listeners.len(),
        "starting"
    );
    let shared = Arc::new(Shared {
        clock: Clock::new(),
        node,
        config_file: options.config.clone(),
        run_dir: options.run_dir.clone(),
        started: now,
        snapshot: Arc::new(ArcSwap::new(snapshot)),
        removed: Mutex::default(),
        workers: (0..workers).map(|_| WorkerShared::default()).collect(),
        health: watch::Sender::new(LbdHealth::default()),
        health_changed: Notify::new(),
        vrrpd: watch::Sender::new(VrrpdView::default()),
        stopping: AtomicBool::new(false),
        control: ControlCounters::default(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control runtime")?;
    runtime.block_on(control(shared, listeners))?;
    // Removed by the process that made it, before another one can take the run directory.
    drop(std::fs::remove_file(process::socket_path(&options.run_dir)));
    drop(run_dir);
    Ok(())
}

/// The control loop.
async fn control(shared: Arc<Shared>, listeners: Vec<Listeners>) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for signals")?;
    let (requests, mut received) = mpsc::channel(REQUESTS_MAX);
    let api = ApiServer::start(&shared, requests).await?;
    let workers = Workers::start(&shared).context("cannot start the worker threads")?;
    let mut parts = Parts { shared: Arc::clone(&shared), workers, prober: Prober::default(), api };
    parts.prober.update(&shared, &shared.snapshot.load());
    for listeners in listeners {
        for (index, socket) in listeners.sockets.into_iter().enumerate() {
            parts.workers.send(index, Command::Listen(listeners.address, socket)).await;
        }
    }
    summary::update(&shared);
    tokio::spawn(summary::run(Arc::clone(&shared)));
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
            Some(Request::Reload(reply)) = received.recv() => {
                let result = parts.reload().await;
                // Whoever asked may have left.
                drop(reply.send(result));
            }
            () = signals.stop() => break,
        }
    }
    drop(received);
    process::notify(&[NotifyState::Stopping]);
    tracing::info!("stopping; a second signal stops at once");
    tokio::select! {
        left = stop::gracefully(&shared, &parts.workers) => tracing::info!(connections_closed = left, "stopped"),
        () = signals.stop() => tracing::warn!(open = shared.open_connections(), "stopping at once"),
    }
    parts.workers.exit().await;
    Ok(())
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
        snapshot.groups.iter().any(|group| group.states().any(|(_, state)| state == HealthState::Undecided))
    };
    while undecided() && Instant::now() < end {
        sleep(Duration::from_millis(2)).await;
    }
}
