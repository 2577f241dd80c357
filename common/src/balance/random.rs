//! Random: each target by a chance in proportion to its share.

use super::{Balancer, Candidates, Request};
use crate::rng::Rng;

/// By chance.
#[derive(Debug)]
pub(super) struct Random {
    rng: Rng,
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed) }
    }
}

impl Balancer for Random {
    fn pick(&mut self, _request: &Request, candidates: &dyn Candidates) -> Option<usize> {
        draw(&mut self.rng, candidates.len(), |index| candidates.share(index))
    }
}

/// One of `count`, by a chance in proportion to its share; `None` if none has any.
pub(super) fn draw(rng: &mut Rng, count: usize, share: impl Fn(usize) -> u32) -> Option<usize> {
    let total: u64 = (0..count).map(|index| u64::from(share(index))).sum();
    at(rng.below(total), count, share)
}

/// Where `point` falls when the shares are laid end to end.
///
/// When shares shrink while they are read, as they may under the eyes of another worker, the point can lie beyond the
/// end: then it is the last one that has a share.
pub(super) fn at(point: u64, count: usize, share: impl Fn(usize) -> u32) -> Option<usize> {
    let mut left = point;
    let mut last = None;
    for index in 0..count {
        let share = u64::from(share(index));
        if share == 0 {
            continue;
        }
        if left < share {
            return Some(index);
        }
        left -= share;
        last = Some(index);
    }
    last
}
