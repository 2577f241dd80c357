//! Addresses, routes and links against the real kernel, in namespaces.

mod netns;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use ipnet::IpNet;
use netns::{Net, wait_for};
use vrrpd::netlink::{Change, Monitor, Netlink};

const VIPS: [&str; 2] = ["10.0.0.100/24", "fd00::100/64"];

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn index(netlink: &mut Netlink) -> u32 {
    netlink.link("eth0").unwrap().unwrap().index
}

#[test]
fn links_are_described_as_they_are() {
    let (a, b) = Net::pair();
    let mut netlink = a.within(|| Netlink::open().unwrap());
    let link = netlink.link("eth0").unwrap().unwrap();
    assert_eq!((link.name.as_str(), link.mac), ("eth0", [2, 0, 0, 0, 0, 1]));
    assert!(link.up && link.running);
    assert!(netlink.links().unwrap().contains(&link));
    assert_eq!(netlink.link("eth9").unwrap(), None);
    assert_eq!(netlink.link_at(9999).unwrap(), None);

    b.sh("ip link set eth0 down");
    let cut =
        wait_for("the carrier to go", || netlink.link_at(link.index).unwrap().filter(|link| !link.running));
    assert!(cut.up);
    a.sh("ip link set eth0 down");
    assert!(!netlink.link("eth0").unwrap().unwrap().up);
}

#[test]
fn a_vip_comes_and_goes_and_either_may_be_repeated() {
    let (a, _b) = Net::pair();
    let mut netlink = a.within(|| Netlink::open().unwrap());
    let index = index(&mut netlink);
    for vip in VIPS.map(net) {
        for _ in 0..2 {
            netlink.add_address(index, vip).unwrap();
        }
        let ours = netlink.our_addresses().unwrap();
        assert_eq!(ours.len(), 1);
        assert_eq!((ours[0].index, ours[0].ip, ours[0].prefix), (index, vip.addr(), vip.max_prefix_len()));
        assert!(!ours[0].secondary && !ours[0].tentative && !ours[0].duplicate);
        // Usable at once, without waiting for duplicate address detection.
        a.within(|| UdpSocket::bind(SocketAddr::new(vip.addr(), 0))).unwrap();
        for _ in 0..2 {
            netlink.remove_address(index, vip).unwrap();
        }
        assert_eq!(netlink.our_addresses().unwrap(), []);
    }
    assert_eq!(netlink.addresses(index).unwrap().len(), 3);
    // An interface that is gone holds no address.
    netlink.remove_address(9999, net(VIPS[0])).unwrap();
    let error = netlink.add_address(9999, net(VIPS[0])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "adding address 10.0.0.100 to interface number 9999 failed: there is no such interface"
    );
}

#[test]
fn an_address_with_the_configured_prefix_is_removed_too() {
    let (a, _b) = Net::pair();
    let mut netlink = a.within(|| Netlink::open().unwrap());
    let index = index(&mut netlink);
    for vip in VIPS.map(net) {
        let before = netlink.addresses(index).unwrap();
        a.sh(&format!("ip addr add {vip} dev eth0"));
        netlink.add_address(index, vip).unwrap();
        netlink.remove_address(index, vip).unwrap();
        assert_eq!(netlink.addresses(index).unwrap(), before);
    }
}

#[test]
fn the_nodes_own_addresses_and_routes_are_not_disturbed() {
    let (a, _b) = Net::pair();
    a.sh("ip route add default via 10.0.0.254; ip -6 route add default via fd00::fe");
    let mut netlink = a.within(|| Netlink::open().unwrap());
    let index = index(&mut netlink);
    let main = || a.sh("ip route; ip -6 route");
    let sources = || {
        a.sh("for to in 192.0.2.1 10.0.0.7 2001:db8::1 fd00::101; do ip route get $to; done | grep -o 'src [^ ]*'")
    };
    let (routes, chosen) = (main(), sources());
    assert_eq!(chosen, "src 10.0.0.1\nsrc 10.0.0.1\nsrc fd00::1\nsrc fd00::1\n");
    for vip in VIPS.map(net) {
        netlink.add_local_route(vip.addr()).unwrap();
        netlink.add_address(index, vip).unwrap();
    }
    assert_eq!((main(), sources()), (routes, chosen.clone()));

    // Not even when the node's own address comes later, as after an expired lease.
    a.sh("ip addr del 10.0.0.1/24 dev eth0");
    assert_eq!(netlink.our_addresses().unwrap().len(), 2, "the VIP must not go with the primary address");
    a.sh("ip addr add 10.0.0.1/24 dev eth0; ip route replace default via 10.0.0.254");
    assert_eq!(sources(), chosen);
    assert!(!a.sh("ip addr show dev eth0").contains("secondary"));
}

