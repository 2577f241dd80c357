//! The metrics that only `udp` services have.

use std::fmt;
use std::sync::Arc;

use common::config::Mode;
use lbd_core::udp_sessions::{DatagramDrop, SessionEnd};

use super::Out;
use crate::counters::{Counter, ServiceCounters};
use crate::snapshot::Service;

pub(super) fn encode(out: &mut Out<'_>, services: &[Arc<Service>]) -> fmt::Result {
    let services: Vec<_> = services.iter().filter(|service| service.config.mode == Mode::Udp).collect();
    let each = || services.iter().map(|service| (service.config.name.as_str(), &service.shared.counters));
    out.counters(
        "service_datagrams",
        "Datagrams passed on",
        each().flat_map(|(name, counters)| {
            let labels = |direction| vec![("service", name), ("direction", direction)];
            [
                (labels("to_target"), counters.sum(|shard| &shard.udp.datagrams_to_target)),
                (labels("to_client"), counters.sum(|shard| &shard.udp.datagrams_to_client)),
            ]
        }),
    )?;
    out.counters(
        "service_datagrams_dropped",
        "Datagrams not passed on",
        each().flat_map(|(name, counters)| {
            let count = |it: DatagramDrop| counters.sum(|shard| &shard.udp.drops[it.index()]);
            DatagramDrop::ALL.map(|it| (vec![("service", name), ("reason", it.name())], count(it)))
        }),
    )?;
    out.counters(
        "service_sessions_ended",
        "Sessions by how they ended",
        each().flat_map(|(name, counters)| {
            let count = |it: SessionEnd| counters.sum(|shard| &shard.udp.ends[it.index()]);
            SessionEnd::ALL.map(|it| (vec![("service", name), ("end", it.name())], count(it)))
        }),
    )?;
    let plain = |count: fn(&ServiceCounters) -> &Counter| {
        each().map(move |(name, counters)| (vec![("service", name)], counters.sum(count)))
    };
    out.counters(
        "service_sessions_moved",
        "Sessions that were given another target",
        plain(|shard| &shard.udp.moved),
    )?;
    out.counters(
        "service_session_socket_errors",
        "Sockets for sessions that could not be opened",
        plain(|shard| &shard.udp.socket_errors),
    )
}
