//! Both halves in step: the VRRP cores in their world, and an `lbd` beside each.

use std::collections::BTreeSet;

use common::ipc::Role;
use common::rng::Rng;
use common::time::{Duration, Instant};
use lbd_core::replication::{Removal, Replica, Stats, Table};

use super::super::check::Violation;
use super::super::clock::Moment;
use super::super::fault::{Fault, Lbd as Health};
use super::super::host::Machine;
use super::super::sabotage::Sabotage;
use super::super::trace::Trace;
use super::super::variant::{NAMES, Variant};
use super::super::world::World;
use super::check::{Holders, equal, is_drained, within_bounds};
use super::lbd::{Flaw, LONG, Label, Lbd};
use super::rings::{check_switches, rings_are_known};
use super::story::Draw;
use super::stream::Stream;

/// The pause between attempts to connect, at most.
const CONNECT_PAUSE: Duration = Duration::from_millis(300);

/// Within so long after everything is healed each `lbd` has what the other has.
const IN_STEP_WITHIN: Duration = Duration::from_secs(60);

/// What a run's account says, before those that it was, where both nodes have come to rest after deletions that nobody remembered.
pub const NO_TOMBSTONE: &str = "of these a deletion found no tombstone";

/// Without anything to do, the halves look at each other this often.
const LOOK: Duration = Duration::from_millis(100);

/// A pair of hosts with both daemons each.
pub struct Pair {
    pub(super) world: World,
    pub(super) lbds: [Lbd; 2],
    pub(super) stream: Stream,
    connect_at: Moment,
    /// Connections that were made while a node still had the one before.
    replaced: u64,
    holders: Holders,
    rng: Rng,
    draw: Draw,
    flaw: Flaw,
    boots: u64,
}

impl Pair {
    /// A pair of hosts that are switched off.
    #[must_use]
    pub fn new(seed: u64, variant: &Variant, draw: &Draw, flaw: Flaw, trace: Trace) -> Self {
        let mut rng = Rng::new(seed);
        let mut world = World::new(rng.next_u64(), variant, Sabotage::None, trace);
        world.hosts.iter_mut().for_each(|host| host.lbd = Health::Absent);
        Self {
            world,
            lbds: [0, 1].map(|host| Lbd::new(host, draw.makes[host].clone(), flaw)),
            stream: Stream::default(),
            connect_at: Moment::ZERO,
            replaced: 0,
            holders: Holders::default(),
            rng,
            draw: draw.clone(),
            flaw,
            boots: 0,
        }
    }

    /// Switches both on, and lets them find themselves.
    ///
    /// # Panics
    ///
    /// If a checker objects.
    pub fn boot(&mut self) {
        for host in 0..2 {
            self.power_on(host);
        }
        let settled = self.world.variant.interval * 12 + Duration::from_secs(2);
        let booted = self.run_for(settled).and_then(|()| self.run_until_in_step());
        booted.unwrap_or_else(|violation| panic!("{violation}"));
    }

    /// So many flows begin on a node, and the other one hears of them.
    ///
    /// # Panics
    ///
    /// If a checker objects, or they find no room.
    pub fn write_flows(&mut self, host: usize, count: u16) {
        for number in 0..count {
            assert!(
                self.change(host, (Table::Flows, number), number % 200, None),
                "flow {number} has no room"
            );
        }
        self.run_until_in_step().unwrap_or_else(|violation| panic!("{violation}"));
    }

    /// A host loses its power, and boots after a while.
    ///
    /// # Errors
    ///
    /// As [`Self::run_for`].
    pub fn restart_host(&mut self, host: usize, off: Duration) -> Result<(), Violation> {
        self.power_off(host);
        self.run_for(off)?;
        self.power_on(host);
        Ok(())
    }

    /// A node loses the connection between the `lbd`s, and the other one goes on as if it had it: it tells into nothing until it has heard
    /// nothing for long enough, or until there is another one.
    pub fn abandon(&mut self, host: usize) {
        if !self.runs(host) || !self.stream.open[host] {
            return;
        }
        self.note(|| format!("{}: lbd has lost the connection, unnoticed by the other one", NAMES[host]));
        let local = self.world.local(host);
        if let Some(replica) = &mut self.lbds[host].replica {
            replica.disconnected(local);
        }
        self.stream.abandon(host, &mut self.rng);
        self.connect_soon();
    }

    /// How often a connection was made while a node still had the one before.
    #[must_use]
    pub const fn replaced(&self) -> u64 {
        self.replaced
    }

    /// Something happens to the VRRP half.
    pub fn strike(&mut self, fault: Fault) {
        self.world.strike(fault);
    }

