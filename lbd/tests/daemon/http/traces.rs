//! Trace context on its way to targets, and spans on theirs to a collector, which is one of the recording targets here.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::config;
use super::peers::{Client, Message, Target, answer, ask, get, write};
use crate::support::{Config, Lbd, eventually, free, metric, own_ip};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CAME: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn telling(mut config: Config, collector: SocketAddr, more: &str) -> Config {
    config.service = format!("otlp = {{ endpoint = \"http://{collector}/v1/traces\", {more} }}\n");
    config
}

fn with(fields: &str) -> String {
    format!("GET /a?secret=1 HTTP/1.1\r\nHost: shop.example:80\r\n{fields}\r\n")
}

/// All spans that a collector has got, with what they are of.
fn spans(collector: &Target) -> Vec<(String, Value)> {
    let mut spans = Vec::new();
    for request in collector.seen() {
        let posted: Value = serde_json::from_slice(&request.body).unwrap();
        for resource in posted["resourceSpans"].as_array().unwrap() {
            let name = resource["resource"]["attributes"][0]["value"]["stringValue"].as_str().unwrap();
            let all = resource["scopeSpans"][0]["spans"].as_array().unwrap();
            spans.extend(all.iter().map(|span| (name.to_owned(), span.clone())));
        }
    }
    spans
}

/// The spans, once there are so many.
fn told(collector: &Target, count: usize) -> Vec<Value> {
    eventually("the collector has its spans", || spans(collector).len() >= count);
    let spans: Vec<Value> = spans(collector).into_iter().map(|(_, span)| span).collect();
    assert_eq!(spans.len(), count);
    spans
}

fn attribute(span: &Value, key: &str) -> Option<String> {
    let all = span["attributes"].as_array().unwrap();
    let value = &all.iter().find(|attribute| attribute["key"] == key)?["value"];
    value.get("stringValue").or(value.get("intValue")).and_then(Value::as_str).map(str::to_owned)
}

/// The parts of the `traceparent` that a target got.
fn parent(request: &Message) -> Vec<String> {
    let value = request.field("traceparent").expect("a traceparent");
    value.split('-').map(str::to_owned).collect()
}

#[test]
fn trace_context_goes_on_as_it_came_where_nobody_is_told() {
    let ip = own_ip();
    let target = Target::named(ip, "ok");
    let lbd = Lbd::start(&config(ip, &[target.address]));
    ask(lbd.address, &with(&format!("traceparent: {CAME}\r\ntracestate: a=1\r\ntracestate: b=2\r\n")));
    let seen = target.last();
    assert_eq!((seen.field("traceparent"), seen.all("tracestate")), (Some(CAME), vec!["a=1", "b=2"]));
    // Also what is none: it is the target's to judge.
    ask(lbd.address, &with("traceparent: nonsense\r\n"));
    assert_eq!(target.last().field("traceparent"), Some("nonsense"));
    ask(lbd.address, &with(""));
    assert_eq!(target.last().field("traceparent"), None);
}

