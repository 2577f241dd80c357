//! The listening sockets of one worker, each with a task of its own.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use common::config::Mode;
use lbd_core::udp_sessions::SessionEnd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::batch::Batch;
use super::hub::{Hub, Progress};
use super::readable::Readable;
use crate::worker::Worker;

/// How often a slice of a socket's sessions is looked at: all of them twice a second, so that none ends later than that.
const SWEEP: Duration = Duration::from_millis(50);

/// Batches taken from the queue of a socket that is about to be closed: more than its queue holds.
const LAST_BATCHES_MAX: usize = 1000;

/// What a listening socket is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Serve.
    Serving,
    /// Take no new sessions, and close once the last one has ended.
    Lingering,
    /// Close at once.
    Closed(SessionEnd),
}

/// The listening sockets of a worker.
#[derive(Default)]
pub(crate) struct Listeners {
    /// Opened with the first socket.
    batch: Option<Rc<RefCell<Batch>>>,
    phases: HashMap<SocketAddr, watch::Sender<Phase>>,
}

impl Listeners {
    /// Serves `address`, whose socket this is.
    pub(crate) fn listen(&mut self, worker: &Rc<Worker>, address: SocketAddr, socket: UdpSocket) {
        let Some(route) = worker.route(Mode::Udp, address) else { return };
        let readable = Readable::new().map_err(io::Error::from);
        let registered = readable.and_then(|readable| Ok((register(socket)?, register(readable)?)));
        match registered {
            Ok((socket, readable)) => {
                let batch = Rc::clone(self.batch.get_or_insert_default());
                let hub = Hub::new(Rc::clone(worker), address, route, batch);
                let (phase, phases) = watch::channel(Phase::Serving);
                self.phases.insert(address, phase);
                let counted = Counted::new(worker);
                tokio::task::spawn_local(serve(hub, socket, readable, phases, counted));
            }
            Err(error) => tracing::error!(%address, %error, "cannot use a listening socket for datagrams"),
        }
    }

    /// Closes the socket of `address` once its queue has been read. Its sessions end: there is nowhere to answer from.
    pub(crate) fn close(&mut self, address: SocketAddr) {
        if let Some(phase) = self.phases.remove(&address) {
            phase.send_replace(Phase::Closed(SessionEnd::Unlistened));
        }
    }

    /// Takes no new sessions any more; those there are may go on until they fall silent.
    pub(crate) fn linger_all(&self) {
        for phase in self.phases.values() {
            phase.send_replace(Phase::Lingering);
        }
    }

    /// Ends all sessions.
    pub(crate) fn close_all(&mut self) {
        for (_, phase) in self.phases.drain() {
            phase.send_replace(Phase::Closed(SessionEnd::Stopped));
        }
    }
}

/// Has the runtime tell when `inner` can be read.
fn register<T: OwnsItsDescriptor>(inner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the trait says that it answers the same descriptor for as long as it lives and closes it only then.
    let registered = unsafe { AsyncFd::register_with_interest(inner, Interest::READABLE) };
    registered.map_err(io::Error::from)
}

/// What has one descriptor from its beginning to its end.
///
/// # Safety
///
/// `as_raw_fd` answers the same open descriptor for as long as the value lives.
unsafe trait OwnsItsDescriptor: AsRawFd {}

// SAFETY: a socket of the standard library owns its descriptor, and never changes it.
unsafe impl OwnsItsDescriptor for UdpSocket {}

// SAFETY: it owns its descriptor, and never changes it.
unsafe impl OwnsItsDescriptor for Readable {}

/// Counts a socket as listening until dropped.
struct Counted(Rc<Worker>);

impl Counted {
    fn new(worker: &Rc<Worker>) -> Self {
        worker.shared().counters.listening.add(1);
        Self(Rc::clone(worker))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.shared().counters.listening.subtract_one();
    }
}

/// Serves one listening socket until it is told to close.
async fn serve(
    mut hub: Hub,
    socket: AsyncFd<UdpSocket>,
    readable: AsyncFd<Readable>,
    mut phases: watch::Receiver<Phase>,
    counted: Counted,
) {
    let mut counted = Some(counted);
    // Closed before it is taken out of the count.
    let socket = socket;
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut progress = Progress::Drained;
        tokio::select! {
            changed = phases.changed() => {
                // Without a sender the worker ends.
                let closed = Phase::Closed(SessionEnd::Stopped);
                match if changed.is_ok() { *phases.borrow_and_update() } else { closed } {
                    Phase::Serving => {}
                    Phase::Lingering => {
                        hub.linger();
                        counted = None;
                    }
                    Phase::Closed(end) => return close(&mut hub, &socket, &readable, end),
                }
            }
            // An error says that the runtime ends.
            ready = socket.readable() => {
                let Ok(mut ready) = ready else { return };
                progress = hub.serve_clients(socket.get_ref(), readable.get_ref());
                if progress == Progress::Drained {
                    ready.clear_ready();
                }
            }
            ready = readable.readable() => {
                let Ok(mut ready) = ready else { return };
                progress = hub.serve_targets(socket.get_ref(), readable.get_ref());
                if progress == Progress::Drained {
                    ready.clear_ready();
                }
            }
            _ = sweep.tick(), if !hub.is_empty() => hub.sweep(),
        }
        if counted.is_none() && hub.is_empty() {
            return;
        }
        if progress == Progress::More {
            tokio::task::yield_now().await;
        }
    }
}

/// Reads what is queued, sends the answers that are there, and ends the sessions.
fn close(hub: &mut Hub, socket: &AsyncFd<UdpSocket>, readable: &AsyncFd<Readable>, end: SessionEnd) {
    for _ in 0..LAST_BATCHES_MAX {
        if hub.serve_clients(socket.get_ref(), readable.get_ref()) == Progress::Drained {
            break;
        }
    }
    for _ in 0..LAST_BATCHES_MAX {
        if hub.serve_targets(socket.get_ref(), readable.get_ref()) == Progress::Drained {
            break;
        }
    }
    hub.close(end);
}
