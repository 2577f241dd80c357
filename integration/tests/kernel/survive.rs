//! What the kernel forwards survives a node: hundreds of connections and a download in progress, when every process of the active node
//! is killed at once, the one that watches the others too, and when it loses its power; and none of them stands still for longer than that takes.
//! Over a planned move hardly any does, of those that are proxied, too.

use integration::bench_survive::{Case, Strike};
use integration::lab::Result;
use integration::scenario::System;
use integration::scenario::lasting::Mode;

const CONNECTIONS: usize = 500;

fn survives(strike: Strike, mode: Mode) -> Result<()> {
    let outcome = Case { strike, mode, system: System::Tandem }.run_with(CONNECTIONS)?;
    assert_eq!(outcome.survived, CONNECTIONS, "{outcome}");
    assert!(outcome.download_whole && outcome.detection.is_some(), "{outcome}");
    assert!(outcome.problems.is_empty(), "{outcome}");
    let stall_max = outcome.stall_max();
    assert!(stall_max.is_some_and(|max| outcome.worst_stall <= max), "at most {stall_max:?}: {outcome}");
    Ok(())
}

#[test]
fn nat_survives_the_death_of_every_process() -> Result<()> {
    survives(Strike::Sigkill, Mode::Nat)
}

#[test]
fn dsr_survives_the_death_of_every_process() -> Result<()> {
    survives(Strike::Sigkill, Mode::Dsr)
}

#[test]
fn nat_survives_a_power_loss() -> Result<()> {
    survives(Strike::PowerLoss, Mode::Nat)
}

#[test]
fn dsr_survives_a_power_loss() -> Result<()> {
    survives(Strike::PowerLoss, Mode::Dsr)
}

#[test]
fn what_is_forwarded_and_what_is_proxied_survive_a_switchover() -> Result<()> {
    survives(Strike::Switchover, Mode::Nat)?;
    survives(Strike::Switchover, Mode::Tcp)
}
