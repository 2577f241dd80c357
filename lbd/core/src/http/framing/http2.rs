//! Heads that came over HTTP/2 (RFC 9113, section 8), read so strictly that what goes on over HTTP/1 cannot be read differently there.
//!
//! Where a message ends is said by frames, not by fields; so of the fields that say it in HTTP/1 none may be there, and a length only
//! if it is the one that the frames come to.

use super::head::{FIELDS_MAX, Lengths, are_field_bytes, is_token};
use super::request::{Seen, read_origin};
use super::{Authority, Fault, Field, RequestBody, RequestHead, ResponseBody, ResponseHead, Version};
use crate::http::fields::Known;

/// The pseudo-header fields of a request. That each stood before all fields, and once, is for whoever decodes the field block to see.
#[derive(Clone, Copy, Debug)]
pub struct Pseudo<'b> {
    /// `:method`.
    pub method: &'b str,
    /// `:authority`.
    pub authority: Option<&'b str>,
    /// `:path`.
    pub path: &'b str,
    /// `:protocol`, which only an extended CONNECT has (RFC 8441).
    pub protocol: Option<&'b str>,
    /// Whether the stream has ended with the head.
    pub ended: bool,
}

/// Reads the head of a request. `cookie` is where the crumbs of its cookies are put together.
///
/// # Errors
///
/// Why it is refused.
pub fn http2_request<'f: 'b, 'b>(
    pseudo: &Pseudo<'b>,
    fields: impl Iterator<Item = Field<'f>>,
    cookie: &'b mut Vec<u8>,
) -> Result<RequestHead<'b>, Fault> {
    if !is_token(pseudo.method.as_bytes()) {
        return Err(Fault::Method);
    }
    // RFC 8441, section 5: what is a GET with an Upgrade in HTTP/1. No other tunnel is offered.
    let tunnel = match (pseudo.method, pseudo.protocol) {
        ("CONNECT", Some("websocket")) if !pseudo.ended => true,
        ("CONNECT", _) | (_, Some(_)) => return Err(Fault::Connect),
        _ => false,
    };
    let mut kept = Vec::with_capacity(24);
    for field in fields {
        check(&field)?;
        // RFC 9113, section 8.2.3: "If there are multiple Cookie header fields after decompression, these MUST be concatenated into a
        // single octet string using the two-octet delimiter of 0x3b, 0x20 (the ASCII string "; ") before being passed into a non-HTTP/2
        // context".
        if Known::of(field.name) == Some(Known::Cookie) {
            if !cookie.is_empty() {
                cookie.extend_from_slice(b"; ");
            }
            cookie.extend_from_slice(field.value);
            continue;
        }
        if kept.len() == FIELDS_MAX {
            return Err(Fault::HeadTooLong);
        }
        kept.push(field);
    }
    let joined: &'b [u8] = cookie;
    if !joined.is_empty() {
        kept.push(Field { name: b"cookie", value: joined });
    }
    let seen = Seen::look(&kept)?;
    let body = match body(pseudo, seen.lengths.length)? {
        // What follows belongs to the tunnel.
        RequestBody::Chunked if tunnel => RequestBody::None,
        _ if tunnel => return Err(Fault::Length),
        body => body,
    };
    let mut request = RequestHead {
        method: if tunnel { "GET" } else { pseudo.method },
        version: Version::Http2,
        path: String::with_capacity(pseudo.path.len()),
        query: None,
        authority: authority(pseudo.authority, seen.host)?,
        body,
        keep_alive: true,
        expects_continue: seen.expects && !matches!(body, RequestBody::None | RequestBody::Length(0)),
        takes_trailers: seen.trailers,
        upgrade: tunnel.then_some("websocket"),
        for_one_hop: Vec::new(),
        fields: kept,
    };
    read_path(pseudo.path.as_bytes(), &mut request)?;
    Ok(request)
}

