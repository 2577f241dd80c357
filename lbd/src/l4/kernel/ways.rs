//! The ways to targets as the kernel sees them now: interface, Ethernet addresses, MTU. Follows every change, has the kernel
//! look for neighbours that are not known, and keeps those in use fresh: forwarded packets do not count as use.
//!
//! What the kernel refuses to say of one target concerns that one alone: it keeps the way that it had. What could not be listed is
//! listed again, sooner at first and then less often ([`BACKOFF`]), and what was known of it counts until then.
//!
//! Where the program is in the driver, the host's routers are in use as well: the way back to clients is theirs.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use lbd_core::forward::next_hops::Neighbourhood;

use super::netlink::{Change, Link, Listed, Monitor, Neighbour, Netlink, NetlinkError, Route, Step};

/// An unknown neighbour is asked for again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A neighbour of which the kernel has not heard is asked whether it is still there, as often as this.
const REFRESH: Duration = Duration::from_secs(20);

/// Changes taken in one go, so that a flood of them cannot keep the thread.
const CHANGES_MAX: usize = 4096;

/// The kernel is asked for a list again after the first of these times, then after twice as long, and so on up to the second.
const BACKOFF: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];

/// Routes are listed no sooner than this after the last time: where they change all the time, that would be all there is to do.
const ROUTES_AGAIN: Duration = Duration::from_secs(1);

/// What lists that were not whole have said of routes, one after the other, is known beside each other up to so much: then the last one alone
/// counts.
const STEPS_MAX: usize = 16_384;

/// Routers that are kept in use, at most. Those of more are looked for when a packet is to go there.
const ROUTERS_MAX: usize = 256;

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

/// The first step on the way to an address, whether or not its neighbour is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Toward {
    /// The interface.
    pub(super) index: u32,
    /// To no router.
    pub(super) direct: bool,
    /// The largest IP packet, in bytes.
    pub(super) mtu: u32,
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
    /// The kernel does not say.
    #[error("{why}{}", if .last.is_some() { "; the way that it had is kept" } else { "" })]
    Unknown {
        /// Why not.
        why: String,
        /// The way that it had.
        last: Option<Box<Way>>,
    },
}

/// When the kernel was asked to look for a neighbour, or after it.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// Since then it has not been usable; if it is, the last look.
    first: Instant,
    last: Instant,
}

/// An address that packets are sent to, and the one that they are sent from if that matters.
type Direction = (IpAddr, Option<IpAddr>);

/// What one round of [`Ways::way`] has left to the next.
#[derive(Debug, Default)]
pub(super) struct Round {
    asked: HashMap<(u32, IpAddr), Asked>,
    ways: HashMap<Direction, Way>,
}

/// Whom the network is asked of: the kernel.
pub(super) trait Host {
    /// All interfaces.
    fn links(&mut self) -> Result<Listed<Link>, NetlinkError>;
    /// The addresses of all interfaces.
    fn addresses(&mut self) -> Result<Listed<(IpAddr, u32)>, NetlinkError>;
    /// All neighbours.
    fn neighbours(&mut self) -> Result<Listed<Neighbour>, NetlinkError>;
    /// Where all routes lead.
    fn steps(&mut self) -> Result<Listed<Step>, NetlinkError>;
    /// The way to an address.
    fn route(&mut self, to: IpAddr, from: Option<IpAddr>) -> Result<Option<Route>, NetlinkError>;
    /// Has the kernel look for a neighbour.
    fn probe(&mut self, index: u32, ip: IpAddr) -> Result<(), NetlinkError>;
    /// Has the kernel ask a neighbour that it knows whether it is there.
    fn ask(&mut self, index: u32, ip: IpAddr) -> Result<(), NetlinkError>;
    /// The next change; none if there is none now.
    fn change(&mut self) -> Result<Option<Change>, NetlinkError>;
}

/// The kernel of a network namespace.
#[derive(Debug)]
pub(super) struct Kernel {
    netlink: Netlink,
    monitor: Monitor,
}

