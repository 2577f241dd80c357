//! What makes a check's socket that of a client of a virtual IP, whose packets the kernel's program takes to the target that is
//! checked (`lbd/bpf/check.h`).

use std::io;
use std::net::{IpAddr, SocketAddr};

use lbd_core::forward::abi::CHECK_MARK;
use lbd_core::forward::plan::Through;
use socket2::SockRef;

/// Nobody forwards a packet that has no hop left: neither a target that does not take it for its own, nor the other node, if it
/// strays there.
const HOPS: u32 = 1;

/// The segments that TCP can be told to keep to, in bytes.
const SEGMENTS: std::ops::RangeInclusive<u32> = 88..=32_767;

/// Before it is connected to the virtual IP.
pub(super) fn be(socket: SockRef<'_>, through: &Through) -> io::Result<()> {
    socket.set_mark(CHECK_MARK | u32::from(through.target))?;
    match through.vip {
        IpAddr::V4(_) => socket.set_ttl_v4(HOPS)?,
        IpAddr::V6(_) => socket.set_unicast_hops_v6(HOPS)?,
    }
    socket.bind(&SocketAddr::new(through.source, 0).into())
}

/// The loopback interface, by which its packets leave, takes larger ones than the way to the target.
pub(super) fn limit_segments(socket: SockRef<'_>, through: &Through) -> io::Result<()> {
    socket.set_tcp_mss(u32::from(through.segment).clamp(*SEGMENTS.start(), *SEGMENTS.end()))
}
