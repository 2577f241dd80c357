//! The heads of requests.

use super::head::{Lengths, fields, is_token, lines, members};
use super::{Authority, Fault, Field, Version};
use crate::http::fields::{Known, is_word_of_a_proxy};
use crate::http::path::{normalise, normalise_query};

/// A request without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead<'b> {
    /// The method: a token, mostly in capital letters.
    pub method: &'b str,
    /// The client's version.
    pub version: Version,
    /// The path in its normal form, or `*`.
    pub path: String,
    /// The query without its `?`.
    pub query: Option<String>,
    /// Whom it is for.
    pub authority: Authority,
    /// All fields in their order.
    pub fields: Vec<Field<'b>>,
    /// What follows.
    pub body: RequestBody,
    /// Whether the client would use the connection again.
    pub keep_alive: bool,
    /// Whether the client waits for 100 before it sends the body.
    pub expects_continue: bool,
    /// Whether the client takes trailers.
    pub takes_trailers: bool,
    /// The protocol that the connection is to be used for instead, if that can be.
    pub upgrade: Option<&'b str>,
    /// The fields that `Connection` names, in the form they are named in.
    pub for_one_hop: Vec<&'b [u8]>,
}

/// The body of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestBody {
    /// None.
    None,
    /// So many bytes; 0 was written as such.
    Length(u64),
    /// Chunks.
    Chunked,
}

impl RequestHead<'_> {
    /// The values of a field, whose name is given in lower case.
    pub fn values<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
        self.fields.iter().filter(move |field| field.is(name)).map(|field| field.value)
    }

    /// Whether it asks for WebSocket, as its version has that (RFC 6455, section 4.1; RFC 8441, section 5).
    #[must_use]
    pub fn asks_for_websocket(&self) -> bool {
        let named = self.upgrade.is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket"));
        let has_key = self.version == Version::Http2 || self.values("sec-websocket-key").count() == 1;
        named && has_key && self.method == "GET"
    }
}

/// Reads the head of a request, from its first line to the empty one, as [`super::Scanner`] has found it.
///
/// # Errors
///
/// Why it is refused.
pub fn parse_request(head: &[u8]) -> Result<RequestHead<'_>, Fault> {
    let mut lines = lines(head);
    let (method, target, version) = request_line(lines.next().unwrap_or_default())?;
    let fields = fields(lines)?;
    let seen = Seen::look(&fields)?;
    let mut request = RequestHead {
        method,
        version,
        path: String::with_capacity(target.len()),
        query: None,
        authority: seen.authority(version)?,
        body: seen.body(version)?,
        keep_alive: seen.keeps_alive(version),
        // RFC 9110, section 10.1.1: "A server that receives a 100-continue expectation in an HTTP/1.0 request MUST ignore that
        // expectation."
        expects_continue: seen.expects && version == Version::Http11,
        takes_trailers: seen.trailers,
        upgrade: None,
        for_one_hop: seen.for_one_hop,
        fields,
    };
    let bodiless = matches!(request.body, RequestBody::None | RequestBody::Length(0));
    request.expects_continue &= !bodiless;
    if seen.upgrades && version == Version::Http11 && bodiless {
        request.upgrade = seen.protocol.and_then(protocol);
    }
    read_target(target, &mut request)?;
    Ok(request)
}

/// RFC 9112, section 3: `request-line = method SP request-target SP HTTP-version`.
fn request_line(line: &[u8]) -> Result<(&str, &[u8], Version), Fault> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Fault::FirstLine);
    };
    if !is_token(method) {
        return Err(Fault::Method);
    }
    if target.is_empty() {
        return Err(Fault::FirstLine);
    }
    // A token is ASCII.
    let method = std::str::from_utf8(method).map_err(|_| Fault::Method)?;
    Ok((method, target, Version::parse(version)?))
}

/// RFC 9112, section 3.2: origin-form, absolute-form, or `*` with `OPTIONS`.
fn read_target(target: &[u8], request: &mut RequestHead<'_>) -> Result<(), Fault> {
    if request.method == "CONNECT" {
        return Err(Fault::Connect);
    }
    if target == b"*" {
        if request.method != "OPTIONS" {
            return Err(Fault::Target);
        }
        request.path.push('*');
        return Ok(());
    }
    let mut origin = target;
    if target[0] != b'/' {
        let rest = after_scheme(target).ok_or(Fault::Target)?;
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
        // RFC 9112, section 3.2.2: "When a proxy receives a request with an absolute-form of request-target, the proxy MUST ignore
        // the received Host header field (if any) and instead replace it with the host information of the request-target."
        request.authority = Authority::parse(&rest[..end]).map_err(|_| Fault::Target)?;
        origin = &rest[end..];
    }
    read_origin(origin, request)
}

