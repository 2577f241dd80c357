//! A run as a story: what was done, what was seen, what was measured, on one time axis. The demonstration's page and
//! the benchmarks' records are made from it.

use std::time::Duration;

use common::time::{Instant, UnixTime};
use serde::{Deserialize, Serialize};

use super::addresses::mac_text;
use super::clock::{Window, now, wall};
use super::probe::{ConnectReport, EchoReport, RoleReport, Seen, SightingKind, WatchReport};

/// What kind of event it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// Something was done on purpose: a switchover, a reload, a start.
    Action,
    /// Something was broken.
    Fault,
    /// Something was mended.
    Heal,
    /// A node changed its role.
    Role,
    /// A VIP was announced.
    Announcement,
    /// Someone else answered for a VIP than before.
    Owner,
    /// Connections failed, broke or stalled.
    Loss,
    /// Anything else worth reading.
    Note,
}

/// One event; of a stretch of time, its begin and end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Nanoseconds from the timeline's begin.
    pub at_ns: u64,
    /// Its end, likewise, if it took time.
    pub until_ns: Option<u64>,
    /// Its kind.
    pub kind: EventKind,
    /// The node or host it is about; empty for the whole.
    pub host: String,
    /// What happened, for people.
    pub text: String,
}

/// A measured quantity over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// What it is.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// Nanoseconds from the timeline's begin, and the value.
    pub points: Vec<(u64, f64)>,
}

/// One number of the result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// Its unit.
    pub unit: String,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// What was run.
    pub title: String,
    /// When it began, on the wall clock.
    pub begun_wall: UnixTime,
    /// When it began, on the clock of everything in it.
    pub begun: Instant,
    /// How long it took, in nanoseconds.
    pub length_ns: u64,
    /// The events by time.
    pub events: Vec<Event>,
    /// The curves.
    pub series: Vec<Series>,
    /// The results.
    pub figures: Vec<Figure>,
}

