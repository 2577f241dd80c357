//! Comparing passwords: slow on purpose, so done by threads of their own and never by a worker.
//!
//! Whose turn it is, and how many wait, is decided by [`Turns`]: whoever guesses passwords keeps these threads busy, and neither those whose
//! password was compared before, which each worker remembers and asks the others for, nor for long those who had one lately.

use std::cell::RefCell;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};

use common::time::Instant;
use lbd_core::http::auth::basic::{Login, Outcomes};
use lbd_core::http::auth::turns::{Entered, Turns};
use tokio::sync::oneshot;

use crate::random;

/// At most so many threads; half of the processors otherwise.
const THREADS_MAX: usize = 4;

/// They work with what the workers leave them.
const NICE: i32 = 10;

/// The same for all workers, so that they can tell each other of outcomes.
static KEY: LazyLock<[u8; 32]> = LazyLock::new(|| random::hash_key().derive(b"tandem password outcomes v1"));

thread_local! {
    /// Of this worker.
    static OUTCOMES: RefCell<Outcomes> = RefCell::new(Outcomes::new(*KEY));
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

impl Compared {
    const fn of(equal: bool) -> Self {
        if equal { Self::Equal } else { Self::Different }
    }
}

/// How comparing a password with a hash ended, if that was done not long ago; else what is to be done.
pub(super) fn known(login: &Login, hash: &str, now: Instant) -> Result<Compared, Comparison> {
    OUTCOMES.with_borrow_mut(|outcomes| {
        let key = outcomes.key_of(login, hash);
        outcomes.find(&key, now).map(Compared::of).ok_or_else(|| Comparison {
            key,
            password: login.password.clone(),
            hash: hash.to_owned(),
        })
    })
}

/// Has it done for a client. Whoever drops this does not want it done any more.
pub(super) async fn compare(comparison: Comparison, client: IpAddr, now: Instant) -> Compared {
    let key = comparison.key;
    let outcome = match pool().submit(comparison, client, now) {
        Submitted::Known(equal) => return Compared::of(equal),
        Submitted::Full => return Compared::Busy,
        Submitted::Waits(outcome) => outcome,
    };
    // Without one it had to make room for another client's.
    let Ok(equal) = outcome.await else { return Compared::Busy };
    OUTCOMES.with_borrow_mut(|outcomes| outcomes.enter(key, equal, now));
    if equal {
        pool().lock().turns.succeeded(client, now);
    }
    Compared::of(equal)
}

/// What became of a comparison that is wanted.
enum Submitted {
    /// Another worker has had it made.
    Known(bool),
    /// It is made.
    Waits(oneshot::Receiver<bool>),
    /// There is no room for it.
    Full,
}

/// What is to be compared.
struct Job {
    password: String,
    hash: String,
    /// When it was asked for: its outcome counts from then on.
    at: Instant,
}

struct State {
    turns: Turns<Job, oneshot::Sender<bool>>,
    /// Of all workers.
    outcomes: Outcomes,
}

struct Pool {
    state: Mutex<State>,
    come: Condvar,
}

fn pool() -> &'static Arc<Pool> {
    static POOL: OnceLock<Arc<Pool>> = OnceLock::new();
    POOL.get_or_init(|| {
        let turns = Turns::new(oneshot::Sender::is_closed);
        let state = Mutex::new(State { turns, outcomes: Outcomes::new(*KEY) });
        let pool = Arc::new(Pool { state, come: Condvar::new() });
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
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a comparison made, unless it is known to another worker.
    fn submit(&self, comparison: Comparison, client: IpAddr, now: Instant) -> Submitted {
        let Comparison { key, password, hash } = comparison;
        let mut state = self.lock();
        let known = OUTCOMES.with_borrow_mut(|own| own.take_over(key, &mut state.outcomes, now));
        if let Some(equal) = known {
            if equal {
                state.turns.succeeded(client, now);
            }
            return Submitted::Known(equal);
        }
        let (reply, outcome) = oneshot::channel();
        match state.turns.enter(key, client, Job { password, hash, at: now }, reply, now) {
            Entered::First => {
                drop(state);
                self.come.notify_one();
                Submitted::Waits(outcome)
            }
            Entered::Joined => Submitted::Waits(outcome),
            Entered::Full => Submitted::Full,
        }
    }

    fn work(&self) {
        lower_priority();
        let mut state = self.lock();
        loop {
            let Some((key, job)) = state.turns.begin() else {
                state = self.come.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            // The hash was looked at when its file was read: there is none that cannot be compared with.
            let equal = bcrypt::verify(&job.password, &job.hash).unwrap_or(false);
            state = self.lock();
            state.outcomes.enter(key, equal, job.at);
            let waiters = state.turns.ended(&key);
            drop(state);
            for reply in waiters {
                reply.send(equal).ok();
            }
            state = self.lock();
        }
    }
}

/// Has the calling thread work when others have nothing to do.
fn lower_priority() {
    // SAFETY: no pointer is involved; 0 is the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } != 0 {
        let error = std::io::Error::last_os_error();
        tracing::debug!(%error, "a thread that compares passwords has the priority of the others");
    }
}
