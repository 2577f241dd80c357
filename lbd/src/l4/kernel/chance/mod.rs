//! The second chance of proxied connections: `lbd/bpf/chance.bpf.c` at the interfaces of virtual IPs that are proxied; and where the
//! other node is, to which the forwarding program sends what targets answer to connections that it has begun.
//!
//! A thread of its own, `lbd-chance`, knows what this node owns (from `vrrpd`), which connections the kernel still has at virtual IPs that
//! left, and what the other node's `lbd` says of its own; `lbd_core::chance` makes of it what the program is told. Where the program
//! cannot run, everything else goes on, and the status says why connections do not survive a move.
//!
//! Where the other node is no neighbour, packets take a tunnel (`tunnel`).
//!
//! What is attached is pinned beside the forwarding program's, in a folder of its own. A killed `lbd` leaves it there; it does
//! nothing once [`LEASE`](lbd_core::chance::LEASE) is over.

mod maps;
mod sessions;
mod task;
mod tunnel;
mod view;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use arc_swap::{ArcSwap, ArcSwapOption};
use lbd_core::chance::{Word, plan};
use lbd_core::forward::plan::OtherNode;
use tokio::sync::watch;

use super::KernelError;
use super::attach;
use super::features::Features;
use super::load::{chance_folder, node_folder};
use super::thread::Signal;
use crate::shared::Shared;
use maps::Counted;
pub(crate) use sessions::Sessions;
use task::Task;
pub(crate) use view::{ChanceView, InstanceChanceView};

/// Why it does not run, where its thread has failed.
const FAILED: &str =
    "its thread has failed (please report what the log says); a reload of lbd starts it anew";

/// The second chance, whether it runs or not.
#[derive(Debug, Default)]
pub(crate) struct Chance {
    running: Mutex<Option<Running>>,
    outlets: Outlets,
    heard: Arc<Heard>,
}

/// What the other node says.
#[derive(Debug, Default)]
struct Heard {
    /// Nothing without a connection to it.
    word: ArcSwapOption<Word>,
    /// The one that the thread has seen to.
    heeded: ArcSwapOption<Word>,
    /// Whether its entries are all here.
    in_step: AtomicBool,
    /// How often its process was found to have ended.
    ends: AtomicU64,
}

impl Heard {
    /// Whether the thread has seen to what the other node said last.
    fn is_heeded(&self) -> bool {
        let (word, heeded) = (self.word.load(), self.heeded.load());
        match (&*word, &*heeded) {
            (Some(word), Some(heeded)) => Arc::ptr_eq(word, heeded),
            (Some(_), None) => false,
            (None, _) => true,
        }
    }
}

/// Whom it tells what it has come to.
#[derive(Clone, Debug, Default)]
struct Outlets {
    /// Whoever asks.
    view: Arc<ArcSwapOption<ChanceView>>,
    /// The other node.
    word: watch::Sender<Word>,
    /// The thread of the forwarding program: the other node in the network of each instance.
    others: Arc<ArcSwap<BTreeMap<String, OtherNode>>>,
    /// The workers: whether the other node is known in any network.
    known: Arc<AtomicBool>,
}

impl Outlets {
    /// Nothing is here any more.
    fn say_last_word(&self) {
        self.word.send_modify(|word| *word = std::mem::take(word).last());
    }
}

#[derive(Debug)]
struct Running {
    signal: Arc<Signal>,
    counted: Counted,
    sessions: Arc<Sessions>,
    thread: JoinHandle<()>,
}

impl Running {
    /// Whether its thread has ended by itself.
    fn is_over(&self) -> bool {
        self.thread.is_finished()
    }
}

impl Chance {
    /// Has it run if the configuration in force has anything for it. What goes wrong is shown, and keeps nothing else from running.
    pub(crate) fn apply(&self, shared: &Arc<Shared>) {
        let config = Arc::clone(&shared.snapshot.load().config);
        let wanted = !plan::places(&config, &shared.life.node).is_empty();
        if wanted {
            self.take_failed();
        }
        let runs = self.lock().is_some();
        if wanted && !runs {
            if let Err(error) = self.start(shared) {
                tracing::warn!("proxied connections do not survive a move of their virtual IPs: {error}");
                self.outlets.view.store(Some(Arc::new(ChanceView::off(error.to_string()))));
            }
        } else if !wanted && (runs || folder(&shared.run_dir).is_dir()) {
            // Perhaps it is a former life's.
            self.stop(&shared.run_dir);
        }
        self.wake();
    }

