//! Figures of the proxies, and what they are beside each other.

use std::collections::{BTreeMap, BTreeSet};

use common::rng::Rng;
use serde::{Deserialize, Serialize};

use super::Proxy;
use super::load::Stretch;
use crate::report::table::{Align, Table};

/// A proxy that used less of its processor than this was not what limited the rate.
const BUSY_MIN: f64 = 0.9;

/// From so many samples of each side it is worked out between what the ratio lies.
const RESAMPLED_MIN: usize = 50;

/// How often they are drawn again for that.
const DRAWS: usize = 1000;

/// By how many hundredths the target may be missed at the worse end of what the ratio lies between for "no difference".
const NO_DIFFERENCE: f64 = 10.0;

/// How the results are to be read, for people.
pub const RESULTS: &str = "\
met: the ratio, to a hundredth, meets the target. Where there are 50 measurements or more they are drawn again 1,000 times (bootstrap),
which says between what the ratio lies nine times out of ten. met, no difference: the worse end of that is at most 1.10 (0.90 where more
is better), and it reaches 1.00. undecided: it reaches 1.00 but is wider, so that nothing was shown; MISSED: it does not. `--check` fails
with both of these.
";

/// What a run says of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Ours is as good as the better one of the others.
    Met,
    /// It is not, but may well be, and is not much worse for sure.
    NoDifference,
    /// It may be as good, and may be much worse.
    Undecided,
    /// It is worse.
    Missed,
}

/// A figure that is compared: a line of a table. In the order of the table.
pub trait Compared: Copy + Ord {
    /// Its name for people, with the unit.
    fn title(self) -> &'static str;
    /// Whether more is better.
    fn more_is_better(self) -> bool;
    /// How many decimals are shown.
    fn decimals(self) -> usize;
}

/// What was measured, of each proxy.
#[derive(Debug)]
pub(crate) struct Samples<F> {
    values: BTreeMap<(F, Proxy), Vec<f64>>,
    /// Which part of its processor ours used while a figure was measured that says nothing unless it is nearly all.
    busy: BTreeMap<F, Vec<f64>>,
}

impl<F> Default for Samples<F> {
    fn default() -> Self {
        Self { values: BTreeMap::new(), busy: BTreeMap::new() }
    }
}

impl<F: Compared> Samples<F> {
    pub(crate) fn add(&mut self, figure: F, proxy: Proxy, value: f64) {
        self.values.entry((figure, proxy)).or_default().push(value);
    }

    /// Adds a rate, which is only judged if it was ours that limited it, and not what made the load.
    pub(crate) fn add_rate(&mut self, figure: F, proxy: Proxy, stretch: &Stretch) {
        self.add_rate_as(figure, proxy, stretch.per_second(), stretch);
    }

    /// The same in another unit than a second's.
    pub(crate) fn add_rate_as(&mut self, figure: F, proxy: Proxy, value: f64, stretch: &Stretch) {
        self.add(figure, proxy, value);
        if proxy == Proxy::Lbd {
            self.busy.entry(figure).or_default().push(stretch.busy());
        }
    }

    /// Adds an amount of memory, in megabytes (10^6 bytes).
    #[expect(clippy::cast_precision_loss, reason = "a proxy has far less than 2^52 bytes")]
    pub(crate) fn add_memory(&mut self, figure: F, proxy: Proxy, bytes: u64) {
        self.add(figure, proxy, bytes as f64 / 1e6);
    }

    /// A line for each figure that all proxies have.
    pub(crate) fn rows(&self) -> Vec<Row<F>> {
        let figures: BTreeSet<F> = self.values.keys().map(|(figure, _)| *figure).collect();
        figures.into_iter().filter_map(|figure| self.row(figure)).collect()
    }

    fn row(&self, figure: F) -> Option<Row<F>> {
        let side = |proxy| self.values.get(&(figure, proxy)).and_then(|values| Side::of(proxy, values));
        let sides = Proxy::ALL.into_iter().map(side).collect::<Option<Vec<Side>>>()?;
        let busy = self.busy.get(&figure).and_then(|values| median(values));
        Some(Row { figure, sides, judged: busy.is_none_or(|busy| busy >= BUSY_MIN) })
    }
}

/// The middle one; of an even number the mean of the two in the middle.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len() % 2 == 1 { upper } else { (sorted[middle - 1] + upper) / 2.0 })
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
        let least = values.iter().copied().reduce(f64::min)?;
        let most = values.iter().copied().reduce(f64::max)?;
        Some(Self { proxy, median: median(values)?, range: (least, most), values: values.to_vec() })
    }
}

