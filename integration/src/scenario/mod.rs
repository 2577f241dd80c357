//! What can happen to a pair, done to a running one and measured: the demonstration, the benchmark and tests share it.
//!
//! A [`Pair`] is a lab with the daemons of one [`System`] on both nodes, an [`Observer`] watches it from outside, and
//! [`run`] does one [`Event`] to a fresh pair and says in a [`Record`] what came of it. Nothing here waits for a time
//! to pass: every step ends with a condition, and a condition that does not come true in its limit is a finding.

pub(crate) mod conntrackd;
mod event;
pub mod lasting;
mod observe;
mod pair;
pub(crate) mod rival;
mod run;

pub use conntrackd::version as conntrackd_version;
pub use event::{Event, Target};
pub(crate) use observe::failure_name;
pub use observe::{Answerer, Measured, Observation, Observer};
pub use pair::{Family, Pair, PairSettings, System};
pub use rival::{balancer_version, vrrp_version};
pub use run::{Record, RoleStep, hand_over, run};

use std::thread;
use std::time::Duration;

use crate::lab::clock::now;
use crate::lab::{LabError, Result};

/// The instance's name in every pair.
pub const INSTANCE: &str = "web";
/// The port the pair serves HTTP on.
pub const PORT: u16 = 80;

/// How often a condition is looked at while probes run: seldom enough not to take the processor from what is measured.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits until `check` is true, looking every 10 ms.
pub(crate) fn wait(what: &str, limit: Duration, mut check: impl FnMut() -> bool) -> Result<()> {
    let start = now();
    while !check() {
        let waited = now() - start;
        if waited >= limit {
            return Err(LabError::Timeout { what: what.to_owned(), waited });
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}
