//! The watch on interfaces, addresses, routes and neighbours.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use common::netlink::Messages;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};

use super::wire::Answer;
use super::{DATAGRAM_MAX, Neighbour, NetlinkError};

/// The kernel's queue for the watch, in bytes; beyond it [`Change::Overrun`] says so.
const QUEUE_BYTES: usize = 4 * 1024 * 1024;

/// The multicast groups, as bits: links, neighbours, queueing disciplines, and of both families addresses, routes and rules.
const GROUPS: u32 = 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 18;

/// `RTM_NEWCHAIN` and `RTM_GETCHAIN`.
const NEW_CHAIN: u16 = 100;
const GET_CHAIN: u16 = 102;

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// An interface or its queueing discipline, an address, a route or a rule: any way may be another now.
    Ways,
    /// A neighbour appeared or changed.
    Neighbour(Neighbour),
    /// A neighbour was removed.
    NeighbourGone(Neighbour),
    /// Changes were lost because too many came at once: list everything anew.
    Overrun,
}

/// A socket that tells of every change from its opening on. It never blocks.
#[derive(Debug)]
pub(crate) struct Monitor {
    socket: Socket,
    buffer: Vec<u8>,
    pending: VecDeque<Change>,
}

impl Monitor {
    /// Opens the watch in the network namespace of the calling thread. List everything after that, not before, so that
    /// nothing falls between.
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.set_non_blocking(true)?;
            // Beyond the host's limit with CAP_NET_ADMIN, up to it without.
            if setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &QUEUE_BYTES).is_err() {
                setsockopt(&socket.as_fd(), sockopt::RcvBuf, &QUEUE_BYTES)?;
            }
            socket.bind(&SocketAddr::new(0, GROUPS))?;
            Ok(socket)
        };
        let socket = open().map_err(NetlinkError::Open)?;
        Ok(Self { socket, buffer: vec![0; DATAGRAM_MAX], pending: VecDeque::new() })
    }

    /// The next change, or `None` when there is none now.
    pub(crate) fn next(&mut self) -> io::Result<Option<Change>> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Ok(Some(change));
            }
            let mut space = self.buffer.as_mut_slice();
            let (length, sender) = match self.socket.recv_from(&mut space, 0) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    return Ok(Some(Change::Overrun));
                }
                Err(error) => return Err(error),
            };
            // Only the kernel's word counts.
            if sender.port_number() == 0 {
                let datagram = self.buffer.get(..length).unwrap_or_default();
                self.pending.extend(
                    Messages(datagram).filter_map(|message| change(message.message_type, message.payload)),
                );
            }
        }
    }
}

fn change(message_type: u16, payload: &[u8]) -> Option<Change> {
    match Answer::parse(message_type, payload) {
        Some(Answer::Neighbour(neighbour)) => Some(Change::Neighbour(neighbour)),
        Some(Answer::NeighbourGone(neighbour)) => Some(Change::NeighbourGone(neighbour)),
        _ if matches!(message_type, libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH) => None,
        // Told of beside queueing disciplines: their classes, filters, actions and chains.
        _ if matches!(message_type, libc::RTM_NEWTCLASS..=libc::RTM_GETACTION | NEW_CHAIN..=GET_CHAIN) => {
            None
        }
        _ => Some(Change::Ways),
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
