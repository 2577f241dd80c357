//! Answers that are compressed on their way, for clients that say that they take it.

use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use super::config;
use super::peers::{Client, Target, ask, get, write};
use super::real::curl;
use crate::real::Nginx;
use crate::support::{Config, Lbd, eventually, free, metric, own_ip};

const COMPRESS: &str =
    "compress = { types = [\"text/plain\", \"text/event-stream\"], min_bytes = \"100B\" }\n";

fn with(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n{fields}\r\n")
}

/// What gzip makes of it.
fn unpressed(bytes: &[u8]) -> Vec<u8> {
    let mut child =
        Command::new("gzip").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    output.stdout
}

fn text(length: usize) -> String {
    "All work and no play makes Jack a dull boy.\n".chars().cycle().take(length).collect()
}

fn compressing(ip: Ipv4Addr, targets: &[&Target]) -> Config {
    let addresses: Vec<_> = targets.iter().map(|target| target.address).collect();
    let mut config = config(ip, &addresses);
    config.service = COMPRESS.to_owned();
    config
}

/// Answers `/length`, `/chunks`, `/close` with the same text in each framing, and others as their names say.
fn target(ip: Ipv4Addr) -> Target {
    Target::with(ip, |request, stream| {
        let plain = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nETag: \"a\"\r\nAccept-Ranges: bytes\r\n";
        let body = text(200_000);
        let whole = |stream: &mut BufReader<TcpStream>, fields: &str| {
            let length = body.len();
            write(stream, &format!("{plain}{fields}Content-Length: {length}\r\n\r\n{body}"))
        };
        match request.line().split(' ').nth(1).unwrap_or_default() {
            "/length" => whole(stream, ""),
            "/chunks" => {
                write(stream, &format!("{plain}Transfer-Encoding: chunked\r\n\r\n"))?;
                for chunk in body.as_bytes().chunks(7001) {
                    write(
                        stream,
                        &format!("{:x}\r\n{}\r\n", chunk.len(), std::str::from_utf8(chunk).unwrap()),
                    )?;
                }
                write(stream, "0\r\nX-Sum: 7\r\n\r\n")
            }
            "/trailed" => {
                let length = body.len();
                write(
                    stream,
                    &format!("{plain}Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n"),
                )?;
                write(stream, "X-Sum: 7\r\nRepr-Digest: sha-256=:AA==:\r\nETag: \"a\"\r\n\r\n")
            }
            "/close" => {
                write(stream, &format!("{plain}\r\n{body}"))?;
                Ok(false)
            }
            "/empty" => write(stream, &format!("{plain}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")),
            "/encoded" => whole(stream, "Content-Encoding: br\r\n"),
            "/kept" => whole(stream, "Cache-Control: no-transform\r\n"),
            "/short" => write(stream, &format!("{plain}Content-Length: 5\r\n\r\nshort")),
            "/image" => {
                write(stream, "HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 3\r\n\r\npng")
            }
            "/part" => write(
                stream,
                &format!(
                    "{}Content-Range: bytes 0-199/900\r\nContent-Length: 200\r\n\r\n{}",
                    plain.replace("200 OK", "206 Partial Content"),
                    text(200)
                ),
            ),
            "/head" => write(stream, &format!("{plain}Content-Length: 200000\r\n\r\n")),
            _ => write(stream, "HTTP/1.1 204 No Content\r\n\r\n"),
        }
    })
}

#[test]
fn an_answer_is_compressed_whatever_its_framing_is() {
    let ip = own_ip();
    let target = target(ip);
    let lbd = Lbd::start(&compressing(ip, &[&target]));
    let mut client = Client::new(lbd.address);
    for path in ["/length", "/chunks", "/close", "/length"] {
        let got = client.send(with(path, "")).answer();
        assert_eq!((got.status(), got.field("content-encoding")), (200, Some("gzip")), "{path}");
        assert_eq!((got.field("content-length"), got.field("transfer-encoding")), (None, Some("chunked")));
        assert_eq!((got.field("etag"), got.field("accept-ranges")), (Some("W/\"a\""), None), "{path}");
        assert_eq!(got.field("vary"), Some("Accept-Encoding"), "{path}");
        assert!(got.body.len() < 20_000, "{path}: {}", got.body.len());
        assert!(unpressed(&got.body) == text(200_000).as_bytes(), "{path}");
    }
    let empty = client.send(with("/empty", "")).answer();
    assert_eq!((empty.field("content-encoding"), unpressed(&empty.body)), (Some("gzip"), Vec::new()));
    assert_eq!(target.last().field("accept-encoding"), Some("gzip"), "the target may compress, too");
    let counts = metric(&lbd, "tandem_lbd_service_http_compressions_total");
    assert_eq!(counts["{service=\"web\",result=\"compressed\"}"], 5);
    let bytes = || metric(&lbd, "tandem_lbd_service_http_compressed_bytes_total");
    eventually("all are counted", || bytes()["{service=\"web\",when=\"before\"}"] == 800_000);
    assert!(bytes()["{service=\"web\",when=\"after\"}"] < 80_000);
    assert_eq!(lbd.status()["services"][0]["requests"]["compressed"], 5);
}

