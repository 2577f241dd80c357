//! A session: one connection of the two nodes that both agreed on, as the driver sees it and as the thread serves it.
//!
//! Memory for each session is bounded: two queues of [`QUEUE_BYTES_MAX`], one batch being written, one incomplete frame with a chunk being
//! read, and TLS's own buffers of 64 KiB. A peer that does not read fills the kernel's buffers, then the queue, and then
//! [`Session::send`] says so; a driver that does not take leaves the rest with the peer.

use std::future::pending;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use super::frame::{BadFrame, Decoder, HEAD_BYTES, MESSAGE_BYTES_MAX};
use super::queue::{Level, Queue, Refused};
use super::stats::Stats;

/// What each direction's queue holds, in bytes.
pub(crate) const QUEUE_BYTES_MAX: usize = 1024 * 1024;

/// Queued messages are written together up to about so many bytes: four records of TLS.
const BATCH_BYTES: usize = 64 * 1024;

/// How long saying goodbye may take.
const FAREWELL_MAX: Duration = Duration::from_millis(100);

/// The driver's end of a session. Dropping it ends the session; what is queued is then not sent any more.
#[derive(Debug)]
pub(crate) struct Session {
    pipes: Arc<Pipes>,
}

/// Why a message was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SendError {
    /// The queue is full; the message comes back. [`Session::room`] says when to try again.
    Full(Vec<u8>),
    /// The session is over.
    Ended,
    /// It is empty or longer than a frame may be, in bytes.
    Length(usize),
}

impl Session {
    pub(super) fn new(pipes: Arc<Pipes>) -> Self {
        Self { pipes }
    }

    /// Queues a message of 1 to [`MESSAGE_BYTES_MAX`] bytes; never waits. Messages arrive whole and in order, or the session ends.
    pub(crate) fn send(&self, message: Vec<u8>) -> Result<(), SendError> {
        if message.is_empty() || message.len() > MESSAGE_BYTES_MAX {
            return Err(SendError::Length(message.len()));
        }
        self.pipes.outgoing.push(message).map_err(|refused| match refused {
            Refused::Full(message) => SendError::Full(message),
            Refused::Closed(_) => SendError::Ended,
        })
    }

    /// Waits until half of the queue is free, or the session is over. For one task at a time; may be cancelled.
    pub(crate) async fn room(&self) {
        self.pipes.outgoing.room().await;
    }

    /// The next message of the peer; none once the session is over and all that had come is taken. For one task at a time; may be
    /// cancelled.
    pub(crate) async fn receive(&self) -> Option<Vec<u8>> {
        self.pipes.incoming.next().await
    }

    /// How it ended, if it has.
    pub(crate) fn end(&self) -> Option<End> {
        self.pipes.end.get().copied()
    }

    /// Whether it has ended because the peer's process is gone, as its host says: not for a link that is cut, and not for a process that
    /// lives, which closes it in order, as one does that ends in order, after its last word.
    pub(crate) fn is_peer_gone(&self) -> bool {
        matches!(self.end(), Some(End::Cut | End::Truncated))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.pipes.close(End::Dropped);
        // Nobody will take them.
        self.pipes.incoming.clear();
    }
}

common::named! {
    /// How a session ended.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum End {
        /// The peer closed it in order.
        Closed => "closed",
        /// The connection broke.
        Cut => "cut",
        /// The peer's host acknowledged nothing for too long, or has had no room for anything: the kernel does not say which.
        Silent => "silent",
        /// It ended within a frame.
        Truncated => "truncated",
        /// A frame longer than allowed was announced.
        Oversized => "oversized",
        /// A frame without a message.
        Empty => "empty",
        /// Bytes that TLS does not accept.
        Damaged => "damaged",
        /// The peer took so little that for too long nothing could be written.
        Stalled => "stalled",
        /// A newer connection took its place.
        Replaced => "replaced",
        /// The driver here ended it.
        Dropped => "dropped",
        /// The link stopped.
        Stopped => "stopped",
    }
}

impl End {
    /// For operators.
    pub(crate) const fn describe(self) -> &'static str {
        match self {
            Self::Closed => "the other node closed it",
            Self::Cut => "the connection broke; see whether the other node's lbd runs",
            Self::Silent => {
                "the other node's host is silent, or its lbd takes nothing; check both and the link between the nodes"
            }
            Self::Truncated => "it broke off within a message; see whether the other node's lbd runs",
            Self::Oversized => "a message was too long; run the same Tandem release on both nodes",
            Self::Empty => "a message was empty; run the same Tandem release on both nodes",
            Self::Damaged => "what came was damaged or forged; check the link between the nodes",
            Self::Stalled => {
                "the other node takes nothing, or hardly anything; see whether its lbd hangs or its host is overloaded"
            }
            Self::Replaced => "a newer connection took its place",
            Self::Dropped => "this node's replication ended it",
            Self::Stopped => "the link was stopped",
        }
    }

    /// Whether operators should know.
    pub(super) const fn is_trouble(self) -> bool {
        !matches!(self, Self::Replaced | Self::Dropped | Self::Stopped)
    }

    fn of(error: &io::Error, between_frames: bool) -> Self {
        if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
            return Self::Damaged;
        }
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                Self::Silent
            }
            _ if between_frames => Self::Cut,
            _ => Self::Truncated,
        }
    }
}

