//! Events as sentences.

use vrrpd_core::event::{Event, Reason};
use vrrpd_core::packet::Family;

use crate::command::{Stamped, handover};

/// The event as a sentence without its time.
#[must_use]
pub fn sentence(event: &Event) -> String {
    match event {
        Event::Role { instance, family, from, to, reason } => {
            let (from, to) = (from.name(), to.name());
            format!("{}: {from} -> {to}: {}", router(instance, *family), why(*reason))
        }
        Event::Priority { instance, family, effective_priority, severity: 0 } => {
            format!("{}: priority is {effective_priority}", router(instance, *family))
        }
        Event::Priority { instance, family, effective_priority, severity } => {
            let router = router(instance, *family);
            format!("{router}: priority is {effective_priority}, lowered for health (severity {severity})")
        }
        Event::Conflict { instance, family, address, mac } => {
            format!("{}: {mac} also claims {address}", router(instance, *family))
        }
        Event::AddressRestored { instance, family, address } => {
            format!("{}: {address} was removed by someone else and is put back", router(instance, *family))
        }
        Event::AddressUnexpected { instance, family, address } => {
            format!(
                "{}: {address} appeared on this node although it is not active",
                router(instance, *family)
            )
        }
        Event::Stalled { instance, family, silence_ms } => {
            let router = router(instance, *family);
            format!("{router}: this node did not run for {silence_ms} ms and steps down")
        }
        Event::LanFault { instance, family } => format!(
            "{}: the other node's advertisements are lost on the LAN, its peer link says it sends them",
            router(instance, *family)
        ),
        Event::HandoverFailed { instance, family, reason } => {
            format!("{}: the handover failed: {}", router(instance, *family), handover(*reason))
        }
        Event::Failure { instance, family, what } => format!("{}: {what}", router(instance, *family)),
        Event::Gateway { instance, reachable: true } => format!("{instance}: the gateway answers"),
        Event::Gateway { instance, reachable: false } => format!("{instance}: the gateway does not answer"),
        _ => of_the_node(event),
    }
}

/// The events that are about no instance.
fn of_the_node(event: &Event) -> String {
    match event {
        Event::PeerLink { alive: true } => "the other node is heard on the peer link".to_owned(),
        Event::PeerLink { alive: false } => "the other node is not heard on the peer link".to_owned(),
        Event::PeerDiffers { config_hash, version } => {
            format!(
                "the other node runs configuration {config_hash} with release {version}, not the same as this node"
            )
        }
        Event::Lbd { health } => format!("lbd is {health}"),
        Event::Maintenance { on: true } => "maintenance is on".to_owned(),
        Event::Maintenance { on: false } => "maintenance is off".to_owned(),
        Event::Reloaded { config_hash } => format!("configuration {config_hash} is in force"),
        // Every other event has its sentence in the caller; a new one is at least shown in full.
        other => format!("{other:?}"),
    }
}

/// Whether an operator should look at it.
const fn is_bad(event: &Event) -> bool {
    match event {
        Event::Role { to, .. } => matches!(to, common::ipc::Role::Fault),
        Event::Priority { severity, .. } => *severity > 0,
        Event::PeerLink { alive } => !*alive,
        Event::Gateway { reachable, .. } => !*reachable,
        Event::Lbd { health } => !matches!(health.as_bytes(), b"healthy"),
        Event::Maintenance { .. } | Event::Reloaded { .. } => false,
        _ => true,
    }
}

/// Logs the event.
pub(super) fn log(id: u64, stamped: &Stamped) {
    if is_bad(&stamped.event) {
        tracing::warn!(event = id, "{}", sentence(&stamped.event));
    } else {
        tracing::info!(event = id, "{}", sentence(&stamped.event));
    }
}

fn router(instance: &str, family: Family) -> String {
    format!("{instance} ({})", family.name())
}

const fn why(reason: Reason) -> &'static str {
    match reason {
        Reason::Startup => "the daemon started",
        Reason::Owner => "this node owns the addresses (priority 255)",
        Reason::ActiveDown => "the active node was not heard in time",
        Reason::Resigned => "the active node resigned",
        Reason::HigherPriority => "a better advertisement was heard",
        Reason::Handover => "the active node asked this one to take over",
        Reason::HandedOver => "the other node took over as asked",
        Reason::Released => "the active node has released the addresses",
        Reason::LanFault => "advertisements are lost on the LAN",
        Reason::Interface => "its interface is missing, down or without an address",
        Reason::InterfaceUp => "its interface is usable again",
        Reason::Stalled => "this node did not run for too long",
        Reason::Warden => "the warden released the addresses",
        Reason::PeerHealthier => "the other node is active too and healthier",
        Reason::Shutdown => "the daemon stops",
        Reason::Removed => "a new configuration no longer has it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::ipc::Role;

    #[test]
    fn role_changes_read_well() {
        let event = Event::Role {
            instance: "web".to_owned(),
            family: Family::V6,
            from: Role::Backup,
            to: Role::Active,
            reason: Reason::ActiveDown,
        };
        assert_eq!(sentence(&event), "web (ipv6): backup -> active: the active node was not heard in time");
        assert!(!is_bad(&event));
    }

    #[test]
    fn every_event_of_the_node_has_words_of_its_own() {
        assert_eq!(
            sentence(&Event::PeerLink { alive: false }),
            "the other node is not heard on the peer link"
        );
        assert_eq!(sentence(&Event::Lbd { health: "down" }), "lbd is down");
        assert!(is_bad(&Event::Lbd { health: "down" }));
    }
}