#[test]
fn the_configured_subnet_is_on_the_link() {
    let (a, _b) = Net::pair();
    let mut netlink = a.within(|| Netlink::open().unwrap());
    let index = index(&mut netlink);
    for (vip, subnet, inside, own) in [
        ("203.0.113.10/24", "203.0.113.0/24", "203.0.113.77", "10.0.0.0/24"),
        ("2001:db8::10/64", "2001:db8::/64", "2001:db8::77", "fd00::/64"),
    ] {
        for _ in 0..2 {
            netlink.add_subnet_route(index, net(vip)).unwrap();
        }
        assert_eq!(netlink.our_subnet_routes().unwrap(), [(index, net(subnet))]);
        assert!(a.sh(&format!("ip route get {inside}")).contains("dev eth0"));
        for _ in 0..2 {
            netlink.remove_subnet_route(index, net(vip)).unwrap();
        }
        assert_eq!(netlink.our_subnet_routes().unwrap(), []);
        // Beside the kernel's own route it comes second.
        netlink.add_subnet_route(index, net(own)).unwrap();
        assert!(a.sh(&format!("ip route get {}", net(own).addr())).contains("dev eth0"));
        netlink.remove_subnet_route(index, net(own)).unwrap();
        assert!(a.sh("ip route; ip -6 route").contains(own));
    }
    netlink.add_subnet_route(index, net("fe80::100/64")).unwrap();
    netlink.add_subnet_route(index, net("10.9.9.9/32")).unwrap();
    assert_eq!(netlink.our_subnet_routes().unwrap(), []);
}

#[test]
fn local_routes_outlive_the_address_and_connections_go_on() {
    let (a, b) = Net::pair();
    let mut netlink = a.within(|| Netlink::open().unwrap());
    let index = index(&mut netlink);
    for vip in VIPS.map(net) {
        for _ in 0..2 {
            netlink.add_local_route(vip.addr()).unwrap();
        }
        assert_eq!(netlink.our_local_routes().unwrap(), [vip.addr()]);
        let at = SocketAddr::new(vip.addr(), 7000);
        // A backup may listen: IPv4 binds to it as it is, and connections to it work on the host itself.
        let listener = a.within(|| listen(at));
        a.within(|| TcpStream::connect(at)).unwrap();
        drop(listener.accept().unwrap());

        netlink.add_address(index, vip).unwrap();
        let mut client = b.within(|| TcpStream::connect(at)).unwrap();
        let mut server = listener.accept().unwrap().0;
        netlink.remove_address(index, vip).unwrap();
        assert_eq!(netlink.our_local_routes().unwrap(), [vip.addr()]);

        // What still arrives here (the other node sends it on) is served.
        let to = if vip.addr().is_ipv4() { "" } else { "-6" };
        b.sh(&format!("ip {to} neigh replace {} lladdr 02:00:00:00:00:01 dev eth0", vip.addr()));
        client.write_all(b"ping").unwrap();
        let mut bytes = [0; 4];
        server.read_exact(&mut bytes).unwrap();
        server.write_all(&bytes).unwrap();
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"ping");
        let late = b.within(|| TcpStream::connect(at)).unwrap();
        assert_eq!(listener.accept().unwrap().1, late.local_addr().unwrap());

        for _ in 0..2 {
            netlink.remove_local_route(vip.addr()).unwrap();
        }
        assert_eq!(netlink.our_local_routes().unwrap(), Vec::<IpAddr>::new());
    }
}

/// Listens on an address that no interface has. IPv6 needs `IPV6_FREEBIND` for that.
fn listen(at: SocketAddr) -> TcpListener {
    let domain = socket2::Domain::for_address(at);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
    if at.is_ipv6() {
        socket.set_freebind_v6(true).unwrap();
    }
    socket.bind(&at.into()).unwrap();
    socket.listen(8).unwrap();
    socket.into()
}

