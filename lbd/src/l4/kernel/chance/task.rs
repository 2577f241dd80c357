//! The thread.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aya::Ebpf;
use common::config::{Config, Vrrp};
use common::ipc::Role;
use common::time::Instant;
use lbd_core::chance::abi::{PEER_APART, PEER_HAS_NOT, PEER_VIRTUAL_MAC, Peer, Session, TUNNEL_PORT, Tunnel};
use lbd_core::chance::plan::{self, Place as Network};
use lbd_core::chance::{Hold, Interface, Other, Own, Way, Word};
use lbd_core::forward::abi::{Abi, FlowKey};
use lbd_core::forward::plan::OtherNode;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::super::attach::{Attachments, Part, Place, Wanted};
use super::super::features::{Features, mount_bpffs};
use super::super::maps::Table;
use super::super::netlink::{Sockets, States};
use super::super::thread::Signal;
use super::super::ticks::boot_ns;
use super::super::view::{InterfaceView, TroubleView};
use super::super::ways::Ways;
use super::super::{KernelError, attach};
use super::maps::{self, Counted, Loaded, Maps};
use super::tunnel::{ASK_AGAIN, Asked, Ends, Tunnels};
use super::view::{ChanceView, InstanceChanceView};
use super::{Heard, Outlets, folder};
use crate::clock::ms_of;
use crate::shared::{Shared, VrrpdView};

/// Everything is looked at again after this time, whatever has been told: connections are counted, what the other node said is renewed.
const LOOK: Duration = Duration::from_secs(1);

/// What troubles with it are called.
const TUNNEL: &str = "the tunnel to the other node";

/// Changes are taken together that come within this time.
const PACE: Duration = Duration::from_millis(2);

/// The thread's state.
pub(super) struct Task {
    shared: Arc<Shared>,
    signal: Arc<Signal>,
    outlets: Outlets,
    heard: Arc<Heard>,
    last_heard: Option<Arc<Word>>,
    /// Ends of the other node's process that are known.
    ends: u64,
    ebpf: Ebpf,
    maps: Maps,
    ways: Ways,
    sockets: Sockets,
    attachments: Attachments,
    own: Own,
    /// Whether packets for a virtual IP are for this host, as of the last pass.
    local: BTreeMap<IpAddr, bool>,
    /// Instances whose virtual IPs are here, and were taken because nothing was heard of the other node.
    from_silence: BTreeSet<String>,
    /// Sessions of datagrams that are drained, by instance.
    sessions: BTreeMap<String, u32>,
    other: Other,
    /// When the kernel was asked whether the other node is there, while the link to it is cut.
    asked: Asked,
    tunnels: Tunnels,
    /// Failures are logged when they begin, not each time.
    failing: bool,
    /// What a former life has attached goes on.
    hold: Hold,
    /// When connections were counted last, and of which instances.
    counted: Option<(Instant, BTreeSet<String>)>,
    /// Why they cannot be counted, if they cannot.
    uncounted: Option<KernelError>,
}

impl Task {
    /// Ready to run.
    pub(super) fn new(
        shared: Arc<Shared>,
        signal: Arc<Signal>,
        outlets: Outlets,
        heard: Arc<Heard>,
        features: Features,
    ) -> Result<(Self, Table<FlowKey, Session>, Counted), KernelError> {
        mount_bpffs()?;
        let folder = folder(&shared.run_dir);
        std::fs::create_dir_all(&folder)
            .map_err(|source| KernelError::Folder { path: folder.clone(), source })?;
        let Loaded { ebpf, maps, sessions, counted } = maps::load()?;
        let now = shared.clock.now().at;
        let hold = if attach::pins(&folder).is_empty() { Hold::default() } else { Hold::begin(now) };
        let task = Self {
            ebpf,
            maps,
            ways: Ways::open()?,
            sockets: Sockets::open()?,
            attachments: Attachments::new(&folder, &folder, features.tcx()),
            own: Own::default(),
            local: BTreeMap::new(),
            from_silence: BTreeSet::new(),
            sessions: BTreeMap::new(),
            other: Other::default(),
            asked: Asked::default(),
            tunnels: Tunnels::new(&shared.run_dir),
            failing: false,
            hold,
            counted: None,
            uncounted: None,
            last_heard: None,
            ends: 0,
            shared,
            signal,
            outlets,
            heard,
        };
        Ok((task, sessions, counted))
    }

