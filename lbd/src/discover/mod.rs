//! Finding targets: one task on the control runtime for each group with `discover`.
//!
//! A task asks its [`Source`], hands the answer to `lbd_core::discover`, which decides whether it is taken and when to ask
//! again, and sends a list that changed to the control loop. Sources only ask; they know nothing of what was said before,
//! of time or of each other.

mod dns;
mod file;
mod http;
mod task;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::pending;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::config::{Config, Discover, DiscoverSource, Target};
use lbd_core::discover::{Answer, Discovery, Failure, FailureKind, Pace, shadowed};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::reload::Request;

/// How long the start waits for the first answers, so that it does not begin without targets that are a moment away.
const FIRST_ANSWERS_MAX: Duration = Duration::from_secs(1);

/// Requests to ask at once that may wait for a task; more ask for nothing that these don't.
const WAKES_MAX: usize = 16;

/// What asking a source leads to.
type Asking<'a> = Pin<Box<dyn Future<Output = Result<Answer, Failure>> + Send + 'a>>;

/// What ends when a source knows of something new.
type Changed<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Something that can be asked for targets.
///
/// `ask` ends when there is an answer. It may be dropped at any time, and asked again.
trait Source: Send {
    /// Asks.
    fn ask(&mut self) -> Asking<'_>;

    /// Waits until there is reason to ask before it is time to. Most sources do not know; one that is told of changes does, and answers with what
    /// it was told. It may be dropped at any time.
    fn changed(&mut self) -> Changed<'_> {
        Box::pin(pending())
    }
}

/// The source that the configuration names.
fn source(discover: &Discover) -> Box<dyn Source> {
    let max_targets = discover.max_targets;
    match &discover.source {
        DiscoverSource::File(path) => Box::new(file::TargetsFile::new(path.clone(), max_targets)),
        DiscoverSource::Dns { name, port, server } => {
            Box::new(dns::Dns::addresses(name.clone(), *port, *server, max_targets))
        }
        DiscoverSource::Srv { name, server } => {
            Box::new(dns::Dns::services(name.clone(), *server, max_targets))
        }
        DiscoverSource::Consul { url, service, tag } => {
            Box::new(http::Consul::new(url.clone(), service.clone(), tag.as_deref(), max_targets))
        }
        DiscoverSource::Etcd { url, prefix } => {
            Box::new(http::Etcd::new(url.clone(), prefix.clone(), max_targets))
        }
    }
}

/// The source's name in logs and in the API.
fn described(discover: &Discover) -> String {
    match &discover.source {
        DiscoverSource::File(path) => format!("file {}", path.display()),
        DiscoverSource::Dns { name, port, .. } => format!("dns {name}:{port}"),
        DiscoverSource::Srv { name, .. } => format!("srv {name}"),
        DiscoverSource::Consul { url, service, .. } => format!("consul {url} {service}"),
        DiscoverSource::Etcd { url, prefix } => format!("etcd {url} {prefix}"),
    }
}

/// What has been found, by group; read by the API and the metrics.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    groups: Mutex<BTreeMap<String, Arc<Found>>>,
    /// A source was asked for the first time.
    asked: Notify,
}

