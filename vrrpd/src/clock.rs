//! The clocks, read once per wake-up and handed to the core.

use common::time::{Instant, Now, UnixTime};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

/// Both clocks now. The monotonic one is `CLOCK_BOOTTIME`: it goes on while the host is suspended, so that a node which
/// slept finds its timers expired when it wakes up.
#[must_use]
pub fn now() -> Now {
    Now {
        at: Instant::from_nanos(nanos(ClockId::CLOCK_BOOTTIME)),
        unix: UnixTime::from_nanos(nanos(ClockId::CLOCK_REALTIME)),
    }
}

/// A clock in nanoseconds. Neither clock can fail on Linux; before 1970 and after 2554 it is 0 or the largest number.
fn nanos(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).unwrap_or(TimeSpec::new(0, 0));
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_run() {
        let early = now();
        let late = now();
        assert!(late.at >= early.at);
        assert!(early.at.as_nanos() > 0);
        // The host's clock is set to some time after 2020.
        assert!(early.unix.as_nanos() > 1_577_836_800_000_000_000);
    }
}
