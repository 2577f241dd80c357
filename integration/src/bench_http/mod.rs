//! `lbd` as an HTTP proxy beside HAProxy and nginx, in one run: each on one processor, load and target on another.
//!
//! As with TCP: all three run in the same namespace at the same time, and while one is measured the others are stopped; they take
//! turns, and medians count. Processor time is that of the proxy's threads. The load is what the field uses where that serves: `wrk` on
//! kept connections, `h2load` for HTTP/2. A connection for each request has clients of our own, all of whose connections are
//! ended by the proxy; with TLS they look at no certificate, and so need less of a processor than what they measure.
//!
//! A rate says something only where the proxy limits it: where Tandem leaves a tenth of its processor unused, it is not judged.

mod figure;
mod load;
mod proxy;
mod target;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use figure::{Figure, Measure};

use crate::bench_tcp::load::{Stretch, need_two_processors, stay_on};
use crate::bench_tcp::network::Network;
use crate::bench_tcp::row::{Row, Samples};
use crate::bench_tcp::running::Running;
use crate::bench_tcp::{IDLE_REPETITIONS, IDLE_SETTLE, Proxy, in_turn, usage};
use crate::lab::error::Context;
use crate::lab::{Result, certificate};
use load::Kind;

/// The processors of the proxies, and of load and target.
const PROCESSORS: [usize; 2] = [0, 1];
/// Kept connections, and for how many seconds they ask.
const KEPT: (u32, u32) = (64, 2);
/// Connections for one request, and how many at a time.
const FRESH: (u64, u32) = (8_000, 64);
/// The same with TLS.
const HANDSHAKES: (u64, u32) = (4_000, 64);
/// Requests on a connection of HTTP/2, and how many at a time.
const STREAMS: (u64, u32) = (40_000, 100);
/// Idle WebSockets.
const WEBSOCKETS: usize = 1_000;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// Small answers on kept connections.
    Small,
    /// Answers of 64 KiB on kept connections.
    Large,
    /// A connection for each request.
    Fresh,
    /// A connection with a new TLS session for each request.
    Handshakes,
    /// A connection for each request, which goes on with a TLS session.
    Resumed,
    /// Streams of HTTP/2.
    Http2,
    /// WebSockets that are silent.
    Websockets,
}

impl Load {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Small,
        Self::Large,
        Self::Fresh,
        Self::Handshakes,
        Self::Resumed,
        Self::Http2,
        Self::Websockets,
    ];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Large => "large",
            Self::Fresh => "fresh",
            Self::Handshakes => "handshakes",
            Self::Resumed => "resumed",
            Self::Http2 => "http2",
            Self::Websockets => "websockets",
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Small => {
                write!(f, "answers of {} bytes on {} kept connections (wrk)", target::SMALL_BYTES, KEPT.0)
            }
            Self::Large => {
                write!(f, "answers of {} KiB on {} kept connections (wrk)", target::LARGE_BYTES >> 10, KEPT.0)
            }
            Self::Fresh => write!(f, "{} connections for a request each, {} at a time", FRESH.0, FRESH.1),
            Self::Handshakes => write!(
                f,
                "{} connections for a request each, {} at a time, TLS 1.3 with a key of ECDSA P-256",
                HANDSHAKES.0, HANDSHAKES.1
            ),
            Self::Resumed => f.write_str("the same, each with a ticket of one before"),
            Self::Http2 => write!(
                f,
                "{} requests on a connection of HTTP/2 with TLS 1.3, {} at a time (h2load)",
                STREAMS.0, STREAMS.1
            ),
            Self::Websockets => write!(f, "{WEBSOCKETS} WebSockets that are silent after a message each way"),
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

/// The first program of those that make the load that is not installed.
#[must_use]
pub fn missing() -> Option<&'static str> {
    let programs = [("wrk", "-v"), ("h2load", "--version"), ("openssl", "version")];
    let installed =
        |program: &str, argument: &str| std::process::Command::new(program).arg(argument).output().is_ok();
    programs.into_iter().find(|(program, argument)| !installed(program, argument)).map(|(program, _)| program)
}

