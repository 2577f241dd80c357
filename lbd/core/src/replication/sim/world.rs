//! What happens when.

use std::collections::BTreeSet;

use common::rng::Rng;
use common::time::{Duration, Instant};

use super::super::{Counters, Removal, Table};
use super::Sabotage;
use super::check::{Holders, equal, is_steady, rates_add_up, within_bounds};
use super::host::{Host, LONG, Label, Make};
use super::link::Pipe;
use super::rings::check_switches;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

/// What a seed's run is about.
#[derive(Clone, Debug)]
pub(super) struct Variant {
    makes: [Make; 2],
    /// Time between two operations, at most.
    pace: u64,
    /// Of the way, each way.
    delay: u64,
    /// Of a thousand operations, so many break something.
    breaks: u64,
    operations: u64,
    /// Whether everything fits everywhere.
    roomy: bool,
}

impl Variant {
    pub(super) fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x7e57);
        let roomy = !rng.chance(200);
        let mut make = |name| Make {
            name,
            rate: rng.range(900..1101),
            offset: rng.below(1000) * SECOND,
            minor: if rng.chance(300) { 0 } else { super::super::MINOR },
            table_max: if roomy || rng.chance(500) { 200 } else { 10 },
            store_max: if roomy || rng.chance(500) { 1000 } else { 20 },
            // Of the 78 entries 23 can be deleted, and all tombstones have to find room.
            dirty_max: *rng.pick(&[24, 64, 1000]),
            tombstones_max: 64,
            window: *rng.pick(&[200, 2000, 100_000]),
            generation_skew: *rng.pick(&[0, 0, 1_000_000, u64::MAX]),
            write_delay: *rng.pick(&[1, MS, 30 * MS, 400 * MS]),
        };
        let makes = [make("alpha"), make("beta")];
        let mut variant = Self {
            makes,
            pace: *rng.pick(&[MS / 5, 5 * MS, 50 * MS]),
            delay: *rng.pick(&[MS / 10, MS, 100 * MS]),
            breaks: *rng.pick(&[0, 5, 50, 200]),
            operations: rng.range(100..600),
            roomy,
        };
        if rng.chance(300) {
            for make in &mut variant.makes {
                make.tombstones_max = *rng.pick(&[2, 8]);
            }
        }
        variant
    }
}

/// A connection as both ends see it.
#[derive(Debug, Default)]
struct Connection {
    /// By the node that sends.
    pipes: [Pipe; 2],
    /// Whether the node still has it.
    open: [bool; 2],
    /// When the node sees the end of the stream.
    ends: [Option<u64>; 2],
    /// Bytes that are sent go nowhere.
    dead: bool,
}

#[derive(Debug)]
pub(super) struct World {
    now: u64,
    rng: Rng,
    variant: Variant,
    hosts: [Host; 2],
    connection: Connection,
    connect_at: u64,
    holders: Holders,
    boots: u64,
    past: Vec<Counters>,
    checks_roughly: bool,
    talkative: bool,
    lost: BTreeSet<Label>,
    /// What a check of rings has objected to.
    objection: Option<String>,
}

impl World {
    pub(super) fn new(seed: u64, variant: Variant, sabotage: Sabotage, talkative: bool) -> Self {
        let host = |node: usize| Host::new(variant.makes[node].clone(), node as u64, 0, sabotage);
        Self {
            now: 0,
            rng: Rng::new(seed),
            hosts: [host(0), host(1)],
            connection: Connection::default(),
            connect_at: 0,
            holders: Holders::default(),
            boots: 2,
            past: Vec::new(),
            checks_roughly: !variant.roomy,
            variant,
            talkative,
            lost: BTreeSet::new(),
            objection: None,
        }
    }

