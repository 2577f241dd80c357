//! Two systems side by side: what the runs of one event came to, and whether the target was met.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::statistics::{Spread, ms};
use super::table::{Align, Table};
use crate::scenario::{Event, Family, Record, System};

/// The runs of one event on one system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// How many runs there were.
    pub runs: usize,
    /// The longest gap of the median run.
    pub gap_median: Duration,
    /// The longest gap of all runs.
    pub gap_max: Duration,
    /// The failed connections of the median run.
    pub failed_median: usize,
    /// The most failed connections of any run.
    pub failed_max: usize,
    /// The longest time two nodes answered for the VIP in any run.
    pub overlap_max: Duration,
    /// In how many runs the node that was active before let go of the VIP.
    pub released: usize,
    /// The longest gap without any event, of the median run.
    pub noise_median: Duration,
    /// The longest gap without any event of all runs.
    pub noise_max: Duration,
    /// What did not come about, each with the number of runs.
    pub problems: Vec<(String, usize)>,
}

/// One line of the comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The event.
    pub event: Event,
    /// The VIP's family.
    pub family: Family,
    /// Ours; none when no run of it came to an end.
    pub tandem: Option<Side>,
    /// The other one's, likewise.
    pub rival: Option<Side>,
    /// Why the target was missed; empty when it was met.
    pub missed: Vec<String>,
}

impl Side {
    /// Sums up the records; `None` when there are none.
    #[must_use]
    pub fn of(records: &[&Record]) -> Option<Self> {
        let gap = Spread::of(records.iter().map(|record| record.measured.gap))?;
        let failed = Spread::of(records.iter().map(|record| record.measured.failed))?;
        let noise = Spread::of(records.iter().map(|record| record.measured.noise))?;
        let mut problems: Vec<(String, usize)> = Vec::new();
        for problem in records.iter().flat_map(|record| &record.problems) {
            let problem = without_times(problem);
            match problems.iter_mut().find(|(known, _)| *known == problem) {
                Some((_, count)) => *count += 1,
                None => problems.push((problem, 1)),
            }
        }
        Some(Self {
            runs: records.len(),
            gap_median: gap.median,
            gap_max: gap.max,
            failed_median: failed.median,
            failed_max: failed.max,
            overlap_max: records.iter().map(|record| record.measured.overlap).max().unwrap_or_default(),
            released: records.iter().filter(|record| record.released).count(),
            noise_median: noise.median,
            noise_max: noise.max,
            problems,
        })
    }
}

/// "waited 15.002s in vain for …" is the same finding as "waited 15.001s in vain for …".
fn without_times(problem: &str) -> String {
    match problem.split_once(" in vain for ") {
        Some((_, what)) => format!("in vain for {what}"),
        None => problem.to_owned(),
    }
}

impl Row {
    /// Sums up the runs of an event with one family.
    #[must_use]
    pub fn of(event: Event, family: Family, records: &[Record]) -> Self {
        let side = |system| {
            let mine = records.iter().filter(|record| (record.event, record.family) == (event, family));
            let mine: Vec<&Record> = mine.filter(|record| record.system == system).collect();
            Side::of(&mine)
        };
        let (tandem, rival) = (side(System::Tandem), side(System::Rival));
        let missed = misses(event, tandem.as_ref(), rival.as_ref());
        Self { event, family, tandem, rival, missed }
    }

    fn cells(&self) -> Vec<String> {
        let side = |side: &Option<Side>| {
            side.as_ref().map_or_else(
                || vec!["no run".to_owned(), String::new(), String::new()],
                |side| {
                    let overlap = if side.released < side.runs && self.event.target().released {
                        "never released".to_owned()
                    } else {
                        ms(side.overlap_max)
                    };
                    vec![
                        format!("{} / {}", ms(side.gap_median), ms(side.gap_max)),
                        format!("{} / {}", side.failed_median, side.failed_max),
                        overlap,
                    ]
                },
            )
        };
        let mut cells = vec![self.event.name().to_owned(), interval(self.event.advert_interval())];
        cells.extend(side(&self.tandem));
        cells.extend(side(&self.rival));
        cells.push(target_text(self.event));
        cells.push(if self.missed.is_empty() { "met".to_owned() } else { "MISSED".to_owned() });
        cells
    }
}

/// Why the target was missed.
fn misses(event: Event, tandem: Option<&Side>, rival: Option<&Side>) -> Vec<String> {
    let Some(tandem) = tandem else { return vec!["no run came to an end".to_owned()] };
    let target = event.target();
    let mut missed = Vec::new();
    if let Some(limit) = target.gap.filter(|limit| tandem.gap_median > *limit) {
        missed.push(format!("gap {} ms, at most {} ms", ms(tandem.gap_median), ms(limit)));
    }
    if let Some(limit) = target.failed.filter(|limit| tandem.failed_median > *limit) {
        missed.push(format!("{} failed connections, at most {limit}", tandem.failed_median));
    }
    if let Some(rival) =
        rival.filter(|rival| target.no_worse_than_rival && tandem.gap_median > rival.gap_median)
    {
        missed.push(format!("gap {} ms, the other's {} ms", ms(tandem.gap_median), ms(rival.gap_median)));
    }
    if target.released && tandem.released < tandem.runs {
        missed.push(format!("VIP not released in {} of {} runs", tandem.runs - tandem.released, tandem.runs));
    }
    if tandem.overlap_max > target.overlap {
        missed.push(format!("two nodes answered for {} ms", ms(tandem.overlap_max)));
    }
    missed.extend(tandem.problems.iter().map(|(problem, count)| format!("{problem} ({count} runs)")));
    missed
}

