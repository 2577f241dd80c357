//! Sockets between the nodes.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 64;

/// A peer whose host acknowledges nothing for so long is gone: the connection ends, and is made anew. So it does if the peer's process has
/// left no room for so long, however promptly the host says that (`tcp_probe_timer`, net/ipv4/tcp_timer.c).
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// How often an idle connection is tried.
const KEEPALIVE: Duration = Duration::from_secs(1);

/// Listens on `address`. Fails while the host does not have it.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = new(address)?;
    // A former life's connections may still be remembered by the kernel.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Connects from the own address, which is where the peer expects this node.
pub(super) async fn connect(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = new(to)?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(from.ip(), 0))?;
    socket.connect(to).await
}

/// Sets what both ends' connections need. Messages are batches: they are not to wait for others.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))?;
    // It bounds unanswered keepalives too.
    socket.set_tcp_user_timeout(Some(SILENCE_MAX))
}

fn new(family: SocketAddr) -> io::Result<TcpSocket> {
    if family.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}
