//! What holds for the algorithms, whatever the targets.

mod hashes;
mod maglev;
mod shares;
mod slow_start;

use super::*;
use crate::rng::Rng;

fn key() -> HashKey {
    HashKey::new(*b"a key for tests.")
}

fn ids(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("target-{index}")).collect()
}

fn plan(algorithm: Algorithm, weights: &[u16]) -> Plan {
    let ids = ids(weights.len());
    let members: Vec<Member<'_>> =
        ids.iter().zip(weights).map(|(id, &weight)| Member { id, weight }).collect();
    Plan::new(algorithm, &members, &key())
}

fn idle(weights: &[u16]) -> Vec<Candidate> {
    weights.iter().map(|&weight| Candidate::of_weight(weight)).collect()
}

/// A request of a client never seen before.
fn fresh(rng: &mut Rng) -> Request {
    Request { source: rng.next_u64(), flow: rng.next_u64() }
}

/// The key a hash algorithm goes by, as a request.
fn keyed(hash: u64) -> Request {
    Request { source: hash, flow: hash }
}
