//! A node on a LAN of one interface, with a clock that jumps, a peer that is a script, and checks that hold whatever happens.
#![allow(dead_code, unused_imports, reason = "each test binary uses its own part of this")]

mod model;
mod peer;

use std::net::IpAddr;

use common::config::{Announce, Auth, ChecksumReading, Track, VrrpVersion};
use common::ipc::Role;
use common::key::PairKey;
use common::time::{Duration, Instant, Now, UnixTime};
use vrrpd_core::event::Event;
use vrrpd_core::node::{Action, Input, InterfaceState, Node, Slot};
use vrrpd_core::packet::{Advert, Family, Meta, TTL};
use vrrpd_core::settings::{Destination, InstanceSettings, PeerLink, RouterSettings, Settings};

pub(crate) use peer::Peer;

use model::Model;

/// The interface of [`settings`].
pub(crate) const INTERFACE: &str = "eth0";
/// Its Ethernet address.
pub(crate) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
/// Some other station's.
pub(crate) const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xb];
/// The instance of [`settings`].
pub(crate) const INSTANCE: &str = "web";
/// The first router's slot.
pub(crate) const SLOT: Slot = 0;
/// This node's addresses on the interface.
pub(crate) const OWN: &str = "192.0.2.1";
pub(crate) const OWN_V6: &str = "fe80::1";
/// The other node's.
pub(crate) const PEER: &str = "192.0.2.2";
pub(crate) const PEER_V6: &str = "fe80::2";
/// The virtual addresses.
pub(crate) const VIP: &str = "192.0.2.100";
pub(crate) const VIP_V6: &str = "2001:db8::100";
pub(crate) const VIP_LINK_LOCAL: &str = "fe80::5eff:fe00:233";
/// Advertisement_Interval in [`settings`].
pub(crate) const INTERVAL: Duration = Duration::from_millis(100);
/// The life of the node under test.
pub(crate) const BOOT: u64 = 1;

const START_AT: Instant = Instant::from_nanos(1_000_000_000_000);
const START_UNIX_NANOS: u64 = 1_800_000_000_000_000_000;

/// More timeouts than any test needs: what never ends fails instead.
const TIMEOUTS_MAX: u32 = 200_000;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn key() -> PairKey {
    PairKey::new([7; 32])
}

pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A virtual router of priority 200 beside one of 100, on version 3, unsigned, multicast, every 100 ms.
pub(crate) fn router(family: Family) -> RouterSettings {
    let addresses = match family {
        Family::V4 => vec![format!("{VIP}/24").parse().unwrap()],
        Family::V6 => {
            vec![format!("{VIP_LINK_LOCAL}/64").parse().unwrap(), format!("{VIP_V6}/64").parse().unwrap()]
        }
    };
    RouterSettings {
        instance: INSTANCE.to_owned(),
        family,
        interface: INTERFACE.to_owned(),
        vrid: 51,
        priority: 200,
        lowest_priority: 100,
        addresses,
        interval: INTERVAL,
        preempt: true,
        preempt_delay: Duration::ZERO,
        destination: Destination::Multicast,
        auth: Auth::None,
        version: VrrpVersion::V3,
        checksum: ChecksumReading::Message,
        virtual_mac: false,
        announce: Announce { repeat: 5, interval: ms(1_000), refresh: ms(60_000) },
    }
}

/// Node `a` with one instance of the given routers, without a key, a peer link or tracking.
pub(crate) fn settings_of(routers: Vec<RouterSettings>) -> Settings {
    let first = &routers[0];
    let instance = InstanceSettings {
        name: first.instance.clone(),
        interface: first.interface.clone(),
        priority: first.priority,
        vips: routers.iter().flat_map(|router| router.addresses.clone()).collect(),
        track: Track { lbd: false, targets: false, interfaces: vec![], gateway: None },
        routers,
    };
    Settings {
        node: "a".to_owned(),
        peer: "b".to_owned(),
        peer_link: None,
        key: None,
        config_hash: 0xc0ffee,
        version: "1".to_owned(),
        replicates: false,
        instances: vec![instance],
    }
}

/// One IPv4 router.
pub(crate) fn settings() -> Settings {
    settings_of(vec![router(Family::V4)])
}

/// One IPv4 router, changed.
pub(crate) fn settings_with(change: impl FnOnce(&mut RouterSettings)) -> Settings {
    let mut router = router(Family::V4);
    change(&mut router);
    settings_of(vec![router])
}

