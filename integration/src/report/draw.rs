//! Drawing a stretch of an observation as SVG: connections, roles and who answers, one lane each, on one time axis.

use std::fmt::Write as _;
use std::time::Duration;

use common::time::Instant;

use super::page::{Act, Chapter};
use crate::lab::probe::{Attempt, DownloadReport, EchoReport, Seen};
use crate::scenario::{INSTANCE, Observation};

const WIDTH: f64 = 960.0;
/// Where the lanes begin; their names are left of it.
const LEFT: f64 = 120.0;
const LANE: f64 = 22.0;
const GAP: f64 = 8.0;
const BARS: f64 = 64.0;
/// How high what lasts is drawn, of which there are several lanes.
const LOW_BARS: f64 = 36.0;
/// So many bars across a lane.
const BUCKETS: usize = 280;
/// A served connection this slow is drawn as high as the lane allows.
const SLOW_MS: f64 = 50.0;

/// A drawing under way.
struct Canvas {
    body: String,
    from: Instant,
    to: Instant,
    y: f64,
}

/// The whole observation, with a mark at each event.
pub(super) fn overview(
    observation: &Observation,
    chapters: &[Chapter],
    from: Instant,
    to: Instant,
) -> String {
    let mut canvas = Canvas::new(from, to);
    for (index, chapter) in chapters.iter().enumerate() {
        canvas.mark(chapter.event.before, &(index + 1).to_string(), BARS);
    }
    canvas.y += 18.0;
    canvas.rates(observation);
    canvas.roles(observation);
    canvas.owners(observation, chapters);
    canvas.axis(from);
    canvas.finish("The whole run", chapters)
}

/// One event from close by: every connection is a bar.
pub(super) fn close_up(observation: &Observation, chapter: &Chapter) -> String {
    let event = chapter.event.before;
    let lead = Duration::from_millis(60);
    let settled = chapter.measured.recovery.unwrap_or_default().max(chapter.measured.gap);
    let tail =
        (settled + Duration::from_millis(100)).clamp(Duration::from_millis(240), Duration::from_secs(3));
    let end = chapter.close_up_until.unwrap_or(event + tail).max(event + tail);
    let mut canvas = Canvas::new(event.before(lead), end.min(observation.ended));
    canvas.mark(event, "event", BARS);
    canvas.y += 18.0;
    canvas.connections(&observation.connects.attempts);
    canvas.roles(observation);
    canvas.owners(observation, std::slice::from_ref(chapter));
    canvas.axis(event);
    canvas.finish(&chapter.name, std::slice::from_ref(chapter))
}

/// What lasted: of each mode the connections that were there, and the bytes of the download.
pub(super) fn lasting(observation: &Observation, chapters: &[Chapter], act: &Act) -> String {
    let mut canvas = Canvas::new(act.begun, act.ended);
    let lanes = f64::from(u32::try_from(2 * act.lasting.len()).unwrap_or(0));
    for (index, chapter) in chapters.iter().enumerate() {
        let name = (act.first + index + 1).to_string();
        canvas.mark(chapter.event.before, &name, lanes * (LOW_BARS + GAP) - GAP);
    }
    canvas.y += 18.0;
    for one in &act.lasting {
        let name = super::page::escaped(&one.name);
        canvas.survivors(&format!("{} × {name}", one.connections()), &one.echo);
        canvas.download(&format!("{name} download"), &one.download);
    }
    canvas.roles(observation);
    canvas.owners(observation, chapters);
    canvas.axis(act.begun);
    canvas.finish("What lasts", chapters)
}

impl Canvas {
    const fn new(from: Instant, to: Instant) -> Self {
        Self { body: String::new(), from, to, y: 4.0 }
    }

    fn x(&self, at: Instant) -> f64 {
        let share = if at <= self.from { 0.0 } else { (at - self.from).as_secs_f64() / self.span() };
        LEFT + share.min(1.0) * (WIDTH - LEFT)
    }

    fn span(&self) -> f64 {
        (self.to - self.from).as_secs_f64().max(0.001)
    }

