//! The sockets against the real kernel, in namespaces.

mod netns;

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use netns::{Net, wait_for};
use vrrpd::netlink::Netlink;
use vrrpd::socket::{AdvertSocket, FrameSocket, PeerSocket, advert_frame, drops};
use vrrpd_core::neighbor;
use vrrpd_core::packet::{Family, Meta};

const GROUP: [&str; 2] = ["224.0.0.18", "ff02::12"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn index(net: &Net, name: &str) -> u32 {
    net.within(|| Netlink::open().unwrap().link(name).unwrap().unwrap().index)
}

fn adverts(net: &Net, name: &str, family: Family) -> AdvertSocket {
    let index = index(net, name);
    net.within(|| AdvertSocket::open(index, family).unwrap())
}

fn receive(socket: &AdvertSocket) -> Option<(Vec<u8>, Meta)> {
    let mut buffer = [0; 2048];
    socket.recv(&mut buffer).unwrap().map(|(bytes, meta)| (bytes.to_vec(), meta))
}

#[test]
fn an_advertisement_arrives_with_what_its_header_said() {
    let (a, b) = Net::pair();
    for (family, group, one, two) in
        [(Family::V4, GROUP[0], "10.0.0.1", "10.0.0.2"), (Family::V6, GROUP[1], "fe80::1", "fe80::2")]
    {
        let (from, to) = (adverts(&a, "eth0", family), adverts(&b, "eth0", family));
        assert_eq!(receive(&to), None);
        for destination in [group, two] {
            let payload = [0x31, 51, 200, 1, 0, 10, 0xab, 0xcd, 1, 2, 3, 4];
            from.send(ip(one), ip(destination), &payload).unwrap();
            let (bytes, meta) = wait_for("the packet", || receive(&to));
            assert_eq!(bytes, payload, "nothing is put into the packet, no checksum either");
            assert_eq!(meta, Meta { source: ip(one), destination: ip(destination), hop_limit: 255 });
        }
        // The sender does not hear itself.
        assert_eq!(receive(&from), None);
        // The source must be the host's own.
        assert!(from.send(ip("10.9.9.9"), ip(group), &[0; 12]).is_err());
    }
}

#[test]
fn control_traffic_is_marked_as_such() {
    let (a, b) = Net::pair();
    let index_b = index(&b, "eth0");
    let frames = b.within(|| packet_socket(index_b));
    adverts(&a, "eth0", Family::V4).send(ip("10.0.0.1"), ip(GROUP[0]), &[0x31; 12]).unwrap();
    let frame = wait_for("the IPv4 packet", || next_frame(&frames, 112, 23));
    assert_eq!((frame[15], frame[22]), (0xc0, 255));
    adverts(&a, "eth0", Family::V6).send(ip("fe80::1"), ip(GROUP[1]), &[0x31; 24]).unwrap();
    let frame = wait_for("the IPv6 packet", || next_frame(&frames, 112, 20));
    assert_eq!((frame[14], frame[15] & 0xf0, frame[21]), (0x6c, 0, 255));
}

/// A packet socket that sees everything.
fn packet_socket(index: u32) -> socket2::Socket {
    let protocol = socket2::Protocol::from(i32::from(3_u16.to_be()));
    let socket = socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::RAW, Some(protocol)).unwrap();
    socket.bind_device_by_index_v4(std::num::NonZeroU32::new(index)).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// The next frame that has `value` at `offset`.
fn next_frame(mut socket: &socket2::Socket, value: u8, offset: usize) -> Option<Vec<u8>> {
    let mut buffer = [0; 2048];
    loop {
        match socket.read(&mut buffer) {
            Ok(length) if buffer.get(offset) == Some(&value) => return Some(buffer[..length].to_vec()),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

#[test]
fn only_the_own_interface_and_family_are_heard() {
    let (a, b) = Net::pair();
    a.join(&b, "eth1");
    for (net, number) in [(&a, 1), (&b, 2)] {
        net.sh(&format!("ip addr add 10.0.1.{number}/24 dev eth1; ip link set eth1 up"));
    }
    let (here, there) = (adverts(&b, "eth0", Family::V4), adverts(&b, "eth1", Family::V4));
    let six = adverts(&b, "eth0", Family::V6);
    wait_for("eth1 to carry packets", || {
        adverts(&a, "eth1", Family::V4).send(ip("10.0.1.1"), ip(GROUP[0]), &[1; 12]).unwrap();
        receive(&there)
    });
    adverts(&a, "eth0", Family::V4).send(ip("10.0.0.1"), ip(GROUP[0]), &[2; 12]).unwrap();
    assert_eq!(wait_for("the packet", || receive(&here)).0, [2; 12]);
    assert!(std::iter::from_fn(|| receive(&there)).all(|(bytes, _)| bytes == [1; 12]));
    assert_eq!(receive(&here), None);
    assert_eq!(receive(&six), None);
}

#[test]
fn a_forwarded_packet_is_told_by_its_hop_limit() {
    let (a, b) = Net::pair();
    let to = adverts(&b, "eth0", Family::V6);
    let index_a = index(&a, "eth0");
    let protocol = socket2::Protocol::from(112);
    let from =
        a.within(|| socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::RAW, Some(protocol))).unwrap();
    from.set_multicast_hops_v6(64).unwrap();
    let group = std::net::SocketAddrV6::new(GROUP[1].parse().unwrap(), 0, 0, index_a);
    from.send_to(&[9; 24], &group.into()).unwrap();
    assert_eq!(wait_for("the packet", || receive(&to)).1.hop_limit, 64);
}

#[test]
fn a_flood_ends_at_the_queues_bound_and_is_counted() {
    let (a, b) = Net::pair();
    let (from, to) = (adverts(&a, "eth0", Family::V4), adverts(&b, "eth0", Family::V4));
    assert_eq!(drops(to.as_fd()).unwrap(), 0);
    for _ in 0..20_000 {
        // The sender's own queue may be full for a moment.
        if let Err(error) = from.send(ip("10.0.0.1"), ip(GROUP[0]), &[7; 12]) {
            assert!(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Other), "{error}");
        }
    }
    wait_for("drops", || Some(drops(to.as_fd()).unwrap()).filter(|count| *count > 0));
    let held = std::iter::from_fn(|| receive(&to)).count();
    assert!((100..5_000).contains(&held), "{held}");
    let sender = a.within(|| AdvertSocket::open_sender(index(&a, "eth0"), Family::V4).unwrap());
    adverts(&b, "eth0", Family::V4).send(ip("10.0.0.2"), ip("10.0.0.1"), &[1; 12]).unwrap();
    wait_for("the packet", || receive(&from));
    assert_eq!(receive(&sender), None);
}

#[test]
fn the_frame_socket_hears_neighbour_packets_only() {
    let (a, b) = Net::pair();
    let (index_a, index_b) = (index(&a, "eth0"), index(&b, "eth0"));
    let mac = [2, 0, 0, 0, 0, 1];
    let open = |family| b.within(|| FrameSocket::open(index_b, family).unwrap());
    let (four, six) = (open(Family::V4), open(Family::V6));
    let from = a.within(|| FrameSocket::open_sender(index_a).unwrap());
    let mut buffer = [0; 2048];
    let vip6 = "fd00::100".parse().unwrap();
    let arp = neighbor::gratuitous_arp(mac, "10.0.0.100".parse().unwrap());
    let na = neighbor::unsolicited_na(mac, vip6, true);
    let solicitation = neighbor::neighbor_solicitation(mac, "fe80::1".parse().unwrap(), vip6);
    let mut forged = na.clone();
    forged[21] = 64;
    let advert = advert_frame(mac, ip("fe80::1"), ip(GROUP[1]), &[0x31; 24]).unwrap();
    for frame in [&advert, &solicitation, &forged, &na] {
        from.send(frame).unwrap();
    }
    let got = wait_for("the advertisement", || six.recv(&mut buffer).unwrap().map(<[u8]>::to_vec));
    assert_eq!(got, na, "what came before it is filtered");
    from.send(&arp).unwrap();
    let got = wait_for("the ARP packet", || {
        let frame = four.recv(&mut buffer).unwrap().map(<[u8]>::to_vec);
        frame.filter(|frame| frame[..14] == arp[..14])
    });
    assert_eq!(got[..arp.len()], arp);
    // What this host sends itself is not heard.
    six.send(&neighbor::unsolicited_na([2, 0, 0, 0, 0, 2], vip6, true)).unwrap();
    while let Some(frame) = six.recv(&mut buffer).unwrap() {
        assert_eq!(frame[6..12], mac);
    }
    assert!(four.send(&[0; 3]).is_err());
}

#[test]
fn an_advertisement_from_the_virtual_address_is_an_advertisement() {
    let (a, b) = Net::pair();
    let index_a = index(&a, "eth0");
    let from = a.within(|| FrameSocket::open_sender(index_a).unwrap());
    for (family, group, one) in [(Family::V4, GROUP[0], "10.0.0.1"), (Family::V6, GROUP[1], "fe80::1")] {
        let to = adverts(&b, "eth0", family);
        let mac = neighbor::virtual_mac(family, 51);
        from.send(&advert_frame(mac, ip(one), ip(group), &[5; 24]).unwrap()).unwrap();
        let (bytes, meta) = wait_for("the packet", || receive(&to));
        assert_eq!(bytes, [5; 24]);
        assert_eq!(meta, Meta { source: ip(one), destination: ip(group), hop_limit: 255 });
    }
}

#[test]
fn advertisements_from_the_same_virtual_address_pass_a_macvlan() {
    let (a, b) = Net::pair();
    let index_a = index(&a, "eth0");
    let index_b = index(&b, "eth0");
    let from = a.within(|| FrameSocket::open_sender(index_a).unwrap());
    let mac = neighbor::virtual_mac(Family::V4, 51);
    let mut netlink = b.within(|| Netlink::open().unwrap());
    let macvlan = netlink.add_macvlan(index_b, "vrrp4.51", mac).unwrap();
    let to = adverts(&b, "eth0", Family::V4);
    for up in [false, true] {
        netlink.set_up(macvlan.index, up).unwrap();
        from.send(&advert_frame(mac, ip("10.0.0.1"), ip(GROUP[0]), &[5; 24]).unwrap()).unwrap();
        assert_eq!(wait_for("the packet", || receive(&to)).0, [5; 24]);
    }
}

#[test]
fn the_peer_link_hears_only_the_peer() {
    let (a, b) = Net::pair();
    b.sh("ip addr add 10.0.0.3/24 dev eth0; ip addr add fd00::3/64 dev eth0 nodad");
    let mut buffer = [0; 2048];
    for (one, two, three) in [("10.0.0.1", "10.0.0.2", "10.0.0.3"), ("fd00::1", "fd00::2", "fd00::3")] {
        let here = a.within(|| PeerSocket::open(ip(one), ip(two)).unwrap());
        // Nobody listens yet: that is no error, then or later.
        here.send(b"lost").unwrap();
        assert_eq!(here.recv(&mut buffer).unwrap(), None);
        here.send(b"lost").unwrap();
        let there = b.within(|| PeerSocket::open(ip(two), ip(one)).unwrap());
        let stranger = b.within(|| UdpSocket::bind(SocketAddr::new(ip(three), 0)).unwrap());
        stranger.send_to(b"hello", SocketAddr::new(ip(one), 7112)).unwrap();
        there.send(b"news").unwrap();
        let got = wait_for("the datagram", || here.recv(&mut buffer).unwrap().map(<[u8]>::to_vec));
        assert_eq!(got, b"news");
        let warden = a.within(|| PeerSocket::open_sender(ip(one), ip(two)).unwrap());
        warden.send(b"release").unwrap();
        let got = wait_for("the datagram", || there.recv(&mut buffer).unwrap().map(<[u8]>::to_vec));
        assert_eq!(got, b"release");
        let error = a.within(|| PeerSocket::open(ip(one), ip(two)).unwrap_err());
        assert!(error.to_string().contains("is vrrpd running already?"), "{error}");
    }
}

#[test]
fn the_peer_link_opens_before_its_address_is_there() {
    let (a, b) = Net::pair();
    let mut buffer = [0; 2048];
    for (net, one, two) in [("10.0.5.1/24", "10.0.5.1", "10.0.5.2"), ("fd05::1/64", "fd05::1", "fd05::2")] {
        let here = a.within(|| PeerSocket::open(ip(one), ip(two)).unwrap());
        assert!(here.send(b"early").is_err());
        let there = b.within(|| PeerSocket::open(ip(two), ip(one)).unwrap());
        a.sh(&format!("ip addr add {net} dev eth0 $(echo {net} | grep -q : && echo nodad || true)"));
        let other = net.replace("1/", "2/");
        b.sh(&format!("ip addr add {other} dev eth0 $(echo {other} | grep -q : && echo nodad || true)"));
        there.send(b"news").unwrap();
        let got = wait_for("the datagram", || here.recv(&mut buffer).unwrap().map(<[u8]>::to_vec));
        assert_eq!(got, b"news");
        here.send(b"answer").unwrap();
        wait_for("the answer", || there.recv(&mut buffer).unwrap().map(<[u8]>::len));
    }
}