/// RFC 9112, section 3.2.1: `origin-form = absolute-path [ "?" query ]`; also without a path, as it is in the absolute form.
pub(super) fn read_origin(origin: &[u8], request: &mut RequestHead<'_>) -> Result<(), Fault> {
    let (path, query) = match origin.iter().position(|byte| *byte == b'?') {
        Some(at) => (&origin[..at], Some(&origin[at + 1..])),
        None => (origin, None),
    };
    let path = if path.is_empty() { &b"/"[..] } else { path };
    normalise(path, &mut request.path).map_err(|_| Fault::Path)?;
    if let Some(query) = query {
        let mut normal = String::with_capacity(query.len());
        normalise_query(query, &mut normal).map_err(|_| Fault::Path)?;
        request.query = Some(normal);
    }
    Ok(())
}

fn after_scheme(target: &[u8]) -> Option<&[u8]> {
    ["http://", "https://"].into_iter().find_map(|scheme| {
        let (begin, rest) = target.split_at_checked(scheme.len())?;
        begin.eq_ignore_ascii_case(scheme.as_bytes()).then_some(rest)
    })
}

/// What the fields say that is the proxy's business.
#[derive(Default)]
pub(super) struct Seen<'b> {
    pub(super) host: Option<&'b [u8]>,
    pub(super) lengths: Lengths,
    close: bool,
    keep_alive: bool,
    upgrades: bool,
    pub(super) expects: bool,
    pub(super) trailers: bool,
    protocol: Option<&'b [u8]>,
    for_one_hop: Vec<&'b [u8]>,
}

