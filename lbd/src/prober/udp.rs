//! The UDP check: one datagram out, one back.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lbd_core::check::{Failure, Stage, Verdict, datagram};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::UdpSocket;

use super::client;
use super::stream::{self, Destination};

/// What is sent, and what is expected.
#[derive(Debug)]
pub(super) struct Udp {
    pub(super) payload: Vec<u8>,
    pub(super) expect: Option<Vec<u8>>,
}

impl Udp {
    pub(super) async fn run(&self, to: Destination, stage: &mut Stage) -> Verdict {
        *stage = Stage::Answer;
        let expect = self.expect.as_deref();
        let mut answer = vec![0; datagram::answer_bytes(expect)];
        let socket = open(&to).await.map_err(|error| Failure::Local(stream::text(&error)))?;
        let count = self.exchange(&socket, to.address, &mut answer).await.map_err(|error| {
            if crate::process::is_local(&error) {
                Failure::Local(stream::text(&error))
            } else {
                Failure::Unreachable(stream::text(&error))
            }
        })?;
        datagram::judge(&answer[..count], expect)
    }

    /// Answers how many bytes came back; what does not fit is of no interest.
    async fn exchange(
        &self,
        socket: &UdpSocket,
        address: SocketAddr,
        answer: &mut [u8],
    ) -> io::Result<usize> {
        // Connected, it hears from the target only, and of ICMP errors.
        socket.connect(address).await?;
        socket.send(&self.payload).await?;
        socket.recv(answer).await
    }
}

async fn open(to: &Destination) -> io::Result<UdpSocket> {
    let Some(through) = &to.through else {
        let any: IpAddr =
            if to.address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        return UdpSocket::bind((any, 0)).await;
    };
    let socket = Socket::new(Domain::for_address(to.address), Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    client::be(SockRef::from(&socket), through)?;
    UdpSocket::from_std(socket.into())
}
