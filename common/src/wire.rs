//! The one place that knows bincode: encoding with a version byte, decoding with a hard size limit.
//!
//! Used by the vrrpd ↔ lbd socket ([`crate::ipc`]), the peer link and replication. Integers are variable-length little endian
//! (bincode's standard configuration). Golden vectors in the tests pin the bytes: a change of them is a change of
//! [`VERSION`].
//!
//! A protocol whose messages may be larger than [`SIZE_MAX`] says so with each call ([`encode_within`], [`FramesWithin`]): the
//! limit is a constant of the protocol, never a number that came with a message.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::{Decode, Encode};

/// The first byte of every message.
pub const VERSION: u8 = 1;

/// The largest message accepted or made where a protocol names no limit of its own, in bytes, version byte included.
pub const SIZE_MAX: usize = 16 * 1024;

/// Bytes of the length in front of each message of a byte stream.
pub const LENGTH_SIZE: usize = 4;

/// Why a message could not be read or made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Nothing there.
    #[error("the message is empty")]
    Empty,
    /// Another protocol version.
    #[error(
        "the message is of version {0}, this end speaks version {VERSION}; run the same Tandem release on both ends"
    )]
    Version(u8),
    /// Larger than the protocol's limit.
    #[error("a message of {size} bytes is larger than the limit of {limit}")]
    Size {
        /// Bytes of the message.
        size: usize,
        /// Bytes that it may have.
        limit: usize,
    },
    /// Not the bytes of such a message.
    #[error("the message does not decode: {0}")]
    Malformed(String),
    /// Bytes left after the message.
    #[error("{0} bytes are left after the message")]
    Trailing(usize),
}

const fn config<const MAX: usize>() -> Configuration<LittleEndian, Varint, Limit<MAX>> {
    bincode::config::standard().with_limit::<MAX>()
}

/// `message` as bytes, version byte first; at most [`SIZE_MAX`].
pub fn encode<T: Encode>(message: &T) -> Result<Vec<u8>, WireError> {
    encode_within::<SIZE_MAX, T>(message)
}

/// `message` as bytes, version byte first; at most `MAX`.
pub fn encode_within<const MAX: usize, T: Encode>(message: &T) -> Result<Vec<u8>, WireError> {
    let mut bytes = Vec::new();
    append_message::<MAX, T>(message, &mut bytes)?;
    Ok(bytes)
}

/// The message of at most [`SIZE_MAX`] bytes that `bytes` hold, all of them.
pub fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, WireError> {
    decode_within::<SIZE_MAX, T>(bytes)
}

/// The message of at most `MAX` bytes that `bytes` hold, all of them.
pub fn decode_within<const MAX: usize, T: Decode<()>>(bytes: &[u8]) -> Result<T, WireError> {
    let (&version, mut body) = bytes.split_first().ok_or(WireError::Empty)?;
    if version != VERSION {
        return Err(WireError::Version(version));
    }
    check_size(bytes.len(), MAX)?;
    let message = take_within::<MAX, T>(&mut body)?;
    if body.is_empty() { Ok(message) } else { Err(WireError::Trailing(body.len())) }
}

/// Adds the bytes of a part of a message, without a version: many of them, one after the other, are what a message carries as
/// bytes. What is too large shows when the message is made.
pub fn append<T: Encode>(part: &T, out: &mut Vec<u8>) -> Result<(), WireError> {
    bincode::encode_into_std_write(part, out, bincode::config::standard())
        .map(|_| ())
        .map_err(|error| WireError::Malformed(error.to_string()))
}

/// Takes a part that [`append`] added from the front of `bytes`; it claims no more than `MAX` bytes of memory.
pub fn take_within<const MAX: usize, T: Decode<()>>(bytes: &mut &[u8]) -> Result<T, WireError> {
    let (part, used) = bincode::decode_from_slice(bytes, config::<MAX>())
        .map_err(|error| WireError::Malformed(error.to_string()))?;
    *bytes = bytes.get(used..).unwrap_or_default();
    Ok(part)
}

/// Adds a number as [`append`] adds one of 16 bits or more; at once, where millions are written.
pub fn append_number(number: u64, out: &mut Vec<u8>) {
    let bytes = number.to_le_bytes();
    let [first, second, ..] = bytes;
    if number <= NUMBER_SHORT_MAX {
        out.push(first);
    } else if number <= u16::MAX.into() {
        out.extend_from_slice(&[NUMBER_16, first, second]);
    } else if number <= u32::MAX.into() {
        out.push(NUMBER_32);
        out.extend_from_slice(&bytes[..4]);
    } else {
        out.push(NUMBER_64);
        out.extend_from_slice(&bytes);
    }
}

/// Adds a number that may be negative, as [`append`] adds it.
pub fn append_signed(number: i64, out: &mut Vec<u8>) {
    append_number((number << 1 ^ number >> 63).cast_unsigned(), out);
}

