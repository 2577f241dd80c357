//! The report as text.

use std::fmt::Write as _;

use common::time::{Duration, Instant};

use super::report::{Outcome, Report};

/// More targets than this don't fit beside each other; the summary is over all of them.
const TARGETS_SHOWN: usize = 12;

/// The report as a table for people.
#[must_use]
pub fn table(report: &Report) -> String {
    let workload = &report.workload;
    let mut text = format!("{}\n", workload.title);
    // Writing to a string cannot fail.
    writeln!(
        text,
        "{} connections of {} clients within {}, each {} of work on average; {}, {}\n",
        workload.arrivals.connections,
        workload.clients,
        seconds(report.horizon - Instant::ZERO),
        seconds(workload.work.mean()),
        counted(workload.targets.len(), "target"),
        counted(workload.workers as usize, "worker"),
    )
    .ok();
    text.push_str(&summary(report).render());
    text.push_str(
        "\noff weight: how far the share of connections of the target furthest off is from its weight's, in points.\n\
         most load: the most connections a target had, as a part of what it serves at once; above 1, some waited.\n\
         switched: connections that went to another target than their client's connection before.\n",
    );
    for (title, grid) in by_target(report) {
        write!(text, "\n{title}\n{}", grid.render()).ok();
    }
    if workload.targets.len() > TARGETS_SHOWN {
        writeln!(text, "(the first {TARGETS_SHOWN} of {} targets)", workload.targets.len()).ok();
    }
    for (title, grid) in moves(report) {
        write!(text, "\n{title}\n{}", grid.render()).ok();
    }
    text
}

fn summary(report: &Report) -> Grid {
    let mut grid = Grid::new(&[
        "algorithm",
        "off weight",
        "most load",
        "waited",
        "mean wait",
        "p99",
        "longest",
        "lost",
        "retried",
        "switched",
    ]);
    for outcome in &report.outcomes {
        let waits = &outcome.waits;
        grid.row(vec![
            outcome.algorithm.name().to_owned(),
            format!("{:.1}", report.share_error(outcome) * 100.0),
            format!("{:.2}", outcome.load_max()),
            percent(waits.waited, waits.count),
            seconds(waits.mean),
            seconds(waits.p99),
            seconds(waits.max),
            lost(outcome),
            outcome.retried.to_string(),
            percent(outcome.switched, outcome.again),
        ]);
    }
    grid
}

/// The losses, with their reasons when there are any.
fn lost(outcome: &Outcome) -> String {
    let lost = outcome.lost;
    let reasons = [
        (lost.cut, "cut"),
        (lost.refused, "refused"),
        (lost.overflowed, "overflowed"),
        (lost.nobody, "no target"),
    ];
    let named: Vec<String> = reasons
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    if named.is_empty() { "0".to_owned() } else { named.join(", ") }
}

fn by_target(report: &Report) -> Vec<(&'static str, Grid)> {
    let shown = report.workload.targets.len().min(TARGETS_SHOWN);
    let mut header = vec!["algorithm"];
    header.extend(report.workload.targets.iter().take(shown).map(|target| target.id.as_str()));
    let (mut share, mut load, mut busy) = (Grid::new(&header), Grid::new(&header), Grid::new(&header));
    let mut weights = vec!["(by weight)".to_owned()];
    weights.extend((0..shown).map(|target| format!("{:.1} %", report.share_by_weight(target) * 100.0)));
    share.row(weights);
    for outcome in &report.outcomes {
        let targets = || outcome.targets.iter().take(shown);
        let row = |cells: Vec<String>| [vec![outcome.algorithm.name().to_owned()], cells].concat();
        share.row(row(targets().map(|target| format!("{:.1} %", target.share * 100.0)).collect()));
        load.row(row(targets().map(|target| format!("{:.2}", target.load_max)).collect()));
        busy.row(row(targets().map(|target| format!("{:.0} %", target.busy * 100.0)).collect()));
    }
    vec![("share of connections", share), ("most load", load), ("busy on average", busy)]
}

fn moves(report: &Report) -> Vec<(String, Grid)> {
    let changes = report.outcomes.first().map_or(0, |outcome| outcome.moves.len());
    let grid_of = |number: usize| {
        let mut grid = Grid::new(&["algorithm", "clients", "changed target", "without need"]);
        let mut title = String::new();
        for outcome in &report.outcomes {
            let moves = &outcome.moves[number];
            let id = report.workload.targets.get(moves.target).map_or("?", |target| target.id.as_str());
            let what = if moves.up { "comes back" } else { "fails" };
            title = format!("{id} {what} at {}: clients before and after", seconds(moves.at));
            grid.row(vec![
                outcome.algorithm.name().to_owned(),
                moves.clients.to_string(),
                percent(u64::from(moves.moved), u64::from(moves.clients)),
                percent(u64::from(moves.needless), u64::from(moves.clients)),
            ]);
        }
        (title, grid)
    };
    (0..changes).map(grid_of).collect()
}

/// A part of a whole; a dash when there is no whole.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1} %", part as f64 / whole as f64 * 100.0) }
}

/// A time in the unit that suits it.
pub(super) fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        0.0 => "0".to_owned(),
        ..1.0 => format!("{:.0} ms", seconds * 1000.0),
        ..10.0 => format!("{seconds:.2} s"),
        _ => format!("{seconds:.1} s"),
    }
}

fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// Columns as wide as their widest cell, the first to the left, the others to the right.
struct Grid {
    rows: Vec<Vec<String>>,
}

impl Grid {
    fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|&name| name.to_owned()).collect()] }
    }

    fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.rows[0].len(), "a cell for each column");
        self.rows.push(cells);
    }

    fn render(&self) -> String {
        let columns = self.rows[0].len();
        let width =
            |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = format!("{:<width$}", row[0], width = widths[0]);
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                write!(line, "  {cell:>width$}").ok();
            }
            writeln!(text, "{}", line.trim_end()).ok();
        }
        text
    }
}
