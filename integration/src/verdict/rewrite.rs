//! How a frame changes on its way. Checksums keep whatever error they had.

use std::net::{IpAddr, SocketAddr};

use super::packet::{self, Header4, TCP, UDP};
use super::parse::View;
use super::sums;
use super::world::{Target, Way};

/// MAC addresses: destination and source.
pub type Macs = ([u8; 6], [u8; 6]);

/// One hop: MAC addresses, and one less to live.
pub fn hop(frame: &mut [u8], view: &View, macs: Macs) {
    frame[..6].copy_from_slice(&macs.0);
    frame[6..12].copy_from_slice(&macs.1);
    change(frame, view, |bytes| {
        let at = if view.is_ipv4() { view.ip + 8 } else { view.ip + 7 };
        bytes[at] -= 1;
    });
}

/// Other addresses and ports; the pieces behind the first have no ports.
pub fn translate(frame: &mut [u8], view: &View, source: SocketAddr, destination: SocketAddr, later: bool) {
    change(frame, view, |bytes| {
        put_addresses(bytes, view, source.ip(), destination.ip());
        if !later {
            put_ports(bytes, view.transport, source.port(), destination.port());
        }
    });
}

/// Writes addresses into a header.
pub fn put_addresses(bytes: &mut [u8], view: &View, source: IpAddr, destination: IpAddr) {
    let (at, length) = if view.is_ipv4() { (view.ip + 12, 4) } else { (view.ip + 8, 16) };
    for (index, address) in [source, destination].into_iter().enumerate() {
        let octets = octets(address);
        let at = at + index * length;
        bytes[at..at + length].copy_from_slice(&octets);
    }
}

/// Writes ports.
pub fn put_ports(bytes: &mut [u8], at: usize, source: u16, destination: u16) {
    bytes[at..at + 2].copy_from_slice(&source.to_be_bytes());
    bytes[at + 2..at + 4].copy_from_slice(&destination.to_be_bytes());
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Makes a change and brings the checksums of IP and transport after it.
fn change(frame: &mut [u8], view: &View, make: impl FnOnce(&mut [u8])) {
    let before = frame.to_vec();
    make(frame);
    if view.is_ipv4() {
        let header = view.ip..view.ip + 20;
        carry(frame, &before, view.ip + 10, &|bytes| sums::sum(&[&bytes[header.clone()]]));
    }
    let later = view.piece.is_some_and(|piece| !piece.first);
    let field = match view.protocol {
        TCP => view.transport + 16,
        UDP => view.transport + 6,
        _ => return,
    };
    if later || (view.protocol == UDP && before[field..field + 2] == [0, 0]) {
        return;
    }
    let whole = |bytes: &[u8]| {
        let (at, length) = if view.is_ipv4() { (view.ip + 12, 8) } else { (view.ip + 8, 32) };
        sums::sum(&[&bytes[at..at + length], &bytes[view.transport..view.end]])
    };
    carry(frame, &before, field, &whole);
    if view.protocol == UDP && frame[field..field + 2] == [0, 0] {
        frame[field..field + 2].copy_from_slice(&[0xff, 0xff]);
    }
}

/// Corrects the checksum at `field`, which is over what `whole` sums up, the field left out.
pub fn carry(frame: &mut [u8], before: &[u8], field: usize, whole: &dyn Fn(&[u8]) -> u16) {
    let stored = u16::from_be_bytes([before[field], before[field + 1]]);
    let without = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes[field..field + 2].fill(0);
        whole(&bytes)
    };
    let (old, new) = (without(before), without(frame));
    if old != new {
        let sum = sums::carried_over(stored, old, new);
        frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Brings the MSS of a SYN down to `most`, if it is not 0.
pub fn clamp(frame: &mut [u8], view: &View, most: u16) {
    let header = usize::from(frame[view.transport + 12] >> 4) * 4;
    if most == 0 {
        return;
    }
    let (mut at, end) = (view.transport + 20, view.transport + header);
    while at < end {
        match frame[at] {
            0 => return,
            1 => at += 1,
            2 if at + 4 <= end && frame[at + 1] == 4 => {
                if u16::from_be_bytes([frame[at + 2], frame[at + 3]]) > most {
                    change(frame, view, |bytes| bytes[at + 2..at + 4].copy_from_slice(&most.to_be_bytes()));
                }
                return;
            }
            _ => {
                let length = usize::from(frame.get(at + 1).copied().unwrap_or(0));
                if length < 2 {
                    return;
                }
                at += length;
            }
        }
    }
}

/// The frames that a tunnel may make of one: with what is behind the packet, or without. RFC 2003, 3.1: "When encapsulating a datagram, the TTL
/// in the inner IP header is decremented by one if the tunneling is being done as part of forwarding the datagram".
#[must_use]
pub fn tunnelled(frame: &[u8], view: &View, target: &Target, macs: Macs) -> Vec<Vec<u8>> {
    let mut hopped = frame.to_vec();
    hop(&mut hopped, view, macs);
    let whole = encapsulated(&hopped, view, target, macs);
    if view.end == frame.len() {
        return vec![whole];
    }
    let mut padded = whole.clone();
    padded.extend_from_slice(&frame[view.end..]);
    vec![padded, whole]
}

fn encapsulated(frame: &[u8], view: &View, target: &Target, macs: Macs) -> Vec<u8> {
    let inner = &frame[view.ip..view.end];
    let (number, ethertype): (u8, u16) = if view.is_ipv4() { (4, 0x0800) } else { (41, 0x86dd) };
    let mut payload = Vec::new();
    let protocol = match target.way {
        Way::Gre => {
            payload.extend_from_slice(&[0, 0]);
            payload.extend_from_slice(&ethertype.to_be_bytes());
            47
        }
        Way::Gue => {
            payload.extend_from_slice(&[0, 0]);
            payload.extend_from_slice(&target.gue_port.to_be_bytes());
            payload.extend_from_slice(&u16::try_from(inner.len() + 8).unwrap_or(0).to_be_bytes());
            // The variant without a header of its own: IP's version tells what is inside.
            payload.extend_from_slice(&[0, 0]);
            17
        }
        Way::Ipip | Way::Plain => number,
    };
    payload.extend_from_slice(inner);
    let tos = view.tos & 0xfc;
    let (ip, outer_type) = match (target.outer_source, target.address) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let header =
                Header4 { source, destination, protocol, ttl: 64, tos, identification: 0, fragment: 0x4000 };
            (packet::ipv4(&header, &[], &payload), 0x0800_u16)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            (packet::ipv6((source, destination), (tos, 64), &[], protocol, &payload), 0x86dd)
        }
        _ => (Vec::new(), 0),
    };
    packet::ethernet(macs, &[], outer_type, &ip)
}
