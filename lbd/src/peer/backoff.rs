//! Pauses between attempts to connect.

use std::time::Duration;

use common::rng::Rng;

/// Each pause is twice as long as the one before, up to a bound, and shortened by up to half at random, so that two nodes do not go on
/// meeting in the same moment.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
    rng: Rng,
}

impl Backoff {
    /// Pauses from `first` up to `longest`.
    pub(super) const fn new(first: Duration, longest: Duration, rng: Rng) -> Self {
        Self { first, longest, next: first, rng }
    }

    /// The pause before the next attempt.
    pub(super) fn pause(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(self.longest);
        self.rng.span(full / 2, full)
    }

    /// Begins again with the shortest.
    pub(super) const fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_their_bound_and_begin_again() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(5000), Rng::new(1));
        for full in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            let pause = backoff.pause();
            assert!((ms(full / 2)..ms(full)).contains(&pause), "{pause:?} of {full} ms");
        }
        backoff.reset();
        assert!(backoff.pause() < ms(100));
    }
}
