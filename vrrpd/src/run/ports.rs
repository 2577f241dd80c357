//! The interfaces the virtual routers live on: their state, their sockets, their routes and macvlans.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use vrrpd_core::neighbor;
use vrrpd_core::node::{InterfaceState, Slot};
use vrrpd_core::packet::Family;
use vrrpd_core::settings::{RouterSettings, Settings};

use crate::netlink::{Address, Change, Link, Netlink, NetlinkError};
use crate::socket::{AdvertSocket, FrameSocket, SocketError};
use crate::sysctl::{SysctlError, Sysctls};

/// Both families, in the order of the arrays below.
pub(super) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// One interface: one that a virtual router lives on, or one that is only tracked.
#[derive(Debug)]
pub(super) struct Port {
    link: Option<Link>,
    addresses: Vec<Address>,
    /// Families that virtual routers here use.
    families: BTreeSet<Family>,
    pub(super) adverts: [Option<AdvertSocket>; 2],
    pub(super) frames: [Option<FrameSocket>; 2],
}

/// The interface that carries the virtual router's Ethernet address.
#[derive(Debug)]
struct Macvlan {
    index: u32,
    /// The interface below it.
    parent: String,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Ports {
    netlink: Netlink,
    sysctls: Sysctls,
    ports: BTreeMap<String, Port>,
    macvlans: BTreeMap<Slot, Macvlan>,
    vips: BTreeSet<IpAddr>,
    subnets: Vec<(String, IpNet)>,
}

/// What a netlink change means for a port.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PortChange {
    /// The named interface's state has to be told to the core.
    State(String),
    /// A virtual IP appeared, with our mark or without, or is gone.
    Vip { interface: String, ip: IpAddr, ours: bool },
    /// Everything has to be looked at again.
    All,
}