    pub(super) fn play(&mut self) -> Result<(), String> {
        for _ in 0..self.variant.operations {
            let wait = self.rng.below(self.variant.pace);
            self.run_until(self.now + wait)?;
            self.operate();
        }
        self.rest()?;
        // And what is changed now is what both have.
        let labels: Vec<Label> =
            self.hosts[0].store.keys().copied().filter(|label| is_steady(*label)).collect();
        let mut expected = Vec::new();
        for label in labels {
            let (node, value) = (self.node(), self.value());
            if self.change(node, label, value, LONG) {
                expected.push((label, value));
            }
        }
        self.rest()?;
        let lost = |host: &Host, (label, value): &(Label, u16)| {
            host.store.get(label).map(|stored| stored.value) != Some(*value)
        };
        let roomy = self.variant.roomy;
        match expected.iter().find(|entry| roomy && self.hosts.iter().any(|host| lost(host, entry))) {
            Some(entry) => Err(format!("the last change did not win: {entry:?}")),
            None => Ok(()),
        }
    }

    pub(super) fn counters(self) -> Vec<Counters> {
        let mut counters = self.past;
        counters.extend(self.hosts.iter().map(|host| host.replica.stats(host.make.local(self.now)).counters));
        counters
    }

    pub(super) fn digest(&self) -> String {
        let end =
            |host: &Host| format!("{:?} {:?}", host.store, host.replica.stats(host.make.local(self.now)));
        format!("{} {} {}", self.now, end(&self.hosts[0]), end(&self.hosts[1]))
    }

    /// Nothing happens any more, and the nodes come to rest.
    fn rest(&mut self) -> Result<(), String> {
        self.say("rest");
        // A long split lasts for as long as it does.
        self.run_until(self.connect_at.max(self.now))?;
        // The copy of what a node has lost too early comes back when the original is used again.
        self.run_until(self.now + 5 * SECOND)?;
        for label in std::mem::take(&mut self.lost) {
            let stored = [0, 1].map(|node| self.hosts[node].store.get(&label).copied());
            if let [Some(stored), None] | [None, Some(stored)] = stored {
                let node = usize::from(self.hosts[1].store.contains_key(&label));
                self.change(node, label, stored.value, LONG);
            }
        }
        // Lifetimes of 3 s, a silence of 5 s by the slower clock, and a frame of a few entries each half second where the window is
        // small, the way long and writing slow.
        let slow = self.variant.makes.iter().any(|make| make.write_delay > 100 * MS || make.window < 1000);
        let rest = if slow { 90 } else { 25 } * SECOND;
        self.run_until(self.now + rest)?;
        let mut forgotten = BTreeSet::new();
        self.hosts.iter_mut().for_each(|host| forgotten.append(&mut host.forgotten));
        let roomy = self.variant.roomy;
        equal(&self.hosts, self.now, roomy, &forgotten)?;
        if roomy && !forgotten.is_empty() {
            // Each node then hears what the other one has and has not.
            self.say("another session, after deletions without a tombstone");
            self.cut_at_once();
            self.run_until(self.now + rest)?;
            equal(&self.hosts, self.now, roomy, &BTreeSet::new())?;
        }
        if roomy { rates_add_up(&mut self.hosts) } else { Ok(()) }
    }

    fn run_until(&mut self, end: u64) -> Result<(), String> {
        loop {
            self.step();
            for host in &self.hosts {
                within_bounds(host, self.now)?;
            }
            self.objection.take().map_or(Ok(()), Err)?;
            if !self.checks_roughly {
                self.holders.check(&self.hosts)?;
            }
            if self.now >= end {
                return Ok(());
            }
            self.now = self.next_time().max(self.now + 10_000).min(end);
        }
    }

    fn next_time(&self) -> u64 {
        let mut next = self.now + 250 * MS;
        for (node, host) in self.hosts.iter().enumerate() {
            let deadline = host.replica.deadline().map(|at| host.make.true_time(at));
            // One that has come and could not be met, for want of room, is asked for again soon.
            let deadline = deadline.map(|at| if at <= self.now { self.now + 2 * MS } else { at });
            let reads = self.connection.open[node] && host.replica.wants_bytes();
            let pipe = &self.connection.pipes[1 - node];
            let bytes = pipe.due().filter(|_| reads);
            let ends = self.connection.ends[node].filter(|_| self.connection.open[node] && pipe.bytes() == 0);
            for at in [deadline, bytes, ends, host.next_finish()].into_iter().flatten() {
                next = next.min(at);
            }
        }
        if self.is_closed() { next.min(self.connect_at.max(self.now)) } else { next }
    }

