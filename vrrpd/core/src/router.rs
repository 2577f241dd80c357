//! One virtual router: the state machine of RFC 9568 §6.4, and what Tandem adds to it.
//!
//! Additions, each confined to a pair that speaks over the peer link or reads one configuration:
//! - [handover](crate::handover): the role is passed on before the addresses are dropped;
//! - after a handover on request the router does not preempt until the peer fails (`held`);
//! - a router that just took over by handover ignores the advertisements that its predecessor sent before it knew
//!   (`deference`);
//! - a priority below both configured ones means that the sender is unhealthy: it is preempted whatever Preempt_Mode is, but by a
//!   router that still learns of connections from it only after a while (`learn_by`);
//! - a router that learns from a peer of which it hears nothing takes over only after a while, and then provisionally ([`silence`]);
//! - a router that was not run for 2.5 intervals steps down before it says another word (`stalled`).

mod announce;
mod pass_on;
mod silence;

use std::net::IpAddr;

use common::config::VrrpVersion;
use common::ipc::{CATCH_UP_MAX, Role};
use common::time::{Duration, Instant};

use crate::event::{HandoverFailure, Reason};
use crate::handover::{Handover, Phase, Purpose};
use crate::settings::RouterSettings;
use crate::timer::{Timer, Timers};

use silence::Others;
pub(crate) use silence::PRIORITY_PROVISIONAL;

/// What a virtual router wants done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Send an advertisement with this priority.
    Advertise(u8),
    /// Add the addresses.
    Acquire,
    /// Remove the addresses.
    Relinquish,
    /// Send gratuitous ARP or neighbour advertisements.
    Announce,
    /// Send an offer to the peer.
    Offer(u64),
    /// Tell the peer that the addresses are free.
    Release,
    /// The role changed.
    Role { from: Role, to: Role, reason: Reason },
    /// The router did not run for so long.
    Stalled { silence: Duration },
    /// A handover ended.
    HandoverEnded { id: u64, purpose: Purpose, result: Result<(), HandoverFailure> },
}

/// An accepted advertisement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    pub(crate) at: Instant,
    pub(crate) priority: u8,
    pub(crate) interval: Duration,
    pub(crate) source: IpAddr,
    /// Whether the peer says over the peer link that it has its role provisionally ([`silence`]).
    pub(crate) provisional: bool,
}

/// The predecessor whose advertisements are ignored for a moment.
#[derive(Clone, Copy, Debug)]
struct Deference {
    until: Instant,
    to: Option<IpAddr>,
}

/// How often the role is still to be announced.
#[derive(Clone, Copy, Debug, Default)]
struct AnnouncePlan {
    quick_left: u32,
    slow_left: u32,
}

/// Counters and measurements of a virtual router.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stats {
    pub(crate) transitions: u64,
    pub(crate) adverts_sent: u64,
    pub(crate) adverts_received: u64,
    pub(crate) announcements: u64,
    pub(crate) conflicts: u64,
    pub(crate) adverts_late: u64,
    pub(crate) lateness: Duration,
    pub(crate) lateness_max: Duration,
}

/// One virtual router.
#[derive(Clone, Debug)]
pub(crate) struct Router {
    pub(crate) settings: RouterSettings,
    pub(crate) stats: Stats,
    role: Role,
    source: Option<IpAddr>,
    effective: u8,
    /// Active_Adver_Interval: learned from the active router.
    active_interval: Duration,
    timers: Timers,
    /// No preemption before this (`preempt_delay`).
    preempt_after: Instant,
    held: bool,
    /// The peer knows of connections that this node does not: preempting it would break them.
    behind: bool,
    /// Until when an unhealthy router is left alone because this node still learns from it, since that would first have been preempted.
    learn_by: Option<Instant>,
    /// Until when a router that is not heard is left alone because this node still learns from it, since its silence was first noticed.
    silence_until: Option<Instant>,
    /// The peer says over the peer link that it is active, and serves no worse than this node, or not well, but serves.
    rival: bool,
    /// It took the role in the silence of such a peer, while it lacked connections of that, which has not said since that it is not active.
    taken_in_silence: bool,
    /// Who else was heard on the interface since the peer last was.
    others: Option<Others>,
    resigned: bool,
    deference: Option<Deference>,
    handover: Option<Handover>,
    announce: AnnouncePlan,
    last_advert_sent: Instant,
    /// Until when the last advertisement lets this router count on its addresses.
    lease: Instant,
    last_heard: Option<Heard>,
    /// It is active because nothing was heard of the one before, not because that one gave the role up or was preempted.
    from_silence: bool,
    /// Answers left before the next scheduled advertisement, so that a flood cannot make us flood.
    asserts_left: u8,
}

