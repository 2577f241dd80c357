//! The daemon's link: started, kept, replaced and stopped as the configuration says.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use common::config::{Auth, Config, load_key};
use lbd_core::health::HealthState;
use tokio::sync::{Notify, mpsc, watch};

use super::{Link, LinkError, Settings, Stats, Timing};
use crate::reload::Request;
use crate::replication::{self, Memory, PeerHealth, Shown, StateView};
use crate::shared::Shared;

/// Why there is none, where its thread has failed.
const FAILED: &str =
    "its thread has failed (please report what the log says); a reload of lbd starts it anew";

/// The port that both nodes listen on; the same as that of `vrrpd`'s datagrams.
const PORT: u16 = 7112;

/// The link, whether it runs or not.
#[derive(Debug, Default)]
pub(crate) struct PeerLink {
    state: Mutex<State>,
    stats: Arc<Stats>,
    shown: Shown,
    behind: watch::Sender<bool>,
    waits: Arc<AtomicBool>,
    health: Arc<ArcSwap<PeerHealth>>,
    memory: Arc<Memory>,
    news: Arc<Notify>,
    /// What is known of the targets has changed since replication looked at it.
    pub(crate) groups_changed: AtomicBool,
}

#[derive(Debug)]
enum State {
    Running(Box<Link>),
    /// For this reason.
    Off(String),
}

impl Default for State {
    fn default() -> Self {
        Self::Off("lbd is starting".to_owned())
    }
}

impl PeerLink {
    /// A link that has not begun, which `news` has look at what has changed.
    pub(crate) fn new(news: Arc<Notify>) -> Self {
        Self { news, ..Self::default() }
    }

    /// Has the link as `config` says; one whose settings are the same goes on. Waits for the old one's end, for about 100 ms. What goes
    /// wrong is logged and shown; the daemon serves all the same.
    pub(crate) fn apply(&self, shared: &Arc<Shared>, requests: &mpsc::Sender<Request>) {
        let config = Arc::clone(&shared.snapshot.load().config);
        let mut state = self.locked();
        let waits = waits(&config);
        let wanted = match settings(&config, &shared.life.node) {
            Ok(wanted) => wanted,
            Err(error) => {
                // A configuration without a link is none that failed: what runs is then to end.
                if let LinkError::NotConfigured(why) = error {
                    *state = State::Off(why.to_owned());
                    self.behind.send_replace(false);
                } else if let State::Off(why) = &mut *state {
                    tracing::error!(
                        "there is no link to the other node, so this node counts as behind; mend this and reload lbd: {error}"
                    );
                    *why = error.to_string();
                    // One is wanted: the other node has what nobody tells this one.
                    self.waits.store(waits, Ordering::Relaxed);
                    self.behind.send_replace(waits);
                } else {
                    tracing::error!("the link to the other node stays as it was: {error}");
                }
                return;
            }
        };
        self.waits.store(waits, Ordering::Relaxed);
        if matches!(&*state, State::Running(link) if *link.settings() == wanted && !link.is_over()) {
            return;
        }
        // Ended before the next one begins: its address is to be free, and only one counts.
        *state = State::default();
        self.behind.send_replace(waits);
        let outlets = replication::Outlets {
            shown: Arc::clone(&self.shown),
            behind: self.behind.clone(),
            waits: Arc::clone(&self.waits),
            health: Arc::clone(&self.health),
            requests: requests.clone(),
            memory: Arc::clone(&self.memory),
            news: Arc::clone(&self.news),
        };
        let own = Arc::clone(shared);
        let drive = move |port| replication::drive(port, own, outlets);
        *state = match Link::start(wanted, Arc::clone(&self.stats), drive) {
            Ok(link) => State::Running(Box::new(link)),
            Err(error) => {
                // This node stays behind: nobody tells it what the other one has.
                tracing::error!("{error}");
                State::Off(error.to_string())
            }
        };
    }

    /// Whether the other node has what this one does not know yet, as far as replication goes.
    pub(crate) fn behind(&self) -> watch::Receiver<bool> {
        self.behind.subscribe()
    }

    /// What the other node's checks say of a target; none if it is not connected, or does not say.
    pub(crate) fn health(&self, group: &str, target: &str) -> Option<HealthState> {
        self.health.load().get(group)?.get(target).copied()
    }

