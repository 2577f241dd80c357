//! Spans in the JSON of OTLP, as a collector takes them by HTTP (`ExportTraceServiceRequest`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use common::time::UnixTime;
use serde_json::{Value, json};

/// So many bytes of a text from a request are told.
const TEXT_BYTES_MAX: usize = 1024;

/// OTLP's numbers.
const KIND_SERVER: u8 = 2;
const STATUS_ERROR: u8 = 2;

/// The methods that have a name of their own (the semantic conventions' `http.request.method`); any other one is `_OTHER`.
const METHODS: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

/// What a request came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// What it is told to be of.
    pub service_name: Arc<str>,
    /// The trace.
    pub trace_id: u128,
    /// Its own number.
    pub span_id: u64,
    /// The span that it came from.
    pub parent: Option<u64>,
    /// What other systems have said of the trace.
    pub state: String,
    /// When its first byte was there.
    pub begin: UnixTime,
    /// When its answer had ended, or the tunnel that this has opened.
    pub end: UnixTime,
    /// The method.
    pub method: String,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The version: `1.0`, `1.1` or `2`.
    pub version: &'static str,
    /// The host that was asked for, with its port if one was given.
    pub host: String,
    /// The path, in its normal form; never the query, which may have secrets in it.
    pub path: String,
    /// Who has asked.
    pub client: SocketAddr,
    /// What was answered; 0 if nothing was.
    pub status: u16,
    /// How it ended, as in the access log.
    pub ended: String,
    /// The service.
    pub service: String,
    /// The rule that it met, counted from 1.
    pub rule: Option<usize>,
    /// The target group.
    pub group: Option<String>,
    /// The target, if one was connected.
    pub target: Option<(String, SocketAddr)>,
    /// Targets tried.
    pub tries: u32,
}

/// The begin of a text that is no longer than is told.
#[must_use]
pub fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned()
}

/// What is posted to a collector. `version` is that of the program.
#[must_use]
pub fn encode(spans: &[Span], version: &str) -> String {
    let mut by_service: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for span in spans {
        by_service.entry(&span.service_name).or_default().push(span.json());
    }
    let resources = by_service.into_iter().map(|(service_name, spans)| {
        json!({
            "resource": { "attributes": [text("service.name", service_name)] },
            "scopeSpans": [{ "scope": { "name": "tandem-lbd", "version": version }, "spans": spans }],
        })
    });
    json!({ "resourceSpans": resources.collect::<Vec<_>>() }).to_string()
}

/// How many spans a collector has not taken of those that it got, by its answer (`ExportTraceServiceResponse`).
#[must_use]
pub fn rejected(answer: &[u8]) -> u64 {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let count = &answer["partialSuccess"]["rejectedSpans"];
    // 64-bit numbers are texts in protobuf's JSON, and some write them as numbers all the same.
    count.as_u64().or_else(|| count.as_str()?.parse().ok()).unwrap_or_default()
}

impl Span {
    fn json(&self) -> Value {
        let known = METHODS.contains(&self.method.as_str());
        // The conventions have the name be of few kinds: neither path nor host belongs in it.
        let name = if known { self.method.as_str() } else { "HTTP" };
        let mut span = json!({
            "traceId": format!("{:032x}", self.trace_id),
            "spanId": format!("{:016x}", self.span_id),
            "name": name,
            "kind": KIND_SERVER,
            "startTimeUnixNano": self.begin.as_nanos().to_string(),
            "endTimeUnixNano": self.end.as_nanos().to_string(),
            "attributes": self.attributes(known),
        });
        if let Some(parent) = self.parent {
            span["parentSpanId"] = format!("{parent:016x}").into();
        }
        if !self.state.is_empty() {
            span["traceState"] = self.state.as_str().into();
        }
        if self.failure().is_some() {
            span["status"] = json!({ "code": STATUS_ERROR });
        }
        span
    }

    /// Why it counts as failed: what was cut, and 5xx. Of 4xx the conventions say that it is no error of a server's.
    fn failure(&self) -> Option<String> {
        match self.status {
            // The status of a tunnel says nothing of how that has ended.
            0 | 101 if self.ended != "done" => Some(self.ended.clone()),
            500.. => Some(self.status.to_string()),
            _ => None,
        }
    }

