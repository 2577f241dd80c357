//! Why a command was not carried out.

use std::time::Duration;

use common::ipc::Role;
use vrrpd_core::event::HandoverFailure;

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No such instance.
    #[error("there is no instance {name}; this node has {}", list(known))]
    UnknownInstance {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// A switchover is asked of the active node.
    #[error("this node is {} for instance {instance}, and only the active node can hand it over{}", role.name(), ask(active.as_deref()))]
    NotActive {
        /// The instance.
        instance: String,
        /// This node's role.
        role: Role,
        /// The node that is active, where that is known.
        active: Option<String>,
    },
    /// Nothing is heard of the other node, or it could not serve.
    #[error("instance {instance} cannot be handed over: {reason}")]
    PeerUnavailable {
        /// The instance.
        instance: String,
        /// Why not.
        reason: String,
    },
    /// It was tried.
    #[error("the handover of instance {instance} failed: {}", handover(*.reason))]
    HandoverFailed {
        /// The instance.
        instance: String,
        /// Why.
        reason: HandoverFailure,
    },
    /// The configuration cannot be put in force without a restart, or not at all; the former one stays.
    #[error("the new configuration was not put in force: {reason}")]
    ReloadFailed {
        /// Why.
        reason: String,
    },
    /// Another command of the kind is under way, or the queue is full.
    #[error("vrrpd is busy with other commands, try again in a moment")]
    Busy,
    /// The loop ends or has ended.
    #[error("vrrpd is stopping")]
    Stopping,
    /// No answer within the time a caller waits; it may still be carried out.
    #[error("no answer within {} s; `vrrpd status` shows what came of it", .0.as_secs())]
    TimedOut(Duration),
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn ask(active: Option<&str>) -> String {
    active.map_or_else(String::new, |node| format!("; ask node {node}"))
}

/// Why a handover failed, in words.
pub(crate) const fn handover(reason: HandoverFailure) -> &'static str {
    match reason {
        HandoverFailure::NoPeer => "the other node is not heard on the peer link",
        HandoverFailure::TimedOut => "the other node did not answer in time",
        HandoverFailure::Refused => "the other node is not able to take over",
        HandoverFailure::Behind => {
            "the other node does not know of all connections yet, and those would break; wait until `lbd status` there says \"synced\", or have it move all the same with `vrrpd maintenance on` here"
        }
    }
}
