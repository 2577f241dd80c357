//! The way to the other node in the network of each instance: as a neighbour, or through a VXLAN device over the link between the nodes.
//!
//! The device is made when it is needed, and taken away when it is not. What it takes from anybody is for the program on it to drop: it is
//! up only while that is there, and the stack is told to refuse what would get by. One that a killed `lbd` left goes on; it is found by its name, which
//! is that of the run directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::time::Instant;
use lbd_core::chance::abi::{TUNNEL_PORT, Tunnel};
use lbd_core::chance::plan::Place as Network;
use lbd_core::chance::{Other, Seen, Way};

use super::super::KernelError;
use super::super::load::node_folder;
use super::super::netlink::{Link, Netlink, NetlinkError};
use super::super::ways::Ways;

/// A host is asked so often whether it is there. The kernel tries for 3 s.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(4);

/// And one that was found to be there, to see whether it still is.
const REFRESH: Duration = Duration::from_secs(20);

/// What a tunnel takes of a packet over IPv6, in bytes: IP, UDP, VXLAN and Ethernet.
const OVERHEAD_V6: u32 = 40 + 8 + 8 + 14;

/// The kind of the device.
const KIND: &str = "vxlan";

/// Where each packet comes out at the device that gets by the program, the stack shall refuse it: no way back leads there.
const GUARDS: [(&str, &str); 2] = [("ipv4", "rp_filter"), ("ipv6", "disable_ipv6")];

/// When the kernel was asked whether hosts are there.
#[derive(Debug, Default)]
pub(super) struct Asked(BTreeMap<(u32, IpAddr), Instant>);

impl Asked {
    /// Whether a host answers at an interface, as far as the kernel has found out since it was first asked; it is asked `again` after so long.
    pub(super) fn answers(
        &mut self,
        ways: &mut Ways,
        now: Instant,
        host: (u32, IpAddr),
        again: Duration,
    ) -> Option<bool> {
        let asked = self.0.get(&host).copied();
        if asked.is_none_or(|asked| now - asked >= again) {
            if !ways.ask(host.0, host.1) {
                // Whoever was not asked has not failed to answer.
                self.0.remove(&host);
                return None;
            }
            self.0.insert(host, now);
        }
        // What was known before it was asked is no answer.
        asked.and_then(|_| ways.present(host.0, host.1))
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// The ends of the tunnel: the nodes' addresses on the link between them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) own: IpAddr,
    pub(super) other: IpAddr,
}

/// The device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Device {
    pub(super) index: u32,
    pub(super) up: bool,
}

/// The ways.
#[derive(Debug)]
pub(super) struct Tunnels {
    /// The device's name.
    name: String,
    asked: Asked,
    /// The last answer of each address; while it is asked once more, there is none.
    answered: BTreeMap<(u32, IpAddr), bool>,
    ways: BTreeMap<String, Way>,
    device: Option<Device>,
    /// The interface of the link between the nodes, while there is a device.
    link: Option<u32>,
}

impl Tunnels {
    pub(super) fn new(run_dir: &Path) -> Self {
        let (asked, answered, ways) = <_>::default();
        Self { name: device_name(run_dir), asked, answered, ways, device: None, link: None }
    }

    /// Looks where the other node is a neighbour. Where the kernel does not say, it is as it was.
    pub(super) fn look(
        &mut self,
        now: Instant,
        ways: &mut Ways,
        networks: &BTreeMap<String, Network>,
        other: &Other,
    ) {
        self.ways.retain(|name, _| networks.contains_key(name));
        let first = if ways.link(&self.name).is_some_and(is_ours) { Way::Tunnel } else { Way::Lan };
        let mut hosts = BTreeSet::new();
        for (name, network) in networks {
            let index = ways.link(&network.interface).map(|link| link.index);
            let (Some(index), Some(mac)) = (index, other.mac(name)) else { continue };
            let is_its = |it: [u8; 6]| it == mac || network.virtual_mac && is_virtual(it, network.vrid);
            let all = other.addresses(name);
            hosts.extend(all.iter().map(|ip| (index, *ip)));
            let seen: Option<Vec<Seen>> =
                all.iter().map(|ip| self.see(now, ways, (index, *ip), is_its)).collect();
            let Some(seen) = seen else { continue };
            // Until it is known it is what it was, perhaps in a former life.
            let before = self.ways.get(name).copied().unwrap_or(first);
            let way = Way::of(&seen).unwrap_or(before);
            if self.ways.insert(name.clone(), way).unwrap_or_default() != way {
                tracing::info!(instance = name, way = way.name(), "the way to the other node");
            }
        }
        self.asked.0.retain(|host, _| hosts.contains(host));
        self.answered.retain(|host, _| hosts.contains(host));
    }

    /// What there is to be seen of an address of the other node, whose Ethernet addresses are known; none if the kernel does not say.
    fn see(
        &mut self,
        now: Instant,
        ways: &mut Ways,
        host: (u32, IpAddr),
        is_its: impl Fn([u8; 6]) -> bool,
    ) -> Option<Seen> {
        // Addresses of one link say nothing of where they are: they may be asked for at any.
        let on_link = is_of_one_link(host.1)
            || ways.toward(host.1).ok()?.is_some_and(|toward| toward.direct && toward.index == host.0);
        if !on_link {
            return Some(Seen { on_link, answers: None });
        }
        let again = if self.answered.get(&host) == Some(&true) { REFRESH } else { ASK_AGAIN };
        if let Some(answer) = self.asked.answers(ways, now, host, again) {
            // A router may answer in its place.
            self.answered.insert(host, answer && ways.mac_of(host.0, host.1).is_some_and(is_its));
        }
        Some(Seen { on_link, answers: self.answered.get(&host).copied() })
    }

