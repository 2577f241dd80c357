//! The configuration as the daemons use it: every value parsed once and within its range.
//!
//! Made by [`super::resolve`] only; a `Config` that exists is valid. All durations are `std`'s.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Serialize;

use crate::time::Duration;

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

/// `[pair]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pair {
    /// A name for people; empty when not given.
    pub name: String,
    /// Where the pair's key is; a relative path is relative to the configuration file.
    pub key_file: Option<PathBuf>,
}

/// `[[node]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name, by default matched with the host's name.
    pub name: String,
    /// Its address on the link between the nodes.
    pub peer_address: Option<IpAddr>,
}

/// A value that may differ between the nodes, by node name.
pub type PerNode<T> = BTreeMap<String, T>;

/// `[[vrrp]]`: an instance, which is one virtual router per address family among its VIPs.
#[derive(Clone, Debug, PartialEq)]
pub struct Vrrp {
    /// Its name.
    pub name: String,
    /// The LAN interface of each node.
    pub interface: PerNode<String>,
    /// The virtual router's number.
    pub vrid: Vrid,
    /// The priority of each node; never equal.
    pub priority: PerNode<Priority>,
    /// The virtual IPs with their prefix lengths, in the file's order, families mixed; may be empty with a hook.
    pub vips: Vec<IpNet>,
    /// The nodes' own addresses on the LAN, for unicast; by node and family. Empty when not given.
    pub addresses: PerNode<Vec<IpAddr>>,
    /// Time between advertisements: 10 ms to 40 s, a multiple of 10 ms (1 s to 40 s and whole seconds with version 2).
    pub advert_interval: Duration,
    /// Whether a node of higher priority takes over from an active one of lower priority.
    pub preempt: bool,
    /// How long a node waits after its start or recovery before it preempts; 0 to 1 h.
    pub preempt_delay: Duration,
    /// How advertisements travel.
    pub transport: Transport,
    /// Whether they are signed.
    pub auth: Auth,
    /// The protocol version spoken: 3, or 2 for mixed pairs.
    pub version: VrrpVersion,
    /// Which reading of the IPv4 checksum is sent (both are accepted); by default that of the message, or with the pseudo-header
    /// for plain version 3 (`auth` none), whose other end may be keepalived.
    pub checksum: ChecksumReading,
    /// Whether the VIPs live on a macvlan with the virtual router's MAC address.
    pub virtual_mac: bool,
    /// What lowers the effective priority.
    pub track: Track,
    /// How often becoming active is announced.
    pub announce: Announce,
    /// Programs run on role changes.
    pub hooks: Hooks,
}

/// A virtual router identifier, 1 to 255 (RFC 9568 §5.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Vrid(u8);

impl Vrid {
    /// The identifier, if it is in range.
    #[must_use]
    pub const fn new(value: u8) -> Option<Self> {
        if value == 0 { None } else { Some(Self(value)) }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// A configured priority, 1 to 255; 255 is the owner of the addresses (RFC 9568 §5.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Priority(u8);

impl Priority {
    /// The priority of the router that owns the virtual addresses.
    pub const OWNER: Self = Self(255);

    /// The priority, if it is in range.
    #[must_use]
    pub const fn new(value: u8) -> Option<Self> {
        if value == 0 { None } else { Some(Self(value)) }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// How advertisements travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// To 224.0.0.18 or ff02::12.
    #[default]
    Multicast,
    /// To the other node's address on the interface (`addresses`), else to its `peer_address`.
    Unicast,
}

/// Whether advertisements are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Auth {
    /// Plain packets are sent and accepted; a trailer, if there is one, is ignored. The default without a `key_file`.
    None,
    /// Signed packets are sent; both kinds are accepted. For rolling a key out.
    Permissive,
    /// Signed packets are sent and nothing else is accepted. The default with a `key_file`.
    Hmac,
}

/// The VRRP version spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(into = "u8")]
pub enum VrrpVersion {
    /// RFC 3768, IPv4 only.
    V2,
    /// RFC 9568.
    #[default]
    V3,
}

impl From<VrrpVersion> for u8 {
    fn from(version: VrrpVersion) -> Self {
        match version {
            VrrpVersion::V2 => 2,
            VrrpVersion::V3 => 3,
        }
    }
}

/// What the checksum of a version 3 IPv4 advertisement covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChecksumReading {
    /// The VRRP message only, as RFC 9568 says.
    #[default]
    Message,
    /// An IPv4 pseudo-header too, as RFC 5798 was commonly read (keepalived's and FRR's default).
    PseudoHeader,
}

/// `track` of an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Track {
    /// Whether `lbd`'s health counts; true unless the file has no service.
    pub lbd: bool,
    /// Whether a service of `lbd` that has no healthy target counts too; true by default, moot without `lbd`.
    pub targets: bool,
    /// Further interfaces of the node that must be up.
    pub interfaces: Vec<String>,
    /// An address on the LAN that must answer ARP or neighbour solicitation.
    pub gateway: Option<IpAddr>,
}

