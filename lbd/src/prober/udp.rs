//! The UDP check: one datagram out, one back.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use lbd_core::check::{Failure, Stage, Verdict, datagram};
use tokio::net::UdpSocket;

use super::stream;

/// What is sent, and what is expected.
#[derive(Debug)]
pub(super) struct Udp {
    pub(super) payload: Vec<u8>,
    pub(super) expect: Option<Vec<u8>>,
}

impl Udp {
    pub(super) async fn run(&self, address: SocketAddr, stage: &mut Stage) -> Verdict {
        *stage = Stage::Answer;
        let expect = self.expect.as_deref();
        let mut answer = vec![0; datagram::answer_bytes(expect)];
        let count = self.exchange(address, &mut answer).await.map_err(|error| {
            if stream::is_local(&error) {
                Failure::Local(stream::text(&error))
            } else {
                Failure::Unreachable(stream::text(&error))
            }
        })?;
        datagram::judge(&answer[..count], expect)
    }

    /// Answers how many bytes came back; what does not fit is of no interest.
    async fn exchange(&self, address: SocketAddr, answer: &mut [u8]) -> io::Result<usize> {
        let any: SocketAddr = if address.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let socket = UdpSocket::bind(any).await?;
        // Connected, it hears from the target only, and of ICMP errors.
        socket.connect(address).await?;
        socket.send(&self.payload).await?;
        socket.recv(answer).await
    }
}
