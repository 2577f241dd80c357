//! Large transfers from the target to clients.

use std::io;
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::time::Instant;

use libc::MSG_TRUNC;
use socket2::SockRef;

use super::poller::{Poller, Token};
use super::server::{Behaviour, Server};
use super::{Meter, STUCK_LIMIT, Site, Stretch, connect, cut_off, stuck, unless_blocked};

/// How much a client takes at once.
const CHUNK_BYTES: usize = 1 << 20;
/// How often in a row before others get their turn.
const CHUNKS_PER_TURN: usize = 4;

/// A client's connection.
#[derive(Debug)]
struct Client {
    stream: TcpStream,
    got: u64,
    ended: bool,
    /// There may be more than it has taken.
    more: bool,
}

impl Client {
    /// Takes what is there without looking at it, which keeps the load from costing more than a proxy.
    fn take(&mut self, buffer: &mut [MaybeUninit<u8>], bytes: u64) -> io::Result<()> {
        for _ in 0..CHUNKS_PER_TURN {
            match unless_blocked(SockRef::from(&self.stream).recv_with_flags(buffer, MSG_TRUNC)) {
                Ok(Some(0)) if self.got == bytes => {
                    (self.ended, self.more) = (true, false);
                    return Ok(());
                }
                Ok(Some(0)) => return Err(cut_off()),
                Ok(Some(count)) => self.got += count as u64,
                Ok(None) => {
                    self.more = false;
                    return Ok(());
                }
                // The connection is not there yet.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Transfers `bytes` over each of so many connections.
pub(in crate::bench_tcp) fn bulk(
    site: Site<'_>,
    connections: u32,
    bytes: u64,
    meter: Meter<'_>,
) -> io::Result<Stretch> {
    let mut poller = Poller::new()?;
    let mut server = Server::new(site.listener, Behaviour::Stream(bytes), &poller)?;
    let (begin, before) = (Instant::now(), meter()?);
    let start = |index| {
        let stream = connect(&poller, Token::Client(index), site.address)?;
        Ok(Client { stream, got: 0, ended: false, more: false })
    };
    let mut clients = (0..connections).map(start).collect::<io::Result<Vec<Client>>>()?;
    let mut tokens = Vec::new();
    let mut buffer = vec![MaybeUninit::uninit(); CHUNK_BYTES];
    while clients.iter().any(|client| !client.ended) {
        let busy = clients.iter().any(|client| client.more);
        poller.wait(&mut tokens, if busy { std::time::Duration::ZERO } else { STUCK_LIMIT })?;
        if tokens.is_empty() && !busy {
            return Err(stuck());
        }
        for token in &tokens {
            match *token {
                Token::Listener => server.accept(&poller)?,
                Token::Served(index) => server.serve(index),
                Token::Client(index) => clients[index as usize].more = true,
            }
        }
        for client in clients.iter_mut().filter(|client| client.more) {
            client.take(&mut buffer, bytes)?;
        }
    }
    let count = bytes * u64::from(connections);
    Ok(Stretch { count, wall: begin.elapsed(), processor: meter()?.saturating_sub(before) })
}
