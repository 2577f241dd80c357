//! The runs of each case together, and whether the targets were met.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bound::{SWITCHOVER_NEW_MAX, SWITCHOVER_STALL_MAX};
use super::forth::{Forth, Moved};
use super::trial::Outcome;
use super::{Case, modes};
use crate::report::statistics::{Spread, ms};
use crate::report::table::{Align, Table};
use crate::scenario::System;
use crate::scenario::lasting::Mode;

/// All runs of one case.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The case.
    pub case: Case,
    /// How many connections each run had.
    pub connections: usize,
    /// How many went on: the median run's, and the fewest.
    pub survived_median: usize,
    /// The fewest of any run.
    pub survived_min: usize,
    /// The most resets of any run.
    pub resets_max: usize,
    /// The longest stall of the median run.
    pub stall_median: Duration,
    /// Of any run.
    pub stall_max: Duration,
    /// The same before the event, of the median run.
    pub noise_median: Duration,
    /// Until the other node announced the VIP, of the median run; none when it did not in one of them.
    pub detection_median: Option<Duration>,
    /// In how many runs the download was whole.
    pub downloads_whole: usize,
    /// The longest time that a download got nothing, of the median run.
    pub download_stall_median: Duration,
    /// Every run.
    pub runs: Vec<Outcome>,
    /// Why the target was missed; empty when it was met, and of other software.
    pub missed: Vec<String>,
}

/// All runs of one mode of one system, moved back and forth.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ForthRow {
    /// The software.
    pub system: System,
    /// The mode.
    pub mode: Mode,
    /// The fewest moves of any run.
    pub moves_min: usize,
    /// New connections tried in all runs.
    pub attempts: usize,
    /// Failed ones, the most of any run.
    pub failed_max: usize,
    /// Resets, the most of any run.
    pub resets_max: usize,
    /// The slowest new one that was served in time, of any run.
    pub slowest_max: Duration,
    /// Connections that were to last, in each run.
    pub connections: usize,
    /// Of these, the fewest that did of any run.
    pub survived_min: usize,
    /// Their longest stall in any run.
    pub stall_max: Duration,
    /// Why the target was missed; empty when it was met, and of other software.
    pub missed: Vec<String>,
}

/// A row for each case that ran.
#[must_use]
pub fn rows(outcomes: &[Outcome]) -> Vec<Row> {
    Case::all().into_iter().filter_map(|case| Row::of(case, outcomes)).collect()
}

impl Row {
    fn of(case: Case, outcomes: &[Outcome]) -> Option<Self> {
        let runs: Vec<Outcome> = outcomes.iter().filter(|outcome| outcome.case == case).cloned().collect();
        let stall = Spread::of(runs.iter().map(|run| run.worst_stall))?;
        // Of an even number the lower one in the middle, so that it is never flattering.
        let lost = Spread::of(runs.iter().map(|run| run.connections - run.survived))?;
        let connections = runs.first()?.connections;
        let detections: Option<Vec<Duration>> = runs.iter().map(|run| run.detection).collect();
        let mut row = Self {
            case,
            connections,
            survived_median: connections - lost.median,
            survived_min: connections - lost.max,
            resets_max: runs.iter().map(|run| run.resets).max()?,
            stall_median: stall.median,
            stall_max: stall.max,
            noise_median: Spread::of(runs.iter().map(|run| run.noise))?.median,
            detection_median: detections.and_then(Spread::of).map(|spread| spread.median),
            downloads_whole: runs.iter().filter(|run| run.download_whole).count(),
            download_stall_median: Spread::of(runs.iter().map(|run| run.download_stall))?.median,
            runs,
            missed: Vec::new(),
        };
        if case.system == System::Tandem {
            row.missed = row.misses();
        }
        Some(row)
    }

    fn misses(&self) -> Vec<String> {
        let mut missed = Vec::new();
        if self.survived_min < self.connections {
            missed.push(format!("{} of {} connections survived", self.survived_min, self.connections));
        }
        if self.runs.iter().any(|run| run.stall_max().is_none()) {
            missed.push("the other node did not take over".to_owned());
        }
        let stalls = self.runs.iter().filter_map(|run| Some((run.worst_stall, run.stall_max()?)));
        missed.extend(farthest_over(stalls, "stall of"));
        let detections = self.runs.iter().filter_map(|run| Some((run.detection?, run.detection_max()?)));
        missed.extend(farthest_over(detections, "other node after"));
        let broken = self.runs.len() - self.downloads_whole;
        if broken > 0 {
            missed.push(format!("the download broke in {broken} of {} runs", self.runs.len()));
        }
        missed
    }
}

/// What is to be said of the one that is farthest above its bound, if any is.
fn farthest_over(times: impl Iterator<Item = (Duration, Duration)>, what: &str) -> Option<String> {
    let over = times.filter(|(time, max)| time > max);
    let (time, max) = over.max_by_key(|(time, max)| *time - *max)?;
    Some(format!("{what} {} ms, at most {} ms", ms(time), ms(max)))
}

