//! Shells that are broken on purpose are caught, and by the checker whose promise they break.

use integration::sim::{Sabotage, Trace, run_seed};

/// Seeds tried until one of them shows the mistake.
const SEEDS: u64 = 400;

/// The checker that objects first, over the seeds in order.
fn objects(sabotage: Sabotage) -> Option<&'static str> {
    let failure = (0..SEEDS).find_map(|seed| run_seed(seed, sabotage, Trace::off()).err())?;
    Some(failure.violation.checker)
}

fn assert_caught(sabotage: Sabotage, by: &[&str]) {
    let checker = objects(sabotage);
    assert!(
        checker.is_some_and(|checker| by.contains(&checker)),
        "{sabotage:?} is caught by {checker:?}, not by {by:?}"
    );
}

#[test]
fn addresses_that_stay_are_noticed() {
    assert_caught(Sabotage::KeepsAddresses, &["roles", "overlap"]);
}

#[test]
fn addresses_that_go_too_early_are_noticed() {
    assert_caught(Sabotage::DropsEarly, &["handover"]);
}

#[test]
fn a_winner_that_does_not_announce_is_noticed() {
    assert_caught(Sabotage::NeverAnnounces, &["convergence", "handover"]);
}

#[test]
fn a_missing_warden_is_noticed() {
    assert_caught(Sabotage::NoWarden, &["overlap"]);
}

#[test]
fn a_lease_that_is_too_long_is_noticed() {
    assert_caught(Sabotage::LeasesTooLong, &["lease"]);
}

#[test]
fn an_active_node_that_keeps_silent_is_noticed() {
    assert_caught(Sabotage::SkipsAdverts, &["pace"]);
}

#[test]
fn nodes_that_do_not_hear_each_other_are_noticed() {
    assert_caught(Sabotage::Deaf, &["overlap", "convergence"]);
}

#[test]
fn a_loop_that_spins_is_noticed() {
    assert_caught(Sabotage::Hasty, &["pace"]);
}

#[test]
fn a_sick_node_that_stays_active_is_noticed() {
    assert_caught(Sabotage::HidesHealth, &["convergence"]);
}

#[test]
fn a_reload_without_its_addresses_is_noticed() {
    assert_caught(Sabotage::IgnoresReload, &["roles", "availability", "convergence"]);
}

#[test]
fn events_that_contradict_each_other_are_noticed() {
    assert_caught(Sabotage::MixesUpEvents, &["roles"]);
}
