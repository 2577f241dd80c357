//! The figures, and what they are beside each other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::tools::Stretch;
use super::{Load, Way};
use crate::report::table::{Align, Table};

/// A figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Requests a second.
    RequestRate,
    /// Processor time of the machine for a request, in microseconds.
    RequestBusy,
    /// Processor time of the machine for a packet that comes to the hop, beyond what the direct way takes, in nanoseconds.
    RequestPacketBusy,
    /// Gigabits a second to the target.
    UploadRate,
    /// Processor time of the machine for a gigabyte (10^9 bytes) of that, in milliseconds.
    UploadBusy,
    /// As [`Self::RequestPacketBusy`], of packets of up to 64 KiB.
    UploadPacketBusy,
    /// Gigabits a second from the target.
    DownloadRate,
    /// Processor time of the machine for a gigabyte of that, in milliseconds.
    DownloadBusy,
    /// As [`Self::UploadPacketBusy`].
    DownloadPacketBusy,
}

impl Figure {
    const ALL: [Self; 9] = [
        Self::RequestRate,
        Self::RequestBusy,
        Self::RequestPacketBusy,
        Self::UploadRate,
        Self::UploadBusy,
        Self::UploadPacketBusy,
        Self::DownloadRate,
        Self::DownloadBusy,
        Self::DownloadPacketBusy,
    ];

    /// Its name for people, with the unit.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::RequestRate => "requests per second",
            Self::RequestBusy => "CPU per request, µs",
            Self::RequestPacketBusy => "CPU per packet at the hop, ns",
            Self::UploadRate => "bulk upload, Gbit/s",
            Self::UploadBusy => "CPU per gigabyte up, ms",
            Self::UploadPacketBusy => "CPU per packet of it at the hop, ns",
            Self::DownloadRate => "bulk download, Gbit/s",
            Self::DownloadBusy => "CPU per gigabyte down, ms",
            Self::DownloadPacketBusy => "CPU per packet of it at the hop, ns",
        }
    }

    const fn is_rate(self) -> bool {
        matches!(self, Self::RequestRate | Self::UploadRate | Self::DownloadRate)
    }

    const fn is_per_packet(self) -> bool {
        matches!(self, Self::RequestPacketBusy | Self::UploadPacketBusy | Self::DownloadPacketBusy)
    }

    const fn load(self) -> Load {
        match self {
            Self::RequestRate | Self::RequestBusy | Self::RequestPacketBusy => Load::Requests,
            Self::UploadRate | Self::UploadBusy | Self::UploadPacketBusy => Load::Upload,
            Self::DownloadRate | Self::DownloadBusy | Self::DownloadPacketBusy => Load::Download,
        }
    }

    /// That of a stretch, and of the direct way's in the same run.
    fn of(self, stretch: &Stretch, direct: Option<&Stretch>) -> Option<f64> {
        Some(match self {
            Self::RequestRate => stretch.per_second(),
            Self::RequestBusy => stretch.busy_ns() / 1e3,
            Self::UploadRate | Self::DownloadRate => stretch.per_second() * 8.0 / 1e9,
            // Nanoseconds for a byte are seconds for a gigabyte.
            Self::UploadBusy | Self::DownloadBusy => stretch.busy_ns() * 1e3,
            Self::RequestPacketBusy | Self::UploadPacketBusy | Self::DownloadPacketBusy => {
                (stretch.busy_ns() - direct?.busy_ns()) / stretch.packets_each()?
            }
        })
    }

    /// The least that a way has to reach of the direct one.
    fn least_of_direct(self, way: Way) -> Option<f64> {
        match (self, way) {
            (Self::RequestRate, Way::DsrL2) => Some(0.85),
            (Self::RequestRate, Way::Nat) => Some(0.80),
            (Self::UploadRate | Self::DownloadRate, Way::DsrL2 | Way::Nat) => Some(0.90),
            _ => None,
        }
    }

    /// The least that a way has to reach of nftables.
    fn least_of_nftables(self, way: Way) -> Option<f64> {
        let ours = matches!(way, Way::DsrL2 | Way::Nat);
        (ours && self == Self::RequestRate).then_some(1.15)
    }
}

