//! A run from a seed: what is written, what breaks and when it heals, and the quiet times in which all has to be right.

use common::rng::Rng;
use common::time::Duration;
use lbd_core::replication::{MINOR, Removal, Table};
use vrrpd_core::node::CATCH_UP_MAX;

use super::super::check::Violation;
use super::super::clock::Moment;
use super::super::fault::Fault;
use super::super::host::Machine;
use super::super::run::{Failure, settled};
use super::super::trace::Trace;
use super::super::variant::Variant;
use super::super::view::{Bounds, Seen};
use super::check::is_steady;
use super::lbd::{Flaw, Label, Make, TOMBSTONES_MAX};
use super::pair::Pair;

/// So long after `vrrpd` an `lbd` is there at most when a host has booted: some intervals of advertisements.
const LBD_START_MAX: Duration = Duration::from_secs(1);

/// A port on the LAN passes nothing for so long at most: longer than a node that is behind waits for one that it does not hear.
const PORT_BLOCKED_MAX: Duration = Duration::from_secs(6);

/// What a seed's run is about, besides the configuration.
#[derive(Clone, Debug)]
pub struct Draw {
    pub(super) makes: [Make; 2],
    /// Time between two operations, at most.
    pace: Duration,
    /// Of the way between the `lbd`s, each way.
    pub(super) delay: Duration,
    /// Of a thousand operations, so many break something.
    breaks: u64,
    /// Whether everything fits everywhere.
    pub(super) roomy: bool,
}

impl Draw {
    /// Everything fits, and is quick.
    #[must_use]
    pub fn plain() -> Self {
        let make = Make {
            minor: MINOR,
            table_max: 2000,
            dirty_max: 2000,
            tombstones_max: TOMBSTONES_MAX,
            window: 100_000,
            write_delay: Duration::from_millis(1),
        };
        Self {
            makes: [make.clone(), make],
            pace: Duration::from_millis(5),
            delay: Duration::from_micros(100),
            breaks: 0,
            roomy: true,
        }
    }

    /// The same, with a link of this delay and a shell that takes so long to write.
    #[must_use]
    pub fn slow(delay: Duration, write_delay: Duration) -> Self {
        let mut draw = Self { delay, ..Self::plain() };
        draw.makes.iter_mut().for_each(|make| make.write_delay = write_delay);
        draw
    }

    fn from_seed(rng: &mut Rng) -> Self {
        let roomy = !rng.chance(150);
        let mut make = || Make {
            // The version without rings: it differs in most of what is told.
            minor: if rng.chance(150) { MINOR - 2 } else { MINOR },
            table_max: if roomy { 2000 } else { *rng.pick(&[20, 60]) },
            // All tombstones have to find room.
            dirty_max: *rng.pick(&[130, 200, 2000]),
            tombstones_max: TOMBSTONES_MAX,
            window: *rng.pick(&[2000, 20_000, 100_000]),
            write_delay: Duration::from_micros(*rng.pick(&[1, 1000, 30_000])),
        };
        let makes = [make(), make()];
        Self {
            makes,
            pace: Duration::from_millis(*rng.pick(&[1, 10, 40])),
            delay: Duration::from_micros(*rng.pick(&[100, 1000, 20_000])),
            breaks: *rng.pick(&[10, 40, 100]),
            roomy,
        }
    }

    /// In some runs few deletions are remembered. What is drawn for that shifts nothing else.
    fn with_tombstones(mut self, rng: &mut Rng) -> Self {
        if rng.chance(300) {
            self.makes.iter_mut().for_each(|make| make.tombstones_max = *rng.pick(&[2, 8]));
        }
        self
    }
}

/// Something that happens to the pair.
#[derive(Clone, Debug)]
enum Event {
    Vrrp(Fault),
    Power(usize, bool),
    Lbd(usize, bool),
    /// The connection loses everything from some byte on; both ends hear of it later.
    Cut,
    /// The same, and nobody hears of it.
    Silence,
    /// What is on its way is gone, and both ends know.
    CutAtOnce,
    /// What is no frame comes from a node.
    Noise(usize),
    /// A node has lost the connection, and makes another one while the other node still has the old one.
    HalfOpen(usize),
}

