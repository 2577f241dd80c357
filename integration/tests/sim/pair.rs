//! The pair with replication beside the VRRP cores: thousands of seeds, shells that are broken on purpose, and single stories.

use std::time::Duration;

use common::ipc::{CATCH_UP_MAX, Role};
use integration::sim::{Draw, Failure, Fault, Flaw, NO_TOMBSTONE, Pair, Trace, Variant, run_pair_seed};

use super::{number, seeds};

/// Runs in a normal test run; `TANDEM_SIM_PAIR_RUNS` changes it.
const RUNS: u64 = 1500;

/// Seeds tried until one of them shows a mistake.
const SEEDS: u64 = 300;

#[test]
fn thousands_of_seeds_keep_every_promise_of_replication() {
    let runs = number("TANDEM_SIM_PAIR_RUNS").unwrap_or(RUNS);
    let failures = seeds(runs, |seed| run_pair_seed(seed, Flaw::None, Trace::off()).err());
    let list: Vec<String> =
        failures.iter().map(|failure| format!("seed {}: {}", failure.seed, failure.violation)).collect();
    if let Some(first) = failures.first() {
        panic!("{} failures\n{}\n{}", failures.len(), list.join("\n"), describe(first));
    }
}

fn describe(failure: &Failure) -> String {
    let traced = run_pair_seed(failure.seed, Flaw::None, Trace::on());
    let tail = traced.err().map(|failure| failure.trace.tail(super::TRACE_LINES)).unwrap_or_default();
    format!(
        "{tail}\nseed {seed}: {violation}\nreplay: TANDEM_SIM_PAIR_SEED={seed} cargo test -p integration --test sim pair_replay -- --nocapture",
        seed = failure.seed,
        violation = failure.violation
    )
}

/// Shows one run, by default the first.
#[test]
#[expect(clippy::print_stdout, reason = "the trace is what a person asks for")]
fn pair_replay() {
    let seed = number("TANDEM_SIM_PAIR_SEED").unwrap_or(0);
    match run_pair_seed(seed, Flaw::None, Trace::on()) {
        Ok(trace) => println!("{}seed {seed}: every promise is kept", trace.tail(usize::MAX)),
        Err(failure) => panic!("{}seed {seed}: {}", failure.trace.tail(usize::MAX), failure.violation),
    }
}

#[test]
fn a_seed_tells_the_same_story_each_time() {
    let story = |seed| run_pair_seed(seed, Flaw::None, Trace::on()).map(|trace| trace.tail(usize::MAX));
    for seed in 0..5 {
        let once = story(seed).unwrap_or_else(|failure| panic!("{}", failure.violation));
        assert!(once.lines().count() > 100 && story(seed).is_ok_and(|again| again == once));
    }
}

/// What becomes of a deletion without a tombstone is looked at.
#[test]
fn deletions_that_nobody_remembers_are_met() {
    let is_met = |trace: Trace| trace.tail(usize::MAX).contains(NO_TOMBSTONE);
    let met = (0..SEEDS).find(|&seed| run_pair_seed(seed, Flaw::None, Trace::on()).is_ok_and(is_met));
    assert!(met.is_some(), "every deletion of {SEEDS} runs found a tombstone");
}

/// Shells that are broken on purpose are caught, and by the checker whose promise they break.
#[test]
fn checkers_object_to_what_is_wrong_with_replication() {
    for (flaw, by) in [
        (Flaw::SaysSynced, &["preemption"][..]),
        (Flaw::AnswersEarly, &["acknowledged", "equal"]),
        (Flaw::LosesPuts, &["acknowledged", "equal"]),
        (Flaw::KeepsDeleted, &["equal"]),
        (Flaw::SwitchesAtOnce, &["rings"]),
        (Flaw::TakesSilenceForDeath, &["steady"]),
    ] {
        let failure = (0..SEEDS).find_map(|seed| run_pair_seed(seed, flaw, Trace::off()).err());
        let checker = failure.map(|failure| failure.violation.checker);
        assert!(
            checker.is_some_and(|checker| by.contains(&checker)),
            "{flaw:?} is caught by {checker:?}, not by {by:?}"
        );
    }
}

