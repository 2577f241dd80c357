//! What operators see of replication.

use common::time::{Duration, Instant};

use super::entry::Table;
use super::error::SessionEnd;
use super::hello::Hello;
use super::names::NameError;

/// How far this node is with what the peer has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Nothing of the peer's yet.
    #[default]
    Cold,
    /// Connected, its snapshot is not complete.
    Syncing,
    /// Everything it has is here, and what changes comes at once.
    Synced,
    /// It was so once, and there is no complete session now. Only a complete snapshot ends this, never a time.
    Stale,
}

impl State {
    /// Its name in metrics and the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Syncing => "syncing",
            Self::Synced => "synced",
            Self::Stale => "stale",
        }
    }
}

/// What went one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Frames, hellos and acknowledgements included.
    pub frames: u64,
    /// Bytes, with the frames' lengths.
    pub bytes: u64,
    /// Entries, by [`Table::index`].
    pub entries: [u64; Table::COUNT],
    /// Deletions, by [`Table::index`].
    pub deletions: [u64; Table::COUNT],
}

/// Received entries and deletions that were not applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// This node had the same or something newer.
    pub older: u64,
    /// Of a table that this version does not know.
    pub unknown_table: u64,
    /// They refer to a name that was not announced, or that found no room here.
    pub unknown_name: u64,
    /// A generation that no node gives.
    pub generation: u64,
    /// The table may have no more entries.
    pub table_full: u64,
    /// The shell had no room in the live table, or did not know the service or target.
    pub refused: u64,
}

/// Everything counted since the process began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// To the peer.
    pub sent: Traffic,
    /// From the peer.
    pub received: Traffic,
    /// What came and was not applied.
    pub skipped: Skipped,
    /// Sessions that both sides' hellos began.
    pub sessions: u64,
    /// Why connections ended, by [`SessionEnd::index`].
    pub ended: [u64; SessionEnd::COUNT],
    /// Snapshots sent to their end, and acknowledged.
    pub snapshots_sent: u64,
    /// Snapshots received to their end.
    pub snapshots_received: u64,
    /// Snapshots that began anew because too much was dirty.
    pub resyncs: u64,
    /// Entries removed because the peer's snapshot no longer had them.
    pub swept: u64,
    /// Entries taken over because the peer's process was another one.
    pub adopted: u64,
    /// Own entries that were forgotten because the live table no longer had them when it was scanned.
    pub vanished: u64,
    /// Local changes that are not replicated because the table may have no more entries.
    pub local_full: u64,
    /// Entries not sent because they refer to a name that was forgotten.
    pub forgotten_name: u64,
    /// Deletions for which there was no tombstone left.
    pub tombstones_full: u64,
    /// Tombstones that were too old without an acknowledgement.
    pub tombstones_expired: u64,
    /// Rings that this node has come to choose from once the peer knew them and had all that was changed before.
    pub rings_acknowledged: u64,
    /// The same, although the peer had not said so in time.
    pub rings_timed_out: u64,
    /// The same, without a peer to wait for.
    pub rings_alone: u64,
    /// Rings of the peer's that found no room.
    pub rings_refused: u64,
    /// Names without a number because there were too many, or they were too long.
    pub names_refused: u64,
}

impl Counters {
    /// Entries that found no room in a table.
    pub(super) const fn unmet(&self) -> u64 {
        self.local_full + self.skipped.table_full
    }
}

/// What there is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// How far this node is.
    pub state: State,
    /// When that began.
    pub since: Instant,
    /// Whether the peer has acknowledged a complete snapshot in the present session: it has everything this node has.
    pub peer_synced: bool,
    /// What the peer said of itself in the present session, or in the last one.
    pub peer: Option<Hello>,
    /// Whether its configuration is another one.
    pub config_differs: bool,
    /// Tables that had room for another number of entries at the peer when the present session began, or the last one, by [`Table::index`].
    pub sizes_differ: [bool; Table::COUNT],
    /// How long the oldest change has been waiting that the peer has not been sent. Without a session, since the first one that it missed; and
    /// on until the next one has told it everything.
    pub lag: Duration,
    /// Entries that wait to be sent.
    pub dirty: usize,
    /// Bytes sent and not acknowledged.
    pub unacknowledged: usize,
    /// Deletions that are remembered.
    pub tombstones: usize,
    /// Names that have a number.
    pub names: usize,
    /// Why one got none, the last time since some were forgotten.
    pub name_refused: Option<NameError>,
    /// Entries whose last change is remembered, by [`Table::index`].
    pub ledger: [usize; Table::COUNT],
    /// Values of the peer's own, by [`Table::index`].
    pub peer_values: [usize; Table::COUNT],
    /// Rings of the peer's that are known.
    pub peer_rings: usize,
    /// Entries that the peer had no place for in the present session.
    pub peer_refused: u64,
    /// Counters.
    pub counters: Counters,
}
