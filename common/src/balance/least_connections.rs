//! Least connections: the target with the fewest open connections for its share.

use super::round_robin::Rotation;
use super::{Balancer, Candidates, Request};

/// The target with the least load in relation to its share; targets that are equal in this take turns as in round robin,
/// so that the shares follow the weights also while nothing is open for long.
#[derive(Debug)]
pub(super) struct LeastConnections {
    rotation: Rotation,
}

impl LeastConnections {
    pub(super) fn new(seed: u64) -> Self {
        Self { rotation: Rotation::new(seed) }
    }
}

impl Balancer for LeastConnections {
    fn pick(&mut self, _request: &Request, candidates: &dyn Candidates) -> Option<usize> {
        least_loaded(&mut self.rotation, candidates)
    }
}

/// A load and the share it is seen in relation to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Burden {
    load: u32,
    share: u32,
}

impl Burden {
    /// That of a candidate; `None` if it is not to be chosen.
    pub(super) fn of(candidates: &dyn Candidates, index: usize) -> Option<Self> {
        let share = candidates.share(index);
        (share > 0).then(|| Self { load: candidates.load(index), share })
    }

    /// Whether `load / share` is less than the other's, multiplied out: exact, and 64 bits are enough for 32 times 32.
    pub(super) fn is_less_than(self, other: Self) -> bool {
        u64::from(self.load) * u64::from(other.share) < u64::from(other.load) * u64::from(self.share)
    }
}

/// The least burdened candidate; equal ones take turns.
pub(super) fn least_loaded(rotation: &mut Rotation, candidates: &dyn Candidates) -> Option<usize> {
    let mut least: Option<(usize, Burden)> = None;
    for index in 0..candidates.len() {
        if let Some(burden) = Burden::of(candidates, index)
            && least.is_none_or(|(_, least)| burden.is_less_than(least))
        {
            least = Some((index, burden));
        }
    }
    let (first, least) = least?;
    let tied = |index| match Burden::of(candidates, index) {
        Some(burden) if !least.is_less_than(burden) => burden.share,
        _ => 0,
    };
    // Other workers change loads and shares between the two passes: then maybe nobody is tied any more.
    Some(rotation.pick(candidates.len(), tied).unwrap_or(first))
}
