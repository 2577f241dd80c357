//! Smooth weighted round robin.

use super::{Balancer, Candidates, Request};

/// A worker's start is advanced by at most so many picks; the first pick makes them all.
const SKIP_MAX: u64 = 64;

/// Whose turn it is.
///
/// Each pick adds every candidate's share to its credit, takes the candidate with the most credit (the first of equals)
/// and subtracts the candidates' total share from it. Over as many picks as the shares add up to (in lowest terms), each
/// candidate is taken exactly as often as its share says, and the picks of a heavy one are spread out instead of coming
/// in a burst.
#[derive(Clone, Debug)]
pub struct Rotation {
    credits: Vec<i64>,
    /// Picks to make before the first one.
    skip: usize,
}

impl Rotation {
    /// A rotation that is advanced by `seed` picks (modulo the number of targets, and 64 at most) so that several workers
    /// with a few connections each don't all begin with the first target.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // At most 64, so it fits.
        Self { credits: Vec::new(), skip: usize::try_from(seed % SKIP_MAX).unwrap_or_default() }
    }

    /// The next of `count` candidates with these shares; `None` if none has any.
    pub fn pick(&mut self, count: usize, share: impl Fn(usize) -> u32) -> Option<usize> {
        if self.credits.len() != count {
            self.credits.resize(count, 0);
        }
        // Nobody can be left to skip when there is nobody.
        for _ in 0..std::mem::take(&mut self.skip) % count.max(1) {
            self.advance(&share);
        }
        self.advance(&share)
    }

    fn advance(&mut self, share: impl Fn(usize) -> u32) -> Option<usize> {
        let mut total = 0_i64;
        let mut best: Option<usize> = None;
        for index in 0..self.credits.len() {
            let share = i64::from(share(index));
            if share == 0 {
                continue;
            }
            total += share;
            self.credits[index] += share;
            if best.is_none_or(|best| self.credits[index] > self.credits[best]) {
                best = Some(index);
            }
        }
        let best = best?;
        self.credits[best] -= total;
        Some(best)
    }
}

/// Each in turn, as often as its share says.
#[derive(Debug)]
pub(super) struct RoundRobin {
    rotation: Rotation,
}

impl RoundRobin {
    pub(super) fn new(seed: u64) -> Self {
        Self { rotation: Rotation::new(seed) }
    }
}

impl Balancer for RoundRobin {
    fn pick(&mut self, _request: &Request, candidates: &dyn Candidates) -> Option<usize> {
        self.rotation.pick(candidates.len(), |index| candidates.share(index))
    }
}