    /// How the other node is reached in the network of an instance.
    pub(super) fn way(&self, instance: &str) -> Way {
        self.ways.get(instance).copied().unwrap_or_default()
    }

    /// The networks of proxied services in which the other node is no neighbour.
    pub(super) fn apart<'a>(
        &'a self,
        networks: &'a BTreeMap<String, Network>,
    ) -> impl Iterator<Item = &'a Network> {
        let apart =
            networks.iter().filter(move |(name, it)| it.is_proxied() && self.way(name) == Way::Tunnel);
        apart.map(|(_, network)| network)
    }

    /// The device's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The device, while there is one.
    pub(super) const fn device(&self) -> Option<Device> {
        self.device
    }

    /// The interface of the link between the nodes, while there is a device.
    pub(super) const fn link(&self) -> Option<u32> {
        self.link
    }

    /// Has a device for tunnels between these ends if any instance needs it, and none if not; one that is `held` stays. What the program is
    /// to know of it: nothing before the device is up.
    pub(super) fn keep(
        &mut self,
        ways: &mut Ways,
        networks: &BTreeMap<String, Network>,
        ends: Option<Ends>,
        held: bool,
    ) -> Result<Tunnel, KernelError> {
        (self.device, self.link) = (None, None);
        let present = ways.link(&self.name).cloned();
        let is_needed = held && present.is_some() || self.apart(networks).next().is_some();
        let Some(ends) = ends.filter(|_| is_needed) else {
            if let Some(link) = present.filter(is_ours) {
                ways.remove_link(link.index)?;
            }
            return Ok(Tunnel::default());
        };
        let Some(link) = present else {
            ways.make_tunnel(&self.name, TUNNEL_PORT)?;
            return Ok(Tunnel::default());
        };
        if !is_ours(&link) {
            return Err(KernelError::TunnelName { name: self.name.clone() });
        }
        if !link.up {
            self.guard()?;
        }
        self.device = Some(Device { index: link.index, up: link.up });
        let toward =
            ways.toward(ends.other).map_err(|why| KernelError::TunnelWay { other: ends.other, why })?;
        self.link = toward.map(|toward| toward.index);
        Ok(Tunnel {
            ifindex: if link.up { link.index } else { 0 },
            link: self.link.unwrap_or(0),
            v6: u32::from(ends.other.is_ipv6()),
            other: ends.other.into(),
            own: ends.own.into(),
        })
    }

    fn guard(&self) -> Result<(), KernelError> {
        for (family, setting) in GUARDS {
            let path = format!("/proc/sys/net/{family}/conf/{}/{setting}", self.name);
            match fs::write(&path, "1") {
                // A kernel without the family takes none of its packets.
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(KernelError::TunnelGuard { path: path.into(), source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What cannot pass the tunnel of an interface that carries so much, if anything. IPv4 fragments it.
    pub(super) fn lacks_room(&self, ways: &mut Ways, ends: Ends, mtu: u32) -> Option<String> {
        // Where the kernel does not say, there is nothing to be said.
        let toward = ways.toward(ends.other).ok()?.filter(|_| ends.other.is_ipv6())?;
        let needed = mtu + OVERHEAD_V6;
        (toward.mtu < needed).then(|| {
            format!(
                "packets of more than {} bytes do not get to the other node through the link, which has an MTU of {}: give it \
                 {needed}, or addresses of IPv4",
                toward.mtu.saturating_sub(OVERHEAD_V6),
                toward.mtu
            )
        })
    }
}

fn is_ours(link: &Link) -> bool {
    link.kind == KIND
}

const fn is_of_one_link(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Whether this is an Ethernet address of a virtual router (RFC 9568, section 7.3).
fn is_virtual(mac: [u8; 6], vrid: u8) -> bool {
    [1, 2].into_iter().any(|family| mac == [0, 0, 0x5e, 0, family, vrid])
}

/// Another one for each run directory, and of at most 15 bytes, as the kernel wants it.
fn device_name(run_dir: &Path) -> String {
    let folder = node_folder(run_dir);
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (_, hash) = name.rsplit_once('_').unwrap_or_default();
    format!("tandem-{hash}")
}

/// Removes the device, if there is one. Answers where it was.
pub(super) fn remove(run_dir: &Path) -> Result<Option<PathBuf>, NetlinkError> {
    let name = device_name(run_dir);
    let mut netlink = Netlink::open()?;
    let links = netlink.links()?.list;
    let Some(link) = links.iter().find(|link| link.name == name && is_ours(link)) else { return Ok(None) };
    netlink.remove_link(link.index)?;
    Ok(Some(Path::new("/sys/class/net").join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_devices_name_fits_the_kernel() {
        let name = device_name(Path::new("/run/tandem"));
        assert_eq!((name.len(), name.starts_with("tandem-")), (libc::IFNAMSIZ - 1, true), "{name}");
        assert_ne!(name, device_name(Path::new("/run/tandem_b")));
    }
}
