//! Replication: what one `lbd` tells the other of its connections and sessions, so that either can carry on.
//!
//! [`Replica`] is one node's end, without IO. It works on one stream of bytes to the peer, in order and authenticated, and on
//! live tables that are elsewhere: the kernel's maps, the sticky tables. It remembers who changed each entry last, which
//! entries the peer has not been sent yet, and what was deleted; nothing else of the tables.
//!
//! # How a shell drives it
//!
//! - *Local changes*: [`Replica::changed`] (or, for many, [`Replica::changed_all`]) and [`Replica::deleted`], for each, in order. Names become numbers once, with
//!   [`Replica::name`].
//! - *The stream*: [`Replica::connected`] and [`Replica::disconnected`]; [`Replica::received`] with what was read, as long as
//!   [`Replica::wants_bytes`]; [`Replica::poll_transmit`] whenever the socket has taken all there was.
//! - *What is to be done*: [`Replica::poll`] until there is nothing, after each of these and after [`Replica::applied`] and
//!   [`Replica::scanned`], the answers to it.
//! - *Time*: [`Replica::timeout`], then both polls, when [`Replica::deadline`] has come.
//!
//! An [`Action::Apply`] is for the live tables; a change that was made there before it was written, and is told after it was taken,
//! would be told as later than it: the shell either keeps such a change (a flow that was seen later) or tells of what is
//! there afterwards. Puts for unknown services and targets are answered as refused.
//!
//! # Decisions
//!
//! *Versions.* Each change gets a generation, larger than any that its node has given or heard of (a Lamport clock), and has an owner: the
//! node that made it. The later one stays, a tie goes to the greater node name, so both nodes end up with the same whatever the
//! order in which they hear of it. Generations begin with the wall clock, so that a restarted node's changes count as
//! later than what it did in its former life; nothing but that depends on the clock. What people say of targets has generations that
//! are never behind the wall clock ([`Replica::set_clock`]): where the nodes did not hear of each other, the word that was said later, by the clock of the node
//! that it was said to, is the one that stays.
//!
//! *Full snapshot with each session*, of what the node owns, from scans of the live tables, by turns with changes. A
//! scanned entry goes out only if it is still of the version that it had when it was scanned. The receiver marks what comes; at the end
//! it removes what it has of the sender's and did not come. Keys are found by scanning its own live tables, and only if its ledger
//! says that there is something to find: so the ledger needs a fingerprint for each entry, not a key.
//! The sender's ledger, too, forgets what its own scan did not meet.
//!
//! *Owner.* Who changed an entry last. Only what the owner's snapshot lacks is swept, and a copy that runs out says nothing about
//! the original ([`Removal`]). The tombstone of an entry that ran out at its owner has the version of its last change: it cannot remove
//! what the other node did since. When the peer's process is another one, its entries become ours, so the snapshot brings them back to it.
//! An entry that is found by a scan and that nobody told of was there before the process: it counts as older than anything.
//!
//! *Acknowledgements* are for frames whose entries the shell has written. With the acknowledgement of a deletion every change that
//! crossed it has come in, so its tombstone goes. A tombstone is needed longer only while there is no session. A deletion without one, for want of
//! room, stands until it is sent; after that what crosses it undoes it on this node, until the next session.
//!
//! *Nothing grows.* Frames are made when the stream takes them. Up to a window may be without acknowledgement; beyond that changes wait in the
//! dirty set, one for each entry. A dirty set that is full is dropped for a new snapshot. The receiver has one frame at a time in hand
//! and reads no further. Memory for each entry of a table: 20 to 39 bytes of [ledger](ledger), about 150 while it is
//! [dirty](dirty), about 100 for a [tombstone](tombstones), about 90 for a value of the [peer's own](values).
//!
//! *Rings.* Before a node chooses its flows' targets from another ring, the peer knows what that is made of and has all flows that the old one
//! has placed ([`Replica::announce_ring`]), or a short wait is over. It keeps what the peer's are made of, to repeat a choice that it was not
//! told of.
//!
//! *Notes.* What is no table, and larger than an entry, is told as a whole ([`Replica::note`]): certificates that one node has ordered.
//!
//! *State.* [`State::Synced`] is reached in one way: by the end of the peer's snapshot, with what it lacked removed.
//!
//! *Tables in which each node has its own values* (rates, health) know no versions: the peer's latest stands beside ours.
#![allow(rustdoc::private_intra_doc_links, reason = "who reads the source wants to find the parts")]

mod action;
mod codec;
mod dirty;
mod entry;
mod error;
mod frame;
mod hello;
mod ledger;
mod names;
mod notes;
mod parts;
mod receive;
mod replica;
mod rings;
mod session;
mod settings;
#[cfg(test)]
mod sim;
mod stats;
mod tables;
#[cfg(test)]
mod tests;
mod tombstones;
mod transmit;
mod values;

pub use action::{Action, Apply, Put, Scan};
pub use entry::{Address, Cursor, Entry, Flow, Key, Live, Member, Membership, Removal, Table, Tuple};
pub use error::{SessionEnd, SessionError};
pub use frame::{BATCH_SIZE, FRAME_SIZE_MAX};
pub use hello::{Hello, MAJOR, MINOR, RELEASE_LENGTH_MAX};
pub use names::{Forgotten, NAME_LENGTH_MAX, NAMES_MAX, Name, NameError, NameId};
pub use notes::{NOTE_NAME_MAX, NOTE_SIZE_MAX, NOTES_MAX, Note, Notes};
pub use replica::Replica;
pub use rings::{PeerRing, RING_MEMBERS_MAX, RING_WAIT, RINGS_MAX, RingMake, RingOutcome};
pub use settings::Settings;
pub use stats::{Counters, Skipped, State, Stats, Traffic};
pub use tombstones::LIFETIME;
