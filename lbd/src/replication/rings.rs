//! What flows' targets are chosen from, between the kernel's part and the core.

use std::sync::Arc;

use common::time::Instant;
use lbd_core::forward::plan::{Make, OtherRing};
use lbd_core::replication::{Name, NameId, Replica, RingMake, RingOutcome, State};

use super::driver::Driver;
use crate::l4::kernel::RingNews;

/// Tells the core of this node's rings, behind all flows that were begun before.
pub(super) fn tell(driver: &mut Driver, now: Instant) {
    let shared = Arc::clone(&driver.shared);
    let rings = shared.kernel.rings();
    let news = rings.take();
    if news.is_empty() {
        return;
    }
    if let Some(flows) = &mut driver.flows {
        let taken = flows.take_all_news(&mut driver.replica, now);
        driver.note(taken);
    }
    for news in news {
        match news {
            RingNews::Used(make) => {
                if let Some((ring, make)) = named(&mut driver.replica, &make) {
                    driver.replica.ring_used(ring, make);
                }
            }
            RingNews::Next(make, until) => match named(&mut driver.replica, &make) {
                Some((ring, told)) => driver.replica.announce_ring(now, ring, told, until.since(now)),
                None => {
                    rings.set_ready(&make.name, make.hash);
                    shared.kernel.wake();
                }
            },
        }
    }
}

/// A ring for the core; none if there are too many names.
fn named(replica: &mut Replica, make: &Make) -> Option<(NameId, RingMake)> {
    let ring = replica.name(Name::Ring(make.name.as_str().into())).ok()?;
    // A ring's name begins with its group's.
    let group: Arc<str> = make.name.split(' ').next().unwrap_or_default().into();
    let mut members = Vec::with_capacity(make.members.len());
    for (id, weight) in &make.members {
        let target = Name::Target { group: Arc::clone(&group), id: id.as_str().into() };
        members.push((replica.name(target).ok()?, *weight));
    }
    Some((ring, RingMake { hash: make.hash, members }))
}

/// The kernel's part may go on to another ring.
pub(super) fn ready(driver: &Driver, ring: NameId, hash: u64, outcome: RingOutcome) {
    if let Some(Name::Ring(name)) = driver.replica.name_of(ring) {
        tracing::debug!(ring = %name, ?outcome, "another ring may be chosen from");
        driver.shared.kernel.rings().set_ready(name, hash);
        driver.shared.kernel.wake();
    }
}

/// Something has changed in what the other node chooses from.
pub(super) fn of_peer(driver: &Driver, ring: NameId) {
    let replica = &driver.replica;
    let Some(Name::Ring(name)) = replica.name_of(ring) else { return };
    let make = |make: &RingMake| {
        let member = |&(target, weight): &(NameId, u16)| match replica.name_of(target) {
            Some(Name::Target { id, .. }) => (id.to_string(), weight),
            // A place of nobody here.
            _ => (String::new(), weight),
        };
        let members = make.members.iter().map(member).collect();
        Arc::new(Make { name: name.to_string(), hash: make.hash, members })
    };
    let known = replica.peer_ring(ring);
    let known = known
        .map(|known| OtherRing { used: known.used.as_ref().map(make), next: known.next.as_ref().map(make) });
    driver.shared.kernel.rings().set_other(name, known);
    driver.shared.kernel.wake();
}

/// Says whether the other node can be asked before another ring is chosen from, and whether it is heard.
pub(super) fn hear(driver: &Driver, now: Instant) {
    let replica = &driver.replica;
    let is_heard = matches!(replica.state(), State::Syncing | State::Synced);
    if driver.shared.kernel.rings().hear(replica.peer_takes_rings(), is_heard, now) {
        driver.shared.kernel.wake();
    }
}