/// What has been found for one group.
pub(crate) struct Found {
    source: String,
    state: Mutex<Discovery>,
    /// The list that the group uses, which is behind `state` while the control loop has other things to do.
    in_use: Mutex<Vec<Target>>,
    wake: mpsc::Sender<Wake>,
    /// The first question has ended, and what came of it is in use.
    asked: AtomicBool,
    /// A reload has ended the task: what it still had to say does not count.
    ended: AtomicBool,
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Found").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Found {
    /// Its state.
    pub(crate) fn state(&self) -> MutexGuard<'_, Discovery> {
        // The state machine panics nowhere, so what a poisoned lock guards is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn in_use(&self) -> MutexGuard<'_, Vec<Target>> {
        // Replaced as a whole.
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Directory {
    /// All groups with `discover`.
    pub(crate) fn groups(&self) -> Vec<(String, Arc<Found>)> {
        self.lock().iter().map(|(group, found)| (group.clone(), Arc::clone(found))).collect()
    }

    /// What the API shows of a group's discovery; `written` are the group's targets in the configuration file.
    pub(crate) fn view(&self, group: &str, written: &[Target]) -> Option<DiscoveryView> {
        let found = self.lock().get(group).map(Arc::clone)?;
        Some(DiscoveryView::of(&found, written))
    }

    /// Has the source of a group asked now, and waits for how that goes; a list that changed is then in use. Must not be waited
    /// for by the control loop, which the tasks send what they found to.
    pub(crate) async fn refresh(&self, group: &str) -> Result<(), RefreshError> {
        let found = self.lock().get(group).map(Arc::clone);
        let found = found.ok_or_else(|| RefreshError::Unknown(group.to_owned()))?;
        let (reply, result) = oneshot::channel();
        found.wake.try_send(Some(reply)).map_err(|_| RefreshError::Busy(group.to_owned()))?;
        result.await.map_err(|_| RefreshError::Ended(group.to_owned()))?.map_err(RefreshError::Failed)
    }

    /// Waits until every source has been asked once, but not for long.
    pub(crate) async fn first_answers(&self) {
        let end = Instant::now() + FIRST_ANSWERS_MAX;
        loop {
            let changed = self.asked.notified();
            if self.lock().values().all(|found| found.asked.load(Ordering::Relaxed)) {
                return;
            }
            if timeout_at(end, changed).await.is_err() {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Found>>> {
        // The map is only read and replaced as a whole.
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running tasks; part of what a reload works on.
#[derive(Debug)]
pub(crate) struct Discoverer {
    directory: Arc<Directory>,
    requests: mpsc::Sender<Request>,
    tasks: HashMap<String, Task>,
}

#[derive(Debug)]
struct Task {
    discover: Discover,
    found: Arc<Found>,
    handle: JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.found.ended.store(true, Ordering::Relaxed);
        self.handle.abort();
    }
}

/// Goes with a list to the control loop, and tells the task when it is in use.
#[derive(Debug)]
pub(crate) struct Ticket {
    found: Arc<Found>,
    done: oneshot::Sender<()>,
}

impl Ticket {
    /// Whether the list still counts: the task may have been ended or replaced while the list was under way.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.found.ended.load(Ordering::Relaxed)
    }

    /// Says that the group uses this list now.
    pub(crate) fn used(&self, targets: Vec<Target>) {
        *self.found.in_use() = targets;
    }

    /// Says that the list is in use, or will not be.
    pub(crate) fn done(self) {
        if self.done.send(()).is_err() {
            tracing::debug!(source = self.found.source, "targets came from a search that has ended");
        }
    }
}

/// Asks a task to ask its source now, and to say how that went.
type Wake = Option<oneshot::Sender<Result<(), Failure>>>;

/// Why a refresh brought nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RefreshError {
    /// It has none.
    #[error("there is no target group {0:?} with `discover`")]
    Unknown(String),
    /// It was asked to often enough.
    #[error("too many requests to ask the source of {0:?} wait already")]
    Busy(String),
    /// It said nothing useful; the list stays.
    #[error("{0}; the targets found before stay in use")]
    Failed(Failure),
    /// The task has ended: a reload has removed the group, or changed where its targets come from.
    #[error(
        "a reload has changed `discover` of the target group {0:?} meanwhile: its source was asked anew, or is gone"
    )]
    Ended(String),
}

impl Discoverer {
    /// No tasks yet. What they find goes into `directory`, and lists that changed to `requests`.
    pub(crate) fn new(directory: Arc<Directory>, requests: mpsc::Sender<Request>) -> Self {
        Self { directory, requests, tasks: HashMap::new() }
    }

    /// Runs the tasks that `config` asks for. One that stays the same asks its source at once: a reload means that something
    /// may have changed. One that replaces another keeps what that one found until its own source has answered.
    ///
    /// Answers the groups that had `discover` before and don't have it any more.
    pub(crate) fn update(&mut self, config: &Config) -> Vec<String> {
        let mut before = std::mem::take(&mut self.tasks);
        for group in &config.target_groups {
            let Some(discover) = &group.discover else { continue };
            let old = before.remove(&group.name);
            let task = match old {
                Some(task) if task.discover == *discover && !task.handle.is_finished() => {
                    // When it is full, it will be asked anyway.
                    drop(task.found.wake.try_send(None));
                    task
                }
                old => {
                    // Not what it has found last: the control loop may not have come to that, and will not now.
                    let carried = old.map(|task| task.found.in_use().clone());
                    self.start(&group.name, discover, source(discover), carried.unwrap_or_default())
                }
            };
            self.tasks.insert(group.name.clone(), task);
        }
        let found = |(group, task): (&String, &Task)| (group.clone(), Arc::clone(&task.found));
        *self.directory.lock() = self.tasks.iter().map(found).collect();
        before.into_keys().collect()
    }

    /// Has every source asked now, as whoever sends SIGHUP after a change of a list of targets expects.
    pub(crate) fn refresh_all(&self) {
        for task in self.tasks.values() {
            // When it is full, it will be asked anyway.
            drop(task.found.wake.try_send(None));
        }
    }

