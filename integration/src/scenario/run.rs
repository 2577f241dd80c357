//! One event, done to a fresh pair and measured.

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::time::Instant;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::event::Event;
use super::observe::{Measured, Observation, Observer, milliseconds_from};
use super::pair::{Family, Pair, PairSettings, System};
use super::{INSTANCE, rival, wait};
use crate::lab::clock::{Window, now};
use crate::lab::fault::Fault;
use crate::lab::probe::Seen;
use crate::lab::{Lab, LabError, Node, Result};

/// Connections in a row that show that a pair works before anything is done to it; the last 500 give the noise.
const STEADY_BEFORE: usize = 700;
/// Connections in a row that show that it works again.
const STEADY_AFTER: usize = 300;
/// How long the other node may take; longer than any detection time here.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(15);
/// How long two nodes may both answer until that is no transition any more.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);

/// A role that one of our daemons reported from a moment on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleStep {
    /// Milliseconds from the event; negative before it.
    pub at_ms: i64,
    /// The node.
    pub node: String,
    /// The role, or that it does not run or answer.
    pub role: String,
}

/// What came of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The event.
    pub event: Event,
    /// The software.
    pub system: System,
    /// The VIP's family.
    pub family: Family,
    /// What the probes saw, from the event to the end.
    pub measured: Measured,
    /// Whether the node that was active before let go of the VIP: while it was stopped, if it was.
    pub released: bool,
    /// What our daemons said.
    pub roles: Vec<RoleStep>,
    /// What did not come about, for people.
    pub problems: Vec<String>,
}

impl Record {
    /// Whether this run alone reached the target, apart from the comparison with the rival.
    #[must_use]
    pub fn reached_target(&self) -> bool {
        let target = self.event.target();
        self.problems.is_empty()
            && target.gap.is_none_or(|limit| self.measured.gap <= limit)
            && target.failed.is_none_or(|limit| self.measured.failed <= limit)
            && (self.released || !target.released)
            && self.measured.overlap <= target.overlap
    }
}

/// Does an event to a fresh pair. When that does not come out as promised, the lab's logs, the record and both nodes'
/// addresses and routes are left in `evidence`, if given: a folder that is made then.
///
/// # Errors
/// [`LabError`] when the pair cannot be brought up or the event cannot be done; the logs are then on standard error.
pub fn run(event: Event, system: System, family: Family, evidence: Option<&Path>) -> Result<Record> {
    let label = format!("{} {}", event.name(), system.vrrp_program());
    let mut settings = PairSettings::new(&label, system, &[family.vip()], event.advert_interval());
    settings.preempt = event != Event::SigstopVrrpd;
    settings.rival_tracks = event == Event::SigkillLbd;
    let pair = Pair::start(settings)?;
    let record = Run { pair: &pair, event, system, family, problems: Vec::new() }.measure()?;
    if let Some(evidence) = evidence.filter(|_| !record.reached_target()) {
        keep_evidence(pair.lab(), &record, evidence)?;
    }
    pair.finish()?;
    Ok(record)
}

struct Run<'a> {
    pair: &'a Pair,
    event: Event,
    system: System,
    family: Family,
    problems: Vec<String>,
}

