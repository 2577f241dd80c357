//! The runs together, and whether the targets were met.

use std::time::Duration;

use super::connections::{Connections, Share, share as share_of_machine};
use super::{FLOWS, Rival, Run, Snapshot, Stage, Subject};
use crate::report::statistics::ms;
use crate::report::table::{Align, Table};

/// What has to be reached: flows each second with everything told and this lag.
const RATE_MIN: f64 = 200_000.0;
const LAG_MAX: Duration = Duration::from_millis(20);
/// The last flows are told of a little after they begin, which the rate is reckoned with.
const NEARLY: f64 = 0.98;
/// A snapshot of [`FLOWS`].
const SNAPSHOT_MAX: Duration = Duration::from_secs(5);
/// By how much longer than before a message of other traffic may wait meanwhile: the load, the targets and the `lbd` that tells share a
/// processor here, which each of them has for some milliseconds at a time.
const STALL_ADDED_MAX: Duration = Duration::from_millis(20);
/// What a packet of a known flow may take meanwhile, as a multiple of before: the walk through the table takes the caches away from it.
const PACKET_RATIO_MAX: f64 = 1.5;
/// Replication's part of forwarding's own processor time, at this rate: of what the machine spends on a connection more than on the direct
/// way. Its part of what the program takes by itself, without all that brings packets to it and away, is shown beside it.
const SHARE_MAX: f64 = 0.05;
const SHARE_AT: u32 = 20_000;
/// With real connections that is measured at a rate which every way holds, as near to the direct way's as this: whatever else the machine does
/// is shared by fewer connections where a way is slower, and would be taken for forwarding's own. With fewer in a second each costs more to
/// tell, since a message has fewer of them.
const HELD_MIN: f64 = 0.9;
/// Packets of a connection that ends after one request: those that begin it, and others.
const PACKETS_KNOWN: f64 = 8.0;

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn of(runs: &[Run], subject: Subject) -> impl Iterator<Item = &Run> {
    runs.iter().filter(move |run| run.subject == subject)
}

fn stages(runs: &[Run], subject: Subject, offered: u32) -> Vec<&Stage> {
    let all = of(runs, subject).flat_map(|run| &run.stages);
    all.filter(|stage| stage.offered == offered).collect()
}

fn median_of(stages: &[&Stage], value: impl Fn(&Stage) -> f64) -> f64 {
    median(stages.iter().map(|stage| value(stage)).collect())
}

/// What the telling node spends on replication, as a part of what its program takes for a connection of ten packets.
fn share(stages: &[&Stage]) -> f64 {
    median_of(stages, |stage| stage.sender_ns / (stage.forwarding_ns + PACKETS_KNOWN * stage.known_ns))
}

