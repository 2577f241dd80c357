//! The figures, and what they are beside each other.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::load::Stretch;
use super::{Load, Proxy};
use crate::report::table::{Align, Table};

/// A figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Processor time of a short connection, in microseconds.
    ShortProcessor,
    /// Short connections a second.
    ShortRate,
    /// Processor time of a gigabyte (10^9 bytes), in milliseconds.
    BulkProcessor,
    /// Gigabits a second.
    BulkRate,
    /// Processor time of a request with its answer, in microseconds.
    RequestProcessor,
    /// Requests a second.
    RequestRate,
    /// What the proxy adds to the 99th percentile of the time to an answer, in microseconds.
    AddedLatency,
    /// Memory of the idle connections, in megabytes (10^6 bytes).
    IdleMemory,
}

impl Figure {
    const ALL: [Self; 8] = [
        Self::ShortProcessor,
        Self::ShortRate,
        Self::BulkProcessor,
        Self::BulkRate,
        Self::RequestProcessor,
        Self::RequestRate,
        Self::AddedLatency,
        Self::IdleMemory,
    ];

    /// Its name for people, with the unit.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::ShortProcessor => "CPU per short connection, µs",
            Self::ShortRate => "short connections per second",
            Self::BulkProcessor => "CPU per gigabyte, ms",
            Self::BulkRate => "bulk transfer, Gbit/s",
            Self::RequestProcessor => "CPU per request, µs",
            Self::RequestRate => "requests per second",
            Self::AddedLatency => "p99 added latency, µs",
            Self::IdleMemory => "memory of 5,000 idle connections, MB",
        }
    }

    /// Whether more is better.
    const fn more_is_better(self) -> bool {
        matches!(self, Self::ShortRate | Self::BulkRate | Self::RequestRate)
    }

    const fn decimals(self) -> usize {
        match self {
            Self::ShortRate | Self::RequestRate => 0,
            Self::BulkProcessor | Self::BulkRate | Self::ShortProcessor | Self::AddedLatency => 1,
            Self::RequestProcessor | Self::IdleMemory => 2,
        }
    }
}

/// What was measured, of each proxy.
#[derive(Debug, Default)]
pub(super) struct Samples(BTreeMap<(Figure, Proxy), Vec<f64>>);

impl Samples {
    fn add(&mut self, figure: Figure, proxy: Proxy, value: f64) {
        self.0.entry((figure, proxy)).or_default().push(value);
    }

    pub(super) fn add_stretch(&mut self, load: Load, proxy: Proxy, stretch: &Stretch) {
        let (rate, each_ns) = (stretch.per_second(), stretch.processor_ns());
        match load {
            Load::Short => {
                self.add(Figure::ShortProcessor, proxy, each_ns / 1e3);
                self.add(Figure::ShortRate, proxy, rate);
            }
            Load::Bulk => {
                // Nanoseconds for a byte are seconds for a gigabyte.
                self.add(Figure::BulkProcessor, proxy, each_ns * 1e3);
                self.add(Figure::BulkRate, proxy, rate * 8.0 / 1e9);
            }
            Load::Requests | Load::Paced | Load::Idle => {
                self.add(Figure::RequestProcessor, proxy, each_ns / 1e3);
                self.add(Figure::RequestRate, proxy, rate);
            }
        }
    }

    pub(super) fn add_latency(&mut self, proxy: Proxy, added: Duration) {
        self.add(Figure::AddedLatency, proxy, added.as_secs_f64() * 1e6);
    }

    #[expect(clippy::cast_precision_loss, reason = "a proxy has far less than 2^52 bytes")]
    pub(super) fn add_memory(&mut self, proxy: Proxy, bytes: u64) {
        self.add(Figure::IdleMemory, proxy, bytes as f64 / 1e6);
    }

    pub(super) fn rows(&self) -> Vec<Row> {
        Figure::ALL.into_iter().filter_map(|figure| self.row(figure)).collect()
    }

    fn row(&self, figure: Figure) -> Option<Row> {
        let side = |proxy| self.0.get(&(figure, proxy)).and_then(|values| Side::of(proxy, values));
        let sides = Proxy::ALL.into_iter().map(side).collect::<Option<Vec<Side>>>()?;
        Some(Row { figure, sides })
    }
}

