//! The work of one listening socket: datagrams from clients to targets and back, a batch at a time.
//!
//! What is decided is decided in [`lbd_core::udp_sessions`]; this does the system calls.

use std::cell::RefCell;
use std::hash::RandomState;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;

use common::config::Mode;
use lbd_core::udp_sessions::{DatagramDrop, Decision, Key, SessionEnd, SessionId, Sessions, Standing};
use nix::libc;

use super::batch::{Ask, BATCH, Batch, Parcel, discard_errors};
use super::drops::Drops;
use super::readable::Readable;
use super::session::{QueueDrops, Session, is_unreachable, reach};
use crate::counters::ServiceCounters;
use crate::l4::choose::Ends;
use crate::l4::connect::Way;
use crate::process::is_local;
use crate::snapshot::Target;
use crate::worker::{Route, Worker};

/// IP's number of UDP.
const PROTOCOL: u8 = 17;

/// While the daemon stops, a session ends after so much silence, unless the other node sends on what is for it: an answer that is on its
/// way still arrives.
const LINGER_MS: u64 = 1000;

/// Whether there is more to be done at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing waits any more.
    Drained,
    /// Something may.
    More,
}

/// A listening socket's sessions.
pub(super) struct Hub {
    worker: Rc<Worker>,
    address: SocketAddr,
    /// As last seen. A reload that removes the address leaves it to the datagrams that are still in the queue.
    route: Rc<Route>,
    sessions: Sessions<Session, RandomState>,
    batch: Rc<RefCell<Batch>>,
    /// Sessions whose socket may have more to read although it will not be reported again.
    unfinished: Vec<SessionId>,
    outgoing: Vec<(SessionId, usize)>,
    parcels: Vec<Parcel>,
    /// Slots with answers that are to be delivered.
    filled: usize,
    queue_drops: QueueDrops,
    drops: Drops,
    /// Since when no new sessions are taken, if they are not.
    lingering_ms: Option<u64>,
}

