//! The virtual clock: events in their order, until the last connection has ended.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use common::balance::{Balancer, Candidate, Member, Plan, Without};
use common::config::Algorithm;
use common::time::{Duration, Instant};

use super::arrivals::{Arrival, hash_key};
use super::fleet::Fleet;
use super::moves::{Homes, changes};
use super::report::{Lost, Outcome, TargetOutcome, Waits};
use super::server::{Offer, Server};
use super::workload::Workload;

/// What happens at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A target dies or comes back.
    Change { target: usize, up: bool },
    /// A target is done with a connection of one of its lives.
    Finish { target: usize, life: u32 },
    /// A target is checked.
    Check { target: usize },
    /// A connection arrives.
    Arrive(usize),
}

/// One algorithm's run.
pub(super) struct Engine<'a> {
    workload: &'a Workload,
    algorithm: Algorithm,
    horizon: Instant,
    /// The events to come; those of the same time in the order of [`Event`]'s variants, then as they were added.
    events: BinaryHeap<Reverse<(Instant, Event, u64)>>,
    added: u64,
    servers: Vec<Server>,
    fleet: Fleet,
    balancers: Vec<Box<dyn Balancer>>,
    candidates: Vec<Candidate>,
    tried: Vec<usize>,
    homes: Homes,
    lost: Lost,
    lost_at: Vec<Instant>,
    retried: u64,
}

impl<'a> Engine<'a> {
    /// Everything ready at time zero; averages are taken up to `horizon`.
    pub(super) fn new(workload: &'a Workload, algorithm: Algorithm, horizon: Instant) -> Self {
        let member =
            |target: &'a super::workload::TargetModel| Member { id: &target.id, weight: target.weight };
        let members: Vec<Member<'_>> = workload.targets.iter().map(member).collect();
        let plan = Plan::new(algorithm, &members, &hash_key(workload.seed));
        let mut engine = Self {
            workload,
            algorithm,
            horizon,
            events: BinaryHeap::new(),
            added: 0,
            servers: workload.targets.iter().map(|target| Server::new(target.clone(), horizon)).collect(),
            fleet: Fleet::new(workload),
            balancers: (0..workload.workers).map(|worker| plan.balancer(u64::from(worker))).collect(),
            candidates: vec![Candidate::default(); members.len()],
            tried: Vec::new(),
            homes: Homes::new(workload),
            lost: Lost::default(),
            lost_at: Vec::new(),
            retried: 0,
        };
        for change in changes(workload) {
            engine.add(change.at, Event::Change { target: change.target, up: change.up });
        }
        if let Some(checks) = workload.checks {
            // Spread over the interval, as jitter does it in the daemon.
            let count = u32::try_from(members.len()).unwrap_or(u32::MAX);
            for (number, target) in (1..=count).zip(0..) {
                engine.add(Instant::ZERO + checks.interval * number / count, Event::Check { target });
            }
        }
        engine
    }

    /// Plays the arrivals.
    pub(super) fn run(mut self, arrivals: &[Arrival]) -> Outcome {
        if let Some(first) = arrivals.first() {
            self.add(first.at, Event::Arrive(0));
        }
        while let Some(Reverse((now, event, _))) = self.events.pop() {
            match event {
                Event::Change { target, up } => self.change(now, target, up),
                Event::Finish { target, life } => self.finish(now, target, life),
                Event::Check { target } => self.check(now, target),
                Event::Arrive(index) => {
                    self.arrive(now, &arrivals[index]);
                    if let Some(next) = arrivals.get(index + 1) {
                        self.add(next.at, Event::Arrive(index + 1));
                    }
                }
            }
        }
        self.outcome()
    }

    fn add(&mut self, at: Instant, event: Event) {
        self.added += 1;
        self.events.push(Reverse((at, event, self.added)));
    }

    fn change(&mut self, now: Instant, target: usize, up: bool) {
        let server = &mut self.servers[target];
        let before = server.cut;
        server.set_up(now, up);
        let cut = server.cut - before;
        self.lost.cut += cut;
        self.lost_at.extend((0..cut).map(|_| now));
    }

    fn finish(&mut self, now: Instant, target: usize, life: u32) {
        let server = &mut self.servers[target];
        if server.life == life
            && let Some(next) = server.finish(now)
        {
            self.add(next, Event::Finish { target, life });
        }
    }

    fn check(&mut self, now: Instant, target: usize) {
        self.fleet.checked(now, target, self.servers[target].is_up());
        // With nothing more to arrive nobody cares; the run ends when nothing is to come.
        if let Some(checks) = self.workload.checks
            && now < self.horizon
        {
            self.add(now + checks.interval, Event::Check { target });
        }
    }

    fn arrive(&mut self, now: Instant, arrival: &Arrival) {
        self.fleet.share(now, &mut self.candidates);
        for (server, candidate) in self.servers.iter().zip(&mut self.candidates) {
            candidate.load = server.open();
        }
        self.tried.clear();
        let mut failure = Failure::Nobody;
        for _ in 0..self.workload.attempts {
            let balancer = &mut self.balancers[arrival.worker];
            let candidates = Without { all: &self.candidates, tried: &self.tried };
            let Some(target) = balancer.pick(&arrival.request, &candidates) else { break };
            let server = &mut self.servers[target];
            let life = server.life;
            match server.offer(now, arrival.work) {
                Offer::Serving(until) => self.add(until, Event::Finish { target, life }),
                Offer::Waiting => {}
                Offer::Down => {
                    self.fleet.connected(now, target, false);
                    failure = Failure::Refused;
                    self.tried.push(target);
                    continue;
                }
                Offer::Full => {
                    self.fleet.connected(now, target, false);
                    failure = Failure::Full;
                    self.tried.push(target);
                    continue;
                }
            }
            self.fleet.connected(now, target, true);
            self.retried += u64::from(!self.tried.is_empty());
            self.homes.went(now, arrival.client, target);
            return;
        }
        self.lost_at.push(now);
        match failure {
            Failure::Nobody => self.lost.nobody += 1,
            Failure::Refused => self.lost.refused += 1,
            Failure::Full => self.lost.overflowed += 1,
        }
    }

    fn outcome(mut self) -> Outcome {
        let span = (self.horizon - Instant::ZERO).as_secs_f64().max(1e-9);
        let accepted: u64 = self.servers.iter().map(|server| server.accepted).sum();
        let mut all_waits: Vec<Duration> = Vec::new();
        let mut targets = Vec::new();
        for (server, model) in self.servers.iter_mut().zip(&self.workload.targets) {
            server.close();
            let serves = f64::from(model.serves);
            let bucket = span / super::server::BUCKETS as f64;
            targets.push(TargetOutcome {
                accepted: server.accepted,
                share: server.accepted as f64 / accepted.max(1) as f64,
                open_max: server.open_max,
                load_max: f64::from(server.open_max) / serves,
                busy: server.busy_seconds / span / serves,
                waits: Waits::of(server.waited.clone()),
                cut: server.cut,
                load: server.open_seconds.iter().map(|open| open / bucket / serves).collect(),
            });
            all_waits.append(&mut server.waited);
        }
        Outcome {
            algorithm: self.algorithm,
            targets,
            waits: Waits::of(all_waits),
            lost: self.lost,
            lost_at: self.lost_at.iter().map(|at| *at - Instant::ZERO).collect(),
            retried: self.retried,
            again: self.homes.again,
            switched: self.homes.switched,
            moves: self.homes.moves(),
        }
    }
}

/// Why the last try failed.
#[derive(Clone, Copy, Debug)]
enum Failure {
    Nobody,
    Refused,
    Full,
}