impl<'b> Seen<'b> {
    pub(super) fn look(fields: &[Field<'b>]) -> Result<Self, Fault> {
        let mut seen = Self::default();
        for field in fields {
            match Known::of(field.name) {
                Some(Known::Host) => {
                    if seen.host.replace(field.value).is_some() {
                        return Err(Fault::Host);
                    }
                }
                Some(Known::ContentLength) => seen.lengths.add_length(field.value)?,
                Some(Known::TransferEncoding) => seen.lengths.add_coding(field.value)?,
                Some(Known::Connection) => seen.connection(field.value)?,
                Some(Known::Expect) => {
                    if seen.expects || !field.value.eq_ignore_ascii_case(b"100-continue") {
                        return Err(Fault::Expect);
                    }
                    seen.expects = true;
                }
                Some(Known::Te) => {
                    seen.trailers |= members(field.value).any(|it| it.eq_ignore_ascii_case(b"trailers"));
                }
                Some(Known::Upgrade) => {
                    // Of several protocols nobody could say which one is meant.
                    let twice = seen.protocol.replace(field.value).is_some();
                    if twice {
                        seen.protocol = Some(b"");
                    }
                }
                Some(_) => {}
                None => {
                    if Known::looks_like_one(field.name) {
                        return Err(Fault::Underscore);
                    }
                }
            }
        }
        Ok(seen)
    }

    fn connection(&mut self, value: &'b [u8]) -> Result<(), Fault> {
        for member in members(value) {
            if !is_token(member) {
                return Err(Fault::Connection);
            }
            match member.to_ascii_lowercase().as_slice() {
                b"close" => self.close = true,
                b"keep-alive" => self.keep_alive = true,
                b"upgrade" => self.upgrades = true,
                b"te" => {}
                _ if Known::of(member).is_some_and(Known::is_for_the_target)
                    || is_word_of_a_proxy(member) =>
                {
                    return Err(Fault::Connection);
                }
                _ => self.for_one_hop.push(member),
            }
        }
        Ok(())
    }

    /// RFC 9112, section 3.2: "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request message that
    /// lacks a Host header field and to any request message that contains more than one Host header field line or a Host header
    /// field with an invalid field value."
    fn authority(&self, version: Version) -> Result<Authority, Fault> {
        match (self.host, version) {
            (Some(host), _) => Authority::parse(host),
            (None, Version::Http10) => Ok(Authority::default()),
            (None, Version::Http11 | Version::Http2) => Err(Fault::Host),
        }
    }

    fn body(&self, version: Version) -> Result<RequestBody, Fault> {
        self.lengths.check(version)?;
        Ok(match self.lengths.length {
            _ if self.lengths.chunked => RequestBody::Chunked,
            Some(length) => RequestBody::Length(length),
            None => RequestBody::None,
        })
    }

    const fn keeps_alive(&self, version: Version) -> bool {
        match version {
            Version::Http11 | Version::Http2 => !self.close,
            Version::Http10 => self.keep_alive && !self.close,
        }
    }
}

/// The protocol of an `Upgrade` that targets may be asked for. HTTP/2 is not: what came through such a connection would not be
/// looked at. TLS neither.
fn protocol(value: &[u8]) -> Option<&str> {
    let name = value.split(|byte| *byte == b'/').next()?;
    let other = [&b"h2c"[..], b"h2", b"http", b"tls"].iter().any(|other| name.eq_ignore_ascii_case(other));
    let plain = is_token(name) && value.iter().all(|byte| is_token(&[*byte]) || *byte == b'/');
    std::str::from_utf8(value).ok().filter(|_| plain && !other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RequestHead<'_>, Fault> {
        parse_request(text.as_bytes())
    }

    #[test]
    fn a_request_is_read_as_a_whole() {
        let text = "POST /a/../b%7E?q=1 HTTP/1.1\r\nHost: Shop.Example:80\r\nContent-Length: 5\r\n\
                    Connection: X-Mine, TE\r\nTE: trailers, deflate\r\nX-Mine: 1\r\nExpect: 100-Continue\r\n\r\n";
        let request = parse(text).unwrap();
        assert_eq!((request.method, request.path.as_str()), ("POST", "/b~"));
        assert_eq!(request.query.as_deref(), Some("q=1"));
        assert_eq!(
            (request.authority.host(), request.authority.as_str()),
            ("shop.example", "shop.example:80")
        );
        assert_eq!(request.body, RequestBody::Length(5));
        assert!(request.keep_alive && request.expects_continue && request.takes_trailers);
        assert_eq!(request.for_one_hop, [b"X-Mine"]);
        assert_eq!(request.values("x-mine").collect::<Vec<_>>(), [b"1"]);
        assert_eq!(request.upgrade, None);
    }

    #[test]
    fn a_connection_is_kept_as_versions_say() {
        let kept = |text: &str| parse(text).unwrap().keep_alive;
        assert!(kept("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(!kept("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
        assert!(!kept("GET / HTTP/1.0\r\n\r\n"));
        assert!(kept("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
        assert!(!kept("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n"));
    }

    #[test]
    fn a_tunnel_is_asked_for_by_both_fields_and_without_a_body() {
        let upgrade = |more: &str| {
            let text = format!("GET /ws HTTP/1.1\r\nHost: a\r\n{more}\r\n");
            parse(&text).unwrap().upgrade.map(str::to_owned)
        };
        let both = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n";
        assert_eq!(upgrade(both).as_deref(), Some("websocket"));
        assert_eq!(upgrade("Upgrade: websocket\r\n"), None);
        assert_eq!(upgrade("Connection: upgrade\r\n"), None);
        assert_eq!(upgrade(&format!("{both}Content-Length: 1\r\n")), None);
        assert_eq!(upgrade(&format!("{both}Upgrade: other\r\n")), None);
        for other in ["h2c", "HTTP/2.0", "TLS/1.0", "a, b", ""] {
            assert_eq!(upgrade(&format!("Connection: upgrade\r\nUpgrade: {other}\r\n")), None, "{other}");
        }
        assert_eq!(upgrade("Connection: upgrade\r\nUpgrade: SPDY/3.1\r\n").as_deref(), Some("SPDY/3.1"));
    }

    #[test]
    fn an_absolute_target_says_whom_it_is_for() {
        let text = "GET http://Other.example:8080?x HTTP/1.1\r\nHost: shop.example\r\n\r\n";
        let request = parse(text).unwrap();
        assert_eq!((request.authority.as_str(), request.path.as_str()), ("other.example:8080", "/"));
        assert_eq!(request.query.as_deref(), Some("x"));
        let all = parse("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert_eq!(all.path, "*");
    }
}
