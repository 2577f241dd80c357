//! A run from a seed: a variant, and episodes of faults with quiet times between them.

use common::rng::Rng;
use common::time::Duration;
use vrrpd_core::track::effective_priority;

use super::check::Violation;
use super::fault::{Fault, Lbd};
use super::network::Quality;
use super::sabotage::Sabotage;
use super::trace::Trace;
use super::variant::Variant;
use super::view::{Bounds, Seen};
use super::world::World;

/// A run that broke a promise.
#[derive(Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What broke.
    pub violation: Violation,
    /// What led to it.
    pub trace: Trace,
}

/// Runs a seed to its end.
///
/// # Errors
///
/// The first broken promise. Its trace is empty unless asked for.
pub fn run_seed(seed: u64, sabotage: Sabotage, trace: Trace) -> Result<Trace, Box<Failure>> {
    let mut rng = Rng::new(seed);
    let variant = Variant::draw(&mut rng);
    let world = World::new(rng.next_u64(), &variant, sabotage, trace);
    let mut run = Run {
        rng,
        world,
        roles_moved_by_hand: false,
        health_touched: false,
        acquire_touched: false,
        clock_set_back: false,
    };
    match run.play() {
        Ok(()) => Ok(run.world.into_trace()),
        Err(violation) => Err(Box::new(Failure { seed, violation, trace: run.world.into_trace() })),
    }
}

/// What the timers allow at most from the last healing on.
///
/// One active: a handover that was under way ends (offer 300 ms, then resigned for an interval and 100 ms), a dead peer link
/// is noticed or a live one heard (300 ms), then Active_Down_Interval; a second one for a backup that stood by.
/// A node that could not add its addresses tries again after 5 s. Settled: then preemption, after its delay, and, where
/// health changed, the next attempt to hand over 5 s later and the gateway's four questions.
pub(super) fn settled(world: &World, acquire_touched: bool, health_touched: bool) -> Bounds {
    let limits = world.view.limits;
    let mut one_active = limits.active_down * 2 + limits.interval * 2 + Duration::from_millis(800);
    if acquire_touched {
        one_active += Duration::from_millis(5_200);
    }
    let delay = world.hosts.iter().map(|host| host.variant.preempt_delay).max().unwrap_or_default();
    let mut settled = one_active + delay + limits.active_down * 2;
    if health_touched {
        settled += Duration::from_millis(6_500) + delay;
    }
    Bounds { one_active, settled }
}

struct Run {
    rng: Rng,
    world: World,
    /// A switchover was asked for, or priorities changed: who should be active is no longer plain.
    roles_moved_by_hand: bool,
    health_touched: bool,
    acquire_touched: bool,
    /// A wall clock was set back. A node that restarts then, or a warden, signs with stamps that the peer has seen; only the
    /// peer link can tell that it is a new life, or that the addresses are free.
    clock_set_back: bool,
}

impl Run {
    fn play(&mut self) -> Result<(), Violation> {
        self.boot()?;
        let episodes = self.rng.range(1..4);
        for _ in 0..episodes {
            if self.rng.chance(250) {
                self.benign_episode()?;
            } else {
                self.rough_episode()?;
            }
        }
        Ok(())
    }

    fn boot(&mut self) -> Result<(), Violation> {
        let interval = self.world.variant.interval;
        for host in 0..2 {
            let at = self.world.now + self.rng.span(Duration::ZERO, interval * 6);
            self.world.schedule(at, Fault::PowerOn(host));
        }
        self.world.run_for(interval * 6)?;
        self.quiet()
    }

    /// Everything is healed: the pair finds itself, and stays so.
    fn quiet(&mut self) -> Result<(), Violation> {
        let bounds = self.bounds();
        self.world.tell(Seen::Healed(bounds));
        let rest = self.world.view.limits.interval * 4 + Duration::from_millis(200);
        self.world.run_for(bounds.settled + rest)?;
        let expected = self.expected();
        self.world.tell(Seen::QuietEnds(&expected));
        self.world.checks.verdict()
    }

    fn bounds(&self) -> Bounds {
        settled(&self.world, self.acquire_touched, self.health_touched)
    }

    /// Who has to be active in the end, where that is plain.
    fn expected(&self) -> Vec<Option<usize>> {
        let hosts = &self.world.hosts;
        let severity = [hosts[0].severity(), hosts[1].severity()];
        let routers = self.world.routers.iter();
        let expect = |(instance, _): &(String, _)| {
            let effective = |host: usize| {
                let [first, second] = hosts[host].variant.priority;
                let own = if (instance == "i0") == (host == 0) { first } else { second };
                effective_priority(own, first.min(second), severity[host])
            };
            let (one, other) = (effective(0), effective(1));
            let better = usize::from(other > one);
            let by_health = severity[0] != severity[1] && one != other;
            let plain = hosts[0].variant.preempt && !self.roles_moved_by_hand && one != other;
            (by_health || plain).then_some(better)
        };
        routers.map(expect).collect()
    }

