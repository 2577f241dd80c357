//! What the program's maps are to hold: made anew, as a whole, from configuration, target groups and the ways to the targets.
//!
//! A service of the file becomes a service of the program for each protocol, address family and instance that it listens on: a
//! ring holds targets of one protocol, and with `nat` of one family, and each VIP has its own owner. Numbers come from
//! [`Indexes`], which remembers them by name. [`changes`] leads from one plan to the next without a step at which something
//! refers to what is not there, and [`Transition`] does so where a step may fail.

mod build;
mod changes;
mod checks;
mod former;
mod indexes;
mod keys;
mod origin;
mod others;
mod ring;
mod targets;
#[cfg(test)]
mod tests;
mod transition;
mod twins;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use common::config::Config as File;
use common::hash::HashKey;

pub use build::contents;
pub use changes::{Change, changes};
pub use checks::{Check, Through};
pub use former::Former;
pub use indexes::{Gone, Indexes, LINGER};
pub use origin::{Origin, origins, source_of};
pub use others::{Heard, OTHERS_FOR, OtherRing, OtherUntil, Owners, until};
pub use ring::Make;
pub use transition::Transition;
pub use usage::Known;

use crate::target::TargetKey;

use super::abi::{
    Acl, AclKey, Address, Config, Endpoint, EndpointKey, KernelClock, Listener, Listening, Service,
    ServicePorts, Target, Vip, VipAddress,
};

/// What a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The configuration.
    pub file: &'a File,
    /// Which half of the ports is this node's: 0 or 1.
    pub node: u8,
    /// The pair's key.
    pub key: HashKey,
    /// The kernel's clock.
    pub clock: KernelClock,
    /// The groups that services have turned away from.
    pub former: &'a Former,
    /// The targets of each group that a service of the kernel forwards to or has turned away from, removed ones included while their flows go on.
    pub groups: &'a BTreeMap<String, Vec<TargetInput>>,
    /// The ways to targets, as far as they are known, for the sources of [`origins`].
    pub hops: &'a Hops,
    /// The largest packet on the way through a tunnel, by its far end, where a router has said that it is less than the first link takes.
    pub paths: &'a BTreeMap<IpAddr, u32>,
    /// This host's addresses, with the interface, on those that the program is on.
    pub own: &'a BTreeSet<(u32, IpAddr)>,
    /// The virtual IPs that are not on this host, neither as addresses nor as local routes.
    pub absent: &'a BTreeSet<IpAddr>,
    /// The other node in the network of each VRRP instance, where it is known.
    pub others: &'a BTreeMap<String, OtherNode>,
    /// What the other node's rings are made of, by name.
    pub other_rings: &'a BTreeMap<String, OtherRing>,
    /// Until when flows of an instance that are not known here may be the other node's; of addresses without an instance under no name.
    pub other_until: &'a BTreeMap<String, OtherUntil>,
}

/// Where the other node is in a network of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherNode {
    /// The interface there.
    pub ifindex: u32,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// This node's.
    pub own_mac: [u8; 6],
}

/// A target of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetInput {
    /// Its name. Of several in a group that have the same one it is the first one's: the others, at other addresses, had it before, and get no new flows.
    pub id: String,
    /// Where it listens; port 0 for the one that the client asked for.
    pub address: SocketAddr,
    /// What it is used for.
    pub used: Use,
}

/// What a target is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// New flows, by this share: its weight times 256, less during a slow start; as the group says.
    Up(u32),
    /// The flows it has.
    Draining,
    /// Nothing, because it is not well: its flows move or are reset.
    Unhealthy,
    /// Nothing: the time for its flows to end is over.
    Gone,
}

/// Ways by the target's address, and that of this host that packets come from where it counts.
pub type Hops = BTreeMap<(IpAddr, Option<IpAddr>), Hop>;

/// The way to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The interface.
    pub ifindex: u32,
    /// The interface's MAC address.
    pub source_mac: [u8; 6],
    /// That of the target, or of the gateway.
    pub destination_mac: [u8; 6],
    /// The largest IP packet on the way.
    pub mtu: u32,
    /// This node's address towards it: the near end of a tunnel.
    pub source: Option<IpAddr>,
    /// Whether the target itself is on the link.
    pub direct: bool,
}

/// What the maps are to hold. Keys that are missing are empty elements of arrays, or are not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// `config[0]`.
    pub config: Config,
    /// `services`.
    pub services: BTreeMap<u32, Service>,
    /// `targets`.
    pub targets: BTreeMap<u32, Target>,
    /// `endpoints`.
    pub endpoints: BTreeMap<EndpointKey, Endpoint>,
    /// `vips`.
    pub vips: BTreeMap<Address, Vip>,
    /// `vip_addresses`.
    pub vip_addresses: BTreeMap<u32, VipAddress>,
    /// `listeners`.
    pub listeners: BTreeMap<Listener, Listening>,
    /// `acl`.
    pub acl: BTreeMap<AclKey, Acl>,
    /// `rings`: [`RING_SLOTS`](super::abi::RING_SLOTS) + 3 each.
    pub rings: BTreeMap<u32, Arc<[u16]>>,
    /// `other_rings`, of the same size: where the other node has something else than `rings`.
    pub other_rings: BTreeMap<u32, Arc<[u16]>>,
    /// What the rings are made of.
    pub ring_makes: BTreeMap<u32, Arc<Make>>,
    /// The arrays in `slots`: each endpoint's by its number and, where clients have IPv6 addresses, these by
    /// [`ENDPOINTS_MAX`](super::abi::ENDPOINTS_MAX) and the number.
    pub slots: BTreeSet<u32>,
    /// `service_ports[0]`.
    pub service_ports: ServicePorts,
    /// The number of each VRRP instance in `instances`; 0 is owned always.
    pub instances: BTreeMap<String, u32>,
    /// The service of the file behind each of the program's.
    pub service_names: BTreeMap<u16, String>,
    /// Group and id of each target; with its address behind it where the id is another one's by now.
    pub target_names: BTreeMap<u16, (String, String)>,
    /// The number of a target by its ring's and its id, as in `target_names`.
    pub ring_targets: BTreeMap<u16, BTreeMap<String, u16>>,
    /// The targets of those groups of a service that get no new flows, by group and id, as in `target_names`.
    pub former_targets: BTreeMap<u16, BTreeMap<(String, String), u16>>,
    /// What the way to a target in a tunnel takes at least, in bytes ([`least`](super::path_mtu::least)), by the target's number.
    pub least_paths: BTreeMap<u32, u32>,
    /// How each target is checked that is to be checked through a virtual IP.
    pub checks: BTreeMap<TargetKey, Check>,
    /// What could not be taken, for people; each target once.
    pub left_out: Vec<LeftOut>,
}

/// What could not be taken into the maps.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeftOut {
    /// A service, a target as `GROUP/ID`, or an address.
    pub what: String,
    /// Why not.
    pub why: &'static str,
}