    fn start(&self, group: &str, discover: &Discover, source: Box<dyn Source>, carried: Vec<Target>) -> Task {
        let seed = RandomState::new().hash_one(group);
        let (wake, woken) = mpsc::channel(WAKES_MAX);
        let found = Arc::new(Found {
            source: described(discover),
            state: Mutex::new(Discovery::new(Pace::of(discover), carried.clone(), seed)),
            in_use: Mutex::new(carried),
            wake,
            asked: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let run = task::Run {
            group: group.to_owned(),
            source,
            found: Arc::clone(&found),
            directory: Arc::clone(&self.directory),
            requests: self.requests.clone(),
            woken,
        };
        let handle = tokio::spawn(run.forever());
        Task { discover: discover.clone(), found, handle }
    }
}

/// `discovery` of a target group in the API.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DiscoveryView {
    /// Where targets come from.
    pub(crate) source: String,
    /// Targets of the list in use.
    pub(crate) targets: usize,
    /// Those of them that the file's targets stand in for: they have the same id or address.
    pub(crate) shadowed: usize,
    /// Whether the source fails, and the list is the last good one.
    pub(crate) stale: bool,
    /// Since when, in milliseconds since the Unix epoch.
    pub(crate) stale_since_unix_ms: Option<u64>,
    /// When the source last gave a good answer, in milliseconds since the Unix epoch.
    pub(crate) last_success_unix_ms: Option<u64>,
    /// The last failure, also one that is over.
    pub(crate) last_failure: Option<DiscoveryFailureView>,
    /// Entries that the last good answer had beyond `max_targets`.
    pub(crate) over_limit: u64,
    /// Entries of the last good answer that cannot be used.
    pub(crate) unusable: u64,
    /// Good answers since the start, and those of them that changed the list.
    pub(crate) answers: u64,
    /// Answers that changed the list.
    pub(crate) changes: u64,
    /// Failures since the start.
    pub(crate) failures: u64,
    /// The same by what came of asking: `unreachable`, `invalid` or `empty`.
    #[serde(default)]
    pub(crate) failures_by_reason: BTreeMap<String, u64>,
    /// Entries of all good answers that were beyond `max_targets`.
    #[serde(default)]
    pub(crate) over_limit_total: u64,
    /// Entries of all good answers that could not be used.
    #[serde(default)]
    pub(crate) unusable_total: u64,
}

/// A failure to find targets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DiscoveryFailureView {
    /// When, in milliseconds since the Unix epoch.
    pub(crate) at_unix_ms: u64,
    /// What went wrong.
    pub(crate) message: String,
}

impl DiscoveryView {
    fn of(found: &Found, written: &[Target]) -> Self {
        let state = found.state();
        let status = state.status();
        let failure = status.last_failure.as_ref();
        Self {
            source: found.source.clone(),
            targets: status.targets,
            shadowed: shadowed(written, state.targets()),
            stale: status.stale_since.is_some(),
            stale_since_unix_ms: status.stale_since.map(|since| since.as_millis()),
            last_success_unix_ms: status.last_success.map(|at| at.as_millis()),
            last_failure: failure.map(|last| DiscoveryFailureView {
                at_unix_ms: last.at.as_millis(),
                message: last.message.clone(),
            }),
            over_limit: status.over_limit,
            unusable: status.unusable,
            answers: status.counts.answers,
            changes: status.counts.changes,
            failures: status.counts.failures.iter().sum(),
            failures_by_reason: FailureKind::ALL
                .map(|kind| kind.name().to_owned())
                .into_iter()
                .zip(status.counts.failures)
                .collect(),
            over_limit_total: status.counts.over_limit,
            unusable_total: status.counts.unusable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Is told of lists, and answers with the last one.
    struct Told {
        lists: mpsc::Receiver<Vec<Target>>,
        last: Vec<Target>,
    }

    impl Source for Told {
        fn ask(&mut self) -> Asking<'_> {
            let targets = self.last.clone();
            Box::pin(async { Ok(Answer { targets, ttl: None, unusable: 0, over_limit: 0, partial: None }) })
        }

        fn changed(&mut self) -> Changed<'_> {
            Box::pin(async {
                match self.lists.recv().await {
                    Some(list) => self.last = list,
                    None => pending().await,
                }
            })
        }
    }

    fn target(port: u16) -> Target {
        let address = ([127, 0, 0, 1], port).into();
        let id = format!("t{port}");
        Target { id, address, weight: 1, backup: false, zone: None, max_connections: None }
    }

    #[tokio::test]
    async fn a_source_that_is_told_of_changes_need_not_be_asked_for_them() {
        let (requests, mut asked) = mpsc::channel(1);
        let discoverer = Discoverer::new(Arc::default(), requests);
        // It is asked again at the request of people only.
        let source = DiscoverSource::File("/targets.toml".into());
        let discover = Discover { source, refresh: None, max_targets: 100 };
        let (tell, lists) = mpsc::channel(1);
        let source = Box::new(Told { lists, last: vec![target(1)] });
        let _task = discoverer.start("pool", &discover, source, Vec::new());
        for expected in 1..4 {
            let Some(Request::Discovered { targets, ticket, .. }) = asked.recv().await else {
                panic!("nothing was found")
            };
            assert_eq!(targets, [target(expected)]);
            ticket.done();
            tell.send(vec![target(expected + 1)]).await.unwrap();
        }
    }
}