    /// Takes out one whose thread has failed, so that another one can begin. What that one has attached goes on as a former life's does.
    fn take_failed(&self) {
        // Nobody else waits for the thread's end.
        let failed = self.lock().take_if(|running| running.is_over());
        let Some(failed) = failed else { return };
        failed.sessions.forget();
        if failed.thread.join().is_err() {
            tracing::error!(
                "the thread of the second chance had failed; please report it; it is started anew"
            );
        }
    }

    /// Ends it, and takes the program off.
    pub(crate) fn stop(&self, run_dir: &Path) {
        // Nobody else waits for the thread's end.
        let running = self.lock().take();
        if let Some(running) = running {
            running.signal.stop();
            running.sessions.forget();
            if running.thread.join().is_err() {
                tracing::error!("the thread of the second chance had failed; please report it");
            }
        }
        self.outlets.view.store(None);
        self.outlets.say_last_word();
        self.outlets.others.store(Arc::default());
        self.outlets.known.store(false, Ordering::Relaxed);
        if let Err(error) = remove(run_dir) {
            tracing::warn!(%error, "cannot take the program of the second chance off");
        }
    }

    /// Has it look at everything anew. Cheap, and may be called from anywhere.
    pub(crate) fn wake(&self) {
        if let Some(running) = &*self.lock() {
            running.signal.wake();
        }
    }

    /// What this node says to the other one, now and from now on.
    pub(crate) fn word(&self) -> watch::Receiver<Word> {
        self.outlets.word.subscribe()
    }

    /// What the other node says; nothing without a connection to it.
    pub(crate) fn heard(&self, word: Option<&Word>) {
        if self.heard.word.load().as_deref() != word {
            self.heard.word.store(word.cloned().map(Arc::new));
            self.wake();
        }
    }

    /// Whether all entries of the other node's are here, those of sessions of datagrams included. To be said after what it [said](Self::heard).
    pub(crate) fn in_step(&self, in_step: bool) {
        if self.heard.in_step.swap(in_step, Ordering::AcqRel) != in_step {
            self.wake();
        }
    }

    /// The other node's process has ended, without a last word.
    pub(crate) fn other_ended(&self) {
        self.heard(None);
        self.heard.ends.fetch_add(1, Ordering::Release);
        self.wake();
    }

    /// Whether the program has been told of what the other node said last, if it runs at all, and is not the one of a former life any more:
    /// whoever takes virtual IPs before that resets connections that the other node has.
    pub(crate) fn has_heeded(&self) -> bool {
        self.lock().as_ref().is_none_or(Running::is_over) || self.heard.is_heeded()
    }

    /// Where the other node is, by VRRP instance, as far as that is known.
    pub(crate) fn others(&self) -> Arc<BTreeMap<String, OtherNode>> {
        self.outlets.others.load_full()
    }

    /// Whether it runs, and has heard of the other node: connections whose virtual IPs have left may go on.
    pub(crate) fn knows_the_other_node(&self) -> bool {
        self.lock().is_some() && self.outlets.known.load(Ordering::Relaxed)
    }

    /// What it does; none while there is nothing for it.
    pub(crate) fn show(&self) -> Option<ChanceView> {
        let view = self.outlets.view.load_full();
        let running = self.lock();
        let failed = running.as_ref().is_some_and(Running::is_over);
        let mut view = match view {
            Some(view) => ChanceView::clone(&view),
            // It may have failed before it had come to anything.
            None if failed => ChanceView::default(),
            None => return None,
        };
        if failed {
            view.off_because = Some(FAILED.to_owned());
        }
        let packets = running.as_ref().map(|running| running.counted.by_name()).unwrap_or_default();
        let sessions_refused = running.as_ref().map(|running| running.sessions.refused()).unwrap_or_default();
        Some(ChanceView { packets, sessions_refused, ..view })
    }

