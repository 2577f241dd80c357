//! Packets by description.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::sums;

/// IP's numbers.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMP of IPv6.
pub const ICMP6: u8 = 58;

/// TCP's flags.
pub const FIN: u8 = 1;
/// SYN.
pub const SYN: u8 = 2;
/// RST.
pub const RST: u8 = 4;
/// PSH.
pub const PSH: u8 = 8;
/// ACK.
pub const ACK: u8 = 16;

/// What is above IP.
#[derive(Clone, Debug)]
pub enum Transport {
    /// A segment; options are padded to four bytes.
    Tcp {
        /// Flags.
        flags: u8,
        /// Options.
        options: Vec<u8>,
    },
    /// A datagram.
    Udp {
        /// Whether it has a checksum.
        checksum: bool,
    },
}

/// Where a piece of a datagram is in it.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Which datagram.
    pub identification: u32,
    /// Where it begins, in bytes, a multiple of 8. The first one has the transport header.
    pub offset: u16,
    /// Whether there are more behind it.
    pub more: bool,
}

/// A packet with TCP or UDP, by its parts. Checksums are right.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Ethernet's destination and source.
    pub macs: ([u8; 6], [u8; 6]),
    /// VLAN tags, the outer one first: type and tag.
    pub vlans: Vec<(u16, u16)>,
    /// From where.
    pub source: SocketAddr,
    /// Where to; of the same family.
    pub destination: SocketAddr,
    /// TCP or UDP.
    pub transport: Transport,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Type of service, or traffic class.
    pub tos: u8,
    /// IPv4: don't fragment.
    pub dont_fragment: bool,
    /// IPv4's options, padded to four bytes by the caller.
    pub options: Vec<u8>,
    /// IPv6's extension headers: number and whole header (its first byte is set here).
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// It is a part of a datagram.
    pub piece: Option<Piece>,
    /// TCP's sequence and acknowledgement numbers.
    pub numbers: (u32, u32),
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Packet {
    /// A plain segment.
    #[must_use]
    pub fn tcp(source: SocketAddr, destination: SocketAddr, flags: u8) -> Self {
        Self::new(source, destination, Transport::Tcp { flags, options: Vec::new() })
    }

    /// A datagram with a checksum.
    #[must_use]
    pub fn udp(source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            payload: b"question".to_vec(),
            ..Self::new(source, destination, Transport::Udp { checksum: true })
        }
    }

    fn new(source: SocketAddr, destination: SocketAddr, transport: Transport) -> Self {
        Self {
            macs: ([0; 6], [2, 0, 0, 0, 0, 99]),
            vlans: Vec::new(),
            source,
            destination,
            transport,
            ttl: 64,
            tos: 0,
            dont_fragment: true,
            options: Vec::new(),
            extensions: Vec::new(),
            piece: None,
            numbers: (0x0102_0304, 0x0506_0708),
            payload: Vec::new(),
        }
    }

    /// With another payload.
    #[must_use]
    pub fn carrying(self, length: usize) -> Self {
        Self { payload: (0..length).map(|at| u8::try_from(at % 251).unwrap_or(0)).collect(), ..self }
    }

    /// To this MAC address.
    #[must_use]
    pub fn to_mac(self, mac: [u8; 6]) -> Self {
        Self { macs: (mac, self.macs.1), ..self }
    }

    /// The whole frame.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let ethertype = if self.source.is_ipv4() { 0x0800 } else { 0x86dd };
        ethernet(self.macs, &self.vlans, ethertype, &self.ip())
    }

    /// The IP packet.
    #[must_use]
    pub fn ip(&self) -> Vec<u8> {
        let mut payload = self.segment();
        if let Some(piece) = self.piece
            && piece.offset > 0
        {
            payload = self.payload.clone();
        }
        let protocol = self.protocol();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = Header4 {
                    source,
                    destination,
                    protocol,
                    ttl: self.ttl,
                    tos: self.tos,
                    identification: self.piece.map_or(0x1234, |piece| low16(piece.identification)),
                    fragment: self.fragment_field(),
                };
                ipv4(&header, &self.options, &payload)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut extensions = self.extensions.clone();
                if let Some(piece) = self.piece {
                    let mut header = vec![0, 0];
                    header.extend_from_slice(&(piece.offset | u16::from(piece.more)).to_be_bytes());
                    header.extend_from_slice(&piece.identification.to_be_bytes());
                    extensions.push((44, header));
                }
                ipv6((source, destination), (self.tos, self.ttl), &extensions, protocol, &payload)
            }
            _ => Vec::new(),
        }
    }

    fn fragment_field(&self) -> u16 {
        match self.piece {
            Some(piece) => (piece.offset / 8) | if piece.more { 0x2000 } else { 0 },
            None if self.dont_fragment => 0x4000,
            None => 0,
        }
    }

    /// IP's number of the transport.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => TCP,
            Transport::Udp { .. } => UDP,
        }
    }

    /// The transport header and the payload.
    #[must_use]
    pub fn segment(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&self.source.port().to_be_bytes());
        bytes.extend_from_slice(&self.destination.port().to_be_bytes());
        match &self.transport {
            Transport::Tcp { flags, options } => {
                let words = 5 + options.len().div_ceil(4);
                bytes.extend_from_slice(&self.numbers.0.to_be_bytes());
                bytes.extend_from_slice(&self.numbers.1.to_be_bytes());
                bytes.extend_from_slice(&[
                    u8::try_from(words << 4).unwrap_or(0),
                    *flags,
                    0x20,
                    0,
                    0,
                    0,
                    0,
                    0,
                ]);
                bytes.extend_from_slice(options);
                bytes.resize(words * 4, 0);
            }
            Transport::Udp { .. } => {
                bytes.extend_from_slice(&low16_of(8 + self.payload.len()).to_be_bytes());
                bytes.extend_from_slice(&[0, 0]);
            }
        }
        bytes.extend_from_slice(&self.payload);
        let sum = sums::transport(self.source.ip(), self.destination.ip(), self.protocol(), &bytes);
        match self.transport {
            Transport::Tcp { .. } => bytes[16..18].copy_from_slice(&sum.to_be_bytes()),
            Transport::Udp { checksum: false } => {}
            Transport::Udp { checksum: true } => {
                let sum = if sum == 0 { 0xffff } else { sum };
                bytes[6..8].copy_from_slice(&sum.to_be_bytes());
            }
        }
        bytes
    }
}

