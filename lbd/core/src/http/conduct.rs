//! What a client of HTTP/2 makes a proxy do without asking for anything: a score for each connection.
//!
//! Each frame costs whoever gets it something, and many cost the sender nothing: pings to be answered, settings to be acknowledged,
//! streams begun only to be reset (CVE-2023-44487) or to have the other end reset them (CVE-2025-8671), header blocks without an end
//! (CVE-2024-27316). None of these is wrong by itself. So each takes points away, more points come back with time, and what a client that
//! really wants something makes go through the connection gives points, too. Who has none left is no client.
//!
//! Bytes are looked at as they pass in both directions, only at the heads of frames; whoever decodes them need not be asked.

/// The points that a connection begins with, and never has more of.
const POINTS_MAX: u32 = 4000;

/// So many come back each second.
const POINTS_PER_SECOND: u64 = 400;

/// The costs: a hundred of the dearest at once are borne, and ten each second.
const RESET: u32 = 40;
const PROVOKED_RESET: u32 = 40;
const CONTINUATION: u32 = 40;
const SETTINGS: u32 = 40;
const EMPTY_DATA: u32 = 20;
const PING: u32 = 10;
const REFUSED: u32 = 5;
const OTHER: u32 = 4;
const WINDOW_UPDATE: u32 = 2;

/// What is given for a frame of data that was sent: a client may well acknowledge each for its stream and its connection, and with
/// gRPC measure with a ping how long that takes.
const DATA_SENT: u32 = 16;

/// What is given for an answer that has ended.
const ANSWERED: u32 = 20;

/// RFC 9113, section 3.4: what a client's connection begins with.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

common::named! {
    /// What a client has done too often.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Offence {
        /// Reset its own streams.
        Reset => "reset",
        /// Had streams reset by frames that are errors.
        ProvokedReset => "provoked_reset",
        /// Sent header blocks in pieces.
        Continuation => "continuation",
        /// Sent settings.
        Settings => "settings",
        /// Sent frames of data with nothing in them.
        EmptyData => "empty_data",
        /// Sent pings.
        Ping => "ping",
        /// Begun more streams than it may have.
        Refused => "refused",
        /// Enlarged windows.
        WindowUpdate => "window_update",
        /// Sent priorities or frames that nobody knows.
        Other => "other",
        /// What the decoder has had enough of before there were no points left: blocks in pieces, resets, frames with little in them.
        Decoder => "decoder",
        /// What is an error of the connection: frames or blocks that cannot be decoded, or that may not be there.
        Protocol => "protocol",
    }
}

impl Offence {
    const fn cost(self) -> u32 {
        match self {
            Self::Reset => RESET,
            Self::ProvokedReset => PROVOKED_RESET,
            Self::Continuation => CONTINUATION,
            Self::Settings => SETTINGS,
            Self::EmptyData => EMPTY_DATA,
            Self::Ping => PING,
            Self::Refused => REFUSED,
            Self::WindowUpdate => WINDOW_UPDATE,
            Self::Other => OTHER,
            // These end a connection by themselves.
            Self::Decoder | Self::Protocol => POINTS_MAX,
        }
    }
}

/// The score of a connection.
#[derive(Clone, Debug)]
pub struct Conduct {
    received: Frames,
    sent: Frames,
    points: u32,
    /// Up to when, in milliseconds, points have been given for the time.
    since_ms: u64,
}

impl Conduct {
    /// Of a connection that begins now, with its preface.
    #[must_use]
    pub const fn new(now_ms: u64) -> Self {
        Self {
            received: Frames::behind(PREFACE.len()),
            sent: Frames::behind(0),
            points: POINTS_MAX,
            since_ms: now_ms,
        }
    }

    /// These bytes have come.
    ///
    /// # Errors
    ///
    /// That there are no points left.
    pub fn received(&mut self, bytes: &[u8], now_ms: u64) -> Result<(), Offence> {
        let mut received = std::mem::take(&mut self.received);
        let mut end = Ok(());
        received.pass(bytes, |frame| {
            if end.is_ok() {
                end = received_offence(frame).map_or(Ok(()), |offence| self.charge(offence, now_ms));
            }
        });
        self.received = received;
        end
    }

