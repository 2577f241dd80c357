//! A node that knows nothing is told of everything, while the other one forwards.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::network::{LIMIT, Network, lbd, start, state};
use super::source::Source;
use super::{FLOWS, PROCESSORS};
use crate::bench_tcp::usage::processor_time;
use crate::lab::clock::wait_until;
use crate::lab::fault::Fault;
use crate::report::statistics::ms;

/// Packets of known flows that the program is given at once, to know what one takes: too few to be in the snapshot's way.
const PACKETS: u32 = 2000;
/// How often it is given some before, for comparison, and after how long each time.
const SAMPLES_BEFORE: u32 = 200;
const LOOK: Duration = Duration::from_millis(2);

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// How many flows the node knew in the end.
    pub flows: u64,
    /// From the beginning of the session until it was synced.
    pub synced_in: Duration,
    /// The same from the start of its `lbd`.
    pub since_start: Duration,
    /// Processor time of the telling `lbd` until then.
    pub sender: Duration,
    /// And of the one that is told.
    pub receiver: Duration,
    /// The longest time that a message of 64 connections through the telling node took to come back before.
    pub stall_before: Duration,
    /// And meanwhile.
    pub stall: Duration,
    /// The longest that the traffic itself was late meanwhile.
    pub pause: Duration,
    /// Nanoseconds of the program for a packet of a known flow before: the median of samples.
    pub packet_before_ns: f64,
    /// And meanwhile.
    pub packet_ns: f64,
    /// Connections that broke.
    pub broken: usize,
}

impl Snapshot {
    /// By how much a message waited longer meanwhile than machine and load account for: as it was before, and as the traffic itself was late.
    #[must_use]
    pub fn stall_added(&self) -> Duration {
        self.stall.saturating_sub(self.stall_before.max(self.pause))
    }

    /// What a packet took meanwhile, as a multiple of before.
    #[must_use]
    pub fn packet_ratio(&self) -> f64 {
        self.packet_ns / self.packet_before_ns
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "snapshot of {} flows in {} ms ({} ms from the start), {} ms of the sender, {} ms of the receiver; traffic stalled for {} ms at \
             most, before {} ms, and was {} ms late itself; a packet took {:.0} ns, before {:.0} ns; {} connections broke",
            self.flows,
            ms(self.synced_in),
            ms(self.since_start),
            ms(self.sender),
            ms(self.receiver),
            ms(self.stall),
            ms(self.stall_before),
            ms(self.pause),
            self.packet_ns,
            self.packet_before_ns,
            self.broken
        )
    }
}

/// Packets of flows that are known, some at a time: each time of others, as a table of so many is used.
struct Packets<'a> {
    source: &'a mut Source,
    next: u32,
    samples: Vec<f64>,
}

impl Packets<'_> {
    fn sample(&mut self) -> Result<()> {
        let first = self.next;
        self.next = (first + PACKETS) % FLOWS;
        self.samples.push(self.source.known(first, first + PACKETS)?);
        Ok(())
    }

    /// The median of the samples since the last call; not a number when there were none.
    fn take_median(&mut self) -> f64 {
        let mut samples = std::mem::take(&mut self.samples);
        samples.sort_unstable_by(f64::total_cmp);
        samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

pub(super) fn run(network: &Network, source: &mut Source) -> Result<Snapshot> {
    let (a, b) = (network.a(), network.b());
    let power = Fault::power_loss(b.name());
    network.lab().inject(&power)?;
    wait_until("a to have lost b", LIMIT, || state(a)["peer_synced"] == false)?;
    network.lab().heal(&power)?;
    let traffic = network.traffic()?;
    traffic.forget_stalls();
    traffic.wait_exchanges(100, LIMIT)?;
    let mut packets = Packets { source, next: 0, samples: Vec::new() };
    for _ in 0..SAMPLES_BEFORE {
        packets.sample()?;
        // As often as the other node is asked below.
        thread::sleep(LOOK);
    }
    let packet_before_ns = packets.take_median();
    let stall_before = traffic.forget_stalls();

    let sender = [lbd(a)?];
    let before = processor_time(&sender)?;
    let begin = Instant::now();
    start(b, PROCESSORS[1])?;
    let mut session = None;
    let mut failed = None;
    wait_until("b to be synced", LIMIT, || {
        let state = state(b);
        if state["state"] == "syncing" {
            failed = packets.sample().err();
        }
        if state["state"] == "syncing" || state["state"] == "synced" {
            session.get_or_insert_with(Instant::now);
        }
        failed.is_some() || state["state"] == "synced"
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let end = Instant::now();
    let receiver = [lbd(b)?];
    let (sender_after, receiver) = (processor_time(&sender)?, processor_time(&receiver)?);
    let pause = traffic.snapshot().pause;
    let stall = traffic.forget_stalls();
    let flows = state(b)["entries"]["flows"].as_u64().unwrap_or(0);
    let report = traffic.stop()?;
    Ok(Snapshot {
        flows,
        synced_in: end - session.unwrap_or(begin),
        since_start: end - begin,
        sender: sender_after.saturating_sub(before),
        receiver,
        stall_before,
        stall,
        pause,
        packet_before_ns,
        packet_ns: packets.take_median(),
        broken: report.broken(),
    })
}
