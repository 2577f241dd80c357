//! Which answer is in use, and when the source is asked again.

use std::collections::HashMap;

use common::config::{Discover, DiscoverSource, Target};
use common::rng::Rng;
use common::time::{Duration, Instant, Now, UnixTime};

use super::{Answer, Failure, FailureKind};

/// An answer's own life time is kept within these bounds: a source that says 0 is not asked without pause, one that says a
/// year is not believed for that long.
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_secs(3600);

/// Without a word from the source about how long its answer holds.
const TTL_UNKNOWN: Duration = Duration::from_secs(30);

/// After the first failure; it doubles with each further one.
const BACKOFF_MIN: Duration = Duration::from_secs(1);

/// The longest pause after failures, unless `refresh` is shorter.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Consul and etcd without `refresh`.
const POLL_DEFAULT: Duration = Duration::from_secs(10);

/// When a source is asked without being told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Never: only at the start, on reload and over the API.
    OnDemand,
    /// At this interval.
    Every(Duration),
    /// When its last answer, positive or negative, has run out.
    Ttl,
}

impl Pace {
    /// What the configuration says.
    #[must_use]
    pub const fn of(discover: &Discover) -> Self {
        match (&discover.source, discover.refresh) {
            (_, Some(refresh)) => Self::Every(refresh),
            (DiscoverSource::File(_), None) => Self::OnDemand,
            (DiscoverSource::Dns { .. } | DiscoverSource::Srv { .. }, None) => Self::Ttl,
            (DiscoverSource::Consul { .. } | DiscoverSource::Etcd { .. }, None) => Self::Every(POLL_DEFAULT),
        }
    }
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answers taken, those that said the same as before included.
    pub answers: u64,
    /// Answers that changed the list.
    pub changes: u64,
    /// Failures, in the order of [`FailureKind::ALL`].
    pub failures: [u64; FailureKind::COUNT],
    /// Entries left out because they cannot be used, over all answers.
    pub unusable: u64,
    /// Entries left out because there were more than `max_targets`, over all answers.
    pub over_limit: u64,
}

/// The last failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastFailure {
    /// When.
    pub at: UnixTime,
    /// What went wrong.
    pub message: String,
}

/// What there is to show of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Targets of the list in use.
    pub targets: usize,
    /// Entries that the last answer had beyond `max_targets`.
    pub over_limit: u64,
    /// Entries of the last answer that cannot be used.
    pub unusable: u64,
    /// When the source last gave an answer that was taken.
    pub last_success: Option<UnixTime>,
    /// The last failure, also one that is over.
    pub last_failure: Option<LastFailure>,
    /// Since when the source, or a part of it, fails; what is in use of that is what it said before.
    pub stale_since: Option<UnixTime>,
    /// What happened so far.
    pub counts: Counts,
}

/// What a new answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is another list now.
    Changed(Change),
    /// The source says what it said before.
    Same {
        /// It had failed before.
        recovered: bool,
    },
    /// The list stays.
    Failed {
        /// The source worked before, or failed in another way.
        news: bool,
    },
}

/// How two lists differ, by target ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Targets that are new.
    pub added: usize,
    /// Targets that are gone.
    pub removed: usize,
    /// Targets that stay with another address, weight or the like.
    pub altered: usize,
}

/// One source of targets, seen over time.
#[derive(Clone, Debug)]
pub struct Discovery {
    pace: Pace,
    jitter: Rng,
    targets: Vec<Target>,
    failures_in_a_row: u32,
    next: Option<Instant>,
    status: Status,
}

impl Discovery {
    /// A source that has not been asked yet. `carried` is the list in use until it answers: what a former source of the same
    /// group had found. `seed` is for the jitter.
    #[must_use]
    pub fn new(pace: Pace, carried: Vec<Target>, seed: u64) -> Self {
        let status = Status { targets: carried.len(), ..Status::default() };
        Self { pace, jitter: Rng::new(seed), targets: carried, failures_in_a_row: 0, next: None, status }
    }

    /// The list in use: the last good answer.
    #[must_use]
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// What there is to show.
    #[must_use]
    pub const fn status(&self) -> &Status {
        &self.status
    }

    /// When to ask again; none before the first answer, and none for a source that is only asked on demand.
    #[must_use]
    pub const fn next_refresh(&self) -> Option<Instant> {
        self.next
    }

