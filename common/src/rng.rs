//! A small seeded generator for decisions that must be reproducible. Not for secrets.
//!
//! SplitMix64 (Steele, Lea, Flood 2014): one addition and a mixing of the sum, so that any seed, also 0 and neighbouring
//! ones, gives a stream of its own.

use std::ops::Range;

use crate::time::Duration;

/// A generator; the same seed gives the same stream on every machine.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// The stream of `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A generator with a stream of its own, so that what one part draws does not shift what another one gets.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self::new(self.next_u64())
    }

    /// 64 bits, each equally likely.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let product = u128::from(self.next_u64()) * u128::from(bound);
        // The upper half of the product of a 64-bit number and `bound` is below `bound`.
        u64::try_from(product >> 64).unwrap_or_default()
    }

    /// A number of `range`; its start if it is empty.
    pub fn range(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end.saturating_sub(range.start))
    }

    /// True `permille` times in a thousand.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// One of `choices`, which must not be empty.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let length = u64::try_from(choices.len()).unwrap_or(u64::MAX);
        // Below the length, so it fits; an empty slice panics as indexing one does.
        &choices[usize::try_from(self.below(length)).unwrap_or_default()]
    }

    /// A span from `low` up to but not including `high`; `low` if they are equal.
    pub fn span(&mut self, low: Duration, high: Duration) -> Duration {
        let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.range(nanos(low)..nanos(high)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_that_of_splitmix64() {
        // The reference implementation's first numbers for the seed 1234567.
        let mut rng = Rng::new(1_234_567);
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([rng.next_u64(), rng.next_u64(), rng.next_u64()], expected);
    }

    #[test]
    fn draws_stay_within_their_bounds() {
        let mut rng = Rng::new(7);
        let mut seen = [false; 5];
        for _ in 0..1000 {
            let drawn = rng.range(10..15);
            assert!((10..15).contains(&drawn));
            seen[usize::try_from(drawn - 10).unwrap()] = true;
            let span = rng.span(Duration::from_millis(1), Duration::from_millis(2));
            assert!((1_000_000..2_000_000).contains(&span.as_nanos()));
        }
        assert_eq!(seen, [true; 5]);
        assert_eq!((rng.below(0), rng.range(4..4)), (0, 4));
        assert!(!rng.chance(0) && rng.chance(1000));
    }

    #[test]
    fn forks_do_not_shift_each_other() {
        let mut one = Rng::new(1);
        let mut fork = one.fork();
        let after = one.next_u64();
        fork.next_u64();
        let mut same = Rng::new(1);
        drop(same.fork());
        assert_eq!(same.next_u64(), after);
    }
}
