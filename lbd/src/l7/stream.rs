//! A connection with what has been read of it and not been used yet.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::transport::Transport;
use crate::l4::{BUFFER_BYTES, Buffer, BufferPool};

/// Either side's connection.
pub(super) struct Stream {
    /// What carries it.
    pub(super) transport: Transport,
    /// What was read.
    pub(super) inbound: Inbound,
}

impl Stream {
    /// A connection of which `bytes` have been read already.
    pub(super) fn new(transport: Transport, bytes: Vec<u8>, buffers: &Rc<BufferPool>) -> Self {
        Self { transport, inbound: Inbound::new(bytes, buffers) }
    }

    /// Whether it is in clear text, and nothing has come that was not used, as far as was told.
    pub(super) fn is_quiet_in_clear(&self) -> bool {
        matches!(self.transport, Transport::Clear(_))
            && self.inbound.is_empty()
            && self.transport.is_quiet(false)
    }

    /// Waits for more and reads it. Answers how many bytes came; 0 is the end.
    ///
    /// # Errors
    /// Why the connection is broken, or that there is no room.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        let Self { transport, inbound } = self;
        std::future::poll_fn(|context| inbound.poll_fill(context, transport)).await
    }
}

/// What has been read and not been used yet, in a buffer of the worker's. While there is nothing, or only the begin of something,
/// no such buffer is held.
#[derive(Debug)]
pub(super) struct Inbound {
    held: Held,
    buffers: Rc<BufferPool>,
}

#[derive(Debug)]
enum Held {
    Nothing,
    /// `start..end` of it, not empty.
    Buffer {
        buffer: Buffer,
        start: usize,
        end: usize,
    },
    /// What waits for more.
    Bytes(Vec<u8>),
}

impl Inbound {
    /// With `bytes` in it.
    pub(super) fn new(bytes: Vec<u8>, buffers: &Rc<BufferPool>) -> Self {
        let held = if bytes.is_empty() { Held::Nothing } else { Held::Bytes(bytes) };
        Self { held, buffers: Rc::clone(buffers) }
    }

    /// What there is.
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.held {
            Held::Nothing => &[],
            Held::Buffer { buffer, start, end } => &buffer.bytes()[*start..*end],
            Held::Bytes(bytes) => bytes,
        }
    }

    /// The same, to be decoded in its place.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.held {
            Held::Nothing => &mut [],
            Held::Buffer { buffer, start, end } => &mut buffer.bytes_mut()[*start..*end],
            Held::Bytes(bytes) => bytes,
        }
    }

    /// Whether there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// Has used so many bytes.
    pub(super) fn consume(&mut self, count: usize) {
        let empty = match &mut self.held {
            Held::Nothing => return,
            Held::Buffer { start, end, .. } => {
                *start += count;
                start >= end
            }
            Held::Bytes(bytes) => {
                bytes.drain(..count.min(bytes.len()));
                bytes.is_empty()
            }
        };
        if empty {
            self.held = Held::Nothing;
        }
    }

    /// Gives the buffer back for the time of a wait, and keeps a copy of what there is: little, of a client that sends slowly.
    pub(super) fn settle(&mut self) {
        if let Held::Buffer { buffer, start, end } = &self.held {
            self.held = Held::Bytes(buffer.bytes()[*start..*end].to_vec());
        }
    }

    /// Reads once there is something to read.
    pub(super) fn poll_fill(
        &mut self,
        context: &Context<'_>,
        transport: &Transport,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(transport.poll_readable(context));
            match self.fill(|room| transport.try_read(room)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                filled => return Poll::Ready(filled),
            }
        }
    }

    /// Has `read` put more behind what there is.
    ///
    /// # Errors
    /// What `read` says, or that there is no room.
    pub(super) fn fill(&mut self, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        let (mut buffer, start, end) = match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Nothing => (self.buffers.take(), 0, 0),
            Held::Buffer { buffer, start, end } => (buffer, start, end),
            Held::Bytes(bytes) => {
                let mut buffer = self.buffers.take();
                let end = bytes.len().min(BUFFER_BYTES);
                buffer.bytes_mut()[..end].copy_from_slice(&bytes[..end]);
                (buffer, 0, end)
            }
        };
        let (start, end) = if start > 0 && end == BUFFER_BYTES {
            buffer.bytes_mut().copy_within(start..end, 0);
            (0, end - start)
        } else {
            (start, end)
        };
        let room = &mut buffer.bytes_mut()[end..];
        // Who asks for more has less than fits.
        let read = if room.is_empty() { Err(io::ErrorKind::OutOfMemory.into()) } else { read(room) };
        let end = end + read.as_ref().map_or(0, |count| *count);
        if end > start {
            self.held = Held::Buffer { buffer, start, end };
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inbound(held: Held) -> Inbound {
        Inbound { held, buffers: Rc::default() }
    }

    #[test]
    fn what_is_used_is_gone_and_the_rest_stays() {
        let mut inbound = inbound(Held::Bytes(b"one two".to_vec()));
        inbound.consume(4);
        assert_eq!(inbound.bytes(), b"two");
        inbound.bytes_mut()[0] = b'T';
        assert_eq!(inbound.bytes(), b"Two");
        inbound.consume(3);
        assert!(inbound.is_empty() && matches!(inbound.held, Held::Nothing));
        inbound.consume(1);
        assert_eq!(inbound.bytes_mut(), b"");
    }

    #[test]
    fn a_wait_holds_no_buffer() {
        let pool: Rc<BufferPool> = Rc::default();
        let mut buffer = pool.take();
        buffer.bytes_mut()[..4].copy_from_slice(b"xabc");
        let mut inbound = inbound(Held::Buffer { buffer, start: 1, end: 4 });
        inbound.settle();
        assert!(matches!(&inbound.held, Held::Bytes(bytes) if bytes == b"abc"));
        inbound.settle();
        assert_eq!(inbound.bytes(), b"abc");
    }
}
