//! Spans of requests on their way to a collector: from the workers through a bounded queue to a task of the control runtime, which posts
//! them in batches. Nobody waits for a collector: what there is no room for, and what it does not take, is lost and counted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::config::{Config, HttpEndpoint, Otlp, SampleShare};
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use lbd_core::otlp::{Span, encode, rejected};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{sleep, timeout};

use crate::ask::{Unanswered, ask};

/// Spans that may wait for the task that posts them, of some 2 KiB each at most; more are lost and counted.
const SPANS_MAX: usize = 2048;

/// So many are posted at once.
const BATCH_MAX: usize = 512;

/// How long the first of a batch waits for others. Whoever sends them wakes nobody meanwhile.
const BATCH_WAIT: Duration = Duration::from_secs(1);

/// How often a batch is posted that a collector could not take, and how long is waited before each further try.
const TRIES: u32 = 3;
const TRY_WAIT: Duration = Duration::from_secs(1);

/// How long the end of the daemon waits for a collector.
const FINISH_MAX: Duration = Duration::from_secs(1);

/// The collectors of a configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exporters {
    by_endpoint: HashMap<HttpEndpoint, Arc<Exporter>>,
}

/// The way to one collector.
#[derive(Debug)]
struct Exporter {
    endpoint: HttpEndpoint,
    jobs: mpsc::Sender<Job>,
    /// What the task gets that posts them, until it is started.
    waiting: Mutex<Option<mpsc::Receiver<Job>>>,
    /// The batch is not to wait for more.
    hurry: Arc<Notify>,
    counts: Arc<Counts>,
}

#[derive(Debug)]
enum Job {
    Span(Box<Span>),
    /// Post what came so far, and say so.
    Flush(oneshot::Sender<()>),
}