/// Runs a seed to its end.
///
/// # Errors
///
/// The first broken promise. Its trace is empty unless asked for.
pub fn run_pair_seed(seed: u64, flaw: Flaw, trace: Trace) -> Result<Trace, Box<Failure>> {
    let mut rng = Rng::new(seed ^ 0x9a17);
    let variant = variant(&mut rng);
    let draw = Draw::from_seed(&mut rng).with_tombstones(&mut Rng::new(seed ^ 0x70b5));
    let pair = Pair::new(rng.next_u64(), &variant, &draw, flaw, trace);
    let preempts = variant.preempt;
    let mut story = Story {
        rng,
        ports: Rng::new(seed ^ 0x9027),
        pair,
        draw,
        preempts,
        moved: false,
        unwell: true,
        stopped: false,
        coming: Vec::new(),
    };
    match story.play() {
        Ok(()) => Ok(story.pair.world.into_trace()),
        Err(violation) => Err(Box::new(Failure { seed, violation, trace: story.pair.world.into_trace() })),
    }
}

/// Pairs whose `vrrpd`s hear what `lbd` lacks: a peer link, and signed advertisements. Every third one is active-active.
fn variant(rng: &mut Rng) -> Variant {
    let interval = Duration::from_millis(*rng.pick(&[20, 50, 100, 100, 250]));
    Variant {
        priority: if rng.chance(700) { [200, 100] } else { [120, 150] },
        instances: if rng.chance(333) { 2 } else { 1 },
        preempt: rng.chance(850),
        preempt_delay: if rng.chance(200) { interval * 5 } else { Duration::ZERO },
        track_lbd: rng.chance(600),
        ..Variant::plain(interval)
    }
}

struct Story {
    rng: Rng,
    /// For ports on the LAN. What is drawn for them shifts nothing else.
    ports: Rng,
    pair: Pair,
    draw: Draw,
    preempts: bool,
    /// A switchover was asked for: who should be active is no longer plain.
    moved: bool,
    /// An `lbd` was gone since it was quiet last, or a node in maintenance.
    unwell: bool,
    /// A `vrrpd` was told to stop since then.
    stopped: bool,
    /// What is still to come of an episode.
    coming: Vec<(Moment, Event)>,
}

impl Story {
    fn play(&mut self) -> Result<(), Violation> {
        for host in 0..2 {
            let wait = self.rng.span(Duration::ZERO, self.pair.world.variant.interval * 6);
            self.pair.run_for(wait)?;
            self.pair.power_on(host);
        }
        self.settle()?;
        for _ in 0..self.rng.range(1..4) {
            let benign = self.rng.chance(400);
            self.episode(benign)?;
            self.settle()?;
        }
        self.last_words()
    }

    /// Everything is healed, and nothing is written any more: each has what the other has, and then the roles are as they should be.
    fn settle(&mut self) -> Result<(), Violation> {
        self.heal();
        self.pair.run_until_in_step()?;
        let bounds = self.bounds();
        self.pair.world.tell(Seen::Healed(bounds));
        let rest = self.pair.world.view.limits.interval * 4 + Duration::from_millis(200);
        self.pair.run_for(bounds.settled + rest)?;
        let expected = self.expected();
        self.pair.world.tell(Seen::QuietEnds(&expected));
        self.pair.world.checks.verdict()?;
        // What is short-lived is over by then.
        self.pair.run_for(Duration::from_millis(1100).saturating_sub(bounds.settled))?;
        self.pair.run_until_in_step()?;
        self.pair.compare()
    }

