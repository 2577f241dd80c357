//! Time as the cores see it: a monotonic [`Instant`] and a wall-clock [`UnixTime`], both handed in by the shells.
//!
//! The cores never read a clock. A shell reads one once per wake-up and passes the pair on as [`Now`]; the simulation
//! makes its own. `std::time::Instant` cannot be made from a number, which is why there is one of our own.

pub use std::time::Duration;

use std::fmt;
use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

/// A point on a node's monotonic clock, in nanoseconds since an arbitrary start (the boot of the host).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Instant {
    nanos: u64,
}

impl Instant {
    /// The start of the clock.
    pub const ZERO: Self = Self { nanos: 0 };

    /// The instant `nanos` nanoseconds after the clock's start.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self { nanos }
    }

    /// Nanoseconds since the clock's start.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.nanos
    }

    /// The time from `earlier` to `self`; zero when `earlier` is in fact later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos.saturating_sub(earlier.nanos))
    }

    /// `self` moved back by `span`, or the clock's start if that is nearer.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        Self { nanos: self.nanos.saturating_sub(nanos_of(span)) }
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self { nanos: self.nanos.saturating_add(nanos_of(span)) }
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

/// Wall-clock time: nanoseconds since 1970-01-01T00:00:00Z. Steps whenever the host's clock is set, so it never
/// drives a timer; it stamps events for people and packets for replay protection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UnixTime {
    nanos: u64,
}

impl UnixTime {
    /// The wall-clock time `nanos` nanoseconds after the Unix epoch.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self { nanos }
    }

    /// Nanoseconds since the Unix epoch.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.nanos
    }

    /// Whole microseconds since the Unix epoch.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.nanos / 1000
    }

    /// Whole milliseconds since the Unix epoch, the unit of every `…_unix_ms` field of the APIs.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.nanos / 1_000_000
    }

    /// How far apart two wall-clock times are, whichever is earlier.
    #[must_use]
    pub const fn distance(self, other: Self) -> Duration {
        Duration::from_nanos(self.nanos.abs_diff(other.nanos))
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = std::time::UNIX_EPOCH + Duration::from_nanos(self.nanos);
        write!(f, "{}", humantime::format_rfc3339_millis(at))
    }
}

/// One reading of both clocks, taken by the shell when it woke up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock: every timer and interval is measured on it.
    pub at: Instant,
    /// The wall clock: stamps only.
    pub unix: UnixTime,
}

/// The nanoseconds of `span`, capped at the 584 years that a `u64` holds.
fn nanos_of(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_never_go_below_zero() {
        let early = Instant::from_nanos(5);
        let late = Instant::from_nanos(9);
        assert_eq!(late - early, Duration::from_nanos(4));
        assert_eq!(early - late, Duration::ZERO);
        assert_eq!(early.before(Duration::from_secs(1)), Instant::ZERO);
    }

    #[test]
    fn far_future_saturates() {
        assert_eq!(Instant::from_nanos(1) + Duration::MAX, Instant::from_nanos(u64::MAX));
    }

    #[test]
    fn wall_clock_reads_as_rfc3339() {
        assert_eq!(UnixTime::from_nanos(1_500_000_000).to_string(), "1970-01-01T00:00:01.500Z");
    }
}