    fn step(&mut self) {
        if self.is_closed() && self.now >= self.connect_at {
            self.say("connected");
            self.connection = Connection { open: [true; 2], ..Connection::default() };
            for host in &mut self.hosts {
                host.replica.connected(host.make.local(self.now));
            }
        }
        for node in 0..2 {
            let now = self.now;
            let host = &mut self.hosts[node];
            host.finish(now);
            host.expire(now);
            host.replica.timeout(host.make.local(now));
            self.deliver(node);
            self.act(node);
            self.transmit(node);
        }
    }

    fn deliver(&mut self, node: usize) {
        if !self.connection.open[node] {
            return;
        }
        let host = &mut self.hosts[node];
        while host.replica.wants_bytes() {
            let Some(bytes) = self.connection.pipes[1 - node].receive(self.now) else { break };
            host.replica.received(host.make.local(self.now), &bytes);
        }
        let all_read = self.connection.pipes[1 - node].bytes() == 0;
        if self.connection.ends[node].is_some_and(|ends| ends <= self.now && all_read) {
            host.replica.disconnected(host.make.local(self.now));
            self.close(node);
        }
    }

    fn act(&mut self, node: usize) {
        let delay = 1 + self.rng.below(self.variant.makes[node].write_delay);
        let host = &mut self.hosts[node];
        if host.take_actions(self.now, delay) {
            self.say(&format!("{node} closes"));
            self.close(node);
        }
        self.look_at_rings(node);
    }

    fn look_at_rings(&mut self, node: usize) {
        let checked = check_switches(&mut self.hosts, node, self.now, self.variant.roomy);
        self.objection = self.objection.take().or(checked.err());
    }

    fn transmit(&mut self, node: usize) {
        let Connection { pipes, open, dead, .. } = &mut self.connection;
        let host = &mut self.hosts[node];
        let mut out = Vec::new();
        while open[node] && pipes[node].has_room() {
            out.clear();
            if !host.replica.poll_transmit(host.make.local(self.now), &mut out) {
                return;
            }
            if !*dead {
                pipes[node].send(&out, self.now, self.variant.delay, &mut self.rng);
            }
        }
    }

    /// The node no longer has the connection; the other one hears of it.
    fn close(&mut self, node: usize) {
        self.connection.open[node] = false;
        let other = &mut self.connection.ends[1 - node];
        *other = other.or(Some(self.now + self.variant.delay));
        self.connection.pipes[1 - node] = Pipe::default();
        if self.is_closed() {
            self.connect_at = self.now + self.rng.below(300 * MS);
        }
    }

    fn is_closed(&self) -> bool {
        self.connection.open == [false; 2]
    }

    fn operate(&mut self) {
        if self.rng.chance(self.variant.breaks) {
            return self.break_something();
        }
        let node = self.node();
        if self.rng.chance(60) {
            self.say(&format!("{node} wants another ring"));
            self.hosts[node].want_ring(self.now);
            return self.look_at_rings(node);
        }
        let (label, value) = (self.label(), self.value());
        match self.rng.below(100) {
            0..20 if !is_steady(label) && !label.0.is_per_node() => {
                self.say(&format!("{node} ends {label:?}"));
                self.hosts[node].delete(label, Removal::Ended, self.now);
            }
            20..25 if !is_steady(label) && !label.0.is_per_node() => {
                self.say(&format!("{node} loses {label:?}"));
                self.hosts[node].delete(label, Removal::Expired, self.now);
                self.lost.insert(label);
            }
            25..40 if !is_steady(label) && !label.0.is_per_node() => {
                let lifetime = self.rng.span(Duration::from_millis(1), Duration::from_secs(3));
                self.change(node, label, value, lifetime);
            }
            40..50 => {
                // The other node does something at the same time.
                self.change(node, label, value, LONG);
                self.change(1 - node, label, value / 2, LONG);
            }
            _ => {
                self.change(node, label, value, LONG);
            }
        }
    }

