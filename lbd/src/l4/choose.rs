//! Which target of a group a client gets.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use common::balance::{Balancer, Candidates, Request, Without};
use common::config::Algorithm;
use common::hash::HashKey;
use lbd_core::http::affinity::Claim;

use crate::snapshot::{Group, KnownBy, Target};
use crate::worker::Worker;

/// A target group as one worker uses it; all its services share it.
#[derive(Debug)]
pub(crate) struct Pool {
    /// The group.
    pub(crate) group: Arc<Group>,
    /// This worker's turn among its targets.
    balancer: RefCell<Box<dyn Balancer>>,
    hash_key: HashKey,
}

/// Both ends of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    /// The client.
    pub(crate) client: SocketAddr,
    /// The address it came to.
    pub(crate) local: SocketAddr,
    /// IP's number: 6 TCP, 17 UDP.
    pub(crate) protocol: u8,
}

/// What a request says about its target, beside where it comes from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tie {
    /// What the balancer's cookie says.
    pub(crate) claim: Option<Claim>,
    /// What stands for an application's cookie in the place of an address.
    pub(crate) session: Option<IpAddr>,
    /// The hash of what the group goes by, if that is not the client's address and the request has it.
    pub(crate) hash: Option<u64>,
    /// Whether its head is written for targets of HTTP/2, if it is written already.
    pub(crate) http2: Option<bool>,
}

/// What a group has for a client.
pub(crate) enum Choice {
    /// A place at a target.
    Occupied(Occupied),
    /// Only targets that have as many connections as they may have.
    Full,
    /// No target that may be tried.
    Nobody,
}

/// A place at a target, given back when dropped.
pub(crate) struct Occupied {
    /// The target.
    pub(crate) target: Arc<Target>,
    /// Its group, in which [`Self::index`] is its place.
    pub(crate) pool: Rc<Pool>,
    /// Its place in the group.
    pub(crate) index: usize,
}

/// How often a place that another worker was quicker to take is tried to be had elsewhere.
const RACES_MAX: usize = 16;

impl Pool {
    /// The group for a worker; the seed says with which target it begins.
    pub(crate) fn new(group: &Arc<Group>, hash_key: HashKey, seed: u64) -> Self {
        let balancer = RefCell::new(group.plan.balancer(seed));
        Self { group: Arc::clone(group), balancer, hash_key }
    }

    /// The key of the hashes that choose targets.
    pub(crate) const fn hash_key(&self) -> HashKey {
        self.hash_key
    }

    /// What the group's algorithm wants to know, and no more: hashing is not free.
    fn request(&self, ends: &Ends, tie: &Tie) -> Request {
        match self.group.plan.algorithm() {
            Algorithm::SourceIpHash | Algorithm::ConsistentHash => {
                let source = tie.hash.unwrap_or_else(|| self.hash_key.source(ends.client.ip()));
                Request { source, flow: 0 }
            }
            Algorithm::FlowHash => {
                let flow = self.hash_key.flow(ends.protocol, ends.client, ends.local);
                Request { source: 0, flow }
            }
            _ => Request::default(),
        }
    }

    /// Takes a place at a target if it still has one.
    pub(crate) fn take(self: &Rc<Self>, index: usize) -> Option<Occupied> {
        let target = &self.group.targets[index];
        let occupied = target.open_now.admit(target.max_connections());
        occupied.then(|| Occupied { target: Arc::clone(target), pool: Rc::clone(self), index })
    }

    /// A place where the algorithm says.
    fn pick(self: &Rc<Self>, ends: &Ends, tie: &Tie, tried: &[usize]) -> Choice {
        let group = &*self.group;
        let request = self.request(ends, tie);
        for _ in 0..RACES_MAX {
            let picked = self.balancer.borrow_mut().pick(&request, &Without { all: group, tried });
            let Some(index) = picked else {
                let full = |index: &usize| {
                    let target = &group.targets[*index];
                    !tried.contains(index) && target.share() > 0 && target.is_full()
                };
                return if (0..group.len()).any(|index| full(&index)) {
                    Choice::Full
                } else {
                    Choice::Nobody
                };
            };
            if let Some(occupied) = self.take(index) {
                return Choice::Occupied(occupied);
            }
        }
        Choice::Full
    }
}

/// Takes a place at the target that the client was sent to before, or at one of the algorithm's choice; never at one of
/// those `tried`.
pub(crate) fn occupy(worker: &Worker, pool: &Rc<Pool>, ends: &Ends, tie: &Tie, tried: &[usize]) -> Choice {
    let Some(sticky) = &pool.group.sticky else { return pool.pick(ends, tie, tried) };
    let usable = |&index: &usize| !tried.contains(&index) && pool.group.targets[index].share() > 0;
    // It may only be full: then this connection goes elsewhere, the next ones come back to it.
    let back = |index| pool.take(index).map_or_else(|| pool.pick(ends, tie, tried), Choice::Occupied);
    let key = match &sticky.by {
        KnownBy::Source => ends.client.ip(),
        KnownBy::AppCookie(_) => match tie.session {
            Some(session) => session,
            None => return pool.pick(ends, tie, tried),
        },
        KnownBy::Cookie(seal) => {
            let home = tie.claim.and_then(|claim| seal.index(claim.mark)).filter(usable);
            return home.map_or_else(|| pool.pick(ends, tie, tried), back);
        }
    };
    let now = worker.clock().at();
    let before = sticky.table.find(&key, now);
    let home = before.as_ref().and_then(|id| sticky.index(id)).filter(usable);
    if let Some(index) = home {
        return back(index);
    }
    let picked = match pool.pick(ends, tie, tried) {
        Choice::Occupied(occupied) => occupied,
        other => return other,
    };
    // Anybody can make up any number of cookies: one that no target is known to have given takes nobody's place.
    let may_be_made_up = before.is_none() && matches!(sticky.by, KnownBy::AppCookie(_));
    if may_be_made_up && !sticky.table.has_room(&key) {
        return Choice::Occupied(picked);
    }
    let decided = sticky.table.enter(&key, sticky.id(picked.index), before.as_deref(), now);
    // Another connection of the same client may have been sent elsewhere at this very moment.
    let same = sticky.index(&decided).filter(|index| *index != picked.index).filter(usable);
    Choice::Occupied(same.and_then(|index| pool.take(index)).unwrap_or(picked))
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.target.open_now.release();
        let group = &self.pool.group;
        if group.config.queue.is_some() {
            group.shared.queue.place_free();
        }
    }
}
