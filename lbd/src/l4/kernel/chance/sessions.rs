//! Which node has each session of the UDP proxies, as the program is told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use lbd_core::chance::abi::{SESSION_HERE, SESSION_OTHER, Session};
use lbd_core::forward::abi::{Abi, FlowKey};
use lbd_core::holder::{Holder, Holders};
use lbd_core::replication::Tuple;

use super::super::maps::Table;

/// The program's map of sessions while there is one. All of the process's sessions are told here; those at other addresses than
/// virtual IPs are of no use there, and do no harm.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    table: RwLock<Option<Table<FlowKey, Session>>>,
    refused: AtomicU64,
}

impl Sessions {
    /// From now on the program is told in this map, which is empty: whoever knows of sessions is to tell of them once more.
    pub(super) fn tell(&self, table: Table<FlowKey, Session>) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Some(table);
    }

    /// There is no program any more.
    pub(super) fn forget(&self) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Sessions that the map had no room for.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Holders<Tuple> for Sessions {
    fn holds(&self, tuple: &Tuple, holder: Holder) {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let (Some(table), Some(key)) = (&*table, FlowKey::from_bytes(tuple)) else { return };
        let holder = match holder {
            // It is gone, or was never there.
            Holder::Nobody => return table.delete(&key).unwrap_or_default(),
            Holder::Us => SESSION_HERE,
            Holder::Other => SESSION_OTHER,
        };
        if let Err(error) = table.put(&key, &Session { holder }) {
            tracing::debug!(%error, "a session does not survive a move of its virtual IP");
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }
}