impl Hub {
    pub(super) fn new(
        worker: Rc<Worker>,
        address: SocketAddr,
        route: Rc<Route>,
        batch: Rc<RefCell<Batch>>,
    ) -> Self {
        Self {
            worker,
            address,
            route,
            sessions: Sessions::new(RandomState::new()),
            batch,
            unfinished: Vec::new(),
            outgoing: Vec::with_capacity(BATCH),
            parcels: Vec::with_capacity(BATCH),
            filled: 0,
            queue_drops: QueueDrops::default(),
            drops: Drops::default(),
            lingering_ms: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Takes no new sessions from now on.
    pub(super) fn linger(&mut self) {
        self.lingering_ms.get_or_insert(self.worker.connections.now_ms());
    }

    /// Ends the sessions whose address is here.
    pub(super) fn close_here(&mut self) {
        for session in self.sessions.take_where(|session| !session.is_away()) {
            session.end(SessionEnd::Stopped, true);
        }
    }

    /// Ends all sessions.
    pub(super) fn close(&mut self, end: SessionEnd) {
        for session in self.sessions.drain() {
            session.end(end, end == SessionEnd::Stopped);
        }
    }

    /// Ends the sessions whose time has come, a slice of them at each call.
    pub(super) fn sweep(&mut self) {
        self.look_at_route();
        let idle = self.route.service.config.timeout.idle.as_millis();
        let idle_ms = u64::try_from(idle).unwrap_or(u64::MAX);
        let now_ms = self.worker.connections.now_ms();
        let now = self.worker.clock().at();
        // Not before it is known which virtual IPs have left.
        let hurries = self.lingering_ms.is_some_and(|since_ms| now_ms >= since_ms + LINGER_MS);
        let goes_on = hurries && self.worker.knows_the_other_node();
        // What the other node does not send datagrams for has none to wait for but answers.
        let is_cut = |session: &Session| hurries && !(goes_on && session.is_away());
        self.sessions.sweep(
            now_ms,
            |session| if is_cut(session) { idle_ms.min(LINGER_MS) } else { idle_ms },
            |session| {
                let drained = session.is_drained(now_ms);
                if drained { Standing::Until(now_ms) } else { session.upstream.standing() }
            },
            |session, active_ms| session.go_on(now_ms, active_ms, idle_ms, now),
            |session, end| {
                // Whoever takes over is to know its target still.
                let stays = is_cut(&session) || session.is_drained(now_ms);
                session.end(end, stays);
            },
        );
    }

    /// Receives a batch from clients and sends it on.
    pub(super) fn serve_clients(&mut self, socket: &UdpSocket, readable: &Readable) -> Progress {
        let batch = Rc::clone(&self.batch);
        let mut batch = batch.borrow_mut();
        let count = match batch.receive(socket.as_fd(), 0, BATCH, Ask::Sender) {
            Ok(count) => count,
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    self.worker.shared().counters.accept_errors.add(1);
                    tracing::debug!(address = %self.address, %error, "cannot receive datagrams");
                    // What waits behind the error is not reported again. A host without memory is not asked without pause.
                    if !is_local(&error) {
                        return Progress::More;
                    }
                }
                return Progress::Drained;
            }
        };
        self.look_at_route();
        let now_ms = self.worker.connections.now_ms();
        self.outgoing.clear();
        for slot in 0..count {
            let received = batch.received(slot);
            self.count(DatagramDrop::QueueFull, self.queue_drops.new_ones(received.told.queue_drops));
            let (Some(client), false) = (received.source, received.truncated) else {
                self.count(DatagramDrop::Truncated, 1);
                continue;
            };
            let key = Key { client, local: received.told.local.unwrap_or(self.address.ip()) };
            let decision = self.sessions.receive(&key, now_ms, |session| session.upstream.standing());
            let id = match decision {
                Decision::Forward(id) => Some(id),
                Decision::Move(id) if self.relocate(id, readable) => Some(id),
                Decision::Move(_) => {
                    self.count(DatagramDrop::Refused, 1);
                    None
                }
                Decision::New => self.begin(key, now_ms, readable),
            };
            self.outgoing.extend(id.map(|id| (id, slot)));
        }
        self.pass_on(&mut batch, readable);
        if count < BATCH { Progress::Drained } else { Progress::More }
    }

    /// Receives a batch of answers and sends them to the clients.
    pub(super) fn serve_targets(&mut self, socket: &UdpSocket, readable: &Readable) -> Progress {
        let batch = Rc::clone(&self.batch);
        let mut batch = batch.borrow_mut();
        let mut ids = std::mem::take(&mut self.unfinished);
        let more = readable.take(&mut ids);
        let now_ms = self.worker.connections.now_ms();
        self.parcels.clear();
        self.filled = 0;
        for id in ids.drain(..) {
            if self.filled == BATCH {
                self.deliver(&mut batch, socket);
            }
            self.collect(id, &mut batch, now_ms);
        }
        self.deliver(&mut batch, socket);
        // The list's room is used again.
        if self.unfinished.is_empty() {
            self.unfinished = ids;
        }
        if more || !self.unfinished.is_empty() { Progress::More } else { Progress::Drained }
    }

