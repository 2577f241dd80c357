//! Which sessions' sockets have something to read.

use std::os::fd::{AsFd, BorrowedFd};

use lbd_core::udp_sessions::SessionId;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::batch::BATCH;

/// The sockets of one listening socket's sessions, behind one descriptor: a session is no task, and the answers of many go
/// out with one call.
pub(super) struct Readable(Epoll);

impl Readable {
    /// None yet.
    pub(super) fn new() -> nix::Result<Self> {
        Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map(Self)
    }

    /// Has a session's socket reported each time that something comes, until it is closed.
    pub(super) fn add(&self, socket: impl AsFd, id: SessionId) -> nix::Result<()> {
        self.0.add(socket, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, id.to_bits()))
    }

    /// Adds to `ids` those that something has come for since they were last taken. Answers whether there may be more.
    pub(super) fn take(&self, ids: &mut Vec<SessionId>) -> bool {
        let mut events = [EpollEvent::empty(); BATCH];
        // It does not wait, and the descriptor is good: it does not fail.
        let count = self.0.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        ids.extend(events.iter().take(count).map(|event| SessionId::from_bits(event.data())));
        count == events.len()
    }
}

impl AsFd for Readable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}