/// One line of the comparison.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row<F> {
    /// The figure.
    pub figure: F,
    /// Ours first.
    pub sides: Vec<Side>,
    /// Whether ours has to be as good as the better one of the others: not where the load was what limited all of them.
    pub judged: bool,
}

impl<F: Compared> Row<F> {
    /// Ours as a multiple of the better one of the others.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        let mut medians = self.sides.iter().map(|side| side.median);
        let ours = medians.next().unwrap_or(f64::NAN);
        let best = if self.figure.more_is_better() { f64::max } else { f64::min };
        ours / medians.reduce(best).unwrap_or(f64::NAN)
    }

    /// Between what the ratio lies nine times out of ten when as many samples are drawn again from those there are (Efron's bootstrap); of
    /// samples that were taken beside each other all sides are drawn together. Nothing where there are few.
    #[must_use]
    pub fn interval(&self) -> Option<(f64, f64)> {
        let count =
            self.sides.iter().map(|side| side.values.len()).min().filter(|count| *count >= RESAMPLED_MIN)?;
        // The same samples always have the same interval.
        let mut rng = Rng::new(1);
        let mut draw = || {
            let drawn: Vec<usize> =
                (0..count).map(|_| usize::try_from(rng.below(count as u64)).unwrap_or_default()).collect();
            let side = |side: &Side| {
                Side::of(side.proxy, &drawn.iter().map(|&at| side.values[at]).collect::<Vec<_>>())
            };
            let sides = self.sides.iter().filter_map(side).collect();
            Self { figure: self.figure, sides, judged: self.judged }.ratio()
        };
        let mut ratios: Vec<f64> = (0..DRAWS).map(|_| draw()).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        Some((ratios[DRAWS / 20], ratios[DRAWS - DRAWS / 20 - 1]))
    }

    /// Whether ours is at least as good as the better one of the others, to a hundredth.
    #[must_use]
    pub fn met(&self) -> bool {
        self.is_within(self.ratio(), 0.0)
    }

    /// Whether `ratio`, to a hundredth, is at most so many hundredths worse than the target.
    fn is_within(&self, ratio: f64, hundredths: f64) -> bool {
        let ratio = (ratio * 100.0).round();
        if self.figure.more_is_better() { ratio >= 100.0 - hundredths } else { ratio <= 100.0 + hundredths }
    }

    /// What is to be said of the target. That a run was noisy excuses nothing, and proves nothing either: only one that was quiet enough to
    /// rule out that ours is much worse may say that it is as good.
    fn verdict(&self) -> Verdict {
        let Some((least, most)) = self.interval() else {
            return if self.met() { Verdict::Met } else { Verdict::Missed };
        };
        let (best, worst) = if self.figure.more_is_better() { (most, least) } else { (least, most) };
        match (self.is_within(best, 0.0), self.is_within(worst, NO_DIFFERENCE)) {
            (true, true) if self.met() => Verdict::Met,
            (true, true) => Verdict::NoDifference,
            (true, false) => Verdict::Undecided,
            (false, _) => Verdict::Missed,
        }
    }

    /// Whether it is judged and the run did not show that ours is as good.
    fn failed(&self) -> bool {
        self.judged && matches!(self.verdict(), Verdict::Undecided | Verdict::Missed)
    }

    fn result(&self) -> String {
        let name = match self.verdict() {
            Verdict::Met => "met",
            Verdict::NoDifference => "no difference",
            Verdict::Undecided => "undecided",
            Verdict::Missed => "MISSED",
        };
        match self.interval() {
            Some((least, most)) => format!("{name} ({least:.2} to {most:.2})"),
            None => name.to_owned(),
        }
    }

    fn cells(&self) -> Vec<String> {
        let decimals = self.figure.decimals();
        let mut cells = vec![self.figure.title().to_owned()];
        cells.extend(self.sides.iter().map(|side| format!("{:.decimals$}", side.median)));
        cells.push(format!("{:.2}", self.ratio()));
        if self.judged {
            cells.push(if self.figure.more_is_better() { "≥ 1.00" } else { "≤ 1.00" }.to_owned());
            cells.push(self.result());
        } else {
            cells.extend([String::new(), "the load's".to_owned()]);
        }
        cells
    }
}

/// The table.
#[must_use]
pub fn render<F: Compared>(rows: &[Row<F>]) -> String {
    let mut columns = vec![("", Align::Left)];
    columns.extend(Proxy::ALL.map(|proxy| (proxy.name(), Align::Right)));
    columns.extend([("ratio", Align::Right), ("target", Align::Left), ("result", Align::Left)]);
    let mut table = Table::new(&columns);
    for row in rows {
        table.row(row.cells());
    }
    table.render()
}

