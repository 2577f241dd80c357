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
    /// Who connected; with a PROXY header, whom that names, and with `http` whom a trusted proxy does (then with the port 0, unless it says
    /// that, too).
    pub client: SocketAddr,
    /// Who connected, where that is not the client.
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
    /// The trace that it belongs to, where somebody is told of traces.
    #[serde(rename = "trace_id", skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceId>,
    /// HAProxy's timers.
    pub times: Times,
    /// HAProxy's termination state.
    pub termination: Termination,
}

/// A trace's number, shown as W3C's Trace Context has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(pub u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Serialize for TraceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// HAProxy's timers of a request, in milliseconds, as it writes them: `TR/Tw/Tc/Tr/Ta`, each -1 if it did not come so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Until the head was there, from its first byte on.
    pub request: Option<Duration>,
    /// In the queue.
    pub wait: Option<Duration>,
    /// Connecting, all tries together.
    pub connect: Option<Duration>,
    /// From connected until the answer's head.
    pub response: Option<Duration>,
    /// All of it, from the first byte of the request on.
    pub active: Duration,
}

impl Times {
    /// The timers that the phases of a request come to: who was connected without waiting has waited for 0.
    #[must_use]
    pub fn of(phases: &Phases) -> Self {
        Self {
            request: phases.header,
            wait: phases.queue.or(phases.connect.map(|_| Duration::ZERO)),
            connect: phases.connect,
            response: phases.first_byte,
            active: phases.total,
        }
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for span in [self.request, self.wait, self.connect, self.response] {
            match span {
                Some(span) => write!(f, "{}/", span.as_millis())?,
                None => f.write_str("-1/")?,
            }
        }
        write!(f, "{}", self.active.as_millis())
    }
}

impl Serialize for Times {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How far a request had come when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It was not understood yet.
    Request,
    /// It waited for a target with room.
    Queue,
    /// It waited for a connection to a target.
    Connection,
    /// It waited for the answer's head.
    Headers,
    /// The answer was under way.
    Data,
}

/// Who has ended a request, and how far it had come: the first two letters of HAProxy's termination state, with its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Termination {
    by: char,
    at: char,
}

impl Termination {
    /// Of a request that ended as [`Record::end`] says. `denied` are those that were answered because they are not let in, or come over the
    /// rate.
    #[must_use]
    pub fn of(end: &str, stage: Stage, denied: bool) -> Self {
        let here = match stage {
            Stage::Request => 'R',
            Stage::Queue => 'Q',
            Stage::Connection => 'C',
            Stage::Headers => 'H',
            Stage::Data => 'D',
        };
        let (by, at) = match end {
            "done" => ('-', '-'),
            "answered" if !denied => ('L', 'R'),
            "client" | "client_reset" | "client_vanished" => ('C', here),
            // One that waited for another target after the first had failed.
            "client_gone" => ('C', if stage == Stage::Queue { 'Q' } else { 'C' }),
            // The target of a request may be what is wrong with it, too.
            "target" if stage != Stage::Request => ('S', here),
            // Of a tunnel, whose ends are those of a connection.
            "target_reset" | "target_vanished" => ('S', here),
            "connect_failed" | "no_target" => ('S', 'C'),
            "no_body" | "slow" => ('c', here),
            "header_timeout" => ('c', 'R'),
            "no_answer" => ('s', 'H'),
            "idle" => ('s', here),
            "queue_timeout" => ('s', 'Q'),
            "connect_timeout" => ('s', 'C'),
            "bad_answer" | "bad_body" | "body_too_long" => ('P', here),
            "targets_full" | "queue_full" => ('P', 'Q'),
            "local" => ('R', 'C'),
            "drained" | "stopped" => ('K', here),
            // What is no request, or none of somebody who is let in.
            _ => ('P', 'R'),
        };
        Self { by, at }
    }
}

impl fmt::Display for Termination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.by, self.at)
    }
}

impl Serialize for Termination {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
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
        if let Some(trace) = request.trace {
            write!(f, " trace_id={trace}")?;
        }
        write!(f, " times={} termination={}", request.times, request.termination)?;
        write!(f, " status={} reused={}", request.status, u8::from(request.reused))?;
        if let Some(rule) = request.rule {
            write!(f, " rule={rule}")?;
        }
        // None of it has spaces in it, but a query may have quotes: what a client writes is not to end the part in quotes.
        let [method, host, path] = [request.method, request.host, request.path].map(Quoted);
        write!(f, " \"{method} {host}{path}")?;
        if let Some(query) = request.query.map(Quoted) {
            write!(f, "?{query}")?;
        }
        f.write_str("\"")
    }
}

