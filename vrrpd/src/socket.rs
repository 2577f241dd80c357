//! Sockets: advertisements ([`AdvertSocket`]), whole frames ([`FrameSocket`]) and the peer link ([`PeerSocket`]).
//!
//! None of them ever blocks: receiving gives `None` when there is nothing, sending fails when the queue is full. Each call
//! handles one packet, so that the caller bounds how many it takes at a time; a flood beyond that is dropped by the kernel at
//! the queue's bound and counted ([`drops`]).
//!
//! A socket belongs to the interface index it was opened for. It survives the interface going down and coming up again; when
//! the interface is removed, open a new one.

mod frame;
mod peer;

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, SockaddrStorage, recv, recvmsg, sendmsg,
    setsockopt, sockopt,
};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockFilter, Socket, Type};
use vrrpd_core::packet::{Family, MULTICAST_V4, MULTICAST_V6, Meta, PROTOCOL, TTL, split_ipv4};

pub use frame::{FrameSocket, advert_frame};
pub use peer::PeerSocket;

/// The type of service of everything that is sent: CS6, network control.
const TOS: u32 = 0xc0;

/// `SO_PRIORITY` of everything that is sent: control, the first band of the usual queues. The kernel counts it as
/// `TC_PRIO_CONTROL`; beyond 6 it takes CAP_NET_ADMIN.
const PRIORITY: u32 = 7;

/// The receive queue of each socket, in bytes: about 300 small packets.
const QUEUE_BYTES: usize = 256 * 1024;

/// Why a socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("opening a socket for {purpose} failed: {source}{}", hint(.source))]
pub struct SocketError {
    /// What it is for, and where.
    purpose: String,
    /// What the kernel answered.
    source: io::Error,
}

impl SocketError {
    /// The kernel's error number, if it answered with one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// What to do about the errors that people run into.
fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "; run as root or with CAP_NET_RAW and CAP_NET_ADMIN",
        Some(libc::EADDRINUSE) => "; another process has the port, is vrrpd running already?",
        Some(libc::ENODEV) => "; the interface is gone, or IPv6 is switched off there",
        Some(libc::EAFNOSUPPORT) => "; this kernel runs without IPv6",
        _ => "",
    }
}

/// A raw socket for the advertisements of one family on one interface.
#[derive(Debug)]
pub struct AdvertSocket {
    socket: Socket,
    index: u32,
    family: Family,
}

impl AdvertSocket {
    /// Opens the socket on the interface with this index, and joins the multicast group there.
    pub fn open(index: u32, family: Family) -> Result<Self, SocketError> {
        let open = || -> io::Result<Self> {
            let socket = Self::unjoined(index, family)?;
            match family {
                Family::V4 => {
                    let interface = InterfaceIndexOrAddress::Index(index);
                    socket.join_multicast_v4_n(&MULTICAST_V4, &interface)?;
                }
                Family::V6 => {
                    socket.join_multicast_v6(&MULTICAST_V6, index)?;
                    socket.set_recv_hoplimit_v6(true)?;
                    setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
                }
            }
            Ok(Self { socket, index, family })
        };
        open().map_err(|source| SocketError { purpose: Self::purpose(index, family), source })
    }

    /// Opens a socket that only sends: whatever arrives is dropped in the kernel.
    pub fn open_sender(index: u32, family: Family) -> Result<Self, SocketError> {
        let open = || -> io::Result<Self> {
            let socket = Self::unjoined(index, family)?;
            socket.attach_filter(&[DROP])?;
            Ok(Self { socket, index, family })
        };
        open().map_err(|source| SocketError { purpose: Self::purpose(index, family), source })
    }

    fn purpose(index: u32, family: Family) -> String {
        format!("{} advertisements on interface number {index}", family.name())
    }

