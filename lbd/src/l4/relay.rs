//! Moves the bytes of one connection, both ways, until both ends have finished.
//!
//! - Back-pressure: a direction holds at most one buffer or one pipe; while it cannot be written, nothing more is read, and
//!   TCP slows the sender down. A direction with nothing under way holds neither.
//! - Half-close: the end of one direction is passed on once everything before it has been written; the other goes on.
//! - Reset: an error of one socket closes the other with a reset.
//! - Bulk: a direction whose reads are large stays in the kernel (`splice`) until they are small again, or for good where
//!   the kernel cannot do that.

use std::future::Future;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use common::config::Timeouts;
use socket2::SockRef;

use super::buffers::{BUFFER_BYTES, Buffer, BufferPool};
use super::connections::Control;
use super::loss::Loss;
use super::socket::Socket;
use super::splice::{self, Bulkiness, Pipe};
use super::{End, keep_alive, reset_on_close};
use crate::counters::{Counter, ServiceCounters, TargetCounters};
use crate::executor::Ready;
use crate::worker::Worker;

/// After so many buffers in one direction the worker's other connections get their turn.
const BUFFERS_PER_TURN: usize = 4;

/// A connection under way.
pub(crate) struct Relay<'a> {
    client: Socket,
    target: Socket,
    to_target: Flow<'a>,
    to_client: Flow<'a>,
    worker: &'a Worker,
    timeouts: &'a Timeouts,
    control: &'a Control,
}

/// One direction.
struct Flow<'a> {
    held: Held,
    bulk: Bulkiness,
    /// The kernel cannot splice here.
    copy_only: bool,
    /// Everything has been read.
    read_ended: bool,
    /// Everything has been written, and the end passed on.
    done: bool,
    pool: &'a Rc<BufferPool>,
    /// All bytes written, for the service and for the target; and those of them that were spliced.
    counters: [&'a Counter; 3],
    /// The same of this connection alone.
    moved: u64,
}

/// What has been read and not yet written.
enum Held {
    Nothing,
    Bytes(Bytes),
    Pipe(Pipe),
}

/// `start..end` of a buffer, not empty.
#[derive(Debug)]
struct Bytes {
    buffer: Buffer,
    start: usize,
    end: usize,
}

/// Which socket of a flow failed, and how.
enum Failed {
    Reader(Loss),
    Writer(Loss),
}

impl<'a> Relay<'a> {
    pub(crate) fn new(
        client: Socket,
        target: Socket,
        worker: &'a Worker,
        timeouts: &'a Timeouts,
        service: &'a ServiceCounters,
        at_target: &'a TargetCounters,
        control: &'a Control,
    ) -> Self {
        Self {
            client,
            target,
            to_target: Flow::new(
                &worker.buffers,
                [&service.bytes_to_target, &at_target.bytes_to_target, &service.bytes_spliced],
            ),
            to_client: Flow::new(
                &worker.buffers,
                [&service.bytes_to_client, &at_target.bytes_to_client, &service.bytes_spliced],
            ),
            worker,
            timeouts,
            control,
        }
    }

    /// Counts bytes that were written to the target, and to the client, before it began.
    pub(crate) fn count_earlier(&mut self, [to_target, to_client]: [u64; 2]) {
        self.to_target.count(to_target);
        self.to_client.count(to_client);
    }

    /// Bytes written to the target, and to the client.
    pub(crate) const fn moved(&self) -> [u64; 2] {
        [self.to_target.moved, self.to_client.moved]
    }

    /// Has the kernel find out when a silent target is gone. The client's socket has this from its listener.
    fn keep_target_alive(&self) {
        if let Err(error) = keep_alive(&SockRef::from(&self.target), self.timeouts) {
            tracing::debug!(%error, "cannot set the keep-alive of a connection to a target");
        }
    }

    /// Ends the connection in a way that neither side can take for a proper end.
    fn abort(&self, end: End) -> End {
        reset_on_close(SockRef::from(&self.client));
        reset_on_close(SockRef::from(&self.target));
        end
    }

