//! What of a message goes on to the other side: written anew, with nothing in it that is for one hop only.

use std::net::IpAddr;

use common::config::HeaderChanges;

use super::fields::{Known, is_client_certificate, is_proxy, is_word_of_a_proxy, may_trail};
use super::framing::{Fault, Field, RequestBody, RequestHead, ResponseBody, ResponseHead, Version};
use super::route::{Arrival, host_of};

/// What is said of a request beside what it says itself.
#[derive(Clone, Copy, Debug)]
pub struct Passing<'p> {
    /// The path for the target, in its normal form.
    pub path: &'p str,
    /// Who asks.
    pub client: IpAddr,
    /// Whether whoever asks is a proxy whose word on its clients is taken.
    pub trusted: bool,
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

/// Writes the head of a request to a target.
///
/// # Errors
///
/// That the request has come through here before.
pub fn request(head: &RequestHead<'_>, passing: &Passing<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
    if came_through(head, passing.pseudonym) {
        return Err(Fault::Loop);
    }
    out.reserve(
        512 + head.fields.iter().map(|field| field.name.len() + field.value.len() + 4).sum::<usize>(),
    );
    write(out, &[head.method.as_bytes(), b" ", passing.path.as_bytes()]);
    if let Some(query) = &head.query {
        write(out, &[b"?", query.as_bytes()]);
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let own_host =
        if head.authority.host().is_empty() { host_of(passing.arrival.local) } else { String::new() };
    let host = if own_host.is_empty() { head.authority.as_str() } else { &own_host };
    if !replaces(passing.changes, b"host") {
        field(out, "Host", host.as_bytes());
    }
    for its in &head.fields {
        let known = Known::of(its.name);
        let kept = match known {
            None if passing.certificate != Shown::NotAsked && is_client_certificate(its.name) => false,
            None => !is_proxy(its.name) && (passing.trusted || !is_word_of_a_proxy(its.name)),
            // They are written below.
            Some(Known::Host | Known::Expect | Known::ForwardedFor) => false,
            Some(Known::Forwarded | Known::ForwardedHost | Known::ForwardedProto | Known::RequestId) => {
                passing.trusted
            }
            Some(known) => !known.is_for_one_hop(),
        };
        if kept && !names(&head.for_one_hop, its.name) && !replaces(passing.changes, its.name) {
            write(out, &[its.name, b": ", its.value, b"\r\n"]);
        }
    }
    change(out, passing.changes);
    identify(head, host, passing, out);
    if let Some(protocol) = head.upgrade {
        write(out, &[b"Connection: upgrade\r\nUpgrade: ", protocol.as_bytes(), b"\r\n"]);
    } else if head.takes_trailers {
        out.extend_from_slice(b"Connection: TE\r\nTE: trailers\r\n");
    }
    if head.expects_continue {
        out.extend_from_slice(b"Expect: 100-continue\r\n");
    }
    match head.body {
        RequestBody::None => {}
        RequestBody::Length(length) => number(out, "Content-Length", length),
        RequestBody::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// RFC 9110, section 7.6.3: `Via` is there for "tracking message forwards, avoiding request loops".
fn came_through(head: &RequestHead<'_>, pseudonym: &str) -> bool {
    let hops = head.values("via").flat_map(|value| value.split(|byte| *byte == b','));
    let mut words = hops.flat_map(|hop| hop.split(|byte| matches!(byte, b' ' | b'\t')));
    words.any(|word| word == pseudonym.as_bytes())
}

/// Writes whom the request is from, and through whom it came.
fn identify(head: &RequestHead<'_>, host: &str, passing: &Passing<'_>, out: &mut Vec<u8>) {
    let client = passing.client.to_canonical().to_string();
    out.extend_from_slice(b"X-Forwarded-For: ");
    if passing.trusted {
        for earlier in head.values("x-forwarded-for").filter(|value| !value.is_empty()) {
            write(out, &[earlier, b", "]);
        }
    }
    write(out, &[client.as_bytes(), b"\r\n"]);
    let has = |name| passing.trusted && head.values(name).next().is_some();
    if !has("x-forwarded-proto") {
        field(out, "X-Forwarded-Proto", passing.arrival.scheme.as_bytes());
    }
    if !has("x-forwarded-host") {
        field(out, "X-Forwarded-Host", host.as_bytes());
    }
    if has("forwarded") {
        // RFC 7239, section 4: each proxy adds its own; an IPv6 address stands in brackets and quotes.
        let node = match passing.client.to_canonical() {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("\"[{address}]\""),
        };
        field(out, "Forwarded", format!("for={node};proto={}", passing.arrival.scheme).as_bytes());
    }
    if !has("x-request-id") {
        field(out, "X-Request-ID", format!("{:032x}", passing.request_id).as_bytes());
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
    let version: &[u8] = match head.version {
        Version::Http10 => b"1.0",
        Version::Http11 => b"1.1",
    };
    write(out, &[b"Via: ", version, b" ", passing.pseudonym.as_bytes(), b"\r\n"]);
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
}

impl Ending {
    /// The ending of an answer with this body, for a client of this version.
    #[must_use]
    pub const fn of(body: ResponseBody, version: Version) -> Self {
        match (body, version) {
            (ResponseBody::None | ResponseBody::Length(_), _) => Self::AsGiven,
            (ResponseBody::Chunked | ResponseBody::UntilClose, Version::Http11) => Self::Chunked,
            (ResponseBody::Chunked | ResponseBody::UntilClose, Version::Http10) => Self::Close,
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

/// Writes the head of an answer to a client.
pub fn response(
    head: &ResponseHead<'_>,
    ending: Ending,
    afterwards: Afterwards,
    changes: [&HeaderChanges; 2],
    out: &mut Vec<u8>,
) {
    out.reserve(
        128 + head.fields.iter().map(|field| field.name.len() + field.value.len() + 4).sum::<usize>(),
    );
    status_line(head, out);
    let tunnel = head.status == 101;
    for its in &head.fields {
        let kept = match Known::of(its.name) {
            Some(Known::Upgrade) => tunnel,
            Some(known) => !known.is_for_one_hop(),
            None => true,
        };
        let dropped = names(&head.for_one_hop, its.name) && !tunnel;
        if kept && !dropped && !replaces(changes, its.name) {
            write(out, &[its.name, b": ", its.value, b"\r\n"]);
        }
    }
    change(out, changes);
    match (ending, head.length) {
        (Ending::Chunked, _) => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        // RFC 9110, section 8.6: not in 1xx and 204.
        (Ending::AsGiven, Some(length)) if head.status >= 200 && head.status != 204 => {
            number(out, "Content-Length", length);
        }
        (Ending::AsGiven | Ending::Close, _) => {}
    }
    match afterwards {
        _ if tunnel => out.extend_from_slice(b"Connection: upgrade\r\n"),
        Afterwards::Kept => {}
        Afterwards::KeptHttp10 => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        Afterwards::Closed => out.extend_from_slice(b"Connection: close\r\n"),
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes an answer that another one follows (RFC 9110, section 15.2: "A proxy MUST forward 1xx responses").
pub fn interim(head: &ResponseHead<'_>, out: &mut Vec<u8>) {
    status_line(head, out);
    for its in &head.fields {
        let kept = Known::of(its.name).is_none_or(|known| !known.is_for_one_hop());
        if kept && !names(&head.for_one_hop, its.name) {
            write(out, &[its.name, b": ", its.value, b"\r\n"]);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes what ends a body in chunks: the last chunk and those of the trailers that may be passed on.
pub fn last_chunk(trailers: &[Field<'_>], out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    for its in trailers.iter().filter(|its| may_trail(its.name)) {
        write(out, &[its.name, b": ", its.value, b"\r\n"]);
    }
    out.extend_from_slice(b"\r\n");
}

fn status_line(head: &ResponseHead<'_>, out: &mut Vec<u8>) {
    write(out, &[b"HTTP/1.1 ", head.status.to_string().as_bytes(), b" ", head.reason, b"\r\n"]);
}

pub(super) fn change(out: &mut Vec<u8>, changes: [&HeaderChanges; 2]) {
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

pub(super) fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    write(out, &[name.as_bytes(), b": ", value, b"\r\n"]);
}

pub(super) fn number(out: &mut Vec<u8>, name: &str, value: u64) {
    field(out, name, value.to_string().as_bytes());
}

fn write(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests;
