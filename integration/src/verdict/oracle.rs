//! What a node does with a packet, told by the rules and not by the program: a model with its own tables.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use self::reason::Reason;

use super::harness::ADDRESSES;
use super::icmp;
use super::packet::{ACK, FIN, ICMP, ICMP6, RST, SYN, TCP, UDP};
use super::parse::{self, PieceOf, View};
use super::rewrite;
use super::solicitation;
use super::world::*;

pub use super::world::World;

/// Places of a ring that are looked at for a target that takes new flows.
const PLACES: usize = 16;

/// Why a packet was not forwarded: `enum drop_reason`.
pub mod reason {
    /// By the numbers of the header.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    #[expect(missing_docs, reason = "the header explains them")]
    pub enum Reason {
        Malformed = 1,
        NotActive,
        Denied,
        SourceRate,
        NoTarget,
        NoNextHop,
        NoPort,
        FlowsFull,
        Fragment,
        TooBig,
        Unhealthy,
        Ttl,
        Clash,
        IcmpInner,
        Headroom,
        Solicitation,
        AnswerRate,
        UnknownFlow,
        NotCut,
    }
}

/// A client's tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// TCP or UDP.
    pub protocol: u8,
    /// Who asks.
    pub client: SocketAddr,
    /// The VIP and its port.
    pub service: SocketAddr,
}

/// What is known of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// When a packet was last seen.
    pub seen: u32,
    /// Index of the target.
    pub target: u16,
    /// Index of the service.
    pub service: u16,
    /// The source port towards the target; 0 if it is the client's.
    pub port: u16,
    /// The client has confirmed it.
    pub confirmed: bool,
    /// FINs of client and target.
    pub fins: (bool, bool),
    /// A RST was seen.
    pub reset: bool,
}

/// What has to come out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// To the stack, untouched.
    Pass,
    /// Nothing.
    Drop,
    /// One of these frames; all of a kind.
    Forward(Vec<Vec<u8>>),
    /// A RST to the client from the VIP.
    Reset,
    /// An ICMP error to the client with this MTU, which quotes its packet.
    TooBig(u16),
}

impl Outcome {
    /// To read.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Forward(_) => "forward",
            Self::Reset => "a RST",
            Self::TooBig(_) => "too big",
        }
    }
}

/// What comes out, and which counter of drops goes up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// What comes out.
    pub outcome: Outcome,
    /// What is counted.
    pub reason: Option<Reason>,
}

impl Expected {
    /// To the stack, uncounted.
    #[must_use]
    pub const fn pass() -> Self {
        Self { outcome: Outcome::Pass, reason: None }
    }

    /// Something that is counted.
    #[must_use]
    pub const fn counted(outcome: Outcome, reason: Reason) -> Self {
        Self { outcome, reason: Some(reason) }
    }

    /// Frames.
    #[must_use]
    pub const fn forward(frames: Vec<Vec<u8>>) -> Self {
        Self { outcome: Outcome::Forward(frames), reason: None }
    }
}

/// MAC addresses on the way to clients, and of the interface that the packets come from.
#[derive(Clone, Copy, Debug)]
pub struct Links {
    /// The interface's, which is also that of the way out.
    pub own: [u8; 6],
    /// The next hop's towards every client.
    pub clients: [u8; 6],
    /// The largest IP packet on the way there.
    pub clients_mtu: u16,
}

/// The model.
#[derive(Clone, Debug)]
pub struct Oracle {
    /// What the node was told.
    pub world: World,
    /// The links.
    pub links: Links,
    /// Flows, the half-open ones too.
    pub flows: HashMap<Tuple, Flow>,
    /// Who has which port towards an endpoint (target's address, port and protocol).
    pub slots: HashMap<(SocketAddr, u8, u16), Tuple>,
    /// Ports of datagrams in pieces.
    pieces: HashMap<(IpAddr, IpAddr, u8, PieceOf), (u16, u16)>,
    /// Targets of clients.
    affinity: HashMap<(IpAddr, u16), (u16, u32)>,
    /// New flows of addresses: the window's begin and a count.
    sources: HashMap<(IpAddr, u16), (u32, u32)>,
    /// Answers of its own in a tick: which, and how many.
    answers: (u32, u32),
    /// The same of long searches for ports.
    searches: (u32, u32),
    /// Searches that were cut short.
    pub short_searches: u64,
    /// Rings, by service, and the other node's; made once.
    rings: HashMap<u16, [Arc<Vec<u16>>; 2]>,
    /// Flows that began with another segment than a SYN and are not remembered yet: what comes of them counts for no rate.
    uncounted: HashSet<Tuple>,
    /// Flows that have proved themselves here: whatever becomes of them, they are not the other node's.
    stored: HashSet<Tuple>,
    /// Flows that nobody remembers: they began with a reset.
    forgotten: HashSet<Tuple>,
}

