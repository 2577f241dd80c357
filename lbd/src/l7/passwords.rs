//! Comparing passwords: slow on purpose, so done by threads of their own and never by a worker.
//!
//! As many comparisons as wait, and as one client may have waiting, are bounded: whoever guesses passwords keeps these threads busy, and not
//! those whose password was compared before, which is remembered by each worker.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

use common::time::Instant;
use lbd_core::http::auth::basic::{Login, Outcomes};
use lbd_core::sources::SourceCounts;
use tokio::sync::oneshot;

use crate::random;

/// Comparisons that wait, over all workers.
const WAITING_MAX: usize = 64;

/// Of one client, with those under way.
const PER_CLIENT_MAX: u32 = 4;

/// At most so many threads; half of the processors otherwise.
const THREADS_MAX: usize = 4;

thread_local! {
    /// Of this worker.
    static OUTCOMES: RefCell<Outcomes> = RefCell::new(Outcomes::new(random::hash_key().derive(b"tandem password outcomes v1")));
}

/// A comparison to be made.
pub(super) struct Comparison {
    key: [u8; 32],
    password: String,
    hash: String,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compared {
    /// It is the password.
    Equal,
    /// It is another one.
    Different,
    /// Too many wait.
    Busy,
}

/// How comparing a password with a hash ended, if that was done not long ago; else what is to be done.
pub(super) fn known(login: &Login, hash: &str, now: Instant) -> Result<Compared, Comparison> {
    OUTCOMES.with_borrow_mut(|outcomes| {
        let key = outcomes.key_of(login, hash);
        match outcomes.find(&key, now) {
            Some(true) => Ok(Compared::Equal),
            Some(false) => Ok(Compared::Different),
            None => Err(Comparison { key, password: login.password.clone(), hash: hash.to_owned() }),
        }
    })
}

/// Has it done for a client.
pub(super) async fn compare(comparison: Comparison, client: IpAddr, now: Instant) -> Compared {
    let key = comparison.key;
    let Some(outcome) = pool().submit(comparison, client) else { return Compared::Busy };
    // The threads answer everything that they took.
    let Ok(equal) = outcome.await else { return Compared::Busy };
    OUTCOMES.with_borrow_mut(|outcomes| outcomes.enter(key, equal, now));
    if equal { Compared::Equal } else { Compared::Different }
}

struct Job {
    comparison: Comparison,
    reply: oneshot::Sender<bool>,
    turn: Turn,
}

/// A client's place among those that wait, given back when dropped.
struct Turn {
    pool: Arc<Pool>,
    client: IpAddr,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.pool.clients.release(self.client);
    }
}

#[derive(Default)]
struct Pool {
    jobs: Mutex<VecDeque<Job>>,
    come: Condvar,
    clients: SourceCounts,
}

fn pool() -> &'static Arc<Pool> {
    static POOL: OnceLock<Arc<Pool>> = OnceLock::new();
    POOL.get_or_init(|| {
        let pool = Arc::<Pool>::default();
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        for number in 0..(processors / 2).clamp(1, THREADS_MAX) {
            let its = Arc::clone(&pool);
            let thread = std::thread::Builder::new().name(format!("lbd-password-{number}"));
            if let Err(error) = thread.spawn(move || its.work()) {
                tracing::error!(%error, "a thread that compares passwords was not started");
            }
        }
        pool
    })
}

impl Pool {
    /// Queues a comparison; nothing if there is no room for it.
    fn submit(self: &Arc<Self>, comparison: Comparison, client: IpAddr) -> Option<oneshot::Receiver<bool>> {
        if !self.clients.admit(client, PER_CLIENT_MAX) {
            return None;
        }
        let turn = Turn { pool: Arc::clone(self), client };
        let (reply, outcome) = oneshot::channel();
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.len() >= WAITING_MAX {
            return None;
        }
        jobs.push_back(Job { comparison, reply, turn });
        drop(jobs);
        self.come.notify_one();
        Some(outcome)
    }

    fn work(&self) {
        loop {
            let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            let Job { comparison, reply, turn } = loop {
                match jobs.pop_front() {
                    Some(job) => break job,
                    None => jobs = self.come.wait(jobs).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(jobs);
            // Who has left waits for nothing.
            if !reply.is_closed() {
                // The hash was looked at when its file was read: there is none that cannot be compared with.
                let equal = bcrypt::verify(&comparison.password, &comparison.hash).unwrap_or(false);
                reply.send(equal).ok();
            }
            drop(turn);
        }
    }
}
