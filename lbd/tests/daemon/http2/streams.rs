//! Streams to targets of HTTP/1: bodies both ways, what stands between a request and its answer, and how either side ends it.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::config;
use super::frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, Outcome, RST_STREAM, WINDOW_UPDATE, Wire, block, frame, head,
};
use crate::http::{Client, Target, answer, ask, get, write};
use crate::server::Server;
use crate::support::{Folder, Lbd, eventually, free, metric, own_ip, records};

fn answered(body: &str) -> Outcome {
    Outcome::Answer(200, body.as_bytes().to_vec())
}

#[test]
fn bytes_pass_before_either_message_has_ended() {
    let ip = own_ip();
    // Answers each piece of the body as it comes, and ends when the chunks do.
    let target = Server::start((ip, 0).into(), |mut stream| {
        let mut got = Vec::new();
        let mut bytes = [0; 4096];
        // No byte of what may have come with it.
        while !got.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut bytes[..1]).unwrap();
            got.push(bytes[0]);
        }
        assert!(got.windows(26).any(|part| part == b"Transfer-Encoding: chunked"));
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        let mut chunks = Vec::new();
        while !chunks.ends_with(b"0\r\nx-sum: 7\r\n\r\n") {
            let count = stream.read(&mut bytes).unwrap();
            assert!(count > 0, "{:?}", String::from_utf8_lossy(&chunks));
            chunks.extend_from_slice(&bytes[..count]);
            if !chunks.ends_with(b"0\r\nx-sum: 7\r\n\r\n") {
                stream.write_all(format!("{count:x}\r\n").as_bytes()).unwrap();
                stream.write_all(&bytes[..count]).unwrap();
                stream.write_all(b"\r\n").unwrap();
            }
        }
        stream.write_all(b"0\r\nX-Answer: 9\r\nContent-Length: 3\r\n\r\n").unwrap();
    });
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let mut wire = Wire::open(lbd.address);
    wire.ask(1, &head("POST", "/", &[]), false);
    for piece in ["one", "two two"] {
        wire.send(&frame(DATA, 0, 1, piece.as_bytes()));
        let echo = wire.next(DATA);
        let expected = format!("{:x}\r\n{piece}\r\n", piece.len());
        assert_eq!(String::from_utf8_lossy(&echo.payload), expected);
    }
    // Trailers, of which those that say where a message ends stay here.
    let trailers = block(&[("x-sum", "7"), ("content-length", "5")]);
    wire.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &trailers));
    let last = wire.next(HEADERS);
    assert!(last.ends_stream() && last.payload.len() < 30, "{last:?}");
}

