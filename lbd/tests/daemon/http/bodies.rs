//! Bodies both ways, in every framing, and what stands between a request and its answer.

use std::io::{Read, Write};
use std::time::Duration;

use super::config;
use super::peers::{Client, Target, answer, ask, get, write};
use crate::support::{Lbd, eventually, own_ip};

/// Bytes that no framing hides a mistake in.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| u8::try_from(index % 251).unwrap()).collect()
}

#[test]
fn large_bodies_go_both_ways_in_every_framing() {
    const LENGTH: usize = 3 << 20;
    let ip = own_ip();
    let target = Target::with(ip, |request, stream| {
        let body = &request.body;
        match request.line() {
            "POST /length HTTP/1.1" => {
                write(stream, &format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()))?;
                stream.get_mut().write_all(body)?;
                Ok(true)
            }
            "POST /chunks HTTP/1.1" => {
                write(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                for chunk in body.chunks(70_001) {
                    write(stream, &format!("{:x}\r\n", chunk.len()))?;
                    stream.get_mut().write_all(chunk)?;
                    write(stream, "\r\n")?;
                }
                write(stream, "0\r\n\r\n")
            }
            _ => {
                write(stream, "HTTP/1.1 200 OK\r\n\r\n")?;
                stream.get_mut().write_all(body)?;
                Ok(false)
            }
        }
    });
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let body = pattern(LENGTH);
    let mut client = Client::new(lbd.address);
    for path in ["/length", "/chunks", "/close"] {
        client
            .send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n"))
            .send(&body);
        assert!(client.answer().body == body, "{path} by length");
        client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"));
        for chunk in body.chunks(12_345) {
            client.send(format!("{:x};ext=1\r\n", chunk.len())).send(chunk).send("\r\n");
        }
        client.send("0\r\n\r\n");
        assert!(client.answer().body == body, "{path} in chunks");
    }
    assert!(target.seen().iter().all(|seen| seen.body == body));
    assert_eq!(target.last().field("transfer-encoding"), Some("chunked"));
}

#[test]
fn bytes_pass_before_either_message_has_ended() {
    let ip = own_ip();
    // Answers each line of the body as it comes, which takes the head alone to have been passed on.
    let target = crate::server::Server::start((ip, 0).into(), |mut stream| {
        let mut bytes = [0; 4096];
        let mut got = String::new();
        while !got.contains("\r\n\r\n") {
            let count = stream.read(&mut bytes).unwrap();
            got.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        for _ in 0..3 {
            let count = stream.read(&mut bytes).unwrap();
            stream.write_all(format!("{count:x}\r\n").as_bytes()).unwrap();
            stream.write_all(&bytes[..count]).unwrap();
            stream.write_all(b"\r\n").unwrap();
        }
        stream.write_all(b"0\r\n\r\n").unwrap();
    });
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let mut client = Client::new(lbd.address);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n");
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    assert_eq!(client.read(head.len()), head.as_bytes());
    for part in ["one", "two", "six"] {
        client.send(part);
        assert_eq!(client.read(8), format!("3\r\n{part}\r\n").as_bytes());
    }
    assert_eq!(client.read(5), b"0\r\n\r\n");
}

#[test]
fn a_target_that_takes_nothing_holds_its_client_up() {
    let ip = own_ip();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let target = crate::server::Server::start((ip, 0).into(), move |mut stream| {
        wait.lock().unwrap().recv().unwrap();
        let mut left = 64 << 20;
        let mut bytes = vec![0; 1 << 20];
        while left > 0 {
            left -= stream.read(&mut bytes).unwrap().min(left);
        }
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    });
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let mut client = Client::new(lbd.address);
    client.send(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 64 << 20));
    let stream = client.stream();
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let chunk = vec![0; 1 << 20];
    let mut sent = 0;
    // The kernel's buffers and one of lbd's fill up, and then nothing more is taken.
    let left = loop {
        match stream.write(&chunk) {
            Ok(count) => sent += count,
            Err(_) => break (64 << 20) - sent,
        }
    };
    assert!(left > 0, "64 MiB were taken in although the target took nothing");
    stream.set_write_timeout(Some(crate::support::PATIENCE)).unwrap();
    go.send(()).unwrap();
    client.send(vec![0; left]);
    assert_eq!(client.answer().status(), 204);
}