/// The table of the cases.
#[must_use]
pub fn render(rows: &[Row]) -> String {
    let mut table = Table::new(&[
        ("event", Align::Left),
        ("mode", Align::Left),
        ("", Align::Left),
        ("survived", Align::Right),
        ("resets", Align::Right),
        ("worst stall, ms", Align::Right),
        ("other node after, ms", Align::Right),
        ("download whole", Align::Right),
        ("its stall, ms", Align::Right),
        ("target", Align::Left),
    ]);
    for row in rows {
        let survived = if row.survived_median == row.survived_min {
            format!("{} of {}", row.survived_min, row.connections)
        } else {
            format!("{} / {} of {}", row.survived_median, row.survived_min, row.connections)
        };
        // Of no connection there is no stall.
        let stall = if row.survived_median == 0 {
            "–".to_owned()
        } else {
            format!("{} / {}", ms(row.stall_median), ms(row.stall_max))
        };
        let download_stall =
            if row.downloads_whole == 0 { "–".to_owned() } else { ms(row.download_stall_median) };
        table.row(vec![
            row.case.strike.name().to_owned(),
            row.case.mode.name().to_owned(),
            row.case.system.name().to_owned(),
            survived,
            row.resets_max.to_string(),
            stall,
            row.detection_median.map_or_else(|| "never".to_owned(), ms),
            format!("{} of {}", row.downloads_whole, row.runs.len()),
            download_stall,
            verdict(row.case.system, &row.missed),
        ]);
    }
    table.render()
}

/// A row for each mode of each system.
#[must_use]
pub fn forth_rows(runs: &[Forth]) -> Vec<ForthRow> {
    let mut rows = Vec::new();
    for system in [System::Tandem, System::Rival, System::Conntrackd] {
        for mode in modes(system) {
            let mine = runs.iter().filter(|run| run.system == system);
            let moved: Vec<(usize, &Moved)> = mine
                .filter_map(|run| Some((run.moves, run.modes.iter().find(|moved| moved.mode == mode)?)))
                .collect();
            rows.extend(ForthRow::of(system, mode, &moved));
        }
    }
    rows
}

impl ForthRow {
    fn of(system: System, mode: Mode, runs: &[(usize, &Moved)]) -> Option<Self> {
        let modes = || runs.iter().map(|(_, moved)| *moved);
        let mut row = Self {
            system,
            mode,
            moves_min: runs.iter().map(|(moves, _)| *moves).min()?,
            attempts: modes().map(|moved| moved.attempts).sum(),
            failed_max: modes().map(|moved| moved.failed).max()?,
            resets_max: modes().map(|moved| moved.resets).max()?,
            slowest_max: modes().map(|moved| moved.slowest).max()?,
            connections: modes().map(|moved| moved.connections).max()?,
            survived_min: modes().map(|moved| moved.connections - moved.broken).min()?,
            stall_max: modes().map(|moved| moved.worst_stall).max()?,
            missed: Vec::new(),
        };
        if system == System::Tandem {
            let counts = [(row.failed_max, "failed probes"), (row.resets_max, "resets")];
            let too_many = counts.into_iter().filter(|(count, _)| *count > 0);
            row.missed = too_many.map(|(count, what)| format!("{count} {what}")).collect();
            let stalls = modes().map(|moved| (moved.worst_stall, SWITCHOVER_STALL_MAX + moved.pause));
            row.missed.extend(farthest_over(stalls, "stall of"));
            let slowest = modes().map(|moved| (moved.slowest, SWITCHOVER_NEW_MAX));
            row.missed.extend(farthest_over(slowest, "a new connection after"));
            if row.moves_min < super::forth::MOVES {
                row.missed.push(format!("{} moves", row.moves_min));
            }
        }
        Some(row)
    }
}

/// The table of what was moved back and forth.
#[must_use]
pub fn render_forth(rows: &[ForthRow]) -> String {
    let mut table = Table::new(&[
        ("moves", Align::Right),
        ("mode", Align::Left),
        ("", Align::Left),
        ("new", Align::Right),
        ("failed", Align::Right),
        ("slowest, ms", Align::Right),
        ("resets", Align::Right),
        ("survived", Align::Right),
        ("worst stall, ms", Align::Right),
        ("target", Align::Left),
    ]);
    for row in rows {
        table.row(vec![
            row.moves_min.to_string(),
            row.mode.name().to_owned(),
            row.system.name().to_owned(),
            row.attempts.to_string(),
            row.failed_max.to_string(),
            ms(row.slowest_max),
            row.resets_max.to_string(),
            format!("{} of {}", row.survived_min, row.connections),
            if row.survived_min == 0 { "–".to_owned() } else { ms(row.stall_max) },
            verdict(row.system, &row.missed),
        ]);
    }
    table.render()
}

