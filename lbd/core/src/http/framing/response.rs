//! The heads of answers.

use super::head::{Lengths, are_field_bytes, fields, is_token, lines, members};
use super::{Fault, Field, Version};
use crate::http::fields::Known;

/// An answer without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead<'b> {
    /// The status, 100 to 999.
    pub status: u16,
    /// What stands behind it.
    pub reason: &'b [u8],
    /// All fields in their order.
    pub fields: Vec<Field<'b>>,
    /// What follows.
    pub body: ResponseBody,
    /// The `Content-Length` as it was given, also where nothing follows because nothing was asked for.
    pub length: Option<u64>,
    /// Whether the target would use the connection again.
    pub keep_alive: bool,
    /// The fields that `Connection` names.
    pub for_one_hop: Vec<&'b [u8]>,
}

/// The body of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseBody {
    /// None.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// All until the end of the connection.
    UntilClose,
}

impl ResponseHead<'_> {
    /// Whether another answer to the same request follows: 1xx, but 101, after which there are no messages any more.
    #[must_use]
    pub const fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }
}

/// Reads the head of an answer; `to_head` says that it is one to a request with the method `HEAD`.
///
/// # Errors
///
/// Why it cannot be used.
pub fn parse_response(head: &[u8], to_head: bool) -> Result<ResponseHead<'_>, Fault> {
    let mut lines = lines(head);
    let (version, status, reason) = status_line(lines.next().unwrap_or_default())?;
    let fields = fields(lines)?;
    let mut lengths = Lengths::default();
    let (mut close, mut keep_alive) = (false, false);
    let mut for_one_hop = Vec::new();
    for field in &fields {
        match Known::of(field.name) {
            Some(Known::ContentLength) => lengths.add_length(field.value)?,
            Some(Known::TransferEncoding) => lengths.add_coding(field.value)?,
            Some(Known::Connection) => {
                for member in members(field.value) {
                    close |= member.eq_ignore_ascii_case(b"close");
                    keep_alive |= member.eq_ignore_ascii_case(b"keep-alive");
                    if !is_token(member) {
                        return Err(Fault::Connection);
                    }
                    for_one_hop.push(member);
                }
            }
            _ => {}
        }
    }
    lengths.check(version)?;
    // RFC 9112, section 6.3: "Any response to a HEAD request and any response with a 1xx (Informational), 204 (No Content), or 304
    // (Not Modified) status code is always terminated by the first empty line after the header fields".
    let body = match lengths.length {
        _ if to_head || status < 200 || matches!(status, 204 | 304) => ResponseBody::None,
        _ if lengths.chunked => ResponseBody::Chunked,
        Some(length) => ResponseBody::Length(length),
        None => ResponseBody::UntilClose,
    };
    let keep_alive = !close && (version == Version::Http11 || keep_alive) && body != ResponseBody::UntilClose;
    Ok(ResponseHead { status, reason, fields, body, length: lengths.length, keep_alive, for_one_hop })
}

/// RFC 9112, section 4: `status-line = HTTP-version SP status-code SP [ reason-phrase ]`. Without a reason some leave the
/// second space out, too.
fn status_line(line: &[u8]) -> Result<(Version, u16, &[u8]), Fault> {
    let mut parts = line.splitn(3, |byte| *byte == b' ');
    let version = Version::parse(parts.next().unwrap_or_default())?;
    let code = parts.next().ok_or(Fault::FirstLine)?;
    let reason = parts.next().unwrap_or_default();
    let plain = code.len() == 3 && code.iter().all(u8::is_ascii_digit);
    let status = std::str::from_utf8(code).ok().filter(|_| plain).and_then(|code| code.parse().ok());
    let status = status.filter(|status| *status >= 100).ok_or(Fault::FirstLine)?;
    if !are_field_bytes(reason) {
        return Err(Fault::FirstLine);
    }
    Ok((version, status, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ResponseHead<'_>, Fault> {
        parse_response(text.as_bytes(), false)
    }

    #[test]
    fn where_an_answer_ends() {
        for (text, body, kept) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", ResponseBody::Length(3), true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", ResponseBody::Chunked, true),
            ("HTTP/1.1 200\r\n\r\n", ResponseBody::UntilClose, false),
            ("HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", ResponseBody::None, true),
            ("HTTP/1.1 304 \r\nContent-Length: 3\r\nConnection: close\r\n\r\n", ResponseBody::None, false),
            ("HTTP/1.1 103 Early Hints\r\n\r\n", ResponseBody::None, true),
            ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", ResponseBody::Length(3), false),
            (
                "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\n",
                ResponseBody::Length(3),
                true,
            ),
        ] {
            let head = parse(text).unwrap();
            assert_eq!((head.body, head.keep_alive), (body, kept), "{text}");
        }
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
        let head = parse_response(text, true).unwrap();
        assert_eq!((head.body, head.length), (ResponseBody::None, Some(3)));
        assert!(parse("HTTP/1.1 103 x\r\n\r\n").unwrap().is_interim());
        assert!(!parse("HTTP/1.1 101 x\r\n\r\n").unwrap().is_interim());
    }

    #[test]
    fn an_answer_that_can_be_read_in_two_ways_is_none() {
        for (text, fault) in [
            ("HTTP/1.1 20 OK\r\n\r\n", Fault::FirstLine),
            ("HTTP/1.1 0200 OK\r\n\r\n", Fault::FirstLine),
            ("HTTP/1.1 099 OK\r\n\r\n", Fault::FirstLine),
            ("HTTP/1.1  200 OK\r\n\r\n", Fault::FirstLine),
            ("HTTP/2 200\r\n\r\n", Fault::Version),
            ("ICY 200 OK\r\n\r\n", Fault::Version),
            ("HTTP/1.1 200 O\0K\r\n\r\n", Fault::FirstLine),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", Fault::Length),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\n", Fault::Length),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
                Fault::LengthAndCoding,
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Fault::Coding),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::Coding),
            ("HTTP/1.1 200 OK\r\n folded: 1\r\n\r\n", Fault::Folded),
            ("HTTP/1.1 200 OK\r\nA : 1\r\n\r\n", Fault::FieldName),
            ("HTTP/1.1 200 OK\r\nConnection: a b\r\n\r\n", Fault::Connection),
        ] {
            assert_eq!(parse(text), Err(fault), "{text}");
        }
    }
}
