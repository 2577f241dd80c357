//! The two clocks of the shell.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use common::time::{Instant as CoreInstant, Now, UnixTime};

/// Milliseconds on the monotonic clock since the process started; never 0, so that 0 can mean "never".
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub(crate) fn new() -> Self {
        Self { start: Instant::now() }
    }

    /// Milliseconds since the start, plus one.
    pub(crate) fn now_ms(self) -> u64 {
        ms_of(self.at())
    }

    /// Both clocks now, for the cores.
    pub(crate) fn now(self) -> Now {
        Now { at: self.at(), unix: unix_now() }
    }

    /// The monotonic clock now, for the cores.
    pub(crate) fn at(self) -> CoreInstant {
        self.of(Instant::now())
    }

    /// What it has told before, for the cores.
    pub(crate) fn of(self, told: Instant) -> CoreInstant {
        let since = told.saturating_duration_since(self.start);
        CoreInstant::from_nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// A time of the cores as [`Clock::now_ms`] tells it.
pub(crate) const fn ms_of(at: CoreInstant) -> u64 {
    at.as_nanos() / 1_000_000 + 1
}

/// The wall clock, for stamps.
pub(crate) fn unix_now() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixTime::from_nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