    /// Takes what the source said.
    pub fn answered(&mut self, now: Now, result: Result<Answer, Failure>) -> Outcome {
        match result {
            Ok(answer) if answer.targets.is_empty() => {
                self.failed(now, Failure::empty("the list of targets is empty"))
            }
            Ok(answer) => self.succeeded(now, answer),
            Err(failure) => self.failed(now, failure),
        }
    }

    fn succeeded(&mut self, now: Now, answer: Answer) -> Outcome {
        let recovered = self.failures_in_a_row > 0 && answer.partial.is_none();
        let good_for = self.interval(answer.ttl);
        match answer.partial {
            None => {
                self.failures_in_a_row = 0;
                self.status.stale_since = None;
                self.schedule(now, good_for);
            }
            // What there is is taken, and the rest asked for again as after any failure.
            Some(failure) => {
                let wait = self.backoff().min(good_for);
                self.note_failure(now, failure);
                self.schedule(now, wait);
            }
        }
        let status = &mut self.status;
        status.last_success = Some(now.unix);
        status.targets = answer.targets.len();
        status.unusable = answer.unusable;
        status.over_limit = answer.over_limit;
        status.counts.answers += 1;
        status.counts.unusable += answer.unusable;
        status.counts.over_limit += answer.over_limit;
        if self.targets == answer.targets {
            return Outcome::Same { recovered };
        }
        status.counts.changes += 1;
        let change = Change::between(&self.targets, &answer.targets);
        self.targets = answer.targets;
        Outcome::Changed(change)
    }

    fn failed(&mut self, now: Now, failure: Failure) -> Outcome {
        let known = self.status.last_failure.as_ref().is_some_and(|last| last.message == failure.message);
        let news = self.failures_in_a_row == 0 || !known;
        let backoff = self.backoff();
        // "There is nothing" is an answer, which may say how long it holds; being unable to answer is not.
        let wait = match (failure.kind, self.pace, failure.ttl) {
            (FailureKind::Empty, Pace::Every(_), _) | (FailureKind::Empty, Pace::Ttl, Some(_)) => {
                self.interval(failure.ttl)
            }
            _ => backoff,
        };
        self.schedule(now, wait);
        self.note_failure(now, failure);
        Outcome::Failed { news }
    }

    fn note_failure(&mut self, now: Now, failure: Failure) {
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        let status = &mut self.status;
        status.counts.failures[failure.kind.index()] += 1;
        status.stale_since = status.stale_since.or(Some(now.unix));
        status.last_failure = Some(LastFailure { at: now.unix, message: failure.message });
    }

    /// How long an answer is good for.
    fn interval(&self, ttl: Option<Duration>) -> Duration {
        match self.pace {
            Pace::Every(interval) => interval,
            Pace::OnDemand | Pace::Ttl => ttl.unwrap_or(TTL_UNKNOWN).clamp(TTL_MIN, TTL_MAX),
        }
    }

    /// The pause after one more failure.
    fn backoff(&self) -> Duration {
        let most = match self.pace {
            Pace::Every(interval) => interval.clamp(BACKOFF_MIN, BACKOFF_MAX),
            Pace::OnDemand | Pace::Ttl => BACKOFF_MAX,
        };
        BACKOFF_MIN.saturating_mul(1 << self.failures_in_a_row.min(16)).min(most)
    }

    /// Asks again after `wait`, and up to a tenth later, so that many groups and both nodes don't ask in step.
    fn schedule(&mut self, now: Now, wait: Duration) {
        let late = self.jitter.span(Duration::ZERO, wait / 10);
        self.next = (self.pace != Pace::OnDemand).then_some(now.at + wait + late);
    }
}

impl Change {
    fn between(before: &[Target], after: &[Target]) -> Self {
        let mut old: HashMap<&str, &Target> =
            before.iter().map(|target| (target.id.as_str(), target)).collect();
        let mut change = Self::default();
        for target in after {
            match old.remove(target.id.as_str()) {
                None => change.added += 1,
                Some(old) if old != target => change.altered += 1,
                Some(_) => {}
            }
        }
        change.removed = old.len();
        change
    }
}

