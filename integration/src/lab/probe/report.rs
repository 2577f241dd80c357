//! What a [`super::ConnectProbe`] found out, and the arithmetic on it.

use std::collections::BTreeMap;
use std::time::Duration;

use common::time::Instant;
use serde::{Deserialize, Serialize};

use crate::lab::clock::Window;

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The connection was refused.
    Refused,
    /// It was reset, while connecting or later.
    Reset,
    /// It was not done when its deadline came.
    Timeout,
    /// The network or the host cannot be reached, says the kernel.
    Unreachable,
    /// It was closed before the answer was complete.
    Closed,
    /// The answer's status was not 200.
    Status(u16),
    /// What came was not the answer of HTTP, or not what was sent (echo).
    Garbled,
    /// A system call failed otherwise: the probe's own trouble, with the error number.
    Local(i32),
}

impl Failure {
    /// What an error of a socket means.
    pub(super) fn of(error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => Self::Reset,
            ErrorKind::TimedOut => Self::Timeout,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
                Self::Unreachable
            }
            ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Local(error.raw_os_error().unwrap_or(0)),
        }
    }
}

/// One attempt to be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it began: before its first system call.
    pub start: Instant,
    /// When it succeeded (the whole head of the answer is there) or failed.
    pub end: Instant,
    /// How it failed, if it did.
    pub failure: Option<Failure>,
    /// Which target answered, as an index into [`ConnectReport::targets`].
    pub target: Option<u16>,
}

/// A stretch of time in which no attempt that would succeed began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The start of the last attempt before it that succeeded.
    pub from: Instant,
    /// The start of the first attempt after it that succeeded.
    pub to: Instant,
}

impl Gap {
    /// Its length.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.to - self.from
    }
}

/// What a probe found out.
///
/// **The gap.** [`ConnectReport::longest_gap`] is the largest distance between the *starts* of two neighbouring
/// successful attempts. The run's begin and end count as boundaries as if an attempt had succeeded there, so that an
/// outage that lasts to the end shows. It errs upwards by one interval, never downwards; what the probe
/// itself contributes (by starting late on a busy machine) is [`ConnectReport::longest_pause`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectReport {
    /// Every attempt that came to an end, ordered by its start.
    pub attempts: Vec<Attempt>,
    /// The names the targets gave.
    pub targets: Vec<String>,
    /// When the first attempt was due.
    pub begun: Instant,
    /// When the last attempt began.
    pub ended: Instant,
    /// Attempts not made because too many were under way: each is an interval in which the service was not tried.
    pub skipped_in_flight: u64,
    /// Attempts not made because the probe's thread ran late.
    pub skipped_late: u64,
    /// Attempts not recorded because the record was full.
    pub unrecorded: u64,
    /// Connections that had their answer and were then reset rather than closed.
    pub reset_after_answer: u64,
}

impl ConnectReport {
    /// How many attempts succeeded.
    #[must_use]
    pub fn succeeded(&self) -> usize {
        self.attempts.iter().filter(|attempt| attempt.failure.is_none()).count()
    }

