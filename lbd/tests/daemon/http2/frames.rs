//! A client, or a target, that writes frames as it is told, right or wrong.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::support::connect;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// The number at this place of what is in it.
    pub(super) fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    pub(super) fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

/// What became of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// An answer with this status and this body.
    Answer(u16, Vec<u8>),
    /// `RST_STREAM` with this code.
    Reset(u32),
    /// `GOAWAY` with this code, and the end.
    GoAway(u32),
    /// The end without a word.
    Closed,
}

/// A frame's bytes.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// RFC 7541, section 5.1, with a prefix of 7 bits.
fn integer(out: &mut Vec<u8>, value: usize) {
    match u8::try_from(value) {
        Ok(small @ 0..127) => out.push(small),
        _ => {
            out.push(127);
            let mut left = value - 127;
            while left >= 128 {
                out.push(u8::try_from(left % 128).unwrap() | 128);
                left /= 128;
            }
            out.push(u8::try_from(left).unwrap());
        }
    }
}

/// RFC 7541, section 6.2.2: a field that nobody remembers, in plain letters.
pub(super) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        integer(&mut out, text.len());
        out.extend_from_slice(text.as_bytes());
    }
    out
}

/// Fields as a block.
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// The pseudo-header fields of a request, and more.
pub(super) fn head<'h>(
    method: &'h str,
    path: &'h str,
    more: &[(&'h str, &'h str)],
) -> Vec<(&'h str, &'h str)> {
    let pseudo = [(":method", method), (":scheme", "http"), (":authority", "shop.example"), (":path", path)];
    pseudo.into_iter().chain(more.iter().copied()).collect()
}

/// The status that a block begins with: one of RFC 7541's table, or three digits in plain letters or its code.
pub(super) fn status(block: &[u8]) -> u16 {
    // Behind a change of the table's size.
    let block = if block.first().is_some_and(|byte| byte & 0xe0 == 0x20) { &block[1..] } else { block };
    match block {
        [byte @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(byte - 0x88)],
        [0x48 | 0x08, length, text @ ..] if length & 0x80 == 0 => {
            std::str::from_utf8(&text[..3]).unwrap().parse().unwrap()
        }
        [0x48 | 0x08, length, text @ ..] => digits(&text[..usize::from(length & 0x7f)]),
        other => panic!("a block begins with {other:?}"),
    }
}

/// RFC 7541, appendix B: the codes of digits have 5 bits from `0` to `2` and 6 bits from `3` to `9`.
fn digits(text: &[u8]) -> u16 {
    let mut bits = text.iter().flat_map(|byte| (0..8).rev().map(move |place| u16::from(byte >> place & 1)));
    let mut number = 0;
    for _ in 0..3 {
        let five = bits.by_ref().take(5).fold(0, |code, bit| code << 1 | bit);
        let digit = if five < 3 { five } else { (five << 1 | bits.next().unwrap()) - 0b01_1001 + 3 };
        number = number * 10 + digit;
    }
    number
}

/// A connection, in clear text unless it is said otherwise.
pub(super) struct Wire<S = TcpStream> {
    pub(super) stream: S,
}

impl Wire {
    /// A client's, with its preface sent and settings exchanged.
    pub(super) fn open(address: SocketAddr) -> Self {
        Self::open_with(address, &[])
    }

    /// The same with these settings.
    pub(super) fn open_with(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let stream = connect(address);
        // Each frame goes out at once.
        stream.set_nodelay(true).unwrap();
        Self::begin(stream, settings)
    }
}

impl<S: Read + Write> Wire<S> {
    /// A client's on a connection that is there, with its preface sent and settings exchanged.
    pub(super) fn begin(stream: S, settings: &[(u16, u32)]) -> Self {
        let mut wire = Self { stream };
        wire.send(PREFACE).settle(settings);
        wire
    }

    /// A target's, once a client has connected and sent its preface.
    pub(super) fn accepted(stream: S) -> Self {
        Self::accepted_with(stream, &[])
    }

    /// The same with these settings.
    pub(super) fn accepted_with(stream: S, settings: &[(u16, u32)]) -> Self {
        let mut wire = Self { stream };
        let mut preface = [0; 24];
        wire.stream.read_exact(&mut preface).unwrap();
        assert_eq!(preface, PREFACE);
        wire.settle(settings);
        wire
    }

    fn settle(&mut self, settings: &[(u16, u32)]) {
        let mut payload = Vec::new();
        for (key, value) in settings {
            payload.extend_from_slice(&key.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        self.send(&frame(SETTINGS, 0, 0, &payload)).send(&frame(SETTINGS, ACK, 0, &[]));
    }

    /// Sends bytes as they are; whether they arrive is another question.
    pub(super) fn send(&mut self, bytes: &[u8]) -> &mut Self {
        self.stream.write_all(bytes).ok();
        self
    }

    /// Begins a stream with this block.
    pub(super) fn ask(&mut self, stream: u32, fields: &[(&str, &str)], end: bool) -> &mut Self {
        let flags = END_HEADERS | if end { END_STREAM } else { 0 };
        self.send(&frame(HEADERS, flags, stream, &block(fields)))
    }

    /// The next frame; nothing at the end, however it came.
    pub(super) fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.fill(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.fill(&mut payload)?;
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Option<()> {
        match self.stream.read_exact(bytes) {
            Ok(()) => Some(()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                panic!("nothing comes any more")
            }
            Err(_) => None,
        }
    }

    /// The next frame of this kind.
    pub(super) fn next(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.read().expect("a frame");
            if frame.kind == kind && !(kind == SETTINGS && frame.flags & ACK != 0) {
                return frame;
            }
        }
    }

    /// What becomes of a stream.
    pub(super) fn outcome(&mut self, stream: u32) -> Outcome {
        let (mut code, mut body) = (None, Vec::new());
        loop {
            let Some(frame) = self.read() else { return Outcome::Closed };
            match frame.kind {
                GOAWAY if frame.number(4) != 0 => return Outcome::GoAway(frame.number(4)),
                RST_STREAM if frame.stream == stream => return Outcome::Reset(frame.number(0)),
                HEADERS if frame.stream == stream && code.is_none() => {
                    code = Some(status(&frame.payload)).filter(|code| *code >= 200);
                }
                DATA if frame.stream == stream => body.extend_from_slice(&frame.payload),
                _ => {}
            }
            if frame.stream == stream && frame.ends_stream() {
                return Outcome::Answer(code.unwrap(), body);
            }
        }
    }

    /// How the connection ends: with which code of `GOAWAY`, if one comes.
    pub(super) fn end(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.read() {
            if frame.kind == GOAWAY {
                code = Some(frame.number(4));
            }
        }
        code
    }
}