/// Takes a number that [`append_number`] added, or [`append`] as one of type `T`, from the front of `bytes`.
pub fn take_number<T: TryFrom<u64>>(bytes: &mut &[u8]) -> Result<T, WireError> {
    let malformed = || WireError::Malformed("no number of this size".to_owned());
    let (&first, rest) = bytes.split_first().ok_or_else(malformed)?;
    let length = match first {
        NUMBER_16 => 2,
        NUMBER_32 => 4,
        NUMBER_64 => 8,
        short if u64::from(short) <= NUMBER_SHORT_MAX => 0,
        _ => return Err(malformed()),
    };
    // No more than the type has, however small the number is.
    if length > size_of::<T>() {
        return Err(malformed());
    }
    let (number, rest) = rest.split_at_checked(length).ok_or_else(malformed)?;
    let mut word = [0; 8];
    word[..length].copy_from_slice(number);
    *bytes = rest;
    let number = if length == 0 { u64::from(first) } else { u64::from_le_bytes(word) };
    T::try_from(number).map_err(|_| malformed())
}

/// Takes a number that may be negative.
pub fn take_signed(bytes: &mut &[u8]) -> Result<i64, WireError> {
    let number: u64 = take_number(bytes)?;
    Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
}

/// bincode's variable-length integers: up to this as one byte, longer ones behind a byte that says how long.
const NUMBER_SHORT_MAX: u64 = 250;
const NUMBER_16: u8 = 251;
const NUMBER_32: u8 = 252;
const NUMBER_64: u8 = 253;

/// Cuts a byte stream into frames of at most [`SIZE_MAX`] bytes.
pub type FrameReader = FramesWithin<SIZE_MAX>;

/// Cuts a byte stream into frames: a 4-byte little-endian length, then that many bytes of one message.
///
/// At most a frame of `MAX` bytes and what was pushed last are kept, if every whole message is taken before more is pushed; a
/// longer length is an error and ends the stream.
#[derive(Debug, Default)]
pub struct FramesWithin<const MAX: usize> {
    pending: Vec<u8>,
    /// Bytes at the front of `pending` that have been taken.
    taken: usize,
}

impl<const MAX: usize> FramesWithin<MAX> {
    /// Adds what was read from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.drain(..self.taken);
        self.taken = 0;
        self.pending.extend_from_slice(bytes);
    }

    /// Bytes that are kept and not yet taken.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len() - self.taken
    }

    /// The next whole message as bytes, or `None` until more have come.
    pub fn next_bytes(&mut self) -> Result<Option<&[u8]>, WireError> {
        let Some((head, rest)) = self.pending[self.taken..].split_first_chunk::<LENGTH_SIZE>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes(*head)).unwrap_or(usize::MAX);
        check_size(length, MAX)?;
        if rest.len() < length {
            return Ok(None);
        }
        let start = self.taken + LENGTH_SIZE;
        self.taken = start + length;
        Ok(Some(&self.pending[start..self.taken]))
    }

    /// The next whole message, or `None` until more bytes have come.
    pub fn next_message<T: Decode<()>>(&mut self) -> Result<Option<T>, WireError> {
        self.next_bytes()?.map(decode_within::<MAX, T>).transpose()
    }
}

/// `message` as one frame of at most [`SIZE_MAX`] bytes for a byte stream.
pub fn frame<T: Encode>(message: &T) -> Result<Vec<u8>, WireError> {
    let mut bytes = Vec::new();
    append_frame::<SIZE_MAX, T>(message, &mut bytes)?;
    Ok(bytes)
}

/// Adds `message` as one frame of at most `MAX` bytes to what is to go into a byte stream; nothing if it is too large.
pub fn append_frame<const MAX: usize, T: Encode>(message: &T, out: &mut Vec<u8>) -> Result<(), WireError> {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_SIZE]);
    if let Err(error) = append_message::<MAX, T>(message, out) {
        out.truncate(start);
        return Err(error);
    }
    let size = out.len() - start - LENGTH_SIZE;
    let length = u32::try_from(size).map_err(|_| WireError::Size { size, limit: MAX })?;
    out[start..start + LENGTH_SIZE].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

fn append_message<const MAX: usize, T: Encode>(message: &T, out: &mut Vec<u8>) -> Result<(), WireError> {
    let start = out.len();
    out.push(VERSION);
    append(message, out)?;
    check_size(out.len() - start, MAX)
}

