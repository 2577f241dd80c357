//! One direction of a message: from its head to the end of its body, and never more of it than a buffer at a time.
//!
//! While the other side takes nothing, nothing more is read, and TCP slows the sender down. A head and what is there of the body
//! go out in one call, and so do a chunk's size, its data and its end.

use std::io;
use std::ops::Range;
use std::task::{Context, Poll, ready};

use lbd_core::http::framing::{BodyReader, Fault};
use lbd_core::http::pass_on;

use super::stream::Inbound;
use super::transport::Transport;

/// After so many buffers the worker's other connections get their turn.
const BUFFERS_PER_TURN: usize = 4;

/// How the body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// As it is: its length was said, or the connection's end is its end.
    Plain,
    /// In chunks.
    Chunked,
}

/// Why a direction came to no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The sender reset the connection, or ended it too early.
    From,
    /// The receiver takes nothing any more.
    To,
    /// What came is no body.
    Fault(Fault),
}

/// A direction.
#[derive(Debug)]
pub(super) struct Flow {
    reader: BodyReader,
    encoding: Encoding,
    /// What goes out before the data: a head, a chunk's size.
    before: Vec<u8>,
    /// The data, as a part of what has been read.
    data: Range<usize>,
    /// What goes out behind it.
    after: Vec<u8>,
    /// How much of these three has been written.
    written: usize,
    /// Bytes to be let go once they are.
    consumed: usize,
    /// Nothing more is to be read.
    read_ended: bool,
    done: bool,
    moved: u64,
}

impl Flow {
    /// Begins with a head; what has been read of the body already goes out with it.
    pub(super) fn begin(
        head: Vec<u8>,
        reader: BodyReader,
        encoding: Encoding,
        inbound: &mut Inbound,
    ) -> Result<Self, Fault> {
        let read_ended = reader.is_ended();
        let mut flow = Self {
            reader,
            encoding,
            before: head,
            data: 0..0,
            after: Vec::new(),
            written: 0,
            consumed: 0,
            read_ended,
            done: false,
            moved: 0,
        };
        if !read_ended && !inbound.is_empty() {
            flow.decode(inbound)?;
        }
        Ok(flow)
    }

    /// Whether all of it has been written.
    pub(super) const fn is_done(&self) -> bool {
        self.done
    }

    /// Whether something waits for the receiver to take it, or is encrypted and not written.
    pub(super) const fn is_writing(&self) -> bool {
        self.before.len() + (self.data.end - self.data.start) + self.after.len() > 0
    }

    /// Bytes written so far.
    pub(super) const fn moved(&self) -> u64 {
        self.moved
    }

    /// Moves what can be moved now; `Ready` is the end.
    pub(super) fn poll(
        &mut self,
        context: &Context<'_>,
        inbound: &mut Inbound,
        from: &Transport,
        to: &Transport,
    ) -> Poll<Result<(), Broken>> {
        for _ in 0..BUFFERS_PER_TURN {
            ready!(self.poll_write(context, inbound, to))?;
            if self.read_ended {
                self.done = true;
                return Poll::Ready(Ok(()));
            }
            if inbound.is_empty() {
                match ready!(inbound.poll_fill(context, from)) {
                    Ok(0) => {
                        self.reader.end_of_input().map_err(|_| Broken::From)?;
                        self.read_ended = true;
                        if self.encoding == Encoding::Chunked {
                            pass_on::last_chunk(&[], &mut self.after);
                        }
                        continue;
                    }
                    Ok(_) => {}
                    Err(_) => return Poll::Ready(Err(Broken::From)),
                }
            }
            self.decode(inbound).map_err(Broken::Fault)?;
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Finds what of the bytes read is data, and puts around it what the receiver needs.
    fn decode(&mut self, inbound: &mut Inbound) -> Result<(), Fault> {
        let decoded = self.reader.read(inbound.bytes_mut())?;
        self.data = decoded.data;
        self.consumed = decoded.consumed;
        self.read_ended = decoded.ended;
        if self.encoding == Encoding::Plain {
            return Ok(());
        }
        if !self.data.is_empty() {
            self.before.extend_from_slice(format!("{:x}\r\n", self.data.len()).as_bytes());
            self.after.extend_from_slice(b"\r\n");
        }
        if self.read_ended {
            self.reader.write_last_chunk(&mut self.after)?;
        }
        Ok(())
    }

    /// Writes all that is to be written, and lets it go.
    fn poll_write(
        &mut self,
        context: &Context<'_>,
        inbound: &mut Inbound,
        to: &Transport,
    ) -> Poll<Result<(), Broken>> {
        loop {
            let data = &inbound.bytes()[self.data.clone()];
            let total = self.before.len() + data.len() + self.after.len();
            if self.written == total {
                // What is encrypted may be less far.
                if ready!(to.poll_flush(context)).is_err() {
                    return Poll::Ready(Err(Broken::To));
                }
                inbound.consume(self.consumed);
                self.let_go();
                return Poll::Ready(Ok(()));
            }
            ready!(to.poll_writable(context));
            match write(to, [&self.before, data, &self.after], self.written) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return Poll::Ready(Err(Broken::To)),
                Ok(count) => {
                    self.written += count;
                    self.moved += count as u64;
                }
            }
        }
    }

    fn let_go(&mut self) {
        self.before.clear();
        self.after.clear();
        (self.data, self.written, self.consumed) = (0..0, 0, 0);
    }
}

/// Writes pieces one behind the other, without the first `skip` bytes.
fn write(to: &Transport, pieces: [&[u8]; 3], mut skip: usize) -> io::Result<usize> {
    let mut rest = [&[][..]; 3];
    let mut count = 0;
    for piece in pieces {
        let skipped = skip.min(piece.len());
        skip -= skipped;
        if skipped < piece.len() {
            rest[count] = &piece[skipped..];
            count += 1;
        }
    }
    to.try_write(&rest[..count])
}
