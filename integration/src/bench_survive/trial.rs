//! One event, done to a fresh pair with thousands of connections.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Case, Strike};
use crate::lab::addresses::vip4;
use crate::lab::clock::{Window, now};
use crate::lab::error::{LabError, Result};
use crate::lab::fault::Fault;
use crate::lab::probe::{
    DownloadReport, EchoProbe, EchoReport, EchoSettings, Failure, WatchSettings, Watcher,
};
use crate::lab::{Lab, Node};
use crate::report::statistics::ms;
use crate::scenario::lasting::{self, Bulk, Mode};
use crate::scenario::{Pair, PairSettings, System, conntrackd, failure_name, hand_over, wait};

/// Adverts of both: what a node's silence is noticed by.
pub(super) const ADVERT_INTERVAL: Duration = Duration::from_millis(100);
/// How many messages all connections together send in a second.
const MESSAGES_PER_SECOND: u32 = 10_000;
/// The least time between two messages of one connection.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Without an answer for this long a connection is lost: TCP has then repeated itself six times.
const STALL_LIMIT: Duration = Duration::from_secs(15);
/// Until every connection has been heard of again, or is lost.
const LIMIT: Duration = Duration::from_secs(60);
/// How long the other node may take, and what it has to know beforehand.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(15);
/// What has been downloaded before anything is done, and has to come after it.
const PIECE: u64 = 2 << 20;

/// What came of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// What was done to what.
    pub case: Case,
    /// How many connections there were.
    pub connections: usize,
    /// How many of them went on.
    pub survived: usize,
    /// How those broke that did not, by kind.
    pub broken: BTreeMap<String, usize>,
    /// How many of these were reset.
    pub resets: usize,
    /// The longest time from sending a message to having it back, of those that went on.
    pub worst_stall: Duration,
    /// The same before anything was done: what the load and the machine contribute.
    pub noise: Duration,
    /// The longest that the probe itself was late after that.
    pub pause: Duration,
    /// From the event until the other node announced the VIP; none when it did not.
    pub detection: Option<Duration>,
    /// Whether the download came to its end with the right sum.
    pub download_whole: bool,
    /// How the download broke, if it did.
    pub download_broken: Option<String>,
    /// The longest time in which it wanted bytes and got none.
    pub download_stall: Duration,
    /// What did not come about, for people.
    pub problems: Vec<String>,
}

/// A pair of a system with services for what lasts.
pub(super) fn pair(label: &str, system: System) -> Result<(Pair, Bulk)> {
    let mut settings = PairSettings::new(label, system, &[vip4(0).into()], ADVERT_INTERVAL);
    settings.targets = lasting::TARGETS;
    settings.lasting = true;
    let pair = Pair::start(settings)?;
    if system == System::Tandem {
        for node in pair.lab().nodes() {
            wait(&format!("{} to be synced", node.name()), TAKEOVER_LIMIT, || {
                let state = replication(node);
                state["state"] == "synced" && state["peer_synced"] == true
            })?;
        }
    }
    let bulk = lasting::prepare(&pair)?;
    Ok((pair, bulk))
}

pub(super) fn run(case: Case, connections: usize) -> Result<Outcome> {
    let (pair, bulk) = pair(&format!("survive {}", case.name()), case.system)?;
    let lab = pair.lab();
    let mut problems = Problems::default();
    let probe = EchoProbe::start(lab.client(), echo_settings(case.mode, connections))?;
    let download = bulk.download(lab, case.mode)?;
    probe.wait_exchanges(2, LIMIT)?;
    problems.note(known(lab, case, connections))?;
    download.wait_bytes(PIECE, LIMIT)?;
    let watcher = Watcher::start(lab, WatchSettings::new(&[vip4(0).into()]))?;
    let [active, other] = lab.nodes();
    watcher.wait_owner(vip4(0), active.mac(), 5, TAKEOVER_LIMIT)?;

    // Connecting so many is a load of its own.
    probe.forget_stalls();
    probe.wait_exchanges(1, LIMIT)?;
    let noise = probe.forget_stalls();
    let event = strike(&pair, case.strike, active)?;
    let detection = announced(&watcher, other, event);
    let detection = problems.note(detection)?;
    problems.note(probe.wait_exchanges(2, LIMIT))?;
    problems.note(download.wait_bytes(PIECE, LIMIT))?;
    let echo = probe.stop()?;
    let download = download.finish(LIMIT)?;
    watcher.stop()?;
    pair.finish()?;
    Ok(outcome(case, &echo, noise, detection, &download, &bulk, problems.0))
}

