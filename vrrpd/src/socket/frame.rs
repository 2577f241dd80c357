//! Whole Ethernet frames: neighbour packets both ways, and advertisements from the virtual router's Ethernet address.

use std::io;
use std::mem::size_of;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::{MsgFlags, recv};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};
use vrrpd_core::packet::{Family, PROTOCOL, TTL};

use super::{
    BPF_LOAD_BYTE, BPF_LOAD_HALF, DROP, QUEUE_BYTES, SocketError, TOS, all_equal, none_if_empty, set_priority,
};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// A packet socket on one interface.
///
/// It receives ARP (IPv4) or neighbour advertisements (IPv6), and nothing else: bound to one Ethernet type, it costs the other
/// traffic of the interface nothing, and never sees what this host sends. It sends any frame.
#[derive(Debug)]
pub struct FrameSocket {
    socket: Socket,
    index: u32,
}

impl FrameSocket {
    /// Opens the socket on the interface with this index.
    pub fn open(index: u32, family: Family) -> Result<Self, SocketError> {
        let open = || -> io::Result<Self> {
            let (ethertype, filter) = match family {
                Family::V4 => (ETHERTYPE_ARP, all_equal(&[(BPF_LOAD_HALF, 12, u32::from(ETHERTYPE_ARP))])),
                Family::V6 => (ETHERTYPE_IPV6, neighbor_advertisements()),
            };
            let this = Self::unbound(index)?;
            this.socket.attach_filter(&filter)?;
            this.socket.set_recv_buffer_size(QUEUE_BYTES)?;
            this.socket.bind(&address(index, ethertype)?)?;
            Ok(this)
        };
        let purpose = || format!("neighbour packets ({}) on interface number {index}", family.name());
        open().map_err(|source| SocketError { purpose: purpose(), source })
    }

    /// Opens a socket that only sends.
    pub fn open_sender(index: u32) -> Result<Self, SocketError> {
        let open = || -> io::Result<Self> {
            let this = Self::unbound(index)?;
            this.socket.attach_filter(&[DROP])?;
            Ok(this)
        };
        let purpose = || format!("sending frames on interface number {index}");
        open().map_err(|source| SocketError { purpose: purpose(), source })
    }

    fn unbound(index: u32) -> io::Result<Self> {
        // With protocol 0 nothing is received until it is bound, which is after the filter is in place.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        socket.set_nonblocking(true)?;
        set_priority(&socket)?;
        Ok(Self { socket, index })
    }

    /// The next frame from its Ethernet header on, or `None` when there is none now. A frame longer than `buffer` is cut.
    pub fn recv<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => Ok(Some(buffer.get(..length).unwrap_or_default())),
            Err(error) => none_if_empty(error.into()),
        }
    }

    /// Sends a frame, which starts with its Ethernet header.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        let Some(ethertype) = frame.get(12..14) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the frame is shorter than its header"));
        };
        let ethertype = u16::from_be_bytes([ethertype[0], ethertype[1]]);
        self.socket.send_to(frame, &address(self.index, ethertype)?).map(|_| ())
    }
}

impl AsFd for FrameSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Accepts neighbour advertisements as RFC 4861 §7.1.2 wants them: hop limit 255, so that they cannot come from beyond the link.
fn neighbor_advertisements() -> Vec<socket2::SockFilter> {
    all_equal(&[
        (BPF_LOAD_HALF, 12, u32::from(ETHERTYPE_IPV6)),
        // Next header ICMPv6, hop limit, type.
        (BPF_LOAD_BYTE, 14 + 6, 58),
        (BPF_LOAD_BYTE, 14 + 7, 255),
        (BPF_LOAD_BYTE, 14 + 40, 136),
    ])
}

/// The address of a packet socket.
fn address(index: u32, ethertype: u16) -> io::Result<SockAddr> {
    let link = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap_or_default(),
        sll_protocol: ethertype.to_be(),
        sll_ifindex: i32::try_from(index).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    };
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: every socket address begins with its family, and `sockaddr_ll` is one of those the storage is made for: large
    // and aligned enough.
    *unsafe { storage.view_as::<libc::sockaddr_ll>() } = link;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    // SAFETY: the storage holds a whole `sockaddr_ll`, whose size is `length`.
    Ok(unsafe { SockAddr::new(storage, length) })
}