impl From<BadFrame> for End {
    fn from(bad: BadFrame) -> Self {
        match bad {
            BadFrame::Empty => Self::Empty,
            BadFrame::Oversized => Self::Oversized,
        }
    }
}

/// What driver and thread share of a session.
#[derive(Debug)]
pub(crate) struct Pipes {
    outgoing: Queue,
    incoming: Queue,
    end: OnceLock<End>,
    closing: Notify,
}

impl Pipes {
    pub(super) fn new() -> Self {
        Self {
            outgoing: Queue::new(QUEUE_BYTES_MAX),
            incoming: Queue::new(QUEUE_BYTES_MAX),
            end: OnceLock::new(),
            closing: Notify::new(),
        }
    }

    /// Ends the session, if it has not ended; answers how it has.
    pub(super) fn close(&self, end: End) -> End {
        let end = *self.end.get_or_init(|| end);
        self.outgoing.close();
        self.outgoing.clear();
        self.incoming.close();
        self.closing.notify_one();
        end
    }

    /// What waits to be sent.
    pub(super) fn waiting(&self) -> Level {
        self.outgoing.level()
    }

    async fn closed(&self) -> End {
        loop {
            if let Some(end) = self.end.get() {
                return *end;
            }
            self.closing.notified().await;
        }
    }
}

/// Carries messages until the session ends.
pub(super) async fn serve(
    stream: TlsStream<TcpStream>,
    pipes: &Pipes,
    stats: &Stats,
    stall_max: Duration,
) -> End {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let end = tokio::select! {
        end = read(&mut reader, pipes, stats) => end,
        end = write(&mut writer, pipes, stats, stall_max) => end,
        end = pipes.closed() => end,
    };
    let end = pipes.close(end);
    // So that the peer can tell an end from a cut; if it cannot be told, it will see.
    drop(timeout(FAREWELL_MAX, writer.shutdown()).await);
    end
}

async fn read(stream: &mut (impl AsyncRead + Unpin), pipes: &Pipes, stats: &Stats) -> End {
    let mut decoder = Decoder::new();
    loop {
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => {
                    stats.messages_in.add(1);
                    deliver(message, pipes).await;
                }
                Ok(None) => break,
                Err(bad) => return bad.into(),
            }
        }
        match stream.read_buf(&mut decoder.space()).await {
            Ok(0) if decoder.is_between_frames() => return End::Closed,
            Ok(0) => return End::Truncated,
            Ok(length) => stats.bytes_in.add(length as u64),
            Err(error) => return End::of(&error, decoder.is_between_frames()),
        }
    }
}

/// Hands a message to the driver, once it has room for it.
async fn deliver(message: Vec<u8>, pipes: &Pipes) {
    let mut message = message;
    loop {
        message = match pipes.incoming.push(message) {
            Ok(()) => return,
            Err(Refused::Full(message)) => message,
            // Over; whoever closed it ends this too.
            Err(Refused::Closed(_)) => pending().await,
        };
        pipes.incoming.room().await;
    }
}

async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    pipes: &Pipes,
    stats: &Stats,
    stall_max: Duration,
) -> End {
    let mut batch = Vec::with_capacity(BATCH_BYTES + HEAD_BYTES + MESSAGE_BYTES_MAX);
    loop {
        let Some(count) = pipes.outgoing.fill(&mut batch, BATCH_BYTES).await else { pending().await };
        let mut rest = &batch[..];
        while !rest.is_empty() {
            match timeout(stall_max, stream.write(rest)).await {
                Err(_) => return End::Stalled,
                Ok(Err(error)) => return End::of(&error, true),
                Ok(Ok(0)) => return End::Cut,
                Ok(Ok(length)) => {
                    stats.bytes_out.add(length as u64);
                    rest = &rest[length..];
                }
            }
        }
        match timeout(stall_max, stream.flush()).await {
            Err(_) => return End::Stalled,
            Ok(Err(error)) => return End::of(&error, true),
            Ok(Ok(())) => stats.messages_out.add(count as u64),
        }
        batch.clear();
    }
}
