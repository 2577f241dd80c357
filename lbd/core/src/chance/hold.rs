//! What a former life has attached goes on at first.

use common::time::Instant;

use super::LEASE;

/// How long it does: until this life knows as much as that one did, the other node's sessions of datagrams included, of which the word says
/// nothing; but no longer than what was said to that one holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hold(Option<Instant>);

impl Hold {
    /// It begins.
    #[must_use]
    pub fn begin(now: Instant) -> Self {
        Self(Some(now + LEASE))
    }

    /// Whether it lasts.
    #[must_use]
    pub const fn is_on(self) -> bool {
        self.0.is_some()
    }

    /// Whether the other node has said what it has, and all of its entries are here.
    pub fn look(&mut self, now: Instant, heard: bool, in_step: bool) {
        if (heard && in_step) || self.0.is_some_and(|until| until <= now) {
            self.0 = None;
        }
    }
}