/// An advertisement as a frame from the virtual router's Ethernet address: `bytes`, a VRRP message, behind Ethernet and IP
/// headers, to the group's Ethernet address. `None` if `destination` is not a multicast address of `source`'s family, or
/// `bytes` do not fit a packet: where unicast goes on the link is the kernel's to find out.
#[must_use]
pub fn advert_frame(
    source_mac: [u8; 6],
    source: IpAddr,
    destination: IpAddr,
    bytes: &[u8],
) -> Option<Vec<u8>> {
    let mut frame = Vec::with_capacity(14 + 40 + bytes.len());
    let tos = u8::try_from(TOS).ok()?;
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) if destination.is_multicast() => {
            let [_, b, c, d] = destination.octets();
            frame.extend([0x01, 0x00, 0x5e, b & 0x7f, c, d]);
            frame.extend(source_mac);
            frame.extend(ETHERTYPE_IPV4.to_be_bytes());
            let length = u16::try_from(20 + bytes.len()).ok()?.to_be_bytes();
            // "Don't fragment", so that the identification may be 0 (RFC 6864 §4.1).
            let mut header = [0x45, tos, length[0], length[1], 0, 0, 0x40, 0, TTL, PROTOCOL, 0, 0].to_vec();
            header.extend(source.octets());
            header.extend(destination.octets());
            let checksum = header_checksum(&header).to_be_bytes();
            header[10..12].copy_from_slice(&checksum);
            frame.extend(header);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) if destination.is_multicast() => {
            frame.extend([0x33, 0x33]);
            frame.extend(&destination.octets()[12..]);
            frame.extend(source_mac);
            frame.extend(ETHERTYPE_IPV6.to_be_bytes());
            let length = u16::try_from(bytes.len()).ok()?.to_be_bytes();
            frame.extend([0x60 | tos >> 4, tos << 4, 0, 0, length[0], length[1], PROTOCOL, TTL]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        _ => return None,
    }
    frame.extend(bytes);
    Some(frame)
}

/// The checksum of an IPv4 header in which the field is 0.
fn header_checksum(header: &[u8]) -> u16 {
    let words = header.as_chunks::<2>().0;
    let sum: u32 = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    // At most 0x1fffe before, so that this fits.
    !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0, 0, 0x5e, 0, 1, 51];

    /// What keepalived sends with `use_vmac` differs in what is free: identification, "don't fragment", and the checksum
    /// that follows from them.
    #[test]
    fn an_ipv4_frame_is_what_others_send() {
        let capture = include_bytes!("../../core/testdata/v3-ipv4-vmac.pcap");
        let recorded = records(capture)
            .find(|frame| frame[12..14] == [8, 0] && frame[23] == PROTOCOL)
            .expect("the capture holds advertisements");
        let payload = &recorded[34..];
        let ip = |at: usize| IpAddr::from(*recorded[at..].first_chunk::<4>().unwrap());
        let frame = advert_frame(MAC, ip(26), ip(30), payload).unwrap();
        for at in (0..recorded.len()).filter(|at| !matches!(at, 18..22 | 24..26)) {
            assert_eq!(frame[at], recorded[at], "byte {at}");
        }
        assert_eq!(frame.len(), recorded.len());
        assert_eq!(frame[18..22], [0, 0, 0x40, 0]);
        // The one's complement sum over a header with its checksum is all ones.
        assert_eq!(header_checksum(&frame[14..34]), 0);
        assert_eq!(header_checksum(&recorded[14..34]), 0);
    }

    /// The frames of a little-endian classic pcap file.
    fn records(file: &[u8]) -> impl Iterator<Item = &[u8]> {
        let mut rest = &file[24..];
        std::iter::from_fn(move || {
            let header = rest.first_chunk::<16>()?;
            let length = usize::try_from(u32::from_le_bytes(*header[8..].first_chunk()?)).ok()?;
            let frame = rest.get(16..16 + length)?;
            rest = &rest[16 + length..];
            Some(frame)
        })
    }

    #[test]
    fn an_ipv6_frame_is_what_the_rfc_says() {
        let (source, group) = ("fe80::1".parse().unwrap(), "ff02::12".parse().unwrap());
        let frame = advert_frame(MAC, source, group, &[7; 24]).unwrap();
        assert_eq!(frame[..14], [0x33, 0x33, 0, 0, 0, 0x12, 0, 0, 0x5e, 0, 1, 51, 0x86, 0xdd]);
        assert_eq!(frame[14..22], [0x6c, 0, 0, 0, 0, 24, 112, 255]);
        assert_eq!((frame[22], frame[37], frame[38], frame[53]), (0xfe, 1, 0xff, 0x12));
        assert_eq!(frame[54..], [7; 24]);
    }

    #[test]
    fn unicast_and_mixed_families_are_left_to_others() {
        let source = "10.0.0.1".parse().unwrap();
        assert_eq!(advert_frame(MAC, source, "10.0.0.2".parse().unwrap(), &[0; 12]), None);
        assert_eq!(advert_frame(MAC, source, "ff02::12".parse().unwrap(), &[0; 12]), None);
        assert_eq!(advert_frame(MAC, source, "224.0.0.18".parse().unwrap(), &[0; 70_000]), None);
    }
}
