//! What a node chooses flows' targets from, and when it may choose from something else.

use std::sync::Arc;

use common::time::Instant;

use super::super::{Name, NameId, RING_WAIT, Replica, RingMake, RingOutcome};
use super::check::is_steady;
use super::host::{Host, Label};

/// A node's ring.
#[derive(Debug, Default)]
pub(super) struct OwnRing {
    /// Stands for what it is made of; another one for each change.
    hash: u64,
    in_use: Option<u64>,
    wanted: Option<Change>,
    /// Changes that were made and not looked at yet.
    done: Vec<(Change, Option<RingOutcome>, Instant)>,
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

fn ring(replica: &mut Replica) -> NameId {
    replica.name(Name::Ring(Arc::from("shop"))).unwrap()
}

fn met(replica: &Replica) -> u64 {
    let counters = &replica.stats(Instant::ZERO).counters;
    counters.sessions + counters.resyncs + counters.ended.iter().sum::<u64>()
}

impl Host {
    fn ring_make(&mut self, hash: u64) -> RingMake {
        let target = Name::Target { group: Arc::from("shop"), id: Arc::from((hash % 50).to_string()) };
        RingMake { hash, members: vec![(self.replica.name(target).unwrap(), 1)] }
    }

    pub(super) fn want_ring(&mut self, now: u64) {
        let since = self.make.local(now);
        self.ring.hash += 1;
        // No former life had it.
        let hash = self.replica.settings.boot << 16 | self.ring.hash;
        let (ring, make) = (ring(&mut self.replica), self.ring_make(hash));
        let labels = self.store.keys().copied().filter(|label| is_steady(*label) && !label.0.is_per_node());
        self.ring.wanted = Some(Change {
            hash,
            since,
            alone: !self.replica.peer_takes_rings(),
            labels: labels.collect(),
            met: met(&self.replica),
            peer: self.replica.peer_process(),
        });
        self.replica.announce_ring(since, ring, make, RING_WAIT);
        if self.sabotage == super::Sabotage::SwitchesAtOnce {
            self.switch_ring(hash, None, now);
        }
    }

    pub(super) fn switch_ring(&mut self, hash: u64, outcome: Option<RingOutcome>, now: u64) {
        let Some(change) = self.ring.wanted.take_if(|wanted| wanted.hash == hash) else { return };
        let (ring, make) = (ring(&mut self.replica), self.ring_make(hash));
        self.ring.in_use = Some(hash);
        self.replica.ring_used(ring, make);
        self.ring.done.push((change, outcome, self.make.local(now)));
    }
}

/// Whoever has come to choose from another ring was allowed to.
pub(super) fn check_switches(
    hosts: &mut [Host; 2],
    node: usize,
    now: u64,
    roomy: bool,
) -> Result<(), String> {
    let done = std::mem::take(&mut hosts[node].ring.done);
    for (change, outcome, at) in done {
        let waited = at - change.since >= RING_WAIT;
        let alone = change.alone || met(&hosts[node].replica) != change.met;
        let other = &mut hosts[1 - node];
        let place = ring(&mut other.replica);
        let known = other.replica.peer_ring(place);
        let knows = known
            .is_some_and(|known| known.used.iter().chain(&known.next).any(|make| make.hash == change.hash));
        // What another process of it knew is gone.
        let is_another = change.peer != Some(other.replica.settings.process);
        let missing = change.labels.iter().find(|label| roomy && !other.store.contains_key(*label));
        let problem = match outcome {
            Some(RingOutcome::Alone) if !alone => Some("as if it were alone".to_owned()),
            Some(RingOutcome::TimedOut) if !waited => Some("after too short a wait".to_owned()),
            Some(RingOutcome::Acknowledged) | None if alone || is_another => None,
            None if waited => None,
            Some(RingOutcome::Acknowledged) | None if !knows => {
                Some("the other node does not know".to_owned())
            }
            Some(RingOutcome::Acknowledged) | None => {
                missing.map(|label| format!("although the other node lacks {label:?}"))
            }
            Some(_) => None,
        };
        if let Some(problem) = problem {
            return Err(format!("node {node} chooses from ring {} {problem}, at {now}", change.hash));
        }
    }
    Ok(())
}

/// After quiescence each node knows what the other one chooses from, and nobody waits.
pub(super) fn rings_are_known(hosts: &[Host; 2]) -> Result<(), String> {
    for (node, host) in hosts.iter().enumerate() {
        if host.ring.wanted.is_some() {
            return Err(format!("node {node} waits with a ring for ever"));
        }
        let (other, Some(hash)) = (&hosts[1 - node].replica, host.ring.in_use) else { continue };
        if !host.replica.peer_takes_rings() {
            continue;
        }
        let mut names = other.rings.names();
        let place = names.find(|id| matches!(other.name_of(*id), Some(Name::Ring(_))));
        let known = place.and_then(|place| other.peer_ring(place));
        if known.and_then(|known| known.used.as_ref()).map(|make| make.hash) != Some(hash) {
            return Err(format!(
                "node {node} chooses from ring {hash}, and to the other one it is {known:?}"
            ));
        }
    }
    Ok(())
}