impl Oracle {
    /// A node that has seen nothing.
    #[must_use]
    pub fn new(world: World, links: Links) -> Self {
        let rings = (1..=world.services.len())
            .filter_map(|service| u16::try_from(service).ok())
            .map(|service| (service, [world.ring(service), world.other_ring(service)]))
            .collect();
        Self {
            world,
            links,
            flows: HashMap::new(),
            slots: HashMap::new(),
            pieces: HashMap::new(),
            affinity: HashMap::new(),
            sources: HashMap::new(),
            answers: (0, 0),
            searches: (0, 0),
            short_searches: 0,
            rings,
            uncounted: HashSet::new(),
            stored: HashSet::new(),
            forgotten: HashSet::new(),
        }
    }

    /// Takes what the node is told now: its flows stay.
    pub fn told(&mut self, world: World) {
        let fresh = Self::new(world, self.links);
        self.world = fresh.world;
        self.rings = fresh.rings;
    }

    /// What becomes of a frame. Resets and ICMP are made for so many in a tick; the others get none.
    pub fn step(&mut self, frame: &[u8]) -> Expected {
        let without = parse::without_priority_tag(frame);
        let expected = self.decide(without.as_deref().unwrap_or(frame));
        if !matches!(expected.outcome, Outcome::Reset | Outcome::TooBig(_)) {
            return expected;
        }
        let (tick, before) = self.answers;
        let before = if tick == self.world.now { before } else { 0 };
        if before == ANSWERS_PER_TICK {
            return Expected::counted(Outcome::Drop, Reason::AnswerRate);
        }
        self.answers = (self.world.now, before + 1);
        expected
    }

    fn decide(&mut self, frame: &[u8]) -> Expected {
        if let Some(ip) = solicitation::asked(frame) {
            let whose = self.world.vips.iter().find(|vip| vip.0 == ip).map(|vip| usize::from(vip.1));
            let in_vain = whose.is_some_and(|instance| !self.world.roles[instance].owns(self.world.now));
            return if in_vain {
                Expected::counted(Outcome::Drop, Reason::Solicitation)
            } else {
                Expected::pass()
            };
        }
        let Some(view) = View::of(frame).filter(|_| self.is_ours(frame)) else { return Expected::pass() };
        let icmp = if view.is_ipv4() { ICMP } else { ICMP6 };
        if view.protocol == icmp {
            return if view.piece.is_some() { Expected::pass() } else { icmp::step(self, frame, &view) };
        }
        if view.protocol != TCP && view.protocol != UDP {
            return Expected::pass();
        }
        let Some((source, destination)) = self.ports(frame, &view) else {
            let orphan = view.piece.is_some_and(|piece| !piece.first) && self.serves(&view);
            return if orphan {
                Expected::counted(Outcome::Drop, Reason::Fragment)
            } else {
                Expected::pass()
            };
        };
        let tuple = Tuple { protocol: view.protocol, client: source, service: destination };
        let later = view.piece.is_some_and(|piece| !piece.first);
        let expected = if let Some(back) = self.returning(&tuple) {
            self.back(frame, &view, &back, later)
        } else if let Some(service) = self.world.listener(destination, view.protocol) {
            self.forth(frame, &view, tuple, service, later)
        } else if self.is_of_other_node(&tuple, if later { 0 } else { view.flags(frame) }) {
            Expected::counted(Outcome::Drop, Reason::UnknownFlow)
        } else if self.may_be_untold(&tuple, if later { 0 } else { view.flags(frame) }) {
            self.handed_over(frame, &view, &tuple)
        } else {
            Expected::pass()
        };
        if let (Some(piece), Outcome::Forward(_)) =
            (view.piece.filter(|piece| piece.first), &expected.outcome)
        {
            let key = (view.source, view.destination, view.protocol, piece);
            self.pieces.insert(key, (source.port(), destination.port()));
        }
        expected
    }

