//! What the API and `lbd status` show of replication. Fields are only ever added.

use std::collections::BTreeMap;

use common::time::Instant;
use lbd_core::replication::{SessionEnd, State, Stats, Table};
use serde::{Deserialize, Serialize};

use super::tables::Refused;
use crate::l4::kernel::Written;

/// How far replication is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateView {
    /// What this node has of the other's: `cold`, `syncing`, `synced` or `stale`.
    pub(crate) state: String,
    /// For how long.
    pub(crate) for_ms: u64,
    /// Whether the other node has all of this one's.
    pub(crate) peer_synced: bool,
    /// Whether the other node has another configuration; null before it was heard.
    pub(crate) config_differs: Option<bool>,
    /// The other node's configuration hash, if it was heard.
    pub(crate) peer_config_hash: Option<String>,
    /// The other node's release; null before it was heard, and of one that does not say it.
    #[serde(default)]
    pub(crate) peer_version: Option<String>,
    /// Whether that is another one than this node's; null if it is unknown.
    #[serde(default)]
    pub(crate) version_differs: Option<bool>,
    /// The protocol's minor version that is spoken, if the other node was heard.
    pub(crate) protocol_minor: Option<u16>,
    /// Age of the oldest change that the other node has not been sent. Without a session it grows from the first change on, until the next
    /// session has told everything.
    pub(crate) lag_ms: u64,
    /// Changes that wait to be sent.
    pub(crate) dirty: usize,
    /// Bytes sent and not acknowledged.
    pub(crate) unacknowledged_bytes: usize,
    /// Entries known, by table.
    pub(crate) entries: BTreeMap<String, u64>,
    /// In tables in which each node has its own, the other node's, by table; 0 for the other tables.
    #[serde(default)]
    pub(crate) peer_entries: BTreeMap<String, u64>,
    /// Entries received that name what this node does not know, or say what cannot be, by table; flows are in `skipped`.
    #[serde(default)]
    pub(crate) refused: BTreeMap<String, u64>,
    /// Entries sent since the start, by table.
    pub(crate) sent: BTreeMap<String, u64>,
    /// Entries received since the start, by table.
    pub(crate) received: BTreeMap<String, u64>,
    /// Deletions sent since the start.
    pub(crate) deletions_sent: u64,
    /// Deletions received since the start.
    pub(crate) deletions_received: u64,
    /// Entries received that were not applied, by reason.
    pub(crate) skipped: BTreeMap<String, u64>,
    /// Sessions by why they ended, or were refused at their beginning.
    #[serde(default)]
    pub(crate) ended: BTreeMap<String, u64>,
    /// Snapshots sent to their end.
    pub(crate) snapshots_sent: u64,
    /// Snapshots received to their end.
    pub(crate) snapshots_received: u64,
    /// Snapshots begun anew because too much was waiting.
    pub(crate) resyncs: u64,
    /// Entries that the other node no longer had.
    pub(crate) swept: u64,
    /// Entries taken over from a former life of the other node.
    pub(crate) adopted: u64,
    /// Entries of this node's own that a snapshot did not find any more, although nobody had said that they were over.
    #[serde(default)]
    pub(crate) vanished: u64,
    /// Deletions that the other node has not acknowledged, and that are remembered until it has.
    #[serde(default)]
    pub(crate) tombstones: u64,
    /// Deletions that are not remembered because too many were.
    #[serde(default)]
    pub(crate) tombstones_full: u64,
    /// Deletions that were remembered for five minutes without the other node.
    #[serde(default)]
    pub(crate) tombstones_expired: u64,
    /// Entries of this node's that the other one had no place for in the present session.
    #[serde(default)]
    pub(crate) peer_refused: u64,
    /// Tables that had room for another number of entries on the other node when the present session began, or the last one.
    #[serde(default)]
    pub(crate) sizes_differ: Vec<String>,
    /// Services, groups, targets and what else has a name that entries refer to.
    #[serde(default)]
    pub(crate) names: u64,
    /// Changes that found no room in the tables of what is replicated, or none for their names.
    pub(crate) not_replicated: u64,
    /// Reports of the walk through all flows that found no room.
    pub(crate) reports_lost: u64,
    /// Changes that the kernel's program had no room to tell of.
    pub(crate) untold: u64,
    /// Rings that this node has come to choose flows' targets from in the place of others.
    #[serde(default)]
    pub(crate) ring_changes: u64,
    /// Those of them that the other node had not acknowledged in time.
    #[serde(default)]
    pub(crate) ring_changes_unacknowledged: u64,
    /// Those that waited for nobody, because the other node was not in step.
    #[serde(default)]
    pub(crate) ring_changes_alone: u64,
    /// Rings of the other node's that are known.
    #[serde(default)]
    pub(crate) peer_rings: u64,
    /// Why flows are not replicated now; null if they are, or if the kernel is to forward none.
    pub(crate) trouble: Option<String>,
}

