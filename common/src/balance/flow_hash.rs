//! Flow hash: the connection's slot in a Maglev table, so that connections of one client spread and any node or worker
//! finds the same target for the same connection.

use std::sync::Arc;

use super::consistent_hash::look_up;
use super::maglev::Table;
use super::{Admission, Balancer, Candidates, Request};

/// The target of the connection's slot.
#[derive(Debug)]
pub(super) struct FlowHash {
    table: Arc<Table>,
    admission: Arc<Admission>,
}

impl FlowHash {
    pub(super) fn new(table: Arc<Table>, admission: Arc<Admission>) -> Self {
        Self { table, admission }
    }
}

impl Balancer for FlowHash {
    fn pick(&mut self, request: &Request, candidates: &dyn Candidates) -> Option<usize> {
        look_up(&self.table, &self.admission, request.flow, candidates)
    }
}
