//! The HTTP check: one GET over HTTP/1.1 or HTTP/2, and the verdict on what comes back.

use std::fmt::Write as _;

use super::chunked::Decoder;
use super::find::{Pattern, Search};
use super::{Failure, Stage, Verdict};

/// The longest head of an answer, interim answers before it included, in bytes.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// How much of a body is looked at, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

const NOT_HTTP: Failure = Failure::NotProtocol("HTTP/1");

/// The request: one GET after which the connection is closed.
#[must_use]
pub fn request(path: &str, host: &str) -> Vec<u8> {
    let mut text = String::with_capacity(128 + path.len() + host.len());
    // Writing into a String cannot fail.
    let written = write!(
        text,
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: tandem-lbd\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    debug_assert!(written.is_ok());
    text.into_bytes()
}

/// An answer as it comes in.
#[derive(Debug)]
pub struct Answer<'a> {
    expect: &'a [(u16, u16)],
    pattern: Option<&'a Pattern>,
    /// What has been read of the heads; at most [`HEAD_BYTES_MAX`].
    read: Vec<u8>,
    /// Where in it the head that counts begins.
    start: usize,
    /// Up to where its end has been looked for.
    searched: usize,
    /// The body, once the head was accepted and a body is to be searched.
    body: Option<Body<'a>>,
}

/// What the bytes read so far say.
enum Head {
    Incomplete,
    Interim,
    Decided(Verdict),
    /// The head ends here, and this follows it.
    Followed(usize, Framing),
}

impl<'a> Answer<'a> {
    /// Nothing read yet. Accepted are statuses within one of `expect` (both ends included) and, with a `pattern`, a body that has
    /// it within its first [`BODY_BYTES_MAX`] bytes.
    #[must_use]
    pub const fn new(expect: &'a [(u16, u16)], pattern: Option<&'a Pattern>) -> Self {
        Self { expect, pattern, read: Vec::new(), start: 0, searched: 0, body: None }
    }

    /// Takes the next bytes. The verdict, once there is one; nothing is to be pushed after it.
    pub fn push(&mut self, bytes: &[u8]) -> Option<Verdict> {
        if let Some(body) = &mut self.body {
            return body.push(bytes);
        }
        let room = HEAD_BYTES_MAX.saturating_sub(self.read.len());
        let (now, later) = bytes.split_at(room.min(bytes.len()));
        self.read.extend_from_slice(now);
        loop {
            match self.head() {
                Head::Incomplete if self.read.len() < HEAD_BYTES_MAX => return None,
                Head::Incomplete => return Some(Err(Failure::TooLarge(HEAD_BYTES_MAX, "answer's head"))),
                Head::Interim => {}
                Head::Decided(verdict) => return Some(verdict),
                Head::Followed(end, framing) => {
                    let search = self.pattern.map(Pattern::search)?;
                    let body = self.body.insert(Body { framing, search, seen: 0 });
                    return body.push(&self.read[end..]).or_else(|| body.push(later));
                }
            }
        }
    }

    /// The verdict when nothing will follow.
    ///
    /// # Errors
    /// [`Failure::Closed`] unless a body that lasts as long as the connection was complete without the text.
    pub fn end(self) -> Verdict {
        match self.body {
            Some(Body { framing: Framing::UntilClose, search, .. }) => Err(no_match(&search)),
            None if self.read.is_empty() => Err(Failure::Closed(Stage::Answer)),
            _ => Err(Failure::Closed(Stage::Rest)),
        }
    }

    /// Looks at what has been read from `start` on.
    fn head(&mut self) -> Head {
        const START: &[u8] = b"HTTP/1.";
        let unread = &self.read[self.start..];
        let shared = unread.len().min(START.len());
        if unread[..shared] != START[..shared] {
            return Head::Decided(Err(NOT_HTTP));
        }
        // The end may have been cut by the reads: up to three bytes of it have been looked at before.
        let from = self.searched.saturating_sub(3).max(self.start);
        self.searched = self.read.len();
        let Some(found) = self.read[from..].windows(4).position(|four| four == b"\r\n\r\n") else {
            return Head::Incomplete;
        };
        let end = from + found + 4;
        let head = &self.read[self.start..end];
        let Some(status) = status(head) else { return Head::Decided(Err(NOT_HTTP)) };
        if !self.expect.iter().any(|&(low, high)| (low..=high).contains(&status)) {
            // RFC 9110 §15.2: "A client MUST be able to parse one or more 1xx responses received prior to a final response".
            // After 101 none follows.
            if !(100..200).contains(&status) || status == 101 {
                return Head::Decided(Err(Failure::Status(status)));
            }
            (self.start, self.searched) = (end, end);
            return Head::Interim;
        }
        if self.pattern.is_none() {
            return Head::Decided(Ok(()));
        }
        match framing(head, status) {
            Ok(framing) => Head::Followed(end, framing),
            Err(failure) => Head::Decided(Err(failure)),
        }
    }
}

