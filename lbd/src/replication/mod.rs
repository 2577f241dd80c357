//! Replication's shell: brings together what `lbd_core::replication` decides, the sessions of [`crate::peer`], and the live tables.
//!
//! It runs on the link's thread, and everything it does there is short: reading what the kernel's program tells of its flows, asking the
//! core, and writing what came from the peer, a frame at a time.

mod clients;
mod counts;
mod driver;
mod flows;
mod ids;
mod rings;
mod said;
mod strangers;
mod tables;
mod view;
mod words;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Notify, mpsc, watch};

use crate::reload::Request;

pub(crate) use driver::drive;
pub(crate) use tables::{Heed, PeerHealth, Wanted};
pub(crate) use view::StateView;
pub(crate) use words::{Memory, Word};

/// What replication shows of itself; nothing while it does not run.
pub(crate) type Shown = Arc<ArcSwapOption<StateView>>;

/// Whom it tells what it has come to, and where it hears of this node's changes.
#[derive(Clone, Debug)]
pub(crate) struct Outlets {
    /// Whoever asks.
    pub(crate) shown: Shown,
    /// Whether this node lacks what the other one has: `vrrpd` then preempts nobody.
    pub(crate) behind: watch::Sender<bool>,
    /// Whether it is to be told at all.
    pub(crate) waits: Arc<AtomicBool>,
    /// What the other node's health checks say.
    pub(crate) health: Arc<ArcSwap<PeerHealth>>,
    /// Who makes the changes of targets that the other node tells of.
    pub(crate) requests: mpsc::Sender<Request>,
    /// What was said of targets, which outlives the link.
    pub(crate) memory: Arc<Memory>,
    /// Rung when something has changed in one of the tables.
    pub(crate) news: Arc<Notify>,
}
