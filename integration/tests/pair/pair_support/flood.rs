//! Packets that nobody asked for, at the rate the machine can send them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::config::{ChecksumReading, VrrpVersion};
use common::key::PairKey;
use common::rng::Rng;
use common::time::{Duration, UnixTime};
use integration::lab::addresses::{vip4, vip6};
use integration::lab::clock::wall;
use integration::lab::netns::Worker;
use integration::lab::{Host, Result};
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, Socket, Type};
use vrrpd_core::auth::{Signer, emit_signed};
use vrrpd_core::packet::{Advert, Family, MULTICAST_V4, MULTICAST_V6, PROTOCOL};

/// One packet: where it goes, and its payload or, if `whole`, all of it with its IP header.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) to: IpAddr,
    pub(crate) bytes: Vec<u8>,
    pub(crate) whole: bool,
}

/// A running flood.
pub(crate) struct Flood {
    worker: Worker<()>,
    sent: Arc<AtomicU64>,
}

impl Flood {
    /// Ends it and says how many packets it sent.
    pub(crate) fn stop(self) -> Result<u64> {
        self.worker.stop()?;
        Ok(self.sent.load(Ordering::Relaxed))
    }

    /// Sends these packets of protocol 112 from a host's `eth0`, over and over.
    pub(crate) fn adverts(host: &Host, packets: Vec<Packet>) -> Result<Self> {
        let sockets = host.namespace().inside(Sockets::open)?.expect("raw sockets can be opened");
        Self::start(host, move |round| {
            let packet = &packets[round % packets.len()];
            sockets.send(packet).is_ok()
        })
    }

    /// Sends these datagrams to one address, over and over.
    pub(crate) fn datagrams(host: &Host, to: SocketAddr, datagrams: Vec<Vec<u8>>) -> Result<Self> {
        let socket = host.namespace().inside(|| UdpSocket::bind(("0.0.0.0", 0)))?.expect("a port is free");
        Self::start(host, move |round| socket.send_to(&datagrams[round % datagrams.len()], to).is_ok())
    }

    fn start(host: &Host, send: impl Fn(usize) -> bool + Send + 'static) -> Result<Self> {
        let sent = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&sent);
        let worker = host.namespace().worker("flood", move |stop: &AtomicBool| {
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                // A full queue of the sender's own is no reason to end.
                counter.fetch_add(u64::from(send(round)), Ordering::Relaxed);
                round += 1;
            }
        })?;
        Ok(Self { worker, sent })
    }
}

/// Sends a few packets once.
pub(crate) fn send_once(host: &Host, packets: &[Packet]) -> Result<()> {
    host.namespace().inside(|| {
        let sockets = Sockets::open().expect("raw sockets can be opened");
        for packet in packets {
            sockets.send(packet).expect("it can be sent");
        }
    })
}

/// By family, and with or without an IP header of ours.
struct Sockets {
    payload: [Socket; 2],
    whole: [Socket; 2],
    scope: u32,
}

impl Sockets {
    fn open() -> io::Result<Self> {
        let scope = if_nametoindex("eth0")?;
        let open = |domain, protocol| -> io::Result<Socket> {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)))?;
            socket.bind_device(Some(b"eth0"))?;
            if domain == Domain::IPV4 {
                socket.set_multicast_ttl_v4(255)?;
                socket.set_ttl_v4(255)?;
            } else {
                socket.set_multicast_hops_v6(255)?;
                socket.set_unicast_hops_v6(255)?;
                socket.set_multicast_if_v6(scope)?;
            }
            Ok(socket)
        };
        let vrrp = i32::from(PROTOCOL);
        Ok(Self {
            payload: [open(Domain::IPV4, vrrp)?, open(Domain::IPV6, vrrp)?],
            whole: [open(Domain::IPV4, libc::IPPROTO_RAW)?, open(Domain::IPV6, libc::IPPROTO_RAW)?],
            scope,
        })
    }

    fn send(&self, packet: &Packet) -> io::Result<usize> {
        let sockets = if packet.whole { &self.whole } else { &self.payload };
        match packet.to {
            IpAddr::V4(to) => sockets[0].send_to(&packet.bytes, &SocketAddr::from((to, 0)).into()),
            IpAddr::V6(to) => {
                let to = SocketAddrV6::new(to, 0, 0, self.scope);
                sockets[1].send_to(&packet.bytes, &SocketAddr::V6(to).into())
            }
        }
    }
}

