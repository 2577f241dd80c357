//! The runs together.

use super::{Connections, Stretch, Way};
use crate::bench_replication::Subject;
use crate::bench_replication::row::median;
use crate::report::table::{Align, Table};

/// What replication takes beside what forwarding takes, of one mode.
#[derive(Clone, Copy, Debug)]
pub(in crate::bench_replication) struct Share {
    /// Connections a second.
    pub(in crate::bench_replication) per_second: f64,
    /// Microseconds of forwarding's own for a connection.
    pub(in crate::bench_replication) own_us: f64,
    /// Nanoseconds of the sender's replication for one.
    pub(in crate::bench_replication) sender_ns: f64,
    /// Microseconds that the whole machine spends more on one with the link, while connections come and go.
    pub(in crate::bench_replication) linked_us: f64,
    /// The least rate of all ways in all runs, as a part of the direct way's.
    pub(in crate::bench_replication) held: f64,
    /// Changes that were not told in time, in all runs.
    pub(in crate::bench_replication) untold: u64,
}

impl Share {
    /// The latter as a part of the former. Not a number where there is nothing to be a part of.
    pub(in crate::bench_replication) fn part(self) -> f64 {
        self.of_own(self.sender_ns / 1e3)
    }

    /// What the whole machine spends more with the link, as a part of the same.
    pub(in crate::bench_replication) fn linked_part(self) -> f64 {
        self.of_own(self.linked_us)
    }

    fn of_own(self, us: f64) -> f64 {
        if self.own_us > 0.0 { us / self.own_us } else { f64::NAN }
    }
}

/// The median of what runs have a value of; not a number if none has.
fn middle(runs: &[Connections], value: impl Fn(&Connections) -> Option<f64>) -> f64 {
    median(runs.iter().filter_map(value).collect())
}

fn middle_of(runs: &[Connections], way: Way, linked: bool, value: impl Fn(&Stretch) -> f64) -> f64 {
    middle(runs, |run| run.stretch(way, linked).map(&value))
}

/// The share of a mode; none if nothing was measured.
pub(in crate::bench_replication) fn share(runs: &[Connections], subject: Subject) -> Option<Share> {
    let way = Way::Forwarded(subject);
    runs.iter().find_map(|run| run.stretch(way, true))?;
    let held = runs.iter().filter_map(|run| run.held(subject)).min_by(f64::total_cmp);
    Some(Share {
        per_second: middle_of(runs, way, true, Stretch::per_second),
        own_us: middle(runs, |run| run.own_us(subject)),
        sender_ns: middle(runs, |run| run.sender_ns(subject)),
        linked_us: middle(runs, |run| run.linked_us(subject)),
        held: held.unwrap_or(f64::NAN),
        untold: runs.iter().filter_map(|run| run.stretch(way, true)).map(|stretch| stretch.untold).sum(),
    })
}

/// The table.
#[must_use]
pub fn render(runs: &[Connections]) -> String {
    let mut table = Table::new(&[
        ("mode", Align::Left),
        ("connections/s", Align::Right),
        ("least, of the direct way's", Align::Right),
        ("packets each", Align::Right),
        ("machine, directly, µs", Align::Right),
        ("by the hop, µs", Align::Right),
        ("forwarding's own, µs", Align::Right),
        ("sender ns, forgetting included", Align::Right),
        ("told each", Align::Right),
        ("forgotten each", Align::Right),
        ("untold", Align::Right),
        ("share", Align::Right),
        ("machine, more when told, µs", Align::Right),
    ]);
    for subject in Subject::ALL {
        let Some(share) = share(runs, subject) else { continue };
        let way = Way::Forwarded(subject);
        table.row(vec![
            subject.name().to_owned(),
            format!("{:.0}", share.per_second),
            format!("{:.0} %", share.held * 100.0),
            format!("{:.1}", middle_of(runs, way, true, |stretch| stretch.packets_each)),
            format!("{:.2}", middle_of(runs, Way::Direct, false, Stretch::busy_us)),
            format!("{:.2}", middle_of(runs, way, false, Stretch::busy_us)),
            format!("{:.2}", share.own_us),
            format!("{:.0}", share.sender_ns),
            format!("{:.2}", middle_of(runs, way, true, |stretch| stretch.told_each)),
            format!("{:.2}", middle_of(runs, way, true, |stretch| stretch.forgotten_each)),
            share.untold.to_string(),
            format!("{:.1} %", share.part() * 100.0),
            format!("{:.2}", share.linked_us),
        ]);
    }
    let mut text = table.render();
    text.push_str(
        "\n  the sender's time goes on until every flow is deleted, and the other node has heard so, without what the thread takes anyway; \
         the machine's is taken while connections come and go\n",
    );
    text
}

