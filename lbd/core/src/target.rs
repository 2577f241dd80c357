//! What names a target across reloads and in the API.

use std::fmt;
use std::net::SocketAddr;

use serde::Serialize;

/// A target's identity: a reload keeps its health and its counters as long as all three stay the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct TargetKey {
    /// The target group's name.
    pub group: String,
    /// The target's name, unique in the group.
    pub id: String,
    /// Where it listens.
    pub address: SocketAddr,
}

impl fmt::Display for TargetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} ({})", self.group, self.id, self.address)
    }
}
