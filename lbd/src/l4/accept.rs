//! Accepting connections on one socket of a worker.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use common::config::Mode;
use socket2::SockRef;
use tokio::sync::oneshot;

use super::admission::Seat;
use super::journal::Journal;
use super::preamble::Complaints;
use super::socket::Socket;
use super::{keep_alive, reset_on_close, tcp};
use crate::executor::yield_now;
use crate::l7;
use crate::worker::{Route, Worker};

/// How long accepting pauses after a failure such as too many open files: doubled up to the maximum as long as it lasts.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// After so many connections accepted the worker's other tasks get their turn: a flood of new connections must neither hold
/// up the open ones nor make the worker look dead.
const PER_TURN: u32 = 32;

/// Connections accepted from the queue of a socket that is about to be closed: as many as it holds. More come only during that.
const LAST_MAX: u32 = 16_384;

/// For so long after a listener got other time-outs there may be connections in its queue that were made before, and have inherited none
/// or the former ones.
const QUEUED_MS: u64 = 5000;

/// Accepts on `listener` until `stop` is sent or dropped, then what has been queued by then. The socket is in the worker's
/// count of listening ones already.
pub(crate) async fn accept_loop(
    worker: Rc<Worker>,
    listener: Socket,
    address: SocketAddr,
    mut stop: oneshot::Receiver<()>,
) {
    let _listening = Listening(&worker);
    // Closed before it is taken out of the count.
    let listener = listener;
    // The route as last seen. A reload that removes the address leaves it to what is still in the queue.
    let Some(mut route) = worker.route(Mode::Tcp, address) else { return };
    set_timeouts(&listener, &route);
    let mut set_ms = worker.clock().now_ms();
    let mut pause = PAUSE_MIN;
    let mut turn = Turn::default();
    let troubles = Complaints::default();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = &mut stop => break,
            accepted = listener.accept(worker.executor.reactor()) => accepted,
        };
        match accepted {
            Ok((client, peer)) => {
                pause = PAUSE_MIN;
                if let Some(current) =
                    worker.route(Mode::Tcp, address).filter(|current| !Rc::ptr_eq(current, &route))
                {
                    route = current;
                    set_timeouts(&listener, &route);
                    set_ms = worker.clock().now_ms();
                }
                if worker.clock().now_ms() < set_ms + QUEUED_MS {
                    set_timeouts(&client, &route);
                }
                admit(&worker, &route, client, peer, address);
                turn.taken().await;
            }
            Err(error) => {
                worker.shared().counters.accept_errors.add(1);
                if concerns_one_connection(&error) {
                    turn.taken().await;
                    continue;
                }
                if let Some(unsaid) = troubles.due(worker.clock().now_ms()) {
                    tracing::warn!(%address, %error, unsaid, "cannot accept connections for now");
                }
                tokio::select! {
                    biased;
                    _ = &mut stop => break,
                    () = worker.executor.sleep(pause) => {}
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
    accept_queued(&worker, &route, &listener, address).await;
}

/// How many connections have been accepted since other tasks had their turn.
#[derive(Debug, Default)]
struct Turn(u32);

impl Turn {
    /// One more has been accepted.
    async fn taken(&mut self) {
        self.0 += 1;
        if self.0 == PER_TURN {
            self.0 = 0;
            yield_now().await;
        }
    }
}

/// Takes the socket out of the worker's count, however the loop ends.
struct Listening<'a>(&'a Worker);

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.shared().counters.listening.subtract_one();
    }
}

/// Accepts what waits in the socket's queue, before the socket is closed and the kernel would reset it.
async fn accept_queued(worker: &Rc<Worker>, route: &Rc<Route>, listener: &Socket, address: SocketAddr) {
    let mut turn = Turn::default();
    for _ in 0..LAST_MAX {
        match listener.try_accept(worker.executor.reactor()) {
            Ok((client, peer)) => admit(worker, route, client, peer, address),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => {
                worker.shared().counters.accept_errors.add(1);
                if !concerns_one_connection(&error) {
                    return;
                }
            }
        }
        turn.taken().await;
    }
}

fn admit(worker: &Rc<Worker>, route: &Rc<Route>, client: Socket, peer: SocketAddr, address: SocketAddr) {
    // Whose connection a trusted proxy brings is not known before its header is there.
    let seat = if route.service.guard.trusts(peer.ip()) {
        Seat::enter(worker, route)
    } else {
        Seat::take(worker, route, peer.ip())
    };
    match seat {
        Ok(seat) if route.http.is_some() => {
            worker.executor.spawn(l7::serve(seat, client, peer, address));
        }
        Ok(seat) => worker.executor.spawn(tcp::serve(seat, client, peer, address)),
        Err(refusal) => {
            reset_on_close(SockRef::from(&client));
            Journal::begin(route, peer, address).refused(route, worker, refusal);
        }
    }
}

/// Gives a socket the service's time-outs; those accepted on it inherit them.
fn set_timeouts(socket: &Socket, route: &Route) {
    let (socket, timeouts) = (SockRef::from(socket), &route.service.config.timeout);
    let set = keep_alive(&socket, timeouts).and_then(|()| socket.set_tcp_user_timeout(timeouts.user));
    if let Err(error) = set {
        tracing::warn!(service = route.service.config.name, %error, "cannot set the time-outs of a socket");
    }
}

/// Whether the error is about the connection that was to be accepted, so that the next one may go well at once.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EINTR
                | libc::EPERM
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
        )
    )
}
