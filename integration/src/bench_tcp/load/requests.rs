//! Messages and answers on established connections, each client sending the next as soon as it has the answer.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

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
    /// Goes on; answers how many answers are complete.
    fn step(&mut self, buffer: &mut [u8]) -> io::Result<u64> {
        if !self.sent {
            self.sent = unless_blocked(self.stream.write(&MESSAGE))?.is_some();
            return Ok(0);
        }
        let Some(count) = unless_blocked(self.stream.read(buffer))? else { return Ok(0) };
        if count == 0 {
            return Err(cut_off());
        }
        self.got += count;
        if self.got < MESSAGE.len() {
            return Ok(0);
        }
        self.got = 0;
        // The socket's buffer is empty: the message fits.
        self.stream.write_all(&MESSAGE)?;
        Ok(1)
    }
}

/// Keeps `connections` busy, and counts for `time` after a tenth of that as a warm-up.
pub(in crate::bench_tcp) fn requests(
    site: Site<'_>,
    connections: u32,
    time: Duration,
    meter: Meter<'_>,
) -> io::Result<Stretch> {
    let mut poller = Poller::new()?;
    let mut server = Server::new(site.listener, Behaviour::Echo, &poller)?;
    let start = |index| {
        let stream = connect(&poller, Token::Client(index), site.address)?;
        Ok(Client { stream, sent: false, got: 0 })
    };
    let mut clients = (0..connections).map(start).collect::<io::Result<Vec<Client>>>()?;
    let (mut tokens, mut buffer) = (Vec::new(), [0; 4096]);
    let (start, mut measured) = (Instant::now(), None);
    let mut count = 0;
    loop {
        let passed = start.elapsed();
        match measured {
            None if passed >= time / 10 => {
                count = 0;
                measured = Some((Instant::now(), meter()?));
            }
            Some((begin, before)) if begin.elapsed() >= time => {
                return Ok(Stretch {
                    count,
                    wall: begin.elapsed(),
                    processor: meter()?.saturating_sub(before),
                });
            }
            _ => {}
        }
        poller.wait(&mut tokens, STUCK_LIMIT)?;
        if tokens.is_empty() {
            return Err(stuck());
        }
        for token in &tokens {
            match *token {
                Token::Listener => server.accept(&poller)?,
                Token::Served(index) => server.serve(index),
                Token::Client(index) => count += clients[index as usize].step(&mut buffer)?,
            }
        }
    }
}