#[test]
fn interim_answers_are_passed_on() {
    let ip = own_ip();
    let target = Target::with(ip, |request, stream| {
        write(stream, "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")?;
        write(stream, "HTTP/1.1 102 Processing\r\n\r\n")?;
        answer(stream, if request.body == b"hello" { "with a body" } else { "without" })
    });
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let mut client = Client::new(lbd.address);
    for _ in 0..2 {
        client.send(get("/"));
        let hints = client.answer();
        assert_eq!((hints.status(), hints.field("link")), (103, Some("</a.css>")));
        assert_eq!(client.answer().status(), 102);
        assert_eq!(client.answer().text(), "without");
    }
    assert_eq!(ask(lbd.address, "GET / HTTP/1.0\r\n\r\n").text(), "without", "none for HTTP/1.0");
}

#[test]
fn a_client_that_expects_100_waits_for_the_target_s() {
    let ip = own_ip();
    let target = crate::server::Server::start((ip, 0).into(), |mut stream| {
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).unwrap();
        let head = String::from_utf8_lossy(&bytes[..count]).into_owned();
        assert!(head.contains("\r\nExpect: 100-continue\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        if head.starts_with("PUT /no") {
            stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").unwrap();
            return;
        }
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        let mut body = [0; 5];
        stream.read_exact(&mut body).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").unwrap();
        stream.write_all(&body).unwrap();
    });
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let head = |path: &str| {
        format!("PUT {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    };
    let mut client = Client::new(lbd.address);
    assert_eq!(client.send(head("/yes")).answer().status(), 100);
    assert_eq!(client.send("hello").answer().text(), "hello");
    // One that is turned down has not sent its body, and the connection says so.
    let refused = client.send(head("/no")).answer();
    assert_eq!((refused.status(), refused.text(), refused.field("connection")), (403, "no", Some("close")));
    assert!(client.is_at_its_end());
}

/// A target that has answered before it had the whole request may take the rest for another one.
#[test]
fn a_target_that_answers_early_is_asked_nothing_more_on_that_connection() {
    let ip = own_ip();
    let (say, said) = std::sync::mpsc::channel::<Vec<u8>>();
    let say = std::sync::Mutex::new(say);
    let target = crate::server::Server::start((ip, 0).into(), move |mut stream| {
        let mut bytes = [0; 4096];
        let mut got = Vec::new();
        while !got.ends_with(b"\r\n\r\n") {
            let count = stream.read(&mut bytes).unwrap();
            got.extend_from_slice(&bytes[..count]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nea").unwrap();
        let mut body = [0; 40];
        stream.read_exact(&mut body).unwrap();
        stream.write_all(b"ly").unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        say.lock().unwrap().send(rest).unwrap();
    });
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let mut client = Client::new(lbd.address);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n");
    // The head and half of the answer are here before the body is sent.
    let mut early = Vec::new();
    while !early.ends_with(b"\r\n\r\nea") {
        early.extend(client.read(1));
    }
    client.send([b'x'; 40]);
    assert_eq!(client.read(2), b"ly");
    let rest = said.recv_timeout(Duration::from_secs(10)).expect("the connection is closed");
    assert!(rest.is_empty());
}

/// What is not read of a request has the kernel reset the connection, and the answer with it.
#[test]
fn who_has_finished_sending_gets_an_answer_that_came_early() {
    let ip = own_ip();
    let mut config = config(ip, &[crate::support::free(ip)]);
    config.service =
        "[[service.rule]]\nwhen = { path = \"/\" }\nrespond = { status = 403, body = \"no\" }\n".to_owned();
    let lbd = Lbd::start(&config);
    for _ in 0..20 {
        let mut client = Client::new(lbd.address);
        let length = 300_000;
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"));
        client.send(pattern(length));
        client.finish();
        // By then it would have been reset.
        std::thread::sleep(Duration::from_millis(20));
        let got = client.answer();
        assert_eq!((got.status(), got.text()), (403, "no"));
    }
}

#[test]
fn answers_without_a_body_have_none() {
    let ip = own_ip();
    let target = Target::with(ip, |request, stream| match request.line() {
        "HEAD / HTTP/1.1" => write(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"),
        "GET /304 HTTP/1.1" => {
            write(stream, "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\nETag: \"a\"\r\n\r\n")
        }
        "GET /204 HTTP/1.1" => write(stream, "HTTP/1.1 204 No Content\r\n\r\n"),
        _ => answer(stream, "body"),
    });
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let mut client = Client::new(lbd.address);
    let head = client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").answer_to_head();
    assert_eq!((head.status(), head.field("content-length")), (200, Some("1234")));
    assert_eq!(client.send(get("/304")).answer().status(), 304);
    assert_eq!(client.send(get("/204")).answer().status(), 204);
    assert_eq!(client.send(get("/")).answer().text(), "body", "the connection is where it should be");
    assert_eq!(target.connections(), 1);
}

#[test]
fn trailers_go_on_without_what_must_not_be_there() {
    let ip = own_ip();
    let target = crate::server::Server::start((ip, 0).into(), |mut stream| {
        let mut got = Vec::new();
        let mut bytes = [0; 4096];
        while !got.ends_with(b"X-Sum: 1\r\n\r\n") {
            let count = stream.read(&mut bytes).unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&got));
            got.extend_from_slice(&bytes[..count]);
        }
        let text = String::from_utf8_lossy(&got).into_owned();
        assert!(!text.contains("X-Forwarded-For: 9") && text.contains("TE: trailers"), "{text}");
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nGrpc-Status: 0\r\nContent-Length: 3\r\n\r\n";
        stream.write_all(answer.as_bytes()).unwrap();
        // Until the client has read it.
        while stream.read(&mut bytes).is_ok_and(|count| count > 0) {}
    });
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let mut client = Client::new(lbd.address);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Forwarded-For: 9\r\nX-Sum: 1\r\n\r\n");
    let expected =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nGrpc-Status: 0\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&client.read(expected.len())), expected);
}

#[test]
fn what_targets_are_told_in_a_field_no_trailer_says() {
    let ip = own_ip();
    let target = Target::named(ip, "x");
    let mut config = config(ip, &[target.address]);
    config.service = "request_headers = { set = { \"X-Client\" = \"{client_ip}\" }, remove = [\"X-Debug\"] }\n\
        [[service.rule]]\nwhen = { path = \"/rule\" }\nforward = \"pool\"\nrequest_headers = { set = { \"X-Rule\" = \"1\" } }"
        .to_owned();
    let lbd = Lbd::start(&config);
    let mut client = Client::new(lbd.address);
    for (path, left) in [("/", "X-Rule: eve\nX-Sum: 1"), ("/rule", "X-Sum: 1")] {
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n");
        let trailers = "X-Client: eve\r\nx_client: eve\r\nX-Debug: eve\r\nX-Rule: eve\r\nX-Sum: 1\r\n\r\n";
        assert_eq!(client.send(head + trailers).answer().status(), 200);
        let seen = target.last();
        assert_eq!((seen.text(), seen.trailers.replace("\r\n", "\n").as_str()), ("ok", left), "{path}");
        assert!(seen.field("x-client").is_some_and(|value| value.starts_with("127.")), "{path}");
    }
}

#[test]
fn no_trailer_of_an_answer_says_what_its_head_may_not() {
    let ip = own_ip();
    let target = Target::with(ip, |_, stream| {
        let trailers = "X-Sum: 1\r\nX-Hop: 1\r\nX-Debug: 1\r\nx_from: target\r\nX-Rule: 1\r\nSet-Cookie: a=b\r\nLocation: /\r\nHost: b\r\n\
            Transfer-Encoding: chunked\r\nContent-Length: 3\r\nConnection: close\r\nAuthorization: x\r\n";
        let head = "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nTransfer-Encoding: chunked\r\n\r\n";
        write(stream, &format!("{head}2\r\nok\r\n0\r\n{trailers}\r\n"))
    });
    let mut config = config(ip, &[target.address]);
    config.service = "response_headers = { set = { \"X-From\" = \"{client_ip}\" }, remove = [\"X-Debug\"] }\n\
        [[service.rule]]\nwhen = { path = \"/rule\" }\nforward = \"pool\"\nresponse_headers = { set = { \"X-Rule\" = \"2\" } }"
        .to_owned();
    let lbd = Lbd::start(&config);
    let mut client = Client::new(lbd.address);
    for (path, left) in [("/", "X-Sum: 1\nX-Rule: 1"), ("/rule", "X-Sum: 1")] {
        let got = client.send(get(path)).answer();
        assert_eq!((got.text(), got.trailers.replace("\r\n", "\n").as_str()), ("ok", left), "{path}");
        assert!(got.field("x-from").is_some_and(|value| value.starts_with("127.")), "{path}");
    }
    // Nor does one of a request, of what is for this hop.
    let hop =
        "Connection: X-Hop\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Hop: 1\r\nX-Sum: 1\r\n\r\n";
    assert_eq!(client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{hop}")).answer().text(), "ok");
    assert_eq!(target.last().trailers, "X-Sum: 1");
}

#[test]
fn a_tunnel_carries_whatever_it_likes() {
    let ip = own_ip();
    let target = Target::with(ip, |request, stream| {
        if request.field("upgrade") != Some("websocket") {
            return answer(stream, "no tunnel");
        }
        write(
            stream,
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nat once",
        )?;
        let mut bytes = [0; 4096];
        loop {
            let count = stream.read(&mut bytes)?;
            if count == 0 {
                return Ok(false);
            }
            stream.get_mut().write_all(&bytes[..count])?;
        }
    });
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let mut client = Client::new(lbd.address);
    client.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\nfrom the begin");
    let got = client.answer();
    assert_eq!(
        (got.status(), got.field("upgrade"), got.field("connection")),
        (101, Some("websocket"), Some("upgrade"))
    );
    assert_eq!(client.read(21), b"at oncefrom the begin");
    for round in 0..100 {
        let text = format!("GET / HTTP/1.1\n\0{round}");
        client.send(&text);
        assert_eq!(client.read(text.len()), text.as_bytes());
    }
    eventually("it is counted", || lbd.status()["services"][0]["requests"]["tunnels"] == 1);
    client.finish();
    assert!(client.is_at_its_end());
    eventually("it is over", || lbd.service("connections_open") == 0);
    // HTTP/2 would carry requests that nobody has looked at.
    let h2c = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n";
    assert_eq!(ask(lbd.address, h2c).text(), "no tunnel");
}

/// An answer may come while a part of the body, all of which was read, is on its way to the target still, which may never take it.
#[test]
fn a_connection_that_is_said_to_be_kept_is() {
    let ip = own_ip();
    let target = crate::server::Server::start((ip, 0).into(), |mut stream| {
        let mut bytes = [0; 1024];
        if stream.read(&mut bytes).is_ok_and(|count| count > 0) {
            // By then nothing moves any more.
            std::thread::sleep(Duration::from_millis(100));
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").ok();
            // Takes nothing more for as long as anybody looks.
            std::thread::sleep(Duration::from_secs(2));
        }
    });
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let is_kept = |length: usize| {
        let mut client = Client::new(lbd.address);
        let mut sending = client.stream().try_clone().unwrap();
        let sender = std::thread::spawn(move || {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
            sending.write_all(head.as_bytes()).and_then(|()| sending.write_all(&pattern(length))).ok();
        });
        let kept = client.answer().field("connection").is_none();
        if kept {
            let next = client.send(get("/")).try_answer(false);
            assert!(next.is_ok_and(|answer| answer.is_some()), "after a body of {length} bytes");
        }
        drop(client);
        sender.join().unwrap();
        kept
    };
    // How much fits into sockets is the kernel's to say: the longest body that does is looked for.
    let (mut fits, mut too_long) = (1024, 32 << 20);
    assert!(is_kept(fits) && !is_kept(too_long));
    while too_long - fits > 8 * 1024 {
        let middle = usize::midpoint(fits, too_long);
        *(if is_kept(middle) { &mut fits } else { &mut too_long }) = middle;
    }
}