/// The target for people.
fn target_text(event: Event) -> String {
    let target = event.target();
    let gap = target.gap.map(|limit| format!("gap ≤ {} ms", limit.as_millis()));
    let failed = target.failed.map(|limit| format!("{limit} failed"));
    let rival = target.no_worse_than_rival.then(|| "≤ the other's".to_owned());
    [gap, failed, rival].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn interval(interval: Duration) -> String {
    let millis = interval.as_millis();
    if millis.is_multiple_of(1000) { format!("{} s", millis / 1000) } else { format!("{millis} ms") }
}

/// The table of one family, with the probe's own noise as its last line.
#[must_use]
pub fn render(rows: &[Row], family: Family) -> String {
    let rows: Vec<&Row> = rows.iter().filter(|row| row.family == family).collect();
    let mut table = Table::new(&[
        ("event", Align::Left),
        ("adverts", Align::Right),
        ("Tandem: gap", Align::Right),
        ("failed", Align::Right),
        ("overlap", Align::Right),
        ("rival: gap", Align::Right),
        ("failed", Align::Right),
        ("overlap", Align::Right),
        ("target", Align::Left),
        ("result", Align::Left),
    ]);
    for row in &rows {
        table.row(row.cells());
    }
    let noise = |side: fn(&Row) -> Option<&Side>| {
        let sides: Vec<&Side> = rows.iter().filter_map(|row| side(row)).collect();
        let median = Spread::of(sides.iter().map(|side| side.noise_median));
        let max = sides.iter().map(|side| side.noise_max).max().unwrap_or_default();
        median.map_or_else(String::new, |median| format!("{} / {}", ms(median.median), ms(max)))
    };
    let blank = String::new;
    let tandem = noise(|row| row.tandem.as_ref());
    let rival = noise(|row| row.rival.as_ref());
    table.row(vec!["(no event: noise)".to_owned(), blank(), tandem, blank(), blank(), rival]);
    table.render()
}

/// The longest gap without any event, of all runs with a family.
#[must_use]
pub fn noise_max(rows: &[Row], family: Family) -> Duration {
    let sides = rows.iter().filter(|row| row.family == family).flat_map(|row| [&row.tandem, &row.rival]);
    sides.flatten().map(|side| side.noise_max).max().unwrap_or_default()
}

/// What was missed and why, a line each.
#[must_use]
pub fn render_misses(rows: &[Row]) -> String {
    let line = |row: &Row| {
        let why = row.missed.join("; ");
        format!("  {} {}: {why}\n", row.family.name(), row.event.name())
    };
    rows.iter().filter(|row| !row.missed.is_empty()).map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::scenario::Measured;

    fn record(event: Event, system: System, gap_ms: u64, failed: usize) -> Record {
        let measured = Measured {
            attempts: 1000,
            failed,
            failures: BTreeMap::new(),
            gap: Duration::from_millis(gap_ms),
            noise: Duration::from_millis(2),
            pause: Duration::from_millis(2),
            recovery: None,
            answered: Vec::new(),
            overlap: Duration::ZERO,
            by_target: BTreeMap::new(),
        };
        let (roles, problems) = (Vec::new(), Vec::new());
        Record { event, system, family: Family::V4, measured, released: true, roles, problems }
    }

    fn missed(records: &[Record]) -> String {
        Row::of(records[0].event, Family::V4, records).missed.join("; ")
    }

    #[test]
    fn a_target_is_judged_by_the_median() {
        let event = Event::SigkillLbd;
        let mut records: Vec<Record> =
            [10, 15, 500].map(|gap| record(event, System::Tandem, gap, 9)).into_iter().collect();
        assert_eq!(missed(&records), "");
        records[0].measured.gap = Duration::from_millis(30);
        assert_eq!(missed(&records), "gap 30.0 ms, at most 20.0 ms");
    }

    #[test]
    fn every_kind_of_miss_is_said() {
        let event = Event::PortBlocked;
        let mut records = vec![record(event, System::Tandem, 38, 3), record(event, System::Rival, 35, 3)];
        assert_eq!(missed(&records), "gap 38.0 ms, the other's 35.0 ms");
        records[0].measured.overlap = Duration::from_millis(11);
        records[0].measured.gap = Duration::from_millis(20);
        assert_eq!(missed(&records), "two nodes answered for 11.0 ms");

        let mut record = record(Event::Switchover, System::Tandem, 5, 1);
        record.released = false;
        record.problems.push("waited 2.001s in vain for a to be backup".to_owned());
        let why = missed(&[record]);
        assert_eq!(
            why,
            "1 failed connections, at most 0; VIP not released in 1 of 1 runs; in vain for a to be backup (1 runs)"
        );
        assert_eq!(Row::of(event, Family::V6, &records).missed, ["no run came to an end"]);
    }

    #[test]
    fn the_table_shows_both_sides_and_the_noise() {
        let event = Event::SigkillVrrpd100Ms;
        let mut records = vec![record(event, System::Tandem, 12, 3), record(event, System::Rival, 4, 0)];
        records[1].released = false;
        let text = render(&[Row::of(event, Family::V4, &records)], Family::V4);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[2].contains("12.0 / 12.0   3 / 3      0.0"), "{text}");
        assert!(lines[2].contains("never released  gap ≤ 20 ms  met"), "{text}");
        assert_eq!(noise_max(&[Row::of(event, Family::V4, &records)], Family::V4), Duration::from_millis(2));
        assert_eq!(noise_max(&[Row::of(event, Family::V4, &records)], Family::V6), Duration::ZERO);
        assert!(lines[3].contains("(no event: noise)") && lines[3].contains("2.0 / 2.0"), "{text}");
    }
}
