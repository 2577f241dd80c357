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
        let place = index.checked_sub(act.first);
        let went_on = act.lasting.iter().filter_map(|one| place.and_then(|place| lost(one, place, is_loss)));
        broken.extend(went_on.map(|what| format!("{name}: {what}")));
    }
    broken
}

/// What of one mode did not outlast an event of the act that it should have.
fn lost(one: &Lasting, place: usize, is_loss: bool) -> Option<String> {
    let after = one.after.get(place).filter(|_| one.outlives_node || !is_loss)?;
    let (mode, all) = (&one.name, one.connections());
    if after.alive < all {
        return Some(format!("of {all} connections through {mode} only {} went on", after.alive));
    }
    // One that has come to its end by then need not go on.
    (!after.downloads && !one.whole).then(|| format!("the download through {mode} did not go on"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use common::time::Instant;

    use super::super::page::After;
    use super::*;
    use crate::lab::clock::Window;
    use crate::lab::probe::{DownloadReport, EchoConnection, EchoReport};
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

    fn lasting(name: &str, outlives_node: bool, alive: [usize; 2], downloads: [bool; 2]) -> Lasting {
        let after = [0, 1].map(|place| After {
            alive: alive[place],
            worst_stall: Duration::ZERO,
            downloads: downloads[place],
        });
        let connections = vec![EchoConnection::default(); 10];
        Lasting {
            name: name.to_owned(),
            description: String::new(),
            outlives_node,
            after: after.to_vec(),
            echo: EchoReport { connections, ..EchoReport::default() },
            download: DownloadReport::default(),
            whole: false,
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
        // What a proxy had in its sockets is gone with its node.
        let act = act(vec![
            lasting("tcp", false, [10, 0], [true, false]),
            lasting("nat", true, [10, 10], [true, true]),
        ]);
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
        let act = act(vec![
            lasting("tcp", false, [9, 0], [true, false]),
            lasting("nat", true, [10, 10], [false, false]),
            lasting("dsr", true, [10, 8], [true, true]),
        ]);
        assert_eq!(
            broken(&chapters, &act, INTERVAL),
            [
                "an event: 1 of 1000 new connections failed (1 reset)",
                "an event: both nodes answered for 103 ms, at most 102 ms",
                "an event: of 10 connections through tcp only 9 went on",
                "an event: the download through nat did not go on",
                "an event: no new connection was served for 1200 ms, at most 502 ms",
                "an event: the download through nat did not go on",
                "an event: of 10 connections through dsr only 8 went on",
            ]
        );
    }
}
