//! A target's end of the tunnels of direct server return, for kernels without tunnel devices of their own: raw sockets take
//! the outer packets, and a TUN device gives the kernel what was inside.
//!
//! It shares no code with what makes the tunnels, takes outer headers apart by their own rules (RFC 2003 and 2473 for
//! IP in IP, RFC 2784 for GRE, draft-ietf-intarea-gue for GUE), and counts what does not obey them.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::error::{Context, Result};
use super::host::Host;
use super::netns::Worker;

/// The port of GUE that `lbd` sends to unless told otherwise.
pub const GUE_PORT: u16 = 6080;

const IPV4_IN_IP: i32 = 4;
const IPV6_IN_IP: i32 = 41;
const GRE: i32 = 47;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// The most that an IP packet holds.
const PACKET_BYTES_MAX: usize = 65_575;
const STOP_CHECK_MS: u16 = 50;

/// How packets are wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnel {
    /// IPv4 or IPv6 right behind the outer IP header.
    Ipip,
    /// With a GRE header between.
    Gre,
    /// With a UDP header between (GUE, variant 1).
    Gue,
}

/// What came out of a tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unwrapped {
    /// Packets handed on.
    pub packets: u64,
    /// Packets whose tunnel header or length was wrong.
    pub malformed: u64,
}

/// A running end of a tunnel, which ends when it is dropped.
#[derive(Debug)]
pub struct TunnelEnd(Worker<Unwrapped>);

impl TunnelEnd {
    /// Takes packets of this kind on a host, with IPv4 and IPv6 outside and inside.
    ///
    /// # Errors
    /// [`super::LabError`] when there is no TUN device or a socket cannot be made.
    pub fn start(host: &Host, tunnel: Tunnel) -> Result<Self> {
        let namespace = host.namespace();
        let (tun, sockets) = namespace.inside(|| {
            let tun = open_tun().doing(|| format!("making the device tun0 on {}", host.name()))?;
            let sockets = open_sockets(tunnel).doing(|| format!("listening for {tunnel:?}"))?;
            Ok::<_, super::LabError>((tun, sockets))
        })??;
        host.ip("link set tun0 up")?;
        // What comes out of a tunnel comes from addresses whose way is another.
        namespace.sysctl(&[("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/tun0/rp_filter", "0")])?;
        let worker = namespace.worker("tunnel", move |stop| unwrap_all(tunnel, &sockets, tun, stop))?;
        Ok(Self(worker))
    }

    /// Ends it, and tells what it had to do.
    ///
    /// # Errors
    /// [`super::LabError::Io`] when its thread panicked.
    pub fn stop(self) -> Result<Unwrapped> {
        self.0.stop()
    }
}

/// Opens the device `tun0` of the calling thread's network, for bare IP packets.
fn open_tun() -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all zeros is a valid `ifreq`, whose parts are numbers and arrays of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"tun0") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open and `request` is an `ifreq` with a terminated name, which is what TUNSETIFF reads.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

/// A socket of the outer family, and what comes on it.
struct Outer {
    socket: Socket,
    /// The protocol number; 0 for UDP.
    protocol: i32,
    /// IPv4's raw sockets give the header too.
    has_header: bool,
}

fn open_sockets(tunnel: Tunnel) -> io::Result<Vec<Outer>> {
    let protocols: &[i32] = match tunnel {
        Tunnel::Ipip => &[IPV4_IN_IP, IPV6_IN_IP],
        Tunnel::Gre => &[GRE],
        Tunnel::Gue => &[0],
    };
    let mut sockets = Vec::new();
    for domain in [Domain::IPV4, Domain::IPV6] {
        for &protocol in protocols {
            let socket = if protocol == 0 {
                let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
                let any: IpAddr = if domain == Domain::IPV4 {
                    Ipv4Addr::UNSPECIFIED.into()
                } else {
                    socket.set_only_v6(true)?;
                    allow_zero_checksums(&socket)?;
                    Ipv6Addr::UNSPECIFIED.into()
                };
                socket.bind(&SocketAddr::new(any, GUE_PORT).into())?;
                socket
            } else {
                Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)))?
            };
            socket.set_nonblocking(true)?;
            // Bulk comes faster than a thread that shares its processor takes it.
            socket.set_recv_buffer_size(8 << 20)?;
            sockets.push(Outer { socket, protocol, has_header: protocol != 0 && domain == Domain::IPV4 });
        }
    }
    Ok(sockets)
}

/// RFC 6935 and 6936: a tunnel over IPv6 may leave the UDP checksum out.
fn allow_zero_checksums(socket: &Socket) -> io::Result<()> {
    let (on, length) = (1_i32, libc::socklen_t::try_from(size_of::<i32>()).map_err(io::Error::other)?);
    // SAFETY: the descriptor is open, and the option's value is an int that lives through the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_UDP,
            libc::UDP_NO_CHECK6_RX,
            (&raw const on).cast(),
            length,
        )
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn unwrap_all(tunnel: Tunnel, sockets: &[Outer], mut tun: File, stop: &AtomicBool) -> Unwrapped {
    let mut done = Unwrapped::default();
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    while !stop.load(Ordering::Acquire) {
        use std::os::fd::AsFd;
        let mut polled: Vec<PollFd<'_>> =
            sockets.iter().map(|outer| PollFd::new(outer.socket.as_fd(), PollFlags::POLLIN)).collect();
        // A time-out and an interruption both mean looking at the flag again.
        if poll(&mut polled, PollTimeout::from(STOP_CHECK_MS)).unwrap_or(0) == 0 {
            continue;
        }
        for outer in sockets {
            while let Ok(count) = (&outer.socket).read(&mut buffer) {
                let inner = unwrap(tunnel, outer.protocol, outer.has_header, &mut buffer[..count]);
                // The kernel refuses what is no IP packet.
                let handed_on = inner.is_some_and(|inner| {
                    complete_checksum(inner);
                    tun.write_all(inner).is_ok()
                });
                let counter = if handed_on { &mut done.packets } else { &mut done.malformed };
                *counter += 1;
            }
        }
    }
    done
}

