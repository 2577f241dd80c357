//! Which targets of a group get new connections, and how many of them: health, passive ejection, the administrator's
//! word, backups, zones, slow start, and what is done when too few targets are left.
//!
//! One [`Group`] for each target group. The shell hands in what happens and the time, publishes each target's share to
//! whoever forwards connections, and calls [`Group::tick`] at [`Group::deadline`].

mod ejection;
mod member;
mod roster;
mod select;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use common::time::{Duration, Instant, Now, UnixTime};

pub use ejection::EjectSettings;
use member::Member;
pub use member::{Admin, SHARE_OF_WEIGHT_ONE, Spec, Standing, WEIGHT_MAX};
pub use roster::{ADDED_MAX, Origin, Roster, RosterError, Said};
pub use select::Mode;
use select::{Candidate, select};

use crate::health::{HealthState, Thresholds};

/// Steps of a slow start.
const SLOW_START_STEPS: u32 = 64;

/// The shortest step of a slow start.
const SLOW_START_STEP_MIN: Duration = Duration::from_millis(20);

/// What the configuration says about a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Of the checks; none without checks, and then every target counts as healthy.
    pub thresholds: Option<Thresholds>,
    /// Passive ejection; none without.
    pub eject: Option<EjectSettings>,
    /// Below this share of usable targets all are used; 0 to 100, 0 is only when none is usable.
    pub panic_percent: u8,
    /// How long a target's share rises after its recovery; zero is not at all.
    pub slow_start: Duration,
    /// How long the connections of a drained target may go on.
    pub drain_timeout: Duration,
    /// The zone whose targets are preferred; none when the zone does not matter (`cross_zone`, or a node without one).
    pub zone: Option<String>,
}

/// Something worth a line in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The group takes its targets from elsewhere.
    Mode {
        /// From where until now.
        from: Mode,
        /// From where from now on.
        to: Mode,
    },
    /// A target's checks say something else.
    Health {
        /// The target's index.
        target: usize,
        /// What they say now.
        state: HealthState,
    },
    /// A target's connections failed: it is out for a while.
    Ejected {
        /// The target's index.
        target: usize,
        /// How long.
        time: Duration,
        /// Ejections in a row, this one included.
        in_a_row: u32,
    },
    /// An ejection has ended.
    Returned {
        /// The target's index.
        target: usize,
    },
    /// A target's `drain_timeout` has passed.
    Drained {
        /// The target's index.
        target: usize,
    },
}

/// What the API shows of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// What the administrator wants.
    pub admin: Admin,
    /// The weight in force.
    pub weight: u16,
    /// Whether it is the administrator's.
    pub weight_overridden: bool,
    /// What the checks say.
    pub health: HealthState,
    /// Since when.
    pub since: UnixTime,
    /// Whether it could be used as it is: ready, of a weight above 0, healthy and not ejected.
    pub usable: bool,
    /// Why it gets a share or none.
    pub standing: Standing,
    /// Its share: weight × 256, less during a slow start; 0 gets nothing.
    pub share: u32,
    /// How far a slow start has come, 0 to 99; none outside of one.
    pub slow_start_percent: Option<u8>,
    /// The rest of the ejection under way.
    pub ejected_for: Option<Duration>,
    /// Ejections in a row, the one under way included; fewer with each `base` that the target has done well since.
    pub ejections_in_a_row: u32,
    /// Ejections since the target is known.
    pub ejections: u64,
    /// Ejections that `max_percent` did not allow.
    pub ejections_refused: u64,
}

/// What joins a group in its first moments was there from the beginning: where targets are discovered, a list comes after the
/// targets that are written down.
pub const BEGINNING: Duration = Duration::from_secs(2);

/// The state of one target group.
#[derive(Clone, Debug)]
pub struct Group {
    settings: Settings,
    members: Vec<Member>,
    mode: Mode,
    /// When the group began.
    born: Instant,
    /// At most a few for each target: taken by the shell after each input.
    events: Vec<Event>,
}

impl Group {
    /// A group that starts now.
    #[must_use]
    pub fn new(now: Now, settings: Settings, targets: Vec<Spec>) -> Self {
        let mut group =
            Self { settings, members: Vec::new(), mode: Mode::None, born: now.at, events: Vec::new() };
        let settings = group.settings.clone();
        group.configure(now, settings, targets);
        // How it begins is no change.
        group.events.clear();
        group
    }

