//! What becomes of health checks that take the way of clients' packets, told by two rules: a check's packet is to look like a
//! client's that was forwarded to the target of its mark and had one hop left, and an answer is the stack's by its loopback interface.

use super::oracle::{Expected, Flow, Oracle, Outcome, Tuple};
use super::packet::Packet;
use super::parse::View;

/// The upper half of a check's mark.
pub const MARK: u32 = 0x7a6c_0000;

/// What comes out where the loopback interface sends a packet of a socket with this mark.
///
/// # Panics
/// If the packet has no ports.
#[must_use]
pub fn sent(oracle: &Oracle, packet: &Packet, mark: u32) -> Expected {
    let vips = &oracle.world.vips;
    let (target, ours) =
        ((mark & 0xffff) as u16, vips.iter().any(|(vip, _)| *vip == packet.destination.ip()));
    if mark >> 16 != MARK >> 16 || !ours {
        return Expected::pass();
    }
    let dropped = Expected { outcome: Outcome::Drop, reason: None };
    // As a client's it has a hop more, which forwarding takes off.
    let frame = Packet { ttl: packet.ttl + 1, ..packet.clone() }.frame();
    let view = View::of(&frame).expect("a packet");
    let place = usize::from(target).checked_sub(1);
    let Some(known) = place.and_then(|place| oracle.world.targets.get(place)) else { return dropped };
    if !known.reachable || view.length() > usize::from(known.mtu) {
        return dropped;
    }
    let (source, destination) = view.ports(&frame).expect("ports");
    let tuple = Tuple { protocol: view.protocol, client: source, service: destination };
    let (seen, service) = (oracle.world.now, 1);
    let flow = Flow { seen, target, service, port: 0, confirmed: true, fins: (false, false), reset: false };
    Expected::forward(oracle.sent(&frame, &view, &tuple, &flow, false))
}

/// An answer as the loopback interface is given it.
#[must_use]
pub fn answered(frame: &[u8]) -> Vec<u8> {
    [&[0; 12], &frame[12..]].concat()
}