    /// These bytes have gone out.
    ///
    /// # Errors
    ///
    /// That there are no points left.
    pub fn sent(&mut self, bytes: &[u8], now_ms: u64) -> Result<(), Offence> {
        let mut sent = std::mem::take(&mut self.sent);
        let mut end = Ok(());
        sent.pass(bytes, |frame| {
            self.give(earned(frame));
            if end.is_ok() {
                end = sent_offence(frame).map_or(Ok(()), |offence| self.charge(offence, now_ms));
            }
        });
        self.sent = sent;
        end
    }

    fn give(&mut self, points: u32) {
        self.points = (self.points + points).min(POINTS_MAX);
    }

    fn charge(&mut self, offence: Offence, now_ms: u64) -> Result<(), Offence> {
        let passed_ms = now_ms.saturating_sub(self.since_ms);
        let points = passed_ms.saturating_mul(POINTS_PER_SECOND) / 1000;
        if points > 0 {
            self.since_ms = now_ms;
            self.give(u32::try_from(points).unwrap_or(POINTS_MAX).min(POINTS_MAX));
        }
        self.points = self.points.checked_sub(offence.cost()).ok_or(offence)?;
        Ok(())
    }
}

// RFC 9113, section 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS_FRAME: u8 = 4;
const PING_FRAME: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE_FRAME: u8 = 8;
const CONTINUATION_FRAME: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const PADDED: u8 = 8;

// RFC 9113, section 7.
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;

fn received_offence(frame: Frame) -> Option<Offence> {
    match frame.kind {
        // Padding is nothing, either.
        DATA if frame.flags & END_STREAM == 0
            && (frame.length == 0 || frame.flags & PADDED != 0 && frame.length < 256) =>
        {
            Some(Offence::EmptyData)
        }
        DATA | HEADERS | GOAWAY => None,
        RST_STREAM => Some(Offence::Reset),
        SETTINGS_FRAME | PING_FRAME if frame.flags & ACK != 0 => None,
        SETTINGS_FRAME => Some(Offence::Settings),
        PING_FRAME => Some(Offence::Ping),
        WINDOW_UPDATE_FRAME => Some(Offence::WindowUpdate),
        CONTINUATION_FRAME => Some(Offence::Continuation),
        _ => Some(Offence::Other),
    }
}

/// What a frame of our own says that the client has done. Streams that end here because a target failed have another code.
fn sent_offence(frame: Frame) -> Option<Offence> {
    match (frame.kind, frame.code) {
        (RST_STREAM, PROTOCOL_ERROR | FLOW_CONTROL_ERROR | STREAM_CLOSED | FRAME_SIZE_ERROR) => {
            Some(Offence::ProvokedReset)
        }
        (RST_STREAM, REFUSED_STREAM) => Some(Offence::Refused),
        _ => None,
    }
}

fn earned(frame: Frame) -> u32 {
    let data = if frame.kind == DATA { DATA_SENT } else { 0 };
    let ended = matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0;
    data + if ended { ANSWERED } else { 0 }
}

/// A frame without what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    length: u32,
    /// Of `RST_STREAM`: why.
    code: u32,
}

/// RFC 9113, section 4.1: the length of a frame's head.
const HEAD_BYTES: usize = 9;

/// Finds frames among the bytes of one direction.
#[derive(Clone, Debug, Default)]
struct Frames {
    /// The head under way, and the code behind that of `RST_STREAM`.
    head: [u8; HEAD_BYTES + 4],
    /// How much of it is there.
    have: usize,
    /// What is left of what is in the frame before.
    skip: usize,
}

impl Frames {
    const fn behind(skip: usize) -> Self {
        Self { head: [0; HEAD_BYTES + 4], have: 0, skip }
    }

