//! Choosing a target: one algorithm a file behind one trait, weights honoured by each.
//!
//! A [`Plan`] is made once for a list of targets and shared; each worker takes a [`Balancer`] of its own from it. What
//! changes while the list stays (health, slow start, load, which targets were tried already) comes in with each pick as
//! [`Candidates`], so that a change of health costs nothing here. There is no clock, no randomness but the seed handed
//! in, and no allocation in a pick: a client that balances for itself can use it as it is.
//!
//! ```
//! use common::balance::{Candidate, Member, Plan, Request};
//! use common::{config::Algorithm, hash::HashKey};
//!
//! let members = [Member { id: "a", weight: 2 }, Member { id: "b", weight: 1 }];
//! let plan = Plan::new(Algorithm::RoundRobin, &members, &HashKey::new([0; 16]));
//! let mut balancer = plan.balancer(0);
//! let candidates = [Candidate::of_weight(2), Candidate::of_weight(1)];
//! let picks: Vec<_> = (0..3).filter_map(|_| balancer.pick(&Request::default(), &candidates)).collect();
//! assert_eq!(picks, [0, 1, 0]);
//! ```
//!
//! | algorithm | picks | cost | shares |
//! |---|---|---|---|
//! | round robin | each in turn, smoothly | O(n) | exact over a round |
//! | least connections, least outstanding requests | the least load for its share, then in turn | O(n) | of load: within one |
//! | random | by chance | O(n) | as chance has it |
//! | power of two choices | the less loaded of two drawn | O(n) | of load: close |
//! | source-IP hash | hash modulo the weights | O(n) | of clients, as chance has it |
//! | consistent hash, flow hash | a Maglev table of 65537 | O(1) | of clients or flows, as chance has it |

mod consistent_hash;
mod flow_hash;
mod gradual;
mod least_connections;
mod least_outstanding_requests;
pub mod maglev;
mod power_of_two_choices;
mod random;
mod round_robin;
mod source_ip_hash;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

pub use round_robin::Rotation;

use crate::config::Algorithm;
use crate::hash::HashKey;
use gradual::Admission;
use maglev::Table;

/// A target's share for each unit of its weight, when it is in full service.
pub const SHARE_PER_WEIGHT: u32 = 256;

/// The largest share: that of the largest weight, 256.
pub const SHARE_MAX: u32 = 256 * SHARE_PER_WEIGHT;

/// The targets to choose from, by their index in the list that the plan was made for.
pub trait Candidates {
    /// How many there are, those that are not to be chosen included.
    fn len(&self) -> usize;

    /// What a target is to get now, in relation to the others: 0 when it is not to be chosen, else its weight times
    /// [`SHARE_PER_WEIGHT`], or less of it while it starts slowly; at most [`SHARE_MAX`].
    fn share(&self, index: usize) -> u32;

    /// Connections open there, or requests outstanding.
    fn load(&self, index: usize) -> u32;

    /// Whether there is none at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A target as a plain value, for those who keep them in a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// See [`Candidates::share`].
    pub share: u32,
    /// See [`Candidates::load`].
    pub load: u32,
}

impl Candidate {
    /// An idle target of this weight in full service.
    #[must_use]
    pub const fn of_weight(weight: u16) -> Self {
        Self { share: share(weight, SHARE_PER_WEIGHT), load: 0 }
    }
}

/// The share of a target of a weight of which `part` (0 to [`SHARE_PER_WEIGHT`]) is in service. At least 1 as long as the
/// weight is not 0, so that a target that begins its slow start gets something at all.
#[must_use]
pub const fn share(weight: u16, part: u32) -> u32 {
    let weight = if weight > 256 { 256 } else { weight as u32 };
    let part = if part > SHARE_PER_WEIGHT { SHARE_PER_WEIGHT } else { part };
    let share = weight * part;
    if share == 0 && weight > 0 { 1 } else { share }
}

