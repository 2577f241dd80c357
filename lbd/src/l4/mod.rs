//! Layer 4: byte streams and datagrams from clients to targets.

mod accept;
mod admission;
mod buffers;
mod choose;
mod connect;
mod connections;
mod departures;
mod guard;
mod journal;
pub(crate) mod kernel;
mod listen;
mod loss;
mod preamble;
mod queue;
mod refusal;
mod relay;
mod socket;
mod splice;
mod tcp;
pub(crate) mod udp;

pub(crate) use accept::accept_loop;
pub(crate) use admission::Seat;
pub(crate) use buffers::{BUFFER_BYTES, Buffer, BufferPool};
pub(crate) use choose::{Ends, Occupied, Pool, Tie};
pub(crate) use connect::{Way, connect, place};
pub(crate) use connections::{Connections, Control, Entry};
pub(crate) use departures::{Closing, Departure, Departures, Leave};
pub(crate) use guard::{Guard, PairRates};
pub(crate) use listen::{BindError, Listeners, bind_all};
pub(crate) use loss::Loss;
pub(crate) use preamble::{Complaints, read_proxy_header};
pub(crate) use queue::Queue;
pub(crate) use refusal::Refusal;
pub(crate) use relay::Relay;
pub(crate) use socket::Socket;
pub(crate) use tcp::PROTOCOL as TCP;

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use common::config::Timeouts;
use socket2::{SockRef, TcpKeepalive};

common::named! {
    /// How a relayed connection ended.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum End {
        /// Both ends closed it.
        Done => "done",
        /// The client reset it.
        ClientReset => "client_reset",
        /// The target reset it.
        TargetReset => "target_reset",
        /// The client is gone: it did not answer when asked after `timeout.keepalive`, or did not acknowledge within `timeout.user`.
        ClientVanished => "client_vanished",
        /// The same of the target.
        TargetVanished => "target_vanished",
        /// No byte for `timeout.idle`.
        Idle => "idle",
        /// Its target was removed, or its virtual IP has left, and `drain_timeout` has passed.
        Drained => "drained",
        /// The daemon stopped, and the grace has passed.
        Stopped => "stopped",
    }
}

/// What the sockets to targets get; accepted ones inherit the same from their listener. Keep-alive is for the relay to set
/// on a connection that turns out to be silent: most end before.
fn tune(socket: &SockRef<'_>, timeouts: &Timeouts) -> std::io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    if timeouts.user.is_some() {
        socket.set_tcp_user_timeout(timeouts.user)?;
    }
    Ok(())
}

/// After `timeout.keepalive` of silence the kernel asks whether the other end is still there, and again every third of it.
pub(crate) fn keep_alive(socket: &SockRef<'_>, timeouts: &Timeouts) -> std::io::Result<()> {
    // The kernel counts whole seconds.
    let interval = (timeouts.keepalive / 3).max(Duration::from_secs(1));
    let keepalive = TcpKeepalive::new().with_time(timeouts.keepalive).with_interval(interval);
    socket.set_tcp_keepalive(&keepalive)
}

/// Whether the other end has acknowledged all that was sent; not if the kernel does not say.
pub(crate) fn is_all_acknowledged(socket: &impl AsFd) -> bool {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ writes one `int`, the bytes in the send queue (tcp(7)), into the place given, which outlives the call.
    let result =
        unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, std::ptr::from_mut(&mut bytes)) };
    result == 0 && bytes == 0
}

/// Makes closing `socket` send a reset, so that the other end cannot take what it got for the whole.
pub(crate) fn reset_on_close(socket: SockRef<'_>) {
    if let Err(error) = socket.set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "cannot make a socket close with a reset");
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_the_other_end_has_no_room_for_is_not_acknowledged() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut reader, _) = listener.accept().unwrap();
        sender.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while let Ok(count) = sender.write(&[7; 65_536]) {
            sent += count;
        }
        assert!(!is_all_acknowledged(&sender));
        reader.read_exact(&mut vec![0; sent]).unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        while !is_all_acknowledged(&sender) {
            assert!(Instant::now() < end, "all was read");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
