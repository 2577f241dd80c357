//! A small configuration in the maps of the forwarding program, written byte by byte.

use std::net::IpAddr;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{Array, ArrayOfMaps, HashMap, MapData, PerCpuArray, PerCpuValues};
use common::hash::HashKey;

/// The key of the hash in tests.
pub const HASH_KEY: [u8; 16] = [7; 16];
/// The interface that `BPF_PROG_RUN` says packets came from: the loopback one.
pub const INTERFACE: u32 = 1;
/// The program is there and at those behind it up to this one: clients are behind one end of the only veth.
const LAST_INTERFACE: u32 = 3;
/// Our address on it.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

const DROP_REASONS: u32 = 20;
const RING_SLOTS: usize = 65_537;
const ROUTES: u32 = 1024;
/// Endpoints, at most; the arrays of so many later ones hold their clients' IPv6 addresses.
pub const ENDPOINTS_MAX: u32 = 4096;
/// Ports of an endpoint.
pub const NAT_PORTS: u32 = 64_512;
/// The arrays of ports can be mapped into memory.
const MAPPABLE: u32 = 1 << 10;

/// How a service forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `MODE_NAT`
    Nat,
    /// `MODE_DSR`
    Dsr,
}

/// How packets get to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As they are.
    Plain,
    /// `WAY_IPIP`
    Ipip,
    /// `WAY_GRE`
    Gre,
    /// `WAY_GUE`
    Gue,
}

/// `services[…]`
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// How.
    pub mode: Mode,
    /// `SERVICE_*`
    pub flags: u32,
    /// Whose ring.
    pub ring: u16,
    /// Clamp MSS to it.
    pub mss_max: u16,
}

/// `targets[…]`
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// `TARGET_*`
    pub state: u8,
    /// The way.
    pub way: Way,
    /// 0: as asked.
    pub port: u16,
    /// Whose slots.
    pub endpoint: u16,
    /// Longest packet.
    pub mtu: u16,
    /// Where it is.
    pub mac: [u8; 6],
    /// Its address.
    pub address: IpAddr,
    /// The outer source of tunnels.
    pub source: IpAddr,
}