#[test]
fn a_local_route_is_added_beside_an_address_left_behind() {
    let (a, _b) = Net::pair();
    let mut netlink = a.within(|| Netlink::open().unwrap());
    let index = index(&mut netlink);
    for vip in VIPS.map(net) {
        netlink.add_address(index, vip).unwrap();
        netlink.add_local_route(vip.addr()).unwrap();
        netlink.remove_address(index, vip).unwrap();
        assert_eq!(netlink.our_local_routes().unwrap(), [vip.addr()]);
        assert!(a.sh(&format!("ip route get {}", vip.addr())).starts_with("local"));
        netlink.remove_local_route(vip.addr()).unwrap();
    }
}

#[test]
fn a_macvlan_starts_down_and_without_an_address() {
    let (a, _b) = Net::pair();
    let mut netlink = a.within(|| Netlink::open().unwrap());
    let index = index(&mut netlink);
    let mac = [0, 0, 0x5e, 0, 2, 51];
    let link = netlink.add_macvlan(index, "vrrp6.51", mac).unwrap();
    assert_eq!((link.mac, link.up), (mac, false));
    assert_eq!(netlink.add_macvlan(index, "vrrp6.51", mac).unwrap(), link);
    assert!(netlink.add_macvlan(index, "vrrp6.51", [2, 0, 0, 0, 0, 9]).is_err());
    assert!(a.sh("ip -d link show vrrp6.51").contains("mode bridge"));
    netlink.set_up(link.index, true).unwrap();
    assert!(netlink.link("vrrp6.51").unwrap().unwrap().running);
    assert_eq!(netlink.addresses(link.index).unwrap(), []);
    netlink.set_up(link.index, false).unwrap();
    assert!(!netlink.link("vrrp6.51").unwrap().unwrap().up);
    for _ in 0..2 {
        netlink.remove_link(link.index).unwrap();
    }
    assert_eq!(netlink.link("vrrp6.51").unwrap(), None);
}

#[test]
fn the_monitor_tells_what_others_do() {
    let (a, b) = Net::pair();
    let (mut netlink, mut monitor) = a.within(|| (Netlink::open().unwrap(), Monitor::open().unwrap()));
    let index = index(&mut netlink);
    assert_eq!(monitor.next().unwrap(), None);
    let mut wait = |what: &str, wanted: &dyn Fn(&Change) -> bool| {
        wait_for(what, || monitor.next().unwrap().filter(|change| wanted(change)))
    };
    for vip in VIPS.map(net) {
        let prefix = vip.max_prefix_len();
        netlink.add_address(index, vip).unwrap();
        let added = Change::AddressAdded { index, ip: vip.addr(), prefix, proto: Some(112) };
        wait("the new address", &|change| *change == added);
        a.sh(&format!("ip addr del {}/{prefix} dev eth0", vip.addr()));
        let removed = Change::AddressRemoved { index, ip: vip.addr(), prefix };
        wait("the removed address", &|change| *change == removed);
    }
    b.sh("ip link set eth0 down");
    wait(
        "the lost carrier",
        &|change| matches!(change, Change::Link(l) if l.index == index && l.up && !l.running),
    );
    b.sh("ip link set eth0 up");
    wait("the carrier", &|change| matches!(change, Change::Link(l) if l.index == index && l.running));
    a.sh("ip link set eth0 down");
    wait(
        "the interface to go down",
        &|change| matches!(change, Change::Link(l) if l.index == index && !l.up),
    );
    a.sh("ip link del eth0");
    wait("the interface to go", &|change| *change == Change::LinkGone { index, name: "eth0".to_owned() });
}

#[test]
fn a_monitor_that_lost_changes_says_so_and_goes_on() {
    let (a, _b) = Net::pair();
    let (mut netlink, mut monitor) = a.within(|| (Netlink::open().unwrap(), Monitor::open().unwrap()));
    let index = index(&mut netlink);
    let vip = net("10.0.0.100/24");
    // Each notification takes about 1 KiB of the queue.
    let mut overrun = false;
    for _ in 0..20_000 {
        netlink.add_address(index, vip).unwrap();
        netlink.remove_address(index, vip).unwrap();
    }
    while let Some(change) = monitor.next().unwrap() {
        overrun |= change == Change::Overrun;
    }
    assert!(overrun);
    netlink.add_address(index, vip).unwrap();
    wait_for("the news after the overrun", || {
        monitor.next().unwrap().filter(|change| matches!(change, Change::AddressAdded { .. }))
    });
}
