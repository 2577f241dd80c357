//! Certificates that are ordered (ACME, RFC 8555): what the rest of the daemon has to do with them.
//!
//! When what is ordered is decided in `lbd_core::acme`. All that takes time is done by the thread `lbd-acme` ([`keeper`]), with a runtime of its
//! own: an authority that does not answer delays nobody, neither a start nor a reload. Workers look at what the authority may ask
//! ([`Acme::answer`]), handshakes at the place of the certificate ([`crate::tls::Slot`]), and replication takes and brings what the nodes tell each
//! other ([`Acme::outbox`], [`Acme::hear`]).

mod https;
mod keeper;
mod order;
mod store;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use common::config::Acme as Settings;
use lbd_core::acme::{Challenge, Challenges, FailureKind, Names, PATH, Told};
use lbd_core::replication::{Note, Notes};
use tokio::sync::{Notify, watch};

use crate::shared::Shared;

/// What the names of our notes begin with.
const NOTE_PREFIX: &str = "acme/";

/// What is to be answered to the authority.
const CHALLENGES_NOTE: &str = "acme/challenges";

/// The certificates of the running daemon that are ordered.
#[derive(Default)]
pub(crate) struct Acme {
    /// What the authority may ask.
    challenges: ArcSwap<Challenges>,
    /// Bundles that the other node has told of, and that nobody here has looked at.
    inbox: Mutex<BTreeMap<Names, String>>,
    /// What the other node is to know.
    outbox: ArcSwap<Notes>,
    /// Counts up with each change of that.
    changes: AtomicU64,
    counts: Counts,
    /// There is something new.
    wake: Notify,
    stop: watch::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
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
        let mut thread = lock(&self.thread);
        let runs = thread.as_ref().is_some_and(|thread| !thread.is_finished());
        let wanted = shared.snapshot.load().tls.ordered().next().is_some();
        if wanted && !runs {
            let own = Arc::clone(shared);
            let stopped = self.stop.subscribe();
            let started = std::thread::Builder::new()
                .name("lbd-acme".to_owned())
                .spawn(move || keeper::run(own, stopped));
            match started {
                Ok(handle) => *thread = Some(handle),
                Err(error) => {
                    tracing::error!(%error, "no certificates are ordered: there is no thread for it");
                }
            }
        }
        self.wake.notify_one();
    }

    /// Ends the thread; nobody waits for that.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// What is to be answered to a request of this method for a host (in lower case) and path, if that is one of the authority's; else it is
    /// as any other.
    pub(crate) fn answer(&self, method: &str, host: &str, path: &str) -> Option<String> {
        // Nearly every request is done with here.
        if !path.starts_with(PATH) || !matches!(method, "GET" | "HEAD") {
            return None;
        }
        let answer = self.challenges.load().answer(host, path).map(str::to_owned);
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

    /// Takes in what the other node says. Never waits.
    pub(crate) fn hear(&self, note: &Note) {
        if !note.name.starts_with(NOTE_PREFIX) {
            // Of a later release.
            return;
        }
        match Told::decode(&note.bytes) {
            Ok(Told::Challenges(list)) => {
                drop(self.challenges.rcu(|known| known.with_others(list.clone())));
            }
            Ok(Told::Issued(issued)) => {
                let Some(names) = Names::new(issued.names) else { return };
                let mut inbox = lock(&self.inbox);
                // What this node does not want yet it may want after the next reload.
                if inbox.len() < Settings::CERTIFICATES_MAX || inbox.contains_key(&names) {
                    inbox.insert(names, issued.bundle);
                    self.wake.notify_one();
                } else {
                    self.counts.refused.fetch_add(1, Ordering::Relaxed);
                }
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

    /// Takes out the bundles that are wanted.
    fn taken(&self, is_wanted: impl Fn(&Names) -> bool) -> Vec<(Names, String)> {
        let mut inbox = lock(&self.inbox);
        let wanted: Vec<Names> = inbox.keys().filter(|names| is_wanted(names)).cloned().collect();
        wanted.into_iter().filter_map(|names| inbox.remove_entry(&names)).collect()
    }

    /// Has these questions answered, instead of those before.
    fn pend(&self, challenges: &[Challenge]) {
        drop(self.challenges.rcu(|known| known.with_own(challenges.to_vec())));
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change of what is in them is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use lbd_core::acme::Issued;

    use super::*;

    fn note(told: &Told) -> Note {
        Note { name: "acme/x".to_owned(), bytes: told.encode().unwrap() }
    }

    fn issued(name: &str) -> Told {
        Told::Issued(Issued { names: vec![name.to_owned()], bundle: "bundle".to_owned() })
    }

    #[test]
    fn what_the_other_node_is_asked_is_answered_here() {
        let acme = Acme::default();
        let path = format!("{PATH}token");
        assert_eq!(acme.answer("GET", "shop.example", &path), None);
        let challenge = Challenge {
            host: "shop.example".to_owned(),
            token: "token".to_owned(),
            answer: "token.hash".to_owned(),
        };
        acme.hear(&note(&Told::Challenges(vec![challenge])));
        assert_eq!(acme.answer("GET", "shop.example", &path).as_deref(), Some("token.hash"));
        assert_eq!(acme.answer("HEAD", "shop.example", &path).as_deref(), Some("token.hash"));
        let other = format!("{PATH}other");
        for (method, host, path) in [
            ("POST", "shop.example", path.as_str()),
            ("GET", "other.example", path.as_str()),
            ("GET", "shop.example", "/"),
            ("GET", "shop.example", other.as_str()),
        ] {
            assert_eq!(acme.answer(method, host, path), None, "{method} {host} {path}");
        }
        assert_eq!(acme.counts.answered.load(Ordering::Relaxed), 2);
        acme.hear(&note(&Told::Challenges(Vec::new())));
        assert_eq!(acme.answer("GET", "shop.example", &path), None);
    }

    #[test]
    fn what_is_not_wanted_yet_is_kept_and_what_is_too_much_is_counted() {
        let acme = Acme::default();
        for number in 0..=Settings::CERTIFICATES_MAX {
            acme.hear(&note(&issued(&format!("{number:03}.example"))));
        }
        assert_eq!(acme.counts.refused.load(Ordering::Relaxed), 1);
        let wanted = Names::new(["007.example".to_owned()]).unwrap();
        assert_eq!(acme.taken(|names| *names == wanted), [(wanted.clone(), "bundle".to_owned())]);
        assert!(acme.taken(|names| *names == wanted).is_empty());
        acme.hear(&Note { name: "acme/x".to_owned(), bytes: vec![1, 9] });
        assert_eq!(acme.counts.refused.load(Ordering::Relaxed), 2);
        acme.hear(&Note { name: "another matter".to_owned(), bytes: Vec::new() });
        assert_eq!(acme.counts.refused.load(Ordering::Relaxed), 2);
    }
}
