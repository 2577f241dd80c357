//! The end of the daemon.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::server::Server;
use crate::support::{Config, Lbd, end_of, eventually, own_ip, ping};

#[test]
fn an_open_transfer_is_finished() {
    let ip = own_ip();
    let server = Server::start((ip, 0).into(), |mut stream| {
        for _ in 0..100 {
            if stream.write_all(&[7; 10_000]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let mut lbd = Lbd::start(&Config::new(ip, &[server.address]));
    let mut client = lbd.connect();
    client.read_exact(&mut [0; 1000]).unwrap();
    lbd.signal(Signal::SIGTERM);
    eventually("new connections are refused", || TcpStream::connect(lbd.address).is_err());
    assert!(lbd.ended().is_none(), "it waits for the transfer");
    assert_eq!(lbd.ask("GET", "/health/ready").0, 503);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), 100 * 10_000 - 1000);
    drop(client);
    assert!(lbd.wait().success(), "{}", lbd.log());
    assert!(!lbd.folder.path().join("lbd.sock").exists());
}

#[test]
fn a_second_signal_stops_at_once() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let mut lbd = Lbd::start(&Config::new(ip, &[server.address]));
    let mut client = lbd.connect();
    assert_eq!(ping(&mut client, "x").unwrap(), "x");
    lbd.signal(Signal::SIGTERM);
    eventually("it is stopping", || lbd.log().contains("waiting for open connections"));
    let begin = Instant::now();
    lbd.signal(Signal::SIGTERM);
    assert!(lbd.wait().success());
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert!(matches!(end_of(&mut client), Ok(0) | Err(_)));
}

#[test]
fn connections_accepted_before_the_stop_are_served() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let mut lbd = Lbd::start(&Config::new(ip, &[server.address]));
    // Made while the workers may not have accepted them yet.
    let mut clients: Vec<TcpStream> = (0..200).map(|_| lbd.connect()).collect();
    lbd.signal(Signal::SIGTERM);
    for client in &mut clients {
        assert_eq!(ping(client, "hello").unwrap(), "hello");
    }
    drop(clients);
    assert!(lbd.wait().success());
}
