//! The event log: what happened, numbered, for the API, the logs and the hooks.
//!
//! The loop hands its events to one thread, which appends them to a ring of the last [`RING_MAX`], passes role changes
//! on to the hooks and then logs a sentence. Numbers start at 1 with the daemon. A number that is missing from the ring
//! is an event that was dropped: either it was overwritten, or the queue from the loop was full.

mod sentence;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::time::UnixTime;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use tokio::sync::watch;
use vrrpd_core::event::Event;

use crate::command::{EventReceiver, Stamped, StatusCell};
use crate::hooks::Hooks;

pub use sentence::sentence;

/// Events kept; the oldest is dropped for a new one.
pub const RING_MAX: usize = 4096;

/// Events in one answer; the rest is asked for with `after`.
pub const PAGE_MAX: usize = 1000;

/// One event of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub id: u64,
    /// What, and when.
    pub stamped: Stamped,
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Flat<'a> {
            id: u64,
            at_unix_ms: u64,
            at: String,
            #[serde(flatten)]
            event: &'a Event,
            message: String,
        }
        let Stamped { at, event } = &self.stamped;
        let message = sentence(event);
        Flat { id: self.id, at_unix_ms: at.as_millis(), at: at.to_string(), event, message }
            .serialize(serializer)
    }
}

/// A part of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The events, oldest first, at most [`PAGE_MAX`].
    pub events: Vec<Arc<Entry>>,
    /// What to ask for next: `after` this number.
    pub next: u64,
    /// Events in between that are gone.
    pub dropped: u64,
}

impl Serialize for Page {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let entries: Vec<&Entry> = self.events.iter().map(AsRef::as_ref).collect();
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("events", &entries)?;
        map.serialize_entry("next", &self.next)?;
        map.serialize_entry("dropped", &self.dropped)?;
        map.end()
    }
}

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<Arc<Entry>>,
    newest: u64,
}

/// The log.
#[derive(Debug)]
pub struct EventLog {
    ring: Mutex<Ring>,
    newest: watch::Sender<u64>,
    lost: Arc<AtomicU64>,
}

impl EventLog {
    /// An empty log. `lost` counts the events that never reached it.
    #[must_use]
    pub fn new(lost: Arc<AtomicU64>) -> Self {
        Self { ring: Mutex::default(), newest: watch::Sender::new(0), lost }
    }

    /// Appends an event and wakes the followers. `gap` numbers are left out before it.
    pub fn append(&self, stamped: Stamped, gap: u64) -> u64 {
        let mut ring = self.ring();
        let id = ring.newest + gap + 1;
        if ring.entries.len() == RING_MAX {
            ring.entries.pop_front();
        }
        ring.entries.push_back(Arc::new(Entry { id, stamped }));
        ring.newest = id;
        drop(ring);
        self.newest.send_replace(id);
        id
    }

    /// The events after number `after`. A number that has not been given yet stems from a former run of the daemon, so
    /// it counts as 0.
    #[must_use]
    pub fn after(&self, after: u64, count_max: usize) -> Page {
        let ring = self.ring();
        let after = if after > ring.newest { 0 } else { after };
        let start = ring.entries.partition_point(|entry| entry.id <= after);
        let events: Vec<_> = ring.entries.iter().skip(start).take(count_max.min(PAGE_MAX)).cloned().collect();
        let next = events.last().map_or(after, |entry| entry.id);
        let dropped = (next - after).saturating_sub(events.len() as u64);
        Page { events, next, dropped }
    }

    /// The number of the newest event; 0 when there is none.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.ring().newest
    }

    /// Changes whenever an event is appended.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Events that the loop could not hand out since the start.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // The ring is consistent after every statement that could panic.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moves events from the loop to the log, the hooks and the daemon's own log, until the loop is gone. Blocks: give it a
/// thread of its own.
pub fn pump(events: &EventReceiver, log: &EventLog, hooks: &Hooks, status: &StatusCell) {
    const TICK: Duration = Duration::from_millis(500);
    let mut lost_seen = 0;
    while let Ok(received) = events.recv(TICK) {
        let lost = log.lost();
        let gap = lost - lost_seen;
        if let Some(stamped) = &received {
            let id = log.append(stamped.clone(), gap);
            lost_seen = lost;
            if let Event::Role { instance, family, to, .. } = &stamped.event {
                hooks.role_changed(instance, *family, *to, stamped.at);
            }
            sentence::log(id, stamped);
        } else if gap > 0 {
            // The queue has run dry, so the state is at least as new as everything that was in it.
            hooks.resync(&status.latest().status, now());
            tracing::warn!("{gap} events were dropped because they came faster than they could be logged");
            lost_seen = lost;
        }
    }
}

/// The wall clock's time.
pub(crate) fn now() -> UnixTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixTime::from_nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamped(on: bool) -> Stamped {
        Stamped { at: UnixTime::from_nanos(1_500_000_000), event: Event::Maintenance { on } }
    }

    fn log() -> EventLog {
        EventLog::new(Arc::default())
    }

    #[test]
    fn entries_are_flat_and_readable() {
        let log = log();
        log.append(stamped(true), 0);
        assert_eq!(
            serde_json::to_value(log.after(0, PAGE_MAX)).unwrap(),
            serde_json::json!({
                "events": [{
                    "id": 1, "at_unix_ms": 1500, "at": "1970-01-01T00:00:01.500Z",
                    "event": "maintenance", "on": true, "message": "maintenance is on"
                }],
                "next": 1, "dropped": 0
            })
        );
    }

    #[test]
    fn the_oldest_are_dropped_and_counted() {
        let log = log();
        for _ in 0..RING_MAX + 10 {
            log.append(stamped(false), 0);
        }
        let page = log.after(0, PAGE_MAX);
        assert_eq!((page.events[0].id, page.events.len(), page.dropped), (11, PAGE_MAX, 10));
        let page = log.after(page.next, 5);
        assert_eq!((page.events[0].id, page.events.len(), page.dropped), (1011, 5, 0));
    }

    #[test]
    fn lost_events_leave_a_gap() {
        let log = log();
        log.append(stamped(false), 0);
        assert_eq!(log.append(stamped(true), 3), 5);
        let page = log.after(1, PAGE_MAX);
        assert_eq!((page.events.len(), page.next, page.dropped), (1, 5, 3));
    }

    #[test]
    fn numbers_of_a_former_run_start_over() {
        let log = log();
        log.append(stamped(false), 0);
        assert_eq!(log.after(77, PAGE_MAX).events.len(), 1);
        assert_eq!(log.after(1, PAGE_MAX), Page { events: vec![], next: 1, dropped: 0 });
    }
}
