//! The report as a drawing that needs nothing else: one SVG file.
//!
//! For each algorithm a row: on the left what each target got, beside a mark for what its weight stands for; on the right
//! how loaded each target was over time, with the line above which connections wait, lost connections as ticks, and what
//! is to be known in words below.

use std::fmt::Write as _;

use common::time::{Duration, Instant};

use super::moves::Moves;
use super::report::{Outcome, Report};
use super::table::{percent, seconds};

const WIDTH: f64 = 1080.0;
const TOP: f64 = 92.0;
const ROW: f64 = 210.0;
/// Where the bars of the shares begin and how long the longest is.
const BARS: f64 = 96.0;
const BARS_WIDTH: f64 = 170.0;
/// Where the curves begin.
const PLOT: f64 = 350.0;
const PLOT_HEIGHT: f64 = 112.0;
const PLOT_WIDTH: f64 = WIDTH - PLOT - 16.0;
/// Names and bars of so many targets; of more, only the curves.
const BARS_MAX: usize = 12;

/// Colours that people with any kind of colour vision tell apart (Okabe and Ito), as hues of targets in turn.
const HUES: [&str; 8] =
    ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c7a00", "#7a5195"];

const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#1d2733}.title{font-size:18px;font-weight:600}.name{font-size:14px;font-weight:600}\
.soft{fill:#5d6b7a}.small{font-size:11px}.end{text-anchor:end}.middle{text-anchor:middle}.paper{fill:#fff}.plot{fill:#f3f6f9}\
.grid{stroke:#d5dce3;fill:none}.full{stroke:#d1302f;stroke-dasharray:5 4;fill:none}.mark{stroke:#1d2733;stroke-width:2}.event{stroke:#5d6b7a;stroke-dasharray:2 3}\
.lost{stroke:#d1302f;stroke-width:1.2}.curve{fill:none;stroke-width:1.4}\
@media(prefers-color-scheme:dark){text{fill:#e4e9ee}.soft{fill:#9aa7b4}.paper{fill:#12171d}.plot{fill:#1a2129}.grid{stroke:#323c47}.mark{stroke:#e4e9ee}}";

/// The drawing.
#[must_use]
pub fn svg(report: &Report) -> String {
    let rows = report.outcomes.len() as f64;
    let height = TOP + rows * ROW + 8.0;
    let mut body = String::new();
    heading(&mut body, report);
    for (index, outcome) in report.outcomes.iter().enumerate() {
        let top = TOP + index as f64 * ROW;
        write!(body, "<g transform=\"translate(0 {top:.0})\">").ok();
        row(&mut body, report, outcome);
        body.push_str("</g>\n");
    }
    let title = escaped(&report.workload.title);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {height:.0}\" width=\"{WIDTH:.0}\" height=\"{height:.0}\" role=\"img\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n<rect width=\"100%\" height=\"100%\" class=\"paper\"/>\n{body}</svg>\n"
    )
}

// Writing to a string cannot fail: that is what the `ok()` of each `write!` below says.

fn heading(body: &mut String, report: &Report) {
    let workload = &report.workload;
    text(body, (16.0, 30.0), "title", &workload.title);
    let about = format!(
        "{} connections of {} clients within {}, each {} of work on average. Left: share of connections, with a mark at what the weight stands for.",
        workload.arrivals.connections,
        workload.clients,
        seconds(report.horizon - Instant::ZERO),
        seconds(workload.work.mean()),
    );
    text(body, (16.0, 52.0), "soft", &about);
    text(
        body,
        (16.0, 69.0),
        "soft",
        "Right: connections at each target over time, as a part of what it serves at once; above the red line some wait. Red ticks: lost connections.",
    );
}

fn row(body: &mut String, report: &Report, outcome: &Outcome) {
    writeln!(body, "<line x1=\"16\" x2=\"{:.0}\" y1=\"0\" y2=\"0\" class=\"grid\"/>", WIDTH - 16.0).ok();
    text(body, (16.0, 22.0), "name", outcome.algorithm.name());
    shares(body, report, outcome);
    plot(body, report, outcome);
    text(body, (PLOT, 181.0), "small", &facts(outcome));
    text(body, (PLOT, 197.0), "small", &moves(outcome));
}

/// The numbers that curves do not show.
fn facts(outcome: &Outcome) -> String {
    let waits = &outcome.waits;
    let mut facts = vec![
        format!("most load {:.2}", outcome.load_max()),
        format!(
            "{} waited, mean {}, longest {}",
            percent(waits.waited, waits.count),
            seconds(waits.mean),
            seconds(waits.max)
        ),
        format!("{} lost", outcome.lost.total()),
    ];
    if outcome.retried > 0 {
        facts.push(format!("{} retried", outcome.retried));
    }
    if outcome.moves.is_empty() {
        facts.push(format!("{} switched target", percent(outcome.switched, outcome.again)));
    }
    facts.join(" · ")
}

/// Who moved, at as many events as fit.
fn moves(outcome: &Outcome) -> String {
    let sentence = |moves: &Moves| {
        let clients = u64::from(moves.clients);
        let (moved, needless) = (u64::from(moves.moved), u64::from(moves.needless));
        let when = if moves.up { "return" } else { "failure" };
        format!(
            "{when}: {} of clients changed target, {} without need",
            percent(moved, clients),
            percent(needless, clients)
        )
    };
    outcome.moves.iter().take(2).map(sentence).collect::<Vec<_>>().join(" · ")
}

fn shares(body: &mut String, report: &Report, outcome: &Outcome) {
    let targets = &report.workload.targets;
    if targets.len() > BARS_MAX {
        let error = format!(
            "{} targets; {:.1} points off weight at most",
            targets.len(),
            report.share_error(outcome) * 100.0
        );
        text(body, (16.0, 48.0), "soft", &error);
        return;
    }
    let most = outcome.targets.iter().map(|target| target.share);
    let most = most.chain((0..targets.len()).map(|index| report.share_by_weight(index))).fold(1e-9, f64::max);
    let lane = (138.0 / targets.len() as f64).min(22.0);
    for (index, (model, target)) in targets.iter().zip(&outcome.targets).enumerate() {
        let top = 36.0 + index as f64 * lane;
        let baseline = top + lane / 2.0 + 4.0;
        let length = target.share / most * BARS_WIDTH;
        let mark = BARS + report.share_by_weight(index) / most * BARS_WIDTH;
        let name: String = model.id.chars().take(12).collect();
        text(body, (BARS - 6.0, baseline), "small end", &name);
        write!(
            body,
            "<rect x=\"{BARS}\" y=\"{:.1}\" width=\"{length:.1}\" height=\"{:.1}\" fill=\"{}\"/><line x1=\"{mark:.1}\" x2=\"{mark:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" class=\"mark\"/>",
            top + 1.5,
            lane - 3.0,
            HUES[index % HUES.len()],
            top,
            top + lane,
        )
        .ok();
        text(
            body,
            (BARS + BARS_WIDTH + 8.0, baseline),
            "small soft",
            &format!("{:.1} %", target.share * 100.0),
        );
    }
}

fn plot(body: &mut String, report: &Report, outcome: &Outcome) {
    let span = report.horizon - Instant::ZERO;
    let (top, bottom) = (36.0, 36.0 + PLOT_HEIGHT);
    // The same scale in each row, so that rows can be compared.
    let loads = report.outcomes.iter().flat_map(|outcome| &outcome.targets).flat_map(|target| &target.load);
    let most = loads.copied().fold(1.0, f64::max) * 1.05;
    let y = |load: f64| bottom - load / most * PLOT_HEIGHT;
    write!(
        body,
        "<rect x=\"{PLOT}\" y=\"{top}\" width=\"{PLOT_WIDTH}\" height=\"{PLOT_HEIGHT}\" class=\"plot\"/>\
         <path d=\"M{PLOT} {:.1}h{PLOT_WIDTH}\" class=\"full\"/>",
        y(1.0)
    )
    .ok();
    text(body, (PLOT - 5.0, y(1.0) + 4.0), "small soft end", "1");
    text(body, (PLOT - 5.0, bottom), "small soft end", "0");
    for part in 0..=4_u32 {
        let x = PLOT + PLOT_WIDTH * f64::from(part) / 4.0;
        let class = if part == 0 { "small soft" } else { "small soft end" };
        text(body, (x, bottom + 13.0), class, &seconds(span * part / 4));
    }
    for moves in &outcome.moves {
        let x = PLOT + PLOT_WIDTH * part_of(moves.at, span);
        write!(body, "<path d=\"M{x:.1} {top}v{PLOT_HEIGHT}\" class=\"event\"/>").ok();
        let id = report.workload.targets.get(moves.target).map_or("?", |target| target.id.as_str());
        let what = if moves.up { "back" } else { "fails" };
        text(body, (x + 3.0, top - 4.0), "small soft", &format!("{id} {what}"));
    }
    for (index, target) in outcome.targets.iter().enumerate() {
        let step = PLOT_WIDTH / target.load.len().max(1) as f64;
        let mut path = String::new();
        for (bucket, &load) in target.load.iter().enumerate() {
            let command = if bucket == 0 { 'M' } else { 'L' };
            write!(path, "{command}{:.1} {:.1}", PLOT + (bucket as f64 + 0.5) * step, y(load)).ok();
        }
        write!(body, "<path d=\"{path}\" class=\"curve\" stroke=\"{}\"/>", HUES[index % HUES.len()]).ok();
    }
    lost(body, outcome, span, top);
}

/// A tick for each moment in which connections were lost; moments that would be drawn on each other are one.
fn lost(body: &mut String, outcome: &Outcome, span: Duration, top: f64) {
    let mut path = String::new();
    let mut last = f64::NEG_INFINITY;
    for &at in &outcome.lost_at {
        let x = PLOT + PLOT_WIDTH * part_of(at, span);
        if x - last >= 1.0 {
            write!(path, "M{x:.1} {top}v14").ok();
            last = x;
        }
    }
    if !path.is_empty() {
        writeln!(body, "<path d=\"{path}\" class=\"lost\"/>").ok();
    }
}

fn part_of(at: Duration, span: Duration) -> f64 {
    (at.as_secs_f64() / span.as_secs_f64().max(1e-9)).min(1.0)
}

fn text(body: &mut String, (x, y): (f64, f64), class: &str, content: &str) {
    writeln!(body, "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{}</text>", escaped(content)).ok();
}

fn escaped(text: &str) -> String {
    // Control characters are not allowed in XML, not even escaped.
    let text: String = text.chars().filter(|letter| !letter.is_control()).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
