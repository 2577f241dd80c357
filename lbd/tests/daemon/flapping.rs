//! Targets that change their health all the time cost the connections nothing.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::server::Server;
use crate::support::{Config, Lbd, eventually, own_ip, ping};

const TARGETS: u8 = 100;
const CONNECTIONS: u32 = 1000;
const ROUNDS_MAX: usize = 15;
/// How long the targets keep their health.
const PERIOD: Duration = Duration::from_millis(100);

/// Addresses beside those of all other tests.
fn addresses() -> impl Iterator<Item = Ipv4Addr> {
    let [.., low] = std::process::id().to_be_bytes();
    (1..=TARGETS).map(move |number| Ipv4Addr::new(127, 251, low, number))
}

/// The processor time of the daemon's workers.
fn worker_time(lbd: &Lbd) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", lbd.pid())).unwrap().flatten();
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap();
    let workers = tasks.filter(|task| read(task.path().join("comm")).starts_with("lbd-worker"));
    let nanos = |text: String| text.split(' ').next().unwrap().parse::<u64>().unwrap();
    Duration::from_nanos(workers.map(|task| nanos(read(task.path().join("schedstat")))).sum())
}

/// The workers' time for one connection.
fn cost(lbd: &Lbd) -> Duration {
    let before = worker_time(lbd);
    for _ in 0..CONNECTIONS {
        assert_eq!(ping(&mut lbd.connect(), "x").unwrap(), "x");
    }
    (worker_time(lbd) - before) / CONNECTIONS
}

#[test]
fn a_hundred_flapping_targets_cost_the_connections_nothing() {
    let ip = own_ip();
    let service = Server::echo((Ipv4Addr::UNSPECIFIED, 0).into());
    let flapping = Arc::new(AtomicBool::new(false));
    let (flaps, begin) = (Arc::clone(&flapping), Instant::now());
    // At any time one half of the targets is healthy.
    let checks = Server::start((Ipv4Addr::UNSPECIFIED, 0).into(), move |mut stream| {
        let Ok(SocketAddr::V4(address)) = stream.local_addr() else { return };
        let round =
            if flaps.load(Ordering::SeqCst) { begin.elapsed().as_millis() / PERIOD.as_millis() } else { 0 };
        let good = (u128::from(address.ip().octets()[3]) + round).is_multiple_of(2);
        let status = if good { 200 } else { 503 };
        let mut request = [0; 1024];
        if matches!(stream.read(&mut request), Ok(1..)) {
            // A check that has seen the head closes.
            drop(write!(stream, "HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n"));
        }
    });
    let targets: Vec<SocketAddr> =
        addresses().map(|address| (address, service.address.port()).into()).collect();
    let mut config = Config::new(ip, &targets);
    config.group = format!(
        "health = {{ http = \"/\", port = {}, interval = \"50ms\", timeout = \"49ms\", healthy_threshold = 1, \
         unhealthy_threshold = 1 }}",
        checks.address.port()
    );
    let lbd = Lbd::start(&config);
    let flaps = || lbd.log().matches("target is ").count();
    eventually("all are checked", || flaps() >= usize::from(TARGETS));
    // The least of several: everything else on the machine only adds. Rounds go on until both have had a calm one.
    let (mut steady, mut flaps_cost) = (Duration::MAX, Duration::MAX);
    for round in 0..ROUNDS_MAX {
        flapping.store(false, Ordering::SeqCst);
        eventually("they are at rest", || {
            let before = flaps();
            std::thread::sleep(3 * PERIOD);
            flaps() == before
        });
        steady = steady.min(cost(&lbd));
        flapping.store(true, Ordering::SeqCst);
        let before = flaps();
        eventually("they flap", || flaps() > before + usize::from(TARGETS));
        flaps_cost = flaps_cost.min(cost(&lbd));
        if round >= 2 && flaps_cost < steady * 11 / 10 {
            return;
        }
    }
    panic!("a connection costs {steady:?}, and {flaps_cost:?} while targets flap");
}