impl Run<'_> {
    fn measure(mut self) -> Result<Record> {
        let lab = self.pair.lab();
        let [mut loser, mut winner] = lab.nodes();
        if self.event == Event::NodeReturns {
            (loser, winner) = (winner, loser);
            self.lose_power(winner, loser)?;
        }
        let observer = Observer::start(self.pair, self.family.vip())?;
        observer.wait_steady(STEADY_BEFORE)?;
        let window = self.inject(loser, winner)?;
        let released_while_stopped = self.follow(&observer, window, loser, winner)?;
        let until = now();
        let observation = observer.stop()?;
        let released = match released_while_stopped {
            Some(released) => released,
            None => !loser.holds(self.family.vip())?,
        };
        // With its higher priority the rival's node that was stopped wins again.
        let back = self.system == System::Rival && self.event == Event::SigstopVrrpd;
        if !back && !winner.holds(self.family.vip())? {
            self.problems.push(format!("{} does not hold the VIP at the end", winner.name()));
        }
        let measured = observation.measure(window, until, |mac| self.pair.name_of(mac));
        Ok(Record {
            event: self.event,
            system: self.system,
            family: self.family,
            measured,
            released,
            roles: role_steps(&observation, window.before),
            problems: self.problems,
        })
    }

    /// Takes `node` down as a power loss and boots it again, without its daemons, once the other one serves.
    fn lose_power(&self, node: &Node, other: &Node) -> Result<()> {
        let lab = self.pair.lab();
        let fault = Fault::power_loss(node.name());
        lab.inject(&fault)?;
        let vip = self.family.vip();
        let what = format!("{} to take over", other.name());
        wait(&what, TAKEOVER_LIMIT, || other.holds(vip).unwrap_or(false))?;
        lab.heal(&fault).map(drop)
    }

    fn inject(&self, active: &Node, other: &Node) -> Result<Window> {
        let lab = self.pair.lab();
        let rival = self.system != System::Tandem;
        let vrrp = self.system.vrrp_program();
        match self.event {
            Event::Switchover | Event::Switchover10Ms if rival => rival::retire(active),
            Event::Switchover | Event::Switchover10Ms => switch_over(active),
            Event::SigtermVrrpd | Event::SigtermVrrpd10Ms => active.signal(vrrp, Signal::SIGTERM),
            Event::SigkillVrrpd100Ms | Event::SigkillVrrpd1S if rival => {
                rival::signal_all(active, Signal::SIGKILL)
            }
            Event::SigkillVrrpd100Ms | Event::SigkillVrrpd1S => active.signal(vrrp, Signal::SIGKILL),
            Event::SigkillLbd => active.signal(self.system.balancer_program(), Signal::SIGKILL),
            Event::SigstopVrrpd if rival => rival::signal_all(active, Signal::SIGSTOP),
            Event::SigstopVrrpd => active.signal(vrrp, Signal::SIGSTOP),
            Event::LinkDown => lab.inject(&Fault::link_down(active.name())),
            Event::PortBlocked => lab.inject(&Fault::blocked(active.name())),
            Event::NodeReturns => {
                let start = || self.pair.start_node(other);
                Ok(Window::around(start)?.0)
            }
        }
    }

    /// Waits for the end state and notes what of it does not come about. For a stopped node: whether it had let
    /// go of the VIP before it went on.
    fn follow(
        &mut self,
        observer: &Observer,
        event: Window,
        loser: &Node,
        winner: &Node,
    ) -> Result<Option<bool>> {
        self.note(observer.wait_announced(winner.mac(), event.before, TAKEOVER_LIMIT))?;
        self.note(observer.wait_steady(STEADY_AFTER))?;
        self.note(observer.wait_role(winner.name(), "active", SETTLE_LIMIT))?;
        // The addresses of a dead keepalived are removed by nobody: both nodes answer as long as one looks.
        let two_owners = self.system == System::Rival && self.event.kills_vrrp();
        if !two_owners {
            self.note(observer.wait_sole_owner(winner.mac(), SETTLE_LIMIT))?;
        }
        match self.event {
            Event::SigstopVrrpd => self.resume(observer, loser, winner).map(Some),
            Event::Switchover | Event::Switchover10Ms | Event::NodeReturns => {
                self.note(observer.wait_role(loser.name(), "backup", SETTLE_LIMIT))?;
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// Lets the stopped daemon go on and waits until it is backup.
    fn resume(&mut self, observer: &Observer, stopped: &Node, winner: &Node) -> Result<bool> {
        let vip = self.family.vip();
        let released = !stopped.holds(vip)?;
        match self.system {
            System::Rival | System::Conntrackd => rival::signal_all(stopped, Signal::SIGCONT)?,
            System::Tandem => stopped.signal("vrrpd", Signal::SIGCONT)?,
        };
        self.note(observer.wait_role(stopped.name(), "backup", TAKEOVER_LIMIT))?;
        // The rival's nodes are equal now: with its higher priority the one that was stopped may win.
        if self.system == System::Rival {
            wait("a single node to hold the VIP", TAKEOVER_LIMIT, || {
                let holders = self.pair.lab().nodes().map(|node| node.holds(vip).unwrap_or(true));
                holders.into_iter().filter(|holds| *holds).count() == 1
            })?;
        } else {
            self.note(observer.wait_sole_owner(winner.mac(), SETTLE_LIMIT))?;
        }
        self.note(observer.wait_steady(STEADY_AFTER))?;
        Ok(released)
    }

    /// A condition that did not come true is a finding; everything else is an error.
    fn note(&mut self, outcome: Result<()>) -> Result<()> {
        match outcome {
            Err(error @ LabError::Timeout { .. }) => {
                self.problems.push(error.to_string());
                Ok(())
            }
            other => other,
        }
    }
}

/// Moves the active role from this node to the other, as planned: by command, or by the rival's priorities.
///
/// # Errors
/// [`LabError::Answer`] when our daemon refuses.
pub fn hand_over(pair: &Pair, from: &Node) -> Result<Window> {
    match pair.settings().system {
        System::Tandem => switch_over(from),
        System::Rival | System::Conntrackd if from.name() == pair.lab().a().name() => rival::retire(from),
        // The other way it is enough that the one with the higher priority may have it.
        System::Rival | System::Conntrackd => rival::employ(pair.lab().peer_of(from)),
    }
}

fn switch_over(active: &Node) -> Result<Window> {
    let body = format!("{{\"instance\":\"{INSTANCE}\"}}");
    let (window, answer) = Window::around(|| active.send("vrrpd", "POST", "/v1/switchover", &body))?;
    if answer.status == 200 {
        return Ok(window);
    }
    Err(LabError::Answer { asked: "POST /v1/switchover".to_owned(), answer: answer.body })
}

fn role_steps(observation: &Observation, event: Instant) -> Vec<RoleStep> {
    let changes = observation.roles.changes.iter();
    let step = |change: &crate::lab::probe::RoleChange| RoleStep {
        at_ms: milliseconds_from(event, change.at),
        node: change.node.clone(),
        role: match &change.seen {
            Seen::Role(role) => role.clone(),
            Seen::None => "not running".to_owned(),
            Seen::Silent => "not answering".to_owned(),
        },
    };
    changes.map(step).collect()
}

/// Leaves the logs of a run and its record.
fn keep_evidence(lab: &Lab, record: &Record, evidence: &Path) -> Result<()> {
    let doing = |source| LabError::Io { doing: format!("keeping logs in {}", evidence.display()), source };
    fs::create_dir_all(evidence).map_err(doing)?;
    for entry in fs::read_dir(lab.dir().join("logs")).map_err(doing)? {
        let entry = entry.map_err(doing)?;
        fs::copy(entry.path(), evidence.join(entry.file_name())).map_err(doing)?;
    }
    for node in lab.nodes() {
        let state = "ip address; ip route show table all; ip -6 route show table local; ip neighbour; \
                     grep . /proc/sys/net/ipv4/conf/*/arp_ignore";
        let text = node.run("sh", &["-c", state])?;
        fs::write(evidence.join(format!("{}-state.txt", node.name())), text).map_err(doing)?;
    }
    let text = serde_json::to_string_pretty(record).map_err(|error| doing(error.into()))?;
    fs::write(evidence.join("record.json"), text).map_err(doing)
}
