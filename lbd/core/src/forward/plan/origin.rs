//! Where packets to targets come from, as far as the way to them may depend on it (`ip rule from ADDRESS`).
//!
//! With `nat` the virtual IP is their source. A target has one way, so that of all virtual IPs that lead to it through one ring the
//! lowest counts. Packets that keep their clients' addresses, and tunnels, go by the target's address alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use common::config::{Config, Method, Service};

use super::Former;
use super::keys::{Family, RingKey};

/// What leads to the targets of a group in one way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The group.
    pub group: String,
    /// Only targets of this family are meant; none for both.
    ipv4: Option<bool>,
    /// Sources of the packets; none where they are not this host's, or where the way does not depend on them.
    pub sources: BTreeSet<IpAddr>,
}

impl Origin {
    /// The source that the way is looked up for.
    #[must_use]
    pub fn source(&self) -> Option<IpAddr> {
        self.sources.first().copied()
    }

    /// Whether a target's packets come from here.
    #[must_use]
    pub fn is_for(&self, target: IpAddr) -> bool {
        self.ipv4.is_none_or(|ipv4| ipv4 == target.is_ipv4())
    }
}

/// Of everything that the kernel forwards to targets, those of groups that services have turned away from included.
#[must_use]
pub fn origins(file: &Config, former: &Former) -> Vec<Origin> {
    by_ring(file, former).into_values().collect()
}

/// The source that the way of a service's packets to a target is looked up for.
#[must_use]
pub fn source_of(file: &Config, service: &Service, target: IpAddr) -> Option<IpAddr> {
    let method = service.forwarding?.method;
    let listen = service.listen.iter().find(|listen| listen.address.is_ipv4() == target.is_ipv4())?;
    by_ring(file, &Former::default()).get(&RingKey::of(service, method, listen))?.source()
}

/// The same by ring.
pub(super) fn by_ring(file: &Config, former: &Former) -> BTreeMap<RingKey, Origin> {
    let mut origins = of_groups(file, |service| vec![former.serving(service)]);
    // Flows that go on have no say in where new ones go.
    for (key, origin) in of_groups(file, |service| former.others(service).collect()) {
        origins.entry(key).or_insert(origin);
    }
    origins
}

/// The same of these groups of each service.
fn of_groups<'f>(
    file: &'f Config,
    groups: impl Fn(&'f Service) -> Vec<&'f str>,
) -> BTreeMap<RingKey, Origin> {
    let mut origins: BTreeMap<RingKey, Origin> = BTreeMap::new();
    let mut preserved = BTreeSet::new();
    for service in file.services.iter().filter(|service| service.mode.in_kernel()) {
        let Some(forwarding) = service.forwarding else { continue };
        for (listen, group) in service
            .listen
            .iter()
            .flat_map(|listen| groups(service).into_iter().map(move |group| (listen, group)))
        {
            let key = RingKey::of(service, forwarding.method, listen).to(group);
            let fresh = || Origin {
                group: group.to_owned(),
                ipv4: key.family.map(|family| family == Family::V4),
                sources: BTreeSet::new(),
            };
            let origin = origins.entry(key.clone()).or_insert_with(fresh);
            match forwarding.method {
                Method::Nat { preserve_client_ip: false } => {
                    origin.sources.insert(listen.address.ip());
                }
                Method::Nat { preserve_client_ip: true } => {
                    preserved.insert(key);
                }
                Method::Dsr(_) => {}
            }
        }
    }
    // What has other sources, too, goes by none.
    for key in preserved {
        origins.entry(key).or_default().sources.clear();
    }
    origins
}
