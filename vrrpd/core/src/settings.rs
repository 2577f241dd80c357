//! What one node needs of the pair's configuration, resolved for this node and split by address family.

use std::net::{IpAddr, Ipv6Addr};

use common::config::{
    Announce, Auth, ChecksumReading, Config, Priority, Track, Transport, Vrrp, VrrpVersion,
};
use common::key::PairKey;
use common::time::Duration;
use ipnet::{IpNet, Ipv6Net};

use crate::neighbor;
use crate::packet::Family;
use crate::peer::RouterKey;

/// The most virtual routers a node runs: 32 instances, two families each.
pub const ROUTERS_MAX: usize = 64;

/// One node's settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node's name.
    pub node: String,
    /// The other node's name.
    pub peer: String,
    /// Whether the peer link is used: both nodes have a `peer_address`, and there is a key.
    pub peer_link: Option<PeerLink>,
    /// The pair's key.
    pub key: Option<PairKey>,
    /// The hash of the configuration file.
    pub config_hash: u64,
    /// This release's name, as told to the peer.
    pub version: String,
    /// Whether there is an `lbd` to which the other node's tells its connections: there are services, a peer link, and advertisements that are
    /// signed, which only another Tandem does (unsigned ones may be accepted, too, while a key is rolled out). Until it has said whether it
    /// lacks some, this node counts as one that does.
    pub replicates: bool,
    /// The instances in the file's order.
    pub instances: Vec<InstanceSettings>,
}

/// The ends of the peer link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerLink {
    /// This node's address there.
    pub local: IpAddr,
    /// The other node's.
    pub remote: IpAddr,
}

/// One `[[vrrp]]` entry for this node.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceSettings {
    /// Its name.
    pub name: String,
    /// The interface on this node.
    pub interface: String,
    /// The configured priority of this node.
    pub priority: u8,
    /// The virtual addresses as configured.
    pub vips: Vec<IpNet>,
    /// What lowers the effective priority.
    pub track: Track,
    /// One or two virtual routers; one (IPv4) if there are no VIPs at all.
    pub routers: Vec<RouterSettings>,
}

/// One virtual router of an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterSettings {
    /// The instance's name.
    pub instance: String,
    /// The address family.
    pub family: Family,
    /// The interface on this node.
    pub interface: String,
    /// The virtual router's number.
    pub vrid: u8,
    /// The configured priority of this node.
    pub priority: u8,
    /// The lower of both nodes' configured priorities.
    pub lowest_priority: u8,
    /// The virtual addresses; with IPv6 a link-local one comes first.
    pub addresses: Vec<IpNet>,
    /// Advertisement_Interval.
    pub interval: Duration,
    /// Preempt_Mode.
    pub preempt: bool,
    /// How long after start or recovery this node waits before it preempts.
    pub preempt_delay: Duration,
    /// Where advertisements go.
    pub destination: Destination,
    /// Whether they are signed.
    pub auth: Auth,
    /// The protocol version.
    pub version: VrrpVersion,
    /// The checksum sent.
    pub checksum: ChecksumReading,
    /// Whether the virtual router's MAC address is used.
    pub virtual_mac: bool,
    /// How often becoming active is announced.
    pub announce: Announce,
}

/// Where advertisements go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To the family's VRRP group.
    Multicast,
    /// To the other node.
    Unicast(IpAddr),
}

impl Settings {
    /// The settings of `node`, which must be one of the file's; `None` if it is not or if it is alone.
    #[must_use]
    pub fn new(config: &Config, node: &str, key: Option<PairKey>, version: &str) -> Option<Self> {
        let own = config.node(node)?;
        let peer = config.peer_of(node)?;
        let peer_link = match (own.peer_address, peer.peer_address, &key) {
            (Some(local), Some(remote), Some(_)) => Some(PeerLink { local, remote }),
            _ => None,
        };
        // As `lbd` decides whether it says anything of it. Who accepts unsigned advertisements, too, signs its own; "none" is for other software.
        let signs = config.vrrp.iter().any(|vrrp| vrrp.auth != Auth::None);
        let replicates = peer_link.is_some() && signs && !config.services.is_empty();
        let instances = config
            .vrrp
            .iter()
            .map(|vrrp| InstanceSettings::new(vrrp, node, &peer.name, peer.peer_address))
            .collect::<Option<Vec<_>>>()?;
        Some(Self {
            node: node.to_owned(),
            peer: peer.name.clone(),
            peer_link,
            key,
            config_hash: config.hash,
            version: version.chars().take(32).collect(),
            replicates,
            instances,
        })
    }