/// A node with much to learn takes its role back when it has learned it, and not before; the other one serves all the time.
#[test]
fn preemption_waits_until_the_returning_node_has_everything() {
    let variant = Variant::plain(Duration::from_millis(100));
    for seed in 0..20 {
        // A write of 16 entries takes up to half a second.
        let draw = Draw::slow(Duration::from_millis(5), Duration::from_millis(500));
        let mut pair = Pair::new(seed, &variant, &draw, Flaw::None, Trace::off());
        pair.boot();
        pair.write_flows(1, 400);
        pair.restart_host(0, Duration::from_secs(2)).unwrap();
        let role = |pair: &Pair| pair.world().view().routers[0].sides[0].role;
        let mut waited = Duration::ZERO;
        while role(&pair) != Role::Active {
            assert!(pair.world().view().routers[0].none_since.is_none(), "nobody serves");
            assert!(waited < Duration::from_secs(60), "it never takes the role back");
            pair.run_for(Duration::from_millis(1)).unwrap();
            waited += Duration::from_millis(1);
        }
        assert!(waited > Duration::from_secs(1), "{waited:?}: there was nothing to wait for");
        assert!(pair.is_synced(0) && pair.entries(0) == 400, "{} entries", pair.entries(0));
    }
}

/// A pair of which the second node serves, and the first one, which is the better one and has lost its power, comes back behind a port that passes
/// nothing to it, or nothing at all. It learns from the other one for longer than it waits for that.
fn returned_behind_its_port(seed: u64, flaw: Flaw, port: &[fn(usize, bool) -> Fault]) -> Pair {
    let variant = Variant::plain(Duration::from_millis(100));
    let draw = Draw::slow(Duration::from_millis(5), Duration::from_millis(700));
    let mut pair = Pair::new(seed, &variant, &draw, flaw, Trace::off());
    pair.boot();
    pair.write_flows(1, 800);
    for way in port {
        pair.strike(way(0, false));
    }
    pair.restart_host(0, Duration::from_secs(2)).unwrap();
    pair
}

/// What a port passes to the node, and what it passes from it.
const PORT: [fn(usize, bool) -> Fault; 2] = [Fault::LanIn, Fault::LanOut];

/// So long after it has come back, such a node has taken the role, and still lacks connections.
const BLOCKED: Duration = Duration::from_millis(4800);

/// It waits, takes the role where nobody hears it, gives way as soon as it hears the other one, and has the role back when it knows all.
#[test]
fn a_port_that_passes_nothing_at_first_costs_the_other_node_no_role() {
    for (seed, port) in [(1, &PORT[..]), (2, &PORT[..]), (3, &PORT[..1]), (4, &PORT[..1])] {
        let mut pair = returned_behind_its_port(seed, Flaw::None, port);
        let role = |pair: &Pair, host: usize| pair.world().view().routers[0].sides[host].role;
        let (back, mut took) = (pair.now(), None);
        while pair.now() - back < BLOCKED {
            pair.run_for(Duration::from_millis(5)).unwrap();
            assert_eq!(role(&pair, 1), Role::Active);
            if role(&pair, 0) == Role::Active {
                took = took.or(Some(pair.now() - back));
            }
        }
        // Clocks are wrong by 1 % at most.
        assert!(took.is_some_and(|took| took > CATCH_UP_MAX * 99 / 100), "{took:?}");
        assert!(!pair.is_synced(0));
        if port.len() == PORT.len() {
            // It does not forget that because of a gap on the peer link, in which nobody is known to give way to.
            for open in [false, true] {
                pair.strike(Fault::PeerOut(1, open));
                pair.run_for(Duration::from_millis(500)).unwrap();
            }
            assert!(!pair.is_synced(0));
        }
        for way in port {
            pair.strike(way(0, true));
        }
        pair.run_for(Duration::from_millis(300)).unwrap();
        assert_eq!(pair.world().view().routers[0].actives(), [1]);
        while pair.world().view().routers[0].actives() != [0] {
            assert!(pair.world().view().routers[0].none_since.is_none(), "nobody serves");
            assert!(pair.now() - back < Duration::from_secs(60), "it never takes the role back");
            pair.run_for(Duration::from_millis(5)).unwrap();
        }
        assert!(pair.is_synced(0) && pair.entries(0) == 800, "{} entries", pair.entries(0));
    }
}

/// Where it is the other node's port, a node that is behind waits no longer: nobody serves.
#[test]
fn a_dead_port_of_the_other_node_costs_no_more_than_the_time_to_catch_up() {
    let mut pair = returned_behind_its_port(1, Flaw::None, &[]);
    pair.run_for(Duration::from_millis(300)).unwrap();
    for way in PORT {
        pair.strike(way(1, false));
    }
    let broken = pair.now();
    while pair.world().view().routers[0].sides[0].role != Role::Active {
        pair.run_for(Duration::from_millis(1)).unwrap();
        assert!(pair.now() - broken < CATCH_UP_MAX + Duration::from_millis(600), "it waits too long");
    }
    assert!(!pair.is_synced(0));
    for way in PORT {
        pair.strike(way(1, true));
    }
    pair.run_for(Duration::from_millis(300)).unwrap();
    assert_eq!(pair.world().view().routers[0].actives().len(), 1);
}