/// What was missed or stays undecided, a line each.
#[must_use]
pub fn render_misses<F: Compared>(rows: &[Row<F>]) -> String {
    let line = |row: &Row<F>| {
        let (title, ratio, result) = (row.figure.title(), row.ratio(), row.result());
        format!("  {title}: {ratio:.2} of the better one's: {result}\n")
    };
    rows.iter().filter(|row| row.failed()).map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench_tcp::Figure;

    fn rows(figure: Figure, values: [&[f64]; 3]) -> Vec<Row<Figure>> {
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
            "  requests per second: 0.90 of the better one's: MISSED\n"
        );
    }

    #[test]
    fn many_samples_say_how_sure_the_ratio_is() {
        let around = |middle: f64| (0..200).map(|at| middle + f64::from(at % 21) - 10.0).collect::<Vec<_>>();
        let row = |ours: f64| {
            let mut all = rows(Figure::AddedLatency, [&around(ours), &around(100.0), &around(104.0)]);
            all.remove(0)
        };
        let (alike, worse, better) = (row(101.0), row(120.0), row(80.0));
        // Drawn beside each other, all move together: what is a hundredth more always is.
        assert!(
            alike.interval().is_some_and(|(least, most)| least > 0.99 && most < 1.03),
            "{:?}",
            alike.interval()
        );
        assert!(better.result().starts_with("met (0."), "{}", better.result());
        assert!(worse.result().starts_with("MISSED (1.") && worse.failed() && !better.failed());
        let mut noisy = alike;
        noisy.sides[0].values.rotate_left(7);
        assert!(noisy.result().starts_with("no difference (0.9") && !noisy.failed(), "{}", noisy.result());
        assert_eq!(rows(Figure::AddedLatency, [&[2.0], &[1.0], &[1.0]])[0].interval(), None);
    }

    #[test]
    fn a_run_that_is_too_noisy_shows_nothing() {
        let around = |middle: f64| -> Vec<f64> {
            (0..200).map(|at| middle + 8.0 * (f64::from(at % 21) - 10.0)).collect()
        };
        // Each is a little worse than the better one of the others, with an interval of far more than a tenth to either side.
        // And the last one's median is as good, which is as likely to be luck.
        for (figure, ours, other) in [
            (Figure::AddedLatency, 102.0, 104.0),
            (Figure::RequestRate, 98.0, 96.0),
            (Figure::AddedLatency, 100.0, 104.0),
        ] {
            let mut all = rows(figure, [&around(ours), &around(100.0), &around(other)]);
            let mut row = all.remove(0);
            row.sides[0].values.rotate_left(7);
            assert!(row.result().starts_with("undecided (0."), "{}", row.result());
            let misses = render_misses(std::slice::from_ref(&row));
            assert!(row.failed() && misses.contains("undecided (0."), "`--check` fails: {misses}");
            row.judged = false;
            assert_eq!(render_misses(&[row]), "");
        }
    }

    #[test]
    fn what_is_no_difference_is_bounded_by_what_is_said_of_it() {
        let row = |figure| rows(figure, [&[1.0], &[1.0], &[1.0]]).remove(0);
        let (less, more) = (row(Figure::AddedLatency), row(Figure::RequestRate));
        assert!(less.is_within(1.104, NO_DIFFERENCE) && !less.is_within(1.106, NO_DIFFERENCE));
        assert!(more.is_within(0.896, NO_DIFFERENCE) && !more.is_within(0.894, NO_DIFFERENCE));
        assert!(RESULTS.contains("at most 1.10 (0.90") && RESULTS.contains(&format!("{RESAMPLED_MIN} meas")));
        assert!(RESULTS.contains("1,000 times") && DRAWS == 1000);
    }

    #[test]
    fn a_figure_that_somebody_lacks_is_left_out() {
        assert!(rows(Figure::IdleMemory, [&[1.0], &[], &[1.0]]).is_empty());
    }

    #[test]
    fn a_rate_that_the_load_limits_is_not_judged() {
        for (busy_ms, judged) in [(950, true), (850, false)] {
            let mut samples = Samples::default();
            for (proxy, count) in Proxy::ALL.into_iter().zip([90, 100, 100]) {
                // How busy the others are does not matter.
                let busy_ms = if proxy == Proxy::Lbd { busy_ms } else { 500 };
                let (wall, processor) = (Duration::from_secs(1), Duration::from_millis(busy_ms));
                samples.add_rate(Figure::RequestRate, proxy, &Stretch { count, wall, processor });
            }
            let rows = samples.rows();
            assert_eq!((rows[0].judged, render_misses(&rows).is_empty()), (judged, !judged));
            assert_eq!(render(&rows).contains("the load's"), !judged);
        }
    }
}
