//! Listening sockets for datagrams: one for each address and worker, sharing the port.
//!
//! The kernel spreads the clients over the sockets by a hash of addresses and ports, so a client's datagrams all come to the
//! same worker as long as the number of sockets stays. It stays while the daemon runs: a reload opens or closes
//! all sockets of an address at once, and leaves those of other addresses alone.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::l4::listen::{BindError, Bound, bind_each, prepare};

/// What waits on one socket, and what waits to be sent: enough for some ten milliseconds of a fast link. Without the right
/// to that much it is what `net.core.rmem_max` and `wmem_max` permit.
const QUEUE_BYTES: usize = 4 << 20;

/// The sockets that take datagrams at one address.
pub(crate) type Sockets = Bound<UdpSocket>;

/// Opens sockets for every one of `addresses`, one for each of `workers` workers; all of them or none.
///
/// `held` are the addresses for datagrams that this process has already.
pub(crate) fn bind_all(
    addresses: &[SocketAddr],
    held: &[SocketAddr],
    workers: usize,
) -> Result<Vec<Sockets>, BindError> {
    bind_each(addresses, held, workers, open)
}

fn open(address: SocketAddr, share: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    prepare(&socket, address, share)?;
    if share {
        set_queues(&socket)?;
        setsockopt(&socket, sockopt::RxqOvfl, &1)?;
        // A socket of one address answers from that; one of all has to know where to answer from.
        if address.ip().is_unspecified() {
            tell_local(&socket, address)?;
        }
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn tell_local(socket: &Socket, address: SocketAddr) -> nix::Result<()> {
    if address.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)
    } else {
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)
    }
}

fn set_queues(socket: &Socket) -> io::Result<()> {
    let descriptor = socket.as_fd();
    if setsockopt(&descriptor, sockopt::RcvBufForce, &QUEUE_BYTES).is_err() {
        socket.set_recv_buffer_size(QUEUE_BYTES)?;
    }
    if setsockopt(&descriptor, sockopt::SndBufForce, &QUEUE_BYTES).is_err() {
        socket.set_send_buffer_size(QUEUE_BYTES)?;
    }
    Ok(())
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
