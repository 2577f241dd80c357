//! Targets with TLS: nginx, and ends that do as they are told.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use data_encoding::BASE64;
use sha2::{Digest, Sha256};

use super::super::peers::{Client, get};
use super::peers::target;
use super::shop;
use crate::real::{Authority, Nginx};
use crate::support::{Config, Lbd, eventually, free, metric, own_ip};

/// An nginx with TLS that answers each path with what it has been told of the connection.
/// Debian's nginx speaks TLS 1.3 only if it is told to.
const BOTH: &str = "ssl_protocols TLSv1.2 TLSv1.3;";

fn nginx(authority: &Authority, name: &str, address: SocketAddr, more: &str) -> Nginx {
    let directives = authority.sign(name, "DNS:shop.example,DNS:other.example", 2);
    let servers = format!(
        "server {{ listen {address} ssl; {directives} {more} location / {{ }} \
         location = /say {{ return 200 \"$ssl_protocol $ssl_server_name $connection_requests $http_x_forwarded_proto\"; }} }}"
    );
    Nginx::start(&servers, &[address])
}

fn config(targets: &[SocketAddr], tls: &str) -> Config {
    let mut config = super::super::config(own_ip(), targets);
    config.group = format!("tls = {{ {tls} }}");
    config
}

#[test]
fn requests_go_encrypted_and_connections_are_kept() {
    let ip = own_ip();
    let (authority, address) = (Authority::new(), free(ip));
    let nginx = nginx(&authority, "shop", address, BOTH);
    let large: Vec<u8> = (0..5_000_000_u32).map(|index| (index >> 8).to_le_bytes()[0]).collect();
    fs::write(nginx.root().join("large"), &large).unwrap();
    let ca = authority.file().display().to_string();
    let lbd = Lbd::start(&config(&[address], &format!("ca_file = \"{ca}\", server_name = \"shop.example\"")));
    let mut client = Client::new(lbd.address);
    assert_eq!(client.send(get("/say")).answer().text(), "TLSv1.3 shop.example 1 http");
    assert_eq!(
        client.send(get("/say")).answer().text(),
        "TLSv1.3 shop.example 2 http",
        "on the same connection"
    );
    assert!(client.send(get("/large")).answer().body == large);
    assert_eq!(client.send(get("/say")).answer().text(), "TLSv1.3 shop.example 4 http");
    assert_eq!(lbd.status()["services"][0]["requests"]["reused_connections"], 3);
}

#[test]
fn older_targets_are_spoken_with_too() {
    let ip = own_ip();
    let (authority, address) = (Authority::new(), free(ip));
    let _nginx = nginx(&authority, "shop", address, "ssl_protocols TLSv1.2;");
    let ca = authority.file().display().to_string();
    let lbd = Lbd::start(&config(&[address], &format!("ca_file = \"{ca}\", server_name = \"shop.example\"")));
    let mut client = Client::new(lbd.address);
    assert_eq!(client.send(get("/say")).answer().text(), "TLSv1.2 shop.example 1 http");
    assert_eq!(client.send(get("/say")).answer().text(), "TLSv1.2 shop.example 2 http");
}

/// Each way of not being who it should be is a failure to connect, with its reason.
#[test]
fn a_target_that_is_not_who_it_should_be_gets_nothing() {
    let ip = own_ip();
    let (authority, strangers) = (Authority::new(), Authority::new());
    let (good, stranger, clear) = (free(ip), free(ip), free(ip));
    let _clear = Nginx::start(&format!("server {{ listen {clear}; }}"), &[clear]);
    let _nginx = nginx(&authority, "shop", good, "");
    let _stranger = nginx(&strangers, "shop", stranger, "");
    let expired = authority.sign("late", "DNS:shop.example", -1);
    let late = free(ip);
    let _late = Nginx::start(&format!("server {{ listen {late} ssl; {expired} }}"), &[late]);
    let ca = authority.file().display().to_string();
    let named = format!("ca_file = \"{ca}\", server_name = \"shop.example\"");
    for (address, tls, why) in [
        (stranger, named.clone(), "not signed by any authority"),
        (late, named.clone(), "its certificate has expired"),
        (good, format!("ca_file = \"{ca}\", server_name = \"no.example\""), "its certificate is not for"),
        (good, format!("ca_file = \"{ca}\""), "its certificate is not for"),
        (good, "server_name = \"shop.example\"".to_owned(), "not signed by any authority"),
        (
            good,
            format!("verify = false, pin = \"sha256/{}\"", BASE64.encode(&[7; 32])),
            "none of those pinned",
        ),
        (clear, "verify = false".to_owned(), "the answer is not TLS"),
    ] {
        let lbd = Lbd::start(&config(&[address], &tls));
        let answer = Client::new(lbd.address).send(get("/")).answer();
        assert_eq!(answer.status(), 503, "{tls}");
        let target = &lbd.status()["target_groups"][0]["targets"][0];
        let said = target["last_tls_failure"].as_str().unwrap_or_default().to_owned();
        assert!(said.contains(why), "{tls}: {said}");
        lbd.says(why);
        assert_eq!(target["connections_total"], 0);
        let failures = metric(&lbd, "tandem_lbd_target_connect_failures_total");
        let tls_failures: u64 =
            failures.iter().filter(|(label, _)| label.contains("\"tls\"")).map(|(_, it)| it).sum();
        assert_eq!(tls_failures, 1, "{failures:?}");
        let counts = ["tls_failures", "connect_failures"].map(|key| target[key].as_u64());
        assert_eq!(counts, [Some(1); 2], "{target}");
    }
}

