//! `lbd` as a TCP proxy beside HAProxy and nginx, in one run: each on one processor, clients and target on another.
//!
//! All three run in the same namespace at the same time; while one is measured the others are stopped. Each figure is taken
//! from each proxy in turn, again and again, and the median counts, so that what the machine does meanwhile hits them alike.
//! Processor time is that of the proxy's threads. With veth the kernel handles a packet on the sender's processor up to
//! the receiver's socket, so a proxy's time contains the way of what it sends, and not that of what it gets: for each the same.

mod figure;
pub(crate) mod load;
pub(crate) mod network;
pub(crate) mod proxy;
pub(crate) mod row;
pub(crate) mod running;
pub(crate) mod usage;

use std::net::TcpListener;
use std::thread;
use std::time::Duration;
use std::{fmt, io};

use serde::{Deserialize, Serialize};

pub use figure::Figure;
pub use proxy::{Proxy, versions};
pub use row::{Compared, RESULTS, Row, render, render_misses};

use crate::lab::Result;
use crate::lab::error::Context;
use load::{Site, Stretch};
use network::Network;
use row::Samples;
use running::Running;

/// Short connections in a measurement, and how many at a time.
const SHORT: (u64, u32) = (12_000, 64);
/// Connections with requests one after the other, and how long.
const REQUESTS: (u32, Duration) = (64, Duration::from_millis(1500));
/// Connections, messages a second, and for how long in one slice.
const PACED: (u32, u32, Duration) = (64, 10_000, Duration::from_millis(50));
/// Slices of each in a measurement. The virtual machine itself pauses for milliseconds up to ten times in a second, which is the
/// 99th percentile of any long stretch, of every other one of 150 ms, too; most of a third of that have none, so the median of many slices is
/// about the proxy.
const PACED_SLICES: u32 = 24;
/// Transfers at once, and the bytes of each.
const BULK: (u32, u64) = (4, 1 << 30);
/// Idle connections.
const IDLE: usize = 5_000;
/// How long before idle connections are looked at: what was needed to open them has been given back by then.
pub(crate) const IDLE_SETTLE: Duration = Duration::from_millis(500);
/// Memory does not vary, and measuring it takes a fresh start.
pub(crate) const IDLE_REPETITIONS: u32 = 3;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// Connections with one message each way.
    Short,
    /// Large transfers.
    Bulk,
    /// Requests one after the other on established connections.
    Requests,
    /// Requests at a steady rate.
    Paced,
    /// Connections that are silent.
    Idle,
}

impl Load {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Short, Self::Bulk, Self::Requests, Self::Paced, Self::Idle];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Bulk => "bulk",
            Self::Requests => "requests",
            Self::Paced => "paced",
            Self::Idle => "idle",
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => {
                write!(f, "{} connections with a small message each way, {} at a time", SHORT.0, SHORT.1)
            }
            Self::Bulk => write!(f, "{} transfers of {} MiB from the target at a time", BULK.0, BULK.1 >> 20),
            Self::Requests => {
                write!(f, "small messages and answers on {} connections without pause", REQUESTS.0)
            }
            Self::Paced => write!(f, "{} small messages a second on {} connections", PACED.1, PACED.0),
            Self::Idle => write!(f, "{IDLE} connections that are silent after one message each way"),
        }
    }
}

/// What a run does.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How often everything is measured.
    pub repetitions: u32,
    /// Which loads.
    pub loads: Vec<Load>,
}

/// Measures everything, and tells `progress` what it has. Needs root and two processors.
///
/// # Errors
/// [`crate::lab::LabError`] when a host or a proxy cannot be set up, or a connection through a proxy failed.
pub fn run(settings: &Settings, mut progress: impl FnMut(&str)) -> Result<Vec<Row<Figure>>> {
    load::need_two_processors()?;
    let bench = Bench { network: Network::build()?, proxy_processor: 0, load_processor: 1 };
    load::stay_on(bench.load_processor).doing(|| "choosing a processor for the load".to_owned())?;
    let listener = bench.network.listen()?;
    let mut samples = Samples::default();
    let steady: Vec<Load> = settings.loads.iter().copied().filter(|load| *load != Load::Idle).collect();
    if !steady.is_empty() {
        let starts = Proxy::ALL.map(|proxy| proxy.start(&bench.network, bench.proxy_processor));
        let running = starts.into_iter().collect::<Result<Vec<Running<Proxy>>>>()?;
        for repetition in 0..settings.repetitions {
            for load in &steady {
                bench.measure_all(*load, repetition, &running, &listener, &mut samples, &mut progress)?;
            }
        }
        for proxy in running {
            proxy.resume()?;
            proxy.stop()?;
        }
    }
    if settings.loads.contains(&Load::Idle) {
        for repetition in 0..settings.repetitions.min(IDLE_REPETITIONS) {
            for proxy in in_turn(repetition) {
                let bytes = bench.memory(proxy, &listener)?;
                samples.add_memory(Figure::IdleMemory, proxy, bytes);
                progress(&format!("idle {} {}: {} KiB", repetition + 1, proxy.name(), bytes / 1024));
            }
        }
    }
    Ok(samples.rows())
}

/// Where a run takes place.
struct Bench {
    network: Network,
    proxy_processor: usize,
    load_processor: usize,
}