    fn label(&mut self, text: &str, height: f64) {
        let y = self.y + height / 2.0 + 4.0;
        write!(self.body, "<text x=\"0\" y=\"{y:.0}\" class=\"name\">{text}</text>").ok();
    }

    /// A vertical line behind everything that is drawn later, with a name above it. `bars`: how high the lanes of bars are together.
    fn mark(&mut self, at: Instant, name: &str, bars: f64) {
        let x = self.x(at);
        let bottom = self.y + 18.0 + bars + 3.0 * (LANE + GAP) + GAP;
        write!(
            self.body,
            "<line x1=\"{x:.1}\" y1=\"16\" x2=\"{x:.1}\" y2=\"{bottom:.0}\" class=\"mark\"/>\
             <text x=\"{x:.1}\" y=\"12\" class=\"tick\">{name}</text>"
        )
        .ok();
    }

    /// Each connection as a bar: the slower the higher, failed ones over the whole lane.
    fn connections(&mut self, attempts: &[Attempt]) {
        self.label("connections", BARS);
        let per_ms = (WIDTH - LEFT) / (self.span() * 1000.0);
        let (mut good, mut bad) = (String::new(), String::new());
        let bottom = self.y + BARS;
        for attempt in attempts.iter().filter(|attempt| (self.from..=self.to).contains(&attempt.start)) {
            let x = self.x(attempt.start);
            let slow = ((attempt.end - attempt.start).as_secs_f64() * 1000.0 / SLOW_MS).min(1.0);
            let (path, height) = match attempt.failure {
                Some(_) => (&mut bad, BARS),
                None => (&mut good, 10.0 + slow * (BARS - 10.0)),
            };
            // Writing to a string cannot fail.
            write!(path, "M{x:.1} {bottom:.0}v-{height:.0}").ok();
        }
        let width = (per_ms * 0.7).clamp(0.6, 3.0);
        self.paths(&good, &bad, width);
    }

    /// How many connections were served and failed in each small stretch.
    fn rates(&mut self, observation: &Observation) {
        self.label("connections", BARS);
        let mut counts = vec![(0_u32, 0_u32); BUCKETS];
        let mut most = 1;
        for attempt in &observation.connects.attempts {
            let Some(index) = self.bucket(attempt.start) else { continue };
            let (good, bad) = &mut counts[index];
            if attempt.failure.is_some() {
                *bad += 1;
            } else {
                *good += 1;
            }
            most = most.max(*good + *bad);
        }
        let (mut good_path, mut bad_path) = (String::new(), String::new());
        let step = bar_step();
        let bottom = self.y + BARS;
        let mut x = LEFT + step / 2.0;
        for (good, bad) in counts {
            let good_height = f64::from(good) / f64::from(most) * BARS;
            let bad_height = f64::from(bad) / f64::from(most) * BARS;
            write!(good_path, "M{x:.1} {bottom:.0}v-{good_height:.1}").ok();
            if bad > 0 {
                // A single failure among hundreds is what people look for.
                let height = bad_height.max(4.0);
                let top = self.y;
                write!(bad_path, "M{x:.1} {top:.0}v{height:.1}").ok();
            }
            x += step;
        }
        self.paths(&good_path, &bad_path, step * 0.8);
    }

