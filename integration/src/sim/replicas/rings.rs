//! What a node chooses its flows' targets from, and when it may choose from something else: once the other node knows that and has every flow of
//! before, after a short wait, or without another node that is in step.
//!
//! The simulation beside the core (`lbd/core/src/replication/sim`) has a model of its own: it looks into replicas, as only tests of that crate can, which no
//! other crate can use; and what both could share would be part of the daemon, for `lbd-core` may not depend on this crate.

use std::sync::Arc;

use common::time::Instant;
use lbd_core::replication::{Name, NameId, RING_WAIT, Replica, RingMake, RingOutcome};

use super::check::is_steady;
use super::lbd::{Flaw, Label, Lbd, named};

/// A node's ring, and what it knows of the other one's.
#[derive(Debug, Default)]
pub(super) struct OwnRing {
    /// Stands for what it is made of; another one for each change.
    hash: u64,
    in_use: Option<u64>,
    wanted: Option<Change>,
    /// Changes that were made and not looked at yet.
    done: Vec<(Change, Option<RingOutcome>, Instant)>,
    /// What the other one has in use, and the next one.
    peers: [Option<u64>; 2],
}

/// A change that is wanted.
#[derive(Debug)]
struct Change {
    hash: u64,
    since: Instant,
    /// The other node was not in step.
    alone: bool,
    /// What this node had then.
    labels: Vec<Label>,
    /// Sessions and snapshots so far.
    met: u64,
    /// The other node's process, as far as this one knew.
    peer: Option<u64>,
}

fn ring(replica: &mut Replica) -> (NameId, NameId) {
    let target = Name::Target { group: Arc::from("pool"), id: Arc::from("1") };
    (named(replica, Name::Ring(Arc::from("pool nat tcp ipv4"))), named(replica, target))
}

fn met(replica: &Replica) -> u64 {
    let counters = &replica.stats(Instant::ZERO).counters;
    counters.sessions + counters.resyncs + counters.ended.iter().sum::<u64>()
}

impl OwnRing {
    /// The core says that this one may be chosen from, or nobody has asked it.
    pub(super) fn switch(
        &mut self,
        replica: &mut Replica,
        hash: u64,
        outcome: Option<RingOutcome>,
        local: Instant,
    ) {
        let Some(change) = self.wanted.take_if(|wanted| wanted.hash == hash) else { return };
        let (ring, target) = ring(replica);
        self.in_use = Some(hash);
        replica.ring_used(ring, RingMake { hash, members: vec![(target, 1)] });
        self.done.push((change, outcome, local));
    }

    /// The core knows something else of the other node's.
    pub(super) fn hear(&mut self, replica: &Replica, ring: NameId) {
        let known = replica.peer_ring(ring);
        let hash = |make: Option<&RingMake>| make.map(|make| make.hash);
        self.peers = known.map_or([None; 2], |known| [hash(known.used.as_ref()), hash(known.next.as_ref())]);
    }
}

impl Lbd {
    /// This node is to choose from another ring.
    pub(super) fn want_ring(&mut self, local: Instant) {
        let Some(mut replica) = self.replica.take() else { return };
        let labels = self.store.keys().copied().filter(|label| is_steady(*label) && !label.0.is_per_node());
        let labels = labels.collect();
        self.ring.hash += 1;
        // No former life had it.
        let hash = self.life.unwrap_or_default() << 16 | self.ring.hash;
        let (alone, peer) = (!replica.peer_takes_rings(), replica.peer_process());
        let met = met(&replica);
        self.ring.wanted = Some(Change { hash, since: local, alone, labels, met, peer });
        let (ring, target) = ring(&mut replica);
        replica.announce_ring(local, ring, RingMake { hash, members: vec![(target, 1)] }, RING_WAIT);
        if self.flaw == Flaw::SwitchesAtOnce {
            self.ring.switch(&mut replica, hash, None, local);
        }
        self.replica = Some(replica);
    }
}

/// Whoever has come to choose from another ring was allowed to.
pub(super) fn check_switches(lbds: &mut [Lbd; 2], node: usize, roomy: bool) -> Result<(), String> {
    for (change, outcome, at) in std::mem::take(&mut lbds[node].ring.done) {
        let Some(replica) = &lbds[node].replica else { continue };
        let waited = at - change.since >= RING_WAIT;
        let alone = change.alone || met(replica) != change.met;
        let other = &lbds[1 - node];
        let is_another = change.peer != other.life;
        let knows = other.ring.peers.contains(&Some(change.hash));
        let missing = change.labels.iter().find(|label| roomy && !other.store.contains_key(*label));
        let ring = change.hash;
        let told = |problem: String| Err(format!("node {node} chooses from ring {ring} {problem}"));
        match outcome {
            Some(RingOutcome::Alone) if !alone => told("as if it were alone".to_owned())?,
            Some(RingOutcome::TimedOut) if !waited => told("after too short a wait".to_owned())?,
            Some(RingOutcome::Alone | RingOutcome::TimedOut) => {}
            _ if alone || is_another || (outcome.is_none() && waited) => {}
            _ if !knows => told("and the other node does not know".to_owned())?,
            _ => missing.map_or(Ok(()), |label| told(format!("although the other node lacks {label:?}")))?,
        }
    }
    Ok(())
}

/// After quiescence each node knows what the other one chooses from.
pub(super) fn rings_are_known(lbds: &[Lbd; 2]) -> Result<(), String> {
    for (node, lbd) in lbds.iter().enumerate() {
        let speaks = lbd.replica.as_ref().is_some_and(|replica| replica.peer_takes_rings());
        let known = lbds[1 - node].ring.peers[0];
        if speaks && lbd.ring.in_use.is_some() && known != lbd.ring.in_use {
            return Err(format!(
                "node {node} chooses from ring {:?}, and to the other one it is {known:?}",
                lbd.ring.in_use
            ));
        }
    }
    Ok(())
}