/// `announce` of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announce {
    /// How many times gratuitous ARP and neighbour advertisements are sent on becoming active; 1 to 30, 5 by default.
    pub repeat: u32,
    /// The time between them; 1 ms to 10 s, 1 s by default. The first two follow each other after 50 ms at most.
    pub interval: Duration,
    /// The slow refresh while active; 0 (off) or 1 s to 1 h, 60 s by default.
    pub refresh: Duration,
}

/// `hooks` of an instance: program and arguments, run without a shell; empty is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// On becoming active.
    pub on_active: Vec<String>,
    /// On becoming backup.
    pub on_backup: Vec<String>,
    /// On entering fault.
    pub on_fault: Vec<String>,
    /// After this a hook is killed; 100 ms to 10 min, 10 s by default.
    pub timeout: Duration,
}

/// `[[service]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// How its traffic is handled. Only `tcp` exists so far; `check` refuses the others as not available yet.
    pub mode: Mode,
    /// The addresses it listens on, `@instance:port` already expanded to every VIP of the instance but link-local ones
    /// (binding those takes an interface). At most 4,096 of all services together.
    pub listen: Vec<Listen>,
    /// The target group that serves it.
    pub forward: String,
    /// Its time-outs.
    pub timeout: Timeouts,
    /// Its limits.
    pub limits: Limits,
}

/// How a service's traffic is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Terminated and proxied as a byte stream.
    Tcp,
}

/// One address a service listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Address and port.
    pub address: SocketAddr,
    /// The instance whose VIP this is; none for an address of the node's own (`lbd` alone).
    pub instance: Option<String>,
}

/// `timeout` of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For connecting to a target; 1 ms to 75 s, 5 s by default.
    pub connect: Duration,
    /// A connection with no byte in either direction for so long is closed; 1 s to 7 days, 350 s by default.
    pub idle: Duration,
}

/// `limits` of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at the same time on this node, all workers together; 1 to 10,000,000, 100,000 by default. More are
    /// closed at once and counted.
    pub max_connections: u32,
}

/// `[[target_group]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetGroup {
    /// Its name.
    pub name: String,
    /// How a target is chosen. Only `round_robin` exists so far.
    pub algorithm: Algorithm,
    /// Its targets, at least one.
    pub targets: Vec<Target>,
    /// How targets are checked; none means that every target counts as healthy.
    pub health: Option<Health>,
    /// What is tried again on another target.
    pub retry: Retry,
    /// How long connections of a removed target may go on; 1 s to 3,600 s, 300 s by default.
    pub drain_timeout: Duration,
}

/// How a target is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Each in turn, as often as its weight says.
    #[default]
    RoundRobin,
}

/// A target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name, unique in the group; the address when not given.
    pub id: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share, 0 to 256; 0 takes no new connections. 1 by default.
    pub weight: u16,
}

/// `health` of a target group.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// What is tried.
    pub check: HealthCheck,
    /// Time between checks; 10 ms to 1 h, 5 s by default.
    pub interval: Duration,
    /// A check that takes longer has failed; less than the interval, 2 s by default (or half the interval if less).
    pub timeout: Duration,
    /// Successes in a row that make an unhealthy target healthy; 1 to 100, 3 by default.
    pub healthy_threshold: u32,
    /// Failures in a row that make a healthy target unhealthy; 1 to 100, 2 by default.
    pub unhealthy_threshold: u32,
}

/// What a health check tries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthCheck {
    /// A TCP connection.
    Tcp,
    /// `GET path` over HTTP/1.1, answered with a status in one of the ranges (both ends included).
    Http {
        /// The path, starting with `/`.
        path: String,
        /// The `Host` header; the target's address when not given.
        host: Option<String>,
        /// Accepted statuses, `200-299` by default.
        expect: Vec<(u16, u16)>,
    },
}

/// `retry` of a target group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Whether a failed or timed-out connect is tried on another target; true by default.
    pub connect: bool,
    /// Tries in all, the first included; 1 to 10, 2 by default.
    pub attempts: u32,
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
