//! What an interface's driver does with packets before anybody sees them.

use std::os::fd::AsRawFd;

/// `SIOCETHTOOL`, the commands "get the offload of sent checksums", "get that of TCP's segmentation" and "get flags", and the flags of taking
/// VLAN tags off and of large receive offload.
const REQUEST: libc::Ioctl = 0x8946;
const GET_SENT_CHECKSUMS: u32 = 0x16;
const GET_SEGMENTATION: u32 = 0x1e;
const GET_FLAGS: u32 = 0x25;
const TAKES_TAGS_OFF: u32 = 1 << 8;
const LARGE_RECEIVE: u32 = 1 << 15;

#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Whether an interface joins packets in a way that cannot be undone (LRO); none if it does not say.
pub(super) fn large_receive(interface: &str) -> Option<bool> {
    flags(interface).map(|flags| flags & LARGE_RECEIVE != 0)
}

/// Whether it takes VLAN tags off before the driver's program sees a frame; none if it does not say.
pub(super) fn takes_tags_off(interface: &str) -> Option<bool> {
    flags(interface).map(|flags| flags & TAKES_TAGS_OFF != 0)
}

/// Whether checksums of what it sends are left to its driver; none if it does not say.
pub(super) fn completes_checksums(interface: &str) -> Option<bool> {
    ask(interface, GET_SENT_CHECKSUMS).map(|value| value != 0)
}

/// Whether its driver cuts long segments of TCP; none if it does not say.
pub(super) fn cuts_segments(interface: &str) -> Option<bool> {
    ask(interface, GET_SEGMENTATION).map(|value| value != 0)
}

fn flags(interface: &str) -> Option<u32> {
    ask(interface, GET_FLAGS)
}

fn ask(interface: &str, command: u32) -> Option<u32> {
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).ok()?;
    let mut value = Value { command, data: 0 };
    // SAFETY: all of it zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return None;
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *place = byte.cast_signed();
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut value).cast();
    // SAFETY: the kernel reads the name, and writes the one value that the request points to.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), REQUEST, std::ptr::from_mut(&mut request)) };
    (result == 0).then_some(value.data)
}
