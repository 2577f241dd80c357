//! Two replicas, each with a model of a shell and its live tables, on a stream that is cut at any byte, with clocks of their own,
//! restarts, conflicting changes, slow and full tables and garbage. Four promises are checked:
//!
//! - after quiescence both nodes have the same entries, but for those whose deletion found no tombstone, and these too after another session;
//! - an entry that was acknowledged is on both nodes, until one of them loses its memory;
//! - no node chooses from another ring before the other node knows it and has all that was changed before, but after the wait or without a
//!   session in step;
//! - whatever happens, memory stays within its bounds.
//!
//! Everything follows from the seed: `TANDEM_SIM_SEED=1234 cargo test -p lbd-core replication::sim -- --nocapture` replays one and
//! prints what happened. `TANDEM_SIM_RUNS` sets how many are run.

mod check;
mod host;
mod link;
mod rings;
mod world;

use world::{Variant, World};

/// Shells that are broken on purpose: what proves that the checkers can object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sabotage {
    None,
    /// Answers before it has written.
    AnswersEarly,
    /// Writes no deletions.
    KeepsDeleted,
    /// Forgets to write some entries.
    LosesPuts,
    /// Scans miss an entry.
    ScansBadly,
    /// Chooses from another ring without waiting for the other node.
    SwitchesAtOnce,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn run(seed: u64, sabotage: Sabotage, talkative: bool) -> Result<World, String> {
    let mut world = World::new(seed, Variant::draw(seed), sabotage, talkative);
    world.play().map_err(|problem| format!("seed {seed}: {problem}"))?;
    Ok(world)
}

#[test]
fn promises_hold_whatever_happens() {
    if let Some(seed) = number("TANDEM_SIM_SEED") {
        run(seed, Sabotage::None, true).unwrap();
        return;
    }
    let runs = number("TANDEM_SIM_RUNS").unwrap_or(2000);
    let failures: Vec<String> = (0..runs).filter_map(|seed| run(seed, Sabotage::None, false).err()).collect();
    let shown = &failures[..failures.len().min(5)];
    assert!(failures.is_empty(), "{} of {runs} runs failed: {shown:#?}", failures.len());
}

#[test]
fn runs_are_repeatable() {
    for seed in 0..20 {
        let once = run(seed, Sabotage::None, false).unwrap();
        let again = run(seed, Sabotage::None, false).unwrap();
        assert_eq!(once.digest(), again.digest());
    }
}

/// What the seeds have to have met, or they say little.
#[test]
fn runs_meet_everything() {
    let mut counters = Vec::new();
    for seed in 0..600 {
        counters.extend(run(seed, Sabotage::None, false).unwrap().counters());
    }
    let met = |of: fn(&super::Counters) -> u64| counters.iter().filter(|counters| of(counters) > 0).count();
    let all = [
        ("sessions", met(|c| c.sessions)),
        ("snapshots", met(|c| c.snapshots_received)),
        ("resyncs", met(|c| c.resyncs)),
        ("swept", met(|c| c.swept)),
        ("adopted", met(|c| c.adopted)),
        ("older", met(|c| c.skipped.older)),
        ("table_full", met(|c| c.skipped.table_full)),
        ("tombstones_full", met(|c| c.tombstones_full)),
        ("refused", met(|c| c.skipped.refused)),
        ("rings_acknowledged", met(|c| c.rings_acknowledged)),
        ("rings_timed_out", met(|c| c.rings_timed_out)),
        ("rings_alone", met(|c| c.rings_alone)),
        ("malformed", met(|c| c.ended[super::SessionEnd::Malformed.index()])),
        ("oversized", met(|c| c.ended[super::SessionEnd::Oversized.index()])),
        ("idle", met(|c| c.ended[super::SessionEnd::Idle.index()])),
        ("disconnected", met(|c| c.ended[super::SessionEnd::Disconnected.index()])),
    ];
    for (what, runs) in all {
        assert!(runs >= 3, "{what} was met in {runs} lives only: {all:?}");
    }
}

#[test]
fn checkers_object_to_broken_shells() {
    use Sabotage::{AnswersEarly, KeepsDeleted, LosesPuts, ScansBadly, SwitchesAtOnce};
    for sabotage in [AnswersEarly, KeepsDeleted, LosesPuts, ScansBadly, SwitchesAtOnce] {
        let found = (0..300).any(|seed| run(seed, sabotage, false).is_err());
        assert!(found, "nobody objected to a shell that {sabotage:?}");
    }
}
