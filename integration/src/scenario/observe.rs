//! Watching a pair from outside, and what of it belongs to one event.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::time::Instant;
use serde::{Deserialize, Serialize};

use super::pair::{Pair, System};
use super::{INSTANCE, PORT};
use crate::lab::Result;
use crate::lab::addresses::Mac;
use crate::lab::clock::{Window, now};
use crate::lab::probe::{
    ConnectProbe, ConnectReport, ConnectSettings, Failure, RoleReport, RoleWatcher, WatchReport,
    WatchSettings, Watcher,
};

/// How often both nodes are asked for their role: too seldom to be a load.
const ROLE_INTERVAL: Duration = Duration::from_millis(20);
const STEADY_LIMIT: Duration = Duration::from_secs(30);
/// The length of the quiet time before an event from which the probe's own noise is taken.
const QUIET: Duration = Duration::from_millis(500);
/// Two nodes that answer for no longer than this are a transition.
const MOMENT_MS: i64 = 50;

/// The probes of one pair: new connections through one VIP every millisecond, who answers for it, and the roles.
#[derive(Debug)]
pub struct Observer {
    /// New connections from the client.
    pub probe: ConnectProbe,
    /// Who answers for the VIPs.
    pub watcher: Watcher,
    /// What our daemons say; the rival's say nothing.
    pub roles: Option<RoleWatcher>,
    vip: IpAddr,
}

impl Observer {
    /// Starts all probes.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Io`] when one cannot be made.
    pub fn start(pair: &Pair, vip: IpAddr) -> Result<Self> {
        Self::start_with(pair, vip, ROLE_INTERVAL)
    }

    /// The same, with both nodes asked for their roles at this interval.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Io`] when one cannot be made.
    pub fn start_with(pair: &Pair, vip: IpAddr, role_interval: Duration) -> Result<Self> {
        let lab = pair.lab();
        let roles = match pair.settings().system {
            System::Tandem => Some(RoleWatcher::start(lab, &[INSTANCE], role_interval)?),
            System::Rival | System::Conntrackd => None,
        };
        let watcher = Watcher::start(lab, WatchSettings::new(&pair.settings().vips))?;
        let probe = ConnectProbe::start(lab.client(), ConnectSettings::http(SocketAddr::new(vip, PORT)))?;
        Ok(Self { probe, watcher, roles, vip })
    }

    /// Waits until this many connections in a row have been served, all of them after this call.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Timeout`] when they have not been within half a minute.
    pub fn wait_steady(&self, count: usize) -> Result<()> {
        self.probe.wait_steady(count, STEADY_LIMIT)
    }

    /// Waits until a host has announced the VIP after a moment.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Timeout`] when it has not within `limit`.
    pub fn wait_announced(&self, by: Mac, after: Instant, limit: Duration) -> Result<()> {
        let (begin, mut after) = (now(), after);
        loop {
            // Others may announce it too: the former owner repeats itself.
            let seen =
                self.watcher.wait_announcement(self.vip, after, limit.saturating_sub(now() - begin))?;
            if seen.mac == by {
                return Ok(());
            }
            after = seen.at;
        }
    }

    /// Waits until a host, and nobody else, has answered the last twenty questions for the VIP.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Timeout`] when it has not within `limit`.
    pub fn wait_sole_owner(&self, mac: Mac, limit: Duration) -> Result<()> {
        self.watcher.wait_owner(self.vip, mac, 20, limit)
    }

    /// Waits until a node of ours says that it has this role.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Timeout`] when it does not within `limit`.
    pub fn wait_role(&self, node: &str, role: &str, limit: Duration) -> Result<()> {
        let Some(roles) = &self.roles else { return Ok(()) };
        super::wait(&format!("{node} to be {role}"), limit, || {
            roles.snapshot().current(node, INSTANCE).is_some_and(|seen| seen.is(role))
        })
    }

    /// Ends the probes.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Io`] when one of them failed.
    pub fn stop(self) -> Result<Observation> {
        let connects = self.probe.stop()?;
        let watch = self.watcher.stop()?;
        let roles = self.roles.map(RoleWatcher::stop).transpose()?;
        Ok(Observation { connects, watch, roles: roles.unwrap_or_default(), vip: self.vip, ended: now() })
    }
}

