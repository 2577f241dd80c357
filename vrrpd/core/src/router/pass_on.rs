//! Handing the role over, on either side, and leaving for good.

use common::ipc::Role;
use common::time::{Duration, Instant};

use super::{Deference, Output, Router};
use crate::event::{HandoverFailure, Reason};
use crate::handover::{Handover, OFFER_BOUND, OFFER_INTERVAL, Phase, Purpose, resign_bound};
use crate::timer::Timer;

/// How long after taking over by handover the predecessor's own advertisements are ignored: as long as it may go on with
/// its offer, and a little for the way.
const DEFERENCE: Duration = OFFER_BOUND.saturating_add(Duration::from_millis(100));

/// The same after a release, and once the predecessor is known to have stepped down: nothing can follow but what was on its way already.
const DEFERENCE_RELEASED: Duration = Duration::from_millis(100);

impl Router {
    /// Passes the role on. Without a peer that listens, `Health` is not a reason to resign: the lower priority in the
    /// advertisements says it all.
    pub(crate) fn hand_over(
        &mut self,
        now: Instant,
        id: u64,
        purpose: Purpose,
        peer_alive: bool,
        out: &mut Vec<Output>,
    ) {
        if self.role != Role::Active {
            return;
        }
        if let Some(running) = self.handover {
            if purpose != Purpose::Shutdown || running.purpose == Purpose::Shutdown {
                return;
            }
            self.end_handover(Err(HandoverFailure::TimedOut), out);
            // One that had resigned is silent; while it offers it has to be heard, or it would count as stalled.
            if running.phase == Phase::Resigned {
                self.timers.set(Timer::Advert, now + self.settings.interval);
                self.last_advert_sent = now;
            }
        }
        let deadline = now + OFFER_BOUND;
        let failure = HandoverFailure::TimedOut;
        self.handover = Some(Handover { id, purpose, phase: Phase::Offered, deadline, failure });
        if peer_alive {
            out.push(Output::Offer(id));
            self.timers.set(Timer::Handover, now + OFFER_INTERVAL);
        } else {
            self.offer_failed(now, HandoverFailure::NoPeer, out);
        }
    }

    pub(super) fn handover_due(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Some(handover) = self.handover else { return };
        match handover.phase {
            Phase::Offered if now < handover.deadline => {
                out.push(Output::Offer(handover.id));
                self.timers.set(Timer::Handover, now + OFFER_INTERVAL);
            }
            Phase::Offered => self.offer_failed(now, HandoverFailure::TimedOut, out),
            Phase::Resigned if handover.purpose == Purpose::Shutdown => self.stop(Reason::Shutdown, out),
            Phase::Resigned => {
                self.end_handover(Err(handover.failure), out);
                self.advertise(now, out);
                self.timers.set(Timer::Advert, now + self.settings.interval);
                self.announce_soon(now);
            }
        }
    }

    /// The peer did not take the offer: resign in the plain way where leaving was asked for, else stay.
    fn offer_failed(&mut self, now: Instant, failure: HandoverFailure, out: &mut Vec<Output>) {
        let Some(handover) = self.handover.as_mut() else { return };
        let peer_said_no = failure == HandoverFailure::Refused;
        if handover.purpose == Purpose::Health || (handover.purpose == Purpose::Request && peer_said_no) {
            self.end_handover(Err(failure), out);
            return;
        }
        let deadline = now + resign_bound(self.settings.interval);
        handover.phase = Phase::Resigned;
        handover.failure = failure;
        handover.deadline = deadline;
        self.resign(out);
        self.timers.cancel(Timer::Advert);
        self.timers.cancel(Timer::Announce);
        self.timers.set(Timer::Handover, deadline);
    }

    /// The peer answered that it is active now.
    pub(crate) fn taken(&mut self, now: Instant, id: u64, out: &mut Vec<Output>) {
        if self.handover.is_some_and(|handover| handover.id == id) {
            self.handed_over(now, out);
        }
    }

    /// The peer answered that it cannot.
    pub(crate) fn refused(&mut self, now: Instant, id: u64, out: &mut Vec<Output>) {
        if self.handover.is_some_and(|handover| handover.id == id && handover.phase == Phase::Offered) {
            self.offer_failed(now, HandoverFailure::Refused, out);
        }
    }

    /// A successor serves: drop the addresses.
    pub(super) fn handed_over(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Some(handover) = self.handover else { return };
        self.end_handover(Ok(()), out);
        self.held = handover.purpose == Purpose::Request;
        if handover.purpose == Purpose::Shutdown {
            out.push(Output::Relinquish);
            self.forget();
            self.change_role(Role::Init, Reason::HandedOver, out);
        } else {
            self.become_backup(now, Reason::HandedOver, out);
        }
    }

    pub(super) fn end_handover(&mut self, result: Result<(), HandoverFailure>, out: &mut Vec<Output>) {
        if let Some(Handover { id, purpose, .. }) = self.handover.take() {
            self.timers.cancel(Timer::Handover);
            out.push(Output::HandoverEnded { id, purpose, result });
        }
    }

    /// The peer gives the role up: become active now. False if this router cannot. A router that already is active has
    /// nothing to do and says yes. With `defer` the predecessor's own advertisements are ignored for a moment.
    pub(crate) fn take_over(
        &mut self,
        now: Instant,
        reason: Reason,
        defer: bool,
        out: &mut Vec<Output>,
    ) -> bool {
        match self.role {
            Role::Init | Role::Fault => return false,
            Role::Active if self.handover.is_some() => return false,
            // Both were active: the peer leaves, and whatever it announced last is wrong now.
            Role::Active => self.announce_soon(now),
            Role::Backup => self.become_active(now, reason, out),
        }
        if defer {
            let span = if reason == Reason::Released {
                DEFERENCE_RELEASED.min(self.settings.interval)
            } else {
                DEFERENCE
            };
            let to = self.last_heard.map(|heard| heard.source);
            self.deference = Some(Deference { until: now + span, to });
        }
        true
    }

    /// The predecessor is known to have stepped down. It said so on another way than that of its advertisements, one of which may have been
    /// sent before and be read only now.
    pub(crate) fn end_deference(&mut self, now: Instant) {
        if let Some(wait) = &mut self.deference {
            wait.until = wait.until.min(now + DEFERENCE_RELEASED.min(self.settings.interval));
        }
    }

    /// Leaves for good: RFC 9568 §6.4.3: "Send an ADVERTISEMENT with Priority = 0, Transition to the {Initialize} state",
    /// unless it was sent already.
    pub(crate) fn stop(&mut self, reason: Reason, out: &mut Vec<Output>) {
        if self.role == Role::Active {
            let resigned = self.handover.is_some_and(|handover| handover.phase == Phase::Resigned);
            if !resigned {
                self.resign(out);
                out.push(Output::Release);
            }
            out.push(Output::Relinquish);
            self.end_handover(Err(HandoverFailure::TimedOut), out);
        }
        self.forget();
        self.change_role(Role::Init, reason, out);
    }
}
