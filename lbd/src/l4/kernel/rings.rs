//! What this node and the other one choose flows' targets from, between the thread that writes it into the kernel and replication, which
//! tells it to the other node.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::time::Instant;
use lbd_core::forward::plan::{Heard, Make, OtherRing};
use lbd_core::replication::RINGS_MAX;
use tokio::sync::Notify;

/// Something to tell the other node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RingNews {
    /// This node is about to choose from this one, no later than at this time.
    Next(Arc<Make>, Instant),
    /// It does; without targets it is gone.
    Used(Arc<Make>),
}

/// The rings of both nodes.
#[derive(Debug, Default)]
pub(crate) struct Rings {
    state: Mutex<State>,
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    own: BTreeMap<String, Own>,
    others: Arc<BTreeMap<String, OtherRing>>,
    /// Replication runs.
    listens: bool,
    /// The other node has what this one has, and can be asked.
    in_step: bool,
    heard: Heard,
}

#[derive(Debug, Default)]
struct Own {
    used: Option<Arc<Make>>,
    /// The other node has not been told of that.
    is_news: bool,
    next: Option<(Arc<Make>, Instant)>,
    /// The hash of one that the other node is ready for, or that nobody waits with any longer.
    ready: Option<u64>,
}

impl Rings {
    /// Has the other node asked about rings that this node is to choose from.
    pub(super) fn ask(&self, makes: Vec<Arc<Make>>, until: Instant) {
        let mut state = self.lock();
        for make in makes {
            let own = state.own.entry(make.name.clone()).or_default();
            (own.next, own.ready) = (Some((make, until)), None);
        }
        drop(state);
        self.news.notify_one();
    }

    /// Has the other node told what this one chooses from now.
    pub(super) fn switched(&self, makes: Vec<Arc<Make>>) {
        if makes.is_empty() {
            return;
        }
        let mut state = self.lock();
        let listens = state.listens;
        for make in makes {
            if make.members.is_empty() && !listens {
                state.own.remove(&make.name);
                continue;
            }
            let own = state.own.entry(make.name.clone()).or_default();
            *own = Own { used: Some(make), is_news: true, ..Own::default() };
        }
        drop(state);
        self.news.notify_one();
    }

    /// Which rings the other node is ready for, by name and hash; none if nobody waits for it.
    pub(super) fn ready(&self) -> Option<BTreeMap<String, u64>> {
        let state = self.lock();
        let ready = state.own.iter().filter_map(|(name, own)| Some((name.clone(), own.ready?)));
        (state.listens && state.in_step).then(|| ready.collect())
    }

    /// What the other node chooses from, and when it was heard last.
    pub(super) fn others(&self) -> (Arc<BTreeMap<String, OtherRing>>, Heard) {
        let state = self.lock();
        (Arc::clone(&state.others), state.heard)
    }

    /// Waits for something to tell. May be cancelled.
    pub(crate) async fn told(&self) {
        self.news.notified().await;
    }

    /// What there is to tell.
    pub(crate) fn take(&self) -> Vec<RingNews> {
        let mut news = Vec::new();
        self.lock().own.retain(|_, own| {
            let used = own.used.as_ref().filter(|_| std::mem::take(&mut own.is_news));
            news.extend(used.cloned().map(RingNews::Used));
            news.extend(own.next.take().map(|(make, until)| RingNews::Next(make, until)));
            own.used.as_ref().is_none_or(|make| !make.members.is_empty())
        });
        news
    }

    /// Replication begins, or begins anew: everything is to be told.
    pub(crate) fn tell_again(&self) {
        let mut state = self.lock();
        state.listens = true;
        // Who waits does so no longer.
        state.in_step = false;
        state.own.values_mut().for_each(|own| own.is_news = own.used.is_some());
        drop(state);
        self.news.notify_one();
    }

    /// Nobody waits with this ring any longer.
    pub(crate) fn set_ready(&self, name: &str, hash: u64) {
        if let Some(own) = self.lock().own.get_mut(name) {
            own.ready = Some(hash);
        }
    }

    /// What the other node chooses from; nothing if one of its rings is gone.
    pub(crate) fn set_other(&self, name: &str, ring: Option<OtherRing>) {
        let mut state = self.lock();
        let others = Arc::make_mut(&mut state.others);
        match ring {
            None => {
                others.remove(name);
            }
            Some(ring) => {
                // Those that it had in former lives only may be any.
                if others.len() >= RINGS_MAX && !others.contains_key(name) {
                    others.pop_first();
                }
                others.insert(name.to_owned(), ring);
            }
        }
    }

    /// Whether the other node can be asked, and is heard at all. True if that is news.
    pub(crate) fn hear(&self, in_step: bool, is_heard: bool, now: Instant) -> bool {
        let mut state = self.lock();
        let heard = match state.heard {
            _ if is_heard => Heard::Now,
            Heard::Now => Heard::Last(now),
            before => before,
        };
        let changed = (state.in_step, state.heard) != (in_step, heard);
        (state.in_step, state.heard) = (in_step, heard);
        changed
    }

    /// Replication has ended.
    pub(crate) fn stopped(&self, now: Instant) {
        self.hear(false, false, now);
        self.lock().listens = false;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change of it is whole in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
