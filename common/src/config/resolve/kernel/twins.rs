//! One address as a target of `nat` twice: with a port of its own, and without while packets ask it for this port. The two have
//! source ports of their own, so that two connections could have the same addresses and ports towards the target.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::group::{User, addresses};
use super::mode_of;
use crate::config::diag::Problems;
use crate::config::problem::Problem;
use crate::config::raw::{At, RawGroup};
use crate::config::types::{Listen, Protocol};

/// What the packets of a service have as their source: its own address, or none for their clients'.
type Source = Option<IpAddr>;

/// A target with a port of its own, and the sources of what is forwarded to it.
type Other<'r> = (&'r At<SocketAddr>, BTreeSet<(Protocol, Source)>);

/// The groups that services of `nat` forward to.
#[derive(Default)]
pub(super) struct Twins<'r> {
    groups: Vec<Group<'r>>,
}

struct Group<'r> {
    raw: &'r RawGroup,
    arrivals: Vec<(Source, &'r Listen)>,
}

impl<'r> Twins<'r> {
    /// Adds what forwards to a group.
    pub(super) fn add(&mut self, raw: &'r RawGroup, users: &[User<'r>]) {
        let mut arrivals = Vec::new();
        for (service, listen) in users {
            if mode_of(service).is_none_or(|mode| *mode.get_ref() != "nat") {
                continue;
            }
            let preserve = service.preserve_client_ip.as_ref().is_some_and(|it| *it.get_ref());
            let source = |listen: &Listen| (!preserve).then(|| listen.address.ip());
            arrivals.extend(listen.iter().map(|listen| (source(listen), listen)));
        }
        if !arrivals.is_empty() {
            self.groups.push(Group { raw, arrivals });
        }
    }

    /// Notes each target without a port that has a twin.
    pub(super) fn check(&self, out: &mut Problems) {
        let of = |group: &Group<'r>, with_port: bool| {
            addresses(group.raw).filter(move |it| (it.get_ref().port() != 0) == with_port)
        };
        let bare: BTreeSet<IpAddr> =
            self.groups.iter().flat_map(|group| of(group, false)).map(|it| it.get_ref().ip()).collect();
        // By address, those that may be one's twin, each with the sources of its packets.
        let mut twins: BTreeMap<IpAddr, Vec<Other<'_>>> = BTreeMap::new();
        for group in &self.groups {
            for target in of(group, true).filter(|target| bare.contains(&target.get_ref().ip())) {
                let ip = target.get_ref().ip();
                let sources = group.arrivals_for(ip).map(|(source, listen)| (listen.protocol, source));
                twins.entry(ip).or_default().push((target, sources.collect()));
            }
        }
        for group in &self.groups {
            for target in of(group, false) {
                let ip = target.get_ref().ip();
                let twin = twins.get(&ip).into_iter().flatten().find_map(|(twin, sources)| {
                    let port = twin.get_ref().port();
                    let meets = |(source, listen): &(Source, &Listen)| {
                        sources.contains(&(listen.protocol, *source)) && listen.ports().contains(&port)
                    };
                    group.arrivals_for(ip).find(meets).map(|(_, listen)| (*twin, listen))
                });
                let Some((twin, listen)) = twin else { continue };
                let (address, listen, other) =
                    (ip.to_string(), listen.to_string(), twin.get_ref().to_string());
                let problem = Problem::TargetTwice { address, listen, other };
                out.add(target.span(), problem).related(twin.span(), "the other one");
            }
        }
    }
}

impl<'r> Group<'r> {
    /// What is forwarded to a target.
    fn arrivals_for(&self, target: IpAddr) -> impl Iterator<Item = (Source, &'r Listen)> {
        self.arrivals.iter().copied().filter(move |(_, it)| it.address.is_ipv4() == target.is_ipv4())
    }
}
