//! Next hops on the ways to clients that the program in the driver has found unknown, as it tells of them in its ring.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{Map, MapData, RingBuf};
use common::time::Instant;
use lbd_core::forward::abi::{Abi, NextHop};
use lbd_core::forward::next_hops::{Neighbour, Turn, Turns};

use super::KernelError;

/// Taken in one go: as many as the ring has room for. Those beyond have come meanwhile, and are there the next time.
const TAKEN_MAX: usize = 2048;

/// The ring's reader: the thread that keeps the kernel's maps.
pub(super) struct NextHops {
    ring: RingBuf<MapData>,
    turns: Turns,
}

impl NextHops {
    /// Of the maps pinned in `folder`.
    pub(super) fn open(folder: &Path) -> Result<Self, KernelError> {
        let path = folder.join("next_hops");
        let failed =
            |source: io::Error| KernelError::Map { action: format!("opening {}", path.display()), source };
        let data = MapData::from_pin(&path).map_err(|error| failed(io::Error::other(error)))?;
        let map = Map::from_map_data(data).map_err(|error| failed(io::Error::other(error)))?;
        let ring = RingBuf::try_from(map).map_err(|error| failed(io::Error::other(error)))?;
        Ok(Self { ring, turns: Turns::new() })
    }

    /// Takes those that the program has told of since the last call; `look_for` is given each whose turn it is, and says whether the kernel
    /// looks for it now.
    pub(super) fn take(
        &mut self,
        now: Instant,
        counts: &Counts,
        mut look_for: impl FnMut(Neighbour) -> bool,
    ) {
        for _ in 0..TAKEN_MAX {
            let Some(item) = self.ring.next() else { return };
            let Some(hop) = NextHop::from_bytes(&item) else { continue };
            let neighbour = (hop.ifindex, hop.address.ip());
            match self.turns.of(neighbour, now) {
                Turn::Now => counts.looked(look_for(neighbour)),
                Turn::Asked => {}
                Turn::Later => {
                    counts.put_off.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

impl AsFd for NextHops {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

/// What has become of next hops since `lbd` was started.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// The kernel was asked to look for them, or after them.
    looked_for: AtomicU64,
    /// There were too many at a time.
    put_off: AtomicU64,
    /// Flows of clients beyond those that are kept.
    pub(super) left_out: AtomicU64,
}

impl Counts {
    /// Counts one that the kernel looks for, if it does.
    pub(super) fn looked(&self, does: bool) {
        self.looked_for.fetch_add(u64::from(does), Ordering::Relaxed);
    }

    /// Looked for, put off, left out.
    pub(super) fn get(&self) -> [u64; 3] {
        [&self.looked_for, &self.put_off, &self.left_out].map(|count| count.load(Ordering::Relaxed))
    }
}
