//! Accepting connections, with a limit on everything a client can hold on to.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::stat::{Mode, umask};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};

use super::{Api, Origin, router};

/// Connections at the same time on one socket; more are closed at once and counted.
pub const CONNECTIONS_MAX: usize = 64;

/// The longest wait for the head of a request, the first or a further one.
const HEADER_TIME_MAX: Duration = Duration::from_secs(5);

/// A client that takes nothing of an answer for so long is disconnected.
const WRITE_TIME_MAX: Duration = Duration::from_secs(10);

/// The largest head of a request, and the read buffer of a connection, in bytes.
const BUFFER_MAX: usize = 16 * 1024;

/// Why the daemon cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The port of the API.
    #[error("the API cannot listen on {address}: {source}; free the port or change vrrpd in [api]")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// What failed.
        source: io::Error,
    },
    /// Somebody answers on the socket.
    #[error("another vrrpd is running with this run directory: it answers on {}; stop it, or give this one another --run-dir", .0.display())]
    Running(std::path::PathBuf),
    /// The path is taken by something else.
    #[error("cannot listen on {}: a file that is no socket is in the way, remove it", .0.display())]
    InTheWay(std::path::PathBuf),
    /// The socket cannot be made.
    #[error("cannot listen on {}: {source}; is the run directory writable?", path.display())]
    Unix {
        /// The path.
        path: std::path::PathBuf,
        /// What failed.
        source: io::Error,
    },
}

/// Listens on the API's TCP address.
///
/// # Errors
///
/// When the address is taken or not this host's.
pub fn listen_tcp(address: SocketAddr) -> Result<std::net::TcpListener, ListenError> {
    let tcp = |source| ListenError::Tcp { address, source };
    // The standard library sets SO_REUSEADDR, so that a restart need not wait for old connections.
    let listener = std::net::TcpListener::bind(address).map_err(tcp)?;
    listener.set_nonblocking(true).map_err(tcp)?;
    Ok(listener)
}

/// A Unix socket that is removed when this is dropped.
#[derive(Debug)]
pub struct UnixSocket {
    path: std::path::PathBuf,
    /// Device and inode: a socket that a successor has put there is not removed.
    identity: (u64, u64),
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Listens on a Unix socket that only its owner can use. A socket on which nobody answers is replaced.
///
/// # Errors
///
/// When somebody answers, or the socket cannot be made.
pub fn listen_unix(path: &Path) -> Result<(std::os::unix::net::UnixListener, UnixSocket), ListenError> {
    let unix = |source| ListenError::Unix { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ListenError::InTheWay(path.to_owned()));
        }
        Ok(_) if StdUnixStream::connect(path).is_ok() => return Err(ListenError::Running(path.to_owned())),
        Ok(_) => std::fs::remove_file(path).map_err(unix)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(unix(error)),
    }
    // The socket is made with mode 0600 from the first moment. No other thread makes files while the daemon starts.
    let former = umask(Mode::from_bits_truncate(0o177));
    let bound = std::os::unix::net::UnixListener::bind(path);
    umask(former);
    let listener = bound.map_err(unix)?;
    let socket = UnixSocket { path: path.to_owned(), identity: identity(path).map_err(unix)? };
    listener.set_nonblocking(true).map_err(unix)?;
    Ok((listener, socket))
}

/// Serves a listening TCP socket until the task is aborted.
///
/// # Errors
///
/// When the runtime cannot take the socket.
pub fn serve_tcp(api: Arc<Api>, listener: std::net::TcpListener) -> io::Result<JoinHandle<()>> {
    let listener = TcpListener::from_std(listener)?;
    let routes = router(Arc::clone(&api), Origin::Tcp);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    Ok(tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    if !admit(stream, &routes, &places) {
                        api.counters.refused_tcp.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Err(error) => rest_after(&error).await,
            }
        }
    }))
}

/// Serves a listening Unix socket until the task is aborted.
///
/// # Errors
///
/// When the runtime cannot take the socket.
pub fn serve_unix(api: Arc<Api>, listener: std::os::unix::net::UnixListener) -> io::Result<JoinHandle<()>> {
    let listener = UnixListener::from_std(listener)?;
    let routes = router(Arc::clone(&api), Origin::Unix);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    Ok(tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    if !admit(stream, &routes, &places) {
                        api.counters.refused_unix.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Err(error) => rest_after(&error).await,
            }
        }
    }))
}

/// An accept that failed for want of descriptors or memory must not make a busy loop.
async fn rest_after(error: &io::Error) {
    tracing::warn!("cannot accept a connection of the API: {error}");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// Serves a connection on a task of its own, if there is a place for it.
fn admit<S>(stream: S, routes: &Router, places: &Arc<Semaphore>) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(place) = Arc::clone(places).try_acquire_owned() else { return false };
    let service = TowerToHyperService::new(routes.clone());
    tokio::spawn(async move {
        let io = TokioIo::new(Impatient { stream, stalled: None });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME_MAX)
            .max_buf_size(BUFFER_MAX)
            .serve_connection(io, service)
            .await;
        if let Err(error) = served {
            tracing::debug!("a connection of the API ended: {error}");
        }
        drop(place);
    });
    true
}

/// A stream on which a write that makes no progress for [`WRITE_TIME_MAX`] fails.
struct Impatient<S> {
    stream: S,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    fn judge<T>(&mut self, cx: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.stalled = None;
            return progress;
        }
        let sleep = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + WRITE_TIME_MAX)));
        sleep.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.judge(cx, progress)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.stream).poll_flush(cx);
        self.judge(cx, progress)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
