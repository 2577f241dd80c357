//! One connection of `lbd`.

use std::io::{self, ErrorKind, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use common::ipc::{ENTRIES_MAX, HEALTH_TIMEOUT, InstanceNumber, LbdHealth, ToLbd, ToVrrpd};
use common::wire::{FrameReader, WireError, frame};
use nix::cmsg_space;
use nix::poll::PollFlags;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Bytes read in one go; what comes faster waits in the socket.
const READ_MAX: usize = 16 * 1024;

/// As many descriptors as Linux lets come at once (`SCM_MAX_FD`): all of them are taken, so that none is left open unknown.
const DESCRIPTORS_MAX: usize = 253;

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
    #[error("it sent descriptors that belong to no message, or a message without the one that belongs to it")]
    Descriptors,
    #[error("it runs as node {theirs:?}, vrrpd runs as node {ours:?}; start both with the same --node")]
    OtherNode { theirs: String, ours: String },
    #[error("too many connections wait for their first message")]
    PushedOut,
}

/// What `lbd` says.
#[derive(Debug)]
pub(super) enum Message {
    Hello {
        node: String,
        version: String,
        config_hash: u64,
    },
    Health(LbdHealth),
    /// The map that the kernel reads, if there is one, and where the instances are in it.
    Instances(Option<OwnedFd>, Vec<InstanceNumber>),
    /// Whether this node lacks connections and sessions that the other one has.
    Replication(bool),
}

#[derive(Debug)]
pub(super) struct Stream {
    socket: UnixStream,
    reader: FrameReader,
    /// A descriptor whose message is not whole yet.
    descriptor: Option<OwnedFd>,
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
        Ok(Self {
            socket,
            reader: FrameReader::default(),
            descriptor: None,
            out: Vec::new(),
            next: None,
            ended: false,
            heard: Instant::now(),
        })
    }

    /// What to wait for.
    pub(super) fn interest(&self) -> PollFlags {
        if self.out.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLIN | PollFlags::POLLOUT }
    }

    /// Reads and writes what is possible; the whole messages that have come.
    pub(super) fn serve(&mut self, ready: PollFlags) -> Result<Vec<Message>, End> {
        if ready.contains(PollFlags::POLLOUT) {
            self.write()?;
        }
        let mut messages = Vec::new();
        if ready.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            self.read()?;
            while let Some(message) = self.reader.next_message::<ToVrrpd>().map_err(End::Malformed)? {
                // Only whole messages break the silence: a hung lbd may trickle bytes.
                self.heard = Instant::now();
                messages.push(self.understand(message)?);
            }
        }
        Ok(messages)
    }

    /// Reads once. A descriptor comes with the first byte of its message, and with nothing behind that which has one too.
    fn read(&mut self) -> Result<(), End> {
        let mut buffer = [0; READ_MAX];
        let mut space = cmsg_space!([RawFd; DESCRIPTORS_MAX]);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let received =
            recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC);
        let received = match received.map_err(io::Error::from) {
            Ok(received) => received,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(error) => return Err(End::Io(error)),
        };
        let count = received.bytes;
        let mut descriptors: Vec<OwnedFd> = Vec::new();
        if let Ok(controls) = received.cmsgs() {
            for control in controls {
                if let ControlMessageOwned::ScmRights(raw) = control {
                    // SAFETY: the kernel has just made these for us, and nobody else knows them.
                    descriptors.extend(raw.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
                }
            }
        }
        if descriptors.len() > 1 || (!descriptors.is_empty() && self.descriptor.is_some()) {
            return Err(End::Descriptors);
        }
        self.descriptor = self.descriptor.take().or_else(|| descriptors.pop());
        if count == 0 {
            self.ended = true;
        }
        self.reader.push(&buffer[..count]);
        Ok(())
    }

    fn understand(&mut self, message: ToVrrpd) -> Result<Message, End> {
        match message {
            ToVrrpd::Hello { node, version, config_hash } => {
                Ok(Message::Hello { node, version, config_hash })
            }
            ToVrrpd::Health(health) if health.services_without_targets.len() <= ENTRIES_MAX => {
                Ok(Message::Health(health))
            }
            ToVrrpd::Instances(numbers) if numbers.len() <= ENTRIES_MAX => {
                let descriptor = self.descriptor.take();
                if descriptor.is_none() != numbers.is_empty() {
                    return Err(End::Descriptors);
                }
                Ok(Message::Instances(descriptor, numbers))
            }
            ToVrrpd::Replication { behind } => Ok(Message::Replication(behind)),
            ToVrrpd::Health(_) | ToVrrpd::Instances(_) => Err(End::OutOfTurn),
        }
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