    /// As [`super::super::run`] has it, and a node that stops waits for one that is behind.
    fn bounds(&mut self) -> Bounds {
        let mut bounds = settled(&self.pair.world, false, std::mem::take(&mut self.unwell));
        if std::mem::take(&mut self.stopped) {
            bounds.settled += CATCH_UP_MAX;
        }
        bounds
    }

    fn expected(&self) -> Vec<Option<usize>> {
        let [first, second] = self.pair.world.variant.priority;
        let better = |instance: &str| usize::from((instance == "i0") != (first > second));
        let plain = self.preempts && !self.moved;
        self.pair.world.routers.iter().map(|(instance, _)| plain.then(|| better(instance))).collect()
    }

    /// After everything a change that is made, on whichever node, is what both have.
    fn last_words(&mut self) -> Result<(), Violation> {
        let labels: Vec<Label> =
            self.pair.lbds[0].store.keys().copied().filter(|label| is_steady(*label)).collect();
        let mut expected = Vec::new();
        for label in labels {
            let (host, value) = (self.host(), self.value());
            if self.pair.change(host, label, value, None) {
                expected.push((label, value));
            }
        }
        self.pair.run_until_in_step()?;
        self.pair.compare()?;
        let has = |host: usize, (label, value): &(Label, u16)| {
            self.pair.lbds[host].store.get(label).is_some_and(|stored| stored.value == *value)
        };
        match expected.iter().find(|last| !(0..2).all(|host| has(host, last))) {
            Some(last) if self.draw.roomy => {
                Err(self.pair.violation("last change", format!("it did not win: {last:?}")))
            }
            _ => Ok(()),
        }
    }

    /// Entries are written, and something breaks now and then; in a benign episode nothing that may change a role.
    fn episode(&mut self, benign: bool) -> Result<(), Violation> {
        self.pair.note(|| format!("-- an episode, benign: {benign}"));
        if benign {
            self.pair.world.tell(Seen::Benign(true));
        }
        let operations = self.rng.range(30..200);
        for _ in 0..operations {
            let wait = self.rng.span(Duration::ZERO, self.draw.pace);
            self.pair.run_for(wait)?;
            self.strike_due();
            if !benign && self.ports.chance(5) {
                let host = usize::from(self.ports.chance(500));
                self.block_port(host);
            }
            if self.rng.chance(self.draw.breaks) {
                self.break_something(benign);
            } else {
                self.operate();
            }
        }
        if !benign && self.ports.chance(500) {
            self.outlast_ports()?;
        }
        if benign {
            self.heal();
            self.pair.run_for(self.pair.world.variant.interval * 5)?;
            self.pair.world.tell(Seen::Benign(false));
        }
        self.pair.world.checks.verdict()
    }

    /// A port passes nothing to its host for a while, or nothing either way, as that of a switch which first looks who is there.
    fn block_port(&mut self, host: usize) {
        let opened = self.pair.now() + self.ports.span(Duration::from_millis(1), PORT_BLOCKED_MAX);
        let mut block = |ways: fn(usize, bool) -> Fault| {
            self.coming.push((opened, Event::Vrrp(ways(host, true))));
            self.pair.note(|| format!("-- {:?}", ways(host, false)));
            self.pair.world.strike(ways(host, false));
        };
        block(Fault::LanIn);
        if self.ports.chance(500) {
            block(Fault::LanOut);
        }
    }

    /// What is blocked stays so until it opens by itself.
    fn outlast_ports(&mut self) -> Result<(), Violation> {
        let is_blocked = |pair: &Pair| pair.world.lan.in_open != [true; 2];
        let end = self.pair.now() + PORT_BLOCKED_MAX;
        while is_blocked(&self.pair) && self.pair.now() < end {
            self.pair.run_for(Duration::from_millis(20))?;
            self.strike_due();
        }
        Ok(())
    }

    fn strike_due(&mut self) {
        let now = self.pair.now();
        while let Some(index) = self.coming.iter().position(|(at, _)| *at <= now) {
            let (_, event) = self.coming.swap_remove(index);
            self.happen(event);
        }
    }