    /// In which bar of a lane a moment is; none if it is not drawn.
    fn bucket(&self, at: Instant) -> Option<usize> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a time within the drawing as a share of it: below the number of bars"
        )]
        let index = ((at - self.from).as_secs_f64() / self.span() * f64::from(bars())) as usize;
        (self.from..self.to).contains(&at).then(|| index.min(BUCKETS - 1))
    }

    /// How many connections are there in each stretch, and over them those that have broken.
    fn survivors(&mut self, name: &str, echo: &EchoReport) {
        self.label(name, LOW_BARS);
        let all = echo.connections.len();
        let mut broken = vec![0_u32; BUCKETS];
        let ends = echo.connections.iter().filter_map(|connection| connection.broken);
        for (at, _) in ends {
            let index = if at < self.from { Some(0) } else { self.bucket(at) };
            if let Some(index) = index {
                broken[index] += 1;
            }
        }
        let each = LOW_BARS / f64::from(u32::try_from(all).unwrap_or(u32::MAX).max(1));
        let (mut good, mut bad, mut gone) = (String::new(), String::new(), 0);
        let (top, bottom) = (self.y, self.y + LOW_BARS);
        let mut x = LEFT + bar_step() / 2.0;
        for now in broken {
            gone += now;
            let lost = f64::from(gone) * each;
            write!(good, "M{x:.1} {bottom:.0}v-{:.1}", LOW_BARS - lost).ok();
            if gone > 0 {
                // A single one among hundreds is what people look for.
                write!(bad, "M{x:.1} {top:.0}v{:.1}", lost.max(3.0)).ok();
            }
            x += bar_step();
        }
        self.lane(&good, &bad, bar_step() * 0.8, LOW_BARS);
    }

    /// How many bytes came in each stretch; from where it broke on, a line.
    fn download(&mut self, name: &str, download: &DownloadReport) {
        self.label(name, LOW_BARS);
        let (mut counts, mut before) = (vec![0_u32; BUCKETS], 0);
        for (at, bytes) in &download.progress {
            if let Some(index) = self.bucket(*at) {
                counts[index] += u32::try_from(bytes - before).unwrap_or(u32::MAX);
            }
            before = *bytes;
        }
        // At the end it takes what is left at once, which would leave the rest of the lane empty: what is more is cut off.
        let mut sorted: Vec<u32> = counts.iter().copied().filter(|count| *count > 0).collect();
        sorted.sort_unstable();
        let usual = f64::from(sorted.get(sorted.len() / 2).copied().unwrap_or(1)) * 1.5;
        let broken = download
            .broken
            .map(|(at, _)| if at < self.from { 0 } else { self.bucket(at).unwrap_or(BUCKETS) });
        let (mut good, mut bad) = (String::new(), String::new());
        let bottom = self.y + LOW_BARS;
        let mut x = LEFT + bar_step() / 2.0;
        for (index, count) in counts.into_iter().enumerate() {
            let height = (f64::from(count) / usual).min(1.0) * LOW_BARS;
            write!(good, "M{x:.1} {bottom:.0}v-{height:.1}").ok();
            if broken.is_some_and(|broken| index >= broken) {
                write!(bad, "M{x:.1} {bottom:.0}v-3").ok();
            }
            x += bar_step();
        }
        self.lane(&good, &bad, bar_step() * 0.8, LOW_BARS);
    }

    fn paths(&mut self, good: &str, bad: &str, width: f64) {
        self.lane(good, bad, width, BARS);
    }

    fn lane(&mut self, good: &str, bad: &str, width: f64, height: f64) {
        for (path, class) in [(good, "good"), (bad, "bad")] {
            write!(self.body, "<path d=\"{path}\" class=\"{class}\" stroke-width=\"{width:.1}\"/>").ok();
        }
        self.y += height + GAP;
    }

    /// A lane for each node: what its `vrrpd` said.
    fn roles(&mut self, observation: &Observation) {
        for node in ["a", "b"] {
            self.label(&format!("node {node}"), LANE);
            let changes: Vec<_> = observation.roles.of(node, INSTANCE).collect();
            for (index, change) in changes.iter().enumerate() {
                let until = changes.get(index + 1).map_or(self.to, |next| next.at);
                let (class, text) = match &change.seen {
                    Seen::Role(role) => (role.as_str(), role.as_str()),
                    Seen::None => ("off", "not running"),
                    Seen::Silent => ("silent", "not answering"),
                };
                self.span_of(change.at, until, class, text);
            }
            self.y += LANE + GAP;
        }
    }

    /// Who answered ARP or neighbour discovery for the VIP.
    fn owners(&mut self, observation: &Observation, chapters: &[Chapter]) {
        self.label("VIP answered by", LANE);
        let Some(names) = chapters.first().map(|chapter| &chapter.names) else { return };
        let owners = observation.watch.owners(observation.vip);
        for (index, (at, macs)) in owners.iter().enumerate() {
            let until = owners.get(index + 1).map_or(self.to, |(next, _)| *next);
            let who: Vec<&str> = macs.iter().map(|mac| names.get(mac).map_or("?", String::as_str)).collect();
            let class = match who.as_slice() {
                [] => continue,
                [_] => "owner",
                _ => "both",
            };
            self.span_of(*at, until, class, &who.join(" and "));
        }
        self.y += LANE + GAP;
    }

    fn span_of(&mut self, from: Instant, to: Instant, class: &str, text: &str) {
        if to <= self.from || from >= self.to {
            return;
        }
        let (x, end, y) = (self.x(from), self.x(to), self.y);
        let width = (end - x).max(0.5);
        write!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"{LANE}\" rx=\"3\" class=\"{class}\"><title>{text}</title></rect>"
        )
        .ok();
        // A character is about seven units wide.
        if f64::from(u32::try_from(text.chars().count()).unwrap_or(0)) * 7.5 + 6.0 < width {
            let (x, y) = (x + 5.0, y + 15.0);
            write!(self.body, "<text x=\"{x:.1}\" y=\"{y:.0}\" class=\"in {class}-text\">{text}</text>").ok();
        }
    }

    /// The axis, in time from `zero`.
    fn axis(&mut self, zero: Instant) {
        let span_ms = self.span() * 1000.0;
        let steps = [10_u64, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000];
        let wanted = span_ms / 12.0;
        #[expect(clippy::cast_precision_loss, reason = "at most a minute in milliseconds")]
        let step_ms = steps.into_iter().find(|step| *step as f64 >= wanted).unwrap_or(60_000);
        let step = Duration::from_millis(step_ms);
        let mut at = zero;
        while at > self.from && at.before(step) >= self.from {
            at = at.before(step);
        }
        self.y += 6.0;
        while at <= self.to {
            let (x, y) = (self.x(at), self.y);
            let text = if at < zero {
                offset_text(zero - at, step_ms, "−")
            } else {
                offset_text(at - zero, step_ms, "")
            };
            let (top, base) = (y - 8.0, y + 10.0);
            write!(
                self.body,
                "<line x1=\"{x:.1}\" y1=\"{top:.0}\" x2=\"{x:.1}\" y2=\"{y:.0}\" class=\"axis\"/>\
                 <text x=\"{x:.1}\" y=\"{base:.0}\" class=\"tick\">{text}</text>"
            )
            .ok();
            at = at + step;
        }
        self.y += 14.0;
    }

    fn finish(self, title: &str, chapters: &[Chapter]) -> String {
        let names: Vec<&str> = chapters.iter().map(|chapter| chapter.name.as_str()).collect();
        let described =
            format!("{title}: connections, roles and who answers for the virtual IP. {}", names.join(", "));
        format!(
            "<svg viewBox=\"-4 0 {width} {height:.0}\" role=\"img\" aria-label=\"{}\">{}</svg>",
            super::page::escaped(&described),
            self.body,
            width = WIDTH + 28.0,
            height = self.y + 2.0,
        )
    }
}

/// How many bars there are across a lane.
fn bars() -> u32 {
    u32::try_from(BUCKETS).unwrap_or(u32::MAX)
}

/// How far the bars are from each other.
fn bar_step() -> f64 {
    (WIDTH - LEFT) / f64::from(bars())
}

/// A time for the axis: seconds when the ticks are whole seconds or tenths far apart, else milliseconds.
fn offset_text(offset: Duration, step_ms: u64, sign: &str) -> String {
    if step_ms >= 500 {
        let seconds = offset.as_secs_f64();
        if step_ms.is_multiple_of(1000) {
            format!("{sign}{seconds:.0} s")
        } else {
            format!("{sign}{seconds:.1} s")
        }
    } else {
        let sign = if offset.is_zero() { "" } else { sign };
        format!("{sign}{} ms", offset.as_millis())
    }
}
