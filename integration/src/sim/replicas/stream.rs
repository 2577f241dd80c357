//! A connection between the `lbd`s: two streams of bytes, each with a delay and a limited room.

use std::collections::VecDeque;

use common::rng::Rng;
use common::time::Duration;

use super::super::clock::Moment;

/// Bytes that fit into one direction, what the sockets at both ends hold included.
const ROOM: usize = 64 * 1024;

/// A connection as both ends see it.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// By the node that sends.
    pub(super) pipes: [Pipe; 2],
    /// Whether the node still has it.
    pub(super) open: [bool; 2],
    /// When the node sees the end.
    pub(super) ends: [Option<Moment>; 2],
    /// Bytes that are sent go nowhere.
    pub(super) dead: bool,
}

impl Stream {
    /// One that has just been made.
    pub(super) fn new() -> Self {
        Self { open: [true; 2], ..Self::default() }
    }

    /// A node no longer has it, whatever the other one thinks: that one may make another, which then takes the place of this.
    pub(super) fn is_left(&self) -> bool {
        self.open != [true; 2]
    }

    /// Both have it, and what one says is going to reach the other.
    pub(super) fn is_whole(&self) -> bool {
        self.open == [true; 2] && self.ends == [None; 2] && !self.dead
    }

    /// A node no longer has it; the other one hears of it after a while, if anything gets there.
    pub(super) fn close(&mut self, node: usize, heard_at: Moment) {
        self.open[node] = false;
        if !self.dead {
            let other = &mut self.ends[1 - node];
            *other = other.or(Some(heard_at));
        }
        self.pipes[1 - node] = Pipe::default();
    }

    /// A node no longer has it; the other one goes on as if it had. What was on its way there ends at some byte.
    pub(super) fn abandon(&mut self, node: usize, rng: &mut Rng) {
        self.cut(rng);
        self.open[node] = false;
        self.pipes[1 - node] = Pipe::default();
    }

    /// Everything from some byte on is lost, each way.
    pub(super) fn cut(&mut self, rng: &mut Rng) {
        self.pipes.iter_mut().for_each(|pipe| pipe.cut(rng));
        self.dead = true;
    }
}

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    parts: VecDeque<(Moment, Vec<u8>)>,
    bytes: usize,
    last: Moment,
}

impl Pipe {
    pub(super) const fn has_room(&self) -> bool {
        self.bytes < ROOM
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Puts bytes in, in pieces cut anywhere.
    pub(super) fn send(&mut self, bytes: &[u8], now: Moment, delay: Duration, rng: &mut Rng) {
        self.last = self.last.max(now + delay);
        let mut rest = bytes;
        while !rest.is_empty() {
            let length = usize::try_from(rng.range(1..16_385)).unwrap_or(1).min(rest.len());
            let (part, after) = rest.split_at(length);
            self.parts.push_back((self.last, part.to_vec()));
            self.bytes += part.len();
            rest = after;
        }
    }

    pub(super) fn due(&self) -> Option<Moment> {
        self.parts.front().map(|part| part.0)
    }

    pub(super) fn receive(&mut self, now: Moment) -> Option<Vec<u8>> {
        self.due().filter(|&due| due <= now)?;
        let (_, part) = self.parts.pop_front()?;
        self.bytes -= part.len();
        Some(part)
    }

    fn cut(&mut self, rng: &mut Rng) {
        let mut left = usize::try_from(rng.below(self.bytes as u64 + 1)).unwrap_or_default();
        self.parts.retain_mut(|(_, part)| {
            part.truncate(left);
            left -= part.len();
            !part.is_empty()
        });
        self.bytes = self.parts.iter().map(|(_, part)| part.len()).sum();
    }
}