    fn unjoined(index: u32, family: Family) -> io::Result<Socket> {
        let domain = if family == Family::V4 { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(PROTOCOL))))?;
        socket.set_nonblocking(true)?;
        let interface = NonZeroU32::new(index);
        let ttl = u32::from(TTL);
        match family {
            Family::V4 => {
                socket.bind_device_by_index_v4(interface)?;
                socket.set_multicast_all_v4(false)?;
                socket.set_multicast_loop_v4(false)?;
                socket.set_multicast_ttl_v4(ttl)?;
                socket.set_ttl_v4(ttl)?;
                socket.set_tos_v4(TOS)?;
            }
            Family::V6 => {
                socket.bind_device_by_index_v6(interface)?;
                socket.set_multicast_all_v6(false)?;
                socket.set_multicast_loop_v6(false)?;
                socket.set_multicast_if_v6(index)?;
                socket.set_multicast_hops_v6(ttl)?;
                socket.set_unicast_hops_v6(ttl)?;
                socket.set_tclass_v6(TOS)?;
            }
        }
        socket.set_recv_buffer_size(QUEUE_BYTES)?;
        set_priority(&socket)?;
        Ok(socket)
    }

    /// The next packet: its payload, at the start of `buffer` or further on in it, and what its IP header said. `None` when
    /// there is none now. A packet longer than `buffer` is cut.
    pub fn recv<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<(&'a [u8], Meta)>> {
        let received = match self.family {
            Family::V4 => self.recv_v4(buffer),
            Family::V6 => self.recv_v6(buffer),
        };
        received.map(Some).or_else(none_if_empty)
    }

    fn recv_v4<'a>(&self, buffer: &'a mut [u8]) -> io::Result<(&'a [u8], Meta)> {
        let length = recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?;
        let packet = buffer.get(..length).unwrap_or_default();
        let (meta, payload) = split_ipv4(packet).map_err(io::Error::other)?;
        Ok((payload, meta))
    }

    fn recv_v6<'a>(&self, buffer: &'a mut [u8]) -> io::Result<(&'a [u8], Meta)> {
        let mut control = Control([0; 128]);
        let mut parts = [IoSliceMut::new(buffer)];
        let message = recvmsg::<SockaddrIn6>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut control.0),
            MsgFlags::MSG_DONTWAIT,
        )?;
        let (mut hop_limit, mut destination) = (None, None);
        for part in message.cmsgs()? {
            match part {
                ControlMessageOwned::Ipv6HopLimit(hops) => hop_limit = u8::try_from(hops).ok(),
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    destination = Some(IpAddr::from(info.ipi6_addr.s6_addr));
                }
                _ => {}
            }
        }
        let (length, source) = (message.bytes, message.address);
        let (Some(source), Some(destination), Some(hop_limit)) = (source, destination, hop_limit) else {
            return Err(io::Error::other("the kernel did not say where the packet came from"));
        };
        let meta = Meta { source: source.ip().into(), destination, hop_limit };
        Ok((buffer.get(..length).unwrap_or_default(), meta))
    }

    /// Sends an advertisement from `source`, an address of this host, to the group or another node.
    pub fn send(&self, source: IpAddr, destination: IpAddr, bytes: &[u8]) -> io::Result<()> {
        let parts = [IoSlice::new(bytes)];
        let fd = self.socket.as_raw_fd();
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(_)) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: i32::try_from(self.index).unwrap_or_default(),
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                let to = SockaddrStorage::from(SocketAddr::new(destination, 0));
                sendmsg(fd, &parts, &[ControlMessage::Ipv4PacketInfo(&info)], flags, Some(&to))?;
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: source.octets() },
                    ipi6_ifindex: self.index,
                };
                let to = SockaddrStorage::from(SocketAddrV6::new(destination, 0, 0, self.index));
                sendmsg(fd, &parts, &[ControlMessage::Ipv6PacketInfo(&info)], flags, Some(&to))?;
            }
            _ => return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
        }
        Ok(())
    }
}

impl AsFd for AdvertSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Room for control messages, aligned as the kernel wants it: a packet's destination and hop limit take 64 bytes.
#[repr(C, align(8))]
struct Control([u8; 128]);

/// A filter program that drops everything.
const DROP: SockFilter = SockFilter::new(BPF_RET, 0, 0, 0);

const BPF_RET: u16 = 0x06;
/// Load the byte, half word or word at an offset.
const BPF_LOAD_BYTE: u16 = 0x30;
const BPF_LOAD_HALF: u16 = 0x28;
const BPF_LOAD_WORD: u16 = 0x20;
/// Go on if what was loaded equals the constant, else jump.
const BPF_EQUAL: u16 = 0x15;

/// A filter program that accepts what has all of these values at their offsets.
fn all_equal(conditions: &[(u16, u32, u32)]) -> Vec<SockFilter> {
    let mut program = Vec::new();
    for (number, &(load, offset, value)) in conditions.iter().enumerate() {
        // Past the conditions that follow, and past "accept".
        let to_drop = u8::try_from((conditions.len() - number - 1) * 2 + 1).unwrap_or_default();
        program.push(SockFilter::new(load, 0, 0, offset));
        program.push(SockFilter::new(BPF_EQUAL, 0, to_drop, value));
    }
    program.push(SockFilter::new(BPF_RET, 0, 0, u32::MAX));
    program.push(DROP);
    program
}

/// Marks what the socket sends as control traffic.
fn set_priority(socket: &Socket) -> io::Result<()> {
    // Without CAP_NET_ADMIN the highest is one less.
    socket.set_priority(PRIORITY).or_else(|_| socket.set_priority(PRIORITY - 1))
}

/// "Would block" is no error but an empty queue; so is an interruption, after which the caller polls again.
fn none_if_empty<T>(error: io::Error) -> io::Result<Option<T>> {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
        _ => Err(error),
    }
}

/// Packets that the kernel has dropped because this socket's receive queue was full, since its opening (modulo 2^32).
pub fn drops(socket: BorrowedFd<'_>) -> io::Result<u32> {
    /// The index of the drop counter in `SO_MEMINFO` (`SK_MEMINFO_DROPS`).
    const DROPS: usize = 8;
    let mut values = [0_u32; 16];
    let mut length = libc::socklen_t::try_from(size_of::<[u32; 16]>()).unwrap_or_default();
    // SAFETY: the pointer and the length describe `values`, which lives through the call; the kernel writes at most that
    // many bytes of plain numbers there.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(values[DROPS]) } else { Err(io::Error::last_os_error()) }
}
