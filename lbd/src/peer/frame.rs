//! Frames on the stream: a length of 4 bytes, little endian, then as many bytes of one message.
//!
//! Pure: it knows no socket. A length of zero or beyond the limit is never waited for; it ends the session with the fourth byte.

use bytes::BufMut as _;
use bytes::buf::Limit;
use common::wire::LENGTH_SIZE;
use lbd_core::replication::FRAME_SIZE_MAX;

/// Bytes before each message.
pub(super) const HEAD_BYTES: usize = LENGTH_SIZE;

/// The largest message, in bytes: what the core hands out at a time, a frame of its own with its length.
pub(super) const MESSAGE_BYTES_MAX: usize = FRAME_SIZE_MAX + LENGTH_SIZE;

/// At most so much is read at once, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// A head that no sender of frames writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadFrame {
    /// The length is zero.
    Empty,
    /// The length is beyond the limit.
    Oversized,
}

/// Cuts what is read into messages. Holds at most one incomplete frame and a chunk.
#[derive(Debug)]
pub(super) struct Decoder {
    pending: Vec<u8>,
    /// Of these, bytes of messages that have been taken.
    taken: usize,
}

impl Decoder {
    /// One that has read nothing; its buffer never grows.
    pub(super) fn new() -> Self {
        Self { pending: Vec::with_capacity(HEAD_BYTES + MESSAGE_BYTES_MAX + CHUNK_BYTES), taken: 0 }
    }

    /// Where the next bytes go. To be asked for only once [`Decoder::next_message`] has nothing more.
    pub(super) fn space(&mut self) -> Limit<&mut Vec<u8>> {
        self.pending.drain(..self.taken);
        self.taken = 0;
        debug_assert!(self.pending.len() < HEAD_BYTES + MESSAGE_BYTES_MAX, "whole messages are taken first");
        (&mut self.pending).limit(CHUNK_BYTES)
    }

    /// The next whole message, or none until more has been read.
    pub(super) fn next_message(&mut self) -> Result<Option<Vec<u8>>, BadFrame> {
        let Some((head, rest)) = self.pending[self.taken..].split_first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes(*head)).unwrap_or(usize::MAX);
        if length == 0 {
            return Err(BadFrame::Empty);
        }
        if length > MESSAGE_BYTES_MAX {
            return Err(BadFrame::Oversized);
        }
        let Some(message) = rest.get(..length) else { return Ok(None) };
        let message = message.to_vec();
        self.taken += HEAD_BYTES + length;
        Ok(Some(message))
    }

    /// Whether the stream may end here: not within a frame.
    pub(super) fn is_between_frames(&self) -> bool {
        self.pending.len() == self.taken
    }
}

/// Appends `message` as a frame. It is not longer than the limit.
pub(super) fn append(out: &mut Vec<u8>, message: &[u8]) {
    debug_assert!(
        !message.is_empty() && message.len() <= MESSAGE_BYTES_MAX,
        "messages are measured before they are queued"
    );
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(message);
}

#[cfg(test)]
mod tests {
    use common::rng::Rng;

    use super::*;

    /// Feeds `bytes` in pieces that `rng` chooses; answers the messages, and how it ended.
    fn decode(bytes: &[u8], rng: &mut Rng) -> (Vec<Vec<u8>>, Result<bool, BadFrame>) {
        let (mut decoder, mut messages, mut rest) = (Decoder::new(), Vec::new(), bytes);
        let capacity = decoder.pending.capacity();
        loop {
            loop {
                match decoder.next_message() {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(bad) => return (messages, Err(bad)),
                }
            }
            if rest.is_empty() {
                assert_eq!(decoder.pending.capacity(), capacity, "the buffer has grown");
                return (messages, Ok(decoder.is_between_frames()));
            }
            let mut space = decoder.space();
            let most = rest.len().min(space.remaining_mut());
            let length = 1 + usize::try_from(rng.below(most as u64)).unwrap();
            space.put_slice(&rest[..length]);
            rest = &rest[length..];
        }
    }

    #[test]
    fn messages_survive_any_cut() {
        let mut rng = Rng::new(1);
        for _ in 0..50 {
            let count = rng.below(20);
            let lengths: Vec<u64> =
                (0..count).map(|_| *rng.pick(&[1, 2, 100, 4000, 65_536, MESSAGE_BYTES_MAX as u64])).collect();
            let sent: Vec<Vec<u8>> = lengths
                .iter()
                .map(|&length| (0..length).map(|_| rng.next_u64().to_le_bytes()[0]).collect())
                .collect();
            let mut bytes = Vec::new();
            sent.iter().for_each(|message| append(&mut bytes, message));
            assert_eq!(decode(&bytes, &mut rng), (sent, Ok(true)));
        }
    }

    #[test]
    fn a_head_beyond_the_limits_ends_it_with_its_last_byte() {
        let mut rng = Rng::new(2);
        let over = u32::try_from(MESSAGE_BYTES_MAX + 1).unwrap().to_le_bytes();
        assert_eq!(decode(&over, &mut rng), (vec![], Err(BadFrame::Oversized)));
        assert_eq!(decode(&[0xff; 4], &mut rng), (vec![], Err(BadFrame::Oversized)));
        assert_eq!(decode(&[1, 0, 0, 0, 9, 0, 0, 0, 0], &mut rng), (vec![vec![9]], Err(BadFrame::Empty)));
        assert_eq!(decode(&over[..3], &mut rng), (vec![], Ok(false)));
    }

    #[test]
    fn noise_never_panics() {
        for seed in 0..500 {
            let mut rng = Rng::new(seed);
            let length = rng.below(3000);
            let small = |rng: &mut Rng| if rng.chance(600) { 0 } else { rng.next_u64().to_le_bytes()[0] };
            let noise: Vec<u8> = (0..length).map(|_| small(&mut rng)).collect();
            drop(decode(&noise, &mut rng));
        }
    }
}
