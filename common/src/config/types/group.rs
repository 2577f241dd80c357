//! Target groups: who serves, how one of them is chosen, and how they are found and checked.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Protocol, TargetTls};
use crate::time::Duration;

/// `[[target_group]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetGroup {
    /// Its name.
    pub name: String,
    /// How a target is chosen; by default in turn, and by `flow_hash` where the kernel chooses: in groups of `nat` and `dsr`.
    pub algorithm: Algorithm,
    /// What `consistent_hash` goes by; the client's address by default.
    pub hash_by: HashBy,
    /// Its targets as written; at least one, unless others are discovered.
    pub targets: Vec<Target>,
    /// Where further targets come from.
    pub discover: Option<Discover>,
    /// How targets are checked; none means that every target counts as healthy.
    pub health: Option<Health>,
    /// When failing connections take a target out; none for never.
    pub eject: Option<Eject>,
    /// With a smaller share of usable targets than this, all are used, whatever their health; 0 to 100, and 0, the
    /// default, for only when none is usable.
    pub panic_percent: u8,
    /// How clients come back to their target; none for not.
    pub sticky: Option<Sticky>,
    /// The time over which the share of a target that became healthy rises; 0, the default, to 1 h.
    pub slow_start: Duration,
    /// How long connections of a removed or drained target may go on; 1 s to 3,600 s, 300 s by default.
    pub drain_timeout: Duration,
    /// What is tried again on another target.
    pub retry: Retry,
    /// Where connections wait while every target has its `max_connections`; none for nowhere.
    pub queue: Option<Queue>,
    /// The connections to targets that wait for the next request. `http` only.
    pub keep_alive: KeepAlive,
    /// The PROXY protocol header that connections to targets begin with; none by default.
    pub send_proxy: Option<ProxyVersion>,
    /// Whether targets of all zones are used alike; true by default. Otherwise those of the node's own zone come first.
    pub cross_zone: bool,
    /// How connections to targets are encrypted; none for not. `http` only.
    pub tls: Option<TargetTls>,
    /// Whether targets are spoken to in HTTP/2 (`protocol = "http2"`) instead of HTTP/1.1, by services of `mode = "http"`; false by
    /// default.
    pub http2: bool,
}

crate::named! {
    /// How a target is chosen. Weights count in each.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Algorithm {
        /// Each in turn, as often as its weight says.
        #[default]
        RoundRobin => "round_robin",
        /// The one with the fewest connections for its weight.
        LeastConnections => "least_connections",
        /// The one with the fewest requests that are being answered, for its weight; with `tcp` and `udp` a connection or
        /// session is one.
        LeastOutstandingRequests => "least_outstanding_requests",
        /// Any.
        Random => "random",
        /// The less loaded one of two that are chosen at random.
        PowerOfTwoChoices => "power_of_two_choices",
        /// By the client's address, modulo the usable targets.
        SourceIpHash => "source_ip_hash",
        /// By the client's address, so that few clients move when targets come and go.
        ConsistentHash => "consistent_hash",
        /// By addresses and ports of both ends, so that few connections would move when targets come and go.
        FlowHash => "flow_hash",
    }
}

/// What `consistent_hash` goes by. Whoever does not have it goes by the client's address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HashBy {
    /// The client's address.
    #[default]
    SourceIp,
    /// The first field of this name, in lower case, of the client's request. `http` only.
    Header(String),
    /// The first cookie of this name that is not empty. `http` only.
    Cookie(String),
    /// The path that the client asked for, in its one form and without the query. `http` only.
    Path,
}

/// A target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name, unique in the group; the address when not given.
    pub id: String,
    /// Where it listens. Port 0 stands for the one that the client asked for; only in groups of nothing but `nat` and `dsr`.
    pub address: SocketAddr,
    /// Its share, 0 to 256; 0 takes no new connections. 1 by default.
    pub weight: u16,
    /// Whether it is only used while no other target is usable; false by default.
    pub backup: bool,
    /// The zone it is in.
    pub zone: Option<String>,
    /// Connections at the same time from this node; 1 to 10,000,000, any number by default.
    pub max_connections: Option<u32>,
}

