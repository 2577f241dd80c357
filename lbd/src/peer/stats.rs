//! What the link counts and shows. It outlives the link: counters go on when a reload replaces it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::time::UnixTime;

use super::error::{LinkError, Refusal};
use super::session::{End, Pipes};
use crate::clock::unix_now;
use crate::counters::Counter;

/// Counters and state. Only the link's thread writes.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    /// Connections to the peer begun.
    pub(crate) attempts: Counter,
    /// Of these, those that did not become a session.
    pub(crate) failed: ByRefusal,
    /// Connections to this node that did not become a session.
    pub(crate) refused: ByRefusal,
    /// Sessions begun.
    pub(crate) sessions: Counter,
    /// Sessions ended.
    pub(crate) ended: ByEnd,
    /// Messages received.
    pub(crate) messages_in: Counter,
    /// Messages sent.
    pub(crate) messages_out: Counter,
    /// Bytes received within TLS, with the frames' heads.
    pub(crate) bytes_in: Counter,
    /// Bytes sent within TLS, with the frames' heads.
    pub(crate) bytes_out: Counter,
    listening: AtomicBool,
    state: Mutex<State>,
}

/// A counter for each reason.
#[derive(Debug, Default)]
pub(crate) struct ByRefusal([Counter; Refusal::COUNT]);

impl ByRefusal {
    /// The counter of one.
    pub(crate) fn of(&self, why: Refusal) -> &Counter {
        &self.0[why.index()]
    }

    /// All with their names.
    pub(crate) fn each(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Refusal::ALL.iter().map(|&why| (why.name(), self.of(why).get()))
    }
}

/// A counter for each kind of end.
#[derive(Debug, Default)]
pub(crate) struct ByEnd([Counter; End::COUNT]);

impl ByEnd {
    /// The counter of one.
    pub(crate) fn of(&self, end: End) -> &Counter {
        &self.0[end.index()]
    }

    /// All with their names.
    pub(crate) fn each(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        End::ALL.iter().map(|&end| (end.name(), self.of(end).get()))
    }
}

/// What changes as a whole.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// The session, while there is one.
    pub(crate) session: Option<Current>,
    /// Why the own address is not listened on.
    pub(crate) listen_error: Option<String>,
    /// The last connection of this node that did not become a session.
    pub(crate) last_failure: Option<Event>,
    /// The last connection to this node that did not: kept apart, so that a peer that is off does not hide a stranger.
    pub(crate) last_refusal: Option<Event>,
    /// The last end of a session.
    pub(crate) last_end: Option<Event>,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// When.
    pub(crate) at: UnixTime,
    /// What, for operators.
    pub(crate) what: String,
}

impl Event {
    fn now(what: String) -> Self {
        Self { at: unix_now(), what }
    }
}

/// The session as shown.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    /// Since when.
    pub(crate) since: UnixTime,
    /// Whether this node made the connection.
    pub(crate) dialled: bool,
    /// What is queued.
    pub(crate) pipes: Arc<Pipes>,
}

impl Stats {
    /// The state now.
    pub(crate) fn state(&self) -> State {
        self.locked().clone()
    }

    /// Whether the own address is listened on.
    pub(crate) fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Relaxed)
    }

    /// The own address is listened on.
    pub(super) fn listens(&self) {
        self.listening.store(true, Ordering::Relaxed);
        self.locked().listen_error = None;
    }

    /// It is not, for this reason.
    pub(super) fn cannot_listen(&self, error: &LinkError) {
        self.locked().listen_error = Some(error.to_string());
    }

    /// A connection did not become a session; `quiet` if that is only to be counted.
    pub(super) fn refused(&self, error: &LinkError, dialled: bool, quiet: bool) {
        let (why, event) = (error.refusal(), Event::now(error.to_string()));
        let mut state = self.locked();
        let (counters, last) = if dialled {
            (&self.failed, &mut state.last_failure)
        } else {
            (&self.refused, &mut state.last_refusal)
        };
        counters.of(why).add(1);
        if !quiet {
            *last = Some(event);
        }
    }

    /// The link has stopped.
    pub(super) fn stopped(&self) {
        self.listening.store(false, Ordering::Relaxed);
        let mut state = self.locked();
        (state.listen_error, state.session) = (None, None);
    }

    pub(super) fn session_began(&self, dialled: bool, pipes: &Arc<Pipes>) {
        self.sessions.add(1);
        let current = Current { since: unix_now(), dialled, pipes: Arc::clone(pipes) };
        self.locked().session = Some(current);
    }

    pub(super) fn session_ended(&self, end: End, pipes: &Arc<Pipes>) {
        self.ended.of(end).add(1);
        let mut state = self.locked();
        state.last_end = Some(Event::now(end.describe().to_owned()));
        // A newer one may have taken its place.
        if state.session.as_ref().is_some_and(|current| Arc::ptr_eq(&current.pipes, pipes)) {
            state.session = None;
        }
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        // No step leaves it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