/// The tables.
#[must_use]
pub fn render(runs: &[Run], rivals: &[Rival]) -> String {
    let mut table = Table::new(&[
        ("mode", Align::Left),
        ("offered/s", Align::Right),
        ("arrived/s", Align::Right),
        ("lost", Align::Right),
        ("lag ms 50 %", Align::Right),
        ("99 %", Align::Right),
        ("sender ns/flow", Align::Right),
        ("receiver ns/flow", Align::Right),
        ("flows/s of a core", Align::Right),
        ("forwarding ns/flow", Align::Right),
        ("share", Align::Right),
    ]);
    for subject in Subject::ALL {
        for (offered, _) in super::OFFERED {
            let stages = stages(runs, subject, offered);
            if stages.is_empty() {
                continue;
            }
            let lost = stages.iter().map(|stage| stage.lost()).max().unwrap_or(0);
            let lag = |place: usize| {
                format!("{:.1}", median_of(&stages, |stage| stage.lag[place].as_secs_f64() * 1e3))
            };
            let slower = median_of(&stages, |stage| stage.sender_ns.max(stage.receiver_ns));
            table.row(vec![
                subject.name().to_owned(),
                offered.to_string(),
                format!("{:.0}", median_of(&stages, Stage::rate)),
                lost.to_string(),
                lag(0),
                lag(1),
                format!("{:.0}", median_of(&stages, |stage| stage.sender_ns)),
                format!("{:.0}", median_of(&stages, |stage| stage.receiver_ns)),
                format!("{:.0}", 1e9 / slower),
                format!("{:.0}", median_of(&stages, |stage| stage.forwarding_ns)),
                format!("{:.0} %", share(&stages) * 100.0),
            ]);
        }
    }
    if !rivals.is_empty() {
        let middle = |value: fn(&Rival) -> f64| format!("{:.0}", median(rivals.iter().map(value).collect()));
        let mut cells: Vec<String> = ["conntrackd", "as many as can be"].map(str::to_owned).to_vec();
        #[expect(clippy::cast_precision_loss, reason = "a number of some thousands")]
        cells.push(middle(|rival| rival.arrived as f64 / rival.arrived_in.as_secs_f64()));
        cells.extend(["0", "-", "-"].map(str::to_owned));
        cells.extend([middle(|rival| rival.sender_ns), middle(|rival| rival.receiver_ns)]);
        cells.push(middle(Rival::of_a_core));
        cells.extend(["-", "-"].map(str::to_owned));
        table.row(cells);
    }
    let mut text = table.render();
    for subject in Subject::ALL {
        let longest = of(runs, subject).map(|run| run.snapshot.synced_in).max();
        let Some(longest) = longest else { continue };
        let middle = |value: fn(&Run) -> Duration| {
            ms(Duration::from_secs_f64(median(
                of(runs, subject).map(|run| value(run).as_secs_f64()).collect(),
            )))
        };
        text.push_str(&format!(
            "\n  {}: snapshot of {FLOWS} flows to a cold node in {} ms (longest {}), {} ms of the sender, {} ms of the receiver; \
             traffic meanwhile stalled for {} ms, before {} ms\n",
            subject.name(),
            middle(|run| run.snapshot.synced_in),
            ms(longest),
            middle(|run| run.snapshot.sender),
            middle(|run| run.snapshot.receiver),
            middle(|run| run.snapshot.stall),
            middle(|run| run.snapshot.stall_before),
        ));
    }
    text
}

/// Something that has to be reached, and what was.
struct Aim {
    subject: Subject,
    what: String,
    aim: String,
    reached: String,
    /// None of what is shown, but not judged by.
    met: Option<bool>,
}

/// All of them, of the subjects that ran.
fn aims(runs: &[Run], connections: &[Connections]) -> Vec<Aim> {
    let mut aims = Vec::new();
    for subject in Subject::ALL {
        let ran = of(runs, subject).next().is_some();
        if ran {
            aims.extend(aims_of(runs, subject));
        }
        let share = share_of_machine(connections, subject);
        if ran || share.is_some() {
            aims.push(aim_of_share(share, subject));
        }
        aims.extend(share.map(|share| whole_share(share, subject)));
    }
    aims
}

/// What telling may take of forwarding's own processor time.
fn aim_of_share(share: Option<Share>, subject: Subject) -> Aim {
    let mut what = "telling, by the sender's thread until flows are forgotten, of forwarding's own processor time: what the machine spends \
                    more than on the direct way"
        .to_owned();
    let aim = format!("≤ {:.0} % at {SHARE_AT}/s, all told", SHARE_MAX * 100.0);
    let Some(share) = share else {
        return Aim {
            subject,
            what,
            aim,
            reached: "not measured: that is `--only connections`".to_owned(),
            met: None,
        };
    };
    what.push_str(&format!(", measured at {:.0}/s", share.per_second));
    let part = share.part();
    let mut reached = format!("{:.1} % ({:.0} ns of {:.2} µs)", part * 100.0, share.sender_ns, share.own_us);
    let (is_held, is_told) = (share.held >= HELD_MIN, share.untold == 0);
    if !is_held {
        reached
            .push_str(&format!(", not held: a way had {:.0} % of the direct one's rate", share.held * 100.0));
    }
    if !is_told {
        reached.push_str(&format!(", not all told: {} changes were not", share.untold));
    }
    Aim { subject, what, aim, reached, met: Some(part <= SHARE_MAX && is_held && is_told) }
}

