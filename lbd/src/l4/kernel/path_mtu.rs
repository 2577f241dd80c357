//! Hears what routers say of packets that are too big for a link within a tunnel: ICMP to this host, which the program passes on to the stack and
//! nobody else waits for.

use std::io::{self, Read};
use std::os::fd::AsRawFd;

use lbd_core::forward::path_mtu::TooBig;
use socket2::{Domain, Protocol, Socket, Type};

/// Words taken in one go from each socket. Those beyond wait in the socket, and what it has no room for is said again with the next packet.
const TAKEN_MAX: usize = 256;

/// As much as routers quote (RFC 1812, 4.3.2.3, RFC 4443, 2.4), headers included: the checksum is over all of it.
const MESSAGE_BYTES: usize = 2048;

/// One bit for each type of message, set for those that the socket is not to be given: of `linux/icmp.h` and `linux/icmpv6.h`.
const FILTER: libc::c_int = 1;

/// What is made of a message.
type Reading = fn(&[u8]) -> Option<TooBig>;

/// The sockets.
#[derive(Debug)]
pub(super) struct Errors {
    ipv4: Socket,
    /// None on a host without IPv6.
    ipv6: Option<Socket>,
}

impl Errors {
    /// Listens in the network namespace of the calling thread. Takes CAP_NET_RAW.
    pub(super) fn open() -> io::Result<Self> {
        // "Destination unreachable", which is 3.
        let ipv4 = socket(Domain::IPV4, Protocol::ICMPV4, libc::SOL_RAW, &[!(1 << 3)])?;
        // "Packet too big", which is 2.
        let mut blocked = [u32::MAX; 8];
        blocked[0] = !(1 << 2);
        let ipv6 = if_supported(socket(Domain::IPV6, Protocol::ICMPV6, libc::SOL_ICMPV6, &blocked))?;
        Ok(Self { ipv4, ipv6 })
    }

    /// Hands out what has come since the last call.
    pub(super) fn take(&self, mut each: impl FnMut(TooBig)) {
        let sockets: [(Option<&Socket>, Reading); 2] =
            [(Some(&self.ipv4), TooBig::of_ipv4), (self.ipv6.as_ref(), TooBig::of_ipv6)];
        for (socket, reading) in sockets {
            let Some(mut socket) = socket else { continue };
            for _ in 0..TAKEN_MAX {
                let mut message = [0; MESSAGE_BYTES];
                // Without anything there, or after an error, there is nothing to be done before the next time.
                let Ok(length) = socket.read(&mut message) else { break };
                message.get(..length).and_then(reading).into_iter().for_each(&mut each);
            }
        }
    }
}

/// What was opened, or nothing where this kernel runs without the family: then nobody says anything in it.
fn if_supported<T>(opened: io::Result<T>) -> io::Result<Option<T>> {
    match opened {
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Ok(None),
        opened => opened.map(Some),
    }
}

/// A socket that is given only some types of messages. It never blocks.
fn socket(domain: Domain, protocol: Protocol, level: libc::c_int, blocked: &[u32]) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    let length = libc::socklen_t::try_from(size_of_val(blocked)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is the socket's, and the option's value is as many bytes as are said, which live during the call.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, FILTER, blocked.as_ptr().cast(), length) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_host_without_ipv6_hears_what_is_said_in_ipv4() {
        let failed = |errno| if_supported::<()>(Err(io::Error::from_raw_os_error(errno)));
        assert!(matches!(failed(libc::EAFNOSUPPORT), Ok(None)));
        assert!(failed(libc::EPERM).is_err_and(|error| error.raw_os_error() == Some(libc::EPERM)));
        assert!(matches!(if_supported(Ok(7)), Ok(Some(7))));
    }

    #[test]
    fn only_words_on_what_is_too_big_are_taken() {
        // A network of this thread's own, in which nobody else's errors are.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("this takes root");
        let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
        assert!(up.success());
        let errors = Errors::open().unwrap();
        let sender = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
        let to: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        // About a packet from 10.0.0.1 to 10.9.0.7, with 1,400 bytes as what fits; another type of message, and another code. The sums are
        // those of the first one, with what the type or code is more or less.
        for (kind, code, sum) in [(8, 4, 0x1392), (3, 1, 0x1895), (3, 4, 0x1892)] {
            let mut message = vec![kind, code, 0, 0, 0, 0, 0x05, 0x78];
            message.extend([0x45, 0, 0x05, 0xdc, 0, 0, 0x40, 0, 0x40, 4, 0, 0, 10, 0, 0, 1, 10, 9, 0, 7]);
            message[2..4].copy_from_slice(&u16::to_be_bytes(sum));
            sender.send_to(&message, &to.into()).unwrap();
        }
        let (mut taken, end) = (Vec::new(), Instant::now() + Duration::from_secs(10));
        while taken.is_empty() && Instant::now() < end {
            errors.take(|told| taken.push(told));
        }
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        assert_eq!(
            taken,
            [TooBig { near: ip("10.0.0.1"), far: ip("10.9.0.7"), protocol: 4, mtu: 1400, guessed: false }]
        );
    }
}
