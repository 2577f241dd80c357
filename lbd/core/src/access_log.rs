//! What the access log says of a connection, or of a request: one record when it has ended, or was refused.

use std::fmt;
use std::net::SocketAddr;

use common::time::{Duration, UnixTime};
use serde::{Serialize, Serializer};

/// A connection from its beginning to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record<'a> {
    /// When it was accepted.
    #[serde(serialize_with = "as_text")]
    pub at: UnixTime,
    /// The service.
    pub service: &'a str,
    /// Who connected; with a PROXY header, whom that names.
    pub client: SocketAddr,
    /// Who sent the PROXY header, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<SocketAddr>,
    /// The address it came to.
    pub listen: SocketAddr,
    /// The tag of the access entry it matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<&'a str>,
    /// The server name the client asked for in its TLS handshake, where that decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<&'a str>,
    /// The target group.
    pub group: &'a str,
    /// The target it was connected to, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<&'a str>,
    /// That target's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_address: Option<SocketAddr>,
    /// Targets tried.
    pub tries: u32,
    /// How long each phase took.
    #[serde(flatten)]
    pub phases: Phases,
    /// Bytes from the client to the target.
    pub bytes_to_target: u64,
    /// Bytes from the target to the client.
    pub bytes_to_client: u64,
    /// Why it ended.
    pub end: &'a str,
    /// What was asked for, with `http`.
    #[serde(flatten)]
    pub request: Option<Request<'a>>,
}

/// What a record of a request has that one of a connection has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a str,
    /// The host that was asked for, with its port if one was given.
    pub host: &'a str,
    /// The path, in its normal form.
    pub path: &'a str,
    /// The query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<&'a str>,
    /// The rule that it met, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<usize>,
    /// What was answered; 0 if nothing was.
    pub status: u16,
    /// Whether the connection to the target had served other requests before.
    pub reused: bool,
}

/// How long the phases of a connection took. One that was not reached is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Phases {
    /// Until what had to be read before a target could be chosen was there.
    #[serde(rename = "header_us", skip_serializing_if = "Option::is_none", serialize_with = "as_micros")]
    pub header: Option<Duration>,
    /// Waiting for a target with room.
    #[serde(rename = "queue_us", skip_serializing_if = "Option::is_none", serialize_with = "as_micros")]
    pub queue: Option<Duration>,
    /// Connecting, all tries together.
    #[serde(rename = "connect_us", skip_serializing_if = "Option::is_none", serialize_with = "as_micros")]
    pub connect: Option<Duration>,
    /// From connected until the target's first byte.
    #[serde(rename = "first_byte_us", skip_serializing_if = "Option::is_none", serialize_with = "as_micros")]
    pub first_byte: Option<Duration>,
    /// All of it.
    #[serde(rename = "total_us", serialize_with = "all_as_micros")]
    pub total: Duration,
}

fn as_text<S: Serializer>(at: &UnixTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[expect(clippy::ref_option, reason = "the signature serde asks for")]
fn as_micros<S: Serializer>(span: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    span.map(micros).serialize(serializer)
}

fn all_as_micros<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    micros(*span).serialize(serializer)
}

/// The record as one line for people: `TIME SERVICE CLIENT -> GROUP/TARGET ADDRESS` and then `key=value` pairs, times in
/// microseconds.
impl fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} -> {}", self.at, self.service, self.client, self.group)?;
        match (self.target, self.target_address) {
            (Some(target), Some(address)) => write!(f, "/{target} {address}")?,
            _ => write!(f, " -")?,
        }
        write!(f, " end={} listen={} tries={}", self.end, self.listen, self.tries)?;
        let Phases { header, queue, connect, first_byte, total } = self.phases;
        for (name, span) in
            [("header", header), ("queue", queue), ("connect", connect), ("first_byte", first_byte)]
        {
            if let Some(span) = span {
                write!(f, " {name}={}", micros(span))?;
            }
        }
        write!(
            f,
            " total={} to_target={} to_client={}",
            micros(total),
            self.bytes_to_target,
            self.bytes_to_client
        )?;
        if let Some(proxy) = self.proxy {
            write!(f, " proxy={proxy}")?;
        }
        if let Some(tag) = self.tag {
            write!(f, " tag={tag}")?;
        }
        if let Some(sni) = self.sni {
            write!(f, " sni={sni}")?;
        }
        let Some(request) = self.request else { return Ok(()) };
        write!(f, " status={} reused={}", request.status, u8::from(request.reused))?;
        if let Some(rule) = request.rule {
            write!(f, " rule={rule}")?;
        }
        // Neither a path nor a query nor a host has spaces or quotes in it.
        write!(f, " \"{} {}{}", request.method, request.host, request.path)?;
        if let Some(query) = request.query {
            write!(f, "?{query}")?;
        }
        f.write_str("\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record<'static> {
        let ms = Duration::from_millis;
        Record {
            at: UnixTime::from_nanos(1_700_000_000_123_000_000),
            service: "shop",
            client: "198.51.100.7:50000".parse().unwrap(),
            proxy: None,
            listen: "203.0.113.10:443".parse().unwrap(),
            tag: None,
            sni: None,
            group: "shop",
            target: Some("s1"),
            target_address: Some("10.0.1.11:8080".parse().unwrap()),
            tries: 1,
            phases: Phases {
                connect: Some(ms(1)),
                first_byte: Some(ms(2)),
                total: ms(30),
                ..Phases::default()
            },
            bytes_to_target: 100,
            bytes_to_client: 2000,
            end: "done",
            request: None,
        }
    }

    #[test]
    fn a_line_has_what_was_reached() {
        let line = record().to_string();
        let end = " shop 198.51.100.7:50000 -> shop/s1 10.0.1.11:8080 end=done listen=203.0.113.10:443 tries=1 \
                   connect=1000 first_byte=2000 total=30000 to_target=100 to_client=2000";
        assert!(line.ends_with(end), "{line}");
        let refused = Record {
            target: None,
            target_address: None,
            tries: 0,
            phases: Phases::default(),
            tag: Some("office"),
            sni: Some("a.example"),
            proxy: Some("10.0.0.1:9".parse().unwrap()),
            end: "denied",
            ..record()
        };
        let line = refused.to_string();
        assert!(line.contains(" -> shop - end=denied "), "{line}");
        assert!(line.ends_with(" proxy=10.0.0.1:9 tag=office sni=a.example"), "{line}");
        assert!(!line.contains("connect="), "{line}");
    }

    #[test]
    fn a_request_is_at_the_end_of_its_line() {
        let request = Request {
            method: "GET",
            host: "shop.example",
            path: "/a",
            query: Some("b=1"),
            rule: Some(2),
            status: 200,
            reused: true,
        };
        let line = Record { request: Some(request), ..record() }.to_string();
        assert!(line.ends_with(" status=200 reused=1 rule=2 \"GET shop.example/a?b=1\""), "{line}");
        let json = serde_json::to_value(Record { request: Some(request), ..record() }).unwrap();
        assert_eq!(
            (&json["status"], &json["path"], &json["end"]),
            (&200.into(), &"/a".into(), &"done".into())
        );
        assert!(serde_json::to_value(record()).unwrap().get("method").is_none());
    }
}
