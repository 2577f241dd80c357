//! The handle of kernel forwarding: started and stopped by the control loop, woken by whoever changes something.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use common::config::Config;
use common::hash::HashKey;
use lbd_core::target::TargetKey;
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::watch;

use super::KernelError;
use super::checks::CheckOf;
use super::copies::Copies;
use super::expiry;
use super::features::Features;
use super::flows::Reader;
use super::instances::{Instances, Offer};
use super::load;
use super::maps::{Maps, Table};
use super::object::Sizes;
use super::rings::Rings;
use super::sync::{Outlets, Parts, Sync};
use super::ticks::Ticks;
use super::view::KernelView;
use super::ways::Ways;
use crate::shared::Shared;

/// Kernel forwarding, whether it runs or not.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    running: Mutex<Option<Running>>,
    outlets: Outlets,
    copies: watch::Sender<Option<Arc<Copies>>>,
    rings: Rings,
}

/// While it runs.
#[derive(Debug)]
struct Running {
    signal: Arc<Signal>,
    reader: Arc<Reader>,
    threads: Vec<JoinHandle<()>>,
    sizes: Sizes,
}

/// What the threads are told.
#[derive(Debug)]
pub(super) struct Signal {
    event: EventFd,
    stop: AtomicBool,
}

impl Signal {
    pub(super) fn new() -> Result<Self, KernelError> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| KernelError::Thread { source: errno.into() })?;
        Ok(Self { event, stop: AtomicBool::new(false) })
    }

    /// Has the thread look at everything anew.
    pub(super) fn wake(&self) {
        // It fails only when it has been woken 2⁶⁴ times in vain.
        self.event.write(1).ok();
    }

    /// Has the thread end.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
    }

    /// Takes the wake-ups so far.
    pub(super) fn taken(&self) {
        // Nothing to take is fine.
        self.event.read().ok();
    }

    /// Whether it is over.
    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

impl AsFd for Signal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// The program in the kernel, and everything that can fail done.
pub(crate) struct Prepared {
    parts: Parts,
    reader: Arc<Reader>,
    sizes: Sizes,
}

impl Prepared {
    /// The key by which the kernel chose targets in a former life, if there was one.
    pub(crate) fn hash_key(&self) -> Option<HashKey> {
        let words = self.parts.hash_key()?;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&words[0].to_le_bytes());
        bytes[8..].copy_from_slice(&words[1].to_le_bytes());
        Some(HashKey::new(bytes))
    }
}

/// Whether the configuration has the kernel forward anything.
pub(crate) fn wanted(config: &Config) -> bool {
    config.services.iter().any(|service| service.mode.in_kernel())
}

/// Why what `config` wants of the kernel cannot be had on this host; none if it can, or nothing is wanted.
pub(crate) fn lack(config: &Config) -> Option<KernelError> {
    if !wanted(config) {
        return None;
    }
    Features::of_host().lack().err()
}

impl Kernel {
    /// Gets everything that `config` needs; none if it needs nothing that is not there.
    pub(crate) fn prepare(&self, config: &Config, run_dir: &Path) -> Result<Option<Prepared>, KernelError> {
        if !wanted(config) {
            return Ok(None);
        }
        if let Some(running) = &*self.lock() {
            let (present, wanted) = (running.sizes, Sizes::of(config));
            if present.flows != wanted.flows {
                tracing::warn!(
                    max_flows = present.flows,
                    "another [kernel] max_flows takes a restart of lbd, which keeps the flows"
                );
            }
            if present.affinity != wanted.affinity {
                tracing::warn!(
                    max_entries = present.affinity,
                    "another number of clients to remember (sticky.max_entries of the kernel's groups together) takes a restart of lbd, which keeps those remembered"
                );
            }
            return Ok(None);
        }
        prepare(run_dir, Sizes::of(config)).map(Some)
    }

