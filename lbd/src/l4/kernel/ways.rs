//! The ways to targets as the kernel sees them now: interface, Ethernet addresses, MTU. Follows every change, has the kernel
//! look for neighbours that are not known, and keeps those in use fresh: forwarded packets do not count as use.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::netlink::{Change, Link, Monitor, Neighbour, Netlink, NetlinkError, Route};

/// An unknown neighbour is asked for again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A neighbour of which the kernel has not heard is asked whether it is still there, as often as this.
const REFRESH: Duration = Duration::from_secs(20);

/// Changes taken in one go, so that a flood of them cannot keep the thread.
const CHANGES_MAX: usize = 4096;

/// A way to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// The interface.
    pub(crate) index: u32,
    /// Its Ethernet address.
    pub(crate) source_mac: [u8; 6],
    /// The target's, or that of the router before it.
    pub(crate) destination_mac: [u8; 6],
    /// The largest IP packet, in bytes.
    pub(crate) mtu: u32,
    /// This host's address on the way.
    pub(crate) source: Option<IpAddr>,
    /// The router, if the target is not on the same network.
    pub(crate) gateway: Option<IpAddr>,
}

/// Why there is no way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoWay {
    /// The kernel has none.
    #[error("there is no route to it")]
    NoRoute,
    /// It is this host.
    #[error("its address is one of this host's; the kernel forwards to other hosts only")]
    Local,
    /// No Ethernet below.
    #[error("the route goes through {interface}, which is no Ethernet interface")]
    NotEthernet {
        /// The interface.
        interface: String,
    },
    /// Nobody has answered.
    #[error("nobody answers for {neighbour} on {interface}")]
    NoNeighbour {
        /// Who is asked for.
        neighbour: IpAddr,
        /// Where.
        interface: String,
        /// It was asked for only just now.
        patient: bool,
    },
}

/// When the kernel was asked to look for a neighbour, or after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// Since then it has not been usable; if it is, the last look.
    first: Instant,
    last: Instant,
}

/// The host's network.
#[derive(Debug)]
pub(super) struct Ways {
    netlink: Netlink,
    monitor: Monitor,
    links: HashMap<u32, Link>,
    addresses: HashMap<IpAddr, u32>,
    neighbours: HashMap<(u32, IpAddr), Neighbour>,
    /// The kernel's choice for each address asked for since the last change.
    routes: HashMap<IpAddr, Option<Route>>,
    /// Neighbours in use, and when the kernel was last asked to look for them.
    used: HashMap<(u32, IpAddr), Asked>,
}

