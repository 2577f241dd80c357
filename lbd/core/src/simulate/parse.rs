//! Reading the description of a workload from TOML; [`super::workload`] says what each key means.

use common::config::Algorithm;
use common::time::Duration;
use serde::Deserialize;

use super::distribution::{RawDistribution, Span};
use super::workload::{Arrivals, Checks, Down, Ejection, Spacing, TargetModel, Workload, WorkloadError};

/// The most connections of a workload; each takes some 100 bytes.
const CONNECTIONS_MAX: u32 = 1_000_000;
const CLIENTS_MAX: u32 = 1_000_000;
const TARGETS_MAX: usize = 500;
const DOWN_MAX: usize = 16;
/// Where clients were is kept for the time between any two changes: so many places, of two bytes.
const HOMES_MAX: usize = 50_000_000;
/// The most checks in a run: some seconds of them.
const CHECKS_MAX: f64 = 20e6;
/// The longest time anything may take or happen at.
const TIME_MAX: Duration = Duration::from_secs(30 * 86_400);

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
        workload.check_size(latest)?;
        Ok(workload)
    }

    /// Refuses what would take all memory or hours, though each value is within its range.
    fn check_size(&self, latest_s: f64) -> Result<(), WorkloadError> {
        let changes: usize = self.targets.iter().map(|target| target.down.len() * 2).sum();
        let clients = usize::try_from(self.clients).unwrap_or(usize::MAX);
        if clients.saturating_mul(changes + 1) > HOMES_MAX {
            let value = format!("{clients}, with up to {changes} failures and returns");
            return Err(out_of_range("clients", &value, "at most 50000000 when multiplied with those"));
        }
        let each = self.checks.map_or(0.0, |checks| latest_s / checks.interval.as_secs_f64());
        if each * self.targets.len() as f64 > CHECKS_MAX {
            let value = format!("{:?}", self.checks.map(|checks| checks.interval).unwrap_or_default());
            return Err(out_of_range(
                "health.interval",
                &value,
                "long enough for at most 20000000 checks in all",
            ));
        }
        Ok(())
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
