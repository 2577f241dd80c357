//! Which flows are over. The program never deletes one: it finds by itself that an entry is too old, and takes its place.

use super::abi::{
    Flow, MODE_DSR, REFRESH_PART, REFRESH_TICKS, REFRESH_TICKS_MAX, STATE_CLIENT_FIN, STATE_ESTABLISHED,
    STATE_RESET, STATE_TARGET_FIN, STATE_UDP, Service, Slot, SlotControl, Ticks,
};
use common::time::Duration;

/// A flow is deleted so long after the program has given it up, so that no packet that the program still counts finds its entry
/// gone.
pub const GRACE: Duration = Duration::from_secs(5);

/// A port lives so much longer than its flow.
const SLOT_EXTRA_TICKS: u32 = 4 * REFRESH_TICKS;

const GRACE_TICKS: u32 = 5 * Ticks::PER_SECOND;

/// By how many ticks [`Flow::seen`] may be older than the flow's last packet, for a time-out in ticks: the program notes a packet only
/// when the last that it noted is so long ago.
#[must_use]
pub const fn refresh(most: u32) -> u32 {
    let part = most / REFRESH_PART;
    if part > REFRESH_TICKS_MAX {
        REFRESH_TICKS_MAX
    } else if part < REFRESH_TICKS {
        REFRESH_TICKS
    } else {
        part
    }
}

/// The age of [`Flow::seen`], in ticks, beyond which a flow is given up, as the program reckons it: never before it was silent
/// for its time-out, and by [`refresh`] later at most.
#[must_use]
pub const fn time_out(flow: &Flow, service: &Service) -> u32 {
    let most = silent_most(flow, service);
    most.saturating_add(refresh(most))
}

/// How long a flow of the service may be silent in its state, in ticks.
#[must_use]
pub const fn silent_most(flow: &Flow, service: &Service) -> u32 {
    let state = flow.state;
    if state & STATE_RESET != 0 {
        service.reset_ticks
    } else if is_closed(flow, service) {
        service.closing_ticks
    } else if state & STATE_ESTABLISHED == 0 {
        service.half_open_ticks
    } else if state & STATE_UDP != 0 {
        service.udp_ticks
    } else {
        service.established_ticks
    }
}

/// Whether everybody has said all that there was to say, as far as is seen here.
#[must_use]
pub const fn is_closed(flow: &Flow, service: &Service) -> bool {
    let state = flow.state;
    state & STATE_CLIENT_FIN != 0 && (state & STATE_TARGET_FIN != 0 || service.mode == MODE_DSR)
}

/// Whether a flow can be deleted at the tick `now`. One of a service that is no longer there, whose element is empty, has no
/// time-out left but the grace.
#[must_use]
pub const fn is_over(flow: &Flow, service: &Service, now: u32) -> bool {
    silence(flow, now) > time_out(flow, service).saturating_add(GRACE_TICKS)
}

/// Whether a port is somebody's at the tick `now` and is not given to others: the program takes it from flows that are half-open or over,
/// if it has to. `service` says what is known of a number.
#[must_use]
pub fn is_slot_busy(slot: &Slot, service: impl Fn(u16) -> Option<Service>, now: u32) -> bool {
    let control = SlotControl::of(slot.control);
    if slot.control == 0 {
        return false;
    }
    let silent = Ticks(now).since(Ticks(control.seen));
    if control.lock != 0 {
        return silent <= Ticks::PER_SECOND;
    }
    let over = control.state & STATE_RESET != 0
        || (control.state & STATE_CLIENT_FIN != 0 && control.state & STATE_TARGET_FIN != 0);
    if control.state & STATE_ESTABLISHED == 0 || over {
        return false;
    }
    let Some(service) = service(control.service) else { return false };
    let flow = Flow { state: control.state, ..Flow::default() };
    silent <= time_out(&flow, &service).saturating_add(SLOT_EXTRA_TICKS)
}

/// Ticks since the flow's last packet; 0 if that came after `now` was read.
#[must_use]
pub const fn silence(flow: &Flow, now: u32) -> u32 {
    Ticks(now).since(Ticks(flow.seen))
}