/// What has become of spans.
#[derive(Debug, Default)]
struct Counts {
    exported: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

/// What a service needs to tell of its requests.
#[derive(Clone, Debug)]
pub(crate) struct Tracer {
    /// Of how many traces it does.
    pub(crate) sample: SampleShare,
    /// What the spans say they are of.
    pub(crate) service_name: Arc<str>,
    exporter: Arc<Exporter>,
}

impl Tracer {
    /// Hands a span over. Never waits.
    pub(crate) fn tell(&self, span: Box<Span>) {
        if self.exporter.jobs.try_send(Job::Span(span)).is_err() {
            self.exporter.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Exporters {
    /// Those that a configuration names; one that `before` has goes on with its counts and what waits.
    pub(crate) fn of(config: &Config, before: &Self) -> Self {
        let wanted = config.services.iter().filter_map(|service| service.http.as_ref()?.otlp.as_ref());
        let exporter = |otlp: &Otlp| {
            let known = before.by_endpoint.get(&otlp.endpoint).map(Arc::clone);
            known.unwrap_or_else(|| Arc::new(Exporter::new(otlp.endpoint.clone())))
        };
        let mut by_endpoint = HashMap::new();
        for otlp in wanted {
            by_endpoint.entry(otlp.endpoint.clone()).or_insert_with(|| exporter(otlp));
        }
        Self { by_endpoint }
    }

    /// Starts the tasks of those that have none yet; to be called on the control runtime. A task ends, when all is posted, after the last
    /// who sends to it.
    pub(crate) fn start(&self) {
        for exporter in self.by_endpoint.values() {
            // It is only ever taken out.
            let waiting = exporter.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(jobs) = waiting {
                let post = Post {
                    endpoint: exporter.endpoint.clone(),
                    hurry: Arc::clone(&exporter.hurry),
                    counts: Arc::clone(&exporter.counts),
                    failing: false,
                };
                tokio::spawn(post.run(jobs));
            }
        }
    }

    /// What a service with this setting needs, which is among those of [`Self::of`].
    pub(crate) fn tracer(&self, otlp: &Otlp) -> Option<Tracer> {
        let exporter = Arc::clone(self.by_endpoint.get(&otlp.endpoint)?);
        Some(Tracer { sample: otlp.sample, service_name: otlp.service_name.as_str().into(), exporter })
    }

    /// Posts what waits, at the end of the daemon.
    pub(crate) async fn finish(&self) {
        let ends = self.by_endpoint.values().filter_map(|exporter| {
            let (done, end) = oneshot::channel();
            match exporter.jobs.try_send(Job::Flush(done)) {
                Ok(()) => exporter.hurry.notify_one(),
                // It is behind by more than would be waited for.
                Err(TrySendError::Full(_) | TrySendError::Closed(_)) => return None,
            }
            Some(end)
        });
        let ends: Vec<oneshot::Receiver<()>> = ends.collect();
        let all = async {
            for end in ends {
                drop(end.await);
            }
        };
        if timeout(FINISH_MAX, all).await.is_err() {
            tracing::warn!("a collector of spans is behind, the last ones are lost");
        }
    }

    /// For each collector what has become of the spans for it.
    pub(crate) fn counts(&self) -> Vec<(String, [(&'static str, u64); 3])> {
        let mut all: Vec<_> = self.by_endpoint.values().map(|exporter| exporter.counts()).collect();
        all.sort();
        all
    }
}

impl Exporter {
    fn new(endpoint: HttpEndpoint) -> Self {
        let (jobs, waiting) = mpsc::channel(SPANS_MAX);
        Self {
            endpoint,
            jobs,
            waiting: Mutex::new(Some(waiting)),
            hurry: Arc::default(),
            counts: Arc::default(),
        }
    }

    fn counts(&self) -> (String, [(&'static str, u64); 3]) {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { exported, failed, dropped } = &*self.counts;
        let counts = [("exported", get(exported)), ("failed", get(failed)), ("dropped", get(dropped))];
        (self.endpoint.to_string(), counts)
    }
}

/// The task's side.
struct Post {
    endpoint: HttpEndpoint,
    hurry: Arc<Notify>,
    counts: Arc<Counts>,
    /// The last batch was not taken, and the log says so.
    failing: bool,
}

impl Post {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut batch = Vec::new();
        let mut waiting = Vec::new();
        while let Some(first) = jobs.recv().await {
            take(first, &mut batch, &mut waiting);
            if waiting.is_empty() {
                tokio::select! {
                    () = sleep(BATCH_WAIT) => {}
                    () = self.hurry.notified() => {}
                }
            }
            loop {
                while batch.len() < BATCH_MAX
                    && let Ok(job) = jobs.try_recv()
                {
                    take(job, &mut batch, &mut waiting);
                }
                if batch.is_empty() {
                    break;
                }
                self.post(&batch).await;
                batch.clear();
            }
            for done in waiting.drain(..) {
                // Whoever asked may have stopped waiting.
                done.send(()).ok();
            }
        }
    }

    async fn post(&mut self, batch: &[Span]) {
        let body = Bytes::from(encode(batch, env!("CARGO_PKG_VERSION")));
        let spans = batch.len() as u64;
        let mut tries = 0;
        let why = loop {
            let HttpEndpoint { authority, path } = &self.endpoint;
            let outcome = Outcome::of(ask(authority, Method::POST, path, body.clone()).await);
            tries += 1;
            match outcome {
                Outcome::Taken { rejected } => {
                    let rejected = rejected.min(spans);
                    self.counts.failed.fetch_add(rejected, Ordering::Relaxed);
                    self.counts.exported.fetch_add(spans - rejected, Ordering::Relaxed);
                    if std::mem::take(&mut self.failing) {
                        tracing::info!(endpoint = %self.endpoint, "the collector takes spans again");
                    }
                    return;
                }
                Outcome::Later(_) if tries < TRIES => sleep(TRY_WAIT * tries).await,
                Outcome::Later(why) | Outcome::Never(why) => break why,
            }
        };
        self.counts.failed.fetch_add(spans, Ordering::Relaxed);
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(endpoint = %self.endpoint, "the collector does not take spans: {why}");
        }
    }
}

fn take(job: Job, batch: &mut Vec<Span>, waiting: &mut Vec<oneshot::Sender<()>>) {
    match job {
        Job::Span(span) => batch.push(*span),
        Job::Flush(done) => waiting.push(done),
    }
}

/// What a collector has done with a batch.
enum Outcome {
    /// Taken it, but for so many.
    Taken { rejected: u64 },
    /// Nothing; it may do so another time.
    Later(String),
    /// Refused it.
    Never(String),
}

impl Outcome {
    /// The OTLP specification, section "Failures": 429, 502, 503 and 504 are worth another try, other statuses are not.
    fn of(answer: Result<(StatusCode, Bytes), Unanswered>) -> Self {
        match answer {
            Ok((status, body)) if status.is_success() => Self::Taken { rejected: rejected(&body) },
            Ok((status, _)) if matches!(status.as_u16(), 429 | 502..=504) => {
                Self::Later(format!("answered {status}"))
            }
            Ok((status, _)) => Self::Never(format!("answered {status}")),
            Err(error) => Self::Later(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_collector_may_take_another_time_is_told_from_what_it_never_will() {
        let of = |status: u16| Outcome::of(Ok((StatusCode::from_u16(status).unwrap(), Bytes::new())));
        assert!(matches!(of(200), Outcome::Taken { rejected: 0 }));
        for status in [429, 502, 503, 504] {
            assert!(matches!(of(status), Outcome::Later(_)), "{status}");
        }
        for status in [400, 404, 413, 500, 501] {
            assert!(matches!(of(status), Outcome::Never(_)), "{status}");
        }
        assert!(matches!(Outcome::of(Err(Unanswered::NotAnsweredInTime)), Outcome::Later(_)));
    }

    #[test]
    fn spans_that_nobody_posts_are_dropped_beyond_the_bound() {
        let endpoint = HttpEndpoint { authority: "127.0.0.1:4318".to_owned(), path: "/".to_owned() };
        let otlp =
            Otlp { endpoint: endpoint.clone(), sample: SampleShare::ALL, service_name: "s".to_owned() };
        let by_endpoint = HashMap::from([(endpoint.clone(), Arc::new(Exporter::new(endpoint)))]);
        let exporters = Exporters { by_endpoint };
        let tracer = exporters.tracer(&otlp).unwrap();
        let span = Span {
            service_name: Arc::clone(&tracer.service_name),
            trace_id: 1,
            span_id: 1,
            parent: None,
            state: String::new(),
            begin: common::time::UnixTime::from_nanos(0),
            end: common::time::UnixTime::from_nanos(0),
            method: "GET".to_owned(),
            scheme: "http",
            version: "1.1",
            host: "a".to_owned(),
            path: "/".to_owned(),
            client: ([127, 0, 0, 1], 9).into(),
            status: 200,
            ended: "done".to_owned(),
            service: "s".to_owned(),
            rule: None,
            group: None,
            target: None,
            tries: 1,
        };
        for _ in 0..SPANS_MAX + 5 {
            tracer.tell(Box::new(span.clone()));
        }
        let counts = [("exported", 0), ("failed", 0), ("dropped", 5)];
        assert_eq!(exporters.counts(), [("http://127.0.0.1:4318/".to_owned(), counts)]);
    }
}
