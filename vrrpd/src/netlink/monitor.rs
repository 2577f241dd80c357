//! The watch on links and addresses.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use common::netlink::Messages;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};

use super::wire::Answer;
use super::{DATAGRAM_MAX, Link, NetlinkError};

/// The kernel's queue for the watch, in bytes. At about 1 KiB for a link and 100 bytes for an address that is thousands of
/// changes between two wake-ups; beyond it [`Change::Overrun`] says so.
const QUEUE_BYTES: usize = 4 * 1024 * 1024;

/// Datagrams read in one call.
const DATAGRAMS_MAX: usize = 64;

/// What has changed, by whomever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An interface appeared or changed; sent for many reasons, often with nothing new in it.
    Link(Link),
    /// An interface is gone.
    LinkGone {
        /// Its index.
        index: u32,
        /// Its name.
        name: String,
    },
    /// An address was added or changed.
    AddressAdded {
        /// The interface.
        index: u32,
        /// The address.
        ip: IpAddr,
        /// Its prefix length.
        prefix: u8,
        /// Who added it, if known; [`super::ORIGIN`] for this daemon.
        proto: Option<u8>,
    },
    /// An address was removed. The same address may still be there with another prefix length.
    AddressRemoved {
        /// The interface.
        index: u32,
        /// The address.
        ip: IpAddr,
        /// Its prefix length.
        prefix: u8,
    },
    /// Changes were lost because too many came at once: list everything anew.
    Overrun,
}

impl From<Answer> for Option<Change> {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Link(link) => Some(Change::Link(link)),
            Answer::LinkGone(link) => Some(Change::LinkGone { index: link.index, name: link.name }),
            Answer::Address(a) => {
                Some(Change::AddressAdded { index: a.index, ip: a.ip, prefix: a.prefix, proto: a.proto })
            }
            Answer::AddressGone(a) => {
                Some(Change::AddressRemoved { index: a.index, ip: a.ip, prefix: a.prefix })
            }
            Answer::Route(_) => None,
        }
    }
}

/// A socket that tells of every change of links and addresses from its opening on. It never blocks.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
    buffer: Vec<u8>,
    /// The changes of the datagram read last; at most as many as fit in one.
    pending: VecDeque<Change>,
}

impl Monitor {
    /// Opens the watch in the network namespace of the calling thread. List links and addresses after that, not before,
    /// so that nothing falls between.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.set_non_blocking(true)?;
            // Beyond the host's limit with CAP_NET_ADMIN, up to it without.
            if setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &QUEUE_BYTES).is_err() {
                setsockopt(&socket.as_fd(), sockopt::RcvBuf, &QUEUE_BYTES)?;
            }
            let groups = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
            socket.bind(&SocketAddr::new(0, u32::try_from(groups).unwrap_or_default()))?;
            Ok(socket)
        };
        let socket = open().map_err(NetlinkError::Open)?;
        Ok(Self { socket, buffer: vec![0; DATAGRAM_MAX], pending: VecDeque::new() })
    }

    /// The next change, or `None` when there is none now.
    #[expect(clippy::should_implement_trait, reason = "an iterator cannot fail and go on")]
    pub fn next(&mut self) -> io::Result<Option<Change>> {
        for _ in 0..DATAGRAMS_MAX {
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
                let changes = Messages(datagram)
                    .filter_map(|message| Answer::parse(message.message_type, message.payload))
                    .filter_map(Option::<Change>::from);
                self.pending.extend(changes);
            }
        }
        // Only things of no interest so far; what is left makes the socket readable again.
        Ok(None)
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
