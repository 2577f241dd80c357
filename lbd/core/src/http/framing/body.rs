//! Bodies: where they end, and what of the bytes is data.

use std::ops::Range;

use super::head::{fields, lines};
use super::{Fault, Field, RequestBody, ResponseBody};

/// Trailers may be so long, in bytes.
const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// So many bytes a body's chunks may have in extensions, which nobody uses and which are not passed on.
const EXTENSION_BYTES_MAX: u32 = 4096;

/// The most digits of a chunk's size, leading zeros included: more would not fit 64 bits.
const SIZE_DIGITS_MAX: u8 = 16;

/// A body under way.
#[derive(Debug)]
pub enum BodyReader {
    /// All of it has been read.
    Ended,
    /// So many bytes are missing.
    Length(u64),
    /// Chunks.
    Chunked(Box<Chunks>),
    /// Only the end of the connection ends it.
    UntilClose,
}

/// What of some bytes is a body's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Where its data is now.
    pub data: Range<usize>,
    /// How many bytes belong to it.
    pub consumed: usize,
    /// Whether it ends with them.
    pub ended: bool,
}

impl BodyReader {
    /// Of a request.
    #[must_use]
    pub fn of_request(body: RequestBody) -> Self {
        match body {
            RequestBody::None | RequestBody::Length(0) => Self::Ended,
            RequestBody::Length(length) => Self::Length(length),
            RequestBody::Chunked => Self::Chunked(Box::default()),
        }
    }

    /// The same without its trailers, for one whose receiver is told things in fields that nobody else is to tell it.
    #[must_use]
    pub fn without_trailers(mut self) -> Self {
        if let Self::Chunked(chunks) = &mut self {
            chunks.drops_trailers = true;
        }
        self
    }

    /// Of an answer.
    #[must_use]
    pub fn of_response(body: ResponseBody) -> Self {
        match body {
            ResponseBody::None | ResponseBody::Length(0) => Self::Ended,
            ResponseBody::Length(length) => Self::Length(length),
            ResponseBody::Chunked => Self::Chunked(Box::default()),
            ResponseBody::UntilClose => Self::UntilClose,
        }
    }

    /// Whether all of it has been read.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        match self {
            Self::Ended => true,
            Self::Chunked(chunks) => chunks.state == State::Ended,
            Self::Length(_) | Self::UntilClose => false,
        }
    }

    /// Whether its sender has said that more comes: the rest of a length, or of a chunk. Between chunks, and before the end of a connection, a
    /// sender may have nothing to say for as long as it likes.
    #[must_use]
    pub fn is_owed(&self) -> bool {
        match self {
            Self::Length(_) => true,
            Self::Chunked(chunks) => match chunks.state {
                State::Size => chunks.digits > 0,
                State::Ended => false,
                _ => true,
            },
            Self::Ended | Self::UntilClose => false,
        }
    }

    /// Takes what belongs to it of `bytes`, which follow those it had before. The data of several chunks is moved together.
    ///
    /// # Errors
    ///
    /// A chunk or a trailer that is none.
    pub fn read(&mut self, bytes: &mut [u8]) -> Result<Decoded, Fault> {
        let all = |count: usize, ended| Decoded { data: 0..count, consumed: count, ended };
        let decoded = match self {
            Self::Ended => all(0, true),
            Self::UntilClose => all(bytes.len(), false),
            Self::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= here as u64;
                all(here, *left == 0)
            }
            Self::Chunked(chunks) => chunks.read(bytes)?,
        };
        if decoded.ended && !matches!(self, Self::Chunked(_)) {
            *self = Self::Ended;
        }
        Ok(decoded)
    }

    /// The connection has ended.
    ///
    /// # Errors
    ///
    /// That it has not ended where the body does.
    pub fn end_of_input(&self) -> Result<(), Fault> {
        let ends = self.is_ended() || matches!(self, Self::UntilClose);
        if ends { Ok(()) } else { Err(Fault::Truncated) }
    }

    /// The trailers of one that has ended.
    ///
    /// # Errors
    ///
    /// That they are no fields.
    pub fn trailers(&self) -> Result<Vec<Field<'_>>, Fault> {
        match self {
            Self::Chunked(chunks) if !chunks.drops_trailers => parse_trailers(&chunks.trailers),
            Self::Ended | Self::Length(_) | Self::Chunked(_) | Self::UntilClose => Ok(Vec::new()),
        }
    }
}