    fn attributes(&self, known: bool) -> Vec<Value> {
        let (host, port) = parts(&self.host);
        let mut all = vec![
            text("http.request.method", if known { &self.method } else { "_OTHER" }),
            text("url.scheme", self.scheme),
            text("url.path", &self.path),
            text("network.protocol.version", self.version),
            text("client.address", &self.client.ip().to_canonical().to_string()),
            text("tandem.service", &self.service),
            text("tandem.end", &self.ended),
            number("tandem.tries", self.tries),
        ];
        // A proxy in front may not have said it.
        if self.client.port() > 0 {
            all.push(number("client.port", self.client.port()));
        }
        if !known {
            all.push(text("http.request.method_original", &self.method));
        }
        if !host.is_empty() {
            all.push(text("server.address", host));
        }
        all.extend(port.map(|port| number("server.port", port)));
        if self.status > 0 {
            all.push(number("http.response.status_code", self.status));
        }
        all.extend(self.failure().map(|failure| text("error.type", &failure)));
        all.extend(self.rule.map(|rule| number("tandem.rule", rule)));
        all.extend(self.group.as_ref().map(|group| text("tandem.group", group)));
        if let Some((id, address)) = &self.target {
            all.push(text("tandem.target", id));
            all.push(text("tandem.target_address", &address.to_string()));
        }
        all
    }
}

/// A host and its port, if there is one: an address of IPv6 stands in brackets, which are not a part of it.
fn parts(authority: &str) -> (&str, Option<u16>) {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && !port.ends_with(']') => (host, port.parse().ok()),
        _ => (authority, None),
    };
    (host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host), port)
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

