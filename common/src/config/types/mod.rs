//! The configuration as the daemons use it: every value parsed once and within its range.
//!
//! Made by [`super::resolve`] only; a `Config` that exists is valid. All durations are `std`'s.

mod acme;
mod auth;
mod compress;
mod group;
mod http;
mod kernel;
mod otlp;
mod pair;
mod service;
mod template;
mod tls;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

pub use acme::*;
pub use auth::*;
pub use compress::*;
pub use group::*;
pub use http::*;
pub use kernel::*;
pub use otlp::*;
pub use pair::*;
pub use service::*;
pub use template::*;
pub use tls::*;

/// One configuration file: the same on both nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[pair]`; a file without it gives an unnamed pair without a key.
    pub pair: Pair,
    /// `[[node]]`: two; one or none for `lbd` alone.
    pub nodes: Vec<Node>,
    /// `[[vrrp]]` in the file's order.
    pub vrrp: Vec<Vrrp>,
    /// `[[service]]` in the file's order.
    pub services: Vec<Service>,
    /// `[[target_group]]` in the file's order.
    pub target_groups: Vec<TargetGroup>,
    /// `[kernel]`.
    pub kernel: Kernel,
    /// `[acme]`; there if a service has a certificate ordered.
    pub acme: Option<Acme>,
    /// `[api]`.
    pub api: Api,
    /// The first 8 bytes of SHA-256 over the file's bytes: what the nodes compare.
    pub hash: u64,
}

impl Config {
    /// The node with this name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The only node, which is the host that the file is on, whatever that is called.
    #[must_use]
    pub fn lone_node(&self) -> Option<&Node> {
        self.nodes.first().filter(|_| self.nodes.len() == 1)
    }

    /// The other node of the pair.
    #[must_use]
    pub fn peer_of(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name != name)
    }

    /// Whether the nodes tell each other of connections and sessions: a pair with a key does whose nodes have addresses for each other.
    #[must_use]
    pub fn is_replicated(&self) -> bool {
        let linked = self.nodes.iter().all(|node| node.peer_address.is_some());
        self.nodes.len() == 2 && linked && self.pair.key_file.is_some()
    }

    /// The target group with this name.
    #[must_use]
    pub fn target_group(&self, name: &str) -> Option<&TargetGroup> {
        self.target_groups.iter().find(|group| group.name == name)
    }

    /// The service and its address as whose client a target of a group is checked; none if the target's own address is asked. Of
    /// all addresses of services of mode `dsr` that forward to the group it is one of the target's family before others, one with
    /// the port that is checked before others, one for the check's protocol before others, and of equals the first in the file.
    #[must_use]
    pub fn checked_through(&self, group: &TargetGroup, target: SocketAddr) -> Option<(&Service, &Listen)> {
        let health = group.health.as_ref().filter(|health| health.via == Via::Vip)?;
        let (protocol, port) = (health.check.protocol(), health.port.unwrap_or(target.port()));
        let ours = |service: &&Service| service.mode == Mode::Dsr && service.forward == group.name;
        let each =
            self.services.iter().filter(ours).flat_map(|it| it.listen.iter().map(move |listen| (it, listen)));
        each.min_by_key(|(_, listen)| {
            let other_family = listen.address.is_ipv4() != target.is_ipv4();
            (other_family, !listen.ports().contains(&port), listen.protocol != protocol)
        })
    }
}

/// `[api]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Api {
    /// Where `vrrpd`'s API listens on TCP, `127.0.0.1:9112` by default.
    pub vrrpd: SocketAddr,
    /// Where `lbd`'s API listens on TCP, `127.0.0.1:9180` by default.
    pub lbd: SocketAddr,
    /// A file whose first line is the bearer token that allows changes over TCP.
    pub token_file: Option<PathBuf>,
}

impl Api {
    /// Where `vrrpd`'s API listens when the file does not say.
    pub const VRRPD: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9112);
    /// Where `lbd`'s API listens when the file does not say.
    pub const LBD: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9180);
}