/// What the whole machine spends on the same.
fn whole_share(share: Share, subject: Subject) -> Aim {
    let what = "telling, by the whole machine while connections come and go: both nodes, the link and wake-ups, of the same";
    let reached =
        format!("{:.1} % ({:.2} of {:.2} µs)", share.linked_part() * 100.0, share.linked_us, share.own_us);
    let aim = "none: a difference of differences".to_owned();
    Aim { subject, what: what.to_owned(), aim, reached, met: None }
}

fn aims_of(runs: &[Run], subject: Subject) -> Vec<Aim> {
    let mut aims = Vec::new();
    let mut add = |what: &str, aim: String, reached: String, met: bool| {
        aims.push(Aim { subject, what: what.to_owned(), aim, reached, met: Some(met) });
    };
    let middle =
        |value: fn(&Snapshot) -> f64| median(of(runs, subject).map(|run| value(&run.snapshot)).collect());
    let millis =
        |value: f64| if value.is_finite() { ms(Duration::from_secs_f64(value)) } else { "–".to_owned() };

    let (rate, lost, lag) = best(runs, subject);
    add(
        "flows told each second",
        format!("≥ {RATE_MIN}, none lost"),
        format!("{rate:.0}, {lost} lost"),
        rate >= RATE_MIN * NEARLY && lost == 0,
    );
    add("lag at that rate, 99 %, ms", at_most(LAG_MAX), millis(lag), lag <= LAG_MAX.as_secs_f64());
    let whole = of(runs, subject).map(|run| run.snapshot.flows).min().unwrap_or(0);
    let synced = middle(|snapshot| snapshot.synced_in.as_secs_f64());
    add(
        &format!("snapshot of {FLOWS}, ms"),
        format!("{}, whole", at_most(SNAPSHOT_MAX)),
        format!("{}, {whole} at least", millis(synced)),
        synced <= SNAPSHOT_MAX.as_secs_f64() && whole >= u64::from(FLOWS),
    );
    let broken = of(runs, subject).map(|run| run.snapshot.broken).max().unwrap_or(0);
    add("connections that broke meanwhile", "0".to_owned(), broken.to_string(), broken == 0);
    let stall = middle(|snapshot| snapshot.stall_added().as_secs_f64());
    add(
        "stall meanwhile, more than before, ms",
        at_most(STALL_ADDED_MAX),
        millis(stall),
        stall <= STALL_ADDED_MAX.as_secs_f64(),
    );
    let ratio = middle(Snapshot::packet_ratio);
    add(
        "a packet meanwhile, times before",
        format!("≤ {PACKET_RATIO_MAX:.2}"),
        format!("{ratio:.2}"),
        ratio <= PACKET_RATIO_MAX,
    );
    let slow = stages(runs, subject, SHARE_AT);
    if !slow.is_empty() {
        let (what, reached) = (
            format!("telling, of the program's time alone for ten packets, at {SHARE_AT}/s"),
            format!("{:.0} %", share(&slow) * 100.0),
        );
        aims.push(Aim { subject, what, aim: "none: the stricter reading".to_owned(), reached, met: None });
    }
    aims
}

fn at_most(limit: Duration) -> String {
    format!("≤ {}", ms(limit))
}

/// Of the rates that are high enough, the first that everything was met at, else the first: flows told each second, the most that were
/// lost, and the lag that 99 % have at most, in seconds.
fn best(runs: &[Run], subject: Subject) -> (f64, u64, f64) {
    let high = super::OFFERED.iter().filter(|(rate, _)| f64::from(*rate) >= RATE_MIN);
    let reached = high.filter_map(|(rate, _)| {
        let stages = stages(runs, subject, *rate);
        let lost = stages.iter().map(|stage| stage.lost()).max()?;
        let lag = median_of(&stages, |stage| stage.lag[1].as_secs_f64());
        Some((median_of(&stages, Stage::rate), lost, lag))
    });
    let reached: Vec<_> = reached.collect();
    let all = |(rate, lost, lag): &&(f64, u64, f64)| {
        *rate >= RATE_MIN * NEARLY && *lost == 0 && *lag <= LAG_MAX.as_secs_f64()
    };
    reached.iter().find(all).or_else(|| reached.first()).copied().unwrap_or((0.0, 0, f64::NAN))
}

