//! Certificates that are ordered (ACME, RFC 8555): what the rest of the daemon has to do with them.
//!
//! When what is ordered is decided in `lbd_core::acme`. All that takes time is done by the thread `lbd-acme` ([`keeper`]), with a runtime of its
//! own: an authority that does not answer delays nobody, neither a start nor a reload. Workers look at what the authority may ask
//! ([`Acme::answer`]), handshakes at the place of the certificate ([`crate::tls::Slot`]), and replication takes and brings what the nodes tell each
//! other ([`Acme::outbox`], [`Acme::hear`]).

mod https;
mod inbox;
mod keeper;
mod order;
mod store;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use common::time::Instant;
use lbd_core::acme::{Challenge, Challenges, FailureKind, Names, ORDERS_WITHIN, PATH, Told};
use lbd_core::replication::{Note, Notes};
use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;

use inbox::Inbox;

use crate::clock::Clock;
use crate::shared::Shared;

/// What the names of our notes begin with.
const NOTE_PREFIX: &str = "acme/";

/// What is to be answered to the authority.
const CHALLENGES_NOTE: &str = "acme/challenges";

/// How often it is looked whether the thread still runs.
const WATCH_EVERY: Duration = Duration::from_secs(10);

/// So long after its unforeseen end the thread is not started again: a new one does not know what the one before has ordered, and by then the
/// authority counts none of that any more.
const START_AGAIN_AFTER: Duration = ORDERS_WITHIN;

/// The certificates of the running daemon that are ordered.
#[derive(Default)]
pub(crate) struct Acme {
    /// What the authority may ask.
    challenges: ArcSwap<Challenges>,
    /// What the other node has told of, and nobody here has looked at.
    inbox: Mutex<Inbox>,
    /// What the other node is to know.
    outbox: ArcSwap<Notes>,
    /// Counts up with each change of that.
    changes: AtomicU64,
    counts: Counts,
    /// There is something new.
    wake: Notify,
    stop: watch::Sender<bool>,
    thread: Mutex<Thread>,
}

/// The thread `lbd-acme`.
#[derive(Debug, Default)]
struct Thread {
    handle: Option<JoinHandle<()>>,
    /// Not started before that.
    not_before: Instant,
}

/// What has happened since the daemon's start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Orders that were placed.
    pub(crate) placed: AtomicU64,
    /// Certificates that they brought.
    pub(crate) issued: AtomicU64,
    /// What went wrong, by [`FailureKind::index`].
    pub(crate) failures: [AtomicU64; FailureKind::COUNT],
    /// Questions of the authority that were answered.
    pub(crate) answered: AtomicU64,
    /// Certificates taken from the other node.
    pub(crate) received: AtomicU64,
    /// What the other node told that is of no use.
    pub(crate) refused: AtomicU64,
}