    fn pass(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let here = self.skip.min(bytes.len());
                self.skip -= here;
                bytes = &bytes[here..];
                continue;
            }
            let here = (self.want() - self.have).min(bytes.len());
            self.head[self.have..self.have + here].copy_from_slice(&bytes[..here]);
            self.have += here;
            bytes = &bytes[here..];
            if self.have == self.want() {
                let frame = self.frame();
                self.skip = frame.length as usize - (self.have - HEAD_BYTES);
                self.have = 0;
                each(frame);
            }
        }
    }

    const fn want(&self) -> usize {
        let reset = self.have >= HEAD_BYTES && self.head[3] == RST_STREAM && self.length() >= 4;
        if reset { HEAD_BYTES + 4 } else { HEAD_BYTES }
    }

    const fn length(&self) -> u32 {
        u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]])
    }

    const fn frame(&self) -> Frame {
        let [.., a, b, c, d] = self.head;
        let code = if self.have > HEAD_BYTES { u32::from_be_bytes([a, b, c, d]) } else { 0 };
        Frame { kind: self.head[3], flags: self.head[4], length: self.length(), code }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        bytes.extend_from_slice(payload);
        bytes
    }

    /// How many such frames are borne at once.
    fn borne(bytes: &[u8]) -> (usize, Offence) {
        let mut conduct = Conduct::new(0);
        conduct.received(PREFACE, 0).unwrap();
        for count in 0.. {
            if let Err(offence) = conduct.received(bytes, 0) {
                return (count, offence);
            }
            assert!(count < 1_000_000);
        }
        unreachable!()
    }

    #[test]
    fn frames_are_found_wherever_they_are_cut() {
        let bytes = [
            frame(DATA, 0, b"hello"),
            frame(RST_STREAM, 0, &[0, 0, 0, 8]),
            frame(PING_FRAME, ACK, &[0; 8]),
            frame(DATA, END_STREAM, b""),
        ]
        .concat();
        let expected =
            [(DATA, 0, 5, 0), (RST_STREAM, 0, 4, 8), (PING_FRAME, ACK, 8, 0), (DATA, END_STREAM, 0, 0)]
                .map(|(kind, flags, length, code)| Frame { kind, flags, length, code });
        for step in 1..=bytes.len() {
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for piece in bytes.chunks(step) {
                frames.pass(piece, |frame| found.push(frame));
            }
            assert_eq!(found, expected, "{step}");
        }
        // Shorter than it may be: whoever decodes it refuses it.
        let mut found = Vec::new();
        Frames::default().pass(&frame(RST_STREAM, 0, &[1]), |frame| found.push(frame));
        assert_eq!(found, [Frame { kind: RST_STREAM, flags: 0, length: 1, code: 0 }]);
    }

    #[test]
    fn floods_end() {
        assert_eq!(borne(&frame(RST_STREAM, 0, &[0, 0, 0, 8])), (100, Offence::Reset));
        assert_eq!(borne(&frame(PING_FRAME, 0, &[0; 8])), (400, Offence::Ping));
        assert_eq!(borne(&frame(SETTINGS_FRAME, 0, b"")), (100, Offence::Settings));
        assert_eq!(borne(&frame(DATA, 0, b"")), (200, Offence::EmptyData));
        assert_eq!(borne(&frame(DATA, PADDED, &[7; 8])), (200, Offence::EmptyData));
        assert_eq!(borne(&frame(WINDOW_UPDATE_FRAME, 0, &[0, 0, 0, 1])), (2000, Offence::WindowUpdate));
        assert_eq!(borne(&frame(CONTINUATION_FRAME, 0, b"x")), (100, Offence::Continuation));
        assert_eq!(borne(&frame(2, 0, &[0; 5])), (1000, Offence::Other));
    }

    #[test]
    fn what_has_others_reset_streams_counts_and_what_targets_do_does_not() {
        let mut conduct = Conduct::new(0);
        let reset = |code| frame(RST_STREAM, 0, &[0, 0, 0, code]);
        for _ in 0..10_000 {
            conduct.sent(&reset(2), 0).unwrap();
        }
        for _ in 0..100 {
            conduct.sent(&reset(1), 0).unwrap();
        }
        assert_eq!(conduct.sent(&reset(3), 0), Err(Offence::ProvokedReset));
    }

    #[test]
    fn who_takes_answers_may_reset_and_acknowledge() {
        let mut conduct = Conduct::new(0);
        conduct.received(PREFACE, 0).unwrap();
        for _ in 0..10_000 {
            conduct.sent(&frame(DATA, 0, b"answer"), 0).unwrap();
            conduct.received(&frame(WINDOW_UPDATE_FRAME, 0, &[0, 0, 0, 6]), 0).unwrap();
            conduct.received(&frame(WINDOW_UPDATE_FRAME, 0, &[0, 0, 0, 6]), 0).unwrap();
            conduct.received(&frame(PING_FRAME, 0, &[0; 8]), 0).unwrap();
        }
        for second in 0..100 {
            for _ in 0..10 {
                conduct.received(&frame(RST_STREAM, 0, &[0, 0, 0, 8]), second * 1000).unwrap();
            }
        }
    }
}
