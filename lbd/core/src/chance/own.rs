//! What this node has and says of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use common::time::{Duration, Instant};

use super::{ADDRESSES_MAX, INSTANCES_MAX, Standing, Word};

/// After the virtual IPs have left, connections may come up for so long: those whose handshake was under way. A client repeats its
/// last step after a second, and again after two.
pub const LINGER: Duration = Duration::from_secs(5);

/// Virtual IPs that a node had and whose addresses it still has count as its own for so long while `vrrpd` does not say whose they are: it is connected
/// to again after seconds, and when it ends, it takes the addresses off or something does in its place.
pub const UNSAID_MAX: Duration = Duration::from_secs(30);

/// This node's side of an instance's network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its Ethernet address, if it has one.
    pub mac: Option<[u8; 6]>,
    /// Its addresses that are no virtual IPs; the first of them count.
    pub addresses: Vec<IpAddr>,
    /// Whether packets for the virtual IPs are for this host: it has local routes to them. Without those nothing gets to connections.
    pub local: bool,
}

/// This node's instances.
#[derive(Clone, Debug, Default)]
pub struct Own {
    instances: BTreeMap<String, Instance>,
}

#[derive(Clone, Debug, Default)]
struct Instance {
    interface: Interface,
    owner: bool,
    /// Since when nobody says whether it is, though the virtual IPs are here.
    unsaid: Option<Instant>,
    /// When the virtual IPs left, as long as it matters.
    left: Option<Instant>,
    draining: u32,
}

impl Own {
    /// These are the instances with proxied services, and how this node is in their networks.
    pub fn configured(&mut self, instances: &BTreeMap<String, Interface>) {
        self.instances.retain(|name, _| instances.contains_key(name));
        for (name, interface) in instances.iter().take(INSTANCES_MAX) {
            self.instances.entry(name.clone()).or_default().interface = interface.clone();
        }
    }

    /// This node has the virtual IPs of the instances `owned` now. Of those `unsaid` nobody says whose they are, and their addresses are here: they
    /// are whose they were, for [`UNSAID_MAX`] at most.
    pub fn owns(&mut self, now: Instant, owned: &BTreeSet<String>, unsaid: &BTreeSet<String>) {
        for (name, instance) in &mut self.instances {
            instance.unsaid = if unsaid.contains(name) { instance.unsaid.or(Some(now)) } else { None };
            let stays = instance.unsaid.is_some_and(|since| now - since < UNSAID_MAX);
            let owner = owned.contains(name) || (instance.owner && stays);
            if owner {
                (instance.left, instance.draining) = (None, 0);
            } else if instance.owner {
                instance.left = Some(now);
            }
            instance.owner = owner;
        }
    }

    /// Whether this node has the virtual IPs of an instance, as far as is known.
    #[must_use]
    pub fn is_owner(&self, instance: &str) -> bool {
        self.instances.get(instance).is_some_and(|instance| instance.owner)
    }

    /// The instances whose connections are to be counted: those that have left and may have any.
    pub fn to_count(&self) -> impl Iterator<Item = &str> {
        self.instances.iter().filter(|(_, it)| it.left.is_some()).map(|(name, _)| name.as_str())
    }

    /// So many connections there are of the instances [to be counted](Self::to_count); none of those that are missing.
    pub fn counted(&mut self, now: Instant, counts: &BTreeMap<String, u32>) {
        for (name, instance) in &mut self.instances {
            let Some(left) = instance.left else { continue };
            instance.draining = counts.get(name).copied().unwrap_or(0);
            if instance.draining == 0 && now - left >= LINGER {
                instance.left = None;
            }
        }
    }

    /// When the virtual IPs of an instance left whose connections are still served.
    #[must_use]
    pub fn left(&self, instance: &str) -> Option<Instant> {
        self.instances.get(instance)?.left
    }

    /// What the other node is to know.
    #[must_use]
    pub fn word(&self) -> Word {
        let standing = |(name, instance): (&String, &Instance)| Standing {
            instance: name.clone(),
            mac: instance.interface.mac,
            addresses: instance.interface.addresses.iter().take(ADDRESSES_MAX).copied().collect(),
            may_have: instance.interface.local && (instance.owner || instance.left.is_some()),
            draining: instance.draining,
        };
        Word { instances: self.instances.iter().map(standing).collect() }
    }
}