    fn host(&mut self) -> usize {
        usize::from(self.rng.chance(500))
    }

    fn value(&mut self) -> u16 {
        u16::try_from(self.rng.below(200)).unwrap_or_default()
    }

    /// Flows and clients come to whoever is active, to both if both are; people say words to either node.
    fn operate(&mut self) {
        if self.rng.chance(50) {
            let host = self.host();
            return self.pair.want_ring(host);
        }
        let burst = if self.rng.chance(20) { 300 } else { 1 };
        for _ in 0..burst {
            let router = usize::try_from(self.rng.below(self.pair.world.routers.len() as u64)).unwrap_or(0);
            let table = *self.rng.pick(&[
                Table::Flows,
                Table::Flows,
                Table::Flows,
                Table::Sticky,
                Table::UdpSessions,
                Table::Rates,
                Table::Targets,
                Table::Members,
                Table::Health,
            ]);
            // What only one of them speaks of, they cannot have in common.
            let spoken = self.draw.makes.iter().all(|make| make.minor >= table.since_minor());
            let table = if spoken { table } else { Table::Targets };
            let actives = self.pair.actives(router);
            let by_people = matches!(table, Table::Targets | Table::Members | Table::Health);
            let host = if by_people { self.host() } else { self.one_of(&actives) };
            let numbers = if table == Table::Flows { 80 } else { 10 };
            // Each instance has clients of its own.
            let number = self.rng.below(numbers) + 100 * router as u64;
            let label = (table, u16::try_from(number).unwrap_or_default());
            self.operate_on(host, label);
        }
    }

    fn one_of(&mut self, hosts: &[usize]) -> usize {
        if hosts.is_empty() { self.host() } else { *self.rng.pick(hosts) }
    }

    fn operate_on(&mut self, host: usize, label: Label) {
        let value = self.value();
        let passing = !is_steady(label) && !label.0.is_per_node();
        match self.rng.below(10) {
            0 | 1 if passing => self.pair.delete(host, label, Removal::Ended),
            2 if passing => {
                let lifetime = self.rng.span(Duration::from_millis(1), Duration::from_secs(1));
                self.pair.change(host, label, value, Some(lifetime));
            }
            3 => {
                // The other node does something at the same time.
                self.pair.change(host, label, value, None);
                self.pair.change(1 - host, label, value / 2, None);
            }
            _ => {
                self.pair.change(host, label, value, None);
            }
        }
    }

    /// Something breaks, and is mended after a while.
    fn break_something(&mut self, benign: bool) {
        let host = self.host();
        let mended = self.pair.now() + self.rng.span(Duration::from_millis(1), Duration::from_secs(3));
        let kinds = if benign { 9 } else { 19 };
        let (event, end) = match self.rng.below(kinds) {
            0 => (Event::Cut, None),
            1 => (Event::Silence, None),
            2 => (Event::CutAtOnce, None),
            3 => (Event::Noise(host), None),
            4 => (Event::HalfOpen(host), None),
            5 => {
                let ways = |open| (0..2).map(move |host| Event::Vrrp(Fault::PeerOut(host, open)));
                self.coming.extend(ways(true).map(|event| (mended, event)));
                ways(false).for_each(|event| self.happen(event));
                return;
            }
            6 => (Event::Vrrp(Fault::PeerOut(host, false)), Some(Event::Vrrp(Fault::PeerOut(host, true)))),
            7 => {
                let forward = i64::try_from(self.rng.below(10_000)).unwrap_or_default();
                (Event::Vrrp(Fault::WallClock(host, forward)), None)
            }
            // Where its death is no reason to leave, or there is nothing to leave.
            8 if benign && self.pair.world.variant.track_lbd && !self.is_backup(host) => return,
            8 | 9 => (Event::Lbd(host, false), Some(Event::Lbd(host, true))),
            10 | 11 => (Event::Power(host, false), Some(Event::Power(host, true))),
            12 => (Event::Vrrp(Fault::Kill(host)), Some(Event::Vrrp(Fault::Start(host)))),
            13 => (Event::Vrrp(Fault::Terminate(host)), Some(Event::Vrrp(Fault::Start(host)))),
            14 => (Event::Vrrp(Fault::Stop(host)), Some(Event::Vrrp(Fault::Continue(host)))),
            15 => (Event::Vrrp(Fault::Pause(host)), Some(Event::Vrrp(Fault::Resume(host)))),
            16 => (Event::Vrrp(Fault::LanOut(host, false)), Some(Event::Vrrp(Fault::LanOut(host, true)))),
            17 => (
                Event::Vrrp(Fault::Maintenance(host, true)),
                Some(Event::Vrrp(Fault::Maintenance(host, false))),
            ),
            _ => {
                self.moved = true;
                (Event::Vrrp(Fault::Switchover(host)), None)
            }
        };
        self.happen(event);
        self.coming.extend(end.map(|end| (mended, end)));
    }