/// An answer of HTTP/2, whose status and body come apart.
#[derive(Debug)]
pub struct Http2Answer<'a> {
    expect: &'a [(u16, u16)],
    body: Option<Body<'a>>,
}

impl<'a> Http2Answer<'a> {
    /// Nothing read yet; see [`Answer::new`].
    #[must_use]
    pub fn new(expect: &'a [(u16, u16)], pattern: Option<&'a Pattern>) -> Self {
        let body =
            pattern.map(|pattern| Body { framing: Framing::UntilClose, search: pattern.search(), seen: 0 });
        Self { expect, body }
    }

    /// Takes the status. The verdict if that is all there is to say.
    #[must_use]
    pub fn head(&self, status: u16) -> Option<Verdict> {
        if !self.expect.iter().any(|&(low, high)| (low..=high).contains(&status)) {
            return Some(Err(Failure::Status(status)));
        }
        self.body.is_none().then_some(Ok(()))
    }

    /// Takes the next bytes of the body. The verdict, once there is one.
    pub fn push(&mut self, bytes: &[u8]) -> Option<Verdict> {
        self.body.as_mut()?.push(bytes)
    }

    /// The verdict when nothing will follow.
    ///
    /// # Errors
    /// [`Failure::NoMatch`] where a text was looked for.
    pub fn end(self) -> Verdict {
        self.body.map_or(Ok(()), |body| Err(no_match(&body.search)))
    }
}

/// A body that is searched.
#[derive(Debug)]
struct Body<'a> {
    framing: Framing,
    search: Search<'a>,
    /// Bytes searched.
    seen: usize,
}

/// Where a body ends (RFC 9112 §6.3).
#[derive(Debug)]
enum Framing {
    /// After so many more bytes.
    Length(u64),
    /// Where its chunks say.
    Chunked(Decoder),
    /// With the connection.
    UntilClose,
}

impl Body<'_> {
    fn push(&mut self, bytes: &[u8]) -> Option<Verdict> {
        let (search, seen) = (&mut self.search, &mut self.seen);
        let mut look = |data: &[u8]| {
            let count = data.len().min(BODY_BYTES_MAX - *seen);
            *seen += count;
            search.push(&data[..count]);
        };
        let ended = match &mut self.framing {
            Framing::Length(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                look(&bytes[..count]);
                *left -= u64::try_from(count).unwrap_or(*left);
                Ok(*left == 0)
            }
            Framing::Chunked(decoder) => decoder.push(bytes, look),
            Framing::UntilClose => {
                look(bytes);
                Ok(false)
            }
        };
        if self.search.found() {
            return Some(Ok(()));
        }
        match ended {
            Err(_) => Some(Err(Failure::Malformed("chunks"))),
            Ok(ended) => (ended || self.seen == BODY_BYTES_MAX).then(|| Err(no_match(&self.search))),
        }
    }
}

fn no_match(search: &Search<'_>) -> Failure {
    Failure::NoMatch(search.pattern().text().to_owned())
}

/// The three digits after `HTTP/1.x `.
fn status(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(b"HTTP/1.")?;
    let (minor, rest) = rest.split_first()?;
    let digits = rest.strip_prefix(b" ")?.get(..3)?;
    let end = rest.get(4)?;
    if !minor.is_ascii_digit() || !matches!(end, b' ' | b'\r') || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let status = digits.iter().fold(0_u16, |number, digit| number * 10 + u16::from(digit - b'0'));
    (100..=599).contains(&status).then_some(status)
}

/// How long the body of an answer with this head is.
fn framing(head: &[u8], status: u16) -> Result<Framing, Failure> {
    // RFC 9112 §6.3: "any response with a 1xx (Informational), 204 (No Content), or 304 (Not Modified) status code is always
    // terminated by the first empty line after the header fields".
    if status < 200 || status == 204 || status == 304 {
        return Ok(Framing::Length(0));
    }
    let (mut length, mut chunked) = (None, false);
    for line in head.split(|&byte| byte == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let last = value.rsplit(|&byte| byte == b',').next().unwrap_or_default();
            chunked = last.trim_ascii().eq_ignore_ascii_case(b"chunked");
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let text =
                std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
            let number: Option<u64> = text.and_then(|text| text.parse().ok());
            if number.is_none() || length.is_some_and(|before| Some(before) != number) {
                return Err(Failure::Malformed("Content-Length"));
            }
            length = number;
        }
    }
    Ok(match length {
        // RFC 9112 §6.3: "the Transfer-Encoding overrides the Content-Length".
        _ if chunked => Framing::Chunked(Decoder::new()),
        Some(length) => Framing::Length(length),
        None => Framing::UntilClose,
    })
}

#[cfg(test)]
mod tests;
