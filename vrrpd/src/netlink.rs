//! Links, addresses and routes by netlink: requests with a bounded wait, and a watch on what others change.
//!
//! How a virtual IP is put on an interface, and why:
//! - The address is added with a **host prefix** (/32, /128), whatever prefix length is configured. With the configured
//!   prefix an IPv4 address is tied to the others of its subnet: it becomes the primary address when the node's own comes
//!   later, and goes away together with the primary one. A host prefix has none of that, brings no route of its own, and
//!   the kernel does not choose it as the source of the node's own traffic while the node has an address in the
//!   gateway's subnet. An IPv6 one is added as deprecated (preferred lifetime 0) for the same reason, without duplicate
//!   address detection (it would be unusable for a second), and without a prefix route.
//! - What the configured prefix says, that the subnet is on the link, is a route of its own
//!   ([`Netlink::add_subnet_route`]), with a metric behind every ordinary one. It stays when the address leaves: connections
//!   that are still served here find their way back to clients on the link.
//! - Both nodes hold a **local route** to it all the time ([`Netlink::add_local_route`]), added before the address ever is:
//!   then it stays when the address is removed. Listeners keep their address and established connections go on.
//!
//! Addresses and routes carry the origin [`ORIGIN`], so that a later life of the daemon recognises them.
//!
//! Each request waits for its answer at most [`ANSWER_TIMEOUT`]. The kernel handles a request within the `send` itself, and
//! waits there for other changes of the network configuration (the RTNL lock); that wait has no bound of its own.

mod monitor;
mod wire;

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd;
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage,
};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

pub use monitor::{Change, Monitor};
use wire::Answer;

/// The answer to a request.
type Answers = common::netlink::Answers<Answer>;

/// Who put an address (`IFA_PROTO`) or a route (`RTA_PROTOCOL`) there: VRRP's IP protocol number, unused as either.
pub const ORIGIN: u8 = 112;

/// How long an answer of the kernel is awaited.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The metric of [`Netlink::add_subnet_route`]: behind the kernel's own routes (0, 256) and those of network managers.
const SUBNET_ROUTE_METRIC: u32 = 0x7fff_0000;

/// The loopback interface has this index in every network namespace.
const LOOPBACK_INDEX: u32 = 1;

/// Datagrams read for one request before it is given up; a dump of 16,384 addresses takes fewer.
const DATAGRAMS_MAX: usize = 4096;

/// Changes in one system call: their acknowledgements, about 1 KiB each as the kernel counts, fit the receive queue.
const BATCH_MAX: usize = 64;

/// Tries of a dump that changed while it was read.
const DUMP_TRIES: usize = 4;

/// The largest datagram of the kernel: it fills what is offered to it, up to 32 KiB.
pub(crate) const DATAGRAM_MAX: usize = 64 * 1024;

/// Why a request has failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("opening a netlink socket failed: {0}")]
    Open(#[source] io::Error),
    /// The kernel refused.
    #[error("{action} failed: {source}{}", hint(.source))]
    Refused {
        /// What was being done.
        action: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// There is no such interface.
    #[error("{action} failed: there is no such interface")]
    NoLink {
        /// What was being done.
        action: String,
    },
}

impl NetlinkError {
    /// The kernel's error number, if it answered with one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Open(source) | Self::Refused { source, .. } => source.raw_os_error(),
            Self::NoLink { .. } => Some(libc::ENODEV),
        }
    }
}

/// What to do about the errors that people run into.
fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM) => "; run as root or with CAP_NET_ADMIN",
        Some(libc::ENETDOWN) => "; bring the interface up (for local routes that is lo: `ip link set lo up`)",
        Some(libc::EACCES) => "; IPv6 is switched off there (sysctl net.ipv6.conf.*.disable_ipv6)",
        _ => "",
    }
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address; zeros if it has none.
    pub mac: [u8; 6],
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it can carry packets: operational, and with a carrier.
    pub running: bool,
}

/// An address on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub index: u32,
    /// The address.
    pub ip: IpAddr,
    /// Its prefix length.
    pub prefix: u8,
    /// IPv4: a further address of another's subnet, removed together with it.
    pub secondary: bool,
    /// IPv6: not yet usable, duplicate address detection is under way.
    pub tentative: bool,
    /// IPv6: unusable, another node has it.
    pub duplicate: bool,
    /// IPv6: not chosen as a source.
    pub deprecated: bool,
    /// Who put it there, if known; [`ORIGIN`] for ours.
    pub proto: Option<u8>,
    /// 0 global, 253 link, 254 host.
    pub scope: u8,
}

