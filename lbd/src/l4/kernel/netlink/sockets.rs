//! How many connections the kernel has at addresses of this host, by `NETLINK_SOCK_DIAG`: those that are being made, wait to be
//! accepted, or have yet to deliver what was sent included.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use common::netlink::{Ended, HEADER_LEN, Messages};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as Port};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::{ANSWER_TIMEOUT, DATAGRAM_MAX, NetlinkError, no_answer};

/// `SOCK_DIAG_BY_FAMILY` (linux/sock_diag.h).
const BY_FAMILY: u16 = 20;

/// States of connections, as bits by their numbers in include/net/tcp_states.h.
#[derive(Clone, Copy, Debug)]
pub(crate) struct States(u32);

impl States {
    /// Those in which a connection still needs its packets: all but `SYN_SENT`, `TIME_WAIT`, `CLOSE` and `LISTEN`.
    pub(in super::super) const ALIVE: Self =
        Self(Self::BEGINNING.0 | Self::ENDING.0 | 1 << 1 | 1 << 5 | 1 << 8);

    /// The client's last step of the handshake has not come: `SYN_RECV` and `NEW_SYN_RECV`.
    pub(crate) const BEGINNING: Self = Self(1 << 3 | 1 << 12);

    /// Nothing more is sent here, and the client has not acknowledged all of it: `FIN_WAIT1`, `LAST_ACK` and `CLOSING`.
    pub(crate) const ENDING: Self = Self(1 << 4 | 1 << 9 | 1 << 11);
}

/// Datagrams of an answer: some 100 sockets are in each.
const DATAGRAMS_MAX: usize = 1 << 17;

/// The length of `struct inet_diag_req_v2`.
const REQUEST: usize = 56;

/// A socket for such questions.
#[derive(Debug)]
pub(in super::super) struct Sockets {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Sockets {
    /// Opens it in the network namespace of the calling thread.
    pub(in super::super) fn open() -> Result<Self, NetlinkError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
            socket.bind_auto()?;
            let timeout = TimeVal::new(i64::try_from(ANSWER_TIMEOUT.as_secs()).unwrap_or(1), 0);
            setsockopt(&socket.as_fd(), sockopt::ReceiveTimeout, &timeout)?;
            Ok(socket)
        };
        Ok(Self { socket: open().map_err(NetlinkError::Open)?, sequence: 0, buffer: vec![0; DATAGRAM_MAX] })
    }

    /// How many TCP connections of both families there are in these states at the addresses of which `counts` says what they count for.
    pub(in super::super) fn count<T: Ord>(
        &mut self,
        states: States,
        counts: impl Fn(SocketAddr) -> Option<T>,
    ) -> Result<BTreeMap<T, u32>, NetlinkError> {
        let mut found = BTreeMap::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            self.dump(family, states, &mut |address| {
                if let Some(key) = counts(address) {
                    *found.entry(key).or_insert(0) += 1;
                }
            })
            .map_err(|source| NetlinkError::Refused { action: "counting connections".to_owned(), source })?;
        }
        Ok(found)
    }

    fn dump(&mut self, family: i32, states: States, found: &mut dyn FnMut(SocketAddr)) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send_to(&request(family, states, self.sequence), &Port::new(0, 0), 0)?;
        for _ in 0..DATAGRAMS_MAX {
            let mut space = self.buffer.as_mut_slice();
            let (length, sender) = self.socket.recv_from(&mut space, 0).map_err(no_answer)?;
            if sender.port_number() != 0 {
                continue;
            }
            for message in Messages(self.buffer.get(..length).unwrap_or_default()) {
                match message.ended(self.sequence)? {
                    Ended::Yes => return Ok(()),
                    Ended::No if message.message_type == BY_FAMILY => {
                        local(message.payload).into_iter().for_each(&mut *found);
                    }
                    Ended::No | Ended::Other => {}
                }
            }
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "the answer has no end"))
    }
}

/// How many connections there are in these states at these addresses. Takes the longer the more sockets the host has: not for a thread that
/// somebody waits for.
pub(crate) fn connections_at(addresses: &BTreeSet<SocketAddr>, states: States) -> Result<u32, NetlinkError> {
    let counts = Sockets::open()?.count(states, |local| addresses.contains(&local).then_some(()))?;
    Ok(counts.values().sum())
}

/// A `struct inet_diag_req_v2` for those of a family in these states.
fn request(family: i32, states: States, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + REQUEST);
    bytes.extend(u32::try_from(HEADER_LEN + REQUEST).unwrap_or_default().to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.push(u8::try_from(family).unwrap_or_default());
    bytes.push(u8::try_from(libc::IPPROTO_TCP).unwrap_or_default());
    bytes.extend([0; 2]);
    bytes.extend(states.0.to_ne_bytes());
    bytes.resize(HEADER_LEN + REQUEST, 0);
    bytes
}

/// The local address of a `struct inet_diag_msg`, IPv4 as such also where an IPv6 socket has it.
fn local(message: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(*message.get(4..)?.first_chunk()?);
    let address: [u8; 16] = *message.get(8..)?.first_chunk()?;
    let ip = match i32::from(*message.first()?) {
        libc::AF_INET => IpAddr::from(Ipv4Addr::from(*address.first_chunk()?)),
        libc::AF_INET6 => Ipv6Addr::from(address).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn connections_are_counted_where_they_were_accepted() {
        let mut sockets = Sockets::open().unwrap();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let at = listener.local_addr().unwrap();
            let mut count = || {
                let counts = sockets.count(States::ALIVE, |local| (local == at).then_some(()));
                counts.unwrap().get(&()).copied()
            };
            assert_eq!(count(), None, "a listener is none");
            let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(at).unwrap()).collect();
            assert_eq!(count(), Some(3), "not accepted yet");
            let accepted: Vec<_> = (0..3).map(|_| listener.accept().unwrap().0).collect();
            assert_eq!(count(), Some(3));
            drop(clients);
            assert_eq!(count(), Some(3), "this end is still open");
            drop(accepted);
        }
    }
}
