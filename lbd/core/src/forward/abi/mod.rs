//! The twins of `lbd/bpf/types.h`: what the maps of the forwarding program hold, as Rust values and as bytes.
//!
//! The header explains each of them; a test compares names, offsets, sizes and constants with its text. Numbers have the
//! host's byte order, except those of type [`Be16`], which come from packets and keep theirs. Addresses are 16 bytes in
//! network order, IPv4 as `::ffff:a.b.c.d`. Times are [`Ticks`].

pub(crate) mod bytes;
mod structs;
#[cfg(test)]
pub(crate) mod tests;
mod ticks;
mod values;

use common::hash::HashKey;

use bytes::constants;

pub use bytes::Abi;
pub use structs::*;
pub use ticks::*;
pub use values::*;

/// The header itself.
pub(crate) const HEADER: &str = include_str!("../../../../bpf/types.h");

/// What tells two layouts of the maps apart: a hash of the header's text, 16 hexadecimal digits. Maps pinned by a program
/// of another layout cannot be used by this one.
#[must_use]
pub fn layout_hash() -> String {
    let key = HashKey::new(*b"tandem map types");
    format!("{:016x}", key.bytes(HEADER.as_bytes()))
}

constants! {
    /// Size of `services` and its statistics; index 0 is nobody.
    SERVICES_MAX: u32 = 1024;
    /// Size of `targets` and its statistics; index 0 is nobody.
    TARGETS_MAX: u32 = 4096;
    /// Size of `endpoints` and `slots`; index 0 is nobody.
    ENDPOINTS_MAX: u32 = 4096;
    /// Size of `vips`; index 0 is nobody.
    VIPS_MAX: u32 = 1024;
    /// Size of `instances`; index 0 is `lbd` alone, always active.
    INSTANCES_MAX: u32 = 64;
    /// Size of `rings`; index 0 is nobody.
    RINGS_MAX: u32 = 1024;
    /// Slots of a ring.
    RING_SLOTS: usize = 65_537;
    /// Port ranges of a VIP.
    RANGES_MAX: usize = 16;
    /// Candidates of an endpoint.
    CANDIDATES_MAX: usize = 4;
    /// The port of an endpoint's first slot.
    NAT_PORT_FIRST: u16 = 1024;
    /// Slots of an endpoint.
    NAT_PORTS: u32 = 64_512;
    /// Ports looked at for one flow.
    NAT_TRIES: u32 = 32;
    /// The same for what opens no connection, once [`SEARCHES_PER_TICK`] of these have looked further.
    NAT_TRIES_SHORT: u32 = 4;
    /// Size of `links`, by interface index.
    LINKS_MAX: u32 = 65_536;
    /// [`Config::flags`]: there are endpoints.
    CONFIG_HAS_NAT: u32 = 1;
    /// [`Config::flags`]: a service has an access list.
    CONFIG_HAS_ACL: u32 = 2;
    /// [`Config::flags`]: there are endpoints without a port of their own.
    CONFIG_HAS_ANY_PORT: u32 = 4;
    /// [`Config::flags`]: flows are told to another node.
    CONFIG_REPLICATED: u32 = 16;
    /// [`Config::flags`]: health checks take the way of clients' packets.
    CONFIG_HAS_CHECKS: u32 = 8;
    /// [`Config::flags`]: flows that came from another layout may lack their ports.
    CONFIG_PORTS_MISSING: u32 = 32;
    /// The upper half of the mark that the sockets of such checks have; the lower one is the target's index.
    CHECK_MARK: u32 = 0x7a6c_0000;
    /// Which bits of a mark tell such sockets apart.
    CHECK_MARK_MASK: u32 = 0xffff_0000;
    /// Words of [`ServicePorts`].
    PORT_WORDS: usize = 1024;
    /// [`Instance::until`]: later than any time.
    OWNED_ALWAYS: u64 = 0x4000_0000_0000_0000;
    /// [`Service::mode`].
    MODE_NAT: u8 = 1;
    /// [`Service::mode`].
    MODE_DSR: u8 = 2;
    /// [`Service::flags`]: nat that leaves the source alone.
    SERVICE_PRESERVE_CLIENT: u32 = 1;
    /// [`Service::flags`]: the ring is looked up by the client's address.
    SERVICE_HASH_SOURCE: u32 = 2;
    /// [`Service::flags`]: clients come back to their target.
    SERVICE_AFFINITY: u32 = 4;
    /// [`Service::flags`]: new flows of an address are limited.
    SERVICE_SOURCE_RATE: u32 = 8;
    /// [`Service::flags`]: the client is looked up in `acl`.
    SERVICE_ACL: u32 = 16;
    /// [`Service::flags`]: TCP flows of an unhealthy target are reset instead of moved.
    SERVICE_RESET_UNHEALTHY: u32 = 32;
    /// [`Service::flags`]: what the other node has begun for an address counts, too.
    SERVICE_SOURCE_RATE_PAIR: u32 = 64;
    /// [`Target::state`]: not there.
    TARGET_ABSENT: u8 = 0;
    /// [`Target::state`]: in use.
    TARGET_UP: u8 = 1;
    /// [`Target::state`]: keeps known flows.
    TARGET_DRAINING: u8 = 2;
    /// [`Target::state`]: its flows move or are reset.
    TARGET_UNHEALTHY: u8 = 3;
    /// [`Target::way`]: no tunnel.
    WAY_PLAIN: u8 = 0;
    /// [`Target::way`]: IP in IP.
    WAY_IPIP: u8 = 1;
    /// [`Target::way`]: GRE without a key.
    WAY_GRE: u8 = 2;
    /// [`Target::way`]: generic UDP encapsulation.
    WAY_GUE: u8 = 3;
    /// [`Flow::state`]: the client has answered.
    STATE_ESTABLISHED: u8 = 1;
    /// [`Flow::state`]: a FIN from the client.
    STATE_CLIENT_FIN: u8 = 2;
    /// [`Flow::state`]: a FIN from the target.
    STATE_TARGET_FIN: u8 = 4;
    /// [`Flow::state`]: a RST.
    STATE_RESET: u8 = 8;
    /// [`Flow::state`]: datagrams.
    STATE_UDP: u8 = 128;
    /// [`Flow::seen`] may be older than the last packet by these ticks at least,
    REFRESH_TICKS: u32 = 16;
    /// by this part of the time-out,
    REFRESH_PART: u32 = 16;
    /// and by these ticks at most.
    REFRESH_TICKS_MAX: u32 = 256;
    /// Packets that a processor makes in a tick.
    ANSWERS_PER_TICK: u32 = 256;
    /// Searches for ports beyond the first few of a processor in a tick.
    SEARCHES_PER_TICK: u32 = 1024;
    /// Next hops that a processor tells of in a tick.
    NEXT_HOPS_PER_TICK: u32 = 64;
    /// Ways of a set.
    HALF_OPEN_WAYS: usize = 4;
    /// Sets of a processor.
    HALF_OPEN_SETS: u32 = 4096;
    /// [`Link::flags`]: packets are taken here.
    LINK_OURS: u8 = 1;
    /// [`Link::flags`]: virtual routers' MAC addresses are ours too.
    LINK_VIRTUAL_MAC: u8 = 2;
    /// [`Link::flags`]: TC may hand packets to the other end of this veth at once.
    LINK_OTHER_END: u8 = 4;
}