#[cfg(test)]
pub(in crate::bench_replication) mod tests {
    use std::time::Duration;

    use super::*;

    /// A run of a second for each way, of 10,000 connections: directly they take 40 µs of the machine, by the hop so many more, and of the
    /// thread that tells so many nanoseconds, those that do not count included, beside 200 µs that it takes anyway in a second.
    pub(in crate::bench_replication) fn run(own_us: u64, sender_ns: u64) -> Connections {
        let (count, all) = (10_000, 11_000);
        let stretch = |way: Way, linked: bool| {
            let (own_us, sender_ns, seconds) =
                if way == Way::Direct { (0, 0, 8) } else { (own_us, sender_ns, 12) };
            // What is told costs the machine twice what it costs the sender.
            let told_ns = if linked { 2 * sender_ns } else { 0 };
            let sender = Duration::from_micros(200 * seconds) + Duration::from_nanos(sender_ns * all);
            Stretch {
                way,
                linked,
                count,
                wall: Duration::from_secs(1),
                busy: Duration::from_nanos(((40 + own_us) * 1000 + told_ns) * count),
                all,
                sender: linked.then_some(sender),
                until_forgotten: Duration::from_secs(seconds),
                packets_each: 10.0,
                told_each: 2.0,
                forgotten_each: 1.0,
                untold: 0,
            }
        };
        let stretches = [false, true].into_iter().flat_map(|linked| Way::ALL.map(|way| stretch(way, linked)));
        Connections { stretches: stretches.collect() }
    }

    #[test]
    fn the_share_is_of_what_the_machine_spends_more_than_directly() {
        // The middle one counts.
        let runs = [run(10, 400), run(90, 100), run(5, 900)];
        let share = share(&runs, Subject::Nat).unwrap();
        assert!((share.own_us - 10.0).abs() < 1e-6 && (share.sender_ns - 400.0).abs() < 1e-6, "{share:?}");
        assert!((share.part() - 0.04).abs() < 1e-9 && (share.per_second - 10_000.0).abs() < 1e-6);
        assert!((share.linked_part() - 0.08).abs() < 1e-9, "{share:?}");
        let linked = runs[0].linked_us(Subject::Dsr).unwrap();
        assert!((linked - 0.8).abs() < 1e-6, "{linked}");
        let text = render(&runs);
        let cells: Vec<&str> = text.lines().nth(2).unwrap_or_default().split_whitespace().collect();
        let wanted = [
            "nat", "10000", "100", "%", "10.0", "40.00", "50.00", "10.00", "400", "2.00", "1.00", "0", "4.0",
            "%", "0.80",
        ];
        assert_eq!(cells, wanted, "{text}");
        assert!(text.lines().nth(3).is_some_and(|line| line.contains("dsr")), "{text}");
    }

    #[test]
    fn the_slowest_way_of_the_worst_run_says_whether_the_rate_was_held() {
        let held = |way: Way, linked: bool| {
            let mut runs = [run(10, 400), run(10, 400)];
            let slow = |stretch: &&mut Stretch| stretch.way == way && stretch.linked == linked;
            runs[1].stretches.iter_mut().find(slow).unwrap().wall = Duration::from_secs(2);
            Subject::ALL.map(|subject| share(&runs, subject).unwrap().held)
        };
        for linked in [false, true] {
            assert_eq!(held(Way::Direct, linked), [0.5, 0.5]);
            assert_eq!(held(Way::Forwarded(Subject::Nat), linked), [0.5, 1.0]);
            assert_eq!(held(Way::Forwarded(Subject::Dsr), linked), [1.0, 0.5]);
        }
    }

    #[test]
    fn nothing_is_no_share() {
        assert!(share(&[], Subject::Nat).is_none());
        // Where the hop seems to cost nothing, nothing can be told.
        let share = share(&[run(0, 400)], Subject::Nat).unwrap();
        assert!(share.part().is_nan() && share.linked_part().is_nan(), "{share:?}");
    }
}
