//! The target.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

use nix::sys::epoll::EpollFlags;

use super::poller::{Poller, Token};
use super::unless_blocked;

/// How much of a stream is written at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// How often in a row before others get their turn.
const CHUNKS_PER_TURN: usize = 4;

/// What the target does with its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behaviour {
    /// Sends back what it gets.
    Echo,
    /// Sends back what it gets first, and closes.
    AnswerOnce,
    /// Sends so many bytes, and closes.
    Stream(u64),
}

/// The target with its connections.
#[derive(Debug)]
pub(super) struct Server<'a> {
    listener: &'a TcpListener,
    behaviour: Behaviour,
    connections: Vec<Option<Served>>,
    free: Vec<u32>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Served {
    stream: TcpStream,
    left: u64,
}

impl<'a> Server<'a> {
    pub(super) fn new(listener: &'a TcpListener, behaviour: Behaviour, poller: &Poller) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        poller.add(listener, Token::Listener, EpollFlags::EPOLLIN)?;
        let buffer = vec![b's'; CHUNK_BYTES];
        Ok(Self { listener, behaviour, connections: Vec::new(), free: Vec::new(), buffer })
    }

    /// Accepts all that wait.
    pub(super) fn accept(&mut self, poller: &Poller) -> io::Result<()> {
        while let Some((stream, _)) = unless_blocked(self.listener.accept())? {
            stream.set_nonblocking(true)?;
            let (flags, left) = match self.behaviour {
                Behaviour::Stream(bytes) => (EpollFlags::EPOLLOUT, bytes),
                Behaviour::Echo | Behaviour::AnswerOnce => (EpollFlags::EPOLLIN, 0),
            };
            let index = match self.free.pop() {
                Some(index) => index,
                None => {
                    self.connections.push(None);
                    u32::try_from(self.connections.len() - 1).map_err(io::Error::other)?
                }
            };
            poller.add(&stream, Token::Served(index), flags)?;
            self.connections[index as usize] = Some(Served { stream, left });
        }
        Ok(())
    }

    /// Goes on with a connection.
    pub(super) fn serve(&mut self, index: u32) {
        let Some(served) = &mut self.connections[index as usize] else { return };
        let ended = match self.behaviour {
            Behaviour::Echo => echo(served, &mut self.buffer),
            Behaviour::AnswerOnce => {
                echo(served, &mut self.buffer);
                true
            }
            Behaviour::Stream(_) => stream(served, &self.buffer),
        };
        if ended {
            self.connections[index as usize] = None;
            self.free.push(index);
        }
    }
}

/// Sends back what is there; answers whether the connection has ended. Clients find out if that was too early.
fn echo(served: &mut Served, buffer: &mut [u8]) -> bool {
    match unless_blocked(served.stream.read(buffer)) {
        Ok(None) => false,
        Ok(Some(0)) | Err(_) => true,
        // Messages are small and the socket's buffer is empty: the rest never waits.
        Ok(Some(count)) => served.stream.write_all(&buffer[..count]).is_err(),
    }
}

/// Sends what the socket takes; answers whether all has been sent, or nobody wants it any more.
fn stream(served: &mut Served, buffer: &[u8]) -> bool {
    for _ in 0..CHUNKS_PER_TURN {
        let wanted = usize::try_from(served.left).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return true;
        }
        match unless_blocked(served.stream.write(&buffer[..wanted])) {
            Ok(Some(count)) => served.left -= count as u64,
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
    false
}