#[cfg(test)]
mod tests {
    use super::super::plain;
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn answer(hosts: &[u8], ttl_s: Option<u64>) -> Answer {
        let targets = hosts.iter().map(|host| plain(([10, 0, 0, *host], 80).into())).collect();
        Answer { targets, ttl: ttl_s.map(Duration::from_secs), ..Answer::default() }
    }

    fn at(seconds: u64) -> Now {
        let nanos = seconds * 1_000_000_000;
        Now { at: Instant::from_nanos(nanos), unix: UnixTime::from_nanos(nanos) }
    }

    fn waited(discovery: &Discovery, now: Now) -> Duration {
        discovery.next_refresh().unwrap() - now.at
    }

    fn about(discovery: &Discovery, now: Now, wait: Duration) {
        let waited = waited(discovery, now);
        assert!(waited >= wait && waited <= wait + wait / 10, "{waited:?}, not {wait:?}");
    }

    #[test]
    fn a_list_is_replaced_whole_and_only_by_another_one() {
        let mut discovery = Discovery::new(Pace::Ttl, Vec::new(), 1);
        assert_eq!(
            discovery.answered(at(1), Ok(answer(&[1, 2], Some(5)))),
            Outcome::Changed(Change { added: 2, removed: 0, altered: 0 })
        );
        assert_eq!(
            discovery.answered(at(6), Ok(answer(&[1, 2], Some(5)))),
            Outcome::Same { recovered: false }
        );
        let mut other = answer(&[2, 3], Some(5));
        other.targets[0].weight = 7;
        assert_eq!(
            discovery.answered(at(11), Ok(other)),
            Outcome::Changed(Change { added: 1, removed: 1, altered: 1 })
        );
        assert_eq!(discovery.status().counts.answers, 3);
        assert_eq!(discovery.status().counts.changes, 2);
    }

    #[test]
    fn the_part_that_failed_is_asked_for_again_soon() {
        let mut discovery = Discovery::new(Pace::Ttl, Vec::new(), 1);
        let half = |hosts| {
            let partial = Some(Failure::unreachable("A: time-out"));
            Ok(Answer { partial, ..answer(hosts, Some(3600)) })
        };
        assert!(matches!(discovery.answered(at(1), half(&[1])), Outcome::Changed(_)));
        about(&discovery, at(1), SECOND);
        assert_eq!(discovery.answered(at(2), half(&[1])), Outcome::Same { recovered: false });
        about(&discovery, at(2), 2 * SECOND);
        let status = discovery.status();
        assert_eq!((status.counts.failures, status.stale_since), ([2, 0, 0], Some(at(1).unix)));
        assert_eq!(status.last_failure.as_ref().unwrap().message, "A: time-out");
        assert!(matches!(discovery.answered(at(4), Ok(answer(&[1, 2], Some(3600)))), Outcome::Changed(_)));
        assert_eq!(discovery.status().stale_since, None);
        about(&discovery, at(4), 3600 * SECOND);
    }

    #[test]
    fn failures_keep_the_last_good_list() {
        let mut discovery = Discovery::new(Pace::Ttl, Vec::new(), 1);
        discovery.answered(at(1), Ok(answer(&[1], Some(5))));
        let failed = discovery.answered(at(6), Err(Failure::unreachable("time-out")));
        assert_eq!(failed, Outcome::Failed { news: true });
        let failed = discovery.answered(at(7), Err(Failure::unreachable("time-out")));
        assert_eq!(failed, Outcome::Failed { news: false });
        let failed = discovery.answered(at(8), Ok(answer(&[], None)));
        assert_eq!(failed, Outcome::Failed { news: true });
        assert_eq!(discovery.targets(), answer(&[1], None).targets);
        let status = discovery.status().clone();
        assert_eq!((status.targets, status.stale_since), (1, Some(at(6).unix)));
        assert_eq!(status.counts.failures, [2, 0, 1]);
        assert_eq!(discovery.answered(at(9), Ok(answer(&[1], Some(5)))), Outcome::Same { recovered: true });
        let status = discovery.status();
        assert_eq!((status.stale_since, status.last_success), (None, Some(at(9).unix)));
        assert_eq!(status.last_failure.as_ref().unwrap().message, "the list of targets is empty");
    }