impl StateView {
    /// Whether this node has everything of the other's.
    pub(crate) fn is_synced(&self) -> bool {
        self.state == State::Synced.name()
    }

    /// As it is now.
    pub(super) fn of(
        stats: &Stats,
        now: Instant,
        refused: &Refused,
        written: Written,
        [untold, reports_lost]: [u64; 2],
        words_lost: u64,
        trouble: Option<String>,
    ) -> Self {
        let counters = &stats.counters;
        let release = stats.peer.as_ref().and_then(|peer| peer.release.as_deref());
        let by_table = |count: &dyn Fn(Table) -> u64| {
            Table::ALL.into_iter().map(|table| (table.name().to_owned(), count(table))).collect()
        };
        let ms = |time: common::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let skipped = counters.skipped;
        let skipped = [
            ("older", skipped.older),
            ("unknown_table", skipped.unknown_table),
            ("unknown_name", skipped.unknown_name),
            ("generation", skipped.generation),
            ("table_full", skipped.table_full),
            ("no_service_or_target", written.misfits + refused.unknown),
            ("invalid", refused.invalid),
            ("port_taken", written.taken),
            ("flows_full", written.full),
            ("used_here", written.kept),
            ("rings_full", counters.rings_refused),
            (
                "other",
                skipped.refused.saturating_sub(
                    written.misfits
                        + written.taken
                        + written.full
                        + written.kept
                        + refused.unknown
                        + refused.invalid,
                ),
            ),
        ];
        Self {
            state: stats.state.name().to_owned(),
            for_ms: ms(now.since(stats.since)),
            peer_synced: stats.peer_synced,
            config_differs: stats.peer.as_ref().map(|_| stats.config_differs),
            peer_config_hash: stats.peer.as_ref().map(|peer| crate::reload::hash_text(peer.config_hash)),
            peer_version: release.map(str::to_owned),
            version_differs: release.map(|release| release != crate::process::release()),
            protocol_minor: stats.peer.as_ref().map(|peer| peer.minor),
            lag_ms: ms(stats.lag),
            dirty: stats.dirty,
            unacknowledged_bytes: stats.unacknowledged,
            entries: by_table(&|table| stats.ledger[table.index()] as u64),
            peer_entries: by_table(&|table| stats.peer_values[table.index()] as u64),
            refused: by_table(&|table| refused.by_table[table.index()]),
            sent: by_table(&|table| counters.sent.entries[table.index()]),
            received: by_table(&|table| counters.received.entries[table.index()]),
            deletions_sent: counters.sent.deletions.iter().sum(),
            deletions_received: counters.received.deletions.iter().sum(),
            skipped: skipped.map(|(reason, count)| (reason.to_owned(), count)).into(),
            ended: SessionEnd::ALL
                .into_iter()
                .map(|end| (end.name().to_owned(), counters.ended[end.index()]))
                .collect(),
            snapshots_sent: counters.snapshots_sent,
            snapshots_received: counters.snapshots_received,
            resyncs: counters.resyncs,
            swept: counters.swept,
            adopted: counters.adopted,
            vanished: counters.vanished,
            tombstones: stats.tombstones as u64,
            tombstones_full: counters.tombstones_full,
            tombstones_expired: counters.tombstones_expired,
            peer_refused: stats.peer_refused,
            sizes_differ: Table::ALL
                .into_iter()
                .filter(|table| stats.sizes_differ[table.index()])
                .map(|table| table.name().to_owned())
                .collect(),
            names: stats.names as u64,
            not_replicated: counters.local_full
                + counters.names_refused
                + counters.forgotten_name
                + words_lost,
            reports_lost,
            untold,
            ring_changes: counters.rings_acknowledged + counters.rings_timed_out + counters.rings_alone,
            ring_changes_unacknowledged: counters.rings_timed_out,
            ring_changes_alone: counters.rings_alone,
            peer_rings: stats.peer_rings as u64,
            trouble,
        }
    }
}