/// What holds for each field of a request, an answer or trailers.
fn check(field: &Field<'_>) -> Result<(), Fault> {
    // RFC 9113, section 8.2.1: "A field name MUST NOT contain characters in the ranges 0x00-0x20, 0x41-0x5a, or 0x7f-0xff".
    if !is_token(field.name) || field.name.iter().any(u8::is_ascii_uppercase) {
        return Err(Fault::FieldName);
    }
    // The same: "A field value MUST NOT start or end with an ASCII whitespace character (ASCII SP or HTAB, 0x20 or 0x09)."
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if blank(field.value.first()) || blank(field.value.last()) || !are_field_bytes(field.value) {
        return Err(Fault::FieldValue);
    }
    // RFC 9113, section 8.2.2: "An endpoint MUST NOT generate an HTTP/2 message containing connection-specific header fields. ... The
    // only exception to this is the TE header field, which MAY be present in an HTTP/2 request; when it is, it MUST NOT contain any value
    // other than "trailers"."
    match Known::of(field.name) {
        Some(Known::Te) if field.value.eq_ignore_ascii_case(b"trailers") => Ok(()),
        Some(
            Known::Connection
            | Known::KeepAlive
            | Known::ProxyConnection
            | Known::TransferEncoding
            | Known::Upgrade
            | Known::Te,
        ) => Err(Fault::Connection),
        _ => Ok(()),
    }
}

/// RFC 9113, section 8.3.1: "A server SHOULD treat a request as malformed if it contains a Host header field that identifies an entity
/// that differs from the entity in the ":authority" pseudo-header field." One of them has to be there.
fn authority(pseudo: Option<&str>, host: Option<&[u8]>) -> Result<Authority, Fault> {
    let host = host.map(Authority::parse).transpose()?;
    let Some(pseudo) = pseudo else { return host.ok_or(Fault::Host) };
    let authority = Authority::parse(pseudo.as_bytes())?;
    if host.is_some_and(|host| host != authority) {
        return Err(Fault::Host);
    }
    Ok(authority)
}

/// RFC 9113, section 8.1.1: a request is malformed "if the value of the Content-Length header field does not equal the sum of the DATA
/// frame payload lengths that form the content". What comes with the head is seen here; what comes later, by whoever counts it.
fn body(pseudo: &Pseudo<'_>, length: Option<u64>) -> Result<RequestBody, Fault> {
    // RFC 9110, section 8.6: "A user agent SHOULD send Content-Length in a request when the method defines a meaning for enclosed
    // content and it is not sending Transfer-Encoding." In HTTP/2 the frames say it, in HTTP/1 many servers want to be told.
    let means_content = matches!(pseudo.method, "POST" | "PUT" | "PATCH");
    match (pseudo.ended, length) {
        (true, None) if means_content => Ok(RequestBody::Length(0)),
        (true, None) => Ok(RequestBody::None),
        (true, Some(1..)) => Err(Fault::Length),
        (_, Some(length)) => Ok(RequestBody::Length(length)),
        (false, None) => Ok(RequestBody::Chunked),
    }
}

/// RFC 9113, section 8.3.1: `:path` has the absolute path and the query, and for `OPTIONS` of the server as a whole `*`.
fn read_path(path: &[u8], request: &mut RequestHead<'_>) -> Result<(), Fault> {
    match path {
        b"*" if request.method == "OPTIONS" => {
            request.path.push('*');
            Ok(())
        }
        [b'/', ..] => read_origin(path, request),
        _ => Err(Fault::Target),
    }
}

/// Reads the head of an answer. `ended` says that nothing follows, `to_head` that it is one to a request with the method `HEAD`.
///
/// # Errors
///
/// Why it cannot be used.
pub fn http2_response<'b>(
    status: u16,
    fields: impl Iterator<Item = Field<'b>>,
    ended: bool,
    to_head: bool,
) -> Result<ResponseHead<'b>, Fault> {
    // RFC 9113, section 8.6: 101 has no meaning there.
    if !(100..1000).contains(&status) || status == 101 {
        return Err(Fault::FirstLine);
    }
    let mut kept = Vec::with_capacity(24);
    let mut lengths = Lengths::default();
    for field in fields {
        check(&field)?;
        if kept.len() == FIELDS_MAX {
            return Err(Fault::HeadTooLong);
        }
        if Known::of(field.name) == Some(Known::ContentLength) {
            lengths.add_length(field.value)?;
        }
        kept.push(field);
    }
    let body = match lengths.length {
        _ if to_head || status < 200 || matches!(status, 204 | 304) => ResponseBody::None,
        Some(1..) if ended => return Err(Fault::Length),
        Some(length) => ResponseBody::Length(length),
        None if ended => ResponseBody::Length(0),
        None => ResponseBody::UntilClose,
    };
    let length = lengths.length.or(if body == ResponseBody::Length(0) { Some(0) } else { None });
    Ok(ResponseHead {
        status,
        reason: crate::http::answer::reason(status).as_bytes(),
        fields: kept,
        body,
        length,
        keep_alive: true,
        for_one_hop: Vec::new(),
    })
}