/// `discover` of a target group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discover {
    /// Where targets come from.
    pub source: DiscoverSource,
    /// How often; 1 s to 1 h. By default every 10 s from Consul and etcd, as long as the answer may be kept (1 s to 1 h)
    /// from DNS, and a file only on reload and request.
    pub refresh: Option<Duration>,
    /// More targets than this are not taken; 1 to 4,096, 1,024 by default.
    pub max_targets: u32,
}

/// Where discovered targets come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiscoverSource {
    /// A TOML file with `targets = [...]` as in the group; see [`crate::config::load_targets`].
    File(PathBuf),
    /// The A and AAAA records of a name.
    Dns {
        /// The name, without a port.
        name: String,
        /// The port of every target.
        port: u16,
        /// The DNS server; the host's own when not given.
        server: Option<SocketAddr>,
    },
    /// The SRV records of a name: they have ports, weights and priorities.
    Srv {
        /// The name, such as `_http._tcp.shop.internal`.
        name: String,
        /// The DNS server; the host's own when not given.
        server: Option<SocketAddr>,
    },
    /// The passing instances of a service in Consul's catalogue.
    Consul {
        /// `http://host:port`, without anything behind it.
        url: String,
        /// The service.
        service: String,
        /// Only instances with this tag.
        tag: Option<String>,
    },
    /// The keys under a prefix in etcd (version 3): each value is an address with a port, or a JSON object with one.
    Etcd {
        /// `http://host:port`, without anything behind it.
        url: String,
        /// What the keys start with.
        prefix: String,
    },
}

/// `health` of a target group.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// What is tried.
    pub check: HealthCheck,
    /// Time between checks; 10 ms to 1 h, 5 s by default.
    pub interval: Duration,
    /// The same while a target is unhealthy; 10 ms to `interval`, which is the default. A check never begins before the
    /// one before it has ended.
    pub unhealthy_interval: Duration,
    /// A check that takes longer has failed; less than the interval, 2 s by default (or half the interval if less).
    pub timeout: Duration,
    /// Successes in a row that make an unhealthy target healthy; 1 to 100, 3 by default.
    pub healthy_threshold: u32,
    /// Failures in a row that make a healthy target unhealthy; 1 to 100, 2 by default.
    pub unhealthy_threshold: u32,
    /// Another port of the target to check; that of its address by default.
    pub port: Option<u16>,
    /// Where a target is asked. By default its virtual IP in groups that nothing but services of mode `dsr` forwards to, else its
    /// own address.
    pub via: Via,
}

crate::named! {
    /// Where a target is asked whether it is healthy.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum Via {
        /// At its own address.
        #[default]
        Target => "target",
        /// At a virtual IP, on the way that clients' packets take to it; see [`Config::checked_through`](super::Config::checked_through).
        Vip => "vip",
    }
}

/// What a health check tries. Without a `ca_file` any certificate is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthCheck {
    /// A TCP connection.
    Tcp,
    /// A TLS handshake.
    Tls {
        /// The server name asked for, and checked with a `ca_file`; none for the target's address.
        host: Option<String>,
        /// Certificates (PEM) of which one must have signed the target's.
        ca_file: Option<PathBuf>,
    },
    /// `GET path` over HTTP/1.1, answered with a status in one of the ranges (both ends included).
    Http {
        /// Whether over TLS.
        tls: bool,
        /// The path, starting with `/`.
        path: String,
        /// The `Host` header and, over TLS, the server name; the target's address when not given.
        host: Option<String>,
        /// Accepted statuses, `200-299` by default.
        expect: Vec<(u16, u16)>,
        /// What must be found in the first 64 KiB of the body.
        body: Option<String>,
        /// Certificates (PEM) of which one must have signed the target's.
        ca_file: Option<PathBuf>,
    },
    /// `grpc.health.v1.Health/Check` over HTTP/2, answered with `SERVING`.
    Grpc {
        /// Whether over TLS.
        tls: bool,
        /// The service asked for; empty for the server as a whole.
        service: String,
        /// The `:authority` and, over TLS, the server name; the target's address when not given.
        host: Option<String>,
        /// Certificates (PEM) of which one must have signed the target's.
        ca_file: Option<PathBuf>,
    },
    /// A datagram that must be answered.
    Udp {
        /// What is sent, 1 to 1,024 bytes.
        payload: Vec<u8>,
        /// What the answer must start with, 1 to 1,024 bytes; none for any answer.
        expect: Option<Vec<u8>>,
    },
}