/// An address as the maps have it.
#[must_use]
pub fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn put<const N: usize>(bytes: &mut [u8; N], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// What was written into a map.
#[derive(Clone, Debug)]
pub enum Written {
    /// An element of a map.
    Element {
        /// The map's name.
        map: String,
        /// The element's key,
        key: Vec<u8>,
        /// and its value.
        value: Vec<u8>,
    },
    /// An array, into a map of these.
    Array {
        /// The map's name.
        map: String,
        /// Where in it.
        index: u32,
        /// How many elements the array has.
        elements: u32,
        /// Its first element; the others are all zeros.
        first: Vec<u8>,
    },
}

/// The maps of a loaded object.
pub struct World {
    /// The object.
    pub object: Ebpf,
    written: Vec<Written>,
}

impl World {
    /// With `config`, the links, an active instance and nothing else.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new(object: Ebpf, new_flows_per_tick: u32) -> Result<Self> {
        let mut world = Self { object, written: Vec::new() };
        let mut config = [0; 64];
        put(&mut config, 0, &HASH_KEY);
        // 250 jiffies a second; how fast the clock goes matters little here.
        put(&mut config, 16, &(16 * (1_u64 << 32) / 250).to_ne_bytes());
        put(&mut config, 24, &4_000_000_u64.to_ne_bytes());
        put(&mut config, 40, &10_000_000_000_u64.to_ne_bytes());
        put(&mut config, 48, &(1_u32).to_ne_bytes());
        put(&mut config, 52, &new_flows_per_tick.to_ne_bytes());
        world.array("config", 0, config)?;
        let mut link = [0; 12];
        put(&mut link, 0, &MAC);
        link[6] = 1;
        put(&mut link, 8, &1500_u32.to_ne_bytes());
        for index in INTERFACE..=LAST_INTERFACE {
            world.array("links", index, link)?;
        }
        // Owned for as long as anybody measures, but not for ever: that would spare it a look at the clock.
        world.array("instances", 0, ((1_u64 << 62) - 1).to_ne_bytes())?;
        Ok(world)
    }

    /// All that was written so far, for who has maps of his own.
    #[must_use]
    pub fn written(&self) -> &[Written] {
        &self.written
    }

    fn note(&mut self, map: &str, key: &[u8], value: &[u8]) {
        let (map, key, value) = (map.to_owned(), key.to_vec(), value.to_vec());
        self.written.push(Written::Element { map, key, value });
    }

    /// Sets an element of an array.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn array<const N: usize>(&mut self, name: &str, index: u32, value: [u8; N]) -> Result<()> {
        let map = self.object.map_mut(name).with_context(|| format!("no map {name}"))?;
        let mut map: Array<_, [u8; N]> = map.try_into()?;
        map.set(index, value, 0)?;
        self.note(name, &index.to_ne_bytes(), &value);
        Ok(())
    }

    /// An element of an array.
    fn element<const N: usize>(&self, name: &str, index: u32) -> Result<[u8; N]> {
        let map = self.object.map(name).with_context(|| format!("no map {name}"))?;
        let map: Array<_, [u8; N]> = map.try_into()?;
        Ok(map.get(&index, 0)?)
    }

    /// Sets an entry of a hash.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn hash<const K: usize, const V: usize>(
        &mut self,
        name: &str,
        key: [u8; K],
        value: [u8; V],
    ) -> Result<()> {
        let map = self.object.map_mut(name).with_context(|| format!("no map {name}"))?;
        let mut map: HashMap<_, [u8; K], [u8; V]> = map.try_into()?;
        map.insert(key, value, 0)?;
        self.note(name, &key, &value);
        Ok(())
    }

    /// A VIP without ranges, of instance 0.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn vip(&mut self, index: u16, address: IpAddr) -> Result<()> {
        let mut vip = [0; 136];
        put(&mut vip, 0, &index.to_ne_bytes());
        self.hash("vips", octets(address), vip)?;
        let mut back = [0; 40];
        put(&mut back, 0, &octets(address));
        self.array("vip_addresses", index.into(), back)
    }

    /// The way to a client, for as long as anybody measures: the kernel is not asked.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn route(&mut self, client: IpAddr, mac: [u8; 6]) -> Result<()> {
        let mut bytes = [0; 44];
        put(&mut bytes, 0, &octets(client));
        put(&mut bytes, 16, &0x7000_0000_u32.to_ne_bytes());
        put(&mut bytes, 20, &INTERFACE.to_ne_bytes());
        put(&mut bytes, 24, &mac);
        put(&mut bytes, 30, &MAC);
        put(&mut bytes, 36, &1500_u32.to_ne_bytes());
        let (words, _) = bytes[..16].as_chunks::<4>();
        let mixed = words.iter().fold(0, |mixed, word| mixed ^ u32::from_ne_bytes(*word));
        let place = (mixed.wrapping_mul(0x9e37_79b1) >> 16) % ROUTES;
        let processors = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        let map = self.object.map_mut("routes").context("no map routes")?;
        let mut map: PerCpuArray<_, [u8; 44]> = map.try_into()?;
        map.set(place, PerCpuValues::try_from(vec![bytes; processors])?, 0)?;
        self.note("routes", &place.to_ne_bytes(), &bytes);
        Ok(())
    }

    /// A listener of a service on a VIP.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn listener(&mut self, vip: (u16, IpAddr), port: u16, protocol: u8, service: u16) -> Result<()> {
        let mut key = [0; 20];
        put(&mut key, 0, &octets(vip.1));
        put(&mut key, 16, &port.to_be_bytes());
        key[18] = protocol;
        let mut value = [0; 4];
        put(&mut value, 0, &service.to_ne_bytes());
        put(&mut value, 2, &vip.0.to_ne_bytes());
        self.hash("listeners", key, value)?;
        let mut ports: [u8; 8192] = self.element("service_ports", 0)?;
        let (words, _) = ports.as_chunks_mut::<8>();
        let word = &mut words[usize::from(port / 64)];
        *word = (u64::from_ne_bytes(*word) | 1 << (port % 64)).to_ne_bytes();
        self.array("service_ports", 0, ports)
    }

    /// A service.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn service(&mut self, index: u16, service: Service) -> Result<()> {
        let mut bytes = [0; 48];
        bytes[0] = if service.mode == Mode::Nat { 1 } else { 2 };
        put(&mut bytes, 2, &service.ring.to_ne_bytes());
        put(&mut bytes, 4, &service.flags.to_ne_bytes());
        for (at, seconds) in [(8, 350_u32), (12, 120), (16, 30), (20, 60), (24, 10)] {
            put(&mut bytes, at, &(seconds * 16).to_ne_bytes());
        }
        put(&mut bytes, 44, &service.mss_max.to_ne_bytes());
        self.array("services", index.into(), bytes)
    }

    /// A target.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn target(&mut self, index: u16, target: &Target) -> Result<()> {
        let mut bytes = [0; 64];
        bytes[0] = target.state;
        bytes[1] = match target.way {
            Way::Plain => 0,
            Way::Ipip => 1,
            Way::Gre => 2,
            Way::Gue => 3,
        };
        put(&mut bytes, 2, &target.port.to_be_bytes());
        put(&mut bytes, 4, &target.endpoint.to_ne_bytes());
        put(&mut bytes, 6, &target.mtu.to_ne_bytes());
        put(&mut bytes, 8, &INTERFACE.to_ne_bytes());
        put(&mut bytes, 12, &target.mac);
        put(&mut bytes, 18, &MAC);
        put(&mut bytes, 24, &octets(target.address));
        put(&mut bytes, 40, &octets(target.source));
        put(&mut bytes, 56, &6080_u16.to_be_bytes());
        let bytes: [u8; 60] = bytes[..60].try_into()?;
        self.array("targets", index.into(), bytes)
    }

    /// Where a target's tunnel begins.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn source_of_tunnel(&mut self, index: u16, source: IpAddr) -> Result<()> {
        let mut bytes: [u8; 60] = self.element("targets", index.into())?;
        put(&mut bytes, 40, &octets(source));
        self.array("targets", index.into(), bytes)
    }

    /// The flags of a service.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn service_flags(&mut self, index: u16, flags: u32) -> Result<()> {
        let mut bytes: [u8; 48] = self.element("services", index.into())?;
        put(&mut bytes, 4, &flags.to_ne_bytes());
        self.array("services", index.into(), bytes)
    }

    /// A ring whose places go round the targets.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn ring(&mut self, index: u16, targets: &[u16]) -> Result<()> {
        let mut ring: Array<MapData, [u16; RING_SLOTS + 3]> = Array::create(1, 0)?;
        let mut places = [0; RING_SLOTS + 3];
        for (place, target) in places[..RING_SLOTS].iter_mut().zip(targets.iter().cycle()) {
            *place = *target;
        }
        ring.set(0, places, 0)?;
        let map = self.object.map_mut("rings").context("no map rings")?;
        let mut map: ArrayOfMaps<_, Array<MapData, [u16; RING_SLOTS + 3]>> = map.try_into()?;
        map.set(index.into(), &ring, 0)?;
        let first = places.iter().flat_map(|place| place.to_ne_bytes()).collect();
        let (map, index) = ("rings".to_owned(), index.into());
        self.written.push(Written::Array { map, index, elements: 1, first });
        Ok(())
    }

    /// An endpoint with slots of its own: that of the target of its number alone.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn endpoint(&mut self, index: u16, address: IpAddr, port: u16, protocol: u8) -> Result<()> {
        let mut key = [0; 20];
        put(&mut key, 0, &octets(address));
        put(&mut key, 16, &port.to_be_bytes());
        key[18] = protocol;
        let mut value = [0; 88];
        put(&mut value, 0, &index.to_ne_bytes());
        put(&mut value, 4, &index.to_ne_bytes());
        self.hash("endpoints", key, value)?;
        // Where clients have IPv6 addresses, these are behind the slots of all endpoints.
        let arrays = [Some(u32::from(index)), address.is_ipv6().then_some(ENDPOINTS_MAX + u32::from(index))];
        for place in arrays.into_iter().flatten() {
            let slots: Array<MapData, [u8; 16]> = Array::create(NAT_PORTS, MAPPABLE)?;
            let map = self.object.map_mut("slots").context("no map slots")?;
            let mut map: ArrayOfMaps<_, Array<MapData, [u8; 16]>> = map.try_into()?;
            map.set(place, &slots, 0)?;
            let (map, index, first) = ("slots".to_owned(), place, vec![0; 16]);
            self.written.push(Written::Array { map, index, elements: NAT_PORTS, first });
        }
        Ok(())
    }

    /// A counter of drops, of all processors.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn drops(&self, reason: u32) -> Result<u64> {
        let map = self.object.map("drops").context("no map drops")?;
        let map: PerCpuArray<_, u64> = map.try_into()?;
        Ok(map.get(&reason, 0)?.iter().sum())
    }

    /// Every reason for which packets were dropped, with their number.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn all_drops(&self) -> Result<Vec<(u32, u64)>> {
        let mut drops = Vec::new();
        for reason in 0..DROP_REASONS {
            drops.push((reason, self.drops(reason)?));
        }
        Ok(drops.into_iter().filter(|&(_, number)| number > 0).collect())
    }

    /// Flows in the table.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn flows(&self) -> Result<usize> {
        let map = self.object.map("flows").context("no map flows")?;
        let map: HashMap<_, [u8; 40], [u8; 16]> = map.try_into()?;
        Ok(map.keys().count())
    }

    /// The place of a flow in a ring.
    #[must_use]
    pub fn place(protocol: u8, source: std::net::SocketAddr, destination: std::net::SocketAddr) -> usize {
        let hash = HashKey::new(HASH_KEY).flow(protocol, source, destination);
        usize::try_from(hash % 65_537).unwrap_or(0)
    }
}