/// Measures everything, and tells `progress` what it has. Needs root and two processors.
///
/// # Errors
/// [`crate::lab::LabError`] when a host or a proxy cannot be set up, or a request through a proxy failed.
pub fn run(settings: &Settings, mut progress: impl FnMut(&str)) -> Result<Vec<Row<Figure>>> {
    need_two_processors()?;
    let network = Network::build()?;
    stay_on(PROCESSORS[1]).doing(|| "choosing a processor for the load".to_owned())?;
    // Ports of connections that were ended are used again at once, whoever ended them.
    network.client.sysctl(&[("ipv4/tcp_tw_reuse", "1")])?;
    let certificate = certificate::create(network.dir())?;
    let target = target::start(&network)?;
    let bench = Bench { network, certificate };
    let mut samples = Samples::default();
    let steady: Vec<Load> = settings.loads.iter().copied().filter(|load| *load != Load::Websockets).collect();
    if !steady.is_empty() {
        let starts = Proxy::ALL.map(|proxy| bench.start(proxy));
        let running = starts.into_iter().collect::<Result<Vec<Running<Proxy>>>>()?;
        for repetition in 0..settings.repetitions {
            for load in &steady {
                bench.measure_all(*load, repetition, &running, &mut samples, &mut progress)?;
            }
        }
        for proxy in running {
            proxy.resume()?;
            proxy.stop()?;
        }
    }
    if settings.loads.contains(&Load::Websockets) {
        for repetition in 0..settings.repetitions.min(IDLE_REPETITIONS) {
            for proxy in in_turn(repetition) {
                let bytes = bench.memory(proxy)?;
                samples.add_memory(Figure::memory(), proxy, bytes);
                progress(&format!("websockets {} {}: {} KiB", repetition + 1, proxy.name(), bytes / 1024));
            }
        }
    }
    target.stop()?.doing(|| "being the target".to_owned())?;
    Ok(samples.rows())
}

/// Where a run takes place.
struct Bench {
    network: Network,
    certificate: PathBuf,
}

impl Bench {
    fn start(&self, proxy: Proxy) -> Result<Running<Proxy>> {
        proxy::start(proxy, &self.network, PROCESSORS[0], &self.certificate)
    }

    /// Measures one load with each proxy.
    fn measure_all(
        &self,
        load: Load,
        repetition: u32,
        running: &[Running<Proxy>],
        samples: &mut Samples<Figure>,
        progress: &mut impl FnMut(&str),
    ) -> Result<()> {
        for proxy in running {
            proxy.pause()?;
        }
        for proxy in in_turn(repetition) {
            let Some(subject) = running.iter().find(|running| running.proxy == proxy) else { continue };
            subject.resume()?;
            let stretch = self.stretch(load, subject)?;
            subject.pause()?;
            samples.add(Figure::processor(load), proxy, stretch.processor_ns() / 1e3);
            samples.add_rate(Figure::rate(load), proxy, &stretch);
            progress(&format!(
                "{} {} {}: {:.0}/s, {:.2} µs of processor time each, {:.0} % of a processor",
                load.name(),
                repetition + 1,
                proxy.name(),
                stretch.per_second(),
                stretch.processor_ns() / 1e3,
                stretch.busy() * 100.0
            ));
        }
        Ok(())
    }

    fn stretch(&self, load: Load, subject: &Running<Proxy>) -> Result<Stretch> {
        let pids = subject.pids();
        let meter = || usage::processor_time(&pids);
        let (client, address) = (&self.network.client, proxy::address(subject.proxy, load));
        let visits = |(count, at_once), kind| {
            let visits = || load::visits(address, count, at_once, kind, &meter);
            client
                .inside(visits)?
                .doing(|| format!("running the load {:?} through {}", load.name(), subject.proxy.name()))
        };
        match load {
            Load::Small => load::wrk(client, address, target::SMALL_PATH, KEPT, &meter),
            Load::Large => load::wrk(client, address, target::LARGE_PATH, KEPT, &meter),
            Load::Fresh => visits(FRESH, Kind::Clear),
            Load::Handshakes => visits(HANDSHAKES, Kind::NewSession),
            Load::Resumed => visits(HANDSHAKES, Kind::ResumedSession),
            Load::Http2 | Load::Websockets => load::h2load(client, address, STREAMS, &meter),
        }
    }

    /// What idle WebSockets add to the memory of a fresh proxy.
    fn memory(&self, proxy: Proxy) -> Result<u64> {
        let subject = self.start(proxy)?;
        let address = proxy::address(proxy, Load::Websockets);
        let memory = || {
            std::thread::sleep(IDLE_SETTLE);
            usage::memory_bytes(&subject.pids())
        };
        let before = memory().doing(|| format!("reading the memory of {}", proxy.name()))?;
        let open = self.network.client.inside(|| load::websockets(address, WEBSOCKETS, memory))?;
        let open = open.doing(|| format!("opening WebSockets through {}", proxy.name()))?;
        subject.stop()?;
        Ok(open.saturating_sub(before))
    }
}

/// How long a run takes, more or less.
#[must_use]
pub fn estimate(settings: &Settings) -> Duration {
    let one = |load: &Load| {
        let (seconds, repetitions) = match load {
            Load::Small | Load::Large => (7.0, settings.repetitions),
            Load::Fresh | Load::Handshakes | Load::Resumed => (4.0, settings.repetitions),
            Load::Http2 => (5.0, settings.repetitions),
            Load::Websockets => (7.0, settings.repetitions.min(IDLE_REPETITIONS)),
        };
        seconds * f64::from(repetitions)
    };
    Duration::from_secs_f64(settings.loads.iter().map(one).sum())
}