impl Ports {
    pub(super) const fn new(netlink: Netlink, sysctls: Sysctls) -> Self {
        Self {
            netlink,
            sysctls,
            ports: BTreeMap::new(),
            macvlans: BTreeMap::new(),
            vips: BTreeSet::new(),
            subnets: Vec::new(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Port)> {
        self.ports.iter().map(|(name, port)| (name.as_str(), port))
    }

    pub(super) fn get(&self, name: &str) -> Option<&Port> {
        self.ports.get(name)
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.ports.keys().cloned().collect()
    }

    /// Makes ports, local routes and macvlans what the settings ask for. New ports have no state yet: [`Self::refresh`] them.
    pub(super) fn sync<'a>(
        &mut self,
        settings: &Settings,
        slots: impl Iterator<Item = (Slot, &'a RouterSettings)>,
    ) -> Result<(), PortError> {
        let slots: Vec<(Slot, &RouterSettings)> = slots.collect();
        let mut families: BTreeMap<&str, BTreeSet<Family>> = BTreeMap::new();
        for (_, router) in &slots {
            families.entry(&router.interface).or_default().insert(router.family);
        }
        for instance in &settings.instances {
            for name in &instance.track.interfaces {
                families.entry(name).or_default();
            }
        }
        self.ports.retain(|name, _| families.contains_key(name.as_str()));
        for (name, families) in families {
            let port = self.ports.entry(name.to_owned()).or_insert_with(Port::unknown);
            if port.families != families {
                *port = Port { families, ..Port::unknown() };
            }
        }
        // Before the routes: an interface without `arp_ignore` answers ARP for every address the host has a local route to,
        // which for a node that starts as backup is the active one's.
        for (_, router) in &slots {
            self.sysctls.prepare_interface(&router.interface)?;
        }
        self.sync_routes(&slots)?;
        let kept: BTreeSet<Slot> =
            slots.iter().filter(|(_, router)| router.virtual_mac).map(|&(slot, _)| slot).collect();
        let stale: Vec<Slot> = self.macvlans.keys().filter(|slot| !kept.contains(slot)).copied().collect();
        for slot in stale {
            if let Some(macvlan) = self.macvlans.remove(&slot) {
                self.netlink.remove_link(macvlan.index)?;
            }
        }
        Ok(())
    }

    /// Local routes for every virtual IP, whatever the role: listeners keep their addresses, and connections that were
    /// made here go on after the address has left.
    fn sync_routes(&mut self, slots: &[(Slot, &RouterSettings)]) -> Result<(), NetlinkError> {
        let wanted: BTreeSet<IpAddr> = slots.iter().flat_map(|(_, router)| router.advertised()).collect();
        for stale in self.vips.difference(&wanted) {
            self.netlink.remove_local_route(*stale)?;
        }
        for &ip in &wanted {
            self.netlink.add_local_route(ip)?;
        }
        self.vips = wanted;
        self.subnets = slots
            .iter()
            .flat_map(|(_, router)| router.addresses.iter().map(|&net| (router.interface.clone(), net)))
            .collect();
        Ok(())
    }

    /// Reads the state of an interface anew and opens what sockets it lacks.
    pub(super) fn refresh(&mut self, name: &str) -> Result<Option<InterfaceState>, PortError> {
        let link = self.netlink.link(name)?;
        let addresses = match &link {
            Some(link) => self.netlink.addresses(link.index)?,
            None => Vec::new(),
        };
        let Some(port) = self.ports.get_mut(name) else { return Ok(None) };
        if port.link.as_ref().map(|link| link.index) != link.as_ref().map(|link| link.index) {
            *port = Port { families: std::mem::take(&mut port.families), ..Port::unknown() };
        }
        port.link = link;
        port.addresses = addresses;
        port.open_sockets()?;
        if !port.families.is_empty() {
            self.sysctls.prepare_interface(name)?;
        }
        if let Some(link) = port.link.clone().filter(|link| link.up && link.running) {
            for (_, subnet) in self.subnets.iter().filter(|(interface, _)| interface == name) {
                self.netlink.add_subnet_route(link.index, *subnet)?;
            }
        }
        Ok(self.state(name))
    }

    /// Whether the interface is no longer as last read. A few microseconds.
    pub(super) fn is_outdated(&mut self, name: &str) -> Result<bool, NetlinkError> {
        let link = self.netlink.link(name)?;
        Ok(self.ports.get(name).is_some_and(|port| port.link != link))
    }

    /// The state as last read.
    pub(super) fn state(&self, name: &str) -> Option<InterfaceState> {
        let port = self.ports.get(name)?;
        let link = port.link.as_ref()?;
        let own = |address: &&Address| !address.is_ours() && !self.vips.contains(&address.ip);
        let ipv4 = port.addresses.iter().filter(own).find_map(Address::primary_v4);
        let link_local = port.addresses.iter().filter(own).find_map(Address::usable_link_local);
        let path = format!("/proc/sys/net/ipv6/conf/{name}/forwarding");
        let forwarding = std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1");
        Some(InterfaceState { mac: link.mac, up: link.up && link.running, ipv4, link_local, forwarding })
    }

    /// Whether a netlink change concerns us, and how. What it says of a link is taken over at once, without asking again.
    pub(super) fn changed(&mut self, change: Change) -> Option<PortChange> {
        match change {
            Change::Overrun => Some(PortChange::All),
            Change::Link(link) => {
                let port = self.ports.get_mut(&link.name)?;
                if port.link.as_ref() == Some(&link) {
                    return None;
                }
                Some(PortChange::State(link.name))
            }
            Change::LinkGone { name, .. } => {
                self.ports.contains_key(&name).then_some(PortChange::State(name))
            }
            Change::AddressAdded { index, ip, proto, .. } => {
                let interface = self.name_of(index)?;
                let ours = proto == Some(crate::netlink::ORIGIN);
                Some(if self.vips.contains(&ip) {
                    PortChange::Vip { interface, ip, ours }
                } else {
                    PortChange::State(interface)
                })
            }
            Change::AddressRemoved { index, ip, .. } => {
                let interface = self.name_of(index)?;
                Some(if self.vips.contains(&ip) {
                    PortChange::Vip { interface, ip, ours: false }
                } else {
                    PortChange::State(interface)
                })
            }
        }
    }

    /// The port that an interface index belongs to; a macvlan belongs to the one below it.
    fn name_of(&self, index: u32) -> Option<String> {
        let port = self.ports.iter().find(|(name, _)| self.index(name) == Some(index)).map(|(name, _)| name);
        let macvlan =
            self.macvlans.values().find(|macvlan| macvlan.index == index).map(|macvlan| &macvlan.parent);
        port.or(macvlan).cloned()
    }

    /// Whether the interface, or a macvlan on it, holds the address now, by the kernel's word.
    pub(super) fn holds(&mut self, name: &str, ip: IpAddr) -> Result<bool, NetlinkError> {
        let above =
            self.macvlans.values().filter(|macvlan| macvlan.parent == name).map(|macvlan| macvlan.index);
        let indices: Vec<u32> = self.index(name).into_iter().chain(above).collect();
        for index in indices {
            if self.netlink.addresses(index)?.iter().any(|address| address.ip == ip) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn index(&self, name: &str) -> Option<u32> {
        self.ports.get(name)?.link.as_ref().map(|link| link.index)
    }

    /// The interface that a virtual router's addresses go on: its macvlan, made now if need be, or the port itself.
    pub(super) fn address_index(&mut self, slot: Slot, router: &RouterSettings) -> Result<u32, PortError> {
        let missing =
            || NetlinkError::NoLink { action: format!("looking up interface {}", router.interface) };
        let parent = self.index(&router.interface).ok_or_else(missing)?;
        if !router.virtual_mac {
            return Ok(parent);
        }
        if let Some(macvlan) = self.macvlans.get(&slot) {
            return Ok(macvlan.index);
        }
        let name = macvlan_name(slot, router);
        let mac = neighbor::virtual_mac(router.family, router.vrid);
        let index = self.netlink.add_macvlan(parent, &name, mac)?.index;
        self.sysctls.prepare_macvlan(&name)?;
        self.macvlans.insert(slot, Macvlan { index, parent: router.interface.clone() });
        Ok(index)
    }

    /// The index where a virtual router's addresses are, if there is one; makes nothing.
    pub(super) fn existing_address_index(&self, slot: Slot, router: &RouterSettings) -> Option<u32> {
        if router.virtual_mac {
            self.macvlans.get(&slot).map(|macvlan| macvlan.index)
        } else {
            self.index(&router.interface)
        }
    }

    /// Adds addresses; a macvlan is brought up first.
    pub(super) fn acquire(
        &mut self,
        slot: Slot,
        router: &RouterSettings,
        addresses: &[IpNet],
    ) -> Result<(), PortError> {
        let index = self.address_index(slot, router)?;
        if router.virtual_mac {
            self.netlink.set_up(index, true)?;
        }
        for &address in addresses {
            self.netlink.add_address(index, address)?;
        }
        Ok(())
    }

    /// Removes addresses, all of them even if one fails; the first error counts.
    pub(super) fn relinquish(
        &mut self,
        slot: Slot,
        router: &RouterSettings,
        addresses: &[IpNet],
    ) -> Result<(), NetlinkError> {
        let Some(index) = self.existing_address_index(slot, router) else { return Ok(()) };
        let mut result = Ok(());
        for &address in addresses {
            result = result.and(self.netlink.remove_address(index, address));
        }
        if router.virtual_mac {
            result = result.and(self.netlink.set_up(index, false));
        }
        result
    }

    /// Removes what a former life left behind: addresses, and routes of virtual IPs that are no longer configured.
    pub(super) fn reconcile(&mut self, wanted: &BTreeSet<IpAddr>) -> Result<usize, NetlinkError> {
        let mut removed = 0;
        for address in self.netlink.our_addresses()? {
            let net = IpNet::new(address.ip, address.prefix).unwrap_or_else(|_| address.ip.into());
            self.netlink.remove_address(address.index, net)?;
            removed += 1;
        }
        for ip in self.netlink.our_local_routes()? {
            if !wanted.contains(&ip) {
                self.netlink.remove_local_route(ip)?;
                removed += 1;
            }
        }
        for (index, subnet) in self.netlink.our_subnet_routes()? {
            self.netlink.remove_subnet_route(index, subnet)?;
        }
        for link in self.netlink.links()? {
            if is_macvlan_name(&link.name) {
                self.netlink.remove_link(link.index)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Takes everything away at the end. The kernel settings go last, and stay if a local route does: without `arp_ignore` this
    /// host would answer ARP for every virtual IP that it still has a local route to.
    pub(super) fn clear(&mut self) -> Result<(), PortError> {
        self.reconcile(&BTreeSet::new())?;
        Ok(self.sysctls.restore()?)
    }
}

/// Why an interface could not be prepared, looked at or listened on.
#[derive(Debug, thiserror::Error)]
pub(super) enum PortError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
}

impl Port {
    fn unknown() -> Self {
        Self {
            link: None,
            addresses: Vec::new(),
            families: BTreeSet::new(),
            adverts: [None, None],
            frames: [None, None],
        }
    }

    /// One pair of sockets for each family in use, once the interface exists.
    fn open_sockets(&mut self) -> Result<(), SocketError> {
        let Some(index) = self.link.as_ref().map(|link| link.index) else { return Ok(()) };
        for (at, family) in FAMILIES.into_iter().enumerate() {
            if !self.families.contains(&family) {
                continue;
            }
            if self.adverts[at].is_none() {
                self.adverts[at] = Some(AdvertSocket::open(index, family)?);
            }
            if self.frames[at].is_none() {
                self.frames[at] = Some(FrameSocket::open(index, family)?);
            }
        }
        Ok(())
    }

    pub(super) const fn advert_socket(&self, family: Family) -> Option<&AdvertSocket> {
        match family {
            Family::V4 => self.adverts[0].as_ref(),
            Family::V6 => self.adverts[1].as_ref(),
        }
    }

    /// Any socket of the interface sends frames of both families.
    pub(super) fn frame_socket(&self) -> Option<&FrameSocket> {
        self.frames.iter().flatten().next()
    }
}

impl Address {
    fn primary_v4(&self) -> Option<Ipv4Addr> {
        match self.ip {
            IpAddr::V4(ip) if self.scope == 0 && !self.secondary => Some(ip),
            _ => None,
        }
    }

    fn usable_link_local(&self) -> Option<Ipv6Addr> {
        match self.ip {
            IpAddr::V6(ip) if ip.is_unicast_link_local() && !self.tentative && !self.duplicate => Some(ip),
            _ => None,
        }
    }
}

/// At most 15 bytes, as the kernel wants it: `tandem4-255.63`.
fn macvlan_name(slot: Slot, router: &RouterSettings) -> String {
    let family = if router.family == Family::V4 { 4 } else { 6 };
    format!("{MACVLAN_PREFIX}{family}-{}.{slot}", router.vrid)
}

const MACVLAN_PREFIX: &str = "tandem";

fn is_macvlan_name(name: &str) -> bool {
    name.strip_prefix(MACVLAN_PREFIX).is_some_and(|rest| rest.starts_with("4-") || rest.starts_with("6-"))
}
