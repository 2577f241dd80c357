//! What the other node may have, as it says itself.

use std::collections::BTreeMap;
use std::net::IpAddr;

use common::time::{Duration, Instant};

use super::{Standing, Word};

/// What the other node said holds for so long after it was last heard of. A link that is cut for a moment breaks no connection;
/// a node that is gone gets nothing any more after that, and clients whose connections it had are told.
pub const LEASE: Duration = Duration::from_secs(10);

/// And where the other node is still seen in the network of an instance, for so long: as long as any connection may be drained.
pub const ALONE_MAX: Duration = Duration::from_secs(3600);

/// The other node.
#[derive(Clone, Debug, Default)]
pub struct Other {
    standings: BTreeMap<String, Standing>,
    until: BTreeMap<String, Instant>,
    sessions_until: BTreeMap<String, Instant>,
    connected: bool,
    /// When it was last connected.
    last: Instant,
}

impl Other {
    /// It has said this; nothing means that there is no connection to it.
    pub fn heard(&mut self, now: Instant, word: Option<&Word>) {
        self.connected = word.is_some();
        if let Some(word) = word {
            let standings = word.instances.iter().map(|it| (it.instance.clone(), it.clone()));
            self.standings = standings.collect();
        }
        self.renew(now, |_| None);
    }

    /// Its process has ended, and with it its sockets. Packets of its connections are sent on for a while all the same: its host resets
    /// them, so that clients know. Sessions of datagrams have nobody to tell their clients, and begin anew here.
    pub fn ended(&mut self) {
        self.sessions_until.clear();
    }

    /// While it is connected, what it said last goes on to be true. If it is not, the network is asked: `present` says of an instance
    /// whether the other node is there, or was found not to be. To be called more often than every [`LEASE`].
    pub fn renew(&mut self, now: Instant, present: impl Fn(&str) -> Option<bool>) {
        self.until.retain(|_, until| now < *until);
        self.sessions_until.retain(|_, until| now < *until);
        if self.connected {
            self.last = now;
            let may = self.standings.values().filter(|standing| standing.may_have);
            let until: Vec<_> = may.map(|standing| (standing.instance.clone(), now + LEASE)).collect();
            // Where it says that it has none any more, none is sent on for a lease that has not run out.
            self.sessions_until = until.iter().cloned().collect();
            self.until.extend(until);
            return;
        }
        let (alone, standings) = (now - self.last, &self.standings);
        self.until.retain(|instance, until| {
            let present = present(instance);
            // Where it had none any more when it was heard last, it has none now.
            let may_have = standings.get(instance).is_some_and(|standing| standing.may_have);
            if present == Some(true) && may_have && alone < ALONE_MAX {
                *until = now + LEASE;
            }
            present != Some(false)
        });
        self.sessions_until.retain(|instance, _| self.until.contains_key(instance));
    }

    /// The instances for which the network is to be asked, and the other node's addresses there.
    pub fn to_look_for(&self) -> impl Iterator<Item = (&str, &[IpAddr])> {
        let instances = self.until.keys().filter(|_| !self.connected);
        instances.filter_map(|name| Some((name.as_str(), self.standings.get(name)?.addresses.as_slice())))
    }

    /// Until when it may have connections of an instance; none if it has none.
    #[must_use]
    pub fn until(&self, instance: &str) -> Option<Instant> {
        self.until.get(instance).copied()
    }

    /// Until when it may have sessions of datagrams of an instance. Unlike connections, they are not sent on to a node that is there but
    /// does not say whether its `lbd` is.
    #[must_use]
    pub fn sessions_until(&self, instance: &str) -> Option<Instant> {
        self.sessions_until.get(instance).copied()
    }

    /// Its addresses in the network of an instance.
    #[must_use]
    pub fn addresses(&self, instance: &str) -> &[IpAddr] {
        self.standings.get(instance).map_or(&[], |standing| &standing.addresses)
    }

    /// Its Ethernet address in the network of an instance.
    #[must_use]
    pub fn mac(&self, instance: &str) -> Option<[u8; 6]> {
        self.standings.get(instance)?.mac
    }

    /// How many connections of an instance it serves for this node, as it said last; 0 without a connection to it.
    #[must_use]
    pub fn draining(&self, instance: &str) -> u32 {
        let standing = self.standings.get(instance).filter(|_| self.connected);
        standing.map_or(0, |standing| standing.draining)
    }
}
