//! Messages at a steady rate, and how long their answers take from the time each was due.
//!
//! The thread does not sleep: it would be late for the next message, and its own waking up would be measured.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::poller::{Poller, Token};
use super::server::{Behaviour, Server};
use super::{MESSAGE, STUCK_LIMIT, Site, connect, cut_off, stuck, unless_blocked};

/// A client's connection.
#[derive(Debug)]
struct Client {
    stream: TcpStream,
    got: usize,
    /// When each message without an answer was due.
    due: VecDeque<Instant>,
}

impl Client {
    fn send(&mut self, due: Instant) -> io::Result<()> {
        self.due.push_back(due);
        // A few messages on the way are far less than the socket's buffer.
        self.stream.write_all(&MESSAGE)
    }

    /// Takes what has come, and notes how long each complete answer took.
    fn receive(&mut self, buffer: &mut [u8], took: &mut Vec<Duration>) -> io::Result<()> {
        let Some(count) = unless_blocked(self.stream.read(buffer))? else { return Ok(()) };
        if count == 0 {
            return Err(cut_off());
        }
        self.got += count;
        while self.got >= MESSAGE.len()
            && let Some(due) = self.due.pop_front()
        {
            self.got -= MESSAGE.len();
            took.push(due.elapsed());
        }
        Ok(())
    }
}

/// Sends `per_second` messages for `time` over so many connections in turn, and answers what each took.
pub(in crate::bench_tcp) fn paced(
    site: Site<'_>,
    connections: u32,
    per_second: u32,
    time: Duration,
) -> io::Result<Vec<Duration>> {
    let mut poller = Poller::new()?;
    let mut server = Server::new(site.listener, Behaviour::Echo, &poller)?;
    let start = |index| {
        let stream = connect(&poller, Token::Client(index), site.address)?;
        stream.set_nodelay(true)?;
        Ok(Client { stream, got: 0, due: VecDeque::new() })
    };
    let mut clients = (0..connections).map(start).collect::<io::Result<Vec<Client>>>()?;
    let (mut tokens, mut buffer) = (Vec::new(), [0; 4096]);
    let (mut next, mut sent, mut took) = (0, 0_u64, Vec::new());
    // A first round on each connection is for establishing it, on both sides of a proxy.
    let (rounds, interval) = (u64::from(connections), Duration::from_secs(1) / per_second);
    let total = rounds + u64::try_from(time.as_nanos() / interval.as_nanos()).map_err(io::Error::other)?;
    let mut due = Instant::now() + Duration::from_millis(20);
    while (took.len() as u64) < total {
        let now = Instant::now();
        if sent < total && now >= due {
            clients[next].send(due)?;
            next = (next + 1) % clients.len();
            sent += 1;
            due += interval;
            continue;
        }
        if now > due + STUCK_LIMIT {
            return Err(stuck());
        }
        poller.wait(&mut tokens, Duration::ZERO)?;
        for token in &tokens {
            match *token {
                Token::Listener => server.accept(&poller)?,
                Token::Served(index) => server.serve(index),
                Token::Client(index) => clients[index as usize].receive(&mut buffer, &mut took)?,
            }
        }
    }
    // `rounds` came from a `u32`.
    Ok(took.split_off(usize::try_from(rounds).map_err(io::Error::other)?))
}