#[test]
fn a_collector_gets_a_span_for_each_request_and_targets_its_number() {
    let ip = own_ip();
    let target = Target::with(ip, |request, stream| match request.line() {
        "GET /bad HTTP/1.1" => write(stream, "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"),
        _ => answer(stream, "ok"),
    });
    let collector = Target::named(ip, "{}");
    let mut config =
        telling(config(ip, &[target.address]), collector.address, "sample = 1, service_name = \"edge\"");
    config.service += "[[service.rule]]\nwhen = { path = \"/own\" }\nrespond = { status = 204 }\n";
    let lbd = Lbd::start(&config);
    ask(lbd.address, &with(&format!("traceparent: {CAME}\r\ntracestate: rojo=1\r\n")));
    let first = told(&collector, 1).remove(0);
    let posted = collector.last();
    assert_eq!(posted.line(), "POST /v1/traces HTTP/1.1");
    assert_eq!(posted.field("content-type"), Some("application/json"));
    assert_eq!(spans(&collector)[0].0, "edge");
    // The trace goes on, and the target's parent is this span.
    assert_eq!((&first["traceId"], &first["parentSpanId"]), (&TRACE.into(), &"00f067aa0ba902b7".into()));
    assert_eq!(first["traceState"], "rojo=1");
    let seen = target.last();
    assert_eq!(seen.field("tracestate"), Some("rojo=1"));
    let sent = parent(&seen);
    assert_eq!((sent[1].as_str(), sent[3].as_str()), (TRACE, "01"));
    assert_eq!(first["spanId"].as_str(), Some(sent[2].as_str()));
    let nanos = |key: &str| first[key].as_str().unwrap().parse::<u64>().unwrap();
    assert!(nanos("startTimeUnixNano") < nanos("endTimeUnixNano"), "{first}");
    for (key, expected) in [
        ("http.request.method", "GET"),
        ("url.path", "/a"),
        ("server.address", "shop.example"),
        ("http.response.status_code", "200"),
        ("tandem.service", "web"),
        ("tandem.group", "pool"),
        ("tandem.target", "t0"),
    ] {
        assert_eq!(attribute(&first, key).as_deref(), Some(expected), "{key} of {first}");
    }
    assert!(!first.to_string().contains("secret"), "no query: {first}");

    // What says nothing that can be read begins a new trace, without what was said of the other one.
    ask(lbd.address, &with("traceparent: 00-nonsense\r\ntracestate: rojo=1\r\n"));
    ask(lbd.address, &get("/bad"));
    ask(lbd.address, &get("/own"));
    let all = told(&collector, 4);
    let seen = &target.seen()[1];
    assert_eq!(seen.all("tracestate"), [""; 0]);
    let sent = parent(seen);
    assert!(sent[1] != TRACE && sent[1].len() == 32 && sent[3] == "01", "{sent:?}");
    let of = |key: &str, value: &str| {
        all.iter().find(|span| attribute(span, key).as_deref() == Some(value)).expect("a span")
    };
    let fresh = all.iter().find(|span| span["spanId"] == sent[2]).expect("its span");
    assert_eq!((&fresh["traceId"], fresh.get("parentSpanId")), (&sent[1].as_str().into(), None));
    let bad = of("url.path", "/bad");
    assert_eq!((&bad["status"]["code"], attribute(bad, "error.type").as_deref()), (&2.into(), Some("500")));
    let own = of("url.path", "/own");
    assert_eq!(
        (attribute(own, "tandem.rule").as_deref(), attribute(own, "tandem.target")),
        (Some("1"), None)
    );
    let counts = metric(&lbd, "tandem_lbd_otlp_spans_total");
    let count = |result: &str| {
        counts[&format!("{{endpoint=\"http://{}/v1/traces\",result=\"{result}\"}}", collector.address)]
    };
    assert_eq!((count("exported"), count("failed"), count("dropped")), (4, 0, 0));
}

