//! Connections that carry one message each way and are then silent.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use super::crowd::{self, Scene};
use super::poller::Token;
use super::server::Behaviour;
use super::{MESSAGE, Site, connect, cut_off, unless_blocked};

/// A client's connection.
#[derive(Debug)]
struct Client {
    stream: TcpStream,
    sent: bool,
    got: usize,
}

/// Opens so many connections, has a message go both ways on each, and answers what `look` says while all are open.
pub(in crate::bench_tcp) fn idle<T>(
    site: Site<'_>,
    connections: usize,
    look: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let scene = Scene::with_target(site.listener, Behaviour::Echo)?;
    crowd::come_and_stay(
        scene,
        connections,
        |poller, index| {
            let stream = connect(poller, Token::Client(index), site.address)?;
            Ok(Client { stream, sent: false, got: 0 })
        },
        look,
    )
}

impl crowd::Client for Client {
    /// The answer is what it comes for.
    fn step(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        if !self.sent {
            self.sent = unless_blocked(self.stream.write(&MESSAGE))?.is_some();
        }
        match unless_blocked(self.stream.read(buffer)) {
            Ok(None) => Ok(false),
            Ok(Some(0)) => Err(cut_off()),
            Ok(Some(count)) => {
                self.got += count;
                Ok(self.got == MESSAGE.len())
            }
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }
}
