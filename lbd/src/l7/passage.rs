//! A tunnel of which an end is encrypted: what [`crate::l4::Relay`] does, without its shortcuts through the kernel.

use std::io;
use std::task::{Context, Poll, ready};

use common::config::Timeouts;
use socket2::SockRef;

use super::stream::{Inbound, Stream};
use super::transport::Transport;
use crate::counters::{Counter, ServiceCounters, TargetCounters};
use crate::executor::Ready;
use crate::l4::{Control, End, Loss, keep_alive, reset_on_close};
use crate::worker::Worker;

/// After so many buffers in one direction the worker's other connections get their turn.
const BUFFERS_PER_TURN: usize = 4;

/// A tunnel under way.
pub(super) struct Passage<'p> {
    client: Transport,
    target: Transport,
    to_target: Direction<'p>,
    to_client: Direction<'p>,
    worker: &'p Worker,
    timeouts: &'p Timeouts,
    control: &'p Control,
}

/// One direction: it holds what was read and not written, at most a buffer.
struct Direction<'p> {
    inbound: Inbound,
    /// All has been read.
    read_ended: bool,
    /// All has been written, and the end passed on.
    done: bool,
    counters: [&'p Counter; 2],
    /// Bytes written.
    moved: u64,
}

/// Which end of a direction failed, and how.
enum Failed {
    Reader(Loss),
    Writer(Loss),
}

impl<'p> Passage<'p> {
    /// Between two streams; what has been read of either goes first.
    pub(super) fn new(
        client: Stream,
        target: Stream,
        worker: &'p Worker,
        timeouts: &'p Timeouts,
        service: &'p ServiceCounters,
        at_target: &'p TargetCounters,
        control: &'p Control,
    ) -> Self {
        let to_target = [&service.bytes_to_target, &at_target.bytes_to_target];
        let to_client = [&service.bytes_to_client, &at_target.bytes_to_client];
        Self {
            to_target: Direction::new(client.inbound, to_target),
            to_client: Direction::new(target.inbound, to_client),
            client: client.transport,
            target: target.transport,
            worker,
            timeouts,
            control,
        }
    }

    /// Bytes written to the target, and to the client.
    pub(super) const fn moved(&self) -> [u64; 2] {
        [self.to_target.moved, self.to_client.moved]
    }

    /// Ends the connection in a way that neither side can take for a proper end.
    fn abort(&self, end: End) -> End {
        reset_on_close(SockRef::from(self.client.socket()));
        reset_on_close(SockRef::from(self.target.socket()));
        end
    }

    /// Moves what can be moved now; `Ready` is the end.
    pub(super) fn poll(&mut self, context: &Context<'_>) -> Poll<End> {
        if let Some(end) = self.control.verdict() {
            return Poll::Ready(self.abort(end));
        }
        if self.control.take_silence()
            && let Err(error) = keep_alive(&SockRef::from(self.target.socket()), self.timeouts)
        {
            tracing::debug!(%error, "cannot set the keep-alive of a connection to a target");
        }
        // One that is read tells of it by itself, behind what came before.
        if self.client.socket().is(Ready::FAILED) && !self.to_target.reads(&self.target) {
            return Poll::Ready(self.abort(Loss::of(self.client.socket()).of_client()));
        }
        if self.target.socket().is(Ready::FAILED) && !self.to_client.reads(&self.client) {
            return Poll::Ready(self.abort(Loss::of(self.target.socket()).of_target()));
        }
        let flushed_before = self.client.flushed() + self.target.flushed();
        let (mut moved, mut answered) = (false, false);
        match self.to_target.poll(context, &self.client, &self.target, &mut moved) {
            Poll::Ready(Err(Failed::Reader(loss))) => return Poll::Ready(self.abort(loss.of_client())),
            Poll::Ready(Err(Failed::Writer(loss))) => return Poll::Ready(self.abort(loss.of_target())),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        match self.to_client.poll(context, &self.target, &self.client, &mut answered) {
            Poll::Ready(Err(Failed::Reader(loss))) => return Poll::Ready(self.abort(loss.of_target())),
            Poll::Ready(Err(Failed::Writer(loss))) => return Poll::Ready(self.abort(loss.of_client())),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        if answered {
            self.control.set_answered();
        }
        if self.to_target.done && self.to_client.done {
            return Poll::Ready(End::Done);
        }
        if moved || answered || self.client.flushed() + self.target.flushed() != flushed_before {
            self.control.touch(self.worker.connections.now_ms());
        }
        self.control.register(context.waker());
        self.client.socket().watch(context);
        self.target.socket().watch(context);
        Poll::Pending
    }
}

impl<'p> Direction<'p> {
    fn new(inbound: Inbound, counters: [&'p Counter; 2]) -> Self {
        Self { inbound, read_ended: false, done: false, counters, moved: 0 }
    }

    /// Whether it waits for something to read.
    fn reads(&self, to: &Transport) -> bool {
        !self.read_ended && self.inbound.is_empty() && !to.has_unsent()
    }

    fn poll(
        &mut self,
        context: &Context<'_>,
        from: &Transport,
        to: &Transport,
        moved: &mut bool,
    ) -> Poll<Result<(), Failed>> {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..BUFFERS_PER_TURN {
            ready!(self.poll_write(context, to, moved))?;
            if self.read_ended {
                if let Err(error) = ready!(to.poll_finish(context)) {
                    return Poll::Ready(Err(Failed::Writer(Loss::from_error(&error))));
                }
                self.done = true;
                return Poll::Ready(Ok(()));
            }
            match ready!(self.inbound.poll_fill(context, from)) {
                Ok(count) => {
                    self.read_ended = count == 0;
                    *moved = true;
                }
                // An end that was not said is one, too.
                Err(error) => return Poll::Ready(Err(Failed::Reader(Loss::from_error(&error)))),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_write(
        &mut self,
        context: &Context<'_>,
        to: &Transport,
        moved: &mut bool,
    ) -> Poll<Result<(), Failed>> {
        while !self.inbound.is_empty() {
            ready!(to.poll_writable(context));
            match to.try_write(&[self.inbound.bytes()]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) => return Poll::Ready(Err(Failed::Writer(Loss::Reset))),
                Err(error) => return Poll::Ready(Err(Failed::Writer(Loss::from_error(&error)))),
                Ok(count) => {
                    self.inbound.consume(count);
                    self.moved += count as u64;
                    self.counters.iter().for_each(|counter| counter.add(count as u64));
                    *moved = true;
                }
            }
        }
        match ready!(to.poll_flush(context)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(Failed::Writer(Loss::from_error(&error)))),
        }
    }
}
