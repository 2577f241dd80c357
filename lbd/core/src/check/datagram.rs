//! The UDP check: one datagram out, one back.

use super::{Failure, Verdict};

/// The largest beginning of an answer that is compared, in bytes.
pub const EXPECT_BYTES_MAX: usize = 65_507;

/// Judges the first datagram that came back: it begins with `expect`, or is anything if nothing is expected.
///
/// # Errors
/// [`Failure::OtherDatagram`].
pub fn judge(answer: &[u8], expect: Option<&[u8]>) -> Verdict {
    if expect.is_none_or(|expect| answer.starts_with(expect)) { Ok(()) } else { Err(Failure::OtherDatagram) }
}

/// How many bytes of the answer have to be received for [`judge`]; at least one, so that an empty answer differs from none.
#[must_use]
pub fn answer_bytes(expect: Option<&[u8]>) -> usize {
    expect.map_or(1, <[u8]>::len).clamp(1, EXPECT_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        assert_eq!(judge(b"", None), Ok(()));
        assert_eq!(judge(b"\0anything", None), Ok(()));
        assert_eq!(judge(b"pong 1", Some(b"pong")), Ok(()));
        assert_eq!(judge(b"pon", Some(b"pong")), Err(Failure::OtherDatagram));
        assert_eq!(judge(b"ping", Some(b"pong")), Err(Failure::OtherDatagram));
        assert_eq!(judge(b"", Some(b"pong")), Err(Failure::OtherDatagram));
    }

    #[test]
    fn room_for_what_is_compared() {
        assert_eq!((answer_bytes(None), answer_bytes(Some(b"")), answer_bytes(Some(b"pong"))), (1, 1, 4));
        assert_eq!(answer_bytes(Some(&vec![0; 100_000])), EXPECT_BYTES_MAX);
    }
}