#[test]
fn the_span_of_a_tunnel_ends_when_that_does() {
    let ip = own_ip();
    let target = Target::with(ip, |request, stream| {
        if request.field("upgrade").is_none() {
            return answer(stream, "ok");
        }
        write(stream, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")?;
        std::io::copy(stream, &mut std::io::sink())?;
        Ok(false)
    });
    let collector = Target::named(ip, "{}");
    let lbd = Lbd::start(&telling(config(ip, &[target.address]), collector.address, "sample = 1"));
    let mut client = Client::new(lbd.address);
    client.send(with("Connection: Upgrade\r\nUpgrade: x\r\n"));
    assert_eq!(client.answer().status(), 101);
    let open_since = Instant::now();
    ask(lbd.address, &get("/other"));
    assert_eq!(attribute(&told(&collector, 1)[0], "url.path").as_deref(), Some("/other"));
    let open_for = open_since.elapsed();
    client.finish();
    assert!(client.is_at_its_end());
    let all = told(&collector, 2);
    let span =
        all.iter().find(|span| attribute(span, "url.path").as_deref() == Some("/a")).expect("its span");
    assert_eq!(attribute(span, "http.response.status_code").as_deref(), Some("101"));
    assert_eq!((attribute(span, "tandem.end").as_deref(), span.get("status")), (Some("done"), None));
    let nanos = |key: &str| u128::from(span[key].as_str().unwrap().parse::<u64>().unwrap());
    let lasted = nanos("endTimeUnixNano") - nanos("startTimeUnixNano");
    assert!(lasted >= open_for.as_nanos(), "{open_for:?}: {span}");
}

#[test]
fn what_is_not_in_the_sample_is_not_told_and_its_parent_stays() {
    let ip = own_ip();
    let target = Target::named(ip, "ok");
    let collector = Target::named(ip, "{}");
    let mut config = telling(config(ip, &[target.address]), collector.address, "sample = 0.000001");
    config.service += "trust_forwarded = [\"127.0.0.0/8\"]\n";
    let lbd = Lbd::start(&config);
    let untold = CAME.replace("-01", "-00");
    ask(lbd.address, &with(&format!("traceparent: {untold}\r\n")));
    assert_eq!(target.last().field("traceparent"), Some(untold.as_str()));
    // A trace that begins here and is not told is one that targets need not tell of, either.
    ask(lbd.address, &with(""));
    assert_eq!(parent(&target.last())[3], "00");
    // A proxy in front whose word is taken has decided.
    ask(lbd.address, &with(&format!("traceparent: {CAME}\r\n")));
    let span = told(&collector, 1).remove(0);
    assert_eq!(
        (&span["traceId"], span["spanId"].as_str()),
        (&TRACE.into(), Some(parent(&target.last())[2].as_str()))
    );
}

#[test]
fn a_collector_that_is_not_there_or_refuses_holds_nobody_up() {
    let ip = own_ip();
    let target = Target::named(ip, "ok");
    let config = telling(config(ip, &[target.address]), free(ip), "sample = 1");
    let lbd = Lbd::start(&config);
    let count = |result: &str| {
        let all = metric(&lbd, "tandem_lbd_otlp_spans_total");
        let of =
            |(labels, count): (&String, &u64)| labels.contains(&format!("\"{result}\"")).then_some(*count);
        all.iter().find_map(of).unwrap()
    };
    let mut client = Client::new(lbd.address);
    eventually("as many as do not fit are dropped", || {
        for _ in 0..1000 {
            assert_eq!(client.send(get("/")).answer().text(), "ok");
        }
        count("dropped") > 0
    });
    eventually("the others are given up after some tries", || count("failed") > 0);
    assert_eq!(count("exported"), 0);
    lbd.says("the collector does not take spans: cannot connect");
}

#[test]
fn a_batch_is_sent_again_if_the_collector_was_only_busy() {
    let ip = own_ip();
    let target = Target::named(ip, "ok");
    let tries = AtomicUsize::new(0);
    let collector = Target::with(ip, move |_, stream| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => write(stream, "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"),
        1 => answer(stream, "{\"partialSuccess\":{\"rejectedSpans\":\"1\"}}"),
        _ => write(stream, "HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n"),
    });
    let lbd = Lbd::start(&telling(config(ip, &[target.address]), collector.address, "sample = 1"));
    let count = |result: &str| {
        let key = format!("{{endpoint=\"http://{}/v1/traces\",result=\"{result}\"}}", collector.address);
        metric(&lbd, "tandem_lbd_otlp_spans_total")[&key]
    };
    let mut client = Client::new(lbd.address);
    for _ in 0..3 {
        client.send(get("/")).answer();
    }
    // All in one batch, or in two, if the machine stood still in between.
    eventually("they are all told of", || count("exported") + count("failed") == 3);
    assert!(count("failed") >= 1, "one was not taken");
    let posted = collector.seen();
    assert_eq!(posted[0].body, posted[1].body, "the same once more");
    ask(lbd.address, &get("/"));
    eventually("what is refused is given up at once", || count("exported") + count("failed") == 4);
    assert!(count("failed") >= 2);
}

#[test]
fn what_waits_is_posted_at_the_end_and_goes_to_another_collector_after_a_reload() {
    let ip = own_ip();
    let target = Target::named(ip, "ok");
    let (one, two) = (Target::named(ip, "{}"), Target::named(ip, "{}"));
    let first = telling(config(ip, &[target.address]), one.address, "sample = 1");
    let mut lbd = Lbd::start(&first);
    ask(lbd.address, &get("/"));
    told(&one, 1);
    let second = telling(first.clone(), two.address, "sample = 1");
    assert_eq!(lbd.reload(&second).0, 200);
    ask(lbd.address, &get("/"));
    told(&two, 1);
    ask(lbd.address, &get("/"));
    lbd.signal(Signal::SIGTERM);
    assert!(lbd.wait().success());
    assert_eq!((spans(&one).len(), spans(&two).len()), (1, 2));
}