#[test]
fn another_target_is_tried_and_the_bad_one_ejected() {
    let ip = own_ip();
    let (authority, strangers) = (Authority::new(), Authority::new());
    let (good, bad) = (free(ip), free(ip));
    let _good = nginx(&authority, "shop", good, "");
    let _bad = nginx(&strangers, "shop", bad, "");
    let ca = authority.file().display().to_string();
    let mut config = config(&[bad, good], &format!("ca_file = \"{ca}\", server_name = \"shop.example\""));
    config.group.push_str("\neject = { consecutive_failures = 2, max_percent = 50 }");
    let lbd = Lbd::start(&config);
    for _ in 0..6 {
        assert_eq!(Client::new(lbd.address).send(get("/say")).answer().status(), 200);
    }
    eventually("it is ejected", || lbd.status()["target_groups"][0]["targets"][0]["reason"] == "ejected");
}

/// The hash of a certificate's public key, as `openssl` computes it for us.
fn pin(authority: &Authority, name: &str) -> String {
    authority.openssl(&format!("x509 -in {name}.pem -noout -pubkey -out {name}.pub"));
    authority.openssl(&format!("pkey -pubin -in {name}.pub -outform der -out {name}.spki"));
    format!(
        "sha256/{}",
        BASE64.encode(&Sha256::digest(fs::read(authority.path(&format!("{name}.spki"))).unwrap()))
    )
}

#[test]
fn a_pinned_key_is_enough_or_comes_on_top() {
    let ip = own_ip();
    let (authority, address) = (Authority::new(), free(ip));
    let _nginx = nginx(&authority, "shop", address, "");
    let (right, wrong) = (pin(&authority, "shop"), format!("sha256/{}", BASE64.encode(&[9; 32])));
    let ca = authority.file().display().to_string();
    for (tls, status) in [
        (format!("verify = false, pin = \"{right}\""), 200),
        (format!("verify = false, pin = [\"{wrong}\", \"{right}\"]"), 200),
        (format!("ca_file = \"{ca}\", server_name = \"other.example\", pin = \"{right}\""), 200),
        (format!("ca_file = \"{ca}\", server_name = \"shop.example\", pin = \"{wrong}\""), 503),
        (format!("pin = \"{right}\""), 503),
        ("verify = false".to_owned(), 200),
    ] {
        let lbd = Lbd::start(&config(&[address], &tls));
        assert_eq!(Client::new(lbd.address).send(get("/say")).answer().status(), status, "{tls}");
    }
}

/// What a reload changes counts for kept connections, too.
#[test]
fn a_kept_connection_is_not_used_once_it_would_not_be_made() {
    let ip = own_ip();
    let (authority, address) = (Authority::new(), free(ip));
    let _nginx = nginx(&authority, "shop", address, BOTH);
    let mut config = config(&[address], "verify = false");
    let lbd = Lbd::start(&config);
    let mut client = Client::new(lbd.address);
    assert_eq!(client.send(get("/say")).answer().text(), "TLSv1.3  1 http");
    // The same again: kept connections are, too.
    assert_eq!(lbd.reload(&config).0, 200);
    assert_eq!(client.send(get("/say")).answer().text(), "TLSv1.3  2 http");
    config.group = format!("tls = {{ verify = false, pin = \"sha256/{}\" }}", BASE64.encode(&[7; 32]));
    assert_eq!(lbd.reload(&config).0, 200);
    assert_eq!(client.send(get("/say")).answer().status(), 503);
}

/// A header that names the client comes before TLS, on a connection of its own.
#[test]
fn the_proxy_header_comes_before_the_handshake() {
    let ip = own_ip();
    let (authority, address) = (Authority::new(), free(ip));
    let directives = authority.sign("shop", "DNS:shop.example", 2);
    let servers = format!(
        "server {{ listen {address} ssl proxy_protocol; {directives} location / {{ return 200 \"$proxy_protocol_addr\"; }} }}"
    );
    let _nginx = Nginx::start(&servers, &[address]);
    let mut config = config(&[address], "verify = false");
    config.group.push_str("\nsend_proxy = \"v2\"");
    let lbd = Lbd::start(&config);
    let mut client = Client::new(lbd.address);
    for _ in 0..2 {
        assert_eq!(client.send(get("/")).answer().text(), "127.0.0.1");
    }
}

/// A kept connection that the target has closed, with or without a word, is not used.
#[test]
fn a_kept_connection_that_was_closed_is_not_used() {
    let (ip, authority) = (own_ip(), shop());
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let address = target(ip, &authority.bundle("shop"), move |stream| {
        let number = counted.fetch_add(1, Ordering::SeqCst);
        let mut head = [0; 1024];
        let _ = stream.read(&mut head)?;
        let stream = stream.get_mut();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
        if number.is_multiple_of(2) {
            stream.conn.send_close_notify();
        }
        stream.flush()?;
        Ok(())
    });
    let lbd = Lbd::start(&config(&[address], "verify = false"));
    let mut client = Client::new(lbd.address);
    for _ in 0..8 {
        assert_eq!(client.send(get("/")).answer().text(), "ok");
        // Closed by now, as far as that can be known.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(connections.load(Ordering::SeqCst), 8);
}

/// A target that says nothing at all is given up in time.
#[test]
fn a_target_that_does_not_shake_hands_is_given_up() {
    let ip = own_ip();
    let listener = std::net::TcpListener::bind((ip, 0)).unwrap();
    let mut config = config(&[listener.local_addr().unwrap()], "verify = false");
    config.service = "timeout = { connect = \"300ms\" }".to_owned();
    let lbd = Lbd::start(&config);
    assert_eq!(Client::new(lbd.address).send(get("/")).answer().status(), 503);
    assert_eq!(lbd.status()["services"][0]["refused"]["connect_timeout"], 1);
}