    fn is_ours(&self, frame: &[u8]) -> bool {
        let mac = &frame[..6];
        mac == self.links.own || (mac[..4] == [0, 0, 0x5e, 0] && (mac[4] == 1 || mac[4] == 2))
    }

    /// Whether it comes from a target of NAT to a port that only the other node gives to flows, which may not have told of this one yet, or while
    /// flows may lack the ports that they had in another layout.
    fn is_of_other_node(&self, tuple: &Tuple, flags: u8) -> bool {
        let (from, to) = (tuple.client, tuple.service);
        let translates = |index: u16| {
            let uses = |service: &&Service| service.members.iter().any(|member| member.0 == index);
            self.world.services.iter().filter(uses).any(|service| service.nat && !service.preserve)
        };
        // One of any port answers from the one that the client asked for.
        let asked =
            |port| self.world.listens.iter().any(|listen| (listen.ports.0..=listen.ports.1).contains(&port));
        let is_endpoint = (1..).zip(&self.world.targets).any(|(index, target)| {
            let port = if target.port == 0 { asked(from.port()) } else { target.port == from.port() };
            target.protocol == tuple.protocol && target.address == from.ip() && port && translates(index)
        });
        let opens = tuple.protocol == TCP && flags & (SYN | ACK) == SYN;
        let half = u8::from(to.port() >= 1024 + 32_256);
        let elsewhere = self.world.replicated && half != self.world.node;
        (elsewhere || self.world.ports_missing)
            && !opens
            && is_endpoint
            && to.port() >= 1024
            && self.world.vips.iter().any(|(vip, _)| *vip == to.ip())
            && !asked(to.port())
    }

    /// Whether it comes from a target that answers to clients' own addresses, leaves this host again, and the other node may have begun flows
    /// which it has not told of.
    fn may_be_untold(&self, tuple: &Tuple, flags: u8) -> bool {
        let to = tuple.service.ip();
        let begins = tuple.protocol == TCP && flags & (SYN | ACK) == SYN;
        let stays = ADDRESSES.contains(&to) || self.world.vips.iter().any(|(vip, _)| *vip == to);
        self.world.replicated
            && self.world.now < self.world.others_until
            && !begins
            && !stays
            && !self.vips_before(tuple).is_empty()
    }

    /// The VIPs whose clients may get this answer from a target that keeps their addresses.
    fn vips_before(&self, tuple: &Tuple) -> HashSet<IpAddr> {
        let from = tuple.client;
        let asked =
            |port| self.world.listens.iter().any(|listen| (listen.ports.0..=listen.ports.1).contains(&port));
        let answers = |service: &Service| {
            service.members.iter().map(|member| self.world.at(member.0)).any(|target| {
                let port = if target.port == 0 { asked(from.port()) } else { target.port == from.port() };
                target.protocol == tuple.protocol && target.address == from.ip() && port
            })
        };
        let keeps = |service: &Service| service.nat && service.preserve && answers(service);
        let listens = self.world.listens.iter().filter(|listen| keeps(self.world.of(listen.service)));
        listens.map(|listen| listen.vip).collect()
    }

    /// To the other node, a hop further, by the network of one of the VIPs. What that one has sent here, by whichever of them, is of no flow at
    /// all.
    fn handed_over(&self, frame: &[u8], view: &View, tuple: &Tuple) -> Expected {
        let others = self.vips_before(tuple).into_iter().filter_map(|vip| self.world.other_of(vip));
        let others: HashSet<[u8; 6]> = others.map(|(_, mac)| mac).collect();
        if others.iter().any(|other| frame[6..12] == *other) {
            return Expected::pass();
        }
        if others.is_empty() {
            return Expected::counted(Outcome::Drop, Reason::UnknownFlow);
        }
        if view.ttl <= 1 {
            return Expected::counted(Outcome::Drop, Reason::Ttl);
        }
        let sent = |other: [u8; 6]| {
            let mut sent = frame.to_vec();
            rewrite::hop(&mut sent, view, (other, self.links.own));
            sent
        };
        Expected::forward(others.into_iter().map(sent).collect())
    }

