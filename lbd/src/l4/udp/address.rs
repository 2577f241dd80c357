//! Socket addresses and packet information as the kernel reads and writes them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use nix::libc;

/// Room for a socket address of either family. All its bytes are always initialised.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) union Name {
    four: libc::sockaddr_in,
    six: libc::sockaddr_in6,
}

const FOUR: u16 = family(libc::AF_INET);
const SIX: u16 = family(libc::AF_INET6);

#[expect(clippy::cast_possible_truncation, reason = "both families are small numbers")]
const fn family(family: i32) -> u16 {
    family as u16
}

impl Name {
    /// How many bytes there are.
    pub(super) const SIZE: libc::socklen_t = length::<libc::sockaddr_in6>();

    /// None yet.
    pub(super) const fn empty() -> Self {
        let six = libc::sockaddr_in6 {
            sin6_family: 0,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        };
        Self { six }
    }

    /// The address, and how many bytes of it count.
    pub(super) fn new(address: SocketAddr) -> (Self, libc::socklen_t) {
        let mut name = Self::empty();
        match address {
            SocketAddr::V4(address) => {
                name.four = libc::sockaddr_in {
                    sin_family: FOUR,
                    sin_port: address.port().to_be(),
                    sin_addr: raw_v4(*address.ip()),
                    sin_zero: [0; 8],
                };
                (name, length::<libc::sockaddr_in>())
            }
            SocketAddr::V6(address) => {
                name.six = libc::sockaddr_in6 {
                    sin6_family: SIX,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: address.flowinfo(),
                    sin6_addr: raw_v6(*address.ip()),
                    sin6_scope_id: address.scope_id(),
                };
                (name, Self::SIZE)
            }
        }
    }

    /// As the kernel wrote it; `None` for a family that is neither.
    pub(super) fn get(&self) -> Option<SocketAddr> {
        // SAFETY: every byte of the union is initialised, any bytes are a valid value of either member, and the family is at
        // the same place in both.
        let four = unsafe { self.four };
        match four.sin_family {
            FOUR => {
                let ip = Ipv4Addr::from(four.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(four.sin_port)).into())
            }
            SIX => {
                // SAFETY: as above.
                let six = unsafe { self.six };
                let ip = Ipv6Addr::from(six.sin6_addr.s6_addr);
                // The flow label says nothing about who the client is.
                Some(SocketAddrV6::new(ip, u16::from_be(six.sin6_port), 0, six.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "an address is a few bytes")]
const fn length<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

/// As many bytes as the control messages of one datagram take at most: an `in6_pktinfo` (40) and a count of what the
/// queue dropped (24), with headers and padding.
const CONTROL_SIZE: usize = 64;

/// Room for the control messages of one datagram, aligned as their headers must be.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Control([u8; CONTROL_SIZE]);

impl Control {
    /// How many bytes there are.
    pub(super) const SIZE: usize = CONTROL_SIZE;

    /// Nothing yet.
    pub(super) const fn empty() -> Self {
        Self([0; CONTROL_SIZE])
    }

    /// Where the kernel finds it.
    pub(super) const fn as_mut_ptr(&mut self) -> *mut libc::c_void {
        self.0.as_mut_ptr().cast()
    }

    /// Asks for `from` as the source of a datagram. Answers how many bytes of it count.
    pub(super) fn set_source(&mut self, from: IpAddr) -> usize {
        match from {
            IpAddr::V4(ip) => {
                let zero = libc::in_addr { s_addr: 0 };
                let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: raw_v4(ip), ipi_addr: zero };
                self.write(libc::IPPROTO_IP, libc::IP_PKTINFO, info)
            }
            IpAddr::V6(ip) => {
                let info = libc::in6_pktinfo { ipi6_addr: raw_v6(ip), ipi6_ifindex: 0 };
                self.write(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
            }
        }
    }

    fn write<T: Copy>(&mut self, level: i32, kind: i32, value: T) -> usize {
        let header = size_of::<libc::cmsghdr>();
        let length = header + size_of::<T>();
        let space = length.next_multiple_of(align_of::<libc::cmsghdr>());
        assert!(space <= CONTROL_SIZE, "room for every control message that is written");
        *self = Self::empty();
        let head = libc::cmsghdr { cmsg_len: length, cmsg_level: level, cmsg_type: kind };
        let start = self.0.as_mut_ptr();
        // SAFETY: the assertion says that header and value fit the array, which is aligned for the header; the value is
        // written without regard to its alignment.
        unsafe {
            start.cast::<libc::cmsghdr>().write(head);
            start.add(header).cast::<T>().write_unaligned(value);
        }
        space
    }
}

/// What the control messages of a datagram say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// The address of ours that it was sent to, if the socket was set to say.
    pub(super) local: Option<IpAddr>,
    /// How many datagrams the socket's queue had no room for since it was opened, if any.
    pub(super) queue_drops: Option<u32>,
}

impl Told {
    /// Reads the control messages behind a header that the kernel has filled in.
    ///
    /// # Safety
    ///
    /// `header.msg_control` points to `header.msg_controllen` initialised bytes, aligned for a `cmsghdr`, or is null.
    pub(super) unsafe fn read(header: &libc::msghdr) -> Self {
        let mut told = Self::default();
        // SAFETY: the caller says that the header describes its control messages.
        let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
        while !next.is_null() {
            // SAFETY: the macros of the kernel's interface give a whole, aligned header or null; the data behind it has the
            // size that belongs to its type, which the kernel wrote, and is read without regard to its alignment.
            unsafe {
                let message = *next;
                let data = libc::CMSG_DATA(next);
                match (message.cmsg_level, message.cmsg_type) {
                    (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                        let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                        // For a broadcast this is the address to answer from, for everything else the one it was sent to.
                        told.local = Some(Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()).into());
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                        let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                        told.local = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                    }
                    (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                        told.queue_drops = Some(data.cast::<u32>().read_unaligned());
                    }
                    _ => {}
                }
                next = libc::CMSG_NXTHDR(header, next);
            }
        }
        told
    }
}

fn raw_v4(ip: Ipv4Addr) -> libc::in_addr {
    libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) }
}

const fn raw_v6(ip: Ipv6Addr) -> libc::in6_addr {
    libc::in6_addr { s6_addr: ip.octets() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_form() {
        for text in ["192.0.2.1:53", "[2001:db8::1]:443", "[fe80::1%3]:5353"] {
            let address: SocketAddr = text.parse().unwrap();
            let (name, size) = Name::new(address);
            assert_eq!(name.get(), Some(address));
            assert!(size <= Name::SIZE);
        }
        assert_eq!(Name::empty().get(), None);
    }
}
