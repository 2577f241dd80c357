//! What 100 targets that change their health all the time cost the connections: with them and without, in turn and in one run.
//!
//! `lbd` is on one processor, clients, targets and what answers the checks on another, all in one namespace. In both states every
//! target is checked as often, and half of them are healthy; in one these are always the same.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::bench_tcp::load::stay_on;
use crate::bench_tcp::network::Network;
use crate::bench_tcp::running::Running;
use crate::bench_tcp::usage::processor_time;
use crate::lab::clock::wait_until;
use crate::lab::error::Context;
use crate::lab::{Result, binary};
use crate::report::table::{Align, Table};

const TARGETS: u8 = 100;
/// Connections of a stretch, one after the other.
const CONNECTIONS: u32 = 10_000;
/// How long a flapping target keeps its health.
const PERIOD: Duration = Duration::from_millis(100);
/// How long the clients of one connection wait, and the server of the checks for a request.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take until the targets flap, or rest.
const SETTLE_MAX: Duration = Duration::from_secs(20);

const SERVICE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8001);
const TARGET_PORT: u16 = 9000;
const CHECK_PORT: u16 = 9001;

/// The processors of `lbd`, and of everything else.
const PROCESSORS: [usize; 2] = [0, 1];

/// Both states, as measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Comparison {
    /// Every stretch while the targets keep their health.
    pub steady: Vec<Stretch>,
    /// And while they do not.
    pub flapping: Vec<Stretch>,
}

/// One stretch of connections.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Stretch {
    /// Processor time of the workers for a connection, in microseconds.
    pub workers_us: f64,
    /// The same of the whole daemon, which also checks.
    pub daemon_us: f64,
    /// Changes of a target's health, a second.
    pub changes_per_second: f64,
}

impl Comparison {
    /// The workers' time for a connection while targets flap, as a multiple of that while they do not.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        let [steady, flapping] = self.medians(|it| it.workers_us);
        flapping / steady
    }

    fn medians(&self, value: fn(&Stretch) -> f64) -> [f64; 2] {
        [&self.steady, &self.flapping].map(|all| {
            let mut values: Vec<f64> = all.iter().map(value).collect();
            values.sort_unstable_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
        })
    }

    /// The table.
    #[must_use]
    pub fn render(&self) -> String {
        let names = ["steady", "flapping", "ratio"].map(|name| (name, Align::Right));
        let mut table = Table::new(&[&[("100 targets", Align::Left)][..], &names].concat());
        let mut row = |name: &str, [steady, flapping]: [f64; 2], ratio: bool| {
            let ratio = if ratio { format!("{:.2}", flapping / steady) } else { String::new() };
            table.row(vec![name.to_owned(), format!("{steady:.2}"), format!("{flapping:.2}"), ratio]);
        };
        row("workers' CPU for a connection, µs", self.medians(|it| it.workers_us), true);
        row("the daemon's, checks included, µs", self.medians(|it| it.daemon_us), true);
        row("changes of health per second", self.medians(|it| it.changes_per_second), false);
        table.render()
    }
}

/// Measures both `runs` times, and tells `progress` what it has. Needs root and two processors.
///
/// # Errors
/// [`crate::lab::error::LabError`] when the host or `lbd` cannot be set up, or a connection fails.
pub fn run(runs: u32, mut progress: impl FnMut(&str)) -> Result<Comparison> {
    let network = Network::build()?;
    stay_on(PROCESSORS[1]).doing(|| "choosing a processor for the load".to_owned())?;
    let flapping = Arc::new(AtomicBool::new(false));
    serve(&network, &flapping)?;
    let log = network.dir().join("log");
    let lbd = start(&network, &log)?;
    let mut compared = Comparison::default();
    for number in 1..=runs {
        for flap in [false, true] {
            flapping.store(flap, Ordering::SeqCst);
            let name = if flap { "flapping" } else { "steady" };
            settle(&log, flap)?;
            let stretch = network.proxy.inside(|| measure(&lbd.pids(), &log))?;
            let stretch = stretch.doing(|| "connecting through lbd".to_owned())?;
            progress(&format!(
                "{name} {number}: {:.2} µs of the workers, {:.2} µs of all, {:.0} changes/s",
                stretch.workers_us, stretch.daemon_us, stretch.changes_per_second
            ));
            if flap { &mut compared.flapping } else { &mut compared.steady }.push(stretch);
        }
    }
    lbd.stop()?;
    Ok(compared)
}