    /// Some service has this VIP and protocol.
    fn serves(&self, view: &View) -> bool {
        self.world.listens.iter().any(|listen| listen.vip == view.destination)
    }

    fn ports(&self, frame: &[u8], view: &View) -> Option<(SocketAddr, SocketAddr)> {
        let Some(piece) = view.piece else { return view.ports(frame) };
        let key = (view.source, view.destination, view.protocol, PieceOf { first: true, ..piece });
        if piece.first {
            return view.ports(frame);
        }
        let ports = self.pieces.get(&key)?;
        Some((SocketAddr::new(view.source, ports.0), SocketAddr::new(view.destination, ports.1)))
    }

    /// The flow whose target answers with this tuple.
    pub(super) fn returning(&self, tuple: &Tuple) -> Option<Tuple> {
        let (target, other) = (tuple.client, tuple.service);
        for port in [target.port(), 0] {
            let endpoint = SocketAddr::new(target.ip(), port);
            if let Some(owner) = self.slots.get(&(endpoint, tuple.protocol, other.port()))
                && self.flow(owner).is_some_and(|flow| self.answers(owner, &flow, target))
                && owner.service.ip() == other.ip()
            {
                return Some(*owner);
            }
        }
        let mine = |(owner, flow): &(&Tuple, &Flow)| {
            let service = self.world.of(flow.service);
            service.nat
                && service.preserve
                && owner.client == other
                && owner.protocol == tuple.protocol
                && self.flow(owner).is_some()
                && self.answers(owner, flow, target)
        };
        self.flows.iter().find(mine).map(|found| *found.0)
    }

    fn answers(&self, owner: &Tuple, flow: &Flow, target: SocketAddr) -> bool {
        self.towards(owner, flow.target) == target
    }

    /// Where a flow's packets go.
    pub(super) fn towards(&self, tuple: &Tuple, target: u16) -> SocketAddr {
        let target = self.world.at(target);
        let port = if target.port == 0 { tuple.service.port() } else { target.port };
        SocketAddr::new(target.address, port)
    }

    /// A flow that is not over.
    pub(super) fn flow(&self, tuple: &Tuple) -> Option<Flow> {
        let flow = self.flows.get(tuple).filter(|_| !self.forgotten.contains(tuple))?;
        let one_way = !self.world.of(flow.service).nat;
        let limit = match () {
            () if flow.reset => RESET_TICKS,
            () if flow.fins.0 && (flow.fins.1 || one_way) => CLOSING_TICKS,
            () if tuple.protocol == UDP => UDP_TICKS,
            () if !flow.confirmed => HALF_OPEN_TICKS,
            () => ESTABLISHED_TICKS,
        };
        (self.world.now.wrapping_sub(flow.seen) <= limit).then_some(*flow)
    }

    pub(super) fn may_forward(&self, service: u16, known: bool) -> bool {
        let role = self.world.roles[usize::from(self.world.of(service).instance)];
        if known { role.goes_on(self.world.now) } else { role.owns(self.world.now) }
    }

