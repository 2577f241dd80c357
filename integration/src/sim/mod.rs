//! Two whole nodes, made from the daemons' cores, in one process: a network, clocks and disks that follow a seed, and
//! checkers that watch what must hold at every moment.
//!
//! ```text
//! run       a seed's story: variant, episodes of faults, quiet times
//! world     what happens when: one queue of events in true time
//!   ├ host  shell (inputs before timeouts, actions in order), warden, clocks, addresses
//!   ├ network  the LAN and the peer link
//!   └ strike   faults
//! view      what an all-knowing observer sees ──► check/…  one promise each
//! replicas  the same with the cores of replication beside them
//! ```
//!
//! Everything follows from the seed, so a failure is replayed by its number:
//! `TANDEM_SIM_SEED=1234 cargo test -p integration --test sim replay -- --nocapture` prints the whole account of a run.
//! `TANDEM_SIM_FIRST` and `TANDEM_SIM_RUNS` choose other seeds than a normal test run's, and `TANDEM_SIM_ALL=1` goes on after
//! the first failure and lists them all.

mod check;
mod clock;
mod fault;
mod host;
mod network;
mod replicas;
mod run;
mod sabotage;
mod shell;
mod strike;
mod trace;
mod variant;
mod view;
mod warden;
mod world;

pub use check::Violation;
pub use clock::{Clock, Moment};
pub use fault::{Fault, Lbd, Step};
pub use network::{Network, Packet, Quality};
pub use replicas::{Draw, Flaw, NO_TOMBSTONE, Pair, run_pair_seed};
pub use run::{Failure, run_seed};
pub use sabotage::Sabotage;
pub use trace::Trace;
pub use variant::{GATEWAY, INTERFACE, NAMES, Variant};
pub use view::{Bounds, HostView, Limits, RouterView, Seen, Side, View};
pub use world::World;
