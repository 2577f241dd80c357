//! A node as the control plane would set it up: what both the oracle and the program are told.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use common::balance::{Member, maglev};
use common::hash::HashKey;

/// Where to send what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// nat, and dsr with the MAC address only.
    Plain,
    /// IP in IP.
    Ipip,
    /// GRE.
    Gre,
    /// Generic UDP encapsulation.
    Gue,
}

/// State of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Gone.
    Absent,
    /// In use.
    Up,
    /// Keeps its flows.
    Draining,
    /// Loses its flows.
    Unhealthy,
}

/// Whose an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The other node's, from the beginning.
    Backup,
    /// This one's for ever.
    Active,
    /// This one's until this tick.
    Until(u32),
}

impl Role {
    /// Whether this node may begin flows for it, and is answered for.
    #[must_use]
    pub fn owns(self, now: u32) -> bool {
        match self {
            Self::Backup => false,
            Self::Active => true,
            Self::Until(end) => now < end,
        }
    }

    /// Whether it goes on with those it knows.
    #[must_use]
    pub fn goes_on(self, now: u32) -> bool {
        match self {
            Self::Until(end) => now < end + DRAIN_TICKS,
            Self::Backup | Self::Active => self.owns(now),
        }
    }
}

/// A target; its index is its position in the list plus 1.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its address; a tunnel's far end.
    pub address: IpAddr,
    /// Its port; 0 for the client's.
    pub port: u16,
    /// For nat: whose slots.
    pub protocol: u8,
    /// How it is.
    pub health: Health,
    /// How it is reached.
    pub way: Way,
    /// The largest IP packet.
    pub mtu: u16,
    /// Whether its next hop is known.
    pub reachable: bool,
    /// Its next hop's MAC address.
    pub mac: [u8; 6],
    /// The tunnel's near end.
    pub outer_source: IpAddr,
    /// Destination port of GUE.
    pub gue_port: u16,
}

/// A service; its index and that of its ring is its position in the list plus 1.
#[derive(Clone, Debug)]
pub struct Service {
    /// nat, else dsr.
    pub nat: bool,
    /// nat: the source stays the client's.
    pub preserve: bool,
    /// The ring is looked up by the client's address.
    pub by_source: bool,
    /// Clients come back to their target for so many ticks.
    pub affinity: Option<u32>,
    /// New flows of an address, in so many ticks.
    pub source_rate: Option<(u32, u32)>,
    /// What the other node has begun for an address counts, too.
    pub pair_rate: bool,
    /// Its addresses are counted with those of the service of this index; else by themselves.
    pub counts_as: Option<u16>,
    /// Networks and whether they are let in; the longest prefix decides, and there is one of length 0.
    pub access: Vec<(IpAddr, u8, bool)>,
    /// TCP flows of an unhealthy target are reset.
    pub reset_unhealthy: bool,
    /// The largest MSS; 0 for any.
    pub mss_max: u16,
    /// Which instance.
    pub instance: u8,
    /// Indices of its targets and their weights.
    pub members: Vec<(u16, u16)>,
    /// The same as the other node has them, and the tick until which flows that are not known here may be that node's.
    pub other: Option<(Vec<(u16, u16)>, u32)>,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            nat: true,
            preserve: false,
            by_source: false,
            affinity: None,
            source_rate: None,
            pair_rate: false,
            counts_as: None,
            access: Vec::new(),
            reset_unhealthy: false,
            mss_max: 0,
            instance: 1,
            members: Vec::new(),
            other: None,
        }
    }
}

/// Ports of a VIP and whose they are.
#[derive(Clone, Copy, Debug)]
pub struct Listen {
    /// The VIP.
    pub vip: IpAddr,
    /// The first and the last port. Both the same: an exact one.
    pub ports: (u16, u16),
    /// TCP or UDP.
    pub protocol: u8,
    /// Index of the service.
    pub service: u16,
}