/// The aims beside what was reached.
#[must_use]
pub fn render_aims(runs: &[Run], connections: &[Connections]) -> String {
    let mut table = Table::new(&[
        ("mode", Align::Left),
        ("", Align::Left),
        ("aim", Align::Left),
        ("reached", Align::Left),
        ("result", Align::Left),
    ]);
    for aim in aims(runs, connections) {
        let result = match aim.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "not judged",
        };
        table.row(vec![aim.subject.name().to_owned(), aim.what, aim.aim, aim.reached, result.to_owned()]);
    }
    table.render()
}

/// The targets missed, a line each.
#[must_use]
pub fn render_misses(runs: &[Run], connections: &[Connections]) -> String {
    let missed = aims(runs, connections).into_iter().filter(|aim| aim.met == Some(false));
    missed
        .map(|aim| format!("  {}: {}: {}, not {}\n", aim.subject.name(), aim.what, aim.reached, aim.aim))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::connections::tests::run as connections;
    use super::super::{ConnectionsStretch, Way};
    use super::*;

    fn stage(offered: u32, lag_ms: u64) -> Stage {
        Stage {
            offered,
            begun: offered,
            begun_in: Duration::from_secs(1),
            arrived: offered,
            missing: 0,
            told: offered.into(),
            untold: 0,
            arrived_in: Duration::from_secs(1),
            lag: [1, lag_ms, lag_ms].map(Duration::from_millis),
            sender_ns: 40.0,
            receiver_ns: 2500.0,
            messages: 190,
            sleeps: 240,
            forwarding_ns: 1000.0,
            known_ns: 100.0,
        }
    }

    fn run(lag_ms: u64, synced_ms: u64) -> Run {
        let snapshot = Snapshot {
            flows: FLOWS.into(),
            synced_in: Duration::from_millis(synced_ms),
            since_start: Duration::from_millis(synced_ms),
            sender: Duration::ZERO,
            receiver: Duration::ZERO,
            stall_before: Duration::from_millis(7),
            stall: Duration::from_millis(27),
            pause: Duration::ZERO,
            packet_before_ns: 100.0,
            packet_ns: 150.0,
            broken: 0,
        };
        let stages = vec![stage(20_000, 5), stage(200_000, lag_ms)];
        Run { subject: Subject::Nat, stages, snapshot }
    }

    #[test]
    fn each_target_is_looked_at() {
        let good = [run(19, 4000)];
        assert_eq!(render_misses(&good, &[]), "");
        let table = render(&good, &[]);
        // 40 ns of 1000 + 8 * 100, and 10⁹ / 2500 flows.
        assert!(table.contains("2 %") && table.contains("400000"), "{table}");

        let ends = |text: &str, end: &str| text.lines().filter(|line| line.ends_with(end)).count();
        let alone = render_aims(&good, &[]);
        assert_eq!((ends(&alone, " met"), ends(&alone, " not judged")), (6, 2), "{alone}");
        assert!(alone.contains("not measured"), "{alone}");

        let late = [run(21, 5100)];
        assert_eq!(
            render_misses(&late, &[]),
            "  nat: lag at that rate, 99 %, ms: 21.0, not ≤ 20.0\n  \
             nat: snapshot of 1000000, ms: 5100, 1000000 at least, not ≤ 5000, whole\n"
        );
        assert_eq!(render_aims(&late, &[]).matches("MISSED").count(), 2);
        let mut lost = run(19, 4000);
        lost.stages[1].arrived -= 1;
        assert_eq!(
            render_misses(&[lost], &[]),
            "  nat: flows told each second: 199999, 1 lost, not ≥ 200000, none lost\n"
        );
        let mut untold = run(19, 4000);
        untold.stages[1].untold = 2;
        assert_eq!(render_misses(&[untold], &[]).lines().count(), 1);
        assert_eq!(render_misses(&[], &[]), "");
    }

    #[test]
    fn telling_is_judged_by_what_forwarding_costs_the_machine() {
        let mut dear = run(19, 4000);
        dear.stages[0].sender_ns = 180.0;
        let (dear, good) = ([dear], [connections(10, 490)]);
        let text = render_aims(&dear, &good);
        let strict =
            text.lines().find(|line| line.contains("of the program's time alone")).unwrap_or_default();
        assert!(strict.contains("10 %") && strict.ends_with("not judged"), "{text}");
        let judged =
            text.lines().find(|line| line.contains("more than on the direct way")).unwrap_or_default();
        assert!(judged.contains("4.9 % (490 ns of 10.00 µs)") && judged.ends_with(" met"), "{text}");
        let whole = text.lines().find(|line| line.contains("both nodes")).unwrap_or_default();
        assert!(whole.contains("9.8 % (0.98 of 10.00 µs)") && whole.ends_with(" not judged"), "{text}");
        assert_eq!(render_misses(&dear, &good), "");

        // Either mode is judged, also where nothing else was measured.
        let missed = render_misses(&[], &[connections(10, 510)]);
        assert_eq!(missed.lines().count(), 2, "{missed}");
        let line = "measured at 10000/s: 5.1 % (510 ns of 10.00 µs), not ≤ 5 % at 20000/s, all told";
        assert!(missed.contains(line), "{missed}");
        // What could not be told apart from nothing has not been reached.
        assert_eq!(render_misses(&[], &[connections(0, 1)]).lines().count(), 2);
    }

    #[test]
    fn telling_is_judged_only_where_all_ways_hold_the_rate_and_all_is_told() {
        let missed = |change: fn(&mut ConnectionsStretch)| {
            let mut runs = [connections(10, 490), connections(10, 490), connections(10, 490)];
            let is_nat = |stretch: &&mut ConnectionsStretch| {
                stretch.way == Way::Forwarded(Subject::Nat) && stretch.linked
            };
            change(runs[2].stretches.iter_mut().find(is_nat).unwrap());
            render_misses(&[], &runs)
        };
        let slow = missed(|stretch| stretch.wall = Duration::from_secs(2));
        assert!(slow.contains("not held: a way had 50 %") && slow.lines().count() == 1, "{slow}");
        assert_eq!(missed(|stretch| stretch.wall = Duration::from_millis(1100)), "");
        let untold = missed(|stretch| stretch.untold = 3);
        assert!(untold.contains("not all told: 3 changes") && untold.lines().count() == 1, "{untold}");
    }

    #[test]
    fn other_traffic_is_hardly_held_up_by_a_snapshot() {
        let missed = |change: fn(&mut Snapshot)| {
            let mut run = run(19, 4000);
            change(&mut run.snapshot);
            render_misses(&[run], &[])
        };
        let stall = missed(|snapshot| snapshot.stall = Duration::from_millis(28));
        assert_eq!(stall, "  nat: stall meanwhile, more than before, ms: 21.0, not ≤ 20.0\n");
        let late = missed(|snapshot| {
            (snapshot.stall, snapshot.pause) = (Duration::from_millis(28), Duration::from_millis(8));
        });
        assert_eq!(late, "", "the traffic was late itself");
        let packet = missed(|snapshot| snapshot.packet_ns = 151.0);
        assert_eq!(packet, "  nat: a packet meanwhile, times before: 1.51, not ≤ 1.50\n");
        // What was not measured has not been reached.
        assert!(!missed(|snapshot| snapshot.packet_ns = f64::NAN).is_empty());
        assert!(!missed(|snapshot| snapshot.broken = 1).is_empty());
        assert!(!missed(|snapshot| snapshot.flows -= 1).is_empty());
    }
}
