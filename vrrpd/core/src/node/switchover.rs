//! Switchovers on request, and stopping.

use common::ipc::Role;
use common::time::{Duration, Instant};

use super::{Action, Entry, Node, SwitchoverError};
use crate::event::{HandoverFailure, Reason};
use crate::handover::Purpose;
use crate::track::LbdState;

/// Requests under way at once.
const REQUESTS_MAX: usize = 16;

/// How long a node that stops, or is less healthy, waits for a peer that is behind to learn of the connections it lacks. Together with the
/// handover itself that is less than the 10 s after which `vrrpd` ends in any case.
pub use common::ipc::CATCH_UP_MAX;

/// The switchovers that somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Switchovers {
    requests: Vec<Request>,
}

#[derive(Debug)]
struct Request {
    token: u64,
    started: Instant,
    /// The handovers of the instance's virtual routers that are still open.
    open: Vec<u64>,
    failure: Option<HandoverFailure>,
}

impl Switchovers {
    /// A handover ended; its request's answer if it was the last one.
    pub(super) fn ended(
        &mut self,
        id: u64,
        result: Result<(), HandoverFailure>,
        at: Instant,
    ) -> Option<(u64, Result<Duration, SwitchoverError>)> {
        let index = self.requests.iter().position(|request| request.open.contains(&id))?;
        let request = &mut self.requests[index];
        request.open.retain(|&open| open != id);
        request.failure = request.failure.or(result.err());
        if !request.open.is_empty() {
            return None;
        }
        let Request { token, started, failure, .. } = self.requests.swap_remove(index);
        Some((token, failure.map_or(Ok(at.since(started)), |failure| Err(SwitchoverError::Failed(failure)))))
    }
}

impl Node {
    pub(super) fn new_handover_id(&mut self) -> u64 {
        let id = self.next_handover_id;
        self.next_handover_id += 1;
        id
    }

    pub(super) fn switchover(&mut self, instance: &str, token: u64) {
        if let Err(error) = self.begin_switchover(instance, token) {
            self.actions.push_back(Action::SwitchoverDone { token, result: Err(error) });
        }
    }

    fn begin_switchover(&mut self, instance: &str, token: u64) -> Result<(), SwitchoverError> {
        if self.stopping {
            return Err(SwitchoverError::Stopping);
        }
        if self.switchovers.requests.len() >= REQUESTS_MAX {
            return Err(SwitchoverError::Busy);
        }
        let role = self.instance_role(instance).ok_or(SwitchoverError::UnknownInstance)?;
        let slots: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.router.settings.instance == instance)
            .filter(|(_, entry)| entry.router.role() == Role::Active && entry.router.handover().is_none())
            .map(|(&slot, _)| slot)
            .collect();
        if slots.is_empty() {
            return Err(if role == Role::Active {
                SwitchoverError::Busy
            } else {
                SwitchoverError::NotActive(role)
            });
        }
        // It would hand the role back at once.
        if slots.iter().any(|&slot| self.peer_is_less_healthy(slot)) {
            return Err(SwitchoverError::Failed(HandoverFailure::Refused));
        }
        // The connections that it lacks would break, and nothing presses. Without this node's `lbd` it learns of none.
        if self.lbd != LbdState::Absent && self.peer_is_behind() {
            return Err(SwitchoverError::Failed(HandoverFailure::Behind));
        }
        let handovers: Vec<_> = slots.into_iter().map(|slot| (slot, self.new_handover_id())).collect();
        let open = handovers.iter().map(|&(_, id)| id).collect();
        self.switchovers.requests.push(Request { token, started: self.now.at, open, failure: None });
        let alive = self.peer_alive();
        for (slot, id) in handovers {
            self.drive(slot, |router, at, out| router.hand_over(at, id, Purpose::Request, alive, out));
        }
        Ok(())
    }

    pub(super) fn shutdown(&mut self) {
        if !self.stopping {
            self.leave_by = self.now.at + CATCH_UP_MAX;
        }
        self.stopping = true;
    }

    /// Begins what ends each router, unless its successor is still to learn of connections.
    fn leave(&mut self) {
        // Without this node's `lbd` it learns of none.
        let learns = self.lbd != LbdState::Absent && self.peer_is_behind() && self.now.at < self.leave_by;
        for slot in self.slot_list() {
            let able = self.peer_can_take_over(slot);
            let waits = able && learns;
            let leaves = |entry: &Entry| {
                let running = entry.router.handover().map(|handover| handover.purpose);
                entry.router.role() == Role::Active && running != Some(Purpose::Shutdown)
            };
            if self.entries.get(&slot).is_some_and(leaves) && !waits {
                let id = self.new_handover_id();
                self.drive(slot, |router, at, out| router.hand_over(at, id, Purpose::Shutdown, able, out));
            }
        }
    }

    pub(super) fn shutdown_now(&mut self) {
        self.stopping = true;
        for slot in self.slot_list() {
            self.drive(slot, |router, _, out| router.stop(Reason::Shutdown, out));
        }
    }

    pub(super) fn finish_if_stopped(&mut self) {
        if !self.stopping || self.finished {
            return;
        }
        self.leave();
        // A router that has no role, or lost it in another way (the warden, a stall, a failed address), has none to hand over.
        for slot in self.slot_list() {
            self.drive(slot, |router, _, out| {
                if router.role() != Role::Active {
                    router.stop(Reason::Shutdown, out);
                }
            });
        }
        let stopped = self.entries.values().all(|entry| entry.router.role() == Role::Init);
        if stopped {
            // The peer learns it at once rather than by silence.
            self.heartbeat_soon();
            self.link_timeout();
            self.finished = true;
            self.actions.push_back(Action::Finished);
        }
    }
}