/// 64-bit numbers are texts in protobuf's JSON.
fn number(key: &str, value: impl ToString) -> Value {
    json!({ "key": key, "value": { "intValue": value.to_string() } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span() -> Span {
        Span {
            service_name: "edge".into(),
            trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            span_id: 0xabc,
            parent: Some(0x00f0_67aa_0ba9_02b7),
            state: "rojo=1".to_owned(),
            begin: UnixTime::from_nanos(1_700_000_000_000_000_001),
            end: UnixTime::from_nanos(1_700_000_000_250_000_000),
            method: "GET".to_owned(),
            scheme: "https",
            version: "2",
            host: "shop.example:8443".to_owned(),
            path: "/a".to_owned(),
            client: "[::ffff:198.51.100.7]:50000".parse().unwrap(),
            status: 200,
            ended: "done".to_owned(),
            service: "shop".to_owned(),
            rule: Some(2),
            group: Some("shop".to_owned()),
            target: Some(("s1".to_owned(), "10.0.1.11:8080".parse().unwrap())),
            tries: 1,
        }
    }

    fn encoded(spans: &[Span]) -> Value {
        serde_json::from_str(&encode(spans, "1.2.3")).unwrap()
    }

    /// An attribute's value, whatever its kind.
    fn attribute(span: &Value, key: &str) -> Option<String> {
        let all = span["attributes"].as_array().unwrap();
        let value = &all.iter().find(|attribute| attribute["key"] == key)?["value"];
        let value = value.get("stringValue").or(value.get("intValue")).unwrap();
        Some(value.as_str().unwrap().to_owned())
    }

    /// The names and forms are those of the example in the OTLP specification (`examples/trace.json`).
    #[test]
    fn a_span_has_the_form_that_collectors_take() {
        let encoded = encoded(&[span()]);
        let resource = &encoded["resourceSpans"][0];
        assert_eq!(
            resource["resource"]["attributes"],
            json!([{ "key": "service.name", "value": { "stringValue": "edge" } }])
        );
        let scope = &resource["scopeSpans"][0];
        assert_eq!(scope["scope"], json!({ "name": "tandem-lbd", "version": "1.2.3" }));
        let span = &scope["spans"][0];
        assert_eq!(span["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(
            (&span["spanId"], &span["parentSpanId"]),
            (&"0000000000000abc".into(), &"00f067aa0ba902b7".into())
        );
        assert_eq!((&span["name"], &span["kind"]), (&"GET".into(), &2.into()));
        assert_eq!(span["startTimeUnixNano"], "1700000000000000001");
        assert_eq!(span["endTimeUnixNano"], "1700000000250000000");
        assert_eq!((&span["traceState"], span.get("status")), (&"rojo=1".into(), None));
        for (key, expected) in [
            ("http.request.method", Some("GET")),
            ("url.scheme", Some("https")),
            ("url.path", Some("/a")),
            ("network.protocol.version", Some("2")),
            ("client.address", Some("198.51.100.7")),
            ("client.port", Some("50000")),
            ("server.address", Some("shop.example")),
            ("server.port", Some("8443")),
            ("http.response.status_code", Some("200")),
            ("error.type", None),
            ("tandem.rule", Some("2")),
            ("tandem.target", Some("s1")),
            ("tandem.target_address", Some("10.0.1.11:8080")),
        ] {
            assert_eq!(attribute(span, key).as_deref(), expected, "{key}");
        }
        let number = span["attributes"].as_array().unwrap().iter().find(|it| it["key"] == "server.port");
        assert_eq!(number.unwrap()["value"], json!({ "intValue": "8443" }));
    }

    #[test]
    fn failures_are_errors_and_what_a_client_did_wrong_is_none() {
        let of = |status, ended: &str| {
            let encoded = encoded(&[Span { status, ended: ended.to_owned(), ..span() }]);
            let span = encoded["resourceSpans"][0]["scopeSpans"][0]["spans"][0].clone();
            (span["status"]["code"].as_u64(), attribute(&span, "error.type"))
        };
        assert_eq!(of(404, "answered"), (None, None));
        assert_eq!(of(503, "no_target"), (Some(2), Some("503".to_owned())));
        assert_eq!(of(0, "client"), (Some(2), Some("client".to_owned())));
        assert_eq!(of(101, "done"), (None, None));
        assert_eq!(of(101, "target_reset"), (Some(2), Some("target_reset".to_owned())));
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        let bare = Span {
            parent: None,
            state: String::new(),
            method: "BREW".to_owned(),
            host: String::new(),
            client: "203.0.113.5:0".parse().unwrap(),
            status: 0,
            rule: None,
            group: None,
            target: None,
            ..span()
        };
        let encoded = encoded(&[bare]);
        let span = &encoded["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        assert_eq!((span.get("parentSpanId"), span.get("traceState")), (None, None));
        assert_eq!(span["name"], "HTTP");
        assert_eq!(attribute(span, "http.request.method").as_deref(), Some("_OTHER"));
        assert_eq!(attribute(span, "http.request.method_original").as_deref(), Some("BREW"));
        assert_eq!(attribute(span, "client.address").as_deref(), Some("203.0.113.5"));
        for key in [
            "client.port",
            "server.address",
            "server.port",
            "http.response.status_code",
            "tandem.rule",
            "tandem.group",
        ] {
            assert_eq!(attribute(span, key), None, "{key}");
        }
    }

    #[test]
    fn spans_are_sorted_by_what_they_are_of() {
        let of = |name: &str| Span { service_name: name.into(), ..span() };
        let encoded = encoded(&[of("b"), of("a"), of("b")]);
        let resources = encoded["resourceSpans"].as_array().unwrap();
        let counts: Vec<usize> = resources
            .iter()
            .map(|resource| resource["scopeSpans"][0]["spans"].as_array().unwrap().len())
            .collect();
        assert_eq!(counts, [1, 2]);
    }

    #[test]
    fn hosts_are_told_apart_from_their_ports() {
        for (authority, expected) in [
            ("shop.example", ("shop.example", None)),
            ("shop.example:80", ("shop.example", Some(80))),
            ("[2001:db8::1]", ("2001:db8::1", None)),
            ("[2001:db8::1]:8080", ("2001:db8::1", Some(8080))),
            ("", ("", None)),
        ] {
            assert_eq!(parts(authority), expected, "{authority}");
        }
    }

    #[test]
    fn what_a_collector_has_not_taken_is_read_from_its_answer() {
        assert_eq!(rejected(br#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"x"}}"#), 3);
        assert_eq!(rejected(br#"{"partialSuccess":{"rejectedSpans":2}}"#), 2);
        for none in ["", "{}", "[]", "nonsense", r#"{"partialSuccess":{}}"#, r#"{"partialSuccess":null}"#] {
            assert_eq!(rejected(none.as_bytes()), 0, "{none}");
        }
    }

    #[test]
    fn long_texts_end_between_characters() {
        let long = format!("{}\u{e9}", "x".repeat(1023));
        assert_eq!(shortened(&long), "x".repeat(1023));
        assert_eq!(shortened("short"), "short");
    }
}
