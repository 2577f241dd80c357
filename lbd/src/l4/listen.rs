//! Listening sockets: one for each address and worker, sharing the port.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted on one socket; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 16_384;

/// The sockets of one address, one for each worker.
#[derive(Debug)]
pub(crate) struct Bound<S> {
    /// The address.
    pub(crate) address: SocketAddr,
    /// In the order of the workers.
    pub(crate) sockets: Vec<S>,
}

/// The sockets that accept connections at one address.
pub(crate) type Listeners = Bound<TcpListener>;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    /// Somebody else has it.
    #[error(
        "cannot listen on {address}: another program already does; `ss -ltnp 'sport = :{}'` shows which, \
         stop it or change `listen` of the service",
        address.port()
    )]
    Busy {
        /// The address.
        address: SocketAddr,
    },
    /// A port below 1024 without the right to it.
    #[error(
        "cannot listen on {address}: not permitted; run lbd as root or with the capability CAP_NET_BIND_SERVICE"
    )]
    Forbidden {
        /// The address.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("cannot listen on {address}: {source}")]
    Other {
        /// The address.
        address: SocketAddr,
        /// What failed.
        source: io::Error,
    },
}

impl BindError {
    fn new(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::Busy { address },
            io::ErrorKind::PermissionDenied => Self::Forbidden { address },
            _ => Self::Other { address, source },
        }
    }
}

/// Listens on every one of `addresses`, with a socket for each of `workers` workers; all of them or none.
///
/// `held` are the addresses this process listens on already.
pub(crate) fn bind_all(
    addresses: &[SocketAddr],
    held: &[SocketAddr],
    workers: usize,
) -> Result<Vec<Listeners>, BindError> {
    bind_each(addresses, held, workers, open)
}

/// The same for any kind of socket: `open` makes one, which does or does not share its port.
pub(super) fn bind_each<S>(
    addresses: &[SocketAddr],
    held: &[SocketAddr],
    workers: usize,
    open: impl Fn(SocketAddr, bool) -> io::Result<S>,
) -> Result<Vec<Bound<S>>, BindError> {
    let bind = |&address: &SocketAddr| {
        let failed = |error| BindError::new(address, error);
        // Sockets that share a port can be opened beside another program's that share it too, which would then get a
        // part of our clients. One that does not share finds out. It would also trip over a wildcard address of our own.
        if !held.iter().any(|held| held.port() == address.port()) {
            drop(open(address, false).map_err(failed)?);
        }
        let sockets: io::Result<Vec<S>> = (0..workers).map(|_| open(address, true)).collect();
        Ok(Bound { address, sockets: sockets.map_err(failed)? })
    };
    addresses.iter().map(bind).collect()
}

fn open(address: SocketAddr, share: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    prepare(&socket, address, share)?;
    socket.bind(&address.into())?;
    if share {
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}

/// What every listening socket gets before it is bound.
pub(super) fn prepare(socket: &Socket, address: SocketAddr, share: bool) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_reuse_port(share)?;
    // The VIP may not be on this node, or not yet: vrrpd may start later.
    if address.is_ipv4() {
        return socket.set_freebind_v4(true);
    }
    socket.set_freebind_v6(true)?;
    socket.set_only_v6(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_another_host_can_be_listened_on() {
        let addresses = ["192.0.2.77:0".parse().unwrap(), "[2001:db8::77]:0".parse().unwrap()];
        assert_eq!(bind_all(&addresses, &[], 2).unwrap().len(), 2);
    }

    #[test]
    fn a_busy_port_is_said_so_even_if_it_is_shared() {
        let taken = bind_all(&["127.0.0.1:0".parse().unwrap()], &[], 1).unwrap();
        let address = taken[0].sockets[0].local_addr().unwrap();
        let error = bind_all(&[address], &[], 2).unwrap_err();
        assert!(matches!(error, BindError::Busy { .. }), "{error}");
        assert!(bind_all(&[address], &[address], 2).is_ok(), "our own sockets do share it");
    }
}
