//! Which node has what an entry of a table stands for, where that lives in one place: a session in a socket.

use std::fmt::Debug;

/// Who has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Holder {
    /// Neither node: it is only remembered.
    #[default]
    Nobody,
    /// This one.
    Us,
    /// The other one.
    Other,
}

/// Hears of each change of who has what is behind a key: nobody, until it is told something else. It is told while the key's part of the
/// table is locked, so in the order of the changes.
pub trait Holders<K>: Debug + Send + Sync {
    /// From now on it is `holder`.
    fn holds(&self, key: &K, holder: Holder);
}
