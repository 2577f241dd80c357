//! The listening sockets of one worker, each with a task of its own.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use common::config::Mode;
use lbd_core::udp_sessions::SessionEnd;
use tokio::sync::watch;

use super::batch::Batch;
use super::hub::{Hub, Progress};
use super::readable::Readable;
use crate::executor::{Interest, Ready, Registration, yield_now};
use crate::l4::Closing;
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
    /// The same, and end those whose address is here.
    Leaving,
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
        let registered = readable
            .and_then(|readable| Ok((Watched::new(worker, socket)?, Watched::new(worker, readable)?)));
        match registered {
            Ok((socket, readable)) => {
                let batch = Rc::clone(self.batch.get_or_insert_default());
                let hub = Hub::new(Rc::clone(worker), address, route, batch);
                let (phase, phases) = watch::channel(Phase::Serving);
                self.phases.insert(address, phase);
                let counted = Counted::new(worker);
                worker.executor.spawn(serve(Rc::clone(worker), hub, socket, readable, phases, counted));
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

    /// Ends sessions, and takes no new ones any more.
    pub(crate) fn stop(&mut self, closing: Closing) {
        match closing {
            Closing::Here => {
                for phase in self.phases.values() {
                    phase.send_replace(Phase::Leaving);
                }
            }
            Closing::All => {
                for (_, phase) in self.phases.drain() {
                    phase.send_replace(Phase::Closed(SessionEnd::Stopped));
                }
            }
        }
    }
}

/// What can be read now and then.
struct Watched<T> {
    registration: Registration,
    inner: T,
}

impl<T: AsFd> Watched<T> {
    fn new(worker: &Worker, inner: T) -> io::Result<Self> {
        Ok(Self { registration: worker.executor.reactor().enter(inner.as_fd(), Interest::Reading)?, inner })
    }

    /// Waits until there may be something to read.
    async fn readable(&self) {
        poll_fn(|context| self.registration.poll(context, Ready::READABLE)).await;
    }

    /// Nothing is left to be read until the kernel says so again.
    fn drained(&self) {
        self.registration.forget(Ready::READABLE);
    }
}

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
    worker: Rc<Worker>,
    mut hub: Hub,
    socket: Watched<UdpSocket>,
    readable: Watched<Readable>,
    mut phases: watch::Receiver<Phase>,
    counted: Counted,
) {
    let mut counted = Some(counted);
    // Closed before it is taken out of the count.
    let socket = socket;
    let mut sweep = worker.executor.sleep(SWEEP);
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
                    Phase::Leaving => {
                        hub.linger();
                        hub.close_here();
                        counted = None;
                    }
                    Phase::Closed(end) => return close(&mut hub, &socket.inner, &readable.inner, end),
                }
            }
            () = socket.readable() => {
                progress = hub.serve_clients(&socket.inner, &readable.inner);
                if progress == Progress::Drained {
                    socket.drained();
                }
            }
            () = readable.readable() => {
                progress = hub.serve_targets(&socket.inner, &readable.inner);
                if progress == Progress::Drained {
                    readable.drained();
                }
            }
            () = &mut sweep, if !hub.is_empty() => {
                hub.sweep();
                sweep = worker.executor.sleep(SWEEP);
            }
        }
        if counted.is_none() && hub.is_empty() {
            return;
        }
        if progress == Progress::More {
            yield_now().await;
        }
    }
}

/// Reads what is queued, sends the answers that are there, and ends the sessions.
fn close(hub: &mut Hub, socket: &UdpSocket, readable: &Readable, end: SessionEnd) {
    for _ in 0..LAST_BATCHES_MAX {
        if hub.serve_clients(socket, readable) == Progress::Drained {
            break;
        }
    }
    for _ in 0..LAST_BATCHES_MAX {
        if hub.serve_targets(socket, readable) == Progress::Drained {
            break;
        }
    }
    hub.close(end);
}