    /// True time.
    #[must_use]
    pub const fn now(&self) -> Moment {
        self.world.now
    }

    /// The VRRP half, with what there is to see of roles.
    #[must_use]
    pub const fn world(&self) -> &World {
        &self.world
    }

    /// Whether a node's `lbd` has everything the other one has, as far as it knows.
    #[must_use]
    pub fn is_synced(&self, host: usize) -> bool {
        self.lbds[host].is_behind() == Some(false)
    }

    /// Entries that a node has.
    #[must_use]
    pub fn entries(&self, host: usize) -> usize {
        self.lbds[host].store.len()
    }

    pub(super) fn local(&self) -> [Instant; 2] {
        [0, 1].map(|host| self.world.local(host))
    }

    /// The host is there and not paused, so its `lbd` gets to do something.
    fn runs(&self, host: usize) -> bool {
        self.world.hosts[host].machine == Machine::On && self.lbds[host].replica.is_some()
    }

    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        self.world.trace.note(self.world.now, line);
    }

    /// Lets the pair live for `span` more.
    ///
    /// # Errors
    ///
    /// The first thing a checker objects to.
    pub fn run_for(&mut self, span: Duration) -> Result<(), Violation> {
        let end = self.now() + span;
        loop {
            self.step()?;
            if self.now() >= end {
                return Ok(());
            }
            let next = self.next_time().max(self.now() + Duration::from_micros(10)).min(end);
            self.world.run_until(next)?;
        }
    }

    /// Lets it live until each `lbd` has what the other has and has told everything.
    ///
    /// # Errors
    ///
    /// As [`Self::run_for`], and if it takes too long.
    pub fn run_until_in_step(&mut self) -> Result<(), Violation> {
        let end = self.now() + IN_STEP_WITHIN;
        while !self.is_in_step() {
            if self.now() >= end {
                let what = format!("the nodes do not come to rest: {:?}", self.stats());
                return Err(self.violation("in step", what));
            }
            self.run_for(Duration::from_millis(20))?;
        }
        Ok(())
    }

    fn is_in_step(&self) -> bool {
        let drained = |stats: &Option<Stats>| stats.as_ref().is_some_and(is_drained);
        self.stream.is_whole() && (0..2).all(|host| self.is_synced(host)) && self.stats().iter().all(drained)
    }

    fn stats(&self) -> [Option<Stats>; 2] {
        let local = self.local();
        [0, 1].map(|host| self.lbds[host].replica.as_ref().map(|replica| replica.stats(local[host])))
    }

    /// Both have the same; where deletions found no tombstone, after another session.
    pub(super) fn compare(&mut self) -> Result<(), Violation> {
        rings_are_known(&self.lbds).map_err(|what| self.violation("rings", what))?;
        let mut forgotten = BTreeSet::new();
        self.lbds.iter_mut().for_each(|lbd| forgotten.append(&mut lbd.forgotten));
        if !self.draw.roomy {
            return Ok(());
        }
        self.are_equal(&forgotten)?;
        if !forgotten.is_empty() {
            self.note(|| format!("{NO_TOMBSTONE}: {forgotten:?}"));
            self.cut_at_once();
            self.run_until_in_step()?;
            self.are_equal(&BTreeSet::new())?;
        }
        Ok(())
    }

    fn are_equal(&self, forgotten: &BTreeSet<Label>) -> Result<(), Violation> {
        equal(&self.lbds, self.local(), forgotten).map_err(|what| self.violation("equal", what))
    }

    /// What is on its way between the `lbd`s is gone, and both ends know.
    pub(super) fn cut_at_once(&mut self) {
        self.stream.ends = [Some(self.now()); 2];
        self.stream.pipes = Default::default();
    }

    pub(super) fn violation(&self, checker: &'static str, what: String) -> Violation {
        Violation { checker, at: self.now(), what }
    }

    fn next_time(&self) -> Moment {
        let now = self.now();
        let mut next = now + LOOK;
        for host in (0..2).filter(|&host| self.runs(host)) {
            let lbd = &self.lbds[host];
            let deadline = lbd.replica.as_deref().and_then(Replica::deadline);
            let deadline = deadline.map(|at| self.world.moment(host, at));
            // One that has come and could not be met, for want of room, is asked for again soon.
            let deadline = deadline.map(|at| if at <= now { now + Duration::from_millis(2) } else { at });
            let wants = |lbd: &Lbd| lbd.replica.as_ref().is_some_and(|replica| replica.wants_bytes());
            let reads = self.stream.open[host] && wants(lbd) && self.passes(1 - host);
            let pipe = &self.stream.pipes[1 - host];
            let bytes = pipe.due().filter(|_| reads);
            let ends = self.stream.ends[host].filter(|_| self.stream.open[host] && pipe.is_empty());
            let soonest = [deadline, bytes, ends, lbd.next_finish()].into_iter().flatten().min();
            next = next.min(soonest.unwrap_or(next));
        }
        if self.may_connect() { next.min(self.connect_at.max(now)) } else { next }
    }

    /// Whether what a node sends reaches the other one's host.
    fn passes(&self, from: usize) -> bool {
        self.world.peer.out_open[from] && self.world.peer.in_open[1 - from]
    }

    fn may_connect(&self) -> bool {
        self.stream.is_left() && (0..2).all(|host| self.runs(host) && self.passes(host))
    }

    fn step(&mut self) -> Result<(), Violation> {
        let local = self.local();
        if self.may_connect() && self.now() >= self.connect_at {
            let held = (0..2).find(|&host| self.stream.open[host]);
            self.replaced += u64::from(held.is_some());
            self.note(|| match held {
                Some(host) => format!("the lbds connect, while {} still has the former one", NAMES[host]),
                None => "the lbds connect".to_owned(),
            });
            self.stream = Stream::new();
            for (lbd, local) in self.lbds.iter_mut().zip(local) {
                if let Some(replica) = &mut lbd.replica {
                    replica.connected(local);
                }
            }
        }
        for host in (0..2).filter(|&host| self.runs(host)).collect::<Vec<_>>() {
            self.work(host, local[host]);
        }
        let stats = self.stats();
        for (host, stats) in stats.iter().enumerate() {
            self.say_behind(host);
            let within = stats.as_ref().map_or(Ok(()), |stats| within_bounds(&self.lbds[host], stats));
            within.map_err(|what| self.violation("bounds", what))?;
        }
        for host in 0..2 {
            let checked = check_switches(&mut self.lbds, host, self.draw.roomy);
            checked.map_err(|what| self.violation("rings", what))?;
        }
        if self.draw.roomy {
            let whole = self.stream.is_whole();
            let checked = self.holders.check(&self.lbds, &stats, whole);
            checked.map_err(|what| self.violation("acknowledged", what))?;
        }
        Ok(())
    }

    fn work(&mut self, host: usize, local: Instant) {
        let now = self.now();
        let passes = [self.passes(0), self.passes(1)];
        let Self { lbds, stream, .. } = self;
        let lbd = &mut lbds[host];
        lbd.finish(now, local);
        lbd.expire(local);
        let Some(replica) = &mut lbd.replica else { return };
        replica.timeout(local);
        if stream.open[host] {
            let pipe = &mut stream.pipes[1 - host];
            while passes[1 - host] && replica.wants_bytes() {
                let Some(bytes) = pipe.receive(now) else { break };
                replica.received(local, &bytes);
            }
            if stream.ends[host].is_some_and(|ends| ends <= now && pipe.is_empty()) {
                replica.disconnected(local);
                self.close(host);
            }
        }
        if self.lbds[host].take_actions(now, local, &mut self.rng) {
            self.close(host);
        }
        let Self { lbds, stream, rng, draw, .. } = self;
        let Some(replica) = &mut lbds[host].replica else { return };
        let mut out = Vec::new();
        while stream.open[host] && stream.pipes[host].has_room() {
            out.clear();
            if !replica.poll_transmit(local, &mut out) {
                break;
            }
            if !stream.dead {
                stream.pipes[host].send(&out, now, draw.delay, rng);
            }
        }
    }

    /// The node no longer has the connection.
    pub(super) fn close(&mut self, host: usize) {
        if !self.stream.open[host] {
            return;
        }
        self.note(|| format!("{}: lbd has no connection any more", NAMES[host]));
        self.stream.close(host, self.world.now + self.draw.delay);
        self.connect_soon();
    }

    /// Who has lost the connection makes another one in a moment, whether the other one knows that it is lost or not.
    fn connect_soon(&mut self) {
        self.connect_at = self.world.now + self.rng.span(Duration::ZERO, CONNECT_PAUSE);
    }

    /// `vrrpd` hears whether something is lacking, and the checkers know whether that is so.
    fn say_behind(&mut self, host: usize) {
        let behind = self.lbds[host].is_behind();
        self.world.lacks(host, behind == Some(true) || self.lbds[host].blank);
        let hides = self.hides_behind(host);
        let says = self.lbds[host].says_behind().map(|behind| behind && !hides);
        if says != self.lbds[host].said_behind {
            self.lbds[host].said_behind = says;
            if let Some(behind) = says {
                self.note(|| format!("{}: lbd says that it is behind: {behind}", NAMES[host]));
                self.world.tell_behind(host, behind);
                if self.flaw == Flaw::TakesSilenceForDeath {
                    let health = if behind { Health::Absent } else { Health::Healthy };
                    self.world.strike(Fault::Lbd(host, health));
                }
            }
        }
    }

    /// Whether a node's `lbd` does not say now that it lacks something, for it is made so.
    fn hides_behind(&self, host: usize) -> bool {
        let mut routers = self.world.view.routers.iter();
        match self.flaw {
            Flaw::SaysSyncedWhenBlocked => !self.world.lan.in_open[host],
            Flaw::SaysSyncedWhenActive => routers.any(|router| router.sides[host].role == Role::Active),
            _ => false,
        }
    }

    /// `lbd` starts, and says what it lacks before it says that it is well.
    pub(super) fn start_lbd(&mut self, host: usize) {
        if self.lbds[host].replica.is_some() || self.world.hosts[host].machine == Machine::Off {
            return;
        }
        self.boots += 1;
        let now = self.world.hosts[host].clock.now(self.world.now);
        let boot = self.boots;
        self.note(|| format!("{}: lbd starts (life {boot})", NAMES[host]));
        self.lbds[host].start(boot, now);
        self.say_behind(host);
        self.world.strike(Fault::Lbd(host, Health::Healthy));
    }

    pub(super) fn kill_lbd(&mut self, host: usize) {
        if self.lbds[host].replica.is_none() {
            return;
        }
        self.note(|| format!("{}: lbd dies", NAMES[host]));
        self.lbds[host].kill();
        self.holders.forgot(host, |(table, _)| table != Table::Flows);
        self.close(host);
        self.say_behind(host);
        self.world.strike(Fault::Lbd(host, Health::Absent));
    }

    /// The host loses its power. The other one hears nothing any more, nor that.
    pub(super) fn power_off(&mut self, host: usize) {
        self.world.strike(Fault::PowerOff(host));
        self.lbds[host].lose_all();
        self.holders.forgot(host, |_| true);
        self.stream.dead = true;
        self.stream.open[host] = false;
        self.stream.pipes = Default::default();
        self.say_behind(host);
        self.world.hosts[host].lbd = Health::Absent;
    }

    /// It boots, and all of it is there.
    pub(super) fn power_on(&mut self, host: usize) {
        if self.boot_host(host) {
            self.start_lbd(host);
        }
    }

    /// It boots, and has no `lbd` yet. Its kernel refuses what the other one still thinks it has. False if it is running.
    pub(super) fn boot_host(&mut self, host: usize) -> bool {
        if self.world.hosts[host].machine != Machine::Off {
            return false;
        }
        self.world.strike(Fault::PowerOn(host));
        if self.stream.open[1 - host] {
            let ends = &mut self.stream.ends[1 - host];
            *ends = ends.or(Some(self.world.now + self.draw.delay));
        }
        true
    }

    /// A node makes or changes an entry.
    pub(super) fn change(
        &mut self,
        host: usize,
        label: Label,
        value: u16,
        lifetime: Option<Duration>,
    ) -> bool {
        if self.world.hosts[host].machine != Machine::On {
            return false;
        }
        // Totals only grow.
        let before = self.lbds[host].store.get(&label).map_or(0, |stored| stored.value);
        let value = if label.0 == Table::Rates { before.saturating_add(value % 7) } else { value };
        let is_word = matches!(label.0, Table::Targets | Table::Members);
        let lifetime = if is_word { None } else { lifetime.or(Some(LONG)) };
        let local = self.world.local(host);
        let changed = self.lbds[host].change(label, value, lifetime, local);
        if changed {
            self.note(|| format!("{}: {label:?} is {value} for {lifetime:?}", NAMES[host]));
            self.holders.changed(label, host);
        }
        changed
    }

    /// A node is to choose flows' targets from another ring.
    pub(super) fn want_ring(&mut self, host: usize) {
        if self.runs(host) {
            self.note(|| format!("{}: another ring is wanted", NAMES[host]));
            let local = self.world.local(host);
            self.lbds[host].want_ring(local);
        }
    }

    pub(super) fn delete(&mut self, host: usize, label: Label, removal: Removal) {
        if self.runs(host) {
            self.note(|| format!("{}: {label:?} is over ({removal:?})", NAMES[host]));
            let local = self.world.local(host);
            self.lbds[host].delete(label, removal, local);
        }
    }

    /// The hosts that are active for a virtual router, whoever they are.
    pub(super) fn actives(&self, router: usize) -> Vec<usize> {
        let sides = &self.world.view.routers[router].sides;
        (0..2).filter(|&host| sides[host].role == Role::Active).collect()
    }
}
