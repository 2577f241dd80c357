//! The peer link: UDP between the two nodes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::{MsgFlags, recv};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use vrrpd_core::peer::PORT;

use super::{BPF_LOAD_WORD, DROP, QUEUE_BYTES, SocketError, TOS, all_equal, none_if_empty, set_priority};

/// Offsets from here on count from the IP header (`SKF_NET_OFF`).
const FROM_IP_HEADER: u32 = 0xfff0_0000;

/// A socket between this node's address on the peer link and the other's.
///
/// Nothing from another address gets into its queue. It opens before its address is there and lives on when that goes and
/// comes back; sending fails meanwhile. That the other end does not listen is not noticed here: silence says it.
#[derive(Debug)]
pub struct PeerSocket {
    socket: Socket,
    remote: SocketAddr,
}

impl PeerSocket {
    /// Opens the socket on UDP port [`PORT`] of `local`, for datagrams to and from that port of `remote`.
    pub fn open(local: IpAddr, remote: IpAddr) -> Result<Self, SocketError> {
        Self::with(SocketAddr::new(local, PORT), remote, &from(remote))
    }

    /// Opens a socket on some port of `local` that only sends: whatever arrives is dropped in the kernel.
    pub fn open_sender(local: IpAddr, remote: IpAddr) -> Result<Self, SocketError> {
        Self::with(SocketAddr::new(local, 0), remote, &[DROP])
    }

    fn with(local: SocketAddr, remote: IpAddr, filter: &[SockFilter]) -> Result<Self, SocketError> {
        let open = || -> io::Result<Socket> {
            let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_nonblocking(true)?;
            if local.is_ipv4() {
                socket.set_freebind_v4(true)?;
                socket.set_tos_v4(TOS)?;
            } else {
                socket.set_freebind_v6(true)?;
                socket.set_only_v6(true)?;
                socket.set_tclass_v6(TOS)?;
            }
            set_priority(&socket)?;
            socket.set_recv_buffer_size(QUEUE_BYTES)?;
            socket.attach_filter(filter)?;
            socket.bind(&local.into())?;
            Ok(socket)
        };
        let purpose = || format!("the peer link from {local} to {remote}");
        let socket = open().map_err(|source| SocketError { purpose: purpose(), source })?;
        Ok(Self { socket, remote: SocketAddr::new(remote, PORT) })
    }

    /// The next datagram, or `None` when there is none now. One longer than `buffer` is cut.
    pub fn recv<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => Ok(Some(buffer.get(..length).unwrap_or_default())),
            Err(error) => none_if_empty(error.into()),
        }
    }

    /// Sends a datagram to the other node.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.socket.send_to(bytes, &self.remote.into()).map(|_| ())
    }
}

impl AsFd for PeerSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Accepts what comes from this address. (A connected socket would do the same, but cannot be had before its own address is
/// there, and turns the other end's refusals into errors.)
fn from(remote: IpAddr) -> Vec<SockFilter> {
    let (offset, octets) = match remote {
        IpAddr::V4(ip) => (12, ip.octets().to_vec()),
        IpAddr::V6(ip) => (8, ip.octets().to_vec()),
    };
    let words = octets.as_chunks::<4>().0.iter().zip((FROM_IP_HEADER + offset..).step_by(4));
    let conditions: Vec<_> = words.map(|(word, at)| (BPF_LOAD_WORD, at, u32::from_be_bytes(*word))).collect();
    all_equal(&conditions)
}
