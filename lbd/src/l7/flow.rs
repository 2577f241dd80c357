//! One direction of a message: from its head to the end of its body, and never more of it than a buffer at a time.
//!
//! While the other side takes nothing, nothing more is read, and TCP or the window of the stream slows the sender down. Towards HTTP/1 a
//! head and what is there of the body go out in one call, and so do a chunk's size, its data and its end; a short body as one piece with its
//! head.

use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use common::config::HeaderChanges;
use h2::SendStream;
use h2::server::SendResponse;
use http::HeaderMap;
use lbd_core::http::bounds::Quota;
use lbd_core::http::framing::{BodyReader, Fault, http2_trailers};
use lbd_core::http::pass_on::{self, trailers_without};
use lbd_core::http::short::Short;

use super::http2::{Incoming, Map, fields};
use super::press::Press;
use super::stream::Inbound;
use super::transport::Transport;
use crate::executor::Ready;

/// After so many buffers the worker's other connections get their turn; after one that was compressed, which takes as long as many others.
const BUFFERS_PER_TURN: usize = 4;
const PRESSED_PER_TURN: usize = 1;

/// Data of up to so many bytes is copied behind the head: that costs less than what the kernel has to do more for several pieces.
const JOINED_BYTES_MAX: usize = 1024;

/// How the body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// As it is: its length was said, or the connection's end is its end.
    Plain,
    /// In chunks.
    Chunked,
    /// In frames of HTTP/2.
    Frames,
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

/// Where a direction begins.
pub(super) enum Source<'s> {
    /// A connection of HTTP/1.
    Http1 {
        /// What was read of it.
        inbound: &'s mut Inbound,
        /// The connection.
        transport: &'s Transport,
    },
    /// A stream of HTTP/2.
    Http2(&'s mut Incoming),
    /// A stream that has not begun.
    Nobody,
}

impl Source<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Http1 { inbound, .. } => inbound.bytes(),
            Self::Http2(incoming) => incoming.bytes(),
            Self::Nobody => &[],
        }
    }

    fn consume(&mut self, count: usize) {
        match self {
            Self::Http1 { inbound, .. } => inbound.consume(count),
            Self::Http2(incoming) => incoming.consume(count),
            Self::Nobody => {}
        }
    }

    /// Whether there is something to decode, if only the end.
    fn has_something(&self) -> bool {
        match self {
            Self::Http1 { inbound, .. } => !inbound.is_empty(),
            Self::Http2(incoming) => incoming.has_something(),
            Self::Nobody => false,
        }
    }
}

/// Where it ends.
pub(super) enum Sink<'s> {
    /// A connection of HTTP/1.
    Http1(&'s Transport),
    /// A stream of HTTP/2.
    Http2(&'s mut SendStream<Bytes>),
    /// A client's stream of HTTP/2 before its answer.
    Unanswered(&'s mut SendResponse<Bytes>),
    /// A stream that has not begun.
    Nobody,
}

impl Sink<'_> {
    /// Says that nothing more comes, where the end of a body does not say it.
    pub(super) fn poll_finish(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Http1(transport) => transport.poll_finish(context),
            Self::Http2(_) | Self::Unanswered(_) | Self::Nobody => Poll::Ready(Ok(())),
        }
    }

    /// Counts up whenever something of what was taken to be encrypted has been written later.
    pub(super) fn flushed(&self) -> u64 {
        match self {
            Self::Http1(transport) => transport.flushed(),
            Self::Http2(_) | Self::Unanswered(_) | Self::Nobody => 0,
        }
    }

    /// Whether whoever is there has given up; the task is woken when he does.
    pub(super) fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Http1(transport) if transport.socket().is(Ready::FAILED) => Poll::Ready(()),
            Self::Http1(transport) => {
                transport.socket().watch(context);
                Poll::Pending
            }
            Self::Http2(stream) => stream.poll_reset(context).map(|_| ()),
            Self::Unanswered(respond) => respond.poll_reset(context).map(|_| ()),
            Self::Nobody => Poll::Pending,
        }
    }
}

/// A direction.
#[derive(Debug)]
pub(super) struct Flow<'h> {
    reader: BodyReader,
    encoding: Encoding,
    /// How much of the body may still come.
    quota: Quota,
    /// The fields that do not go on as trailers.
    withheld: Option<Rc<HeaderChanges>>,
    /// What compresses the data, if something does.
    press: Option<Box<Press>>,
    /// What goes out before the data: a head, a chunk's size.
    before: Cow<'h, [u8]>,
    /// The data, as a part of what has been read, or of what has come out of the press.
    data: Range<usize>,
    /// What goes out behind it.
    after: Vec<u8>,
    /// What ends a body in frames, if it is more than the last of them.
    trailers: Option<HeaderMap>,
    /// How much of head, data and what is behind it has been written.
    written: usize,
    /// Bytes to be let go once they are.
    consumed: usize,
    /// Nothing more is to be read.
    read_ended: bool,
    /// The receiver knows the end.
    end_sent: bool,
    begun: bool,
    done: bool,
    moved: u64,
    /// How much of the body has come.
    content: u64,
}

