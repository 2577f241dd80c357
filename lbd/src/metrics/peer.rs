//! What the link to the other node has counted.

use std::fmt;

use super::{Labels, Out, flag};
use crate::peer::{PeerLink, ReplicationView};
use crate::replication::StateView;

/// Encodes it, where there is another node to replicate with.
pub(super) fn encode(out: &mut Out<'_>, peer: &PeerLink) -> fmt::Result {
    let ReplicationView { link: Some(link), state, .. } = peer.view() else { return Ok(()) };
    let stats = peer.stats();
    out.gauge(
        "peer_connected",
        "Whether there is a session with the other node",
        flag(link.state == "connected"),
    )?;
    out.gauge("peer_listening", "Whether the other node can connect to this one", flag(link.listening))?;
    out.counter("peer_attempts", "Connections to the other node begun", link.attempts)?;
    let help = "Connections to the other node that did not become a session";
    out.counters("peer_attempts_failed", help, labelled("reason", stats.failed.each()))?;
    let help = "Connections to the link's address that did not become a session";
    out.counters("peer_connections_refused", help, labelled("reason", stats.refused.each()))?;
    out.counter("peer_sessions", "Sessions with the other node", link.sessions)?;
    out.counters("peer_sessions_ended", "Sessions by how they ended", labelled("end", stats.ended.each()))?;
    let messages = [("in", link.messages_in), ("out", link.messages_out)];
    out.counters("peer_messages", "Messages", labelled("direction", messages))?;
    let bytes = [("in", link.bytes_in), ("out", link.bytes_out)];
    out.counters("peer_bytes", "Bytes of messages, before TLS", labelled("direction", bytes))?;
    out.gauge("peer_queue_bytes", "Bytes that wait to be sent", link.queued_bytes as f64)?;
    out.gauge("peer_queue_bytes_max", "Bytes that may wait to be sent", link.queued_bytes_max as f64)?;
    let lag = link.queued_for_ms as f64 / 1000.0;
    out.gauge("peer_queue_lag_seconds", "How long the first message in the queue has waited", lag)?;
    state.map_or(Ok(()), |state| encode_state(out, &state))
}

/// What is replicated.
fn encode_state(out: &mut Out<'_>, state: &StateView) -> fmt::Result {
    let synced = flag(state.state == "synced");
    out.gauge("replication_synced", "Whether this node has what the other one has", synced)?;
    out.gauge(
        "replication_peer_synced",
        "Whether the other node has what this one has",
        flag(state.peer_synced),
    )?;
    if let Some(differs) = state.config_differs {
        out.gauge("replication_same_config", "Whether both have the same configuration", flag(!differs))?;
    }
    if let Some(differs) = state.version_differs {
        out.gauge("replication_same_version", "Whether both run the same release", flag(!differs))?;
    }
    let lag = state.lag_ms as f64 / 1000.0;
    let help = "Age of the oldest change that the other node has not been sent";
    out.gauge("replication_lag_seconds", help, lag)?;
    out.gauge("replication_dirty", "Changes that wait to be sent", state.dirty as f64)?;
    out.gauge("replication_tombstones", "Deletions not acknowledged", state.tombstones as f64)?;
    let unacknowledged = state.unacknowledged_bytes as f64;
    out.gauge(
        "replication_unacknowledged_bytes",
        "Bytes sent and not yet written by the other node",
        unacknowledged,
    )?;
    let entries = state.entries.iter();
    let entries = entries.map(|(table, count)| (vec![("table", table.as_str())], *count as f64));
    out.gauges("replication_entries", "Entries of either node known", entries)?;
    let own = state.peer_entries.iter().filter(|(table, _)| ["rates", "health"].contains(&table.as_str()));
    let own = own.map(|(table, count)| (vec![("table", table.as_str())], *count as f64));
    out.gauges("replication_peer_entries", "The other node's own entries, beside this one's", own)?;
    let entries =
        [("in", &state.received), ("out", &state.sent)].into_iter().flat_map(|(direction, tables)| {
            let labels = move |table| vec![("table", table), ("direction", direction)];
            tables.iter().map(move |(table, count)| (labels(table.as_str()), *count))
        });
    out.counters("replication_changes", "Entries, new and changed ones", entries)?;
    let deletions = [("in", state.deletions_received), ("out", state.deletions_sent)];
    out.counters("replication_deletions", "Entries that were over", labelled("direction", deletions))?;
    let lost = [("full", state.tombstones_full), ("expired", state.tombstones_expired)];
    let help = "Deletions forgotten before the other node acknowledged them";
    out.counters("replication_tombstones_lost", help, labelled("reason", lost))?;
    let skipped = state.skipped.iter().map(|(reason, count)| (vec![("reason", reason.as_str())], *count));
    out.counters("replication_skipped", "Entries received that were not applied", skipped)?;
    let refused = state.refused.iter().map(|(table, count)| (vec![("table", table.as_str())], *count));
    let help = "Entries received that name what is unknown here, or say what cannot be";
    out.counters("replication_refused", help, refused)?;
    let help = "Entries that the other node had no place for since it connected";
    out.gauge("replication_peer_refused", help, state.peer_refused as f64)?;
    let heard = state.entries.keys().filter(|_| state.config_differs.is_some());
    let sizes =
        heard.map(|table| (vec![("table", table.as_str())], flag(!state.sizes_differ.contains(table))));
    out.gauges("replication_same_size", "Whether both have room for as many entries", sizes)?;
    let ended = state.ended.iter().map(|(reason, count)| (vec![("reason", reason.as_str())], *count));
    out.counters("replication_ended", "Sessions by why replication with the other node ended", ended)?;
    encode_rest(out, state)
}

/// Snapshots and what was left out of them, and rings.
fn encode_rest(out: &mut Out<'_>, state: &StateView) -> fmt::Result {
    let snapshots = [("in", state.snapshots_received), ("out", state.snapshots_sent)];
    out.counters("replication_snapshots", "Snapshots told to their end", labelled("direction", snapshots))?;
    out.counter("replication_resyncs", "Snapshots begun anew because too much waited", state.resyncs)?;
    out.counter("replication_swept", "Entries that the other node had no longer", state.swept)?;
    out.counter("replication_adopted", "Entries of a former life of the other node", state.adopted)?;
    out.counter("replication_vanished", "Own entries that a snapshot did not find", state.vanished)?;
    out.gauge("replication_names", "Names that entries refer to", state.names as f64)?;
    out.counter("replication_not_replicated", "Changes without room in the tables", state.not_replicated)?;
    out.counter("replication_reports_lost", "Reports of flows without room", state.reports_lost)?;
    out.counter("replication_untold", "Changes of flows without room to be told", state.untold)?;
    let (late, alone) = (state.ring_changes_unacknowledged, state.ring_changes_alone);
    let changes = [
        ("acknowledged", state.ring_changes.saturating_sub(late + alone)),
        ("unacknowledged", late),
        ("alone", alone),
    ];
    out.counters(
        "replication_ring_changes",
        "Rings chosen from instead of others",
        labelled("peer", changes),
    )?;
    out.gauge("replication_peer_rings", "Rings of the other node that are known", state.peer_rings as f64)
}

fn labelled(
    label: &'static str,
    counts: impl IntoIterator<Item = (&'static str, u64)>,
) -> impl Iterator<Item = (Labels<'static>, u64)> {
    counts.into_iter().map(move |(value, count)| (vec![(label, value)], count))
}
