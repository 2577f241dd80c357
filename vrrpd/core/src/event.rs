//! What happened, for people: the entries of the event log.

use common::ipc::Role;
use serde::Serialize;

use crate::packet::Family;

/// Something an operator may want to know. The shell numbers and stamps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A virtual router changed its role.
    Role {
        /// The instance.
        instance: String,
        /// The virtual router's family.
        family: Family,
        /// What it was.
        from: Role,
        /// What it is.
        to: Role,
        /// Why.
        reason: Reason,
    },
    /// The effective priority changed.
    Priority {
        /// The instance.
        instance: String,
        /// The virtual router's family.
        family: Family,
        /// The priority it advertises now, or would.
        effective_priority: u8,
        /// How unhealthy the node is, 0 for healthy.
        severity: u8,
    },
    /// Another station claims one of our addresses while we are active.
    Conflict {
        /// The instance.
        instance: String,
        /// The virtual router's family.
        family: Family,
        /// The address.
        address: std::net::IpAddr,
        /// Whose.
        mac: String,
    },
    /// An address we own was removed by someone else; it is put back.
    AddressRestored {
        /// The instance.
        instance: String,
        /// The virtual router's family.
        family: Family,
        /// The address.
        address: std::net::IpAddr,
    },
    /// An address we do not own appeared on our interface; it is removed when it is marked as ours, else reported only.
    AddressUnexpected {
        /// The instance.
        instance: String,
        /// The virtual router's family.
        family: Family,
        /// The address.
        address: std::net::IpAddr,
    },
    /// This node was not run for too long and stepped down before speaking again.
    Stalled {
        /// The instance.
        instance: String,
        /// The virtual router's family.
        family: Family,
        /// Milliseconds since the last advertisement.
        silence_ms: u64,
    },
    /// The peer link came up or went down.
    PeerLink {
        /// Whether the peer is heard.
        alive: bool,
    },
    /// The peer runs with another configuration file or release.
    PeerDiffers {
        /// Its configuration's hash, hexadecimal.
        config_hash: String,
        /// Its release.
        version: String,
    },
    /// Advertisements are missing on the LAN although the peer, over the peer link, says it sends them.
    LanFault {
        /// The instance.
        instance: String,
        /// The virtual router's family.
        family: Family,
    },
    /// A handover did not complete; plain VRRP (priority 0) was used instead, or the role was kept.
    HandoverFailed {
        /// The instance.
        instance: String,
        /// The virtual router's family.
        family: Family,
        /// Why.
        reason: HandoverFailure,
    },
    /// The gateway stopped or started to answer.
    Gateway {
        /// The instance.
        instance: String,
        /// Whether it answers.
        reachable: bool,
    },
    /// `lbd`'s health changed.
    Lbd {
        /// `healthy`, `degraded` or `down`.
        health: &'static str,
    },
    /// Maintenance was switched.
    Maintenance {
        /// Whether it is on.
        on: bool,
    },
    /// A new configuration is in force.
    Reloaded {
        /// Its hash, hexadecimal.
        config_hash: String,
    },
    /// Something the shell tried for a virtual router failed.
    Failure {
        /// The instance.
        instance: String,
        /// The virtual router's family.
        family: Family,
        /// What, and why.
        what: String,
    },
}

/// Why a role changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The daemon started.
    Startup,
    /// It owns the addresses (priority 255).
    Owner,
    /// No advertisement was heard for Active_Down_Interval.
    ActiveDown,
    /// The active router resigned with priority 0.
    Resigned,
    /// A better advertisement was heard.
    HigherPriority,
    /// The active node asked this one to take over.
    Handover,
    /// The peer took over as asked.
    HandedOver,
    /// The active node said over the peer link that it no longer holds the addresses.
    Released,
    /// Advertisements were provably lost on the LAN.
    LanFault,
    /// Its interface is missing, down, or without an address.
    Interface,
    /// Its interface is usable again.
    InterfaceUp,
    /// This node did not run for too long.
    Stalled,
    /// The warden released the addresses.
    Warden,
    /// The peer is active too and healthier.
    PeerHealthier,
    /// The daemon stops.
    Shutdown,
    /// Taken out by a new configuration.
    Removed,
}

/// Why a handover did not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HandoverFailure {
    /// There is no peer link, or nothing was heard on it lately.
    NoPeer,
    /// The peer did not answer in time.
    TimedOut,
    /// The peer is not able to take over.
    Refused,
    /// The peer lacks connections that this node knows of, and they would not survive.
    Behind,
}
