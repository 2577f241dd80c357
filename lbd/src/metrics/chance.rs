//! What is known of proxied connections whose virtual IPs have moved.

use std::fmt;

use super::{Out, flag};
use crate::l4::kernel::Chance;

/// Encodes it, where virtual IPs of a pair are proxied.
pub(super) fn encode(out: &mut Out<'_>, chance: &Chance) -> fmt::Result {
    let Some(view) = chance.show() else { return Ok(()) };
    let running = flag(view.off_because.is_none() && view.troubles.is_empty());
    out.gauge("second_chance_running", "Whether proxied connections survive a move", running)?;
    let each = |pick: fn(&crate::l4::kernel::InstanceChanceView) -> f64| {
        let instances = view.instances.iter();
        instances.map(move |(name, it)| (vec![("instance", name.as_str())], pick(it))).collect::<Vec<_>>()
    };
    let help = "Connections and sessions served here although the virtual IPs have left";
    out.gauges("second_chance_draining", help, each(|it| f64::from(it.draining)))?;
    let help = "Sessions of datagrams among them";
    out.gauges("second_chance_draining_sessions", help, each(|it| f64::from(it.draining_sessions)))?;
    let help = "Connections served by the other node although the virtual IPs have left it";
    out.gauges("second_chance_draining_by_peer", help, each(|it| f64::from(it.draining_by_peer)))?;
    let help = "Whether packets of unknown connections are sent on to the other node";
    out.gauges("second_chance_sends", help, each(|it| flag(it.sends)))?;
    let help = "Whether datagrams of the other node's sessions are sent on to it";
    out.gauges("second_chance_sends_datagrams", help, each(|it| flag(it.sends_datagrams)))?;
    let help = "Whether the other node is no neighbour there, and reached by tunnel";
    out.gauges("second_chance_tunnel", help, each(|it| flag(it.way == "tunnel")))?;
    let packets = view.packets.iter().map(|(what, count)| (vec![("what", what.as_str())], *count));
    out.counters("second_chance_packets", "Packets for what is proxied", packets)?;
    let help = "Sessions of datagrams that do not survive a move for want of room";
    out.counter("second_chance_sessions_refused", help, view.sessions_refused)
}