/// How long a port must have been silent before it is taken from a flow that is over,
pub const TAKE_OVER_TICKS: u32 = 16;
/// from one that is half-open,
pub const HALF_OPEN_KEPT_TICKS: u32 = 1;
/// and from a single datagram.
pub const DATAGRAM_KEPT_TICKS: u32 = 80;
/// Time-outs in ticks.
pub const ESTABLISHED_TICKS: u32 = 350 * 16;
/// UDP.
pub const UDP_TICKS: u32 = 120 * 16;
/// Half-open.
pub const HALF_OPEN_TICKS: u32 = 30 * 16;
/// After FIN.
pub const CLOSING_TICKS: u32 = 60 * 16;
/// A former owner goes on with the flows it knows for so long: longer than the ticks that cannot be had.
pub const DRAIN_TICKS: u32 = 125 * 16;
/// After RST.
pub const RESET_TICKS: u32 = 10 * 16;

/// Resets and ICMP errors that a processor makes in a tick.
pub const ANSWERS_PER_TICK: u32 = 256;

/// How often a processor in a tick looks at all ports that may be those of a packet which opens no connection,
pub const SEARCHES_PER_TICK: u32 = 1024;
/// and at how many it looks from then on.
pub const SHORT_SEARCH: usize = 4;

/// The node.
#[derive(Clone, Debug)]
pub struct World {
    /// The pair's key.
    pub key: [u8; 16],
    /// 0 or 1.
    pub node: u8,
    /// The tick.
    pub now: u32,
    /// New flows stored in a tick.
    pub new_flows_per_tick: u32,
    /// VIPs and their instances; their index is the position plus 1.
    pub vips: Vec<(IpAddr, u8)>,
    /// Who listens where.
    pub listens: Vec<Listen>,
    /// Services.
    pub services: Vec<Service>,
    /// Targets.
    pub targets: Vec<Target>,
    /// Instances, by index; the first is `Active`.
    pub roles: Vec<Role>,
    /// Health checks take the way of clients' packets.
    pub checks: bool,
    /// Flows are told to another node.
    pub replicated: bool,
    /// Flows of another layout may lack their ports.
    pub ports_missing: bool,
    /// Until this tick the other node may have begun flows that are not known here; 0 for never.
    pub others_until: u32,
    /// The interface by which the other node is reached, and its Ethernet address.
    pub other: Option<(u32, [u8; 6])>,
    /// The same in the networks of VIPs where it is another.
    pub others_of: HashMap<IpAddr, (u32, [u8; 6])>,
    /// How many flows the other node has begun for an address and the service of an index, and until which tick they count.
    pub others_begun: HashMap<(IpAddr, u16), (u32, u32)>,
}

impl World {
    /// A node without anything that is active.
    #[must_use]
    pub fn new() -> Self {
        Self {
            key: *b"sixteen bytes ok",
            node: 0,
            now: 20_000,
            new_flows_per_tick: 1_000_000,
            vips: Vec::new(),
            listens: Vec::new(),
            services: Vec::new(),
            targets: Vec::new(),
            roles: vec![Role::Active, Role::Active],
            checks: false,
            replicated: false,
            ports_missing: false,
            others_until: 0,
            other: None,
            others_of: HashMap::new(),
            others_begun: HashMap::new(),
        }
    }

    /// The other node in the network of a VIP.
    #[must_use]
    pub fn other_of(&self, vip: IpAddr) -> Option<(u32, [u8; 6])> {
        self.others_of.get(&vip).copied().or(self.other)
    }

    /// Adds a target of the plain kind, and says its index.
    pub fn target(&mut self, address: &str, protocol: u8) -> u16 {
        let address: SocketAddr =
            address.parse().unwrap_or_else(|_| panic!("{address} is an address and a port"));
        let index = self.targets.len() + 1;
        self.targets.push(Target {
            address: address.ip(),
            port: address.port(),
            protocol,
            health: Health::Up,
            way: Way::Plain,
            mtu: 1500,
            reachable: true,
            mac: [2, 0, 0, 0, 1, u8::try_from(index).unwrap_or(255)],
            outer_source: address.ip(),
            gue_port: 6080,
        });
        u16::try_from(index).unwrap_or(0)
    }