/// What was measured.
#[derive(Debug, Default)]
pub(super) struct Samples(BTreeMap<(Load, Way), Vec<Stretch>>);

impl Samples {
    pub(super) fn add(&mut self, load: Load, way: Way, stretch: Stretch) {
        self.0.entry((load, way)).or_default().push(stretch);
    }

    pub(super) fn rows(&self) -> Vec<Row> {
        Figure::ALL.into_iter().map(|figure| self.row(figure)).collect()
    }

    fn row(&self, figure: Figure) -> Row {
        let of = |way| self.0.get(&(figure.load(), way)).map(Vec::as_slice).unwrap_or_default();
        let direct = of(Way::Direct);
        let side = |way| {
            let values = of(way).iter().enumerate();
            let mut values: Vec<f64> =
                values.filter_map(|(run, stretch)| figure.of(stretch, direct.get(run))).collect();
            values.sort_unstable_by(f64::total_cmp);
            let median = *values.get(values.len() / 2)?;
            Some(Side { way, median, values })
        };
        Row { figure, sides: Way::ALL.into_iter().filter_map(side).collect() }
    }
}

/// A figure of one way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Side {
    /// Which way.
    pub way: Way,
    /// The middle of all measurements; of an even number the larger of the two in the middle.
    pub median: f64,
    /// All of them, sorted.
    pub values: Vec<f64>,
}

/// One line of the comparison.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The figure.
    pub figure: Figure,
    /// The ways that can do it.
    pub sides: Vec<Side>,
}

impl Row {
    fn median(&self, way: Way) -> Option<f64> {
        self.sides.iter().find(|side| side.way == way).map(|side| side.median)
    }

    /// A way's figure as a multiple of another's.
    #[must_use]
    pub fn ratio(&self, way: Way, to: Way) -> Option<f64> {
        Some(self.median(way)? / self.median(to)?)
    }

    /// The targets that were missed, a line each.
    fn misses(&self) -> Vec<String> {
        let mut misses = Vec::new();
        for way in [Way::DsrL2, Way::Nat] {
            let wanted = [
                (Way::Direct, self.figure.least_of_direct(way)),
                (Way::Nftables, self.figure.least_of_nftables(way)),
            ];
            for (other, least) in wanted {
                let Some(least) = least else { continue };
                // What could not be measured has not been reached.
                let ratio = self.ratio(way, other).unwrap_or(0.0);
                if ratio < least {
                    let (title, way, other) = (self.figure.title(), way.name(), other.name());
                    misses.push(format!("{title}: {way} reaches {ratio:.2} of {other}, not {least:.2}"));
                }
            }
        }
        misses
    }

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.figure.title().to_owned()];
        let direct = self.median(Way::Direct);
        // What is no more than one run differs from the next is nothing to be a part of.
        let nftables = self.median(Way::Nftables).filter(|ns| self.figure.is_per_packet() && *ns > 0.0);
        for way in Way::ALL {
            let Some(median) = self.median(way) else {
                cells.push("–".to_owned());
                continue;
            };
            let decimals = self.decimals();
            let beside = match direct.filter(|_| way != Way::Direct) {
                Some(direct) if self.figure.is_rate() => format!(" ({:.2})", median / direct),
                Some(direct) => format!(" (+{:.decimals$})", median - direct),
                None => nftables
                    .filter(|_| way != Way::Nftables)
                    .map_or_else(String::new, |nftables| format!(" ({:.2})", median / nftables)),
            };
            cells.push(format!("{median:.decimals$}{beside}"));
        }
        cells
    }

    const fn decimals(&self) -> usize {
        match self.figure {
            Figure::RequestRate
            | Figure::RequestPacketBusy
            | Figure::UploadPacketBusy
            | Figure::DownloadPacketBusy => 0,
            Figure::UploadRate | Figure::UploadBusy | Figure::DownloadRate | Figure::DownloadBusy => 1,
            Figure::RequestBusy => 2,
        }
    }
}

