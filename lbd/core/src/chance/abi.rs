//! The twins of `lbd/bpf/chance_types.h`: what the maps of the program hold. A test compares them with the header.

use crate::forward::abi::bytes::{constants, twins};
use crate::forward::abi::{Abi, Address, Be16};

constants! {
    /// Addresses and ports that are proxied, at most.
    PROXIED_MAX: u32 = 4096;
    /// Size of `peers`; index 0 is nobody.
    PEERS_MAX: u32 = 64;
    /// Sessions of datagrams of both nodes, at most.
    SESSIONS_MAX: u32 = 131072;
    /// Packets in fragments that are remembered, at most.
    SENT_FRAGMENTS_MAX: u32 = 4096;
    /// Connections whose end is remembered, at most.
    CLOSINGS_MAX: u32 = 32768;
    /// [`Session::holder`]: this node.
    SESSION_HERE: u32 = 1;
    /// [`Session::holder`]: the other one.
    SESSION_OTHER: u32 = 2;
    /// [`Peer::flags`]: the MAC addresses of the virtual router are this node's too.
    PEER_VIRTUAL_MAC: u8 = 1;
    /// [`Peer::flags`]: this node has the virtual IPs, the other one has not.
    PEER_HAS_NOT: u8 = 2;
    /// [`Peer::flags`]: the other node is no neighbour, and is reached through the tunnel.
    PEER_APART: u8 = 4;
    /// The number of the tunnel between the nodes.
    TUNNEL_ID: u32 = 7112;
    /// UDP's port of the tunnel.
    TUNNEL_PORT: u16 = 7113;
    /// The priority of the tunnel's packets that came from the other node by the link.
    TUNNEL_PRIORITY: u32 = 0x7a6d_7113;
}

twins! {
    /// Where connections are accepted, or datagrams taken, at a virtual IP.
    "proxied_key" ProxiedKey {
        /// The virtual IP.
        address: Address,
        /// The port.
        port: Be16,
        /// IP's number: 6 TCP, 17 UDP.
        protocol: u8,
        /// Zero.
        spare: u8,
    }

    /// Who else may have connections there.
    "proxied" Proxied {
        /// Index in `peers`.
        peer: u32,
    }

    /// The other node in the network of a VRRP instance.
    "peer" Peer {
        /// It may have connections before this time, in nanoseconds of `CLOCK_BOOTTIME`; 0 for never.
        until: u64,
        /// The same of the sessions that `sessions` says it has.
        sessions_until: u64,
        /// The interface of the virtual IPs.
        ifindex: u32,
        /// Its Ethernet address there.
        mac: [u8; 6],
        /// This node's.
        own_mac: [u8; 6],
        /// `PEER_*`.
        flags: u8,
        /// The virtual router's number.
        vrid: u8,
        /// Zero.
        spare: [u8; 6],
    }

    /// The way to the other node where it is no neighbour.
    "tunnel" Tunnel {
        /// The tunnel's device; 0 while there is none.
        ifindex: u32,
        /// The interface of the link between the nodes.
        link: u32,
        /// 1 if the ends are addresses of IPv6.
        v6: u32,
        /// The other node's address on the link.
        other: Address,
        /// This node's.
        own: Address,
    }

    /// Who has the session of a client's datagrams.
    "session" Session {
        /// `SESSION_*`.
        holder: u32,
    }
}

/// What the program counts, in the order of `chances`; the names are those of the metrics.
pub const CHANCES: [&str; 6] = ["sent", "sent_error", "received", "cookie", "back", "strange"];

#[cfg(test)]
pub(super) const HEADER: &str = include_str!("../../../bpf/chance_types.h");
#[cfg(test)]
pub(super) const ALL_CONSTANTS: &[(&str, u64)] = CONSTANTS;
