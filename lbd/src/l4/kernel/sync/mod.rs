//! The thread that keeps the kernel's maps as configuration, groups and network want them.
//!
//! Whatever changes, it makes all of the maps' contents anew and writes what is different: there is one way to every state, and
//! nothing to be forgotten on it.

pub(super) mod gather;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use common::config::{Attach, Config};
use common::ipc::Role;
use lbd_core::forward::abi::{
    CONFIG_PORTS_MISSING, LINK_OTHER_END, LINK_OURS, LINK_VIRTUAL_MAC, LINKS_MAX, Link,
};
use lbd_core::forward::copies::Places;
use lbd_core::forward::next_hops::Neighbourhood;
use lbd_core::forward::path_mtu::{PathMtus, Worth};
use lbd_core::forward::plan::{
    self, Check, Contents, Former, Gone, Heard, Indexes, Input, OtherUntil, Owners,
};
use lbd_core::forward::refill::Refill;
use lbd_core::forward::switch::{Step, Switch};
use lbd_core::health::HealthState;
use lbd_core::target::TargetKey;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::attach::{Attachments, Part, Place, Wanted};
use super::checks::Checks;
use super::copies::FlowTables;
use super::features::Features;
use super::flows::{Names, Reader};
use super::instances::{Instances, Offers};
use super::load::{Loaded, chance_folder};
use super::maps::Maps;
use super::netlink::LOOPBACK;
use super::next_hops::NextHops;
use super::path_mtu::Errors;
use super::settings::Settings;
use super::thread::Signal;
use super::view::{InterfaceView, KernelView, TroubleView};
use super::ways::Ways;
use super::{KernelError, attach, load};
use crate::shared::Shared;
use write::{Unwritten, Written};

/// What failed is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);

/// Changes are taken together that come within this time: a flapping route must not keep a processor busy.
const PACE: Duration = Duration::from_millis(5);

/// How long a restarted `lbd` lets a former life's choices stand, until its checks know the targets.
const FIRST_CHECKS_MAX: Duration = Duration::from_secs(2);

/// Everything is looked at again after this time, whatever has been told.
const LOOK: Duration = Duration::from_secs(10);

/// Whether the programs are still where they were put is looked at so often: nobody tells when somebody takes one off. A call or two for
/// each.
const LOOK_AT_PLACES: Duration = Duration::from_secs(1);

/// So many writes that failed are told of one by one.
const UNWRITTEN_MAX: usize = 16;

/// What is said to fail where flows that came from another layout cannot be given their ports.
const PORTS: &str = "ports of another layout's flows";

/// The same where what was counted of services and targets that are gone cannot be cleared.
const COUNTERS: &str = "counters of what is gone";

/// Whom it tells what it has come to.
#[derive(Clone, Debug, Default)]
pub(super) struct Outlets {
    /// Whoever asks.
    pub(super) view: Arc<ArcSwapOption<KernelView>>,
    /// The link to `vrrpd`.
    pub(super) offers: Offers,
    /// The health checks.
    pub(super) checks: Checks,
}

/// The thread's state.
pub(super) struct Sync {
    shared: Arc<Shared>,
    signal: Arc<Signal>,
    outlets: Outlets,
    loaded: Loaded,
    maps: Maps,
    ways: Ways,
    /// Those that the program in the driver does not know.
    next_hops: NextHops,
    attachments: Attachments,
    settings: Settings,
    /// What routers say of packets in tunnels, while there are any.
    errors: Option<Errors>,
    paths: PathMtus,
    /// What they take at least, by the target's number.
    least_paths: BTreeMap<u32, u32>,
    written: Written,
    links: BTreeMap<u32, Link>,
    /// What the programs at interfaces do.
    work: Work,
    /// Interfaces where the one that forwards could not be put.
    without: BTreeSet<u32>,
    indexes: Indexes,
    saved_indexes: Vec<u8>,
    /// Numbers whose flows are being deleted.
    going: Option<Gone>,
    former: Former,
    /// When the next removed target is to end its flows, in the clock's milliseconds.
    retiring: Option<u64>,
    /// A former life's choices, in this layout or another, stand still.
    waiting: bool,
    /// Flows of another layout that lack their ports.
    refill: Refill,
    /// Other rings wait for the other node until then.
    switching: Option<Instant>,
    switch: Switch,
    owners: Owners,
    instances: Arc<Instances>,
    reader: Arc<Reader>,
    kernel: String,
    failures: u64,
    /// Failures are logged when they begin, not each time.
    failing: bool,
}

