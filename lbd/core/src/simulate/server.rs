//! A target of the simulation: how many it serves, who waits, and how loaded it was.

use std::collections::VecDeque;

use common::time::{Duration, Instant};

use super::workload::TargetModel;

/// Stretches of time in which the load is averaged for the drawing.
pub(super) const BUCKETS: usize = 240;

/// What became of a connection attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// It is worked on, until then.
    Serving(Instant),
    /// It waits until another one ends.
    Waiting,
    /// Nobody is there.
    Down,
    /// As many wait as may.
    Full,
}

/// A connection at a target.
#[derive(Clone, Copy, Debug)]
struct Job {
    arrived: Instant,
    work: Duration,
}

/// A target.
#[derive(Debug)]
pub(super) struct Server {
    model: TargetModel,
    up: bool,
    /// Counts its deaths: what an earlier life would have finished is not.
    pub(super) life: u32,
    serving: u32,
    waiting: VecDeque<Job>,
    /// How long those it took from the queue or served at once had waited.
    pub(super) waited: Vec<Duration>,
    /// Connections it accepted.
    pub(super) accepted: u64,
    /// Connections it had when it died.
    pub(super) cut: u64,
    /// The most connections it had at the same time, waiting ones included.
    pub(super) open_max: u32,
    /// Connections it had, multiplied by time, for each bucket.
    pub(super) open_seconds: [f64; BUCKETS],
    /// Connections it worked on, multiplied by time.
    pub(super) busy_seconds: f64,
    bucket: Duration,
    horizon: Instant,
    since: Instant,
}

impl Server {
    /// The target at time zero. What is averaged is averaged up to `horizon`.
    pub(super) fn new(model: TargetModel, horizon: Instant) -> Self {
        let buckets = u32::try_from(BUCKETS).unwrap_or(1);
        Self {
            model,
            up: true,
            life: 0,
            serving: 0,
            waiting: VecDeque::new(),
            waited: Vec::new(),
            accepted: 0,
            cut: 0,
            open_max: 0,
            open_seconds: [0.0; BUCKETS],
            busy_seconds: 0.0,
            bucket: ((horizon - Instant::ZERO) / buckets).max(Duration::from_nanos(1)),
            horizon,
            since: Instant::ZERO,
        }
    }

    /// Whether a check finds it alive.
    pub(super) const fn is_up(&self) -> bool {
        self.up
    }

    /// Connections it has, waiting ones included.
    pub(super) fn open(&self) -> u32 {
        self.serving.saturating_add(u32::try_from(self.waiting.len()).unwrap_or(u32::MAX))
    }

    /// A connection arrives.
    pub(super) fn offer(&mut self, now: Instant, work: Duration) -> Offer {
        if !self.up {
            return Offer::Down;
        }
        self.account(now);
        let offer = if self.serving < self.model.serves {
            self.serving += 1;
            self.waited.push(Duration::ZERO);
            Offer::Serving(now + self.time_for(work))
        } else if self.waiting.len() < usize::try_from(self.model.waiting).unwrap_or(usize::MAX) {
            self.waiting.push_back(Job { arrived: now, work });
            Offer::Waiting
        } else {
            return Offer::Full;
        };
        self.accepted += 1;
        self.open_max = self.open_max.max(self.open());
        offer
    }

    /// A connection of this life has ended; answers when the one that comes after it will.
    pub(super) fn finish(&mut self, now: Instant) -> Option<Instant> {
        self.account(now);
        let Some(job) = self.waiting.pop_front() else {
            self.serving -= 1;
            return None;
        };
        self.waited.push(now - job.arrived);
        Some(now + self.time_for(job.work))
    }

    /// It dies, or comes back empty.
    pub(super) fn set_up(&mut self, now: Instant, up: bool) {
        self.account(now);
        self.up = up;
        if !up {
            self.cut += u64::from(self.open());
            self.serving = 0;
            self.waiting.clear();
            self.life += 1;
        }
    }

    /// Accounts for the time up to the horizon, at the end.
    pub(super) fn close(&mut self) {
        self.account(self.horizon);
    }

    fn time_for(&self, work: Duration) -> Duration {
        work.div_f64(self.model.speed)
    }

    /// Adds what was there since the last change to the averages.
    fn account(&mut self, now: Instant) {
        let until = now.min(self.horizon);
        let open = f64::from(self.open());
        self.busy_seconds += f64::from(self.serving) * (until - self.since).as_secs_f64();
        let width = self.bucket.as_nanos();
        while self.since < until {
            let nanos = u128::from(self.since.as_nanos());
            let number = usize::try_from(nanos / width).unwrap_or(usize::MAX).min(BUCKETS - 1);
            let end = if number == BUCKETS - 1 {
                until
            } else {
                // The end of a bucket before the horizon, which is 64 bits of nanoseconds.
                let next = (nanos / width + 1) * width;
                until.min(Instant::from_nanos(u64::try_from(next).unwrap_or(u64::MAX)))
            };
            self.open_seconds[number] += open * (end - self.since).as_secs_f64();
            self.since = end;
        }
        self.since = self.since.max(until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(serves: u32, waiting: u32) -> Server {
        let model = TargetModel {
            id: "a".to_owned(),
            weight: 1,
            backup: false,
            serves,
            speed: 2.0,
            waiting,
            down: Vec::new(),
        };
        Server::new(model, at(24_000))
    }

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn serves_so_many_and_lets_so_many_wait() {
        let mut server = server(1, 1);
        assert_eq!(server.offer(at(0), SECOND), Offer::Serving(at(500)), "twice as fast");
        assert_eq!(server.offer(at(100), SECOND), Offer::Waiting);
        assert_eq!(server.offer(at(100), SECOND), Offer::Full);
        assert_eq!((server.open(), server.open_max, server.accepted), (2, 2, 2));
        assert_eq!(server.finish(at(500)), Some(at(1000)));
        assert_eq!(server.finish(at(1000)), None);
        assert_eq!(server.waited, [Duration::ZERO, Duration::from_millis(400)]);
        assert_eq!(server.open(), 0);
    }

    #[test]
    fn the_dead_lose_what_they_have() {
        let mut server = server(2, 5);
        for _ in 0..3 {
            server.offer(at(0), SECOND);
        }
        server.set_up(at(100), false);
        assert_eq!((server.cut, server.open(), server.life), (3, 0, 1));
        assert_eq!(server.offer(at(200), SECOND), Offer::Down);
        server.set_up(at(300), true);
        assert_eq!(server.offer(at(400), SECOND), Offer::Serving(at(900)));
    }

    #[test]
    fn averages_are_over_time() {
        let mut server = server(1, 5);
        server.offer(at(0), 4 * SECOND);
        server.offer(at(1000), 4 * SECOND);
        server.finish(at(2000));
        server.finish(at(4000));
        server.close();
        // A bucket is 100 ms: one connection in the first ten, two in the next ten, one in twenty more.
        assert!((server.open_seconds[9] - 0.1).abs() < 1e-9);
        assert!((server.open_seconds[10] - 0.2).abs() < 1e-9);
        assert!((server.open_seconds.iter().sum::<f64>() - 5.0).abs() < 1e-9);
        assert!((server.busy_seconds - 4.0).abs() < 1e-9);
    }
}
