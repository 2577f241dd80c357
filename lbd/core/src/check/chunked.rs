//! The chunked transfer coding of HTTP/1.1 (RFC 9112 §7.1), decoded as it comes.

/// The longest line between chunks, extensions included.
const LINE_BYTES_MAX: usize = 256;

/// Not a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotChunked;

/// A decoder that keeps nothing of the body.
#[derive(Clone, Debug)]
pub(super) struct Decoder {
    state: State,
    /// Of the chunk: while its size is read what has been read of it, then what is left of its data.
    size: u64,
    /// Bytes of the size's line so far.
    line: usize,
    /// Digits of the size so far.
    digits: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Extension,
    SizeEnd,
    Data,
    DataCr,
    DataLf,
    Ended,
}

impl Decoder {
    pub(super) const fn new() -> Self {
        Self { state: State::Size, size: 0, line: 0, digits: 0 }
    }

    /// Takes the next bytes and hands the data among them to `data`. Whether the body has ended; a trailer section is not looked at.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut data: impl FnMut(&[u8])) -> Result<bool, NotChunked> {
        while self.state != State::Ended {
            if self.state == State::Data {
                let count = usize::try_from(self.size).unwrap_or(usize::MAX).min(bytes.len());
                let (now, rest) = bytes.split_at(count);
                data(now);
                bytes = rest;
                self.size -= u64::try_from(count).unwrap_or(self.size);
                if self.size > 0 {
                    return Ok(false);
                }
                self.state = State::DataCr;
            }
            let Some((&byte, rest)) = bytes.split_first() else { return Ok(false) };
            bytes = rest;
            self.step(byte)?;
        }
        Ok(true)
    }

    /// Takes a byte that is not data.
    fn step(&mut self, byte: u8) -> Result<(), NotChunked> {
        self.line += 1;
        if self.line > LINE_BYTES_MAX {
            return Err(NotChunked);
        }
        self.state = match (self.state, byte) {
            (State::Size, b'\r') | (State::Extension, b'\r') if self.digits > 0 => State::SizeEnd,
            (State::Size, b';' | b' ' | b'\t') if self.digits > 0 => State::Extension,
            (State::Size, _) => {
                let digit = char::from(byte).to_digit(16).ok_or(NotChunked)?;
                self.digits += 1;
                self.size = self.size.checked_mul(16).ok_or(NotChunked)? + u64::from(digit);
                State::Size
            }
            (State::Extension, 0x20..=0xff | b'\t') => State::Extension,
            (State::SizeEnd, b'\n') if self.size == 0 => State::Ended,
            (State::SizeEnd, b'\n') => {
                self.line = 0;
                State::Data
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => {
                (self.line, self.digits) = (0, 0);
                State::Size
            }
            _ => return Err(NotChunked),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(bytes: &[u8]) -> Result<(Vec<u8>, bool), NotChunked> {
        let mut body = Vec::new();
        let ended = Decoder::new().push(bytes, |data| body.extend_from_slice(data))?;
        Ok((body, ended))
    }

    #[test]
    fn decodes_what_the_standard_shows() {
        let plain = b"4\r\nWiki\r\n7\r\npedia i\r\nB\r\nn \r\nchunks.\r\n0\r\n\r\n";
        assert_eq!(decode(plain), Ok((b"Wikipedia in \r\nchunks.".to_vec(), true)));
        let extended = b"00004;name=\"a;b\" ; x\r\nWiki\r\n0;last\r\nTrailer: x\r\n\r\n";
        assert_eq!(decode(extended), Ok((b"Wiki".to_vec(), true)));
        assert_eq!(decode(b"4\r\nWi"), Ok((b"Wi".to_vec(), false)));
    }

    #[test]
    fn refuses_what_is_not_chunked() {
        for bad in [
            "\r\n",
            "x\r\n",
            "4\nWiki",
            "4\r\nWikiX",
            "4\r\nWiki\n",
            "ffffffffffffffff0\r\n",
            ";\r\n",
            "-1\r\n",
        ] {
            assert_eq!(decode(bad.as_bytes()), Err(NotChunked), "{bad:?}");
        }
        let endless = format!("4;{}", "x".repeat(LINE_BYTES_MAX));
        assert_eq!(decode(endless.as_bytes()), Err(NotChunked), "an extension without end");
        assert_eq!(decode("0".repeat(LINE_BYTES_MAX + 1).as_bytes()), Err(NotChunked), "a size without end");
    }

    proptest! {
        /// Whatever the chunks and wherever the reads cut them, the body comes out.
        #[test]
        fn chunks_and_cuts_do_not_matter(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6), cut in 1_usize..20
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let (mut decoder, mut body, mut ended) = (Decoder::new(), Vec::new(), false);
            for piece in wire.chunks(cut) {
                ended = decoder.push(piece, |data| body.extend_from_slice(data)).unwrap();
            }
            prop_assert!(ended);
            prop_assert_eq!(body, chunks.concat());
        }

        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut count = 0;
            let result = Decoder::new().push(&bytes, |data| count += data.len());
            prop_assert!(count <= bytes.len() && (result.is_ok() || result == Err(NotChunked)));
        }
    }
}