/// Everything that was seen.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The connections.
    pub connects: ConnectReport,
    /// Who claimed the VIPs.
    pub watch: WatchReport,
    /// What our daemons said.
    pub roles: RoleReport,
    /// The VIP connected to.
    pub vip: IpAddr,
    /// When observing ended.
    pub ended: Instant,
}

/// Who answered for the VIP from a moment on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answerer {
    /// Milliseconds from the event; negative before it.
    pub at_ms: i64,
    /// The nodes; none when nobody answered.
    pub nodes: Vec<String>,
}

/// What of an observation belongs to one event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Connections tried.
    pub attempts: usize,
    /// Connections that failed, those under way when the event came included.
    pub failed: usize,
    /// The same by kind.
    pub failures: BTreeMap<String, usize>,
    /// The longest time between two neighbouring connections that were served.
    pub gap: Duration,
    /// The same in the quiet half second before the event: what the probe and the machine contribute.
    pub noise: Duration,
    /// The longest time in which the probe itself tried nothing.
    pub pause: Duration,
    /// From the event to the first connection after which all succeeded; none when they never did again.
    pub recovery: Option<Duration>,
    /// Who answered for the VIP.
    pub answered: Vec<Answerer>,
    /// The longest time two nodes answered for it at once.
    pub overlap: Duration,
    /// Served connections by target.
    pub by_target: BTreeMap<String, usize>,
}

impl Observation {
    /// What happened from an event until another moment. `name` says whose a MAC address is.
    #[must_use]
    pub fn measure(&self, event: Window, until: Instant, name: impl Fn(Mac) -> Option<String>) -> Measured {
        let from = event.before;
        let whole = &self.connects;
        // A connection under way when the event came may have failed by it.
        let touched = whole.attempts.iter().filter(|attempt| attempt.end >= from && attempt.start <= until);
        let part = ConnectReport {
            attempts: touched.copied().collect(),
            targets: whole.targets.clone(),
            ..ConnectReport::default()
        };
        let failures = part.failures().into_iter().map(|(kind, count)| (failure_name(kind), count)).collect();
        let span = until - from;
        let instant = Window { before: from, after: from };
        let quiet = from.before(QUIET);
        Measured {
            attempts: part.attempts.len(),
            failed: part.failed(),
            failures,
            gap: whole.gap_around(instant, span).length(),
            noise: longest_step(whole, quiet, from, true),
            pause: longest_step(whole, from, until, false),
            recovery: whole.recovery(instant, span),
            answered: self.answered(from, until, name),
            overlap: self.overlap(from, until),
            by_target: part.by_target(),
        }
    }

    /// The longest time within a stretch in which two hosts answered for the VIP.
    fn overlap(&self, from: Instant, until: Instant) -> Duration {
        let all = self.watch.overlaps(self.vip);
        let within = all.iter().filter(|overlap| overlap.to >= from && overlap.from <= until);
        within.map(|overlap| overlap.to.min(until) - overlap.from.max(from)).max().unwrap_or_default()
    }

    fn answered(&self, from: Instant, until: Instant, name: impl Fn(Mac) -> Option<String>) -> Vec<Answerer> {
        let owners = self.watch.owners(self.vip);
        let first = owners.iter().rposition(|(at, _)| *at <= from).unwrap_or(0);
        let shown = owners.into_iter().skip(first).take_while(|(at, _)| *at <= until);
        let answerer = |(at, macs): (Instant, std::collections::BTreeSet<Mac>)| Answerer {
            at_ms: milliseconds_from(from, at),
            nodes: macs.into_iter().map(|mac| name(mac).unwrap_or_else(|| "?".to_owned())).collect(),
        };
        shown.map(answerer).collect()
    }
}

impl Measured {
    /// Which nodes answered one after the other, for people: `a → b`, and `a and b` when both did for longer than a
    /// moment. Moments without an answer are left out: the gap tells of these.
    #[must_use]
    pub fn answered_text(&self) -> String {
        let mut names: Vec<String> = Vec::new();
        for (index, answerer) in self.answered.iter().enumerate() {
            let next = self.answered.get(index + 1);
            let lasted = next.is_none_or(|next| next.at_ms - answerer.at_ms > MOMENT_MS);
            let name = answerer.nodes.join(" and ");
            let counts = answerer.nodes.len() == 1 || (answerer.nodes.len() > 1 && lasted);
            if counts && names.last() != Some(&name) {
                names.push(name);
            }
        }
        if names.is_empty() { "nobody".to_owned() } else { names.join(" → ") }
    }

