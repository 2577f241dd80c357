//! Moves the bytes of one connection, both ways, until both ends have finished.
//!
//! - Back-pressure: a direction holds at most one buffer; while it cannot be written, nothing more is read, and TCP slows
//!   the sender down. A direction with nothing under way holds no buffer at all.
//! - Half-close: the end of one direction is passed on once everything before it has been written; the other goes on.
//! - Reset: an error of one socket closes the other with a reset.

use std::future::Future;
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::buffers::{Buffer, BufferPool};
use super::connections::Control;
use super::{End, reset_on_close};
use crate::counters::{Counter, ServiceCounters};
use crate::worker::Worker;

/// After so many buffers in one direction the worker's other connections get their turn.
const BUFFERS_PER_TURN: usize = 4;

/// A connection under way.
pub(super) struct Relay<'a> {
    client: TcpStream,
    target: TcpStream,
    to_target: Flow<'a>,
    to_client: Flow<'a>,
    worker: &'a Worker,
    control: &'a Control,
}

/// One direction.
struct Flow<'a> {
    /// Holds `start..end`, the bytes read and not yet written.
    buffer: Option<Buffer>,
    start: usize,
    end: usize,
    /// Everything has been read.
    read_ended: bool,
    /// Everything has been written, and the end passed on.
    done: bool,
    pool: &'a Rc<BufferPool>,
    bytes: &'a Counter,
}

/// Which socket of a flow failed.
enum Failed {
    Reader,
    Writer,
}

impl<'a> Relay<'a> {
    pub(super) fn new(
        client: TcpStream,
        target: TcpStream,
        worker: &'a Worker,
        counters: &'a ServiceCounters,
        control: &'a Control,
    ) -> Self {
        let flow = |bytes| Flow {
            buffer: None,
            start: 0,
            end: 0,
            read_ended: false,
            done: false,
            pool: &worker.buffers,
            bytes,
        };
        Self {
            client,
            target,
            to_target: flow(&counters.bytes_to_target),
            to_client: flow(&counters.bytes_to_client),
            worker,
            control,
        }
    }

    /// Ends the connection in a way that neither side can take for a proper end.
    fn abort(&self, end: End) -> End {
        reset_on_close(SockRef::from(&self.client));
        reset_on_close(SockRef::from(&self.target));
        end
    }

    /// Finds a reset of a socket that is not being read.
    fn find_reset(&self) -> Option<End> {
        let failed = |socket: &TcpStream| !matches!(socket.take_error(), Ok(None));
        if failed(&self.client) {
            Some(End::ClientReset)
        } else if failed(&self.target) {
            Some(End::TargetReset)
        } else {
            None
        }
    }
}

impl Future for Relay<'_> {
    type Output = End;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<End> {
        let this = &mut *self;
        if let Some(end) = this.control.verdict() {
            return Poll::Ready(this.abort(end));
        }
        if this.control.take_look()
            && let Some(end) = this.find_reset()
        {
            return Poll::Ready(this.abort(end));
        }
        let mut moved = false;
        if !this.to_target.done {
            let last = this.to_client.done;
            match this.to_target.poll(context, &mut this.client, &mut this.target, last, &mut moved) {
                Poll::Ready(Err(Failed::Reader)) => return Poll::Ready(this.abort(End::ClientReset)),
                Poll::Ready(Err(Failed::Writer)) => return Poll::Ready(this.abort(End::TargetReset)),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        if !this.to_client.done {
            let last = this.to_target.done;
            match this.to_client.poll(context, &mut this.target, &mut this.client, last, &mut moved) {
                Poll::Ready(Err(Failed::Reader)) => return Poll::Ready(this.abort(End::TargetReset)),
                Poll::Ready(Err(Failed::Writer)) => return Poll::Ready(this.abort(End::ClientReset)),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        if this.to_target.done && this.to_client.done {
            return Poll::Ready(End::Done);
        }
        if moved {
            this.control.touch(this.worker.connections.now_ms());
        }
        this.control.set_unread(!this.to_target.reads() || !this.to_client.reads());
        this.control.register(context.waker());
        Poll::Pending
    }
}

impl Flow<'_> {
    /// Whether it waits for something to read.
    const fn reads(&self) -> bool {
        !self.read_ended && self.start == self.end
    }

    /// Moves what can be moved now. `last` says that the other direction is done, so that closing the sockets passes the
    /// end on and no call for it is needed.
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
        last: bool,
        moved: &mut bool,
    ) -> Poll<Result<(), Failed>> {
        for _ in 0..BUFFERS_PER_TURN {
            ready!(self.poll_write_out(context, to, moved))?;
            if self.read_ended {
                self.done = true;
                // It fails only if the other end is gone, which the other direction will see.
                let passed_on = last || SockRef::from(&*to).shutdown(Shutdown::Write).is_ok();
                return Poll::Ready(if passed_on { Ok(()) } else { Err(Failed::Writer) });
            }
            ready!(self.poll_fill(context, from))?;
            *moved = true;
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes all that the buffer holds, and lets it go.
    fn poll_write_out(
        &mut self,
        context: &mut Context<'_>,
        to: &mut TcpStream,
        moved: &mut bool,
    ) -> Poll<Result<(), Failed>> {
        while let Some(buffer) = self.buffer.as_ref().filter(|_| self.start < self.end) {
            let bytes = &buffer.bytes()[self.start..self.end];
            match ready!(Pin::new(&mut *to).poll_write(context, bytes)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(Failed::Writer)),
                Ok(count) => {
                    self.start += count;
                    self.bytes.add(count as u64);
                    *moved = true;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once, into a buffer that is held only if something came.
    fn poll_fill(&mut self, context: &mut Context<'_>, from: &mut TcpStream) -> Poll<Result<(), Failed>> {
        let ready = from.poll_read_ready(context);
        if ready.is_pending() {
            self.buffer = None;
            return Poll::Pending;
        }
        let buffer = self.buffer.get_or_insert_with(|| self.pool.take());
        let mut read = ReadBuf::new(buffer.bytes_mut());
        let result = Pin::new(from).poll_read(context, &mut read);
        (self.start, self.end) = (0, read.filled().len());
        if self.end == 0 {
            self.buffer = None;
        }
        if ready!(result).is_err() {
            return Poll::Ready(Err(Failed::Reader));
        }
        self.read_ended = self.end == 0;
        Poll::Ready(Ok(()))
    }
}
