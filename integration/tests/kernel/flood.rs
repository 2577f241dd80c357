//! A flood of SYNs from addresses that do not exist, at a service that the kernel forwards: what is established goes on, who is new
//! gets in, and none of the flood gets a place in the table of flows or keeps a port from others. In each way that keeps half-open flows
//! in another place.
#![expect(clippy::print_stderr, reason = "the harness shows it when the test fails")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use integration::lab::addresses::{client_addresses, vip4, vip6};
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
const SOURCES_6: u128 = 0x2001_0002 << 96;
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

fn connect(server: SocketAddr) -> std::io::Result<TcpStream> {
    let connection = TcpStream::connect_timeout(&server, PATIENCE)?;
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
fn come(server: SocketAddr, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        seen.note(connect(server).and_then(|mut connection| exchange(&mut connection)));
        std::thread::sleep(PAUSE * 5);
    }
    seen
}

/// The header of a packet from this one of all sources; of IPv4 the kernel fills in length, identification and checksum. And where its
/// addresses begin.
fn header(source: u32, vip: IpAddr) -> (Vec<u8>, usize) {
    match vip {
        IpAddr::V4(vip) => {
            let addresses = [Ipv4Addr::from(SOURCES | source).octets(), vip.octets()].concat();
            ([&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0][..], &addresses[..]].concat(), 12)
        }
        IpAddr::V6(vip) => {
            let addresses = [Ipv6Addr::from(SOURCES_6 | u128::from(source)).octets(), vip.octets()].concat();
            ([&[0x60, 0, 0, 0, 0, 20, 6, 64][..], &addresses[..]].concat(), 8)
        }
    }
}

/// The `number`th SYN: each from another address and port.
fn syn(number: u32, server: SocketAddr) -> Vec<u8> {
    let mixed = number.wrapping_mul(0x9e37_79b1);
    let port = 1024 | u16::try_from(mixed & 0x7fff).unwrap();
    let (mut packet, addresses) = header(mixed >> 15 & SOURCES_MASK, server.ip());
    let tcp = packet.len();
    packet.extend(port.to_be_bytes());
    packet.extend(server.port().to_be_bytes());
    packet.extend(mixed.to_be_bytes());
    packet.extend([0, 0, 0, 0, 5 << 4, 2]);
    packet.extend(64_240_u16.to_be_bytes());
    packet.extend([0; 4]);
    let words = packet[addresses..].chunks_exact(2).map(|it| u32::from(u16::from_be_bytes([it[0], it[1]])));
    // Of the pseudo-header, the addresses are among them.
    let mut sum: u32 = words.sum::<u32>() + 6 + 20;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[tcp + 16..tcp + 18].copy_from_slice(&(!u16::try_from(sum).unwrap()).to_be_bytes());
    packet
}

/// Sends the flood; answers how many of its SYNs went out.
fn flood(server: SocketAddr) -> std::io::Result<u32> {
    let raw = Protocol::from(libc::IPPROTO_RAW);
    let socket = Socket::new(Domain::for_address(server), Type::RAW, Some(raw))?;
    // What is a port elsewhere is the protocol of a raw packet: none but the socket's.
    let to = SocketAddr::new(server.ip(), 0).into();
    let mut sent = 0;
    for number in 0..SYNS {
        sent += u32::from(socket.send_to(&syn(number, server), &to).is_ok());
        if number % BURST == 0 {
            std::thread::sleep(PAUSE);
        }
    }
    Ok(sent)
}

/// In one way to forward, to the VIP of one family.
fn withstands(label: &str, keys: &str, vip: IpAddr, prepare: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    let lab = Lab::builder(label).targets(1).build()?;
    prepare(&lab)?;
    start(&lab, &service(&lab, "echo", keys, &["7"], 7, ""))?;
    let (client, server) = (lab.client().namespace(), SocketAddr::new(vip, 7));
    let connections = client.inside(|| -> Result<Vec<TcpStream>> {
        wait_until("the service", LIMIT, || connect(server).and_then(|mut it| exchange(&mut it)).is_ok())?;
        Ok((0..16).map(|_| connect(server).unwrap()).collect())
    })??;
    let established = client.worker("established", move |stop| go_on(connections, stop))?;
    let new = client.worker("new", move |stop| come(server, stop))?;
    let begun = now();
    let sent = client.inside(|| flood(server))?.expect("raw packets can be sent");
    let took = now() - begun;
    let (established, new) = (established.stop()?, new.stop()?);
    let stored = flows(&lab, if vip.is_ipv4() { "echo4" } else { "echo6" })?;
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
    let own = client_addresses(vip);
    let is_own = |flow: &&serde_json::Value| {
        let client = flow["client"].as_str().and_then(|it| it.parse::<SocketAddr>().ok());
        client.is_some_and(|client| own.contains(&client.ip()))
    };
    assert_eq!(stored.iter().filter(is_own).count(), stored.len(), "all flows are the client's own");
    lab.finish()
}

#[test]
fn a_flood_of_syns_takes_no_place_from_connections() -> Result<()> {
    withstands("kernel-syns", "mode = \"nat\"", vip4(0).into(), |_| Ok(()))
}

#[test]
fn nor_over_ipv6() -> Result<()> {
    withstands("kernel-syns-6", "mode = \"nat\"", vip6(0).into(), |_| Ok(()))
}

#[test]
fn nor_where_targets_answer_directly() -> Result<()> {
    let keys = "mode = \"dsr\"\ndsr = \"l2\"";
    withstands("kernel-syns-dsr", keys, vip4(0).into(), |lab| lab.targets()[0].accept_vip(vip4(0)))
}

/// Half-open flows of all processors are in one table then, whose oldest entries make place.
#[test]
fn nor_where_targets_see_the_client() -> Result<()> {
    let keys = "mode = \"nat\"\npreserve_client_ip = true";
    withstands("kernel-syns-kept", keys, vip4(0).into(), |lab| {
        let answer = |client: IpAddr| {
            lab.targets()[0].ip(&format!("route add {client}/32 via {}", lab.a().v4())).map(drop)
        };
        client_addresses(vip4(0).into()).into_iter().try_for_each(answer)
    })
}