    #[test]
    fn a_former_sources_list_stays_until_the_new_one_answers() {
        let carried = answer(&[1], None).targets;
        let mut discovery = Discovery::new(Pace::OnDemand, carried.clone(), 1);
        discovery.answered(at(1), Err(Failure::invalid("half a file")));
        assert_eq!(discovery.targets(), carried);
        assert!(matches!(discovery.answered(at(2), Ok(answer(&[2], None))), Outcome::Changed(_)));
        assert_eq!(discovery.targets(), answer(&[2], None).targets);
    }

    #[test]
    fn answers_are_asked_for_again_when_they_run_out() {
        let mut discovery = Discovery::new(Pace::Ttl, Vec::new(), 1);
        for (ttl_s, wait_s) in [(Some(0), 1), (Some(7), 7), (Some(1_000_000), 3600), (None, 30)] {
            discovery.answered(at(100), Ok(answer(&[1], ttl_s)));
            about(&discovery, at(100), Duration::from_secs(wait_s));
        }
        let gone = Failure { ttl: Some(120 * SECOND), ..Failure::empty("no such name") };
        discovery.answered(at(100), Err(gone));
        about(&discovery, at(100), 120 * SECOND);
    }

    #[test]
    fn failures_are_tried_again_less_and_less_often() {
        let mut discovery = Discovery::new(Pace::Ttl, Vec::new(), 1);
        for wait_s in [1, 2, 4, 8, 16, 32, 60, 60] {
            discovery.answered(at(100), Err(Failure::unreachable("time-out")));
            about(&discovery, at(100), Duration::from_secs(wait_s));
        }
        discovery.answered(at(100), Ok(answer(&[1], None)));
        discovery.answered(at(100), Err(Failure::unreachable("time-out")));
        about(&discovery, at(100), SECOND);
    }

    #[test]
    fn an_interval_is_kept_and_bounds_the_pauses() {
        let mut discovery = Discovery::new(Pace::Every(3 * SECOND), Vec::new(), 1);
        discovery.answered(at(100), Ok(answer(&[1], Some(900))));
        about(&discovery, at(100), 3 * SECOND);
        for wait_s in [1, 2, 3, 3] {
            discovery.answered(at(100), Err(Failure::unreachable("refused")));
            about(&discovery, at(100), Duration::from_secs(wait_s));
        }
        discovery.answered(at(100), Err(Failure::empty("none passes")));
        about(&discovery, at(100), 3 * SECOND);
    }

    #[test]
    fn on_demand_means_never_by_itself() {
        let mut discovery = Discovery::new(Pace::OnDemand, Vec::new(), 1);
        discovery.answered(at(100), Ok(answer(&[1], Some(1))));
        assert_eq!(discovery.next_refresh(), None);
        discovery.answered(at(100), Err(Failure::unreachable("gone")));
        assert_eq!(discovery.next_refresh(), None);
    }

    proptest! {
        /// Whatever the source does: the list in use is the last good answer, it is stale exactly while the source
        /// fails, and the source is asked again within bounds.
        #[test]
        fn the_last_good_answer_is_in_use(
            steps in proptest::collection::vec((0_u8..4, any::<u8>(), 0_u64..100_000), 1..60), seed: u64
        ) {
            let mut discovery = Discovery::new(Pace::Ttl, Vec::new(), seed);
            let mut good = Vec::new();
            for (second, (kind, host, ttl_s)) in (1..).zip(steps) {
                let ttl = Some(Duration::from_secs(ttl_s));
                let result = match kind {
                    0 => Err(Failure::unreachable("u")),
                    1 => Err(Failure::invalid("i")),
                    2 => Err(Failure { ttl, ..Failure::empty("e") }),
                    _ => Ok(answer(&[host], Some(ttl_s))),
                };
                if let Ok(answer) = &result {
                    good.clone_from(&answer.targets);
                }
                let failed = result.is_err();
                let outcome = discovery.answered(at(second), result);
                prop_assert_eq!(matches!(outcome, Outcome::Failed { .. }), failed);
                prop_assert_eq!(discovery.targets(), &good);
                prop_assert_eq!(discovery.status().stale_since.is_some(), failed);
                let waited = waited(&discovery, at(second));
                prop_assert!(waited >= TTL_MIN && waited <= TTL_MAX + TTL_MAX / 10);
            }
        }
    }
}