/// `settings` with a key and a peer link.
pub(crate) fn linked(mut settings: Settings) -> Settings {
    settings.key = Some(key());
    settings.peer_link = Some(PeerLink { local: ip("10.0.0.1"), remote: ip("10.0.0.2") });
    settings
}

/// The interface as it is when all is well.
pub(crate) fn interface_up() -> InterfaceState {
    let IpAddr::V4(ipv4) = ip(OWN) else { unreachable!("OWN is an IPv4 address") };
    let IpAddr::V6(link_local) = ip(OWN_V6) else { unreachable!("OWN_V6 is an IPv6 address") };
    InterfaceState { mac: MAC, up: true, ipv4: Some(ipv4), link_local: Some(link_local), forwarding: false }
}

/// An advertisement for the router of `settings`, as the peer would send it.
pub(crate) fn advert_of(router: &RouterSettings, priority: u8) -> Advert {
    Advert {
        version: router.version,
        vrid: router.vrid,
        priority,
        interval: router.interval,
        addresses: router.advertised(),
    }
}

/// What the IP header of a multicast advertisement from `source` says.
pub(crate) fn meta_from(source: &str) -> Meta {
    let source = ip(source);
    Meta { source, destination: Family::of(source).multicast(), hop_limit: TTL }
}

/// Makes the checksum of a version 2 or IPv4 version 3 message right again.
pub(crate) fn reseal(message: &mut [u8]) {
    message[6..8].fill(0);
    let mut sum: u32 = message.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !u16::try_from(sum).unwrap();
    message[6..8].copy_from_slice(&checksum.to_be_bytes());
}

/// A node with its clock.
pub(crate) struct Lab {
    pub(crate) node: Node,
    now: Now,
    model: Model,
}

impl Lab {
    /// A node that knows nothing of its interface yet.
    pub(crate) fn new(settings: Settings) -> Self {
        let now = Now { at: START_AT, unix: UnixTime::from_nanos(START_UNIX_NANOS) };
        let node = Node::new(settings, BOOT, now);
        let mut lab = Self { node, now, model: Model::default() };
        lab.drain();
        lab
    }

    /// A backup.
    pub(crate) fn backup(settings: Settings) -> Self {
        let mut lab = Self::new(settings);
        lab.interface(Some(interface_up()));
        assert_eq!(lab.role(), Role::Backup);
        lab
    }

    /// An active router that took over because nobody was heard.
    pub(crate) fn active(settings: Settings) -> Self {
        let mut lab = Self::backup(settings);
        lab.run_until_role(Role::Active);
        lab
    }

    pub(crate) const fn at(&self) -> Instant {
        self.now.at
    }

    pub(crate) const fn unix(&self) -> UnixTime {
        self.now.unix
    }

    /// Moves both clocks without running the node: it is late now, or asleep.
    pub(crate) fn sleep(&mut self, span: Duration) {
        self.set(self.now.at + span);
    }

    fn set(&mut self, at: Instant) {
        let span = u64::try_from(at.since(self.now.at).as_nanos()).unwrap();
        self.now = Now { at, unix: UnixTime::from_nanos(self.now.unix.as_nanos() + span) };
    }

    /// Sets the wall clock alone.
    pub(crate) fn set_unix(&mut self, unix: UnixTime) {
        self.now.unix = unix;
    }

    /// Gives the node an input and returns all that follows at once.
    pub(crate) fn input(&mut self, input: Input<'_>) -> Vec<Action> {
        self.node.handle(self.now, input);
        self.drain()
    }

    fn drain(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some(action) = self.node.poll_action() {
            self.model.carry_out(&action);
            actions.push(action);
        }
        self.model.check(&self.node);
        actions
    }

    /// Serves timers, each on time, for `span`.
    pub(crate) fn run_for(&mut self, span: Duration) -> Vec<(Instant, Action)> {
        let end = self.now.at + span;
        let mut all = Vec::new();
        self.run(end, |at, actions, _| {
            all.extend(actions.into_iter().map(|action| (at, action)));
            false
        });
        self.set(end);
        all
    }

    /// Serves timers until the first router has `role`; how long that took.
    pub(crate) fn run_until_role(&mut self, role: Role) -> Duration {
        let start = self.now.at;
        self.run(start + Duration::from_secs(1_000), |_, _, node| node.role(SLOT) == Some(role));
        assert_eq!(self.role(), role);
        self.now.at - start
    }

