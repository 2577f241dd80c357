//! The runs together, and whether the targets were met.

use std::time::Duration;

use super::{FLOWS, Rival, Run, Stage, Subject};
use crate::report::statistics::ms;
use crate::report::table::{Align, Table};

/// What has to be reached: flows each second with everything told and this lag.
const RATE_MIN: f64 = 200_000.0;
const LAG_MAX: Duration = Duration::from_millis(20);
/// A snapshot of [`FLOWS`].
const SNAPSHOT_MAX: Duration = Duration::from_secs(5);
/// Replication's part of forwarding's own time, at this rate.
const SHARE_MAX: f64 = 0.05;
const SHARE_AT: u32 = 20_000;
/// Packets of a connection that ends after one request: those that begin it, and others.
const PACKETS_KNOWN: f64 = 8.0;

fn median(mut values: Vec<f64>) -> f64 {
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
            let lost =
                stages.iter().map(|stage| stage.begun.saturating_sub(stage.arrived)).max().unwrap_or(0);
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

/// The targets missed, a line each.
#[must_use]
pub fn render_misses(runs: &[Run]) -> String {
    let mut missed = String::new();
    let mut miss = |text: String| missed.push_str(&format!("  {text}\n"));
    for subject in Subject::ALL {
        let name = subject.name();
        let enough =
            super::OFFERED.iter().filter(|(rate, _)| f64::from(*rate) >= RATE_MIN).any(|(rate, _)| {
                let stages = stages(runs, subject, *rate);
                let whole = stages.iter().all(|stage| stage.is_whole());
                let fast = median_of(&stages, Stage::rate) >= RATE_MIN * 0.98;
                !stages.is_empty()
                    && whole
                    && fast
                    && median_of(&stages, |it| it.lag[1].as_secs_f64()) <= LAG_MAX.as_secs_f64()
            });
        if of(runs, subject).next().is_some() && !enough {
            miss(format!("{name}: not {RATE_MIN} flows/s, all told, with a lag of {} ms", ms(LAG_MAX)));
        }
        let slow = stages(runs, subject, SHARE_AT);
        if !slow.is_empty() && share(&slow) > SHARE_MAX {
            miss(format!("{name}: replication takes {:.0} % of forwarding's own time", share(&slow) * 100.0));
        }
        let broken =
            of(runs, subject).any(|run| run.snapshot.broken > 0 || run.snapshot.flows < u64::from(FLOWS));
        if broken {
            miss(format!("{name}: traffic was hurt by a snapshot, or flows were missing in it"));
        }
        let snapshot = median(of(runs, subject).map(|run| run.snapshot.synced_in.as_secs_f64()).collect());
        if snapshot > SNAPSHOT_MAX.as_secs_f64() {
            miss(format!("{name}: a snapshot takes {snapshot:.1} s"));
        }
    }
    missed
}

#[cfg(test)]
mod tests {
    use super::super::Snapshot;
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
            stall_before: Duration::ZERO,
            stall: Duration::ZERO,
            broken: 0,
        };
        let stages = vec![stage(20_000, 5), stage(200_000, lag_ms)];
        Run { subject: Subject::Nat, stages, snapshot }
    }

    #[test]
    fn each_target_is_looked_at() {
        let good = [run(19, 4000)];
        assert_eq!(render_misses(&good), "");
        let table = render(&good, &[]);
        // 40 ns of 1000 + 8 * 100, and 10⁹ / 2500 flows.
        assert!(table.contains("2 %") && table.contains("400000"), "{table}");

        let late = render_misses(&[run(21, 5100)]);
        assert_eq!(
            late,
            "  nat: not 200000 flows/s, all told, with a lag of 20.0 ms\n  nat: a snapshot takes 5.1 s\n"
        );
        let mut lost = run(19, 4000);
        lost.stages[1].arrived -= 1;
        assert_eq!(render_misses(&[lost]).lines().count(), 1);
        let mut dear = run(19, 4000);
        dear.stages[0].sender_ns = 180.0;
        assert_eq!(render_misses(&[dear]), "  nat: replication takes 10 % of forwarding's own time\n");
    }
}