/// The table: in brackets the part of the direct way's rate, or what it costs more than that; of a packet at the hop the part of what nftables
/// takes for one.
#[must_use]
pub fn render(rows: &[Row]) -> String {
    let mut columns = vec![("", Align::Left)];
    columns.extend(Way::ALL.map(|way| (way.name(), Align::Right)));
    let mut table = Table::new(&columns);
    for row in rows {
        table.row(row.cells());
    }
    table.render()
}

/// What was missed, a line each.
#[must_use]
pub fn render_misses(rows: &[Row]) -> String {
    rows.iter().flat_map(Row::misses).map(|miss| format!("  {miss}\n")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rows(rates: [f64; 5]) -> Vec<Row> {
        rows_of(Load::Requests, rates)
    }

    /// The rows of a load, with so many of what it makes in a second on each way.
    fn rows_of(load: Load, rates: [f64; 5]) -> Vec<Row> {
        let mut samples = Samples::default();
        for (way, count) in Way::ALL.into_iter().zip(rates) {
            for count in [count / 2.0, count, count * 3.0] {
                let (wall, busy) = (Duration::from_secs(1), Duration::from_secs(2));
                // Each comes to the hop twice.
                let packets = (way != Way::Direct).then_some(count * 2.0);
                samples.add(load, way, Stretch { count, wall, busy, packets });
            }
        }
        samples.rows().into_iter().filter(|row| row.figure.load() == load).collect()
    }

    #[test]
    fn targets_are_parts_of_the_direct_way_and_multiples_of_nftables() {
        assert_eq!(render_misses(&rows([100_000.0, 85_000.0, 80_000.0, 69_000.0, 1.0])), "");
        let text = render_misses(&rows([100_000.0, 84_000.0, 80_000.0, 70_000.0, 1.0]));
        assert_eq!(
            text,
            "  requests per second: dsr l2 reaches 0.84 of direct, not 0.85\n  requests per second: nat reaches 1.14 of nftables, not 1.15\n"
        );
    }

    #[test]
    fn bulk_is_judged_in_either_direction() {
        for (load, title) in [(Load::Upload, "bulk upload"), (Load::Download, "bulk download")] {
            assert_eq!(render_misses(&rows_of(load, [4e9, 3.6e9, 3.6e9, 1.0, 1.0])), "");
            let text = render_misses(&rows_of(load, [4e9, 3.6e9, 3.5e9, 1.0, 1.0]));
            assert_eq!(text, format!("  {title}, Gbit/s: nat reaches 0.88 of direct, not 0.90\n"));
        }
        // What was not measured has not been reached.
        let unmeasured = render_misses(&Samples::default().rows());
        assert!(unmeasured.contains("bulk download, Gbit/s: dsr l2 reaches 0.00"), "{unmeasured}");
    }

    #[test]
    fn costs_are_what_a_way_takes_more_than_the_direct_one() {
        let text = render(&rows([100_000.0, 50_000.0, 80_000.0, 70_000.0, 40_000.0]));
        assert!(text.contains("40.00 (+20.00)") && text.contains("50000 (0.50)"), "{text}");
    }

    #[test]
    fn a_packet_at_the_hop_costs_what_is_not_spent_without_it() {
        let rows = rows([100_000.0, 50_000.0, 80_000.0, 70_000.0, 40_000.0]);
        let text = render(&rows);
        let cells = text.lines().find(|line| line.contains("CPU per packet")).unwrap_or_default();
        let cells: Vec<&str> = cells.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        let wanted = ["–", "10000 (2.33)", "2500 (0.58)", "4286", "15000 (3.50)"];
        assert_eq!(cells.get(1..), Some(&wanted[..]), "{text}");
        // A hop that saw nothing has no packets to spend anything on.
        let mut samples = Samples::default();
        for (way, packets) in [(Way::Direct, None), (Way::Nat, Some(0.0))] {
            let second = Duration::from_secs(1);
            samples.add(Load::Requests, way, Stretch { count: 1.0, wall: second, busy: second, packets });
        }
        assert!(samples.row(Figure::RequestPacketBusy).sides.is_empty());
    }
}
