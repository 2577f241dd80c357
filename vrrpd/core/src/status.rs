//! A node's state, as `GET /v1/status` shows it.

use std::net::IpAddr;

use common::ipc::Role;
use serde::Serialize;

use crate::packet::Family;

/// One node's state.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NodeStatus {
    /// This node's name.
    pub node: String,
    /// The other node's name.
    pub peer: String,
    /// The hash of the configuration in force, hexadecimal.
    pub config_hash: String,
    /// The peer link.
    pub peer_link: PeerLinkStatus,
    /// Whether maintenance is on.
    pub maintenance: bool,
    /// `lbd`'s health: `healthy`, `degraded`, `down` or `untracked`.
    pub lbd: &'static str,
    /// Whether `lbd` lacks connections that the other node's has, or has not said yet that it does not, so that this node preempts no
    /// healthy one.
    pub behind: bool,
    /// The instances in the configuration's order.
    pub instances: Vec<InstanceStatus>,
    /// Dropped advertisements by reason, for those that match no virtual router of ours.
    pub unmatched_drops: Vec<Count>,
    /// Dropped peer datagrams by reason.
    pub peer_drops: Vec<Count>,
}

/// A named counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Count {
    /// What is counted.
    pub reason: &'static str,
    /// How many.
    pub count: u64,
}

/// The peer link.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PeerLinkStatus {
    /// Whether both a `peer_address` and a `key_file` are configured.
    pub configured: bool,
    /// Whether the peer was heard lately.
    pub alive: bool,
    /// Whether it said that it lacks connections that this node knows of.
    pub behind: bool,
    /// Milliseconds since it was heard; absent if never.
    pub last_heard_ms_ago: Option<u64>,
    /// The peer's configuration hash, hexadecimal.
    pub config_hash: Option<String>,
    /// Whether it equals ours.
    pub same_config: Option<bool>,
    /// The peer's release.
    pub version: Option<String>,
    /// Whether it equals ours.
    pub same_version: Option<bool>,
}

/// One instance.
#[derive(Clone, Debug, Serialize)]
pub struct InstanceStatus {
    /// Its name.
    pub name: String,
    /// Its role: that of its virtual routers if they agree; otherwise `fault` if one is, else `backup`.
    pub role: Role,
    /// Wall-clock milliseconds since the Unix epoch of the last role change.
    pub since_unix_ms: u64,
    /// The interface.
    pub interface: String,
    /// The virtual router's number.
    pub vrid: u8,
    /// The configured priority.
    pub priority: u8,
    /// The priority in force.
    pub effective_priority: u8,
    /// Why it is lower: `maintenance`, `lbd_down`, `lbd_degraded`, `targets`, `interface:NAME`, `gateway`.
    pub reasons: Vec<String>,
    /// Virtual addresses with prefix lengths.
    pub vips: Vec<String>,
    /// Its virtual routers, one for each address family.
    pub routers: Vec<RouterStatus>,
}

impl InstanceStatus {
    /// What `lbd` is told: active from when the first of the virtual routers becomes active until the last one has left, so
    /// that `lbd` forwards what comes to any of their addresses.
    #[must_use]
    pub fn forwarding_role(&self) -> Role {
        let active = self.routers.iter().any(|router| router.role == Role::Active);
        if active { Role::Active } else { self.role }
    }

    /// Whether a virtual router of it is active because nothing was heard of the one before: the other node is gone, or cut off from the
    /// LAN.
    #[must_use]
    pub fn is_from_silence(&self) -> bool {
        self.routers.iter().any(|router| router.from_silence)
    }
}

/// One virtual router.
#[derive(Clone, Debug, Serialize)]
pub struct RouterStatus {
    /// Its family.
    pub family: Family,
    /// Its role.
    pub role: Role,
    /// Active because nothing was heard of the one before.
    pub from_silence: bool,
    /// Active although the other node says over the peer link that it is, too, and has connections that this one lacks: it advertises priority 1,
    /// and gives way as soon as they hear each other.
    pub provisional: bool,
    /// Its own address on the interface.
    pub source: Option<IpAddr>,
    /// The configured advertisement interval, in milliseconds.
    pub advert_interval_ms: u64,
    /// The interval learned from the active router, in milliseconds.
    pub active_interval_ms: u64,
    /// The router last heard on the LAN.
    pub last_advert_from: Option<IpAddr>,
    /// Its priority.
    pub last_advert_priority: Option<u8>,
    /// Milliseconds since then.
    pub last_advert_ms_ago: Option<u64>,
    /// The peer's role as its heartbeat says.
    pub peer_role: Option<Role>,
    /// Role changes since the start.
    pub transitions: u64,
    /// Advertisements sent.
    pub adverts_sent: u64,
    /// Advertisements accepted.
    pub adverts_received: u64,
    /// Announcements (rounds of gratuitous ARP or neighbour advertisements) sent.
    pub announcements: u64,
    /// Claims of our addresses by others, seen while active.
    pub conflicts: u64,
    /// Dropped advertisements by reason.
    pub drops: Vec<Count>,
    /// Advertisements sent more than a tenth of their interval late.
    pub adverts_late: u64,
    /// How late the last advertisement timer was served, in microseconds.
    pub lateness_us: u64,
    /// The greatest lateness since the start, in microseconds.
    pub lateness_max_us: u64,
}
