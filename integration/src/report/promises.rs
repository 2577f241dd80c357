//! What was seen in a demonstration although it was not to happen.

use std::time::Duration;

use super::page::{Act, Chapter, Lasting};
use super::statistics::ms;
use crate::lab::timeline::EventKind;

/// After so many intervals between advertisements a node that was lost has been missed, and the other one serves.
const LOSS_INTERVALS_MAX: u32 = 5;

/// What of each event did not come about as it should, a sentence each. `interval` is that of the advertisements; for as long as the probe itself
/// was late nothing can be told.
#[must_use]
pub fn broken(chapters: &[Chapter], act: &Act, interval: Duration) -> Vec<String> {
    let mut broken = Vec::new();
    for (index, chapter) in chapters.iter().enumerate() {
        let (name, measured) = (&chapter.name, &chapter.measured);
        let (is_loss, late) = (chapter.kind == EventKind::Fault, measured.pause);
        let (gap_max, overlap_max) = (interval * LOSS_INTERVALS_MAX + late, interval + late);
        if !is_loss && measured.failed > 0 {
            let (failed, all) = (measured.failed, measured.attempts);
            broken.push(format!(
                "{name}: {failed} of {all} new connections failed ({})",
                measured.failures_text()
            ));
        }
        if is_loss && measured.gap > gap_max {
            let (gap, max) = (ms(measured.gap), ms(gap_max));
            broken.push(format!("{name}: no new connection was served for {gap} ms, at most {max} ms"));
        }
        if measured.overlap > overlap_max {
            let (overlap, max) = (ms(measured.overlap), ms(overlap_max));
            broken.push(format!("{name}: both nodes answered for {overlap} ms, at most {max} ms"));
        }
        let Some(place) = index.checked_sub(act.first) else { continue };
        let lost = act.lasting.iter().flat_map(|one| lost(one, place, is_loss));
        broken.extend(lost.map(|what| format!("{name}: {what}")));
    }
    let spoiled = act.lasting.iter().flat_map(spoiled);
    broken.extend(spoiled.map(|what| format!("in the end: {what}")));
    broken
}

/// What of one mode did not outlast an event of the act.
fn lost(one: &Lasting, place: usize, is_loss: bool) -> Vec<String> {
    let Some(after) = one.after.get(place) else { return Vec::new() };
    let (mode, all, mut lost) = (&one.name, one.connections(), Vec::new());
    if after.alive < all {
        lost.push(format!("of {all} connections through {mode} only {} went on", after.alive));
    }
    // One that has come to its end by then need not go on.
    if !after.downloads && !one.whole {
        lost.push(format!("the download through {mode} did not go on"));
    }
    let Some(by) = &one.datagrams_by else { return lost };
    let (clients, datagrams) = (one.clients, one.lost(place));
    if after.answered < clients {
        let answered = after.answered;
        lost.push(format!(
            "of {clients} clients with datagrams through {by} only {answered} were answered again"
        ));
    }
    // Nobody repeats what is on its way when a node is lost.
    if datagrams > 0 && !is_loss {
        lost.push(format!("{datagrams} datagrams through {by} were lost"));
    }
    lost
}

