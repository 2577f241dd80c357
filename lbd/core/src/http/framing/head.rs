//! Lines and fields, which requests, answers and trailers have in common.

use std::ops::Range;

use memchr::memchr;

use super::Fault;

/// More fields than this no message may have.
pub const FIELDS_MAX: usize = 128;

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: one request per connection unless said otherwise, no transfer codings.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2: what ends a message is not said in its head.
    Http2,
}

impl Version {
    pub(super) fn parse(text: &[u8]) -> Result<Self, Fault> {
        match text {
            b"HTTP/1.1" => Ok(Self::Http11),
            b"HTTP/1.0" => Ok(Self::Http10),
            _ => Err(Fault::Version),
        }
    }
}

/// A field of a head or of trailers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'b> {
    /// Its name as it came: a token.
    pub name: &'b [u8],
    /// Its value, without white space around it and without control characters.
    pub value: &'b [u8],
}

impl Field<'_> {
    /// Whether this is its name, given in lower case.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// Finds the end of a head while it comes in, without looking at a byte twice.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scanner {
    scanned: usize,
    /// Where the line under way begins.
    line: usize,
    /// Where the first line begins: behind an empty one, of which a request may have one before it.
    begin: usize,
}

impl Scanner {
    /// Looks at what has come by now: `bytes` begin where the head does, and were longer or as long with each call. Answers
    /// where the head is once its end is there.
    ///
    /// # Errors
    ///
    /// A line that ends wrongly, or that there is no end within `max` bytes.
    pub fn scan(&mut self, bytes: &[u8], max: usize) -> Result<Option<Range<usize>>, Fault> {
        while let Some(offset) = memchr(b'\n', &bytes[self.scanned..]) {
            let at = self.scanned + offset;
            if at == 0 || bytes[at - 1] != b'\r' {
                return Err(Fault::LineEnd);
            }
            if at >= max {
                return Err(self.too_long());
            }
            let empty = at == self.line + 1;
            (self.scanned, self.line) = (at + 1, at + 1);
            if empty {
                if at > self.begin + 1 {
                    return Ok(Some(self.begin..at + 1));
                }
                // RFC 9112, section 2.2: "a server that is expecting to receive and parse a request-line SHOULD ignore at least
                // one empty line (CRLF) received prior to the request-line". One is what old clients send; more is noise.
                if self.begin > 0 {
                    return Err(Fault::FirstLine);
                }
                self.begin = at + 1;
            }
        }
        self.scanned = bytes.len();
        if bytes.len() > max { Err(self.too_long()) } else { Ok(None) }
    }

    /// Whether nothing of a message has come.
    #[must_use]
    pub const fn is_new(&self) -> bool {
        self.scanned <= self.begin
    }

    const fn too_long(&self) -> Fault {
        if self.line <= self.begin { Fault::LineTooLong } else { Fault::HeadTooLong }
    }
}

/// The lines of a head whose every LF has a CR before it; the last one is empty.
pub(super) fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(head);
    std::iter::from_fn(move || {
        let here = rest?;
        let line = match memchr(b'\n', here) {
            Some(end) => {
                rest = Some(&here[end + 1..]);
                &here[..end]
            }
            None => {
                rest = None;
                here
            }
        };
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    })
}

/// The fields of the lines up to the empty one.
pub(super) fn fields<'b>(lines: impl Iterator<Item = &'b [u8]>) -> Result<Vec<Field<'b>>, Fault> {
    let mut fields = Vec::with_capacity(24);
    for line in lines.take_while(|line| !line.is_empty()) {
        if fields.len() == FIELDS_MAX {
            return Err(Fault::HeadTooLong);
        }
        fields.push(field(line)?);
    }
    Ok(fields)
}

fn field(line: &[u8]) -> Result<Field<'_>, Fault> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Fault::Folded);
    }
    // A name has nothing but a token's bytes, of which a colon is none.
    let colon = line.iter().position(|byte| !is_token_byte(*byte)).ok_or(Fault::FieldName)?;
    if colon == 0 || line[colon] != b':' {
        return Err(Fault::FieldName);
    }
    let value = trim(&line[colon + 1..]);
    if !are_field_bytes(value) {
        return Err(Fault::FieldValue);
    }
    Ok(Field { name: &line[..colon], value })
}

/// RFC 9110, section 5.5: `field-vchar = VCHAR / obs-text`, and spaces and tabs between them.
const fn is_field_byte(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

/// Whether all of them are such. Several at once: without a branch for each, of which none is ever taken in what is right.
pub(super) fn are_field_bytes(text: &[u8]) -> bool {
    text.iter().fold(true, |all, byte| all & is_field_byte(*byte))
}

/// RFC 9110, section 5.6.2: `token = 1*tchar`.
pub(crate) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| is_token_byte(*byte))
}