impl Ways {
    /// Looks at the network of the calling thread's namespace.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let monitor = Monitor::open()?;
        let mut ways = Self {
            netlink: Netlink::open()?,
            monitor,
            links: HashMap::new(),
            addresses: HashMap::new(),
            neighbours: HashMap::new(),
            routes: HashMap::new(),
            used: HashMap::new(),
        };
        ways.list()?;
        ways.list_neighbours()?;
        Ok(ways)
    }

    /// Takes what has changed; true if a way may be another one now.
    pub(super) fn follow(&mut self) -> Result<bool, NetlinkError> {
        let (mut ways, mut neighbours, mut overrun) = (false, false, false);
        for _ in 0..CHANGES_MAX {
            let change = self.monitor.next().map_err(|source| NetlinkError::Refused {
                action: "reading what has changed on the network".to_owned(),
                source,
            })?;
            match change {
                None => break,
                Some(Change::Ways) => ways = true,
                Some(Change::Neighbour(neighbour)) => neighbours |= self.learn(neighbour),
                Some(Change::NeighbourGone(gone)) => {
                    let key = (gone.index, gone.ip);
                    self.neighbours.remove(&key);
                    neighbours |= self.used.contains_key(&key);
                }
                Some(Change::Overrun) => overrun = true,
            }
        }
        if overrun {
            self.list_neighbours()?;
        }
        if ways || overrun {
            self.list()?;
        }
        Ok(ways || neighbours || overrun)
    }

    /// Begins a round of [`Self::way`]: neighbours that it does not ask for are no longer in use.
    pub(super) fn begin(&mut self) -> HashMap<(u32, IpAddr), Asked> {
        std::mem::take(&mut self.used)
    }

    /// The way to `target` now. What is not known is asked for, and told by a change.
    pub(super) fn way(
        &mut self,
        target: IpAddr,
        asked: &HashMap<(u32, IpAddr), Asked>,
        now: Instant,
    ) -> Result<Result<Way, NoWay>, NetlinkError> {
        let Some(route) = self.route(target)? else { return Ok(Err(NoWay::NoRoute)) };
        if !route.unicast {
            return Ok(Err(if route.local { NoWay::Local } else { NoWay::NoRoute }));
        }
        let Some(link) = self.links.get(&route.index) else { return Ok(Err(NoWay::NoRoute)) };
        let Some(source_mac) = link.mac else {
            return Ok(Err(NoWay::NotEthernet { interface: link.name.clone() }));
        };
        let neighbour = route.gateway.unwrap_or(target);
        let key = (route.index, neighbour);
        let known = self.neighbours.get(&key).filter(|known| known.usable());
        let Some(destination_mac) = known.and_then(|known| known.mac) else {
            let interface = link.name.clone();
            let before = asked.get(&key);
            let due = before.is_none_or(|at| now.duration_since(at.last) >= ASK_AGAIN);
            let first = before.map_or(now, |at| at.first);
            self.note(key, first, before.filter(|_| !due).map(|at| at.last), now)?;
            let patient = now.duration_since(first) < ASK_AGAIN;
            return Ok(Err(NoWay::NoNeighbour { neighbour, interface, patient }));
        };
        let mtu = route.mtu.unwrap_or(u32::MAX).min(link.mtu);
        let way = Way {
            index: route.index,
            source_mac,
            destination_mac,
            mtu,
            source: route.source,
            gateway: route.gateway,
        };
        let stale = known.is_some_and(Neighbour::stale);
        let before = asked.get(&key);
        let due = stale && before.is_none_or(|at| now.duration_since(at.last) >= REFRESH);
        let last = before.map_or(now, |at| at.last);
        self.note(key, now, (!due).then_some(last), now)?;
        Ok(Ok(way))
    }

    /// When [`Self::way`] is to be asked again without a change: to look again for neighbours.
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        let next = |(key, at): (&(u32, IpAddr), &Asked)| match self.neighbours.get(key) {
            Some(known) if known.usable() => known.stale().then(|| at.last + REFRESH),
            _ => Some(at.last + ASK_AGAIN),
        };
        self.used.iter().filter_map(next).min().map(|at| at.max(now))
    }

    /// The interface of this name.
    pub(super) fn link(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// The interface with this index.
    pub(super) fn link_at(&self, index: u32) -> Option<&Link> {
        self.links.get(&index)
    }

    /// The addresses of these interfaces.
    pub(super) fn addresses_at(&self, indexes: impl Fn(u32) -> bool) -> BTreeSet<(u32, IpAddr)> {
        self.addresses.iter().map(|(ip, index)| (*index, *ip)).filter(|(index, _)| indexes(*index)).collect()
    }

    /// Has the kernel find out whether a host is there.
    pub(super) fn ask(&mut self, index: u32, ip: IpAddr) -> Result<(), NetlinkError> {
        match self.neighbours.get(&(index, ip)) {
            Some(known) if known.usable() => self.netlink.ask(index, ip),
            _ => self.netlink.probe(index, ip),
        }
    }

    /// Whether a host is there, as far as the kernel knows.
    pub(super) fn present(&self, index: u32, ip: IpAddr) -> Option<bool> {
        self.neighbours.get(&(index, ip))?.present()
    }

    /// Whether packets for an address are for this host.
    pub(super) fn is_local(&mut self, ip: IpAddr) -> Result<bool, NetlinkError> {
        Ok(self.route(ip)?.is_some_and(|route| route.local))
    }

    /// The interface that has this address.
    pub(super) fn holder(&self, address: IpAddr) -> Option<u32> {
        self.addresses.get(&address).copied()
    }

    /// The kernel's choice for an address.
    fn route(&mut self, ip: IpAddr) -> Result<Option<Route>, NetlinkError> {
        if let Some(known) = self.routes.get(&ip) {
            return Ok(known.clone());
        }
        let found = self.netlink.route(ip)?;
        self.routes.insert(ip, found.clone());
        Ok(found)
    }

    /// Notes that a neighbour is in use; it was last asked for at `last`, or is now.
    fn note(
        &mut self,
        key: (u32, IpAddr),
        first: Instant,
        last: Option<Instant>,
        now: Instant,
    ) -> Result<(), NetlinkError> {
        if last.is_none() {
            self.netlink.probe(key.0, key.1)?;
        }
        self.used.insert(key, Asked { first, last: last.unwrap_or(now) });
        Ok(())
    }

    /// Takes a neighbour; true if it is in use and can be used in another way than before.
    fn learn(&mut self, neighbour: Neighbour) -> bool {
        let key = (neighbour.index, neighbour.ip);
        let usable = |it: &Neighbour| it.mac.filter(|_| it.usable());
        let (new, stale) = (usable(&neighbour), neighbour.stale());
        let old = self.neighbours.insert(key, neighbour);
        let changed =
            old.as_ref().and_then(usable) != new || old.as_ref().map(Neighbour::stale) != Some(stale);
        changed && self.used.contains_key(&key)
    }

    fn list(&mut self) -> Result<(), NetlinkError> {
        self.links = self.netlink.links()?.into_iter().map(|link| (link.index, link)).collect();
        self.addresses = self.netlink.addresses()?.into_iter().collect();
        self.routes.clear();
        Ok(())
    }

    fn list_neighbours(&mut self) -> Result<(), NetlinkError> {
        let list = self.netlink.neighbours()?;
        self.neighbours = list.into_iter().map(|it| ((it.index, it.ip), it)).collect();
        Ok(())
    }
}

impl AsFd for Ways {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.monitor.as_fd()
    }
}