    /// Adds a service that listens at these ports of this VIP, and says its index.
    pub fn service(&mut self, vip: &str, ports: (u16, u16), protocol: u8, service: Service) -> u16 {
        self.services.push(service);
        let index = u16::try_from(self.services.len()).unwrap_or(0);
        self.listen(vip, ports, protocol, index);
        index
    }

    /// Lets a service listen here too.
    pub fn listen(&mut self, vip: &str, ports: (u16, u16), protocol: u8, service: u16) {
        let vip: IpAddr = vip.parse().unwrap_or_else(|_| panic!("{vip} is an address"));
        if !self.vips.iter().any(|known| known.0 == vip) {
            self.vips.push((vip, self.of(service).instance));
        }
        self.listens.push(Listen { vip, ports, protocol, service });
    }

    /// The service of this index.
    #[must_use]
    pub fn of(&self, service: u16) -> &Service {
        &self.services[usize::from(service) - 1]
    }

    /// The index of the service by which the addresses of this one are counted.
    #[must_use]
    pub fn counted_as(&self, service: u16) -> u16 {
        self.of(service).counts_as.unwrap_or(service)
    }

    /// The target of this index.
    #[must_use]
    pub fn at(&self, target: u16) -> &Target {
        &self.targets[usize::from(target) - 1]
    }

    /// Changes a target.
    pub fn change(&mut self, target: u16) -> &mut Target {
        &mut self.targets[usize::from(target) - 1]
    }

    /// The number of a VIP; 0 for none.
    #[must_use]
    pub fn vip_index(&self, vip: IpAddr) -> u16 {
        let position = self.vips.iter().position(|known| known.0 == vip);
        position.and_then(|position| u16::try_from(position + 1).ok()).unwrap_or(0)
    }

    /// The hash's key.
    #[must_use]
    pub fn hash_key(&self) -> HashKey {
        HashKey::new(self.key)
    }

    /// The index of the target that a service's ring has for each slot; empty without targets.
    #[must_use]
    pub fn ring(&self, service: u16) -> Arc<Vec<u16>> {
        self.ring_of(&self.of(service).members)
    }

    /// The same of the other node's; empty where nobody asks for it.
    #[must_use]
    pub fn other_ring(&self, service: u16) -> Arc<Vec<u16>> {
        self.ring_of(self.of(service).other.as_ref().map_or(&[][..], |other| &other.0))
    }

    fn ring_of(&self, members: &[(u16, u16)]) -> Arc<Vec<u16>> {
        type Made = HashMap<([u8; 16], Vec<(u16, u16)>), Arc<Vec<u16>>>;
        static MADE: LazyLock<Mutex<Made>> = LazyLock::new(Mutex::default);
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        made.entry((self.key, members.to_vec())).or_insert_with(|| Arc::new(self.make_ring(members))).clone()
    }

    fn make_ring(&self, members: &[(u16, u16)]) -> Vec<u16> {
        let ids: Vec<String> = members.iter().map(|(target, _)| format!("target-{target}")).collect();
        let listed: Vec<Member<'_>> =
            ids.iter().zip(members).map(|(id, &(_, weight))| Member { id, weight }).collect();
        let table = maglev::Table::new(&listed, &self.hash_key());
        table.slots().map(|slot| members[slot].0).collect()
    }

    /// Who listens at this address and port: an exact port before ranges.
    #[must_use]
    pub fn listener(&self, address: SocketAddr, protocol: u8) -> Option<u16> {
        let mine = || self.listens.iter().filter(move |l| l.vip == address.ip() && l.protocol == protocol);
        let exact = mine().find(|l| l.ports == (address.port(), address.port()));
        let fits = |l: &&Listen| l.ports.0 <= address.port() && address.port() <= l.ports.1;
        exact.or_else(|| mine().find(fits)).map(|l| l.service)
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}
