//! The second chance of proxied connections: their sockets stay where they are when a virtual IP moves, and the node that has the
//! virtual IP now sends on to the other one what belongs to no connection of its own.
//!
//! What the program (`lbd/bpf/chance.bpf.c`) needs to know is decided here. [`plan`] says which addresses and ports are proxied;
//! each node says in a [`Word`] what it has ([`Own`]), and takes from the other's until when that one may have connections
//! ([`Other`]).

pub mod abi;
mod hold;
mod other;
mod own;
pub mod plan;
#[cfg(test)]
mod tests;
mod way;

use std::net::IpAddr;

use bincode::{Decode, Encode};

pub use hold::Hold;
pub use other::{ALONE_MAX, LEASE, Other};
pub use own::{Interface, LINGER, Own, UNSAID_MAX};
pub use way::{Seen, Way};

/// Instances in a [`Word`]: as many as the program's `peers` has room for.
pub const INSTANCES_MAX: usize = abi::PEERS_MAX as usize - 1;

/// Addresses in a [`Standing`].
pub const ADDRESSES_MAX: usize = 4;

/// What a node says to the other one of its proxied connections. Each word replaces the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Word {
    /// Each VRRP instance that has proxied services, once.
    pub instances: Vec<Standing>,
}

/// How a node stands in one VRRP instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Standing {
    /// The instance's name.
    pub instance: String,
    /// The Ethernet address of this node's interface for it; none if it has no such.
    pub mac: Option<[u8; 6]>,
    /// This node's own addresses in the instance's network, by which the other one finds out whether it is there when the link between
    /// them is not.
    pub addresses: Vec<IpAddr>,
    /// Whether there may be connections here through the instance's virtual IPs, counted or not.
    pub may_have: bool,
    /// Connections counted that this node serves although the virtual IPs are no longer here.
    pub draining: u32,
}

impl Word {
    /// What a node says last that ends in order: there is nothing here any more. Whoever hears it knows all the same where the node is, for
    /// what its kernel has yet to deliver.
    #[must_use]
    pub fn last(mut self) -> Self {
        for standing in &mut self.instances {
            (standing.may_have, standing.draining) = (false, 0);
        }
        self
    }

    /// Whether the word is one that a node would say: a peer's is checked before it counts.
    #[must_use]
    pub fn is_within_bounds(&self) -> bool {
        /// Longer than any name in a configuration.
        const NAME_LENGTH_MAX: usize = 256;
        self.instances.len() <= INSTANCES_MAX
            && self.instances.iter().all(|standing| {
                standing.instance.len() <= NAME_LENGTH_MAX && standing.addresses.len() <= ADDRESSES_MAX
            })
    }
}