fn verdict(system: System, missed: &[String]) -> String {
    match system {
        System::Tandem if missed.is_empty() => "met".to_owned(),
        System::Tandem => "MISSED".to_owned(),
        System::Rival | System::Conntrackd => String::new(),
    }
}

/// The targets missed, a line each.
#[must_use]
pub fn render_misses(rows: &[Row], forth: &[ForthRow]) -> String {
    let cases = rows.iter().map(|row| (row.case.name(), &row.missed));
    let moved = forth.iter().map(|row| (format!("back and forth {}", row.mode.name()), &row.missed));
    let missed = cases.chain(moved).filter(|(_, missed)| !missed.is_empty());
    missed.map(|(name, missed)| format!("  {name}: {}\n", missed.join(", "))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Strike;
    use super::*;

    fn outcome(system: System, survived: usize, stall_ms: u64) -> Outcome {
        Outcome {
            case: Case { strike: Strike::PowerLoss, mode: Mode::Nat, system },
            connections: 10,
            survived,
            broken: BTreeMap::new(),
            resets: 10 - survived,
            worst_stall: Duration::from_millis(stall_ms),
            noise: Duration::ZERO,
            pause: Duration::ZERO,
            detection: Some(Duration::from_millis(360)),
            download_whole: survived > 0,
            download_broken: None,
            download_stall: Duration::from_millis(700),
            problems: Vec::new(),
        }
    }

    #[test]
    fn a_row_is_met_only_if_every_run_kept_every_connection() {
        let good = [outcome(System::Tandem, 10, 500), outcome(System::Tandem, 10, 700)];
        let row = rows(&good).remove(0);
        assert!(row.missed.is_empty(), "{row:?}");
        assert_eq!(
            (row.stall_median, row.stall_max),
            (Duration::from_millis(700), Duration::from_millis(700))
        );

        let mut bad = good.to_vec();
        bad.push(outcome(System::Tandem, 9, 700));
        bad.extend([outcome(System::Conntrackd, 0, 0)]);
        let both = rows(&bad);
        assert_eq!(both.len(), 2);
        assert_eq!((both[0].survived_median, both[0].survived_min), (10, 9));
        assert_eq!(both[0].missed.len(), 1, "{:?}", both[0].missed);
        assert!(both[1].missed.is_empty(), "the other software has no target");
        let table = render(&both);
        assert!(
            table.contains("10 / 9 of 10") && table.contains("MISSED") && table.contains("0 of 1"),
            "{table}"
        );
        assert_eq!(render_misses(&both, &[]), "  power-loss nat Tandem: 9 of 10 connections survived\n");
    }

    #[test]
    fn no_run_may_stand_still_for_longer_than_its_machine_and_tcp_account_for() {
        let ms = Duration::from_millis;
        let mut runs = [500, 500, 900].map(|stall| outcome(System::Tandem, 10, stall));
        assert_eq!(rows(&runs)[0].missed, ["stall of 900 ms, at most 780 ms"], "not even one of them");
        runs[2].pause = ms(150);
        assert!(rows(&runs)[0].missed.is_empty(), "{:?}", rows(&runs)[0].missed);
        runs[2].detection = Some(ms(600));
        assert_eq!(rows(&runs)[0].missed, ["other node after 600 ms, at most 550 ms"]);
        runs[2].detection = None;
        assert_eq!(rows(&runs)[0].missed, ["the other node did not take over"]);
        runs[2].case.strike = Strike::Switchover;
        runs[2].pause = Duration::ZERO;
        let moved = Outcome { worst_stall: ms(51), ..runs[2].clone() };
        assert_eq!(moved.stall_max(), Some(ms(50)), "a planned move waits for nobody's retransmission");
    }

    #[test]
    fn nothing_waits_for_long_when_the_role_moves_back_and_forth() {
        let moved = |stall_ms, slowest_ms| Moved {
            mode: Mode::Nat,
            attempts: 100,
            failed: 0,
            failures: BTreeMap::new(),
            slowest: Duration::from_millis(slowest_ms),
            connections: 10,
            broken: 0,
            resets: 0,
            worst_stall: Duration::from_millis(stall_ms),
            pause: Duration::from_millis(10),
        };
        let run = |stall_ms, slowest_ms| Forth {
            system: System::Tandem,
            modes: vec![moved(stall_ms, slowest_ms)],
            moves: super::super::forth::MOVES,
            problems: Vec::new(),
        };
        assert!(forth_rows(&[run(60, 950)])[0].missed.is_empty());
        assert_eq!(forth_rows(&[run(20, 2), run(61, 2)])[0].missed, ["stall of 61.0 ms, at most 60.0 ms"]);
        // Its first packet was lost.
        let lost = forth_rows(&[run(20, 1002), run(20, 2)]);
        assert_eq!(lost[0].missed, ["a new connection after 1002 ms, at most 950 ms"]);
    }
}