    fn start(&self, shared: &Arc<Shared>) -> Result<(), KernelError> {
        let features = Features::of_host();
        features.lack()?;
        let signal = Arc::new(Signal::new()?);
        let (task, table, counted) = Task::new(
            Arc::clone(shared),
            Arc::clone(&signal),
            self.outlets.clone(),
            Arc::clone(&self.heard),
            features,
        )?;
        // Before the program is where it sees packets.
        let sessions = Arc::clone(&shared.life.sessions);
        sessions.tell(table);
        shared.snapshot.load().services.iter().for_each(|service| service.shared.sessions.tell_all());
        let built = std::thread::Builder::new().name("lbd-chance".to_owned()).spawn(move || task.run());
        let thread = built.map_err(|source| KernelError::Thread { source })?;
        *self.lock() = Some(Running { signal, counted, sessions, thread });
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        // It is only ever replaced as a whole.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where what is attached is pinned.
fn folder(run_dir: &Path) -> PathBuf {
    chance_folder(&node_folder(run_dir))
}

/// Takes the program off all interfaces. Answers what was removed.
pub(super) fn remove(run_dir: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let folder = folder(run_dir);
    // Before the program on it: nobody else looks at what comes out of it.
    let tunnel = tunnel::remove(run_dir);
    let mut removed = Vec::new();
    for pin in attach::pins(&folder) {
        pin.detach()?;
        removed.push(pin.path);
    }
    removed.extend(tunnel?);
    if folder.is_dir() {
        fs::remove_dir(&folder).map_err(|source| KernelError::Folder { path: folder.clone(), source })?;
        removed.push(folder);
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use lbd_core::chance::Standing;

    use super::super::bpf::Map;
    use super::super::maps::Table;
    use super::*;

    #[test]
    fn the_last_word_says_where_this_node_is() {
        let outlets = Outlets::default();
        let mut said = outlets.word.subscribe();
        let standing = Standing { instance: "web".to_owned(), mac: Some([2; 6]), ..Standing::default() };
        let word = Standing { may_have: true, draining: 7, ..standing.clone() };
        outlets.word.send_replace(Word { instances: vec![word] });
        said.mark_unchanged();
        outlets.say_last_word();
        assert!(said.has_changed().is_ok_and(|changed| changed));
        assert_eq!(said.borrow().instances, [standing]);
    }

    #[test]
    fn a_thread_that_has_failed_is_shown_and_makes_room_for_another_one() {
        let chance = Chance::default();
        assert_eq!(chance.show(), None);
        let begin = |work: fn()| {
            let array = Map::new_array("test", 8, 16).unwrap();
            let counted = Table::of(&mut BTreeMap::from([("chances".to_owned(), array)]), "chances");
            let (signal, counted) = (Arc::new(Signal::new().unwrap()), Counted(counted.unwrap()));
            let thread = std::thread::spawn(work);
            *chance.lock() = Some(Running { signal, counted, sessions: Arc::default(), thread });
        };
        let why = || chance.show().and_then(|view| view.off_because);
        // Until the test ends.
        begin(|| {
            loop {
                std::thread::park();
            }
        });
        chance.take_failed();
        assert!(chance.lock().is_some());
        assert_eq!(why(), None);
        begin(|| panic!("as a test"));
        while !chance.lock().as_ref().is_some_and(Running::is_over) {
            std::thread::yield_now();
        }
        assert_eq!(why().as_deref(), Some(FAILED));
        // What it had shown last is no longer so.
        chance.outlets.view.store(Some(Arc::default()));
        assert_eq!(why().as_deref(), Some(FAILED));
        chance.take_failed();
        assert!(chance.lock().is_none());
        assert_eq!(why(), None);
    }

    #[test]
    fn a_word_is_heeded_once_the_thread_has_seen_to_that_very_one() {
        let heard = Heard::default();
        assert!(heard.is_heeded(), "nothing was said");
        let word = Arc::new(Word::default());
        heard.word.store(Some(Arc::clone(&word)));
        assert!(!heard.is_heeded());
        heard.heeded.store(Some(word));
        assert!(heard.is_heeded());
        heard.word.store(Some(Arc::new(Word::default())));
        assert!(!heard.is_heeded(), "it was said once more, perhaps in another session");
        heard.word.store(None);
        assert!(heard.is_heeded());
    }
}
