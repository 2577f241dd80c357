//! What the API, `lbd status` and the metrics show of the second chance. Fields are only ever added.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::view::{InterfaceView, TroubleView};

/// `GET /v1/second-chance`; null where no virtual IP is proxied, or there is no other node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChanceView {
    /// Why proxied connections do not survive a move; null if they do.
    pub(crate) off_because: Option<String>,
    /// The interfaces that the program is on.
    pub(crate) interfaces: Vec<InterfaceView>,
    /// How often the program was put where somebody else had taken it off.
    #[serde(default)]
    pub(crate) attached_again: u64,
    /// What does not work.
    pub(crate) troubles: Vec<TroubleView>,
    /// VRRP instances with proxied services, by name.
    pub(crate) instances: BTreeMap<String, InstanceChanceView>,
    /// Packets for what is proxied: `sent` to the other node, `sent_error` (ICMP), `received` from it, `back` (came back from it, dropped), `cookie` (ends a handshake with a
    /// SYN cookie here), `strange` (came out of the tunnel, but not from the other node by the link, or for nothing that lives here; dropped).
    pub(crate) packets: BTreeMap<String, u64>,
    /// Sessions of datagrams that do not survive a move, for want of room in the program's table.
    #[serde(default)]
    pub(crate) sessions_refused: u64,
}

/// A VRRP instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InstanceChanceView {
    /// Connections, and sessions of datagrams, that this node serves although the virtual IPs are not here any more.
    pub(crate) draining: u32,
    /// How many of them are sessions of datagrams.
    #[serde(default)]
    pub(crate) draining_sessions: u32,
    /// What the other node serves although the virtual IPs are not there any more, as it says.
    pub(crate) draining_by_peer: u32,
    /// Whether packets of connections that are not here are sent on to the other node.
    pub(crate) sends: bool,
    /// Whether datagrams of sessions that the other node has are sent on to it.
    #[serde(default)]
    pub(crate) sends_datagrams: bool,
    /// How: `lan`, as to a neighbour, or `tunnel`, through the link between the nodes.
    #[serde(default)]
    pub(crate) way: String,
    /// The other node's Ethernet address in the instance's network, as it says.
    pub(crate) peer_mac: Option<String>,
}

impl ChanceView {
    /// It does not run.
    pub(super) fn off(why: String) -> Self {
        Self { off_because: Some(why), ..Self::default() }
    }
}