/// Where the programs are to be, and what for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Work {
    /// Interfaces, and whether virtual routers' MAC addresses count there.
    interfaces: BTreeMap<u32, (Wanted, bool)>,
    /// Whether IPv4 and IPv6 packets may have to be translated.
    translates: [bool; 2],
    /// Whether targets are checked through virtual IPs.
    checks: bool,
}

impl Work {
    /// This and another, which has the say where an interface is for both.
    fn and(&self, other: &Self) -> Self {
        let mut interfaces = self.interfaces.clone();
        interfaces.extend(other.interfaces.iter().map(|(index, it)| (*index, it.clone())));
        Self {
            interfaces,
            translates: [0, 1].map(|family| self.translates[family] || other.translates[family]),
            checks: self.checks || other.checks,
        }
    }
}

/// What is handed to the thread.
pub(super) struct Parts {
    pub(super) loaded: Loaded,
    pub(super) maps: Maps,
    pub(super) ways: Ways,
    pub(super) features: Features,
    pub(super) instances: Arc<Instances>,
    pub(super) reader: Arc<Reader>,
    indexes: Indexes,
    written: Written,
    next_hops: NextHops,
}

impl Parts {
    /// Reads what a former life has left.
    pub(super) fn read(
        loaded: Loaded,
        maps: Maps,
        ways: Ways,
        features: Features,
        instances: Arc<Instances>,
        reader: Arc<Reader>,
    ) -> Result<Self, KernelError> {
        let indexes = Indexes::from_bytes(&maps.load_indexes()?);
        let written = Written::read(&maps, &indexes)?;
        let next_hops = NextHops::open(&loaded.folder)?;
        Ok(Self { loaded, maps, ways, features, instances, reader, indexes, written, next_hops })
    }

    /// The key that a former life has left.
    pub(super) fn hash_key(&self) -> Option<[u64; 2]> {
        let config = self.maps.config.get(&0).ok().flatten()?;
        (config.hash_key != [0; 2]).then_some(config.hash_key)
    }
}

impl Sync {
    /// Ready to run.
    pub(super) fn new(parts: Parts, shared: Arc<Shared>, signal: Arc<Signal>, outlets: Outlets) -> Self {
        let Parts { loaded, maps, ways, features, instances, reader, indexes, written, next_hops } = parts;
        let saved_indexes = indexes.to_bytes();
        Self {
            attachments: Attachments::new(
                &loaded.node_folder,
                &chance_folder(&loaded.node_folder),
                features.tcx(),
            ),
            settings: Settings::open(&shared.run_dir),
            indexes,
            kernel: features.version.to_string(),
            links: BTreeMap::new(),
            work: Work::default(),
            without: BTreeSet::new(),
            errors: None,
            paths: PathMtus::default(),
            least_paths: BTreeMap::new(),
            waiting: written.serves() || loaded.has_old(),
            refill: Refill::new(loaded.ports_lost, written.lacks_ports()),
            going: None,
            former: Former::default(),
            retiring: None,
            switching: None,
            switch: Switch::default(),
            owners: Owners::default(),
            failures: 0,
            failing: false,
            shared,
            signal,
            outlets,
            loaded,
            maps,
            ways,
            next_hops,
            written,
            saved_indexes,
            instances,
            reader,
        }
    }

    /// Runs until the signal says stop, and then removes everything from the kernel.
    pub(super) fn run(mut self) {
        let end = Instant::now() + FIRST_CHECKS_MAX;
        while !self.signal.stopped() {
            self.waiting = self.waiting && self.undecided() && Instant::now() < end;
            let troubles = self.pass();
            self.publish(troubles);
            let end = self.waiting.then_some(end);
            self.wait(
                end.into_iter().chain(self.switching).chain(self.turning()).chain(self.retires()).min(),
            );
        }
        let run_dir = self.shared.run_dir.clone();
        drop(self);
        if let Err(error) = load::remove_all(&run_dir) {
            tracing::warn!(%error, "cannot remove what the kernel was given");
        }
    }

    /// When a service turns to another group at the latest, or has had a former one for its time.
    fn turning(&self) -> Option<Instant> {
        Some(Instant::now() + (self.former.deadline()? - self.shared.clock.now().at))
    }

