//! Datagrams received and sent many at a time: `recvmmsg` and `sendmmsg`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;

use super::address::{Control, Name, Told};

/// Errors of a socket that are thrown away at a time.
const ERRORS_MAX: usize = 64;

/// Datagrams in one call.
pub(super) const BATCH: usize = 32;

/// Room for one datagram. UDP carries at most 65,507 bytes over IPv4 and 65,527 over IPv6, so nothing is ever cut off.
const SLOT: usize = 65_536;

/// The worker's buffers, which datagrams are in only between receiving and sending. 2 MiB of addresses; memory is what
/// the largest datagrams so far have touched of it.
pub(crate) struct Batch {
    bytes: Box<[u8]>,
    received: [Received; BATCH],
    scratch: Box<Scratch>,
}

/// What a call hands to the kernel. Whatever a call uses of it is written anew for that call.
struct Scratch {
    headers: [libc::mmsghdr; BATCH],
    vectors: [libc::iovec; BATCH],
    names: [Name; BATCH],
    controls: [Control; BATCH],
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            headers: [no_header(); BATCH],
            vectors: [NO_VECTOR; BATCH],
            names: [Name::empty(); BATCH],
            controls: [Control::empty(); BATCH],
        }
    }
}

/// A datagram in a slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    /// Its size in bytes; 0 is a datagram too.
    pub(super) length: usize,
    /// Who sent it; `None` if that was not asked for.
    pub(super) source: Option<SocketAddr>,
    /// What the kernel says about it.
    pub(super) told: Told,
    /// A part of it was cut off.
    pub(super) truncated: bool,
}

/// What is to be known of received datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// The bytes, and what the socket was set to tell; a connected socket has one sender only.
    Bytes,
    /// Also the sender.
    Sender,
}

/// A datagram in a slot, to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parcel {
    /// Where its bytes are.
    pub(super) slot: usize,
    /// To whom; a connected socket knows.
    pub(super) to: Option<SocketAddr>,
    /// From which address of ours, if the socket has several.
    pub(super) from: Option<IpAddr>,
}

impl Default for Batch {
    fn default() -> Self {
        let nothing = Received { length: 0, source: None, told: Told::default(), truncated: false };
        let bytes = vec![0; BATCH * SLOT].into_boxed_slice();
        Self { bytes, received: [nothing; BATCH], scratch: Box::default() }
    }
}

impl Batch {
    /// The datagram in a slot, as it was received last.
    pub(super) const fn received(&self, slot: usize) -> Received {
        self.received[slot]
    }

    /// Receives what waits on `socket` into at most `count` slots from `first` on. Answers how many came: at least one, or
    /// an error, which is `WouldBlock` if nothing waits.
    pub(super) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        first: usize,
        count: usize,
        ask: Ask,
    ) -> io::Result<usize> {
        let count = count.min(BATCH - first);
        let Scratch { headers, vectors, names, controls } = &mut *self.scratch;
        let slots = self.bytes[first * SLOT..].chunks_exact_mut(SLOT);
        for (index, bytes) in slots.take(count).enumerate() {
            vectors[index] = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: SLOT };
            headers[index] = no_header();
            let header = &mut headers[index].msg_hdr;
            header.msg_iov = &raw mut vectors[index];
            header.msg_iovlen = 1;
            if ask == Ask::Sender {
                header.msg_name = (&raw mut names[index]).cast();
                header.msg_namelen = Name::SIZE;
            }
            header.msg_control = controls[index].as_mut_ptr();
            header.msg_controllen = Control::SIZE as _;
        }
        let flags = libc::MSG_DONTWAIT;
        // SAFETY: the first `count` headers point to buffers, names and control rooms of the sizes they say, each used by one
        // header only; all outlive the call. The descriptor is open, being borrowed.
        let done = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                number(count),
                flags,
                std::ptr::null_mut(),
            )
        };
        let done = usize::try_from(done).map_err(|_| io::Error::last_os_error())?;
        for (index, header) in headers.iter().enumerate().take(done) {
            let message = &header.msg_hdr;
            self.received[first + index] = Received {
                length: header.msg_len as usize,
                source: if ask == Ask::Sender { names[index].get() } else { None },
                // SAFETY: the header points to its control room, which is aligned and wholly initialised, with the
                // length that the kernel filled in.
                told: unsafe { Told::read(message) },
                truncated: message.msg_flags & libc::MSG_TRUNC != 0,
            };
        }
        Ok(done)
    }

    /// Sends datagrams in their order, at most [`BATCH`]. Answers how many went: at least one, or the error of the first.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>, parcels: &[Parcel]) -> io::Result<usize> {
        let Scratch { headers, vectors, names, controls } = &mut *self.scratch;
        let count = parcels.len().min(BATCH);
        for (index, parcel) in parcels.iter().take(count).enumerate() {
            let start = parcel.slot * SLOT;
            let bytes = &mut self.bytes[start..start + self.received[parcel.slot].length];
            vectors[index] = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            headers[index] = no_header();
            let header = &mut headers[index].msg_hdr;
            header.msg_iov = &raw mut vectors[index];
            header.msg_iovlen = 1;
            if let Some(to) = parcel.to {
                let size;
                (names[index], size) = Name::new(to);
                header.msg_name = (&raw mut names[index]).cast();
                header.msg_namelen = size;
            }
            if let Some(from) = parcel.from {
                header.msg_controllen = controls[index].set_source(from) as _;
                header.msg_control = controls[index].as_mut_ptr();
            }
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the first `count` headers point to initialised bytes, names and control messages of the sizes they say; all
        // outlive the call, which only reads them. The descriptor is open, being borrowed.
        let done = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), number(count), flags) };
        usize::try_from(done).map_err(|_| io::Error::last_os_error())
    }
}