    fn forth(&mut self, frame: &[u8], view: &View, tuple: Tuple, service: u16, later: bool) -> Expected {
        let flags = if later { 0 } else { view.flags(frame) };
        // Who begins a connection anew has none any more, whichever end has said so.
        let ends = |flow: &Flow| flow.reset || flow.fins.0 || flow.fins.1;
        let mut flow = self.flow(&tuple).filter(|flow| !(ends(flow) && flags & (SYN | ACK) == SYN));
        if let Some(known) = flow {
            if !self.may_forward(service, true) {
                return Expected::counted(Outcome::Drop, Reason::NotActive);
            }
            let gone = matches!(self.world.at(known.target).health, Health::Absent | Health::Unhealthy);
            let opens = flags & (SYN | ACK) == SYN;
            if gone && tuple.protocol == TCP && !opens && self.world.of(service).reset_unhealthy {
                return Expected::counted(Outcome::Reset, Reason::Unhealthy);
            }
            flow = flow.filter(|_| !gone);
        }
        if flow.is_none() && !self.may_forward(service, false) {
            return Expected::counted(Outcome::Drop, Reason::NotActive);
        }
        let new = flow.is_none();
        let flow = match flow {
            Some(flow) => flow,
            None => match self.begin(view, &tuple, service, flags) {
                Ok(flow) => flow,
                Err(reason) => {
                    let answered = reason == Reason::NoPort && tuple.protocol == TCP && flags & RST == 0;
                    return Expected::counted(if answered { Outcome::Reset } else { Outcome::Drop }, reason);
                }
            },
        };
        let target = *self.world.at(flow.target);
        if view.ttl <= 1 {
            return Expected::counted(Outcome::Drop, Reason::Ttl);
        }
        if view.length() > usize::from(target.mtu) {
            return too_long(view, target.mtu, later);
        }
        if !target.reachable {
            return Expected::counted(Outcome::Drop, Reason::NoNextHop);
        }
        self.saw(tuple, flow, flags, new);
        Expected::forward(self.sent(frame, view, &tuple, &flow, later))
    }

    /// The frames that may go to the target.
    pub(super) fn sent(
        &self,
        frame: &[u8],
        view: &View,
        tuple: &Tuple,
        flow: &Flow,
        later: bool,
    ) -> Vec<Vec<u8>> {
        let target = self.world.at(flow.target);
        let service = self.world.of(flow.service);
        let mut out = frame.to_vec();
        if !later && view.flags(frame) & SYN != 0 {
            rewrite::clamp(&mut out, view, service.mss_max);
        }
        let macs = (target.mac, self.links.own);
        if target.way != Way::Plain {
            return rewrite::tunnelled(&out, view, target, macs);
        }
        rewrite::hop(&mut out, view, macs);
        if service.nat {
            let source =
                if flow.port == 0 { tuple.client } else { SocketAddr::new(tuple.service.ip(), flow.port) };
            rewrite::translate(&mut out, view, source, self.towards(tuple, flow.target), later);
        }
        vec![out]
    }

    /// Chooses for a new flow.
    fn begin(&mut self, view: &View, tuple: &Tuple, service: u16, flags: u8) -> Result<Flow, Reason> {
        let client = view.source;
        let rules = self.world.of(service).clone();
        if !rules.access.is_empty() && !allowed(&rules.access, client) {
            return Err(Reason::Denied);
        }
        // What may have begun elsewhere is not refused: it counts when it is to be remembered.
        let opens = tuple.protocol != TCP || flags & (SYN | ACK) == SYN;
        if opens {
            self.uncounted.remove(tuple);
            if !self.admits(client, service) {
                return Err(Reason::SourceRate);
            }
        } else if !self.stored.contains(tuple) {
            self.uncounted.insert(*tuple);
        }
        let remembered = rules.affinity.and_then(|_| self.affinity.get(&(client, service))).copied();
        let remembered = remembered
            .filter(|entry| entry.1 > self.world.now && self.world.at(entry.0).health == Health::Up)
            .map(|entry| entry.0);
        let mut target = match remembered {
            Some(target) => target,
            None => {
                let other = self.by_other(tuple, service, flags);
                let other = other.filter(|other| !(rules.preserve && self.clashes(tuple, *other)));
                other.or_else(|| self.well_by_hash(tuple, service)).ok_or(Reason::NoTarget)?
            }
        };
        if rules.preserve {
            target = self.without_clash(tuple, service, target)?;
        }
        if let Some(ticks) = rules.affinity {
            self.affinity.insert((client, service), (target, self.world.now + ticks));
        }
        let port = if rules.nat && !rules.preserve {
            self.port(tuple, target, flags).ok_or(Reason::NoPort)?
        } else {
            0
        };
        let confirmed = tuple.protocol == TCP && flags & SYN == 0;
        let seen = self.world.now;
        Ok(Flow { seen, target, service, port, confirmed, fins: (false, false), reset: false })
    }

