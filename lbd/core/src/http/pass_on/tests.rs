use common::config::SampleShare;

use super::*;
use crate::http::framing::{parse_request, parse_response};

static NONE: HeaderChanges = HeaderChanges { remove: Vec::new(), set: Vec::new(), add: Vec::new() };

fn passing(trusted: bool) -> Passing<'static> {
    Passing {
        path: "/path",
        client: "198.51.100.7".parse().unwrap(),
        trusted,
        forwarded: Forwarded::XForwarded,
        arrival: Arrival { scheme: "http", local: "192.0.2.10:80".parse().unwrap() },
        pseudonym: "tandem-1",
        request_id: 0xabc,
        certificate: Shown::NotAsked,
        changes: [&NONE, &NONE],
        hidden_cookies: &[],
        told: &[],
        told_in: &NONE,
        trace: None,
        weakens_tags: false,
    }
}

fn passed_on(text: &str, passing: &Passing<'_>) -> Result<String, Fault> {
    passed_on_as(text, passing, false)
}

/// As the last one on its connection, or not.
fn passed_on_as(text: &str, passing: &Passing<'_>, last: bool) -> Result<String, Fault> {
    let head = parse_request(text.as_bytes())?;
    let mut out = Vec::new();
    request(&head, passing, last, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn a_request_is_written_anew() {
    let text = "POST /path?q=1 HTTP/1.1\r\nhost: Shop.example\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
                Proxy-Connection: x\r\nAccept:  a/b \r\nX-Forwarded-For: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\n\
                X-Request-ID: mine\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\nTE: gzip, trailers\r\nExpect: 100-continue\r\n\
                Via: 1.0 other\r\nContent-Length: 4\r\n\r\n";
    let expected = "POST /path?q=1 HTTP/1.1\r\nHost: shop.example\r\nAccept: a/b\r\nVia: 1.0 other\r\n\
                    X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: shop.example\r\n\
                    X-Request-ID: 00000000000000000000000000000abc\r\nVia: 1.1 tandem-1\r\n\
                    Connection: TE\r\nTE: trailers\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    assert_eq!(passed_on(text, &passing(false)).unwrap(), expected);
}

#[test]
fn a_target_is_told_what_is_the_last_request_on_its_connection() {
    for (fields, usual, last) in [
        ("", "", "Connection: close\r\n"),
        (
            "TE: trailers\r\n",
            "Connection: TE\r\nTE: trailers\r\n",
            "Connection: TE, close\r\nTE: trailers\r\n",
        ),
        // What the client wants of its own connection is another matter.
        ("Connection: close\r\n", "", "Connection: close\r\n"),
        // It may become a tunnel.
        ("Connection: upgrade\r\nUpgrade: x\r\n", "Connection: upgrade\r\n", "Connection: upgrade\r\n"),
    ] {
        let text = format!("GET /path HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        for (is_last, expected) in [(false, usual), (true, last)] {
            let passed = passed_on_as(&text, &passing(false), is_last).unwrap();
            let written: String = passed
                .split_inclusive("\r\n")
                .filter(|line| line.starts_with("Connection:") || line.starts_with("TE:"))
                .collect();
            assert_eq!(written, expected, "{fields:?}, the last one: {is_last}");
        }
    }
}

#[test]
fn a_proxy_s_word_is_taken_and_added_to() {
    let text = "GET /path HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 10.0.0.2\r\nX-Forwarded-Proto: https\r\n\
                X-Request-ID: mine\r\n\r\n";
    let expected = "GET /path HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\nX-Request-ID: mine\r\n\
                    X-Forwarded-For: 10.0.0.1, 10.0.0.2, 198.51.100.7\r\nX-Forwarded-Host: a\r\nVia: 1.1 tandem-1\r\n\r\n";
    assert_eq!(passed_on(text, &passing(true)).unwrap(), expected);
    // A proxy that writes lists leaves this as its client has it.
    let forged = text.replace("X-Request-ID", "Forwarded: for=10.0.0.9;proto=https\r\nX-Request-ID");
    assert_eq!(passed_on(&forged, &passing(true)).unwrap(), expected);
    let text = "GET /path HTTP/1.1\r\nHost: a\r\nForwarded: for=10.0.0.1\r\n\r\n";
    let expected = "GET /path HTTP/1.1\r\nHost: a\r\nForwarded: for=10.0.0.1\r\n\
                    X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\n\
                    Forwarded: for=198.51.100.7;host=a;proto=http;by=192.0.2.10\r\n\
                    X-Request-ID: 00000000000000000000000000000abc\r\nVia: 1.1 tandem-1\r\n\r\n";
    assert_eq!(passed_on(text, &passing(true)).unwrap(), expected);
    let six = Passing { client: "2001:db8::7".parse().unwrap(), ..passing(true) };
    let text = passed_on(text, &six).unwrap();
    let own = "\r\nForwarded: for=\"[2001:db8::7]\";host=a;proto=http;by=192.0.2.10\r\n";
    assert!(text.contains(own), "{text}");
}

#[test]
fn targets_are_told_in_the_fields_that_they_want() {
    let told = |fields: &str, trusted: bool, forwarded: Forwarded| -> Vec<String> {
        let text = format!("GET /path HTTP/1.1\r\nHost: a:80\r\n{fields}\r\n");
        let passed = passed_on(&text, &Passing { forwarded, ..passing(trusted) }).unwrap();
        let lines = passed.lines().filter(|line| line.to_ascii_lowercase().contains("forwarded"));
        lines.map(str::to_owned).collect()
    };
    let lists = ["X-Forwarded-For: 198.51.100.7", "X-Forwarded-Proto: http", "X-Forwarded-Host: a:80"];
    let element = "for=198.51.100.7;host=\"a:80\";proto=http;by=192.0.2.10";
    let own = format!("Forwarded: {element}");
    let own = own.as_str();
    let (new, both) = (Forwarded::Rfc7239, Forwarded::Both);
    let forged = "Forwarded: for=10.0.0.2\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: b\r\n";
    for fields in ["", forged] {
        assert_eq!(told(fields, false, Forwarded::XForwarded), lists);
        assert_eq!(told(fields, false, new), [own]);
        assert_eq!(told(fields, false, both), [&lists[..], &[own]].concat());
    }
    // A trusted proxy's are added to; of those that are not spoken nothing is left.
    assert_eq!(told(forged, true, new), ["Forwarded: for=10.0.0.2", own]);
    // Of two ways the one that has not named the client may be anybody's.
    let chain = format!("Forwarded: for=10.0.0.1, {element}");
    let expected = [
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: b",
        "X-Forwarded-For: 10.0.0.1, 198.51.100.7",
        chain.as_str(),
    ];
    assert_eq!(told(forged, true, both), expected);
    assert_eq!(told(forged, true, Forwarded::XForwarded), expected[..3]);
    let old = "X-Forwarded-For: unknown, 2001:db8::1\r\n";
    let translated = format!("Forwarded: for=unknown, for=\"[2001:db8::1]\", {element}");
    assert_eq!(told(old, true, both).last(), Some(&translated), "the chain is whole in both");
    assert_eq!(told(old, true, new), [own]);
    assert_eq!(told(old, false, both).last().map(String::as_str), Some(own));
}

#[test]
fn a_request_has_the_id_that_targets_are_told() {
    for (fields, trusted, expected) in [
        ("", true, "00000000000000000000000000000abc"),
        ("X-Request-ID: mine\r\n", true, "mine"),
        ("X-Request-ID: mine\r\n", false, "00000000000000000000000000000abc"),
        ("X-Request-ID:\r\n", true, "00000000000000000000000000000abc"),
        ("X-Request-ID: \r\nX-Request-ID: mine\r\n", true, "mine"),
    ] {
        let text = format!("GET /path HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let head = parse_request(text.as_bytes()).unwrap();
        assert_eq!(request_id(&head, trusted, 0xabc), expected);
        let passed = passed_on(&text, &passing(trusted)).unwrap();
        assert!(passed.contains(&format!("\r\nX-Request-ID: {expected}\r\n")), "{passed}");
        assert_eq!(passed.matches("X-Request-ID:").count(), 1, "{passed}");
    }
}

#[test]
fn nobody_but_a_trusted_proxy_says_how_a_request_came() {
    let text = "GET /path HTTP/1.1\r\nHost: a\r\nX-Real-IP: 10.0.0.1\r\nx-forwarded-port: 443\r\nX-Forwarded-Prefix: /x\r\n\
                Proxy: http://10.0.0.1/\r\nX-Forward: 1\r\n\r\n";
    let stranger = passed_on(text, &passing(false)).unwrap();
    assert!(stranger.contains("\r\nX-Forward: 1\r\n"), "{stranger}");
    for name in ["X-Real-IP", "x-forwarded-port", "X-Forwarded-Prefix", "Proxy"] {
        assert!(!stranger.contains(&format!("\r\n{name}:")), "{name} in {stranger}");
    }
    let proxy = passed_on(text, &passing(true)).unwrap();
    assert!(
        proxy.contains("\r\nX-Real-IP: 10.0.0.1\r\nx-forwarded-port: 443\r\nX-Forwarded-Prefix: /x\r\n"),
        "{proxy}"
    );
    assert!(!proxy.contains("\r\nProxy:"), "{proxy}");
    // One that writes `Forwarded` alone leaves these as its clients have them, but not what it says of their certificates.
    let text = text.replace("X-Forward: 1", "X-Client-Cert-Verify: SUCCESS");
    let alone = passed_on(&text, &Passing { forwarded: Forwarded::Rfc7239, ..passing(true) }).unwrap();
    assert!(alone.contains("\r\nX-Client-Cert-Verify: SUCCESS\r\n"), "{alone}");
    for name in ["X-Real-IP", "x-forwarded-port", "X-Forwarded-Prefix", "Proxy"] {
        assert!(!alone.contains(&format!("\r\n{name}:")), "{name} in {alone}");
    }
}

#[test]
fn a_request_that_came_through_before_is_a_loop() {
    let via = |via: &str| {
        passed_on(&format!("GET / HTTP/1.1\r\nHost: a\r\nVia: 1.1 x\r\nVia: {via}\r\n\r\n"), &passing(false))
            .err()
    };
    assert_eq!(via("1.1 other, 1.1 tandem-1 (comment), 1.0 third"), Some(Fault::Loop));
    assert_eq!(via("1.1 tandem-1"), Some(Fault::Loop));
    assert_eq!(via("1.1 tandem-10, 1.1 x.tandem-1"), None);
}

#[test]
fn a_change_of_what_was_had_compressed_is_asked_for_by_the_target_s_own_tag() {
    let asked = |method: &str, weakens_tags: bool| {
        let text =
            format!("{method} / HTTP/1.1\r\nHost: a\r\nIf-Match: W/\"a\"\r\nIf-Range: W/\"a\"\r\n\r\n");
        let text = passed_on(&text, &Passing { weakens_tags, ..passing(false) }).unwrap();
        text.lines().filter(|line| line.starts_with("If-")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(asked("PUT", true), "If-Match: \"a\" If-Range: W/\"a\"");
    let unchanged = "If-Match: W/\"a\" If-Range: W/\"a\"";
    assert_eq!([asked("GET", true), asked("HEAD", true), asked("PUT", false)], [unchanged; 3]);
}

#[test]
fn a_hop_is_counted() {
    let forwards = |method: &str, value: &str| {
        let text = format!("{method} / HTTP/1.1\r\nHost: a\r\nMax-Forwards: {value}\r\n\r\n");
        let text = passed_on(&text, &passing(false))?;
        let line = text.lines().find(|line| line.starts_with("Max-Forwards")).unwrap();
        Ok::<_, Fault>(line.to_owned())
    };
    assert_eq!(forwards("OPTIONS", "10").as_deref(), Ok("Max-Forwards: 9"));
    assert_eq!(forwards("TRACE", "1").as_deref(), Ok("Max-Forwards: 0"));
    assert_eq!(forwards("TRACE", "one"), Err(Fault::MaxForwards));
    assert_eq!(forwards("GET", "0").as_deref(), Ok("Max-Forwards: 0"));
    let text = "OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 3\r\n\r\n";
    let mut out = Vec::new();
    http2_request(&parse_request(text.as_bytes()).unwrap(), &passing(false), &mut out).unwrap();
    let out = String::from_utf8(out).unwrap();
    assert!(out.contains("\r\nMax-Forwards: 2\r\n"), "{out}");
}

#[test]
fn http_1_0_becomes_1_1_with_a_host() {
    let text = passed_on("GET / HTTP/1.0\r\nAccept: x\r\n\r\n", &passing(false)).unwrap();
    assert!(text.starts_with("GET /path HTTP/1.1\r\nHost: 192.0.2.10\r\nAccept: x\r\n"), "{text}");
    assert!(text.contains("\r\nVia: 1.0 tandem-1\r\n"), "{text}");
}

#[test]
fn fields_are_changed_as_service_and_rule_say() {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let service = HeaderChanges {
        remove: vec!["x-secret".to_owned()],
        set: vec![pair("X-Env", "live"), pair("X-Both", "service")],
        add: vec![pair("X-More", "1")],
    };
    let rule = HeaderChanges {
        set: vec![pair("X-Both", "rule"), pair("Host", "inner.example")],
        remove: vec!["x-more".to_owned()],
        add: vec![pair("Accept", "b")],
    };
    let passing = Passing { changes: [&service, &rule], ..passing(false) };
    let text = "GET /path HTTP/1.1\r\nHost: a\r\nX-SECRET: 1\r\nx-env: test\r\nX-Both: client\r\nX-More: 0\r\nAccept: a\r\n\r\n";
    let text = passed_on(text, &passing).unwrap();
    let (head, _) = text.split_once("X-Forwarded-For").unwrap();
    assert_eq!(
        head,
        "GET /path HTTP/1.1\r\nAccept: a\r\nX-Env: live\r\nX-Both: rule\r\nHost: inner.example\r\nAccept: b\r\n"
    );
    assert!(text.contains("X-Forwarded-Host: a\r\n"), "{text}");
}

#[test]
fn the_balancer_s_own_cookies_stay_here() {
    let hidden = ["lb".to_owned()];
    let passing = Passing { hidden_cookies: &hidden, ..passing(false) };
    let cookies = |text: &str| -> Vec<String> {
        let text = format!("GET /path HTTP/1.1\r\nHost: a\r\nX: lb=1\r\n{text}\r\n");
        let passed = passed_on(&text, &passing).unwrap();
        assert!(passed.contains("\r\nX: lb=1\r\n"), "{passed}");
        let cookies = passed.lines().filter_map(|line| line.strip_prefix("Cookie: "));
        cookies.map(str::to_owned).collect()
    };
    assert_eq!(cookies("Cookie: a=1; lb=x; b=2\r\n"), ["a=1; b=2"]);
    assert_eq!(cookies("Cookie: lb=x\r\n"), [""; 0]);
    assert_eq!(cookies("Cookie: lb=x\r\nCookie: a=1;b=2\r\n"), ["a=1;b=2"]);
}

#[test]
fn who_it_is_from_is_told_by_nobody_else() {
    let told_in = HeaderChanges { remove: vec!["x-user".to_owned(), "x-mail".to_owned()], ..NONE.clone() };
    let told = [("X-User".to_owned(), "ada".to_owned())];
    let text = "GET /path HTTP/1.1\r\nHost: a\r\nX-User: eve\r\nx_user: eve\r\nX.User: eve\r\nX-Mail: e@v.e\r\nX-Other: 1\r\n\r\n";
    let passed = |told| passed_on(text, &Passing { told, told_in: &told_in, ..passing(false) }).unwrap();
    let begin = "GET /path HTTP/1.1\r\nHost: a\r\nX-Other: 1\r\n";
    assert!(
        passed(&told).starts_with(&format!("{begin}X-User: ada\r\nX-Forwarded-For")),
        "{}",
        passed(&told)
    );
    assert!(passed(&[]).starts_with(&format!("{begin}X-Forwarded-For")), "also where nobody is asked");
}

#[test]
fn a_trace_goes_on_as_it_came_or_from_this_hop_s_span() {
    let text = "GET /path HTTP/1.1\r\nHost: a\r\nTraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\
                tracestate: rojo=1\r\n\r\n";
    let about = |passing: &Passing<'_>| -> Vec<String> {
        let passed = passed_on(text, passing).unwrap();
        let lines = passed.lines().filter(|line| line.to_ascii_lowercase().starts_with("trace"));
        lines.map(str::to_owned).collect()
    };
    let came = ["Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate: rojo=1"];
    assert_eq!(about(&passing(false)), came, "nobody is told of spans");
    let head = parse_request(text.as_bytes()).unwrap();
    let of = |share| Trace::begin(&head.fields, false, share, (7, 0xabc));
    let told = of(SampleShare::ALL);
    let own = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000abc-01";
    assert_eq!(about(&Passing { trace: Some(&told), ..passing(false) }), ["tracestate: rojo=1", own]);
    let untold = of(SampleShare::of_millionths(1).unwrap());
    assert_eq!(about(&Passing { trace: Some(&untold), ..passing(false) }), came);
    let fresh = Trace::begin(&[], false, SampleShare::ALL, (7, 0xabc));
    let own = "traceparent: 00-00000000000000000000000000000007-0000000000000abc-01";
    assert_eq!(about(&Passing { trace: Some(&fresh), ..passing(false) }), [own]);
    let removed = HeaderChanges { remove: vec!["traceparent".to_owned()], ..NONE.clone() };
    let passing = Passing { trace: Some(&told), changes: [&NONE, &removed], ..passing(false) };
    assert_eq!(about(&passing), ["tracestate: rojo=1"]);
}

#[test]
fn what_is_added_to_an_answer_is_changed_by_nobody() {
    let head =
        parse_response(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nContent-Length: 0\r\n\r\n", false).unwrap();
    let changes = HeaderChanges { remove: vec!["set-cookie".to_owned()], ..NONE.clone() };
    let mut out = Vec::new();
    let added = [("Set-Cookie", "lb=x; Path=/".to_owned())];
    response(&head, Ending::AsGiven, Afterwards::Kept, [&NONE, &changes], &added, &mut out);
    let expected = "HTTP/1.1 200 OK\r\nSet-Cookie: lb=x; Path=/\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn a_tunnel_is_asked_for_and_answered() {
    let text = "GET /path HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";
    let asked = passed_on(text, &passing(false)).unwrap();
    assert!(asked.contains("\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"), "{asked}");
    let head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\n";
    let head = parse_response(head, false).unwrap();
    let mut out = Vec::new();
    response(&head, Ending::AsGiven, Afterwards::Kept, [&NONE, &NONE], &[], &mut out);
    let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: y\r\nConnection: upgrade\r\n\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn a_tunnel_may_lead_through_a_stream() {
    let text = "GET /path HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: x\r\n\
                Sec-WebSocket-Version: 13\r\n\r\n";
    let head = parse_request(text.as_bytes()).unwrap();
    assert!(head.asks_for_websocket());
    let mut out = Vec::new();
    http2_request(&head, &passing(false), &mut out).unwrap();
    let asked = String::from_utf8(out).unwrap();
    assert!(asked.starts_with("Host: a\r\nSec-WebSocket-Version: 13\r\nX-Forwarded-For: "), "{asked}");
    let text_with_length = text.replace("\r\n\r\n", "\r\nContent-Length: 0\r\n\r\n");
    let head = parse_request(text_with_length.as_bytes()).unwrap();
    assert!(head.asks_for_websocket());
    let mut out = Vec::new();
    http2_request(&head, &passing(false), &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), asked, "a length of nothing is not that of the tunnel");
    for other in [text.replace("Sec-WebSocket-Key: x\r\n", ""), text.replace("WebSocket\r\n", "other\r\n")] {
        assert!(!parse_request(other.as_bytes()).unwrap().asks_for_websocket(), "{other}");
    }
    let fields = vec![Field { name: b"sec-websocket-protocol", value: b"chat" }];
    let head = ResponseHead {
        status: 200,
        reason: b"OK",
        fields,
        body: ResponseBody::UntilClose,
        length: None,
        keep_alive: true,
        for_one_hop: Vec::new(),
    };
    let mut out = Vec::new();
    websocket(&head, "y", [&NONE, &NONE], &[], &mut out);
    let expected = "HTTP/1.1 101 Switching Protocols\r\nsec-websocket-protocol: chat\r\nUpgrade: websocket\r\n\
                    Sec-WebSocket-Accept: y\r\nConnection: upgrade\r\n\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

fn answered(text: &str, version: Version, afterwards: Afterwards, changes: &HeaderChanges) -> String {
    let head = parse_response(text.as_bytes(), false).unwrap();
    let mut out = Vec::new();
    response(&head, Ending::of(head.body, version), afterwards, [&NONE, changes], &[], &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn an_answer_is_framed_for_its_client() {
    let (new, old) = (Version::Http11, Version::Http10);
    let text =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: X-Hop\r\nX-Hop: 1\r\nServer: t\r\n\r\n";
    let expected = "HTTP/1.1 200 OK\r\nServer: t\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(answered(text, new, Afterwards::Kept, &NONE), expected);
    assert_eq!(
        answered(text, old, Afterwards::Closed, &NONE),
        "HTTP/1.1 200 OK\r\nServer: t\r\nConnection: close\r\n\r\n"
    );
    let text = "HTTP/1.0 200 OK\r\n\r\n";
    assert_eq!(
        answered(text, new, Afterwards::Kept, &NONE),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let text = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nKeep-Alive: 5\r\n\r\n";
    let remove = HeaderChanges { remove: vec!["server".to_owned()], ..HeaderChanges::default() };
    assert_eq!(
        answered(text, old, Afterwards::KeptHttp10, &remove),
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n"
    );
    let text = "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nServer: t\r\n\r\n";
    assert_eq!(answered(text, new, Afterwards::Kept, &remove), "HTTP/1.1 204 No Content\r\n\r\n");
    let text = "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n";
    assert!(answered(text, new, Afterwards::Kept, &NONE).contains("Content-Length: 7"));
}

#[test]
fn no_trailer_says_what_is_said_in_a_field_of_the_head() {
    let named = |name: &'static str| Field { name: name.as_bytes(), value: b"1" };
    let trailers = || ["X-Client", "x_client", "x-sum"].map(named).to_vec();
    let withheld = HeaderChanges { remove: vec!["x-client".to_owned()], ..NONE.clone() };
    let mut out = Vec::new();
    last_chunk(&trailers_without(trailers(), Some(&withheld)), &mut out);
    assert_eq!(String::from_utf8(out).unwrap(), "0\r\nx-sum: 1\r\n\r\n");
    assert_eq!(trailers_without(trailers(), None).len(), 3);
}

#[test]
fn what_is_for_one_hop_is_so_behind_the_body_too() {
    let text =
        "HTTP/1.1 200 OK\r\nConnection: Close, X-Hop, keep-alive, TE\r\nTransfer-Encoding: chunked\r\n\r\n";
    let head = parse_response(text.as_bytes(), false).unwrap();
    assert_eq!(trailers_for_one_hop(&head.for_one_hop), ["x-hop"]);
    let text = "POST / HTTP/1.1\r\nHost: a\r\nConnection: X-Hop\r\nTransfer-Encoding: chunked\r\n\r\n";
    let head = parse_request(text.as_bytes()).unwrap();
    assert_eq!(trailers_for_one_hop(&head.for_one_hop), ["x-hop"]);
    assert!(trailers_for_one_hop(&[&b"close"[..], b"keep-alive"]).is_empty());
}

#[test]
fn interim_answers_and_trailers_go_on_without_what_is_not_theirs() {
    let head =
        parse_response(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\n\r\n", false).unwrap();
    let mut out = Vec::new();
    interim(&head, &mut out);
    assert_eq!(out, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    out.clear();
    let trailers = [
        Field { name: b"grpc-status", value: b"0" },
        Field { name: b"Content-Length", value: b"5" },
        Field { name: b"Authorization", value: b"x" },
    ];
    last_chunk(&trailers, &mut out);
    assert_eq!(out, b"0\r\ngrpc-status: 0\r\n\r\n");
}

#[test]
fn what_a_client_has_shown_of_itself_is_told_and_its_own_word_is_not() {
    let text = "GET /path HTTP/1.1\r\nHost: a\r\nX-Client-Cert-Verify: SUCCESS\r\nx-client-cert-subject: CN=root\r\n\
                Client-Cert: :AA==:\r\nClient-Cert-Chain: :AA==:\r\nX-Client-Certain: yes\r\n\r\n";
    let about = |passing: &Passing<'_>| {
        let passed = passed_on(text, passing).unwrap();
        let lines = passed.lines().filter(|line| line.to_ascii_lowercase().contains("client-cert"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(about(&passing(false)), ["X-Client-Certain: yes"]);
    assert_eq!(about(&passing(true)).len(), 5, "a proxy in front that is trusted may have asked");
    let nothing = Passing { certificate: Shown::Nothing, ..passing(true) };
    assert_eq!(about(&nothing), ["X-Client-Certain: yes", "X-Client-Cert-Verify: NONE"]);
    let shown = Shown::Certificate { subject: "CN=alice", sha256: "ab" };
    let expected = [
        "X-Client-Certain: yes",
        "X-Client-Cert-Verify: SUCCESS",
        "X-Client-Cert-Subject: CN=alice",
        "X-Client-Cert-SHA256: ab",
    ];
    assert_eq!(about(&Passing { certificate: shown, ..passing(true) }), expected);
    let underscore = text.replace("x-client-cert-subject", "x_client_cert_subject");
    assert_eq!(passed_on(&underscore, &passing(false)), Err(Fault::Underscore));
}

#[test]
fn a_websocket_s_key_is_its_number() {
    // From `printf '%032x' N | xxd -r -p | base64`.
    assert_eq!(&websocket_key(0), b"AAAAAAAAAAAAAAAAAAAAAA==");
    assert_eq!(&websocket_key(u128::MAX), b"/////////////////////w==");
    assert_eq!(&websocket_key(0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f), b"AAECAwQFBgcICQoLDA0ODw==");
}
