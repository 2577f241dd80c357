//! Health checks through virtual IPs: on the way of clients' packets, so that a target that lacks the virtual IP, or does not
//! take packets out of its tunnel, is not thought well because its own address answers.
//!
//! Which of its group's virtual IPs a target is asked at, the configuration says
//! ([`checked_through`](common::config::Config::checked_through)).

use std::collections::BTreeSet;
use std::net::IpAddr;

use common::config::{self, Via};
use ipnet::IpNet;

use super::build::Builder;
use super::indexes::Kind;
use super::keys::{Family, RingKey, Way};
use super::{TargetInput, targets};
use crate::forward::abi::CONFIG_HAS_CHECKS;
use crate::target::TargetKey;

/// How a target can be checked now that is to be checked through a virtual IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// As a client of the virtual IP.
    Through(Through),
    /// As a client, but nobody knows the way to it: its fault until it is found.
    Lost,
    /// Not now, and not by its fault: why.
    Later(&'static str),
    /// At its own address in place of the virtual IP: why.
    Own(&'static str),
}

/// What makes a check's packets those of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Through {
    /// The target's number, which goes into the socket's mark.
    pub target: u16,
    /// The virtual IP.
    pub vip: IpAddr,
    /// This host's address that is the client's.
    pub source: IpAddr,
    /// The largest TCP segment that reaches the target.
    pub segment: u16,
}

const NO_VIP: &str = "the virtual IP is not on this host, where vrrpd puts it: it does not run";
const NO_SOURCE: &str = "this host has no address of the virtual IP's family, but virtual IPs, at an interface that answers could come to";
const NOT_FORWARDED: &str = "packets are not forwarded to it";
const NO_HOOK: &str = "the kernel's program for checks is not in its place";

impl Check {
    /// The same where the kernel's program is not there that it takes.
    #[must_use]
    pub const fn without_program(self) -> Self {
        match self {
            Self::Through(_) | Self::Lost => Self::Own(NO_HOOK),
            other => other,
        }
    }

    /// What people should know about it; none if all is as it should be, or is said of the target's way.
    #[must_use]
    pub fn trouble(self) -> Option<String> {
        match self {
            Self::Through(_) | Self::Lost => None,
            Self::Later(why) => Some(format!("its health is not checked: {why}")),
            Self::Own(why) => Some(format!("its health is checked at its own address: {why}")),
        }
    }
}

impl Builder<'_> {
    /// Finds out how each target is checked that is to be checked through a virtual IP.
    pub(super) fn add_checks(&mut self) {
        let input = self.input;
        let by_vip =
            |group: &&config::TargetGroup| group.health.as_ref().is_some_and(|it| it.via == Via::Vip);
        let vips = vips(input.file);
        for group in input.file.target_groups.iter().filter(by_vip) {
            self.out.config.flags |= CONFIG_HAS_CHECKS;
            for target in input.groups.get(&group.name).map_or(&[][..], Vec::as_slice) {
                let check = self.check(group, target, &vips);
                let key =
                    TargetKey { group: group.name.clone(), id: target.id.clone(), address: target.address };
                self.out.checks.insert(key, check);
            }
        }
    }

    fn check(&self, group: &config::TargetGroup, target: &TargetInput, vips: &BTreeSet<IpAddr>) -> Check {
        let through = self.input.file.checked_through(group, target.address);
        let way = through.and_then(|(service, listen)| Some((service.forwarding?.method, listen)));
        let Some((method, listen)) = way else { return Check::Own(NOT_FORWARDED) };
        let (vip, way) = (listen.address.ip(), Way::of(method));
        let key = RingKey { group: group.name.clone(), way, protocol: listen.protocol, family: None };
        let Some(number) = self.indexes.number(Kind::Target, &targets::name(&key, target)) else {
            return Check::Own(NOT_FORWARDED);
        };
        if self.input.absent.contains(&vip) {
            return Check::Later(NO_VIP);
        }
        let made = self.out.targets.get(&u32::from(number)).filter(|made| made.ifindex != 0);
        let Some(made) = made else { return Check::Lost };
        let Some(source) = self.client_address(target.address.ip(), vip, vips) else {
            return Check::Own(NO_SOURCE);
        };
        let segment = u32::from(made.mtu).saturating_sub(Family::of(vip).headers());
        let segment = u16::try_from(segment).unwrap_or(u16::MAX);
        Check::Through(Through { target: number, vip, source, segment })
    }

    /// The address of this host as which a target is asked: the one that the kernel would choose towards it, else any at that
    /// interface, else any at another. Never a virtual IP: those the target has, too.
    fn client_address(&self, target: IpAddr, vip: IpAddr, vips: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let fits = |ip: &IpAddr| ip.is_ipv4() == vip.is_ipv4() && is_global(*ip) && !vips.contains(ip);
        let hop = self.input.hops.get(&(target, None))?;
        let own = self.input.own.iter();
        let others = own.filter(|(_, ip)| fits(ip)).min_by_key(|(index, ip)| (*index != hop.ifindex, *ip));
        hop.source.filter(fits).or_else(|| others.map(|(_, ip)| *ip))
    }
}

/// All virtual IPs, and whatever else packets are forwarded from.
fn vips(file: &config::Config) -> BTreeSet<IpAddr> {
    let instances = file.vrrp.iter().flat_map(|vrrp| vrrp.vips.iter().map(IpNet::addr));
    let services = file.services.iter().filter(|service| service.mode.in_kernel());
    instances.chain(services.flat_map(|service| service.listen.iter().map(|it| it.address.ip()))).collect()
}

/// Whether others than the neighbours on one link can answer to it.
fn is_global(ip: IpAddr) -> bool {
    let one_link = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !one_link && !ip.is_loopback() && !ip.is_unspecified()
}
