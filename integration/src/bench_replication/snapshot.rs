//! A node that knows nothing is told of everything, while the other one forwards.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::PROCESSORS;
use super::network::{LIMIT, Network, lbd, start, state};
use crate::bench_tcp::usage::processor_time;
use crate::lab::clock::wait_until;
use crate::lab::fault::Fault;
use crate::report::statistics::ms;

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
    /// Connections that broke.
    pub broken: usize,
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "snapshot of {} flows in {} ms ({} ms from the start), {} ms of the sender, {} ms of the receiver; traffic stalled for {} ms at \
             most, before {} ms, {} connections broke",
            self.flows,
            ms(self.synced_in),
            ms(self.since_start),
            ms(self.sender),
            ms(self.receiver),
            ms(self.stall),
            ms(self.stall_before),
            self.broken
        )
    }
}

pub(super) fn run(network: &Network) -> Result<Snapshot> {
    let (a, b) = (network.a(), network.b());
    let power = Fault::power_loss(b.name());
    network.lab().inject(&power)?;
    wait_until("a to have lost b", LIMIT, || state(a)["peer_synced"] == false)?;
    network.lab().heal(&power)?;
    let traffic = network.traffic()?;
    traffic.forget_stalls();
    traffic.wait_exchanges(100, LIMIT)?;
    let stall_before = traffic.forget_stalls();

    let sender = [lbd(a)?];
    let before = processor_time(&sender)?;
    let begin = Instant::now();
    start(b, PROCESSORS[1])?;
    let mut session = None;
    wait_until("b to be synced", LIMIT, || {
        let state = state(b);
        if state["state"] == "syncing" || state["state"] == "synced" {
            session.get_or_insert_with(Instant::now);
        }
        state["state"] == "synced"
    })?;
    let end = Instant::now();
    let receiver = [lbd(b)?];
    let (sender_after, receiver) = (processor_time(&sender)?, processor_time(&receiver)?);
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
        broken: report.broken(),
    })
}
