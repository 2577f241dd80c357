//! The promises.

use std::collections::{BTreeMap, BTreeSet};

use super::super::session::Stage;
use super::super::{FRAME_SIZE_MAX, Replica, State, Table};
use super::host::{Host, Label};
use super::rings::rings_are_known;

/// Entries of this kind are never deleted and do not run out in a run.
pub(super) const fn is_steady((table, number): Label) -> bool {
    table.has_words() || !table.is_per_node() && number % 2 == 0
}

/// What has to be where.
#[derive(Debug, Default)]
pub(super) struct Holders {
    holders: BTreeMap<Label, [bool; 2]>,
    /// Changes that the peer has not acknowledged: the session and snapshot they were made in, and the place before which all has to be done.
    waiting: [Vec<(Label, Option<u64>, u64)>; 2],
}

impl Holders {
    /// `overflowed` if the change is only part of the next snapshot.
    pub(super) fn changed(&mut self, label: Label, node: usize, host: &Host, overflowed: bool) {
        if is_steady(label) {
            self.holders.entry(label).or_default()[node] = true;
            let session = acknowledged(&host.replica).map(|(session, ..)| session);
            let session = session.filter(|_| !overflowed);
            self.waiting[node].push((label, session, host.replica.dirty.next_place()));
        }
    }

    /// A node has lost its memory; acknowledgements of its former life that are still on their way mean nothing.
    pub(super) fn forgot(&mut self, node: usize) {
        self.waiting[1 - node].clear();
        self.holders.values_mut().for_each(|nodes| nodes[node] = false);
    }

    /// A node is another process: what it had not heard of being acknowledged, it never will.
    pub(super) fn unwait(&mut self, node: usize) {
        self.waiting[node].clear();
    }

    /// An entry that was acknowledged is on both nodes.
    pub(super) fn check(&mut self, hosts: &[Host; 2]) -> Result<(), String> {
        for (node, host) in hosts.iter().enumerate() {
            let Some((session, snapshot, before)) = acknowledged(&host.replica) else { continue };
            let holders = &mut self.holders;
            self.waiting[node].retain(|&(label, made_in, place)| {
                let of_this = made_in == Some(session);
                let acknowledged = if of_this { before >= place } else { snapshot };
                if acknowledged {
                    holders.entry(label).or_default()[1 - node] = true;
                }
                !acknowledged
            });
        }
        for (label, nodes) in &self.holders {
            for (node, host) in hosts.iter().enumerate() {
                if nodes[node] && !host.store.contains_key(label) {
                    return Err(format!("{label:?} was acknowledged and is lost on node {node}"));
                }
            }
        }
        Ok(())
    }
}

/// A number of the session and its snapshot, whether the peer has that, and the place before which all changes made since it began
/// are acknowledged.
fn acknowledged(replica: &Replica) -> Option<(u64, bool, u64)> {
    let session = replica.session.as_ref().filter(|session| session.minor.is_some())?;
    let outgoing = &session.outgoing;
    let number = session.number << 32 | replica.counters.resyncs;
    // With nothing on its way all that is not dirty is there.
    let before = if outgoing.unacknowledged == 0 { replica.dirty.done_before() } else { 0 };
    Some((number, outgoing.snapshot.stage == Stage::Acknowledged, before))
}

/// Bytes received and not read, entries in hand, entries scanned.
fn in_hand(replica: &Replica) -> [usize; 3] {
    let session = replica.session.as_ref();
    [
        session.map_or(0, |session| session.incoming.frames.pending()),
        replica.writing.as_ref().map_or(0, |writing| writing.puts.len() + writing.deletes.len()),
        session.map_or(0, |session| session.outgoing.snapshot.page.len()),
    ]
}

