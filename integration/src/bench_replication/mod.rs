//! What replication of flows does and costs: a real pair of which one node's program is run on packets that begin flows
//! (`BPF_PROG_RUN`), so many each second, and the other node's table is watched for them.
//!
//! Each node has a processor of its own: what begins the flows, and would be the network's interrupts on a real host, shares that of the
//! `lbd` that tells of them. What becomes of a packet between the nodes once it has left one of them is on the other one's processor. Only
//! flows that the kernel's program has told of by itself count: nothing is written to any map by hand.
//!
//! What that costs beside what forwarding costs the machine is measured with real connections (`connections/`).

mod connections;
mod network;
mod rival;
mod row;
mod snapshot;
mod source;
mod stage;

use anyhow::Result;
use serde::{Deserialize, Serialize};

pub use connections::{
    Connections, Stretch as ConnectionsStretch, Way, render as render_connections, run as run_connections,
};
pub use rival::{Rival, run as run_rival};
pub use row::{render, render_aims, render_misses};
pub use snapshot::Snapshot;
pub use stage::Stage;

use network::Network;
use source::Source;

/// The processors: of the node that forwards and tells, and of the one that is told.
const PROCESSORS: [usize; 2] = [0, 1];

/// How flows are forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// With a port of the VIP each, which the other node has to know too.
    Nat,
    /// Unchanged.
    Dsr,
}

impl Subject {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Nat, Self::Dsr];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Dsr => "dsr",
        }
    }
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Flows that are begun by running the program.
    Flows(Subject),
    /// Real connections of either mode.
    Connections,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Flows(Subject::Nat), Self::Flows(Subject::Dsr), Self::Connections];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flows(subject) => subject.name(),
            Self::Connections => "connections",
        }
    }
}

/// What is asked of the nodes one after the other: new flows each second, and for how many seconds. Together it is [`FLOWS`].
const OFFERED: [(u32, u32); 4] = [(20_000, 5), (100_000, 2), (200_000, 2), (300_000, 1)];
/// All flows, which are then the snapshot of a node that knows nothing.
const FLOWS: u32 = 1_000_000;

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// How the flows are forwarded.
    pub subject: Subject,
    /// Each rate.
    pub stages: Vec<Stage>,
    /// A cold node, told of everything.
    pub snapshot: Snapshot,
}

/// Measures one subject once, and tells `progress` what it has. Needs root and two processors.
///
/// # Errors
/// What the lab or the kernel said.
pub fn run(subject: Subject, mut progress: impl FnMut(&str)) -> Result<Run> {
    let network = Network::build(subject)?;
    if !network.is_wire_apart() {
        progress(
            "the link between the nodes is on the account of whoever sends: this kernel has no way to part them",
        );
    }
    let mut source = Source::open(network.a(), network.lab().watch(), FLOWS)?;
    let (mut stages, mut first) = (Vec::new(), 0);
    for (rate, seconds) in OFFERED {
        let stage = stage::run(&network, &mut source, first, rate, seconds)?;
        progress(&format!("{}: {stage}", subject.name()));
        stages.push(stage);
        first += rate * seconds;
    }
    let snapshot = snapshot::run(&network, &mut source)?;
    progress(&format!("{}: {snapshot}", subject.name()));
    network.finish()?;
    Ok(Run { subject, stages, snapshot })
}
