//! Targets of `nat` that are the same to the network: one of a port of its own, and one of the same address without, that is asked for
//! this port. Each has source ports of its own, so that two connections could have the same addresses and ports there. `check`
//! refuses them in the file; what is found or added later is left out here: the one without a port.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use common::config::{Listen, Protocol};

use super::build::Users;
use super::keys::{RingKey, Way};
use super::{TargetInput, Use};

/// Whose packets have which source: a virtual IP, or none for their clients.
type Source = Option<IpAddr>;

/// Targets with a port of their own, by address.
#[derive(Debug, Default)]
pub(super) struct Twins(BTreeMap<(IpAddr, Protocol), BTreeMap<u16, BTreeSet<Source>>>);

impl Twins {
    pub(super) fn of(rings: &BTreeMap<RingKey, Users>, groups: &BTreeMap<String, Vec<TargetInput>>) -> Self {
        let nat = || rings.iter().filter(|(key, _)| key.way == Way::Nat);
        let targets = |key: &RingKey| groups.get(&key.group).map_or(&[][..], Vec::as_slice);
        let mut twins = Self::default();
        if !nat().any(|(key, _)| targets(key).iter().any(|target| target.address.port() == 0)) {
            return twins;
        }
        for (key, users) in nat() {
            let sources: BTreeSet<Source> = sources(users).map(|(source, _)| source).collect();
            let serves = |target: &&TargetInput| matches!(target.used, Use::Up(_));
            for target in targets(key).iter().filter(serves).filter(|target| target.address.port() != 0) {
                let ports = twins.0.entry((target.address.ip(), key.protocol)).or_default();
                ports.entry(target.address.port()).or_default().extend(&sources);
            }
        }
        twins
    }

    /// Whether a target without a port has one.
    pub(super) fn has(&self, target: IpAddr, key: &RingKey, users: &Users) -> bool {
        let Some(ports) = self.0.get(&(target, key.protocol)) else { return false };
        sources(users)
            .any(|(source, listen)| ports.range(listen.ports()).any(|(_, sources)| sources.contains(&source)))
    }
}

/// The sources that packets have, with what they are sent to.
fn sources(users: &Users) -> impl Iterator<Item = (Source, &Listen)> {
    let preserved = users.preserved.iter().map(|(listen, _)| (None, listen));
    users.translated.iter().map(|listen| (Some(listen.address.ip()), listen)).chain(preserved)
}