/// What of one mode is not as it should be when all is over.
fn spoiled(one: &Lasting) -> Vec<String> {
    let (mode, mut spoiled) = (&one.name, Vec::new());
    let left = one.connections() - one.echo.broken();
    let last = one.after.last().map_or(one.connections(), |after| after.alive);
    if left < last {
        spoiled.push(format!("of {last} connections through {mode} only {left} were left"));
    }
    if !one.whole {
        spoiled.push(format!("the download through {mode}: {}", one.download_text()));
    }
    spoiled
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use common::time::Instant;

    use super::super::page::After;
    use super::*;
    use crate::lab::clock::Window;
    use crate::lab::probe::{DownloadReport, EchoConnection, EchoReport, Failure};
    use crate::scenario::Measured;

    fn chapter(kind: EventKind, failed: usize, gap_ms: u64) -> Chapter {
        let at = Instant::from_nanos(1);
        let measured = Measured {
            attempts: 1000,
            failed,
            failures: BTreeMap::from([("reset".to_owned(), failed)]),
            gap: Duration::from_millis(gap_ms),
            noise: Duration::ZERO,
            pause: Duration::from_millis(2),
            recovery: None,
            answered: Vec::new(),
            overlap: Duration::ZERO,
            by_target: BTreeMap::new(),
        };
        Chapter {
            name: "an event".to_owned(),
            description: String::new(),
            kind,
            event: Window { before: at, after: at },
            measured,
            close_up_until: None,
            names: BTreeMap::new(),
        }
    }

    fn lasting(name: &str, alive: [usize; 2], downloads: [bool; 2]) -> Lasting {
        let after = [0, 1].map(|place| After {
            alive: alive[place],
            worst_stall: Duration::ZERO,
            downloads: downloads[place],
            answered: 5,
            lost_so_far: 0,
            silence: Duration::ZERO,
        });
        let connections = vec![EchoConnection::default(); 10];
        Lasting {
            name: name.to_owned(),
            description: String::new(),
            after: after.to_vec(),
            echo: EchoReport { connections, ..EchoReport::default() },
            download: DownloadReport::default(),
            whole: true,
            datagrams_by: (name != "http").then(|| name.replace("tcp", "udp")),
            clients: 5,
        }
    }

    fn act(lasting: Vec<Lasting>) -> Act {
        let at = Instant::from_nanos(1);
        Act { first: 1, begun: at, ended: at, lasting }
    }

    const INTERVAL: Duration = Duration::from_millis(100);

    #[test]
    fn what_goes_as_it_should_is_not_objected_to() {
        let chapters = [
            chapter(EventKind::Heal, 0, 5),
            chapter(EventKind::Action, 0, 2),
            chapter(EventKind::Fault, 361, 370),
        ];
        // A datagram that is on its way when a node is lost is lost with it; and a download may come to its end.
        let mut udp = lasting("tcp", [10, 10], [true, false]);
        udp.after[1].lost_so_far = 8;
        // And where there are no datagrams, none come back.
        let mut http = lasting("http", [10, 10], [true, true]);
        http.after[1].answered = 0;
        let act = act(vec![udp, http, lasting("nat", [10, 10], [true, true])]);
        assert_eq!(broken(&chapters, &act, INTERVAL), [""; 0]);
    }

    #[test]
    fn everything_that_was_lost_is_said() {
        let mut chapters = [
            chapter(EventKind::Action, 1, 2),
            chapter(EventKind::Action, 0, 2),
            chapter(EventKind::Fault, 900, 1200),
        ];
        chapters[1].measured.overlap = Duration::from_millis(103);
        let mut tcp = lasting("tcp", [9, 9], [true, true]);
        tcp.after[0].lost_so_far = 2;
        let mut http = lasting("http", [10, 0], [true, false]);
        http.whole = false;
        let mut nat = lasting("nat", [10, 10], [false, false]);
        (nat.whole, nat.after[1].answered) = (false, 4);
        let dsr = lasting("dsr", [10, 8], [true, true]);
        let act = act(vec![tcp, http, nat, dsr]);
        assert_eq!(
            broken(&chapters, &act, INTERVAL),
            [
                "an event: 1 of 1000 new connections failed (1 reset)",
                "an event: both nodes answered for 103 ms, at most 102 ms",
                "an event: of 10 connections through tcp only 9 went on",
                "an event: 2 datagrams through udp were lost",
                "an event: the download through nat did not go on",
                "an event: no new connection was served for 1200 ms, at most 502 ms",
                "an event: of 10 connections through tcp only 9 went on",
                "an event: of 10 connections through http only 0 went on",
                "an event: the download through http did not go on",
                "an event: the download through nat did not go on",
                "an event: of 5 clients with datagrams through nat only 4 were answered again",
                "an event: of 10 connections through dsr only 8 went on",
                "in the end: the download through http: 0 MiB, WRONG SUM",
                "in the end: the download through nat: 0 MiB, WRONG SUM",
            ]
        );
    }

    #[test]
    fn what_breaks_after_the_last_event_is_said_and_a_download_that_went_on_to_a_wrong_sum() {
        let chapters = [
            chapter(EventKind::Heal, 0, 5),
            chapter(EventKind::Action, 0, 2),
            chapter(EventKind::Fault, 361, 370),
        ];
        let mut dsr = lasting("dsr", [10, 10], [true, true]);
        dsr.whole = false;
        dsr.echo.connections[3].broken = Some((Instant::from_nanos(2), Failure::Reset));
        assert_eq!(
            broken(&chapters, &act(vec![dsr]), INTERVAL),
            [
                "in the end: of 10 connections through dsr only 9 were left",
                "in the end: the download through dsr: 0 MiB, WRONG SUM",
            ]
        );
    }
}