/// Ticks until the program gives the flow up; 0 if it has.
#[must_use]
pub const fn remaining(flow: &Flow, service: &Service, now: u32) -> u32 {
    time_out(flow, service).saturating_sub(silence(flow, now))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::forward::abi::MODE_NAT;

    fn service(mode: u8) -> Service {
        Service {
            mode,
            established_ticks: 5000,
            udp_ticks: 2000,
            half_open_ticks: 500,
            closing_ticks: 1000,
            reset_ticks: 160,
            ..Service::default()
        }
    }

    fn flow(state: u8, seen: u32) -> Flow {
        Flow { state, seen, ..Flow::default() }
    }

    #[test]
    fn each_state_has_its_time() {
        let both = STATE_ESTABLISHED | STATE_CLIENT_FIN | STATE_TARGET_FIN;
        let times = [
            (MODE_NAT, 0, 500),
            (MODE_NAT, STATE_ESTABLISHED, 5000),
            (MODE_NAT, STATE_ESTABLISHED | STATE_CLIENT_FIN, 5000),
            (MODE_NAT, STATE_ESTABLISHED | STATE_TARGET_FIN, 5000),
            (MODE_NAT, both, 1000),
            (MODE_NAT, both | STATE_RESET, 160),
            (MODE_NAT, STATE_UDP, 500),
            (MODE_NAT, STATE_UDP | STATE_ESTABLISHED, 2000),
            // Of the target's half nothing is seen.
            (MODE_DSR, STATE_ESTABLISHED | STATE_CLIENT_FIN, 1000),
        ];
        for (mode, state, ticks) in times {
            assert_eq!(silent_most(&flow(state, 0), &service(mode)), ticks, "{mode} {state:#x}");
        }
    }

    #[test]
    fn what_was_not_noted_is_added_to_the_time_out() {
        // A second at least, a sixteenth, 16 s at most.
        for (most, refreshed) in
            [(0, 16), (160, 16), (256, 16), (272, 17), (1920, 120), (4096, 256), (5600, 256)]
        {
            assert_eq!(refresh(most), refreshed, "{most}");
        }
        assert_eq!(refresh(u32::MAX), 256);
        let (flow, service) = (flow(STATE_ESTABLISHED | STATE_UDP, 0), service(MODE_NAT));
        assert_eq!(time_out(&flow, &service), 2000 + 125);
    }

    #[test]
    fn a_flow_is_over_five_seconds_after_the_program_says_so() {
        let (flow, service) = (flow(STATE_ESTABLISHED, 1000), service(MODE_NAT));
        assert!(!is_over(&flow, &service, 6336));
        assert!(is_over(&flow, &service, 6337));
        assert_eq!((remaining(&flow, &service, 1016), remaining(&flow, &service, 9000)), (5240, 0));
        assert_eq!(GRACE_TICKS, crate::forward::abi::ticks_of(GRACE));
    }

    #[test]
    fn a_port_is_busy_until_its_flow_is_well_over() {
        let known = |number| (number == 3).then(|| service(MODE_NAT));
        let slot = |service, state, lock| Slot {
            control: SlotControl { seen: 1000, service, vip: 1, state, lock }.word(),
            ..Slot::default()
        };
        let busy = |slot: &Slot, now| is_slot_busy(slot, known, now);
        let established = slot(3, STATE_ESTABLISHED, 0);
        assert!(busy(&established, 990) && busy(&established, 6000 + 256 + 64));
        assert!(!busy(&established, 6000 + 256 + 65));
        let locked = slot(3, 0, 1);
        assert!(busy(&locked, 1016) && !busy(&locked, 1017));
        assert!(!busy(&slot(4, STATE_ESTABLISHED, 0), 1000), "of no service");
        let closed = STATE_ESTABLISHED | STATE_CLIENT_FIN | STATE_TARGET_FIN;
        for state in [0, STATE_UDP, closed, STATE_ESTABLISHED | STATE_RESET] {
            assert!(!busy(&slot(3, state, 0), 1000), "{state} may be taken over");
        }
        assert!(busy(&slot(3, STATE_ESTABLISHED | STATE_CLIENT_FIN, 0), 1000));
        assert!(!busy(&Slot::default(), 0));
    }

    #[test]
    fn a_flow_of_no_service_has_no_time_left() {
        let flow = flow(STATE_ESTABLISHED, 1000);
        assert!(!is_over(&flow, &Service::default(), 1096));
        assert!(is_over(&flow, &Service::default(), 1097));
    }

    proptest! {
        /// Whatever the state, the clock's place in its cycle, or who read it first.
        #[test]
        fn no_flow_is_over_before_the_program_gives_it_up(
            state: u8, seen: u32, passed in 0..10_000_u32, early in 0..100_u32, dsr: bool,
        ) {
            let service = service(if dsr { MODE_DSR } else { MODE_NAT });
            let flow = flow(state, seen);
            let now = seen.wrapping_add(passed);
            if is_over(&flow, &service, now) {
                prop_assert!(remaining(&flow, &service, now) == 0);
                prop_assert!(passed > time_out(&flow, &service));
            }
            prop_assert!(!is_over(&flow, &service, seen.wrapping_sub(early)));
        }

        /// Packets at these distances, noted as the program notes them: whatever they are, none comes to a flow that was given up
        /// before its time-out.
        #[test]
        fn no_flow_is_given_up_before_it_was_silent_for_its_time(
            gaps in prop::collection::vec(0..6_000_u32, 1..40), most in 16..6_000_u32,
        ) {
            let service = Service { established_ticks: most, ..service(MODE_NAT) };
            let mut flow = flow(STATE_ESTABLISHED, 0);
            let mut last = 0;
            for gap in gaps {
                let now = last + gap;
                let given_up = remaining(&flow, &service, now) == 0 && silence(&flow, now) > time_out(&flow, &service);
                prop_assert!(gap > most || !given_up, "after {gap} of {most}");
                prop_assert!(gap <= most + refresh(most) || given_up, "kept after {gap} of {most}");
                if given_up {
                    break;
                }
                if silence(&flow, now) >= refresh(most) {
                    flow.seen = now;
                }
                last = now;
            }
        }
    }
}