    /// How many attempts failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.attempts.len() - self.succeeded()
    }

    /// The failed attempts by kind.
    #[must_use]
    pub fn failures(&self) -> BTreeMap<Failure, usize> {
        self.failures_between(Instant::ZERO, Instant::from_nanos(u64::MAX))
    }

    /// The failed attempts by kind, of those that began within these times.
    #[must_use]
    pub fn failures_between(&self, from: Instant, to: Instant) -> BTreeMap<Failure, usize> {
        let mut kinds = BTreeMap::new();
        let within = self.attempts.iter().filter(|attempt| from <= attempt.start && attempt.start <= to);
        for failure in within.filter_map(|attempt| attempt.failure) {
            *kinds.entry(failure).or_default() += 1;
        }
        kinds
    }

    /// The successful attempts by target.
    #[must_use]
    pub fn by_target(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for attempt in self.attempts.iter().filter(|attempt| attempt.failure.is_none()) {
            let name = attempt.target.and_then(|index| self.targets.get(usize::from(index)));
            *counts.entry(name.cloned().unwrap_or_default()).or_default() += 1;
        }
        counts
    }

    /// The longest gap of the whole run.
    #[must_use]
    pub fn longest_gap(&self) -> Gap {
        self.longest_gap_touching(Instant::ZERO, Instant::from_nanos(u64::MAX))
    }

    /// The longest gap that touches the time from `event.before` to `horizon` after `event.after`.
    #[must_use]
    pub fn gap_around(&self, event: Window, horizon: Duration) -> Gap {
        self.longest_gap_touching(event.before, event.after + horizon)
    }

    /// From the event (`event.before`: the earliest it can have been) to the start of the first successful attempt of
    /// which all later ones within `horizon` succeed too; `None` when there is none. How long it took until new
    /// connections were served steadily again.
    #[must_use]
    pub fn recovery(&self, event: Window, horizon: Duration) -> Option<Duration> {
        let end = event.after + horizon;
        let within = |attempt: &&Attempt| event.before <= attempt.start && attempt.start <= end;
        let last_failure = self
            .attempts
            .iter()
            .filter(within)
            .filter(|attempt| attempt.failure.is_some())
            .map(|attempt| attempt.start);
        let after = last_failure.max().unwrap_or(event.before);
        let good = |attempt: &&Attempt| attempt.failure.is_none() && attempt.start >= after;
        self.attempts.iter().find(good).map(|attempt| attempt.start - event.before)
    }

    /// The longest time between the starts of two neighbouring attempts, however they went: what the probe's own
    /// lateness may add to a gap.
    #[must_use]
    pub fn longest_pause(&self) -> Duration {
        let starts = self.attempts.windows(2).map(|pair| pair[1].start - pair[0].start);
        starts.max().unwrap_or_default()
    }

    /// The time a share of the successful attempts took at most, from start to answer; `share` from 0 to 1.
    #[must_use]
    pub fn latency(&self, share: f64) -> Duration {
        let good = self.attempts.iter().filter(|attempt| attempt.failure.is_none());
        let mut times: Vec<Duration> = good.map(|attempt| attempt.end - attempt.start).collect();
        times.sort_unstable();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index below the number of attempts, which is far below 2^52"
        )]
        let index = (times.len() as f64 * share.clamp(0.0, 1.0)) as usize;
        times.get(index.min(times.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// One line for people.
    #[must_use]
    pub fn summary(&self) -> String {
        format!(
            "{} attempts, {} failed {:?}, longest gap {:?}, probe's own longest pause {:?}, skipped {} in flight and {} late, median {:?}, 99% {:?}, targets {:?}",
            self.attempts.len(),
            self.failed(),
            self.failures(),
            self.longest_gap().length(),
            self.longest_pause(),
            self.skipped_in_flight,
            self.skipped_late,
            self.latency(0.5),
            self.latency(0.99),
            self.by_target(),
        )
    }

    fn longest_gap_touching(&self, from: Instant, to: Instant) -> Gap {
        let mut longest = Gap { from: self.begun, to: self.begun };
        let mut last = self.begun;
        let starts =
            self.attempts.iter().filter(|attempt| attempt.failure.is_none()).map(|attempt| attempt.start);
        for start in starts.chain(std::iter::once(self.ended)) {
            let gap = Gap { from: last, to: start };
            if start >= from && last <= to && gap.length() > longest.length() {
                longest = gap;
            }
            last = last.max(start);
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    /// An attempt each millisecond of 0..100 but those that `failed` names.
    fn report(failed: impl Fn(u64) -> bool) -> ConnectReport {
        let attempt = |ms| Attempt {
            start: at(ms),
            end: at(ms + 1),
            failure: failed(ms).then_some(Failure::Timeout),
            target: None,
        };
        ConnectReport {
            attempts: (0..100).map(attempt).collect(),
            begun: at(0),
            ended: at(99),
            ..Default::default()
        }
    }

    #[test]
    fn the_gap_spans_the_neighbouring_successes() {
        let report = report(|ms| (20..30).contains(&ms) || (50..55).contains(&ms));
        assert_eq!(report.longest_gap(), Gap { from: at(19), to: at(30) });
        let event = Window { before: at(49), after: at(51) };
        assert_eq!(report.gap_around(event, Duration::from_millis(20)), Gap { from: at(49), to: at(55) });
        assert_eq!(report.recovery(event, Duration::from_millis(20)), Some(Duration::from_millis(6)));
        assert_eq!(report.failures(), BTreeMap::from([(Failure::Timeout, 15)]));
        assert_eq!(report.longest_pause(), Duration::from_millis(1));
    }

    #[test]
    fn an_outage_at_either_end_counts() {
        assert_eq!(report(|ms| ms >= 60).longest_gap(), Gap { from: at(59), to: at(99) });
        assert_eq!(report(|ms| ms < 60).longest_gap(), Gap { from: at(0), to: at(60) });
        assert_eq!(report(|_| true).longest_gap().length(), Duration::from_millis(99));
        let event = Window { before: at(70), after: at(70) };
        assert_eq!(report(|ms| ms >= 60).recovery(event, Duration::from_secs(1)), None);
    }
}
