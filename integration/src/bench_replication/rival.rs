//! The same of conntrackd, for comparison: connections through keepalived with nftables and conntrackd, and what it takes to tell the other
//! node's of them.
//!
//! Its kernel makes flows of real connections only, so a client opens as many as it can, as fast as it can: that bounds the rate, and
//! what one processor would do is known from what each connection takes of it.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::network::process;
use crate::bench_tcp::usage::processor_time;
use crate::lab::addresses::vip4;
use crate::lab::probe::{EchoProbe, EchoSettings};
use crate::report::statistics::ms;
use crate::scenario::lasting::{self, Mode};
use crate::scenario::{Pair, PairSettings, System, conntrackd, wait};

/// Connections: from one client to one service there are ports for some more.
const CONNECTIONS: usize = 8_000;
const LIMIT: Duration = Duration::from_secs(120);
/// They are silent, as far as they can be here.
const MESSAGE_INTERVAL: Duration = Duration::from_secs(30);
/// An advert interval as in the other comparisons.
const ADVERT_INTERVAL: Duration = Duration::from_millis(100);

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rival {
    /// Connections that the other node's conntrackd knows in the end.
    pub arrived: u64,
    /// From the first connection until it knew them.
    pub arrived_in: Duration,
    /// Nanoseconds of conntrackd on the node that tells, for each.
    pub sender_ns: f64,
    /// The same of the one that is told.
    pub receiver_ns: f64,
}

impl Rival {
    /// What one processor would do, by the slower of both.
    #[must_use]
    pub fn of_a_core(&self) -> f64 {
        1e9 / self.sender_ns.max(self.receiver_ns)
    }
}

impl fmt::Display for Rival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "conntrackd: {} connections, as fast as one client opens them, are known after {} ms; for each {:.0} ns of the sender, {:.0} ns of the receiver: \
             {:.0}/s of a core",
            self.arrived,
            ms(self.arrived_in),
            self.sender_ns,
            self.receiver_ns,
            self.of_a_core()
        )
    }
}

/// Measures once.
///
/// # Errors
/// What the lab said, and [`crate::lab::LabError::Timeout`] when the other node does not get to know the connections.
pub fn run() -> Result<Rival> {
    let vips = [vip4(0).into()];
    let mut settings =
        PairSettings::new("replication conntrackd", System::Conntrackd, &vips, ADVERT_INTERVAL);
    settings.targets = lasting::TARGETS;
    settings.lasting = true;
    let pair = Pair::start(settings)?;
    let [a, b] = pair.lab().nodes();
    let pids = [process(a, "conntrackd")?, process(b, "conntrackd")?];
    let times =
        || -> Result<[Duration; 2]> { Ok([processor_time(&[pids[0]])?, processor_time(&[pids[1]])?]) };
    let (before, begin) = (times()?, Instant::now());
    let settings = EchoSettings {
        interval: MESSAGE_INTERVAL,
        stall_limit: LIMIT,
        ..EchoSettings::new(Mode::Nat.echo_server(), CONNECTIONS)
    };
    let probe = EchoProbe::start(pair.lab().client(), settings)?;
    let mut arrived = 0;
    wait("the other node's conntrackd to know the connections", LIMIT, || {
        arrived = conntrackd::cached(b).unwrap_or(0);
        arrived >= CONNECTIONS as u64
    })?;
    let arrived_in = begin.elapsed();
    let after = times()?;
    probe.stop()?;
    pair.finish()?;
    #[expect(clippy::cast_precision_loss, reason = "a number of some thousands")]
    let each = |node: usize| (after[node] - before[node]).as_secs_f64() * 1e9 / arrived as f64;
    Ok(Rival { arrived, arrived_in, sender_ns: each(0), receiver_ns: each(1) })
}
