//! When virtual IPs left this node: connections that they brought go on, for `drain_timeout` of the group that serves them.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Not left.
const HERE: u64 = u64::MAX;

/// The departures of the VRRP instances.
#[derive(Debug, Default)]
pub(crate) struct Departures(Mutex<BTreeMap<String, Departure>>);

/// When the virtual IPs of one instance left. A worker has one handle of its own for all of its connections, so that they do not count in
/// memory that it shares with others.
#[derive(Clone, Debug)]
pub(crate) struct Departure(Arc<AtomicU64>);

impl Departures {
    /// That of an instance. Takes a lock: once for each configuration, not for each connection.
    pub(crate) fn of(&self, instance: &str) -> Departure {
        // Entries are only added.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Departure(Arc::new(AtomicU64::new(HERE)));
        all.entry(instance.to_owned()).or_insert_with(fresh).clone()
    }
}

impl Departure {
    /// They left at this time of the process's clock; none if they are here, or their connections are over.
    pub(crate) fn set(&self, left_ms: Option<u64>) {
        self.0.store(left_ms.unwrap_or(HERE), Ordering::Relaxed);
    }

    /// Whether they are elsewhere now.
    pub(crate) fn is_away(&self) -> bool {
        self.0.load(Ordering::Relaxed) != HERE
    }

    /// Whether they left so long ago, or so long ago a connection came that began only after that.
    fn is_past(&self, now_ms: u64, since_ms: u64, drain_ms: u64) -> bool {
        self.0.load(Ordering::Relaxed).max(since_ms).saturating_add(drain_ms) <= now_ms
    }
}

/// What ends a connection, or a session of datagrams, some time after the virtual IP that brought it has left.
#[derive(Debug)]
pub(crate) struct Leave {
    /// The virtual IP's instance.
    departure: Rc<Departure>,
    /// When it began, by the process's clock.
    since_ms: u64,
    /// How long it may go on.
    drain_ms: u64,
}

/// What a daemon that stops closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// What came by addresses that are here.
    Here,
    /// All.
    All,
}

impl Closing {
    /// Whether that is something of which this is known, if it came by a virtual IP at all.
    pub(crate) fn is_for(self, leave: Option<&Leave>) -> bool {
        self == Self::All || !leave.is_some_and(Leave::is_away)
    }
}

impl Leave {
    /// Of what began at `since_ms`, by the process's clock, and may go on for `drain`.
    pub(crate) fn new(departure: Rc<Departure>, since_ms: u64, drain: Duration) -> Self {
        Self { departure, since_ms, drain_ms: millis(drain) }
    }

    /// Whether the virtual IP is elsewhere now.
    pub(crate) fn is_away(&self) -> bool {
        self.departure.is_away()
    }

    /// Whether its time is over.
    pub(crate) fn is_due(&self, now_ms: u64) -> bool {
        self.departure.is_past(now_ms, self.since_ms, self.drain_ms)
    }

    /// The same of what began on the connection only at `since_ms`, and may go on for `drain`.
    pub(crate) fn is_due_for(&self, now_ms: u64, since_ms: u64, drain: Duration) -> bool {
        self.departure.is_past(now_ms, since_ms, millis(drain))
    }
}

/// A time in milliseconds: for ever, if it has more than there are numbers for.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_ends_when_its_address_left_long_ago() {
        let departures = Departures::default();
        let departure = departures.of("web");
        let leave =
            |since_ms| Leave::new(Rc::new(departures.of("web")), since_ms, Duration::from_millis(1000));
        let (leave, late) = (leave(100), leave(700));
        assert!(!leave.is_due(u64::MAX - 1));
        assert!(!departure.is_away());
        departure.set(Some(500));
        assert!(departure.is_away());
        assert_eq!([1499, 1500].map(|now| leave.is_due(now)), [false, true]);
        assert_eq!([1699, 1700].map(|now| late.is_due(now)), [false, true], "it began after that");
        let due_for = |now, since_ms| leave.is_due_for(now, since_ms, Duration::from_millis(100));
        assert_eq!([599, 600].map(|now| due_for(now, 200)), [false, true], "another group serves it");
        assert_eq!([999, 1000].map(|now| due_for(now, 900)), [false, true], "and has begun only later");
        departures.of("mail").set(Some(0));
        departure.set(None);
        assert!(!leave.is_due(1500));
    }

    #[test]
    fn what_is_here_is_closed_before_what_has_left() {
        let departures = Departures::default();
        departures.of("east").set(Some(0));
        let leave = |name| Leave::new(Rc::new(departures.of(name)), 0, Duration::from_millis(1000));
        let (east, west) = (leave("east"), leave("west"));
        let is_for = |closing: Closing| [Some(&east), Some(&west), None].map(|leave| closing.is_for(leave));
        assert_eq!(is_for(Closing::Here), [false, true, true]);
        assert_eq!(is_for(Closing::All), [true; 3]);
        departures.of("east").set(None);
        assert_eq!(is_for(Closing::Here), [true; 3], "it has come back");
    }
}