    fn run(&mut self, end: Instant, mut until: impl FnMut(Instant, Vec<Action>, &Node) -> bool) {
        for _ in 0..TIMEOUTS_MAX {
            let Some(due) = self.node.next_deadline().filter(|&due| due <= end) else { return };
            self.set(due.max(self.now.at));
            let actions = self.input(Input::Timeout);
            if until(self.now.at, actions, &self.node) {
                return;
            }
        }
        panic!("the node's deadlines never get past {end:?}");
    }

    pub(crate) fn interface(&mut self, state: Option<InterfaceState>) -> Vec<Action> {
        self.input(Input::Interface { name: INTERFACE, state })
    }

    /// The peer's advertisement for the first router, on time and as the settings want it.
    pub(crate) fn hear(&mut self, priority: u8) -> Vec<Action> {
        let router = self.first();
        self.hear_advert(&advert_of(&router, priority))
    }

    pub(crate) fn hear_advert(&mut self, advert: &Advert) -> Vec<Action> {
        let router = self.first();
        let meta = meta_from(if router.family == Family::V4 { PEER } else { PEER_V6 });
        let bytes = advert.emit(meta.source, meta.destination, router.checksum);
        self.hear_bytes(&bytes, meta)
    }

    pub(crate) fn hear_bytes(&mut self, bytes: &[u8], meta: Meta) -> Vec<Action> {
        self.input(Input::Advert { interface: INTERFACE, meta, bytes })
    }

    /// Advertisements of `priority` each interval for `span`, while timers are served.
    pub(crate) fn hear_for(&mut self, priority: u8, span: Duration) -> Vec<(Instant, Action)> {
        let (end, interval) = (self.now.at + span, self.first().interval);
        let mut all = Vec::new();
        while self.now.at < end {
            let at = self.now.at;
            all.extend(self.hear(priority).into_iter().map(|action| (at, action)));
            all.extend(self.run_for(interval.min(end - at)));
        }
        all
    }

    pub(crate) fn first(&self) -> RouterSettings {
        self.node.slots().next().unwrap().1.clone()
    }

    pub(crate) fn role(&self) -> Role {
        self.node.role(SLOT).unwrap()
    }

    /// How often an advertisement for the first router was dropped, or accepted with a remark, for `reason`.
    pub(crate) fn dropped(&self, reason: &str) -> u64 {
        let status = self.node.status();
        let drops = &status.instances[0].routers[0].drops;
        drops.iter().find(|count| count.reason == reason).map_or(0, |count| count.count)
    }

    /// The same for those that match no router.
    pub(crate) fn unmatched(&self, reason: &str) -> u64 {
        let drops = self.node.status().unmatched_drops;
        drops.iter().find(|count| count.reason == reason).map_or(0, |count| count.count)
    }

    /// Whether the first router's addresses are on the interface now.
    pub(crate) fn holds_addresses(&self) -> bool {
        self.model.holds(SLOT)
    }
}

/// The times and priorities of the advertisements among `actions`.
pub(crate) fn adverts(actions: &[(Instant, Action)]) -> Vec<(Instant, u8)> {
    let priority = |action: &Action| advert_sent(action).map(|advert| advert.priority);
    actions.iter().filter_map(|(at, action)| priority(action).map(|priority| (*at, priority))).collect()
}

/// The priorities of the advertisements among `actions`.
pub(crate) fn priorities(actions: &[Action]) -> Vec<u8> {
    actions.iter().filter_map(advert_sent).map(|advert| advert.priority).collect()
}

/// What an advertisement among the actions says.
pub(crate) fn advert_sent(action: &Action) -> Option<Advert> {
    let Action::SendAdvert { source, destination, bytes, .. } = action else { return None };
    let meta = Meta { source: *source, destination: *destination, hop_limit: TTL };
    let version = if bytes[0] >> 4 == 2 { VrrpVersion::V2 } else { VrrpVersion::V3 };
    Some(Advert::parse(bytes, &meta, version).unwrap().advert)
}

/// The frames among `actions`.
pub(crate) fn frames(actions: &[Action]) -> Vec<Vec<u8>> {
    let frames = |action: &Action| match action {
        Action::SendFrames { frames, .. } => frames.clone(),
        _ => vec![],
    };
    actions.iter().flat_map(frames).collect()
}

/// The events among `actions`.
pub(crate) fn events(actions: &[Action]) -> Vec<Event> {
    let event = |action: &Action| match action {
        Action::Event(event) => Some(event.clone()),
        _ => None,
    };
    actions.iter().filter_map(event).collect()
}

/// Forgets when each action came.
pub(crate) fn untimed(actions: Vec<(Instant, Action)>) -> Vec<Action> {
    actions.into_iter().map(|(_, action)| action).collect()
}