    /// Takes another configuration or list of targets.
    ///
    /// What is known about a target lives on as long as its id and address stay; what the administrator said about it as
    /// long as its id stays. A target that was missing from one list is a new one in the next.
    pub fn configure(&mut self, now: Now, settings: Settings, targets: Vec<Spec>) {
        let first = self.members.is_empty() || now.at.since(self.born) < BEGINNING;
        let before = std::mem::take(&mut self.members);
        let mut before: HashMap<String, Member> =
            before.into_iter().map(|member| (member.spec.id.clone(), member)).collect();
        for spec in targets {
            let Some(mut member) = before.remove(&spec.id) else {
                self.members.push(Member::new(now, spec, &settings, first));
                continue;
            };
            if member.spec.address == spec.address {
                member.spec = spec;
                if member.health.reconfigure(settings.thresholds).is_some() {
                    member.since = now.unix;
                }
            } else {
                let other = member;
                member = Member::new(now, spec, &settings, false);
                member.heed(&other);
            }
            self.members.push(member);
        }
        self.settings = settings;
        self.update(now.at);
    }

    /// Takes a check's result. Answers the target's new state if it changed.
    pub fn record_check(&mut self, now: Now, target: usize, success: bool) -> Option<HealthState> {
        let member = self.members.get_mut(target)?;
        let state = member.health.record(success)?;
        member.since = now.unix;
        self.events.push(Event::Health { target, state });
        self.update(now.at);
        Some(state)
    }

    /// So many connections to a target failed in a row that it is to be ejected. Answers whether it was: not if it is not
    /// in use anyway, or if as many are out as may be.
    pub fn eject(&mut self, now: Instant, target: usize) -> bool {
        // Ejections that have ended by now make room.
        self.update(now);
        let Some(settings) = self.settings.eject else { return false };
        if !self.members.get(target).is_some_and(|member| member.candidate(&self.settings).usable) {
            return false;
        }
        let (out, allowed) = self.ejected();
        let member = &mut self.members[target];
        if out >= allowed {
            member.ejection.refused = member.ejection.refused.saturating_add(1);
            return false;
        }
        let time = member.ejection.begin(now, settings);
        let in_a_row = member.ejection.count(now, settings.base);
        self.events.push(Event::Ejected { target, time, in_a_row });
        self.update(now);
        true
    }

    /// Takes what the administrator wants of a target.
    pub fn set_admin(&mut self, now: Instant, target: usize, admin: Admin) {
        let Some(member) = self.members.get_mut(target) else { return };
        // Saying the same again does not give a drain more time.
        if member.admin != admin {
            (member.admin, member.admin_since, member.drained) = (admin, now, false);
            self.update(now);
        }
    }

    /// Takes the administrator's weight for a target, 0 to 256; none gives the configured one back.
    pub fn set_weight(&mut self, now: Instant, target: usize, weight: Option<u16>) {
        if let Some(member) = self.members.get_mut(target) {
            member.weight = weight;
            self.update(now);
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        self.update(now);
    }

    /// When something is due next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.members.iter().flat_map(|member| self.deadlines(member)).flatten().min()
    }

