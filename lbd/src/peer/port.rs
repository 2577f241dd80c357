//! Where the driver gets sessions from.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::session::Session;

/// The driver's end of the link. It may be moved to any thread.
#[derive(Debug)]
pub(crate) struct Port(pub(super) Arc<Slot>);

impl Port {
    /// The next session; none once the link has stopped. If one was replaced before it was taken, only the newest is there. May be
    /// cancelled.
    pub(crate) async fn session(&self) -> Option<Session> {
        loop {
            let next = self.0.take();
            if next.is_some() || self.0.closed.load(Ordering::Acquire) {
                return next;
            }
            self.0.changed.notified().await;
        }
    }
}

/// Room for the newest session.
#[derive(Debug, Default)]
pub(super) struct Slot {
    newest: Mutex<Option<Session>>,
    changed: Notify,
    closed: AtomicBool,
}

impl Slot {
    /// Puts a session in, in place of one that was not taken.
    pub(super) fn offer(&self, session: Session) {
        let old = self.newest.lock().unwrap_or_else(PoisonError::into_inner).replace(session);
        self.changed.notify_one();
        drop(old);
    }

    /// There will be no more.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    fn take(&self) -> Option<Session> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
