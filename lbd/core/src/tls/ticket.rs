//! How long session tickets are good for.
//!
//! Both nodes of a pair make tickets with a key that follows from the pair's key and the time, so that each opens the other's without a
//! word between them. The time is cut into epochs; tickets are made with the key of the present one.

use std::time::Duration;

use common::time::UnixTime;

/// An epoch.
pub const EPOCH: Duration = Duration::from_secs(12 * 3600);

/// A longer ticket is none of ours: the largest thing in one is a client's chain of certificates.
pub const TICKET_BYTES_MAX: usize = 32 * 1024;

/// The epoch of a point of time.
#[must_use]
pub const fn epoch(now: UnixTime) -> u64 {
    now.as_millis() / 1000 / EPOCH.as_secs()
}

/// Whether a ticket of this epoch is accepted: the present one, so that it is good for an epoch at least, the one before, and the next,
/// for the other node's clock may be ahead.
#[must_use]
pub const fn accepted(of: u64, now: UnixTime) -> bool {
    of.abs_diff(epoch(now)) <= 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_good_for_an_epoch_and_less_than_two() {
        let at = |seconds: u64| UnixTime::from_nanos(seconds * 1_000_000_000);
        let length = EPOCH.as_secs();
        for made in [0, 1, length - 1, length, 10 * length + 17] {
            let of = epoch(at(made));
            assert!(accepted(of, at(made)) && accepted(of, at(made + length)));
            assert!(!accepted(of, at(made + 2 * length)));
        }
        assert!(accepted(epoch(at(length)), at(length - 1)), "the other node's clock is a second ahead");
    }
}