/// The fields of an IPv4 header.
#[derive(Clone, Copy, Debug)]
pub struct Header4 {
    /// From where.
    pub source: Ipv4Addr,
    /// Where to.
    pub destination: Ipv4Addr,
    /// What is inside.
    pub protocol: u8,
    /// Hops left.
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Identification.
    pub identification: u16,
    /// Flags and offset.
    pub fragment: u16,
}

/// An Ethernet frame.
#[must_use]
pub fn ethernet(macs: ([u8; 6], [u8; 6]), vlans: &[(u16, u16)], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&macs.0);
    bytes.extend_from_slice(&macs.1);
    for (kind, tag) in vlans {
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&tag.to_be_bytes());
    }
    bytes.extend_from_slice(&ethertype.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// An IPv4 packet.
#[must_use]
pub fn ipv4(header: &Header4, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let length = 20 + options.len();
    let mut bytes = vec![0x40 | u8::try_from(length / 4).unwrap_or(5), header.tos];
    bytes.extend_from_slice(&low16_of(length + payload.len()).to_be_bytes());
    bytes.extend_from_slice(&header.identification.to_be_bytes());
    bytes.extend_from_slice(&header.fragment.to_be_bytes());
    bytes.extend_from_slice(&[header.ttl, header.protocol, 0, 0]);
    bytes.extend_from_slice(&header.source.octets());
    bytes.extend_from_slice(&header.destination.octets());
    bytes.extend_from_slice(options);
    let sum = sums::checksum(&[&bytes]);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// An IPv6 packet; `class` is traffic class and hop limit.
#[must_use]
pub fn ipv6(
    addresses: (Ipv6Addr, Ipv6Addr),
    class: (u8, u8),
    extensions: &[(u8, Vec<u8>)],
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut behind = Vec::new();
    for (at, (_, header)) in extensions.iter().enumerate() {
        behind.push(extensions.get(at + 1).map_or(protocol, |next| next.0));
        behind.extend_from_slice(&header[1..]);
    }
    behind.extend_from_slice(payload);
    let mut bytes = vec![0x60 | (class.0 >> 4), class.0 << 4, 0, 0];
    bytes.extend_from_slice(&low16_of(behind.len()).to_be_bytes());
    bytes.extend_from_slice(&[extensions.first().map_or(protocol, |first| first.0), class.1]);
    bytes.extend_from_slice(&addresses.0.octets());
    bytes.extend_from_slice(&addresses.1.octets());
    bytes.extend_from_slice(&behind);
    bytes
}

/// An ICMP message with its IP header, of the addresses' family: kind, code and the second word.
#[must_use]
pub fn icmp(source: IpAddr, destination: IpAddr, kind: (u8, u8), word: u32, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![kind.0, kind.1, 0, 0];
    message.extend_from_slice(&word.to_be_bytes());
    message.extend_from_slice(payload);
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let sum = sums::checksum(&[&message]);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            let fields = Header4 {
                source,
                destination,
                protocol: ICMP,
                ttl: 64,
                tos: 0,
                identification: 7,
                fragment: 0,
            };
            ipv4(&fields, &[], &message)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let sum = sums::transport(source, destination, ICMP6, &message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            ipv6((from, to), (0, 64), &[], ICMP6, &message)
        }
        _ => Vec::new(),
    }
}

fn low16(value: u32) -> u16 {
    u16::try_from(value & 0xffff).unwrap_or(0)
}

fn low16_of(value: usize) -> u16 {
    u16::try_from(value & 0xffff).unwrap_or(0)
}
