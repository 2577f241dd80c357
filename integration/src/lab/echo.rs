//! The targets' echo server, TCP and UDP, both families: one thread, level-triggered; or a process of its own.

use std::collections::HashMap;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::sockopt::Ipv6RecvPacketInfo;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::error::{Context, Result};
use super::netns::Namespace;

const BACKLOG: i32 = 4096;
/// How much one connection may have waiting to be sent back; beyond it reading waits, and the client with it.
const UNSENT_BYTES_MAX: usize = 256 << 10;
const STOP_CHECK_MS: u16 = 50;

/// Echoes on a port of the network that this process is in, until the process ends. What is connected takes descriptors of this
/// process: a host of thousands of connections runs it as one of its own.
///
/// # Errors
/// [`super::LabError::Io`] when the port is taken.
pub fn echo_forever(port: u16) -> Result<()> {
    let server = bind(port).doing(|| format!("binding the echo server's port {port}"))?;
    server.run(&AtomicBool::new(false));
    Ok(())
}

/// A bound server, not yet running.
pub(super) struct Server {
    listener: TcpListener,
    datagrams: UdpSocket,
}

struct Connection {
    stream: TcpStream,
    unsent: Vec<u8>,
    interest: EpollFlags,
}

impl Server {
    /// Binds the port in this namespace, on every address of both families.
    pub(super) fn new(namespace: &Namespace, port: u16) -> Result<Self> {
        namespace.inside(|| bind(port).doing(|| format!("binding the echo server's port {port}")))?
    }

    /// Echoes until told to stop.
    pub(super) fn run(self, stop: &AtomicBool) {
        let Ok(epoll) = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC) else { return };
        let (listener, datagrams) = (self.listener.as_raw_fd(), self.datagrams.as_raw_fd());
        for (fd, added) in [
            (listener, epoll.add(&self.listener, event(EpollFlags::EPOLLIN, listener))),
            (datagrams, epoll.add(&self.datagrams, event(EpollFlags::EPOLLIN, datagrams))),
        ] {
            debug_assert!(added.is_ok(), "epoll takes socket {fd}");
        }
        let mut connections: HashMap<u64, Connection> = HashMap::new();
        let mut events = [EpollEvent::empty(); 256];
        while !stop.load(Ordering::Acquire) {
            let count = epoll.wait(&mut events, STOP_CHECK_MS).unwrap_or(0);
            for ready in &events[..count] {
                if ready.data() == key(listener) {
                    self.accept(&epoll, &mut connections);
                } else if ready.data() == key(datagrams) {
                    while self.answer_datagram().is_some() {}
                } else if let Some(connection) = connections.get_mut(&ready.data())
                    && connection.exchange(&epoll).is_err()
                {
                    // Closing takes it out of the epoll set.
                    connections.remove(&ready.data());
                }
            }
        }
    }

    fn accept(&self, epoll: &Epoll, connections: &mut HashMap<u64, Connection>) {
        while let Ok((stream, _)) = self.listener.accept() {
            let fd = stream.as_raw_fd();
            let prepared = stream.set_nonblocking(true).is_ok() && stream.set_nodelay(true).is_ok();
            if prepared && epoll.add(&stream, event(EpollFlags::EPOLLIN, fd)).is_ok() {
                let interest = EpollFlags::EPOLLIN;
                connections.insert(key(fd), Connection { stream, unsent: Vec::new(), interest });
            }
        }
    }

    /// Answers one datagram from the address it was sent to (a VIP, behind direct server return).
    fn answer_datagram(&self) -> Option<()> {
        let mut buffer = [0; 65536];
        let mut control = nix::cmsg_space!(libc::in6_pktinfo);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let fd = self.datagrams.as_raw_fd();
        let message =
            recvmsg::<SockaddrIn6>(fd, &mut slices, Some(&mut control), MsgFlags::MSG_DONTWAIT).ok()?;
        let (from, length) = (message.address?, message.bytes);
        let to = message.cmsgs().ok()?.find_map(|item| match item {
            // By the way there is to the client, not out of the tunnel that it came by.
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(libc::in6_pktinfo { ipi6_ifindex: 0, ..info }),
            _ => None,
        })?;
        let answer = [IoSlice::new(&buffer[..length])];
        let control = [ControlMessage::Ipv6PacketInfo(&to)];
        // A lost answer is what UDP allows.
        sendmsg(fd, &answer, &control, MsgFlags::MSG_DONTWAIT, Some(&from)).ok();
        Some(())
    }
}

impl Connection {
    /// Sends what waits, then reads and sends back what has come. An error ends the connection.
    fn exchange(&mut self, epoll: &Epoll) -> std::io::Result<()> {
        self.flush()?;
        let mut buffer = [0; 16384];
        while self.unsent.len() < UNSENT_BYTES_MAX {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => {
                    self.unsent.extend_from_slice(&buffer[..length]);
                    self.flush()?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let mut interest = EpollFlags::empty();
        interest.set(EpollFlags::EPOLLIN, self.unsent.len() < UNSENT_BYTES_MAX);
        interest.set(EpollFlags::EPOLLOUT, !self.unsent.is_empty());
        if interest != self.interest {
            epoll.modify(&self.stream, &mut event(interest, self.stream.as_raw_fd()))?;
            self.interest = interest;
        }
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(length) => drop(self.unsent.drain(..length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn bind(port: u16) -> std::io::Result<Server> {
    let everywhere = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
    let listener = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    listener.set_only_v6(false)?;
    listener.set_reuse_address(true)?;
    listener.set_nonblocking(true)?;
    listener.bind(&everywhere.into())?;
    listener.listen(BACKLOG)?;
    let datagrams = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    datagrams.set_only_v6(false)?;
    datagrams.set_nonblocking(true)?;
    datagrams.bind(&everywhere.into())?;
    setsockopt(&datagrams, Ipv6RecvPacketInfo, &true)?;
    Ok(Server { listener: listener.into(), datagrams: datagrams.into() })
}

fn event(interest: EpollFlags, fd: RawFd) -> EpollEvent {
    EpollEvent::new(interest, key(fd))
}

/// A descriptor as epoll's user data; descriptors are not negative.
fn key(fd: RawFd) -> u64 {
    u64::from(fd.unsigned_abs())
}
