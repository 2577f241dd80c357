//! A flood of SYNs from addresses that do not exist, at a service that the kernel forwards: what is established goes on, who is new
//! gets in, and none of the flood gets a place in the table of flows or keeps a port from others.
#![expect(clippy::print_stderr, reason = "the harness shows it when the test fails")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use integration::lab::addresses::vip4;
use integration::lab::clock::{now, wait_until};
use integration::lab::{Lab, Result};
use socket2::{Domain, Protocol, Socket, Type};

use crate::kernel_support::{LIMIT, flows, service, start};

/// SYNs in all, six times as many as a node has ports towards a target, and how many come between two pauses.
const SYNS: u32 = 200_000;
const BURST: u32 = 400;
const PAUSE: Duration = Duration::from_millis(4);

/// Networks for measurements: no host has an address of theirs.
const SOURCES: u32 = 0xc612_0000;
const SOURCES_MASK: u32 = 0x1_ffff;

const PATIENCE: Duration = Duration::from_secs(4);

/// What somebody saw during the flood.
#[derive(Debug, Default)]
struct Seen {
    good: u32,
    bad: Vec<String>,
}

impl Seen {
    fn note(&mut self, result: std::io::Result<()>) {
        match result {
            Ok(()) => self.good += 1,
            Err(error) => self.bad.push(error.to_string()),
        }
    }
}

fn server() -> SocketAddrV4 {
    SocketAddrV4::new(vip4(0), 7)
}

fn connect() -> std::io::Result<TcpStream> {
    let connection = TcpStream::connect_timeout(&SocketAddr::V4(server()), PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    Ok(connection)
}

/// Sends something and gets it back.
fn exchange(connection: &mut TcpStream) -> std::io::Result<()> {
    connection.write_all(b"hello")?;
    connection.read_exact(&mut [0; 5])
}

/// Exchanges something on each connection again and again.
fn go_on(mut connections: Vec<TcpStream>, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        connections.iter_mut().for_each(|connection| seen.note(exchange(connection)));
        std::thread::sleep(PAUSE);
    }
    seen
}

/// Connects anew again and again.
fn come(stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        seen.note(connect().and_then(|mut connection| exchange(&mut connection)));
        std::thread::sleep(PAUSE * 5);
    }
    seen
}

/// The `number`th SYN: each from another address and port.
fn syn(number: u32) -> [u8; 40] {
    let mixed = number.wrapping_mul(0x9e37_79b1);
    let source = Ipv4Addr::from(SOURCES | mixed >> 15 & SOURCES_MASK);
    let port = 1024 | u16::try_from(mixed & 0x7fff).unwrap();
    let mut packet = [0_u8; 40];
    // The kernel fills in length, identification and checksum of the IP header.
    packet[0] = 0x45;
    packet[8] = 64;
    packet[9] = 6;
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&server().ip().octets());
    packet[20..22].copy_from_slice(&port.to_be_bytes());
    packet[22..24].copy_from_slice(&server().port().to_be_bytes());
    packet[24..28].copy_from_slice(&mixed.to_be_bytes());
    packet[32] = 5 << 4;
    packet[33] = 2;
    packet[34..36].copy_from_slice(&64_240_u16.to_be_bytes());
    let words = packet[12..].chunks_exact(2).map(|it| u32::from(u16::from_be_bytes([it[0], it[1]])));
    // Of the pseudo-header, the addresses are among them.
    let mut sum: u32 = words.sum::<u32>() + 6 + 20;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[36..38].copy_from_slice(&(!u16::try_from(sum).unwrap()).to_be_bytes());
    packet
}

/// Sends the flood; answers how many of its SYNs went out.
fn flood() -> std::io::Result<u32> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    let mut sent = 0;
    for number in 0..SYNS {
        sent += u32::from(socket.send_to(&syn(number), &server().into()).is_ok());
        if number % BURST == 0 {
            std::thread::sleep(PAUSE);
        }
    }
    Ok(sent)
}

#[test]
fn a_flood_of_syns_takes_no_place_from_connections() -> Result<()> {
    let lab = Lab::builder("kernel-syns").targets(1).build()?;
    start(&lab, &service(&lab, "echo", "mode = \"nat\"", &["7"], 7, ""))?;
    let client = lab.client().namespace();
    let connections = client.inside(|| -> Result<Vec<TcpStream>> {
        wait_until("the service", LIMIT, || connect().and_then(|mut it| exchange(&mut it)).is_ok())?;
        Ok((0..16).map(|_| connect().unwrap()).collect())
    })??;
    let established = client.worker("established", move |stop| go_on(connections, stop))?;
    let new = client.worker("new", come)?;
    let begun = now();
    let sent = client.inside(flood)?.expect("raw packets can be sent");
    let took = now() - begun;
    let (established, new) = (established.stop()?, new.stop()?);
    let stored = flows(&lab, "echo4")?;
    let without_port = lab.a().counted("tandem_lbd_kernel_drops_total", "no_port")?;
    eprintln!(
        "{sent} SYNs in {took:?}, {without_port} without a port; {} exchanges of established connections, {} new connections, {} in vain; {} flows",
        established.good,
        new.good,
        new.bad.len(),
        stored.len()
    );
    assert!(sent > SYNS / 2, "{sent} went out");
    assert!(established.good > 100 && established.bad.is_empty(), "{established:?}");
    assert!(new.good > 20 && new.bad.len() * 10 <= new.good as usize, "{new:?}");
    assert_eq!(without_port, 0, "who is half-open makes place");
    let own = lab.client().v4().to_string();
    let is_own = |flow: &&serde_json::Value| flow["client"].as_str().is_some_and(|it| it.starts_with(&own));
    assert_eq!(stored.iter().filter(is_own).count(), stored.len(), "all flows are the client's own");
    lab.finish()
}