    fn is_backup(&self, host: usize) -> bool {
        (0..self.pair.world.routers.len()).all(|router| !self.pair.actives(router).contains(&host))
    }

    fn happen(&mut self, event: Event) {
        self.pair.note(|| format!("-- {event:?}"));
        let now = self.pair.now();
        let pair = &mut self.pair;
        match event {
            Event::Vrrp(fault) => {
                self.stopped |= matches!(fault, Fault::Terminate(_));
                self.unwell |= matches!(fault, Fault::Maintenance(..));
                pair.world.strike(fault);
            }
            Event::Power(host, false) => {
                self.unwell = true;
                pair.power_off(host);
            }
            Event::Power(host, true) => {
                if self.pair.world.hosts[host].machine == Machine::Off && self.ports.chance(400) {
                    self.block_port(host);
                }
                // What `vrrpd` does meanwhile, it does without knowing what `lbd` lacks.
                if self.pair.boot_host(host) {
                    let started = now + self.rng.span(Duration::ZERO, LBD_START_MAX);
                    self.coming.push((started, Event::Lbd(host, true)));
                }
            }
            Event::Lbd(host, false) => {
                self.unwell = true;
                pair.kill_lbd(host);
            }
            Event::Lbd(host, true) => pair.start_lbd(host),
            Event::Cut => {
                pair.stream.cut(&mut self.rng);
                for host in 0..2 {
                    pair.stream.ends[host] =
                        Some(now + self.rng.span(Duration::ZERO, Duration::from_millis(200)));
                }
            }
            Event::Silence => pair.stream.cut(&mut self.rng),
            Event::CutAtOnce => pair.cut_at_once(),
            // Behind whole frames: what is authenticated cannot be damaged within one.
            Event::Noise(host) if pair.stream.is_whole() => {
                let mut noise =
                    if self.rng.chance(500) { vec![255, 255, 255, 0] } else { vec![3, 0, 0, 0, 77] };
                noise.extend((0..30).map(|_| self.rng.next_u64().to_le_bytes()[0]));
                pair.stream.pipes[host].send(&noise, now, self.draw.delay, &mut self.rng);
            }
            Event::Noise(_) => {}
            Event::HalfOpen(host) => pair.abandon(host),
        }
    }

    /// Whatever came in which order, in the end everything runs and everything gets through.
    fn heal(&mut self) {
        self.coming.clear();
        for host in 0..2 {
            for fault in [
                Fault::Resume(host),
                Fault::Continue(host),
                Fault::LanOut(host, true),
                Fault::LanIn(host, true),
                Fault::PeerOut(host, true),
            ] {
                self.pair.world.strike(fault);
            }
            if self.pair.world.hosts[host].maintenance {
                self.pair.world.strike(Fault::Maintenance(host, false));
            }
            if self.pair.world.hosts[host].machine == Machine::Off {
                self.pair.power_on(host);
            }
            self.pair.world.strike(Fault::Start(host));
            self.pair.start_lbd(host);
        }
    }
}
