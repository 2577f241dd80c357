//! The ways to targets, by netlink: interfaces, the kernel's choice of a route, and neighbours with their Ethernet addresses. And which
//! connections the kernel has.
//!
//! Requests wait for their answer at most [`ANSWER_TIMEOUT`]. The sockets belong to the network namespace of the thread that
//! opens them.

mod monitor;
mod sockets;
mod wire;

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

pub(super) use monitor::{Change, Monitor};
pub(super) use sockets::Sockets;
pub(crate) use sockets::{States, connections_at};
use wire::Answer;

use super::ethtool;

/// The answer to a request.
type Answers = common::netlink::Answers<Answer>;

/// How long an answer of the kernel is awaited.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The largest datagram of the kernel: it fills what is offered to it, up to 32 KiB.
const DATAGRAM_MAX: usize = 64 * 1024;

/// Datagrams read for one request before it is given up. Neighbour tables of routers have tens of thousands of entries.
const DATAGRAMS_MAX: usize = 65_536;

/// Routes of either family of which the steps are listed, at most about so many: those beyond, as a router of the Internet has them, are not
/// read. The default route is among the first.
const ROUTES_MAX: usize = 4096;

/// Tries of a dump that changed while it was read, before it is handed out as it is.
const DUMP_TRIES: usize = 4;

/// Why a request has failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetlinkError {
    /// No socket.
    #[error("opening a netlink socket failed: {0}")]
    Open(#[source] io::Error),
    /// The kernel refused.
    #[error("{action} failed: {source}")]
    Refused {
        /// What was being done.
        action: String,
        /// What the kernel answered.
        source: io::Error,
    },
}

impl NetlinkError {
    /// Whether the kernel was waited for in vain.
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.kind() == io::ErrorKind::TimedOut)
    }
}

/// What the kernel has listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed<T> {
    pub(crate) list: Vec<T>,
    /// Nothing changed meanwhile; otherwise something may be missing.
    pub(crate) whole: bool,
}

/// The loopback interface, in every network namespace.
pub(crate) const LOOPBACK: u32 = 1;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// Its index.
    pub(crate) index: u32,
    /// Its name.
    pub(crate) name: String,
    /// Its Ethernet address; none if it has no such.
    pub(crate) mac: Option<[u8; 6]>,
    /// In bytes.
    pub(crate) mtu: u32,
    /// Whether it is administratively up.
    pub(crate) up: bool,
    /// The interface below it, of a VLAN or macvlan.
    pub(crate) below: Option<u32>,
    /// What kind of device it is: `veth`, `vlan`, `bridge`…; empty for hardware.
    pub(crate) kind: String,
    /// Whether there is no queue between it and its other end: a veth out of this network namespace.
    pub(crate) is_open: bool,
}

impl Link {
    /// Whether nothing is left to do between it and its other end: that takes checksums and segments as senders leave them to a device. (It takes
    /// no long segments if it has a program in its driver: `veth_fix_features`.)
    pub(crate) fn hands_over(&self) -> bool {
        let asks = [ethtool::completes_checksums, ethtool::cuts_segments];
        self.is_open && asks.into_iter().all(|ask| ask(&self.name) == Some(true))
    }

    /// Whether its frames begin as those of Ethernet do: of the loopback interface, which has no address, they do as well.
    pub(crate) fn is_ethernet(&self) -> bool {
        self.mac.is_some() || self.index == LOOPBACK
    }
}

/// The kernel's choice of a way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// The interface.
    pub(crate) index: u32,
    /// The next router; none on the same network.
    pub(crate) gateway: Option<IpAddr>,
    /// The source that the kernel would choose.
    pub(crate) source: Option<IpAddr>,
    /// The MTU of the route, if it has one of its own.
    pub(crate) mtu: Option<u32>,
    /// Whether it leads out of an interface, and not to this host itself or nowhere.
    pub(crate) unicast: bool,
    /// Whether it leads to this host itself.
    pub(crate) local: bool,
}

/// Where a route of this host's leads, over the interface with this index: one of several, where it has several ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// To a router.
    Router(u32, IpAddr),
    /// To the hosts of a network themselves.
    Network(u32, IpNet),
}

