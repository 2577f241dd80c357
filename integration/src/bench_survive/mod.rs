//! What survives when roles move: connections and a download in progress through Tandem, beside keepalived with HAProxy and
//! keepalived with nftables and conntrackd, in the same kind of lab and in turn.
//!
//! A [`Case`] is an event that is done to a fresh pair which carries thousands of connections; [`forth`] moves the active role back
//! and forth under load. Nothing waits for a time to pass: every step ends with a condition, and one that does not come true is a
//! finding.

mod bound;
mod forth;
mod row;
mod trial;

use serde::{Deserialize, Serialize};

pub use forth::{Forth, Moved};
pub use row::{ForthRow, Row, forth_rows, render, render_forth, render_misses, rows};
pub use trial::Outcome;

use crate::lab::Result;
use crate::scenario::System;
use crate::scenario::lasting::Mode;

/// What is done to the active node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strike {
    /// The active role is handed over by command.
    Switchover,
    /// Every process on it is killed; its kernel and its links live on.
    Sigkill,
    /// It loses its power.
    PowerLoss,
}

impl Strike {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Switchover, Self::Sigkill, Self::PowerLoss];

    /// Its name for the command line and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Switchover => "switchover",
            Self::Sigkill => "sigkill",
            Self::PowerLoss => "power-loss",
        }
    }
}

/// What is measured: connections of one mode through one system, and what is done to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Case {
    /// What is done.
    pub strike: Strike,
    /// How the connections are forwarded.
    pub mode: Mode,
    /// By what.
    pub system: System,
}

/// How many connections there are through a proxy.
const PROXIED: usize = 2_000;
/// And how many that the kernel forwards.
const FORWARDED: usize = 10_000;

/// The modes of a system that are measured. `http` is not: its connections live in a proxy's sockets, as those of `tcp` do, and these are
/// the ones that a rival has, too.
fn modes(system: System) -> impl Iterator<Item = Mode> {
    Mode::of(system).iter().copied().filter(|mode| *mode != Mode::Http)
}

impl Case {
    /// All of them, those beside each other that are compared.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut cases = Vec::new();
        let both = |strike, mode, other: Option<System>| {
            let systems = std::iter::once(System::Tandem).chain(other);
            systems.map(move |system| Self { strike, mode, system })
        };
        cases.extend(both(Strike::Switchover, Mode::Tcp, Some(System::Rival)));
        for strike in [Strike::Sigkill, Strike::PowerLoss] {
            cases.extend(both(strike, Mode::Nat, Some(System::Conntrackd)));
            cases.extend(both(strike, Mode::Dsr, None));
        }
        cases
    }

    /// How many connections it has.
    #[must_use]
    pub const fn connections(self) -> usize {
        match self.mode {
            Mode::Tcp | Mode::Http => PROXIED,
            Mode::Nat | Mode::Dsr => FORWARDED,
        }
    }

    /// Its name for people.
    #[must_use]
    pub fn name(self) -> String {
        format!("{} {} {}", self.strike.name(), self.mode.name(), self.system.name())
    }

    /// Does it once to a fresh pair.
    ///
    /// # Errors
    /// [`crate::lab::LabError`] when the pair cannot be brought up, or the event cannot be done.
    pub fn run(self) -> Result<Outcome> {
        self.run_with(self.connections())
    }

    /// The same with another number of connections.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_with(self, connections: usize) -> Result<Outcome> {
        trial::run(self, connections)
    }
}
