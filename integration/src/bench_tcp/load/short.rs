//! Connections that carry one small message each way.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use super::crowd::{self, Scene};
use super::poller::{Poller, Token};
use super::server::Behaviour;
use super::{MESSAGE, Meter, Site, Stretch, connect, cut_off, unless_blocked};

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
}

impl crowd::Client for Client {
    /// Its end is what it comes for.
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
    let scene = Scene::with_target(site.listener, Behaviour::AnswerOnce)?;
    crowd::come_and_go(scene, count, at_once, meter, |poller, index| Client::start(poller, index, site))
}
