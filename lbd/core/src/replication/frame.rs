//! The bytes between the nodes: frames, and the entries in them.
//!
//! A frame is a 4-byte length, the version byte of [`common::wire`] and a [`Frame`]. Data carries entries in batches, one for each
//! table and kind, as bytes: a receiver that does not know a table skips its batch and counts the entries. Generations are
//! differences to one that the frame names, remaining lifetimes are milliseconds, names are the sender's numbers. A flow takes about 55
//! bytes.

use bincode::{Decode, Encode};
use common::time::Duration;
use common::wire::{self, WireError};

use super::entry::{Address, Table, Tuple};
use super::notes::Note;
use crate::chance::Word;

/// Bytes of entries after which a frame is sent.
pub const BATCH_SIZE: usize = 60 * 1024;

/// The largest frame, in bytes without its length: a full batch, the entry that made it full, names and headers.
pub const FRAME_SIZE_MAX: usize = 96 * 1024;

/// Changes that fill a frame, roughly: so many do not wait for more.
pub(super) const ENTRIES_OF_FULL_FRAME: usize = 1024;

/// Names announced in one frame at most; an entry that needs another one waits for the next frame.
pub(super) const NAMES_PER_FRAME: usize = 64;

/// A lifetime without an end.
const ENDLESS: u32 = u32::MAX;

/// What is sent. The order of variants is part of the format: new ones go to the end, with a new minor version.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Frame {
    /// The first of each side. All that every version has to understand.
    Opening(Opening),
    /// After a silence, and when the configuration has changed: its hash.
    Alive {
        config_hash: u64,
    },
    /// All frames up to this sequence number are applied.
    Ack(Ack),
    /// Entries.
    Data(Data),
    /// The sender's snapshot begins: what it owns and does not send until the end is gone.
    SnapshotBegin {
        sequence: u64,
    },
    SnapshotEnd {
        sequence: u64,
    },
    /// These two numbers are not to stand for anything else: before the first release they were for changes of rings.
    Unused6,
    Unused7,
    /// What the sender says of its proxied connections, from minor version 2 on.
    Word(Word),
    /// What a ring of the sender's is made of, from minor version 4 on.
    Ring(RingFrame),
    /// Something that the receiver is to know, from minor version 5 on.
    Note(Note),
}