    /// Faults of every kind, each with its end, then quiet.
    fn rough_episode(&mut self) -> Result<(), Violation> {
        let interval = self.world.view.limits.interval;
        let length = self.rng.span(interval * 4, interval * 16 + Duration::from_millis(600));
        let start = self.world.now;
        let faults = self.rng.range(1..5);
        for _ in 0..faults {
            let begin = self.rng.span(Duration::ZERO, length);
            let end = self.rng.span(begin, length) + Duration::from_millis(2);
            for (at, fault) in self.draw(begin, end) {
                self.world.schedule(start + at, fault);
            }
        }
        self.world.run_until(start + length + Duration::from_millis(5))?;
        self.heal_processes();
        self.world.run_for(Duration::from_millis(1))?;
        self.quiet()
    }

    /// Whatever order the faults came in, in the end both hosts run.
    fn heal_processes(&mut self) {
        let now = self.world.now;
        for host in 0..2 {
            for fault in [
                Fault::Resume(host),
                Fault::Continue(host),
                Fault::LanOut(host, true),
                Fault::LanIn(host, true),
                Fault::PeerOut(host, true),
            ] {
                self.world.schedule(now, fault);
            }
            if !self.world.hosts[host].carrier {
                self.world.schedule(now, Fault::Carrier(host, true));
            }
            if self.world.hosts[host].machine == super::host::Machine::Off {
                self.world.schedule(now, Fault::PowerOn(host));
            }
            self.world.schedule(now, Fault::Start(host));
            self.world.schedule(now, Fault::AcquireFails(host, false));
        }
        self.world.schedule(now, Fault::Lan(Quality::CLEAN));
        self.world.schedule(now, Fault::Peer(Quality::CLEAN));
    }

    fn quality(&mut self) -> Quality {
        let interval = self.world.view.limits.interval;
        Quality {
            loss: *self.rng.pick(&[0, 50, 200, 500, 900]),
            duplicates: *self.rng.pick(&[0, 100]),
            // A packet of a former life that arrives after the peer link told of the new one would, with a clock that was set
            // back between them, stand above all that follows.
            reordered: if self.clock_set_back { 0 } else { *self.rng.pick(&[0, 200]) },
            reorder_span: interval / 4,
            damaged: *self.rng.pick(&[0, 0, 100]),
        }
    }

    fn draw_kind(&mut self) -> u64 {
        let link = self.world.variant.peer_link;
        loop {
            let kind = self.rng.below(20);
            let (restarts, cuts_link) = (matches!(kind, 9..=13), matches!(kind, 1 | 5 | 6));
            if !(self.clock_set_back && (cuts_link || (restarts && !link))) {
                return kind;
            }
        }
    }

    fn draw(&mut self, begin: Duration, end: Duration) -> Vec<(Duration, Fault)> {
        let host = usize::from(self.rng.chance(500));
        let both = |from: Fault, to: Fault| vec![(begin, from), (end, to)];
        match self.draw_kind() {
            0 => both(Fault::Lan(self.quality()), Fault::Lan(Quality::CLEAN)),
            1 => both(Fault::Peer(self.quality()), Fault::Peer(Quality::CLEAN)),
            2 => both(Fault::LanOut(host, false), Fault::LanOut(host, true)),
            3 => both(Fault::LanIn(host, false), Fault::LanIn(host, true)),
            4 => {
                let mut faults = both(Fault::LanOut(host, false), Fault::LanOut(host, true));
                faults.extend(both(Fault::LanIn(host, false), Fault::LanIn(host, true)));
                faults
            }
            5 => both(Fault::PeerOut(host, false), Fault::PeerOut(host, true)),
            6 => {
                let mut faults = both(Fault::PeerOut(0, false), Fault::PeerOut(0, true));
                faults.extend(both(Fault::PeerOut(1, false), Fault::PeerOut(1, true)));
                faults
            }
            7 => both(Fault::Carrier(host, false), Fault::Carrier(host, true)),
            8 => {
                self.health_touched = true;
                let back = self.rng.chance(600);
                both(Fault::Gateway(host, false), Fault::Gateway(host, back))
            }
            9 => both(Fault::PowerOff(host), Fault::PowerOn(host)),
            10 => both(Fault::Kill(host), Fault::Start(host)),
            11 => both(Fault::Terminate(host), Fault::Start(host)),
            12 => both(Fault::Stop(host), Fault::Continue(host)),
            13 => both(Fault::Pause(host), Fault::Resume(host)),
            14 => {
                self.health_touched = true;
                let ill = *self.rng.pick(&[Lbd::Absent, Lbd::Degraded, Lbd::NoTargets]);
                let after = *self.rng.pick(&[Lbd::Healthy, Lbd::Healthy, Lbd::Healthy, ill, Lbd::Degraded]);
                both(Fault::Lbd(host, ill), Fault::Lbd(host, after))
            }
            15 => vec![(begin, Fault::RemoveAddresses(host))],
            16 => {
                self.acquire_touched = true;
                both(Fault::AcquireFails(host, true), Fault::AcquireFails(host, false))
            }
            17 => {
                self.roles_moved_by_hand = true;
                vec![(begin, Fault::Switchover(host))]
            }
            18 => {
                let mut variant = self.world.hosts[host].variant.clone();
                variant.priority.reverse();
                let reload = |host: usize| Fault::Reload(host, Box::new(variant.clone()));
                both(reload(host), reload(1 - host))
            }
            _ => {
                self.health_touched = true;
                both(Fault::Maintenance(host, true), Fault::Maintenance(host, self.rng.chance(300)))
            }
        }
    }

