//! Datagrams that are not passed on: counted each, logged now and then.

use std::cell::Cell;
use std::net::SocketAddr;

use lbd_core::udp_sessions::DatagramDrop;

use crate::counters::ServiceCounters;

/// The log says at most once in so long that datagrams are dropped.
const SAID_EVERY_MS: u64 = 10_000;

/// What a listening socket has said of its drops, and what it has kept to itself since.
#[derive(Debug, Default)]
pub(super) struct Drops {
    said_ms: Cell<Option<u64>>,
    unsaid: Cell<u64>,
}

impl Drops {
    /// Counts `count` datagrams to or from `address`.
    pub(super) fn count(
        &self,
        counters: &ServiceCounters,
        address: SocketAddr,
        now_ms: u64,
        reason: DatagramDrop,
        count: u64,
    ) {
        counters.udp.drops[reason.index()].add(count);
        // Why there is no session is counted by itself, and no news.
        let news = !matches!(reason, DatagramDrop::Refused | DatagramDrop::Closing);
        if news && self.says(now_ms, count) {
            let (reason, since_last) = (reason.name(), self.unsaid.take());
            tracing::warn!(%address, reason, since_last, "datagrams are dropped");
        }
    }

    fn says(&self, now_ms: u64, count: u64) -> bool {
        self.unsaid.set(self.unsaid.get() + count);
        let due = count > 0 && self.said_ms.get().is_none_or(|said_ms| now_ms >= said_ms + SAID_EVERY_MS);
        if due {
            self.said_ms.set(Some(now_ms));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_at_once_and_then_seldom() {
        let drops = Drops::default();
        assert!(!drops.says(1, 0), "nothing was dropped");
        assert!(drops.says(2, 3) && drops.unsaid.take() == 3);
        assert!(!drops.says(SAID_EVERY_MS, 4));
        assert!(!drops.says(SAID_EVERY_MS + 1, 5));
        assert!(drops.says(SAID_EVERY_MS + 2, 1) && drops.unsaid.take() == 10);
    }
}