impl Address {
    /// Whether it was added by [`Netlink::add_address`], in this or an earlier life of the daemon.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.proto == Some(ORIGIN)
    }
}

/// A socket for requests.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            // The kernel then filters dumps by what the request's header says.
            socket.set_netlink_get_strict_chk(true)?;
            let timeout = TimeVal::new(i64::try_from(ANSWER_TIMEOUT.as_secs()).unwrap_or(1), 0);
            setsockopt(&socket.as_fd(), sockopt::ReceiveTimeout, &timeout)?;
            setsockopt(&socket.as_fd(), sockopt::SendTimeout, &timeout)?;
            Ok(socket)
        };
        let socket = open().map_err(NetlinkError::Open)?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; DATAGRAM_MAX] })
    }

    /// All interfaces.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let answers = self.dump(&wire::get_links(), || "listing the interfaces".to_owned())?;
        Ok(answers.into_iter().filter_map(Answer::link).collect())
    }

    /// The interface with this name, if there is one.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        self.one_link(&wire::get_link_by_name(name), || format!("looking up interface {name}"))
    }

    /// The interface with this index, if there is one: one cheap request, which tells the carrier as it is. (The
    /// notification of a lost carrier may come up to a second late, when the host's carriers change often.)
    pub fn link_at(&mut self, index: u32) -> Result<Option<Link>, NetlinkError> {
        self.one_link(&wire::get_link_at(index), || format!("looking up interface number {index}"))
    }

    /// Both families' addresses of an interface, IPv4 first.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<Address>, NetlinkError> {
        self.dump_addresses(index)
    }

    /// The addresses that this or an earlier life of the daemon added, on any interface.
    pub fn our_addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let mut addresses = self.dump_addresses(0)?;
        addresses.retain(Address::is_ours);
        Ok(addresses)
    }

    /// Puts a virtual IP on an interface. One that is there already is fine.
    pub fn add_address(&mut self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let ip = address.addr();
        let answer = self.change(wire::add_address(index, ip), NLM_F_CREATE | NLM_F_EXCL);
        settle(answer, &[libc::EEXIST], || format!("adding address {ip} to interface number {index}"))
    }

    /// Takes an address off an interface, whether it has a host prefix or the given one. One that is not there, or
    /// whose interface is gone, is fine.
    pub fn remove_address(&mut self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let host = IpNet::from(address.addr());
        let configured = (host.prefix_len() != address.prefix_len()).then_some(address);
        for form in [Some(host), configured].into_iter().flatten() {
            let answer = self.change(wire::remove_address(index, form), 0);
            settle(answer, &[libc::EADDRNOTAVAIL, libc::ENODEV], || {
                format!("removing address {form} from interface number {index}")
            })?;
        }
        Ok(())
    }

    /// Removes many addresses, in as few system calls as possible; all of them even if one fails, and the first error
    /// counts. Otherwise like [`Self::remove_address`].
    pub fn remove_addresses(
        &mut self,
        addresses: impl Iterator<Item = (u32, IpNet)> + Clone,
    ) -> Result<(), NetlinkError> {
        let host = addresses.clone().map(|(index, address)| (index, IpNet::from(address.addr())));
        let configured = addresses.filter(|(_, address)| address.prefix_len() != address.max_prefix_len());
        let requests: Vec<_> =
            host.chain(configured).map(|(index, form)| wire::remove_address(index, form)).collect();
        let mut result = Ok(());
        for batch in requests.chunks(BATCH_MAX) {
            for answer in self.change_all(batch) {
                let fine = [libc::EADDRNOTAVAIL, libc::ENODEV];
                result = result.and(settle(answer, &fine, || "removing addresses".to_owned()));
            }
        }
        result
    }

    /// Adds `local IP dev lo`, so that packets to the address are this host's whether an interface has it or not.
    pub fn add_local_route(&mut self, ip: IpAddr) -> Result<(), NetlinkError> {
        // Not exclusive: a route to the same address by someone else (the kernel's own, from an address that is there
        // already) must not keep ours out. IPv4 appends; an IPv6 append would make one multipath route of the two.
        let flags = if ip.is_ipv4() { NLM_F_CREATE | NLM_F_APPEND } else { NLM_F_CREATE };
        let answer = self.change(Message::NewRoute(wire::local_route(ip, LOOPBACK_INDEX)), flags);
        settle(answer, &[libc::EEXIST], || format!("adding a local route to {ip}"))
    }

    /// Removes what [`Self::add_local_route`] added.
    pub fn remove_local_route(&mut self, ip: IpAddr) -> Result<(), NetlinkError> {
        let answer = self.change(Message::DelRoute(wire::local_route(ip, LOOPBACK_INDEX)), 0);
        settle(answer, &[libc::ESRCH, libc::ENODEV], || format!("removing the local route to {ip}"))
    }

    /// The addresses of the local routes that this or an earlier life of the daemon added.
    pub fn our_local_routes(&mut self) -> Result<Vec<IpAddr>, NetlinkError> {
        let routes = self.dump_routes(wire::TABLE_LOCAL)?;
        Ok(routes.into_iter().map(|route| route.destination.addr()).collect())
    }

    /// Says that the subnet of a virtual IP is on the link. Of no effect beside a route that the interface has from an
    /// address of its own, nor with a host prefix. The kernel drops the route when the interface goes down: add it again
    /// when it comes up. One that is there already is fine.
    pub fn add_subnet_route(&mut self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let subnet = address.trunc();
        if subnet.prefix_len() == subnet.max_prefix_len() || is_link_local(subnet.addr()) {
            return Ok(());
        }
        let route = wire::subnet_route(index, subnet, SUBNET_ROUTE_METRIC);
        let answer = self.change(Message::NewRoute(route), NLM_F_CREATE | NLM_F_EXCL);
        settle(answer, &[libc::EEXIST], || format!("adding a route to {subnet} on interface number {index}"))
    }

    /// Removes what [`Self::add_subnet_route`] added.
    pub fn remove_subnet_route(&mut self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let subnet = address.trunc();
        let route = wire::subnet_route(index, subnet, SUBNET_ROUTE_METRIC);
        let answer = self.change(Message::DelRoute(route), 0);
        settle(answer, &[libc::ESRCH, libc::ENODEV], || {
            format!("removing the route to {subnet} on interface number {index}")
        })
    }

    /// The subnet routes that this or an earlier life of the daemon added: interface and subnet.
    pub fn our_subnet_routes(&mut self) -> Result<Vec<(u32, IpNet)>, NetlinkError> {
        let routes = self.dump_routes(wire::TABLE_MAIN)?;
        Ok(routes.into_iter().map(|route| (route.index, route.destination)).collect())
    }

    /// Makes a macvlan above an interface, down, with the given Ethernet address and no IPv6 address of its own.
    ///
    /// In bridge mode: in private mode the kernel keeps the advertisements of the other node, which come from the same
    /// Ethernet address as this macvlan has, away from the interface below. It stays down while the node is backup: then
    /// frames to the virtual router's address are not accepted, as RFC 9568 §6.4.2 demands.
    ///
    /// One of this name and Ethernet address that is there already is fine.
    pub fn add_macvlan(&mut self, parent: u32, name: &str, mac: [u8; 6]) -> Result<Link, NetlinkError> {
        let action = || format!("adding macvlan {name}");
        let answer = self.change(wire::add_macvlan(parent, name, mac), NLM_F_CREATE | NLM_F_EXCL);
        settle(answer, &[libc::EEXIST], action)?;
        let link = self.link(name)?.ok_or_else(|| NetlinkError::NoLink { action: action() })?;
        if link.mac != mac {
            let source = io::Error::from_raw_os_error(libc::EEXIST);
            return Err(NetlinkError::Refused { action: action(), source });
        }
        // Refused where IPv6 is switched off: nothing to keep away then.
        let answer = self.change(wire::no_own_ipv6_address(link.index), 0);
        settle(answer, &[libc::EAFNOSUPPORT], action)?;
        Ok(link)
    }

    /// Brings an interface up or down.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<(), NetlinkError> {
        let answer = self.change(wire::set_up(index, up), 0);
        settle(answer, &[], || {
            format!("bringing interface number {index} {}", if up { "up" } else { "down" })
        })
    }

    /// Removes an interface made by [`Self::add_macvlan`]. One that is gone is fine.
    pub fn remove_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        let answer = self.change(wire::remove_link(index), 0);
        settle(answer, &[libc::ENODEV], || format!("removing interface number {index}"))
    }

    fn one_link(
        &mut self,
        request: &Message,
        action: impl Fn() -> String,
    ) -> Result<Option<Link>, NetlinkError> {
        match self.exchange(request, NLM_F_ACK) {
            Ok(answers) => Ok(answers.list.into_iter().find_map(Answer::link)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(source) => Err(NetlinkError::Refused { action: action(), source }),
        }
    }

    fn dump_addresses(&mut self, index: u32) -> Result<Vec<Address>, NetlinkError> {
        let action = || "listing the addresses".to_owned();
        let mut addresses = Vec::new();
        for ipv6 in [false, true] {
            let answers = self.dump(&wire::get_addresses(index, ipv6), action)?;
            // Without IPv6 in the kernel the second dump is the first again.
            addresses
                .extend(answers.into_iter().filter_map(Answer::address).filter(|a| a.ip.is_ipv6() == ipv6));
        }
        Ok(addresses)
    }

    fn dump_routes(&mut self, table: u8) -> Result<Vec<wire::Route>, NetlinkError> {
        let action = || "listing the routes".to_owned();
        let mut routes = Vec::new();
        for ipv6 in [false, true] {
            let answers = match self.dump(&wire::get_routes(table, ipv6), action) {
                // A table without a route does not exist.
                Err(error) if error.errno() == Some(libc::ENOENT) => continue,
                other => other?,
            };
            let ours = |route: &wire::Route| {
                route.proto == ORIGIN && route.table == table && route.destination.addr().is_ipv6() == ipv6
            };
            routes.extend(answers.into_iter().filter_map(Answer::route).filter(ours));
        }
        Ok(routes)
    }

    /// A dump, again if something changed meanwhile.
    fn dump(&mut self, request: &Message, action: impl Fn() -> String) -> Result<Vec<Answer>, NetlinkError> {
        let mut tries = 1;
        loop {
            let answers = self
                .exchange(request, NLM_F_DUMP)
                .map_err(|source| NetlinkError::Refused { action: action(), source })?;
            if !answers.interrupted || tries == DUMP_TRIES {
                return Ok(answers.list);
            }
            tries += 1;
        }
    }

    fn change(&mut self, request: Message, flags: u16) -> io::Result<()> {
        self.exchange(&request, flags | NLM_F_ACK).map(|_| ())
    }

    /// Sends several changes at once, at most [`BATCH_MAX`], and gives the result of each.
    fn change_all(&mut self, requests: &[Message]) -> Vec<io::Result<()>> {
        let mut bytes = Vec::new();
        let first = self.sequence.wrapping_add(1);
        for request in requests {
            bytes.extend(self.encode(request, NLM_F_ACK));
            // The kernel wants each message to begin at a multiple of 4.
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        if let Err(error) = self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0) {
            return vec![Err(error)];
        }
        // The answers come in the requests' order; each is an acknowledgement in a datagram of its own.
        (0..).take(requests.len()).map(|at| self.answers(first.wrapping_add(at)).map(|_| ())).collect()
    }

    /// A request as bytes, with the next sequence number.
    fn encode(&mut self, request: &Message, flags: u16) -> Vec<u8> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(request.clone());
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    /// Sends one request and reads its answers to the end.
    fn exchange(&mut self, request: &Message, flags: u16) -> io::Result<Answers> {
        let bytes = self.encode(request, flags);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        self.answers(self.sequence)
    }

    /// Reads the answers to the request with this sequence number to the end.
    fn answers(&mut self, sequence: u32) -> io::Result<Answers> {
        let mut answers = Answers::default();
        for _ in 0..DATAGRAMS_MAX {
            let mut space = self.buffer.as_mut_slice();
            let (length, sender) = self.socket.recv_from(&mut space, 0).map_err(no_answer)?;
            let datagram = self.buffer.get(..length).unwrap_or_default();
            if sender.port_number() == 0 && answers.take(datagram, sequence, Answer::parse)? {
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

/// The result of a change for which some error numbers mean that it is as it should be.
fn settle(answer: io::Result<()>, fine: &[i32], action: impl Fn() -> String) -> Result<(), NetlinkError> {
    match answer {
        Err(error) if error.raw_os_error().is_some_and(|number| fine.contains(&number)) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
            Err(NetlinkError::NoLink { action: action() })
        }
        Err(source) => Err(NetlinkError::Refused { action: action(), source }),
        Ok(()) => Ok(()),
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if Ipv6Addr::is_unicast_link_local(&ip))
}
