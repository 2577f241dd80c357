//! Replication's shell: brings together what `lbd_core::replication` decides, the sessions of [`crate::peer`], and the live tables.
//!
//! It runs on the link's thread, and everything it does there is short: reading what the kernel's program tells of its flows, asking the
//! core, and writing what came from the peer, a frame at a time.

mod driver;
mod flows;
mod view;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

pub(crate) use driver::drive;
pub(crate) use view::StateView;

/// What replication shows of itself; nothing while it does not run.
pub(crate) type Shown = Arc<ArcSwapOption<StateView>>;

/// Whom it tells what it has come to.
#[derive(Debug)]
pub(crate) struct Outlets {
    /// Whoever asks.
    pub(crate) shown: Shown,
    /// Whether this node lacks what the other one has: `vrrpd` then preempts nobody.
    pub(crate) behind: watch::Sender<bool>,
    /// Whether it is to be told at all.
    pub(crate) waits: Arc<AtomicBool>,
}
