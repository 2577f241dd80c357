//! What a stream of HTTP is carried by.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::task::{Context, Poll, ready};

use socket2::SockRef;

use super::secure::Secure;
use crate::executor::Ready;
use crate::l4::{Socket, is_all_acknowledged, reset_on_close};

/// So many pieces can be written with one call.
pub(super) const PIECES_MAX: usize = 3;

/// A connection in clear text or encrypted.
pub(super) enum Transport {
    /// In clear text.
    Clear(Socket),
    /// Encrypted.
    Tls(Box<Secure>),
}

impl Transport {
    /// The socket beneath, for all that is not its bytes.
    pub(super) fn socket(&self) -> &Socket {
        match self {
            Self::Clear(socket) => socket,
            Self::Tls(secure) => &secure.socket,
        }
    }

    /// Waits until there may be something to read.
    pub(super) fn poll_readable(&self, context: &Context<'_>) -> Poll<()> {
        match self {
            Self::Clear(socket) => socket.poll(context, Ready::READABLE),
            Self::Tls(secure) => secure.poll_readable(context),
        }
    }

    /// Waits until there may be room to write.
    pub(super) fn poll_writable(&self, context: &Context<'_>) -> Poll<()> {
        self.socket().poll(context, Ready::WRITABLE)
    }

    /// Reads what has come; 0 is the end.
    ///
    /// # Errors
    /// `WouldBlock` when nothing has, or why the connection is broken.
    pub(super) fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Clear(socket) => socket.try_read(into),
            Self::Tls(secure) => secure.try_read(into),
        }
    }

    /// Writes as much of several pieces, none of them empty and at most [`PIECES_MAX`], as there is room for.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room, or why the connection is broken.
    pub(super) fn try_write(&self, pieces: &[&[u8]]) -> io::Result<usize> {
        match (self, pieces) {
            (Self::Tls(secure), pieces) => secure.try_write(pieces),
            (Self::Clear(socket), [only]) => socket.try_write(only, false),
            (Self::Clear(socket), several) => {
                let mut slices = [IoSlice::new(&[]); PIECES_MAX];
                for (slot, piece) in slices.iter_mut().zip(several) {
                    *slot = IoSlice::new(piece);
                }
                socket.try_write_pieces(&slices[..several.len().min(PIECES_MAX)])
            }
        }
    }

    /// Waits until all that was taken to be written has been.
    pub(super) fn poll_flush(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Clear(_) => Poll::Ready(Ok(())),
            Self::Tls(secure) => secure.poll_flush(context),
        }
    }

    /// Whether something that was taken to be written has not been.
    pub(super) fn has_unsent(&self) -> bool {
        match self {
            Self::Clear(_) => false,
            Self::Tls(secure) => secure.has_unsent(),
        }
    }

    /// Counts up whenever something of what was taken has been written later.
    pub(super) fn flushed(&self) -> u64 {
        match self {
            Self::Clear(_) => 0,
            Self::Tls(secure) => secure.sent(),
        }
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// Why the connection is broken.
    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        poll_fn(|context| {
            while !bytes.is_empty() {
                ready!(self.poll_writable(context));
                match self.try_write(&[bytes]) {
                    Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Ok(count) => bytes = &bytes[count..],
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            self.poll_flush(context)
        })
        .await
    }

    /// Tells the other end that nothing more comes, behind all that was written.
    ///
    /// # Errors
    /// Why it cannot be told.
    pub(super) fn poll_finish(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        if let Self::Tls(secure) = self {
            secure.close();
            ready!(secure.poll_flush(context))?;
        }
        Poll::Ready(SockRef::from(self.socket()).shutdown(Shutdown::Write))
    }

    /// The same.
    ///
    /// # Errors
    /// Why it cannot be told.
    pub(super) async fn finish(&self) -> io::Result<()> {
        poll_fn(|context| self.poll_finish(context)).await
    }

    /// Tells the other end that nothing more comes, if that can be told at once: for a connection that is closed in any case.
    pub(super) fn say_goodbye(&self) {
        if let Self::Tls(secure) = self {
            secure.close();
        }
    }

    /// Has a connection to a target, on which nothing is under way any more, end at once when it is dropped. Whoever closes first keeps the
    /// connection's ports for a minute (TIME_WAIT), and there are some 28,000 to a target: 470 connections a second would use them up. A reset
    /// gives them back. It would take away, too, what the target has not acknowledged of a body that it has answered before reading it: then the
    /// connection closes as usual, and so it does if the target has closed first.
    pub(super) fn end_at_once(&self) {
        if is_all_acknowledged(self.socket()) {
            self.reset_at_end();
        } else {
            self.say_goodbye();
        }
    }

    /// The same where the other end is known to have all that it needs: what it has not acknowledged is about the connection alone.
    pub(super) fn reset_at_end(&self) {
        self.say_goodbye();
        if !self.socket().is(Ready::ENDED) {
            reset_on_close(SockRef::from(self.socket()));
        }
    }

    /// Whether nothing has come, nothing is on its way out and the other end has not finished, as far as was told; `ask` asks the
    /// kernel once more.
    pub(super) fn is_quiet(&self, ask: bool) -> bool {
        self.is_idle() && self.socket().is_quiet(ask)
    }

    /// Whether nothing that has come, or is on its way out, is held.
    pub(super) fn is_idle(&self) -> bool {
        match self {
            Self::Clear(_) => true,
            Self::Tls(secure) => secure.is_idle(),
        }
    }
}
