//! What is played: read from TOML by `parse.rs`.

use common::config::Algorithm;
use common::time::Duration;
use serde::Deserialize;

use super::distribution::Distribution;

/// Why a description is refused.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// It is no TOML, or a key is missing, unknown or of the wrong type.
    #[error("{0}")]
    Syntax(#[from] toml::de::Error),
    /// A value is out of its range.
    #[error("`{key}` is {value}, but must be {allowed}")]
    Range {
        /// Where.
        key: String,
        /// What is there.
        value: String,
        /// What may be there.
        allowed: &'static str,
    },
    /// Two targets have the same name.
    #[error(
        "two targets have the id `{0}`; the other targets' clients could not tell them apart, nor could you"
    )]
    SameId(String),
}

/// What is played.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// What it shows, in a line.
    pub title: String,
    /// What all chance comes from.
    pub seed: u64,
    /// The algorithms to compare, each once.
    pub algorithms: Vec<Algorithm>,
    /// Workers, each with a balancer of its own, that the connections are dealt out to.
    pub workers: u32,
    /// Client addresses; each connection is from any of them.
    pub clients: u32,
    /// When connections arrive.
    pub arrivals: Arrivals,
    /// How long a target of speed 1 works on a connection.
    pub work: Distribution,
    /// Tries for each connection, the first included.
    pub attempts: u32,
    /// How failures are noticed; none: never, only retries help.
    pub checks: Option<Checks>,
    /// Whether failed connects take a target out.
    pub eject: Option<Ejection>,
    /// Below this share of usable targets all are used, 0 to 100; 0: only when none is usable.
    pub panic_percent: u8,
    /// The time over which a recovered target's share rises; zero for at once.
    pub slow_start: Duration,
    /// The targets.
    pub targets: Vec<TargetModel>,
}

/// When connections arrive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrivals {
    /// How many, in all.
    pub connections: u32,
    /// How many in a second, on average.
    pub per_second: f64,
    /// The time between two.
    pub spacing: Spacing,
}

/// The time between two arrivals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Spacing {
    /// As of many clients that know nothing of each other (a Poisson process).
    #[default]
    Exponential,
    /// Always the same.
    Constant,
}

/// Health checks: connection attempts that fail while the target is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// The time between two checks of a target.
    pub interval: Duration,
    /// Successes in a row that bring a target back.
    pub healthy_threshold: u32,
    /// Failures in a row that take it out.
    pub unhealthy_threshold: u32,
}

/// Ejection for failed connects, as `eject` of a target group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Failed connects in a row that eject a target.
    pub consecutive_failures: u32,
    /// The first ejection's time.
    pub base: Duration,
    /// The longest ejection.
    pub max: Duration,
    /// The largest share of the targets that may be out at the same time, 0 to 100.
    pub max_percent: u8,
}

/// What a target is and can do.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetModel {
    /// Its name.
    pub id: String,
    /// Its weight, 0 to 256.
    pub weight: u16,
    /// Whether it is used only while no other target is usable.
    pub backup: bool,
    /// Connections it works on at the same time.
    pub serves: u32,
    /// How fast it works on each.
    pub speed: f64,
    /// Further connections that may wait for it; more are refused.
    pub waiting: u32,
    /// When it is down, in order and apart.
    pub down: Vec<Down>,
}

/// A time during which a target is dead: what it had is lost, new connections are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Down {
    /// From when.
    pub from: Duration,
    /// Until when; none for good.
    pub to: Option<Duration>,
}

impl Workload {
    /// The sum of all weights but the backups'.
    #[must_use]
    pub fn weight_total(&self) -> u32 {
        self.targets.iter().filter(|target| !target.backup).map(|target| u32::from(target.weight)).sum()
    }
}