/// What is to be listed anew.
#[derive(Debug, Default)]
struct Stale {
    /// Interfaces and addresses.
    links: bool,
    neighbours: bool,
    /// Times in a row that it could not be listed.
    tries: u32,
    /// Not before this time.
    again: Option<Instant>,
    /// Why it could not be.
    why: Option<String>,
}

/// Where the host's routes lead, as listed last.
#[derive(Debug, Default)]
struct Reach {
    steps: BTreeSet<Step>,
    /// When that was.
    listed: Option<Instant>,
    /// They were whole, and nothing has changed since.
    fresh: bool,
    /// This round asks for them.
    wanted: bool,
}

/// What is known of a neighbour in use.
struct Attended {
    /// None if it is not known.
    mac: Option<[u8; 6]>,
    /// Since when it is not.
    first: Instant,
    /// What asking for it came to, if it was time to.
    asked: Result<(), String>,
}

/// The host's network.
#[derive(Debug)]
pub(super) struct Ways<H = Kernel> {
    host: H,
    links: HashMap<u32, Link>,
    addresses: HashMap<IpAddr, u32>,
    neighbours: HashMap<(u32, IpAddr), Neighbour>,
    /// The kernel's choice for each direction asked for since the last change.
    routes: HashMap<Direction, Option<Route>>,
    reach: Reach,
    /// Of this round: neighbours in use with the time at which the kernel was last asked to look for them, and ways found.
    round: Round,
    stale: Stale,
    /// The kernel has not answered in time since the last [`Self::follow`]: whoever else is to be asked for would wait as long.
    deaf: bool,
    failures: u64,
}

impl Ways {
    /// Looks at the network of the calling thread's namespace.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        // The monitor first: nothing falls between.
        let monitor = Monitor::open()?;
        Self::of(Kernel { netlink: Netlink::open()?, monitor })
    }

    /// Makes a device for tunnels, as [`Netlink::make_tunnel`] does; known with the next change that is followed.
    pub(super) fn make_tunnel(&mut self, name: &str, port: u16) -> Result<(), NetlinkError> {
        self.host.netlink.make_tunnel(name, port)
    }

    /// Sets an interface up or down.
    pub(super) fn set_up(&mut self, index: u32, up: bool) -> Result<(), NetlinkError> {
        self.host.netlink.set_up(index, up)
    }

    /// Removes an interface.
    pub(super) fn remove_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.host.netlink.remove_link(index)
    }
}

impl<H: Host> Ways<H> {
    /// Looks at a host's network. What cannot be listed at all is an error, this first time.
    fn of(host: H) -> Result<Self, NetlinkError> {
        let mut ways = Self {
            host,
            links: HashMap::new(),
            addresses: HashMap::new(),
            neighbours: HashMap::new(),
            routes: HashMap::new(),
            reach: Reach::default(),
            round: Round::default(),
            stale: Stale { links: true, neighbours: true, ..Stale::default() },
            deaf: false,
            failures: 0,
        };
        ways.list_neighbours()?;
        ways.list_links()?;
        ways.listed(Instant::now(), None);
        Ok(ways)
    }

    /// Takes what has changed; true if a way may be another one now. What goes wrong is in [`Self::trouble`], and is tried again.
    pub(super) fn follow(&mut self, now: Instant) -> bool {
        self.deaf = false;
        let (mut changed, mut failed) = (false, None);
        for _ in 0..CHANGES_MAX {
            match self.host.change() {
                Ok(None) => break,
                Ok(Some(Change::Ways)) => self.stale.links = true,
                Ok(Some(Change::Neighbour(neighbour))) => changed |= self.learn(neighbour),
                Ok(Some(Change::NeighbourGone(gone))) => {
                    let key = (gone.index, gone.ip);
                    self.neighbours.remove(&key);
                    changed |= self.round.asked.contains_key(&key);
                }
                Ok(Some(Change::Overrun)) => (self.stale.links, self.stale.neighbours) = (true, true),
                Err(error) => {
                    // Whatever it was, it is not told again.
                    (self.stale.links, self.stale.neighbours) = (true, true);
                    failed = Some(self.failed(&error));
                    break;
                }
            }
        }
        if self.stale.links {
            // Each is asked for again, whether or not the lists can be had.
            self.routes.clear();
            self.reach.fresh = false;
            changed = true;
        }
        let due = self.stale.again.is_none_or(|again| again <= now);
        if (self.stale.links || self.stale.neighbours) && due {
            changed = true;
            let listed = self.list();
            self.deaf |= listed.as_ref().is_err_and(NetlinkError::is_timeout);
            failed = listed.err().map(|error| error.to_string()).or(failed);
            self.listed(now, failed);
        }
        changed
    }