/// A neighbour on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Neighbour {
    /// The interface.
    pub(crate) index: u32,
    /// Its address.
    pub(crate) ip: IpAddr,
    /// Its Ethernet address, if known.
    pub(crate) mac: Option<[u8; 6]>,
    /// `NUD_*` bits.
    pub(crate) state: u16,
}

impl Neighbour {
    /// Whether its Ethernet address may be used.
    pub(crate) fn usable(&self) -> bool {
        const VALID: u16 = libc::NUD_REACHABLE
            | libc::NUD_STALE
            | libc::NUD_DELAY
            | libc::NUD_PROBE
            | libc::NUD_PERMANENT
            | libc::NUD_NOARP;
        self.mac.is_some() && self.state & VALID != 0
    }

    /// Whether it has been heard lately; none while it is being asked.
    pub(crate) fn present(&self) -> Option<bool> {
        if self.state & (libc::NUD_REACHABLE | libc::NUD_PERMANENT | libc::NUD_NOARP) != 0 {
            return Some(true);
        }
        (self.state & libc::NUD_FAILED != 0).then_some(false)
    }

    /// Whether the kernel has not heard of it for some time.
    pub(crate) fn stale(&self) -> bool {
        self.state
            & (libc::NUD_REACHABLE
                | libc::NUD_DELAY
                | libc::NUD_PROBE
                | libc::NUD_PERMANENT
                | libc::NUD_NOARP)
            == 0
    }
}

