//! A connection: two streams of bytes, each with a delay and a limited room.

use std::collections::VecDeque;

use common::rng::Rng;

/// Bytes that fit into one direction, what the sockets at both ends hold included.
const ROOM: usize = 64 * 1024;

/// One direction. Times are true time in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    parts: VecDeque<(u64, Vec<u8>)>,
    bytes: usize,
    last: u64,
}

impl Pipe {
    pub(super) fn has_room(&self) -> bool {
        self.bytes < ROOM
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Puts bytes in, in pieces cut anywhere.
    pub(super) fn send(&mut self, bytes: &[u8], now: u64, delay: u64, rng: &mut Rng) {
        self.last = self.last.max(now + delay);
        let mut rest = bytes;
        while !rest.is_empty() {
            let length = usize::try_from(1 + rng.below(16_384)).unwrap().min(rest.len());
            let (part, after) = rest.split_at(length);
            self.parts.push_back((self.last, part.to_vec()));
            self.bytes += part.len();
            rest = after;
        }
    }

    pub(super) fn due(&self) -> Option<u64> {
        self.parts.front().map(|part| part.0)
    }

    pub(super) fn receive(&mut self, now: u64) -> Option<Vec<u8>> {
        self.due().filter(|&due| due <= now)?;
        let (_, part) = self.parts.pop_front()?;
        self.bytes -= part.len();
        Some(part)
    }

    /// Loses everything from a byte on.
    pub(super) fn cut(&mut self, rng: &mut Rng) {
        let mut left = usize::try_from(rng.below(self.bytes as u64 + 1)).unwrap();
        self.parts.retain_mut(|(_, part)| {
            part.truncate(left);
            left -= part.len();
            !part.is_empty()
        });
        self.bytes = self.parts.iter().map(|(_, part)| part.len()).sum();
    }
}
