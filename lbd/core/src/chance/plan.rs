//! Which addresses and ports are proxied, and in which networks the nodes send each other what is of the other's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use common::config::{Config, Listen, Mode, Service};

use super::abi::{PROXIED_MAX, Proxied, ProxiedKey};
use crate::forward::abi::Be16;

/// A VRRP instance with services that are proxied, or whose targets answer to the virtual IP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its index in `peers`, from 1 on.
    pub index: u32,
    /// The interface of its virtual IPs on this node.
    pub interface: String,
    /// Whether virtual routers' Ethernet addresses are used.
    pub virtual_mac: bool,
    /// Where connections are accepted; none with services of `nat` only.
    pub addresses: BTreeSet<SocketAddr>,
}

/// The instances whose packets may come to the wrong node, by name; none without another node. Those of `dsr` are right wherever they
/// come to.
#[must_use]
pub fn places(config: &Config, node: &str) -> BTreeMap<String, Place> {
    let mut places = BTreeMap::new();
    if config.peer_of(node).is_none() {
        return places;
    }
    let services = config.services.iter().filter(|service| service.mode == Mode::Tcp);
    let listens: Vec<SocketAddr> =
        services.flat_map(|service| &service.listen).map(|listen| listen.address).collect();
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
        let addresses: BTreeSet<SocketAddr> = listens.iter().flat_map(at).collect();
        let translates = |service: &Service| {
            let here = |listen: &Listen| listen.instance.as_deref() == Some(vrrp.name.as_str());
            service.mode == Mode::Nat && service.listen.iter().any(here)
        };
        if !addresses.is_empty() || config.services.iter().any(translates) {
            let place =
                Place { index, interface: interface.clone(), virtual_mac: vrrp.virtual_mac, addresses };
            places.insert(vrrp.name.clone(), place);
        }
    }
    places
}

/// What `proxied_at` is to have. What there is no room for goes without a second chance: its number is the second value.
#[must_use]
pub fn proxied(places: &BTreeMap<String, Place>) -> (BTreeMap<ProxiedKey, Proxied>, usize) {
    let entry = |place: &Place, at: &SocketAddr| {
        let key = ProxiedKey { address: at.ip().into(), port: Be16(at.port()), spare: 0 };
        (key, Proxied { peer: place.index })
    };
    let all = places.values().flat_map(|place| place.addresses.iter().map(move |at| entry(place, at)));
    let all: BTreeMap<_, _> = all.collect();
    let beyond = all.len().saturating_sub(PROXIED_MAX as usize);
    (all.into_iter().take(PROXIED_MAX as usize).collect(), beyond)
}
