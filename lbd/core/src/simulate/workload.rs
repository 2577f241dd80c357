//! The description of a workload, read from TOML.

use common::config::Algorithm;
use common::time::Duration;
use serde::Deserialize;

use super::distribution::{Distribution, RawDistribution, Span};

/// The most connections of a workload; each takes some 100 bytes.
const CONNECTIONS_MAX: u32 = 1_000_000;
const CLIENTS_MAX: u32 = 1_000_000;
const TARGETS_MAX: usize = 500;
const DOWN_MAX: usize = 16;
/// The longest time anything may take or happen at.
const TIME_MAX: Duration = Duration::from_secs(30 * 86_400);

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWorkload {
    title: String,
    #[serde(default)]
    seed: u64,
    #[serde(default = "all")]
    algorithms: Vec<Algorithm>,
    #[serde(default = "one")]
    workers: u32,
    clients: u32,
    #[serde(default = "two")]
    attempts: u32,
    slow_start: Option<Span>,
    arrivals: RawArrivals,
    work: RawDistribution,
    health: Option<RawChecks>,
    eject: Option<RawEjection>,
    #[serde(default)]
    panic_percent: u8,
    target: Vec<RawTarget>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawArrivals {
    connections: u32,
    per_second: f64,
    #[serde(default)]
    spacing: Spacing,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawChecks {
    interval: Span,
    #[serde(default = "three")]
    healthy_threshold: u32,
    #[serde(default = "two")]
    unhealthy_threshold: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEjection {
    #[serde(default = "five")]
    consecutive_failures: u32,
    base: Option<Span>,
    max: Option<Span>,
    #[serde(default = "fifty")]
    max_percent: u8,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTarget {
    id: String,
    /// So many alike, named `id-1`, `id-2` and so on.
    count: Option<usize>,
    #[serde(default = "weight_one")]
    weight: u16,
    #[serde(default)]
    backup: bool,
    serves: u32,
    #[serde(default = "speed_one")]
    speed: f64,
    #[serde(default = "thousand")]
    waiting: u32,
    #[serde(default)]
    down: Vec<RawDown>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDown {
    from: Span,
    to: Option<Span>,
}

fn all() -> Vec<Algorithm> {
    Algorithm::ALL.to_vec()
}

const fn one() -> u32 {
    1
}

const fn two() -> u32 {
    2
}

const fn three() -> u32 {
    3
}

const fn five() -> u32 {
    5
}

const fn fifty() -> u8 {
    50
}

const fn thousand() -> u32 {
    1000
}

const fn weight_one() -> u16 {
    1
}

const fn speed_one() -> f64 {
    1.0
}

impl Workload {
    /// Reads a description.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, WorkloadError> {
        let raw: RawWorkload = toml::from_str(text)?;
        let mut algorithms = Vec::new();
        for algorithm in raw.algorithms {
            if !algorithms.contains(&algorithm) {
                algorithms.push(algorithm);
            }
        }
        let arrivals = Arrivals {
            connections: within(
                "arrivals.connections",
                raw.arrivals.connections,
                1,
                CONNECTIONS_MAX,
                "1 to 1000000",
            )?,
            per_second: rate("arrivals.per_second", raw.arrivals.per_second)?,
            spacing: raw.arrivals.spacing,
        };
        let latest = f64::from(arrivals.connections) / arrivals.per_second;
        if latest > TIME_MAX.as_secs_f64() / 2.0 {
            let key = "arrivals.per_second".to_owned();
            return Err(WorkloadError::Range {
                key,
                value: arrivals.per_second.to_string(),
                allowed: "enough to have all connections within 15 days",
            });
        }
        let workload = Self {
            title: raw.title,
            seed: raw.seed,
            algorithms,
            workers: within("workers", raw.workers, 1, 256, "1 to 256")?,
            clients: within("clients", raw.clients, 1, CLIENTS_MAX, "1 to 1000000")?,
            arrivals,
            work: raw.work.check("work")?,
            attempts: within("attempts", raw.attempts, 1, 10, "1 to 10")?,
            checks: raw.health.map(RawChecks::check).transpose()?,
            eject: raw.eject.map(RawEjection::check).transpose()?,
            panic_percent: within("panic_percent", raw.panic_percent, 0, 100, "0 to 100")?,
            slow_start: raw.slow_start.map_or(Ok(Duration::ZERO), |span| span.check("slow_start"))?,
            targets: targets(raw.target)?,
        };
        if workload.algorithms.is_empty() {
            return Err(out_of_range(
                "algorithms",
                "empty",
                "one algorithm or more; without the key all are played",
            ));
        }
        Ok(workload)
    }

    /// The sum of all weights but the backups'.
    #[must_use]
    pub fn weight_total(&self) -> u32 {
        self.targets.iter().filter(|target| !target.backup).map(|target| u32::from(target.weight)).sum()
    }
}

impl RawChecks {
    fn check(self) -> Result<Checks, WorkloadError> {
        let interval = self.interval.check("health.interval")?;
        if interval < Duration::from_millis(10) {
            return Err(out_of_range("health.interval", &format!("{interval:?}"), "10ms or more"));
        }
        let threshold = |key, value| within(key, value, 1, 100, "1 to 100");
        Ok(Checks {
            interval,
            healthy_threshold: threshold("health.healthy_threshold", self.healthy_threshold)?,
            unhealthy_threshold: threshold("health.unhealthy_threshold", self.unhealthy_threshold)?,
        })
    }
}

impl RawEjection {
    fn check(self) -> Result<Ejection, WorkloadError> {
        let or = |span: Option<Span>, key, default| {
            span.map_or(Ok(Duration::from_secs(default)), |span| span.check(key))
        };
        let (base, max) = (or(self.base, "eject.base", 30)?, or(self.max, "eject.max", 300)?);
        if base.is_zero() || max < base {
            return Err(out_of_range("eject.base", &format!("{base:?}"), "above 0, and `eject.max` no less"));
        }
        let failures = within("eject.consecutive_failures", self.consecutive_failures, 1, 1000, "1 to 1000")?;
        let max_percent = within("eject.max_percent", self.max_percent, 0, 100, "0 to 100")?;
        Ok(Ejection { consecutive_failures: failures, base, max, max_percent })
    }
}

fn targets(raw: Vec<RawTarget>) -> Result<Vec<TargetModel>, WorkloadError> {
    let mut targets: Vec<TargetModel> = Vec::new();
    for target in raw {
        let named = |key: &str| format!("target {}: {key}", target.id);
        let count = target.count.unwrap_or(1);
        if count == 0 || targets.len() + count > TARGETS_MAX {
            return Err(out_of_range(
                &named("count"),
                &count.to_string(),
                "1 or more, and 500 targets in all at most",
            ));
        }
        let model = TargetModel {
            id: target.id.clone(),
            weight: within(&named("weight"), target.weight, 0, 256, "0 to 256")?,
            backup: target.backup,
            serves: within(&named("serves"), target.serves, 1, 1_000_000, "1 to 1000000")?,
            speed: rate(&named("speed"), target.speed)?,
            waiting: within(&named("waiting"), target.waiting, 0, 1_000_000, "0 to 1000000")?,
            down: down(&named("down"), &target.down)?,
        };
        for number in 1..=count {
            let id =
                if target.count.is_some() { format!("{}-{number}", target.id) } else { target.id.clone() };
            if targets.iter().any(|other| other.id == id) {
                return Err(WorkloadError::SameId(id));
            }
            targets.push(TargetModel { id, ..model.clone() });
        }
    }
    if targets.is_empty() {
        return Err(out_of_range("target", "empty", "one target or more"));
    }
    Ok(targets)
}

fn down(key: &str, raw: &[RawDown]) -> Result<Vec<Down>, WorkloadError> {
    let mut periods: Vec<Down> = Vec::new();
    for period in raw {
        let from = period.from.check(key)?;
        let to = period.to.as_ref().map(|to| to.check(key)).transpose()?;
        let apart = periods.last().is_none_or(|before| before.to.is_some_and(|to| to < from));
        if !apart || to.is_some_and(|to| to <= from) || periods.len() == DOWN_MAX {
            let value = format!("{from:?} to {to:?}");
            return Err(out_of_range(
                key,
                &value,
                "up to 16 times in order, apart, each ending after it began",
            ));
        }
        periods.push(Down { from, to });
    }
    Ok(periods)
}

/// The error for a value that is not `allowed`.
pub(super) fn out_of_range(key: &str, value: &str, allowed: &'static str) -> WorkloadError {
    WorkloadError::Range { key: key.to_owned(), value: value.to_owned(), allowed }
}

fn within<T: Copy + PartialOrd + ToString>(
    key: &str,
    value: T,
    low: T,
    high: T,
    allowed: &'static str,
) -> Result<T, WorkloadError> {
    if value < low || value > high {
        return Err(out_of_range(key, &value.to_string(), allowed));
    }
    Ok(value)
}

fn rate(key: &str, value: f64) -> Result<f64, WorkloadError> {
    // Not a number is not within either.
    within(key, if value.is_nan() { -1.0 } else { value }, 0.001, 1e6, "0.001 to 1000000")
}

/// A time that is within what the virtual clock is used for.
pub(super) fn time(key: &str, value: Duration) -> Result<Duration, WorkloadError> {
    if value > TIME_MAX {
        return Err(out_of_range(key, &format!("{value:?}"), "30 days at most"));
    }
    Ok(value)
}