const fn check_size(size: usize, limit: usize) -> Result<(), WireError> {
    if size > limit { Err(WireError::Size { size, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug, PartialEq, Encode, Decode)]
    struct Sample {
        name: String,
        count: u64,
    }

    fn sample() -> Sample {
        Sample { name: "web".to_owned(), count: 300 }
    }

    #[test]
    fn golden() {
        assert_eq!(encode(&sample()).unwrap(), [1, 3, b'w', b'e', b'b', 0xfb, 0x2c, 0x01]);
        assert_eq!(frame(&sample()).unwrap()[..4], [8, 0, 0, 0]);
    }

    #[test]
    fn refusals_are_told_apart() {
        assert_eq!(decode::<Sample>(&[]), Err(WireError::Empty));
        assert_eq!(decode::<Sample>(&[9, 0]), Err(WireError::Version(9)));
        assert_eq!(decode::<Sample>(&[1, 0, 0, 7, 7]), Err(WireError::Trailing(2)));
        assert!(matches!(decode::<Sample>(&[1, 200, 1]), Err(WireError::Malformed(_))));
        let mut reader = FrameReader::default();
        reader.push(&u32::MAX.to_le_bytes());
        assert!(matches!(reader.next_message::<Sample>(), Err(WireError::Size { .. })));
    }

    #[test]
    fn a_huge_declared_length_does_not_allocate() {
        let mut bytes = vec![VERSION, 0xfd];
        bytes.extend_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(decode::<Vec<u8>>(&bytes), Err(WireError::Malformed(_))));
    }

    #[test]
    fn a_protocol_may_have_another_limit() {
        let large = vec![7_u8; SIZE_MAX];
        let size = SIZE_MAX + 4;
        assert_eq!(encode(&large), Err(WireError::Size { size, limit: SIZE_MAX }));
        let mut bytes = vec![9];
        assert_eq!(
            append_frame::<SIZE_MAX, _>(&large, &mut bytes),
            Err(WireError::Size { size, limit: SIZE_MAX })
        );
        assert_eq!(bytes, [9], "nothing is left of what was too large");
        append_frame::<{ 2 * SIZE_MAX }, _>(&large, &mut bytes).unwrap();
        let mut reader = FramesWithin::<{ 2 * SIZE_MAX }>::default();
        reader.push(&bytes[1..]);
        assert_eq!(reader.next_message::<Vec<u8>>().unwrap(), Some(large));
        assert_eq!(reader.pending(), 0);
        let mut narrow = FrameReader::default();
        narrow.push(&bytes[1..]);
        assert_eq!(narrow.next_message::<Vec<u8>>(), Err(WireError::Size { size, limit: SIZE_MAX }));
    }

    proptest! {
        /// Whatever bincode makes of them, numbers at the borders above all.
        #[test]
        fn numbers_are_bincodes(number: u64, bits in 0_u32..64, signed: i64, noise in proptest::collection::vec(any::<u8>(), 0..12)) {
            for number in [number >> bits, 250, 251, 0xffff, 0x1_0000, 0xffff_ffff, 0x1_0000_0000] {
                let (mut ours, mut theirs) = (Vec::new(), Vec::new());
                append_number(number, &mut ours);
                append(&number, &mut theirs).unwrap();
                prop_assert_eq!(&ours, &theirs);
                prop_assert_eq!(take_number::<u64>(&mut &ours[..]), Ok(number));
            }
            for number in [signed, signed >> bits, -1, i64::MIN] {
                let (mut ours, mut theirs) = (Vec::new(), Vec::new());
                append_signed(number, &mut ours);
                append(&number, &mut theirs).unwrap();
                prop_assert_eq!(&ours, &theirs);
                prop_assert_eq!(take_signed(&mut &ours[..]), Ok(number));
            }
            // What bincode takes of noise, and nothing else.
            fn same<T: TryFrom<u64> + Decode<()> + PartialEq + std::fmt::Debug>(noise: &[u8]) {
                let (mut ours, mut theirs) = (noise, noise);
                let (taken, expected) = (take_number::<T>(&mut ours), take_within::<SIZE_MAX, T>(&mut theirs));
                assert_eq!(taken.ok(), expected.ok(), "{noise:?}");
                assert_eq!(ours, theirs);
            }
            for first in [noise.first().copied().unwrap_or(0), 250, 251, 252, 253, 254, 255] {
                let noise: Vec<u8> = std::iter::once(first).chain(noise.iter().copied()).collect();
                for length in 0..=noise.len() {
                    same::<u16>(&noise[..length]);
                    same::<u32>(&noise[..length]);
                    same::<u64>(&noise[..length]);
                }
            }
        }
    }

    #[test]
    fn parts_follow_each_other() {
        let mut bytes = Vec::new();
        append(&sample(), &mut bytes).unwrap();
        append(&300_u16, &mut bytes).unwrap();
        let mut rest = &bytes[..];
        assert_eq!(take_within::<100, Sample>(&mut rest).unwrap(), sample());
        assert_eq!(rest, [0xfb, 0x2c, 0x01]);
        assert!(take_within::<100, Sample>(&mut rest).is_err());
        assert_eq!((take_within::<100, u16>(&mut rest).unwrap(), rest.len()), (300, 0));
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(cut in 1_usize..13) {
            let bytes = [frame(&sample()).unwrap(), frame(&sample()).unwrap()].concat();
            let mut reader = FrameReader::default();
            let mut seen = Vec::new();
            for part in bytes.chunks(cut) {
                reader.push(part);
                while let Some(message) = reader.next_message::<Sample>().unwrap() {
                    seen.push(message);
                }
            }
            prop_assert_eq!(seen, vec![sample(), sample()]);
        }

        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            decode::<Sample>(&bytes).ok();
        }
    }
}
