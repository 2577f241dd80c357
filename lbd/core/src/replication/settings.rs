//! What a replica is told when it is made.

use std::sync::Arc;

use common::hash::HashKey;
use common::time::Duration;

use super::entry::Table;
use super::hello::MINOR;

/// What a replica works with. [`Settings::new`] has what is right for all but tests.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node's name; of two nodes that change an entry at once the greater name wins.
    pub node: Arc<str>,
    /// A number that no other replica had, random or from a clock.
    pub boot: u64,
    /// The same for the process, which may have several replicas one after the other; [`Self::boot`] but where it is set.
    pub process: u64,
    /// The hash of the configuration.
    pub config_hash: u64,
    /// The release of the program, for operators: printable characters of ASCII without spaces, [`super::RELEASE_LENGTH_MAX`] at most. Empty
    /// but where it is set; then the peer shows none.
    pub release: Arc<str>,
    /// The key of the hash that stands for entries within this process; secret, because clients choose what is hashed.
    pub hash: HashKey,
    /// Where generations begin: microseconds since 1970. Then what this node changes after a restart is newer than what it changed
    /// before. Nothing depends on the clock being right: the nodes hear of each other's largest generation with each session.
    pub generation: u64,
    /// The latest minor protocol version to speak; [`MINOR`] but for tests.
    pub minor: u16,
    /// How many entries each table may have, by [`Table::index`]: no more is remembered, and no more taken from the peer.
    pub tables: [u32; Table::COUNT],
    /// Entries that may wait to be sent. Beyond it the set is dropped and a new snapshot begins, which is counted.
    pub dirty_max: usize,
    /// Deletions that may wait for the peer's acknowledgement.
    pub tombstones_max: usize,
    /// Bytes that may be on their way without acknowledgement; at most one frame more. A snapshot takes half of it at most.
    pub window: usize,
    /// How long a change may wait for others that fill a frame with it.
    pub flush_after: Duration,
    /// How long what was applied may wait for other frames that are acknowledged with it; an eighth of a window does not wait. Nobody waits
    /// for it: what somebody waits for, rings and the end of a snapshot, is acknowledged at once; and each one wakes both nodes.
    pub acknowledge_after: Duration,
    /// The longest silence of this node.
    pub keepalive: Duration,
    /// The silence after which the peer is given up.
    pub idle_timeout: Duration,
    /// Entries that are asked for with a scan.
    pub scan_limit: usize,
}

impl Settings {
    /// Those of a node: a window of 1 MiB, changes sent within 5 ms and acknowledged within 50 ms, a word each second, 5 s of silence accepted.
    #[must_use]
    pub fn new(node: &str, boot: u64, config_hash: u64, hash: HashKey, generation: u64) -> Self {
        let mut tables = [131_072; Table::COUNT];
        tables[Table::Flows.index()] = 1 << 20;
        tables[Table::Targets.index()] = 16_384;
        tables[Table::Health.index()] = 16_384;
        tables[Table::Members.index()] = 16_384;
        Self {
            node: Arc::from(node),
            boot,
            process: boot,
            config_hash,
            release: Arc::from(""),
            hash,
            generation,
            minor: MINOR,
            tables,
            dirty_max: tables.iter().map(|&size| size as usize).sum(),
            tombstones_max: 65_536,
            window: 1 << 20,
            flush_after: Duration::from_millis(5),
            acknowledge_after: Duration::from_millis(50),
            keepalive: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(5),
            scan_limit: 1024,
        }
    }
}
