//! Nodes with one way to forward each, in both families.

use std::net::{IpAddr, SocketAddr};

use super::harness::CLIENTS;
use super::packet::{Packet, TCP, UDP};
use super::world::{Service, Way, World};

/// The port of the TCP service, and that of the UDP service.
pub const PORTS: (u16, u16) = (80, 53);

/// The two programs' addresses on the way.
pub const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A node that forwards in one way.
#[derive(Clone, Debug)]
pub struct Path {
    /// What to call it.
    pub name: String,
    /// The node. Service 1 is TCP and has the targets 1 and 2; service 2 is UDP and has 3 and 4.
    pub world: World,
    /// The VIP.
    pub vip: IpAddr,
    /// Where clients are.
    pub client: IpAddr,
    /// Clients' answers pass here too.
    pub nat: bool,
    /// With the client's address.
    pub preserve: bool,
    /// It is a tunnel.
    pub tunnel: bool,
}

impl Path {
    /// A client's address with this port.
    #[must_use]
    pub const fn client(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.client, port)
    }

    /// The TCP service.
    #[must_use]
    pub const fn web(&self) -> SocketAddr {
        SocketAddr::new(self.vip, PORTS.0)
    }

    /// The UDP service.
    #[must_use]
    pub const fn dns(&self) -> SocketAddr {
        SocketAddr::new(self.vip, PORTS.1)
    }

    /// A client's segment.
    #[must_use]
    pub fn tcp(&self, port: u16, flags: u8) -> Packet {
        from_client(Packet::tcp(self.client(port), self.web(), flags))
    }

    /// A client's datagram.
    #[must_use]
    pub fn udp(&self, port: u16) -> Packet {
        from_client(Packet::udp(self.client(port), self.dns()))
    }
}

/// With the MAC addresses that packets of clients have here.
#[must_use]
pub fn from_client(packet: Packet) -> Packet {
    Packet { macs: (OWN, CLIENTS), ..packet }
}

/// With the MAC addresses that packets of a target have here.
#[must_use]
pub fn from_target(packet: Packet) -> Packet {
    Packet { macs: (OWN, [2, 0, 0, 0, 1, 1]), ..packet }
}

/// The answer to what came out towards a target: flags, if it is TCP.
///
/// # Panics
/// If no TCP or UDP packet came out.
#[must_use]
pub fn answer(sent: &[u8], flags: u8) -> Packet {
    let view = super::parse::View::of(sent).expect("a packet came out");
    let (source, destination) = view.ports(sent).expect("with ports");
    let packet = if view.protocol == TCP {
        Packet::tcp(destination, source, flags)
    } else {
        Packet { payload: b"an answer".to_vec(), ..Packet::udp(destination, source) }
    };
    from_target(packet)
}

/// All paths: nat, nat with the client's address, dsr by MAC address and by each tunnel in IPv4 and IPv6; for clients with
/// IPv4 and with IPv6.
#[must_use]
pub fn paths() -> Vec<Path> {
    let mut paths = Vec::new();
    for ipv4 in [true, false] {
        paths.push(path(ipv4, "nat", Way::Plain, true));
        paths.push(path(ipv4, "preserve", Way::Plain, true));
        paths.push(path(ipv4, "l2", Way::Plain, true));
        for outer4 in [true, false] {
            paths.push(path(ipv4, "ipip", Way::Ipip, outer4));
            paths.push(path(ipv4, "gre", Way::Gre, outer4));
            paths.push(path(ipv4, "gue", Way::Gue, outer4));
        }
    }
    paths
}

/// The paths whose answers pass here.
#[must_use]
pub fn nats() -> Vec<Path> {
    paths().into_iter().filter(|path| path.nat).collect()
}

/// One path: `kind` is `nat`, `preserve`, or of dsr.
///
/// What SYNs may offer is as `lbd` has it: with nat what fits on the ways to all targets, of which some may take less than the one here;
/// nothing with dsr, or of datagrams. The program goes by what it is told whichever way there is, so half of the tunnels have it bring that
/// down, too.
#[must_use]
pub fn path(ipv4: bool, kind: &str, way: Way, outer4: bool) -> Path {
    let (nat, preserve, tunnel) = (matches!(kind, "nat" | "preserve"), kind == "preserve", way != Way::Plain);
    let (vip, client) = if ipv4 { ("192.0.2.10", "203.0.113.5") } else { ("2001:db8::10", "2001:db8:c::5") };
    let far4 = if tunnel { outer4 } else { ipv4 };
    let mut world = World::new();
    for (protocol, port) in [(TCP, 8080), (UDP, 5300)] {
        for host in [1, 2] {
            let port = if nat { port } else { 0 };
            let address =
                if far4 { format!("10.0.1.{host}:{port}") } else { format!("[2001:db8:1::{host}]:{port}") };
            let index = world.target(&address, protocol);
            let target = world.change(index);
            target.way = way;
            let near = if far4 { "10.0.1.254" } else { "2001:db8:1::fe" };
            target.outer_source = near.parse().unwrap_or(target.outer_source);
        }
    }
    let mss_max = match kind {
        // What fits into 1,500 bytes.
        "preserve" if ipv4 => 1460,
        "preserve" => 1440,
        "nat" => 1400,
        _ if tunnel && !outer4 => 1400,
        _ => 0,
    };
    for (protocol, port, members, mss_max) in
        [(TCP, PORTS.0, vec![(1, 1), (2, 1)], mss_max), (UDP, PORTS.1, vec![(3, 1), (4, 1)], 0)]
    {
        let service = Service { nat, preserve, mss_max, members, ..Service::default() };
        world.service(vip, (port, port), protocol, service);
    }
    let parsed = |text: &str| -> IpAddr { text.parse().unwrap_or_else(|_| panic!("{text} is an address")) };
    let name = format!(
        "{kind} of IPv{}{}",
        if ipv4 { 4 } else { 6 },
        if tunnel { if outer4 { " in IPv4" } else { " in IPv6" } } else { "" }
    );
    Path { name, world, vip: parsed(vip), client: parsed(client), nat, preserve, tunnel }
}