/// Of a node that takes the role too early, and of one that has it and does not give way.
#[test]
fn checkers_object_to_a_node_that_thinks_nothing_of_its_port() {
    for flaw in [Flaw::SaysSyncedWhenBlocked, Flaw::SaysSyncedWhenActive] {
        let mut pair = returned_behind_its_port(1, flaw, &PORT);
        let mut story = || {
            pair.run_for(BLOCKED)?;
            for way in PORT {
                pair.strike(way(0, true));
            }
            pair.run_for(Duration::from_millis(300))
        };
        let checker = story().err().map(|violation| violation.checker);
        assert_eq!(checker, Some("preemption"), "{flaw:?}");
    }
}

/// A pair of which the first node serves, and the second one, which has come back and takes so long to write at most, still learns from it.
fn returned(write_delay: Duration) -> Pair {
    let variant = Variant::plain(Duration::from_millis(100));
    let draw = Draw::slow(Duration::from_millis(5), write_delay);
    let mut pair = Pair::new(1, &variant, &draw, Flaw::None, Trace::off());
    pair.boot();
    pair.write_flows(0, 400);
    pair.restart_host(1, Duration::from_millis(500)).unwrap();
    pair.run_for(Duration::from_millis(300)).unwrap();
    assert!(!pair.is_synced(1));
    pair
}

/// The role moves without a moment in which nobody serves.
fn until_the_other_serves(pair: &mut Pair) {
    while pair.world().view().routers[0].actives() != [1] {
        assert!(pair.world().view().routers[0].none_since.is_none(), "nobody serves");
        pair.run_for(Duration::from_millis(1)).unwrap();
    }
}

/// Switchovers on request go to nobody who is behind, and a node that stops waits for one.
#[test]
fn a_role_is_handed_to_nobody_who_is_behind() {
    let mut pair = returned(Duration::from_millis(100));
    pair.strike(Fault::Switchover(0));
    pair.run_for(Duration::from_millis(50)).unwrap();
    assert_eq!(pair.world().switchovers(), [false]);
    pair.strike(Fault::Terminate(0));
    until_the_other_serves(&mut pair);
    assert!(pair.is_synced(1) && pair.entries(1) == 400);
}

/// A node in maintenance serves, and keeps its role for a while so that a node that is behind can learn; not for longer.
#[test]
fn a_node_in_maintenance_has_the_other_one_learn_first() {
    for (write_delay_ms, learns) in [(100, true), (700, false)] {
        let mut pair = returned(Duration::from_millis(write_delay_ms));
        pair.strike(Fault::Maintenance(0, true));
        let asked = pair.now();
        until_the_other_serves(&mut pair);
        let waited = pair.now() - asked;
        assert_eq!((pair.is_synced(1), pair.entries(1) == 400), (learns, learns));
        // Clocks are wrong by 1 % at most.
        let bounds = (CATCH_UP_MAX * 99 / 100)..(CATCH_UP_MAX * 105 / 100);
        assert!(if learns { waited < bounds.start } else { bounds.contains(&waited) }, "{waited:?}");
    }
}

/// Of a connection that one node has lost the other one need not know: a new one takes its place, and what was told into the old one is told
/// again.
#[test]
fn a_new_connection_takes_the_place_of_one_that_the_other_node_still_has() {
    let variant = Variant::plain(Duration::from_millis(100));
    for seed in 0..20 {
        let draw = Draw::slow(Duration::from_millis(5), Duration::from_millis(20));
        let mut pair = Pair::new(seed, &variant, &draw, Flaw::None, Trace::off());
        pair.boot();
        pair.write_flows(0, 300);
        for (count, host) in [(320, 0), (340, 1), (360, 0)] {
            let before = pair.replaced();
            pair.abandon(host);
            assert!(
                !pair.is_synced(host) && pair.is_synced(1 - host),
                "seed {seed}: who holds it knows nothing"
            );
            pair.write_flows(1 - host, count);
            assert_eq!(pair.replaced(), before + 1, "seed {seed}");
            let entries = [0, 1].map(|host| pair.entries(host));
            assert!(pair.is_synced(host) && entries[0] == entries[1], "seed {seed}: {entries:?}");
        }
    }
}
