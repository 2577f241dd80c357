//! A virtual router's timers: a table of deadlines, the next of which is a minimum.

use common::time::Instant;

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// Adver_Timer: the next advertisement is due.
    Advert,
    /// Active_Down_Timer: the active router counts as gone.
    ActiveDown,
    /// The next round of gratuitous ARP or neighbour advertisements is due.
    Announce,
    /// The handover step under way has its bound.
    Handover,
}

const TIMERS: [Timer; 4] = [Timer::Advert, Timer::ActiveDown, Timer::Announce, Timer::Handover];

/// The deadlines that are set.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timers {
    deadlines: [Option<Instant>; TIMERS.len()],
}

impl Timers {
    pub(crate) fn set(&mut self, timer: Timer, deadline: Instant) {
        self.deadlines[timer as usize] = Some(deadline);
    }

    pub(crate) fn cancel(&mut self, timer: Timer) {
        self.deadlines[timer as usize] = None;
    }

    pub(crate) fn cancel_all(&mut self) {
        self.deadlines = [None; TIMERS.len()];
    }

    pub(crate) fn get(&self, timer: Timer) -> Option<Instant> {
        self.deadlines[timer as usize]
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.deadlines.iter().flatten().min().copied()
    }

    /// Takes out the earliest timer that is due at `at`, with its deadline.
    pub(crate) fn take_due(&mut self, at: Instant) -> Option<(Timer, Instant)> {
        let (timer, deadline) = TIMERS
            .into_iter()
            .filter_map(|timer| self.get(timer).map(|deadline| (timer, deadline)))
            .filter(|&(_, deadline)| deadline <= at)
            .min_by_key(|&(_, deadline)| deadline)?;
        self.cancel(timer);
        Some((timer, deadline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_due_comes_first_and_once() {
        let mut timers = Timers::default();
        timers.set(Timer::Advert, Instant::from_nanos(30));
        timers.set(Timer::Announce, Instant::from_nanos(20));
        timers.set(Timer::Handover, Instant::from_nanos(99));
        assert_eq!(timers.next(), Some(Instant::from_nanos(20)));
        let at = Instant::from_nanos(50);
        assert_eq!(timers.take_due(at).map(|(timer, _)| timer), Some(Timer::Announce));
        assert_eq!(timers.take_due(at).map(|(timer, _)| timer), Some(Timer::Advert));
        assert_eq!(timers.take_due(at), None);
        timers.cancel_all();
        assert_eq!(timers.next(), None);
    }
}
