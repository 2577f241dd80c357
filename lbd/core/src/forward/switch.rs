//! When a node may choose flows' targets from other rings: once the other node knows them and has every flow that the present ones have
//! placed, or after a short wait, which is no reason to keep an unhealthy target for longer.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::time::Instant;

use super::plan::Make;
use crate::replication::RING_WAIT;

/// What is to be done with rings that are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Choose from them, then say so with [`Switch::switched`].
    Write,
    /// Ask the other node whether it is ready for these, and come back then, but no later than this.
    Wait {
        /// Until when.
        until: Instant,
        /// Those that it has not been asked about.
        ask: Vec<Arc<Make>>,
    },
}

/// The rings in use, and those that wait.
#[derive(Debug, Default)]
pub struct Switch {
    used: BTreeMap<String, Arc<Make>>,
    /// What the other node was asked about since.
    asked: BTreeMap<String, u64>,
    /// Until when the wait lasts, whatever is wanted in the meantime.
    until: Option<Instant>,
}

impl Switch {
    /// What to do. Of each ring that is wanted it is given whether there is one of this name already, perhaps of a former life; `ready` says of
    /// which the other node has said that it is, and there is none where no other node is in step.
    pub fn step<'a>(
        &mut self,
        now: Instant,
        wanted: impl IntoIterator<Item = (&'a Arc<Make>, bool)>,
        ready: Option<&dyn Fn(&Make) -> bool>,
    ) -> Step {
        let differs = |(make, is_there): &(&Arc<Make>, bool)| match self.used.get(&make.name) {
            Some(used) => used != *make,
            None => *is_there,
        };
        let changed: Vec<&Arc<Make>> = wanted.into_iter().filter(differs).map(|(make, _)| make).collect();
        let until = *self.until.get_or_insert(now + RING_WAIT);
        let is_ready = ready.is_none_or(|ready| changed.iter().all(|make| ready(make)));
        if is_ready || now >= until {
            self.until = None;
            return Step::Write;
        }
        let mut ask = Vec::new();
        for make in changed {
            if self.asked.insert(make.name.clone(), make.hash) != Some(make.hash) {
                ask.push(Arc::clone(make));
            }
        }
        Step::Wait { until, ask }
    }