/// A text between quotes, with what has a meaning there escaped as nginx does it.
struct Quoted<'t>(&'t str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(['"', '\\']) {
            let (before, found) = rest.split_at(at);
            // Both take one byte.
            let (escaped, after) = found.split_at(1);
            f.write_str(before)?;
            f.write_str(if escaped == "\"" { "\\x22" } else { "\\x5C" })?;
            rest = after;
        }
        f.write_str(rest)
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
            trace: None,
            times: Times::of(&record().phases),
            termination: Termination::of("done", Stage::Data, false),
        };
        let line = Record { request: Some(request), ..record() }.to_string();
        let end = " times=-1/0/1/2/30 termination=-- status=200 reused=1 rule=2 \"GET shop.example/a?b=1\"";
        assert!(line.ends_with(end), "{line}");
        let json = serde_json::to_value(Record { request: Some(request), ..record() }).unwrap();
        assert_eq!(
            (&json["status"], &json["path"], &json["end"]),
            (&200.into(), &"/a".into(), &"done".into())
        );
        assert_eq!((&json["times"], &json["termination"]), (&"-1/0/1/2/30".into(), &"--".into()));
        assert!(serde_json::to_value(record()).unwrap().get("method").is_none());
        let traced = Request { trace: Some(TraceId(0xabc)), ..request };
        let traced = Record { request: Some(traced), ..record() };
        let id = "00000000000000000000000000000abc";
        assert!(traced.to_string().contains(&format!(" trace_id={id} times=")), "{traced}");
        assert_eq!(serde_json::to_value(&traced).unwrap()["trace_id"], id);
        assert!(json.get("trace_id").is_none(), "{json}");
    }

    /// The places of a log's fields are not a client's to choose.
    #[test]
    fn a_request_has_nothing_in_it_that_ends_its_quotes() {
        let request = Request {
            method: "GET",
            host: "shop.example",
            path: "/a",
            query: Some("b=\"\\c\"\"d"),
            rule: None,
            status: 200,
            reused: false,
            trace: None,
            times: Times::of(&record().phases),
            termination: Termination::of("done", Stage::Data, false),
        };
        let line = Record { request: Some(request), ..record() }.to_string();
        let end = " status=200 reused=0 \"GET shop.example/a?b=\\x22\\x5Cc\\x22\\x22d\"";
        assert!(line.ends_with(end), "{line}");
        // None of the others can come with any, but that is decided elsewhere.
        let odd = Request { method: "\"", host: "\\", path: "/\"", query: None, ..request };
        let line = Record { request: Some(odd), ..record() }.to_string();
        assert!(line.ends_with(" reused=0 \"\\x22 \\x5C/\\x22\""), "{line}");
        // JSON has an escape of its own.
        let json = serde_json::to_string(&Record { request: Some(request), ..record() }).unwrap();
        assert!(json.contains(r#""query":"b=\"\\c\"\"d""#), "{json}");
    }

    #[test]
    fn timers_that_were_not_reached_are_told_from_those_that_took_no_time() {
        let us = Duration::from_micros;
        let times = |header, queue, connect, first_byte| {
            let phases = Phases { header, queue, connect, first_byte, total: us(12_999) };
            Times::of(&phases).to_string()
        };
        assert_eq!(times(Some(us(900)), None, Some(us(1500)), Some(us(9000))), "0/0/1/9/12");
        assert_eq!(times(Some(us(900)), None, None, None), "0/-1/-1/-1/12", "no target was asked");
        assert_eq!(times(Some(us(0)), Some(us(7000)), None, None), "0/7/-1/-1/12", "it got no place");
        assert_eq!(times(Some(us(0)), Some(us(7000)), Some(us(0)), None), "0/7/0/-1/12");
        assert_eq!(times(None, None, None, None), "-1/-1/-1/-1/12", "its head never came");
    }

    /// The codes that HAProxy's manual has for the same (section 8.5).
    #[test]
    fn ends_are_told_in_haproxy_s_letters() {
        let of = |end, stage| Termination::of(end, stage, false).to_string();
        for (end, stage, expected) in [
            ("done", Stage::Data, "--"),
            ("answered", Stage::Request, "LR"),
            ("line_end", Stage::Request, "PR"),
            ("header_timeout", Stage::Request, "cR"),
            ("client_gone", Stage::Queue, "CQ"),
            ("client_gone", Stage::Headers, "CC"),
            ("queue_timeout", Stage::Queue, "sQ"),
            ("queue_full", Stage::Connection, "PQ"),
            ("connect_failed", Stage::Connection, "SC"),
            ("connect_timeout", Stage::Connection, "sC"),
            ("local", Stage::Connection, "RC"),
            ("client", Stage::Headers, "CH"),
            ("client", Stage::Data, "CD"),
            ("target", Stage::Headers, "SH"),
            ("target", Stage::Data, "SD"),
            ("client_reset", Stage::Data, "CD"),
            ("client_vanished", Stage::Data, "CD"),
            ("target_reset", Stage::Data, "SD"),
            ("target_vanished", Stage::Data, "SD"),
            ("no_answer", Stage::Headers, "sH"),
            ("idle", Stage::Data, "sD"),
            ("no_body", Stage::Headers, "cH"),
            ("slow", Stage::Data, "cD"),
            ("bad_answer", Stage::Headers, "PH"),
            ("bad_body", Stage::Data, "PD"),
            ("stopped", Stage::Data, "KD"),
        ] {
            assert_eq!(of(end, stage), expected, "{end} {stage:?}");
        }
        assert_eq!(Termination::of("answered", Stage::Request, true).to_string(), "PR", "not let in");
    }
}