/// A figure of one proxy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Side {
    /// Which proxy.
    pub proxy: Proxy,
    /// The middle of all measurements; of an even number the mean of the two in the middle.
    pub median: f64,
    /// The smallest and the largest of them.
    pub range: (f64, f64),
    /// All of them, in order.
    pub values: Vec<f64>,
}

impl Side {
    fn of(proxy: Proxy, values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let (first, last) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some(Self { proxy, median, range: (first, last), values: values.to_vec() })
    }
}

/// One line of the comparison.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The figure.
    pub figure: Figure,
    /// Ours first.
    pub sides: Vec<Side>,
}

impl Row {
    /// Ours as a multiple of the better one of the others.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        let mut medians = self.sides.iter().map(|side| side.median);
        let ours = medians.next().unwrap_or(f64::NAN);
        let best = if self.figure.more_is_better() { f64::max } else { f64::min };
        ours / medians.reduce(best).unwrap_or(f64::NAN)
    }

    /// Whether ours is at least as good as the better one of the others, to a hundredth.
    #[must_use]
    pub fn met(&self) -> bool {
        let ratio = (self.ratio() * 100.0).round() / 100.0;
        if self.figure.more_is_better() { ratio >= 1.0 } else { ratio <= 1.0 }
    }

    fn cells(&self) -> Vec<String> {
        let decimals = self.figure.decimals();
        let mut cells = vec![self.figure.title().to_owned()];
        cells.extend(self.sides.iter().map(|side| format!("{:.decimals$}", side.median)));
        cells.push(format!("{:.2}", self.ratio()));
        cells.push(if self.figure.more_is_better() { "≥ 1.00" } else { "≤ 1.00" }.to_owned());
        cells.push(if self.met() { "met" } else { "MISSED" }.to_owned());
        cells
    }
}

/// The table.
#[must_use]
pub fn render(rows: &[Row]) -> String {
    let mut columns = vec![("", Align::Left)];
    columns.extend(Proxy::ALL.map(|proxy| (proxy.name(), Align::Right)));
    columns.extend([("ratio", Align::Right), ("target", Align::Left), ("result", Align::Left)]);
    let mut table = Table::new(&columns);
    for row in rows {
        table.row(row.cells());
    }
    table.render()
}

/// What was missed, a line each.
#[must_use]
pub fn render_misses(rows: &[Row]) -> String {
    let line = |row: &Row| format!("  {}: {:.2} of the better one's\n", row.figure.title(), row.ratio());
    rows.iter().filter(|row| !row.met()).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(figure: Figure, values: [&[f64]; 3]) -> Vec<Row> {
        let mut samples = Samples::default();
        for (proxy, values) in Proxy::ALL.into_iter().zip(values) {
            for value in values {
                samples.add(figure, proxy, *value);
            }
        }
        samples.rows()
    }

    #[test]
    fn ours_is_compared_with_the_better_one() {
        let row = &rows(Figure::ShortProcessor, [&[11.0, 90.0, 10.0], &[22.0], &[10.0, 12.0]])[0];
        assert!((row.ratio() - 1.0).abs() < 1e-9 && row.met(), "the medians are 11, 22 and 11: {row:?}");
        assert_eq!(row.sides[0].range, (10.0, 90.0));
        let row = &rows(Figure::RequestRate, [&[90.0], &[100.0], &[80.0]])[0];
        assert!((row.ratio() - 0.9).abs() < 1e-9 && !row.met());
        assert_eq!(
            render_misses(std::slice::from_ref(row)),
            "  requests per second: 0.90 of the better one's\n"
        );
    }

    #[test]
    fn a_figure_that_somebody_lacks_is_left_out() {
        assert!(rows(Figure::IdleMemory, [&[1.0], &[], &[1.0]]).is_empty());
    }

    #[test]
    fn units_are_those_of_the_titles() {
        let stretch = Stretch {
            count: 1_000_000_000,
            wall: Duration::from_secs(1),
            processor: Duration::from_millis(250),
        };
        let mut samples = Samples::default();
        for proxy in Proxy::ALL {
            samples.add_stretch(Load::Bulk, proxy, &stretch);
        }
        let text = render(&samples.rows());
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines[2],
            ["CPU", "per", "gigabyte,", "ms", "250.0", "250.0", "250.0", "1.00", "≤", "1.00", "met"]
        );
        assert_eq!(lines[3][3..5], ["8.0", "8.0"]);
    }
}