#[test]
fn no_trailer_says_of_a_compressed_answer_what_is_true_of_the_other_one() {
    let ip = own_ip();
    let target = target(ip);
    let lbd = Lbd::start(&compressing(ip, &[&target]));
    let mut client = Client::new(lbd.address);
    let got = client.send(with("/trailed", "")).answer();
    assert_eq!((got.field("content-encoding"), got.trailers.as_str()), (Some("gzip"), "X-Sum: 7"));
    assert!(unpressed(&got.body) == text(200_000).as_bytes());
    let got = client.send(get("/trailed")).answer();
    assert_eq!((got.field("content-encoding"), got.trailers.lines().count()), (None, 3), "{}", got.trailers);
}

#[test]
fn what_must_not_be_or_is_not_wanted_compressed_passes_as_it_is() {
    let ip = own_ip();
    let target = target(ip);
    let lbd = Lbd::start(&compressing(ip, &[&target]));
    let mut client = Client::new(lbd.address);
    for (path, encoding, vary) in [
        ("/encoded", Some("br"), None),
        ("/kept", None, None),
        ("/short", None, None),
        ("/image", None, None),
        ("/part", None, None),
        ("/none", None, None),
    ] {
        let got = client.send(with(path, "")).answer();
        assert_eq!((got.field("content-encoding"), got.field("vary")), (encoding, vary), "{path}");
        assert!(got.field("etag").is_none_or(|tag| tag == "\"a\""), "{path}");
    }
    // Who does not take it gets it as it is, and caches are told that others may not.
    for request in [
        get("/length"),
        with("/length", "").replace("gzip", "br, gzip;q=0"),
        with("/length", "Cache-Control: no-transform\r\n"),
    ] {
        let got = client.send(&request).answer();
        assert_eq!(
            (got.field("content-encoding"), got.field("vary")),
            (None, Some("Accept-Encoding")),
            "{request}"
        );
        assert_eq!((got.field("content-length"), got.field("etag")), (Some("200000"), Some("\"a\"")));
        assert!(got.body == text(200_000).as_bytes());
    }
    let head = client.send(with("/head", "").replacen("GET", "HEAD", 1)).answer_to_head();
    assert_eq!((head.field("content-encoding"), head.field("content-length")), (None, Some("200000")));
    let old = ask(lbd.address, &with("/length", "").replace("HTTP/1.1", "HTTP/1.0"));
    assert_eq!((old.field("content-encoding"), old.body.len()), (None, 200_000));
    assert_eq!(
        metric(&lbd, "tandem_lbd_service_http_compressions_total")["{service=\"web\",result=\"compressed\"}"],
        0
    );
}