impl HealthCheck {
    /// What a check is sent by.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        match self {
            Self::Udp { .. } => Protocol::Udp,
            Self::Tcp | Self::Tls { .. } | Self::Http { .. } | Self::Grpc { .. } => Protocol::Tcp,
        }
    }
}

/// `eject` of a target group: takes a target out for a while when its connections fail, each time for longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eject {
    /// Failures in a row that eject; 1 to 1,000, 5 by default.
    pub consecutive_failures: u32,
    /// How long the first time; 100 ms to 1 h, 30 s by default.
    pub base: Duration,
    /// How long at most; `base` to 1 day, by default 300 s, or `base` if that is longer.
    pub max: Duration,
    /// More of the group's targets are not ejected at the same time; 0 to 100, 50 by default.
    pub max_percent: u8,
}

/// `sticky` of a target group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sticky {
    /// What a client is known by.
    pub by: StickyBy,
    /// How long after its last connection or request a client's target is remembered; 1 s to 30 days, 1 h by default.
    pub ttl: Duration,
    /// Clients remembered; 1 to 10,000,000, 100,000 by default. Beyond it those not seen for longest are forgotten. 1 with
    /// [`StickyBy::Cookie`], with which nobody has to be remembered.
    pub max_entries: u32,
}

/// What a client is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StickyBy {
    /// Its address.
    SourceIp,
    /// A cookie that Tandem gives it, which says what its target is. `http` only.
    Cookie(StickyCookie),
    /// A cookie of this name that targets give it. `http` only.
    AppCookie(String),
}

/// The cookie that Tandem gives clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StickyCookie {
    /// Its name; `tandem-` and the group's name by default.
    pub name: String,
    /// To which sites' requests browsers add it.
    pub same_site: SameSite,
}

/// `SameSite` of a cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SameSite {
    /// Those of the site itself only.
    Strict,
    /// And links to it from elsewhere.
    #[default]
    Lax,
    /// All; for clients that come by TLS only, to others nothing is said about it.
    None,
}

/// `retry` of a target group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Whether a failed or timed-out connect is tried on another target; true by default.
    pub connect: bool,
    /// Whether a request is sent again that a kept connection has ended under before a byte of the answer came; true by default.
    /// Only what may be asked twice, or of what the target has got no byte. `http` only.
    pub stale_connection: bool,
    /// The same for any connection; false by default. `http` only.
    pub no_answer: bool,
    /// Tries in all, the first included; 1 to 10, 2 by default.
    pub attempts: u32,
}

impl Retry {
    /// Nothing is tried again.
    pub const NEVER: Self = Self { connect: false, stale_connection: false, no_answer: false, attempts: 2 };

    /// On how many targets a connection is tried at most, each once; at least 1.
    #[must_use]
    pub fn tries(self) -> u32 {
        if self.connect { self.attempts.max(1) } else { 1 }
    }
}

/// `queue` of a target group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Connections of the group that wait on this node; 1 to 100,000, 1,000 by default. More are refused and counted.
    pub max: u32,
    /// How long one waits before it is refused; 1 ms to 5 min, 5 s by default.
    pub timeout: Duration,
}

/// `keep_alive` of a target group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// How long a connection waits for the next request before it is closed; 1 s to 1 h, 50 s by default: less than most servers wait, so
    /// that it is not they who close it just when it is used again.
    pub idle: Duration,
    /// How many of them wait for each target and worker; 0 to 10,000, 256 by default. More are closed.
    pub max: u32,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self { idle: Duration::from_secs(50), max: 256 }
    }
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_one_try() {
        let tries = |connect, attempts| Retry { connect, attempts, ..Retry::NEVER }.tries();
        assert_eq!([tries(true, 3), tries(true, 0), tries(false, 3)], [3, 1, 1]);
    }
}
