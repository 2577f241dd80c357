//! HTTP/2 over TLS on either side: it is agreed on in the handshake (ALPN).

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use nix::sys::signal::Signal;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::frames::{DATA, END_STREAM, GOAWAY, HEADERS, Outcome, PREFACE, Wire, frame, head};
use super::life::{served, told_to_leave, waiting};
use crate::checks::expect;
use crate::http::tls::peers::{client_config, curl, target};
use crate::http::tls::{config, failed, shop};
use crate::http::{Client, Target, get};
use crate::real::{Authority, Nginx};
use crate::support::{Config, Lbd, connect, eventually, free, metric, own_ip};

type Encrypted = StreamOwned<ClientConnection, TcpStream>;

/// A connection whose client offers these protocols; nothing if the handshake comes to nothing.
fn offering(authority: &Authority, address: SocketAddr, protocols: &[&str]) -> Option<Encrypted> {
    let mut config = (*client_config(authority)).clone();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let name = ServerName::try_from("shop.example").unwrap();
    let mut tls = ClientConnection::new(config.into(), name).unwrap();
    let mut stream = connect(address);
    stream.set_nodelay(true).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut stream).ok()?;
    }
    Some(StreamOwned::new(tls, stream))
}

fn agreed(connection: &Encrypted) -> &str {
    connection.conn.alpn_protocol().map_or("", |protocol| std::str::from_utf8(protocol).unwrap())
}

fn open(authority: &Authority, address: SocketAddr) -> Wire<Encrypted> {
    let stream = offering(authority, address, &["h2"]).expect("HTTP/2 is agreed on");
    assert_eq!(agreed(&stream), "h2");
    // Without a table, so that each status is there to be read.
    Wire::begin(stream, &[(1, 0)])
}

#[test]
fn clients_agree_on_what_they_speak() {
    let ip = own_ip();
    let (authority, target) = (shop(), Target::named(ip, "served"));
    let with = config(ip, &[target.address], &[&authority.bundle("shop")]);
    let lbd = Lbd::start(&with);
    for (offered, expected) in [
        (&["h2", "http/1.1"][..], "h2"),
        (&["http/1.1", "h2"], "h2"),
        (&["h2"], "h2"),
        (&["http/1.1"], "http/1.1"),
        (&[], ""),
    ] {
        assert_eq!(agreed(&offering(&authority, lbd.address, offered).unwrap()), expected, "{offered:?}");
    }
    let mut wire = open(&authority, lbd.address);
    assert_eq!(wire.ask(1, &head("GET", "/", &[]), true).outcome(1), served());
    assert_eq!(target.last().field("x-forwarded-proto"), Some("https"));
    assert_eq!(target.last().field("via").map(|via| via.starts_with("2.0 ")), Some(true));
    // What was not agreed on is not spoken, either way.
    let mut other = offering(&authority, lbd.address, &["http/1.1"]).unwrap();
    other.write_all(PREFACE).unwrap();
    let mut said = String::new();
    other.read_to_string(&mut said).ok();
    assert!(said.starts_with("HTTP/1.1 ") && !said.starts_with("HTTP/1.1 200"), "{said}");
    let mut other = Wire { stream: offering(&authority, lbd.address, &["h2"]).unwrap() };
    other.send(get("/").as_bytes());
    assert_ne!(other.end(), Some(0));
    assert_eq!(target.seen().len(), 1);
    // A service may do without.
    let mut without = Config { listen: with.listen.clone(), ..with };
    without.service.push_str("\nhttp2 = false");
    assert_eq!(lbd.reload(&without).0, 200);
    eventually("clients are offered nothing else", || {
        agreed(&offering(&authority, lbd.address, &["h2", "http/1.1"]).unwrap()) == "http/1.1"
    });
    assert!(offering(&authority, lbd.address, &["h2"]).is_none());
    eventually("the refusal is counted", || failed(&lbd, "protocol") == 1);
    // Connections that have agreed on it before go on.
    assert_eq!(wire.ask(3, &head("GET", "/", &[]), true).outcome(3), served());
}

/// RFC 9113, section 9.1.1: a connection "can be reused as long as the origin server is authoritative".
#[test]
fn each_request_on_a_connection_has_a_host_that_its_certificate_is_for() {
    let ip = own_ip();
    let (authority, target) = (shop(), Target::named(ip, "served"));
    authority.sign("other", "DNS:other.example", 2);
    let bundles = [authority.bundle("shop"), authority.bundle("other")];
    let lbd = Lbd::start(&config(ip, &[target.address], &[&bundles[0], &bundles[1]]));
    let mut wire = open(&authority, lbd.address);
    let mut stream = 1;
    for (host, status) in [
        ("shop.example", 200),
        ("other.example", 421),
        ("a.shop.example:8443", 200),
        ("a.b.shop.example", 421),
        ("shop.example", 200),
    ] {
        let fields = [(":method", "GET"), (":scheme", "https"), (":authority", host), (":path", "/")];
        let outcome = wire.ask(stream, &fields, true).outcome(stream);
        assert!(matches!(outcome, Outcome::Answer(got, _) if got == status), "{host}: {outcome:?}");
        stream += 2;
    }
    assert_eq!(target.seen().len(), 3);
    let misdirected = metric(&lbd, "tandem_lbd_service_http_requests_malformed_total");
    assert_eq!(misdirected["{service=\"web\",reason=\"misdirected\"}"], 2);
}

