//! What has to be where, and the bounds of memory.

use std::collections::{BTreeMap, BTreeSet};

use common::time::Instant;
use lbd_core::replication::{FRAME_SIZE_MAX, Stats, Table};

use super::lbd::{Label, Lbd};

/// Names that a run has at most: services, the group, targets.
const NAMES_MAX: usize = 600;

/// Entries of this kind are never deleted and do not run out in a run.
pub(super) const fn is_steady((table, number): Label) -> bool {
    matches!(table, Table::Targets | Table::Members) || !table.is_per_node() && number.is_multiple_of(2)
}

/// Which node has an entry for certain.
#[derive(Debug, Default)]
pub(super) struct Holders {
    holders: BTreeMap<Label, [bool; 2]>,
    /// How much each node had removed when it was looked at last.
    looked: [u64; 2],
    /// Everything that the node has is known to be on the other one, too.
    promoted: [bool; 2],
}

impl Holders {
    pub(super) fn changed(&mut self, label: Label, node: usize) {
        if is_steady(label) {
            self.holders.entry(label).or_default()[node] = true;
            self.promoted = [false; 2];
        }
    }

    /// A node has lost these entries.
    pub(super) fn forgot(&mut self, node: usize, what: impl Fn(Label) -> bool) {
        let lost = self.holders.iter_mut().filter(|(label, _)| what(**label));
        lost.for_each(|(_, nodes)| nodes[node] = false);
        self.promoted = [false; 2];
    }

    /// `whole` while what one node says reaches the other. A node that then has nothing left to say, and no answer to wait for, has been
    /// acknowledged everything.
    pub(super) fn check(
        &mut self,
        lbds: &[Lbd; 2],
        stats: &[Option<Stats>; 2],
        whole: bool,
    ) -> Result<(), String> {
        let mut fresh = false;
        for node in 0..2 {
            let done = whole && stats[node].as_ref().is_some_and(is_drained);
            if done && !self.promoted[node] {
                fresh = true;
                for nodes in self.holders.values_mut().filter(|nodes| nodes[node]) {
                    nodes[1 - node] = true;
                }
            }
            self.promoted[node] = done;
        }
        let removals = [lbds[0].removals, lbds[1].removals];
        if std::mem::replace(&mut self.looked, removals) == removals && !fresh {
            return Ok(());
        }
        for (label, nodes) in &self.holders {
            let lost = |&node: &usize| nodes[node] && !lbds[node].store.contains_key(label);
            if let Some(node) = (0..2).find(lost) {
                return Err(format!("{label:?} was acknowledged and is lost on node {node}"));
            }
        }
        Ok(())
    }
}

/// Whether the other node has everything that this one has, in the present session.
pub(super) fn is_drained(stats: &Stats) -> bool {
    stats.peer_synced && stats.dirty == 0 && stats.unacknowledged == 0
}

/// Memory stays within its bounds.
pub(super) fn within_bounds(lbd: &Lbd, stats: &Stats) -> Result<(), String> {
    let max = lbd.make.table_max as usize;
    let held = [
        ("changes that wait", stats.dirty, lbd.make.dirty_max),
        ("tombstones", stats.tombstones, lbd.make.tombstones_max),
        ("bytes without an acknowledgement", stats.unacknowledged, lbd.make.window + FRAME_SIZE_MAX),
        ("records", stats.ledger.into_iter().max().unwrap_or(0), max),
        ("values of the other node", stats.peer_values.into_iter().max().unwrap_or(0), max),
        ("names", stats.names, NAMES_MAX),
    ];
    match held.iter().find(|(_, held, bound)| held > bound) {
        Some((what, held, bound)) => Err(format!("{held} {what} are more than {bound}")),
        None => Ok(()),
    }
}

/// After quiescence both have the same. A deletion without a tombstone may have left an entry on one of them: what the other one had sent
/// before it heard of that has brought it back, or a snapshot that began anew has taken the place of the deletion.
pub(super) fn equal(lbds: &[Lbd; 2], local: [Instant; 2], forgotten: &BTreeSet<Label>) -> Result<(), String> {
    let shared = |lbd: &Lbd| -> BTreeMap<Label, u16> {
        let shared = lbd.store.iter().filter(|((table, _), _)| !table.is_per_node());
        shared.map(|(&label, stored)| (label, stored.value)).collect()
    };
    let stores = [shared(&lbds[0]), shared(&lbds[1])];
    let differs = |label: Label| match stores.each_ref().map(|store| store.get(&label)) {
        [Some(here), Some(there)] => here != there,
        [None, None] => false,
        _ => !forgotten.contains(&label),
    };
    if let Some(label) = stores.iter().flat_map(BTreeMap::keys).find(|&&label| differs(label)) {
        let values = stores.each_ref().map(|store| store.get(label));
        return Err(format!("the nodes differ in {label:?}: {values:?}"));
    }
    for (node, lbd) in lbds.iter().enumerate() {
        let Some(replica) = &lbd.replica else { continue };
        let stats = replica.stats(local[node]);
        if stats.tombstones > 0 {
            return Err(format!("node {node} keeps {} tombstones", stats.tombstones));
        }
        for table in Table::ALL.into_iter().filter(|table| !table.is_per_node()) {
            let live = stores[node].keys().filter(|(of, _)| *of == table).count();
            let known = stats.ledger[table.index()];
            if known != live {
                return Err(format!("node {node} remembers {known} of {live} {}", table.name()));
            }
        }
    }
    Ok(())
}