fn parse_trailers(trailers: &[u8]) -> Result<Vec<Field<'_>>, Fault> {
    fields(lines(trailers)).map_err(|_| Fault::Trailer)
}

/// RFC 9112, section 7.1: chunks, the last one of size 0, and trailers.
#[derive(Debug, Default)]
pub struct Chunks {
    state: State,
    /// Of the chunk under way: its size, later what of it is missing.
    left: u64,
    digits: u8,
    extension_bytes: u32,
    trailers: Vec<u8>,
    drops_trailers: bool,
    /// Where the trailer's line under way begins.
    line: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// In the digits of a size.
    #[default]
    Size,
    /// Behind the `;`.
    Extension,
    /// Behind the CR of a size's line.
    SizeEnd,
    Data,
    /// Behind the data.
    DataCr,
    /// Behind the CR after it.
    DataLf,
    Trailers,
    Ended,
}

impl Chunks {
    fn read(&mut self, bytes: &mut [u8]) -> Result<Decoded, Fault> {
        let mut data = 0..0;
        let mut at = 0;
        while at < bytes.len() && self.state != State::Ended {
            if self.state != State::Data {
                self.step(bytes[at])?;
                at += 1;
                continue;
            }
            let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
            if data.is_empty() {
                data = at..at + here;
            } else {
                bytes.copy_within(at..at + here, data.end);
                data.end += here;
            }
            at += here;
            self.left -= here as u64;
            if self.left == 0 {
                self.state = State::DataCr;
            }
        }
        Ok(Decoded { data, consumed: at, ended: self.state == State::Ended })
    }

