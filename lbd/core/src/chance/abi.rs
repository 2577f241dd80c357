//! The twins of `lbd/bpf/chance_types.h`: what the maps of the program hold. A test compares them with the header.

use crate::forward::abi::bytes::{constants, twins};
use crate::forward::abi::{Abi, Address, Be16};

constants! {
    /// Addresses and ports that are proxied, at most.
    PROXIED_MAX: u32 = 4096;
    /// Size of `peers`; index 0 is nobody.
    PEERS_MAX: u32 = 64;
    /// [`Peer::flags`]: the MAC addresses of virtual routers are this node's too.
    PEER_VIRTUAL_MAC: u8 = 1;
    /// [`Peer::flags`]: this node has the virtual IPs, the other one has not.
    PEER_HAS_NOT: u8 = 2;
}

twins! {
    /// Where connections are accepted at a virtual IP.
    "proxied_key" ProxiedKey {
        /// The virtual IP.
        address: Address,
        /// The port.
        port: Be16,
        /// Zero.
        spare: u16,
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
        /// The interface of the virtual IPs.
        ifindex: u32,
        /// Its Ethernet address there.
        mac: [u8; 6],
        /// This node's.
        own_mac: [u8; 6],
        /// `PEER_*`.
        flags: u8,
        /// Zero.
        spare: [u8; 7],
    }
}

/// What the program counts, in the order of `chances`; the names are those of the metrics.
pub const CHANCES: [&str; 6] = ["sent", "sent_error", "received", "cookie", "back", "hops"];

#[cfg(test)]
pub(super) const HEADER: &str = include_str!("../../../bpf/chance_types.h");
#[cfg(test)]
pub(super) const ALL_CONSTANTS: &[(&str, u64)] = CONSTANTS;
