//! Notes: a few things of some kilobytes that a node has the other one know, each under a name. What is in them is the shell's matter; the
//! latest of a name counts.
//!
//! They are no entries: nobody merges them, nothing of them is swept, and they wait for no acknowledgement. Each new session is told
//! all of them, so that what was lost with the one before is not missed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bincode::{Decode, Encode};

use super::error::SessionError;
use super::replica::Replica;

/// Notes of a node, at most. More are not told.
pub const NOTES_MAX: usize = 256;

/// The longest name of one, in bytes.
pub const NOTE_NAME_MAX: usize = 128;

/// The largest one, in bytes: with its name it fits into a frame.
pub const NOTE_SIZE_MAX: usize = 80 * 1024;

/// What a node has the other one know.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Note {
    /// What it is called; one with the name of another one takes its place.
    pub name: String,
    /// What it says. It may be secret.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Note").field("name", &self.name).field("bytes", &self.bytes.len()).finish()
    }
}

/// All that a node tells, by name.
pub type Notes = BTreeMap<Arc<str>, Arc<[u8]>>;

/// The notes of both.
#[derive(Default)]
pub(super) struct Noted {
    own: Notes,
    /// Those that the session's peer has not been told.
    untold: BTreeSet<Arc<str>>,
    /// What came and has not been handed over, by name.
    heard: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for Noted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Noted").field("own", &self.own.len()).field("heard", &self.heard.len()).finish()
    }
}

impl Noted {
    /// There is a session.
    pub(super) fn session_begins(&mut self) {
        self.untold = self.own.keys().cloned().collect();
    }

    /// The next one to be told.
    pub(super) fn next_frame(&mut self) -> Option<Note> {
        let name = self.untold.pop_first()?;
        let bytes = self.own.get(&name)?.to_vec();
        Some(Note { name: name.to_string(), bytes })
    }

    /// Takes in what the peer says.
    pub(super) fn take(&mut self, note: Note) -> Result<(), SessionError> {
        let has_room = self.heard.len() < NOTES_MAX || self.heard.contains_key(&note.name);
        if note.name.len() > NOTE_NAME_MAX || note.bytes.len() > NOTE_SIZE_MAX || !has_room {
            return Err(SessionError::Unexpected("a note beyond its limits"));
        }
        self.heard.insert(note.name, note.bytes);
        Ok(())
    }

    /// The next one for the shell.
    pub(super) fn next_heard(&mut self) -> Option<Note> {
        self.heard.pop_first().map(|(name, bytes)| Note { name, bytes })
    }
}

impl Replica {
    /// What the peer is to know: all of it, in the place of what was said before. It is told what is new at once, and everything after each new
    /// connection, if it speaks a version that knows of notes. What is too large, or beyond [`NOTES_MAX`], is left out.
    pub fn note(&mut self, notes: &Notes) {
        let fits = |(name, bytes): &(&Arc<str>, &Arc<[u8]>)| {
            name.len() <= NOTE_NAME_MAX && bytes.len() <= NOTE_SIZE_MAX
        };
        let notes: Notes = notes
            .iter()
            .filter(fits)
            .take(NOTES_MAX)
            .map(|(name, bytes)| (Arc::clone(name), Arc::clone(bytes)))
            .collect();
        let Noted { own, untold, .. } = &mut self.noted;
        for (name, bytes) in &notes {
            if own.get(name) != Some(bytes) {
                untold.insert(Arc::clone(name));
            }
        }
        untold.retain(|name| notes.contains_key(name));
        *own = notes;
    }
}
