//! The checkers: each watches one promise, by what an all-knowing observer sees, and says in plain words what broke.

mod availability;
mod convergence;
mod handover;
mod lease;
mod overlap;
mod pace;
mod preemption;
mod roles;
mod steady;

use std::fmt;

use super::clock::Moment;
use super::view::{Seen, View};

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Violation {
    /// The checker that objects.
    pub checker: &'static str,
    /// When, in true time.
    pub at: Moment,
    /// What broke.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.at.as_nanos() / 1000;
        write!(f, "{} at {}.{:06} s: {}", self.checker, micros / 1_000_000, micros % 1_000_000, self.what)
    }
}

/// Watches one promise.
trait Checker {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Something happened.
    fn seen(&mut self, view: &View, seen: Seen<'_>) -> Result<(), String> {
        let (_, _) = (view, seen);
        Ok(())
    }

    /// Time passed, or the view changed.
    fn tick(&mut self, view: &View) -> Result<(), String> {
        let _ = view;
        Ok(())
    }
}

/// All checkers of a run.
pub(super) struct Checks {
    checkers: Vec<Box<dyn Checker>>,
    violation: Option<Violation>,
}

impl Checks {
    pub(super) fn new(view: &View) -> Self {
        let routers = view.routers.len();
        let checkers: Vec<Box<dyn Checker>> = vec![
            Box::new(convergence::Convergence::new(routers)),
            Box::new(availability::Availability),
            Box::new(overlap::Overlap::new(routers)),
            Box::new(handover::Handover::default()),
            Box::new(lease::Lease::new(routers)),
            Box::new(steady::Steady::default()),
            Box::new(pace::Pace::new(routers)),
            Box::new(preemption::Preemption::new(routers)),
            Box::new(roles::Roles::new(routers)),
        ];
        Self { checkers, violation: None }
    }

    pub(super) fn seen(&mut self, view: &View, seen: Seen<'_>) {
        for checker in &mut self.checkers {
            let result = checker.seen(view, seen);
            note(&mut self.violation, checker.name(), view, result);
        }
    }

    pub(super) fn tick(&mut self, view: &View) {
        for checker in &mut self.checkers {
            let result = checker.tick(view);
            note(&mut self.violation, checker.name(), view, result);
        }
    }

    /// The first objection.
    pub(super) fn verdict(&self) -> Result<(), Violation> {
        self.violation.clone().map_or(Ok(()), Err)
    }
}

fn note(violation: &mut Option<Violation>, checker: &'static str, view: &View, result: Result<(), String>) {
    if let Err(what) = result
        && violation.is_none()
    {
        *violation = Some(Violation { checker, at: view.now, what });
    }
}

/// A host's name.
const fn name(host: usize) -> &'static str {
    super::variant::NAMES[host]
}
