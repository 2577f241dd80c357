//! Forwarding in the kernel: what services of mode `nat` and `dsr` have, and `[kernel]`.

use serde::Serialize;

use super::PerNode;
use crate::time::Duration;

/// How the kernel forwards the packets of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// What is done with a packet.
    pub method: Method,
    /// What happens to the TCP flows of a target that becomes unhealthy. Flows of datagrams move in any case.
    pub on_unhealthy: OnUnhealthy,
    /// When flows are forgotten.
    pub timeout: FlowTimeouts,
}

/// What is done with a packet on its way to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Its addresses and ports are rewritten, and those of the answers back.
    Nat {
        /// Whether the source stays the client's instead of becoming the VIP; the targets' answers must then be routed
        /// through the pair. False by default.
        preserve_client_ip: bool,
    },
    /// It reaches the target as it is, which answers the client directly.
    Dsr(Dsr),
}

crate::named! {
    /// The way on which a packet reaches a target as it is.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
    #[serde(rename_all = "lowercase")]
    pub enum Dsr {
        /// To the target's MAC address, on a link that both share.
        L2 => "l2",
        /// In an IP packet.
        Ipip => "ipip",
        /// In an IP packet with a GRE header.
        Gre => "gre",
        /// In a datagram of generic UDP encapsulation.
        Gue => "gue",
    }
}

/// What happens to the TCP flows of a target that becomes unhealthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUnhealthy {
    /// The client gets a reset, so that it connects again at once.
    #[default]
    Reset,
    /// Their packets go to another target: for targets that can take over each other's connections.
    Move,
}

/// After how long without a packet a flow is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTimeouts {
    /// An established TCP flow; 1 s to 24 h, 350 s by default (`idle`).
    pub established: Duration,
    /// A flow of datagrams; 1 s to 24 h, 120 s by default (`idle`).
    pub datagrams: Duration,
    /// A flow of which only the client's first packet was seen; 1 s to 10 min, 30 s by default.
    pub half_open: Duration,
    /// A TCP flow that both ends have closed; 1 s to 1 h, 60 s by default.
    pub closing: Duration,
}

impl Default for FlowTimeouts {
    fn default() -> Self {
        Self {
            established: Duration::from_secs(350),
            datagrams: Duration::from_secs(120),
            half_open: Duration::from_secs(30),
            closing: Duration::from_secs(60),
        }
    }
}

/// `[kernel]`: what all services of mode `nat` and `dsr` share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Flows that can be remembered; 1,000 to 16,000,000, 1,000,000 by default. Their memory, about 125 bytes each, is
    /// taken when the program is loaded.
    pub max_flows: u32,
    /// So many new flows in a second are remembered by each processor; 1,000 to 10,000,000, 125,000 by default. More are
    /// forwarded by their hash alone.
    pub new_flows_per_second: u32,
    /// Where the program is attached; `auto` by default.
    pub attach: Attach,
    /// Every so many packets a sample is taken for the trace; 0, the default, for none, to 1,000,000,000.
    pub trace_every: u32,
    /// The port that `gue` sends to; 6080 by default.
    pub gue_port: u16,
    /// How long a node goes on forwarding the flows it knows after it has stopped being active; up to 5 min, 10 s by
    /// default.
    pub drain_timeout: Duration,
    /// See [`Self::interfaces_of`].
    pub(in crate::config) interfaces: Vec<String>,
    /// See [`Self::interfaces_of`].
    pub(in crate::config) node_interfaces: PerNode<Vec<String>>,
}

impl Kernel {
    /// The interfaces of a node that clients' or targets' packets arrive on, beside those of its virtual IPs, of the
    /// addresses listened on and of the routes to the targets.
    #[must_use]
    pub fn interfaces_of(&self, node: &str) -> &[String] {
        self.node_interfaces.get(node).unwrap_or(&self.interfaces)
    }
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            max_flows: 1_000_000,
            new_flows_per_second: 125_000,
            attach: Attach::Auto,
            trace_every: 0,
            gue_port: 6080,
            drain_timeout: Duration::from_secs(10),
            interfaces: Vec::new(),
            node_interfaces: PerNode::new(),
        }
    }
}

/// Where the program sees packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Attach {
    /// Wherever is best on each interface; the status says which, and why.
    #[default]
    Auto,
    /// In traffic control, as packets enter the stack: works on every interface.
    Tc,
    /// In traffic control, by a filter of clsact also where the kernel has tcx links, which come before all filters.
    Clsact,
    /// In the driver. An interface whose driver cannot is an error.
    Xdp,
}
