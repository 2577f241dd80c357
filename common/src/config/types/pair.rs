//! The pair: its nodes, and its virtual routers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Serialize;

use crate::time::Duration;

/// `[pair]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pair {
    /// A name for people; empty when not given.
    pub name: String,
    /// Where the pair's key is; a relative path is relative to the configuration file.
    pub key_file: Option<PathBuf>,
}

/// `[[node]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name, by default matched with the host's name.
    pub name: String,
    /// Its address on the link between the nodes.
    pub peer_address: Option<IpAddr>,
    /// The zone it is in, for groups that prefer targets of their own zone.
    pub zone: Option<String>,
}

/// A value that may differ between the nodes, by node name.
pub type PerNode<T> = BTreeMap<String, T>;

/// `[[vrrp]]`: an instance, which is one virtual router per address family among its VIPs.
#[derive(Clone, Debug, PartialEq)]
pub struct Vrrp {
    /// Its name.
    pub name: String,
    /// The LAN interface of each node.
    pub interface: PerNode<String>,
    /// The virtual router's number.
    pub vrid: Vrid,
    /// The priority of each node; never equal, and 1 only if nothing is tracked: a node in bad health ranks below both.
    pub priority: PerNode<Priority>,
    /// The virtual IPs with their prefix lengths, in the file's order, families mixed; may be empty with a hook.
    pub vips: Vec<IpNet>,
    /// The nodes' own addresses on the LAN, for unicast; by node and family. Empty when not given.
    pub addresses: PerNode<Vec<IpAddr>>,
    /// Time between advertisements: 10 ms to 40 s, a multiple of 10 ms (1 s to 40 s and whole seconds with version 2).
    pub advert_interval: Duration,
    /// Whether a node of higher priority takes over from an active one of lower priority.
    pub preempt: bool,
    /// How long a node waits after its start or recovery before it preempts; 0 to 1 h.
    pub preempt_delay: Duration,
    /// How advertisements travel.
    pub transport: Transport,
    /// Whether they are signed.
    pub auth: Auth,
    /// The protocol version spoken: 3, or 2 for mixed pairs.
    pub version: VrrpVersion,
    /// Which reading of the IPv4 checksum is sent (both are accepted); by default that of the message, or with the pseudo-header
    /// for plain version 3 (`auth` none), whose other end may be keepalived.
    pub checksum: ChecksumReading,
    /// Whether the VIPs live on a macvlan with the virtual router's MAC address.
    pub virtual_mac: bool,
    /// What lowers the effective priority.
    pub track: Track,
    /// How often becoming active is announced.
    pub announce: Announce,
    /// Programs run on role changes.
    pub hooks: Hooks,
}

/// A virtual router identifier, 1 to 255 (RFC 9568 §5.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Vrid(u8);

impl Vrid {
    /// The identifier, if it is in range.
    #[must_use]
    pub const fn new(value: u8) -> Option<Self> {
        if value == 0 { None } else { Some(Self(value)) }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// A configured priority, 1 to 255; 255 is the owner of the addresses (RFC 9568 §5.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Priority(u8);

impl Priority {
    /// The priority of the router that owns the virtual addresses.
    pub const OWNER: Self = Self(255);

    /// The priority, if it is in range.
    #[must_use]
    pub const fn new(value: u8) -> Option<Self> {
        if value == 0 { None } else { Some(Self(value)) }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// How advertisements travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// To 224.0.0.18 or ff02::12.
    #[default]
    Multicast,
    /// To the other node's address on the interface (`addresses`), else to its `peer_address`.
    Unicast,
}

/// Whether advertisements are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Auth {
    /// Plain packets are sent and accepted; a trailer, if there is one, is ignored. The default without a `key_file`.
    None,
    /// Signed packets are sent; both kinds are accepted. For rolling a key out.
    Permissive,
    /// Signed packets are sent and nothing else is accepted. The default with a `key_file`.
    Hmac,
}

/// The VRRP version spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(into = "u8")]
pub enum VrrpVersion {
    /// RFC 3768, IPv4 only.
    V2,
    /// RFC 9568.
    #[default]
    V3,
}

impl From<VrrpVersion> for u8 {
    fn from(version: VrrpVersion) -> Self {
        match version {
            VrrpVersion::V2 => 2,
            VrrpVersion::V3 => 3,
        }
    }
}

/// What the checksum of a version 3 IPv4 advertisement covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChecksumReading {
    /// The VRRP message only, as RFC 9568 says.
    #[default]
    Message,
    /// An IPv4 pseudo-header too, as RFC 5798 was commonly read (keepalived's and FRR's default).
    PseudoHeader,
}

/// `track` of an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Track {
    /// Whether `lbd`'s health counts; true unless the file has no service.
    pub lbd: bool,
    /// Whether a service of `lbd` that has no healthy target counts too; true by default, moot without `lbd`.
    pub targets: bool,
    /// Further interfaces of the node that must be up.
    pub interfaces: Vec<String>,
    /// An address on the LAN that must answer ARP or neighbour solicitation.
    pub gateway: Option<IpAddr>,
}

/// `announce` of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announce {
    /// How many times gratuitous ARP and neighbour advertisements are sent on becoming active; 1 to 30, 5 by default.
    pub repeat: u32,
    /// The time between them; 1 ms to 10 s, 1 s by default. The first two follow each other after 50 ms at most.
    pub interval: Duration,
    /// The slow refresh while active; 0 (off) or 1 s to 1 h, 60 s by default.
    pub refresh: Duration,
}

/// `hooks` of an instance: program and arguments, run without a shell; empty is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// On becoming active.
    pub on_active: Vec<String>,
    /// On becoming backup.
    pub on_backup: Vec<String>,
    /// On entering fault.
    pub on_fault: Vec<String>,
    /// After this a hook is killed; 100 ms to 10 min, 10 s by default.
    pub timeout: Duration,
}