    /// The failures for people: `3 refused, 2 timeout`.
    #[must_use]
    pub fn failures_text(&self) -> String {
        let kinds: Vec<String> =
            self.failures.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") }
    }
}

/// Milliseconds from one moment to another, negative when that is earlier.
pub(super) fn milliseconds_from(from: Instant, to: Instant) -> i64 {
    let part = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    if to >= from { part(to - from) } else { -part(from - to) }
}

fn longest_step(report: &ConnectReport, from: Instant, until: Instant, served_only: bool) -> Duration {
    let attempts = report.attempts.iter().filter(|attempt| !served_only || attempt.failure.is_none());
    let starts: Vec<Instant> =
        attempts.map(|attempt| attempt.start).filter(|start| (from..=until).contains(start)).collect();
    starts.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

pub(crate) fn failure_name(failure: Failure) -> String {
    match failure {
        Failure::Refused => "refused".to_owned(),
        Failure::Reset => "reset".to_owned(),
        Failure::Timeout => "timed out".to_owned(),
        Failure::Unreachable => "unreachable".to_owned(),
        Failure::Closed => "closed early".to_owned(),
        Failure::Status(status) => format!("status {status}"),
        Failure::Garbled => "garbled".to_owned(),
        Failure::Local(errno) => format!("probe's own error {errno}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::addresses::{mac, vip4};
    use crate::lab::probe::{Attempt, Sighting, SightingKind};

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    /// A connection every millisecond, those of 995 to 1009 fail; `a` answers until 1000, `b` from 990.
    fn observation() -> Observation {
        let attempt = |ms| Attempt {
            start: at(ms),
            end: at(ms + 3),
            failure: (995..1010).contains(&ms).then_some(Failure::Reset),
            target: None,
        };
        let mut watch =
            WatchReport { asked: (0..400).map(|index| at(index * 5)).collect(), ..WatchReport::default() };
        for question in 0..400 {
            let asked = question * 5;
            let hosts = [(asked < 1000).then_some(1), (asked >= 990).then_some(2)];
            for host in hosts.into_iter().flatten() {
                watch.sightings.push(Sighting {
                    at: at(asked + 1),
                    vip: vip4(0).into(),
                    mac: mac(host),
                    kind: SightingKind::Answer,
                    question: Some(question),
                });
            }
        }
        let connects = ConnectReport {
            attempts: (0..2000).map(attempt).collect(),
            begun: at(0),
            ended: at(1999),
            ..ConnectReport::default()
        };
        Observation { connects, watch, roles: RoleReport::default(), vip: vip4(0).into(), ended: at(2000) }
    }

    #[test]
    fn what_belongs_to_an_event_is_counted_and_the_rest_is_not() {
        let name = |it: Mac| Some(if it == mac(1) { "a" } else { "b" }.to_owned());
        let event = Window { before: at(996), after: at(997) };
        let measured = observation().measure(event, at(1500), name);
        assert_eq!(measured.failed, 15, "the one that was under way counts: {measured:?}");
        assert_eq!(measured.failures_text(), "15 reset");
        assert_eq!(measured.gap, Duration::from_millis(16));
        assert_eq!(measured.noise, Duration::from_millis(1));
        assert_eq!(measured.pause, Duration::from_millis(1));
        assert_eq!(measured.recovery, Some(Duration::from_millis(14)));
        assert_eq!(measured.answered_text(), "b");
        assert_eq!(measured.overlap, Duration::ZERO, "the overlap ended with the answer at 996");

        let event = Window { before: at(980), after: at(980) };
        let measured = observation().measure(event, at(1500), name);
        assert_eq!(measured.overlap, Duration::from_millis(6));
        assert_eq!(measured.answered_text(), "a → b");
        let quiet = observation().measure(Window { before: at(1200), after: at(1200) }, at(1500), name);
        assert_eq!((quiet.failed, quiet.gap), (0, Duration::from_millis(1)));
        assert_eq!(quiet.failures_text(), "none");
    }
}