    /// Counts a flow of a client's within its rate; whether it is.
    fn admits(&mut self, client: IpAddr, service: u16) -> bool {
        let Some((most, ticks)) = self.world.of(service).source_rate else { return true };
        let counted = (client, self.world.counted_as(service));
        let others = self.world.others_begun.get(&counted).filter(|_| self.world.of(service).pair_rate);
        let others = others.filter(|(_, until)| self.world.now < *until).map_or(0, |(count, _)| *count);
        let most = most.saturating_sub(others);
        let window = self.sources.entry(counted).or_insert((self.world.now, 0));
        if self.world.now.wrapping_sub(window.0) >= ticks {
            *window = (self.world.now, 0);
        }
        let has_room = window.1 < most;
        window.1 += u32::from(has_room);
        has_room
    }

    /// The ring's target, so many slots further.
    #[must_use]
    pub fn by_hash(&self, tuple: &Tuple, service: u16, further: usize) -> Option<u16> {
        let [ring, _] = self.rings.get(&service).filter(|[ring, _]| !ring.is_empty())?;
        Some(ring[(self.slot(tuple, service) + further) % 65_537])
    }

    /// The first target from the flow's place on that takes new flows, of so many places.
    fn well_by_hash(&self, tuple: &Tuple, service: u16) -> Option<u16> {
        let mut places = (0..PLACES).filter_map(|further| self.by_hash(tuple, service, further));
        places.find(|target| self.world.at(*target).health == Health::Up)
    }

    /// A flow's place in a ring.
    fn slot(&self, tuple: &Tuple, service: u16) -> usize {
        let key = self.world.hash_key();
        let hash = if self.world.of(service).by_source {
            key.source(tuple.client.ip())
        } else {
            key.flow(tuple.protocol, tuple.client, tuple.service)
        };
        usize::try_from(hash % 65_537).unwrap_or(0)
    }

    /// The target that the other node has given to a flow which it had no time to tell of: what opens no connection is of such a one for a
    /// while, unless this node has begun it. A datagram may begin one, so it goes to a target that takes new ones.
    pub(super) fn by_other(&self, tuple: &Tuple, service: u16, flags: u8) -> Option<u16> {
        let (_, until) = self.world.of(service).other.as_ref()?;
        let opens = tuple.protocol == TCP && flags & (SYN | ACK) == SYN;
        if opens || self.world.now >= *until || self.stored.contains(tuple) {
            return None;
        }
        let [_, ring] = self.rings.get(&service).filter(|[_, ring]| !ring.is_empty())?;
        let target = ring[self.slot(tuple, service)];
        let health = self.world.at(target).health;
        let takes = health == Health::Up || (tuple.protocol == TCP && health == Health::Draining);
        takes.then_some(target)
    }

    /// Whether another flow with this client's tuple has its answers come from the same place.
    fn clashes(&self, tuple: &Tuple, target: u16) -> bool {
        let to = self.towards(tuple, target);
        self.flows.iter().any(|(other, flow)| {
            other != tuple
                && other.client == tuple.client
                && other.protocol == tuple.protocol
                && self.world.of(flow.service).preserve
                && self.flow(other).is_some()
                && self.towards(other, flow.target) == to
        })
    }

    fn without_clash(&self, tuple: &Tuple, service: u16, first: u16) -> Result<u16, Reason> {
        let clashes = |target: u16| self.clashes(tuple, target);
        if !clashes(first) {
            return Ok(first);
        }
        // The next *other* target of the ring.
        let others = (1..65_537).filter_map(|further| self.by_hash(tuple, service, further));
        others.take(64).find(|&target| !clashes(target)).ok_or(Reason::Clash)
    }

