//! A connection as the crate `h2` wants it, with an eye on what passes.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use lbd_core::http::conduct::{Conduct, Offence};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::l7::client::LINGER_BYTES_MAX;
use crate::l7::stream::Stream;
use crate::l7::transport::PIECES_MAX;
use crate::worker::Worker;

/// After so many reads the worker's other connections get their turn, and whoever watches this one.
const READS_PER_TURN: u32 = 8;

/// A connection.
pub(super) struct Wire {
    stream: Stream,
    eye: Option<Rc<Eye>>,
    reads: u32,
    /// Of a connection to a target: whether it ends at once, see [`crate::l7::transport::Transport::reset_at_end`].
    ends_at_once: Option<Rc<Cell<bool>>>,
    /// How much is still read of a client that gets nothing more: see [`LINGER_BYTES_MAX`].
    linger: usize,
    shut: bool,
}

/// Who looks at a client's conduct.
pub(super) struct Eye {
    worker: Rc<Worker>,
    conduct: RefCell<Conduct>,
    offence: Cell<Option<Offence>>,
}

impl Eye {
    /// For a connection that begins now.
    pub(super) fn new(worker: &Rc<Worker>) -> Rc<Self> {
        let now_ms = worker.connections.now_ms();
        let conduct = RefCell::new(Conduct::new(now_ms));
        Rc::new(Self { worker: Rc::clone(worker), conduct, offence: Cell::new(None) })
    }

    /// What there was too much of.
    pub(super) fn offence(&self) -> Option<Offence> {
        self.offence.get()
    }

    fn received(&self, bytes: &[u8]) {
        let now_ms = self.worker.connections.now_ms();
        if let Err(offence) = self.conduct.borrow_mut().received(bytes, now_ms) {
            self.offence.set(self.offence.get().or(Some(offence)));
        }
    }

    fn sent(&self, bytes: &[u8]) {
        let now_ms = self.worker.connections.now_ms();
        if let Err(offence) = self.conduct.borrow_mut().sent(bytes, now_ms) {
            self.offence.set(self.offence.get().or(Some(offence)));
        }
    }
}

impl Wire {
    /// A client's connection, of which something may have been read already.
    pub(super) fn of_client(stream: Stream, eye: &Rc<Eye>) -> Self {
        Self::new(stream, Some(Rc::clone(eye)), None)
    }

    /// A connection to a target, which ends at once if that is said by then.
    pub(super) fn to_target(stream: Stream, ends_at_once: &Rc<Cell<bool>>) -> Self {
        Self::new(stream, None, Some(Rc::clone(ends_at_once)))
    }

    const fn new(stream: Stream, eye: Option<Rc<Eye>>, ends_at_once: Option<Rc<Cell<bool>>>) -> Self {
        Self { stream, eye, reads: 0, ends_at_once, linger: LINGER_BYTES_MAX, shut: false }
    }

    fn read(&mut self, context: &Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        let Stream { transport, inbound } = &mut self.stream;
        let held = inbound.bytes();
        if !held.is_empty() {
            let count = held.len().min(buffer.remaining());
            buffer.put_slice(&held[..count]);
            inbound.consume(count);
            return Poll::Ready(Ok(count));
        }
        loop {
            ready!(transport.poll_readable(context));
            match transport.try_read(buffer.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(count));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.reads == READS_PER_TURN {
            self.reads = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        // Nothing more is heard of a client that is no client; what it has sent by now is still decoded.
        if self.eye.as_ref().is_some_and(|eye| eye.offence().is_some()) {
            return Poll::Pending;
        }
        let begin = buffer.filled().len();
        match self.read(context, buffer) {
            Poll::Ready(Ok(_)) => {
                self.reads += 1;
                if let Some(eye) = &self.eye {
                    eye.received(&buffer.filled()[begin..]);
                    if eye.offence().is_some() {
                        context.waker().wake_by_ref();
                    }
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                self.reads = 0;
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let transport = &self.stream.transport;
        let mut taken: [&[u8]; PIECES_MAX] = [&[]; PIECES_MAX];
        let mut several = 0;
        for piece in pieces.iter().filter(|piece| !piece.is_empty()).take(PIECES_MAX) {
            taken[several] = piece;
            several += 1;
        }
        let taken = &taken[..several];
        loop {
            ready!(transport.poll_writable(context));
            match transport.try_write(taken) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(count) => {
                    if let Some(eye) = &self.eye {
                        let mut left = count;
                        for piece in taken {
                            let here = left.min(piece.len());
                            eye.sent(&piece[..here]);
                            left -= here;
                        }
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.transport.poll_flush(context)
    }

    /// Ends it so that what was sent last arrives, whatever the other end still sends; whoever waits for this sees to how long.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ends_at_once.as_ref().is_some_and(|ends| ends.get()) {
            self.stream.transport.reset_at_end();
            return Poll::Ready(Ok(()));
        }
        if !self.shut {
            let finished = ready!(self.stream.transport.poll_finish(context));
            self.shut = true;
            // Of a connection that is broken nothing is left to arrive.
            if finished.is_err() {
                return Poll::Ready(Ok(()));
            }
        }
        // A target gets no more time: there is nothing that it would want to read.
        if self.eye.is_none() {
            return Poll::Ready(Ok(()));
        }
        loop {
            let mut scratch = [0; 4096];
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(self.read(context, &mut buffer)) {
                Ok(count @ 1..) if count < self.linger => self.linger -= count,
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}
