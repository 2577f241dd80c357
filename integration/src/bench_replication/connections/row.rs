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
}

impl Share {
    /// The latter as a part of the former. Not a number where there is nothing to be a part of.
    pub(in crate::bench_replication) fn part(self) -> f64 {
        if self.own_us > 0.0 { self.sender_ns / (self.own_us * 1e3) } else { f64::NAN }
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
    Some(Share {
        per_second: middle_of(runs, way, true, Stretch::per_second),
        own_us: middle(runs, |run| run.own_us(subject)),
        sender_ns: middle(runs, |run| run.sender_ns(subject)),
    })
}

/// The table.
#[must_use]
pub fn render(runs: &[Connections]) -> String {
    let mut table = Table::new(&[
        ("mode", Align::Left),
        ("connections/s", Align::Right),
        ("packets each", Align::Right),
        ("machine, directly, µs", Align::Right),
        ("by the hop, µs", Align::Right),
        ("forwarding's own, µs", Align::Right),
        ("sender ns", Align::Right),
        ("told each", Align::Right),
        ("untold", Align::Right),
        ("share", Align::Right),
        ("machine, more when told, µs", Align::Right),
    ]);
    for subject in Subject::ALL {
        let Some(share) = share(runs, subject) else { continue };
        let way = Way::Forwarded(subject);
        let untold = runs.iter().filter_map(|run| run.stretch(way, true)).map(|stretch| stretch.untold);
        table.row(vec![
            subject.name().to_owned(),
            format!("{:.0}", share.per_second),
            format!("{:.1}", middle_of(runs, way, true, |stretch| stretch.packets_each)),
            format!("{:.2}", middle_of(runs, Way::Direct, false, Stretch::busy_us)),
            format!("{:.2}", middle_of(runs, way, false, Stretch::busy_us)),
            format!("{:.2}", share.own_us),
            format!("{:.0}", share.sender_ns),
            format!("{:.2}", middle_of(runs, way, true, |stretch| stretch.told_each)),
            untold.max().unwrap_or(0).to_string(),
            format!("{:.1} %", share.part() * 100.0),
            format!("{:.2}", middle(runs, |run| run.linked_us(subject))),
        ]);
    }
    table.render()
}

#[cfg(test)]
pub(in crate::bench_replication) mod tests {
    use std::time::Duration;

    use super::*;

    /// A run of a second for each way, of 20,000 connections: directly they take 40 µs of the machine, by the hop so many more, and of the
    /// thread that tells so many nanoseconds, beside 1 ms that it takes anyway.
    pub(in crate::bench_replication) fn run(own_us: u64, sender_ns: u64) -> Connections {
        let count = 20_000;
        let stretch = |way: Way, linked: bool| {
            let (own_us, sender_ns) = if way == Way::Direct { (0, 0) } else { (own_us, sender_ns) };
            // What is told costs the machine twice what it costs the sender.
            let told_ns = if linked { 2 * sender_ns } else { 0 };
            let sender = Duration::from_millis(1) + Duration::from_nanos(sender_ns * count);
            Stretch {
                way,
                linked,
                count,
                wall: Duration::from_secs(1),
                busy: Duration::from_nanos(((40 + own_us) * 1000 + told_ns) * count),
                sender: linked.then_some(sender),
                packets_each: 10.0,
                told_each: 2.0,
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
        assert!((share.part() - 0.04).abs() < 1e-9 && (share.per_second - 20_000.0).abs() < 1e-6);
        let linked = runs[0].linked_us(Subject::Dsr).unwrap();
        assert!((linked - 0.8).abs() < 1e-6, "{linked}");
        let text = render(&runs);
        let cells: Vec<&str> = text.lines().nth(2).unwrap_or_default().split_whitespace().collect();
        let wanted =
            ["nat", "20000", "10.0", "40.00", "50.00", "10.00", "400", "2.00", "0", "4.0", "%", "0.80"];
        assert_eq!(cells, wanted, "{text}");
        assert_eq!(text.lines().count(), 4, "{text}");
    }

    #[test]
    fn nothing_is_no_share() {
        assert!(share(&[], Subject::Nat).is_none());
        // Where the hop seems to cost nothing, nothing can be told.
        assert!(share(&[run(0, 400)], Subject::Nat).is_some_and(|share| share.part().is_nan()));
    }
}