#[test]
fn what_was_had_compressed_is_confirmed_and_changed_by_its_tag() {
    let ip = own_ip();
    // As RFC 9110 has it: tags are compared weakly for If-None-Match, and strongly for If-Match.
    let target = Target::with(ip, |request, stream| {
        let weak = |tag: &str| tag.trim_start_matches("W/") == "\"a\"";
        match (request.field("if-none-match"), request.field("if-match")) {
            (Some(tag), _) if weak(tag) => write(stream, "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n"),
            (_, Some("\"a\"")) => write(stream, "HTTP/1.1 204 No Content\r\n\r\n"),
            (_, Some(_)) => write(stream, "HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n"),
            _ => {
                let fields = "Content-Type: text/plain\r\nETag: \"a\"\r\nContent-Length: 5000";
                write(stream, &format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{}", text(5000)))
            }
        }
    });
    let lbd = Lbd::start(&compressing(ip, &[&target]));
    let mut client = Client::new(lbd.address);
    for (accepted, tag) in [("gzip", "W/\"a\""), ("br", "\"a\"")] {
        let request = |method: &str, field: &str| {
            with("/", field).replacen("GET", method, 1).replacen("gzip", accepted, 1)
        };
        let got = client.send(request("GET", "")).answer();
        assert_eq!((got.field("etag"), got.field("vary")), (Some(tag), Some("Accept-Encoding")));
        let same = client.send(request("GET", &format!("If-None-Match: {tag}\r\n"))).answer();
        assert_eq!((same.status(), same.field("etag")), (304, Some(tag)));
        assert_eq!(same.field("vary"), Some("Accept-Encoding"));
        let changed = client.send(request("PUT", &format!("If-Match: {tag}\r\n"))).answer();
        assert_eq!(changed.status(), 204, "{tag}");
        let other = client.send(request("PUT", "If-Match: W/\"b\"\r\n")).answer();
        assert_eq!(other.status(), 412);
    }
}

#[test]
fn a_rule_says_otherwise() {
    let ip = own_ip();
    let target = target(ip);
    let mut config = compressing(ip, &[&target]);
    config.service += "[[service.rule]]\nwhen = { path = \"/length\" }\nforward = \"pool\"\ncompress = \"none\"\n\
                       [[service.rule]]\nwhen = { path = \"/short\" }\nforward = \"pool\"\ncompress = { min_bytes = \"5B\" }\n";
    let lbd = Lbd::start(&config);
    let of = |path: &str| {
        let got = ask(lbd.address, &with(path, ""));
        (got.field("content-encoding").map(str::to_owned), got.field("vary").map(str::to_owned))
    };
    assert_eq!(of("/length"), (None, None));
    assert_eq!(of("/short"), (Some("gzip".to_owned()), Some("Accept-Encoding".to_owned())));
    assert_eq!(of("/chunks").0.as_deref(), Some("gzip"));
}

/// A target that answers with a stream of events, each of which is sent when it is told to.
fn events(ip: Ipv4Addr) -> (Target, Sender<String>) {
    let (say, said) = channel::<String>();
    let said = Mutex::new(said);
    let target = Target::with(ip, move |_, stream| {
        write(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
        )?;
        while let Ok(event) = said.lock().unwrap().recv() {
            write(stream, &format!("{:x}\r\n{event}\r\n", event.len()))?;
        }
        write(stream, "0\r\n\r\n")
    });
    (target, say)
}

#[test]
fn events_are_not_held_up() {
    let ip = own_ip();
    let (target, say) = events(ip);
    let lbd = Lbd::start(&compressing(ip, &[&target]));
    let mut child = Command::new("curl")
        .args(["-sSN", "--max-time", "20", "--compressed", &format!("http://{}/", lbd.address)])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = child.stdout.take().unwrap();
    for number in 0..3 {
        let event = format!("data: {number}\n\n");
        say.send(event.clone()).unwrap();
        // It is here before there is anything else.
        let mut got = vec![0; event.len()];
        output.read_exact(&mut got).unwrap();
        assert_eq!(got, event.as_bytes());
    }
    drop(say);
    let mut rest = Vec::new();
    output.read_to_end(&mut rest).unwrap();
    assert!(child.wait().unwrap().success() && rest.is_empty());
}

#[test]
fn a_worker_compresses_so_many_at_a_time_and_no_more() {
    // More than twice 64, for there are two workers.
    const CLIENTS: usize = 140;
    let ip = own_ip();
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let target = Target::with(ip, move |_, stream| {
        write(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n",
        )?;
        wait.lock().unwrap().recv().ok();
        write(stream, "3\r\nend\r\n0\r\n\r\n")
    });
    let lbd = Lbd::start(&compressing(ip, &[&target]));
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::new(lbd.address)).collect();
    for client in &mut clients {
        client.send(with("/", ""));
    }
    let count = |result: &str| {
        metric(&lbd, "tandem_lbd_service_http_compressions_total")
            [&format!("{{service=\"web\",result=\"{result}\"}}")]
    };
    eventually("all have been begun", || count("compressed") + count("refused") == CLIENTS as u64);
    // One client has 32 of each worker.
    assert!(count("compressed") <= 64, "{}", count("compressed"));
    drop(go);
    let mut plain = 0;
    for client in &mut clients {
        let got = client.answer();
        assert_eq!(got.field("vary"), Some("Accept-Encoding"));
        let body = match got.field("content-encoding") {
            Some("gzip") => unpressed(&got.body),
            _ => {
                plain += 1;
                got.body.clone()
            }
        };
        assert_eq!(body, b"beginend");
    }
    assert_eq!(plain, count("refused"));
    // There is room again.
    let again = ask(lbd.address, &with("/", ""));
    assert_eq!(again.field("content-encoding"), Some("gzip"));
}

#[test]
fn curl_gets_nginx_s_pages_compressed_by_either_protocol() {
    let ip = own_ip();
    let (old, new) = (free(ip), free(ip));
    let servers = format!("server {{ listen {old}; }} server {{ listen {new} http2; }}");
    let nginx = Nginx::start(&servers, &[old, new]);
    let large = text(3_000_000);
    fs::write(nginx.root().join("large"), &large).unwrap();
    for (address, keys) in [(old, ""), (new, "protocol = \"http2\"\n")] {
        let mut config = config(ip, &[address]);
        config.service = format!("{COMPRESS}http2 = true\n");
        config.group = keys.to_owned();
        let lbd = Lbd::start(&config);
        let url = format!("http://{}/large", lbd.address);
        for protocol in ["--http1.1", "--http2-prior-knowledge"] {
            let file = lbd.folder.path().join("fetched");
            let said = curl(&[
                protocol,
                "--compressed",
                "-o",
                file.to_str().unwrap(),
                "-w",
                "%{http_code} %header{content-encoding} %header{etag}",
                &url,
            ]);
            assert!(said.starts_with("200 gzip W/\""), "{protocol}: {said}");
            assert!(fs::read(&file).unwrap() == large.as_bytes(), "{protocol} {keys}");
            // And who does not ask for it.
            assert!(curl(&[protocol, &url]) == large);
        }
        let bytes = || metric(&lbd, "tandem_lbd_service_http_compressed_bytes_total");
        eventually("both are counted", || bytes()["{service=\"web\",when=\"before\"}"] == 6_000_000);
        assert!(bytes()["{service=\"web\",when=\"after\"}"] < 200_000);
    }
}
