//! Which role each node's `vrrpd` reports, polled over its Unix socket.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use common::time::Instant;
use serde::{Deserialize, Serialize};

use crate::lab::clock::{now, wait_until};
use crate::lab::error::{LabError, Result};
use crate::lab::http;
use crate::lab::netns::Worker;
use crate::lab::{Lab, Node};

/// How long an answer may take; a daemon that hangs is asked this often.
const ANSWER_LIMIT: Duration = Duration::from_millis(50);

/// What was seen of an instance on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// The role reported.
    Role(String),
    /// Nobody serves the socket: the daemon does not run.
    None,
    /// It took the question and did not answer in time.
    Silent,
}

impl Seen {
    /// Whether it is this role.
    #[must_use]
    pub fn is(&self, role: &str) -> bool {
        matches!(self, Self::Role(seen) if seen == role)
    }
}

/// A change, first seen at `at`; `before` the former state had been seen last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleChange {
    /// The node.
    pub node: String,
    /// The instance.
    pub instance: String,
    /// What it is now.
    pub seen: Seen,
    /// When the poll before this one was answered; the start of watching for the first one.
    pub before: Instant,
    /// When this was seen first.
    pub at: Instant,
}

/// Every change seen, in the order seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleReport {
    /// The changes; the first of each node and instance is the state found at the start.
    pub changes: Vec<RoleChange>,
    /// When watching ended.
    pub ended: Instant,
}

impl RoleReport {
    /// What a node reports for an instance at last.
    #[must_use]
    pub fn current(&self, node: &str, instance: &str) -> Option<&Seen> {
        let mut latest_first = self.changes.iter().rev();
        latest_first
            .find(|change| change.node == node && change.instance == instance)
            .map(|change| &change.seen)
    }

    /// The changes of one instance on one node.
    pub fn of<'a>(&'a self, node: &'a str, instance: &'a str) -> impl Iterator<Item = &'a RoleChange> + 'a {
        self.changes.iter().filter(move |change| change.node == node && change.instance == instance)
    }

    /// The longest time both nodes reported to be active for an instance.
    #[must_use]
    pub fn longest_both_active(&self, instance: &str) -> Duration {
        let mut active: BTreeMap<&str, bool> = BTreeMap::new();
        let mut since = None;
        let mut longest = Duration::ZERO;
        for change in self.changes.iter().filter(|change| change.instance == instance) {
            active.insert(&change.node, change.seen.is("active"));
            let both = active.values().filter(|active| **active).count() > 1;
            match (both, since) {
                (true, None) => since = Some(change.at),
                (false, Some(start)) => {
                    longest = longest.max(change.at - start);
                    since = None;
                }
                _ => {}
            }
        }
        longest.max(since.map_or(Duration::ZERO, |start| self.ended - start))
    }
}

/// Watches both nodes, whether their daemons run or not.
#[derive(Debug)]
pub struct RoleWatcher {
    report: Arc<Mutex<RoleReport>>,
    workers: Vec<Worker<()>>,
}

impl RoleWatcher {
    /// Starts polling these instances every `interval` (5 ms is a good one).
    ///
    /// # Errors
    /// [`LabError::Io`] when a thread cannot be made.
    pub fn start(lab: &Lab, instances: &[&str], interval: Duration) -> Result<Self> {
        let report = Arc::new(Mutex::new(RoleReport { changes: Vec::new(), ended: now() }));
        let mut workers = Vec::new();
        for node in lab.nodes() {
            let mut poller = Poller::new(node, instances, Arc::clone(&report));
            // Unix sockets are found by their path from any network; this host's has nothing else to do.
            let namespace = lab.watch().namespace();
            workers.push(namespace.worker(&format!("roles of {}", node.name()), move |stop| {
                poller.run(interval, stop);
            })?);
        }
        Ok(Self { report, workers })
    }

    /// Waits until a node reports this role.
    ///
    /// # Errors
    /// [`LabError::Timeout`] when it does not within `limit`.
    pub fn wait(&self, node: &str, instance: &str, role: &str, limit: Duration) -> Result<()> {
        wait_until(&format!("{node} to be {role} for {instance}"), limit, || {
            lock(&self.report).current(node, instance).is_some_and(|seen| seen.is(role))
        })
    }

    /// What has been seen so far.
    #[must_use]
    pub fn snapshot(&self) -> RoleReport {
        RoleReport { ended: now(), ..lock(&self.report).clone() }
    }

    /// Stops and reports.
    ///
    /// # Errors
    /// [`LabError::Io`] when a thread panicked.
    pub fn stop(self) -> Result<RoleReport> {
        for worker in self.workers {
            worker.stop()?;
        }
        Ok(RoleReport { ended: now(), ..std::mem::take(&mut *lock(&self.report)) })
    }
}

struct Poller {
    node: String,
    socket: std::path::PathBuf,
    states: BTreeMap<String, Option<Seen>>,
    last_poll: Instant,
    report: Arc<Mutex<RoleReport>>,
}

impl Poller {
    fn new(node: &Node, instances: &[&str], report: Arc<Mutex<RoleReport>>) -> Self {
        let states = instances.iter().map(|instance| ((*instance).to_owned(), None)).collect();
        Self { node: node.name().to_owned(), socket: node.socket("vrrpd"), states, last_poll: now(), report }
    }

    fn run(&mut self, interval: Duration, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            let asked = now();
            self.poll();
            thread::sleep(interval.saturating_sub(now() - asked));
        }
    }

    fn poll(&mut self) {
        let answer =
            http::unix(&self.socket, "GET", "/v1/role", "", ANSWER_LIMIT).and_then(|answer| answer.json());
        let at = now();
        for (instance, state) in &mut self.states {
            let seen = match &answer {
                Ok(roles) => roles[instance].as_str().map_or(Seen::None, |role| Seen::Role(role.to_owned())),
                Err(LabError::Io { source, .. })
                    if matches!(source.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    Seen::Silent
                }
                Err(_) => Seen::None,
            };
            if state.as_ref() != Some(&seen) {
                *state = Some(seen.clone());
                let (node, instance, before) = (self.node.clone(), instance.clone(), self.last_poll);
                lock(&self.report).changes.push(RoleChange { node, instance, seen, before, at });
            }
        }
        self.last_poll = at;
    }
}

fn lock(report: &Mutex<RoleReport>) -> MutexGuard<'_, RoleReport> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_two_actives_follows_from_the_changes() {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let change = |node: &str, role: &str, ms| RoleChange {
            node: node.to_owned(),
            instance: "web".to_owned(),
            seen: Seen::Role(role.to_owned()),
            before: at(ms),
            at: at(ms),
        };
        let mut report = RoleReport {
            changes: vec![
                change("a", "active", 0),
                change("b", "backup", 0),
                change("b", "active", 10),
                change("a", "backup", 14),
            ],
            ended: at(100),
        };
        assert_eq!(report.longest_both_active("web"), Duration::from_millis(4));
        assert_eq!(report.longest_both_active("other"), Duration::ZERO);
        report.changes.push(change("a", "active", 90));
        assert_eq!(report.longest_both_active("web"), Duration::from_millis(10));
        assert!(report.current("a", "web").is_some_and(|seen| seen.is("active")));
    }
}
