//! What the running daemon says of the second chance of proxied connections.

use lbd_core::chance::abi::TUNNEL_PORT;

use super::{Level, Report};
use crate::view::Status;

/// What reports call it.
const TOPIC: &str = "second chance";

pub(super) fn look(status: &Status, report: &mut Report) {
    let Some(chance) = &status.second_chance else { return };
    if let Some(why) = &chance.off_because {
        report.add(Level::Note, TOPIC, format!("off, so no proxied connection survives a move: {why}"));
    }
    for it in &chance.interfaces {
        report.add(Level::Good, &it.name, format!("{} for {}; {}", it.attached, it.purpose, it.why));
    }
    for (instance, _) in chance.instances.iter().filter(|(_, it)| it.way == "tunnel") {
        let finding = format!(
            "in the network of {instance} the other node is no neighbour: packets of its connections go through a tunnel over the link \
             between the nodes, for which firewalls there are to pass UDP port {TUNNEL_PORT}"
        );
        report.add(Level::Note, TOPIC, finding);
    }
    let strange = chance.packets.get("strange").copied().unwrap_or(0);
    if strange > 0 {
        let finding = format!(
            "{strange} packets that came out of the tunnel were dropped: the other node did not send them, they came by another \
             interface than the one that leads to it, or they were for nothing that lives here"
        );
        report.add(Level::Note, TOPIC, finding);
    }
    for trouble in &chance.troubles {
        report.add(Level::Bad, &trouble.what, &trouble.why);
    }
}
