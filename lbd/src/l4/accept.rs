//! Accepting connections on one socket of a worker.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
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
    // So many of those that come next were made before, and have inherited other time-outs or none.
    let mut others = set_listener_timeouts(&listener, &route);
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
                    // And this one.
                    others = set_listener_timeouts(&listener, &route).saturating_add(1);
                }
                if others > 0 {
                    others -= 1;
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

/// Gives a listener the service's time-outs, which what it makes from now on inherits. Answers how many connections there are that it
/// has made before: those in its queue.
fn set_listener_timeouts(listener: &Socket, route: &Route) -> u32 {
    set_timeouts(listener, route);
    // More than its queue holds there are not.
    queue_length(listener.as_fd()).unwrap_or(LAST_MAX)
}

/// How many connections wait in a listener's queue. It is said where a connection has what is not acknowledged (`tcp_get_info` in the
/// kernel's `net/ipv4/tcp.c`).
fn queue_length(listener: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let Ok(mut length) = libc::socklen_t::try_from(size_of::<libc::tcp_info>()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // SAFETY: The descriptor is open as long as it is borrowed, and the kernel writes at most `length` bytes, which `info` has room for.
    let result = unsafe {
        libc::getsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: All of it was zeroed, which is a value of each of its fields, and the kernel has written over that.
    Ok(unsafe { info.assume_init() }.tcpi_unacked)
}

/// Gives a socket the service's time-outs.
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

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_waits_in_a_queue_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let clients: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
        // The last acknowledgement of a handshake is on its way when its client is connected.
        while queue_length(listener.as_fd()).unwrap() != 3 {
            std::thread::yield_now();
        }
        let accepted = listener.accept().unwrap();
        assert_eq!(queue_length(listener.as_fd()).unwrap(), 2);
        drop((clients, accepted));
    }
}