/// A socket for requests.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            let timeout = TimeVal::new(i64::try_from(ANSWER_TIMEOUT.as_secs()).unwrap_or(1), 0);
            setsockopt(&socket.as_fd(), sockopt::ReceiveTimeout, &timeout)?;
            setsockopt(&socket.as_fd(), sockopt::SendTimeout, &timeout)?;
            Ok(socket)
        };
        Ok(Self { socket: open().map_err(NetlinkError::Open)?, sequence: 0, buffer: vec![0; DATAGRAM_MAX] })
    }

    /// All interfaces.
    pub(super) fn links(&mut self) -> Result<Listed<Link>, NetlinkError> {
        self.dump(&wire::get_links(), "listing the interfaces", Answer::link)
    }

    /// All neighbours of both families.
    pub(super) fn neighbours(&mut self) -> Result<Listed<Neighbour>, NetlinkError> {
        self.dump(&wire::get_neighbours(), "listing the neighbours", Answer::neighbour)
    }

    /// The addresses of all interfaces, with the interface's index.
    pub(super) fn addresses(&mut self) -> Result<Listed<(IpAddr, u32)>, NetlinkError> {
        self.dump(&wire::get_addresses(), "listing the addresses", Answer::address)
    }

    /// Where this host's routes lead, those of the first [`ROUTES_MAX`] of either family.
    pub(super) fn steps() -> Result<Listed<Step>, NetlinkError> {
        let mut all = Listed { list: Vec::new(), whole: true };
        for ipv6 in [false, true] {
            // A socket for this alone: what is beyond the bound stays in it.
            let mut netlink = Self::open()?;
            let listed =
                netlink.exchange_some(&wire::get_routes(ipv6), NLM_F_DUMP, ROUTES_MAX, wire::parse_steps);
            let listed = listed.map_err(|source| NetlinkError::Refused {
                action: "listing the routes".to_owned(),
                source,
            })?;
            all.list.extend(listed.list.into_iter().flatten());
            all.whole &= !listed.interrupted;
        }
        Ok(all)
    }

    /// The way that the kernel would send a packet to `destination`, from one of this host's addresses if one is given; none if there
    /// is no route.
    pub(super) fn route(
        &mut self,
        destination: IpAddr,
        source: Option<IpAddr>,
    ) -> Result<Option<Route>, NetlinkError> {
        match self.exchange(&wire::get_route(destination, source), 0) {
            Ok(answers) => Ok(answers.list.into_iter().find_map(Answer::route)),
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL | libc::ENODEV)
                ) =>
            {
                Ok(None)
            }
            Err(source) => Err(NetlinkError::Refused {
                action: format!("looking up the route to {destination}"),
                source,
            }),
        }
    }

    /// The number of the program of a filter of clsact; none if there is no such filter.
    pub(super) fn filter(
        &mut self,
        index: u32,
        egress: bool,
        priority: u16,
        handle: u32,
    ) -> Result<Option<u32>, NetlinkError> {
        match self.exchange(&wire::get_filter(index, egress, priority, handle), 0) {
            Ok(answers) => Ok(answers.list.into_iter().find_map(Answer::filter)),
            // Without the filter, its priority, all of clsact, or the interface.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)) =>
            {
                Ok(None)
            }
            Err(source) => Err(NetlinkError::Refused {
                action: format!("looking for the filter of interface number {index}"),
                source,
            }),
        }
    }

    /// Has the kernel look for a neighbour, or look after one that it has not heard of for some time.
    pub(super) fn probe(&mut self, index: u32, ip: IpAddr) -> Result<(), NetlinkError> {
        self.look_for(&wire::use_neighbour(index, ip), ip)
    }

    /// Has the kernel ask a neighbour that it knows whether it is there, whenever it was last heard.
    pub(super) fn ask(&mut self, index: u32, ip: IpAddr) -> Result<(), NetlinkError> {
        self.look_for(&wire::ask_neighbour(index, ip), ip)
    }

    /// Makes a VXLAN device for tunnels that end where each packet says. It is down, and nothing comes out of it.
    pub(super) fn make_tunnel(&mut self, name: &str, port: u16) -> Result<(), NetlinkError> {
        let made = self.exchange(&wire::make_vxlan(name, port), NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK);
        made.map(drop).map_err(|source| NetlinkError::Refused {
            action: format!("making the VXLAN device {name} with UDP port {port}"),
            source,
        })
    }

    /// Sets an interface up or down.
    pub(super) fn set_up(&mut self, index: u32, up: bool) -> Result<(), NetlinkError> {
        let set = self.exchange(&wire::set_up(index, up), NLM_F_ACK);
        set.map(drop).map_err(|source| {
            let state = if up { "up" } else { "down" };
            NetlinkError::Refused { action: format!("setting interface number {index} {state}"), source }
        })
    }

    /// Removes an interface, if it is there.
    pub(super) fn remove_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        match self.exchange(&wire::delete_link(index), NLM_F_ACK) {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            Err(source) => {
                Err(NetlinkError::Refused { action: format!("removing interface number {index}"), source })
            }
        }
    }

    fn look_for(&mut self, request: &Message, ip: IpAddr) -> Result<(), NetlinkError> {
        match self.exchange(request, NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK) {
            Ok(_) => Ok(()),
            // The interface went away or down meanwhile: its own notification says so.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENETDOWN | libc::EINVAL)) =>
            {
                Ok(())
            }
            Err(source) => {
                Err(NetlinkError::Refused { action: format!("looking for neighbour {ip}"), source })
            }
        }
    }

    /// A dump, again if something changed meanwhile; of its messages those that `pick` wants.
    fn dump<T>(
        &mut self,
        request: &Message,
        action: &str,
        pick: impl Fn(Answer) -> Option<T>,
    ) -> Result<Listed<T>, NetlinkError> {
        let mut tries = 1;
        loop {
            let answers = self
                .exchange(request, NLM_F_DUMP)
                .map_err(|source| NetlinkError::Refused { action: action.to_owned(), source })?;
            if !answers.interrupted || tries == DUMP_TRIES {
                let list = answers.list.into_iter().filter_map(pick).collect();
                return Ok(Listed { list, whole: !answers.interrupted });
            }
            tries += 1;
        }
    }

    /// Sends one request and reads its answers to the end.
    fn exchange(&mut self, request: &Message, flags: u16) -> io::Result<Answers> {
        self.exchange_some(request, flags, usize::MAX, Answer::parse)
    }

    /// The same up to about so many messages of the answer, of which `parse` makes something. After one that has more, the socket is of no
    /// more use.
    fn exchange_some<T>(
        &mut self,
        request: &Message,
        flags: u16,
        most: usize,
        parse: impl Fn(u16, &[u8]) -> Option<T>,
    ) -> io::Result<common::netlink::Answers<T>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(request.clone());
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        let mut answers = common::netlink::Answers::default();
        // A request for one thing is answered by that thing alone.
        let single = flags & (NLM_F_DUMP | NLM_F_ACK) == 0;
        for _ in 0..DATAGRAMS_MAX {
            let mut space = self.buffer.as_mut_slice();
            let (length, sender) = self.socket.recv_from(&mut space, 0).map_err(no_answer)?;
            if sender.port_number() != 0 {
                continue;
            }
            let datagram = self.buffer.get(..length).unwrap_or_default();
            let ended = answers.take(datagram, self.sequence, &parse)?;
            if ended || answers.list.len() >= most || (single && !answers.list.is_empty()) {
                return Ok(answers);
            }
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "the answer has no end"))
    }
}

