//! The configuration as the daemons use it: every value parsed once and within its range.
//!
//! Made by [`super::resolve`] only; a `Config` that exists is valid. All durations are `std`'s.

mod group;
mod pair;
mod service;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

pub use group::*;
pub use pair::*;
pub use service::*;

/// One configuration file: the same on both nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[pair]`; a file without it gives an unnamed pair without a key.
    pub pair: Pair,
    /// `[[node]]`: none (`lbd` alone) or two.
    pub nodes: Vec<Node>,
    /// `[[vrrp]]` in the file's order.
    pub vrrp: Vec<Vrrp>,
    /// `[[service]]` in the file's order.
    pub services: Vec<Service>,
    /// `[[target_group]]` in the file's order.
    pub target_groups: Vec<TargetGroup>,
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

    /// The other node of the pair.
    #[must_use]
    pub fn peer_of(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name != name)
    }

    /// The target group with this name.
    #[must_use]
    pub fn target_group(&self, name: &str) -> Option<&TargetGroup> {
        self.target_groups.iter().find(|group| group.name == name)
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
