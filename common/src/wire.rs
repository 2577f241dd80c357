//! The one place that knows bincode: encoding with a version byte, decoding with a hard size limit.
//!
//! Used by the vrrpd ↔ lbd socket ([`crate::ipc`]) and the peer link. Integers are variable-length little endian
//! (bincode's standard configuration). Golden vectors in the tests pin the bytes: a change of them is a change of
//! [`VERSION`].

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::{Decode, Encode};

/// The first byte of every message.
pub const VERSION: u8 = 1;

/// The largest message accepted or made, in bytes, version byte included.
pub const SIZE_MAX: usize = 16 * 1024;

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
    /// Larger than [`SIZE_MAX`].
    #[error("a message of {0} bytes is larger than the limit of {SIZE_MAX}")]
    Size(usize),
    /// Not the bytes of such a message.
    #[error("the message does not decode: {0}")]
    Malformed(String),
    /// Bytes left after the message.
    #[error("{0} bytes are left after the message")]
    Trailing(usize),
}

const CONFIG: Configuration<LittleEndian, Varint, Limit<SIZE_MAX>> =
    bincode::config::standard().with_limit::<SIZE_MAX>();

/// `message` as bytes, version byte first.
pub fn encode<T: Encode>(message: &T) -> Result<Vec<u8>, WireError> {
    let mut bytes = vec![VERSION];
    bincode::encode_into_std_write(message, &mut bytes, CONFIG)
        .map_err(|error| WireError::Malformed(error.to_string()))?;
    if bytes.len() > SIZE_MAX {
        return Err(WireError::Size(bytes.len()));
    }
    Ok(bytes)
}

/// The message that `bytes` hold, all of them.
pub fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, WireError> {
    let (&version, body) = bytes.split_first().ok_or(WireError::Empty)?;
    if version != VERSION {
        return Err(WireError::Version(version));
    }
    if bytes.len() > SIZE_MAX {
        return Err(WireError::Size(bytes.len()));
    }
    let (message, used) =
        bincode::decode_from_slice(body, CONFIG).map_err(|error| WireError::Malformed(error.to_string()))?;
    if used != body.len() {
        return Err(WireError::Trailing(body.len() - used));
    }
    Ok(message)
}

/// Cuts a byte stream into frames: a 4-byte little-endian length, then that many bytes of one message.
///
/// At most [`SIZE_MAX`] bytes are ever kept; a longer length is an error and ends the stream.
#[derive(Debug, Default)]
pub struct FrameReader {
    pending: Vec<u8>,
}

impl FrameReader {
    /// Adds what was read from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` until more bytes have come.
    pub fn next_message<T: Decode<()>>(&mut self) -> Result<Option<T>, WireError> {
        let Some((head, rest)) = self.pending.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes(*head)).unwrap_or(usize::MAX);
        if length > SIZE_MAX {
            return Err(WireError::Size(length));
        }
        if rest.len() < length {
            return Ok(None);
        }
        let message = decode(&rest[..length]);
        self.pending.drain(..4 + length);
        message.map(Some)
    }
}

/// `message` as one frame for a byte stream.
pub fn frame<T: Encode>(message: &T) -> Result<Vec<u8>, WireError> {
    let body = encode(message)?;
    let length = u32::try_from(body.len()).map_err(|_| WireError::Size(body.len()))?;
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);
    Ok(bytes)
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
        assert!(matches!(reader.next_message::<Sample>(), Err(WireError::Size(_))));
    }

    #[test]
    fn a_huge_declared_length_does_not_allocate() {
        let mut bytes = vec![VERSION, 0xfd];
        bytes.extend_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(decode::<Vec<u8>>(&bytes), Err(WireError::Malformed(_))));
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