    /// What cannot be listed at the moment, if anything cannot: ways may be those of before.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.stale.why.as_deref()
    }

    /// Questions to the kernel that have failed.
    pub(super) const fn failures(&self) -> u64 {
        self.failures
    }

    /// Begins a round of [`Self::way`]: neighbours that it does not ask for are no longer in use.
    pub(super) fn begin(&mut self) -> Round {
        self.reach.wanted = false;
        std::mem::take(&mut self.round)
    }

    /// The way to `target` now, of packets from an address of this host's if that is given. What is not known is asked for, and told by
    /// a change.
    pub(super) fn way(
        &mut self,
        target: IpAddr,
        from: Option<IpAddr>,
        before: &Round,
        now: Instant,
    ) -> Result<Way, NoWay> {
        // Where the host does not have the address (yet), the kernel refuses to choose for it. Where it does not say, it is as it was.
        let asked_for = |from: &IpAddr| before.ways.contains_key(&(target, Some(*from)));
        let from = from.filter(|from| self.is_local(*from).unwrap_or_else(|_| asked_for(from)));
        let direction = (target, from);
        let kept = |why: String| {
            let last = before.ways.get(&direction).cloned().map(Box::new);
            NoWay::Unknown { why, last }
        };
        let found = match self.route(direction) {
            Ok(Some(route)) => self.way_of(target, &route, before, now),
            Ok(None) => Err(NoWay::NoRoute),
            Err(why) => Err(kept(why)),
        };
        // While a neighbour is asked for packets go as they went: the kernel would hold them back for that time, which the program cannot. Somebody has
        // cleared the table, or it is a router that the host has had nothing to do with.
        let found = match (found, before.ways.get(&direction)) {
            (Err(NoWay::NoNeighbour { patient: true, .. }), Some(last))
                if self.links.contains_key(&last.index) =>
            {
                Ok(last.clone())
            }
            (found, _) => found,
        };
        let way = match &found {
            Ok(way) => Some(way),
            Err(NoWay::Unknown { last, .. }) => last.as_deref(),
            Err(_) => None,
        };
        if let Some(way) = way {
            self.round.ways.insert(direction, way.clone());
        }
        found
    }

    /// The way on a route.
    fn way_of(&mut self, target: IpAddr, route: &Route, before: &Round, now: Instant) -> Result<Way, NoWay> {
        if !route.unicast {
            return Err(if route.local { NoWay::Local } else { NoWay::NoRoute });
        }
        let Some(link) = self.links.get(&route.index) else { return Err(NoWay::NoRoute) };
        let Some(source_mac) = link.mac else {
            return Err(NoWay::NotEthernet { interface: link.name.clone() });
        };
        let (interface, link_mtu) = (link.name.clone(), link.mtu);
        let neighbour = route.gateway.unwrap_or(target);
        let key = (route.index, neighbour);
        let Attended { mac, first, asked } = self.attend(key, before, now);
        let Some(destination_mac) = mac else {
            asked.map_err(|why| NoWay::Unknown { why, last: None })?;
            let patient = now.duration_since(first) < ASK_AGAIN;
            return Err(NoWay::NoNeighbour { neighbour, interface, patient });
        };
        let way = Way {
            index: route.index,
            source_mac,
            destination_mac,
            mtu: route.mtu.unwrap_or(u32::MAX).min(link_mtu),
            source: route.source,
            gateway: route.gateway,
        };
        match asked {
            Ok(()) => Ok(way),
            Err(why) => Err(NoWay::Unknown { why, last: Some(Box::new(way)) }),
        }
    }

    /// Notes that a neighbour is in use, and has the kernel look for it if it is not known, or after it if it was not heard of for some time.
    fn attend(&mut self, key: (u32, IpAddr), before: &Round, now: Instant) -> Attended {
        let asked = self.round.asked.get(&key).or_else(|| before.asked.get(&key)).copied();
        let known = self.neighbours.get(&key).filter(|known| known.usable());
        let (mac, stale) = (known.and_then(|known| known.mac), known.is_some_and(Neighbour::stale));
        let is_over = |time: Duration| asked.is_none_or(|at| now.duration_since(at.last) >= time);
        let due = if mac.is_none() { is_over(ASK_AGAIN) } else { stale && is_over(REFRESH) };
        let first = asked.filter(|_| mac.is_none()).map_or(now, |at| at.first);
        let last = asked.map_or(now, |at| at.last);
        let asked = self.note(key, first, (!due).then_some(last), now);
        Attended { mac, first, asked }
    }

    /// Has the routers of this host's routes in use in this round, [`ROUTERS_MAX`] of them at most. An error if the kernel refuses anything of
    /// that; what was known goes on.
    pub(super) fn use_routers(&mut self, before: &Round, now: Instant) -> Result<(), String> {
        self.reach.wanted = true;
        let mut result = self.list_routes(now);
        let routers = self.reach.steps.iter().filter_map(|step| match *step {
            Step::Router(index, router) => Some((index, router)).filter(|_| self.is_ethernet(index)),
            Step::Network(..) => None,
        });
        let routers: Vec<(u32, IpAddr)> = routers.take(ROUTERS_MAX).collect();
        for router in routers {
            result = result.and(self.attend(router, before, now).asked);
        }
        result
    }

    /// The networks whose hosts are neighbours of this one, as of the last [`Self::use_routers`].
    pub(super) fn neighbourhood(&self) -> Neighbourhood {
        Neighbourhood::new(self.reach.steps.iter().filter_map(|step| match *step {
            Step::Network(index, network) => Some((network, index)).filter(|_| self.is_ethernet(index)),
            Step::Router(..) => None,
        }))
    }

    fn is_ethernet(&self, index: u32) -> bool {
        self.links.get(&index).is_some_and(|link| link.mac.is_some())
    }

    /// Lists the routes where they may be others by now.
    fn list_routes(&mut self, now: Instant) -> Result<(), String> {
        let is_early = self.reach.listed.is_some_and(|at| now.duration_since(at) < ROUTES_AGAIN);
        if self.reach.fresh || is_early {
            return Ok(());
        }
        self.reach.listed = Some(now);
        let Listed { list, whole } = self.host.steps().map_err(|error| self.failed(&error))?;
        self.reach.fresh = whole;
        if whole || self.reach.steps.len() > STEPS_MAX {
            self.reach.steps.clear();
        }
        self.reach.steps.extend(list);
        Ok(())
    }

    /// Has the kernel look for a host, or after it where it was not heard of for some time. False if it refuses.
    pub(super) fn look_for(&mut self, index: u32, ip: IpAddr) -> bool {
        if self.deaf {
            return false;
        }
        match self.host.probe(index, ip) {
            Ok(()) => true,
            Err(error) => {
                self.failed(&error);
                false
            }
        }
    }

    /// The same where it is not known, or was not heard of; whether the kernel was asked.
    pub(super) fn keep(&mut self, index: u32, ip: IpAddr) -> bool {
        let known = self.neighbours.get(&(index, ip));
        !known.is_some_and(|known| known.usable() && !known.stale()) && self.look_for(index, ip)
    }

    /// When [`Self::way`] is to be asked again without a change: to look again for neighbours, or to list what could not be listed.
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        let next = |(key, at): (&(u32, IpAddr), &Asked)| match self.neighbours.get(key) {
            Some(known) if known.usable() => known.stale().then(|| at.last + REFRESH),
            _ => Some(at.last + ASK_AGAIN),
        };
        let looks = self.round.asked.iter().filter_map(next);
        let is_waiting = self.reach.wanted && !self.reach.fresh;
        let routes = self.reach.listed.filter(|_| is_waiting).map(|at| at + ROUTES_AGAIN);
        looks.chain(self.stale.again).chain(routes).min().map(|at| at.max(now))
    }

    /// The interface of this name.
    pub(super) fn link(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// The interface with this index.
    pub(super) fn link_at(&self, index: u32) -> Option<&Link> {
        self.links.get(&index)
    }

    /// Whether there are VLANs above an interface.
    pub(super) fn has_vlans(&self, index: u32) -> bool {
        self.links.values().any(|link| link.kind == "vlan" && link.below == Some(index))
    }

    /// The addresses of these interfaces.
    pub(super) fn addresses_at(&self, indexes: impl Fn(u32) -> bool) -> BTreeSet<(u32, IpAddr)> {
        self.addresses.iter().map(|(ip, index)| (*index, *ip)).filter(|(index, _)| indexes(*index)).collect()
    }

    /// Has the kernel find out whether a host is there. False if it refuses.
    pub(super) fn ask(&mut self, index: u32, ip: IpAddr) -> bool {
        let asked = match self.neighbours.get(&(index, ip)) {
            Some(known) if known.usable() => self.host.ask(index, ip),
            _ => self.host.probe(index, ip),
        };
        self.failures += u64::from(asked.is_err());
        asked.is_ok()
    }

    /// Whether a host is there, as far as the kernel knows.
    pub(super) fn present(&self, index: u32, ip: IpAddr) -> Option<bool> {
        self.neighbours.get(&(index, ip))?.present()
    }

    /// The Ethernet address of a host, as far as the kernel knows.
    pub(super) fn mac_of(&self, index: u32, ip: IpAddr) -> Option<[u8; 6]> {
        self.neighbours.get(&(index, ip))?.mac
    }

    /// How packets for an address leave this host, if they do; an error if the kernel does not say.
    pub(super) fn toward(&mut self, ip: IpAddr) -> Result<Option<Toward>, String> {
        let Some(route) = self.route((ip, None))?.filter(|route| route.unicast) else { return Ok(None) };
        let link_mtu = self.links.get(&route.index).map_or(u32::MAX, |link| link.mtu);
        let mtu = route.mtu.unwrap_or(u32::MAX).min(link_mtu);
        Ok(Some(Toward { index: route.index, direct: route.gateway.is_none(), mtu }))
    }

    /// Whether packets for an address are for this host; an error if the kernel does not say.
    pub(super) fn is_local(&mut self, ip: IpAddr) -> Result<bool, String> {
        Ok(self.route((ip, None))?.is_some_and(|route| route.local))
    }

    /// The interface that has this address.
    pub(super) fn holder(&self, address: IpAddr) -> Option<u32> {
        self.addresses.get(&address).copied()
    }

    /// The kernel's choice for a direction; an error if it does not say.
    fn route(&mut self, direction: Direction) -> Result<Option<Route>, String> {
        if let Some(known) = self.routes.get(&direction) {
            return Ok(known.clone());
        }
        let (to, from) = direction;
        if self.deaf {
            return Err(format!(
                "the route to {to} is not known: the kernel has not answered other questions in time"
            ));
        }
        match self.host.route(to, from) {
            Ok(found) => {
                self.routes.insert(direction, found.clone());
                Ok(found)
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Notes that a neighbour is in use; it was last asked for at `last`, or is now. An error if the kernel refuses.
    fn note(
        &mut self,
        key: (u32, IpAddr),
        first: Instant,
        last: Option<Instant>,
        now: Instant,
    ) -> Result<(), String> {
        self.round.asked.insert(key, Asked { first, last: last.unwrap_or(now) });
        if last.is_some() {
            return Ok(());
        }
        if self.deaf {
            return Err(format!(
                "neighbour {} is not looked for: the kernel has not answered other questions in time",
                key.1
            ));
        }
        self.host.probe(key.0, key.1).map_err(|error| self.failed(&error))
    }

    /// Counts a failure, and says what it was.
    fn failed(&mut self, error: &NetlinkError) -> String {
        self.failures += 1;
        self.deaf |= error.is_timeout();
        error.to_string()
    }

    /// Takes a neighbour; true if it is in use and can be used in another way than before.
    fn learn(&mut self, neighbour: Neighbour) -> bool {
        let key = (neighbour.index, neighbour.ip);
        let usable = |it: &Neighbour| it.mac.filter(|_| it.usable());
        let (new, stale) = (usable(&neighbour), neighbour.stale());
        let old = self.neighbours.insert(key, neighbour);
        let changed =
            old.as_ref().and_then(usable) != new || old.as_ref().map(Neighbour::stale) != Some(stale);
        changed && self.round.asked.contains_key(&key)
    }

    /// Lists what is to be listed anew; both, even if the first fails.
    fn list(&mut self) -> Result<(), NetlinkError> {
        let neighbours = if self.stale.neighbours { self.list_neighbours() } else { Ok(()) };
        let links = if self.stale.links { self.list_links() } else { Ok(()) };
        neighbours.and(links)
    }

    fn list_links(&mut self) -> Result<(), NetlinkError> {
        let (links, addresses) = (self.host.links()?, self.host.addresses()?);
        self.stale.links = !(links.whole && addresses.whole);
        replace(&mut self.links, links.whole, links.list.into_iter().map(|link| (link.index, link)));
        replace(&mut self.addresses, addresses.whole, addresses.list.into_iter());
        Ok(())
    }

    fn list_neighbours(&mut self) -> Result<(), NetlinkError> {
        let Listed { list, whole } = self.host.neighbours()?;
        self.stale.neighbours = !whole;
        replace(&mut self.neighbours, whole, list.into_iter().map(|it| ((it.index, it.ip), it)));
        Ok(())
    }

    /// After lists were asked for: whether they are to be asked for again, and when.
    fn listed(&mut self, now: Instant, failed: Option<String>) {
        let stale = &mut self.stale;
        if !(stale.links || stale.neighbours) {
            (stale.tries, stale.again, stale.why) = (0, None, None);
            return;
        }
        self.failures += 1;
        let interrupted = || "the network changes faster than it can be listed".to_owned();
        stale.why = Some(failed.unwrap_or_else(interrupted));
        let [first, longest] = BACKOFF;
        stale.again = Some(now + first.saturating_mul(1 << stale.tries.min(16)).min(longest));
        stale.tries = stale.tries.saturating_add(1);
    }
}

/// Takes a list in the place of what was known; beside it, if something may be missing in the list.
fn replace<K: Eq + Hash, V>(known: &mut HashMap<K, V>, whole: bool, list: impl Iterator<Item = (K, V)>) {
    if whole {
        known.clear();
    }
    known.extend(list);
}

impl AsFd for Ways {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.host.monitor.as_fd()
    }
}

impl Host for Kernel {
    fn links(&mut self) -> Result<Listed<Link>, NetlinkError> {
        self.netlink.links()
    }

    fn addresses(&mut self) -> Result<Listed<(IpAddr, u32)>, NetlinkError> {
        self.netlink.addresses()
    }

    fn neighbours(&mut self) -> Result<Listed<Neighbour>, NetlinkError> {
        self.netlink.neighbours()
    }

    fn steps(&mut self) -> Result<Listed<Step>, NetlinkError> {
        Netlink::steps()
    }

    fn route(&mut self, to: IpAddr, from: Option<IpAddr>) -> Result<Option<Route>, NetlinkError> {
        self.netlink.route(to, from)
    }

    fn probe(&mut self, index: u32, ip: IpAddr) -> Result<(), NetlinkError> {
        self.netlink.probe(index, ip)
    }

    fn ask(&mut self, index: u32, ip: IpAddr) -> Result<(), NetlinkError> {
        self.netlink.ask(index, ip)
    }

    fn change(&mut self) -> Result<Option<Change>, NetlinkError> {
        self.monitor.next().map_err(|source| NetlinkError::Refused {
            action: "reading what has changed on the network".to_owned(),
            source,
        })
    }
}
