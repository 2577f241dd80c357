//! What belongs to one connection, and is gone with it.

use std::collections::VecDeque;

use common::time::Instant;
use common::wire::FramesWithin;

use super::dirty::Expiry;
use super::entry::{Cursor, Entry, Fingerprint, Key, Table};
use super::error::SessionError;
use super::frame::{Ack, FRAME_SIZE_MAX};
use super::names::{Announced, Translation};

/// A connection.
#[derive(Debug)]
pub(super) struct Session {
    /// Tells the session from those before it.
    pub(super) number: u64,
    pub(super) began: Instant,
    /// Our hello is sent.
    pub(super) greeted: bool,
    /// The hash of the configuration that the peer was told last.
    pub(super) told_hash: u64,
    /// The peer knows this node's word.
    pub(super) told_word: bool,
    /// The spoken minor version, once the peer's hello has been accepted.
    pub(super) minor: Option<u16>,
    pub(super) outgoing: Outgoing,
    pub(super) incoming: Incoming,
}

/// What goes to the peer.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// Of the last frame that has one; the first has 1.
    pub(super) sequence: u64,
    pub(super) acknowledged: u64,
    in_flight: VecDeque<InFlight>,
    /// Bytes of frames without acknowledgement.
    pub(super) unacknowledged: usize,
    pub(super) announced: Announced,
    pub(super) last_sent: Instant,
    pub(super) snapshot: Snapshot,
    /// Whether the last frame of data was one of changes, not of the snapshot.
    pub(super) sent_changes: bool,
    pub(super) peer_refused: u64,
}

#[derive(Debug)]
struct InFlight {
    sequence: u64,
    bytes: usize,
}

/// What comes from the peer.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) frames: FramesWithin<FRAME_SIZE_MAX>,
    pub(super) last_heard: Instant,
    /// Of the last frame that came.
    pub(super) sequence: u64,
    /// Of the last frame that is applied.
    pub(super) applied: u64,
    /// Bytes that came since the last acknowledgement.
    pub(super) unacknowledged: usize,
    /// When what is applied is acknowledged at the latest; none if it has been.
    pub(super) ack_at: Option<Instant>,
    /// Entries of the session for which there was no room.
    pub(super) refused: u64,
    pub(super) names: Translation,
    /// Whether the peer's snapshot has begun and not ended.
    pub(super) in_snapshot: bool,
    pub(super) sweep: Option<Sweep>,
}

/// This node's snapshot on its way out.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    pub(super) stage: Stage,
    pub(super) walk: Walk,
    /// Scanned and not sent; the next one last.
    pub(super) page: Vec<PageEntry>,
    /// Once all is scanned: what became dirty before this place is sent before the end.
    pub(super) end: Option<u64>,
}

impl Snapshot {
    /// Whether there is something in it that the peer has not been sent: whatever changed before it began.
    pub(super) const fn is_on_its_way(&self) -> bool {
        matches!(self.stage, Stage::Begin | Stage::Tables)
    }
}

/// How far a snapshot is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// The peer has not been told that it begins.
    #[default]
    Begin,
    Tables,
    /// The end has this sequence number.
    Ended(u64),
    Acknowledged,
}

/// An entry as it was when it was scanned.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageEntry {
    pub(super) fingerprint: Fingerprint,
    pub(super) generation: u64,
    pub(super) entry: Entry,
    pub(super) expiry: Expiry,
}

/// A walk through tables by scans.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Place in [`Table::SNAPSHOT_ORDER`].
    place: usize,
    pub(super) cursor: Cursor,
    /// The scan that has not been answered.
    pub(super) scan: Option<u64>,
}

impl Walk {
    pub(super) fn table(&self) -> Option<Table> {
        Table::SNAPSHOT_ORDER.get(self.place).copied()
    }

    /// On to the next table, or to where the last scan of this one ended.
    pub(super) fn go_on(&mut self, next: Option<Cursor>) {
        self.scan = None;
        if next.is_none() {
            self.place += 1;
        }
        self.cursor = next.unwrap_or_default();
    }
}

/// The search for what the peer's snapshot no longer had.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    pub(super) walk: Walk,
    /// Whether the current table has something to be searched for.
    pub(super) is_needed: Option<bool>,
    /// The last scan of the current table has been answered.
    pub(super) exhausted: bool,
    /// Found and not yet given to the shell.
    pub(super) found: Vec<(Fingerprint, Key)>,
}

impl Sweep {
    /// On to where the last scan ended, or, once what was found is dealt with, to the next table.
    pub(super) fn go_on(&mut self, next: Option<Cursor>) {
        self.exhausted = next.is_none();
        self.walk.scan = None;
        self.walk.cursor = next.unwrap_or_default();
    }

    pub(super) fn next_table(&mut self) {
        self.walk.go_on(None);
        (self.is_needed, self.exhausted) = (None, false);
    }
}

impl Session {
    pub(super) fn new(number: u64, now: Instant) -> Self {
        Self {
            number,
            began: now,
            greeted: false,
            told_hash: 0,
            told_word: false,
            minor: None,
            outgoing: Outgoing {
                sequence: 0,
                acknowledged: 0,
                in_flight: VecDeque::new(),
                unacknowledged: 0,
                announced: Announced::default(),
                last_sent: now,
                snapshot: Snapshot::default(),
                sent_changes: false,
                peer_refused: 0,
            },
            incoming: Incoming {
                frames: FramesWithin::default(),
                last_heard: now,
                sequence: 0,
                applied: 0,
                unacknowledged: 0,
                ack_at: None,
                refused: 0,
                names: Translation::default(),
                in_snapshot: false,
                sweep: None,
            },
        }
    }
}

impl Outgoing {
    /// The number of the next frame.
    pub(super) const fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// A frame with the last sequence number goes out.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.unacknowledged += bytes;
        self.in_flight.push_back(InFlight { sequence: self.sequence, bytes });
    }

    /// The peer has applied frames. True if that completes this node's snapshot.
    pub(super) fn acknowledge(&mut self, ack: Ack) -> Result<bool, SessionError> {
        if ack.sequence < self.acknowledged || ack.sequence > self.sequence {
            return Err(SessionError::Sequence { expected: self.sequence, found: ack.sequence });
        }
        self.acknowledged = ack.sequence;
        self.peer_refused = ack.refused;
        while let Some(frame) = self.in_flight.front().filter(|frame| frame.sequence <= ack.sequence) {
            self.unacknowledged -= frame.bytes;
            self.in_flight.pop_front();
        }
        let ends = matches!(self.snapshot.stage, Stage::Ended(end) if end <= ack.sequence);
        if ends {
            self.snapshot.stage = Stage::Acknowledged;
        }
        Ok(ends)
    }
}

impl Incoming {
    /// Takes the number of a frame that came.
    pub(super) const fn take_sequence(&mut self, sequence: u64) -> Result<(), SessionError> {
        let expected = self.sequence + 1;
        if sequence != expected {
            return Err(SessionError::Sequence { expected, found: sequence });
        }
        self.sequence = sequence;
        Ok(())
    }
}
