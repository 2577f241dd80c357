//! One connection of `lbd`.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use common::ipc::{ENTRIES_MAX, HEALTH_TIMEOUT, ToLbd, ToVrrpd};
use common::wire::{FrameReader, WireError, frame};
use nix::poll::PollFlags;

/// Bytes read in one go; what comes faster waits in the socket.
const READ_MAX: usize = 16 * 1024;

/// Why a connection is closed.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("it closed the connection")]
    Closed,
    #[error("the connection failed: {0}")]
    Io(io::Error),
    #[error("nothing was heard for {} ms", HEALTH_TIMEOUT.as_millis())]
    Silent,
    #[error("it sent something that is no message: {0}")]
    Malformed(WireError),
    #[error("it sent a message out of turn or with more than {ENTRIES_MAX} entries")]
    OutOfTurn,
    #[error("it runs as node {theirs:?}, vrrpd runs as node {ours:?}; start both with the same --node")]
    OtherNode { theirs: String, ours: String },
    #[error("too many connections wait for their first message")]
    PushedOut,
}

#[derive(Debug)]
pub(super) struct Stream {
    socket: UnixStream,
    reader: FrameReader,
    out: Vec<u8>,
    /// The newest roles, while older ones still wait to be written.
    next: Option<Vec<u8>>,
    ended: bool,
    /// When something was last read, or the connection was made.
    pub(super) heard: Instant,
}

impl Stream {
    pub(super) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let reader = FrameReader::default();
        Ok(Self { socket, reader, out: Vec::new(), next: None, ended: false, heard: Instant::now() })
    }

    /// What to wait for.
    pub(super) fn interest(&self) -> PollFlags {
        if self.out.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLIN | PollFlags::POLLOUT }
    }

    /// Reads and writes what is possible; the whole messages that have come.
    pub(super) fn serve(&mut self, ready: PollFlags) -> Result<Vec<ToVrrpd>, End> {
        if ready.contains(PollFlags::POLLOUT) {
            self.write()?;
        }
        let mut messages = Vec::new();
        if ready.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            let mut buffer = [0; READ_MAX];
            match self.socket.read(&mut buffer) {
                Ok(0) => self.ended = true,
                Ok(count) => self.reader.push(&buffer[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(End::Io(error)),
            }
            while let Some(message) = self.reader.next_message::<ToVrrpd>().map_err(End::Malformed)? {
                if matches!(&message, ToVrrpd::Health(health) if health.services_without_targets.len() > ENTRIES_MAX)
                {
                    return Err(End::OutOfTurn);
                }
                // Only whole messages break the silence: a hung lbd may trickle bytes.
                self.heard = Instant::now();
                messages.push(message);
            }
        }
        Ok(messages)
    }

    /// Whether the connection is over now: the other end closed it, or was silent for too long.
    pub(super) fn end(&self) -> Option<End> {
        if self.ended {
            Some(End::Closed)
        } else if self.heard.elapsed() >= HEALTH_TIMEOUT {
            Some(End::Silent)
        } else {
            None
        }
    }

    /// Sends a message; if the other end does not read, only the newest one is kept for it.
    pub(super) fn send(&mut self, message: &ToLbd) -> Result<(), End> {
        let bytes = frame(message).map_err(End::Malformed)?;
        if self.out.is_empty() {
            self.out = bytes;
        } else {
            self.next = Some(bytes);
        }
        self.write()
    }

    fn write(&mut self) -> Result<(), End> {
        while !self.out.is_empty() {
            match self.socket.write(&self.out) {
                Ok(count) => {
                    self.out.drain(..count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The other end is gone: the read that follows says so, after its last message.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                    self.out.clear();
                    self.next = None;
                    return Ok(());
                }
                Err(error) => return Err(End::Io(error)),
            }
            if self.out.is_empty()
                && let Some(next) = self.next.take()
            {
                self.out = next;
            }
        }
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
