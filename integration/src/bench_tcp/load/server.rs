//! The target.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

use nix::sys::epoll::EpollFlags;
use socket2::SockRef;

use super::poller::{Poller, Token};
use super::unless_blocked;

/// How much of a stream is written at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// How often in a row before others get their turn.
const CHUNKS_PER_TURN: usize = 4;

/// Requests longer than this have lost their way.
const REQUEST_BYTES_MAX: usize = 16 * 1024;
/// What the kernel keeps of a connection that is asked for answers: more than any of them, so that none is written in parts.
const SEND_BUFFER: usize = 208 * 1024;

/// What the target does with its connections.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Behaviour {
    /// Sends back what it gets.
    Echo,
    /// Sends back what it gets first, and closes.
    AnswerOnce,
    /// Sends so many bytes, and closes.
    Stream(u64),
    /// Answers requests that come one after the other: says what to reply once one is whole.
    Requests(fn(&[u8]) -> Option<Reply>),
}

/// The answer to a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply {
    /// All of it: less than the kernel keeps for a connection.
    pub(crate) bytes: &'static [u8],
    /// Whether the connection then sends back what it gets.
    pub(crate) then_echo: bool,
}

/// The target with its connections.
#[derive(Debug)]
pub(crate) struct Server<'a> {
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
    /// What has come of a request.
    asked: Vec<u8>,
    echoes: bool,
}

impl<'a> Server<'a> {
    pub(crate) fn new(listener: &'a TcpListener, behaviour: Behaviour, poller: &Poller) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        poller.add(listener, Token::Listener, EpollFlags::EPOLLIN)?;
        let buffer = vec![b's'; CHUNK_BYTES];
        Ok(Self { listener, behaviour, connections: Vec::new(), free: Vec::new(), buffer })
    }

    /// Accepts all that wait.
    pub(crate) fn accept(&mut self, poller: &Poller) -> io::Result<()> {
        while let Some((stream, _)) = unless_blocked(self.listener.accept())? {
            stream.set_nonblocking(true)?;
            let (flags, left) = match self.behaviour {
                Behaviour::Stream(bytes) => (EpollFlags::EPOLLOUT, bytes),
                Behaviour::Echo | Behaviour::AnswerOnce => (EpollFlags::EPOLLIN, 0),
                Behaviour::Requests(_) => {
                    stream.set_nodelay(true)?;
                    SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER)?;
                    (EpollFlags::EPOLLIN, 0)
                }
            };
            let index = match self.free.pop() {
                Some(index) => index,
                None => {
                    self.connections.push(None);
                    u32::try_from(self.connections.len() - 1).map_err(io::Error::other)?
                }
            };
            poller.add(&stream, Token::Served(index), flags)?;
            self.connections[index as usize] =
                Some(Served { stream, left, asked: Vec::new(), echoes: false });
        }
        Ok(())
    }

    /// Goes on with a connection.
    pub(crate) fn serve(&mut self, index: u32) {
        let Some(served) = &mut self.connections[index as usize] else { return };
        let ended = match self.behaviour {
            Behaviour::Echo => echo(served, &mut self.buffer),
            Behaviour::AnswerOnce => {
                echo(served, &mut self.buffer);
                true
            }
            Behaviour::Stream(_) => stream(served, &self.buffer),
            Behaviour::Requests(_) if served.echoes => echo(served, &mut self.buffer),
            Behaviour::Requests(reply) => answer(served, &mut self.buffer, reply),
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

/// Takes what is there and answers it if it is a whole request; answers whether the connection has ended.
fn answer(served: &mut Served, buffer: &mut [u8], reply: fn(&[u8]) -> Option<Reply>) -> bool {
    let count = match unless_blocked(served.stream.read(buffer)) {
        Ok(None) => return false,
        Ok(Some(0)) | Err(_) => return true,
        Ok(Some(count)) => count,
    };
    served.asked.extend_from_slice(&buffer[..count]);
    let Some(reply) = reply(&served.asked) else { return served.asked.len() > REQUEST_BYTES_MAX };
    served.asked.clear();
    served.echoes = reply.then_echo;
    // Who asks has the last answer whole, so the buffer is empty, and has room for this one.
    served.stream.write_all(reply.bytes).is_err()
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
