//! A frame taken apart, with pnet's views of the headers.

use std::net::{IpAddr, SocketAddr};

use pnet_packet::Packet as _;
use pnet_packet::ethernet::EthernetPacket;
use pnet_packet::ipv4::Ipv4Packet;
use pnet_packet::ipv6::Ipv6Packet;

use super::packet::{TCP, UDP};

/// Where in a datagram a packet belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PieceOf {
    /// Which datagram.
    pub identification: u32,
    /// It has the transport header.
    pub first: bool,
}

/// A frame with an IP packet.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Where the IP header is.
    pub ip: usize,
    /// Where the transport header is.
    pub transport: usize,
    /// Where the IP packet ends; what is behind is padding.
    pub end: usize,
    /// From where.
    pub source: IpAddr,
    /// Where to.
    pub destination: IpAddr,
    /// What is inside.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// It is part of a datagram.
    pub piece: Option<PieceOf>,
    /// Its sender lets routers cut it: IPv4 without "don't fragment".
    pub may_be_cut: bool,
}

impl View {
    /// Takes an Ethernet frame apart. `None` for what the program has to leave alone: other protocols, frames of a VLAN, IPv4
    /// options, more than four extension headers, lengths that do not fit.
    #[must_use]
    pub fn of(frame: &[u8]) -> Option<Self> {
        match EthernetPacket::new(frame)?.get_ethertype().0 {
            0x0800 => Self::ipv4(frame, 14, false),
            0x86dd => Self::ipv6(frame, 14, false),
            _ => None,
        }
    }

    /// Takes an IP packet apart that begins at `at`; a `quoted` one may be cut off.
    #[must_use]
    pub fn ipv4(frame: &[u8], at: usize, quoted: bool) -> Option<Self> {
        let packet = Ipv4Packet::new(frame.get(at..)?)?;
        let header = usize::from(packet.get_header_length()) * 4;
        let total = usize::from(packet.get_total_length());
        // Routers write what they like into the length of a packet that they quote.
        let fits = quoted || (total >= header && at + total <= frame.len());
        if packet.get_version() != 4 || header != 20 || !fits {
            return None;
        }
        let (offset, more) = (packet.get_fragment_offset(), packet.get_flags() & 1 != 0);
        let identification = u32::from(packet.get_identification());
        Some(Self {
            ip: at,
            transport: at + header,
            end: (at + total).min(frame.len()),
            source: packet.get_source().into(),
            destination: packet.get_destination().into(),
            protocol: packet.get_next_level_protocol().0,
            ttl: packet.get_ttl(),
            tos: packet.get_dscp() << 2 | packet.get_ecn(),
            piece: (offset != 0 || more).then_some(PieceOf { identification, first: offset == 0 }),
            may_be_cut: packet.get_flags() & 2 == 0,
        })
    }

    /// The same for IPv6.
    #[must_use]
    pub fn ipv6(frame: &[u8], at: usize, quoted: bool) -> Option<Self> {
        let packet = Ipv6Packet::new(frame.get(at..)?)?;
        // What a quoted one says of its length counts for as little as in IPv4.
        let end = if quoted { frame.len() } else { at + 40 + usize::from(packet.get_payload_length()) };
        if packet.get_version() != 6 || end > frame.len() {
            return None;
        }
        let mut view = Self {
            ip: at,
            transport: at + 40,
            end,
            source: packet.get_source().into(),
            destination: packet.get_destination().into(),
            protocol: packet.get_next_header().0,
            ttl: packet.get_hop_limit(),
            tos: packet.get_traffic_class(),
            piece: None,
            may_be_cut: false,
        };
        let mut headers = 0;
        while matches!(view.protocol, 0 | 43 | 44 | 60) {
            let header =
                frame.get(view.transport..view.transport + 8).filter(|_| view.transport + 8 <= end)?;
            headers += 1;
            if headers > 4 {
                return None;
            }
            if view.protocol == 44 {
                let field = u16::from_be_bytes([header[2], header[3]]);
                let identification = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                let first = field & 0xfff8 == 0;
                if !first || field & 1 != 0 {
                    view.piece = Some(PieceOf { identification, first });
                }
                view.transport += 8;
                view.protocol = header[0];
                if !first {
                    break;
                }
                // The fragments that follow do not say what is behind the headers that only this one has.
                if !quoted && view.piece.is_some() && matches!(view.protocol, 0 | 43 | 44 | 60) {
                    return None;
                }
                continue;
            }
            view.transport += 8 + usize::from(header[1]) * 8;
            view.protocol = header[0];
            if view.transport > end {
                return None;
            }
        }
        Some(view)
    }

    /// Whether it is IPv4.
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        self.source.is_ipv4()
    }

    /// The length of the IP packet, in bytes.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.end - self.ip
    }

    /// Its ports, if it has a transport header that is whole.
    #[must_use]
    pub fn ports(&self, frame: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
        let segment = &frame[self.transport..self.end];
        let whole = match self.protocol {
            TCP => {
                let words = segment.get(12).map_or(0, |byte| usize::from(byte >> 4));
                segment.len() >= 20 && words >= 5 && words * 4 <= segment.len()
            }
            UDP => segment.len() >= 8,
            _ => false,
        };
        whole.then(|| self.ports_of(segment)).flatten()
    }

    /// The ports at the beginning of a transport header.
    #[must_use]
    pub fn ports_of(&self, segment: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
        let (source, destination) = (u16_at(segment, 0)?, u16_at(segment, 2)?);
        Some((SocketAddr::new(self.source, source), SocketAddr::new(self.destination, destination)))
    }

    /// TCP's flags; 0 for others.
    #[must_use]
    pub fn flags(&self, frame: &[u8]) -> u8 {
        if self.protocol == TCP { frame.get(self.transport + 13).copied().unwrap_or(0) } else { 0 }
    }
}

/// An IP frame without its tag, where that is of no VLAN: its ID is 0 (IEEE 802.1Q: "the VID's value 0 indicates that the tag header contains
/// only priority information"). `None` for any other.
#[must_use]
pub fn without_priority_tag(frame: &[u8]) -> Option<Vec<u8>> {
    let tagged = matches!(u16_at(frame, 12)?, 0x8100 | 0x88a8);
    let plain = u16_at(frame, 14)? & 0xfff == 0 && matches!(u16_at(frame, 16)?, 0x0800 | 0x86dd);
    (tagged && plain).then(|| [&frame[..12], &frame[16..]].concat())
}

/// The payload of an Ethernet frame without tags.
#[must_use]
pub fn payload(frame: &[u8]) -> Vec<u8> {
    EthernetPacket::new(frame).map(|ethernet| ethernet.payload().to_vec()).unwrap_or_default()
}

/// A number in network order.
#[must_use]
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
}
