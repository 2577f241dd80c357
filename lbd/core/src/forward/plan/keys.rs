//! What tells rings apart.

use std::net::IpAddr;

use common::config::{Dsr, Listen, Method, Protocol, Service};

use crate::forward::abi::{WAY_GRE, WAY_GUE, WAY_IPIP, WAY_PLAIN};

/// A list of targets that a ring is made of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RingKey {
    pub(super) group: String,
    pub(super) way: Way,
    pub(super) protocol: Protocol,
    /// The family, where targets of another cannot be used.
    pub(super) family: Option<Family>,
}

impl RingKey {
    /// That of a service's packets to one of its addresses.
    pub(super) fn of(service: &Service, method: Method, listen: &Listen) -> Self {
        let way = Way::of(method);
        let family = (way == Way::Nat).then(|| Family::of(listen.address.ip()));
        Self { group: service.forward.clone(), way, protocol: listen.protocol, family }
    }

    /// The same of another group.
    pub(super) fn to(&self, group: &str) -> Self {
        Self { group: group.to_owned(), ..self.clone() }
    }

    pub(super) fn name(&self) -> String {
        let family = self.family.map_or("", Family::name);
        format!("{} {} {} {family}", self.group, self.way.name(), self.protocol.name()).trim_end().to_owned()
    }
}

/// How packets reach a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    Nat,
    Dsr(Dsr),
}

impl Way {
    pub(super) const fn of(method: Method) -> Self {
        match method {
            Method::Nat { .. } => Self::Nat,
            Method::Dsr(way) => Self::Dsr(way),
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Dsr(way) => way.name(),
        }
    }

    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Nat | Self::Dsr(Dsr::L2) => WAY_PLAIN,
            Self::Dsr(Dsr::Ipip) => WAY_IPIP,
            Self::Dsr(Dsr::Gre) => WAY_GRE,
            Self::Dsr(Dsr::Gue) => WAY_GUE,
        }
    }

    /// Bytes of the headers in front of a packet.
    pub(super) const fn overhead(self, target: IpAddr) -> u32 {
        let outer = if target.is_ipv4() { 20 } else { 40 };
        match self {
            Self::Nat | Self::Dsr(Dsr::L2) => 0,
            Self::Dsr(Dsr::Ipip) => outer,
            Self::Dsr(Dsr::Gre) => outer + 4,
            // A UDP header: variant 1 of GUE has none of its own.
            Self::Dsr(Dsr::Gue) => outer + 8,
        }
    }

    pub(super) const fn is_tunnel(self) -> bool {
        self.number() != WAY_PLAIN
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }

    /// Bytes of a TCP segment's headers.
    pub(super) const fn headers(self) -> u32 {
        match self {
            Self::V4 => 40,
            Self::V6 => 60,
        }
    }
}