/// Answers to advertisements of lower priority, or of priority 0, between two scheduled ones.
const ASSERTS_MAX: u8 = 8;

/// Half intervals without an advertisement after which its sender is taken to have stopped meanwhile.
const SILENT_HALF_INTERVALS: u32 = 5;

impl Router {
    pub(crate) fn new(settings: RouterSettings) -> Self {
        Self {
            effective: settings.priority,
            active_interval: settings.interval,
            settings,
            stats: Stats::default(),
            role: Role::Init,
            source: None,
            timers: Timers::default(),
            preempt_after: Instant::ZERO,
            held: false,
            behind: false,
            learn_by: None,
            silence_until: None,
            rival: false,
            taken_in_silence: false,
            others: None,
            resigned: false,
            deference: None,
            handover: None,
            announce: AnnouncePlan::default(),
            last_advert_sent: Instant::ZERO,
            lease: Instant::ZERO,
            last_heard: None,
            from_silence: false,
            asserts_left: ASSERTS_MAX,
        }
    }

    pub(crate) const fn role(&self) -> Role {
        self.role
    }

    pub(crate) const fn source(&self) -> Option<IpAddr> {
        self.source
    }

    pub(crate) const fn effective(&self) -> u8 {
        self.effective
    }

    pub(crate) const fn active_interval(&self) -> Duration {
        self.active_interval
    }

    pub(crate) const fn last_heard(&self) -> Option<Heard> {
        self.last_heard
    }

    pub(crate) const fn handover(&self) -> Option<Handover> {
        self.handover
    }