const fn is_token_byte(byte: u8) -> bool {
    const TCHAR: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0_u8;
        while byte < 128 {
            table[byte as usize] = byte.is_ascii_alphanumeric()
                || matches!(
                    byte,
                    b'!' | b'#'
                        | b'$'
                        | b'%'
                        | b'&'
                        | b'\''
                        | b'*'
                        | b'+'
                        | b'-'
                        | b'.'
                        | b'^'
                        | b'_'
                        | b'`'
                        | b'|'
                        | b'~'
                );
            byte += 1;
        }
        table
    };
    TCHAR[byte as usize]
}

/// Without the optional white space around it: spaces and tabs, nothing else.
pub(crate) fn trim(text: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = text.iter().position(|byte| !blank(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    &text[start..end]
}

/// The members of a list, without the empty ones.
pub(crate) fn members(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(trim).filter(|member| !member.is_empty())
}

/// RFC 9110, section 8.6: `Content-Length = 1*DIGIT`, without anything else.
pub(super) fn length(value: &[u8]) -> Result<u64, Fault> {
    let plain = !value.is_empty() && value.len() <= 19 && value.iter().all(u8::is_ascii_digit);
    // 19 digits are less than 2^64.
    let digits = std::str::from_utf8(value).ok().filter(|_| plain);
    digits.and_then(|digits| digits.parse().ok()).ok_or(Fault::Length)
}

/// What the fields of a message say about where it ends, in requests and answers alike.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lengths {
    pub(super) length: Option<u64>,
    pub(super) chunked: bool,
}

impl Lengths {
    pub(super) fn add_length(&mut self, value: &[u8]) -> Result<(), Fault> {
        // Also twice the same: somebody has written it twice for a reason.
        if self.length.replace(length(value)?).is_some() {
            return Err(Fault::Length);
        }
        Ok(())
    }

    pub(super) fn add_coding(&mut self, value: &[u8]) -> Result<(), Fault> {
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Fault::Coding);
        }
        self.chunked = true;
        Ok(())
    }

    pub(super) const fn check(self, version: Version) -> Result<(), Fault> {
        if self.chunked && matches!(version, Version::Http10) {
            return Err(Fault::Coding);
        }
        if self.chunked && self.length.is_some() {
            return Err(Fault::LengthAndCoding);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_found_however_it_comes() {
        let bytes = b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nbody";
        for step in 1..bytes.len() {
            let mut scanner = Scanner::default();
            assert!(scanner.is_new());
            let mut found = None;
            for end in (step..=bytes.len()).step_by(step).chain([bytes.len()]) {
                found = scanner.scan(&bytes[..end], 1024).unwrap();
                if found.is_some() {
                    break;
                }
            }
            assert_eq!(found, Some(2..bytes.len() - 4), "{step}");
            assert!(!scanner.is_new());
        }
    }

    #[test]
    fn what_ends_wrongly_or_too_late_is_refused_at_once() {
        let scan = |bytes: &[u8], max| Scanner::default().scan(bytes, max);
        assert_eq!(scan(b"GET / HTTP/1.1\n", 99), Err(Fault::LineEnd));
        assert_eq!(scan(b"\n", 99), Err(Fault::LineEnd));
        assert_eq!(scan(b"\r\n\r\n", 99), Err(Fault::FirstLine));
        assert_eq!(scan(b"GET /aaaaaaaaaaaaaa", 10), Err(Fault::LineTooLong));
        assert_eq!(scan(b"GET / HTTP/1.1\r\nA: bbbbbb", 20), Err(Fault::HeadTooLong));
        assert_eq!(scan(b"GET / HTTP/1.1\r\nA: b\r\n\r\n", 20), Err(Fault::HeadTooLong));
        assert_eq!(scan(b"GET / HTTP/1.1\r\nA: b\r\n\r\n", 24), Ok(Some(0..24)));
        let mut scanner = Scanner::default();
        assert_eq!(scanner.scan(b"\r\n", 99), Ok(None));
        assert!(scanner.is_new(), "an empty line is nothing yet");
    }

    #[test]
    fn numbers_are_plain() {
        assert_eq!(length(b"0"), Ok(0));
        assert_eq!(length(b"0012"), Ok(12));
        assert_eq!(length(b"9999999999999999999"), Ok(9_999_999_999_999_999_999));
        for bad in ["", "+1", "-1", "0x1", "1,1", "1 1", "1.0", "99999999999999999999"] {
            assert_eq!(length(bad.as_bytes()), Err(Fault::Length), "{bad}");
        }
    }

    #[test]
    fn white_space_is_spaces_and_tabs() {
        assert_eq!(trim(b" \ta b\t "), b"a b");
        assert_eq!(trim(b"\x0ba"), b"\x0ba");
        assert_eq!(trim(b"  "), b"");
        assert_eq!(members(b"a, b,, c ,").collect::<Vec<_>>(), [b"a", b"b", b"c"]);
    }
}
