//! Who owns the virtual IPs: the map `instances`, which is `vrrpd`'s to write.
//!
//! `vrrpd` has its descriptor from here, over the link between both, and the number that each instance has in it. From then on it
//! says by itself until when this node owns an instance: what it wrote stands when this process is gone, and ends by itself when
//! `vrrpd` is. Here nothing is written but index 0, which nobody has to own.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use lbd_core::forward::abi::{Instance, KernelClock, OWNED_ALWAYS};
use tokio::sync::watch;

use super::KernelError;
use super::maps::Table;
use super::ticks::Ticks;

/// What `vrrpd` is to have: the map and the instances' numbers in it.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    map: Arc<OwnedFd>,
    /// By name; from 1 on.
    pub(crate) numbers: BTreeMap<String, u32>,
}

impl AsFd for Offer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

/// Where offers go; none while nothing is forwarded.
pub(super) type Offers = watch::Sender<Option<Offer>>;

/// The map.
#[derive(Debug)]
pub(super) struct Instances {
    map: Arc<OwnedFd>,
    ticks: Ticks,
    clock: Mutex<KernelClock>,
}

impl Instances {
    /// Over this map. What a former life left in it stays: flows go on while `lbd` starts again.
    pub(super) fn new(table: Table<u32, Instance>, ticks: Ticks) -> Result<Self, KernelError> {
        table.put(&0, &Instance { until: OWNED_ALWAYS })?;
        let descriptor = table.into_map().as_fd().try_clone_to_owned();
        let map = descriptor
            .map_err(|source| KernelError::Map { action: "keeping the map instances".to_owned(), source })?;
        let clock = ticks.clock().map_err(|source| KernelError::Clock { source })?;
        Ok(Self { map: Arc::new(map), ticks, clock: Mutex::new(clock) })
    }

    /// The program's clock.
    pub(super) fn ticks(&self) -> &Ticks {
        &self.ticks
    }

    /// How the program makes boot time of jiffies: as it was found at first, and anew after the host has slept.
    pub(super) fn clock(&self) -> Result<KernelClock, KernelError> {
        let read = self.ticks.clock().map_err(|source| KernelError::Clock { source })?;
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        *clock = clock.or_after_sleep(read);
        Ok(*clock)
    }

    /// Offers the map with these numbers, if that is not what is offered already.
    pub(super) fn offer(&self, offers: &Offers, numbers: &BTreeMap<String, u32>) {
        offers.send_if_modified(|offer| {
            let same = |known: &Offer| known.numbers == *numbers && Arc::ptr_eq(&known.map, &self.map);
            let changed = !offer.as_ref().is_some_and(same);
            if changed {
                *offer = Some(Offer { map: Arc::clone(&self.map), numbers: numbers.clone() });
            }
            changed
        });
    }
}
