//! The planned switchover, make-before-break.
//!
//! The leaving router offers the role over the peer link and keeps serving; the peer becomes active, announces it and
//! answers; only then does the first one drop the addresses. The wait is bounded by [`OFFER_BOUND`]; after it, or without
//! a peer link, the router resigns with plain priority 0 and still keeps the addresses until another router is
//! heard, for no longer than [`resign_bound`].

use common::time::{Duration, Instant};

use crate::event::HandoverFailure;

/// Time between repeats of an unanswered offer.
pub const OFFER_INTERVAL: Duration = Duration::from_millis(20);

/// How long an offer is repeated.
pub const OFFER_BOUND: Duration = Duration::from_millis(300);

/// How long a router that resigned waits to hear its successor: Skew_Time is less than one advertisement interval, and
/// the successor's first advertisement has to arrive. At most 5 s, so that stopping never takes long.
#[must_use]
pub fn resign_bound(interval: Duration) -> Duration {
    (interval + Duration::from_millis(100)).min(Duration::from_secs(5))
}

/// Why the role is handed over, which decides what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The daemon stops: the router ends in Init, with or without a successor.
    Shutdown,
    /// Someone asked for it: the router stays away until the peer fails; without a successor it keeps the role.
    Request,
    /// The peer is healthier: the router keeps the role if the peer does not take it.
    Health,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Offers go out over the peer link; the router still advertises.
    Offered,
    /// Priority 0 was sent; the router is silent but still answers for the addresses.
    Resigned,
}

/// A handover under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handover {
    pub(crate) id: u64,
    pub(crate) purpose: Purpose,
    pub(crate) phase: Phase,
    /// The end of the phase.
    pub(crate) deadline: Instant,
    /// What is said of it when nobody takes the role: why the offer came to nothing, if it did.
    pub(crate) failure: HandoverFailure,
}
