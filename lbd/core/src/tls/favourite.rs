//! Which cipher suite a client would rather have, as the begin of its hello tells.

/// Those with ChaCha20: of TLS 1.3 (RFC 8446, appendix B.4), and of TLS 1.2 with RSA, ECDSA and DHE (RFC 7905, section 2).
const CHACHA20: [usize; 4] = [0x1303, 0xcca8, 0xcca9, 0xccaa];

/// A handshake message in a record, and a client's hello as such a message (RFC 8446, sections 5.1 and 4).
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: usize = 1;

/// The header of a record, and what stands before the session's id in a hello: the message's type and length, the version, and 32 random bytes.
const HEADER_BYTES: usize = 5;
const FIXED_BYTES: usize = 4 + 2 + 32;

/// So many entries of the list are looked at: before the first suite there is one that is none, at most.
const ENTRIES_MAX: usize = 4;

/// Why there is no suite.
enum Stop {
    /// More has to come.
    More,
    /// It is no hello, or one that is cut into records.
    Unclear,
}

/// Whether a client would rather have ChaCha20 than AES: it names a suite with that first, as those do whose processors have no instructions
/// for AES. `bytes` are what it has sent first; nothing as long as they do not tell.
#[must_use]
pub fn prefers_chacha20(bytes: &[u8]) -> Option<bool> {
    match first_suite(bytes) {
        Ok(suite) => Some(CHACHA20.contains(&suite)),
        Err(Stop::Unclear) => Some(false),
        Err(Stop::More) => None,
    }
}

fn first_suite(bytes: &[u8]) -> Result<usize, Stop> {
    if *bytes.first().ok_or(Stop::More)? != HANDSHAKE {
        return Err(Stop::Unclear);
    }
    let length = bytes.get(3..HEADER_BYTES).ok_or(Stop::More)?;
    let end = HEADER_BYTES + (usize::from(length[0]) << 8 | usize::from(length[1]));
    let byte = |place: usize| match bytes.get(place) {
        _ if place >= end => Err(Stop::Unclear),
        Some(byte) => Ok(usize::from(*byte)),
        None => Err(Stop::More),
    };
    let pair = |place: usize| -> Result<usize, Stop> { Ok(byte(place)? << 8 | byte(place + 1)?) };
    if byte(HEADER_BYTES)? != CLIENT_HELLO {
        return Err(Stop::Unclear);
    }
    let session = HEADER_BYTES + FIXED_BYTES;
    let list = session + 1 + byte(session)?;
    let begin = list + 2;
    for place in (begin..begin + pair(list)?).step_by(2).take(ENTRIES_MAX) {
        let suite = pair(place)?;
        if !is_none(suite) {
            return Ok(suite);
        }
    }
    Err(Stop::Unclear)
}

/// Whether an entry is no suite: one that is there so that servers get used to unknown ones (RFC 8701, section 2), or that says something else
/// (RFC 5746, section 3.3, and RFC 7507, section 2).
const fn is_none(suite: usize) -> bool {
    let reserved = suite & 0x0f0f == 0x0a0a && suite >> 8 == suite & 0xff;
    reserved || matches!(suite, 0x00ff | 0x5600)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hello that names these suites, with a session's id of so many bytes.
    fn hello(session: u8, suites: &[u16]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.push(session);
        body.extend(vec![9; usize::from(session)]);
        body.extend(u16::try_from(2 * suites.len()).unwrap().to_be_bytes());
        body.extend(suites.iter().flat_map(|suite| suite.to_be_bytes()));
        body.extend([1, 0]);
        let length = |extra: usize| u16::try_from(body.len() + extra).unwrap().to_be_bytes();
        [&[22, 3, 1][..], &length(4), &[1, 0], &length(0), &body].concat()
    }

    #[test]
    fn the_first_suite_tells() {
        for (suites, prefers) in [
            (&[0x1303, 0x1301, 0x1302][..], true),
            (&[0xcca9, 0xc02b], true),
            (&[0xcca8], true),
            (&[0x1301, 0x1303], false),
            (&[0x1302, 0x1303, 0x1301], false),
            (&[0x0a0a, 0x1303, 0x1301], true),
            (&[0xfafa, 0x1301, 0x1303], false),
            (&[0x00ff, 0x5600, 0x1303], true),
            (&[0x0a1a, 0x1303], false),
            (&[0x0a0a, 0x1a1a, 0x2a2a, 0x3a3a, 0x1303], false),
            (&[], false),
        ] {
            for session in [0, 32] {
                assert_eq!(prefers_chacha20(&hello(session, suites)), Some(prefers), "{suites:x?}");
            }
        }
    }

    #[test]
    fn more_is_waited_for_as_long_as_it_may_tell() {
        let whole = hello(32, &[0x0a0a, 0x1303]);
        // What follows the suite does not matter.
        let enough = whole.len() - 2;
        for end in 0..=whole.len() {
            let expected = (end >= enough).then_some(true);
            assert_eq!(prefers_chacha20(&whole[..end]), expected, "{end} of {} bytes", whole.len());
        }
    }

    #[test]
    fn what_is_no_hello_is_not_waited_for() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x80\x2e\x01\x03\x01",
            // No room for a message, for another one, and for the whole of one.
            b"\x16\x03\x01\x00\x00",
            b"\x16\x03\x01\x00\x20\x02",
            b"\x16\x03\x01\x00\x04\x01\x00\x00\xff\x16\x03\x01\x00\xfb\x03\x03aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x00",
        ] {
            assert_eq!(prefers_chacha20(bytes), Some(false), "{bytes:02x?}");
        }
        assert_eq!(prefers_chacha20(b""), None);
        assert_eq!(prefers_chacha20(b"\x16\x03\x01\x00\x20"), None);
    }
}
