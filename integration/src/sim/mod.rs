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
//! ```

mod check;
mod clock;
mod fault;
mod host;
mod network;
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
pub use run::{Failure, run_seed};
pub use sabotage::Sabotage;
pub use trace::Trace;
pub use variant::{GATEWAY, INTERFACE, NAMES, Variant};
pub use view::{Bounds, HostView, Limits, RouterView, Seen, Side, View};
pub use world::World;
