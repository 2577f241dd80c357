//! What came out.

use common::config::Algorithm;
use common::time::{Duration, Instant};

use super::moves::Moves;
use super::workload::Workload;

/// A workload played through its algorithms.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// What was played.
    pub workload: Workload,
    /// When the last connection arrived: averages are over the time until then.
    pub horizon: Instant,
    /// One for each algorithm.
    pub outcomes: Vec<Outcome>,
}

/// What one algorithm made of the workload.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// For each target.
    pub targets: Vec<TargetOutcome>,
    /// How long connections waited at targets that had no free place.
    pub waits: Waits,
    /// Connections that were lost.
    pub lost: Lost,
    /// When each was.
    pub lost_at: Vec<Duration>,
    /// Connections that were served on another try than the first.
    pub retried: u64,
    /// Connections of clients that had one before.
    pub again: u64,
    /// Those of them that went to another target than the one before.
    pub switched: u64,
    /// Who moved when a target went or came.
    pub moves: Vec<Moves>,
}

/// What one target got.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetOutcome {
    /// Connections it accepted.
    pub accepted: u64,
    /// Their part of all accepted connections.
    pub share: f64,
    /// The most it had at the same time, waiting ones included.
    pub open_max: u32,
    /// The same as a part of what it serves at the same time: above 1, some had to wait.
    pub load_max: f64,
    /// How busy it was on average, as a part of what it serves at the same time.
    pub busy: f64,
    /// How long its connections waited.
    pub waits: Waits,
    /// Connections it had when it died.
    pub cut: u64,
    /// Connections it had, as a part of what it serves at the same time, averaged over equal stretches up to the horizon.
    pub load: Vec<f64>,
}

/// Waiting times of connections that were served or began to be.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Waits {
    /// How many there are.
    pub count: u64,
    /// Those that waited at all.
    pub waited: u64,
    /// The average over all.
    pub mean: Duration,
    /// The time that one in a hundred exceeds.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl Waits {
    /// The summary of some times.
    pub(super) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let Some(&max) = times.last() else { return Self::default() };
        let count = u64::try_from(times.len()).unwrap_or(u64::MAX);
        let sum: Duration = times.iter().sum();
        Self {
            count,
            waited: times.iter().map(|time| u64::from(!time.is_zero())).sum(),
            mean: sum.div_f64(count as f64),
            p99: times[(times.len() * 99).div_ceil(100) - 1],
            max,
        }
    }
}

/// Lost connections by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// They were at a target when it died.
    pub cut: u64,
    /// Every try met a dead target.
    pub refused: u64,
    /// The last try met a target where as many waited as may.
    pub overflowed: u64,
    /// There was no target to try.
    pub nobody: u64,
}

impl Lost {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.cut + self.refused + self.overflowed + self.nobody
    }
}

impl Report {
    /// The share of connections that a target's weight stands for while all are in service: a backup's is none.
    #[must_use]
    pub fn share_by_weight(&self, target: usize) -> f64 {
        let total = f64::from(self.workload.weight_total().max(1));
        let model = self.workload.targets.get(target).filter(|model| !model.backup);
        model.map_or(0.0, |model| f64::from(model.weight) / total)
    }

    /// The outcome of an algorithm, if it was played.
    #[must_use]
    pub fn outcome(&self, algorithm: Algorithm) -> Option<&Outcome> {
        self.outcomes.iter().find(|outcome| outcome.algorithm == algorithm)
    }

    /// How far the share of the target that is furthest off is from its weight, as a difference of parts of one.
    #[must_use]
    pub fn share_error(&self, outcome: &Outcome) -> f64 {
        let off =
            |(index, target): (usize, &TargetOutcome)| (target.share - self.share_by_weight(index)).abs();
        outcome.targets.iter().enumerate().map(off).fold(0.0, f64::max)
    }
}

impl Outcome {
    /// The highest of the targets' highest loads.
    #[must_use]
    pub fn load_max(&self) -> f64 {
        self.targets.iter().map(|target| target.load_max).fold(0.0, f64::max)
    }
}
