//! Consistent hash: the client's slot in a Maglev table.

use std::sync::Arc;

use super::maglev::Table;
use super::{Admission, Balancer, Candidates, Request};
use crate::hash::mix;

/// Slots that are looked at for one key before the targets are gone through one by one. With half the weight out of
/// service one key in 65,536 gets that far, with nine tenths one in five.
const PROBES_MAX: u64 = 16;

/// What makes the probes of a key different from each other: SplitMix64's step.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The target of the client's slot.
#[derive(Debug)]
pub(super) struct ConsistentHash {
    table: Arc<Table>,
    admission: Arc<Admission>,
}

impl ConsistentHash {
    pub(super) fn new(table: Arc<Table>, admission: Arc<Admission>) -> Self {
        Self { table, admission }
    }
}

impl Balancer for ConsistentHash {
    fn pick(&mut self, request: &Request, candidates: &dyn Candidates) -> Option<usize> {
        look_up(&self.table, &self.admission, request.source, candidates)
    }
}

/// The target of the key's slot, or of its second slot when the first one's does not accept it, and so on. A key keeps its
/// target unless that target, or one it would rather have, leaves or comes.
pub(super) fn look_up(
    table: &Table,
    admission: &Admission,
    key: u64,
    candidates: &dyn Candidates,
) -> Option<usize> {
    let count = candidates.len();
    let mut probe = key;
    for number in 1..=PROBES_MAX {
        if let Some(index) = table.get(probe)
            && index < count
            && admission.accepts(key, index, candidates)
        {
            return Some(index);
        }
        probe = mix(key.wrapping_add(STEP.wrapping_mul(number)));
    }
    admission.rendezvous(key, candidates)
}