impl Timeline {
    /// Begins one now.
    #[must_use]
    pub fn begin(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            begun_wall: wall(),
            begun: now(),
            length_ns: 0,
            events: Vec::new(),
            series: Vec::new(),
            figures: Vec::new(),
        }
    }

    /// Adds an event of one moment.
    pub fn event(&mut self, at: Instant, kind: EventKind, host: &str, text: &str) {
        self.push(at, None, kind, host, text.to_owned());
    }

    /// Adds what was done within a window.
    pub fn window(&mut self, window: Window, kind: EventKind, host: &str, text: &str) {
        self.push(window.before, Some(window.after), kind, host, text.to_owned());
    }

    /// Adds a result.
    pub fn figure(&mut self, name: &str, value: f64, unit: &str) {
        self.figures.push(Figure { name: name.to_owned(), value, unit: unit.to_owned() });
    }

    /// Adds a duration as a result, in milliseconds.
    pub fn figure_ms(&mut self, name: &str, value: Duration) {
        self.figure(name, value.as_secs_f64() * 1000.0, "ms");
    }

    /// Adds a connection probe's run: how many attempts of each `bucket` of time succeeded and failed, the slowest
    /// success of each, the longest gap as an event, and the results.
    pub fn add_connections(&mut self, name: &str, report: &ConnectReport, bucket: Duration) {
        let step = u64::try_from(bucket.as_nanos()).unwrap_or(u64::MAX).max(1);
        let mut buckets: Vec<(f64, f64, f64)> = Vec::new();
        for attempt in &report.attempts {
            let index = usize::try_from(self.offset(attempt.start) / step).unwrap_or(0);
            if buckets.len() <= index {
                buckets.resize(index + 1, (0.0, 0.0, 0.0));
            }
            let (good, bad, slowest) = &mut buckets[index];
            if attempt.failure.is_some() {
                *bad += 1.0;
            } else {
                *good += 1.0;
                *slowest = slowest.max((attempt.end - attempt.start).as_secs_f64() * 1000.0);
            }
        }
        let mut series = |what: &str, unit: &str, value: fn(&(f64, f64, f64)) -> f64| {
            let points = (0..).map(|index| index * step).zip(buckets.iter().map(value)).collect();
            self.series.push(Series { name: format!("{name}: {what}"), unit: unit.to_owned(), points });
        };
        series("served", "connections", |bucket| bucket.0);
        series("failed", "connections", |bucket| bucket.1);
        series("slowest", "ms", |bucket| bucket.2);
        let gap = report.longest_gap();
        let text = format!("{name}: the longest gap, {:?}", gap.length());
        self.push(gap.from, Some(gap.to), EventKind::Loss, "client", text);
        for (what, count) in [("attempts", report.attempts.len()), ("failed", report.failed())] {
            // Far below 2^32, from where on a count would lose digits.
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            self.figure(&format!("{name}: {what}"), f64::from(count), "connections");
        }
        self.figure_ms(&format!("{name}: longest gap"), gap.length());
        self.figure_ms(&format!("{name}: probe's own longest pause"), report.longest_pause());
    }

    /// Adds long-lived connections: each break as an event, and the results.
    pub fn add_echo(&mut self, name: &str, report: &EchoReport) {
        for (at, failure) in report.connections.iter().filter_map(|connection| connection.broken) {
            self.push(
                at,
                None,
                EventKind::Loss,
                "client",
                format!("{name}: a connection broke: {failure:?}"),
            );
        }
        for (what, count) in [("connections", report.connections.len()), ("broken", report.broken())] {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            self.figure(&format!("{name}: {what}"), f64::from(count), "connections");
        }
        self.figure_ms(&format!("{name}: worst stall"), report.worst_stall());
    }

    /// Adds the role changes.
    pub fn add_roles(&mut self, report: &RoleReport) {
        for change in &report.changes {
            let state = match &change.seen {
                Seen::Role(role) => role.as_str(),
                Seen::None => "not running",
                Seen::Silent => "not answering",
            };
            let text = format!("{}: {state}", change.instance);
            self.push(change.at, None, EventKind::Role, &change.node, text);
        }
    }

    /// Adds the announcements and the changes of who answers. `names` says whose a MAC address is.
    pub fn add_sightings(&mut self, report: &WatchReport, names: impl Fn([u8; 6]) -> Option<String>) {
        let name = |mac| names(mac).unwrap_or_else(|| mac_text(mac));
        let mut vips = Vec::new();
        for seen in &report.sightings {
            if !vips.contains(&seen.vip) {
                vips.push(seen.vip);
            }
            if seen.kind == SightingKind::Announcement {
                let text = format!("announces {}", seen.vip);
                self.push(seen.at, None, EventKind::Announcement, &name(seen.mac), text);
            }
        }
        for vip in vips {
            for (at, macs) in report.owners(vip) {
                let who: Vec<String> = macs.into_iter().map(name).collect();
                let who = if who.is_empty() { "nobody".to_owned() } else { who.join(" and ") };
                self.push(at, None, EventKind::Owner, "", format!("{vip} is answered by {who}"));
            }
            let overlap = report.longest_overlap(vip).map_or(Duration::ZERO, |overlap| overlap.length());
            self.figure_ms(&format!("{vip}: longest time answered by two"), overlap);
        }
    }

    /// Ends it now and puts the events in order.
    pub fn end(&mut self) {
        self.length_ns = self.offset(now());
        self.events.sort_by_key(|event| event.at_ns);
    }

    /// Nanoseconds from the begin.
    fn offset(&self, at: Instant) -> u64 {
        at.as_nanos().saturating_sub(self.begun.as_nanos())
    }

    fn push(&mut self, at: Instant, until: Option<Instant>, kind: EventKind, host: &str, text: String) {
        let (at_ns, until_ns) = (self.offset(at), until.map(|until| self.offset(until)));
        self.events.push(Event { at_ns, until_ns, kind, host: host.to_owned(), text });
    }
}