impl fmt::Debug for Acme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What there is besides is secret.
        f.debug_struct("Acme").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl Acme {
    /// Has certificates ordered as the configuration in force says. What goes wrong is logged; the daemon serves all the same.
    pub(crate) fn apply(&self, shared: &Arc<Shared>) {
        self.look_after(shared);
        self.wake.notify_one();
    }

    /// Has the thread run if it is to.
    fn look_after(&self, shared: &Arc<Shared>) {
        let is_wanted = shared.snapshot.load().tls.ordered().next().is_some();
        self.keep_running(is_wanted, shared.clock.at(), || {
            let own = Arc::clone(shared);
            let stopped = self.stop.subscribe();
            let thread = std::thread::Builder::new().name("lbd-acme".to_owned());
            thread.spawn(move || keeper::run(own, stopped))
        });
    }

    /// Has `start` start the thread if it is wanted and does not run. One that has ended without having been told to is reported, and started again
    /// after [`START_AGAIN_AFTER`].
    fn keep_running(
        &self,
        is_wanted: bool,
        now: Instant,
        start: impl FnOnce() -> io::Result<JoinHandle<()>>,
    ) {
        if *self.stop.borrow() {
            return;
        }
        let mut thread = lock(&self.thread);
        if thread.handle.as_ref().is_some_and(JoinHandle::is_finished) {
            thread.handle = None;
            thread.not_before = now + START_AGAIN_AFTER;
            self.counts.failures[FailureKind::Local.index()].fetch_add(1, Ordering::Relaxed);
            // What it wanted to be asked is of no use any more.
            drop(self.challenges.rcu(|known| known.with_own(Vec::new())));
            let again_in_seconds = START_AGAIN_AFTER.as_secs();
            tracing::error!(
                again_in_seconds,
                "no certificates are ordered or renewed for now: the thread lbd-acme has ended, which is a defect; those that are there go on \
                 to be shown, and a restart of lbd has it begin at once"
            );
        }
        if !is_wanted || thread.handle.is_some() || now < thread.not_before {
            return;
        }
        match start() {
            Ok(handle) => thread.handle = Some(handle),
            Err(error) => {
                tracing::error!(%error, "no certificates are ordered: there is no thread for it");
            }
        }
    }

    /// Ends the thread; nobody waits for that.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// What is to be answered to a request of this method for a host (in lower case) and path, if that is one of the authority's; else it is
    /// as any other.
    pub(crate) fn answer(&self, method: &str, host: &str, path: &str, clock: Clock) -> Option<String> {
        // Nearly every request is done with here.
        if !path.starts_with(PATH) || !matches!(method, "GET" | "HEAD") {
            return None;
        }
        let answer = self.challenges.load().answer(host, path, clock.at()).map(str::to_owned);
        if answer.is_some() {
            self.counts.answered.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }

    /// What the other node is to know, and how often that has changed.
    pub(crate) fn outbox(&self) -> (u64, Arc<Notes>) {
        let changes = self.changes.load(Ordering::Acquire);
        (changes, self.outbox.load_full())
    }

    /// How often what the other node is to know has changed.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Takes in what the other node says now. Never waits.
    pub(crate) fn hear(&self, note: &Note, now: Instant) {
        // Others are of a later release.
        let Some(stem) = note.name.strip_prefix(NOTE_PREFIX) else { return };
        match Told::decode(&note.bytes) {
            Ok(Told::Challenges(list)) => {
                drop(self.challenges.rcu(|known| known.with_others(list.clone(), now)));
            }
            Ok(Told::Issued(issued)) => {
                let is_whole = Names::is_file_stem(stem) && lock(&self.inbox).put(stem, issued.bundle);
                if !is_whole {
                    self.counts.refused.fetch_add(1, Ordering::Relaxed);
                }
                self.wake.notify_one();
            }
            Err(error) => {
                self.counts.refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(
                    note = note.name,
                    "the other node tells of a certificate what cannot be: {error}"
                );
            }
        }
    }

    /// What has happened since the daemon's start.
    pub(crate) const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// From now on these certificates are wanted, and no others.
    fn want(&self, wanted: &BTreeSet<Names>) {
        lock(&self.inbox).want(wanted);
    }

    /// Takes out the bundles that are wanted.
    fn taken(&self) -> Vec<(Names, String)> {
        lock(&self.inbox).taken()
    }

    /// Puts a bundle back that could not be kept now, if no later one has come meanwhile.
    fn put_back(&self, names: &Names, bundle: String) {
        lock(&self.inbox).put_back(names, bundle);
    }

    /// Has these questions answered on both nodes, instead of those before.
    fn pend(&self, shared: &Shared, challenges: &[Challenge]) {
        drop(self.challenges.rcu(|known| known.with_own(challenges.to_vec())));
        let notes = (**self.outbox.load()).clone();
        self.publish(shared, notes);
    }

    /// Has the other node know this, instead of what was before, and what is answered here.
    fn publish(&self, shared: &Shared, mut notes: Notes) {
        let own = self.challenges.load().own().to_vec();
        match Told::Challenges(own).encode() {
            Ok(bytes) => drop(notes.insert(Arc::from(CHALLENGES_NOTE), Arc::from(bytes))),
            Err(error) => tracing::warn!("the other node is not told what the authority asks: {error}"),
        }
        if **self.outbox.load() == notes {
            return;
        }
        self.outbox.store(Arc::new(notes));
        self.changes.fetch_add(1, Ordering::Release);
        shared.life.bell.ring();
    }
}

/// Looks after the thread for as long as the daemon runs.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut period = tokio::time::interval(WATCH_EVERY);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        period.tick().await;
        shared.acme.look_after(&shared);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change of what is in them is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use common::config::Acme as Settings;
    use lbd_core::acme::{Issued, OTHERS_FOR};

    use super::*;

    const DIRECTORY: &str = "https://ca.example/dir";

    fn names(of: &str) -> Names {
        Names::new(DIRECTORY, [of.to_owned()]).unwrap()
    }

    fn challenges(list: Vec<Challenge>) -> Note {
        Note { name: CHALLENGES_NOTE.to_owned(), bytes: Told::Challenges(list).encode().unwrap() }
    }

    fn issued(names: &Names) -> Note {
        let told = Told::Issued(Issued { names: names.to_vec(), bundle: "bundle".to_owned() });
        Note { name: format!("{NOTE_PREFIX}{}", names.file_stem()), bytes: told.encode().unwrap() }
    }

    #[test]
    fn what_the_other_node_is_asked_is_answered_here() {
        let (acme, clock) = (Acme::default(), Clock::new());
        let path = format!("{PATH}token");
        assert_eq!(acme.answer("GET", "shop.example", &path, clock), None);
        let challenge = Challenge {
            host: "shop.example".to_owned(),
            token: "token".to_owned(),
            answer: "token.hash".to_owned(),
        };
        acme.hear(&challenges(vec![challenge.clone()]), clock.at());
        assert_eq!(acme.answer("GET", "shop.example", &path, clock).as_deref(), Some("token.hash"));
        assert_eq!(acme.answer("HEAD", "shop.example", &path, clock).as_deref(), Some("token.hash"));
        let other = format!("{PATH}other");
        for (method, host, path) in [
            ("POST", "shop.example", path.as_str()),
            ("GET", "other.example", path.as_str()),
            ("GET", "shop.example", "/"),
            ("GET", "shop.example", other.as_str()),
        ] {
            assert_eq!(acme.answer(method, host, path, clock), None, "{method} {host} {path}");
        }
        assert_eq!(acme.counts.answered.load(Ordering::Relaxed), 2);
        acme.hear(&challenges(Vec::new()), clock.at());
        assert_eq!(acme.answer("GET", "shop.example", &path, clock), None);
        // The other node may be gone for good.
        let told = clock.at();
        acme.hear(&challenges(vec![challenge]), told);
        let known = acme.challenges.load();
        assert!(known.answer("shop.example", &path, told).is_some());
        assert_eq!(known.answer("shop.example", &path, told + OTHERS_FOR), None);
    }

    #[test]
    fn what_is_not_wanted_yet_is_kept_and_what_is_too_much_is_counted() {
        let (acme, now) = (Acme::default(), Instant::ZERO);
        let refused = || acme.counts.refused.load(Ordering::Relaxed);
        for number in 0..=Settings::CERTIFICATES_MAX {
            acme.hear(&issued(&names(&format!("{number:03}.example"))), now);
        }
        assert_eq!(refused(), 1);
        let wanted = names("007.example");
        acme.want(&BTreeSet::from([wanted.clone()]));
        assert_eq!(acme.taken(), [(wanted, "bundle".to_owned())]);
        assert!(acme.taken().is_empty());
        acme.hear(&Note { name: "acme/x".to_owned(), bytes: vec![1, 9] }, now);
        assert_eq!(refused(), 2);
        acme.hear(&Note { name: "acme/x".to_owned(), bytes: issued(&names("x")).bytes }, now);
        assert_eq!(refused(), 3, "nothing of ours is called so");
        acme.hear(&Note { name: "another matter".to_owned(), bytes: Vec::new() }, now);
        assert_eq!(refused(), 3);
    }

    #[test]
    fn a_thread_that_has_ended_by_itself_is_reported_and_started_again_when_nothing_of_it_counts() {
        let acme = Acme::default();
        let local = || acme.counts.failures[FailureKind::Local.index()].load(Ordering::Relaxed);
        let starts = AtomicU64::new(0);
        let start = || {
            starts.fetch_add(1, Ordering::Relaxed);
            std::thread::Builder::new().spawn(|| ())
        };
        let at = |seconds: u64| Instant::ZERO + Duration::from_secs(seconds);
        acme.keep_running(false, at(0), start);
        assert_eq!(starts.load(Ordering::Relaxed), 0, "nobody wants it");
        acme.keep_running(true, at(1), start);
        while lock(&acme.thread).handle.as_ref().is_some_and(|thread| !thread.is_finished()) {
            std::thread::yield_now();
        }
        assert_eq!((starts.load(Ordering::Relaxed), local()), (1, 0));
        for seconds in [2, 3, 2 + START_AGAIN_AFTER.as_secs() - 1] {
            acme.keep_running(true, at(seconds), start);
            assert_eq!((starts.load(Ordering::Relaxed), local()), (1, 1));
        }
        acme.keep_running(true, at(2) + START_AGAIN_AFTER, start);
        assert_eq!((starts.load(Ordering::Relaxed), local()), (2, 1));
        // Not when everything comes to its end.
        acme.stop();
        acme.keep_running(true, at(9) + 3 * START_AGAIN_AFTER, start);
        assert_eq!(starts.load(Ordering::Relaxed), 2);
    }
}