impl<const COUNT: usize> Candidates for [Candidate; COUNT] {
    fn len(&self) -> usize {
        COUNT
    }

    fn share(&self, index: usize) -> u32 {
        self[index].share
    }

    fn load(&self, index: usize) -> u32 {
        self[index].load
    }
}

impl Candidates for Vec<Candidate> {
    fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn share(&self, index: usize) -> u32 {
        self[index].share
    }

    fn load(&self, index: usize) -> u32 {
        self[index].load
    }
}

/// The candidates without those that were tried already: what a retry picks from.
#[derive(Clone, Copy)]
pub struct Without<'a> {
    /// All of them.
    pub all: &'a dyn Candidates,
    /// Indices that are not to be chosen again; a few, they are searched one by one.
    pub tried: &'a [usize],
}

impl Candidates for Without<'_> {
    fn len(&self) -> usize {
        self.all.len()
    }

    fn share(&self, index: usize) -> u32 {
        if self.tried.contains(&index) { 0 } else { self.all.share(index) }
    }

    fn load(&self, index: usize) -> u32 {
        self.all.load(index)
    }
}

/// What is known of a new connection when its target is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// [`HashKey::source`] of the client's address, or the keyed hash of whatever else names the client.
    pub source: u64,
    /// [`HashKey::flow`] of the connection.
    pub flow: u64,
}

/// A target as a plan knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// Its name, unique in the list: what a Maglev table is made from, so that neither order nor address matter.
    pub id: &'a str,
    /// Its weight, 0 to 256; 0 gets nothing.
    pub weight: u16,
}

/// What an algorithm needs to know of a target list; made once for it, and again when the list or a weight changes.
///
/// Maglev tables are made here (about a millisecond): share the plan among the workers.
#[derive(Clone, Debug)]
pub struct Plan {
    algorithm: Algorithm,
    admission: Arc<Admission>,
    /// `None` for algorithms without one.
    table: Option<Arc<Table>>,
}

impl Plan {
    /// The plan for these targets. Indices of picks are indices of `members`.
    #[must_use]
    pub fn new(algorithm: Algorithm, members: &[Member<'_>], key: &HashKey) -> Self {
        let table = match algorithm {
            Algorithm::ConsistentHash | Algorithm::FlowHash => Some(Arc::new(Table::new(members, key))),
            _ => None,
        };
        Self { algorithm, admission: Arc::new(Admission::new(members, key)), table }
    }

    /// The algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// A balancer with a state of its own. Workers hand in different seeds, so that they don't all begin with the same
    /// target; the same seed gives the same picks.
    #[must_use]
    pub fn balancer(&self, seed: u64) -> Box<dyn Balancer> {
        let admission = || Arc::clone(&self.admission);
        let table = || self.table.as_ref().map(Arc::clone).unwrap_or_default();
        match self.algorithm {
            Algorithm::RoundRobin => Box::new(round_robin::RoundRobin::new(seed)),
            Algorithm::LeastConnections => Box::new(least_connections::LeastConnections::new(seed)),
            Algorithm::LeastOutstandingRequests => {
                Box::new(least_outstanding_requests::LeastOutstandingRequests::new(seed))
            }
            Algorithm::Random => Box::new(random::Random::new(seed)),
            Algorithm::PowerOfTwoChoices => Box::new(power_of_two_choices::PowerOfTwoChoices::new(seed)),
            Algorithm::SourceIpHash => Box::new(source_ip_hash::SourceIpHash::new(admission())),
            Algorithm::ConsistentHash => Box::new(consistent_hash::ConsistentHash::new(table(), admission())),
            Algorithm::FlowHash => Box::new(flow_hash::FlowHash::new(table(), admission())),
        }
    }
}

/// Chooses targets for one worker.
pub trait Balancer: fmt::Debug + Send {
    /// The index of the target for a new connection; `None` only when no candidate has a share.
    fn pick(&mut self, request: &Request, candidates: &dyn Candidates) -> Option<usize>;
}
