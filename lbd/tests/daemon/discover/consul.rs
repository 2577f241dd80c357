//! Consul's health API.
//!
//! Not against a real Consul: Debian 12 has no package of it. A small server gives the answer that Consul's
//! documentation shows for `GET /v1/health/service/:service`, with the addresses replaced, and what else a server may say.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use super::{MEMORY_KIB_MAX, addresses, await_addresses, config, discovery, refresh};
use crate::server::Server;
use crate::support::{Lbd, eventually, own_ip};

/// An instance as the documentation shows it, at this address.
fn instance(id: &str, address: SocketAddr, passing: u16) -> String {
    let (ip, port) = (address.ip(), address.port());
    format!(
        r#"{{
    "Node": {{
      "ID": "40e4a748-2192-161a-0510-9bf59fe950b5",
      "Node": "foobar",
      "Address": "{ip}",
      "Datacenter": "dc1",
      "TaggedAddresses": {{ "lan": "{ip}", "wan": "{ip}" }},
      "Meta": {{ "instance_type": "t2.medium" }}
    }},
    "Service": {{
      "ID": "{id}",
      "Service": "redis",
      "Tags": ["primary"],
      "Address": "{ip}",
      "TaggedAddresses": {{
        "lan": {{ "address": "{ip}", "port": {port} }},
        "wan": {{ "address": "198.18.1.2", "port": 80 }}
      }},
      "Meta": {{ "redis_version": "4.0" }},
      "Port": {port},
      "Weights": {{ "Passing": {passing}, "Warning": 1 }},
      "Namespace": "default"
    }},
    "Checks": [
      {{
        "Node": "foobar",
        "CheckID": "service:redis",
        "Name": "Service 'redis' check",
        "Status": "passing",
        "Notes": "",
        "Output": "",
        "ServiceID": "redis",
        "ServiceName": "redis",
        "ServiceTags": ["primary"],
        "Namespace": "default"
      }},
      {{
        "Node": "foobar",
        "CheckID": "serfHealth",
        "Name": "Serf Health Status",
        "Status": "passing",
        "Notes": "",
        "Output": "",
        "ServiceID": "",
        "ServiceName": "",
        "ServiceTags": [],
        "Namespace": "default"
      }}
    ]
  }}"#
    )
}

/// What the server says next.
#[derive(Clone)]
enum Say {
    Answer(&'static str, String),
    /// Blanks without end.
    Endless,
    /// Less than it promised.
    CutOff,
}

/// A server in Consul's place, with the last request it got.
struct Stub {
    server: Server,
    say: Arc<Mutex<Say>>,
    request: Arc<Mutex<String>>,
}

impl Stub {
    fn start(say: Say) -> Self {
        let (say, request) = (Arc::new(Mutex::new(say)), Arc::new(Mutex::new(String::new())));
        let (said, got) = (Arc::clone(&say), Arc::clone(&request));
        let server = Server::start((own_ip(), 0).into(), move |mut stream| {
            *got.lock().unwrap() = head(&mut stream);
            let say = said.lock().unwrap().clone();
            let head = |status: &str, length: usize| {
                format!(
                    "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Consul-Index: 7\r\nContent-Length: {length}\r\n\r\n"
                )
            };
            // Who asked may close at any time.
            drop(match say {
                Say::Answer(status, body) => stream.write_all((head(status, body.len()) + &body).as_bytes()),
                Say::CutOff => stream.write_all((head("200 OK", 1000) + "[{").as_bytes()),
                Say::Endless => {
                    let blanks = [b' '; 65536];
                    let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
                    while sent.is_ok() {
                        sent = stream.write_all(&blanks);
                    }
                    sent
                }
            });
        });
        Self { server, say, request }
    }

    fn say(&self, say: Say) {
        *self.say.lock().unwrap() = say;
    }

    fn list(&self, instances: &[String]) {
        self.say(Say::Answer("200 OK", format!("[{}]", instances.join(","))));
    }
}

fn head(stream: &mut TcpStream) -> String {
    let (mut text, mut byte) = (Vec::new(), [0]);
    while !text.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        text.extend(byte);
    }
    String::from_utf8(text).unwrap()
}

fn start(stub: &Stub) -> Lbd {
    let url = stub.server.address;
    Lbd::start(&config(&format!(
        "consul = \"http://{url}\", service = \"redis\", tag = \"primary\", refresh = \"1s\""
    )))
}

#[test]
fn passing_instances_are_targets() {
    let ip = own_ip();
    let (a, b) = (Server::named((ip, 0).into(), "a"), Server::named((ip, 0).into(), "b"));
    let stub = Stub::start(Say::Answer("200 OK", format!("[{}]", instance("redis", a.address, 10))));
    let lbd = start(&stub);
    assert_eq!(lbd.fetch().unwrap(), "a");
    let request = stub.request.lock().unwrap().clone();
    assert!(
        request.starts_with("GET /v1/health/service/redis?passing=1&tag=primary HTTP/1.1\r\n"),
        "{request}"
    );
    stub.list(&[instance("redis", a.address, 10), instance("redis-2", b.address, 5)]);
    await_addresses(&lbd, &[a.address, b.address]);
    let status = lbd.status();
    let targets = status["target_groups"][0]["targets"].as_array().unwrap();
    let second = targets.iter().find(|target| target["id"] == "redis-2").unwrap();
    assert_eq!(second["weight"], 5);
    stub.list(&[instance("redis-2", b.address, 5)]);
    await_addresses(&lbd, &[b.address]);
    assert_eq!(lbd.fetch().unwrap(), "b");
}

#[test]
fn answers_that_make_no_sense_change_nothing() {
    let target = Server::named((own_ip(), 0).into(), "here");
    let good = format!("[{}]", instance("redis-1", target.address, 1));
    let stub = Stub::start(Say::Answer("200 OK", good.clone()));
    let lbd = start(&stub);
    for (say, code, part) in [
        (Say::Answer("200 OK", "[]".to_owned()), 422, "no passing instance"),
        (Say::Answer("200 OK", good[..good.len() / 2].to_owned()), 422, "not a list of instances"),
        (Say::Answer("500 Internal Server Error", "No cluster leader".to_owned()), 502, "No cluster leader"),
        (Say::Answer("403 Forbidden", "Permission denied".to_owned()), 502, "403 Forbidden"),
        (Say::CutOff, 502, "the answer was cut off"),
        (Say::Endless, 422, "larger than 4194304 bytes"),
    ] {
        stub.say(say);
        let (seen, body) = refresh(&lbd);
        assert!(seen == code && body.contains(part), "{seen} {body}");
        assert_eq!(addresses(&lbd).len(), 1);
    }
    assert!(lbd.peak_kib() < MEMORY_KIB_MAX, "memory stays bounded: {} KiB", lbd.peak_kib());
    assert_eq!(lbd.fetch().unwrap(), "here");
    stub.say(Say::Answer("200 OK", good));
    eventually("the good answer is taken again", || discovery(&lbd)["stale"] == false);
}