/// A receive timeout reads as "resource temporarily unavailable", which says nothing.
fn no_answer(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock {
        return io::Error::new(io::ErrorKind::TimedOut, "the kernel did not answer in time");
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_and_a_route_to_oneself_leads_nowhere_else() {
        let mut netlink = Netlink::open().unwrap();
        let links = netlink.links().unwrap();
        let loopback = links.list.iter().find(|link| link.name == "lo").expect("every network has it");
        assert!(loopback.index == 1 && loopback.mtu > 0, "{loopback:?}");
        let own = IpAddr::from([127, 0, 0, 1]);
        for source in [None, Some(own)] {
            let route = netlink.route(own, source).unwrap().expect("loopback has a route");
            assert!(!route.unicast && route.local, "{route:?}");
        }
        netlink.neighbours().unwrap();
        // Its frames are Ethernet's without addresses. What else has none, a tun device or WireGuard's, has packets and no frames.
        let other = Link { index: 2, ..loopback.clone() };
        assert!(loopback.mac.is_none() && loopback.is_ethernet() && !other.is_ethernet());
        assert!(Link { mac: Some([2, 0, 0, 0, 0, 1]), ..other }.is_ethernet());
    }

    #[test]
    fn routes_say_who_is_next() {
        // A network of this thread's own.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("this takes root");
        for line in [
            "link add v0 type veth peer name v1",
            "link set v0 up",
            "link set v1 up",
            "address add 192.0.2.1/24 dev v0",
            "address add 2001:db8::1/64 dev v0 nodad",
            "route add default via 192.0.2.254",
            "route add 198.51.100.0/24 via 192.0.2.253",
            "-6 route add default via 2001:db8::fe",
        ] {
            assert!(
                std::process::Command::new("ip").args(line.split(' ')).status().unwrap().success(),
                "{line}"
            );
        }
        let index = Netlink::open().unwrap().links().unwrap().list;
        let index = index.iter().find(|link| link.name == "v0").unwrap().index;
        // The kernel may still be busy with its own routes.
        let listed = (0..100).map(|_| Netlink::steps().unwrap()).find(|listed| listed.whole);
        let listed = listed.expect("some time nothing changes");
        let router = |text: &str| Step::Router(index, text.parse().unwrap());
        let network = |text: &str| Step::Network(index, text.parse().unwrap());
        for step in [
            router("192.0.2.254"),
            router("192.0.2.253"),
            router("2001:db8::fe"),
            network("192.0.2.0/24"),
            network("2001:db8::/64"),
        ] {
            assert!(listed.list.contains(&step), "{step:?} in {listed:?}");
        }
        // The host's own addresses, and those for all, are nobody's who is next.
        let own = network("192.0.2.1/32");
        assert!(
            !listed.list.contains(&own) && !listed.list.contains(&network("192.0.2.255/32")),
            "{listed:?}"
        );
    }

    #[test]
    fn a_tunnels_device_comes_and_goes() {
        // A network of this thread's own.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("this takes root");
        let mut netlink = Netlink::open().unwrap();
        netlink.make_tunnel("tunnel-of-tests", 7113).unwrap();
        assert!(netlink.make_tunnel("tunnel-of-tests", 7113).is_err(), "there is one");
        let find = |netlink: &mut Netlink| {
            let links = netlink.links().unwrap().list;
            links.into_iter().find(|link| link.name == "tunnel-of-tests")
        };
        let link = find(&mut netlink).expect("it was made");
        assert!(link.kind == "vxlan" && !link.up && link.mac.is_some(), "{link:?}");
        for up in [true, false] {
            netlink.set_up(link.index, up).unwrap();
            assert_eq!(find(&mut netlink).map(|link| link.up), Some(up));
        }
        netlink.remove_link(link.index).unwrap();
        netlink.remove_link(link.index).unwrap();
        assert_eq!(find(&mut netlink), None);
        assert!(netlink.set_up(link.index, true).is_err(), "there is none");
    }
}