    /// Begins to forward; or, where the configuration in force wants none, stops and removes everything.
    pub(crate) fn apply(&self, shared: &Arc<Shared>, prepared: Option<Prepared>) {
        let config = Arc::clone(&shared.snapshot.load().config);
        if let Some(prepared) = prepared {
            match self.start(shared, prepared) {
                Ok(()) => {
                    if let Some(clash) = super::port_clash(&config, &shared.life.node) {
                        tracing::warn!("{clash}");
                    }
                }
                Err(error) => tracing::error!(%error, "kernel forwarding does not run"),
            }
        } else if !wanted(&config) {
            self.stop();
            match load::remove_all(&shared.run_dir) {
                Ok(removed) if removed.is_empty() => {}
                Ok(_) => {
                    tracing::info!("no service is forwarded by the kernel: its program and maps are removed");
                }
                Err(error) => tracing::warn!(%error, "cannot remove what the kernel was given"),
            }
        }
        self.wake();
    }

    /// Has it look at everything anew. Cheap, and may be called from anywhere.
    pub(crate) fn wake(&self) {
        if let Some(running) = &*self.lock() {
            running.signal.wake();
        }
    }

    /// What `vrrpd` is to have of it, now and from now on.
    pub(crate) fn offers(&self) -> watch::Receiver<Option<Offer>> {
        self.outlets.offers.subscribe()
    }

    /// Where the flows are while it runs, for replication.
    pub(crate) fn copies(&self) -> watch::Receiver<Option<Arc<Copies>>> {
        self.copies.subscribe()
    }

    /// What flows' targets are chosen from, here and on the other node.
    pub(crate) const fn rings(&self) -> &Rings {
        &self.rings
    }

    /// Hears how a target is checked.
    pub(crate) fn check_of(&self, target: &TargetKey) -> CheckOf {
        self.outlets.checks.of(target)
    }

    /// What it does; none while it does not run.
    pub(crate) fn show(&self) -> Option<KernelView> {
        let view = self.outlets.view.load_full()?;
        let flows = self.reader()?.census().all;
        Some(KernelView { flows, ..(*view).clone() })
    }

    /// The flows and counters; none while it does not run.
    pub(crate) fn reader(&self) -> Option<Arc<Reader>> {
        self.lock().as_ref().map(|running| Arc::clone(&running.reader))
    }

    fn start(&self, shared: &Arc<Shared>, prepared: Prepared) -> Result<(), KernelError> {
        let signal = Arc::new(Signal::new()?);
        let Prepared { parts, reader, sizes } = prepared;
        let copies = Copies::new(&parts.loaded.folder, Arc::clone(&reader));
        let sync = Sync::new(parts, Arc::clone(shared), Arc::clone(&signal), self.outlets.clone());
        let mut threads = Vec::new();
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            let built = std::thread::Builder::new().name(name.to_owned()).spawn(body);
            built.map_err(|source| KernelError::Thread { source })
        };
        threads.push(spawn("lbd-kernel", Box::new(move || sync.run()))?);
        let (own, stop) = (Arc::clone(&reader), Arc::clone(&signal));
        threads.push(spawn("lbd-expiry", Box::new(move || expiry::run(&own, &stop)))?);
        *self.lock() = Some(Running { signal, reader, threads, sizes });
        self.copies.send_replace(Some(Arc::new(copies)));
        Ok(())
    }

    fn stop(&self) {
        let Some(running) = self.lock().take() else { return };
        self.copies.send_replace(None);
        running.signal.stop();
        for thread in running.threads {
            if thread.join().is_err() {
                tracing::error!("a thread of kernel forwarding panicked");
            }
        }
        self.outlets.view.store(None);
        self.outlets.checks.set(BTreeMap::new());
        self.outlets.offers.send_replace(None);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        // It is only ever replaced as a whole.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn prepare(run_dir: &Path, sizes: Sizes) -> Result<Prepared, KernelError> {
    let features = Features::of_host();
    features.lack()?;
    let mut loaded = load::load(run_dir, sizes)?;
    let ticks = Ticks::new().map_err(|source| KernelError::Clock { source })?;
    let instances = Arc::new(Instances::new(Table::of(&mut loaded.maps, "instances")?, ticks)?);
    let reader = Arc::new(Reader::open(&loaded.folder, Arc::clone(&instances))?);
    let maps = Maps::of(&mut loaded.maps, &loaded.folder)?;
    let ways = Ways::open()?;
    let parts = Parts::read(loaded, maps, ways, features, instances, Arc::clone(&reader))?;
    Ok(Prepared { parts, reader, sizes })
}