/// The packet inside; `None` if the headers around it are not as they have to be.
fn unwrap(tunnel: Tunnel, protocol: i32, has_header: bool, packet: &mut [u8]) -> Option<&mut [u8]> {
    let header = if has_header { usize::from(packet.first()? & 0xf) * 4 } else { 0 };
    let payload = packet.get_mut(header..)?;
    let (family, inner) = match tunnel {
        Tunnel::Ipip => (if protocol == IPV4_IN_IP { 4 } else { 6 }, payload),
        Tunnel::Gre => {
            let (head, inner) = payload.split_at_mut_checked(4)?;
            // No checksum, key or sequence number, version 0, and the inner protocol as an EtherType.
            let family = match head {
                [0, 0, 0x08, 0x00] => 4,
                [0, 0, 0x86, 0xdd] => 6,
                _ => return None,
            };
            (family, inner)
        }
        // Variant 1 of GUE (draft-ietf-intarea-gue, section 4) has no header: the first bits are those of the IP version.
        Tunnel::Gue => (if payload.first()? >> 4 == 4 { 4 } else { 6 }, payload),
    };
    (inner.first()? >> 4 == family).then_some(inner)
}

/// Completes a TCP or UDP checksum that covers the pseudo-header only, as a sender leaves it whose device would complete it
/// (on a cable between namespaces nobody does). Any other is left as it is: a wrong one has to be noticed.
fn complete_checksum(packet: &mut [u8]) {
    let Some((protocol, pseudo, start)) = pseudo_header(packet) else { return };
    let at = match protocol {
        TCP => start + 16,
        UDP => start + 6,
        _ => return,
    };
    let Some(&[high, low]) = packet.get(at..at + 2) else { return };
    if u16::from_be_bytes([high, low]) != fold(pseudo) {
        return;
    }
    // The field holds the pseudo-header's sum, so summing up everything makes the whole.
    let sum = !fold(sum(&packet[start..]));
    let sum = if sum == 0 && protocol == UDP { 0xffff } else { sum };
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// The transport protocol, the sum of its pseudo-header, and where its header begins; of packets without extension headers.
fn pseudo_header(packet: &[u8]) -> Option<(u8, u64, usize)> {
    let (protocol, addresses, start) = match packet.first()? >> 4 {
        4 => (*packet.get(9)?, packet.get(12..20)?, usize::from(packet[0] & 0xf) * 4),
        6 => (*packet.get(6)?, packet.get(8..40)?, 40),
        _ => return None,
    };
    let length = packet.len().checked_sub(start)? as u64;
    Some((protocol, sum(addresses) + u64::from(protocol) + length, start))
}

fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    words.map(u64::from).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Just made to fit.
    u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_taken_off_and_wrong_ones_noticed() {
        let inner = [0x45, 1, 2, 3];
        let with = |head: &[u8]| [head, &inner].concat();
        let unwrapped = |tunnel, protocol, mut packet: Vec<u8>| {
            unwrap(tunnel, protocol, false, &mut packet).map(|inner| inner.to_vec())
        };
        assert_eq!(unwrapped(Tunnel::Ipip, IPV4_IN_IP, with(&[])), Some(inner.to_vec()));
        assert_eq!(unwrapped(Tunnel::Ipip, IPV6_IN_IP, with(&[])), None);
        assert_eq!(unwrapped(Tunnel::Gre, GRE, with(&[0, 0, 8, 0])), Some(inner.to_vec()));
        assert_eq!(unwrapped(Tunnel::Gre, GRE, with(&[0x20, 0, 8, 0])), None);
        assert_eq!(unwrapped(Tunnel::Gue, 0, with(&[])), Some(inner.to_vec()));
        assert_eq!(unwrapped(Tunnel::Gue, 0, with(&[0, 4, 0, 0])), None);
        assert_eq!(unwrapped(Tunnel::Gue, 0, vec![]), None);
    }

    /// A UDP datagram from 192.0.2.1:1 to 192.0.2.2:2 with "ab": the sums are calculated by hand.
    #[test]
    fn only_checksums_that_a_device_was_to_complete_are_completed() {
        let mut packet = vec![0x45, 0, 0, 30, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
        packet.extend_from_slice(&[0, 1, 0, 2, 0, 10, 0, 0, b'a', b'b']);
        // c000 + 0201 + c000 + 0202 + 0011 + 000a, carried over.
        packet[26..28].copy_from_slice(&[0x84, 0x1f]);
        let mut complete = packet.clone();
        complete_checksum(&mut complete);
        // 841f + 0001 + 0002 + 000a + 6162 = e58e; its complement.
        assert_eq!(complete[26..28], [0x1a, 0x71]);
        let mut wrong = packet.clone();
        wrong[27] = 0x20;
        let before = wrong.clone();
        complete_checksum(&mut wrong);
        assert_eq!(wrong, before);
    }
}