    /// Whether the other node is to be told what this one knows. It may then say that it lacks something: also if it has been told everything,
    /// for want of room, or because it does not yet use it.
    pub(crate) fn replicates(&self) -> bool {
        matches!(&*self.locked(), State::Running(_))
    }

    /// Whether this node has everything that the other one has to tell. Not where nothing is replicated.
    pub(crate) fn is_in_step(&self) -> bool {
        self.shown.load().as_ref().is_some_and(|state| state.is_synced())
    }

    /// What was said of targets.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Ends it.
    pub(crate) fn stop(&self) {
        *self.locked() = State::Off("lbd is stopping".to_owned());
    }

    /// What it runs with, or why it does not.
    pub(super) fn settings(&self) -> Result<Settings, String> {
        match &*self.locked() {
            State::Running(link) if link.is_over() => Err(FAILED.to_owned()),
            State::Running(link) => Ok(link.settings().clone()),
            State::Off(why) => Err(why.clone()),
        }
    }

    /// How far replication is; nothing while it does not run.
    pub(super) fn shown(&self) -> Option<Arc<StateView>> {
        self.shown.load_full()
    }

    /// What it has counted since the daemon's start.
    pub(crate) fn stats(&self) -> &Stats {
        &self.stats
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        // Whatever step was the last, the state is one of the two.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the role is to wait for this node to know what the other one has: not with other VRRP software, which has nothing to tell, and is to give
/// it back as it always does. A key that is being rolled out is one between two Tandems.
fn waits(config: &Config) -> bool {
    config.vrrp.iter().any(|vrrp| vrrp.auth != Auth::None)
}

/// What the configuration says of the link.
fn settings(config: &Config, node: &str) -> Result<Settings, LinkError> {
    let (Some(own), Some(peer)) = (config.node(node), config.peer_of(node)) else {
        return Err(LinkError::NotConfigured("the configuration has no second [[node]]"));
    };
    let (Some(own_address), Some(peer_address)) = (own.peer_address, peer.peer_address) else {
        return Err(LinkError::NotConfigured("the [[node]]s have no peer_address"));
    };
    let Some(key) = load_key(&config.pair)? else {
        return Err(LinkError::NotConfigured(
            "[pair] has no key_file, and without a key neither node can know the other",
        ));
    };
    Ok(Settings {
        node: own.name.clone(),
        peer: peer.name.clone(),
        own_address: SocketAddr::new(own_address, PORT),
        peer_address: SocketAddr::new(peer_address, PORT),
        key,
        timing: Timing::default(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::shared::testing;

    /// A pair whose instance has this `auth`, with a key that is not there.
    fn text(auth: &str) -> String {
        format!(
            "[pair]\nkey_file = \"/nonexistent/pair.key\"\n[[node]]\nname = \"a\"\npeer_address = \"198.51.100.1\"\n\
             [[node]]\nname = \"b\"\npeer_address = \"198.51.100.2\"\n\
             [[vrrp]]\nname = \"web\"\ninterface = \"eth0\"\nvrid = 1\npriority = {{ a = 200, b = 100 }}\n\
             vips = [\"192.0.2.10/24\"]\nauth = \"{auth}\"\n"
        )
    }

    #[test]
    fn the_role_waits_for_what_a_tandem_has_and_for_nobody_else() {
        for (auth, expected) in [("none", false), ("permissive", true), ("hmac", true)] {
            let config = common::config::parse(&text(auth), Path::new("pair.toml"));
            let config = config.unwrap_or_else(|errors| panic!("{errors}"));
            assert_eq!(waits(&config), expected, "{auth}");
        }
    }

    #[test]
    fn a_node_that_cannot_read_the_pairs_key_is_behind() {
        for (auth, expected) in [("none", false), ("hmac", true)] {
            let shared = testing::daemon(&text(auth));
            let (requests, _asked) = mpsc::channel(1);
            let behind = shared.peer.behind();
            assert!(!*behind.borrow());
            shared.peer.apply(&shared, &requests);
            assert_eq!(*behind.borrow(), expected, "{auth}");
            let off = shared.peer.settings();
            assert!(off.as_ref().is_err_and(|why| why.contains("/nonexistent/pair.key")), "{off:?}");
        }
    }
}