    /// Runs until the signal says stop.
    pub(super) fn run(mut self) {
        while !self.signal.stopped() {
            let mut troubles = Vec::new();
            let result = self.pass(&mut troubles);
            // Also where it failed: nobody is to wait for what does not come about. What is held knows nothing of it.
            if result.is_err() || !self.hold.is_on() {
                self.heard.heeded.store(self.last_heard.clone());
            }
            match result {
                Ok(()) => self.failing = false,
                Err(error) => {
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::error!(%error, "the second chance is not up to date; trying again");
                    }
                    troubles.push(TroubleView { what: "second chance".to_owned(), why: error.to_string() });
                }
            }
            self.publish(troubles);
            self.wait();
        }
    }

    fn pass(&mut self, troubles: &mut Vec<TroubleView>) -> Result<(), KernelError> {
        self.ways.follow(std::time::Instant::now());
        if let Some(why) = self.ways.trouble() {
            troubles.push(TroubleView { what: "network".to_owned(), why: format!("{why}; trying again") });
        }
        let config = Arc::clone(&self.shared.snapshot.load().config);
        let networks = plan::places(&config, &self.shared.life.node);
        let (proxied, beyond) = plan::proxied(&networks);
        if beyond > 0 {
            let why =
                format!("{beyond} addresses and ports are too many, their connections do not survive a move");
            troubles.push(TroubleView { what: "second chance".to_owned(), why });
        }
        let now = self.shared.clock.now().at;
        self.look_at_own(now, &config, &networks);
        if let Some(error) = &self.uncounted {
            troubles.push(TroubleView { what: "counting connections".to_owned(), why: error.to_string() });
        }
        self.hear(now, &networks);
        // Who is gone is nobody's neighbour, which is no reason to look for another way.
        if self.last_heard.is_some() {
            self.tunnels.look(now, &mut self.ways, &networks, &self.other);
        }
        let tunnel = self.dig(&config, &networks, troubles);
        let peers = self.peers(now, &networks)?;
        // The program knows where the other node is before it sends anything there.
        self.maps.write_tunnel(tunnel)?;
        self.maps.write_peers(&peers)?;
        self.maps.write_proxied(proxied)?;
        self.tell_forwarding(&peers, &networks);
        self.outlets.known.store(!peers.is_empty(), Ordering::Relaxed);
        self.hold.look(now, self.last_heard.is_some(), self.heard.in_step.load(Ordering::Acquire));
        self.attach(&networks, config.kernel.attach, troubles);
        self.open_tunnel(troubles);
        Ok(())
    }

    /// Has the tunnel if it is needed, and says what the program is to know of it. Without it, everything else goes on.
    fn dig(
        &mut self,
        config: &Config,
        networks: &BTreeMap<String, Network>,
        troubles: &mut Vec<TroubleView>,
    ) -> Tunnel {
        let node = self.shared.life.node.as_str();
        let own = config.node(node).and_then(|node| node.peer_address);
        let other = config.peer_of(node).and_then(|node| node.peer_address);
        let ends = own.zip(other).map(|(own, other)| Ends { own, other });
        let mut trouble = |why| troubles.push(TroubleView { what: TUNNEL.to_owned(), why });
        let held = self.hold.is_on();
        let tunnel = self.tunnels.keep(&mut self.ways, networks, ends, held).unwrap_or_else(|error| {
            trouble(error.to_string());
            Tunnel::default()
        });
        let links = self.tunnels.apart(networks).filter_map(|it| self.ways.link(&it.interface));
        let mtu = links.map(|link| link.mtu).max();
        if let (Some(ends), Some(mtu)) = (ends, mtu)
            && let Some(why) = self.tunnels.lacks_room(&mut self.ways, ends, mtu)
        {
            trouble(why);
        }
        tunnel
    }

    /// The tunnel's device is up while the program is on it, and only then: nobody else looks at what comes out.
    fn open_tunnel(&mut self, troubles: &mut Vec<TroubleView>) {
        // Until then it is as a former life left it.
        let Some(device) = self.tunnels.device().filter(|_| !self.hold.is_on()) else { return };
        let is_guarded = self.attachments.present().contains_key(&(Part::ChanceIn, device.index));
        if device.up != is_guarded
            && let Err(error) = self.ways.set_up(device.index, is_guarded)
        {
            let why = format!("{error}; it takes UDP port {TUNNEL_PORT} for {}", self.tunnels.name());
            troubles.push(TroubleView { what: TUNNEL.to_owned(), why });
        }
    }

    /// Where the other node is concerns the forwarding program, too, which sends to neighbours only.
    fn tell_forwarding(&self, peers: &BTreeMap<u32, Peer>, networks: &BTreeMap<String, Network>) {
        let other = |(name, network): (&String, &Network)| {
            let peer = peers.get(&network.index).filter(|peer| peer.flags & PEER_APART == 0)?;
            let other = OtherNode { ifindex: peer.ifindex, mac: peer.mac, own_mac: peer.own_mac };
            Some((name.clone(), other))
        };
        let others: BTreeMap<String, OtherNode> = networks.iter().filter_map(other).collect();
        if **self.outlets.others.load() != others {
            self.outlets.others.store(Arc::new(others));
            self.shared.kernel.wake();
        }
    }

    /// What this node has, and tells.
    fn look_at_own(&mut self, now: Instant, config: &Config, networks: &BTreeMap<String, Network>) {
        let vips: BTreeSet<IpAddr> =
            config.vrrp.iter().flat_map(|vrrp| &vrrp.vips).map(|vip| vip.addr()).collect();
        let mut interfaces = BTreeMap::new();
        let known = std::mem::take(&mut self.local);
        for (name, network) in networks {
            let link = self.ways.link(&network.interface);
            let (mac, index) = (link.and_then(|link| link.mac), link.map(|link| link.index));
            let all = self.ways.addresses_at(|at| Some(at) == index).into_iter().map(|(_, ip)| ip);
            let addresses = all.filter(|ip| !vips.contains(ip)).collect();
            let mut local = true;
            for ip in network.addresses.iter().chain(&network.datagrams).map(SocketAddr::ip) {
                // Where the kernel does not say, it is as it was.
                let is = self.ways.is_local(ip).unwrap_or_else(|_| known.get(&ip).copied().unwrap_or(false));
                self.local.insert(ip, is);
                local &= is;
            }
            interfaces.insert(name.clone(), Interface { mac, addresses, local });
        }
        self.own.configured(&interfaces);
        self.look_at_roles(now, config);
        self.count(now, networks);
        for name in networks.keys() {
            self.shared.departures.of(name).set(self.own.left(name).map(ms_of));
        }
        let word = self.own.word();
        self.outlets.word.send_if_modified(|said| {
            let changed = *said != word;
            *said = word;
            changed
        });
    }

    /// Which virtual IPs are here. While the connection to `vrrpd` is gone, the addresses say that they have not left.
    fn look_at_roles(&mut self, now: Instant, config: &Config) {
        let VrrpdView { roles, mut from_silence, .. } = self.shared.vrrpd.borrow().clone();
        let has_all = |vrrp: &Vrrp| vrrp.vips.iter().all(|vip| self.ways.holder(vip.addr()).is_some());
        let unsaid = config.vrrp.iter().filter(|vrrp| !roles.contains_key(&vrrp.name) && has_all(vrrp));
        let unsaid: BTreeSet<String> = unsaid.map(|vrrp| vrrp.name.clone()).collect();
        let active = roles.into_iter().filter(|(_, role)| *role == Role::Active);
        self.own.owns(now, &active.map(|(name, _)| name).collect(), &unsaid);
        // How they were taken is as it was, too.
        let before = std::mem::take(&mut self.from_silence).into_iter();
        from_silence.extend(before.filter(|name| unsaid.contains(name) && self.own.is_owner(name)));
        self.from_silence = from_silence;
    }

    /// Counts what this node serves although its virtual IPs have left, now and then.
    fn count(&mut self, now: Instant, networks: &BTreeMap<String, Network>) {
        let left: BTreeSet<String> = self.own.to_count().map(str::to_owned).collect();
        let is_due = |(at, counted): &(Instant, BTreeSet<String>)| now - *at >= LOOK || *counted != left;
        if left.is_empty() {
            self.sessions.clear();
            return;
        }
        if !self.counted.as_ref().is_none_or(is_due) {
            return;
        }
        let of = |addresses: fn(&Network) -> &BTreeSet<SocketAddr>| -> BTreeMap<SocketAddr, &str> {
            let left = networks.iter().filter(|(name, _)| left.contains(name.as_str()));
            left.flat_map(|(name, it)| addresses(it).iter().map(|at| (*at, name.as_str()))).collect()
        };
        let (connections, datagrams) = (of(|it| &it.addresses), of(|it| &it.datagrams));
        let mut sessions = BTreeMap::new();
        for service in &self.shared.snapshot.load().services {
            service.shared.sessions.visit_own(|tuple| {
                let at = FlowKey::from_bytes(tuple).map(|key| key.service());
                if let Some(name) = at.and_then(|at| datagrams.get(&at)) {
                    *sessions.entry((*name).to_owned()).or_insert(0_u32) += 1;
                }
            });
        }
        // With none to look for there are none: the kernel need not be asked.
        let counts = if connections.is_empty() {
            Ok(BTreeMap::new())
        } else {
            let named = |local: SocketAddr| connections.get(&local).map(|name| (*name).to_owned());
            self.sockets.count(States::ALIVE, named)
        };
        self.uncounted = match counts {
            Ok(mut counts) => {
                for (name, count) in &sessions {
                    let all = counts.entry(name.clone()).or_insert(0_u32);
                    *all = all.saturating_add(*count);
                }
                self.own.counted(now, &counts);
                None
            }
            Err(error) => Some(error.into()),
        };
        self.sessions = sessions;
        self.counted = Some((now, left));
    }

    /// What the other node has said meanwhile.
    fn hear(&mut self, now: Instant, networks: &BTreeMap<String, Network>) {
        // Looked at first: what is heard now was said after it, or the connection is gone.
        let ends = self.heard.ends.load(Ordering::Acquire);
        let heard = self.heard.word.load_full();
        let same = match (&heard, &self.last_heard) {
            (Some(new), Some(old)) => Arc::ptr_eq(new, old),
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.other.heard(now, heard.as_deref());
            self.last_heard = heard;
            self.asked.clear();
        }
        if std::mem::replace(&mut self.ends, ends) != ends && self.last_heard.is_none() {
            self.other.ended();
        }
        let mut present = BTreeMap::new();
        let looked_for = self.other.to_look_for().map(|(name, at)| (name.to_owned(), at.to_vec()));
        for (name, addresses) in looked_for.collect::<Vec<_>>() {
            present.insert(name.clone(), self.look_for(now, networks.get(&name), &addresses));
        }
        self.other.renew(now, |name| present.get(name).copied().flatten());
    }

    /// Whether the other node answers at one of its addresses in a network; none before it had the time to. It is asked again and again.
    fn look_for(&mut self, now: Instant, network: Option<&Network>, addresses: &[IpAddr]) -> Option<bool> {
        let link = network.and_then(|network| self.ways.link(&network.interface));
        let index = link.map(|link| link.index)?;
        let mut all = Vec::new();
        for &ip in addresses {
            all.push(self.asked.answers(&mut self.ways, now, (index, ip), ASK_AGAIN));
        }
        if all.contains(&Some(true)) {
            return Some(true);
        }
        (!all.is_empty() && all.iter().all(|it| *it == Some(false))).then_some(false)
    }

    /// What the program is to know of the other node.
    fn peers(
        &self,
        now: Instant,
        networks: &BTreeMap<String, Network>,
    ) -> Result<BTreeMap<u32, Peer>, KernelError> {
        let boot = boot_ns().map_err(|source| KernelError::Clock { source })?;
        let mut peers = BTreeMap::new();
        for (name, network) in networks {
            let Some(link) = self.ways.link(&network.interface) else { continue };
            let (Some(mac), Some(own_mac)) = (self.other.mac(name), link.mac) else { continue };
            // Where a lease is renewed with each pass, most packets find the one before: it is only ever longer.
            let boot_of = |until: Option<Instant>| {
                let left = until.map(|until| u64::try_from((until - now).as_nanos()));
                left.map_or(0, |left| boot.saturating_add(left.unwrap_or(u64::MAX)))
            };
            let until = boot_of(self.other.until(name));
            let sessions_until = boot_of(self.sessions_until(name));
            let virtual_mac = if network.virtual_mac { PEER_VIRTUAL_MAC } else { 0 };
            let has_not = if self.own.is_owner(name) { PEER_HAS_NOT } else { 0 };
            let apart = if self.tunnels.way(name) == Way::Tunnel { PEER_APART } else { 0 };
            let flags = virtual_mac | has_not | apart;
            let (ifindex, vrid) = (link.index, network.vrid);
            let peer = Peer { until, sessions_until, ifindex, mac, own_mac, flags, vrid, ..Peer::default() };
            peers.insert(network.index, peer);
        }
        Ok(peers)
    }

    /// Until when datagrams of the other node's sessions are sent on to it. What a node had of which nothing was heard any more begins anew
    /// here: nobody would tell its clients to.
    fn sessions_until(&self, instance: &str) -> Option<Instant> {
        self.other.sessions_until(instance).filter(|_| !self.from_silence.contains(instance))
    }

    fn attach(
        &mut self,
        networks: &BTreeMap<String, Network>,
        way: common::config::Attach,
        troubles: &mut Vec<TroubleView>,
    ) {
        let mut wanted: BTreeMap<Place, Wanted> = BTreeMap::new();
        for (instance, network) in networks.iter().filter(|(_, network)| network.is_proxied()) {
            let Some(link) = self.ways.link(&network.interface) else {
                let what = format!("interface {}", network.interface);
                let why = format!("there is no such interface, for the virtual IPs of {instance}");
                troubles.push(TroubleView { what, why });
                continue;
            };
            let fresh = || Wanted { name: link.name.clone(), way, purpose: String::new() };
            let place = wanted.entry((Part::Chance, link.index)).or_insert_with(fresh);
            let comma = if place.purpose.is_empty() { "the second chance of " } else { ", " };
            place.purpose = format!("{}{comma}{instance}", place.purpose);
        }
        let at =
            |name: &str, purpose: &str| Wanted { name: name.to_owned(), way, purpose: purpose.to_owned() };
        if let Some(device) = self.tunnels.device() {
            let wanted_in = at(self.tunnels.name(), "what the other node sends by the tunnel");
            wanted.insert((Part::ChanceIn, device.index), wanted_in);
        }
        if let Some(link) = self.tunnels.link().and_then(|index| self.ways.link_at(index)) {
            let wanted_link = at(&link.name, "telling the other node's tunnel from anybody's");
            wanted.insert((Part::ChanceLink, link.index), wanted_link);
        }
        let parts = [Part::Chance, Part::ChanceIn, Part::ChanceLink];
        let held = if self.hold.is_on() { parts.as_slice() } else { &[] };
        for error in self.attachments.sync(&mut self.ebpf, &wanted, held) {
            troubles.push(TroubleView { what: "attaching".to_owned(), why: error.to_string() });
        }
    }

    fn publish(&self, troubles: Vec<TroubleView>) {
        let interface = |attached: &attach::Attached| InterfaceView {
            name: attached.name.clone(),
            attached: attached.how.name().to_owned(),
            why: attached.why.clone(),
            purpose: attached.purpose.clone(),
        };
        let instance = |standing: &lbd_core::chance::Standing| {
            let name = &standing.instance;
            let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
            let view = InstanceChanceView {
                draining: standing.draining,
                draining_sessions: self.sessions.get(name).copied().unwrap_or(0),
                draining_by_peer: self.other.draining(name),
                sends: self.other.until(name).is_some(),
                sends_datagrams: self.sessions_until(name).is_some(),
                way: self.tunnels.way(name).name().to_owned(),
                peer_mac: self.other.mac(name).map(mac),
            };
            (name.clone(), view)
        };
        let before = self.outlets.view.load_full();
        for trouble in &troubles {
            if before.as_ref().is_none_or(|before| !before.troubles.contains(trouble)) {
                tracing::warn!(what = trouble.what, why = trouble.why, "second chance");
            }
        }
        self.outlets.view.store(Some(Arc::new(ChanceView {
            off_because: None,
            interfaces: self.attachments.present().values().map(interface).collect(),
            attached_again: self.attachments.attached_again(),
            troubles,
            instances: self.own.word().instances.iter().map(instance).collect(),
            ..ChanceView::default()
        })));
    }

    fn wait(&mut self) {
        let mut fds = [
            PollFd::new(self.signal.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.ways.as_fd(), PollFlags::POLLIN),
        ];
        // An interrupted wait ends early, which does no harm.
        poll(&mut fds, PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::MAX)).ok();
        std::thread::sleep(PACE);
        self.signal.taken();
    }
}
