//! Who answers ARP, with the settings that are made, against the real kernel.

mod netns;

use std::path::PathBuf;

use netns::{Net, wait_for};
use vrrpd::netlink::Netlink;
use vrrpd::socket::FrameSocket;
use vrrpd::sysctl::{FILE_NAME, Sysctls};
use vrrpd_core::neighbor;
use vrrpd_core::packet::Family;

const VIP: &str = "10.0.0.100/24";
const ASKER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];

struct RunDir(PathBuf);

impl RunDir {
    fn new(test: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("vrrpd-shell-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Which Ethernet addresses answer an ARP request of `net` for the VIP: so many are awaited, and to know that there are no
/// more, the node's own address is asked for afterwards.
fn answers(net: &Net, expected: usize) -> Vec<[u8; 6]> {
    let index = net.within(|| Netlink::open().unwrap().link("eth0").unwrap().unwrap().index);
    let socket = net.within(|| FrameSocket::open(index, Family::V4).unwrap());
    let sender = "10.0.0.2".parse().unwrap();
    let ask = |target: &str| {
        socket.send(&neighbor::arp_request(ASKER, sender, target.parse().unwrap())).unwrap();
    };
    let mut seen = Vec::new();
    let mut buffer = [0; 256];
    // The Ethernet and IP address of the next reply.
    let mut reply = || {
        let frame = socket.recv(&mut buffer).unwrap()?;
        let reply = (frame[22..28].try_into().unwrap(), [frame[28], frame[29], frame[30], frame[31]]);
        (frame[20..22] == [0, 2]).then_some(reply)
    };
    ask("10.0.0.100");
    while seen.len() < expected {
        let (mac, ip) = wait_for("an answer for the VIP", &mut reply);
        assert_eq!(ip, [10, 0, 0, 100]);
        seen.push(mac);
    }
    ask("10.0.0.1");
    loop {
        let (mac, ip) = wait_for("the node to answer", &mut reply);
        if ip == [10, 0, 0, 1] {
            assert_eq!(mac, OWN, "the node's own address has its own Ethernet address");
            return seen;
        }
        seen.push(mac);
    }
}

#[test]
fn only_who_has_the_address_on_the_interface_answers() {
    let (a, b) = Net::pair();
    let run_dir = RunDir::new("answers");
    let vip = VIP.parse().unwrap();
    let (mut netlink, mut sysctls) =
        a.within(|| (Netlink::open().unwrap(), Sysctls::open(&run_dir.0).unwrap()));
    let index = netlink.link("eth0").unwrap().unwrap().index;
    netlink.add_local_route("10.0.0.100".parse().unwrap()).unwrap();
    assert_eq!(answers(&b, 1), [OWN], "without the setting a backup would answer as well");
    a.within(|| sysctls.prepare_interface("eth0").unwrap());
    assert_eq!(answers(&b, 0), <[[u8; 6]; 0]>::default());
    netlink.add_address(index, vip).unwrap();
    assert_eq!(answers(&b, 1), [OWN]);
    netlink.remove_address(index, vip).unwrap();
    assert_eq!(answers(&b, 0), <[[u8; 6]; 0]>::default());
    assert!(run_dir.0.join(FILE_NAME).exists());
    a.within(|| sysctls.restore().unwrap());
    assert_eq!(
        a.sh("cat /proc/sys/net/ipv4/conf/eth0/arp_ignore /proc/sys/net/ipv4/conf/eth0/arp_announce"),
        "0\n0\n"
    );
    assert!(!run_dir.0.join(FILE_NAME).exists());
}

#[test]
fn the_nodes_own_requests_do_not_claim_the_virtual_ip() {
    let (a, b) = Net::pair();
    let run_dir = RunDir::new("requests");
    let mut netlink = a.within(|| Netlink::open().unwrap());
    let index = netlink.link("eth0").unwrap().unwrap().index;
    a.within(|| Sysctls::open(&run_dir.0).unwrap().prepare_interface("eth0").unwrap());
    netlink.add_local_route("10.0.0.100".parse().unwrap()).unwrap();
    netlink.add_address(index, VIP.parse().unwrap()).unwrap();
    let index_b = b.within(|| Netlink::open().unwrap().link("eth0").unwrap().unwrap().index);
    let socket = b.within(|| FrameSocket::open(index_b, Family::V4).unwrap());
    // Nobody has this address, so that the host has to ask for it, from the virtual IP.
    a.within(|| {
        let from = std::net::UdpSocket::bind("10.0.0.100:0").unwrap();
        from.send_to(b"hello", "10.0.0.77:9").unwrap();
    });
    let mut buffer = [0; 256];
    let sender = wait_for("the request", || {
        let frame = socket.recv(&mut buffer).unwrap()?;
        (frame[20..22] == [0, 1] && frame[38..42] == [10, 0, 0, 77]).then(|| frame[28..32].to_vec())
    });
    assert_eq!(sender, [10, 0, 0, 1]);
}

#[test]
fn with_a_macvlan_only_the_virtual_ethernet_address_answers() {
    let (a, b) = Net::pair();
    let run_dir = RunDir::new("macvlan");
    let mac = neighbor::virtual_mac(Family::V4, 51);
    // The strict check that many distributions set.
    a.sh(
        "echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter; echo 1 > /proc/sys/net/ipv4/conf/default/rp_filter",
    );
    let (mut netlink, mut sysctls) =
        a.within(|| (Netlink::open().unwrap(), Sysctls::open(&run_dir.0).unwrap()));
    let index = netlink.link("eth0").unwrap().unwrap().index;
    netlink.add_local_route("10.0.0.100".parse().unwrap()).unwrap();
    let macvlan = netlink.add_macvlan(index, "tandem4-51.0", mac).unwrap();
    a.within(|| {
        sysctls.prepare_interface("eth0").unwrap();
        sysctls.prepare_macvlan("tandem4-51.0").unwrap();
    });
    assert_eq!(answers(&b, 0), <[[u8; 6]; 0]>::default());
    netlink.set_up(macvlan.index, true).unwrap();
    netlink.add_address(macvlan.index, VIP.parse().unwrap()).unwrap();
    assert_eq!(answers(&b, 1), [mac]);
    // And what comes in that way gets an answer.
    let listener = a.within(|| std::net::TcpListener::bind("10.0.0.100:7000").unwrap());
    let client = b.within(|| std::net::TcpStream::connect("10.0.0.100:7000").unwrap());
    assert_eq!(listener.accept().unwrap().1, client.local_addr().unwrap());
    assert!(b.sh("ip neigh show 10.0.0.100").contains("00:00:5e:00:01:33"));
}