impl<'h> Flow<'h> {
    /// Begins with a head, which is empty towards HTTP/2: there it has been sent, or is to be sent, by itself. What has been read of the
    /// body already goes out with it. Of HTTP/2 `reader` only says whether there is one. Fields that are `withheld` do not go on as trailers.
    pub(super) fn begin(
        head: Cow<'h, [u8]>,
        reader: BodyReader,
        encoding: Encoding,
        withheld: Option<Rc<HeaderChanges>>,
        source: &mut Source<'_>,
    ) -> Result<Self, Fault> {
        Self::pressed(head, reader, encoding, (withheld, None), source)
    }

    /// The same with what compresses the body on its way.
    pub(super) fn pressed(
        head: Cow<'h, [u8]>,
        reader: BodyReader,
        encoding: Encoding,
        (withheld, press): (Option<Rc<HeaderChanges>>, Option<Box<Press>>),
        source: &mut Source<'_>,
    ) -> Result<Self, Fault> {
        let read_ended = reader.is_ended();
        let mut flow = Self {
            reader,
            encoding,
            quota: Quota::new(None),
            withheld,
            press,
            before: head,
            data: 0..0,
            after: Vec::new(),
            trailers: None,
            written: 0,
            consumed: 0,
            read_ended,
            end_sent: false,
            begun: false,
            done: false,
            moved: 0,
            content: 0,
        };
        if !read_ended && source.has_something() {
            flow.decode(source)?;
        }
        Ok(flow)
    }

    /// The same with a bound for the body.
    pub(super) fn bounded(mut self, quota: Quota) -> Result<Self, Fault> {
        self.quota = quota;
        self.quota.take(self.data.len())?;
        Ok(self)
    }

    /// Whether all of it has been written.
    pub(super) const fn is_done(&self) -> bool {
        self.done
    }

    /// Whether nothing follows the head, which is known before that is sent.
    pub(super) fn is_empty(&self) -> bool {
        self.read_ended && self.data.is_empty() && self.trailers.is_none()
    }

    /// A head of about so many bytes was sent to a stream, and its end if nothing follows.
    pub(super) fn head_sent(&mut self, bytes: usize) {
        self.moved += bytes as u64;
        self.end_sent = self.is_empty();
        self.done = self.end_sent;
    }

    /// What was a head only goes on with what follows, until the sender ends it: no body any more, so not bounded as one.
    pub(super) fn go_on(&mut self, reader: BodyReader) {
        self.reader = reader;
        self.quota = Quota::new(None);
        (self.read_ended, self.end_sent, self.done) = (false, false, false);
    }

    /// Whether something waits for the receiver to take it, or is encrypted and not written.
    pub(super) fn is_writing(&self) -> bool {
        self.before.len() + (self.data.end - self.data.start) + self.after.len() > 0
    }

    /// Whether the sender has said that more comes. Of a stream all of it, as long as it has not ended.
    pub(super) fn is_owed(&self) -> bool {
        self.reader.is_owed()
    }

    /// Bytes written so far.
    pub(super) const fn moved(&self) -> u64 {
        self.moved
    }

    /// Bytes of the body that have come so far: without framing, and before they were compressed.
    pub(super) const fn content(&self) -> u64 {
        self.content
    }

    /// Bytes that were compressed so far, and what they have become, if they were.
    pub(super) fn compressed(&self) -> Option<[u64; 2]> {
        self.press.as_ref().map(|press| press.bytes())
    }

