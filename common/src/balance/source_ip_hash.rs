//! Source-IP hash: the hash of the client's address modulo the weights of the targets in service.
//!
//! Exact shares and no table; but when a target leaves or comes, most clients change theirs. The consistent hash is there
//! for those who mind.

use std::sync::Arc;

use super::random::at;
use super::{Admission, Balancer, Candidates, Request};

/// The hash modulo the weights.
#[derive(Debug)]
pub(super) struct SourceIpHash {
    admission: Arc<Admission>,
}

impl SourceIpHash {
    pub(super) fn new(admission: Arc<Admission>) -> Self {
        Self { admission }
    }
}

impl Balancer for SourceIpHash {
    fn pick(&mut self, request: &Request, candidates: &dyn Candidates) -> Option<usize> {
        let (key, count) = (request.source, candidates.len());
        let weight = |index| self.admission.weight(key, index, candidates);
        let total: u64 = (0..count).map(|index| u64::from(weight(index))).sum();
        if total == 0 {
            return self.admission.rendezvous(key, candidates);
        }
        at(key % total, count, weight).or_else(|| self.admission.rendezvous(key, candidates))
    }
}
