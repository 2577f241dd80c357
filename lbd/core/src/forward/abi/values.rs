//! The values that the structs are made of, and those that are no plain structs.

use std::net::{IpAddr, Ipv6Addr};

use super::{Abi, PORT_WORDS, RING_SLOTS};

/// A number of 16 bits in network order in the map; the value here is the number itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Be16(pub u16);

impl Abi for Be16 {
    const SIZE: usize = 2;

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_be_bytes());
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        <[u8; 2]>::take(bytes).map(|bytes| Self(u16::from_be_bytes(bytes)))
    }
}

/// An address of either family: 16 bytes, IPv4 as `::ffff:a.b.c.d`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub [u8; 16]);

impl Address {
    /// As IP writes it.
    #[must_use]
    pub fn ip(self) -> IpAddr {
        Ipv6Addr::from(self.0).to_canonical()
    }

    /// Whether it is an IPv4 address.
    #[must_use]
    pub fn is_ipv4(self) -> bool {
        self.ip().is_ipv4()
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self(ip.to_ipv6_mapped().octets()),
            IpAddr::V6(ip) => Self(ip.octets()),
        }
    }
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.ip().fmt(f)
    }
}

impl Abi for Address {
    const SIZE: usize = 16;

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let (first, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        Some(Self(*first))
    }
}

/// `rings[index]`: the target of each slot, and three zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Indices of targets, [`RING_SLOTS`] of them; 0 for nobody.
    pub targets: Vec<u16>,
}

impl Ring {
    /// A ring without targets.
    #[must_use]
    pub fn empty() -> Self {
        Self { targets: vec![0; RING_SLOTS] }
    }
}

impl Abi for Ring {
    const SIZE: usize = (RING_SLOTS + 3) * 2;

    fn put(&self, out: &mut Vec<u8>) {
        out.extend(self.targets.iter().take(RING_SLOTS).flat_map(|target| target.to_ne_bytes()));
        // Also what a ring that is too short lacks.
        let missing = (RING_SLOTS + 3) * 2 - self.targets.len().min(RING_SLOTS) * 2;
        out.resize(out.len() + missing, 0);
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let (own, rest) = bytes.split_at_checked(Self::SIZE)?;
        *bytes = rest;
        let targets = own.as_chunks().0.iter().take(RING_SLOTS).map(|pair| u16::from_ne_bytes(*pair));
        Some(Self { targets: targets.collect() })
    }
}

/// `service_ports[0]`: which ports any service listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePorts(Vec<u64>);

impl ServicePorts {
    /// Notes a port.
    pub fn set(&mut self, port: u16) {
        self.0[usize::from(port) / 64] |= 1 << (port % 64);
    }

    /// The ports of both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(one, two)| one | two).collect())
    }

    /// Whether a port is noted.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port) / 64] & 1 << (port % 64) != 0
    }
}

impl Default for ServicePorts {
    fn default() -> Self {
        Self(vec![0; PORT_WORDS])
    }
}

impl Abi for ServicePorts {
    const SIZE: usize = PORT_WORDS * 8;

    fn put(&self, out: &mut Vec<u8>) {
        self.0.iter().for_each(|word| word.put(out));
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        (0..PORT_WORDS).map(|_| u64::take(bytes)).collect::<Option<_>>().map(Self)
    }
}

/// What [`Slot::control`](super::Slot::control) holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotControl {
    /// Tick of the last packet.
    pub seen: u32,
    /// Index of the service: 10 bits.
    pub service: u16,
    /// Number of the VIP: 10 bits.
    pub vip: u16,
    /// `STATE_*` bits.
    pub state: u8,
    /// Not 0 while it is being claimed: 4 bits.
    pub lock: u8,
}

impl SlotControl {
    /// Reads it.
    #[must_use]
    pub const fn of(control: u64) -> Self {
        let [a, b, c, d, e, f, ..] = control.to_le_bytes();
        let [g, h, ..] = (control >> 42).to_le_bytes();
        let [state, lock, ..] = (control >> 52).to_le_bytes();
        Self {
            seen: u32::from_le_bytes([a, b, c, d]),
            service: u16::from_le_bytes([e, f & 3]),
            vip: u16::from_le_bytes([g, h & 3]),
            state,
            lock: lock & 15,
        }
    }

    /// Writes it; of numbers that are too large the lower bits.
    #[must_use]
    pub fn word(self) -> u64 {
        let number = |number: u16| u64::from(number & 0x3ff);
        u64::from(self.seen)
            | number(self.service) << 32
            | number(self.vip) << 42
            | u64::from(self.state) << 52
            | u64::from(self.lock & 15) << 60
    }
}

common::named! {
    /// Why a packet for a service was not forwarded. The place of each is its number in the kernel's program.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    #[repr(u8)]
    pub enum DropReason {
        /// It was.
        None => "none",
        /// A header that contradicts itself.
        Malformed => "malformed",
        /// This node does not own the VIP.
        NotActive => "not_active",
        /// The access list.
        Denied => "denied",
        /// The client's rate.
        SourceRate => "source_rate",
        /// No target is usable.
        NoTarget => "no_target",
        /// The way to the target is not known yet, or there is none to the client; in the driver, its next hop is not known, or the program is not at
        /// its interface.
        NoNextHop => "no_next_hop",
        /// No free port towards the endpoint.
        NoPort => "no_port",
        /// No room in the table of flows.
        FlowsFull => "flows_full",
        /// A later fragment without its first one.
        Fragment => "fragment",
        /// Larger than the way to the target takes.
        TooBig => "too_big",
        /// Its target is unhealthy.
        Unhealthy => "unhealthy",
        /// Its hops are used up.
        Ttl => "ttl",
        /// The same client and port at the same target through another VIP.
        Clash => "clash",
        /// An ICMP error about no known flow.
        IcmpInner => "icmp_inner",
        /// No room for a tunnel's headers.
        Headroom => "headroom",
        /// ARP or neighbour discovery asked for a VIP that this node does not own.
        Solicitation => "solicitation",
        /// An answer was due, and too many were made.
        AnswerRate => "answer_rate",
        /// From a target for a flow of the other node that is not known here, or for a port that changed hands while it was read.
        UnknownFlow => "unknown_flow",
        /// As [`Self::TooBig`], where the sender lets routers cut it.
        NotCut => "not_cut",
    }
}

impl DropReason {
    /// The one of this number.
    #[must_use]
    pub fn of(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// Sent to a target.
    Forwarded = 1,
    /// Sent to a client.
    Returned,
    /// Dropped.
    Dropped,
    /// Answered.
    Answered,
    /// Sent to the other node.
    SentToOther,
}

impl Verdict {
    /// The one of this number.
    #[must_use]
    pub fn of(number: u8) -> Option<Self> {
        let all = [Self::Forwarded, Self::Returned, Self::Dropped, Self::Answered, Self::SentToOther];
        all.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// Its name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Returned => "returned",
            Self::Dropped => "dropped",
            Self::Answered => "answered",
            Self::SentToOther => "sent to the other node",
        }
    }
}
