//! How many connections a service may have at the same time.

use std::sync::atomic::{AtomicU32, Ordering};

/// The open connections of one service, counted over all workers.
#[derive(Debug, Default)]
pub struct ConnectionCount(AtomicU32);

impl ConnectionCount {
    /// Counts one more connection if fewer than `max` are open; answers whether it was admitted.
    ///
    /// The limit is handed in with each connection because a reload may change it; connections above a lowered limit go
    /// on.
    pub fn admit(&self, max: u32) -> bool {
        // One addition in the usual case; an over-count by workers refusing at the same moment is taken back at once.
        if self.0.fetch_add(1, Ordering::Relaxed) < max {
            return true;
        }
        self.0.fetch_sub(1, Ordering::Relaxed);
        false
    }

    /// Takes back one admitted connection.
    pub fn release(&self) {
        let before = self.0.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "a connection was released that was not admitted");
    }

    /// Connections open now.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_more_than_the_limit(steps in proptest::collection::vec((any::<bool>(), 1_u32..6), 0..200)) {
            let count = ConnectionCount::default();
            let mut open = 0;
            for (arrives, max) in steps {
                if arrives {
                    let admitted = count.admit(max);
                    prop_assert_eq!(admitted, open < max);
                    open += u32::from(admitted);
                } else if open > 0 {
                    count.release();
                    open -= 1;
                }
                prop_assert_eq!(count.open(), open);
            }
        }
    }
}