/// Says which protocol is spoken. Its layout never changes; that of the body belongs to the major version.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Opening {
    pub(super) major: u16,
    pub(super) minor: u16,
    /// A [`HelloBody`], the number of the process, and from minor version 5 on the release; later ones may add to the end.
    pub(super) body: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct HelloBody {
    pub(super) node: String,
    pub(super) boot: u64,
    pub(super) config_hash: u64,
    /// The largest generation the sender has given or seen.
    pub(super) generation: u64,
    /// Table numbers and how many entries each may have.
    pub(super) tables: Vec<(u8, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Ack {
    pub(super) sequence: u64,
    /// Entries of the session for which there was no room.
    pub(super) refused: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Data {
    pub(super) sequence: u64,
    /// What the generations of the entries are counted from.
    pub(super) base: u64,
    pub(super) names: Vec<Announcement>,
    pub(super) batches: Vec<Batch>,
}

/// A ring that the sender chooses from (`used`), or is about to.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct RingFrame {
    pub(super) sequence: u64,
    pub(super) ring: u32,
    pub(super) hash: u64,
    pub(super) used: bool,
    /// Targets and weights.
    pub(super) members: Vec<(u32, u16)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Announcement {
    pub(super) number: u32,
    pub(super) name: WireName,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum WireName {
    Service(String),
    Group(String),
    Target(String, String),
    /// From minor version 3 on.
    Zone(String),
    /// From minor version 4 on.
    Ring(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Batch {
    /// [`Table::number`].
    pub(super) table: u8,
    /// Whether these are keys of what is gone, instead of entries.
    pub(super) deletes: bool,
    pub(super) count: u32,
    pub(super) bytes: Vec<u8>,
}

/// What comes before each entry and each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Head {
    /// The generation less the frame's base.
    pub(super) generation: i64,
    pub(super) remaining_ms: u32,
}

/// A key as the batch's table has it, and what follows it in an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct TupleKey {
    pub(super) tuple: Tuple,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct SourceKey {
    pub(super) name: u32,
    pub(super) source: Address,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct SessionValue {
    pub(super) service: u32,
    pub(super) target: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct TargetValue {
    pub(super) state: u8,
    pub(super) weight: Option<u16>,
}

/// What has been said of a target's place in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum MemberValue {
    Given,
    Deleted,
    Added {
        address: Address,
        port: u16,
        weight: u16,
        backup: bool,
        zone: Option<u32>,
        max_connections: Option<u32>,
        instead: bool,
    },
}

impl Frame {
    /// Adds the frame to what is to be sent. An error means that something larger than its own bounds was put in.
    pub(super) fn append(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        wire::append_frame::<FRAME_SIZE_MAX, Self>(self, out)
    }

    /// Whether it has a sequence number: it is applied and acknowledged, and counts for the window.
    pub(super) const fn is_numbered(&self) -> bool {
        matches!(self, Self::Data(_) | Self::SnapshotBegin { .. } | Self::SnapshotEnd { .. } | Self::Ring(_))
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode_within::<FRAME_SIZE_MAX, Self>(bytes)
    }
}

/// Whether these bytes are one whole frame that carries no entries and is no part of a snapshot.
pub(super) fn is_one_without_entries(bytes: &[u8]) -> bool {
    let Some((length, [_version, variant, ..])) = bytes.split_first_chunk::<{ wire::LENGTH_SIZE }>() else {
        return false;
    };
    let rest = bytes.len() - wire::LENGTH_SIZE;
    // `Alive`, `Ack` and `Word`.
    u32::try_from(rest) == Ok(u32::from_le_bytes(*length)) && matches!(variant, 1 | 2 | 8)
}

/// A lifetime in milliseconds, rounded up, so that what lives for less than one is not over.
pub(super) fn to_millis(remaining: Option<Duration>) -> u32 {
    remaining.map_or(ENDLESS, |span| {
        u32::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(ENDLESS).min(ENDLESS - 1)
    })
}

pub(super) fn from_millis(remaining_ms: u32) -> Option<Duration> {
    (remaining_ms != ENDLESS).then(|| Duration::from_millis(u64::from(remaining_ms)))
}

/// The batches of a frame while it is put together: a buffer for each table and kind, used again and again.
#[derive(Debug, Default)]
pub(super) struct Batches {
    buffers: [[(u32, Vec<u8>); 2]; Table::COUNT],
    size: usize,
}

impl Batches {
    /// The buffer for the next entry, or key of what is gone, of the table.
    pub(super) fn write(
        &mut self,
        table: Table,
        deletes: bool,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        let (count, bytes) = &mut self.buffers[table.index()][usize::from(deletes)];
        let before = bytes.len();
        encode(bytes)?;
        *count += 1;
        self.size += bytes.len() - before;
        Ok(())
    }

    pub(super) const fn is_full(&self) -> bool {
        self.size >= BATCH_SIZE
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Takes what there is.
    pub(super) fn take(&mut self) -> Vec<Batch> {
        self.size = 0;
        let mut batches = Vec::new();
        for table in Table::SNAPSHOT_ORDER {
            for deletes in [false, true] {
                let (count, bytes) = &mut self.buffers[table.index()][usize::from(deletes)];
                if *count > 0 {
                    batches.push(Batch {
                        table: table.number(),
                        deletes,
                        count: std::mem::take(count),
                        bytes: bytes.clone(),
                    });
                    bytes.clear();
                }
            }
        }
        batches
    }
}