    /// Finds a reset of a socket that is not being read. One that is being read tells it after what came before it.
    fn find_reset(&self) -> Option<End> {
        if self.client.is(Ready::FAILED) && !self.to_target.reads() {
            Some(Loss::of(&self.client).of_client())
        } else if self.target.is(Ready::FAILED) && !self.to_client.reads() {
            Some(Loss::of(&self.target).of_target())
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
        if this.control.take_silence() {
            this.keep_target_alive();
        }
        if let Some(end) = this.find_reset() {
            return Poll::Ready(this.abort(end));
        }
        let mut moved = false;
        if !this.to_target.done {
            let last = this.to_client.done;
            match this.to_target.poll(context, &this.client, &this.target, last, &mut moved) {
                Poll::Ready(Err(Failed::Reader(loss))) => return Poll::Ready(this.abort(loss.of_client())),
                Poll::Ready(Err(Failed::Writer(loss))) => return Poll::Ready(this.abort(loss.of_target())),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        if !this.to_client.done {
            let last = this.to_target.done;
            let mut answered = false;
            let polled = this.to_client.poll(context, &this.target, &this.client, last, &mut answered);
            if answered {
                this.control.set_answered();
                moved = true;
            }
            match polled {
                Poll::Ready(Err(Failed::Reader(loss))) => return Poll::Ready(this.abort(loss.of_target())),
                Poll::Ready(Err(Failed::Writer(loss))) => return Poll::Ready(this.abort(loss.of_client())),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        if this.to_target.done && this.to_client.done {
            return Poll::Ready(End::Done);
        }
        if moved {
            this.control.touch(this.worker.connections.now_ms());
        }
        this.control.register(context.waker());
        // Also of what neither direction waits for now: a reset of a socket that is not being read.
        this.client.watch(context);
        this.target.watch(context);
        Poll::Pending
    }
}

impl<'a> Flow<'a> {
    fn new(pool: &'a Rc<BufferPool>, counters: [&'a Counter; 3]) -> Self {
        let bulk = Bulkiness::default();
        Self {
            held: Held::Nothing,
            bulk,
            copy_only: false,
            read_ended: false,
            done: false,
            pool,
            counters,
            moved: 0,
        }
    }

    /// Whether it waits for something to read.
    const fn reads(&self) -> bool {
        !self.read_ended && matches!(self.held, Held::Nothing)
    }

    /// Moves what can be moved now. `last` says that the other direction is done, so that closing the sockets passes the
    /// end on and no call for it is needed.
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        from: &Socket,
        to: &Socket,
        last: bool,
        moved: &mut bool,
    ) -> Poll<Result<(), Failed>> {
        for _ in 0..BUFFERS_PER_TURN {
            ready!(self.poll_write_out(context, to, moved))?;
            if self.read_ended {
                self.done = true;
                // It fails only if the other end is gone, which the other direction will see.
                let passed_on = last || SockRef::from(to).shutdown(Shutdown::Write).is_ok();
                return Poll::Ready(if passed_on { Ok(()) } else { Err(Failed::Writer(Loss::of(to))) });
            }
            ready!(self.poll_fill(context, from))?;
            *moved = true;
            if matches!(self.held, Held::Pipe(_)) {
                // Written at the next turn. While the other connections have theirs more comes in, and goes in fewer calls:
                // measured, that takes a tenth off the processor time of a gigabyte.
                break;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes all that is held, and lets the buffer or pipe go.
    fn poll_write_out(
        &mut self,
        context: &mut Context<'_>,
        to: &Socket,
        moved: &mut bool,
    ) -> Poll<Result<(), Failed>> {
        loop {
            let written = match &mut self.held {
                Held::Nothing => return Poll::Ready(Ok(())),
                Held::Bytes(held) => {
                    ready!(to.poll(context, Ready::WRITABLE));
                    // If the end is known already, it follows at once.
                    to.try_write(&held.buffer.bytes()[held.start..held.end], self.read_ended)
                }
                Held::Pipe(pipe) => {
                    ready!(to.poll(context, Ready::WRITABLE));
                    to.attempt(Ready::WRITABLE, |to| pipe.drain(to))
                }
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Ok(0) => return Poll::Ready(Err(Failed::Writer(Loss::Reset))),
                Err(error) => return Poll::Ready(Err(Failed::Writer(Loss::from_error(&error)))),
                Ok(count) => self.written(count),
            }
            *moved = true;
        }
    }

    /// Counts bytes that were written, however they were.
    fn count(&mut self, bytes: u64) {
        let [service, target, _] = self.counters;
        self.moved += bytes;
        service.add(bytes);
        target.add(bytes);
    }

    /// Accounts for bytes that were written, and lets the buffer or pipe go when it is empty.
    fn written(&mut self, count: usize) {
        self.count(count as u64);
        let [_, _, spliced] = self.counters;
        let empty = match &mut self.held {
            Held::Nothing => return,
            Held::Bytes(held) => {
                held.start += count;
                held.start == held.end
            }
            Held::Pipe(pipe) => {
                spliced.add(count as u64);
                pipe.is_empty()
            }
        };
        if empty {
            self.held = Held::Nothing;
        }
    }

    /// Reads once; a buffer or pipe is held only if something came.
    fn poll_fill(&mut self, context: &Context<'_>, from: &Socket) -> Poll<Result<(), Failed>> {
        loop {
            ready!(from.poll(context, Ready::READABLE));
            // The kernel does not splice past urgent data, nor say that it is there.
            self.copy_only |= from.is(Ready::URGENT);
            let splices = self.bulk.is_bulky() && !self.copy_only;
            let filled = match splices.then(|| self.pool.pipes().take()).flatten() {
                Some(pipe) => self.fill_pipe(pipe, from),
                None => self.fill_buffer(from),
            };
            match filled {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if splices && splice::is_impossible(&error) => self.copy_only = true,
                Err(error) => return Poll::Ready(Err(Failed::Reader(Loss::from_error(&error)))),
            }
        }
    }

    fn fill_pipe(&mut self, mut pipe: Pipe, from: &Socket) -> io::Result<()> {
        let count = from.attempt(Ready::READABLE, |from| pipe.fill(from))?;
        if count == 0 {
            // Splicing also takes urgent data that has just come for the end; a read does not.
            return self.fill_buffer(from);
        }
        self.bulk.read(count);
        self.held = Held::Pipe(pipe);
        Ok(())
    }

    fn fill_buffer(&mut self, from: &Socket) -> io::Result<()> {
        let mut buffer = self.pool.take();
        // Known before the read, which then takes all there is and will ever be, if it is less than there is room for: no
        // other read is needed to find the end, and it can be passed on in one packet with what came before it. A read stops
        // at urgent data, though, and what a reset is must be told by the next one.
        let ends = from.is(Ready::ENDED) && !from.is(Ready::FAILED.and(Ready::URGENT));
        let end = from.try_read(buffer.bytes_mut())?;
        self.bulk.read(end);
        self.read_ended = end == 0 || (ends && end < BUFFER_BYTES);
        if end > 0 {
            self.held = Held::Bytes(Bytes { buffer, start: 0, end });
        }
        Ok(())
    }
}
