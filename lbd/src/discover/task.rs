//! One group's task: ask, take what was found, tell the control loop, wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::time::{Instant, Now};
use lbd_core::discover::{Answer, Failure, Outcome};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep_until, timeout};

use super::{Directory, Found, Source, Ticket, Wake};
use crate::clock::unix_now;
use crate::reload::Request;

/// A question that takes longer has failed. Each source has shorter time limits of its own; this one is for what they miss,
/// such as a file on a server that does not answer.
const ASK_MAX: Duration = Duration::from_secs(15);

/// What the task works on.
pub(super) struct Run {
    pub(super) group: String,
    pub(super) source: Box<dyn Source>,
    pub(super) found: Arc<Found>,
    pub(super) directory: Arc<Directory>,
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) woken: mpsc::Receiver<Wake>,
}

impl Run {
    /// Asks until aborted, or until the control loop has ended.
    pub(super) async fn forever(mut self) {
        let start = tokio::time::Instant::now();
        let now = || {
            let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            Now { at: Instant::from_nanos(nanos), unix: unix_now() }
        };
        let mut waiting: Vec<oneshot::Sender<Result<(), Failure>>> = Vec::new();
        loop {
            let result = timeout(ASK_MAX, self.source.ask()).await.unwrap_or_else(|_| {
                Err(Failure::unreachable(format!("no answer within {} s", ASK_MAX.as_secs())))
            });
            let said = result.as_ref().map(drop).map_err(Failure::clone);
            if !self.take(now(), result).await {
                return;
            }
            for reply in waiting.drain(..) {
                // Whoever asked may have left.
                drop(reply.send(said.clone()));
            }
            let next = self.found.state().next_refresh();
            let due = async {
                match next {
                    Some(next) => sleep_until(start + Duration::from_nanos(next.as_nanos())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.source.changed() => {}
                wake = self.woken.recv() => match wake {
                    Some(wake) => waiting.extend(wake),
                    None => return,
                },
            }
            while let Ok(wake) = self.woken.try_recv() {
                waiting.extend(wake);
            }
        }
    }

    /// Takes what the source said; false when nobody is interested any more.
    async fn take(&mut self, now: Now, result: Result<Answer, Failure>) -> bool {
        let failure = result.as_ref().err().cloned();
        let partial = result.as_ref().ok().and_then(|answer| answer.partial.clone());
        let left_out = result.as_ref().map_or((0, 0), |answer| (answer.over_limit, answer.unusable));
        let (outcome, before, was_whole, changed) = {
            let mut state = self.found.state();
            let before = (state.status().over_limit, state.status().unusable);
            let was_whole = state.status().stale_since.is_none();
            let outcome = state.answered(now, result);
            let changed = matches!(outcome, Outcome::Changed(_)).then(|| state.targets().to_vec());
            (outcome, before, was_whole, changed)
        };
        let (group, source) = (self.group.as_str(), self.found.source.as_str());
        match (&outcome, &failure) {
            (Outcome::Changed(change), _) => tracing::info!(
                group,
                source,
                added = change.added,
                removed = change.removed,
                altered = change.altered,
                "targets discovered"
            ),
            (Outcome::Same { recovered: true }, _) => {
                tracing::info!(group, source, "the source of targets answers again, with the same ones");
            }
            (Outcome::Failed { news: true }, Some(failure)) => tracing::warn!(
                group,
                source,
                kind = failure.kind.name(),
                "no targets discovered, those found before stay in use: {failure}"
            ),
            _ => {}
        }
        if let Some(failure) = partial.filter(|_| was_whole) {
            tracing::warn!(group, source, "a part of the targets stays as it was found before: {failure}");
        }
        if failure.is_none() && left_out != before && left_out != (0, 0) {
            let (over_limit, unusable) = left_out;
            tracing::warn!(group, source, over_limit, unusable, "not all that was discovered can be used");
        }
        let mut wanted = true;
        if let Some(targets) = changed {
            let (done, in_use) = oneshot::channel();
            let ticket = Ticket { found: Arc::clone(&self.found), done };
            let request = Request::Discovered { group: self.group.clone(), targets, ticket };
            wanted = self.requests.send(request).await.is_ok() && in_use.await.is_ok();
        }
        self.found.asked.store(true, Ordering::Relaxed);
        self.directory.asked.notify_waiters();
        wanted
    }
}
