//! Services: where traffic arrives, what is let in, and which target group serves it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Forwarding, Http};
use crate::time::Duration;

/// `[[service]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// How its traffic is handled.
    pub mode: Mode,
    /// How the kernel forwards it: with the modes `nat` and `dsr`, and only with them.
    pub forwarding: Option<Forwarding>,
    /// The addresses it listens on, `@instance:port` already expanded to every VIP of the instance but link-local ones
    /// (binding those takes an interface). At most 4,096 of all services together.
    pub listen: Vec<Listen>,
    /// What only `mode = "http"` has, and always.
    pub http: Option<Http>,
    /// The target group that serves it, when no rule says otherwise; with `http` the first of those it names, and empty if it
    /// names none.
    pub forward: String,
    /// Groups by the server name that a TLS client asks for: in order, the first match wins. Mode `tcp` only.
    pub rules: Vec<SniRule>,
    /// Its time-outs.
    pub timeout: Timeouts,
    /// Its limits.
    pub limits: Limits,
    /// How many new connections or sessions are let in over a time.
    pub rates: Rates,
    /// The proxies in front: connections from these networks must begin with a PROXY protocol header (version 1 or 2),
    /// from anywhere else none is read. Empty: off. Modes `tcp` and `http` only.
    pub accept_proxy: Vec<IpNet>,
    /// Whether targets see the client's address as the source of connections; false by default. Takes routing that
    /// brings the targets' answers back through this host.
    pub transparent: bool,
    /// Who may connect.
    pub access: Access,
    /// Where a line is written for each connection; none for nowhere.
    pub access_log: Option<AccessLog>,
}

impl Service {
    /// How packets reach its targets, of a service of `mode = "dsr"`.
    #[must_use]
    pub fn dsr(&self) -> Option<super::Dsr> {
        match self.forwarding?.method {
            super::Method::Dsr(dsr) => Some(dsr),
            super::Method::Nat { .. } => None,
        }
    }

    /// How many entries its access list takes in the kernel's table; 0 for a service that the kernel does not forward.
    #[must_use]
    pub fn access_entries_in_kernel(&self) -> usize {
        let networks = self.access.allow.iter().chain(&self.access.deny).map(|entry| &entry.network);
        if self.mode.in_kernel() { access_entries(&self.listen, networks) } else { 0 }
    }
}

/// Entries of access lists in the kernel's table at most, of all services together: half of the table, so that a list and
/// the one that takes its place fit in at once.
pub const ACCESS_ENTRIES_IN_KERNEL_MAX: usize = 32_768;

/// The entries of a service's access list in the kernel's table: those of the address family for each protocol, family and instance, and
/// one for everybody else.
pub(in crate::config) fn access_entries<'n>(
    listen: &[Listen],
    networks: impl Iterator<Item = &'n IpNet>,
) -> usize {
    let mut of_family = [0; 2];
    networks.for_each(|network| of_family[usize::from(network.addr().is_ipv6())] += 1);
    if of_family == [0; 2] {
        return 0;
    }
    let part = |listen: &Listen| (listen.protocol, listen.address.is_ipv6(), listen.instance.clone());
    let parts: BTreeSet<_> = listen.iter().map(part).collect();
    parts.iter().map(|(_, ipv6, _)| 1 + of_family[usize::from(*ipv6)]).sum()
}

/// How a service's traffic is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Terminated and proxied as a byte stream.
    Tcp,
    /// Datagrams, proxied in sessions of one client address and port each.
    Udp,
    /// Terminated, and proxied request by request.
    Http,
    /// Packets, forwarded by the kernel with other addresses and ports.
    Nat,
    /// Packets, forwarded by the kernel as they are.
    Dsr,
}

impl Mode {
    /// The word for it in the file and in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Http => "http",
            Self::Nat => "nat",
            Self::Dsr => "dsr",
        }
    }

    /// The mode whose sockets it listens with: `http` comes by the same connections as `tcp`.
    #[must_use]
    pub const fn listening(self) -> Self {
        match self {
            Self::Http => Self::Tcp,
            other => other,
        }
    }

    /// Whether the kernel forwards its packets, so that nothing is listened on.
    #[must_use]
    pub const fn in_kernel(self) -> bool {
        matches!(self, Self::Nat | Self::Dsr)
    }
}

/// What comes after IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Protocol {
    /// The word for it in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// IP's number for it.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// The one of IP's number.
    #[must_use]
    pub const fn of_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }
}

/// One address a service listens on, or whose packets the kernel forwards. Shown as `192.0.2.1:80`, `192.0.2.1:8000-8100`
/// or `192.0.2.1:*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Address and port: the first one of several, and 0 for all ports. More than one only in the modes `nat` and `dsr`.
    pub address: SocketAddr,
    /// The last port; the same as the first for one, and 65535 for all.
    pub last_port: u16,
    /// Whether it is for connections or datagrams.
    pub protocol: Protocol,
    /// The instance whose VIP this is; none for an address of the node's own (`lbd` alone).
    pub instance: Option<String>,
}

impl Listen {
    /// Its ports.
    #[must_use]
    pub const fn ports(&self) -> RangeInclusive<u16> {
        self.address.port()..=self.last_port
    }

    /// Whether it is for a single port.
    #[must_use]
    pub const fn is_single(&self) -> bool {
        self.address.port() == self.last_port
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_single() {
            return self.address.fmt(f);
        }
        let ip = match self.address {
            SocketAddr::V4(address) => address.ip().to_string(),
            SocketAddr::V6(address) => format!("[{}]", address.ip()),
        };
        match (self.address.port(), self.last_port) {
            (0, u16::MAX) => write!(f, "{ip}:*"),
            (first, last) => write!(f, "{ip}:{first}-{last}"),
        }
    }
}