    /// When the time of the next removed target is over that kept its flows.
    fn retires(&self) -> Option<Instant> {
        let left_ms = self.retiring?.saturating_sub(self.shared.clock.now_ms());
        Some(Instant::now() + Duration::from_millis(left_ms))
    }

    /// Brings everything up to date; answers what does not work.
    fn pass(&mut self) -> Vec<TroubleView> {
        let mut troubles = Vec::new();
        match self.update(&mut troubles) {
            Ok(()) => self.failing = false,
            Err(error) => {
                self.failures += 1;
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, "kernel forwarding is not up to date; trying again");
                }
                troubles.push(TroubleView { what: "kernel forwarding".to_owned(), why: error.to_string() });
            }
        }
        troubles
    }

    fn update(&mut self, troubles: &mut Vec<TroubleView>) -> Result<(), KernelError> {
        self.ways.follow(Instant::now());
        if let Some(why) = self.ways.trouble() {
            troubles.push(TroubleView { what: "network".to_owned(), why: format!("{why}; trying again") });
        }
        let now = self.shared.clock.now().at;
        let (snapshot, mut groups) = {
            // Both at once: a target that is moved from one to the other is in one of them.
            let removed = self.shared.removed();
            let snapshot = self.shared.snapshot.load_full();
            self.former.follow(&snapshot.config, now);
            let groups = gather::groups(&self.shared, &snapshot, &removed, &self.former);
            self.retiring = gather::retiring(&removed, self.shared.clock.now_ms());
            (snapshot, groups)
        };
        let config = &*snapshot.config;
        let mut hops = gather::hops(&mut self.ways, config, &self.former, &groups, troubles);
        self.know_neighbours(gather::answers_from_driver(config));
        let wanted = gather::interfaces(&self.ways, config, &self.shared.life.node, &hops, troubles);
        let work = Work {
            interfaces: wanted,
            translates: [false, true].map(|ipv6| gather::translates(config, ipv6)),
            checks: gather::checks_through_vips(config),
        };
        // Before packets go by an interface the program is there, for what is answered; and where they went it stays until none does.
        let both = self.work.and(&work);
        self.attach(&both, troubles)?;
        if !self.loaded.has_old() {
            hops.retain(|_, hop| self.attachments.forwards_at(hop.ifindex));
        }
        gather::settle(&mut self.former, config, &mut groups, &hops, now);
        let own = self.ways.addresses_at(|index| work.interfaces.contains_key(&index));
        let absent = gather::absent(&mut self.ways, config, troubles);
        self.listen_to_routers(config, troubles);
        let paths = self.paths.current(self.shared.clock.now().at);
        let (other_rings, heard) = self.shared.kernel.rings().others();
        let other_until = self.other_until(config, heard)?;
        let input = Input {
            file: config,
            node: gather::node_number(config, &self.shared.life.node),
            key: snapshot.hash_key,
            clock: self.instances.clock()?,
            former: &self.former,
            groups: &groups,
            hops: &hops,
            paths: &paths,
            own: &own,
            absent: &absent,
            others: &self.shared.chance.others(),
            other_rings: &other_rings,
            other_until: &other_until,
        };
        let mut contents = plan::contents(&input, &mut self.indexes);
        if self.refill.are_missing() {
            contents.config.flags |= CONFIG_PORTS_MISSING;
        }
        self.least_paths.clone_from(&contents.least_paths);
        self.let_go(troubles);
        self.save_indexes()?;
        let left_out = contents.left_out.iter();
        troubles.extend(left_out.map(|it| TroubleView { what: it.what.clone(), why: it.why.to_owned() }));
        self.instances.offer(&self.outlets.offers, &contents.instances);
        self.name(&contents);
        if self.written.keep_config(&self.maps)? {
            tracing::info!("the program's configuration was not as it had been written; written once more");
        }
        let is_whole = if self.waiting || self.must_wait(&contents) {
            let unwritten = self.written.write_for_checks(&self.maps, &contents);
            self.tell_unwritten(&unwritten, troubles)
        } else {
            // A new listener may have flows before it has its place.
            self.reader.placed.store(false, Ordering::Release);
            let unwritten = self.written.write(&self.maps, &contents);
            let is_whole = self.tell_unwritten(&unwritten, troubles);
            self.use_written(&contents, is_whole, troubles);
            self.reader.placed.store(true, Ordering::Release);
            is_whole
        };
        let waits = self.waiting || self.switching.is_some() || !is_whole;
        if self.loaded.has_old() {
            self.attach(if waits { &both } else { &work }, troubles)?;
        } else if !waits && both != work {
            // What fails here has failed, and was said, above.
            self.attach(&work, &mut Vec::new())?;
        }
        self.work = if waits { both } else { work };
        if !self.refill.are_missing() {
            self.written.write_ports_are_there(&self.maps)?;
        }
        self.tell_checks(contents.checks, troubles);
        Ok(())
    }

    /// Says what could not be written; all of that is tried again. Answers whether nothing is missing.
    fn tell_unwritten(&mut self, unwritten: &Unwritten, troubles: &mut Vec<TroubleView>) -> bool {
        let (failures, held) = (&unwritten.failures, unwritten.held);
        let waits = if held == 0 { String::new() } else { format!("; {held} other changes wait for that") };
        for (what, error) in failures.iter().take(UNWRITTEN_MAX) {
            let why = format!("{error}{waits}; trying again");
            troubles.push(TroubleView { what: what.clone(), why });
        }
        if failures.len() > UNWRITTEN_MAX {
            let why = format!("{} more writes have failed; trying again", failures.len() - UNWRITTEN_MAX);
            troubles.push(TroubleView { what: "kernel forwarding".to_owned(), why });
        } else if failures.is_empty() && held > 0 {
            let why = format!("{held} changes wait for what failed before; trying again");
            troubles.push(TroubleView { what: "kernel forwarding".to_owned(), why });
        }
        self.failures += failures.len() as u64;
        unwritten.is_nothing()
    }

    /// Has everybody know what the maps hold now.
    fn use_written(&mut self, contents: &Contents, is_whole: bool, troubles: &mut Vec<TroubleView>) {
        let makes = contents.ring_makes.iter();
        let makes = makes.map(|(index, make)| (make, self.written.has_ring_of(*index, contents)));
        let told = self.switch.switched(makes);
        self.shared.kernel.rings().switched(told);
        if !is_whole {
            self.place(&self.written.part_of(contents));
            // What is missing ends nobody's flows; only programs of another layout go on until these know as much.
            if !self.loaded.has_old() {
                self.reader.written.store(true, Ordering::Release);
            }
            return;
        }
        self.reader.written.store(true, Ordering::Release);
        self.place(contents);
        if self.loaded.copy_old() {
            self.refill.copied(false);
        }
        self.refill_ports(troubles);
    }

    /// Whether other rings have to wait for the other node: all that is new waits with them, for a moment, so that it is one step.
    fn must_wait(&mut self, contents: &Contents) -> bool {
        let rings = self.shared.kernel.rings();
        let ready = rings.ready();
        let is_ready = ready.as_ref().map(|ready| {
            move |make: &plan::Make| ready.get(&make.name).is_some_and(|hash| *hash == make.hash)
        });
        let is_ready = is_ready.as_ref().map(|is_ready| is_ready as &dyn Fn(&plan::Make) -> bool);
        let wanted = contents.ring_makes.iter();
        let wanted = wanted.map(|(index, make)| (make, self.written.has_ring(*index)));
        let now = self.shared.clock.now().at;
        match self.switch.step(now, wanted, is_ready) {
            Step::Write => {
                self.switching = None;
                false
            }
            Step::Wait { until, ask } => {
                self.switching = Some(Instant::now() + (until - now));
                if !ask.is_empty() {
                    rings.ask(ask, until);
                }
                true
            }
        }
    }

    /// Until when flows that are not known may be the other node's, by the instance of their address.
    fn other_until(
        &mut self,
        config: &Config,
        heard: Heard,
    ) -> Result<BTreeMap<String, OtherUntil>, KernelError> {
        let now = self.shared.clock.now().at;
        let roles = self.shared.vrrpd.borrow().roles.clone();
        let roles = roles.iter().map(|(instance, role)| (instance.as_str(), *role == Role::Active));
        self.owners.hear(now, roles);
        if heard == Heard::Never {
            return Ok(BTreeMap::new());
        }
        let tick = self.instances.ticks().now().map_err(|source| KernelError::Clock { source })?;
        let instances = config.vrrp.iter().map(|vrrp| vrrp.name.as_str()).chain([""]);
        let until =
            |instance: &str| (instance.to_owned(), plan::until(&self.owners, heard, now, tick, instance));
        Ok(instances.map(until).collect())
    }

    /// Listens to what routers say of packets that are too big for a link within a tunnel, where there are tunnels.
    fn listen_to_routers(&mut self, config: &Config, troubles: &mut Vec<TroubleView>) {
        if !gather::has_tunnels(config) {
            self.errors = None;
        } else if self.errors.is_none() {
            match Errors::open() {
                Ok(errors) => self.errors = Some(errors),
                Err(error) => {
                    let why = format!(
                        "cannot hear which packets are too big for a link within a tunnel: opening a raw socket failed: {error}; give lbd CAP_NET_RAW, \
                         or see to it that every link takes as much as this host's"
                    );
                    troubles.push(TroubleView { what: "tunnels".to_owned(), why });
                }
            }
        }
        self.hear_routers();
    }

    /// Takes what they have said. True if a way takes less than was known.
    fn hear_routers(&mut self) -> bool {
        let (Some(errors), now) = (&self.errors, self.shared.clock.now().at) else { return false };
        let mut is_news = false;
        errors.take(|told| {
            let least = |(number, target): (u32, _)| Some((target, *self.least_paths.get(&number)?));
            match self.paths.learn(&told, self.written.targets().filter_map(least), now) {
                Worth::Nothing => {}
                Worth::News => {
                    tracing::info!(to = %told.far, mtu = told.mtu, "a link within the tunnel takes smaller packets only");
                    is_news = true;
                }
                Worth::Refused => {
                    tracing::debug!(to = %told.far, mtu = told.mtu, "no link takes so little");
                    self.reader.refused_mtus.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        is_news
    }

    /// Says who is a neighbour, for the walk through the flows to find those that are clients: nobody, if that does not matter.
    fn know_neighbours(&self, matters: bool) {
        let neighbourhood = if matters { self.ways.neighbourhood() } else { Neighbourhood::default() };
        if **self.reader.neighbourhood.load() != neighbourhood {
            self.reader.neighbourhood.store(Arc::new(neighbourhood));
        }
    }

    /// Has the kernel look for next hops that the driver's program does not know.
    fn look_for_next_hops(&mut self) {
        let Self { next_hops, ways, reader, shared, .. } = self;
        next_hops.take(shared.clock.now().at, &reader.next_hops, |(index, ip)| ways.look_for(index, ip));
    }

    /// Has the kernel know the clients that the last walk through the flows has met, before a packet is to go to them.
    fn keep_clients(&mut self) {
        let Some(clients) = self.reader.clients.swap(None) else { return };
        for &(index, ip) in &clients.met {
            self.reader.next_hops.looked(self.ways.keep(index, ip));
        }
    }

    /// Tells the health checks how they reach their targets, now that everything for it is in its place.
    fn tell_checks(&self, mut checks: BTreeMap<TargetKey, Check>, troubles: &mut Vec<TroubleView>) {
        if !self.attachments.present().contains_key(&(Part::CheckOut, LOOPBACK)) {
            checks.values_mut().for_each(|check| *check = check.without_program());
        }
        for (target, check) in &checks {
            if let Some(why) = check.trouble() {
                troubles.push(TroubleView { what: format!("target {target}"), why });
            }
        }
        self.outlets.checks.set(checks);
    }

    /// Numbers that have stood for nothing for some time may stand for something else, once no flow has them any more.
    fn let_go(&mut self, troubles: &mut Vec<TroubleView>) {
        if let Some(gone) = self.going.take() {
            let left = self.indexes.still_gone(&gone);
            if self.reader.gone.load().is_some() {
                // What is there again has the number that it had. The walk has to know before there are flows. It takes away even what is empty,
                // so that nothing else is there when it ends.
                if left != gone {
                    self.reader.gone.store(Some(Arc::new(left.clone())));
                }
                self.going = Some(left);
                return;
            }
            if self.written.is_partial() {
                self.going = Some(left);
                return;
            }
            if let Err(error) = self.reader.clear_counters(&left) {
                self.failures += 1;
                let why = format!("{error}; numbers of what is gone are not used again before; trying again");
                troubles.push(TroubleView { what: COUNTERS.to_owned(), why });
                self.going = Some(left);
                return;
            }
            self.indexes.release(&left);
        }
        // A ring that could not be written still leads to targets that are gone from the plan, and flows to them begin.
        if self.written.is_partial() {
            return;
        }
        let gone = self.indexes.gone(self.shared.clock.now().at);
        if !gone.is_empty() {
            self.reader.gone.store(Some(Arc::new(gone.clone())));
            self.going = Some(gone);
        }
    }

    /// Before anything has a number, it is kept for a later life.
    fn save_indexes(&mut self) -> Result<(), KernelError> {
        let bytes = self.indexes.to_bytes();
        if bytes != self.saved_indexes {
            self.maps.save_indexes(&bytes)?;
            self.saved_indexes = bytes;
        }
        Ok(())
    }

    fn name(&self, contents: &Contents) {
        let names =
            Names { services: contents.service_names.clone(), targets: contents.target_names.clone() };
        if **self.reader.names.load() != names {
            self.reader.names.store(Arc::new(names));
        }
    }

    /// Says where flows of the other node belong, now that the maps have it all.
    fn place(&self, contents: &Contents) {
        let places = Places::of(contents);
        if **self.reader.places.load() != places {
            self.reader.places.store(Arc::new(places));
        }
    }

    /// Flows of another layout keep their ports where these are written down in another way than before: each follows from its flow, now that it
    /// is known where flows belong.
    fn refill_ports(&mut self, troubles: &mut Vec<TroubleView>) {
        if !self.refill.is_due() {
            return;
        }
        troubles.retain(|trouble| trouble.what != PORTS);
        let tables = FlowTables::open(&self.loaded.folder, Arc::clone(&self.reader));
        match tables.and_then(|mut tables| tables.refill_ports()) {
            Ok(ports) => {
                self.refill.done();
                tracing::info!(ports, "ports of another layout's flows written anew");
            }
            Err(error) => {
                self.failures += 1;
                let why = format!("{error}; until then these flows get no answers; trying again");
                troubles.push(TroubleView { what: PORTS.to_owned(), why });
            }
        }
    }

    /// Has the program on these interfaces; it knows an interface before it is there.
    fn attach(&mut self, work: &Work, troubles: &mut Vec<TroubleView>) -> Result<(), KernelError> {
        let Work { interfaces: ref wanted, translates: [ipv4, ipv6], checks } = *work;
        // Programs of another layout go on until these know as much, and have the flows.
        let knows_all = self.reader.written.load(Ordering::Acquire);
        let held = (self.loaded.has_old() && !knows_all).then_some(Part::Forward);
        let mut interfaces = BTreeMap::new();
        let mut places: BTreeMap<Place, Wanted> = BTreeMap::new();
        for (&index, (interface, virtual_mac)) in wanted {
            // Another one may have come to have this index.
            let Some(link) = self.ways.link_at(index).filter(|link| link.is_ethernet()) else { continue };
            if index >= LINKS_MAX {
                let why = format!("its index {index} is beyond {}", LINKS_MAX - 1);
                troubles.push(TroubleView { what: interface.name.clone(), why });
                continue;
            }
            let ours = if self.without.contains(&index) { 0 } else { LINK_OURS };
            let virtual_mac = if *virtual_mac { LINK_VIRTUAL_MAC } else { 0 };
            let other_end = if link.hands_over() { LINK_OTHER_END } else { 0 };
            let flags = ours | virtual_mac | other_end;
            let entry = Link { mac: link.mac.unwrap_or_default(), flags, mtu: link.mtu, ..Link::default() };
            self.put_link(index, entry)?;
            if let Err(why) = self.settings.allow_forwarding(&interface.name, ipv4, ipv6) {
                troubles.push(TroubleView { what: interface.name.clone(), why });
            }
            places.insert((Part::Forward, index), interface.clone());
            // Programs of another layout may know nothing of these checks.
            if checks && (interface.way == Attach::Xdp || held.is_some()) {
                let purpose = "answers to health checks".to_owned();
                places.insert((Part::CheckIn, index), Wanted { purpose, ..interface.clone() });
            }
            interfaces.insert(index, interface.clone());
        }
        if let Some(link) = self.ways.link_at(LOOPBACK).filter(|_| checks) {
            let way = interfaces.values().next().map_or(Attach::Auto, |interface| interface.way);
            let purpose = "health checks through virtual IPs".to_owned();
            places.insert((Part::CheckOut, LOOPBACK), Wanted { name: link.name.clone(), way, purpose });
            if let Err(why) = self.settings.accept_answers() {
                troubles.push(TroubleView { what: link.name.clone(), why });
            }
        }
        let failures = self.attachments.sync(&mut self.loaded.ebpf, &places, held.as_slice());
        if failures.is_empty() && held.is_none() && self.loaded.forget_old() {
            self.refill.copied(true);
            self.refill_ports(troubles);
        }
        for error in failures {
            self.failures += 1;
            troubles.push(TroubleView { what: "attaching".to_owned(), why: error.to_string() });
        }
        // What a driver is given to send by another interface's program it may lose in silence where it has no program itself.
        let is_without = |index: &u32| !self.attachments.forwards_at(*index);
        self.without = interfaces.keys().copied().filter(is_without).collect();
        for &index in interfaces.keys() {
            let Some(&link) = self.links.get(&index) else { continue };
            let ours = if self.without.contains(&index) { 0 } else { LINK_OURS };
            self.put_link(index, Link { flags: link.flags & !LINK_OURS | ours, ..link })?;
        }
        let gone: Vec<u32> = self.links.keys().filter(|it| !interfaces.contains_key(it)).copied().collect();
        for index in gone {
            self.maps.links.put(&index, &Link::default())?;
            self.links.remove(&index);
        }
        // Nothing is forwarded any more where it was taken off.
        if let Err(why) = self.settings.put_back_others() {
            troubles.push(TroubleView { what: "kernel settings".to_owned(), why });
        }
        Ok(())
    }

    /// Has the program know this of an interface.
    fn put_link(&mut self, index: u32, entry: Link) -> Result<(), KernelError> {
        if self.links.get(&index) != Some(&entry) {
            self.maps.links.put(&index, &entry)?;
            self.links.insert(index, entry);
        }
        Ok(())
    }

    fn publish(&self, troubles: Vec<TroubleView>) {
        let interface = |attached: &attach::Attached| InterfaceView {
            name: attached.name.clone(),
            attached: attached.how.name().to_owned(),
            why: attached.why.clone(),
            purpose: attached.purpose.clone(),
        };
        let before = self.outlets.view.load_full();
        for trouble in &troubles {
            if before.as_ref().is_none_or(|before| !before.troubles.contains(trouble)) {
                tracing::warn!(what = trouble.what, why = trouble.why, "kernel forwarding");
            }
        }
        self.outlets.view.store(Some(Arc::new(KernelView {
            kernel: self.kernel.clone(),
            folder: self.loaded.folder.display().to_string(),
            interfaces: self.attachments.present().values().map(interface).collect(),
            troubles,
            flows_max: self.reader.flows.shape().max_entries,
            flows: 0,
            failures: self.failures,
            network_failures: self.ways.failures(),
            attached_again: self.attachments.attached_again(),
        })));
    }

    /// Waits until something has changed, or something is to be looked at again, but not beyond `end`.
    fn wait(&mut self, end: Option<Instant>) {
        let now = Instant::now();
        let retry = self.outlets.view.load().as_ref().is_some_and(|view| !view.troubles.is_empty());
        let mut until = now + if retry { RETRY } else { LOOK };
        until = until.min(end.unwrap_or(until));
        if let Some(look) = self.ways.next_look(now) {
            until = until.min(look);
        }
        let mut look_at_places = now + LOOK_AT_PLACES;
        loop {
            let left = until.min(look_at_places).saturating_duration_since(Instant::now());
            let timeout =
                PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
            let mut fds = [
                PollFd::new(self.signal.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.ways.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.next_hops.as_fd(), PollFlags::POLLIN),
            ];
            // An interrupted wait ends early, which does no harm.
            let is_quiet = poll(&mut fds, timeout) == Ok(0);
            let [is_woken, has_changed, is_asked] = fds.map(|fd| !is_quiet && fd.any().unwrap_or(true));
            if is_asked {
                self.look_for_next_hops();
            }
            self.keep_clients();
            let now = Instant::now();
            // Of neighbours most news are of those that nothing here depends on.
            let mut is_due = is_woken || now >= until || (has_changed && self.ways.follow(now));
            if now >= look_at_places {
                look_at_places = now + LOOK_AT_PLACES;
                is_due |= !self.attachments.are_in_place();
            }
            if is_due || self.hear_routers() {
                break;
            }
            if has_changed || is_asked {
                std::thread::sleep(PACE);
            }
        }
        std::thread::sleep(PACE);
        self.signal.taken();
    }

    /// Whether there are targets that the checks do not know yet.
    fn undecided(&self) -> bool {
        let snapshot = self.shared.snapshot.load();
        let mut states = snapshot.groups.iter().flat_map(|group| group.states());
        states.any(|(_, state)| state == HealthState::Undecided)
    }
}