    /// The source port towards a target: its own, or the first free candidate, or what was left for the longest. The connection of a
    /// segment that is no SYN was begun by the other node, if this one does not know its port. (So may the flow of a datagram be, but then
    /// the other node has not told of it, and its port is not known here.)
    fn port(&mut self, tuple: &Tuple, target: u16, flags: u8) -> Option<u16> {
        let to = self.world.at(target);
        let endpoint = SocketAddr::new(to.address, to.port);
        let node = self.world.node;
        let opens = tuple.protocol == TCP && flags & (SYN | ACK) == SYN;
        let mut ports: Vec<u16> = match opens {
            true => self.candidates(tuple, node).collect(),
            false => self.looked_at(tuple, endpoint, node),
        };
        let mut own = self.own_port(tuple, endpoint, &ports);
        if own.is_none() && !opens && tuple.protocol == TCP {
            ports = self.looked_at(tuple, endpoint, 1 - node);
            own = self.own_port(tuple, endpoint, &ports);
        }
        own.or_else(|| self.unused_port(tuple, endpoint, &ports))
    }

    fn own_port(&self, tuple: &Tuple, endpoint: SocketAddr, ports: &[u16]) -> Option<u16> {
        self.flow(tuple)?;
        let owner = |port: u16| self.slots.get(&(endpoint, tuple.protocol, port));
        ports.iter().copied().find(|port| owner(*port) == Some(tuple))
    }

    /// The first that is free, else the one that was left for the longest by a flow that is half-open or over.
    fn unused_port(&self, tuple: &Tuple, endpoint: SocketAddr, ports: &[u16]) -> Option<u16> {
        let owner = |port: u16| self.slots.get(&(endpoint, tuple.protocol, port));
        let free = |port: &u16| owner(*port).is_none_or(|owner| owner == tuple || self.flow(owner).is_none());
        let left = |port: u16| {
            let flow = self.flow(owner(port)?)?;
            let silent = self.world.now.wrapping_sub(flow.seen);
            let over = flow.reset || flow.fins == (true, true);
            let least = match () {
                () if tuple.protocol == UDP => DATAGRAM_KEPT_TICKS,
                () if over => TAKE_OVER_TICKS,
                () => HALF_OPEN_KEPT_TICKS,
            };
            (silent > least && (over || !flow.confirmed)).then_some((Reverse(silent), port))
        };
        let oldest = || ports.iter().copied().filter_map(left).min_by_key(|&(silent, _)| silent);
        ports.iter().copied().find(free).or_else(|| oldest().map(|(_, port)| port))
    }

    /// The ports that are looked at in a node's half for what opens no connection: all candidates, unless too many have been looked for like
    /// this in this tick. What one of the first few settles, the flow's own port or one that nobody ever had, is none of these searches.
    fn looked_at(&mut self, tuple: &Tuple, endpoint: SocketAddr, half: u8) -> Vec<u16> {
        let mut ports: Vec<u16> = self.candidates(tuple, half).collect();
        let owner = |port: &u16| self.slots.get(&(endpoint, tuple.protocol, *port));
        if ports.iter().take(SHORT_SEARCH).any(|port| owner(port).is_none_or(|owner| owner == tuple)) {
            return ports;
        }
        let (tick, before) = self.searches;
        let before = if tick == self.world.now { before } else { 0 };
        if before == SEARCHES_PER_TICK {
            self.short_searches += 1;
            ports.truncate(SHORT_SEARCH);
        } else {
            self.searches = (self.world.now, before + 1);
        }
        ports
    }

    /// The ports that a flow may get in a node's half, best first.
    pub fn candidates(&self, tuple: &Tuple, node: u8) -> impl Iterator<Item = u16> + use<> {
        let hash = self.world.hash_key().flow(tuple.protocol, tuple.client, tuple.service);
        let (base, first) = (1024 + 32_256 * u64::from(node), (hash >> 32) % 32_256);
        let stride = ((hash >> 8) % 16_384) | 1;
        (0..32).filter_map(move |next| u16::try_from(base + (first + next * stride) % 32_256).ok())
    }

