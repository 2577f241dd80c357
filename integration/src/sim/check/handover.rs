//! A planned handover in a pair that is well is make-before-break: at every instant somebody answers, and the successor
//! has announced itself on the wire before the predecessor lets go.

use common::ipc::Role;
use common::time::Duration;

use super::{Checker, name};
use crate::sim::clock::Moment;
use crate::sim::view::{Seen, View};

/// A handover with an answer takes the way there and back; this is ample, and far below the bound of the offer.
const DONE_WITHIN: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(super) struct Handover {
    plan: Option<Plan>,
}

struct Plan {
    from: usize,
    since: Moment,
    /// The virtual routers that are to move.
    moving: Vec<usize>,
}

impl Checker for Handover {
    fn name(&self) -> &'static str {
        "handover"
    }

    fn seen(&mut self, view: &View, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            // Whatever else happens, the plan may fail.
            Seen::Fault(_) => self.plan = None,
            Seen::Planned(from) => {
                let moving = |router: &usize| view.routers[*router].sides[from].role == Role::Active;
                let moving = (0..view.routers.len()).filter(moving).collect();
                self.plan = Some(Plan { from, since: view.now, moving });
            }
            _ => {}
        }
        Ok(())
    }

    fn tick(&mut self, view: &View) -> Result<(), String> {
        let Some(plan) = &mut self.plan else { return Ok(()) };
        let (from, to, since) = (plan.from, 1 - plan.from, plan.since);
        let mut done = Vec::new();
        for &index in &plan.moving {
            let router = &view.routers[index];
            if router.none_since.is_some() {
                return Err(format!("nobody answers for {} during a planned handover", router.name));
            }
            if router.sides[from].serves {
                continue;
            }
            if router.sides[to].announced_at.is_none_or(|at| at < since) {
                return Err(format!(
                    "node {} has dropped {} before node {} announced it",
                    name(from),
                    router.name,
                    name(to)
                ));
            }
            done.push(index);
        }
        plan.moving.retain(|index| !done.contains(index));
        if plan.moving.is_empty() {
            self.plan = None;
        } else if view.now - since > DONE_WITHIN {
            let router = &view.routers[plan.moving[0]];
            return Err(format!(
                "node {} still holds {} {DONE_WITHIN:?} after the handover was asked for",
                name(from),
                router.name
            ));
        }
        Ok(())
    }
}