    /// All virtual routers, in order.
    pub fn routers(&self) -> impl Iterator<Item = &RouterSettings> {
        self.instances.iter().flat_map(|instance| &instance.routers)
    }
}

impl InstanceSettings {
    fn new(vrrp: &Vrrp, node: &str, peer: &str, peer_address: Option<IpAddr>) -> Option<Self> {
        let interface = vrrp.interface.get(node)?.clone();
        let own_priority = vrrp.priority.get(node)?.get();
        let lowest_priority = vrrp.priority.values().copied().map(Priority::get).min()?;
        let router = |family: Family, addresses: Vec<IpNet>| RouterSettings {
            instance: vrrp.name.clone(),
            family,
            interface: interface.clone(),
            vrid: vrrp.vrid.get(),
            priority: own_priority,
            lowest_priority,
            addresses,
            interval: vrrp.advert_interval,
            preempt: vrrp.preempt,
            preempt_delay: vrrp.preempt_delay,
            destination: destination(vrrp, peer, peer_address, family),
            auth: vrrp.auth,
            version: vrrp.version,
            checksum: vrrp.checksum,
            virtual_mac: vrrp.virtual_mac,
            announce: vrrp.announce,
        };
        let v4: Vec<IpNet> = vrrp.vips.iter().filter(|vip| vip.addr().is_ipv4()).copied().collect();
        let v6: Vec<IpNet> = vrrp.vips.iter().filter(|vip| vip.addr().is_ipv6()).copied().collect();
        let mut routers = Vec::new();
        if !v4.is_empty() || v6.is_empty() {
            routers.push(router(Family::V4, v4));
        }
        if !v6.is_empty() {
            routers.push(router(Family::V6, link_local_first(v6, vrrp.vrid.get())));
        }
        Some(Self {
            name: vrrp.name.clone(),
            interface: interface.clone(),
            priority: own_priority,
            vips: vrrp.vips.clone(),
            track: vrrp.track.clone(),
            routers,
        })
    }
}

impl RouterSettings {
    /// How both nodes name this virtual router on the peer link.
    #[must_use]
    pub fn key(&self) -> RouterKey {
        RouterKey::new(&self.instance, self.family)
    }

    /// Whether this node owns the addresses (RFC 9568 §1.7).
    #[must_use]
    pub const fn is_owner(&self) -> bool {
        self.priority == Priority::OWNER.get()
    }

    /// The addresses an advertisement lists.
    #[must_use]
    pub fn advertised(&self) -> Vec<IpAddr> {
        self.addresses.iter().map(IpNet::addr).collect()
    }

    /// Whether `other` is the same virtual router on the same interface, so that a changed configuration can be applied
    /// in place.
    #[must_use]
    pub fn same_router(&self, other: &Self) -> bool {
        self.instance == other.instance
            && self.family == other.family
            && self.interface == other.interface
            && self.vrid == other.vrid
            && self.virtual_mac == other.virtual_mac
            && self.version == other.version
    }
}

/// RFC 9568 §5.2.9: "For IPv6, the first address MUST be the IPv6 link-local address associated with the Virtual Router."
/// Without one in the configuration it is derived from the virtual router's MAC address.
fn link_local_first(mut addresses: Vec<IpNet>, vrid: u8) -> Vec<IpNet> {
    let is_link_local = |net: &IpNet| matches!(net.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    match addresses.iter().position(is_link_local) {
        Some(at) => addresses[..=at].rotate_right(1),
        None => addresses.insert(0, link_local_net(neighbor::virtual_link_local(vrid))),
    }
    addresses
}

fn link_local_net(ip: Ipv6Addr) -> IpNet {
    // 64 is a valid IPv6 prefix length; a /128 would do as well.
    IpNet::V6(Ipv6Net::new(ip, 64).unwrap_or_else(|_| ip.into()))
}

fn destination(vrrp: &Vrrp, peer: &str, peer_address: Option<IpAddr>, family: Family) -> Destination {
    let listed = vrrp.addresses.get(peer).into_iter().flatten().copied();
    let unicast = listed.chain(peer_address).find(|&address| Family::of(address) == family);
    match (vrrp.transport, unicast) {
        (Transport::Unicast, Some(address)) => Destination::Unicast(address),
        // `check` refuses unicast without an address of the family.
        _ => Destination::Multicast,
    }
}