#[test]
fn a_stop_is_told_to_clients_with_tls() {
    let ip = own_ip();
    let authority = shop();
    let (target, go) = waiting(ip);
    let mut lbd = Lbd::start(&config(ip, &[target.address], &[&authority.bundle("shop")]));
    let mut wire = open(&authority, lbd.address);
    wire.ask(1, &head("GET", "/wait", &[]), true);
    eventually("the request is at the target", || target.seen().len() == 1);
    lbd.signal(Signal::SIGTERM);
    let last = told_to_leave(&mut wire, |wire| {
        wire.ask(3, &head("GET", "/late", &[]), true);
        assert_eq!(wire.next(HEADERS).stream, 3);
        assert_eq!(wire.next(DATA).payload, b"served");
    });
    assert_eq!(last, 3);
    go.send(()).unwrap();
    assert_eq!(wire.outcome(1), served());
    // TLS's end is said, too.
    let mut rest = Vec::new();
    wire.stream.read_to_end(&mut rest).expect("the end is said");
    assert!(rest.is_empty() || rest[3] == GOAWAY, "{rest:?}");
    assert!(lbd.wait().success());
}

#[test]
fn websocket_passes_from_tls_to_tls() {
    let ip = own_ip();
    let authority = shop();
    let address = target(ip, &authority.bundle("shop"), |stream| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"GET /ws HTTP/1.1\r\n"));
        let to = stream.get_mut();
        to.write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello",
        )?;
        to.flush()?;
        let mut bytes = [0; 1024];
        loop {
            match stream.read(&mut bytes)? {
                0 => break,
                count => stream.get_mut().write_all(&bytes[..count])?,
            }
        }
        let to = stream.get_mut();
        to.write_all(b"bye")?;
        to.conn.send_close_notify();
        to.flush()
    });
    let mut config = config(ip, &[address], &[&authority.bundle("shop")]);
    config.group =
        format!("tls = {{ ca_file = \"{}\", server_name = \"shop.example\" }}", authority.file().display());
    let lbd = Lbd::start(&config);
    let mut wire = open(&authority, lbd.address);
    let more = [(":protocol", "websocket"), ("sec-websocket-version", "13")];
    wire.ask(1, &head("CONNECT", "/ws", &more), false);
    assert!(wire.next(HEADERS).payload.contains(&0x88), "200");
    assert_eq!(wire.next(DATA).payload, b"hello");
    for piece in ["one", "two"] {
        wire.send(&frame(DATA, 0, 1, piece.as_bytes()));
        assert_eq!(wire.next(DATA).payload, piece.as_bytes());
    }
    // The target hears of the client's end, and has still something to say.
    wire.send(&frame(DATA, END_STREAM, 1, b""));
    assert_eq!(wire.next(DATA).payload, b"bye");
    let end = wire.next(DATA);
    assert!(end.ends_stream() && end.stream == 1, "{end:?}");
}

/// An nginx with TLS that says how it was asked; `http2` of its listener or not.
fn nginx(authority: &Authority, address: SocketAddr, http2: &str) -> Nginx {
    let directives = authority.sign("target", "DNS:target.example", 2);
    let say = "$server_protocol $scheme $host $connection_requests $http_x_forwarded_proto";
    let servers = format!(
        "server {{ listen {address} ssl {http2}; {directives} location / {{ }} location = /say {{ return 200 \"{say}\"; }} }}"
    );
    Nginx::start(&servers, &[address])
}

fn towards(authority: &Authority, mut config: Config, more: &str) -> Config {
    config.group = format!(
        "protocol = \"http2\"\ntls = {{ ca_file = \"{}\", server_name = \"target.example\"{more} }}",
        authority.file().display()
    );
    config
}

