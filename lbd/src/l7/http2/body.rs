//! What comes in on a stream behind its head.

use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::RecvStream;
use http::HeaderMap;

/// A body under way. What has been taken of it is what the sender may send more of.
#[derive(Debug)]
pub(in crate::l7) struct Incoming {
    stream: RecvStream,
    /// What has come and was not taken yet: one frame at most.
    held: Bytes,
    /// What is missing, if the length was said.
    left: Option<u64>,
    ended: bool,
    trailers: Option<HeaderMap>,
    drops_trailers: bool,
}

impl Incoming {
    /// A body of this length, if one was said.
    pub(in crate::l7) fn new(stream: RecvStream, length: Option<u64>) -> Self {
        let ended = stream.is_end_stream();
        Self { stream, held: Bytes::new(), left: length, ended, trailers: None, drops_trailers: false }
    }

    /// Whether all of it is here.
    pub(in crate::l7) const fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether there is something to take, if only the end.
    pub(in crate::l7) fn has_something(&self) -> bool {
        self.ended || !self.held.is_empty()
    }

    /// What can be taken.
    pub(in crate::l7) fn bytes(&self) -> &[u8] {
        &self.held
    }

    /// Waits until something can be taken, or the end is here.
    ///
    /// # Errors
    /// The stream was reset, or is not as long as was said.
    pub(in crate::l7) fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        while !self.has_something() {
            match ready!(self.stream.poll_data(context)) {
                Some(Ok(bytes)) => self.came(bytes)?,
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => {
                    self.trailers = ready!(self.stream.poll_trailers(context))?;
                    self.end()?;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn came(&mut self, bytes: Bytes) -> Result<(), h2::Error> {
        if let Some(left) = &mut self.left {
            // The decoder refuses it, too. What would come of it in HTTP/1 is another request.
            *left = left.checked_sub(bytes.len() as u64).ok_or(h2::Reason::PROTOCOL_ERROR)?;
        }
        self.held = bytes;
        if self.stream.is_end_stream() {
            self.end()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), h2::Error> {
        if self.left.is_some_and(|left| left > 0) {
            return Err(h2::Reason::PROTOCOL_ERROR.into());
        }
        self.ended = true;
        Ok(())
    }

    /// Takes so many bytes out.
    pub(in crate::l7) fn take(&mut self, count: usize) -> Bytes {
        let taken = self.held.split_to(count);
        self.release(count);
        taken
    }

    /// So many bytes have been passed on.
    pub(in crate::l7) fn consume(&mut self, count: usize) {
        self.held.advance(count);
        self.release(count);
    }

    fn release(&mut self, count: usize) {
        // Of a stream that is over there is nothing to release.
        drop(self.stream.flow_control().release_capacity(count));
    }

    /// What came behind it, unless it is to stay here.
    pub(in crate::l7) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take().filter(|_| !self.drops_trailers)
    }

    /// Has that stay here: its receiver is told things in fields that nobody else is to tell it.
    pub(in crate::l7) const fn drop_trailers(&mut self) {
        self.drops_trailers = true;
    }
}
