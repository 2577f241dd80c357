//! What of a message goes on to the other side: written anew, with nothing in it that is for one hop only.

use std::net::IpAddr;

use common::config::{Forwarded, HeaderChanges};

use super::compress::strong_tags;
use super::cookie;
use super::fields::{Known, is_beside_lists, is_client_certificate, is_proxy, is_word_of_a_proxy, may_trail};
use super::framing::{Fault, Field, RequestBody, RequestHead, ResponseBody, ResponseHead, Version};
use super::hops::{self, MAX_FORWARDS};
use super::origin;
use super::route::{Arrival, host_of};
use super::short::Short;
use super::trace::Trace;

/// Where fields are written to: the text of HTTP/1, or what is given to HTTP/2's compression.
pub trait Fields {
    /// Adds one behind those that are there.
    fn add(&mut self, name: &[u8], value: &[u8]);

    /// The same with a value in several pieces.
    fn add_joined(&mut self, name: &[u8], pieces: &[&[u8]]) {
        self.add(name, &pieces.concat());
    }
}

/// As lines of text.
impl Fields for Vec<u8> {
    fn add(&mut self, name: &[u8], value: &[u8]) {
        write(self, &[name, b": ", value, b"\r\n"]);
    }

    fn add_joined(&mut self, name: &[u8], pieces: &[&[u8]]) {
        write(self, &[name, b": "]);
        write(self, pieces);
        self.extend_from_slice(b"\r\n");
    }
}

/// What is said of a request beside what it says itself.
#[derive(Clone, Copy, Debug)]
pub struct Passing<'p> {
    /// The path for the target, in its normal form.
    pub path: &'p str,
    /// Who asks.
    pub client: IpAddr,
    /// Whether whoever asks is a proxy whose word on its clients is taken.
    pub trusted: bool,
    /// The fields in which targets are told that.
    pub forwarded: Forwarded,
    /// How it came.
    pub arrival: Arrival,
    /// The name that Tandem has in `Via`: of this service of this pair, and of no other.
    pub pseudonym: &'p str,
    /// A number for a request that has none yet.
    pub request_id: u128,
    /// Who the client has shown to be.
    pub certificate: Shown<'p>,
    /// What the service and the rule change.
    pub changes: [&'p HeaderChanges; 2],
    /// Cookies that are Tandem's own and nobody else's business.
    pub hidden_cookies: &'p [String],
    /// What targets are told of who it is from.
    pub told: &'p [(String, String)],
    /// Where they are told such things: of clients that is never taken over.
    pub told_in: &'p HeaderChanges,
    /// Its trace, if spans are told to somebody; else what the client says of one goes on as it came.
    pub trace: Option<&'p Trace>,
    /// Answers may be compressed here, which makes their tags weak.
    pub weakens_tags: bool,
}

/// What a client has shown of itself with TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shown<'p> {
    /// Nobody has asked.
    #[default]
    NotAsked,
    /// Nothing, where it may do without.
    Nothing,
    /// A certificate that an authority of the service has signed.
    Certificate {
        /// Whose it is (RFC 4514), in visible ASCII.
        subject: &'p str,
        /// SHA-256 of it, in hexadecimal.
        sha256: &'p str,
    },
}

