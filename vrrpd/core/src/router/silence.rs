//! Silence on the LAN, while the peer says over the peer link that it is active.
//!
//! One of the two ports passes nothing, and the silence does not say which. A router that knows the peer's connections takes over
//! at once: it breaks none of them, whosever port it is. One that is behind would break them if it is its own port, as that of a host
//! that has just booted often is for half a minute (spanning tree, 802.1X). So it
//! - waits for [`CATCH_UP_MAX`], and no longer: if it is the peer's port, nobody serves meanwhile;
//! - then has the role *provisionally*: it advertises the least priority. As soon as the two hear each other it gives way, and the peer does not,
//!   both by what RFC 9568 says of priorities, so that it takes no more than an interval and asks nothing new of the peer;
//! - does not wait once its own port is seen to work: others are heard all the time, and the peer, whose address is known, is not. It gives way all the
//!   same, for between two switches that have lost each other both ports work.
//!
//! While nothing is heard of the peer on the peer link, nobody is known to give way to, and it advertises its own priority; how it came by the
//! role is not forgotten for that.
//!
//! "Behind" alone would not tell who is to give way: where the `lbd`s have no connection, both nodes are. Who came later does: the
//! peer was active already when this router took over.

use common::ipc::CATCH_UP_MAX;
use common::time::{Duration, Instant};

use super::{Heard, Router};
use crate::event::Reason;

/// What a router advertises that has its role provisionally. 0 would say that it leaves.
pub(crate) const PRIORITY_PROVISIONAL: u8 = 1;

/// How long others have to be heard at least, and the peer not: several of the questions that a host asks in a busy network.
const OTHERS_HEARD_MIN: Duration = Duration::from_secs(1);

/// Others than the peer, heard on the interface without a long pause.
#[derive(Clone, Copy, Debug)]
pub(super) struct Others {
    since: Instant,
    last: Instant,
}

impl Router {
    /// Whether it has the role until it hears the peer, which has it too.
    pub(crate) const fn is_provisional(&self) -> bool {
        self.taken_in_silence && self.rival && self.behind
    }

    /// The priority that it advertises, or would.
    pub(crate) const fn advertised(&self) -> u8 {
        if self.is_provisional() { PRIORITY_PROVISIONAL } else { self.effective }
    }

    /// Whether the peer says over the peer link that it is active, and serves no worse than this node, or not well, but serves.
    pub(crate) fn set_rival(&mut self, now: Instant, rival: bool) {
        let was_provisional = self.is_provisional();
        self.rival = rival;
        if was_provisional && !rival {
            // The other one may have announced itself last, and be gone.
            self.announce_soon(now);
        }
    }

    /// The peer has given its role up, or lost it, since this router took it: it is this one's for good.
    pub(crate) fn keep_role(&mut self, now: Instant) {
        if self.is_provisional() {
            self.announce_soon(now);
        }
        self.taken_in_silence = false;
    }

    /// Whether an active router gives way to who was heard. Beside what RFC 9568 says of priorities and addresses: 1 is a priority like any other, and
    /// where both advertise it, it is the one that has its role provisionally that gives way. Where both nodes are behind, whom the other one means is not
    /// known, and addresses decide: two that each wait for the other would both be active for ever.
    pub(super) fn gives_way_to(&self, heard: Heard) -> bool {
        let is_lesser = self.source.is_some_and(|source| heard.source > source);
        let tie_lost = self.is_provisional() || (is_lesser && (self.behind || !heard.provisional));
        let own = self.advertised();
        heard.priority > own || (heard.priority == own && tie_lost)
    }

    /// Whether a role that is taken now is provisional. Who preempts has heard the other one all the time.
    pub(super) fn takes_in_silence(&self, now: Instant, reason: Reason) -> bool {
        let unheard = match reason {
            Reason::LanFault => true,
            Reason::ActiveDown => self.is_silent(now),
            _ => false,
        };
        unheard && self.rival && self.behind
    }

    /// Whether the silence of a peer that serves, and from which this node learns, is put up with for a while yet.
    pub(crate) fn bears_silence(&mut self, now: Instant) -> bool {
        let until = *self.silence_until.get_or_insert(now + CATCH_UP_MAX);
        now < until && !self.hears_others_only(now)
    }

    /// Whether it is put up with already.
    pub(crate) const fn has_borne_silence(&self) -> bool {
        self.silence_until.is_some()
    }

    /// The peer was heard on the interface, by whatever it sent.
    pub(crate) const fn heard_peer(&mut self) {
        self.others = None;
    }

    /// Somebody was who is known not to be the peer.
    pub(crate) fn heard_others(&mut self, now: Instant) {
        let limit = self.others_limit();
        let goes_on = self.others.filter(|others| now.since(others.last) < limit);
        self.others = Some(Others { since: goes_on.map_or(now, |others| others.since), last: now });
    }

    /// Whether the interface passes what others send, and would have passed what the peer advertises.
    fn hears_others_only(&self, now: Instant) -> bool {
        let limit = self.others_limit();
        let shows =
            |others: Others| others.last.since(others.since) >= limit && now.since(others.last) < limit;
        self.others.is_some_and(shows)
    }

    /// Longer than a peer whose port has just begun to pass what it sends takes to be heard.
    fn others_limit(&self) -> Duration {
        self.active_down_interval().max(OTHERS_HEARD_MIN)
    }
}
