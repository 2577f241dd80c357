//! The seeded simulation of the pair: thousands of runs, each with a story of its own.

#[path = "sim/pair.rs"]
mod pair;
#[path = "sim/sabotage.rs"]
mod sabotage;
#[path = "sim/scenarios.rs"]
mod scenarios;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use integration::sim::{Failure, Sabotage, Trace, run_seed};

/// Runs in a normal test run; `TANDEM_SIM_RUNS` changes it.
const RUNS: u64 = 4000;

/// Lines of the trace that a failure shows.
const TRACE_LINES: usize = 150;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn describe(failure: &Failure) -> String {
    let traced = run_seed(failure.seed, Sabotage::None, Trace::on());
    let tail = traced.err().map(|failure| failure.trace.tail(TRACE_LINES)).unwrap_or_default();
    format!(
        "{tail}\nseed {seed}: {violation}\nreplay: TANDEM_SIM_SEED={seed} cargo test -p integration --test sim replay -- --nocapture",
        seed = failure.seed,
        violation = failure.violation
    )
}

/// Runs so many seeds on all processors; the failures in the seeds' order, by default up to those of the moment of the first.
fn seeds(runs: u64, run: impl Fn(u64) -> Option<Box<Failure>> + Sync) -> Vec<Failure> {
    let first = number("TANDEM_SIM_FIRST").unwrap_or(0);
    let (next, failed) = (AtomicU64::new(first), AtomicBool::new(false));
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let mut failures = Vec::new();
    std::thread::scope(|scope| {
        let work = || {
            let mut found = Vec::new();
            while !failed.load(Ordering::Relaxed) {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + runs {
                    break;
                }
                if let Some(failure) = run(seed) {
                    found.push(*failure);
                    failed.store(std::env::var_os("TANDEM_SIM_ALL").is_none(), Ordering::Relaxed);
                }
            }
            found
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            failures.extend(worker.join().expect("a run panicked"));
        }
    });
    failures.sort_by_key(|failure| failure.seed);
    failures
}

#[test]
fn thousands_of_seeds_keep_every_promise() {
    let runs = number("TANDEM_SIM_RUNS").unwrap_or(RUNS);
    let failures = seeds(runs, |seed| run_seed(seed, Sabotage::None, Trace::off()).err());
    let list: Vec<String> =
        failures.iter().map(|failure| format!("seed {}: {}", failure.seed, failure.violation)).collect();
    if let Some(first) = failures.first() {
        panic!("{} failures\n{}\n{}", failures.len(), list.join("\n"), describe(first));
    }
}

/// Shows one run, by default the first: `TANDEM_SIM_SEED=1234 cargo test -p integration --test sim replay -- --nocapture`.
#[test]
#[expect(clippy::print_stdout, reason = "the trace is what a person asks for")]
fn replay() {
    let seed = number("TANDEM_SIM_SEED").unwrap_or(0);
    match run_seed(seed, Sabotage::None, Trace::on()) {
        Ok(trace) => println!("{}seed {seed}: every promise is kept", trace.tail(usize::MAX)),
        Err(failure) => panic!("{}seed {seed}: {}", failure.trace.tail(usize::MAX), failure.violation),
    }
}