/// Serves the targets, which send one byte back, and their checks.
fn serve(network: &Network, flapping: &Arc<AtomicBool>) -> Result<()> {
    let bind = |port| network.proxy.inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
    let [targets, checks] = [TARGET_PORT, CHECK_PORT].map(bind);
    let listening = || "listening as the targets".to_owned();
    let (targets, checks) = (targets?.doing(listening)?, checks?.doing(listening)?);
    // They end with the program: nothing of theirs outlives the namespace.
    std::thread::spawn(move || {
        for mut stream in targets.incoming().flatten() {
            // What goes wrong shows at the client's end.
            echo(&mut stream).ok();
        }
    });
    let (flapping, begin) = (Arc::clone(flapping), Instant::now());
    std::thread::spawn(move || {
        for mut stream in checks.incoming().flatten() {
            let round = begin.elapsed().as_millis() / PERIOD.as_millis();
            let round = if flapping.load(Ordering::SeqCst) { round } else { 0 };
            // A check may have timed out.
            answer(&mut stream, round).ok();
        }
    });
    Ok(())
}

fn echo(stream: &mut TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    stream.write_all(&byte)
}

/// Every other target is healthy, and with each round the others are.
fn answer(stream: &mut TcpStream, round: u128) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let SocketAddr::V4(address) = stream.local_addr()? else { return Ok(()) };
    let good = (u128::from(address.ip().octets()[3]) + round).is_multiple_of(2);
    let mut request = [0; 1024];
    if stream.read(&mut request)? == 0 {
        return Ok(());
    }
    write!(stream, "HTTP/1.1 {} x\r\nContent-Length: 0\r\n\r\n", if good { 200 } else { 503 })
}

fn start(network: &Network, log: &Path) -> Result<Running<()>> {
    let dir = network.dir().join("lbd");
    let file = dir.join("pair.toml");
    let target = |last: u8| format!("{{ address = \"127.251.0.{last}:{TARGET_PORT}\" }}");
    let targets: Vec<String> = (1..=TARGETS).map(target).collect();
    let text = format!(
        "[[service]]\nname = \"bench\"\nmode = \"tcp\"\nlisten = [\"{SERVICE}\"]\nforward = \"bench\"\n\
         [[target_group]]\nname = \"bench\"\ntargets = [{}]\n\
         health = {{ http = \"/\", port = {CHECK_PORT}, interval = \"50ms\", timeout = \"49ms\", healthy_threshold = 1, \
         unhealthy_threshold = 1 }}\n",
        targets.join(", ")
    );
    let written = fs::create_dir_all(&dir).and_then(|()| fs::write(&file, text));
    written.doing(|| format!("writing {}", file.display()))?;
    let mut command = network.proxy.command("taskset");
    command.args(["-c", &PROCESSORS[0].to_string()]).arg(binary("lbd")?);
    command.args(["run", "--workers", "1", "--config"]).arg(&file).arg("--run-dir").arg(&dir);
    Running::start((), "lbd", command, log, |_| changes(log) >= usize::from(TARGETS))
}

/// Changes of a target's health so far.
fn changes(log: &Path) -> usize {
    fs::read_to_string(log).unwrap_or_default().matches("target is ").count()
}

/// Waits until the targets flap, or keep their health.
fn settle(log: &Path, flap: bool) -> Result<()> {
    let what = if flap { "the targets to flap" } else { "the targets to rest" };
    wait_until(what, SETTLE_MAX, || {
        let before = changes(log);
        std::thread::sleep(3 * PERIOD);
        let more = changes(log) - before;
        if flap { more > usize::from(TARGETS) } else { more == 0 }
    })
}

fn measure(pids: &[i32], log: &Path) -> io::Result<Stretch> {
    let times = || Ok::<_, io::Error>((worker_time(pids)?, processor_time(pids)?));
    let (changes_before, begin) = (changes(log), Instant::now());
    let (workers, daemon) = times()?;
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(SERVICE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
    }
    let (workers_after, daemon_after) = times()?;
    let elapsed = begin.elapsed();
    let each_us = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(CONNECTIONS);
    let changed = u32::try_from(changes(log) - changes_before).unwrap_or(u32::MAX);
    Ok(Stretch {
        workers_us: each_us(workers_after - workers),
        daemon_us: each_us(daemon_after - daemon),
        changes_per_second: f64::from(changed) / elapsed.as_secs_f64(),
    })
}

/// The processor time of the workers' threads.
fn worker_time(pids: &[i32]) -> io::Result<Duration> {
    let mut sum_ns = 0;
    for pid in pids {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            if fs::read_to_string(task.join("comm"))?.starts_with("lbd-worker") {
                let text = fs::read_to_string(task.join("schedstat"))?;
                let first = text.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
                sum_ns += first.ok_or(io::ErrorKind::InvalidData)?;
            }
        }
    }
    Ok(Duration::from_nanos(sum_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_compared() {
        let stretch = |us: f64| Stretch { workers_us: us, daemon_us: 2.0 * us, changes_per_second: 900.0 };
        let compared = Comparison {
            steady: [10.0, 90.0, 20.0].map(stretch).to_vec(),
            flapping: [21.0, 5.0, 70.0].map(stretch).to_vec(),
        };
        assert!((compared.ratio() - 1.05).abs() < 1e-9, "{compared:?}");
        assert!(compared.render().contains("1.05") && compared.render().contains("900.00"));
    }
}