#[test]
fn targets_agree_on_it_and_share_a_connection() {
    let ip = own_ip();
    let (authority, address) = (shop(), free(ip));
    let _nginx = nginx(&authority, address, "http2");
    let clear = towards(&authority, super::config(ip, &[address]), "");
    let mut lbd = Lbd::start(&clear);
    let mut client = Client::new(lbd.address);
    let mut said = |expected: &str, what: &str| {
        assert_eq!(client.send(get("/say")).answer().text(), expected, "{what}");
    };
    said("HTTP/2.0 https shop.example 1 http", "with TLS to the target alone");
    said("HTTP/2.0 https shop.example 2 http", "on the same connection");
    // Another way to encrypt is another connection.
    let pinned = format!(", pin = \"sha256/{}=\"", "A".repeat(43));
    let wrong = Config { group: towards(&authority, clear.clone(), &pinned).group, ..clear.clone() };
    assert_eq!(lbd.reload(&wrong).0, 200);
    eventually("the pin is looked at", || {
        Client::new(lbd.address).send(get("/say")).answer().status() == 503
    });
    lbd.says("none of those pinned");
    drop(client);
    lbd.signal(Signal::SIGTERM);
    assert!(lbd.wait().success());
    // And with TLS on both sides, whatever the client speaks.
    let both = towards(&authority, config(own_ip(), &[address], &[&authority.bundle("shop")]), "");
    let lbd = Lbd::start(&both);
    for (protocol, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let (good, text) =
            curl(&authority, lbd.address, &[protocol, "-w", " %{http_version}", "https://shop.example/say"]);
        assert!(good && text.starts_with("HTTP/2.0 https shop.example "), "{text}");
        assert!(text.ends_with(&format!(" https {version}")), "{text}");
    }
}

#[test]
fn a_target_that_agrees_on_something_else_gets_nothing() {
    let ip = own_ip();
    let authority = shop();
    let (refuses, ignores) =
        (free(ip), target(ip, &authority.bundle("shop"), |stream| stream.read(&mut [0]).map(drop)));
    let _nginx = nginx(&authority, refuses, "");
    for address in [refuses, ignores] {
        let mut config = towards(&authority, super::config(own_ip(), &[address]), "");
        config.group = config.group.replace("server_name = \"target.example\"", "verify = false");
        config.group = config.group.replace(&format!("ca_file = \"{}\", ", authority.file().display()), "");
        let lbd = Lbd::start(&config);
        assert_eq!(Client::new(lbd.address).send(get("/")).answer().status(), 503);
        let target = &lbd.status()["target_groups"][0]["targets"][0];
        let said = target["last_tls_failure"].as_str().unwrap_or_default().to_owned();
        assert!(said.contains("ALPN"), "{said}");
    }
    // Its checks say the same.
    let mut config = super::config(own_ip(), &[ignores]);
    config.group = "protocol = \"http2\"\nhealth = { https = \"/\" }".to_owned();
    let lbd = Lbd::start(&config);
    let why = "the target does not agree on HTTP/2 (ALPN h2), which protocol = \"http2\" of its group wants";
    expect(&lbd, &[&format!("TLS: {why}")]);
}

#[test]
fn curl_gets_and_sends_what_it_likes() {
    let ip = own_ip();
    let (authority, old, new) = (shop(), free(ip), free(ip));
    let directives = authority.sign("target", "DNS:target.example", 2);
    let servers = format!("server {{ listen {old}; }} server {{ listen {new} ssl http2; {directives} }}");
    let nginx = Nginx::start(&servers, &[old, new]);
    let large: Vec<u8> = (0..5_000_000_u32).map(|index| (index >> 8).to_le_bytes()[0]).collect();
    fs::write(nginx.root().join("large"), &large).unwrap();
    fs::write(nginx.root().join("small"), "small\n").unwrap();
    let url = |path: &str| format!("https://shop.example{path}");
    for address in [old, new] {
        let mut config = config(own_ip(), &[address], &[&authority.bundle("shop")]);
        if address == new {
            config = towards(&authority, config, "");
        }
        let lbd = Lbd::start(&config);
        let get = |arguments: &[&str]| {
            let (good, text) = curl(&authority, lbd.address, &[&["--http2"], arguments].concat());
            assert!(good, "{arguments:?}: {text}");
            text
        };
        for version in ["1.2", "1.3"] {
            let with = |arguments: &[&str]| get(&[&["--tls-max", version], arguments].concat());
            assert_eq!(with(&["-w", "%{http_version}", &url("/small")]), "small\n2");
            assert!(with(&["-I", &url("/small")]).contains("content-length: 6\r\n"));
            assert_eq!(with(&["-o", "/dev/null", "-w", "%{http_code}", &url("/none")]), "404");
            let file = lbd.folder.path().join("fetched");
            with(&["-o", file.to_str().unwrap(), &url("/large")]);
            assert!(fs::read(&file).unwrap() == large);
        }
        let many: Vec<String> = (0..200).map(|_| url("/small")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let parallel = ["--no-progress-meter", "--parallel", "--parallel-max", "50"];
        assert_eq!(get(&[&parallel[..], &many[..]].concat()), "small\n".repeat(200));
        let connections = metric(&lbd, "tandem_lbd_service_http2_connections_total")["{service=\"web\"}"];
        assert!((9..15).contains(&connections), "{connections}");
    }
    let target = Target::named(ip, "taken");
    let lbd = Lbd::start(&config(own_ip(), &[target.address], &[&authority.bundle("shop")]));
    let file = lbd.folder.path().join("upload");
    fs::write(&file, &large).unwrap();
    let data = format!("@{}", file.display());
    let sent = curl(&authority, lbd.address, &["--http2", "--data-binary", &data, &url("/upload")]);
    assert_eq!(sent, (true, "taken".to_owned()));
    assert!(target.last().body == large);
}
