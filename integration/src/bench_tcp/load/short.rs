//! Connections that carry one small message each way.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use super::poller::{Poller, Token};
use super::server::{Behaviour, Server};
use super::{MESSAGE, Meter, STUCK_LIMIT, Site, Stretch, connect, cut_off, stuck, unless_blocked};

/// A client's connection.
#[derive(Debug)]
struct Client {
    stream: TcpStream,
    sent: bool,
    got: usize,
}

impl Client {
    fn start(poller: &Poller, index: u32, site: Site<'_>) -> io::Result<Self> {
        Ok(Self { stream: connect(poller, Token::Client(index), site.address)?, sent: false, got: 0 })
    }

    /// Goes on; answers whether it has ended, well.
    fn step(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        if !self.sent {
            if unless_blocked(self.stream.write(&MESSAGE))?.is_none() {
                return Ok(false);
            }
            self.sent = true;
        }
        while let Some(count) = unless_blocked(self.stream.read(buffer))? {
            if count == 0 {
                return if self.got == MESSAGE.len() { Ok(true) } else { Err(cut_off()) };
            }
            self.got += count;
        }
        Ok(false)
    }
}

/// Makes `count` connections, `at_once` at a time, after as many tenths as a warm-up. The target closes first.
pub(in crate::bench_tcp) fn short(
    site: Site<'_>,
    count: u64,
    at_once: u32,
    meter: Meter<'_>,
) -> io::Result<Stretch> {
    let mut poller = Poller::new()?;
    let mut server = Server::new(site.listener, Behaviour::AnswerOnce, &poller)?;
    let starts = (0..at_once).map(|index| Client::start(&poller, index, site).map(Some));
    let mut clients = starts.collect::<io::Result<Vec<Option<Client>>>>()?;
    let (warm, mut started, mut ended) = (count / 10, u64::from(at_once), 0_u64);
    let (mut begin, mut before) = (Instant::now(), meter()?);
    let (mut tokens, mut buffer) = (Vec::new(), [0; 4096]);
    while ended < warm + count {
        poller.wait(&mut tokens, STUCK_LIMIT)?;
        if tokens.is_empty() {
            return Err(stuck());
        }
        for token in &tokens {
            match *token {
                Token::Listener => server.accept(&poller)?,
                Token::Served(index) => server.serve(index),
                Token::Client(index) => {
                    let Some(client) = &mut clients[index as usize] else { continue };
                    if !client.step(&mut buffer)? {
                        continue;
                    }
                    ended += 1;
                    clients[index as usize] = None;
                    if started < warm + count {
                        clients[index as usize] = Some(Client::start(&poller, index, site)?);
                        started += 1;
                    }
                    if ended == warm {
                        (begin, before) = (Instant::now(), meter()?);
                    }
                }
            }
        }
    }
    Ok(Stretch { count, wall: begin.elapsed(), processor: meter()?.saturating_sub(before) })
}
