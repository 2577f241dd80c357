//! `lbd simulate`: what each algorithm makes of a workload, without a network.
//!
//! A [`Workload`] says which connections arrive, how long each is worked on, what the targets can do and when they fail.
//! [`run`] plays it on a virtual clock, once for each algorithm with exactly the same arrivals, through the balancers and
//! the health state machine that the daemon uses. The [`Report`] is printed as a table ([`table`]) and drawn ([`svg`]).
//! The same file gives the same report on every machine.

mod arrivals;
mod distribution;
mod engine;
mod fleet;
mod moves;
mod parse;
mod report;
mod server;
mod svg;
mod table;
mod workload;

#[cfg(test)]
mod tests;

pub use distribution::Distribution;
pub use moves::Moves;
pub use report::{Lost, Outcome, Report, TargetOutcome, Waits};
pub use svg::svg;
pub use table::table;
pub use workload::{Arrivals, Checks, Down, Ejection, Spacing, TargetModel, Workload, WorkloadError};

/// Plays the workload through each of its algorithms.
#[must_use]
pub fn run(workload: &Workload) -> Report {
    let arrivals = arrivals::generate(workload);
    let horizon = arrivals.last().map(|arrival| arrival.at).unwrap_or_default();
    let outcomes = workload
        .algorithms
        .iter()
        .map(|&algorithm| engine::Engine::new(workload, algorithm, horizon).run(&arrivals))
        .collect();
    Report { workload: workload.clone(), horizon, outcomes }
}
