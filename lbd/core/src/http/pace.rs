//! How slowly a client may send a body, or take one: one that moves a byte now and then is never idle, and holds a place at a target for as
//! long as it likes.

use common::time::{Duration, Instant};

/// What a client has to begin with, whatever it moves.
const GRACE: Duration = Duration::from_secs(10);

/// One direction of a client that has to move so many bytes a second, over all the time that it was waited for. What a target takes its time for
/// is not its fault.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    bytes_per_second: u32,
    waited: Duration,
    /// Since when it is waited for, if it is.
    since: Option<Instant>,
}

impl Pace {
    /// Nobody is waited for yet.
    #[must_use]
    pub const fn new(bytes_per_second: u32) -> Self {
        Self { bytes_per_second, waited: Duration::ZERO, since: None }
    }

    /// So many bytes have moved in all. Answers how long the client may be waited for, if it is what is waited for now.
    pub fn moved(&mut self, bytes: u64, waits: bool, now: Instant) -> Option<Duration> {
        if let Some(since) = self.since {
            self.waited += now.since(since);
        }
        self.since = waits.then_some(now);
        waits.then(|| self.left(bytes))
    }

    fn left(&self, bytes: u64) -> Duration {
        let earned_ms = bytes.saturating_mul(1000) / u64::from(self.bytes_per_second.max(1));
        (GRACE.saturating_add(Duration::from_millis(earned_ms))).saturating_sub(self.waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn who_is_slow_runs_out_of_time() {
        let mut pace = Pace::new(100);
        assert_eq!(pace.moved(0, true, at(0)), Some(Duration::from_secs(10)));
        assert_eq!(pace.moved(1, true, at(4000)), Some(Duration::from_millis(6010)));
        assert_eq!(pace.moved(2, true, at(10_000)), Some(Duration::from_millis(20)));
        assert_eq!(pace.moved(3, true, at(10_100)), Some(Duration::ZERO));
    }

    #[test]
    fn who_is_quick_has_time() {
        let mut pace = Pace::new(100);
        pace.moved(0, true, at(0));
        assert_eq!(pace.moved(10_000, true, at(1000)), Some(Duration::from_secs(109)));
        let left = pace.moved(u64::MAX, true, at(2000));
        assert!(left > Some(Duration::from_secs(1 << 40)), "and no number is too large");
    }

    #[test]
    fn a_target_s_time_is_not_the_client_s() {
        let mut pace = Pace::new(100);
        pace.moved(0, true, at(0));
        assert_eq!(pace.moved(100, false, at(5000)), None);
        let left = pace.moved(200, true, at(95_000));
        assert_eq!(left, Some(Duration::from_secs(7)), "10 and 2 less the 5 waited for");
    }
}
