//! The connections of a workload: the same for each algorithm.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use common::balance::Request;
use common::hash::HashKey;
use common::rng::Rng;
use common::time::{Duration, Instant};

use super::distribution::exponential;
use super::workload::{Spacing, Workload};

/// Where the clients connect to.
const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 80);
const TCP: u8 = 6;

/// A connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) at: Instant,
    pub(super) client: u32,
    /// The worker that accepts it.
    pub(super) worker: usize,
    pub(super) request: Request,
    /// How long a target of speed 1 works on it.
    pub(super) work: Duration,
}

/// The key that a seed gives.
pub(super) fn hash_key(seed: u64) -> HashKey {
    let mut rng = Rng::new(seed);
    let mut bytes = [0; 16];
    for half in bytes.chunks_exact_mut(8) {
        half.copy_from_slice(&rng.next_u64().to_le_bytes());
    }
    HashKey::new(bytes)
}

/// All of them, in order.
pub(super) fn generate(workload: &Workload) -> Vec<Arrival> {
    let mut rng = Rng::new(workload.seed);
    let (mut spacing, mut client, mut work) = (rng.fork(), rng.fork(), rng.fork());
    let key = hash_key(workload.seed);
    let apart = Duration::from_secs_f64(1.0 / workload.arrivals.per_second);
    let mut now = Instant::ZERO;
    let mut arrivals = Vec::new();
    for number in 0..workload.arrivals.connections {
        now = now
            + match workload.arrivals.spacing {
                Spacing::Constant => apart,
                Spacing::Exponential => apart.mul_f64(exponential(&mut spacing)),
            };
        // Below a number of 32 bits.
        let client = u32::try_from(client.below(u64::from(workload.clients))).unwrap_or_default();
        // 10.0.0.0/8 has room for all of them; a client's ports go round.
        let address = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + client));
        let port = u16::try_from(1024 + number % 60_000).unwrap_or(1024);
        let flow = key.flow(TCP, SocketAddr::new(address, port), SERVICE);
        let worker = usize::try_from((flow >> 32) % u64::from(workload.workers)).unwrap_or_default();
        let request = Request { source: key.source(address), flow };
        arrivals.push(Arrival { at: now, client, worker, request, work: workload.work.draw(&mut work) });
    }
    arrivals
}
