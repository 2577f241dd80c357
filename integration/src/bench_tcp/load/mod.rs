//! The load: clients and their target in one thread, so that it costs less than any proxy and the proxies are the bottleneck.
//!
//! The thread is in the client's namespace; the target's listening socket was made in its own, which the connections
//! accepted from it share. What a client gets is counted, and a run with one byte missing has failed.

mod bulk;
pub(crate) mod crowd;
mod idle;
mod paced;
pub(crate) mod poller;
mod requests;
pub(crate) mod server;
mod short;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};

pub(super) use bulk::bulk;
pub(super) use idle::idle;
pub(super) use paced::paced;
pub(super) use requests::requests;
pub(super) use short::short;

use crate::lab::Result;
use crate::lab::error::{Context, LabError};
use poller::{Poller, Token};

/// What a client sends, and gets back.
const MESSAGE: [u8; 128] = [b'm'; 128];

/// A load that makes no progress for so long has failed.
const STUCK_LIMIT: Duration = Duration::from_secs(10);

/// Where the load goes and what answers it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Site<'a> {
    /// The target's listening socket.
    pub(super) listener: &'a TcpListener,
    /// Where the clients connect.
    pub(super) address: SocketAddr,
}

/// What came of a measured stretch of load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    /// Connections, requests or bytes that went well in it.
    pub(crate) count: u64,
    /// How long it took.
    pub(crate) wall: Duration,
    /// Processor time of the proxy meanwhile.
    pub(crate) processor: Duration,
}

impl Stretch {
    /// How many in a second.
    #[expect(clippy::cast_precision_loss, reason = "counts here stay far below 2^52")]
    pub(crate) fn per_second(&self) -> f64 {
        self.count as f64 / self.wall.as_secs_f64()
    }

    /// Nanoseconds of processor time for each.
    #[expect(clippy::cast_precision_loss, reason = "counts and nanoseconds here stay far below 2^52")]
    pub(crate) fn processor_ns(&self) -> f64 {
        self.processor.as_nanos() as f64 / self.count as f64
    }

    /// The part of a processor that the proxy used.
    pub(crate) fn busy(&self) -> f64 {
        self.processor.as_secs_f64() / self.wall.as_secs_f64()
    }
}

/// How the proxy's processor time is read.
pub(crate) type Meter<'a> = &'a (dyn Fn() -> io::Result<Duration> + Sync);

/// Fails on a machine without a processor for the proxies and another one for the load.
pub(crate) fn need_two_processors() -> Result<()> {
    let processors = thread::available_parallelism().doing(|| "counting the processors".to_owned())?.get();
    if processors >= 2 {
        return Ok(());
    }
    let asked = "a processor for the proxies and one for the load".to_owned();
    Err(LabError::Answer { asked, answer: format!("{processors} processor") })
}

/// Keeps the calling thread and what it starts on one processor.
pub(crate) fn stay_on(processor: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// Begins to connect.
pub(crate) fn connect(poller: &Poller, token: Token, address: SocketAddr) -> io::Result<TcpStream> {
    connect_from(poller, token, None, address)
}

/// The same from an address of this host.
pub(crate) fn connect_from(
    poller: &Poller,
    token: Token,
    source: Option<IpAddr>,
    address: SocketAddr,
) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    if let Some(source) = source {
        // The port is chosen with the connection, so that there are as many for each end.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    let stream = TcpStream::from(socket);
    poller.add(&stream, token, EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET)?;
    Ok(stream)
}

/// `None` where a non-blocking call would have waited.
pub(crate) fn unless_blocked<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "a connection ended before its answer was complete")
}

pub(crate) fn stuck() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer for ten seconds")
}