    /// What has happened since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// From where the targets are taken.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// How many targets there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no target.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The index of the target of this name.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<usize> {
        self.members.iter().position(|member| member.spec.id == id)
    }

    /// A target's share: weight × 256, less during a slow start; 0 gets no new connection.
    #[must_use]
    pub fn share(&self, target: usize) -> u32 {
        self.members.get(target).map_or(0, |member| member.share)
    }

    /// Whether a target gets nothing because it is not well, by its checks or by its connections: whoever can leave it does.
    #[must_use]
    pub fn failed(&self, target: usize) -> bool {
        let standing = self.members.get(target).map(|member| member.standing);
        matches!(standing, Some(Standing::Unhealthy | Standing::Ejected))
    }

    /// What a target's checks say.
    #[must_use]
    pub fn health(&self, target: usize) -> Option<HealthState> {
        self.members.get(target).map(|member| member.health.state())
    }

    /// The administrator's weights, by the targets' names.
    #[must_use]
    pub fn weight_overrides(&self) -> HashMap<&str, u16> {
        let weights = self.members.iter().filter_map(|it| Some((it.spec.id.as_str(), it.weight?)));
        weights.collect()
    }

    /// The name of each target, with what the administrator wants of it and the weight that he gave it, if he did.
    pub fn said(&self) -> impl Iterator<Item = (&str, Admin, Option<u16>)> {
        self.members.iter().map(|member| (member.spec.id.as_str(), member.admin, member.weight))
    }

    /// When the connections of a target are to be closed; none for one that is ready.
    #[must_use]
    pub fn close_at(&self, target: usize) -> Option<Instant> {
        self.members.get(target)?.close_at(self.settings.drain_timeout)
    }

    /// Each target's weight in force and health, with `false` for those that may not be used whatever their health is.
    pub fn seen(&self) -> impl Iterator<Item = (bool, HealthState)> + '_ {
        self.members
            .iter()
            .map(|member| (member.eligible() && member.ejection.until().is_none(), member.health.state()))
    }

    /// What the API shows of a target.
    #[must_use]
    pub fn view(&self, now: Instant, target: usize) -> Option<View> {
        let member = self.members.get(target)?;
        let window = self.settings.slow_start.as_nanos().max(1);
        let percent = |from: Instant| now.since(from).as_nanos().saturating_mul(100) / window;
        Some(View {
            admin: member.admin,
            weight: member.effective_weight(),
            weight_overridden: member.weight.is_some(),
            health: member.health.state(),
            since: member.since,
            usable: member.candidate(&self.settings).usable,
            standing: member.standing,
            share: member.share,
            slow_start_percent: member
                .slow_from
                .map(|from| u8::try_from(percent(from)).unwrap_or(99).min(99)),
            ejected_for: member.ejection.until().map(|until| until.since(now)),
            ejections_in_a_row: self
                .settings
                .eject
                .map_or(0, |settings| member.ejection.count(now, settings.base)),
            ejections: member.ejection.total,
            ejections_refused: member.ejection.refused,
        })
    }

    /// Targets that are ejected, and that may be.
    fn ejected(&self) -> (usize, usize) {
        let out = self.members.iter().filter(|member| member.counts_as_ejected()).count();
        let eligible = self.members.iter().filter(|member| member.eligible()).count();
        let percent = self.settings.eject.map_or(0, |settings| settings.max_percent);
        (out, ejection::allowed(eligible, percent))
    }

    fn deadlines(&self, member: &Member) -> [Option<Instant>; 3] {
        let slow = member.slow_from.map(|from| {
            let window = self.settings.slow_start;
            let step = (window / SLOW_START_STEPS).max(SLOW_START_STEP_MIN);
            (member.share_at + step).min(from + window)
        });
        let drained = (member.admin == Admin::Drain && !member.drained)
            .then(|| member.admin_since + self.settings.drain_timeout);
        [member.ejection.until(), slow, drained]
    }

    /// Brings everything up to date. Does nothing the second time at the same instant.
    fn update(&mut self, now: Instant) {
        self.end_ejections(now);
        for (target, member) in self.members.iter_mut().enumerate() {
            let over = member.close_at(self.settings.drain_timeout).is_some_and(|at| at <= now);
            if member.admin == Admin::Drain && !member.drained && over {
                member.drained = true;
                self.events.push(Event::Drained { target });
            }
        }
        let candidates: Vec<Candidate> =
            self.members.iter().map(|member| member.candidate(&self.settings)).collect();
        let (mode, chosen) = select(&candidates, self.settings.panic_percent);
        for ((member, candidate), chosen) in self.members.iter_mut().zip(candidates).zip(chosen) {
            member.note_usable(now, candidate.usable, self.settings.slow_start);
            member.share = if chosen { member.share_in_use(now, self.settings.slow_start) } else { 0 };
            member.share_at = now;
            member.standing = member.stand(candidate, chosen);
        }
        if mode != self.mode {
            self.events.push(Event::Mode { from: self.mode, to: mode });
            self.mode = mode;
        }
    }

    /// Ends the ejections whose time has come, and those that another list of targets leaves no room for: first the one
    /// that would end first.
    fn end_ejections(&mut self, now: Instant) {
        let enabled = self.settings.eject.is_some();
        for target in 0..self.members.len() {
            if self.members[target].ejection.until().is_some_and(|until| until <= now || !enabled) {
                self.end_ejection(now, target);
            }
        }
        loop {
            let (out, allowed) = self.ejected();
            if out <= allowed {
                return;
            }
            let out = self.members.iter().enumerate().filter(|(_, member)| member.counts_as_ejected());
            let Some((target, _)) = out.min_by_key(|(_, member)| member.ejection.until()) else { return };
            self.end_ejection(now, target);
        }
    }

    fn end_ejection(&mut self, now: Instant, target: usize) {
        self.members[target].ejection.end(now);
        self.events.push(Event::Returned { target });
    }
}
