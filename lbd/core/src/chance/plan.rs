//! Which addresses and ports are proxied, and in which networks the nodes send each other what is of the other's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use common::config::{Config, Listen, Mode, Service};

use super::abi::{PROXIED_MAX, Proxied, ProxiedKey};
use crate::forward::abi::Be16;

/// IP's numbers of the protocols that are proxied.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A VRRP instance with services that are proxied, or whose targets answer to the virtual IP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its index in `peers`, from 1 on.
    pub index: u32,
    /// The interface of its virtual IPs on this node.
    pub interface: String,
    /// Whether the virtual router's Ethernet addresses are used.
    pub virtual_mac: bool,
    /// The virtual router's number.
    pub vrid: u8,
    /// Where connections are accepted; none with services of `nat` only.
    pub addresses: BTreeSet<SocketAddr>,
    /// Where datagrams are taken.
    pub datagrams: BTreeSet<SocketAddr>,
}

impl Place {
    /// Whether anything is proxied there.
    #[must_use]
    pub fn is_proxied(&self) -> bool {
        !self.addresses.is_empty() || !self.datagrams.is_empty()
    }
}

/// The instances whose packets may come to the wrong node, by name; none without another node. Those of `dsr` are right wherever they
/// come to.
#[must_use]
pub fn places(config: &Config, node: &str) -> BTreeMap<String, Place> {
    let mut places = BTreeMap::new();
    if config.peer_of(node).is_none() {
        return places;
    }
    let listens = |is: fn(Mode) -> bool| {
        let services = config.services.iter().filter(move |service| is(service.mode));
        services.flat_map(|service| &service.listen).map(|listen| listen.address).collect::<Vec<SocketAddr>>()
    };
    let connections = listens(|mode| matches!(mode, Mode::Tcp | Mode::Http));
    let datagrams = listens(|mode| mode == Mode::Udp);
    for (index, vrrp) in (1..).zip(&config.vrrp).take(super::INSTANCES_MAX) {
        let Some(interface) = vrrp.interface.get(node) else { continue };
        let vips: BTreeSet<IpAddr> = vrrp.vips.iter().map(ipnet::IpNet::addr).collect();
        let at = |listen: &SocketAddr| {
            let ip = listen.ip();
            let any = vips.iter().filter(move |vip| ip.is_unspecified() && vip.is_ipv4() == ip.is_ipv4());
            let own = vips.get(&ip).into_iter();
            let port = listen.port();
            any.chain(own).map(move |vip| SocketAddr::new(*vip, port)).collect::<Vec<_>>()
        };
        let addresses: BTreeSet<SocketAddr> = connections.iter().flat_map(at).collect();
        let datagrams: BTreeSet<SocketAddr> = datagrams.iter().flat_map(at).collect();
        let translates = |service: &Service| {
            let here = |listen: &Listen| listen.instance.as_deref() == Some(vrrp.name.as_str());
            service.mode == Mode::Nat && service.listen.iter().any(here)
        };
        let place = Place {
            index,
            interface: interface.clone(),
            virtual_mac: vrrp.virtual_mac,
            vrid: vrrp.vrid.get(),
            addresses,
            datagrams,
        };
        if place.is_proxied() || config.services.iter().any(translates) {
            places.insert(vrrp.name.clone(), place);
        }
    }
    places
}

/// What `proxied_at` is to have. What there is no room for goes without a second chance: its number is the second value.
#[must_use]
pub fn proxied(places: &BTreeMap<String, Place>) -> (BTreeMap<ProxiedKey, Proxied>, usize) {
    let mut all = BTreeMap::new();
    for place in places.values() {
        for (protocol, addresses) in [(TCP, &place.addresses), (UDP, &place.datagrams)] {
            let key = |at: &SocketAddr| ProxiedKey {
                address: at.ip().into(),
                port: Be16(at.port()),
                protocol,
                spare: 0,
            };
            all.extend(addresses.iter().map(|at| (key(at), Proxied { peer: place.index })));
        }
    }
    let beyond = all.len().saturating_sub(PROXIED_MAX as usize);
    (all.into_iter().take(PROXIED_MAX as usize).collect(), beyond)
}
