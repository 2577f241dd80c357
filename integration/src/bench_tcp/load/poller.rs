//! What the load waits for.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Whom an event is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// The target's listening socket.
    Listener,
    /// A connection of the target.
    Served(u32),
    /// A connection of a client.
    Client(u32),
}

impl Token {
    const SERVED: u64 = 1 << 32;
    const CLIENT: u64 = 2 << 32;

    fn pack(self) -> u64 {
        match self {
            Self::Listener => 0,
            Self::Served(index) => Self::SERVED | u64::from(index),
            Self::Client(index) => Self::CLIENT | u64::from(index),
        }
    }

    fn unpack(data: u64) -> Self {
        // The lower half is the index.
        let index = u32::try_from(data & u64::from(u32::MAX)).unwrap_or_default();
        match data & !u64::from(u32::MAX) {
            Self::SERVED => Self::Served(index),
            Self::CLIENT => Self::Client(index),
            _ => Self::Listener,
        }
    }
}

/// An epoll instance.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { epoll, events: vec![EpollEvent::empty(); 256] })
    }

    pub(crate) fn add(&self, fd: impl AsFd, token: Token, flags: EpollFlags) -> io::Result<()> {
        Ok(self.epoll.add(fd, EpollEvent::new(flags, token.pack()))?)
    }

    /// Puts what has happened within `timeout` (whole milliseconds) into `tokens`; nothing when it passed.
    pub(crate) fn wait(&mut self, tokens: &mut Vec<Token>, timeout: Duration) -> io::Result<()> {
        tokens.clear();
        let timeout = EpollTimeout::try_from(timeout).map_err(io::Error::other)?;
        match self.epoll.wait(&mut self.events, timeout) {
            Ok(count) => tokens.extend(self.events[..count].iter().map(|event| Token::unpack(event.data()))),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for token in
            [Token::Listener, Token::Served(0), Token::Served(u32::MAX), Token::Client(0), Token::Client(7)]
        {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
