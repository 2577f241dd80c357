//! Connections that carry one message each way and are then silent.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use super::poller::{Poller, Token};
use super::server::{Behaviour, Server};
use super::{MESSAGE, STUCK_LIMIT, Site, connect, cut_off, stuck, unless_blocked};

/// How many connects are under way at once.
const AT_ONCE: usize = 64;

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
    let mut poller = Poller::new()?;
    let mut server = Server::new(site.listener, Behaviour::Echo, &poller)?;
    let mut clients: Vec<Client> = Vec::with_capacity(connections);
    let (mut answered, mut tokens, mut buffer) = (0, Vec::new(), [0; 4096]);
    while answered < connections {
        while clients.len() < connections && clients.len() - answered < AT_ONCE {
            let index = u32::try_from(clients.len()).map_err(io::Error::other)?;
            let stream = connect(&poller, Token::Client(index), site.address)?;
            clients.push(Client { stream, sent: false, got: 0 });
        }
        poller.wait(&mut tokens, STUCK_LIMIT)?;
        if tokens.is_empty() {
            return Err(stuck());
        }
        for token in &tokens {
            match *token {
                Token::Listener => server.accept(&poller)?,
                Token::Served(index) => server.serve(index),
                Token::Client(index) => answered += usize::from(clients[index as usize].step(&mut buffer)?),
            }
        }
    }
    look()
}

impl Client {
    /// Goes on; answers whether the answer is complete by this.
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