    /// Keeps what a client's packet says.
    fn saw(&mut self, tuple: Tuple, mut flow: Flow, flags: u8, new: bool) {
        let stored = !new || self.stored.contains(&tuple);
        // Whoever shows up with the end of a connection is in no table, and stays half-open; with a reset nothing at all is begun, but that a
        // port is the flow's for its time.
        if !stored && flow.port == 0 && tuple.protocol == TCP && flags & RST != 0 {
            self.forgotten.insert(tuple);
        } else {
            self.forgotten.remove(&tuple);
        }
        flow.seen = self.world.now;
        if !new
            && (tuple.protocol == UDP || flags & SYN == 0)
            && (!self.uncounted.contains(&tuple) || self.admits(tuple.client.ip(), flow.service))
        {
            self.uncounted.remove(&tuple);
            flow.confirmed = true;
            self.stored.insert(tuple);
        }
        flow.fins.0 |= stored && flags & FIN != 0;
        flow.reset = is_reset(flow.reset, tuple.protocol, flags);
        if flow.port != 0 {
            let to = self.world.at(flow.target);
            let endpoint = SocketAddr::new(to.address, to.port);
            self.slots.retain(|_, owner| *owner != tuple);
            self.slots.insert((endpoint, tuple.protocol, flow.port), tuple);
        }
        self.flows.insert(tuple, flow);
    }

    fn back(&mut self, frame: &[u8], view: &View, owner: &Tuple, later: bool) -> Expected {
        let Some(mut flow) = self.flow(owner) else { return Expected::pass() };
        if !self.may_forward(flow.service, true) {
            return Expected::counted(Outcome::Drop, Reason::NotActive);
        }
        if view.ttl <= 1 {
            return Expected::counted(Outcome::Drop, Reason::Ttl);
        }
        let flags = if later { 0 } else { view.flags(frame) };
        flow.seen = self.world.now;
        flow.fins.1 |= flags & FIN != 0;
        flow.reset = is_reset(flow.reset, owner.protocol, flags);
        self.flows.insert(*owner, flow);
        if view.length() > usize::from(self.links.clients_mtu) {
            return too_long(view, self.links.clients_mtu, later);
        }
        let mut out = frame.to_vec();
        let most = self.world.of(flow.service).mss_max;
        if flags & SYN != 0 && most != 0 {
            // Neither longer than the target takes nor than fits on the way to the client.
            let headers = if view.is_ipv4() { 40 } else { 60 };
            rewrite::clamp(&mut out, view, most.min(self.links.clients_mtu - headers));
        }
        rewrite::hop(&mut out, view, (self.links.clients, self.links.own));
        rewrite::translate(&mut out, view, owner.service, owner.client, later);
        Expected::forward(vec![out])
    }
}

/// Whether a flow is one that was reset, after a segment with these flags. RFC 5961: a host takes a RST for real only with the very sequence
/// number that it expects, so a connection in which segments still acknowledge something has not ended. (RFC 9293, 3.5.2: "If the connection
/// does not exist (CLOSED), then a reset is sent in response to any incoming segment except another reset": then there is a RST again.)
const fn is_reset(before: bool, protocol: u8, flags: u8) -> bool {
    if protocol != TCP {
        return before;
    }
    flags & RST != 0 || (before && flags & (SYN | ACK) != ACK)
}

/// Its sender is told, by the packet that has its ports. Cut is none, also where the sender leaves that to routers (RFC 791: "don't
/// fragment" is not set).
fn too_long(view: &View, mtu: u16, later: bool) -> Expected {
    let reason = if view.may_be_cut { Reason::NotCut } else { Reason::TooBig };
    // With the headers before it: of IPv6's others that of a piece alone.
    let header = match view.piece {
        _ if view.is_ipv4() => 20,
        Some(_) => 48,
        None => 40,
    };
    let told = !later && view.transport == view.ip + header;
    Expected::counted(if told { Outcome::TooBig(mtu) } else { Outcome::Drop }, reason)
}

/// The longest prefix decides.
fn allowed(rules: &[(IpAddr, u8, bool)], client: IpAddr) -> bool {
    let fits = |rule: &&(IpAddr, u8, bool)| {
        ipnet::IpNet::new(rule.0, rule.1).is_ok_and(|network| network.contains(&client))
    };
    rules.iter().filter(fits).max_by_key(|rule| rule.1).is_some_and(|rule| rule.2)
}

#[cfg(test)]
mod tests;