    /// Things that happen to a pair that is well, and change no role.
    fn benign_episode(&mut self) -> Result<(), Violation> {
        self.world.tell(Seen::Benign(true));
        let interval = self.world.view.limits.interval;
        let length = interval * 10 + Duration::from_millis(700);
        let start = self.world.now;
        let events = self.rng.range(1..4);
        for _ in 0..events {
            let begin = self.rng.span(Duration::ZERO, length);
            let end = self.rng.span(begin, length);
            for (at, fault) in self.draw_benign(begin, end) {
                self.world.schedule(start + at, fault);
            }
        }
        self.world.run_until(start + length + Duration::from_millis(5))?;
        self.heal_processes();
        self.world.run_for(interval * 5)?;
        self.world.tell(Seen::Benign(false));
        self.world.checks.verdict()
    }

    fn draw_benign(&mut self, begin: Duration, end: Duration) -> Vec<(Duration, Fault)> {
        let host = usize::from(self.rng.chance(500));
        let interval = self.world.view.limits.interval;
        match self.rng.below(5) {
            0 => {
                let mut variant = self.world.hosts[0].variant.clone();
                variant.extra_vips = u8::try_from(self.rng.below(3)).unwrap_or_default();
                variant.announce_repeat = *self.rng.pick(&[2, 5]);
                if variant.version == 3 && self.rng.chance(500) {
                    variant.interval = *self.rng.pick(&[variant.interval / 10 * 5, variant.interval * 2]);
                    variant.interval = variant.interval.max(Duration::from_millis(10));
                    variant.interval -=
                        Duration::from_nanos(u64::from(variant.interval.subsec_nanos()) % 10_000_000);
                }
                let reload = |host: usize| Fault::Reload(host, Box::new(variant.clone()));
                vec![(begin, reload(host)), (end, reload(1 - host))]
            }
            1 => (0..2)
                .flat_map(|host| [(begin, Fault::PeerOut(host, false)), (end, Fault::PeerOut(host, true))])
                .collect(),
            2 => {
                let quality =
                    Quality { duplicates: 200, reordered: 200, reorder_span: interval / 4, ..Quality::CLEAN };
                vec![(begin, Fault::Lan(quality)), (end, Fault::Lan(Quality::CLEAN))]
            }
            3 => {
                // A sender that was not heard before may be 300 s off: all steps of a run together stay below.
                let millis = i64::try_from(self.rng.below(60_000)).unwrap_or_default() - 30_000;
                let judged_by_clock = self.world.variant.key && !self.world.variant.peer_link;
                let millis = if judged_by_clock { millis.abs() } else { millis };
                self.clock_set_back |= millis < 0;
                vec![(begin, Fault::WallClock(host, millis))]
            }
            _ => {
                let backup = |host: usize| {
                    self.world
                        .view
                        .routers
                        .iter()
                        .all(|router| router.sides[host].role == common::ipc::Role::Backup)
                };
                let Some(host) = (0..2).find(|&host| backup(host)) else { return Vec::new() };
                let before = self.world.hosts[host].lbd;
                vec![(begin, Fault::Lbd(host, Lbd::Absent)), (end, Fault::Lbd(host, before))]
            }
        }
    }
}