    /// Whether it is active because nothing was heard of the one before.
    pub(crate) const fn is_from_silence(&self) -> bool {
        matches!(self.role, Role::Active) && self.from_silence
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Whether a handover's outcome, or a predecessor's last words, are still awaited.
    pub(crate) fn in_transition(&self) -> bool {
        self.handover.is_some() || self.deference.is_some()
    }

    /// RFC 9568 §6.1: "Skew_Time: (((256 - Priority) * Active_Adver_Interval) / 256)", here in nanoseconds. RFC 3768 §6.1 has
    /// it in seconds, whatever the interval.
    pub(crate) fn skew(&self) -> Duration {
        let base = match self.settings.version {
            VrrpVersion::V2 => Duration::from_secs(1),
            VrrpVersion::V3 => self.active_interval,
        };
        base * (256 - u32::from(self.effective)) / 256
    }

    /// RFC 9568 §6.1: "Active_Down_Interval: (3 * Active_Adver_Interval) + Skew_Time".
    pub(crate) fn active_down_interval(&self) -> Duration {
        self.active_interval * 3 + self.skew()
    }

    /// The silence after which an active router no longer trusts that it is the only one: less than the shortest
    /// Active_Down_Interval of a backup, which is more than three intervals.
    pub(crate) fn stall_limit(&self) -> Duration {
        self.settings.interval * 5 / 2
    }

    /// Until when this router owns its addresses, should it not be run again; `None` unless it is active.
    ///
    /// Each advertisement renews this lease, by the measure after which the router would step down by itself ([`Self::stall_limit`]): it
    /// bears an advertisement that is one and a half intervals late, and is over before the Active_Down_Interval of the other
    /// node, which begins when that hears the advertisement. A router that has resigned is silent and keeps its addresses for its
    /// successor, no longer than the handover lasts.
    pub(crate) fn owned_until(&self) -> Option<Instant> {
        let resigned = self.handover.filter(|handover| handover.phase == Phase::Resigned);
        let kept = resigned.map_or(self.lease, |handover| self.lease.max(handover.deadline));
        (self.role == Role::Active).then_some(kept)
    }

    /// Start, or the end of a fault. RFC 9568 §6.4.1.
    pub(crate) fn start(&mut self, now: Instant, source: Option<IpAddr>, out: &mut Vec<Output>) {
        self.source = source;
        if source.is_none() {
            self.change_role(Role::Fault, Reason::Interface, out);
            return;
        }
        let reason = if self.role == Role::Fault { Reason::InterfaceUp } else { Reason::Startup };
        self.active_interval = self.settings.interval;
        self.others = None;
        self.preempt_after = now + self.settings.preempt_delay;
        // Not in the RFC: an owner whose peer knows of connections leaves them to it, and takes the role if nobody has it.
        if self.effective == 255 && self.settings.is_owner() && !self.behind {
            self.become_active(now, Reason::Owner, out);
        } else {
            self.become_backup(now, reason, out);
        }
    }

    /// The interface's own address changed, appeared or went (`None`: it cannot be used).
    pub(crate) fn set_source(&mut self, now: Instant, source: Option<IpAddr>, out: &mut Vec<Output>) {
        match (self.role, source) {
            (Role::Init, _) => {}
            (Role::Fault, Some(_)) => self.start(now, source, out),
            (Role::Fault, None) => {}
            (_, Some(_)) => self.source = source,
            (Role::Backup | Role::Active, None) => {
                self.source = None;
                if self.role == Role::Active {
                    out.push(Output::Release);
                    out.push(Output::Relinquish);
                    self.end_handover(Err(HandoverFailure::Refused), out);
                }
                self.forget();
                self.change_role(Role::Fault, Reason::Interface, out);
            }
        }
    }

    /// Health changed the priority in force. A node that became healthy waits its `preempt_delay` anew.
    pub(crate) fn set_effective(&mut self, now: Instant, effective: u8) {
        if effective > self.effective && effective == self.settings.priority {
            self.preempt_after = now + self.settings.preempt_delay;
        }
        let before = self.active_down_interval();
        self.effective = effective;
        // Skew_Time is there so that the better of two backups is first. One whose priority changed while it waits has to
        // wait as long as that priority says, or two that start together would be ranked by what they were a moment ago.
        if self.role == Role::Backup
            && !self.resigned
            && let Some(deadline) = self.timers.get(Timer::ActiveDown)
        {
            let due = deadline.before(before) + self.active_down_interval();
            // Not in the past, which would look as if the node had not run.
            self.timers.set(Timer::ActiveDown, due.max(now));
        }
    }

    /// Whether the peer knows of connections that this node does not.
    pub(crate) const fn set_behind(&mut self, behind: bool) {
        self.behind = behind;
    }

    /// New settings for the same virtual router: they apply from now on, the role stays.
    pub(crate) fn reconfigure(&mut self, settings: RouterSettings, now: Instant) {
        if self.role == Role::Active && settings.interval < self.settings.interval {
            let soon = now + settings.interval;
            let due = self.timers.get(Timer::Advert).map_or(soon, |due| due.min(soon));
            if self.handover.is_none_or(|handover| handover.phase == Phase::Offered) {
                self.timers.set(Timer::Advert, due);
            }
            self.last_advert_sent = now;
        }
        // A backup of version 3 keeps what it learned from the active router; version 2 has one interval for all.
        if self.role != Role::Backup || settings.version == VrrpVersion::V2 {
            self.active_interval = settings.interval;
        }
        self.settings = settings;
    }

    /// Steps down if this router did not run for too long; true if it did. To be asked before anything else is done at `now`.
    pub(crate) fn step_down_if_stalled(&mut self, now: Instant, out: &mut Vec<Output>) -> bool {
        let resigned = self.handover.is_some_and(|handover| handover.phase == Phase::Resigned);
        let silence = now.since(self.last_advert_sent);
        if self.role != Role::Active || resigned || silence <= self.stall_limit() {
            return false;
        }
        out.push(Output::Stalled { silence });
        self.step_down(now, Reason::Stalled, out);
        true
    }

    /// Active → Backup, dropping the addresses at once. No effect in another role.
    pub(crate) fn step_down(&mut self, now: Instant, reason: Reason, out: &mut Vec<Output>) {
        if self.role == Role::Active {
            self.end_handover(Err(HandoverFailure::Refused), out);
            self.become_backup(now, reason, out);
        }
    }

    /// An advertisement that passed all checks. `learns` while this node is behind, and its sender serves and tells it of connections.
    pub(crate) fn advert(&mut self, heard: Heard, learns: bool, out: &mut Vec<Output>) {
        self.stats.adverts_received += 1;
        // A predecessor advertises until it knows of its successor. After a silence it means what it says.
        let silent = |last: Heard| heard.at.since(last.at) > self.active_interval * SILENT_HALF_INTERVALS / 2;
        if self.last_heard.is_some_and(silent) {
            self.deference = None;
        }
        self.last_heard = Some(heard);
        self.silence_until = None;
        self.heard_peer();
        match self.role {
            Role::Init | Role::Fault => {}
            Role::Backup => self.advert_in_backup(heard, learns),
            Role::Active => self.advert_in_active(heard, out),
        }
    }

    /// RFC 9568 §6.4.2: "If the Priority in the ADVERTISEMENT is 0, then: Set the Active_Down_Timer to Skew_Time"; else "If
    /// Preempt_Mode is False, or if the Priority in the ADVERTISEMENT is greater than or equal to the local Priority, then:
    /// Set the Active_Adver_Interval to the Max Advertise Interval contained in the ADVERTISEMENT, Recompute the Skew_Time,
    /// Recompute the Active_Down_Interval, Set the Active_Down_Timer to Active_Down_Interval"; else "Discard the
    /// ADVERTISEMENT".
    fn advert_in_backup(&mut self, heard: Heard, learns: bool) {
        if heard.priority == 0 {
            self.resigned = true;
            self.timers.set(Timer::ActiveDown, heard.at + self.skew());
        } else if !self.preempts(heard, learns) {
            self.resigned = false;
            self.learn_interval(heard.interval);
            self.timers.set(Timer::ActiveDown, heard.at + self.active_down_interval());
        }
    }

    /// RFC 9568 §6.1 on Preempt_Mode: "the router that owns the IPvX address associated with the Virtual Router always preempts,
    /// independent of the setting of this flag". It waits as others do, though, and stays away when it was told to or is behind.
    ///
    /// A sender that is unhealthy is preempted all the same, but not at once by a node that learns from it: the connections that this one
    /// lacks would break, and the other one serves. It is to hand over by itself, which costs nobody anything; this is the bound for one
    /// that does not.
    fn preempts(&mut self, heard: Heard, learns: bool) -> bool {
        let lower = heard.priority < self.effective;
        let unhealthy = lower && heard.priority < self.settings.lowest_priority;
        if !unhealthy {
            self.learn_by = None;
        }
        let waits = unhealthy && learns && heard.at < *self.learn_by.get_or_insert(heard.at + CATCH_UP_MAX);
        let mode = self.settings.preempt || self.settings.is_owner();
        let allowed = mode && heard.at >= self.preempt_after && !self.held && !self.behind;
        lower && (allowed || (unhealthy && !waits))
    }

    /// RFC 9568 §6.4.3: "If the Priority in the ADVERTISEMENT is 0, then: Send an ADVERTISEMENT, Reset the Adver_Timer to
    /// Advertisement_Interval"; else "If the Priority in the ADVERTISEMENT is greater than the local Priority or the Priority
    /// in the ADVERTISEMENT is equal to the local Priority and the primary IPvX address of the sender is greater than the
    /// local primary IPvX address (based on an unsigned integer comparison of the IPvX addresses in network byte order),
    /// then: […] Transition to the {Backup} state"; else "Discard the ADVERTISEMENT, Send an ADVERTISEMENT immediately to
    /// assert the {Active} state".
    fn advert_in_active(&mut self, heard: Heard, out: &mut Vec<Output>) {
        if self.handover.is_some() {
            if heard.priority != 0 {
                self.learn_interval(heard.interval);
                // It may have been active all along, behind a LAN that was cut, and is to know what we announced meanwhile.
                self.resign(out);
                self.handed_over(heard.at, out);
            }
            return;
        }
        if heard.priority == 0 {
            // Beyond the bound the scheduled advertisement, no longer put off, has to do.
            if self.asserts_left > 0 {
                self.asserts_left -= 1;
                self.advertise(heard.at, out);
                self.timers.set(Timer::Advert, heard.at + self.settings.interval);
            }
            // Its sender was active too, so it may have announced later than we did. What it advertises from now on is meant.
            self.announce_soon(heard.at);
            self.deference = None;
            return;
        }
        if self.gives_way_to(heard) {
            if self.defers_to(heard) {
                return;
            }
            // Not in the RFC: without this the other one, which may not have heard us at all, would not know that our
            // announcements have to be corrected by its own.
            self.resign(out);
            self.learn_interval(heard.interval);
            self.become_backup(heard.at, Reason::HigherPriority, out);
        } else {
            self.assert_active(heard.at, out);
        }
    }

    /// Whether this is the predecessor still advertising because it does not know yet that we took over.
    fn defers_to(&self, heard: Heard) -> bool {
        self.deference
            .is_some_and(|wait| heard.at < wait.until && wait.to.is_none_or(|source| source == heard.source))
    }

    fn assert_active(&mut self, now: Instant, out: &mut Vec<Output>) {
        self.stats.conflicts += 1;
        if self.asserts_left > 0 {
            self.asserts_left -= 1;
            self.advertise(now, out);
        }
        self.announce_soon(now);
    }

    /// RFC 9568 §6.1: Active_Adver_Interval is the one of the active router. Version 2 has one interval for all (§5.3.7 of RFC 3768).
    fn learn_interval(&mut self, interval: Duration) {
        if self.settings.version == VrrpVersion::V3 {
            self.active_interval = interval;
        }
    }

    /// Serves every timer that is due. `standby` keeps a backup from taking over (the peer is known to serve, and better), unless
    /// that peer resigned, and so does `learns` for a while if it hears nothing (the peer is known to serve, and tells this node of connections that it
    /// lacks); `late` makes it listen first, because it did not run and may have missed what was sent.
    pub(crate) fn timeout(
        &mut self,
        now: Instant,
        standby: bool,
        learns: bool,
        late: bool,
        out: &mut Vec<Output>,
    ) {
        while let Some((timer, deadline)) = self.timers.take_due(now) {
            match timer {
                Timer::Advert => self.advert_due(now, deadline, out),
                Timer::ActiveDown if late => {
                    self.timers.set(Timer::ActiveDown, now + self.active_interval + self.skew());
                }
                Timer::ActiveDown if standby && !self.resigned => {
                    // Its time to learn begins when it would take over.
                    self.silence_until = None;
                    self.timers.set(Timer::ActiveDown, now + self.active_interval);
                }
                Timer::ActiveDown
                    if learns && !self.resigned && self.is_silent(now) && self.bears_silence(now) =>
                {
                    let soon = now + self.active_interval;
                    let until = self.silence_until.map_or(soon, |until| until.min(soon));
                    self.timers.set(Timer::ActiveDown, until);
                }
                Timer::ActiveDown => {
                    let reason = if self.resigned { Reason::Resigned } else { Reason::ActiveDown };
                    self.become_active(now, reason, out);
                }
                Timer::Announce => self.announce_due(now, out),
                Timer::Handover => self.handover_due(now, out),
            }
        }
        self.deference = self.deference.filter(|wait| now < wait.until);
    }

    /// RFC 9568 §6.4.3: "If the Adver_Timer fires, then: Send an ADVERTISEMENT, Reset the Adver_Timer to
    /// Advertisement_Interval". The next deadline counts from this one, not from now, so that lateness does not add up.
    fn advert_due(&mut self, now: Instant, deadline: Instant, out: &mut Vec<Output>) {
        self.stats.lateness = now.since(deadline);
        self.stats.lateness_max = self.stats.lateness_max.max(self.stats.lateness);
        self.stats.adverts_late += u64::from(self.stats.lateness > self.settings.interval / 10);
        self.asserts_left = ASSERTS_MAX;
        self.advertise(now, out);
        let next = deadline + self.settings.interval;
        self.timers.set(Timer::Advert, if next > now { next } else { now + self.settings.interval });
    }

    fn advertise(&mut self, now: Instant, out: &mut Vec<Output>) {
        self.last_advert_sent = now;
        self.lease = now + self.stall_limit();
        self.stats.adverts_sent += 1;
        out.push(Output::Advertise(self.advertised()));
    }

    /// "I am no longer active": RFC 9568 §5.2.4.
    fn resign(&mut self, out: &mut Vec<Output>) {
        self.stats.adverts_sent += 1;
        out.push(Output::Advertise(0));
    }

    /// The state is live before it is announced: addresses, then the advertisement, then ARP or ND.
    fn become_active(&mut self, now: Instant, reason: Reason, out: &mut Vec<Output>) {
        self.forget();
        // Who preempts has heard the other one all the time.
        self.from_silence = matches!(reason, Reason::ActiveDown | Reason::LanFault) && self.is_silent(now);
        self.taken_in_silence = self.takes_in_silence(now, reason);
        // What a predecessor advertised says nothing about the successor, should this one leave without having heard it.
        self.active_interval = self.settings.interval;
        self.asserts_left = ASSERTS_MAX;
        out.push(Output::Acquire);
        self.advertise(now, out);
        self.timers.set(Timer::Advert, now + self.settings.interval);
        let repeats = self.settings.announce.repeat.saturating_sub(1);
        self.announce = AnnouncePlan { quick_left: repeats.min(1), slow_left: repeats.saturating_sub(1) };
        self.announce_now(now, out);
        self.change_role(Role::Active, reason, out);
    }

    /// Whether the router last heard is taken to have stopped since, or none was.
    fn is_silent(&self, now: Instant) -> bool {
        let limit = self.active_interval * SILENT_HALF_INTERVALS / 2;
        self.last_heard.is_none_or(|heard| now.since(heard.at) > limit)
    }

    fn become_backup(&mut self, now: Instant, reason: Reason, out: &mut Vec<Output>) {
        if self.role == Role::Active {
            out.push(Output::Relinquish);
        }
        let held = self.held;
        self.forget();
        self.held = held;
        self.timers.set(Timer::ActiveDown, now + self.active_down_interval());
        self.change_role(Role::Backup, reason, out);
    }

    fn forget(&mut self) {
        self.timers.cancel_all();
        self.held = false;
        self.learn_by = None;
        self.silence_until = None;
        self.taken_in_silence = false;
        self.resigned = false;
        self.deference = None;
        self.handover = None;
    }

    fn change_role(&mut self, to: Role, reason: Reason, out: &mut Vec<Output>) {
        let from = std::mem::replace(&mut self.role, to);
        if from != to {
            self.stats.transitions += 1;
            out.push(Output::Role { from, to, reason });
        }
    }
}
