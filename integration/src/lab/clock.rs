//! The lab's one clock: `CLOCK_MONOTONIC`, the same in every thread, namespace and process of the host.

use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use common::time::{Instant, UnixTime};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::error::{LabError, Result};

/// Now, on the monotonic clock.
#[must_use]
pub fn now() -> Instant {
    Instant::from_nanos(read(ClockId::CLOCK_MONOTONIC))
}

/// Now, on the wall clock: what logs and captures are stamped with.
#[must_use]
pub fn wall() -> UnixTime {
    UnixTime::from_nanos(read(ClockId::CLOCK_REALTIME))
}

fn read(clock: ClockId) -> u64 {
    // Both clocks exist on every Linux, and neither is before its own zero.
    clock_gettime(clock).map_or(0, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
    })
}

/// When something was done: it took effect after `before` and no later than `after`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Read just before the command was issued.
    pub before: Instant,
    /// Read just after it returned.
    pub after: Instant,
}

impl Window {
    /// Does it, and takes the time on both sides.
    pub(crate) fn around<T>(act: impl FnOnce() -> Result<T>) -> Result<(Self, T)> {
        let before = now();
        let value = act()?;
        Ok((Self { before, after: now() }, value))
    }

    /// How long the command took: the uncertainty of everything measured from it.
    #[must_use]
    pub fn width(&self) -> Duration {
        self.after - self.before
    }
}

/// How long something may take on a machine that is so much slower than others as `TANDEM_LAB_PATIENCE` says: an emulated one.
#[must_use]
pub fn patient(limit: Duration) -> Duration {
    static TIMES: LazyLock<u32> = LazyLock::new(|| {
        let times = std::env::var("TANDEM_LAB_PATIENCE").ok();
        times.and_then(|times| times.parse().ok()).unwrap_or(1)
    });
    limit * *TIMES
}

/// Waits until `check` gives a value, looking every 2 ms; `what` names it in the error.
///
/// # Errors
/// [`LabError::Timeout`] when it gave none within `limit`, longer where [`patient`] says so.
pub fn wait_for<T>(what: &str, limit: Duration, mut check: impl FnMut() -> Option<T>) -> Result<T> {
    let (start, limit) = (now(), patient(limit));
    loop {
        if let Some(value) = check() {
            return Ok(value);
        }
        let waited = now() - start;
        if waited >= limit {
            return Err(LabError::Timeout { what: what.to_owned(), waited });
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until `check` is true; see [`wait_for`].
///
/// # Errors
/// [`LabError::Timeout`] when it stayed false for `limit`.
pub fn wait_until(what: &str, limit: Duration, mut check: impl FnMut() -> bool) -> Result<()> {
    wait_for(what, limit, || check().then_some(()))
}