/// Connections that together send as many messages as one processor carries with ease.
pub(super) fn echo_settings(mode: Mode, connections: usize) -> EchoSettings {
    let count = u32::try_from(connections).unwrap_or(u32::MAX);
    let interval = (Duration::from_secs(1) * count / MESSAGES_PER_SECOND).max(INTERVAL_MIN);
    EchoSettings { interval, stall_limit: STALL_LIMIT, ..mode.echo_settings(connections) }
}

/// Waits until the other node knows the connections that it could go on with.
fn known(lab: &Lab, case: Case, connections: usize) -> Result<()> {
    let (node, wanted) = (lab.b(), connections as u64);
    let what = format!("{} to know {wanted} connections", node.name());
    match case.system {
        System::Tandem if matches!(case.mode, Mode::Nat | Mode::Dsr) => wait(&what, TAKEOVER_LIMIT, || {
            replication(node)["entries"]["flows"].as_u64().is_some_and(|count| count >= wanted)
        }),
        System::Conntrackd => {
            wait(&what, TAKEOVER_LIMIT, || conntrackd::cached(node).is_ok_and(|count| count >= wanted))
        }
        System::Tandem | System::Rival => Ok(()),
    }
}

/// What our balancer on a node says of replication.
fn replication(node: &Node) -> serde_json::Value {
    let answer = node.get("lbd", "/v1/replication").ok().and_then(|answer| answer.json().ok());
    answer.map(|answer: serde_json::Value| answer["state"].clone()).unwrap_or_default()
}

fn strike(pair: &Pair, strike: Strike, active: &Node) -> Result<Window> {
    let name = active.name().to_owned();
    match strike {
        Strike::Switchover => hand_over(pair, active),
        Strike::Sigkill => pair.lab().inject(&Fault::Killed(name)),
        Strike::PowerLoss => pair.lab().inject(&Fault::PowerLoss(name)),
    }
}

/// Waits until a node has announced the VIP after an event, and returns how long that took.
pub(super) fn announced(watcher: &Watcher, node: &Node, event: Window) -> Result<Duration> {
    let (begun, mut after) = (now(), event.before);
    loop {
        let limit = TAKEOVER_LIMIT.saturating_sub(now() - begun);
        let seen = watcher.wait_announcement(vip4(0), after, limit)?;
        if seen.mac == node.mac() {
            return Ok(seen.at - event.before);
        }
        after = seen.at;
    }
}

fn outcome(
    case: Case,
    echo: &EchoReport,
    noise: Duration,
    detection: Option<Duration>,
    download: &DownloadReport,
    bulk: &Bulk,
    problems: Vec<String>,
) -> Outcome {
    let breaks = echo.breaks();
    Outcome {
        case,
        connections: echo.connections.len(),
        survived: echo.connections.len() - echo.broken(),
        resets: breaks.get(&Failure::Reset).copied().unwrap_or_default(),
        broken: breaks.into_iter().map(|(kind, count)| (failure_name(kind), count)).collect(),
        worst_stall: echo.worst_stall(),
        noise,
        pause: echo.pause,
        detection,
        download_whole: download.is_whole(&bulk.sha256),
        download_broken: download.broken.map(|(_, failure)| failure_name(failure)),
        download_stall: download.worst_stall,
        problems,
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} survived", self.survived, self.connections)?;
        for (kind, count) in &self.broken {
            write!(f, ", {count} {kind}")?;
        }
        let (stall, before, pause) = (ms(self.worst_stall), ms(self.noise), ms(self.pause));
        write!(f, "; worst stall {stall} ms (before {before}, the probe {pause} late)")?;
        let detection =
            self.detection.map_or_else(|| "never".to_owned(), |it| format!("after {} ms", ms(it)));
        write!(f, ", other node {detection}; download ")?;
        match &self.download_broken {
            Some(kind) => write!(f, "{kind}")?,
            None if self.download_whole => write!(f, "whole, stall {} ms", ms(self.download_stall))?,
            None => f.write_str("with a wrong sum")?,
        }
        self.problems.iter().try_for_each(|problem| write!(f, "; {problem}"))
    }
}

/// Conditions that did not come true.
#[derive(Debug, Default)]
pub(super) struct Problems(pub(super) Vec<String>);

impl Problems {
    /// A condition that did not come true is a finding; everything else is an error.
    pub(super) fn note<T>(&mut self, outcome: Result<T>) -> Result<Option<T>> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(error @ LabError::Timeout { .. }) => {
                self.0.push(error.to_string());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
