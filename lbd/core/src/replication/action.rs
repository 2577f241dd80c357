//! What a replica asks of its shell.

use super::entry::{Cursor, Key, Live, Table};
use super::error::SessionError;
use super::names::NameId;
use super::notes::Note;
use super::rings::RingOutcome;

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write into the live tables, then answer with [`super::Replica::applied`]. There is one at a time.
    Apply(Apply),
    /// Read a part of a live table, then answer with [`super::Replica::scanned`].
    Scan(Scan),
    /// Choose from the ring that was announced, then say so with [`super::Replica::ring_used`].
    SwitchRing {
        /// Which.
        ring: NameId,
        /// Of what it is made of.
        hash: u64,
        /// How far the peer is with it.
        outcome: RingOutcome,
    },
    /// What is known of one of the peer's rings has changed: see [`super::Replica::peer_ring`].
    PeerRing(NameId),
    /// The peer has this node know something: see [`super::Replica::note`].
    Note(Note),
    /// Close the connection; the reason is for the operator.
    Disconnect(SessionError),
}

/// An entry to be written into a live table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    /// The entry.
    pub live: Live,
    /// Whether what it takes the place of is this node's own, as far as was told of that: only then can there be something in the live
    /// table that is to stay.
    pub over_own: bool,
    /// Whether nothing was known here of such an entry: it does not only go on.
    pub is_new: bool,
}

/// What is to be written into the live tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apply {
    /// For the answer.
    pub id: u64,
    /// New entries and new values of known ones.
    pub puts: Vec<Put>,
    /// What goes.
    pub deletes: Vec<Key>,
}

/// What is to be read from a live table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// For the answer.
    pub id: u64,
    /// The table.
    pub table: Table,
    /// Where to go on; empty at the start.
    pub cursor: Cursor,
    /// Entries to answer at most.
    pub limit: usize,
}
