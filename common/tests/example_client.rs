//! The example of a client that balances for itself, against servers on this host.

#[path = "../examples/client.rs"]
#[expect(dead_code, reason = "its main is for the command line")]
mod client;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread::{self, JoinHandle};

use client::{Client, spread};
use common::config::{Algorithm, Target, parse_targets};
use common::hash::HashKey;

const KEY: HashKey = HashKey::new(*b"0123456789abcdef");

/// Answers one request for each that it is told to expect, and ends.
fn serve(listener: TcpListener, requests: u32) -> JoinHandle<()> {
    thread::spawn(move || {
        for _ in 0..requests {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhere").unwrap();
        }
    })
}

/// A listener on a loopback address of the test program's own: a port it had stays free.
fn listen() -> (TcpListener, SocketAddr) {
    let [.., high, low] = std::process::id().to_be_bytes();
    let listener = TcpListener::bind((Ipv4Addr::new(127, 77, high, low), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn targets(servers: &[(SocketAddr, u16)]) -> Vec<Target> {
    let target = |(index, (address, weight)): (usize, &(SocketAddr, u16))| {
        format!("{{ id = \"s{index}\", address = \"{address}\", weight = {weight} }},")
    };
    let list: String = servers.iter().enumerate().map(target).collect();
    parse_targets(&format!("targets = [{list}]"), "targets.toml".as_ref()).unwrap()
}

#[test]
fn three_servers_get_their_shares() {
    let servers: [_; 3] = std::array::from_fn(|_| listen());
    let list = targets(&[(servers[0].1, 3), (servers[1].1, 2), (servers[2].1, 1)]);
    let [a, b, c] = servers.map(|(listener, _)| listener);
    let threads = [serve(a, 30), serve(b, 20), serve(c, 10)];
    let mut client = Client::new(list, Algorithm::RoundRobin, 0, &KEY);
    let answered = spread(&mut client, 60).unwrap();
    let expected = [("s0", 30), ("s1", 20), ("s2", 10)].map(|(id, count)| (id.to_owned(), count));
    assert_eq!(answered, BTreeMap::from(expected));
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn a_server_that_is_gone_costs_no_request() {
    for algorithm in Algorithm::ALL {
        let (first, second, gone) = (listen(), listen(), listen());
        let list = targets(&[(first.1, 1), (gone.1, 1), (second.1, 1)]);
        drop(gone);
        // Whoever gets how many of them: a server that expects another request is let go at the end of the test.
        let _threads = [serve(first.0, 20), serve(second.0, 20)];
        let mut client = Client::new(list, algorithm, 7, &KEY);
        let answered = spread(&mut client, 20).unwrap();
        assert_eq!(answered.values().sum::<u32>(), 20, "{algorithm:?}");
        assert!(!answered.contains_key("s1"), "{algorithm:?}: {answered:?}");
    }
}

#[test]
fn without_any_server_the_failure_is_told() {
    let (first, second) = (listen(), listen());
    let gone = [(first.1, 1), (second.1, 1)];
    drop((first, second));
    let mut client = Client::new(targets(&gone), Algorithm::Random, 1, &KEY);
    assert_eq!(client.get("/").unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}