/// Where advertisements of these families go: everybody, and node `a` and `b` each.
pub(crate) fn destinations() -> [IpAddr; 6] {
    let v4 = integration::lab::addresses::v4;
    let v6 = integration::lab::addresses::v6;
    [MULTICAST_V4.into(), MULTICAST_V6.into(), v4(1).into(), v6(1).into(), v4(2).into(), v6(2).into()]
}

/// An advertisement of the highest priority for the instance `web`.
pub(crate) fn tempting(family: Family) -> Advert {
    let address = if family == Family::V4 { vip4(0).into() } else { vip6(0).into() };
    Advert {
        version: VrrpVersion::V3,
        vrid: 51,
        priority: 254,
        interval: Duration::from_millis(10),
        addresses: vec![address],
    }
}

/// Where the client's advertisements come from; its link-local address follows from its hardware address.
pub(crate) fn source(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 77, 0, 100).into(),
        Family::V6 => Ipv6Addr::new(0xfe80, 0, 0, 0, 0x7d, 0xff, 0xfe00, 0x64).into(),
    }
}

/// Advertisements for `to` that are none: noise, cut off, unsigned, signed with another key, for another router, damaged.
pub(crate) fn bad_adverts(to: IpAddr, rng: &mut Rng) -> Vec<Packet> {
    let family = Family::of(to);
    let source = source(family);
    let whole = tempting(family).emit(source, to, ChecksumReading::Message);
    let stranger = PairKey::new([7; 32]);
    let now = UnixTime::from_nanos(wall().as_nanos());
    let forged = emit_signed(
        &tempting(family),
        source,
        to,
        ChecksumReading::Message,
        &mut Signer::new(&stranger),
        now,
    );
    let other = Advert { vrid: 99, ..tempting(family) }.emit(source, to, ChecksumReading::Message);
    let mut damaged = whole.clone();
    damaged[5] ^= 0xff;
    let mut all = vec![whole.clone(), forged, other, damaged];
    all.extend((0..whole.len()).map(|length| whole[..length].to_vec()));
    for length in [0, 1, 8, 20, 40, 200, 1400] {
        let mut noise = vec![0; length];
        noise.iter_mut().for_each(|byte| *byte = rng.next_u64().to_le_bytes()[0]);
        all.push(noise.clone());
        // The same with a head that looks right.
        for (at, byte) in [0x31, 51, 254, 1].into_iter().enumerate().take(length) {
            noise[at] = byte;
        }
        all.push(noise);
    }
    all.into_iter().map(|bytes| Packet { to, bytes, whole: false }).collect()
}

/// The IP packets of a capture of Ethernet frames.
pub(crate) fn captured(file: &Path) -> Vec<Packet> {
    const FILE_HEAD: usize = 24;
    const PACKET_HEAD: usize = 16;
    const ETHERNET_HEAD: usize = 14;
    let bytes = std::fs::read(file).expect("the capture can be read");
    let mut rest = &bytes[FILE_HEAD..];
    let mut packets = Vec::new();
    while rest.len() > PACKET_HEAD {
        let length = u32::from_le_bytes([rest[8], rest[9], rest[10], rest[11]]);
        let end = PACKET_HEAD + usize::try_from(length).expect("a packet's length");
        let packet = &rest[PACKET_HEAD + ETHERNET_HEAD..end];
        rest = &rest[end..];
        let to = match packet[0] >> 4 {
            4 => IpAddr::from(<[u8; 4]>::try_from(&packet[16..20]).expect("four bytes")),
            _ => IpAddr::from(<[u8; 16]>::try_from(&packet[24..40]).expect("sixteen bytes")),
        };
        packets.push(Packet { to, bytes: packet.to_vec(), whole: true });
    }
    packets
}