    /// Moves what can be moved now; `Ready` is the end.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        source: &mut Source<'_>,
        sink: &mut Sink<'_>,
    ) -> Poll<Result<(), Broken>> {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        if !self.begun {
            self.begun = true;
            self.join_head(context, source)?;
            self.join_data(source);
        }
        let buffers = if self.press.is_some() { PRESSED_PER_TURN } else { BUFFERS_PER_TURN };
        for _ in 0..buffers {
            match sink {
                Sink::Http1(transport) => ready!(self.poll_write(context, source, transport))?,
                Sink::Http2(stream) => ready!(self.poll_send(context, source, stream))?,
                Sink::Unanswered(_) | Sink::Nobody => return Poll::Ready(Err(Broken::To)),
            }
            if self.read_ended {
                self.done = true;
                return Poll::Ready(Ok(()));
            }
            match self.poll_read(context, source) {
                Poll::Ready(read) => read?,
                // What was taken in goes out while the sender pauses.
                Poll::Pending if self.flush() => {}
                Poll::Pending => return Poll::Pending,
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Has what a stream has sent by now go out together with the head.
    fn join_head(&mut self, context: &mut Context<'_>, source: &mut Source<'_>) -> Result<(), Broken> {
        let Source::Http2(incoming) = source else { return Ok(()) };
        if self.read_ended || !self.data.is_empty() {
            return Ok(());
        }
        match incoming.poll_fill(context) {
            Poll::Ready(Ok(())) => self.decode(source).map_err(Broken::Fault),
            Poll::Ready(Err(_)) => Err(Broken::From),
            Poll::Pending => Ok(()),
        }
    }

    /// Puts what is there of the body right behind the head if it is short.
    fn join_data(&mut self, source: &mut Source<'_>) {
        let Source::Http1 { inbound, .. } = source else { return };
        let count = self.data.len() + self.after.len();
        if self.press.is_some() || self.before.is_empty() || !(1..=JOINED_BYTES_MAX).contains(&count) {
            return;
        }
        let mut joined = match std::mem::take(&mut self.before) {
            Cow::Owned(head) => head,
            Cow::Borrowed(head) => {
                let mut copy = Vec::with_capacity(head.len() + count);
                copy.extend_from_slice(head);
                copy
            }
        };
        joined.extend_from_slice(&inbound.bytes()[self.data.clone()]);
        joined.append(&mut self.after);
        self.before = Cow::Owned(joined);
        inbound.consume(self.consumed);
        (self.data, self.consumed) = (0..0, 0);
    }

    /// Reads more.
    fn poll_read(&mut self, context: &mut Context<'_>, source: &mut Source<'_>) -> Poll<Result<(), Broken>> {
        match source {
            Source::Http1 { inbound, transport } if inbound.is_empty() => {
                match ready!(inbound.poll_fill(context, transport)) {
                    Ok(0) => return Poll::Ready(self.end_of_input(source)),
                    Ok(_) => {}
                    Err(_) => return Poll::Ready(Err(Broken::From)),
                }
            }
            Source::Http1 { .. } => {}
            Source::Http2(incoming) => {
                if ready!(incoming.poll_fill(context)).is_err() {
                    return Poll::Ready(Err(Broken::From));
                }
            }
            Source::Nobody => return Poll::Ready(Err(Broken::From)),
        }
        Poll::Ready(self.decode(source).map_err(Broken::Fault))
    }

    /// The connection has ended, and with it a body that ends like this.
    fn end_of_input(&mut self, source: &mut Source<'_>) -> Result<(), Broken> {
        self.reader.end_of_input().map_err(|_| Broken::From)?;
        self.read_ended = true;
        self.compress(source).map_err(Broken::Fault)?;
        if self.encoding == Encoding::Chunked {
            self.frame();
            pass_on::last_chunk(&[], &mut self.after);
        }
        Ok(())
    }

    /// Has what was read go through the press, if there is one, and what comes out of it go on in its place.
    fn compress(&mut self, source: &mut Source<'_>) -> Result<(), Fault> {
        let Some(press) = &mut self.press else { return Ok(()) };
        press.press(&source.bytes()[self.data.clone()], self.read_ended).map_err(|_| Fault::Truncated)?;
        source.consume(std::mem::take(&mut self.consumed));
        self.data = 0..press.out().len();
        Ok(())
    }

    /// Has the press give out what it was given. Answers whether there is anything.
    fn flush(&mut self) -> bool {
        let Some(press) = &mut self.press else { return false };
        // One that is stuck says so with what it is given next.
        if press.flush().is_err() {
            return false;
        }
        self.data = 0..press.out().len();
        if self.encoding == Encoding::Chunked {
            self.frame();
        }
        !self.data.is_empty()
    }

    /// Makes the data a chunk, if there is any.
    fn frame(&mut self) {
        if !self.data.is_empty() {
            let before = self.before.to_mut();
            before.extend_from_slice(Short::hexadecimal(self.data.len() as u64).as_bytes());
            before.extend_from_slice(b"\r\n");
            self.after.extend_from_slice(b"\r\n");
        }
    }

    /// Finds what of the bytes read is data, and puts around it what the receiver needs.
    fn decode(&mut self, source: &mut Source<'_>) -> Result<(), Fault> {
        match source {
            Source::Http1 { inbound, .. } => {
                let decoded = self.reader.read(inbound.bytes_mut())?;
                self.data = decoded.data;
                self.consumed = decoded.consumed;
                self.read_ended = decoded.ended;
            }
            Source::Http2(incoming) => {
                self.data = 0..incoming.bytes().len();
                self.consumed = self.data.end;
                self.read_ended = incoming.is_ended();
            }
            Source::Nobody => {}
        }
        self.content += self.data.len() as u64;
        self.quota.take(self.data.len())?;
        self.compress(source)?;
        if matches!(self.encoding, Encoding::Chunked) {
            self.frame();
        }
        if self.read_ended { self.end(source) } else { Ok(()) }
    }

    /// Takes what stands behind the body, as it goes on.
    fn end(&mut self, source: &mut Source<'_>) -> Result<(), Fault> {
        if matches!(self.encoding, Encoding::Plain) {
            return Ok(());
        }
        let map;
        let came = match source {
            Source::Http1 { .. } => self.reader.trailers()?,
            Source::Http2(incoming) => {
                map = incoming.take_trailers().unwrap_or_default();
                http2_trailers(fields(&map))?
            }
            Source::Nobody => return Ok(()),
        };
        let trailers = trailers_without(came, self.withheld.as_deref());
        if matches!(self.encoding, Encoding::Chunked) {
            pass_on::last_chunk(&trailers, &mut self.after);
        } else {
            let mut map = Map::default();
            pass_on::write_trailers(&trailers, &mut map);
            self.trailers = Some(map.into_inner()).filter(|map| !map.is_empty());
        }
        Ok(())
    }

    /// Writes all that is to be written to a connection, and lets it go.
    fn poll_write(
        &mut self,
        context: &Context<'_>,
        source: &mut Source<'_>,
        to: &Transport,
    ) -> Poll<Result<(), Broken>> {
        loop {
            let data = match &self.press {
                Some(press) => &press.out()[self.data.clone()],
                None => &source.bytes()[self.data.clone()],
            };
            let total = self.before.len() + data.len() + self.after.len();
            if self.written == total {
                // What is encrypted may be less far.
                if ready!(to.poll_flush(context)).is_err() {
                    return Poll::Ready(Err(Broken::To));
                }
                source.consume(self.consumed);
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
        match &mut self.before {
            Cow::Owned(text) => text.clear(),
            Cow::Borrowed(text) => *text = &[],
        }
        self.after.clear();
        if let Some(press) = &mut self.press {
            press.taken();
        }
        (self.data, self.written, self.consumed) = (0..0, 0, 0);
    }

    /// Gives a stream what its windows have room for, until that is all there is; with the last of it the end.
    fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        source: &mut Source<'_>,
        to: &mut SendStream<Bytes>,
    ) -> Poll<Result<(), Broken>> {
        while !self.data.is_empty() {
            let left = self.data.len();
            to.reserve_capacity(left);
            let room = to.capacity().min(left);
            if room == 0 {
                match ready!(to.poll_capacity(context)) {
                    Some(Ok(_)) => continue,
                    None | Some(Err(_)) => return Poll::Ready(Err(Broken::To)),
                }
            }
            let last = self.read_ended && room == left && self.trailers.is_none();
            let bytes = self.take(source, room);
            to.send_data(bytes, last).map_err(|_| Broken::To)?;
            self.moved += room as u64;
            self.end_sent = last;
        }
        if self.read_ended && !self.end_sent {
            let sent = match self.trailers.take() {
                Some(trailers) => to.send_trailers(trailers),
                None => to.send_data(Bytes::new(), true),
            };
            sent.map_err(|_| Broken::To)?;
            self.end_sent = true;
        }
        self.finish_piece(source);
        Poll::Ready(Ok(()))
    }

    /// Takes the first `count` bytes of the data out.
    fn take(&mut self, source: &mut Source<'_>, count: usize) -> Bytes {
        if let Some(press) = &self.press {
            let begin = self.data.start;
            self.data.start += count;
            return Bytes::copy_from_slice(&press.out()[begin..begin + count]);
        }
        match source {
            Source::Http1 { inbound, .. } => {
                let begin = self.data.start;
                self.data.start += count;
                Bytes::copy_from_slice(&inbound.bytes()[begin..begin + count])
            }
            Source::Http2(incoming) => {
                self.data.end -= count;
                self.consumed -= count;
                incoming.take(count)
            }
            Source::Nobody => Bytes::new(),
        }
    }

    fn finish_piece(&mut self, source: &mut Source<'_>) {
        if let Source::Http1 { inbound, .. } = source {
            inbound.consume(self.consumed);
        }
        self.let_go();
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