    /// These are chosen from now, as far as they are in place, which is said of each; of the others what was in use before still is. Answers those that
    /// the other node is to be told of. Without targets one is gone.
    pub fn switched<'a>(
        &mut self,
        wanted: impl IntoIterator<Item = (&'a Arc<Make>, bool)>,
    ) -> Vec<Arc<Make>> {
        let mut asked = std::mem::take(&mut self.asked);
        let mut before = std::mem::take(&mut self.used);
        let mut told = Vec::new();
        for (make, is_in_place) in wanted {
            let (used, was_asked) = (before.remove(&make.name), asked.remove(&make.name));
            if !is_in_place {
                self.used.extend(used.map(|used| (make.name.clone(), used)));
                self.asked.extend(was_asked.map(|hash| (make.name.clone(), hash)));
                continue;
            }
            if used.as_ref() != Some(make) || was_asked.is_some() {
                told.push(Arc::clone(make));
            }
            self.used.insert(make.name.clone(), Arc::clone(make));
        }
        let gone = before.into_keys().map(|name| Arc::new(Make { name, ..Make::default() }));
        told.extend(gone);
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::hash::HashKey;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn make(name: &str, weight: u16) -> Arc<Make> {
        Arc::new(Make::new(name, vec![("t".to_owned(), weight)], &HashKey::new([1; 16])))
    }

    const NOT_YET: Option<&dyn Fn(&Make) -> bool> = Some(&|_| false);
    const READY: Option<&dyn Fn(&Make) -> bool> = Some(&|_| true);

    #[test]
    fn a_ring_that_is_new_or_the_same_waits_for_nobody() {
        let mut switch = Switch::default();
        let one = make("a", 1);
        assert_eq!(switch.step(at(0), [(&one, false)], NOT_YET), Step::Write);
        assert_eq!(switch.switched([(&one, true)]), [Arc::clone(&one)]);
        assert_eq!(switch.step(at(0), [(&one, true)], NOT_YET), Step::Write);
        assert!(switch.switched([(&one, true)]).is_empty());
        // What a former life has left may be something else.
        let mut switch = Switch::default();
        assert!(matches!(switch.step(at(0), [(&one, true)], NOT_YET), Step::Wait { .. }));
        assert_eq!(switch.step(at(1), [(&one, true)], None), Step::Write, "without another node");
    }

    #[test]
    fn another_ring_waits_until_the_other_node_is_ready_or_the_time_is_over() {
        let (one, two, three) = (make("a", 1), make("a", 2), make("a", 3));
        let mut switch = Switch::default();
        switch.step(at(0), [(&one, false)], READY);
        switch.switched([(&one, true)]);
        let until = at(1100);
        let ask = vec![Arc::clone(&two)];
        assert_eq!(switch.step(at(1000), [(&two, true)], NOT_YET), Step::Wait { until, ask });
        assert_eq!(switch.step(at(1001), [(&two, true)], NOT_YET), Step::Wait { until, ask: Vec::new() });
        assert_eq!(switch.step(at(1020), [(&two, true)], READY), Step::Write);
        assert_eq!(switch.switched([(&two, true)]), [Arc::clone(&two)]);
        // Another one meanwhile waits no longer than the first.
        let until = at(2100);
        switch.step(at(2000), [(&three, true)], NOT_YET);
        let ask = vec![Arc::clone(&one)];
        assert_eq!(switch.step(at(2050), [(&one, true)], NOT_YET), Step::Wait { until, ask });
        assert_eq!(switch.step(at(2100), [(&one, true)], NOT_YET), Step::Write);
        assert_eq!(switch.switched([(&one, true)]), [Arc::clone(&one)]);
        // One that comes to nothing is taken back, and the next wait has its own time.
        switch.step(at(3000), [(&two, true)], NOT_YET);
        assert_eq!(switch.step(at(3001), [(&one, true)], NOT_YET), Step::Write);
        assert_eq!(switch.switched([(&one, true)]), [Arc::clone(&one)]);
        assert!(
            matches!(switch.step(at(9000), [(&two, true)], NOT_YET), Step::Wait { until, .. } if until == at(9100))
        );
    }

    #[test]
    fn one_that_could_not_be_put_in_place_is_told_when_it_is() {
        let (one, two, other) = (make("a", 1), make("a", 2), make("b", 1));
        let mut switch = Switch::default();
        switch.switched([(&one, true)]);
        switch.step(at(0), [(&two, true)], NOT_YET);
        assert_eq!(switch.step(at(100), [(&two, true)], NOT_YET), Step::Write);
        assert_eq!(switch.switched([(&two, false), (&other, true)]), [Arc::clone(&other)]);
        // It is asked about no more, and waits for nobody who is ready.
        let until = at(1100);
        assert_eq!(
            switch.step(at(1000), [(&two, true), (&other, true)], NOT_YET),
            Step::Wait { until, ask: Vec::new() }
        );
        assert_eq!(switch.step(at(1010), [(&two, true), (&other, true)], READY), Step::Write);
        assert_eq!(switch.switched([(&two, true), (&other, true)]), [two]);
    }

    #[test]
    fn one_that_is_gone_is_told_without_targets() {
        let (one, other) = (make("a", 1), make("b", 1));
        let mut switch = Switch::default();
        switch.switched([(&one, true), (&other, true)]);
        let told = switch.switched([(&one, true)]);
        assert_eq!(
            told.iter().map(|make| (make.name.as_str(), make.members.len())).collect::<Vec<_>>(),
            [("b", 0)]
        );
        assert!(switch.switched([(&one, true)]).is_empty());
    }
}