/// Memory stays within its bounds.
pub(super) fn within_bounds(host: &Host, now: u64) -> Result<(), String> {
    let stats = host.replica.stats(host.make.local(now));
    let [pending, in_hand, page] = in_hand(&host.replica);
    let max = host.make.table_max as usize;
    let held = [
        ("dirty", stats.dirty, host.make.dirty_max),
        ("tombstones", stats.tombstones, host.make.tombstones_max),
        ("unacknowledged", stats.unacknowledged, host.make.window + FRAME_SIZE_MAX),
        ("ledger", stats.ledger.into_iter().max().unwrap_or(0), max),
        ("peer values", stats.peer_values.into_iter().max().unwrap_or(0), max),
        ("names", stats.names, 1000),
        ("received", pending, FRAME_SIZE_MAX + 64 * 1024),
        ("in hand", in_hand, FRAME_SIZE_MAX / 4),
        ("page", page, 5),
        ("disconnected and dirty", if stats.state == State::Stale { stats.dirty } else { 0 }, 0),
    ];
    match held.iter().find(|(_, held, bound)| held > bound) {
        Some((what, held, bound)) => Err(format!("{what}: {held} are more than {bound}")),
        None => Ok(()),
    }
}

/// After quiescence: both are complete and have the same. A deletion without a tombstone may have left an entry on one of them: what the other
/// one had sent before it heard of that has brought it back, or a snapshot that began anew has taken the place of the deletion.
pub(super) fn equal(
    hosts: &[Host; 2],
    now: u64,
    roomy: bool,
    forgotten: &BTreeSet<Label>,
) -> Result<(), String> {
    for (node, host) in hosts.iter().enumerate() {
        let stats = host.replica.stats(host.make.local(now));
        if stats.state != State::Synced || !stats.peer_synced || stats.dirty > 0 || stats.unacknowledged > 0 {
            return Err(format!("node {node} does not come to rest: {stats:?}"));
        }
        if stats.tombstones > 0 {
            return Err(format!("node {node} keeps {} tombstones", stats.tombstones));
        }
    }
    rings_are_known(hosts)?;
    if !roomy {
        return Ok(());
    }
    let shared = |host: &Host| -> BTreeMap<Label, u16> {
        let shared = host.store.iter().filter(|((table, _), _)| !table.is_per_node());
        shared.map(|(&label, stored)| (label, stored.value)).collect()
    };
    let stores = [shared(&hosts[0]), shared(&hosts[1])];
    let [one, other] = &stores;
    let differs = |label: Label| match (one.get(&label), other.get(&label)) {
        (Some(here), Some(there)) => here != there,
        (None, None) => false,
        _ => !forgotten.contains(&label),
    };
    if let Some(label) = one.keys().chain(other.keys()).find(|&&label| differs(label)) {
        return Err(format!("the nodes differ, for instance in {label:?}: {one:?} and {other:?}"));
    }
    for (node, host) in hosts.iter().enumerate() {
        let stats = host.replica.stats(host.make.local(now));
        for table in Table::ALL.into_iter().filter(|table| !table.is_per_node()) {
            let live = stores[node].keys().filter(|(of, _)| *of == table).count();
            if stats.ledger[table.index()] != live {
                return Err(format!(
                    "node {node} remembers {} of {live} {}: {stats:?}",
                    stats.ledger[table.index()],
                    table.name()
                ));
            }
        }
    }
    Ok(())
}

/// Each node has added up what the other one has admitted.
pub(super) fn rates_add_up(hosts: &mut [Host; 2]) -> Result<(), String> {
    for node in 0..2 {
        let rates: Vec<(u8, u16)> = hosts[node]
            .store
            .range((Table::Rates, 0)..=(Table::Rates, u8::MAX))
            .map(|(&(_, number), stored)| (number, stored.value))
            .collect();
        let other = &mut hosts[1 - node];
        let service = other.service();
        for number in 0..=u8::MAX {
            let mut source = [0; 16];
            source[2] = number;
            let known = other.replica.peer_rate(service, source);
            let total = rates.iter().find(|rate| rate.0 == number).map_or(0, |rate| u64::from(rate.1));
            if known != total {
                return Err(format!("rate {number} of node {node} is {total}, and {known} to the other"));
            }
        }
    }
    Ok(())
}