/// Looks at trailers.
///
/// # Errors
///
/// That they are none.
pub fn http2_trailers<'b>(fields: impl Iterator<Item = Field<'b>>) -> Result<Vec<Field<'b>>, Fault> {
    let mut kept = Vec::new();
    for field in fields {
        check(&field).map_err(|_| Fault::Trailer)?;
        if kept.len() == FIELDS_MAX {
            return Err(Fault::Trailer);
        }
        kept.push(field);
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Pseudo<'static> =
        Pseudo { method: "GET", authority: Some("shop.example"), path: "/a?b", protocol: None, ended: true };

    fn field(&(name, value): &(&'static str, &'static str)) -> Field<'static> {
        Field { name: name.as_bytes(), value: value.as_bytes() }
    }

    fn fault(pseudo: Pseudo<'static>, fields: &[(&'static str, &'static str)]) -> Option<Fault> {
        http2_request(&pseudo, fields.iter().map(field), &mut Vec::new()).err()
    }

    #[test]
    fn a_request_says_what_it_says_in_http1() {
        let fields = [("cookie", "a=1"), ("accept", "*/*"), ("cookie", "b=2"), ("te", "trailers")];
        let mut cookie = Vec::new();
        let head = http2_request(&GET, fields.iter().map(field), &mut cookie).unwrap();
        assert_eq!((head.method, head.path.as_str(), head.query.as_deref()), ("GET", "/a", Some("b")));
        assert_eq!(
            (head.authority.as_str(), head.body, head.takes_trailers),
            ("shop.example", RequestBody::None, true)
        );
        assert_eq!(head.values("cookie").collect::<Vec<_>>(), [b"a=1; b=2"]);
        assert_eq!(head.values("accept").count(), 1);
    }

    #[test]
    fn what_would_be_read_differently_in_http1_is_refused() {
        let post = Pseudo { method: "POST", ended: false, ..GET };
        for (pseudo, fields, expected) in [
            (GET, &[("Accept", "*/*")][..], Fault::FieldName),
            (GET, &[("a b", "1")], Fault::FieldName),
            (GET, &[("a:b", "1")], Fault::FieldName),
            (GET, &[("", "1")], Fault::FieldName),
            (GET, &[(":path", "/x")], Fault::FieldName),
            (GET, &[("a", "1\r\nb: 2")], Fault::FieldValue),
            (GET, &[("a", "1\nb: 2")], Fault::FieldValue),
            (GET, &[("a", "1\0")], Fault::FieldValue),
            (GET, &[("a", " 1")], Fault::FieldValue),
            (GET, &[("a", "1\t")], Fault::FieldValue),
            (GET, &[("connection", "close")], Fault::Connection),
            (GET, &[("keep-alive", "1")], Fault::Connection),
            (GET, &[("proxy-connection", "close")], Fault::Connection),
            (post, &[("transfer-encoding", "chunked")], Fault::Connection),
            (GET, &[("upgrade", "websocket")], Fault::Connection),
            (GET, &[("te", "gzip")], Fault::Connection),
            (GET, &[("te", "trailers, gzip")], Fault::Connection),
            (GET, &[("content_length", "5")], Fault::Underscore),
            (GET, &[("host", "other.example")], Fault::Host),
            (GET, &[("host", "shop.example"), ("host", "shop.example")], Fault::Host),
            (GET, &[("content-length", "5")], Fault::Length),
            (post, &[("content-length", "5"), ("content-length", "5")], Fault::Length),
            (post, &[("content-length", "+5")], Fault::Length),
            (post, &[("expect", "200-ok")], Fault::Expect),
            (Pseudo { authority: None, ..GET }, &[], Fault::Host),
            (Pseudo { authority: Some("u@shop.example"), ..GET }, &[], Fault::Host),
            (Pseudo { authority: Some("a b"), ..GET }, &[], Fault::Host),
            (Pseudo { method: "CONNECT", ..GET }, &[], Fault::Connect),
            (Pseudo { method: "GE T", ..GET }, &[], Fault::Method),
            (Pseudo { path: "/a b", ..GET }, &[], Fault::Path),
            (Pseudo { path: "/a HTTP/1.1\r\nx: y", ..GET }, &[], Fault::Path),
            (Pseudo { path: "/a?b c", ..GET }, &[], Fault::Path),
            (Pseudo { path: "/../a", ..GET }, &[], Fault::Path),
            (Pseudo { path: "*", ..GET }, &[], Fault::Target),
            (Pseudo { path: "", ..GET }, &[], Fault::Target),
            (Pseudo { path: "http://other.example/", ..GET }, &[], Fault::Target),
        ] {
            assert_eq!(fault(pseudo, fields), Some(expected), "{pseudo:?} {fields:?}");
        }
        assert_eq!(fault(GET, &[("host", "SHOP.example")]), None, "the same host");
        assert_eq!(fault(Pseudo { authority: None, ..GET }, &[("host", "a")]), None);
        assert_eq!(fault(Pseudo { method: "OPTIONS", path: "*", ..GET }, &[]), None);
    }

    #[test]
    fn a_tunnel_is_asked_for_by_an_extended_connect() {
        let connect = Pseudo { method: "CONNECT", protocol: Some("websocket"), ended: false, ..GET };
        let fields = [("sec-websocket-version", "13")];
        let mut cookie = Vec::new();
        let head = http2_request(&connect, fields.iter().map(field), &mut cookie).unwrap();
        assert_eq!((head.method, head.path.as_str(), head.upgrade), ("GET", "/a", Some("websocket")));
        assert_eq!(head.body, RequestBody::None);
        for other in [
            Pseudo { protocol: Some("connect-udp"), ..connect },
            Pseudo { protocol: None, ..connect },
            Pseudo { ended: true, ..connect },
            Pseudo { method: "GET", ..connect },
        ] {
            assert_eq!(fault(other, &[]), Some(Fault::Connect), "{other:?}");
        }
        assert_eq!(fault(connect, &[("content-length", "5")]), Some(Fault::Length));
    }

    #[test]
    fn many_crumbs_are_one_field_and_many_fields_are_too_many() {
        let crumbs = || std::iter::repeat_n(field(&("cookie", "a=1")), FIELDS_MAX + 1);
        let mut cookie = Vec::new();
        let head = http2_request(&GET, crumbs(), &mut cookie).unwrap();
        assert_eq!(head.fields.len(), 1);
        let fields = std::iter::repeat_n(field(&("a", "1")), FIELDS_MAX + 1);
        assert_eq!(http2_request(&GET, fields, &mut Vec::new()).err(), Some(Fault::HeadTooLong));
    }

    #[test]
    fn where_a_body_ends_is_said_for_http1() {
        let body = |method, ended, fields: &[(&'static str, &'static str)]| {
            let pseudo = Pseudo { method, ended, ..GET };
            http2_request(&pseudo, fields.iter().map(field), &mut Vec::new()).unwrap().body
        };
        assert_eq!(body("GET", true, &[]), RequestBody::None);
        assert_eq!(body("POST", true, &[]), RequestBody::Length(0));
        assert_eq!(body("POST", false, &[]), RequestBody::Chunked);
        assert_eq!(body("POST", false, &[("content-length", "7")]), RequestBody::Length(7));
        assert_eq!(body("GET", true, &[("content-length", "0")]), RequestBody::Length(0));
    }

    #[test]
    fn an_answer_says_where_it_ends() {
        let read = |status, fields: &[(&'static str, &'static str)], ended, to_head| {
            http2_response(status, fields.iter().map(field), ended, to_head)
                .map(|head| (head.body, head.length))
        };
        assert_eq!(
            read(200, &[("content-length", "3")], false, false),
            Ok((ResponseBody::Length(3), Some(3)))
        );
        assert_eq!(read(200, &[], false, false), Ok((ResponseBody::UntilClose, None)));
        assert_eq!(read(200, &[], true, false), Ok((ResponseBody::Length(0), Some(0))));
        assert_eq!(read(200, &[("content-length", "3")], true, true), Ok((ResponseBody::None, Some(3))));
        assert_eq!(read(304, &[("content-length", "3")], true, false), Ok((ResponseBody::None, Some(3))));
        assert_eq!(read(204, &[], true, false), Ok((ResponseBody::None, None)));
        assert_eq!(read(200, &[("content-length", "3")], true, false), Err(Fault::Length));
        assert_eq!(read(200, &[("connection", "close")], true, false), Err(Fault::Connection));
        assert_eq!(read(101, &[], true, false), Err(Fault::FirstLine));
        assert_eq!(read(200, &[("x", "a\r\nb")], true, false), Err(Fault::FieldValue));
    }
}