/// Writes the head of a request to a target of HTTP/1. If it is the `last` one on its connection, the target is told so.
///
/// # Errors
///
/// That the request has come through here before, or does not say properly through how many it may go.
pub fn request(
    head: &RequestHead<'_>,
    passing: &Passing<'_>,
    last: bool,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    out.reserve(
        512 + head.fields.iter().map(|field| field.name.len() + field.value.len() + 4).sum::<usize>(),
    );
    write(out, &[head.method.as_bytes(), b" ", passing.path.as_bytes()]);
    if let Some(query) = &head.query {
        write(out, &[b"?", query.as_bytes()]);
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for_target(head, passing, out)?;
    if let Some(protocol) = head.upgrade {
        write(out, &[b"Connection: upgrade\r\nUpgrade: ", protocol.as_bytes(), b"\r\n"]);
        // RFC 8441, section 5: in HTTP/2 there is no such field, and in HTTP/1 there has to be one.
        if head.version == Version::Http2 && head.values("sec-websocket-key").next().is_none() {
            field(out, "Sec-WebSocket-Key", &websocket_key(passing.request_id));
        }
    } else {
        // RFC 9112, section 9.6: a sender SHOULD say "close" "when it intends to close a connection". Who asks for a tunnel hopes that it goes on.
        let options: &[u8] = match (head.takes_trailers, last) {
            (true, true) => b"Connection: TE, close\r\nTE: trailers\r\n",
            (true, false) => b"Connection: TE\r\nTE: trailers\r\n",
            (false, true) => b"Connection: close\r\n",
            (false, false) => b"",
        };
        out.extend_from_slice(options);
    }
    expect(head, out);
    match head.body {
        RequestBody::None => {}
        RequestBody::Length(length) => number(out, "Content-Length", length),
        RequestBody::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Writes the fields of a request to a target of HTTP/2, with `Host` for what its `:authority` is.
///
/// # Errors
///
/// That the request has come through here before, or does not say properly through how many it may go.
pub fn http2_request(
    head: &RequestHead<'_>,
    passing: &Passing<'_>,
    out: &mut impl Fields,
) -> Result<(), Fault> {
    let tunnel;
    let head = if head.asks_for_websocket() {
        // RFC 8441, section 5: this is "not used" there, because there is nothing that it would protect from.
        let fields = head.fields.iter().filter(|its| !its.is("sec-websocket-key")).copied().collect();
        // RFC 9110, section 9.3.6: "A CONNECT request message does not have content." A length of 0, as HTTP/1 may have it, would here be that
        // of what goes through the tunnel.
        tunnel = RequestHead { fields, body: RequestBody::None, ..head.clone() };
        &tunnel
    } else {
        head
    };
    for_target(head, passing, out)?;
    if head.takes_trailers {
        out.add(b"TE", b"trailers");
    }
    expect(head, out);
    if let RequestBody::Length(length) = head.body {
        number(out, "Content-Length", length);
    }
    Ok(())
}

/// Writes what is the same for each target.
fn for_target(head: &RequestHead<'_>, passing: &Passing<'_>, out: &mut impl Fields) -> Result<(), Fault> {
    if came_through(head, passing.pseudonym) {
        return Err(Fault::Loop);
    }
    let own_host =
        if head.authority.host().is_empty() { host_of(passing.arrival.local) } else { String::new() };
    let host = if own_host.is_empty() { head.authority.as_str() } else { &own_host };
    if !replaces(passing.changes, b"host") {
        field(out, "Host", host.as_bytes());
    }
    let forwards = hops::left(head)?;
    let takes_elements = passing.trusted && !origin::goes_by_list(&head.fields, passing.forwarded);
    // Where something is asked for they are also about the parts of it that a client has.
    let restores_tags = passing.weakens_tags && !matches!(head.method, "GET" | "HEAD");
    for its in &head.fields {
        let known = Known::of(its.name);
        let kept = match known {
            None if passing.certificate != Shown::NotAsked && is_client_certificate(its.name) => false,
            // A proxy that does not speak them leaves them as its clients have made them up.
            None if !passing.forwarded.has_lists() && is_beside_lists(its.name) => false,
            None => !is_proxy(its.name) && (passing.trusted || !is_word_of_a_proxy(its.name)),
            // They are written below.
            Some(Known::Host | Known::Expect | Known::ForwardedFor) => false,
            Some(Known::Forwarded) => takes_elements,
            // An empty one is none.
            Some(Known::RequestId) => passing.trusted && !its.value.is_empty(),
            // Where they are not written they would say of an earlier hop what is told of this one elsewhere.
            Some(Known::ForwardedHost | Known::ForwardedProto) => {
                passing.trusted && passing.forwarded.has_lists()
            }
            Some(known) => !known.is_for_one_hop(),
        };
        let replaced = replaces(passing.changes, its.name)
            || passing.told_in.replaces(its.name)
            || passing.trace.is_some_and(|trace| trace.replaces(its.name));
        if kept && !replaced && !names(&head.for_one_hop, its.name) {
            let shown = match known {
                Some(Known::Cookie) => cookie::without(its.value, passing.hidden_cookies),
                None if its.is(MAX_FORWARDS) => {
                    forwards.map(|left| left.saturating_sub(1).to_string().into_bytes())
                }
                None if restores_tags && its.is("if-match") => strong_tags(its.value),
                _ => None,
            };
            match shown {
                None => out.add(its.name, its.value),
                Some(rest) if rest.is_empty() => {}
                Some(rest) => out.add(its.name, &rest),
            }
        }
    }
    change(out, passing.changes);
    for (name, value) in passing.told {
        field(out, name, value.as_bytes());
    }
    if let Some(parent) = passing.trace.and_then(Trace::for_target)
        && !replaces(passing.changes, b"traceparent")
    {
        field(out, "traceparent", parent.to_string().as_bytes());
    }
    identify(head, host, passing, takes_elements, out);
    Ok(())
}

/// Writes that the client waits for an interim answer before it sends its body.
fn expect(head: &RequestHead<'_>, out: &mut impl Fields) {
    if head.expects_continue {
        out.add(b"Expect", b"100-continue");
    }
}

/// RFC 6455, section 4.1: a key is "a nonce consisting of a randomly selected 16-byte value that has been base64-encoded".
fn websocket_key(number: u128) -> [u8; 24] {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // 128 bits are 21 letters and 2 bits more.
    let mut key = [b'='; 24];
    for (index, letter) in key.iter_mut().take(22).enumerate() {
        let six = if index < 21 { number >> (122 - 6 * index) } else { number << 4 } & 63;
        *letter = LETTERS[usize::try_from(six).unwrap_or_default()];
    }
    key
}

/// RFC 9110, section 7.6.3: `Via` is there for "tracking message forwards, avoiding request loops".
fn came_through(head: &RequestHead<'_>, pseudonym: &str) -> bool {
    let hops = head.values("via").flat_map(|value| value.split(|byte| *byte == b','));
    let mut words = hops.flat_map(|hop| hop.split(|byte| matches!(byte, b' ' | b'\t')));
    words.any(|word| word == pseudonym.as_bytes())
}

/// Writes whom the request is from, and through whom it came. Its own `Forwarded` is added to if `takes_elements`.
fn identify(
    head: &RequestHead<'_>,
    host: &str,
    passing: &Passing<'_>,
    takes_elements: bool,
    out: &mut impl Fields,
) {
    let has = |name| passing.trusted && head.values(name).next().is_some();
    if passing.forwarded.has_lists() {
        let client = Short::address(passing.client.to_canonical());
        if passing.trusted {
            let mut all = Vec::with_capacity(64);
            for earlier in head.values("x-forwarded-for").filter(|value| !value.is_empty()) {
                write(&mut all, &[earlier, b", "]);
            }
            all.extend_from_slice(client.as_bytes());
            out.add(b"X-Forwarded-For", &all);
        } else {
            field(out, "X-Forwarded-For", client.as_bytes());
        }
        if !has("x-forwarded-proto") {
            field(out, "X-Forwarded-Proto", passing.arrival.scheme.as_bytes());
        }
        if !has("x-forwarded-host") {
            field(out, "X-Forwarded-Host", host.as_bytes());
        }
    }
    let has_elements = takes_elements && has("forwarded");
    if passing.forwarded.has_elements() || has_elements {
        // RFC 7239, section 4: each proxy adds its own.
        let Arrival { scheme, local } = passing.arrival;
        let translates = passing.forwarded == Forwarded::Both && passing.trusted && !has_elements;
        let mut all = if translates { origin::elements_of_list(&head.fields) } else { Vec::new() };
        all.push(origin::element(passing.client, host, scheme, local.ip()));
        field(out, "Forwarded", all.join(", ").as_bytes());
    }
    if said_id(head, passing.trusted).is_none() {
        field(out, "X-Request-ID", &hexadecimal(passing.request_id));
    }
    match passing.certificate {
        Shown::NotAsked => {}
        Shown::Nothing => field(out, "X-Client-Cert-Verify", b"NONE"),
        Shown::Certificate { subject, sha256 } => {
            field(out, "X-Client-Cert-Verify", b"SUCCESS");
            // An empty one is that of a certificate without a name, or one that is too long.
            if !subject.is_empty() {
                field(out, "X-Client-Cert-Subject", subject.as_bytes());
            }
            field(out, "X-Client-Cert-SHA256", sha256.as_bytes());
        }
    }
    let version = match head.version {
        Version::Http10 => "1.0",
        Version::Http11 => "1.1",
        // RFC 9110, section 2.5: "When a major version of HTTP does not define any minor versions, the minor version "0" is implied."
        Version::Http2 => "2.0",
    };
    out.add_joined(b"Via", &[version.as_bytes(), b" ", passing.pseudonym.as_bytes()]);
}

/// What targets know a request by: what a proxy in front that is `trusted` says, or else this number. It is never empty.
#[must_use]
pub fn request_id(head: &RequestHead<'_>, trusted: bool, number: u128) -> String {
    let said = said_id(head, trusted);
    String::from_utf8_lossy(said.unwrap_or(&hexadecimal(number))).into_owned()
}

/// The first id that a proxy in front that is `trusted` says, if it says one: some hand on what their clients have made up, also if that is empty.
fn said_id<'h>(head: &'h RequestHead<'_>, trusted: bool) -> Option<&'h [u8]> {
    head.values("x-request-id").find(|value| trusted && !value.is_empty())
}

/// All digits of a number, leading zeros included.
fn hexadecimal(number: u128) -> [u8; 32] {
    // Shifting as many bits as a number for each digit would take several times as long.
    let bytes = number.to_be_bytes();
    std::array::from_fn(|index| {
        let byte = bytes[index / 2];
        let digit = if index % 2 == 0 { byte >> 4 } else { byte & 15 };
        b"0123456789abcdef"[usize::from(digit)]
    })
}

/// How an answer ends for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As the target's answer says: with its length, or without a body.
    AsGiven,
    /// In chunks.
    Chunked,
    /// With the connection.
    Close,
    /// With the stream of HTTP/2.
    Stream,
}

impl Ending {
    /// The ending of an answer with this body, for a client of this version.
    #[must_use]
    pub const fn of(body: ResponseBody, version: Version) -> Self {
        match (body, version) {
            (ResponseBody::None | ResponseBody::Length(_), _) => Self::AsGiven,
            (ResponseBody::Chunked | ResponseBody::UntilClose, Version::Http11) => Self::Chunked,
            (ResponseBody::Chunked | ResponseBody::UntilClose, Version::Http10) => Self::Close,
            (ResponseBody::Chunked | ResponseBody::UntilClose, Version::Http2) => Self::Stream,
        }
    }
}

/// What becomes of the client's connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// It is used again.
    Kept,
    /// It is used again, and a client of HTTP/1.0 has to be told.
    KeptHttp10,
    /// It is closed.
    Closed,
}

/// Writes the head of an answer to a client of HTTP/1, with fields `added` that nothing changes.
pub fn response(
    head: &ResponseHead<'_>,
    ending: Ending,
    afterwards: Afterwards,
    changes: [&HeaderChanges; 2],
    added: &[(&str, String)],
    out: &mut Vec<u8>,
) {
    // Also for a short body, which goes behind it.
    out.reserve(
        512 + head.fields.iter().map(|field| field.name.len() + field.value.len() + 4).sum::<usize>(),
    );
    status_line(head, out);
    for_client(head, ending, changes, added, out);
    match afterwards {
        _ if head.status == 101 => out.extend_from_slice(b"Connection: upgrade\r\n"),
        Afterwards::Kept => {}
        Afterwards::KeptHttp10 => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        Afterwards::Closed => out.extend_from_slice(b"Connection: close\r\n"),
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the fields of an answer to a client of HTTP/2, and those `added` that nothing changes.
pub fn http2_response(
    head: &ResponseHead<'_>,
    ending: Ending,
    changes: [&HeaderChanges; 2],
    added: &[(&str, String)],
    out: &mut impl Fields,
) {
    for_client(head, ending, changes, added, out);
}

/// Writes the fields of an answer that makes a tunnel of a stream of HTTP/2, where 101 is 200, and its own fields are none
/// (RFC 8441, section 5).
pub fn http2_tunnel(
    head: &ResponseHead<'_>,
    changes: [&HeaderChanges; 2],
    added: &[(&str, String)],
    out: &mut impl Fields,
) {
    let of_http1 = |field: &Field<'_>| field.is("upgrade") || field.is("sec-websocket-accept");
    let fields = head.fields.iter().filter(|field| !of_http1(field)).copied().collect();
    let head = ResponseHead { status: 200, fields, length: None, ..head.clone() };
    for_client(&head, Ending::Stream, changes, added, out);
}

/// Writes the head of an answer after which a client's connection of HTTP/1 is a tunnel through a stream to a target of HTTP/2, where 101
/// is 200 (RFC 8441, section 5). The client is told `accept`, for its target has not seen its key.
pub fn websocket(
    head: &ResponseHead<'_>,
    accept: &str,
    changes: [&HeaderChanges; 2],
    added: &[(&str, String)],
    out: &mut Vec<u8>,
) {
    let own = [
        Field { name: b"Upgrade", value: b"websocket" },
        Field { name: b"Sec-WebSocket-Accept", value: accept.as_bytes() },
    ];
    let is_own = |field: &&Field<'_>| own.iter().any(|own| own.name.eq_ignore_ascii_case(field.name));
    let fields = head.fields.iter().filter(|field| !is_own(field)).copied().chain(own).collect();
    let head = ResponseHead {
        status: 101,
        reason: b"Switching Protocols",
        fields,
        body: ResponseBody::None,
        length: None,
        keep_alive: false,
        for_one_hop: Vec::new(),
    };
    response(&head, Ending::AsGiven, Afterwards::Closed, changes, added, out);
}

/// Writes what is the same for each client.
fn for_client(
    head: &ResponseHead<'_>,
    ending: Ending,
    changes: [&HeaderChanges; 2],
    added: &[(&str, String)],
    out: &mut impl Fields,
) {
    let tunnel = head.status == 101;
    for its in &head.fields {
        let kept = match Known::of(its.name) {
            Some(Known::Upgrade) => tunnel,
            Some(known) => !known.is_for_one_hop(),
            None => true,
        };
        let dropped = names(&head.for_one_hop, its.name) && !tunnel;
        if kept && !dropped && !replaces(changes, its.name) {
            out.add(its.name, its.value);
        }
    }
    change(out, changes);
    for (name, value) in added {
        field(out, name, value.as_bytes());
    }
    match (ending, head.length) {
        (Ending::Chunked, _) => out.add(b"Transfer-Encoding", b"chunked"),
        // RFC 9110, section 8.6: not in 1xx and 204.
        (Ending::AsGiven, Some(length)) if head.status >= 200 && head.status != 204 => {
            number(out, "Content-Length", length);
        }
        (Ending::AsGiven | Ending::Close | Ending::Stream, _) => {}
    }
}

/// Writes an answer that another one follows, for HTTP/1 (RFC 9110, section 15.2: "A proxy MUST forward 1xx responses").
pub fn interim(head: &ResponseHead<'_>, out: &mut Vec<u8>) {
    status_line(head, out);
    interim_fields(head, out);
    out.extend_from_slice(b"\r\n");
}

/// Writes the fields of such an answer.
pub fn interim_fields(head: &ResponseHead<'_>, out: &mut impl Fields) {
    for its in &head.fields {
        let kept = Known::of(its.name).is_none_or(|known| !known.is_for_one_hop());
        if kept && !names(&head.for_one_hop, its.name) {
            out.add(its.name, its.value);
        }
    }
}

/// Writes what ends a body in chunks: the last chunk and those of the trailers that may be passed on.
pub fn last_chunk(trailers: &[Field<'_>], out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    write_trailers(trailers, out);
    out.extend_from_slice(b"\r\n");
}

/// Writes those of the trailers that may be passed on.
pub fn write_trailers(trailers: &[Field<'_>], out: &mut impl Fields) {
    for its in trailers.iter().filter(|its| may_trail(its.name)) {
        out.add(its.name, its.value);
    }
}

/// Those of the trailers whose fields are not `withheld`: what is set or removed before a head goes on, its sender does not say behind the
/// body either.
#[must_use]
pub fn trailers_without<'t>(
    mut trailers: Vec<Field<'t>>,
    withheld: Option<&HeaderChanges>,
) -> Vec<Field<'t>> {
    if let Some(withheld) = withheld {
        trailers.retain(|its| !withheld.replaces(its.name));
    }
    trailers
}

/// The fields that a head has named as being for one hop only, and that would go on as trailers, in lower case. RFC 9110, section 7.6.1:
/// intermediaries MUST "remove any header or trailer field(s) from the message with the same name as the connection-option".
#[must_use]
pub fn trailers_for_one_hop(for_one_hop: &[&[u8]]) -> Vec<String> {
    let names = for_one_hop.iter().filter(|name| may_trail(name) && !name.eq_ignore_ascii_case(b"close"));
    names.map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()).collect()
}

fn status_line(head: &ResponseHead<'_>, out: &mut Vec<u8>) {
    let status = Short::decimal(head.status.into());
    write(out, &[b"HTTP/1.1 ", status.as_bytes(), b" ", head.reason, b"\r\n"]);
}

pub(super) fn change(out: &mut impl Fields, changes: [&HeaderChanges; 2]) {
    let [service, rule] = changes;
    // What the rule sets or removes is not the service's any more.
    for (name, value) in service.set.iter().chain(&service.add) {
        if !rule.replaces(name.as_bytes()) {
            field(out, name, value.as_bytes());
        }
    }
    for (name, value) in rule.set.iter().chain(&rule.add) {
        field(out, name, value.as_bytes());
    }
}

pub(super) fn replaces(changes: [&HeaderChanges; 2], name: &[u8]) -> bool {
    changes.into_iter().any(|changes| !changes.is_empty() && changes.replaces(name))
}

fn names(list: &[&[u8]], name: &[u8]) -> bool {
    list.iter().any(|known| known.eq_ignore_ascii_case(name))
}

pub(super) fn field(out: &mut impl Fields, name: &str, value: &[u8]) {
    out.add(name.as_bytes(), value);
}

pub(super) fn number(out: &mut impl Fields, name: &str, value: u64) {
    field(out, name, Short::decimal(value).as_bytes());
}

fn write(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests;