/// `[[service.rule]]` of a `tcp` service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SniRule {
    /// Server names in lower case, at least one; `*.example.com` matches one or more labels in front of `.example.com`.
    pub sni: Vec<String>,
    /// The target group for them.
    pub forward: String,
}

/// `timeout` of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For connecting to a target; 1 ms to 75 s, 5 s by default. `tcp` and `http` only.
    pub connect: Duration,
    /// A connection or session with no byte in either direction for so long is closed; 1 s to 7 days, by default 350 s,
    /// and 60 s with `udp` and `http`.
    pub idle: Duration,
    /// For what a client must send before a target is chosen: the PROXY protocol header, the TLS `ClientHello`, the head of a
    /// request; 1 ms to 1 day, 5 s by default. `tcp` and `http` only.
    pub header: Duration,
    /// Silence after which the kernel probes whether the other end is still there, on both sides; 1 s to 2 h, 60 s by
    /// default. `tcp` and `http` only.
    pub keepalive: Duration,
    /// Data that stays unacknowledged for so long ends the connection (`TCP_USER_TIMEOUT`), on both sides; 1 s to 1 h,
    /// none by default: as long as the kernel tries. `tcp` and `http` only.
    pub user: Option<Duration>,
}

/// `limits` of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections (sessions with `udp`) at the same time on this node, all workers together; 1 to 10,000,000, by default
    /// 100,000, with `udp` 20,000. More are closed at once and counted.
    pub max_connections: u32,
    /// The same for one client address, of IPv6 one /64; 1 to 10,000,000, none by default.
    pub max_connections_per_source: Option<u32>,
}

/// `rate` of a service: one limit, or one for all clients and one for each; what is over either is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// All clients together, `key = "service"`; none for any number.
    pub of_all: Option<Rate>,
    /// Each client, or each value of a field, by itself; none for any number.
    pub of_each: Option<Rate>,
}

/// A limit of [`Rates`]: more than so many are refused and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// What is counted together.
    pub key: RateKey,
    /// Connections, sessions with `udp`, or requests with `http`; 1 to 1,000,000,000.
    pub requests: u32,
    /// In this time; 1 ms to 1 day.
    pub per: Duration,
    /// Whose admissions are counted together.
    pub scope: RateScope,
}

/// Which nodes a rate is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RateScope {
    /// Each node admits as many.
    #[default]
    Node,
    /// Both nodes together do, as far as they hear of each other.
    Pair,
}

/// What a rate counts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RateKey {
    /// Each client address by itself; of IPv6 each /64, but for `nat` and `dsr`.
    SourceIp,
    /// Each value of the field [`Http::rate_header`](super::Http::rate_header) by itself; `http` only.
    Header,
    /// The whole service.
    Service,
}

/// `access` of a service. Of the entries of both lists that hold a client's address the one with the longest prefix
/// decides; no network is in both. Without such an entry the client is let in, unless `allow` is not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Who is let in.
    pub allow: Vec<AccessEntry>,
    /// Who is not.
    pub deny: Vec<AccessEntry>,
}

/// An entry of `access`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessEntry {
    /// The client addresses it is about; without host bits.
    pub network: IpNet,
    /// A word for the access log.
    pub tag: Option<String>,
}

/// `access_log` of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// What a line looks like; `line` by default.
    pub format: AccessLogFormat,
    /// The file that lines are added to; none for standard output.
    pub file: Option<PathBuf>,
    /// How many of all that could be are written; by default all.
    pub sample: SampleShare,
}

/// Which part of many is looked at: 0.000001 to 1 of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleShare {
    millionths: u32,
}

impl SampleShare {
    /// All of them.
    pub const ALL: Self = Self { millionths: Self::WHOLE };

    const WHOLE: u32 = 1_000_000;

    /// So many of a hundred: 1 to 100.
    pub(in crate::config) const fn hundredths(hundredths: u8) -> Self {
        assert!(hundredths > 0 && hundredths <= 100, "a share is 1 to 100 of a hundred");
        Self { millionths: hundredths as u32 * (Self::WHOLE / 100) }
    }

    /// So many of a million; none for 0 and for more than all.
    #[must_use]
    pub const fn of_millionths(millionths: u32) -> Option<Self> {
        if millionths == 0 || millionths > Self::WHOLE { None } else { Some(Self { millionths }) }
    }

    /// So many of a million.
    #[must_use]
    pub const fn millionths(self) -> u32 {
        self.millionths
    }

    /// Whether one of them is looked at for which `draw` was drawn, a number of which each is as likely.
    #[must_use]
    pub fn takes(self, draw: u64) -> bool {
        (u128::from(draw) * u128::from(Self::WHOLE)) >> 64 < u128::from(self.millionths)
    }
}

/// What a line of the access log looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessLogFormat {
    /// A JSON object.
    Json,
    /// Words and numbers for people.
    #[default]
    Line,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn a_share_is_taken_and_no_more() {
        let mut rng = Rng::new(1);
        for (millionths, expected) in
            [(1_000_000, 100_000..=100_000), (250_000, 24_000..=26_000), (1000, 50..=150)]
        {
            let share = SampleShare::of_millionths(millionths).unwrap();
            let taken = (0..100_000).filter(|_| share.takes(rng.next_u64())).count();
            assert!(expected.contains(&taken), "{millionths}: {taken}");
        }
        let half = SampleShare::of_millionths(500_000).unwrap();
        assert_eq!((half.takes(u64::MAX / 2), half.takes(u64::MAX / 2 + 1)), (true, false));
        assert!(SampleShare::ALL.takes(u64::MAX) && SampleShare::of_millionths(1).unwrap().takes(0));
        assert_eq!((SampleShare::of_millionths(0), SampleShare::of_millionths(1_000_001)), (None, None));
    }
}
