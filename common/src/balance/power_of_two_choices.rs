//! Power of two choices (Mitzenmacher 2001): of two targets drawn by chance, the less loaded.
//!
//! Nearly as even as least connections, without the crowd that follows when many workers or nodes see the same least
//! loaded target at the same moment.

use super::least_connections::Burden;
use super::random::draw;
use super::{Balancer, Candidates, Request};
use crate::rng::Rng;

/// The less burdened of two different targets that are drawn in proportion to their shares; the first drawn if equal.
#[derive(Debug)]
pub(super) struct PowerOfTwoChoices {
    rng: Rng,
}

impl PowerOfTwoChoices {
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed) }
    }
}

impl Balancer for PowerOfTwoChoices {
    fn pick(&mut self, _request: &Request, candidates: &dyn Candidates) -> Option<usize> {
        let count = candidates.len();
        let first = draw(&mut self.rng, count, |index| candidates.share(index))?;
        let others = |index| if index == first { 0 } else { candidates.share(index) };
        let Some(second) = draw(&mut self.rng, count, others) else { return Some(first) };
        match (Burden::of(candidates, first), Burden::of(candidates, second)) {
            (Some(one), Some(other)) if other.is_less_than(one) => Some(second),
            _ => Some(first),
        }
    }
}