    fn step(&mut self, byte: u8) -> Result<(), Fault> {
        self.state = match (self.state, byte) {
            (State::Size, b'\r') if self.digits > 0 => State::SizeEnd,
            (State::Size, b';') if self.digits > 0 => State::Extension,
            (State::Size, _) => return self.digit(byte),
            (State::Extension, b'\r') => State::SizeEnd,
            (State::Extension, b'\t' | b' '..=b'~' | 0x80..) => {
                self.extension_bytes += 1;
                if self.extension_bytes > EXTENSION_BYTES_MAX {
                    return Err(Fault::ChunkSize);
                }
                State::Extension
            }
            (State::SizeEnd, b'\n') => {
                self.digits = 0;
                if self.left == 0 { State::Trailers } else { State::Data }
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size,
            (State::DataCr | State::DataLf, _) => return Err(Fault::ChunkEnd),
            (State::Trailers, _) => return self.trailer(byte),
            (state @ (State::Data | State::Ended), _) => state,
            (State::Extension | State::SizeEnd, _) => return Err(Fault::ChunkSize),
        };
        Ok(())
    }

    fn digit(&mut self, byte: u8) -> Result<(), Fault> {
        let digit = char::from(byte).to_digit(16).ok_or(Fault::ChunkSize)?;
        if self.digits == SIZE_DIGITS_MAX {
            return Err(Fault::ChunkSize);
        }
        self.digits += 1;
        self.left = self.left << 4 | u64::from(digit);
        Ok(())
    }

    fn trailer(&mut self, byte: u8) -> Result<(), Fault> {
        if self.trailers.len() == TRAILER_BYTES_MAX {
            return Err(Fault::Trailer);
        }
        self.trailers.push(byte);
        if byte == b'\n' {
            match &self.trailers[self.line..] {
                b"\r\n" => self.state = State::Ended,
                [.., b'\r', b'\n'] => self.line = self.trailers.len(),
                _ => return Err(Fault::Trailer),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::http::pass_on::last_chunk;

    /// Everything that comes of `bytes`, given in pieces of `step`, and how many of them belong to the body.
    fn read_in_steps(
        mut reader: BodyReader,
        bytes: &[u8],
        step: usize,
    ) -> Result<(Vec<u8>, usize, bool), Fault> {
        let (mut data, mut consumed, mut ended) = (Vec::new(), 0, reader.is_ended());
        for piece in bytes.chunks(step) {
            if ended {
                break;
            }
            let mut piece = piece.to_vec();
            let decoded = reader.read(&mut piece)?;
            assert!(decoded.ended || decoded.consumed == piece.len());
            data.extend_from_slice(&piece[decoded.data]);
            consumed += decoded.consumed;
            ended = decoded.ended;
        }
        Ok((data, consumed, ended))
    }

    #[test]
    fn trailers_are_passed_on_unless_they_are_to_stay() {
        let last = |mut reader: BodyReader| {
            let mut bytes = b"1\r\nx\r\n0\r\nX-User: eve\r\n\r\n".to_vec();
            assert!(reader.read(&mut bytes).unwrap().ended);
            let mut out = Vec::new();
            last_chunk(&reader.trailers().unwrap(), &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(last(chunked()), "0\r\nX-User: eve\r\n\r\n");
        assert_eq!(last(chunked().without_trailers()), "0\r\n\r\n");
        assert!(BodyReader::of_request(RequestBody::Length(0)).without_trailers().is_ended());
    }

    fn chunked() -> BodyReader {
        BodyReader::of_request(RequestBody::Chunked)
    }

    #[test]
    fn what_was_said_to_come_is_owed() {
        let owed_behind = |mut reader: BodyReader, bytes: &[u8]| {
            reader.read(&mut bytes.to_vec()).unwrap();
            reader.is_owed()
        };
        for (bytes, owed) in [
            (&b""[..], false),
            (b"5", true),
            (b"5\r\n", true),
            (b"5\r\nhel", true),
            (b"5\r\nhello", true),
            (b"5\r\nhello\r\n", false),
            (b"5\r\nhello\r\n0\r\n", true),
            (b"5\r\nhello\r\n0\r\n\r\n", false),
        ] {
            assert_eq!(owed_behind(chunked(), bytes), owed, "{:?}", String::from_utf8_lossy(bytes));
        }
        let length = || BodyReader::of_response(ResponseBody::Length(5));
        assert_eq!([&b"hell"[..], b"hello"].map(|bytes| owed_behind(length(), bytes)), [true, false]);
        assert!(!owed_behind(BodyReader::UntilClose, b"hello"));
    }

    #[test]
    fn chunks_are_joined_however_they_come() {
        let bytes = b"5\r\nhello\r\n1;a=\"b\"\r\n,\r\n006\r\n world\r\n0\r\nX-Sum: 1\r\n\r\nGET /next";
        for step in 1..=bytes.len() {
            let (data, consumed, ended) = read_in_steps(chunked(), bytes, step).unwrap();
            assert_eq!((data.as_slice(), ended), (&b"hello, world"[..], true), "{step}");
            assert_eq!(consumed, bytes.len() - 9);
        }
        let mut reader = chunked();
        reader.read(&mut bytes.to_vec()).unwrap();
        let last = |reader: &BodyReader| {
            let mut out = Vec::new();
            last_chunk(&reader.trailers()?, &mut out);
            Ok::<_, Fault>(out)
        };
        assert_eq!(last(&reader).unwrap(), b"0\r\nX-Sum: 1\r\n\r\n");
        let mut plain = chunked();
        plain.read(&mut b"0\r\n\r\n".to_vec()).unwrap();
        assert_eq!(last(&plain).unwrap(), b"0\r\n\r\n");
        let mut bad = chunked();
        bad.read(&mut b"0\r\nA : 1\r\n\r\n".to_vec()).unwrap();
        assert_eq!(last(&bad), Err(Fault::Trailer));
    }

    #[test]
    fn chunks_that_are_none_are_refused() {
        for (bytes, fault) in [
            (&b"\r\n"[..], Fault::ChunkSize),
            (b";a\r\n", Fault::ChunkSize),
            (b"5 \r\nhello", Fault::ChunkSize),
            (b" 5\r\nhello", Fault::ChunkSize),
            (b"0x5\r\nhello", Fault::ChunkSize),
            (b"+5\r\nhello", Fault::ChunkSize),
            (b"-1\r\n", Fault::ChunkSize),
            (b"5\nhello", Fault::ChunkSize),
            (b"5\rhello", Fault::ChunkSize),
            (b"5;a\nhello", Fault::ChunkSize),
            (b"5;a\0\r\nhello", Fault::ChunkSize),
            (b"10000000000000000\r\n", Fault::ChunkSize),
            (b"00000000000000005\r\n", Fault::ChunkSize),
            (b"5\r\nhello!\r\n", Fault::ChunkEnd),
            (b"5\r\nhello\n", Fault::ChunkEnd),
            (b"5\r\nhello\r5", Fault::ChunkEnd),
            (b"0\r\nA: 1\n\r\n", Fault::Trailer),
        ] {
            assert_eq!(read_in_steps(chunked(), bytes, 100).unwrap_err(), fault, "{bytes:?}");
        }
        let mut long = b"1;".to_vec();
        long.resize(5000, b'x');
        assert_eq!(read_in_steps(chunked(), &long, 100).unwrap_err(), Fault::ChunkSize);
        let mut long = b"0\r\nA: ".to_vec();
        long.resize(TRAILER_BYTES_MAX + 100, b'x');
        assert_eq!(read_in_steps(chunked(), &long, 100).unwrap_err(), Fault::Trailer);
    }

    #[test]
    fn the_largest_chunk_has_a_size() {
        let mut reader = chunked();
        let decoded = reader.read(&mut b"ffffffffffffffff\r\nabc".to_vec()).unwrap();
        assert_eq!((decoded.data, decoded.ended), (18..21, false));
        assert_eq!(reader.end_of_input(), Err(Fault::Truncated));
    }

    #[test]
    fn lengths_are_counted() {
        let reader = || BodyReader::of_response(ResponseBody::Length(4));
        for step in 1..8 {
            let (data, consumed, ended) = read_in_steps(reader(), b"abcdefg", step).unwrap();
            assert_eq!((data.as_slice(), consumed, ended), (&b"abcd"[..], 4, true));
        }
        assert_eq!(reader().end_of_input(), Err(Fault::Truncated));
        let mut all = BodyReader::of_response(ResponseBody::UntilClose);
        assert_eq!(all.read(&mut b"abc".to_vec()), Ok(Decoded { data: 0..3, consumed: 3, ended: false }));
        assert_eq!(all.end_of_input(), Ok(()));
        assert!(BodyReader::of_request(RequestBody::Length(0)).is_ended());
        let mut read = reader();
        read.read(&mut b"abcd".to_vec()).unwrap();
        assert!(read.is_ended());
    }

    proptest! {
        /// What is cut into chunks comes out as it went in, wherever the bytes are cut on their way.
        #[test]
        fn chunks_say_what_was_cut(parts in proptest::collection::vec("[a-z]{1,40}", 0..8), step in 1_usize..64) {
            let mut bytes = Vec::new();
            for part in &parts {
                bytes.extend_from_slice(format!("{:x}\r\n{part}\r\n", part.len()).as_bytes());
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
            let (data, consumed, ended) = read_in_steps(chunked(), &bytes, step).unwrap();
            prop_assert_eq!(data, parts.concat().into_bytes());
            prop_assert_eq!((consumed, ended), (bytes.len(), true));
        }
    }
}