#[test]
fn interim_answers_head_and_own_answers() {
    let ip = own_ip();
    let target = Target::with(ip, |request, stream| match request.line() {
        "GET /early HTTP/1.1" => {
            write(stream, "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")?;
            answer(stream, "served")
        }
        "HEAD /head HTTP/1.1" => write(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        "GET /nothing HTTP/1.1" => write(stream, "HTTP/1.1 204 No Content\r\n\r\n"),
        "GET /close HTTP/1.1" => {
            write(stream, "HTTP/1.1 200 OK\r\n\r\nto the end")?;
            Ok(false)
        }
        _ => answer(stream, "else"),
    });
    let mut config = config(ip, &[target.address]);
    config.service += "[[service.rule]]\nwhen = { path = \"/own\" }\nrespond = { status = 200, body = \"own\" }\n\
                       [[service.rule]]\nwhen = { path = \"/moved\" }\nredirect = { to = \"/else\" }\n\
                       [[service.rule]]\nwhen = { path = \"/nobody\" }\nforward = \"nobody\"\n";
    config.group =
        format!("[[target_group]]\nname = \"nobody\"\ntargets = [{{ address = \"{}\" }}]\n", free(ip));
    let lbd = Lbd::start(&config);
    let mut wire = Wire::open(lbd.address);
    wire.ask(1, &head("GET", "/early", &[]), true);
    let (first, second) = (wire.next(HEADERS), wire.next(HEADERS));
    assert!(!first.ends_stream() && !second.ends_stream() && first.payload != second.payload);
    assert_eq!(wire.next(DATA).payload, b"served");
    let mut wire = Wire::open(lbd.address);
    assert_eq!(wire.ask(1, &head("HEAD", "/head", &[]), true).outcome(1), answered(""));
    assert_eq!(wire.ask(3, &head("HEAD", "/own", &[]), true).outcome(3), answered(""));
    assert_eq!(wire.ask(5, &head("GET", "/own", &[]), true).outcome(5), answered("own"));
    assert_eq!(wire.ask(7, &head("GET", "/nothing", &[]), true).outcome(7), Outcome::Answer(204, vec![]));
    assert_eq!(wire.ask(9, &head("GET", "/close", &[]), true).outcome(9), answered("to the end"));
    let mut wire = Wire::open(lbd.address);
    assert_eq!(wire.ask(1, &head("GET", "/moved", &[]), true).outcome(1), Outcome::Answer(302, vec![]));
    // Also what no target has answered, or nobody has understood: of content a client of HTTP/2 makes an error.
    for (stream, path, status) in [(3, "/nobody", 503), (5, "/../above", 400)] {
        let outcome = wire.ask(stream, &head("HEAD", path, &[]), true).outcome(stream);
        assert_eq!(outcome, Outcome::Answer(status, vec![]), "{path}");
        let mut client = Client::new(lbd.address);
        client.send(format!("HEAD {path} HTTP/1.1\r\nHost: shop.example\r\n\r\n"));
        assert_eq!(client.answer_to_head().status(), status, "{path}");
        assert!(client.is_at_its_end(), "{path}: nothing comes behind the head");
    }
    assert_eq!(metric(&lbd, "tandem_lbd_service_http2_connections_total")["{service=\"web\"}"], 3);
    assert_eq!(lbd.status()["services"][0]["requests"]["answered"]["2xx"].as_u64(), Some(6));
}

#[test]
fn many_streams_share_a_connection_and_few_connections_to_the_target() {
    let ip = own_ip();
    let target = Target::with(ip, |request, stream| {
        let text = format!("{} {}", request.line(), request.text());
        answer(stream, &text)
    });
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let mut wire = Wire::open(lbd.address);
    for round in 0..10 {
        let streams = (0..20).map(|index| 1 + 2 * (round * 20 + index));
        for stream in streams.clone() {
            let path = format!("/{stream}");
            wire.ask(stream, &head("POST", &path, &[]), false);
            wire.send(&frame(DATA, END_STREAM, stream, format!("body {stream}").as_bytes()));
        }
        let mut left: Vec<u32> = streams.collect();
        while !left.is_empty() {
            let got = wire.next(DATA);
            if got.ends_stream() {
                let expected = format!("POST /{0} HTTP/1.1 body {0}", got.stream);
                assert_eq!(String::from_utf8_lossy(&got.payload), expected);
                left.retain(|stream| *stream != got.stream);
            }
        }
    }
    assert_eq!(target.seen().len(), 200);
    assert!(target.connections() <= 20, "{} connections", target.connections());
}

#[test]
fn who_gives_up_has_the_targets_connection_closed() {
    let ip = own_ip();
    let target = Target::with(ip, |request, stream| {
        if request.line().contains("/begun") {
            write(stream, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")?;
        }
        if request.line().contains("/else") {
            return answer(stream, "else");
        }
        // Until the proxy closes it.
        Ok(stream.read(&mut [0])? > 0)
    });
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let mut wire = Wire::open(lbd.address);
    for (stream, path) in [(1, "/waiting"), (3, "/begun")] {
        wire.ask(stream, &head("GET", path, &[]), true);
        let nth = usize::try_from(stream / 2 + 1).unwrap();
        eventually("the request is at the target", || target.seen().len() == nth);
        if path == "/begun" {
            assert_eq!(wire.next(DATA).payload, b"part");
        }
        wire.send(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
        eventually("its connection is closed", || target.ended() == nth);
    }
    assert_eq!(wire.ask(5, &head("GET", "/else", &[]), true).outcome(5), answered("else"));
    let cuts = metric(&lbd, "tandem_lbd_service_http_requests_cut_total");
    assert_eq!(cuts["{service=\"web\",reason=\"client\"}"], 2);
    // A connection that goes takes all of its requests with it.
    for stream in [7, 9] {
        wire.ask(stream, &head("GET", "/waiting", &[]), true);
    }
    eventually("both are at the target", || target.seen().len() == 5);
    drop(wire);
    eventually("their connections are closed", || target.ended() + 1 >= target.connections());
}

#[test]
fn what_a_target_does_not_finish_does_not_look_whole() {
    let ip = own_ip();
    let target = Target::with(ip, |request, stream| {
        match request.line() {
            "GET /length HTTP/1.1" => write(stream, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")?,
            "GET /chunks HTTP/1.1" => {
                write(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n")?
            }
            "GET /bad HTTP/1.1" => write(stream, "HTTP/1.1 200 OK\r\nA : b\r\n\r\n")?,
            _ => false,
        };
        Ok(false)
    });
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let outcome = |path| Wire::open(lbd.address).ask(1, &head("GET", path, &[]), true).outcome(1);
    assert_eq!(outcome("/length"), Outcome::Reset(2));
    assert_eq!(outcome("/chunks"), Outcome::Reset(2));
    assert_eq!(outcome("/bad"), Outcome::Answer(502, b"502 Bad Gateway\n".to_vec()));
    assert_eq!(outcome("/none"), Outcome::Answer(502, b"502 Bad Gateway\n".to_vec()));
    // The client is told of no error of its own.
    let expelled = metric(&lbd, "tandem_lbd_service_http2_connections_expelled_total");
    assert!(expelled.values().all(|count| *count == 0), "{expelled:?}");
}

#[test]
fn websocket_passes_by_an_extended_connect() {
    let ip = own_ip();
    // Echoes what comes, and ends when the client does.
    let target = Target::with(ip, |request, stream| {
        if request.line() != "GET /ws HTTP/1.1" {
            return answer(stream, "no");
        }
        assert_eq!(
            (request.field("upgrade"), request.field("connection")),
            (Some("websocket"), Some("upgrade"))
        );
        assert_eq!(request.field("sec-websocket-version"), Some("13"));
        assert_eq!(request.field("sec-websocket-key").unwrap().len(), 24);
        write(
            stream,
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nhello",
        )?;
        let mut bytes = [0; 1024];
        loop {
            match stream.read(&mut bytes)? {
                0 => break,
                count => stream.get_mut().write_all(&bytes[..count])?,
            }
        }
        write(stream, "bye")?;
        Ok(false)
    });
    let folder = Folder::new();
    let log = folder.path().join("access.log");
    let mut config = config(ip, &[target.address]);
    // What passes through a tunnel is no body.
    config.service += &format!(
        "limits = {{ max_body_bytes = \"4B\" }}\naccess_log = {{ format = \"json\", file = \"{}\" }}\n\
         [[service.rule]]\nwhen = {{ path = \"/ws\" }}\nforward = \"pool\"\n",
        log.display()
    );
    let lbd = Lbd::start_in(folder, &config);
    let mut wire = Wire::open(lbd.address);
    let more = [(":protocol", "websocket"), ("sec-websocket-version", "13")];
    let asked = Instant::now();
    wire.ask(1, &head("CONNECT", "/ws", &more), false);
    let answer = wire.next(HEADERS);
    let took = asked.elapsed();
    assert!(answer.payload.contains(&0x88) && !answer.ends_stream(), "200: {answer:?}");
    assert_eq!(wire.next(DATA).payload, b"hello");
    let mut pieces = 0;
    // Also for longer than it took to open.
    while pieces < 2 || asked.elapsed() < 2 * took {
        let piece = format!("piece {pieces}");
        wire.send(&frame(DATA, 0, 1, piece.as_bytes()));
        assert_eq!(wire.next(DATA).payload, piece.as_bytes());
        pieces += 1;
    }
    // Others go on beside it.
    assert_eq!(wire.ask(3, &head("GET", "/", &[]), true).outcome(3), answered("no"));
    wire.send(&frame(DATA, END_STREAM, 1, b""));
    assert_eq!(wire.next(DATA).payload, b"bye");
    let end = wire.next(DATA);
    assert!(end.ends_stream() && end.stream == 1, "{end:?}");
    assert_eq!(metric(&lbd, "tandem_lbd_service_http_tunnels_total")["{service=\"web\"}"], 1);
    // How long it took to be answered is counted, not how long it has lasted.
    let duration = || lbd.status()["services"][0]["requests"]["rules"][1]["duration"].clone();
    eventually("it is counted", || duration()["count"] == 1);
    let counted = duration()["sum_us"].as_u64().unwrap();
    assert!(u128::from(counted) <= took.as_micros(), "{counted}, {took:?}");
    // A target that wants none answers as to anything else.
    let mut wire = Wire::open(lbd.address);
    wire.ask(1, &head("CONNECT", "/else", &more), false);
    assert_eq!(wire.outcome(1), answered("no"));
    wire.ask(3, &head("CONNECT", "/ws", &more), false);
    assert_eq!(wire.next(DATA).payload, b"hello");
    wire.send(&frame(RST_STREAM, 0, 3, &[0, 0, 0, 8]));
    let all = records(&log, 4);
    for (end, termination) in [("done", "--"), ("client", "CD")] {
        let is_its = |record: &&serde_json::Value| record["path"] == "/ws" && record["end"] == end;
        let record = all.iter().find(is_its).unwrap_or_else(|| panic!("no {end} in {all:?}"));
        assert_eq!(
            (&record["status"], &record["termination"]),
            (&101.into(), &termination.into()),
            "{record}"
        );
    }
}

#[test]
fn an_early_answer_ends_the_request() {
    let ip = own_ip();
    let target = Server::start((ip, 0).into(), |mut stream| {
        let mut got = Vec::new();
        while !got.windows(4).any(|part| part == b"\r\n\r\n") {
            let mut bytes = [0; 1024];
            let count = stream.read(&mut bytes).unwrap();
            got.extend_from_slice(&bytes[..count]);
        }
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno").unwrap();
        while stream.read(&mut [0; 1024]).is_ok_and(|count| count > 0) {}
    });
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let mut wire = Wire::open(lbd.address);
    wire.ask(1, &head("POST", "/", &[("content-length", "100000")]), false);
    wire.send(&frame(DATA, 0, 1, b"part"));
    assert_eq!(wire.outcome(1), Outcome::Answer(404, b"no".to_vec()));
    // RFC 9113, section 8.1: "... by sending a RST_STREAM with an error code of NO_ERROR after sending a complete response".
    assert_eq!(wire.next(RST_STREAM).number(0), 0);
    assert_eq!(metric(&lbd, "tandem_lbd_service_http_reused_connections_total")["{service=\"web\"}"], 0);
}

#[test]
fn a_refusal_is_whole_before_the_rest_of_the_body_is_given_up() {
    let ip = own_ip();
    let target = Target::named(ip, "served");
    let folder = Folder::new();
    let page = "x".repeat(60_000);
    std::fs::write(folder.path().join("413.html"), &page).unwrap();
    let mut config = config(ip, &[target.address]);
    config.service += "limits = { max_body_bytes = \"10B\" }\nerror_pages = { 413 = \"413.html\" }\n";
    let lbd = Lbd::start_in(folder, &config);
    let refused = Outcome::Answer(413, page.into_bytes());
    // By its length, and by what has come of one whose length is not said.
    for length in [&[("content-length", "50000")][..], &[]] {
        let begun = || {
            let mut wire = Wire::open(lbd.address);
            wire.ask(1, &head("POST", "/", length), false).send(&frame(DATA, 0, 1, &[7; 1000]));
            assert_eq!(wire.outcome(1), refused);
            wire
        };
        // A client that goes on is borne for a while, and then told that there was no error.
        let mut wire = begun();
        wire.send(&frame(DATA, 0, 1, &[7; 1000]));
        let reset = wire.next(RST_STREAM);
        assert_eq!((reset.stream, reset.number(0)), (1, 0));
        assert_eq!(wire.ask(3, &head("GET", "/", &[]), true).outcome(3), answered("served"));
        // One that ends in time is not reset.
        let mut wire = begun();
        let rest = if length.is_empty() { 1000 } else { 49_000 };
        for part in vec![7; rest].chunks(16_000) {
            wire.send(&frame(DATA, 0, 1, part));
        }
        wire.send(&frame(DATA, END_STREAM, 1, &[]));
        wire.ask(3, &head("GET", "/", &[]), true);
        loop {
            let frame = wire.read().unwrap();
            assert_ne!(frame.kind, RST_STREAM, "{frame:?}");
            if frame.stream == 3 && frame.ends_stream() {
                break;
            }
        }
    }
}

#[test]
fn a_client_that_takes_nothing_holds_the_target_up() {
    const LENGTH: usize = 256 << 20;
    let ip = own_ip();
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let target = Target::with(ip, move |request, stream| {
        if !request.line().contains("/large") {
            return answer(stream, "small");
        }
        write(stream, &format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"))?;
        let piece = vec![7; 1 << 20];
        while counted.load(Ordering::SeqCst) < LENGTH {
            stream.get_mut().write_all(&piece)?;
            counted.fetch_add(piece.len(), Ordering::SeqCst);
        }
        Ok(true)
    });
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let mut wire = Wire::open(lbd.address);
    wire.ask(1, &head("GET", "/large", &[]), true);
    let mut got = 0;
    while got < 65_535 {
        got += wire.next(DATA).payload.len();
    }
    assert_eq!(got, 65_535, "no more than the window");
    for _ in 0..200 {
        assert_eq!(ask(lbd.address, &get("/small")).text(), "small");
    }
    let taken = sent.load(Ordering::SeqCst);
    assert!(taken < 64 << 20, "{taken} bytes were taken for a client that takes nothing");
    // With room it goes on, up to what the windows say.
    for stream in [0, 1] {
        wire.send(&frame(WINDOW_UPDATE, 0, stream, &1_000_000_u32.to_be_bytes()));
    }
    while got < 1_065_535 {
        got += wire.next(DATA).payload.len();
    }
    assert_eq!(got, 1_065_535);
}

#[test]
fn a_target_that_takes_nothing_holds_the_client_up() {
    let ip = own_ip();
    let target = Target::named(ip, "small");
    let deaf = std::net::TcpListener::bind((ip, 0)).unwrap();
    let mut config = config(ip, &[target.address]);
    config.service += "[[service.rule]]\nwhen = { path = \"/deaf\" }\nforward = \"deaf\"\n";
    config.group = format!(
        "[[target_group]]\nname = \"deaf\"\ntargets = [{{ address = \"{}\" }}]\n",
        deaf.local_addr().unwrap()
    );
    let lbd = Lbd::start(&config);
    let mut wire = Wire::open(lbd.address);
    wire.ask(1, &head("POST", "/deaf", &[]), false);
    // As much as it is given room for, for as long as more room comes while others are served.
    let (mut room, mut sent, mut quiet) = ([65_535_i64, 65_535], 0_i64, 0);
    let mut stream = 3;
    while quiet < 50 {
        let size = room[0].min(room[1]).min(16_384);
        if size > 0 {
            wire.send(&frame(DATA, 0, 1, &vec![1; usize::try_from(size).unwrap()]));
            room = room.map(|left| left - size);
            sent += size;
            quiet = 0;
        } else {
            quiet += 1;
        }
        assert!(sent < 64 << 20, "{sent} bytes were taken for a target that takes nothing");
        wire.ask(stream, &head("GET", "/", &[]), true);
        loop {
            let got = wire.read().unwrap();
            match (got.kind, got.stream) {
                (WINDOW_UPDATE, 0) => room[0] += i64::from(got.number(0)),
                (WINDOW_UPDATE, 1) => room[1] += i64::from(got.number(0)),
                _ if got.stream == stream && got.ends_stream() => break,
                _ => {}
            }
        }
        stream += 2;
    }
    // A stream's data that nobody takes leaves room for the others on the connection.
    assert!(room[0] > 0, "{room:?}");
}
