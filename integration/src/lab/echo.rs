//! The targets' echo server, TCP and UDP, both families: one thread, level-triggered; or a process of its own. On a second port a
//! connection is an echo only after a request of HTTP has made it a tunnel.

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
use super::upgrade;

const BACKLOG: i32 = 4096;
/// How much one connection may have waiting to be sent back; beyond it reading waits, and the client with it.
const UNSENT_BYTES_MAX: usize = 256 << 10;
const STOP_CHECK_MS: u16 = 50;

/// Echoes on a port of the network that this process is in, and in tunnels on another, until the process ends. What is connected
/// takes descriptors of this process: a host of thousands of connections runs it as one of its own.
///
/// # Errors
/// [`super::LabError::Io`] when a port is taken.
pub fn echo_forever(port: u16, tunnel_port: u16) -> Result<()> {
    let server = bind(port, tunnel_port).doing(|| binding(port, tunnel_port))?;
    server.run(&AtomicBool::new(false));
    Ok(())
}

/// A bound server, not yet running.
pub(super) struct Server {
    listener: TcpListener,
    tunnels: TcpListener,
    datagrams: UdpSocket,
}

struct Connection {
    stream: TcpStream,
    /// What has come of the request that makes it a tunnel; none of a connection that is an echo from its beginning, or is a tunnel.
    request: Option<Vec<u8>>,
    unsent: Vec<u8>,
    interest: EpollFlags,
}

impl Server {
    /// Binds the ports in this namespace, on every address of both families.
    pub(super) fn new(namespace: &Namespace, port: u16, tunnel_port: u16) -> Result<Self> {
        namespace.inside(|| bind(port, tunnel_port).doing(|| binding(port, tunnel_port)))?
    }

    /// Echoes until told to stop.
    pub(super) fn run(self, stop: &AtomicBool) {
        let Ok(epoll) = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC) else { return };
        let (listener, datagrams) = (self.listener.as_raw_fd(), self.datagrams.as_raw_fd());
        let tunnels = self.tunnels.as_raw_fd();
        for (fd, added) in [
            (listener, epoll.add(&self.listener, event(EpollFlags::EPOLLIN, listener))),
            (tunnels, epoll.add(&self.tunnels, event(EpollFlags::EPOLLIN, tunnels))),
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
                    accept(&self.listener, || None, &epoll, &mut connections);
                } else if ready.data() == key(tunnels) {
                    accept(&self.tunnels, || Some(Vec::new()), &epoll, &mut connections);
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
                    self.take(&buffer[..length])?;
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

    /// Takes what has come: it is sent back, unless it belongs to the request before that.
    fn take(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let Some(request) = &mut self.request else {
            self.unsent.extend_from_slice(bytes);
            return Ok(());
        };
        request.extend_from_slice(bytes);
        if let Some(end) = upgrade::request_end(request)? {
            self.unsent.extend_from_slice(&upgrade::answer());
            self.unsent.extend_from_slice(&request[end..]);
            self.request = None;
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

/// Takes the connections that wait, each with what has come of the `request` that it has to begin with.
fn accept(
    listener: &TcpListener,
    request: impl Fn() -> Option<Vec<u8>>,
    epoll: &Epoll,
    connections: &mut HashMap<u64, Connection>,
) {
    while let Ok((stream, _)) = listener.accept() {
        let fd = stream.as_raw_fd();
        let prepared = stream.set_nonblocking(true).is_ok() && stream.set_nodelay(true).is_ok();
        if prepared && epoll.add(&stream, event(EpollFlags::EPOLLIN, fd)).is_ok() {
            let (request, interest) = (request(), EpollFlags::EPOLLIN);
            connections.insert(key(fd), Connection { stream, request, unsent: Vec::new(), interest });
        }
    }
}

/// Whoever waits for the port to answer finds the one for tunnels answering, too.
fn bind(port: u16, tunnel_port: u16) -> std::io::Result<Server> {
    let tunnels = listen(tunnel_port)?;
    let datagrams = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    datagrams.set_only_v6(false)?;
    datagrams.set_nonblocking(true)?;
    datagrams.bind(&everywhere(port).into())?;
    setsockopt(&datagrams, Ipv6RecvPacketInfo, &true)?;
    Ok(Server { listener: listen(port)?, tunnels, datagrams: datagrams.into() })
}

fn listen(port: u16) -> std::io::Result<TcpListener> {
    let listener = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    listener.set_only_v6(false)?;
    listener.set_reuse_address(true)?;
    listener.set_nonblocking(true)?;
    listener.bind(&everywhere(port).into())?;
    listener.listen(BACKLOG)?;
    Ok(listener.into())
}

/// The port on every address.
fn everywhere(port: u16) -> SocketAddr {
    SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port))
}

fn binding(port: u16, tunnel_port: u16) -> String {
    format!("binding the echo server's ports {port} and {tunnel_port}")
}

fn event(interest: EpollFlags, fd: RawFd) -> EpollEvent {
    EpollEvent::new(interest, key(fd))
}

/// A descriptor as epoll's user data; descriptors are not negative.
fn key(fd: RawFd) -> u64 {
    u64::from(fd.unsigned_abs())
}