#[expect(clippy::cast_possible_truncation, reason = "at most as many as there are slots")]
const fn number(count: usize) -> libc::c_uint {
    count as libc::c_uint
}

const NO_VECTOR: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

const fn no_header() -> libc::mmsghdr {
    // SAFETY: the structure is made of numbers and pointers, for which zero is a value.
    unsafe { std::mem::zeroed() }
}

/// Throws away what the kernel keeps about ICMP errors of a socket. It has told them as errors of calls already.
pub(super) fn discard_errors(socket: BorrowedFd<'_>) {
    for _ in 0..ERRORS_MAX {
        // Without any room: each call takes one error out, and tells nothing.
        let mut header = no_header().msg_hdr;
        let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
        // SAFETY: a header of zeros has no buffers, and it outlives the call. The descriptor is open, being borrowed.
        if unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) } < 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use nix::sys::socket::{setsockopt, sockopt};

    use super::*;

    fn parcel(slot: usize, to: Option<SocketAddr>, from: Option<IpAddr>) -> Parcel {
        Parcel { slot, to, from }
    }

    #[test]
    fn many_at_once_with_the_addresses_they_came_from_and_to() {
        let mut batch = Batch::default();
        let listener = UdpSocket::bind("0.0.0.0:0").unwrap();
        setsockopt(&listener, sockopt::Ipv4PacketInfo, &true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let source = client.local_addr().unwrap();
        let error = batch.receive(listener.as_fd(), 0, BATCH, Ask::Sender).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let largest = vec![7; 65_507];
        for (bytes, ip) in [(&b"one"[..], [127, 0, 0, 2]), (b"", [127, 0, 0, 3]), (&largest, [127, 0, 0, 4])]
        {
            client.send_to(bytes, (IpAddr::from(ip), port)).unwrap();
        }
        assert_eq!(batch.receive(listener.as_fd(), 1, 2, Ask::Sender).unwrap(), 2, "no more than asked for");
        assert_eq!(batch.receive(listener.as_fd(), 3, BATCH, Ask::Sender).unwrap(), 1);
        let expected = [(3, [127, 0, 0, 2]), (0, [127, 0, 0, 3]), (65_507, [127, 0, 0, 4])];
        for (slot, (length, ip)) in (1..).zip(expected) {
            let it = batch.received(slot);
            assert_eq!((it.length, it.source, it.truncated), (length, Some(source), false));
            assert_eq!(it.told, Told { local: Some(ip.into()), queue_drops: None });
        }
        let answers: Vec<Parcel> =
            [3, 2, 1].map(|slot| parcel(slot, Some(source), batch.received(slot).told.local)).into();
        assert_eq!(batch.send(listener.as_fd(), &answers).unwrap(), 3);
        let mut bytes = vec![0; 70_000];
        for (length, ip) in expected.into_iter().rev() {
            assert_eq!(client.recv_from(&mut bytes).unwrap(), (length, (IpAddr::from(ip), port).into()));
        }
    }

    #[test]
    fn ipv6_too() {
        let mut batch = Batch::default();
        let listener = UdpSocket::bind("[::]:0").unwrap();
        setsockopt(&listener, sockopt::Ipv6RecvPacketInfo, &true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = UdpSocket::bind("[::1]:0").unwrap();
        client.send_to(b"six", ("::1", port)).unwrap();
        assert_eq!(batch.receive(listener.as_fd(), 0, BATCH, Ask::Sender).unwrap(), 1);
        let it = batch.received(0);
        assert_eq!(it.source, Some(client.local_addr().unwrap()));
        assert_eq!(it.told.local, Some("::1".parse().unwrap()));
        assert_eq!(batch.send(listener.as_fd(), &[parcel(0, it.source, it.told.local)]).unwrap(), 1);
        let mut bytes = [0; 10];
        assert_eq!(client.recv_from(&mut bytes).unwrap().0, 3);
    }

    #[test]
    fn a_full_queue_is_told() {
        let mut batch = Batch::default();
        let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
        setsockopt(&listener, sockopt::RxqOvfl, &1).unwrap();
        setsockopt(&listener, sockopt::RcvBuf, &4096).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(listener.local_addr().unwrap()).unwrap();
        for _ in 0..100 {
            client.send(&[1; 1000]).unwrap();
        }
        let mut kept = 0;
        while let Ok(count) = batch.receive(listener.as_fd(), 0, BATCH, Ask::Sender) {
            kept += count;
        }
        client.send(b"last").unwrap();
        assert_eq!(batch.receive(listener.as_fd(), 0, BATCH, Ask::Sender).unwrap(), 1);
        assert_eq!(batch.received(0).told.queue_drops.map(|drops| drops as usize + kept), Some(100));
    }

    #[test]
    fn an_unreachable_port_is_an_error_of_the_next_call() {
        let mut batch = Batch::default();
        let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(nobody).unwrap();
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap();
        assert_eq!(batch.send(socket.as_fd(), &[parcel(0, None, None)]).unwrap(), 1);
        let error = batch.receive(socket.as_fd(), 0, BATCH, Ask::Bytes).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        discard_errors(socket.as_fd());
        let error = batch.receive(socket.as_fd(), 0, BATCH, Ask::Bytes).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