/// The proxies, another one first each time.
pub(crate) fn in_turn(repetition: u32) -> impl Iterator<Item = Proxy> {
    let first = usize::try_from(repetition).unwrap_or(0) % Proxy::ALL.len();
    Proxy::ALL.into_iter().cycle().skip(first).take(Proxy::ALL.len())
}

impl Bench {
    /// Measures one load with each proxy.
    fn measure_all(
        &self,
        load: Load,
        repetition: u32,
        running: &[Running<Proxy>],
        listener: &TcpListener,
        samples: &mut Samples<Figure>,
        progress: &mut impl FnMut(&str),
    ) -> Result<()> {
        for proxy in running {
            proxy.pause()?;
        }
        if load == Load::Paced {
            let first = repetition * PACED_SLICES;
            for slice in first..first + PACED_SLICES {
                self.measure_latency(slice, running, listener, samples, progress)?;
            }
            return Ok(());
        }
        for proxy in in_turn(repetition) {
            let Some(subject) = running.iter().find(|running| running.proxy == proxy) else { continue };
            subject.resume()?;
            let address = if load == Load::Bulk { proxy.bulk_address() } else { proxy.address() };
            let site = Site { listener, address };
            let what = format!("{} {} {}", load.name(), repetition + 1, proxy.name());
            let stretch = self.stretch(load, site, subject)?;
            figure::add_stretch(samples, load, proxy, &stretch);
            progress(&format!(
                "{what}: {:.0}/s, {:.3} ns of processor time each",
                stretch.per_second(),
                stretch.processor_ns()
            ));
            subject.pause()?;
        }
        Ok(())
    }

    /// Measures in one slice each what messages take without a proxy, and how much longer they take with each.
    fn measure_latency(
        &self,
        slice: u32,
        running: &[Running<Proxy>],
        listener: &TcpListener,
        samples: &mut Samples<Figure>,
        progress: &mut impl FnMut(&str),
    ) -> Result<()> {
        let direct = self.paced(Site { listener, address: Network::direct_address() }, "nothing")?;
        let mut line = format!("paced {}: p99 {direct:?} without a proxy", slice + 1);
        for proxy in in_turn(slice) {
            let Some(subject) = running.iter().find(|running| running.proxy == proxy) else { continue };
            subject.resume()?;
            let took = self.paced(Site { listener, address: proxy.address() }, proxy.name())?;
            subject.pause()?;
            let added = took.saturating_sub(direct);
            figure::add_latency(samples, proxy, added);
            line += &format!(", {added:?} more with {}", proxy.name());
        }
        progress(&line);
        Ok(())
    }

    fn stretch(&self, load: Load, site: Site<'_>, subject: &Running<Proxy>) -> Result<Stretch> {
        let pids = subject.pids();
        let meter = || usage::processor_time(&pids);
        self.load(load.name(), subject.proxy.name(), || match load {
            Load::Short => load::short(site, SHORT.0, SHORT.1, &meter),
            Load::Bulk => load::bulk(site, BULK.0, BULK.1, &meter),
            Load::Requests | Load::Paced | Load::Idle => load::requests(site, REQUESTS.0, REQUESTS.1, &meter),
        })
    }

    /// The 99th percentile of what messages at a steady rate take.
    fn paced(&self, site: Site<'_>, proxy: &str) -> Result<Duration> {
        let mut took = self.load("paced", proxy, || load::paced(site, PACED.0, PACED.1, PACED.2))?;
        took.sort_unstable();
        Ok(took.get(took.len() * 99 / 100).copied().unwrap_or_default())
    }

    /// What idle connections add to the memory of a fresh proxy.
    fn memory(&self, proxy: Proxy, listener: &TcpListener) -> Result<u64> {
        let subject = proxy.start(&self.network, self.proxy_processor)?;
        let site = Site { listener, address: proxy.address() };
        let memory = || {
            thread::sleep(IDLE_SETTLE);
            usage::memory_bytes(&subject.pids())
        };
        let before = memory().doing(|| format!("reading the memory of {}", proxy.name()))?;
        let open = self.load("idle", proxy.name(), || load::idle(site, IDLE, memory))?;
        subject.stop()?;
        Ok(open.saturating_sub(before))
    }

    /// Runs a load in the client's namespace.
    fn load<T: Send>(
        &self,
        name: &str,
        proxy: &str,
        load: impl FnOnce() -> io::Result<T> + Send,
    ) -> Result<T> {
        self.network.client.inside(load)?.doing(|| format!("running the load {name:?} through {proxy}"))
    }
}

/// How long a run takes, more or less.
#[must_use]
pub fn estimate(settings: &Settings) -> Duration {
    let one = |load: &Load| {
        let (seconds, repetitions) = match load {
            Load::Short => (5.0, settings.repetitions),
            Load::Bulk => (8.0, settings.repetitions),
            Load::Requests => (5.0, settings.repetitions),
            Load::Paced => (6.0, settings.repetitions),
            Load::Idle => (7.0, settings.repetitions.min(IDLE_REPETITIONS)),
        };
        seconds * f64::from(repetitions)
    };
    Duration::from_secs_f64(settings.loads.iter().map(one).sum())
}