    /// Receives what waits on a session's socket, as far as there is room.
    fn collect(&mut self, id: SessionId, batch: &mut Batch, now_ms: u64) {
        let Some(session) = self.sessions.get(id) else { return };
        let (key, upstream) = (session.key, &session.value.upstream);
        let (first, room) = (self.filled, BATCH - self.filled);
        match batch.receive(upstream.as_fd(), first, room, Ask::Bytes) {
            Ok(count) => {
                upstream.target().report_success();
                let from = self.address.ip().is_unspecified().then_some(key.local);
                self.filled += count;
                let mut bytes = 0;
                for slot in first..self.filled {
                    let received = batch.received(slot);
                    let lost = upstream.queue_drops.new_ones(received.told.queue_drops);
                    self.count(DatagramDrop::QueueFull, lost);
                    if received.truncated {
                        self.count(DatagramDrop::Truncated, 1);
                    } else {
                        bytes += received.length as u64;
                        self.parcels.push(Parcel { slot, to: Some(key.client), from });
                    }
                }
                session.value.answered(bytes);
                self.sessions.touch(id, now_ms);
                if count == room {
                    self.unfinished.push(id);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if is_unreachable(&error) => {
                self.failed(id, &error);
                // What waits behind the error is not reported again.
                self.unfinished.push(id);
            }
            // The kernel is short of memory, or tells of a path that carries less.
            Err(error) => {
                tracing::debug!(%error, "cannot receive an answer");
                if !is_local(&error) {
                    self.unfinished.push(id);
                }
            }
        }
    }

    /// Sends the collected answers to the clients.
    fn deliver(&mut self, batch: &mut Batch, socket: &UdpSocket) {
        let counters = self.counters();
        let mut rest = &self.parcels[..];
        while !rest.is_empty() {
            let done = match batch.send(socket.as_fd(), rest) {
                Ok(sent) => {
                    let bytes = rest[..sent].iter().map(|parcel| batch.received(parcel.slot).length as u64);
                    counters.udp.datagrams_to_client.add(sent as u64);
                    counters.bytes_to_client.add(bytes.sum());
                    sent
                }
                Err(error) => {
                    tracing::debug!(address = %self.address, %error, "cannot send an answer");
                    let too_big = error.raw_os_error() == Some(libc::EMSGSIZE);
                    self.count(if too_big { DatagramDrop::TooBig } else { DatagramDrop::ToClient }, 1);
                    1
                }
            };
            rest = &rest[done..];
        }
        self.parcels.clear();
        self.filled = 0;
    }

    /// Sends the received datagrams to their sessions' targets.
    fn pass_on(&mut self, batch: &mut Batch, readable: &Readable) {
        let mut outgoing = std::mem::take(&mut self.outgoing);
        // The sort is stable: within a session the order stays.
        outgoing.sort_by_key(|&(id, _)| id);
        for run in outgoing.chunk_by(|left, right| left.0 == right.0) {
            self.pass_on_to_one(run, batch, readable);
        }
        self.outgoing = outgoing;
    }

    fn pass_on_to_one(&mut self, run: &[(SessionId, usize)], batch: &mut Batch, readable: &Readable) {
        let id = run[0].0;
        self.parcels.clear();
        self.parcels.extend(run.iter().map(|&(_, slot)| Parcel { slot, to: None, from: None }));
        let mut first = 0;
        // An error may be about an earlier datagram: then this one was not sent, and is once more.
        let mut tried = false;
        while first < self.parcels.len() {
            let Some(session) = self.sessions.get(id) else {
                self.count(DatagramDrop::Refused, (self.parcels.len() - first) as u64);
                break;
            };
            let error = match batch.send(session.value.upstream.as_fd(), &self.parcels[first..]) {
                Ok(sent) => {
                    let bytes = self.parcels[first..first + sent].iter();
                    let bytes = bytes.map(|parcel| batch.received(parcel.slot).length as u64).sum();
                    session.value.passed_on(bytes);
                    let counters = self.counters();
                    counters.udp.datagrams_to_target.add(sent as u64);
                    counters.bytes_to_target.add(bytes);
                    first += sent;
                    tried = false;
                    continue;
                }
                Err(error) => error,
            };
            let again = !tried && {
                tried = true;
                if is_unreachable(&error) {
                    self.failed(id, &error);
                    self.relocate(id, readable)
                } else {
                    // The kernel has learned how much fits the path and cuts the datagram up from now on.
                    error.raw_os_error() == Some(libc::EMSGSIZE)
                }
            };
            if !again {
                tracing::debug!(address = %self.address, %error, "cannot pass a datagram on");
                let too_big = error.raw_os_error() == Some(libc::EMSGSIZE);
                self.count(if too_big { DatagramDrop::TooBig } else { DatagramDrop::ToTarget }, 1);
                first += 1;
                tried = false;
            }
        }
        self.parcels.clear();
    }

    /// Begins a session, if it is to be; else it has been counted why not.
    fn begin(&mut self, key: Key, now_ms: u64, readable: &Readable) -> Option<SessionId> {
        if self.lingering_ms.is_some() {
            self.count(DatagramDrop::Closing, 1);
            return None;
        }
        let begun = self.try_begin(key, now_ms, readable);
        if begun.is_none() {
            self.count(DatagramDrop::Refused, 1);
        }
        begun
    }

    fn try_begin(&mut self, key: Key, now_ms: u64, readable: &Readable) -> Option<SessionId> {
        let session = Session::begin(&self.worker, &self.route, &self.ends(&key)).ok()?;
        let (id, replaced) = self.sessions.insert(key, session, now_ms);
        debug_assert!(replaced.is_none(), "a session was begun that there is already");
        self.watch(id, readable)?;
        Some(id)
    }

    const fn ends(&self, key: &Key) -> Ends {
        let local = SocketAddr::new(key.local, self.address.port());
        Ends { client: key.client, local, protocol: PROTOCOL }
    }

    /// Has a session's socket reported when it can be read; without that the session ends.
    fn watch(&mut self, id: SessionId, readable: &Readable) -> Option<()> {
        let session = self.sessions.get(id)?;
        if let Err(error) = readable.add(&session.value.upstream, id) {
            tracing::debug!(%error, "cannot watch a session's socket");
            self.counters().udp.socket_errors.add(1);
            self.sessions.remove(id);
            return None;
        }
        Some(())
    }

    /// Finds a session another target. Without one it stays with the old one if that still serves, or else ends.
    fn relocate(&mut self, id: SessionId, readable: &Readable) -> bool {
        let Some(session) = self.sessions.get(id) else { return false };
        let (key, old) = (session.key, Arc::clone(session.value.upstream.target()));
        let reached = reach(
            &session.value.seat,
            &self.route.default,
            &self.ends(&key),
            (Some(&old), None),
            &mut Way::default(),
        );
        let refusal = match reached {
            Ok(upstream) => {
                self.counters().udp.moved.add(1);
                let now = self.worker.clock().at();
                self.sessions.settle(id, |session| session.move_to(upstream, now));
                return self.watch(id, readable).is_some();
            }
            Err(refusal) => refusal,
        };
        let now_ms = self.worker.connections.now_ms();
        let known = self.route.default.group.targets.iter().any(|target| Arc::ptr_eq(target, &old));
        let Some(session) = self.sessions.get(id) else { return false };
        let serves = match session.value.upstream.standing() {
            Standing::Serves => known,
            Standing::Until(end_ms) => known && end_ms > now_ms,
            Standing::Gone => false,
        };
        if serves {
            discard_errors(session.value.upstream.as_fd());
            self.sessions.settle(id, |_| ());
            return true;
        }
        self.route.refuse(&self.worker, refusal);
        if let Some(session) = self.sessions.remove(id) {
            session.end(SessionEnd::NoTarget, false);
        }
        false
    }

    /// A session's target could not be reached: its next datagram goes elsewhere.
    fn failed(&mut self, id: SessionId, error: &io::Error) {
        if let Some(session) = self.sessions.get(id) {
            session.value.upstream.failed(error);
            self.sessions.leave(id);
        }
    }

    /// Takes the route as it is now. Sessions move away from targets that are no longer the service's, and end if the address
    /// belongs to another service.
    fn look_at_route(&mut self) {
        let Some(route) = self.worker.route(Mode::Udp, self.address) else { return };
        if Rc::ptr_eq(&route, &self.route) {
            return;
        }
        if !Arc::ptr_eq(&route.service.shared, &self.route.service.shared) {
            self.close(SessionEnd::Unlistened);
        }
        let targets: std::collections::HashSet<*const Target> =
            route.default.group.targets.iter().map(Arc::as_ptr).collect();
        self.sessions.leave_where(|session| !targets.contains(&Arc::as_ptr(session.upstream.target())));
        self.route = route;
    }

    fn count(&self, reason: DatagramDrop, count: u64) {
        if count > 0 {
            let now_ms = self.worker.connections.now_ms();
            self.drops.count(self.counters(), self.address, now_ms, reason, count);
        }
    }

    fn counters(&self) -> &ServiceCounters {
        self.route.service.shared.counters.of(self.worker.index)
    }
}