    fn change(&mut self, node: usize, label: Label, value: u16, lifetime: Duration) -> bool {
        // Totals only grow.
        let before = self.hosts[node].store.get(&label).map_or(0, |stored| stored.value);
        let value = if label.0 == Table::Rates { before + value % 7 } else { value };
        let resyncs = |world: &Self| world.hosts[node].replica.stats(Instant::ZERO).counters.resyncs;
        let before = resyncs(self);
        let changed = self.hosts[node].change(label, value, lifetime, self.now);
        let overflowed = resyncs(self) > before;
        if changed {
            self.say(&format!("{node} changes {label:?} to {value} for {lifetime:?}"));
            self.holders.changed(label, node, &self.hosts[node], overflowed);
        }
        changed
    }

    fn break_something(&mut self) {
        let node = self.node();
        match self.rng.below(10) {
            0..4 => {
                self.say("the link is cut");
                for pipe in &mut self.connection.pipes {
                    pipe.cut(&mut self.rng);
                }
                self.connection.dead = true;
                for other in 0..2 {
                    self.connection.ends[other] = Some(self.now + self.rng.below(200 * MS));
                }
            }
            4 => {
                self.say("the link is silent");
                self.connection.pipes.iter_mut().for_each(|pipe| pipe.cut(&mut self.rng));
                self.connection.dead = true;
            }
            5 | 6 => {
                let cold = self.rng.chance(500);
                self.say(&format!("{node} restarts, {}", if cold { "cold" } else { "warm" }));
                self.restart(node, cold);
            }
            // Behind whole frames: what is authenticated cannot be damaged within one.
            7 if self.connection.ends == [None; 2] && !self.connection.dead => {
                self.say(&format!("{node} sends noise"));
                let mut noise =
                    if self.rng.chance(500) { vec![255, 255, 255, 0] } else { vec![3, 0, 0, 0, 77] };
                noise.extend((0..30).map(|_| self.rng.next_u64().to_le_bytes()[0]));
                self.connection.pipes[node].send(&noise, self.now, self.variant.delay, &mut self.rng);
            }
            8 if self.rng.chance(700) => {
                self.say("a long split");
                for node in 0..2 {
                    self.hosts[node].replica.disconnected(self.hosts[node].make.local(self.now));
                    self.close(node);
                }
                self.connect_at = self.now + 400 * SECOND;
                for _ in 0..20 {
                    let (node, label) = (self.node(), self.label());
                    if !is_steady(label) && !label.0.is_per_node() {
                        self.say(&format!("{node} ends {label:?}"));
                        self.hosts[node].delete(label, Removal::Ended, self.now);
                    }
                }
            }
            _ => {
                self.say("cut at once");
                self.cut_at_once();
            }
        }
    }

    /// What is on its way is gone, and both ends know.
    fn cut_at_once(&mut self) {
        self.connection.ends = [Some(self.now); 2];
        self.connection.pipes = Default::default();
    }

    fn restart(&mut self, node: usize, cold: bool) {
        let host = &mut self.hosts[node];
        self.past.push(host.replica.stats(host.make.local(self.now)).counters);
        self.boots += 1;
        host.restart(self.boots, self.now, !cold);
        if cold {
            self.holders.forgot(node);
        }
        self.holders.unwait(node);
        if self.connection.open[node] {
            self.close(node);
        }
    }

    fn node(&mut self) -> usize {
        usize::from(self.rng.chance(500))
    }

    fn value(&mut self) -> u16 {
        u16::try_from(self.rng.below(200)).unwrap()
    }

    fn label(&mut self) -> Label {
        let table = *self.rng.pick(&[
            Table::Flows,
            Table::Flows,
            Table::Sticky,
            Table::UdpSessions,
            Table::Rates,
            Table::Targets,
            Table::Health,
            Table::Members,
        ]);
        let numbers = if table == Table::Flows { 30 } else { 8 };
        // What only one of them speaks of, they cannot have in common.
        let spoken = self.variant.makes.iter().all(|make| make.minor >= table.since_minor());
        let table = if spoken || table.is_per_node() { table } else { Table::Targets };
        (table, u8::try_from(self.rng.below(numbers)).unwrap())
    }

    fn say(&self, what: &str) {
        if self.talkative {
            let time = Duration::from_nanos(self.now);
            // A replay is looked at.
            #[expect(clippy::print_stderr, reason = "who replays a seed wants to see what happens")]
            {
                eprintln!("{time:?} {what}");
            }
        }
    }
}
