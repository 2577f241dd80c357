//! Flows of the other node that are not known here: which those may be, and from what it chose their targets.
//!
//! A node tells of its flows within some milliseconds. Of one that dies the last ones are not known, and whoever goes on with them has nothing
//! but the choice to repeat, from the ring of the node that made it. What is no flow of the other node's looks the same where a node does not
//! remember a flow of its own (too many began at once), so that is done for a while only.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::config::Protocol;
use common::time::{Duration, Instant};

use super::super::abi::{Ticks, ticks_of};
use super::ring::Make;

/// So long after a node has taken over, or the other one was heard last, flows that are not known may be the other node's.
pub const OTHERS_FOR: Duration = Duration::from_secs(60);

/// An end that moves on is written anew so often, in ticks.
const MOVES_EVERY: u32 = 16 * Ticks::PER_SECOND;

/// What the other node chooses from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtherRing {
    /// Now.
    pub used: Option<Arc<Make>>,
    /// And soon.
    pub next: Option<Arc<Make>>,
}

/// When the other node was heard last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Heard {
    /// It never was.
    #[default]
    Never,
    /// Just now.
    Now,
    /// At this time.
    Last(Instant),
}

/// Until which tick flows that are not known may be the other node's; 0 if none can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OtherUntil {
    /// Connections.
    pub connections: u32,
    /// What datagrams belong to.
    pub datagrams: u32,
}

impl OtherUntil {
    /// The same of both.
    #[must_use]
    pub const fn both(tick: u32) -> Self {
        Self { connections: tick, datagrams: tick }
    }

    pub(super) const fn of(self, protocol: Protocol) -> u32 {
        match protocol {
            Protocol::Tcp => self.connections,
            Protocol::Udp => self.datagrams,
        }
    }
}

/// Since when this node owns VRRP instances.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    /// Whether it does, and since when that is so; none if it was so when it was first heard of.
    owns: BTreeMap<String, (bool, Option<Instant>)>,
}

impl Owners {
    /// What is known of the roles now: whether each instance is owned.
    pub fn hear<'a>(&mut self, now: Instant, roles: impl IntoIterator<Item = (&'a str, bool)>) {
        for (instance, owns) in roles {
            match self.owns.get_mut(instance) {
                Some(known) if known.0 == owns => {}
                Some(known) => *known = (owns, Some(now)),
                None => {
                    self.owns.insert(instance.to_owned(), (owns, None));
                }
            }
        }
    }

    /// How long flows of an instance may still be the other node's, as far as the role goes; all the time while it is the other node's, and of
    /// addresses that have no owner.
    fn left(&self, now: Instant, instance: &str) -> Left {
        match self.owns.get(instance) {
            Some((true, None)) => Left::For(Duration::ZERO),
            Some((true, Some(since))) => Left::since(*since, now),
            Some((false, _)) | None => Left::Always,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    For(Duration),
    Always,
}

impl Left {
    fn since(since: Instant, now: Instant) -> Self {
        Self::For(OTHERS_FOR.saturating_sub(now.since(since)))
    }
}

/// Until when flows of an instance that are not known may be the other node's; of addresses that have no owner under no name. An end that moves on
/// with the time is ahead of it, so that it stands when nobody is left to move it.
///
/// What nobody owns both nodes serve at once, and each is asked all the time. A segment that opens nothing and is of no flow is the other node's then as
/// well as ever. A datagram begins a flow, and as long as the other node is there to go on with its own, it is this node that has been
/// asked: by the other one's ring each would serve what the other one has chosen, for as long as their rings differ, which with targets of
/// their own zones is always.
#[must_use]
pub fn until(owners: &Owners, heard: Heard, now: Instant, tick: u32, instance: &str) -> OtherUntil {
    let by_heard = match heard {
        Heard::Never => return OtherUntil::default(),
        Heard::Now => Left::Always,
        Heard::Last(at) => Left::since(at, now),
    };
    let end = match by_heard.min(owners.left(now, instance)) {
        Left::For(Duration::ZERO) => return OtherUntil::default(),
        // By whole seconds, which is the same one whenever it is asked for.
        Left::For(left) => tick.wrapping_add(ticks_of(left)) | (Ticks::PER_SECOND - 1),
        Left::Always => (tick | (MOVES_EVERY - 1)).wrapping_add(ticks_of(OTHERS_FOR)),
    };
    // 0 stands for never.
    let connections = end.max(1);
    let begins_here = instance.is_empty() && heard == Heard::Now;
    OtherUntil { connections, datagrams: if begins_here { 0 } else { connections } }
}
