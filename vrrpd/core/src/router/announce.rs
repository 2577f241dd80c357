//! Gratuitous ARP and neighbour advertisements: when they are due.

use common::ipc::Role;
use common::time::{Duration, Instant};

use super::{Output, Router};
use crate::timer::Timer;

impl Router {
    /// Between the first announcements, and after a conflict.
    fn announce_gap(&self) -> Duration {
        self.settings.interval.clamp(Duration::from_millis(10), Duration::from_millis(50))
    }

    /// Someone else spoke for our addresses: announce again once it has had time to hear us, once more, and then as often as
    /// after becoming active, because its next claim may be one that we do not hear.
    pub(crate) fn announce_soon(&mut self, now: Instant) {
        let soon = now + self.announce_gap();
        self.announce.quick_left = 2;
        self.announce.slow_left = self.settings.announce.repeat.saturating_sub(1);
        if self.role == Role::Active && self.timers.get(Timer::Announce).is_none_or(|due| due > soon) {
            self.timers.set(Timer::Announce, soon);
        }
    }

    /// Announces now, if there is something to announce.
    pub(crate) fn announce_again(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.role == Role::Active && self.handover.is_none() {
            self.announce_now(now, out);
        }
    }

    pub(crate) fn announce_now(&mut self, now: Instant, out: &mut Vec<Output>) {
        self.stats.announcements += 1;
        out.push(Output::Announce);
        let wait = if self.announce.quick_left > 0 {
            self.announce_gap()
        } else if self.announce.slow_left > 0 {
            self.settings.announce.interval
        } else {
            self.settings.announce.refresh
        };
        if wait > Duration::ZERO {
            self.timers.set(Timer::Announce, now + wait);
        }
    }

    pub(super) fn announce_due(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.role != Role::Active {
            return;
        }
        if self.handover.is_some() {
            // The successor announces itself any moment; an announcement of ours after its would take the traffic back.
            self.timers.set(Timer::Announce, now + self.announce_gap());
            return;
        }
        if self.announce.quick_left > 0 {
            self.announce.quick_left -= 1;
        } else {
            self.announce.slow_left = self.announce.slow_left.saturating_sub(1);
        }
        self.announce_now(now, out);
    }
}
