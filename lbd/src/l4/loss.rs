//! What became of an end of a connection that failed.

use std::io;

use socket2::SockRef;

use super::End;
use super::socket::Socket;

/// How a connection was lost.
#[derive(Clone, Copy)]
pub(crate) enum Loss {
    /// The other end said so.
    Reset,
    /// It is not heard of any more, and the kernel has given it up.
    Vanished,
}

impl Loss {
    /// By what the kernel calls it. An ICMP error is only what it was told while it waited in vain: it names that instead of the time-out.
    pub(crate) fn from_error(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                Self::Vanished
            }
            _ => Self::Reset,
        }
    }

    /// The same of a socket that has failed while nobody read it or wrote to it.
    pub(crate) fn of(socket: &Socket) -> Self {
        let error = SockRef::from(socket).take_error().ok().flatten();
        error.map_or(Self::Reset, |error| Self::from_error(&error))
    }

    /// The end of a connection whose client was lost like that.
    pub(crate) const fn of_client(self) -> End {
        match self {
            Self::Reset => End::ClientReset,
            Self::Vanished => End::ClientVanished,
        }
    }

    /// The same of its target.
    pub(crate) const fn of_target(self) -> End {
        match self {
            Self::Reset => End::TargetReset,
            Self::Vanished => End::TargetVanished,
        }
    }
}
