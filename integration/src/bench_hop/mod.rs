//! Kernel forwarding beside nftables and HAProxy, one hop between client and target, in one run.
//!
//! A lab with a host for each: node `a` with `lbd`, `t2` with nftables (DNAT and masquerade), `t3` with HAProxy in TCP mode;
//! `t1` is the target with nginx and iperf3. All are on one switch, and while one way is measured nothing goes the others. A
//! switch's work would be no host's; this one's is on the processor of who sends, twice as often with a hop as without, so it
//! does no more than it has to: no firewall looks at its frames.
//!
//! The client has one processor and the target the other, as two hosts would; the hop's work, which a third would do, falls to
//! either. So a rate is lower than between three hosts, and ways are to be compared with each other only.
//!
//! The ways take turns, and medians count. Kernel forwarding runs in whoever sends, so there is no process whose processor
//! time could be read: what a way costs is how much busier the whole machine is than without a hop. The kernel samples that with its
//! tick, so only loads that never sleep are measured: one that wakes by a timer hides between the ticks, or is always met by them.
//!
//! What the hop costs for a packet is that difference by the packets that came to its interface: both ways' with nat, nftables and HAProxy, with
//! dsr those of the client alone. A packet is what the kernel handles as one, which in bulk has up to 64 KiB; and the switch's work for it counts.

pub(crate) mod busy;
mod network;
mod row;
mod tools;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use row::{Row, render, render_misses};
pub use tools::{missing, versions};

use crate::lab::Result;
use network::Network;
use row::Samples;

/// How long each measurement takes.
const STRETCH: Duration = Duration::from_secs(2);

/// A way from the client to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// To the target's own address, without a hop.
    Direct,
    /// `mode = "dsr"`, `dsr = "l2"`.
    DsrL2,
    /// `mode = "nat"`.
    Nat,
    /// nftables with DNAT and masquerade.
    Nftables,
    /// HAProxy in TCP mode.
    Haproxy,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Direct, Self::DsrL2, Self::Nat, Self::Nftables, Self::Haproxy];

    /// Its name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::DsrL2 => "dsr l2",
            Self::Nat => "nat",
            Self::Nftables => "nftables",
            Self::Haproxy => "HAProxy",
        }
    }
}

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// `wrk` with 64 connections.
    Requests,
    /// One TCP stream of iperf3 to the target.
    Upload,
    /// The same from the target: with dsr the hop sees nothing of it but acknowledgements.
    Download,
}

impl Load {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Requests, Self::Upload, Self::Download];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Upload => "upload",
            Self::Download => "download",
        }
    }
}

/// Measures everything `runs` times, and tells `progress` what it has. Needs root and two processors.
///
/// # Errors
/// [`crate::lab::LabError`] when a host or a program cannot be set up, or a load fails.
pub fn run(runs: u32, mut progress: impl FnMut(&str)) -> Result<Vec<Row>> {
    let network = Network::build()?;
    let mut samples = Samples::default();
    for number in 0..runs {
        for load in Load::ALL {
            // Another way first each time, so that what the machine does meanwhile hits them alike.
            let first = number as usize % Way::ALL.len();
            for way in Way::ALL.into_iter().cycle().skip(first).take(Way::ALL.len()) {
                let stretch = tools::measure(&network, load, way, STRETCH)?;
                progress(&format!("{} {} {}: {stretch}", load.name(), number + 1, way.name()));
                samples.add(load, way, stretch);
            }
        }
    }
    let rows = samples.rows();
    network.finish()?;
    Ok(rows)
}
