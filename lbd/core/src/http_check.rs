//! The HTTP health check's request, and the verdict on what came back.

use std::fmt::Write as _;

/// The most that is read of an answer, in bytes: a head longer than this fails the check.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Why an answer fails the check.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// A status out of the accepted ranges.
    #[error("status {0}")]
    Status(u16),
    /// Not the beginning of an HTTP/1 answer.
    #[error("the answer is not HTTP/1")]
    NotHttp,
    /// No end of the head within [`HEAD_BYTES_MAX`].
    #[error("the answer's head is larger than {HEAD_BYTES_MAX} bytes")]
    TooLong,
    /// The stream ended within the head.
    #[error("the connection was closed before the answer's head was complete")]
    Truncated,
}

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

/// Judges what has been read so far: `None` as long as more is needed. `ended` says that nothing will follow.
pub fn judge(read: &[u8], ended: bool, expect: &[(u16, u16)]) -> Option<Result<(), AnswerError>> {
    const START: &[u8] = b"HTTP/1.";
    let shared = read.len().min(START.len());
    if read[..shared] != START[..shared] {
        return Some(Err(AnswerError::NotHttp));
    }
    if !read.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        if read.len() >= HEAD_BYTES_MAX {
            return Some(Err(AnswerError::TooLong));
        }
        return ended.then_some(Err(AnswerError::Truncated));
    }
    Some(match status(read) {
        Some(status) if expect.iter().any(|&(low, high)| (low..=high).contains(&status)) => Ok(()),
        Some(status) => Err(AnswerError::Status(status)),
        None => Err(AnswerError::NotHttp),
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OK: &[(u16, u16)] = &[(200, 299)];

    #[test]
    fn verdicts() {
        assert_eq!(judge(b"HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n", false, OK), Some(Ok(())));
        assert_eq!(judge(b"HTTP/1.0 200\r\n\r\nbody", false, OK), Some(Ok(())));
        assert_eq!(judge(b"HTTP/1.1 503 Busy\r\n\r\n", false, OK), Some(Err(AnswerError::Status(503))));
        assert_eq!(judge(b"HTTP/1.1 404 x\r\n\r\n", false, &[(200, 200), (404, 404)]), Some(Ok(())));
        assert_eq!(judge(b"HTTP/1.1 200 OK\r\n", true, OK), Some(Err(AnswerError::Truncated)));
        assert_eq!(judge(b"", true, OK), Some(Err(AnswerError::Truncated)));
        assert_eq!(judge(b"SSH-2.0-x", false, OK), Some(Err(AnswerError::NotHttp)));
        assert_eq!(judge(b"HTTP/1.1 2000 x\r\n\r\n", false, OK), Some(Err(AnswerError::NotHttp)));
        let mut long = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
        long.resize(HEAD_BYTES_MAX, b'x');
        assert_eq!(judge(&long, false, OK), Some(Err(AnswerError::TooLong)));
    }

    #[test]
    fn the_request_is_one_get() {
        let text = String::from_utf8(request("/health", "shop.example")).unwrap();
        assert!(text.starts_with("GET /health HTTP/1.1\r\nHost: shop.example\r\n"));
        assert!(text.ends_with("Connection: close\r\n\r\n"));
    }

    proptest! {
        /// A good answer is accepted at whatever point the reads cut it, and never before its head is complete.
        #[test]
        fn cuts_do_not_matter(cut in 0_usize..40) {
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            let cut = cut.min(answer.len());
            let expected = (cut == answer.len()).then_some(Ok(()));
            prop_assert_eq!(judge(&answer[..cut], false, OK), expected);
        }

        #[test]
        fn noise_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..64), http in any::<bool>()) {
            if http {
                bytes.splice(0..0, *b"HTTP/1.1 ");
                bytes.extend_from_slice(b"\r\n\r\n");
            }
            let verdict = judge(&bytes, true, OK);
            prop_assert!(verdict.is_some());
        }
    }
}
