//! Least outstanding requests: the target with the fewest requests under way for its share.
//!
//! What differs from least connections is what the load counts: requests without an answer yet, where the service can see
//! requests. For a proxied connection without such knowledge the connection itself is the request.

use super::least_connections::least_loaded;
use super::round_robin::Rotation;
use super::{Balancer, Candidates, Request};

/// The target with the fewest outstanding requests in relation to its share; equal ones take turns.
#[derive(Debug)]
pub(super) struct LeastOutstandingRequests {
    rotation: Rotation,
}

impl LeastOutstandingRequests {
    pub(super) fn new(seed: u64) -> Self {
        Self { rotation: Rotation::new(seed) }
    }
}

impl Balancer for LeastOutstandingRequests {
    fn pick(&mut self, _request: &Request, candidates: &dyn Candidates) -> Option<usize> {
        least_loaded(&mut self.rotation, candidates)
    }
}
