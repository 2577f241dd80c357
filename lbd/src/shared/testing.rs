//! A daemon for tests of its parts.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use common::hash::HashKey;
use common::ipc::LbdHealth;
use common::key::PairKey;
use tokio::sync::{Notify, watch};

use super::{ControlCounters, Shared, VrrpdView};
use crate::acme::Acme;
use crate::clock::{Clock, unix_now};
use crate::l4::Departures;
use crate::l4::kernel::{Chance, Kernel};
use crate::peer::PeerLink;
use crate::snapshot::{Carry, Life, Snapshot};

/// A daemon of node `a` with this configuration, in which nothing has been started.
pub(crate) fn daemon(config: &str) -> Arc<Shared> {
    let config = common::config::parse(config, Path::new("test.toml"));
    let config = config.unwrap_or_else(|errors| panic!("{errors}"));
    let (clock, config_hash) = (Clock::new(), config.hash);
    let life = Life {
        node: "a".to_owned(),
        process: 1,
        workers: 1,
        alarm: Arc::default(),
        bell: Arc::default(),
        sessions: Arc::default(),
        ticket_secret: PairKey::new([0; 32]),
    };
    let carry = Carry::nothing(life.clone(), HashKey::new([1; 16]));
    let snapshot = Snapshot::build(Arc::new(config), &carry);
    snapshot.adopt(clock.now());
    Arc::new(Shared {
        clock,
        life,
        config_file: PathBuf::new(),
        run_dir: PathBuf::new(),
        started: unix_now(),
        snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
        removed: Mutex::default(),
        workers: Box::default(),
        health: watch::Sender::new(LbdHealth::default()),
        health_changed: Notify::new(),
        config_hash: watch::Sender::new(config_hash),
        vrrpd: watch::Sender::new(VrrpdView::default()),
        stopping: AtomicBool::new(false),
        control: ControlCounters::default(),
        discovery: Arc::default(),
        kernel: Kernel::default(),
        peer: PeerLink::default(),
        chance: Chance::default(),
        acme: Acme::default(),
        departures: Departures::default(),
    })
}
