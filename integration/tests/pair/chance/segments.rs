//! Packets as nobody's stack would send them.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

const ACK: u8 = 16;

const SYN: u8 = 2;

/// A segment of a connection that nobody knows.
pub(crate) fn stray(client: SocketAddr, vip: SocketAddr, hops: u8) -> Vec<u8> {
    segment(client, vip, hops, ACK)
}

/// The first segment of a connection.
pub(crate) fn first(client: SocketAddr, vip: SocketAddr) -> Vec<u8> {
    segment(client, vip, 64, SYN)
}

fn segment(client: SocketAddr, vip: SocketAddr, hops: u8, flags: u8) -> Vec<u8> {
    let mut tcp = vec![0; 20];
    tcp[..2].copy_from_slice(&client.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&vip.port().to_be_bytes());
    tcp[4..12].copy_from_slice(&[7; 8]);
    tcp[12..14].copy_from_slice(&[5 << 4, flags]);
    let sum = checksum(client.ip(), vip.ip(), 6, &tcp);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    packet(client.ip(), vip.ip(), 6, hops, &tcp)
}

/// A router at `from` tells the virtual IP that a segment for `client` was too big.
pub(crate) fn too_big(from: IpAddr, client: SocketAddr, vip: SocketAddr) -> Vec<u8> {
    let mut segment = vec![0; 20];
    segment[..2].copy_from_slice(&vip.port().to_be_bytes());
    segment[2..4].copy_from_slice(&client.port().to_be_bytes());
    segment[12..14].copy_from_slice(&[5 << 4, ACK]);
    told_too_big(from, vip, &packet(vip.ip(), client.ip(), 6, 60, &segment))
}

/// The same of a datagram.
pub(crate) fn too_big_datagram(from: IpAddr, client: SocketAddr, vip: SocketAddr) -> Vec<u8> {
    told_too_big(from, vip, &datagram(vip, client, &[7; 20]))
}

fn told_too_big(from: IpAddr, vip: SocketAddr, quoted: &[u8]) -> Vec<u8> {
    // Type, code, checksum, and the MTU: in IPv4 in the lower half of the word.
    let mut icmp = vec![0; 8];
    icmp[..2].copy_from_slice(if vip.is_ipv4() { &[3, 4] } else { &[2, 0] });
    icmp[6..8].copy_from_slice(&1300_u16.to_be_bytes());
    icmp.extend(quoted);
    let sum = match vip {
        SocketAddr::V4(_) => !fold(sum(&icmp)),
        SocketAddr::V6(_) => checksum(from, vip.ip(), 58, &icmp),
    };
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    packet(from, vip.ip(), if vip.is_ipv4() { 1 } else { 58 }, 64, &icmp)
}

/// A packet in two fragments, with some bytes at its end that make them two.
pub(crate) fn in_fragments(packet: &[u8]) -> [Vec<u8>; 2] {
    /// What the first one has behind the header.
    const FIRST: usize = 24;
    let is_v4 = packet[0] >> 4 == 4;
    let (header, rest) = packet.split_at(if is_v4 { 20 } else { 40 });
    let rest = [rest, &[0; 40]].concat();
    [(&rest[..FIRST], 0, true), (&rest[FIRST..], FIRST, false)].map(|(part, offset, more)| {
        let mut header = header.to_vec();
        let offset = u16::try_from(offset).unwrap();
        if is_v4 {
            header[2..4].copy_from_slice(&u16::try_from(20 + part.len()).unwrap().to_be_bytes());
            header[4..6].copy_from_slice(&[7, 7]);
            header[6..8].copy_from_slice(&((offset / 8) | (u16::from(more) << 13)).to_be_bytes());
        } else {
            header[4..6].copy_from_slice(&u16::try_from(8 + part.len()).unwrap().to_be_bytes());
            let [high, low] = (offset | u16::from(more)).to_be_bytes();
            let next = std::mem::replace(&mut header[6], 44);
            header.extend([next, 0, high, low, 7, 7, 7, 7]);
        }
        [&header, part].concat()
    })
}

/// A packet with options of IPv4, or an extension header of IPv6, that say nothing.
pub(crate) fn with_options(packet: &[u8]) -> Vec<u8> {
    let is_v4 = packet[0] >> 4 == 4;
    let (header, rest) = packet.split_at(if is_v4 { 20 } else { 40 });
    let mut header = header.to_vec();
    if is_v4 {
        header[0] = 0x46;
        header[2..4].copy_from_slice(&u16::try_from(24 + rest.len()).unwrap().to_be_bytes());
        header[10..12].fill(0);
        header.extend([1; 4]);
        let sum = !fold(sum(&header));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        header[4..6].copy_from_slice(&u16::try_from(8 + rest.len()).unwrap().to_be_bytes());
        // For each hop: padding.
        let next = std::mem::replace(&mut header[6], 0);
        header.extend([next, 0, 1, 4, 0, 0, 0, 0]);
    }
    [&header, rest].concat()
}

/// A datagram, without a checksum.
pub(crate) fn datagram(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let header = [from.port(), to.port(), length, 0].map(u16::to_be_bytes).concat();
    packet(from.ip(), to.ip(), 17, 64, &[&header[..], payload].concat())
}

/// Sends them from the calling thread's network.
pub(crate) fn send(to: IpAddr, packets: &[Vec<u8>]) -> io::Result<()> {
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    packets.iter().try_for_each(|packet| socket.send_to(packet, &SocketAddr::new(to, 0).into()).map(drop))
}

fn packet(source: IpAddr, destination: IpAddr, protocol: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = match source {
        IpAddr::V4(_) => vec![0; 20],
        IpAddr::V6(_) => vec![0; 40],
    };
    if source.is_ipv4() {
        let total = u16::try_from(20 + payload.len()).unwrap();
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        packet[8..10].copy_from_slice(&[hops, protocol]);
        packet[12..16].copy_from_slice(&octets(source));
        packet[16..20].copy_from_slice(&octets(destination));
        // The kernel does it for the packet itself, not for a quoted one.
        let sum = !fold(sum(&packet));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
        packet[6..8].copy_from_slice(&[protocol, hops]);
        packet[8..24].copy_from_slice(&octets(source));
        packet[24..40].copy_from_slice(&octets(destination));
    }
    packet.extend(payload);
    packet
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn checksum(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> u16 {
    let length = u32::try_from(payload.len()).unwrap();
    !fold(sum(&octets(source)) + sum(&octets(destination)) + sum(payload) + u32::from(protocol) + length)
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}
